"""Base class of the dataset scripts: a `datasets` builder that turns a source into records and conversations."""

import importlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

import datasets
import pyarrow as pa
from datasets import DatasetInfo, Features, SplitGenerator
from datasets.builder import Key

from elm_hf.data.columns import LISTED_FEATURES
from elm_hf.ecg.recording import Recording, RecordingError, path_within, read_recording, segments
from elm_hf.modeling.ecg_leads import SAMPLING_RATE
from elm_hf.modeling.folder_paths import Folder
from elm_hf.prepare.names import check_dataset_name
from elm_hf.prepare.pseudonyms import Pseudonyms
from elm_hf.utils.errors import LONGEST_MESSAGE, short


# number of conversations in memory at once
TABLE_SIZE = 2000


@dataclass
class ElmDatasetConfig(datasets.BuilderConfig):
    """
    Options of a build.

    Args:
        name: name of the configuration, always `"conversations"`.
        source: folder of the source as downloaded.
        seconds: length of a record in seconds.
        sampling_rate: sampling rate of the records in Hz.
        num_recordings: maximum number of recordings; for a simulated dataset, the number of recordings to simulate.
        seed: random seed for simulated or drawn data.
        one_patient_per_file: treat each ECG file without patient id as a separate patient (`ecgfolder`).
        records: datasets with the ECGs of the conversations, if they are not read from the source.
        source_rate: sampling rate in Hz of the files to read, if the source has several (`ptb_xl`).
        reports: language of the reports in conversations, `"english"` (default) or `"original"` (`ptb_xl`).
        translations: CSV with English translations of reports, as written by `elm-hf translate` (`ptb_xl`).
        questions_per_ecg: largest mean number of questions per ECG (questions from labels).
        questions_per_template: maximum number of questions per template (questions from labels).
        key: file of the key of the pseudonyms (`ecgfolder`).
        keep_ids: keep the ids of patients, the names of files, and what statements say about persons (`ecgfolder`).
        title, license, citation: name, licence (identifier of the Hub or words) and BibTeX entry of the user's own data
            for the dataset card (`ecgfolder`).
    """

    source: str | None = None
    seconds: float = 10
    sampling_rate: int = SAMPLING_RATE
    num_recordings: int | None = None
    seed: int = 0
    one_patient_per_file: bool = False
    records: tuple[str, ...] = ()
    source_rate: int | None = None
    reports: str | None = None
    translations: str | None = None
    questions_per_ecg: int | None = None
    questions_per_template: int | None = None
    key: str | None = None
    keep_ids: bool | None = None
    title: str | None = None
    license: str | None = None
    citation: str | None = None


# Options of `ElmDatasetConfig` about the user's own data.
OWN_DATA_OPTIONS = ("key", "keep_ids", "title", "license", "citation")
# Options of `ElmDatasetConfig` that only some datasets have.
SPECIAL_OPTIONS = (
    *("source_rate", "reports", "translations", "questions_per_ecg", "questions_per_template"),
    *OWN_DATA_OPTIONS,
)


