"""MIMIC-IV-ECG, CODE-15%, CPSC and CSN: the peculiarities of each source on a sample, and damaged copies of it."""

import csv
import re
import shutil
import tracemalloc
from pathlib import Path

import datasets
import h5py
import numpy as np
import pytest

from elm_hf.dataset_scripts import code15
from elm_hf.ecg.recording import RecordingError, path_within
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.prepare import snomed
from elm_hf.prepare.builder import ElmDatasetBuilder, find_builder
from elm_hf.prepare.dataset import prepare_dataset
from elm_hf.prepare.snomed import HeaderComments, read_header_comments, snomed_group, snomed_name


LEAD = {lead: row for row, lead in enumerate(LEADS)}


@pytest.fixture
def source(request, shared_data, tmp_path) -> Path:
    """A copy of the sample of a dataset, which the test may damage."""
    return Path(shutil.copytree(shared_data / request.param, tmp_path / "source" / request.param))


def of(name: str):
    return pytest.mark.parametrize("source", [name], indirect=True)


def builder(name: str, source: Path) -> ElmDatasetBuilder:
    return find_builder(name)(cache_dir=str(source.parent / "cache"), config_name="conversations", source=str(source))


def references(name: str, source: Path) -> dict[str, dict]:
    return {reference["recording_id"]: reference for reference in builder(name, source).list_recordings()}


def read(name: str, source: Path, recording_id: str):
    return builder(name, source).read_recording(references(name, source)[recording_id])


def build(name: str, source: Path, **options) -> tuple[dict, dict[str, dict], dict[str, str]]:
    """Returns the build report, the records by id, and the reasons for skipped recordings."""
    output = source.parent.parent / "built"
    report = prepare_dataset(name, output, source=source, **({"num_folds": 2, "max_skipped": 0.3} | options))
    rows = datasets.load_dataset(str(output), "records", split="train").with_format("numpy")
    with (output / "skipped.csv").open(newline="") as file:
        skipped = {row["recording_id"]: row["reason"] for row in csv.DictReader(file)}
    return report, {str(row["record_id"]): row for row in rows}, skipped


def conversations(name: str, source: Path) -> dict[str, dict]:
    return {row["recording_ids"][0]: row for row in builder(name, source).list_conversations()}


def reason_of(name: str, source: Path, recording_id: str) -> tuple[str, str]:
    with pytest.raises(RecordingError) as caught:
        read(name, source, recording_id)
    return caught.value.reason, str(caught.value)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


# MIMIC-IV-ECG


@of("mimic_iv_ecg")
def test_mimic_is_built_with_its_gaps(source):
    report, rows, skipped = build("mimic_iv_ecg", source, seconds=2)
    assert skipped == {}
    assert report["records"]["patients"] == 4 and report["records"]["recordings"] == 6
    # 0.4 s of every lead are missing from 2.4 s: the second segment of 2 s has no lead; the fourth has no V4 to V6
    found = {name.split("-")[2]: list(row["missing_leads"]) for name, row in rows.items() if "49990027" in name}
    assert found == {"0": [], "2": [], "3": ["V4", "V5", "V6"], "4": []}
    assert {tuple(row["missing_leads"]) for name, row in rows.items() if "49990063" in name} == {("V6",)}
    assert {str(row["patient_id"]) for name, row in rows.items() if "49990027" in name} == {"10990001"}


@of("mimic_iv_ecg")
def test_mimic_leads_are_placed_by_name_from_a_file_with_avf_before_avl(source):
    recording, _ = read("mimic_iv_ecg", source, "49990042")
    path = source / "files/p1199/p11990002/s49990042/49990042.dat"
    raw = np.fromfile(path, "<i2").reshape(5000, 12).T / 200
    np.testing.assert_allclose(recording.ecg[LEAD["aVF"]], raw[4], atol=1e-6)
    np.testing.assert_allclose(recording.ecg[LEAD["aVL"]], raw[5], atol=1e-6)
    assert np.abs(raw[4] - raw[5]).max() > 0.1


