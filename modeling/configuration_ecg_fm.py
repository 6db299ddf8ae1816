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
"""Configuration of ECG-FM."""

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, HubertConfig

from .auto_classes import register


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
@strict
class EcgFmConfig(HubertConfig):
    r"""
    Configuration of [`EcgFmModel`] and [`EcgFmForSequenceClassification`] (McKeen et al. 2025, ECG-FM: an open
    electrocardiogram foundation model). The defaults are the published model's.

    Args:
        num_leads (`int`, *optional*, defaults to 12):
            Number of leads, which the first convolution reads together.
        piece_samples (`int`, *optional*, defaults to 2500):
            Number of samples of a piece: 5 s at 500 Hz, as in training. The pieces of a longer ECG are encoded one by
            one. `None`: an ECG is encoded as a whole.
        pretraining_data (`list[str]`, *optional*):
            Names of the datasets on which the weights were trained.
        license (`str`, *optional*):
            Licence of the weights.
        kwargs:
            Fields of [`HubertConfig`]. Fields that change the network (`do_stable_layer_norm`, `feat_extract_norm`,
            ...) have a single value here.

    Raises:
        `ValueError`: If a field of [`HubertConfig`] asks for another network.
    """

    model_type = "ecg_fm"

    conv_dim: list[int] | tuple[int, ...] = (256, 256, 256, 256)
    conv_kernel: list[int] | tuple[int, ...] = (2, 2, 2, 2)
    conv_stride: list[int] | tuple[int, ...] = (2, 2, 2, 2)
    layerdrop: float | int = 0.0
    mask_time_prob: float | int = 0.0
    num_leads: int = 12
    piece_samples: int | None = 2500
    pretraining_data: list[str] | tuple[str, ...] = ()
    license: str | None = None

    def __post_init__(self, **kwargs):
        self.pretraining_data = list(self.pretraining_data)
        super().__post_init__(**kwargs)
        # A checkpoint can be loaded with both Auto classes, whichever of the two models saved it.
        self.auto_map = {
            "AutoConfig": "configuration_ecg_fm.EcgFmConfig",
            "AutoModel": "modeling_ecg_fm.EcgFmModel",
            "AutoModelForSequenceClassification": "modeling_ecg_fm.EcgFmForSequenceClassification",
        }

    def validate_network(self):
        """The first layers have one form, and the layers of the transformer end with their norms."""
        expected = {
            "feat_extract_norm": "group",
            "conv_bias": False,
            "do_stable_layer_norm": False,
            "conv_pos_batch_norm": False,
            "mask_time_prob": 0,
            "mask_feature_prob": 0,
        }
        for name, value in expected.items():
            if getattr(self, name) != value:
                raise ValueError(f"{name}={getattr(self, name)!r}; ECG-FM has {name}={value!r}.")


EcgFmConfig.register_for_auto_class()
register(AutoConfig, EcgFmConfig.model_type, EcgFmConfig)

__all__ = ["EcgFmConfig"]
