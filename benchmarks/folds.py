"""Folds of as many questions as ECG-QA has: the time it takes to make them, and how well they preserve the strata.

python benchmarks/folds.py
"""

import time

import numpy as np

from elm_hf.prepare.folds import make_folds


# Questions, patients and ECGs of ECG-QA on PTB-XL (Oh et al. 2023).
NUM_QUESTIONS, NUM_PATIENTS, NUM_ECGS = 414_348, 18_617, 21_000
# Questions about one ECG, about two of the same patient ("consecutive"), and about two of different patients
# ("irrelevant"). Verify questions have two answers.
SHARE_OF_TYPE = {
    "single-verify": 0.20,
    "single-choose": 0.14,
    "single-query": 0.16,
    "comparison_consecutive-verify": 0.05,
    "comparison_consecutive-query": 0.08,
    "comparison_irrelevant-verify": 0.16,
    "comparison_irrelevant-query": 0.21,
}
NUM_ANSWERS = 100


def ecg_qa_like(size: float = 1, seed: int = 0) -> tuple[list[list[str]], list[str]]:
    """Patients and stratum (question type and answer) of each of `size` times as many questions as ECG-QA has."""
    num_patients, num_ecgs = round(size * NUM_PATIENTS), round(size * NUM_ECGS)
    rng = np.random.default_rng(seed)
    patient_of = np.concatenate([np.arange(num_patients), rng.choice(num_patients, num_ecgs - num_patients)])
    common = 1 / np.arange(1, NUM_ANSWERS + 1) ** 1.1
    answers_of = rng.choice(NUM_ANSWERS, (num_ecgs, 3), p=common / common.sum())
    with_two = np.flatnonzero(np.bincount(patient_of)[patient_of] > 1)
    share = np.array(list(SHARE_OF_TYPE.values()))
    patients, strata = [], []
    for question_type in rng.choice(list(SHARE_OF_TYPE), round(size * NUM_QUESTIONS), p=share / share.sum()):
        first = rng.choice(with_two) if "consecutive" in question_type else rng.integers(num_ecgs)
        second = rng.integers(num_ecgs) if "irrelevant" in question_type else first
        answer = rng.integers(2) if question_type.endswith("verify") else answers_of[first, rng.integers(3)]
        patients.append([f"p{patient_of[first]:05d}", f"p{patient_of[second]:05d}"])
        strata.append(f"{question_type}: {answer}")
    return patients, strata


def main() -> None:
    patients, strata = ecg_qa_like()
    start = time.perf_counter()
    folds = make_folds(patients, strata)
    seconds = time.perf_counter() - start
    print(f"{len(patients):,} questions, {NUM_PATIENTS:,} patients, {len(set(strata))} strata: {seconds:.1f} s")
    for number, fold in enumerate(folds, 1):
        print(
            f"fold {number}: {len(fold.test):,} test questions, {fold.num_left_out:,} left out, largest deviation of "
            f"a stratum's share {fold.largest_deviation:.1%} ({fold.deviating_stratum})"
        )


if __name__ == "__main__":
    main()
