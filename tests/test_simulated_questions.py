"""Questions about simulated ECGs: the answers are true and balanced, and the rows have the fields of ECG-QA."""

import json
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest
from test_simulate import ELEVATIONS

from elm_hf.ecg.simulated_findings import (
    AXES,
    CONDUCTIONS,
    HYPERTROPHY,
    LEFT_BLOCK,
    NOISES,
    NORMAL_ECG,
    PROLONGED_QT,
    RHYTHMS,
    RIGHT_BLOCK,
    Findings,
    draw_patient,
)
from elm_hf.prepare.simulated_questions import comparison_questions, select_questions, single_questions


WELL = Findings(
    patient=1,
    rhythm="sinus rhythm",
    heart_rate=70.0,
    pr_ms=160.0,
    qrs_ms=90.0,
    qtc_ms=410.0,
    territory="none",
    st_mv=0.0,
    sokolow_mv=2.0,
    axis_deg=40.0,
    noise="none",
)
ILL = replace(
    WELL,
    heart_rate=120.0,
    rhythm="sinus tachycardia",
    qrs_ms=140.0,
    qrs_shape=RIGHT_BLOCK,
    territory="inferior",
    st_mv=0.3,
    axis_deg=-60.0,
    noise="baseline drift",
)
LABELS = (*RHYTHMS, *CONDUCTIONS, PROLONGED_QT, *ELEVATIONS, HYPERTROPHY, *AXES[1:], *NOISES[1:], NORMAL_ECG)
# The sinus rhythms differ in the heart rate only, which is the subject of a query.
VERIFIED = LABELS[3:]


def answers_by_template(questions):
    answers = defaultdict(set)
    for question in questions:
        answers[question.template_id].add(question.answer)
    return answers


def subject_of(question, labels=LABELS):
    """The label in a question; the longest one if others are part of it, as in "incomplete ..."."""
    return max((label for label in labels if label in question), key=len)


def of_kind(questions, kind):
    return [question for question in questions if question.question_type.endswith(kind)]


@pytest.fixture(scope="module")
def patients():
    generator = np.random.default_rng(0)
    return [draw_patient(generator, 2) for _ in range(1500)]


@pytest.fixture(scope="module")
def selected(patients):
    """Selected questions about single ECGs, pairs of a patient and pairs of patients."""
    generator = np.random.default_rng(1)
    first = [visits[0] for visits in patients]
    candidates = {
        "single": ([single_questions(one) for one in first], 12),
        "consecutive": ([comparison_questions(*visits) for visits in patients], 2),
        "irrelevant": ([comparison_questions(*pair) for pair in zip(first, first[1:])], 2),
    }
    return {name: select_questions(found, generator, number) for name, (found, number) in candidates.items()}


def test_rows_have_the_fields_of_ecg_qa_and_can_be_saved_as_json():
    questions = single_questions(ILL) + comparison_questions(WELL, ILL)
    rows = [question.row() for question in questions]
    assert json.loads(json.dumps(rows)) == rows
    for row in rows:
        assert list(row) == ["question_type", "attribute_type", "template_id", "question", "answer"]
        assert row["question"].endswith("?") and "{" not in row["question"]
        assert row["answer"] and all(item == item.lower() for item in row["answer"])
    assert {row["question_type"] for row in rows} == {
        "single-verify",
        "single-choose",
        "single-query",
        "comparison_consecutive-verify",
        "comparison_consecutive-query",
    }


def test_each_template_id_has_one_question_type():
    questions = single_questions(ILL) + comparison_questions(WELL, ILL)
    questions += comparison_questions(WELL, replace(ILL, patient=2))
    kinds = defaultdict(set)
    for question in questions:
        kinds[question.template_id].add(question.question_type)
    assert all(len(kind) == 1 for kind in kinds.values())


@pytest.mark.parametrize(
    ("findings", "present"),
    [
        (WELL, {"normal ecg"}),
        (ILL, {RIGHT_BLOCK, "st elevation in inferior leads", "left axis deviation", "baseline drift"}),
        (
            replace(WELL, rhythm="atrial flutter", pr_ms=None, qrs_shape=LEFT_BLOCK, qrs_ms=110.0, sokolow_mv=4.0),
            {"atrial flutter", f"incomplete {LEFT_BLOCK}", HYPERTROPHY},
        ),
    ],
)
def test_verify_is_yes_exactly_for_the_findings(findings, present):
    answers = {subject_of(one.question): one.answer for one in of_kind(single_questions(findings), "verify")}
    assert answers == {label: ("yes",) if label in present else ("no",) for label in VERIFIED}


def test_the_answer_to_choose_is_the_options_that_are_present():
    both = replace(ILL, rhythm="sinus rhythm", heart_rate=70.0, pr_ms=260.0)
    numbers = set()
    for findings in (WELL, ILL, both):
        for question in of_kind(single_questions(findings), "choose"):
            options = [label for label in LABELS if label in question.question]
            assert len(options) == 2
            present = {label for label in options if label in findings.labels}
            assert set(question.answer) == (present or {"none"})
            numbers.add(len(present))
    assert numbers == {0, 1, 2}


def test_queries_about_a_normal_ecg():
    assert answers_by_template(of_kind(single_questions(WELL), "query")) == {
        20: {("sinus rhythm",)},
        21: {("none",)},
        22: {("none",)},
        23: {("normal heart axis",)},
        24: {("none",)},
        25: {("within the normal range",)},
        26: {("within the normal range",)},
        27: {("within the normal range",)},
        28: {("within the normal range",)},
    }


