"""Recorded ECGs of the counterfactual probe: normal ECGs of patients with another voltage, ST level, rate, rhythm, or electrodes."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike

import numpy as np
from datasets import Dataset

from elm_hf.counterfactuals.probe_plan import (
    ARMS_EXCHANGED,
    AS_RECORDED,
    RHYTHM_CASES,
    SWEEPS,
    Sweep,
    Trial,
    rhythm_name,
)
from elm_hf.counterfactuals.probe_questions import ELEVATIONS, FIBRILLATION, RIGHT_AXIS, SLOW
from elm_hf.data.loading import load_elm_dataset
from elm_hf.data.tables import load_records
from elm_hf.ecg.changed_recordings import suits_changes
from elm_hf.ecg.changed_rhythms import Beats, find_beats
from elm_hf.ecg.simulated_findings import HYPERTROPHY
from elm_hf.ecg.verified_changes import (
    verified_heart_rate,
    verified_reversal,
    verified_rhythm,
    verified_st_level,
    verified_voltage,
)


# Parts of the probe that are about recorded ECGs.
RECORD_SWEEP, RECORD_RHYTHM, RECORD_REVERSAL = "record sweep", "record rhythm", "record reversal"
# A heart rate above 100 per minute leaves no time between T and P, unless QT gets shorter as well.
RECORD_SWEEPS = tuple(sweep for sweep in SWEEPS if sweep.finding in (SLOW, HYPERTROPHY, *ELEVATIONS.values()))
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


def record_plan(records: Sequence[RecordedEcg], findings: Collection[str], seed: int = 0) -> Iterator[Trial]:
    """
    The changed ECGs: voltage, ST levels and rate across their limits, other atrial waves and irregular beats, and the arm
    electrodes exchanged. A change is left out for an ECG that does not measure as it should after it.

    Args:
        records: the ECGs.
        findings: those that are asked for.
        seed: random seed of irregular intervals and f waves.
    """
    for patient, record in enumerate(records):
        beats = find_beats(record.ecg, record.sampling_rate)
        for sweep in RECORD_SWEEPS:
            if sweep.finding in findings:
                changed = _all_or_none(_swept(record, beats, sweep, value) for value in sweep.values)
                for value, ecg in zip(sweep.values, changed):
                    place = (RECORD_SWEEP, sweep.finding, sweep.finding, patient, sweep.is_abnormal(value))
                    yield Trial(*place, partial(_as_it_is, ecg), record.sampling_rate, value)
        if FIBRILLATION in findings and beats is not None:
            measured = (record.ecg, record.sampling_rate, record.features, beats)
            changed = _all_or_none(verified_rhythm(*measured, *case, seed + patient) for case in RHYTHM_CASES)
            for (case, truth), ecg in zip(RHYTHM_CASES.items(), changed):
                place = (RECORD_RHYTHM, rhythm_name(*case), FIBRILLATION, patient, truth)
                yield Trial(*place, partial(_as_it_is, ecg), record.sampling_rate)
        if RIGHT_AXIS in findings:
            reversed_ = verified_reversal(record.ecg, record.sampling_rate, record.features)
            for name, ecg in zip((AS_RECORDED, ARMS_EXCHANGED), _all_or_none((record.ecg, reversed_))):
                place = (RECORD_REVERSAL, name, RIGHT_AXIS, patient, name == ARMS_EXCHANGED)
                yield Trial(*place, partial(_as_it_is, ecg), record.sampling_rate)


def _all_or_none(ecgs: Iterable[np.ndarray | None]) -> list[np.ndarray]:
    """The ECGs; none of them if one is None, because they are compared with each other."""
    found = []
    for ecg in ecgs:
        if ecg is None:
            return []
        found.append(ecg)
    return found


def _as_it_is(ecg: np.ndarray) -> np.ndarray:
    return ecg


def _swept(record: RecordedEcg, beats: Beats | None, sweep: Sweep, value: float) -> np.ndarray | None:
    measured = (record.ecg, record.sampling_rate, record.features)
    if sweep.finding == HYPERTROPHY:
        return verified_voltage(*measured, value)
    if sweep.finding == SLOW:
        return None if beats is None else verified_heart_rate(*measured, beats, value)
    return verified_st_level(*measured, dict(sweep.others)["territory"], value)
