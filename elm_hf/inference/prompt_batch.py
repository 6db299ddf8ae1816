"""Conversations as one batch of prompts, in which the prefix that they share is computed once."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy

import numpy as np
import torch
from jinja2 import TemplateError
from transformers import DynamicCache, PreTrainedModel, ProcessorMixin
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.utils import logging

from elm_hf.utils.positions import position_limit, stated_positions
from elm_hf.utils.shared_prefix import shared_prefix_length, whole_ecgs


logger = logging.get_logger(__name__)

# Outputs of a processor that do not concern ECGs.
OF_TEXT = ("input_ids", "attention_mask", "assistant_masks")
ALL = slice(None)


class PromptBatch:
    """
    Conversations as the model reads them, in which the prefix that they share is computed once.

    Conversations about the same ECGs form a group. Its *prefix* is the longest sequence of tokens that all of them begin
    with: as a rule the system message, the ECGs and the first words of the user. The key-value cache of each group's
    prefix is computed once and copied for each conversation; positions are laid out as

        | padding, prefix | padding, the rest |

    Where nothing is shared, or the LLM's cache cannot be shared (recurrent layers, or a sliding window shorter than the
    conversations, which would count the padding), there is no prefix, and the batch is an ordinary one, padded on the left.

    Args:
        model: the ELM.
        processor: its processor.
        conversations: message lists whose ECG items hold their ECGs.
        max_new_tokens: number of tokens that will be generated.
        answered: whether the conversations end with an answer, which is scored and never part of a prefix.

    Attributes:
        input_ids, attention_mask, answer_mask: `(conversations, length)`; the last one marks the tokens of the last
            answer.
        prefix_length: number of positions before the rest, 0 without a prefix.
        first_answer_position: first position of a last answer in any conversation.

    Raises:
        ValueError: an ECG does not fit the model, a conversation is too long for it, or the chat template refuses one.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        conversations: Sequence[list[dict]],
        max_new_tokens: int = 0,
        answered: bool = False,
    ):
        self._model, self._processor = model, processor
        encoded = self._encode(conversations, answered)
        real = encoded["attention_mask"] == 1
        sequences = [ids[mask] for ids, mask in zip(encoded["input_ids"], real)]
        self._ecgs = {name: values for name, values in encoded.items() if name not in OF_TEXT}
        self._ecg_rows = self._rows_of_ecgs(sequences)
        answers = [np.zeros(len(ids), dtype=bool) for ids in sequences]
        if answered:
            answers = [last_run(mask[keep]) for mask, keep in zip(encoded["assistant_masks"], real)]
        limits = [int(mask.argmax()) if answered else len(mask) for mask in answers]
        longest = max(map(len, sequences)) + max_new_tokens
        _check_length(model, longest, max_new_tokens)
        self._groups = self._group(sequences)
        self._shared = np.zeros(len(sequences), dtype=int)
        if len(set(self._groups)) < len(sequences) and _can_share_cache(model, 2 * longest):
            self._shared = self._shared_lengths(sequences, limits)
        self._lay_out(sequences, answers)

    def inputs(self, rows: slice = ALL) -> dict[str, torch.Tensor | None]:
        """
        The inputs of `generate` in addition to the cache: all tokens, and the ECGs that are in no prefix.

        Args:
            rows: conversations; all by default.
        """
        ecg_rows = [
            row
            for those, ids, shared in zip(self._ecg_rows[rows], self._sequences[rows], self._shared[rows])
            for row in those[int(self._count_ecgs(ids[:shared])) :]
        ]
        tokens = {"input_ids": self.input_ids[rows], "attention_mask": self.attention_mask[rows]}
        return tokens | self._take_ecgs(ecg_rows)

    def ecgs_of(self, row: int) -> dict[str, torch.Tensor]:
        """The inputs of the model for the ECGs of a conversation that enter through `ecg_values`; empty without any."""
        return self._take_ecgs(self._ecg_rows[row])

    def shared_cache(self) -> DynamicCache | None:
        """The keys and values of every conversation's prefix, each computed once; None without a prefix."""
        return next(self.shared_caches([ALL]))

    def shared_caches(self, parts: Iterable[slice]) -> Iterator[DynamicCache | None]:
        """[`shared_cache`] for one part of the conversations after the other. Each prefix is computed once for all."""
        if self.prefix_length == 0:
            yield from (None for _ in parts)
            return
        _, firsts, number_of = np.unique(self._groups, return_index=True, return_inverse=True)
        prefixes = self._prefixes(firsts)
        number_of = torch.from_numpy(number_of).to(self.input_ids.device)
        for rows in parts:
            cache = deepcopy(prefixes)
            cache.batch_select_indices(number_of[rows])
            yield cache

    def _prefixes(self, firsts: np.ndarray) -> DynamicCache:
        """The keys and values of the prefix of each group, of which `firsts` are conversations."""
        ecg_rows = [
            row
            for first in firsts
            for row in self._ecg_rows[first][: int(self._count_ecgs(self._sequences[first][: self._shared[first]]))]
        ]
        firsts = torch.from_numpy(firsts).to(self.input_ids.device)
        attention_mask = self.attention_mask[firsts, : self.prefix_length]
        cache = DynamicCache(config=self._model.config.get_text_config(decoder=True))
        self._model(
            input_ids=self.input_ids[firsts, : self.prefix_length],
            attention_mask=attention_mask,
            position_ids=(attention_mask.cumsum(dim=1) - 1).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            **self._take_ecgs(ecg_rows),
        )
        return cache

    def _encode(self, conversations: Sequence[list[dict]], answered: bool) -> dict[str, np.ndarray]:
        try:
            return self._processor.apply_chat_template(
                conversations,
                add_generation_prompt=not answered,
                tokenize=True,
                return_dict=True,
                return_tensors="np",
                return_assistant_tokens_mask=answered,
            )
        except TemplateError as error:
            raise ValueError(f"{self._model.name_or_path}: its chat template refuses: {error}") from error

    def _count_ecgs(self, ids: np.ndarray) -> float:
        """Number of ECGs, whole or in part, that enter through `ecg_values` in these tokens."""
        if not self._ecgs:
            return 0
        return (ids == self._processor.ecg_token_id).sum() / self._processor.num_ecg_tokens

    def _rows_of_ecgs(self, sequences: list[np.ndarray]) -> list[list[int]]:
        """For each conversation the rows of its ECGs in `ecg_values`; equal ECGs share a row."""
        if not self._ecgs:
            return [[] for _ in sequences]
        seen, rows = {}, []
        for one in zip(*self._ecgs.values()):
            rows.append(seen.setdefault(b"".join(part.tobytes() for part in one), len(rows)))
        remaining = iter(rows)
        return [[next(remaining) for _ in range(int(self._count_ecgs(ids)))] for ids in sequences]

    def _take_ecgs(self, rows: list[int]) -> dict[str, torch.Tensor]:
        if not rows:
            return {}
        return {name: torch.from_numpy(ecgs[rows]).to(self._model.device) for name, ecgs in self._ecgs.items()}

    def _group(self, sequences: list[np.ndarray]) -> list[int]:
        """Numbers that are equal for conversations about the same ECGs."""
        numbers, groups = {}, []
        for ids, rows in zip(sequences, self._ecg_rows):
            key = (*rows, ids[self._processor.is_ecg_token(ids)].tobytes())
            groups.append(numbers.setdefault(key, len(numbers)))
        return groups

    def _shared_lengths(self, sequences: list[np.ndarray], limits: list[int]) -> np.ndarray:
        """Length of the prefix of each conversation's group; at least one token is always left."""
        members = defaultdict(list)
        for index, group in enumerate(self._groups):
            members[group].append(index)
        shared = np.zeros(len(sequences), dtype=int)
        for rows in members.values():
            longest = min(limits[row] for row in rows) - 1
            shared[rows] = shared_prefix_length([sequences[row] for row in rows], longest, self._count_ecgs)
        # A conversation alone is all prefix, which need not be longer than that of the others.
        alone = np.array([len(members[group]) == 1 for group in self._groups])
        shared[alone] = np.minimum(shared[alone], shared[~alone].max())
        for row in np.flatnonzero(alone):
            shared[row] = whole_ecgs(sequences[row], shared[row], self._count_ecgs)
        return shared

    def _lay_out(self, sequences: list[np.ndarray], answers: list[np.ndarray]):
        """Pads prefixes and rests on the left."""
        self._sequences = sequences
        self.prefix_length = int(self._shared.max())
        length = self.prefix_length + max(len(ids) - shared for ids, shared in zip(sequences, self._shared))
        shape = (len(sequences), length)
        input_ids = np.zeros(shape, dtype=np.int64)
        attention_mask, answer_mask = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=bool)
        for row, (ids, is_answer, shared) in enumerate(zip(sequences, answers, self._shared)):
            rest = slice(length - len(ids) + shared, length)
            prefix = slice(self.prefix_length - shared, self.prefix_length)
            # Padding is a token of the prompt, so that a repetition penalty applies to no other.
            input_ids[row] = ids[~self._processor.is_ecg_token(ids)][0]
            input_ids[row, prefix], input_ids[row, rest] = ids[:shared], ids[shared:]
            attention_mask[row, prefix] = attention_mask[row, rest] = 1
            answer_mask[row, rest] = is_answer[shared:]
        self.first_answer_position = int(answer_mask.any(axis=0).argmax())
        self.input_ids, self.attention_mask, self.answer_mask = map(
            torch.from_numpy, (input_ids, attention_mask, answer_mask)
        )

    def to_device(self) -> "PromptBatch":
        """Moves the tokens to the model's device. Until then nothing but the model's configuration is used."""
        self.input_ids, self.attention_mask, self.answer_mask = (
            tensor.to(self._model.device) for tensor in (self.input_ids, self.attention_mask, self.answer_mask)
        )
        return self


def _check_length(model: PreTrainedModel, longest: int, max_new_tokens: int):
    """Refuses conversations longer than the LLM's positions; rotary positions are not bounded, and there is a warning."""
    positions = stated_positions(model.config)
    if positions is None or longest <= positions:
        return
    found = (
        f"{model.name_or_path} reads {positions} tokens, and a conversation has {longest - max_new_tokens}, its answer up to "
        f"{max_new_tokens}"
    )
    if position_limit(model.config) is not None:
        raise ValueError(f"{found}; omit the conversation, or allow for shorter answers")
    logger.warning_once(f"{found}: its answers there may be worse than elsewhere")


def _can_share_cache(model: PreTrainedModel, longest: int) -> bool:
    """Whether the LLM's cache holds keys and values of every position, all within its sliding windows."""
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    if not all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers):
        return False
    return all(layer.sliding_window > longest for layer in cache.layers if layer.is_sliding)


def last_run(mask: np.ndarray) -> np.ndarray:
    """The last unbroken run of a mask `(length,)`: of all answers, the tokens of the last one."""
    mask = mask.astype(bool)
    after_gap = np.cumsum(~mask[::-1])[::-1]  # gaps from here to the end
    return mask & (after_gap == after_gap[mask][-1])
