"""Questions about simulated ECGs: the answers are true and balanced, and the rows have the fields of ECG-QA."""

import json
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest

from elm_hf.ecg.simulation import Findings, draw_findings, draw_follow_up
from elm_hf.prepare.simulated_questions import comparison_questions, single_questions


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
    territory="inferior",
    st_mv=0.3,
    axis_deg=-60.0,
    noise="baseline drift",
)
LABELS = (
    "sinus rhythm",
    "sinus bradycardia",
    "sinus tachycardia",
    "atrial fibrillation",
    "first degree av block",
    "wide qrs",
    "st elevation in anterior leads",
    "st elevation in inferior leads",
    "st elevation in lateral leads",
    "left ventricular hypertrophy",
    "left axis deviation",
    "right axis deviation",
    "static noise",
    "baseline drift",
)


# Sinus rhythms differ in the heart rate only, which is the subject of a query.
VERIFIED = LABELS[3:]


def many(ask, *findings, number=300):
    """Many questions about the same ECGs, drawn with different seeds."""
    return [row for seed in range(number) for row in ask(*findings, np.random.default_rng(seed))]


def answers_by_template(rows):
    answers = defaultdict(set)
    for row in rows:
        answers[row["template_id"]].add(tuple(row["answer"]))
    return answers


def label_in(question):
    (label,) = [label for label in LABELS if label in question]
    return label


def test_rows_have_the_fields_of_ecg_qa_and_can_be_saved_as_json():
    rows = many(single_questions, ILL) + many(comparison_questions, WELL, ILL)
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


@pytest.mark.parametrize("number", [1, 4, 12])
def test_the_requested_number_of_distinct_questions_is_drawn(number):
    for ask, findings in ((single_questions, (WELL,)), (comparison_questions, (WELL, ILL))):
        questions = {row["question"] for row in ask(*findings, np.random.default_rng(0), number=number)}
        assert len(questions) == number


def test_too_many_questions_are_refused():
    with pytest.raises(ValueError, match="number=21"):
        single_questions(WELL, np.random.default_rng(0), number=21)


