"""Prompts of zero-shot classification with options, and the option that an answer names."""

import re
from collections.abc import Sequence

from elm_hf.classification.zero_shot_tasks import ZeroShotTask
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.training.alignment import NO_FINDING, person_words


# "question": the ECG and a question; "ecg_lm": that of Yang et al. 2024, table 1.
PROMPTS = ("question", "ecg_lm")


def options_text(task: ZeroShotTask, order: Sequence[int]) -> str:
    """The classes in this order, a line with a letter for each."""
    return "\n".join(f"{letter}. {task.classes[place].prompt}" for letter, place in zip(task.letters, order))


def question_content(task: ZeroShotTask, order: Sequence[int]) -> list[dict]:
    """Our prompt: the ECG, the task's question, and its classes in this order."""
    words = f"{task.question}\n{options_text(task, order)}\nAnswer with the letter of one option."
    return [{"type": "ecg"}, {"type": "text", "text": words}]


def ecg_lm_content(task: ZeroShotTask, order: Sequence[int], description: dict) -> list[dict]:
    """
    The prompt of ECG-LM (Yang et al. 2024, table 1), in the words of its alignment: the person, the ECG, the abnormalities of
    each lead, the question and its options. The abnormalities are found by rules, so a model can choose by them without
    reading the ECG.

    Args:
        task: the task.
        order: of its classes.
        description: row of the table that `describe_records` writes.
    """
    leads = [
        f"lead {lead}: {', '.join(findings) or NO_FINDING}" for lead, findings in zip(LEADS, description["leads"])
    ]
    letters = f"{task.letters[0]}-{task.letters[-1]}"
    words = f". Abnormalities detected in {', '.join(leads)}. Which type ({letters}) does this ECG belong to?\n"
    words += f"{options_text(task, order)}\nChoose one letter."
    person = f"This person is a {person_words(description)}. The ECG signal is "
    return [{"type": "text", "text": person}, {"type": "ecg"}, {"type": "text", "text": words}]


def read_option(answer: str, task: ZeroShotTask, order: Sequence[int] | None = None) -> int | None:
    """
    The class that an answer names: by a capital letter alone or before a dot, colon or bracket ("B", "(B) atrial
    fibrillation"), a small letter alone, or else the words of exactly one class. None if it names none.

    Args:
        answer: what the model wrote.
        task: the task.
        order: in which its classes had the letters; by default their own.
    """
    found = re.match(r"\W*([A-Z])(?=\W*$|\s*[.:)])", answer) or re.fullmatch(r"\W*([a-z])\W*", answer)
    if found:
        place = task.letters.find(found[1].upper())
        if place < 0:
            return None
        return place if order is None else int(order[place])
    named = [place for place, one in enumerate(task.classes) if one.prompt.lower() in answer.lower()]
    return named[0] if len(named) == 1 else None
