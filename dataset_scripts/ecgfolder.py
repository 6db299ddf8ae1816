"""A folder of ECG files with a table of metadata, similar to the folders of images in `datasets`."""

import filecmp
import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from datasets import List, Value

from elm_hf.data.layout import SPLITS
from elm_hf.data.messages import ecg_messages
from elm_hf.ecg.files import read_ecg_file
from elm_hf.ecg.recording import Recording, RecordingError, path_within
from elm_hf.ecg.spreadsheet import to_hertz
from elm_hf.modeling.device_files import DEVICE_COLUMNS
from elm_hf.modeling.folder_paths import Folder, path_inside
from elm_hf.modeling.wfdb_header import read_header
from elm_hf.prepare.builder import OWN_DATA_OPTIONS, ElmDatasetBuilder
from elm_hf.prepare.folder_tables import (
    PATIENT_FIELDS,
    SAID_FIELDS,
    SIGNAL_FIELDS,
    FolderTables,
    file_names,
    from_json,
)
from elm_hf.prepare.instruct import EntryError, check_order, place_ecgs
from elm_hf.prepare.own_data import WITH_DATE, WITH_PATIENT_ID
from elm_hf.prepare.personal_text import has_date, without_persons
from elm_hf.prepare.quantities import SEXES, age_on, to_date, to_years
from elm_hf.utils.errors import short


# values for a missing patient id
NO_PATIENT = ("", "nan", "na", "n/a", "<na>", "none", "null", "unknown", "?", "-")
# number of bytes that are compared first, to find candidates for equal files
SAMPLE_SIZE = 4096
# fields that are copied as they are written, and the length of ids that are searched in them
TEXT_FIELDS = (*SAID_FIELDS, "question_type", "labels")
SHORTEST_ID = 4
# patients over 89 are few; 90 stands for all of them
OLDEST_AGE = 90
REPORT_QUESTION = "Write the report of {}."