def test_same_seed_gives_the_same_questions():
    first, again, other = (single_questions(ILL, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert first == again != other


def test_each_template_id_has_one_question_type():
    rows = many(single_questions, ILL) + many(comparison_questions, WELL, ILL)
    rows += many(comparison_questions, WELL, replace(ILL, patient=2))
    kinds = defaultdict(set)
    for row in rows:
        kinds[row["template_id"]].add(row["question_type"])
    assert all(len(kind) == 1 for kind in kinds.values())


def test_verify_is_yes_exactly_for_the_findings():
    answers = {}
    for row in many(single_questions, ILL):
        if row["question_type"] == "single-verify":
            (subject,) = [subject for subject in VERIFIED if subject in row["question"]]
            answers[subject] = row["answer"]
    present = ("wide qrs", "st elevation in inferior leads", "left axis deviation", "baseline drift")
    assert answers == {label: ["yes" if label in present else "no"] for label in VERIFIED}


def test_the_answer_to_choose_is_the_options_that_are_present():
    both = replace(ILL, rhythm="sinus rhythm", heart_rate=70.0, pr_ms=260.0)
    numbers = set()
    for findings in (WELL, ILL, both):
        for row in many(single_questions, findings):
            if row["question_type"] == "single-choose":
                options = [label for label in LABELS if label in row["question"]]
                assert len(options) == 2
                present = [label for label in options if label in findings.labels]
                assert row["answer"] == (present or ["none"])
                numbers.add(len(present))
    assert numbers == {0, 1, 2}


def test_queries_about_a_normal_ecg():
    rows = [row for row in many(single_questions, WELL) if row["question_type"] == "single-query"]
    assert answers_by_template(rows) == {
        20: {("sinus rhythm",)},
        21: {("none",)},
        22: {("none",)},
        23: {("normal heart axis",)},
        24: {("none",)},
        25: {("within the normal range",)},
    }


def test_queries_about_an_abnormal_ecg():
    rows = [row for row in many(single_questions, ILL) if row["question_type"] == "single-query"]
    assert answers_by_template(rows) == {
        20: {("sinus tachycardia",)},
        21: {("inferior",)},
        22: {("wide qrs",)},
        23: {("left axis deviation",)},
        24: {("baseline drift",)},
        25: {("above the normal range",)},
    }


def test_comparison_is_consecutive_for_one_patient_and_irrelevant_for_two():
    one = many(comparison_questions, WELL, ILL)
    two = many(comparison_questions, WELL, replace(ILL, patient=2))
    assert {row["question_type"].split("-")[0] for row in one} == {"comparison_consecutive"}
    assert {row["question_type"].split("-")[0] for row in two} == {"comparison_irrelevant"}
    assert {row["template_id"] + 30 for row in one} == {row["template_id"] for row in two}


def test_comparison_verify_asks_for_new_gone_and_shared_findings():
    second = replace(WELL, territory="lateral", st_mv=0.3, noise="static noise")
    first = replace(WELL, territory="inferior", st_mv=0.3, noise="static noise")
    truth = {
        31: {"st elevation in lateral leads"},
        32: {"st elevation in inferior leads"},
        33: {"sinus rhythm", "static noise"},
    }
    rows = [row for row in many(comparison_questions, first, second) if row["question_type"].endswith("verify")]
    for row in rows:
        expected = label_in(row["question"]) in truth[row["template_id"]]
        assert row["answer"] == ["yes" if expected else "no"], row
    assert {(row["template_id"], *row["answer"]) for row in rows} == {(t, a) for t in truth for a in ("yes", "no")}


def test_comparison_queries_list_the_changes():
    second = replace(WELL, qrs_ms=140.0, axis_deg=-60.0)
    first = replace(WELL, pr_ms=260.0, qrs_ms=140.0, noise="static noise", axis_deg=110.0)
    rows = [row for row in many(comparison_questions, first, second) if row["question_type"].endswith("query")]
    assert answers_by_template(rows) == {
        41: {("none",)},
        42: {("none",)},
        43: {("none",)},
        44: {("left axis deviation",)},
        45: {("none",)},
        47: {("left axis deviation",)},
        49: {("sinus rhythm", "wide qrs")},
    }
    # The findings that are gone (first degree AV block, right axis deviation, static noise) are more than two, so
    # there is no such question.
    rows = many(comparison_questions, second, replace(first, noise="none"))
    assert answers_by_template(rows)[47] == {("first degree av block", "right axis deviation")}


def test_answers_cannot_be_predicted_from_the_question():
    rng = np.random.default_rng(0)
    drawn = [draw_findings(rng) for _ in range(2000)]
    later = [draw_follow_up(findings, rng) for findings in drawn]
    sets = {
        "single": [row for findings in drawn for row in single_questions(findings, rng)],
        "consecutive": [row for pair in zip(drawn, later) for row in comparison_questions(*pair, rng)],
        "irrelevant": [row for pair in zip(drawn, drawn[1:]) for row in comparison_questions(*pair, rng)],
    }
    for name, rows in sets.items():
        for key in ("template_id", "question"):
            # The most frequent answer to the template or question in one half, scored on the other half.
            counts = defaultdict(Counter)
            half = len(rows) // 2
            for row in rows[:half]:
                counts[row[key]][tuple(row["answer"])] += 1
            right = [counts[row[key]].most_common(1)[:1] for row in rows[half:]]
            share = np.mean([bool(top) and list(top[0][0]) == row["answer"] for top, row in zip(right, rows[half:])])
            assert share < 0.5, (name, key, share)


def test_verify_answers_are_balanced_for_every_finding():
    rng = np.random.default_rng(0)
    rows = [row for _ in range(12000) for row in single_questions(draw_findings(rng), rng)]
    answers = defaultdict(list)
    for row in rows:
        if row["question_type"] == "single-verify":
            (subject,) = [subject for subject in VERIFIED if subject in row["question"]]
            answers[subject].append(row["answer"] == ["yes"])
    assert set(answers) == set(VERIFIED)
    assert all(0.4 < np.mean(yes) < 0.6 for yes in answers.values()), {k: np.mean(v) for k, v in answers.items()}
