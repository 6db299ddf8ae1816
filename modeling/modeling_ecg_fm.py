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
"""ECG-FM (McKeen et al. 2025): wav2vec 2.0 for ECGs, pre-trained by contrast with random leads masked."""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModel, AutoModelForSequenceClassification, HubertModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.output_capturing import capture_outputs

from .configuration_ecg_fm import EcgFmConfig
from .encoder_parts import check_lead_mask
from .modeling_ecg_hubert import (
    EcgHubertPreTrainedModel,
    EcgPiecesForSequenceClassification,
    cut_into_pieces,
    join_pieces,
)


class EcgFmGroupNorm(nn.GroupNorm):
    """Normalizes each channel over time, in single precision whatever the precision of the model."""

    def __init__(self, channels: int):
        super().__init__(channels, channels)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        weight, bias = self.weight.float(), self.bias.float()
        return F.group_norm(hidden_states.float(), self.num_groups, weight, bias, self.eps).to(hidden_states.dtype)


class EcgFmConvLayer(GradientCheckpointingLayer):
    """Convolution without padding, the norm of the first layer, GELU."""

    def __init__(self, config: EcgFmConfig, index: int):
        super().__init__()
        channels = [config.num_leads, *config.conv_dim][index : index + 2]
        self.conv = nn.Conv1d(*channels, config.conv_kernel[index], config.conv_stride[index], bias=False)
        self.layer_norm = EcgFmGroupNorm(channels[1]) if index == 0 else nn.Identity()

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return F.gelu(self.layer_norm(self.conv(hidden_states)))


class EcgFmFeatureEncoder(nn.Module):
    """Encodes pieces `(batch, leads, samples)` as `(batch, tokens, channels)`."""

    def __init__(self, config: EcgFmConfig):
        super().__init__()
        self.conv_layers = nn.ModuleList(EcgFmConvLayer(config, index) for index in range(len(config.conv_dim)))

    def forward(self, ecg_values: torch.Tensor) -> torch.Tensor:
        hidden_states = ecg_values
        for layer in self.conv_layers:
            hidden_states = layer(hidden_states)
        return hidden_states.transpose(1, 2)


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
class EcgFmPreTrainedModel(EcgHubertPreTrainedModel):
    config: EcgFmConfig
    base_model_prefix = "ecg_fm"


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
class EcgFmModel(EcgFmPreTrainedModel, HubertModel):
    """The encoder: convolutions over all leads together, then the transformer of HuBERT."""

    _keys_to_ignore_on_load_unexpected = [r"^classifier\."]  # in a checkpoint of the classifier

    def __init__(self, config: EcgFmConfig):
        super().__init__(config)
        self.feature_extractor = EcgFmFeatureEncoder(config)
        self.post_init()

    # trf-ignore: TRF057 (auto_docstring describes the library's own models only)
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self, ecg_values: torch.FloatTensor, ecg_lead_mask: torch.BoolTensor | None = None, **kwargs
    ) -> BaseModelOutputWithPooling:
        r"""
        Args:
            ecg_values (`torch.FloatTensor` of shape `(batch_size, num_leads, num_samples)`):
                The ECGs, as [`EcgFmFeatureExtractor`] returns them.
            ecg_lead_mask (`torch.BoolTensor` of shape `(batch_size, num_leads)`, *optional*):
                `True` for present leads; all by default. Absent leads are set to 0, as in pre-training with random
                leads masked.

        Returns:
            [`BaseModelOutputWithPooling`] with `last_hidden_state` of shape `(batch_size, num_tokens, hidden_size)`,
            one token per 16 samples, piece after piece; and `pooler_output` of shape `(batch_size, hidden_size)`, its
            mean. `hidden_states` and `attentions` are those of the pieces, of shape `(batch_size * num_pieces, ...)`.

        Raises:
            `ValueError`: If the shapes are not as described, an ECG has no lead, or it cannot be cut into pieces.
        """
        pieces = cut_into_pieces(ecg_values, self.config.piece_samples)
        if ecg_values.shape[1] != self.config.num_leads or ecg_values.shape[2] < self.config.inputs_to_logits_ratio:
            raise ValueError(
                f"ECG-FM takes `ecg_values` of shape (batch, {self.config.num_leads} leads, at least "
                f"{self.config.inputs_to_logits_ratio} samples), got {tuple(ecg_values.shape)}. An ECG with fewer "
                "leads keeps a row for each lead, and `ecg_lead_mask` tells which are present."
            )
        if ecg_lead_mask is not None:
            check_lead_mask(ecg_values, ecg_lead_mask)
            num_pieces = len(pieces) // len(ecg_values)
            pieces = pieces.masked_fill(~ecg_lead_mask.bool().repeat_interleave(num_pieces, dim=0)[..., None], 0)
        hidden_states = self.feature_projection(self.feature_extractor(pieces.to(self.dtype)))
        return join_pieces(self.encoder(hidden_states, **kwargs), len(ecg_values))


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
class EcgFmForSequenceClassification(EcgPiecesForSequenceClassification, EcgFmPreTrainedModel):
    """The encoder with a linear classifier on the mean token of each piece."""

    def __init__(self, config: EcgFmConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.ecg_fm = EcgFmModel(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()


EcgFmModel.register_for_auto_class("AutoModel")
EcgFmForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
AutoModel.register(EcgFmConfig, EcgFmModel, exist_ok=True)
AutoModelForSequenceClassification.register(EcgFmConfig, EcgFmForSequenceClassification, exist_ok=True)

__all__ = ["EcgFmForSequenceClassification", "EcgFmModel", "EcgFmPreTrainedModel"]
