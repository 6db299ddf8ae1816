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
"""Configuration of ECG-CoCa."""

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from .auto_classes import register


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
@strict
class EcgCocaConfig(PreTrainedConfig):
    r"""
    Configuration of [`EcgCocaModel`] and [`EcgCocaForSequenceClassification`], the ECG encoder of ECG-Chat (Zhao et
    al. 2024, ECG-Chat: A Large ECG-Language Model for Cardiac Disease Diagnosis) and GEM (Lan et al. 2025). The
    defaults are the published model's.

    Args:
        num_leads (`int`, *optional*, defaults to 12):
            Number of leads. A patch contains all of them.
        num_samples (`int`, *optional*, defaults to 5000):
            Number of samples of an ECG: 10 s at 500 Hz.
        patch_size (`int`, *optional*, defaults to 50):
            Number of samples of a patch. It must divide `num_samples`.
        hidden_size (`int`, *optional*, defaults to 768):
            Width of the tokens.
        num_hidden_layers (`int`, *optional*, defaults to 12):
            Number of layers.
        num_attention_heads (`int`, *optional*, defaults to 12):
            Number of heads of each layer, of 64 dimensions each; at least 2.
        intermediate_size (`int`, *optional*, defaults to 3072):
            Width of the hidden layer of the MLPs.
        projection_dim (`int`, *optional*, defaults to 512):
            Width of the embeddings that pre-training compares with those of texts.
        pretraining_data (`list[str]`, *optional*):
            Names of the datasets on which the weights were trained.
        license (`str`, *optional*):
            Licence of the weights.

    Raises:
        `ValueError`: If the patches do not fill an ECG, or the heads do not fill the width.
    """

    model_type = "ecg_coca"

    num_leads: int = 12
    num_samples: int = 5000
    patch_size: int = 50
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    projection_dim: int = 512
    pretraining_data: list[str] | tuple[str, ...] = ()
    license: str | None = None

    def __post_init__(self, **kwargs):
        self.pretraining_data = list(self.pretraining_data)
        super().__post_init__(**kwargs)
        # A checkpoint can be loaded with both Auto classes, whichever of the two models saved it.
        self.auto_map = {
            "AutoConfig": "configuration_ecg_coca.EcgCocaConfig",
            "AutoModel": "modeling_ecg_coca.EcgCocaModel",
            "AutoModelForSequenceClassification": "modeling_ecg_coca.EcgCocaForSequenceClassification",
        }

    def validate_sizes(self):
        """An ECG is cut into whole patches, and heads have 64 dimensions."""
        if self.num_samples % self.patch_size:
            raise ValueError(f"patch_size={self.patch_size} does not divide num_samples={self.num_samples}.")
        if self.num_attention_heads < 2 or self.hidden_size != 64 * self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} must be 64 times num_attention_heads={self.num_attention_heads}, and there "
                "are at least two heads."
            )

    @property
    def num_patches(self) -> int:
        """Number of patches of an ECG."""
        return self.num_samples // self.patch_size


EcgCocaConfig.register_for_auto_class()
register(AutoConfig, EcgCocaConfig.model_type, EcgCocaConfig)

__all__ = ["EcgCocaConfig"]
