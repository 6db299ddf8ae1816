"""Your own ECGs: a folder of files beside `metadata.csv` or `metadata.jsonl`, as `datasets` reads images and audio."""

import json
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath

from elm_hf.dataset_builder import OFFICIAL_SPLITS, ElmDatasetBuilder, ecg_messages, read_table
from elm_hf.ecg_files import read_ecg_file
from elm_hf.instruct import EntryError, check_order, place_ecgs, read_entries
from elm_hf.recordings import Recording, RecordingError


# what is said of a file, and must be the same wherever it is said
SIGNAL_FIELDS = ("patient_id", "sampling_rate", "leads", "units")
PATIENT_FIELDS = ("age", "sex", "labels")
SEX = {"m": "male", "male": "male", "f": "female", "female": "female"}
REPORT_QUESTION = "Write the report of {}."


class Ecgfolder(ElmDatasetBuilder):
    """
    One row of the metadata is one conversation about the ECG `file_name`, or about several where that is a list:
    `messages`, or `question` and `answer`, or `report`. See docs/own_data.md.
    """

    PRETTY_NAME = "ECG folder"
    DESCRIPTION = "ECGs and conversations from a folder of files with metadata."
    HOMEPAGE = ""
    LICENSE = "unknown"
    CITATION = ""

    def list_recordings(self) -> Iterator[dict]:
        """Every file that is named, once."""
        recordings, first_row = {}, {}
        for where, row in self._rows(lambda reason, message: None):
            try:
                files = _file_names(row)
            except EntryError:
                continue  # told with the conversations
            for reference in self._references(where, row, files):
                name = reference["recording_id"]
                known = recordings.setdefault(name, reference)
                for field in SIGNAL_FIELDS:
                    if known[field] != reference[field]:
                        raise ValueError(
                            f"{where}: {field} {reference[field]!r} for {name}, for which {first_row[name]} has "
                            f"{known[field]!r}; say the same, or say it once"
                        )
                known.update({key: value for key, value in reference.items() if known[key] is None})
                first_row.setdefault(name, where)
        yield from recordings.values()

    def read_recording(self, reference: dict) -> tuple[Recording, dict]:
        """The ECG of a file and what the metadata say of its patient."""
        folder = self.source_folder().resolve()
        path = (folder / reference["recording_id"]).resolve()
        if not path.is_relative_to(folder):
            raise RecordingError(
                "path outside the folder",
                f"{reference['recording_id']}: is outside of the folder, so it is not opened",
            )
        metadata = {"age": _age(reference), "sex": _sex(reference), "report": reference["report"]}
        metadata["labels"] = _list(reference["labels"], ";") or []
        rate = _number(reference, "sampling_rate")
        # the path as named, not resolved: messages are published, and where the folder lies is nobody's business
        path = self.source_folder() / reference["recording_id"]
        return read_ecg_file(path, rate, _list(reference["leads"], ","), reference["units"]), metadata

    def list_conversations(self) -> Iterator[dict]:
        """One conversation for each row."""
        for number, (where, row) in enumerate(self._rows(self.leave_out)):
            try:
                files = _file_names(row)
                yield {
                    "conversation_id": f"ecgfolder-{number}",
                    "recording_ids": files,
                    **_conversation(row, len(files)),
                }
            except EntryError as error:
                self.leave_out(error.reason, f"{where}: {error}")

    def _rows(self, leave_out: Callable[[str, str], None]) -> Iterator[tuple[str, dict]]:
        """The rows of the metadata and where each stands; what is empty is None."""
        folder = self.source_folder()
        found = [folder / name for name in ("metadata.csv", "metadata.jsonl") if (folder / name).is_file()]
        if len(found) != 1:
            raise FileNotFoundError(
                f"{folder}: {'both' if found else 'neither'} metadata.csv {'and' if found else 'nor'} metadata.jsonl in it; "
                "source (--source) is to be a folder with one of them"
            )
        (path,) = found
        if path.suffix == ".csv":
            entries = enumerate(read_table(path, ["file_name"]))
        else:
            entries = read_entries(path, leave_out)
        for number, row in entries:
            yield f"{path}: row {number + 1}", {key: None if value == "" else value for key, value in row.items()}

    def _references(self, where: str, row: dict, files: list[str]) -> Iterator[dict]:
        patients = row.get("patient_id")
        patients = patients if isinstance(patients, list) else [patients] * len(files)
        if len(patients) != len(files):
            raise ValueError(f"{where}: {len(patients)} patient_id for {len(files)} files; give one, or one for each")
        for name, patient in zip(files, patients):
            if patient is None and not self.config.one_patient_per_file:
                raise ValueError(
                    f"{where}: no patient_id for {name}. Without it ECGs of one patient would be in training and in test. "
                    "Name the patients in the column patient_id, or say one_patient_per_file (--one-patient-per-file) if "
                    "no two files are of one patient"
                )
            yield {
                "recording_id": name,
                **{field: row.get(field) for field in (*SIGNAL_FIELDS, *PATIENT_FIELDS)},
                "patient_id": name if patient is None else str(patient),
                "report": row.get("report") if len(files) == 1 else None,
            }


