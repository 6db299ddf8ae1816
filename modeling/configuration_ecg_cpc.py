# Copyright 2026 The elm-hf authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Configuration of ECG-CPC."""

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from .auto_classes import register


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
@strict
class EcgCpcConfig(PreTrainedConfig):
    r"""
    Configuration of [`EcgCpcModel`] and [`EcgCpcForSequenceClassification`] (Al-Masud et al. 2026, Benchmarking ECG
    FMs: A Reality Check Across Clinical Tasks). The defaults are the published model's.

    Args:
        num_leads (`int`, *optional*, defaults to 12):
            Number of leads, which the first convolution reads together.
        num_samples (`int`, *optional*, defaults to 2400):
            Number of samples of an ECG in training: 10 s at 240 Hz. The network takes other lengths, too.
        hidden_size (`int`, *optional*, defaults to 512):
            Width of the tokens.
        num_conv_layers (`int`, *optional*, defaults to 4):
            Number of convolutions. The first one has a kernel of 3 samples and a stride of 2, the others a kernel of 1.
        num_hidden_layers (`int`, *optional*, defaults to 4):
            Number of S4 layers.
        state_size (`int`, *optional*, defaults to 8):
            Number of states of each channel of an S4 layer: half of it complex numbers, half of it their conjugates.
        kernel_length (`int`, *optional*, defaults to 1200):
            Length for which the output vectors of the S4 layers are stored, in tokens. It is a property of the weights
            and does not limit the length of an ECG.
        pretraining_data (`list[str]`, *optional*):
            Names of the datasets on which the weights were trained.
        license (`str`, *optional*):
            Licence of the weights.

    Raises:
        `ValueError`: If `state_size` is odd.
    """

    model_type = "ecg_cpc"

    num_leads: int = 12
    num_samples: int = 2400
    hidden_size: int = 512
    num_conv_layers: int = 4
    num_hidden_layers: int = 4
    state_size: int = 8
    kernel_length: int = 1200
    pretraining_data: list[str] | tuple[str, ...] = ()
    license: str | None = None

    def __post_init__(self, **kwargs):
        self.pretraining_data = list(self.pretraining_data)
        super().__post_init__(**kwargs)
        # A checkpoint can be loaded with both Auto classes, whichever of the two models saved it.
        self.auto_map = {
            "AutoConfig": "configuration_ecg_cpc.EcgCpcConfig",
            "AutoModel": "modeling_ecg_cpc.EcgCpcModel",
            "AutoModelForSequenceClassification": "modeling_ecg_cpc.EcgCpcForSequenceClassification",
        }

    def validate_states(self):
        """States are pairs of conjugates."""
        if self.state_size < 2 or self.state_size % 2:
            raise ValueError(f"state_size={self.state_size} must be even: states are pairs of conjugate numbers.")


EcgCpcConfig.register_for_auto_class()
register(AutoConfig, EcgCpcConfig.model_type, EcgCpcConfig)

__all__ = ["EcgCpcConfig"]