@of("mimic_iv_ecg")
def test_mimic_reports_are_joined_over_gaps_and_29999_is_not_a_measurement(source):
    rows = conversations("mimic_iv_ecg", source)
    assert rows["49990035"]["answer"] == ["Sinus tachycardia; Left atrial abnormality; Abnormal ECG"]
    assert rows["49990035"]["messages"][1]["content"][0]["text"] == rows["49990035"]["answer"][0]
    assert read("mimic_iv_ecg", source, "49990035")[1] == {"report": rows["49990035"]["answer"][0]}
    with (source / "machine_measurements.csv").open(newline="") as file:
        written = {row["study_id"]: row for row in csv.DictReader(file)}
    assert "29999" in written["49990063"].values()
    for study, row in rows.items():
        for name in ("rr_interval", "p_onset", "qrs_end", "t_axis"):
            value = float(written[study][name])
            assert row[name] == (None if value == 29999 else value)
    assert rows["49990011"]["stratum"] == "sinus tachycardia: borderline ecg"
    assert rows["49990027"]["stratum"] == "sinus tachycardia: otherwise normal ecg"


@of("mimic_iv_ecg")
def test_mimic_tables_may_be_in_different_order_and_a_study_without_statements_has_no_report(source):
    before = conversations("mimic_iv_ecg", source)
    path = source / "machine_measurements.csv"
    header, *lines = path.read_text().splitlines()
    path.write_text("\n".join([header, *lines[:0:-1]]) + "\n")  # in reverse order, without 49990011
    after = conversations("mimic_iv_ecg", source)
    assert after.pop("49990011")["answer"] == []
    assert read("mimic_iv_ecg", source, "49990011")[1] == {"report": None}
    del before["49990011"]
    assert after == before


@of("mimic_iv_ecg")
def test_a_mimic_path_of_another_subject_or_outside_the_source_is_not_read(source):
    table = source / "record_list.csv"
    edit(table, "p10990001/s49990011", "p10990002/s49990011")
    reason, message = reason_of("mimic_iv_ecg", source, "49990011")
    assert reason == "unreadable metadata" and "does not belong to subject_id 10990001" in message
    shutil.copytree(source / "files", source.parent / "files")
    edit(table, "files/p1099/p10990001/s49990027", "../files/p1099/p10990001/s49990027")
    assert reason_of("mimic_iv_ecg", source, "49990027")[0] == "path outside the source"


@pytest.mark.parametrize("name", ["../outside.hea", "a/../../outside", "/etc/passwd"])
def test_paths_outside_the_source_are_refused(tmp_path, name):
    with pytest.raises(RecordingError, match="outside the folder, so it is not read"):
        path_within(tmp_path / "source", name)
    assert path_within(tmp_path / "source", "a/../b.dat") == tmp_path / "source" / "b.dat"


@of("mimic_iv_ecg")
def test_the_error_for_a_missing_mimic_column_names_it(source):
    edit(source / "machine_measurements.csv", "report_17", "report_18")
    with pytest.raises(
        ValueError, match=r"machine_measurements\.csv: no column report_17; found subject_id, study_id"
    ):
        build("mimic_iv_ecg", source)


# CODE-15%


@of("code15")
def test_code15_is_built_without_the_row_of_zeros(source):
    report, rows, skipped = build("code15", source)
    # the four exams of 7.3 s are too short for 10 s, which does not count towards max_skipped
    assert skipped == dict.fromkeys(["438277", "358121", "795649", "1238362"], "too short")
    assert list(rows) == ["code15-2969044-0", "code15-1594286-0", "code15-975093-0"]
    assert report["records"]["patients"] == 3
    row = rows["code15-1594286-0"]
    assert (row["age"], row["sex"], list(row["labels"])) == (68, "female", ["complete right bundle branch block"])
    assert np.median(row["ecg"][LEAD["V3"]]) == pytest.approx(-9000, abs=500)  # the offset is part of the signal


@of("code15")
def test_code15_padding_is_removed(source):
    for exam, part, first, last in [("438277", 11, 581, 3515), ("795649", 0, 581, 3515), ("1594286", 14, 0, 4096)]:
        recording, _ = read("code15", source, exam)
        with h5py.File(source / f"exams_part{part}.hdf5") as file:
            row = file["exam_id"][:].tolist().index(int(exam))
            expected = file["tracings"][row, first:last].T
        assert recording.sampling_rate == 400
        np.testing.assert_array_equal(recording.ecg, expected)


@of("code15")
def test_code15_is_read_part_by_part(source):
    parts = [reference["trace_file"] for reference in builder("code15", source).list_recordings()]
    assert parts == [f"exams_part{part}.hdf5" for part in (0, 5, 11, 12, 12, 14, 14)]


