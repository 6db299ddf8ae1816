"""Building a dataset in the Hub layout: records of ECGs, conversations about them, five folds, a card and a report."""

import csv
import json
import math
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from os import PathLike
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features, List, Value
from datasets.exceptions import DatasetGenerationError

from elm_hf.data import load_records
from elm_hf.dataset_builder import OFFICIAL_SPLITS, SHARD_SIZE, ElmDatasetBuilder, find_builder
from elm_hf.dataset_card import write_card
from elm_hf.folds import make_folds
from elm_hf.modeling.ecg_utils import SAMPLING_RATE


REPORT_NAME = "build_report.json"
_RECORD_KEYS = ["record_id", "recording_id", "patient_id", "source", "segment", "sampling_rate", "missing_leads"]
_VERSIONS = ("elm-hf", "datasets", "numpy", "scipy", "scikit-learn", "wfdb")


def prepare_dataset(
    name: str,
    output: str | PathLike,
    source: str | PathLike | None = None,
    records: str | PathLike | None = None,
    seconds: float = 10,
    sampling_rate: int = SAMPLING_RATE,
    num_recordings: int | None = None,
    num_proc: int = 1,
    max_skipped: float = 0.05,
    seed: int = 0,
    num_folds: int = 5,
    overwrite: bool = False,
) -> dict:
    """
    Build a dataset in the Hub layout: `records`, `fold1` ... `fold5`, `official` where the source has a split, a card,
    `build_report.json` and `skipped.csv`. The result does not depend on `num_proc`.

    It is built beside `output` and renamed when complete, so that an error leaves nothing behind.

    Args:
        name: of a script in `elm_hf.dataset_scripts`.
        output: folder to make.
        source: folder of the source as downloaded.
        records: an elm-hf dataset (folder or Hub name) whose ECGs the conversations are about; the ECGs that they refer
            to are copied, and `seconds`, `sampling_rate` and `num_recordings` are of no consequence.
        seconds, sampling_rate: length (s) and rate (Hz) of the records.
        num_recordings: the first so many recordings only; for simulated datasets, how many there are.
        num_proc: processes that read recordings.
        max_skipped: share of recordings that may be skipped because they cannot be used.
        seed: of the folds and of what is simulated.
        num_folds: 5, or 0 for none (then only `official`).
        overwrite: replace an earlier build in `output`.

    Returns:
        The build report, as in `build_report.json`.

    Raises:
        ValueError: unknown name; too many recordings skipped; nothing to build; fewer patients than folds.
        FileNotFoundError: the source, or part of it, is missing.
        FileExistsError: `output` is there and not empty.
    """
    options = {"source": source and str(source), "seconds": seconds, "sampling_rate": sampling_rate}
    options |= {"num_recordings": num_recordings, "seed": seed}
    builder_class = find_builder(name)
    with _built_beside(Path(output), overwrite) as work:
        # conversations first: what is wrong with a source comes out before its signals are read
        builder = builder_class(cache_dir=str(work / "cache"), config_name="conversations", **options)
        _download_and_prepare(builder, work / "conversations", file_format="arrow")
        if not builder.info.splits["conversations"].num_examples:
            raise ValueError(f"{name}: no conversations in {source}")
        conversations = builder.as_dataset(split="conversations")
        if records is None:
            builder = builder_class(cache_dir=str(work / "cache"), config_name="records", **options)
            _download_and_prepare(builder, work / "records", file_format="parquet", num_proc=num_proc)
        else:
            _copy_records(load_records(records), conversations, work / "records")
        skipped = _read_skipped(work / "records")
        keys = _publish_records(work)
        _check_skipped(name, skipped, keys, max_skipped)
        conversations, left_out = _find_ecgs(conversations, keys)
        splits, split_report = _split(conversations, keys["source"], num_folds, seed)
        _write_splits(conversations, splits, work / "build")
        report = {
            "dataset": name,
            "options": {
                "num_recordings": num_recordings,
                "max_skipped": max_skipped,
                "num_folds": num_folds,
                "seed": seed,
            },
            "records": _records_report(keys, skipped, work / "build" / "records"),
            "conversations": {"built": len(conversations), "left_out": left_out},
            "splits": split_report,
            "versions": {package: version(package) for package in _VERSIONS},
        }
        _write_report(work / "build", report, skipped)
        write_card(work / "build", Path(output).name, report, sorted({name, *keys["source"]}), conversations[0])
    return report


def build_summary(report: dict) -> str:
    """The build report in one line."""
    records, conversations = report["records"], report["conversations"]
    skipped, left_out = sum(records["skipped"].values()), sum(conversations["left_out"].values())
    across = sum(split.get("left_out", 0) for split in report["splits"].values())
    return (
        f"{records['records']:,} ECGs of {records['patients']:,} patients ({skipped} recordings skipped), "
        f"{conversations['built']:,} conversations ({left_out} left out), splits {', '.join(report['splits'])} "
        f"({across} comparisons cut by a fold)"
    )


