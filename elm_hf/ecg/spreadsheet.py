"""Read tables as spreadsheet programs write them: any separator, encoding and column spelling, and .xlsx files."""

import codecs
import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from elm_hf.ecg.xlsx_reader import read_xlsx


TABLE_SUFFIXES = (".csv", ".tsv", ".xlsx")
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
# Number of rows that must agree with the header if it contains several separators.
_NUM_COMPARED = 20
_READ_SIZE = 2**20
# In text of Western European languages, three letters in a row are never outside ASCII, and these symbols are not
# followed by a letter within a word. Text in another 8-bit encoding soon breaks one of the two rules.
_NOT_WESTERN = re.compile(r"[^\W\d_a-zA-Z]{3}|\w[¡¢£¤¥¦¨©«¬®¯¸¹»¼½¾¿²³†‡‰‹›€]+[^\W\d_]")
_UNIT = re.compile(r"(.+?)\s*[\[(]\s*([^\[\]()]+?)\s*[\])]\s*")


class TableError(ValueError):
    """A table cannot be read, or its meaning is not certain. The message does not contain the path."""


@dataclass(frozen=True)
class TextTable:
    """
    The text of a table and how to read it.

    Attributes:
        path: the file.
        encoding: its encoding; None if `text` is set.
        separator: what separates its cells.
        has_directive: whether the first line is `sep=;` or the like, which Excel writes, and not the header.
        notes: what differs from a CSV file in UTF-8, in words.
        text: the cells of an .xlsx file, separated by tabs.
    """

    path: Path
    encoding: str | None
    separator: str
    has_directive: bool = False
    notes: tuple[str, ...] = ()
    text: str | None = None

    def open(self) -> io.TextIOBase:
        """Open the text at its header."""
        file = (
            io.StringIO(self.text, newline="")
            if self.text is not None
            else self.path.open(encoding=self.encoding, newline="")
        )
        if self.has_directive:
            file.readline()
        return file

    def rows(self) -> Iterator[list[str]]:
        """
        Yield the rows of cells, the header first.

        Raises:
            TableError: a row cannot be read.
        """
        with self.open() as file:
            try:
                yield from csv.reader(file, delimiter=self.separator)
            except csv.Error as error:
                raise TableError(f"cannot be read as a table ({error})") from error


def open_table(path: str | PathLike) -> TextTable:
    """
    Find out how a table is written.

    The encoding is UTF-8, UTF-16, or Latin-1 (Windows-1252). The separator is the one that the header contains: a comma,
    a semicolon or a tab.

    Args:
        path: path with the suffix `.csv`, `.tsv` or `.xlsx`, in any case.

    Raises:
        TableError: the file is not a table, its encoding is another one, or its separator is not certain.
        OSError: the file cannot be read.
        ImportError: it is an .xlsx file, and python-calamine is not installed.
    """
    path = Path(path)
    if path.suffix.lower() == ".xlsx":
        text = io.StringIO(newline="")
        try:
            csv.writer(text, delimiter="\t").writerows(read_xlsx(path))
        except ValueError as error:
            raise TableError(str(error)) from error
        return TextTable(path, None, "\t", text=text.getvalue())
    encoding, notes = _encoding(path)
    with path.open(encoding=encoding, newline="") as file:
        first = file.readline(_READ_SIZE)
    directive = re.fullmatch(r'"?sep=([,;\t])"?\s*', first)
    if directive:
        return TextTable(path, encoding, directive[1], True, (*notes, *_separator_note(directive[1])))
    separator = _separator(path, encoding)
    return TextTable(path, encoding, separator, False, (*notes, *_separator_note(separator)))


def _separator_note(separator: str) -> list[str]:
    return [] if separator == "," else [f"cells separated by {SEPARATORS[separator]}"]


def _encoding(path: Path) -> tuple[str, tuple[str, ...]]:
    with path.open("rb") as file:
        if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            _check_decodes(path, "utf-16")
            return "utf-16", ("UTF-16",)
    try:
        _check_decodes(path, "utf-8-sig")
        return "utf-8-sig", ()
    except UnicodeDecodeError:
        pass
    try:
        odd = _check_decodes(path, "cp1252")
    except UnicodeDecodeError as error:
        odd = str(error)
    if odd:
        raise TableError(f"neither UTF-8 nor Latin-1 ({odd!r}); save it as CSV in UTF-8")
    return "cp1252", ("Latin-1",)


