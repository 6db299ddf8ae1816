"""No link and no name leads out of a source: nothing outside is opened, read or published."""

import csv
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest
from test_datasets_base import builder, references
from test_ecgfolder import describe, ecg, row, write_csv, write_wfdb

from elm_hf.checkpoints.convert import convert_checkpoint
from elm_hf.checkpoints.publish import publish_model
from elm_hf.ecg.files import read_ecg_file
from elm_hf.ecg.find_files import find_ecg_files
from elm_hf.ecg.recording import RecordingError, read_recording
from elm_hf.inference.ask import ecg_from_file
from elm_hf.modeling.ecg_reading import load_ecg
from elm_hf.modeling.feature_extraction_ecg import EcgFeatureExtractor
from elm_hf.modeling.folder_paths import OutsideFolderError, path_inside
from elm_hf.prepare.dataset import prepare_dataset
from elm_hf.prepare.publish import publish_dataset


OPENED: list[str] = []
sys.addaudithook(lambda event, arguments: OPENED.append(str(arguments[0])) if event == "open" else None)


@contextmanager
def nothing_opened_in(folder: Path) -> Iterator[None]:
    """Fails if a file of the folder is opened, through a link or not."""
    OPENED.clear()
    yield
    real = str(folder.resolve())
    found = [name for name in OPENED if not name.isdigit() and str(Path(name).resolve()).startswith(real)]
    assert not found


@pytest.fixture
def outside(tmp_path) -> Path:
    (tmp_path / "outside").mkdir()
    return tmp_path / "outside"


def move_out(path: Path, outside: Path) -> None:
    """Move a file or folder out of its source and leave a link."""
    shutil.move(path, outside / path.name)
    path.symlink_to(outside / path.name)


def move_within(path: Path) -> None:
    """Move a file or folder to another place in its folder and leave a relative link."""
    hidden = path.parent / "elsewhere"
    hidden.mkdir(exist_ok=True)
    shutil.move(path, hidden / path.name)
    path.symlink_to(Path("elsewhere") / path.name)


@pytest.fixture
def record(tmp_path) -> Path:
    (tmp_path / "source").mkdir()
    write_wfdb(tmp_path / "source", "made", ecg())
    return tmp_path / "source" / "made"


READERS = {
    "load_ecg": load_ecg,
    "read_recording": read_recording,
    "read_ecg_file": read_ecg_file,
    "extractor": lambda path: EcgFeatureExtractor(250, 500)(str(path)),
    "ask": lambda path: ecg_from_file(*find_ecg_files([path])[0]),
}


@pytest.mark.parametrize("suffix", [".dat", ".hea"])
@pytest.mark.parametrize("reader", READERS)
def test_no_reader_follows_a_link_out_of_the_folder_of_a_record(reader, suffix, record, outside):
    move_out(record.with_suffix(suffix), outside)
    with nothing_opened_in(outside), pytest.raises(ValueError, match=rf"made\{suffix}: a link that leads outside"):
        READERS[reader](record)


@pytest.mark.parametrize("suffix", [".dat", ".hea"])
@pytest.mark.parametrize("reader", READERS)
def test_links_that_stay_in_the_folder_are_followed(reader, suffix, record):
    move_within(record.with_suffix(suffix))
    READERS[reader](record)


@pytest.mark.parametrize("suffix", [".npy", ".csv", ".mat"])
def test_linked_arrays(suffix, tmp_path, outside):
    import scipy.io

    path = tmp_path / "source" / f"made{suffix}"
    path.parent.mkdir()
    {".npy": np.save, ".csv": write_csv, ".mat": lambda to, signal: scipy.io.savemat(to, {"val": signal})}[suffix](
        path, ecg()
    )
    shutil.copytree(path.parent, tmp_path / "within")
    move_within(tmp_path / "within" / path.name)
    assert read_ecg_file(tmp_path / "within" / path.name, 250).ecg.shape == (12, 500)
    move_out(path, outside)
    with nothing_opened_in(outside), pytest.raises(RecordingError, match="a link that leads outside") as caught:
        read_ecg_file(path, 250)
    assert caught.value.reason == "path outside the source"


