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
"""ECG-CPC (Al-Masud et al. 2026): convolutions and S4 layers (Gu et al. 2022), pre-trained to predict what comes."""

import math

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModel, AutoModelForSequenceClassification, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.output_capturing import capture_outputs

from .configuration_ecg_cpc import EcgCpcConfig
from .encoder_parts import EcgForSequenceClassification, check_lead_mask


class EcgCpcConvLayer(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(self, config: EcgCpcConfig, index: int):
        super().__init__()
        size, stride = (3, 2) if index == 0 else (1, 1)
        channels = config.num_leads if index == 0 else config.hidden_size
        self.conv = nn.Conv1d(channels, config.hidden_size, size, stride, padding=size // 2, bias=False)
        self.norm = nn.BatchNorm1d(config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(hidden_states)).relu()


class EcgCpcStateSpace(nn.Module):
    """
    The convolution of each channel with the response of a linear system (S4, Gu et al. 2022), whose matrix is a
    diagonal plus a product of two vectors.

    Complex numbers have a last dimension of real and imaginary part; half of the states are stored, the others are
    their conjugates. Only the output vectors are trained, as in the published model.
    """

    def __init__(self, config: EcgCpcConfig):
        super().__init__()
        shape = (config.hidden_size, config.state_size // 2, 2)
        self.kernel_length = config.kernel_length
        self.diagonal = nn.Buffer(torch.zeros(shape))
        self.left_vector = nn.Buffer(torch.zeros(shape))
        self.right_vector = nn.Buffer(torch.zeros(shape))
        self.input_vector = nn.Buffer(torch.zeros(shape))
        self.log_step = nn.Buffer(torch.zeros(config.hidden_size))
        self.output_vector = nn.Parameter(torch.zeros(shape))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Signals `(batch, channels, tokens)` to signals of the same shape: each is convolved with its kernel."""
        num_tokens = hidden_states.shape[-1]
        # There is no Fourier transform in half precision.
        signals = torch.fft.rfft(hidden_states.float(), 2 * num_tokens)
        kernels = torch.fft.rfft(self.kernel(num_tokens), 2 * num_tokens)
        return torch.fft.irfft(signals * kernels, 2 * num_tokens)[..., :num_tokens].to(hidden_states.dtype)

    def kernel(self, num_tokens: int) -> torch.Tensor:
        r"""
        The response of each channel to an impulse.

        Args:
            num_tokens (`int`):
                Length of the response.

        Returns:
            `torch.Tensor` of shape `(channels, num_tokens)`, float32.
        """
        matrix, inputs = self._discrete_system()
        # The stored output vectors belong to a system that is truncated after `kernel_length` tokens.
        identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
        truncation = identity - torch.linalg.matrix_power(matrix, self.kernel_length)
        outputs = torch.linalg.solve(truncation.mT, _with_conjugates(self.output_vector)[..., None])
        # Response `i * stride + j`: outputs @ matrix^(i * stride) @ matrix^j @ inputs.
        stride = math.isqrt(num_tokens - 1) + 1
        within = _powers(matrix, inputs, stride)  # (channels, states, stride)
        between = _powers(torch.linalg.matrix_power(matrix, stride).mT, outputs, -(-num_tokens // stride))
        return torch.matmul(between.mT, within).real.flatten(1)[:, :num_tokens].float()

    def _discrete_system(self) -> tuple[torch.Tensor, torch.Tensor]:
        """
        The matrix `(channels, states, states)` and input vectors `(channels, states, 1)` in steps of one token, complex
        and in double precision.
        """
        left, right = _with_conjugates(self.left_vector), _with_conjugates(self.right_vector)
        continuous = torch.diag_embed(_with_conjugates(self.diagonal)) - left[..., None] * right[..., None, :]
        step = self.log_step.double().exp()[:, None, None]
        identity = torch.eye(continuous.shape[-1], dtype=continuous.dtype, device=continuous.device)
        implicit = identity - step / 2 * continuous  # the bilinear transform
        matrix = torch.linalg.solve(implicit, identity + step / 2 * continuous)
        return matrix, torch.linalg.solve(implicit, step * _with_conjugates(self.input_vector)[..., None])


class EcgCpcLayer(GradientCheckpointingLayer):
    """S4 layer: state space, GELU, gated linear layer; the norm comes after the sum with the input."""

    def __init__(self, config: EcgCpcConfig):
        super().__init__()
        self.state_space = EcgCpcStateSpace(config)
        self.skip = nn.Parameter(torch.ones(config.hidden_size))
        self.out_proj = nn.Linear(config.hidden_size, 2 * config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        signals = hidden_states.transpose(1, 2)
        output = self.state_space(signals) + self.skip[:, None] * signals
        return self.norm(hidden_states + F.glu(self.out_proj(F.gelu(output).transpose(1, 2))))


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
class EcgCpcPreTrainedModel(PreTrainedModel):
    config: EcgCpcConfig
    base_model_prefix = "ecg_cpc"
    main_input_name = "ecg_values"
    input_modalities = ("ecg",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["EcgCpcLayer"]
    # The network has no attention, so a model that contains it may use any implementation.
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": EcgCpcLayer}

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, EcgCpcStateSpace):
            diagonal, low_rank, inputs = hippo_system(2 * module.diagonal.shape[1])
            init.copy_(module.diagonal, torch.view_as_real(diagonal).expand_as(module.diagonal))
            init.copy_(module.left_vector, torch.view_as_real(low_rank).expand_as(module.diagonal))
            init.copy_(
                module.right_vector, torch.view_as_real(low_rank.conj().resolve_conj()).expand_as(module.diagonal)
            )
            init.copy_(module.input_vector, torch.view_as_real(inputs).expand_as(module.diagonal))
            init.uniform_(module.log_step, math.log(0.001), math.log(0.1))
            init.normal_(module.output_vector, std=0.5**0.5)
        elif isinstance(module, EcgCpcLayer):
            init.ones_(module.skip)


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
class EcgCpcModel(EcgCpcPreTrainedModel):
    """The encoder. A token depends on the samples up to its own, and an ECG may have any length."""

    _keys_to_ignore_on_load_unexpected = [r"^classifier\."]  # in a checkpoint of the classifier

    def __init__(self, config: EcgCpcConfig):
        super().__init__(config)
        self.conv_layers = nn.ModuleList(EcgCpcConvLayer(config, index) for index in range(config.num_conv_layers))
        self.layers = nn.ModuleList(EcgCpcLayer(config) for _ in range(config.num_hidden_layers))
        self.post_init()

    # trf-ignore: TRF057 (auto_docstring describes the library's own models only)
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self, ecg_values: torch.FloatTensor, ecg_lead_mask: torch.BoolTensor | None = None, **kwargs
    ) -> BaseModelOutputWithPooling:
        r"""
        Args:
            ecg_values (`torch.FloatTensor` of shape `(batch_size, num_leads, num_samples)`):
                The ECGs in millivolt, as [`EcgCpcFeatureExtractor`] returns them.
            ecg_lead_mask (`torch.BoolTensor` of shape `(batch_size, num_leads)`, *optional*):
                `True` for present leads; all by default. Absent leads are set to 0, as in pre-training.

        Returns:
            [`BaseModelOutputWithPooling`] with `last_hidden_state` of shape `(batch_size, (num_samples + 1) // 2,
            hidden_size)`, and `pooler_output` of shape `(batch_size, hidden_size)`, its mean.

        Raises:
            `ValueError`: If the shapes are not as described, or an ECG has no lead.
        """
        if ecg_values.dim() != 3 or ecg_values.shape[1] != self.config.num_leads or ecg_values.shape[2] == 0:
            raise ValueError(
                f"ECG-CPC takes `ecg_values` of shape (batch, {self.config.num_leads} leads, samples), got "
                f"{tuple(ecg_values.shape)}. An ECG with fewer leads keeps a row for each lead, and `ecg_lead_mask` "
                "tells which are present."
            )
        if ecg_lead_mask is not None:
            check_lead_mask(ecg_values, ecg_lead_mask)
            ecg_values = ecg_values.masked_fill(~ecg_lead_mask.bool()[..., None], 0)
        hidden_states = ecg_values.to(self.dtype)
        for layer in self.conv_layers:
            hidden_states = layer(hidden_states)
        hidden_states = hidden_states.transpose(1, 2)  # (batch, tokens, hidden)
        for layer in self.layers:
            hidden_states = layer(hidden_states)
        return BaseModelOutputWithPooling(last_hidden_state=hidden_states, pooler_output=hidden_states.mean(dim=1))


def hippo_system(state_size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    r"""
    The system of a new S4 layer, HiPPO-LegS in the basis in which its normal part is diagonal (Gu et al. 2022, theorem
    1 and appendix C).

    Args:
        state_size (`int`):
            Number of states.

    Returns:
        The diagonal, the vector whose product with its conjugate is subtracted from it, and the input vector: one of
        each pair of conjugate numbers, of shape `(state_size // 2,)`, complex and in double precision.
    """
    scale = (2 * torch.arange(state_size, dtype=torch.float64) + 1).sqrt()
    low_rank = scale / 2**0.5
    matrix = -torch.tril(scale[:, None] * scale, -1) - torch.diag(torch.arange(1.0, state_size + 1).double())
    skew = matrix + low_rank[:, None] * low_rank + torch.eye(state_size).double() / 2  # skew-symmetric
    frequencies, basis = torch.linalg.eigh(-1j * skew)
    half = slice(state_size // 2, None)  # positive frequencies
    low_rank, inputs = ((basis.mH @ vector.to(basis.dtype))[half] for vector in (low_rank, scale))
    return torch.complex(torch.full_like(frequencies[half], -0.5), frequencies[half]), low_rank, inputs


def _with_conjugates(vector: torch.Tensor) -> torch.Tensor:
    """Real and imaginary parts `(..., states / 2, 2)` to numbers and their conjugates `(..., states)`."""
    stored = torch.view_as_complex(vector.double())
    return torch.cat([stored, stored.conj()], dim=-1)


def _powers(matrix: torch.Tensor, vector: torch.Tensor, number: int) -> torch.Tensor:
    """`vector`, `matrix @ vector`, `matrix^2 @ vector`, …: `(channels, states, number)`."""
    columns = vector
    while columns.shape[-1] < number:
        columns = torch.cat([columns, torch.matmul(matrix, columns)], dim=-1)
        matrix = torch.matmul(matrix, matrix)
    return columns[..., :number]


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
class EcgCpcForSequenceClassification(EcgForSequenceClassification, EcgCpcPreTrainedModel):
    """The encoder with a linear classifier on `pooler_output`."""

    def __init__(self, config: EcgCpcConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.ecg_cpc = EcgCpcModel(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()


EcgCpcModel.register_for_auto_class("AutoModel")
EcgCpcForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
AutoModel.register(EcgCpcConfig, EcgCpcModel, exist_ok=True)
AutoModelForSequenceClassification.register(EcgCpcConfig, EcgCpcForSequenceClassification, exist_ok=True)

__all__ = ["EcgCpcForSequenceClassification", "EcgCpcModel", "EcgCpcPreTrainedModel"]
