"""The dataset card (README.md): the template `cards/dataset_card.md`, filled from the build report."""

import hashlib
from importlib.resources import files
from pathlib import Path

import pyarrow.parquet as pq
from huggingface_hub import DatasetCard, DatasetCardData

from elm_hf.data.ecg_table import StreamedEcgTable
from elm_hf.data.layout import BUILD_REPORT_NAME, OFFICIAL, PATIENTS, PICTURE_NAME, RECORDS, SPLITS, fold_config
from elm_hf.data.messages import message_text
from elm_hf.ecg.plot import plot_ecg
from elm_hf.prepare.builder import find_builder
from elm_hf.prepare.licenses import UNKNOWN_LICENSE, Credit, license_fields
from elm_hf.prepare.names import dataset_names
from elm_hf.utils.files import read_json


MAX_EXAMPLES, MAX_EXAMPLE_LENGTH = 3, 600


def write_card(folder: Path, name: str) -> None:
    """
    Write README.md and the image of an ECG that it shows. The YAML header of README.md lists the files of each
    configuration and split for `datasets`.

    Args:
        folder: folder of the dataset, which contains the build report and a sub-folder for each configuration.
        name: name or path of the dataset in the code examples.
    """
    records = sorted((folder / RECORDS).glob("*.parquet"))
    if records:
        table = StreamedEcgTable()
        table.add_files([str(records[0])])
        first = pq.ParquetFile(records[0]).read_row_group(0, ["record_id", "sampling_rate"]).slice(0, 1).to_pylist()[0]
        picture = plot_ecg(table[0], first["sampling_rate"], title=first["record_id"])
        picture.save(folder / PICTURE_NAME)
    dataset_card(folder, name).save(folder / "README.md")


def dataset_card(folder: Path, name: str, ids_only: Path | None = None, report: dict | None = None) -> DatasetCard:
    """
    Return the card of a built dataset.

    Args:
        folder: folder of the build.
        name: name or path of the dataset in the code examples.
        ids_only: folder of the files to publish instead of those of the build, if signals and texts are not published.
        report: build report. Defaults to that of the folder.
    """
    report = report or read_json(folder / BUILD_REPORT_NAME)
    records, builder, sources = report["records"], find_builder(report["dataset"]), credited(folder, report)
    title = sources[0].name if sources and sources[0].is_own else builder.PRETTY_NAME
    data = DatasetCardData(
        pretty_name=title,
        **license_fields(sorted({source.license for source in sources})),
        task_categories=["question-answering", "text-generation"],
        tags=["ecg", "electrocardiogram", "medical", "elm-hf"],
        configs=_configs(ids_only or folder),
    )
    return DatasetCard.from_template(
        data,
        name=name,
        template_str=files("elm_hf.cards").joinpath("dataset_card.md").read_text(encoding="utf-8"),
        description=builder.DESCRIPTION,
        credits=sources,
        report=report,
        question_types=_question_types(report.get("templates", [])),
        notes=report.get("notes", []) + report.get("record_notes", []),  # builds of earlier versions have neither
        records=records,
        seconds=records["samples"] / records["sampling_rate"] if records["records"] else 0,
        official=report["splits"].get(OFFICIAL),
        official_splits=[split for split in SPLITS if split in report["splits"].get(OFFICIAL, ())],
        test_only=builder.TEST_ONLY,
        shown="test" if builder.TEST_ONLY else "train",
        folds={name: fold for name, fold in report["splits"].items() if name != OFFICIAL},
        labels=report.get("labels"),  # builds of earlier versions have neither
        has_patients=(folder / PATIENTS).is_dir(),
        taken_from_records=report.get("folds_from_records"),
        examples=[] if ids_only else _examples(folder),
        picture=PICTURE_NAME if (folder / PICTURE_NAME).is_file() and not ids_only else None,
        ids_only=ids_only is not None,
        has_lists=(folder / "skipped.csv").is_file() and ids_only is None,
        build=folder.name,
    )


def credited(folder: Path, report: dict) -> list[Credit]:
    """Return the sources of a build: first that of the conversations, then those of the records."""
    columns = [pq.read_table(path, columns=["source"])["source"] for path in (folder / RECORDS).glob("*.parquet")]
    sources = {source for column in columns for source in column.unique().to_pylist()} - {report["dataset"]}
    builders = [find_builder(name) for name in (report["dataset"], *sorted(sources)) if name in dataset_names()]
    own = report.get("own_data") or {}  # builds of earlier versions have none
    return [
        Credit(
            own.get("title") or each.PRETTY_NAME,
            each.HOMEPAGE,
            own.get("license") or UNKNOWN_LICENSE,
            own.get("citation") or "",
            is_own=True,
        )
        if each.OWN_DATA
        else Credit(each.PRETTY_NAME, each.HOMEPAGE, each.LICENSE, each.CITATION)
        for each in builders
    ]


def _question_types(templates: list[dict]) -> dict[str, dict]:
    """Number of templates and questions, and blind accuracy, of each question type."""
    types = {}
    for entry in templates:
        found = types.setdefault(entry["question_type"], {"templates": 0, "questions": 0, "blind": 0})
        found["blind"] = found["blind"] * found["questions"] + entry["blind_majority"] * entry["questions"]
        found["templates"] += 1
        found["questions"] += entry["questions"]
        found["blind"] /= found["questions"]
    return types


def _examples(folder: Path) -> list[dict]:
    """Example conversations of the first question types: number of ECGs, question and answer."""
    files = [path for config in (fold_config(1), OFFICIAL) for path in sorted((folder / config).glob("*.parquet"))]
    if not files:  # too few patients for folds
        return []
    path = files[0]
    types = pq.read_table(path, columns=["question_type"])["question_type"].to_pylist()
    rows = sorted({question_type: row for row, question_type in reversed(list(enumerate(types)))}.values())
    table = pq.read_table(path, columns=["conversation_id", "ecg_index", "messages"]).take(rows[:MAX_EXAMPLES])
    return [
        {
            "conversation_id": row["conversation_id"],
            "num_ecgs": len(row["ecg_index"]),
            "question": _first_words(row["messages"], "user"),
            "answer": _first_words(row["messages"], "assistant"),
        }
        for row in table.to_pylist()
    ]


def _first_words(messages: list[dict], role: str) -> str:
    """The first message of a role, as lines of a block quote."""
    text = message_text(next(message for message in messages if message["role"] == role))
    text = text if len(text) <= MAX_EXAMPLE_LENGTH else text[:MAX_EXAMPLE_LENGTH].rsplit(" ", 1)[0] + " ..."
    return "\n> ".join(text.splitlines())


def _configs(folder: Path) -> list[dict]:
    """The `configs` of the YAML header. The first fold is the default configuration."""
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    configs = []
    for name in names:
        splits = {path.name.split("-")[0] for path in (folder / name).glob("*.parquet")}
        ordered = [split for split in SPLITS if split in splits]
        data_files = [{"split": split, "path": f"{name}/{split}-*.parquet"} for split in ordered]
        config = {"config_name": name, "description": _fingerprint(folder / name), "data_files": data_files}
        configs.append(config | ({"default": True} if name == fold_config(1) else {}))
    return configs


def _fingerprint(folder: Path) -> str:
    """
    A digest of the files of a configuration. The cache of `datasets` for a local folder depends on the folder name and
    the YAML header only. Without the digest, it would continue to load an earlier build of the same name.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return f"build {digest.hexdigest()[:16]}"
