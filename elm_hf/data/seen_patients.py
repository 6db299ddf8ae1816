"""
The patients that a checkpoint was trained on, as `seen_patients.parquet` in its folder.

The file has a row for each dataset of each stage of training. Patients are 64-bit hashes of `source/patient_id`, so that
the file is small. A hash does not hide an id that can be guessed.
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from os import PathLike
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError

from elm_hf.utils.hub import check_name, split_revision


SEEN_PATIENTS_NAME = "seen_patients.parquet"
UNKNOWN = "unknown"
_SCHEMA = pa.schema(
    {"stage": pa.string(), "dataset": pa.string(), "fold": pa.string(), "patients": pa.list_(pa.uint64())}
)


@dataclass(frozen=True)
class Stage:
    """
    A stage of training on a dataset.

    Attributes:
        kind: `"tokenizer training"` (of an ECG tokenizer), `"pre-training"`, `"alignment"`, `"fine-tuning"`,
            `"preferences"` or `"rewards"`; `"unknown"` if nothing was recorded.
        dataset: name of the dataset, or of the checkpoint whose training is unknown.
        fold: fold that was trained on; None for all records.
        patients: sorted hashes of its training patients ([`hash_patients`]), uint64; None if they are unknown.
    """

    kind: str
    dataset: str
    fold: str | None
    patients: np.ndarray | None

    def __str__(self) -> str:
        return f"{self.kind} on {self.dataset}" + (f", fold {self.fold}" if self.fold is not None else "")


def hash_patients(patients: Collection[str]) -> np.ndarray:
    """Return the sorted hashes of patients given as `source/patient_id`, `(patients,)` uint64."""
    hashes = [int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little") for name in patients]
    return np.unique(np.array(hashes, dtype=np.uint64))


def stage_of(kind: str, dataset: str | PathLike, fold: int | str | None, patients: Collection[str]) -> Stage:
    """Return a stage of training. Only the last part of the path of a local dataset is kept."""
    return Stage(kind, _name(dataset), None if fold is None else str(fold), hash_patients(patients))


def _name(path: str | PathLike) -> str:
    """The name of a repository, or the last part of the path of a folder."""
    return Path(path).resolve().name if Path(path).is_dir() else str(path)


def read_stages(checkpoint: str | PathLike, revision: str | None = None) -> list[Stage] | None:
    """
    Read the stages of training of a checkpoint.

    Args:
        checkpoint: folder or repository.
        revision: branch, tag or commit of a repository.

    Returns:
        The stages in order; empty for a checkpoint that has seen no patient; None if the checkpoint has no such file.

    Raises:
        FileNotFoundError: there is no such folder or repository.
        ValueError: the file is damaged.
    """
    path = Path(checkpoint) / SEEN_PATIENTS_NAME
    if not Path(checkpoint).is_dir():
        check_name(str(checkpoint), needs_owner=False)
        repo, named = split_revision(str(checkpoint))
        try:
            path = Path(hf_hub_download(repo, SEEN_PATIENTS_NAME, revision=revision or named))
        except EntryNotFoundError:  # not in the repository, or not in the cache of a machine that is offline
            return None
    if not path.is_file():
        return None
    try:
        rows = pq.read_table(path).cast(_SCHEMA).to_pydict()
    except (pa.ArrowInvalid, ValueError, OSError) as error:
        raise ValueError(
            f"{path}: not a list of the patients of a training ({' '.join(str(error).split())}); restore the file, or "
            "delete it, and the training counts as unknown"
        ) from error
    patients = [None if hashes is None else np.array(hashes, dtype=np.uint64) for hashes in rows["patients"]]
    return [Stage(*row) for row in zip(rows["stage"], rows["dataset"], rows["fold"], patients)]


def stages_before(checkpoint: str | PathLike, revision: str | None = None) -> list[Stage]:
    """Return the stages of a checkpoint to train or to build on; a stage of kind `"unknown"` if it has no record."""
    stages = read_stages(checkpoint, revision)
    return [Stage(UNKNOWN, _name(checkpoint), None, None)] if stages is None else stages


def write_stages(folder: str | PathLike, stages: Sequence[Stage]) -> None:
    """Write the stages of training of a checkpoint into its folder."""
    columns = [
        [stage.kind for stage in stages],
        [stage.dataset for stage in stages],
        [stage.fold for stage in stages],
        [stage.patients for stage in stages],
    ]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, _SCHEMA)]
    pq.write_table(pa.Table.from_arrays(arrays, schema=_SCHEMA), Path(folder) / SEEN_PATIENTS_NAME)


class SeenPatients:
    """The stages of training of a checkpoint, as a part that is saved with it."""

    def __init__(self, stages: Sequence[Stage]):
        self.stages = stages

    def save_pretrained(self, folder: str | PathLike) -> None:
        """Write the stages into the folder of a checkpoint."""
        write_stages(folder, self.stages)


@dataclass(frozen=True)
class Overlap:
    """
    The patients of a set that a checkpoint was trained on.

    Attributes:
        seen: number of these patients.
        asked: number of patients of the set.
        stages: the stages that have seen some of them, or whose patients are unknown.
        known: whether the patients of all stages are known.
    """

    seen: int
    asked: int
    stages: list[str]
    known: bool

    @property
    def sentence(self) -> str | None:
        """What a report must say; None if no patient was seen."""
        if self.seen:
            return (
                f"the model was trained on {self.seen} of the {self.asked} patients ({'; '.join(self.stages)}), so these "
                "scores do not show how it does on unseen patients"
            )
        if not self.known and self.asked:
            reasons = f" ({'; '.join(self.stages)})" if self.stages else ""
            return f"the patients that the model was trained on are unknown{reasons}; some of these may be among them"
        return None

    def to_dict(self) -> dict:
        """The entry of a report."""
        return asdict(self) | {"sentence": self.sentence}


def overlap(stages: Sequence[Stage] | None, patients: Collection[str]) -> Overlap:
    """
    Count the patients that were seen in training.

    Args:
        stages: stages of a checkpoint; None if they are unknown.
        patients: as `source/patient_id`.
    """
    asked = hash_patients(set(patients))
    seen = np.zeros(len(asked), dtype=bool)
    names = []
    for stage in stages or []:
        found = np.zeros(len(asked), dtype=bool) if stage.patients is None else np.isin(asked, stage.patients)
        seen |= found
        if found.any() or stage.patients is None:
            names.append(f"training of {stage.dataset} unknown" if stage.patients is None else str(stage))
    known = stages is not None and all(stage.patients is not None for stage in stages)
    return Overlap(int(seen.sum()), len(asked), names, known)


def check_evaluated_patients(
    checkpoint: str | PathLike, patients: Collection[str], allow_seen: bool, others: Sequence[Stage] = ()
) -> dict:
    """
    Check that a checkpoint was not trained on the patients of an evaluation. Returns the entry of the report.

    Args:
        checkpoint: folder or repository.
        patients: as `source/patient_id`.
        allow_seen: return the number of patients in common instead of raising an error.
        others: stages of training of what answers with the checkpoint, such as the encoder of an index.

    Raises:
        ValueError: it was trained on some of them.
    """
    remedy = (
        "evaluate it on the test split of the fold that it was trained on, or allow seen patients "
        "(--allow-seen-patients), and the report will say so"
    )
    stages = [*stages_before(checkpoint), *others] if others else read_stages(checkpoint)
    return check_not_seen(checkpoint, stages, patients, "patients asked about", "" if allow_seen else remedy).to_dict()


def check_not_seen(
    checkpoint: str | PathLike, stages: Sequence[Stage] | None, patients: Collection[str], what: str, remedy: str
) -> Overlap:
    """
    Check that a checkpoint was not trained on any of these patients.

    Args:
        checkpoint: name of the checkpoint in the message.
        stages, patients: as in [`overlap`].
        what: what the patients are, for the message: `"test patients of fold 1"`.
        remedy: what to do, for the message. Empty: patients in common are no error.

    Raises:
        ValueError: it was trained on some of them.
    """
    found = overlap(stages, patients)
    if found.seen and remedy:
        raise ValueError(
            f"{checkpoint}: was trained on {found.seen} of the {found.asked} {what} ({'; '.join(found.stages)}); {remedy}"
        )
    return found
