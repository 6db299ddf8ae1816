"""Questions and true answers about simulated ECGs, with the question types and field names of ECG-QA (Oh et al. 2023).

The answer to a question follows from the findings of the ECG. Questions are chosen such that their possible answers
have similar frequencies, so that a model that ignores the signal gains little from the wording. This works less well
if there are many questions about an ECG.
"""

from __future__ import annotations

import numpy as np

from elm_hf.ecg.simulation import AXES, NOISES, RHYTHMS, TERRITORIES, Findings


_CONDUCTION = ("first degree av block", "wide qrs")
_ELEVATIONS = tuple(f"st elevation in {territory} leads" for territory in TERRITORIES if territory != "none")
_DEVIATIONS = AXES[1:]
_NOISES = NOISES[1:]
# All labels in questions, with their share of the ECGs drawn by `draw_findings`, in the order used in answers.
_SHARE = (
    dict.fromkeys(RHYTHMS, 0.25)
    | dict(zip(_CONDUCTION, (0.3, 0.4)))
    | dict.fromkeys(_ELEVATIONS, 0.2)
    | {"left ventricular hypertrophy": 0.385}
    | dict.fromkeys(_DEVIATIONS + _NOISES, 0.3)
)
_ATTRIBUTE_TYPE = (
    dict.fromkeys(_SHARE, "scp_code") | dict.fromkeys(_DEVIATIONS, "heart_axis") | dict.fromkeys(_NOISES, "noise")
)
# Labels of verify questions. Sinus rhythms differ in the rate only, which is the subject of a query.
_VERIFIED = {label: share for label, share in _SHARE.items() if not label.startswith("sinus")}

