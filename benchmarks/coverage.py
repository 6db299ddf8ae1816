"""
How often the 95 % intervals of elm-hf hold the true score or difference, in simulations with few and many patients, beside
percentiles of the same bootstrap. It prints two tables in Markdown.

    python benchmarks/coverage.py --repetitions 4000
"""

import argparse

import numpy as np
from scipy import stats

from elm_hf.scoring.intervals import CONFIDENCE, Difference, Support, korn_graubard_interval, resampled_variance
from elm_hf.scoring.markdown import markdown_table


RESAMPLES = 1000
# Patients, answers of each, share of right answers, likeness of answers of a patient (intraclass correlation).
SHARES = [
    *((patients, 1, share, 0.0) for patients in (6, 10, 50, 200) for share in (0.5, 0.9, 0.97)),
    *((patients, 8, share, 0.3) for patients in (6, 10, 50, 200) for share in (0.5, 0.9, 0.97)),
]
# Patients, answers of each, shares of right answers of two models.
DIFFERENCES = [
    (patients, each, *shares)
    for patients, each in ((6, 1), (8, 1), (10, 4), (50, 4), (200, 1))
    for shares in ((0.5, 0.5), (0.9, 0.9), (0.97, 0.97), (0.6, 0.9))
]


def main(repetitions: int):
    rng = np.random.default_rng(0)
    rows = []
    for patients, each, share, alike in SHARES:
        held = np.mean([_share(rng, patients, each, share, alike) for _ in range(repetitions)], axis=0)
        rows.append([f"{patients} × {each}", f"{share:g}", f"{alike:g}", *(f"{100 * one:.1f}" for one in held)])
    print(markdown_table(["patients × answers", "share", "likeness", "elm-hf", "percentiles"], rows))
    rows = []
    for patients, each, first, second in DIFFERENCES:
        held = np.mean([_difference(rng, patients, each, first, second) for _ in range(repetitions)], axis=0)
        rows.append([f"{patients} × {each}", f"{first:g}, {second:g}", *(f"{100 * one:.1f}" for one in held)])
    print("\n" + markdown_table(["patients × answers", "shares", "elm-hf", "percentiles"], rows))


def _share(rng: np.random.Generator, patients: int, each: int, share: float, alike: float) -> tuple[bool, bool]:
    chance = np.full(patients, share)
    if alike:
        strength = 1 / alike - 1
        chance = rng.beta(share * strength, (1 - share) * strength, patients)
    means = (rng.random((patients, each)) < chance[:, None]).mean(axis=1)
    samples = means[rng.integers(0, patients, (RESAMPLES, patients))].mean(axis=1)
    support = Support(patients, patients * each, is_share=True)
    variance = resampled_variance(samples, support)
    intervals = korn_graubard_interval(means.mean(), variance, support), _percentiles(samples)
    return tuple(low <= share <= high for low, high in intervals)


def _difference(rng: np.random.Generator, patients: int, each: int, first: float, second: float) -> tuple[bool, bool]:
    """Both models find the same patients and questions hard."""
    hard = 0.55 * rng.normal(size=(patients, 1)) + 0.55 * rng.normal(size=(patients, each))
    rest = (1 - 2 * 0.55**2) ** 0.5
    right = [hard + rest * rng.normal(size=(patients, each)) < stats.norm.ppf(share) for share in (first, second)]
    change = right[1].astype(float) - right[0]
    parts = [values.mean(axis=1) for values in (change.clip(0), (-change).clip(0))]
    draws = rng.integers(0, patients, (RESAMPLES, patients))
    samples = [np.r_[values.mean(), values[draws].mean(axis=1)] for values in parts]
    found = Difference.of_samples(*samples, Support(patients, patients * each, is_share=True))
    intervals = found.interval(), _percentiles(samples[0][1:] - samples[1][1:])
    return tuple(low <= second - first <= high for low, high in intervals)


def _percentiles(samples: np.ndarray) -> tuple[float, float]:
    tail = 50 * (1 - CONFIDENCE)
    return tuple(np.percentile(samples, [tail, 100 - tail]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=4000, help="Number of simulated evaluations of each case.")
    main(parser.parse_args().repetitions)