class Ecgfolder(ElmDatasetBuilder):
    """
    A row of the metadata is a conversation about the ECG in `file_name`, or about several ECGs if `file_name` is a
    list. The conversation is given by `messages`, by `question` and `answer`, or by `report`. If no row has any of these,
    or there is no metadata, the dataset has no conversations. See docs/own_data.md.
    """

    PRETTY_NAME = "ECG folder"
    DESCRIPTION = "ECGs and conversations from a folder of files with metadata."
    HOMEPAGE = ""
    LICENSE = "unknown"
    CITATION = ""
    OWN_DATA = True
    OPTIONS = OWN_DATA_OPTIONS
    RECORD_FEATURES = {
        name: List(Value("string")) if name.endswith("_statements") else Value("float32") for name in DEVICE_COLUMNS
    }

    def list_recordings(self) -> Iterator[dict]:
        """List each file of the metadata once."""
        recordings, first_row = {}, {}
        for where, row in self._rows(_ignore):
            try:
                files = file_names(row, self.source_folder())
            except EntryError:
                continue  # reported by `list_conversations`
            for reference in self._references(where, row, files):
                name = reference["recording_id"]
                known = recordings.setdefault(name, dict.fromkeys(reference))
                for field, value in reference.items():
                    if known[field] is None and value is not None:
                        known[field], first_row[name, field] = value, where
                    elif field in SIGNAL_FIELDS and value not in (None, known[field]):
                        raise ValueError(
                            f"{where}: {field} {value!r} for {name}, but {first_row[name, field]} has "
                            f"{known[field]!r}; use the same value in all rows of a file, or set it once"
                        )
                first_row.setdefault(name, where)
        _check_spelling([known["patient_id"] for known in recordings.values()])
        for name, known in recordings.items():
            if known["patient_id"] is None and not self.config.one_patient_per_file:
                raise ValueError(
                    f"{first_row[name]}: no patient_id for {name}. Without it, ECGs of the same patient can be in "
                    "train and in test. Fill the column patient_id, or set one_patient_per_file "
                    "(--one-patient-per-file) if every file is of a different patient"
                )
            known["patient_id"] = known["patient_id"] or name
        _check_copies(self.source_folder(), recordings.values())
        yield from recordings.values()

    def read_recording(self, reference: dict) -> tuple[Recording, dict]:
        """Read the ECG of a file, with the metadata of its patient."""
        metadata = {"age": _age(reference), "sex": _sex(reference), "report": reference["report"]}
        metadata["labels"] = _list(reference["labels"], ";") or []
        rate = _converted(reference, "sampling_rate", to_hertz)
        folder, leads = self.source_folder(), _list(reference["leads"], ",")
        path = path_within(folder, reference["recording_id"])
        recording = read_ecg_file(path, rate, leads, reference["units"], folder)
        return recording, metadata | self._device_report(recording)

    def _device_report(self, recording: Recording) -> dict:
        """What the device measured and stated, without dates and names if the patients get pseudonyms."""
        report = dict(recording.device_report)
        for column in report if self.pseudonyms is not None else ():
            if column.endswith("_statements"):
                report[column] = [without_persons(text) for text in report[column]]
        if report != recording.device_report:
            self.counts["note dates or names were removed from its statements"] += 1
        return report

    def has_conversations(self) -> bool:
        """Whether a row contains one."""
        return any(row[field] is not None for _, row in self._rows(_ignore) for field in SAID_FIELDS)

    def list_conversations(self) -> Iterator[dict]:
        """List a conversation for each row. Without conversations, only rows without files are left out."""
        has_conversations = self.has_conversations()
        for number, (where, row) in enumerate(self._rows(self.leave_out)):
            try:
                files = file_names(row, self.source_folder())
                if has_conversations:
                    said = _conversation(row, len(files))
                    yield {"conversation_id": f"ecgfolder-{number}", "recording_ids": files, **said}
            except EntryError as error:
                self.leave_out(error.reason, f"{where}: {error}")

    def reading_notes(self) -> list[str]:
        """What the tables were found to mean."""
        tables = FolderTables(self.source_folder())
        for _ in tables.rows(_ignore):
            pass
        return tables.notes

    def personal_texts(self) -> dict[str, int]:
        """How many rows contain a date, or the id of their patient, in a text that is copied as written."""
        found = {WITH_DATE: 0, WITH_PATIENT_ID: 0}
        for _, row in self._rows(_ignore):
            texts = [json.dumps(row[field], ensure_ascii=False) for field in TEXT_FIELDS if row[field] is not None]
            found[WITH_DATE] += any(map(has_date, texts))
            found[WITH_PATIENT_ID] += any(_names_patient(text, row["patient_id"]) for text in texts)
        return found

    def _rows(self, leave_out: Callable[[str, str], None]) -> Iterator[tuple[str, dict]]:
        return FolderTables(self.source_folder()).rows(leave_out)

    def _references(self, where: str, row: dict, files: list[str]) -> Iterator[dict]:
        patients = row.get("patient_id")
        if isinstance(patients, str) and patients.lstrip().startswith("["):
            try:
                patients = json.loads(patients)
            except (ValueError, RecursionError) as error:
                raise ValueError(
                    f"{where}: patient_id {short(patients)!r} cannot be read as JSON ({short(error)})"
                ) from error
        patients = patients if isinstance(patients, list) else [patients] * len(files)
        if len(patients) != len(files):
            raise ValueError(
                f"{where}: {len(patients)} patient_id for {len(files)} files; give one, or one for each file"
            )
        for name, patient in zip(files, patients):
            yield {
                "recording_id": name,
                **{field: row.get(field) for field in (*SIGNAL_FIELDS, *PATIENT_FIELDS)},
                "patient_id": _patient_id(where, patient),
                "report": row.get("report") if len(files) == 1 else None,
            }


def _ignore(reason: str, message: str) -> None:
    """Used where `list_conversations` reports what cannot be read."""


