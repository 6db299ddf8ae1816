"""Folds: the test sets partition the patients, the splits of a fold are disjoint, labels are stratified."""

import csv
import gzip
import json
import shutil
from ast import literal_eval
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.sparse import csr_matrix

import elm_hf.prepare.folds
from benchmarks.folds import ptb_xl_like
from elm_hf.data.tables import load_patients
from elm_hf.dataset_scripts.simulated_qa import SimulatedQa
from elm_hf.prepare.dataset import prepare_dataset
from elm_hf.prepare.folds import deal_patients, deviations
from elm_hf.prepare.patients import GivenFolds, PatientLabels, RecordPatients, deal, labels_of_records
from elm_hf.prepare.report_questions import report_conversation


def labelled(labels_of_patient: list[list[str]]) -> tuple[csr_matrix, np.ndarray]:
    """A record of each patient with these labels."""
    names = sorted({label for labels in labels_of_patient for label in labels})
    counts = [[int(name in labels) for name in names] for labels in labels_of_patient]
    return csr_matrix(np.array(counts).reshape(len(counts), -1)), np.ones(len(counts), dtype=int)


@pytest.fixture(scope="module")
def ptb_xl_records(shared_data) -> list[dict]:
    """Patient and SCP-ECG statements (superclasses, forms and rhythms) of each record of PTB-XL."""
    with gzip.open(shared_data / "ptb_xl_metadata" / "labels.csv.gz", "rt") as file:
        return list(csv.DictReader(file))


def test_the_test_sets_partition_the_patients_and_validation_is_a_tenth():
    test, validation = deal_patients(*ptb_xl_like(600), num_folds=5)
    assert np.bincount(test)[1:] == pytest.approx([120] * 5, abs=4)
    assert np.bincount(validation)[1:] == pytest.approx([60] * 5, abs=4)
    assert not (test == validation).any()
    # the validation patients of a fold are test patients of the next one
    assert set(zip(validation[validation > 0], test[validation > 0])) == {(1, 2), (2, 3), (3, 4), (4, 5), (5, 1)}


@pytest.mark.parametrize(("num_folds", "tenths"), [(2, 1), (3, 1), (4, 1), (10, 1), (20, 0.5)])
def test_validation_is_a_tenth_or_the_next_fold(num_folds, tenths):
    test, validation = deal_patients(*ptb_xl_like(400), num_folds=num_folds)
    assert np.bincount(test)[1:] == pytest.approx([400 / num_folds] * num_folds, abs=5)
    assert np.bincount(validation)[1:] == pytest.approx([40 * tenths] * num_folds, abs=5)


@pytest.mark.parametrize("num_patients", [2, 3, 5, 7, 11])
@pytest.mark.parametrize("num_folds", [2, 3, 5])
def test_few_patients(num_patients, num_folds):
    counts, sizes = labelled([["a"] if number % 2 else ["a", "b"] for number in range(num_patients)])
    if num_patients < num_folds:
        with pytest.raises(
            ValueError, match=rf"{num_folds} folds require at least .* there are {num_patients}; .*--num"
        ):
            deal_patients(counts, sizes, num_folds)
        return
    test, validation = deal_patients(counts, sizes, num_folds)
    for fold in range(1, num_folds + 1):
        assert (test == fold).any()
        assert ((test != fold) & (validation != fold)).any()  # somebody to train on
        assert num_folds == 2 or (validation == fold).any()


def test_one_fold_is_refused():
    with pytest.raises(ValueError, match=r"num_folds \(--num-folds\) is 1; expected 2 or more, or 0"):
        deal_patients(*ptb_xl_like(50), num_folds=1)


