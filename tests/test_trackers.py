"""Trackio and Weights & Biases, the packages themselves: a short training sends them losses, metrics and sample answers."""

import json
import os
import sqlite3
from importlib.util import find_spec
from pathlib import Path

import pytest
from warm_python import run_python

from elm_hf.training.sample_answers import SAMPLES_NAME


ROOT = Path(__file__).resolve().parents[1]
TRACKERS = [name for name in ("trackio", "wandb") if find_spec(name) is not None]


@pytest.fixture(scope="module")
def run(tiny_elm, simulated_dataset, tmp_path_factory) -> Path:
    """The folder of a training with the trackers that are installed, which write onto this disk."""
    home = tmp_path_factory.mktemp("tracked")
    arguments = ["--model_name_or_path", str(tiny_elm), "--dataset", str(simulated_dataset), "--output_dir", "out"]
    arguments += ["--max_steps", "2", "--logging_steps", "1", "--per_device_train_batch_size", "2", "--use_cpu"]
    arguments += ["--eval_strategy", "steps", "--eval_steps", "2", "--eval_samples", "2", "--eval_exact_match", "4"]
    arguments += ["--save_strategy", "no", "--disable_tqdm", "true", "--project", "ecgs", "--run_name", "first"]
    environment = os.environ | {
        "HOME": str(home),
        "TRACKIO_DIR": str(home / "trackio"),
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(home),
        "WANDB_PROJECT": "ecgs",
    }
    (home / "trackers.yaml").write_text(f"report_to: {TRACKERS}\n")
    done = run_python([ROOT / "train_sft.py", "--config", "trackers.yaml", *arguments], environment, home)
    assert done.returncode == 0, done.stderr
    return home


def samples(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "out" / SAMPLES_NAME).read_text().splitlines()]


@pytest.mark.skipif("trackio" not in TRACKERS, reason="needs trackio (pip install 'elm-hf[trackers]')")
def test_trackio_has_the_losses_the_metrics_and_the_samples(run):
    (database,) = (run / "trackio").glob("ecgs*.db")
    with sqlite3.connect(database) as connection:
        rows = connection.execute("SELECT run_name, step, metrics FROM metrics ORDER BY id").fetchall()
    assert {name for name, _, _ in rows} == {"first"}
    logged = [json.loads(metrics) for _, _, metrics in rows]
    assert sum("train/loss" in metrics for metrics in logged) == 2
    assert any("eval/loss" in metrics and "eval/exact_match" in metrics for metrics in logged)
    (table,) = (metrics["eval/sample_answers"] for metrics in logged if "eval/sample_answers" in metrics)
    assert table["_value"] == samples(run)


@pytest.mark.skipif("wandb" not in TRACKERS, reason="needs wandb (pip install 'elm-hf[trackers]')")
def test_wandb_has_the_samples_as_a_table(run):
    (folder,) = (run / "wandb").glob("offline-run-*")
    (path,) = folder.glob("files/media/table/eval/*.table.json")
    table = json.loads(path.read_text())
    assert [dict(zip(table["columns"], row)) for row in table["data"]] == samples(run)
    (log,) = folder.glob("run-*.wandb")
    assert all(name.encode() in log.read_bytes() for name in ("train/loss", "eval/loss", "eval/exact_match"))
