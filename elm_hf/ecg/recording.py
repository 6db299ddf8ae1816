"""From recordings to segments: read an ECG, place and check its leads, cut it to fixed lengths at 250 Hz."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np

from elm_hf.modeling.ecg_leads import LEADS, SAMPLING_RATE, canonical_lead, is_flat, limb_lead_error, place_leads
from elm_hf.modeling.ecg_reading import load_ecg
from elm_hf.modeling.ecg_resampling import fill_gaps, resample


# the Frank leads of the PTB database: known, and not among the twelve
_EXTRA_LEADS = ("vx", "vy", "vz")
# what int16 microvolt holds, the same on both sides of zero
_LARGEST_MILLIVOLT = 32.767
# Hz; below is the time between samples, or a rate in other units, beyond what no electrocardiograph reaches
_SMALLEST_RATE, _LARGEST_RATE = 50, 20_000


class RecordingError(ValueError):
    """
    A recording that cannot be used; `str()` of it names the recording and says why.

    Attributes:
        reason: a short category to count by: "missing file", "path outside the source", "unreadable header" (cannot be
            read, or does not fit its signal file), "unreadable metadata", "unknown lead", "repeated lead", "limb leads
            disagree", "absurd sampling rate", "too short", "no usable lead", or a script's own.
    """

    def __init__(self, reason: str, message: str):
        super().__init__(reason, message)
        self.reason = reason

    def __str__(self) -> str:
        return self.args[1]


@dataclass
class Recording:
    """
    One ECG as acquired.

    Attributes:
        ecg: `(12, samples)`, float32 in mV, in the order of `LEADS`. NaN where a sample is invalid, in the whole row
            of a missing lead.
        sampling_rate: in Hz.
        missing_leads: the leads that the source lacks, or that are invalid or flat from beginning to end.
        name: what error messages call it, such as the path.
    """

    ecg: np.ndarray
    sampling_rate: int | float
    missing_leads: tuple[str, ...]
    name: str = "recording"


@dataclass
class Segment:
    """
    A piece of a recording, as a row of the `records` table has it.

    Attributes:
        index: its place in the recording, from 0.
        start_s: where it begins in the recording, in seconds.
        ecg: `(12, samples)`, int16 in microvolt; 0 throughout a missing lead.
        missing_leads: the leads without a valid signal in this segment.
    """

    index: int
    start_s: float
    ecg: np.ndarray
    missing_leads: tuple[str, ...]


def path_within(folder: Path, name: str) -> Path:
    """
    The path of a file that a table of the source names, which is to lie in the folder of the source.

    Raises:
        RecordingError: with the reason "path outside the source", or "missing file" for an empty name.
    """
    if not name:
        raise RecordingError("missing file", f"{folder}: the table names no file for this recording")
    path = Path(os.path.normpath(folder / name))
    if not path.is_relative_to(os.path.normpath(folder)):
        raise RecordingError("path outside the source", f"{name}: leads out of {folder}, so it is not read")
    return path


def read_recording(path: str | PathLike) -> Recording:
    """
    Read a WFDB record, place its leads by name and check that the limb leads agree.

    Args:
        path: the record, with or without `.hea`, `.dat` or `.mat`.

    Raises:
        RecordingError: with the reason "missing file", "unreadable header", or one of `make_recording`'s.
    """
    try:
        ecg, sampling_rate, lead_names = load_ecg(path)
    except FileNotFoundError as error:
        if Path(path).is_file() and Path(path).suffix.lower() in (".npy", ".csv"):
            raise RecordingError(
                "missing file", f"{path}: not a WFDB record; elm-hf prepare ecgfolder makes a dataset of such files"
            ) from error
        raise RecordingError("missing file", str(error)) from error
    except ValueError as error:
        raise RecordingError("unreadable header", str(error)) from error
    return make_recording(ecg, sampling_rate, lead_names, name=str(path))


def make_recording(
    ecg: np.ndarray, sampling_rate: int | float, lead_names: Sequence[str], name: str = "recording"
) -> Recording:
    """
    A recording from an array: its leads are placed by name, whatever their case, and the limb leads checked.

    The Frank leads vx, vy, vz are left out. A lead that is flat or invalid from beginning to end counts as missing.

    Args:
        ecg: `(len(lead_names), samples)` in mV, NaN where invalid.
        sampling_rate: in Hz.
        lead_names: the name of each row.
        name: what error messages call the recording, such as its path.

    Raises:
        RecordingError: with the reason "absurd sampling rate", "unknown lead", "repeated lead" or "limb leads disagree".
        ValueError: not as many names as rows.
    """
    if not _SMALLEST_RATE <= sampling_rate <= _LARGEST_RATE:
        raise RecordingError(
            "absurd sampling rate",
            f"{name}: a sampling rate of {sampling_rate:g} Hz, expected {_SMALLEST_RATE} to {_LARGEST_RATE} Hz as ECGs have",
        )
    ecg = np.asarray(ecg)
    if ecg.ndim != 2 or len(ecg) != len(lead_names):
        raise ValueError(f"{name}: {len(lead_names)} lead names for an ECG of shape {ecg.shape}, expected one per row")
    kept = [row for row, lead in enumerate(lead_names) if lead.lower() not in _EXTRA_LEADS]
    try:
        leads = [canonical_lead(lead_names[row]) for row in kept]
    except ValueError as error:
        raise RecordingError("unknown lead", f"{name}: {error}") from error
    try:
        placed, _ = place_leads(ecg if len(kept) == len(ecg) else ecg[kept], leads)
    except ValueError as error:
        raise RecordingError("repeated lead", f"{name}: {error}") from error
    disagreement = limb_lead_error(placed)
    if disagreement:
        raise RecordingError("limb leads disagree", f"{name}: {disagreement}")
    missing = [is_flat(lead) for lead in placed]
    placed[missing] = np.nan
    return Recording(placed, sampling_rate, _names(missing), name)


def segments(recording: Recording, seconds: float, sampling_rate: int | float = SAMPLING_RATE) -> list[Segment]:
    """
    Cut a recording into segments of equal length, one after the other; what is left at the end is dropped.

    Gaps of up to 0.1 s are interpolated first. A lead that still has an invalid sample in a segment, or is flat (the
    same value) throughout it, is missing there and 0. Values beyond ±32.767 mV, which int16 microvolt cannot hold,
    are invalid. A segment without any lead is left out; the others keep their index.

    Args:
        recording: as read.
        seconds: length of a segment: 2, 5, 10 or any other that makes whole samples.
        sampling_rate: of the segments, in Hz.

    Raises:
        RecordingError: with the reason "too short" (less than one segment) or "no usable lead" (in no segment).
        ValueError: `seconds * sampling_rate` is no positive whole number.
    """
    length = round(seconds * sampling_rate)
    if length < 1 or abs(length - seconds * sampling_rate) > 1e-6:
        raise ValueError(f"a segment of {seconds} s at {sampling_rate} Hz is not a positive whole number of samples")
    samples = recording.ecg.shape[1]
    if samples / recording.sampling_rate <= seconds - 1 / sampling_rate:
        raise RecordingError(
            "too short",
            f"{recording.name}: {samples / recording.sampling_rate:g} s long, shorter than one segment of {seconds:g} s",
        )
    ecg = fill_gaps(_without_overflow(recording.ecg), recording.sampling_rate)
    resampled = _without_overflow(resample(ecg, recording.sampling_rate, sampling_rate))
    count = resampled.shape[1] // length
    found = []
    for index in range(count):
        # flatness is judged before resampling, which lets the neighbouring segments ring into a flat stretch
        start, end = (round(edge * seconds * recording.sampling_rate) for edge in (index, index + 1))
        piece = resampled[:, index * length : (index + 1) * length]
        missing = [is_flat(before) or not np.isfinite(after).all() for before, after in zip(ecg[:, start:end], piece)]
        if not all(missing):
            found.append(Segment(index, float(index * seconds), _microvolt(piece, missing), _names(missing)))
    if not found:
        raise RecordingError("no usable lead", f"{recording.name}: every lead is missing, flat or has gaps over 0.1 s")
    return found


def _without_overflow(ecg: np.ndarray) -> np.ndarray:
    if ecg.min() >= -_LARGEST_MILLIVOLT and ecg.max() <= _LARGEST_MILLIVOLT:  # neither is true where there are NaN
        return ecg
    return np.where(np.abs(ecg) > _LARGEST_MILLIVOLT, np.float32(np.nan), ecg)


def _microvolt(ecg: np.ndarray, missing: list[bool]) -> np.ndarray:
    values = np.rint(ecg * 1000)
    values[missing] = 0
    return values.astype(np.int16)


def _names(missing: list[bool]) -> tuple[str, ...]:
    return tuple(lead for lead, absent in zip(LEADS, missing) if absent)
