"""Zero-shot classification: options chosen by letter and by likelihood, AUROC of prompts."""

import csv
import json
import runpy
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from scipy import stats
from sklearn.metrics import accuracy_score, precision_recall_fscore_support, roc_auc_score
from transformers import BertConfig
from typer.testing import CliRunner

from elm_hf.checkpoints.load import load_checkpoint
from elm_hf.classification.zero_shot import ChoiceOptions, choose_options, other_classes, zero_shot
from elm_hf.classification.zero_shot_prompts import ecg_lm_content, options_text, question_content, read_option
from elm_hf.classification.zero_shot_report import zero_shot_table
from elm_hf.classification.zero_shot_scores import (
    auroc_scores,
    classification_scores,
    majority_scores,
    multi_label_scores,
    weighted_auroc,
)
from elm_hf.classification.zero_shot_tasks import TASKS, load_task
from elm_hf.cli import app
from elm_hf.data.tables import load_records
from elm_hf.dataset_scripts.ptb_xl import NAMES
from elm_hf.scoring.intervals import PatientBootstrap
from elm_hf.utils.reports import REPORT_SCHEMA


RENDERS_CHARTS = True

ROOT = Path(__file__).parent.parent
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
        words = {NAMES.get(row[""], row["description"]) for row in rows if row["diagnostic_class"] == one.name}
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


def test_a_permuted_letter_is_read_as_its_class():
    task, order = TASKS["rhythm"], [3, 0, 4, 1, 2]
    assert options_text(task, order).splitlines()[0] == "A. atrial fibrillation"
    assert [read_option(letter, task, order) for letter in "ABCDE"] == order
    assert read_option("sinus arrhythmia", task, order) == 4 and read_option("F", task, order) is None


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
    orders = [np.arange(4), np.array([2, 0, 3, 1])] * len(ecgs)
    ecgs = np.repeat(ecgs, 2, axis=0)
    contents = [question_content(task, order) for order in orders[: len(ecgs)]]
    found = choose_options(model, processor, task, contents, orders[: len(ecgs)], list(ecgs), 250)
    for ecg, order, content, of_classes in zip(ecgs, orders, contents, found.log_likelihoods):
        scores = []
        for letter in task.letters:
            filled = [{"type": "ecg", "ecg": ecg, "sampling_rate": 250}, content[1]]
            messages = [{"role": "user", "content": filled}, {"role": "assistant", "content": letter}]
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
            scores.append(logits[:-1].gather(1, inputs["input_ids"][0, 1:, None])[mask[1:]].sum().item())
        assert of_classes[order] == pytest.approx(scores, abs=1e-3)


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
    report = json.loads((tmp_path / "out" / "zero_shot.json").read_text())
    found = report["tasks"]["rhythms"]
    assert set(found["controls"]) == {"zeros", "shuffled", "permuted"}
    for one in (found, *found["controls"].values()):
        for way in ("letter", "likelihood"):
            assert np.sum(one[way]["confusion"]["matrix"]) == found["ecgs"]
            assert sum(each["ecgs"] for each in one[way]["classes"].values()) == found["ecgs"]
    assert (tmp_path / "out" / "confusion_rhythms_letter.png").exists()
    assert found["likelihood"]["no_choice"] == 0

    # What the labels say, counted here.
    names = _test_records(simulated_dataset)
    labels = [
        set(row["labels"]) & set(RHYTHMS) for row in load_records(simulated_dataset) if row["record_id"] in names
    ]
    ones = [next(iter(those)) for those in labels if len(those) == 1]
    assert (found["split_ecgs"], found["ecgs"]) == (len(labels), len(ones))
    assert found["left_out"] == {
        "of no class": sum(not x for x in labels),
        "of several": sum(len(x) > 1 for x in labels),
    }
    most = max(RHYTHMS, key=ones.count)
    assert ones.count(found["majority"]["class"]) == ones.count(most)
    assert found["majority"]["accuracy"]["score"] == pytest.approx(ones.count(most) / len(ones))
    for name in RHYTHMS:
        counts = {"ecgs": sum(name in those for those in labels), "of_this_class_only": ones.count(name)}
        assert found["members"][name] == counts

    # With zeros every prompt is the same, and so is the choice.
    assert len(found["controls"]["zeros"]["likelihood"]["classes"]) > 1
    chosen = np.sum(found["controls"]["zeros"]["likelihood"]["confusion"]["matrix"], axis=0)
    assert np.count_nonzero(chosen) == 1
    assert f"{len(ones)} of the split's {len(labels)} ECGs are of exactly one of the classes" in finished.output
    assert "### rhythms" in finished.output and "macro f1" in finished.output
    assert "| with ECG, letters permuted |" in finished.output and f"most frequent class ({most})" in finished.output
    refused = CliRunner().invoke(app, [*map(str, arguments), "--quiet", "--limit", "3"])
    assert "limit is None there, 3 here" in str(refused.exception)
    report["run"] = {name: report["run"][name] for name in ("checkpoint", "dataset", "fold", "split", "tasks", "seed")}
    (tmp_path / "out" / "zero_shot.json").write_text(json.dumps(report))  # as an earlier version wrote it
    (tmp_path / "out" / "zero_shot.run.json").unlink()
    refused = CliRunner().invoke(app, [*map(str, arguments), "--quiet"])
    assert "schema is None there, 2 here" in str(refused.exception)


