"""Tokenized conversations in one batch: padded, packed without padding, or packed behind the prefix that they share."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from datasets import Dataset

from elm_hf.utils.shared_prefix import CountEcgs, shared_prefix_length


IGNORE_INDEX = -100

# Token ids and labels of a conversation, both `(length,)`.
Tokenized = tuple[np.ndarray, np.ndarray]


def padded_length(length: int) -> int:
    """
    The smallest size that holds `length` positions: multiples of 128, and above 1,024 four sizes from each power of two to
    the next (1280, 1536, 1792, 2048, 2560, ...), so that long batches are of few sizes, too.
    """
    step = max(128, 2 ** (length - 1).bit_length() // 8)
    return -(-length // step) * step


def pad(sequences: Sequence[Tokenized], pad_token_id: int, few_lengths: bool = False) -> dict[str, torch.Tensor]:
    """
    `input_ids`, `attention_mask` and `labels`, each `(sequences, length of the longest)`, padded on the right. With
    `few_lengths` the length is a [`padded_length`].
    """
    columns = {
        "input_ids": ([ids for ids, _ in sequences], pad_token_id),
        "attention_mask": ([np.ones(len(ids), np.int64) for ids, _ in sequences], 0),
        "labels": ([labels for _, labels in sequences], IGNORE_INDEX),
    }
    return {name: _filled_rows(values, fill, few_lengths) for name, (values, fill) in columns.items()}


def pack_without_padding(sequences: Sequence[Tokenized]) -> dict[str, torch.Tensor | int]:
    """
    The conversations one after the other in a single row, as in TRL's padding-free batches.

    Returns:
        `input_ids`, `labels` and `position_ids`, `(1, length)`: positions count from 0 in each conversation, by which
        `sdpa` and `eager` keep them apart; flash attention reads `cu_seq_lens_q`, `cu_seq_lens_k (conversations + 1,)` and
        `max_length_q`, `max_length_k`.
    """
    lengths = [len(ids) for ids, _ in sequences]
    starts = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)
    labels = np.concatenate([labels for _, labels in sequences], dtype=np.int64)
    labels[starts[:-1]] = IGNORE_INDEX  # no conversation follows from the one before it
    return {
        "input_ids": torch.from_numpy(np.concatenate([ids for ids, _ in sequences], dtype=np.int64))[None],
        "labels": torch.from_numpy(labels)[None],
        "position_ids": torch.from_numpy(np.concatenate([np.arange(length) for length in lengths]))[None],
        "cu_seq_lens_q": starts,
        "cu_seq_lens_k": starts,
        "max_length_q": max(lengths),
        "max_length_k": max(lengths),
    }


def pack_behind_prefix(
    packs: Sequence[Sequence[Tokenized]], pad_token_id: int, count_ecgs: CountEcgs, few_lengths: bool = False
) -> tuple[dict[str, torch.Tensor], np.ndarray]:
    """
    Each pack as a row of the batch: one copy of the prefix that its conversations share, then the rest of each.

    Args:
        packs: conversations about the same ECGs.
        pad_token_id: token id that fills up shorter rows.
        count_ecgs: number of ECGs whose tokens stand in an array of token ids.
        few_lengths: whether rows are filled up to a [`padded_length`] instead of the longest.

    Returns:
        `input_ids`, `attention_mask`, `labels`, `position_ids` and `sequence_ids` (see [`ElmModel`]), each
        `(packs, length of the longest)`; and for each place that the batch has for an ECG, the number of the ECG that
        goes there, counted through the packs.
    """
    columns = defaultdict(list)
    ecg_order, first_ecg = [], 0
    for pack in packs:
        start = prefix_length(pack, count_ecgs)
        ids, labels = pack[0]
        num_shared, num_ecgs = round(count_ecgs(ids[:start])), round(count_ecgs(ids))
        ecgs = np.arange(first_ecg, first_ecg + num_ecgs)
        parts = [(ids[:start], labels[:start], np.arange(start), 0)]
        ecg_order.append(ecgs[:num_shared])
        for number, (ids, labels) in enumerate(pack, start=1):
            parts.append((ids[start:], labels[start:], np.arange(start, len(ids)), number))
            ecg_order.append(ecgs[num_shared:])
        first_ecg += num_ecgs
        for name, values in zip(("input_ids", "labels", "position_ids"), zip(*parts)):
            columns[name].append(np.concatenate(values))
        columns["sequence_ids"].append(np.repeat([part[3] for part in parts], [len(part[0]) for part in parts]))
    fill = {"input_ids": pad_token_id, "labels": IGNORE_INDEX, "position_ids": 0, "sequence_ids": -1}
    batch = {name: _filled_rows(columns[name], value, few_lengths) for name, value in fill.items()}
    batch["attention_mask"] = (batch["sequence_ids"] >= 0).long()
    return batch, np.concatenate(ecg_order)


def prefix_length(pack: Sequence[Tokenized], count_ecgs: CountEcgs) -> int:
    """
    Length of the prefix that the conversations share. Each keeps a token of its own before the first that it learns, from
    which that is predicted.
    """
    first_learnt = min(int(np.argmax(labels != IGNORE_INDEX)) for _, labels in pack)
    return shared_prefix_length([ids for ids, _ in pack], first_learnt - 1, count_ecgs)


def _filled_rows(values: Sequence[np.ndarray], fill: int, few_lengths: bool) -> torch.Tensor:
    """Rows of different lengths, filled up to the longest, or to the next [`padded_length`]."""
    longest = max(len(row) for row in values)
    rows = np.full((len(values), padded_length(longest) if few_lengths else longest), fill, dtype=np.int64)
    for row, its_values in zip(rows, values):
        row[: len(its_values)] = its_values
    return torch.from_numpy(rows)


def pack_by_ecg(dataset: Dataset, number: int, seed: int = 0) -> Dataset:
    """
    Packs conversations about the same ECGs, which the collator then puts behind one copy of the prefix that they share.

    No conversation sees another, so that packing changes neither loss nor gradients; `merge_questions` of
    [`load_elm_dataset`], which makes them turns of one conversation, does.

    Args:
        dataset: of [`load_elm_dataset`].
        number: largest number of conversations in a pack; the packs of one ECG are as equal in size as possible.
        seed: random seed for which conversations go into one pack.

    Returns:
        Rows with `conversations`, a list of rows of `dataset`; and with the sum of their `length` if they have one.
    """
    ecg_index = dataset.with_format(None).select_columns("ecg_index")[:]["ecg_index"]
    groups = defaultdict(list)
    for row, ecgs in enumerate(ecg_index):
        groups[tuple(ecgs) if ecgs else (None, row)].append(row)  # without ECGs they share no prefix
    rng = np.random.default_rng(seed)
    packs = []
    for rows in groups.values():
        packs += [pack.tolist() for pack in np.array_split(rng.permutation(rows), -(-len(rows) // number))]
    columns = {"rows": packs}
    if "length" in dataset.column_names:
        lengths = np.array(dataset.with_format(None).select_columns("length")[:]["length"])
        columns["length"] = [int(lengths[pack].sum()) for pack in packs]
    return Dataset.from_dict(columns).with_transform(_Packs(dataset))


class _Packs:
    """Looks up the conversations of packs; an object and not a closure, so that worker processes can have it."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __call__(self, batch: dict) -> dict:
        if "rows" not in batch:
            return batch
        return batch | {"conversations": [self.dataset.__getitems__(rows) for rows in batch["rows"]]}
