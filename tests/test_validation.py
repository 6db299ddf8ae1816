"""Evaluation on the validation split during training, and patients that several datasets or stages of training share."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hub_server import HubServer
from safetensors.torch import load_file
from transformers import AutoProcessor
from trl import SFTConfig

from elm_hf.checkpoints.create import create_elm
from elm_hf.checkpoints.ecg_byte import train_ecg_byte_tokenizer
from elm_hf.checkpoints.load import load_checkpoint
from elm_hf.checkpoints.merge import merge_adapter
from elm_hf.checkpoints.publish import publish_model
from elm_hf.data.loading import load_elm_dataset
from elm_hf.data.messages import fill_ecgs, prompt_of
from elm_hf.data.seen_patients import SEEN_PATIENTS_NAME, Stage, check_not_seen, overlap, read_stages, write_stages
from elm_hf.evaluation.evaluate import evaluate
from elm_hf.inference.generation import answer
from elm_hf.modeling.modeling_elm import ElmForCausalLM
from elm_hf.prepare.dataset import prepare_dataset
from elm_hf.pretrain import __main__ as pretrain
from elm_hf.serving.prompt_embeddings import save_language_model
from elm_hf.training import sft
from elm_hf.training.collator import ElmDataCollator
from elm_hf.training.cost_file import COSTS_NAME
from elm_hf.training.validation import check_asking, check_evaluation


QUICK = ("--report_to", "none", "--use_cpu", "--disable_tqdm", "true", "--logging_steps", "1")


def train(model: Path, dataset: Path, output: Path, *more: str, fold: int = 1):
    """Trains in this process on one type of questions and returns the trainer."""
    given = ["--model_name_or_path", str(model), "--dataset", str(dataset), "--output_dir", str(output), *QUICK]
    given += ["--fold", str(fold), "--question_types", "single-verify", "--per_device_train_batch_size", "4", *more]
    trainer = sft.build_trainer(*sft.parse(given))
    sft.train(trainer)
    return trainer


def patients(dataset: Path, fold: int, split: str) -> set[str]:
    """The patients of a split, from the files alone."""
    rows = pq.read_table(dataset / f"fold{fold}" / f"{split}-00000-of-00001.parquet", columns=["patient_ids"])
    return {f"simulated_qa/{name}" for names in rows["patient_ids"].to_pylist() for name in names}


def digest(patient: str) -> int:
    return int.from_bytes(hashlib.blake2b(patient.encode(), digest_size=8).digest(), "little")


@pytest.fixture(scope="module")
def dealt_otherwise(tmp_path_factory) -> Path:
    """The same ECGs as `simulated_dataset` in other folds."""
    folder = tmp_path_factory.mktemp("other") / "otherwise"
    prepare_dataset("simulated_qa", folder, seconds=2, num_recordings=40, num_folds=3)
    return folder


@pytest.fixture(scope="module")
def trained(tiny_elm, simulated_dataset, tmp_path_factory) -> tuple[Path, list[dict]]:
    """An adapter trained with augmentation, evaluated after each of two steps, and its log."""
    folder = tmp_path_factory.mktemp("trained") / "adapter"
    evaluating = ("--eval_strategy", "steps", "--eval_steps", "1", "--per_device_eval_batch_size", "1")
    best = ("--save_strategy", "steps", "--save_steps", "1", "--load_best_model_at_end")
    trainer = train(
        *(tiny_elm, simulated_dataset, folder, "--max_steps", "2", "--learning_rate", "1e-2", "--noise", "0.3"),
        *(*evaluating, *best, "--eval_exact_match", "8", "--metric_for_best_model", "exact_match"),
        *("--use_peft", "--trainable", "projector", "llm", "--bf16", "false"),
    )
    return folder, trainer.state.log_history


@pytest.fixture(scope="module")
def merged(trained, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("merged") / "merged"
    merge_adapter(trained[0], folder)
    return folder


def test_loss_and_exact_match_are_those_of_the_validation_questions(trained, merged, simulated_dataset):
    """The best of two checkpoints is loaded at the end; its metrics are computed again, one question after another."""
    log = [entry for entry in trained[1] if "eval_loss" in entry]
    assert len(log) == 2
    best = max(log, key=lambda entry: entry["eval_exact_match"])
    model, processor = ElmForCausalLM.from_pretrained(merged).eval(), AutoProcessor.from_pretrained(merged)
    rows = load_elm_dataset(simulated_dataset, 1, "validation", question_types=["single-verify"])
    collator = ElmDataCollator(processor, SFTConfig.max_length)
    with torch.no_grad():
        found = [model(**collator([row])).loss.item() for row in rows]
    assert np.mean(found) == pytest.approx(best["eval_loss"], rel=1e-4)
    asked = rows.select(np.linspace(0, len(rows) - 1, 8).astype(int))
    right = 0
    for row in asked:
        prompt = fill_ecgs(prompt_of(row["messages"]), row["ecgs"], row["sampling_rate"])
        (text,) = answer(model, processor, [prompt], 32)
        right += text.lower().strip().rstrip(".") == row["answer"][0].lower()
    assert best["eval_exact_match"] == right / 8


def test_training_ends_when_the_loss_no_longer_improves(tiny_elm, simulated_dataset, tmp_path):
    trainer = train(
        *(tiny_elm, simulated_dataset, tmp_path / "out", "--max_steps", "6", "--learning_rate", "0"),
        *("--eval_strategy", "steps", "--eval_steps", "1", "--save_strategy", "steps", "--save_steps", "1"),
        *("--load_best_model_at_end", "--early_stopping_patience", "2", "--save_total_limit", "1"),
    )
    assert trainer.state.global_step == 3 and trainer.state.best_global_step == 1
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny_elm, tmp_path / "out"))
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("options", "patience", "message"),
    [
        ({"do_predict": True}, None, "--do_predict has no effect here"),
        ({"eval_packing": True}, None, "--eval_packing has no effect here"),
        ({"batch_eval_metrics": True, "eval_strategy": "epoch"}, None, "--batch_eval_metrics has no effect here"),
        ({"do_eval": True}, None, "--do_eval needs an evaluation during training; add --eval_strategy"),
        ({}, 2, "--early_stopping_patience needs an evaluation"),
        ({"eval_strategy": "epoch"}, 2, "add --load_best_model_at_end"),
        ({"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}, 0, "is 0; expected 1"),
        (
            {"eval_strategy": "epoch", "metric_for_best_model": "accuracy"},
            None,
            '--metric_for_best_model is "accuracy"; expected loss',
        ),
    ],
)
def test_options_without_effect_are_refused_by_name(options, patience, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        check_evaluation(SFTConfig(tmp_path, bf16=False, use_cpu=True, report_to="none", **options), patience)


def test_exact_match_needs_an_evaluation(tmp_path):
    with pytest.raises(ValueError, match="--eval_exact_match needs an evaluation during training"):
        check_asking(5, None, SFTConfig(tmp_path, bf16=False, use_cpu=True, report_to="none"))


def test_a_dataset_of_an_earlier_version_trains_but_has_nothing_to_evaluate_on(tiny_elm, earlier_version, tmp_path):
    assert train(tiny_elm, earlier_version, tmp_path / "out", "--max_steps", "1").state.global_step == 1
    with pytest.raises(ValueError, match="no split 'validation'; .* build the dataset again"):
        train(tiny_elm, earlier_version, tmp_path / "again", "--eval_strategy", "epoch")
    given = ["--dataset", str(earlier_version), "--encoder", "mtae", "--output_dir", str(tmp_path / "encoder")]
    with pytest.raises(ValueError, match="no split 'validation'; .* build the dataset again"):
        pretrain.build_trainer(*pretrain.parse([*given, *QUICK, "--fold", "1", "--eval_strategy", "epoch"]))


@pytest.mark.parametrize("streaming", [False, True])
def test_a_training_patient_of_one_dataset_is_not_held_out_by_another(simulated_dataset, dealt_otherwise, streaming):
    one, other = simulated_dataset, dealt_otherwise
    held_out = {patient for split in ("validation", "test") for patient in patients(other, 1, split)}
    number = len(patients(one, 1, "train") & held_out)
    assert number > 0
    with pytest.raises(
        ValueError, match=rf"{number} training patients of .*simulated are among the {len(held_out)} val"
    ):
        load_elm_dataset([one, other], streaming=streaming)
    load_elm_dataset([one, one], streaming=streaming)


def test_training_and_pretraining_refuse_such_datasets(tiny_elm, simulated_dataset, dealt_otherwise, tmp_path):
    both = ["--dataset", str(simulated_dataset), str(dealt_otherwise), "--output_dir", str(tmp_path), *QUICK]
    with pytest.raises(ValueError, match="training patients of .*simulated are among the"):
        sft.build_trainer(*sft.parse([*both, "--model_name_or_path", str(tiny_elm)]))
    with pytest.raises(ValueError, match="training patients of .*simulated are among the"):
        pretrain.build_trainer(*pretrain.parse([*both, "--encoder", "mtae", "--fold", "1"]))


def test_a_checkpoint_has_hashes_of_its_training_patients(tiny_elm, trained, merged, simulated_dataset):
    assert read_stages(tiny_elm) == []
    expected = sorted(map(digest, patients(simulated_dataset, 1, "train")))
    for folder in (trained[0], trained[0] / "checkpoint-1", merged):
        (stage,) = read_stages(folder)
        assert (stage.kind, stage.dataset, stage.fold) == ("fine-tuning", simulated_dataset.name, "1")
        assert stage.patients.tolist() == expected
    assert SEEN_PATIENTS_NAME in publish_model(merged, "user/model", dry_run=True).sizes


def test_an_evaluation_refuses_patients_seen_in_training(merged, simulated_dataset, tmp_path):
    asked = patients(simulated_dataset, 2, "test")
    number = len(asked & patients(simulated_dataset, 1, "train"))
    options = {"limit": 400, "conditions": ["ecg"], "max_new_tokens": 1, "num_occlusions": 0, "quiet": True}
    with pytest.raises(
        ValueError, match=rf"merged: was trained on {number} of the {len(asked)} patients asked about \(fine-tuning on"
    ):
        evaluate(merged, simulated_dataset, 2, **options)
    options["limit"] = 20
    report = evaluate(merged, simulated_dataset, 2, output=tmp_path, allow_seen_patients=True, **options)
    seen = report["run"]["seen_patients"]
    assert 0 < seen["seen"] <= seen["asked"] and seen["known"]
    assert f"The model was trained on {seen['seen']} of the {seen['asked']} patients" in (
        (tmp_path / "report.md").read_text()
    )
    unseen = evaluate(merged, simulated_dataset, 1, **options)["run"]["seen_patients"]
    assert unseen["seen"] == 0 and unseen["known"] and unseen["sentence"] is None


def test_training_refuses_a_start_that_has_seen_the_test_patients(merged, simulated_dataset, tmp_path):
    held_out = {patient for split in ("validation", "test") for patient in patients(simulated_dataset, 3, split)}
    number = len(held_out & patients(simulated_dataset, 1, "train"))
    with pytest.raises(
        ValueError, match=rf"was trained on {number} of the {len(held_out)} validation and test patients of fold 3"
    ):
        train(merged, simulated_dataset, tmp_path / "out", fold=3)
    train(merged, simulated_dataset, tmp_path / "out", "--max_steps", "1", "--allow_seen_patients", "true", fold=3)
    assert [stage.fold for stage in read_stages(tmp_path / "out")] == ["1", "3"]


def test_a_run_does_not_continue_on_other_patients(tiny_elm, simulated_dataset, dealt_otherwise, tmp_path):
    """The dataset is built again in the same folder with other folds: test patients of these are in the checkpoint."""
    data, output = tmp_path / "data", tmp_path / "out"
    saving = ("--max_steps", "1", "--save_strategy", "steps", "--save_steps", "1")
    shutil.copytree(simulated_dataset, data)
    train(tiny_elm, data, output, *saving)
    train(tiny_elm, data, output, *saving)
    shutil.rmtree(data)
    shutil.copytree(dealt_otherwise, data)
    assert patients(simulated_dataset, 1, "train") & patients(data, 1, "test")
    with pytest.raises(
        ValueError, match="checkpoint-1: was trained on other patients than this run, because the data"
    ):
        train(tiny_elm, data, output, *saving)
    train(tiny_elm, data, output, *saving, "--resume_from_checkpoint", "false")
    (stage,) = read_stages(output)
    assert stage.patients.tolist() == sorted(map(digest, patients(data, 1, "train")))


def test_an_elm_has_the_history_of_its_encoder(simulated_dataset, tiny_elm, tmp_path):
    config = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 32}
    config |= {"num_samples": 450, "patch_size": 75} | {f"decoder_{name}": value for name, value in config.items()}
    (tmp_path / "encoder.json").write_text(json.dumps(config))
    given = ["--dataset", str(simulated_dataset), "--encoder", "mtae", "--fold", "2", "--max_steps", "1", *QUICK]
    given += ["--encoder_config", str(tmp_path / "encoder.json"), "--num_plots", "0"]
    encoder = tmp_path / "encoder"
    pretrain.main([*given, "--output_dir", str(encoder)])
    (tmp_path / "elm.json").write_text(
        json.dumps({"text_config": json.loads((tiny_elm / "config.json").read_text())["text_config"]})
    )
    options = {"config": tmp_path / "elm.json", "tokenizer": str(tiny_elm), "num_ecg_tokens": 4}
    create_elm(tmp_path / "elm", encoder=str(encoder), **options)
    (stage,) = read_stages(tmp_path / "elm")
    assert (stage.kind, stage.fold) == ("pre-training", "2")
    assert stage.patients.tolist() == sorted(map(digest, patients(simulated_dataset, 2, "train")))
    (encoder / SEEN_PATIENTS_NAME).unlink()  # as if it had been converted from another project's checkpoint
    create_elm(tmp_path / "unknown", encoder=str(encoder), **options)
    (stage,) = read_stages(tmp_path / "unknown")
    assert (stage.kind, stage.dataset, stage.patients) == ("unknown", "encoder", None)


def test_an_elm_has_the_history_of_its_ecg_tokenizer(simulated_dataset, tiny_elm, tmp_path):
    tokenizer, elm = tmp_path / "ecg_byte", tmp_path / "elm"
    train_ecg_byte_tokenizer(simulated_dataset, 50, tokenizer, num_records=1000, fold=2)
    text_config = json.loads((tiny_elm / "config.json").read_text())["text_config"]
    (tmp_path / "elm.json").write_text(json.dumps({"text_config": text_config}))
    options = {"config": tmp_path / "elm.json", "tokenizer": str(tiny_elm), "representation": "symbol", "seconds": 2}
    create_elm(elm, ecg_tokenizer=str(tokenizer), max_ecg_tokens=60, **options)
    (stage,) = read_stages(elm)
    seen = patients(simulated_dataset, 2, "train")
    assert (stage.kind, stage.fold) == ("tokenizer training", "2")
    assert stage.patients.tolist() == sorted(map(digest, seen))
    asked = patients(simulated_dataset, 1, "test")
    with pytest.raises(
        ValueError,
        match=rf"trained on {len(asked & seen)} of the {len(asked)} patients asked about \(tokenizer training",
    ):
        evaluate(elm, simulated_dataset, 1, quiet=True)
    with pytest.raises(ValueError, match=r"validation and test patients of fold 1 \(tokenizer training on simulated"):
        train(elm, simulated_dataset, tmp_path / "out")
    (tokenizer / SEEN_PATIENTS_NAME).unlink()  # as if it had been converted from a published one
    create_elm(tmp_path / "unknown", ecg_tokenizer=str(tokenizer), max_ecg_tokens=60, **options)
    (stage,) = read_stages(tmp_path / "unknown")
    assert (stage.kind, stage.dataset, stage.patients) == ("unknown", "ecg_byte", None)


def test_an_elm_has_the_history_of_its_llm(merged, tmp_path):
    save_language_model(*load_checkpoint(merged, device="cpu"), tmp_path / "llm")
    create_elm(tmp_path / "elm", llm=str(tmp_path / "llm"), num_ecg_tokens=4, seconds=2)
    (expected,) = read_stages(merged)
    (stage,) = read_stages(tmp_path / "elm")
    assert str(stage) == str(expected) and stage.patients.tolist() == expected.patients.tolist()
    (tmp_path / "llm" / SEEN_PATIENTS_NAME).unlink()  # an LLM of others
    create_elm(tmp_path / "new", llm=str(tmp_path / "llm"), num_ecg_tokens=4, seconds=2)
    assert read_stages(tmp_path / "new") == []


def test_a_merged_model_has_the_history_of_its_base(trained, tiny_elm, simulated_dataset, tmp_path):
    train(tiny_elm, simulated_dataset, tmp_path / "other", "--max_steps", "1", fold=2)
    merge_adapter(trained[0], tmp_path / "merged", base=tmp_path / "other")
    assert [stage.fold for stage in read_stages(tmp_path / "merged")] == ["2", "1"]


def test_a_missing_file_on_the_hub_is_unknown_training_and_a_missing_revision_is_an_error():
    code = """
        from huggingface_hub import HfApi
        from huggingface_hub.errors import RevisionNotFoundError
        from elm_hf.data.seen_patients import read_stages

        HfApi().create_repo("user/elm")
        HfApi().upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id="user/elm")
        print(read_stages("user/elm"))
        for name, revision in (("user/elm", "v9"), ("user/elm@v9", None)):
            try:
                print(read_stages(name, revision))
            except RevisionNotFoundError:
                print("no revision")
    """
    with HubServer() as hub:
        assert hub.run_client(code).splitlines() == ["None", "no revision", "no revision"]


def test_what_is_known_about_seen_patients(tmp_path):
    found = overlap(None, {"a/1", "a/2"})
    assert (found.seen, found.asked, found.known) == (0, 2, False) and "are unknown; some" in found.sentence
    stages = [Stage("pre-training", "a", None, np.array(sorted([digest("a/1"), digest("a/3")]), np.uint64))]
    found = overlap([*stages, Stage("unknown", "encoder", None, None)], {"a/1", "a/2", "b/3"})
    assert (found.seen, found.asked, found.known) == (1, 3, False)
    assert found.stages == ["pre-training on a", "training of encoder unknown"]
    write_stages(tmp_path, stages)
    with pytest.raises(ValueError, match=r"elm: was trained on 1 of the 2 patients \(pre-training on a\); do this"):
        check_not_seen("elm", read_stages(tmp_path), {"a/1", "a/2"}, "patients", "do this")
    (tmp_path / SEEN_PATIENTS_NAME).write_text("no table")
    with pytest.raises(ValueError, match="not a list of the patients of a training"):
        read_stages(tmp_path)


def test_a_run_that_has_stopped_early_takes_no_further_step(tiny_elm, simulated_dataset, tmp_path):
    """The patience and the costs of a resumed run are those of the whole run."""
    options = ("--eval_strategy", "steps", "--eval_steps", "1", "--save_steps", "1", "--max_steps", "4")
    options += (
        "--load_best_model_at_end",
        "--early_stopping_patience",
        "1",
        "--eval_exact_match",
        "2",
        "--eval_samples",
        "0",
    )
    options += ("--metric_for_best_model", "exact_match", "--learning_rate", "1e-9")  # too small for another answer
    seconds = []
    for _ in range(2):
        trainer = train(tiny_elm, simulated_dataset, tmp_path / "out", *options)
        assert trainer.state.global_step == 2
        seconds.append(json.loads((tmp_path / "out" / COSTS_NAME).read_text())["seconds"])
    assert seconds[1] > 0.5 * seconds[0]  # without what came after the last checkpoint
