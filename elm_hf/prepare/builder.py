"""The base of the dataset scripts: a `datasets` builder that turns a source into records and conversations."""

import importlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

import datasets
import pyarrow as pa
from datasets import DatasetInfo, Features, SplitGenerator
from datasets.builder import Key

from elm_hf.data.columns import LISTED_FEATURES
from elm_hf.ecg.recording import Recording, RecordingError, segments
from elm_hf.modeling.ecg_leads import SAMPLING_RATE
from elm_hf.prepare.names import check_dataset_name


# conversations in memory at once
TABLE_SIZE = 2000


@dataclass
class ElmDatasetConfig(datasets.BuilderConfig):
    """
    What is built and from what.

    Args:
        name: of the configuration; there is one, `"conversations"`.
        source: folder of the source as downloaded.
        seconds, sampling_rate: length and rate of the records.
        num_recordings: the first so many recordings only; for simulated datasets, how many there are.
        seed: of what is simulated or drawn.
        one_patient_per_file: each ECG file of which no patient is known is its own (`ecgfolder`).
    """

    source: str | None = None
    seconds: float = 10
    sampling_rate: int = SAMPLING_RATE
    num_recordings: int | None = None
    seed: int = 0
    one_patient_per_file: bool = False


class ElmDatasetBuilder(datasets.ArrowBasedBuilder):
    """
    One published dataset. A script overrides `list_recordings` and `read_recording`, `list_conversations`, or all three.

    `datasets` builds its conversations, `elm_hf.prepare.record_files` its records: in any order, by several processes or machines and
    again after an interruption, for which what `list_recordings` gives must be the same each time, in one order.
    """

    BUILDER_CONFIG_CLASS = ElmDatasetConfig
    BUILDER_CONFIGS = [ElmDatasetConfig(name="conversations")]
    # what the card says of the source
    PRETTY_NAME: str
    DESCRIPTION: str
    HOMEPAGE: str
    LICENSE: str
    CITATION: str
    # False for conversations in words alone, which have no records
    HAS_ECGS = True
    # columns of conversations that only this dataset has
    CONVERSATION_FEATURES: dict = {}

    def list_recordings(self) -> Iterator[dict]:
        """
        References to the recordings, no signal read: `recording_id`, `patient_id` (as the source writes them) and
        whatever `read_recording` needs.
        """
        raise ValueError(
            f"{self.name} asks about the ECGs of another dataset: build that one first and name it as records (--records)"
        )

    def read_recording(self, reference: dict) -> tuple[Recording, dict]:
        """
        The recording of one reference and what is known about it: `age` in years, `sex` ("male" or "female"), `report`,
        `labels`; all may be left out.

        Raises:
            RecordingError: it cannot be used.
        """
        raise NotImplementedError

    def list_conversations(self) -> Iterator[dict]:
        """
        The conversations: `conversation_id`, `recording_ids` in the order of the ECG placeholders, `messages`,
        `question_type`, `question`, `answer` (list), `stratum` (whose share folds keep), optionally `attribute_type`,
        `template_id`, `split` (one of `SPLITS`) and the columns of `CONVERSATION_FEATURES`. ECGs of other datasets
        come with `recording_sources`, the name of each one's dataset. An entry of the source that is no conversation goes
        to `leave_out` instead.
        """
        raise NotImplementedError

    def leave_out(self, reason: str, message: str) -> None:
        """
        Note an entry of the source that makes no conversation; the rest is built.

        Args:
            reason: a short category to count by.
            message: which file and entry, and what is wrong with it.
        """
        self._left_out.append((reason, self.from_source(message)))

    def source_folder(self, *contents: str) -> Path:
        """
        The folder of the source.

        Raises:
            ValueError: none was named.
            FileNotFoundError: it is not there or lacks one of `contents`.
        """
        if self.config.source is None:
            raise ValueError(f"{self.name} is built from its source: name the folder as source (--source)")
        folder = Path(self.config.source)
        for path in [folder, *(folder / name for name in contents)]:
            if not path.exists():
                raise FileNotFoundError(
                    f"{path}: not found; source (--source) is to be the folder of {self.PRETTY_NAME}"
                )
        return folder

    def references(self) -> Iterator[dict]:
        """
        The recordings to read: all that are listed, or the first `num_recordings`. One that is listed again is marked as
        `repeated` and will be skipped.
        """
        seen = set()
        for reference in islice(self.list_recordings(), self.config.num_recordings):
            name = reference["recording_id"]
            yield reference | {"repeated": True} if name in seen else reference
            seen.add(name)

    def distinct_references(self) -> Iterator[dict]:
        """The recordings that conversations can be about: none twice."""
        return (reference for reference in self.references() if "repeated" not in reference)

    def _info(self) -> DatasetInfo:
        features = Features(LISTED_FEATURES | self.CONVERSATION_FEATURES)
        return DatasetInfo(self.DESCRIPTION, self.CITATION, self.HOMEPAGE, self.LICENSE, features)

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[SplitGenerator]:
        return [SplitGenerator("conversations")]

    def _generate_tables(self) -> Iterator[tuple[Key, pa.Table]]:
        """Tables of many conversations: `datasets` would encode one after the other, at half a millisecond each."""
        self._left_out = []
        conversations = iter(self.list_conversations())
        for number in count():
            rows = [self._with_sources(row) for row in islice(conversations, TABLE_SIZE)]
            if not rows:
                break
            yield Key(0, number), pa.Table.from_pylist(rows, self.info.features.arrow_schema)
        Path(self._output_dir, "left_out.json").write_text(json.dumps(self._left_out), encoding="utf-8")

    def _with_sources(self, conversation: dict) -> dict:
        return {"recording_sources": [self.name] * len(conversation["recording_ids"])} | conversation

    def from_source(self, message: str) -> str:
        """A message that will be published, its files named from where the source begins."""
        return message.replace(f"{self.config.source}/", "")

    def record_rows(self, reference: dict) -> Iterator[dict]:
        """
        The rows of the `records` table that one reference makes, a row for each segment.

        Raises:
            RecordingError: it cannot be used.
        """
        if not reference["patient_id"]:
            raise RecordingError(
                "no patient id", f"{reference['recording_id']}: no patient id, so no fold can keep patients apart"
            )
        if "repeated" in reference:
            name = reference["recording_id"]
            raise RecordingError("repeated recording", f"{name}: listed more than once; what is listed first is used")
        recording, metadata = self.read_recording(reference)
        for segment in segments(recording, self.config.seconds, self.config.sampling_rate):
            yield {
                "record_id": f"{self.name}-{reference['recording_id']}-{segment.index}",
                "recording_id": reference["recording_id"],
                "patient_id": reference["patient_id"],
                "source": self.name,
                "segment": segment.index,
                "start_s": segment.start_s,
                "ecg": segment.ecg,
                "sampling_rate": self.config.sampling_rate,
                "missing_leads": segment.missing_leads,
                **metadata,
            }


def find_builder(name: str) -> type[ElmDatasetBuilder]:
    """
    The builder of a dataset, by the name of its script.

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
