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
"""The encoders of an ECG-language model: one of ours, or a vision encoder of transformers."""

import torch
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from .configuration_ecg_resnet import EcgResNetConfig
from .configuration_maefe import MlaeConfig, MtaeConfig
from .configuration_merl import MerlConfig
from .configuration_st_mem import StMemConfig
from .modeling_ecg_resnet import EcgResNetModel
from .modeling_maefe import MlaeModel, MtaeModel
from .modeling_merl import MerlModel
from .modeling_st_mem import StMemModel


# By name, not through `AutoModel`: in a checkpoint's remote code the configuration's class may be another copy of it.
ECG_ENCODERS = {
    EcgResNetConfig.model_type: EcgResNetModel,
    MerlConfig.model_type: MerlModel,
    MlaeConfig.model_type: MlaeModel,
    MtaeConfig.model_type: MtaeModel,
    StMemConfig.model_type: StMemModel,
}


def build_encoder(config: PreTrainedConfig) -> PreTrainedModel:
    """One of our encoders, or any model of transformers."""
    # CODEPATH: `ecg_resnet`, `merl`, `st_mem`, ... checkpoints hold one of our encoders, all others one of transformers'.
    if config.model_type in ECG_ENCODERS:
        return ECG_ENCODERS[config.model_type]._from_config(config)
    return AutoModel.from_config(config)


def vision_inputs(encoder: PreTrainedModel, pixel_values: torch.FloatTensor) -> dict[str, torch.Tensor]:
    """What a vision encoder's `forward` takes for pictures `(num_ecgs, 3, height, width)`."""
    pixel_values = pixel_values.to(encoder.dtype)
    # CODEPATH: SigLIP 2 encoders of flexible resolution read patches and their grid, all others pictures.
    if encoder.config.model_type != "siglip2_vision_model":
        return {"pixel_values": pixel_values}
    size = encoder.config.patch_size
    grid = [pixel_values.shape[2] // size, pixel_values.shape[3] // size]
    patches = pixel_values.unfold(2, size, size).unfold(3, size, size)  # (ecgs, 3, rows, columns, size, size)
    patches = patches.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)
    return {
        "pixel_values": patches,
        "pixel_attention_mask": patches.new_ones(patches.shape[:2], dtype=torch.long),
        "spatial_shapes": torch.tensor([grid] * len(patches), device=patches.device),
    }


__all__ = ["ECG_ENCODERS", "build_encoder", "vision_inputs"]
