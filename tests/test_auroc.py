"""Macro AUROC against scikit-learn, and the tasks of PTB-XL."""

import csv

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from elm_hf.data.label_tasks import label_tasks, ptb_xl_tasks, scores_of_statements, tasks_of_classes
from elm_hf.dataset_scripts.ptb_xl import NAMES
from elm_hf.utils.auroc import macro_aurocs


TASKS = {"all": [0, 1, 2], "two": [1, 2], "constant": [3]}


def scores_and_targets(records: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    targets = (rng.random((records, 4)) < 0.3).astype(np.float32)
    targets[:, 3] = 1
    scores = np.round(targets + rng.normal(0, 1, (records, 4)), 1)  # rounded: many are equal
    return scores, targets


def test_macro_auroc_is_that_of_scikit_learn():
    scores, targets = scores_and_targets(300)
    weights = np.random.default_rng(1).integers(0, 4, (3, 300)).astype(np.float64)
    found = macro_aurocs(scores, targets, TASKS, weights)
    for task in ("all", "two"):
        rows = targets[:, TASKS[task]].any(axis=1)
        assert 0 < rows.sum() < 300
        for number, weight in enumerate(weights):
            expected = [
                roc_auc_score(targets[rows, one], scores[rows, one], sample_weight=weight[rows]) for one in TASKS[task]
            ]
            assert found[task][number] == pytest.approx(np.mean(expected), abs=1e-9)
    assert np.isnan(found["constant"]).all()


def test_the_tasks_of_ptb_xl_have_the_sizes_of_the_paper():
    tasks = ptb_xl_tasks()
    sizes = {task: len(classes) for task, classes in tasks.tasks.items()}
    assert sizes == {"all": 71, "diagnostic": 44, "subclass": 23, "superclass": 5, "form": 19, "rhythm": 12}
    row = tasks.targets([["left bundle branch block", "complete left bundle branch block", "sinus rhythm"]])[0]
    assert {tasks.classes[number] for number in np.flatnonzero(row)} == {
        "CLBBB",
        "SR",
        "superclass: CD",
        "subclass: CLBBB",
    }


def test_the_names_of_the_statements_are_those_of_the_records(shared_data):
    with open(shared_data / "ptb_xl" / "scp_statements.csv", newline="") as file:
        names = {row["description"]: row[""] for row in csv.DictReader(file)}
    names = {NAMES.get(code, name): code for name, code in names.items()}
    tasks = ptb_xl_tasks()
    assert {name: tasks.classes[numbers[0]] for name, numbers in tasks.classes_of.items()} == names
    assert label_tasks([[name] for name in names]) is tasks


def test_superclasses_are_scored_by_their_likeliest_statement():
    names = ["sinus rhythm", "complete left bundle branch block", "first degree AV block"]
    scores = np.array([[3.0, -2, 1], [0, 4, -5]])
    tasks = tasks_of_classes(names)
    assert tasks is ptb_xl_tasks()
    found = dict(zip(tasks.classes, scores_of_statements(names, scores).T.tolist()))
    assert (found["SR"], found["superclass: CD"], found["subclass: CLBBB"]) == ([3, 0], [1, 4], [-2, 4])
    assert found["AFIB"] == found["superclass: MI"] == [-5, -5]  # not learned: the same for all records
    assert tasks_of_classes(["sinus rhythm", "own finding"]).tasks == {"all": [0, 1]}


def test_labels_of_other_datasets_are_one_task():
    labels = [["atrial fibrillation", "own finding"]] * 10 + [["rare finding"], []]
    tasks = label_tasks(labels)
    assert tasks.classes == ["atrial fibrillation", "own finding"] and tasks.tasks == {"all": [0, 1]}
    assert tasks.targets([["own finding", "rare finding"]]).tolist() == [[0, 1]]
    with pytest.raises(ValueError, match="None of the 1 labels of the training records has 10 records"):
        label_tasks([["sinus"]] * 9)
