"""Asking a checkpoint about one ECG: from a file, or a held-out ECG of a dataset with its questions and true answers."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel, ProcessorMixin

from elm_hf.data.loading import load_elm_dataset
from elm_hf.data.messages import fill_ecgs, message_text, prompt_of
from elm_hf.ecg.files import ARRAY_SUFFIXES, read_ecg_file
from elm_hf.inference.generation import answer
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.modeling.ecg_quality import signal_quality
from elm_hf.modeling.ecg_segments import described
from elm_hf.modeling.feature_extraction_ecg import SignalQualityWarning


@dataclass
class EcgToAsk:
    """
    An ECG and questions about it.

    Attributes:
        name: name of the record.
        ecg: `(12, samples)` in mV, NaN where invalid.
        sampling_rate: in Hz.
        prompts: conversations that end with a question, each with one `{"type": "ecg"}` item.
        truths: the true answer to each question, None where it is not known.
        path: the file, None for an array or an ECG of a dataset.
    """

    name: str
    ecg: np.ndarray
    sampling_rate: float
    prompts: list[list[dict]]
    truths: list[str | None]
    path: Path | None = None

    def missing_leads(self, processor: ProcessorMixin) -> str:
        """
        The leads that are missing in what a model reads of the ECG, with the causes, such as `"V1 (flat)"`; empty if
        there are none.
        """
        reader = processor.ecg_reader
        segment = reader.read(self.given, self.sampling_rate, LEADS)
        return described(reader.leads, segment.causes)

    def problems(self) -> list[str]:
        """What in the ECG makes answers about it doubtful: see [`~ecg_quality.signal_quality`]."""
        return signal_quality(self.ecg, self.sampling_rate)

    @property
    def given(self) -> np.ndarray | str:
        """What the model's processor reads: the record itself, so that it is read in the same way everywhere."""
        return self.ecg if self.path is None else str(self.path)


def ecg_from_file(
    path: str | PathLike, questions: Sequence[str], sampling_rate: float | None = None, units: str | None = None
) -> EcgToAsk:
    """
    An ECG in a file and questions about it.

    Args:
        path: the file, see [`~elm_hf.ecg.files.read_ecg_file`].
        questions: questions about the ECG, each asked on its own.
        sampling_rate: sampling rate in Hz, required for arrays.
        units: units of an array.

    Raises:
        RecordingError: the file is missing, unreadable or no ECG.
    """
    recording = read_ecg_file(path, sampling_rate, units=units, as_recorded=True)
    prompts = [
        [{"role": "user", "content": [{"type": "ecg"}, {"type": "text", "text": question}]}] for question in questions
    ]
    truths = [None] * len(prompts)
    read_again = None if Path(path).suffix in ARRAY_SUFFIXES else Path(path)
    return EcgToAsk(Path(path).name, recording.ecg, recording.sampling_rate, prompts, truths, read_again)


def ecg_from_dataset(
    dataset: str | PathLike, fold: int | str, split: str, record_id: str | None, number: int
) -> EcgToAsk:
    """
    An ECG of a split and up to `number` questions of the split about it alone, of different types if possible.

    Args:
        dataset: folder or Hub name of an elm-hf dataset.
        fold, split: where to look; the `"test"` split of a fold is held out.
        record_id: the ECG; by default the first one of the split with `number` questions, or with most questions.
        number: largest number of questions, at least 1.

    Raises:
        FileNotFoundError: there is no such dataset.
        ValueError: the split has no questions about that ECG.
    """
    rows = load_elm_dataset(dataset, fold=fold, split=split)
    rows_of: dict[str, list[int]] = {}
    for index, record_ids in enumerate(rows["record_ids"]):
        if len(record_ids) == 1:
            rows_of.setdefault(record_ids[0], []).append(index)
    if not rows_of:
        raise ValueError(f"{dataset}: {split} of fold {fold} has no questions about a single ECG")
    if record_id is None:
        record_id = max(rows_of, key=lambda name: min(len(rows_of[name]), number))
    if record_id not in rows_of:
        raise ValueError(
            f'{dataset}: {split} of fold {fold} has no questions about an ECG "{record_id}" (record_id); it has about '
            f'"{min(rows_of)}" and {len(rows_of) - 1} others'
        )
    about_it = [rows[index] for index in rows_of[record_id]]
    chosen = _of_different_types(about_it)[:number]
    prompts = [prompt_of(row["messages"]) for row in chosen]
    truths = [
        " ".join(message_text(message) for message in row["messages"][len(prompt) :])
        for row, prompt in zip(chosen, prompts)
    ]
    return EcgToAsk(record_id, chosen[0]["ecgs"][0], chosen[0]["sampling_rate"], prompts, truths)


def ask(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    to_ask: EcgToAsk,
    max_new_tokens: int = 64,
) -> list[dict[str, str | None]]:
    """
    The questions with the model's answers and, where known, the true answers.

    Args:
        model, processor: of a checkpoint.
        to_ask: the ECG and the questions.
        max_new_tokens: longest answer, in tokens.

    Raises:
        ValueError: the ECG does not fit the model.
    """
    conversations = [fill_ecgs(prompt, [to_ask.given], to_ask.sampling_rate) for prompt in to_ask.prompts]
    try:
        with warnings.catch_warnings():
            # See `EcgToAsk.missing_leads` and `EcgToAsk.problems`.
            warnings.filterwarnings("ignore", category=SignalQualityWarning)
            answers = answer(model, processor, conversations, max_new_tokens)
    except ValueError as error:
        raise ValueError(f"{to_ask.name}: {error}") from error
    except (TypeError, LookupError, ArithmeticError, AttributeError, RuntimeError) as error:
        cause = " ".join(str(error).split())[:300]
        raise ValueError(
            f"{to_ask.name}: {model.name_or_path} cannot answer ({type(error).__name__}: {cause})"
        ) from error
    return [
        {"question": message_text(prompt[-1]), "answer": text, "truth": truth}
        for prompt, text, truth in zip(to_ask.prompts, answers, to_ask.truths)
    ]


def _of_different_types(rows: list[dict]) -> list[dict]:
    """The first row of each question type, then the others."""
    seen, first, others = set(), [], []
    for row in rows:
        (others if row.get("question_type") in seen else first).append(row)
        seen.add(row.get("question_type"))
    return first + others
