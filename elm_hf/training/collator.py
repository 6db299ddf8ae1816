"""Turns rows of conversations into training batches: labels on the assistant's words, padded to the longest."""

import zlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from datasets import Dataset
from transformers import TrainerCallback
from transformers.utils import logging

from elm_hf.modeling.chat_rendering import ecg_items
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.modeling.processing_elm import ElmProcessor
from elm_hf.training.arguments import LENGTH_STEP
from elm_hf.training.augmentation import EcgAugmentation, EcgImageAugmentation, sample_rng
from elm_hf.training.encoder_cache import EncoderFeatures
from elm_hf.training.packing import IGNORE_INDEX, pack_behind_prefix, pack_without_padding, pad
from elm_hf.utils.source_code import source_digest


logger = logging.get_logger(__name__)


class ElmDataCollator:
    """
    Collates rows of [`load_elm_dataset`], or packs of them ([`pack_by_ecg`]), for `SFTTrainer`.

    Labels are the assistant's words and the token that ends its turn; everything else is -100. A conversation longer
    than `max_length` loses its oldest text first, and words of its last answer only when nothing else is left; its
    ECGs are never cut.

    Args:
        processor: the ELM's processor.
        max_length: tokens a conversation may take; None for no limit.
        augmentation: changes each ECG at random; for training only.
        image_augmentation: the same for the pictures that a vision encoder reads.
        seed: of the changes. They depend on it, the conversation and the `epoch` (see [`AugmentationEpoch`]) alone, not on
            the worker or the order.
        padding_free: one conversation after the other in a single row instead of padding; the attention keeps them apart
            by `position_ids`, flash attention by `cu_seq_lens`.
        encoder_features: what the encoder made of each record ([`EncoderFeatures`]), read instead of the ECGs.
        ecg_in_every_batch: give a batch without ECGs a flat one that nothing is learnt from. Processes that share a step
            wait for each other's encoder and projector, so that all must run them; and so must one process, for its
            optimizer to take the same steps.
    """

    def __init__(
        self,
        processor: ElmProcessor,
        max_length: int | None = None,
        augmentation: EcgAugmentation | None = None,
        image_augmentation: EcgImageAugmentation | None = None,
        seed: int = 0,
        padding_free: bool = False,
        encoder_features: EncoderFeatures | None = None,
        ecg_in_every_batch: bool = False,
    ):
        self.processor = processor
        self.max_length = max_length
        self.augmentation = augmentation
        self.image_augmentation = image_augmentation
        self.seed = seed
        self.padding_free = padding_free
        self.encoder_features = encoder_features
        self.ecg_in_every_batch = ecg_in_every_batch
        self.epoch = 0

    def __call__(self, rows: Sequence[dict]) -> dict[str, torch.Tensor]:
        """
        Args:
            rows: each with `messages`, `ecgs` (`(12, samples)` in mV, in the order of `LEADS`) and `sampling_rate` in Hz; their
                `conversation_id`, where they have one, seeds what augmentation does to them. Rows that
                [`tokenize_conversations`] has been over come with `input_ids` and `labels` instead of `messages`; packs hold
                such rows about the same ECGs in `conversations`.

        Returns:
            `input_ids`, `attention_mask`, `labels`, each `(rows, length)`; of packs also `position_ids` and
            `sequence_ids`; padding-free `input_ids`, `position_ids`, `labels`, `(1, length)`, and where the conversations
            begin. `ecg_values (num_ecgs, leads, samples)` and `ecg_lead_mask (num_ecgs, leads)`, or
            `encoder_hidden_states`, if any row has an ECG.

        Raises:
            ValueError: a conversation has no assistant's turn, or its ECGs alone fill `max_length`.
        """
        packs = [row.get("conversations", [row]) for row in rows]
        first_rows = [pack[0] for pack in packs]
        names = [str(row.get("conversation_id", index)) for index, row in enumerate(first_rows)]
        ecg_data, ecg_ids = self._prepare_ecgs(first_rows, names)
        remaining = iter(ecg_ids)
        sequences = []
        for pack, name in zip(packs, names):
            its_ids = [next(remaining) for _ in range(len(pack[0]["ecgs"]))]
            sequences.append([self._tokenized(row, its_ids, str(row.get("conversation_id", name))) for row in pack])
        if self.ecg_in_every_batch and not ecg_ids:
            ecg_data, flat_ecg = self._flat_ecg()
            sequences.append([(ids, np.full_like(ids, IGNORE_INDEX)) for ids in flat_ecg])
        if self.padding_free:
            return pack_without_padding([each for pack in sequences for each in pack]) | ecg_data
        pad_token_id = self.processor.tokenizer.pad_token_id
        if not any("conversations" in row for row in rows):
            return pad([pack[0] for pack in sequences], pad_token_id) | ecg_data
        batch, ecg_order = pack_behind_prefix(sequences, pad_token_id, self._count_ecgs)
        return batch | {name: values[ecg_order] for name, values in ecg_data.items()}

    def _flat_ecg(self) -> tuple[dict[str, torch.Tensor], list[np.ndarray]]:
        row = {"ecgs": [np.zeros((len(LEADS), 1000), dtype=np.float32)], "sampling_rate": 100.0, "ecg_index": [0]}
        return self._prepare_ecgs([row], ["flat"])

    def _count_ecgs(self, ids: np.ndarray) -> float:
        """How many ECGs of their own token sequences `ids` holds, whole or in part; symbols are words like others."""
        return (ids == self.processor.ecg_token_id).sum() / self.processor.num_ecg_tokens

    def _prepare_ecgs(self, rows: list[dict], names: list[str]) -> tuple[dict[str, torch.Tensor], list[np.ndarray]]:
        """What the model reads beside the text, ECG after ECG, and the token ids that stand for each in the text."""
        num_ecgs = sum(len(row["ecgs"]) for row in rows)
        if num_ecgs == 0:
            return {}, []
        if self.encoder_features is not None:
            features = self.encoder_features[[index for row in rows for index in row["ecg_index"]]]
            return {"encoder_hidden_states": features}, self.processor.placeholders(num_ecgs)
        ecgs = [ecg for row in rows for ecg in row["ecgs"]]
        rows_of_ecgs = np.repeat(np.arange(len(rows)), [len(row["ecgs"]) for row in rows])
        rates = [rows[row]["sampling_rate"] for row in rows_of_ecgs]
        rngs = None
        if self.augmentation is not None or self.image_augmentation is not None:
            rng_of_row = [sample_rng(self.seed, self.epoch, zlib.crc32(name.encode())) for name in names]
            rngs = [rng_of_row[row] for row in rows_of_ecgs]
        if self.augmentation is not None:
            ecgs = [self.augmentation(ecg, rate, rng) for ecg, rate, rng in zip(ecgs, rates, rngs)]
        prepared, ecg_ids = self.processor.prepare_ecgs(ecgs, rates, [list(LEADS)] * num_ecgs)
        names_read = self.processor.model_input_names
        ecg_data = {name: torch.from_numpy(values) for name, values in prepared.items() if name in names_read}
        if self.image_augmentation is not None and "ecg_values" in ecg_data:
            pictures = self.processor.image_processor
            ecg_data["ecg_values"] = self.image_augmentation(
                ecg_data["ecg_values"], rngs, pictures.image_mean, pictures.image_std
            )
        return ecg_data, ecg_ids

    def _tokenized(self, row: dict, ecg_ids: list[np.ndarray], name: str) -> tuple[np.ndarray, np.ndarray]:
        """Token ids and labels of a conversation, both `(length,)`."""
        if "input_ids" in row:
            return row["input_ids"], row["labels"]
        return self.tokenize(row["messages"], ecg_ids, name)

    def tokenize(self, messages: list[dict], ecg_ids: list[np.ndarray], name: str) -> tuple[np.ndarray, np.ndarray]:
        """
        Token ids and labels, both `(length,)`, of a conversation of that name.

        Args:
            messages: as the datasets store them.
            ecg_ids: the token ids that stand for each of its ECGs.
            name: for errors.

        Raises:
            ValueError: it has no assistant's turn, its ECGs alone fill `max_length`, or there are more or fewer of them.
        """
        expected = len(ecg_items(messages))
        if expected != len(ecg_ids):
            raise ValueError(f"The conversation has {expected} ECG items and {len(ecg_ids)} ECGs.")
        ids, answer = self.processor.tokenize_conversation(messages, ecg_ids)
        try:
            kept = self._kept_positions(ids, answer)
        except ValueError as error:
            raise ValueError(f"Conversation {name}: {error}") from error
        return ids[kept], np.where(answer, ids, IGNORE_INDEX)[kept]

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


