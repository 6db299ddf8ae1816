"""What an encoder learns to classify, and is tested on: the labels of records, grouped into tasks (multi-label)."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from elm_hf.utils.files import read_table


STATEMENTS = Path(__file__).with_name("ptb_xl_statements.csv")
PTB_XL_TASKS = ("all", "diagnostic", "subclass", "superclass", "form", "rhythm")
# A label of fewer training records is not learned.
MIN_RECORDS = 10


@dataclass(frozen=True)
class LabelTasks:
    """
    The classes of a multi-label classifier and the tasks that they belong to.

    Args:
        classes: names of the classes, in the order of the classifier's outputs.
        tasks: the numbers of the classes of each task, by the task's name.
        classes_of: the numbers of the classes that a label stands for, by the label. Other labels are not learned.
    """

    classes: list[str]
    tasks: dict[str, list[int]]
    classes_of: dict[str, list[int]]

    def targets(self, labels: Sequence[Iterable[str]]) -> np.ndarray:
        """
        Args:
            labels: labels of each record.

        Returns:
            Array `(records, classes)`, float32: 1 for the classes that a record has, 0 for the others.
        """
        targets = np.zeros((len(labels), len(self.classes)), np.float32)
        for row, names in enumerate(labels):
            for name in names:
                targets[row, self.classes_of.get(name, [])] = 1
        return targets


def label_tasks(labels: Sequence[Iterable[str]]) -> LabelTasks:
    """
    The tasks that the labels of training records define: the six tasks of Strodthoff et al. (2020) for PTB-XL; for
    other datasets one task, `all`, of the labels of at least `MIN_RECORDS` records.

    Args:
        labels: labels of each training record.

    Raises:
        ValueError: no label has `MIN_RECORDS` records.
    """
    count = Counter(name for names in labels for name in set(names))
    if count and count.keys() <= ptb_xl_tasks().classes_of.keys():
        return ptb_xl_tasks()
    classes = sorted(name for name, records in count.items() if records >= MIN_RECORDS)
    if not classes:
        raise ValueError(
            f"None of the {len(count)} labels of the training records has {MIN_RECORDS} records; nothing can be learned."
        )
    return _one_task(classes)


def tasks_of_classes(classes: Sequence[str]) -> LabelTasks:
    """
    The tasks of a classifier that was trained on labels: those of PTB-XL if its classes are theirs, or are names of PTB-XL's
    statements (see [`scores_of_statements`]); otherwise one task, `all`, of labels with the names of the classes.

    Args:
        classes: names of the classes, in the order of the classifier's outputs.
    """
    if list(classes) == ptb_xl_tasks().classes or are_statements(classes):
        return ptb_xl_tasks()
    return _one_task(list(classes))


def are_statements(classes: Iterable[str]) -> bool:
    """Whether all classes are names of PTB-XL's statements."""
    return set(classes) <= ptb_xl_tasks().classes_of.keys()


def scores_of_statements(classes: Sequence[str], scores: np.ndarray) -> np.ndarray:
    """
    Scores of the classes of [`ptb_xl_tasks`] from those of some statements. A superclass or subclass has the score of its
    likeliest statement; a class without any of the statements has the same score for all records.

    Args:
        classes: names of the statements.
        scores: array `(records, statements)`, higher where a statement is likelier.
    """
    tasks = ptb_xl_tasks()
    found = np.full((len(scores), len(tasks.classes)), scores.min(initial=0), scores.dtype)
    for place, name in enumerate(classes):
        for number in tasks.classes_of[name]:
            found[:, number] = np.maximum(found[:, number], scores[:, place])
    return found


def _one_task(classes: list[str]) -> LabelTasks:
    numbers = {name: [number] for number, name in enumerate(classes)}
    return LabelTasks(classes, {"all": list(range(len(classes)))}, numbers)


@cache
def ptb_xl_tasks() -> LabelTasks:
    """
    The six tasks of PTB-XL (Strodthoff et al. 2020): its 71 statements, and of these the 44 diagnostic ones, their 23
    subclasses and 5 superclasses, the 19 statements of form and the 12 of rhythm. A statement counts whatever its
    likelihood. The labels are the descriptions of the statements, as in PTB-XL's records.
    """
    statements = list(read_table(STATEMENTS, ["description", "code"]))
    groups = {level: sorted({row[level] for row in statements if row[level]}) for level in ("superclass", "subclass")}
    classes = [row["code"] for row in statements]
    classes += [f"{level}: {name}" for level, names in groups.items() for name in names]
    number_of = {name: number for number, name in enumerate(classes)}
    tasks = {"all": list(range(len(statements)))}
    for kind in ("diagnostic", "form", "rhythm"):
        tasks[kind] = [number for number, row in enumerate(statements) if row[kind] == "1"]
    for level, names in groups.items():
        tasks[level] = [number_of[f"{level}: {name}"] for name in names]
    classes_of = {}
    for number, row in enumerate(statements):
        levels = [number_of[f"{level}: {row[level]}"] for level in groups if row[level]]
        classes_of[row["description"]] = [number, *levels]
    return LabelTasks(classes, {task: tasks[task] for task in PTB_XL_TASKS}, classes_of)
