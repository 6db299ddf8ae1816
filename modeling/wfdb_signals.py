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
"""Reads the signal files of a WFDB record: https://physionet.org/physiotools/wag/signal-5.htm"""

import os

import numpy as np

from .folder_paths import Folder
from .wfdb_header import WfdbHeader, WfdbSignal


# Types of the formats whose samples are whole numbers of bytes. Format 8 stores differences.
_PLAIN = {8: "i1", 16: "<i2", 32: "<i4", 61: ">i2", 80: "u1", 160: "<u2"}
# Bytes of the first 0, 1, 2 ... samples of a block, of the formats that pack several samples.
_PACKED = {24: (0, 3), 212: (0, 2, 3), 310: (0, 2, 4, 4), 311: (0, 2, 3, 4)}
_FLAC_BITS = {508: 8, 516: 16, 524: 24}
# The number that stands for an invalid sample. Format 8 has none.
_INVALID = {16: -(2**15), 24: -(2**23), 32: -(2**31), 61: -(2**15), 80: -(2**7), 160: -(2**15)}
_INVALID |= {212: -(2**11), 310: -(2**9), 311: -(2**9), 508: -(2**7), 516: -(2**15), 524: -(2**23)}
# Numbers in a FLAC file that are read, and numbers per byte in a larger one: silence could be compressed much more.
_ALWAYS_READ, _LARGEST_COMPRESSION = 2**24, 64


def read_signals(header: WfdbHeader, folder: Folder, dtype: type = np.float32) -> list[np.ndarray]:
    r"""
    Reads the signals of a record, each with all its samples. Every number of the header is compared with the size of
    the signal file before it is used, and the samples are compared with the checksums of the header.

    Args:
        header ([`WfdbHeader`]):
            The header of the record.
        folder ([`Folder`]):
            Folder that the signal files must be in.
        dtype (`type`, *optional*, defaults to `np.float32`):
            Precision of the signals.

    Returns:
        `list[np.ndarray]`: Each signal, of shape `(num_frames * samples_per_frame,)`, in millivolt (a
        signal that is no voltage in its unit), NaN where invalid. All signals have the same number of frames.

    Raises:
        `FileNotFoundError`: If a signal file is missing.
        `OutsideFolderError`: If a signal file is outside the folder.
        `ValueError`: If a signal file is shorter than the header says, is damaged or has an unknown format.
        `ImportError`: If a signal file is in FLAC format and `soundfile` is not installed.
    """
    names = dict.fromkeys(signal.file_name for signal in header.signals)
    files = [_SignalFile(header, name, folder) for name in names]
    frames = header.num_frames or min(file.num_frames() for file in files)
    read = {name: iter(file.read(frames, dtype)) for name, file in zip(names, files)}
    return [next(read[signal.file_name]) for signal in header.signals]


