"""Batches that fill a number of positions, instead of holding a number of rows."""

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset

from elm_hf.training.arguments import ElmScriptArguments
from elm_hf.training.packing import padded_length, prefix_length
from elm_hf.training.sft_config import ElmSFTConfig
from elm_hf.training.tokenization import rounded_length
from elm_hf.utils.shared_prefix import CountEcgs


def set_batch_size(script_args: ElmScriptArguments, training_args: ElmSFTConfig) -> None:
    """
    Makes a batch of `--tokens_per_batch` one row of the trainer.

    Raises:
        ValueError: a number of rows is chosen, too.
    """
    if script_args.tokens_per_batch is None:
        return
    rows = training_args.per_device_train_batch_size
    if rows not in (1, ElmSFTConfig.per_device_train_batch_size):
        raise ValueError(
            f"--per_device_train_batch_size is {rows}, and --tokens_per_batch chooses the number of rows of each batch; "
            "leave one of them out (or set the number of rows to 1)."
        )
    training_args.per_device_train_batch_size = 1


def check_lengths_are_known(script_args: ElmScriptArguments, representation: str) -> None:
    """
    Checks that batches can be filled before their ECGs are read.

    Raises:
        ValueError: the ECGs are part of the text.
    """
    if script_args.tokens_per_batch is not None and representation == "symbol":
        raise ValueError(
            '--tokens_per_batch needs the lengths of the conversations, and with representation "symbol" they depend on the '
            "ECGs; use --per_device_train_batch_size."
        )


def token_counts(tokenized: Dataset) -> np.ndarray:
    """Number of tokens of each row of [`tokenize_conversations`]."""
    columns = tokenized.with_format("arrow").select_columns("input_ids").iter(batch_size=10_000)
    counts = [pc.binary_length(column["input_ids"]).to_numpy(zero_copy_only=False) for column in columns]
    return np.concatenate(counts) // np.dtype(np.int32).itemsize


def pack_lengths(packs: Dataset, tokenized: Dataset, count_ecgs: CountEcgs) -> np.ndarray:
    """
    Number of positions of each pack of [`pack_by_ecg`]: the prefix once, and the rest of each conversation.

    Args:
        packs: packs of rows of `tokenized`.
        tokenized: rows of [`tokenize_conversations`].
        count_ecgs: see [`pack_behind_prefix`].
    """
    stored = tokenized.with_format(None).select_columns(["input_ids", "labels"])
    lengths = []
    for rows in packs.with_format(None)["rows"]:
        pack = [
            (np.frombuffer(row["input_ids"], np.int32), np.frombuffer(row["labels"], np.int32))
            for row in stored.__getitems__(rows)
        ]
        start = prefix_length(pack, count_ecgs)
        lengths.append(start + sum(len(ids) - start for ids, _ in pack))
    return np.array(lengths)


def fill_batches(
    dataset: Dataset,
    lengths: np.ndarray,
    positions: int,
    seed: int = 0,
    few_lengths: bool = False,
    in_one_row: bool = False,
) -> Dataset:
    """
    Groups rows into batches that are as large as a number of positions allows. A batch has rows of similar length.

    Args:
        dataset: conversations or packs of them.
        lengths: number of positions of each row.
        positions: largest number of positions of a batch: rows times the length to which they are padded.
        seed: random seed for which rows form a batch.
        few_lengths: whether batches are padded to one of few lengths ([`padded_length`]) instead of their longest row.
        in_one_row: whether a batch is a single row without padding, whose length is the sum of its conversations.

    Returns:
        Batches with `batch`, a list of rows of `dataset`, and with the `length` of their rows.

    Raises:
        ValueError: a row is longer than a batch.
    """
    rng = np.random.default_rng(seed)
    longest = int(lengths.max())
    needed = padded_length(longest) if few_lengths else longest
    if needed > positions:
        raise ValueError(
            f"--tokens_per_batch is {positions:,}, and the longest row has {longest:,} positions"
            f"{f', padded to {needed:,}' if few_lengths else ''}; allow for {needed:,} or more, or choose a smaller "
            "--max_length or --pack_by_ecg."
        )
    if in_one_row:
        batches = _in_one_row(lengths, positions, rng)
    else:
        batches = _of_similar_length(lengths, positions, rng, few_lengths)
    columns = {
        "rows_of_batch": [rows.tolist() for rows in batches],
        "length": [int(lengths[rows].sum() if in_one_row else lengths[rows].max()) for rows in batches],
    }
    return Dataset.from_dict(columns).with_transform(_Batches(dataset))


def _of_similar_length(
    lengths: np.ndarray, positions: int, rng: np.random.Generator, few_lengths: bool
) -> list[np.ndarray]:
    """Batches for each class of lengths, from the shortest on. Rows that fill none go to the next class; the last are fewer."""
    class_of = padded_length if few_lengths else rounded_length
    classes = np.array([class_of(int(length)) for length in lengths])
    batches, waiting = [], np.array([], dtype=int)
    for size in np.unique(classes):
        rows = rng.permutation(np.concatenate([waiting, np.flatnonzero(classes == size)]))
        number = positions // (size if few_lengths else lengths[rows].max())
        in_full = len(rows) // number * number
        batches += np.split(rows[:in_full], in_full // number) if in_full else []
        waiting = rows[in_full:]
    return [*batches, waiting] if len(waiting) else batches


def _in_one_row(lengths: np.ndarray, positions: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Rows in random order, cut where the next one does not fit."""
    order, starts, filled = rng.permutation(len(lengths)), [], positions
    for place, row in enumerate(order):
        filled += int(lengths[row])
        if filled > positions:
            starts.append(place)
            filled = int(lengths[row])
    return np.split(order, starts[1:])


class _Batches:
    """Looks up the rows of batches; an object and not a closure, so that worker processes can have it."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __call__(self, batch: dict) -> dict:
        if "rows_of_batch" not in batch:
            return batch
        return batch | {"batch": [self.dataset.__getitems__(rows) for rows in batch["rows_of_batch"]]}
