"""The files of the `records` table, which are built in any order by any number of processes and machines."""

import hashlib
import json
import os
import signal
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from importlib.util import find_spec
from itertools import islice
from multiprocessing import parent_process
from pathlib import Path
from threading import Thread

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset, Features
from datasets.features.features import numpy_to_pyarrow_listarray

from elm_hf.data.columns import RECORD_KEYS, record_features
from elm_hf.data.layout import RECORDS, parquet_name
from elm_hf.ecg.recording import RecordingError
from elm_hf.prepare.builder import ElmDatasetBuilder
from elm_hf.utils.errors import LONGEST_MESSAGE, short
from elm_hf.utils.files import read_json, write_atomically


# A file is the unit of work, so that the files do not depend on the number of processes and machines.
RECORDINGS_PER_FILE = 512
# Reason for skipping a recording with the signal of an earlier one.
SAME_SIGNAL = "same signal as another recording"
VERSIONS = ("elm-hf", "datasets", "numpy", "scipy")

# Number of records that are read at once, and that a writing process keeps in memory.
RECORDS_PER_ROW_GROUP = 64
# Delta encoding of the samples takes two thirds of the space of dictionary encoding and half the time.
_SIGNAL_COLUMN = "ecg.list.element.list.element"
_TEXT_COLUMNS = ["patient_id", "source", "sex", "report", "labels.list.element", "missing_leads.list.element"]
_PARQUET = {"use_dictionary": _TEXT_COLUMNS, "column_encoding": {_SIGNAL_COLUMN: "DELTA_BINARY_PACKED"}}