@of("code15")
def test_code15_labels_and_sex(source):
    edit(source / "exams.csv", "46,True,38.72283,True,False", "46,False,38.72283,True,True")
    _, metadata = read("code15", source, "438277")
    labels = ["first degree AV block", "complete right bundle branch block"]
    assert metadata == {"age": 46, "sex": "female", "labels": labels}
    assert conversations("code15", source)["438277"]["stratum"] == "+".join(labels)


@of("code15")
def test_code15_normal_is_a_label_and_unknown_findings_are_no_answer(source):
    edit(source / "exams.csv", "True,False,False,False,False,False,185323,,,False", "False," * 6 + "185323,,,True")
    edit(source / "exams.csv", "44.204422,False,True", "44.204422,False,False")
    rows = conversations("code15", source)
    assert rows["438277"]["answer"] == ["normal ECG"] and rows["358121"]["answer"] == []


@of("code15")
def test_code15_damage_is_reported_and_the_rest_is_built(source):
    path = source / "exams_part0.hdf5"  # exam 795649
    path.write_bytes(path.read_bytes()[:200_000])
    (source / "exams_part5.hdf5").unlink()  # 1238362
    with h5py.File(source / "exams_part12.hdf5", "r+") as file:  # 358121 or 2969044 is lost, another exam is repeated
        first, second = file["exam_id"][:2].tolist()
        file["exam_id"][2] = first
        file["tracings"][1] = 0
    with h5py.File(source / "exams_part14.hdf5", "r+") as file:
        lost = file["exam_id"][0].item()
        file["exam_id"][0] = 77
        kept = file["exam_id"][1].item()
    _, rows, skipped = build("code15", source, seconds=2, max_skipped=0.9)
    assert skipped == {
        "795649": "unreadable file",
        "1238362": "missing file",
        str(first): "missing exam",
        str(second): "no usable lead",
        str(lost): "missing exam",
    }
    assert {name.split("-")[1] for name in rows} == {"438277", str(kept)}
    assert "exams_part0.hdf5: truncated" in reason_of("code15", source, "795649")[1]


@of("code15")
def test_a_file_with_other_arrays_is_refused(source):
    for content in ({"exam_id": np.arange(3)}, {"exam_id": np.arange(3), "tracings": np.zeros((2, 4096, 12))}):
        (source / "exams_part0.hdf5").unlink()
        with h5py.File(source / "exams_part0.hdf5", "w") as file:
            for name, values in content.items():
                file[name] = values
        assert reason_of("code15", source, "795649")[0] == "unreadable file"


@of("code15")
def test_a_part_is_opened_once_and_read_row_by_row(source, monkeypatch):
    """Only one row is in memory at a time. A real part of 20,000 exams has 3.9 GB; this one has 3,000 exams."""
    with h5py.File(source / "exams_part11.hdf5", "r+") as file:
        tracing = file["tracings"][0]
        del file["tracings"], file["exam_id"]
        file["exam_id"] = np.arange(3000)
        tracings = file.create_dataset("tracings", (3000, 4096, 12), "f4", chunks=(1, 4096, 12))
        for row in range(100, 110):
            tracings[row] = tracing
    opened = []
    open_file = h5py.File
    monkeypatch.setattr(h5py, "File", lambda *arguments: opened.append(arguments) or open_file(*arguments))
    made, reference = builder("code15", source), references("code15", source)["438277"]
    tracemalloc.start()
    for exam in range(100, 110):
        made.read_recording(reference | {"exam_id": str(exam)})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(opened) == 1
    assert peak < 8e6


# CPSC


@of("cpsc")
def test_cpsc_is_segmented_and_each_recording_is_a_patient(source):
    report, rows, _ = build("cpsc", source)
    counts = {}
    for row in rows.values():
        counts[str(row["patient_id"])] = counts.get(str(row["patient_id"]), 0) + 1
    assert counts == {"A1986": 4} | dict.fromkeys(["A1980", "A1981", "A1982", "A1983", "A1984", "A1985"], 1)
    assert report["records"]["patients"] == 7
    row = rows["cpsc-A1986-3"]
    assert (float(row["start_s"]), row["age"], row["sex"]) == (30.0, 53, "female")
    assert list(row["labels"]) == ["complete right bundle branch block"]


