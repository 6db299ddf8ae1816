"""Publishing trained models: in one commit, with a card of their data, training and evaluation."""

import json
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from peft.utils import CONFIG_NAME

from elm_hf.checkpoints.card import model_card, read_training
from elm_hf.utils.hub import Publication, check_repo_id, publish_files
from elm_hf.utils.reports import read_report


# Weights of an earlier version that a new one does not have.
STALE_WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".pt")
# What training leaves beside a checkpoint.
NOT_OF_A_CHECKPOINT = ("checkpoint-*", "runs", "global_step*", ".*", "_*")
NOT_PUBLISHED = (".bin", ".pt", ".pth", ".pkl")


def publish_model(
    folder: str | PathLike,
    repo_id: str,
    evaluations: Sequence[str | PathLike] = (),
    private: bool = False,
    revision: str | None = None,
    dry_run: bool = False,
    base: str | None = None,
) -> Publication:
    """
    Publish a trained ELM or its adapter, with a card that has its data, hyper-parameters and evaluation.

    Args:
        folder: of the checkpoint, as `train_sft.py` or `save_pretrained` wrote it. Optimizer states, logs and pickles that
            training left there stay.
        repo_id: `user/name`.
        evaluations: `report.json` of `elm-hf evaluate`, or folders with one: results for the card.
        private, revision, dry_run: as for datasets.
        base: of an adapter, the repository in which others find what it was trained on; the one that it names by default.

    Raises:
        ValueError: `folder` holds no checkpoint, the adapter's base is a folder of this machine, or an evaluation is none.
        ConnectionError, HfHubHTTPError: as for datasets.
    """
    folder = Path(folder)
    check_repo_id(repo_id)
    adapter = _adapter_config(folder, base)
    reports = [read_report(path) for path in evaluations]
    card = model_card(folder, repo_id, read_training(folder), reports, adapter and adapter["base_model_name_or_path"])
    files: dict[str, Path | bytes] = {path.relative_to(folder).as_posix(): path for path in _checkpoint_files(folder)}
    files["README.md"] = str(card).encode()
    if adapter is not None:
        files[CONFIG_NAME] = (json.dumps(adapter, indent=2) + "\n").encode()
    return publish_files(repo_id, "model", files, STALE_WEIGHTS, "Trained with elm-hf", private, revision, dry_run)


def _adapter_config(folder: Path, base: str | None) -> dict | None:
    """What `adapter_config.json` is to say, whose base others must be able to load; None of a full checkpoint."""
    path = folder / CONFIG_NAME
    if not path.is_file():
        if base is not None:
            raise ValueError(f"{folder}: no adapter (no {CONFIG_NAME}), so it has no base (--base)")
        return None
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base = base or config["base_model_name_or_path"]
    if Path(base).is_absolute() or Path(base).is_dir():
        raise ValueError(
            f"{folder}: an adapter of {base}, a folder of this machine, which others do not have; publish that, too, and name its "
            "repository with --base, or publish what elm-hf merge makes of both"
        )
    check_repo_id(base)
    return config


def _checkpoint_files(folder: Path) -> list[Path]:
    """The files of a checkpoint: no earlier checkpoints, logs or hidden files, and nothing that is pickled."""
    if not any((folder / name).is_file() for name in ("config.json", CONFIG_NAME)):
        raise ValueError(f"{folder}: no checkpoint (neither config.json nor {CONFIG_NAME})")
    top = [path for path in folder.iterdir() if not any(path.match(pattern) for pattern in NOT_OF_A_CHECKPOINT)]
    nested = [file for path in top for file in ([path] if path.is_file() else path.rglob("*"))]
    files = sorted(path for path in nested if path.is_file() and path.suffix not in NOT_PUBLISHED)
    if not any(path.suffix == ".safetensors" for path in files):
        raise ValueError(f"{folder}: no weights (*.safetensors); save the model with save_pretrained")
    return files
