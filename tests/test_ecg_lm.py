"""The ECG-LM recipe: descriptions of ECGs, alignment text, dropped leads, costs, and the recipe itself."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file
from transformers import AutoProcessor
from typer.testing import CliRunner

from elm_hf.cli import app
from elm_hf.data.loading import load_elm_dataset
from elm_hf.data.tables import load_records
from elm_hf.descriptions.describe import describe_records
from elm_hf.descriptions.ptb_xl_plus import read_12sl_features
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.prepare.dataset import prepare_dataset
from elm_hf.pretrain.data import load_pretraining_records
from elm_hf.training import sft
from elm_hf.training.alignment import AlignmentCollator, alignment_conversations, alignment_messages, drop_leads
from elm_hf.training.cost_file import read_costs
from elm_hf.training.costs import RunCosts


ROOT = Path(__file__).resolve().parents[1]
PERSON = {"age": 60, "sex": "male", "height_cm": 170.0, "weight_kg": 70.4}


def description(**changes) -> dict:
    """Description of an ECG with two general findings and one finding each in II and V1."""
    leads = [["ST elevation (0.12 mV)"] if lead in ("II", "V1") else [] for lead in LEADS]
    general = ["bradycardia (48 beats per minute)", "left axis deviation (-40 degrees)"]
    return PERSON | {"report": "Sinus bradycardia.", "general": general, "leads": leads} | changes


def words(messages: list[dict], role: str | None = None) -> str:
    return "".join(
        item["text"] or "<ecg>"
        for message in messages
        if role in (None, message["role"])
        for item in message["content"]
    )


@pytest.fixture(scope="module")
def descriptions(simulated_dataset, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("descriptions") / "ecg_lm.parquet"
    describe_records(simulated_dataset, path)
    return path


@pytest.fixture(scope="module")
def ptb_xl(shared_data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ptb_xl") / "built"
    prepare_dataset("ptb_xl", folder, source=shared_data / "ptb_xl", num_folds=0, max_skipped=0.5)
    return folder


def test_the_text_is_the_template():
    assert words(alignment_messages(description())) == (
        "This person is a 60-year-old male with a height of 170 cm and a weight of 70 kg. The ECG signal is <ecg>. "
        "The ECG report indicates Sinus bradycardia. The anomalies in general: bradycardia (48 beats per minute), "
        "left axis deviation (-40 degrees), lead II: ST elevation (0.12 mV), lead V1: ST elevation (0.12 mV)"
    )


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"height_cm": None}, "a 60-year-old male with a weight of 70 kg. The"),
        ({"weight_kg": None}, "a 60-year-old male with a height of 170 cm. The"),
        ({"height_cm": None, "weight_kg": None}, "a 60-year-old male. The"),
        ({"height_cm": None, "weight_kg": None, "age": None, "sex": None}, "a patient. The"),
        ({"general": [], "leads": [[]] * 12}, "The anomalies in general: none"),
    ],
)
def test_unknown_values_are_omitted(changes, text):
    assert text in words(alignment_messages(description(**changes)))


def test_the_loss_covers_the_report_and_the_descriptions_only(tiny_elm, ecgs):
    processor = AutoProcessor.from_pretrained(tiny_elm, trust_remote_code=True)
    template = processor.tokenizer.chat_template
    row = {"messages": alignment_messages(description()), "ecgs": [ecgs[0]], "sampling_rate": 250, "expansion": 0}
    batch = AlignmentCollator(processor)([row])
    ids, labels = batch["input_ids"][0], batch["labels"][0]
    labelled = processor.tokenizer.decode(ids[labels != -100])
    expected = words(row["messages"], "assistant")
    assert labelled.replace("<|end|>", "").replace(" ", "") == expected.replace(" ", "")
    assert labelled.count("<|end|>") == sum(message["role"] == "assistant" for message in row["messages"])
    text = processor.tokenizer.decode(ids, skip_special_tokens=True)
    assert text.endswith("lead V1: ST elevation (0.12 mV).") and "assistant" not in text
    assert processor.tokenizer.chat_template == template


def test_leads_are_dropped_described_ones_first_but_never_all(ecgs):
    told = ["I", "III", "aVL", "V2", "V3", "V4", "V5", "V6"]
    cases = {0: [], 1: ["V3"], 3: ["I", "V1", "V6"], 8: told, 12: list(LEADS)}
    for number, named in cases.items():
        messages = alignment_messages(description(leads=[["x"] if lead in named else [] for lead in LEADS]))
        counts = set()
        for seed in range(60):
            kept, ecg, dropped = drop_leads(messages, ecgs[0], np.random.default_rng(seed))
            counts.add(len(dropped))
            gone = set(dropped) & set(named)
            assert len(gone) == min(len(dropped), max(number - 1, 0))
            assert {lead for lead in named if f"lead {lead}: " not in words(kept)} == gone
            assert {lead for lead, row in zip(LEADS, ecg) if np.isnan(row).all()} == set(dropped)
            assert len(kept) == len(messages) - 2 * len(gone)
        assert counts == {4, 5, 6}
    assert np.isfinite(ecgs[0]).all()


def test_a_missing_lead_is_not_dropped_again(ecgs):
    ecg = ecgs[0].copy()
    ecg[6:] = np.nan
    _, left, dropped = drop_leads(alignment_messages(description()), ecg, np.random.default_rng(0))
    assert len(dropped) in (4, 5) and np.isfinite(left[:6]).any()


def test_dropped_leads_differ_between_epochs_and_are_reproducible(simulated_dataset, descriptions, tiny_elm):
    rows = alignment_conversations(load_elm_dataset(simulated_dataset), descriptions, data_expansion=1)
    whole, expanded = (rows.filter(lambda row, n=n: row["expansion"] == n, load_from_cache_file=False) for n in (0, 1))
    collator = AlignmentCollator(AutoProcessor.from_pretrained(tiny_elm, trust_remote_code=True), seed=3)
    masks = []
    for epoch in (0, 1, 0):
        collator.epoch = epoch
        masks.append(collator([expanded[n] for n in range(6)])["ecg_lead_mask"].numpy())
    assert set((~masks[0]).sum(axis=1)) <= {4, 5, 6}
    assert (masks[0] == masks[2]).all() and (masks[0] != masks[1]).any()
    assert collator([whole[n] for n in range(6)])["ecg_lead_mask"].all()


def test_alignment_uses_only_the_training_ecgs_of_the_fold(simulated_dataset, descriptions):
    for fold in (1, 4):
        train, test = (load_elm_dataset(simulated_dataset, fold, split) for split in ("train", "test"))
        rows = alignment_conversations(train, descriptions, data_expansion=2)
        trained = [names[0] for names in rows["record_ids"]]
        assert set(trained) == {name for names in train["record_ids"] for name in names}
        assert not set(trained) & {name for names in test["record_ids"] for name in names}
        assert len(trained) == 3 * len(set(trained)) and len(set(rows["conversation_id"])) == len(trained)
    record = load_records(simulated_dataset)[rows[0]["ecg_index"][0]]
    assert record["record_id"] == trained[0] and record["report"].rstrip(".") in words(rows[0]["messages"])
    assert np.allclose(rows[0]["ecgs"][0], np.array(record["ecg"]) / 1000)


def test_without_feature_sentences_only_the_report_is_used(simulated_dataset, descriptions):
    rows = alignment_conversations(load_elm_dataset(simulated_dataset), descriptions, feature_sentences=False)
    assert all(len(messages) == 2 and "anomalies" not in words(messages) for messages in rows["messages"])


def test_descriptions_of_other_records_are_refused(simulated_dataset, descriptions, tmp_path):
    table = pq.read_table(descriptions)
    pq.write_table(
        table.set_column(0, "record_id", [[f"x{number}" for number in range(200)]]), tmp_path / "other.parquet"
    )
    with pytest.raises(ValueError, match="none of its 200 records is among the .* of the dataset"):
        alignment_conversations(load_elm_dataset(simulated_dataset), tmp_path / "other.parquet")


def test_other_files_than_descriptions_are_refused(simulated_dataset, descriptions, tmp_path):
    conversations = load_elm_dataset(simulated_dataset)
    with pytest.raises(FileNotFoundError, match="none.parquet: no such file; --descriptions takes the table"):
        alignment_conversations(conversations, tmp_path / "none.parquet")
    (tmp_path / "table.csv").write_text("record_id,report\n")
    with pytest.raises(ValueError, match="table.csv: not a Parquet file of elm-hf describe"):
        alignment_conversations(conversations, tmp_path / "table.csv")
    pq.write_table(pq.read_table(descriptions).drop_columns(["general"]), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="other.parquet: not a table of elm-hf describe .missing columns: general"):
        alignment_conversations(conversations, tmp_path / "other.parquet")


def test_simulated_findings_are_described(simulated_dataset, descriptions):
    label_of = dict(zip(*load_records(simulated_dataset).select_columns(["record_id", "labels"])[:].values()))
    fast = [
        row for row in pq.read_table(descriptions).to_pylist() if "sinus tachycardia" in label_of[row["record_id"]]
    ]
    assert len(fast) > 3
    assert all(any(text.startswith("tachycardia (") for text in row["general"]) for row in fast)
    assert {row["features_from"] for row in fast} == {"measure_ecg"}


def table_12sl(folder: Path, rows: list[dict]) -> Path:
    columns = ["HR_Ventr", "P_Dur", "PR_Int", "QRS_Dur", "QT_Int", "QT_IntBazett", "R_AxisFrontal"]
    names = [f"{name}_Global" for name in columns]
    names += [f"{name}_{lead}" for name in ("Q_Dur", "Q_Amp", "R_Amp", "S_Amp", "ST_Amp", "T_Amp") for lead in LEADS]
    (folder / "features").mkdir(parents=True)
    with (folder / "features" / "12sl_features.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["ecg_id", *names], restval="")
        writer.writeheader()
        writer.writerows(rows)
    return folder


def test_the_12sl_table_is_read(tmp_path):
    row = {"ecg_id": 6000, "HR_Ventr_Global": 72, "S_Amp_V1": -1.4, "R_Amp_V5": 2.4, "R_Amp_V6": "", "Q_Amp_II": -0.2}
    found = read_12sl_features(table_12sl(tmp_path, [row]))["6000"]
    assert found["heart_rate"] == 72 and found["s_mv_V1"] == 1.4 and found["q_mv_II"] == 0.2
    assert found["sokolow_mv"] == pytest.approx(3.8)
    assert np.isnan(found["cornell_mv"]) and np.isnan(found["pr_ms"])
    (tmp_path / "features" / "12sl_features.csv").write_text("ecg_id,HR\n1,2\n")
    with pytest.raises(ValueError, match="no column HR_Ventr_Global, "):
        read_12sl_features(tmp_path)
    with pytest.raises(FileNotFoundError, match="expected the folder of PTB-XL"):
        read_12sl_features(tmp_path / "features")


def test_ptb_xl_is_described(ptb_xl, shared_data, tmp_path):
    plus = table_12sl(
        tmp_path / "plus", [{"ecg_id": 6000, "PR_Int_Global": 240, "ST_Amp_II": 0.15, "ST_Amp_aVF": 0.12}]
    )
    made = describe_records(ptb_xl, tmp_path / "all.parquet", shared_data / "ptb_xl", plus, reports="original")
    rows = {row["record_id"]: row for row in pq.read_table(tmp_path / "all.parquet").to_pylist()}
    one = rows["ptb_xl-6000-0"]
    assert (one["age"], one["sex"], one["height_cm"], one["weight_kg"]) == (59, "female", 158, None)
    assert one["general"] == ["prolonged PR interval (240 ms)"] and one["features_from"] == "12SL"
    assert one["leads"][1] == ["ST elevation (0.15 mV)"]
    assert made["records"] == len(rows) and made["features"] == {"12SL": 1, "measure_ecg": len(rows) - 1}
    languages = {name: row["language"] for name, row in rows.items()}
    assert languages["ptb_xl-6001-0"] == "de" and languages["ptb_xl-6003-0"] == "de"
    assert languages["ptb_xl-6000-0"] == languages["ptb_xl-6004-0"] == "en"


def test_reports_in_other_languages_require_a_choice_by_the_user(ptb_xl, tmp_path):
    out = tmp_path / "out.parquet"
    with pytest.raises(
        ValueError, match=r"2 of \d reports are not in English: translate them .* or choose --reports english"
    ):
        describe_records(ptb_xl, out)
    assert not out.exists()
    made = describe_records(ptb_xl, out, reports="english")
    assert made["left_out"] == {"not in English": 2}
    assert set(pq.read_table(out)["language"].to_pylist()) == {"en"}
    german = "sinustachykardie lagetyp normal sonst normales ekg"
    with (tmp_path / "own.csv").open("w") as file:
        file.write(f"report,language,translation,translator\n{german},de,Sinus tachycardia.,a cardiologist\n")
    made = describe_records(ptb_xl, out, translations=tmp_path / "own.csv")
    assert made["translated"] == 1 and made["left_out"] == {"no translation": 1}
    translated = [row for row in pq.read_table(out).to_pylist() if row["translator"]]
    assert [(row["report"], row["language"], row["translator"]) for row in translated] == [
        ("Sinus tachycardia.", "de", "a cardiologist")
    ]


def test_conversations_are_selected_by_question_type(simulated_dataset):
    rows = load_elm_dataset(simulated_dataset, question_types=["single-verify", "single-query"])
    assert set(rows["question_type"]) == {"single-verify", "single-query"} and rows[0]["ecgs"][0].shape == (12, 500)
    with pytest.raises(ValueError, match="no conversation has question_type verify; found .*single-choose"):
        load_elm_dataset(simulated_dataset, question_types=["verify"])


def test_the_encoder_is_not_trained_on_patients_of_the_test_questions(tmp_path):
    for name, seed in (("classes", 0), ("questions", 7)):
        prepare_dataset("simulated_reports", tmp_path / name, seconds=2, num_recordings=30)
        if seed:  # the same patients in different folds
            prepare_dataset(
                "simulated_reports", tmp_path / name, seconds=2, num_recordings=30, num_folds=3, overwrite=True
            )
    paths = [tmp_path / "classes"]
    found = load_pretraining_records(paths, 1, "class", tmp_path / "questions")
    owner = load_records(tmp_path / "classes")["patient_id"]
    trained = {owner[row] for row in found.train["row"]}
    tested = {
        owner[row]
        for name in ("classes", "questions")
        for split in ("validation", "test")
        for rows in load_elm_dataset(tmp_path / name, 1, split)["ecg_index"]
        for row in rows
    }
    assert trained and not trained & tested and trained | tested == set(owner)
    assert len(found.train) < len(load_pretraining_records(paths, 1, "class").train)
    with pytest.raises(ValueError, match="name the fold"):
        load_pretraining_records(paths, None, None, tmp_path / "questions")


def arguments(model: Path, dataset: Path, output: Path, *more: str) -> list[str]:
    return [
        *("--model_name_or_path", str(model), "--dataset", str(dataset), "--output_dir", str(output), *more),
        *(
            "--num_train_epochs",
            "1",
            "--per_device_train_batch_size",
            "8",
            "--logging_steps",
            "1",
            "--report_to",
            "none",
        ),
        *("--use_cpu", "--bf16", "false", "--save_strategy", "no", "--disable_tqdm", "true"),
    ]


def test_training_records_its_costs(tiny_elm, simulated_dataset, descriptions, tmp_path):
    given = arguments(tiny_elm, simulated_dataset, tmp_path / "out", "--descriptions", str(descriptions))
    sft.train(sft.build_trainer(*sft.parse([*given, "--trainable", "projector"])))
    rows = alignment_conversations(load_elm_dataset(simulated_dataset), descriptions)
    collator = AlignmentCollator(AutoProcessor.from_pretrained(tiny_elm, trust_remote_code=True))
    found = read_costs(tmp_path / "out")
    assert found["samples"] == len(rows) and found["steps"] == -(-len(rows) // 8)
    assert found["tokens"] == sum(collator([row])["input_ids"].numel() for row in rows)
    assert found["seconds"] > 0 and 0 < found["processor_seconds"] < 60
    assert found["processes"] == 1 and found["device"] == "cpu"
    table = CliRunner().invoke(app, ["costs", f"one={tmp_path / 'out'}", f"two={tmp_path / 'out'},{tmp_path / 'out'}"])
    assert table.exit_code == 0, table.output
    one, two = (line.split(" | ") for line in table.stdout.splitlines()[2:])
    assert one[3] == f"{len(rows):,}" and two[3] == f"{2 * len(rows):,}" and two[5:7] == ["2.00", "2.00"]


def test_the_time_before_an_interruption_is_included():
    before = RunCosts(100)
    before.seconds_before, before.processor_seconds_before = 50.0, 40.0
    before.on_train_begin(None, None, None)
    after = RunCosts.from_state(before.state())
    assert after.num_samples == 100 and 50 <= after.seconds_before < 51
    assert 40 <= after.processor_seconds_before < 41


def test_costs_of_an_unfinished_run_are_refused(tmp_path):
    failed = CliRunner().invoke(app, ["costs", f"one={tmp_path}"])
    assert isinstance(failed.exception, FileNotFoundError)
    assert "expected the output folder of a training run that has ended" in str(failed.exception)


@pytest.mark.parametrize(
    "more, message",
    [
        (["--data_expansion", "1"], "expected 0 or more, together with --descriptions"),
        (["--descriptions", "d.parquet", "--data_expansion", "-1"], "--data_expansion is -1; expected 0 or more"),
        (["--descriptions", "d.parquet", "--pack_by_ecg", "8"], "leave out --pack_by_ecg"),
    ],
)
def test_conflicting_options_are_refused(tmp_path, more, message):
    with pytest.raises(ValueError, match=message):
        sft.parse(arguments(tmp_path, tmp_path, tmp_path / "out", *more))


def recipe(name: str, folder: Path, *options: str) -> subprocess.CompletedProcess:
    """Runs `run.sh` of a recipe with the output folder `folder`."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = ["sh", str(ROOT / "recipes" / name / "run.sh"), *options]
    environment = os.environ | {"PATH": path, "SMOKE_OUTPUT": str(folder)}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.timeout(1500)  # eleven processes that import torch: five minutes on an idle machine
