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
"""Reads WFDB records in all formats, with their checksums."""

import os
from os import PathLike
from pathlib import Path

import numpy as np

from .ecg_leads import is_lead
from .ecg_resampling import resample
from .folder_paths import Folder
from .wfdb_header import WfdbHeader, read_header
from .wfdb_signals import read_signals


def load_ecg(
    path: str | PathLike, folder: str | PathLike | None = None, dtype: type = np.float32
) -> tuple[np.ndarray, int | float, list[str]]:
    r"""
    Reads the voltages of a WFDB record, in the order of its header. Other signals, such as a blood pressure, are left
    out.

    Args:
        path (`str` or `os.PathLike`):
            The record, with or without `.hea`, `.dat` or `.mat`.
        folder (`str` or `os.PathLike`, *optional*):
            Folder that all files of the record must be in, links included. By default the folder of the header.
        dtype (`type`, *optional*, defaults to `np.float32`):
            Precision of the ECG.

    Returns:
        `tuple[np.ndarray, int | float, list[str]]`: The ECG of shape `(num_leads, num_samples)` in millivolt, with NaN for samples that the record marks as invalid; the sampling rate in Hz, which is the highest
        one of the twelve leads if they differ; and the lead names.

    Raises:
        `FileNotFoundError`: If the header or a signal file that it names is missing.
        `OutsideFolderError`: If the header or a signal file is outside the folder.
        `ValueError`: If the header cannot be read, does not fit its signal files, has several segments, or names a
            file in another folder, a signal without a name, or one of the twelve leads in a unit that is no voltage; or
            the samples do not fit the checksums.
        `ImportError`: If the record is in FLAC format and `soundfile` is not installed.
    """
    return load_signals(path, folder, dtype)[:3]


def load_signals(
    path: str | PathLike, folder: str | PathLike | None = None, dtype: type = np.float32
) -> tuple[np.ndarray, int | float, list[str], list[str]]:
    r"""
    Like [`~ecg_reading.load_ecg`], and also returns the names of the signals that are left out.

    Args:
        path, folder, dtype:
            As for [`~ecg_reading.load_ecg`].

    Returns:
        `tuple[np.ndarray, int | float, list[str], list[str]]`: The ECG, the sampling rate, the lead names, and the
        names of the other signals.

    Raises:
        `ValueError`, `FileNotFoundError`, `ImportError`: As for [`~ecg_reading.load_ecg`].
    """
    stem, suffix = os.path.splitext(path)
    header_path = Path(f"{stem if suffix.lower() in ('.hea', '.dat', '.mat') else os.fspath(path)}.hea")
    folder = Folder(os.path.dirname(header_path) or "." if folder is None else folder)
    header = read_header(header_path, folder)
    _check_signals(header)
    header.signals = [signal for signal in header.signals if signal.file_name != "~"]  # stands for no signal
    if not header.signals:
        raise ValueError(f"{header_path}: names no signals")
    signals = list(zip(header.signals, read_signals(header, folder, dtype)))
    voltages = [(one, values) for one, values in signals if one.millivolt is not None]
    if not voltages:
        raise ValueError(
            f"{header_path}: has no lead, only {', '.join(f'{one.name} in {one.unit}' for one, _ in signals)}"
        )
    leads = [one for one, _ in voltages if is_lead(one.name)] or [one for one, _ in voltages]
    per_frame = max(one.samples_per_frame for one in leads)
    ecg = _stacked([_resampled(values, one.samples_per_frame, per_frame, header) for one, values in voltages])
    others = [one.name for one, _ in signals if one.millivolt is None]
    return ecg, header.frame_rate * per_frame, [one.name for one, _ in voltages], others


def _check_signals(header: WfdbHeader):
    for number, signal in enumerate(header.signals, 1):
        if signal.name is None:
            raise ValueError(f"{header.path}: signal {number} has no lead name")
        if signal.millivolt is None and is_lead(signal.name):
            raise ValueError(f'{header.path}: lead "{signal.name}" is in "{signal.unit}", expected mV, uV, µV or V')


def _resampled(values: np.ndarray, per_frame: int, new_per_frame: int, header: WfdbHeader) -> np.ndarray:
    """A signal with `per_frame` samples in each frame, resampled to `new_per_frame`."""
    if per_frame == new_per_frame:
        return values
    rates = header.frame_rate * per_frame, header.frame_rate * new_per_frame
    try:
        return resample(values, *rates)
    except ValueError as error:
        raise ValueError(
            f"{header.path}: signals of {rates[0]:g} and {rates[1]:g} Hz do not combine: {error}"
        ) from error


def _stacked(rows: list[np.ndarray]) -> np.ndarray:
    """The rows as one array, without a copy if they are all of one array."""
    whole = rows[0].base
    if whole is not None and whole.size == len(rows) * len(rows[0]) and all(row.base is whole for row in rows):
        return whole.reshape(len(rows), -1)
    return np.stack(rows)


__all__ = ["load_ecg", "load_signals"]
