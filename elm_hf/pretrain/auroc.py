"""Macro AUROC of multi-label classifiers, with intervals over patients."""

from collections.abc import Sequence

import numpy as np


NUM_RESAMPLES = 1000
CONFIDENCE = 0.95
_CHUNK = 100


def macro_aurocs(
    scores: np.ndarray, targets: np.ndarray, tasks: dict[str, list[int]], weights: np.ndarray | None = None
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
        rows = np.flatnonzero(targets[:, classes].any(axis=1))
        each = [_auroc(scores[rows, number], targets[rows, number], weights[:, rows]) for number in classes]
        each = np.array(each).reshape(len(classes), len(weights))
        judged = ~np.isnan(each)
        total = np.where(judged, each, 0).sum(axis=0)
        macro[task] = np.divide(total, judged.sum(axis=0), out=np.full(len(weights), np.nan), where=judged.any(axis=0))
    return macro


def macro_auroc_intervals(
    scores: np.ndarray, targets: np.ndarray, tasks: dict[str, list[int]], patients: Sequence[str], seed: int = 0
) -> dict[str, dict]:
    """
    Macro AUROC of each task with its 95 % interval: the percentiles of 1,000 resamples of patients with all of their
    records.

    Args:
        scores, targets, tasks: see [`macro_aurocs`].
        patients: patient of each record.
        seed: random seed of the resamples.

    Returns:
        For each task `auroc`, `interval`, `classes` (how many are judged), `records` and `patients`.
    """
    names, patient_of = np.unique(np.asarray(patients), return_inverse=True)
    point = macro_aurocs(scores, targets, tasks)
    rng = np.random.default_rng(seed)
    samples: dict[str, list[np.ndarray]] = {task: [] for task in tasks}
    for _ in range(0, NUM_RESAMPLES, _CHUNK):
        drawn = rng.integers(0, len(names), (_CHUNK, len(names)))
        weights = np.stack([np.bincount(draw, minlength=len(names)) for draw in drawn])[:, patient_of]
        for task, values in macro_aurocs(scores, targets, tasks, weights.astype(np.float32)).items():
            samples[task].append(values)
    tail = 50 * (1 - CONFIDENCE)
    results = {}
    for task, classes in tasks.items():
        rows = np.flatnonzero(targets[:, classes].any(axis=1))
        share = targets[rows][:, classes].mean(axis=0)
        low, high = np.nanpercentile(np.concatenate(samples[task]), [tail, 100 - tail])
        results[task] = {
            "auroc": float(point[task][0]),
            "interval": [float(low), float(high)],
            "classes": int(((share > 0) & (share < 1)).sum()),
            "records": len(rows),
            "patients": len(np.unique(patient_of[rows])),
        }
    return results


def _auroc(scores: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """
    The area under the ROC curve for each row of weights: the share of pairs of a positive and a negative record in
    which the positive one has the higher score; equal scores count half.
    """
    order = np.argsort(scores, kind="stable")
    ordered, positive = scores[order], targets[order] > 0
    weights = weights[:, order]
    ties = np.flatnonzero(np.diff(ordered, prepend=np.nan) != 0)  # the first of each run of equal scores
    positives = np.add.reduceat(weights * positive, ties, axis=1)
    negatives = np.add.reduceat(weights * ~positive, ties, axis=1)
    below = np.cumsum(negatives, axis=1) - negatives
    pairs = positives.sum(axis=1) * negatives.sum(axis=1)
    won = (positives * (below + negatives / 2)).sum(axis=1)
    return np.divide(won, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)
