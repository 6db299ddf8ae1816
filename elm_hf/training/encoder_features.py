"""Cached features of an encoder, and cached measured values, read from files that worker processes share."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch


class EncoderFeatures:
    """
    An encoder's features of the records of one or several datasets, memory-mapped, so that worker processes share
    them.

    Args:
        paths: files written by [`cache_encoder`], in the order of the datasets passed to [`load_elm_dataset`].
    """

    def __init__(self, paths: Sequence[Path]):
        self.paths = list(paths)
        self._open()

    def _open(self):
        self._files = [np.load(path, mmap_mode="r", allow_pickle=False) for path in self.paths]
        measured = [measurements_file(path) for path in self.paths]
        self._measured = [np.load(path, mmap_mode="r", allow_pickle=False) for path in measured if path.is_file()]
        self._starts = np.cumsum([0] + [len(file) for file in self._files])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, rows: Sequence[int]) -> torch.Tensor:
        """The features `(len(rows), tokens, hidden_size)` of rows of the joined records."""
        return _as_bfloat16(self._rows_of(self._files, rows))

    def measured(self, rows: Sequence[int]) -> torch.Tensor:
        """The measured values `(len(rows), num_measurements)` of rows of the joined records, NaN where unknown."""
        return self._rows_of(self._measured, rows)

    def _rows_of(self, files: list[np.ndarray], rows: Sequence[int]) -> torch.Tensor:
        numbers = np.searchsorted(self._starts, rows, side="right") - 1
        found = [files[number][row - self._starts[number]] for number, row in zip(numbers, rows, strict=True)]
        return torch.from_numpy(np.stack(found))

    def __getstate__(self) -> dict:
        return {"paths": self.paths}

    def __setstate__(self, state: dict):
        self.paths = state["paths"]
        self._open()


def measurements_file(features: Path) -> Path:
    """The file of the measured values of the records whose features a file has: an array `(records, num_measurements)`."""
    return features.with_suffix(".measurements.npy")


def _as_bfloat16(features: torch.Tensor) -> torch.Tensor:
    """Tensors of bfloat16 are kept as integers of the same bits, since NumPy has no bfloat16."""
    return features.view(torch.bfloat16) if features.dtype == torch.int16 else features
