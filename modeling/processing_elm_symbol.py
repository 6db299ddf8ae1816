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
"""The processor of ECG-language models that read ECGs as tokens."""

from collections.abc import Sequence

import numpy as np
from transformers import AutoProcessor
from transformers.utils import logging

from .auto_classes import register
from .feature_extraction_ecg import EcgFeatureExtractor
from .processing_elm_base import ECG_TOKEN, BaseElmProcessor
from .tokenization_ecg_byte import EcgByteTokenizer


logger = logging.get_logger(__name__)


def symbols_of_an_ecg(num_leads: int, num_samples: int) -> int:
    r"""
    Approximate number of tokens of an ECG, one per ten samples (Han et al. 2024).

    Args:
        num_leads (`int`):
            Number of leads.
        num_samples (`int`):
            Number of samples of a lead.

    Returns:
        `int`: The number of tokens.
    """
    return num_leads * num_samples // 10


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
class ElmSymbolProcessor(BaseElmProcessor):
    r"""
    Bundles an [`EcgFeatureExtractor`] that leaves ECGs in millivolt, the LLM's tokenizer and an [`EcgByteTokenizer`],
    for models that read ECGs as tokens (`"symbol"`). In `input_ids` the ids of the ECG tokens begin at
    `ecg_token_offset`. Absent leads are flat.

    Args:
        feature_extractor ([`EcgFeatureExtractor`]):
            Prepares the ECGs.
        tokenizer (`PreTrainedTokenizerBase`):
            The LLM's fast tokenizer, as for [`ElmProcessor`].
        ecg_tokenizer ([`EcgByteTokenizer`]):
            Turns ECGs into tokens.
        ecg_token_offset (`int`, *optional*, defaults to 0):
            The model's `config.ecg_token_offset`.
        max_ecg_tokens (`int`, *optional*):
            Largest number of tokens of an ECG. Of a longer ECG the tokens that start first are kept, so that all leads
            end at the same time. No limit by default.
        ecg_token (`str`, *optional*, defaults to `"<|ecg|>"`):
            Placeholder of an ECG.
        chat_template (`str`, *optional*):
            Chat template to use instead of the tokenizer's.
        system_prompt (`str`, *optional*):
            System message of conversations that have none: the one that the model was trained with.
        enable_thinking (`bool`, *optional*, defaults to `False`):
            Whether prompts let the model begin with reasoning: `True` for models trained on answers with reasoning.
    """

    def __init__(
        self,
        feature_extractor: EcgFeatureExtractor,
        tokenizer,
        ecg_tokenizer: EcgByteTokenizer,
        ecg_token_offset: int = 0,
        max_ecg_tokens: int | None = None,
        ecg_token: str = ECG_TOKEN,
        chat_template: str | None = None,
        system_prompt: str | None = None,
        enable_thinking: bool = False,
    ):
        self.ecg_token_offset = ecg_token_offset
        self.max_ecg_tokens = max_ecg_tokens
        super().__init__(
            tokenizer,
            ecg_token,
            chat_template,
            system_prompt,
            enable_thinking,
            feature_extractor=feature_extractor,
            ecg_tokenizer=ecg_tokenizer,
        )

    @property
    def num_ecg_tokens(self) -> int:
        """Approximate number of tokens of an ECG: `max_ecg_tokens`, or see [`symbols_of_an_ecg`]."""
        return self.max_ecg_tokens or symbols_of_an_ecg(len(self.leads), self.feature_extractor.num_samples)

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask"]

    def is_ecg_token(self, input_ids: np.ndarray) -> np.ndarray:
        number = input_ids - self.ecg_token_offset
        return (number >= 0) & (number < len(self.ecg_tokenizer))

    def prepare_ecgs(
        self,
        ecgs: list,
        sampling_rate,
        lead_names,
        keep_flat: bool | list[bool] = False,
        judge_signal: bool = False,
        measured_ecgs: list | None = None,
    ) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
        prepared = self.feature_extractor(
            ecgs, sampling_rate, lead_names, keep_flat=keep_flat, judge_signal=judge_signal
        )
        tokens = self.ecg_tokenizer.encode_ecg(prepared["ecg_values"])
        return {}, [self._truncate(np.array(one)) + self.ecg_token_offset for one in tokens]

    def kept_tokens(self, tokens: Sequence[int]) -> np.ndarray:
        r"""
        Which tokens of an ECG `max_ecg_tokens` keeps.

        Args:
            tokens (`list[int]`):
                All tokens of the ECG, as [`EcgByteTokenizer`] returns them.

        Returns:
            `np.ndarray` of shape `(num_kept,)`, int64: positions of the kept tokens in `tokens`, in order.
        """
        if self.max_ecg_tokens is None or len(tokens) <= self.max_ecg_tokens:
            return np.arange(len(tokens))
        spans = self.ecg_tokenizer.token_spans(tokens, len(self.leads))
        # The first span of a token is the one in which it starts; it may extend into the next lead.
        _, first = np.unique(spans[:, 0], return_index=True)
        return np.sort(np.argsort(spans[first, 2], kind="stable")[: self.max_ecg_tokens])

    def _truncate(self, tokens: np.ndarray) -> np.ndarray:
        kept = self.kept_tokens(tokens)
        if len(kept) < len(tokens):
            logger.warning_once(
                f"An ECG has more tokens than max_ecg_tokens={self.max_ecg_tokens}: the end of every lead is dropped, here "
                "and in every other ECG that is too long."
            )
        return tokens[kept]


ElmSymbolProcessor.register_for_auto_class("AutoProcessor")
# `AutoProcessor` finds the class by the name in `processor_config.json`.
register(AutoProcessor, ElmSymbolProcessor, ElmSymbolProcessor)

__all__ = ["ElmSymbolProcessor", "symbols_of_an_ecg"]
