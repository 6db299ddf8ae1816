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
"""MERL (Liu et al. 2024): an ECG encoder, ResNet or ViT, trained to agree with reports; zero-shot classification."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModel, AutoModelForPreTraining, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput, can_return_tuple, torch_compilable_check
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_merl import MerlConfig
from .modeling_ecg_resnet import EcgResNetConvLayer
from .modeling_ecg_vit import EcgVitAttention, EcgVitLayer, EcgVitPreTrainedModel
from .modeling_merl_projection import (
    MerlAttentionPool,
    MerlResNetProjection,
    MerlTextProjection,
    MerlVitProjection,
    contrastive_loss,
)


BOTTLENECK_REDUCTION = 4  # He et al. 2016


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
@dataclass
class MerlForPreTrainingOutput(ModelOutput):
    r"""
    loss (`torch.FloatTensor` of shape `(1,)`, *optional*):
        `cma_loss + uma_loss`.
    cma_loss (`torch.FloatTensor` of shape `(1,)`, *optional*):
        Cross-modal alignment: contrastive loss of ECGs and reports, in both directions.
    uma_loss (`torch.FloatTensor` of shape `(1,)`, *optional*):
        Uni-modal alignment: contrastive loss of two views of each ECG, which dropout creates.
    logits_per_ecg (`torch.FloatTensor` of shape `(num_ecgs, num_texts)`):
        Cosines of the ECGs and texts of this process, divided by `config.temperature`.
    logits_per_text (`torch.FloatTensor` of shape `(num_texts, num_ecgs)`):
        The same, transposed.
    ecg_embeds (`torch.FloatTensor` of shape `(num_ecgs, projection_dim)`):
        The ECGs in the shared space, normalized to length 1.
    text_embeds (`torch.FloatTensor` of shape `(num_texts, projection_dim)`):
        The texts in the shared space, normalized to length 1.
    """

    loss: torch.FloatTensor | None = None
    cma_loss: torch.FloatTensor | None = None
    uma_loss: torch.FloatTensor | None = None
    logits_per_ecg: torch.FloatTensor | None = None
    logits_per_text: torch.FloatTensor | None = None
    ecg_embeds: torch.FloatTensor | None = None
    text_embeds: torch.FloatTensor | None = None


def build_shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    r"""
    The shortcut of a block: the identity, or a projection if the shape changes.

    Args:
        in_channels (`int`):
            Number of input channels of the block.
        out_channels (`int`):
            Number of output channels of the block.
        stride (`int`):
            Stride of the block.
    """
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return EcgResNetConvLayer(in_channels, out_channels, 1, stride, activation=None)


class MerlBasicBlock(GradientCheckpointingLayer):
    """Two convolutions with a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.first = EcgResNetConvLayer(in_channels, out_channels, 3, stride, "relu")
        self.second = EcgResNetConvLayer(out_channels, out_channels, 3, 1, activation=None)
        self.shortcut = build_shortcut(in_channels, out_channels, stride)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        residual = self.shortcut(hidden_states)
        return F.relu(self.second(self.first(hidden_states)) + residual)


