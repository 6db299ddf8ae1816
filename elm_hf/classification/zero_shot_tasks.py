"""Tasks of zero-shot classification: ECG-LM's on PTB-XL, and tasks from a file."""

import json
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase


@dataclass(frozen=True)
class ZeroShotClass:
    """
    Attributes:
        name: name of the class in tables.
        prompt: the class in words, for models.
        labels: labels in the records table; an ECG with one of them is of this class.
    """

    name: str
    prompt: str
    labels: tuple[str, ...]


@dataclass(frozen=True)
class ZeroShotTask:
    """
    Attributes:
        name: name of the task.
        question: question for an ECG-language model.
        classes: 2 to 26 classes, of which one is chosen.
    """

    name: str
    question: str
    classes: tuple[ZeroShotClass, ...]

    @property
    def letters(self) -> str:
        """A letter for each class, from A on."""
        return ascii_uppercase[: len(self.classes)]


# PTB-XL's statements by diagnostic superclass (Wagner et al. 2020, table 2), with the names of labels in the records.
_DIAGNOSTIC = {
    "NORM": (
        "normal ECG",
        ("normal ECG",),
    ),
    "MI": (
        "myocardial infarction",
        (
            "inferior myocardial infarction",
            "anteroseptal myocardial infarction",
            "inferolateral myocardial infarction",
            "anterior myocardial infarction",
            "anterolateral myocardial infarction",
            "subendocardial injury in anteroseptal leads",
            "lateral myocardial infarction",
            "subendocardial injury in anterolateral leads",
            "inferoposterolateral myocardial infarction",
            "inferoposterior myocardial infarction",
            "subendocardial injury in inferior leads",
            "subendocardial injury in lateral leads",
            "posterior myocardial infarction",
            "subendocardial injury in inferolateral leads",
        ),
    ),
    "STTC": (
        "ST/T change",
        (
            "non-diagnostic T abnormalities",
            "non-specific ST changes",
            "digitalis-effect",
            "long QT-interval",
            "non-specific ischemia",
            "anterolateral ischemia",
            "inferior ischemia",
            "inferolateral ischemia",
            "anteroseptal ischemia",
            "lateral ischemia",
            "ST-T changes compatible with ventricular aneurysm",
            "electrolyte disturbance or drug effect",
            "anterior ischemia",
        ),
    ),
    "CD": (
        "conduction disturbance",
        (
            "left anterior fascicular block",
            "incomplete right bundle branch block",
            "first degree AV block",
            "non-specific intraventricular conduction disturbance",
            "complete right bundle branch block",
            "complete left bundle branch block",
            "left posterior fascicular block",
            "Wolff-Parkinson-White syndrome",
            "incomplete left bundle branch block",
            "third degree AV block",
            "second degree AV block",
        ),
    ),
    "HYP": (
        "hypertrophy",
        (
            "left ventricular hypertrophy",
            "left atrial overload/enlargement",
            "right ventricular hypertrophy",
            "right atrial overload/enlargement",
            "septal hypertrophy",
        ),
    ),
}
_RHYTHM = {
    "SR": "sinus rhythm",
    "STACH": "sinus tachycardia",
    "SBRAD": "sinus bradycardia",
    "AFIB": "atrial fibrillation",
    "SARRH": "sinus arrhythmia",
}
_FORM = {
    "ABQRS": "abnormal QRS",
    "NDT": "non-diagnostic T abnormalities",
    "NST_": "non-specific ST changes",
    "DIG": "digitalis-effect",
    "LNGQT": "long QT-interval",
}


def _of_codes(classes: dict[str, str]) -> tuple[ZeroShotClass, ...]:
    return tuple(ZeroShotClass(code, words, (words, code)) for code, words in classes.items())


# The five options of each of ECG-LM's three tasks (Yang et al. 2024).
TASKS = {
    "diagnostic": ZeroShotTask(
        "diagnostic",
        "Which diagnostic class does this ECG belong to?",
        tuple(ZeroShotClass(code, words, (*labels, code)) for code, (words, labels) in _DIAGNOSTIC.items()),
    ),
    "rhythm": ZeroShotTask("rhythm", "Which rhythm does this ECG show?", _of_codes(_RHYTHM)),
    "form": ZeroShotTask("form", "Which change of form does this ECG show?", _of_codes(_FORM)),
}


def load_task(name_or_file: str) -> ZeroShotTask:
    """
    One of `TASKS`, or a task from a JSON file: `{"question": "...", "classes": {"AFIB": {"prompt": "atrial fibrillation",
    "labels": ["atrial fibrillation"]}, ...}}`.

    Raises:
        ValueError: there is no such task or file, or the file has another format.
    """
    if name_or_file in TASKS:
        return TASKS[name_or_file]
    path = Path(name_or_file)
    if not path.is_file():
        raise ValueError(f"{name_or_file}: neither a task ({', '.join(TASKS)}) nor a JSON file with one")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        classes = tuple(
            ZeroShotClass(name, one["prompt"], tuple(one["labels"])) for name, one in found["classes"].items()
        )
        task = ZeroShotTask(path.stem, found["question"], classes)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f'{path}: expected {{"question": ..., "classes": {{name: {{"prompt": ..., "labels": [...]}}}}}} ({error!r})'
        ) from error
    if not 2 <= len(classes) <= len(ascii_uppercase):
        raise ValueError(f"{path}: {len(classes)} classes; a task has 2 to {len(ascii_uppercase)}")
    return task
