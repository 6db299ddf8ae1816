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
"""ECG-JEPA (Kim 2024): a transformer whose tokens attend to their own lead and to their own time."""

import math

import torch
from torch import nn
from transformers import AutoModel, AutoModelForSequenceClassification, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_ecg_jepa import EcgJepaConfig
from .encoder_parts import EcgForSequenceClassification, check_lead_mask
from .modeling_ecg_vit import EcgVitMLP, sin_cos_positions


class EcgJepaAttention(nn.Module):
    """
    Self-attention in the shape of a cross: a token attends to the patches of its own lead and to the patches of all
    leads at its own time. The scores of other pairs are not computed.
    """

    def __init__(self, config: EcgJepaConfig):
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.scaling = (config.hidden_size // config.num_attention_heads) ** -0.5
        self.qkv_proj = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor, hidden_leads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        r"""
        Args:
            hidden_states (`torch.Tensor` of shape `(batch_size, num_leads, num_patches, hidden_size)`):
                The tokens.
            hidden_leads (`torch.BoolTensor` of shape `(batch_size or 1, num_leads, num_leads)`):
                `True` for leads (last dimension) that a token of a lead does not attend to at its own time.

        Returns:
            The output, of the shape of `hidden_states`, and the attention weights of shape `(batch_size, num_heads,
            num_leads, num_patches, num_patches + num_leads)`: of the patches of the same lead, then of the same time.
        """
        num_patches = hidden_states.shape[2]
        qkv = self.qkv_proj(hidden_states).unflatten(-1, (3, self.num_heads, -1))
        # (batch, leads, patches, 3, heads, width) -> three of (batch, heads, leads, patches, width)
        query, key, value = qkv.permute(3, 0, 4, 1, 2, 5).unbind(0)
        in_lead = torch.matmul(query * self.scaling, key.transpose(3, 4))  # (batch, heads, leads, patches, patches)
        query, key = (tensor.transpose(2, 3) for tensor in (query * self.scaling, key))
        at_time = torch.matmul(query, key.transpose(3, 4))  # (batch, heads, patches, leads, leads)
        at_time = at_time.masked_fill(hidden_leads[:, None, None], -torch.inf).transpose(2, 3)
        weights = torch.cat([in_lead, at_time], dim=-1).softmax(dim=-1)
        in_lead, at_time = weights[..., :num_patches], weights[..., num_patches:]
        output = torch.matmul(in_lead, value)
        output = output + torch.matmul(at_time.transpose(2, 3), value.transpose(2, 3)).transpose(2, 3)
        return self.out_proj(output.permute(0, 2, 3, 1, 4).flatten(3)), weights


class EcgJepaLayer(GradientCheckpointingLayer):
    """Pre-norm transformer layer. The positions are added to its input."""

    def __init__(self, config: EcgJepaConfig):
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.hidden_size)
        self.attention = EcgJepaAttention(config)
        self.mlp_norm = nn.LayerNorm(config.hidden_size)
        self.mlp = EcgVitMLP(config.hidden_size, config.intermediate_size)

    def forward(
        self, hidden_states: torch.Tensor, positions: torch.Tensor, hidden_leads: torch.Tensor
    ) -> torch.Tensor:
        hidden_states = hidden_states + positions
        attended, _ = self.attention(self.attention_norm(hidden_states), hidden_leads)
        hidden_states = hidden_states + attended
        return hidden_states + self.mlp(self.mlp_norm(hidden_states))


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
class EcgJepaPreTrainedModel(PreTrainedModel):
    config: EcgJepaConfig
    base_model_prefix = "ecg_jepa"
    main_input_name = "ecg_values"
    input_modalities = ("ecg",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["EcgJepaLayer"]
    # The attention is the model's own, so a model that contains it may use any implementation.
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {
        "hidden_states": EcgJepaLayer,
        "attentions": OutputRecorder(EcgJepaAttention, index=1),
    }

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, EcgJepaModel):
            init.copy_(module.position_embeddings, position_table(self.config))
            for number, layer in enumerate(module.layers, start=1):
                std = self.config.initializer_range / math.sqrt(2 * number)
                init.normal_(layer.attention.out_proj.weight, std=std)
                init.normal_(layer.mlp.down_proj.weight, std=std)


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
class EcgJepaModel(EcgJepaPreTrainedModel):
    """The encoder. It encodes any subset of its leads with the same weights."""

    _keys_to_ignore_on_load_unexpected = [r"^classifier\."]  # in a checkpoint of the classifier

    def __init__(self, config: EcgJepaConfig):
        super().__init__(config)
        self.patch_embeddings = nn.Linear(config.patch_size, config.hidden_size)
        # Not trained, but saved in checkpoints: a buffer.
        self.position_embeddings = nn.Buffer(torch.zeros(config.num_leads, config.num_patches, config.hidden_size))
        self.layers = nn.ModuleList(EcgJepaLayer(config) for _ in range(config.num_hidden_layers))
        self.layernorm = nn.LayerNorm(config.hidden_size)
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
                The ECGs in millivolt, as [`EcgJepaFeatureExtractor`] returns them; `num_samples` must be a multiple
                of `patch_size`.
            ecg_lead_mask (`torch.BoolTensor` of shape `(batch_size, num_leads)`, *optional*):
                `True` for present leads; all by default. The result does not depend on absent leads.

        Returns:
            [`BaseModelOutputWithPooling`] with `last_hidden_state` of shape `(batch_size, num_leads * num_samples /
            patch_size, hidden_size)`, the patches lead after lead, 0 for absent leads; and `pooler_output` of shape
            `(batch_size, hidden_size)`, the mean over the patches of present leads. `hidden_states` have the shape
            `(batch_size, num_leads, num_patches, hidden_size)`; `attentions` are described in [`EcgJepaAttention`].

        Raises:
            `ValueError`: If the shapes are not as described, or an ECG has no lead.
        """
        self._check_inputs(ecg_values, ecg_lead_mask)
        # A patch is among those of its own lead; at its own time it must not count once more.
        hidden_leads = torch.eye(self.config.num_leads, dtype=torch.bool, device=ecg_values.device)[None]
        if ecg_lead_mask is not None:
            is_absent = ~ecg_lead_mask.bool()
            ecg_values = ecg_values.masked_fill(is_absent[..., None], 0)
            hidden_leads = hidden_leads | is_absent[:, None]
        patches = ecg_values.unflatten(2, (-1, self.config.patch_size))
        hidden_states = self.patch_embeddings(patches.to(self.dtype))
        positions = self.position_embeddings[:, : patches.shape[2]]
        for layer in self.layers:
            hidden_states = layer(hidden_states, positions, hidden_leads)
        tokens = self.layernorm(hidden_states)  # (batch, leads, patches, hidden)
        pooled = tokens.mean(dim=2)
        if ecg_lead_mask is None:
            pooled = pooled.mean(dim=1)
        else:
            tokens = tokens.masked_fill(is_absent[..., None, None], 0)
            pooled = pooled.masked_fill(is_absent[..., None], 0).sum(dim=1) / ecg_lead_mask.sum(dim=1, keepdim=True)
        return BaseModelOutputWithPooling(last_hidden_state=tokens.flatten(1, 2), pooler_output=pooled)

    def _check_inputs(self, ecg_values: torch.Tensor, ecg_lead_mask: torch.Tensor | None):
        config = self.config
        if ecg_values.dim() != 3 or ecg_values.shape[1] != config.num_leads:
            raise ValueError(
                f"`ecg_values` must have the shape (batch, {config.num_leads} leads, samples), got "
                f"{tuple(ecg_values.shape)}. An ECG with fewer leads keeps a row for each lead of the model, and "
                "`ecg_lead_mask` tells which are present; the feature extractor returns both."
            )
        num_samples = ecg_values.shape[2]
        if num_samples == 0 or num_samples % config.patch_size or num_samples > config.num_samples:
            raise ValueError(
                f"An ECG of {num_samples} samples does not fit: this model takes multiples of "
                f"patch_size={config.patch_size} up to num_samples={config.num_samples}, for which it has positions."
            )
        check_lead_mask(ecg_values, ecg_lead_mask)


def position_table(config: EcgJepaConfig) -> torch.Tensor:
    r"""
    Fixed position embeddings: the first half of the width codes the time, the second half the lead.

    Args:
        config ([`EcgJepaConfig`]):
            Configuration of the model.

    Returns:
        `torch.Tensor` of shape `(num_leads, num_patches, hidden_size)`.
    """
    half = config.hidden_size // 2
    shape = (config.num_leads, config.num_patches, half)
    times = sin_cos_positions(config.num_patches, half).expand(shape)
    leads = sin_cos_positions(config.num_leads, half)[:, None].expand(shape)
    return torch.cat([times, leads], dim=-1)


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
class EcgJepaForSequenceClassification(EcgForSequenceClassification, EcgJepaPreTrainedModel):
    """The encoder with a linear classifier on `pooler_output`, as in the paper's linear evaluation."""

    def __init__(self, config: EcgJepaConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.ecg_jepa = EcgJepaModel(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()


EcgJepaModel.register_for_auto_class("AutoModel")
EcgJepaForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
AutoModel.register(EcgJepaConfig, EcgJepaModel, exist_ok=True)
AutoModelForSequenceClassification.register(EcgJepaConfig, EcgJepaForSequenceClassification, exist_ok=True)

__all__ = ["EcgJepaForSequenceClassification", "EcgJepaModel", "EcgJepaPreTrainedModel"]