def tokenize_conversations(dataset: Dataset, collator: ElmDataCollator, num_proc: int | None = None) -> Dataset:
    """
    Tokenizes conversations once instead of every time they are read.

    Args:
        dataset: of [`load_elm_dataset`]; not for a model that reads ECGs as symbols, whose text depends on them.
        collator: will read the rows.
        num_proc: processes to share the work.

    Returns:
        The dataset with `input_ids` and `labels`, arrays of int32; `length` (see [`add_lengths`]); and, of its own columns,
        those that training reads: which conversation it is and which ECGs it is about.

    Raises:
        ValueError: as [`ElmDataCollator.tokenize`].
    """
    tokenized = dataset.with_format(None).map(
        _TokenizeRow(collator),
        input_columns=["messages", "conversation_id"],
        remove_columns=[name for name in dataset.column_names if name not in ("conversation_id", "ecg_index")],
        num_proc=num_proc,
        desc="Tokenizing conversations",
    )
    return tokenized.with_transform(_ReadTokens(dataset.format["format_kwargs"].get("transform")))


class _ReadTokens:
    """Makes arrays of the bytes that tokens are kept as: a list takes many times as long to read."""

    def __init__(self, transform: Callable[[dict], dict] | None):
        """`transform` is the dataset's own."""
        self.transform = transform

    def __call__(self, batch: dict) -> dict:
        names = batch.keys() & {"input_ids", "labels"}
        batch |= {name: [np.frombuffer(tokens, np.int32) for tokens in batch[name]] for name in names}
        return batch if self.transform is None else self.transform(batch)


class _TokenizeRow:
    """An object and not a closure, so that worker processes can have it; `datasets` keeps results by its attributes."""

    def __init__(self, collator: ElmDataCollator):
        self.collator = collator
        self.code = source_digest(__name__)

    def __call__(self, messages: list[dict], name: str) -> dict:
        ecg_ids = self.collator.processor.placeholders(len(ecg_items(messages)))
        ids, labels = self.collator.tokenize(messages, ecg_ids, name)
        return {
            "input_ids": ids.astype(np.int32).tobytes(),
            "labels": labels.astype(np.int32).tobytes(),
            "length": -(-len(ids) // LENGTH_STEP) * LENGTH_STEP,
        }


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
