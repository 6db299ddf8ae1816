"""Occlusion: how much less probable an answer becomes when a lead, or a stretch of time, is hidden from the model."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel, ProcessorMixin

from elm_hf.data.messages import fill_ecgs
from elm_hf.inference.generation import log_likelihoods
from elm_hf.modeling.ecg_leads import LEADS


WINDOW_S = 0.5
OCCLUSION_FILE = "occlusion.npz"


def flattened(ecg: np.ndarray, leads: slice, samples: slice) -> np.ndarray:
    """An ECG `(leads, samples)` with part of it at each lead's median, which is close to its baseline."""
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
        answer: whose probability is looked at.
        window_s: length of a stretch, in seconds; the last one may be shorter.
        batch_size: ECGs at once.

    Returns:
        `lead_effect (12,)` and `window_effect (windows,)`: natural logarithm of the answer's probability with the whole
        ECG less that with the part hidden; above 0 where the part speaks for the answer. `log_likelihood ()` with the
        whole ECG. `windows_s (windows, 2)`: begin and end of each stretch.
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
        conversations = [fill_ecgs(answered, [one], sampling_rate) for one in ecgs[start : start + batch_size]]
        scores.append(log_likelihoods(model, processor, conversations))
    scores = np.concatenate(scores)
    effects = scores[0] - scores[1:]
    return {
        "log_likelihood": scores[0],
        "lead_effect": effects[: len(ecg)],
        "window_effect": effects[len(ecg) :],
        "windows_s": np.stack([starts, np.minimum(starts + step, length)], axis=1) / sampling_rate,
    }


def save_occlusions(file: Path, occlusions: Sequence[dict], sampling_rate: float):
    """
    Writes `occlusion.npz` (`numpy.load` reads it without pickle).

    Args:
        file: to write.
        occlusions: of each question what [`occlude`] returns, and its `question_id`, `record_id`, `question`,
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