def test_every_label_of_ptb_xl_has_its_share_in_every_test_set(ptb_xl_records):
    """Every label with 50 patients, counted here without the code under test, in patients and in records."""
    columns = ("super_class", "form", "rhythm")
    labels = [sorted({label for name in columns for label in literal_eval(row[name])}) for row in ptb_xl_records]
    keys = pa.table({"source": ["ptb_xl"] * len(labels), "patient_id": [row["patient_id"] for row in ptb_xl_records]})
    patients = RecordPatients.from_keys(keys)
    table = deal(patients.names, labels_of_records(pa.chunked_array([labels]), patients), 5, seed=0)
    fold_of = dict(zip(table["patient_id"].to_pylist(), table["test_fold"].to_pylist()))
    fold = np.array([fold_of[row["patient_id"]] for row in ptb_xl_records])
    patient = np.array([row["patient_id"] for row in ptb_xl_records])
    checked = 0
    for label in {label for those in labels for label in those}:
        has = np.array([label in those for those in labels])
        owners = set(patient[has])
        if len(owners) < 50:
            continue
        checked += 1
        for number in range(1, 6):
            tested = [name for name, its_fold in fold_of.items() if its_fold == number]
            share = len(owners.intersection(tested)) / len(tested)
            assert share == pytest.approx(len(owners) / len(fold_of), rel=0.10), label
            assert has[fold == number].mean() == pytest.approx(has.mean(), rel=0.10), label
    assert checked == 30


def test_patients_with_many_records_of_a_label_are_in_different_folds():
    """Five patients have ten records of a label, 45 have one: 19 of the 95 records are in each test set."""
    records = np.array([10] * 5 + [1] * 45 + [1] * 150)
    counts = csr_matrix(np.where(np.arange(200) < 50, records, 0)[:, None])
    test, _ = deal_patients(counts, records, 5)
    assert sorted(test[:5]) == [1, 2, 3, 4, 5]
    _, in_patients, in_records = deviations(counts, records, test)
    assert in_patients.max() < 0.1 and in_records.max() < 0.1


def test_deviations_are_those_of_the_shares():
    counts, sizes = labelled([["a"]] * 60 + [[]] * 40)
    test = np.array([1] * 50 + [2] * 10 + [2] * 40)
    common, in_patients, in_records = deviations(counts, sizes, test)
    assert list(common) == [0]
    np.testing.assert_allclose(in_patients, [[1 / 0.6 - 1, 1 - 0.2 / 0.6]])
    np.testing.assert_allclose(in_records, in_patients)
    assert not len(deviations(*labelled([["a"]] * 49 + [[]] * 40), test[:89])[0])


def test_the_deal_depends_on_patients_labels_and_seed_but_not_on_the_order_of_records():
    rng = np.random.default_rng(0)
    patients = [f"p{number:03d}" for number in rng.integers(0, 120, 300)]
    labels = [sorted({f"label {number}" for number in rng.integers(0, 12, 2)}) for _ in range(300)]

    def dealt(order, seed: int = 0) -> dict:
        keys = pa.table({"source": ["a"] * 300, "patient_id": [patients[row] for row in order]})
        found = RecordPatients.from_keys(keys)
        table = deal(
            found.names, labels_of_records(pa.chunked_array([[labels[row] for row in order]]), found), 5, seed
        )
        return {row["patient_id"]: (row["test_fold"], row["validation_fold"]) for row in table.to_pylist()}

    assert dealt(range(300)) == dealt(rng.permutation(300)) != dealt(range(300), seed=1)


def test_patients_with_the_same_id_in_two_sources_are_different():
    keys = pa.table({"source": ["ptb_xl"] * 3 + ["code15"] * 3, "patient_id": ["0", "1", "2"] * 2})
    patients = RecordPatients.from_keys(keys)
    assert patients.names[:2] == [("code15", "0"), ("code15", "1")] and len(patients.names) == 6
    assert [patients.names[number] for number in patients.of_record] == [("ptb_xl", name) for name in "012"] + [
        ("code15", name) for name in "012"
    ]


def test_a_label_that_occurs_twice_in_a_record_counts_once():
    keys = pa.table({"source": ["a"] * 2, "patient_id": ["p", "p"]})
    labels = labels_of_records(pa.chunked_array([[["b", "a", "b"], ["b"]]]), RecordPatients.from_keys(keys))
    assert isinstance(labels, PatientLabels) and labels.names == ["a", "b"]
    assert labels.counts.toarray().tolist() == [[1, 2]] and labels.num_rows.tolist() == [2]
    assert (
        labels_of_records(pa.chunked_array([[[], []]], pa.list_(pa.string())), RecordPatients.from_keys(keys)) is None
    )


