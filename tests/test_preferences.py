"""Training on pairs of answers: every forward sees the ECGs, the losses are those of the papers, pairs come from answers."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from test_modeling_elm import compose

from elm_hf.checkpoints.load import load_checkpoint
from elm_hf.cli import app
from elm_hf.data.loading import load_elm_dataset
from elm_hf.data.messages import fill_ecgs, text_message
from elm_hf.data.preferences import Preference, read_preferences, write_preferences
from elm_hf.data.seen_patients import read_stages
from elm_hf.evaluation.evaluate import evaluate
from elm_hf.inference.generation import log_likelihoods
from elm_hf.modeling.modeling_elm import ElmModel
from elm_hf.prepare.preferences import prepare_preferences
from elm_hf.training import dpo, kto
from elm_hf.training.collator import ElmDataCollator
from elm_hf.training.cost_file import COSTS_NAME
from elm_hf.training.preference_data import PairCollator, unpaired
from elm_hf.training.sft import parse, train
from elm_hf.training.shared_prompts import SharedPrompts
from elm_hf.utils.reports import REPORT_SCHEMA


TRAINERS = {"dpo": dpo, "kto": kto}


def spy_on_forward(monkeypatch) -> list[tuple[int, int]]:
    """For each later call of any ELM the number of places for ECGs in the text, and the number of ECGs."""
    seen, forward = [], ElmModel.forward

    def spy(self, *args, **kwargs):
        ids, ecgs = kwargs["input_ids"], kwargs.get("ecg_values")
        places = int((ids == self.config.ecg_token_id).sum()) // self.config.num_ecg_tokens
        seen.append((places, 0 if ecgs is None else len(ecgs)))
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(ElmModel, "forward", spy)
    return seen


@pytest.fixture(scope="module")
def pairs(simulated_dataset, tmp_path_factory):
    """The true answer and a wrong one to questions of training and validation patients."""
    found = []
    for split, number in (("train", 12), ("validation", 4)):
        rows = load_elm_dataset(simulated_dataset, 1, split).select(range(number)).with_format(None)
        found += [Preference(row["conversation_id"], 0, ", ".join(row["answer"]), "a wrong answer") for row in rows]
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    write_preferences(found, path)
    return path


def arguments(model, dataset, pairs, output, *more: str) -> list[str]:
    return [
        *("--model_name_or_path", str(model), "--dataset", str(dataset), "--preferences", str(pairs)),
        *("--output_dir", str(output), "--max_steps", "2", "--per_device_train_batch_size", "4"),
        *("--learning_rate", "1e-2", "--logging_steps", "1", "--report_to", "none", "--use_cpu", "--bf16", "false"),
        *("--save_strategy", "no", "--disable_tqdm", "true", *more),
    ]


def build(method: str, *args):
    return TRAINERS[method].build_trainer(*parse(arguments(*args), TRAINERS[method].ARGUMENTS))


@pytest.mark.parametrize("how", ["full", "lora"])
@pytest.mark.parametrize("method", TRAINERS)
def test_every_forward_sees_the_ecgs(method, how, tiny_elm, simulated_dataset, pairs, tmp_path, monkeypatch):
    """Those of the trained model, of the reference, and of the evaluation."""
    options = ("--use_peft", "--trainable", "projector", "llm") if how == "lora" else ()
    options += ("--eval_strategy", "epoch", "--eval_samples", "0")  # no generation, whose later steps read words only
    trainer = build(method, tiny_elm, simulated_dataset, pairs, tmp_path / "out", *options)
    seen = spy_on_forward(monkeypatch)
    train(trainer)
    assert seen and all(places == ecgs > 0 for places, ecgs in seen)
    history = trainer.state.log_history
    if method == "dpo":
        assert seen[:2] == [(4, 4), (4, 4)]  # each prompt of four pairs once: the model, the reference
        # Before the first step the model is its own reference: -log sigmoid(0).
        assert history[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
        assert history[0]["rewards/margins"] == pytest.approx(0, abs=1e-4)
    else:
        assert seen[:4] == [(4, 4)] * 4  # answers and answers of other rows; the model, the reference
        assert history[0]["loss"] == pytest.approx(0.5, abs=1e-4)  # 1 - sigmoid(0)
    assert any("eval_loss" in entry for entry in history)


def test_the_margin_rises_and_the_adapter_and_its_patients_are_saved(tiny_elm, simulated_dataset, pairs, tmp_path):
    out = tmp_path / "out"
    options = ("--use_peft", "--trainable", "projector", "llm", "--max_steps", "6", "--beta", "1")
    trainer = build("dpo", tiny_elm, simulated_dataset, pairs, out, *options)
    train(trainer)
    margins = [entry["rewards/margins"] for entry in trainer.state.log_history if "rewards/margins" in entry]
    assert margins[-1] > 1 > abs(margins[0])
    model, processor = load_checkpoint(out)
    before, _ = load_checkpoint(tiny_elm)
    row = trainer.train_dataset[0]
    answers = [
        fill_ecgs([*row["messages"], text_message("assistant", row[side])], row["ecgs"], row["sampling_rate"])
        for side in ("chosen", "rejected")
    ]
    # The reward of DPO: how much more probable than before, worked out without the trainer.
    gain = log_likelihoods(model, processor, answers) - log_likelihoods(before, processor, answers)
    assert gain[0] - gain[1] > 1
    assert [stage.kind for stage in read_stages(out)][-1] == "preferences"
    assert json.loads((out / COSTS_NAME).read_text())["samples"] == 6 * 4  # the pairs of its steps


def test_only_the_last_answer_is_scored(tiny_elm, simulated_dataset):
    _, processor = load_checkpoint(tiny_elm)
    row = load_elm_dataset(simulated_dataset, 1, "train")[0]
    earlier = [*row["messages"], text_message("user", "And the axis?")]
    batch = PairCollator(processor, None)([{**row, "messages": earlier, "chosen": "normal axis", "rejected": "left"}])
    for side, ids, mask in zip(("normal axis", "left"), batch["input_ids"], batch["completion_mask"].bool()):
        assert processor.decode(ids[mask], skip_special_tokens=True).strip() == side
    assert len(batch["ecg_values"]) == len(row["ecgs"])


@pytest.mark.parametrize("shares_prompts", [True, False])
def test_the_prompt_of_a_pair_is_read_once_and_hidden_states_are_those_of_separate_rows(shares_prompts, ecgs):
    """The second pair has two ECGs and a longer prompt; where the LLM cannot share, only the ECGs are read once."""
    model, processor = compose("qwen2", "resnet_mlp")
    questions = [
        [ecgs[:1], "Rhythm?"],
        [ecgs[1:], "Does the second ECG show a new finding?"],
        [ecgs[:0], "What is AF?"],
    ]
    rows = [
        {
            "messages": [
                {"role": "user", "content": [{"type": "ecg"}] * len(those) + [{"type": "text", "text": text}]}
            ],
            "ecgs": list(those),
            "sampling_rate": 250,
            "chosen": "sinus rhythm",
            "rejected": "yes, and another finding",
        }
        for those, text in questions
    ]
    separate = ElmDataCollator(processor)(
        [
            row | {"messages": [*row["messages"], text_message("assistant", row[side])]}
            for side in ("chosen", "rejected")
            for row in rows
        ]
    )
    expected = model.model(**{name: separate[name] for name in separate if name != "labels"}).last_hidden_state
    collator = PairCollator(processor, None)
    collator.shares_prompts = shares_prompts
    batch = collator(rows)
    for name in ("input_ids", "attention_mask"):
        assert batch[name].equal(separate[name])
    assert batch.pop("completion_mask").bool().equal(separate["labels"] != -100)
    SharedPrompts(model.model)
    read, tokens = [], []
    model.model.encoder.register_forward_pre_hook(lambda _, args: read.append(len(args[0])))
    model.model.language_model.register_forward_pre_hook(
        lambda _, args, inputs: tokens.append(inputs["inputs_embeds"].shape[:2]), with_kwargs=True
    )
    found = model.model(**batch).last_hidden_state
    is_token = separate["attention_mask"].bool()
    assert torch.allclose(found[is_token], expected[is_token], atol=1e-5)
    assert read == [3] and tokens[0][0] == (3 if shares_prompts else 6)


def test_the_loss_is_that_of_dpo_with_answers_apart(tiny_elm, simulated_dataset, pairs, tmp_path):
    trainer = build("dpo", tiny_elm, simulated_dataset, pairs, tmp_path / "out", "--beta", "0.5")
    assert trainer.data_collator.shares_prompts
    torch.manual_seed(0)
    for weight in trainer.model.parameters():  # so that the model is no longer its reference
        weight.data += 0.02 * torch.randn_like(weight)
    trainer.model.eval()
    rows = [trainer.train_dataset[row] for row in range(4)]
    with torch.no_grad():
        loss = trainer.compute_loss(trainer.model, trainer.data_collator(rows)).item()
    (before, processor), gains = load_checkpoint(tiny_elm), []
    for side in ("chosen", "rejected"):
        answered = [
            fill_ecgs([*row["messages"], text_message("assistant", row[side])], row["ecgs"], row["sampling_rate"])
            for row in rows
        ]
        gains.append(
            log_likelihoods(trainer.model, processor, answered) - log_likelihoods(before, processor, answered)
        )
    margins = gains[0] - gains[1]
    assert np.abs(margins).min() > 0.01
    assert loss == pytest.approx(np.log1p(np.exp(-0.5 * margins)).mean(), abs=1e-5)


def test_every_answer_of_a_pair_is_a_row_with_its_label():
    columns = {"chosen": ["a", "b", "c"], "rejected": ["x", "y", "z"], "conversation_id": ["1", "2", "3"]}
    pairs = Dataset.from_dict(columns | {"messages": [[{"role": "user", "content": "?"}]] * 3})
    rows = unpaired(pairs, seed=0)
    found = {(row["conversation_id"], row["completion"], row["label"]) for row in rows}
    assert found == {(str(n + 1), "abc"[n], True) for n in range(3)} | {
        (str(n + 1), "xyz"[n], False) for n in range(3)
    }
    for seed in range(5):  # the other answer is the nearest before it that is about another question
        rows = unpaired(pairs, seed)
        about = dict(zip("axbycz", "112233"))
        for place, row in enumerate(rows):
            before = [rows[place - step]["completion"] for step in range(1, 6)]
            assert row["other"] == next(text for text in before if about[text] != row["conversation_id"])
    with pytest.raises(ValueError, match="all pairs are about the same question"):
        unpaired(pairs.select([0]), 0)


def write_evaluation(folder, rows: list[dict], **run):
    folder.mkdir()
    about = {"dataset": "data", "fold": "1", "split": "train"} | run
    (folder / "report.json").write_text(json.dumps({"schema": REPORT_SCHEMA, "run": about, "scores": {}}))
    columns = {"conversation_id": "a", "turn": 0, "condition": "ecg", "answer": ["AF"], "messages_answer": "AF"}
    pd.DataFrame([columns | row for row in rows]).to_parquet(folder / "predictions.parquet")
    return folder


def prepare(reports, output) -> dict[str, int]:
    return prepare_preferences([report / "predictions.parquet" for report in reports], output)


def test_pairs_are_made_of_true_and_wrong_answers(tmp_path, capsys):
    first = [
        {"prediction": "af"},  # right
        {"prediction": "sinus rhythm"},
        {"prediction": "noise", "condition": "shuffled"},
        {"conversation_id": "b", "turn": 1, "prediction": "af, rbbb"},
        {"conversation_id": "c", "prediction": ""},
    ]
    reports = [
        write_evaluation(tmp_path / "one", first),
        write_evaluation(tmp_path / "two", [{"prediction": "sinus rhythm"}, {"prediction": "flutter"}]),
    ]
    command = ["prepare", "preferences", "--output", str(tmp_path / "pairs.jsonl")]
    run(command + [word for report in reports for word in ("--predictions", str(report))])
    assert "3 pairs from 6 answers (1 right, 1 repeated, 1 empty)" in capsys.readouterr().out
    expected = [("a", 0, "AF", "sinus rhythm"), ("b", 1, "AF", "af, rbbb"), ("a", 0, "AF", "flutter")]
    assert read_preferences(tmp_path / "pairs.jsonl") == [Preference(*each) for each in expected]

    with pytest.raises(ValueError, match="none of 1 answers is wrong.*--temperature"):
        prepare([write_evaluation(tmp_path / "right", [{"prediction": "AF"}])], tmp_path / "x")
    with pytest.raises(ValueError, match="answers to the test split of fold 1.*--split train"):
        prepare([write_evaluation(tmp_path / "test", first, split="test")], tmp_path / "x")
    with pytest.raises(ValueError, match=r"different datasets or folds \(.*data, 2"):
        prepare([reports[0], write_evaluation(tmp_path / "other", first, fold="2")], tmp_path / "x")


def test_answers_are_sampled_again_with_the_same_seed_and_make_pairs(tiny_elm, simulated_dataset, tmp_path):
    def answers(name: str, **options) -> tuple[list[str], dict]:
        options = {
            "limit": 6,
            "conditions": ("ecg",),
            "num_occlusions": 0,
            "max_new_tokens": 4,
            "quiet": True,
        } | options
        report = evaluate(tiny_elm, simulated_dataset, 1, "train", output=tmp_path / name, **options)
        return list(pd.read_parquet(tmp_path / name / "predictions.parquet")["prediction"]), report

    sampled, report = answers("one", temperature=1.0)
    assert "answers were sampled at temperature 1; greedy answers score differently" in report["notes"]
    assert answers("two", temperature=1.0, batch_size=32)[0] == sampled
    assert answers("three", temperature=1.0, seed=1)[0] != sampled
    assert answers("greedy")[0] != sampled
    counts = prepare([tmp_path / "one", tmp_path / "three"], tmp_path / "pairs.jsonl")
    assert counts["answers"] == 12 and counts["pairs"] == len(read_preferences(tmp_path / "pairs.jsonl")) > 6


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ('{"conversation_id": "a", "turn": 0, "chosen": "x"}', "line 2: expected JSON with .*'rejected'"),
        ('{"conversation_id": "a", "turn": 0, "chosen": "x", "rejected": " x"}', "line 2: .* the same answer"),
        ('{"conversation_id": "a", "turn": "0", "chosen": "x", "rejected": "y"}', "turn is '0'; expected int"),
        ("not JSON", "line 2: expected JSON"),
    ],
)
def test_a_line_that_is_no_pair_is_named(line, error, tmp_path):
    path = tmp_path / "pairs.jsonl"
    write_preferences([Preference("a", 0, "x", "y")], path)
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ValueError, match=error):
        read_preferences(path)


def test_pairs_about_test_patients_and_options_without_effect_are_refused(
    tiny_elm, simulated_dataset, pairs, tmp_path
):
    held_out = load_elm_dataset(simulated_dataset, 1, "test")[0]["conversation_id"]
    write_preferences([*read_preferences(pairs), Preference(held_out, 0, "x", "y")], tmp_path / "pairs.jsonl")
    with pytest.raises(ValueError, match=f"1 pairs, such as that about {held_out}, .* training or validation split"):
        build("dpo", tiny_elm, simulated_dataset, tmp_path / "pairs.jsonl", tmp_path / "out")
    with pytest.raises(
        ValueError, match="--precompute_ref_log_probs has no effect on ELMs: the reference model reads"
    ):
        build("kto", tiny_elm, simulated_dataset, pairs, tmp_path / "out", "--precompute_ref_log_probs", "true")
    with pytest.raises(ValueError, match="--max_steps 0 trains nothing"):
        build("dpo", tiny_elm, simulated_dataset, pairs, tmp_path / "out", "--max_steps", "0")


def test_train_without_a_word_is_fine_tuning(capsys):
    run(["train", "--help"])
    assert "--pack_by_ecg" in capsys.readouterr().out
    run(["train", "dpo", "--help"])
    told = capsys.readouterr().out
    assert "Usage: elm-hf train dpo" in told and "--preferences" in told and "--pack_by_ecg" not in told
    run(["train", "grpo", "--help"])
    assert "--rewards" in capsys.readouterr().out
    with pytest.raises(ValueError, match="elm-hf train ppo: unknown; there are sft, dpo, kto, grpo, rloo"):
        run(["train", "ppo"])


def run(words: list[str]) -> None:
    app(words, standalone_mode=False)