def test_the_recipe_runs_from_the_first_phase_to_the_last(tmp_path):
    ran = recipe("ecg_lm", tmp_path, "--smoke")
    assert ran.returncode == 0, ran.stderr[-3000:]
    before, aligned, trained = (
        load_file(tmp_path / name / "model.safetensors") for name in ("elm", "aligned", "trained")
    )
    changed = {name.split(".")[1] for name in before if not before[name].equal(aligned[name])}
    assert changed == {"encoder", "projector"}
    assert any(not aligned[name].equal(trained[name]) for name in aligned if "language_model" in name)
    encoder = load_file(tmp_path / "encoder" / "model.safetensors")
    pretrained = {name.removeprefix("ecg_resnet."): value for name, value in encoder.items() if "ecg_resnet" in name}
    assert all(value.equal(before[f"model.encoder.{name}"]) for name, value in pretrained.items())
    assert "| ECG-QA, single-verify | 0.758 |" in ran.stdout
    for prompt in ("the paper's prompt", "our prompt"):
        (line,) = (
            one for one in ran.stdout.splitlines() if one.startswith(f"| rhythm, by letter, {prompt} | 0.670 |")
        )
        assert "—" not in line  # this run, the controls and the most frequent class
    assert "| without data expansion | 0.655 | --no-data-expansion |" in ran.stdout
    assert "ECGs are asked about" in ran.stdout and "0.817 (rhythm, above the paper's 0.670)" in ran.stdout
    assert "| ECG-LM | 3 |" in ran.stdout  # runs: encoder, alignment, fine-tuning
    asked = json.loads((tmp_path / "trained/report/report.json").read_text())["conditions"]
    assert asked["ecg"]["answers"] == 24


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_comparison_prints_its_table(tmp_path):
    ran = recipe("comparison", tmp_path, "--smoke", "patch")
    assert ran.returncode == 0, ran.stderr[-3000:]
    table = [line for line in ran.stdout.splitlines() if line.startswith("|")][-3:]
    assert table[0].startswith("| recipe | runs | seconds | samples | tokens |") and table[2].startswith(
        "| patch | 1 |"
    )
    assert f"| {read_costs(tmp_path / 'patch/trained')['tokens']:,} |" in table[2]
    again = recipe("comparison", tmp_path, "--smoke", "patch")
    assert "elm_hf.training.sft" not in again.stdout and table[2] in again.stdout


@pytest.mark.parametrize(
    "name, options, message",
    [("ecg_lm", ["--smok"], "unknown option --smok"), ("comparison", ["--smoke", "pach"], "unknown recipe pach")],
)
def test_recipes_refuse_unknown_options(tmp_path, name, options, message):
    if name == "comparison":
        (tmp_path / "data").mkdir()  # so that the recipe does not build a dataset
    ran = recipe(name, tmp_path, *options)
    assert ran.returncode == 2 and message in ran.stderr
