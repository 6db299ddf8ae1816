"""Building a dataset in the Hub layout: records of ECGs, conversations about them, five folds, a card and a report."""

import csv
import json
import math
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from os import PathLike
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features
from datasets.exceptions import DatasetGenerationError

from elm_hf.conversations import find_ecgs, read_left_out, split_conversations, take_rows
from elm_hf.data import check_same_shape, load_records
from elm_hf.dataset_builder import SHARD_SIZE, ElmDatasetBuilder, find_builder
from elm_hf.dataset_card import write_card
from elm_hf.modeling.ecg_utils import SAMPLING_RATE


REPORT_NAME = "build_report.json"
_RECORD_KEYS = ["record_id", "recording_id", "patient_id", "source", "segment", "sampling_rate", "missing_leads"]
_VERSIONS = ("elm-hf", "datasets", "numpy", "scipy", "scikit-learn", "wfdb")


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
) -> dict:
    """
    Build a dataset in the Hub layout: `records`, `fold1` ... `fold5`, `official` where the source has a split, a card,
    `build_report.json` and `skipped.csv`. The result does not depend on `num_proc`.

    It is built beside `output` and renamed when complete, so that an error leaves nothing behind.

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
        overwrite: replace an earlier build in `output`.

    Returns:
        The build report, as in `build_report.json`.

    Raises:
        ValueError: unknown name; too many recordings skipped; nothing to build; fewer patients than folds.
        FileNotFoundError: the source, or part of it, is missing.
        FileExistsError: `output` is there and not empty.
    """
    options = {"source": source and str(source), "seconds": seconds, "sampling_rate": sampling_rate}
    options |= {"num_recordings": num_recordings, "seed": seed, "one_patient_per_file": one_patient_per_file}
    builder_class = find_builder(name)
    with _built_beside(Path(output), overwrite) as work:
        # conversations first: what is wrong with a source comes out before its signals are read
        builder = builder_class(cache_dir=str(work / "cache"), config_name="conversations", **options)
        _download_and_prepare(builder, work / "conversations", file_format="arrow")
        unusable = read_left_out(work / "conversations")
        if not builder.info.splits["conversations"].num_examples:
            raise ValueError(f"{name}: no conversations in {source}{_first_left_out(unusable)}")
        conversations = builder.as_dataset(split="conversations")
        if records is None and builder_class.HAS_ECGS:
            builder = builder_class(cache_dir=str(work / "cache"), config_name="records", **options)
            _download_and_prepare(builder, work / "records", file_format="parquet", num_proc=num_proc)
        elif builder_class.HAS_ECGS:
            _copy_records(records, conversations, work / "records")
        elif records is not None:
            raise ValueError(f"{name} is about no ECGs: leave records (--records) away")
        skipped = _read_skipped(work / "records")
        keys = _publish_records(work)
        _check_skipped(name, skipped, keys, max_skipped)
        listed, (conversations, left_out) = len(conversations), find_ecgs(conversations, keys)
        left_out.update(reason for reason, _ in unusable)
        if not len(conversations):
            raise ValueError(
                f"none of the {listed + len(unusable)} conversations can be used: {_counts(left_out)}"
                f"{_first_left_out(unusable)}"
            )
        splits, split_report = split_conversations(conversations, keys["source"], num_folds, seed)
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
            "conversations": {"built": len(conversations), "left_out": dict(left_out)},
            "splits": split_report,
            "versions": {package: version(package) for package in _VERSIONS},
        }
        _write_report(work / "build", report, skipped, unusable)
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


def _copy_records(paths: str | PathLike | Sequence[str | PathLike], conversations: Dataset, folder: Path) -> None:
    """Copy the records that the conversations refer to."""
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
    for number, start in enumerate(range(0, len(found), SHARD_SIZE)):
        with _without_bars():
            rows = take_rows(records, found[start : start + SHARD_SIZE])
            rows.to_parquet(_new_path(folder / f"{number:05d}.parquet"))


def _read_skipped(folder: Path) -> list[tuple[str, str, str]]:
    """(recording_id, reason, message) of the recordings that were skipped, in the order of the source."""
    return [row for path in sorted(folder.glob("skipped-*.json")) for row in json.loads(path.read_text())]


def _publish_records(work: Path) -> dict[str, list]:
    """Move the record files to where they are published; returns the columns that conversations are matched by."""
    paths = sorted((work / "records").glob("*.parquet"))
    published = [work / "build" / "records" / _file_name("train", n, len(paths)) for n in range(len(paths))]
    for path, new_path in zip(paths, published):
        path.rename(_new_path(new_path))
    if not published:
        return {column: [] for column in _RECORD_KEYS}
    return pa.concat_tables(pq.read_table(path, columns=_RECORD_KEYS) for path in published).to_pydict()


def _check_skipped(name: str, skipped: list, keys: dict, max_skipped: float) -> None:
    num_used, num_skipped = len(set(keys["recording_id"])), len(skipped)
    share = num_skipped / max(num_used + num_skipped, 1)
    if not num_skipped or (num_used and share <= max_skipped):
        return
    reasons = Counter(reason for _, reason, _ in skipped)
    allowed = f"allow it with max_skipped (--max-skipped) {math.ceil(100 * share) / 100:g}"
    remedy = allowed if num_used else "nothing is left to build"
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
            take_rows(conversations, rows).to_parquet(_new_path(folder / config / _file_name(split, 0, 1)))


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


def _file_name(split: str, number: int, of: int) -> str:
    return f"{split}-{number:05d}-of-{of:05d}.parquet"


def _new_path(path: Path) -> Path:
    """The path, its folder made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
