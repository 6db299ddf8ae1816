"""Building a dataset in the Hub layout: records of ECGs, conversations about them, five folds, a card and a report."""

import csv
import json
import math
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features
from datasets.exceptions import DatasetGenerationError

from elm_hf.conversations import find_ecgs, read_left_out, split_conversations, take_rows
from elm_hf.data import check_same_shape, load_records
from elm_hf.dataset_builder import ElmDatasetBuilder, find_builder
from elm_hf.dataset_card import write_card
from elm_hf.modeling.ecg_utils import SAMPLING_RATE
from elm_hf.records import VERSIONS, RecordFiles, build_records, file_name, new_path, plan_records
from elm_hf.work_folder import (
    REPORT_NAME,
    begin,
    check_output,
    clear,
    clear_all_but_records,
    publish,
    was_published,
    work_folder,
)


_RECORD_KEYS = ["record_id", "recording_id", "patient_id", "source", "segment", "sampling_rate", "missing_leads"]


def prepare_dataset(
    name: str,
    output: str | PathLike,
    source: str | PathLike | None = None,
    records: str | PathLike | Sequence[str | PathLike] | None = None,
    seconds: float = 10,
    sampling_rate: int = SAMPLING_RATE,
    num_recordings: int | None = None,
    num_proc: int = 1,
    max_skipped: float = 0.05,
    seed: int = 0,
    num_folds: int = 5,
    one_patient_per_file: bool = False,
    overwrite: bool = False,
    merge: bool = False,
) -> dict:
    """
    Build a dataset in the Hub layout: `records`, `fold1` ... `fold5`, `official` where the source has a split, a card,
    `build_report.json` and `skipped.csv`. The result does not depend on `num_proc`.

    It grows in a working folder, `OUTPUT.building`, and is renamed when complete. A build that is interrupted leaves that
    folder: the same call goes on with it and makes the same dataset, byte for byte.

    Args:
        name: of a script in `elm_hf.dataset_scripts`.
        output: folder to make.
        source: folder of the source as downloaded.
        records: elm-hf datasets (folders or Hub names; one or several) whose ECGs the conversations are about; the ECGs
            that they refer to are copied, and `seconds`, `sampling_rate` and `num_recordings` are of no consequence.
        seconds, sampling_rate: length (s) and rate (Hz) of the records.
        num_recordings: the first so many recordings only; for simulated datasets, how many there are.
        num_proc: processes that read recordings.
        max_skipped: share of recordings that may be skipped because they cannot be used.
        seed: of the folds and of what is simulated.
        num_folds: 5, or 0 for none (then only `official`).
        one_patient_per_file: for `ecgfolder`, where no patient ids are known: no two files are of one patient.
        overwrite: replace an earlier build in `output`, or an unfinished one of other options.
        merge: read no recordings, but join what `prepare_shard` made of all shards.

    Returns:
        The build report, as in `build_report.json`.

    Raises:
        ValueError: unknown name; too many recordings skipped; nothing to build; fewer patients than folds; an
            unfinished build of other options; shards are missing.
        FileNotFoundError: the source, or part of it, is missing.
        FileExistsError: `output` is there and not empty.
        BlockingIOError: another process is building the same.
    """
    output = Path(output).absolute()
    options = _options(source, seconds, sampling_rate, num_recordings, seed, one_patient_per_file)
    with _builder(name, options) as builder:
        if not builder.HAS_ECGS and records is not None:
            raise ValueError(f"{name} is about no ECGs: leave records (--records) away")
        reads_ecgs = builder.HAS_ECGS and records is None
        if merge and not reads_ecgs:
            raise ValueError(f"{name} reads no recordings here, so there are no shards to merge (--merge)")
        plan = _plan(builder, options) if reads_ecgs else {"dataset": name, "records": str(records)}
        with work_folder(output) as work, _tidied(work, keep=reads_ecgs):
            if reads_ecgs and was_published(work, plan, output):
                return json.loads((output / REPORT_NAME).read_text(encoding="utf-8"))
            check_output(output, overwrite)
            build_id = begin(work, plan, overwrite, alone=not merge)
            if reads_ecgs:
                files = RecordFiles(work, plan["recordings"], build_id)
                if merge:
                    files.check_complete()
            # conversations first: what is wrong with a source comes out before its signals are read
            conversations, unusable = _list_conversations(builder, work / "conversations")
            if reads_ecgs:
                build_records(builder, files, range(files.count), num_proc)
            else:
                clear(work / "build")  # to copy takes little time
                files = _copy_records(records, conversations, work, build_id)
            clear_all_but_records(work)
            settings = {
                "num_recordings": num_recordings,
                "max_skipped": max_skipped,
                "num_folds": num_folds,
                "seed": seed,
            }
            report = _finish(name, output.name, files, conversations, unusable, settings)
            publish(work, output)
    return report


