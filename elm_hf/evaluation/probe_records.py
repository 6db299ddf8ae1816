"""Recorded ECGs of the counterfactual probe: normal ECGs of patients with another voltage, ST level or exchanged electrodes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike

import numpy as np
from datasets import Dataset

from elm_hf.data.loading import load_elm_dataset
from elm_hf.data.tables import load_records
from elm_hf.ecg.changed_recordings import suits_changes, with_st_level, with_voltage
from elm_hf.ecg.counterfactuals import exchange_electrodes
from elm_hf.ecg.simulated_findings import HYPERTROPHY
from elm_hf.evaluation.probe_plan import ARMS_EXCHANGED, AS_RECORDED, SWEEPS, Sweep, Trial
from elm_hf.evaluation.probe_questions import ELEVATIONS, RIGHT_AXIS


# Parts of the probe that are about recorded ECGs.
RECORD_SWEEP, RECORD_REVERSAL = "record sweep", "record reversal"
RECORD_SWEEPS = tuple(sweep for sweep in SWEEPS if sweep.finding in (HYPERTROPHY, *ELEVATIONS.values()))
# Of this many ECGs for each one that is wanted, those are taken that are normal in what is changed.
_TRIES = 12


@dataclass(frozen=True)
class RecordedEcg:
    """
    An ECG of a patient that can be changed.

    Attributes:
        ecg: `(12, samples)` in mV.
        sampling_rate: in Hz.
        features: its measurements.
    """

    ecg: np.ndarray
    sampling_rate: float
    features: dict[str, float]


def recorded_ecgs(rows: Dataset, number: int) -> list[RecordedEcg]:
    """
    Up to `number` ECGs of different patients that are normal in what is changed, drawn evenly.

    Args:
        rows: conversations of [`load_elm_dataset`] about ECGs of patients.
        number: largest number of ECGs.
    """
    rows, found = _of_different_patients(rows), []
    tried = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _TRIES * number)).astype(int))
    for place in tried:
        row = rows[int(place)]
        ecg, sampling_rate = np.asarray(row["ecgs"][0]), row["sampling_rate"]
        features = suits_changes(ecg, sampling_rate)
        if features is not None:
            found.append(RecordedEcg(ecg, sampling_rate, features))
        if len(found) == number:
            break
    return found


def ecgs_of_dataset(dataset: str | PathLike, fold: int | str, number: int) -> list[RecordedEcg]:
    """
    [`recorded_ecgs`] of the test split of a dataset.

    Raises:
        ValueError: its ECGs are simulated, or fewer than two of those looked at are normal in what is changed.
    """
    if all(source.startswith("simulated") for source in load_records(dataset).unique("source")):
        raise ValueError(f"{dataset}: its ECGs are simulated; give a dataset of ECGs of patients")
    found = recorded_ecgs(load_elm_dataset(dataset, fold=fold, split="test"), number)
    if len(found) < 2:
        raise ValueError(
            f"{dataset}, fold {fold}, test: {len(found)} ECGs were found that are normal in rate, QRS, axis, voltage and ST; at "
            "least 2 are needed"
        )
    return found


def _of_different_patients(rows: Dataset) -> Dataset:
    """The first conversation about a single ECG of each patient."""
    first: dict[str, int] = {}
    for number, patients in enumerate(rows["patient_ids"]):
        if len(patients) == 1 and len(rows["record_ids"][number]) == 1:
            first.setdefault(patients[0], number)
    return rows.select(sorted(first.values()))


def record_plan(records: Sequence[RecordedEcg]) -> Iterator[Trial]:
    """The changed ECGs: voltage and ST levels across their limits, and the arm electrodes exchanged."""
    for patient, record in enumerate(records):
        for sweep in RECORD_SWEEPS:
            for value in sweep.values:
                ecg = partial(_changed, record, sweep, value)
                place = (RECORD_SWEEP, sweep.finding, sweep.finding, patient, sweep.is_abnormal(value))
                yield Trial(*place, ecg, record.sampling_rate, value)
        for name in (AS_RECORDED, ARMS_EXCHANGED):
            ecg, is_exchanged = partial(_recorded, record, name), name == ARMS_EXCHANGED
            yield Trial(RECORD_REVERSAL, name, RIGHT_AXIS, patient, is_exchanged, ecg, record.sampling_rate)


def _changed(record: RecordedEcg, sweep: Sweep, value: float) -> np.ndarray:
    if sweep.finding == HYPERTROPHY:
        return with_voltage(record.ecg, record.features, value)
    return with_st_level(record.ecg, record.sampling_rate, record.features, dict(sweep.others)["territory"], value)


def _recorded(record: RecordedEcg, name: str) -> np.ndarray:
    return exchange_electrodes(record.ecg, "RA", "LA") if name == ARMS_EXCHANGED else record.ecg
