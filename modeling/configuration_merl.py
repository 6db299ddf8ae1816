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
"""Configuration of MERL, an ECG encoder that is trained with reports."""

from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .auto_classes import register


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
@strict
class MerlConfig(PreTrainedConfig):
    r"""
    Configuration of [`MerlModel`] and [`MerlForPreTraining`] (Liu et al. 2024, Zero-Shot ECG Classification with
    Multimodal Learning and Test-time Clinical Knowledge Enhancement). The defaults are the published ResNet-18;
    `encoder_type="vit"` alone gives the published ViT-tiny.

    Args:
        encoder_type (`str`, *optional*, defaults to `"resnet"`):
            `"resnet"`: one-dimensional convolutions over time; `"vit"`: a transformer over patches of all leads.
        num_leads (`int`, *optional*, defaults to 12):
            Number of leads of an ECG, all of which must be present.
        num_samples (`int`, *optional*, defaults to 5000):
            Number of samples of an ECG in pre-training: 10 s at 500 Hz. The learned positions of the attention pool
            (ResNet) or of the patches (ViT) are for this length.
        embedding_size (`int`, *optional*, defaults to 64):
            ResNet: number of channels of the stem.
        hidden_sizes (`list[int]`, *optional*, defaults to `[64, 128, 256, 512]`):
            ResNet: number of output channels of each stage; `[256, 512, 1024, 2048]` in ResNet-50, 101 and 152.
        depths (`list[int]`, *optional*, defaults to `[2, 2, 2, 2]`):
            ResNet: number of blocks of each stage; `[3, 4, 6, 3]` in ResNet-34 and 50, `[3, 4, 23, 3]` in ResNet-101,
            `[3, 8, 36, 3]` in ResNet-152.
        layer_type (`str`, *optional*, defaults to `"basic"`):
            ResNet: `"basic"`, blocks of two convolutions (ResNet-18 and 34), or `"bottleneck"`, blocks of three
            convolutions with a narrow one in the middle (ResNet-50, 101 and 152).
        hidden_size (`int`, *optional*):
            Width of `last_hidden_state`. ViT: 192 by default (tiny), 384 in small, 512 in middle, 768 in base. ResNet:
            the width of the last stage.
        num_hidden_layers (`int`, *optional*, defaults to 12):
            ViT: number of layers.
        num_attention_heads (`int`, *optional*, defaults to 3):
            ViT: number of heads, of 64 dimensions each; 6 in small, 8 in middle, 12 in base.
        intermediate_size (`int`, *optional*):
            ViT: width of the hidden layer of the MLPs; four times `hidden_size` by default.
        patch_size (`int`, *optional*, defaults to 50):
            ViT: number of samples of a patch.
        text_config (`PreTrainedConfig` or `dict`, *optional*):
            Configuration of the text tower: any model of `AutoModel` with a pooler. BERT base by default, as MedCPT's
            query encoder (Jin et al. 2023) is one.
        projection_dim (`int`, *optional*, defaults to 256):
            Width of the shared space of ECGs and reports.
        projection_hidden_dim (`int`, *optional*):
            Width of the hidden layer of the projections of reports and, in the ViT, of ECGs; `projection_dim` by
            default.
        num_pooling_heads (`int`, *optional*, defaults to 4):
            ResNet: number of heads of the attention pool.
        projection_dropout (`float`, *optional*, defaults to 0.1):
            Dropout that creates the two views of an ECG in the uni-modal loss.
        temperature (`float`, *optional*, defaults to 0.07):
            Divisor of the cosines in the losses. It is not learned.

    Raises:
        `ValueError`: If `hidden_sizes` and `depths` differ in length, `patch_size` does not divide `num_samples`
            (ViT), or `num_pooling_heads` does not divide `projection_dim`.
    """

    model_type = "merl"
    sub_configs_defaults = {"text_config": SubConfigSpec(config_class=AutoConfig, model_type="bert")}

    encoder_type: Literal["resnet", "vit"] = "resnet"
    num_leads: int = 12
    num_samples: int = 5000
    embedding_size: int = 64
    hidden_sizes: list[int] | tuple[int, ...] = (64, 128, 256, 512)
    depths: list[int] | tuple[int, ...] = (2, 2, 2, 2)
    layer_type: Literal["basic", "bottleneck"] = "basic"
    hidden_size: int | None = None
    num_hidden_layers: int = 12
    num_attention_heads: int = 3
    intermediate_size: int | None = None
    patch_size: int = 50
    text_config: dict | PreTrainedConfig | None = None
    projection_dim: int = 256
    projection_hidden_dim: int | None = None
    num_pooling_heads: int = 4
    projection_dropout: float = 0.1
    temperature: float = 0.07

    def __post_init__(self, **kwargs):
        self.hidden_sizes = list(self.hidden_sizes)
        self.depths = list(self.depths)
        # CODEPATH: ResNet checkpoints have the width of their last stage, ViT checkpoints choose it.
        if self.encoder_type == "resnet":
            self.hidden_size = self.hidden_sizes[-1]
        elif self.hidden_size is None:
            self.hidden_size = 192
        if self.intermediate_size is None:
            self.intermediate_size = 4 * self.hidden_size
        if self.projection_hidden_dim is None:
            self.projection_hidden_dim = self.projection_dim
        super().__post_init__(**kwargs)
        # A checkpoint can be loaded with both Auto classes, whichever of the two models saved it.
        self.auto_map = {
            "AutoConfig": "configuration_merl.MerlConfig",
            "AutoModel": "modeling_merl.MerlModel",
            "AutoModelForPreTraining": "modeling_merl.MerlForPreTraining",
        }

    def validate_encoder(self):
        """Widths and depths of stages must agree, and patches and heads must divide an ECG and its projection."""
        if len(self.hidden_sizes) != len(self.depths):
            raise ValueError(
                f"`hidden_sizes` has {len(self.hidden_sizes)} stages and `depths` has {len(self.depths)}: expected equal "
                "numbers."
            )
        if self.encoder_type == "vit" and self.num_samples % self.patch_size:
            raise ValueError(
                f"num_samples={self.num_samples} cannot be cut into patches of patch_size={self.patch_size} samples."
            )
        if self.projection_dim % self.num_pooling_heads:
            raise ValueError(
                f"projection_dim={self.projection_dim} is not a multiple of num_pooling_heads={self.num_pooling_heads}."
            )

    def num_tokens(self, num_samples: int) -> int:
        r"""
        Number of tokens of the encoder's output.

        Args:
            num_samples (`int`):
                Number of samples of the ECG.
        """
        # CODEPATH: ResNet checkpoints halve the length (rounded up) in the stem and in all stages but the first, ViT
        # checkpoints cut it into patches.
        return -(-num_samples // (2 ** len(self.depths) if self.encoder_type == "resnet" else self.patch_size))


MerlConfig.register_for_auto_class()
register(AutoConfig, MerlConfig.model_type, MerlConfig)

__all__ = ["MerlConfig"]
