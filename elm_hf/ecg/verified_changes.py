"""Changes of recorded ECGs that are measured afterwards: an ECG in which more or less has changed than it should is refused."""

from collections.abc import Collection, Mapping

import numpy as np

from elm_hf.ecg.changed_recordings import territory_level, with_st_level, with_voltage
from elm_hf.ecg.changed_rhythms import (
    Beats,
    with_fibrillatory_waves,
    with_heart_rate,
    with_irregular_beats,
    without_p_waves,
)
from elm_hf.ecg.counterfactuals import LIMB_LEADS, exchange_electrodes
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.modeling.ecg_measurements import measure_ecg


P_WAVES, NO_WAVES, F_WAVES = "P waves", "no atrial waves", "f waves"
# By how much a measurement may differ that must stay. They are below the errors of the measurements on other ECGs (docs/measurements.md),
# because an ECG is compared with itself.
MOST = {"heart_rate": 1.0, "pr_ms": 10.0, "qrs_ms": 8.0, "qt_ms": 12.0, "axis_deg": 8.0}
AMPLITUDES = tuple(f"{name}_{lead}" for name in ("r_mv", "s_mv", "st_mv") for lead in LEADS)
MOST_MV = 0.06
# By how much the measurement that is changed may miss its value.
_VOLTAGE_MV, _ST_MV = 0.1, 0.03
# The mean RR interval of an irregular rhythm is that of all intervals, of which the first and the last are cut.
_IRREGULAR_RATE = 4.0
_LEAST_VARIATION = 0.1
# The median beat has slopes before QRS that are taken for P waves although there is none. A P wave of this height is not seen.
_NO_P_MV = 0.03


def wrong_measurements(
    before: Mapping[str, float],
    after: Mapping[str, float],
    wanted: Mapping[str, tuple[float, float]],
    free: Collection[str] = (),
) -> list[str]:
    """
    Names of the measurements that a change should not have changed, or should have changed by another amount.

    Args:
        before, after: measurements of the ECG and of the changed ECG.
        wanted: value of each measurement that changes, with its tolerance; NaN for one that disappears.
        free: measurements that may change.
    """
    stays = MOST | dict.fromkeys(AMPLITUDES, MOST_MV)
    expected = {name: (before[name], most) for name, most in stays.items() if name not in free} | wanted
    return [name for name, (value, most) in expected.items() if not _is_near(after[name], value, most)]


def _is_near(value: float, wanted: float, most: float) -> bool:
    return abs(value - wanted) <= most if np.isfinite(wanted) else not np.isfinite(value)


def verified_voltage(
    ecg: np.ndarray, sampling_rate: float, features: dict[str, float], sokolow_mv: float
) -> np.ndarray | None:
    """[`with_voltage`]; None if the changed ECG does not measure as it should."""
    changed = with_voltage(ecg, features, sokolow_mv)
    found = measure_ecg(changed, sampling_rate)
    wrong = wrong_measurements(features, found, {"sokolow_mv": (sokolow_mv, _VOLTAGE_MV)}, AMPLITUDES)
    return None if wrong else changed


def verified_st_level(
    ecg: np.ndarray, sampling_rate: float, features: dict[str, float], territory: str, st_mv: float
) -> np.ndarray | None:
    """[`with_st_level`]; None if the changed ECG does not measure as it should."""
    changed = with_st_level(ecg, sampling_rate, features, territory, st_mv)
    found = measure_ecg(changed, sampling_rate)
    # A raised J point is the end of S, and turns the net area of QRS in the limb leads.
    wrong = wrong_measurements(features, found, {}, {*AMPLITUDES, "axis_deg"})
    return None if wrong or abs(territory_level(found, territory) - st_mv) > _ST_MV else changed


def verified_heart_rate(
    ecg: np.ndarray, sampling_rate: float, features: dict[str, float], beats: Beats, heart_rate: float
) -> np.ndarray | None:
    """[`with_heart_rate`]; None if it cannot be, or the changed ECG does not measure as it should."""
    try:
        changed = with_heart_rate(ecg, beats, heart_rate)
    except ValueError:
        return None
    found = measure_ecg(changed, sampling_rate)
    return None if wrong_measurements(features, found, {"heart_rate": (heart_rate, MOST["heart_rate"])}) else changed


def verified_rhythm(
    ecg: np.ndarray,
    sampling_rate: float,
    features: dict[str, float],
    beats: Beats,
    atria: str,
    irregular: bool,
    seed: int,
) -> np.ndarray | None:
    """
    An ECG with other atrial waves, and at will with irregular beats; None if it cannot be, or the changed ECG does not measure
    as it should.

    Args:
        ecg: `(12, samples)` in mV.
        sampling_rate: in Hz.
        features: its measurements.
        beats: its beats.
        atria: `P_WAVES` (its own), `NO_WAVES` or `F_WAVES` (simulated ones).
        irregular: whether the beats are as irregular as in atrial fibrillation.
        seed: random seed of the intervals and the f waves.
    """
    changed = ecg if atria == P_WAVES else without_p_waves(ecg, beats)
    if irregular:
        try:
            changed = with_irregular_beats(changed, beats, seed)
        except ValueError:
            return None
    if atria == F_WAVES:
        changed = with_fibrillatory_waves(changed, sampling_rate, seed)
    found = measure_ecg(changed, sampling_rate)
    wanted = {"atrial_fibrillation": (float(irregular and atria != P_WAVES), 0.0)}
    free = {"pr_ms"} if atria == NO_WAVES else set()
    if irregular:
        wanted["heart_rate"] = (features["heart_rate"], _IRREGULAR_RATE)
    if atria == F_WAVES:  # they lie on QRS and T, too, which are the same underneath
        wanted["pr_ms"] = (np.nan, 0.0)
        free = {*AMPLITUDES, "qt_ms", "axis_deg"}
    wrong = wrong_measurements(features, found, wanted, free)
    if atria == NO_WAVES and highest_p_mv(found) > _NO_P_MV:
        return None
    varies = found["rr_variation"] >= _LEAST_VARIATION
    return None if wrong or varies != irregular else changed


def highest_p_mv(features: Mapping[str, float]) -> float:
    """The height of P in the lead with the highest; 0 where no P wave is found."""
    heights = [abs(features[f"p_mv_{lead}"]) for lead in LEADS]
    return max((height for height in heights if np.isfinite(height)), default=0.0)


def verified_reversal(ecg: np.ndarray, sampling_rate: float, features: dict[str, float]) -> np.ndarray | None:
    """The ECG with the arm electrodes exchanged; None if its axis is not mirrored at the vertical."""
    changed = exchange_electrodes(ecg, "RA", "LA")
    found = measure_ecg(changed, sampling_rate)
    wanted = {"axis_deg": (180 - features["axis_deg"], MOST["axis_deg"])}
    of_limbs = {name for name in AMPLITUDES if name.split("_")[-1] in LIMB_LEADS}
    return None if wrong_measurements(features, found, wanted, of_limbs) else changed
