"""Zero-shot classification: options chosen by letter and by likelihood, AUROC of prompts."""

import csv
import json

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, precision_recall_fscore_support, roc_auc_score
from transformers import BertConfig
from typer.testing import CliRunner

from elm_hf.checkpoints.load import load_checkpoint
from elm_hf.cli import app
from elm_hf.data.tables import load_records
from elm_hf.evaluation.intervals import PatientBootstrap
from elm_hf.evaluation.zero_shot import (
    auroc_scores,
    choose_options,
    classification_scores,
    option_prompt,
    read_option,
    weighted_auroc,
    zero_shot,
)
from elm_hf.evaluation.zero_shot_tasks import TASKS, load_task


RHYTHMS = ("sinus rhythm", "atrial fibrillation", "sinus tachycardia", "sinus bradycardia")


@pytest.fixture
def rhythm_task(tmp_path):
    """A task whose labels the simulated records have."""
    file = tmp_path / "rhythms.json"
    classes = {name: {"prompt": name, "labels": [name]} for name in RHYTHMS}
    file.write_text(json.dumps({"question": "Which rhythm does this ECG show?", "classes": classes}))
    return str(file)


def test_tasks_are_those_of_ptb_xl(shared_data):
    with open(shared_data / "ptb_xl" / "scp_statements.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for one in TASKS["diagnostic"].classes:
        words = {row["description"] for row in rows if row["diagnostic_class"] == one.name}
        assert set(one.labels) == words | {one.name}
    for task, column in (("rhythm", "rhythm"), ("form", "form")):
        description = {row[""]: row["description"] for row in rows if row[column]}
        assert all(description[one.name] == one.prompt for one in TASKS[task].classes)
    names = {task: [one.name for one in TASKS[task].classes] for task in TASKS}
    assert names["diagnostic"] == ["NORM", "MI", "STTC", "CD", "HYP"]
    assert [len(classes) for classes in names.values()] == [5, 5, 5]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("B", 1),
        ("b", 1),
        ("(D) atrial fibrillation", 3),
        ("E: sinus arrhythmia", 4),
        ("A sinus bradycardia", 2),  # an article, not the first option
        ("atrial fibrillation.", 3),
        ("F", None),
        ("sinus rhythm or sinus tachycardia", None),
        ("", None),
    ],
)
def test_an_option_is_read_from_an_answer(said, expected):
    assert read_option(said, TASKS["rhythm"]) == expected


def test_classification_scores_are_scikit_learns():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 60)  # the fifth class does not occur
    predicted = [int(k) if rng.random() < 0.6 else rng.choice([None, 0, 1]) for k in truth]
    found = classification_scores(truth, predicted, TASKS["form"], PatientBootstrap([(str(k),) for k in range(60)]))
    numbers = [9 if k is None else k for k in predicted]
    assert found["accuracy"]["score"] == pytest.approx(accuracy_score(truth, numbers))
    expected = precision_recall_fscore_support(truth, numbers, labels=range(4), average="macro", zero_division=0)
    names = ("macro_precision", "macro_recall", "macro_f1")
    assert [found[name]["score"] for name in names] == pytest.approx(expected[:3])
    per_class = precision_recall_fscore_support(truth, numbers, labels=range(4), zero_division=0)
    assert [one["f1"] for one in found["classes"].values()] == pytest.approx(per_class[2])
    assert found["absent_classes"] == ["LNGQT"] and found["no_choice"] == predicted.count(None)
    assert all(found[name]["low"] < found[name]["score"] < found[name]["high"] for name in names)


