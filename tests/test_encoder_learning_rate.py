"""Training with a learning rate of the encoder that differs from that of the other parts."""

import pytest
import torch
from safetensors.torch import load_file
from test_training import parsed, train
from test_two_towers import compose_both

from elm_hf.training import sft
from elm_hf.training.arguments import ElmScriptArguments
from elm_hf.training.checks import check_parts


def test_a_step_changes_the_encoder_as_its_rate_is_smaller(elm_with_encoder, simulated_dataset, tmp_path):
    """A step of SGD changes each weight by its gradient times the learning rate."""
    step = ("--optim", "sgd", "--max_steps", "1", "--lr_scheduler_type", "constant", "--learning_rate", "0.5")
    same = train(elm_with_encoder, simulated_dataset, tmp_path / "same", *step)
    slower = train(elm_with_encoder, simulated_dataset, tmp_path / "slower", *step, "--encoder_learning_rate", "0.125")
    before, usual, slow = (load_file(folder / "model.safetensors") for folder in (elm_with_encoder, same, slower))
    learnt = [name for name in before if "running" not in name and not torch.equal(before[name], usual[name])]
    for name in learnt:
        if before[name].is_floating_point():
            share = 0.25 if name.startswith("model.encoder.") else 1
            assert torch.allclose(slow[name] - before[name], share * (usual[name] - before[name]), atol=1e-6), name
    assert {name.split(".")[1] for name in learnt} >= {"encoder", "projector", "language_model"}
    assert "learning rate 0.5 (encoder: 0.125) (constant)" in (slower / "README.md").read_text()
    assert "learning rate 0.5 (constant)" in (same / "README.md").read_text()


def test_the_encoder_has_its_rate_beside_adapters(elm_with_encoder, simulated_dataset, tmp_path):
    options = ("--use_peft", "--lora_r", "4", "--learning_rate", "1e-3", "--encoder_learning_rate", "1e-4")
    trainer = sft.build_trainer(*parsed(elm_with_encoder, simulated_dataset, tmp_path / "out", *options))
    trainer.create_optimizer()
    groups = trainer.create_optimizer().param_groups  # asked again, it is the same
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    rates = [(names[id(parameter)], group["lr"]) for group in groups for parameter in group["params"]]
    assert sorted(name for name, _ in rates) == sorted(
        name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad
    )
    assert {rate for name, rate in rates if ".encoder." in name} == {1e-4}
    assert {rate for name, rate in rates if ".encoder." not in name} == {1e-3}


def test_a_model_without_encoder_is_refused(tiny_elm, simulated_dataset, tmp_path):
    with pytest.raises(ValueError, match="--encoder_learning_rate needs a model with an encoder"):
        train(tiny_elm, simulated_dataset, tmp_path / "out", "--encoder_learning_rate", "1e-4")


def test_the_encoder_of_pictures_beside_a_signal_without_encoder_may_have_a_rate():
    model, _ = compose_both("patch", "vit")
    assert model.config.encoder_config is None and any(True for _ in model.model.encoder.parameters())
    check_parts(ElmScriptArguments(["data"], encoder_learning_rate=1e-4), model.config)
