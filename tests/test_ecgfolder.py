"""A folder of ECG files with metadata: all file formats, forms of conversations, and errors."""

import csv
import json
import re
import shutil
from datetime import date
from pathlib import Path

import datasets
import numpy as np
import pytest
import scipy.io
import wfdb
from warm_python import run_python

from elm_hf.data.loading import load_elm_dataset
from elm_hf.data.tables import load_records
from elm_hf.ecg.files import read_ecg_file
from elm_hf.ecg.recording import RecordingError
from elm_hf.ecg.simulated_findings import draw_findings
from elm_hf.ecg.simulation import simulate_ecg
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.prepare.dataset import prepare_dataset
from elm_hf.prepare.folder_tables import FolderTables
from elm_hf.prepare.quantities import to_date, to_years


RATE = 250


def ecg(number: int = 0, seconds: float = 2) -> np.ndarray:
    """An ECG `(12, samples)` in mV, in whole microvolt and with consistent limb leads, so that it is not rounded."""
    rng = np.random.default_rng(number)
    signal = np.rint(simulate_ecg(draw_findings(rng), rng, seconds=seconds, sampling_rate=RATE) * 500) * 2 / 1000
    i, ii = signal[:2]
    signal[2:6] = ii - i, -(i + ii) / 2, i - ii / 2, ii - i / 2
    return signal


def write_csv(path: Path, signal: np.ndarray, names=LEADS) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([names, *np.round(signal.T, 3).tolist()])


def write_wfdb(folder: Path, name: str, signal: np.ndarray) -> None:
    wfdb.wrsamp(name, RATE, ["mV"] * 12, list(LEADS), signal.T, fmt=["16"] * 12, adc_gain=[1000] * 12, baseline=[0] * 12,
                write_dir=str(folder))  # fmt: skip


def describe(folder: Path, *rows: dict) -> Path:
    """Write rows to `metadata.jsonl` and return the folder."""
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def build(source: Path, **options) -> Path:
    """Build the dataset of a folder, by default with 2 folds, records of 2 s and the ids and names of the source."""
    output = source.parent / f"{source.name}_built"
    prepare_dataset(
        "ecgfolder",
        output,
        source=source,
        **{"seconds": 2, "num_folds": 2, "overwrite": True, "keep_ids": True} | options,
    )
    return output


def conversations(path: Path) -> list[dict]:
    """All conversations of a dataset in the order of the source."""
    rows = [row for fold in ("fold1", "fold2") for row in datasets.load_dataset(str(path), fold, split="test")]
    return sorted(rows, key=lambda row: row["conversation_id"])


def left_out(path: Path, name: str = "left_out.csv") -> list[dict]:
    with (path / name).open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def folder(tmp_path) -> Path:
    """`a.npy` and `b.npy`, 2 s each."""
    (tmp_path / "ecgs").mkdir()
    for number, name in enumerate("ab"):
        np.save(tmp_path / "ecgs" / f"{name}.npy", ecg(number).astype(np.float32))
    return tmp_path / "ecgs"


def row(name: str = "a.npy", **fields) -> dict:
    return {
        "file_name": name,
        "patient_id": name[0],
        "sampling_rate": RATE,
        "question": "Normal?",
        "answer": "yes",
    } | fields


# the example of docs/own_data.md


def test_the_documented_example_runs(tmp_path, monkeypatch):
    """Runs the documented metadata, command and code unchanged on three files."""
    text = (Path(__file__).parents[1] / "docs" / "own_data.md").read_text(encoding="utf-8")
    metadata, command, code = (re.search(rf"```{form}\n(.*?)```", text, re.S)[1] for form in ("csv", "bash", "python"))
    folder = tmp_path / "my_ecgs"
    folder.mkdir()
    (folder / "metadata.csv").write_text(metadata)
    signals = [ecg(number, seconds=20) for number in range(3)]  # read as 10 s at twice the rate
    write_csv(folder / "anna.csv", signals[0])
    np.save(folder / "ben.npy", np.rint(signals[1] * 1000).astype(np.int16))
    write_wfdb(folder, "clara", signals[2])
    program, *arguments = command.split()
    assert program == "elm-hf"
    done = run_python(["-m", "elm_hf", *arguments], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (
        "4 ECGs of 3 patients (0 recordings skipped), 4 conversations" in done.stdout
    )  # clara's 20 s are two records
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code, names)
    assert names["row"]["ecgs"][0].shape == (12, 2500)
    assert names["row"]["messages"][0]["content"][0] == {"type": "ecg", "text": None}
    records = load_records(tmp_path / "my_dataset")
    patients = records["patient_id"][:]
    assert len({*patients}) == 3 and patients[2] == patients[3] and not {"P1", "P2", "P3"} & {*patients}
    np.testing.assert_array_equal(records.with_format("numpy")[2]["ecg"], np.rint(signals[2][:, :2500] * 1000))


