"""Build a dataset in the Hub layout: records of ECGs, conversations about them, five folds, a card and a report."""

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
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Features

from elm_hf.data.layout import BUILD_REPORT_NAME
from elm_hf.data.loading import check_same_shape
from elm_hf.data.tables import load_records
from elm_hf.ecg.find_files import formats_of
from elm_hf.modeling.ecg_leads import SAMPLING_RATE
from elm_hf.prepare.builder import OWN_DATA_OPTIONS, SPECIAL_OPTIONS, ElmDatasetBuilder, find_builder
from elm_hf.prepare.card import write_card
from elm_hf.prepare.matching import asked_recordings, find_ecgs, list_conversations, recording_names
from elm_hf.prepare.own_data import check_same_key, own_data_of, own_data_of_records, write_ids
from elm_hf.prepare.patients import GivenFolds, write_patients
from elm_hf.prepare.privacy import write_privacy
from elm_hf.prepare.pseudonyms import load_pseudonyms
from elm_hf.prepare.question_report import question_report
from elm_hf.prepare.record_files import VERSIONS, RecordFiles, build_records, plan_records
from elm_hf.prepare.splits import assign_folds, split_conversations, write_splits
from elm_hf.prepare.work_folder import (
    PRIVATE,
    begin,
    check_output,
    clear,
    clear_all_but_records,
    publish,
    was_published,
    work_folder,
)
from elm_hf.utils.files import check_links, read_json


