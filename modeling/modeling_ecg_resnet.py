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
"""1-D ResNet that encodes each lead with the same weights and averages the present leads."""

import torch
from torch import nn
from transformers import AutoModel, AutoModelForSequenceClassification, PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.output_capturing import capture_outputs

from .configuration_ecg_resnet import EcgResNetConfig
from .encoder_parts import EcgForSequenceClassification


# Standard deviation of new lead embeddings. The stem's output, to which they are added, has about unit variance.
LEAD_EMBEDDING_STD = 0.5


class EcgResNetConvLayer(nn.Module):
    """Convolution over time, batch norm and an activation (or none)."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int, activation: str | None):
        super().__init__()
        self.convolution = nn.Conv1d(
            in_channels, out_channels, kernel_size, stride=stride, padding=kernel_size // 2, bias=False
        )
        self.normalization = nn.BatchNorm1d(out_channels)
        self.activation = ACT2FN[activation] if activation is not None else nn.Identity()

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.activation(self.normalization(self.convolution(hidden_states)))


class EcgResNetBasicBlock(nn.Module):
    """Two convolutions with a shortcut, which is projected if the shape changes."""

    def __init__(self, config: EcgResNetConfig, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        kernel_size = config.kernel_size
        self.first = EcgResNetConvLayer(in_channels, out_channels, kernel_size, stride, config.hidden_act)
        self.second = EcgResNetConvLayer(out_channels, out_channels, kernel_size, 1, activation=None)
        if stride != 1 or in_channels != out_channels:
            self.shortcut = EcgResNetConvLayer(in_channels, out_channels, 1, stride, activation=None)
        else:
            self.shortcut = nn.Identity()
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        residual = self.shortcut(hidden_states)
        return self.activation(self.second(self.first(hidden_states)) + residual)


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
class EcgResNetPreTrainedModel(PreTrainedModel):
    config: EcgResNetConfig
    base_model_prefix = "ecg_resnet"
    main_input_name = "ecg_values"
    # The network has no attention, so a model that contains it may use any implementation.
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": EcgResNetBasicBlock}

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, nn.Conv1d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=LEAD_EMBEDDING_STD)


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
class EcgResNetModel(EcgResNetPreTrainedModel):
    """
    The encoder. The same weights encode every lead, in any number of samples; with `config.num_leads` an embedding
    tells them which lead it is.
    """

    _keys_to_ignore_on_load_unexpected = [r"^classifier\."]  # in a checkpoint of the classifier

    def __init__(self, config: EcgResNetConfig):
        super().__init__(config)
        self.stem = EcgResNetConvLayer(1, config.embedding_size, config.stem_kernel_size, 2, config.hidden_act)
        self.pooler = nn.MaxPool1d(kernel_size=3, stride=2, padding=1)
        # CODEPATH: `num_leads` is 0 in checkpoints of ECG-LM's encoder, and 12 in new ones of elm-hf.
        self.lead_embeddings = nn.Embedding(config.num_leads, config.embedding_size) if config.num_leads else None
        blocks = []
        in_channels = config.embedding_size
        for stage, (out_channels, depth) in enumerate(zip(config.hidden_sizes, config.depths)):
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(EcgResNetBasicBlock(config, in_channels, out_channels, stride))
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
                The ECGs, as [`EcgFeatureExtractor`] returns them.
            ecg_lead_mask (`torch.BoolTensor` of shape `(batch_size, num_leads)`, *optional*):
                `True` for present leads; all by default. Absent leads are not averaged.

        Returns:
            [`BaseModelOutputWithPooling`] with `last_hidden_state` of shape `(batch_size, num_samples / 32,
            hidden_size)`, the average of the leads; and `pooler_output` of shape `(batch_size, hidden_size)`, its mean
            over time. `hidden_states` are the input of the first block and the output of each block for single leads,
            of shape `(batch_size * num_leads, channels, tokens)`.

        Raises:
            `ValueError`: If `ecg_values` has another number of dimensions, or another number of leads than
                `config.num_leads`.
        """
        if ecg_values.dim() != 3:
            raise ValueError(
                f"EcgResNetModel takes `ecg_values` of shape (batch, leads, samples), got {tuple(ecg_values.shape)}."
            )
        batch_size, num_leads, num_samples = ecg_values.shape
        if self.lead_embeddings is not None and num_leads != self.config.num_leads:
            raise ValueError(
                f"EcgResNetModel knows {self.config.num_leads} leads by their row, got {num_leads}. Fill the rows of "
                "absent leads with 0 and mark them in `ecg_lead_mask`, as EcgFeatureExtractor does."
            )
        single_leads = ecg_values.reshape(batch_size * num_leads, 1, num_samples)
        hidden_states = self.pooler(self.stem(single_leads.to(self.dtype)))
        if self.lead_embeddings is not None:
            hidden_states = hidden_states + self.lead_embeddings.weight.repeat(batch_size, 1)[:, :, None]
        for block in self.blocks:
            hidden_states = block(hidden_states)

        per_lead = hidden_states.unflatten(0, (batch_size, num_leads))  # (batch, leads, hidden, tokens)
        if ecg_lead_mask is None:
            mean = per_lead.mean(dim=1)
        else:
            weight = ecg_lead_mask.to(per_lead.dtype)
            weight = weight / weight.sum(dim=1, keepdim=True).clamp(min=1)
            mean = (per_lead * weight[:, :, None, None]).sum(dim=1)
        last_hidden_state = mean.transpose(1, 2)
        return BaseModelOutputWithPooling(
            last_hidden_state=last_hidden_state, pooler_output=last_hidden_state.mean(dim=1)
        )


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
class EcgResNetForSequenceClassification(EcgForSequenceClassification, EcgResNetPreTrainedModel):
    """The encoder with a linear classifier on `pooler_output`, as it is pre-trained in ECG-LM (Yang et al. 2024)."""

    def __init__(self, config: EcgResNetConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.ecg_resnet = EcgResNetModel(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()


EcgResNetModel.register_for_auto_class("AutoModel")
EcgResNetForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
AutoModel.register(EcgResNetConfig, EcgResNetModel, exist_ok=True)
AutoModelForSequenceClassification.register(EcgResNetConfig, EcgResNetForSequenceClassification, exist_ok=True)

__all__ = ["EcgResNetForSequenceClassification", "EcgResNetModel", "EcgResNetPreTrainedModel"]
