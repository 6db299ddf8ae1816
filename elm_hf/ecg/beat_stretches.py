"""The stretches of each beat of simulated hearts (P, QRS, ST-T, TP), exchanged between two hearts that beat together."""

import numpy as np

from elm_hf.ecg.counterfactuals import Heart, beat_onsets, simulate_heart
from elm_hf.ecg.simulated_waves import bump
from elm_hf.modeling.ecg_leads import SAMPLING_RATE


# From the onset of P to QRS, QRS, from the J point to the end of T, and from there to the next P wave.
STRETCHES = ("P", "QRS", "ST-T", "TP")
# Within this time around a boundary, one heart's signal fades into the other's.
_FADE_S = 0.02
# How far the boundaries are from the onsets of P and QRS, the J point and the end of T, so that each wave is wholly inside its
# stretch and the ST segment, which begins at the J point, in that of T.
_SHIFTS_S = (-0.02, -0.015, -0.01, 0.03)


def stretch_weights(
    onsets: np.ndarray, pr_s: float, qrs_s: float, qt_s: float, samples: int, sampling_rate: int
) -> np.ndarray:
    """
    How much each sample belongs to each stretch.

    Args:
        onsets: onsets of QRS in seconds, `(beats,)`, with a beat before and after the ECG.
        pr_s, qrs_s, qt_s: the intervals in seconds.
        samples, sampling_rate: of the ECG.

    Returns:
        `(4, samples)` between 0 and 1, in the order of `STRETCHES`; at each sample between two beats they sum to 1.
    """
    time = np.arange(samples) / sampling_rate
    starts = [onsets + offset + shift for offset, shift in zip((-pr_s, 0.0, qrs_s, qt_s), _SHIFTS_S)]
    # The T wave of a beat ends before the P wave of the next one, and the first TP stretch begins before the record.
    starts[3] = np.minimum(starts[3], np.append(starts[0][1:], np.inf))
    ends = [*starts[1:], np.append(starts[0][1:], np.inf)]
    return np.stack([(_step(time, start) - _step(time, end)).sum(axis=0) for start, end in zip(starts, ends)])


def _step(time: np.ndarray, places: np.ndarray) -> np.ndarray:
    """0 before and 1 after each of some places, with a smooth rise between: `(places, samples)`."""
    return 1 - bump(((time - places[:, None]) / _FADE_S + 0.5).clip(0, 1))


def exchange_stretch(heart: Heart, other: Heart, stretch: str, seconds: float = 10.0) -> np.ndarray:
    """
    The ECG of a heart in which a stretch of every beat is that of another heart. The limb-lead identities hold.

    Args:
        heart, other: hearts with the same seed and rate in sinus rhythm, whose beats come at the same times.
        stretch: one of `STRETCHES`.
        seconds: length in seconds.

    Raises:
        ValueError: the hearts do not beat at the same times.
    """
    if heart.seed != other.seed or heart.findings.heart_rate != other.findings.heart_rate or heart.irregular:
        raise ValueError("stretches can be exchanged between regular hearts with the same seed and rate only")
    both = heart.findings, other.findings
    intervals = (max(getattr(findings, name) for findings in both) / 1000 for name in ("pr_ms", "qrs_ms", "qt_ms"))
    own, others = simulate_heart(heart, seconds), simulate_heart(other, seconds)
    weights = stretch_weights(beat_onsets(heart, seconds), *intervals, own.shape[1], SAMPLING_RATE)
    weight = weights[STRETCHES.index(stretch)].astype(np.float32)
    return own + weight * (others - own)
