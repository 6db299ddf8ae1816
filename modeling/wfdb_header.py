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
"""Reads the header of a WFDB record: https://physionet.org/physiotools/wag/header-5.htm"""

import math
import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from .folder_paths import Folder


# Bytes of the largest header and of the longest line; real headers have some hundred.
LARGEST_HEADER, _LONGEST_LINE = 2**22, 2000
_INTEGER = rb"[-+]?\d{1,18}"
_SIGNAL_LINE = re.compile(
    rb"(?P<file>\S+)\s+(?P<format>\d{1,4})(x(?P<frame>\d{1,18}))?(:(?P<skew>\d{1,18}))?(\+(?P<offset>\d{1,18}))?"
    rb"(\s+(?P<gain>[-+]?(\d{1,18}(\.\d{0,18})?|\.\d{1,18})([eE][-+]?\d{1,3})?)(\((?P<baseline>%(i)s)\))?(/(?P<unit>\S+))?"
    rb"(\s+(?P<resolution>\d{1,18})(\s+(?P<zero>%(i)s)(\s+(?P<first>%(i)s)(\s+(?P<checksum>%(i)s)"
    rb"(\s+(?P<block>\d{1,18})(\s+(?P<name>\S.*))?)?)?)?)?)?)?" % {b"i": _INTEGER}
)
_SEPARATOR = re.compile(rb"[/\\\0]")
_DEFAULT_RATE, _DEFAULT_GAIN = 250, 200.0
_MILLIVOLTS = {"mv": 1.0, "uv": 1e-3, "v": 1e3}


@dataclass
class WfdbSignal:
    """
    The line of a signal in a header.

    Attributes:
        name: name of the lead, `None` if the header gives none.
        file_name: name of its signal file.
        format: storage format, such as 16 or 212.
        samples_per_frame: samples of the signal in each frame.
        skew: frames by which the signal lags behind.
        offset: bytes before the first sample of the file; in a FLAC file, samples.
        gain, baseline: a value is (sample - baseline) / gain.
        unit: unit of the value, such as `"mV"`.
        millivolt: the unit in millivolt, `None` if it is not a voltage.
        first: the first sample, needed for format 8.
        checksum: 16-bit sum of all samples, `None` if the header gives none.
    """

    name: str | None
    file_name: str
    format: int
    samples_per_frame: int
    skew: int
    offset: int
    gain: float
    baseline: int
    unit: str
    millivolt: float | None
    first: int
    checksum: int | None


@dataclass
class WfdbHeader:
    """
    A header.

    Attributes:
        path: path of the header.
        frame_rate: frames per second. A signal has `samples_per_frame` times as many samples.
        num_frames: number of frames, `None` if the header gives none.
        signals: the signals, in their order.
    """

    path: Path
    frame_rate: float
    num_frames: int | None
    signals: list[WfdbSignal]


def read_header(path: Path, folder: Folder) -> WfdbHeader:
    r"""
    Reads the header of a record of one segment. Fields that are not needed (the name of the record, time and date) may
    have any form.

    Args:
        path (`Path`):
            The header.
        folder ([`Folder`]):
            Folder that the header must be in.

    Returns:
        [`WfdbHeader`]: The header.

    Raises:
        `FileNotFoundError`: If the header is missing.
        `OutsideFolderError`: If the header is outside the folder.
        `ValueError`: If the header cannot be read or has several segments.
    """
    record_line, *signal_lines = _lines(folder.inside(path))
    fields = record_line.split()
    if _has_segments(fields, signal_lines):
        raise ValueError(f"{path}: a record of several segments; give the path of one of them")
    num_signals = _number(fields, 1, "number of signals", path)
    if num_signals == 0:
        raise ValueError(f"{path}: names no signals")
    if num_signals != len(signal_lines):
        raise ValueError(
            f"{path}: gives {num_signals} signals, found {len(signal_lines)} signal lines; lines are missing, too many "
            "or joined"
        )
    num_frames = _number(fields, 3, "number of samples", path) if len(fields) > 3 else None
    if num_frames == 0:
        raise ValueError(f"{path}: gives 0 samples; a record needs at least one")
    signals = [_signal(line, number, path) for number, line in enumerate(signal_lines, 1)]
    return WfdbHeader(path, _frame_rate(fields, path), num_frames, signals)


