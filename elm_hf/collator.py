"""Turns rows of conversations into training batches: labels on the assistant's words, padded to the longest."""

import zlib
from collections.abc import Sequence

import numpy as np
import torch
from transformers import TrainerCallback
from transformers.utils import logging

from elm_hf.augment import EcgAugmentation, EcgImageAugmentation, sample_rng
from elm_hf.modeling.processing_elm import ElmProcessor, ecg_items


logger = logging.get_logger(__name__)

IGNORE_INDEX = -100


def fill_ecgs(messages: Sequence[dict], ecgs: Sequence[np.ndarray], sampling_rate: float) -> list[dict]:
    """
    The messages with the k-th `{"type": "ecg"}` item holding the k-th ECG.

    Args:
        messages: a conversation as the datasets store it.
        ecgs: its ECGs, each `(leads, samples)` in mV.
        sampling_rate: of the ECGs, in Hz.

    Raises:
        ValueError: there are not as many ECGs as items.
    """
    expected = len(ecg_items(messages))
    if expected != len(ecgs):
        raise ValueError(f"The conversation has {expected} ECG items and {len(ecgs)} ECGs.")
    remaining = iter(ecgs)
    filled = []
    for message in messages:
        content = message["content"]
        if not isinstance(content, str):
            content = [
                {"type": "ecg", "ecg": next(remaining), "sampling_rate": sampling_rate}
                if item["type"] == "ecg"
                else {"type": "text", "text": item["text"]}
                for item in content
            ]
        filled.append({"role": message["role"], "content": content})
    return filled


def with_system_prompt(messages: Sequence[dict], system_prompt: str | None) -> list[dict]:
    """The messages, opened by `system_prompt` unless it is None or they have a system message of their own."""
    if system_prompt is None or messages[0]["role"] == "system":
        return list(messages)
    return [{"role": "system", "content": system_prompt}, *messages]


