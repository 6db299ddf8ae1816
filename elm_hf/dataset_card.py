"""The card (README.md) of a built dataset: `cards/dataset_card.md` filled with the numbers of the build."""

import hashlib
from importlib.resources import files
from pathlib import Path

from huggingface_hub import DatasetCard, DatasetCardData

from elm_hf.dataset_builder import dataset_names, find_builder


def write_card(folder: Path, name: str, report: dict, sources: list[str], example: dict) -> None:
    """
    Write README.md, whose YAML tells `datasets` which files belong to which configuration and split.

    Args:
        folder: of the dataset; its sub-folders are the configurations.
        name: what the dataset is loaded by in the examples.
        report: the build report.
        sources: names of the datasets that the records and conversations come from.
        example: a row of the conversations, which is shown.
    """
    credits = [find_builder(source) for source in sources if source in dataset_names()]
    builder = find_builder(report["dataset"])
    licenses = sorted({credit.LICENSE for credit in credits})
    data = DatasetCardData(
        pretty_name=builder.PRETTY_NAME,
        license=licenses[0] if len(licenses) == 1 else licenses,
        task_categories=["question-answering", "text-generation"],
        tags=["ecg", "electrocardiogram", "medical", "elm-hf"],
        configs=_configs(folder),
    )
    card = DatasetCard.from_template(
        data,
        name=name,
        template_str=files("elm_hf.cards").joinpath("dataset_card.md").read_text(encoding="utf-8"),
        description=builder.DESCRIPTION,
        credits=credits,
        report=report,
        records=report["records"],
        seconds=report["records"]["samples"] / report["records"]["sampling_rate"] if report["records"]["records"] else 0,
        official=report["splits"].get("official"),
        folds={name: fold for name, fold in report["splits"].items() if name != "official"},
        example=example,
    )
    card.save(folder / "README.md")


def _configs(folder: Path) -> list[dict]:
    """The `configs` of the YAML header; the first fold is the one that `load_dataset` takes when none is named."""
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    configs = []
    for name in names:
        splits = {path.name.split("-")[0] for path in (folder / name).glob("*.parquet")}
        ordered = [split for split in ("train", "validation", "test") if split in splits]
        data_files = [{"split": split, "path": f"{name}/{split}-*.parquet"} for split in ordered]
        config = {"config_name": name, "description": _fingerprint(folder / name), "data_files": data_files}
        configs.append(config | ({"default": True} if name == "fold1" else {}))
    return configs


def _fingerprint(folder: Path) -> str:
    """
    What tells one build from another. `datasets` caches a local folder under its name and this header, and without it
    would go on loading an earlier build, or another of the same name.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return f"build {digest.hexdigest()[:16]}"
