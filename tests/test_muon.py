"""Training with Muon: which weights it trains, its steps beside those of torch's optimizers, and runs that continue."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from test_compositions import ECG_ENCODERS, Composition, compose
from test_training import changed_weights, losses, parsed, train
from torch.optim import AdamW, Muon
from transformers import TrainingArguments

from elm_hf.checkpoints.load import load_checkpoint
from elm_hf.training import sft
from elm_hf.training.muon import MuonAdamW, hidden_matrices


def names_of_matrices(model) -> set[str]:
    matrices = {id(weight) for weight in hidden_matrices(model)}
    return {name for name, weight in model.named_parameters() if id(weight) in matrices}


@pytest.mark.parametrize("family", ["qwen2", "gpt2"])
def test_it_trains_the_matrices_of_hidden_layers(family):
    parts = Composition("signal", ECG_ENCODERS["st_mem"], "mlp", measurements=["heart_rate", "qrs_ms"])
    model, _ = compose(parts, family, None)
    names = names_of_matrices(model)
    every = {name for name, weight in model.named_parameters() if weight.ndim == 2}
    left_out = {name for name in every - names if "language_model" not in name and "encoder" not in name}
    of_values = {f"model.projector.measurements.{part}.weight" for part in ("name", "unknown", "number")}
    assert left_out - {"lm_head.weight"} == of_values
    assert {"model.projector.ecg.linear_1.weight", "model.projector.measurements.linear.weight"} <= names
    blocks = {name for name in every if ".layers." in name or ".h." in name}
    assert blocks and blocks <= names
    embeddings = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    assert not embeddings & {id(weight) for weight in hidden_matrices(model)}


def test_it_trains_adapters_and_no_frozen_weight(elm_with_encoder):
    model, _ = load_checkpoint(elm_with_encoder)
    model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["projector"]))
    names = names_of_matrices(model)
    assert any("lora_A" in name for name in names) and any("projector" in name for name in names)
    assert all("lora_" in name or "projector.modules_to_save" in name for name in names)


def model_with_gradients(elm) -> torch.nn.Module:
    model, _ = load_checkpoint(elm)
    torch.manual_seed(1)
    for weight in model.parameters():
        weight.grad = torch.randn_like(weight)
    return model


def test_its_steps_are_those_of_both_optimizers(elm_with_encoder, tmp_path):
    model = model_with_gradients(elm_with_encoder)
    other = copy.deepcopy(model)
    for weight, same in zip(model.parameters(), other.parameters()):
        same.grad = weight.grad.clone()
    args = TrainingArguments(tmp_path, learning_rate=1e-2, weight_decay=0.1, adam_beta2=0.9, use_cpu=True)
    optimizer = MuonAdamW(model, args)
    matrices = hidden_matrices(other)
    rest = [weight for weight in other.parameters() if all(weight is not matrix for matrix in matrices)]
    by_hand = (
        Muon(matrices, lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        AdamW(rest, lr=1e-2, betas=(0.9, 0.9), weight_decay=0),
    )
    for step in range(3):
        optimizer.step()
        for one in by_hand:
            one.step()
        if step == 1:  # as accelerate does, and as a checkpoint is loaded
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for (name, weight), same in zip(model.named_parameters(), other.parameters()):
        assert torch.equal(weight, same), name


def test_a_step_changes_a_matrix_in_all_directions_alike(elm_with_encoder, tmp_path):
    model = model_with_gradients(elm_with_encoder)
    weight = hidden_matrices(model)[-1]
    before = weight.detach().clone()
    MuonAdamW(model, TrainingArguments(tmp_path, learning_rate=1e-2, weight_decay=0, use_cpu=True)).step()
    directions = torch.linalg.svdvals((weight - before).detach()) / (1e-2 * 0.2 * max(weight.shape) ** 0.5)
    assert directions.min() > 0.5 and directions.max() < 1.5


def test_the_rate_of_its_groups_follows_the_schedule(elm_with_encoder, tmp_path):
    model = model_with_gradients(elm_with_encoder)
    optimizer = MuonAdamW(model, TrainingArguments(tmp_path, learning_rate=1e-2, use_cpu=True))
    optimizer.load_state_dict(optimizer.state_dict())
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0)
    before = copy.deepcopy(model.state_dict())
    optimizer.step()
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_a_continued_run_ends_as_an_uninterrupted_one(elm_with_encoder, simulated_dataset, tmp_path):
    settings = ("--muon", "--save_strategy", "steps", "--save_steps", "2", "--max_steps", "6")
    whole = train(elm_with_encoder, simulated_dataset, tmp_path / "whole", *settings)
    more = ("--resume_from_checkpoint", str(whole / "checkpoint-2"))
    resumed = train(elm_with_encoder, simulated_dataset, tmp_path / "resumed", *settings, *more)
    assert losses(resumed / "checkpoint-6") == losses(whole / "checkpoint-6")
    assert not changed_weights(whole, resumed)
    assert "Muon, learning rate" in (whole / "README.md").read_text()
    adamw = train(elm_with_encoder, simulated_dataset, tmp_path / "adamw", "--max_steps", "6")
    assert changed_weights(whole, adamw) and "Muon" not in (adamw / "README.md").read_text()


def test_the_encoder_has_its_own_rate(elm_with_encoder, simulated_dataset, tmp_path):
    options = ("--muon", "--learning_rate", "1e-3", "--encoder_learning_rate", "1e-4")
    trainer = sft.build_trainer(*parsed(elm_with_encoder, simulated_dataset, tmp_path / "out", *options))
    optimizer = trainer.create_optimizer()
    assert trainer.create_optimizer() is optimizer
    names = {id(weight): name for name, weight in trainer.model.named_parameters()}
    rates = [(names[id(weight)], group["lr"]) for group in optimizer.param_groups for weight in group["params"]]
    assert sorted(name for name, _ in rates) == sorted(names.values())
    assert {rate for name, rate in rates if ".encoder." in name} == {1e-4}
    assert {rate for name, rate in rates if ".encoder." not in name} == {1e-3}


def test_sharded_weights_are_refused(tiny_elm, simulated_dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="--muon needs whole matrices"):
        sft.build_trainer(*parsed(tiny_elm, simulated_dataset, tmp_path / "out", "--muon"))
