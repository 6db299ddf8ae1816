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
"""Lead-aware 1-D ResNet with squeeze and excitation: reads all leads together."""

import torch
from torch import nn
from transformers import AutoModel, AutoModelForSequenceClassification, PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.output_capturing import capture_outputs

from .configuration_ecg_se_resnet import EcgSeResNetConfig
from .encoder_parts import EcgForSequenceClassification


class EcgSeResNetSqueezeExcitation(nn.Module):
    """Scales each channel by a factor in 0 ... 1 that depends on the means of all channels (Hu et al. 2018)."""

    def __init__(self, channels: int, config: EcgSeResNetConfig):
        super().__init__()
        squeezed = max(channels // config.squeeze_ratio, 1)
        self.squeeze = nn.Linear(channels, squeezed)
        self.activation = ACT2FN[config.hidden_act]
        self.excite = nn.Linear(squeezed, channels)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        scale = self.excite(self.activation(self.squeeze(hidden_states.mean(dim=2)))).sigmoid()
        return hidden_states * scale[:, :, None]


class EcgSeResNetShortcut(nn.Module):
    """The input of a block at the time steps and with the channels of its output."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.pooler = nn.AvgPool1d(stride, ceil_mode=True) if stride > 1 else nn.Identity()
        self.projection = nn.Conv1d(in_channels, out_channels, 1, bias=False)
        self.normalization = nn.BatchNorm1d(out_channels)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.normalization(self.projection(self.pooler(hidden_states)))


class EcgSeResNetLastNorm(nn.BatchNorm1d):
    """
    The batch norm at the end of a residual branch. Its new weights are zero, so that a new block passes its input on,
    which makes deep networks easier to train (Goyal et al. 2017).
    """


class EcgSeResNetBlock(nn.Module):
    """Two convolutions and squeeze and excitation, with a shortcut, which is projected if the shape changes."""

    def __init__(self, config: EcgSeResNetConfig, in_channels: int, out_channels: int, kernel_size: int, stride: int):
        super().__init__()
        padding = kernel_size // 2
        self.convolution_in = nn.Conv1d(in_channels, out_channels, kernel_size, stride, padding, bias=False)
        self.normalization_in = nn.BatchNorm1d(out_channels)
        self.convolution_out = nn.Conv1d(out_channels, out_channels, kernel_size, 1, padding, bias=False)
        self.normalization_out = EcgSeResNetLastNorm(out_channels)
        self.squeeze_excitation = EcgSeResNetSqueezeExcitation(out_channels, config)
        self.activation = ACT2FN[config.hidden_act]
        changes_shape = stride > 1 or in_channels != out_channels
        self.shortcut = EcgSeResNetShortcut(in_channels, out_channels, stride) if changes_shape else nn.Identity()

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        residual = self.shortcut(hidden_states)
        hidden_states = self.activation(self.normalization_in(self.convolution_in(hidden_states)))
        hidden_states = self.normalization_out(self.convolution_out(hidden_states))
        return self.activation(self.squeeze_excitation(hidden_states) + residual)


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
class EcgSeResNetPreTrainedModel(PreTrainedModel):
    config: EcgSeResNetConfig
    base_model_prefix = "ecg_se_resnet"
    main_input_name = "ecg_values"
    # The network has no attention, so a model that contains it may use any implementation.
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": EcgSeResNetBlock}

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, nn.Conv1d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, EcgSeResNetLastNorm):
            init.zeros_(module.weight)
        elif isinstance(module, EcgSeResNetModel):
            init.zeros_(module.absent_leads)


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
class EcgSeResNetModel(EcgSeResNetPreTrainedModel):
    """The encoder. It reads ECGs of any length, and knows each lead by its row."""

    _keys_to_ignore_on_load_unexpected = [r"^classifier\."]  # in a checkpoint of the classifier

    def __init__(self, config: EcgSeResNetConfig):
        super().__init__(config)
        channels = config.hidden_sizes[0]
        self.stem = nn.Conv1d(
            config.num_leads, channels, config.stem_kernel_size, 2, config.stem_kernel_size // 2, bias=False
        )
        # What the stem adds for each lead that an ECG lacks.
        self.absent_leads = nn.Parameter(torch.zeros(config.num_leads, channels))
        self.normalization = nn.BatchNorm1d(channels)
        self.activation = ACT2FN[config.hidden_act]
        blocks = []
        for stage, (size, depth, kernel) in enumerate(zip(config.hidden_sizes, config.depths, config.kernel_sizes)):
            for index in range(depth):
                blocks.append(EcgSeResNetBlock(config, channels, size, kernel, 2 if stage > 0 and index == 0 else 1))
                channels = size
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
                The ECGs, as [`EcgFeatureExtractor`] returns them.
            ecg_lead_mask (`torch.BoolTensor` of shape `(batch_size, num_leads)`, *optional*):
                `True` for present leads; all by default. An absent lead counts as zero, and its learned embedding is
                added to the stem's output.

        Returns:
            [`BaseModelOutputWithPooling`] with `last_hidden_state` of shape `(batch_size, num_samples / 16,
            hidden_size)`, and `pooler_output` of shape `(batch_size, 2 * hidden_size)`, its mean and its maximum over
            time. `hidden_states` are the input of the first block and the output of each block, of shape `(batch_size,
            channels, tokens)`.

        Raises:
            `ValueError`: If `ecg_values` has another number of dimensions or leads.
        """
        if ecg_values.dim() != 3 or ecg_values.shape[1] != self.config.num_leads:
            raise ValueError(
                f"EcgSeResNetModel takes `ecg_values` of shape (batch, {self.config.num_leads}, samples), got "
                f"{tuple(ecg_values.shape)}."
            )
        ecg_values = ecg_values.to(self.dtype)
        if ecg_lead_mask is None:
            hidden_states = self.stem(ecg_values)
        else:
            absent = ~ecg_lead_mask.bool()
            hidden_states = self.stem(ecg_values.masked_fill(absent[:, :, None], 0))
            hidden_states = hidden_states + (absent.to(ecg_values.dtype) @ self.absent_leads)[:, :, None]
        hidden_states = self.activation(self.normalization(hidden_states))
        for block in self.blocks:
            hidden_states = block(hidden_states)
        pooled = torch.cat([hidden_states.mean(dim=2), hidden_states.amax(dim=2)], dim=1)
        return BaseModelOutputWithPooling(last_hidden_state=hidden_states.transpose(1, 2), pooler_output=pooled)


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
class EcgSeResNetForSequenceClassification(EcgForSequenceClassification, EcgSeResNetPreTrainedModel):
    """The encoder with a linear classifier on `pooler_output`."""

    def __init__(self, config: EcgSeResNetConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.ecg_se_resnet = EcgSeResNetModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(2 * config.hidden_size, config.num_labels)
        self.post_init()

    def classify(self, ecg_values: torch.FloatTensor, outputs: BaseModelOutputWithPooling) -> torch.FloatTensor:
        """The logits of `pooler_output`, with dropout in training."""
        return self.classifier(self.dropout(outputs.pooler_output))


EcgSeResNetModel.register_for_auto_class("AutoModel")
EcgSeResNetForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
AutoModel.register(EcgSeResNetConfig, EcgSeResNetModel, exist_ok=True)
AutoModelForSequenceClassification.register(EcgSeResNetConfig, EcgSeResNetForSequenceClassification, exist_ok=True)

__all__ = ["EcgSeResNetForSequenceClassification", "EcgSeResNetModel", "EcgSeResNetPreTrainedModel"]
