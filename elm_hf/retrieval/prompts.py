"""Retrieval-augmented prompts: reports or features of the most similar training ECGs, never of the same patient."""

from collections import Counter
from collections.abc import Iterable, Sequence
from os import PathLike

import datasets
import numpy as np
from datasets import Dataset

from elm_hf.data.ecg_table import EcgTable
from elm_hf.data.loading import records_of
from elm_hf.data.patients import patients_of, record_patients
from elm_hf.modeling.chat_rendering import with_system_prompt
from elm_hf.retrieval.index import EcgIndex
from elm_hf.retrieval.options import RetrievalOptions
from elm_hf.utils.source_digest import source_digest


class Retrieval:
    """
    Puts the reports or features of neighbours into conversations.

    Neighbours are searched when it is made; it then holds no index or model and can be sent to worker processes. Records of
    a conversation's own patients are never among them: the search returns as many additional candidates as those patients
    can have in the index, and theirs are skipped.

    Args:
        options: the index, the number of neighbours, what is inserted and where.
        dataset: dataset of the conversations, or several in the order in which they were loaded.
        fold: fold of the conversations: 1 to 5 or `"official"`.
        ecg_index: column `ecg_index` of the conversations.
        records: local builds of datasets that were published without signals, as for `load_elm_dataset`.

    Raises:
        FileNotFoundError: there is no such index.
        ValueError: the index lacks that content, has too few patients, or holds patients that this fold tests on.
    """

    def __init__(
        self,
        options: RetrievalOptions,
        dataset: str | PathLike | Sequence[str | PathLike],
        fold: int | str,
        ecg_index: Iterable[Sequence[int]],
        records: str | PathLike | Sequence[str | PathLike | None] | None = None,
    ):
        index, content = options.index, options.content
        self.k, self.location = options.k, options.location
        found = EcgIndex(index)
        if not (found.settings.reports if content == "report" else found.settings.feature_texts):
            makes_features = "make it with elm-hf index --by features, or --feature-texts"
            how = 'take "features" (--rag-content)' if content == "report" else makes_features
            raise ValueError(f"{index}: the records of this index have no {content}; {how}")
        self._texts = found.entries[content]
        self._patients = record_patients(found.entries).to_pylist()
        paths = [dataset] if isinstance(dataset, str | PathLike) else list(dataset)
        local = [records] * len(paths) if records is None or isinstance(records, str | PathLike) else list(records)
        tables = []
        for path, of_path in zip(paths, local):
            table = records_of(path, of_path)
            if table is not None:  # None for conversations without ECGs
                self._check_held_out(index, path, fold)
                tables.append(table)
        self._owners = [owner for table in tables for owner in record_patients(table).to_pylist()]
        self._candidates = self._find(found, datasets.concatenate_datasets(tables), ecg_index) if tables else {}

    def __call__(self, messages: Sequence[dict], ecg_index: Sequence[int]) -> list[dict]:
        """
        The conversation with the neighbours of its ECGs; unchanged if it is about no ECG.

        Args:
            messages: a conversation, with its system prompt, if it has one.
            ecg_index: the rows of its ECGs.
        """
        if not ecg_index:
            return list(messages)
        parts = []
        for number, row in enumerate(ecg_index, 1):
            which = "this ECG" if len(ecg_index) == 1 else f"ECG {number}"
            texts = [
                f"{place}. {' '.join(self._texts[entry].split())}" for place, entry in self._ranked(row, ecg_index)
            ]
            parts.append("\n".join([f"ECGs of other patients most like {which}:", *texts]))
        return self._insert(list(messages), "\n\n".join(parts))

    def neighbours(self, row: int, ecg_index: Sequence[int] | None = None) -> list[int]:
        """
        The entries of the index nearest to a record, nearest first.

        Args:
            row: row of the record.
            ecg_index: rows of all records of the conversation, whose patients are skipped; the record alone by default.
        """
        excluded = {self._owners[other] for other in ecg_index or [row]} | {self._owners[row]}
        allowed = [entry for entry in self._candidates[row] if self._patients[entry] not in excluded]
        return [int(entry) for entry in allowed[: self.k]]

    def _ranked(self, row: int, ecg_index: Sequence[int]):
        return enumerate(self.neighbours(row, ecg_index), 1)

    def _insert(self, messages: list[dict], text: str) -> list[dict]:
        words = {"type": "text", "text": text}
        if self.location == "system":
            if messages[0]["role"] != "system":
                return [{"role": "system", "content": [words]}, *messages]
            return [_with_text(messages[0], "\n\n" + text), *messages[1:]]
        place = next(number for number, message in enumerate(messages) if _last_ecg(message) is not None)
        content = list(messages[place]["content"])
        content.insert(_last_ecg(messages[place]) + 1, {"type": "text", "text": f"\n{text}\n\n"})
        messages[place] = messages[place] | {"content": content}
        return messages

    def _check_held_out(self, index, path, fold) -> None:
        held_out = patients_of(path, fold, held_out=True)
        common = held_out & set(self._patients)
        if common:
            raise ValueError(
                f"{index}: this index holds {len(common)} of the {len(held_out)} validation and test patients of fold "
                f"{fold} of {path}; make an index of that fold's training patients (elm-hf index {path} --fold {fold})"
            )

    def _find(self, index: EcgIndex, records, ecg_index: Iterable[Sequence[int]]) -> dict[int, np.ndarray]:
        """For each record that is asked about, the nearest entries: enough even when those of its patients are skipped."""
        conversations = [list(rows) for rows in ecg_index]
        rows = sorted({row for one in conversations for row in one})
        if not rows:
            return {}
        most_patients = max(len(one) for one in conversations)
        most_records = max(Counter(self._patients).values())
        enough = self.k + most_patients * most_records
        if len(set(self._patients)) < self.k + most_patients:
            raise ValueError(
                f"the index holds {len(set(self._patients))} patients: too few for {self.k} neighbours of other patients"
            )
        found = index.search(self._vectors(index, records, rows), min(enough, len(self._patients)))
        return dict(zip(rows, found))

    def _vectors(self, index: EcgIndex, records, rows: list[int]) -> np.ndarray:
        """Vectors of records: the index has those of its own; the others are measured or encoded."""
        keys = list(zip(records["source"], records["record_id"]))
        entry_of = {key: entry for entry, key in enumerate(zip(index.entries["source"], index.entries["record_id"]))}
        known = [row for row in rows if keys[row] in entry_of]
        other = [row for row in rows if keys[row] not in entry_of]
        vectors = {}
        if known:
            vectors |= zip(known, index.vectors([entry_of[keys[row]] for row in known]))
        if other:
            table = EcgTable(records)
            vectors |= zip(other, index.embed([table[row] for row in other], records[0]["sampling_rate"]))
        return np.stack([vectors[row] for row in rows])


