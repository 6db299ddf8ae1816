"""`privacy.json`, which lists what each column of a dataset holds about persons."""

import json
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from elm_hf.data.layout import PRIVACY_NAME, RECORDS
from elm_hf.prepare.builder import find_builder
from elm_hf.prepare.names import dataset_names
from elm_hf.prepare.pseudonyms import is_pseudonym


PSEUDONYMS, AS_GIVEN = "pseudonyms", "as in the source"
ID, PERSON, HEALTH, TEXT, TECHNICAL = "id", "about the person", "health data", "free text", "technical"

_COLUMNS = {
    "source": (TECHNICAL, "name of the dataset that the recording is from"),
    "segment": (TECHNICAL, "position in the recording"),
    "start_s": (TECHNICAL, "seconds since the start of the recording; no date and no time of the day"),
    "sampling_rate": (TECHNICAL, "Hz"),
    "num_samples": (TECHNICAL, "length of the record"),
    "missing_leads": (TECHNICAL, "leads without a signal"),
    "ecg": (HEALTH, "the signal, which may identify a person by comparison with other ECGs of the person"),
    "sex": (PERSON, "male or female"),
    "device": (TECHNICAL, "electrocardiograph, as named in the source"),
    "site": (TECHNICAL, "place of the recording, as numbered in the source"),
    "noise": (TECHNICAL, "kinds of noise that are annotated in the source"),
    "labels": (HEALTH, "findings, as written in the source"),
    "report": (TEXT, "report, as written in the source"),
    "messages": (TEXT, "conversation, as written in the source or made from its data"),
    "question": (TEXT, "question, as written in the source or made from its data"),
    "answer": (TEXT, "answer, as written in the source or made from its data"),
    "question_type": (TECHNICAL, "type of the question"),
    "attribute_type": (TECHNICAL, "type of the attribute that is asked about"),
    "template_id": (TECHNICAL, "template of the question"),
    "conversation_id": (TECHNICAL, "dataset and number or id of the entry of the source"),
    "ecg_index": (TECHNICAL, "rows of the ECGs in records"),
    "test_fold": (TECHNICAL, "fold that tests the patient"),
    "validation_fold": (TECHNICAL, "fold that validates on the patient"),
}
_NOT_COPIED = [
    *(
        "dates of birth and of recordings",
        "comments of WFDB headers",
        "demographics of XML files",
        "tags of DICOM files",
    ),
    "columns of tables that are not listed here",
]


def ids_of_own_data(folder: Path) -> str | None:
    """
    What the ids of the publisher's own data are: `PSEUDONYMS` or `AS_GIVEN`; None if there are none.

    Args:
        folder: folder of a dataset.
    """
    found = None
    for path in sorted((folder / RECORDS).glob("*.parquet")):
        table = pq.read_table(path, columns=["source", "recording_id", "patient_id"])
        for source in table["source"].unique().to_pylist():
            if source not in dataset_names() or not find_builder(source).OWN_DATA:
                continue
            rows = table.filter(pc.equal(table["source"], source))
            names = {name for column in ("recording_id", "patient_id") for name in rows[column].unique().to_pylist()}
            if not all(map(is_pseudonym, names)):
                return AS_GIVEN
            found = PSEUDONYMS
    return found


def privacy_report(folder: Path, report: dict) -> dict:
    """
    Return the content of `privacy.json`.

    Args:
        folder: folder with the tables.
        report: build report.
    """
    ids, own = ids_of_own_data(folder), report.get("own_data") or {}
    tables = {}
    for path in sorted(path for path in folder.iterdir() if path.is_dir()):
        files = sorted(path.glob("*.parquet"))
        if files:
            columns = pq.read_schema(files[0]).names
            tables[path.name] = {
                name: dict(zip(("kind", "holds"), _content(name, ids, "key" in own))) for name in columns
            }
    found = {"dataset": report["dataset"], "ids": ids or AS_GIVEN}
    if ids is not None:
        found |= {"key": own.get("key"), "not_copied": _NOT_COPIED, "texts": own.get("texts", {})}
    return found | {"tables": tables}


def write_privacy(folder: Path, report: dict) -> None:
    """Write `privacy.json` into the folder of a dataset."""
    text = json.dumps(privacy_report(folder, report), indent=2) + "\n"
    (folder / PRIVACY_NAME).write_text(text, encoding="utf-8")


def _content(column: str, ids: str | None, has_capped_ages: bool) -> tuple[str, str]:
    """The kind of a column and what it holds."""
    if column in ("patient_id", "patient_ids"):
        return ID, {
            PSEUDONYMS: "pseudonym: keyed hash (HMAC-SHA256) of the patient id; the key is not part of the dataset",
            AS_GIVEN: "patient id as given by the publisher",
            None: "id of the patient in the published source, by which datasets about the same patients are joined",
        }[ids]
    if column in ("recording_id", "record_id", "record_ids"):
        return ID, {
            PSEUDONYMS: "pseudonym: keyed hash (HMAC-SHA256) of the file name; the key is not part of the dataset",
            AS_GIVEN: "name of the file as given by the publisher",
            None: "id of the recording in the published source, by which datasets about the same ECGs are joined",
        }[ids]
    if column == "age":
        return PERSON, "years; 90 stands for 90 and over" if has_capped_ages else "years, as in the source"
    if column.endswith("_statements"):
        removed = "; dates, and names of those who confirmed it, are removed" if ids == PSEUDONYMS else ""
        return TEXT, f"statements in the file of the electrocardiograph{removed}"
    if column.startswith("device_"):
        return HEALTH, "measurement in the file of the electrocardiograph"
    return _COLUMNS.get(column, (HEALTH, "data of the source, see the dataset card"))
