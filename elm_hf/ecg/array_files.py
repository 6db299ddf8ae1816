"""Read arrays from NumPy and MATLAB files that may be damaged or hostile."""

import math
import os
import re
from functools import lru_cache
from pathlib import Path

import numpy as np

from elm_hf.modeling.reading_process import ReadingProcess


# Bytes of the longest header of a NumPy file; those of arrays of numbers have about 100.
_LONGEST_HEADER = 10_000
# Seconds to read a MATLAB file of any size, and bytes that are read per second of a large file.
_LONGEST_READ_S, _SLOWEST_READ = 8, 2e6


def read_npy(path: Path) -> np.ndarray:
    """
    Read an array of numbers. Its header is compared with the size of the file, and nothing in it is executed.

    Raises:
        ValueError: the file is not such an array, or is cut short.
    """
    size = os.path.getsize(path)
    with path.open("rb") as file:
        start = file.read(12)
        if start[:6] != b"\x93NUMPY" or len(start) < 12:
            kind = "a ZIP file, perhaps an .npz" if start[:2] == b"PK" else "not a NumPy file"
            raise ValueError(f"{kind}; expected an array saved with numpy.save")
        is_short = start[6] == 1
        length = int.from_bytes(start[8:10] if is_short else start[8:12], "little")
        offset = (10 if is_short else 12) + length
        if start[6] not in (1, 2, 3) or offset > min(size, _LONGEST_HEADER):
            raise ValueError("its NumPy header is damaged")
        header = (start[10:] if is_short else b"") + file.read(length - 2 * is_short)
    dtype, in_columns, shape = _npy_fields(header.decode("latin-1"))
    num_values = math.prod(shape)
    needed = offset + dtype.itemsize * num_values
    if size < needed:
        raise ValueError(f"{size} bytes, expected {needed} for an array of shape {shape}: it was cut short")
    if not num_values:
        raise ValueError(f"array of shape {shape}, which contains no samples")
    return np.asarray(np.memmap(path, dtype, "r", offset, shape, "F" if in_columns else "C"))


def _npy_fields(header: str) -> tuple[np.dtype, bool, tuple[int, ...]]:
    descr = re.search(r"""["']descr["']\s*:\s*["']([^"']*)["']""", header)
    if descr is None or not re.fullmatch(r"[<>=|]?([iu][1248]|f[248])", descr[1]):
        found = "with fields" if descr is None else f"of type {descr[1][:20]}".replace("type |O", "Python objects")
        raise ValueError(f"array {found}, expected numbers")
    order = re.search(r"""["']fortran_order["']\s*:\s*(True|False)""", header)
    shape = re.search(r"""["']shape["']\s*:\s*\(([\d, ]*)\)""", header)
    sizes = re.findall(r"\d+", shape[1]) if shape is not None else []
    if order is None or shape is None or any(len(size) > 15 for size in sizes):
        raise ValueError("its NumPy header is damaged")
    return np.dtype(descr[1]), order[1] == "True", tuple(map(int, sizes))


def read_mat(path: Path, num_leads: int) -> tuple[np.ndarray | None, str]:
    """
    Read the only array of a MATLAB file that has one row or one column per lead.

    SciPy can crash, hang or take all memory for a damaged file, so it runs in a process of its own.

    Args:
        path: path of the file.
        num_leads: number of leads.

    Returns:
        The array, None unless there is one such array; and the names and shapes of all arrays.

    Raises:
        ValueError: the file cannot be read.
    """
    seconds = _LONGEST_READ_S + os.path.getsize(path) / _SLOWEST_READ
    request = {"path": os.path.abspath(path), "num_leads": num_leads}
    found = _mat_reader(os.getpid()).read(request, seconds)
    if "error" in found:
        raise ValueError(found["error"])
    return found["array"], found["found"]


@lru_cache(maxsize=1)
def _mat_reader(process: int) -> ReadingProcess:
    """The reader of a process. A forked process starts its own."""
    return ReadingProcess(["-m", "elm_hf.ecg.mat_reader"], "MATLAB reader")
