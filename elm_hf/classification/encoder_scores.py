"""Scores of multi-label classification: the AUROC of each class, and the mean over the classes of each task."""

import numpy as np

from elm_hf.classification.zero_shot_scores import auroc_support
from elm_hf.data.label_tasks import LabelTasks
from elm_hf.scoring.intervals import PatientBootstrap
from elm_hf.scoring.scores import average_support, score_entry
from elm_hf.utils.auroc import class_aurocs, mean_of_classes, records_of_task


def task_scores(scores: np.ndarray, targets: np.ndarray, tasks: LabelTasks, bootstrap: PatientBootstrap) -> dict:
    """
    Macro AUROC of each task and AUROC of each of its classes, as [`macro_aurocs`], with intervals.

    A class that all or none of a task's ECGs have is left out of the mean; so is, in a resample, a class of which it has
    no ECG.

    Args:
        scores: `(ecgs, classes)`, higher where a class is likelier.
        targets: `(ecgs, classes)` of 0 and 1.
        tasks: the tasks.
        bootstrap: bootstrap over the patients of the ECGs.

    Returns:
        For each task `macro_auroc`, the number of `ecgs`, `patients` and `judged` classes, and `classes`, the AUROC and
        number of ECGs of each class.
    """
    weights = np.concatenate([np.ones((1, len(scores))), bootstrap.question_weights()])
    return {
        task: _scores_of_task(scores, targets, classes, tasks.classes, weights, bootstrap)
        for task, classes in tasks.tasks.items()
    }


def _scores_of_task(
    scores: np.ndarray,
    targets: np.ndarray,
    classes: list[int],
    names: list[str],
    weights: np.ndarray,
    bootstrap: PatientBootstrap,
) -> dict:
    rows = records_of_task(targets, classes)
    member = targets[np.ix_(rows, classes)] > 0
    each = class_aurocs(scores[np.ix_(rows, classes)], member, weights[:, rows])
    supports = [auroc_support(rows[inside], rows[~inside], bootstrap) for inside in member.T]
    judged = np.flatnonzero(~np.isnan(each[:, 0]))
    num_patients = bootstrap.count_patients(rows)
    of_judged = [supports[place].patients for place in judged] or [0]
    of_classes = {
        names[number]: score_entry(each[place], supports[place]) | {"ecgs": int(member[:, place].sum())}
        for place, number in enumerate(classes)
    }
    return {
        "macro_auroc": score_entry(mean_of_classes(each), average_support(of_judged, num_patients, len(rows))),
        "ecgs": len(rows),
        "patients": num_patients,
        "judged": len(judged),
        "classes": of_classes,
    }
