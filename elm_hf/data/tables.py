"""The tables of a dataset in the elm-hf layout, from a folder or from the Hub."""

from collections.abc import Iterable
from contextlib import suppress
from os import PathLike
from pathlib import Path

import datasets
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetBuilder, IterableDataset
from datasets.data_files import EmptyDatasetError
from datasets.exceptions import DataFilesNotFoundError, DatasetGenerationError, DatasetNotFoundError, DatasetsError
from datasets.inspect import SplitsNotFoundError
from yaml import YAMLError

from elm_hf.data.layout import OFFICIAL, PATIENTS, RECORDS, fold_config
from elm_hf.utils.hub import check_name, split_revision


def load_records(path_or_repo: str | PathLike) -> Dataset:
    """
    Load the records of a dataset. The column `ecg` is `(12, samples)`, int16 in microvolt; the leads in
    `missing_leads` are rows of zeros.

    Args:
        path_or_repo: folder, `user/name` or `user/name@revision`.

    Raises:
        FileNotFoundError: there is no such folder or dataset.
        ValueError: the dataset is not an elm-hf dataset, is damaged, or was published without signals.
    """
    records = load_table(path_or_repo, RECORDS, "train")
    check_has_signals(path_or_repo, records)
    return records


def load_patients(path_or_repo: str | PathLike) -> pa.Table | None:
    """
    Load the patients of a dataset with their folds: columns `source`, `patient_id`, `test_fold` and `validation_fold`.
    Returns None if the dataset has no folds, is text-only, or was built before datasets had this table.

    Args:
        path_or_repo: folder, `user/name` or `user/name@revision`.

    Raises:
        FileNotFoundError: there is no such folder or dataset.
        ValueError: the dataset is not an elm-hf dataset, or is damaged.
    """
    if PATIENTS not in config_names(path_or_repo):
        return None
    return load_table(path_or_repo, PATIENTS, "train").with_format("arrow")[:]


def split_names(path_or_repo: str | PathLike, fold: int | str) -> list[str]:
    """
    Return the names of the splits of a fold.

    Args:
        path_or_repo: folder, `user/name` or `user/name@revision`.
        fold: 1 to 5 or `"official"`.

    Raises:
        FileNotFoundError: there is no such folder or dataset.
        ValueError: the dataset is not an elm-hf dataset, or has no such fold.
    """
    return list(_splits(_builder(*name_and_revision(path_or_repo), fold_config(fold))))


def check_has_signals(path: str | PathLike, records: Dataset | IterableDataset) -> None:
    """Check that a dataset was not published without signals."""
    if "ecg" not in records.features:
        raise ValueError(
            f"{path}: published without signals; build the dataset from its source (elm-hf prepare) and pass the "
            "folder as records"
        )


def load_table(path: str | PathLike, config: str, split: str, streaming: bool = False) -> Dataset | IterableDataset:
    """Load a split of a configuration of an elm-hf dataset. Errors list the available ones."""
    name, revision = name_and_revision(path)
    try:
        return _read(_builder(name, revision, config, split), split, streaming)
    except (DatasetNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(f"{path}: no such folder, and not found on the Hub ({error})") from error
    except (DatasetsError, SplitsNotFoundError, YAMLError) as error:
        reason = error.__cause__ or error  # the message of `datasets` itself does not give the cause
        raise ValueError(f"{path}: the data of {config} or the card are damaged or missing ({reason})") from error


def name_and_revision(path: str | PathLike) -> tuple[str, str | None]:
    """Name and revision for `datasets`. Folders have an absolute path, whose last part names the cache."""
    name, revision = (str(Path(path).resolve()), None) if Path(path).is_dir() else split_revision(str(path))
    check_name(name, repo_type="dataset")
    return name, revision


def read_columns(
    path: str | PathLike, config: str, split: str, columns: list[str], streaming: bool = False
) -> pa.Table:
    """
    Read some columns of a split of a configuration.

    Args:
        path: folder, `user/name` or `user/name@revision`.
        config, split, columns: names of the configuration, the split and the columns.
        streaming: read these columns of the files only, without downloading the dataset.
    """
    if not streaming:
        return load_table(path, config, split).select_columns(columns).with_format("arrow")[:]
    tables = []
    for url in data_files(path, config, split):
        with fsspec.open(url) as file:
            tables.append(pq.read_table(file, columns=columns))
    return pa.concat_tables(tables)


def data_files(path: str | PathLike, config: str, split: str = "train") -> list[str]:
    """Paths or URLs of the files of a split of a configuration."""
    name, revision = name_and_revision(path)
    return list(datasets.load_dataset_builder(name, config, revision=revision).config.data_files[split])


def config_names(path: str | PathLike) -> list[str]:
    """Return the configurations of an existing dataset."""
    name, revision = name_and_revision(path)
    return datasets.get_dataset_config_names(name, revision=revision)


def has_records(path: str | PathLike) -> bool:
    """Return whether an existing dataset has records. A text-only dataset has none."""
    return RECORDS in config_names(path)


def _builder(name: str, revision: str | None, config: str, split: str | None = None) -> DatasetBuilder:
    """
    The builder of a configuration, which has the names of the other ones: the card and the folder are read once, where
    `load_dataset` after a check of the names reads them three times.
    """
    with suppress(ValueError, EmptyDatasetError, DataFilesNotFoundError):
        builder = datasets.load_dataset_builder(name, config, revision=revision)
        if _is_ours(builder.builder_configs) and (split is None or split in _splits(builder)):
            return builder
    _check_has(name, revision, config, split)  # says what there is
    return datasets.load_dataset_builder(name, config, revision=revision)


def _read(builder: DatasetBuilder, split: str, streaming: bool) -> Dataset | IterableDataset:
    try:
        if streaming:
            return builder.as_streaming_dataset(split)
        builder.download_and_prepare()
        return builder.as_dataset(split)
    except ValueError as error:  # of files that are missing or cannot be read
        raise DatasetGenerationError(str(error)) from error


def _splits(builder: DatasetBuilder) -> Iterable[str]:
    return builder.info.splits or builder.config.data_files


def _is_ours(configs: Iterable[str]) -> bool:
    return not {RECORDS, fold_config(1), OFFICIAL}.isdisjoint(configs)


def _check_has(name: str, revision: str | None, config: str, split: str | None = None) -> None:
    try:
        configs = datasets.get_dataset_config_names(name, revision=revision)
    except (EmptyDatasetError, DataFilesNotFoundError):
        configs = []
    if not _is_ours(configs):
        raise ValueError(f"{name}: not an elm-hf dataset (no configuration `{RECORDS}`; found {_listed(configs)})")
    if config not in configs:
        folds = [config for config in configs if config not in (RECORDS, PATIENTS)]
        if config == RECORDS:
            raise ValueError(f"{name}: is a text-only dataset, so there are no ECGs to load")
        raise ValueError(f"{name}: no {config!r}; available: {_listed(folds)}")
    splits = datasets.get_dataset_split_names(name, config, revision=revision)
    if split is not None and split not in splits:
        raise ValueError(
            f"{name}: {config} has no split {split!r}; available: {_listed(splits)}{_remedy(split, configs)}"
        )


def _remedy(split: str, configs: list[str]) -> str:
    """How to get a validation split in a fold of a dataset that was built by an earlier version."""
    if split != "validation" or PATIENTS in configs:
        return ""
    return (
        ". Earlier versions of elm-hf made no validation splits; build the dataset again (elm-hf prepare NAME with the "
        "options on its card and --overwrite), first the dataset with its records, if that is another one"
    )


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"
