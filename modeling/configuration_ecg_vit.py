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
"""What the configurations of the masked autoencoders share: ST-MEM, MTAE and MLAE."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
@strict
class EcgVitConfig(PreTrainedConfig):
    r"""
    Base class of the configurations of masked autoencoders. The defaults are the base models' of Na et al. 2024
    (Guiding Masked Representation Learning to Capture Spatio-Temporal Relationship of Electrocardiogram).

    A subclass defines `num_patches` (patches with different positions) and `patch_dim` (values of a patch). It is in a
    file `configuration_x.py`, and its models in `modeling_x.py`.

    Args:
        num_samples (`int`, *optional*, defaults to 2250):
            Number of samples of an ECG: 9 s at 250 Hz.
        num_leads (`int`, *optional*, defaults to 12):
            Number of leads of an ECG.
        hidden_size (`int`, *optional*, defaults to 768):
            Width of the encoder's tokens. It must be even.
        num_hidden_layers (`int`, *optional*, defaults to 12):
            Number of layers of the encoder.
        num_attention_heads (`int`, *optional*, defaults to 12):
            Number of heads of each layer, of 64 dimensions each, whatever `hidden_size` is.
        intermediate_size (`int`, *optional*, defaults to 3072):
            Width of the hidden layer of the MLPs.
        decoder_hidden_size (`int`, *optional*, defaults to 256):
            Width of the decoder's tokens. It must be even.
        decoder_num_hidden_layers (`int`, *optional*, defaults to 4):
            Number of layers of the decoder.
        decoder_num_attention_heads (`int`, *optional*, defaults to 4):
            Number of heads of each layer of the decoder, of 64 dimensions each.
        decoder_intermediate_size (`int`, *optional*, defaults to 1024):
            Width of the hidden layer of the decoder's MLPs.
        mask_ratio (`float`, *optional*, defaults to 0.75):
            Share of the patches that are masked in pre-training.
        norm_pix_loss (`bool`, *optional*, defaults to `True`):
            Whether the patches are standardized before pre-training reconstructs them.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of new embeddings and special tokens.

    Raises:
        `ValueError`: If a width of tokens is odd.
    """

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
        # A checkpoint can be loaded with both Auto classes, whichever of the two models saved it.
        module, name = type(self).__module__.split(".")[-1], type(self).__name__
        models = f"{module.replace('configuration_', 'modeling_')}.{name.removesuffix('Config')}"
        self.auto_map = {
            "AutoConfig": f"{module}.{name}",
            "AutoModel": f"{models}Model",
            "AutoModelForPreTraining": f"{models}ForPreTraining",
        }

    def validate_widths(self):
        """The position table has as many sines as cosines."""
        if self.hidden_size % 2 or self.decoder_hidden_size % 2:
            raise ValueError(
                f"hidden_size={self.hidden_size} and decoder_hidden_size={self.decoder_hidden_size} must be even."
            )


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
@strict
class EcgVitTimePatchConfig(EcgVitConfig):
    r"""
    Base class of the configurations of masked autoencoders whose patches are stretches of time.

    Args:
        patch_size (`int`, *optional*, defaults to 75):
            Number of samples of a patch. It must divide `num_samples`.
        kwargs:
            Fields of [`EcgVitConfig`]. `num_samples` is the longest ECG; shorter ones must be multiples of
            `patch_size`.

    Raises:
        `ValueError`: If `patch_size` does not divide `num_samples`.
    """

    patch_size: int = 75

    def validate_patches(self):
        """An ECG is cut into whole patches."""
        if self.num_samples % self.patch_size:
            raise ValueError(f"patch_size={self.patch_size} does not divide num_samples={self.num_samples}.")

    @property
    def num_patches(self) -> int:
        """Number of patches of an ECG, or of each of its leads if a patch holds one lead."""
        return self.num_samples // self.patch_size


__all__ = ["EcgVitConfig", "EcgVitTimePatchConfig"]