@contextmanager
def _built_beside(output: Path, overwrite: bool) -> Iterator[Path]:
    """A working folder beside `output`; its folder `build` becomes `output` unless an error comes first."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        if not overwrite:
            raise FileExistsError(f"{output}: exists; name another output, or replace it with overwrite (--overwrite)")
        if not (output / REPORT_NAME).is_file():
            raise FileExistsError(f"{output}: not built by elm-hf (no {REPORT_NAME}), so it is not overwritten")
    output.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        (work / "build").mkdir()
        yield work
        if output.exists():
            output.rename(work / "replaced")
        (work / "build").rename(output)
    finally:
        shutil.rmtree(work)


def _download_and_prepare(builder: ElmDatasetBuilder, folder: Path, **kwargs) -> None:
    try:
        builder.download_and_prepare(str(folder), **kwargs)
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, ValueError | OSError):  # what is wrong with the source, in words for its user
            raise error.__cause__ from None
        raise


def _copy_records(records: Dataset, conversations: Dataset, folder: Path) -> None:
    """Copy the records that the conversations refer to."""
    wanted = {name for names in conversations.select_columns("recording_ids")[:]["recording_ids"] for name in names}
    names = records.select_columns("recording_id")[:]["recording_id"]
    found = [row for row, name in enumerate(names) if name in wanted]
    if not found:
        raise ValueError(
            f"none of the {len(wanted)} ECGs asked about (such as {min(wanted)}) is among the {len(names)} records (such as "
            f"{names[0]}); are these records of the dataset that the conversations are about?"
        )
    for number, start in enumerate(range(0, len(found), SHARD_SIZE)):
        with _without_bars():
            _rows(records, found[start : start + SHARD_SIZE]).to_parquet(_new_path(folder / f"{number:05d}.parquet"))


def _read_skipped(folder: Path) -> list[tuple[str, str, str]]:
    """(recording_id, reason, message) of the recordings that were skipped, in the order of the source."""
    return [row for path in sorted(folder.glob("skipped-*.json")) for row in json.loads(path.read_text())]


def _publish_records(work: Path) -> dict[str, list]:
    """Move the record files to where they are published; returns the columns that conversations are matched by."""
    paths = sorted((work / "records").glob("*.parquet"))
    published = [work / "build" / "records" / _file_name("train", n, len(paths)) for n in range(len(paths))]
    for path, new_path in zip(paths, published):
        path.rename(_new_path(new_path))
    return pa.concat_tables(pq.read_table(path, columns=_RECORD_KEYS) for path in published).to_pydict()


def _check_skipped(name: str, skipped: list, keys: dict, max_skipped: float) -> None:
    num_used, num_skipped = len(set(keys["recording_id"])), len(skipped)
    share = num_skipped / (num_used + num_skipped)
    if num_used and share <= max_skipped:
        return
    reasons = Counter(reason for _, reason, _ in skipped)
    allowed = f"allow it with max_skipped (--max-skipped) {math.ceil(100 * share) / 100:g}"
    remedy = allowed if num_used else "nothing is left to build"
    raise ValueError(
        f"{name}: {num_skipped} of {num_used + num_skipped} recordings cannot be used, over the limit of {max_skipped:g}: "
        f"{_counts(reasons)}; the first is {skipped[0][2]}; {remedy}"
    )


def _find_ecgs(conversations: Dataset, keys: dict) -> tuple[Dataset, dict[str, int]]:
    """
    The conversations with the rows of their ECGs in the records, once for each segment that all their ECGs have; and
    how many were left out for which reason.
    """
    rows_of = defaultdict(dict)
    for row, (recording_id, segment) in enumerate(zip(keys["recording_id"], keys["segment"])):
        if rows_of[recording_id].setdefault(segment, row) != row:
            raise ValueError(f"recording {recording_id!r} is in the records more than once")
    left_out, picked, ecg_index = Counter(), [], []
    columns = conversations.select_columns(["recording_ids", "answer"])[:]
    for number, (recording_ids, answer) in enumerate(zip(columns["recording_ids"], columns["answer"])):
        segments_of = [rows_of.get(recording_id, {}) for recording_id in recording_ids]
        common = sorted(set.intersection(*map(set, segments_of)))
        if not all(segments_of):
            left_out["ECG not among the records"] += 1
        elif not common:
            left_out["no segment that all its ECGs have"] += 1
        elif not answer:
            left_out["no answer"] += 1
        else:
            picked += [number] * len(common)
            ecg_index += [[rows[segment] for rows in segments_of] for segment in common]
    if not picked:
        raise ValueError(f"none of the {len(conversations)} conversations can be used: {_counts(left_out)}")
    return _with_ecgs(_rows(conversations, picked), ecg_index, keys), dict(left_out)


def _with_ecgs(conversations: Dataset, ecg_index: list[list[int]], keys: dict) -> Dataset:
    """The conversations with the columns that say which ECGs they are about; the segment is made part of their names."""
    names = conversations.select_columns("conversation_id")[:]["conversation_id"]
    columns = {
        "conversation_id": [f"{name}-{keys['segment'][rows[0]]}" for name, rows in zip(names, ecg_index)],
        "ecg_index": ecg_index,
        "record_ids": [[keys["record_id"][row] for row in rows] for rows in ecg_index],
        "patient_ids": [[keys["patient_id"][row] for row in rows] for rows in ecg_index],
    }
    repeated = [name for name, count in Counter(columns["conversation_id"]).items() if count > 1]
    if repeated:
        raise ValueError(f"conversation {repeated[0]!r} is in the source more than once")
    text = Value("string")
    features = {
        "conversation_id": text,
        "ecg_index": List(Value("int64")),
        "record_ids": List(text),
        "patient_ids": List(text),
    }
    added = Dataset.from_dict(columns, Features(features))
    kept = conversations.remove_columns(["conversation_id", "recording_ids"])
    return datasets.concatenate_datasets([added, kept], axis=1)


def _split(conversations: Dataset, sources: list[str], num_folds: int, seed: int) -> tuple[dict, dict]:
    """The rows of each split of `official` and of each fold, and what the build report says of them."""
    columns = conversations.select_columns(["ecg_index", "patient_ids", "stratum", "split"])[:]
    patients = [
        sorted({(sources[row], patient) for row, patient in zip(rows, ids)})
        for rows, ids in zip(columns["ecg_index"], columns["patient_ids"])
    ]
    splits, report = {}, {}
    official = {split: [n for n, of in enumerate(columns["split"]) if of == split] for split in OFFICIAL_SPLITS}
    official = {split: rows for split, rows in official.items() if rows}
    if official:
        owners = Counter(
            owner for rows in official.values() for owner in {key for row in rows for key in patients[row]}
        )
        splits["official"] = official
        report["official"] = {split: len(rows) for split, rows in official.items()}
        report["official"]["patients_in_several_splits"] = sum(count > 1 for count in owners.values())
    elif num_folds == 0:
        raise ValueError("num_folds (--num-folds) 0 leaves no split at all: the source has no official one")
    for number, fold in enumerate(make_folds(patients, columns["stratum"], num_folds, seed) if num_folds else [], 1):
        splits[f"fold{number}"] = {"train": fold.train, "test": fold.test}
        report[f"fold{number}"] = {
            "train": len(fold.train),
            "test": len(fold.test),
            "left_out": fold.num_left_out,
            "test_patients": len(fold.test_patients),
        }
    return splits, report


def _write_splits(conversations: Dataset, splits: dict[str, dict], folder: Path) -> None:
    """Write every split that has rows: `datasets` cannot load one without, as a test of two compared patients may be."""
    conversations = conversations.remove_columns("split")
    tasks = [
        (config, split, rows) for config, indices in splits.items() for split, rows in indices.items() if len(rows)
    ]
    with datasets.utils.tqdm(tasks, desc="Writing splits", unit="files") as bar, _without_bars():
        for config, split, rows in bar:
            _rows(conversations, rows).to_parquet(_new_path(folder / config / _file_name(split, 0, 1)))


def _rows(dataset: Dataset, rows: Sequence[int]) -> Dataset:
    """These rows, in memory; `select` would gather them one by one when written, at a third of a millisecond each."""
    return Dataset(dataset.data.table.take(pa.array(rows, pa.int64())))


@contextmanager
def _without_bars() -> Iterator[None]:
    """Hides the bars that `datasets` shows for each file."""
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def _records_report(keys: dict, skipped: list, folder: Path) -> dict:
    features = Features.from_arrow_schema(pq.read_schema(next(folder.glob("*.parquet"))))
    return {
        "sampling_rate": keys["sampling_rate"][0],
        "samples": features["ecg"].shape[1],
        "recordings": len(set(keys["recording_id"])),
        "skipped": dict(Counter(reason for _, reason, _ in skipped).most_common()),
        "records": len(keys["record_id"]),
        "records_with_missing_leads": sum(bool(leads) for leads in keys["missing_leads"]),
        "patients": len(set(zip(keys["source"], keys["patient_id"]))),
    }


def _write_report(folder: Path, report: dict, skipped: list) -> None:
    (folder / REPORT_NAME).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    with (folder / "skipped.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("recording_id", "reason", "message"), *skipped])


def _counts(counter: Counter) -> str:
    return ", ".join(f"{reason} ({count})" for reason, count in counter.most_common(3))


def _file_name(split: str, number: int, of: int) -> str:
    return f"{split}-{number:05d}-of-{of:05d}.parquet"


def _new_path(path: Path) -> Path:
    """The path, its folder made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
