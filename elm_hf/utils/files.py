"""Files and checkpoints that are whole or not there: written beside their place and renamed."""

import csv
import shutil
import tempfile
from collections.abc import Iterator
from os import PathLike
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write a small file so that nobody ever finds half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
        file.write(text)
    unfinished = Path(file.name)
    unfinished.chmod(0o644)  # a temporary file is its owner's alone
    unfinished.replace(path)


def save_whole(parts: list, output: Path):
    """Saves everything in `output`, written beside it and renamed, so that a checkpoint is whole or not there."""
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    try:
        for part in parts:
            part.save_pretrained(unfinished)
        unfinished.chmod(0o755)
        unfinished.replace(output)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def read_table(path: str | PathLike, columns: list[str]) -> Iterator[dict[str, str]]:
    """
    The rows of a CSV file, all values as text.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it cannot be read, or lacks one of `columns`.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:  # spreadsheets begin with a mark
            rows = csv.DictReader(file, restval="")
            missing = [name for name in columns if name not in (rows.fieldnames or [])]
            if missing:
                raise ValueError(f"{path}: no column {', '.join(missing)}; found {', '.join(rows.fieldnames or [])}")
            yield from rows
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: cannot be read as a CSV file in UTF-8 ({error})") from error


def check_free(folder: Path) -> None:
    """
    Raises:
        FileExistsError: `folder` exists and is not an empty folder.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FileExistsError(f"{folder} is not empty; choose another folder.")
