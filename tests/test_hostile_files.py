"""
A fuzzer of everything that reads other people's files: each mutated file is read or refused with one line.

By default it runs for some seconds. An hour by hand, with other mutations:

    ELM_HF_FUZZ_SECONDS=3600 ELM_HF_FUZZ_SEED=7 pytest tests/test_hostile_files.py --timeout 8000
"""

import json
import os
import random
import resource
import shutil
import sys
import time
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import h5py
import numpy as np
import pytest
import scipy.io
import wfdb
from format_writers import WRITERS
from test_datasets_base import builder
from test_ecgfolder import ecg, row, write_csv, write_wfdb

from elm_hf.dataset_scripts import code15
from elm_hf.ecg.files import read_ecg_file
from elm_hf.ecg.recording import segments
from elm_hf.modeling.feature_extraction_ecg import EcgFeatureExtractor
from elm_hf.prepare.builder import ElmDatasetBuilder
from elm_hf.prepare.work_folder import begin
from elm_hf.utils.errors import one_line


SECONDS = float(os.environ.get("ELM_HF_FUZZ_SECONDS", 24))
SEED = int(os.environ.get("ELM_HF_FUZZ_SEED", 0))
LONGEST_S = 10 * float(os.environ.get("ELM_HF_FUZZ_SLOWNESS", 3))  # a busy machine is slower
LARGEST_MEMORY_MB = 1500

# What takes the place of numbers and words of a text.
VALUES = [
    *("0", "-1", "1e999", "NaN", "Infinity", "-Infinity", "1" + "0" * 30, "9" * 5000, "1e-400", "0x10", "٣", "1_000"),
    *("", "null", "true", '"\\ud800"', '"\\u0000"', "é", "\x00", "\ufeff", "[]", "{}", '"', "'", ",", "\n", "\r", "/"),
    *("../../../../etc/passwd", "/etc/passwd", "~", "\\", "x" * 5000, "[" * 3000, '{"a":' * 3000, "(" * 3000, "%s%n"),
    *("made.dat", "100000000", "16:100000000", "16x100000000", "16+100000000", "2147483648", "-32768", "I", "mmHg"),
]


def mutated_text(text: bytes, rng: random.Random) -> bytes:
    """Replace, repeat, remove or insert words."""
    for _ in range(rng.choice((1, 1, 2, 5))):
        words = text.replace(b",", b" ,").replace(b":", b" :").split(b" ")
        at = rng.randrange(len(words))
        kind = rng.random()
        if kind < 0.6:
            words[at] = rng.choice(VALUES).encode("utf-8", "surrogatepass")
        elif kind < 0.7:
            words[at : at + rng.randrange(1, 5)] = []
        elif kind < 0.8:
            words[at:at] = words[: rng.randrange(len(words) + 1)]
        else:
            return mutated_bytes(text, rng)
        text = b" ".join(words)
    return text


def mutated_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flip, overwrite, cut or repeat bytes, mostly near the start, where headers are."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 3, 10))):
        at = rng.randrange(min(len(changed), rng.choice((16, 200, 10**9))) or 1)
        kind = rng.random()
        if kind < 0.4 and changed:
            changed[at % len(changed)] = rng.randrange(256)
        elif kind < 0.6:
            changed[at : at + 8] = rng.choice((b"\xff" * 8, bytes(8), b"\x7f" + b"\xff" * 7, b"\xff\xff\xff\x7f" * 2))
        elif kind < 0.75:
            del changed[at : at + rng.choice((1, 4, 100, 10**6))]
        elif kind < 0.9:
            changed[at:at] = rng.randbytes(rng.choice((1, 4, 100)))
        else:
            changed += changed[: rng.randrange(1, 5000)]
    return bytes(changed)


def mutated_value(value, rng: random.Random, depth: int = 0):
    """Another value in some place of a nested JSON value."""
    if depth > 5 or rng.random() < 0.15 or not isinstance(value, dict | list) or not value:
        deep: list = []
        for _ in range(rng.choice((5, 400))):
            deep = [deep]
        return rng.choice(
            [None, True, 0, -1, 2**31, 10**30, 1.5, float("inf"), float("nan"), "", "\ud800", "x" * 200_000, [], {}, deep,
             [[]], {"a": 1}, "../../etc/passwd", "/etc/passwd", "a.npy", 1e300, "image of a " * 5000, "\x00", value]
        )  # fmt: skip
    if isinstance(value, dict):
        key = rng.choice(list(value))
        if rng.random() < 0.1:
            return {other: item for other, item in value.items() if other != key}
        return value | {key: mutated_value(value[key], rng, depth + 1)}
    at = rng.randrange(len(value))
    return [*value[:at], mutated_value(value[at], rng, depth + 1), *value[at + 1 :]]


