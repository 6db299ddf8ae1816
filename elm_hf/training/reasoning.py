"""Conversations whose answers hold reasoning (`<think>...</think>`), so that all of it is learnt and none is too long."""

import pyarrow.compute as pc
from datasets import Dataset
from transformers import ProcessorMixin
from transformers.utils import logging

from elm_hf.data.messages import answer_positions, message_text
from elm_hf.modeling.chat_rendering import END_OF_REASONING, ecg_items, has_reasoning
from elm_hf.utils.exact_match import reasoning_of


logger = logging.get_logger(__name__)


def prepare_reasoning(dataset: Dataset, processor: ProcessorMixin, max_tokens: int | None) -> Dataset:
    """
    Leaves out conversations with a longer reasoning, and gives each answer a row of its own, which ends with it, where the
    chat template drops the reasoning of earlier answers (Qwen 3).

    Args:
        dataset: conversations of `load_elm_dataset`.
        processor: the ELM's processor.
        max_tokens: longest reasoning, in tokens; None for no limit.

    Raises:
        ValueError: no conversation is left.
    """
    if not _holds_reasoning(dataset):
        return dataset
    plain = dataset.with_format(None)
    rows, conversations, num_long, num_split = [], [], 0, 0
    for row, messages in enumerate(plain["messages"]):
        if max_tokens is not None and _longest_reasoning(messages, processor) > max_tokens:
            num_long += 1
            continue
        several = _one_for_each_answer(messages, processor)
        num_split += len(several) > 1
        conversations += several
        rows += [row] * len(several)
    if num_long:
        logger.warning(
            f"{num_long} of {len(dataset)} conversations are left out: their reasoning is longer than "
            f"--max_reasoning_tokens {max_tokens}."
        )
    if not rows:
        raise ValueError(
            f"the reasoning of all {len(dataset)} conversations is longer than --max_reasoning_tokens {max_tokens}."
        )
    if num_split:
        logger.warning(
            f"{num_split} conversations have a row for each answer, since the chat template drops the reasoning of earlier "
            "answers."
        )
    elif not num_long:
        return dataset
    changed = plain.select(rows).remove_columns("messages")
    changed = changed.add_column("messages", conversations, feature=plain.features["messages"])
    return changed.with_format(dataset.format["type"], **dataset.format["format_kwargs"])


def _holds_reasoning(dataset: Dataset) -> bool:
    """Whether any message of the dataset's table does, found without reading the rows one by one."""
    for messages in dataset.data.column("messages").chunks:
        texts = messages.flatten().field("content").flatten().field("text")
        if pc.any(pc.match_substring(texts, END_OF_REASONING)).as_py():
            return True
    return False


def _longest_reasoning(messages: list[dict], processor: ProcessorMixin) -> int:
    texts = [reasoning_of(message_text(message)) for message in messages if message["role"] == "assistant"]
    lengths = [len(processor.tokenizer.encode(text, add_special_tokens=False)) for text in texts if text]
    return max(lengths, default=0)


def _one_for_each_answer(messages: list[dict], processor: ProcessorMixin) -> list[list[dict]]:
    """The conversation, or its parts up to each answer if the whole one does not teach all of them."""
    ends = answer_positions(messages)
    if len(ends) < 2 or not any(has_reasoning(messages[end]) for end in ends):
        return [messages]
    ecg_ids = processor.placeholders(len(ecg_items(messages)))
    _, learnt = processor.tokenize_conversation(messages, ecg_ids)
    if _num_runs(learnt) == len(ends):
        return [messages]
    return [messages[: end + 1] for end in ends]


def _num_runs(mask) -> int:
    """Number of unbroken runs of a mask `(length,)`."""
    return int(mask[0]) + int(((mask[1:] == 1) & (mask[:-1] == 0)).sum())
