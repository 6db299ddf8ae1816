"""
Text-ECG alignment on descriptions of ECGs, with data expansion by leaving out leads (Yang et al. 2024, ECG-LM).

The text of an ECG is "This person is a {age}-year-old {gender} {height and weight}. The ECG signal is {ecg}. The ECG
report indicates {report}. The anomalies in general: {general}, lead I: {description}, …, lead V6: {description}."
Leads without findings are not mentioned.
"""

import copy
import zlib
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import Dataset

from elm_hf.data.columns import MESSAGES
from elm_hf.data.messages import message_text
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.modeling.processing_elm_base import BaseElmProcessor
from elm_hf.training.augmentation import sample_rng
from elm_hf.training.collator import ElmDataCollator


# A chat template that joins the turns without names of the roles.
PLAIN_TEXT = "{{- bos_token }}{% for message in messages %}{{ message['content'] }}{% endfor %}{{ '.' + eos_token }}"
LEADS_DROPPED = (4, 6)
NO_FINDING = "none"
_LEAD = ", lead {}: "
_COLUMNS = ("record_id", "age", "sex", "height_cm", "weight_kg", "report", "general", "leads")


def alignment_messages(description: dict, feature_sentences: bool = True) -> list[dict]:
    """
    The text of an ECG as a conversation. Report and findings, which the model is trained on, are turns of the
    assistant; the text between them is turns of the user.

    Args:
        description: row of the table that `describe_records` writes.
        feature_sentences: whether to include the findings, in general and by lead, and not only the report.
    """
    opening = [
        _text(f"This person is a {person_words(description)}. The ECG signal is "),
        {"type": "ecg", "text": None},
    ]
    turns = [(opening + [_text(". The ECG report indicates ")], description["report"].rstrip(". "))]
    if feature_sentences:
        general = ", ".join(description["general"]) or NO_FINDING
        turns.append(([_text(". The anomalies in general: ")], general))
        for lead, findings in zip(LEADS, description["leads"]):
            if findings:
                turns.append(([_text(_LEAD.format(lead))], ", ".join(findings)))
    return [
        message
        for asked, answer in turns
        for message in ({"role": "user", "content": asked}, {"role": "assistant", "content": [_text(answer)]})
    ]


def _text(text: str) -> dict:
    return {"type": "text", "text": text}


def person_words(description: dict) -> str:
    """Age, sex and size of a person, as far as they are known: "54-year-old male with a height of 180 cm"."""
    years = "" if description["age"] is None else f"{description['age']}-year-old "
    parts = [
        f"a {name} of {description[column]:.0f} {unit}"
        for name, column, unit in (("height", "height_cm", "cm"), ("weight", "weight_kg", "kg"))
        if description[column] is not None
    ]
    size = f" with {' and '.join(parts)}" if parts else ""
    return f"{years}{description['sex'] or 'patient'}{size}"


def alignment_conversations(
    conversations: Dataset, descriptions: str | PathLike, feature_sentences: bool = True, data_expansion: int = 0
) -> Dataset:
    """
    The descriptions of the ECGs that the conversations of a split are about, as conversations.

    Args:
        conversations: split loaded with `load_elm_dataset`.
        descriptions: Parquet file written by `describe_records`.
        feature_sentences: see [`alignment_messages`].
        data_expansion: number of extra copies of each ECG, with leads left out (see [`drop_leads`]).

    Returns:
        Rows like those of `load_elm_dataset`, with the column `expansion`: 0 for the whole ECG, 1 or more for a copy.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not a table of descriptions, or it contains none of the ECGs.
    """
    table = read_descriptions(Path(descriptions))
    columns = conversations.with_format(None).select_columns(["record_ids", "ecg_index"])[:]
    row_of = {
        name: row for names, rows in zip(columns["record_ids"], columns["ecg_index"]) for name, row in zip(names, rows)
    }
    found = [
        (description, row_of[description["record_id"]]) for description in table if description["record_id"] in row_of
    ]
    if not found:
        raise ValueError(
            f"{descriptions}: none of its {len(table)} records is among the {len(row_of)} of the dataset; run elm-hf "
            "describe on this dataset"
        )
    rows = [
        {
            "conversation_id": f"{description['record_id']}+{number}",
            "record_ids": [description["record_id"]],
            "ecg_index": [row],
            "messages": alignment_messages(description, feature_sentences),
            "expansion": number,
        }
        for number in range(data_expansion + 1)
        for description, row in found
    ]
    made = Dataset.from_list(rows).cast_column("messages", MESSAGES)
    return made.with_format(conversations.format["type"], **conversations.format["format_kwargs"])


