"""Damaged entries, plans and uploads: one is left out or refused in one line, and the rest is built."""

import csv
import json
import multiprocessing
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from filelock import FileLock
from hub_server import HubServer
from test_datasets_base import builder
from test_ecgfolder import describe, ecg, left_out, row, write_wfdb
from test_one_reading import write
from test_publish import command
from test_recordings import smooth_ecg

import elm_hf.prepare.work_folder
from elm_hf.ecg.array_files import read_mat, read_npy
from elm_hf.ecg.find_files import find_ecg_files
from elm_hf.ecg.recording import RecordingError
from elm_hf.inference.ask import ecg_from_file
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.prepare.dataset import prepare_dataset, prepare_shard
from elm_hf.prepare.instruct import _json_list, read_entries
from elm_hf.prepare.work_folder import work_folder


DEEP = '{"id": 3, "conversations": ' + "[" * 5000 + "]" * 5000 + "}"
# A damaged entry between two good ones, and what is said about it.
ENTRIES = {
    "deep nesting": (DEEP, "entry 2 is nested too deeply"),
    "huge integer": ('{"id": 3, "x": ' + "9" * 5000 + "}", "entry 2 cannot be read"),
    "lone surrogate": (r'{"id": 3, "x": "\ud800"}', "entry 2, id 3, has text that is not Unicode"),
    "not UTF-8": ('{"id": 3, "x": "\udcff"}', "entry 2, id 3, has text that is not Unicode"),
    "a list": ("[1, [2]]", "entry 2 is a list, expected an object with fields"),
    "brackets in text": (r'{"id": 3, "x": "]}\"[{", "y": ' + "9" * 5000 + "}", "entry 2 cannot be read"),
}


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
@pytest.mark.parametrize("name", ENTRIES)
@pytest.mark.parametrize("size", [5, 2**20])
def test_a_damaged_entry_is_left_out_and_the_others_are_read(name, suffix, size, tmp_path, monkeypatch):
    monkeypatch.setattr("elm_hf.prepare.instruct._READ_SIZE", size)
    text, message = ENTRIES[name]
    lines = ['{"id": 1}', text, '{"id": 2}']
    whole = "\n".join(lines) if suffix == ".jsonl" else "[" + ",\n".join(lines) + "]"
    (tmp_path / f"a{suffix}").write_bytes(whole.encode("utf-8", "surrogateescape"))
    told = []
    found = list(read_entries(tmp_path / f"a{suffix}", lambda *words: told.append(words)))
    assert found == [(0, {"id": 1}), (2, {"id": 2})]
    assert [reason for reason, _ in told] == ["damaged entry"] and message in told[0][1]


@pytest.mark.parametrize(
    "field, value",
    [("sample_id", float("inf")), ("question_id", 10**30), ("ecg_id", [float("nan")]), ("question", "\ud800?"),
     ("template_id", 2**31), ("ecg_id", [[7]]), ("ecg_id", 7), ("answer", [1]), ("attribute", 5), ("sample_id", [1])],
)  # fmt: skip
def test_a_damaged_question_of_ecg_qa_is_named(field, value, tmp_path):
    good = {
        "template_id": 1, "question_id": 2, "sample_id": 0, "question_type": "single-verify", "attribute_type": "x",
        "question": "Is it?", "answer": ["yes"], "ecg_id": [12], "attribute": None,
    }  # fmt: skip
    entries = [good, good | {"sample_id": 5} | {field: value}, good | {"sample_id": 6}]
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "0.json").write_text(json.dumps(entries))
    made = builder("ecg_qa", tmp_path)
    made._output_dir = str(tmp_path)
    rows = [name for _, table in made._generate_tables() for name in table["conversation_id"].to_pylist()]
    assert rows == ["ecg_qa-train-0", "ecg_qa-train-6"]
    ((reason, message),) = made._left_out
    assert reason == "damaged entry" and ("entry 2" in message or "ecg_qa-train-5" in message)


