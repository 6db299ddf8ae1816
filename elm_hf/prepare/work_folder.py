"""The folder in which a dataset grows: found again after an interruption, and never taken for a finished dataset."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from elm_hf.data.layout import BUILD_REPORT_NAME
from elm_hf.utils.files import write_whole


_PLAN_NAME = "plan.json"
# Processes of a build that was killed need a moment to notice it, and hold its lock until then.
_LOCK_TIMEOUT_S = 10


@contextmanager
def work_folder(output: Path, task: str = "build") -> Iterator[Path]:
    """
    The working folder of a dataset, `OUTPUT.building`, held by one process for each task.

    The dataset grows in its folder `build`; `publish` gives that its name.

    Raises:
        BlockingIOError: another process is at the same task.
    """
    work = output.with_name(f"{output.name}.building")
    work.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(work / f"{task}.lock", timeout=_LOCK_TIMEOUT_S):
            yield work
    except Timeout as error:
        raise BlockingIOError(f"{work}: another process is building there; let it finish, or end it first") from error


def check_output(output: Path, overwrite: bool) -> None:
    """
    Raises:
        FileExistsError: there is something that may not be replaced.
    """
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not overwrite:
        raise FileExistsError(f"{output}: exists; name another output, or replace it with overwrite (--overwrite)")
    if not (output / BUILD_REPORT_NAME).is_file():
        raise FileExistsError(f"{output}: not built by elm-hf (no {BUILD_REPORT_NAME}), so it is not overwritten")


def begin(work: Path, plan: dict, overwrite: bool = False, alone: bool = True) -> str:
    """
    Begin a build, or go on with one of the same plan.

    Args:
        work: working folder.
        plan: what the files of the build depend on; as JSON writes it.
        overwrite: replace an unfinished build of another plan.
        alone: nobody else is at work in the folder, so what is left of another build may be removed.

    Returns:
        What tells this build's files from those of another plan.

    Raises:
        ValueError: there is an unfinished build of another plan.
    """
    found = _read_plan(work)
    if found is not None and found != plan and not overwrite:
        key = next(key for key in [*plan, *found] if plan.get(key) != found.get(key))
        raise ValueError(
            f"{work}: holds an unfinished build of something else ({key} {found.get(key)}, now {plan.get(key)}); repeat "
            "the command that began it, or delete the folder, or replace it with overwrite (--overwrite)"
        )
    if found != plan:
        if alone:
            clear(work)
        write_whole(work / _PLAN_NAME, json.dumps(plan, indent=2))
    (work / "build").mkdir(exist_ok=True)
    return hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()[:16]


def clear(work: Path) -> None:
    """Remove what was built so far."""
    for path in work.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.suffix != ".lock":
            path.unlink()


def clear_all_but_records(work: Path) -> None:
    """Remove what an interrupted build made of its records: it takes little time and is made anew."""
    for path in (work / "build").iterdir():
        if path.is_file():
            path.unlink()
        elif path.name != "records":
            shutil.rmtree(path)


def publish(work: Path, output: Path) -> None:
    """Give the finished dataset its name and remove the working folder."""
    if output.exists():
        output.rename(work / "replaced")
    (work / "build").rename(output)
    shutil.rmtree(work)


def was_published(work: Path, plan: dict, output: Path) -> bool:
    """Whether a build of this plan was killed in `publish`, after the dataset had its name; tidies up if so."""
    if _read_plan(work) != plan or (work / "build").exists() or not (output / BUILD_REPORT_NAME).is_file():
        return False
    shutil.rmtree(work)
    return True


def _read_plan(work: Path) -> dict | None:
    path = work / _PLAN_NAME
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
