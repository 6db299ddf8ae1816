"""Names of models and datasets (folders, or repositories on the Hub), and publishing files in one commit."""

import os
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import httpx2
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import validate_repo_id


ATTEMPTS = 4
# Seconds that the Hub has to say whether a repository exists.
PATIENCE_S = 4
# HTTP codes of errors that may pass by themselves: timeouts, conflicts, too many requests, a server that is not ready.
PASSING = (408, 409, 425, 429, 500, 502, 503, 504)


def split_revision(name: str) -> tuple[str, str | None]:
    """`user/name@revision` in its two parts; None where no branch, tag or commit is named."""
    repo, _, revision = name.partition("@")
    return repo, revision or None


def check_name(name: str, needs_owner: bool = True, repo_type: str = "model") -> None:
    """
    Refuses a name that is neither a folder nor a repository, before the libraries that load it are imported.

    A repository is looked for in the local caches first. The Hub is asked once and given a few seconds, since loading from
    a Hub that cannot be reached tries again for a minute.

    Args:
        name: folder or repository, `owner/name` or `owner/name@revision`.
        needs_owner: whether a repository's name must have two parts, as all but the oldest have.
        repo_type: `"model"` or `"dataset"`.

    Raises:
        FileNotFoundError: it is neither, or it is in no cache and the Hub cannot be reached.
    """
    if Path(name).is_dir():
        return
    repo, revision = split_revision(name)
    try:
        validate_repo_id(repo)
        is_repository = "/" in repo or not needs_owner
    except HFValidationError:
        is_repository = False
    if not is_repository:
        raise FileNotFoundError(f"{name}: no such folder, and not the name of a repository on the Hub (owner/name)")
    if not _is_cached(repo, repo_type):
        _ask_hub(repo, revision, repo_type)


def _is_cached(repo: str, repo_type: str) -> bool:
    of_datasets = Path(os.environ.get("HF_DATASETS_CACHE", Path(constants.HF_HOME) / "datasets"))
    folders = [Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type=repo_type)]
    folders += [of_datasets / repo.replace("/", "___")] if repo_type == "dataset" else []
    return any(folder.is_dir() for folder in folders)


@lru_cache
def _ask_hub(repo: str, revision: str | None, repo_type: str) -> None:
    """Raises where there is no such repository or no Hub; whatever else is wrong is found, and told, when it is loaded."""
    try:
        HfApi().repo_info(repo, repo_type=repo_type, revision=revision, timeout=PATIENCE_S)
    except GatedRepoError:
        return
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(f"{repo}: no such folder, and not found on the Hub") from error
    except (httpx2.ConnectError, httpx2.ConnectTimeout, OfflineModeIsEnabled) as error:
        raise FileNotFoundError(
            f"{repo}: no such folder, and the Hub cannot be reached ({type(error).__name__})"
        ) from error
    except (httpx2.HTTPError, HfHubHTTPError):
        return


@dataclass(frozen=True)
class Publication:
    """
    What was published, or would be.

    Attributes:
        repo_id: of the repository.
        sizes: bytes of each file, by its path in the repository.
        url: of the commit; None if nothing was sent.
    """

    repo_id: str
    sizes: dict[str, int]
    url: str | None


def check_repo_id(repo_id: str) -> None:
    """Refuses what is not `user/name`."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"{repo_id}: not the name of a repository ({error})") from error
    if "/" not in repo_id:
        raise ValueError(f"{repo_id}: name the owner, too: user/{repo_id}")


def publish_files(
    repo_id: str,
    repo_type: str,
    files: dict[str, Path | bytes],
    stale: tuple[str, ...],
    message: str,
    private: bool,
    revision: str | None,
    dry_run: bool,
) -> Publication:
    """
    Publish files in one commit, tried again when the Hub is busy or the connection is lost.

    Args:
        repo_id, private, revision, dry_run: as of `publish_dataset`.
        repo_type: "dataset" or "model".
        files: what to publish by its path in the repository.
        stale: endings of the names of files that are deleted in the same commit if they are not among `files`.
        message: of the commit.
    """
    sizes = {name: len(file) if isinstance(file, bytes) else file.stat().st_size for name, file in files.items()}
    if dry_run:
        return Publication(repo_id, sizes, None)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            url = _commit(repo_id, repo_type, files, stale, message, private, revision)
            return Publication(repo_id, sizes, url)
        except (HfHubHTTPError, httpx2.TransportError) as error:
            status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
            if status is not None and status not in PASSING:
                raise
            reason = error
            if attempt < ATTEMPTS:
                asked = error.response.headers.get("Retry-After", "") if status is not None else ""
                time.sleep(float(asked) if asked.isdecimal() else 2**attempt)
    raise ConnectionError(
        f"{repo_id}: the Hub could not be reached or was busy, {ATTEMPTS} times ({reason}). Nothing of this version is "
        "visible there. Run the same again later: files that arrived are not sent twice"
    )


def _commit(
    repo_id: str,
    repo_type: str,
    files: dict[str, Path | bytes],
    stale: tuple[str, ...],
    message: str,
    private: bool,
    revision: str | None,
) -> str:
    """One attempt. A commit whose answer was lost is not made twice: unchanged files make none."""
    api = HfApi()
    api.create_repo(repo_id, repo_type=repo_type, private=private or None, exist_ok=True)
    if private and not api.repo_info(repo_id, repo_type=repo_type).private:
        raise ValueError(f"{repo_id}: is there already and public; make it private on its page or name another")
    if revision is not None:
        api.create_branch(repo_id, branch=revision, repo_type=repo_type, exist_ok=True)
    present = api.list_repo_files(repo_id, repo_type=repo_type, revision=revision)
    operations = [CommitOperationDelete(name) for name in present if name not in files and name.endswith(stale)]
    operations += [CommitOperationAdd(name, file) for name, file in files.items()]
    commit = api.create_commit(repo_id, operations, commit_message=message, repo_type=repo_type, revision=revision)
    return commit.commit_url
