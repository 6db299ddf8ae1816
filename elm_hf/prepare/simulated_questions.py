"""
Questions and true answers about simulated ECGs, with the question types and field names of ECG-QA (Oh et al. 2023).

The answer to a question follows from the findings of the ECGs. Questions are selected over a whole dataset: the answers
to each question are about equally frequent, so a model that ignores the signal cannot guess them from the wording.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from functools import cache
from itertools import combinations
from typing import NamedTuple

import numpy as np

from elm_hf.ecg.simulated_findings import (
    AXES,
    CONDUCTIONS,
    HYPERTROPHY,
    NOISES,
    NORMAL_ECG,
    PROLONGED_QT,
    RATE_RANGES,
    RHYTHMS,
    TERRITORIES,
    WIDE_QRS_MS,
    Findings,
)


_ELEVATIONS = tuple(f"st elevation in {territory} leads" for territory in TERRITORIES[1:])
_BLOCKS = CONDUCTIONS[:4]  # without incomplete blocks, which are rare
_DEVIATIONS, _NOISES = AXES[1:], NOISES[1:]
_DISORDERS = (*CONDUCTIONS, PROLONGED_QT, *_ELEVATIONS, HYPERTROPHY, *_DEVIATIONS)
# All labels that two ECGs are compared by, in the order used in answers.
_COMPARED = (*RHYTHMS, *_DISORDERS, *_NOISES)
_ATTRIBUTE_TYPE = (
    dict.fromkeys((*_COMPARED, NORMAL_ECG), "scp_code")
    | dict.fromkeys(_DEVIATIONS, "heart_axis")
    | dict.fromkeys(_NOISES, "noise")
)

# Wordings by template_id. Ids are never reused. The id of a comparison of two patients is the id of the same
# comparison for one patient plus 30. Sinus rhythms differ in the rate only, which is the subject of a query.
_VERIFY = (
    (1, (*RHYTHMS[3:], *CONDUCTIONS, PROLONGED_QT, *_ELEVATIONS, HYPERTROPHY), "Does this ECG show {}?"),
    (2, _DEVIATIONS, "Is there {}?"),
    (3, _NOISES, "Is this ECG disturbed by {}?"),
    (4, (NORMAL_ECG,), "Is this a {}?"),
)
_CHOOSE = (
    (10, RHYTHMS, "Which rhythm does this ECG show, {} or {}?"),
    (11, _ELEVATIONS, "Which elevation is present, {} or {}?"),
    (12, _BLOCKS, "Which conduction disorder is present, {} or {}?"),
    (13, _DEVIATIONS, "Which axis deviation is present, {} or {}?"),
    (14, _NOISES, "Which noise is present, {} or {}?"),
)
_QUERY = {
    "rhythm": (20, "scp_code", "What is the rhythm?"),
    "territory": (21, "scp_code", "Which territory shows ST elevation?"),
    "conduction": (22, "scp_code", "Which conduction disorders does this ECG show?"),
    "axis": (23, "heart_axis", "What is the frontal axis?"),
    "noise": (24, "noise", "What kind of noise is in this ECG?"),
    "rate": (25, "numeric_feature", "In which range does the heart rate lie?"),
    "pr": (26, "numeric_feature", "In which range does the PR interval lie?"),
    "qrs": (27, "numeric_feature", "In which range does the QRS duration lie?"),
    "qt": (28, "numeric_feature", "In which range does the corrected QT interval lie?"),
}
_COMPARE_VERIFY = {
    "new": (31, "Compared with the {0}, does the {1} newly show {2}?"),
    "gone": (32, "Compared with the {0}, does the {1} no longer show {2}?"),
    "shared": (33, "Do both the {0} and the {1} show {2}?"),
}
_COMPARE_QUERY = {
    "rhythm": (41, "scp_code", "Compared with the {0}, which rhythm is new in the {1}?"),
    "territory": (42, "scp_code", "Compared with the {0}, in which territory is ST elevation new in the {1}?"),
    "conduction": (43, "scp_code", "Compared with the {0}, which conduction disorders are new in the {1}?"),
    "axis": (44, "heart_axis", "Compared with the {0}, which axis deviation is new in the {1}?"),
    "noise": (45, "noise", "Compared with the {0}, which noise is new in the {1}?"),
    "new": (47, "any", "Which findings does the {1} show that the {0} does not?"),
    "gone": (48, "any", "Which findings of the {0} are gone in the {1}?"),
    "shared": (49, "any", "Which findings do the {0} and the {1} share?"),
}
_MAX_ITEMS = 2
# Share of the questions of each kind.
_SHARES = {"single-verify": 0.4, "single-choose": 0.25, "single-query": 0.35, "verify": 0.5, "query": 0.5}


class Question(NamedTuple):
    """A question with its answer, a tuple of lower-case strings. The fields are those of ECG-QA."""

    question_type: str
    attribute_type: str
    template_id: int
    question: str
    answer: tuple[str, ...]

    def row(self) -> dict:
        """The columns of a conversation; the answer is a list."""
        return self._asdict() | {"answer": list(self.answer)}


def single_questions(findings: Findings) -> list[Question]:
    """All questions about an ECG (`single-verify`, `single-choose`, `single-query`)."""
    labels = frozenset(findings.labels)
    values = _values(findings)
    return [
        *_verified(labels),
        *_chosen(labels),
        *(
            _question("single-query", attribute_type, template_id, wording, values[subject])
            for subject, (template_id, attribute_type, wording) in _QUERY.items()
            if subject in values
        ),
    ]


def verify_question(label: str) -> str | None:
    """The yes/no question whether an ECG has a label; None if there is none, as for sinus rhythms."""
    return next((wording.format(label) for _, verified, wording in _VERIFY if label in verified), None)


def query_question(subject: str) -> str:
    """
    The open question about a subject.

    Args:
        subject: `"rhythm"`, `"territory"`, `"conduction"`, `"axis"`, `"noise"`, `"rate"`, `"pr"`, `"qrs"` or `"qt"`.
    """
    return _QUERY[subject][2]


def comparison_questions(first: Findings, second: Findings) -> list[Question]:
    """
    All questions that compare two ECGs of one patient (`comparison_consecutive-verify`, `-query`) or of two patients
    (`comparison_irrelevant-verify`, `-query`).

    Args:
        first: findings of the first ECG of the conversation.
        second: findings of the second ECG. The patient is the same if `patient` is equal.
    """
    is_same = first.patient == second.patient
    kind, offset = ("comparison_consecutive", 0) if is_same else ("comparison_irrelevant", 30)
    names = ("previous ECG", "recent ECG") if is_same else ("first ECG", "second ECG")
    before, after = set(first.labels), set(second.labels)
    sets = {"new": after - before, "gone": before - after, "shared": before & after}
    relations = {name: tuple(label for label in _COMPARED if label in labels) for name, labels in sets.items()}
    questions = [
        _question(
            f"{kind}-verify", _ATTRIBUTE_TYPE[label], template_id + offset, wording.format(*names, label), answer
        )
        for relation, (template_id, wording) in _COMPARE_VERIFY.items()
        for label in _COMPARED
        for answer in [("yes",) if label in relations[relation] else ("no",)]
    ]
    answers = _new_values(first, second)
    # Lists of findings are about the heart, without noise, and short.
    heart = {name: tuple(label for label in labels if label not in _NOISES) for name, labels in relations.items()}
    answers |= {name: labels for name, labels in heart.items() if len(labels) <= _MAX_ITEMS}
    return questions + [
        _question(f"{kind}-query", attribute_type, template_id + offset, wording.format(*names), answers[subject])
        for subject, (template_id, attribute_type, wording) in _COMPARE_QUERY.items()
        if subject in answers
    ]


def select_questions(
    candidates: Sequence[Sequence[Question]], rng: np.random.Generator, number: int
) -> list[list[Question]]:
    """
    Select questions of a dataset such that the answers to each question are about equally frequent: an answer is
    selected at most as often as the other answers to the question occur on average. Questions with a single answer in
    the whole dataset are left out.

    Args:
        candidates: all questions about each ECG, or about each pair of ECGs.
        rng: random generator.
        number: upper limit of the mean number of questions for each entry of `candidates`. Small datasets can exceed it,
            because at least one question for each answer is selected.

    Returns:
        The selected questions for each entry. An entry with rare findings has more of them than one without.
    """
    places = defaultdict(lambda: defaultdict(list))
    for place, questions in enumerate(candidates):
        for question in questions:
            places[question[:4]][question].append(place)
    places = {key: answers for key, answers in places.items() if len(answers) > 1}
    shares = _question_shares(places)
    selected = [[] for _ in candidates]
    for key, answers in places.items():
        counts = sorted(map(len, answers.values()))
        limit = max(1, round(min(np.mean(counts[:-1]), shares[key] * number * len(candidates) / len(counts))))
        for question, found in answers.items():
            for place in rng.choice(found, min(limit, len(found)), replace=False):
                selected[place].append(question)
    return selected


def _question_shares(keys: Sequence[tuple[str, str, int, str]]) -> dict[tuple, float]:
    """The share of each question: kinds as in `_SHARES`, templates of a kind by their number of attributes."""
    of_kind = Counter(key[0] for key in keys)
    # Choose questions have many pairs of labels in one template, which together have the weight of a template.
    templates = {kind: len({key[2] for key in keys if key[0] == kind}) for kind in of_kind}
    of_template = Counter((key[0], key[2]) for key in keys)
    shares = {}
    for key in keys:
        kind, template_id = key[0], key[2]
        weight = _SHARES.get(kind) or _SHARES[kind.split("-")[1]]
        is_choice = kind == "single-choose"
        shares[key] = weight / (templates[kind] * of_template[kind, template_id] if is_choice else of_kind[kind])
    return shares


def _question(kind: str, attribute_type: str, template_id: int, question: str, answer: Sequence[str]) -> Question:
    return _shared(Question(kind, attribute_type, template_id, question, tuple(answer) or ("none",)))


@cache
def _shared(question: Hashable) -> Question:
    """One object for all equal questions, which saves memory in large datasets."""
    return question


@cache
def _verified(labels: frozenset[str]) -> tuple[Question, ...]:
    return tuple(
        _question(
            "single-verify",
            _ATTRIBUTE_TYPE[label],
            template_id,
            wording.format(label),
            ("yes",) if label in labels else ("no",),
        )
        for template_id, verified, wording in _VERIFY
        for label in verified
    )


@cache
def _chosen(labels: frozenset[str]) -> tuple[Question, ...]:
    return tuple(
        _question(
            "single-choose",
            _ATTRIBUTE_TYPE[pair[0]],
            template_id,
            wording.format(*pair),
            [label for label in pair if label in labels],
        )
        for template_id, options, wording in _CHOOSE
        for number, pair in enumerate(combinations(options, 2))
        for pair in [pair if number % 2 else pair[::-1]]
    )


def _values(findings: Findings) -> dict[str, tuple[str, ...]]:
    """The answer to each query about an ECG. PR and QT are not judged without a regular atrial rhythm."""
    within, above = RATE_RANGES[1:]
    labels = findings.labels
    values = {
        "rhythm": (findings.rhythm,),
        "territory": (findings.elevated_territory,),
        "conduction": tuple(label for label in CONDUCTIONS if label in labels),
        "axis": (findings.axis,),
        "noise": (findings.noise,),
        "rate": (findings.rate_range,),
        "qrs": (above if findings.qrs_ms >= WIDE_QRS_MS else within,),
    }
    if findings.pr_ms is not None:
        values |= {
            "pr": (above if findings.av_block else within,),
            "qt": (above if findings.prolonged_qt else within,),
        }
    return values


def _new_values(first: Findings, second: Findings) -> dict[str, tuple[str, ...]]:
    """The abnormal values of the second ECG that the first does not have."""
    before, after = _values(first), _values(second)
    return {
        subject: tuple(item for item in after[subject] if item not in (*before[subject], "none", AXES[0]))
        for subject in ("rhythm", "territory", "conduction", "axis", "noise")
    }