def test_queries_about_an_abnormal_ecg():
    ill = replace(ILL, pr_ms=201.0, qtc_ms=461.0)
    assert answers_by_template(of_kind(single_questions(ill), "query")) == {
        20: {("sinus tachycardia",)},
        21: {("inferior",)},
        22: {("first degree av block", RIGHT_BLOCK)},
        23: {("left axis deviation",)},
        24: {("baseline drift",)},
        25: {("above the normal range",)},
        26: {("above the normal range",)},
        27: {("above the normal range",)},
        28: {("above the normal range",)},
    }


@pytest.mark.parametrize("rhythm", RHYTHMS[3:])
def test_pr_and_qt_are_not_asked_for_without_sinus_rhythm(rhythm):
    findings = replace(WELL, rhythm=rhythm, pr_ms=None)
    assert not {26, 28} & set(answers_by_template(single_questions(findings)))


def test_comparison_is_consecutive_for_one_patient_and_irrelevant_for_two():
    one = comparison_questions(WELL, ILL)
    two = comparison_questions(WELL, replace(ILL, patient=2))
    assert {question.question_type.split("-")[0] for question in one} == {"comparison_consecutive"}
    assert {question.question_type.split("-")[0] for question in two} == {"comparison_irrelevant"}
    assert {question.template_id + 30 for question in one} == {question.template_id for question in two}


def test_comparison_verify_asks_for_new_gone_and_shared_findings():
    second = replace(WELL, territory="lateral", st_mv=0.3, noise="static noise")
    first = replace(WELL, territory="inferior", st_mv=0.3, noise="static noise")
    truth = {
        31: {"st elevation in lateral leads"},
        32: {"st elevation in inferior leads"},
        33: {"sinus rhythm", "static noise"},
    }
    questions = of_kind(comparison_questions(first, second), "verify")
    for question in questions:
        expected = subject_of(question.question) in truth[question.template_id]
        assert question.answer == (("yes",) if expected else ("no",)), question
    assert len(questions) == 3 * len(LABELS[:-1])


def test_comparison_queries_list_the_changes():
    second = replace(WELL, qrs_ms=140.0, axis_deg=-60.0)
    first = replace(WELL, pr_ms=260.0, qrs_ms=140.0, noise="static noise", axis_deg=110.0)
    assert answers_by_template(of_kind(comparison_questions(first, second), "query")) == {
        41: {("none",)},
        42: {("none",)},
        43: {("none",)},
        44: {("left axis deviation",)},
        45: {("none",)},
        47: {("left axis deviation",)},
        48: {("first degree av block", "right axis deviation")},
        49: {("sinus rhythm", "nonspecific intraventricular conduction delay")},
    }


def test_long_lists_are_not_asked_for():
    assert 47 not in answers_by_template(comparison_questions(WELL, ILL))  # four new findings


def test_every_answer_to_a_question_is_about_equally_frequent(selected):
    """The most frequent answer to each question is right in little more than one over the number of answers."""
    for name, found in selected.items():
        answers = defaultdict(Counter)
        for question in [question for questions in found for question in questions]:
            answers[question[:4]][question.answer] += 1
        for key, counts in answers.items():
            assert len(counts) > 1
            assert max(counts.values()) <= np.ceil(counts.total() / 2), (name, key, counts)
        # Combinations of findings are rare, so the share of the most frequent answer is compared with common answers.
        expected = {"single-verify": 1 / 2, "single-choose": 1 / 3, "single-query": 1 / 2}
        for key, counts in answers.items() if name == "single" else ():
            common = [count for count in counts.values() if count > 0.2 * max(counts.values())]
            limit = min(expected[key[0]], 1.4 / len(common)) + 0.05
            assert max(counts.values()) <= limit * counts.total(), (key, counts)


def test_answers_cannot_be_predicted_from_the_question(selected):
    """The most frequent answer to each template or question in one half, scored on the other half."""
    for name, found in selected.items():
        questions = [question for asked in found for question in asked]
        order = np.random.default_rng(0).permutation(len(questions))
        halves = [[questions[place] for place in part] for part in np.array_split(order, 2)]
        for key in ("template_id", "question"):
            counts = defaultdict(Counter)
            for question in halves[0]:
                counts[getattr(question, key)][question.answer] += 1
            right = [
                question.answer == counts[getattr(question, key)].most_common(1)[0][0]
                for question in halves[1]
                if getattr(question, key) in counts
            ]
            assert np.mean(right) < 0.45, (name, key)


def test_every_finding_is_verified_chosen_and_compared(selected):
    verified = {subject_of(one.question) for asked in selected["single"] for one in of_kind(asked, "verify")}
    assert verified == set(VERIFIED)
    compared = {subject_of(one.question) for asked in selected["consecutive"] for one in of_kind(asked, "verify")}
    assert compared == set(LABELS[:-1])
    chosen = {answer for asked in selected["single"] for one in of_kind(asked, "choose") for answer in one.answer}
    assert chosen == {*RHYTHMS, *CONDUCTIONS[:4], *ELEVATIONS, *AXES[1:], *NOISES[1:], "none"}


def test_selection_is_distinct_limited_and_repeatable(patients, selected):
    found = selected["single"]
    assert all(len(set(questions)) == len(questions) for questions in found)
    assert 4 < np.mean([len(questions) for questions in found]) <= 12
    candidates = [single_questions(visits[0]) for visits in patients[:200]]
    again = [select_questions(candidates, np.random.default_rng(seed), 4) for seed in (0, 0, 1)]
    assert again[0] == again[1] != again[2]
    for questions, possible in zip(again[0], candidates):
        assert set(questions) <= set(possible)
