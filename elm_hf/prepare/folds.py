"""Stratified folds with disjoint patients: the test sets partition the patients."""

import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold


# Strata with at least this number of patients are balanced between the test sets.
MIN_PATIENTS = 50
# Balancing stops if the largest relative deviation is at most TOLERANCE, or after MAX_PASSES passes over the patients.
TOLERANCE, MAX_PASSES = 0.05, 8


@dataclass(frozen=True)
class Fold:
    """
    The train set and the test set of a fold.

    Attributes:
        train, test: row numbers of the conversations in the train and in the test set, in increasing order, int64.
        num_left_out: number of conversations that are in neither set, because they compare patients of both sets.
        test_patients: patients of the test set, sorted.
        largest_deviation: largest relative deviation of the share of a stratum in this test set from its share in all
            test sets. Only strata with at least `MIN_PATIENTS` patients in their tested conversations are considered.
        deviating_stratum: stratum with the largest deviation; None if no stratum has `MIN_PATIENTS` patients.
    """

    train: np.ndarray
    test: np.ndarray
    num_left_out: int
    test_patients: list
    largest_deviation: float
    deviating_stratum: str | None


def make_folds(
    patients: Sequence[Sequence[Hashable]], strata: Sequence[str], num_folds: int = 5, seed: int = 0
) -> list[Fold]:
    """
    Assign patients to folds, so that every stratum has about the same share in each test set.

    A conversation is in the test set of a fold if all its patients are in this fold, in the train set if none of them
    is, and excluded from the fold otherwise. Comparisons of different patients are therefore rarer in every test set
    than in the whole dataset, however the patients are assigned, and shares are compared with those in all test sets
    together. The patients are assigned by `StratifiedGroupKFold`. Then single patients are moved as long as this makes
    the shares in the test sets more similar. The result depends on the conversations and the seed, but not on the
    order of the conversations.

    Args:
        patients: for each conversation, the keys of the patients of its ECGs. Keys must be sortable and unique over
            all sources, for example `(source, patient_id)`.
        strata: stratum of each conversation. Strata with fewer than `num_folds` patients are pooled, because they
            cannot be in every fold.
        num_folds: number of folds, at least 2.
        seed: random seed for the assignment of patients.

    Raises:
        ValueError: there are fewer patients than folds, or a conversation has no patient.
    """
    if num_folds < 2:
        raise ValueError(
            f"num_folds (--num-folds) is {num_folds}; expected 2 or more, or 0 to build a dataset without folds"
        )
    keys = sorted({patient for row in patients for patient in row})
    if len(keys) < num_folds:
        raise ValueError(
            f"{num_folds} folds require at least {num_folds} patients, but the conversations have {len(keys)}; "
            "use more recordings, fewer folds (--num-folds), or no folds (0)"
        )
    number_of = {key: number for number, key in enumerate(keys)}
    conversation, patient = _pairs(patients, number_of)
    names, stratum = np.unique(np.asarray(strata, dtype=str), return_inverse=True)
    fold_of = _assign_folds(stratum[conversation], conversation, patient, num_folds, seed)
    fold_of = _Balance(stratum, conversation, patient, fold_of, num_folds).improved(seed)
    sides = [_sides(number, fold_of, conversation, patient, keys) for number in range(num_folds)]
    deviation = _deviations(stratum, conversation, patient, [test for _, test in sides])
    folds = []
    for number, (train, test) in enumerate(sides):
        worst = int(deviation[number].argmax())
        folds.append(
            Fold(
                train,
                test,
                num_left_out=len(patients) - len(train) - len(test),
                test_patients=[keys[key] for key in np.flatnonzero(fold_of == number)],
                largest_deviation=float(max(deviation[number, worst], 0)),
                deviating_stratum=str(names[worst]) if deviation[number, worst] >= 0 else None,
            )
        )
    return folds


def _pairs(patients: Sequence[Sequence[Hashable]], number_of: dict) -> tuple[np.ndarray, np.ndarray]:
    """All distinct (conversation, patient) pairs, as an array of row numbers and an array of patient numbers."""
    counts = np.array([len(row) for row in patients])
    if not counts.all():
        raise ValueError(f"conversation {int(np.argmin(counts))} has no patient, so it cannot be assigned to a fold")
    conversation = np.repeat(np.arange(len(counts)), counts)
    patient = np.array([number_of[key] for row in patients for key in row])
    pairs = np.unique(conversation * len(number_of) + patient)
    return pairs // len(number_of), pairs % len(number_of)


def _assign_folds(
    stratum: np.ndarray, conversation: np.ndarray, patient: np.ndarray, num_folds: int, seed: int
) -> np.ndarray:
    """The fold of each patient, assigned by scikit-learn. `stratum` is given for each (conversation, patient) pair."""
    stratum = _pool_rare(stratum, patient, num_folds)
    fold_of = np.empty(patient.max() + 1, dtype=np.int64)
    splitter = StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():  # the pooled stratum may have fewer patients than there are folds
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        for number, (_, test) in enumerate(splitter.split(conversation, stratum, patient)):
            fold_of[patient[test]] = number
    return fold_of


def _pool_rare(stratum: np.ndarray, patient: np.ndarray, num_folds: int) -> np.ndarray:
    """Pool the strata with fewer than `num_folds` patients into one stratum (number -1)."""
    return np.where(_num_patients(stratum, patient, stratum.max() + 1)[stratum] < num_folds, -1, stratum)


