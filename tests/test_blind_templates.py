"""What the question alone gives away, by template, on numbers that are counted by hand."""

import pandas as pd
import pytest

from elm_hf.leakage.blind_templates import template_report, template_sections
from elm_hf.scoring.names import BLIND
from elm_hf.scoring.scores import Questions, ScoreBook
from elm_hf.scoring.training_answers import blind_answers


def questions_of(*templates: tuple[int | None, str, list[str], list[str]]) -> pd.DataFrame:
    """Of number, wording, true answers and answers with the ECG; each question is about a patient of its own."""
    rows = []
    for template, wording, truths, said in templates:
        for truth, prediction in zip(truths, said):
            number = len(rows)
            words = {"question": wording.format(number), "answer": [truth], "messages_answer": truth}
            answered = {"condition": "ecg", "prediction": prediction, "finished": True}
            rows.append(
                {"question_id": f"q{number}", "question_type": "verify", "template_id": template}
                | words
                | answered
                | {"patient_ids": [f"p{number}"], "record_ids": [f"r{number}"]}
            )
    return pd.DataFrame(rows)


def report_of(asked: pd.DataFrame, training: pd.DataFrame) -> dict:
    questions = Questions(asked)
    questions.answers[BLIND] = blind_answers(questions.table, training)
    return template_report(ScoreBook(questions, 200, 0), training)


@pytest.fixture(scope="module")
def found() -> dict:
    asked = questions_of(
        (1, "Is this ECG of patient {} paced?", ["no"] * 9 + ["yes"], ["no"] * 9 + ["yes"]),
        (2, "Does this ECG of patient {} show AF?", ["no"] * 5 + ["yes"] * 5, ["no"] * 5 + ["yes"] * 4 + ["no"]),
        (None, "Is it normal?", ["yes"] * 2, ["no"] * 2),
    )
    training = pd.DataFrame(
        [("verify", 1, "", ["no"])] * 19
        + [("verify", 1, "", ["yes"])]
        + [("verify", 2, "", ["yes"])] * 3
        + [("verify", 2, "", ["no"])] * 2
        + [("verify", 3, "", ["no"])] * 50,
        columns=["question_type", "template_id", "question", "answer"],
    )
    return report_of(asked, training)


def test_the_majority_of_each_template_is_scored(found):
    paced, fibrillation, unknown = found["rows"]
    assert (paced["majority"], paced["blind"]["score"], paced["ecg"]) == ("no", 0.9, 1.0)
    assert (paced["training_answers"], paced["training_share"]) == (20, 0.95)
    assert paced["blind"]["low"] < 0.9 < paced["blind"]["high"]
    assert (fibrillation["majority"], fibrillation["blind"]["score"], fibrillation["ecg"]) == ("yes", 0.5, 0.9)
    # Of a template that is not in training: the majority of the question type.
    assert (unknown["majority"], unknown["blind"]["score"], unknown["training_answers"]) == ("no", 0.0, 0)
    assert unknown["training_share"] is None and unknown["template_id"] is None
    assert [row["answers"] for row in found["rows"]] == [10, 10, 2]


def test_the_most_leaking_templates_are_named(found):
    right = (9 + 5 + 0) / 22
    assert found["sentence"].startswith(
        f"Without ECG and model, the most frequent training answer to each template scores {right:.3f}. In 1 of 3 templates "
        f"({100 * 10 / 22:.0f} % of the questions) it scores 0.9 or more"
    )
    assert '"Is this ECG of patient 0 paced?" (no: 0.90).' in found["sentence"]
    (section,) = template_sections(found)
    assert "| Is this ECG of patient 0 paced? | no | 10 | 10 | 0.95 | 0.900 [" in section


def test_many_templates_are_limited_to_those_with_most_questions():
    asked = questions_of(*((number, "Question?", ["no"] * (1 + number % 2), ["no"] * 2) for number in range(150)))
    training = pd.DataFrame({"question_type": ["verify"], "template_id": [0], "question": [""], "answer": [["no"]]})
    found = report_of(asked, training)
    assert (found["templates"], found["left_out"], len(found["rows"])) == (150, 50, 100)
    assert sum(row["answers"] for row in found["rows"]) == 75 * 2 + 25


def test_a_report_without_a_blind_majority_has_no_section():
    assert template_sections(None) == []
