"""The tables about a folder of ECG files: `metadata`, and `labels` if they are in a table of their own."""

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from elm_hf.ecg.find_files import LABEL_NAMES, METADATA_NAMES, OTHER_NAMES, files_in
from elm_hf.ecg.spreadsheet import TABLE_SUFFIXES, TableError, map_columns, open_table
from elm_hf.modeling.folder_paths import OutsideFolderError, path_inside
from elm_hf.prepare.instruct import EntryError, read_entries
from elm_hf.utils.errors import short


# Properties of a file, which must be the same in all its rows.
SIGNAL_FIELDS = ("patient_id", "sampling_rate", "leads", "units")
PATIENT_FIELDS = ("age", "sex", "labels", "birth_date", "ecg_date")
# Columns that make a conversation of a row.
SAID_FIELDS = ("question", "answer", "report", "messages")
COLUMNS = ("file_name", *SAID_FIELDS, "question_type", "split", *SIGNAL_FIELDS, *PATIENT_FIELDS)
_OTHER_NAMES = OTHER_NAMES | {
    "pid": "patient_id",
    "patientnumber": "patient_id",
    "patientenid": "patient_id",
    "patientennummer": "patient_id",
    "subjectid": "patient_id",
    "mrn": "patient_id",
    "gender": "sex",
    "geschlecht": "sex",
    "alter": "age",
    "label": "labels",
    "befund": "report",
    "frage": "question",
    "antwort": "answer",
    **dict.fromkeys(("dateofbirth", "birthdate", "birthday", "dob", "geburtsdatum"), "birth_date"),
    **dict.fromkeys(
        ("ecgdate", "dateofecg", "recordingdate", "acquisitiondate", "ekgdatum", "aufnahmedatum"), "ecg_date"
    ),
}
# Columns whose values may have a unit, in the header or in the cell.
_WITH_UNIT = ("age", "sampling_rate")
# More tables in a folder than these are ECGs.
MOST_TABLES = 50
# Maximum number of bytes of a file name, without `.hea`.
_MAX_NAME_SIZE = 251