class ElmDataCollator:
    """
    Collates rows of [`load_elm_dataset`] for `SFTTrainer`.

    Labels are the assistant's words and the token that ends its turn; everything else is -100. A conversation longer
    than `max_length` loses its oldest text first, and words of its last answer only when nothing else is left; its
    ECGs are never cut.

    Args:
        processor: the ELM's processor.
        max_length: tokens a conversation may take; None for no limit.
        system_prompt: opens conversations that have no system message.
        augmentation: changes each ECG at random; for training only.
        image_augmentation: the same for the pictures that a vision encoder reads.
        seed: of the changes. They depend on it, the conversation and the `epoch` (see [`AugmentationEpoch`]) alone, not on
            the worker or the order.
    """

    def __init__(
        self,
        processor: ElmProcessor,
        max_length: int | None = None,
        system_prompt: str | None = None,
        augmentation: EcgAugmentation | None = None,
        image_augmentation: EcgImageAugmentation | None = None,
        seed: int = 0,
    ):
        self.processor = processor
        self.max_length = max_length
        self.system_prompt = system_prompt
        self.augmentation = augmentation
        self.image_augmentation = image_augmentation
        self.seed = seed
        self.epoch = 0

    def __call__(self, rows: Sequence[dict]) -> dict[str, torch.Tensor]:
        """
        Args:
            rows: each with `messages`, `ecgs` (`(leads, samples)` in mV) and `sampling_rate` in Hz; their
                `conversation_id`, where they have one, seeds what augmentation does to them.

        Returns:
            `input_ids`, `attention_mask`, `labels`, each `(rows, length)`; `ecg_values (num_ecgs, leads, samples)` and
            `ecg_lead_mask (num_ecgs, leads)` if any row has an ECG.

        Raises:
            ValueError: a conversation has no assistant's turn, or its ECGs alone fill `max_length`.
        """
        names = [str(row.get("conversation_id", index)) for index, row in enumerate(rows)]
        rngs = [sample_rng(self.seed, self.epoch, zlib.crc32(name.encode())) for name in names]
        conversations = []
        for row, rng in zip(rows, rngs):
            ecgs = row["ecgs"]
            if self.augmentation is not None:
                ecgs = [self.augmentation(ecg, row["sampling_rate"], rng) for ecg in ecgs]
            messages = fill_ecgs(row["messages"], ecgs, row["sampling_rate"])
            conversations.append(with_system_prompt(messages, self.system_prompt))
        encoded = self.processor.apply_chat_template(
            conversations, tokenize=True, return_dict=True, return_assistant_tokens_mask=True, padding_side="right"
        )
        sequences = []
        for index in range(len(rows)):
            real = encoded["attention_mask"][index] == 1
            ids, answer = encoded["input_ids"][index][real], encoded["assistant_masks"][index][real]
            try:
                kept = self._kept_positions(ids, answer)
            except ValueError as error:
                raise ValueError(f"Conversation {names[index]}: {error}") from error
            sequences.append((ids[kept], np.where(answer, ids, IGNORE_INDEX)[kept]))
        batch = self._pad(sequences)
        for name in self.processor.model_input_names:
            if name in encoded and name not in batch:
                batch[name] = torch.from_numpy(encoded[name])
        if self.image_augmentation is not None and "ecg_values" in batch:
            pictures = self.processor.image_processor
            rng_of_each = [rng for row, rng in zip(rows, rngs) for _ in row["ecgs"]]
            batch["ecg_values"] = self.image_augmentation(
                batch["ecg_values"], rng_of_each, pictures.image_mean, pictures.image_std
            )
        return batch

    def _kept_positions(self, ids: np.ndarray, answer: np.ndarray) -> np.ndarray:
        """Positions of a conversation `(length,)` that fit into `max_length`, in order."""
        in_answer = np.flatnonzero(answer)
        if len(in_answer) == 0:
            raise ValueError("it has no assistant's turn to learn from.")
        excess = 0 if self.max_length is None else len(ids) - self.max_length
        if excess <= 0:
            return np.arange(len(ids))
        logger.warning_once(
            f"A conversation of {len(ids)} tokens is longer than max_length={self.max_length}: its oldest text is left "
            "out, and so for every such conversation."
        )
        is_ecg = self.processor.is_ecg_token(ids)
        if is_ecg.sum() >= self.max_length:
            raise ValueError(f"its ECGs take {is_ecg.sum()} tokens, max_length={self.max_length} leaves no answer.")
        last_start = in_answer[np.flatnonzero(np.diff(in_answer, prepend=-2) > 1)[-1]]
        positions = np.arange(len(ids))
        text = positions[~is_ecg]
        is_opening = (text == 0) & (ids[text] == self.processor.tokenizer.bos_token_id)
        after = text[text > in_answer[-1]]
        before = text[(text < last_start) & ~is_opening]
        of_last_answer = text[(text > last_start) & (text <= in_answer[-1])][::-1]
        order = np.concatenate([after, before, text[is_opening & (text < last_start)], of_last_answer])
        return np.setdiff1d(positions, order[:excess])

    def _pad(self, sequences: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, torch.Tensor]:
        length = max(len(ids) for ids, _ in sequences)
        shape = (len(sequences), length)
        input_ids = torch.full(shape, self.processor.tokenizer.pad_token_id)
        attention_mask = torch.zeros(shape, dtype=torch.long)
        labels = torch.full(shape, IGNORE_INDEX)
        for index, (ids, its_labels) in enumerate(sequences):
            input_ids[index, : len(ids)] = torch.from_numpy(ids)
            attention_mask[index, : len(ids)] = 1
            labels[index, : len(ids)] = torch.from_numpy(its_labels)
        return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


class AugmentationEpoch(TrainerCallback):
    """
    Tells a collator which epoch it is, so that each one changes the same ECG in another way.

    Args:
        collator: has an attribute `epoch`.
    """

    def __init__(self, collator):
        self.collator = collator

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.collator.epoch = int(state.epoch)