def _patient_id(where: str, value) -> str | None:
    """The id of a patient, without surrounding spaces; None if it is missing."""
    if isinstance(value, bool) or not isinstance(value, str | int | float | None):
        raise ValueError(f"{where}: patient_id {value!r}, expected text or a number")
    name = "" if value is None else str(value).strip()
    return None if name.lower() in NO_PATIENT else name


def _names_patient(text: str, patients) -> bool:
    """Whether a text contains the id of its patient as a word. Short ids are not searched, because many words are equal."""
    names = patients if isinstance(patients, list) else [patients]
    names = [str(name).strip() for name in names if name is not None]
    return any(
        len(name) >= SHORTEST_ID and re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE)
        for name in names
    )


def _check_spelling(patients: Iterable[str | None]) -> None:
    """Raise an error if ids differ only in case, spaces, leading zeros, `.0` or Unicode form."""
    known = {}
    for patient in sorted({patient for patient in patients if patient is not None}):
        plain = unicodedata.normalize("NFKC", patient).casefold()
        plain = "".join(letter for letter in plain if letter.isprintable() and not letter.isspace())
        plain = re.sub(r"(?<![\d.])0+(?=\d)", "", re.sub(r"^(\d+)\.0+$", r"\1", plain))
        other = known.setdefault(plain, patient)
        if other != patient:
            raise ValueError(
                f"patient_id {other!r} and {patient!r}: if they are the same patient, the patient can be in train and "
                "in test. Use one spelling for each patient; ids of different patients must differ in more than case, "
                "spaces or zeros"
            )


