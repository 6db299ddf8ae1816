"""`elm-hf evaluate-encoder`: macro AUROC of classifiers and linear probes against scikit-learn, and cards of encoders."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TINY_LLM
from huggingface_hub import ModelCard
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from transformers import AutoModel, AutoModelForSequenceClassification
from trl import ModelConfig
from typer.testing import CliRunner

from elm_hf.checkpoints.create import create_elm
from elm_hf.checkpoints.load import load_feature_extractor
from elm_hf.classification import linear_probe
from elm_hf.classification.encoder_card import with_section
from elm_hf.classification.encoder_evaluation import evaluate_encoder
from elm_hf.classification.encoder_records import LabelledRecords
from elm_hf.classification.encoder_scores import task_scores
from elm_hf.classification.linear_probe import fit_probes, rows_of_share
from elm_hf.classification.measured_features import MeasuredFeatures, features_of_values
from elm_hf.cli import app
from elm_hf.data.label_tasks import LabelTasks, label_tasks, ptb_xl_tasks, tasks_of_classes
from elm_hf.data.seen_patients import read_stages
from elm_hf.data.tables import load_records
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.modeling.ecg_measurements import measure_ecg
from elm_hf.prepare.dataset import prepare_dataset
from elm_hf.pretrain import __main__ as pretrain
from elm_hf.scoring.intervals import PatientBootstrap
from elm_hf.training.arguments import ElmScriptArguments
from elm_hf.training.sft import stages_with_this_one
from elm_hf.utils.reports import REPORT_SCHEMA


ROOT = Path(__file__).resolve().parents[1]
BENCHMARK = ROOT / "recipes" / "ptb_xl_benchmark"
STRENGTHS = (1.0, 0.1)
TINY = {"hidden_sizes": [8, 16], "depths": [1, 1], "kernel_sizes": [5, 3]}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "labelled"
    prepare_dataset("simulated_reports", folder, seconds=2, num_recordings=80, num_folds=2)
    return folder


@pytest.fixture(scope="module")
def encoder(dataset, tmp_path_factory) -> Path:
    """A small classifier of the labels of fold 1's training patients."""
    folder = tmp_path_factory.mktemp("models") / "encoder"
    given = ["--dataset", str(dataset), "--encoder", "ecg_se_resnet", "--encoder_config", json.dumps(TINY)]
    given += ["--fold", "1", "--output_dir", str(folder), "--max_steps", "20", "--learning_rate", "1e-2", "--use_cpu"]
    given += ["--save_strategy", "no", "--report_to", "none", "--disable_tqdm", "true", "--crop_seconds", "1"]
    pretrain.main(given)
    return folder


@pytest.fixture(scope="module")
def records(dataset) -> LabelledRecords:
    return LabelledRecords(dataset, 1)


@pytest.fixture(autouse=True)
def few_strengths(monkeypatch):
    monkeypatch.setattr(linear_probe, "STRENGTHS", STRENGTHS)


@pytest.fixture
def copy(encoder, tmp_path) -> Path:
    return Path(shutil.copytree(encoder, tmp_path / "copy"))


def test_probes_are_the_regressions_of_scikit_learn():
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(120, 6)) * [1, 5, 0.1, 2, 3, 1] + 3).astype(np.float32)
    sums = features @ rng.normal(size=(6, 3)) + 5 * rng.normal(size=(120, 3))
    targets = sums > np.quantile(sums, [0.5, 0.8, 1], axis=0).diagonal()  # none of the last class
    scaled = (features - features.mean(axis=0)) / features.std(axis=0)
    for strength, probe in fit_probes(features, targets, strengths=(1.0, 0.01)):
        found = probe(features)
        for place in (0, 1):
            expected = LogisticRegression(C=1 / (strength * 120), tol=1e-8, max_iter=5000).fit(
                scaled, targets[:, place]
            )
            np.testing.assert_allclose(found[:, place], expected.decision_function(scaled), atol=0.02)
        assert np.ptp(found[:, 2]) == 0  # a class without ECGs is not learned