class ElmDatasetBuilder(datasets.ArrowBasedBuilder):
    """
    Builder of a dataset. A dataset script overrides `list_recordings` and `read_recording`, `list_conversations`, or
    all three.

    `datasets` builds the conversations, and `elm_hf.prepare.record_files` the records. Records are built in any order,
    by several processes or machines, and again after an interruption. `list_recordings` must therefore always return
    the same references in the same order.
    """

    BUILDER_CONFIG_CLASS = ElmDatasetConfig
    BUILDER_CONFIGS = [ElmDatasetConfig(name="conversations")]
    # description of the source on the dataset card
    PRETTY_NAME: str
    DESCRIPTION: str
    HOMEPAGE: str
    LICENSE: str
    CITATION: str
    # False for a text-only dataset, which has no records
    HAS_ECGS = True
    # True for a benchmark: its folds have a test split only
    TEST_ONLY = False
    # additional columns of the conversations of this dataset
    CONVERSATION_FEATURES: dict = {}
    # additional columns of the records of this dataset
    RECORD_FEATURES: dict = {}
    # those of `SPECIAL_OPTIONS` that this dataset has
    OPTIONS: tuple[str, ...] = ()
    # True if the source is the user's own, whose patients and files get pseudonyms. Published datasets keep their ids, by
    # which they are joined with each other.
    OWN_DATA = False
    # set by the build of a dataset whose ids become pseudonyms
    pseudonyms: Pseudonyms | None = None

    @property
    def record_source(self) -> str:
        """The name of the dataset that the recordings belong to, which is this dataset by default."""
        return self.name

    def notes(self) -> list[str]:
        """Return sentences about the conversations for the dataset card that depend on the options of the build."""
        return []

    def record_notes(self) -> list[str]:
        """Return sentences about the records for the dataset card that depend on the options of the build."""
        return []

    def reading_notes(self) -> list[str]:
        """Return what the tables of the source were found to mean, a line for each, for whoever builds the dataset."""
        return []

    def personal_texts(self) -> dict[str, int]:
        """Return how many rows have a text that may identify a patient, by the kind of what was found."""
        return {}

    def has_conversations(self) -> bool:
        """Whether the source contains conversations. If not, the dataset has records and patients only."""
        return True

    def __init__(self, *arguments, **options):
        # What was changed in the recordings that were read: filled gaps and, by name, dropped signals; and, with the
        # prefix `note`, what their tables were found to mean.
        self.counts: Counter = Counter()
        super().__init__(*arguments, **options)

    def list_recordings(self) -> Iterator[dict]:
        """
        List references to the recordings without reading signals: `recording_id` and `patient_id` (as in the source)
        and everything else that `read_recording` requires.
        """
        raise ValueError(
            f"{self.name} refers to the ECGs of another dataset: build that dataset first and pass it as records "
            "(--records)"
        )

    def read_recording(self, reference: dict) -> tuple[Recording, dict]:
        """
        Read the recording of a reference and its metadata: `age` in years, `sex` ("male" or "female"), `report`,
        `labels` and the columns of `RECORD_FEATURES`, all optional.

        Raises:
            RecordingError: the recording cannot be used.
        """
        raise NotImplementedError

    def list_conversations(self) -> Iterator[dict]:
        """
        List the conversations with the columns `conversation_id`, `recording_ids` (in the order of the ECG
        placeholders), `messages`, `question_type`, `question`, `answer` (list), `stratum` (for stratified folds) and,
        optionally, `attribute_type`, `template_id`, `split` (one of `SPLITS`) and the columns of
        `CONVERSATION_FEATURES`. If ECGs are from other datasets, `recording_sources` has the name of the dataset of
        each ECG. Call `leave_out` for each entry of the source that cannot be used.
        """
        raise NotImplementedError

    def leave_out(self, reason: str, message: str) -> None:
        """
        Exclude an entry of the source that cannot be used as a conversation.

        Args:
            reason: a short category, used for counting.
            message: file, entry and cause.
        """
        self._left_out.append((reason, short(self.from_source(message), LONGEST_MESSAGE)))

    def excluded_entries(self) -> list[tuple[str, str]]:
        """Return (reason, message) of each entry that `list_conversations` leaves out."""
        self._left_out = []
        for _ in self.list_conversations():
            pass
        return self._left_out

    def source_folder(self, *contents: str) -> Path:
        """
        Return the folder of the source.

        Args:
            contents: files and folders that the source must contain.

        Raises:
            ValueError: `source` is not set, or one of `contents` is a link that leads out of the folder.
            FileNotFoundError: the folder or one of `contents` does not exist.
        """
        if self.config.source is None:
            raise ValueError(f"{self.name} is built from its source: pass the source folder as source (--source)")
        folder = Path(self.config.source)
        for path in [folder, *(folder / name for name in contents)]:
            if not path.exists():
                raise FileNotFoundError(
                    f"{path}: not found; source (--source) must be the folder of {self.PRETTY_NAME}"
                )
        if contents:
            inside = Folder(folder)
            for name in contents:
                inside.inside(folder / name)
        return folder

    def files_in_source(self, *patterns: str) -> list[Path]:
        """
        List the files of the source that match one of the patterns, sorted.

        Raises:
            ValueError: a file is a link that leads out of the source.
        """
        folder = self.source_folder()
        inside = Folder(folder)
        return sorted(inside.inside(path) for pattern in patterns for path in folder.glob(pattern))

    def read_wfdb(self, name: str) -> Recording:
        """
        Read a WFDB record of the source.

        Args:
            name: path of the record in the source, with or without suffix.

        Raises:
            RecordingError: the record cannot be used, or one of its files is outside the source.
        """
        folder = self.source_folder()
        return read_recording(path_within(folder, name), folder)

    def references(self) -> Iterator[dict]:
        """
        List all recordings, or the first `num_recordings`. A recording with a repeated id is marked as `repeated`, so
        that it is skipped later.
        """
        seen = set()
        for reference in islice(self.list_recordings(), self.config.num_recordings):
            name = reference["recording_id"]
            yield reference | {"repeated": True} if name in seen else reference
            seen.add(name)

    def distinct_references(self) -> Iterator[dict]:
        """List the recordings for conversations, without repeated ones."""
        return (reference for reference in self.references() if "repeated" not in reference)

    def _info(self) -> DatasetInfo:
        features = Features(LISTED_FEATURES | self.CONVERSATION_FEATURES)
        return DatasetInfo(self.DESCRIPTION, self.CITATION, self.HOMEPAGE, self.LICENSE, features)

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[SplitGenerator]:
        return [SplitGenerator("conversations")]

    def _generate_tables(self) -> Iterator[tuple[Key, pa.Table]]:
        """Yield tables of many conversations. `datasets` needs half a millisecond to encode a single conversation."""
        self._left_out = []
        conversations = iter(self.list_conversations())
        for number in count():
            rows = [self._with_sources(row) for row in islice(conversations, TABLE_SIZE)]
            if not rows:
                break
            yield Key(0, number), self._conversation_table(rows)
        Path(self._output_dir, "left_out.json").write_text(json.dumps(self._left_out), encoding="utf-8")

    def _conversation_table(self, rows: list[dict]) -> pa.Table:
        """The table of conversations. A conversation that does not fit the columns is excluded."""
        schema = self.info.features.arrow_schema
        try:
            return pa.Table.from_pylist(rows, schema)
        except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
            if len(rows) > 1:
                half = len(rows) // 2
                return pa.concat_tables([self._conversation_table(rows[:half]), self._conversation_table(rows[half:])])
            name = short(rows[0]["conversation_id"])
            self.leave_out(
                "damaged entry", f"{name}: a value does not fit the columns of the dataset ({short(error)})"
            )
            return schema.empty_table()

    def _with_sources(self, conversation: dict) -> dict:
        names = [self.published_name(name) for name in conversation["recording_ids"]]
        sources = {"recording_sources": [self.record_source] * len(names)}
        return sources | conversation | {"recording_ids": names}

    def published_name(self, recording_id: str) -> str:
        """The id of a recording in the dataset: a pseudonym, or the id in the source."""
        return recording_id if self.pseudonyms is None else self.pseudonyms.recording(recording_id)

    def published_patient(self, patient_id: str) -> str:
        """The id of a patient in the dataset: a pseudonym, or the id in the source."""
        return patient_id if self.pseudonyms is None else self.pseudonyms.patient(patient_id)

    def from_source(self, message: str) -> str:
        """Make the paths in a message relative to the source, because the message is published."""
        if self.config.source is None:
            return message
        source = os.path.normpath(self.config.source)
        folders = {source, str(self.config.source).rstrip("/"), os.path.abspath(source), os.path.realpath(source)}
        for folder in sorted(folders - {"", "."}, key=len, reverse=True):
            message = re.sub(rf"(?<![\w./-]){re.escape(folder)}/+", "", message)
            if os.path.isabs(folder):
                message = message.replace(folder, os.path.basename(folder))
        return message

    def record_rows(self, reference: dict) -> Iterator[dict]:
        """
        Yield the rows of the `records` table for a reference, one for each segment.

        Raises:
            RecordingError: the recording cannot be used.
        """
        if not reference["patient_id"]:
            raise RecordingError(
                "no patient id",
                f"{reference['recording_id']}: no patient id; folds with disjoint patients require one",
            )
        if "repeated" in reference:
            name = reference["recording_id"]
            raise RecordingError("repeated recording", f"{name}: listed more than once; only the first entry is used")
        recording, metadata = self.read_recording(reference)
        self.counts.update(f"signals {name}" for name in recording.other_signals)
        self.counts.update(f"note {note}" for note in recording.notes)
        recording_id = self.published_name(reference["recording_id"])
        patient_id = self.published_patient(reference["patient_id"])
        for segment in segments(recording, self.config.seconds, self.config.sampling_rate):
            self.counts["gaps"] += segment.num_filled
            yield {
                "record_id": f"{self.record_source}-{recording_id}-{segment.index}",
                "recording_id": recording_id,
                "patient_id": patient_id,
                "source": self.record_source,
                "segment": segment.index,
                "start_s": segment.start_s,
                "ecg": segment.ecg,
                "sampling_rate": self.config.sampling_rate,
                "missing_leads": segment.missing_leads,
                **metadata,
            }


def find_builder(name: str) -> type[ElmDatasetBuilder]:
    """
    Return the builder of a dataset, given the name of its script.

    Raises:
        ValueError: there is no such script.
    """
    check_dataset_name(name)
    module = importlib.import_module(f"elm_hf.dataset_scripts.{name}")
    (builder,) = (
        item
        for item in vars(module).values()
        if isinstance(item, type) and issubclass(item, ElmDatasetBuilder) and item.__module__ == module.__name__
    )
    return builder
