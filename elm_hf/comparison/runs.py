"""Several runs of one experiment, which differ in their random seed: their scores together, over patients and runs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import special

from elm_hf.comparison.compare import check_same_questions, compared, read_predictions
from elm_hf.scoring.intervals import CONFIDENCE, NUM_RESAMPLES, PatientBootstrap
from elm_hf.scoring.names import PREDICTIONS_NAME
from elm_hf.scoring.scores import SUMMED, Questions, ScoreBook


class RunBootstrap(PatientBootstrap):
    """
    Draws patients with replacement, and runs as well. Sums and means of the answers of all runs then vary as if other
    patients had been asked about and other runs had been made.

    The patients are drawn for all runs together. To this is added by how much the sum of the drawn runs, of all patients,
    differs from that of all runs: drawing both at once would count twice, and in an interval of few runs many times, that two
    runs give different answers about the same patient. Of n runs n - 1 are drawn, without which the variance of
    their mean would be too small by the factor (n - 1) / n (McCarthy & Snowden 1985, Vital and Health Statistics 2:95).
    Since a variance of few runs is itself uncertain, the difference is larger by the ratio of Student's quantile of n
    runs to the normal one: where only the runs differ, the 95 % interval is Student's. Of a single run, only patients vary.

    Args:
        patients: for each answer, the patients whose ECGs the question is about.
        runs: for each answer the number of its run, from 0 on.
        num_resamples: number of resamples.
        seed: random seed for drawing.
    """

    def __init__(
        self,
        patients: Sequence[Sequence[str]],
        runs: Sequence[int],
        num_resamples: int = NUM_RESAMPLES,
        seed: int = 0,
    ):
        super().__init__(patients, num_resamples, seed)
        self.runs = np.asarray(runs)
        self.num_runs = int(self.runs.max()) + 1
        draws = np.random.default_rng([seed, 1]).integers(
            self.num_runs, size=(num_resamples, max(1, self.num_runs - 1))
        )
        drawn = np.stack([np.bincount(draw, minlength=self.num_runs) for draw in draws])
        self._deviations = student_ratio(self.num_runs) * (drawn / drawn.mean() - 1)

    def sums(self, values: np.ndarray, rows: np.ndarray) -> np.ndarray:
        of_run = np.stack([values[self.runs[rows] == run].sum(axis=0) for run in range(self.num_runs)])
        return super().sums(values, rows) + self._deviations @ of_run


def student_ratio(number: int) -> float:
    """Student's quantile of the mean of this many runs, divided by the normal one; 1 for a single run."""
    tail = (1 + CONFIDENCE) / 2
    return float(special.stdtrit(number - 1, tail) / special.ndtri(tail)) if number > 1 else 1.0


def book_of_runs(folders: Sequence[Path], seed: int = 0) -> ScoreBook:
    """
    The answers of several runs to the same questions, with a [`RunBootstrap`].

    Args:
        folders: of `elm-hf evaluate`, one for each run.
        seed: random seed for the bootstrap.

    Returns:
        A book with a row for each run and question, run after run; column `run` of its table is the number of the run.

    Raises:
        ValueError: a folder has no finished evaluation, or the questions are not the same.
    """
    first = read_predictions(folders[0], "ecg")
    tables = []
    for number, folder in enumerate(folders):
        asked = read_predictions(folder, "ecg")
        if not asked.index.equals(first.index):
            raise ValueError(
                f"{folder} and {folders[0]}: {len(asked)} and {len(first)} questions, not the same; evaluate both on the same "
                "split with the same --limit"
            )
        check_same_questions((folders[0], folder), (first, asked))
        table = pd.read_parquet(Path(folder) / PREDICTIONS_NAME)
        tables.append(table.assign(run=number, question_id=f"run {number}, " + table["question_id"]))
    book = ScoreBook(Questions(pd.concat(tables, ignore_index=True)), NUM_RESAMPLES, seed)
    table = book.questions.table
    book.bootstrap = RunBootstrap(table["patient_ids"].tolist(), table["run"], NUM_RESAMPLES, seed)
    return book


def difference_of_runs(first: ScoreBook, second: ScoreBook, rows: np.ndarray, metric: str) -> dict:
    """
    The difference of two experiments with as many runs each, over patients and runs; answers are paired by run and
    question.

    Args:
        first, second: of [`book_of_runs`], about the same questions.
        rows: numbers of the questions, all of one kind.
        metric: one of `SUMMED`.

    Returns:
        Both scores and the `difference` (second minus first) with `low`, `high` and `p_value`, as in [`compare`].

    Raises:
        ValueError: the two have different questions or numbers of runs.
    """
    if not first.questions.table.index.equals(second.questions.table.index):
        raise ValueError("the two experiments have different questions or numbers of runs")
    column = SUMMED.index(metric)
    scores = np.stack([book.values["ecg"][rows, column] for book in (first, second)], axis=1)
    return compared(scores, np.ones((len(rows), 1)), rows, first.bootstrap, is_share=True)
