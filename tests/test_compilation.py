"""Compilation of the LLM's layers: how often it happens, the loss, and the options of the training program."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_packing import elm_and_processor
from test_training import arguments, parsed, train
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters

from elm_hf.training import sft
from elm_hf.training.collator import ElmDataCollator
from elm_hf.training.compilation import Compilation, compilation_of
from elm_hf.training.packing import IGNORE_INDEX, padded_length


@pytest.fixture(autouse=True)
def nothing_compiled():
    limit = torch._dynamo.config.recompile_limit
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = limit


def random_pack(rng: np.random.Generator, ecg_ids: np.ndarray) -> dict:
    """One to six questions behind a prefix with an ECG, 20 to 380 positions in all."""
    prefix = np.concatenate([rng.integers(1, 100, rng.integers(5, 200)), ecg_ids])
    rows = []
    for _ in range(rng.integers(1, 7)):
        ids = np.concatenate([prefix, rng.integers(1, 100, rng.integers(10, 30))])
        labels = np.where(np.arange(len(ids)) >= len(ids) - 5, ids, IGNORE_INDEX)
        ecg = rng.normal(0, 0.3, (12, 500)).astype(np.float32) if not rows else rows[0]["ecgs"][0]
        rows.append({"input_ids": ids, "labels": labels, "ecgs": [ecg], "sampling_rate": 250})
    return {"conversations": rows}


def test_batches_of_50_lengths_compile_once_for_each_of_few_sizes_and_have_the_same_losses():
    model, processor = elm_and_processor("llama")
    model.train().activation_checkpointing_enable()
    rng = np.random.default_rng(0)
    batches = [[random_pack(rng, processor.placeholders(1)[0]) for _ in range(2)] for _ in range(50)]
    exact, padded = ElmDataCollator(processor), ElmDataCollator(processor, few_lengths=True)
    lengths = {exact(rows)["input_ids"].shape[1] for rows in batches}
    assert len(lengths) > 35
    expected = [model(**exact(rows), use_cache=False).loss for rows in batches]
    expected[0].backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    counter = CompileCounter()
    Compilation(counter, None).compile_layers(model)
    model.zero_grad()
    found = []
    for rows in batches:
        loss = model(**padded(rows), use_cache=False).loss
        if not found:
            loss.backward()
            torch.testing.assert_close([p.grad for p in model.parameters() if p.grad is not None], gradients)
        found.append(loss)
    torch.testing.assert_close(torch.stack(found), torch.stack(expected), atol=1e-4, rtol=0)
    assert counter.frame_count == len({padded_length(length) for length in lengths}) <= 8


def test_sizes_are_few_and_cost_little():
    lengths = np.arange(1, 8193)
    sizes = np.array([padded_length(int(length)) for length in lengths])
    assert (sizes >= lengths).all() and (sizes[lengths > 1024] <= 1.25 * lengths[lengths > 1024]).all()
    assert len(set(sizes[lengths <= 1024])) == 8 and len(set(sizes)) == 20
    assert padded_length(128) == 128 and padded_length(129) == 256 and padded_length(1025) == 1280


def test_a_compiled_run_learns_and_saves_what_another_does(tiny_elm, simulated_dataset, tmp_path):
    settings = ("--pack_by_ecg", "4", "--max_steps", "3", "--bf16", "false", "--activation_checkpointing", "false")
    validation = ("--eval_strategy", "steps", "--eval_steps", "3", "--eval_exact_match", "2")
    compiled = ("--torch_compile_backend", "eager", *validation)
    plain = train(tiny_elm, simulated_dataset, tmp_path / "plain", *settings)
    assert counters["stats"]["unique_graphs"] == 0
    ours = train(tiny_elm, simulated_dataset, tmp_path / "compiled", *settings, *compiled)
    assert 0 < counters["stats"]["unique_graphs"] <= 4  # neither for the evaluation nor for its answers
    expected = load_file(plain / "model.safetensors")
    found = load_file(ours / "model.safetensors")
    assert found.keys() == expected.keys()
    for name, weights in expected.items():
        torch.testing.assert_close(found[name], weights, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "more, device, expected",
    [
        ((), "cuda", False),
        (("--pack_by_ecg", "4"), "cuda", True),
        (("--pack_by_ecg", "4"), "cpu", False),
        (("--pack_by_ecg", "4", "--torch_compile", "false"), "cuda", False),
        (("--pack_by_ecg", "4", "--use_peft", "--load_in_4bit"), "cuda", False),
        (("--torch_compile",), "cpu", True),
    ],
)
def test_packed_training_on_a_gpu_is_compiled_unless_turned_off(more, device, expected, monkeypatch, caplog, tmp_path):
    script_args, training_args, model_args, *_ = parsed(tmp_path, tmp_path, tmp_path / "out", *more)
    monkeypatch.setattr(type(training_args), "device", torch.device(device))
    model, _ = elm_and_processor("llama")
    model.config.text_config._attn_implementation = "sdpa"
    compilation = compilation_of(script_args, training_args, model_args, model)
    assert (compilation is not None) == expected
    assert training_args.torch_compile is False and training_args.torch_compile_backend is None
    says_so = "--torch_compile false" in caplog.text
    assert says_so == (expected and device == "cuda")
    if expected:
        assert (compilation.backend, compilation.mode) == ("inductor", None)


def test_compilation_for_every_batch_is_refused(tmp_path, monkeypatch):
    names = (tmp_path / "none", tmp_path / "none", tmp_path / "out")
    with pytest.raises(ValueError, match="with --padding_free almost every batch has another"):
        sft.build_trainer(*sft.parse(arguments(*names, "--torch_compile", "--padding_free")))
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "inductor")
    with pytest.raises(ValueError, match="accelerate's dynamo_backend compiles the whole model"):
        sft.build_trainer(*sft.parse(arguments(*names)))
