"""Scores of single answers: exact match, shared words, statements as sets; all between 0 and 1."""

import re
from collections import Counter

import numpy as np


STATEMENT_BORDER = re.compile(r"[;,\n]+|\.(?=\s|$)")
LIST_MARK = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+", re.MULTILINE)


def answer_items(text: str) -> frozenset[str]:
    """The items of a comma-separated answer, in lower case and without a final full stop."""
    items = (" ".join(item.split()).lower().rstrip(".").strip() for item in text.split(","))
    return frozenset(items) - {""}


def is_exact_match(prediction: str, truth: list[str]) -> bool:
    """
    Whether a comma-separated answer names the true items and no others, in any order and case (Oh et al. 2023, ECG-QA).

    One class of ECG-QA has commas in its name ("bigeminal pattern (unknown origin, supraventricular, or ventricular)"),
    so the true items are joined and split like the prediction. An empty answer is never right.
    """
    items = answer_items(prediction)
    return bool(items) and items == answer_items(", ".join(truth))


def token_f1(prediction: str, truth: str) -> float:
    """F1 of the words that two texts share, without case, punctuation and articles (Rajpurkar et al. 2016, SQuAD)."""
    predicted, true = (Counter(_words(text)) for text in (prediction, truth))
    shared = (predicted & true).total()
    return 2 * shared / (predicted.total() + true.total()) if shared else 0.0


def statements(text: str) -> frozenset[str]:
    """
    The diagnostic statements of a report: its parts between commas, semicolons, line breaks and full stops, in lower
    case; "0.2 mV" stays whole.
    """
    parts = STATEMENT_BORDER.split(LIST_MARK.sub("", text.lower()))
    return frozenset(" ".join(part.split()).strip(" .:-") for part in parts) - {""}


def statement_counts(prediction: str, truth: str) -> np.ndarray:
    """Number of statements in both texts, in the prediction, and in the truth: `(3,)`, to be summed over answers."""
    predicted, true = statements(prediction), statements(truth)
    return np.array([len(predicted & true), len(predicted), len(true)], dtype=float)


def _words(text: str) -> list[str]:
    return [word for word in re.sub(r"[^\w\s]", "", text.lower()).split() if word not in ("a", "an", "the")]