def mutated_entries(entries: list, rng: random.Random) -> str:
    """A JSON list with one or two mutated entries, which is sometimes damaged as text, too."""
    entries = list(entries)
    for _ in range(rng.choice((1, 2))):
        at = rng.randrange(len(entries))
        entries[at] = mutated_value(entries[at], rng)
    text = json.dumps(entries)
    return mutated_text(text.encode(), rng).decode("utf-8", "replace") if rng.random() < 0.3 else text


@cache
def saved(save: Callable) -> dict[str, bytes]:
    """The files that a function writes into a folder. They are made once, and only the mutations cost time."""
    with TemporaryDirectory() as folder:
        save(Path(folder))
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@lru_cache(maxsize=2)
def builder_of(name: str, folder: Path) -> ElmDatasetBuilder:
    """A builder, which reads its source anew each time; making one takes longer than reading a small source."""
    return builder(name, folder)


@cache
def first_entries(sample: str) -> list:
    """Some entries of a published file in the shared data."""
    return json.loads(min(SAMPLES.glob(sample)).read_text())[:4]


def save_wfdb(folder: Path) -> None:
    write_wfdb(folder, "made", ecg(seconds=2))


def save_npy(folder: Path) -> None:
    np.save(folder / "a.npy", ecg(seconds=1))


def save_flac(folder: Path) -> None:
    signal = ecg(seconds=2)[:2].T
    wfdb.wrsamp("made", 250, ["mV"] * 2, ["I", "II"], signal, fmt=["516"] * 2, adc_gain=[1000] * 2, baseline=[0] * 2,
                write_dir=str(folder))  # fmt: skip


def save_hdf5(folder: Path) -> None:
    with h5py.File(folder / "exams_part0.hdf5", "w") as file:
        file["exam_id"] = np.arange(3)
        file["tracings"] = np.stack([ecg(number, seconds=1).T for number in range(3)]).astype(np.float32)


# Families: each gets a folder and a random generator, writes a mutated file, and returns what reads it.
def wfdb_record(folder: Path, rng: random.Random) -> Callable:
    fmt = rng.choice(("16", "212", "32", "24", "80"))
    header, data = folder / "made.hea", folder / "made.dat"
    for name, content in saved(save_wfdb).items():
        (folder / name).write_bytes(content)
    if fmt != "16":
        header.write_text(header.read_text().replace(" 16 ", f" {fmt} "))
    if rng.random() < 0.8:
        header.write_bytes(mutated_text(header.read_bytes(), rng))
    if rng.random() < 0.3:
        data.write_bytes(mutated_bytes(data.read_bytes(), rng))
    return lambda: [read_ecg_file(folder / "made"), EcgFeatureExtractor(250, 500)(str(folder / "made"))]


def flac(folder: Path, rng: random.Random) -> Callable:
    for name, content in saved(save_flac).items():
        is_mutated = name.endswith(".dat") or rng.random() < 0.1
        (folder / name).write_bytes(mutated_bytes(content, rng) if is_mutated else content)
    return lambda: read_ecg_file(folder / "made")


def hdf5(folder: Path, rng: random.Random) -> Callable:
    (name, content), *_ = saved(save_hdf5).items()
    (folder / name).write_bytes(mutated_bytes(content, rng))
    code15._open_part.cache_clear()
    exam = {"exam_id": "1", "trace_file": name, "age": "50", "is_male": "True", "labels": []}
    return lambda: builder_of("code15", folder).read_recording(exam)


def array(suffix: str, save: Callable) -> Callable:
    def save_array(folder: Path) -> None:
        save(folder / f"made{suffix}", ecg(seconds=1))

    def family(folder: Path, rng: random.Random) -> Callable:
        path, content = folder / f"made{suffix}", saved(save_array)[f"made{suffix}"]
        path.write_bytes((mutated_text if suffix == ".csv" else mutated_bytes)(content, rng))
        return lambda: segments(read_ecg_file(path, 250), 1)

    return family


def device_file(folder: Path, rng: random.Random) -> Callable:
    pytest.importorskip("ecgdatakit", reason="elm-hf[formats] is not installed")
    pytest.importorskip("pydicom", reason="elm-hf[formats] is not installed")
    pytest.importorskip("edfio", reason="edfio is not installed")
    name = rng.choice(list(WRITERS))
    path = folder / name
    WRITERS[name](path, ecg(seconds=1), 250)
    is_text = name.endswith(".xml") and rng.random() < 0.7
    data = path.read_bytes().replace(b"<", b" <").replace(b">", b"> ") if is_text else path.read_bytes()
    path.write_bytes((mutated_text if is_text else mutated_bytes)(data, rng))
    return lambda: segments(read_ecg_file(path), 1)