def add_neighbours(
    conversations: Dataset,
    retrieval: Retrieval,
    system_prompt: str | None = None,
    num_proc: int | None = None,
) -> Dataset:
    """
    The conversations with their ECGs' neighbours in `messages`.

    Args:
        conversations: conversations of [`load_elm_dataset`], all or some.
        retrieval: made for these conversations.
        system_prompt: system message of conversations that have none. It is that of the processor, which would not add it
            to a conversation that has neighbours in its system message.
        num_proc: number of processes.
    """
    added = conversations.with_format(None).map(
        _AddNeighbours(retrieval, system_prompt),
        input_columns=["messages", "ecg_index"],
        num_proc=num_proc,
        desc="adding neighbours",
    )
    return added.with_format(conversations.format["type"], **conversations.format["format_kwargs"])


class _AddNeighbours:
    """Adds neighbours to a row; an object, which can be sent to other processes. `datasets` caches results by its attributes."""

    def __init__(self, retrieval: Retrieval, system_prompt: str | None):
        self.retrieval, self.system_prompt = retrieval, system_prompt
        self.code = source_digest(__name__)

    def __call__(self, messages: list[dict], ecg_index: list[int]) -> dict:
        return {"messages": self.retrieval(with_system_prompt(messages, self.system_prompt), ecg_index)}


def _with_text(message: dict, text: str) -> dict:
    content = message["content"]
    if isinstance(content, str):
        return message | {"content": content + text}
    return message | {"content": [*content, {"type": "text", "text": text}]}


def _last_ecg(message: dict) -> int | None:
    """Position of the last ECG item in a user's message; None if it has none."""
    if message["role"] != "user" or isinstance(message["content"], str):
        return None
    places = [place for place, item in enumerate(message["content"]) if item["type"] == "ecg"]
    return places[-1] if places else None