# datasets


@pytest.fixture(scope="module")
def base(simulated_dataset, tmp_path_factory) -> Path:
    return Path(shutil.copytree(simulated_dataset, tmp_path_factory.mktemp("folds") / "base"))


def rows_of(folder: Path, config: str) -> dict[str, dict]:
    """The conversations of a configuration by id, with the column `split`."""
    return {
        row["conversation_id"]: row | {"split": path.name.split("-")[0]}
        for path in sorted((folder / config).glob("*.parquet"))
        for row in pq.read_table(path).to_pylist()
    }


def fold_of_patients(folder: Path) -> dict[tuple[str, str], tuple[int, int | None]]:
    return {
        (row["source"], row["patient_id"]): (row["test_fold"], row["validation_fold"])
        for row in load_patients(folder).to_pylist()
    }


def test_the_table_of_patients_determines_the_splits(base):
    """The splits worked out from the table of patients alone."""
    fold_of = fold_of_patients(base)
    records = pq.read_table(next((base / "records").iterdir()), columns=["source", "patient_id"]).to_pylist()
    owners = [(row["source"], row["patient_id"]) for row in records]
    assert set(owners) == set(fold_of) and list(fold_of) == sorted(fold_of)
    everything = {name: row for number in range(1, 6) for name, row in rows_of(base, f"fold{number}").items()}
    for fold in (1, 5):
        expected = {}
        for name, row in everything.items():
            folds = [fold_of[owners[ecg]] for ecg in row["ecg_index"]]
            sides = {"test" if test == fold else "validation" if val == fold else "train" for test, val in folds}
            if len(sides) == 1:
                expected[name] = sides.pop()
        assert {name: row["split"] for name, row in rows_of(base, f"fold{fold}").items()} == expected


@pytest.fixture(scope="module")
def questions(base) -> Path:
    """Other conversations about some of the records, with another seed."""
    prepare_dataset("simulated_qa", base.parent / "questions", num_recordings=30, records=base, seed=5)
    return base.parent / "questions"


def test_conversations_about_the_records_of_another_dataset_have_its_folds(base, questions):
    of_base, of_questions = fold_of_patients(base), fold_of_patients(questions)
    assert 10 < len(of_questions) < len(of_base)
    assert of_questions == {name: of_base[name] for name in of_questions}
    for fold in range(1, 6):
        for row in rows_of(questions, f"fold{fold}").values():
            found = [of_base["simulated_qa", patient] for patient in row["patient_ids"]]
            tested, validated = ([number == fold for number in numbers] for numbers in zip(*found))
            assert all(tested) if row["split"] == "test" else not any(tested)
            assert all(validated) if row["split"] == "validation" else not any(validated)


def test_the_number_of_folds_is_that_of_the_records(base, questions, tmp_path):
    built = json.loads((questions / "build_report.json").read_text())
    assert built["options"]["num_folds"] == 5 and built["folds_from_records"]
    with pytest.raises(ValueError, match=r"base has 5, but num_folds \(--num-folds\) is 4; omit it"):
        prepare_dataset("simulated_qa", tmp_path / "built", records=base, num_folds=4)
    prepare_dataset("simulated_qa", tmp_path / "two", num_recordings=20, seconds=2, num_folds=2, seed=1)
    with pytest.raises(ValueError, match=r"questions has 5, .*two has 2; build them alike"):
        prepare_dataset("simulated_qa", tmp_path / "built", records=[questions, tmp_path / "two"])


def test_records_of_an_earlier_version_have_no_folds(earlier_version, tmp_path):
    with pytest.raises(
        ValueError, match=r"earlier: no table of patients with their folds .* build it again \(elm-hf prep"
    ):
        prepare_dataset("simulated_qa", tmp_path / "built", records=earlier_version)


