"""Training on pairs of answers: every forward sees the ECGs, the losses are those of the papers, pairs come from answers."""

import math

import pytest
from test_training import changed_weights

from elm_hf.data.loading import load_elm_dataset
from elm_hf.data.preferences import Preference, read_preferences, write_preferences
from elm_hf.inference.generation import log_likelihoods
from elm_hf.modeling.modeling_elm import ElmModel
from elm_hf.training import dpo, kto
from elm_hf.training.sft import train


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
        *("--output_dir", str(output), "--max_steps", "4", "--per_device_train_batch_size", "4"),
        *("--learning_rate", "1e-2", "--logging_steps", "1", "--report_to", "none", "--use_cpu", "--bf16", "false"),
        *("--save_strategy", "no", "--disable_tqdm", "true", *more),
    ]


def build(method: str, *args):
    return TRAINERS[method].build_trainer(*TRAINERS[method].parse(arguments(*args)))


@pytest.mark.parametrize("how", ["full", "lora"])
@pytest.mark.parametrize("method", TRAINERS)
def test_every_forward_sees_the_ecgs(method, how, tiny_elm, simulated_dataset, pairs, tmp_path, monkeypatch):
    """Those of the trained model, of the reference, and of the evaluation."""
    options = ("--use_peft", "--trainable", "projector", "llm") if how == "lora" else ()
    trainer = build(method, tiny_elm, simulated_dataset, pairs, tmp_path / "out", "--eval_strategy", "epoch", *options)
    seen = spy_on_forward(monkeypatch)
    train(trainer)
    assert seen and all(places == ecgs > 0 for places, ecgs in seen)
    history = trainer.state.log_history
    if method == "dpo":
        assert seen[:2] == [(8, 8), (8, 8)]  # four pairs: the model, the reference
        # Before the first step the model is its own reference: -log sigmoid(0).
        assert history[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
        assert history[0]["rewards/margins"] == pytest.approx(0, abs=1e-4)
    else:
        assert seen[:4] == [(4, 4)] * 4  # answers and answers of other rows; the model, the reference
        assert history[0]["loss"] == pytest.approx(0.5, abs=1e-4)  # 1 - sigmoid(0)
    assert any("eval_loss" in entry for entry in history)
