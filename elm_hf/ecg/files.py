"""Read an ECG from a WFDB record, the file of an electrocardiograph, a NumPy array, a table or a MATLAB file."""

import os
from os import PathLike
from pathlib import Path

import numpy as np

from elm_hf.ecg.array_files import read_mat, read_npy
from elm_hf.ecg.recording import Recording, RecordingError, make_recording, path_within, read_recording
from elm_hf.ecg.signal_tables import MILLIVOLTS, SignalTable, known_unit, read_signal_table
from elm_hf.ecg.spreadsheet import TABLE_SUFFIXES, TableError
from elm_hf.modeling.device_files import VERIFIED_FORMATS, is_device_file, load_device_file
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.modeling.ecg_pictures import PICTURE_SUFFIXES


# How the message about a file that does not state its sampling rate goes on behind its name.
NO_RATE = "no sampling_rate"
ARRAY_SUFFIXES = (".npy", ".mat", *TABLE_SUFFIXES)


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
    `.npy`, tables (`.csv`, `.tsv`) with the lead names as header, see [`~signal_tables.read_signal_table`], MATLAB
    `.mat` up to version 7 with one array, and with `elm-hf[formats]` `.xlsx` tables and the files of electrocardiographs,
    see [`~device_files.load_device_file`]. An array has the shape `(leads, samples)` or `(samples, leads)`.

    Args:
        path: path of the file.
        sampling_rate: sampling rate in Hz. Required for arrays and for tables without a column of times; the other
            formats contain it.
        leads: name of each row or column of an array (`.npy`, `.mat`). Defaults to `LEADS`.
        units: "mV", "uV" or "V" of an array or a table, in any case. Defaults to the units in the header of a table, and
            to "mV"; the other formats contain the units.
        folder: folder that all files of the recording must be in, links included. By default the folder of `path`.
        as_recorded: whether to keep flat leads, and to accept limb leads that disagree.

    Returns:
        The recording with its leads placed by name.

    Raises:
        RecordingError: the recording cannot be used. The reason is one of those of `read_recording` and
            `load_device_file`, or "missing file", "unreadable file", "no sampling rate", "unknown units", "units disagree", "leads do
            not fit" or "absurd amplitude".
    """
    path = Path(path)
    folder = path.parent if folder is None else Path(folder)
    path_within(folder, os.path.abspath(path))
    if os.path.isfile(path) and path.suffix.lower() in PICTURE_SUFFIXES:
        raise RecordingError(
            "unreadable file",
            f"{path}: a picture; only models of drawn ECGs read pictures (elm-hf ask, elm-hf chat), and its signal is not "
            "reconstructed",
        )
    if is_device_file(path) and path.suffix.lower() not in TABLE_SUFFIXES:
        recording = _read_device(path, folder, as_recorded)
    elif _is_wfdb(path):
        recording = read_recording(path, folder, as_recorded=as_recorded)
    else:
        return _read_array(path, sampling_rate, leads, units, as_recorded)
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
    path: Path, sampling_rate: float | None, leads: list[str] | None, units: str | None, as_recorded: bool
) -> Recording:
    if not os.path.isfile(path):  # unlike Path.is_file, this does not raise if the name is too long
        raise RecordingError("missing file", f"{path}: no such file")
    is_table = path.suffix.lower() in TABLE_SUFFIXES
    if not is_table and path.suffix not in ARRAY_SUFFIXES:  # such as .NPY
        raise RecordingError(
            "unreadable file",
            f"{path}: not an ECG file; expected .npy, .csv, .mat, a WFDB record (.hea and .dat), {VERIFIED_FORMATS}",
        )
    if units is not None and known_unit(units) is None:
        raise RecordingError("unknown units", f'{path}: units "{units}", expected one of mV, uV or V')
    units, notes = None if units is None else known_unit(units), ()
    if not is_table:
        _check_rate(path, sampling_rate)
    try:
        if is_table:
            table = read_signal_table(path)
            sampling_rate = _rate_of_table(path, table, sampling_rate)
            units, scale = _units_of_table(path, table, units)
            ecg, names, notes = table.signals * scale, table.names, tuple(table.notes)
        else:
            units, names = units or "mV", leads or list(LEADS)
            ecg = read_npy(path) if path.suffix == ".npy" else _read_mat(path, len(names))
            ecg = _leads_first(ecg, len(names), str(path)).astype(np.float32) * np.float32(MILLIVOLTS[units])
    except ImportError as error:
        raise RecordingError("formats not installed", str(error)) from error
    except (ValueError, OSError) as error:
        if isinstance(error, RecordingError):
            raise
        said = str(error) if isinstance(error, TableError) else f"cannot be read ({error})"
        raise RecordingError("unreadable file", f"{path}: {said}") from error
    with np.errstate(over="ignore"):  # what becomes infinite is invalid
        ecg = ecg.astype(np.float32)
    recording = make_recording(ecg, sampling_rate, names, str(path), units, as_recorded=as_recorded)
    recording.notes = notes
    return recording


def _check_rate(path: Path, sampling_rate: float | None) -> None:
    if sampling_rate is None or not (np.isfinite(sampling_rate) and sampling_rate > 0):
        found = NO_RATE if sampling_rate is None else f"sampling_rate {sampling_rate} is invalid"
        or_times = ", or a column of times" if path.suffix.lower() in TABLE_SUFFIXES else ""
        raise RecordingError(
            "no sampling rate", f"{path}: {found}; a {path.suffix} file requires one, in Hz{or_times}"
        )


def _rate_of_table(path: Path, table: SignalTable, sampling_rate: float | None) -> float:
    """The sampling rate that is given, or that of the column of times."""
    if sampling_rate is None and table.sampling_rate is not None:
        return table.sampling_rate
    _check_rate(path, sampling_rate)
    if not table.agrees(sampling_rate):
        raise RecordingError(
            "sampling rate disagrees",
            f"{path}: its column of times gives a sampling rate of {table.sampling_rate:g} Hz, but sampling_rate is "
            f"{sampling_rate:g} Hz; correct or omit sampling_rate",
        )
    return sampling_rate


def _units_of_table(path: Path, table: SignalTable, units: str | None) -> tuple[str, float]:
    """The units of a table, and the factor that turns its signals into millivolt."""
    if table.unit is None:
        return units or "mV", MILLIVOLTS[units or "mV"]
    if units not in (None, table.unit):
        raise RecordingError(
            "units disagree", f"{path}: its header gives {table.unit}, but units is {units}; correct or omit units"
        )
    return table.unit, 1.0


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
