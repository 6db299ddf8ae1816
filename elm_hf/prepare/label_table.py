"""The labels of the recordings of a dataset, as questions from labels use them: present, absent or unknown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import numpy as np

from elm_hf.data.layout import SPLITS
from elm_hf.prepare.label_relations import doubtful_given


@dataclass(frozen=True)
class Topic:
    """
    A subject of questions.

    Attributes:
        name: name of the topic, by which its wordings are found (see `label_wordings`).
        attribute_type: `attribute_type` of the questions.
        number: number of the topic; the ids of its templates start with it.
        labels: labels of the topic, in the order used in answers.
        exclusive: whether a recording has only one of the labels. Recordings with several or none are not asked about,
            and in choose and query questions a recording with a label has none of the others.
    """

    name: str
    attribute_type: str
    number: int
    labels: tuple[str, ...]
    exclusive: bool = False


@dataclass(frozen=True)
class LabelledRecording:
    """
    A recording with its labels.

    Attributes:
        recording_id: id of the recording.
        patient_id: id of the patient.
        present: labels of the recording.
        uncertain: labels that the recording may have.
        unknown: names of topics that nothing is known about.
        split: official split of the recording, or None.
    """

    recording_id: str
    patient_id: str
    present: frozenset[str]
    uncertain: frozenset[str] = frozenset()
    unknown: frozenset[str] = frozenset()
    split: str | None = None


class LabelTable:
    """
    The labels of the recordings of one source. Each label of a recording is present, absent, or unknown: uncertain
    labels are unknown, and so are labels that are not listed although the recording has a related one, such as
    "prolonged PR interval" if there is "first degree AV block" (see `label_relations`).

    Args:
        recordings: recordings of the source. Those of a patient are in the order of time.
        topics: topics of the labels.
    """

    def __init__(self, recordings: Sequence[LabelledRecording], topics: Sequence[Topic]):
        self.topics = tuple(topics)
        self.recording_ids = [recording.recording_id for recording in recordings]
        self.patient_ids = [recording.patient_id for recording in recordings]
        # (recordings,), number of the official split; -1 if there is none
        self.split = np.array([SPLITS.index(one.split) if one.split else -1 for one in recordings], dtype=np.int8)
        self._unknown = _columns([one.unknown for one in recordings])
        self._present = _columns([one.present for one in recordings])
        self._uncertain = _columns([one.uncertain - one.present for one in recordings])

    def __len__(self) -> int:
        return len(self.recording_ids)

    def present(self, label: str) -> np.ndarray:
        """Return whether each recording has a label, `(recordings,)`."""
        return self._column(self._present, label)

    def uncertain(self, label: str) -> np.ndarray:
        """Return whether a label of each recording is uncertain, `(recordings,)`."""
        return self._column(self._uncertain, label)

    def absent(self, label: str) -> np.ndarray:
        """Return whether each recording certainly lacks a label, `(recordings,)`."""
        absent = ~self.present(label) & ~self.uncertain(label)
        for related in doubtful_given(label):
            absent &= ~(self.present(related) | self.uncertain(related))
        return absent

    def known(self, topic: Topic) -> np.ndarray:
        """Return whether each recording can be asked about a topic, `(recordings,)`."""
        known = ~self._column(self._unknown, topic.name)
        if topic.exclusive:
            known &= np.sum([self.present(label) for label in topic.labels], axis=0) == 1
            for label in topic.labels:
                known &= ~self.uncertain(label)
        return known

    def covered(self, label: str, topic: Topic) -> np.ndarray:
        """
        Return whether each recording has a related label of the topic, `(recordings,)`. An answer that lists the
        related label is complete without this one.
        """
        covered = np.zeros(len(self), dtype=bool)
        for related in doubtful_given(label) & {*topic.labels}:
            covered |= self.present(related)
        return covered & ~self.uncertain(label)

    @cached_property
    def pairs(self) -> np.ndarray:
        """Consecutive recordings of a patient in the same official split, `(pairs, 2)`."""
        order = sorted(range(len(self)), key=lambda row: self.patient_ids[row])  # stable, so in the order of time
        pairs = [
            pair
            for _, rows in groupby(order, key=lambda row: self.patient_ids[row])
            for pair in _consecutive(list(rows))
        ]
        pairs = np.array(pairs, dtype=np.int64).reshape(-1, 2)
        return pairs[self.split[pairs[:, 0]] == self.split[pairs[:, 1]]]

    def _column(self, columns: Mapping[str, np.ndarray], name: str) -> np.ndarray:
        column = np.zeros(len(self), dtype=bool)
        column[columns.get(name, [])] = True
        return column


def _columns(sets: Sequence[frozenset[str]]) -> dict[str, np.ndarray]:
    """The numbers of the sets that contain each item."""
    rows = {}
    for row, items in enumerate(sets):
        for item in items:
            rows.setdefault(item, []).append(row)
    return {item: np.array(found, dtype=np.int64) for item, found in rows.items()}


def _consecutive(rows: list[int]) -> list[tuple[int, int]]:
    return list(zip(rows[:-1], rows[1:]))
