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
"""The projectors of an ECG-language model: from encoder outputs or signals to embeddings of the LLM.

Inputs are cast to the precision of a bias, not of a weight, which quantization stores as integers.
"""

import torch
import torch.nn.functional as F
from torch import nn
from transformers.activations import ACT2FN

from .configuration_elm import ElmConfig


class ElmEncoderProjector(nn.Module):
    """Pools encoder outputs to `num_ecg_tokens` and projects them with one or two layers (Liu et al. 2023, LLaVA)."""

    def __init__(self, config: ElmConfig):
        super().__init__()
        self.num_ecg_tokens = config.num_ecg_tokens
        self.linear_1 = nn.Linear(config.encoder_config.hidden_size, config.embedding_size)
        self.linear_2 = None
        # CODEPATH: "mlp" is the projector of LLaVA-like models, "linear" the single layer of ECG-Bench.
        if config.projector_type == "mlp":
            self.activation = ACT2FN[config.projector_hidden_act]
            self.linear_2 = nn.Linear(config.embedding_size, config.embedding_size)

    def forward(self, encoder_hidden_states: torch.Tensor) -> torch.Tensor:
        tokens = F.adaptive_avg_pool1d(encoder_hidden_states.transpose(1, 2), self.num_ecg_tokens).transpose(1, 2)
        hidden_states = self.linear_1(tokens.to(self.linear_1.bias.dtype))
        if self.linear_2 is not None:
            hidden_states = self.linear_2(self.activation(hidden_states))
        return hidden_states


class ElmPatchProjector(nn.Module):
    """A linear layer per patch of time, over all leads. With a single token, the patch is the whole ECG."""

    def __init__(self, config: ElmConfig):
        super().__init__()
        self.num_ecg_tokens = config.num_ecg_tokens
        patch_size = config.num_samples // config.num_ecg_tokens
        self.linear = nn.Linear(config.num_leads * patch_size, config.embedding_size)

    def forward(self, ecg_values: torch.Tensor) -> torch.Tensor:
        patches = ecg_values.unflatten(2, (self.num_ecg_tokens, -1)).transpose(1, 2).flatten(2)  # lead after lead
        return self.linear(patches.to(self.linear.bias.dtype))