# file formats


def test_every_file_format_gives_the_same_ecg(tmp_path):
    """The formats include leads in rows and in columns, microvolt, shuffled leads, WFDB and MATLAB."""
    signal, order = ecg(), [7, 3, 0, 11, 4, 1, 9, 2, 5, 10, 6, 8]
    names = [LEADS[lead].upper() for lead in order]
    np.save(tmp_path / "rows.npy", signal)
    np.save(tmp_path / "columns.npy", np.rint(signal.T * 1000).astype(np.int16))
    write_csv(tmp_path / "table.csv", signal[order], names)
    scipy.io.savemat(tmp_path / "matlab.mat", {"val": signal[order] / 1000, "fs": 250.0})
    write_wfdb(tmp_path, "record", signal)
    read = [
        read_ecg_file(tmp_path / "rows.npy", RATE),
        read_ecg_file(tmp_path / "columns.npy", RATE, units="uV"),
        read_ecg_file(tmp_path / "table.csv", RATE),
        read_ecg_file(tmp_path / "matlab.mat", RATE, leads=names, units="V"),
        read_ecg_file(tmp_path / "record"),
        read_ecg_file(tmp_path / "record.hea", RATE),
    ]
    for recording in read:
        np.testing.assert_allclose(recording.ecg, signal, atol=1e-5)
        assert (recording.sampling_rate, recording.missing_leads) == (RATE, ())


def test_a_real_matlab_file_with_a_header_is_read_as_wfdb(shared_data):
    path = shared_data / "cpsc" / "cpsc_2018" / "g1" / "A1980.mat"
    expected = wfdb.rdrecord(str(path.with_suffix(""))).p_signal.T
    np.testing.assert_allclose(read_ecg_file(path).ecg, expected, atol=1e-4)


def test_a_real_matlab_file_without_its_header_is_read_as_an_array(shared_data, tmp_path):
    """The file contains integers in microvolt. The expected signal is read by wfdb with the header."""
    path = shared_data / "cpsc" / "cpsc_2018" / "g1" / "A1980.mat"
    shutil.copy(path, tmp_path)
    found = read_ecg_file(tmp_path / "A1980.mat", 500, units="uV").ecg
    np.testing.assert_allclose(found, wfdb.rdrecord(str(path.with_suffix(""))).p_signal.T, atol=1e-4)