# Options that are not among the settings in the published report: paths of this machine, and what the card says elsewhere.
NO_SETTINGS = ("translations", "key", "title", "license", "citation")


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
    num_folds: int | None = None,
    one_patient_per_file: bool = False,
    overwrite: bool = False,
    merge: bool = False,
    **special_options,
) -> dict:
    """
    Build a dataset in the Hub layout: `records`, `patients`, `fold1` ... `fold5`, `official` if the source has an
    official split, a card, `build_report.json`, `skipped.csv` and `left_out.csv`. The result does not depend on
    `num_proc`.

    Folds belong to the patients of a source: a dataset with recordings deals them, and conversations about the records
    of other datasets take the folds of those datasets.

    Patients and recordings of the user's own data (`ecgfolder`) get pseudonyms, unless `keep_ids` is set. The names behind
    them are then in the folder `OUTPUT.private`, together with `skipped.csv` and `left_out.csv`.

    The dataset is built in the working folder `OUTPUT.building`, which is renamed when the build is complete. After an
    interruption, the same call continues the build and gives the same dataset, byte for byte.

    Args:
        name: name of a script in `elm_hf.dataset_scripts`.
        output: folder of the dataset to build.
        source: folder of the source as downloaded.
        records: one or several elm-hf datasets (folders or Hub names) with the ECGs of the conversations. The ECGs in
            use are copied, and their patients keep their folds; `seconds`, `sampling_rate` and `num_recordings` are
            ignored.
        seconds: length of a record in seconds.
        sampling_rate: sampling rate of the records in Hz.
        num_recordings: maximum number of recordings; for a simulated dataset, the number of recordings to simulate.
        num_proc: number of processes that read recordings.
        max_skipped: maximum share of skipped recordings. Recordings that are shorter than a record are not counted.
        seed: random seed for folds and simulated ECGs.
        num_folds: number of folds; 0 builds only the `official` split. Defaults to 5, or to the number of folds of
            the datasets in `records`.
        one_patient_per_file: treat each file without patient id as a separate patient (`ecgfolder`).
        overwrite: replace an existing build in `output`, or an unfinished build with other options.
        merge: join the shards built by `prepare_shard` instead of reading recordings.
        special_options: options that only some datasets have (`SPECIAL_OPTIONS`), see `ElmDatasetConfig`.

    Returns:
        The build report, as in `build_report.json`.

    Raises:
        ValueError: the name is unknown, too many recordings are skipped, there is nothing to build, there are fewer
            patients than folds, `records` have no folds or other ones, there is an unfinished build with other
            options, or shards are missing.
        FileNotFoundError: the source or a part of it is missing.
        FileExistsError: `output` exists and is not empty.
        BlockingIOError: another process is building the same dataset.
    """
    output = Path(output).absolute()
    paths = [records] if isinstance(records, str | PathLike) else list(records or [])
    special_options = _without_paths(special_options)
    options = _options(source, seconds, sampling_rate, num_recordings, seed, one_patient_per_file) | special_options
    with _builder(name, options | {"records": tuple(str(path) for path in paths)}, output) as builder:
        if not builder.HAS_ECGS and records is not None:
            raise ValueError(f"{name} is a text-only dataset: omit records (--records)")
        reads_ecgs = builder.HAS_ECGS and records is None
        own_data = own_data_of(builder) if builder.OWN_DATA else own_data_of_records(paths)
        given = GivenFolds.load(paths, num_folds) if paths else None
        if merge and not reads_ecgs:
            raise ValueError(
                f"{name} does not read recordings in this build, so there are no shards to merge (--merge)"
            )
        plan = _plan(builder, options) if reads_ecgs else {"dataset": name, "records": str(records)}
        with work_folder(output) as work, _cleanup_on_error(work, keep_records=reads_ecgs):
            if reads_ecgs and was_published(work, plan, output):
                return read_json(output / BUILD_REPORT_NAME)
            check_output(output, overwrite)
            build_id = begin(work, plan, overwrite, exclusive=not merge)
            if reads_ecgs:
                files = RecordFiles(work, plan["recordings"], build_id)
                if merge:
                    files.check_complete()
            # list the conversations first, to find errors in the source before the signals are read
            conversations, unusable = list_conversations(builder, work / "conversations")
            if reads_ecgs:
                build_records(builder, files, range(files.count), num_proc)
            else:
                clear(work / "build")  # copying takes little time
                files = _copy_records(paths, asked_recordings(conversations), work, build_id)
            clear_all_but_records(work)
            settings = {
                "num_recordings": num_recordings,
                "max_skipped": max_skipped,
                "num_folds": num_folds,
                "seed": seed,
            }
            settings |= {key: value for key, value in special_options.items() if value and key not in NO_SETTINGS}
            notes = {
                "notes": builder.notes(),
                "reading_notes": builder.reading_notes(),
                "record_notes": builder.record_notes() if reads_ecgs else _notes_of_records(paths),
            }
            has_conversations = builder.has_conversations()
            report = _finish(
                builder,
                output.name,
                files,
                conversations,
                unusable,
                settings,
                notes,
                has_conversations,
                given,
                own_data,
            )
            check_same_key(output, own_data)
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
    **special_options,
) -> dict:
    """
    Read the recordings of a shard of a dataset. `prepare_dataset(..., merge=True)` joins all shards.

    The record files are written to `OUTPUT.building`. Several shards can be built there at the same time. If machines
    do not share a file system, copy their folders into one. Shard k has the files k - 1, k - 1 + num_shards, ...; the
    recordings in a file do not depend on `num_shards`.

    Args:
        name, output, source, seconds, sampling_rate, num_recordings, num_proc, seed, one_patient_per_file,
            special_options: see `prepare_dataset`. They must be the same for every shard.
        shard: number of the shard, from 1 to `num_shards`.
        num_shards: number of shards of the dataset.

    Returns:
        `files`, the number of files of the shard, and `built`, the number of files that were built by this call.

    Raises:
        ValueError: there is no such shard, there is nothing to build, or there is an unfinished build with other
            options.
        FileNotFoundError: the source or a part of it is missing.
        FileExistsError: `output` exists and is not empty.
        BlockingIOError: another process is building the same shard.
    """
    if not 1 <= shard <= num_shards:
        raise ValueError(
            f"there is no shard (--shard) {shard}/{num_shards}; shards are numbered from 1/{num_shards} to "
            f"{num_shards}/{num_shards}"
        )
    output = Path(output).absolute()
    check_output(output, overwrite=False)
    options = _options(source, seconds, sampling_rate, num_recordings, seed, one_patient_per_file)
    options |= _without_paths(special_options)
    with _builder(name, options, output) as builder:
        plan = _plan(builder, options)
        with work_folder(output, f"shard-{shard}-of-{num_shards}") as work:
            build_id = begin(work, plan, exclusive=False)
            files = RecordFiles(work, plan["recordings"], build_id, num_shards)
            numbers = range(shard - 1, files.count, num_shards)
            return {"files": len(numbers), "built": build_records(builder, files, numbers, num_proc)}


def build_summary(report: dict) -> str:
    """Return a one-line summary of the build report."""
    records, conversations = report["records"], report["conversations"]
    skipped, left_out = sum(records["skipped"].values()), sum(conversations["left_out"].values())
    across = sum(split.get("left_out", 0) for split in report["splits"].values())
    noun = "recording" if skipped == 1 else "recordings"
    if not report["splits"]:
        return f"{records['records']:,} ECGs of {records['patients']:,} patients ({skipped} {noun} skipped), no conversations"
    return (
        f"{records['records']:,} ECGs of {records['patients']:,} patients ({skipped} {noun} skipped), "
        f"{conversations['built']:,} conversations ({left_out} excluded), splits {', '.join(report['splits'])} "
        f"(comparisons excluded from folds, in total: {across})"
    )