class FolderTables:
    """
    The rows about the files of a folder.

    The table is `metadata.csv`, `.tsv`, `.xlsx` or `.jsonl`. Without one, there is a row for each file. A table `labels`
    of the same formats adds columns to the rows of its files (`file_name`) or of its patients (`patient_id`).

    Args:
        folder: the folder.

    Attributes:
        notes: what the tables were found to mean, a line for each. Complete when all rows were read.

    Raises:
        ValueError: the folder contains several tables of metadata or of labels, or one of another name.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.metadata, self.labels = (self._only(names) for names in (METADATA_NAMES, LABEL_NAMES))
        self.notes: list[str] = []
        if self.metadata is None:
            self._check_names()

    def _check_names(self):
        """Refuses a table about the files that is not named as such: it would not be read."""
        tables = [path for path in self.folder.iterdir() if path.suffix.lower() in TABLE_SUFFIXES and path.is_file()]
        tables = [path for path in tables if path.name not in LABEL_NAMES]
        if len(tables) > MOST_TABLES:
            return
        for path in sorted(tables):
            try:
                header = [name.strip() for name in next(open_table(path_inside(path, self.folder)).rows(), [])]
                columns = map_columns(header, COLUMNS, _OTHER_NAMES)
            except (TableError, OutsideFolderError, OSError, ImportError):  # what it is, is found when it is read
                continue
            if {"file_name", "patient_id"} <= {column for column, _ in columns.values()}:
                raise ValueError(
                    f"{path}: has the columns of a table about the files ({', '.join(columns)}), but another name; rename it "
                    f"to metadata{path.suffix.lower()}, or remove it"
                )

    def _only(self, names: tuple[str, ...]) -> Path | None:
        found = [self.folder / name for name in names if (self.folder / name).is_file()]
        if len(found) > 1:
            raise ValueError(f"{self.folder}: contains {' and '.join(path.name for path in found)}; keep one of them")
        return path_inside(found[0], self.folder) if found else None

    def rows(self, leave_out: Callable[[str, str], None]) -> Iterator[tuple[str, dict]]:
        """
        Yield the rows with their positions, by the names of `COLUMNS`. Empty values are None.

        Args:
            leave_out: function that is called with a reason and a message for each row that cannot be read.

        Raises:
            ValueError: a table cannot be read, a file has different values in both tables, or the labels are of other
                files.
            FileNotFoundError: there is neither a table nor a file.
        """
        rows = self._files() if self.metadata is None else self._read(self.metadata, leave_out)
        if self.labels is None:
            yield from rows
            return
        rows = list(rows)
        joined = _Labels(self.folder, list(self._read(self.labels, leave_out)), rows)
        yield from joined.rows()
        if not joined.used:
            raise ValueError(
                f"{self.labels}: none of its rows is about a file of the folder; fill file_name or patient_id as in "
                f"{'the names of the files' if self.metadata is None else self.metadata.name}"
            )
        for where in joined.unused():
            leave_out("labels of no file", f"{where}: no file of the folder has this file_name or patient_id")

    def _files(self) -> Iterator[tuple[str, dict]]:
        paths = files_in(self.folder)
        if not paths:
            raise FileNotFoundError(
                f"{self.folder}: contains no files with an ECG, and no {METADATA_NAMES[0]}; source (--source) must be a "
                "folder of ECG files"
            )
        for path in paths:
            name = path.relative_to(self.folder).as_posix()
            yield str(path), dict.fromkeys(COLUMNS) | {"file_name": name}

    def _read(self, path: Path, leave_out: Callable[[str, str], None]) -> Iterator[tuple[str, dict]]:
        if path.suffix == ".jsonl":
            for number, row in read_entries(path, leave_out):
                where = f"{path}: row {number + 1}"
                yield where, self._named(path, where, row, self._columns(path, where, list(row)))
            return
        try:
            table = open_table(path)
            rows = table.rows()
            header = [name.strip() for name in next(rows, [])]
            self._note(path, "; ".join(table.notes))
            columns = self._columns(path, str(path), header)
            for number, cells in enumerate((cells for cells in rows if any(map(str.strip, cells))), 1):
                where = f"{path}: row {number}"
                more = [cell for cell in cells[len(header) :] if cell.strip()]
                if more:
                    reason = f"{len(more)} more cells than columns; put text that contains separators in double quotes"
                    leave_out("damaged entry", f"{where}: {reason}")
                    continue
                yield where, self._named(path, where, dict(zip(header, cells)), columns)
        except TableError as error:
            raise ValueError(f"{path}: {error}") from error

    def _columns(self, path: Path, where: str, names: list[str]) -> dict[str, tuple[str, str | None]]:
        try:
            columns = map_columns(names, COLUMNS, _OTHER_NAMES)
        except TableError as error:
            raise ValueError(f"{where}: {error}") from error
        for name, (column, unit) in columns.items():
            if name != column:
                of_unit = f" in {unit}" if unit and column in _WITH_UNIT else ""
                self._note(path, f'the column "{name}" is {column}{of_unit}')
        known = {column for column, _ in columns.values()}
        if (
            path.suffix != ".jsonl"
            and "file_name" not in known
            and not (path == self.labels and "patient_id" in known)
        ):
            raise ValueError(f"{path}: no column file_name; found {', '.join(names)}")
        return columns

    def _named(self, path: Path, where: str, row: dict, columns: dict[str, tuple[str, str | None]]) -> dict:
        named = dict.fromkeys(COLUMNS)
        for name, (column, unit) in columns.items():
            value = row.get(name)
            if value is None or (isinstance(value, str) and not value.strip()):
                continue
            named[column] = f"{value} {unit}" if unit and column in _WITH_UNIT else value
        return named

    def _note(self, path: Path, note: str) -> None:
        line = f"{path.name}: {note}"
        if note and line not in self.notes:
            self.notes.append(line)


class _Labels:
    """Rows of labels, which are joined with the rows of the files that they are about."""

    def __init__(self, folder: Path, labels: list[tuple[str, dict]], rows: list[tuple[str, dict]]):
        self._folder, self._rows = folder, rows
        self._by_file, self._by_patient = defaultdict(list), defaultdict(list)
        self._all = [where for where, _ in labels]
        self.used: set[str] = set()
        names = {name for _, row in rows for name in self._names(row)}
        stems = defaultdict(list)
        for name in names:
            stems[PurePosixPath(name).stem].append(name)
        for where, row in labels:
            for name in self._names(row):
                alike = stems.get(PurePosixPath(name).stem, [])
                name = name if name in names else alike[0] if len(alike) == 1 else name
                self._by_file[name].append((where, row))
            if row["file_name"] is None and row["patient_id"] is not None:
                self._by_patient[str(row["patient_id"]).strip()].append((where, row))

    def rows(self) -> Iterator[tuple[str, dict]]:
        """The rows of the files, each once for every row of labels."""
        for where, row in self._rows:
            names = self._names(row)
            found = self._by_file.get(names[0], []) if len(names) == 1 else []
            found = found or self._by_patient.get(str(row["patient_id"]).strip(), [])
            for from_where, labels in found or [(where, {})]:
                if labels:
                    self.used.add(from_where)
                yield (from_where if labels else where), self._joined(where, row, from_where, labels)

    def unused(self) -> list[str]:
        return [where for where in self._all if where not in self.used]

    def _names(self, row: dict) -> list[str]:
        try:
            return file_names(row, self._folder)
        except EntryError:
            return []

    def _joined(self, where: str, row: dict, from_where: str, labels: dict) -> dict:
        joined = dict(row)
        for column, value in labels.items():
            if value is None or column == "file_name":
                continue
            if joined[column] is not None and str(joined[column]).strip() != str(value).strip():
                raise ValueError(
                    f"{from_where}: {column} {value!r}, but {where} has {joined[column]!r}; use the same value, or keep one"
                )
            joined[column] = value
        return joined


def file_names(row: dict, folder: Path) -> list[str]:
    """
    The files of a row, relative to the folder. Any file of a WFDB record is replaced by the path of the record.

    Raises:
        EntryError: there is none, or a name is not valid.
    """
    names = row.get("file_name")
    if isinstance(names, str):
        names = from_json(row, "file_name") if names.startswith("[") else [names]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise EntryError("damaged entry", f"file_name {names!r}, expected the name of a file or a list of names")
    paths = [PurePosixPath(name) for name in names]
    parts = [part.encode("utf-8", "surrogatepass") for path in paths for part in path.parts]
    if any(len(part) > _MAX_NAME_SIZE or b"\0" in part for part in parts):
        raise EntryError("damaged entry", f"file_name {names!r} is not a valid file name")
    return [str(path.with_suffix("") if _is_of_record(folder, path) else path) for path in paths]


def _is_of_record(folder: Path, path: PurePosixPath) -> bool:
    if path.suffix == ".mat":
        header = folder / path.with_suffix(".hea")
        return _is_within(folder, header) and os.path.isfile(
            header
        )  # `Path.is_file` raises for a name that is too long
    return path.suffix in (".hea", ".dat")


def _is_within(folder: Path, path: Path) -> bool:
    """Whether a path, after following links, is inside the folder."""
    try:
        path_inside(path, folder)
    except OutsideFolderError:
        return False
    return True


def from_json(row: dict, field: str):
    """
    The content of a field that is written as JSON.

    Raises:
        EntryError: it is not JSON.
    """
    try:
        return json.loads(row[field])
    except (ValueError, RecursionError) as error:
        raise EntryError("damaged entry", f"{field} cannot be read as JSON ({short(error)})") from error
