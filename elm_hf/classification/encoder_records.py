"""The records of a fold with their labels, for the evaluation of encoders."""

from collections.abc import Iterable
from os import PathLike

import numpy as np

from elm_hf.data.ecg_table import EcgSequence, EcgTable
from elm_hf.data.patients import record_patients, split_of_patients
from elm_hf.data.tables import load_records


class LabelledRecords:
    """
    The records of a dataset, all with their labels and the splits of a fold.

    Args:
        dataset: folder or Hub name of an elm-hf dataset whose records have labels.
        fold: 1 to 5 or `"official"`.
        complete_only: leave out the records that lack a lead, for encoders that need all of them.

    Attributes:
        record_ids, labels, patients: of each record; patients as `source/patient_id`.
        sources: names of the datasets of the records.
        sampling_rate: in Hz.
        left_out: number of records that lack a lead and were left out, in all splits.

    Raises:
        FileNotFoundError: there is no such dataset.
        ValueError: it is not an elm-hf dataset, or has no such fold.
    """

    def __init__(self, dataset: str | PathLike, fold: int | str, complete_only: bool = False):
        self.dataset, self.fold = dataset, fold
        split_of = split_of_patients(dataset, fold)
        table = load_records(dataset)
        columns = table.select_columns(["record_id", "labels", "source", "sampling_rate", "missing_leads"])[:]
        self.record_ids = columns["record_id"]
        self.labels = [labels or [] for labels in columns["labels"]]
        self.sources = set(columns["source"])
        self.sampling_rate = columns["sampling_rate"][0]
        self.patients = np.array(record_patients(table).to_pylist(), dtype=object)
        self._split = np.array([split_of.get(patient) for patient in self.patients], dtype=object)
        self._table = EcgTable(table)
        lacking = np.array([complete_only and bool(leads) for leads in columns["missing_leads"]], dtype=bool)
        self._split[lacking] = None
        self.left_out = int(lacking.sum())

    def rows(self, split: str) -> np.ndarray:
        """
        Numbers of the records of a split's patients.

        Raises:
            ValueError: there are none, or none of them has labels.
        """
        rows = np.flatnonzero(self._split == split)
        if not len(rows):
            raise ValueError(f"{self.dataset}: fold {self.fold} has no records of {split} patients")
        if not any(self.labels[row] for row in rows):
            raise ValueError(f"{self.dataset}: the records of {split} of fold {self.fold} have no labels")
        return rows

    def labels_of(self, rows: Iterable[int]) -> list[list[str]]:
        """The labels of some records."""
        return [self.labels[row] for row in rows]

    def ecgs(self, rows: np.ndarray) -> EcgSequence:
        """The ECGs of some records, each `(12, samples)` in mV, which are read on access."""
        return EcgSequence(self._table, rows.tolist())
