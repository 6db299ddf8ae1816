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
"""Configuration of HuBERT-ECG."""

from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, HubertConfig

from .auto_classes import register


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
@strict
class HubertEcgConfig(HubertConfig):
    r"""
    Configuration of [`HubertEcgModel`] and [`HubertEcgForSequenceClassification`] (Coppola et al. 2024, HuBERT-ECG: a
    self-supervised foundation model for broad and scalable cardiac applications). The defaults are the published base
    model's.

    Args:
        piece_samples (`int`, *optional*, defaults to 500):
            Number of samples per lead of a piece: 5 s at 100 Hz, as in training. The pieces of a longer ECG are
            encoded one by one. `None`: an ECG is encoded as a whole.
        classifier_type (`str`, *optional*, defaults to `"linear"`):
            Classifier on the mean token. `"linear"`: a linear layer. `"mlp"`: two, with tanh between them.
            `"label_embedding"`: the cosine between the token and a vector of each label.
        classifier_hidden_size (`int`, *optional*):
            Width between the two layers of `"mlp"`; `hidden_size` by default.
        pretraining_data (`list[str]`, *optional*):
            Names of the datasets on which the weights were trained.
        license (`str`, *optional*):
            Licence of the weights.
        kwargs:
            Fields of [`HubertConfig`]. Tokens are not masked in training: `mask_time_prob` and `mask_feature_prob` are
            0.

    Raises:
        `ValueError`: If tokens would be masked.
    """

    model_type = "hubert_ecg"

    conv_dim: list[int] | tuple[int, ...] = (512, 512, 512, 512, 512)
    conv_kernel: list[int] | tuple[int, ...] = (10, 3, 3, 2, 2)
    conv_stride: list[int] | tuple[int, ...] = (4, 2, 2, 2, 2)
    layerdrop: float | int = 0.0
    mask_time_prob: float | int = 0.0
    piece_samples: int | None = 500
    classifier_type: Literal["linear", "mlp", "label_embedding"] = "linear"
    classifier_hidden_size: int | None = None
    pretraining_data: list[str] | tuple[str, ...] = ()
    license: str | None = None

    def __post_init__(self, **kwargs):
        self.pretraining_data = list(self.pretraining_data)
        if self.classifier_hidden_size is None:
            self.classifier_hidden_size = self.hidden_size
        super().__post_init__(**kwargs)
        # A checkpoint can be loaded with both Auto classes, whichever of the two models saved it.
        self.auto_map = {
            "AutoConfig": "configuration_hubert_ecg.HubertEcgConfig",
            "AutoModel": "modeling_hubert_ecg.HubertEcgModel",
            "AutoModelForSequenceClassification": "modeling_hubert_ecg.HubertEcgForSequenceClassification",
        }

    def validate_masking(self):
        """Masking of tokens belongs to pre-training."""
        if self.mask_time_prob or self.mask_feature_prob:
            raise ValueError(
                f"mask_time_prob={self.mask_time_prob} and mask_feature_prob={self.mask_feature_prob} must be 0."
            )


HubertEcgConfig.register_for_auto_class()
register(AutoConfig, HubertEcgConfig.model_type, HubertEcgConfig)

__all__ = ["HubertEcgConfig"]
