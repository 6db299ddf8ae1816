"""The CSV table of translated reports, as written by `elm-hf translate` or by hand."""

from os import PathLike

from elm_hf.utils.files import read_table


COLUMNS = ["report", "language", "translation", "translator"]


def read_translations(path: str | PathLike) -> dict[str, dict[str, str]]:
    """
    Reads a CSV of translations, written by [`translate_reports`] or by hand, as a dictionary from report to row.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file lacks one of `COLUMNS`.
    """
    rows = read_table(path, COLUMNS)
    return {row["report"].strip(): {name: row[name] for name in COLUMNS} for row in rows if row["translation"].strip()}
