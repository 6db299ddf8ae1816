"""True folds over patients: test sets that partition them, no patient on both sides of a fold, strata kept."""

import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold


@dataclass(frozen=True)
class Fold:
    """
    One fold.

    Attributes:
        train, test: row numbers of the conversations on each side, in increasing order, int64.
        num_left_out: conversations about patients of both sides, which are on neither.
        test_patients: the patients of the test side, sorted.
    """

    train: np.ndarray
    test: np.ndarray
    num_left_out: int
    test_patients: list


def make_folds(
    patients: Sequence[Sequence[Hashable]], strata: Sequence[str], num_folds: int = 5, seed: int = 0
) -> list[Fold]:
    """
    Deal the patients out to folds, so that every stratum has about the same share in each.

    A conversation is in a fold's test when all its patients are, in its train when none is, and left out of that fold
    when it compares patients of both sides. The result depends on what the conversations are and on the seed, not on
    their order.

    Args:
        patients: for each conversation, the keys of the patients whose ECGs it is about. Keys are sortable and unique
            over all sources, for example `(source, patient_id)`.
        strata: for each conversation, the stratum whose share is to be kept. Strata of fewer than `num_folds` patients,
            which cannot be in every fold, are pooled.
        num_folds: number of folds, at least 2.
        seed: seed of the order in which patients are dealt out.

    Raises:
        ValueError: fewer patients than folds, or a conversation that names no patient.
    """
    if num_folds < 2:
        raise ValueError(
            f"num_folds (--num-folds) is {num_folds}; folds start at 2 (0 builds a dataset without folds)"
        )
    keys = sorted({patient for row in patients for patient in row})
    if len(keys) < num_folds:
        raise ValueError(
            f"{num_folds} folds need at least {num_folds} patients, and the conversations are about {len(keys)}; "
            "use more recordings, or num_folds (--num-folds) 0 for a dataset without folds"
        )
    number_of = {key: number for number, key in enumerate(keys)}
    conversation, patient = _pairs(patients, number_of)
    stratum = np.unique(np.asarray(strata, dtype=str), return_inverse=True)[1]
    stratum = _pool_rare(stratum[conversation], patient, num_folds)
    fold_of = np.empty(len(keys), dtype=np.int64)
    splitter = StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():  # of a pool that is itself smaller than the number of folds
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        for number, (_, test) in enumerate(splitter.split(conversation, stratum, patient)):
            fold_of[patient[test]] = number
    return [_fold(number, fold_of, conversation, patient, keys, len(patients)) for number in range(num_folds)]


def _pairs(patients: Sequence[Sequence[Hashable]], number_of: dict) -> tuple[np.ndarray, np.ndarray]:
    """All (conversation, patient) pairs, as two arrays of row numbers and patient numbers."""
    counts = np.array([len(row) for row in patients])
    if not counts.all():
        raise ValueError(f"conversation {int(np.argmin(counts))} names no patient, so it belongs to no side of a fold")
    conversation = np.repeat(np.arange(len(counts)), counts)
    return conversation, np.array([number_of[key] for row in patients for key in row])


def _pool_rare(stratum: np.ndarray, patient: np.ndarray, num_folds: int) -> np.ndarray:
    """The strata, those of fewer than `num_folds` patients made one (number -1)."""
    owners = np.unique(np.stack([stratum, patient]), axis=1)[0]
    return np.where(np.bincount(owners)[stratum] < num_folds, -1, stratum)


def _fold(
    number: int, fold_of: np.ndarray, conversation: np.ndarray, patient: np.ndarray, keys: list, num_rows: int
) -> Fold:
    in_test = fold_of[patient] == number
    share = np.bincount(conversation, weights=in_test, minlength=num_rows) / np.bincount(conversation)
    train, test = np.flatnonzero(share == 0), np.flatnonzero(share == 1)
    on_both_sides = np.intersect1d(patient[np.isin(conversation, train)], patient[np.isin(conversation, test)])
    if on_both_sides.size:  # this is what the whole file is for, so it is checked and not believed
        raise AssertionError(f"patients {[keys[key] for key in on_both_sides]} are in train and in test of a fold")
    test_patients = [keys[key] for key in np.flatnonzero(fold_of == number)]
    return Fold(train, test, num_rows - len(train) - len(test), test_patients)
