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
"""The encoder of an ECG-language model: how it is built, and the inputs of vision encoders."""

import torch
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from .ecg_encoders import encoder_class_of


def build_encoder(config: PreTrainedConfig) -> PreTrainedModel:
    r"""
    A new encoder.

    Args:
        config (`PreTrainedConfig`):
            Configuration of an ECG encoder, or of any model of `AutoModel`.
    """
    encoder_class = encoder_class_of(config)
    # CODEPATH: `ecg_resnet`, `merl`, `st_mem`, ... checkpoints hold an ECG encoder, all others one of transformers.
    return AutoModel.from_config(config) if encoder_class is None else encoder_class._from_config(config)


def vision_inputs(
    encoder: PreTrainedModel, pixel_values: torch.FloatTensor, *, interpolate: bool = False
) -> dict[str, torch.Tensor | bool]:
    r"""
    The arguments of a vision encoder's `forward`.

    Args:
        encoder (`PreTrainedModel`):
            The vision encoder.
        pixel_values (`torch.FloatTensor` of shape `(num_ecgs, 3, height, width)`):
            Pictures of ECGs.
        interpolate (`bool`, *optional*, defaults to `False`):
            Whether to interpolate the position embeddings to the size of the pictures.
    """
    pixel_values = pixel_values.to(encoder.dtype)
    # CODEPATH: SigLIP 2 encoders of flexible resolution read patches and their grid, all others pictures.
    if encoder.config.model_type != "siglip2_vision_model":
        return {"pixel_values": pixel_values} | ({"interpolate_pos_encoding": True} if interpolate else {})
    size = encoder.config.patch_size
    grid = [pixel_values.shape[2] // size, pixel_values.shape[3] // size]
    patches = pixel_values.unfold(2, size, size).unfold(3, size, size)  # (ecgs, 3, rows, columns, size, size)
    patches = patches.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)
    return {
        "pixel_values": patches,
        "pixel_attention_mask": patches.new_ones(patches.shape[:2], dtype=torch.long),
        "spatial_shapes": torch.tensor([grid] * len(patches), device=patches.device),
    }


__all__ = ["build_encoder", "vision_inputs"]
