"""Loading built datasets with `datasets` and, joined with their ECGs, with `load_elm_dataset`."""

import os
import pickle
import re
import shutil
from itertools import islice
from pathlib import Path

import datasets
import numpy as np
import pytest
from torch.utils.data import DataLoader
from warm_python import run_python

from elm_hf.data.ecg_table import EcgTable
from elm_hf.data.loading import load_elm_dataset
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.prepare.dataset import prepare_dataset


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("built") / "first"
    prepare_dataset("simulated_qa", output, num_recordings=30)
    return output


@pytest.fixture(scope="module")
def other(built) -> Path:
    prepare_dataset("simulated_qa", built.parent / "other", num_recordings=20, seed=7)
    return built.parent / "other"


def in_millivolt(path: Path) -> np.ndarray:
    return (
        np.stack(list(datasets.load_dataset(str(path), "records", split="train").with_format("numpy")["ecg"])) / 1000
    )


def test_ecgs_are_joined_in_the_order_of_the_conversation(built):
    expected = in_millivolt(built)
    rows = load_elm_dataset(built, fold=2, split="test")
    assert {len(row["ecgs"]) for row in rows} == {1, 2}
    for row in rows:
        assert row["ecgs"][0].dtype == np.float32 and row["ecgs"][0].shape == (12, 2500)
        assert row["sampling_rate"] == 250
        np.testing.assert_allclose(np.stack(row["ecgs"]), expected[row["ecg_index"]], atol=1e-6)


def test_batches_are_joined_like_rows(built):
    rows = load_elm_dataset(built)
    batch = rows[[5, 0, 3]]
    for place, row in enumerate((5, 0, 3)):
        np.testing.assert_array_equal(np.stack(batch["ecgs"][place]), np.stack(rows[row]["ecgs"]))


def test_missing_leads_are_nan(built, tmp_path):
    """Missing leads are zeros in the table, but NaN in the joined ECG."""
    edited = Path(shutil.copytree(built, tmp_path / "edited"))
    records = datasets.load_dataset(str(built), "records", split="train")
    features = records.features
    rows = records.to_list()
    rows[0]["missing_leads"] = ["aVF", "V2"]
    rows[0]["ecg"][5] = rows[0]["ecg"][7] = [0] * 2500
    (path,) = (edited / "records").iterdir()
    datasets.Dataset.from_list(rows, features).to_parquet(path)
    rows = [row for split in ("train", "test") for row in load_elm_dataset(edited, split=split)]
    row = next(row for row in rows if row["ecg_index"] == [0])
    assert [LEADS[lead] for lead in np.flatnonzero(np.isnan(row["ecgs"][0]).all(axis=1))] == ["aVF", "V2"]
    assert np.isfinite(np.delete(row["ecgs"][0], [5, 7], axis=0)).all()


def test_columns_are_read_without_the_signals(built, monkeypatch):
    monkeypatch.setattr(EcgTable, "__getitem__", None)
    rows = load_elm_dataset(built)
    plain = datasets.load_dataset(str(built), "fold1", split="train")
    assert list(rows["conversation_id"]) == plain["conversation_id"][:]
    assert rows["messages"][3] == plain[3]["messages"]


def test_worker_processes_read_the_same_ecgs(built):
    rows = load_elm_dataset(built)
    assert len(pickle.dumps(rows)) < 100_000  # the memory map, not its content
    loader = DataLoader(
        rows, batch_size=8, num_workers=2, collate_fn=lambda batch: [list(row["ecgs"]) for row in batch]
    )
    found = [ecgs for batch in loader for ecgs in batch]
    assert len(found) == len(rows)
    for row, ecgs in zip(rows, found):
        np.testing.assert_array_equal(np.stack(ecgs), np.stack(row["ecgs"]))
    revived = pickle.loads(pickle.dumps(rows))
    np.testing.assert_array_equal(revived[4]["ecgs"][0], rows[4]["ecgs"][0])


def test_concatenated_datasets_keep_their_ecgs(built, other):
    signals = {path: in_millivolt(path) for path in (built, other)}
    rows = load_elm_dataset([built, other], split="test")
    first = len(load_elm_dataset(built, split="test"))
    assert len(rows) == first + len(load_elm_dataset(other, split="test"))
    for number, row in enumerate(rows):
        records = signals[built if number < first else other]
        numbers = [int(record_id.split("-")[1]) for record_id in row["record_ids"]]
        np.testing.assert_allclose(np.stack(row["ecgs"]), records[numbers], atol=1e-6)


def test_datasets_are_mixed_by_probability(built, other):
    signals = {path: in_millivolt(path) for path in (built, other)}
    rows = load_elm_dataset([built, other], probabilities=[0.8, 0.2])
    of_first = 0
    for row in rows:
        (number,) = {int(record_id.split("-")[1]) for record_id in row["record_ids"][:1]}
        close = [
            np.allclose(row["ecgs"][0], signals[path][number], atol=1e-6)
            for path in (built, other)
            if number < len(signals[path])
        ]
        assert any(close)
        of_first += close[0]
    assert 0.7 < of_first / len(rows) < 0.9
    again = load_elm_dataset([built, other], probabilities=[0.8, 0.2])
    assert list(again["conversation_id"]) == list(rows["conversation_id"])