def prepare_shard(
    name: str,
    output: str | PathLike,
    shard: int,
    num_shards: int,
    source: str | PathLike | None = None,
    seconds: float = 10,
    sampling_rate: int = SAMPLING_RATE,
    num_recordings: int | None = None,
    num_proc: int = 1,
    seed: int = 0,
    one_patient_per_file: bool = False,
) -> dict:
    """
    Read the recordings of one shard of a dataset, for `prepare_dataset(..., merge=True)` to join with the others.

    The record files lie in `OUTPUT.building`. Several shards may be built there at once; folders of machines that do not
    share one are copied together. Shard k has the files k - 1, k - 1 + num_shards, ...: which recordings are in a file
    does not depend on `num_shards`.

    Args:
        name, output, source, seconds, sampling_rate, num_recordings, num_proc, seed, one_patient_per_file: as of
            `prepare_dataset`, and the same for every shard.
        shard: from 1 to `num_shards`.
        num_shards: into how many the dataset is divided.

    Returns:
        `files`, how many the shard has, and `built`, how many of them were not there yet.

    Raises:
        ValueError: no such shard; nothing to build; the folder holds an unfinished build of other options.
        FileNotFoundError: the source, or part of it, is missing.
        FileExistsError: `output` is there and not empty.
        BlockingIOError: another process is building the same shard.
    """
    if not 1 <= shard <= num_shards:
        raise ValueError(f"there is no shard (--shard) {shard}/{num_shards}; shards count from 1/{num_shards}")
    output = Path(output).absolute()
    check_output(output, overwrite=False)
    options = _options(source, seconds, sampling_rate, num_recordings, seed, one_patient_per_file)
    with _builder(name, options) as builder:
        plan = _plan(builder, options)
        with work_folder(output, f"shard-{shard}-of-{num_shards}") as work:
            build_id = begin(work, plan, alone=False)
            files = RecordFiles(work, plan["recordings"], build_id, num_shards)
            numbers = range(shard - 1, files.count, num_shards)
            return {"files": len(numbers), "built": build_records(builder, files, numbers, num_proc)}


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


def _options(
    source: str | PathLike | None,
    seconds: float,
    sampling_rate: int,
    num_recordings: int | None,
    seed: int,
    one_patient_per_file: bool,
) -> dict:
    return {
        "source": source and str(source),
        "seconds": float(seconds),
        "sampling_rate": sampling_rate,
        "num_recordings": num_recordings,
        "seed": seed,
        "one_patient_per_file": one_patient_per_file,
    }


@contextmanager
def _builder(name: str, options: dict) -> Iterator[ElmDatasetBuilder]:
    with TemporaryDirectory() as cache:
        yield find_builder(name)(cache_dir=cache, config_name="conversations", **options)


def _plan(builder: ElmDatasetBuilder, options: dict) -> dict:
    """What record files depend on; not on where the source lies, which may differ between machines."""
    return {"dataset": builder.name} | {**options, "source": None} | plan_records(builder)


@contextmanager
def _tidied(work: Path, keep: bool) -> Iterator[None]:
    """Remove the working folder after an error, unless it has record files or shards that the next attempt can keep."""
    try:
        yield
    except BaseException:
        if not (keep and (any(work.glob("build/records/*.parquet")) or any(work.glob("shard-*")))):
            shutil.rmtree(work)
        raise


def _list_conversations(builder: ElmDatasetBuilder, folder: Path) -> tuple[Dataset, list[tuple[str, str]]]:
    """The conversations of the source, and (reason, message) of its entries that are none."""
    try:
        builder.download_and_prepare(str(folder), file_format="arrow", download_mode="force_redownload")
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, ValueError | OSError):  # what is wrong with the source, in words for its user
            raise error.__cause__ from None
        raise
    unusable = read_left_out(folder)
    if not builder.info.splits["conversations"].num_examples:
        raise ValueError(f"{builder.name}: no conversations in {builder.config.source}{_first_left_out(unusable)}")
    return builder.as_dataset(split="conversations"), unusable


def _copy_records(
    paths: str | PathLike | Sequence[str | PathLike] | None, conversations: Dataset, work: Path, build_id: str
) -> RecordFiles:
    """Copy the records that the conversations refer to."""
    if paths is None:
        return RecordFiles(work, 0, build_id)
    paths = [paths] if isinstance(paths, str | PathLike) else list(paths)
    tables = [load_records(path) for path in paths]
    check_same_shape(paths, tables)
    records = datasets.concatenate_datasets(tables)
    asked = conversations.select_columns(["recording_sources", "recording_ids"])[:]
    wanted = {key for row in zip(*asked.values(), strict=True) for key in zip(*row, strict=True)}
    names = records.select_columns(["source", "recording_id"])[:]
    names = list(zip(names["source"], names["recording_id"], strict=True))
    found = [row for row, name in enumerate(names) if name in wanted]
    if not found:
        raise ValueError(
            f"none of the {len(wanted)} ECGs asked about (such as {' '.join(min(wanted))}) is among the {len(names)} "
            f"records (such as {' '.join(names[0])}); are these records of the dataset that the conversations are about?"
        )
    files = RecordFiles(work, len(found), build_id)
    with datasets.utils.tqdm(range(files.count), desc="Copying records", unit=" files") as bar, _without_bars():
        for number in bar:
            files.copy(number, records.select(found[files.rows(number)]))
    return files