# Wordings by template_id. Ids are never reused. The id of a comparison of two patients is the id of the same
# comparison for one patient plus 30.
_VERIFY = {
    "scp_code": (1, "Does this ECG show {}?"),
    "heart_axis": (2, "Is there {}?"),
    "noise": (3, "Is this ECG disturbed by {}?"),
}
_CHOOSE = (
    (10, RHYTHMS, "Which rhythm does this ECG show, {} or {}?"),
    (11, _ELEVATIONS, "Which elevation is present, {} or {}?"),
    (12, _CONDUCTION, "Which conduction disorder is present, {} or {}?"),
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


def single_questions(findings: Findings, rng: np.random.Generator, number: int = 4) -> list[dict]:
    """Draws distinct questions about an ECG.

    Args:
        findings: Findings of the ECG.
        rng: Random generator.
        number: Number of questions, at most 20.

    Returns:
        Dicts of `question_type` (`single-verify`, `single-choose`, `single-query`), `attribute_type`, `template_id`,
        `question` and `answer`, a list of lower-case strings.

    Raises:
        ValueError: `number` is greater than 20.
    """
    return _distinct((_verify, _choose, _query), (0.4, 0.25, 0.35), (findings, rng), rng, number)


def comparison_questions(first: Findings, second: Findings, rng: np.random.Generator, number: int = 4) -> list[dict]:
    """Draws distinct questions that compare two ECGs of one patient (consecutive) or of two patients (irrelevant).

    Args:
        first: Findings of the first ECG of the conversation.
        second: Findings of the second ECG. The patient is the same if `patient` is equal.
        rng: Random generator.
        number: Number of questions, at most 20.

    Returns:
        Dicts as returned by `single_questions`; the `question_type` is `comparison_consecutive-verify`,
        `comparison_consecutive-query`, `comparison_irrelevant-verify` or `comparison_irrelevant-query`.

    Raises:
        ValueError: `number` is greater than 20.
    """
    return _distinct((_compare_verify, _compare_query), (0.5, 0.5), (first, second, rng), rng, number)


def _distinct(kinds: tuple, shares: tuple, arguments: tuple, rng: np.random.Generator, number: int) -> list[dict]:
    if number > 20:
        raise ValueError(f"number={number}: a simulated ECG has at most 20 distinct questions; use a smaller number")
    questions = {}
    while len(questions) < number:
        row = kinds[rng.choice(len(kinds), p=shares)](*arguments)
        questions.setdefault(row["question"], row)
    return list(questions.values())


def _row(kind: str, attribute_type: str, template_id: int, question: str, answer: list[str]) -> dict:
    return {
        "question_type": kind,
        "attribute_type": attribute_type,
        "template_id": template_id,
        "question": question,
        "answer": answer or ["none"],
    }


def _pick(options: list[str], rng: np.random.Generator, weights: list[float] | None = None) -> str:
    if weights is None:
        return options[rng.integers(len(options))]
    return options[rng.choice(len(options), p=np.divide(weights, sum(weights)))]


def _verify(findings: Findings, rng: np.random.Generator) -> dict:
    # The weights balance the answers: over many ECGs, "yes" and "no" are equally frequent for every label.
    present = findings.labels
    weights = [1 / share if label in present else 1 / (1 - share) for label, share in _VERIFIED.items()]
    label = _pick(list(_VERIFIED), rng, weights)
    template_id, wording = _VERIFY[_ATTRIBUTE_TYPE[label]]
    answer = ["yes" if label in present else "no"]
    return _row("single-verify", _ATTRIBUTE_TYPE[label], template_id, wording.format(label), answer)


def _choose(findings: Findings, rng: np.random.Generator) -> dict:
    template_id, labels, wording = _CHOOSE[rng.integers(len(_CHOOSE))]
    described = findings.labels
    present = [label for label in labels if label in described]
    first = present[0] if present else _pick(labels, rng)
    pair = [first, _pick([label for label in labels if label != first], rng)]
    answer = [label for label in labels if label in pair and label in present]
    question = wording.format(*rng.permutation(pair))
    return _row("single-choose", _ATTRIBUTE_TYPE[first], template_id, question, answer)


def _query(findings: Findings, rng: np.random.Generator) -> dict:
    subject = _pick(list(_QUERY), rng)
    template_id, attribute_type, wording = _QUERY[subject]
    return _row("single-query", attribute_type, template_id, wording, _values(findings)[subject])


def _values(findings: Findings) -> dict[str, list[str]]:
    """The answer to each query about an ECG."""
    return {
        "rhythm": [findings.rhythm],
        "territory": [findings.territory],
        "conduction": [label for label in _CONDUCTION if label in findings.labels],
        "axis": [findings.axis],
        "noise": [findings.noise],
        "rate": [findings.rate_range],
    }


def _names(first: Findings, second: Findings) -> tuple[str, int, tuple[str, str]]:
    """Question type, offset of template_id, and names of the two ECGs in the question."""
    if first.patient == second.patient:
        return "comparison_consecutive", 0, ("previous ECG", "recent ECG")
    return "comparison_irrelevant", 30, ("first ECG", "second ECG")


def _relations(first: Findings, second: Findings) -> dict[str, list[str]]:
    """The labels that are new in the second ECG, gone from it, and shared by both, in the order used in answers."""
    before, after = set(first.labels), set(second.labels)
    sets = {"new": after - before, "gone": before - after, "shared": before & after}
    return {relation: [label for label in _SHARE if label in labels] for relation, labels in sets.items()}


def _compare_verify(first: Findings, second: Findings, rng: np.random.Generator) -> dict:
    kind, offset, names = _names(first, second)
    pairs = [(relation, label) for relation in _COMPARE_VERIFY for label in _SHARE]
    relations = _relations(first, second)
    answers = [label in relations[relation] for relation, label in pairs]
    # About one in eight pairs is true.
    place = _pick(range(len(pairs)), rng, [7.0 if answer else 1.0 for answer in answers])
    relation, label = pairs[place]
    template_id, wording = _COMPARE_VERIFY[relation]
    question = wording.format(*names, label)
    answer = ["yes" if answers[place] else "no"]
    return _row(f"{kind}-verify", _ATTRIBUTE_TYPE[label], template_id + offset, question, answer)


def _compare_query(first: Findings, second: Findings, rng: np.random.Generator) -> dict:
    kind, offset, names = _names(first, second)
    before, after = _values(first), _values(second)
    normal = ("none", "normal heart axis")
    answers = {
        subject: [item for item in after[subject] if item not in (*before[subject], *normal)]
        for subject in _COMPARE_QUERY
        if subject in after
    }
    answers |= {name: labels for name, labels in _relations(first, second).items() if len(labels) <= _MAX_ITEMS}
    # Most ECGs agree in most findings. This reduces the share of the answer "none" from three quarters to about a
    # quarter.
    found = [subject for subject in _COMPARE_QUERY if answers.get(subject)]
    subject = _pick(
        found if found and rng.random() < 0.7 else [name for name in _COMPARE_QUERY if name in answers], rng
    )
    template_id, attribute_type, wording = _COMPARE_QUERY[subject]
    question = wording.format(*names)
    return _row(f"{kind}-query", attribute_type, template_id + offset, question, answers[subject])
