"""The files of electrocardiographs: each format is written from a known ECG by another route, and read again."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import datasets
import numpy as np
import pytest
from format_writers import MEASURED, STATED, WRITERS, write_aecg, write_dicom, write_edf, write_muse, write_sierra
from test_ecgfolder import build, describe, ecg, left_out, row

from elm_hf import cli
from elm_hf.ecg.files import read_ecg_file
from elm_hf.ecg.recording import RecordingError
from elm_hf.modeling import device_files
from elm_hf.modeling.device_files import without_calibration_pulse
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.modeling.feature_extraction_ecg import EcgFeatureExtractor


pytest.importorskip("ecgdatakit", reason="elm-hf[formats] is not installed")
pytest.importorskip("pydicom", reason="elm-hf[formats] is not installed")
RATE = 250


@pytest.fixture(scope="module")
def signal() -> np.ndarray:
    """3 s with consistent limb leads, in whole microvolt; I, II and V1 to V6 in even ones."""
    return ecg(3, seconds=3)


@pytest.fixture(scope="module")
def files(signal, tmp_path_factory) -> dict[str, Path]:
    """A file in each format."""
    folder = tmp_path_factory.mktemp("formats")
    for name, write in WRITERS.items():
        if name.endswith(".edf"):
            pytest.importorskip("edfio", reason="edfio, which writes EDF files for this test, is not installed")
        write(folder / name, signal, RATE)
    return {name: folder / name for name in WRITERS}


def error_of(path: Path, **options) -> RecordingError:
    with pytest.raises(RecordingError) as caught:
        read_ecg_file(path, **options)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    return caught.value


# values


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_holds_the_ecg_that_was_written(name, files, signal):
    """Not the median beat, which is 1.4 or 1.5 mV throughout; leads that MUSE does not store are computed."""
    recording = read_ecg_file(files[name])
    np.testing.assert_allclose(recording.ecg, signal, atol=1e-5)  # steps of 1 uV are 1e-3
    assert recording.sampling_rate == RATE and not recording.missing_leads
    assert recording.other_signals == (("Resp",) if name == "record.edf" else ())


@pytest.mark.parametrize("name", WRITERS)
def test_what_the_device_said_is_kept_apart(name, files):
    said = read_ecg_file(files[name]).device_report
    if name == "record.edf":
        assert not any(said.values())
        return
    assert {column: said[column] for column in MEASURED} == MEASURED
    assert (said["device_statements"], said["confirmed_statements"]) == (STATED, [])


def test_statements_of_a_clinician_are_not_those_of_the_device(signal, tmp_path):
    write_muse(tmp_path / "ecg.xml", signal, RATE, status="Confirmed")
    said = read_ecg_file(tmp_path / "ecg.xml").device_report
    assert (said["device_statements"], said["confirmed_statements"]) == ([], STATED)


@pytest.mark.parametrize("rate", [333.25, 500])
def test_the_sampling_rate_is_not_rounded(rate, signal, tmp_path):
    write_dicom(tmp_path / "ecg.dcm", signal, rate)
    write_aecg(tmp_path / "ecg.xml", signal, rate)
    assert [read_ecg_file(tmp_path / name).sampling_rate for name in ("ecg.dcm", "ecg.xml")] == [rate, rate]


def test_sierra_without_compression(signal, tmp_path):
    write_sierra(tmp_path / "ecg.xml", signal, RATE, compressed=False)
    np.testing.assert_allclose(read_ecg_file(tmp_path / "ecg.xml").ecg, signal, atol=2e-6)


def test_the_inverted_avr_of_the_cabrera_sequence(signal, tmp_path):
    write_aecg(tmp_path / "ecg.xml", signal * (1 - 2 * (np.array(LEADS) == "aVR"))[:, None], RATE)
    text = (tmp_path / "ecg.xml").read_text()
    (tmp_path / "ecg.xml").write_text(text.replace("MDC_ECG_LEAD_aVR", "MDC_ECG_LEAD_AVRneg"))
    np.testing.assert_allclose(read_ecg_file(tmp_path / "ecg.xml").ecg, signal, atol=2e-6)


def test_the_calibration_pulse_is_cut_off(signal, tmp_path):
    """As in files of Philips devices: zeros, 1 mV for 0.2 s in all leads, zeros, where III - (II - I) is 1 mV."""
    pulse = np.zeros(100)
    pulse[25:75] = 1
    with_pulse = np.concatenate([signal, np.tile(pulse, (12, 1))], axis=1)
    write_sierra(tmp_path / "ecg.xml", with_pulse, RATE)
    found = read_ecg_file(tmp_path / "ecg.xml").ecg
    assert signal.shape[1] - 5 <= found.shape[1] <= signal.shape[1]  # the last samples may be near 0 in all leads
    np.testing.assert_allclose(found, signal[:, : found.shape[1]], atol=2e-6)
    first = without_calibration_pulse(with_pulse[:, ::-1], RATE)
    np.testing.assert_allclose(first, signal[:, : first.shape[1]][:, ::-1])


def test_an_ecg_without_a_pulse_is_not_cut(signal):
    assert without_calibration_pulse(signal, RATE) is signal
    flat = np.concatenate([signal, np.zeros((12, 100))], axis=1)  # all leads are equal, but 0
    assert without_calibration_pulse(flat, RATE) is flat


# where files are read


def test_the_processor_reads_the_same(files, signal):
    extract = EcgFeatureExtractor(RATE, 500)
    for path in files.values():
        found = extract(str(path), return_tensors="np")["ecg_values"][0]
        np.testing.assert_allclose(found, extract(signal, sampling_rate=RATE, return_tensors="np")["ecg_values"][0],
                                   atol=1e-5)  # fmt: skip


def test_a_dataset_has_what_the_device_said_in_columns_and_no_labels(files, tmp_path):
    folder = tmp_path / "ecgs"
    folder.mkdir()
    for number, name in enumerate(files, 1):
        WRITERS[name](folder / name, ecg(number), RATE)
    np.save(folder / "a.npy", ecg())
    rows = [row(name, sampling_rate=None, patient_id=name) for name in files]
    built = build(describe(folder, row(), *rows))
    records = datasets.load_dataset(str(built), "records", split="train")
    by_file = {one["recording_id"]: one for one in records.remove_columns("ecg")}
    for name in ("muse.xml", "aecg.xml", "sierra.xml", "dicom"):
        one = by_file[name]
        assert (one["device_pr_ms"], one["device_statements"], one["labels"]) == (164, STATED, [])
    assert by_file["a.npy"]["device_pr_ms"] is None and "record.edf" in by_file
    text = b"".join(path.read_bytes() for path in built.rglob("*") if path.is_file())
    assert b"Mustermann" not in text and b"P-1234" not in text  # names and ids of the files


def test_code_of_a_checkpoint_reads_them_without_this_library(files, tmp_path):
    shutil.copytree(Path(device_files.__file__).parent, tmp_path / "code")
    code = f"""
        import sys, types
        sys.modules["elm_hf"] = sys.modules["torch"] = None
        package = sys.modules["alone"] = types.ModuleType("alone")
        package.__path__ = [{str(tmp_path / "code")!r}]
        from alone.device_files import load_device_file
        print(load_device_file({str(files["muse.xml"])!r}).ecg.shape)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert done.stdout == "(12, 750)\n", done.stderr


