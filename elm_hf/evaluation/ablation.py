"""The signal ablation: the same questions with the true ECG, and with something else or nothing in its place."""

import zlib
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from datasets import Dataset

from elm_hf.evaluation.names import CONDITIONS


def noise_like(ecg: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """White noise of the same power (mean square) in each lead of an ECG `(leads, samples)`; absent leads stay NaN."""
    noise = rng.standard_normal(ecg.shape)
    noise *= np.sqrt(np.square(ecg, dtype=float).mean(axis=1) / np.square(noise).mean(axis=1))[:, None]
    return noise.astype(np.float32)


class SignalAblation:
    """
    The ECGs that stand in the place of a conversation's own under each condition.

    - `ecg`: the ECGs themselves.
    - `zeros`: 0 mV in every lead.
    - `noise`: white noise with the power of each lead.
    - `shuffled`: as many ECGs of another conversation, none of them of a patient of this one. Conversations about the same
      ECGs get the same ones.
    - `none`: no ECG; the text stays.

    Args:
        rows: conversations of [`load_elm_dataset`].
        seed: random seed for noise and shuffling, which depend on it and on the records only.

    Raises:
        ValueError: a condition is unknown, `ecg` is not among them, or `shuffled` finds too few ECGs of other patients.
    """

    def __init__(self, rows: Dataset, conditions: Sequence[str] = CONDITIONS, seed: int = 0):
        unknown = sorted(set(conditions) - set(CONDITIONS))
        if unknown:
            raise ValueError(f"unknown condition {', '.join(unknown)}; there are {', '.join(CONDITIONS)}")
        if "ecg" not in conditions:
            raise ValueError(f'the condition "ecg" is missing; {", ".join(conditions)} would be compared with it')
        self._ecgs_of, self._seed = rows.select_columns("ecg_index"), seed  # reads ECGs without the messages
        columns = rows.select_columns(["record_ids", "patient_ids"])[:]
        self._records = [tuple(names) for names in columns["record_ids"]]
        self._patients = [frozenset(names) for names in columns["patient_ids"]]
        self._other_conditions = [name for name in conditions if name != "shuffled"]
        self._donors = self._choose_donors() if "shuffled" in conditions else {}

    def names(self, row: int, condition: str, number: int) -> tuple[str, ...]:
        """Names of the ECGs that [`ecgs`] returns; equal names stand for equal ECGs."""
        if condition == "none" or number == 0:
            return ()
        if condition == "zeros":
            return ("zeros",) * number
        if condition == "noise":
            return tuple(f"noise {name}" for name in self._records[row][:number])
        places = self._places(row, condition)[:number]
        return tuple(f"ecg {self._records[other][position]}" for other, position in places)

    def ecgs(self, row: int, condition: str, number: int) -> list[np.ndarray]:
        """
        The ECGs that are put in the places of the first ECGs of a conversation.

        Args:
            row: of the conversation.
            condition: one of `CONDITIONS`.
            number: number of its ECGs that are replaced.

        Returns:
            ECGs `(leads, samples)` in mV; none at all under `none`.
        """
        if condition == "none":
            return []
        ecgs = [self._ecgs_of[other]["ecgs"][position] for other, position in self._places(row, condition)[:number]]
        if condition == "zeros":
            return [np.zeros_like(ecg) for ecg in ecgs]
        if condition == "noise":
            return [noise_like(ecg, self._rng(name)) for ecg, name in zip(ecgs, self._records[row])]
        return ecgs

    def _places(self, row: int, condition: str) -> list[tuple[int, int]]:
        """Rows and positions of the ECGs: its own, or another patient's."""
        if condition == "shuffled":
            return self._donors[self._records[row]]
        return [(row, position) for position in range(len(self._records[row]))]

    def _rng(self, *names: str) -> np.random.Generator:
        return np.random.default_rng([self._seed, zlib.crc32("\n".join(names).encode())])

    def _choose_donors(self) -> dict[tuple[str, ...], list[tuple[int, int]]]:
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

    def _row_of_others(self, row: int, candidates: list[int], rng: np.random.Generator) -> int | None:
        """A random candidate that is about none of the row's patients; None if there is none."""
        drawn = candidates[rng.integers(len(candidates))]  # nearly always fits, which saves the search through all
        if self._patients[drawn].isdisjoint(self._patients[row]):
            return drawn
        fit = [other for other in candidates if self._patients[other].isdisjoint(self._patients[row])]
        return fit[rng.integers(len(fit))] if fit else None

    def _ecgs_of_others(self, row: int, places: list[tuple[int, int]], rng: np.random.Generator) -> list:
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
