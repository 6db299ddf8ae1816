"""Builds that are killed or divided into shards give the same dataset, byte for byte."""

import filecmp
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset
from filelock import FileLock
from warm_python import run_python, start_python

import elm_hf.cli
import elm_hf.prepare.record_files
import elm_hf.prepare.splits
import elm_hf.prepare.work_folder
from elm_hf.data.columns import record_features
from elm_hf.dataset_scripts.simulated_qa import SimulatedQa
from elm_hf.ecg.recording import RecordingError
from elm_hf.prepare.dataset import prepare_dataset, prepare_shard
from elm_hf.prepare.record_files import RecordFiles


ROOT = Path(__file__).resolve().parents[1]
# 41 recordings in files of 4: eleven files, the last one with one recording
OPTIONS = {"name": "simulated_reports", "num_recordings": 41, "seconds": 2}
COMMAND = ["prepare", "simulated_reports", "--num-recordings", "41", "--seconds", "2"]
# the `elm-hf` command, with 4 recordings per file, so that there are several files
MAIN = "import elm_hf.prepare.record_files; elm_hf.prepare.record_files.RECORDINGS_PER_FILE = 4; from elm_hf.cli import main; main()"
FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    monkeypatch.setattr(elm_hf.prepare.record_files, "RECORDINGS_PER_FILE", 4)


@pytest.fixture(autouse=True)
def unusable_recordings(monkeypatch):
    """Make recordings 5 and 30 unusable, so that the list of skipped recordings is not empty."""
    read = SimulatedQa.read_recording

    def read_or_refuse(self, reference: dict):
        if reference["recording_id"] in ("000005", "000030"):
            raise RecordingError("no usable lead", f"{reference['recording_id']}: every lead is missing")
        return read(self, reference)

    monkeypatch.setattr(SimulatedQa, "read_recording", read_or_refuse)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    """The expected dataset, built by one process, with the same folder name as the datasets it is compared with."""
    output = tmp_path_factory.mktemp("uninterrupted") / "built"
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(elm_hf.prepare.record_files, "RECORDINGS_PER_FILE", 4)
        unusable_recordings.__wrapped__(monkeypatch)
        prepare_dataset(output=output, **OPTIONS)
    return output


def files_of(folder: Path) -> list[Path]:
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def assert_same(built: Path, expected: Path) -> None:
    names = files_of(expected)
    assert files_of(built) == names
    assert filecmp.cmpfiles(built, expected, names, shallow=False)[0] == names
    assert [path.name for path in built.parent.iterdir()] == [built.name]


def record_files(output: Path) -> list[Path]:
    return list(output.with_name("built.building").glob("build/records/*.parquet"))


def kill_when(moment: Callable[[], bool], build: Callable, **options) -> None:
    """
    Run a build in a child process and kill it (SIGKILL) when `moment()` is true. The moment is checked before each
    recording is read and before each file of a fold is written, so it is not missed on a busy machine.
    """
    process = FORK.Process(target=_build_until, args=(moment, build, options))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL, "the build was finished before it could be killed"


def _build_until(moment: Callable[[], bool], build: Callable, options: dict) -> None:
    building, read, new_path = os.getpid(), SimulatedQa.read_recording, elm_hf.prepare.splits.new_path

    def kill_or(function: Callable, *arguments):
        if moment():
            os.kill(building, signal.SIGKILL)
            time.sleep(60)  # a reading process terminates shortly after its parent
        return function(*arguments)

    SimulatedQa.read_recording = lambda self, reference: kill_or(read, self, reference)
    elm_hf.prepare.splits.new_path = lambda path: kill_or(new_path, path)
    build(**options)


# killed builds


def test_the_expected_dataset_has_several_files_and_skipped_recordings(uninterrupted):
    assert len(list((uninterrupted / "records").iterdir())) == 11
    assert (uninterrupted / "skipped.csv").read_text().splitlines()[1:] == [
        "000005,no usable lead,000005: every lead is missing",
        "000030,no usable lead,000030: every lead is missing",
    ]


