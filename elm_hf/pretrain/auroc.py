"""Macro AUROC of multi-label classifiers."""

import numpy as np

from elm_hf.utils.auroc import weighted_auroc


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
        each = [weighted_auroc(targets[rows, one] > 0, scores[rows, one], weights[:, rows]) for one in classes]
        each = np.array(each).reshape(len(classes), len(weights))
        judged = ~np.isnan(each)
        total = np.where(judged, each, 0).sum(axis=0)
        macro[task] = np.divide(total, judged.sum(axis=0), out=np.full(len(weights), np.nan), where=judged.any(axis=0))
    return macro
