"""Scores of single answers: exact match, shared words, statements as sets; all between 0 and 1."""

import re
from collections import Counter

import numpy as np


STATEMENT_BORDER = re.compile(r"[;,\n]+|\.(?=\s|$)")
LIST_MARK = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+", re.MULTILINE)


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
