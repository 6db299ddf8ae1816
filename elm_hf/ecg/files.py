"""Read an ECG from a WFDB record, the file of an electrocardiograph, a NumPy array, a CSV table or a MATLAB file."""

import os
from os import PathLike
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from elm_hf.ecg.array_files import read_mat, read_npy
from elm_hf.ecg.recording import Recording, RecordingError, make_recording, path_within, read_recording
from elm_hf.modeling.device_files import VERIFIED_FORMATS, is_device_file, load_device_file
from elm_hf.modeling.ecg_leads import LEADS


ARRAY_SUFFIXES = (".npy", ".csv", ".mat")
MILLIVOLTS = {"mV": 1.0, "uV": 1e-3, "µV": 1e-3, "V": 1e3}


def read_ecg_file(
    path: str | PathLike,
    sampling_rate: float | None = None,
    leads: list[str] | None = None,
    units: str | None = None,
    folder: str | PathLike | None = None,
    *,
    as_recorded: bool = False,
) -> Recording:
    """
    Read an ECG from a file.

    The formats are WFDB (the path may end in `.hea` or `.dat`, in `.mat` if a header is beside it, or have no suffix),
    `.npy`, `.csv` with the lead names as header, MATLAB `.mat` up to version 7 with one array, and with
    `elm-hf[formats]` the files of electrocardiographs, see [`~device_files.load_device_file`]. An array has the shape
    `(leads, samples)` or `(samples, leads)`.

    Args:
        path: path of the file.
        sampling_rate: sampling rate in Hz. Required for arrays; the other formats contain it.
        leads: name of each row or column of an array (`.npy`, `.mat`). Defaults to `LEADS`.
        units: "mV", "uV" or "V" of an array. Defaults to "mV"; the other formats contain the units.
        folder: folder that all files of the recording must be in, links included. By default the folder of `path`.
        as_recorded: whether to keep flat leads, and to accept limb leads that disagree.

    Returns:
        The recording with its leads placed by name.

    Raises:
        RecordingError: the recording cannot be used. The reason is one of those of `read_recording` and
            `load_device_file`, or "missing file", "unreadable file", "no sampling rate", "unknown units", "leads do
            not fit" or "absurd amplitude".
    """
    path = Path(path)
    folder = path.parent if folder is None else Path(folder)
    path_within(folder, os.path.abspath(path))
    if is_device_file(path):
        recording = _read_device(path, folder, as_recorded)
    elif _is_wfdb(path):
        recording = read_recording(path, folder, as_recorded=as_recorded)
    else:
        return _read_array(path, sampling_rate, leads, units or "mV", as_recorded)
    if sampling_rate is not None and sampling_rate != recording.sampling_rate:
        raise RecordingError(
            "sampling rate disagrees",
            f"{path}: the file gives a sampling rate of {recording.sampling_rate:g} Hz, but sampling_rate is "
            f"{sampling_rate:g} Hz; correct or omit sampling_rate",
        )
    return recording


def _read_device(path: Path, folder: Path, as_recorded: bool) -> Recording:
    device = load_device_file(path, folder)
    recording = make_recording(
        device.ecg, device.sampling_rate, device.lead_names, str(path), "of the file", as_recorded=as_recorded
    )
    recording.other_signals += tuple(device.other_signals)
    recording.device_report = device.report
    return recording


def _is_wfdb(path: Path) -> bool:
    if path.suffix == ".mat":  # a WFDB signal file, as in the PhysioNet challenges, or any other MATLAB file
        return os.path.isfile(path.with_suffix(".hea"))
    return path.suffix in ("", ".hea", ".dat") or os.path.isfile(path.with_name(f"{path.name}.hea"))


def _read_array(
    path: Path, sampling_rate: float | None, leads: list[str] | None, units: str, as_recorded: bool
) -> Recording:
    if not os.path.isfile(path):  # unlike Path.is_file, this does not raise if the name is too long
        raise RecordingError("missing file", f"{path}: no such file")
    if path.suffix not in ARRAY_SUFFIXES:  # such as .NPY
        raise RecordingError(
            "unreadable file",
            f"{path}: not an ECG file; expected .npy, .csv, .mat, a WFDB record (.hea and .dat), {VERIFIED_FORMATS}",
        )
    if path.suffix == ".csv" and not os.path.getsize(path):
        raise RecordingError("unreadable file", f"{path}: is empty")
    if sampling_rate is None or not (np.isfinite(sampling_rate) and sampling_rate > 0):
        found = "no sampling_rate" if sampling_rate is None else f"sampling_rate {sampling_rate} is invalid"
        raise RecordingError("no sampling rate", f"{path}: {found}; a {path.suffix} file requires one, in Hz")
    if units not in MILLIVOLTS:
        raise RecordingError("unknown units", f'{path}: units "{units}", expected one of mV, uV or V')
    try:
        if path.suffix == ".csv":
            ecg, names = _read_csv(path)
        else:
            names = leads or list(LEADS)
            ecg = read_npy(path) if path.suffix == ".npy" else _read_mat(path, len(names))
            ecg = _leads_first(ecg, len(names), str(path))
    except (ValueError, OSError, pa.ArrowException) as error:
        if isinstance(error, RecordingError):
            raise
        raise RecordingError("unreadable file", f"{path}: cannot be read ({error})") from error
    with np.errstate(over="ignore"):  # what becomes infinite is invalid
        ecg = ecg.astype(np.float32) * np.float32(MILLIVOLTS[units])
    return make_recording(ecg, sampling_rate, names, str(path), units, as_recorded=as_recorded)


def _read_csv(path: Path) -> tuple[np.ndarray, list[str]]:
    """Read the columns of a table and their names. Empty cells and NaN are invalid samples."""
    table = pyarrow.csv.read_csv(path)
    for name, column in zip(table.column_names, table.columns):
        if not (
            pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_null(column.type)
        ):
            raise RecordingError("unreadable file", f'{path}: column "{name}" holds {column.type}, expected numbers')
    if not table.num_rows:
        raise RecordingError("unreadable file", f"{path}: contains no samples")
    columns = [column.cast(pa.float32(), safe=False).to_numpy() for column in table.columns]
    return np.stack(columns), list(table.column_names)


def _read_mat(path: Path, num_leads: int) -> np.ndarray:
    """Read the only array of a MATLAB file that has one row or one column per lead."""
    ecg, found = read_mat(path, num_leads)
    if ecg is None:
        raise RecordingError(
            "leads do not fit",
            f"{path}: expected one array of numbers with {num_leads} rows or columns, found {found or 'nothing'}; list "
            "its leads in the order of the array, or store one array per file",
        )
    return ecg


def _leads_first(ecg: np.ndarray, num_leads: int, name: str) -> np.ndarray:
    if ecg.ndim != 2 or num_leads not in ecg.shape:
        raise RecordingError(
            "leads do not fit",
            f"{name}: array of shape {ecg.shape}, expected {num_leads} rows or columns; list its leads in their order",
        )
    return ecg if len(ecg) == num_leads else ecg.T
