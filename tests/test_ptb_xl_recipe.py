"""The recipe that trains an ELM on PTB-XL, with tiny models and simulated ECGs."""

import json

import pytest
from safetensors.torch import load_file
from test_ecg_lm import recipe


@pytest.mark.slow
@pytest.mark.timeout(1500)  # seven processes that import torch
def test_the_recipe_runs_from_the_encoder_to_the_report(tmp_path, monkeypatch):
    monkeypatch.setenv("OUTPUT", str(tmp_path))
    ran = recipe("ptb_xl", tmp_path, "smoke", "--", "--max_steps", "3", "--save_strategy", "no")
    assert ran.returncode == 0, ran.stderr[-3000:]
    before, aligned, trained = (
        load_file(tmp_path / name / "model.safetensors") for name in ("elm", "aligned", "trained")
    )
    changed = {name.split(".")[1] for name in before if not before[name].equal(aligned[name])}
    assert changed == {"projector"}
    changed = {name.split(".")[1] for name in before if not aligned[name].equal(trained[name])}
    assert changed == {"projector", "language_model"}
    conditions = json.loads((tmp_path / "report" / "report.json").read_text())["conditions"]
    assert {"ecg", "zeros", "noise", "shuffled", "none"} <= conditions.keys()
    again = recipe("ptb_xl", tmp_path, "smoke")
    assert "elm_hf.training.sft" not in again.stdout and "Finished in" in again.stdout


def test_an_unknown_size_is_refused(tmp_path):
    ran = recipe("ptb_xl", tmp_path, "medium")
    assert ran.returncode == 2 and "unknown size medium; expected small, smollm2, full or smoke" in ran.stderr
