"""Scores of answers, and their intervals, against hand computation and other libraries."""

import numpy as np
import pytest
from scipy import stats

from elm_hf.scoring.intervals import (
    Difference,
    PatientBootstrap,
    Support,
    holm,
    korn_graubard_interval,
    mean_interval,
    resampled_variance,
)
from elm_hf.scoring.metrics import statement_counts, statements, token_f1
from elm_hf.utils.exact_match import is_exact_match


@pytest.mark.parametrize(
    ("prediction", "truth", "expected"),
    [
        ("Lead II,  lead I.", ["lead I", "lead II"], True),
        ("lead I", ["lead I", "lead II"], False),
        ("lead I, lead II, lead III", ["lead I", "lead II"], False),
        ("", ["none"], False),
        (" . ", [""], False),
        # a class of ECG-QA with commas in its name
        (
            "bigeminal pattern (unknown origin, supraventricular, or ventricular)",
            ["bigeminal pattern (unknown origin, supraventricular, or ventricular)"],
            True,
        ),
    ],
)
def test_exact_match_compares_sets_of_items(prediction, truth, expected):
    assert is_exact_match(prediction, truth) is expected


def test_token_f1_counts_shared_words():
    # 2 of 3 predicted words are among the 2 true ones ("a" is an article): precision 2/3, recall 1
    assert token_f1("a Sinus rhythm, regular", "sinus rhythm") == pytest.approx(0.8)
    assert token_f1("", "sinus rhythm") == 0
    assert token_f1("sinus", "sinus") == 1


def test_statements_are_a_set():
    text = "1. Sinus rhythm.\n2. ST depression of 0.2 mV in V4; left axis deviation, LVH."
    assert statements(text) == {"sinus rhythm", "st depression of 0.2 mv in v4", "left axis deviation", "lvh"}
    assert statement_counts("LVH. Sinus rhythm. AV block", "sinus rhythm, lvh").tolist() == [2, 3, 2]
    assert statements(" . ") == set()


class TestTextMetrics:
    @pytest.fixture(autouse=True)
    def libraries(self):
        for name in ("sacrebleu", "rouge_score", "nltk"):
            pytest.importorskip(name, reason="needs the extra `eval`")

    PREDICTIONS = ["sinus rhythm with left axis deviation", "", "atrial fibrillation"]
    TRUTHS = ["sinus rhythm left axis deviation and lvh", "normal ecg in every lead", "atrial fibrillation"]

    @pytest.mark.parametrize("order", [1, 4])
    def test_bleu_from_sums_is_sacrebleus_corpus_bleu(self, order):
        from sacrebleu.metrics import BLEU

        from elm_hf.scoring.text_metrics import bleu_counts, bleu_of_sums

        sums = np.sum([bleu_counts(*pair) for pair in zip(self.PREDICTIONS, self.TRUTHS)], axis=0)
        expected = (
            BLEU(lowercase=True, max_ngram_order=order).corpus_score(self.PREDICTIONS, [self.TRUTHS]).score / 100
        )
        assert 0 < bleu_of_sums(sums, order) == pytest.approx(expected)

    def test_rouge_l_is_the_longest_common_subsequence(self):
        from elm_hf.scoring.text_metrics import rouge_l

        # "sinus rhythm left axis deviation": 5 of 6 predicted and 5 of 7 true words
        assert rouge_l(self.PREDICTIONS[0], self.TRUTHS[0]) == pytest.approx(2 * 5 / 13)
        assert rouge_l("", "sinus rhythm") == 0

    def test_rouge_l_is_that_of_the_library_and_reads_letters_beyond_a_to_z(self):
        from rouge_score.rouge_scorer import RougeScorer

        from elm_hf.scoring.text_metrics import rouge_l

        pair = ("No ST-T changes; flies 0.2 mV_high, rhythms", "no st changes, high rhythm of 0.2 mV's fly")
        expected = RougeScorer(["rougeL"], use_stemmer=True).score(*pair[::-1])["rougeL"].fmeasure
        assert rouge_l(*pair) == pytest.approx(expected) and 0 < expected < 1
        assert rouge_l("синусовый ритм", "синусовый ритм") == 1
        assert rouge_l("überdrehter Linkstyp", "berdrehter Linkstyp") == 0.5

    def test_meteor_by_hand(self):
        from elm_hf.scoring.text_metrics import meteor

        # 3 of 3 predicted, 3 of 4 true words in one chunk: F = 10 P R / (R + 9 P), penalty 0.5 (1/3)^3
        expected = 10 * 0.75 / (0.75 + 9) * (1 - 0.5 / 27)
        assert meteor("sinus rhythm present", "sinus rhythm present today") == pytest.approx(expected)
        assert meteor("", "sinus rhythm is present") == 0

    def test_identical_short_answers_are_not_given_a_bleu_4_or_meteor(self):
        from elm_hf.scoring.text_metrics import has_long_answer

        assert [has_long_answer(text) for text in ("yes", "left axis deviation", "sinus rhythm normal ecg")] == [
            0,
            0,
            1,
        ]