@pytest.mark.parametrize(
    "change",
    [{"messages": "[" * 5000}, {"labels": 5}, {"age": 10**400}, {"labels": [[[1]]]}, {"answer": [float("inf")]},
     {"file_name": '["' + "a" * 5000}, {"leads": 7}, {"split": ["train"]}, {"question": ["?"]}],
)  # fmt: skip
def test_a_damaged_row_of_an_ecgfolder_is_left_out_or_skipped(change, tmp_path):
    folder = tmp_path / "ecgs"
    folder.mkdir()
    for name in "abc":
        np.save(folder / f"{name}.npy", ecg(ord(name)).astype(np.float32))
    describe(folder, row(), row("b.npy"), row("c.npy") | change)
    report = prepare_dataset("ecgfolder", tmp_path / "built", source=folder, seconds=2, num_folds=2, max_skipped=0.5)
    assert report["conversations"]["built"] + sum(report["conversations"]["left_out"].values()) == 3


# Arrays


def test_a_file_that_crashes_the_matlab_reader_ends_only_its_process(tmp_path, monkeypatch):
    scipy.io.savemat(tmp_path / "good.mat", {"val": ecg()})
    (tmp_path / "bad.mat").write_bytes((tmp_path / "good.mat").read_bytes()[:150] + b"\xff" * 100)
    monkeypatch.setattr("elm_hf.ecg.array_files._LONGEST_READ_S", 30)
    for name in ("good.mat", "bad.mat", "good.mat"):
        try:
            array, _ = read_mat(tmp_path / name, 12)
            np.testing.assert_array_equal(array, ecg())
        except ValueError as error:
            assert name == "bad.mat" and "\n" not in str(error)
    process = elm_hf.ecg.array_files._mat_reader(__import__("os").getpid())._process
    process.kill()  # as a crash does
    process.wait()
    np.testing.assert_array_equal(read_mat(tmp_path / "good.mat", 12)[0], ecg())


def test_a_file_that_hangs_the_matlab_reader_is_given_up(tmp_path, monkeypatch):
    scipy.io.savemat(tmp_path / "good.mat", {"val": ecg()})
    read_mat(tmp_path / "good.mat", 12)
    process = elm_hf.ecg.array_files._mat_reader(__import__("os").getpid())._process
    monkeypatch.setattr("elm_hf.ecg.array_files._LONGEST_READ_S", 0.3)
    process.send_signal(19)  # SIGSTOP
    with pytest.raises(ValueError, match="damaged, reading took over 0 s"):
        read_mat(tmp_path / "good.mat", 12)
    monkeypatch.undo()
    assert read_mat(tmp_path / "good.mat", 12)[0].shape == (12, 500)


@pytest.mark.parametrize(
    "header, message",
    [
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (12, 100000000000), }", "it was cut short"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (12, " + "9" * 4000 + "), }", "header is damaged"),
        ("{'descr': '|O', 'fortran_order': False, 'shape': (12, 10), }", "Python objects, expected numbers"),
        ("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (12, 10), }", "with fields, expected numbers"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (12, 0), }", "contains no samples"),
        ("__import__('os').abort()", "expected numbers"),
        ("(" * 5000, "expected numbers"),
    ],
)
def test_the_header_of_a_numpy_file_is_not_trusted(header, message, tmp_path):
    text = header.encode() + b"\n"
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(480))
    with pytest.raises(ValueError, match=message):
        read_npy(tmp_path / "a.npy")


@pytest.mark.parametrize("shape", [(2, 10**11, 12), (10**11, 400, 12), (2, 400, 8)])
def test_the_sizes_of_an_hdf5_file_are_not_trusted(shape, tmp_path):
    with h5py.File(tmp_path / "exams_part0.hdf5", "w") as file:
        file.create_dataset("exam_id", shape[:1], "i8", chunks=(1,))
        file.create_dataset("tracings", shape, "f4", chunks=(1, 400, shape[2]))
    assert (tmp_path / "exams_part0.hdf5").stat().st_size < 10_000
    exam = {"exam_id": "1", "trace_file": "exams_part0.hdf5", "age": "50", "is_male": "True", "labels": []}
    with pytest.raises(RecordingError, match=r"tracings \(.* expected numbers of the shapes .* 1,048,576 samples"):
        builder("code15", tmp_path).read_recording(exam)


def test_a_zip_file_is_not_a_numpy_file(tmp_path):
    np.savez(tmp_path / "a.npz", ecg=ecg())
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    with pytest.raises(ValueError, match=r"a ZIP file, perhaps an \.npz"):
        read_npy(tmp_path / "a.npy")


