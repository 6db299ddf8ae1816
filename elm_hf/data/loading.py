"""Loading datasets in the layout of elm-hf, from a folder or from the Hub: conversations joined with their ECGs."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import repeat
from os import PathLike
from pathlib import Path

import datasets
import numpy as np
from datasets import Dataset, IterableDataset
from datasets.data_files import EmptyDatasetError
from datasets.exceptions import DataFilesNotFoundError, DatasetNotFoundError, DatasetsError
from datasets.inspect import SplitsNotFoundError
from yaml import YAMLError

from elm_hf.data.ecg_table import EcgSequence, EcgTable, StreamedEcgTable
from elm_hf.data.layout import fold_config
from elm_hf.utils.hub import check_name, split_revision


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
    Conversations of one split of one fold, each with its ECGs.

    Rows have the columns of the fold and two more, `ecgs` and `sampling_rate`: the ECGs of the conversation in the order
    of its ECG placeholders, a sequence of arrays `(12, samples)` in millivolt (float32; NaN where the record lacks the
    lead), and their samples per second. Signals stay in one memory-mapped table that all worker processes share; they
    are read when `ecgs` is indexed or iterated over, so that columns of text (`dataset["messages"]`) are read without.

    Args:
        path_or_repo: folder that `prepare_dataset` built, or dataset on the Hub: `user/name`, or `user/name@revision` for
            a branch, tag or commit. Several are mixed.
        fold: 1 to 5, or `"official"` for the split of the dataset's authors.
        split: `"train"` or `"test"`; an official split may also have `"validation"`.
        probabilities: of drawing from each of several datasets (`datasets.interleave_datasets`, which ends with the
            first dataset that is used up). By default all rows of the first come first, then all of the second, ...
        merge_questions: join up to so many conversations of one `question_type` about the same ECGs into one, turn after
            turn in random order, so that a model reads the ECGs once for all of them (Liu et al. 2024, LLaVA-1.5). Only
            for training: a later turn sees the answers of earlier ones. Joined rows keep `conversation_id`, `ecg_index`,
            `record_ids` and `messages`.
        seed: of drawing and joining.
        records: folder that `prepare_dataset` built from the same source, for a dataset that was published without its
            signals: the folds come from `path_or_repo`, ECGs and texts from here. Of several datasets, one for each, None
            for those that have their own.
        streaming: read from where the dataset is instead of downloading it first; rows come in order
            (`datasets.IterableDataset`), and ECGs are fetched when they are looked at.
        question_types: conversations of these types only; of all by default.

    Raises:
        FileNotFoundError: there is no such folder or dataset.
        ValueError: it is not an elm-hf dataset, it has no such fold or split, a file of it is damaged, it was published
            without signals and `records` is missing or lacks some, it has no conversation of `question_types`, or
            datasets to be mixed differ in length or sampling rate.
    """
    paths = [path_or_repo] if isinstance(path_or_repo, str | PathLike) else list(path_or_repo)
    local = [records] * len(paths) if records is None or isinstance(records, str | PathLike) else list(records)
    if len(local) != len(paths):
        raise ValueError(f"{len(local)} records for {len(paths)} datasets; give one for each, None for none")
    if probabilities is not None and len(probabilities) != len(paths):
        raise ValueError(f"{len(probabilities)} probabilities for {len(paths)} datasets; give one for each")
    if probabilities is not None and not (min(probabilities) >= 0 and np.isclose(sum(probabilities), 1)):
        raise ValueError(f"probabilities of drawing from each dataset sum to 1; got {probabilities}")
    if streaming and (merge_questions > 1 or question_types or any(path is not None for path in local)):
        raise ValueError(
            "streaming reads rows in order: questions are chosen and merged and local records joined without it only"
        )
    if streaming:
        return _stream(paths, fold, split, probabilities, seed)
    conversations = [_load_conversations(path, fold, split) for path in paths]
    tables = [records_of(path, of_path) for path, of_path in zip(paths, local)]
    conversations = [
        rows if of_path is None else _join_local_build(rows, path, of_path, table)
        for rows, path, of_path, table in zip(conversations, paths, local, tables)
    ]
    if question_types is not None:
        conversations = [_of_types(rows, path, set(question_types)) for rows, path in zip(conversations, paths)]
    if merge_questions > 1:
        conversations = [_merge(rows, merge_questions, seed) for rows in conversations]
    if len(paths) == 1:
        return conversations[0].with_transform(_Join(tables))
    with_ecgs = [(path, table) for path, table in zip(paths, tables) if table is not None]
    check_same_shape([path for path, _ in with_ecgs], [table for _, table in with_ecgs])
    starts = np.cumsum([0] + [0 if table is None else len(table) for table in tables])
    conversations = [_shift(rows, int(start)) for rows, start in zip(conversations, starts)]
    if probabilities is None:
        mixed = datasets.concatenate_datasets(conversations)
    else:
        mixed = datasets.interleave_datasets(conversations, probabilities, seed=seed)
    return mixed.with_transform(_Join(tables))


