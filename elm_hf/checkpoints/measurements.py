"""The measured values that a new model reads, with typical values by which they are scaled."""

from collections.abc import Sequence

from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.modeling.ecg_measurements import FEATURES, GENERAL_FEATURES, LEAD_FEATURES, NOISE_FEATURES


ALL, GENERAL, NOISE = "all", "general", "noise"
# A value of a healthy adult at rest, and a deviation that is common in patients. They only bring the numbers to one scale;
# the model learns what they mean.
_SCALES = {
    "heart_rate": (75.0, 25.0),
    "rr_variation": (0.05, 0.05),
    "longest_rr_s": (0.9, 0.4),
    "premature_beats": (0.0, 1.0),
    "premature_beats_of_other_shape": (0.0, 1.0),
    "atrial_fibrillation": (0.0, 1.0),
    "paced": (0.0, 1.0),
    "p_ms": (105.0, 20.0),
    "pr_ms": (160.0, 30.0),
    "qrs_ms": (95.0, 20.0),
    "qt_ms": (390.0, 40.0),
    "qtc_ms": (415.0, 30.0),
    "axis_deg": (0.0, 180.0),  # an angle, which is not scaled
    "sokolow_mv": (2.0, 0.8),
    "cornell_mv": (1.2, 0.6),
    "limb_voltage_mv": (1.2, 0.5),
    "chest_voltage_mv": (2.0, 0.8),
    "q_ms": (10.0, 15.0),
    "q_mv": (0.05, 0.1),
    "r_ms": (45.0, 20.0),
    "r_mv": (0.8, 0.6),
    "s_mv": (0.5, 0.5),
    "st_mv": (0.0, 0.1),
    "t_mv": (0.2, 0.25),
    "p_mv": (0.1, 0.06),
    "noise_mv": (0.008, 0.005),
    "baseline_drift_mv": (0.4, 0.4),
}


def scaled_measurements(names: Sequence[str]) -> dict[str, list]:
    """
    The measured values that a model reads: the fields `measurements` and `measurement_scales` of `ElmConfig`.

    Args:
        names: names of values, such as `"qrs_ms"` or `"st_mv_V2"`; `"general"` for all of the beats that are not of a single
            lead; `"noise"` for those of noise; such as `"st_mv"` for those of all leads; or `"all"`.

    Raises:
        ValueError: there is no such value, or it is named twice.
    """
    groups = {one: [f"{one}_{lead}" for lead in LEADS] for one in LEAD_FEATURES}
    groups |= {ALL: FEATURES, GENERAL: GENERAL_FEATURES, NOISE: NOISE_FEATURES}
    chosen = [value for name in names for value in groups.get(name, [name])]
    unknown = [name for name in chosen if name not in FEATURES]
    if unknown:
        raise ValueError(
            f"--measurements: there is no {', '.join(unknown)}; there are {ALL}, {GENERAL}, {', '.join(GENERAL_FEATURES)}, {NOISE}, "
            f"{', '.join(NOISE_FEATURES)}, and for one lead (st_mv_V2) or all (st_mv) {', '.join(LEAD_FEATURES)}."
        )
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"--measurements names a value twice: {', '.join(names)}.")
    scales = [list(_SCALES[name] if name in _SCALES else _SCALES[name.rpartition("_")[0]]) for name in chosen]
    return {"measurements": chosen, "measurement_scales": scales}
