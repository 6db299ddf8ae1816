"""Limiting the length of the reasoning (`<think>...</think>`) that a model writes before its answer."""

import torch
from transformers import LogitsProcessor, PreTrainedTokenizerBase, ProcessorMixin

from elm_hf.modeling.chat_rendering import END_OF_REASONING
from elm_hf.utils.exact_match import START_OF_REASONING


# Longest reasoning in tokens, unless another number is given.
MAX_REASONING_TOKENS = 512
# Written in the place of the rest of a reasoning that is too long.
_FORCED_END = f"\n{END_OF_REASONING}\n\n"
# The marks are not longer than this in tokens, in any tokenizer of bytes.
_MARK_TOKENS = 12


def longest_text(processor: ProcessorMixin, max_new_tokens: int, max_reasoning_tokens: int) -> int:
    """
    The largest number of tokens that a model writes: its answer, and before it the reasoning if it is asked for.

    Args:
        processor: the ELM's processor, whose `enable_thinking` says whether the model is asked for reasoning.
        max_new_tokens, max_reasoning_tokens: longest answer and longest reasoning, in tokens.
    """
    return max_new_tokens + (max_reasoning_tokens + 3 * _MARK_TOKENS if processor.enable_thinking else 0)


class ReasoningLimit(LogitsProcessor):
    """
    Writes `</think>` where a reasoning has reached the largest number of tokens, so that the answer follows. For greedy or
    sampled answers, not for beams.

    Args:
        tokenizer: the LLM's tokenizer.
        prompts: token ids of the prompts `(prompts, length)`, padded on the left.
        max_tokens: longest reasoning, in tokens.

    Attributes:
        answer_starts: for each prompt the number of tokens before the answer; None if it has not begun.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompts: torch.Tensor, max_tokens: int):
        self._prompt_length = prompts.shape[1]
        self._rows = [_Row(tokenizer, prompt, max_tokens) for prompt in prompts.tolist()]

    @property
    def answer_starts(self) -> list[int | None]:
        return [row.answer_start for row in self._rows]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if None not in self.answer_starts:
            return scores
        written = input_ids[:, self._prompt_length :].tolist()
        for number, (row, tokens) in enumerate(zip(self._rows, written, strict=True)):
            forced = row.forced_token(tokens)
            if forced is not None:
                scores[number] = -torch.inf
                scores[number, forced] = 0
        return scores


class _Row:
    """The reasoning of one answer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompt: list[int], max_tokens: int):
        self._tokenizer, self._max_tokens = tokenizer, max_tokens
        # Some templates open the reasoning at the end of the prompt.
        is_open = tokenizer.decode(prompt[-_MARK_TOKENS:]).rstrip().endswith(START_OF_REASONING)
        self._start = 0 if is_open else None
        self._end: list[int] = []
        self.answer_start: int | None = None

    def forced_token(self, written: list[int]) -> int | None:
        """The token that must follow the written ones; None if the model is free."""
        if self._end:
            return self._next_of_end(written)
        if self.answer_start is not None:
            return None
        if self._start is None:
            begin = self._tokenizer.decode(written[:_MARK_TOKENS]).lstrip()
            if begin.startswith(START_OF_REASONING):
                self._start = len(written)
            else:
                self.answer_start = None if START_OF_REASONING.startswith(begin) else 0
                return None
        last = self._tokenizer.decode(written[self._start :][-_MARK_TOKENS:])
        number = len(written) - self._start
        if END_OF_REASONING in last:
            self.answer_start = len(written)
        elif number >= self._max_tokens + (_MARK_TOKENS if _ends_in_part_of_the_mark(last) else 0):
            self._end = self._tokenizer.encode(_FORCED_END, add_special_tokens=False)
            return self._next_of_end(written)
        return None

    def _next_of_end(self, written: list[int]) -> int:
        token = self._end.pop(0)
        self.answer_start = None if self._end else len(written) + 1
        return token


def _ends_in_part_of_the_mark(text: str) -> bool:
    """Whether the end of the reasoning is being written."""
    return any(text.endswith(END_OF_REASONING[:length]) for length in range(1, len(END_OF_REASONING)))