def clustered(rng: np.random.Generator, num_patients: int, each: int) -> tuple[np.ndarray, list]:
    """Scores, 0 or 1 with a chance of 0.6 altogether, that are alike within patients."""
    chance = rng.beta(1.2, 0.8, num_patients)
    scores = rng.random((num_patients, each)) < chance[:, None]
    return scores.ravel().astype(float), [(f"p{k}",) for k in range(num_patients) for _ in range(each)]


def variance_of(scores: np.ndarray, patients: list, num_resamples: int = 1000, seed: int = 0) -> float:
    bootstrap = PatientBootstrap(patients, num_resamples, seed)
    sums = bootstrap.sums(np.c_[scores, np.ones_like(scores)], np.arange(len(scores)))
    return resampled_variance(sums[:, 0] / sums[:, 1], Support(bootstrap.num_patients, len(scores)))


def test_the_variance_over_patients_is_that_of_means_of_clusters():
    rng = np.random.default_rng(0)
    scores, patients = clustered(rng, 40, 5)
    per_patient = scores.reshape(40, 5).mean(axis=1)
    assert variance_of(scores, patients, 4000) == pytest.approx(per_patient.var(ddof=1) / 40, rel=0.05)
    # questions that were drawn alone would seem more certain
    assert variance_of(scores, [(str(k),) for k in range(200)]) < 0.6 * per_patient.var(ddof=1) / 40


def test_the_interval_of_independent_answers_is_that_of_clopper_and_pearson():
    scores = np.r_[np.ones(13), np.zeros(7)]
    variance = scores.var(ddof=1) / 20
    interval = korn_graubard_interval(0.65, variance, Support(20, 20, is_share=True))
    # n - 1 in the place of n in the variance makes 19 answers of 20
    low, high = stats.beta.ppf(0.025, 0.65 * 19, 0.35 * 19 + 1), stats.beta.ppf(0.975, 0.65 * 19 + 1, 0.35 * 19)
    assert interval == pytest.approx((low, high))
    exact = stats.binomtest(13, 20).proportion_ci(method="exact")
    assert interval == pytest.approx((exact.low, exact.high), abs=0.01)
    # 20 answers about four patients: Student's quantiles for 19 and 3 degrees of freedom
    number = 0.65 * 0.35 / 0.01 * (stats.t.ppf(0.975, 19) / stats.t.ppf(0.975, 3)) ** 2
    low = stats.beta.ppf(0.025, 0.65 * number, 0.35 * number + 1)
    assert korn_graubard_interval(0.65, 0.01, Support(4, 20))[0] == pytest.approx(low)
    # right and wrong answers cannot be more certain than as many independent ones
    assert korn_graubard_interval(0.65, 1e-5, Support(20, 20, is_share=True)) == pytest.approx((exact.low, exact.high))
    assert np.ptp(korn_graubard_interval(0.65, 1e-5, Support(20, 20))) < 0.02


@pytest.mark.parametrize(
    ("patients", "each", "share", "alike"),
    [(6, 1, 0.5, 0), (6, 1, 0.9, 0), (10, 3, 0.5, 0.3), (10, 3, 0.9, 0.3), (50, 1, 0.97, 0), (50, 4, 0.6, 0.3)],
)
def test_the_interval_holds_the_true_score_in_95_of_100_cases(patients, each, share, alike):
    """With percentiles of the bootstrap in 86 to 90 of 100 for 6 to 10 patients, 89 for 50 patients and a share of 0.97."""
    rng, held = np.random.default_rng(0), []
    for _ in range(1500):
        strength = 1 / alike - 1 if alike else None
        chance = rng.beta(share * strength, (1 - share) * strength, patients) if alike else np.full(patients, share)
        means = (rng.random((patients, each)) < chance[:, None]).mean(axis=1)
        support = Support(patients, patients * each, is_share=True)
        low, high = korn_graubard_interval(means.mean(), means.var(ddof=1) / patients, support)
        held.append(low <= share <= high)
    assert np.mean(held) >= 0.94


