# Copyright 2026 The elm-hf authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""WFDB records at an `https://` address."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.parse import quote, urlsplit, urlunsplit
from urllib.request import urlopen

from .folder_paths import Folder
from .wfdb_header import read_header


# Seconds without an answer, and bytes of a file: a day with 12 leads at 500 Hz has 1.04e9.
_TIMEOUT_S, _LARGEST_FILE = 30, 1_100_000_000


def is_url(path: str | os.PathLike) -> bool:
    r"""
    Whether a path is an address on the web.

    Args:
        path (`str` or `os.PathLike`):
            A path or address.

    Returns:
        `bool`: `True` for `http://...` and `https://...`.
    """
    return isinstance(path, str) and path.lower().startswith(("http://", "https://"))


@contextmanager
def downloaded_record(url: str) -> Iterator[Path]:
    r"""
    Downloads a WFDB record into a temporary folder: its header, and the signal files beside it that the header names.

    Args:
        url (`str`):
            Address of the record, with or without `.hea` or `.dat`.

    Yields:
        `Path` of the record, in a folder that is removed afterwards.

    Raises:
        `ValueError`: If a file cannot be downloaded, or the header cannot be read or names a file in another folder.
    """
    parts = urlsplit(url)
    stem, suffix = os.path.splitext(parts.path)
    stem = stem if suffix.lower() in (".hea", ".dat", ".mat") else parts.path
    base = stem.rpartition("/")[0]
    with tempfile.TemporaryDirectory() as folder:
        header_path = Path(folder, "record.hea")
        _download(urlunsplit(parts._replace(path=f"{stem}.hea")), header_path)
        try:
            header = read_header(header_path, Folder(folder))
            for name in sorted({signal.file_name for signal in header.signals} - {"~"}):
                if os.path.basename(name) != name or name in ("", ".", ".."):
                    raise ValueError(f'its header names the file "{name}", expected a file beside the header')
                _download(urlunsplit(parts._replace(path=f"{base}/{quote(name)}")), Path(folder, name))
            yield header_path
        except ValueError as error:  # names the address instead of the temporary folder
            cause = str(error).removeprefix(f"{header_path}: ").replace(f"{folder}{os.sep}", "")
            raise ValueError(f"{url}: {cause}") from error


def _download(url: str, path: Path):
    try:
        with urlopen(url, timeout=_TIMEOUT_S) as answer, path.open("wb") as file:
            size = 0
            while block := answer.read(1 << 20):
                size += len(block)
                if size > _LARGEST_FILE:
                    raise ValueError(f"{url}: has more than {_LARGEST_FILE} bytes")
                file.write(block)
    except (URLError, OSError) as error:
        raise ValueError(f"{url}: cannot be downloaded ({error})") from error


__all__ = ["downloaded_record", "is_url"]
