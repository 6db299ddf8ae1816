"""The messages of a conversation: inserting and replacing ECGs, extracting the prompt and the text of a message."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from elm_hf.modeling.chat_rendering import ecg_items
from elm_hf.modeling.ecg_leads import LEADS


def ecg_messages(num_ecgs: int, question: str, answer: str) -> list[dict]:
    """Return a conversation with one question and its answer. The ECGs are before the question."""
    content = [{"type": "ecg", "text": None}] * num_ecgs + [{"type": "text", "text": question}]
    return [{"role": "user", "content": content}, text_message("assistant", answer)]


def text_message(role: str, text: str) -> dict:
    """Return a message that consists of one text."""
    return {"role": role, "content": [{"type": "text", "text": text}]}


def answer_positions(messages: Sequence[dict]) -> list[int]:
    """Return the positions of the assistant's messages in a conversation."""
    return [position for position, message in enumerate(messages) if message["role"] == "assistant"]


@dataclass(frozen=True, eq=False)
class EcgMeasuredAs:
    """
    An ECG of which a model reads the measured values of another one.

    Attributes:
        ecg: the ECG.
        measured: the ECG that is measured in its place; None if no value is known.
    """

    ecg: np.ndarray
    measured: np.ndarray | None


def fill_ecgs(
    messages: Sequence[dict],
    ecgs: Sequence[np.ndarray],
    sampling_rate: float | Sequence[float],
    keep_flat: bool = False,
) -> list[dict]:
    """
    Insert the k-th ECG into the k-th `{"type": "ecg"}` item of the messages.

    Args:
        messages: messages of a conversation as stored in a dataset.
        ecgs: ECGs of the conversation, each `(12, samples)` in mV with leads in the order of `LEADS`, or [`EcgModalities`]
            or [`EcgMeasuredAs`] of such arrays.
        sampling_rate: sampling rate of the ECGs in Hz, or one for each.
        keep_flat: whether flat leads are kept, for experiments that replace an ECG by zeros.

    Raises:
        ValueError: the number of ECGs differs from the number of items.
    """
    expected = len(ecg_items(messages))
    if expected != len(ecgs):
        raise ValueError(f"The conversation has {expected} ECG items and {len(ecgs)} ECGs.")
    rates = np.broadcast_to(sampling_rate, len(ecgs)).tolist()
    remaining = (_given(ecg) | {"sampling_rate": rate} for ecg, rate in zip(ecgs, rates))
    settings = {"lead_names": list(LEADS), "keep_flat": keep_flat}
    filled = []
    for message in messages:
        content = message["content"]
        if not isinstance(content, str):
            content = [
                {"type": "ecg", **next(remaining), **settings}
                if item["type"] == "ecg"
                else {"type": "text", "text": item["text"]}
                for item in content
            ]
        filled.append({"role": message["role"], "content": content})
    return filled


def _given(ecg: np.ndarray | EcgMeasuredAs) -> dict:
    """An ECG as keys of an item."""
    if isinstance(ecg, EcgMeasuredAs):
        return {"ecg": ecg.ecg, "measured_ecg": ecg.measured}
    return {"ecg": ecg}


def replace_ecgs(messages: Iterable[dict], texts: Iterable[str] = ()) -> list[dict]:
    """Return messages with the k-th text in the place of the k-th ECG item. ECG items beyond the last text are dropped."""
    remaining = iter(texts)
    replaced = []
    for message in messages:
        content = []
        for item in message["content"]:
            if item["type"] != "ecg":
                content.append(item)
            elif (text := next(remaining, None)) is not None:
                content.append({"type": "text", "text": text})
        replaced.append(message | {"content": content})
    return replaced


def prompt_of(messages: Iterable[dict]) -> list[dict]:
    """Return a conversation up to its last user turn, which is the prompt for the last answer."""
    prompt = list(messages)
    while prompt and prompt[-1]["role"] == "assistant":
        prompt.pop()
    return prompt


def message_text(message: dict, separator: str = " ") -> str:
    """Return the text of a message: its text items, joined by `separator`. ECG items are skipped."""
    if isinstance(message["content"], str):
        return message["content"]
    return separator.join(item["text"] or "" for item in message["content"] if item["type"] == "text")


def last_text(messages: Sequence[dict], role: str) -> str:
    """Return the text of the last message of a role; empty if there is none."""
    return next((message_text(message).strip() for message in reversed(messages) if message["role"] == role), "")
