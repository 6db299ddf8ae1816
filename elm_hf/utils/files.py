"""Atomic writing of files and checkpoints, reading of CSV tables and JSON files, and checks of folders."""

import csv
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from os import PathLike
from pathlib import Path

from elm_hf.modeling.folder_paths import Folder


def write_atomically(path: Path, text: str) -> None:
    """Write a small file atomically: to a temporary file that is then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
        file.write(text)
    unfinished = Path(file.name)
    unfinished.chmod(0o644)  # a temporary file is only readable by its owner
    unfinished.replace(path)


def save_atomically(parts: list, output: Path, check: Callable[[Path], None] | None = None):
    """
    Save all parts of a checkpoint atomically: to a temporary folder that is then renamed to `output`.

    Args:
        parts: objects with a `save_pretrained` method.
        output: folder to create.
        check: function that raises if the saved folder is not as it should be.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    parent = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    unfinished = parent / output.resolve().name  # the name that a card is written under
    try:
        unfinished.mkdir()
        for part in parts:
            part.save_pretrained(unfinished)
        if check is not None:
            check(unfinished)
        unfinished.chmod(0o755)
        unfinished.replace(output)
    finally:
        shutil.rmtree(parent, ignore_errors=True)


def read_table(path: str | PathLike, columns: list[str]) -> Iterator[dict[str, str]]:
    """
    Read the rows of a CSV file. All values are strings.

    Args:
        path: path of the file.
        columns: columns that the file must have.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file cannot be read, or one of `columns` is missing.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:  # spreadsheet programs write a byte order mark
            rows = csv.DictReader(file, restval="")
            missing = [name for name in columns if name not in (rows.fieldnames or [])]
            if missing:
                raise ValueError(f"{path}: no column {', '.join(missing)}; found {', '.join(rows.fieldnames or [])}")
            yield from rows
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: cannot be read as a CSV file in UTF-8 ({error})") from error


def read_json(path: Path) -> dict:
    """
    Read a JSON file that contains an object.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not JSON, or it is not an object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: contains a {type(content).__name__}, expected an object with fields")
    return content


def append_line(path: Path, entry: dict) -> None:
    """Adds a line of JSON. Its line break comes first, since a killed process may have left the line before incomplete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write("\n" + json.dumps(entry))


def read_lines(path: Path) -> Iterator[dict]:
    """The lines of [`append_line`], without incomplete ones; none if the file does not exist."""
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


def check_links(folder: str | PathLike) -> None:
    """
    Check that no file of a folder or of the folders in it is a link that leads out of the folder.

    Raises:
        ValueError: there is such a link; the message names the first one.
    """
    inside = Folder(folder)
    for path, folders, files in os.walk(folder):
        for name in sorted([*folders, *files]):
            if os.path.islink(os.path.join(path, name)):
                inside.inside(os.path.join(path, name))


def check_free(folder: Path) -> None:
    """
    Check that an output folder does not exist or is empty.

    Raises:
        FileExistsError: `folder` exists and is not an empty folder.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FileExistsError(f"{folder} is not empty; choose another folder.")