def test_questions_about_two_patients_depend_on_both():
    """Each answer is right as far as both patients are easy; the interval of pairs has to allow for either."""
    held = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        ease = rng.normal(0, 1, 40)
        pairs = rng.permuted(np.tile(np.arange(40), (120, 1)), axis=1)[:, :2]
        scores = ease[pairs].sum(axis=1) + rng.normal(0, 1, 120)
        variance = variance_of(scores, [tuple(map(str, pair)) for pair in pairs], 200, seed)
        held.append(abs(scores.mean()) <= stats.t.ppf(0.975, 39) * variance**0.5)
    assert np.mean(held) >= 0.92


def test_sums_of_a_few_questions_use_the_same_draws():
    patients = [("a",), ("a", "b"), (), ("b",)]
    bootstrap = PatientBootstrap(patients, 50)
    rows = np.arange(4)
    weights = np.stack([bootstrap.sums(np.ones((1, 1)), rows[[k]])[:, 0] for k in rows], axis=1)
    np.testing.assert_array_equal(weights, bootstrap.question_weights())
    np.testing.assert_array_equal(weights[:, 1], weights[:, 0] * weights[:, 3])
    assert bootstrap.count_patients(rows) == 3  # the question without an ECG counts as a patient


def test_a_perfect_score_has_an_interval():
    found = korn_graubard_interval(1.0, 0.0, Support(30, 90))
    assert found == pytest.approx(stats.binomtest(30, 30).proportion_ci(method="exact"))
    assert korn_graubard_interval(0.0, 0.0, Support(30, 90)) == pytest.approx((1 - found[1], 1 - found[0]))


def difference_of(changes: np.ndarray) -> Difference:
    """Differences `(patients, answers)` of two models' scores."""
    gains, losses = changes.clip(0).mean(axis=1), (-changes).clip(0).mean(axis=1)
    draws = np.random.default_rng(0).integers(0, len(changes), (1000, len(changes)))
    samples = [np.r_[values.mean(), values[draws].mean(axis=1)] for values in (gains, losses)]
    return Difference.of_samples(*samples, Support(len(changes), changes.size, is_share=True))


def test_equal_answers_of_few_leave_room_for_a_difference():
    eight = difference_of(np.zeros((8, 1)))
    largest = stats.binomtest(0, 8).proportion_ci(method="exact").high
    assert eight.interval() == pytest.approx((-largest, largest)) and largest == pytest.approx(0.37, abs=0.001)
    assert eight.p_value() == 1
    assert difference_of(np.zeros((400, 1))).interval() == pytest.approx((-0.009, 0.009), abs=0.001)


def test_answers_that_all_change_are_judged_as_by_a_sign_test():
    for number in (5, 6, 8):
        found = difference_of(np.ones((number, 1)))
        assert found.p_value() == pytest.approx(2 / 2**number, rel=1e-3)
        assert (found.interval()[0] > 0) == (number > 5) and found.interval()[1] == 1


def test_large_samples_have_the_interval_of_the_normal_distribution():
    changes = np.random.default_rng(3).choice([-1.0, 0, 1], (3000, 1), p=[0.2, 0.5, 0.3])
    found, error = difference_of(changes), changes.std(ddof=1) / 3000**0.5
    expected = changes.mean() + 1.96 * error * np.array([-1, 1])
    assert found.interval() == pytest.approx(tuple(expected), abs=0.002)


def test_the_interval_leaves_out_0_exactly_where_the_test_sees_a_difference():
    rng, seen = np.random.default_rng(0), []
    for _ in range(60):
        found = difference_of(rng.choice([-1.0, 0, 1], (12, 2), p=[0.1, 0.5, 0.4]))
        low, high = found.interval()
        seen.append(low > 0 or high < 0)
        assert (found.p_value() < 0.05) == seen[-1]
    assert 10 < sum(seen) < 50  # both happen


@pytest.mark.parametrize("patients", [6, 20])
def test_the_test_rarely_sees_what_is_not_there(patients):
    rng, seen = np.random.default_rng(0), []
    for _ in range(300):
        scores = [rng.random((patients, 3)) < 0.6 for _ in range(2)]
        low, high = difference_of(scores[0].astype(float) - scores[1]).interval()
        seen.append(low > 0 or high < 0)
    assert np.mean(seen) <= 0.05


def test_holm_corrects_for_the_number_of_tests():
    # 3 * 0.01; 2 * 0.02 = 0.04; 0.03 is not below the one before
    assert holm({"b": 0.02, "a": 0.01, "c": 0.03}) == pytest.approx({"b": 0.04, "a": 0.03, "c": 0.04})
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0} and holm({}) == {}


def test_mean_of_runs_has_students_interval():
    assert mean_interval([0.5, 0.6, 0.7]) == pytest.approx(
        (0.6 - 4.302653 * 0.1 / 3**0.5, 0.6 + 4.302653 * 0.1 / 3**0.5)
    )
    assert mean_interval([0.5, 0.5]) == (0.5, 0.5)