@dataclass(frozen=True)
class RecordFiles:
    """
    The files of the `records` table in the working folder of a build, each with the records of `RECORDINGS_PER_FILE`
    recordings.

    Files are written atomically, so that an existing file is complete and is not built again. The list of skipped
    recordings of each file, a digest of each signal, and the numbers of filled gaps and dropped signals are in a note in
    a separate folder, which is not published.

    Attributes:
        work: working folder. Its folder `build` contains the unfinished dataset.
        num_recordings: total number of recordings, or of records if existing records are copied.
        build_id: digest of the plan, which identifies the files of this build.
        num_shards: number of shards, if a shard is built. It is used in error messages.
    """

    work: Path
    num_recordings: int
    build_id: str
    num_shards: int | None = None

    @property
    def count(self) -> int:
        """Number of files of the table."""
        return -(-self.num_recordings // RECORDINGS_PER_FILE)

    def rows(self, number: int) -> slice:
        """The range of recordings in a file."""
        return slice(number * RECORDINGS_PER_FILE, min((number + 1) * RECORDINGS_PER_FILE, self.num_recordings))

    def path(self, number: int) -> Path:
        """The path of a complete file."""
        return self.work / "build" / RECORDS / parquet_name("train", number, self.count)

    def missing(self) -> list[int]:
        """The numbers of the files that do not exist or belong to another build."""
        return [number for number in range(self.count) if not self._is_whole(number)]

    def skipped(self) -> list[tuple[str, str, str]]:
        """(recording_id, reason, message) of each skipped recording, in the order of the source."""
        skipped = []
        for number in range(self.count):
            note = self._note(number)
            unusable = iter(note["skipped"])
            for place, (name, digest) in enumerate(zip(note["names"], note["digests"])):
                if digest is None:
                    skipped.append(tuple(next(unusable)))
                elif (number, place) in self._copies:
                    skipped.append((name, SAME_SIGNAL, f"{name}: same signal as {self._copies[number, place]}"))
        return skipped

    def drop_copies(self) -> None:
        """
        Drop each recording with the same signal as an earlier recording of the source. As a rule, a recording was
        filed under two patients, who may be in different splits.
        """
        names_in = defaultdict(set)
        for (number, _), name in self._names(self._copies, "published").items():
            names_in[number].add(name)
        for number, names in names_in.items():
            with pq.ParquetFile(self.path(number)) as file:
                if names.isdisjoint(file.read(columns=["recording_id"])["recording_id"].to_pylist()):
                    continue  # dropped before the build was interrupted
                schema = Features.from_arrow_schema(file.schema_arrow).arrow_schema
                with pq.ParquetWriter(self._unfinished(number), schema, **_PARQUET) as writer:
                    for table in _groups(_without(file, names)):
                        writer.write_table(table.cast(schema))
            self._replace(number)

    @cached_property
    def _copies(self) -> dict[tuple[int, int], str]:
        """
        The recordings with the same signal as an earlier one: number of the file and place in it, and the id of the
        earlier recording. The digests are compared in one array of 16 bytes per recording.
        """
        digests, places = [], []
        for number in range(self.count):
            found = [(place, digest) for place, digest in enumerate(self._note(number)["digests"]) if digest]
            digests.append(np.frombuffer(bytes.fromhex("".join(digest for _, digest in found)), np.uint64))
            places.append(np.array([(number, place) for place, _ in found], np.int32).reshape(-1, 2))
        if not digests:
            return {}
        places = np.concatenate(places)
        _, first, group = np.unique(
            np.concatenate(digests).reshape(-1, 2), axis=0, return_index=True, return_inverse=True
        )
        original = first[group.ravel()]
        copies = np.flatnonzero(original != np.arange(len(original)))
        originals = list(map(tuple, places[original[copies]].tolist()))
        name_of = self._names(originals)
        return {tuple(copy): name_of[one] for copy, one in zip(places[copies].tolist(), originals)}

    def _names(self, places: Iterable[tuple[int, int]], key: str = "names") -> dict[tuple[int, int], str]:
        """The ids of recordings by the number of their file and their place in it. Each note is read once."""
        in_file = defaultdict(list)
        for number, place in places:
            in_file[number].append(place)
        names = {}
        for number, chosen in in_file.items():
            listed = self._note(number)[key]
            names |= {(number, place): listed[place] for place in chosen}
        return names

    def check_complete(self) -> None:
        """
        Check that all files exist.

        Raises:
            ValueError: files are missing. The message lists the shards to build.
        """
        missing = self.missing()
        if not missing:
            return
        shards = {
            self._note(number)["num_shards"] for number in range(self.count) if self._note_path(number).is_file()
        }
        shards.discard(None)
        if len(shards) == 1:
            (num_shards,) = shards
            names = [f"{number + 1}/{num_shards}" for number in sorted({number % num_shards for number in missing})]
            remedy = f"build shard {_listed(names)} first (--shard {names[0]})"
        else:
            remedy = f"build them first (--shard 1/{self.count} and so on); missing files: {_listed(missing)}"
        raise ValueError(f"{self.work}: {len(missing)} of {self.count} record files are missing; {remedy}")

    def write(self, number: int, builder: ElmDatasetBuilder, references: list[dict]) -> tuple[int, int]:
        """Read the recordings of a file and write it. Returns the number of recordings and of skipped recordings."""
        features = record_features(builder.config.seconds, builder.config.sampling_rate)
        features = Features({**features, **builder.RECORD_FEATURES})
        builder.counts.clear()
        rows, digests, skipped = [], [], []
        with pq.ParquetWriter(self._unfinished(number), features.arrow_schema, **_PARQUET) as writer:
            for reference in references:
                name, digest = reference["recording_id"], None
                try:
                    found = list(builder.record_rows(reference))
                    rows += found
                    digest = _digest(found)
                except RecordingError as error:
                    skipped.append((name, error.reason, short(builder.from_source(str(error)), LONGEST_MESSAGE)))
                digests.append(digest)
                while len(rows) >= RECORDS_PER_ROW_GROUP:
                    writer.write_table(_record_table(rows[:RECORDS_PER_ROW_GROUP], features))
                    rows = rows[RECORDS_PER_ROW_GROUP:]
            if rows:
                writer.write_table(_record_table(rows, features))
        names = [reference["recording_id"] for reference in references]
        published = [builder.published_name(name) for name in names]
        self._finish(number, names, published, digests, skipped, builder.counts)
        return len(references), len(skipped)

    def copy(self, number: int, records: Dataset) -> None:
        """Write a file with existing records."""
        with pq.ParquetWriter(self._unfinished(number), records.features.arrow_schema, **_PARQUET) as writer:
            for table in records.with_format("arrow").iter(RECORDS_PER_ROW_GROUP):
                writer.write_table(table)
        self._finish(number, [], [], [], [], {})

    def keys(self) -> pa.Table:
        """Return the columns of all records that are used to match conversations."""
        if not self.count:
            return record_features(seconds=1, sampling_rate=1).arrow_schema.empty_table().select(RECORD_KEYS)
        return pa.concat_tables(pq.read_table(self.path(number), columns=RECORD_KEYS) for number in range(self.count))

    def _finish(
        self, number: int, names: list, published: list, digests: list, skipped: list, counts: dict[str, int]
    ) -> None:
        note = {"build_id": self.build_id, "num_shards": self.num_shards}
        note |= {"names": names, "published": published, "digests": digests, "skipped": skipped, "counts": counts}
        write_atomically(self._note_path(number), json.dumps(note))
        self._replace(number)

    def _replace(self, number: int) -> None:
        with self._unfinished(number).open("rb") as file:  # write to disk before renaming, in case of a system crash
            os.fsync(file.fileno())
        self._unfinished(number).rename(new_path(self.path(number)))

    def _is_whole(self, number: int) -> bool:
        try:
            note = self._note(number) if self.path(number).is_file() else {}
        except (ValueError, FileNotFoundError):  # damaged, so that the file is built again
            return False
        return note.get("build_id") == self.build_id and "published" in note  # earlier versions kept fewer facts

    def _note(self, number: int) -> dict:
        return read_json(self._note_path(number))

    def _note_path(self, number: int) -> Path:
        return self.work / "skipped" / f"{number:05d}.json"

    def counts(self) -> Counter:
        """How many gaps were filled (`gaps`) and how many recordings had a signal that was dropped (`signals NAME`)."""
        return sum((Counter(self._note(number)["counts"]) for number in range(self.count)), Counter())

    def _unfinished(self, number: int) -> Path:
        return new_path(self.work / "unfinished" / f"{number:05d}.parquet")


def _digest(rows: list[dict]) -> str:
    """A digest of the signals of a recording, 32 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=16)
    for row in rows:
        digest.update(np.ascontiguousarray(row["ecg"]))
    return digest.hexdigest()


def _without(file: pq.ParquetFile, names: set[str]) -> Iterator[pa.Table]:
    """The rows of a file without some recordings."""
    dropped = pa.array(sorted(names))
    for batch in file.iter_batches(RECORDS_PER_ROW_GROUP):
        table = pa.Table.from_batches([batch])
        yield table.filter(pc.invert(pc.is_in(table["recording_id"], dropped)))


def _groups(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Tables of `RECORDS_PER_ROW_GROUP` rows, the last one of fewer."""
    waiting = next(tables)
    for table in tables:
        waiting = pa.concat_tables([waiting, table])
        while len(waiting) >= RECORDS_PER_ROW_GROUP:
            yield waiting[:RECORDS_PER_ROW_GROUP].combine_chunks()
            waiting = waiting[RECORDS_PER_ROW_GROUP:]
    if len(waiting):
        yield waiting.combine_chunks()


def _record_table(rows: list[dict], features: Features) -> pa.Table:
    """Convert rows to a table as `Dataset.from_list` does, but without a Python number for each sample."""
    schema = features.arrow_schema
    ecgs = numpy_to_pyarrow_listarray(np.stack([row["ecg"] for row in rows]))
    columns = [
        pa.ExtensionArray.from_storage(field.type, ecgs)
        if field.name == "ecg"
        else pa.array([row.get(field.name) for row in rows], field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def plan_records(builder: ElmDatasetBuilder) -> dict:
    """
    Return everything that the files of a build depend on, determined in one pass over the list of recordings.

    Raises:
        ValueError: there are no recordings.
    """
    count, digest = 0, hashlib.sha256()
    for reference in datasets.utils.tqdm(builder.references(), desc="Listing", unit=" recordings"):
        count += 1
        digest.update(repr(reference).encode())
    if not count:
        raise ValueError(f"{builder.name}: no recordings in {builder.config.source}")
    return {
        "recordings": count,
        "recordings per file": RECORDINGS_PER_FILE,
        "contents of the source": digest.hexdigest()[:16],
        **{f"version of {package}": version(package) for package in (*VERSIONS, *_installed_formats())},
    }


def _installed_formats() -> list[str]:
    """The packages with which more files can be read, so that a build without them is not resumed with them."""
    packages = ("ecgdatakit", "pydicom", "python-calamine")
    return [package for package in packages if find_spec(package.replace("-", "_")) is not None]


def build_records(builder: ElmDatasetBuilder, files: RecordFiles, numbers: Iterable[int], num_proc: int) -> int:
    """
    Build the missing ones of the numbered files, and return their number.

    The list of recordings is read once and distributed file by file, so that the memory does not depend on its length.

    Raises:
        ChildProcessError: a process was terminated by the system or by another program.
    """
    wanted = set(numbers) & set(files.missing())
    if not wanted:
        return 0
    references = builder.references()
    chunks = iter(lambda: list(islice(references, RECORDINGS_PER_FILE)), [])
    listed = islice(enumerate(chunks), max(wanted) + 1)
    tasks = ((number, builder, chunk) for number, chunk in listed if number in wanted)
    to_read = sum(files.rows(number).stop - files.rows(number).start for number in wanted)
    skipped = 0
    with datasets.utils.tqdm(total=to_read, desc="Reading recordings", unit=" recordings") as bar:
        for num_read, num_skipped in _run(files.write, tasks, num_proc):
            skipped += num_skipped
            bar.set_postfix(skipped=skipped, refresh=False)
            bar.update(num_read)
    return len(wanted)


def _run(function: Callable, tasks: Iterator[tuple], num_proc: int) -> Iterator:
    """Yield the results of all tasks in any order. Tasks are taken from the iterator only when processes are free."""
    if num_proc == 1:
        yield from (function(*task) for task in tasks)
        return
    try:
        with ProcessPoolExecutor(num_proc, initializer=_end_with_parent) as pool:
            running = set()
            for task in tasks:
                if len(running) == 2 * num_proc:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
                running.add(pool.submit(function, *task))
            yield from (future.result() for future in as_completed(running))
    except BrokenProcessPool as error:
        raise ChildProcessError(
            "a process that reads recordings was terminated, possibly because of insufficient memory; finished files "
            "are kept: repeat the command, with fewer processes (--num-proc) if memory was insufficient"
        ) from error


def _end_with_parent() -> None:
    """Terminate a reading process if the build is killed. Interrupts are handled by the parent process only."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()

    def watch() -> None:
        parent.join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def new_path(path: Path) -> Path:
    """Create the parent folder of a path and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _listed(names: list) -> str:
    return ", ".join(map(str, names[:10])) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