@of("cpsc")
def test_cpsc_records_are_found_in_all_folders_and_others_are_ignored(source):
    folder = source / "cpsc_2018/g1"
    (source / "cpsc_2018/g2").mkdir()
    (source / "cpsc_2018_extra/g4").mkdir(parents=True)
    (source / "georgia/g1").mkdir(parents=True)
    (folder / "A1980.hea").rename(source / "cpsc_2018/g2/A1980.hea")
    (folder / "A1980.mat").rename(source / "cpsc_2018/g2/A1980.mat")
    for ending in ("hea", "mat"):
        shutil.copy(folder / f"A1982.{ending}", source / f"cpsc_2018_extra/g4/Q0001.{ending}")
        shutil.copy(folder / f"A1982.{ending}", source / f"georgia/g1/E0001.{ending}")
    edit(source / "cpsc_2018_extra/g4/Q0001.hea", "A1982 12", "Q0001 12")
    for _ in range(12):
        edit(source / "cpsc_2018_extra/g4/Q0001.hea", "A1982.mat", "Q0001.mat")
    assert list(references("cpsc", source)) == [f"A198{n}" for n in range(7)] + ["Q0001"]
    assert read("cpsc", source, "A1980")[0].ecg.shape == (12, 5000)
    np.testing.assert_array_equal(read("cpsc", source, "Q0001")[0].ecg, read("cpsc", source, "A1982")[0].ecg)


# Georgia


@of("cpsc")
def test_georgia_is_built_from_the_headers_with_its_names(source):
    """The collection has no record of Georgia with its header, so records of CPSC get names of Georgia."""
    for number, (name, old) in enumerate([("E00001", "A1980"), ("E10344", "A1982")]):
        folder = source / f"georgia/g{number + 1}"
        folder.mkdir(parents=True)
        text = (source / f"cpsc_2018/g1/{old}.hea").read_text()
        (folder / f"{name}.hea").write_text(
            re.sub("^# Dx:.*$", "# Dx: 59118001,63593006", text, flags=re.M).replace(old, name)
        )
        shutil.copy(source / f"cpsc_2018/g1/{old}.mat", folder / f"{name}.mat")
    report, rows, skipped = build("georgia", source)
    assert skipped == {} and report["records"]["patients"] == 2
    assert list(rows) == ["georgia-E00001-0", "georgia-E10344-0"]
    labels = ["complete right bundle branch block", "atrial premature complex"]
    assert {tuple(row["labels"]) for row in rows.values()} == {tuple(labels)}
    assert conversations("georgia", source)["E10344"]["stratum"] == "conduction disturbance+ectopic beats"
    np.testing.assert_array_equal(read("georgia", source, "E00001")[0].ecg, read("cpsc", source, "A1980")[0].ecg)


# CSN


@of("csn")
def test_csn_is_built_with_flat_leads_and_label_names(source):
    report, rows, skipped = build("csn", source)
    assert skipped == {} and report["records"]["patients"] == report["records"]["records"] == 14
    missing = {name: list(row["missing_leads"]) for name, row in rows.items() if len(row["missing_leads"])}
    assert missing == {"csn-JS20004-0": ["V2", "V4", "V6"], "csn-JS20008-0": ["V2", "V4", "V6"]}
    row = rows["csn-JS20004-0"]
    assert (row["age"], row["sex"]) == (89, "male")
    # two of the four codes 284470004, 427084000, 55827005 and 427172004 are in the table of the source
    labels = ["atrial premature complex", "sinus tachycardia", "left ventricular high voltage"]
    assert list(row["labels"]) == [*labels, "ventricular premature complex"]
    assert rows["csn-JS20008-0"]["age"] == 5
    assert int(rows["csn-JS20011-0"]["ecg"].min()) < -9000  # -11.4 mV at 500 Hz, a narrow spike
    assert conversations("csn", source)["JS20004"]["stratum"] == (
        "ectopic beats+hypertrophy or enlargement+sinus rhythm"
    )


