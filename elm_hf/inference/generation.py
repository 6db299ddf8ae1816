"""Answers of a model to conversations in batches, and how probable it finds given answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    ProcessorMixin,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.utils import logging

from elm_hf.inference.prompt_batch import PromptBatch
from elm_hf.inference.reasoning import MAX_REASONING_TOKENS, ReasoningLimit, longest_text


logger = logging.get_logger(__name__)


@dataclass
class Answer:
    """
    An answer of a model.

    Attributes:
        text: the text with its reasoning, without special tokens.
        num_tokens: number of tokens that the model wrote, without the end of the turn.
        finished: whether the model ended its turn; otherwise the answer was cut at the longest length allowed.
    """

    text: str
    num_tokens: int
    finished: bool


def answer(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    conversations: Sequence[list[dict]],
    max_new_tokens: int = 64,
    max_reasoning_tokens: int = MAX_REASONING_TOKENS,
) -> list[str]:
    """The texts of greedy [`generate_answers`], with their reasoning."""
    answers = generate_answers(model, processor, conversations, max_new_tokens, None, max_reasoning_tokens)
    return [one.text for one in answers]


def generate_answers(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    conversations: Sequence[list[dict]],
    max_new_tokens: int = 64,
    temperature: float | None = None,
    max_reasoning_tokens: int = MAX_REASONING_TOKENS,
    watch: Callable[[list[str]], None] | None = None,
) -> list[Answer]:
    """
    The model's greedy or sampled answers to a batch of conversations, each ending with a user's turn.

    The prefix that conversations about the same ECGs share (as a rule the system message and the ECGs) goes through the
    encoder and the LLM once: see [`PromptBatch`].

    Args:
        model: the ELM.
        processor: its processor.
        conversations: message lists whose ECG items hold their ECGs.
        max_new_tokens: longest answer, in tokens.
        temperature: of sampling, which follows torch's random seed; None for greedy answers.
        max_reasoning_tokens: longest reasoning before the answer, in tokens, of models that are asked for it; a longer one
            is ended ([`ReasoningLimit`]).
        watch: called after each token with the texts of all answers so far.

    Raises:
        ValueError: an ECG does not fit the model, a conversation is too long for it, the chat template refuses one, or the
            model computes NaN.
    """
    longest = longest_text(processor, max_new_tokens, max_reasoning_tokens)
    prompts = PromptBatch(model, processor, conversations, longest)
    return answers_to(prompts, model, processor, max_new_tokens, temperature, max_reasoning_tokens, watch)


@torch.inference_mode()
def answers_to(
    batch: PromptBatch,
    model: PreTrainedModel,
    processor: ProcessorMixin,
    max_new_tokens: int,
    temperature: float | None = None,
    max_reasoning_tokens: int = MAX_REASONING_TOKENS,
    watch: Callable[[list[str]], None] | None = None,
) -> list[Answer]:
    """
    The model's greedy or sampled answers to prompts.

    Args:
        batch: the prompts, made for this model and number of new tokens. They can be made while the model answers others
            ([`prepared_ahead`]).
        model, processor, max_new_tokens, temperature, max_reasoning_tokens, watch: see [`generate_answers`].

    Raises:
        ValueError: the model computes NaN.
    """
    batch.to_device()
    inputs = batch.inputs() | {"past_key_values": batch.shared_cache()}
    inputs["logits_processor"] = LogitsProcessorList([_RefuseNan(model)])
    limit = None
    if processor.enable_thinking:
        limit = ReasoningLimit(processor.tokenizer, batch.input_ids, max_reasoning_tokens)
        inputs["logits_processor"].append(limit)
    longest = longest_text(processor, max_new_tokens, max_reasoning_tokens)
    sampling = {"do_sample": False} if temperature is None else {"do_sample": True, "temperature": temperature}
    if temperature is not None:  # a checkpoint may have other defaults
        sampling |= {"top_k": 0, "top_p": 1.0}
    ends = model.generation_config.eos_token_id
    ends = torch.tensor([] if ends is None else ends, dtype=torch.long).flatten()
    length = batch.input_ids.shape[1]
    if watch is not None:
        inputs["stopping_criteria"] = StoppingCriteriaList([_Watch(watch, processor, length, ends)])
    output = model.generate(**inputs, max_new_tokens=longest, num_beams=1, **sampling)
    starts = [0] * len(output) if limit is None else limit.answer_starts
    answers = []
    for tokens, start in zip(output[:, length:].cpu(), starts, strict=True):
        tokens = tokens if start is None else tokens[: start + max_new_tokens]
        answers.append(_to_answer(tokens, processor, ends))
    return answers


def _to_answer(tokens: torch.Tensor, processor: ProcessorMixin, ends: torch.Tensor) -> Answer:
    """The answer of generated tokens `(tokens,)`, up to the first of `ends`."""
    at_end = torch.isin(tokens, ends).nonzero()
    number = len(tokens) if len(at_end) == 0 else int(at_end[0])
    text = processor.decode(tokens[:number], skip_special_tokens=True).strip()
    return Answer(text, number, finished=len(at_end) > 0)


class _Watch(StoppingCriteria):
    """Passes on the texts of answers while they are generated. It never stops the generation."""

    def __init__(self, watch: Callable[[list[str]], None], processor: ProcessorMixin, length: int, ends: torch.Tensor):
        self._watch, self._processor, self._length, self._ends = watch, processor, length, ends

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs) -> torch.Tensor:
        answers = [_to_answer(tokens, self._processor, self._ends) for tokens in input_ids[:, self._length :].cpu()]
        # The last character may be incomplete until its other bytes are there.
        self._watch([one.text.rstrip("\ufffd") for one in answers])
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


class _RefuseNan(LogitsProcessor):
    """Stops at NaN, which greedy decoding would take for the most probable token."""

    def __init__(self, model: PreTrainedModel):
        self._model = model

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if scores.isnan().any():
            raise ValueError(
                f"{self._model.name_or_path} computes NaN: its training has diverged, or its numbers are too large for "
                f"{self._model.dtype}"
            )
        return scores


def log_likelihoods(
    model: PreTrainedModel, processor: ProcessorMixin, conversations: Sequence[list[dict]]
) -> np.ndarray:
    """
    How probable the model finds the last answer of each conversation, given what precedes it.

    Args:
        model: the ELM.
        processor: its processor.
        conversations: message lists that end with an assistant's turn, whose ECG items hold their ECGs.

    Returns:
        `(conversations,)` float64: natural logarithm of the probability of the answer's text and the end of its turn.

    Raises:
        ValueError: an ECG does not fit the model, or the chat template refuses a conversation.
    """
    return score_answers(PromptBatch(model, processor, conversations, answered=True), model)[0]


@torch.inference_mode()
def score_answers(
    batch: PromptBatch, model: PreTrainedModel, part_size: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """
    How probable the model finds the last answers of conversations, see [`log_likelihoods`].

    Args:
        batch: the conversations, made for this model with `answered=True`.
        model: the ELM.
        part_size: number of conversations that are computed at once; all by default. What they share is computed once.

    Returns:
        Natural logarithms of the probabilities `(conversations,)` float64, and the number of tokens of each answer
        `(conversations,)` with the end of its turn.
    """
    batch.to_device()
    total, length = batch.input_ids.shape
    number = length - batch.first_answer_position
    parts = [slice(start, start + (part_size or total)) for start in range(0, total, part_size or total)]
    scores = []
    for rows, cache in zip(parts, batch.shared_caches(parts)):
        inputs = batch.inputs(rows)
        past = 0 if cache is None else batch.prefix_length
        position_ids = (inputs["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
        tokens, is_answer = inputs["input_ids"][:, -number:], batch.answer_mask[rows, -number:]
        inputs |= {"input_ids": inputs["input_ids"][:, past:], "position_ids": position_ids[:, past:]}
        logits = model(**inputs, past_key_values=cache, use_cache=cache is not None, logits_to_keep=number + 1).logits
        of_tokens = logits[:, :-1].float().log_softmax(dim=-1).gather(2, tokens[:, :, None])[:, :, 0]
        scores.append((of_tokens.double() * is_answer).sum(dim=1))
    return torch.cat(scores).cpu().numpy(), batch.answer_mask.sum(dim=1).cpu().numpy()