def _file_names(row: dict) -> list[str]:
    """The files of a row; of a WFDB record, whichever of its files is named, the record."""
    names = row.get("file_name")
    if isinstance(names, str):
        names = _json(row, "file_name") if names.startswith("[") else [names]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise EntryError("damaged entry", f"file_name {names!r}, expected the name of a file or a list of names")
    paths = [PurePosixPath(name) for name in names]
    return [str(path.with_suffix("") if path.suffix in (".hea", ".dat") else path) for path in paths]


def _conversation(row: dict, num_ecgs: int) -> dict:
    """The messages of a row and the columns that go with them."""
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
        raise EntryError("nothing said", "neither messages, nor question and answer, nor report")
    if row.get("split") not in (None, *OFFICIAL_SPLITS):
        raise EntryError("damaged entry", f"split {row['split']!r}, expected one of {', '.join(OFFICIAL_SPLITS)}")
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
    """The messages as stored: their content a list of text and ECG items, text taken as it is."""
    given = _json(row, "messages") if isinstance(row["messages"], str) else row["messages"]
    if not isinstance(given, list) or not all(isinstance(message, dict) for message in given):
        raise EntryError("damaged entry", "messages is no list of role and content")
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
                "damaged entry", f"content {item!r}, expected text, or items of type text and (of a user) ecg"
            )
    return items


def _words(message: dict) -> str:
    return "\n".join(item["text"] for item in message["content"] if item["type"] == "text").strip()


def _text(row: dict, field: str) -> str:
    text = row.get(field)
    if not isinstance(text, str) or not text.strip():
        raise EntryError(f"no {field}", f"{field} {text!r}, expected text")
    return text.strip()


def _json(row: dict, field: str):
    try:
        return json.loads(row[field])
    except json.JSONDecodeError as error:
        raise EntryError("damaged entry", f"{field} cannot be read as JSON ({error})") from error


def _list(value, separator: str) -> list[str] | None:
    """A list as it is, or the parts of a text."""
    if isinstance(value, str):
        value = value.split(separator)
    return value and [str(item).strip() for item in value]


def _number(reference: dict, field: str) -> float | None:
    value = reference[field]
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError) as error:
        raise _unreadable(reference, field, "a number") from error


def _age(reference: dict) -> int | None:
    age = _number(reference, "age")
    if age is not None and not 0 <= age <= 130:
        raise _unreadable(reference, "age", "years")
    return None if age is None else int(age)


def _sex(reference: dict) -> str | None:
    if reference["sex"] is None:
        return None
    sex = SEX.get(str(reference["sex"]).strip().lower())
    if sex is None:
        raise _unreadable(reference, "sex", "male or female")
    return sex


def _unreadable(reference: dict, field: str, expected: str) -> RecordingError:
    message = f"{reference['recording_id']}: {field} {reference[field]!r}, expected {expected}"
    return RecordingError("unreadable metadata", message)
