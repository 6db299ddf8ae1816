"""The splits of the conversations: `official`, and train, validation and test of each fold."""

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Features

from elm_hf.data.layout import OFFICIAL, SPLITS, fold_config, parquet_name
from elm_hf.prepare.folds import check_enough, deal_patients
from elm_hf.prepare.matching import read_batches
from elm_hf.prepare.patients import (
    GivenFolds,
    PatientLabels,
    RecordPatients,
    count_labels,
    deal,
    label_report,
    labels_of_records,
)
from elm_hf.prepare.record_files import new_path


# Number of folds if none is given.
NUM_FOLDS = 5
# The validation split of an official split without one consists of patients in the validation set of this fold.
_OFFICIAL_VALIDATION = 1


@dataclass(frozen=True)
class ConversationPatients:
    """
    The patients of the conversations. A conversation without ECGs counts as a separate patient, because its patient is
    unknown; the numbers of these patients follow those of the records.

    Attributes:
        conversation, patient: `(pairs,)`, each conversation with the number of each of its patients.
        of_records: number of patients of the records.
        without_ecgs: numbers of the conversations without ECGs, sorted by their ids.
        stratum: stratum of each conversation.
    """

    conversation: np.ndarray
    patient: np.ndarray
    of_records: int
    without_ecgs: np.ndarray
    stratum: pa.Array

    @classmethod
    def read(cls, joined: Path, patients: RecordPatients) -> "ConversationPatients":
        """Read the patients of the conversations in a file written by `find_ecgs`."""
        conversation, patient, start = [], [], 0
        ids, strata = [], []
        for batch in read_batches([joined], ["conversation_id", "ecg_index", "stratum"]):
            ecg_index = batch["ecg_index"].combine_chunks()
            conversation.append(pc.list_parent_indices(ecg_index).to_numpy() + start)
            patient.append(patients.of_record[pc.list_flatten(ecg_index).to_numpy()])
            lengths = pc.list_value_length(ecg_index).to_numpy()
            empty = np.flatnonzero(lengths == 0)
            ids += [
                (name, start + int(row)) for name, row in zip(batch["conversation_id"].take(empty).to_pylist(), empty)
            ]
            strata.append(batch["stratum"].combine_chunks())
            start += len(batch)
        num_patients = len(patients.names)
        without_ecgs = np.array([row for _, row in sorted(ids)], dtype=np.int64)
        conversation.append(without_ecgs)
        patient.append(num_patients + np.arange(len(without_ecgs)))
        pairs = np.unique(np.stack([np.concatenate(conversation), np.concatenate(patient)]), axis=1)
        return cls(*pairs, num_patients, without_ecgs, pa.concat_arrays([pa.array([], pa.string()), *strata]))

    def strata_of_records(self) -> PatientLabels:
        """The strata of the conversations of each patient of the records."""
        with_ecgs = self.patient < self.of_records
        row, patient = self.conversation[with_ecgs], self.patient[with_ecgs]
        return count_labels(self.stratum.take(row), patient, row, patient, self.of_records)

    def strata_without_ecgs(self) -> PatientLabels:
        """The stratum of each conversation without ECGs."""
        own = np.arange(len(self.without_ecgs))
        return count_labels(self.stratum.take(self.without_ecgs), own, own, own, len(own))


@dataclass(frozen=True)
class Folds:
    """
    The folds of the patients of a build.

    Attributes:
        number: number of folds to build; 0 for an official split only.
        conversations: patients of the conversations.
        test_fold, validation_fold: `(patients,)`, see `deal_patients`; 0 for patients that are in no fold.
        patients: rows of the configuration `patients`; None if there are no patients of records, or no folds.
        labels: entry of the build report about the shares of labels; None if there are no folds.
    """

    number: int
    conversations: ConversationPatients
    test_fold: np.ndarray
    validation_fold: np.ndarray
    patients: pa.Table | None
    labels: dict | None


