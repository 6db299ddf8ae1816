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
"""Resamples ECGs without aliasing, and fills short gaps."""

from fractions import Fraction
from functools import lru_cache

import numpy as np


# Smallest number of output samples per block; largest factor for which the filter weights are stored.
_BLOCK = 32
_LARGEST_FACTOR = 2048


def resample(ecg: np.ndarray, sampling_rate: float, new_sampling_rate: float, method: str = "polyphase") -> np.ndarray:
    r"""
    Changes the sampling rate. Sample k of the input lies at k / sampling_rate seconds and sample k of the result at
    k / new_sampling_rate seconds: the signal is neither stretched nor shifted.

    The result holds all samples before the end of the input, which is at num_samples / sampling_rate seconds. A sample
    of the result is NaN if it falls on or beside an invalid sample of the input. All others are valid, so gaps do not
    spread.

    Args:
        ecg (`np.ndarray` of shape `(..., num_samples)`):
            The ECG in any unit, NaN where invalid.
        sampling_rate (`float`):
            Sampling rate of `ecg` in Hz.
        new_sampling_rate (`float`):
            Sampling rate of the result in Hz.
        method (`str`, *optional*, defaults to `"polyphase"`):
            `"polyphase"`: a polyphase FIR filter with a Kaiser window removes the frequencies above the new Nyquist
            frequency. `"cubic"`: a cubic spline without a low-pass filter, which causes aliasing; only to reproduce
            published preprocessing.

    Returns:
        `np.ndarray` of shape `(..., ceil(num_samples * new_sampling_rate / sampling_rate))`, float32.

    Raises:
        `ValueError`: If a sampling rate is not between 1 and 100,000 Hz, the ECG has fewer than 2 samples, or the
            method is unknown.
        `ImportError`: If scipy is needed (`"cubic"`, or rates without a small common multiple) and not installed.
    """
    if method not in ("polyphase", "cubic"):
        raise ValueError(f'method "{method}" is not one of polyphase, cubic')
    ecg = np.asarray(ecg, dtype=np.float32)
    ratio = _rate(new_sampling_rate) / _rate(sampling_rate)
    if ecg.shape[-1] < 2:
        raise ValueError(f"an ECG of shape {ecg.shape} cannot be resampled: it has fewer than 2 samples")
    if ratio == 1:
        return ecg.copy()
    signal = ecg.reshape(-1, ecg.shape[-1])
    invalid = ~np.isfinite(signal)
    if invalid.any():
        signal = np.stack([_interpolate(row, bad) for row, bad in zip(signal, invalid)])
    resampled = _polyphase(signal, ratio) if method == "polyphase" else _cubic(signal, ratio)
    if invalid.any():
        before, after = _neighbours(ratio, signal.shape[-1], resampled.shape[-1])
        resampled[invalid[:, before] | invalid[:, after]] = np.nan
    return resampled.reshape(*ecg.shape[:-1], -1).astype(np.float32, copy=False)