def reading_lines(report: dict) -> list[str]:
    """Return what tables were found to mean, a line for each, from the build report."""
    read_as = report["records"].get("read_as", {})  # builds of earlier versions have neither
    return report.get("reading_notes", []) + [
        f"{count} file{'s' if count != 1 else ''}: {note}" for note, count in read_as.items()
    ]


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
def _builder(name: str, options: dict, output: Path) -> Iterator[ElmDatasetBuilder]:
    builder = find_builder(name)
    for option in SPECIAL_OPTIONS:
        if options.get(option) is not None and option not in builder.OPTIONS:
            has = f"it has {', '.join(map(_flag, builder.OPTIONS))}" if builder.OPTIONS else "it has no such options"
            raise ValueError(f"{name} has no option {option} ({_flag(option)}); {has}")
    if options.get("keep_ids") and options.get("key") is not None:
        raise ValueError("keep_ids (--keep-ids) makes no pseudonyms; omit key (--key)")
    with TemporaryDirectory() as cache:
        made = builder(cache_dir=cache, config_name="conversations", **options)
        if made.OWN_DATA and not made.config.keep_ids:
            made.pseudonyms = load_pseudonyms(made.config.key, output)
        yield made


def _without_paths(options: dict) -> dict:
    """Options with paths as text, because the plan of a build is stored as JSON."""
    return {name: str(value) if isinstance(value, PathLike) else value for name, value in options.items()}


def _notes_of_records(paths: Sequence[str | PathLike]) -> list[str]:
    """The notes about the records in folders, which also apply to a dataset with copies of these records."""
    reports = [Path(path) / BUILD_REPORT_NAME for path in paths]
    notes = [read_json(path).get("record_notes", []) for path in reports if path.is_file()]
    return list(dict.fromkeys(note for of_dataset in notes for note in of_dataset))


def _flag(option: str) -> str:
    return "--" + option.replace("_", "-")


def _plan(builder: ElmDatasetBuilder, options: dict) -> dict:
    """Everything that the record files depend on. The path of the source is not part of it and may differ."""
    kept = {name: value for name, value in options.items() if name not in OWN_DATA_OPTIONS}
    if builder.OWN_DATA:
        kept["key"] = None if builder.pseudonyms is None else builder.pseudonyms.key_id
    return {"dataset": builder.name} | {**kept, "source": None} | plan_records(builder)


@contextmanager
def _cleanup_on_error(work: Path, keep_records: bool) -> Iterator[None]:
    """Remove the working folder after an error, unless it has record files or shards that the next attempt can use."""
    try:
        yield
    except BaseException:
        if not (keep_records and (any(work.glob("build/records/*.parquet")) or any(work.glob("shard-*")))):
            shutil.rmtree(work)
        raise


def _copy_records(paths: list[str | PathLike], asked: pa.Array, work: Path, build_id: str) -> RecordFiles:
    """Copy the records of the ECGs that the conversations refer to."""
    if not paths:
        return RecordFiles(work, 0, build_id)
    for path in paths:
        if Path(path).is_dir():
            check_links(path)
    tables = [load_records(path) for path in paths]
    check_same_shape(paths, tables)
    records = datasets.concatenate_datasets(tables)
    names = recording_names(records.data.column("source"), records.data.column("recording_id"))
    found = np.flatnonzero(pc.is_in(names, asked))
    if not len(found):
        raise ValueError(
            f"none of the {len(asked)} ECGs of the conversations (such as {pc.min(asked)}) is among the {len(names)} "
            f"records (such as {names[0]}); pass the records of the dataset that the conversations refer to"
        )
    files = RecordFiles(work, len(found), build_id)
    for number in datasets.utils.tqdm(range(files.count), desc="Copying records", unit=" files"):
        files.copy(number, records.select(found[files.rows(number)]))
    return files


