"""Publishes models, adapters and encoders in one commit, with a card of their data, training and evaluation."""

import json
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path

from peft.utils import CONFIG_NAME
from transformers.tokenization_utils_base import TOKENIZER_CONFIG_FILE

from elm_hf.checkpoints.card_sections import published_card, report_figures
from elm_hf.checkpoints.encoder_card import card_of_encoder
from elm_hf.checkpoints.eval_results import eval_results_files
from elm_hf.modeling.configuration_elm import ElmConfig
from elm_hf.modeling.processing_elm_base import LOADING_NOTES
from elm_hf.utils.encoder_origin import UNKNOWN_LICENSE
from elm_hf.utils.files import check_links
from elm_hf.utils.hub import Publication, check_repo_id, publish_files
from elm_hf.utils.reports import REPORT_NAME, public_name, read_report


# Endings of weight files that are deleted if only an earlier version has them.
STALE_WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".pt")
# Files and folders of training in the folder of a checkpoint that do not belong to it. Some hold paths of the machine.
NOT_OF_A_CHECKPOINT = (
    "trainer_state.json",
    "checkpoint-*",
    "runs",
    "logs",
    "global_step*",
    ".*",
    "_*",
    "run.json",
    "*.run.json",
)
# A folder with one of these files is that of an evaluation, which holds answers about patients.
OF_AN_EVALUATION = (REPORT_NAME, "run.json", "predictions.parquet", "probe.json", "zero_shot.json")
# Fields of configurations with the folder or repository that a part was loaded from.
PLACES = ("_name_or_path", "name_or_path")
NOT_PUBLISHED = (".bin", ".pt", ".pth", ".pkl", ".jsonl", ".log", ".npz")


def publish_model(
    folder: str | PathLike,
    repo_id: str,
    evaluations: Sequence[str | PathLike] = (),
    private: bool = False,
    revision: str | None = None,
    dry_run: bool = False,
    base: str | None = None,
    license: str | None = None,
) -> Publication:
    """
    Publishes an ELM, an adapter or an ECG encoder, with a card of its data, hyperparameters and evaluation.

    Args:
        folder: folder of the checkpoint, written by training or by `save_pretrained`. Optimizer states, logs and
            pickles in it are not published.
        repo_id: repository, `user/name`.
        evaluations: `report.json` files of `elm-hf evaluate`, or their folders, whose results are added to the card of
            an ELM. The card of an encoder has those that `elm-hf evaluate-encoder --update-card` has written.
        private, revision, dry_run: as in `publish_dataset`.
        base: repository of the checkpoint that an adapter was trained on. Defaults to the base that the adapter names.
        license: licence of the weights for the card, such as `"apache-2.0"`; that of the LLM by default.

    Raises:
        ValueError: `folder` is not a checkpoint or has links that lead out of it, no licence is stated for the weights of
            its encoder, the base of the adapter is a local folder, a report is not one, or is given for an encoder.
        ConnectionError, HfHubHTTPError: as in `publish_dataset`.
    """
    folder = Path(folder)
    check_repo_id(repo_id)
    check_links(folder)
    check_license(folder)
    adapter = _adapter_config(folder, base)
    is_encoder = adapter is None and _config(folder).get("model_type", ElmConfig.model_type) != ElmConfig.model_type
    if is_encoder and evaluations:
        raise ValueError(
            f"{folder}: an encoder, whose results are not those of elm-hf evaluate; leave out --evaluation, and write them "
            "into its card with elm-hf evaluate-encoder --update-card"
        )
    reports = [read_report(path) for path in evaluations]
    files = public_files(folder)
    if is_encoder:
        files["README.md"] = card_of_encoder(folder, repo_id, license).encode()
    else:
        base = adapter and adapter["base_model_name_or_path"]
        files["README.md"] = str(published_card(folder, repo_id, reports, base, license)).encode()
    files |= eval_results_files(reports) | report_figures(evaluations, reports)
    if adapter is not None:
        files[CONFIG_NAME] = (json.dumps(adapter, indent=2) + "\n").encode()
    return publish_files(repo_id, "model", files, STALE_WEIGHTS, "Trained with elm-hf", private, revision, dry_run)


