"""What is asked in an evaluation: conversations of a split with their ECGs, and what is known of them and of the training questions."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike

import numpy as np
import pandas as pd
from datasets import Dataset

from elm_hf.data.loading import load_elm_dataset
from elm_hf.data.tables import load_records
from elm_hf.evaluation.ablation import SignalAblation
from elm_hf.evaluation.fingerprints import fingerprint_of_questions
from elm_hf.evaluation.questions import list_questions
from elm_hf.retrieval.options import RetrievalOptions
from elm_hf.retrieval.prompts import Retrieval, add_neighbours
from elm_hf.scoring.predictions import PersonsOf
from elm_hf.scoring.subgroups import record_facts


# Raised when what stands in the place of an ECG changes, so that no evaluation mixes answers under both.
CONTROLS_VERSION = 2


@dataclass(frozen=True)
class Asked:
    """
    What is asked in an evaluation.

    Attributes:
        rows: the conversations, with their ECGs.
        questions: of [`list_questions`].
        ablation: what stands in the place of the ECGs.
        sources: names of the datasets of the ECGs.
        neighbours: what is put into the prompts, if anything.
        persons: age and sex of each record; None if the records do not have them.
        facts: what the records table says of each ECG that is asked about, by number.
    """

    rows: Dataset
    questions: pd.DataFrame
    ablation: SignalAblation
    sources: set[str]
    neighbours: Retrieval | None
    persons: list[tuple] | None
    facts: dict[int, dict]

    def ecgs_of(self, question_id: str) -> tuple[list[np.ndarray], float]:
        """The ECGs of a question, each `(12, samples)` in mV, and their sampling rate in Hz."""
        row = self.rows[self._row_of[question_id]]
        return list(row["ecgs"]), row["sampling_rate"]

    def persons_of(self, question_id: str) -> list[tuple]:
        """Age in years and sex of the patient of each ECG of a question, None where unknown."""
        return [self.persons[number] for number in self._ecg_index[self._row_of[question_id]]]

    @property
    def known_persons_of(self) -> PersonsOf | None:
        """[`persons_of`]; None if the records do not have age and sex."""
        return None if self.persons is None else self.persons_of

    def facts_of(self, question_id: str) -> list[dict]:
        """What the records table says of each ECG of a question, of [`record_facts`]."""
        return [self.facts[number] for number in self._ecg_index[self._row_of[question_id]]]

    @property
    def patients(self) -> set[str]:
        """Ids of the patients whom the questions are about."""
        return {name for names in self.questions["patient_ids"] for name in names}

    def identity(
        self,
        dataset: str | PathLike,
        fold: int | str,
        split: str,
        conditions: Sequence[str],
        max_new_tokens: int | Mapping[str, int],
    ) -> dict:
        """What makes an evaluation different from others, whoever answers; arguments as for [`evaluate`]."""
        return {
            "dataset": str(dataset),
            "fold": str(fold),
            "split": split,
            "questions": fingerprint_of_questions(self.questions, self.rows),
            "conditions": list(conditions),
            "controls": CONTROLS_VERSION,
            "max_new_tokens": max_new_tokens if isinstance(max_new_tokens, int) else dict(max_new_tokens),
        }

    def donors(self) -> dict:
        """`donors` of the report: numbers of questions under `shuffled`; empty without this condition."""
        if not self.ablation.has_donors:
            return {}
        with_ecg, same = self.questions["record_ids"].map(len).gt(0).sum(), len(self.ablation.same_answer)
        return {"donors": {"other_answer": int(with_ecg) - same, "no_other_answer": same}}

    @property
    def has_steps(self) -> bool:
        """Whether the conversations consist of steps with options (ECG-Reasoning-Benchmark)."""
        return "steps" in self.rows.column_names

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return dict(zip(self.questions["question_id"], self.questions["row"]))

    @cached_property
    def _ecg_index(self) -> list[list[int]]:
        return self.rows.with_format(None)["ecg_index"][:]


def what_is_asked(
    dataset: str | PathLike,
    fold: int | str,
    split: str,
    limit: int | None,
    records: str | PathLike | None,
    conditions: Sequence[str],
    seed: int,
    retrieval: RetrievalOptions | None,
) -> Asked:
    try:
        rows = load_elm_dataset(dataset, fold=fold, split=split, records=records)
    except ValueError as error:  # the error of `datasets` about an empty split does not name it
        raise ValueError(f"fold {fold}, {split}, of {dataset} cannot be evaluated: {error}") from error
    if limit is not None and limit < len(rows):
        rows = rows.select(np.linspace(0, len(rows) - 1, limit).astype(int))
    with errors_of(dataset):
        ecg_index = rows.select_columns("ecg_index")[:]["ecg_index"]
        asked_about = {number for numbers in ecg_index for number in numbers}
        source_of, persons = _facts_of_records(records or dataset) if asked_about else (None, None)
        questions = list_questions(rows, source_of)
        ablation = SignalAblation(rows, conditions, seed, questions, persons)
        if "steps" in rows.column_names:
            ablation.share_donors(questions)
        neighbours = None
        if retrieval is not None:
            neighbours = Retrieval(retrieval, dataset, fold, rows["ecg_index"], records)
    sources = {source_of[number] for number in asked_about}
    facts = record_facts(records or dataset, asked_about) if asked_about else {}
    return Asked(rows, questions, ablation, sources, neighbours, persons, facts)


def _facts_of_records(dataset: str | PathLike) -> tuple[list[str], list[tuple] | None]:
    """The source, and age and sex, of each record; None where these columns are not there."""
    table = load_records(dataset)
    names = [name for name in ("source", "age", "sex") if name in table.column_names]
    facts = table.select_columns(names)[:]
    persons = list(zip(facts["age"], facts["sex"])) if {"age", "sex"} <= set(names) else None
    return facts["source"], persons


def with_neighbours(asked: Asked, system_prompt: str | None) -> Asked:
    """Puts the neighbours into the conversations; a new system message moves the positions of their answers by one."""
    if asked.neighbours is None:
        return asked
    rows = add_neighbours(asked.rows, asked.neighbours, system_prompt)
    added = [len(after) - len(before) for before, after in zip(asked.rows["messages"], rows["messages"])]
    positions = asked.questions["position"] + [added[row] for row in asked.questions["row"]]
    return replace(asked, rows=rows, questions=asked.questions.assign(position=positions))


def training_rows_of(
    dataset: str | PathLike, fold: int | str, records: str | PathLike | None, persons: list[tuple] | None
) -> pd.DataFrame | None:
    """What the baselines learn from; None where the fold has no training split, as in some benchmarks."""
    try:
        rows = load_elm_dataset(dataset, fold=fold, split="train", records=records)
    except ValueError:
        return None
    names = [name for name in ("question_type", "template_id", "question", "answer") if name in rows.column_names]
    table = rows.select_columns(names).with_format(None).to_pandas()
    if persons is not None:
        firsts = [numbers[:1] for numbers in rows.with_format(None)["ecg_index"]]
        table["age"], table["sex"] = zip(*(persons[first[0]] if first else (None, None) for first in firsts))
    return table


@contextmanager
def errors_of(dataset: str | PathLike) -> Iterator[None]:
    """Names the dataset in what is wrong with it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{dataset}: {error}") from error
