"""From a recording to segments: read an ECG, place and check its leads, and cut it into equal lengths at 250 Hz."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np

from elm_hf.modeling.ecg_leads import LEADS, SAMPLING_RATE, canonical_lead, is_flat, limb_lead_error, place_leads
from elm_hf.modeling.ecg_reading import load_ecg
from elm_hf.modeling.ecg_resampling import fill_gaps, resample


# the Frank leads of the PTB database: valid, but not among the twelve leads
_EXTRA_LEADS = ("vx", "vy", "vz")
# the largest absolute value that int16 microvolt can represent on both sides of zero
_LARGEST_MILLIVOLT = 32.767
# Hz; a lower value is probably a sampling interval or in other units, and no electrocardiograph samples faster
_SMALLEST_RATE, _LARGEST_RATE = 50, 20_000


class RecordingError(ValueError):
    """
    A recording cannot be used. `str(error)` gives the name of the recording and the cause.

    Attributes:
        reason: a short category, used for counting: "missing file", "path outside the source", "unreadable header"
            (the header cannot be read or does not match its signal file), "unreadable metadata", "unknown lead",
            "repeated lead", "limb leads disagree", "absurd sampling rate", "too short", "no usable lead", or a reason
            defined by a dataset script.
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
        ecg: array `(12, samples)`, float32 in mV, in the order of `LEADS`. Invalid samples are NaN; a missing lead is
            a row of NaN.
        sampling_rate: sampling rate in Hz.
        missing_leads: leads that the source does not contain, or that are invalid or flat throughout.
        name: name of the recording in error messages, such as its path.
    """

    ecg: np.ndarray
    sampling_rate: int | float
    missing_leads: tuple[str, ...]
    name: str = "recording"


@dataclass
class Segment:
    """
    A segment of a recording, as stored in a row of the `records` table.

    Attributes:
        index: position in the recording, starting at 0.
        start_s: start time in the recording, in seconds.
        ecg: array `(12, samples)`, int16 in microvolt; a missing lead is a row of zeros.
        missing_leads: leads without a valid signal in this segment.
    """

    index: int
    start_s: float
    ecg: np.ndarray
    missing_leads: tuple[str, ...]


def path_within(folder: Path, name: str) -> Path:
    """
    Return the path of a file that is listed in a table of the source, and check that it is inside the source folder.

    Raises:
        RecordingError: the path is outside the folder ("path outside the source"), or `name` is empty ("missing
            file").
    """
    if not name:
        raise RecordingError("missing file", f"{folder}: the table lists no file for this recording")
    path = Path(os.path.normpath(folder / name))
    if not path.is_relative_to(os.path.normpath(folder)):
        raise RecordingError("path outside the source", f"{name}: is outside {folder}, so it is not read")
    return path


def read_recording(path: str | PathLike) -> Recording:
    """
    Read a WFDB record, place its leads by name and check that the limb leads are consistent.

    Args:
        path: path of the record, with or without the suffix `.hea`, `.dat` or `.mat`.

    Raises:
        RecordingError: the record cannot be used. The reason is "missing file", "unreadable header", or one of those
            of `make_recording`.
    """
    try:
        ecg, sampling_rate, lead_names = load_ecg(path)
    except FileNotFoundError as error:
        if Path(path).is_file() and Path(path).suffix.lower() in (".npy", ".csv"):
            raise RecordingError(
                "missing file",
                f"{path}: not a WFDB record; use elm-hf prepare ecgfolder to build a dataset of such files",
            ) from error
        raise RecordingError("missing file", str(error)) from error
    except ValueError as error:
        raise RecordingError("unreadable header", str(error)) from error
    return make_recording(ecg, sampling_rate, lead_names, name=str(path))


def make_recording(
    ecg: np.ndarray, sampling_rate: int | float, lead_names: Sequence[str], name: str = "recording"
) -> Recording:
    """
    Make a recording from an array: place its leads by name (case-insensitively) and check that the limb leads are
    consistent.

    The Frank leads vx, vy and vz are dropped. A lead that is flat or invalid throughout is missing.

    Args:
        ecg: array `(len(lead_names), samples)` in mV, NaN where invalid.
        sampling_rate: sampling rate in Hz.
        lead_names: name of each row.
        name: name of the recording in error messages, such as its path.

    Raises:
        RecordingError: the recording cannot be used. The reason is "absurd sampling rate", "unknown lead", "repeated
            lead" or "limb leads disagree".
        ValueError: the number of names differs from the number of rows.
    """
    if not _SMALLEST_RATE <= sampling_rate <= _LARGEST_RATE:
        raise RecordingError(
            "absurd sampling rate",
            f"{name}: a sampling rate of {sampling_rate:g} Hz, expected {_SMALLEST_RATE} to {_LARGEST_RATE} Hz",
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
    Cut a recording into consecutive segments of equal length. The remainder at the end is dropped.

    Gaps of up to 0.1 s are interpolated first. A lead that still has an invalid sample in a segment, or that is flat
    (constant) throughout it, is missing in this segment and set to 0. Values beyond ±32.767 mV, which int16 microvolt
    cannot represent, are invalid. A segment without a valid lead is dropped; the other segments keep their index.

    Args:
        recording: the recording to cut.
        seconds: length of a segment, such as 2, 5 or 10; it must correspond to a whole number of samples.
        sampling_rate: sampling rate of the segments in Hz.

    Raises:
        RecordingError: the recording is shorter than one segment ("too short"), or no segment has a valid lead ("no
            usable lead").
        ValueError: `seconds * sampling_rate` is not a positive whole number.
    """
    length = round(seconds * sampling_rate)
    if length < 1 or abs(length - seconds * sampling_rate) > 1e-6:
        raise ValueError(f"a segment of {seconds} s at {sampling_rate} Hz is not a positive whole number of samples")
    samples = recording.ecg.shape[1]
    if samples / recording.sampling_rate <= seconds - 1 / sampling_rate:
        raise RecordingError(
            "too short",
            f"{recording.name}: {samples / recording.sampling_rate:g} s long, shorter than one segment of {seconds:g} "
            "s",
        )
    ecg = fill_gaps(_without_overflow(recording.ecg), recording.sampling_rate)
    resampled = _without_overflow(resample(ecg, recording.sampling_rate, sampling_rate))
    count = resampled.shape[1] // length
    found = []
    for index in range(count):
        # check for flat leads before resampling, because its filter rings into flat parts from neighbouring segments
        start, end = (round(edge * seconds * recording.sampling_rate) for edge in (index, index + 1))
        piece = resampled[:, index * length : (index + 1) * length]
        missing = [is_flat(before) or not np.isfinite(after).all() for before, after in zip(ecg[:, start:end], piece)]
        if not all(missing):
            found.append(Segment(index, float(index * seconds), _microvolt(piece, missing), _names(missing)))
    if not found:
        raise RecordingError("no usable lead", f"{recording.name}: every lead is missing, flat or has gaps over 0.1 s")
    return found


def _without_overflow(ecg: np.ndarray) -> np.ndarray:
    if ecg.min() >= -_LARGEST_MILLIVOLT and ecg.max() <= _LARGEST_MILLIVOLT:  # both are false if there are NaN
        return ecg
    return np.where(np.abs(ecg) > _LARGEST_MILLIVOLT, np.float32(np.nan), ecg)


def _microvolt(ecg: np.ndarray, missing: list[bool]) -> np.ndarray:
    values = np.rint(ecg * 1000)
    values[missing] = 0
    return values.astype(np.int16)


def _names(missing: list[bool]) -> tuple[str, ...]:
    return tuple(lead for lead, absent in zip(LEADS, missing) if absent)
