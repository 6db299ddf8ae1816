"""Folds of patients by iterative stratification over all labels of a patient (Sechidis et al. 2011)."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_matrix


# The shares of labels with at least this number of patients are balanced between the test sets, to `TOLERANCE`.
MIN_PATIENTS, TOLERANCE = 50, 0.1
# Balancing aims a little below the tolerance. It makes at most `MAX_EXCHANGES` exchanges and chooses each among the
# pairs of so many patients with a label and so many others of two test sets. It ends if so many attempts fail.
_AIM, MAX_EXCHANGES, _WITH_LABEL, _OTHERS, _ATTEMPTS = 0.095, 1000, 16, 4, 5
# Shares change a little with the sizes of the test sets, so labels within this margin of the aim are considered as well.
_MARGIN = 0.002
# Share of all patients in the validation set of a fold.
VALIDATION_SHARE = 0.1


def deal_patients(
    counts: csr_matrix, num_records: np.ndarray, num_folds: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """
    Assign patients to folds, so that every label has about the same share in each test set.

    The test sets partition the patients. The validation set of a fold, a tenth of all patients, is a part of the test
    set of the next fold (of the first one for the last fold), so that the three sets of a fold are disjoint. Both
    assignments are iterative stratifications: the rarest label is dealt first, each of its patients to the set that
    lacks this label most. Then patients are exchanged until the share of each label with at least `MIN_PATIENTS`
    patients is within `TOLERANCE` in every test set, counted in patients and in records, where this is possible.

    The result depends on the order of the rows, so the caller sorts patients and labels.

    Args:
        counts: `(patients, labels)`, number of records of each patient with each label.
        num_records: `(patients,)`, number of records of each patient.
        num_folds: number of folds, at least 2.
        seed: random seed.

    Returns:
        `test_fold` and `validation_fold`, both `(patients,)`: the number of the fold, from 1, whose test set and whose
        validation set a patient is in; 0 if the patient is in no validation set.

    Raises:
        ValueError: there are fewer patients than folds, or fewer than two folds.
    """
    num_patients = counts.shape[0]
    check_enough(num_patients, num_folds)
    rng = np.random.default_rng(seed)
    fold = _stratify(counts, num_records, [1 / num_folds] * num_folds, rng)
    fold = _Balance(counts, num_records, fold, num_folds, rng).balanced()
    validates = np.zeros(num_patients, dtype=bool)
    for number in range(num_folds):
        members = np.flatnonzero(fold == number)
        if (
            len(members) == 1
        ):  # with two folds, a validation set of the only other patient would leave none to train on
            validates[members] = num_folds > 2
            continue
        share = min(VALIDATION_SHARE * num_folds, 1)
        part = _stratify(counts[members], num_records[members], [share, 1 - share] if share < 1 else [1], rng)
        validates[members] = part == 0
    before = np.where(fold == 0, num_folds, fold)  # the previous fold, numbered from 1
    return fold + 1, np.where(validates, before, 0)


def check_enough(num_patients: int, num_folds: int) -> None:
    """
    Check that every fold can have a test patient.

    Raises:
        ValueError: there are fewer patients than folds, or fewer than two folds.
    """
    if num_folds < 2:
        raise ValueError(
            f"num_folds (--num-folds) is {num_folds}; expected 2 or more, or 0 to build a dataset without folds"
        )
    if num_patients < num_folds:
        raise ValueError(
            f"{num_folds} folds require at least {num_folds} patients, but there are {num_patients}; use more "
            "recordings, fewer folds (--num-folds), or no folds (0)"
        )


def deviations(
    counts: csr_matrix, num_records: np.ndarray, test_fold: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Compare the shares of the labels in each test set with those in all test sets.

    Args:
        counts, num_records: see `deal_patients`.
        test_fold: `(patients,)`, numbers of folds from 1.

    Returns:
        The numbers of the labels with at least `MIN_PATIENTS` patients, `(common,)`, and the relative deviations of
        their shares in patients and in records, both `(common, folds)`. A fold without patients has deviation 0.
    """
    common = np.flatnonzero(counts.getnnz(axis=0) >= MIN_PATIENTS)
    num_folds = int(test_fold.max())
    features = _Features(counts, num_records, common, num_folds)
    table = np.stack([features.total(np.flatnonzero(test_fold == fold)) for fold in range(1, num_folds + 1)])
    deviation = features.deviations(table).reshape(len(table), 2, len(common))
    return common, deviation[:, 0].T, deviation[:, 1].T


