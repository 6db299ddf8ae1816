"""Names of models and datasets (local folders or repositories on the Hub), and publishing of files in one commit."""

import os
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import httpx2
import yaml
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard, constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import validate_repo_id

from elm_hf.utils.errors import one_line


ATTEMPTS = 4
# Timeout in seconds for asking the Hub whether a repository exists.
TIMEOUT_S = 4
# HTTP status codes of transient errors: timeouts, conflicts, too many requests, unavailable servers.
TRANSIENT_CODES = (408, 409, 425, 429, 500, 502, 503, 504)


def split_revision(name: str) -> tuple[str, str | None]:
    """Split `user/name@revision` into repository and revision (branch, tag or commit); the latter may be None."""
    repo, _, revision = name.partition("@")
    return repo, revision or None


def check_name(name: str, needs_owner: bool = True, repo_type: str = "model") -> None:
    """
    Check that a name is a folder or a repository, without importing the libraries that load it.

    The local caches are searched first. Otherwise the Hub is asked once with a timeout of a few seconds, because the
    loading functions retry for a minute if the Hub cannot be reached.

    Args:
        name: folder or repository, `owner/name` or `owner/name@revision`.
        needs_owner: whether the name of a repository must include its owner. Only very old repositories have no owner.
        repo_type: `"model"` or `"dataset"`.

    Raises:
        FileNotFoundError: the name is neither a folder nor a repository, or the repository is not in a local cache and
            the Hub cannot be reached.
    """
    if not name:  # as a path, this is the current folder
        raise FileNotFoundError("the name of a folder or repository is empty")
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
    """Raise an error if the repository does not exist or the Hub cannot be reached. Ignore all other errors."""
    try:
        HfApi().repo_info(repo, repo_type=repo_type, revision=revision, timeout=TIMEOUT_S)
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


def licence_of(name: str) -> dict[str, str]:
    """
    The licence that the card of a model states: `license`, and `license_name` and `license_link` of a licence `other`.

    Args:
        name: folder or repository.

    Returns:
        Those fields that the card has; none if there is no card, or the Hub cannot be reached.
    """
    try:
        card = ModelCard.load(Path(name) / "README.md" if Path(name).is_dir() else split_revision(name)[0])
    except (OSError, ValueError, httpx2.HTTPError, yaml.YAMLError):
        return {}
    stated = {field: card.data.get(field) for field in ("license", "license_name", "license_link")}
    return {field: value for field, value in stated.items() if isinstance(value, str)}


@dataclass(frozen=True)
class Publication:
    """
    The files that were published, or that would be published in a dry run.

    Attributes:
        repo_id: id of the repository.
        sizes: size of each file in bytes, by its path in the repository.
        url: URL of the commit; None for a dry run.
    """

    repo_id: str
    sizes: dict[str, int]
    url: str | None


def check_repo_id(repo_id: str) -> None:
    """Check that a repository id has the form `user/name`."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"{repo_id}: not the name of a repository ({error})") from error
    if "/" not in repo_id:
        raise ValueError(f"{repo_id}: the owner is missing; use user/{repo_id}")


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
    Publish files in one commit. The commit is retried if the Hub is busy or the connection is lost.

    Args:
        repo_id: repository to publish to, `user/name`.
        repo_type: "dataset", "model" or "space" (of Gradio).
        files: files or their contents, by their path in the repository.
        stale: name endings of files to delete in the same commit, if they are not in `files`.
        message: commit message.
        private: make the repository private.
        revision: branch to publish to. It is created if it does not exist. Defaults to the main branch.
        dry_run: return the list of files without publishing them.

    Raises:
        ValueError: the repository is public, but `private` is True.
        ConnectionError: the Hub could not be reached or was busy in every attempt, or it refused an upload.
        HfHubHTTPError: the Hub rejected the request.
    """
    sizes = {name: len(file) if isinstance(file, bytes) else file.stat().st_size for name, file in files.items()}
    if dry_run:
        return Publication(repo_id, sizes, None)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            url = _commit(repo_id, repo_type, files, stale, message, private, revision)
            return Publication(repo_id, sizes, url)
        except (httpx2.HTTPError, RuntimeError) as error:
            # The library wraps the error of the upload of a file in a RuntimeError.
            reason = _http_error(error)
            if reason is None:
                raise
            response = reason.response if isinstance(reason, httpx2.HTTPStatusError | HfHubHTTPError) else None
            if response is not None and response.status_code not in TRANSIENT_CODES:
                if isinstance(error, HfHubHTTPError):
                    raise
                raise ConnectionError(
                    f"{repo_id}: the Hub refused the upload of a file ({one_line(reason)}). No file of this version is "
                    "visible on the Hub"
                ) from error
            if attempt < ATTEMPTS:
                asked = response.headers.get("Retry-After", "") if response is not None else ""
                time.sleep(float(asked) if asked.isdecimal() else 2**attempt)
    raise ConnectionError(
        f"{repo_id}: the Hub could not be reached or was busy in {ATTEMPTS} attempts ({one_line(reason)}). No file of this "
        "version is visible on the Hub. Repeat the command later; uploaded files are not sent again"
    )


def _http_error(error: BaseException | None) -> httpx2.HTTPError | None:
    """The error of the connection or of the server among an error and its causes."""
    while error is not None and not isinstance(error, httpx2.HTTPError):
        error = error.__cause__
    return error


def _commit(
    repo_id: str,
    repo_type: str,
    files: dict[str, Path | bytes],
    stale: tuple[str, ...],
    message: str,
    private: bool,
    revision: str | None,
) -> str:
    """One attempt. If only the response was lost, the next attempt finds unchanged files and adds no commit."""
    api = HfApi()
    sdk = {"space_sdk": "gradio"} if repo_type == "space" else {}
    api.create_repo(repo_id, repo_type=repo_type, private=private or None, exist_ok=True, **sdk)
    if private and not api.repo_info(repo_id, repo_type=repo_type).private:
        raise ValueError(f"{repo_id}: already exists and is public; make it private on the Hub or choose another name")
    if revision is not None:
        api.create_branch(repo_id, branch=revision, repo_type=repo_type, exist_ok=True)
    present = api.list_repo_files(repo_id, repo_type=repo_type, revision=revision)
    operations = [CommitOperationDelete(name) for name in present if name not in files and name.endswith(stale)]
    operations += [CommitOperationAdd(name, file) for name, file in files.items()]
    commit = api.create_commit(repo_id, operations, commit_message=message, repo_type=repo_type, revision=revision)
    return commit.commit_url