def _finish(
    name: str, title: str, files: RecordFiles, conversations: Dataset, unusable: list[tuple[str, str]], settings: dict
) -> dict:
    """Everything but the records: splits, report, lists of what was left out, card. Returns the report."""
    build = files.work / "build"
    skipped = files.skipped()
    keys = _read_keys(build / "records")
    _check_skipped(name, skipped, keys, settings["max_skipped"], files.work)
    listed, (conversations, left_out) = len(conversations), find_ecgs(conversations, keys)
    left_out.update(reason for reason, _ in unusable)
    if not len(conversations):
        raise ValueError(
            f"none of the {listed + len(unusable)} conversations can be used: {_counts(left_out)}"
            f"{_first_left_out(unusable)}"
        )
    splits, split_report = split_conversations(conversations, keys["source"], settings["num_folds"], settings["seed"])
    _write_splits(conversations, splits, build)
    report = {
        "dataset": name,
        "options": settings,
        "records": _records_report(keys, skipped, build / "records"),
        "conversations": {"built": len(conversations), "left_out": dict(left_out)},
        "splits": split_report,
        "versions": {package: version(package) for package in VERSIONS},
    }
    _write_report(build, report, skipped, unusable)
    write_card(build, title, report, sorted({name, *keys["source"]}), conversations[0])
    return report


def _read_keys(folder: Path) -> dict[str, list]:
    """The columns of the records that conversations are matched by."""
    paths = sorted(folder.glob("*.parquet"))
    if not paths:
        return {column: [] for column in _RECORD_KEYS}
    return pa.concat_tables(pq.read_table(path, columns=_RECORD_KEYS) for path in paths).to_pydict()


def _check_skipped(name: str, skipped: list, keys: dict, max_skipped: float, work: Path) -> None:
    num_used, num_skipped = len(set(keys["recording_id"])), len(skipped)
    share = num_skipped / max(num_used + num_skipped, 1)
    if not num_skipped or (num_used and share <= max_skipped):
        return
    reasons = Counter(reason for _, reason, _ in skipped)
    allowed = f"allow it with max_skipped (--max-skipped) {math.ceil(100 * share) / 100:g}"
    remedy = f"{allowed}, or mend the source and delete {work}, where the others are kept"
    if not num_used:
        shutil.rmtree(work / "build" / "records")
        remedy = "nothing is left to build"
    raise ValueError(
        f"{name}: {num_skipped} of {num_used + num_skipped} recordings cannot be used, over the limit of {max_skipped:g}: "
        f"{_counts(reasons)}; the first is {skipped[0][2]}; {remedy}"
    )


def _write_splits(conversations: Dataset, splits: dict[str, dict], folder: Path) -> None:
    """Write every split that has rows: `datasets` cannot load one without, as a test of two compared patients may be."""
    conversations = conversations.remove_columns("split")
    tasks = [
        (config, split, rows) for config, indices in splits.items() for split, rows in indices.items() if len(rows)
    ]
    with datasets.utils.tqdm(tasks, desc="Writing splits", unit="files") as bar, _without_bars():
        for config, split, rows in bar:
            take_rows(conversations, rows).to_parquet(new_path(folder / config / file_name(split, 0, 1)))


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
    shape = {}
    if keys["record_id"]:
        features = Features.from_arrow_schema(pq.read_schema(next(folder.glob("*.parquet"))))
        shape = {"sampling_rate": keys["sampling_rate"][0], "samples": features["ecg"].shape[1]}
    return shape | {
        "recordings": len(set(keys["recording_id"])),
        "skipped": dict(Counter(reason for _, reason, _ in skipped).most_common()),
        "records": len(keys["record_id"]),
        "records_with_missing_leads": sum(bool(leads) for leads in keys["missing_leads"]),
        "patients": len(set(zip(keys["source"], keys["patient_id"]))),
    }


def _write_report(folder: Path, report: dict, skipped: list, left_out: list) -> None:
    (folder / REPORT_NAME).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    with (folder / "skipped.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("recording_id", "reason", "message"), *skipped])
    with (folder / "left_out.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("reason", "message"), *left_out])


def _first_left_out(left_out: list[tuple[str, str]]) -> str:
    return f"; the first that is damaged: {left_out[0][1]}" if left_out else ""


def _counts(counter: Counter) -> str:
    return ", ".join(f"{reason} ({count})" for reason, count in counter.most_common(3))
