"""What the training data of a fold give away about its test questions: the check, and its figures for a report."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from itertools import combinations
from os import PathLike
from pathlib import Path

import numpy as np
from datasets import Dataset

from elm_hf.checkpoints.load import published_with
from elm_hf.data.ecg_table import EcgSequence, EcgTable
from elm_hf.data.layout import SPLITS
from elm_hf.data.loading import load_elm_dataset, records_of
from elm_hf.data.patients import patients_of_splits, record_patients
from elm_hf.data.seen_patients import overlap, read_stages
from elm_hf.data.tables import split_names
from elm_hf.leakage.copied_answers import copying_report, questions_about_twins
from elm_hf.leakage.leakage_markdown import leakage_markdown
from elm_hf.leakage.leakage_report import LEAKAGE_SCHEMA, twins_of
from elm_hf.leakage.near_duplicates import (
    HIGHEST_HZ,
    LONGEST_SHIFT,
    LOWEST_HZ,
    Duplicate,
    find_duplicates,
    least_correlation,
)
from elm_hf.scoring.names import LEAKAGE_NAME, LEAKAGE_TEXT_NAME
from elm_hf.utils.files import write_atomically
from elm_hf.utils.reports import public_name


MOST_EXAMPLES = 5
_COLUMNS = ["question", "answer", "record_ids", "patient_ids"]


def check_leakage(
    dataset: str | PathLike,
    fold: int | str = 1,
    *,
    checkpoint: str | PathLike | None = None,
    records: str | PathLike | None = None,
    seed: int = 0,
    quiet: bool = False,
) -> dict:
    """
    Look for what the training patients of a fold have in common with its validation and test patients.

    Args:
        dataset: folder or Hub name of an elm-hf dataset.
        fold: 1 to 5 or `"official"`.
        checkpoint: folder or repository of an ELM, an adapter or an encoder, whose training is compared with the test patients.
        records: folder with the signals of a dataset that was published without them.
        seed: random seed of the intervals.
        quiet: no progress bar.

    Returns:
        The figures, as in `leakage.json` (docs/leakage.md).

    Raises:
        FileNotFoundError, ValueError: there is no such dataset or fold, or the fold has no training split.
    """
    present = split_names(dataset, fold)
    if "train" not in present:
        raise ValueError(f"{dataset}: fold {fold} has no training split ({', '.join(present)}), so nothing can leak")
    splits = {name: _Split(dataset, fold, name, records) for name in SPLITS if name in present}
    held_out = [name for name in splits if name != "train"]
    table = records_of(dataset, records)
    pairs = {} if table is None else {name: _duplicates(table, splits, name, quiet) for name in held_out}
    return {
        "schema": LEAKAGE_SCHEMA,
        "dataset": public_name(str(dataset)),
        "fold": str(fold),
        "splits": {name: split.counts() for name, split in splits.items()},
        "patients_on_both_sides": patients_on_both_sides(dataset, fold),
        "duplicates": {
            "least_correlation": None if table is None else least_correlation(_seconds(table)),
            "band_hz": [LOWEST_HZ, HIGHEST_HZ],
            "longest_shift": LONGEST_SHIFT,
            "pairs": pairs,
        },
        "questions": {name: _questions(splits, name, pairs.get(name, ()), seed) for name in held_out},
        "checkpoint": None if checkpoint is None else _of_checkpoint(checkpoint, dataset, fold, table, held_out),
        "versions": {"elm-hf": version("elm-hf")},
    }


def write_leakage(folder: Path, found: dict) -> None:
    """Write `leakage.json` and `leakage.md`."""
    write_atomically(folder / LEAKAGE_NAME, json.dumps(found, indent=2, allow_nan=False) + "\n")
    write_atomically(folder / LEAKAGE_TEXT_NAME, leakage_markdown(found))


class _Split:
    """The questions of a split, and the numbers of the records that they are about."""

    def __init__(self, dataset: str | PathLike, fold: int | str, split: str, records: str | PathLike | None):
        rows = load_elm_dataset(dataset, fold=fold, split=split, records=records)
        columns = [column for column in _COLUMNS if column in rows.column_names]
        self.questions = rows.select_columns(columns).with_format(None).to_pandas().reindex(columns=_COLUMNS)
        is_whole = self.questions["question"].notna() & self.questions["answer"].notna()
        self.questions = self.questions[is_whole].copy()
        for name in ("record_ids", "patient_ids"):
            self.questions[name] = [list(names) for names in self.questions[name]]
        self.rows = np.unique(np.concatenate([[], *rows.with_format(None)["ecg_index"]]).astype(int)).tolist()
        self.num_conversations = len(rows)

    def counts(self) -> dict:
        """Numbers of ECGs, and of conversations."""
        return {"ecgs": len(self.rows), "conversations": self.num_conversations}


def patients_on_both_sides(dataset: str | PathLike, fold: int | str) -> dict[str, dict]:
    """For each two splits of a fold the number of patients in both, and some of them."""
    splits = patients_of_splits(dataset, fold)
    found = {}
    for first, second in combinations([name for name in SPLITS if name in splits], 2):
        both = sorted(splits[first] & splits[second])
        found[f"{first} and {second}"] = {"patients": len(both), "examples": both[:MOST_EXAMPLES]}
    return found


def _seconds(table: Dataset) -> float:
    return table.features["ecg"].shape[1] / table[0]["sampling_rate"]


def _duplicates(table: Dataset, splits: Mapping[str, _Split], name: str, quiet: bool) -> list[dict]:
    """The near-duplicates of the training ECGs among those of another split."""
    ecgs, rate = EcgTable(table), table[0]["sampling_rate"]
    training, other = splits["train"].rows, splits[name].rows
    found = find_duplicates(EcgSequence(ecgs, training), EcgSequence(ecgs, other), (rate, rate), quiet=quiet)
    if not found:
        return []
    ids, patients = table.select_columns("record_id")[:]["record_id"], record_patients(table)
    return [_pair(pair, training[pair.first], other[pair.second], ids, patients) for pair in found]


def _pair(pair: Duplicate, first: int, second: int, ids: Sequence[str], patients) -> dict:
    names = {"training_record": ids[first], "record": ids[second]}
    names |= {"training_patient": patients[first].as_py(), "patient": patients[second].as_py()}
    return names | {name: value for name, value in asdict(pair).items() if name not in ("first", "second")}


def _questions(splits: Mapping[str, _Split], name: str, pairs: Sequence[dict], seed: int) -> dict:
    asked, training = splits[name].questions, splits["train"].questions
    if asked.empty or training.empty:
        return {"questions": len(asked), "note": "no questions with answers in both splits"}
    found = copying_report(asked, training, asked["patient_ids"].tolist(), seed)
    return found | questions_about_twins(asked, training, twins_of(pairs))[1]


def _of_checkpoint(
    checkpoint: str | PathLike,
    dataset: str | PathLike,
    fold: int | str,
    table: Dataset | None,
    held_out: Sequence[str],
) -> dict:
    """The patients of the held-out splits that a checkpoint was trained on, and the datasets its encoder was published with."""
    patients = patients_of_splits(dataset, fold)
    stages = read_stages(checkpoint)
    sources = set() if table is None else set(table.unique("source"))
    return {
        "checkpoint": public_name(str(checkpoint)),
        "stages": None if stages is None else [str(stage) for stage in stages],
        "seen": {name: overlap(stages, patients.get(name, ())).to_dict() for name in held_out},
        "encoder_trained_on": sorted(sources & published_with(checkpoint)),
    }