def test_absent_leads_and_empty_cells_are_missing(tmp_path):
    signal = ecg()[[0, 1, 6]]
    write_csv(tmp_path / "three.csv", signal, ["I", "II", "V1"])
    lines = (tmp_path / "three.csv").read_text().splitlines()
    lines[101:201] = [line.rsplit(",", 1)[0] + "," for line in lines[101:201]]
    (tmp_path / "three.csv").write_text("\n".join(lines))
    recording = read_ecg_file(tmp_path / "three.csv", RATE)
    assert recording.missing_leads == ("III", "aVR", "aVL", "aVF", "V2", "V3", "V4", "V5", "V6")
    assert np.flatnonzero(np.isnan(recording.ecg[6])).tolist() == list(range(100, 200))


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    "name, options, reason, message",
    [
        ("pickled.npy", {}, "unreadable file", "Python objects"),
        ("short.npy", {}, "unreadable file", "cannot be read"),
        ("text.csv", {}, "unreadable file", 'column "V6" holds string, expected numbers'),
        ("index.csv", {}, "unreadable file", 'column "time" does not increase evenly: '),
        ("broken.mat", {}, "unreadable file", "cannot be read"),
        ("two.mat", {}, "leads do not fit", r"found a \(12, 500\), b \(12, 500\)"),
        ("good.npy", {"leads": ["I", "II"]}, "leads do not fit", r"shape \(12, 500\), expected 2 rows or columns"),
        ("good.npy", {"units": "mmHg"}, "unknown units", 'units "mmHg", expected one of mV, uV or V'),
        ("good.npy", {"units": 2.5}, "unknown units", 'units "2.5", expected one of mV, uV or V'),
        ("good.npy", {"units": "V"}, "absurd amplitude", "span .* mV with the units V"),
        ("good.npy", {"units": "uV"}, "absurd amplitude", "span .* mV with the units uV"),
        ("good.npy", {"sampling_rate": None}, "no sampling rate", "a .npy file requires one, in Hz"),
        ("good.npy", {"leads": [LEADS[1], LEADS[0], *LEADS[2:]]}, "limb leads disagree", "two leads may be exchanged"),
        (
            "record",
            {"sampling_rate": 500},
            "sampling rate disagrees",
            "of 250 Hz, but sampling_rate is 500 Hz; correct",
        ),
        ("absent.npy", {}, "missing file", "no such file"),
        ("ecg.xml", {}, "missing file", "no such file"),
    ],
)
def test_the_error_for_a_bad_file_gives_path_and_reason(name, options, reason, message, tmp_path):
    signal = ecg()
    np.save(tmp_path / "good.npy", signal)
    np.save(tmp_path / "pickled.npy", np.array([[Trap(tmp_path / "trapped")] * 500] * 12), allow_pickle=True)
    (tmp_path / "short.npy").write_bytes((tmp_path / "good.npy").read_bytes()[:-1000])
    write_csv(tmp_path / "text.csv", signal)
    (tmp_path / "text.csv").write_text((tmp_path / "text.csv").read_text() + ",".join(["0"] * 11 + ["none"]))
    write_csv(tmp_path / "index.csv", signal, ["time", *LEADS[1:]])
    scipy.io.savemat(tmp_path / "two.mat", {"a": signal, "b": signal})
    (tmp_path / "broken.mat").write_bytes((tmp_path / "two.mat").read_bytes()[:300])
    write_wfdb(tmp_path, "record", signal)
    with pytest.raises(RecordingError, match=message) as caught:
        read_ecg_file(tmp_path / name, **{"sampling_rate": RATE} | options)
    assert caught.value.reason == reason and name in str(caught.value)
    assert not (tmp_path / "trapped").exists()


# metadata


def test_the_three_forms_of_a_conversation(folder):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Look: <image>"}, {"type": "ecg"}]},
        {"role": "assistant", "content": "Sinus rhythm."},
        {"role": "user", "content": "Is it fast?"},
        {"role": "assistant", "content": "No."},
    ]
    describe(
        folder,
        row(answer=["sinus rhythm", "left axis"]),
        {
            "file_name": "b.npy",
            "patient_id": 7,
            "sampling_rate": RATE,
            "report": "Sinus rhythm. Normal ECG.",
            "labels": ["SR"],
        },
        {"file_name": "a.npy", "patient_id": "a", "sampling_rate": RATE, "messages": messages},
    )
    path = build(folder)
    question, report, dialogue = conversations(path)
    assert question["messages"][1]["content"] == [{"type": "text", "text": "sinus rhythm, left axis"}]
    assert (question["question_type"], question["answer"]) == ("question", ["sinus rhythm", "left axis"])
    assert (report["question"], report["answer"]) == ("Write the report of this ECG.", ["Sinus rhythm. Normal ECG."])
    assert (report["stratum"], report["patient_ids"]) == ("report: SR", ["7"])
    # text of own data is not changed, even if it looks like a placeholder
    assert dialogue["messages"][1]["content"] == [
        {"type": "text", "text": "Look: <image>"},
        {"type": "ecg", "text": None},
    ]
    assert [message["role"] for message in dialogue["messages"]] == [
        "system",
        "user",
        "assistant",
        "user",
        "assistant",
    ]
    assert (dialogue["question"], dialogue["answer"]) == ("Is it fast?", ["No."])
    records = load_records(path)
    assert records["report"][:] == [None, "Sinus rhythm. Normal ECG."] and records["labels"][:] == [[], ["SR"]]


def test_a_list_of_files_is_a_conversation_about_several_ecgs(folder):
    describe(folder, row(), row("b.npy"), row(["b.npy", "a.npy"], patient_id=["b", "a"], question="Which is faster?"))
    path = build(folder)
    rows = [row for split in ("train", "test") for row in load_elm_dataset(path, fold=1, split=split)]
    assert len(rows) == 2  # the comparison is excluded, because its patients are in different folds
    describe(
        folder,
        row(patient_id="p"),
        row("b.npy", patient_id="p"),
        row(["b.npy", "a.npy"], patient_id="p", split="test"),
    )
    path = build(folder, num_folds=0)
    (comparison,) = load_elm_dataset(path, fold="official", split="test")
    assert [item["type"] for item in comparison["messages"][0]["content"]] == ["ecg", "ecg", "text"]
    for found, number in zip(comparison["ecgs"], (1, 0)):
        np.testing.assert_allclose(found, ecg(number), atol=1e-5)


