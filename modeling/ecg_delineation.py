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
"""
Beats of an ECG and the boundaries of their waves, found in all leads together.

The method is described in `docs/measurements.md`, with its errors on the Lobachevsky University database (LUDB). Its
constants were chosen on the records of LUDB with odd numbers and are reported on those with even numbers.
"""

from dataclasses import dataclass

import numpy as np
import scipy


RATE = 500  # sampling rate that all functions expect, in Hz
BEFORE, AFTER = 260, 400  # extent of the median beat before and after its centre, in samples

_QRS_BAND_HZ = (6, 22)
_LOW_PASS_HZ = 40
# Boundaries, in samples after the crossing of a threshold. They are the median differences to the cardiologists'
# boundaries in the fitting half of LUDB.
_SHIFT = {"qrs_start": -3, "qrs_end": -1, "t_end": 2, "p_start": 2, "p_end": -9}

# Successive RR intervals differ by more than this share of the median interval in an irregular rhythm.
IRREGULAR = 0.1
# A wave before QRS is a P wave if its reliability over the beats is at least this. In an irregular rhythm the limit is
# higher, because atrial fibrillation leaves waves in the median of a few beats.
_LEAST_RELIABILITY = {"regular": 0.6, "irregular": 0.88}


@dataclass
class Delineation:
    """
    The beats of an ECG and the waves of its most frequent kind of beat.

    Attributes:
        centres: array `(beats,)`, the sample of each beat that is at `BEFORE` in the median beat.
        kinds: array `(beats,)`, kind of each beat by the shape of its QRS; 0 is the most frequent.
        beat: array `(leads, samples)`, median of the beats of kind 0, NaN where all of them are outside the record. The
            level just before QRS is 0.
        qrs: first and last sample of QRS in the median beat; None if the signal is flat there.
        p: first and last sample of P; None if the beats have no common P wave, as in atrial fibrillation.
        t: peak and last sample of T; None if it cannot be found.
        spikes: samples of pacing spikes, which were removed.
    """

    centres: np.ndarray
    kinds: np.ndarray
    beat: np.ndarray
    qrs: tuple[int, int] | None
    p: tuple[int, int] | None
    t: tuple[int, int] | None
    spikes: np.ndarray


def delineate(signal: np.ndarray, independent: list[int]) -> Delineation | None:
    """
    Find the beats of an ECG and the boundaries of their waves.

    Args:
        signal: array `(leads, samples)` in mV at `RATE`, without NaN.
        independent: rows that are not linear combinations of others; only these are used to find boundaries.

    Returns:
        The beats and waves; None if there are fewer than two beats.
    """
    spikes = _pacing_spikes(signal[independent])
    signal = _filtered(_without_samples(signal, spikes), 0.5, "highpass")
    low = _filtered(signal[independent], _LOW_PASS_HZ, "lowpass")
    centres = find_qrs(signal[independent])
    if len(centres) < 2:
        return None
    centres = np.unique(_aligned(low, centres))
    kinds = _kinds(low, centres)
    if (kinds == 0).sum() > 1:
        centres[kinds == 0] = _aligned(low, centres[kinds == 0])
    order = np.argsort(centres)
    centres, kinds = centres[order], kinds[order]
    beats = _cut(signal, centres[kinds == 0])
    beat = _median(beats)
    qrs = _qrs_bounds(beat[independent])
    if qrs is None or not np.isfinite(beat[0, max(qrs[0] - 8, 0) : qrs[1] + 4]).all():
        return Delineation(centres, kinds, beat, None, None, None, spikes)
    beat = beat - np.mean(beat[:, max(qrs[0] - 8, 0) : qrs[0]], axis=1, keepdims=True)
    interval = float(np.median(np.diff(centres)))
    t_wave = _t_wave(beat[independent], qrs[1], interval)
    p_wave = _p_wave(beat[independent], qrs[0], t_wave, interval)
    least = _LEAST_RELIABILITY["irregular" if irregularity(centres) > IRREGULAR else "regular"]
    if p_wave and _reliability(beats[:, independent], p_wave[0], p_wave[1]) < least:
        p_wave = None
    return Delineation(centres, kinds, beat, qrs, p_wave, t_wave, spikes)