def _lines(path: Path) -> list[bytes]:
    """The lines of a header without comments and empty lines."""
    if not os.path.isfile(path):  # unlike Path.is_file, it does not raise if the name is too long
        raise FileNotFoundError(f"{path}: no such file; a WFDB record needs its .hea header")
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        text = file.read(min(size, LARGEST_HEADER))
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith(b"#")]
    if not lines:
        raise ValueError(
            f"{path}: no WFDB header, the file {'contains comments only' if text.strip() else 'is empty'}"
        )
    if size > LARGEST_HEADER or max(map(len, lines)) > _LONGEST_LINE:
        raise ValueError(f"{path}: not a WFDB header, it has over {LARGEST_HEADER} bytes or {_LONGEST_LINE} in a line")
    return lines


def _has_segments(fields: list[bytes], lines: list[bytes]) -> bool:
    """Whether the record line is that of several segments: `name/3`, then lines with a name and a length only."""
    # Without them, the slash is between a folder and the name of the record.
    return re.search(rb"/\d+$", fields[0]) is not None and all(len(line.split()) == 2 for line in lines)


def _number(fields: list[bytes], position: int, meaning: str, path: Path) -> int:
    text = fields[position] if len(fields) > position else b""
    if not re.fullmatch(rb"\d{1,18}", text):
        raise ValueError(f'{path}: not a WFDB header, its {meaning} is "{_text(text)}", expected a whole number')
    return int(text)


def _frame_rate(fields: list[bytes], path: Path) -> int | float:
    if len(fields) < 3:
        return _DEFAULT_RATE
    text = re.split(rb"[/(]", fields[2])[0]
    try:
        rate = float(text[:40])
    except ValueError:
        rate = 0.0
    if not (math.isfinite(rate) and rate > 0):
        raise ValueError(f'{path}: sampling rate "{_text(fields[2])}" is not a positive number')
    return int(rate) if rate.is_integer() else rate


def _signal(line: bytes, number: int, path: Path) -> WfdbSignal:
    found = _SIGNAL_LINE.fullmatch(line)
    if found is None:
        raise ValueError(f'{path}: line of signal {number} "{_text(line)}" cannot be read')
    field = found.groupdict()
    if _SEPARATOR.search(field["file"]):
        raise ValueError(f'{path}: its signal file "{_text(field["file"])}" is in another folder, expected beside it')
    unit, gain = field["unit"] or b"mV", float(field["gain"] or 0) or _DEFAULT_GAIN
    if not 1e-30 < abs(gain) < 1e30:
        raise ValueError(f"{path}: signal {number} has a gain of {gain:g}, expected units per {_text(unit)}")
    samples_per_frame = int(field["frame"] or 1)
    if samples_per_frame == 0:
        raise ValueError(f"{path}: signal {number} has 0 samples per frame, expected 1 or more")
    return WfdbSignal(
        None if field["name"] is None else _text(field["name"]),
        os.fsdecode(field["file"]),
        int(field["format"]),
        samples_per_frame,
        skew=int(field["skew"] or 0),
        offset=int(field["offset"] or 0),
        gain=gain,
        baseline=int(field["baseline"] or field["zero"] or 0),
        unit=_text(unit),
        millivolt=_in_millivolt(unit),
        first=int(field["first"] or 0),
        checksum=None if field["checksum"] is None else int(field["checksum"]),
    )


@lru_cache(maxsize=64)
def _in_millivolt(unit: bytes) -> float | None:
    """A unit in millivolt. The micro sign (U+00B5) and the letter mu (U+03BC) may be in UTF-8 or Latin-1."""
    unit = re.sub(rb"^(\xc2?\xb5|\xce\xbc)(?=[vV]$)", b"u", unit)
    return _MILLIVOLTS.get(unit.decode("latin-1").lower())


@lru_cache(maxsize=256)
def _text(text: bytes) -> str:
    """Text of a header for messages, in UTF-8 or Latin-1 and at most 80 characters long."""
    try:
        shown = text.decode("utf-8")
    except UnicodeDecodeError:
        shown = text.decode("latin-1")
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


__all__ = ["LARGEST_HEADER", "WfdbHeader", "WfdbSignal", "read_header"]
