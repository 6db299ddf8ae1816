"""Folds of as many patients as PTB-XL has, and of as many questions as ECG-QA has: time, and how well labels keep their shares.

python benchmarks/folds.py
"""

import time

import numpy as np
from scipy.sparse import csr_matrix

from elm_hf.prepare.folds import MIN_PATIENTS, deal_patients, deviations


# Patients and labels of a dataset like PTB-XL, and the mean number of records of a patient.
NUM_PATIENTS, NUM_LABELS, RECORDS_PER_PATIENT = 20_000, 80, 1.16
# Questions of ECG-QA on PTB-XL (Oh et al. 2023), and the number of their question types and answers.
NUM_QUESTIONS, NUM_STRATA = 414_348, 700


def ptb_xl_like(num_patients: int = NUM_PATIENTS, seed: int = 0) -> tuple[csr_matrix, np.ndarray]:
    """
    Number of records of each patient with each label, `(patients, labels)`, and number of records, `(patients,)`. A
    record has three of the labels, whose frequencies fall as 1 / rank ** 1.6; a patient's records share labels.
    """
    rng = np.random.default_rng(seed)
    num_records = rng.geometric(1 / RECORDS_PER_PATIENT, num_patients)
    frequency = 1 / np.arange(1, NUM_LABELS + 1) ** 1.6
    labels = rng.choice(NUM_LABELS, (num_patients, 3), p=frequency / frequency.sum())
    counts = np.zeros((num_patients, NUM_LABELS), dtype=np.int64)
    for column in labels.T:
        counts[np.arange(num_patients), column] = rng.integers(1, num_records + 1)
    return csr_matrix(counts), num_records


def ecg_qa_like(seed: int = 0) -> tuple[csr_matrix, np.ndarray]:
    """The same for questions instead of records, whose strata are question types with an answer."""
    rng = np.random.default_rng(seed)
    frequency = 1 / np.arange(1, NUM_STRATA + 1)
    patient = rng.integers(NUM_PATIENTS, size=NUM_QUESTIONS)
    stratum = rng.choice(NUM_STRATA, NUM_QUESTIONS, p=frequency / frequency.sum())
    counts = csr_matrix((np.ones(NUM_QUESTIONS, dtype=np.int64), (patient, stratum)), shape=(NUM_PATIENTS, NUM_STRATA))
    counts.sum_duplicates()
    return counts, np.bincount(patient, minlength=NUM_PATIENTS)


def main() -> None:
    for name, (counts, sizes) in {"labels of records": ptb_xl_like(), "strata of questions": ecg_qa_like()}.items():
        start = time.perf_counter()
        test_fold, _ = deal_patients(counts, sizes, num_folds=5)
        seconds = time.perf_counter() - start
        common, in_patients, in_rows = deviations(counts, sizes, test_fold)
        print(
            f"{name}: {counts.shape[0]:,} patients, {sizes.sum():,} rows, {counts.shape[1]} labels: {seconds:.1f} s; "
            f"largest deviation of the {len(common)} labels with {MIN_PATIENTS} or more patients {in_patients.max():.1%} "
            f"in patients, {in_rows.max():.1%} in rows"
        )


if __name__ == "__main__":
    main()