def test_donors_are_of_other_patients_and_other_classes_where_there_are_any():
    member = np.array([[1, 0], [1, 0], [0, 1], [1, 1], [0, 0]], bool)
    patients = [("a",), ("a",), ("b",), ("c",), ("d",)]
    for seed in range(10):
        donors, number = other_classes(member, patients, np.arange(4), seed)
        assert donors[0] == donors[1] == 2 and donors[2] in (0, 1) and donors[3] in (0, 1, 2)
        assert number == 3  # every other ECG shares a class with the one of both
    assert other_classes(member, patients, np.arange(2), 0) == (None, 0)


def test_several_labels_are_scored_by_any_of_them_and_by_rank():
    """Against scikit-learn and by hand: the third ECG is of two classes, the last of none."""
    member = np.array([[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]], bool)
    scores = np.log([[0.6, 0.1, 0.1, 0.1, 0.1], [0.5, 0.2, 0.1, 0.1, 0.1], [0.1, 0.6, 0.1, 0.1, 0.1]] * 2)[:5]
    patients = [(str(number),) for number in range(5)]
    found = multi_label_scores(member, [1, 1, 1, None, 0], scores, TASKS["rhythm"], patients, 0)
    assert found["ecgs_of_some_class"] == 4
    assert found["letter"]["score"] == 0.5 and found["likelihood"]["score"] == 0.75
    assert (found["majority"]["class"], found["majority"]["accuracy"]["score"]) == ("SR", 0.75)
    expected = [roc_auc_score(member[:, place], np.exp(scores[:, place])) for place in range(2)]
    assert [found["auroc"]["classes"][name]["score"] for name in ("SR", "STACH")] == pytest.approx(expected)
    assert found["auroc"]["macro_auroc"]["score"] == pytest.approx(np.mean(expected))
    assert found["auroc"]["ecgs"] == 5


def test_the_majority_has_an_interval():
    member = np.repeat([[True, False], [False, True]], [30, 10], axis=0)
    bootstrap = PatientBootstrap([(str(number),) for number in range(40)])
    found = majority_scores(member, TASKS["rhythm"], bootstrap)
    exact = stats.binomtest(30, 40).proportion_ci(method="exact")
    assert (found["class"], found["accuracy"]["score"]) == ("SR", 0.75)
    assert (found["accuracy"]["low"], found["accuracy"]["high"]) == pytest.approx((exact.low, exact.high), abs=0.01)


DESCRIPTION = {"age": 71, "sex": "female", "height_cm": 160.0, "weight_kg": None, "report": "r", "general": []}


def test_the_prompt_of_the_paper_holds_person_abnormalities_and_options():
    leads = [["low R wave", "ST depression"]] + [[]] * 10 + [["T inversion"]]
    content = ecg_lm_content(TASKS["form"], [4, 0, 1, 2, 3], DESCRIPTION | {"leads": leads})
    assert [item["type"] for item in content] == ["text", "ecg", "text"]
    assert content[0]["text"] == "This person is a 71-year-old female with a height of 160 cm. The ECG signal is "
    lines = content[2]["text"].splitlines()
    assert lines[0].startswith(
        ". Abnormalities detected in lead I: low R wave, ST depression, lead II: none, lead III:"
    )
    assert lines[0].endswith("lead V6: T inversion. Which type (A-E) does this ECG belong to?")
    assert lines[1:3] == ["A. long QT-interval", "B. abnormal QRS"] and lines[-1] == "Choose one letter."


