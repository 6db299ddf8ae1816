"""Names of models and datasets: folders, or repositories on the Hub."""

from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id


def split_revision(name: str) -> tuple[str, str | None]:
    """`user/name@revision` in its two parts; None where no branch, tag or commit is named."""
    repo, _, revision = name.partition("@")
    return repo, revision or None


def check_name(name: str, needs_owner: bool = True) -> None:
    """
    Refuses at once what is no folder and cannot be a repository, such as a mistyped path, before anything asks the Hub.

    Args:
        name: folder or repository.
        needs_owner: whether a repository's name has two parts, `owner/name`, as all but the oldest have.

    Raises:
        FileNotFoundError: it is neither.
    """
    if Path(name).is_dir():
        return
    try:
        validate_repo_id(name)
        is_repository = "/" in name or not needs_owner
    except HFValidationError:
        is_repository = False
    if not is_repository:
        raise FileNotFoundError(f"{name}: no such folder, and not the name of a repository on the Hub (owner/name)")
