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
"""Configurations of the two masked autoencoders of MaeFE: over time (MTAE) and over leads (MLAE)."""

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig

from .auto_classes import register
from .configuration_ecg_vit import EcgVitConfig, EcgVitTimePatchConfig


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
@strict
class MtaeConfig(EcgVitTimePatchConfig):
    r"""
    Configuration of [`MtaeModel`] and [`MtaeForPreTraining`], the masked time autoencoder (Zhang et al. 2022, MaeFE:
    Masked Autoencoders Family of Electrocardiogram). The defaults are the base model's of Na et al. 2024.

    A patch is a stretch of time of all leads, none of which may be absent.

    Args:
        kwargs:
            Fields of [`EcgVitTimePatchConfig`] and [`EcgVitConfig`].
    """

    model_type = "mtae"

    @property
    def patch_dim(self) -> int:
        """Number of values of a patch."""
        return self.num_leads * self.patch_size


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
@strict
class MlaeConfig(EcgVitConfig):
    r"""
    Configuration of [`MlaeModel`] and [`MlaeForPreTraining`], the masked lead autoencoder (Zhang et al. 2022, MaeFE:
    Masked Autoencoders Family of Electrocardiogram). The defaults are the base model's of Na et al. 2024.

    A patch is a whole lead, none of which may be absent.

    Args:
        kwargs:
            Fields of [`EcgVitConfig`]. The first layer takes ECGs of `num_samples` and of no other length.
    """

    model_type = "mlae"

    @property
    def num_patches(self) -> int:
        """Number of patches of an ECG: one per lead."""
        return self.num_leads

    @property
    def patch_dim(self) -> int:
        """Number of values of a lead."""
        return self.num_samples


for config_class in (MtaeConfig, MlaeConfig):
    config_class.register_for_auto_class()
    register(AutoConfig, config_class.model_type, config_class)

__all__ = ["MlaeConfig", "MtaeConfig"]