class _SignalFile:
    """A signal file and the signals in it, which are stored frame by frame."""

    def __init__(self, header: WfdbHeader, name: str, folder: Folder):
        self.header, self.name = header, name
        self.path = folder.inside(os.path.join(os.path.dirname(header.path), name))
        self.signals = [signal for signal in header.signals if signal.file_name == name]
        self.format, self.offset = self.signals[0].format, self.signals[0].offset
        self.frame_size = sum(signal.samples_per_frame for signal in self.signals)
        if any(signal.format != self.format for signal in self.signals):
            raise ValueError(f"{header.path}: the signals of {name} have several formats, expected one")
        if self.format not in _INVALID and self.format != 8:
            raise ValueError(f"{header.path}: {name} has the unknown format {self.format}")
        if not os.path.isfile(self.path):
            raise FileNotFoundError(f"{self.path}: no such file, but {header.path} names it")

    def num_frames(self) -> int:
        """The number of frames in the file, for a header that does not give it."""
        if self.format in _FLAC_BITS:
            raise ValueError(f"{self.header.path}: the number of samples is missing; {self.name} requires it")
        frames = self._num_samples_in(os.path.getsize(self.path) - self.offset) // self.frame_size
        if frames < 1:
            raise ValueError(f"{self.header.path}: {self.name} contains no samples")
        return frames

    def read(self, frames: int, dtype: type) -> list[np.ndarray]:
        """The signals, each `(frames * samples_per_frame,)`."""
        skew = max(signal.skew for signal in self.signals)
        digital = self._read_flac(frames) if self.format in _FLAC_BITS else self._read_samples(frames)
        digital = digital.reshape(-1, self.frame_size)
        if len(digital) <= skew:
            raise ValueError(
                f"{self.header.path}: a signal is skewed by {skew} frames, {self.name} has {len(digital)}"
            )
        if self.frame_size == len(self.signals):  # the rows are in consecutive memory, which is faster
            columns = list(np.ascontiguousarray(digital.T))
        else:
            ends = np.cumsum([signal.samples_per_frame for signal in self.signals])[:-1]
            columns = [part.reshape(-1) for part in np.split(digital, ends, axis=1)]
        if self.format == 8:
            columns = [np.cumsum(column, dtype=np.int64) + one.first for one, column in zip(self.signals, columns)]
        self._compare_checksums(columns)
        is_valid = self.format == 8 or digital.min() > _INVALID[self.format]
        # One array, so that signals of the same rate need not be copied together later.
        values = np.empty(sum(map(len, columns)), dtype)
        signals, start = [], 0
        for signal, column in zip(self.signals, columns):
            signals.append(values[start : start + len(column)])
            self._convert(signal, column, signals[-1], is_valid)
            start += len(column)
        return signals

    def _read_samples(self, frames: int) -> np.ndarray:
        size, needed = os.path.getsize(self.path), self._num_bytes_of(frames * self.frame_size)
        if size < self.offset + needed:
            rates = f" of {frames} frames" if self.frame_size > len(self.signals) else f" of {frames} samples"
            raise ValueError(
                f"{self.header.path}: {self.name} has {size} bytes, expected {self.offset + needed} for "
                f"{len(self.signals)} leads{rates}: it was cut short, or the header belongs to another file"
            )
        samples = frames * self.frame_size
        if self.format in _PLAIN:
            numbers = np.fromfile(self.path, _PLAIN[self.format], samples, offset=self.offset)
            half = {80: 2**7, 160: 2**15}.get(self.format)
            return numbers if half is None else (numbers.astype(np.int32) - half).astype(np.int16)
        return _unpack(np.fromfile(self.path, "u1", self._num_bytes_of(samples), offset=self.offset), self.format)[
            :samples
        ]

    def _num_bytes_of(self, samples: int) -> int:
        if self.format in _PLAIN:
            return samples * np.dtype(_PLAIN[self.format]).itemsize
        block = _PACKED[self.format]
        return samples // (len(block) - 1) * block[-1] + block[samples % (len(block) - 1)]

    def _num_samples_in(self, size: int) -> int:
        if self.format in _PLAIN:
            return max(size, 0) // np.dtype(_PLAIN[self.format]).itemsize
        block = _PACKED[self.format]
        blocks, rest = divmod(max(size, 0), block[-1])
        return blocks * (len(block) - 1) + max(samples for samples, bytes_ in enumerate(block) if bytes_ <= rest)

    def _read_flac(self, frames: int) -> np.ndarray:
        try:
            import soundfile
        except ImportError as error:
            raise ImportError("reading a WFDB record in FLAC format needs soundfile: pip install soundfile") from error
        (per_frame,) = {signal.samples_per_frame for signal in self.signals} if self._is_even() else (0,)
        try:
            with open(self.path, "rb") as opened, soundfile.SoundFile(opened) as file:
                bits = {"PCM_S8": 8, "PCM_16": 16, "PCM_24": 24}.get(file.subtype, 99)
                samples = frames * per_frame
                if not per_frame or file.channels != len(self.signals) or bits > _FLAC_BITS[self.format]:
                    raise ValueError(f"{file.channels} channels of {file.subtype} do not fit the header")
                if samples + self.offset > file.frames:
                    raise ValueError(f"{file.frames} samples, expected {samples + self.offset}")
                if samples * file.channels > max(_ALWAYS_READ, _LARGEST_COMPRESSION * os.path.getsize(self.path)):
                    raise ValueError(f"{samples} samples in {os.path.getsize(self.path)} bytes, more than an ECG has")
                file.seek(self.offset)
                # A single read of more than 2**24 numbers fails in libsndfile.
                parts = [
                    file.read(min(2**20, samples - start), dtype="int16" if bits <= 16 else "int32", always_2d=True)
                    for start in range(0, samples, 2**20)
                ]
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"{self.header.path}: {self.name} is not the FLAC file of the header ({error})"
            ) from error
        numbers = np.concatenate(parts) >> (0 if bits == 16 else 8)
        if len(numbers) < samples:
            raise ValueError(f"{self.header.path}: {self.name} has {len(numbers)} samples, expected {samples}")
        return numbers.reshape(frames, per_frame, -1).transpose(0, 2, 1).reshape(-1)

    def _is_even(self) -> bool:
        return len({signal.samples_per_frame for signal in self.signals}) == 1

    def _compare_checksums(self, columns: list[np.ndarray]):
        """Raises if a checksum, the 16-bit sum of a signal's samples, is wrong. Some writers take it as signed."""
        if not any(signal.checksum for signal in self.signals):  # some writers omit checksums or write zeros
            return
        for signal, column in zip(self.signals, columns):
            if signal.checksum is None:
                continue
            # The sum may overflow: its last 16 bits are right.
            starts = {0, signal.skew * signal.samples_per_frame}
            sums = [int(column[start:].sum(dtype=column.dtype.newbyteorder("="))) for start in starts]
            if all((signal.checksum - found) % 65536 for found in sums):
                raise ValueError(
                    f'{self.header.path}: the samples of lead "{signal.name}" do not add up to its checksum '
                    f"({sums[0] % 65536}, expected {signal.checksum % 65536}): the signal file was damaged or replaced"
                )

    def _convert(self, signal: WfdbSignal, column: np.ndarray, out: np.ndarray, is_valid: bool):
        """Writes the stored numbers of a signal in millivolt, or in its unit if that is no voltage, to `out`."""
        gain = np.float32(signal.gain)
        if (
            out.dtype == np.float32
            and column.dtype == np.int16
            and abs(signal.baseline) < 2**23
            and float(gain) == signal.gain  # a comparison of two types would be one in single precision
        ):
            # Single precision is faster. The difference is exact, and so is its quotient, up to one rounding.
            np.subtract(column, np.float32(signal.baseline), out=out)
            np.divide(out, gain, out=out)
        else:
            out[:] = (column - float(signal.baseline)) / signal.gain
        if signal.millivolt not in (None, 1.0):
            out *= out.dtype.type(signal.millivolt)
        if not is_valid:
            out[column == _INVALID[self.format]] = np.nan
        skew = signal.skew * signal.samples_per_frame
        if skew:  # a signal that lags behind is moved forward; what then lies beyond the end of the record is invalid
            out[:-skew] = out[skew:].copy()
            out[-skew:] = np.nan


