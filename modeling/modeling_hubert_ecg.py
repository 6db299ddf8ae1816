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
"""HuBERT-ECG (Coppola et al. 2024): transformers' HuBERT on the leads of an ECG, written one after the other."""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModel, AutoModelForSequenceClassification, HubertModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.output_capturing import capture_outputs

from .configuration_hubert_ecg import HubertEcgConfig
from .encoder_parts import check_lead_mask
from .modeling_ecg_hubert import (
    EcgHubertPreTrainedModel,
    EcgPiecesForSequenceClassification,
    cut_into_pieces,
    join_pieces,
)


class HubertEcgClassifier(nn.Module):
    """Logits `(..., num_labels)` of mean tokens `(..., hidden_size)`."""

    def __init__(self, config: HubertEcgConfig):
        super().__init__()
        self.classifier_type = config.classifier_type
        # CODEPATH: the classifiers of the published checkpoints are of three types.
        if config.classifier_type == "label_embedding":
            self.label_embedding = nn.Embedding(config.num_labels, config.hidden_size)
        # CODEPATH: as above.
        elif config.classifier_type == "mlp":
            self.dense = nn.Linear(config.hidden_size, config.classifier_hidden_size)
            self.out_proj = nn.Linear(config.classifier_hidden_size, config.num_labels)
        else:
            self.out_proj = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        if self.classifier_type == "label_embedding":
            return F.normalize(pooled, dim=-1) @ F.normalize(self.label_embedding.weight, dim=-1).T
        if self.classifier_type == "mlp":
            pooled = torch.tanh(self.dense(pooled))
        return self.out_proj(pooled)


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
class HubertEcgPreTrainedModel(EcgHubertPreTrainedModel):
    config: HubertEcgConfig
    base_model_prefix = "hubert_ecg"


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
class HubertEcgModel(HubertEcgPreTrainedModel, HubertModel):
    """
    The encoder: transformers' [`HubertModel`], which reads the leads of an ECG one after the other as one signal. It
    takes any number of leads.
    """

    _keys_to_ignore_on_load_unexpected = [r"^classifier\."]  # in a checkpoint of the classifier

    # trf-ignore: TRF057 (auto_docstring describes the library's own models only)
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self, ecg_values: torch.FloatTensor, ecg_lead_mask: torch.BoolTensor | None = None, **kwargs
    ) -> BaseModelOutputWithPooling:
        r"""
        Args:
            ecg_values (`torch.FloatTensor` of shape `(batch_size, num_leads, num_samples)`):
                The ECGs, as [`HubertEcgFeatureExtractor`] returns them.
            ecg_lead_mask (`torch.BoolTensor` of shape `(batch_size, num_leads)`, *optional*):
                `True` for present leads. It is checked and has no other effect: the feature extractor fills absent
                leads with the mean of the others, as in pre-training, and the authors evaluate without a mask.

        Returns:
            [`BaseModelOutputWithPooling`] with `last_hidden_state` of shape `(batch_size, num_tokens, hidden_size)`, a
            token per 64 samples of the signal, piece after piece; and `pooler_output` of shape `(batch_size,
            hidden_size)`, its mean. Within a piece the tokens of the first lead come first, and single tokens span
            two leads. `hidden_states` and `attentions` are those of the pieces, of shape `(batch_size * num_pieces,
            ...)`.

        Raises:
            `ValueError`: If the shapes are not as described, an ECG has no lead, or it cannot be cut into pieces.
        """
        pieces = cut_into_pieces(ecg_values, self.config.piece_samples)
        check_lead_mask(ecg_values, ecg_lead_mask)
        signals = pieces.flatten(1)
        if self._get_feat_extract_output_lengths(signals.shape[1]) < 1:
            raise ValueError(
                f"`ecg_values` of shape {tuple(ecg_values.shape)} are too short for HuBERT-ECG: {signals.shape[1]} "
                "samples of all leads give no token."
            )
        features = self.feature_extractor(signals.to(self.dtype)).transpose(1, 2)
        return join_pieces(self.encoder(self.feature_projection(features), **kwargs), len(ecg_values))


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
class HubertEcgForSequenceClassification(EcgPiecesForSequenceClassification, HubertEcgPreTrainedModel):
    """The encoder with a classifier on the mean token of each piece."""

    def __init__(self, config: HubertEcgConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.hubert_ecg = HubertEcgModel(config)
        self.classifier = HubertEcgClassifier(config)
        self.post_init()


HubertEcgModel.register_for_auto_class("AutoModel")
HubertEcgForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
AutoModel.register(HubertEcgConfig, HubertEcgModel, exist_ok=True)
AutoModelForSequenceClassification.register(HubertEcgConfig, HubertEcgForSequenceClassification, exist_ok=True)

__all__ = ["HubertEcgForSequenceClassification", "HubertEcgModel", "HubertEcgPreTrainedModel"]