def _check_copies(folder: Path, recordings: Iterable[dict]) -> None:
    """Raise an error if a signal file, or a copy of it, belongs to two patients."""
    alike = {}
    for recording in recordings:
        path = _signal_file(folder, recording["recording_id"])
        if path is None or not os.path.isfile(path) or not os.access(path, os.R_OK):
            continue  # reported when it is read
        size = path.stat().st_size
        with path.open("rb") as file:
            file.seek(size // 2)  # files often start with the same header
            candidates = alike.setdefault((size, hashlib.sha256(file.read(SAMPLE_SIZE)).digest()), [])
        for other, known in candidates if size else []:
            if known["patient_id"] != recording["patient_id"] and filecmp.cmp(path, other, shallow=False):
                raise ValueError(
                    f"{known['recording_id']} and {recording['recording_id']} are the same recording with two "
                    f"patients, {known['patient_id']!r} and {recording['patient_id']!r}, so it can be in train and in "
                    "test; use one file, or the same patient for both"
                )
        candidates.append((path, recording))


def _signal_file(folder: Path, name: str) -> Path | None:
    """
    The file that contains the samples; None if it cannot be read. For a WFDB record, it is the first signal file of the
    header.
    """
    try:
        path = path_inside(folder / name, folder)
        header = path.with_name(f"{path.name}.hea")
        if not os.path.isfile(header):
            return path
        read = read_header(header, Folder(folder))
        return path_inside(header.parent / read.signals[0].file_name, folder)
    except ValueError:
        return None


def _conversation(row: dict, num_ecgs: int) -> dict:
    """The messages of a row and the columns that depend on them."""
    if row.get("messages") is not None:
        messages, kind = _messages(row, num_ecgs), "conversation"
        question, answers = _words(messages[-2]), [_words(messages[-1])]
    elif row.get("question") is not None or row.get("answer") is not None:
        question, answers, kind = _text(row, "question"), row.get("answer"), "question"
        answers = answers if isinstance(answers, list) else [_text(row, "answer")]
        if not answers or not all(isinstance(answer, str) and answer.strip() for answer in answers):
            raise EntryError("no answer", f"answer {answers!r}, expected text or a list of texts")
        messages = ecg_messages(num_ecgs, question, ", ".join(answers))
    elif row.get("report") is not None:
        question = REPORT_QUESTION.format("this ECG" if num_ecgs == 1 else f"these {num_ecgs} ECGs")
        answers, kind = [_text(row, "report")], "report"
        messages = ecg_messages(num_ecgs, question, answers[0])
    else:
        raise EntryError(
            "nothing said", "no messages, no question and answer, and no report; fill one of these columns"
        )
    if row.get("split") not in (None, *SPLITS):
        raise EntryError("damaged entry", f"split {row['split']!r}, expected one of {', '.join(SPLITS)}")
    kind = str(row.get("question_type") or kind)
    classes = sorted(_list(row.get("labels"), ";") or []) or [answer for answer in answers if len(answer) <= 40]
    return {
        "messages": messages,
        "question_type": kind,
        "question": question,
        "answer": answers,
        "stratum": f"{kind}: {'+'.join(classes)}",
        "split": row.get("split"),
    }


def _messages(row: dict, num_ecgs: int) -> list[dict]:
    """The messages in the stored format: their content is a list of text and ECG items. The text is not changed."""
    given = from_json(row, "messages") if isinstance(row["messages"], str) else row["messages"]
    if not isinstance(given, list) or not all(isinstance(message, dict) for message in given):
        raise EntryError("damaged entry", "messages is not a list of objects with role and content")
    messages = [{"role": str(message.get("role")), "content": _content(message)} for message in given]
    check_order([message["role"] for message in messages])
    if not all(_words(message) for message in messages if message["role"] == "assistant"):
        raise EntryError("no answer", "an answer is empty")
    place_ecgs(messages, num_ecgs)
    return messages


def _content(message: dict) -> list[dict]:
    content = message.get("content")
    content = [{"type": "text", "text": content}] if isinstance(content, str) else content
    items = []
    for item in content if isinstance(content, list) else [None]:
        if isinstance(item, dict) and item.get("type") == "ecg" and message.get("role") == "user":
            items.append({"type": "ecg", "text": None})
        elif isinstance(item, dict) and item.get("type") == "text" and isinstance(item.get("text"), str):
            items.append({"type": "text", "text": item["text"]})
        else:
            raise EntryError(
                "damaged entry",
                f"content {item!r}, expected text, or a list of text items and, in user turns, ecg items",
            )
    return items


def _words(message: dict) -> str:
    return "\n".join(item["text"] for item in message["content"] if item["type"] == "text").strip()


def _text(row: dict, field: str) -> str:
    text = row.get(field)
    if not isinstance(text, str) or not text.strip():
        raise EntryError(f"no {field}", f"{field} {text!r}, expected text")
    return text.strip()


def _list(value, separator: str) -> list[str] | None:
    """The items of a list, or the parts of a text. A single value of another type is a list of one item."""
    if value is None:
        return None
    if isinstance(value, str):
        value = value.split(separator)
    return [short(item) for item in (value if isinstance(value, list) else [value])]


def _converted(reference: dict, field: str, convert: Callable, shown: bool = True):
    """The value of a field; None if it is missing. A value that is not `shown` is not part of error messages."""
    value = reference[field]
    try:
        return None if value is None else convert(value)
    except (ValueError, OverflowError) as error:
        found = f"{field} {short(value)!r}" if shown else field
        raise RecordingError("unreadable metadata", f"{reference['recording_id']}: {found}, {error}") from error


def _age(reference: dict) -> int | None:
    """The age, or the difference of both dates; at most `OLDEST_AGE`."""
    age = _converted(reference, "age", to_years)
    birth, day = (_converted(reference, field, to_date, shown=False) for field in ("birth_date", "ecg_date"))
    if age is None and birth is not None and day is not None:
        age = _converted(reference, "birth_date", lambda _: age_on(birth, day), shown=False)
    return None if age is None else min(age, OLDEST_AGE)


def _sex(reference: dict) -> str | None:
    return _converted(reference, "sex", _to_sex)


def _to_sex(value: object) -> str:
    sex = SEXES.get(str(value).strip().lower())
    if sex is None:
        raise ValueError("expected male or female")
    return sex
