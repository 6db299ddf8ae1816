"""The user's own data: what a build says about them, and the names behind their pseudonyms, which are not published."""

import csv
import logging
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from elm_hf.data.layout import BUILD_REPORT_NAME
from elm_hf.prepare.builder import ElmDatasetBuilder
from elm_hf.utils.files import read_json


logger = logging.getLogger(__name__)

# File with the names behind the pseudonyms, in a folder beside the dataset.
IDS_NAME = "ids.csv"
# The kinds of `ElmDatasetBuilder.personal_texts`.
WITH_DATE, WITH_PATIENT_ID = "rows_with_a_date", "rows_with_their_patient_id"


def own_data_of(builder: ElmDatasetBuilder) -> dict:
    """What the build report says about the user's own data; no path of the key."""
    config = builder.config
    return {
        "title": config.title,
        "license": config.license,
        "citation": config.citation,
        "key": None if builder.pseudonyms is None else builder.pseudonyms.key_id,
        "texts": builder.personal_texts(),
    }


def own_data_of_records(paths: Sequence[str | PathLike]) -> dict | None:
    """
    What the build reports of the datasets with the records say about the user's own data; None if they are published
    datasets.

    Raises:
        ValueError: their ids have different keys.
    """
    reports = {path: Path(path) / BUILD_REPORT_NAME for path in paths}
    own = {path: read_json(report).get("own_data") for path, report in reports.items() if report.is_file()}
    own = {path: found for path, found in own.items() if found is not None}
    if len({found["key"] for found in own.values()}) > 1:
        keys = ", ".join(f"{path}: {found['key'] or 'ids as given'}" for path, found in own.items())
        raise ValueError(
            f"the ids of the datasets with the records were made with different keys ({keys}), so that the same patient can be "
            "in train and in test; build them with the same key (--key)"
        )
    return next(iter(own.values()), None)


def check_same_key(output: Path, own_data: dict | None) -> None:
    """Warn if the dataset that is replaced has pseudonyms of another key."""
    report = output / BUILD_REPORT_NAME
    before = read_json(report).get("own_data") if report.is_file() else None
    if own_data and before and before["key"] and own_data["key"] and before["key"] != own_data["key"]:
        logger.warning(
            "%s: the pseudonyms are now made with the key %s, and were made with the key %s: all patients and recordings have "
            "other ids, and datasets of both keys cannot be joined",
            output,
            own_data["key"],
            before["key"],
        )


def write_ids(folder: Path, builder: ElmDatasetBuilder) -> None:
    """Write which patient and file are behind each pseudonym."""
    with (folder / IDS_NAME).open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("recording_id", "patient_id", "file_name", "patient_id_in_the_source"))
        for reference in builder.distinct_references():
            name, patient = reference["recording_id"], reference["patient_id"]
            rows.writerow((builder.published_name(name), builder.published_patient(patient), name, patient))


def privacy_lines(report: dict, output: Path) -> list[str]:
    """
    Return what a build of the user's own data keeps and hides, a line for each, for whoever builds it.

    Args:
        report: build report.
        output: folder of the dataset.
    """
    own = report.get("own_data")
    if own is None or report["folds_from_records"]:  # said when the records were built
        return []
    if own["key"] is not None:
        lines = [
            f"ids of patients and recordings are pseudonyms (key {own['key']}); the ids and file names behind them"
        ]
        lines[0] += f" are in {private_folder(output)}, which is not published"
    else:
        lines = [
            "kept as they are: patient ids (patient_id), names of files (recording_id, record_id, skipped.csv, left_out.csv), "
            "and dates and names in statements of electrocardiographs"
        ]
    texts = own["texts"]
    if any(texts.values()):
        lines.append(
            f"{texts[WITH_DATE]} rows contain a date and {texts[WITH_PATIENT_ID]} rows their patient id in question, answer, "
            "report, messages or labels; these are copied as written: change them in the table if they must not be published"
        )
    return lines


def private_folder(output: Path) -> Path:
    """The folder beside a dataset with the names that are not published."""
    return output.with_name(f"{output.name}.private")
