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
"""How an ECG-language model is composed of pre-trained encoders, an LLM and a new projector."""

import torch
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from .configuration_elm import ElmConfig
from .ecg_encoders import find_ecg_encoder
from .llm_parts import UNUSUAL_PARTS, check_llm, check_logits, text_part, unsupported
from .modeling_elm_encoder import encode
from .modeling_elm_projector import build_projector


class ElmCompositionMixin:
    """Composes an ECG-language model."""

    @classmethod
    def from_encoder_llm_pretrained(
        cls,
        encoder: str | PreTrainedModel | None,
        llm: str | PreTrainedModel,
        ecg_token_id: int,
        ecg_vocab_size: int | None = None,
        dtype: str | torch.dtype = "auto",
        picture_encoder: str | PreTrainedModel | None = None,
        **config_kwargs,
    ) -> PreTrainedModel:
        r"""
        Creates an ELM from a pre-trained encoder (or none), a pre-trained LLM and a new projector.

        Args:
            encoder (`str` or `PreTrainedModel`, *optional*):
                Repository, folder or model of an encoder; `None` for an encoder-free ELM.
            llm (`str` or `PreTrainedModel`):
                Repository, folder or model of a causal LLM. A model becomes part of the ELM and is not copied. Of a
                model of text and pictures, the text part is taken.
            ecg_token_id (`int`):
                Id of the placeholder token. If the embeddings have no row for it, they are resized.
            ecg_vocab_size (`int`, *optional*):
                Number of ECG tokens of `representation="symbol"`. They become new rows of the LLM's embeddings,
                sampled from the mean and covariance of the other rows.
            dtype (`str` or `torch.dtype`, *optional*, defaults to `"auto"`):
                Precision in which repositories and folders are loaded.
            picture_encoder (`str` or `PreTrainedModel`, *optional*):
                The vision encoder of `representation=["signal", "image"]`; `encoder` is that of the signal.
            config_kwargs:
                Fields of [`ElmConfig`].

        Returns:
            [`ElmForCausalLM`] in evaluation mode, in the precision of the LLM.

        Raises:
            `ValueError`: If the parts do not fit together, the encoder does not take ECGs of this length, or the LLM
                computes its logits in a way that an ELM does not reproduce.
        """
        if isinstance(llm, str):
            llm = AutoModelForCausalLM.from_pretrained(llm, dtype=dtype)
        llm = text_part(llm)
        check_llm(llm)
        encoder, picture_encoder = (_loaded(one, dtype) for one in (encoder, picture_encoder))
        num_rows = max(llm.get_input_embeddings().num_embeddings, ecg_token_id + 1)
        config = ElmConfig(
            text_config=llm.config,
            encoder_config=None if encoder is None else encoder.config,
            picture_encoder_config=None if picture_encoder is None else picture_encoder.config,
            lm_head_bias=llm.get_output_embeddings().bias is not None,
            ecg_token_id=ecg_token_id,
            ecg_token_offset=None if ecg_vocab_size is None else num_rows,
            ecg_vocab_size=ecg_vocab_size,
            **config_kwargs,
        )
        ecg_token_ids = range(num_rows, num_rows + (ecg_vocab_size or 0))
        try:
            with torch.device("meta"):
                model = cls(config)
        except UNUSUAL_PARTS as error:
            raise unsupported(llm, error) from error
        # A checkpoint has one precision, which transformers takes from its first weights, those of the encoder.
        encoder, picture_encoder = (one and one.to(llm.dtype) for one in (encoder, picture_encoder))
        # CODEPATH: checkpoints that read the signal and its picture have two encoders.
        if config.reads_both:
            model.model.encoder.signal, model.model.encoder.picture = encoder, picture_encoder
        else:
            model.model.encoder = encoder
        model.model.language_model = llm.base_model
        model.lm_head = llm.get_output_embeddings()
        model.model.projector = build_projector(config)
        if model.model.projector is not None:
            model.model.projector.to(llm.device, llm.dtype)
            model.model.projector.apply(model._init_weights)
        model.config.dtype = llm.dtype
        model.generation_config = llm.generation_config
        # Placeholders and ECG tokens are never generated.
        model.generation_config.suppress_tokens = [ecg_token_id, *ecg_token_ids]
        check_logits(model, llm)
        encoded = model._encode_noise()
        model._lengthen_tokens(encoded)
        if ecg_token_ids.stop > model.get_input_embeddings().num_embeddings:
            model.resize_token_embeddings(ecg_token_ids.stop)
        return model

    @torch.no_grad()
    def _encode_noise(self) -> torch.Tensor | None:
        """What the ECG encoder returns for noise, if there is one. Raises if it does not take ECGs of the model's length."""
        encoder, config = self.model.encoder, self.config
        # CODEPATH: checkpoints that read the signal and its picture have two encoders.
        if config.reads_both:
            encoder, config = encoder.signal, config.towers[0]
        # CODEPATH: pictures are made in the size of the vision encoder; an ECG encoder may need another length.
        if encoder is None or config.reads_pictures:
            return None
        shape = (1, config.num_leads, config.num_samples)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(self.device, encoder.dtype)
        try:
            return encode(encoder, config, noise)
        except ValueError as error:
            raise ValueError(
                f'The "{self.config.encoder_config.model_type}" encoder does not take ECGs of {shape[1]} leads and '
                f"{shape[2]} samples: {error}"
            ) from error

    @torch.no_grad()
    def _lengthen_tokens(self, encoded: torch.Tensor | None):
        """
        Makes the tokens of an ECG encoder and of measured values as long as those of text, if they are shorter: layers of a
        pre-trained LLM add states to them that fit the length of text, and beside these, shorter tokens hardly count.

        Args:
            encoded (`torch.Tensor` of shape `(num_ecgs, tokens, hidden_size)`, *optional*):
                What the ECG encoder returns.
        """
        projector, lengthened = self.model.projector, []
        # CODEPATH: some checkpoints read measured values as well.
        if self.config.measurements is not None:
            unknown = torch.full((1, len(self.config.measurements)), torch.nan, device=self.device)
            lengthened.append((projector.measurements.linear, projector.measurements(unknown)))
            projector = projector.ecg
        if encoded is not None:
            # CODEPATH: checkpoints that read the signal and its picture have two projectors.
            projector = projector.signal if self.config.reads_both else projector
            lengthened.append((projector.linear_2 or projector.linear_1, projector(encoded)))
        embeddings = self.get_input_embeddings()
        words = torch.arange(
            0, embeddings.num_embeddings, max(1, embeddings.num_embeddings // 1000), device=self.device
        )
        text = _length(embeddings(words))
        for layer, tokens in lengthened:
            layer.weight.mul_((text / _length(tokens)).clamp(1, 100))


def _length(tokens: torch.Tensor) -> torch.Tensor:
    """The mean norm of tokens."""
    return tokens.float().norm(dim=-1).mean()


def _loaded(encoder: str | PreTrainedModel | None, dtype: str | torch.dtype) -> PreTrainedModel | None:
    """An encoder that is given as a model, a repository or a folder."""
    if not isinstance(encoder, str):
        return encoder
    model_type = PreTrainedConfig.get_config_dict(encoder)[0].get("model_type")
    return (find_ecg_encoder(model_type) or AutoModel).from_pretrained(encoder, dtype=dtype)


__all__ = ["ElmCompositionMixin"]
