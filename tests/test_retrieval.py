"""Indexes of ECGs and prompts with neighbours: training patients only, never the patient asked about, FAISS against numpy."""

import json
import shutil
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
from trl import ModelConfig
from typer.testing import CliRunner

from elm_hf.cli import app
from elm_hf.data.loading import load_elm_dataset
from elm_hf.data.seen_patients import SEEN_PATIENTS_NAME, stage_of, write_stages
from elm_hf.data.tables import load_records
from elm_hf.evaluation.evaluate import evaluate
from elm_hf.inference.prompt_batch import PromptBatch
from elm_hf.prepare.dataset import prepare_dataset
from elm_hf.retrieval.index import EcgIndex, EncoderVectors, build_index
from elm_hf.retrieval.options import RetrievalOptions
from elm_hf.retrieval.prompts import Retrieval, add_neighbours
from elm_hf.training import sft
from elm_hf.training.arguments import ElmScriptArguments
from elm_hf.training.stages import stages_with_this_one


pytest.importorskip("faiss", reason='an index of ECGs needs the extra "rag"')


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """Simulated ECGs of 10 s; patients have up to three."""
    folder = tmp_path_factory.mktemp("data") / "simulated"
    prepare_dataset("simulated_qa", folder, num_recordings=50)
    return folder


