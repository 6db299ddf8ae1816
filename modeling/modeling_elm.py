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
"""ECG-language model: an ECG encoder (or none), a projector and a causal LLM."""

import re
from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMultimodalLM, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling, CausalLMOutputWithPast
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES
from transformers.utils import can_return_tuple, torch_compilable_check

from .card_elm import ElmCardMixin, parts_of
from .composition_elm import ElmCompositionMixin
from .configuration_elm import ElmConfig
from .generation_elm import ElmGenerationMixin
from .llm_parts import TIED_EMBEDDINGS, scale_logits
from .modeling_elm_encoder import build_encoders, check_measurements, check_shapes, encode
from .modeling_elm_projector import ElmMeasurementEmbedding, build_projector
from .packed_attention import packed_attention_mask


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
@dataclass
class ElmModelOutputWithPast(BaseModelOutputWithPast):
    r"""
    ecg_hidden_states (`torch.FloatTensor` of shape `(num_ecgs, num_ecg_tokens, embedding_size)`, *optional*):
        The projected ECGs, which replace the embeddings of the placeholders.
    """

    ecg_hidden_states: torch.FloatTensor | None = None


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
@dataclass
class ElmCausalLMOutputWithPast(CausalLMOutputWithPast):
    r"""
    ecg_hidden_states (`torch.FloatTensor` of shape `(num_ecgs, num_ecg_tokens, embedding_size)`, *optional*):
        The projected ECGs, which replace the embeddings of the placeholders.
    """

    ecg_hidden_states: torch.FloatTensor | None = None


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
class ElmPreTrainedModel(ElmCardMixin, PreTrainedModel):
    config: ElmConfig
    base_model_prefix = "model"
    input_modalities = ("text", "ecg")
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = ["past_key_values"]
    # The LLM and the encoder check these themselves.
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    has_model_card = True

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, nn.Conv1d):  # "conv" projector; the LLM's 0.02 would almost remove amplitudes of 1 mV
            init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, ElmMeasurementEmbedding):
            # A number changes its token as much as its name does, and the tokens are about as long as those of text.
            for part in (module.number, module.name, module.unknown):
                init.normal_(part.weight)
            std = getattr(self.config.get_text_config(), "initializer_range", 0.02)
            init.normal_(module.linear.weight, std=std / module.hidden_size**0.5)

    def card_facts(self) -> dict:
        return parts_of(self.config) | {"num_parameters": self.num_parameters()}


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
class ElmModel(ElmPreTrainedModel):
    """The model without the language modeling head: encoder, projector and the backbone of the LLM."""

    def __init__(self, config: ElmConfig):
        super().__init__(config)
        self.encoder = build_encoders(config)
        self.projector = build_projector(config)
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()
        # Vision encoders also list layers of their text model, and FSDP requires that all listed layers exist.
        self._no_split_modules &= {type(module).__name__ for module in self.modules()}

    def train(self, mode: bool = True):
        r"""
        Sets the training mode. A frozen encoder or projector stays in evaluation mode, so that its batch norms do not
        update their statistics.

        Args:
            mode (`bool`, *optional*, defaults to `True`):
                `True` for training mode, `False` for evaluation mode.
        """
        super().train(mode)
        for part in (self.encoder, self.projector):
            if part is not None and not any(parameter.requires_grad for parameter in part.parameters()):
                part.eval()
        return self

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        self.language_model.set_input_embeddings(value)

    @can_return_tuple
    def get_ecg_features(
        self,
        ecg_values: torch.FloatTensor,
        ecg_lead_mask: torch.BoolTensor | None = None,
        ecg_pictures: torch.FloatTensor | None = None,
        ecg_modality_mask: torch.BoolTensor | None = None,
        ecg_measurements: torch.FloatTensor | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        r"""
        Encodes ECGs and projects them into the LLM's embedding space.

        Args:
            ecg_values (`torch.FloatTensor` of shape `(num_ecgs, num_leads, num_samples)`):
                The ECGs as the processor returns them, or pictures of shape `(num_ecgs, 3, height, width)`.
            ecg_lead_mask (`torch.BoolTensor` of shape `(num_ecgs, num_leads)`, *optional*):
                `True` for present leads; all by default. Used by encoders that support absent leads.
            ecg_pictures, ecg_modality_mask, ecg_measurements:
                As for [`ElmModel`].

        Returns:
            [`BaseModelOutputWithPooling`] with `last_hidden_state`, the output of the encoder (`None` without an
            encoder; that of two encoders as [`ElmTwoEncoders`] joins them); and `pooler_output` of shape `(num_ecgs,
            num_ecg_tokens, embedding_size)`, the projected ECGs.

        Raises:
            `ValueError`: If `ecg_values` or `ecg_pictures` have a shape that the model does not take.
        """
        check_shapes(self.config, ecg_values, ecg_pictures, ecg_modality_mask, ecg_measurements)
        # CODEPATH: checkpoints that read the signal and its picture encode both.
        if self.config.reads_both:
            signal, picture = self.encoder(ecg_values, ecg_pictures, ecg_lead_mask, **kwargs)
            joined = None if self.encoder.signal is None else self.encoder.join(signal, picture)
            projected = self._project(signal, picture, self._checked(ecg_modality_mask), measured=ecg_measurements)
            return BaseModelOutputWithPooling(last_hidden_state=joined, pooler_output=projected)
        # CODEPATH: encoder-free checkpoints feed the signal to the projector, the others the encoder's output.
        if self.encoder is None:
            return BaseModelOutputWithPooling(pooler_output=self._project(ecg_values, measured=ecg_measurements))
        encoded = encode(self.encoder, self.config, ecg_values, ecg_lead_mask, **kwargs)
        projected = self._project(encoded, measured=ecg_measurements)
        return BaseModelOutputWithPooling(last_hidden_state=encoded, pooler_output=projected)

    def _project(self, *encoded: torch.Tensor | None, measured: torch.FloatTensor | None) -> torch.Tensor:
        """Projects what the projector reads, and measured values."""
        # CODEPATH: some checkpoints read measured values as well.
        if self.config.measurements is not None:
            return self.projector(*encoded, ecg_measurements=measured)
        return self.projector(*encoded)

    def _project_stored(
        self,
        encoded: torch.Tensor,
        ecg_modality_mask: torch.BoolTensor | None,
        ecg_measurements: torch.FloatTensor | None,
    ) -> torch.Tensor:
        """Projects outputs of the encoder, or of two encoders as they are joined, that it returned before."""
        check_measurements(self.config, ecg_measurements, len(encoded))
        # CODEPATH: checkpoints that read the signal and its picture have two encoders.
        if self.config.reads_both:
            parts = (*self.encoder.split(encoded), self._checked(ecg_modality_mask))
            return self._project(*parts, measured=ecg_measurements)
        return self._project(encoded, measured=ecg_measurements)

    @staticmethod
    def _checked(ecg_modality_mask: torch.BoolTensor | None) -> torch.BoolTensor | None:
        """The mask, after checking that every ECG has a signal or a picture."""
        if ecg_modality_mask is not None:
            torch_compilable_check(
                ecg_modality_mask.any(dim=1).all(),
                lambda: (
                    "An ECG has neither signal nor picture in `ecg_modality_mask`: the model would answer without having "
                    "seen it."
                ),
            )
        return ecg_modality_mask

    def find_placeholders(
        self, input_ids: torch.LongTensor | None, inputs_embeds: torch.FloatTensor | None
    ) -> torch.BoolTensor:
        r"""
        Finds the placeholders of ECGs.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                Token ids.
            inputs_embeds (`torch.FloatTensor` of shape `(batch_size, sequence_length, embedding_size)`, *optional*):
                Embeddings, which are compared with that of the placeholder if there are no ids.

        Returns:
            `torch.BoolTensor` of shape `(batch_size, sequence_length)`: `True` for placeholders.
        """
        if input_ids is not None:
            return input_ids == self.config.ecg_token_id
        ecg_token_id = torch.full((), self.config.ecg_token_id, dtype=torch.long, device=inputs_embeds.device)
        return (inputs_embeds == self.get_input_embeddings()(ecg_token_id)).all(-1)

    def get_placeholder_mask(
        self, input_ids: torch.LongTensor | None, inputs_embeds: torch.FloatTensor, ecg_features: torch.FloatTensor
    ) -> torch.BoolTensor:
        r"""
        Finds the placeholders of ECGs and checks that there is one for each feature.

        Args:
            input_ids, inputs_embeds:
                As for [`~ElmModel.find_placeholders`].
            ecg_features (`torch.FloatTensor` of shape `(num_ecgs, num_ecg_tokens, embedding_size)`):
                The projected ECGs.

        Returns:
            `torch.BoolTensor` of shape `(batch_size, sequence_length, 1)`: `True` for placeholders.

        Raises:
            `ValueError`: If the number of placeholders is not the number of features.
        """
        mask = self.find_placeholders(input_ids, inputs_embeds)
        num_placeholders, num_ecgs = mask.sum(), ecg_features.shape[0]
        num_ecg_tokens = self.config.num_ecg_tokens
        torch_compilable_check(
            num_placeholders == num_ecgs * num_ecg_tokens,
            lambda: (
                f"The text holds {num_placeholders} ECG placeholders, but {num_ecgs} ECGs of {num_ecg_tokens} tokens "
                f"each give {num_ecgs * num_ecg_tokens} features."
            ),
        )
        return mask.unsqueeze(-1).to(inputs_embeds.device)

    def _check_no_placeholders(self, input_ids: torch.LongTensor | None, inputs_embeds: torch.FloatTensor):
        """Raises if there are placeholders, for a call without ECGs: the LLM would answer without having seen any."""
        num_placeholders = self.find_placeholders(input_ids, inputs_embeds).sum()
        # CODEPATH: "symbol" checkpoints read ECG tokens in the place of a placeholder, all others its features.
        if self.config.representation == "symbol":
            needed = 'ECG tokens are in their place (representation="symbol"): pass the `input_ids` of the processor'
        else:
            needed = (
                "neither `ecg_values` nor `encoder_hidden_states` was given: pass all outputs of "
                "`processor.apply_chat_template(..., return_dict=True)`, and train with a collator that adds the ECGs "
                "(`ElmDataCollator`)"
            )
        torch_compilable_check(
            num_placeholders == 0,
            lambda: (
                f"The text holds {num_placeholders} ECG placeholders (token id {self.config.ecg_token_id}), but {needed}."
            ),
        )

    # trf-ignore: TRF057 (auto_docstring describes the library's own models only)
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        ecg_values: torch.FloatTensor | None = None,
        ecg_lead_mask: torch.BoolTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        use_cache: bool | None = None,
        encoder_hidden_states: torch.FloatTensor | None = None,
        sequence_ids: torch.LongTensor | None = None,
        ecg_pictures: torch.FloatTensor | None = None,
        ecg_modality_mask: torch.BoolTensor | None = None,
        ecg_measurements: torch.FloatTensor | None = None,
        **kwargs,
    ) -> ElmModelOutputWithPast:
        r"""
        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`):
                Token ids, with `num_ecg_tokens` placeholders (`config.ecg_token_id`) for every ECG.
            ecg_values (`torch.FloatTensor` of shape `(num_ecgs, num_leads, num_samples)`, *optional*):
                All ECGs of the batch in the order of their placeholders, or pictures of shape
                `(num_ecgs, 3, height, width)`. `None` if the text has no placeholders.
            ecg_lead_mask (`torch.BoolTensor` of shape `(num_ecgs, num_leads)`, *optional*):
                `True` for present leads.
            ecg_pictures (`torch.FloatTensor` of shape `(num_ecgs, 3, height, width)`, *optional*):
                Pictures of the same ECGs, for models with `representation=["signal", "image"]`.
            ecg_modality_mask (`torch.BoolTensor` of shape `(num_ecgs, 2)`, *optional*):
                For these models, `True` if the signal, and if the picture, of an ECG are given; both by default. A
                learned vector is in the place of the tokens of the other one.
            ecg_measurements (`torch.FloatTensor` of shape `(num_ecgs, num_measurements)`, *optional*):
                Measured values of the same ECGs, NaN where unknown, for models with `config.measurements`.
            attention_mask, position_ids, past_key_values, inputs_embeds, use_cache:
                As for the LLM.
            encoder_hidden_states (`torch.FloatTensor` of shape `(num_ecgs, tokens, hidden_size)`, *optional*):
                Outputs of the encoder for the ECGs, if it has run before. They replace `ecg_values`.
            sequence_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                For rows that hold several conversations behind one copy of their shared prefix: 0 for the prefix, 1,
                2, ... for the rest of each conversation, -1 for padding. A token sees the prefix and its own
                conversation; the `position_ids` of each conversation continue those of the prefix.

        Raises:
            `ValueError`: If both or none of `input_ids` and `inputs_embeds` are given, the number of placeholders does
                not match the ECGs or there are placeholders without ECGs, the ECGs have another shape, or the LLM
                cannot mask packed conversations.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give either `input_ids` or `inputs_embeds`.")
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)

        ecg_features = None
        if encoder_hidden_states is not None:
            ecg_features = self._project_stored(encoder_hidden_states, ecg_modality_mask, ecg_measurements)
        elif ecg_values is not None:
            ecg_features = self.get_ecg_features(
                ecg_values, ecg_lead_mask, ecg_pictures, ecg_modality_mask, ecg_measurements, return_dict=True
            ).pooler_output
        if ecg_features is not None:
            ecg_features = ecg_features.to(inputs_embeds.device, inputs_embeds.dtype)
            mask = self.get_placeholder_mask(input_ids, inputs_embeds, ecg_features)
            inputs_embeds = inputs_embeds.masked_scatter(mask, ecg_features)
        else:
            self._check_no_placeholders(input_ids, inputs_embeds)

        if sequence_ids is not None:
            attention_mask = packed_attention_mask(
                self.language_model.config, inputs_embeds, position_ids, sequence_ids
            )
        outputs = self.language_model(
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        return ElmModelOutputWithPast(
            last_hidden_state=outputs.last_hidden_state,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            ecg_hidden_states=ecg_features,
        )


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
class ElmForCausalLM(ElmPreTrainedModel, ElmCompositionMixin, ElmGenerationMixin):
    """The ECG-language model: [`ElmModel`] with the language modeling head of the LLM."""

    # PEFT does not follow patterns, which is intended: ECG tokens that it trains are inputs only, and a head wrapped for
    # them would have no `bias`, which TRL reads.
    _tied_weights_keys = {
        "lm_head.weight": rf"^model\.language_model\.({'|'.join(map(re.escape, TIED_EMBEDDINGS))})\.weight$"
    }

    def __init__(self, config: ElmConfig):
        super().__init__(config)
        self.model = ElmModel(config)
        self.lm_head = nn.Linear(config.embedding_size, config.text_config.vocab_size, bias=config.lm_head_bias)
        self.post_init()
        # CODEPATH: LLMs with a plan for tensor parallelism split their embeddings, whose weights the head may share.
        if self.model.language_model._tp_plan:
            self._tp_plan["lm_head"] = "colwise_gather_output"

    def get_ecg_features(self, *args, **kwargs):
        """See [`~ElmModel.get_ecg_features`]."""
        return self.model.get_ecg_features(*args, **kwargs)

    # trf-ignore: TRF057 (auto_docstring describes the library's own models only)
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        ecg_values: torch.FloatTensor | None = None,
        ecg_lead_mask: torch.BoolTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        encoder_hidden_states: torch.FloatTensor | None = None,
        sequence_ids: torch.LongTensor | None = None,
        ecg_pictures: torch.FloatTensor | None = None,
        ecg_modality_mask: torch.BoolTensor | None = None,
        ecg_measurements: torch.FloatTensor | None = None,
        **kwargs,
    ) -> ElmCausalLMOutputWithPast:
        r"""
        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`):
                Token ids, with `num_ecg_tokens` placeholders (`config.ecg_token_id`) for every ECG.
            ecg_values (`torch.FloatTensor` of shape `(num_ecgs, num_leads, num_samples)`, *optional*):
                All ECGs of the batch in the order of their placeholders, or pictures of shape
                `(num_ecgs, 3, height, width)`. `None` if the text has no placeholders.
            ecg_lead_mask (`torch.BoolTensor` of shape `(num_ecgs, num_leads)`, *optional*):
                `True` for present leads.
            ecg_pictures, ecg_modality_mask, ecg_measurements:
                As for [`ElmModel`].
            labels (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                Token ids for the loss; -100 is ignored. The model shifts them by one.
            logits_to_keep (`int` or `torch.Tensor`, *optional*, defaults to 0):
                Number of positions from the end, or their indices, for which to compute logits. 0 stands for all.
            encoder_hidden_states (`torch.FloatTensor` of shape `(num_ecgs, tokens, hidden_size)`, *optional*):
                Outputs of the encoder for the ECGs, if it has run before. They replace `ecg_values`.
            sequence_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                For rows that hold several conversations behind one copy of their shared prefix, in training: see
                [`ElmModel`].
            attention_mask, position_ids, past_key_values, inputs_embeds, use_cache:
                As for the LLM.

        Raises:
            `ValueError`: As for [`ElmModel`].

        Example:

        ```python
        >>> from transformers import AutoModelForCausalLM, AutoProcessor

        >>> model = AutoModelForCausalLM.from_pretrained(repo, trust_remote_code=True)
        >>> processor = AutoProcessor.from_pretrained(repo, trust_remote_code=True)
        >>> question = {"type": "text", "text": "What is the rhythm?"}
        >>> messages = [{"role": "user", "content": [{"type": "ecg", "ecg": "path/to/06000_hr"}, question]}]
        >>> inputs = processor.apply_chat_template(
        ...     messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        ... )
        >>> output = model.generate(**inputs, max_new_tokens=32)
        >>> processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        ```"""
        outputs = self.model(
            input_ids=input_ids,
            ecg_values=ecg_values,
            ecg_lead_mask=ecg_lead_mask,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            encoder_hidden_states=encoder_hidden_states,
            sequence_ids=sequence_ids,
            ecg_pictures=ecg_pictures,
            ecg_modality_mask=ecg_modality_mask,
            ecg_measurements=ecg_measurements,
            **kwargs,
        )
        positions = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = scale_logits(self.lm_head(outputs.last_hidden_state[:, positions, :]), self.config.text_config)

        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.text_config.vocab_size, **kwargs
            )
        return ElmCausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            ecg_hidden_states=outputs.ecg_hidden_states,
        )


ElmModel.register_for_auto_class("AutoModel")
ElmForCausalLM.register_for_auto_class("AutoModelForCausalLM")
AutoModel.register(ElmConfig, ElmModel, exist_ok=True)
AutoModelForCausalLM.register(ElmConfig, ElmForCausalLM, exist_ok=True)
AutoModelForMultimodalLM.register(ElmConfig, ElmForCausalLM, exist_ok=True)
# The "any-to-any" pipeline looks for the class in these names, and reports one that is only registered as unsupported.
MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES[ElmConfig.model_type] = ElmForCausalLM.__name__

__all__ = ["ElmForCausalLM", "ElmModel", "ElmPreTrainedModel"]
