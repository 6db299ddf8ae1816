"""Calibration of a predictor whose confidence is known, against scikit-learn and by hand."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss
from test_report import RUN, question_row

from elm_hf.evaluation.report import build_report, write_report
from elm_hf.scoring.calibration import NUM_BINS, bins_of, expected_error, report_calibration, risk_coverage
from elm_hf.scoring.calibration_markdown import calibration_sections
from elm_hf.scoring.intervals import PatientBootstrap
from elm_hf.scoring.scores import Questions
from elm_hf.utils.reports import trust_sentences


RENDERS_CHARTS = True


def predictor(confidence: np.ndarray, right: np.ndarray, condition: str = "ecg", per_patient: int = 1) -> list[dict]:
    """An answer of each confidence, right or wrong as given."""
    return [
        question_row(
            f"q{row}", condition, "single-verify", ["yes"], "yes" if is_right else "no", [f"s/{row // per_patient}"]
        )
        | {"confidence": sure, "length_normalised": sure**0.5, "answer_set": "template"}
        for row, (sure, is_right) in enumerate(zip(confidence, right))
    ]


def calibration_of(rows: list[dict]) -> dict:
    questions = Questions(pd.DataFrame(rows))
    bootstrap = PatientBootstrap(questions.table["patient_ids"].tolist(), num_resamples=300, seed=0)
    return report_calibration(questions, bootstrap)


@pytest.fixture(scope="module")
def known():
    """Confidences, and answers that are right exactly so often."""
    rng = np.random.default_rng(0)
    confidence = rng.beta(2, 1, 2000)
    return confidence, rng.random(2000) < confidence


@pytest.fixture(scope="module")
def calibrated(known):
    return calibration_of(predictor(*known))


def test_figures_are_those_of_scikit_learn(known, calibrated):
    confidence, right = known
    found = calibrated["conditions"]["ecg"]
    share, mean = calibration_curve(right, confidence, n_bins=NUM_BINS, strategy="uniform")
    bins = found["reliability"]
    np.testing.assert_allclose([one["confidence"] for one in bins], mean)
    np.testing.assert_allclose([one["accuracy"]["score"] for one in bins], share)
    counts = np.histogram(confidence, np.linspace(0, 1, NUM_BINS + 1))[0]
    assert [one["answers"] for one in bins] == counts[counts > 0].tolist()
    ece = (np.abs(share - mean) * counts[counts > 0]).sum() / len(right)
    assert found["ece"]["score"] == pytest.approx(ece)
    assert found["brier"]["score"] == pytest.approx(brier_score_loss(right, confidence))


def test_a_calibrated_predictor_is_told_from_one_that_is_too_sure(known, calibrated):
    confidence, right = known
    found = calibrated["conditions"]["ecg"]
    assert found["overconfidence"]["low"] < 0 < found["overconfidence"]["high"]
    assert found["ece"]["low"] < found["ece"]["if_calibrated"] < found["ece"]["high"] < 0.06
    assert calibrated["sentences"][0].startswith("This model is as sure as it is right, as far as these answers show:")
    surer = np.minimum(confidence + 0.1, 1)
    too_sure = calibration_of(predictor(surer, right))
    difference = too_sure["conditions"]["ecg"]["overconfidence"]
    assert difference["score"] == pytest.approx(surer.mean() - right.mean()) and difference["low"] > 0.05
    assert too_sure["sentences"][0].startswith("This model is too sure:")
    assert calibration_of(predictor(confidence**2, right))["sentences"][0].startswith("This model is not sure enough:")
    # The square root of each probability, as the mean of two tokens of equal probability gives it, is not calibrated.
    normalised = calibrated["length_normalised"]
    assert normalised["length_normalised"]["ece"]["score"] > 3 * normalised["probability"]["ece"]["score"]


def test_the_error_by_chance_is_that_of_simulations(known):
    confidence = known[0][:300]
    bins, rng, errors = bins_of(confidence), np.random.default_rng(1), []
    for _ in range(400):
        difference = confidence - (rng.random(300) < confidence)
        errors.append(np.abs(np.bincount(bins, difference, NUM_BINS)).sum() / 300)
    assert expected_error(confidence, bins) == pytest.approx(np.mean(errors), rel=0.05)


def test_intervals_are_over_patients(known):
    """Ten equal answers of each patient say as much as one."""
    confidence, right = (np.repeat(values[:200], 10) for values in known)
    ten, one = (
        calibration_of(predictor(confidence, right, per_patient=10)),
        calibration_of(predictor(*(v[:200] for v in known))),
    )
    for name in ("ece", "brier", "confidence"):
        a, b = (found["conditions"]["ecg"][name] for found in (ten, one))
        assert a["score"] == pytest.approx(b["score"])
        assert a["high"] - a["low"] == pytest.approx(b["high"] - b["low"], rel=0.15)
    assert ten["conditions"]["ecg"]["patients"] == 200


def test_risk_coverage_by_hand():
    """Surest first: right, right, then a right and a wrong one of equal confidence, then a wrong one."""
    confidence = np.array([0.5, 0.9, 0.7, 0.7, 0.95])
    wrong = np.array([1, 0, 1, 0, 0.0])
    areas, accuracies = risk_coverage(confidence, wrong, np.ones((1, 5)), 0.8)
    assert areas[0] == pytest.approx((0 + 0 + 0.5 / 3 + 1 / 4 + 2 / 5) / 5)
    assert accuracies[0] == pytest.approx(3 / 4)
    # An answer that was drawn twice counts as two of equal confidence.
    weights = np.array([[2, 0, 1, 1, 3.0]])
    repeated = np.repeat(np.arange(5), weights[0].astype(int))
    twice = risk_coverage(confidence[repeated], wrong[repeated], np.ones((1, 7)), 0.8)
    assert risk_coverage(confidence, wrong, weights, 0.8)[1][0] == pytest.approx(twice[1][0])
    assert np.isnan(risk_coverage(confidence, wrong, np.zeros((1, 5)), 0.8)).all()


def test_the_order_of_confidence_lies_between_chance_and_the_best(known, calibrated):
    confidence, right = known
    curve = calibrated["risk_coverage"]
    assert curve["area_of_best_order"] < curve["area"]["low"] < curve["area"]["high"] < curve["area_of_random_order"]
    assert curve["area_of_random_order"] == pytest.approx(1 - right.mean())
    (best,), _ = risk_coverage(right.astype(float), 1.0 - right, np.ones((1, len(right))), 1)
    assert curve["area_of_best_order"] == pytest.approx(best)
    surest = np.argsort(-confidence)[:1600]
    assert curve["accuracy"]["score"] == pytest.approx(right[surest].mean())
    at = next(one for one in curve["thresholds"] if one["threshold"] == 0.9)
    assert at["accuracy"]["score"] == pytest.approx(right[confidence >= 0.9].mean())
    assert at["coverage"] == pytest.approx((confidence >= 0.9).mean())
    assert curve["curve"][-1][:2] == pytest.approx([1, right.mean()])


def test_the_report_says_whether_a_model_is_as_sure_without_the_ecg(known, tmp_path):
    confidence, right = (values[:120] for values in known)
    rows = predictor(confidence, right)
    rows[0] |= {"prediction": "", "confidence": None, "length_normalised": None, "answer_set": None}
    blind = predictor(confidence, np.arange(120) % 2 == 0, "none")
    text = [question_row("t", one, "report", ["a b c d e f g"], "a b", ["s/1"]) for one in ("ecg", "none")]
    report = write_report(tmp_path, pd.DataFrame([*rows, *blind, *text]), RUN)
    found = report["calibration"]
    assert found["free_text"] == 1 and found["conditions"]["ecg"]["without_confidence"] == 1
    assert found["conditions"]["ecg"]["answers"] == 119
    change = found["conditions"]["none"]["change"]
    assert change["score"] == pytest.approx(0) and change["low"] < 0 < change["high"]
    assert found["sentences"][-1].startswith("No evidence that it is less sure without the ECG: mean confidence 0.")
    assert trust_sentences(report)[: len(found["sentences"])] == found["sentences"]
    written = (tmp_path / "report.md").read_text()
    assert "## How sure the model is" in written and "![Calibration" in written
    assert (tmp_path / report["figures"]["calibration"]).stat().st_size > 10_000
    assert json.loads((tmp_path / "report.json").read_text())["calibration"] == found
    unsure = [row | {"confidence": row["confidence"] and row["confidence"] / 2} for row in blind]
    less = calibration_of([*rows, *unsure])["sentences"][-1]
    assert less.startswith("It is less sure without the ECG:")
    # A condition of models of signal and picture has a true ECG.
    with_picture = [row | {"condition": "picture_only"} for row in rows]
    assert calibration_of([*rows, *unsure, *with_picture])["sentences"][-1] == less


def test_without_confidences_there_is_no_calibration():
    rows = [question_row(f"q{row}", "ecg", "single-verify", ["yes"], "yes", [f"s/{row}"]) for row in range(8)]
    report = build_report(Questions(pd.DataFrame(rows)), RUN, None, 0)
    assert report["calibration"] is None and calibration_sections(report) == []
    assert trust_sentences(report) == trust_sentences({}) == []
    words = [row | {"answer": ["a b c d e f g"], "messages_answer": "a b c d e f g"} for row in rows]
    notes = build_report(Questions(pd.DataFrame(words)), RUN | {"calibration": True}, None, 0)["notes"]
    assert "no calibration: the answers are free text, of which no set is known" in notes