# Of each source: files and folders that are replaced by a link, and the recording that needs them.
LINKED = {
    "ptb_xl": ["ptbxl_database.csv", "scp_statements.csv", "records500/06000/06000_hr.hea",
               "records500/06000/06000_hr.dat", "records500/06000", "records500"],
    "mimic_iv_ecg": ["record_list.csv", "machine_measurements.csv", "files/p1099/p10990001/s49990027/49990027.dat",
                     "files/p1099/p10990001/s49990027/49990027.hea", "files/p1099/p10990001", "files"],
    "csn": ["WFDBRecords/20/206/JS20011.mat", "WFDBRecords/20/206/JS20011.hea"],
    "cpsc": ["cpsc_2018/g1/A1983.mat", "cpsc_2018/g1/A1983.hea"],
    "code15": ["exams.csv", "exams_part*.hdf5"],
}  # fmt: skip
RECORDING = {"ptb_xl": "6000", "mimic_iv_ecg": "49990027", "csn": "JS20011", "cpsc": "A1983", "code15": None}


@pytest.mark.parametrize("name, linked", [(name, path) for name, paths in LINKED.items() for path in paths])
def test_no_builder_follows_a_link_out_of_its_source(name, linked, shared_data, tmp_path, outside):
    def read(source: Path) -> None:
        recordings = references(name, source)
        builder(name, source).read_recording(recordings[RECORDING[name] or next(iter(recordings))])

    def conversations(source: Path) -> int:
        return len(list(builder(name, source).list_conversations()))

    shutil.copytree(shared_data / name, tmp_path / "good")
    number = conversations(tmp_path / "good")
    for path in sorted((tmp_path / "good").glob(linked)):
        move_within(path)
    if name not in ("csn", "cpsc"):  # whose recordings are where their headers are
        read(tmp_path / "good")
    shutil.copytree(shared_data / name, tmp_path / "source")
    for path in sorted((tmp_path / "source").glob(linked)):
        move_out(path, outside)
    with nothing_opened_in(outside):
        with pytest.raises(ValueError, match="a link that leads outside"):
            read(tmp_path / "source")
        if linked.endswith(".csv"):
            with pytest.raises(ValueError, match="a link that leads outside"):
                conversations(tmp_path / "source")
        else:
            assert conversations(tmp_path / "source") <= number


@pytest.mark.parametrize(
    "name, file",
    [
        ("ecg_qa", "train/0.json"),
        ("ecg_instruct_45k", "ecg_instruct_45k.json"),
        ("pretrain_mimic", "pretrain_mimic.json"),
        ("ecg_instruct_pulse", "ECGInstruct.json"),
        ("ecg_bench_pulse", "ptb-test.json"),
        ("ecg_grounding", "ECG_Grounding_30k.json"),
        ("ecg_qa_cot", "ecg_qa_cot_train.csv"),
        ("ecg_r1", "ECG-Protocol-Guided-Grounding-CoT-30k.jsonl"),
        ("ecg_reasoning_benchmark", "ptbxl.jsonl"),
        ("health_care_magic", "HealthCareMagic-100k.json"),
        ("health_care_magic", "data/train.parquet"),
        ("ecgfolder", "metadata.csv"),
        ("ecgfolder", "metadata.jsonl"),
    ],
)
def test_no_builder_of_conversations_follows_a_link_out_of_its_source(name, file, tmp_path, outside):
    path = tmp_path / "source" / file
    path.parent.mkdir(parents=True)
    path.write_text("[]")
    move_out(path, outside)
    made = builder(name, tmp_path / "source")
    with nothing_opened_in(outside), pytest.raises(ValueError, match="a link that leads outside"):
        list(made.list_conversations())


def test_the_signal_file_of_an_ecgfolder_is_not_published_through_a_link(tmp_path, outside):
    source = tmp_path / "ecgs"
    source.mkdir()
    for number, name in enumerate("abcd"):
        write_wfdb(source, name, ecg(number))
    move_out(source / "c.dat", outside)
    move_out(source / "d.hea", outside)
    rows = [row(name, patient_id=name, sampling_rate=None) for name in "abcd"]
    with nothing_opened_in(outside):
        prepare_dataset("ecgfolder", tmp_path / "built", source=describe(source, *rows), seconds=2, num_folds=2,
                        max_skipped=0.6)  # fmt: skip
    with (tmp_path / "built.private" / "skipped.csv").open(newline="") as file:
        skipped = list(csv.DictReader(file))
    assert [(one["recording_id"], one["reason"]) for one in skipped] == [
        ("c", "path outside the source"),
        ("d", "path outside the source"),
    ]
    assert str(tmp_path) not in json.dumps(skipped)