def irregularity(centres: np.ndarray) -> float:
    """Median difference of successive RR intervals, divided by the median RR interval; NaN for under four beats."""
    intervals = np.diff(centres)
    return float(np.median(np.abs(np.diff(intervals))) / np.median(intervals)) if len(intervals) > 2 else float("nan")


def find_qrs(signal: np.ndarray) -> np.ndarray:
    """
    Find the QRS complexes of a signal `(leads, samples)` as maxima of its size between 6 and 22 Hz over 80 ms.

    Returns:
        The sample of each QRS complex, in order.
    """
    band = _filtered(signal, _QRS_BAND_HZ, "bandpass")
    size = scipy.ndimage.uniform_filter1d(np.sqrt(np.mean(band**2, axis=0)), 40)
    # The usual size of QRS is the median of the maxima of stretches of 1.2 s.
    usual = np.median([stretch.max() for stretch in np.array_split(size, max(1, len(size) // 600))])
    if usual <= 1e-6:
        return np.zeros(0, int)
    found, _ = scipy.signal.find_peaks(size, height=0.3 * usual, distance=100, prominence=0.18 * usual)
    kept: list[int] = []
    for peak in found:
        # Of two maxima within 0.4 s, one of less than half of the other's size is its T wave.
        if kept and peak - kept[-1] < 0.4 * RATE and size[peak] < size[kept[-1]] / 2:
            continue
        if kept and peak - kept[-1] < 0.4 * RATE and size[kept[-1]] < size[peak] / 2:
            kept.pop()
        kept.append(int(peak))
    return np.array(kept, int)


def _filtered(signal: np.ndarray, hz: float | tuple[float, float], kind: str) -> np.ndarray:
    """A filter of zero phase, because a phase shift would tilt the ST segment."""
    sections = scipy.signal.butter(2, hz, kind, fs=RATE, output="sos")
    centred = signal - np.median(signal, axis=1, keepdims=True) if kind == "highpass" else signal
    return scipy.signal.sosfiltfilt(sections, centred, axis=1, padlen=min(RATE, signal.shape[1] - 2))


def _pacing_spikes(signal: np.ndarray) -> np.ndarray:
    """Samples of deflections of less than 6 ms that are much steeper than anything near them."""
    smooth = scipy.ndimage.median_filter(signal, size=(1, 5), mode="nearest")
    size = np.sqrt(np.sum((signal - smooth) ** 2, axis=0))
    slope = np.sqrt(np.sum(np.gradient(smooth, axis=1) ** 2, axis=0))
    return np.flatnonzero((size > 0.2) & (size > 1.5 * (scipy.ndimage.maximum_filter1d(slope, 61) + 0.02)))


def _without_samples(signal: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """The signal with straight lines from 3 samples before to 4 samples after each of `samples`."""
    if not len(samples):
        return signal
    bad = np.zeros(signal.shape[1], bool)
    bad[np.clip(samples[:, None] + np.arange(-3, 5), 0, len(bad) - 1)] = True
    replaced = signal.copy()
    for row in replaced:
        row[bad] = np.interp(np.flatnonzero(bad), np.flatnonzero(~bad), row[~bad])
    return replaced


def _aligned(low: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """The centres, each shifted by up to 40 ms three times, so that the beats fit their median."""
    half, most = 40, 20
    pad = half + most
    padded = np.pad(low, ((0, 0), (pad, pad)), mode="edge")
    for _ in range(3):
        median = np.median(padded[:, centres[:, None] + pad + np.arange(-half, half)], axis=1)
        reach = padded[:, centres[:, None] + pad + np.arange(-pad, pad)]
        windows = np.lib.stride_tricks.sliding_window_view(reach, 2 * half, axis=2)
        fits = np.einsum("lbsw,lw->bs", windows, median)
        centres = np.clip(centres + np.argmax(fits, axis=1) - most, 0, low.shape[1] - 1)
    return centres


def _kinds(low: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """The kind of each beat: beats whose QRS complexes correlate by more than 0.88 with the first of a kind."""
    padded = np.pad(low, ((0, 0), (50, 50)), mode="edge")
    windows = padded[:, centres[:, None] + 50 + np.arange(-40, 50)].swapaxes(0, 1)
    windows = (windows - windows.mean(axis=2, keepdims=True)).reshape(len(centres), -1)
    windows /= np.maximum(np.linalg.norm(windows, axis=1, keepdims=True), 1e-9)
    alike = windows @ windows.T > 0.88
    np.fill_diagonal(alike, True)
    kinds = np.full(len(centres), -1)
    for kind in range(len(centres)):
        free = kinds < 0
        if not free.any():
            break
        first = int(np.argmax((alike & free).sum(axis=1) * free))
        kinds[alike[first] & free] = kind
    return kinds


def _cut(signal: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """The beats `(beats, leads, samples)`, NaN outside the record."""
    pad = BEFORE + AFTER
    padded = np.pad(signal, ((0, 0), (pad, pad)), constant_values=np.nan)
    return padded[:, centres[:, None] + pad + np.arange(-BEFORE, AFTER)].swapaxes(0, 1)


def _median(beats: np.ndarray) -> np.ndarray:
    """The median beat `(leads, samples)`, NaN where all beats are outside the record."""
    number = np.isfinite(beats[:, 0]).sum(axis=0)  # valid beats at each sample; NaN are sorted to the end
    middle = np.stack([np.maximum(number - 1, 0) // 2, number // 2])
    ranked = np.sort(beats, axis=0)
    return ranked[np.minimum(middle, len(beats) - 1), :, np.arange(beats.shape[2])].mean(axis=0).T


def _speed(signal: np.ndarray, window: int) -> np.ndarray:
    """Spatial velocity: the length of the vector of slopes of all leads, from parabolas over `window` samples."""
    window = min(window, (signal.shape[1] - 1) // 2 * 2 + 1)
    slopes = scipy.signal.savgol_filter(signal, window, 2, deriv=1, axis=1)
    return np.sqrt(np.sum(slopes**2, axis=0))


def _first_below(values: np.ndarray, level: float) -> int:
    """First position whose value is below the level; the position of the minimum if there is none."""
    is_below = values < level
    return int(np.argmax(is_below)) if is_below.any() else int(np.argmin(values))


def _qrs_bounds(beat: np.ndarray) -> tuple[int, int] | None:
    """First and last sample of QRS: where the slopes leave and reach the level next to QRS."""
    slopes = np.abs(scipy.signal.savgol_filter(np.nan_to_num(beat), 13, 2, deriv=1, axis=1)).mean(axis=0)
    top = slopes[BEFORE - 40 : BEFORE + 50].max()
    if top <= 1e-6:
        return None
    start = BEFORE - _first_quiet(slopes[BEFORE - 130 : BEFORE + 1][::-1], 0.1 * top)
    end = BEFORE + _first_quiet(slopes[BEFORE : BEFORE + 150], 0.06 * top)
    return start + _SHIFT["qrs_start"], end + _SHIFT["qrs_end"]


def _first_quiet(slopes: np.ndarray, least: float) -> int:
    """Number of samples from the centre to where the slopes stay below `least`, or 3.5 times the level next to QRS."""
    highest = np.lib.stride_tricks.sliding_window_view(slopes, 8).max(axis=1)
    return _first_below(highest, max(least, 3.5 * highest[10:].min()))


def _t_wave(beat: np.ndarray, qrs_end: int, interval: float) -> tuple[int, int] | None:
    """Peak and last sample of T: where its spatial velocity falls to a share of that of its steepest descent."""
    first = qrs_end + 30
    wave = beat[:, first : min(beat.shape[1], BEFORE + round(0.72 * interval))]
    wave = wave[:, np.isfinite(wave).all(axis=0)]
    if wave.shape[1] < 50:
        return None
    size = np.sqrt(np.sum(scipy.signal.savgol_filter(wave, 25, 2, axis=1) ** 2, axis=0))
    speed = _speed(wave, 33)
    peak = 5 + int(np.argmax(size[5:-5]))
    if peak < 45:  # a raised ST segment that is higher than T
        later = scipy.signal.argrelmax(size, order=15)[0]
        later = later[(size[later] > 0.6 * size[peak]) & (first + later < BEFORE + min(0.5 * interval, 240))]
        peak = int(later[-1]) if len(later) else peak
    steepest = peak + int(np.argmax(speed[peak : peak + 80]))
    end = steepest + _first_below(speed[steepest:], 0.4 * speed[steepest])
    return first + peak, min(first + end + _SHIFT["t_end"], beat.shape[1])


def _p_wave(
    beat: np.ndarray, qrs_start: int, t_wave: tuple[int, int] | None, interval: float
) -> tuple[int, int] | None:
    """First and last sample of the wave before QRS that can be P; None if there is none."""
    first = max(0, qrs_start - 230)
    stretch = beat[:, first : qrs_start + 2]
    valid = np.isfinite(stretch).all(axis=0)
    if not valid[-60:].all():
        return None
    skipped = 0 if valid.all() else len(valid) - int(np.argmin(valid[::-1]))
    first, stretch = first + skipped, stretch[:, skipped:]
    peak = _p_peak(stretch, first, (t_wave[1] - interval) if t_wave else 0)
    if peak is None:
        return None
    margin = 50
    padded = np.pad(stretch, ((0, 0), (margin, margin)), mode="edge")
    before, after = (_above_noise(_speed(padded, window)[margin:-margin]) for window in (25, 31))
    rise = max(0, peak - 45)
    steepest_rise = rise + int(np.argmax(before[rise : peak + 1]))
    steepest_fall = peak + int(np.argmax(after[peak : peak + 45]))
    start = steepest_rise - _first_below(before[: steepest_rise + 1][::-1], 0.4 * before[steepest_rise])
    end = steepest_fall + _first_below(after[steepest_fall:], 0.35 * after[steepest_fall])
    return first + start + _SHIFT["p_start"], min(first + end + _SHIFT["p_end"], qrs_start)


def _above_noise(speed: np.ndarray) -> np.ndarray:
    """The speed without the part of noise, which adds as squares and is alone in the quietest tenth of the samples."""
    return np.sqrt(np.maximum(speed**2 - np.quantile(speed, 0.1) ** 2, 0))


def _p_peak(stretch: np.ndarray, first: int, t_end: float) -> int | None:
    """
    The centre of P in the stretch before QRS: the largest bump of 16 to 60 ms, weighted by its distance to QRS, which is
    120 ± 90 ms as a rule.
    """
    width = stretch.shape[1]
    padded = np.pad(stretch, ((0, 0), (100, 100)), mode="edge")
    bumps = scipy.ndimage.gaussian_filter1d(padded, 8, axis=1) - scipy.ndimage.gaussian_filter1d(padded, 30, axis=1)
    size = np.sqrt(np.sum(bumps**2, axis=0))[100 : 100 + width]
    found, _ = scipy.signal.find_peaks(size)
    distance = width - found
    possible = (distance > 12) & (distance < 190) & (first + found > t_end + 10)
    found, distance = found[possible], distance[possible]
    if not len(found):
        return None
    return int(found[np.argmax(size[found] * np.exp(-0.5 * ((distance - 60) / 45) ** 2))])


def _reliability(beats: np.ndarray, first: int, last: int) -> float:
    """
    Reliability of the mean wave between two samples, from 0 (the beats are unrelated) to 1 (they are equal): one minus
    the variance of the mean that the differences between the beats explain.
    """
    waves = beats[:, :, max(first, 0) : last]
    waves = waves[np.isfinite(waves).all(axis=(1, 2))]
    if len(waves) < 2 or waves.shape[2] < 20:
        return 0.0
    waves = scipy.signal.savgol_filter(waves, 15, 2, axis=2)
    waves = waves - waves.mean(axis=2, keepdims=True)
    mean = waves.mean(axis=0)
    noise = np.sum((waves - mean) ** 2) / (len(waves) * (len(waves) - 1))
    return float(1 - noise / max(np.sum(mean**2), 1e-12))
