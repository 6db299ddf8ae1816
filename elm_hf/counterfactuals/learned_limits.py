"""
Psychometric curves: the share of "yes" against the value of a measurement, and the limit that a model has learned, the
value from which on it says "yes" more often than "no".
"""

import numpy as np

from elm_hf.scoring.intervals import LEAST_PATIENTS


NUM_RESAMPLES = 1000
# Answers count as always the same if at least this share of them is.
ALWAYS = 0.95
# A limit is stated if it is inside the swept range in at least this share of the resamples.
SETTLED = 0.9
_STEPS = 60
_LONGEST_STEP = 2.0

# Verdicts of a curve.
LIMIT, CONSTANT, UNRELATED, REVERSED, BEYOND = ("limit", "constant", "unrelated", "reversed", "beyond")
FEW = "few patients"


def fit_curves(values: np.ndarray, yes: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Fit logistic curves with Firth's penalty (Biometrika 1993, 80:27), which keeps the slope finite where all answers below
    a value are "no" and all above it "yes".

    Args:
        values: of the measurement, `(values,)`, at least two different ones.
        yes: number of answers "yes" at each value, `(curves, values)`; may be fractional.
        asked: number of answers at each value, of the same shape.

    Returns:
        The value at which "yes" and "no" are equally probable, and the slope of the log-odds per unit there, each
        `(curves,)`. The value may be far outside the range.
    """
    middle, half = (values.max() + values.min()) / 2, (values.max() - values.min()) / 2
    design = np.stack([np.ones(len(values)), (values - middle) / half])  # (2, values)
    coefficients = np.zeros((len(yes), 2))
    for _ in range(_STEPS):
        share = 1 / (1 + np.exp(-np.clip(coefficients @ design, -30, 30)))
        weight = asked * share * (1 - share)
        covariance = np.linalg.inv(np.einsum("rv,iv,jv->rij", weight, design, design) + 1e-9 * np.eye(2))
        leverage = weight * np.einsum("iv,rij,jv->rv", design, covariance, design)
        score = (yes - asked * share + leverage * (0.5 - share)) @ design.T
        step = np.einsum("rij,rj->ri", covariance, score)
        coefficients += step * np.minimum(
            1, _LONGEST_STEP / np.maximum(np.abs(step).max(axis=1, keepdims=True), 1e-12)
        )
        if np.abs(step).max() < 1e-4:
            break
    with np.errstate(divide="ignore", invalid="ignore"):
        limits = middle - half * coefficients[:, 0] / coefficients[:, 1]
    return limits, coefficients[:, 1] / half


def learned_limit(values: np.ndarray, says_yes: np.ndarray, is_above: bool, seed: int = 0) -> dict:
    """
    The limit that answers show, with a 95 % interval from a bootstrap over patients.

    Args:
        values: of the measurement in rising order, `(values,)`.
        says_yes: whether the answer is that the finding is there, bool `(patients, values)`.
        is_above: whether the finding is there above its limit, or below it.
        seed: random seed of the bootstrap.

    Returns:
        `verdict`: `"limit"`; or why there is none: `"constant"` (nearly all answers are the same), `"unrelated"` (they do
        not change with the value), `"reversed"` (they change in the wrong direction), `"beyond"` (they change, but "yes" and
        "no" are not equally frequent at a value inside the range that has been asked about, or it is uncertain whether they are),
        `"few patients"` (fewer than six, of whom resamples say nothing: there may be a limit, but no interval).
        `limit`, `low`, `high`, and `width`, the distance from 25 % to 75 %: None without a limit.
        `curve`: limit and slope of the fitted curve, for drawing; None for constant answers.
    """
    found = {"verdict": CONSTANT, **dict.fromkeys(("limit", "low", "high", "width", "curve"))}
    if not 1 - ALWAYS < says_yes.mean() < ALWAYS:
        return found
    patients = len(says_yes)
    drawn = np.random.default_rng(seed).multinomial(patients, np.full(patients, 1 / patients), NUM_RESAMPLES)
    yes = np.concatenate([says_yes.sum(axis=0, keepdims=True), drawn @ says_yes]).astype(float)
    limits, slopes = fit_curves(values, yes, np.full(yes.shape, float(patients)))
    found["curve"] = {"limit": float(limits[0]), "slope": float(slopes[0])}
    rising = slopes if is_above else -slopes
    if patients < LEAST_PATIENTS:
        is_inside = rising[0] > 0 and values[0] <= limits[0] <= values[-1]
        return found | {"verdict": FEW} | ({"limit": float(limits[0])} if is_inside else {})
    low, high = np.percentile(rising[1:], (2.5, 97.5))
    if high < 0:
        return found | {"verdict": REVERSED}
    if low <= 0:
        return found | {"verdict": UNRELATED}
    inside = (limits >= values[0]) & (limits <= values[-1])
    if not inside[0] or inside[1:].mean() < SETTLED:
        return found | {"verdict": BEYOND}
    low, high = np.clip(np.percentile(limits[1:], (2.5, 97.5)), values[0], values[-1])
    width = 2 * np.log(3) / abs(slopes[0])
    # Answers that all change between the same two values say no more than that the limit is between these.
    place = np.searchsorted(values, limits[0])
    if width < values[place] - values[place - 1]:
        low, high = min(low, values[place - 1]), max(high, values[place])
    ends = {"limit": float(limits[0]), "low": float(low), "high": float(high), "width": float(width)}
    return found | {"verdict": LIMIT} | ends
