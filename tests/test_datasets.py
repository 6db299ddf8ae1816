"""Building datasets: ECGs and tables of the source are preserved, bad recordings are skipped and listed."""

import csv
import filecmp
import json
import shutil
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pytest
import wfdb
from scipy.signal import decimate

import elm_hf.prepare.record_files
from elm_hf.dataset_scripts.simulated_qa import QUESTIONS_PER_ECG
from elm_hf.prepare.dataset import prepare_dataset


FOLDS = [f"fold{number}" for number in range(1, 6)]
# the file of one of the 8 rows of the table is missing
MISSING_FILE = {"max_skipped": 0.125}


@pytest.fixture(scope="module")
def ptb_xl(shared_data, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("built") / "ptb_xl"
    prepare_dataset("ptb_xl", output, source=shared_data / "ptb_xl", **MISSING_FILE)
    return output


@pytest.fixture(scope="module")
def ecg_qa(shared_data, ptb_xl) -> Path:
    output = ptb_xl.parent / "ecg_qa"
    prepare_dataset("ecg_qa", output, source=shared_data / "ecg_qa" / "ptbxl_mini", records=ptb_xl)
    return output


@pytest.fixture(scope="module")
def simulated(tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("built") / "simulated"
    prepare_dataset("simulated_qa", output, num_recordings=30)
    return output


@pytest.fixture
def source(shared_data, tmp_path) -> Path:
    """A copy of the PTB-XL records that a test may damage."""
    return Path(shutil.copytree(shared_data / "ptb_xl", tmp_path / "source" / "ptb_xl"))


def load(path: Path, config: str, split: str = "train") -> datasets.Dataset:
    return datasets.load_dataset(str(path), config, split=split)


def all_rows(path: Path, config: str) -> list[dict]:
    """The rows of all splits."""
    return [row for split in datasets.load_dataset(str(path), config).values() for row in split]


def read_table(source: Path) -> list[dict]:
    with (source / "ptbxl_database.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def edit_table(source: Path, recording_id: str, **values: str) -> None:
    rows = read_table(source)
    for row in rows:
        row.update(values if row["ecg_id"] == recording_id else {})
    with (source / "ptbxl_database.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def skipped(path: Path) -> dict[str, str]:
    with (path / "skipped.csv").open(newline="") as file:
        return {row["recording_id"]: row["reason"] for row in csv.DictReader(file)}


def report(path: Path) -> dict:
    return json.loads((path / "build_report.json").read_text())


def entries(folder: Path) -> list[dict]:
    """All entries of an ECG-QA folder."""
    return [entry for path in folder.glob("*/*.json") for entry in json.loads(path.read_text())]


# signals and tables


def test_records_contain_the_signals_of_the_source(ptb_xl, shared_data):
    """Compared with wfdb and another anti-aliasing filter, except at the ends, where the filters differ."""
    records = load(ptb_xl, "records").with_format("numpy")
    assert records.features["ecg"] == datasets.Array2D((12, 2500), "int16")
    assert list(records["recording_id"]) == [str(number) for number in range(6000, 6007)]
    for record in records:
        name = f"0{record['recording_id']}_hr"
        signal = wfdb.rdrecord(shared_data / "ptb_xl" / "records500" / "06000" / name).p_signal.T
        expected = decimate(signal * 1000, 2, ftype="fir", axis=1)
        np.testing.assert_allclose(record["ecg"][:, 50:-50], expected[:, 50:-50], atol=8)


def test_records_contain_the_table_of_the_source(ptb_xl, shared_data):
    table = {row["ecg_id"]: row for row in read_table(shared_data / "ptb_xl")}
    for record in load(ptb_xl, "records").remove_columns("ecg"):
        row = table[record["recording_id"]]
        assert record["patient_id"] + ".0" == row["patient_id"]
        assert record["age"] == float(row["age"])
        assert record["sex"] == {"0": "male", "1": "female"}[row["sex"]]
        assert record["report"] == row["report"]
        assert (record["source"], record["sampling_rate"], record["start_s"]) == ("ptb_xl", 250, 0)


def test_a_statement_of_likelihood_zero_is_a_label(ptb_xl):
    assert load(ptb_xl, "records")[0]["labels"] == ["normal ECG", "non-specific T-wave changes", "sinus rhythm"]


def test_ages_over_89_are_90(source, tmp_path):
    edit_table(source, "6000", age="300.0")
    edit_table(source, "6001", age="")
    prepare_dataset("ptb_xl", tmp_path / "built", source=source, **MISSING_FILE)
    assert load(tmp_path / "built", "records")["age"][:3] == [90, None, 29]


def test_conversations_ask_for_original_reports_if_the_user_says_so(shared_data, tmp_path):
    source = shared_data / "ptb_xl"
    prepare_dataset("ptb_xl", tmp_path / "built", source=source, num_folds=0, reports="original", **MISSING_FILE)
    table = {row["ecg_id"]: row for row in read_table(source)}
    rows = all_rows(tmp_path / "built", "official")
    assert len(rows) == 7
    for row in rows:
        user, assistant = row["messages"]
        recording_id = row["record_ids"][0].split("-")[1]
        assert user["content"] == [{"type": "ecg", "text": None}, {"type": "text", "text": row["question"]}]
        assert assistant["content"] == [{"type": "text", "text": table[recording_id]["report"]}]
        assert (user["role"], assistant["role"]) == ("user", "assistant")
    assert "in the language of the report" in (tmp_path / "built" / "README.md").read_text()


def test_conversations_are_in_english_by_default(source, tmp_path):
    """A report in English is the answer, a translated one is, and the others are replaced by the certain findings."""
    edit_table(source, "6001", report="Sinus rhythm. Left axis deviation.")
    edit_table(source, "6003", scp_codes="{'IMI': 35.0, 'LAFB': 100.0, 'ISCAN': 50.0, 'SR': 0.0}")
    german = next(row["report"] for row in read_table(source) if row["ecg_id"] == "6002")
    (tmp_path / "translations.csv").write_text(
        f'report,language,translation,translator\n"{german}",de,"Sinus rhythm, in words of a translator.",by hand\n'
    )
    prepare_dataset(
        *("ptb_xl", tmp_path / "built", source),
        num_folds=0,
        translations=tmp_path / "translations.csv",
        **MISSING_FILE,
    )
    rows = all_rows(tmp_path / "built", "official")
    answers = {row["conversation_id"]: row["answer"] for row in rows}
    assert len(answers) == 7
    assert answers["ptb_xl-report-6001-0"] == ["Sinus rhythm. Left axis deviation."]
    assert answers["ptb_xl-report-6002-0"] == ["Sinus rhythm, in words of a translator."]
    findings = ["left anterior fascicular block", "anterior ischemia", "sinus rhythm"]
    assert answers["ptb_xl-findings-6003-0"] == findings
    card = (tmp_path / "built" / "README.md").read_text()
    assert "if it is in English or translated into English, and else for the list of findings" in card
    assert str(tmp_path) not in json.dumps(report(tmp_path / "built"))


def test_the_files_of_100_hz_are_read_and_the_card_says_so(source, tmp_path):
    """Only the first row of the table has its file of 100 Hz in the collection."""
    built = tmp_path / "built"
    prepare_dataset("ptb_xl", built, source, sampling_rate=100, source_rate=100, num_folds=0, max_skipped=0.9)
    (record,) = load(built, "records").with_format("numpy")
    signal = wfdb.rdrecord(source / "records100" / "00000" / "00001_lr").p_signal.T
    assert record["ecg"].shape == (12, 1000)
    np.testing.assert_array_equal(record["ecg"], np.round(1000 * signal))
    assert "contain nothing above 50 Hz" in (built / "README.md").read_text()
    assert report(built)["options"]["source_rate"] == 100
    edit_table(source, "1", patient_id="1.0")
    copied = tmp_path / "copied"
    (source.parent / "ecg_qa/train").mkdir(parents=True)
    entry = {"template_id": 1, "question_id": 1, "sample_id": 1, "question_type": "single-verify", "ecg_id": [1]}
    entry |= {"attribute_type": "noise", "question": "Noise?", "answer": ["no"], "attribute": None}
    (source.parent / "ecg_qa/train/0.json").write_text(json.dumps([entry]))
    prepare_dataset("ecg_qa", copied, source.parent / "ecg_qa", records=built, num_folds=0)
    assert "contain nothing above 50 Hz" in (copied / "README.md").read_text()


def test_an_option_of_another_dataset_and_a_missing_sampling_rate_are_errors(source, tmp_path):
    with pytest.raises(
        ValueError, match=r"^cpsc has no option source_rate \(--source-rate\); it has no such options$"
    ):
        prepare_dataset("cpsc", tmp_path / "built", source, source_rate=100)
    expected = r"^source_rate \(--source-rate\) is 250, but PTB-XL has files of 500 or 100 Hz$"
    with pytest.raises(ValueError, match=expected):
        prepare_dataset("ptb_xl", tmp_path / "built", source, source_rate=250)
    with pytest.raises(ValueError, match=r"^reports \(--reports\) is 'german'; expected english or original$"):
        prepare_dataset("ptb_xl", tmp_path / "built", source, reports="german")


def test_the_official_split_is_read_from_the_table(source, tmp_path):
    edit_table(source, "6001", strat_fold="9", patient_id="2482")  # a validation ECG of a patient of the test set
    prepare_dataset("ptb_xl", tmp_path / "built", source=source, **MISSING_FILE)
    expected = {"train": ["6002", "6003", "6005", "6006"], "validation": ["6001"], "test": ["6000", "6004"]}
    for split, recording_ids in expected.items():
        rows = load(tmp_path / "built", "official", split)
        assert list(rows["record_ids"]) == [[f"ptb_xl-{recording_id}-0"] for recording_id in recording_ids]
    assert report(tmp_path / "built")["splits"]["official"]["patients_in_several_splits"] == 1


def test_strata_of_reports_are_diagnostic_superclasses(source, tmp_path):
    edit_table(source, "6003", scp_codes="{'IMI': 35.0, 'LAFB': 0.0, 'SR': 0.0}")
    prepare_dataset("ptb_xl", tmp_path / "built", source=source, num_folds=0, reports="original", **MISSING_FILE)
    assert {row["conversation_id"]: row["stratum"] for row in all_rows(tmp_path / "built", "official")} == {
        "ptb_xl-report-6000-0": "NORM",
        "ptb_xl-report-6001-0": "STTC",
        "ptb_xl-report-6002-0": "CD+NORM",
        "ptb_xl-report-6003-0": "CD+MI",
        "ptb_xl-report-6004-0": "NORM",
        "ptb_xl-report-6005-0": "NORM",
        "ptb_xl-report-6006-0": "NORM",
    }


def test_shorter_segments_are_pieces_of_the_recording(ptb_xl, shared_data, tmp_path):
    prepare_dataset("ptb_xl", tmp_path / "built", source=shared_data / "ptb_xl", seconds=2, **MISSING_FILE)
    pieces = load(tmp_path / "built", "records").with_format("numpy")[:5]
    whole = load(ptb_xl, "records").with_format("numpy")[0]
    assert list(pieces["recording_id"]) == ["6000"] * 5 and list(pieces["start_s"]) == [0, 2, 4, 6, 8]
    np.testing.assert_array_equal(np.concatenate(pieces["ecg"], axis=1), whole["ecg"])
    rows = all_rows(tmp_path / "built", "fold1")
    assert sorted(row["ecg_index"] for row in rows) == [[number] for number in range(35)]


def test_a_flat_lead_is_listed_and_counted(source, tmp_path):
    path = source / "records500" / "06000" / "06002_hr"
    record = wfdb.rdrecord(path)
    record.p_signal[:, 7] = 0
    wfdb.wrsamp(path.name, 500, record.units, record.sig_name, record.p_signal, fmt=["16"] * 12, write_dir=path.parent)
    prepare_dataset("ptb_xl", tmp_path / "built", source=source, **MISSING_FILE)
    assert load(tmp_path / "built", "records")["missing_leads"][:4] == [[], [], ["V2"], []]
    assert report(tmp_path / "built")["records"]["records_with_missing_leads"] == 1


# conversations about existing records


def test_the_ecgs_of_a_comparison_are_in_the_order_of_the_question(ecg_qa, shared_data):
    source = entries(shared_data / "ecg_qa" / "ptbxl_mini" / "paraphrased")
    expected = Counter((entry["question"], tuple(map(str, entry["ecg_id"]))) for entry in source)
    records = load(ecg_qa, "records")
    found = Counter()
    for split in ("train", "validation", "test"):
        for row in load(ecg_qa, "official", split):
            names = [records[index]["recording_id"] for index in row["ecg_index"]]
            kinds = [item["type"] for item in row["messages"][0]["content"]]
            assert kinds == ["ecg"] * len(names) + ["text"]
            found[row["messages"][0]["content"][-1]["text"], tuple(names)] += 1
    assert found == expected
    assert sum(count for (_, names), count in found.items() if len(names) == 2) > 60


def test_answers_are_joined_in_the_order_of_the_source(ecg_qa):
    row = load(ecg_qa, "official").filter(lambda row: row["sample_id"] == 260000)[0]
    assert row["answer"] == ["qt interval", "rr interval"]
    assert row["messages"][1]["content"] == [{"type": "text", "text": "qt interval, rr interval"}]
    assert (row["template_id"], row["question_type"]) == (68, "comparison_irrelevant-query")


def test_copied_records_equal_those_of_the_dataset(ecg_qa, ptb_xl):
    assert load(ecg_qa, "records")[:] == load(ptb_xl, "records")[:]


def test_the_only_original_question_whose_ecg_is_available(ptb_xl, shared_data, tmp_path):
    source = shared_data / "ecg_qa" / "ptbxl"
    prepare_dataset("ecg_qa", tmp_path / "built", source=source, records=ptb_xl, num_folds=0)
    (row,) = load(tmp_path / "built", "official")
    assert (row["sample_id"], row["answer"], row["ecg_index"]) == (123657, ["no"], [0])
    assert load(tmp_path / "built", "records")["recording_id"][:] == ["6002"]
    left_out = len(entries(source / "paraphrased")) - 1
    assert report(tmp_path / "built")["conversations"] == {
        "built": 1,
        "left_out": {"ECG not among the records": left_out},
    }


def test_one_patient_is_too_few_for_folds(ptb_xl, shared_data, tmp_path):
    with pytest.raises(
        ValueError, match=r"5 folds require at least 5 patients, but there are 1; .*fewer folds \(--num-folds\)"
    ):
        prepare_dataset("ecg_qa", tmp_path / "built", source=shared_data / "ecg_qa" / "ptbxl", records=ptb_xl)
    assert list(tmp_path.iterdir()) == []


def test_the_templates_can_be_used_as_the_source(ptb_xl, shared_data, tmp_path):
    source = shared_data / "ecg_qa" / "ptbxl" / "template"
    prepare_dataset("ecg_qa", tmp_path / "built", source=source, records=ptb_xl, num_folds=0)
    (expected,) = (entry["question"] for entry in entries(source) if entry["ecg_id"] == [6002])
    assert load(tmp_path / "built", "official")["question"][:] == [expected]


def test_a_comparison_uses_the_segments_that_both_ecgs_have(source, shared_data, tmp_path):
    """6005 is cut to 6 s and has three segments of 2 s; 6006 has five; they share three."""
    path = source / "records500" / "06000" / "06005_hr"
    record = wfdb.rdrecord(path, sampto=3000)
    wfdb.wrsamp(path.name, 500, record.units, record.sig_name, record.p_signal, fmt=["16"] * 12, write_dir=path.parent)
    prepare_dataset("ptb_xl", tmp_path / "records", source=source, seconds=2, **MISSING_FILE)
    questions = shared_data / "ecg_qa" / "ptbxl_mini"
    prepare_dataset("ecg_qa", tmp_path / "built", source=questions, records=tmp_path / "records")
    records = load(tmp_path / "built", "records")
    repeats = Counter()
    for row in load(tmp_path / "built", "official", "test"):
        (segment,) = {records[index]["segment"] for index in row["ecg_index"]}
        repeats[row["conversation_id"].rsplit("-", 1)[0]] += 1
        assert row["conversation_id"].endswith(f"-{segment}")
    lengths = {"6005": 3, "6006": 5}
    for entry in entries(questions / "paraphrased"):
        if set(map(str, entry["ecg_id"])) <= set(lengths):
            expected = min(lengths[str(ecg_id)] for ecg_id in entry["ecg_id"])
            assert repeats[f"ecg_qa-test-{entry['sample_id']}"] == expected


def test_questions_require_records(shared_data, tmp_path):
    with pytest.raises(ValueError, match=r"ecg_qa refers to the ECGs of another dataset.*records \(--records\)"):
        prepare_dataset("ecg_qa", tmp_path / "built", source=shared_data / "ecg_qa" / "ptbxl_mini")


def test_records_of_another_dataset(simulated, shared_data, tmp_path):
    with pytest.raises(ValueError, match="none of the 7 ECGs of the conversations .*6000.* is among the 30 records"):
        prepare_dataset("ecg_qa", tmp_path / "built", source=shared_data / "ecg_qa" / "ptbxl_mini", records=simulated)


def test_the_error_for_damaged_json_gives_the_file(ptb_xl, tmp_path):
    (tmp_path / "source" / "train").mkdir(parents=True)
    (tmp_path / "source" / "train" / "0.json").write_text('[{"question": "?", "ecg_id": [6000]}]')
    with pytest.raises(ValueError, match=r"0\.json: entry 1 is not in the format of ECG-QA \(no field 'answer'\)"):
        prepare_dataset("ecg_qa", tmp_path / "built", source=tmp_path / "source", records=ptb_xl)
    (tmp_path / "source" / "train" / "0.json").write_text('[{"question": ')
    with pytest.raises(ValueError, match=r"0\.json: cannot be read as JSON"):
        prepare_dataset("ecg_qa", tmp_path / "built", source=tmp_path / "source", records=ptb_xl)


# folds, as published


@pytest.mark.parametrize("name", ["ptb_xl", "ecg_qa", "simulated"])
def test_published_folds_have_disjoint_patients(name, request):
    path = request.getfixturevalue(name)
    records = load(path, "records").remove_columns("ecg")
    patient_of = {row["record_id"]: row["patient_id"] for row in records}
    tested, validated, everyone = [], [], set(patient_of.values())
    for fold in FOLDS:
        tables = datasets.load_dataset(str(path), fold)
        assert [split for split in ("train", "validation", "test") if split in tables] == list(tables)
        patients = {
            split: {patient_of[name] for row in table for name in row["record_ids"]} for split, table in tables.items()
        }
        assert sum(map(len, patients.values())) == len(set.union(*patients.values()))
        tested += patients.get("test", ())
        validated += patients.get("validation", ())
        counts = report(path)["splits"][fold]
        assert {split: len(table) for split, table in tables.items()} == {s: counts[s] for s in tables}
        assert sum(map(len, tables.values())) + counts["left_out"] == report(path)["conversations"]["built"]
        assert len(patients.get("test", ())) <= counts["test_patients"]
        assert len(patients.get("validation", ())) <= counts["validation_patients"]
    assert len(tested) == len(set(tested)) > len(everyone) - 3
    assert len(validated) == len(set(validated)) >= 2
    assert sum(report(path)["splits"][fold]["test_patients"] for fold in FOLDS) == len(everyone)


# the simulated dataset


def test_simulated_comparisons_have_the_patients_of_their_ecgs(simulated):
    kinds = Counter()
    for row in [row for fold in FOLDS for row in load(simulated, fold, "test")]:
        kind = row["question_type"].split("-")[0]
        kinds[kind] += 1
        assert len(row["patient_ids"]) == (1 if kind == "single" else 2)
        assert len(set(row["patient_ids"])) == (2 if kind == "comparison_irrelevant" else 1)

    assert 3 * 30 < kinds["single"] <= QUESTIONS_PER_ECG * 30
    assert kinds["comparison_consecutive"] > 10


def test_the_seed_determines_the_simulated_ecgs(simulated, tmp_path):
    prepare_dataset("simulated_qa", tmp_path / "again" / simulated.name, num_recordings=30)
    prepare_dataset("simulated_qa", tmp_path / "other", num_recordings=30, seed=1)
    assert same_files(simulated, tmp_path / "again" / simulated.name)
    first, other = (load(path, "records").with_format("numpy")[0]["ecg"] for path in (simulated, tmp_path / "other"))
    assert (first != other).mean() > 0.9


def test_simulated_recordings_do_not_depend_on_their_number(simulated, tmp_path):
    prepare_dataset("simulated_qa", tmp_path / "fewer", num_recordings=20)
    assert load(tmp_path / "fewer", "records")[:] == load(simulated, "records")[:20]


def same_files(first: Path, second: Path) -> bool:
    names = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(second) for path in second.rglob("*") if path.is_file())
    return filecmp.cmpfiles(first, second, names, shallow=False)[0] == names


def test_the_result_does_not_depend_on_the_number_of_processes(source, tmp_path, monkeypatch):
    monkeypatch.setattr(elm_hf.prepare.record_files, "RECORDINGS_PER_FILE", 2)
    builds = [tmp_path / str(num_proc) / "built" for num_proc in (1, 2, 3)]
    for num_proc, output in enumerate(builds, 1):
        prepare_dataset("ptb_xl", output, source=source, num_proc=num_proc, **MISSING_FILE)
    assert len(list((builds[0] / "records").iterdir())) == 4
    assert same_files(builds[0], builds[1]) and same_files(builds[0], builds[2])


def test_a_recording_filed_under_two_patients_is_kept_once(source, tmp_path, monkeypatch):
    """As in PTB-XL 1.0.1. The copies are in other files of the build, of other processes and of other shards."""
    monkeypatch.setattr(elm_hf.prepare.record_files, "RECORDINGS_PER_FILE", 2)
    options = {"source": source, "max_skipped": 0.5, "num_folds": 3}
    prepare_dataset("ptb_xl", tmp_path / "clean", **options)
    path, folder = source / "ptbxl_database.csv", source / "records500" / "06000"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    original = next(row for row in rows if row["ecg_id"] == "6003")
    for name, patient in (("90001", "70001"), ("90002", "70002")):
        for suffix in (".hea", ".dat"):
            content = (folder / f"06003_hr{suffix}").read_bytes()
            (folder / f"{name}_hr{suffix}").write_bytes(content.replace(b"06003_hr", f"{name}_hr".encode()))
        rows.append(original | {"ecg_id": name, "patient_id": patient, "filename_hr": f"records500/06000/{name}_hr"})
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, original.keys())
        table.writeheader()
        table.writerows(rows)
    for num_proc in (1, 3):
        prepare_dataset("ptb_xl", tmp_path / str(num_proc) / "built", num_proc=num_proc, **options)
    built = tmp_path / "1" / "built"
    assert same_files(built, tmp_path / "3" / "built")
    lines = [row for row in csv.DictReader((built / "skipped.csv").open()) if row["recording_id"] > "9"]
    assert [(row["recording_id"], row["reason"]) for row in lines] == [
        ("90001", "same signal as another recording"),
        ("90002", "same signal as another recording"),
    ]
    assert all(row["message"].endswith(": same signal as 6003") for row in lines)
    assert report(built)["records"]["skipped"]["same signal as another recording"] == 2
    columns = ["recording_id", "patient_id", "ecg"]
    kept, clean = (load(path, "records").select_columns(columns)[:] for path in (built, tmp_path / "clean"))
    assert kept == clean
    assert load(built, "patients")[:] == load(tmp_path / "clean", "patients")[:]


# bad input


def damage(source: Path) -> None:
    """Truncate a signal, rename a lead and exchange two limb leads."""
    folder = source / "records500" / "06000"
    data = (folder / "06000_hr.dat").read_bytes()
    (folder / "06000_hr.dat").write_bytes(data[: len(data) // 2])
    header = (folder / "06001_hr.hea").read_text()
    (folder / "06001_hr.hea").write_text(header.replace(" V6", " V7"))
    record = wfdb.rdrecord(folder / "06002_hr")
    names = ["II", "I", *record.sig_name[2:]]
    wfdb.wrsamp("06002_hr", 500, record.units, names, record.p_signal, fmt=["16"] * 12, write_dir=str(folder))


def test_bad_recordings_are_skipped_counted_and_listed(source, tmp_path):
    damage(source)
    edit_table(source, "6003", scp_codes="{'NORM': ")
    prepare_dataset("ptb_xl", tmp_path / "built", source=source, max_skipped=0.7, num_folds=0)
    assert skipped(tmp_path / "built") == {
        "1": "missing file",
        "6000": "unreadable header",
        "6001": "unknown lead",
        "6002": "limb leads disagree",
        "6003": "unreadable metadata",
    }
    assert report(tmp_path / "built")["records"]["skipped"] == dict.fromkeys(skipped(tmp_path / "built").values(), 1)
    assert load(tmp_path / "built", "records")["recording_id"][:] == ["6004", "6005", "6006"]
    assert report(tmp_path / "built")["conversations"] == {"built": 3, "left_out": {"ECG skipped": 5}}


def test_paths_in_the_list_of_skipped_recordings_are_relative_to_the_source(ptb_xl):
    (line,) = (ptb_xl / "skipped.csv").read_text().splitlines()[1:]
    assert line.startswith("1,missing file,records500/00000/00001_hr.hea: no such file")


def test_too_many_bad_recordings_stop_the_build_and_leave_no_output(source, tmp_path):
    damage(source)
    with pytest.raises(ValueError) as caught:
        prepare_dataset("ptb_xl", tmp_path / "built", source=source)
    assert "4 of 8 recordings cannot be used, over the limit of 0.05" in str(caught.value)
    assert "unknown lead (1)" in str(caught.value) and "allow it with max_skipped (--max-skipped) 0.5" in str(
        caught.value
    )
    assert f"or repair the source and delete the working folder {tmp_path / 'built.building'}" in str(caught.value)
    assert not (tmp_path / "built").exists()
    prepare_dataset("ptb_xl", tmp_path / "built", source=source, max_skipped=0.5, num_folds=0)
    assert len(skipped(tmp_path / "built")) == 4 and not (tmp_path / "built.building").exists()


def test_a_recording_without_patient_id_is_skipped(source, tmp_path):
    edit_table(source, "6006", patient_id="")
    prepare_dataset("ptb_xl", tmp_path / "built", source=source, max_skipped=0.25)
    assert skipped(tmp_path / "built")["6006"] == "no patient id"


def test_a_source_without_usable_recordings_is_always_an_error(source, tmp_path):
    shutil.rmtree(source / "records500")
    with pytest.raises(ValueError, match="8 of 8 recordings cannot be used.*missing file.*there is nothing to build"):
        prepare_dataset("ptb_xl", tmp_path / "built", source=source, max_skipped=1)


def test_the_error_for_a_missing_column_names_it(source, tmp_path):
    path = source / "ptbxl_database.csv"
    path.write_text(path.read_text().replace("patient_id", "patient", 1))
    with pytest.raises(ValueError, match=r"ptbxl_database\.csv: no column patient_id; found ecg_id, patient, age"):
        prepare_dataset("ptb_xl", tmp_path / "built", source=source)


def test_a_repeated_recording_is_skipped(source, tmp_path):
    edit_table(source, "6001", ecg_id="6000")
    prepare_dataset("ptb_xl", tmp_path / "built", source=source, max_skipped=0.25)
    assert skipped(tmp_path / "built") == {"1": "missing file", "6000": "repeated recording"}
    rows = load(tmp_path / "built", "records")
    assert rows["recording_id"][:] == ["6000", "6002", "6003", "6004", "6005", "6006"]
    assert rows[0]["age"] == 59  # the age in the first row
    assert report(tmp_path / "built")["conversations"] == {"built": 6, "left_out": {"ECG skipped": 1}}


def test_a_missing_source(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"nowhere: not found; source \(--source\) must be the folder of PTB-XL"
    ):
        prepare_dataset("ptb_xl", tmp_path / "built", source=tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"pass the source folder as source \(--source\)"):
        prepare_dataset("ptb_xl", tmp_path / "built")


def test_an_unknown_dataset(tmp_path):
    with pytest.raises(ValueError, match="unknown dataset 'ptbxl'; available: .*ecg_qa, .*ptb_xl, .*simulated_qa"):
        prepare_dataset("ptbxl", tmp_path / "built")


def test_segments_of_a_fraction_of_a_sample(tmp_path):
    with pytest.raises(ValueError, match="0.001 s at 250 Hz is not a whole number of samples"):
        prepare_dataset("simulated_qa", tmp_path / "built", seconds=0.001, num_recordings=20)


# the output folder


def test_an_existing_output_is_refused_and_not_changed(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="mine: "):
            prepare_dataset("simulated_qa", tmp_path / "mine", num_recordings=20, overwrite=overwrite)
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "thesis.txt"]


def test_an_earlier_build_is_overwritten_on_request(tmp_path):
    prepare_dataset("simulated_qa", tmp_path / "built", num_recordings=20)
    before = load(tmp_path / "built", "records")
    prepare_dataset("simulated_qa", tmp_path / "built", num_recordings=20, seed=1, overwrite=True)
    after = load(tmp_path / "built", "records")
    assert before[0]["ecg"] != after[0]["ecg"]
    assert [path.name for path in tmp_path.iterdir()] == ["built"]