def test_csv_metadata_and_json_lines_give_the_same_dataset(folder):
    rows = [row(labels=["SR", "LAD"], age=61, sex="F"), row(["b.npy", "a.npy"], patient_id=["b", "a"])]
    expected = build(describe(folder, *rows))
    other = Path(shutil.copytree(folder, folder.parent / "table"))
    (other / "metadata.jsonl").unlink()
    (other / "metadata.csv").write_text(
        "\ufefffile_name,patient_id,sampling_rate,question,answer,labels,age,sex\n"  # with a byte order mark
        "a.npy,a,250,Normal?,yes,SR;LAD,61,female\n"
        "b.npy,b,250,Normal?,yes,,,\n"
    )
    built = build(other)
    assert load_records(built)[0] == load_records(expected)[0]
    assert load_records(built)["sex"][:] == ["female", None]
    assert (
        conversations(built)[0]["messages"]
        == conversations(build(describe(folder, row(), row("b.npy"))))[0]["messages"]
    )


def test_missing_patient_ids_are_refused_by_default(folder):
    describe(folder, row(patient_id=None), row("b.npy", patient_id=None))
    with pytest.raises(
        ValueError, match=r"row 1: no patient_id for a.npy.*one_patient_per_file \(--one-patient-per-file\)"
    ):
        build(folder)
    assert load_records(build(folder, one_patient_per_file=True))["patient_id"][:] == ["a.npy", "b.npy"]


def test_a_file_of_two_patients_is_refused(folder):
    describe(folder, row(), row(patient_id="other"))
    with pytest.raises(ValueError, match="row 2: patient_id 'other' for a.npy, but .* row 1 has 'a'; use"):
        build(folder)


def test_the_properties_of_a_file_need_to_be_given_once(folder):
    """They can be in any of its rows."""
    bare = {"file_name": "a.npy", "question": "Fast?", "answer": "no"}
    path = build(describe(folder, bare, row(), bare, row("b.npy")))
    assert [record["patient_id"] for record in load_records(path)] == ["a", "b"]
    assert [talk["patient_ids"] for talk in conversations(path)] == [["a"], ["a"], ["a"], ["b"]]


def test_patients_of_several_ecgs_in_a_table_are_a_json_list(folder):
    """If the list were read as text, each pair would be a patient, and a patient could be in train and in test."""
    for number, name in enumerate("cd", 2):
        np.save(folder / f"{name}.npy", ecg(number))
    (folder / "metadata.csv").write_text(
        "file_name,patient_id,sampling_rate,question,answer\n"
        '"[""a.npy"", ""b.npy""]","[""P1"", 2]",250,Which is faster?,a\n'
        '"[""c.npy"", ""d.npy""]","[""P3"", ""P1""]",250,Which is faster?,c\n'
    )
    path = build(folder)
    assert load_records(path)["patient_id"][:] == ["P1", "2", "P3", "P1"]
    (folder / "metadata.csv").write_text((folder / "metadata.csv").read_text().replace(", 2]", ""))
    with pytest.raises(ValueError, match="row 1: patient_id .* cannot be read as JSON"):
        build(folder)


@pytest.mark.parametrize(
    "one, other",
    [("P1", "p1"), ("P 1", "P1"), (1, "01"), (1, 1.0), ("5028", "5028.0"), ("P01", "P001"), ("M\u00fc", "Mu\u0308"),
     ("a\u200b", "a"), ("a\nb", "ab")],
)  # fmt: skip
def test_patient_ids_that_differ_in_spelling_only_are_refused(folder, one, other):
    with pytest.raises(ValueError, match=r"patient_id '.*' and '.*': if they are the same patient"):
        build(describe(folder, row(patient_id=one), row("b.npy", patient_id=other)))


def test_patient_ids_that_differ_in_more_than_spelling_are_kept(folder):
    np.save(folder / "c.npy", ecg(2))
    ids = ["1,0\u00e9\n2", "10", 1.5]
    rows = [row(name, patient_id=patient) for name, patient in zip(("a.npy", "b.npy", "c.npy"), ids)]
    assert load_records(build(describe(folder, *rows)))["patient_id"][:] == ["1,0\u00e9\n2", "10", "1.5"]
    path = build(describe(folder, row(patient_id=" x "), row("b.npy", patient_id="x"), row("c.npy")))
    assert load_records(path)["patient_id"][:] == ["x", "x", "c"]