def test_the_prompt_of_the_paper_is_asked_with_a_table_of_descriptions(
    tiny_elm, simulated_dataset, rhythm_task, tmp_path, monkeypatch
):
    from elm_hf.classification import zero_shot as module

    names = sorted(_test_records(simulated_dataset))
    table = tmp_path / "descriptions.parquet"
    rows = [DESCRIPTION | {"record_id": name, "leads": [[f"finding of {name}"]] + [[]] * 11} for name in names]
    pq.write_table(pa.Table.from_pylist(rows), table)
    asked = []

    def choose(model, processor, task, contents, orders, ecgs, sampling_rate):
        asked.extend(content[2]["text"] for content in contents)
        return module.Choices([0] * len(ecgs), np.tile(np.log([0.4, 0.3, 0.2, 0.1]), (len(ecgs), 1)))

    monkeypatch.setattr(module, "choose_options", choose)
    options = ChoiceOptions("ecg_lm", table, controls=False, multi_label=True)
    report = zero_shot(tiny_elm, simulated_dataset, [rhythm_task], quiet=True, options=options)
    found = report["tasks"]["rhythms"]
    assert len(asked) == len(names) == found["split_ecgs"] == found["multi_label"]["ecg"]["auroc"]["ecgs"]
    assert sorted(text.split("lead I: finding of ")[1].split(",")[0] for text in asked) == names
    assert found["controls"] == {} and report["run"]["prompt"] == "ecg_lm"
    text = zero_shot_table(report)
    assert "rules have found" in text and f"Several labels: all {len(names)} ECGs" in text

    pq.write_table(pa.Table.from_pylist(rows[1:]), table)
    with pytest.raises(ValueError, match=f"no description of 1 of the {len(names)} ECGs, such as {names[0]}"):
        zero_shot(tiny_elm, simulated_dataset, [rhythm_task], quiet=True, options=options)
    for wrong in (("ecg_lm", None), ("question", table)):
        with pytest.raises(ValueError, match="needs descriptions of the ECGs"):
            ChoiceOptions(*wrong)
    with pytest.raises(ValueError, match='unknown prompt "paper"; there are question, ecg_lm'):
        ChoiceOptions("paper")


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


def test_the_comparison_with_the_paper_says_in_what_the_two_differ(tmp_path, capsys):
    truth, patients = np.repeat([0, 1], [30, 10]), [(str(number),) for number in range(40)]
    member, bootstrap = np.eye(5, dtype=bool)[truth], PatientBootstrap(patients)

    def scores(right: int) -> dict:
        chosen = [place if number < right else 4 for number, place in enumerate(truth)]
        found = classification_scores(truth, chosen, TASKS["rhythm"], bootstrap)
        return {"letter": found, "likelihood": found}

    found = {"ecgs": 40, "split_ecgs": 57, "left_out": {"of no class": 12, "of several": 5}}
    found |= {"members": {"SR": {"ecgs": 33, "of_this_class_only": 30}}, **scores(36)}
    found |= {"majority": majority_scores(member, TASKS["rhythm"], bootstrap)}
    found |= {"controls": {"zeros": scores(28), "shuffled": scores(24), "permuted": scores(32)}}
    for folder in ("report", "report_ecg_lm"):
        path = tmp_path / "aligned" / folder / "zero_shot.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"run": {"schema": REPORT_SCHEMA}, "tasks": {"rhythm": found}}))
    entry = {"exact_match": {"score": 0.5, "low": 0.4, "high": 0.6}}
    report = {"schema": REPORT_SCHEMA, "run": {"dataset": "ecg_qa", "fold": "official", "split": "test"}}
    report["scores"] = {"single-verify": {"kind": "short", "conditions": {"ecg": entry, "blind": entry}}}
    (tmp_path / "trained" / "report").mkdir(parents=True)
    (tmp_path / "trained" / "report" / "report.json").write_text(json.dumps(report))
    main = runpy.run_path(str(ROOT / "recipes" / "ecg_lm" / "compare_with_paper.py"))["main"]
    main(tmp_path)
    lines = capsys.readouterr().out.splitlines()
    (line,) = (line for line in lines if line.startswith("| rhythm, by letter, the paper's prompt | 0.670 |"))
    cells = [cell.split(" ")[0] for cell in line.split(" | ")[2:]]
    assert cells == ["0.900", "0.700", "0.600", "0.800", "0.750"] and line.endswith("0.750 (SR) |")
    assert any(
        "40 of 57 ECGs are asked about (12 of no class, 5 of several); of each class SR 33 → 30" in x for x in lines
    )
    for row in ("without pre-training of the encoder | 0.666", "without data expansion | 0.655"):
        assert any(line.startswith(f"| {row} | --no-") for line in lines)
    assert any(line.startswith("| LLaMA2-Chat instead of BioMedGPT-LM | 0.670 |") for line in lines)
    assert "| ECG-QA, single-verify | 0.758 | 0.500 [0.400, 0.600] | — | 0.500 [0.400, 0.600] |" in lines
    path.write_text(json.dumps({"run": {}, "tasks": {}}))
    with pytest.raises(ValueError, match="written by an earlier version of elm-hf; delete it"):
        main(tmp_path)


def test_bad_tasks_are_refused(tiny_elm, simulated_dataset, tmp_path):
    with pytest.raises(ValueError, match="neither a task .diagnostic, rhythm, form. nor a JSON file"):
        load_task("rythm")
    (tmp_path / "bad.json").write_text('{"question": "?"}')
    with pytest.raises(ValueError, match="expected"):
        load_task(str(tmp_path / "bad.json"))
    with pytest.raises(ValueError, match="task 'form': no ECG is of exactly one class.* with --task"):
        zero_shot(tiny_elm, simulated_dataset, ["form"], quiet=True)


def test_the_prompt_lists_the_options():
    content = question_content(TASKS["rhythm"], range(5))
    assert content[0] == {"type": "ecg"}
    assert content[1]["text"].splitlines()[1:3] == ["A. sinus rhythm", "B. sinus tachycardia"]
