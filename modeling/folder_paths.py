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
"""Keeps reading inside a folder: neither a path nor a link leads out of it."""

import os
from pathlib import Path


class OutsideFolderError(ValueError):
    """A path leads out of the folder that is read."""


class Folder:
    r"""
    A folder whose files are read. Links within the folder are followed, and so are the links of a snapshot in the
    Hub's cache to the files of its repository.

    Args:
        path (`str` or `os.PathLike`):
            The folder, which may itself be reached through a link.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = os.fspath(path)
        self._real = os.path.realpath(self.path)
        self._roots = _roots(self._real)

    def inside(self, path: str | os.PathLike) -> Path:
        r"""
        Checks that a path, after following all links, is inside the folder.

        Args:
            path (`str` or `os.PathLike`):
                The path. It need not exist.

        Returns:
            `Path`: The path, unchanged.

        Raises:
            `OutsideFolderError`: If the path leads out of the folder.
        """
        try:
            real = self._real_path(os.fspath(path))
        except (OSError, ValueError) as error:  # a name that cannot exist, such as one with a null character
            raise OutsideFolderError(f"{_shown(path)}: not a valid path ({error})") from error
        if not any(real == root or real.startswith(os.path.join(root, "")) for root in self._roots):
            is_link = Path(os.path.normpath(path)).is_relative_to(os.path.normpath(self.path))
            raise OutsideFolderError(
                f"{_shown(path)}: {'a link that leads' if is_link else 'is'} outside the folder, so it is not read; "
                "copy the file into the folder"
            )
        return Path(path)

    def _real_path(self, path: str) -> str:
        folder, name = os.path.split(path)
        if folder == self.path and name not in ("", ".", ".."):  # saves looking at every folder above
            path = os.path.join(self._real, name)
            return os.path.realpath(path) if os.path.islink(path) else path
        return os.path.realpath(path)


def path_inside(path: str | os.PathLike, folder: str | os.PathLike) -> Path:
    r"""
    Checks that a path, after following all links, is inside a folder. Every path that is opened on behalf of someone
    else's file goes through this function or [`Folder`].

    Args:
        path (`str` or `os.PathLike`):
            The path. It need not exist.
        folder (`str` or `os.PathLike`):
            The folder, which may itself be reached through a link.

    Returns:
        `Path`: The path, unchanged.

    Raises:
        `OutsideFolderError`: If the path leads out of the folder.
    """
    return Folder(folder).inside(path)


def _roots(folder: str) -> list[str]:
    """The folder, and if it belongs to a snapshot in the Hub's cache, the folder with the snapshot's files."""
    parts = Path(folder).parts
    if "snapshots" not in parts:
        return [folder]
    repository = parts[: len(parts) - 1 - parts[::-1].index("snapshots")]
    return [folder, os.path.join(*repository, "blobs")]


def _shown(path: str | os.PathLike) -> str:
    return str(path).encode("utf-8", "backslashreplace").decode("utf-8")


__all__ = ["Folder", "OutsideFolderError", "path_inside"]
