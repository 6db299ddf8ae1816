"""
ECG features: heart rate, intervals, QRS axis and, for each lead, ST level and wave amplitudes, measured on the median
beat.
"""

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import scipy

from elm_hf.modeling.ecg_leads import LEADS, is_flat, place_leads
from elm_hf.modeling.ecg_resampling import fill_gaps, resample


GENERAL_FEATURES = (
    "heart_rate",  # beats per minute, from the mean interval between QRS complexes
    "rr_variation",  # standard deviation of these intervals divided by their mean
    "p_ms",
    "pr_ms",  # from the onset of P to the onset of QRS
    "qrs_ms",
    "qt_ms",
    "qtc_ms",  # Bazett (1920)
    "axis_deg",  # frontal QRS axis, from the net areas of QRS in I and aVF
    "sokolow_mv",  # S in V1 + the larger R of V5 and V6 (Sokolow and Lyon 1949)
    "cornell_mv",  # R in aVL + S in V3 (Casale et al. 1987)
)
# Amplitudes relative to the level just before QRS. Q is the initial negative wave of QRS (0 if QRS starts with a
# positive wave), R the maximum and S the minimum of QRS; Q, R and S are given as positive numbers. ST is the level 40
# ms after the end of QRS.
LEAD_FEATURES = ("q_ms", "q_mv", "r_mv", "s_mv", "st_mv", "t_mv")
FEATURES = (*GENERAL_FEATURES, *(f"{name}_{lead}" for name in LEAD_FEATURES for lead in LEADS))

_RATE = 500  # sampling rate for all measurements, in Hz
_BEFORE_S, _AFTER_S = 0.44, 0.72  # extent of the median beat before and after the R peak
_ALIGN_S = 0.06
_ST_S = 0.04
# QRS is where the spatial velocity exceeds this share of its maximum and this multiple of its noise.
_QRS_SHARE = 0.08
_QRS_NOISE = 2.5


def measure_ecg(ecg: np.ndarray, sampling_rate: float, lead_names: Sequence[str] = LEADS) -> dict[str, float]:
    """
    Measure the features of an ECG. A feature that cannot be measured is NaN, for example intervals of a signal without
    beats, PR in atrial fibrillation, and amplitudes of a lead that is absent, flat or interrupted.

    QRS complexes are detected with NeuroKit2 (Makowski et al. 2021) in the root mean square of all leads. Beats are
    aligned, atypical beats are dropped, and the median beat of each lead is taken. QRS starts and ends where the
    spatial velocity of the median beat leaves and reaches the level of the adjacent segments. P starts and ends, and T
    ends, where the tangent at the steepest slope meets the baseline (Lepeschkin and Surawicz 1952), in the first
    principal component over the leads. (NeuroKit2's own delineation of single beats had errors of 50 to 150 ms in QRS
    and PR on simulated ECGs.)

    Args:
        ecg: array `(len(lead_names), samples)` in mV, NaN where invalid.
        sampling_rate: sampling rate in Hz.
        lead_names: name of each row.

    Returns:
        A value for each of `FEATURES`: `_ms` in milliseconds, `_mv` in millivolt, `_deg` in degrees, `heart_rate` in
        beats per minute.

    Raises:
        ImportError: NeuroKit2 is not installed.
        ValueError: a lead name is unknown or repeated, or the number of names differs from the number of rows.
    """
    features = dict.fromkeys(FEATURES, float("nan"))
    placed = fill_gaps(place_leads(ecg, tuple(lead_names))[0], sampling_rate)
    usable = [lead for lead, row in zip(LEADS, placed) if np.isfinite(row).all() and not is_flat(row)]
    if not usable or placed.shape[1] < 1.5 * sampling_rate:
        return features
    signal = _without_drift(resample(placed[[LEADS.index(lead) for lead in usable]], sampling_rate, _RATE))
    peaks = _qrs_peaks(signal)
    if len(peaks) < 2:
        return features
    beats, peaks = _aligned_beats(signal, peaks)
    intervals = np.diff(peaks) / _RATE
    features["heart_rate"] = 60 / intervals.mean()
    if len(intervals) > 1:
        features["rr_variation"] = intervals.std(ddof=1) / intervals.mean()
    beats = beats[_typical_beats(beats)]
    beat = _median(beats)
    start, end = _qrs_bounds(beat)
    if start is None:
        return features
    beat = beat - _level(beat, start)
    t_end = _t_end(beat, end, intervals.mean())
    p_wave = _p_wave(beats, beat, start, t_end, intervals.mean())
    features |= _intervals(start, end, t_end, p_wave, intervals.mean())
    features |= _amplitudes(beat, start, end, t_end, usable)
    features |= _axis_and_voltages(features, beat, start, end, usable)
    return {name: float(value) for name, value in features.items()}