def test_a_patient_in_different_folds_of_two_datasets_is_refused(base, tmp_path):
    other = Path(shutil.copytree(base, tmp_path / "other"))
    (path,) = (other / "patients").iterdir()
    table = pq.read_table(path)
    pq.write_table(table.set_column(2, "test_fold", pa.array(np.roll(table["test_fold"], 1), pa.int32())), path)
    card = (other / "README.md").read_text()
    (other / "README.md").write_text(
        card.replace("config_name: patients\n  description: ", "config_name: patients\n  description: x")
    )
    with pytest.raises(
        ValueError, match="patient .* of simulated_qa is in different folds of .*base and .*other; build"
    ):
        GivenFolds.load([base, other], None).of([("simulated_qa", "000000")])


def test_a_source_without_labels_is_stratified_by_the_strata_of_its_conversations(monkeypatch, tmp_path):
    """Five patients of ten have a rare answer; each test set gets one of them."""
    rare = {"000000", "000001", "000002", "000003", "000004"}

    def conversations(self):
        for reference in self.list_recordings():
            name = reference["recording_id"]
            stratum = "rare" if reference["patient_id"] in rare else "common"
            yield report_conversation("simulated_qa", name, "Sinus rhythm.", stratum=stratum)

    read = SimulatedQa.read_recording
    monkeypatch.setattr(SimulatedQa, "list_conversations", conversations)
    monkeypatch.setattr(
        SimulatedQa, "read_recording", lambda self, reference: (read(self, reference)[0], {"report": "Sinus rhythm."})
    )
    report = prepare_dataset("simulated_qa", tmp_path / "built", num_recordings=25, seconds=2)
    assert report["labels"]["from"] == "conversations" and report["labels"]["number"] == 2
    fold_of = fold_of_patients(tmp_path / "built")
    assert sorted(fold_of["simulated_qa", name][0] for name in rare) == [1, 2, 3, 4, 5]


def test_an_official_split_without_validation_gets_a_tenth_of_its_training_patients(monkeypatch, tmp_path):
    list_all = SimulatedQa.list_conversations

    def with_split(self):
        for row in list_all(self):
            yield row | {"split": "test" if max(row["recording_ids"]) < "000010" else "train"}

    monkeypatch.setattr(SimulatedQa, "list_conversations", with_split)
    report = prepare_dataset("simulated_qa", tmp_path / "built", num_recordings=200, seconds=2)["splits"]["official"]
    rows = rows_of(tmp_path / "built", "official")
    fold_of = fold_of_patients(tmp_path / "built")
    for split in ("train", "validation", "test"):
        of_split = [row for row in rows.values() if row["split"] == split]
        assert len(of_split) == report[split] > 0
        validated = [fold_of["simulated_qa", name][1] == 1 for row in of_split for name in row["patient_ids"]]
        assert split == "test" or set(validated) == {split == "validation"}
    assert report["validation_from_train"] and report["left_out"] > 0
    card = (tmp_path / "built" / "README.md").read_text()
    assert "The authors published no validation split: `validation` was taken from their training split" in card


def test_the_report_and_the_card_have_the_deviation_of_every_common_label(monkeypatch, tmp_path):
    monkeypatch.setattr(elm_hf.prepare.folds, "MIN_PATIENTS", 10)
    report = prepare_dataset("simulated_qa", tmp_path / "built", num_recordings=200, seconds=2)["labels"]
    (path,) = (tmp_path / "built" / "records").iterdir()
    records = pq.read_table(path, columns=["patient_id", "labels"]).to_pylist()
    fold_of = {patient: folds[0] for (_, patient), folds in fold_of_patients(tmp_path / "built").items()}
    names = {label for row in records for label in row["labels"]}
    common = 0
    for label in names:
        owners = {row["patient_id"] for row in records if label in row["labels"]}
        if len(owners) < 10:
            assert label not in report["common"]
            continue
        common += 1
        shares = [
            np.mean([label in row["labels"] for row in records if fold_of[row["patient_id"]] == fold])
            for fold in range(1, 6)
        ]
        overall = np.mean([label in row["labels"] for row in records])
        entry = report["common"][label]
        assert entry["patients"] == len(owners)
        assert entry["deviation_in_records"] == pytest.approx(max(abs(np.array(shares) / overall - 1)), abs=1e-3)
    assert common == len(report["common"]) > 3
    card = (tmp_path / "built" / "README.md").read_text()
    assert f"deviate by at most {100 * report['largest_deviation']:.1f} % from" in card