class ElmConvProjector(nn.Module):
    """Convolutions, a mean or maximum over time, and a linear layer per patch of time."""

    def __init__(self, config: ElmConfig):
        super().__init__()
        self.num_ecg_tokens = config.num_ecg_tokens
        channels = [config.num_leads, *config.projector_conv_channels]
        self.convolutions = nn.ModuleList(
            nn.Conv1d(inputs, outputs, kernel_size, stride, padding=kernel_size // 2)
            for inputs, outputs, kernel_size, stride in zip(
                channels, channels[1:], config.projector_conv_kernel_sizes, config.projector_conv_strides
            )
        )
        # CODEPATH: some "conv" checkpoints have batch normalization after each convolution.
        norm_class = nn.BatchNorm1d if config.projector_conv_batch_norm else nn.Identity
        self.norms = nn.ModuleList(norm_class(size) for size in channels[1:])
        self.linear = nn.Linear(channels[-1], config.embedding_size)
        self.pooling = config.projector_conv_pooling

    def forward(self, ecg_values: torch.Tensor) -> torch.Tensor:
        patches = ecg_values.unflatten(2, (self.num_ecg_tokens, -1)).transpose(1, 2)
        hidden_states = patches.flatten(0, 1).to(self.linear.bias.dtype)
        for convolution, norm in zip(self.convolutions, self.norms):
            hidden_states = F.relu(norm(convolution(hidden_states)))
        hidden_states = hidden_states.amax(dim=2) if self.pooling == "max" else hidden_states.mean(dim=2)
        return self.linear(hidden_states).unflatten(0, (-1, self.num_ecg_tokens))


class ElmTwoProjectors(nn.Module):
    """
    The projectors of the signal and of its picture. In the place of the tokens of an absent signal or picture is a
    learned vector (`absent`), so that the model can be asked about ECGs of which it has one of them.
    """

    def __init__(self, config: ElmConfig):
        super().__init__()
        self.signal, self.picture = (build_projector(tower) for tower in config.towers)
        self.absent = nn.Embedding(2, config.embedding_size)

    def forward(
        self, signal: torch.Tensor, picture: torch.Tensor, ecg_modality_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        r"""
        The tokens of ECGs, those of the picture behind those of the signal.

        Args:
            signal, picture (`torch.Tensor` of shape `(num_ecgs, tokens, hidden_size)`):
                The tokens of each encoder. Without an encoder of the signal, the signals.
            ecg_modality_mask (`torch.BoolTensor` of shape `(num_ecgs, 2)`, *optional*):
                Whether the signal, and the picture, of each ECG are given.

        Returns:
            `torch.Tensor` of shape `(num_ecgs, num_ecg_tokens, embedding_size)`.
        """
        if ecg_modality_mask is None:  # processes that share a step have gradients of the same weights
            ecg_modality_mask = torch.ones((len(picture), 2), dtype=torch.bool, device=picture.device)
        projected = [
            torch.where(is_given[:, None, None], tokens, absent.to(tokens.dtype))
            for is_given, tokens, absent in zip(
                ecg_modality_mask.to(picture.device).T,
                (self.signal(signal), self.picture(picture)),
                self.absent.weight,
            )
        ]
        return torch.cat(projected, dim=1)


class ElmMeasurementEmbedding(nn.Module):
    """
    A token for each measured value, from an embedding of its name and one of its number, as for the numerical columns of
    a table (Gorishniy et al. 2021, FT-Transformer). Values that are unknown (NaN) have a learned embedding instead.
    """

    hidden_size = 128
    # One wrong measurement does not outweigh the others.
    largest_deviation = 5.0

    def __init__(self, config: ElmConfig):
        super().__init__()
        self.scales = config.measurement_scales
        self.is_angle = [name.endswith("_deg") for name in config.measurements]
        self.name = nn.Embedding(len(self.scales), self.hidden_size)
        self.unknown = nn.Embedding(len(self.scales), self.hidden_size)
        self.number = nn.Linear(2, self.hidden_size)
        self.activation = nn.GELU()
        self.linear = nn.Linear(self.hidden_size, config.embedding_size)

    def forward(self, ecg_measurements: torch.Tensor) -> torch.Tensor:
        r"""
        Args:
            ecg_measurements (`torch.FloatTensor` of shape `(num_ecgs, num_measurements)`):
                The values, NaN where unknown.

        Returns:
            `torch.Tensor` of shape `(num_ecgs, num_measurements, embedding_size)`.
        """
        values = ecg_measurements.to(self.linear.bias.device, torch.float32)
        typical, spread = values.new_tensor(self.scales).T
        limit = self.largest_deviation
        scaled = ((values - typical) / spread).clamp(-limit, limit)
        numbers = torch.stack([scaled, torch.zeros_like(scaled)], dim=-1)
        angles = torch.deg2rad(values)  # 179 and -179 degrees are neighbours
        is_angle = torch.tensor(self.is_angle, device=values.device)[:, None]
        numbers = torch.where(is_angle, torch.stack([angles.cos(), angles.sin()], dim=-1), numbers)
        is_known = values.isfinite()[..., None]
        numbers = torch.where(is_known, numbers, 0).to(self.linear.bias.dtype)
        hidden_states = torch.where(is_known, self.number(numbers), self.unknown.weight)
        return self.linear(self.activation(hidden_states + self.name.weight))


class ElmMeasuringProjector(nn.Module):
    """The projector of the ECG (`ecg`), and behind its tokens those of measured values."""

    def __init__(self, config: ElmConfig):
        super().__init__()
        self.ecg = build_projector(config.without_measurements)
        self.measurements = ElmMeasurementEmbedding(config)

    def forward(self, *encoded: torch.Tensor | None, ecg_measurements: torch.Tensor) -> torch.Tensor:
        tokens = self.ecg(*encoded)
        return torch.cat([tokens, self.measurements(ecg_measurements).to(tokens.device)], dim=1)


def build_projector(config: ElmConfig) -> nn.Module | None:
    r"""
    A new projector.

    Args:
        config ([`ElmConfig`]):
            Configuration of the model.

    Returns:
        `nn.Module` or `None`: The projector of type `config.projector_type`; `None` if the type is `None`; both
        projectors of a model that reads the signal and its picture.
    """
    # CODEPATH: some checkpoints read measured values as well.
    if config.measurements is not None:
        return ElmMeasuringProjector(config)
    # CODEPATH: checkpoints that read the signal and its picture have two projectors.
    if config.reads_both:
        return ElmTwoProjectors(config)
    # CODEPATH: "symbol" checkpoints have ECG tokens among the LLM's embeddings and need no projector.
    if config.projector_type is None:
        return None
    # CODEPATH: LLaVA-like checkpoints have an encoder, in encoder-free ones the projector reads the signal.
    if config.encoder_config is not None:
        return ElmEncoderProjector(config)
    # CODEPATH: "conv" checkpoints have a CNN, "patch" and "linear" ones a linear layer.
    return ElmConvProjector(config) if config.projector_type == "conv" else ElmPatchProjector(config)


__all__ = [
    "ElmConvProjector",
    "ElmEncoderProjector",
    "ElmMeasurementEmbedding",
    "ElmMeasuringProjector",
    "ElmPatchProjector",
    "ElmTwoProjectors",
    "build_projector",
]