def _finish(
    builder: ElmDatasetBuilder,
    title: str,
    files: RecordFiles,
    conversations: list[Path],
    unusable: list[tuple[str, str]],
    settings: dict,
    notes: dict[str, list[str]],
    has_conversations: bool,
    given: GivenFolds | None,
    own_data: dict | None,
) -> dict:
    """
    Write the patients, the splits, the build report, the lists of skipped and excluded data, and the card. Returns the
    report.
    """
    name = builder.name
    build, joined = files.work / "build", files.work / "conversations.parquet"
    files.drop_copies()
    skipped, keys = files.skipped(), files.keys()
    _check_skipped(name, skipped, keys, settings["max_skipped"], files.work)
    left_out, of_skipped = find_ecgs(conversations, keys, joined, _skipped_by_name(builder, skipped))
    num_built = pq.read_metadata(joined).num_rows
    left_out.update(reason for reason, _ in unusable)
    unusable = unusable + of_skipped
    if not num_built and has_conversations:
        first = f"; first damaged entry: {unusable[0][1]}" if unusable else ""
        raise ValueError(f"none of the {left_out.total()} conversations can be used: {_counts(left_out)}{first}")
    folds = assign_folds(joined, keys, settings["num_folds"], settings["seed"], given)
    splits, split_report = split_conversations(joined, folds, builder.TEST_ONLY)
    if folds.patients is not None:
        write_patients(folds.patients, build)
    write_splits(joined, splits, build)
    report = {
        "dataset": name,
        "options": settings | {"num_folds": folds.number},
        "templates": question_report(joined),
        **notes,
        "records": _records_report(files, keys, skipped),
        "conversations": {"built": num_built, "left_out": dict(left_out)},
        "splits": split_report,
        "folds_from_records": given is not None,
        "own_data": own_data,
        "labels": folds.labels,
        "versions": {package: version(package) for package in VERSIONS},
    }
    (build / BUILD_REPORT_NAME).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if builder.pseudonyms is None:
        _write_lists(build, skipped, unusable)
    else:  # they contain the names of files
        _write_lists(files.work / PRIVATE, skipped, unusable)
        write_ids(files.work / PRIVATE, builder)
    write_privacy(build, report)
    write_card(build, title)
    return report


def _skipped_by_name(builder: ElmDatasetBuilder, skipped: list[tuple[str, str, str]]) -> dict[str, str]:
    """What was wrong with each recording that was skipped, by its name in conversations."""
    return {
        f"{builder.record_source} {builder.published_name(name)}": f"{name}: {reason}" for name, reason, _ in skipped
    }


def _check_skipped(name: str, skipped: list, keys: pa.Table, max_skipped: float, work: Path) -> None:
    num_used = _num_recordings(keys)
    if num_used:  # short recordings do not indicate a problem of the source
        skipped = [row for row in skipped if row[1] != "too short"]
    num_skipped = len(skipped)
    share = num_skipped / max(num_used + num_skipped, 1)
    if not num_skipped or (num_used and share <= max_skipped):
        return
    reasons = Counter(reason for _, reason, _ in skipped)
    allowed = f"allow it with max_skipped (--max-skipped) {math.ceil(100 * share) / 100:g}"
    remedy = f"{allowed}, or repair the source and delete the working folder {work}"
    if not num_used:
        shutil.rmtree(work / "build" / "records")
        remedy = f"there is nothing to build; found {formats_of((name, message) for name, _, message in skipped)}"
    raise ValueError(
        f"{name}: {num_skipped} of {num_used + num_skipped} recordings cannot be used, over the limit of "
        f"{max_skipped:g}: {_counts(reasons)}; first error: {skipped[0][2]}; {remedy}"
    )


def _num_recordings(keys: pa.Table) -> int:
    return pc.count_distinct(recording_names(keys["source"], keys["recording_id"])).as_py()


def _records_report(files: RecordFiles, keys: pa.Table, skipped: list) -> dict:
    shape = {}
    if len(keys):
        samples = Features.from_arrow_schema(pq.read_schema(files.path(0)))["ecg"].shape[1]
        shape = {"sampling_rate": keys["sampling_rate"][0].as_py(), "samples": samples}
    patients, counts = recording_names(keys["source"], keys["patient_id"]), files.counts()
    dropped, read_as = (
        {name.removeprefix(prefix): count for name, count in sorted(counts.items()) if name.startswith(prefix)}
        for prefix in ("signals ", "note ")
    )
    return shape | {
        "recordings": _num_recordings(keys),
        "skipped": dict(Counter(reason for _, reason, _ in skipped).most_common()),
        "records": len(keys),
        "records_with_missing_leads": pc.sum(pc.greater(pc.list_value_length(keys["missing_leads"]), 0)).as_py() or 0,
        "filled_gaps": counts["gaps"],
        "dropped_signals": dropped,
        "read_as": read_as,
        "patients": pc.count_distinct(patients).as_py(),
    }


def _write_lists(folder: Path, skipped: list, left_out: list) -> None:
    folder.mkdir(exist_ok=True)
    with (folder / "skipped.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("recording_id", "reason", "message"), *skipped])
    with (folder / "left_out.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("reason", "message"), *left_out])


def _counts(counter: Counter) -> str:
    return ", ".join(f"{reason} ({count})" for reason, count in counter.most_common(3))
