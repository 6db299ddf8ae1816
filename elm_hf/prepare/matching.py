"""From listed conversations to published ones: which records they are about, and on which side of each fold they are."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Features
from datasets.exceptions import DatasetGenerationError

from elm_hf.data.columns import ECG_FEATURES, REFERENCES
from elm_hf.data.layout import SPLITS, parquet_name
from elm_hf.prepare.builder import ElmDatasetBuilder
from elm_hf.prepare.folds import make_folds
from elm_hf.prepare.record_files import new_path


# Conversations in memory at once.
BATCH_SIZE = 10_000


def list_conversations(builder: ElmDatasetBuilder, folder: Path) -> tuple[list[Path], list[tuple[str, str]]]:
    """
    Write the conversations of a source to Parquet files.

    Returns:
        The files in order, and (reason, message) of the entries of the source that make no conversation.

    Raises:
        ValueError, FileNotFoundError: what is wrong with the source.
    """
    try:
        builder.download_and_prepare(str(folder), file_format="parquet", download_mode="force_redownload")
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, ValueError | OSError):  # what is wrong with the source, in words for its user
            raise error.__cause__ from None
        raise
    unusable = [tuple(row) for row in json.loads((folder / "left_out.json").read_text(encoding="utf-8"))]
    if not builder.info.splits["conversations"].num_examples:
        first = f"; the first that is damaged: {unusable[0][1]}" if unusable else ""
        raise ValueError(f"{builder.name}: no conversations in {builder.config.source}{first}")
    return sorted(folder.glob("*.parquet")), unusable


def asked_recordings(paths: list[Path]) -> pa.Array:
    """The ECGs that conversations are about, each once, named as `recording_names` does."""
    columns = ["recording_sources", "recording_ids"]
    names = [
        recording_names(*(pc.list_flatten(batch[column]) for column in columns)).unique()
        for batch in _batches(paths, columns)
    ]
    return pa.chunked_array(names, pa.string()).unique()


def recording_names(sources: pa.Array, ids: pa.Array) -> pa.Array:
    """What tells recordings of several datasets apart."""
    return pc.binary_join_element_wise(sources, ids, " ")


def find_ecgs(paths: list[Path], keys: pa.Table, joined: Path) -> Counter:
    """
    Write the conversations with the rows of their ECGs in the records, once for each segment that all their ECGs have
    (once where they have no ECGs at all).

    Args:
        paths: Parquet files of conversations as a builder lists them.
        keys: the columns `source`, `recording_id`, `segment`, `record_id` and `patient_id` of the records.
        joined: Parquet file to write.

    Returns:
        How many conversations were left out for which reason.

    Raises:
        ValueError: a recording is in the records twice, or two conversations have one name.
    """
    left_out, rows_of = Counter(), _RecordRows(keys)
    kept = Features.from_arrow_schema(pq.read_schema(paths[0]))
    features = ECG_FEATURES | {name: kept[name] for name in kept if name not in REFERENCES}
    schema = Features(features).arrow_schema
    with pq.ParquetWriter(joined, schema) as writer:
        for batch in _batches(paths):
            picked, ecg_index = _usable(batch, rows_of, left_out)
            if picked:
                writer.write_table(_with_ecgs(batch.take(picked), ecg_index, keys).select(schema.names).cast(schema))
    names = pq.read_table(joined, columns=["conversation_id"])["conversation_id"].value_counts()
    repeated = names.filter(pc.greater(names.field("counts"), 1))
    if len(repeated):
        raise ValueError(f"conversation {repeated[0]['values'].as_py()!r} is in the source more than once")
    return left_out


class _RecordRows:
    """Where the segments of each recording are in the records."""

    def __init__(self, keys: pa.Table):
        names = recording_names(keys["source"], keys["recording_id"]).combine_chunks().dictionary_encode()
        recording, segment = names.indices.to_numpy(), keys["segment"].to_numpy()
        # recordings are numbered as they first appear, so numbers and the segments of each go up
        steps = np.diff(recording)
        (again,) = np.nonzero((steps < 0) | ((steps == 0) & (np.diff(segment) <= 0)))
        if again.size:
            source, recording_id = (keys[column][int(again[0]) + 1].as_py() for column in ("source", "recording_id"))
            raise ValueError(f"recording {recording_id!r} of {source} is in the records more than once")
        self._names, self._segment = names.dictionary, segment
        self._starts = np.searchsorted(recording, np.arange(len(names.dictionary) + 1))

    def find(self, names: pa.Array) -> list[dict[int, int]]:
        """For each recording that is named, its segments and their rows; none if it is not there."""
        numbers = pc.fill_null(pc.index_in(names, self._names), -1).to_numpy()
        starts, ends = self._starts[numbers], np.where(numbers < 0, 0, self._starts[numbers + 1])
        return [
            dict(zip(self._segment[start:end].tolist(), range(start, end)))
            for start, end in zip(starts.tolist(), ends.tolist())
        ]


def _usable(batch: pa.Table, rows_of: _RecordRows, left_out: Counter) -> tuple[list[int], list[list[int]]]:
    """The conversations of a batch that can be used, and the rows of their ECGs; the others are counted."""
    found = rows_of.find(recording_names(*(pc.list_flatten(batch[name]) for name in REFERENCES[1:])).combine_chunks())
    picked, ecg_index, end = [], [], 0
    counts = pc.list_value_length(batch["recording_ids"]).to_pylist()
    for number, (count, num_answers) in enumerate(zip(counts, pc.list_value_length(batch["answer"]).to_pylist())):
        segments_of, end = found[end : end + count], end + count
        common = sorted(set.intersection(*map(set, segments_of))) if segments_of else [None]
        if not all(segments_of):
            left_out["ECG not among the records"] += 1
        elif not common:
            left_out["no segment that all its ECGs have"] += 1
        elif not num_answers:
            left_out["no answer"] += 1
        else:
            picked += [number] * len(common)
            ecg_index += [[rows[segment] for rows in segments_of] for segment in common]
    return picked, ecg_index


def _with_ecgs(batch: pa.Table, ecg_index: list[list[int]], keys: pa.Table) -> pa.Table:
    """The conversations with the columns that say which ECGs they are about; the segment is made part of their names."""
    columns = ["segment", "record_id", "patient_id"]
    ecgs = keys.select(columns).take(pa.array([row for rows in ecg_index for row in rows], pa.int64()))
    ends = np.cumsum([0] + [len(rows) for rows in ecg_index])
    segment, record_id, patient_id = (ecgs[name].to_pylist() for name in columns)
    pieces = [slice(start, end) for start, end in zip(ends[:-1], ends[1:])]
    added = {
        "conversation_id": [
            f"{name}-{segment[piece.start]}" if piece.start < piece.stop else name
            for name, piece in zip(batch["conversation_id"].to_pylist(), pieces)
        ],
        "ecg_index": ecg_index,
        "record_ids": [record_id[piece] for piece in pieces],
        "patient_ids": [patient_id[piece] for piece in pieces],
    }
    added = pa.table(added, schema=pa.schema(Features(ECG_FEATURES).arrow_schema, metadata=None))
    batch = batch.drop_columns(REFERENCES)
    return pa.table([*added.columns, *batch.columns], names=[*added.column_names, *batch.column_names])


def split_conversations(
    joined: Path, keys: pa.Table, num_folds: int, seed: int
) -> tuple[dict[str, dict], dict[str, dict]]:
    """
    The rows of each split of `official` and of each fold, and what the build report says of them.

    A conversation about no ECG is a patient of its own: nothing is known of who it is about.

    Args:
        joined: the file that `find_ecgs` wrote.
        keys: the columns `source` and `patient_id` of the records.
        num_folds, seed: of the folds.

    Raises:
        ValueError: fewer patients than folds, or neither folds nor an official split.
    """
    patients = _patients(joined, keys)
    strata, split = (pq.read_table(joined, columns=[name])[name] for name in ("stratum", "split"))
    splits, report = {}, {}
    official = {name: np.flatnonzero(pc.fill_null(pc.equal(split, name), False)) for name in SPLITS}
    official = {name: rows for name, rows in official.items() if len(rows)}
    if official:
        owners = Counter(
            owner for rows in official.values() for owner in {key for row in rows for key in patients[row]}
        )
        splits["official"] = official
        report["official"] = {name: len(rows) for name, rows in official.items()}
        report["official"]["patients_in_several_splits"] = sum(count > 1 for count in owners.values())
    elif num_folds == 0:
        raise ValueError("num_folds (--num-folds) 0 leaves no split at all: the source has no official one")
    for number, fold in enumerate(make_folds(patients, strata.to_pylist(), num_folds, seed) if num_folds else [], 1):
        splits[f"fold{number}"] = {"train": fold.train, "test": fold.test}
        report[f"fold{number}"] = {
            "train": len(fold.train),
            "test": len(fold.test),
            "left_out": fold.num_left_out,
            "test_patients": len(fold.test_patients),
            "largest_deviation": round(fold.largest_deviation, 4),
            "deviating_stratum": fold.deviating_stratum,
        }
    return splits, report


def _patients(joined: Path, keys: pa.Table) -> list[list[tuple[str, str]]]:
    """For each conversation, whose ECGs it is about."""
    source, patient_id = (keys[name].combine_chunks().dictionary_encode() for name in ("source", "patient_id"))
    source_names, patient_ids = source.dictionary.to_pylist(), patient_id.dictionary.to_pylist()
    pairs = np.stack([source.indices.to_numpy(), patient_id.indices.to_numpy()])
    pairs, patient_of = np.unique(pairs, axis=1, return_inverse=True)
    names = [(source_names[source], patient_ids[patient]) for source, patient in pairs.T.tolist()]
    patient_of = patient_of.astype(np.int32)
    patients = []
    for batch in _batches([joined], ["conversation_id", "ecg_index"]):
        ids = batch["conversation_id"]
        for number, rows in enumerate(batch["ecg_index"].to_pylist()):
            own = sorted({names[patient] for patient in patient_of[rows].tolist()}) if rows else []
            patients.append(own or [("", ids[number].as_py())])
    return patients


def write_splits(joined: Path, splits: dict[str, dict[str, np.ndarray]], folder: Path) -> None:
    """Write every split that has rows: `datasets` cannot load one without, as a test of two compared patients may be."""
    kept = Features.from_arrow_schema(pq.read_schema(joined))
    schema = Features({name: kept[name] for name in kept if name != "split"}).arrow_schema
    with ExitStack() as stack:
        writers = [
            (
                rows,
                stack.enter_context(pq.ParquetWriter(new_path(folder / config / parquet_name(split, 0, 1)), schema)),
            )
            for config, indices in splits.items()
            for split, rows in indices.items()
            if len(rows)
        ]
        start, total = 0, pq.read_metadata(joined).num_rows
        with datasets.utils.tqdm(total=total, desc="Writing splits", unit=" conversations") as bar:
            for batch in _batches([joined], schema.names):
                for rows, writer in writers:
                    first, last = np.searchsorted(rows, [start, start + len(batch)])
                    if first < last:
                        writer.write_table(batch.take(rows[first:last] - start).cast(schema))
                start += len(batch)
                bar.update(len(batch))


def _batches(paths: list[Path], columns: list[str] | None = None) -> Iterator[pa.Table]:
    for path in paths:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(BATCH_SIZE, columns=columns):
                yield pa.Table.from_batches([batch])