def test_streamed_rows_equal_those_of_the_memory_map(built, other):
    rows, streamed = load_elm_dataset(built, fold=3), load_elm_dataset(built, fold=3, streaming=True)
    assert isinstance(streamed, datasets.IterableDataset)
    for row, of_stream in zip(rows, streamed, strict=True):
        assert of_stream["messages"] == row["messages"] and of_stream["sampling_rate"] == 250
        np.testing.assert_array_equal(np.stack(of_stream["ecgs"]), np.stack(row["ecgs"]))
    mixed = load_elm_dataset([built, other], probabilities=[0.8, 0.2])
    streamed = load_elm_dataset([built, other], probabilities=[0.8, 0.2], streaming=True)
    for row, of_stream in zip(mixed, islice(streamed, 50)):
        assert of_stream["conversation_id"] == row["conversation_id"]
        np.testing.assert_array_equal(np.stack(of_stream["ecgs"]), np.stack(row["ecgs"]))


def test_streams_are_shuffled_and_read_by_workers(built):
    streamed = load_elm_dataset(built, streaming=True).shuffle(seed=0, buffer_size=100)
    rows = {row["conversation_id"]: row for row in load_elm_dataset(built)}
    loader = DataLoader(streamed, num_workers=1, batch_size=None)
    order = []
    for row in islice(loader, 40):
        order.append(row["conversation_id"])
        np.testing.assert_array_equal(np.stack(row["ecgs"]), np.stack(rows[order[-1]]["ecgs"]))
    assert order != list(rows)[:40]


def test_merging_questions_is_refused_for_a_stream(built):
    with pytest.raises(ValueError, match="cannot be combined with question_types, merge_questions or records"):
        load_elm_dataset(built, merge_questions=2, streaming=True)


def test_mixing_ecgs_of_different_length_is_refused(built, tmp_path):
    prepare_dataset("simulated_qa", tmp_path / "short", num_recordings=20, seconds=5, seed=7)
    with pytest.raises(ValueError, match=r"\(12, 2500\) at 250 Hz; .*short: \(12, 1250\) at 250 Hz"):
        load_elm_dataset([built, tmp_path / "short"])


def test_each_dataset_needs_a_probability(built, other):
    with pytest.raises(ValueError, match="1 probabilities for 2 datasets"):
        load_elm_dataset([built, other], probabilities=[1.0])
    with pytest.raises(ValueError, match=r"must sum to 1; got \[0.9, 0.3\]"):
        load_elm_dataset([built, other], probabilities=[0.9, 0.3])


def test_the_error_for_an_unknown_fold_or_split_lists_the_available_ones(built):
    with pytest.raises(ValueError, match="no 'fold6'; available: fold1, fold2, fold3, fold4, fold5$"):
        load_elm_dataset(built, fold=6)
    with pytest.raises(ValueError, match="no 'official'; available: fold1"):
        load_elm_dataset(built, fold="official")
    with pytest.raises(ValueError, match="fold1 has no split 'dev'; available: train, validation, test$"):
        load_elm_dataset(built, split="dev")


def test_a_dataset_of_an_earlier_version_loads_and_asking_for_validation_says_how_to_rebuild_it(earlier_version):
    assert len(load_elm_dataset(earlier_version)) and len(load_elm_dataset(earlier_version, split="test"))
    with pytest.raises(
        ValueError, match=r"fold1 has no split 'validation'; available: train, test. .*build the dataset again"
    ):
        load_elm_dataset(earlier_version, split="validation")


def test_a_folder_without_an_elm_hf_dataset_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not an elm-hf dataset .*found none"):
        load_elm_dataset(tmp_path)
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="not an elm-hf dataset .*found default"):
        load_elm_dataset(tmp_path)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        load_elm_dataset(tmp_path / "nowhere")


def test_the_code_of_the_card_loads_the_dataset(built):
    """The code runs unchanged, the first example without elm-hf."""
    plain, joined = re.findall(r"```python\n(.*?)```", (built / "README.md").read_text(), re.DOTALL)
    check = "assert ecgs[0].shape == (12, 2500) and abs(ecgs[0][1] - ecgs[0][0] - ecgs[0][2]).max() < 0.002\n"
    without = "import sys\nsys.modules['elm_hf'] = None\n"
    home = {**os.environ, "HF_HOME": str(built.parent / "home")}
    for code in (without + plain + check, joined + check):
        done = run_python(["-c", code], home, built.parent)
        assert done.returncode == 0, done.stderr


def test_the_card_contains_the_numbers_of_the_build(built):
    card = (built / "README.md").read_text()
    folds = [datasets.load_dataset(str(built), f"fold{number}") for number in range(1, 6)]
    for number, fold in enumerate(folds, 1):
        sizes = " | ".join(str(len(fold[split])) for split in ("train", "validation", "test"))
        assert f"| `fold{number}` | {sizes} |" in card
    assert "| recordings | 30 |" in card


def test_merged_questions_have_the_same_type_and_ecgs(built):
    single = load_elm_dataset(built).with_format(None)
    merged = load_elm_dataset(built, merge_questions=3).with_format(None)
    by_id = {row["conversation_id"]: row for row in single}
    parts = [row["conversation_id"].split("+") for row in merged]
    assert sorted(name for names in parts for name in names) == sorted(by_id)
    assert max(map(len, parts)) == 3
    for row, names in zip(merged, parts):
        assert {tuple(by_id[name]["ecg_index"]) for name in names} == {tuple(row["ecg_index"])}
        assert len({by_id[name]["question_type"] for name in names}) == 1
        answers = [", ".join(by_id[name]["answer"]) for name in names]
        assert [m["content"][0]["text"] for m in row["messages"] if m["role"] == "assistant"] == answers
        ecg_items = [item for m in row["messages"] for item in m["content"] if item["type"] == "ecg"]
        assert len(ecg_items) == len(row["ecg_index"])
