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

import copy
from os import PathLike
from pathlib import Path
from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .auto_classes import register
from .ecg_encoders import ECG_ENCODERS, find_ecg_encoder, save_encoder_code


PROJECTORS_WITH_ENCODER = ("linear", "mlp")
PROJECTORS_WITHOUT_ENCODER = ("linear", "patch", "conv")

# The representation of models that read the signal and a picture of it (Lan et al. 2025, GEM).
SIGNAL_AND_IMAGE = ("signal", "image")
# The `model_type` of each ECG encoder. Other encoders are vision encoders of transformers.
ECG_ENCODER_TYPES = tuple(ECG_ENCODERS)
# The parts that fit each representation.
COMPONENTS = {
    "signal": f"an ECG encoder ({', '.join(ECG_ENCODER_TYPES)}) or none",
    "stacked_signal": "a vision encoder (vit, clip_vision_model, siglip_vision_model, siglip2_vision_model, ...)",
    "image": "a vision encoder (vit, clip_vision_model, siglip_vision_model, siglip2_vision_model, ...)",
    "symbol": "no encoder and no projector (ECG tokens are rows of the LLM's own embedding)",
}


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
        picture_encoder_config (`PreTrainedConfig` or `dict`, *optional*):
            Configuration of the vision encoder of `["signal", "image"]`.
        representation (`str` or `list[str]`, *optional*, defaults to `"signal"`):
            Form in which the model reads an ECG. `"signal"`: an array of shape `(num_leads, num_samples)`, for an ECG
            encoder or no encoder. `"stacked_signal"`: the signal as a picture with three equal channels, for a vision
            encoder. `"image"`: the ECG drawn on paper, for a vision encoder. `"symbol"`: tokens of ECG-Byte (Han et
            al. 2024) among the tokens of the text. `["signal", "image"]`: the signal, read as by `"signal"`, and the ECG
            drawn on paper, each by an encoder and a projector of its own (Lan et al. 2025, GEM). In the place of an
            ECG, the tokens of the picture follow those of the signal.
        projector_type (`str`, *optional*):
            With an encoder: `"linear"` or `"mlp"` (as in LLaVA), by default `"mlp"`. Without an encoder: `"linear"`
            (the whole ECG becomes one token), `"patch"` (a linear layer per patch of time) or `"conv"` (a small CNN
            per patch of time), by default `"patch"`. `None` for `"symbol"`. Of `["signal", "image"]`, the projector of
            the signal.
        picture_projector_type (`str`, *optional*):
            Projector of the picture of `["signal", "image"]`: `"linear"` or `"mlp"`, by default `"mlp"`.
        projector_hidden_act (`str`, *optional*, defaults to `"gelu"`):
            Activation inside the `"mlp"` projector.
        projector_conv_channels (`list[int]`, *optional*, defaults to `[64, 128]`):
            Channels of the `"conv"` projector's layers.
        projector_conv_kernel_sizes (`list[int]`, *optional*, defaults to `[3, 7]`):
            Kernel sizes of the `"conv"` projector's layers. They must be odd.
        projector_conv_strides (`list[int]`, *optional*, defaults to `[1, 1]`):
            Strides of the `"conv"` projector's layers. Larger strides need less computation.
        projector_conv_batch_norm (`bool`, *optional*, defaults to `False`):
            Whether to apply batch normalization after each convolution of the `"conv"` projector.
        projector_conv_pooling (`str`, *optional*, defaults to `"mean"`):
            Pooling of the `"conv"` projector over each patch of time: `"mean"` or `"max"`.
        num_ecg_tokens (`int`, *optional*, defaults to 50):
            Number of tokens of an ECG, to which encoder outputs are pooled. Not used for `"symbol"`, where it varies.
        num_picture_tokens (`int`, *optional*):
            For `["signal", "image"]`, how many of the `num_ecg_tokens` are the picture's: the last ones, by default
            half.
        num_leads (`int`, *optional*, defaults to 12):
            Number of leads of an ECG.
        num_samples (`int`, *optional*, defaults to 2500):
            Number of samples of an ECG: 10 s at 250 Hz. Of `["signal", "image"]`, those of the signal.
        measurements (`list[str]`, *optional*):
            Names of measured values of the ECG that the model reads as well, as [`measure_ecg`] has them. Each has one
            of the `num_ecg_tokens`, behind those of the ECG.
        measurement_scales (`list[list[float]]`, *optional*):
            For each of the `measurements` a typical value and a spread, by which it is scaled.
        picture_size (`int`, *optional*):
            Height and width of the pictures if they are larger or smaller than those that the vision encoder was
            trained on. Its position embeddings are then interpolated.
        ecg_token_id (`int`, *optional*):
            Id of the placeholder token in `input_ids`.
        ecg_token_offset (`int`, *optional*):
            Id of the first ECG token of `"symbol"` in `input_ids`. The ECG tokens are the last rows of the embeddings.
        ecg_vocab_size (`int`, *optional*):
            Number of ECG tokens of `"symbol"`.
        lm_head_bias (`bool`, *optional*, defaults to `False`):
            Whether the LLM's head has a bias (Phi, GPT-J).
        license (`str`, *optional*):
            Licence of the weights for the card, such as `"apache-2.0"`: by default none is stated.
        license_name (`str`, *optional*):
            Name of a licence `"other"`.
        license_link (`str`, *optional*):
            Address of the text of a licence `"other"`.

    Raises:
        `ValueError`: If representation, encoder and projector do not fit together, a field that they need is missing,
            or an ECG cannot be cut into equal patches.
    """

    model_type = "elm"
    sub_configs_defaults = {
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="qwen2"),
        # Not `AutoConfig`, which does not know the ECG encoder of a checkpoint: see `__post_init__`.
        "encoder_config": SubConfigSpec(config_class=PreTrainedConfig, optional=True),
        "picture_encoder_config": SubConfigSpec(config_class=PreTrainedConfig, optional=True),
    }
    keys_to_ignore_at_inference = ["past_key_values"]

    text_config: dict | PreTrainedConfig | None = None
    encoder_config: dict | PreTrainedConfig | None = None
    picture_encoder_config: dict | PreTrainedConfig | None = None
    representation: Literal["signal", "stacked_signal", "image", "symbol"] | list[str] = "signal"
    projector_type: str | None = None
    picture_projector_type: str | None = None
    projector_hidden_act: str = "gelu"
    projector_conv_channels: list[int] | tuple[int, ...] = (64, 128)
    projector_conv_kernel_sizes: list[int] | tuple[int, ...] = (3, 7)
    projector_conv_strides: list[int] | tuple[int, ...] = (1, 1)
    projector_conv_batch_norm: bool = False
    projector_conv_pooling: Literal["mean", "max"] = "mean"
    num_ecg_tokens: int = 50
    num_picture_tokens: int | None = None
    num_leads: int = 12
    num_samples: int = 2500
    measurements: list[str] | None = None
    measurement_scales: list[list[float]] | None = None
    picture_size: int | None = None
    ecg_token_id: int | None = None
    ecg_token_offset: int | None = None
    ecg_vocab_size: int | None = None
    lm_head_bias: bool = False
    tie_word_embeddings: bool = False
    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None

    def __post_init__(self, **kwargs):
        if isinstance(self.encoder_config, dict):
            self.encoder_config = _build_encoder_config(self.encoder_config)
        if isinstance(self.picture_encoder_config, dict):
            self.picture_encoder_config = _build_encoder_config(self.picture_encoder_config)
        super().__post_init__(**kwargs)
        if self.projector_type is None and self.representation != "symbol":
            self.projector_type = "patch" if self.encoder_config is None else "mlp"
        if self.reads_both and self.picture_projector_type is None:
            self.picture_projector_type = "mlp"
        if self.reads_both and self.num_picture_tokens is None:
            self.num_picture_tokens = self.without_measurements.num_ecg_tokens // 2
        self.projector_conv_channels = list(self.projector_conv_channels)
        self.projector_conv_kernel_sizes = list(self.projector_conv_kernel_sizes)
        self.projector_conv_strides = list(self.projector_conv_strides)
        self.tie_word_embeddings = bool(self.text_config.tie_word_embeddings)
        # A checkpoint can be loaded with all of these Auto classes, whichever of the two models saved it.
        self.auto_map = {
            "AutoConfig": "configuration_elm.ElmConfig",
            "AutoModel": "modeling_elm.ElmModel",
            "AutoModelForCausalLM": "modeling_elm.ElmForCausalLM",
            "AutoModelForMultimodalLM": "modeling_elm.ElmForCausalLM",
        }

    def validate_components(self):
        """Encoder (or its absence) and projector must be able to read the representation."""
        if self.measurements is not None:
            self._check_measurements()
            self.without_measurements.validate_components()
            return
        if self._check_towers("validate_components"):
            return
        encoder_type = None if self.encoder_config is None else self.encoder_config.model_type
        fits = {
            "signal": encoder_type is None or encoder_type in ECG_ENCODER_TYPES,
            "symbol": encoder_type is None and self.projector_type is None,
        }.get(self.representation, encoder_type is not None and encoder_type not in ECG_ENCODER_TYPES)
        if not fits:
            found = "no encoder" if encoder_type is None else f'a "{encoder_type}" encoder'
            raise ValueError(
                f'representation="{self.representation}" does not fit {found} and projector_type='
                f"{self.projector_type!r}; it takes {COMPONENTS[self.representation]}."
            )
        if self.representation == "symbol" and (self.ecg_token_offset is None or self.ecg_vocab_size is None):
            raise ValueError('representation="symbol" needs ecg_token_offset and ecg_vocab_size.')

    def validate_projector(self):
        """The projector must fit the encoder (or its absence) and cut an ECG into equal patches."""
        if self.measurements is not None:
            self.without_measurements.validate_projector()
            return
        if self._check_towers("validate_projector"):
            return
        if self.representation == "symbol":
            return
        allowed = PROJECTORS_WITHOUT_ENCODER if self.encoder_config is None else PROJECTORS_WITH_ENCODER
        if self.projector_type not in allowed:
            found = "needs an encoder; without one,"
            if self.encoder_config is not None:
                found = f"does not fit a {self.encoder_config.model_type} encoder;"
            raise ValueError(f'projector_type="{self.projector_type}" {found} choose one of {", ".join(allowed)}.')
        if self.num_ecg_tokens < 1:
            raise ValueError(f"num_ecg_tokens must be at least 1, got {self.num_ecg_tokens}.")
        if self.encoder_config is None:
            self._check_patches()

    def _check_measurements(self):
        number = len(self.measurements)
        if self.representation == "symbol":
            raise ValueError('measurements are tokens of an ECG, and representation="symbol" has text tokens for it.')
        if not 0 < number < self.num_ecg_tokens:
            raise ValueError(
                f"{number} measurements have a token each of num_ecg_tokens={self.num_ecg_tokens}, and at least one is for "
                "the ECG itself."
            )
        scales = self.measurement_scales or []
        if len(scales) != number or any(len(scale) != 2 or not scale[1] > 0 for scale in scales):
            raise ValueError(
                f"measurement_scales is {self.measurement_scales}; expected a typical value and a spread above 0 for each of "
                f"the {number} measurements."
            )

    def _check_towers(self, check: str) -> bool:
        """Runs a check of the parts for the signal and for the picture. `False` for models that do not read both."""
        if not self.reads_both:
            given = ("picture_encoder_config", "picture_projector_type", "num_picture_tokens")
            given = [name for name in given if getattr(self, name) is not None]
            if given or isinstance(self.representation, list):
                raise ValueError(
                    f"representation={self.representation!r} does not fit {', '.join(given) or 'any model'}; models that read "
                    f"the signal and its picture have representation={list(SIGNAL_AND_IMAGE)}."
                )
            return False
        if not 0 < self.num_picture_tokens < self.num_ecg_tokens:
            raise ValueError(
                f"num_picture_tokens={self.num_picture_tokens} of num_ecg_tokens={self.num_ecg_tokens} are the picture's; "
                "signal and picture need at least one token each."
            )
        for tower, fields in zip(self.towers, ("encoder_config and projector_type", "picture_encoder_config")):
            try:
                getattr(tower, check)()
            except ValueError as error:
                raise ValueError(f"representation={self.representation}, {fields}: {error}") from error
        return True

    def _check_patches(self):
        if self.projector_type == "linear" and self.num_ecg_tokens != 1:
            raise ValueError(
                "The encoder-free linear projector turns an ECG into one token: set num_ecg_tokens=1 "
                f'(got {self.num_ecg_tokens}) or projector_type="patch".'
            )
        layers = {
            len(self.projector_conv_channels),
            len(self.projector_conv_kernel_sizes),
            len(self.projector_conv_strides),
        }
        if len(layers) > 1:
            raise ValueError(
                "projector_conv_channels, projector_conv_kernel_sizes and projector_conv_strides must have the same "
                f"length, got {self.projector_conv_channels}, {self.projector_conv_kernel_sizes} and "
                f"{self.projector_conv_strides}."
            )
        if self.num_samples % self.num_ecg_tokens:
            raise ValueError(
                f"num_samples={self.num_samples} cannot be cut into num_ecg_tokens={self.num_ecg_tokens} equal patches."
            )

    def save_pretrained(self, save_directory: str | PathLike, push_to_hub: bool = False, **kwargs):
        r"""
        Saves the configuration, with the code that loads it and the code of the encoder.

        Args:
            save_directory (`str` or `os.PathLike`):
                Folder of the checkpoint.
            push_to_hub (`bool`, *optional*, defaults to `False`):
                Whether to upload the configuration and its code, too.
            kwargs:
                `repo_id` (by default the name of the folder) and other arguments of
                [`~PreTrainedConfig.push_to_hub`].
        """
        super().save_pretrained(save_directory)
        save_encoder_code(self.encoder_config, save_directory)
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", Path(save_directory).name), **kwargs)

    def to_dict(self) -> dict:
        """The settings, without the folders or repositories that the LLM and the encoders were loaded from."""
        settings = super().to_dict()
        for part in ("text_config", "encoder_config", "picture_encoder_config"):
            if settings.get(part) is not None:
                settings[part].pop("_name_or_path", None)
        return settings

    @property
    def reads_both(self) -> bool:
        """Whether the model reads the signal (`ecg_values`) and a picture of it (`ecg_pictures`)."""
        return tuple(self.representation) == SIGNAL_AND_IMAGE

    @property
    def without_measurements(self) -> "ElmConfig":
        """The configuration of the model without measured values, whose `num_ecg_tokens` are the other tokens."""
        config = copy.copy(self)
        config.num_ecg_tokens = self.num_ecg_tokens - len(self.measurements or ())
        config.measurements = None
        return config

    @property
    def towers(self) -> tuple["ElmConfig", "ElmConfig"]:
        """
        Of a model that reads both, the configurations of the parts for the signal and for the picture, as if they were
        models of their own. `num_ecg_tokens` are the tokens of the part.
        """
        signal, picture = self.without_measurements, self.without_measurements
        signal.representation, picture.representation = SIGNAL_AND_IMAGE
        signal.num_ecg_tokens -= self.num_picture_tokens
        signal.picture_size = None
        picture.encoder_config = self.picture_encoder_config
        picture.projector_type = self.picture_projector_type
        picture.num_ecg_tokens = self.num_picture_tokens
        for tower in (signal, picture):
            tower.picture_encoder_config = tower.picture_projector_type = tower.num_picture_tokens = None
        return signal, picture

    @property
    def reads_pictures(self) -> bool:
        """Whether `ecg_values` are pictures of shape `(num_ecgs, 3, height, width)` instead of signals."""
        return self.representation in ("stacked_signal", "image")

    @property
    def embedding_size(self) -> int:
        """Width of the LLM's input embeddings, which for small OPT models is not the width of its layers."""
        return getattr(self.text_config, "word_embed_proj_dim", self.text_config.hidden_size)


def _build_encoder_config(settings: dict) -> PreTrainedConfig:
    """The configuration of an ECG encoder, by default of `ecg_resnet`, or of a vision encoder of transformers."""
    model_type = settings.get("model_type", "ecg_resnet")
    encoder_class = find_ecg_encoder(model_type)
    if encoder_class is None and model_type not in CONFIG_MAPPING:
        raise ValueError(
            f'encoder_config: there is no code for model_type="{model_type}" here. Encoders are '
            f"{', '.join(ECG_ENCODER_TYPES)} (the code of a checkpoint has only its own) and the vision encoders of "
            "transformers, such as vit."
        )
    return (CONFIG_MAPPING[model_type] if encoder_class is None else encoder_class.config_class)(**settings)


ElmConfig.register_for_auto_class()
register(AutoConfig, ElmConfig.model_type, ElmConfig)

__all__ = ["ElmConfig"]