def test_auroc_is_scikit_learns_with_and_without_weights():
    rng = np.random.default_rng(1)
    member, scores = rng.random(80) < 0.3, rng.normal(size=80).round(1)  # with ties
    weights = np.stack([np.ones(80), rng.integers(0, 4, 80)])
    expected = [roc_auc_score(member, scores, sample_weight=row) for row in weights]
    assert weighted_auroc(member, scores, weights) == pytest.approx(expected)
    members = np.stack([member, ~member, member, np.zeros(80, bool), member], axis=1)
    bootstrap = PatientBootstrap([(str(k // 2),) for k in range(80)])
    found = auroc_scores(members, np.stack([scores] * 5, axis=1), TASKS["rhythm"], bootstrap)
    assert found["classes"]["AFIB"]["score"] is None and "not defined" in found["classes"]["AFIB"]["note"]
    assert found["macro_auroc"]["score"] == pytest.approx(np.mean([expected[0]] * 3 + [1 - expected[0]]))


def test_the_likeliest_letter_is_what_the_model_would_rather_say(tiny_elm, ecgs, rhythm_task):
    """The next-token probabilities of the letters, from a plain forward pass, rank the options in the same way."""
    model, processor = load_checkpoint(tiny_elm)
    task = load_task(rhythm_task)
    _, likely = choose_options(model, processor, task, list(ecgs), 250)
    for ecg, choice in zip(ecgs, likely):
        scores = []
        for letter in task.letters:
            content = [
                {"type": "ecg", "ecg": ecg, "sampling_rate": 250},
                {"type": "text", "text": option_prompt(task)},
            ]
            messages = [{"role": "user", "content": content}, {"role": "assistant", "content": letter}]
            options = {
                "tokenize": True,
                "return_dict": True,
                "return_tensors": "pt",
                "return_assistant_tokens_mask": True,
            }
            inputs = processor.apply_chat_template([messages], **options)
            mask = inputs.pop("assistant_masks")[0].bool()
            with torch.no_grad():
                logits = model(**inputs).logits[0].log_softmax(-1)
            scores.append(logits[:-1].gather(1, inputs["input_ids"][0, 1:, None])[mask[1:]].sum())
        assert choice == int(torch.stack(scores).argmax())


def test_an_elm_is_asked_about_ecgs_of_one_class(tiny_elm, simulated_dataset, rhythm_task, tmp_path):
    arguments = [
        "zero-shot",
        tiny_elm,
        "--dataset",
        simulated_dataset,
        "--task",
        rhythm_task,
        "--output",
        tmp_path / "out",
    ]
    finished = CliRunner().invoke(app, [*map(str, arguments), "--quiet"])
    assert finished.exit_code == 0, finished.output
    found = json.loads((tmp_path / "out" / "zero_shot.json").read_text())["tasks"]["rhythms"]
    for way in ("letter", "likelihood"):
        assert np.sum(found[way]["confusion"]["matrix"]) == found["ecgs"]
        assert sum(one["ecgs"] for one in found[way]["classes"].values()) == found["ecgs"]
        assert (tmp_path / "out" / f"confusion_rhythms_{way}.png").exists()
    assert found["likelihood"]["no_choice"] == 0
    assert "### rhythms" in finished.output and "macro f1" in finished.output
    refused = CliRunner().invoke(app, [*map(str, arguments), "--quiet", "--limit", "3"])
    assert "limit is None there, 3 here" in str(refused.exception)


def test_merl_compares_prompts(simulated_dataset, rhythm_task, tmp_path):
    from tiny_models import tiny_tokenizer

    from elm_hf.modeling.configuration_merl import MerlConfig
    from elm_hf.modeling.feature_extraction_ecg import EcgFeatureExtractor
    from elm_hf.modeling.modeling_merl import MerlForPreTraining

    torch.manual_seed(0)
    text = BertConfig(vocab_size=400, hidden_size=64, num_hidden_layers=1, num_attention_heads=1, intermediate_size=32)
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 8, 12, 16], "depths": [1, 1, 1, 1], "projection_dim": 16}
    model = MerlForPreTraining(MerlConfig(num_samples=500, text_config=text, **sizes)).eval()
    folder = tmp_path / "merl"
    model.save_pretrained(folder)
    leads = ["I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6"]
    feature_extractor = EcgFeatureExtractor(leads=leads, num_samples=500, sampling_rate=250)
    feature_extractor.save_pretrained(folder)
    tokenizer = tiny_tokenizer("qwen2")
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)

    found = zero_shot(folder, simulated_dataset, [rhythm_task], quiet=True)["tasks"]["rhythms"]
    records = load_records(simulated_dataset).with_format("numpy")
    names = _test_records(simulated_dataset)
    rows = [row for row in records if row["record_id"] in names]
    swapped = np.stack([row["ecg"] for row in rows]).astype(np.float32)[:, [0, 1, 2, 3, 5, 4, *range(6, 12)]] / 1000
    values = feature_extractor(list(swapped), sampling_rate=250, return_tensors="pt")["ecg_values"]
    prompts = tokenizer(list(RHYTHMS), padding=True, return_tensors="pt")
    with torch.no_grad():
        scores = model.classify(values, prompts["input_ids"], prompts["attention_mask"]).numpy()
    assert found["ecgs"] == len(rows)
    for place, name in enumerate(RHYTHMS):
        member = np.array([name in row["labels"] for row in rows])
        entry = found["classes"][name]
        assert entry["ecgs"] == member.sum()
        if 0 < member.sum() < len(rows):
            assert entry["score"] == pytest.approx(roc_auc_score(member, scores[:, place]), abs=1e-6)


def _test_records(dataset) -> set[str]:
    from elm_hf.data.loading import load_elm_dataset

    rows = load_elm_dataset(dataset, 1, "test").select_columns("record_ids")[:]
    return {name for names in rows["record_ids"] for name in names}


def test_bad_tasks_are_refused(tiny_elm, simulated_dataset, tmp_path):
    with pytest.raises(ValueError, match="neither a task .diagnostic, rhythm, form. nor a JSON file"):
        load_task("rythm")
    (tmp_path / "bad.json").write_text('{"question": "?"}')
    with pytest.raises(ValueError, match="expected"):
        load_task(str(tmp_path / "bad.json"))
    with pytest.raises(ValueError, match="task 'form': no ECG is of exactly one class.* with --task"):
        zero_shot(tiny_elm, simulated_dataset, ["form"], quiet=True)


def test_the_prompt_lists_the_options():
    assert option_prompt(TASKS["rhythm"]).splitlines()[1:3] == ["A. sinus rhythm", "B. sinus tachycardia"]
