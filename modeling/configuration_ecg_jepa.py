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
"""Configuration of ECG-JEPA."""

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from .auto_classes import register


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
@strict
class EcgJepaConfig(PreTrainedConfig):
    r"""
    Configuration of [`EcgJepaModel`] and [`EcgJepaForSequenceClassification`] (Kim 2024, Learning General
    Representation of 12-Lead Electrocardiogram with a Joint-Embedding Predictive Architecture). The defaults are the
    published model's.

    Args:
        num_leads (`int`, *optional*, defaults to 8):
            Number of leads: I, II, V1 to V6. The other leads follow from I and II.
        num_samples (`int`, *optional*, defaults to 2500):
            Number of samples of the longest ECG: 10 s at 250 Hz.
        patch_size (`int`, *optional*, defaults to 50):
            Number of samples of a patch, a stretch of time of one lead. It must divide `num_samples`.
        hidden_size (`int`, *optional*, defaults to 768):
            Width of the tokens. It must be a multiple of 4 and of `num_attention_heads`.
        num_hidden_layers (`int`, *optional*, defaults to 12):
            Number of layers.
        num_attention_heads (`int`, *optional*, defaults to 16):
            Number of heads of each layer.
        intermediate_size (`int`, *optional*, defaults to 3072):
            Width of the hidden layer of the MLPs.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of new weights. Output layers of later layers get smaller ones.
        pretraining_data (`list[str]`, *optional*):
            Names of the datasets on which the weights were trained.
        license (`str`, *optional*):
            Licence of the weights.

    Raises:
        `ValueError`: If the patches do not fill an ECG, or the width cannot be divided.
    """

    model_type = "ecg_jepa"

    num_leads: int = 8
    num_samples: int = 2500
    patch_size: int = 50
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 16
    intermediate_size: int = 3072
    initializer_range: float = 0.02
    pretraining_data: list[str] | tuple[str, ...] = ()
    license: str | None = None

    def __post_init__(self, **kwargs):
        self.pretraining_data = list(self.pretraining_data)
        super().__post_init__(**kwargs)
        # A checkpoint can be loaded with both Auto classes, whichever of the two models saved it.
        self.auto_map = {
            "AutoConfig": "configuration_ecg_jepa.EcgJepaConfig",
            "AutoModel": "modeling_ecg_jepa.EcgJepaModel",
            "AutoModelForSequenceClassification": "modeling_ecg_jepa.EcgJepaForSequenceClassification",
        }

    def validate_sizes(self):
        """An ECG is cut into whole patches; heads, sines and cosines have equal shares of the width."""
        if self.num_samples % self.patch_size:
            raise ValueError(f"patch_size={self.patch_size} does not divide num_samples={self.num_samples}.")
        if self.hidden_size % 4 or self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} must be a multiple of 4 and of num_attention_heads="
                f"{self.num_attention_heads}."
            )

    @property
    def num_patches(self) -> int:
        """Number of patches of each lead of the longest ECG."""
        return self.num_samples // self.patch_size


EcgJepaConfig.register_for_auto_class()
register(AutoConfig, EcgJepaConfig.model_type, EcgJepaConfig)

__all__ = ["EcgJepaConfig"]