def _stratify(
    counts: csr_matrix, num_records: np.ndarray, shares: Sequence[float], rng: np.random.Generator
) -> np.ndarray:
    """
    Deal patients into parts. A patient counts in a label once and once more for each record with it, so that both
    numbers are balanced. Patients with many records of a label are dealt first, because they cannot be divided.

    Returns:
        Number of the part of each patient. No part is empty if there are enough patients.
    """
    num_patients = counts.shape[0]
    order = rng.permutation(num_patients).tolist()
    starts, labels, numbers = counts.indptr.tolist(), counts.indices.tolist(), (counts.data + 1).tolist()
    weights_of = [dict(zip(labels[a:b], numbers[a:b])) for a, b in zip(starts[:-1], starts[1:])]
    size_of = (num_records + 1).tolist()
    members = defaultdict(list)
    for patient in order:
        for label in weights_of[patient]:
            members[label].append(patient)
    wanted = {
        label: [sum(weights_of[patient][label] for patient in own) * share for share in shares]
        for label, own in members.items()
    }
    free = [sum(size_of) * share for share in shares]
    num_left = {label: len(own) for label, own in members.items()}
    part_of, parts = [-1] * num_patients, range(len(shares))

    def deal(patient: int, wanted_of: list[float]) -> None:
        part = max(parts, key=lambda part: (wanted_of[part], free[part]))
        part_of[patient] = part
        free[part] -= size_of[patient]
        for label, weight in weights_of[patient].items():
            wanted[label][part] -= weight
            num_left[label] -= 1
            if not num_left[label]:
                del num_left[label]

    while num_left:
        rarest = min(num_left, key=lambda label: (num_left[label], label))
        left = [patient for patient in members[rarest] if part_of[patient] < 0]
        for patient in sorted(left, key=lambda patient: -weights_of[patient][rarest]):
            deal(patient, wanted[rarest])
    for patient in sorted((one for one in order if part_of[one] < 0), key=lambda one: -size_of[one]):
        deal(patient, free)
    return _without_empty_parts(np.array(part_of), len(shares))


def _without_empty_parts(part: np.ndarray, num_parts: int) -> np.ndarray:
    """Give each empty part a patient of the largest part."""
    for number in range(min(num_parts, len(part))):
        sizes = np.bincount(part, minlength=num_parts)
        if not sizes[number]:
            part[np.flatnonzero(part == sizes.argmax())[0]] = number
    return part


class _Features:
    """
    The features of a patient that are balanced: for each of some labels, whether the patient has it and the number of
    records with it; then 1 and the number of all records. The features of a set of patients are their sums.
    """

    def __init__(self, counts: csr_matrix, num_records: np.ndarray, labels: np.ndarray, num_sets: int):
        self._counts, self._num_records = counts[:, labels], num_records
        self._size_of = np.repeat([0, 1], len(labels))
        everyone = self.total(np.arange(counts.shape[0]))
        self._shares, self._mean = self._shares_in(everyone), everyone[:-2] / num_sets

    def of(self, patients: np.ndarray) -> np.ndarray:
        """The features of patients, `(patients, features)`."""
        records = self._counts[patients].toarray()
        size = self._num_records[patients, None]
        return np.concatenate([records > 0, records, np.ones_like(size), size], axis=1).astype(float)

    def total(self, patients: np.ndarray) -> np.ndarray:
        """The features of a set of patients, `(features,)`."""
        records = self._counts[patients]
        sums = [records.getnnz(axis=0), np.asarray(records.sum(axis=0)).ravel()]
        return np.concatenate([*sums, [len(patients), self._num_records[patients].sum()]]).astype(float)

    def deviations(self, table: np.ndarray, columns: np.ndarray | slice = slice(None)) -> np.ndarray:
        """
        Relative deviations `(..., columns)` of the shares in sets of patients.

        Args:
            table: features of the sets, `(..., columns + 2)`: those in `columns`, and the numbers of patients and records.
            columns: numbers of features of labels. Defaults to all.
        """
        return np.abs(self._shares_in(table, columns) / self._shares[columns] - 1) * (table[..., -1:] > 0)

    def largest_changes(self, features: np.ndarray) -> np.ndarray:
        """The largest changes `(2 * labels,)` of a deviation if a set of mean size gets one of these patients."""
        return features[:, :-2].max(axis=0) / self._mean

    def _shares_in(self, table: np.ndarray, columns: np.ndarray | slice = slice(None)) -> np.ndarray:
        return table[..., :-2] / np.maximum(table[..., -2:], 1)[..., self._size_of[columns]]


