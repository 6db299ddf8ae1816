"""Match the conversations of a source with records."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Features
from datasets.exceptions import DatasetGenerationError

from elm_hf.data.columns import ECG_FEATURES, REFERENCES
from elm_hf.prepare.builder import ElmDatasetBuilder


# Number of conversations in memory at once.
BATCH_SIZE = 10_000
# Why a conversation is excluded that refers to other ECGs than those of the build. There may be millions of them.
OTHER_ECG = "ECG not among the records"


def list_conversations(builder: ElmDatasetBuilder, folder: Path) -> tuple[list[Path], list[tuple[str, str]]]:
    """
    Write the conversations of a source to Parquet files. A source without conversations gives a file without rows.

    Returns:
        The files in order, and (reason, message) of each excluded entry of the source.

    Raises:
        ValueError, FileNotFoundError: the source is invalid or incomplete.
    """
    if not builder.has_conversations():
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(builder.info.features.arrow_schema.empty_table(), folder / "none.parquet")
        return [folder / "none.parquet"], builder.excluded_entries()
    try:
        builder.download_and_prepare(str(folder), file_format="parquet", download_mode="force_redownload")
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, ValueError | OSError):  # an error of the source, with a message for the user
            raise error.__cause__ from None
        raise
    unusable = [tuple(row) for row in json.loads((folder / "left_out.json").read_text(encoding="utf-8"))]
    if not builder.info.splits["conversations"].num_examples:
        first = f"; first damaged entry: {unusable[0][1]}" if unusable else ""
        raise ValueError(f"{builder.name}: no conversations in {builder.config.source}{first}")
    return sorted(folder.glob("*.parquet")), unusable


def asked_recordings(paths: list[Path]) -> pa.Array:
    """Return the distinct recordings of all conversations, with names as returned by `recording_names`."""
    columns = ["recording_sources", "recording_ids"]
    names = [
        recording_names(*(pc.list_flatten(batch[column]) for column in columns)).unique()
        for batch in read_batches(paths, columns)
    ]
    return pa.chunked_array(names, pa.string()).unique()


def recording_names(sources: pa.Array, ids: pa.Array) -> pa.Array:
    """Return names of recordings that are unique over several datasets."""
    return pc.binary_join_element_wise(sources, ids, " ")


def find_ecgs(
    paths: list[Path], keys: pa.Table, joined: Path, skipped: Mapping[str, str]
) -> tuple[Counter, list[tuple[str, str]]]:
    """
    Write the conversations with the row numbers of their ECGs in the records. A conversation is written once for each
    segment that all its ECGs have, or once if it has no ECGs.

    Args:
        paths: Parquet files of conversations as listed by a builder.
        keys: the columns `source`, `recording_id`, `segment`, `record_id` and `patient_id` of the records.
        joined: Parquet file to write.
        skipped: what was wrong with each recording that is not among the records, by its name as returned by
            `recording_names`.

    Returns:
        Number of excluded conversations by reason, and (reason, message) of each, except for those about `OTHER_ECG`.

    Raises:
        ValueError: a recording is repeated in the records, or two conversations have the same id.
    """
    counts, listed, rows_of = Counter(), [], _RecordRows(keys)
    kept = Features.from_arrow_schema(pq.read_schema(paths[0]))
    features = ECG_FEATURES | {name: kept[name] for name in kept if name not in REFERENCES}
    schema = Features(features).arrow_schema
    with pq.ParquetWriter(joined, schema) as writer:
        for batch in read_batches(paths):
            picked, ecg_index, left_out = _usable(batch, rows_of, skipped)
            counts.update(reason for reason, _ in left_out)
            listed += [entry for entry in left_out if entry[0] != OTHER_ECG]
            if picked:
                writer.write_table(_with_ecgs(batch.take(picked), ecg_index, keys).select(schema.names).cast(schema))
    names = pq.read_table(joined, columns=["conversation_id"])["conversation_id"].value_counts()
    repeated = names.filter(pc.greater(names.field("counts"), 1))
    if len(repeated):
        raise ValueError(f"conversation {repeated[0]['values'].as_py()!r} is in the source more than once")
    return counts, listed


class _RecordRows:
    """Finds the rows of the segments of a recording in the records."""

    def __init__(self, keys: pa.Table):
        names = recording_names(keys["source"], keys["recording_id"]).combine_chunks().dictionary_encode()
        recording, segment = names.indices.to_numpy(), keys["segment"].to_numpy()
        # recordings are numbered in order of appearance, so recordings and segments must be in increasing order
        steps = np.diff(recording)
        (again,) = np.nonzero((steps < 0) | ((steps == 0) & (np.diff(segment) <= 0)))
        if again.size:
            source, recording_id = (keys[column][int(again[0]) + 1].as_py() for column in ("source", "recording_id"))
            raise ValueError(f"recording {recording_id!r} of {source} is in the records more than once")
        self._names, self._segment = names.dictionary, segment
        self._starts = np.searchsorted(recording, np.arange(len(names.dictionary) + 1))

    def find(self, names: pa.Array) -> list[dict[int, int]]:
        """Return the segments of each recording and their rows; empty if the recording is not in the records."""
        numbers = pc.fill_null(pc.index_in(names, self._names), -1).to_numpy()
        starts, ends = self._starts[numbers], np.where(numbers < 0, 0, self._starts[numbers + 1])
        return [
            dict(zip(self._segment[start:end].tolist(), range(start, end)))
            for start, end in zip(starts.tolist(), ends.tolist())
        ]


def _usable(
    batch: pa.Table, rows_of: _RecordRows, skipped: Mapping[str, str]
) -> tuple[list[int], list[list[int]], list[tuple[str, str]]]:
    """The usable conversations of a batch, the rows of their ECGs, and (reason, message) of the others."""
    names = recording_names(*(pc.list_flatten(batch[name]) for name in REFERENCES[1:])).combine_chunks()
    found = rows_of.find(names)
    picked, ecg_index, left_out, end = [], [], [], 0
    counts, ids = pc.list_value_length(batch["recording_ids"]).to_pylist(), batch["conversation_id"].to_pylist()
    for number, (count, num_answers) in enumerate(zip(counts, pc.list_value_length(batch["answer"]).to_pylist())):
        segments_of, names_of, end = found[end : end + count], names[end : end + count], end + count
        common = sorted(set.intersection(*map(set, segments_of))) if segments_of else [None]
        if not all(segments_of):
            missing = [name.as_py() for name, rows in zip(names_of, segments_of) if not rows]
            causes = [skipped[name] for name in missing if name in skipped]
            reason = "ECG skipped" if causes else OTHER_ECG
            left_out.append((reason, f"{ids[number]}: {'; '.join(causes or missing)}"))
        elif not common:
            left_out.append(("no segment that all its ECGs have", ids[number]))
        elif not num_answers:
            left_out.append(("no answer", ids[number]))
        else:
            picked += [number] * len(common)
            ecg_index += [[rows[segment] for rows in segments_of] for segment in common]
    return picked, ecg_index, left_out


def _with_ecgs(batch: pa.Table, ecg_index: list[list[int]], keys: pa.Table) -> pa.Table:
    """Add the columns of `ECG_FEATURES` to the conversations, and the segment to their ids."""
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


def read_batches(paths: list[Path], columns: list[str] | None = None) -> Iterator[pa.Table]:
    """Read Parquet files, `BATCH_SIZE` rows at a time."""
    for path in paths:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(BATCH_SIZE, columns=columns):
                yield pa.Table.from_batches([batch])
