"""Tokenizes conversations: labels cover the assistant's words, and long conversations lose their oldest text."""

from collections.abc import Callable

import numpy as np
from datasets import Dataset
from transformers import ProcessorMixin
from transformers.utils import logging

from elm_hf.modeling.chat_rendering import ecg_items
from elm_hf.training.packing import IGNORE_INDEX
from elm_hf.utils.source_digest import source_digest


logger = logging.get_logger(__name__)

LENGTH_STEP = 64
# Number of tokenized conversations that are remembered, to be used again.
MAX_DONE = 20_000


class ConversationTokenizer:
    """
    Turns a conversation into token ids and labels.

    Labels are the assistant's words and the tokens that end its turns; all other labels are -100. An answer that the
    chat template writes in another way than after a prompt (Qwen 3: all but the last) is not learnt. A conversation
    longer than `max_length` loses its oldest text first, and words of its last answer only if no other text is left.
    ECGs are never cut.

    Args:
        processor: the ELM's processor.
        max_length: maximum number of tokens of a conversation; None for no limit.
    """

    def __init__(self, processor: ProcessorMixin, max_length: int | None = None):
        self.processor = processor
        self.max_length = max_length

    def __call__(self, messages: list[dict], ecg_ids: list[np.ndarray], name: str) -> tuple[np.ndarray, np.ndarray]:
        """
        Token ids and labels, both `(length,)`, of a conversation.

        Args:
            messages: messages in the format of the datasets.
            ecg_ids: token ids that represent each of its ECGs.
            name: name of the conversation in error messages.

        Raises:
            ValueError: it has no assistant turn, the chat template refuses it or writes no answer as it asks for it,
                its ECGs alone fill `max_length`, or the number of `ecg_ids` is wrong.
        """
        expected = len(ecg_items(messages))
        if expected != len(ecg_ids):
            raise ValueError(f"The conversation has {expected} ECG items and {len(ecg_ids)} ECGs.")
        try:
            ids, answer = self.processor.tokenize_conversation(messages, ecg_ids)
            kept = self._kept_positions(ids, answer)
        except ValueError as error:
            raise ValueError(f"Conversation {name}: {error}") from error
        self._count_answers(messages, answer, name)
        return ids[kept], np.where(answer, ids, IGNORE_INDEX)[kept]

    def _count_answers(self, messages: list[dict], answer: np.ndarray, name: str) -> None:
        """Warns, once, if answers of a conversation are not learnt."""
        given = sum(message["role"] == "assistant" for message in messages)
        learnt = int((np.diff(answer, prepend=0) == 1).sum())
        if learnt < given:
            logger.warning_once(
                f"Conversation {name}: {learnt} of {given} answers are learnt, here and in others like it. The chat "
                "template writes the others in another way than when the model is asked for them (without reasoning, "
                "or with another end)."
            )

    def _kept_positions(self, ids: np.ndarray, answer: np.ndarray) -> np.ndarray:
        """Positions of a conversation `(length,)` that are kept within `max_length`, in order."""
        in_answer = np.flatnonzero(answer)
        if len(in_answer) == 0:
            raise ValueError("it has no assistant turn to train on.")
        excess = 0 if self.max_length is None else len(ids) - self.max_length
        if excess <= 0:
            return np.arange(len(ids))
        logger.warning_once(
            f"A conversation of {len(ids)} tokens is longer than max_length={self.max_length}: its oldest text is "
            "cut, and so is that of every other conversation that is too long."
        )
        is_ecg = self.processor.is_ecg_token(ids)
        if is_ecg.sum() >= self.max_length:
            raise ValueError(
                f"its ECGs take {is_ecg.sum()} tokens, and max_length={self.max_length} leaves no room for an answer."
            )
        last_start = in_answer[np.flatnonzero(np.diff(in_answer, prepend=-2) > 1)[-1]]
        positions = np.arange(len(ids))
        text = positions[~is_ecg]
        is_opening = (text == 0) & (ids[text] == self.processor.tokenizer.bos_token_id)
        after = text[text > in_answer[-1]]
        before = text[(text < last_start) & ~is_opening]
        of_last_answer = text[(text > last_start) & (text <= in_answer[-1])][::-1]
        order = np.concatenate([after, before, text[is_opening & (text < last_start)], of_last_answer])
        return np.setdiff1d(positions, order[:excess])


