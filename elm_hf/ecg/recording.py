"""From a recording to segments: read an ECG, place and check its leads, and cut it into equal lengths at 250 Hz."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

import numpy as np

from elm_hf.modeling.ecg_leads import LEADS, SAMPLING_RATE, flat_leads
from elm_hf.modeling.ecg_reading import load_signals
from elm_hf.modeling.ecg_resampling import resampled_length
from elm_hf.modeling.ecg_segments import LARGEST_MILLIVOLT, RecordingError, place_recording, read_segments
from elm_hf.modeling.folder_paths import OutsideFolderError, path_inside


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
        other_signals: names of the signals that are not among the twelve leads and were dropped.
        device_report: what the device measured and stated, by name of `DEVICE_COLUMNS`; empty for WFDB and arrays.
        notes: what a table was found to mean, such as "decimal commas"; empty for other files.
    """

    ecg: np.ndarray
    sampling_rate: int | float
    missing_leads: tuple[str, ...]
    name: str = "recording"
    other_signals: tuple[str, ...] = ()
    device_report: dict[str, float | list[str] | None] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass
class Segment:
    """
    A segment of a recording, as stored in a row of the `records` table.

    Attributes:
        index: position in the recording, starting at 0.
        start_s: start time in the recording, in seconds.
        ecg: array `(12, samples)`, int16 in microvolt; a missing lead is a row of zeros.
        missing_leads: leads without a valid signal in this segment.
        num_filled: number of gaps that were interpolated.
    """

    index: int
    start_s: float
    ecg: np.ndarray
    missing_leads: tuple[str, ...]
    num_filled: int = 0


def path_within(folder: Path, name: str) -> Path:
    """
    Return the path of a file that is listed in a table of the source, and check that it is inside the source folder,
    links included.

    Raises:
        RecordingError: the path is outside the folder ("path outside the source"), or `name` is empty ("missing
            file").
    """
    if not name:
        raise RecordingError("missing file", f"{folder}: the table lists no file for this recording")
    try:
        return path_inside(folder / os.path.normpath(name), folder)
    except OutsideFolderError as error:
        raise RecordingError("path outside the source", str(error)) from error


def read_recording(
    path: str | PathLike, folder: str | PathLike | None = None, *, as_recorded: bool = False
) -> Recording:
    """
    Read a WFDB record, place its leads by name and check that the limb leads are consistent.

    Args:
        path: path of the record, with or without the suffix `.hea`, `.dat` or `.mat`.
        folder: folder that all files of the record must be in, links included. By default the folder of the header.
        as_recorded: whether to keep flat leads, and to accept limb leads that disagree.

    Raises:
        RecordingError: the record cannot be used. The reason is "missing file", "path outside the source", "unreadable
            header", or one of those of `make_recording`.
    """
    try:
        ecg, sampling_rate, lead_names, others = load_signals(path, folder)
    except FileNotFoundError as error:
        if Path(path).suffix.lower() in (".npy", ".csv") and Path(path).is_file():
            raise RecordingError(
                "missing file",
                f"{path}: not a WFDB record; use elm-hf prepare ecgfolder to build a dataset of such files",
            ) from error
        raise RecordingError("missing file", str(error)) from error
    except OutsideFolderError as error:
        raise RecordingError("path outside the source", str(error)) from error
    except (ValueError, OSError) as error:
        raise RecordingError("unreadable header", str(error)) from error
    recording = make_recording(
        ecg, sampling_rate, lead_names, str(path), units="of its header", as_recorded=as_recorded
    )
    recording.other_signals += tuple(others)
    return recording


def make_recording(
    ecg: np.ndarray,
    sampling_rate: int | float,
    lead_names: Sequence[str],
    name: str = "recording",
    units: str | None = None,
    *,
    as_recorded: bool = False,
) -> Recording:
    """
    Make a recording from an array: place its leads by name (case-insensitively) and check that the limb leads are
    consistent.

    Other signals, such as the Frank leads, are dropped. A lead that is flat or invalid throughout is missing.

    Args:
        ecg: array `(len(lead_names), samples)` in mV, NaN where invalid.
        sampling_rate: sampling rate in Hz.
        lead_names: name of each row.
        name: name of the recording in error messages, such as its path.
        units: units of the file in error messages. With them, the amplitude is checked.
        as_recorded: whether to keep flat leads, and to accept limb leads that disagree.

    Raises:
        RecordingError: the recording cannot be used. The reason is "absurd sampling rate", "unknown lead", "repeated
            lead", "limb leads disagree" or "absurd amplitude".
        ValueError: the number of names differs from the number of rows.
    """
    ecg = np.asarray(ecg)
    if ecg.ndim != 2 or len(ecg) != len(lead_names):
        raise ValueError(f"{name}: {len(lead_names)} lead names for an ECG of shape {ecg.shape}, expected one per row")
    placed, others = place_recording(ecg, sampling_rate, lead_names, name, units, check_limb_leads=not as_recorded)
    if placed.size and not np.fmax.reduce(np.abs(placed), None) <= LARGEST_MILLIVOLT:
        placed = np.where(np.abs(placed) <= LARGEST_MILLIVOLT, placed, np.float32(np.nan))
    missing = flat_leads(placed)
    if not as_recorded:
        placed[missing] = np.nan
    return Recording(placed, sampling_rate, _names(missing), name, tuple(others))


def segments(recording: Recording, seconds: float, sampling_rate: int | float = SAMPLING_RATE) -> list[Segment]:
    """
    Cut a recording into consecutive segments of equal length. The remainder at the end is dropped.

    The leads of each segment are judged as for every model, see [`~ecg_segments.read_segments`]: gaps of up to 0.1 s
    are interpolated, and a lead with a longer gap, or that is flat, is missing in this segment and set to 0. A segment
    without a valid lead is dropped; the other segments keep their index.

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
    count = resampled_length(samples, recording.sampling_rate, sampling_rate) // length
    starts = [index * length for index in range(count)]
    read = read_segments(recording.ecg, recording.sampling_rate, starts, length, sampling_rate)
    found = []
    for index, segment in enumerate(read):
        missing = [cause is not None for cause in segment.causes]
        if not all(missing):
            ecg = _microvolt(segment.ecg, missing)
            found.append(Segment(index, float(index * seconds), ecg, _names(missing), segment.num_filled))
    if not found:
        raise RecordingError("no usable lead", f"{recording.name}: every lead is missing, flat or has gaps over 0.1 s")
    return found


def _microvolt(ecg: np.ndarray, missing: list[bool]) -> np.ndarray:
    values = np.rint(ecg * 1000)
    values[missing] = 0
    return values.astype(np.int16)


def _names(missing: Iterable[bool]) -> tuple[str, ...]:
    return tuple(lead for lead, absent in zip(LEADS, missing) if absent)


__all__ = [
    "Recording",
    "RecordingError",
    "Segment",
    "make_recording",
    "path_within",
    "read_recording",
    "segments",
]
