"""The area under the ROC curve of weighted records, of one class and averaged over classes."""

from collections.abc import Mapping, Sequence

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


def class_aurocs(scores: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """
    Area under the ROC curve of each class, among the records that are given.

    Args:
        scores: array `(records, classes)`; any strictly increasing function of the probability.
        targets: array `(records, classes)` of 0 and 1.
        weights: array `(resamples, records)`: how often each record counts.

    Returns:
        Array `(classes, resamples)`: NaN where all records or none of them are of the class.
    """
    each = [weighted_auroc(targets[:, one] > 0, scores[:, one], weights) for one in range(targets.shape[1])]
    return np.array(each).reshape(targets.shape[1], len(weights))


def mean_of_classes(each: np.ndarray) -> np.ndarray:
    """The mean `(resamples,)` of AUROCs `(classes, resamples)` over the classes that have one; NaN where none has."""
    judged = ~np.isnan(each)
    total = np.where(judged, each, 0).sum(axis=0)
    return np.divide(total, judged.sum(axis=0), out=np.full(each.shape[1], np.nan), where=judged.any(axis=0))


def records_of_task(targets: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """Numbers of the records that a task is about: those with one of its classes (Strodthoff et al. 2020)."""
    return np.flatnonzero(targets[:, classes].any(axis=1))


def macro_aurocs(
    scores: np.ndarray, targets: np.ndarray, tasks: Mapping[str, Sequence[int]], weights: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """
    Mean area under the ROC curve of the classes of each task. As in Strodthoff et al. (2020), a task is about the
    records that have at least one of its classes; classes that all or none of these have are left out of the mean.

    Args:
        scores: array `(records, classes)`; any strictly increasing function of the probability.
        targets: array `(records, classes)` of 0 and 1.
        tasks: numbers of the classes of each task.
        weights: array `(resamples, records)`: how often each record counts. By default each counts once.

    Returns:
        Array `(resamples,)` for each task (one element without `weights`): NaN where no class can be judged.
    """
    weights = np.ones((1, len(scores))) if weights is None else weights
    macro = {}
    for task, classes in tasks.items():
        rows = records_of_task(targets, classes)
        each = class_aurocs(scores[np.ix_(rows, classes)], targets[np.ix_(rows, classes)], weights[:, rows])
        macro[task] = mean_of_classes(each)
    return macro