@of("csn")
def test_damaged_csn_records_are_reported_and_the_rest_is_built(source):
    folder = source / "WFDBRecords/20/206"
    edit(folder / "JS20000.hea", "5000\n", "5000 ")  # as in JS23074: no line break after the record line
    edit(folder / "JS20001.hea", "5000\n", "5000")
    data = (folder / "JS20002.mat").read_bytes()
    (folder / "JS20002.mat").write_bytes(data[:-2])
    (folder / "JS20003.mat").unlink()
    edit(folder / "JS20005.hea", "#Age: 83", "#Age: eighty")
    edit(folder / "JS20006.hea", "JS20006.mat", "../JS20006.mat")
    (folder / "JS20007.hea").write_bytes(b"")
    (source / "WFDBRecords/21").mkdir()
    for ending in ("hea", "mat"):  # a second record with the same name
        shutil.copy(folder / f"JS20008.{ending}", source / f"WFDBRecords/21/JS20008.{ending}")
    _, rows, skipped = build("csn", source, max_skipped=0.6)
    assert skipped == {
        **dict.fromkeys(["JS20000", "JS20001", "JS20002", "JS20006", "JS20007"], "unreadable header"),
        "JS20003": "missing file",
        "JS20005": "unreadable metadata",
        "JS20008": "repeated recording",
    }
    used = [4, *range(8, 14)]
    assert list(rows) == [f"csn-JS200{number:02d}-0" for number in used]


@of("csn")
def test_unknown_age_sex_and_codes(source):
    header = source / "WFDBRecords/20/206/JS20009.hea"
    edit(header, "#Age: 89", "#Age: NaN")
    edit(header, "#Sex: Female", "#Sex: Unknown")
    edit(header, "#Dx: 284470004", "#Dx: 12345, 284470004,284470004")
    _, metadata = read("csn", source, "JS20009")
    labels = ["SNOMED CT 12345", "atrial premature complex", "sinus tachycardia", "ST change"]
    assert metadata == {"age": None, "sex": None, "labels": labels}
    edit(header, "#Dx: 12345, 284470004,284470004,427084000,55930002", "#Dx: Unknown")
    assert conversations("csn", source)["JS20009"]["answer"] == []


def test_header_comments_are_read_with_and_without_a_space(tmp_path):
    (tmp_path / "a.hea").write_text("a 1 500 10\n# Age: 61.0 \n#Sex:  M\r\n# Dx: 426783006,164889003\n")
    comments = HeaderComments(61, "male", ["426783006", "164889003"])
    assert read_header_comments("a.hea", tmp_path) == comments
    assert comments.stratum == "atrial fibrillation or flutter+sinus rhythm"
    assert HeaderComments(None, None, []).stratum == "none"


# SNOMED CT


def test_every_code_in_the_table_of_csn_has_one_name(shared_data):
    with (shared_data / "csn/ConditionNames_SNOMED-CT.csv").open(newline="") as file:
        names = {row["AcronymName"]: snomed_name(row["Snomed_CT"].strip()) for row in csv.DictReader(file)}
    assert not [name for name in names.values() if "SNOMED" in name or ", " in name]
    assert len({names[acronym] for acronym in ("MI", "MIBW", "MIFW", "MILW", "MISW")}) == 1
    assert names["WAVN"] == names["SAAWR"] == "wandering atrial pacemaker"
    # "ST tilt up" in the table is the ST elevation of CPSC
    assert (names["STTU"], names["STE"]) == ("ST elevation", "abnormal ST interval")