def assign_folds(joined: Path, keys: pa.Table, num_folds: int | None, seed: int, given: GivenFolds | None) -> Folds:
    """
    Deal the patients of the records into folds, or take their folds from the datasets with the records.

    Conversations without ECGs are dealt as patients of their own. The patients are also dealt if only an official
    split is built, for conversations about the same records, unless there are fewer patients than folds.

    Args:
        joined: file written by `find_ecgs`.
        keys: columns `RECORD_KEYS` of the records.
        num_folds: number of folds; 0 for an official split only; None for the default.
        seed: random seed.
        given: folds of the datasets from which the records were copied; None if the records were built.

    Raises:
        ValueError: there are fewer patients than folds, or a patient is in different folds of two datasets.
    """
    patients = RecordPatients.from_keys(keys)
    conversations = ConversationPatients.read(joined, patients)
    labels = labels_of_records(keys["labels"], patients)
    from_records = labels is not None
    labels = labels or conversations.strata_of_records()
    must_have_folds = num_folds is not None or len(conversations.stratum)
    num_folds = NUM_FOLDS if num_folds is None else num_folds
    num_folds = num_folds if given is None else given.number
    if patients.names and num_folds and must_have_folds:
        check_enough(len(patients.names), num_folds)
    table = None
    if given is not None:
        table = given.of(patients.names)
    elif len(patients.names) >= (num_folds or NUM_FOLDS):
        table = deal(patients.names, labels, num_folds or NUM_FOLDS, seed)
    test_fold = validation_fold = np.zeros(len(patients.names), dtype=np.int64)
    if table is not None:
        test_fold, validation_fold = (
            pc.fill_null(table[name], 0).to_numpy() for name in ("test_fold", "validation_fold")
        )
    own_labels = conversations.strata_without_ecgs()
    own_test, own_validation = _deal_without_ecgs(own_labels, num_folds, seed, is_all=not patients.names)
    report = None if table is None else label_report(labels, test_fold, from_records)
    if not patients.names and own_test.any():
        report = label_report(own_labels, own_test, from_records=False)
    test_fold, validation_fold = (
        np.concatenate([test_fold, own_test]),
        np.concatenate([validation_fold, own_validation]),
    )
    return Folds(num_folds, conversations, test_fold, validation_fold, table, report)