@pytest.fixture(scope="module")
def index(dataset, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("indexes") / "features"
    build_index(dataset, folder)
    return folder


def owners(dataset: Path) -> list[tuple[str, str]]:
    records = load_records(dataset)
    return list(zip(records["source"], records["patient_id"]))


def patients_in(dataset: Path, split: str, fold: int = 1) -> set[tuple[str, str]]:
    of_row = owners(dataset)
    return {of_row[row] for rows in load_elm_dataset(dataset, fold, split)["ecg_index"] for row in rows}


def entry_patients(folder: Path) -> list[tuple[str, str]]:
    entries = pd.read_parquet(folder / "records.parquet")
    return list(zip(entries["source"], entries["patient_id"]))


def retrieve(index: Path, dataset: Path, fold: int, ecg_index: list, **options) -> Retrieval:
    return Retrieval(RetrievalOptions(str(index), **options), dataset, fold, ecg_index)


def all_text(messages: list[dict]) -> str:
    return "\n".join(item.get("text") or "" for message in messages for item in message["content"])


def test_an_index_holds_the_training_patients_and_nobody_else(dataset, index):
    training, tested = patients_in(dataset, "train"), patients_in(dataset, "test")
    assert training and tested and not training & tested
    assert set(entry_patients(index)) == training
    assert len(entry_patients(index)) == sum(owner in training for owner in owners(dataset))
    settings = json.loads((index / "index.json").read_text())
    assert settings["patients"] == len(training) and settings["fold"] == "1" and settings["by"] == "features"


@pytest.mark.parametrize("split", ["train", "test"])
def test_neighbours_are_never_of_the_conversations_own_patients(dataset, index, split):
    rows, of_row, of_entry = load_elm_dataset(dataset, 1, split), owners(dataset), entry_patients(index)
    retrieval = retrieve(index, dataset, 1, rows["ecg_index"], k=5)
    checked = 0
    for ecg_index in {tuple(one) for one in rows["ecg_index"]}:
        own = {of_row[row] for row in ecg_index}
        for row in ecg_index:
            found = retrieval.neighbours(row, ecg_index)
            assert len(set(found)) == 5
            assert not {of_entry[entry] for entry in found} & own
            checked += 1
    assert checked > 10
    if split == "train":  # where patients' own ECGs are in the index, and would be the nearest
        assert max(Counter(of_entry).values()) > 1


def test_neighbours_are_the_nearest_by_numpy(dataset, index):
    rows, of_row, of_entry = load_elm_dataset(dataset, 1, "train"), owners(dataset), entry_patients(index)
    retrieval = retrieve(index, dataset, 1, rows["ecg_index"])
    vectors = EcgIndex(index).vectors(range(len(of_entry)))
    names = list(load_records(dataset)["record_id"])
    entries = list(pd.read_parquet(index / "records.parquet")["record_id"])
    for row in sorted({rows_of[0] for rows_of in rows["ecg_index"]})[:10]:
        distance = np.linalg.norm(vectors - vectors[entries.index(names[row])], axis=1)
        others = [entry for entry in np.argsort(distance) if of_entry[entry] != of_row[row]]
        assert retrieval.neighbours(row) == others[:3]


def test_neighbours_by_features_share_findings_more_often_than_others(dataset, index):
    records, rows = load_records(dataset), load_elm_dataset(dataset, 1, "test")
    retrieval = retrieve(index, dataset, 1, rows["ecg_index"])
    findings = [set(report.lower().rstrip(".").split(", ")) for report in retrieval._texts]
    alike, all_alike = [], []
    for row in sorted({row for one in rows["ecg_index"] for row in one}):
        own = set(records[row]["report"].lower().rstrip(".").split(", "))
        overlap = [len(own & found) / len(own | found) for found in findings]
        alike += [overlap[entry] for entry in retrieval.neighbours(row)]
        all_alike += overlap
    assert np.mean(alike) > np.mean(all_alike) + 0.1


def test_an_ecg_outside_the_index_gets_the_vector_it_would_have_in_it(dataset, index):
    records, found = load_records(dataset), EcgIndex(index)
    names = list(records["record_id"])
    row = names.index(found.entries["record_id"][0])
    ecg = np.array(records[row]["ecg"], dtype=np.float32) / 1000
    assert np.allclose(found.embed([ecg], 250), found.vectors([0]), atol=1e-3)


@pytest.mark.parametrize("location", ["user", "system"])
def test_where_the_neighbours_stand(dataset, index, location):
    rows = load_elm_dataset(dataset, 1, "test")
    retrieval = retrieve(index, dataset, 1, rows["ecg_index"], k=2, location=location)
    row = next(row for row in rows if len(row["ecg_index"]) == 1)
    before = row["messages"]
    messages = retrieval(before, row["ecg_index"])
    reports = [retrieval._texts[entry] for entry in retrieval.neighbours(row["ecg_index"][0])]
    expected = f"ECGs of other patients most like this ECG:\n1. {reports[0]}\n2. {reports[1]}"
    assert all_text(before) == all_text(row["messages"])  # the dataset's own is left alone
    if location == "user":
        assert [message["role"] for message in messages] == ["user", "assistant"]
        kinds = [item["type"] for item in messages[0]["content"]]
        assert kinds == ["ecg", "text", "text"]
        assert messages[0]["content"][1]["text"] == f"\n{expected}\n\n"
        assert messages[1] == before[1]
    else:
        assert messages[0] == {"role": "system", "content": [{"type": "text", "text": expected}]}
        assert messages[1:] == before
        prompted = retrieval([{"role": "system", "content": "Be brief."}, *before], row["ecg_index"])
        assert prompted[0]["content"] == f"Be brief.\n\n{expected}"


def test_two_ecgs_have_two_lists_and_none_has_none(dataset, index):
    rows = load_elm_dataset(dataset, 1, "test")
    retrieval = retrieve(index, dataset, 1, rows["ecg_index"], k=1, content="features")
    row = next(row for row in rows if len(row["ecg_index"]) == 2)
    text = all_text(retrieval(row["messages"], row["ecg_index"]))
    assert text.index("most like ECG 1:\n1. Measurements: heart rate") < text.index(
        "most like ECG 2:\n1. Measurements"
    )
    words = [{"role": "user", "content": "What is an ECG?"}]
    assert retrieval(words, []) == words


@pytest.mark.parametrize("location", ["user", "system"])
def test_a_dataset_with_neighbours_keeps_its_ecgs(dataset, index, location):
    rows = load_elm_dataset(dataset, 1, "train").select(range(5))
    retrieval = retrieve(index, dataset, 1, rows["ecg_index"], location=location)
    augmented = add_neighbours(rows, retrieval, system_prompt="Be brief.")
    for before, after in zip(rows, augmented):
        assert np.array_equal(before["ecgs"][0], after["ecgs"][0])
        prompted = [{"role": "system", "content": [{"type": "text", "text": "Be brief."}]}, *before["messages"]]
        assert all_text(after["messages"]) == all_text(retrieval(prompted, before["ecg_index"]))
        assert after["messages"][-1] == before["messages"][-1]


def test_an_index_over_patients_that_are_tested_on_is_refused(dataset, index):
    rows = load_elm_dataset(dataset, 2, "test")
    with pytest.raises(ValueError, match=r"holds \d+ of the \d+ validation and test patients of fold 2 of"):
        retrieve(index, dataset, 2, rows["ecg_index"])
    with pytest.raises(ValueError, match="test patients of fold"):  # their reports would be in the training prompts
        retrieve(index, dataset, 2, load_elm_dataset(dataset, 2, "train")["ecg_index"])


def test_vectors_of_an_elm_and_of_an_encoder(dataset, tiny_elm, tmp_path):
    from elm_hf.modeling.configuration_ecg_resnet import EcgResNetConfig
    from elm_hf.modeling.feature_extraction_ecg import EcgFeatureExtractor
    from elm_hf.modeling.modeling_ecg_resnet import EcgResNetModel

    settings = build_index(dataset, tmp_path / "elm", by="encoder", encoder=tiny_elm)
    assert not settings.feature_texts and settings.reports
    found = EcgIndex(tmp_path / "elm")
    vectors = found.vectors(range(len(found.entries)))
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    rows = load_elm_dataset(dataset, 1, "test")
    retrieval = retrieve(tmp_path / "elm", dataset, 1, rows["ecg_index"])
    assert len(retrieval.neighbours(rows["ecg_index"][0][0])) == 3
    with pytest.raises(ValueError, match="have no features; make it with elm-hf index --by features"):
        retrieve(tmp_path / "elm", dataset, 1, rows["ecg_index"], content="features")

    encoder = EcgResNetModel(EcgResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]))
    encoder.save_pretrained(tmp_path / "encoder")
    EcgFeatureExtractor(250, 2500, normalization="none").save_pretrained(tmp_path / "encoder")
    ecgs = np.random.default_rng(0).normal(0, 0.3, (33, 12, 2500)).astype(np.float32)
    vectors = EncoderVectors(tmp_path / "encoder")(ecgs, 250)
    assert vectors.shape[0] == 33 and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.allclose(vectors[32:], EncoderVectors(tmp_path / "encoder")(ecgs[32:], 250), atol=1e-5)


