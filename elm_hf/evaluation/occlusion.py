"""Occlusion: how much less probable an answer becomes when a lead, or a stretch of time, is hidden from the model."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset
from transformers import PreTrainedModel, ProcessorMixin

from elm_hf.data.messages import fill_ecgs
from elm_hf.evaluation.attention import ecg_attention
from elm_hf.inference.generation import Answer, log_likelihoods
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.modeling.processing_elm_symbol import ElmSymbolProcessor
from elm_hf.scoring.predictions import Key


WINDOW_S = 0.5


def flattened(ecg: np.ndarray, leads: slice, samples: slice) -> np.ndarray:
    """A copy of an ECG `(leads, samples)` with a part set to each lead's median, which is close to its baseline."""
    hidden = ecg.copy()
    hidden[leads, samples] = np.median(ecg, axis=1, keepdims=True)[leads]
    return hidden


def occlude(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    messages: Sequence[dict],
    ecg: np.ndarray,
    sampling_rate: float,
    answer: str,
    window_s: float = WINDOW_S,
    batch_size: int = 32,
) -> dict[str, np.ndarray]:
    """
    Hides each lead, and each stretch of time in all leads, in turn (Zeiler and Fergus 2014, section 4.2, on ECGs).

    Args:
        model: the ELM.
        processor: its processor.
        messages: a conversation that ends with a question, with one `{"type": "ecg"}` item.
        ecg: `(12, samples)` in mV; leads that are absent (NaN) stay so and have no effect.
        sampling_rate: in Hz.
        answer: text whose probability is compared.
        window_s: length of a stretch, in seconds; the last one may be shorter.
        batch_size: number of ECGs in a batch.

    Returns:
        `lead_effect (12,)` and `window_effect (windows,)`: natural logarithm of the answer's probability with the whole
        ECG, minus that with the part hidden; above 0 where the part supports the answer. `log_likelihood ()` with the
        whole ECG. `windows_s (windows, 2)`: start and end of each stretch.
    """
    length = ecg.shape[1]
    step = round(window_s * sampling_rate)
    starts = np.arange(0, length, step)
    ecgs = [ecg]
    ecgs += [flattened(ecg, slice(lead, lead + 1), slice(None)) for lead in range(len(ecg))]
    ecgs += [flattened(ecg, slice(None), slice(start, start + step)) for start in starts]
    answered = [*messages, {"role": "assistant", "content": [{"type": "text", "text": answer}]}]
    scores = []
    for start in range(0, len(ecgs), batch_size):
        batch = ecgs[start : start + batch_size]
        conversations = [fill_ecgs(answered, [one], sampling_rate, keep_flat=True) for one in batch]
        scores.append(log_likelihoods(model, processor, conversations))
    scores = np.concatenate(scores)
    effects = scores[0] - scores[1:]
    return {
        "log_likelihood": scores[0],
        "lead_effect": effects[: len(ecg)],
        "window_effect": effects[len(ecg) :],
        "windows_s": np.stack([starts, np.minimum(starts + step, length)], axis=1) / sampling_rate,
    }


def choose_answers(questions: pd.DataFrame, answers: Mapping[Key, Answer], number: int) -> pd.DataFrame:
    """
    Up to `number` questions about one ECG each, drawn evenly, no ECG twice, with the model's answer in `prediction`; an
    empty answer is not chosen.

    Args:
        questions: of [`list_questions`].
        answers: to them, under the condition `ecg`.
        number: largest number of questions.
    """
    answered = questions.assign(prediction=[answers[name, "ecg"].text for name in questions["question_id"]])
    fit = answered[answered["record_ids"].map(len).eq(1) & answered["prediction"].ne("")]
    fit = fit[~fit["record_ids"].map(tuple).duplicated()]
    return fit.iloc[np.unique(np.linspace(0, len(fit) - 1, min(number, len(fit))).astype(int))]


def occlude_answers(
    file: Path,
    rows: Dataset,
    questions: pd.DataFrame,
    model: PreTrainedModel,
    processor: ProcessorMixin,
    batch_size: int = 32,
) -> None:
    """
    Finds on which leads and times a model's own answers depend, and writes `occlusion.npz`; nothing without questions.

    Args:
        file: file to write.
        rows: the conversations, with their ECGs.
        questions: of [`choose_answers`].
        model, processor: of the checkpoint that answered.
        batch_size: number of ECGs in a batch.
    """
    found = []
    for question in questions.itertuples():
        row = rows[question.row]
        ecg, sampling_rate = row["ecgs"][0], row["sampling_rate"]
        answered = (row["messages"][: question.position], ecg, sampling_rate, question.prediction)
        effects = occlude(model, processor, *answered, batch_size=batch_size)
        if isinstance(processor, ElmSymbolProcessor):
            effects["attention"] = ecg_attention(model, processor, *answered)
        names = {"question_id": question.question_id, "record_id": question.record_ids[0]}
        words = {"question": question.question, "prediction": question.prediction}
        found.append(effects | names | words | {"ecg": ecg})
    if found:
        save_occlusions(file, found, sampling_rate)


def save_occlusions(file: Path, occlusions: Sequence[dict], sampling_rate: float):
    """
    Writes `occlusion.npz` (`numpy.load` reads it without pickle).

    Args:
        file: file to write.
        occlusions: for each question, what [`occlude`] returns, and its `question_id`, `record_id`, `question`,
            `prediction` and `ecg`.
        sampling_rate: in Hz.

    The arrays have a row for each question: `question_id`, `record_id`, `question`, `prediction` (text),
    `log_likelihood (questions,)`, `lead_effect (questions, 12)`, `window_effect (questions, windows)`,
    `ecg (questions, 12, samples)` in mV, and of models with an ECG-Byte tokenizer `attention` in the same shape (see
    [`ecg_attention`]). One for all: `leads (12,)`, `windows_s (windows, 2)`, `sampling_rate ()`.
    """
    names = ("question_id", "record_id", "question", "prediction")
    numbers = ["log_likelihood", "lead_effect", "window_effect", "ecg"]
    numbers += ["attention"] * ("attention" in occlusions[0])
    arrays = {name: np.array([one[name] for one in occlusions]) for name in (*names, *numbers)}
    np.savez_compressed(
        file, leads=np.array(LEADS), windows_s=occlusions[0]["windows_s"], sampling_rate=sampling_rate, **arrays
    )
