"""Which checkpoint a run continues from when files of the last one are damaged."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from elm_hf.training.resume import checkpoint_to_continue, damage


@pytest.fixture
def output(tmp_path) -> Path:
    """A run with checkpoints after 2, 4 and 10 steps, as training writes them."""
    for step in (2, 4, 10):
        folder = tmp_path / f"checkpoint-{step}"
        (folder / "ecg_tokenizer").mkdir(parents=True)
        save_file({"weight": torch.zeros(100)}, folder / "model.safetensors")
        (folder / "optimizer.pt").write_bytes(b"x" * 500)
        (folder / "rng_state.pth").write_bytes(b"x" * 50)
        (folder / "ecg_tokenizer" / "vocab.json").write_text("{}")
        sizes = {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
        (folder / "run.json").write_text(json.dumps({"seed": 0, "files": sizes}))
    return tmp_path


def cut(path: Path, size: int):
    path.write_bytes(path.read_bytes()[:size])


DAMAGES = {
    "cut short": (lambda folder: cut(folder / "model.safetensors", 300), r"model.safetensors has 300 bytes of \d+"),
    "empty": (lambda folder: cut(folder / "optimizer.pt", 0), "optimizer.pt has 0 bytes of 500"),
    "missing": (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
    "in a folder": (lambda folder: (folder / "ecg_tokenizer" / "vocab.json").unlink(), "ecg_tokenizer/vocab.json is "),
    "settings": (lambda folder: cut(folder / "run.json", 20), "run.json is damaged"),
    "empty settings": (lambda folder: cut(folder / "run.json", 0), "run.json is damaged"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_a_run_continues_from_the_last_checkpoint_that_is_whole(case, output, caplog):
    break_it, message = DAMAGES[case]
    settings = {"seed": 0}
    last = output / "checkpoint-10"
    assert checkpoint_to_continue(None, output, settings) == str(last) and not caplog.text
    break_it(last)
    assert damage(output / "checkpoint-4") is None
    assert checkpoint_to_continue(None, output, settings) == str(output / "checkpoint-4")
    (line,) = caplog.messages
    assert line.startswith(f"{last}: ") and line.endswith(": continuing from checkpoint-4.")
    with pytest.raises(ValueError, match=f"--resume_from_checkpoint .*checkpoint-10: {message}"):
        checkpoint_to_continue(str(last), output, settings)
    for step in (2, 4):
        break_it(output / f"checkpoint-{step}")
    with pytest.raises(ValueError, match=f"checkpoint-10: {message}.*no whole checkpoint is left. Start over with"):
        checkpoint_to_continue(None, output, settings)
    assert checkpoint_to_continue("false", output, settings) is None


def test_weights_of_checkpoints_without_sizes_are_opened(output):
    last = output / "checkpoint-10"
    (last / "run.json").write_text(json.dumps({"seed": 0}))
    assert damage(last) is None
    cut(last / "model.safetensors", 300)
    assert damage(last).startswith("model.safetensors is damaged (")


@pytest.mark.parametrize("chosen", [None, "checkpoint-4"])
def test_a_run_does_not_continue_without_the_state_of_its_optimizer(chosen, output):
    """The optimizer and the schedule of the learning rate would start anew."""
    for step in (2, 4, 10):
        folder = output / f"checkpoint-{step}"
        (folder / "optimizer.pt").unlink()
        (folder / "rng_state.pth").unlink()
        (folder / "run.json").write_text(json.dumps({"seed": 0}))
    name = chosen or "checkpoint-10"
    with pytest.raises(ValueError, match=rf"{name} holds only the model \(--save_only_model\)"):
        checkpoint_to_continue(chosen and str(output / chosen), output, {"seed": 0})
