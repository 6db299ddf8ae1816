"""Load datasets in the elm-hf layout from a folder or from the Hub, with conversations joined with their ECGs."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import repeat
from os import PathLike

import datasets
import numpy as np
from datasets import Dataset, IterableDataset

from elm_hf.data.ecg_table import EcgSequence, EcgTable, StreamedEcgTable
from elm_hf.data.layout import PATIENTS, RECORDS, fold_config
from elm_hf.data.messages import message_text
from elm_hf.data.patients import check_disjoint
from elm_hf.data.tables import (
    check_has_signals,
    data_files,
    has_records,
    load_records,
    load_table,
    name_and_revision,
)
from elm_hf.utils.languages import language_of


def load_elm_dataset(
    path_or_repo: str | PathLike | Sequence[str | PathLike],
    fold: int | str = 1,
    split: str = "train",
    probabilities: list[float] | None = None,
    merge_questions: int = 1,
    seed: int = 0,
    records: str | PathLike | Sequence[str | PathLike | None] | None = None,
    streaming: bool = False,
    question_types: Sequence[str] | None = None,
) -> Dataset | IterableDataset:
    """
    Load the conversations of a split of a fold, with their ECGs.

    In addition to the columns of the fold, each row has the columns `ecgs` and `sampling_rate`. `ecgs` is a sequence
    of arrays `(12, samples)`, float32 in millivolt, in the order of the ECG placeholders; missing leads are NaN.
    `sampling_rate` is in Hz. The signals stay in a memory-mapped table that is shared by all worker processes. They
    are read on access to an item of `ecgs` only; access to text columns (`dataset["messages"]`) does not read signals.

    Args:
        path_or_repo: folder built by `prepare_dataset`, or dataset on the Hub: `user/name`, or `user/name@revision`
            for a branch, tag or commit. Several datasets are mixed.
        fold: 1 to 5, or `"official"` for the split of the dataset authors.
        split: `"train"`, `"validation"` or `"test"`. Datasets built by earlier versions have no `"validation"`.
        probabilities: probability of drawing from each of several datasets (`datasets.interleave_datasets`, which
            stops when the first dataset is exhausted). By default, the datasets are concatenated.
        merge_questions: maximum number of conversations with the same ECGs and the same `question_type` that are
            merged into one, as consecutive turns in random order, so that the model reads the ECGs once for all of
            them (Liu et al. 2024, LLaVA-1.5). Use it for training only: later turns contain the answers of earlier
            turns. Merged rows have the columns `conversation_id`, `ecg_index`, `record_ids` and `messages`.
        seed: random seed for drawing and merging.
        records: folder built by `prepare_dataset` from the same source, for a dataset that was published without
            signals. The folds are read from `path_or_repo`, the ECGs and texts from this folder. For several datasets,
            give a list with None for each dataset that includes its signals.
        streaming: read the dataset from its location without downloading it first. Rows are in order
            (`datasets.IterableDataset`), and ECGs are fetched on access.
        question_types: load conversations of these types only. Defaults to all types.

    Raises:
        FileNotFoundError: there is no such folder or dataset.
        ValueError: the dataset is not an elm-hf dataset or has no such fold or split, one of its files is damaged, it
            was published without signals and `records` is missing or incomplete, it has no conversation of
            `question_types`, datasets to be mixed differ in record length or sampling rate, or a training patient of
            one of them is a validation or test patient of another.
    """
    paths = [path_or_repo] if isinstance(path_or_repo, str | PathLike) else list(path_or_repo)
    local = [records] * len(paths) if records is None or isinstance(records, str | PathLike) else list(records)
    if len(local) != len(paths):
        raise ValueError(f"{len(local)} records for {len(paths)} datasets; give one for each dataset, or None")
    if probabilities is not None and len(probabilities) != len(paths):
        raise ValueError(f"{len(probabilities)} probabilities for {len(paths)} datasets; give one for each dataset")
    if probabilities is not None and not (min(probabilities) >= 0 and np.isclose(sum(probabilities), 1)):
        raise ValueError(f"the probabilities must not be negative and must sum to 1; got {probabilities}")
    if streaming and (merge_questions > 1 or question_types or any(path is not None for path in local)):
        raise ValueError(
            "streaming=True cannot be combined with question_types, merge_questions or records; set streaming=False"
        )
    if split == "train":
        check_disjoint(paths, fold, streaming)
    if streaming:
        return _stream(paths, fold, split, probabilities, seed)
    conversations = [_load_conversations(path, fold, split) for path in paths]
    tables = [records_of(path, local_path) for path, local_path in zip(paths, local)]
    conversations = [
        rows if local_path is None else _join_local_build(rows, path, local_path, table)
        for rows, path, local_path, table in zip(conversations, paths, local, tables)
    ]
    if question_types is not None:
        conversations = [_select_types(rows, path, set(question_types)) for rows, path in zip(conversations, paths)]
    if merge_questions > 1:
        conversations = [_merge_questions(rows, merge_questions, seed) for rows in conversations]
    if len(paths) == 1:
        return conversations[0].with_transform(_AddEcgs(tables))
    with_ecgs = [(path, table) for path, table in zip(paths, tables) if table is not None]
    check_same_shape([path for path, _ in with_ecgs], [table for _, table in with_ecgs])
    starts = np.cumsum([0] + [0 if table is None else len(table) for table in tables])
    conversations = [_offset_ecg_index(rows, int(start)) for rows, start in zip(conversations, starts)]
    if probabilities is None:
        mixed = datasets.concatenate_datasets(conversations)
    else:
        mixed = datasets.interleave_datasets(conversations, probabilities, seed=seed)
    return mixed.with_transform(_AddEcgs(tables))


def records_of(path: str | PathLike, local: str | PathLike | None) -> Dataset | None:
    """
    Load the records of a dataset, or of its local build if `local` is given. Returns None for a text-only dataset.

    Args:
        path: folder or Hub name of an elm-hf dataset.
        local: folder of a local build, if the dataset was published without signals.

    Raises:
        FileNotFoundError: there is no such folder or dataset.
        ValueError: the dataset is damaged, or it was published without signals and `local` is None.
    """
    path = path if local is None else local
    return load_records(path) if has_records(path) else None


def _join_local_build(
    conversations: Dataset, path: str | PathLike, local: str | PathLike, records: Dataset | None
) -> Dataset:
    """
    Join a dataset that was published without signals with a local build: `ecg_index` refers to the records of the
    local build, and the unpublished columns are taken from its conversations.
    """
    if records is not None:
        _check_same_records(path, local, records)
    ids = conversations.select_columns(["conversation_id", "record_ids"])[:]
    names = [] if records is None else records.select_columns("record_id")[:]["record_id"]
    row_of = {name: row for row, name in enumerate(names)}
    _check_all_there({name for names in ids["record_ids"] for name in names}, row_of, "records", path, local)
    if "messages" not in conversations.column_names:
        conversations = _local_conversations(path, local, ids["conversation_id"])
    ecg_index = [[row_of[name] for name in names] for names in ids["record_ids"]]
    return _with_ecg_index(conversations, ecg_index)


def _check_same_records(path: str | PathLike, local: str | PathLike, records: Dataset) -> None:
    """Check that the local records have the published length and sampling rate, which their ids do not include."""
    published = load_table(path, RECORDS, "train")[0]
    found = (records.features["ecg"].shape[1], records[0]["sampling_rate"])
    wanted = (published.get("num_samples", found[0]), published["sampling_rate"])
    if found != wanted:
        raise ValueError(
            f"{local}: records of {found[0]} samples at {found[1]} Hz; {path} requires {wanted[0]} samples at "
            f"{wanted[1]} Hz"
        )


def _local_conversations(path: str | PathLike, local: str | PathLike, ids: list[str]) -> Dataset:
    """Select conversations by id from all splits of a local build."""
    name, _ = name_and_revision(local)
    configs = [config for config in datasets.get_dataset_config_names(name) if config not in (RECORDS, PATIENTS)]
    splits = [
        load_table(local, config, split)
        for config in configs
        for split in datasets.get_dataset_split_names(name, config)
    ]
    everything = datasets.concatenate_datasets(splits)
    row_of = {name: row for row, name in enumerate(everything.select_columns("conversation_id")[:]["conversation_id"])}
    _check_all_there(set(ids), row_of, "conversations", path, local)
    return everything.select([row_of[name] for name in ids])


def _check_all_there(wanted: set[str], found: dict[str, int], what: str, path, local) -> None:
    missing = sorted(wanted - found.keys())
    if missing:
        raise ValueError(
            f"{local}: {len(missing)} of the {len(wanted)} {what} of {path} are missing, such as {missing[0]}; build "
            "it with the options on the dataset card"
        )


def _stream(paths: list, fold: int | str, split: str, probabilities: list[float] | None, seed: int) -> IterableDataset:
    parts, table, shapes = [], StreamedEcgTable(), {}
    for path in paths:
        conversations = _load_conversations(path, fold, split, streaming=True)
        parts.append(conversations.map(_OffsetRow(len(table)), features=conversations.features))
        if has_records(path):
            records = load_table(path, RECORDS, "train", streaming=True)
            check_has_signals(path, records)
            rate = next(iter(records.select_columns(["sampling_rate"])))["sampling_rate"]
            shapes[path] = (records.features["ecg"].shape, rate)
            table.add_files(data_files(path, RECORDS))
    _check_shapes(shapes)
    if len(parts) == 1:
        mixed = parts[0]
    elif probabilities is None:
        mixed = datasets.concatenate_datasets(parts)
    else:
        mixed = datasets.interleave_datasets(parts, probabilities, seed=seed)
    return mixed.map(_AddEcgsToRow(table, next(iter(shapes.values()), (None, None))[1]))


class _AddEcgs:
    """Adds the ECGs to a batch of conversations. Unlike a closure, it can be sent to worker processes."""

    def __init__(self, tables: list[Dataset | None]):
        """`tables` are the records of each dataset, None for a text-only dataset."""
        tables = [table for table in tables if table is not None]
        self.records, self.sampling_rate = None, None
        if tables:
            self.records = EcgTable(datasets.concatenate_datasets(tables))
            self.sampling_rate = tables[0][0]["sampling_rate"]

    def __call__(self, batch: dict) -> dict:
        if "ecg_index" not in batch:
            return batch
        ecgs = [EcgSequence(self.records, rows) for rows in batch["ecg_index"]]
        return batch | {"ecgs": ecgs, "sampling_rate": [self.sampling_rate] * len(ecgs)}


class _OffsetRow:
    """Adds the start of the records in the joined table to the `ecg_index` of a streamed conversation."""

    def __init__(self, start: int):
        self.start = start

    def __call__(self, row: dict) -> dict:
        return row | {"ecg_index": [index + self.start for index in row["ecg_index"]]}


class _AddEcgsToRow:
    """Adds the ECGs to a streamed conversation."""

    def __init__(self, table: StreamedEcgTable, sampling_rate: int | None):
        self.table, self.sampling_rate = table, sampling_rate

    def __call__(self, row: dict) -> dict:
        return row | {"ecgs": EcgSequence(self.table, row["ecg_index"]), "sampling_rate": self.sampling_rate}


def _load_conversations(path: str | PathLike, fold: int | str, split: str, streaming: bool = False):
    return load_table(path, fold_config(fold), split, streaming)


def _merge_questions(conversations: Dataset, number: int, seed: int) -> Dataset:
    """
    Merge at most `number` conversations of the same type about the same ECGs into one. The ECGs are in the first turn.

    Types are not mixed, because the answer to "What is the rhythm?" also answers "Is there atrial fibrillation?".
    """
    columns = ["conversation_id", "ecg_index", "record_ids", "messages"]
    rows = conversations.select_columns(columns)
    types = conversations["question_type"] if "question_type" in conversations.column_names else repeat(None)
    groups = defaultdict(list)
    for row, (ecg_index, question_type) in enumerate(zip(rows["ecg_index"], types)):
        # conversations without ECGs are not merged
        groups[(*ecg_index, question_type) if ecg_index else (None, row)].append(row)
    rng = np.random.default_rng(seed)
    order = [group[place] for group in groups.values() for place in rng.permutation(len(group))]
    sizes = [min(number, len(group) - start) for group in groups.values() for start in range(0, len(group), number)]
    shuffled = iter(rows.select(order).to_list())
    merged = [_merge_rows([next(shuffled) for _ in range(size)]) for size in sizes]
    return Dataset.from_list(merged, features=rows.features)


def _select_types(rows: Dataset, path: str | PathLike, types: set[str]) -> Dataset:
    found = rows.select_columns("question_type")[:]["question_type"]
    kept = [row for row, name in enumerate(found) if name in types]
    if not kept:
        raise ValueError(
            f"{path}: no conversation has question_type {', '.join(sorted(types))}; found "
            f"{', '.join(sorted(set(found) - {None})) or 'none'}"
        )
    return rows.select(kept)


def _merge_rows(rows: list[dict]) -> dict:
    """Merge conversations into one. The ECGs and the system message of all but the first are dropped."""
    messages = list(rows[0]["messages"])
    for row in rows[1:]:
        for message in row["messages"]:
            if message["role"] != "system":
                content = [item for item in message["content"] if item["type"] != "ecg"]
                messages.append({"role": message["role"], "content": content})
    return rows[0] | {"messages": messages, "conversation_id": "+".join(row["conversation_id"] for row in rows)}


def check_same_shape(paths: list, tables: list[Dataset]) -> None:
    """Check that the ECGs of all tables have the same shape and sampling rate."""
    _check_shapes(
        {path: (table.features["ecg"].shape, table[0]["sampling_rate"]) for path, table in zip(paths, tables)}
    )


def _check_shapes(shapes: dict) -> None:
    if len(set(shapes.values())) > 1:
        found = "; ".join(f"{path}: {shape} at {rate} Hz" for path, (shape, rate) in shapes.items())
        raise ValueError(f"datasets to be mixed must have the same ECG shape and sampling rate; found {found}")


def _offset_ecg_index(conversations: Dataset, start: int) -> Dataset:
    """Add the start of the records in the joined table to `ecg_index`."""
    return _with_ecg_index(conversations, [[row + start for row in rows] for rows in conversations["ecg_index"]])


def _with_ecg_index(conversations: Dataset, ecg_index: list[list[int]]) -> Dataset:
    feature = conversations.features["ecg_index"]
    return conversations.remove_columns("ecg_index").add_column("ecg_index", ecg_index, feature=feature)


def languages_of(conversations: Dataset, number: int = 64) -> list[str]:
    """
    The languages of a dataset's conversations: those of at least a tenth of a sample, by their words ([`language_of`]).

    Args:
        conversations: rows with `messages`.
        number: size of the sample, drawn evenly.
    """
    step = max(1, len(conversations) // number)
    sample = conversations.with_format(None).select(range(0, len(conversations), step))["messages"]
    found = Counter(language_of(" ".join(message_text(message) for message in messages)) for messages in sample)
    found.pop(None, None)
    return sorted(language for language, count in found.items() if 10 * count >= found.total())