def _without_drift(signal: np.ndarray) -> np.ndarray:
    """Remove frequencies below 0.5 Hz. The filter has zero phase, because a phase shift would tilt the ST segment."""
    centred = signal - signal.mean(axis=1, keepdims=True)
    return scipy.signal.sosfiltfilt(
        scipy.signal.butter(2, 0.5, "highpass", fs=_RATE, output="sos"), centred, axis=1, padlen=_RATE
    )


def _qrs_peaks(signal: np.ndarray) -> np.ndarray:
    """Sample numbers of the QRS peaks of a signal `(leads, samples)`."""
    try:
        import neurokit2
    except ImportError as error:
        raise ImportError('measuring ECGs requires NeuroKit2: pip install "elm-hf[features]"') from error
    smooth = scipy.signal.sosfiltfilt(scipy.signal.butter(2, 30, fs=_RATE, output="sos"), signal, axis=1)
    size = np.sqrt(np.mean(smooth**2, axis=0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # NeuroKit2 warns about signals without QRS
        found = neurokit2.ecg_findpeaks(size, sampling_rate=_RATE, method="neurokit", mindelay=0.22)
    return np.asarray(found["ECG_R_Peaks"], dtype=int)


def _aligned_beats(signal: np.ndarray, peaks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Cut out the beats and align each with the mean beat.

    Returns:
        The beats `(beats, leads, samples)`, NaN outside the record, and the sample numbers of their peaks.
    """
    before, after, most = round(_BEFORE_S * _RATE), round(_AFTER_S * _RATE), round(_ALIGN_S * _RATE)
    pad = before + after + most
    padded = np.pad(signal, ((0, 0), (pad, pad)), constant_values=np.nan)
    filled = np.nan_to_num(padded)
    around, shifts = np.arange(-most, most + 1), np.arange(-most // 2, most // 2 + 1)
    for _ in range(3):
        template = np.mean([filled[:, peak + pad + around] for peak in peaks], axis=0)
        reach = peaks[:, None] + pad + np.arange(2 * (most + most // 2) + 1) - most - most // 2
        windows = np.lib.stride_tricks.sliding_window_view(filled[:, reach], len(around), axis=-1)
        fits = np.einsum("lbsw,lw->bs", windows[:, :, : len(shifts)], template)
        peaks = peaks + shifts[np.argmax(fits, axis=1)]
    peaks = np.unique(peaks)
    return np.stack([padded[:, peak + pad - before : peak + pad + after] for peak in peaks]), peaks


def _typical_beats(beats: np.ndarray) -> np.ndarray:
    """Mask of the beats whose QRS resembles the median QRS; it excludes extrasystoles."""
    centre = round(_BEFORE_S * _RATE)
    window = np.nan_to_num(beats[:, :, centre - 40 : centre + 60]).reshape(len(beats), -1)
    median = np.median(window, axis=0)
    norms = np.linalg.norm(window, axis=1) * np.linalg.norm(median)
    alike = window @ median > 0.8 * norms
    return alike if alike.any() else np.ones(len(beats), bool)


def _median(beats: np.ndarray) -> np.ndarray:
    """The median beat `(leads, samples)`, NaN where all beats are outside the record."""
    number = np.isfinite(beats[:, 0]).sum(axis=0)  # valid beats at each sample; NaN are sorted to the end
    middle = np.stack([np.maximum(number - 1, 0) // 2, number // 2])
    ranked = np.sort(beats, axis=0)
    samples = np.arange(beats.shape[2])
    return ranked[np.minimum(middle, len(beats) - 1), :, samples].mean(axis=0).T


def _qrs_bounds(beat: np.ndarray) -> tuple[int | None, int | None]:
    """First and last sample of QRS in a beat `(leads, samples)`, by spatial velocity; None if it is flat."""
    centre = round(_BEFORE_S * _RATE)
    velocity = scipy.signal.savgol_filter(np.nan_to_num(beat), 9, 2, deriv=1, axis=1)
    speed = np.sqrt(np.sum(velocity**2, axis=0))
    top = speed[centre - 40 : centre + 60].max()
    if top == 0:
        return None, None
    before = _first_quiet(speed[: centre + 1][::-1], top)
    after = _first_quiet(speed[centre:], top)
    return centre - before, centre + after


def _first_quiet(speed: np.ndarray, top: float) -> int:
    """Number of samples from the R peak to where the speed stays at the level of the segment next to QRS."""
    span = speed[:110]
    window = np.lib.stride_tricks.sliding_window_view(span, 8).max(axis=1)
    quiet = max(_QRS_SHARE * top, _QRS_NOISE * window[10:].min() / 1.5)
    return int(np.argmax(window < quiet)) if (window < quiet).any() else int(np.argmin(window))


def _level(beat: np.ndarray, start: int) -> np.ndarray:
    """The level of each lead just before QRS, `(leads, 1)`."""
    return np.nanmean(beat[:, max(start - 8, 0) : start], axis=1, keepdims=True)


def _component(beat: np.ndarray) -> np.ndarray:
    """First principal component over the leads, `(samples,)`, with its larger deflection positive."""
    weights = np.linalg.svd(beat, full_matrices=False)[0][:, 0]
    component = weights @ beat
    return component * np.sign(component[np.argmax(np.abs(component))])


def _smooth(beat: np.ndarray) -> np.ndarray:
    return scipy.signal.savgol_filter(beat, 25, 2, axis=-1)


def _t_end(beat: np.ndarray, end: int, rr_s: float) -> int | None:
    """Sample at which T ends; None if it cannot be found."""
    centre = round(_BEFORE_S * _RATE)
    first = end + round(0.06 * _RATE)
    last = min(beat.shape[1], centre + round(0.75 * rr_s * _RATE))
    stretch = beat[:, first:last]
    stretch = stretch[:, np.isfinite(stretch).all(axis=0)]
    if stretch.shape[1] < 50:
        return None
    wave = _component(_smooth(stretch))
    peak = int(np.argmax(wave[5:-5])) + 5
    crossing = _tangent_foot(wave[peak:], 0.0)
    return None if crossing is None else min(first + peak + crossing, beat.shape[1])


def _tangent_foot(falling: np.ndarray, level: float) -> int | None:
    """Number of samples from the peak of a wave to where the tangent at its steepest descent reaches `level`."""
    slope = np.gradient(falling)
    valley = int(np.argmin(falling))
    if valley < 4:
        return None
    steepest = int(np.argmin(slope[: valley + 1]))
    if slope[steepest] >= 0:
        return None
    return int(round(steepest + (falling[steepest] - level) / -slope[steepest]))


def _p_wave(beats: np.ndarray, beat: np.ndarray, start: int, t_end: int | None, rr_s: float) -> tuple[int, int] | None:
    """First and last sample of P; None if the beats have no common P wave, as in atrial fibrillation."""
    period = round(rr_s * _RATE)
    first = max(0, (t_end or start) - period - 10)
    stretch = slice(first, start)
    whole = beats[np.isfinite(beats[:, :, stretch]).all(axis=(1, 2))][:, :, stretch]
    if start - first < 40 or len(whole) < 2 or not _is_shared(whole):
        return None
    wave = _component(_smooth(beat[:, stretch]))
    found, shape = scipy.signal.find_peaks(wave, prominence=0.02, width=8)
    if not len(found):
        return None
    peak = int(found[np.argmax(shape["prominences"])])
    rise, fall = wave[: peak + 1][::-1], wave[peak:]
    onset, offset = _tangent_foot(rise, max(rise.min(), 0)), _tangent_foot(fall, max(fall.min(), 0))
    if onset is None or offset is None or not 0.04 < (onset + offset) / _RATE < 0.18:
        return None
    return first + peak - onset, min(first + peak + offset, start)


def _is_shared(stretches: np.ndarray) -> bool:
    """Whether the medians of the even and of the odd beats `(beats, leads, samples)` are similar."""
    halves = [_smooth(np.median(stretches[half::2], axis=0)) for half in (0, 1)]
    even, odd = (half - half.mean(axis=1, keepdims=True) for half in halves)
    return bool(np.sum(even * odd) > 0.6 * np.linalg.norm(even) * np.linalg.norm(odd))


def _intervals(start: int, end: int, t_end: int | None, p_wave: tuple[int, int] | None, rr_s: float) -> dict:
    ms = 1000 / _RATE
    features = {"qrs_ms": (end - start) * ms}
    if t_end is not None:
        features["qt_ms"] = (t_end - start) * ms
        features["qtc_ms"] = features["qt_ms"] / np.sqrt(rr_s)
    if p_wave is not None:
        features |= {"p_ms": (p_wave[1] - p_wave[0]) * ms, "pr_ms": (start - p_wave[0]) * ms}
    return features


def _amplitudes(beat: np.ndarray, start: int, end: int, t_end: int | None, leads: list[str]) -> dict[str, float]:
    """The features of each lead, with keys such as `q_ms_V1`."""
    features = {}
    after_t = t_end or beat.shape[1]
    for lead, row in zip(leads, beat):
        qrs = row[start : end + 1]
        values = {"r_mv": max(qrs.max(), 0), "s_mv": max(-qrs.min(), 0)}
        values["q_ms"], values["q_mv"] = _q_wave(qrs)
        values["st_mv"] = row[end + round(_ST_S * _RATE)]
        t_wave = row[end + round(0.08 * _RATE) : after_t]
        if t_wave.size:
            values["t_mv"] = t_wave[int(np.nanargmax(np.abs(t_wave)))]
        features |= {f"{name}_{lead}": value for name, value in values.items()}
    return features


def _q_wave(qrs: np.ndarray) -> tuple[float, float]:
    """Duration in ms and depth in mV of the initial negative wave of QRS; 0 if QRS starts positive."""
    beyond = np.flatnonzero(np.abs(qrs) > max(0.03, 0.05 * np.abs(qrs).max()))
    if not beyond.size or qrs[beyond[0]] > 0:
        return 0.0, 0.0
    after = np.flatnonzero(qrs[beyond[0] :] >= 0)
    length = after[0] if after.size else len(qrs) - beyond[0]
    return float(beyond[0] + length) * 1000 / _RATE, float(-qrs[beyond[0] : beyond[0] + length].min())


def _axis_and_voltages(features: dict[str, float], beat: np.ndarray, start: int, end: int, leads: list[str]) -> dict:
    """The features that combine several leads; NaN if one of them is missing."""
    # Areas between QRS and the line from the level before QRS to the level at its end.
    slope = np.linspace(0, 1, end + 1 - start)
    areas = {lead: np.sum(row[start : end + 1] - slope * row[end]) for lead, row in zip(leads, beat)}
    found = {
        "sokolow_mv": features["s_mv_V1"] + max(features["r_mv_V5"], features["r_mv_V6"]),
        "cornell_mv": features["r_mv_aVL"] + features["s_mv_V3"],
    }
    if {"I", "aVF"} <= areas.keys():
        found["axis_deg"] = np.rad2deg(np.arctan2(areas["aVF"] * 2 / np.sqrt(3), areas["I"]))
    return found


def feature_matrix(measured: Sequence[Mapping[str, float]]) -> np.ndarray:
    """
    Return the features of several ECGs as a matrix `(ECGs, columns)` for comparisons. The axis is given by its cosine
    and sine, because 179 and -179 degrees are neighbours. A missing feature is NaN.

    Args:
        measured: features of each ECG as returned by `measure_ecg`.
    """
    values = np.array([[one.get(name, np.nan) for name in FEATURES] for one in measured], dtype=np.float64)
    axis = np.deg2rad(values[:, FEATURES.index("axis_deg")])
    others = np.delete(values, FEATURES.index("axis_deg"), axis=1)
    return np.column_stack([others, np.cos(axis), np.sin(axis)])