def _config(folder: Path) -> dict:
    """The settings of a full checkpoint; empty for an adapter."""
    path = folder / "config.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def check_license(folder: Path):
    """Refuses an encoder, or an ELM with an encoder, for whose weights no licence is stated."""
    config = _config(folder)
    for part in (config, config.get("encoder_config") or {}):
        if part.get("license") == UNKNOWN_LICENSE:
            raise ValueError(
                f"{folder / 'config.json'}: has the weights of {part['model_type']}, for which no licence is stated; they may be used "
                "locally, but not published"
            )


def _adapter_config(folder: Path, base: str | None) -> dict | None:
    """The `adapter_config.json` to publish, with a base that others can load; None for a full checkpoint."""
    path = folder / CONFIG_NAME
    if not path.is_file():
        if base is not None:
            raise ValueError(f"{folder}: not an adapter ({CONFIG_NAME} is missing); leave out --base")
        return None
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base = base or config["base_model_name_or_path"]
    if Path(base).is_absolute() or Path(base).is_dir():
        raise ValueError(
            f"{folder}: an adapter of {base}, a local folder that others cannot load; publish that as well and name "
            "its repository with --base, or merge both with elm-hf merge and publish the result"
        )
    check_repo_id(base)
    return config


def _without_places(path: Path) -> Path | bytes:
    """A file, or the content of a configuration without from where its parts, and how its tokenizer, were loaded."""
    if not path.name.endswith("config.json"):
        return path
    settings = json.loads(path.read_text(encoding="utf-8"))
    notes = [name for name in LOADING_NOTES if path.name == TOKENIZER_CONFIG_FILE and name in settings]
    for name in notes:  # of versions that saved them
        del settings[name]
    if not _remove_places(settings) and not notes:
        return path
    return (json.dumps(settings, indent=2, ensure_ascii=False) + "\n").encode()


def _remove_places(settings: object) -> bool:
    """Remove local folders from the fields in which transformers notes them. Returns whether there were any."""
    if not isinstance(settings, dict):
        return False
    found = [
        name
        for name in PLACES
        if isinstance(settings.get(name), str) and public_name(settings[name]) != settings[name]
    ]
    for name in found:
        del settings[name]
    in_parts = [_remove_places(part) for part in settings.values()]
    return bool(found) or any(in_parts)


def public_files(folder: Path) -> dict[str, Path | bytes]:
    """The files of a checkpoint as they are published, by their path in the repository; see [`checkpoint_files`]."""
    return {path.relative_to(folder).as_posix(): _without_places(path) for path in checkpoint_files(folder)}


def checkpoint_files(folder: Path) -> list[Path]:
    """
    The files of a checkpoint, without earlier checkpoints, evaluations, logs, hidden files, pickles, and the state of its
    training.

    Raises:
        ValueError: the folder is not a checkpoint, or has no weights.
    """
    if not any((folder / name).is_file() for name in ("config.json", CONFIG_NAME)):
        raise ValueError(f"{folder}: not a checkpoint (neither config.json nor {CONFIG_NAME} is there)")
    files = sorted(path for path in _files_in(folder) if path.suffix not in NOT_PUBLISHED)
    if not any(path.suffix == ".safetensors" for path in files):
        raise ValueError(f"{folder}: no weights (*.safetensors); save the model with save_pretrained")
    return files


def _files_in(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if any(path.match(pattern) for pattern in NOT_OF_A_CHECKPOINT):
            continue
        if path.is_file():
            yield path
        elif path.is_dir() and not any((path / name).exists() for name in OF_AN_EVALUATION):
            yield from _files_in(path)
