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
Measurements of an ECG (its features): rate, rhythm, intervals, QRS axis and, for each lead, ST level and wave
amplitudes, measured on the median beat; noise and baseline drift.
"""

from collections.abc import Sequence

import numpy as np
import scipy.ndimage

from .ecg_delineation import IRREGULAR, RATE, Delineation, delineate, irregularity
from .ecg_leads import LEADS, is_flat, place_leads
from .ecg_resampling import fill_gaps, resample


GENERAL_FEATURES = (
    "heart_rate",  # beats per minute, from the mean interval between QRS complexes
    "rr_variation",  # standard deviation of these intervals divided by their mean
    "longest_rr_s",
    "premature_beats",  # beats after less than 80 % of the median interval; uncertain, and 0 in atrial fibrillation
    "premature_beats_of_other_shape",  # those of them whose QRS differs from that of most beats, as ventricular ones do
    "atrial_fibrillation",  # 1 if the rhythm is irregular without a common P wave, else 0
    "paced",  # 1 if at least half of the beats have a pacing spike, else 0
    "p_ms",
    "pr_ms",  # from the onset of P to the onset of QRS
    "qrs_ms",
    "qt_ms",
    "qtc_ms",  # QT + 1.75 (heart rate - 60): Hodges et al. (1983)
    "axis_deg",  # frontal QRS axis, from the net areas of QRS in I and aVF
    "sokolow_mv",  # S in V1 + the larger R of V5 and V6 (Sokolow and Lyon 1949)
    "cornell_mv",  # R in aVL + S in V3 (Casale et al. 1987)
    "limb_voltage_mv",  # largest QRS of the limb leads, from its highest to its deepest point
    "chest_voltage_mv",
)
# Amplitudes relative to the level just before QRS, those of P to the level at its onset. Q is the initial negative wave
# of QRS (0 if QRS starts with a positive wave), R the maximum and S the minimum of QRS; Q, R and S are given as positive
# numbers. ST is the level at the J point, the end of QRS.
LEAD_FEATURES = ("q_ms", "q_mv", "r_ms", "r_mv", "s_mv", "st_mv", "t_mv", "p_mv")
# Of the lead that has most of it.
NOISE_FEATURES = (
    "noise_mv",  # standard deviation of white noise with the same second differences at 100 Hz
    "baseline_drift_mv",  # from the lowest to the highest point of the signal below 0.5 Hz
)
FEATURES = (*GENERAL_FEATURES, *(f"{name}_{lead}" for name in LEAD_FEATURES for lead in LEADS), *NOISE_FEATURES)

_NOISE_RATE = 100
# A Gaussian filter of this width halves waves of 0.47 Hz, and leaves 1 % of those of 1.2 Hz, 72 beats per minute.
_DRIFT_S = 0.4

_LIMB, _CHEST = LEADS[:6], LEADS[6:]


def measure_ecg(ecg: np.ndarray, sampling_rate: float, lead_names: Sequence[str] = LEADS) -> dict[str, float]:
    """
    Measure the features of an ECG. A feature that cannot be measured is NaN, for example intervals of a signal without
    beats, PR in atrial fibrillation, and amplitudes of a lead that is absent, flat or interrupted.

    The boundaries of the waves are those of the median beat in all leads together; see `docs/measurements.md` for the
    method and its errors.

    Args:
        ecg: array `(len(lead_names), samples)` in mV, NaN where invalid.
        sampling_rate: sampling rate in Hz.
        lead_names: name of each row.

    Returns:
        A value for each of `FEATURES`: `_ms` in milliseconds, `_s` in seconds, `_mv` in millivolt, `_deg` in degrees,
        `heart_rate` in beats per minute.

    Raises:
        ValueError: a lead name is unknown or repeated, or the number of names differs from the number of rows.
    """
    features = dict.fromkeys(FEATURES, float("nan"))
    placed = fill_gaps(place_leads(ecg, tuple(lead_names))[0], sampling_rate)
    usable = [lead for lead, row in zip(LEADS, placed) if np.isfinite(row).all() and not is_flat(row)]
    if not usable or placed.shape[1] < 1.5 * sampling_rate:
        return features
    placed = placed[[LEADS.index(lead) for lead in usable]]
    slow = resample(placed, sampling_rate, _NOISE_RATE)
    features |= {"noise_mv": noise_levels(slow).max(), "baseline_drift_mv": _drift(slow).max()}
    signal = resample(placed, sampling_rate, RATE)
    found = delineate(signal, _independent(usable))
    if found is not None:
        features |= _rhythm(found)
        if found.qrs is not None:
            features |= _intervals(found, features["heart_rate"])
            features |= _amplitudes(found, usable)
            features |= _axis_and_voltages(features, found, usable)
    return {name: float(value) for name, value in features.items()}


def noise_levels(ecg: np.ndarray) -> np.ndarray:
    """
    The noise of each lead: the standard deviation of white noise that would have the same second differences. Waves are
    slow, and QRS complexes too few to count in the median.

    Args:
        ecg: array `(leads, samples)`, NaN where invalid.

    Returns:
        Array `(leads,)` in the unit of `ecg`, NaN for leads without three successive valid samples.
    """
    second = np.abs(np.diff(ecg, n=2, axis=1))
    levels = np.full(len(second), np.nan)
    for row, values in enumerate(second):
        if np.isfinite(values).any():
            levels[row] = np.nanmedian(values) / 0.6745 / 6**0.5  # of a normal distribution; 1, -2 and 1 squared
    return levels


def _drift(slow: np.ndarray) -> np.ndarray:
    """The range of the baseline of each lead, of a signal at `_NOISE_RATE`."""
    return np.ptp(scipy.ndimage.gaussian_filter1d(slow, _DRIFT_S * _NOISE_RATE, axis=1, mode="nearest"), axis=1)


def _independent(leads: list[str]) -> list[int]:
    """Rows of the chest leads and of two limb leads, from which the other limb leads follow."""
    limb = [row for row, lead in enumerate(leads) if lead in _LIMB]
    return limb[:2] + [row for row, lead in enumerate(leads) if lead in _CHEST]


def _rhythm(found: Delineation) -> dict[str, float]:
    intervals = np.diff(found.centres) / RATE
    features = {"heart_rate": 60 / intervals.mean(), "longest_rr_s": intervals.max()}
    features["paced"] = float(_number_of_groups(found.spikes) >= len(found.centres) / 2)
    if len(intervals) < 2:
        return features
    features["rr_variation"] = intervals.std(ddof=1) / intervals.mean()
    if len(intervals) > 2:
        # A P wave that all beats share excludes atrial fibrillation, and a regular rhythm does as well.
        fibrillates = found.p is None and irregularity(found.centres) > IRREGULAR
        features["atrial_fibrillation"] = float(fibrillates)
        is_premature = (intervals < 0.8 * np.median(intervals)) & (not fibrillates)
        features["premature_beats"] = is_premature.sum()
        features["premature_beats_of_other_shape"] = (is_premature & (found.kinds[1:] != 0)).sum()
    return features


def _number_of_groups(samples: np.ndarray) -> int:
    """Number of groups of samples that are more than 0.2 s apart: both spikes of a sequential pacemaker are one."""
    return int((np.diff(samples) > 0.2 * RATE).sum()) + 1 if len(samples) else 0


def _intervals(found: Delineation, heart_rate: float) -> dict[str, float]:
    ms = 1000 / RATE
    start, end = found.qrs
    features = {"qrs_ms": (end - start) * ms}
    if found.t is not None:
        features["qt_ms"] = (found.t[1] - start) * ms
        features["qtc_ms"] = hodges_qtc(features["qt_ms"], heart_rate)
    if found.p is not None:
        features |= {"p_ms": (found.p[1] - found.p[0]) * ms, "pr_ms": (start - found.p[0]) * ms}
    return features


def hodges_qtc(qt_ms: float, heart_rate: float) -> float:
    """Return the QT interval in ms that is corrected for the heart rate in beats per minute (Hodges et al. 1983)."""
    return qt_ms + 1.75 * (heart_rate - 60)


def _amplitudes(found: Delineation, leads: list[str]) -> dict[str, float]:
    """The features of each lead, with keys such as `q_ms_V1`."""
    features = {}
    start, end = found.qrs
    t_end = found.t[1] if found.t else found.beat.shape[1]
    for lead, row in zip(leads, found.beat):
        qrs = row[start : end + 1]
        values = {"r_mv": max(qrs.max(), 0), "s_mv": max(-qrs.min(), 0), "r_ms": _r_width(qrs)}
        values["q_ms"], values["q_mv"] = _q_wave(qrs)
        values["st_mv"] = row[end : end + 4].mean()
        t_wave = row[end + round(0.08 * RATE) : t_end]
        if np.isfinite(t_wave).any():
            values["t_mv"] = t_wave[int(np.nanargmax(np.abs(t_wave)))]
        if found.p is not None:
            p_wave = row[found.p[0] : found.p[1] + 1] - row[found.p[0]]
            values["p_mv"] = p_wave[int(np.argmax(np.abs(p_wave)))]
        features |= {f"{name}_{lead}": value for name, value in values.items()}
    return features


def _r_width(qrs: np.ndarray) -> float:
    """Duration in ms of the positive wave that contains the maximum of QRS; 0 if there is none."""
    peak = int(np.argmax(qrs))
    if qrs[peak] <= 0:
        return 0.0
    negative = np.flatnonzero(qrs <= 0)
    first = negative[negative < peak].max(initial=-1) + 1
    last = negative[negative > peak].min(initial=len(qrs))
    return float(last - first) * 1000 / RATE


def _q_wave(qrs: np.ndarray) -> tuple[float, float]:
    """Duration in ms and depth in mV of the initial negative wave of QRS; 0 if QRS starts positive."""
    beyond = np.flatnonzero(np.abs(qrs) > max(0.03, 0.05 * np.abs(qrs).max()))
    if not beyond.size or qrs[beyond[0]] > 0:
        return 0.0, 0.0
    positive = np.flatnonzero(qrs >= 0)
    first = positive[positive < beyond[0]].max(initial=-1) + 1
    last = positive[positive > beyond[0]].min(initial=len(qrs))
    return float(last - first) * 1000 / RATE, float(-qrs[first:last].min())


def _axis_and_voltages(features: dict[str, float], found: Delineation, leads: list[str]) -> dict[str, float]:
    """The features that combine several leads; NaN if one of them is missing."""
    start, end = found.qrs
    # Areas between QRS and the line from the level before QRS to the level at its end.
    slope = np.linspace(0, 1, end + 1 - start)
    areas = {lead: np.sum(row[start : end + 1] - slope * row[end]) for lead, row in zip(leads, found.beat)}
    heights = {lead: np.ptp(row[start : end + 1]) for lead, row in zip(leads, found.beat)}
    combined = {
        "sokolow_mv": features["s_mv_V1"] + max(features["r_mv_V5"], features["r_mv_V6"]),
        "cornell_mv": features["r_mv_aVL"] + features["s_mv_V3"],
    }
    for name, group in (("limb_voltage_mv", _LIMB), ("chest_voltage_mv", _CHEST)):
        if set(group) <= heights.keys():
            combined[name] = max(heights[lead] for lead in group)
    if {"I", "aVF"} <= areas.keys():
        combined["axis_deg"] = np.rad2deg(np.arctan2(areas["aVF"] * 2 / np.sqrt(3), areas["I"]))
    return combined


__all__ = [
    "FEATURES",
    "GENERAL_FEATURES",
    "LEAD_FEATURES",
    "NOISE_FEATURES",
    "hodges_qtc",
    "measure_ecg",
    "noise_levels",
]
