"""Questions from the labels of any dataset with labels, in the form of ECG-QA (Oh et al. 2023)."""

from collections import defaultdict
from collections.abc import Iterator

from datasets import List, Value

from elm_hf.data.tables import load_records
from elm_hf.prepare.builder import ElmDatasetBuilder
from elm_hf.prepare.label_questions import label_conversations
from elm_hf.prepare.label_table import LabelledRecording, LabelTable, Topic


NORMAL = "normal ECG"
# Labels of which an ECG has one, if any is listed.
RHYTHMS = (
    *("sinus rhythm", "sinus bradycardia", "sinus tachycardia", "sinus arrhythmia", "atrial fibrillation"),
    *("atrial flutter", "atrial tachycardia", "supraventricular tachycardia", "paced rhythm"),
    "normal functioning artificial pacemaker",
)
AXES = ("normal axis", "left axis deviation", "right axis deviation", "extreme left axis deviation")


class LabelQa(ElmDatasetBuilder):
    """
    Questions about the records of one or several datasets (`records`). The labels of each source are questions of
    their own, because another source may not use them.
    """

    PRETTY_NAME = "Questions from labels"
    DESCRIPTION = (
        "Questions with answers from the labels of the records, in the form of ECG-QA (Oh et al. 2023): they verify, "
        "choose or query findings of an ECG, and compare ECGs of a patient that follow each other in the records. A "
        "finding is absent if it is not among the labels and none of the labels overlaps with it; a rhythm is absent "
        "if another one is listed. ECGs without labels are not asked about. For each finding, `yes` and `no` are equally "
        "frequent, so that the question does not give away the answer. Multiple answers are joined with commas. Strata "
        "are the question type and the first answer."
    )
    HOMEPAGE = ""
    LICENSE = "apache-2.0"
    CITATION = ""
    CONVERSATION_FEATURES = {"attribute": List(Value("string"))}
    OPTIONS = ("questions_per_ecg", "questions_per_template")

    def list_conversations(self) -> Iterator[dict]:
        """List the questions, source by source and template by template."""
        if not self.config.records:
            self.list_recordings()
        for source, recordings in self._labelled_recordings().items():
            table = LabelTable(recordings, _topics(recordings))
            yield from label_conversations(self, source, table, ("first ECG", "second ECG"))

    def _labelled_recordings(self) -> dict[str, list[LabelledRecording]]:
        """The recordings with labels of each source. A recording has the same labels in all of its records."""
        found = defaultdict(dict)
        for path in self.config.records:
            columns = ("source", "recording_id", "patient_id", "labels")
            table = load_records(path).select_columns(list(columns)).with_format(None)[:]
            for source, recording_id, patient_id, labels in zip(*(table[name] for name in columns)):
                if labels:
                    recording = LabelledRecording(recording_id, patient_id, frozenset(labels))
                    found[source].setdefault(recording_id, recording)
        if not found:
            raise ValueError(
                f"none of the records of {', '.join(self.config.records)} has labels, so there are no questions to make"
            )
        return {source: list(recordings.values()) for source, recordings in found.items()}


def _topics(recordings: list[LabelledRecording]) -> list[Topic]:
    used = sorted({label for recording in recordings for label in recording.present})
    kinds = {"normal": (NORMAL,), "rhythm": RHYTHMS, "heart_axis": AXES}
    topics = {name: tuple(label for label in labels if label in used) for name, labels in kinds.items()}
    others = tuple(label for label in used if not any(label in labels for labels in topics.values()))
    return [
        Topic("normal", "finding", 1, topics["normal"]),
        Topic("rhythm", "rhythm", 5, topics["rhythm"], exclusive=True),
        Topic("heart_axis", "heart_axis", 7, topics["heart_axis"]),
        Topic("finding", "finding", 13, others),
    ]
