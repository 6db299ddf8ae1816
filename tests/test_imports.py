"""What a module needs: reports are read and tables printed without torch, and questions are listed by few modules."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from test_report import RUN, predictions_of

from elm_hf.evaluation.report import write_report
from elm_hf.training.cost_file import COSTS_NAME
from elm_hf.utils.weights import fingerprint_of_weights


def imported_by(code: str) -> set[str]:
    """Names of all modules in a fresh process that has run the code."""
    code += "\nimport json, sys; print(json.dumps([name for name, m in sys.modules.items() if not hasattr(m, '__path__')]))"
    code += "\nprint(json.dumps([name for name, m in sys.modules.items() if hasattr(m, '__path__')]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    files, packages = (set(json.loads(line)) for line in done.stdout.splitlines()[-2:])
    return files | {f"{name}.__init__" for name in packages}


def test_reports_are_read_and_tables_printed_without_torch(tmp_path):
    for name, accuracy in (("one", 0.9), ("two", 0.6)):
        predictions = predictions_of({"ecg": accuracy, "none": 0.5}, num_patients=8)
        write_report(tmp_path / name / "report", predictions, RUN | {"weights": name})
        predictions.to_parquet(tmp_path / name / "report" / "predictions.parquet")
        costs = {"seconds": 10.0, "samples": 8, "tokens": 99}
        (tmp_path / name / COSTS_NAME).write_text(json.dumps(costs))
    code = f"""
from elm_hf.evaluation import card, figures, pictures, report
from elm_hf.evaluation.compare import aggregate, aggregate_table, compare, comparison_table
from elm_hf.evaluation.markdown import report_markdown, report_table
from elm_hf.evaluation.recipe_costs import costs_table
from elm_hf.utils.reports import read_report
folders = [{str(tmp_path)!r} + "/one/report", {str(tmp_path)!r} + "/two/report"]
read = read_report(folders[0])
tables = [report_table(read), report_markdown(read), comparison_table(compare(*folders)), aggregate_table(aggregate(folders))]
assert all("single-verify" in table for table in tables)
assert "| two | 1 | 10 | 8 | 99 | 1.00 | 1.00 | 0." in costs_table({{name: [{str(tmp_path)!r} + "/" + name] for name in ("one", "two")}})
"""
    heavy = {"torch", "trl", "peft", "accelerate", "transformers"}
    assert {name.partition(".")[0] for name in imported_by(code)} & heavy == set()


def test_the_questions_of_an_evaluation_reach_six_modules_and_no_training():
    reached = imported_by("import elm_hf.evaluation.questions")
    ours = {name for name in reached if name.startswith("elm_hf.") and not name.endswith(".__init__")}
    assert "elm_hf.evaluation.questions" in ours and len(ours) <= 6, sorted(ours)
    assert not any(name.startswith(("elm_hf.training", "elm_hf.pretrain", "torch.")) for name in reached)


@pytest.mark.parametrize("sampled", [True, False])
def test_trained_weights_have_another_fingerprint(sampled):
    weights = {
        "a": torch.arange(10_000.0).reshape(100, 100),
        "steps": torch.tensor(3),
        "half": torch.ones(5).bfloat16(),
    }
    fingerprint = fingerprint_of_weights(weights, sampled=sampled)
    assert fingerprint == fingerprint_of_weights(dict(reversed(weights.items())), sampled=sampled)
    changes = [{"a": weights["a"] + 1e-3}, {"steps": torch.tensor(4)}, {"a": weights["a"].T}, {"half": torch.ones(5)}]
    assert fingerprint not in {fingerprint_of_weights(weights | change, sampled=sampled) for change in changes}


def test_a_single_changed_value_shows_where_all_are_read():
    weights = torch.zeros(4096)
    changed = torch.from_numpy(np.eye(1, 4096, 1, dtype=np.float32)[0])  # sampled are values 0, 4, 8, ...
    full, sampled = ([fingerprint_of_weights({"a": w}, sampled=s) for w in (weights, changed)] for s in (False, True))
    assert full[0] != full[1] and sampled[0] == sampled[1]