@pytest.mark.parametrize("empty", ["", "  ", "NaN", float("nan"), "null", [None], [""]])
def test_values_for_missing_data_are_not_patients(folder, empty):
    with pytest.raises(ValueError, match="row 2: no patient_id for b.npy"):
        build(describe(folder, row(), row("b.npy", patient_id=empty)))


@pytest.mark.parametrize("wrong", [True, {"id": 1}, [["a"]]])
def test_a_patient_id_that_is_neither_text_nor_number_is_refused(folder, wrong):
    with pytest.raises(ValueError, match="row 2: patient_id .*, expected text or a number"):
        build(describe(folder, row(), row("b.npy", patient_id=wrong)))


@pytest.mark.parametrize("column", ["Patient_ID", " patient_id", "patient id", "PatientID\u200b", "Patienten-ID"])
def test_another_spelling_of_a_column_is_read_and_said(folder, column):
    """Ignored, its patients would be unknown, and each file would be a separate patient."""
    (folder / "metadata.csv").write_text(
        f"{column},file_name,sampling_rate,question,answer\nP1,a.npy,250,?,yes\nP1,b.npy,250,?,no\n"
    )
    with pytest.raises(ValueError, match="but there are 1"):
        build(folder, one_patient_per_file=True)
    (folder / "metadata.csv").write_text((folder / "metadata.csv").read_text().replace("P1,b", "P2,b"))
    path = build(folder)
    assert load_records(path)["patient_id"][:] == ["P1", "P2"]
    said = json.loads((path / "build_report.json").read_text())["reading_notes"]
    plain = column.strip()
    assert said == ([] if plain == "patient_id" else [f'metadata.csv: the column "{plain}" is patient_id'])


def test_two_columns_for_one_thing_are_refused(folder):
    (folder / "metadata.csv").write_text("Filename,File,patient_id\na.npy,b.npy,P1\n")
    with pytest.raises(ValueError, match='the columns "Filename" and "File" are both file_name; rename or remove one'):
        build(folder)


def test_a_row_with_more_cells_than_columns_is_excluded(folder):
    """An unquoted comma would truncate an answer or move the rest of it to the next column."""
    header = "file_name,patient_id,sampling_rate,question,answer\n"
    rows = "a.npy,a,250,?,yes\nb.npy,b,250,?,no\nb.npy,b,250,What is it?,sinus rhythm, left axis\n"
    (folder / "metadata.csv").write_text(header + rows)
    path = build(folder)
    (found,) = left_out(path)
    assert found["reason"] == "damaged entry" and "metadata.csv: row 3: 1 more cells than columns" in found["message"]
    assert len(conversations(path)) == 2


@pytest.mark.parametrize("how", ["copy", "symbolic link", "hard link", "other path", "header"])
def test_a_recording_with_two_names_and_two_patients_is_refused(folder, how):
    (folder / "sub").mkdir()
    name, other = "a.npy", "other.npy"
    if how == "copy":
        shutil.copy(folder / name, folder / other)
    elif how == "symbolic link":
        (folder / other).symlink_to("a.npy")
    elif how == "hard link":
        (folder / other).hardlink_to(folder / name)
    elif how == "other path":
        other = "sub/../a.npy"
    else:  # a manually copied header, which still refers to the first signal file
        write_wfdb(folder, "w", ecg(5))
        name, other = "w.hea", "copy.hea"
        shutil.copy(folder / name, folder / other)
    rows = row("b.npy"), row(name, patient_id="P1"), row(other, patient_id="P2")
    with pytest.raises(ValueError, match="are the same recording with two patients, 'P1' and 'P2'"):
        build(describe(folder, *rows))
    with pytest.raises(ValueError, match="are the same recording with two patients"):
        build(describe(folder, *({**each, "patient_id": None} for each in rows)), one_patient_per_file=True)
    if how != "header":
        one_patient = describe(folder, *({**each, "patient_id": each["patient_id"][0]} for each in rows))
        built = build(one_patient, max_skipped=0.34)
        assert load_records(built)["patient_id"][:] == ["b", "P"]
        assert [found["reason"] for found in left_out(built, "skipped.csv")] == ["same signal as another recording"]


