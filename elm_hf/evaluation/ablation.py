"""The signal ablation: the same questions with the true ECG, and with something else or nothing in its place."""

import zlib
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pandas as pd
from datasets import Dataset

from elm_hf.data.messages import EcgMeasuredAs, replace_ecgs
from elm_hf.ecg.surrogates import surrogate_noise
from elm_hf.modeling.ecg_modalities import EcgModalities
from elm_hf.scoring.names import (
    ALL_CONDITIONS,
    CONDITIONS,
    DEMOGRAPHICS,
    MEASUREMENT_CONDITIONS,
    MODALITY_CONDITIONS,
    PART_CONDITIONS,
)
from elm_hf.utils.exact_match import answer_items


FEW_TRIES = 4

Places = list[tuple[int, int]]


class SignalAblation:
    """
    What stands in the place of a conversation's ECGs under each condition.

    - `ecg`: the ECGs themselves.
    - `zeros`: 0 mV in every lead.
    - `noise`: noise with the spectrum of each lead (see [`surrogate_noise`]).
    - `shuffled`: as many ECGs of another conversation, none of them of a patient of this one; where the same question is
      asked about ECGs of other patients with another true answer, those of such a conversation. Without it, questions
      about the same ECGs get the same ones.
    - `none`: no ECG; the text stays.
    - `demographics`: no ECG, but a sentence with the patient's age and sex.
    - `signal_only`, `picture_only`: of the signal and the picture of each ECG, only one; `other_signal`, `other_picture`:
      one of them is that of the ECG of `shuffled`. For models that read both.
    - `no_measurements`: the ECGs without measured values; `other_measurements`, `measurements_only`: the measured values, or
      all else, are those of the ECG of `shuffled`. For models that read measured values.

    Args:
        rows: conversations of [`load_elm_dataset`].
        conditions: some of `ALL_CONDITIONS`, with `ecg`.
        seed: random seed for noise and shuffling, which depend on it and on the conversations only.
        questions: of [`list_questions`]. Without them the true answers do not count for `shuffled`.
        persons: for each record of the dataset its age in years and its sex, or None; for `demographics`.

    Attributes:
        same_answer: ids of the questions about ECGs for which `shuffled` found no ECG with another true answer.

    Raises:
        ValueError: a condition is unknown, `ecg` is not among them, `shuffled` finds too few ECGs of other patients, or
            `demographics` no age and sex.
    """

    def __init__(
        self,
        rows: Dataset,
        conditions: Sequence[str] = CONDITIONS,
        seed: int = 0,
        questions: pd.DataFrame | None = None,
        persons: Sequence[tuple[int | None, str | None]] | None = None,
    ):
        unknown = sorted(set(conditions) - set(ALL_CONDITIONS))
        if unknown:
            raise ValueError(f"unknown condition {', '.join(unknown)}; there are {', '.join(ALL_CONDITIONS)}")
        if "ecg" not in conditions:
            raise ValueError(f'the condition "ecg" is missing; {", ".join(conditions)} would be compared with it')
        if DEMOGRAPHICS in conditions and not any(known is not None for one in persons or () for known in one):
            raise ValueError(
                f'the condition "{DEMOGRAPHICS}" needs columns `age` and `sex` in the records, with values'
            )
        self._ecgs_of, self._seed = rows.select_columns("ecg_index"), seed  # reads ECGs without the messages
        columns = rows.select_columns(["record_ids", "patient_ids", "ecg_index"]).with_format(None)[:]
        self._records = [tuple(names) for names in columns["record_ids"]]
        self._patients = [frozenset(names) for names in columns["patient_ids"]]
        self._indices, self._persons = columns["ecg_index"], persons
        self.has_donors = any("shuffled" in (name, *PART_CONDITIONS.get(name, ())) for name in conditions)
        self._other_conditions = [
            name for name in conditions if name in ("ecg", "zeros", "noise", "none", DEMOGRAPHICS)
        ]
        self._donors = self._choose_donors() if self.has_donors else {}
        self._donors_of_question: dict[str, Places] = {}
        self.same_answer: set[str] = set()
        if self.has_donors and questions is not None:
            self._choose_other_answers(questions)

    def names(self, row: int, condition: str, number: int, question_id: str | None = None) -> tuple[str, ...]:
        """Names of the ECGs that [`ecgs`] returns; equal names stand for equal ECGs."""
        if condition in ("none", DEMOGRAPHICS) or number == 0:
            return ()
        if condition in PART_CONDITIONS:
            parts = [
                ("nothing",) * number if source is None else self.names(row, source, number, question_id)
                for source in PART_CONDITIONS[condition]
            ]
            kinds = ("signal", "picture") if condition in MODALITY_CONDITIONS else ("ECG", "measured values")
            return tuple(", ".join(f"{kind} of {name}" for kind, name in zip(kinds, one)) for one in zip(*parts))
        if condition == "zeros":
            return ("zeros",) * number
        if condition == "noise":
            return tuple(f"noise {name}" for name in self._records[row][:number])
        places = self._places(row, condition, question_id)[:number]
        return tuple(f"ecg {self._records[other][position]}" for other, position in places)

    def ecgs(
        self, row: int, condition: str, number: int, question_id: str | None = None
    ) -> list[np.ndarray] | list[EcgModalities] | list[EcgMeasuredAs]:
        """
        The ECGs that are put in the places of the first ECGs of a conversation.

        Args:
            row: of the conversation.
            condition: one of `ALL_CONDITIONS`.
            number: number of its ECGs that are replaced.
            question_id: of the question; the ECGs of `shuffled` depend on it.

        Returns:
            ECGs `(leads, samples)` in mV; none at all under `none` and `demographics`; their signals and pictures, or
            themselves and what is measured, under the conditions of `PART_CONDITIONS`.
        """
        if condition in ("none", DEMOGRAPHICS):
            return []
        if condition in PART_CONDITIONS:
            parts = [
                [None] * number if source is None else self.ecgs(row, source, number, question_id)
                for source in PART_CONDITIONS[condition]
            ]
            both = EcgMeasuredAs if condition in MEASUREMENT_CONDITIONS else EcgModalities
            return [both(*one) for one in zip(*parts)]
        places = self._places(row, condition, question_id)[:number]
        ecgs = [self._ecgs_of[other]["ecgs"][position] for other, position in places]
        if condition == "zeros":
            return [np.zeros_like(ecg) for ecg in ecgs]
        if condition == "noise":
            return [surrogate_noise(ecg, self._rng(name)) for ecg, name in zip(ecgs, self._records[row])]
        return ecgs

    def messages(self, row: int, condition: str, messages: Sequence[dict]) -> list[dict]:
        """Messages of a conversation, in which `none` has no ECG items and `demographics` sentences in their place."""
        if condition not in ("none", DEMOGRAPHICS):
            return list(messages)
        persons = [] if condition == "none" else [self._persons[index] for index in self._indices[row]]
        return replace_ecgs(messages, [person_text(*person) for person in persons])

    def share_donors(self, questions: pd.DataFrame) -> None:
        """
        Lets `shuffled` put the same ECG into all questions of a conversation: that of its first question.

        Args:
            questions: of [`list_questions`].
        """
        first = {one.row: one.question_id for one in questions.itertuples() if one.turn == 0}
        without = set(self.same_answer)
        for one in questions.itertuples():
            donor = self._donors_of_question.get(first[one.row])
            self._donors_of_question.pop(one.question_id, None)
            if donor is not None:
                self._donors_of_question[one.question_id] = donor
            self.same_answer.discard(one.question_id)
            if first[one.row] in without:
                self.same_answer.add(one.question_id)

    def _places(self, row: int, condition: str, question_id: str | None) -> Places:
        """Rows and positions of the ECGs: its own, or another patient's."""
        if condition == "shuffled":
            return self._donors_of_question.get(question_id) or self._donors[self._records[row]]
        return [(row, position) for position in range(len(self._records[row]))]

    def _rng(self, *names: str) -> np.random.Generator:
        return np.random.default_rng([self._seed, zlib.crc32("\n".join(names).encode())])

    def _choose_donors(self) -> dict[tuple[str, ...], Places]:
        """Rows and positions of the ECGs that replace those of each conversation: all of one conversation, if one fits."""
        row_of = {records: row for row, records in reversed(list(enumerate(self._records)))}
        with_number, everything = defaultdict(list), {}
        for records, row in sorted(row_of.items()):
            with_number[len(records)].append(row)
            everything |= {name: (row, position) for position, name in enumerate(records)}
        donors = {}
        for records, row in row_of.items():
            rng = self._rng(*records)
            other = self._row_of_others(row, with_number[len(records)], rng)
            if other is None:
                donors[records] = self._ecgs_of_others(row, list(everything.values()), rng)
            else:
                donors[records] = [(other, position) for position in range(len(records))]
        return donors

    def _choose_other_answers(self, questions: pd.DataFrame) -> None:
        """For each question about ECGs a conversation in which the same question has another true answer."""
        asked: dict[tuple, dict[tuple[str, ...], list]] = defaultdict(lambda: defaultdict(list))
        for one in questions.itertuples():
            number = len(self._records[one.row])
            answer = tuple(sorted(answer_items(", ".join(one.answer))))
            if number:
                asked[one.question, one.turn, number][answer].append((one.question_id, one.row))
        for by_answer in asked.values():
            rows = [row for those in by_answer.values() for _, row in those]
            start = 0
            for those in by_answer.values():
                for question_id, row in those:
                    # The rows of the own answer are `start` to `start + len(those)`.
                    donor = self._row_outside(row, rows, start, len(those), self._rng(question_id))
                    if donor is None:
                        self.same_answer.add(question_id)
                    else:
                        places = [(donor, position) for position in range(len(self._records[row]))]
                        self._donors_of_question[question_id] = places
                start += len(those)

    def _row_outside(self, row: int, rows: list[int], start: int, length: int, rng: np.random.Generator) -> int | None:
        """A random one of `rows`, without `length` of them from `start` on, that is about none of the row's patients."""
        number = len(rows) - length
        if number == 0:
            return None
        for drawn in rng.integers(number, size=FEW_TRIES):  # one of them nearly always fits
            other = rows[drawn if drawn < start else drawn + length]
            if self._patients[other].isdisjoint(self._patients[row]):
                return other
        return self._row_of_others(row, rows[:start] + rows[start + length :], rng)

    def _row_of_others(self, row: int, candidates: list[int], rng: np.random.Generator) -> int | None:
        """A random candidate that is about none of the row's patients; None if there is none."""
        drawn = candidates[rng.integers(len(candidates))]  # nearly always fits, which saves the search through all
        if self._patients[drawn].isdisjoint(self._patients[row]):
            return drawn
        fit = [other for other in candidates if self._patients[other].isdisjoint(self._patients[row])]
        return fit[rng.integers(len(fit))] if fit else None

    def _ecgs_of_others(self, row: int, places: Places, rng: np.random.Generator) -> Places:
        """Random single ECGs from conversations that are about none of the row's patients."""
        number = len(self._records[row])
        fit = [place for place in places if self._patients[place[0]].isdisjoint(self._patients[row])]
        if len(fit) < number:
            others = " ".join(f"--condition {name}" for name in self._other_conditions)
            raise ValueError(
                f'the condition "shuffled" needs {number} ECGs of patients other than {", ".join(sorted(self._patients[row]))}, '
                f"and there are {len(fit)}; evaluate more conversations, or omit the condition ({others})"
            )
        return [fit[place] for place in rng.choice(len(fit), number, replace=False)]


def person_text(age: int | None, sex: str | None) -> str:
    """The sentence that replaces an ECG under `demographics`."""
    return f"Age: {'unknown' if age is None else f'{age} years'}. Sex: {sex or 'unknown'}."
