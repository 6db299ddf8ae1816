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
from transformers import AutoConfig, PreTrainedConfig


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
@strict
class MtaeConfig(PreTrainedConfig):
    r"""
    Configuration of [`MtaeModel`] and [`MtaeForPreTraining`], the masked time autoencoder (Zhang et al. 2022, MaeFE:
    Masked Autoencoders Family of Electrocardiogram). The defaults are the base model's of Na et al. 2024.

    Args:
        num_samples (`int`, *optional*, defaults to 2250):
            Longest ECG in samples (9 s at 250 Hz); shorter ones that `patch_size` divides are fine.
        num_leads (`int`, *optional*, defaults to 12):
            Leads of an ECG, all of them present.
        patch_size (`int`, *optional*, defaults to 75):
            Samples of a patch; it holds all leads.
        hidden_size (`int`, *optional*, defaults to 768):
            Width of the encoder's tokens; even.
        num_hidden_layers (`int`, *optional*, defaults to 12):
            Layers of the encoder.
        num_attention_heads (`int`, *optional*, defaults to 12):
            Heads of each layer, of 64 dimensions whatever `hidden_size` is.
        intermediate_size (`int`, *optional*, defaults to 3072):
            Width inside the MLPs.
        decoder_hidden_size (`int`, *optional*, defaults to 256):
            Width of the decoder's tokens; even.
        decoder_num_hidden_layers (`int`, *optional*, defaults to 4):
            Layers of the decoder.
        decoder_num_attention_heads (`int`, *optional*, defaults to 4):
            Heads of each layer of the decoder, of 64 dimensions.
        decoder_intermediate_size (`int`, *optional*, defaults to 1024):
            Width inside the decoder's MLPs.
        mask_ratio (`float`, *optional*, defaults to 0.75):
            Share of the patches that pre-training masks.
        norm_pix_loss (`bool`, *optional*, defaults to `True`):
            Whether pre-training reconstructs standardised patches.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of new class and mask vectors.
    """

    model_type = "mtae"

    num_samples: int = 2250
    num_leads: int = 12
    patch_size: int = 75
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    decoder_hidden_size: int = 256
    decoder_num_hidden_layers: int = 4
    decoder_num_attention_heads: int = 4
    decoder_intermediate_size: int = 1024
    mask_ratio: float = 0.75
    norm_pix_loss: bool = True
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        # A checkpoint answers to both Auto classes, whichever of the two models saved it.
        self.auto_map = {
            "AutoConfig": "configuration_maefe.MtaeConfig",
            "AutoModel": "modeling_maefe.MtaeModel",
            "AutoModelForPreTraining": "modeling_maefe.MtaeForPreTraining",
        }

    def validate_sizes(self):
        """An ECG is cut into whole patches, and the position table has as many sines as cosines."""
        if self.num_samples % self.patch_size:
            raise ValueError(f"patch_size={self.patch_size} does not divide num_samples={self.num_samples}.")
        if self.hidden_size % 2 or self.decoder_hidden_size % 2:
            raise ValueError(
                f"hidden_size={self.hidden_size} and decoder_hidden_size={self.decoder_hidden_size} must be even."
            )

    @property
    def num_patches(self) -> int:
        """Patches of an ECG."""
        return self.num_samples // self.patch_size

    @property
    def patch_dim(self) -> int:
        """Values of a patch."""
        return self.num_leads * self.patch_size


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
@strict
class MlaeConfig(PreTrainedConfig):
    r"""
    Configuration of [`MlaeModel`] and [`MlaeForPreTraining`], the masked lead autoencoder (Zhang et al. 2022, MaeFE:
    Masked Autoencoders Family of Electrocardiogram). The defaults are the base model's of Na et al. 2024.

    Args:
        num_samples (`int`, *optional*, defaults to 2250):
            Samples of an ECG (9 s at 250 Hz); the first layer takes no other length.
        num_leads (`int`, *optional*, defaults to 12):
            Leads of an ECG, all of them present; each is one token.
        hidden_size (`int`, *optional*, defaults to 768):
            Width of the encoder's tokens; even.
        num_hidden_layers (`int`, *optional*, defaults to 12):
            Layers of the encoder.
        num_attention_heads (`int`, *optional*, defaults to 12):
            Heads of each layer, of 64 dimensions whatever `hidden_size` is.
        intermediate_size (`int`, *optional*, defaults to 3072):
            Width inside the MLPs.
        decoder_hidden_size (`int`, *optional*, defaults to 256):
            Width of the decoder's tokens; even.
        decoder_num_hidden_layers (`int`, *optional*, defaults to 4):
            Layers of the decoder.
        decoder_num_attention_heads (`int`, *optional*, defaults to 4):
            Heads of each layer of the decoder, of 64 dimensions.
        decoder_intermediate_size (`int`, *optional*, defaults to 1024):
            Width inside the decoder's MLPs.
        mask_ratio (`float`, *optional*, defaults to 0.75):
            Share of the leads that pre-training masks.
        norm_pix_loss (`bool`, *optional*, defaults to `True`):
            Whether pre-training reconstructs standardised leads.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of new class and mask vectors.
    """

    model_type = "mlae"

    num_samples: int = 2250
    num_leads: int = 12
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    decoder_hidden_size: int = 256
    decoder_num_hidden_layers: int = 4
    decoder_num_attention_heads: int = 4
    decoder_intermediate_size: int = 1024
    mask_ratio: float = 0.75
    norm_pix_loss: bool = True
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        # A checkpoint answers to both Auto classes, whichever of the two models saved it.
        self.auto_map = {
            "AutoConfig": "configuration_maefe.MlaeConfig",
            "AutoModel": "modeling_maefe.MlaeModel",
            "AutoModelForPreTraining": "modeling_maefe.MlaeForPreTraining",
        }

    def validate_sizes(self):
        """The position table has as many sines as cosines."""
        if self.hidden_size % 2 or self.decoder_hidden_size % 2:
            raise ValueError(
                f"hidden_size={self.hidden_size} and decoder_hidden_size={self.decoder_hidden_size} must be even."
            )

    @property
    def num_patches(self) -> int:
        """Tokens of an ECG without the class token: one per lead."""
        return self.num_leads

    @property
    def patch_dim(self) -> int:
        """Values of a lead."""
        return self.num_samples


MtaeConfig.register_for_auto_class()
MlaeConfig.register_for_auto_class()
AutoConfig.register(MtaeConfig.model_type, MtaeConfig, exist_ok=True)
AutoConfig.register(MlaeConfig.model_type, MlaeConfig, exist_ok=True)

__all__ = ["MlaeConfig", "MtaeConfig"]