def test_every_file_of_a_record_refers_to_the_record(folder):
    signal = ecg(5)
    scipy.io.savemat(folder / "j.mat", {"val": np.rint(signal * 1000).astype("<i2")}, format="4")
    lines = [f"j.mat 16+24 1000/mV 16 0 0 0 0 {lead}\n" for lead in LEADS]
    (folder / "j.hea").write_text(f"j 12 {RATE} {signal.shape[1]}\n" + "".join(lines))
    rows = [row(name, patient_id=None) for name in ("a.npy", "j.hea", "j.mat", "j")]
    path = build(describe(folder, *rows), one_patient_per_file=True)
    assert load_records(path)["patient_id"][:] == ["a.npy", "j"]
    assert len(conversations(path)) == 4


def test_circular_links_and_invalid_names_are_skipped(folder):
    (folder / "loop.npy").symlink_to("loop.npy")
    names = ["loop.npy", "x" * 300 + ".npy", "x" * 252, "z\0.npy"]
    rows = [row(name, patient_id=str(number)) for number, name in enumerate(names)]
    path = build(describe(folder, row(), row("b.npy"), *rows), max_skipped=0.6)
    assert [found["reason"] for found in left_out(path, "skipped.csv")] == ["missing file"]
    assert [found["reason"] for found in left_out(path)] == ["damaged entry"] * 3 + ["ECG skipped"]


@pytest.mark.parametrize("name", ["../secret.npy", "/etc/hostname.npy", "link.npy"])
def test_paths_outside_the_folder_are_refused(folder, name):
    np.save(folder.parent / "secret.npy", ecg())
    (folder / "link.npy").symlink_to(folder.parent / "secret.npy")
    path = build(describe(folder, row(), row("b.npy"), row(name, patient_id="c")), max_skipped=0.5)
    (skipped,) = left_out(path, "skipped.csv")
    assert (skipped["recording_id"], skipped["reason"]) == (name, "path outside the source")
    assert len(load_records(path)) == 2
    (excluded,) = left_out(path)  # the conversation about it
    assert excluded["reason"] == "ECG skipped"
    assert excluded["message"].endswith(f": {name}: path outside the source")
    counted = json.loads((path / "build_report.json").read_text())["conversations"]
    assert counted == {"built": 2, "left_out": {"ECG skipped": 1}}


def test_unusable_rows_are_excluded_with_the_reason(folder):
    bad = [
        row(answer=""),
        row(question=None, answer=None),
        {"patient_id": "a"},
        row(messages=[{"role": "user", "content": "And?"}]),
        row(messages=[{"role": "user", "content": "?"}, {"role": "assistant", "content": [{"type": "ecg"}]}]),
        row(messages=[{"role": "user", "content": [{"type": "ecg"}] * 2 + [{"type": "text", "text": "?"}]},
                      {"role": "assistant", "content": "!"}]),
        row(split="holdout"),
    ]  # fmt: skip
    describe(folder, row(), row("b.npy"), *bad)
    with (folder / "metadata.jsonl").open("a") as file:
        file.write('{"file_name": "a.n\n')
    path = build(folder)
    assert [(found["reason"], found["message"].split(":")[0]) for found in left_out(path)] == [
        ("no answer", "metadata.jsonl"),
        ("nothing said", "metadata.jsonl"),
        ("damaged entry", "metadata.jsonl"),
        ("turns out of order", "metadata.jsonl"),
        ("damaged entry", "metadata.jsonl"),
        ("placeholders do not match", "metadata.jsonl"),
        ("damaged entry", "metadata.jsonl"),
        ("damaged entry", "metadata.jsonl"),
    ]
    assert len(conversations(path)) == 2


def test_unreadable_ages_are_reported(folder):
    path = build(describe(folder, row(), row("b.npy"), row("c.npy", age="old")), max_skipped=0.5)
    assert left_out(path, "skipped.csv")[0]["message"].startswith("c.npy: age 'old', expected years")


def test_a_folder_with_nothing(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="contains no files with an ECG, and no metadata.csv"):
        build(tmp_path / "empty")


def test_the_formats_of_a_folder_in_which_nothing_can_be_read_are_named(tmp_path):
    (tmp_path / "ecgs").mkdir()
    for name in ("a.pdf", "b.pdf", "c.scp"):
        (tmp_path / "ecgs" / name).write_bytes(b"%PDF-1.7 " + name.encode())
    with pytest.raises(ValueError, match=r"there is nothing to build; found 2 \.pdf, 1 \.scp"):
        build(tmp_path / "ecgs", one_patient_per_file=True)


