"""Read an .xlsx file with python-calamine, in a process of its own, so that a hostile file cannot take the program with it."""

import datetime
import os
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from elm_hf.modeling.reading_process import ReadingProcess, serve


# In bytes. The table of an ECG of 10 s has about 1 MB.
LARGEST_FILE = 64 * 2**20
_LONGEST_READ_S = 60


def read_xlsx(path: Path) -> list[list[str]]:
    """
    Read the cells of the only sheet with content, as text. Numbers have decimal points, dates are like 2026-11-27.

    Raises:
        ValueError: the file cannot be read, or several sheets have content. The message does not contain the path.
        FileNotFoundError: the file does not exist.
        ImportError: python-calamine is not installed.
    """
    if find_spec("python_calamine") is None:
        raise ImportError(f'{path}: .xlsx files require python-calamine: pip install "elm-hf[formats]"')
    if os.path.getsize(path) > LARGEST_FILE:
        raise ValueError(f"{os.path.getsize(path) >> 20} MiB, expected up to {LARGEST_FILE >> 20}; save it as CSV")
    found = _reader(os.getpid()).read({"path": os.path.abspath(path)}, _LONGEST_READ_S)
    if "error" in found:
        raise ValueError(f"cannot be read as an .xlsx file ({found['error']})")
    sheets = found["sheets"]
    if len(sheets) != 1:
        names = ", ".join(f'"{name}"' for name in sheets) or "none"
        raise ValueError(f"sheets with content: {names}; expected one, so save each table in a file of its own")
    return next(iter(sheets.values()))


@lru_cache(maxsize=1)
def _reader(process: int) -> ReadingProcess:
    """The reader of a process. A forked process starts its own."""
    return ReadingProcess(["-P", "-c", "from elm_hf.ecg.xlsx_reader import main; main()"], "reader")


def main() -> None:
    """Serves the reading process."""
    from python_calamine import CalamineWorkbook

    serve(lambda path: ({"sheets": _sheets(CalamineWorkbook.from_path(path))}, None))


def _sheets(workbook) -> dict[str, list[list[str]]]:
    found = {}
    for name in workbook.sheet_names:
        rows = [[_text(cell) for cell in row] for row in workbook.get_sheet_by_name(name).to_python()]
        if any(cell for row in rows for cell in row):
            found[name] = rows
    return found


def _text(cell) -> str:
    """A cell as text. Whole numbers have no decimals, and a date has no time unless it differs from midnight."""
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 2**53:
        return str(int(cell))
    if isinstance(cell, datetime.datetime):
        return cell.date().isoformat() if cell.time() == datetime.time() else cell.isoformat(" ")
    return str(cell).strip()