def tokenize_conversations(dataset: Dataset, tokenize: ConversationTokenizer, num_proc: int | None = None) -> Dataset:
    """
    Tokenizes conversations once instead of each time they are read.

    Args:
        dataset: conversations of [`load_elm_dataset`]. Not for models that read ECGs as symbols, which are part of the
            text.
        tokenize: tokenizer of the collator.
        num_proc: number of processes.

    Returns:
        The dataset with `input_ids` and `labels` (arrays of int32), `length` (see [`rounded_length`]) and the columns
        that training reads: the name of the conversation and its ECGs.

    Raises:
        ValueError: see [`ConversationTokenizer`].
    """
    tokenized = dataset.with_format(None).map(
        _TokenizeRows(tokenize),
        batched=True,
        input_columns=["messages", "conversation_id"],
        remove_columns=[name for name in dataset.column_names if name not in ("conversation_id", "ecg_index")],
        num_proc=num_proc,
        desc="Tokenizing conversations",
    )
    return tokenized.with_transform(_TokensFromBytes(dataset.format["format_kwargs"].get("transform")))


def add_lengths(dataset: Dataset, num_ecg_tokens: int) -> Dataset:
    """
    Adds an estimated column `length` without tokenizing: four characters of text count as one token.

    Args:
        dataset: conversations of `load_elm_dataset`.
        num_ecg_tokens: number of positions of one ECG.
    """

    def length(messages: list[dict]) -> int:
        items = [item for message in messages for item in message["content"]]
        tokens = sum(num_ecg_tokens if item["type"] == "ecg" else len(item["text"]) // 4 for item in items)
        return rounded_length(tokens)

    return dataset.add_column("length", [length(messages) for messages in dataset["messages"]])


def rounded_length(tokens: int) -> int:
    """
    The length by which the trainer groups batches, rounded up to a multiple of `LENGTH_STEP`. With exact lengths a
    batch would contain the questions of one template, which are equally long, and the loss would jump from batch to
    batch.
    """
    return -(-tokens // LENGTH_STEP) * LENGTH_STEP


class _TokenizeRows:
    """
    A class and not a closure, so that it can be pickled. `datasets` identifies cached results by its attributes. Datasets
    of questions contain the same messages many times, each time about another ECG; they are tokenized once.
    """

    def __init__(self, tokenize: ConversationTokenizer):
        self.tokenize = tokenize
        self.code = source_digest(__name__)
        self.done: dict[str, dict] = {}

    def __call__(self, conversations: list[list[dict]], names: list[str]) -> dict[str, list]:
        rows = [self._row(messages, name) for messages, name in zip(conversations, names)]
        return {column: [row[column] for row in rows] for column in ("input_ids", "labels", "length")}

    def _row(self, messages: list[dict], name: str) -> dict:
        key = repr(messages)
        if key not in self.done:
            if len(self.done) == MAX_DONE:
                self.done.clear()
            ecg_ids = self.tokenize.processor.placeholders(len(ecg_items(messages)))
            ids, labels = self.tokenize(messages, ecg_ids, name)
            self.done[key] = {
                "input_ids": ids.astype(np.int32).tobytes(),
                "labels": labels.astype(np.int32).tobytes(),
                "length": rounded_length(len(ids)),
            }
        return self.done[key]


class _TokensFromBytes:
    """Reads tokens, which are stored as bytes, into arrays. Lists would take many times as long to read."""

    def __init__(self, transform: Callable[[dict], dict] | None):
        """`transform` is the previous transform of the dataset."""
        self.transform = transform

    def __call__(self, batch: dict) -> dict:
        names = batch.keys() & {"input_ids", "labels"}
        batch |= {name: [np.frombuffer(tokens, np.int32) for tokens in batch[name]] for name in names}
        return batch if self.transform is None else self.transform(batch)