def read_descriptions(path: Path) -> list[dict]:
    """
    Reads the table of `elm-hf describe`.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is not such a table.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; --descriptions takes the table that elm-hf describe writes")
    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: not a Parquet file of elm-hf describe ({error})") from error
    missing = [name for name in _COLUMNS if name not in table.column_names]
    if missing:
        raise ValueError(f"{path}: not a table of elm-hf describe (missing columns: {', '.join(missing)})")
    return table.to_pylist()


def drop_leads(
    messages: Sequence[dict], ecg: np.ndarray, rng: np.random.Generator
) -> tuple[list[dict], np.ndarray, list[str]]:
    """
    Leaves out 4 to 6 leads with their signals and descriptions. Described leads come first, but at least one is kept.

    Args:
        messages: messages of [`alignment_messages`].
        ecg: array `(12, samples)`.
        rng: random generator.

    Returns:
        The messages and the ECG without these leads, whose rows are NaN, and the names of the leads.
    """
    present = [lead for lead, row in zip(LEADS, ecg) if np.isfinite(row).any()]
    turn_of = {
        message_text(message, separator=""): number
        for number, message in enumerate(messages)
        if message["role"] == "user"
    }
    described = [lead for lead in present if _LEAD.format(lead) in turn_of]
    others = [lead for lead in present if lead not in described]
    number = min(rng.integers(LEADS_DROPPED[0], LEADS_DROPPED[1] + 1), len(present) - 1)
    order = [*rng.permutation(described)[: max(len(described) - 1, 0)], *rng.permutation(others)]
    dropped = sorted((str(lead) for lead in order[:number]), key=LEADS.index)
    left_out = {turn_of[_LEAD.format(lead)] for lead in dropped if lead in described}
    kept = [message for place, message in enumerate(messages) if not {place, place - 1} & left_out]
    ecg = ecg.copy()
    ecg[[LEADS.index(lead) for lead in dropped]] = np.nan
    return kept, ecg, dropped


class AlignmentCollator(ElmDataCollator):
    """
    [`ElmDataCollator`] for [`alignment_conversations`]. The turns are joined without the LLM's chat template, and
    copies of an ECG lose different leads in each epoch. Only the report and the findings have labels.

    Args:
        processor: the ELM's processor, which is not modified.
        args, kwargs: arguments of [`ElmDataCollator`].
    """

    def __init__(self, processor: BaseElmProcessor, *args, **kwargs):
        processor = copy.deepcopy(processor)
        processor.tokenizer.chat_template = PLAIN_TEXT
        processor.system_prompt = None
        super().__init__(processor, *args, **kwargs)

    def __call__(self, rows: Sequence[dict]) -> dict[str, torch.Tensor]:
        return super().__call__([self._expanded(row) for row in rows])

    def _expanded(self, row: dict) -> dict:
        if row["expansion"] == 0:
            return row
        rng = sample_rng(self.seed, self.epoch, zlib.crc32(f"leads {row['conversation_id']}".encode()))
        messages, ecg, _ = drop_leads(row["messages"], row["ecgs"][0], rng)
        return row | {"messages": messages, "ecgs": [ecg]}