def ecgfolder(folder: Path, rng: random.Random) -> Callable:
    (folder / "a.npy").write_bytes(saved(save_npy)["a.npy"])
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "Normal?"}]},
        {"role": "assistant", "content": "yes"},
    ]
    rows = [row(), row(messages=messages, question=None, answer=None), row(file_name=["a.npy", "a.npy"], age=5, sex="m",
            labels=["a"], leads=None, units="mV", split="train", report="A report.", question_type="kind")]  # fmt: skip
    if rng.random() < 0.5:
        rows = [mutated_value(one, rng) if rng.random() < 0.6 else one for one in rows]
        (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    else:
        text = "file_name,patient_id,sampling_rate,question,answer,labels,age,messages\n"
        text += (
            'a.npy,P1,250,Normal?,yes,a;b,50,\n"[""a.npy""]",P1,250,,,,,"[{""role"": ""user"", ""content"": ""?""}]"\n'
        )
        (folder / "metadata.csv").write_bytes(mutated_text(text.encode(), rng))
    return lambda: read_all(builder_of("ecgfolder", folder))


def read_all(made) -> None:
    """Read the conversations as `datasets` does, and the recordings."""
    made._output_dir, made._left_out = str(made.config.source), []
    for _ in made._generate_tables():
        pass
    for _, message in made._left_out:
        assert "\n" not in message and len(message) < 5000 and message.encode()
        assert str(made.config.source) not in message
    if type(made).__name__ == "Ecgfolder":
        for reference in made.references():
            try:
                made.read_recording(reference)
            except ValueError as error:
                assert one_line(error)


def published(name: str, file: str, sample: str) -> Callable:
    """A family of a published file of entries, with a sample in the shared data."""

    def family(folder: Path, rng: random.Random) -> Callable:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(mutated_entries(first_entries(sample), rng))
        return lambda: read_all(builder_of(name, folder))

    return family


def plan(folder: Path, rng: random.Random) -> Callable:
    good = {"dataset": "ptb_xl", "recordings": 5, "version of numpy": "2"}
    text = json.dumps(mutated_value(good, rng)) if rng.random() < 0.5 else mutated_text(json.dumps(good).encode(), rng)
    (folder / "plan.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    return lambda: begin(folder, good)


SAMPLES = Path(__file__).resolve().parents[2] / "shared" / "data"
FAMILIES = {
    "wfdb": wfdb_record,
    "flac": flac,
    "hdf5": hdf5,
    "npy": array(".npy", np.save),
    "mat": array(".mat", lambda path, signal: scipy.io.savemat(path, {"val": signal})),
    "compressed mat": array(".mat", lambda path, signal: scipy.io.savemat(path, {"val": signal}, do_compression=True)),
    "old mat": array(".mat", lambda path, signal: scipy.io.savemat(path, {"val": signal}, format="4")),
    "csv": array(".csv", write_csv),
    "device file": device_file,
    "ecgfolder": ecgfolder,
    "ecg_qa": published("ecg_qa", "train/0.json", "ecg_qa/ptbxl_mini/paraphrased/train/*.json"),
    "ecg_instruct_45k": published("ecg_instruct_45k", "ecg_instruct_45k.json", "instruct/ecg_chat/ecg_instruct_45k.json"),
    "plan": plan,
}  # fmt: skip

OPENED: list[str] = []


def note_opened(event: str, arguments: tuple) -> None:
    if event == "open" and isinstance(arguments[0], str | bytes):
        OPENED.append(os.fsdecode(arguments[0]))


def peak_memory() -> list[int]:
    """KiB of this process, in which other tests ran, and of the largest one that it started."""
    return [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_mutated_file_is_read_or_refused_in_one_line(family, tmp_path, shared_data):
    """Within time and memory, and without opening a file of another folder."""
    if not getattr(sys, "_opened_is_noted", False):
        sys.addaudithook(note_opened)
        sys._opened_is_noted = True
    memory = peak_memory()
    end, number = time.monotonic() + SECONDS / len(FAMILIES), 0
    while time.monotonic() < end or number < 20:
        rng = random.Random(f"{SEED} {family} {number}")
        folder = tmp_path / "source"
        folder.mkdir()
        read = FAMILIES[family](folder, rng)
        kept = shutil.copytree(folder, tmp_path / "kept")  # to repeat what fails
        OPENED.clear()
        start = time.monotonic()
        try:
            read()
        except (ValueError, OSError) as error:
            message = one_line(error)
            assert message and len(message) < 5000, f"{family} {number}"
        assert time.monotonic() - start < LONGEST_S, f"{family} {number}: {kept}"
        outside = [name for name in OPENED if "passwd" in name or (".." in name and "site-packages" not in name)]
        assert not outside, f"{family} {number}: {kept}"
        shutil.rmtree(folder)
        shutil.rmtree(kept)
        number += 1
    assert all(after < before + 1024 * LARGEST_MEMORY_MB for before, after in zip(memory, peak_memory()))