def resampled_length(num_samples: int, sampling_rate: float, new_sampling_rate: float) -> int:
    r"""
    The number of samples that [`~ecg_resampling.resample`] returns.

    Args:
        num_samples (`int`):
            Samples before.
        sampling_rate, new_sampling_rate (`float`):
            The rates in Hz.

    Returns:
        `int`: Samples afterwards.
    """
    if sampling_rate == new_sampling_rate:
        return num_samples
    ratio = _rate(new_sampling_rate) / _rate(sampling_rate)
    return -(-num_samples * ratio.numerator // ratio.denominator)


def _rate(sampling_rate: float) -> Fraction:
    if not 1 <= sampling_rate <= 100_000:  # also refuses NaN
        raise ValueError(f"sampling rate {sampling_rate} Hz is not a number from 1 to 100,000")
    return Fraction(sampling_rate).limit_denominator(1000)


def _polyphase(signal: np.ndarray, ratio: Fraction) -> np.ndarray:
    """
    Like `scipy.signal.resample_poly` with a Kaiser window, several times faster: each block of output samples is one
    matrix product. In single precision, rounding the result to microvolt would depend on the processor.
    """
    up, down = ratio.numerator, ratio.denominator
    # The gain of the filter differs by up to 1e-4 between output samples, so an offset of the baseline would ripple.
    offset = signal.mean(axis=-1, keepdims=True, dtype=np.float64)
    if max(up, down) > _LARGEST_FACTOR:
        return _long_polyphase(signal - offset, up, down) + offset
    weights, margin = _filter_weights(up, down)
    inputs, outputs = weights.shape
    samples = signal.shape[1]
    new_samples = -(-samples * up // down)
    count, step = -(-new_samples // outputs), outputs * down // up
    before, after = _reflected(signal, margin), _reflected(signal[:, ::-1], margin)[:, ::-1]
    # Lead by lead, so that the data stay in the processor's cache.
    padded = np.zeros(max((count - 1) * step + inputs, samples + 2 * margin))
    blocks = np.lib.stride_tricks.sliding_window_view(padded, inputs)[::step][:count]
    missing_gain = 1 - weights.sum(axis=0)
    resampled = np.empty((len(signal), new_samples), np.float32)
    for row, lead in enumerate(signal):
        padded[: samples + 2 * margin] = np.concatenate([before[row], lead, after[row]])
        product = np.ascontiguousarray(blocks) @ weights + offset[row] * missing_gain
        resampled[row] = product.reshape(-1)[:new_samples]
    return resampled


def _reflected(signal: np.ndarray, margin: int) -> np.ndarray:
    """What precedes a signal, `(leads, margin)`: its point reflection, which keeps value and slope at the edge."""
    first = signal[:, : margin + 1].astype(np.float64)
    if first.shape[1] == margin + 1:
        return 2 * first[:, :1] - first[:, :0:-1]
    return np.pad(first, ((0, 0), (margin, 0)), mode="reflect", reflect_type="odd")[:, :margin]


@lru_cache(maxsize=8)
def _filter_weights(up: int, down: int) -> tuple[np.ndarray, int]:
    """
    The filter weights `(input samples, output samples)` of a block of output samples, and the number of input samples
    of the block before its first output sample.
    """
    half = 10 * max(up, down)
    taps = np.arange(-half, half + 1)
    kernel = np.sinc(taps / max(up, down)) * np.kaiser(taps.size, 8.0)
    margin = -(-half // up)
    outputs = up * max(1, _BLOCK // up)
    inputs = -(-(outputs - 1) * down // up) + 1 + 2 * margin
    # From each input sample to each output sample, in steps of the common multiple of both rates.
    distance = np.arange(outputs) * down - (np.arange(inputs)[:, None] - margin) * up
    weights = kernel[np.clip(distance + half, 0, 2 * half)] * (np.abs(distance) <= half)
    return weights * (up / kernel.sum()), margin


def _long_polyphase(signal: np.ndarray, up: int, down: int) -> np.ndarray:
    """Resamples between rates without a small common multiple, whose filter weights would take too much memory."""
    try:
        from scipy.signal import resample_poly
    except ImportError as error:
        raise ImportError("resampling an ECG between such rates needs scipy: pip install scipy") from error
    return resample_poly(signal, up, down, axis=-1, window=("kaiser", 8.0), padtype="antireflect")


def _cubic(signal: np.ndarray, ratio: Fraction) -> np.ndarray:
    try:
        from scipy.interpolate import CubicSpline
    except ImportError as error:
        raise ImportError("resampling an ECG needs scipy: pip install scipy") from error
    samples = signal.shape[-1]
    positions = np.arange(-(-samples * ratio.numerator // ratio.denominator)) * ratio.denominator / ratio.numerator
    # At a higher rate the last output samples lie behind the last input sample, where a spline would diverge.
    return CubicSpline(np.arange(samples), signal, axis=-1)(np.minimum(positions, samples - 1))


def _neighbours(ratio: Fraction, samples: int, new_samples: int) -> tuple[np.ndarray, np.ndarray]:
    """For each output sample, the input sample at or before it and the one at or after it."""
    positions = np.arange(new_samples) * ratio.denominator
    before = positions // ratio.numerator
    after = -(-positions // ratio.numerator)
    return before, np.minimum(after, samples - 1)


def _interpolate(row: np.ndarray, bad: np.ndarray) -> np.ndarray:
    """Interpolates the bad samples linearly; returns zeros if all samples are bad."""
    if bad.all():
        return np.zeros_like(row)
    time = np.arange(row.size)
    filled = row.copy()
    filled[bad] = np.interp(time[bad], time[~bad], row[~bad])
    return filled


def interpolate(ecg: np.ndarray) -> np.ndarray:
    r"""
    Interpolates all invalid samples linearly, whatever the length of the gap.

    Args:
        ecg (`np.ndarray` of shape `(num_leads, num_samples)`):
            The ECG in any unit, NaN where invalid.

    Returns:
        `np.ndarray` of shape `(num_leads, num_samples)`: The ECG without NaN; zeros for a lead without valid samples.
    """
    invalid = ~np.isfinite(ecg)
    return np.stack([_interpolate(row, bad) if bad.any() else row for row, bad in zip(ecg, invalid)])


def fill_gaps(ecg: np.ndarray, sampling_rate: float, max_gap_s: float = 0.1) -> np.ndarray:
    r"""
    Interpolates short gaps linearly. A short gap at the start or end is filled with the nearest valid sample. Longer
    gaps stay NaN.

    Args:
        ecg (`np.ndarray` of shape `(num_leads, num_samples)`):
            The ECG in any unit, NaN where invalid.
        sampling_rate (`float`):
            Sampling rate in Hz.
        max_gap_s (`float`, *optional*, defaults to 0.1):
            Longest gap to fill, in seconds.

    Returns:
        `np.ndarray` of shape `(num_leads, num_samples)`, float32: a copy of the ECG.
    """
    filled = np.array(ecg, dtype=np.float32)
    longest = max_gap_s * sampling_rate + 1e-6
    for row in filled:
        bad = ~np.isfinite(row)
        if not bad.any() or bad.all():
            continue
        interpolated = _interpolate(row, bad)
        for start, end in runs(bad):
            row[start:end] = interpolated[start:end] if end - start <= longest else np.nan
    return filled


def runs(mask: np.ndarray) -> np.ndarray:
    r"""
    Finds the stretches in which a mask is true.

    Args:
        mask (`np.ndarray` of shape `(num_samples,)`):
            The mask.

    Returns:
        `np.ndarray` of shape `(num_runs, 2)`: The first sample of each stretch, and the first one behind it.
    """
    return np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]))).reshape(-1, 2)


__all__ = ["fill_gaps", "interpolate", "resample", "resampled_length", "runs"]