@pytest.mark.parametrize("num_proc", [1, 2])
def test_a_build_that_is_killed_repeatedly_continues(num_proc, uninterrupted, tmp_path):
    """It is killed within a file, between files, and while the folds are written."""
    output = tmp_path / "built"
    work = tmp_path / "built.building"
    moments = [
        lambda: any(work.glob("unfinished/*")),
        lambda: len(record_files(output)) >= 3,
        lambda: len(record_files(output)) >= 6,
        lambda: any(work.glob("build/fold3/*")),
    ]
    for moment in moments:
        kill_when(moment, prepare_dataset, output=output, num_proc=num_proc, **OPTIONS)
        assert not output.exists()
    prepare_dataset(output=output, num_proc=num_proc, **OPTIONS)
    assert_same(output, uninterrupted)


def test_complete_files_are_not_built_again(uninterrupted, tmp_path):
    output = tmp_path / "built"
    kill_when(lambda: len(record_files(output)) >= 5, prepare_dataset, output=output, **OPTIONS)
    before = {path.name: path.stat().st_mtime_ns for path in record_files(output)}
    prepare_dataset(output=output, **OPTIONS)
    after = {path.name: path.stat().st_mtime_ns for path in (output / "records").iterdir()}
    assert len(before) < len(after) and before.items() <= after.items()
    assert_same(output, uninterrupted)


def test_the_command_is_killed_with_its_processes(uninterrupted, tmp_path):
    """Kills the real command. Its reading processes must terminate with it."""
    output = tmp_path / "built"
    command = ["-c", MAIN, *COMMAND, "--output", output, "--num-proc", "2", "--max-skipped", "0.1"]
    process = start_python(command)
    while not record_files(output):
        assert process.poll() is None, "the build was finished before it could be killed"
        time.sleep(0.002)
    process.kill()
    process.wait()
    with FileLock(output.with_name("built.building") / "build.lock", timeout=10):
        pass  # the child processes had inherited the lock
    finished = run_python(command)
    assert finished.returncode == 0, finished.stderr
    assert len(files_of(output / "records")) == 11 and not output.with_name("built.building").exists()


def test_a_build_killed_during_the_final_cleanup(uninterrupted, tmp_path, monkeypatch):
    output = tmp_path / "built"
    with monkeypatch.context() as context:
        context.setattr(elm_hf.prepare.work_folder.shutil, "rmtree", lambda path: os.kill(os.getpid(), signal.SIGKILL))
        process = FORK.Process(target=prepare_dataset, kwargs={"output": output, **OPTIONS})
        process.start()
        process.join()
    assert process.exitcode == -signal.SIGKILL and output.with_name("built.building").exists()
    report = prepare_dataset(output=output, **OPTIONS)
    assert report == json.loads((uninterrupted / "build_report.json").read_text())
    assert_same(output, uninterrupted)


def test_an_earlier_build_is_kept_until_its_replacement_is_finished(uninterrupted, tmp_path):
    output = tmp_path / "built"
    prepare_dataset(output=output, **OPTIONS | {"num_recordings": 40})
    before = (output / "README.md").read_text()
    again = {"output": output, "overwrite": True, **OPTIONS}
    kill_when(lambda: len(record_files(output)) >= 3, prepare_dataset, **again)
    assert (output / "README.md").read_text() == before
    prepare_dataset(**again)
    assert_same(output, uninterrupted)


def test_a_killed_reading_process_is_an_error_and_files_are_kept(uninterrupted, tmp_path, monkeypatch):
    read = SimulatedQa.read_recording

    def read_or_die(self, reference: dict):
        if reference["recording_id"] == "000025":
            os.kill(os.getpid(), signal.SIGKILL)
        return read(self, reference)

    output = tmp_path / "built"
    with monkeypatch.context() as context:
        context.setattr(SimulatedQa, "read_recording", read_or_die)
        with pytest.raises(ChildProcessError, match=r"was terminated.*repeat the command, with fewer processes"):
            prepare_dataset(output=output, num_proc=2, **OPTIONS)
    assert record_files(output)
    prepare_dataset(output=output, num_proc=2, **OPTIONS)
    assert_same(output, uninterrupted)


