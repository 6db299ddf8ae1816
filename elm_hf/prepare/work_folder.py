"""The working folder of a build, which allows it to continue after an interruption."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from elm_hf.data.layout import BUILD_REPORT_NAME
from elm_hf.utils.files import write_atomically


_PLAN_NAME = "plan.json"
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
    work.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(work / f"{task}.lock", timeout=_LOCK_TIMEOUT_S):
            yield work
    except Timeout as error:
        raise BlockingIOError(
            f"{work}: another process is building in this folder; wait for it or terminate it"
        ) from error


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
    found = _read_plan(work)
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
    """Move the finished dataset to `output` and remove the working folder."""
    if output.exists():
        output.rename(work / "replaced")
    (work / "build").rename(output)
    shutil.rmtree(work)


def was_published(work: Path, plan: dict, output: Path) -> bool:
    """Return whether a build was killed in `publish` after moving the dataset; if so, finish the cleanup."""
    if _read_plan(work) != plan or (work / "build").exists() or not (output / BUILD_REPORT_NAME).is_file():
        return False
    shutil.rmtree(work)
    return True


def _read_plan(work: Path) -> dict | None:
    path = work / _PLAN_NAME
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
