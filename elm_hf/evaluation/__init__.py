"""Exact-match accuracy on a fold's test patients, with the true ECG and with the ECG zeroed."""

import json
from os import PathLike
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset
from tqdm import tqdm
from transformers import PreTrainedModel, ProcessorMixin

from elm_hf.collator import fill_ecgs
from elm_hf.data import load_elm_dataset
from elm_hf.generation import answer, batches, load_checkpoint, prompt_of


CONDITIONS = ("ecg", "zeros")
COLUMNS = ("conversation_id", "question_type", "question", "answer")


def is_exact_match(prediction: str, truth: list[str]) -> bool:
    """
    Whether a comma-separated answer names the true items and no others, in any order and case (Oh et al. 2023, ECG-QA).
    """
    items = {item.strip().lower().rstrip(".") for item in prediction.split(",")} - {""}
    return items == {item.strip().lower() for item in truth}


def evaluate(
    checkpoint: str | PathLike,
    dataset: str | PathLike,
    fold: int | str = 1,
    split: str = "test",
    output: str | PathLike | None = None,
    limit: int | None = None,
    batch_size: int = 32,
    max_new_tokens: int = 32,
    quiet: bool = False,
) -> dict:
    """
    Asks every question of a split twice, with its ECG and with zeros in the ECG's place, and scores the last answers.

    Args:
        checkpoint: folder or repository of an ELM.
        dataset: folder or Hub name of an elm-hf dataset.
        fold: 1 to 5 or `"official"`.
        split: usually `"test"`.
        output: folder for `report.json` and `predictions.parquet`; nothing is written by default.
        limit: ask at most so many questions, drawn evenly from the split.
        batch_size: questions per batch.
        max_new_tokens: longest answer.
        quiet: no progress bar.

    Returns:
        The report: what was evaluated, and per condition the accuracy, overall and by question type, each with the
        number of answers it rests on.

    Raises:
        ValueError: nothing to evaluate, or conversations without a column that is needed, such as `answer`.
    """
    rows = load_elm_dataset(dataset, fold=fold, split=split)
    missing = [name for name in COLUMNS if name not in rows.column_names or None in rows[name]]
    if missing:
        raise ValueError(
            f"{dataset}: exact match needs {', '.join(COLUMNS)} of every conversation; not all have {', '.join(missing)}"
        )
    if limit is not None and limit < len(rows):
        rows = rows.select(np.linspace(0, len(rows) - 1, limit).astype(int))
    if len(rows) == 0:
        raise ValueError(f"{dataset}: {split} of fold {fold} is empty.")
    model, processor = load_checkpoint(checkpoint)
    if output is not None:
        Path(output).mkdir(parents=True, exist_ok=True)
    predictions = pd.DataFrame({name: list(rows[name]) for name in COLUMNS})
    for condition in CONDITIONS:
        predictions[condition] = _answers(model, processor, rows, condition, batch_size, max_new_tokens, quiet)
    report = {
        "checkpoint": str(checkpoint),
        "dataset": str(dataset),
        "fold": str(fold),
        "split": split,
        "max_new_tokens": max_new_tokens,
        "exact_match": {condition: _scores(predictions, condition) for condition in CONDITIONS},
    }
    if output is not None:
        predictions.to_parquet(Path(output) / "predictions.parquet", index=False)
        (Path(output) / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def report_table(report: dict) -> str:
    """The report as a Markdown table: a row per question type, a column per condition."""
    scores = report["exact_match"]
    lines = ["| question type | answers | with ECG | ECG zeroed |", "|---|---:|---:|---:|"]
    for name, with_ecg in scores["ecg"].items():
        zeroed = scores["zeros"][name]
        lines.append(f"| {name} | {with_ecg['answers']} | {with_ecg['accuracy']:.3f} | {zeroed['accuracy']:.3f} |")
    return "\n".join(lines)


def _answers(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    rows: Dataset,
    condition: str,
    batch_size: int,
    max_new_tokens: int,
    quiet: bool,
) -> list[str]:
    """Answers in the order of the rows; asked in the order of the questions' lengths, so that little is padded."""
    lengths = [
        sum(len(item["text"] or "") for m in messages for item in m["content"]) for messages in rows["messages"]
    ]
    answers: list[str] = [""] * len(rows)
    with tqdm(total=len(rows), desc=f"asking, {condition}", unit="question", disable=quiet or None) as progress:
        for batch in batches(np.argsort(lengths, kind="stable").tolist(), batch_size):
            conversations = [_conversation(rows[index], condition) for index in batch]
            for index, text in zip(batch, answer(model, processor, conversations, max_new_tokens)):
                answers[index] = text
            progress.update(len(batch))
    return answers


def _conversation(row: dict, condition: str) -> list[dict]:
    ecgs = [np.zeros_like(ecg) if condition == "zeros" else ecg for ecg in row["ecgs"]]
    return fill_ecgs(prompt_of(row["messages"]), ecgs, row["sampling_rate"])


def _scores(predictions: pd.DataFrame, condition: str) -> dict[str, dict]:
    """Accuracy and number of answers, overall first and then by question type; an empty answer is wrong."""
    correct = pd.Series(
        [is_exact_match(text, list(truth)) for text, truth in zip(predictions[condition], predictions["answer"])]
    )
    groups = {"all": correct} | dict(list(correct.groupby(predictions["question_type"])))
    return {name: {"accuracy": float(group.mean()), "answers": len(group)} for name, group in groups.items()}