def test_damaged_files_of_all_kinds_do_not_end_a_build(tmp_path):
    folder = tmp_path / "ecgs"
    folder.mkdir()
    np.save(folder / "a.npy", ecg().astype(np.float32))
    np.save(folder / "b.npy", ecg(1).astype(np.float32))
    scipy.io.savemat(folder / "whole.mat", {"val": ecg()})
    (folder / "cut.mat").write_bytes((folder / "whole.mat").read_bytes()[:5000])
    (folder / "noise.mat").write_bytes((folder / "whole.mat").read_bytes()[:128] + b"\x0f\x00\x00\x00" + b"\xff" * 500)
    (folder / "cut.npy").write_bytes((folder / "a.npy").read_bytes()[:5000])
    (folder / "empty.csv").write_text("")
    write_wfdb(folder, "lying", ecg(3))
    (folder / "lying.hea").write_text((folder / "lying.hea").read_text().replace(" 16 ", " 16:100000000 "))
    (folder / "empty.hea").write_text("")
    bad = ["cut.mat", "noise.mat", "cut.npy", "empty.csv", "lying", "empty"]
    rows = [row(name, patient_id=name, sampling_rate=None if "." not in name else 250) for name in bad]
    path = tmp_path / "built"
    prepare_dataset("ecgfolder", path, source=describe(folder, row(), row("b.npy"), *rows), seconds=2, num_folds=2,
                    max_skipped=1, keep_ids=True)  # fmt: skip
    skipped = left_out(path, "skipped.csv")
    assert {one["recording_id"] for one in skipped} == {
        "cut.mat",
        "noise.mat",
        "cut.npy",
        "empty.csv",
        "lying",
        "empty",
    }
    assert str(tmp_path) not in (path / "skipped.csv").read_text()


def test_what_was_filled_and_dropped_is_in_the_build_report(tmp_path):
    folder = tmp_path / "ecgs"
    for name in ("a", "b"):
        signal = smooth_ecg(12) * (1 if name == "a" else 0.5)
        signal[3, 100:110] = signal[8, 50:60] = np.nan
        (folder / name).mkdir(parents=True)
        write(folder / name, np.vstack([signal, signal[:1]]), [*LEADS, "RESP"])
    rows = [row(f"{name}/made", patient_id=name, sampling_rate=None) for name in "ab"]
    report = prepare_dataset("ecgfolder", tmp_path / "built", source=describe(folder, *rows), num_folds=2)
    assert report["records"]["filled_gaps"] == 4
    assert report["records"]["dropped_signals"] == {"RESP": 2}


@pytest.mark.parametrize("form", ["absolute", "with a slash", "with dots"])
def test_the_path_of_the_source_is_in_no_published_message(form, tmp_path):
    folder = tmp_path / "ecgs"
    folder.mkdir()
    for name in "ab":
        np.save(folder / f"{name}.npy", ecg(ord(name)).astype(np.float32))
    (folder / "c.npy").write_bytes(b"")
    describe(folder, row(), row("b.npy"), row("c.npy"), row("absent.npy", patient_id="d"), row("b.npy", answer=""))
    source = {"absolute": folder, "with a slash": f"{folder}//", "with dots": f"{folder}/../ecgs"}[form]
    path = tmp_path / "built"
    prepare_dataset("ecgfolder", path, source=source, seconds=2, num_folds=2, max_skipped=1, keep_ids=True)
    for name in ("skipped.csv", "left_out.csv"):
        text = (path / name).read_text()
        assert len(list(csv.reader(text.splitlines()))) > 1 and str(tmp_path) not in text


# Builds


@pytest.mark.parametrize("text", ["[]", "[1, 2]", "null", "7", '"plan"', "{", "", "[" * 5000, "\x00", '{"a": 1'])
def test_a_damaged_plan_is_refused_in_one_line_and_can_be_replaced(text, tmp_path):
    options = {"name": "simulated_reports", "num_recordings": 12, "seconds": 2, "num_folds": 2}
    (tmp_path / "built.building").mkdir()
    (tmp_path / "built.building" / "plan.json").write_text(text)
    with pytest.raises(ValueError, match=r"plan\.json: .*overwrite") as caught:
        prepare_dataset(output=tmp_path / "built", **options)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    (tmp_path / "built.building").mkdir(exist_ok=True)
    (tmp_path / "built.building" / "plan.json").write_text(text)
    if text in ("[]", "{"):
        assert prepare_dataset(output=tmp_path / "built", overwrite=True, **options)["records"]["recordings"] == 12


