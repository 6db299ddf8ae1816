"""Scores of answers, and their intervals, against hand computation and other libraries."""

import numpy as np
import pytest
from scipy import stats

from elm_hf.evaluation.intervals import (
    PatientBootstrap,
    all_or_none_interval,
    mean_interval,
    paired_permutation_test,
    percentile_interval,
)
from elm_hf.evaluation.metrics import statement_counts, statements, token_f1
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

        from elm_hf.evaluation.text_metrics import bleu_counts, bleu_of_sums

        sums = np.sum([bleu_counts(*pair) for pair in zip(self.PREDICTIONS, self.TRUTHS)], axis=0)
        expected = (
            BLEU(lowercase=True, max_ngram_order=order).corpus_score(self.PREDICTIONS, [self.TRUTHS]).score / 100
        )
        assert 0 < bleu_of_sums(sums, order) == pytest.approx(expected)

    def test_rouge_l_is_the_longest_common_subsequence(self):
        from elm_hf.evaluation.text_metrics import rouge_l

        # "sinus rhythm left axis deviation": 5 of 6 predicted and 5 of 7 true words
        assert rouge_l(self.PREDICTIONS[0], self.TRUTHS[0]) == pytest.approx(2 * 5 / 13)
        assert rouge_l("", "sinus rhythm") == 0

    def test_rouge_l_is_that_of_the_library_and_reads_letters_beyond_a_to_z(self):
        from rouge_score.rouge_scorer import RougeScorer

        from elm_hf.evaluation.text_metrics import rouge_l

        pair = ("No ST-T changes; flies 0.2 mV_high, rhythms", "no st changes, high rhythm of 0.2 mV's fly")
        expected = RougeScorer(["rougeL"], use_stemmer=True).score(*pair[::-1])["rougeL"].fmeasure
        assert rouge_l(*pair) == pytest.approx(expected) and 0 < expected < 1
        assert rouge_l("синусовый ритм", "синусовый ритм") == 1
        assert rouge_l("überdrehter Linkstyp", "berdrehter Linkstyp") == 0.5

    def test_meteor_by_hand(self):
        from elm_hf.evaluation.text_metrics import meteor

        # 3 of 3 predicted, 3 of 4 true words in one chunk: F = 10 P R / (R + 9 P), penalty 0.5 (1/3)^3
        expected = 10 * 0.75 / (0.75 + 9) * (1 - 0.5 / 27)
        assert meteor("sinus rhythm present", "sinus rhythm present today") == pytest.approx(expected)
        assert meteor("", "sinus rhythm is present") == 0

    def test_identical_short_answers_are_not_given_a_bleu_4_or_meteor(self):
        from elm_hf.evaluation.text_metrics import has_long_answer

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


def test_bootstrap_over_patients_is_scipys_bootstrap_of_clusters():
    rng = np.random.default_rng(0)
    scores, patients = clustered(rng, 40, 5)
    bootstrap = PatientBootstrap(patients, 4000)
    samples = bootstrap.sums(np.c_[scores, np.ones_like(scores)], np.arange(len(scores)))
    ours = percentile_interval(samples[:, 0] / samples[:, 1])
    per_patient = scores.reshape(40, 5).mean(axis=1)
    theirs = stats.bootstrap((per_patient,), np.mean, n_resamples=4000, method="percentile", random_state=1)
    assert ours == pytest.approx(tuple(theirs.confidence_interval), abs=0.015)
    # questions that were drawn alone would seem twice as certain
    alone = PatientBootstrap([(str(k),) for k in range(len(scores))], 1000)
    samples = alone.sums(np.c_[scores, np.ones_like(scores)], np.arange(len(scores)))
    narrow = percentile_interval(samples[:, 0] / samples[:, 1])
    assert ours[1] - ours[0] > 1.5 * (narrow[1] - narrow[0])


def test_the_interval_holds_the_true_score_in_95_of_100_cases():
    held = []
    for seed in range(300):
        scores, patients = clustered(np.random.default_rng(seed), 50, 4)
        samples = PatientBootstrap(patients, 300, seed).sums(np.c_[scores, np.ones_like(scores)], np.arange(200))
        low, high = percentile_interval(samples[:, 0] / samples[:, 1])
        held.append(low <= 0.6 <= high)
    assert 0.91 <= np.mean(held) <= 0.98


def test_questions_about_two_patients_depend_on_both():
    """Each answer is right as far as both patients are easy; the interval of pairs has to allow for either."""
    held = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        ease = rng.normal(0, 1, 40)
        pairs = rng.permuted(np.tile(np.arange(40), (120, 1)), axis=1)[:, :2]
        scores = ease[pairs].sum(axis=1) + rng.normal(0, 1, 120)
        samples = PatientBootstrap([tuple(map(str, pair)) for pair in pairs], 200, seed).sums(
            np.c_[scores, np.ones(120)], np.arange(120)
        )
        low, high = percentile_interval(samples[:, 0] / samples[:, 1])
        held.append(low <= 0 <= high)
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
    low, high = all_or_none_interval(True, 30)
    assert (low, high) == pytest.approx(stats.binomtest(30, 30).proportion_ci(method="exact"))
    assert all_or_none_interval(False, 30) == pytest.approx((1 - high, 1 - low))


def test_the_permutation_test_is_exact_on_a_small_case():
    # Four patients with differences 1, 1, 1, 3: only all signs + or all - are as extreme, 2 of 16.
    differences = np.array([1.0, 1, 1, 1, 2])[:, None]
    patients = [("a",), ("b",), ("c",), ("d",), ("d",)]
    assert paired_permutation_test(differences, np.ones((5, 1)), patients) == pytest.approx(2 / 16, abs=0.012)
    assert paired_permutation_test(0 * differences, np.ones((5, 1)), patients) == 1


def test_the_permutation_test_rarely_sees_what_is_not_there():
    p_values = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        scores, patients = clustered(rng, 30, 4)
        other, _ = clustered(rng, 30, 4)
        p_values.append(paired_permutation_test((scores - other)[:, None], np.ones((120, 1)), patients, seed))
    assert np.mean(np.array(p_values) < 0.05) <= 0.15
    assert stats.kstest(p_values, "uniform").pvalue > 0.01


def test_mean_of_runs_has_students_interval():
    assert mean_interval([0.5, 0.6, 0.7]) == pytest.approx(
        (0.6 - 4.302653 * 0.1 / 3**0.5, 0.6 + 4.302653 * 0.1 / 3**0.5)
    )
    assert mean_interval([0.5, 0.5]) == (0.5, 0.5)
