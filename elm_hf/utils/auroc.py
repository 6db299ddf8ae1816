"""The area under the ROC curve of weighted records."""

import numpy as np


def weighted_auroc(member: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """
    The probability that an ECG of the class has a higher score than another one; ties count half (Mann & Whitney 1947).

    Args:
        member: `(ecgs,)`, whether an ECG is of the class.
        scores: `(ecgs,)`.
        weights: `(resamples, ecgs)`, how often each ECG was drawn.

    Returns:
        `(resamples,)`, NaN where all ECGs or none of them are of the class.
    """
    levels, level = np.unique(scores, return_inverse=True)
    inside, outside = (
        np.stack([np.bincount(level, row, len(levels)) for row in weights * those]) for those in (member, ~member)
    )
    below = np.cumsum(outside, axis=1) - outside / 2
    with np.errstate(invalid="ignore"):
        return (inside * below).sum(axis=1) / (inside.sum(axis=1) * outside.sum(axis=1))
