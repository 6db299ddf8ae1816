"""Loading datasets in the layout of elm-hf, from a folder or from the Hub: conversations joined with their ECGs."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import repeat
from os import PathLike
from pathlib import Path

import datasets
import numpy as np
from datasets import Dataset
from datasets.data_files import EmptyDatasetError
from datasets.exceptions import DataFilesNotFoundError, DatasetNotFoundError, DatasetsError
from datasets.inspect import SplitsNotFoundError
from yaml import YAMLError

from elm_hf.hub import check_name
from elm_hf.modeling.ecg_utils import LEADS


class EcgSequence(Sequence):
    """
    The ECGs of one conversation, read from the records when they are looked at, so that other columns cost nothing.

    Each is an array `(12, samples)`, float32, millivolt, with leads in the order of `LEADS`. Leads that the record
    lacks are rows of NaN: absent, not flat.
    """

    def __init__(self, records: Dataset, rows: list[int]):
        self._records = records
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int | slice) -> np.ndarray | list[np.ndarray]:
        if isinstance(index, slice):
            return [ecg_in_millivolt(self._records, row) for row in self._rows[index]]
        return ecg_in_millivolt(self._records, self._rows[index])

    def __repr__(self) -> str:
        return f"EcgSequence(records={self._rows})"


def load_elm_dataset(
    path_or_repo: str | PathLike | Sequence[str | PathLike],
    fold: int | str = 1,
    split: str = "train",
    probabilities: list[float] | None = None,
    merge_questions: int = 1,
    seed: int = 0,
) -> Dataset:
    """
    Conversations of one split of one fold, each with its ECGs.

    Rows have the columns of the fold and two more, `ecgs` and `sampling_rate`: the ECGs of the conversation in the order
    of its ECG placeholders, a sequence of arrays `(12, samples)` in millivolt (float32; NaN where the record lacks the
    lead), and their samples per second. Signals stay in one memory-mapped table that all worker processes share; they
    are read when `ecgs` is indexed or iterated over, so that columns of text (`dataset["messages"]`) are read without.

    Args:
        path_or_repo: folder that `prepare_dataset` built, or name of a dataset on the Hub. Several are mixed.
        fold: 1 to 5, or `"official"` for the split of the dataset's authors.
        split: `"train"` or `"test"`; an official split may also have `"validation"`.
        probabilities: of drawing from each of several datasets (`datasets.interleave_datasets`, which ends with the
            first dataset that is used up). By default all rows of the first come first, then all of the second, ...
        merge_questions: join up to so many conversations of one `question_type` about the same ECGs into one, turn after
            turn in random order, so that a model reads the ECGs once for all of them (Liu et al. 2024, LLaVA-1.5). Only
            for training: a later turn sees the answers of earlier ones. Joined rows keep `conversation_id`, `ecg_index`,
            `record_ids` and `messages`.
        seed: of drawing and joining.

    Raises:
        FileNotFoundError: there is no such folder or dataset.
        ValueError: it is not an elm-hf dataset, it has no such fold or split, a file of it is damaged, or datasets to be
            mixed differ in length or sampling rate.
    """
    paths = [path_or_repo] if isinstance(path_or_repo, str | PathLike) else list(path_or_repo)
    if probabilities is not None and len(probabilities) != len(paths):
        raise ValueError(f"{len(probabilities)} probabilities for {len(paths)} datasets; give one for each")
    conversations = [_load_conversations(path, fold, split) for path in paths]
    tables = [load_records(path) if _has_records(path) else None for path in paths]
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


def load_records(path_or_repo: str | PathLike) -> Dataset:
    """
    The table of ECGs of a dataset; column `ecg` is `(12, samples)` int16 in microvolt, where leads listed in
    `missing_leads` are 0.

    Raises:
        FileNotFoundError: there is no such folder or dataset.
        ValueError: it is not an elm-hf dataset, or damaged.
    """
    return _load(path_or_repo, "records", "train")


class _Join:
    """Adds the ECGs to a batch of conversations; an object and not a closure, so that worker processes can have it."""

    def __init__(self, tables: list[Dataset | None]):
        """`tables` of records, None for a dataset of conversations in words alone."""
        tables = [table for table in tables if table is not None]
        self.records, self.sampling_rate = None, None
        if tables:
            self.records = datasets.concatenate_datasets(tables).select_columns(["ecg", "missing_leads"])
            self.sampling_rate = tables[0][0]["sampling_rate"]

    def __call__(self, batch: dict) -> dict:
        if "ecg_index" not in batch:
            return batch
        ecgs = [EcgSequence(self.records, rows) for rows in batch["ecg_index"]]
        return batch | {"ecgs": ecgs, "sampling_rate": [self.sampling_rate] * len(ecgs)}


def ecg_in_millivolt(records: Dataset, row: int) -> np.ndarray:
    """One ECG, float32, straight from the memory map: reading it as a row of the dataset takes several times as long."""
    microvolt = records.data.column("ecg")[row].value.values.flatten().to_numpy()
    ecg = microvolt.reshape(len(LEADS), -1).astype(np.float32) / 1000
    for lead in records.data.column("missing_leads")[row].as_py():
        ecg[LEADS.index(lead)] = np.nan
    return ecg


def _load_conversations(path: str | PathLike, fold: int | str, split: str) -> Dataset:
    return _load(path, fold if isinstance(fold, str) and not fold.isdecimal() else f"fold{fold}", split)


def _load(path: str | PathLike, config: str, split: str) -> Dataset:
    """A split of a configuration of an elm-hf dataset; errors list what there is instead."""
    # an absolute path, since `datasets` names its cache after the last part, which "." has not
    name = str(Path(path).resolve()) if Path(path).is_dir() else str(path)
    check_name(name)
    try:
        _check_has(name, config, split)
        return datasets.load_dataset(name, config, split=split)
    except (DatasetNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(f"{name}: no such folder, and not found on the Hub ({error})") from error
    except (DatasetsError, SplitsNotFoundError, YAMLError) as error:
        reason = error.__cause__ or error  # `datasets` only says that something is wrong
        raise ValueError(f"{name}: the data of {config} or the card are damaged or missing ({reason})") from error


def _has_records(path: str | PathLike) -> bool:
    """Whether a dataset, known to be there, is about ECGs; conversations in words alone come without records."""
    name = str(Path(path).resolve()) if Path(path).is_dir() else str(path)
    return "records" in datasets.get_dataset_config_names(name)


def _check_has(name: str, config: str, split: str) -> None:
    try:
        configs = datasets.get_dataset_config_names(name)
    except (EmptyDatasetError, DataFilesNotFoundError):
        configs = []
    if not {"records", "fold1", "official"} & set(configs):
        raise ValueError(f"{name}: not an elm-hf dataset (no configuration `records`; found {_listed(configs)})")
    if config not in configs:
        folds = [config for config in configs if config != "records"]
        if config == "records":
            raise ValueError(f"{name}: holds conversations in words alone, so there are no ECGs to load")
        raise ValueError(f"{name}: no {config!r}; there are {_listed(folds)}")
    splits = datasets.get_dataset_split_names(name, config)
    if split not in splits:
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
    shapes = [(table.features["ecg"].shape, table[0]["sampling_rate"]) for table in tables]
    if len(set(shapes)) > 1:
        found = "; ".join(f"{path}: {shape} at {rate} Hz" for path, (shape, rate) in zip(paths, shapes))
        raise ValueError(f"datasets to be mixed must have ECGs of one shape and sampling rate, found {found}")


def _shift(conversations: Dataset, start: int) -> Dataset:
    """The conversations with `ecg_index` counted from where their records begin in the joined table."""
    shifted = [[row + start for row in rows] for rows in conversations["ecg_index"]]
    return conversations.remove_columns("ecg_index").add_column(
        "ecg_index", shifted, feature=conversations.features["ecg_index"]
    )
