"""The working folder of a build, which allows it to continue after an interruption."""

import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from elm_hf.data.layout import BUILD_REPORT_NAME
from elm_hf.prepare.own_data import private_folder
from elm_hf.utils.files import read_json, write_atomically


_PLAN_NAME = "plan.json"
# Folder of the working folder with lists of names that are not published.
PRIVATE = "private"
# Child processes of a killed build hold its lock for a moment, until they terminate.
_LOCK_TIMEOUT_S = 10


@contextmanager
def work_folder(output: Path, task: str = "build") -> Iterator[Path]:
    """
    Create the working folder of a dataset, `OUTPUT.building`, and lock it for a task.

    Its folder `build` contains the unfinished dataset; `publish` moves it to `OUTPUT`.

    Raises:
        BlockingIOError: another process has locked the folder for the same task.
    """
    work = output.with_name(f"{output.name}.building")
    try:
        lock = _lock(work, f"{task}.lock")
        try:
            _check_other_tasks(work, f"{task}.lock")
            yield work
        finally:
            lock.release()
    except Timeout as error:
        raise BlockingIOError(
            f"{work}: another process is building in this folder; wait for it or terminate it"
        ) from error


def _lock(work: Path, name: str) -> FileLock:
    """Acquire a lock. A build that ends removes the folder with the lock that others wait for; they begin anew."""
    end = time.monotonic() + _LOCK_TIMEOUT_S
    while True:
        work.mkdir(parents=True, exist_ok=True)
        lock = FileLock(work / name)
        try:
            lock.acquire(timeout=max(end - time.monotonic(), 0))
        except FileNotFoundError:
            continue
        if (work / name).exists():
            return lock
        lock.release()


def _check_other_tasks(work: Path, name: str) -> None:
    """Raise `Timeout` if a build uses the folder while a shard of it is built, or the other way round."""
    for path in work.glob("*.lock"):
        if path.name != name and "build.lock" in (path.name, name):
            with FileLock(path, timeout=0):
                pass


def check_output(output: Path, overwrite: bool) -> None:
    """
    Check that the output does not exist, is an empty folder, or is a build that may be overwritten.

    Raises:
        FileExistsError: the output exists and must not be replaced.
    """
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not overwrite:
        raise FileExistsError(f"{output}: exists; choose another output, or replace it with overwrite (--overwrite)")
    if not (output / BUILD_REPORT_NAME).is_file():
        raise FileExistsError(f"{output}: not built by elm-hf (no {BUILD_REPORT_NAME}), so it is not overwritten")


def begin(work: Path, plan: dict, overwrite: bool = False, exclusive: bool = True) -> str:
    """
    Begin a build, or continue an unfinished build with the same plan.

    Args:
        work: working folder.
        plan: everything that the files of the build depend on, as JSON data.
        overwrite: replace an unfinished build with another plan.
        exclusive: no other process uses the folder, so that the files of another plan can be removed.

    Returns:
        The build id, a digest of the plan that identifies its files.

    Raises:
        ValueError: there is an unfinished build with another plan.
    """
    found = _read_plan(work, overwrite)
    if found is not None and found != plan and not overwrite:
        key = next(key for key in [*plan, *found] if plan.get(key) != found.get(key))
        raise ValueError(
            f"{work}: contains a different unfinished build ({key} {found.get(key)}, now {plan.get(key)}); repeat the "
            "original command, delete the folder, or replace the build with overwrite (--overwrite)"
        )
    if found != plan:
        if exclusive:
            clear(work)
        write_atomically(work / _PLAN_NAME, json.dumps(plan, indent=2))
    (work / "build").mkdir(exist_ok=True)
    return hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()[:16]


def clear(work: Path) -> None:
    """Remove all files of the build, but keep the locks."""
    for path in work.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.suffix != ".lock":
            path.unlink()


def clear_all_but_records(work: Path) -> None:
    """Remove everything but the records of an interrupted build. The rest takes little time and is built again."""
    for path in (work / "build").iterdir():
        if path.is_file():
            path.unlink()
        elif path.name != "records":
            shutil.rmtree(path)


def publish(work: Path, output: Path) -> None:
    """
    Move the finished dataset to `output`, and the names behind its pseudonyms to `OUTPUT.private`, and remove the working
    folder.
    """
    if (work / PRIVATE).is_dir():
        private = private_folder(output)
        private.mkdir(mode=0o700, exist_ok=True)
        for path in (work / PRIVATE).iterdir():
            path.chmod(0o600)
            path.replace(private / path.name)
    if output.exists():
        output.rename(work / "replaced")
    (work / "build").rename(output)
    shutil.rmtree(work)


def was_published(work: Path, plan: dict, output: Path) -> bool:
    """Return whether a build was killed in `publish` after moving the dataset; if so, finish the cleanup."""
    if (
        _read_plan(work, ignore_damage=True) != plan
        or (work / "build").exists()
        or not (output / BUILD_REPORT_NAME).is_file()
    ):
        return False
    shutil.rmtree(work)
    return True


def _read_plan(work: Path, ignore_damage: bool = False) -> dict | None:
    path = work / _PLAN_NAME
    try:
        return read_json(path) if path.is_file() else None
    except ValueError as error:
        if ignore_damage:
            return None
        raise ValueError(
            f"{error}; it is not the plan of a build: delete the folder {work}, or replace it with overwrite "
            "(--overwrite)"
        ) from error