# tables of spreadsheet programs


def rows_of_records(path: Path, *columns: str) -> list[tuple]:
    records = load_records(path)
    return list(zip(*(records[column][:] for column in columns)))


def test_a_german_spreadsheet(folder):
    lines = [
        "Dateiname;Patienten-ID;Samplingrate (kHz);Einheit;Geschlecht;Alter (Jahre);Frage;Antwort;;",
        "a.npy;Müller;0,25;;w;63,5;Ist der Rhythmus regelmäßig?;ja, regelmäßig;;",
        "b.npy;Weiß;0,25;;männlich;;Ist der Rhythmus regelmäßig?;nein;;",
        ";;;;;;;;;",
    ]
    (folder / "metadata.csv").write_bytes("\r\n".join(lines).encode("cp1252"))
    path = build(folder)
    assert rows_of_records(path, "patient_id", "sex", "age") == [("Müller", "female", 63), ("Weiß", "male", None)]
    assert [row["answer"] for row in conversations(path)] == [["ja, regelmäßig"], ["nein"]]
    assert json.loads((path / "build_report.json").read_text())["reading_notes"] == [
        "metadata.csv: Latin-1; cells separated by semicolons",
        'metadata.csv: the column "Dateiname" is file_name',
        'metadata.csv: the column "Patienten-ID" is patient_id',
        'metadata.csv: the column "Samplingrate (kHz)" is sampling_rate in kHz',
        'metadata.csv: the column "Einheit" is units',
        'metadata.csv: the column "Geschlecht" is sex',
        'metadata.csv: the column "Alter (Jahre)" is age in Jahre',
        'metadata.csv: the column "Frage" is question',
        'metadata.csv: the column "Antwort" is answer',
    ]


def test_labels_in_a_table_of_their_own(folder):
    (folder / "metadata.csv").write_text("file_name,patient_id,sampling_rate\na.npy,P1,250\nb.npy,P2,250\n")
    (folder / "labels.csv").write_text(
        "Filename\tlabels\tquestion\tanswer\na\tAF; LBBB\t?\tyes\nb.npy\tSR\t?\tno\nb.npy\tSR\t!\tno\nc\tSR\t?\tno\n"
    )
    path = build(folder)
    assert rows_of_records(path, "patient_id", "labels") == [("P1", ["AF", "LBBB"]), ("P2", ["SR"])]
    assert [(row["question"], row["answer"]) for row in conversations(path)] == [
        ("?", ["yes"]),
        ("?", ["no"]),
        ("!", ["no"]),
    ]
    (found,) = left_out(path)
    assert found["reason"] == "labels of no file" and found["message"].startswith("labels.csv: row 4: no file")

    (folder / "labels.csv").write_text("patient_id,sex\nP2,f\nP1,m\n")
    (folder / "metadata.csv").write_text(
        "file_name,patient_id,sampling_rate,report\na.npy,P1,250,SR\nb.npy,P2,250,AF\n"
    )
    assert rows_of_records(build(folder), "patient_id", "sex") == [("P1", "male"), ("P2", "female")]
    (folder / "labels.csv").write_text("file_name,patient_id\na.npy,P9\n")
    with pytest.raises(ValueError, match="labels.csv: row 1: patient_id 'P9', but .*metadata.csv: row 1 has 'P1'"):
        build(folder)
    (folder / "labels.csv").write_text("file_name,labels\nz.npy,SR\n")
    with pytest.raises(ValueError, match="labels.csv: none of its rows is about a file of the folder"):
        build(folder)


