"""Sample answers at each evaluation in training: printed, sent to the tracker, and written into the output folder."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten

import pandas as pd
from transformers import TrainingArguments
from transformers.integrations import (
    INTEGRATION_TO_CALLBACK,
    TensorBoardCallback,
    get_available_reporting_integrations,
)

from elm_hf.utils.files import write_atomically


# Not published: the answers are about the ECGs of patients, and names with an underscore stay in the folder.
SAMPLES_NAME = "_sample_answers.jsonl"
# Name of the table in a tracker.
TABLE_NAME = "eval/sample_answers"
COLUMNS = ("question", "truth", "answer")
# Widest text of a printed column, in characters.
WIDEST = 48


def check_trackers(training_args: TrainingArguments) -> None:
    """
    Checks `--report_to` before anything is loaded.

    Raises:
        ValueError: a tracker is unknown.
        ImportError: the package of a tracker is not installed.
    """
    installed = get_available_reporting_integrations()
    for name in training_args.report_to:
        if name not in INTEGRATION_TO_CALLBACK:
            raise ValueError(
                f"--report_to {name}: unknown tracker; expected none, all or one of {', '.join(sorted(INTEGRATION_TO_CALLBACK))}."
            )
        if name not in installed:
            raise ImportError(
                f"--report_to {name}: its package is not installed (pip install {name.replace('_', '-')}); install it, or "
                "leave the option out."
            )


def show_samples(
    samples: Sequence[dict], step: int, folder: Path, callbacks: Sequence, args: TrainingArguments
) -> None:
    """
    Prints sample answers, writes them into the folder, and sends them to the trackers that take tables. Trackio, which
    publishes what it has as a Space with each push to the Hub, gets none if anybody could read them there.

    Args:
        samples: of `ValidationQuestions.samples`: `conversation_id`, `question`, `truth` and `answer`.
        step: step of the training.
        folder: output folder.
        callbacks: callbacks of the trainer, among them those of its trackers.
        args: settings of the training.
    """
    print(f"Sample answers at step {step}:\n{text_table(samples)}", flush=True)
    write_samples(folder / SAMPLES_NAME, samples, step)
    table = pd.DataFrame([{"step": step} | sample for sample in samples])
    for callback in callbacks:
        name = type(callback).__name__
        if name in _SENDERS and not (name == _OF_TRACKIO and publishes_with_trackio(args)):
            _SENDERS[name](callback, table, step)


def publishes_with_trackio(args: TrainingArguments) -> bool:
    """Whether Trackio publishes the logs of a training as a Space that is not private."""
    is_synced = args.push_to_hub and args.trackio_static_space_id is not False
    has_space = args.trackio_space_id is not None or "TRACKIO_SPACE_ID" in os.environ
    return (is_synced or has_space) and not args.hub_private_repo


def text_table(samples: Sequence[dict]) -> str:
    """The samples as columns of plain text, long ones shortened."""
    rows = [dict(zip(COLUMNS, COLUMNS)), *samples]
    cells = [[shorten(str(row[name]), WIDEST, placeholder=" ...") for name in COLUMNS] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(COLUMNS))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in cells)


def write_samples(path: Path, samples: Sequence[dict], step: int) -> None:
    """Adds samples to the file, a line of JSON each. Those of this and later steps are of an interrupted run, and go."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    kept = [line for line in lines if json.loads(line)["step"] < step]
    new = [json.dumps({"step": step} | sample, ensure_ascii=False) for sample in samples]
    write_atomically(path, "\n".join([*kept, *new]) + "\n")


def _to_tensorboard(callback: TensorBoardCallback, table: pd.DataFrame, step: int) -> None:
    if callback.tb_writer is not None:
        lines = [list(table), ["---"] * len(table.columns), *table.to_numpy().tolist()]
        cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines]
        callback.tb_writer.add_text(TABLE_NAME, "\n".join(f"| {' | '.join(line)} |" for line in cells), step)


def _to_wandb(callback, table: pd.DataFrame, step: int) -> None:
    import wandb

    if wandb.run is not None:
        wandb.log({TABLE_NAME: wandb.Table(dataframe=table), "train/global_step": step})


def _to_trackio(callback, table: pd.DataFrame, step: int) -> None:
    import trackio

    trackio.log({TABLE_NAME: trackio.Table(dataframe=table), "train/global_step": step})


# By the name of transformers' callback of the tracker.
_OF_TRACKIO = "TrackioCallback"
_SENDERS = {"TensorBoardCallback": _to_tensorboard, "WandbCallback": _to_wandb, _OF_TRACKIO: _to_trackio}
