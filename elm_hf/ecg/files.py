"""Read an ECG from a WFDB record, a NumPy array, a CSV table or a MATLAB file."""

import os
from os import PathLike
from pathlib import Path
from zlib import error as ZlibError

import numpy as np
import pyarrow as pa
import pyarrow.csv
import scipy.io
from scipy.io.matlab import MatReadError

from elm_hf.ecg.recording import Recording, RecordingError, make_recording, read_recording
from elm_hf.modeling.ecg_leads import LARGEST_SPAN, LEADS


MILLIVOLTS = {"mV": 1.0, "uV": 1e-3, "µV": 1e-3, "V": 1e3}
SMALLEST_SPAN = 0.02  # mV from the 1st to the 99th percentile of a lead; real low-voltage ECGs span 0.2 mV


def read_ecg_file(
    path: str | PathLike,
    sampling_rate: float | None = None,
    leads: list[str] | None = None,
    units: str | None = None,
) -> Recording:
    """
    Read an ECG from a file.

    The formats are WFDB (the path may end in `.hea` or `.dat`, in `.mat` if a header is beside it, or have no suffix),
    `.npy`, `.csv` with the lead names as header, and MATLAB `.mat` up to version 7 with one array. An array has the
    shape `(leads, samples)` or `(samples, leads)`.

    Args:
        path: path of the file.
        sampling_rate: sampling rate in Hz. Required for every format except WFDB, whose header contains it.
        leads: name of each row or column of an array (`.npy`, `.mat`). Defaults to `LEADS`.
        units: "mV", "uV" or "V". Defaults to "mV"; ignored for WFDB, whose header contains the units.

    Returns:
        The recording with its leads placed by name.

    Raises:
        RecordingError: the recording cannot be used. The reason is one of those of `read_recording`, or "missing
            file", "unreadable file", "no sampling rate", "unknown units", "leads do not fit" or "absurd amplitude".
    """
    path = Path(path)
    if _is_wfdb(path):
        recording = read_recording(path)
        if sampling_rate is not None and sampling_rate != recording.sampling_rate:
            raise RecordingError(
                "sampling rate disagrees",
                f"{path}: the header gives a sampling rate of {recording.sampling_rate:g} Hz, but sampling_rate is "
                f"{sampling_rate:g} Hz; correct or omit sampling_rate",
            )
        units = "of its header"
    else:
        recording = _read_array(path, sampling_rate, leads, units or "mV")
    _check_amplitude(recording, units or "mV")
    return recording


def _is_wfdb(path: Path) -> bool:
    if path.suffix == ".mat":  # a WFDB signal file, as in the PhysioNet challenges, or any other MATLAB file
        return os.path.isfile(path.with_suffix(".hea"))
    return path.suffix in ("", ".hea", ".dat") or os.path.isfile(path.with_name(f"{path.name}.hea"))


def _read_array(path: Path, sampling_rate: float | None, leads: list[str] | None, units: str) -> Recording:
    if path.suffix not in (".npy", ".csv", ".mat"):
        raise RecordingError(
            "unreadable file", f"{path}: not an ECG file; expected .npy, .csv, .mat or a WFDB record (.hea and .dat)"
        )
    if not os.path.isfile(path):  # unlike Path.is_file, this does not raise if the name is too long
        raise RecordingError("missing file", f"{path}: no such file")
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
            ecg = _read_npy(path, len(names)) if path.suffix == ".npy" else _read_mat(path, len(names))
    except (ValueError, TypeError, KeyError, OSError, EOFError, NotImplementedError, MatReadError, ZlibError) as error:
        if isinstance(error, RecordingError):
            raise
        raise RecordingError("unreadable file", f"{path}: cannot be read ({error})") from error
    return make_recording(ecg * np.float32(MILLIVOLTS[units]), sampling_rate, names, name=str(path))


def _read_npy(path: Path, num_leads: int) -> np.ndarray:
    """
    Read an array `(leads, samples)`. Pickled content is refused. The memory map makes sure that a header with a wrong
    shape allocates no memory.
    """
    ecg = np.load(path, mmap_mode="r", allow_pickle=False)
    return _leads_first(ecg, num_leads, str(path))


def _read_csv(path: Path) -> tuple[np.ndarray, list[str]]:
    """Read the columns of a table and their names. Empty cells and NaN are invalid samples."""
    table = pyarrow.csv.read_csv(path)
    for name, column in zip(table.column_names, table.columns):
        if not (
            pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_null(column.type)
        ):
            raise RecordingError("unreadable file", f'{path}: column "{name}" holds {column.type}, expected numbers')
    columns = [column.cast(pa.float32(), safe=False).to_numpy() for column in table.columns]
    return np.stack(columns), list(table.column_names)


def _read_mat(path: Path, num_leads: int) -> np.ndarray:
    """Read the only array of a MATLAB file that has one row or one column per lead."""
    variables = {name: value for name, value in scipy.io.loadmat(path).items() if not name.startswith("__")}
    fitting = [
        value
        for value in variables.values()
        if isinstance(value, np.ndarray) and value.ndim == 2 and value.dtype.kind in "iuf" and num_leads in value.shape
    ]
    if len(fitting) != 1:
        found = ", ".join(f"{name} {np.shape(value)}" for name, value in variables.items()) or "nothing"
        raise RecordingError(
            "leads do not fit",
            f"{path}: expected one array of numbers with {num_leads} rows or columns, found {found}; list its leads "
            "in the order of the array, or store one array per file",
        )
    return _leads_first(fitting[0], num_leads, str(path))


def _leads_first(ecg: np.ndarray, num_leads: int, name: str) -> np.ndarray:
    if ecg.dtype.kind not in "iuf":
        raise RecordingError("unreadable file", f"{name}: array of type {ecg.dtype}, expected numbers")
    if ecg.ndim != 2 or num_leads not in ecg.shape:
        raise RecordingError(
            "leads do not fit",
            f"{name}: array of shape {ecg.shape}, expected {num_leads} rows or columns; list its leads in their order",
        )
    return np.array(ecg if len(ecg) == num_leads else ecg.T, dtype=np.float32)


def _check_amplitude(recording: Recording, units: str) -> None:
    """Raise an error if the amplitude is so small or so large that the units must be wrong."""
    present = recording.ecg[np.isfinite(recording.ecg).any(axis=1)]
    if not len(present):
        return  # `segments` reports this
    low, high = np.nanpercentile(np.where(np.isfinite(present), present, np.nan), [1, 99], axis=1)
    span = float(np.median(high - low))
    if not SMALLEST_SPAN <= span <= LARGEST_SPAN:
        raise RecordingError(
            "absurd amplitude",
            f"{recording.name}: its leads span {span:.3g} mV with the units {units}; ECGs span 0.2 to 5 mV. Check the "
            "units (mV, uV or V) and whether the file contains an ECG",
        )
