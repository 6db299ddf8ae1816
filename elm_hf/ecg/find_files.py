"""Find the files with ECGs that paths, folders, patterns and tables of paths stand for."""

import glob
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from elm_hf.ecg.files import read_ecg_file
from elm_hf.ecg.recording import Recording
from elm_hf.ecg.spreadsheet import TABLE_SUFFIXES, TableError, map_columns, open_table, to_hertz


# How the message about a file of a known format that is not read begins.
_NAMED_FORMAT = re.compile(r"a file in the format ([^,]+),")
# Files of a folder that are no ECG, or part of one: signals and annotations of WFDB records, descriptions.
_NOT_ALONE = (".dat", ".atr", ".jsonl", ".txt", ".md", ".parquet")
# Names of the table that describes the files of a folder.
METADATA_NAMES = ("metadata.csv", "metadata.jsonl", "metadata.tsv", "metadata.xlsx")
LABEL_NAMES = ("labels.csv", "labels.jsonl", "labels.tsv", "labels.xlsx")
# Columns of such a table that say how to read a file, and their other names, see `map_columns`.
READING_COLUMNS = ("file_name", "sampling_rate", "units", "leads")
OTHER_NAMES = {
    "file": "file_name",
    "path": "file_name",
    "filepath": "file_name",
    "dateiname": "file_name",
    "datei": "file_name",
    "unit": "units",
    "einheit": "units",
    "abtastrate": "sampling_rate",
    "fs": "sampling_rate",
    "samplerate": "sampling_rate",
    "samplingfrequency": "sampling_rate",
}


@dataclass(frozen=True)
class EcgFile:
    """
    A file with an ECG and how to read it.

    Attributes:
        path: the file.
        name: its path as given, or as the table has it.
        place: its path relative to the folder that it was found in, or its name.
        sampling_rate, units, leads: see [`~elm_hf.ecg.files.read_ecg_file`].
    """

    path: Path
    name: str
    place: str
    sampling_rate: float | None = None
    units: str | None = None
    leads: tuple[str, ...] | None = None

    def read(self, as_recorded: bool = False) -> Recording:
        """Read the ECG, see [`~elm_hf.ecg.files.read_ecg_file`]."""
        leads = None if self.leads is None else list(self.leads)
        return read_ecg_file(self.path, self.sampling_rate, leads, self.units, as_recorded=as_recorded)


def stands_for_several(path: str | PathLike) -> bool:
    """Whether a path stands for any number of files: a folder, a pattern, or a table of paths."""
    return os.path.isdir(path) or _is_pattern(path) or _is_table(Path(path))


def find_ecg_files(
    paths: Sequence[str | PathLike], sampling_rate: float | None = None, units: str | None = None
) -> list[list[EcgFile]]:
    """
    Find the files that paths stand for. WFDB records are found once, by their headers.

    A path is a file; a folder, whose files and those in its subfolders are found; a pattern such as `ecgs/*.xml`; or a
    table (`.csv`, `.tsv`, `.xlsx` or `.jsonl`) with a column `file_name`. A table may have the columns `sampling_rate`,
    `units` and `leads`, see docs/own_data.md. Its paths are relative to its folder, and a list of files in a row is
    a group. The `metadata` table of a folder describes the files of the folder in the same way.

    Args:
        paths: the paths.
        sampling_rate, units: of the files for which no table gives them.

    Returns:
        Groups of files that belong together. Only tables have groups of more than one.

    Raises:
        FileNotFoundError: nothing is found in a folder, by a pattern or in a table.
        ValueError: a table cannot be read.
    """
    given = {"sampling_rate": sampling_rate, "units": units}
    found = []
    for path in paths:
        if os.path.isdir(path):
            groups = _in_folder(Path(path), given)
        elif _is_pattern(path):
            groups = _matching(os.fspath(path), given)
        elif _is_table(Path(path)):
            groups = list(_in_table(Path(path), given))
        else:
            groups = [[_ecg_file(path, given)]]
        if not groups:
            raise FileNotFoundError(f"{path}: contains no files with an ECG")
        found += groups
    return found


def formats_of(failures: Iterable[tuple[str | PathLike, str]]) -> str:
    """
    Which formats files have that cannot be read, such as `3 .pdf, 2 SCP-ECG`.

    Args:
        failures: path and error message of each file.
    """
    found = Counter()
    for path, message in failures:
        named = _NAMED_FORMAT.search(message)
        found[named[1] if named else Path(path).suffix.lower() or "without a suffix"] += 1
    return ", ".join(f"{count} {name}" for name, count in found.most_common())


def _is_pattern(path: str | PathLike) -> bool:
    return glob.has_magic(os.fspath(path)) and not os.path.exists(path)