def _unpack(data: np.ndarray, format: int) -> np.ndarray:
    """The samples in whole or partial blocks of bytes, `(num_samples,)` or up to a block more."""
    width = _PACKED[format][-1]
    blocks = np.zeros((-(-len(data) // width), width), np.int32)
    blocks.reshape(-1)[: len(data)] = data
    first, second, third = blocks[:, 0], blocks[:, 1], blocks[:, 2]
    if format == 24:
        samples, bits = [first | second << 8 | third << 16], 24
    elif format == 212:
        samples, bits = [first | (second & 0x0F) << 8, third | (second & 0xF0) << 4], 12
    elif format == 310:
        fourth = blocks[:, 3]
        samples = [first >> 1 | (second & 0x07) << 7, third >> 1 | (fourth & 0x07) << 7]
        samples, bits = [*samples, second >> 3 | fourth >> 3 << 5], 10
    else:
        fourth = blocks[:, 3]
        samples = [first | (second & 0x03) << 8, second >> 2 | (third & 0x0F) << 6, third >> 4 | (fourth & 0x3F) << 4]
        bits = 10
    numbers = np.stack(samples, axis=1).reshape(-1)
    return (numbers ^ 1 << (bits - 1)) - (1 << (bits - 1))  # two's complement


__all__ = ["read_signals"]
