"""Evaluation: what is asked, what stands in the ECG's place, what is kept, and what a model that reads or does not gets."""

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TINY_LLM
from datasets import Array2D, Dataset, Features, List, Value
from warm_python import run_python, start_python

from elm_hf.checkpoints.create import create_elm
from elm_hf.checkpoints.load import load_checkpoint
from elm_hf.data.loading import load_elm_dataset
from elm_hf.data.messages import fill_ecgs
from elm_hf.data.tables import load_records
from elm_hf.ecg.surrogates import surrogate_noise
from elm_hf.evaluation import confidences
from elm_hf.evaluation.ablation import SignalAblation, person_text
from elm_hf.evaluation.asker import Asker
from elm_hf.evaluation.evaluate import evaluate
from elm_hf.evaluation.fingerprints import fingerprint_of_questions
from elm_hf.evaluation.occlusion import occlude
from elm_hf.evaluation.questions import list_questions
from elm_hf.evaluation.report_folder import ReportFolder
from elm_hf.inference.generation import Answer, generate_answers, log_likelihoods
from elm_hf.modeling.ecg_leads import LEADS, limb_lead_error
from elm_hf.scoring.names import ALL_CONDITIONS, CONDITIONS
from elm_hf.training.collator import ElmDataCollator


ROOT = Path(__file__).resolve().parents[1]
# Two ECGs of 2 s of each of 24 patients; those with even numbers have a step of 1 mV in V2 from 0.5 to 0.8 s, the others
# a dip as deep, so that noise of the same power tells nothing.
NUM_ECGS, STEP_LEAD, STEP = 48, LEADS.index("V2"), slice(125, 200)
TEXT, TEXTS = Value("string"), List(Value("string"))
MESSAGES = List({"role": TEXT, "content": List({"type": TEXT, "text": TEXT})})
CARD = """---
configs:
- config_name: records
  data_files: [{split: train, path: records.parquet}]
- config_name: fold1
  data_files: [{split: train, path: train.parquet}, {split: test, path: test.parquet}]
- config_name: fold2
  data_files: [{split: train, path: train.parquet}, {split: test, path: none.parquet}]
---
"""


def has_step(record: int) -> bool:
    return record // 2 % 2 == 0


def conversation(name: str, records: list[int], *turns: tuple[str, str]) -> dict:
    messages = []
    for number, (question, answer) in enumerate(turns):
        content = [{"type": "text", "text": question}]
        content = [{"type": "ecg", "text": None}] * (len(records) if number == 0 else 0) + content
        messages.append({"role": "user", "content": content})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    return {
        "conversation_id": name,
        "ecg_index": records,
        "record_ids": [f"r{record}" for record in records],
        "patient_ids": [f"p{record // 2}" for record in records],
        "messages": messages,
        "question_type": "single-verify" if len(turns) == 1 else "dialogue",
        "question": turns[0][0],
        "answer": [turns[0][1]],
    }


def yes(record: int) -> str:
    return "yes" if has_step(record) else "no"