def _deal_without_ecgs(
    labels: PatientLabels, num_folds: int, seed: int, is_all: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The folds of conversations without ECGs. If there are others (not `is_all`), they may be fewer than folds."""
    number = len(labels.num_rows)
    if number < (num_folds or NUM_FOLDS) and not (is_all and num_folds):
        return np.arange(number) + 1, np.zeros(number, dtype=np.int64)
    return deal_patients(labels.counts, labels.num_rows, num_folds or NUM_FOLDS, seed)


def split_conversations(
    joined: Path, folds: Folds, test_only: bool = False
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, dict]]:
    """
    Return the rows of each split of `official` and of each fold, and their entries in the build report. Without
    conversations, there are none.

    A conversation is in the test or validation split of a fold if all its patients are in this set, in the training
    split if they are in neither, and left out of the fold otherwise.

    Args:
        joined: file written by `find_ecgs`.
        folds: folds of the patients of its conversations.
        test_only: build the test split of each fold only. The conversations of the other patients are in other folds.

    Raises:
        ValueError: there is neither a fold nor an official split.
    """
    conversations, num_folds = folds.conversations, folds.number
    if not len(conversations.stratum):
        return {}, {}
    test_fold, validation_fold = folds.test_fold, folds.validation_fold
    split = pq.read_table(joined, columns=["split"])["split"]
    official = {name: np.flatnonzero(pc.fill_null(pc.equal(split, name), False)) for name in SPLITS}
    official = {name: rows for name, rows in official.items() if len(rows)}
    if not official and num_folds == 0:
        raise ValueError("num_folds (--num-folds) is 0, but the source has no official split; use 2 or more folds")
    splits, report = {}, {}
    if official:
        splits[OFFICIAL], report[OFFICIAL] = _official(official, conversations, validation_fold)
    for fold in range(1, num_folds + 1):
        name = fold_config(fold)
        sides = _sides(conversations, test_fold == fold, validation_fold == fold)
        left_out = len(conversations.stratum) - sum(map(len, sides.values()))
        splits[name] = {split: rows if split == "test" or not test_only else rows[:0] for split, rows in sides.items()}
        report[name] = {split: len(rows) for split, rows in splits[name].items()} | {
            "left_out": left_out,
            "validation_patients": int((validation_fold == fold).sum()),
            "test_patients": int((test_fold == fold).sum()),
        }
    return splits, report


def _sides(conversations: ConversationPatients, in_test: np.ndarray, in_validation: np.ndarray) -> dict:
    """The rows of each split, given which patients are in the test and in the validation set."""
    conversation, patient = conversations.conversation, conversations.patient
    size = np.bincount(conversation)
    tested, validated = (np.bincount(conversation, weights=of[patient]) for of in (in_test, in_validation))
    sides = {
        "train": np.flatnonzero((tested == 0) & (validated == 0)),
        "validation": np.flatnonzero(validated == size),
        "test": np.flatnonzero(tested == size),
    }
    if _patients_in_several(conversations, sides):  # the central guarantee of a fold, so it is verified
        raise AssertionError("a patient is in several splits of a fold")
    return sides


def _official(
    rows: dict[str, np.ndarray], conversations: ConversationPatients, validation_fold: np.ndarray
) -> tuple[dict[str, np.ndarray], dict]:
    """The official split with its entry in the build report. A missing validation split is taken from train."""
    report = {}
    if "train" in rows and "validation" not in rows:
        sides = _sides(conversations, np.zeros(len(validation_fold), bool), validation_fold == _OFFICIAL_VALIDATION)
        taken = {name: np.intersect1d(rows["train"], sides[name]) for name in ("train", "validation")}
        if all(map(len, taken.values())):
            report["validation_from_train"] = True
            report["left_out"] = len(rows["train"]) - sum(map(len, taken.values()))
            rows = {name: taken.get(name, rows.get(name, [])) for name in SPLITS}
            rows = {name: those for name, those in rows.items() if len(those)}
    return rows, {name: len(those) for name, those in rows.items()} | report | {
        "patients_in_several_splits": _patients_in_several(conversations, rows)
    }


def _patients_in_several(conversations: ConversationPatients, splits: dict[str, np.ndarray]) -> int:
    """Number of patients with conversations in several splits."""
    owners = Counter()
    for rows in splits.values():
        is_in = np.zeros(len(conversations.stratum), dtype=bool)
        is_in[rows] = True
        owners.update(np.unique(conversations.patient[is_in[conversations.conversation]]).tolist())
    return sum(count > 1 for count in owners.values())


def write_splits(joined: Path, splits: dict[str, dict[str, np.ndarray]], folder: Path) -> None:
    """Write every split that has rows. Empty splits of very small datasets cannot be loaded by `datasets`."""
    kept = Features.from_arrow_schema(pq.read_schema(joined))
    schema = Features({name: kept[name] for name in kept if name != "split"}).arrow_schema
    with ExitStack() as stack:
        writers = [
            (
                rows,
                stack.enter_context(pq.ParquetWriter(new_path(folder / config / parquet_name(split, 0, 1)), schema)),
            )
            for config, indices in splits.items()
            for split, rows in indices.items()
            if len(rows)
        ]
        start, total = 0, pq.read_metadata(joined).num_rows
        with datasets.utils.tqdm(total=total, desc="Writing splits", unit=" conversations") as bar:
            for batch in read_batches([joined], schema.names):
                for rows, writer in writers:
                    first, last = np.searchsorted(rows, [start, start + len(batch)])
                    if first < last:
                        writer.write_table(batch.take(rows[first:last] - start).cast(schema))
                start += len(batch)
                bar.update(len(batch))