def test_shares_of_patients_are_nested():
    patients = [f"source/{number // 2}" for number in range(200)]
    shares = [set(rows_of_share(patients, share, seed=3)) for share in (0.01, 0.1, 1)]
    assert [len(rows) for rows in shares] == [2, 20, 200] and shares[0] < shares[1] < shares[2]
    for rows in shares:
        assert {row ^ 1 for row in rows} == rows  # both ECGs of a patient
    assert shares[1] != set(rows_of_share(patients, 0.1, seed=4))


def test_intervals_of_tasks_hold_with_rare_classes():
    rng = np.random.default_rng(0)
    targets = (rng.random((200, 3)) < [0.4, 0.2, 0]).astype(np.float32)
    targets[7, 2] = 1  # a single ECG: about a third of the resamples have none
    scores = targets + rng.normal(size=(200, 3))
    tasks = LabelTasks(["a", "b", "c"], {"all": [0, 1, 2], "none": []}, {})
    found = task_scores(scores, targets, tasks, PatientBootstrap([(str(row // 2),) for row in range(200)]))["all"]
    rows = targets.any(axis=1)
    each = [roc_auc_score(targets[rows, place], scores[rows, place]) for place in range(3)]
    assert [entry["score"] for entry in found["classes"].values()] == pytest.approx(each)
    assert found["macro_auroc"]["score"] == pytest.approx(np.mean(each))
    assert found["macro_auroc"]["low"] < np.mean(each) < found["macro_auroc"]["high"]
    assert (found["ecgs"], found["judged"]) == (rows.sum(), 3)
    assert found["classes"]["c"]["low"] is None and found["classes"]["c"]["ecgs"] == 1


def test_a_classifier_is_scored_on_test_patients(dataset, encoder, records, tmp_path):
    report = evaluate_encoder(encoder, dataset, 1, output=tmp_path / "report", quiet=True)
    (result,) = report["results"]
    table = load_records(dataset)
    probabilities = pd.read_parquet(tmp_path / "report" / "probabilities.parquet")
    rows = records.rows("test")
    assert probabilities["record_id"].tolist() == [table[int(row)]["record_id"] for row in rows]
    assert (report["ecgs"], report["patients"]) == (len(rows), len(set(records.patients[rows])))
    assert report["run"]["seen_patients"]["seen"] == 0 and report["run"]["seen_patients"]["known"]
    labels = table["labels"]
    tasks = tasks_of_classes(probabilities.columns[2:].tolist())
    targets = tasks.targets([labels[int(row)] for row in rows])
    for task, classes in tasks.tasks.items():
        asked = targets[:, classes].any(axis=1)
        judged = [one for one in classes if 0 < targets[asked][:, one].sum() < asked.sum()]
        expected = [roc_auc_score(targets[asked, one], probabilities[tasks.classes[one]][asked]) for one in judged]
        found = result["tasks"][task]
        assert found["macro_auroc"]["score"] == pytest.approx(np.mean(expected), abs=1e-6)
        assert found["judged"] == len(judged)
    assert json.loads((tmp_path / "report" / "report.json").read_text()) == report
    text = (tmp_path / "report" / "report.md").read_text()
    assert f"{len(rows)} ECGs of {report['patients']} patients" in text and "| all | " in text
    with pytest.raises(ValueError, match="holds another evaluation .split is 'test' there, 'validation' here"):
        evaluate_encoder(encoder, dataset, 1, "validation", output=tmp_path / "report", quiet=True)


def test_a_classifier_averages_over_windows(dataset, encoder, records, tmp_path):
    report = evaluate_encoder(encoder, dataset, 1, output=tmp_path, window_seconds=0.75, quiet=True)
    found = pd.read_parquet(tmp_path / "probabilities.parquet")
    model = AutoModelForSequenceClassification.from_pretrained(encoder).eval()
    extractor = load_feature_extractor(encoder)
    assert extractor.num_samples == 2 * extractor.sampling_rate  # the encoder reads 2 s
    rows = records.rows("test")[:3]
    ecgs = list(records.ecgs(rows))
    values = extractor(ecgs, lead_names=[LEADS] * 3, sampling_rate=records.sampling_rate, return_tensors="pt")
    one = round(0.75 * extractor.sampling_rate)
    starts = [
        0,
        one // 2,
        2 * (one // 2),
        3 * (one // 2),
        2 * extractor.sampling_rate - one,
    ]  # the last one ends at the end
    with torch.no_grad():
        windows = [
            model(values["ecg_values"][..., start : start + one], values["ecg_lead_mask"]).logits.sigmoid()
            for start in starts
        ]
    expected = torch.stack(windows).mean(dim=0)
    np.testing.assert_allclose(found.iloc[:3, 2:].to_numpy(float), expected, atol=1e-5)
    text = (tmp_path / "report.md").read_text()
    assert "| classifier, windows of 0.75 s |" in text and "probabilities are averaged" in text
    assert report["run"]["window_seconds"] == 0.75
    with pytest.raises(ValueError, match="holds another evaluation .window_seconds is 0.75 there"):
        evaluate_encoder(encoder, dataset, 1, output=tmp_path, quiet=True)
    with pytest.raises(ValueError, match="--window-seconds 3: .* reads 2 s; name less than that"):
        evaluate_encoder(encoder, dataset, 1, window_seconds=3, quiet=True)
    with pytest.raises(ValueError, match="--window-seconds is for classifiers"):
        evaluate_encoder(encoder, dataset, 1, window_seconds=1, linear_probe=True, quiet=True)


def test_an_encoder_is_not_scored_on_patients_that_it_has_seen(dataset, encoder):
    with pytest.raises(ValueError, match=r"encoder: was trained on \d+ of the \d+ patients asked about"):
        evaluate_encoder(encoder, dataset, 2, quiet=True)
    report = evaluate_encoder(encoder, dataset, 2, quiet=True, allow_seen_patients=True)
    assert report["run"]["seen_patients"]["seen"] > 0


def test_a_linear_probe_of_the_frozen_encoder(dataset, encoder, records):
    report = evaluate_encoder(encoder, dataset, 1, linear_probe=True, label_shares=(1, 0.1), quiet=True)
    first, whole = report["results"]
    assert (first["label_share"], whole["label_share"]) == (0.1, 1)
    training, rows = records.rows("train"), records.rows("test")
    assert whole["training_patients"] == len(set(records.patients[training]))
    assert first["training_patients"] == round(0.1 * whole["training_patients"])
    model, extractor = AutoModel.from_pretrained(encoder).eval(), load_feature_extractor(encoder)

    def features(those):
        ecgs = list(records.ecgs(those))
        inputs = extractor(ecgs, sampling_rate=250, lead_names=[LEADS] * len(ecgs), return_tensors="pt")
        with torch.no_grad():
            return model(**inputs).pooler_output.numpy()

    labels = load_records(dataset)["labels"]
    tasks = label_tasks([labels[int(row)] for row in training])
    known, truth = (tasks.targets([labels[int(row)] for row in those]) for those in (training, rows))
    found = whole["tasks"]["all"]
    probe = dict(fit_probes(features(training), known, STRENGTHS))[found["strength"]]
    scores, asked = probe(features(rows)), truth.any(axis=1)
    for place, name in enumerate(tasks.classes):
        entry = found["classes"][name]
        assert entry["ecgs"] == truth[:, place].sum()
        if entry["score"] is not None:
            assert entry["score"] == pytest.approx(roc_auc_score(truth[asked, place], scores[asked, place]), abs=0.03)
    assert first["unlearned_classes"] >= whole["unlearned_classes"]


def test_features_of_measured_values_tell_low_high_and_unknown():
    values = np.array([[100, 180], [60, -90], [np.nan, np.nan], [1e6, 0]], np.float32)
    found = features_of_values(values, ["heart_rate", "axis_deg"], np.array([[75, 25], [0, 180]], np.float32))
    expected = [[1, -1, 0, 0, 0, 0], [0, 0, -0.6, -1, 0, 0], [0, 0, 0, 0, 1, 1], [5, 1, 0, 0, 0, 0]]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_linear_probe_reads_measured_values_as_well(dataset, encoder, records, tmp_path):
    """They tell labels apart that a hardly trained encoder does not."""
    options = {"linear_probe": True, "label_shares": (1,), "quiet": True}
    (alone,) = evaluate_encoder(encoder, dataset, 1, **options)["results"]
    report = evaluate_encoder(
        encoder, dataset, 1, **options, measurements=["general", "st_mv"], output=tmp_path / "out"
    )
    (both,) = report["results"]
    assert (alone["measured_values"], both["measured_values"]) == (0, 29)
    scores = [result["tasks"]["all"]["macro_auroc"]["score"] for result in (alone, both)]
    assert scores[1] > scores[0] + 0.02
    assert report["run"]["measurements"][-1] == "st_mv_V6"
    text = (tmp_path / "out" / "report.md").read_text()
    assert "linear probe and 29 measured values, 100 % of labels" in text and "st_mv_V6" in text
    rows = records.rows("test")[:3]
    found = MeasuredFeatures(["heart_rate"], quiet=True)(records, rows, "")
    rate = measure_ecg(records.ecgs(rows)[0], 250)["heart_rate"]
    assert found.shape == (3, 3) and found[0, :2].sum() == pytest.approx((rate - 75) / 25, abs=1e-5)
    with pytest.raises(ValueError, match="--measurements are features of linear probes; add --linear-probe"):
        evaluate_encoder(encoder, dataset, 1, measurements=["general"], quiet=True)
    with pytest.raises(ValueError, match="out: holds another evaluation .measurements is"):
        evaluate_encoder(encoder, dataset, 1, **options, output=tmp_path / "out")


def test_training_knows_what_the_encoder_has_seen(dataset, encoder, tmp_path, caplog):
    (tmp_path / "elm.json").write_text(json.dumps({"text_config": TINY_LLM}))
    options = {"tokenizer_dataset": str(dataset), "vocab_size": 400, "num_ecg_tokens": 4}
    create_elm(tmp_path / "elm", config=tmp_path / "elm.json", encoder=str(encoder), **options)
    caplog.clear()
    model = ModelConfig(model_name_or_path=str(tmp_path / "elm"))
    stages = stages_with_this_one("fine-tuning", ElmScriptArguments([str(dataset)], fold="1"), model)
    assert [(stage.kind, stage.fold) for stage in stages] == [("pre-training", "1"), ("fine-tuning", "1")]
    assert not caplog.records  # the encoder has not seen the test patients of its own fold
    with pytest.raises(ValueError, match=r"elm: was trained on \d+ of the \d+ validation and test patients of fold 2"):
        stages_with_this_one("fine-tuning", ElmScriptArguments([str(dataset)], fold="2"), model)


def test_other_encoders_and_shares_are_refused(dataset, encoder, copy):
    with pytest.raises(ValueError, match="--label-shares: expected shares above 0 and up to 1.*got 0, 2"):
        evaluate_encoder(encoder, dataset, 1, linear_probe=True, label_shares=(0, 2))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"problem_type": "single_label_classification"}))
    with pytest.raises(ValueError, match="copy: has no classifier of labels.*--linear-probe"):
        evaluate_encoder(copy, dataset, 1, quiet=True)
    names = {str(number): f"other {number}" for number in range(len(config["id2label"]))}
    (copy / "config.json").write_text(
        json.dumps(config | {"id2label": names, "label2id": {name: int(number) for number, name in names.items()}})
    )
    with pytest.raises(ValueError, match="classifies other 0, other 1, other 2, ...; none of its"):
        evaluate_encoder(copy, dataset, 1, quiet=True)


def test_the_card_has_the_seen_patients_and_the_results(dataset, copy):
    card = ModelCard.load(copy / "README.md")
    (stage,) = read_stages(copy)
    assert f"| pre-training | labelled | 1 | {len(stage.patients)} |" in card.text
    assert "20 steps of 8 ECGs, crops of 1 s, learning rate 0.01 (linear)" in card.text
    assert "has not been evaluated" in card.text and card.data.eval_results is None
    command = ["evaluate-encoder", str(copy), "--dataset", str(dataset), "--update-card", "--quiet"]
    for more in ([], ["--linear-probe", "--label-shares", "0.5,1"], []):
        ran = CliRunner().invoke(app, [*command, *more])
        assert ran.exit_code == 0, ran.output
    assert "| all | " in ran.stdout and "Results in " in ran.stdout
    card = ModelCard.load(copy / "README.md")
    assert "has not been evaluated" not in card.text and card.text.count("## Evaluation\n") == 1
    assert card.text.count("### Classifier: labelled, `fold1`, test\n") == 1
    assert card.text.count("### Linear probe of the frozen encoder: labelled, `fold1`, test\n") == 1
    names = [result.metric_name for result in card.data.eval_results if "all" in result.metric_name]
    assert sorted(names) == [
        "Macro AUROC, all (classifier)",
        "Macro AUROC, all (linear probe, 100 % of labels)",
        "Macro AUROC, all (linear probe, 50 % of labels)",
    ]
    (copy / "README.md").write_text("---\ntags: [mine]\n---\n\n# Mine\n")
    ran = CliRunner().invoke(app, command)
    assert isinstance(ran.exception, ValueError) and "not a card of elm-hf" in str(ran.exception)


def test_a_section_replaces_the_one_with_its_title_and_keeps_the_rest():
    text = "# Name\n\nWords.\n\n## Citation\n\nOne.\n"
    one = with_section(text, "A", "first")
    assert one == text + "\n## Evaluation\n\n### A\n\nfirst\n"
    both = with_section(with_section(one, "B", "second"), "A", "again") + "\n## Last\n"
    assert with_section(both, "B", "x").endswith("### A\n\nagain\n\n### B\n\nx\n\n## Last\n")


def test_the_benchmark_prints_scores_beside_those_of_the_paper(tmp_path, capsys):
    tasks = ptb_xl_tasks()
    rng = np.random.default_rng(0)
    targets = np.zeros((400, len(tasks.classes)), np.float32)
    targets[np.arange(400), rng.integers(0, 71, 400)] = 1
    targets[:, 71:] = rng.random((400, 28)) < 0.2
    scores = targets + rng.normal(size=targets.shape)
    found = task_scores(scores, targets, tasks, PatientBootstrap([(str(row),) for row in range(400)], 50))
    run = {"schema": REPORT_SCHEMA, "encoder": "ecg_se_resnet", "checkpoint": "encoder"}
    run |= {"dataset": "data", "fold": "official", "split": "test"}
    run |= {"seen_patients": {"sentence": None}, "encoder_trained_on": ["ptb_xl"]}
    report = {"run": run, "ecgs": 400, "patients": 400, "results": [{"tasks": found}]}
    (tmp_path / "report.json").write_text(json.dumps(report))
    main = runpy.run_path(str(BENCHMARK / "print_table.py"))["main"]
    main([tmp_path])
    printed = capsys.readouterr().out
    lines = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("| ")]
    assert lines[0] == [f"{task} ({number})" for task, number in zip(found, (71, 44, 23, 5, 19, 12))]
    assert lines[-2][0] == "**best of the paper**" and lines[-2][1:] == [
        "0.925",
        "0.937",
        "0.930",
        "0.930",
        "0.899",
        "0.957",
    ]
    assert [float(cell.split()[0]) for cell in lines[-1][1:]] == pytest.approx(
        [found[task]["macro_auroc"]["score"] for task in found], abs=5e-4
    )
    assert "The encoder was trained on ptb_xl before it was published" in printed and "not comparable" not in printed
    (tmp_path / "report.json").write_text(json.dumps({"run": {}, "scores": {}}))
    with pytest.raises(ValueError, match="not the report of elm-hf evaluate-encoder"):
        main([tmp_path])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_benchmark_runs(tmp_path):
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "SMOKE_OUTPUT": str(tmp_path)}
    command = ["sh", str(BENCHMARK / "run.sh"), "--smoke"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "| xresnet1d101 (paper) | 0.925 ± 0.007 |" in ran.stdout and "not comparable" in ran.stdout
    for title in (
        "classifier",
        "linear probe, 100 % of labels",
        "linear probe and 115 measured values, 100 % of labels",
    ):
        assert f"| ecg_se_resnet encoder, {title} |" in ran.stdout
    assert "| ecg_se_resnet encoder_10s, classifier |" in ran.stdout
    assert (
        "### Linear probe of the frozen encoder: data, `fold1`, test" in (tmp_path / "encoder/README.md").read_text()
    )