def test_a_folder_without_labels_becomes_a_dataset_without_conversations(tmp_path):
    """A model is asked about its ECGs, and an encoder is trained on those of a fold's training patients."""
    from elm_hf.inference.ask import ecg_of_dataset
    from elm_hf.pretrain.data import load_pretraining_records

    folder = tmp_path / "ecgs"
    (folder / "sub").mkdir(parents=True)
    for number in range(4):
        write_wfdb(folder / "sub", f"r{number}", ecg(number))
    write_csv(folder / "t.csv", np.vstack([np.arange(500) / RATE, ecg(4)]), ["Time", *LEADS])
    with pytest.raises(ValueError, match="no patient_id for sub/r0"):
        build(folder)
    path = build(folder, num_folds=None, one_patient_per_file=True)
    assert rows_of_records(path, "recording_id") == [(f"sub/r{number}",) for number in range(4)] + [("t.csv",)]
    assert sorted(one.name for one in path.iterdir() if one.is_dir()) == ["patients", "records"]
    report = json.loads((path / "build_report.json").read_text())
    assert report["splits"] == {} and report["records"]["read_as"] == {'250 Hz, by the column "Time"': 1}
    (code,) = re.findall(r"```python\n(.*?)```", (path / "README.md").read_text(), re.S)
    names = {}
    exec(code.replace('path = "ecgs_built"', f"path = {str(path)!r}"), names)
    assert names["ecg"].shape == (12, 500)

    patients = datasets.load_dataset(str(path), "patients", split="train").to_pandas()
    tested = set(patients.loc[patients["test_fold"] == 2, "patient_id"])
    asked = ecg_of_dataset(path, 2, "test")
    assert asked.name in {f"ecgfolder-{name}-0" for name in tested}
    np.testing.assert_allclose(ecg_of_dataset(path, 1, "test", "ecgfolder-sub/r3-0").ecg, ecg(3), atol=1e-3)
    with pytest.raises(ValueError, match='no record "x" .record_id.; it has "ecgfolder-sub/r0-0" and 4 others'):
        ecg_of_dataset(path, 1, "test", "x")
    records = load_pretraining_records([path], fold=2)
    used = {row for split in (records.train, records.validation) if split is not None for row in split["row"]}
    owners = load_records(path)["patient_id"][:]
    assert {owners[row] for row in used} == set(owners) - tested and len(tested) == 1
    assert len(load_pretraining_records([path]).train) == 5
    with pytest.raises(ValueError, match="no fold 6; available: 1 to 5"):
        load_pretraining_records([path], fold=6)


@pytest.mark.parametrize(
    "value, years",
    [
        *(
            (63, 63),
            (63.9, 63),
            ("63", 63),
            ("63,5", 63),
            ("63 years", 63),
            ("63 y/o", 63),
            ("63 J.", 63),
            ("063Y", 63),
        ),
        *(("18 months", 1), ("24 months", 2), ("006M", 0), ("730 d", 1), ("90+", 90), ("> 89", 90), (">89 years", 90)),
    ],
)
def test_ages(value, years):
    assert to_years(value) == years


@pytest.mark.parametrize("value", ["old", "54 M", "1,000", "131", "-1", "", True])
def test_ages_that_are_not_certain(value):
    with pytest.raises(ValueError, match="expected"):
        to_years(value)


@pytest.mark.parametrize(
    "value", ["1950-12-31", "31.12.1950", "19501231", "12/31/1950", "31-12-1950", "1950-12-31 10:20:30"]
)
def test_dates(value):
    assert to_date(value) == date(1950, 12, 31)


@pytest.mark.parametrize("value", ["03/04/1950", "31.02.1950", "1.1.50", "yesterday"])
def test_dates_that_are_not_certain_are_not_shown(value):
    with pytest.raises(ValueError, match="1950-12-31") as caught:
        to_date(value)
    assert value not in str(caught.value)


def test_both_dates_give_the_age(folder):
    metadata = "Filename,patient_id,Sampling rate (Hz),Date of birth,ECG date,report\n"
    (folder / "metadata.csv").write_text(
        metadata + "a.npy,P1,250,31.12.1950,2020-12-30,SR\nb.npy,P2,250,31.12.1950,2020-12-31,SR\n"
    )
    path = build(folder)
    assert rows_of_records(path, "age") == [(69,), (70,)]
    assert (
        "1950" not in (path / "build_report.json").read_text() and "birth_date" not in load_records(path).column_names
    )


def test_a_table_about_the_files_under_another_name_is_refused_by_name(tmp_path):
    write_csv(tmp_path / "anna.csv", np.zeros((12, 4)))  # a table, too, and an ECG
    FolderTables(tmp_path)
    (tmp_path / "EKG-Liste.csv").write_text("Dateiname;Patienten-ID;Befund\nanna.csv;4711;Sinusrhythmus\n")
    with pytest.raises(
        ValueError,
        match=r"EKG-Liste\.csv: has the columns of a table about the files \(Dateiname, Patienten-ID, Befund\)",
    ):
        FolderTables(tmp_path)
    (tmp_path / "EKG-Liste.csv").rename(tmp_path / "metadata.csv")
    ((_, row),) = FolderTables(tmp_path).rows(lambda *_: None)
    assert (row["file_name"], row["patient_id"], row["report"]) == ("anna.csv", "4711", "Sinusrhythmus")
