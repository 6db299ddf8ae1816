"""Uncertainty of scores: bootstrap over patients, paired permutation of patients, interval of the mean of runs."""

from collections.abc import Sequence

import numpy as np
from scipy import stats


CONFIDENCE = 0.95
NUM_RESAMPLES = 1000
NUM_PERMUTATIONS = 10_000
CHUNK = 100


class PatientBootstrap:
    """
    Draws patients with replacement, and with each patient all that was asked about them.

    A question about ECGs of two patients counts as often as both were drawn, the product of their numbers (the pigeonhole
    bootstrap of Owen 2007, Annals of Applied Statistics 1:386; its intervals tend to be too wide). All statistics use the
    same draws, so that differences of scores are paired.

    Args:
        patients: for each question, the patients whose ECGs it is about. Each question without an ECG counts as a
            patient of its own.
        num_resamples: number of resamples.
        seed: random seed for drawing.
    """

    def __init__(self, patients: Sequence[Sequence[str]], num_resamples: int = NUM_RESAMPLES, seed: int = 0):
        tuples = [tuple(sorted(set(those))) or (f"question {row}",) for row, those in enumerate(patients)]
        self.members = list(dict.fromkeys(tuples))
        place = {those: number for number, those in enumerate(self.members)}
        self.group = np.array([place[those] for those in tuples])
        names = sorted({patient for those in self.members for patient in those})
        number = {name: index for index, name in enumerate(names)}
        self.patients_of_group = [[number[name] for name in those] for those in self.members]
        self.num_patients = len(names)
        self.num_resamples = num_resamples
        draws = np.random.default_rng(seed).integers(0, len(names), (num_resamples, len(names)))
        self._drawn = np.stack([np.bincount(draw, minlength=len(names)) for draw in draws]).astype(np.int16)

    def sums(self, values: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """
        Sums over questions in every resample.

        Args:
            values: float array `(questions, columns)`.
            rows: numbers `(questions,)` of these questions among all questions.

        Returns:
            `(num_resamples, columns)`.
        """
        groups, place = np.unique(self.group[rows], return_inverse=True)
        totals = np.zeros((len(groups), values.shape[1]))
        np.add.at(totals, place, values)
        members = [self.patients_of_group[group] for group in groups]
        most = max(map(len, members))
        # Groups of fewer patients are filled up with a patient who is drawn exactly once.
        filled = np.array([those + [self.num_patients] * (most - len(those)) for those in members])
        sums = []
        for start in range(0, self.num_resamples, CHUNK):
            drawn = np.pad(self._drawn[start : start + CHUNK], ((0, 0), (0, 1)), constant_values=1)
            sums.append(drawn[:, filled].astype(float).prod(axis=2) @ totals)
        return np.concatenate(sums)

    def question_weights(self) -> np.ndarray:
        """How often each question was drawn, `(num_resamples, questions)` float64, for statistics that are not sums."""
        groups = [self._drawn[:, those].prod(axis=1) for those in self.patients_of_group]
        return np.stack(groups, axis=1)[:, self.group].astype(float)

    def count_patients(self, rows: np.ndarray) -> int:
        """Number of patients whom these questions are about."""
        groups = np.unique(self.group[rows])
        return len({patient for group in groups for patient in self.patients_of_group[group]})


def percentile_interval(samples: np.ndarray, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The interval between percentiles of resampled values; NaN, where the score is not defined, is ignored."""
    tail = 50 * (1 - confidence)
    low, high = np.nanpercentile(samples, [tail, 100 - tail])
    return float(low), float(high)


def all_or_none_interval(is_all: bool, num_patients: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """
    Interval of a share of 1 or 0, of which the bootstrap would make a point: that of Clopper & Pearson (1934), with one
    trial per patient.
    """
    tail = ((1 - confidence) / 2) ** (1 / num_patients)
    return (tail, 1.0) if is_all else (0.0, 1 - tail)


def difference_interval(values: np.ndarray, num_patients: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """
    Interval of a difference of two scores between 0 and 1.

    Args:
        values: `(1 + num_resamples,)`, the difference itself first. A difference of 1 or -1, of which the bootstrap would
            make a point, is rescaled to a share of 1 or 0: see [`all_or_none_interval`].
        num_patients: number of patients that the difference rests on.
        confidence: confidence level of the interval.
    """
    if abs(values[0]) < 1:
        return percentile_interval(values[1:], confidence)
    low, high = all_or_none_interval(values[0] > 0, num_patients, confidence)
    return 2 * low - 1, 2 * high - 1


def paired_permutation_test(
    differences: np.ndarray, counted: np.ndarray, patients: Sequence[Sequence[str]], seed: int = 0
) -> float:
    """
    Two-sided p-value of a difference between two models that answered the same questions.

    If the models do not differ, exchanging them for one patient changes nothing: the differences get a random sign, one per
    patient. The statistic is the mean over columns (question types) of the mean difference. The test is made twice, with
    questions about two patients assigned to the first and to the second patient, and the larger p-value is returned.

    Args:
        differences: `(questions, columns)`: score of one model minus that of the other, 0 where a column does not count.
        counted: `(questions, columns)`: 1 where the column counts, else 0.
        patients: the patients of each question.
        seed: random seed for the signs.
    """
    num = counted.sum(axis=0)
    p_values = []
    for place in (0, -1):
        owners = [those[place] if len(those) else f"question {row}" for row, those in enumerate(patients)]
        _, owner = np.unique(owners, return_inverse=True)
        totals = np.zeros((owner.max() + 1, differences.shape[1]))
        np.add.at(totals, owner, differences)
        totals = (totals / num).mean(axis=1)
        p_values.append(_sign_flip_p_value(totals, np.random.default_rng(seed)))
    return float(max(p_values))


def _sign_flip_p_value(totals: np.ndarray, rng: np.random.Generator) -> float:
    """How often a sum of `totals` with random signs is as far from 0 as with their own."""
    as_extreme = 0
    for _ in range(NUM_PERMUTATIONS // CHUNK):
        signs = rng.choice((-1.0, 1.0), (CHUNK, len(totals)))
        # Sums of the same numbers in another order can differ in the last digits.
        as_extreme += np.sum(np.abs(signs @ totals) >= abs(totals.sum()) - 1e-12)
    return (1 + as_extreme) / (1 + NUM_PERMUTATIONS)


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Student's interval of the mean of two or more runs; a point if all runs are equal."""
    mean, error = float(np.mean(values)), stats.sem(values)
    return stats.t.interval(confidence, len(values) - 1, mean, error) if error > 0 else (mean, mean)
