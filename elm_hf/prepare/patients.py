"""The patients of a dataset and their folds: dealt from the records, or taken from the datasets with the records."""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Features
from scipy.sparse import csr_matrix

from elm_hf.data.columns import PATIENT_FEATURES
from elm_hf.data.layout import PATIENTS, parquet_name
from elm_hf.data.tables import config_names, load_patients
from elm_hf.prepare.folds import deal_patients, deviations


_SCHEMA = Features(PATIENT_FEATURES).arrow_schema


@dataclass(frozen=True)
class RecordPatients:
    """
    The patients of the records.

    Attributes:
        names: (source, patient_id) of each patient, sorted.
        of_record: `(records,)`, number of the patient of each record.
    """

    names: list[tuple[str, str]]
    of_record: np.ndarray

    @classmethod
    def from_keys(cls, keys: pa.Table) -> "RecordPatients":
        """Find the patients in the columns `source` and `patient_id` of the records."""
        source, patient_id = (keys[name].combine_chunks().dictionary_encode() for name in ("source", "patient_id"))
        sources, ids = source.dictionary.to_pylist(), patient_id.dictionary.to_pylist()
        pairs = np.stack([source.indices.to_numpy(), patient_id.indices.to_numpy()])
        pairs, of_record = np.unique(pairs, axis=1, return_inverse=True)
        names = [(sources[source], ids[patient]) for source, patient in pairs.T.tolist()]
        ordered, place = _in_order(names)
        return cls(ordered, place[of_record.ravel()])


def _in_order(names: list) -> tuple[list, np.ndarray]:
    """The names in order, and the place of each name in this order."""
    order = sorted(range(len(names)), key=names.__getitem__)
    place = np.empty(len(names), dtype=np.int64)
    place[order] = np.arange(len(names))
    return [names[number] for number in order], place


@dataclass(frozen=True)
class PatientLabels:
    """
    The labels of patients, by which folds are stratified.

    Attributes:
        names: names of the labels, sorted.
        counts: `(patients, labels)`, number of rows of each patient with each label.
        num_rows: `(patients,)`, number of rows of each patient: records, or conversations if these have the labels.
    """

    names: list[str]
    counts: csr_matrix
    num_rows: np.ndarray


def labels_of_records(labels: pa.ChunkedArray, patients: RecordPatients) -> PatientLabels | None:
    """
    Return the labels of the records of each patient.

    Args:
        labels: column `labels` of the records.
        patients: patients of the same records.

    Returns:
        None if no record has a label.
    """
    labels = labels.combine_chunks()
    record = pc.list_parent_indices(labels).to_numpy()
    label = pc.list_flatten(labels)
    if not len(label):
        return None
    return count_labels(label, patients.of_record[record], record, patients.of_record, len(patients.names))


def count_labels(
    label: pa.Array, patient: np.ndarray, row: np.ndarray, patient_of_row: np.ndarray, num_patients: int
) -> PatientLabels:
    """
    Count the rows of each patient with each label.

    Args:
        label, patient, row: each label of a row, with the patient and the number of the row. Repeated ones count once.
        patient_of_row: patient of each row, or of each pair of a row and one of its patients.
        num_patients: number of patients.
    """
    encoded = label.dictionary_encode()
    names, place = _in_order(encoded.dictionary.to_pylist())
    distinct = np.unique(np.stack([row, patient, place[encoded.indices.to_numpy()]]), axis=1)
    ones = np.ones(distinct.shape[1], dtype=np.int64)
    counts = csr_matrix((ones, (distinct[1], distinct[2])), shape=(num_patients, len(names)))
    counts.sum_duplicates()
    return PatientLabels(names, counts, np.bincount(patient_of_row, minlength=num_patients))


def deal(names: Sequence[tuple[str, str]], labels: PatientLabels, num_folds: int, seed: int) -> pa.Table:
    """
    Assign patients to folds (see `deal_patients`).

    Args:
        names: (source, patient_id) of each patient, sorted.
        labels: labels of the same patients.

    Returns:
        The columns of the configuration `patients`, a row for each patient in the same order.
    """
    test_fold, validation_fold = deal_patients(labels.counts, labels.num_rows, num_folds, seed)
    columns = {
        "source": [source for source, _ in names],
        "patient_id": [patient for _, patient in names],
        "test_fold": test_fold,
        "validation_fold": pa.array(validation_fold, pa.int32(), mask=validation_fold == 0),
    }
    return pa.table(columns, schema=_SCHEMA)


