"""The questions of the counterfactual probe: whether an ECG has a finding, in the words that a model was trained with."""

from collections.abc import Collection
from dataclasses import dataclass

from elm_hf.ecg.simulated_findings import (
    AXES,
    CONDUCTION_DELAY,
    CONDUCTIONS,
    HYPERTROPHY,
    LEFT_BLOCK,
    PROLONGED_QT,
    RATE_RANGES,
    RHYTHMS,
    RIGHT_BLOCK,
    TERRITORIES,
)
from elm_hf.prepare.label_wordings import VERIFY, phrase, wordings
from elm_hf.prepare.simulated_questions import query_question, verify_question


AV_BLOCK = CONDUCTIONS[0]
SLOW, FAST, FIBRILLATION = RHYTHMS[1:4]
LEFT_AXIS, RIGHT_AXIS = AXES[1:]
ELEVATIONS = {territory: f"st elevation in {territory} leads" for territory in TERRITORIES[1:]}
FINDINGS = (
    *(AV_BLOCK, CONDUCTION_DELAY, LEFT_BLOCK, RIGHT_BLOCK, PROLONGED_QT, SLOW, FAST, FIBRILLATION),
    *ELEVATIONS.values(),
    *(HYPERTROPHY, LEFT_AXIS, RIGHT_AXIS),
)

_WITHIN_OR_ABOVE = RATE_RANGES[1:]
# Open questions of simulated datasets: subject, all answers, and the answer of each finding.
_QUERIES = (
    ("pr", _WITHIN_OR_ABOVE, {AV_BLOCK: RATE_RANGES[2]}),
    ("qrs", _WITHIN_OR_ABOVE, {CONDUCTION_DELAY: RATE_RANGES[2]}),
    ("conduction", ("none", *CONDUCTIONS), {name: name for name in (CONDUCTION_DELAY, LEFT_BLOCK, RIGHT_BLOCK)}),
    ("qt", _WITHIN_OR_ABOVE, {PROLONGED_QT: RATE_RANGES[2]}),
    ("rate", RATE_RANGES, {SLOW: RATE_RANGES[0], FAST: RATE_RANGES[2]}),
    ("rhythm", RHYTHMS, {name: name for name in (SLOW, FAST, FIBRILLATION)}),
    ("territory", TERRITORIES, {finding: territory for territory, finding in ELEVATIONS.items()}),
    ("axis", AXES, {name: name for name in (LEFT_AXIS, RIGHT_AXIS)}),
)
# Names of the findings among the labels of records of patients. ST elevation of a territory is not among them.
_LABELS = {
    AV_BLOCK: ("first degree AV block", "prolonged PR interval"),
    CONDUCTION_DELAY: ("non-specific intraventricular conduction disturbance",),
    LEFT_BLOCK: ("complete left bundle branch block",),
    RIGHT_BLOCK: ("complete right bundle branch block",),
    PROLONGED_QT: ("long QT-interval",),
    SLOW: ("sinus bradycardia", "bradycardia"),
    FAST: ("sinus tachycardia",),
    FIBRILLATION: ("atrial fibrillation",),
    HYPERTROPHY: (
        "voltage criteria (QRS) for left ventricular hypertrophy",
        "left ventricular high voltage",
        "left ventricular hypertrophy",
    ),
    LEFT_AXIS: ("left axis deviation",),
    RIGHT_AXIS: ("right axis deviation",),
}


@dataclass(frozen=True)
class ProbeQuestion:
    """
    A question with a known set of answers.

    Attributes:
        finding: one of `FINDINGS`, which the question is asked for.
        text: the question.
        answers: all answers that can be given.
        positive: the answer that says that the finding is there.
    """

    finding: str
    text: str
    answers: tuple[str, ...]
    positive: str


def simulated_questions() -> dict[str, tuple[ProbeQuestion, ...]]:
    """For each finding the questions of datasets of simulated ECGs: yes or no, if there is one, then open ones."""
    questions = {finding: [] for finding in FINDINGS}
    for finding in FINDINGS:
        if (text := verify_question(finding)) is not None:
            questions[finding].append(_yes_or_no(finding, text))
    for subject, answers, positive in _QUERIES:
        for finding, answer in positive.items():
            questions[finding].append(ProbeQuestion(finding, query_question(subject), answers, answer))
    return {finding: tuple(found) for finding, found in questions.items()}


def questions_among(texts: Collection[str]) -> dict[str, tuple[ProbeQuestion, ...]]:
    """
    For each finding its questions among those of a dataset: the questions of simulated datasets, and the first wording of a
    yes/no question about a label with the meaning of the finding. A finding without a question has an empty tuple.

    Args:
        texts: all questions of the dataset.
    """
    texts = frozenset(texts)
    questions = {}
    for finding, simulated in simulated_questions().items():
        found = [question for question in simulated if question.text in texts]
        if not found:
            labelled = (
                wording.format(x=phrase(label))
                for label in _LABELS.get(finding, ())
                for wording in wordings("", VERIFY)
            )
            found = [_yes_or_no(finding, text) for text in labelled if text in texts][:1]
        questions[finding] = tuple(found)
    return questions


def _yes_or_no(finding: str, text: str) -> ProbeQuestion:
    return ProbeQuestion(finding, text, ("yes", "no"), "yes")
