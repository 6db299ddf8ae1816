"""Uncertainty of scores: intervals from a bootstrap over patients, paired differences, Holm's correction, means of runs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special, stats


CONFIDENCE = 0.95
NUM_RESAMPLES = 1000
CHUNK = 100
# With fewer patients (or answers, if each is about two patients) not even differences of one sign are significant:
# 1 / 2^5 > 0.025.
LEAST_PATIENTS = 6
# P-values are not computed below this one.
LEAST_P_VALUE = 1e-6
P_VALUE_STEPS = 24
# A smaller variance comes from rounding: all answers have the same score.
ROUNDING = 1e-20


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

    def samples(self, values: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Sums over these questions, then in every resample, `(1 + num_resamples, columns)`; arguments as in [`sums`]."""
        return np.concatenate([values.sum(axis=0, keepdims=True), self.sums(values, rows)])

    def means(self, values: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """
        Means over these questions, then in every resample, `(1 + num_resamples, columns)`; NaN in resamples that have none of
        them. Arguments as in [`sums`].
        """
        sums = self.samples(np.column_stack([values, np.ones(len(rows))]), rows)
        with np.errstate(invalid="ignore", divide="ignore"):
            return sums[:, :-1] / sums[:, -1:]

    def question_weights(self) -> np.ndarray:
        """How often each question was drawn, `(num_resamples, questions)` float64, for statistics that are not sums."""
        groups = [self._drawn[:, those].prod(axis=1) for those in self.patients_of_group]
        return np.stack(groups, axis=1)[:, self.group].astype(float)

    def question_weights_in_chunks(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """[`question_weights`] of these questions, `CHUNK` resamples at a time, for many questions."""
        groups, place = np.unique(self.group[rows], return_inverse=True)
        for start in range(0, self.num_resamples, CHUNK):
            drawn = self._drawn[start : start + CHUNK]
            weights = [drawn[:, self.patients_of_group[group]].prod(axis=1) for group in groups]
            yield np.stack(weights, axis=1)[:, place].astype(float)

    def count_patients(self, rows: np.ndarray) -> int:
        """Number of patients whom these questions are about."""
        groups = np.unique(self.group[rows])
        return len({patient for group in groups for patient in self.patients_of_group[group]})

    def least(self, rows: np.ndarray) -> int:
        """Number of patients of these questions, or of the questions where these are fewer."""
        return min(self.count_patients(rows), len(rows))


@dataclass(frozen=True)
class Support:
    """
    What a score rests on.

    Attributes:
        patients: number of patients, or of answers where these are fewer. For an average over groups, that of the
            smallest group times the number of groups, but not more than all patients (see `scores.average_support`).
        answers: number of answers.
        is_share: whether each answer is right or wrong, so that no interval can be narrower than that of as many
            independent answers.
    """

    patients: int
    answers: int
    is_share: bool = False


def resampled_variance(samples: np.ndarray, support: Support) -> float:
    """
    Variance of a score from its values in the resamples `(num_resamples,)`, without those that are not defined. The
    bootstrap of n patients underestimates it by the factor (n - 1) / n.
    """
    return float(np.nanvar(samples)) * support.patients / (support.patients - 1)


def korn_graubard_interval(
    score: float, variance: float, support: Support, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """
    Interval of a score between 0 and 1 from clustered answers (Korn & Graubard 1998, Survey Methodology 24:193): that of
    Clopper & Pearson (1934) for the number of independent answers that would have the same variance, reduced by the ratio of
    Student's quantiles because the variance is estimated from few patients.

    Args:
        score: between 0 and 1.
        variance: of the score, with answers about one patient as one cluster. If it is 0, as where all answers are alike,
            each patient counts as one answer.
        support: two patients or more.
        confidence: confidence level of the interval.
    """
    tail = (1 - confidence) / 2
    number = float(support.patients)
    if variance > ROUNDING and 0 < score < 1:
        patients, answers = special.stdtrit(
            [support.patients - 1, max(support.answers, support.patients) - 1], 1 - tail
        )
        number = score * (1 - score) / variance * (answers / patients) ** 2
        if support.is_share:
            number = min(number, support.answers)
    right = score * number
    low = 0.0 if score == 0 else float(special.betaincinv(right, number - right + 1, tail))
    high = 1.0 if score == 1 else float(special.betaincinv(right + 1, number - right, 1 - tail))
    return low, high


@dataclass(frozen=True)
class Difference:
    """
    A difference of two scores of the same answers: the mean of what each answer gains minus the mean of what it loses.

    The interval combines those of gain and loss (the square-and-add method of Newcombe 1998, Statistics in Medicine
    17:2635, with their correlation), each by [`korn_graubard_interval`]. Answers that are all equal give an interval around
    0 that is wider the fewer patients there are. The test is the interval turned around: its p-value is below 0.05 exactly
    where the 95 % interval leaves out 0.

    Attributes:
        gain, loss: means between 0 and 1 of the gains and losses of the answers.
        gain_variance, loss_variance: their variances.
        correlation: between the two.
        support: two patients or more.
    """

    gain: float
    loss: float
    gain_variance: float
    loss_variance: float
    correlation: float
    support: Support

    @classmethod
    def of_samples(cls, gains: np.ndarray, losses: np.ndarray, support: Support) -> "Difference":
        """
        Args:
            gains, losses: `(1 + num_resamples,)`, the mean itself first; NaN where it is not defined.
            support: two patients or more.
        """
        gain, loss = (min(max(float(values[0]), 0.0), 1.0) for values in (gains, losses))
        variances = [resampled_variance(values[1:], support) for values in (gains, losses)]
        # That of answers which each gain, lose, or neither; patients may bring gain and loss further apart, not together.
        rest = (1 - gain) * (1 - loss)
        correlation = -1.0 if gain + loss >= 1 else -((gain * loss / rest) ** 0.5)
        defined = ~(np.isnan(gains[1:]) | np.isnan(losses[1:]))
        if min(variances) > 0:
            correlation = min(correlation, float(np.corrcoef(gains[1:][defined], losses[1:][defined])[0, 1]))
        return cls(gain, loss, *variances, correlation, support)

    @property
    def value(self) -> float:
        return self.gain - self.loss

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """The interval of the difference, between -1 and 1."""
        gain_low, gain_high = korn_graubard_interval(self.gain, self.gain_variance, self.support, confidence)
        loss_low, loss_high = korn_graubard_interval(self.loss, self.loss_variance, self.support, confidence)
        below = self._combined(self.gain - gain_low, loss_high - self.loss)
        above = self._combined(gain_high - self.gain, self.loss - loss_low)
        return max(self.value - below, -1.0), min(self.value + above, 1.0)

    def _combined(self, of_gain: float, of_loss: float) -> float:
        return max(of_gain**2 + of_loss**2 - 2 * self.correlation * of_gain * of_loss, 0.0) ** 0.5

    def p_value(self) -> float:
        """Two-sided: 1 minus the confidence at which an end of the interval is 0; not below `LEAST_P_VALUE`."""
        return p_value_of(lambda confidence: _leaves_out_zero(self.interval(confidence)))


def _leaves_out_zero(interval: tuple[float, float]) -> bool:
    return interval[0] > 0 or interval[1] < 0


def p_value_of(is_beyond: Callable[[float], bool]) -> float:
    """
    The p-value of a test that is an interval turned around.

    Args:
        is_beyond: whether the interval at a confidence level leaves out the null hypothesis.
    """
    least, most = np.log10(LEAST_P_VALUE), -1e-6  # an interval of confidence 0 is not defined
    if not is_beyond(1 - 10.0**most):
        return 1.0
    if is_beyond(1 - 10.0**least):
        return LEAST_P_VALUE
    for _ in range(P_VALUE_STEPS):
        middle = (least + most) / 2
        least, most = (least, middle) if is_beyond(1 - 10.0**middle) else (middle, most)
    return float(10.0**most)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """P-values corrected for their number (Holm 1979): the chance of a single false rejection stays below the level."""
    ordered = sorted(p_values.items(), key=lambda item: item[1])
    corrected, largest = {}, 0.0
    for place, (name, p_value) in enumerate(ordered):
        largest = max(largest, min(1.0, p_value * (len(ordered) - place)))
        corrected[name] = largest
    return {name: corrected[name] for name in p_values}


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Student's interval of the mean of two or more runs; a point if all runs are equal."""
    mean, error = float(np.mean(values)), stats.sem(values)
    return stats.t.interval(confidence, len(values) - 1, mean, error) if error > 0 else (mean, mean)
