"""From listed conversations to published ones: which records they are about, and on which side of each fold they are."""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import datasets
import pyarrow as pa
from datasets import Dataset, Features, List, Value

from elm_hf.dataset_builder import OFFICIAL_SPLITS
from elm_hf.folds import make_folds


_TEXT = Value("string")
_ECG_FEATURES = Features(
    {
        "conversation_id": _TEXT,
        "ecg_index": List(Value("int64")),
        "record_ids": List(_TEXT),
        "patient_ids": List(_TEXT),
    }
)


def find_ecgs(conversations: Dataset, keys: dict[str, list]) -> tuple[Dataset, Counter]:
    """
    The conversations with the rows of their ECGs in the records, once for each segment that all their ECGs have (once
    where they have no ECGs at all); and how many were left out for which reason.

    Args:
        conversations: as a builder lists them.
        keys: the columns `source`, `recording_id`, `segment`, `record_id` and `patient_id` of the records.

    Raises:
        ValueError: a recording is in the records twice, or two conversations have one name.
    """
    rows_of = defaultdict(dict)
    for row, (source, recording_id, segment) in enumerate(
        zip(keys["source"], keys["recording_id"], keys["segment"], strict=True)
    ):
        if rows_of[source, recording_id].setdefault(segment, row) != row:
            raise ValueError(f"recording {recording_id!r} of {source} is in the records more than once")
    left_out, picked, ecg_index = Counter(), [], []
    columns = conversations.select_columns(["recording_sources", "recording_ids", "answer"])[:]
    for number, (sources, recording_ids, answer) in enumerate(zip(*columns.values(), strict=True)):
        segments_of = [rows_of.get(key, {}) for key in zip(sources, recording_ids, strict=True)]
        common = sorted(set.intersection(*map(set, segments_of))) if segments_of else [None]
        if not all(segments_of):
            left_out["ECG not among the records"] += 1
        elif not common:
            left_out["no segment that all its ECGs have"] += 1
        elif not answer:
            left_out["no answer"] += 1
        else:
            picked += [number] * len(common)
            ecg_index += [[rows[segment] for rows in segments_of] for segment in common]
    return _with_ecgs(take_rows(conversations, picked), ecg_index, keys), left_out


def _with_ecgs(conversations: Dataset, ecg_index: list[list[int]], keys: dict) -> Dataset:
    """The conversations with the columns that say which ECGs they are about; the segment is made part of their names."""
    names = conversations.select_columns("conversation_id")[:]["conversation_id"]
    columns = {
        "conversation_id": [
            f"{name}-{keys['segment'][rows[0]]}" if rows else name for name, rows in zip(names, ecg_index)
        ],
        "ecg_index": ecg_index,
        "record_ids": [[keys["record_id"][row] for row in rows] for rows in ecg_index],
        "patient_ids": [[keys["patient_id"][row] for row in rows] for rows in ecg_index],
    }
    repeated = [name for name, count in Counter(columns["conversation_id"]).items() if count > 1]
    if repeated:
        raise ValueError(f"conversation {repeated[0]!r} is in the source more than once")
    kept = conversations.remove_columns(["conversation_id", "recording_ids", "recording_sources"])
    return datasets.concatenate_datasets([Dataset.from_dict(columns, _ECG_FEATURES), kept], axis=1)


def split_conversations(
    conversations: Dataset, sources: Sequence[str], num_folds: int, seed: int
) -> tuple[dict[str, dict], dict[str, dict]]:
    """
    The rows of each split of `official` and of each fold, and what the build report says of them.

    A conversation about no ECG is a patient of its own: nothing is known of who it is about.

    Args:
        conversations: with the columns that `find_ecgs` adds.
        sources: of each record, the dataset that it comes from, within which its patient id holds.
        num_folds, seed: of the folds.

    Raises:
        ValueError: fewer patients than folds, or neither folds nor an official split.
    """
    columns = conversations.select_columns(["conversation_id", "ecg_index", "patient_ids", "stratum", "split"])[:]
    patients = [
        sorted({(sources[row], patient) for row, patient in zip(rows, ids)}) or [("", name)]
        for name, rows, ids in zip(columns["conversation_id"], columns["ecg_index"], columns["patient_ids"])
    ]
    splits, report = {}, {}
    official = {split: [n for n, of in enumerate(columns["split"]) if of == split] for split in OFFICIAL_SPLITS}
    official = {split: rows for split, rows in official.items() if rows}
    if official:
        owners = Counter(
            owner for rows in official.values() for owner in {key for row in rows for key in patients[row]}
        )
        splits["official"] = official
        report["official"] = {split: len(rows) for split, rows in official.items()}
        report["official"]["patients_in_several_splits"] = sum(count > 1 for count in owners.values())
    elif num_folds == 0:
        raise ValueError("num_folds (--num-folds) 0 leaves no split at all: the source has no official one")
    for number, fold in enumerate(make_folds(patients, columns["stratum"], num_folds, seed) if num_folds else [], 1):
        splits[f"fold{number}"] = {"train": fold.train, "test": fold.test}
        report[f"fold{number}"] = {
            "train": len(fold.train),
            "test": len(fold.test),
            "left_out": fold.num_left_out,
            "test_patients": len(fold.test_patients),
            "largest_deviation": round(fold.largest_deviation, 4),
            "deviating_stratum": fold.deviating_stratum,
        }
    return splits, report


def read_left_out(folder: Path) -> list[tuple[str, str]]:
    """(reason, message) of the entries of the source that make no conversation, in its order."""
    return [tuple(row) for row in json.loads((folder / "left_out.json").read_text(encoding="utf-8"))]


def take_rows(dataset: Dataset, rows: Sequence[int]) -> Dataset:
    """These rows, in memory; `select` would gather them one by one when written, at a third of a millisecond each."""
    return Dataset(dataset.data.table.take(pa.array(rows, pa.int64())))
