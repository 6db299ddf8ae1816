"""The layout of a dataset: names of its configurations, splits and files."""

from pathlib import Path

import yaml

from elm_hf.utils.hub import check_name


# Configurations: the table of ECGs, the table of patients, the official split of the dataset authors, and `fold1`,
# `fold2`, ...
RECORDS = "records"
PATIENTS = "patients"
OFFICIAL = "official"
SPLITS = ("train", "validation", "test")

# Other files of a dataset.
BUILD_REPORT_NAME = "build_report.json"
PRIVACY_NAME = "privacy.json"
PICTURE_NAME = "ecg.png"


def fold_config(fold: int | str) -> str:
    """Return the configuration name of a fold: `fold1` for 1 or `"1"`, `official` for `"official"`."""
    return f"fold{fold}" if str(fold).isdecimal() else str(fold)


def parquet_name(split: str, number: int, of: int) -> str:
    """Return the name of a Parquet file as used by `datasets`, such as `train-00000-of-00002.parquet`."""
    return f"{split}-{number:05d}-of-{of:05d}.parquet"


def check_dataset(path: str, fold: int | str | None = None) -> None:
    """
    Check the name of a dataset without importing the libraries that load it.

    Args:
        path: folder or repository.
        fold: fold that the dataset must have; checked for a folder with conversations only.

    Raises:
        FileNotFoundError: there is neither such a folder nor such a repository.
        ValueError: the folder does not contain a dataset in this layout, or does not have the fold.
    """
    check_name(path, repo_type="dataset")
    folder = Path(path)
    if not folder.is_dir():
        return
    configs = _configs_of(folder)
    folds = [name for name in configs if name == OFFICIAL or name.removeprefix("fold").isdecimal()]
    if not folds and RECORDS not in configs:
        raise ValueError(
            f"{path}: not an elm-hf dataset (no configuration `{RECORDS}`; found {', '.join(configs) or 'none'})"
        )
    if fold is not None and fold_config(fold) not in folds and (folds or PATIENTS not in configs):
        raise ValueError(f"{path}: no {fold_config(fold)!r}; available: {', '.join(folds) or 'no folds'}")


def _configs_of(folder: Path) -> list[str]:
    """The configurations that the card of a folder names; without a card, its sub-folders."""
    card = folder / "README.md"
    header = card.read_text(encoding="utf-8").split("---")[1:2] if card.is_file() else []
    try:
        configs = (yaml.safe_load(header[0]) or {}).get("configs") if header else None
        return sorted(config["config_name"] for config in configs)
    except (yaml.YAMLError, AttributeError, KeyError, TypeError):
        return sorted(each.name for each in folder.iterdir() if each.is_dir())
