"""Resampling ECGs without aliasing, and filling short gaps."""

from fractions import Fraction
from functools import lru_cache

import numpy as np


# resampling: output samples of a block, at least; and the factors above which no weights are kept
_BLOCK = 32
_LARGEST_FACTOR = 2048


def resample(ecg: np.ndarray, sampling_rate: float, new_sampling_rate: float, method: str = "polyphase") -> np.ndarray:
    """
    Change the sampling rate. Sample k of the result lies at k / new_sampling_rate seconds, like sample k of the input
    at k / sampling_rate: nothing is stretched or shifted.

    The result has `ceil(samples * new_sampling_rate / sampling_rate)` samples, every one that lies before the end of
    the input (samples / sampling_rate). It is NaN where the time falls on or beside an invalid input sample, and
    nowhere else: gaps do not spread.

    Args:
        ecg: `(..., samples)`, NaN where invalid.
        sampling_rate: of `ecg`, in Hz.
        new_sampling_rate: wanted, in Hz.
        method: "polyphase" filters out what the new rate cannot carry (a polyphase FIR with a Kaiser window); "cubic" is a
            cubic spline without a low-pass, which folds high frequencies down: only to reproduce published
            preprocessing.

    Returns:
        `(..., new samples)`, float32.

    Raises:
        ValueError: a sampling rate that is not from 1 to 100,000 Hz, fewer than 2 samples or an unknown method.
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


def _rate(sampling_rate: float) -> Fraction:
    if not 1 <= sampling_rate <= 100_000:  # nor is NaN
        raise ValueError(f"sampling rate {sampling_rate} Hz is not a number from 1 to 100,000")
    return Fraction(sampling_rate).limit_denominator(1000)


def _polyphase(signal: np.ndarray, ratio: Fraction) -> np.ndarray:
    """
    The result of `scipy.signal.resample_poly` with a Kaiser window, several times faster: each block of output samples is
    one matrix product. In double precision, as in single the rounding to microvolt would depend on the processor.
    """
    up, down = ratio.numerator, ratio.denominator
    # The filter's gain differs by up to 1e-4 between output samples, so a baseline offset would come out as a ripple.
    offset = signal.mean(axis=-1, keepdims=True, dtype=np.float64)
    if max(up, down) > _LARGEST_FACTOR:
        return _long_polyphase(signal - offset, up, down) + offset
    weights, margin = _filter_weights(up, down)
    inputs, outputs = weights.shape
    samples = signal.shape[1]
    new_samples = -(-samples * up // down)
    count, step = -(-new_samples // outputs), outputs * down // up
    # the point reflection keeps value and slope at both ends
    edge = min(samples, margin + 1)
    first, last = signal[:, :edge].astype(np.float64), signal[:, -edge:].astype(np.float64)
    before = np.pad(first, ((0, 0), (margin, 0)), mode="reflect", reflect_type="odd")[:, :margin]
    after = np.pad(last, ((0, 0), (0, margin)), mode="reflect", reflect_type="odd")[:, edge:]
    # lead by lead: what is worked on stays in the processor's cache
    padded = np.zeros(max((count - 1) * step + inputs, samples + 2 * margin))
    blocks = np.lib.stride_tricks.sliding_window_view(padded, inputs)[::step][:count]
    missing_gain = 1 - weights.sum(axis=0)
    resampled = np.empty((len(signal), new_samples), np.float32)
    for row, lead in enumerate(signal):
        padded[: samples + 2 * margin] = np.concatenate([before[row], lead, after[row]])
        product = np.ascontiguousarray(blocks) @ weights + offset[row] * missing_gain
        resampled[row] = product.reshape(-1)[:new_samples]
    return resampled


@lru_cache(maxsize=8)
def _filter_weights(up: int, down: int) -> tuple[np.ndarray, int]:
    """
    The low-pass's weights `(input samples, output samples)` of a block of output samples, and how many input samples
    before its first output sample the block begins.
    """
    half = 10 * max(up, down)
    taps = np.arange(-half, half + 1)
    kernel = np.sinc(taps / max(up, down)) * np.kaiser(taps.size, 8.0)
    margin = -(-half // up)
    outputs = up * max(1, _BLOCK // up)
    inputs = -(-(outputs - 1) * down // up) + 1 + 2 * margin
    # in steps of the common multiple of both rates: from each input sample to each output sample
    distance = np.arange(outputs) * down - (np.arange(inputs)[:, None] - margin) * up
    weights = kernel[np.clip(distance + half, 0, 2 * half)] * (np.abs(distance) <= half)
    return weights * (up / kernel.sum()), margin


def _long_polyphase(signal: np.ndarray, up: int, down: int) -> np.ndarray:
    """For rates without a small common multiple, whose weights would fill the memory."""
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
    # at a higher rate the last samples lie beyond the last input sample; a spline would run away there, so it is held
    return CubicSpline(np.arange(samples), signal, axis=-1)(np.minimum(positions, samples - 1))


def _neighbours(ratio: Fraction, samples: int, new_samples: int) -> tuple[np.ndarray, np.ndarray]:
    """The input samples at or before and at or after each output sample."""
    positions = np.arange(new_samples) * ratio.denominator
    before = positions // ratio.numerator
    after = -(-positions // ratio.numerator)
    return before, np.minimum(after, samples - 1)


def _interpolate(row: np.ndarray, bad: np.ndarray) -> np.ndarray:
    """Linear interpolation over the samples marked bad; zeros where none is good."""
    if bad.all():
        return np.zeros_like(row)
    time = np.arange(row.size)
    filled = row.copy()
    filled[bad] = np.interp(time[bad], time[~bad], row[~bad])
    return filled


def fill_gaps(ecg: np.ndarray, sampling_rate: float, max_gap_s: float = 0.1) -> np.ndarray:
    """
    Interpolate short gaps linearly; longer ones stay NaN. A short gap at the start or end takes the nearest sample.

    Args:
        ecg: `(leads, samples)`, NaN where invalid.
        sampling_rate: in Hz.
        max_gap_s: longest run of invalid samples that is filled, in seconds.

    Returns:
        A copy `(leads, samples)`, float32.
    """
    filled = np.array(ecg, dtype=np.float32)
    longest = max_gap_s * sampling_rate + 1e-6
    for row in filled:
        bad = ~np.isfinite(row)
        if not bad.any() or bad.all():
            continue
        edges = np.flatnonzero(np.diff(np.concatenate([[False], bad, [False]])))
        starts, ends = edges[::2], edges[1::2]
        interpolated = _interpolate(row, bad)
        for start, end in zip(starts, ends):
            row[start:end] = interpolated[start:end] if end - start <= longest else np.nan
    return filled
