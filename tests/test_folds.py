"""Folds: the test sets partition the patients, train and test patients are disjoint, folds are stratified."""

import ast
import csv
import gzip
import warnings
from collections import Counter, defaultdict

import numpy as np
import pytest

from benchmarks.folds import ecg_qa_like
from elm_hf.prepare.folds import make_folds


def random_conversations(num_rows: int = 400, num_patients: int = 60) -> tuple[list[list[str]], list[str]]:
    """Two thirds of the rows are about one patient, a third compares two patients."""
    rng = np.random.default_rng(0)
    names = [f"p{number:03d}" for number in range(num_patients)]
    patients = [list(rng.choice(names, 1 + (row % 3 == 0), replace=False)) for row in range(num_rows)]
    return patients, [str(stratum) for stratum in rng.integers(0, 6, num_rows)]


@pytest.fixture(scope="module")
def ptb_xl_labels(shared_data) -> list[dict]:
    with gzip.open(shared_data / "ptb_xl_metadata" / "labels.csv.gz", "rt") as file:
        return list(csv.DictReader(file))


def test_test_sets_partition_the_patients():
    patients, strata = random_conversations()
    tested = [patient for fold in make_folds(patients, strata) for patient in fold.test_patients]
    assert sorted(tested) == sorted({patient for row in patients for patient in row})


def test_no_patient_is_in_train_and_in_test():
    patients, strata = random_conversations()
    for fold in make_folds(patients, strata):
        train = {patient for row in fold.train for patient in patients[row]}
        test = {patient for row in fold.test for patient in patients[row]}
        assert train and test and not train & test


def test_a_comparison_of_train_and_test_patients_is_excluded_and_counted():
    patients, strata = random_conversations()
    for fold in make_folds(patients, strata):
        tested = set(fold.test_patients)
        inside = [len(tested & set(row)) for row in patients]
        assert list(fold.test) == [row for row, count in enumerate(inside) if count == len(patients[row])]
        assert list(fold.train) == [row for row, count in enumerate(inside) if count == 0]
        assert fold.num_left_out == sum(0 < count < len(patients[row]) for row, count in enumerate(inside)) > 0


def test_a_comparison_of_two_ecgs_of_one_patient_is_never_excluded():
    folds = make_folds([[f"p{number}", f"p{number}"] for number in range(20)], ["x"] * 20)
    assert [fold.num_left_out for fold in folds] == [0] * 5


def test_folds_do_not_depend_on_the_order_of_rows():
    patients, strata = random_conversations()
    order = np.random.default_rng(1).permutation(len(patients))
    shuffled = make_folds([patients[row][::-1] for row in order], [strata[row] for row in order])
    for fold, other in zip(make_folds(patients, strata), shuffled, strict=True):
        assert other.test_patients == fold.test_patients
        assert sorted(order[other.test]) == list(fold.test)


def test_the_seed_determines_the_folds():
    patients, strata = random_conversations()
    first, again, other = (make_folds(patients, strata, seed=seed)[0].test_patients for seed in (0, 0, 1))
    assert first == again != other


def test_patients_with_the_same_id_in_two_sources_are_different():
    rows = [[("ptb_xl", str(number))] for number in range(3)] + [[("code15", str(number))] for number in range(3)]
    assert sum(len(fold.test_patients) for fold in make_folds(rows, ["x"] * 6)) == 6


def test_rare_strata_are_pooled_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        folds = make_folds([[f"p{number}"] for number in range(23)], ["common"] * 20 + ["a", "b", "c"])
    assert sorted(len(fold.test) for fold in folds) == [4, 4, 5, 5, 5]


def test_fewer_patients_than_folds():
    with pytest.raises(
        ValueError, match=r"at least 5 patients, but the conversations have 4.*fewer folds \(--num-folds\)"
    ):
        make_folds([[f"p{number}"] for number in range(4)] * 3, ["x"] * 12)


def test_a_conversation_without_patients():
    with pytest.raises(ValueError, match="conversation 2 has no patient"):
        make_folds([["a"], ["b"], []], ["x"] * 3, num_folds=2)


def deviations(strata: np.ndarray, patients: list, folds: list) -> list[dict[str, float]]:
    """Relative deviation of the share of each stratum with at least 50 tested patients, for each fold."""
    tested = np.concatenate([fold.test for fold in folds])
    patients_of = defaultdict(set)
    for row in tested:
        patients_of[strata[row]].update(patients[row])
    common = [name for name, members in patients_of.items() if len(members) >= 50]
    overall = {name: np.mean(strata[tested] == name) for name in common}
    return [{name: abs(np.mean(strata[fold.test] == name) / overall[name] - 1) for name in common} for fold in folds]


def test_folds_of_a_dataset_like_ecg_qa_are_stratified():
    """A tenth of ECG-QA: seven question types, a hundred answers, a third of the questions across patients."""
    patients, strata = ecg_qa_like(0.1)
    folds = make_folds(patients, strata)
    found = deviations(np.array(strata), patients, folds)
    assert len(found[0]) > 40 and any("irrelevant" in name for name in found[0])
    for fold, deviation in zip(folds, found):
        assert max(deviation.values()) < 0.10
        assert fold.largest_deviation == pytest.approx(max(deviation.values()))
        assert deviation[fold.deviating_stratum] == pytest.approx(fold.largest_deviation)
    sizes = [len(fold.test_patients) for fold in folds]
    assert max(sizes) / min(sizes) < 1.05


def test_large_deviations_are_reported_and_not_an_error():
    """A patient with half of all questions is in one test set only; strata with few patients are not considered."""
    patients = [["heavy"]] * 60 + [[f"p{number:02d}"] for number in range(60)]
    folds = make_folds(patients, ["asked"] * 60 + ["asked", "told"] * 30)
    assert [fold.deviating_stratum for fold in folds] == [None] * 5
    folds = make_folds(patients, ["asked"] * 60 + ["told"] * 60)
    assert sorted(fold.largest_deviation for fold in folds)[-1] > 0.10


def test_all_of_ptb_xl(ptb_xl_labels):
    """The shares of all combinations of superclasses with at least 50 patients deviate by at most 10 %."""
    strata = np.array(["+".join(sorted(ast.literal_eval(row["super_class"]))) for row in ptb_xl_labels])
    patients = np.array([row["patient_id"] for row in ptb_xl_labels])
    folds = make_folds([[patient] for patient in patients], list(strata))
    common = [name for name in Counter(strata) if len(set(patients[strata == name])) >= 50]
    assert len(common) > 10
    assert sorted(patient for fold in folds for patient in fold.test_patients) == sorted(set(patients))
    for fold in folds:
        assert not set(patients[fold.train]) & set(patients[fold.test])
        assert len(fold.train) + len(fold.test) == len(ptb_xl_labels)
        for name in common:
            assert np.mean(strata[fold.test] == name) == pytest.approx(np.mean(strata == name), rel=0.10)
