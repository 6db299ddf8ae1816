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
"""Configuration of ST-MEM."""

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig

from .auto_classes import register
from .configuration_ecg_vit import EcgVitTimePatchConfig


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
@strict
class StMemConfig(EcgVitTimePatchConfig):
    r"""
    Configuration of [`StMemModel`] and [`StMemForPreTraining`] (Na et al. 2024, Guiding Masked Representation Learning
    to Capture Spatio-Temporal Relationship of Electrocardiogram). The defaults are the published base model's.

    A patch is a stretch of time of one lead. Each lead has an embedding of its own, and an ECG may lack any of them
    (`ecg_lead_mask`).

    Args:
        kwargs:
            Fields of [`EcgVitTimePatchConfig`] and [`EcgVitConfig`]. `mask_ratio` holds for each lead.
    """

    model_type = "st_mem"

    @property
    def patch_dim(self) -> int:
        """Number of values of a patch."""
        return self.patch_size


StMemConfig.register_for_auto_class()
register(AutoConfig, StMemConfig.model_type, StMemConfig)

__all__ = ["StMemConfig"]
