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
"""Net1D, the convolutional network of ECGFounder (Li et al. 2025) and CLEF (Shu et al. 2025)."""

import math

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModel, AutoModelForSequenceClassification, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.output_capturing import capture_outputs

from .configuration_net1d import Net1DConfig
from .encoder_parts import EcgForSequenceClassification, check_lead_mask


class Net1DConvolution(nn.Conv1d):
    """Convolution whose output has `ceil(samples / stride)` samples: zeros are added at both ends, more at the end."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        (kernel_size,), (stride,), num_samples = self.kernel_size, self.stride, hidden_states.shape[-1]
        padding = max(0, (math.ceil(num_samples / stride) - 1) * stride + kernel_size - num_samples)
        return super().forward(F.pad(hidden_states, (padding // 2, padding - padding // 2)))


class Net1DGate(nn.Module):
    """Weights each channel by a function of the means of all channels over time (Hu et al. 2018)."""

    def __init__(self, channels: int):
        super().__init__()
        self.down_proj = nn.Linear(channels, channels // 2)
        self.up_proj = nn.Linear(channels // 2, channels)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        weights = torch.sigmoid(self.up_proj(F.silu(self.down_proj(hidden_states.mean(dim=-1)))))
        return hidden_states * weights[..., None]


class Net1DBlock(GradientCheckpointingLayer):
    """
    Three convolutions, of which the middle one is wide, grouped and strided, a gate and a shortcut without weights.

    The published networks contain batch norms that were switched off in training. There are none here.
    """

    def __init__(self, config: Net1DConfig, in_channels: int, out_channels: int, stride: int, is_first: bool):
        super().__init__()
        channels = config.inner_channels(out_channels)
        self.first = nn.Conv1d(in_channels, channels, 1)
        self.middle = Net1DConvolution(
            channels, channels, config.kernel_size, stride, groups=out_channels // config.group_size
        )
        self.last = nn.Conv1d(channels, out_channels, 1)
        self.gate = Net1DGate(out_channels)
        self.stride = stride
        self.new_channels = out_channels - in_channels
        self.is_first = is_first

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        # The input of the first block of the network has been activated.
        output = self.first(hidden_states if self.is_first else F.silu(hidden_states))
        output = self.gate(self.last(F.silu(self.middle(F.silu(output)))))
        return output + self.shortcut(hidden_states)

    def shortcut(self, hidden_states: torch.Tensor) -> torch.Tensor:
        r"""
        The input of the block in the shape of its output.

        Args:
            hidden_states (`torch.Tensor` of shape `(batch_size, in_channels, num_samples)`):
                Input of the block.

        Returns:
            `torch.Tensor` of shape `(batch_size, out_channels, ceil(num_samples / stride))`.
        """
        if self.stride > 1:
            # If samples are left over, the last pool also contains a zero.
            padding = -hidden_states.shape[-1] % self.stride
            hidden_states = F.max_pool1d(F.pad(hidden_states, (0, padding)), self.stride)
        before = self.new_channels // 2
        return F.pad(hidden_states, (0, 0, before, self.new_channels - before))


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
class Net1DPreTrainedModel(PreTrainedModel):
    config: Net1DConfig
    base_model_prefix = "net1d"
    main_input_name = "ecg_values"
    supports_gradient_checkpointing = True
    _no_split_modules = ["Net1DBlock"]
    # The network has no attention, so a model that contains it may use any implementation.
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": Net1DBlock}

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, nn.Conv1d | nn.Linear):  # as PyTorch does, which the published models keep
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            bound = 1 / math.sqrt(module.weight[0].numel())
            init.uniform_(module.bias, -bound, bound)


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
class Net1DModel(Net1DPreTrainedModel):
    """
    The encoder. It takes any number of samples, and every sample has an influence on all tokens, so that short ECGs
    must not be padded.
    """

    _keys_to_ignore_on_load_unexpected = [r"^classifier\."]  # in a checkpoint of the classifier

    def __init__(self, config: Net1DConfig):
        super().__init__(config)
        self.stem = Net1DConvolution(config.num_leads, config.embedding_size, config.kernel_size, stride=2)
        blocks = []
        in_channels = config.embedding_size
        for out_channels, depth in zip(config.hidden_sizes, config.depths):
            for index in range(depth):
                stride = 2 if index == 0 else 1
                blocks.append(Net1DBlock(config, in_channels, out_channels, stride, is_first=not blocks))
                in_channels = out_channels
        self.blocks = nn.ModuleList(blocks)
        self.post_init()

    # trf-ignore: TRF057 (auto_docstring describes the library's own models only)
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self, ecg_values: torch.FloatTensor, ecg_lead_mask: torch.BoolTensor | None = None, **kwargs
    ) -> BaseModelOutputWithPooling:
        r"""
        Args:
            ecg_values (`torch.FloatTensor` of shape `(batch_size, num_leads, num_samples)`):
                The ECGs, as [`Net1DFeatureExtractor`] returns them. A network of single leads takes any number of
                leads.
            ecg_lead_mask (`torch.BoolTensor` of shape `(batch_size, num_leads)`, *optional*):
                `True` for present leads; all by default. Only a network of single leads uses it: its result does not
                depend on absent leads. A network of twelve leads reads absent leads as the feature extractor fills
                them.

        Returns:
            [`BaseModelOutputWithPooling`] with `last_hidden_state` of shape `(batch_size, num_tokens, hidden_size)`,
            and `pooler_output` of shape `(batch_size, hidden_size)`, its mean. A network of single leads returns the
            tokens of one lead after the other, 0 for absent leads, and the mean over present leads. `hidden_states`
            are the input of the first block and the output of each block, of shape `(batch_size, channels, tokens)`,
            in a network of single leads `(batch_size * num_leads, channels, tokens)`.

        Raises:
            `ValueError`: If the shapes are not as described, or an ECG has no lead.
        """
        self._check_inputs(ecg_values, ecg_lead_mask)
        batch_size = len(ecg_values)
        # CODEPATH: ECGFounder has a network of twelve leads and one of single leads, CLEF only networks of single leads.
        encodes_single_leads = self.config.num_leads == 1
        if encodes_single_leads:
            ecg_values = ecg_values.reshape(-1, 1, ecg_values.shape[2])
        hidden_states = F.silu(self.stem(ecg_values.to(self.dtype)))
        for block in self.blocks:
            hidden_states = block(hidden_states)
        tokens = hidden_states.transpose(1, 2)  # (batch, tokens, hidden)
        if not encodes_single_leads:
            return BaseModelOutputWithPooling(last_hidden_state=tokens, pooler_output=tokens.mean(dim=1))

        tokens = tokens.unflatten(0, (batch_size, -1))  # (batch, leads, tokens, hidden)
        pooled = tokens.mean(dim=2)
        if ecg_lead_mask is None:
            pooled = pooled.mean(dim=1)
        else:
            is_absent = ~ecg_lead_mask.bool()
            tokens = tokens.masked_fill(is_absent[..., None, None], 0)
            num_present = ecg_lead_mask.sum(dim=1, keepdim=True)
            pooled = pooled.masked_fill(is_absent[..., None], 0).sum(dim=1) / num_present
        return BaseModelOutputWithPooling(last_hidden_state=tokens.flatten(1, 2), pooler_output=pooled)

    def _check_inputs(self, ecg_values: torch.Tensor, ecg_lead_mask: torch.Tensor | None):
        num_leads = self.config.num_leads
        if ecg_values.dim() != 3 or 0 in ecg_values.shape or num_leads not in (1, ecg_values.shape[1]):
            leads = "any number of leads" if num_leads == 1 else f"{num_leads} leads"
            raise ValueError(
                f"This Net1D takes `ecg_values` of shape (batch, leads, samples) with {leads}, got "
                f"{tuple(ecg_values.shape)}."
            )
        check_lead_mask(ecg_values, ecg_lead_mask)


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
class Net1DForSequenceClassification(EcgForSequenceClassification, Net1DPreTrainedModel):
    """
    The encoder with a linear classifier on `pooler_output`. ECGFounder's has a logit for each of its 150 statements,
    which can hold together.
    """

    def __init__(self, config: Net1DConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.net1d = Net1DModel(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()


Net1DModel.register_for_auto_class("AutoModel")
Net1DForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
AutoModel.register(Net1DConfig, Net1DModel, exist_ok=True)
AutoModelForSequenceClassification.register(Net1DConfig, Net1DForSequenceClassification, exist_ok=True)

__all__ = ["Net1DForSequenceClassification", "Net1DModel", "Net1DPreTrainedModel"]
