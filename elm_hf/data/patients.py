"""The patients of the splits of datasets, and the check that no training patient is held out by another dataset."""

from collections.abc import Sequence
from itertools import permutations
from os import PathLike

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from elm_hf.data.columns import PATIENT_FEATURES
from elm_hf.data.layout import PATIENTS, RECORDS, fold_config
from elm_hf.data.tables import config_names, read_columns, split_names


def record_patients(records: Dataset | pa.Table) -> pa.Array:
    """
    Return the patient of each record as `source/patient_id`, which identifies a patient across datasets.

    Args:
        records: table of records with the columns `source` and `patient_id`.
    """
    if isinstance(records, Dataset):
        records = records.select_columns(["source", "patient_id"]).with_format("arrow")[:]
    columns = (records[name].cast(pa.string()) for name in ("source", "patient_id"))
    names = pc.binary_join_element_wise(*columns, "/")
    return names.combine_chunks() if isinstance(names, pa.ChunkedArray) else names


def patients_of_splits(dataset: str | PathLike, fold: int | str, streaming: bool = False) -> dict[str, set[str]]:
    """
    Return the patients of each split of a fold as `source/patient_id`. Conversations without ECGs have none.

    The validation and test patients of a fold include those without conversations in it, because other datasets about
    the same records may have some.

    Args:
        dataset: folder or Hub name of an elm-hf dataset.
        fold: 1 to 5 or `"official"`.
        streaming: read the columns from where the dataset is, without downloading it.

    Raises:
        FileNotFoundError: there is no such folder or dataset.
        ValueError: the dataset is not an elm-hf dataset, or has no such fold.
    """
    configs = config_names(dataset)
    if not set(configs) - {RECORDS, PATIENTS} and PATIENTS in configs and str(fold).isdecimal():
        return _without_conversations(dataset, int(fold), streaming)
    names = split_names(dataset, fold)
    if RECORDS not in configs:
        return {split: set() for split in names}
    patients = record_patients(read_columns(dataset, RECORDS, "train", ["source", "patient_id"], streaming))
    found = {}
    for split in names:
        ecg_index = read_columns(dataset, fold_config(fold), split, ["ecg_index"], streaming)["ecg_index"]
        rows = np.unique(pc.list_flatten(ecg_index).to_numpy())
        found[split] = set(patients.take(pa.array(rows)).to_pylist())
    if str(fold).isdecimal() and PATIENTS in configs:
        table = read_columns(dataset, PATIENTS, "train", list(PATIENT_FEATURES), streaming)
        for split in ("validation", "test"):
            rows = pc.fill_null(pc.equal(table[f"{split}_fold"], int(fold)), False)
            found[split] = found.get(split, set()) | set(record_patients(table.filter(rows)).to_pylist())
    return found


def _without_conversations(dataset: str | PathLike, fold: int, streaming: bool) -> dict[str, set[str]]:
    """The patients of the splits of a dataset that has records and folds, but no conversations."""
    table = read_columns(dataset, PATIENTS, "train", list(PATIENT_FEATURES), streaming)
    number = pc.max(table["test_fold"]).as_py()
    if not 1 <= fold <= number:
        raise ValueError(f"{dataset}: no fold {fold}; available: 1 to {number}")
    patients = np.array(record_patients(table).to_pylist(), dtype=object)
    held_out = {
        split: pc.fill_null(pc.equal(table[f"{split}_fold"], fold), False).to_numpy()
        for split in ("validation", "test")
    }
    sides = {"train": ~(held_out["validation"] | held_out["test"]), **held_out}
    return {split: set(patients[rows].tolist()) for split, rows in sides.items()}


def split_of_patients(dataset: str | PathLike, fold: int | str) -> dict[str, str]:
    """
    Return the split of each patient of a fold, by `source/patient_id`. A patient in several splits counts as held out.

    Patients without conversations are training patients if the dataset's table of patients does not hold them out.
    Of an official split it is not known which one they belong to, and they are left out.

    Args:
        dataset: folder or Hub name of an elm-hf dataset.
        fold: 1 to 5 or `"official"`.

    Raises:
        FileNotFoundError, ValueError: as in [`patients_of_splits`].
    """
    splits = patients_of_splits(dataset, fold)
    training = splits.pop("train", set())
    if str(fold).isdecimal() and PATIENTS in config_names(dataset):
        table = read_columns(dataset, PATIENTS, "train", ["source", "patient_id"])
        training = training | set(record_patients(table).to_pylist())
    held_out = {patient: split for split, patients in splits.items() for patient in patients}
    return dict.fromkeys(training, "train") | held_out


def patients_of(dataset: str | PathLike, fold: int | str, held_out: bool) -> set[str]:
    """
    Return the patients of the training split of a fold, or of its other splits, as `source/patient_id`.

    Args:
        dataset: folder or Hub name of an elm-hf dataset.
        fold: 1 to 5 or `"official"`.
        held_out: return the patients of the splits other than `train`.

    Raises:
        ValueError: a patient is in `train` and in another split.
    """
    splits = patients_of_splits(dataset, fold)
    training, others = splits.get("train", set()), _held_out(splits)
    both = training & others
    if both:
        raise ValueError(
            f"{dataset}: {len(both)} patients of fold {fold} are in train and in another split, such as {min(both)}; "
            "use a fold with disjoint patients"
        )
    return others if held_out else training


def check_disjoint(datasets: Sequence[str | PathLike], fold: int | str, streaming: bool = False) -> None:
    """
    Check that no training patient of a dataset is a validation or test patient of another one in the same fold.

    Args:
        datasets: folders or Hub names of elm-hf datasets.
        fold, streaming: as in [`patients_of_splits`].

    Raises:
        ValueError: there are such patients. The message has their number.
    """
    names = list(dict.fromkeys(map(str, datasets)))
    if len(names) < 2:
        return
    splits = {name: patients_of_splits(name, fold, streaming) for name in names}
    for name, other in permutations(names, 2):
        held_out = _held_out(splits[other])
        both = splits[name].get("train", set()) & held_out
        if both:
            raise ValueError(
                f"{len(both)} training patients of {name} are among the {len(held_out)} validation and test patients "
                f"of {other} in fold {fold}, such as {min(both)}; use datasets with the same folds (build the "
                "conversations with elm-hf prepare ... --records FOLDER, which takes over the folds of the records; "
                "official splits may differ), or only one of these datasets"
            )


def _held_out(splits: dict[str, set[str]]) -> set[str]:
    return set().union(*(patients for split, patients in splits.items() if split != "train"))