class MerlBottleneckBlock(GradientCheckpointingLayer):
    """Three convolutions with a shortcut. The first two are narrow, and the second one is strided."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        channels = out_channels // BOTTLENECK_REDUCTION
        self.first = EcgResNetConvLayer(in_channels, channels, 1, 1, "relu")
        self.second = EcgResNetConvLayer(channels, channels, 3, stride, "relu")
        self.third = EcgResNetConvLayer(channels, out_channels, 1, 1, activation=None)
        self.shortcut = build_shortcut(in_channels, out_channels, stride)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        residual = self.shortcut(hidden_states)
        return F.relu(self.third(self.second(self.first(hidden_states))) + residual)


class MerlResNet(nn.Module):
    """Encodes ECGs `(batch, leads, samples)` as tokens `(batch, tokens, hidden_size)`, one per 16 samples."""

    def __init__(self, config: MerlConfig):
        super().__init__()
        self.stem = EcgResNetConvLayer(config.num_leads, config.embedding_size, 7, 2, "relu")
        # CODEPATH: ResNet-18 and 34 have basic blocks, ResNet-50, 101 and 152 bottleneck blocks.
        block_class = MerlBasicBlock if config.layer_type == "basic" else MerlBottleneckBlock
        self.stages = nn.ModuleList()
        in_channels = config.embedding_size
        for stage, (out_channels, depth) in enumerate(zip(config.hidden_sizes, config.depths)):
            blocks = nn.ModuleList()
            for index in range(depth):
                blocks.append(block_class(in_channels, out_channels, stride=2 if stage > 0 and index == 0 else 1))
                in_channels = out_channels
            self.stages.append(blocks)

    def forward(self, ecg_values: torch.Tensor, **kwargs) -> torch.Tensor:
        hidden_states = self.stem(ecg_values)
        for blocks in self.stages:
            for block in blocks:
                hidden_states = block(hidden_states)
        return hidden_states.transpose(1, 2)


class MerlVit(nn.Module):
    """Encodes ECGs `(batch, leads, samples)` as tokens `(batch, patches, hidden_size)`. A patch holds all leads."""

    def __init__(self, config: MerlConfig):
        super().__init__()
        self.patch_size = config.patch_size
        self.patch_embeddings = nn.Conv1d(
            config.num_leads, config.hidden_size, config.patch_size, stride=config.patch_size, bias=False
        )
        num_patches = config.num_tokens(config.num_samples)
        self.position_embeddings = nn.Parameter(torch.zeros(num_patches, config.hidden_size))
        self.layers = nn.ModuleList([EcgVitLayer(config) for _ in range(config.num_hidden_layers)])

    def forward(self, ecg_values: torch.Tensor, **kwargs) -> torch.Tensor:
        num_samples, longest = ecg_values.shape[2], len(self.position_embeddings) * self.patch_size
        if num_samples % self.patch_size or not 0 < num_samples <= longest:
            raise ValueError(
                f"This MERL ViT cuts ECGs into patches of {self.patch_size} samples and has positions for {longest} "
                f"samples; got {num_samples}. Give a multiple of {self.patch_size} up to {longest}."
            )
        hidden_states = self.patch_embeddings(ecg_values).transpose(1, 2)
        hidden_states = hidden_states + self.position_embeddings[: hidden_states.shape[1]]
        for layer in self.layers:
            hidden_states = layer(hidden_states, **kwargs)
        return hidden_states


def check_leads(ecg_values: torch.Tensor, ecg_lead_mask: torch.Tensor | None, num_leads: int):
    r"""
    Checks that all leads are present.

    Args:
        ecg_values (`torch.Tensor` of shape `(batch_size, num_leads, num_samples)`):
            The ECGs.
        ecg_lead_mask (`torch.Tensor` of shape `(batch_size, num_leads)`, *optional*):
            `True` for present leads.
        num_leads (`int`):
            Number of leads of the model.

    Raises:
        `ValueError`: If the shape is not as described, or a lead is absent.
    """
    if ecg_values.dim() != 3 or ecg_values.shape[1] != num_leads:
        raise ValueError(
            f"MERL takes `ecg_values` of shape (batch, {num_leads} leads, samples), got {tuple(ecg_values.shape)}; it "
            "needs all of its leads."
        )
    if ecg_lead_mask is not None:
        torch_compilable_check(ecg_lead_mask.all(), lambda: _missing_leads(ecg_lead_mask))


def _missing_leads(ecg_lead_mask: torch.Tensor) -> str:
    num_ecgs, num_leads = ecg_lead_mask.shape
    ecg = int(ecg_lead_mask.all(dim=1).logical_not().nonzero()[0])
    rows = ecg_lead_mask[ecg].logical_not().nonzero().flatten().tolist()
    return (
        f"MERL needs all {num_leads} leads, but ECG {ecg + 1} of {num_ecgs} lacks those in rows {rows} (counted from 0, in "
        "the order of the feature extractor's `leads`). Drop the ECG, or choose an encoder that takes fewer leads."
    )


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
class MerlPreTrainedModel(EcgVitPreTrainedModel):
    config: MerlConfig
    base_model_prefix = "merl"
    _no_split_modules = ["EcgVitLayer", "MerlBasicBlock", "MerlBottleneckBlock"]
    _can_record_outputs = {
        "hidden_states": [EcgVitLayer, MerlBasicBlock, MerlBottleneckBlock],
        "attentions": OutputRecorder(EcgVitAttention, index=1),
    }

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, nn.Conv1d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, MerlVit):
            init.normal_(module.position_embeddings)
        elif isinstance(module, MerlAttentionPool):
            init.normal_(module.position_embeddings, std=module.position_embeddings.shape[1] ** -0.5)
            init.normal_(module.cls_token, std=module.cls_token.shape[0] ** -0.5)


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
class MerlModel(MerlPreTrainedModel):
    """
    The ECG encoder. The ResNet takes any number of samples, the ViT multiples of `patch_size` up to `num_samples`
    (shorter ECGs use the first positions).
    """

    # In a checkpoint of the whole contrastive model.
    _keys_to_ignore_on_load_unexpected = [r"^(text_model|text_projection|ecg_projection|first_view|second_view)\."]

    def __init__(self, config: MerlConfig):
        super().__init__(config)
        # CODEPATH: there are published weights of both types of encoders; only the ViT ends with a norm.
        if config.encoder_type == "resnet":
            self.encoder = MerlResNet(config)
            self.norm = nn.Identity()
        else:
            self.encoder = MerlVit(config)
            self.norm = nn.LayerNorm(config.hidden_size)
        self.post_init()

    # trf-ignore: TRF057 (auto_docstring describes the library's own models only)
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self, ecg_values: torch.FloatTensor, ecg_lead_mask: torch.BoolTensor | None = None, **kwargs
    ) -> BaseModelOutputWithPooling:
        r"""
        Args:
            ecg_values (`torch.FloatTensor` of shape `(batch_size, num_leads, num_samples)`):
                The ECGs, as the [`EcgFeatureExtractor`] of the checkpoint returns them: scaled to 0 ... 1, at 500 Hz,
                and for the published weights with aVF **before** aVL.
            ecg_lead_mask (`torch.BoolTensor` of shape `(batch_size, num_leads)`, *optional*):
                `True` for present leads. All must be present.

        Returns:
            [`BaseModelOutputWithPooling`] with `last_hidden_state` of shape `(batch_size, num_tokens, hidden_size)`,
            the feature map of the last stage (ResNet, one token per 16 samples, rounded up) or the tokens of the last
            layer (ViT); and `pooler_output` of shape `(batch_size, hidden_size)`, its mean over time (ResNet) or the
            layer norm of that mean (ViT). The projections read `last_hidden_state` (ResNet) or `pooler_output` (ViT).
            `hidden_states` are the input of the first layer or block and the output of each of them, for a ResNet of
            shape `(batch_size, channels, tokens)`.

        Raises:
            `ValueError`: If a lead is absent, or the ViT does not take this length.
        """
        check_leads(ecg_values, ecg_lead_mask, self.config.num_leads)
        hidden_states = self.encoder(ecg_values.to(self.dtype), **kwargs)
        return BaseModelOutputWithPooling(
            last_hidden_state=hidden_states, pooler_output=self.norm(hidden_states.mean(dim=1))
        )


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
class MerlForPreTraining(MerlPreTrainedModel):
    """
    The encoder, a frozen text tower and their projections, for pre-training (Liu et al. 2024, section 3) and zero-shot
    classification with prompts.

    The text tower is not trained. As in the reference implementation, its dropout is active in training mode.
    """

    def __init__(self, config: MerlConfig):
        super().__init__(config)
        self.merl = MerlModel(config)
        self.text_model = AutoModel.from_config(config.text_config).requires_grad_(False)
        # CODEPATH: ResNet checkpoints pool the feature map with attention, ViT checkpoints project its mean.
        if config.encoder_type == "resnet":
            self.ecg_projection = MerlResNetProjection(config)
            num_features = config.projection_dim
        else:
            self.ecg_projection = MerlVitProjection(config)
            num_features = config.hidden_size
        self.text_projection = MerlTextProjection(config)
        self.first_view = nn.Linear(num_features, config.projection_dim, bias=False)
        self.second_view = nn.Linear(num_features, config.projection_dim, bias=False)
        self.dropout = nn.Dropout(config.projection_dropout)
        self.post_init()

    @classmethod
    def from_text_pretrained(cls, text_model: str | PreTrainedModel, **config_kwargs) -> "MerlForPreTraining":
        r"""
        Creates a model for pre-training from a pre-trained text tower and a new encoder.

        Args:
            text_model (`str` or `PreTrainedModel`):
                Repository, folder or model, in MERL `ncbi/MedCPT-Query-Encoder`. A model becomes part of the new model
                and is not copied. The new encoder has the same precision.
            config_kwargs:
                Fields of [`MerlConfig`].

        Returns:
            [`MerlForPreTraining`].
        """
        if isinstance(text_model, str):
            text_model = AutoModel.from_pretrained(text_model)
        model = cls(MerlConfig(text_config=text_model.config, **config_kwargs))
        model.text_model = text_model.to(model.dtype).requires_grad_(False)
        return model

    def train(self, mode: bool = True):
        r"""
        Sets the training mode. The text tower stays frozen (loading its weights makes them trainable).

        Args:
            mode (`bool`, *optional*, defaults to `True`):
                `True` for training mode, `False` for evaluation mode.
        """
        super().train(mode)
        self.text_model.requires_grad_(False)
        return self

    # trf-ignore: TRF057 (auto_docstring describes the library's own models only)
    @can_return_tuple
    def get_ecg_features(
        self, ecg_values: torch.FloatTensor, ecg_lead_mask: torch.BoolTensor | None = None, **kwargs
    ) -> BaseModelOutputWithPooling:
        r"""
        Encodes ECGs and projects them into the shared space.

        Args:
            ecg_values (`torch.FloatTensor` of shape `(batch_size, num_leads, num_samples)`):
                The ECGs, as for [`MerlModel`].
            ecg_lead_mask (`torch.BoolTensor` of shape `(batch_size, num_leads)`, *optional*):
                `True` for present leads. All must be present.

        Returns:
            The output of the encoder, with `pooler_output` of shape `(batch_size, projection_dim)`: the projected
            ECGs, not normalized.

        Raises:
            `ValueError`: If a lead is absent, or there are no learned positions for this length.
        """
        outputs = self._encode(ecg_values, ecg_lead_mask, **kwargs)
        outputs.pooler_output, _ = self.ecg_projection(outputs)
        return outputs

    def _encode(
        self, ecg_values: torch.FloatTensor, ecg_lead_mask: torch.BoolTensor | None = None, **kwargs
    ) -> BaseModelOutputWithPooling:
        """The output of the encoder. Raises if the attention pool has no positions for its length."""
        num_tokens, expected = (self.config.num_tokens(n) for n in (ecg_values.shape[-1], self.config.num_samples))
        if self.config.encoder_type == "resnet" and num_tokens != expected:
            raise ValueError(
                f"This MERL's attention pool has positions for the {expected} tokens of {self.config.num_samples} "
                f"samples; {ecg_values.shape[-1]} samples make {num_tokens}. Give ECGs of {self.config.num_samples} "
                "samples, or use MerlModel, which encodes any length."
            )
        return self.merl(ecg_values, ecg_lead_mask=ecg_lead_mask, return_dict=True, **kwargs)

    # trf-ignore: TRF057 (auto_docstring describes the library's own models only)
    @can_return_tuple
    def get_text_features(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        r"""
        Encodes texts (without gradient) and projects them into the shared space.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`):
                Token ids, with the special tokens of the text tower. The reports and prompts of MERL are in lower
                case.
            attention_mask (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*):
                0 for padding.
            token_type_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                Token types, if the text tower has them.

        Returns:
            The output of the text tower, with `pooler_output` of shape `(batch_size, projection_dim)`: the projected
            texts, not normalized.

        Raises:
            `ValueError`: If the text tower has no pooler.
        """
        if token_type_ids is not None:
            kwargs["token_type_ids"] = token_type_ids
        with torch.no_grad():
            outputs = self.text_model(input_ids, attention_mask=attention_mask, return_dict=True, **kwargs)
        pooled_output = outputs.get("pooler_output")
        if pooled_output is None:
            raise ValueError(
                f'The text tower "{self.config.text_config.model_type}" returns no `pooler_output`; MERL needs a model '
                "with a pooler, such as BERT."
            )
        outputs.pooler_output = self.text_projection(pooled_output)
        return outputs

    def classify(
        self, ecg_values: torch.FloatTensor, input_ids: torch.LongTensor, attention_mask: torch.Tensor | None = None
    ) -> torch.FloatTensor:
        r"""
        Zero-shot classification: compares each ECG with the prompt of each class (Liu et al. 2024, section 3.3).

        Args:
            ecg_values (`torch.FloatTensor` of shape `(num_ecgs, num_leads, num_samples)`):
                The ECGs, as for [`MerlModel`].
            input_ids, attention_mask (`torch.LongTensor` of shape `(num_classes, sequence_length)`):
                One prompt per class, in lower case.

        Returns:
            `torch.FloatTensor` of shape `(num_ecgs, num_classes)`: cosines. The class with the highest cosine fits
            best; if several classes can be present, each cosine is the score of its class.

        Raises:
            `ValueError`: As for [`~MerlForPreTraining.get_ecg_features`] and
                [`~MerlForPreTraining.get_text_features`].

        Example:

        ```python
        >>> from transformers import AutoFeatureExtractor, AutoModelForPreTraining, AutoTokenizer

        >>> model = AutoModelForPreTraining.from_pretrained(repo, trust_remote_code=True)
        >>> feature_extractor = AutoFeatureExtractor.from_pretrained(repo, trust_remote_code=True)
        >>> tokenizer = AutoTokenizer.from_pretrained("ncbi/MedCPT-Query-Encoder")
        >>> prompts = tokenizer(["normal ecg", "atrial fibrillation"], padding=True, return_tensors="pt")
        >>> ecgs = feature_extractor("path/to/06000_hr", return_tensors="pt")
        >>> scores = model.classify(ecgs["ecg_values"], prompts["input_ids"], prompts["attention_mask"])
        ```"""
        ecg_embeds = self.get_ecg_features(ecg_values, return_dict=True).pooler_output
        text_embeds = self.get_text_features(input_ids, attention_mask, return_dict=True).pooler_output
        return F.normalize(ecg_embeds, dim=-1) @ F.normalize(text_embeds, dim=-1).T

    # trf-ignore: TRF057 (auto_docstring describes the library's own models only)
    @can_return_tuple
    def forward(
        self,
        ecg_values: torch.FloatTensor,
        input_ids: torch.LongTensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        ecg_lead_mask: torch.BoolTensor | None = None,
        *,
        return_loss: bool = True,
        **kwargs,
    ) -> MerlForPreTrainingOutput:
        r"""
        Args:
            ecg_values (`torch.FloatTensor` of shape `(num_ecgs, num_leads, num_samples)`):
                The ECGs, as for [`MerlModel`].
            input_ids (`torch.LongTensor` of shape `(num_texts, sequence_length)`):
                The reports, as for [`~MerlForPreTraining.get_text_features`].
            attention_mask, token_type_ids:
                As for [`~MerlForPreTraining.get_text_features`].
            ecg_lead_mask (`torch.BoolTensor` of shape `(num_ecgs, num_leads)`, *optional*):
                `True` for present leads. All must be present.
            return_loss (`bool`, *optional*, defaults to `True`):
                Whether to compute the losses, for which report i must belong to ECG i. With several processes
                (`torch.distributed`) the losses compare the ECGs and reports of all processes, which must have equal
                numbers of them.

        Raises:
            `ValueError`: If the losses need as many reports as ECGs, a lead is absent, or there are no learned
                positions for this length.
        """
        if return_loss and len(ecg_values) != len(input_ids):
            raise ValueError(
                f"The losses need a report for each ECG, got {len(ecg_values)} ECGs and {len(input_ids)} reports. "
                "Pass `return_loss=False` (or use `classify`) to compare ECGs with prompts."
            )
        ecg_outputs = self._encode(ecg_values, ecg_lead_mask, **kwargs)
        ecg_embeds, features = self.ecg_projection(ecg_outputs)
        text_outputs = self.get_text_features(input_ids, attention_mask, token_type_ids, return_dict=True)
        ecg_embeds = F.normalize(ecg_embeds, dim=-1)
        text_embeds = F.normalize(text_outputs.pooler_output, dim=-1)

        loss = cma_loss = uma_loss = None
        if return_loss:
            first_view, second_view = self.dropout(self.first_view(features)), self.dropout(self.second_view(features))
            cma_loss = contrastive_loss(ecg_embeds, text_embeds, self.config.temperature)
            uma_loss = contrastive_loss(first_view, second_view, self.config.temperature)
            loss = cma_loss + uma_loss
        logits_per_ecg = ecg_embeds @ text_embeds.T / self.config.temperature
        return MerlForPreTrainingOutput(
            loss=loss,
            cma_loss=cma_loss,
            uma_loss=uma_loss,
            logits_per_ecg=logits_per_ecg,
            logits_per_text=logits_per_ecg.T,
            ecg_embeds=ecg_embeds,
            text_embeds=text_embeds,
        )


MerlModel.register_for_auto_class("AutoModel")
MerlForPreTraining.register_for_auto_class("AutoModelForPreTraining")
AutoModel.register(MerlConfig, MerlModel, exist_ok=True)
AutoModelForPreTraining.register(MerlConfig, MerlForPreTraining, exist_ok=True)

__all__ = ["MerlForPreTraining", "MerlModel", "MerlPreTrainedModel"]
