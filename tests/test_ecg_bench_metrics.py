"""Text metrics as ECG-Bench computes them: against values worked out by hand, NLTK, and the package `rouge`."""

import numpy as np
import pandas as pd
import pytest
from nltk.translate.bleu_score import SmoothingFunction, corpus_bleu

from elm_hf.scoring.ecg_bench_metrics import (
    ecg_bench_report,
    ecg_bench_scores,
    ecg_bench_sections,
    rouge_scores,
)
from elm_hf.scoring.scores import Questions


def test_identical_answers_of_one_word():
    """BLEU: all words, and 0.1 of one smoothed sequence of 2 to 4 words for each answer; METEOR: half for one chunk of one."""
    scores = ecg_bench_scores(["yes", "no"], ["yes", "no"])
    assert scores["bleu"] == pytest.approx((0.1 / 2) ** 0.75)
    assert ecg_bench_scores(["yes"], ["yes"])["bleu"] == pytest.approx(0.1**0.75)  # 0.178
    assert scores["bleu_sentence"] == scores["accuracy"] == 1
    assert scores.get("meteor", scores.get("meteor_no_synonyms")) == 0.5
    assert scores["rouge_1"] == pytest.approx(1) and scores["rouge_2"] == 0 and scores["rouge_l"] == pytest.approx(1)


def test_case_and_punctuation_count():
    scores = ecg_bench_scores(["Sinus rhythm, normal axis"], ["sinus rhythm normal axis"])
    assert scores["accuracy"] == 0
    # Of four words only "normal" and "axis" are the same.
    assert scores["rouge_1"] == pytest.approx(0.5)


def test_rouge_worked_out_by_hand():
    """Sets of words and of pairs of words, and the union of the longest common subsequences of all parts."""
    one, two, longest = rouge_scores("sinus rhythm. normal axis", "normal axis. sinus bradycardia")
    assert one == pytest.approx(3 / 4)
    assert two == pytest.approx(1 / 3)  # normal axis
    assert longest == pytest.approx(3 / 4)  # sinus; normal axis
    # A word that is said again does not count again.
    assert rouge_scores("st st st st elevation", "st elevation")[0] == pytest.approx(1)
    assert rouge_scores(".", "sinus rhythm") == rouge_scores("sinus rhythm", "...") == (0, 0, 0)


def random_texts(number: int) -> list[str]:
    rng = np.random.default_rng(0)
    words = ["st", "elevation", "in", "leads", "v1", "rhythm.", "sinus", "Sinus", "normal.", ". ", "no"]
    return [" ".join(rng.choice(words, rng.integers(1, 14))).strip() for _ in range(number)]


def test_rouge_is_that_of_the_package():
    rouge = pytest.importorskip("rouge", reason="needs pip install rouge==1.0.1").Rouge()
    texts = [text for text in random_texts(400) if text.strip(". ")]
    for truth, prediction in zip(texts[::2], texts[1::2]):
        (expected,) = rouge.get_scores(prediction, truth)
        found = rouge_scores(truth, prediction)
        assert found == pytest.approx([expected[name]["f"] for name in ("rouge-1", "rouge-2", "rouge-l")], abs=1e-12)


def test_bleu_is_that_of_nltk_over_all_answers():
    texts = random_texts(60)
    expected = corpus_bleu(
        [[text.split()] for text in texts[::2]],
        [text.split() for text in texts[1::2]],
        smoothing_function=SmoothingFunction().method1,
    )
    assert ecg_bench_scores(texts[::2], texts[1::2])["bleu"] == expected


def test_empty_answers_are_left_out_and_the_true_answer_is_that_of_the_conversation():
    rows = [("Rhythm?", "sinus rhythm", "sinus rhythm"), ("AF?", "no", ""), ("Leads?", "I and II", "II")]
    table = pd.DataFrame(
        [
            {
                "question_id": question,
                "condition": "ecg",
                "question_type": "query",
                "answer": truth.split(" and "),
                "messages_answer": truth,
                "prediction": said,
                "finished": True,
                "patient_ids": ["p"],
            }
            for question, truth, said in rows
        ]
    )
    found = ecg_bench_report(Questions(table))
    scores = found["ecg"]
    assert (scores["pairs"], scores["empty"], scores["accuracy"]) == (2, 1, 0.5)
    # "II" is one of the three words of "I and II": precision 1, recall 1/3.
    assert scores["rouge_1"] == pytest.approx((1 + 0.5) / 2)
    (section,) = ecg_bench_sections(found)
    assert "| accuracy (equal strings) | 0.500 |" in section and "| empty answers, left out | 1 |" in section
