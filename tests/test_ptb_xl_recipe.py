"""The recipe that trains an ELM on PTB-XL, with tiny models and simulated ECGs."""

import json
import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file
from test_ecg_lm import recipe

from elm_hf.evaluation.intervals import PatientBootstrap


RECIPE = Path(__file__).parent.parent / "recipes" / "ptb_xl"


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
    ran = recipe("ptb_xl", tmp_path, "tiny")
    assert ran.returncode == 2 and "unknown size tiny; expected small, medium, smollm2, full or smoke" in ran.stderr


def test_the_classifier_answers_by_the_class_and_threshold_of_validation_patients():
    script = runpy.run_path(str(RECIPE / "compare_with_classifier.py"))
    questions = pd.DataFrame(
        {
            "record_id": ["a", "b", "c", "d", "a", "b"],
            "finding": ["AF", "AF", "AF", "AF", "pacemaker", "pacemaker"],
            "is_yes": [True, True, False, False, True, True],
        }
    )
    # AFIB separates the four questions but for c; noise does worse. No question about a pacemaker has "no".
    validation = pd.DataFrame({"noise": [0.1, 0.9, 0.2, 0.8], "AFIB": [0.9, 0.6, 0.7, 0.1]}, index=list("abcd"))
    rules = script["classifier_rules"](questions, validation)
    assert rules == {"AF": ("AFIB", 0.6)}
    tested = pd.DataFrame({"noise": [1.0, 0.0], "AFIB": [0.59, 0.6]}, index=["x", "y"])
    asked = pd.DataFrame({"record_id": ["x", "y", "y"], "finding": ["AF", "AF", "pacemaker"]})
    assert script["classifier_answers"](asked, tested, rules).tolist() == [False, True, False]


def test_a_model_is_below_the_classifier_only_where_the_interval_says_so():
    compared_row = runpy.run_path(str(RECIPE / "compare_with_classifier.py"))["compared_row"]
    rows = np.arange(400)
    bootstrap = PatientBootstrap([(str(row),) for row in rows], num_resamples=200)
    right = np.ones((400, 2))
    assert compared_row("equal", rows, right, bootstrap)[4:] == ["+0.000 [-0.009, +0.009]", "yes"]
    right[:80, 0] = 0
    cells = compared_row("worse", rows, right, bootstrap)
    assert cells[2].startswith("0.800 [0.75") and cells[4].startswith("-0.200 [-0.2") and cells[5] == "no"
    right[:72, 1] = 0
    assert compared_row("like", rows, right, bootstrap)[5] == "not settled"