def test_records_without_reports_are_left_out_and_counted(dataset, index, tiny_elm, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    training = patients_in(dataset, "train")
    emptied = [row for row, owner in enumerate(owners(dataset)) if owner in training][:2]
    for file in sorted((copy / "records").glob("*.parquet")):
        table = datasets.Dataset.from_parquet(str(file))
        reports = [None if row in emptied else report for row, report in enumerate(table["report"])]
        table.remove_columns("report").add_column("report", reports, feature=table.features["report"]).to_parquet(file)
    settings = build_index(copy, tmp_path / "index", by="encoder", encoder=tiny_elm)
    assert settings.left_out["no report"] == 2
    assert settings.records == len(entry_patients(index)) - 2


def test_an_index_without_reports_is_refused_where_they_are_asked_for(dataset, index, tmp_path):
    copy = shutil.copytree(index, tmp_path / "index")
    settings = json.loads((copy / "index.json").read_text())
    (copy / "index.json").write_text(json.dumps({**settings, "reports": False}))
    with pytest.raises(ValueError, match='have no report; take "features" .--rag-content.'):
        retrieve(copy, dataset, 1, load_elm_dataset(dataset, 1, "test")["ecg_index"])


def test_the_command_and_its_errors(dataset, index, tiny_elm, tmp_path):
    command = CliRunner()
    result = command.invoke(
        app,
        [
            "index",
            str(dataset),
            "--output",
            str(tmp_path / "index"),
            "--fold",
            "2",
            "--by",
            "encoder",
            "--encoder",
            str(tiny_elm),
        ],
    )
    assert result.exit_code == 0, result.output
    assert set(entry_patients(tmp_path / "index")) == patients_in(dataset, "train", fold=2)
    assert (
        f"{len(entry_patients(tmp_path / 'index'))} records of {len(patients_in(dataset, 'train', 2))} patients"
        in result.output
    )
    for arguments, problem in [
        ((dataset, "--output", index), "is not empty"),
        ((dataset, "--output", tmp_path / "x", "--by", "encoder"), 'got "encoder" with None'),
        ((dataset, "--output", tmp_path / "x", "--by", "encoder", "--encoder", tmp_path / "none"), "none"),
        ((dataset, "--output", tmp_path / "x", "--fold", "7"), "no 'fold7'"),
        ((tmp_path / "nowhere", "--output", tmp_path / "x"), "nowhere"),
    ]:
        failed = command.invoke(app, ["index", *map(str, arguments)])
        assert failed.exit_code != 0 and problem in str(failed.exception), failed.exception
    rows = load_elm_dataset(dataset, 1, "test")
    with pytest.raises(FileNotFoundError, match="make one with elm-hf index"):
        retrieve(tmp_path / "nowhere", dataset, 1, rows["ecg_index"])
    with pytest.raises(ValueError, match='got "summary", "user" and 3'):
        retrieve(index, dataset, 1, rows["ecg_index"], content="summary")
    with pytest.raises(ValueError, match="too few for 500 neighbours of other patients"):
        retrieve(index, dataset, 1, rows["ecg_index"], k=500)


def test_an_evaluation_asks_with_neighbours(dataset, index, tiny_elm, tmp_path, monkeypatch):
    asked = []

    def listen(model, processor, conversations, max_new_tokens):
        asked.extend(conversations)
        return PromptBatch(model, processor, conversations, max_new_tokens)

    monkeypatch.setattr("elm_hf.evaluation.asker.PromptBatch", listen)
    options = RetrievalOptions(str(index), k=1, location="system")
    settings = {"limit": 4, "max_new_tokens": 2, "conditions": ("ecg", "none"), "num_occlusions": 0, "quiet": True}
    report = evaluate(tiny_elm, dataset, output=tmp_path / "report", retrieval=options, **settings)
    assert report["run"]["retrieval"] == {"index": index.name, "k": 1, "content": "report", "location": "system"}
    assert (
        "Prompts held the report of 1 similar ECGs of training patients" in (tmp_path / "report/report.md").read_text()
    )
    assert asked and all(one[-1]["role"] == "user" for one in asked)
    assert all(one[0]["role"] == "system" for one in asked)
    assert all("ECGs of other patients most like" in all_text(one[:1]) for one in asked)
    with pytest.raises(ValueError, match="report"):  # a folder of another run
        evaluate(tiny_elm, dataset, output=tmp_path / "report", **settings)


def test_patients_that_the_encoder_of_an_index_has_seen_are_seen(dataset, tiny_elm, tmp_path):
    """The fold's training patients may be in an index and in its encoder's training; an evaluation on them is refused."""
    encoder = shutil.copytree(tiny_elm, tmp_path / "encoder")
    training = {f"{source}/{patient}" for source, patient in patients_in(dataset, "train")}
    write_stages(encoder, [stage_of("pre-training", dataset, 1, training)])
    build_index(dataset, tmp_path / "index", by="encoder", encoder=encoder)
    settings = {"limit": 4, "max_new_tokens": 1, "conditions": ("ecg",), "num_occlusions": 0, "quiet": True}
    settings["retrieval"] = RetrievalOptions(str(tmp_path / "index"))
    with pytest.raises(ValueError, match=r"asked about \(pre-training of the index's encoder on simulated, fold 1\)"):
        evaluate(tiny_elm, dataset, split="train", **settings)
    seen = evaluate(tiny_elm, dataset, split="train", allow_seen_patients=True, **settings)["run"]["seen_patients"]
    assert seen["seen"] == seen["asked"] > 0 and "of the index's encoder on simulated, fold 1" in seen["sentence"]
    unseen = evaluate(tiny_elm, dataset, **settings)["run"]["seen_patients"]
    assert unseen["seen"] == 0 and unseen["known"]
    (encoder / SEEN_PATIENTS_NAME).unlink()
    unknown = evaluate(tiny_elm, dataset, **settings)["run"]["seen_patients"]
    assert not unknown["known"] and "are unknown (training of encoder unknown)" in unknown["sentence"]


def test_training_knows_what_the_encoder_of_an_index_has_seen(dataset, tiny_elm, tmp_path):
    encoder = shutil.copytree(tiny_elm, tmp_path / "encoder")
    build_index(dataset, tmp_path / "index", by="encoder", encoder=encoder)
    seen = {f"{source}/{patient}" for source, patient in patients_in(dataset, "test")}
    write_stages(encoder, [stage_of("pre-training", dataset, 1, seen)])
    script_args = ElmScriptArguments([str(dataset)], fold="1", rag_index=str(tmp_path / "index"))
    run = script_args, ModelConfig(model_name_or_path=str(tiny_elm)), script_args.rag_index
    with pytest.raises(
        ValueError, match=r"--rag_index .*: was trained on \d+ of the \d+ validation and test patients"
    ):
        stages_with_this_one("fine-tuning", *run)
    script_args.allow_seen_patients = True
    kinds = [stage.kind for stage in stages_with_this_one("fine-tuning", *run)]
    assert kinds[-2:] == ["pre-training of the index's encoder", "fine-tuning"]


def test_training_reads_neighbours_and_learns_none_of_their_words(dataset, index, tiny_elm, tmp_path):
    def trainer(fold: str):
        arguments = ["--model_name_or_path", str(tiny_elm), "--dataset", str(dataset), "--output_dir", str(tmp_path)]
        arguments += ["--fold", fold, "--rag_index", str(index), "--rag_k", "2", "--max_steps", "2", "--use_cpu"]
        arguments += ["--report_to", "none", "--save_strategy", "no", "--disable_tqdm", "true"]
        return sft.build_trainer(*sft.parse(arguments))

    ready = trainer("1")
    decode = ready.processing_class.tokenizer.decode
    for row in ready.train_dataset.select(range(10)):
        assert "ECGs of other patients most like" in decode(row["input_ids"])
        assert "ECGs of" not in decode([label for label in row["labels"] if label >= 0])
    assert np.isfinite(ready.train().training_loss)
    with pytest.raises(ValueError, match="validation and test patients of fold 2 of"):
        trainer("2")
    with pytest.raises(ValueError, match='got "summary", "user" and 3'):
        ElmScriptArguments(dataset=[str(dataset)], rag_index=str(index), rag_content="summary")
