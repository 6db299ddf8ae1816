"""`elm_hf.pretrain` on simulated ECGs: the loss of every encoder falls, held-out records, loading and resuming."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny_models import tiny_tokenizer
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForSequenceClassification, BertConfig, BertModel

from elm_hf.data.loading import load_elm_dataset
from elm_hf.data.tables import load_records
from elm_hf.modeling.configuration_elm import ECG_ENCODER_TYPES
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.modeling.feature_extraction_ecg import EcgFeatureExtractor
from elm_hf.prepare.dataset import prepare_dataset
from elm_hf.pretrain import __main__ as pretrain
from elm_hf.pretrain.data import EcgPretrainingCollator, load_pretraining_records
from elm_hf.training import resume
from elm_hf.training.augmentation import EcgAugmentation
from elm_hf.utils.auroc import macro_aurocs


ROOT = Path(__file__).resolve().parents[1]
VIT = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 32}
DECODER = {
    "decoder_hidden_size": 64,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 1,
    "decoder_intermediate_size": 32,
}
HUBERT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 40}
HUBERT |= {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
AUTOENCODER = VIT | DECODER | {"num_samples": 450}
ENCODERS = {
    "st_mem": AUTOENCODER | {"patch_size": 75},
    "mtae": AUTOENCODER | {"patch_size": 75},
    "mlae": AUTOENCODER,
    "merl": {"num_samples": 1000, "projection_dim": 16, "hidden_sizes": [8, 8, 8, 8]},
    "ecg_se_resnet": {"hidden_sizes": [8, 16], "depths": [1, 1], "kernel_sizes": [5, 3]},
    "ecg_resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]},
    "net1d": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "group_size": 4, "num_samples": 1000},
    "ecg_fm": HUBERT | {"conv_dim": [16] * 4, "piece_samples": 500},
    "hubert_ecg": HUBERT | {"conv_dim": [16] * 5, "piece_samples": 200},
    "ecg_jepa": {
        "num_samples": 500,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    },
    "ecg_cpc": {"num_samples": 480, "hidden_size": 32, "num_hidden_layers": 1},
    "ecg_coca": VIT | {"num_samples": 1000, "hidden_size": 128, "num_attention_heads": 2},
}
ONE_PLOT = ("--num_plots", "1")
CLASSIFIERS = ("ecg_resnet", "net1d", "ecg_fm", "hubert_ecg", "ecg_jepa", "ecg_cpc", "ecg_coca")


@pytest.fixture(scope="module")
def text_model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    config = BertConfig(
        vocab_size=512, hidden_size=32, num_hidden_layers=1, num_attention_heads=1, intermediate_size=32
    )
    BertModel(config).save_pretrained(folder)
    tokenizer = tiny_tokenizer("opt")
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def reports(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "reports"
    prepare_dataset("simulated_reports", folder, seconds=2, num_recordings=30)
    return folder


def run(dataset: Path, output: Path, encoder: str, text_model: Path, *more: str) -> Path:
    output.parent.mkdir(exist_ok=True)
    arguments = ["--dataset", str(dataset), "--encoder", encoder, "--output_dir", str(output), "--max_steps", "3"]
    arguments += ["--per_device_train_batch_size", "6", "--learning_rate", "1e-3", "--report_to", "none", "--use_cpu"]
    arguments += ["--text_model", str(text_model), "--save_strategy", "no", "--disable_tqdm", "true", *more]
    if encoder in ENCODERS:
        config = output.parent / f"{encoder}.json"
        config.write_text(json.dumps(ENCODERS[encoder]))
        arguments += ["--encoder_config", str(config)]
    parsed = pretrain.parse(arguments)
    pretrain.train(pretrain.build_trainer(*parsed), parsed[0].dataset)
    return output


def losses(checkpoint: Path) -> list[float]:
    history = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_loss_of_every_encoder_falls_and_it_loads(encoder, reports, text_model, tmp_path):
    fold = ("--fold", "1") if encoder in CLASSIFIERS else ()
    more = ("--save_strategy", "steps", "--save_steps", "40", "--max_steps", "40", "--logging_steps", "1")
    plots = () if encoder == "st_mem" else ONE_PLOT
    folder = run(reports, tmp_path / "out", encoder, text_model, *more, *fold, *plots)
    history = losses(folder / "checkpoint-40")
    assert sum(history[-8:]) < 0.97 * sum(history[:8])
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    ecg = load_elm_dataset(reports)[0]["ecgs"][0]
    inputs = extractor(ecg, sampling_rate=250, lead_names=[list(LEADS)], return_tensors="pt")
    with torch.no_grad():
        tokens = AutoModel.from_pretrained(folder).eval()(**inputs).last_hidden_state
    assert tokens.isfinite().all() and tokens.std() > 0
    pictures = sorted(folder.glob("**/reconstruction-*.png"))
    assert len(pictures) == {"st_mem": 8, "mtae": 2, "mlae": 2}.get(encoder, 0)
    for picture in pictures:
        assert Image.open(picture).height > Image.open(picture).width / 2


@pytest.mark.parametrize("lost", ["run.json", "model.safetensors"])
def test_a_killed_pretraining_resumes(lost, reports, text_model, tmp_path, capsys, monkeypatch):
    """The last checkpoint of a run that was killed while saving has no `run.json`, which is written last."""
    drawn = []
    write = resume.write_atomically

    def write_last(path, text):
        drawn.append(len(list(path.parent.glob("reconstruction-*.png"))))
        write(path, text)

    monkeypatch.setattr(resume, "write_atomically", write_last)
    settings = ("--save_strategy", "steps", "--save_steps", "2", "--max_steps", "4", "--logging_steps", "1", *ONE_PLOT)
    whole = run(reports, tmp_path / "out", "mtae", text_model, *settings)
    expected, weights = losses(whole / "checkpoint-4"), load_file(whole / "model.safetensors")
    (whole / "checkpoint-4" / lost).unlink()
    if lost == "run.json":
        (whole / "checkpoint-4" / "optimizer.pt").unlink()
    again = run(reports, tmp_path / "out", "mtae", text_model, *settings)
    assert f"Continuing from {whole / 'checkpoint-2'}\n" in capsys.readouterr().out
    assert losses(again / "checkpoint-4") == expected
    assert drawn == [1, 1, 1]  # after steps 2, 4 and, again, 4
    assert all(torch.equal(weights[name], found) for name, found in load_file(again / "model.safetensors").items())
    with pytest.raises(ValueError, match="checkpoint-4 belongs to another run: learning_rate 0.001 there, 0.01 here"):
        run(reports, tmp_path / "out", "mtae", text_model, *settings, "--learning_rate", "1e-2")


def test_pretraining_continues_from_a_checkpoint(reports, text_model, tmp_path):
    first = run(reports, tmp_path / "first", "st_mem", text_model, *ONE_PLOT)
    second = run(reports, tmp_path / "second", str(first), text_model, *ONE_PLOT)
    before, after = (load_file(folder / "model.safetensors") for folder in (first, second))
    assert before.keys() == after.keys() and not torch.equal(
        before["st_mem.layernorm.weight"], after["st_mem.layernorm.weight"]
    )


def test_a_pretraining_without_steps_is_refused(reports, text_model, tmp_path):
    with pytest.raises(ValueError, match="--max_steps 0 trains nothing"):
        run(reports, tmp_path / "out", "mtae", text_model, "--max_steps", "0")
    assert not (tmp_path / "out").exists()


def test_the_encoder_that_a_run_starts_from_is_not_overwritten(reports, text_model, tmp_path, monkeypatch):
    encoder = run(reports, tmp_path / "encoder", "mtae", text_model, "--num_plots", "0", "--max_steps", "1")
    before = {path: path.read_bytes() for path in encoder.rglob("*") if path.is_file()}
    monkeypatch.chdir(encoder)
    with pytest.raises(ValueError, match="--output_dir .*encoder is the checkpoint that training starts from"):
        run(reports, encoder, "../encoder", text_model, "--num_plots", "0")
    assert {path: path.read_bytes() for path in encoder.rglob("*") if path.is_file()} == before


def test_the_test_patients_of_a_fold_are_omitted_and_its_validation_patients_are_for_evaluation(reports):
    table = load_records(reports)
    patients = np.array(table["patient_id"])
    of_split = {
        split: np.isin(patients, [name for row in load_elm_dataset(reports, 1, split) for name in row["patient_ids"]])
        for split in ("train", "validation", "test")
    }
    records = load_pretraining_records([reports], fold=1)
    ecgs = table.with_format("numpy")["ecg"]
    assert records.num_left_out == of_split["test"].sum() > 0
    for split, expected in ((records.train, of_split["train"]), (records.validation, of_split["validation"])):
        assert len(split) == expected.sum() > 0
        for row, ecg in zip(split, np.stack(list(ecgs))[expected]):
            np.testing.assert_allclose(row["ecg"], ecg / 1000, atol=1e-6)


def test_patients_in_no_split_of_an_official_fold_are_not_trained_on(reports, tmp_path):
    """They may be test patients without a conversation: PTB-XL has a few without a report."""
    folder = Path(shutil.copytree(reports, tmp_path / "official"))
    (folder / "fold1").rename(folder / "official")
    card = (folder / "README.md").read_text()
    card = card.replace("config_name: fold1\n", "config_name: official\n").replace("path: fold1/", "path: official/")
    (folder / "README.md").write_text(card)
    (file,) = (folder / "official").glob("test-*.parquet")
    table = pq.read_table(file).to_pandas()
    unlisted = table["patient_ids"][0][0]
    table[[unlisted not in patients for patients in table["patient_ids"]]].to_parquet(file)
    owners = load_records(folder)["patient_id"]
    records = load_pretraining_records([folder], "official")
    used = {owners[row] for split in (records.train, records.validation) for row in split["row"]}
    assert unlisted in owners and unlisted not in used


def test_validation_records_are_neither_cropped_at_random_nor_augmented(reports):
    records = load_pretraining_records([reports], fold=1)
    collator = EcgPretrainingCollator(EcgFeatureExtractor(num_samples=300), augmentation=EcgAugmentation(noise=0.2))
    for split, same in ((records.validation, True), (records.train, False)):
        values = []
        for collator.epoch in range(2):
            values.append(collator([split[0]])["ecg_values"])
        assert torch.equal(*values) == same


def test_the_class_of_a_record_is_its_only_superclass(reports):
    with pytest.raises(ValueError, match="name a fold"):
        load_pretraining_records([reports], target="class")
    strata = {
        row["record_ids"][0]: row["stratum"]
        for s in ("train", "validation", "test")
        for row in load_elm_dataset(reports, 1, s)
    }
    tested = {row["record_ids"][0] for row in load_elm_dataset(reports, 1, "test")}
    records = load_pretraining_records([reports], fold=1, target="class")
    single = {name for name, stratum in strata.items() if stratum != "none" and "+" not in stratum} - tested
    assert len(records.train) + len(records.validation or []) == len(single)
    assert records.num_left_out == len(strata) - len(single)


def test_labels_are_learned_and_measured_on_validation_patients(reports, text_model, tmp_path):
    more = ("--fold", "1", "--eval_strategy", "steps", "--eval_steps", "3", "--crop_seconds", "1")
    best = ("--save_strategy", "steps", "--save_steps", "3", "--load_best_model_at_end", "true")
    chosen = (*best, "--metric_for_best_model", "auroc_all")
    folder = run(reports, tmp_path / "out", "ecg_se_resnet", text_model, *more, *chosen)
    history = json.loads((next(folder.glob("checkpoint-*")) / "trainer_state.json").read_text())["log_history"]
    measured = next(entry for entry in history if "eval_auroc_all" in entry)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert model.config.problem_type == "multi_label_classification"
    found = load_pretraining_records([reports], 1, "labels")
    tasks, validation = found.tasks, found.validation
    assert [model.config.id2label[number] for number in range(model.config.num_labels)] == tasks.classes
    batch = EcgPretrainingCollator(EcgFeatureExtractor.from_pretrained(folder))(list(validation))
    labels = load_records(reports)["labels"]
    for row, target in zip(validation, batch["labels"]):
        assert {tasks.classes[number] for number in target.nonzero().ravel()} == set(tasks.classes) & set(
            labels[row["row"]]
        )
    with torch.no_grad():
        logits = model(batch["ecg_values"], ecg_lead_mask=batch["ecg_lead_mask"]).logits.numpy()
    expected = macro_aurocs(logits, batch["labels"].numpy(), tasks.tasks)["all"][0]
    assert measured["eval_auroc_all"] == pytest.approx(expected, abs=1e-6)
    with pytest.raises(
        ValueError, match="--target labels: st_mem encoders can learn reconstruction, without --target"
    ):
        run(reports, tmp_path / "other", "st_mem", text_model, "--target", "labels")
    with pytest.raises(ValueError, match='is "auroc_rhythm"; expected loss or auroc_all'):
        other = (*more, *best, "--metric_for_best_model", "auroc_rhythm")
        run(reports, tmp_path / "other", "ecg_se_resnet", text_model, *other)


def test_other_models_than_ecg_encoders_are_refused(reports, text_model, tmp_path):
    with pytest.raises(ValueError, match='"bert" is not an ECG encoder; expected ecg_resnet, '):
        run(reports, tmp_path / "out", str(text_model), text_model)
    with pytest.raises(FileNotFoundError, match="st_men: no such folder.*Types of new encoders: .*st_mem"):
        run(reports, tmp_path / "out", "st_men", text_model)


def test_records_too_short_for_the_encoder_are_refused_before_training(text_model, tmp_path):
    prepare_dataset("simulated_reports", tmp_path / "short", seconds=1, num_recordings=10)
    with pytest.raises(ValueError, match="the ECG is 1 s long, the model reads 1.8 s"):
        run(tmp_path / "short", tmp_path / "out", "st_mem", text_model)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("recipe", sorted(path.stem for path in (ROOT / "recipes").glob("pretrain_*.yaml")))
def test_recipes_are_valid(recipe):
    script_args, training_args, _ = pretrain.parse(["--config", recipe, "--use_cpu"])
    assert script_args.encoder in ECG_ENCODER_TYPES
    assert training_args.learning_rate > 0 and training_args.num_train_epochs >= 20


def test_the_benchmark_selects_on_validation_patients():
    script_args, training_args, augmentation = pretrain.parse(["--config", "ptb_xl_benchmark/encoder", "--use_cpu"])
    assert (script_args.encoder, script_args.target, script_args.fold) == ("ecg_se_resnet", "labels", "official")
    assert script_args.crop_seconds == 2.5 and augmentation.amplitude_scale == 0.25
    assert training_args.load_best_model_at_end and training_args.metric_for_best_model == "auroc_all"
    assert training_args.greater_is_better and training_args.save_strategy == training_args.eval_strategy == "epoch"