def test_measure_prints_text_json_and_a_table(files, tmp_path, monkeypatch, capsys):
    (tmp_path / "ecgs").mkdir()
    shutil.copy(files["muse.xml"], tmp_path / "ecgs")
    shutil.copy(files["aecg.xml"], tmp_path / "ecgs")
    (tmp_path / "ecgs" / "broken.xml").write_text("<RestingECG>")
    table = tmp_path / "table.csv"

    def run(*arguments) -> str:
        monkeypatch.setattr(sys, "argv", ["elm-hf", "measure", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code
        return capsys.readouterr()

    text = run(files["muse.xml"]).out
    assert "heart rate" in text and "ST at the J point" in text and "device_pr_ms 164" in text
    found = json.loads(run(files["muse.xml"], "--json").out)
    assert found[0]["device"]["device_qt_ms"] == 399 and found[0]["seconds"] == 3
    printed = run(tmp_path / "ecgs", "--output", table)
    assert "left out: " in printed.err and "broken.xml" in printed.err and "2 of 3 files measured" in printed.out
    lines = table.read_text().splitlines()
    assert lines[0].startswith("file,seconds,missing_leads,heart_rate") and len(lines) == 3
    assert f"{found[0]['measurements']['qrs_ms']}" in lines[2]


# files that are refused


def replace(path: Path, *pairs: tuple[str, str]) -> Path:
    text = path.read_text()
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    return path


def test_without_the_extra_the_error_names_it(files, monkeypatch):
    monkeypatch.setattr(device_files, "_installed", lambda package: None)
    error = error_of(files["muse.xml"])
    assert error.reason == "formats not installed" and 'pip install "elm-hf[formats]"' in str(error)


def test_the_extra_installs_the_version_that_was_verified():
    extras = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert f"ecgdatakit=={device_files.ECGDATAKIT}" in extras["optional-dependencies"]["formats"]


@pytest.mark.parametrize(
    "first_bytes, reason, message",
    [
        (b"ISHNE1.0" + bytes(1000), "unverified format", "in the format ISHNE Holter, which is not verified yet"),
        (b'{"recordedAt": "2020", "patientID": "1"}', "unverified format", "in the format AliveCor Kardia JSON"),
        (b"Dear colleague", "unknown format", "not an ECG file; expected .npy"),
        (b"", "unknown format", "not an ECG file"),
    ],
)
def test_another_format_is_named(first_bytes, reason, message, tmp_path):
    (tmp_path / "file.bin").write_bytes(first_bytes)
    error = error_of(tmp_path / "file.bin")
    assert error.reason == reason and message in str(error)


BOMB = '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">' + "".join(
    f'<!ENTITY {name} "{10 * f"&{before};"}">' for before, name in zip("abcdefgh", "bcdefghi")
) + "]>"  # fmt: skip
EXTERNAL = '<!DOCTYPE a [<!ENTITY i SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize("doctype", [BOMB, EXTERNAL])
@pytest.mark.parametrize("name", ["muse.xml", "aecg.xml", "sierra.xml"])
def test_entities_are_refused(name, doctype, files, tmp_path):
    encoding = "utf-16" if name == "sierra.xml" else "utf-8"
    text = files[name].read_text(encoding).replace('<!DOCTYPE RestingECG SYSTEM "restecg.dtd">', "")
    text = text.replace("?>", f"?>{doctype}", 1).replace(STATED[0], "&i;")
    (tmp_path / name).write_text(text, encoding)
    assert "entit" in str(error_of(tmp_path / name)).lower()


@pytest.mark.parametrize(
    "old, new, message",
    [
        (">1500<", ">1498<", "LeadByteCountTotal 1498 but 1500 bytes decoded"),
        (">750<", ">75000000000<", "LeadSampleCountTotal 75000000000 but 750 samples"),
        ("<LeadDataCRC32>", "<LeadDataCRC32>1", "the checksum of a lead is wrong"),
        (">MICROVOLTS<", ">BARS<", "lead I is in an unknown unit"),
        ("<FirstSampleBaseline>0", "<FirstSampleBaseline>9", "is not verified yet"),
        (">Rhythm<", ">Median<", "No rhythm waveform"),
        ("<LeadID>V6<", "<LeadID>V9<", 'lead "V9" is not one of I, II'),
        ("<SampleBase>250<", "<SampleBase>0<", "no valid SampleBase"),
        ("</RestingECG>", "", "Malformed XML"),
    ],
)
def test_a_damaged_muse_file(old, new, message, signal, tmp_path):
    write_muse(tmp_path / "ecg.xml", signal, RATE)
    assert message in str(error_of(replace(tmp_path / "ecg.xml", (old, new))))


def test_wrong_and_huge_lengths(signal, tmp_path):
    write_sierra(tmp_path / "ecg.xml", signal, RATE)
    text = (tmp_path / "ecg.xml").read_text("utf-16")
    (tmp_path / "ecg.xml").write_text(text.replace('channel="3000"', 'channel="3000000000"'), "utf-16")
    assert "750 samples, 750000000 expected" in str(error_of(tmp_path / "ecg.xml"))

    write_dicom(tmp_path / "ecg.dcm", signal, RATE)
    data = (tmp_path / "ecg.dcm").read_bytes()
    (tmp_path / "ecg.dcm").write_bytes(data.replace((750).to_bytes(4, "little"), b"\xff\xff\xff\x7f"))
    assert "Waveform Data has 18000 bytes, expected 51539607528" in str(error_of(tmp_path / "ecg.dcm"))

    with (tmp_path / "large.xml").open("wb") as file:
        file.truncate(device_files.LARGEST_FILE + 2**20)
    assert "65 MiB, expected up to 64" in str(error_of(tmp_path / "large.xml"))


def test_a_cut_edf_file(signal, tmp_path):
    pytest.importorskip("edfio", reason="edfio, which writes EDF files for this test, is not installed")
    write_edf(tmp_path / "ecg.edf", signal, RATE)
    data = (tmp_path / "ecg.edf").read_bytes()
    (tmp_path / "ecg.edf").write_bytes(data[:-100])
    assert "it was cut short" in str(error_of(tmp_path / "ecg.edf"))
    (tmp_path / "ecg.edf").write_bytes(data + bytes(100))
    assert "longer than its header says" in str(error_of(tmp_path / "ecg.edf"))


def test_a_dicom_file_whose_leads_are_in_several_groups(signal, tmp_path):
    """The rhythm strip is not taken for the ECG."""
    write_dicom(tmp_path / "ecg.dcm", signal, RATE, groups=(slice(1, 2), slice(12)))
    assert "2 groups of channels (1 channels of 3 s, 12 channels of 3 s)" in str(error_of(tmp_path / "ecg.dcm"))
    write_dicom(tmp_path / "ecg.dcm", signal, RATE, groups=(slice(12), slice(1, 2)))
    np.testing.assert_allclose(read_ecg_file(tmp_path / "ecg.dcm").ecg, signal, atol=2e-6)


def test_several_rhythm_series(files, tmp_path):
    shutil.copy(files["aecg.xml"], tmp_path / "ecg.xml")
    error = error_of(replace(tmp_path / "ecg.xml", ("REPRESENTATIVE_BEAT", "RHYTHM")))
    assert "several rhythm series" in str(error)


def test_a_file_that_hangs_the_reader_is_refused(files, monkeypatch):
    monkeypatch.setattr(device_files, "_LONGEST_READ_S", 0)
    assert "damaged, reading took over 0 s" in str(error_of(files["dicom"]))
    monkeypatch.undo()
    assert read_ecg_file(files["dicom"]).sampling_rate == RATE


def test_a_reader_that_ends_before_it_is_asked_is_an_error_of_the_file(files, monkeypatch):
    reader = device_files._reader(os.getpid())
    ended = reader._running()
    ended.kill()
    ended.wait()
    with monkeypatch.context() as patch:
        patch.setattr(reader, "_running", lambda: ended)
        assert "crashed" in str(error_of(files["dicom"]))
    assert read_ecg_file(files["dicom"]).sampling_rate == RATE


def test_a_sampling_rate_that_disagrees(files):
    assert error_of(files["dicom"], sampling_rate=500).reason == "sampling rate disagrees"


@pytest.mark.parametrize("read", [read_ecg_file, lambda path: EcgFeatureExtractor(RATE, 500)(str(path))])
def test_a_link_out_of_the_folder_is_not_followed(read, files, tmp_path):
    (tmp_path / "ecg.xml").symlink_to(files["muse.xml"])
    with pytest.raises(ValueError, match="a link that leads outside the folder"):
        read(tmp_path / "ecg.xml")


def test_a_file_that_cannot_be_read_is_listed(files, tmp_path):
    folder = tmp_path / "ecgs"
    folder.mkdir()
    shutil.copy(files["muse.xml"], folder / "b.xml")
    replace(folder / "b.xml", ("</RestingECG>", ""))
    np.save(folder / "a.npy", ecg())
    np.save(folder / "c.npy", ecg(1))
    rows = [row(), row("c.npy"), row("b.xml", sampling_rate=None)]
    (skipped,) = left_out(build(describe(folder, *rows), max_skipped=0.9), "skipped.csv")
    assert skipped["recording_id"] == "b.xml" and "Malformed XML" in " ".join(skipped.values())
