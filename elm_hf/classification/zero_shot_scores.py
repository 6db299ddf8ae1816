"""Scores of zero-shot classification: one class for each ECG, AUROC of each class, several classes for each ECG."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from elm_hf.classification.zero_shot_tasks import ZeroShotTask
from elm_hf.scoring.intervals import PatientBootstrap, Support
from elm_hf.scoring.scores import average_support, score_entry
from elm_hf.utils.auroc import weighted_auroc


NO_CHOICE = "(no choice)"


def classification_scores(
    truth: np.ndarray, predicted: Sequence[int | None], task: ZeroShotTask, bootstrap: PatientBootstrap
) -> dict:
    """
    Accuracy, and precision, recall and F1 of each class and averaged over the classes that occur. No choice counts as
    wrong; a class that is never predicted has precision 0.

    Args:
        truth: number of each ECG's class.
        predicted: number of the class that was chosen; None for no choice.
        task: the task.
        bootstrap: bootstrap over the patients of the ECGs.
    """
    number = len(task.classes)
    cells = np.zeros((len(truth), number * (number + 1)))
    columns = [number if choice is None else choice for choice in predicted]
    cells[np.arange(len(truth)), truth * (number + 1) + columns] = 1
    matrices = bootstrap.samples(cells, np.arange(len(truth))).reshape(-1, number, number + 1)
    occurs = matrices[0].sum(axis=1) > 0
    hits, support = np.diagonal(matrices, axis1=1, axis2=2), matrices.sum(axis=2)
    chosen = matrices.sum(axis=1)[:, :number]
    with np.errstate(invalid="ignore", divide="ignore"):
        of_class = {
            "precision": np.where(chosen > 0, hits / chosen, 0),
            "recall": hits / support,
            "f1": 2 * hits / (support + chosen),
        }
    scores = {"accuracy": hits.sum(axis=1) / support.sum(axis=1)}
    # The averages of a resample without one of the classes are not defined.
    scores |= {
        f"macro_{name}": np.where(support > 0, values, np.nan)[:, occurs].mean(axis=1)
        for name, values in of_class.items()
    }
    rows = np.arange(len(truth))
    of_classes = [bootstrap.count_patients(rows[truth == place]) for place in np.flatnonzero(occurs)]
    supports = dict.fromkeys(scores, average_support(of_classes, bootstrap.num_patients, len(truth)))
    supports["accuracy"] = Support(bootstrap.num_patients, len(truth), is_share=True)
    labels = [one.name for one in task.classes]
    per_class = {
        label: {name: float(values[0, place]) for name, values in of_class.items()} | {"ecgs": int(support[0, place])}
        for place, label in enumerate(labels)
        if occurs[place]
    }
    matrix = matrices[0].astype(int).tolist()
    return {name: score_entry(values, supports[name]) for name, values in scores.items()} | {
        "no_choice": int(matrices[0][:, -1].sum()),
        "classes": per_class,
        "absent_classes": [label for place, label in enumerate(labels) if not occurs[place]],
        "confusion": {"labels": [*labels, NO_CHOICE], "matrix": [*matrix, [0] * (number + 1)], "answers": len(truth)},
    }


def auroc_scores(member: np.ndarray, scores: np.ndarray, task: ZeroShotTask, bootstrap: PatientBootstrap) -> dict:
    """
    AUROC of each class against all other ECGs, and the mean over the classes for which it is defined.

    Args:
        member: `(ecgs, classes)`, whether an ECG is of a class.
        scores: `(ecgs, classes)`, higher where the class is likelier.
        task: names of the classes.
        bootstrap: bootstrap over the patients of the ECGs.
    """
    weights = np.concatenate([np.ones((1, len(member))), bootstrap.question_weights()])
    samples = np.stack([weighted_auroc(member[:, k], scores[:, k], weights) for k in range(len(task.classes))])
    defined = ~np.isnan(samples[:, 0])
    rows = np.arange(len(member))
    supports = [auroc_support(rows[inside], rows[~inside], bootstrap) for inside in member.T]
    classes = {
        one.name: score_entry(samples[place], supports[place]) | {"ecgs": int(member[:, place].sum())}
        for place, one in enumerate(task.classes)
    }
    of_classes = [supports[place].patients for place in np.flatnonzero(defined)]
    macro = score_entry(
        samples[defined].mean(axis=0), average_support(of_classes, bootstrap.num_patients, len(member))
    )
    return {"ecgs": len(member), "patients": bootstrap.num_patients, "macro_auroc": macro, "classes": classes}


def auroc_support(inside: np.ndarray, outside: np.ndarray, bootstrap: PatientBootstrap) -> Support:
    """
    An AUROC rests on the ECGs of the class or on the others, whichever are fewer.

    Args:
        inside, outside: numbers of the ECGs of the class, and of the others.
        bootstrap: bootstrap over the patients of the ECGs.
    """
    sides = [bootstrap.count_patients(those) for those in (inside, outside) if len(those)]
    return Support(min(sides, default=0), len(inside) + len(outside))


def majority_scores(member: np.ndarray, task: ZeroShotTask, bootstrap: PatientBootstrap) -> dict:
    """
    The class that most of these ECGs are of, and how often it is right.

    Args:
        member: `(ecgs, classes)`, whether an ECG is of a class.
        task: names of the classes.
        bootstrap: bootstrap over the patients of the ECGs.
    """
    place = int(member.sum(axis=0).argmax())
    return {"class": task.classes[place].name, "accuracy": share_entry(member[:, place], bootstrap)}


def share_entry(is_right: np.ndarray, bootstrap: PatientBootstrap) -> dict:
    """The share of right choices with its interval, from `is_right (ecgs,)`."""
    shares = bootstrap.means(is_right[:, None].astype(float), np.arange(len(is_right)))[:, 0]
    return score_entry(shares, Support(bootstrap.num_patients, len(is_right), is_share=True))


@lru_cache(maxsize=2)  # those of a task, the same under every condition
def _bootstrap(patients: tuple[tuple[str, ...], ...], seed: int) -> PatientBootstrap:
    return PatientBootstrap(patients, seed=seed)


def multi_label_scores(
    member: np.ndarray,
    written: Sequence[int | None],
    log_likelihoods: np.ndarray,
    task: ZeroShotTask,
    patients: Sequence[tuple[str, ...]],
    seed: int,
) -> dict:
    """
    Scores of ECGs that may be of none or several of the classes: how often the chosen class is one of the ECG's, over ECGs
    of one class or more, and the AUROC of each class by the probability of its letter among the letters, over all ECGs.

    Args:
        member: `(ecgs, classes)`, whether an ECG is of a class.
        written: number of the class whose letter was written; None for no choice.
        log_likelihoods: `(ecgs, classes)`, of the letter of each class.
        task: names of the classes.
        patients: of each ECG.
        seed: random seed for the bootstrap.
    """
    some = np.flatnonzero(member.any(axis=1))
    bootstrap = _bootstrap(tuple(patients[row] for row in some), seed)
    likely = log_likelihoods.argmax(axis=1)
    right = {
        "letter": np.array([written[row] is not None and member[row, written[row]] for row in some]),
        "likelihood": member[some, likely[some]],
    }
    probabilities = np.exp(log_likelihoods - np.logaddexp.reduce(log_likelihoods, axis=1, keepdims=True))
    ranked = auroc_scores(member, probabilities, task, _bootstrap(tuple(patients), seed))
    return {
        "ecgs_of_some_class": len(some),
        "majority": majority_scores(member[some], task, bootstrap),
        **{way: share_entry(those, bootstrap) for way, those in right.items()},
        "auroc": ranked,
    }