def test_files_are_kept_after_an_error_of_the_system(uninterrupted, tmp_path, monkeypatch):
    """For example, if the disk is full."""
    read = SimulatedQa.read_recording

    def read_or_fail(self, reference: dict):
        if reference["recording_id"] == "000025":
            raise OSError("No space left on device")
        return read(self, reference)

    output = tmp_path / "built"
    with monkeypatch.context() as context:
        context.setattr(SimulatedQa, "read_recording", read_or_fail)
        with pytest.raises(OSError, match="No space left on device"):
            prepare_dataset(output=output, **OPTIONS)
    assert len(record_files(output)) == 6 and not output.exists()
    prepare_dataset(output=output, **OPTIONS)
    assert_same(output, uninterrupted)


# builds that must not continue


def test_an_unfinished_build_with_other_options_is_refused_or_replaced(uninterrupted, tmp_path):
    output = tmp_path / "built"
    other = OPTIONS | {"seed": 1}
    kill_when(lambda: len(record_files(output)) >= 3, prepare_dataset, output=output, **other)
    kept = len(record_files(output))
    with pytest.raises(
        ValueError, match=r"built\.building: contains a different unfinished build \(seed 1, now 0\).*--overwrite"
    ):
        prepare_dataset(output=output, **OPTIONS)
    assert len(record_files(output)) == kept
    prepare_dataset(output=output, overwrite=True, **OPTIONS)
    assert_same(output, uninterrupted)


def test_options_of_the_steps_after_the_records_may_change(tmp_path):
    """The records are kept if `max_skipped` was too small or if there are too few patients for the folds."""
    output = tmp_path / "built"
    with pytest.raises(ValueError, match="2 of 41 recordings cannot be used, over the limit of 0.01"):
        prepare_dataset(output=output, max_skipped=0.01, **OPTIONS)
    before = {path.name: path.stat().st_mtime_ns for path in record_files(output)}
    prepare_dataset(output=output, num_folds=3, **OPTIONS)
    assert {path.name: path.stat().st_mtime_ns for path in (output / "records").iterdir()} == before


def test_a_changed_source_is_detected(tmp_path, monkeypatch):
    output = tmp_path / "built"
    kill_when(lambda: len(record_files(output)) >= 3, prepare_dataset, output=output, **OPTIONS)
    references = SimulatedQa.list_recordings
    monkeypatch.setattr(
        SimulatedQa, "list_recordings", lambda self: ({**row, "age": row["age"] + 1} for row in references(self))
    )
    with pytest.raises(ValueError, match="different unfinished build .contents of the source [0-9a-f]+, now"):
        prepare_dataset(output=output, **OPTIONS)


def test_two_builds_of_one_output_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(elm_hf.prepare.work_folder, "_LOCK_TIMEOUT_S", 0.1)
    (tmp_path / "built.building").mkdir()
    with (
        FileLock(tmp_path / "built.building" / "build.lock"),
        pytest.raises(BlockingIOError, match=r"built\.building: another process is building in this folder"),
    ):
        prepare_dataset(output=tmp_path / "built", **OPTIONS)


# shards


def test_shards_give_the_same_dataset(uninterrupted, tmp_path):
    output = tmp_path / "built"
    assert prepare_shard(output=output, shard=3, num_shards=3, **OPTIONS) == {"files": 3, "built": 3}
    assert prepare_shard(output=output, shard=1, num_shards=3, num_proc=2, **OPTIONS) == {"files": 4, "built": 4}
    assert prepare_shard(output=output, shard=1, num_shards=3, **OPTIONS) == {"files": 4, "built": 0}
    with pytest.raises(ValueError, match=r"4 of 11 record files are missing; build shard 2/3 first \(--shard 2/3\)"):
        prepare_dataset(output=output, merge=True, **OPTIONS)
    kill_when(lambda: len(record_files(output)) >= 9, prepare_shard, output=output, shard=2, num_shards=3, **OPTIONS)
    prepare_shard(output=output, shard=2, num_shards=3, **OPTIONS)
    prepare_dataset(output=output, merge=True, **OPTIONS)
    assert_same(output, uninterrupted)


