"""Data for training encoders: records with reports, classes or labels, without the test patients of a fold."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike

import datasets
import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from elm_hf.data.ecg_table import EcgTable
from elm_hf.data.label_tasks import LabelTasks, label_tasks
from elm_hf.data.layout import fold_config
from elm_hf.data.loading import check_same_shape
from elm_hf.data.patients import check_disjoint, patients_of, record_patients, split_of_patients
from elm_hf.data.seen_patients import Stage, stage_of
from elm_hf.data.tables import load_records, read_columns, split_names
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.modeling.feature_extraction_ecg import EcgFeatureExtractor
from elm_hf.training.augmentation import EcgAugmentation, sample_rng


MAX_REPORT_TOKENS = 256  # as in MERL (Liu et al. 2024)


@dataclass
class PretrainingRecords:
    """
    Records for pre-training.

    Columns are `row` (row number), `ecg` (array `(12, samples)` in millivolt, NaN where a lead is missing),
    `sampling_rate` in Hz, `is_training`, and the target, if there is one: `report`, or `label` (the number of the class;
    for `"labels"` an array with 0 or 1 for each class).

    Args:
        train: training records.
        validation: records of the fold's validation patients; None if there are none.
        classes: names of the classes; None unless classes or labels are the target.
        tasks: the tasks that the labels define; None unless they are the target.
        num_left_out: number of omitted records: those without the target or of several classes, those of the fold's test
            patients and of patients in no split, and those of another dataset's validation and test patients.
        stages: the training patients of each dataset.
    """

    train: Dataset
    validation: Dataset | None
    classes: list[str] | None
    tasks: LabelTasks | None
    num_left_out: int
    stages: list[Stage]


def load_pretraining_records(
    paths: Sequence[str | PathLike],
    fold: int | str | None = None,
    target: str | None = None,
    held_out_dataset: str | PathLike | None = None,
) -> PretrainingRecords:
    """
    Joins the records of several datasets, separates those of a fold's validation patients, and omits those of its test
    patients.

    Args:
        paths: folders or Hub names of elm-hf datasets.
        fold: 1 to 5 or `"official"`; None to train on all records.
        target: `"report"`, which also omits records that lack a lead, since contrastive encoders need all leads;
            `"class"`, the stratum of a record's conversations, which omits records with several or none; `"labels"`,
            the labels of a record; or None.
        held_out_dataset: another dataset whose test and validation patients in this fold are omitted as well, since
            its folds may differ from those of `paths`.

    Raises:
        FileNotFoundError: a dataset does not exist.
        ValueError: the fold does not exist, classes are requested without a fold, records differ in length or sampling
            rate, a training patient of one dataset is a validation or test patient of another, or no record is left to
            train on.
    """
    if target == "class" and fold is None:
        raise ValueError("Classes are the strata of a fold's conversations; name a fold (--fold).")
    tables = [load_records(path) for path in paths]
    if len(tables) > 1:
        check_same_shape(list(paths), tables)
    held_out_elsewhere = set()
    if held_out_dataset is not None:
        if fold is None:
            raise ValueError("--held_out_dataset omits the held-out patients of a fold; name the fold (--fold).")
        held_out_elsewhere = patients_of(held_out_dataset, fold, held_out=True)
    if fold is not None:
        check_disjoint(paths, fold)
    rows: dict[str, list[dict]] = {"train": [], "validation": []}
    num_left_out = start = 0
    stages = []
    for path, table in zip(paths, tables):
        split_of, class_of = _fold_of(path, fold, target)
        owners, trained = record_patients(table).to_pylist(), set()
        for row, (usable, owner) in enumerate(zip(_usable(table, target, class_of), owners)):
            split = "train" if fold is None else split_of.get(owner)
            usable &= split in rows and (split != "train" or owner not in held_out_elsewhere)
            num_left_out += not usable
            if usable:
                rows[split].append({"row": start + row, "class": class_of.get(row)})
            if usable and split == "train":
                trained.add(owner)
        stages.append(stage_of("pre-training", path, fold, trained))
        start += len(table)
    if not rows["train"]:
        raise ValueError(f"none of the {start} records can be used for training (target: {target}, fold: {fold})")
    records = datasets.concatenate_datasets(tables)
    tasks = label_tasks(_labels(records, [one["row"] for one in rows["train"]])) if target == "labels" else None
    classes = None if tasks is None else tasks.classes
    if target == "class":
        classes = sorted({one["class"] for one in rows["train"]})
    known = [one for one in rows["validation"] if target != "class" or one["class"] in classes]
    validation = Dataset.from_list(known) if known else None
    answers = classes if tasks is None else tasks
    return PretrainingRecords(
        Dataset.from_list(rows["train"]).with_transform(_AddEcg(records, target, answers, is_training=True)),
        validation and validation.with_transform(_AddEcg(records, target, answers, is_training=False)),
        classes,
        tasks,
        num_left_out,
        stages,
    )


class EcgPretrainingCollator:
    """
    Collates records into a batch for an encoder: ECGs of the model's length and their targets. Training records are
    cropped at a random place, validation records where the feature extractor crops them.

    Args:
        feature_extractor: feature extractor of the encoder.
        crop_seconds: length of the crops of training records. Defaults to that of the feature extractor; shorter ones
            are for encoders that read ECGs of any length.
        tokenizer: tokenizer of the text tower, if reports are the target.
        augmentation: random changes of training records.
        seed: random seed of cropping and augmentation, which depend only on the seed, the record and the `epoch` (see
            [`FollowEpoch`]).
    """

    def __init__(
        self,
        feature_extractor: EcgFeatureExtractor,
        tokenizer: PreTrainedTokenizerBase | None = None,
        augmentation: EcgAugmentation | None = None,
        seed: int = 0,
        crop_seconds: float | None = None,
    ):
        self.feature_extractor = feature_extractor
        self.training_extractor = feature_extractor
        if crop_seconds is not None:
            num_samples = round(crop_seconds * feature_extractor.sampling_rate)
            settings = feature_extractor.to_dict() | {"num_samples": num_samples}
            self.training_extractor = type(feature_extractor).from_dict(settings)
        self.tokenizer = tokenizer
        self.augmentation = augmentation
        self.seed = seed
        self.epoch = 0

    def __call__(self, rows: Sequence[dict]) -> dict[str, torch.Tensor]:
        """
        Args:
            rows: rows of [`PretrainingRecords`].

        Returns:
            The outputs of the feature extractor, and `labels`, `(rows,)` or for `"labels"` `(rows, classes)`, or the tokens
            of the reports.
        """
        ecgs = [self._changed(row) if row["is_training"] else row["ecg"] for row in rows]
        rates = [row["sampling_rate"] for row in rows]
        leads = [LEADS] * len(rows)
        extractor = self.training_extractor if rows[0]["is_training"] else self.feature_extractor
        batch = dict(extractor(ecgs, sampling_rate=rates, lead_names=leads, return_tensors="pt"))
        if "label" in rows[0]:
            batch["labels"] = torch.from_numpy(np.array([row["label"] for row in rows]))
        if self.tokenizer is not None:
            reports = [row["report"].lower() for row in rows]
            batch |= self.tokenizer(
                reports, padding=True, truncation=True, max_length=MAX_REPORT_TOKENS, return_tensors="pt"
            )
        return batch

    def _changed(self, row: dict) -> np.ndarray:
        ecg, rng = row["ecg"], sample_rng(self.seed, self.epoch, row["row"])
        seconds = self.training_extractor.num_samples / self.training_extractor.sampling_rate
        samples = round(seconds * row["sampling_rate"])
        start = rng.integers(max(ecg.shape[1] - samples, 0) + 1)
        ecg = ecg[:, start : start + samples]
        return ecg if self.augmentation is None else self.augmentation(ecg, row["sampling_rate"], rng)


class _AddEcg:
    """Adds ECGs and targets to a batch of row numbers."""

    def __init__(
        self, records: Dataset, target: str | None, answers: list[str] | LabelTasks | None, is_training: bool
    ):
        self.records = records
        self.ecgs = EcgTable(records)
        self.is_training = is_training
        self.target = target
        self.answers = answers
        self.sampling_rate = records[0]["sampling_rate"]

    def __call__(self, batch: dict) -> dict:
        joined = {
            "row": batch["row"],
            "ecg": [self.ecgs[row] for row in batch["row"]],
            "sampling_rate": [self.sampling_rate] * len(batch["row"]),
            "is_training": [self.is_training] * len(batch["row"]),
        }
        if self.target == "report":
            joined["report"] = [self.records.data.column("report")[row].as_py() for row in batch["row"]]
        if self.target == "class":
            joined["label"] = [self.answers.index(name) for name in batch["class"]]
        if self.target == "labels":
            joined["label"] = list(self.answers.targets(_labels(self.records, batch["row"])))
        return joined


def _labels(records: Dataset, rows: Sequence[int]) -> list[list[str]]:
    return records.data.column("labels").take(rows).to_pylist()


def _fold_of(
    path: str | PathLike, fold: int | str | None, target: str | None
) -> tuple[dict[str, str], dict[int, str]]:
    """The split of each patient of a fold, and, if classes are the target, the class of each row that has exactly one."""
    if fold is None:
        return {}, {}
    strata = defaultdict(set)
    for split in split_names(path, fold) if target == "class" else ():
        columns = read_columns(path, fold_config(fold), split, ["ecg_index", "stratum"]).to_pydict()
        for ecg_index, stratum in zip(columns["ecg_index"], columns["stratum"]):
            for row in ecg_index:
                strata[row].add(stratum)
    class_of = {row: next(iter(names)) for row, names in strata.items() if _is_one_class(names)}
    return split_of_patients(path, fold), class_of


def _is_one_class(strata: set[str]) -> bool:
    """Whether the strata are a single diagnostic superclass. "CD+MI" stands for two of them, "none" for none."""
    return len(strata) == 1 and not strata & {"none"} and "+" not in next(iter(strata))


def _usable(table: Dataset, target: str | None, class_of: dict[int, str]) -> list[bool]:
    if target == "class":
        return [row in class_of for row in range(len(table))]
    if target == "report":
        return [bool(report) and not missing for report, missing in zip(table["report"], table["missing_leads"])]
    return [True] * len(table)