def _check_decodes(path: Path, encoding: str) -> str | None:
    """Decode the file. Returns text that speaks against an 8-bit encoding."""
    decoder, before = codecs.getincrementaldecoder(encoding)(), ""
    with path.open("rb") as file:
        while block := file.read(_READ_SIZE):
            if encoding != "utf-16" and block.isascii() and b"\0" not in block:
                before = ""
                continue  # needs no decoding, which takes longer
            text = decoder.decode(block)
            if "\0" in text:
                raise TableError("contains binary data, expected the text of a table")
            odd = _NOT_WESTERN.search(before + text) if encoding == "cp1252" else None
            if odd:
                return odd[0]
            before = text[-3:]
    decoder.decode(b"", final=True)
    return None


def _separator(path: Path, encoding: str) -> str:
    """The separator of the header; if it contains several, the one that gives all rows the same number of cells."""
    found = []
    for separator in SEPARATORS:
        with path.open(encoding=encoding, newline="") as file:
            rows = csv.reader(file, delimiter=separator)
            try:
                lengths = [len(row) for row, _ in zip(rows, range(_NUM_COMPARED)) if row]
            except csv.Error as error:
                raise TableError(f"cannot be read as a table ({error})") from error
        if lengths and lengths[0] > 1:
            found.append((separator, len(set(lengths)) == 1))
    if len(found) > 1:
        found = [one for one in found if one[1]]
        if len(found) != 1:
            raise TableError(
                f"its header contains several of {', '.join(SEPARATORS.values())}; separate the cells by one of them, "
                "and put text that contains it in double quotes"
            )
    return found[0][0] if found else ","


def split_unit(name: str) -> tuple[str, str | None]:
    """Split the name of a column such as `Age (years)` or `I [mV]` into the name and the unit, None without one."""
    found = _UNIT.fullmatch(name.strip())
    return (found[1], found[2]) if found else (name.strip(), None)


def map_columns(
    names: Sequence[str], known: Sequence[str], other_names: dict[str, str]
) -> dict[str, tuple[str, str | None]]:
    """
    Find out what the columns of a table are.

    Case, spaces, hyphens and underscores are ignored: `Patient ID` is `patient_id`. A unit may follow: `Age (years)`. If
    there is a column of exactly the known name, other names of it are not looked for.

    Args:
        names: names in the table.
        known: names of columns.
        other_names: other names of these columns, in lower case and without spaces, hyphens and underscores.

    Returns:
        For each name that is known: the column, and the unit or None.

    Raises:
        TableError: two names stand for the same column.
    """
    plain_names = {column.replace("_", ""): column for column in known} | other_names
    found: dict[str, tuple[str, str | None]] = {}
    for name in dict.fromkeys(names):
        plain, unit = split_unit(name)
        column = name if name in known else plain_names.get(re.sub(r"[\W_]+", "", plain).lower())
        if column is None or (column != name and column in names):
            continue
        other = next((one for one, (known_column, _) in found.items() if known_column == column), None)
        if other is not None:
            raise TableError(f'the columns "{other}" and "{name}" are both {column}; rename or remove one')
        found[name] = (column, unit)
    return found


def to_number(text: str) -> float:
    """
    The number that a cell contains, with a decimal point or a decimal comma.

    Raises:
        ValueError: it is no number, or the comma may separate thousands.
    """
    text = text.strip()
    if re.fullmatch(r"[-+]?\d+,\d+", text) and not re.fullmatch(r"[-+]?[1-9]\d{0,2},\d{3}", text):
        text = text.replace(",", ".")
    return float(text)


def to_hertz(value: object) -> float:
    """
    A sampling rate, such as `500`, `"500 Hz"` or `"0,5 kHz"`.

    Raises:
        ValueError: it is none. The message says what is expected.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    found = re.fullmatch(r"\s*([-+.,\deE]+?)\s*(k?hz|sps|samples/s|1/s)?\s*", str(value), re.IGNORECASE)
    try:
        return to_number(found[1]) * (1000 if (found[2] or "").lower() == "khz" else 1)
    except (TypeError, ValueError) as error:
        raise ValueError("expected a number of Hz") from error
