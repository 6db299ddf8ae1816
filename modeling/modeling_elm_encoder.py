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
"""The encoders of an ECG-language model: how they are built, what they read, and the check of its shape."""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from .configuration_elm import ElmConfig
from .ecg_encoders import encoder_class_of


class ElmTwoEncoders(nn.Module):
    """The encoder of the signal (`signal`, or `None`) and that of its picture (`picture`)."""

    def __init__(self, config: ElmConfig):
        super().__init__()
        self.towers = config.towers
        encoders = (tower.encoder_config for tower in self.towers)
        self.signal, self.picture = (None if config is None else build_encoder(config) for config in encoders)

    def forward(
        self,
        ecg_values: torch.Tensor,
        ecg_pictures: torch.Tensor,
        ecg_lead_mask: torch.Tensor | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        r"""
        The tokens of the signals, each of shape `(num_ecgs, tokens, hidden_size)`, and those of the pictures. Without
        an encoder of the signal, the signals themselves.
        """
        signal = ecg_values
        # CODEPATH: in encoder-free checkpoints the projector reads the signal.
        if self.signal is not None:
            signal = encode(self.signal, self.towers[0], ecg_values, ecg_lead_mask, **kwargs)
        return signal, encode(self.picture, self.towers[1], ecg_pictures, **kwargs)

    def join(self, signal: torch.Tensor, picture: torch.Tensor) -> torch.Tensor:
        r"""
        The tokens of both encoders in one tensor, pooled as by the projectors, so that they can be stored together:
        those of the picture behind those of the signal, with zeros behind the narrower ones.

        Args:
            signal, picture (`torch.Tensor` of shape `(num_ecgs, tokens, hidden_size)`):
                The tokens of each encoder.

        Returns:
            `torch.Tensor` of shape `(num_ecgs, num_ecg_tokens, larger hidden_size)`.
        """
        parts = [
            F.adaptive_avg_pool1d(part.transpose(1, 2), tower.num_ecg_tokens).transpose(1, 2)
            for part, tower in zip((signal, picture), self.towers)
        ]
        width = max(part.shape[2] for part in parts)
        return torch.cat([F.pad(part, (0, width - part.shape[2])) for part in parts], dim=1)

    def split(self, joined: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The inverse of `join`."""
        parts = joined.split([tower.num_ecg_tokens for tower in self.towers], dim=1)
        signal, picture = (part[..., : tower.encoder_config.hidden_size] for part, tower in zip(parts, self.towers))
        return signal, picture


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


def build_encoders(config: ElmConfig) -> nn.Module | None:
    r"""
    The new encoder of a model, both encoders of a model that reads the signal and its picture, or `None`.

    Args:
        config ([`ElmConfig`]):
            Configuration of the model.
    """
    # CODEPATH: checkpoints that read the signal and its picture have two encoders.
    if config.reads_both:
        return ElmTwoEncoders(config)
    # CODEPATH: LLaVA-like checkpoints have an encoder, encoder-free ones do not.
    return None if config.encoder_config is None else build_encoder(config.encoder_config)


def encode(
    encoder: PreTrainedModel,
    config: ElmConfig,
    ecg_values: torch.Tensor,
    ecg_lead_mask: torch.Tensor | None = None,
    **kwargs,
) -> torch.Tensor:
    r"""
    The tokens of ECGs that an encoder returns.

    Args:
        encoder (`PreTrainedModel`):
            The encoder.
        config ([`ElmConfig`]):
            Configuration of the model, or of the part of it that has this encoder.
        ecg_values, ecg_lead_mask:
            As for [`ElmModel`].

    Returns:
        `torch.Tensor` of shape `(num_ecgs, tokens, hidden_size)`.
    """
    # CODEPATH: "image" and "stacked_signal" checkpoints have a vision encoder, "signal" ones an ECG encoder.
    if config.reads_pictures:
        inputs = vision_inputs(encoder, ecg_values, interpolate=config.picture_size is not None)
        return encoder(**inputs, **kwargs).last_hidden_state
    return encoder(ecg_values, ecg_lead_mask=ecg_lead_mask, **kwargs).last_hidden_state


def check_shapes(
    config: ElmConfig,
    ecg_values: torch.Tensor,
    ecg_pictures: torch.Tensor | None = None,
    ecg_modality_mask: torch.Tensor | None = None,
    ecg_measurements: torch.Tensor | None = None,
):
    r"""
    Checks that a model takes ECGs of this form.

    Args:
        config ([`ElmConfig`]):
            Configuration of the model.
        ecg_values, ecg_pictures, ecg_modality_mask, ecg_measurements:
            As for [`ElmModel`].

    Raises:
        `ValueError`: If a tensor has a shape that the model does not take, is missing, or is not read by it.
    """
    # CODEPATH: "symbol" checkpoints read tokens.
    if config.representation == "symbol":
        raise ValueError(
            'This model reads ECGs as tokens in `input_ids` (representation="symbol"); drop `ecg_values`.'
        )
    check_measurements(config, ecg_measurements, len(ecg_values))
    # CODEPATH: checkpoints that read the signal and its picture get both.
    if config.reads_both:
        _check_both(config, ecg_values, ecg_pictures, ecg_modality_mask)
        return
    if ecg_pictures is not None or ecg_modality_mask is not None:
        raise ValueError(
            f'This model reads `ecg_values` alone (representation="{config.representation}"); drop `ecg_pictures` and '
            '`ecg_modality_mask`, which are for models with representation=["signal", "image"].'
        )
    # CODEPATH: "image" and "stacked_signal" checkpoints read pictures, "signal" ones signals.
    if config.reads_pictures:
        _check_pictures(config, ecg_values, "ecg_values")
    else:
        _check_signals(config, ecg_values)


def check_measurements(config: ElmConfig, ecg_measurements: torch.Tensor | None, num_ecgs: int):
    r"""
    Checks the measured values of ECGs.

    Args:
        config ([`ElmConfig`]):
            Configuration of the model.
        ecg_measurements:
            As for [`ElmModel`].
        num_ecgs (`int`):
            Number of ECGs.

    Raises:
        `ValueError`: If they have another shape, are missing, or are not read by the model.
    """
    # CODEPATH: most checkpoints read no measured values.
    if config.measurements is None and ecg_measurements is None:
        return
    found = "none were" if ecg_measurements is None else f"a tensor of shape {tuple(ecg_measurements.shape)} was"
    # CODEPATH: some checkpoints read measured values, the others do not.
    if config.measurements is None:
        raise ValueError(f"This model reads no measured values, and {found} given; drop `ecg_measurements`.")
    shape = (num_ecgs, len(config.measurements))
    if ecg_measurements is None or tuple(ecg_measurements.shape) != shape:
        raise ValueError(
            f"This model reads measured values, `ecg_measurements` of shape {shape}, and {found} given: pass all outputs of "
            "the processor."
        )


def _check_both(
    config: ElmConfig,
    ecg_values: torch.Tensor,
    ecg_pictures: torch.Tensor | None,
    ecg_modality_mask: torch.Tensor | None,
):
    if ecg_pictures is None:
        raise ValueError(
            "This model reads the signal and its picture, and got `ecg_values` without `ecg_pictures`. For ECGs without "
            "a picture give zeros, and `ecg_modality_mask`, which says so."
        )
    signal, picture = config.towers
    _check_signals(signal, ecg_values)
    _check_pictures(picture, ecg_pictures, "ecg_pictures")
    if len(ecg_pictures) != len(ecg_values):
        raise ValueError(
            f"{len(ecg_values)} signals (`ecg_values`) for {len(ecg_pictures)} pictures (`ecg_pictures`)."
        )
    if ecg_modality_mask is not None and tuple(ecg_modality_mask.shape) != (len(ecg_values), 2):
        raise ValueError(
            f"`ecg_modality_mask` must have the shape (num_ecgs, 2) = ({len(ecg_values)}, 2), got "
            f"{tuple(ecg_modality_mask.shape)}."
        )


def _check_pictures(config: ElmConfig, pictures: torch.Tensor, name: str):
    shape = tuple(pictures.shape)
    if len(shape) != 4 or shape[1] != 3:
        raise ValueError(f"`{name}` must have the shape (num_ecgs, 3, height, width), got {shape}.")
    # Without `picture_size` the encoder checks the size itself.
    size = config.picture_size
    if size is not None and shape[2:] != (size, size):
        raise ValueError(f"This model takes pictures of {size} x {size} pixels, got {shape[2]} x {shape[3]}.")


def _check_signals(config: ElmConfig, ecg_values: torch.Tensor):
    shape = tuple(ecg_values.shape)
    if len(shape) != 3:
        raise ValueError(f"`ecg_values` must have the shape (num_ecgs, num_leads, num_samples), got {shape}.")
    expected = (config.num_leads, config.num_samples)
    if config.encoder_config is None and shape[1:] != expected:
        raise ValueError(
            f"This model takes ECGs of {expected[0]} leads and {expected[1]} samples, got {shape[1]} leads and "
            f"{shape[2]} samples. The checkpoint's processor prepares them."
        )


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


__all__ = [
    "ElmTwoEncoders",
    "build_encoder",
    "build_encoders",
    "check_measurements",
    "check_shapes",
    "encode",
    "vision_inputs",
]