# Findings that several sources have: the name, the SNOMED CT codes, the column of CODE-15 and the statement of PTB-XL.
# Each row of codes that the Challenge of 2021 scores as equivalent is one finding (Reyna et al. 2021, table 2).
SHARED_FINDINGS = [
    ("complete left bundle branch block", "733534002 164909002", "LBBB", "CLBBB"),
    ("complete right bundle branch block", "713427006 59118001", "RBBB", "CRBBB"),
    ("atrial premature complex", "284470004 63593006", None, "PAC"),
    ("ventricular premature complex", "17338001 164884008 427172004", None, "PVC"),
    ("first degree AV block", "270492004", "1dAVb", "1AVB"),
    ("second degree AV block", "195042002", None, "2AVB"),
    ("third degree AV block", "27885002", None, "3AVB"),
    ("atrial fibrillation", "164889003", "AF", "AFIB"),
    ("atrial flutter", "164890007", None, "AFLT"),
    ("sinus rhythm", "426783006", None, "SR"),
    ("sinus bradycardia", "426177001", "SB", "SBRAD"),
    ("sinus tachycardia", "427084000", "ST", "STACH"),
    ("sinus arrhythmia", "427393009", None, "SARRH"),
    ("supraventricular tachycardia", "426761007", None, "SVTAC"),
    ("paroxysmal supraventricular tachycardia", "67198005", None, "PSVT"),
    ("left anterior fascicular block", "445118002", None, "LAFB"),
    ("left posterior fascicular block", "445211001", None, "LPFB"),
    ("incomplete left bundle branch block", "251120003", None, "ILBBB"),
    ("incomplete right bundle branch block", "713426002", None, "IRBBB"),
    ("non-specific intraventricular conduction disturbance", "698252002", None, "IVCD"),
    ("Wolff-Parkinson-White syndrome", "74390002", None, "WPW"),
    ("left ventricular hypertrophy", "164873001", None, "LVH"),
    ("right ventricular hypertrophy", "89792004", None, "RVH"),
    ("left atrial overload/enlargement", "67741000119109 446813000", None, "LAO/LAE"),
    ("right atrial overload/enlargement", "446358003", None, "RAO/RAE"),
    ("anterior myocardial infarction", "54329005", None, "AMI"),
    ("anterior ischemia", "426434006", None, "ISCAN"),
    ("inferior ischemia", "425419005", None, "ISCIN"),
    ("lateral ischemia", "425623009", None, "ISCLA"),
    ("long QT-interval", "111975006", None, "LNGQT"),
    ("prolonged PR interval", "164947007", None, "LPR"),
    ("abnormal QRS", "164951009", None, "ABQRS"),
    ("Q waves present", "164917005", None, "QWAVE"),
    ("inverted T-waves", "59931005", None, "INVT"),
    ("T-wave abnormality", "164934002", None, "TAB_"),
    ("low QRS voltages in the frontal and horizontal leads", "251146004", None, "LVOLT"),
    ("normal ECG", "", "normal_ecg", "NORM"),
]


def test_a_finding_has_the_same_name_in_all_sources(shared_data):
    path = Path(shared_data / "ptb_xl")
    statements = builder("ptb_xl", path).statement_names()
    columns = code15.ABNORMALITIES | {"normal_ecg": code15.NORMAL}
    for name, codes, column, statement in SHARED_FINDINGS:
        names = {snomed_name(code) for code in codes.split()} | {statements[statement]}
        assert names | ({columns[column]} if column else set()) == {name}
    # names that differ only in the way they are written would be missed by the table
    names = [*statements.values(), *columns.values(), *(row["name"] for row in snomed._table().values())]
    written = {}
    for name in names:
        key = re.sub("[^a-z]", "", name.lower()).replace("ischaemi", "ischemi")
        assert written.setdefault(key, name) == name
    assert set(columns) == {column for _, _, column, _ in SHARED_FINDINGS if column}


def test_codes_of_one_finding_have_one_name_and_group():
    groups = {
        "426783006": "sinus rhythm",
        "164889003": "atrial fibrillation or flutter",
        "59118001": "conduction disturbance",
        "284470004": "ectopic beats",
        "164865005": "infarction",
        "429622005": "ST-T change",
    }
    assert {code: snomed_group(code) for code in groups} == groups


# PTB-XL


@of("ptb_xl")
def test_a_ptb_xl_path_outside_the_source_is_not_read(source):
    shutil.copytree(source / "records500", source.parent / "records500")
    edit(source / "ptbxl_database.csv", "records500/06000/06002_hr", "../records500/06000/06002_hr")
    _, rows, skipped = build("ptb_xl", source)
    assert skipped == {"1": "missing file", "6002": "path outside the source"}
    assert len(rows) == 6


@of("ptb_xl")
def test_an_unknown_statement_keeps_its_code(source):
    edit(source / "ptbxl_database.csv", "'NT_': 0.0", "'XYZ_': 0.0")
    _, metadata = read("ptb_xl", source, "6000")
    assert metadata["labels"] == ["normal ECG", "XYZ_", "sinus rhythm"]


@of("ptb_xl")
def test_electrocardiograph_site_and_noise_of_ptb_xl_are_columns_of_the_records(source):
    annotated = 'leicht," , V1,  ",V1???,,,'
    edit(source / "ptbxl_database.csv", "False,False,True,,,,,,,7,", f"False,False,True,{annotated},7,")
    _, rows, _ = build("ptb_xl", source)
    found = {row["recording_id"]: (row["device"], row["site"], row["noise"]) for row in rows.values()}
    assert found["6000"] == ("AT-6 6", "1", None)
    assert found["6001"] == ("CS-12", "2", "baseline drift, static noise")