def _in_folder(folder: Path, given: dict) -> list[list[EcgFile]]:
    settings = {}
    for table in (folder / name for name in METADATA_NAMES if (folder / name).is_file()):
        for group in _in_table(table, given):
            for file in group:
                known = {"sampling_rate": file.sampling_rate, "units": file.units, "leads": file.leads}
                settings[file.path] = settings.get(file.path, {}) | {
                    field: value for field, value in known.items() if value is not None
                }
    return [
        [_ecg_file(path, settings.get(path, given), path.relative_to(folder).as_posix())] for path in files_in(folder)
    ]


def files_in(folder: Path) -> list[Path]:
    """The files in a folder and its subfolders that may contain an ECG. Of a WFDB record, this is the header."""
    return sorted(_candidates(folder.rglob("*")))


def _ecg_file(path: str | PathLike, settings: dict, place: str | None = None) -> EcgFile:
    return EcgFile(Path(path), os.fspath(path), place or Path(path).name, **settings)


def _matching(pattern: str, given: dict) -> list[list[EcgFile]]:
    matches = sorted(Path(match) for match in glob.glob(pattern, recursive=True))
    found = [path for match in matches if not match.is_dir() for path in _candidates([match, _header_of(match)])]
    return [[_ecg_file(path, given)] for path in dict.fromkeys(found)]


def _candidates(paths: Sequence[Path] | Iterator[Path]) -> Iterator[Path]:
    for path in paths:
        is_part = path.suffix.lower() in _NOT_ALONE or (path.suffix != ".hea" and _header_of(path).is_file())
        is_table = path.name in METADATA_NAMES or path.name in LABEL_NAMES
        if path.is_file() and not is_part and not is_table and not path.name.startswith("."):
            yield path


def _header_of(path: Path) -> Path:
    return path.with_suffix(".hea")


def _is_table(path: Path) -> bool:
    if path.suffix.lower() not in (*TABLE_SUFFIXES, ".jsonl") or not path.is_file():
        return False
    if path.suffix.lower() == ".jsonl":
        return True
    try:
        columns = map_columns(next(open_table(path).rows(), []), READING_COLUMNS, OTHER_NAMES)
    except (ValueError, ImportError):  # reported when it is read as an ECG
        return False
    return any(column == "file_name" for column, _ in columns.values())


def _in_table(path: Path, given: dict) -> Iterator[list[EcgFile]]:
    """The files of each row, every group once."""
    seen = set()
    for where, row in _rows(path):
        names = row.get("file_name")
        if isinstance(names, str) and names.lstrip().startswith("["):
            names = _from_json(names, f"{path}: {where}")
        names = names if isinstance(names, list) else [names]
        if not names or not all(isinstance(name, str) and name.strip() for name in names):
            raise ValueError(f"{path}: {where}: file_name {row.get('file_name')!r}, expected the name of a file")
        settings = given | _settings(row, f"{path}: {where}")
        group = [EcgFile(_file(path.parent, name), name, os.path.normpath(name), **settings) for name in names]
        key = tuple(file.path for file in group)
        if key not in seen:
            seen.add(key)
            yield group


def _file(folder: Path, name: str) -> Path:
    """The file that a table names. A WFDB record may be named by any of its files."""
    path = folder / name
    header = _header_of(path) if path.suffix in (".dat", ".mat") else path.with_name(f"{path.name}.hea")
    return header if header.is_file() else path


def _rows(path: Path) -> Iterator[tuple[str, dict]]:
    """The rows of a table with their positions, by the names of `READING_COLUMNS`. Other columns are omitted."""
    if path.suffix.lower() == ".jsonl":
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            row = _from_json(line, f"{path}: line {number}") if line.strip() else None
            if isinstance(row, dict):
                yield f"line {number}", _known_cells(row)
        return
    try:
        rows = open_table(path).rows()
        names = next(rows, [])
        for number, row in enumerate(rows, 1):
            if any(cell.strip() for cell in row):
                yield f"row {number}", _known_cells(dict(zip(names, row)))
    except TableError as error:
        raise ValueError(f"{path}: {error}") from error


def _known_cells(row: dict) -> dict:
    columns = map_columns(list(row), READING_COLUMNS, OTHER_NAMES)
    return {
        column: f"{row[name]} {unit}" if unit and row[name] and column == "sampling_rate" else row[name]
        for name, (column, unit) in columns.items()
    }


def _from_json(text: str, where: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: cannot be read as JSON ({error})") from error


def _settings(row: dict, where: str) -> dict:
    """How to read the files of a row, as far as it says so."""
    found = {}
    if row.get("sampling_rate") not in (None, ""):
        try:
            found["sampling_rate"] = to_hertz(row["sampling_rate"])
        except ValueError as error:
            raise ValueError(f"{where}: sampling_rate {row['sampling_rate']!r}, {error}") from error
    if row.get("units"):
        found["units"] = str(row["units"]).strip()
    if row.get("leads"):
        leads = row["leads"]
        leads = leads.split(",") if isinstance(leads, str) else leads
        found["leads"] = tuple(str(lead).strip() for lead in leads)
    return found
