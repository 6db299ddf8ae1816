"""What ECG-Byte's letters keep of the voltages that cardiologists measure: QRS peaks, ST level, hypertrophy criterion."""

from collections.abc import Iterable

import numpy as np
from scipy.signal import find_peaks

from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.modeling.tokenization_ecg_byte import EcgByteTokenizer


SOKOLOW_LYON_MV = 3.5  # limit of S in V1 + R in V5 or V6 (Sokolow and Lyon 1949)
# Seconds.
QRS_HALF_WIDTH, ST_AFTER, ST_WIDTH = 0.06, 0.12, 0.02
SMOOTHING, MIN_BEAT_DISTANCE = 0.08, 0.3
# Share of the 99th percentile of the smoothed velocity that a QRS complex reaches.
MIN_VELOCITY = 0.4


def measure_voltage(
    tokenizer: EcgByteTokenizer, ecgs: Iterable[np.ndarray], sampling_rate: float
) -> dict[str, float | int | None]:
    """
    Compares the voltages of ECGs with those that their tokens represent.

    Args:
        tokenizer: a tokenizer with a `value_range`.
        ecgs: arrays `(12, samples)` in mV in the order of `LEADS`; missing leads are NaN.
        sampling_rate: sampling rate in Hz.

    Returns:
        `num_qrs` (QRS complexes), `qrs_clipped` (share of them that leave the range in a lead), `peak_error_uv` and
        `st_error_uv` (median of the absolute error of each lead's largest deflection in a QRS complex, and of the mean
        of 20 ms about 120 ms after it; µV), `num_tall` (ECGs with a Sokolow-Lyon voltage above 3.5 mV) and `tall_kept`
        (share of them that are above it after decoding). What no ECG has is None.
    """
    low, high = tokenizer.value_range
    clipped, peak_errors, st_errors, kept = [], [], [], []
    for ecg in ecgs:
        present = ~np.isnan(ecg[:, 0])
        if not present.any():
            continue
        decoded = np.full(ecg.shape, np.nan, np.float32)
        ids = tokenizer.encode_ecg(np.clip(ecg[present], low, high))
        decoded[present] = tokenizer.decode_ecg(ids, num_leads=int(present.sum()))
        beats = find_qrs(ecg[present], sampling_rate)
        for peak in beats:
            qrs = _qrs(ecg[present], peak, sampling_rate)
            clipped.append(qrs.min() < low or qrs.max() > high)
            place = np.abs(qrs - np.median(ecg[present], axis=1, keepdims=True)).argmax(axis=1, keepdims=True)
            after = _qrs(decoded[present], peak, sampling_rate)
            peak_errors.append(np.take_along_axis(after - qrs, place, axis=1).ravel())
            st_errors.append(_st(decoded[present], peak, sampling_rate) - _st(ecg[present], peak, sampling_rate))
        before = sokolow_lyon(ecg, beats, sampling_rate)
        if before is not None and before > SOKOLOW_LYON_MV:
            kept.append(sokolow_lyon(decoded, beats, sampling_rate) > SOKOLOW_LYON_MV)
    return {
        "num_qrs": len(clipped),
        "qrs_clipped": float(np.mean(clipped)) if clipped else None,
        "peak_error_uv": _median_uv(peak_errors),
        "st_error_uv": _median_uv(st_errors),
        "num_tall": len(kept),
        "tall_kept": float(np.mean(kept)) if kept else None,
    }


def find_qrs(ecg: np.ndarray, sampling_rate: float) -> np.ndarray:
    """
    Finds QRS complexes, which are where all leads together change fastest.

    Args:
        ecg: array `(leads, samples)` in mV without NaN.
        sampling_rate: sampling rate in Hz.

    Returns:
        The middle of each complex as a sample number; complexes that are cut off at an end are left out.
    """
    velocity = np.sqrt(np.square(np.diff(ecg, axis=1)).sum(axis=0))
    width = max(round(SMOOTHING * sampling_rate), 1)
    smooth = np.convolve(velocity, np.ones(width) / width, mode="same")
    height = MIN_VELOCITY * np.percentile(smooth, 99)
    if height <= 0:
        return np.empty(0, dtype=int)
    peaks, _ = find_peaks(smooth, height=height, distance=max(round(MIN_BEAT_DISTANCE * sampling_rate), 1))
    last = ecg.shape[1] - round((ST_AFTER + ST_WIDTH) * sampling_rate)
    return peaks[(peaks >= round(QRS_HALF_WIDTH * sampling_rate)) & (peaks < last)]


def sokolow_lyon(ecg: np.ndarray, beats: np.ndarray, sampling_rate: float) -> float | None:
    """
    The Sokolow-Lyon voltage: depth of S in V1 plus the height of R in V5 or V6, whichever is higher; medians of beats.

    Args:
        ecg: array `(12, samples)` in mV in the order of `LEADS`.
        beats: result of [`find_qrs`].
        sampling_rate: sampling rate in Hz.

    Returns:
        The voltage in mV; None without beats or without one of the leads.
    """
    rows = [LEADS.index(lead) for lead in ("V1", "V5", "V6")]
    if not len(beats) or np.isnan(ecg[rows, 0]).any():
        return None
    complexes = np.stack([_qrs(ecg[rows], peak, sampling_rate) for peak in beats])  # (beats, leads, samples)
    depth = -np.median(complexes[:, 0].min(axis=1))
    height = np.median(complexes[:, 1:].max(axis=2), axis=0).max()
    return float(depth + height)


def _qrs(ecg: np.ndarray, peak: int, sampling_rate: float) -> np.ndarray:
    half = round(QRS_HALF_WIDTH * sampling_rate)
    return ecg[:, peak - half : peak + half + 1]


def _st(ecg: np.ndarray, peak: int, sampling_rate: float) -> np.ndarray:
    start = peak + round((ST_AFTER - ST_WIDTH / 2) * sampling_rate)
    return ecg[:, start : start + max(round(ST_WIDTH * sampling_rate), 1)].mean(axis=1)


def _median_uv(errors: list[np.ndarray]) -> float | None:
    return float(1000 * np.median(np.abs(np.concatenate(errors)))) if errors else None