@pytest.mark.parametrize("kind", ["link in the file", "external data", "virtual data"])
def test_an_hdf5_file_that_refers_to_another_file_is_refused(kind, shared_data, tmp_path, outside):
    source = Path(shutil.copytree(shared_data / "code15", tmp_path / "source"))
    recordings = references("code15", source)
    reference = next(iter(recordings.values()))
    path = source / reference["trace_file"]
    move_out(path, outside)
    path.unlink()
    moved = outside / path.name
    with h5py.File(moved) as file:
        shape = file["tracings"].shape
        (outside / "raw").write_bytes(file["tracings"][:].astype("<f4").tobytes())
        ids = file["exam_id"][:]
    with h5py.File(path, "w") as file:
        file["exam_id"] = ids
        if kind == "link in the file":
            file["tracings"] = h5py.ExternalLink(str(moved), "/tracings")
        elif kind == "external data":
            size = (outside / "raw").stat().st_size
            file.create_dataset("tracings", shape, "<f4", external=[(str(outside / "raw"), 0, size)])
        else:
            layout = h5py.VirtualLayout(shape, "<f4")
            layout[:] = h5py.VirtualSource(str(moved), "tracings", shape=shape)
            file.create_virtual_dataset("tracings", layout)
    with pytest.raises(RecordingError, match="refers to another file"):
        builder("code15", source).read_recording(reference)


def test_publishing_follows_no_link_out_of_the_folder(simulated_dataset, tiny_elm, tmp_path, outside):
    (outside / "secret.txt").write_text("secret")
    for original, publish in ((simulated_dataset, publish_dataset), (tiny_elm, publish_model)):
        folder = tmp_path / original.name
        shutil.copytree(original, folder)
        (folder / "notes").mkdir()
        (folder / "notes" / "secret.txt").symlink_to(outside / "secret.txt")
        with nothing_opened_in(outside), pytest.raises(ValueError, match=r"secret\.txt: a link that leads outside"):
            publish(folder, "user/simulated-250-500", dry_run=True)
        (folder / "notes" / "secret.txt").unlink()
        (folder / "notes").rmdir()
        (folder / "linked").symlink_to(outside)
        with nothing_opened_in(outside), pytest.raises(ValueError, match="linked: a link that leads outside"):
            publish(folder, "user/simulated-250-500", dry_run=True)


def test_convert_follows_no_link_out_of_the_folder_of_its_file(tmp_path, outside):
    (outside / "weights.pth").write_bytes(b"secret")
    (tmp_path / "weights.pth").symlink_to(outside / "weights.pth")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "weights.pth").symlink_to(outside / "weights.pth")
    with nothing_opened_in(outside), pytest.raises(ValueError, match="a link that leads outside the folder"):
        convert_checkpoint("st_mem", tmp_path / "folder" / "weights.pth", tmp_path / "converted")


def test_records_of_another_dataset_are_not_read_through_a_link(simulated_dataset, shared_data, tmp_path, outside):
    records = Path(shutil.copytree(simulated_dataset, tmp_path / "records"))
    move_out(next((records / "records").glob("*.parquet")), outside)
    with nothing_opened_in(outside), pytest.raises(ValueError, match="a link that leads outside"):
        prepare_dataset("ecg_qa", tmp_path / "built", source=shared_data / "ecg_qa" / "ptbxl_mini", records=records)


def test_a_snapshot_in_the_cache_of_the_hub_is_read(tmp_path):
    """Its files are links to the folder `blobs` of the repository."""
    snapshot = tmp_path / "datasets--user--ecgs" / "snapshots" / "0123abc"
    (tmp_path / "datasets--user--ecgs" / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    write_wfdb(snapshot, "made", ecg())
    for number, path in enumerate(list(snapshot.iterdir())):
        shutil.move(path, tmp_path / "datasets--user--ecgs" / "blobs" / str(number))
        path.symlink_to(Path("../../blobs") / str(number))
    assert read_recording(snapshot / "made").ecg.shape == (12, 500)
    (snapshot / "made.hea").unlink()
    (tmp_path / "made.hea").write_text("made 1 500 100")
    (snapshot / "made.hea").symlink_to("../../../made.hea")
    with pytest.raises(RecordingError, match="a link that leads outside"):
        read_recording(snapshot / "made")


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "\udcff/../../x", "loop/../../x"])
def test_names_that_lead_out_of_a_folder(name, tmp_path):
    (tmp_path / "source").mkdir()
    with pytest.raises(OutsideFolderError):
        path_inside(tmp_path / "source" / name, tmp_path / "source")
