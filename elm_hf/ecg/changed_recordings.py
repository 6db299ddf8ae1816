"""Recorded ECGs that are changed in one thing: their voltage, or the ST segment between the J point and the end of T."""

import numpy as np

from elm_hf.ecg.simulated_waves import ST_PATTERNS, bump
from elm_hf.ecg.simulation import twelve_leads
from elm_hf.modeling.ecg_delineation import BEFORE, RATE, delineate
from elm_hf.modeling.ecg_leads import LEADS, is_flat, limb_lead_error
from elm_hf.modeling.ecg_measurements import measure_ecg
from elm_hf.modeling.ecg_resampling import resample


# I, II and V1 ... V6 among the twelve leads; the others follow from I and II.
INDEPENDENT = [0, 1, *range(6, 12)]
# The added level rises before the J point, stays to this share of the time from J to the end of T, and then falls.
_RISE_S, _LEVEL_SHARE = 0.03, 0.5
# The leads in which the level of a territory is read: the second highest of them, as contiguous leads need it.
TERRITORY_LEADS = {"anterior": ("V2", "V3"), "inferior": ("II", "aVF", "III"), "lateral": ("I", "aVL", "V5", "V6")}


def with_voltage(ecg: np.ndarray, features: dict[str, float], sokolow_mv: float) -> np.ndarray:
    """
    Scale an ECG to a Sokolow-Lyon voltage.

    Args:
        ecg: `(12, samples)` in mV.
        features: its measurements.
        sokolow_mv: the wanted voltage in mV.
    """
    return (ecg * (sokolow_mv / features["sokolow_mv"])).astype(np.float32)


def territory_level(features: dict[str, float], territory: str) -> float:
    """The ST level of a territory in mV: that of the second most elevated of its leads."""
    return sorted(features[f"st_mv_{lead}"] for lead in TERRITORY_LEADS[territory])[-2]


def with_st_level(
    ecg: np.ndarray, sampling_rate: float, features: dict[str, float], territory: str, st_mv: float
) -> np.ndarray:
    """
    Raise the ST segment of a territory in each beat, with the reciprocal changes of the other leads.

    Args:
        ecg: `(12, samples)` in mV, all leads present.
        sampling_rate: in Hz.
        features: its measurements.
        territory: `"anterior"`, `"inferior"` or `"lateral"`.
        st_mv: the wanted level of the territory in mV.

    Raises:
        ValueError: the ECG has no beats with a T wave.
    """
    found = delineate(resample(ecg.astype(np.float64), sampling_rate, RATE), INDEPENDENT)
    if found is None or found.qrs is None or found.t is None:
        raise ValueError("the ST segment cannot be changed: no beats with a T wave were found")
    change = st_mv - territory_level(features, territory)
    time = np.arange(ecg.shape[1]) / sampling_rate
    j_points = (found.centres - BEFORE + found.qrs[1]) / RATE
    length = (found.t[1] - found.qrs[1]) / RATE
    since = time - j_points[:, None]
    falling = (since - _LEVEL_SHARE * length) / ((1 - _LEVEL_SHARE) * length)
    shape = np.where(since < 0, bump(np.abs(since) / _RISE_S), bump(falling.clip(0, 1))).max(axis=0, initial=0.0)
    added = twelve_leads(np.outer(change * ST_PATTERNS[territory], shape))
    return (ecg + added).astype(np.float32)


def suits_changes(ecg: np.ndarray, sampling_rate: float) -> dict[str, float] | None:
    """
    The measurements of an ECG that is normal in what is changed: all leads present and the limb leads consistent, a usual rate,
    no wide QRS complex, no fibrillation, a normal axis, a low voltage and a level ST segment. None for any other ECG.

    Args:
        ecg: `(12, samples)` in mV, NaN where invalid.
        sampling_rate: in Hz.
    """
    if not np.isfinite(ecg).all() or any(is_flat(lead) for lead in ecg) or limb_lead_error(ecg) is not None:
        return None
    found = measure_ecg(ecg, sampling_rate)
    levels = [found[f"st_mv_{lead}"] for lead in LEADS]
    suits = (
        50 <= found["heart_rate"] <= 100
        and found["qrs_ms"] < 115
        and not found["atrial_fibrillation"]
        and 10 <= found["axis_deg"] <= 75
        and 1.2 <= found["sokolow_mv"] <= 3.2
        and np.abs(levels).max() < 0.1
        and np.isfinite(found["qt_ms"])
    )
    return found if suits else None