def records_of(path: str | PathLike, local: str | PathLike | None) -> Dataset | None:
    """
    The table of ECGs of a dataset or of the local build given for it; None for conversations in words alone.

    Args:
        path: folder or Hub name of an elm-hf dataset.
        local: folder with its signals, if it was published without them.

    Raises:
        FileNotFoundError: there is no such folder or dataset.
        ValueError: it is damaged, or published without signals and `local` is None.
    """
    path = path if local is None else local
    return load_records(path) if has_records(path) else None


def _join_local_build(
    conversations: Dataset, path: str | PathLike, local: str | PathLike, records: Dataset | None
) -> Dataset:
    """
    Conversations of a dataset that was published without signals, with `ecg_index` counted in the records of a local
    build and, as only ids were published, the other columns of its conversations.
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
    """Refuses records of another length or rate than those published, which may have the same ids."""
    published = _load(path, "records", "train")[0]
    found = (records.features["ecg"].shape[1], records[0]["sampling_rate"])
    wanted = (published.get("num_samples", found[0]), published["sampling_rate"])
    if found != wanted:
        raise ValueError(
            f"{local}: records of {found[0]} samples at {found[1]} Hz; {path} is about {wanted[0]} samples at {wanted[1]} Hz"
        )


def _local_conversations(path: str | PathLike, local: str | PathLike, ids: list[str]) -> Dataset:
    """These conversations, from whichever split of the local build each is in."""
    name, _ = _name_and_revision(local)
    configs = [config for config in datasets.get_dataset_config_names(name) if config != "records"]
    splits = [
        _load(local, config, split) for config in configs for split in datasets.get_dataset_split_names(name, config)
    ]
    everything = datasets.concatenate_datasets(splits)
    row_of = {name: row for row, name in enumerate(everything.select_columns("conversation_id")[:]["conversation_id"])}
    _check_all_there(set(ids), row_of, "conversations", path, local)
    return everything.select([row_of[name] for name in ids])


def _check_all_there(wanted: set[str], found: dict[str, int], what: str, path, local) -> None:
    missing = sorted(wanted - found.keys())
    if missing:
        raise ValueError(
            f"{local}: lacks {len(missing)} of the {len(wanted)} {what} that {path} names, such as {missing[0]}; build it "
            "with the options that are on the card"
        )


def _stream(paths: list, fold: int | str, split: str, probabilities: list[float] | None, seed: int) -> IterableDataset:
    parts, table, shapes = [], StreamedEcgTable(), {}
    for path in paths:
        conversations = _load_conversations(path, fold, split, streaming=True)
        parts.append(conversations.map(_Shift(len(table)), features=conversations.features))
        if has_records(path):
            records = _load(path, "records", "train", streaming=True)
            _check_has_signals(path, records)
            rate = next(iter(records.select_columns(["sampling_rate"])))["sampling_rate"]
            shapes[path] = (records.features["ecg"].shape, rate)
            table.add_files(_data_files(path, "records"))
    _check_shapes(shapes)
    if len(parts) == 1:
        mixed = parts[0]
    elif probabilities is None:
        mixed = datasets.concatenate_datasets(parts)
    else:
        mixed = datasets.interleave_datasets(parts, probabilities, seed=seed)
    return mixed.map(_JoinRow(table, next(iter(shapes.values()), (None, None))[1]))


def load_records(path_or_repo: str | PathLike) -> Dataset:
    """
    The table of ECGs of a dataset (folder, `user/name` or `user/name@revision`); column `ecg` is `(12, samples)` int16 in
    microvolt, where leads listed in `missing_leads` are 0.

    Raises:
        FileNotFoundError: there is no such folder or dataset.
        ValueError: it is not an elm-hf dataset, damaged, or published without signals.
    """
    records = _load(path_or_repo, "records", "train")
    _check_has_signals(path_or_repo, records)
    return records


def split_names(path_or_repo: str | PathLike, fold: int | str) -> list[str]:
    """
    The splits of a fold (1 to 5 or `"official"`) of a dataset.

    Raises:
        FileNotFoundError: there is no such folder or dataset.
        ValueError: it is not an elm-hf dataset, or has no such fold.
    """
    name, revision = _name_and_revision(path_or_repo)
    check_name(name, repo_type="dataset")
    _check_has(name, revision, fold_config(fold))
    return datasets.get_dataset_split_names(name, fold_config(fold), revision=revision)


def _check_has_signals(path: str | PathLike, records: Dataset | IterableDataset) -> None:
    if "ecg" not in records.features:
        raise ValueError(
            f"{path}: published without signals; build the dataset from its source (elm-hf prepare) and name the folder as "
            "records"
        )


class _Join:
    """Adds the ECGs to a batch of conversations; an object and not a closure, so that worker processes can have it."""

    def __init__(self, tables: list[Dataset | None]):
        """`tables` of records, None for a dataset of conversations in words alone."""
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


class _Shift:
    """Counts `ecg_index` of a streamed conversation from where its records begin in the joined table."""

    def __init__(self, start: int):
        self.start = start

    def __call__(self, row: dict) -> dict:
        return row | {"ecg_index": [index + self.start for index in row["ecg_index"]]}


class _JoinRow:
    """Adds the ECGs to a streamed conversation."""

    def __init__(self, table: StreamedEcgTable, sampling_rate: int | None):
        self.table, self.sampling_rate = table, sampling_rate

    def __call__(self, row: dict) -> dict:
        return row | {"ecgs": EcgSequence(self.table, row["ecg_index"]), "sampling_rate": self.sampling_rate}


def _load_conversations(path: str | PathLike, fold: int | str, split: str, streaming: bool = False):
    return _load(path, fold_config(fold), split, streaming)


def _load(path: str | PathLike, config: str, split: str, streaming: bool = False) -> Dataset | IterableDataset:
    """A split of a configuration of an elm-hf dataset; errors list what there is instead."""
    name, revision = _name_and_revision(path)
    try:
        _check_has(name, revision, config, split)
        return datasets.load_dataset(name, config, split=split, revision=revision, streaming=streaming)
    except (DatasetNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(f"{path}: no such folder, and not found on the Hub ({error})") from error
    except (DatasetsError, SplitsNotFoundError, YAMLError) as error:
        reason = error.__cause__ or error  # `datasets` only says that something is wrong
        raise ValueError(f"{path}: the data of {config} or the card are damaged or missing ({reason})") from error


def _name_and_revision(path: str | PathLike) -> tuple[str, str | None]:
    """What `datasets` loads by: of folders the absolute path, since it names its cache after the last part."""
    name, revision = (str(Path(path).resolve()), None) if Path(path).is_dir() else split_revision(str(path))
    check_name(name, repo_type="dataset")
    return name, revision


def _data_files(path: str | PathLike, config: str) -> list[str]:
    """Paths or addresses of the files of a configuration, which has one split."""
    name, revision = _name_and_revision(path)
    (urls,) = datasets.load_dataset_builder(name, config, revision=revision).config.data_files.values()
    return list(urls)


def has_records(path: str | PathLike) -> bool:
    """Whether a dataset, known to be there, is about ECGs; conversations in words alone come without records."""
    name, revision = _name_and_revision(path)
    return "records" in datasets.get_dataset_config_names(name, revision=revision)


def _check_has(name: str, revision: str | None, config: str, split: str | None = None) -> None:
    try:
        configs = datasets.get_dataset_config_names(name, revision=revision)
    except (EmptyDatasetError, DataFilesNotFoundError):
        configs = []
    if not {"records", "fold1", "official"} & set(configs):
        raise ValueError(f"{name}: not an elm-hf dataset (no configuration `records`; found {_listed(configs)})")
    if config not in configs:
        folds = [config for config in configs if config != "records"]
        if config == "records":
            raise ValueError(f"{name}: holds conversations in words alone, so there are no ECGs to load")
        raise ValueError(f"{name}: no {config!r}; there are {_listed(folds)}")
    splits = datasets.get_dataset_split_names(name, config, revision=revision)
    if split is not None and split not in splits:
        raise ValueError(f"{name}: {config} has no split {split!r}; there are {_listed(splits)}")


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"


def _merge(conversations: Dataset, number: int, seed: int) -> Dataset:
    """
    Joins conversations of one type about the same ECGs, up to `number` of them in one; the ECGs stand in the first turn.

    Of one type, for the answer to "What is the rhythm?" would answer "Is there atrial fibrillation?", too.
    """
    columns = ["conversation_id", "ecg_index", "record_ids", "messages"]
    rows = conversations.select_columns(columns)
    types = conversations["question_type"] if "question_type" in conversations.column_names else repeat(None)
    groups = defaultdict(list)
    for row, (ecg_index, question_type) in enumerate(zip(rows["ecg_index"], types)):
        # conversations without ECGs have nothing in common
        groups[(*ecg_index, question_type) if ecg_index else (None, row)].append(row)
    rng = np.random.default_rng(seed)
    order = [group[place] for group in groups.values() for place in rng.permutation(len(group))]
    sizes = [min(number, len(group) - start) for group in groups.values() for start in range(0, len(group), number)]
    shuffled = iter(rows.select(order).to_list())
    merged = [_joined([next(shuffled) for _ in range(size)]) for size in sizes]
    return Dataset.from_list(merged, features=rows.features)


def _of_types(rows: Dataset, path: str | PathLike, types: set[str]) -> Dataset:
    found = rows.select_columns("question_type")[:]["question_type"]
    kept = [row for row, name in enumerate(found) if name in types]
    if not kept:
        raise ValueError(
            f"{path}: no conversation is of the types {', '.join(sorted(types))}; there are {', '.join(sorted(set(found)))}"
        )
    return rows.select(kept)


def _joined(rows: list[dict]) -> dict:
    """One conversation of several: later ones come without their ECGs and system message, which the first one has."""
    messages = list(rows[0]["messages"])
    for row in rows[1:]:
        for message in row["messages"]:
            if message["role"] != "system":
                content = [item for item in message["content"] if item["type"] != "ecg"]
                messages.append({"role": message["role"], "content": content})
    return rows[0] | {"messages": messages, "conversation_id": "+".join(row["conversation_id"] for row in rows)}


def check_same_shape(paths: list, tables: list[Dataset]) -> None:
    """Refuses tables of records whose ECGs differ in shape or sampling rate."""
    _check_shapes(
        {path: (table.features["ecg"].shape, table[0]["sampling_rate"]) for path, table in zip(paths, tables)}
    )


def _check_shapes(shapes: dict) -> None:
    if len(set(shapes.values())) > 1:
        found = "; ".join(f"{path}: {shape} at {rate} Hz" for path, (shape, rate) in shapes.items())
        raise ValueError(f"datasets to be mixed must have ECGs of one shape and sampling rate, found {found}")


def _shift(conversations: Dataset, start: int) -> Dataset:
    """The conversations with `ecg_index` counted from where their records begin in the joined table."""
    return _with_ecg_index(conversations, [[row + start for row in rows] for rows in conversations["ecg_index"]])


def _with_ecg_index(conversations: Dataset, ecg_index: list[list[int]]) -> Dataset:
    feature = conversations.features["ecg_index"]
    return conversations.remove_columns("ecg_index").add_column("ecg_index", ecg_index, feature=feature)


def patients_of(dataset: str | PathLike, records: Dataset, fold: int | str, held_out: bool) -> set[tuple[str, str]]:
    """
    The patients, (source, patient id), of a fold's training conversations, or of all its others.

    Args:
        dataset: folder or Hub name of an elm-hf dataset.
        records: its records.
        fold: 1 to 5 or `"official"`.
        held_out: those of the other splits.

    Raises:
        ValueError: a patient is on both sides.
    """
    owners = list(zip(records["source"], records["patient_id"]))
    patients = defaultdict(set)
    for split in split_names(dataset, fold):
        rows = load_elm_dataset(dataset, fold, split).select_columns("ecg_index")
        patients[split == "train"] |= {owners[row] for ecg_index in rows["ecg_index"] for row in ecg_index}
    both = patients[True] & patients[False]
    if both:
        raise ValueError(
            f"{dataset}: {len(both)} patients of fold {fold} are in training and in another split, such as "
            f"{'/'.join(min(both))}: neighbours from training would be of patients that are tested on"
        )
    return patients[not held_out]