def _hold(output: Path, seconds: float, started) -> None:
    with work_folder(output) as work:
        started.set()
        time.sleep(seconds)
        __import__("shutil").rmtree(work)  # as a build that ends


def test_who_waits_for_a_build_that_ends_begins_in_a_new_folder(tmp_path):
    context = multiprocessing.get_context("fork")
    started = context.Event()
    other = context.Process(target=_hold, args=(tmp_path / "built", 1, started))
    other.start()
    started.wait()
    with work_folder(tmp_path / "built") as work:
        other.join()
        assert (work / "build.lock").is_file()
        with pytest.raises(BlockingIOError), pytest.MonkeyPatch.context() as patch:
            patch.setattr(elm_hf.prepare.work_folder, "_LOCK_TIMEOUT_S", 0)
            with work_folder(tmp_path / "built"):
                pass


@pytest.mark.parametrize("held", ["build.lock", "shard-1-of-2.lock"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_builds_and_shards_of_one_folder_exclude_each_other(held, overwrite, tmp_path, monkeypatch):
    monkeypatch.setattr(elm_hf.prepare.work_folder, "_LOCK_TIMEOUT_S", 0.1)
    options = {"name": "simulated_reports", "num_recordings": 12, "seconds": 2}
    (tmp_path / "built.building").mkdir()
    with FileLock(tmp_path / "built.building" / held):
        message = r"built\.building: another process is building in this folder"
        with pytest.raises(BlockingIOError, match=message):
            prepare_dataset(output=tmp_path / "built", overwrite=overwrite, **options)
        if held == "build.lock":
            with pytest.raises(BlockingIOError, match=message):
                prepare_shard(output=tmp_path / "built", shard=1, num_shards=2, **options)


@pytest.mark.parametrize("request_, how", [("PUT /lfs/.*", 403), ("PUT /lfs/.*", 507), ("PUT /lfs/.*", "cut"),
                                           ("POST .*/preupload/.*", 403), ("POST .*/commit/.*", 403)])  # fmt: skip
def test_an_upload_that_is_refused_for_good_is_one_line(request_, how, simulated_dataset):
    with HubServer() as hub:
        hub.fail(request_, how, 1000)
        with pytest.raises(RuntimeError, match="exit code 1") as caught:
            hub.run_client(command("publish", simulated_dataset, "user/simulated-250-500"))
    lines = [line for line in str(caught.value).splitlines()[1:] if line.strip()]
    assert "Traceback" not in str(caught.value)
    assert [line for line in lines if line.startswith("elm-hf: ")] == lines[-1:]


# What is said


def test_ask_says_which_leads_are_missing(tiny_elm, tmp_path):
    from transformers import AutoProcessor

    signal = smooth_ecg(12)
    signal[6, 100:600] = np.nan
    signal[7, :1500] = 0
    to_ask = ecg_from_file(*find_ecg_files([write(tmp_path, signal[:11], LEADS[:11])])[0])
    missing = to_ask.missing_leads(AutoProcessor.from_pretrained(tiny_elm))
    assert missing == "V1 (a gap of 1 s), V2 (flat), V6 (no valid sample)"


@pytest.mark.parametrize("size", [900, 1500])
def test_an_entry_of_a_list_is_read_up_to_its_limit_and_no_further(monkeypatch, tmp_path, size):
    monkeypatch.setattr("elm_hf.prepare.instruct._READ_SIZE", 16)
    monkeypatch.setattr("elm_hf.prepare.instruct._MAX_ENTRY_SIZE", 1024)
    path = tmp_path / "list.json"
    path.write_text(json.dumps([{"id": "x" * size}]))
    if size < 1024:
        assert len(list(_json_list(path))) == 1
        return
    with pytest.raises(ValueError, match="the list is truncated or damaged"):
        list(_json_list(path))
