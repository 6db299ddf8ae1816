"""Several runs of one experiment: their mean, with intervals over patients and runs."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from test_report import predictions_of

from elm_hf.comparison.compare import compared
from elm_hf.comparison.runs import RunBootstrap, book_of_runs, difference_of_runs
from elm_hf.scoring.reliance import signal_reliance


def save_runs(folder, accuracies, first_seed=0):
    """Folders of runs; each accuracy is that with the ECG of one run."""
    folders = []
    for number, accuracy in enumerate(accuracies):
        folders.append(folder / str(number))
        folders[-1].mkdir(parents=True)
        predictions = predictions_of({"ecg": accuracy, "none": 0.4}, seed=first_seed + number)
        predictions.to_parquet(folders[-1] / "predictions.parquet")
    return folders


def test_the_variance_over_runs_is_that_of_their_mean():
    """All patients are alike, so that only the runs differ: the variance of their mean is s² / n, and its interval Student's."""
    runs, of_run = np.repeat(np.arange(3), 40), np.array([0.2, 0.5, 0.9])
    bootstrap = RunBootstrap([[f"s/{patient}"] for patient in range(40)] * 3, runs, num_resamples=20_000)
    means = bootstrap.means(of_run[runs][:, None], np.arange(120))[:, 0]
    assert means[0] == pytest.approx(of_run.mean())
    student = stats.t.ppf(0.975, 2) / stats.norm.ppf(0.975)
    assert means[1:].var() == pytest.approx(student**2 * of_run.var(ddof=1) / 3, rel=0.05)


def test_the_variance_over_patients_stays_if_runs_are_alike():
    """All runs are alike, so that they are one: the variance is that of a mean over 40 patients."""
    of_patient = np.random.default_rng(0).integers(0, 2, 40).astype(float)
    bootstrap = RunBootstrap(
        [[f"s/{patient}"] for patient in range(40)] * 3, np.repeat(np.arange(3), 40), num_resamples=20_000
    )
    means = bootstrap.means(np.tile(of_patient, 3)[:, None], np.arange(120))[:, 0]
    assert means[1:].var() == pytest.approx(of_patient.var() / 40, rel=0.05)


def test_runs_are_scored_together_and_compared(tmp_path):
    good = save_runs(tmp_path / "good", (0.95, 0.9, 0.85))
    poor = save_runs(tmp_path / "poor", (0.4, 0.4, 0.4), first_seed=3)
    books = book_of_runs(good), book_of_runs(poor)
    rows = np.arange(360)  # of three runs, 120 questions about 40 patients each
    shares = [np.mean([_right(folder) for folder in folders]) for folders in (good, poor)]
    group = books[0].group(rows)
    score = group["conditions"]["ecg"]["exact_match"]
    assert score["score"] == pytest.approx(shares[0]) and (group["answers"], group["patients"]) == (360, 40)
    found = difference_of_runs(*books, rows, "exact_match")
    assert found["difference"] == pytest.approx(shares[1] - shares[0])
    assert found["low"] < found["difference"] < found["high"] < 0
    reliance = signal_reliance(books[0], rows)
    assert reliance["score"] == pytest.approx(shares[0] - np.mean([_right(folder, "none") for folder in good]))
    assert reliance["reads_ecg"] and not signal_reliance(books[1], rows)["reads_ecg"]


def test_few_runs_that_differ_by_chance_do_not_show_a_difference():
    """Experiments of three runs whose shares of right answers are drawn from one distribution."""
    rng, patients, rows, false = np.random.default_rng(0), 400, np.arange(1200), 0
    bootstrap = RunBootstrap(
        [[f"s/{patient}"] for patient in range(patients)] * 3, np.repeat(np.arange(3), patients), num_resamples=300
    )
    for _ in range(100):
        shares = np.repeat(rng.normal(0.6, 0.1, (3, 2)), patients, axis=0)
        right = (rng.random(shares.shape) < shares).astype(float)
        false += compared(right, np.ones((len(rows), 1)), rows, bootstrap, is_share=True)["p_value"] < 0.05
    assert false <= 5


def test_runs_that_are_far_apart_do_not_show_a_difference(tmp_path):
    one, apart = save_runs(tmp_path / "one", (0.9,)), save_runs(tmp_path / "apart", (0.9, 0.4))
    poor = save_runs(tmp_path / "poor", (0.4, 0.4), first_seed=2)
    alone = difference_of_runs(book_of_runs(one), book_of_runs(poor[:1]), np.arange(120), "exact_match")
    both = difference_of_runs(book_of_runs(apart), book_of_runs(poor), np.arange(240), "exact_match")
    assert alone["high"] < 0 < both["high"]


def _right(folder, condition="ecg"):
    table = pd.read_parquet(folder / "predictions.parquet")
    table = table[table["condition"] == condition]
    return np.mean([said == ", ".join(truth) for said, truth in zip(table["prediction"], table["answer"])])


def test_runs_with_other_questions_are_refused(tmp_path):
    folders = save_runs(tmp_path, (0.9, 0.9))
    file = folders[1] / "predictions.parquet"
    pd.read_parquet(file).query("question_id != 'c3-1#0'").to_parquet(file)
    with pytest.raises(ValueError, match="119 and 120 questions, not the same; evaluate both on the same split"):
        book_of_runs(folders)
