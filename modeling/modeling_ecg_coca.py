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
"""ECG-CoCa, the ECG encoder of ECG-Chat (Zhao et al. 2024) and GEM (Lan et al. 2025)."""

import math

import torch
from torch import nn
from transformers import AutoModel, AutoModelForSequenceClassification
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.output_capturing import capture_outputs

from .configuration_ecg_coca import EcgCocaConfig
from .encoder_parts import EcgForSequenceClassification, check_lead_mask
from .modeling_ecg_vit import EcgVitLayer, EcgVitPreTrainedModel


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
class EcgCocaPreTrainedModel(EcgVitPreTrainedModel):
    config: EcgCocaConfig
    base_model_prefix = "ecg_coca"

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, nn.Conv1d | nn.Linear):  # as PyTorch does
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            if module.bias is not None:
                bound = 1 / math.sqrt(module.weight[0].numel())
                init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, EcgCocaModel):
            for table in (module.class_embedding, module.position_embeddings, module.projection):
                init.normal_(table, std=self.config.hidden_size**-0.5)
            for layer in module.layers:  # as in PyTorch's `MultiheadAttention`
                init.xavier_uniform_(layer.attention.qkv_proj.weight)
                init.zeros_(layer.attention.qkv_proj.bias)
                init.zeros_(layer.attention.out_proj.bias)


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
class EcgCocaModel(EcgCocaPreTrainedModel):
    """The encoder: a vision transformer whose patches are stretches of time of all leads."""

    _keys_to_ignore_on_load_unexpected = [r"^classifier\."]  # in a checkpoint of the classifier

    def __init__(self, config: EcgCocaConfig):
        super().__init__(config)
        width = config.hidden_size
        self.patch_embeddings = nn.Conv1d(config.num_leads, width, config.patch_size, config.patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.position_embeddings = nn.Parameter(torch.zeros(1 + config.num_patches, width))
        self.pre_norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(EcgVitLayer(config) for _ in range(config.num_hidden_layers))
        self.post_norm = nn.LayerNorm(width)
        self.projection = nn.Parameter(torch.zeros(width, config.projection_dim))
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.patch_embeddings

    # trf-ignore: TRF057 (auto_docstring describes the library's own models only)
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self, ecg_values: torch.FloatTensor, ecg_lead_mask: torch.BoolTensor | None = None, **kwargs
    ) -> BaseModelOutputWithPooling:
        r"""
        Args:
            ecg_values (`torch.FloatTensor` of shape `(batch_size, num_leads, num_samples)`):
                The ECGs in millivolt, as [`EcgCocaFeatureExtractor`] returns them, with aVF before aVL.
            ecg_lead_mask (`torch.BoolTensor` of shape `(batch_size, num_leads)`, *optional*):
                `True` for present leads; all by default. Absent leads are set to 0, as in pre-training.

        Returns:
            [`BaseModelOutputWithPooling`] with `last_hidden_state` of shape `(batch_size, 1 + num_patches,
            hidden_size)`, the class token and the patches before the last norm, as ECG-Chat and GEM use them; and
            `pooler_output` of shape `(batch_size, hidden_size)`, the class token after the norm.

        Raises:
            `ValueError`: If the shapes are not as described, or an ECG has no lead.
        """
        config = self.config
        if ecg_values.dim() != 3 or ecg_values.shape[1:] != (config.num_leads, config.num_samples):
            raise ValueError(
                f"ECG-CoCa takes `ecg_values` of shape (batch, {config.num_leads} leads, {config.num_samples} samples), "
                f"got {tuple(ecg_values.shape)}. An ECG with fewer leads keeps a row for each lead, and `ecg_lead_mask` "
                "tells which are present."
            )
        if ecg_lead_mask is not None:
            check_lead_mask(ecg_values, ecg_lead_mask)
            ecg_values = ecg_values.masked_fill(~ecg_lead_mask.bool()[..., None], 0)
        patches = self.patch_embeddings(ecg_values.to(self.dtype)).transpose(1, 2)
        first = self.class_embedding.expand(len(patches), 1, -1)
        hidden_states = self.pre_norm(torch.cat([first, patches], dim=1) + self.position_embeddings)
        for layer in self.layers:
            hidden_states = layer(hidden_states, **kwargs)
        return BaseModelOutputWithPooling(
            last_hidden_state=hidden_states, pooler_output=self.post_norm(hidden_states[:, 0])
        )

    def get_ecg_features(
        self, ecg_values: torch.FloatTensor, ecg_lead_mask: torch.BoolTensor | None = None
    ) -> torch.FloatTensor:
        r"""
        Embeddings that pre-training compared with those of reports.

        Args:
            ecg_values, ecg_lead_mask:
                As for `forward`.

        Returns:
            `torch.FloatTensor` of shape `(batch_size, projection_dim)`, of length 1.
        """
        pooled = self(ecg_values, ecg_lead_mask=ecg_lead_mask, return_dict=True).pooler_output
        return nn.functional.normalize(pooled @ self.projection, dim=-1)


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
class EcgCocaForSequenceClassification(EcgForSequenceClassification, EcgCocaPreTrainedModel):
    """The encoder with a linear classifier on `pooler_output`."""

    def __init__(self, config: EcgCocaConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.ecg_coca = EcgCocaModel(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()


EcgCocaModel.register_for_auto_class("AutoModel")
EcgCocaForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
AutoModel.register(EcgCocaConfig, EcgCocaModel, exist_ok=True)
AutoModelForSequenceClassification.register(EcgCocaConfig, EcgCocaForSequenceClassification, exist_ok=True)

__all__ = ["EcgCocaForSequenceClassification", "EcgCocaModel", "EcgCocaPreTrainedModel"]