class _Balance:
    """
    Exchanges patients of the test sets to reduce the deviations that exceed the aim.

    In each step, the test set and the label with the largest deviation are found. Among the exchanges of a patient of
    this test set, or of none, with a patient of another one, or with none, the best one is made. The objective is the
    sum of the squared excesses over all labels and test sets.
    """

    def __init__(
        self, counts: csr_matrix, num_records: np.ndarray, fold: np.ndarray, num_folds: int, rng: np.random.Generator
    ):
        common = np.flatnonzero(counts.getnnz(axis=0) >= MIN_PATIENTS)
        self.fold, self.num_folds, self.rng, self.num_labels = fold, num_folds, rng, len(common)
        self.features = _Features(counts, num_records, common, num_folds)
        self.table = np.stack([self.features.total(np.flatnonzero(fold == number)) for number in range(num_folds)])
        by_label = counts[:, common].tocsc()
        self.members = np.split(by_label.indices, by_label.indptr[1:-1])

    def balanced(self) -> np.ndarray:
        """Balance the test sets and return the fold of each patient, numbered from 0."""
        failures = 0
        for _ in range(MAX_EXCHANGES if self.num_labels else 0):
            if failures == _ATTEMPTS or not self._excess(self.table).any():
                break
            failures = 0 if self._exchange() else failures + 1
        return self.fold

    def _excess(self, table: np.ndarray, columns: np.ndarray | slice = slice(None)) -> np.ndarray:
        return ((self.features.deviations(table, columns) - _AIM).clip(min=0) ** 2).sum(axis=-1)

    def _exchange(self) -> bool:
        """Make the best exchange for the largest deviation. Returns False if none is an improvement."""
        deviations = self.features.deviations(self.table)
        worst, feature = np.unravel_index(deviations.argmax(), deviations.shape)
        members = self.members[feature % self.num_labels]
        own, own_features = self._candidates(worst, members)
        best, chosen = -1e-12, None
        for other in set(range(self.num_folds)) - {worst}:
            others, features = self._candidates(other, members)
            changes = self.features.largest_changes(own_features) + self.features.largest_changes(features)
            columns = np.flatnonzero(deviations[[worst, other]].max(axis=0) + changes > _AIM - _MARGIN)
            kept = np.append(columns, [-2, -1])
            change = features[None, :, kept] - own_features[:, None, kept]
            gain = self._excess(self.table[worst, kept] + change, columns)
            gain += self._excess(self.table[other, kept] - change, columns)
            gain -= gain[0, 0]  # that of exchanging nobody
            first, second = np.unravel_index(gain.argmin(), gain.shape)
            if gain[first, second] < best:
                best = gain[first, second]
                chosen = (other, own[first], others[second], features[second] - own_features[first])
        if chosen is None:
            return False
        other, leaves, enters, change = chosen
        self.fold[[patient for patient in (leaves,) if patient >= 0]] = other
        self.fold[[patient for patient in (enters,) if patient >= 0]] = worst
        self.table[worst] += change
        self.table[other] -= change
        return True

    def _candidates(self, fold: int, members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Some patients of a test set and their features. The first one is -1, no patient, whose features are zero."""
        with_label = self.rng.permutation(members[self.fold[members] == fold])[:_WITH_LABEL]
        drawn = self.rng.integers(len(self.fold), size=4 * _OTHERS * self.num_folds)
        others = drawn[self.fold[drawn] == fold][:_OTHERS]
        patients = np.concatenate([with_label, others])
        features = self.features.of(patients)
        return np.concatenate([[-1], patients]), np.concatenate([np.zeros((1, features.shape[1])), features])