@dataclass(frozen=True)
class GivenFolds:
    """
    The folds of the datasets with the records of a build, which the patients keep.

    Attributes:
        number: number of folds to build.
        tables: configuration `patients` of each dataset, by its path; empty if they have no folds and none are built.
    """

    number: int
    tables: dict[str | PathLike, pa.Table]

    @classmethod
    def load(cls, paths: Sequence[str | PathLike], num_folds: int | None) -> "GivenFolds":
        """
        Load the folds of datasets.

        Args:
            paths: datasets with records.
            num_folds: number of folds to build: None for that of the datasets, 0 for an official split only.

        Raises:
            ValueError: a dataset has no folds, or the numbers of folds differ.
        """
        tables = {path: load_patients(path) for path in paths}
        without = [path for path, table in tables.items() if table is None]
        if without and num_folds == 0:
            return cls(0, {})
        if without:
            raise ValueError(
                f"{without[0]}: no table of patients with their folds (configuration `{PATIENTS}`), because it was "
                "built by an earlier version of elm-hf or has fewer patients than folds; build it again (elm-hf "
                f"prepare NAME --source FOLDER --output {without[0]} --overwrite), or build without folds "
                "(--num-folds 0)"
            )
        numbers = {path: _num_folds(path, table) for path, table in tables.items()}
        if len({*numbers.values()} | ({num_folds} if num_folds else set())) > 1:
            found = ", ".join(f"{path} has {number}" for path, number in numbers.items())
            raise ValueError(
                f"folds are those of the datasets with the records, so their numbers must agree: {found}"
                + (f", but num_folds (--num-folds) is {num_folds}; omit it" if num_folds else "; build them alike")
            )
        return cls(next(iter(numbers.values())) if num_folds is None else num_folds, tables)

    def of(self, names: Sequence[tuple[str, str]]) -> pa.Table | None:
        """
        Return the folds of patients as `deal` does; None if there are no folds.

        Args:
            names: (source, patient_id) of each patient, sorted.

        Raises:
            ValueError: a patient is in different folds of two datasets.
        """
        fold_of, path_of = {}, {}
        for path, table in self.tables.items():
            columns = (table[name].to_pylist() for name in _SCHEMA.names)
            for source, patient, *folds in zip(*columns):
                name = (source, patient)
                if fold_of.setdefault(name, folds) != folds:
                    raise ValueError(
                        f"patient {patient} of {source} is in different folds of {path_of[name]} and {path}; build "
                        "one of them with the records of the other, or pass only one of them"
                    )
                path_of.setdefault(name, path)
        if not self.tables:
            return None
        rows = [[*name, *fold_of[name]] for name in names]
        return pa.table([list(column) for column in zip(*rows)], schema=_SCHEMA)


def _num_folds(path: str | PathLike, patients: pa.Table) -> int:
    """The number of folds of a dataset; a dataset with an official split only has those of its patients."""
    built = [name for name in config_names(path) if name.removeprefix("fold").isdecimal()]
    return max(len(built), pc.max(patients["test_fold"]).as_py())


def write_patients(table: pa.Table, folder: Path) -> None:
    """Write the configuration `patients` of a dataset."""
    path = folder / PATIENTS / parquet_name("train", 0, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def label_report(labels: PatientLabels, test_fold: np.ndarray, from_records: bool) -> dict:
    """
    Return the entry of the build report about the shares of labels in the test sets.

    Args:
        labels: labels of the patients.
        test_fold: `(patients,)`, fold whose test set a patient is in.
        from_records: whether the labels are those of the records, and not the strata of the conversations.
    """
    common, of_patients, of_rows = deviations(labels.counts, labels.num_rows, test_fold)
    rows = "records" if from_records else "conversations"
    num_patients, num_rows = labels.counts.getnnz(axis=0), np.asarray(labels.counts.sum(axis=0)).ravel()
    entries = {
        labels.names[label]: {
            "patients": int(num_patients[label]),
            rows: int(num_rows[label]),
            "deviation_in_patients": round(float(in_patients.max()), 4),
            f"deviation_in_{rows}": round(float(in_rows.max()), 4),
        }
        for label, in_patients, in_rows in zip(common, of_patients, of_rows)
    }
    largest_of = {
        name: max(entry["deviation_in_patients"], entry[f"deviation_in_{rows}"]) for name, entry in entries.items()
    }
    worst = max(largest_of, key=largest_of.__getitem__, default=None)
    return {
        "from": rows,
        "number": len(labels.names),
        "largest_deviation": largest_of.get(worst),
        "deviating_label": worst,
        "common": entries,
    }