def _num_patients(stratum: np.ndarray, patient: np.ndarray, num_strata: int) -> np.ndarray:
    """Number of patients of each stratum, given (stratum, patient) pairs."""
    owners = np.unique(np.stack([stratum, patient]), axis=1)[0]
    return np.bincount(owners, minlength=num_strata)


class _Balance:
    """
    Moves patients between folds, one at a time, to balance the test sets.

    The objective is a sum over all folds and all strata with at least `MIN_PATIENTS` patients. It sums the squared
    relative difference between the number of tested conversations in the fold and the mean over the folds. The
    patients themselves form an additional stratum, so that the folds have similar numbers of patients.
    """

    def __init__(
        self, stratum: np.ndarray, conversation: np.ndarray, patient: np.ndarray, fold_of: np.ndarray, num_folds: int
    ):
        num_patients, num_rows, self.num_strata = len(fold_of), len(stratum), int(stratum.max()) + 2
        # one more row for each patient, about this patient only
        conversation = np.concatenate([conversation, num_rows + np.arange(num_patients)])
        patient = np.concatenate([patient, np.arange(num_patients)])
        self.stratum = np.concatenate([stratum, np.full(num_patients, self.num_strata - 1)])
        self.fold_of, self.num_folds = fold_of.copy(), num_folds
        order = np.argsort(patient, kind="stable")
        self.rows_of = np.split(conversation[order], np.cumsum(np.bincount(patient))[:-1])
        self.size = np.bincount(conversation)
        self.inside = np.zeros((len(self.stratum), num_folds), dtype=np.int32)
        np.add.at(self.inside, (conversation, fold_of[patient]), 1)  # patients of a conversation in each fold
        self.counts = self._count(self.stratum, self.inside == self.size[:, None])
        self.conversation, self.patient = conversation, patient

    def improved(self, seed: int) -> np.ndarray:
        """Balance the folds and return the fold of each patient."""
        rng = np.random.default_rng(seed)
        for _ in range(MAX_PASSES):
            self._weigh()  # in each pass, because a move can change whether a comparison is tested
            if (np.abs(self.counts - self.mean) * np.sqrt(self.weight)).max() <= TOLERANCE:
                break
            if not sum(self._move(patient) for patient in rng.permutation(len(self.fold_of))):
                break
        return self.fold_of

    def _weigh(self) -> None:
        """Update the target number of tested conversations per fold and the weight of each stratum."""
        self.mean = self.counts.mean(axis=0)
        tested = (self.inside.max(axis=1) == self.size)[self.conversation]
        owners = _num_patients(self.stratum[self.conversation[tested]], self.patient[tested], self.num_strata)
        self.weight = np.where(owners >= MIN_PATIENTS, 1 / np.maximum(self.mean, 1) ** 2, 0)

    def _move(self, patient: int) -> bool:
        """Move a patient to the fold that minimizes the objective. Returns False if it is the current fold."""
        rows, old = self.rows_of[patient], self.fold_of[patient]
        stratum, inside, size = self.stratum[rows], self.inside[rows], self.size[rows, None]
        leave = np.bincount(stratum[inside[:, old] == size[:, 0]], minlength=self.num_strata)
        enter = self._count(stratum, inside == size - 1)
        excess = self.counts - self.mean
        change = (enter * (enter + 2 * excess)) @ self.weight + (leave * (leave - 2 * excess[old])) @ self.weight
        change[old] = 0
        new = int(change.argmin())
        if change[new] > -1e-9:
            return False
        self.counts[old] -= leave
        self.counts[new] += enter[new]
        self.inside[rows, old] -= 1
        self.inside[rows, new] += 1
        self.fold_of[patient] = new
        return True

    def _count(self, stratum: np.ndarray, is_in: np.ndarray) -> np.ndarray:
        """Number of rows of each stratum in each fold, `(folds, strata)`. `is_in` is `(rows, folds)`."""
        row, fold = np.nonzero(is_in)
        cells = np.bincount(fold * self.num_strata + stratum[row], minlength=self.num_folds * self.num_strata)
        return cells.reshape(self.num_folds, self.num_strata)


def _sides(
    number: int, fold_of: np.ndarray, conversation: np.ndarray, patient: np.ndarray, keys: list
) -> tuple[np.ndarray, np.ndarray]:
    """The conversations in the train set and in the test set of a fold."""
    in_test = fold_of[patient] == number
    share = np.bincount(conversation, weights=in_test) / np.bincount(conversation)
    train, test = np.flatnonzero(share == 0), np.flatnonzero(share == 1)
    on_both_sides = np.intersect1d(patient[np.isin(conversation, train)], patient[np.isin(conversation, test)])
    if on_both_sides.size:  # the central guarantee of this module, so it is verified
        raise AssertionError(f"patients {[keys[key] for key in on_both_sides]} are in train and in test of a fold")
    return train, test


def _deviations(stratum: np.ndarray, conversation: np.ndarray, patient: np.ndarray, tests: list) -> np.ndarray:
    """The deviation of each stratum in each fold (see `Fold`); -1 if it has fewer than `MIN_PATIENTS` patients."""
    num_strata = int(stratum.max()) + 1
    counts = np.stack([np.bincount(stratum[test], minlength=num_strata) for test in tests])
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    expected = counts.sum(axis=0) / max(counts.sum(), 1)
    tested = np.isin(conversation, np.concatenate(tests))
    owners = _num_patients(stratum[conversation[tested]], patient[tested], num_strata)
    return np.where(owners >= MIN_PATIENTS, np.abs(share / np.where(expected, expected, 1) - 1), -1)
