"""Asking a checkpoint about one ECG: a file, or a held-out ECG of a dataset with its questions and true answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel, ProcessorMixin

from elm_hf.collator import fill_ecgs
from elm_hf.data import load_elm_dataset
from elm_hf.generation import answer, prompt_of
from elm_hf.recordings import read_recording


@dataclass
class EcgToAsk:
    """An ECG `(12, samples)` in mV, NaN rows for absent leads, and questions about it."""

    name: str
    ecg: np.ndarray
    sampling_rate: float
    questions: list[str]
    conversations: list[list[dict]]
    truths: list[str | None]


def ecg_from_file(path: str | PathLike, questions: Sequence[str]) -> EcgToAsk:
    """
    A WFDB record and questions about it.

    Raises:
        RecordingError: the record is missing, unreadable, or its limb leads disagree.
    """
    recording = read_recording(path)
    ecg = np.where(np.isnan(recording.ecg).any(axis=1, keepdims=True), np.nan, recording.ecg)
    item = {"type": "ecg", "ecg": ecg, "sampling_rate": recording.sampling_rate}
    conversations = [
        [{"role": "user", "content": [item, {"type": "text", "text": question}]}] for question in questions
    ]
    name, truths = Path(path).name, [None] * len(questions)
    return EcgToAsk(name, ecg, recording.sampling_rate, list(questions), conversations, truths)


def ecg_from_dataset(
    dataset: str | PathLike, fold: int | str, split: str, record_id: str | None, number: int
) -> EcgToAsk:
    """
    An ECG of a split and the first `number` single-ECG questions of the split about it, each of another type if it can be.

    Args:
        dataset: folder or Hub name of an elm-hf dataset.
        fold, split: where to look; a fold's `"test"` is held out.
        record_id: which ECG; by default the first of the split that has `number` questions.
        number: how many questions.

    Raises:
        ValueError: the split has no questions about such an ECG.
    """
    rows = load_elm_dataset(dataset, fold=fold, split=split)
    rows_of: dict[str, list[int]] = {}
    for index, record_ids in enumerate(rows["record_ids"]):
        if len(record_ids) == 1:
            rows_of.setdefault(record_ids[0], []).append(index)
    if record_id is None:
        record_id = next((one for one, its_rows in rows_of.items() if len(its_rows) >= number), None)
    if record_id not in rows_of:
        raise ValueError(f"{dataset}: {split} of fold {fold} has no questions about the ECG {record_id}.")
    chosen = _of_different_types(rows_of[record_id], rows["question_type"], number)
    conversations = [
        fill_ecgs(prompt_of(row["messages"]), row["ecgs"], row["sampling_rate"]) for row in (rows[i] for i in chosen)
    ]
    first = rows[chosen[0]]
    return EcgToAsk(
        record_id,
        first["ecgs"][0],
        first["sampling_rate"],
        [rows[index]["question"] for index in chosen],
        conversations,
        [", ".join(rows[index]["answer"]) for index in chosen],
    )


def ask(
    model: PreTrainedModel, processor: ProcessorMixin, to_ask: EcgToAsk, max_new_tokens: int = 64
) -> list[dict[str, str | None]]:
    """The questions with the model's answers and, where known, the truth."""
    answers = answer(model, processor, to_ask.conversations, max_new_tokens)
    return [
        {"question": question, "answer": text, "truth": truth}
        for question, text, truth in zip(to_ask.questions, answers, to_ask.truths)
    ]


def _of_different_types(indices: list[int], types: Sequence[str], number: int) -> list[int]:
    """`number` of the rows: the first of each type, then the others."""
    first = {types[index]: index for index in reversed(indices)}
    ordered = sorted(first.values()) + [index for index in indices if index not in first.values()]
    return ordered[:number]
