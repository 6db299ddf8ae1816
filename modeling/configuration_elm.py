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
"""Configuration of an ECG-language model."""

from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .configuration_ecg_resnet import EcgResNetConfig


PROJECTORS_WITH_ENCODER = ("linear", "mlp")
PROJECTORS_WITHOUT_ENCODER = ("linear", "patch", "conv")


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
@strict
class ElmConfig(PreTrainedConfig):
    r"""
    Configuration of [`ElmModel`] and [`ElmForCausalLM`]: an ECG encoder (or none), a projector and a causal LLM.

    Args:
        text_config (`PreTrainedConfig` or `dict`, *optional*):
            Configuration of the LLM: any model of `AutoModelForCausalLM`. Defaults to Qwen2's.
        encoder_config (`PreTrainedConfig` or `dict`, *optional*):
            Configuration of the ECG encoder, or `None` for an encoder-free model.
        representation (`str`, *optional*, defaults to `"signal"`):
            How an ECG enters the model; `"signal"` is `(leads, samples)`.
        projector_type (`str`, *optional*, defaults to `"patch"`):
            With an encoder: `"linear"` or `"mlp"` (LLaVA-like). Without: `"linear"` (the whole ECG becomes one
            token), `"patch"` (a linear layer per stretch of time) or `"conv"` (a small CNN per stretch of time).
        projector_hidden_act (`str`, *optional*, defaults to `"gelu"`):
            Activation inside the `"mlp"` projector.
        projector_conv_channels (`list[int]`, *optional*, defaults to `[64, 128]`):
            Channels of the `"conv"` projector's layers.
        projector_conv_kernel_sizes (`list[int]`, *optional*, defaults to `[3, 7]`):
            Kernel sizes of the `"conv"` projector's layers; odd.
        projector_conv_strides (`list[int]`, *optional*, defaults to `[1, 1]`):
            Strides of the `"conv"` projector's layers; longer ones compute less.
        projector_conv_batch_norm (`bool`, *optional*, defaults to `False`):
            Whether batch normalization follows each of the `"conv"` projector's convolutions.
        projector_conv_pooling (`str`, *optional*, defaults to `"mean"`):
            How the `"conv"` projector sums up a stretch of time: `"mean"` or `"max"`.
        num_ecg_tokens (`int`, *optional*, defaults to 50):
            Positions of the LLM's sequence that one ECG takes. Encoder outputs are pooled to that number.
        num_leads (`int`, *optional*, defaults to 12):
            Leads of an ECG.
        num_samples (`int`, *optional*, defaults to 2500):
            Samples of an ECG: 10 s at 250 Hz.
        ecg_token_id (`int`, *optional*):
            Id of the placeholder token in `input_ids`.
    """

    model_type = "elm"
    sub_configs_defaults = {
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="qwen2"),
        "encoder_config": SubConfigSpec(config_class=AutoConfig, model_type=EcgResNetConfig.model_type, optional=True),
    }
    keys_to_ignore_at_inference = ["past_key_values"]

    text_config: dict | PreTrainedConfig | None = None
    encoder_config: dict | PreTrainedConfig | None = None
    representation: Literal["signal"] = "signal"
    projector_type: str = "patch"
    projector_hidden_act: str = "gelu"
    projector_conv_channels: list[int] | tuple[int, ...] = (64, 128)
    projector_conv_kernel_sizes: list[int] | tuple[int, ...] = (3, 7)
    projector_conv_strides: list[int] | tuple[int, ...] = (1, 1)
    projector_conv_batch_norm: bool = False
    projector_conv_pooling: Literal["mean", "max"] = "mean"
    num_ecg_tokens: int = 50
    num_leads: int = 12
    num_samples: int = 2500
    ecg_token_id: int | None = None
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        self.projector_conv_channels = list(self.projector_conv_channels)
        self.projector_conv_kernel_sizes = list(self.projector_conv_kernel_sizes)
        self.projector_conv_strides = list(self.projector_conv_strides)
        self.tie_word_embeddings = bool(self.text_config.tie_word_embeddings)
        # A checkpoint answers to every Auto class, whichever of the two models saved it.
        self.auto_map = {
            "AutoConfig": "configuration_elm.ElmConfig",
            "AutoModel": "modeling_elm.ElmModel",
            "AutoModelForCausalLM": "modeling_elm.ElmForCausalLM",
        }

    def validate_projector(self):
        """The projector must suit the encoder (or its absence) and cut an ECG into whole patches."""
        allowed = PROJECTORS_WITHOUT_ENCODER if self.encoder_config is None else PROJECTORS_WITH_ENCODER
        if self.projector_type not in allowed:
            encoder = "no encoder" if self.encoder_config is None else f"a {self.encoder_config.model_type} encoder"
            raise ValueError(
                f'projector_type="{self.projector_type}" does not fit {encoder}; choose one of {", ".join(allowed)}.'
            )
        if self.num_ecg_tokens < 1:
            raise ValueError(f"num_ecg_tokens must be at least 1, got {self.num_ecg_tokens}.")
        if self.encoder_config is not None:
            return
        if self.projector_type == "linear" and self.num_ecg_tokens != 1:
            raise ValueError(
                "The encoder-free linear projector makes one token of an ECG: set num_ecg_tokens=1 "
                f'(got {self.num_ecg_tokens}) or projector_type="patch".'
            )
        layers = {
            len(self.projector_conv_channels),
            len(self.projector_conv_kernel_sizes),
            len(self.projector_conv_strides),
        }
        if len(layers) > 1:
            raise ValueError(
                "projector_conv_channels, projector_conv_kernel_sizes and projector_conv_strides must name as many "
                f"layers as each other, got {self.projector_conv_channels}, {self.projector_conv_kernel_sizes} and "
                f"{self.projector_conv_strides}."
            )
        if self.num_samples % self.num_ecg_tokens:
            raise ValueError(
                f"num_samples={self.num_samples} cannot be cut into num_ecg_tokens={self.num_ecg_tokens} equal patches."
            )

    @property
    def embedding_size(self) -> int:
        """Width of the LLM's input embeddings (OPT's smaller models embed in fewer dimensions than they compute)."""
        return getattr(self.text_config, "word_embed_proj_dim", self.text_config.hidden_size)


ElmConfig.register_for_auto_class()
AutoConfig.register(ElmConfig.model_type, ElmConfig, exist_ok=True)
AutoConfig.register(EcgResNetConfig.model_type, EcgResNetConfig, exist_ok=True)

__all__ = ["ElmConfig"]