def test_conversations() -> list[dict]:
    """Two questions about each test ECG; one about two ECGs, one of two turns, one in words alone."""
    rows = [
        conversation(f"{letter}{record}", [record], (question, yes(record)))
        for record in range(NUM_ECGS // 2, NUM_ECGS)
        for letter, question in (("a", "Is there a step?"), ("b", "Does this ECG have a step?"))
    ]
    rows.append(conversation("two", [24, 27], ("Do both have a step?", "no")))
    rows.append(conversation("turns", [28], ("Is there a step?", "yes"), ("Is there a step in V2?", "yes")))
    rows.append(conversation("words", [], ("Is a step an ECG?", "no")))
    return rows


test_conversations.__test__ = False


@pytest.fixture(scope="module")
def steps(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "steps"
    folder.mkdir()
    ecgs = np.random.default_rng(0).normal(0, 20, (NUM_ECGS, 12, 500)).astype(np.int16)
    for record in range(NUM_ECGS):
        ecgs[record, STEP_LEAD, STEP] += 1000 if has_step(record) else -1000
    keys = ("record_id", "recording_id", "patient_id", "source")
    features = Features(dict.fromkeys(keys, TEXT) | {"ecg": Array2D((12, 500), "int16")})
    features |= {"sampling_rate": Value("int32"), "segment": Value("int32"), "missing_leads": TEXTS}
    records = [
        {"record_id": f"r{i}", "recording_id": f"r{i}", "patient_id": f"p{i // 2}", "source": "steps", "ecg": ecg}
        | {"sampling_rate": 250, "segment": 0, "missing_leads": []}
        for i, ecg in enumerate(ecgs)
    ]
    Dataset.from_list(records, Features(features)).to_parquet(folder / "records.parquet")
    columns = Features(
        {"conversation_id": TEXT, "ecg_index": List(Value("int64")), "record_ids": TEXTS, "patient_ids": TEXTS}
        | {"messages": MESSAGES, "question_type": TEXT, "question": TEXT, "answer": TEXTS}
    )
    training = [
        conversation(f"{number}-{record}", [record], (question, yes(record)))
        for record in range(NUM_ECGS // 2)
        for number, question in enumerate(("Is there a step?", "Does this ECG have a step?"))
    ]
    for name, rows in (("train", training), ("test", test_conversations()), ("none", [])):
        table = {column: [row[column] for row in rows] for column in columns}
        Dataset.from_dict(table, columns).to_parquet(folder / f"{name}.parquet")
    (folder / "README.md").write_text(CARD)
    return folder


@pytest.fixture(scope="module")
def train_on(steps, tmp_path_factory):
    """Trains a new tiny ELM on the true ECGs of the training patients, or on zeros in their place."""

    def train(condition: str) -> Path:
        folder = tmp_path_factory.mktemp("models") / condition
        config = folder.with_suffix(".json")
        config.write_text(json.dumps({"text_config": TINY_LLM}))
        create_elm(
            folder, config=config, tokenizer_dataset=str(steps), vocab_size=300, num_ecg_tokens=10, seconds=2,
            normalization="none",
        )  # fmt: skip
        model, processor = load_checkpoint(folder)
        rows = load_elm_dataset(steps)
        ablation, collator = SignalAblation(rows, (condition, "ecg")), ElmDataCollator(processor)
        batch = collator([row | {"ecgs": ablation.ecgs(index, condition, 1)} for index, row in enumerate(rows)])
        optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-2, weight_decay=0)
        for _ in range(60):
            model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        model.save_pretrained(folder)
        return folder

    return train


@pytest.fixture(scope="module")
def reader(train_on) -> Path:
    return train_on("ecg")


@pytest.fixture(scope="module")
def report(reader, steps, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("reports") / "reader"
    evaluate(reader, steps, output=folder, num_occlusions=3, max_new_tokens=4, quiet=True)
    return folder


# what stands in the ECG's place


def test_noise_has_the_spectrum_of_each_lead_and_agreeing_limb_leads():
    rng = np.random.default_rng(0)
    ecg = np.cumsum(rng.normal(0, 0.02, (12, 501)), axis=1).astype(np.float32)
    ecg[2:6] = ecg[1] - ecg[0], -(ecg[0] + ecg[1]) / 2, ecg[0] - ecg[1] / 2, ecg[1] - ecg[0] / 2
    noise = surrogate_noise(ecg, np.random.default_rng(1))
    independent = [0, 1, *range(6, 12)]
    spectra = [np.abs(np.fft.rfft(one[independent].astype(float))) for one in (ecg, noise)]
    np.testing.assert_allclose(*spectra, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(noise[2], noise[1] - noise[0], atol=1e-6)
    assert limb_lead_error(noise) is None and limb_lead_error(ecg) is None
    assert np.abs(noise - ecg).max(axis=1).min() > 0.1
    means = np.mean([np.abs(surrogate_noise(ecg, np.random.default_rng(k))[0] - ecg[0]) for k in range(9)], axis=0)
    assert means.min() > 0  # no sample is kept


def test_noise_keeps_absent_leads_absent_and_takes_others_for_them():
    ecg = np.random.default_rng(0).normal(0, 0.1, (12, 400)).astype(np.float32)
    ecg[2] = ecg[1] - ecg[0]
    ecg[4], ecg[5] = (ecg[0] - ecg[2]) / 2, (ecg[1] + ecg[2]) / 2
    ecg[[0, 3, 7]] = np.nan  # I is absent, II and III are independent of each other
    noise = surrogate_noise(ecg, np.random.default_rng(1))
    assert np.isnan(noise).any(axis=1).tolist() == [row in (0, 3, 7) for row in range(12)]
    np.testing.assert_allclose(noise[5], (noise[1] + noise[2]) / 2, atol=1e-6)  # aVF
    np.testing.assert_allclose(noise[4], (noise[1] - 2 * noise[2]) / 2, atol=1e-6)  # aVL = I - II/2, I = II - III


def test_shuffled_ecgs_are_of_other_patients_and_the_same_in_every_run(steps):
    rows = load_elm_dataset(steps, split="test")
    ablation, again, other_seed = (SignalAblation(rows, seed=seed) for seed in (0, 0, 1))
    names = [ablation.names(index, "shuffled", len(rows[index]["record_ids"])) for index in range(len(rows))]
    for index, row in enumerate(rows):
        number = len(row["record_ids"])
        assert len(set(names[index])) == number
        donors = [int(name.removeprefix("ecg r")) for name in names[index]]
        assert {f"p{record // 2}" for record in donors}.isdisjoint(row["patient_ids"])
        ecgs = ablation.ecgs(index, "shuffled", number)
        assert all((ecg[STEP_LEAD, STEP].mean() > 0.5) == has_step(record) for ecg, record in zip(ecgs, donors))
        assert again.names(index, "shuffled", number) == names[index]
    assert names[0] == names[1] != ()  # two questions about one ECG
    assert [other_seed.names(index, "shuffled", 1) for index in range(40)] != [one[:1] for one in names[:40]]


def test_shuffled_ecgs_have_another_true_answer_where_there_is_one(steps):
    rows = load_elm_dataset(steps, split="test")
    questions = list_questions(rows, ["steps"] * NUM_ECGS)
    ablation, again = (SignalAblation(rows, seed=0, questions=questions) for _ in range(2))
    # The comparison, and the second question of the dialogue, are asked once only; one question is about no ECG.
    assert ablation.same_answer == {"two#0", "turns#1"}
    for one in questions.itertuples():
        names = ablation.names(one.row, "shuffled", len(one.record_ids), one.question_id)
        assert again.names(one.row, "shuffled", len(one.record_ids), one.question_id) == names
        donors = [int(name.removeprefix("ecg r")) for name in names]
        assert {f"steps/p{record // 2}" for record in donors}.isdisjoint(one.patient_ids)
        if one.question_id not in ablation.same_answer and donors:
            assert yes(donors[0]) != one.messages_answer
            (ecg,) = ablation.ecgs(one.row, "shuffled", 1, one.question_id)
            assert (ecg[STEP_LEAD, STEP].mean() > 0.5) == has_step(donors[0])


def test_age_and_sex_stand_in_the_place_of_the_ecg(steps):
    rows = load_elm_dataset(steps, split="test")
    persons = [(record, "female" if record % 2 else None) for record in range(NUM_ECGS)]
    ablation = SignalAblation(rows, ALL_CONDITIONS, persons=persons)
    row = next(index for index, one in enumerate(rows) if one["conversation_id"] == "two")
    content = ablation.messages(row, "demographics", rows[row]["messages"][:1])[0]["content"]
    expected = ["Age: 24 years. Sex: unknown.", "Age: 27 years. Sex: female.", "Do both have a step?"]
    assert [item["text"] for item in content] == expected
    assert ablation.names(row, "demographics", 2) == () and ablation.ecgs(row, "demographics", 2) == []
    assert person_text(None, "male") == "Age: unknown. Sex: male."
    for nothing in (None, [(None, None)] * NUM_ECGS):
        with pytest.raises(ValueError, match="needs columns `age` and `sex` in the records"):
            SignalAblation(rows, ("ecg", "demographics"), persons=nothing)


def test_shuffling_needs_another_patient(steps):
    rows = load_elm_dataset(steps, split="test").select([0, 1])
    message = (
        r'"shuffled" needs 1 ECGs of patients other than p12, and there are 0; .*\(--condition ecg --condition zeros\)'
    )
    with pytest.raises(ValueError, match=message):
        SignalAblation(rows, ("ecg", "zeros", "shuffled"))
    assert SignalAblation(rows, ("ecg", "zeros")).names(0, "zeros", 1) == ("zeros",)


@pytest.mark.parametrize(
    "conditions, message",
    [(("ecg", "flat"), "unknown condition flat; there are ecg"), (("zeros",), '"ecg" is missing')],
)
def test_wrong_conditions_are_named(conditions, message, steps):
    with pytest.raises(ValueError, match=message):
        SignalAblation(load_elm_dataset(steps, split="test"), conditions)


# what is asked


def test_every_turn_is_a_question_with_the_true_turns_before_it(steps, reader):
    rows = load_elm_dataset(steps, split="test")
    questions = list_questions(rows, ["steps"] * NUM_ECGS).set_index("question_id")
    assert len(questions) == len(rows) + 1
    second = questions.loc["turns#1"]
    assert (second["question"], second["answer"], second["turn"]) == ("Is there a step in V2?", ["yes"], 1)
    assert questions.loc["two#0", "patient_ids"] == ["steps/p12", "steps/p13"]

    model, processor = load_checkpoint(reader)
    asker = Asker(rows, questions.reset_index(), SignalAblation(rows), CONDITIONS, 4, 8)
    answers = dict(answer for batch in asker.batches for answer in asker.ask(model, processor, batch))
    row = next(row for row in rows if row["conversation_id"] == "turns")
    for position, name in ((1, "turns#0"), (3, "turns#1")):
        prompt = fill_ecgs(row["messages"][:position], list(row["ecgs"]), 250)
        assert answers[asker.same_as[name, "ecg"]] == generate_answers(model, processor, [prompt], 4)[0]


def test_a_system_prompt_opens_every_conversation(steps, reader, tmp_path):
    prompt = "Answer with yes or no."
    options = {"limit": 6, "conditions": ("ecg", "none"), "num_occlusions": 1, "max_new_tokens": 4, "quiet": True}
    report = evaluate(reader, steps, output=tmp_path, system_prompt=prompt, **options)
    assert report["run"]["system_prompt"] == prompt
    assert f'Prompts opened with "{prompt}"' in (tmp_path / "report.md").read_text()
    said = pd.read_parquet(tmp_path / "predictions.parquet").set_index(["question_id", "condition"])["prediction"]
    model, processor = load_checkpoint(reader)
    rows = load_elm_dataset(steps, split="test")
    for index in (0, 50):  # the last has no ECG
        row = rows[index]
        system = {"role": "system", "content": prompt}
        asked = fill_ecgs([system, *row["messages"][:1]], list(row["ecgs"]), 250)
        assert said[f"{row['conversation_id']}#0", "ecg"] == generate_answers(model, processor, [asked], 4)[0].text
    with pytest.raises(ValueError, match="system_prompt is 'Answer with yes or no.' there, None here"):
        evaluate(reader, steps, output=tmp_path, **options)
    processor.system_prompt = prompt
    for part in (model, processor):
        part.save_pretrained(tmp_path / "trained_with_it")
    again = evaluate(tmp_path / "trained_with_it", steps, **options)
    assert again["run"]["system_prompt"] == prompt
    assert again["scores"] == report["scores"]


def test_age_and_sex_are_asked_instead_of_the_ecg(tiny_elm, simulated_dataset, tmp_path):
    options = {
        "limit": 5,
        "conditions": ("ecg", "demographics"),
        "num_occlusions": 0,
        "max_new_tokens": 6,
        "quiet": True,
    }
    evaluate(tiny_elm, simulated_dataset, output=tmp_path, **options)
    assert "Age and sex only: the ECG is replaced" in (tmp_path / "report.md").read_text()
    said = pd.read_parquet(tmp_path / "predictions.parquet").set_index(["question_id", "condition"])["prediction"]
    model, processor = load_checkpoint(tiny_elm)
    rows, records = load_elm_dataset(simulated_dataset, split="test"), load_records(simulated_dataset)
    row = rows[0]
    content = []
    for item in row["messages"][0]["content"]:
        index = row["ecg_index"][len(content)] if item["type"] == "ecg" else None
        person = records[index] if index is not None else None
        text = item["text"] if person is None else f"Age: {person['age']} years. Sex: {person['sex']}."
        content.append({"type": "text", "text": text})
    assert content[0]["text"].startswith("Age: ")
    (expected,) = generate_answers(model, processor, [[{"role": "user", "content": content}]], 6)
    assert said[f"{row['conversation_id']}#0", "demographics"] == expected.text

    identity = json.loads((tmp_path / "run.json").read_text())
    assert identity.pop("controls") == 2
    (tmp_path / "run.json").write_text(json.dumps(identity))  # as an earlier version wrote it
    with pytest.raises(ValueError, match=r"holds another evaluation \(controls is None there, 2 here\)"):
        evaluate(tiny_elm, simulated_dataset, output=tmp_path, **options)


def test_equal_prompts_are_asked_once(steps):
    rows = load_elm_dataset(steps, split="test")
    questions = list_questions(rows, ["steps"] * NUM_ECGS)
    asker = Asker(rows, questions, SignalAblation(rows), CONDITIONS, 4, 8)
    prompts = [prompt for batch in asker.batches for prompt in batch]
    assert len(asker.same_as) == len(questions) * len(CONDITIONS)
    asked = {prompt.key for prompt in prompts}
    assert asked == set(asker.same_as.values()) and len(asked) == len(prompts)
    # wordings with zeros: two single ones, a comparison, a second turn; without ECG the same; one has never any
    assert len({asker.same_as[name, "zeros"] for name in questions["question_id"]} & asked) == 5
    assert {asker.same_as["words#0", condition] for condition in CONDITIONS} == {("words#0", "ecg")}
    assert len({asker.same_as[name, "noise"] for name in questions["question_id"]}) == 24 * 2 + 3
    # the question about both comes last, since the sequence is longer; those about one ECG stand together
    names = [prompt.ecgs for prompt in prompts]
    assert sum(one != following for one, following in zip(names, names[1:])) == len(set(names)) - 1


def test_each_question_type_has_its_longest_answer(steps):
    rows = load_elm_dataset(steps, split="test")
    questions = list_questions(rows, ["steps"] * NUM_ECGS)
    limits = {"single-verify": 2, "dialogue": 9}
    asker = Asker(rows, questions, SignalAblation(rows), CONDITIONS, limits, 8)
    types = questions.set_index("question_id")["question_type"]
    for batch in asker.batches:
        assert {limits[types[prompt.key[0]]] for prompt in batch} == {batch[0].max_new_tokens}
    with pytest.raises(ValueError, match="no number for questions of type dialogue"):
        Asker(rows, questions, SignalAblation(rows), CONDITIONS, {"single-verify": 2}, 8)


# what comes out


def test_a_model_that_reads_the_ecg_is_told_from_one_that_cannot(reader, report, train_on, steps):
    found = json.loads((report / "report.json").read_text())["signal_reliance"]["short"]
    assert found["reads_ecg"] and found["scores"]["ecg"] > 0.9 and max(list(found["scores"].values())[1:]) < 0.75
    donors = json.loads((report / "report.json").read_text())["run"]["donors"]
    assert donors == {"other_answer": 49, "no_other_answer": 2}
    assert (
        "for 49 questions one with which the same question has another true answer"
        in (report / "report.md").read_text()
    )
    blind = evaluate(train_on("zeros"), steps, num_occlusions=0, max_new_tokens=4, quiet=True)
    found = blind["signal_reliance"]["short"]
    assert found["reads_ecg"] is False and found["low"] <= 0
    assert found["sentence"].startswith("No evidence that this model's answers depend on the ECG")


def test_predictions_are_a_row_per_question_and_condition(report, steps):
    predictions = pd.read_parquet(report / "predictions.parquet")
    assert len(predictions) == 52 * len(CONDITIONS) and not predictions.duplicated(["question_id", "condition"]).any()
    assert predictions["condition"].unique().tolist() == list(CONDITIONS)
    with_ecg = predictions[predictions["condition"] == "ecg"].set_index("question_id")
    assert with_ecg.index[:2].tolist() == ["a24#0", "b24#0"]  # in the order of the split
    about_one = with_ecg[with_ecg["record_ids"].map(len) == 1]
    right = [yes(int(names[0][1:])) == said for names, said in zip(about_one["record_ids"], about_one["prediction"])]
    assert np.mean(right) > 0.9
    assert with_ecg["finished"].all() and (with_ecg["num_tokens"] >= 1).all()
    assert with_ecg.loc["two#0", "patient_ids"].tolist() == ["steps/p12", "steps/p13"]
    assert with_ecg.loc["words#0", "patient_ids"].tolist() == []
    assert not list(report.glob("answers-*"))


def test_occlusion_finds_the_lead_and_the_time_that_matter(report, reader, steps):
    saved = np.load(report / "occlusion.npz")
    assert saved["lead_effect"].shape == (3, 12) and saved["ecg"].shape == (3, 12, 500)
    assert saved["windows_s"].tolist() == [[0, 0.5], [0.5, 1], [1, 1.5], [1.5, 2]]
    assert saved["leads"].tolist() == list(LEADS) and len(set(saved["record_id"].tolist())) == 3
    with_step = [has_step(int(name[1:])) for name in saved["record_id"]]
    assert any(with_step)
    assert (saved["lead_effect"][with_step].argmax(axis=1) == STEP_LEAD).all()
    assert (saved["window_effect"][with_step].argmax(axis=1) == 1).all()

    model, processor = load_checkpoint(reader)
    row = load_elm_dataset(steps, split="test")[0]
    effects = occlude(model, processor, row["messages"][:1], row["ecgs"][0], 250, "yes")
    hidden = row["ecgs"][0].copy()
    hidden[STEP_LEAD] = np.median(hidden[STEP_LEAD])
    scores = [
        log_likelihoods(model, processor, [fill_ecgs(row["messages"], [ecg], 250, keep_flat=True)])[0]
        for ecg in (row["ecgs"][0], hidden)
    ]
    assert effects["log_likelihood"] == pytest.approx(scores[0], abs=1e-4)
    assert effects["lead_effect"][STEP_LEAD] == pytest.approx(scores[0] - scores[1], abs=1e-4) and scores[0] > -0.7


# what is kept


# What `accelerate launch` runs where there are several GPUs; on a CPU it would start one process only.
TWO_PROCESSES = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
TWO_PROCESSES += ("--start-method", "fork", "--run-path", ROOT / "elm_hf" / "__main__.py")


def same_predictions(one: Path, other: Path) -> bool:
    tables = [pd.read_parquet(folder / "predictions.parquet") for folder in (one, other)]
    return all(tables[0][name].map(str).equals(tables[1][name].map(str)) for name in tables[0].columns)


def test_a_killed_evaluation_goes_on_where_it_stopped(reader, steps, report, tmp_path):
    folder = tmp_path / "report"
    options = ("--dataset", steps, "--output", folder, "--occlusions", 0, "--max-new-tokens", 4, "--batch-size", 1)
    process = start_python(["-m", "elm_hf", "evaluate", reader, *options])
    answers = folder / "answers-00000.jsonl"
    while not answers.exists() or answers.read_bytes().count(b"\n") < 3:
        assert process.poll() is None, process.error.read_text()
        time.sleep(0.002)
    process.kill()
    process.wait()
    lines = answers.read_text().splitlines(keepends=True)
    assert 3 <= len(lines) < 52 * 4 and not (folder / "predictions.parquet").exists()
    first = json.loads(lines[0]) | {"prediction": "said before"}  # whoever asks again, loses it
    answers.write_text("".join([json.dumps(first) + "\n", *lines[1:3], lines[3][:20] if lines[3:] else '{"quest']))

    evaluate(reader, steps, output=folder, num_occlusions=0, max_new_tokens=4, batch_size=1, quiet=True)
    predictions = pd.read_parquet(folder / "predictions.parquet").set_index(["question_id", "condition"])
    expected = pd.read_parquet(report / "predictions.parquet").set_index(["question_id", "condition"])
    kept = predictions["prediction"] == "said before"
    assert kept[first["question_id"], first["condition"]]
    assert predictions["prediction"][~kept].equals(expected["prediction"][~kept])


def test_an_answer_cut_within_a_letter_is_asked_again(tmp_path):
    folder = ReportFolder(tmp_path, {})
    answers = [((f"q{number}", "ecg"), Answer("Überleitung\u2028\r\nü", 3, True)) for number in range(2)]
    folder.append(0, answers)
    file = tmp_path / "answers-00000.jsonl"
    written = file.read_bytes()
    file.write_bytes(written[: written.rindex("ü".encode()) + 1])
    assert folder.read() == dict(answers[:1])
    folder.cut_unfinished_line(0)
    folder.append(0, answers[1:])
    assert folder.read() == dict(answers)


def test_the_folder_of_a_training_checkpoint_is_refused(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"dataset": ["d"], "fold": "1", "seed": 0}))
    with pytest.raises(ValueError, match="holds the run.json of something else; choose another folder"):
        ReportFolder(tmp_path, {"questions": "a", "seed": 0})


def test_confidences_are_kept_and_an_interruption_changes_none(reader, steps, tmp_path, monkeypatch):
    """The answers of the training questions are yes and no; what was scored before the interruption is not scored again."""
    options = {"conditions": ("ecg", "none"), "limit": 30, "num_occlusions": 0, "max_new_tokens": 4, "batch_size": 8}
    options |= {"quiet": True, "calibration": True}
    whole = evaluate(reader, steps, output=tmp_path / "whole", **options)
    scored, score_answers = [], confidences.score_answers

    def interrupted(batch, *given):
        if len(scored) == 2:
            raise KeyboardInterrupt
        scored.append(batch)
        return score_answers(batch, *given)

    monkeypatch.setattr(confidences, "score_answers", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(reader, steps, output=tmp_path / "cut", **options)
    monkeypatch.setattr(confidences, "score_answers", lambda *given: scored.append(0) or score_answers(*given))
    again = evaluate(reader, steps, output=tmp_path / "cut", **options)
    assert same_predictions(tmp_path / "cut", tmp_path / "whole") and again["calibration"] == whole["calibration"]
    assert not list((tmp_path / "cut").glob("*.jsonl"))
    predictions = pd.read_parquet(tmp_path / "whole" / "predictions.parquet")
    kept = confidences.saved_confidences(ReportFolder(tmp_path / "cut", {}))
    assert len(kept) == len(predictions)
    assert set(predictions["answer_set"]) <= {"template", "yes or no"} and predictions["confidence"].notna().all()
    model, processor = load_checkpoint(reader)
    rows = load_elm_dataset(steps, split="test")
    of_one = predictions[(predictions["condition"] == "ecg") & (predictions["conversation_id"].str.match("a"))].iloc[0]
    row = next(row for row in rows if row["conversation_id"] == of_one["conversation_id"])
    asked = [
        [
            *fill_ecgs(row["messages"][:1], row["ecgs"], 250),
            {"role": "assistant", "content": [{"type": "text", "text": text}]},
        ]
        for text in dict.fromkeys([of_one["prediction"], "yes", "no"])
    ]
    probabilities = np.exp(log_likelihoods(model, processor, asked))
    assert of_one["confidence"] == pytest.approx(probabilities[0] / probabilities.sum(), rel=1e-3)
    assert whole["calibration"]["conditions"]["ecg"]["answers"] == (predictions["condition"] == "ecg").sum()
    assert whole["subgroups"]["kinds"]["short"]["sentence"].startswith("No subgroup")


def test_two_processes_share_the_questions(reader, steps, report, tmp_path):
    options = ("--dataset", steps, "--output", tmp_path / "two", "--occlusions", 0, "--max-new-tokens", 4)
    done = run_python([*TWO_PROCESSES, "evaluate", reader, *options])
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Report in") == 1
    assert same_predictions(tmp_path / "two", report)
    assert json.loads((tmp_path / "two" / "report.json").read_text())["run"]["processes"] == 2


def test_the_same_run_gives_the_same_bits_and_another_run_is_refused(reader, steps, report, train_on, tmp_path):
    options = {"num_occlusions": 0, "max_new_tokens": 4, "quiet": True}
    evaluate(reader, steps, output=tmp_path, **options)
    assert same_predictions(tmp_path, report)
    evaluate(reader, steps, output=tmp_path, **options)  # the same again only writes the report
    for change, message in (
        ({"max_new_tokens": 5}, "max_new_tokens is 4 there, 5 here"),
        ({"limit": 10}, "questions is "),
        ({"seed": 1}, "seed is 0 there, 1 here"),
    ):
        with pytest.raises(ValueError, match=f"holds another evaluation .*{message}"):
            evaluate(reader, steps, output=tmp_path, **(options | change))
    model, _ = load_checkpoint(reader)
    model.model.language_model.layers[0].mlp.up_proj.weight.data += 1e-3  # trained on, in the same place
    before = (reader / "model.safetensors").read_bytes()
    model.save_pretrained(reader)
    with pytest.raises(ValueError, match="holds another evaluation .*weights is"):
        evaluate(reader, steps, output=tmp_path, **options)
    (reader / "model.safetensors").write_bytes(before)
    template = (reader / "chat_template.jinja").read_text()
    (reader / "chat_template.jinja").write_text("Hello! " + template)
    with pytest.raises(ValueError, match=r"holds another evaluation \(processor is"):
        evaluate(reader, steps, output=tmp_path, **options)
    (reader / "chat_template.jinja").write_text(template)
    (tmp_path / "run.json").unlink()
    with pytest.raises(ValueError, match=r"holds results \(predictions.parquet\) of an unknown evaluation"):
        evaluate(reader, steps, output=tmp_path, **options)


def test_a_dataset_built_again_is_told_from_the_one_before(steps, tmp_path):
    rows = load_elm_dataset(steps, split="test")
    questions = list_questions(rows, ["steps"] * NUM_ECGS)
    found = fingerprint_of_questions(questions, rows)
    copy, louder = (Path(shutil.copytree(steps, tmp_path / name)) for name in ("copy", "louder"))
    assert fingerprint_of_questions(questions, load_elm_dataset(copy, split="test")) == found
    records = Dataset.from_parquet(str(steps / "records.parquet"))
    records.map(lambda row: {"ecg": np.array(row["ecg"]) * 2}).to_parquet(louder / "records.parquet")
    assert fingerprint_of_questions(questions, load_elm_dataset(louder, split="test")) != found
    with_neighbours = rows.with_format(None).map(lambda row: {"messages": [row["messages"][0]] + row["messages"]})
    with_neighbours = with_neighbours.with_format(rows.format["type"], **rows.format["format_kwargs"])
    assert fingerprint_of_questions(questions.assign(position=2), with_neighbours) != found


def test_conversations_of_one_name_are_refused_before_they_are_asked(steps):
    rows = load_elm_dataset(steps, split="test").select([0, 1, 1])
    with pytest.raises(ValueError, match="1 conversation_id stand for several conversations, such as b24 for 2"):
        list_questions(rows, ["steps"] * NUM_ECGS)
    with pytest.raises(ValueError, match="not of the type that predictions.parquet has: .*template_id"):
        list_questions(rows.select([0, 1]).add_column("template_id", ["a", "b"]), ["steps"] * NUM_ECGS)


def test_answers_without_words_are_no_truth(steps):
    rows = load_elm_dataset(steps, split="test").with_format(None).select([0, 1]).to_list()
    rows[0]["answer"], rows[1]["messages"][1]["content"][0]["text"] = [None, "no"], None
    questions = list_questions(Dataset.from_list(rows), ["steps"] * NUM_ECGS)
    assert questions["answer"].tolist() == [["no"], ["yes"]] and questions["messages_answer"].tolist() == ["yes", ""]


def test_a_model_that_computes_nan_does_not_answer(reader, steps, tmp_path):
    model, processor = load_checkpoint(reader)
    model.model.language_model.layers[0].mlp.up_proj.weight.data[:] = torch.nan
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"questions .*: .* computes NaN: its training has diverged, or .*float32"):
        evaluate(tmp_path, steps, limit=4, conditions=("ecg", "ecg"), quiet=True)


def test_what_cannot_be_evaluated_is_named(reader, steps, tmp_path):
    with pytest.raises(ValueError, match="no 'fold3'; available: fold1, fold2"):
        evaluate(reader, steps, fold=3)
    with pytest.raises(ValueError, match="fold 2, test, of .*steps cannot be evaluated: .* no data"):
        evaluate(reader, steps, fold=2)
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors", "generation_config.json"):
        os.link(reader / name, bare / name)
    with pytest.raises(ValueError, match="bare: processor_config.json is missing"):
        evaluate(bare, steps, output=tmp_path / "report")
    assert not (tmp_path / "report").exists()