def test_shards_of_machines_without_a_shared_disk(uninterrupted, tmp_path):
    """Each shard is built in a separate folder; the working folders are copied into one."""
    output = tmp_path / "all" / "built"
    for shard in (1, 2):
        there = tmp_path / f"machine{shard}" / "built"
        prepare_shard(output=there, shard=shard, num_shards=2, **OPTIONS)
        shutil.copytree(there.with_name("built.building"), output.with_name("built.building"), dirs_exist_ok=True)
    prepare_dataset(output=output, merge=True, **OPTIONS)
    assert_same(output, uninterrupted)


def test_a_shard_with_other_options_is_not_merged(tmp_path):
    """Its files have the same names as those of the other shards, but another build id."""
    output = tmp_path / "all" / "built"
    prepare_shard(output=output, shard=1, num_shards=2, **OPTIONS)
    with pytest.raises(ValueError, match=r"different unfinished build \(seconds 2.0, now 5.0\)"):
        prepare_shard(output=output, shard=2, num_shards=2, **OPTIONS | {"seconds": 5})
    there = tmp_path / "machine2" / "built"
    prepare_shard(output=there, shard=2, num_shards=2, **OPTIONS | {"seconds": 1})
    (there.with_name("built.building") / "plan.json").unlink()
    shutil.copytree(there.with_name("built.building"), output.with_name("built.building"), dirs_exist_ok=True)
    with pytest.raises(ValueError, match="5 of 11 record files are missing; build shard 2/2 first"):
        prepare_dataset(output=output, merge=True, **OPTIONS)


def test_merging_without_shards_is_refused(tmp_path):
    output = tmp_path / "built"
    with pytest.raises(ValueError, match="11 of 11 record files are missing"):
        prepare_dataset(output=output, merge=True, **OPTIONS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "options, expected",
    [
        (["--shard", "4/3"], "there is no shard (--shard) 4/3; shards are numbered from 1/3 to 3/3"),
        (["--shard", "0/3"], "there is no shard (--shard) 0/3"),
        (["--shard", "three"], "--shard 'three' is not of the form 3/64"),
        (["--shard", "1/3", "--merge"], "--shard only reads recordings; omit --merge"),
    ],
)
def test_an_invalid_shard_is_refused_in_one_line(options, expected, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["elm-hf", *COMMAND, "--output", str(tmp_path / "built"), *options])
    with pytest.raises(SystemExit) as caught:
        elm_hf.cli.main()
    assert caught.value.code == 1 and capsys.readouterr().err.startswith(f"elm-hf: {expected}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_ray_job_of_the_documentation(tmp_path, monkeypatch):
    """Runs the code of docs/scale.md on a cluster that Ray starts on this machine."""
    pytest.importorskip("ray", reason="Ray is not installed (extra `scale`)")
    monkeypatch.undo()  # its workers use the default of 512 recordings per file
    (script,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "scale.md").read_text(), re.DOTALL)
    options = {"name": "simulated_reports", "num_recordings": 520, "seconds": 2}
    prepare_dataset(output=tmp_path / "alone" / "built", **options)
    options["output"] = str(tmp_path / "ray" / "built")
    script = re.sub(r"DATASET = .*", f"DATASET = {options}", script).replace("NUM_SHARDS = 64", "NUM_SHARDS = 2")
    # a busy machine needs more time to start a cluster
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_raylet_start_wait_time_s": "200"}
    finished = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert_same(tmp_path / "ray" / "built", tmp_path / "alone" / "built")


def test_records_are_copied_from_a_table_of_any_size(tmp_path):
    """76,800 ECGs have more samples than a 32-bit offset can address. They share the memory of 256 ECGs."""
    features = record_features(10, 250)
    ecg = np.random.default_rng(0).integers(-999, 999, (12, 2500)).astype(np.int16)
    row = {"record_id": "a", "ecg": ecg, "labels": [], "missing_leads": []}
    table = Dataset.from_list([{name: row.get(name) for name in features}] * 256, features).data.table
    records = Dataset(pa.concat_tables([table] * 300), fingerprint="many")
    files = RecordFiles(tmp_path, 3, "copied")
    files.copy(0, records.select([0, 40_000, 76_799]))
    copied = Dataset.from_parquet(str(files.path(0)), cache_dir=str(tmp_path / "cache")).with_format("numpy")
    assert len(records) * ecg.size > 2**31
    np.testing.assert_array_equal(copied["ecg"][:], np.stack([ecg] * 3))
