"""Read published instruction datasets about ECGs: entries, turns, wording and references to recordings."""

import csv
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Value

from elm_hf.prepare.builder import ElmDatasetBuilder
from elm_hf.utils.errors import short


_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_PLACEHOLDER = re.compile(r"<(?:image|ecg)>", re.IGNORECASE)
# number of characters read at once
_READ_SIZE = 2**20
# characters; entries of the published files are much shorter, so a longer one indicates a damaged file
_MAX_ENTRY_SIZE = 2**25
# characters; the texts and paths of the published files are much shorter
_LONGEST_TEXT, _LONGEST_PATH = 100_000, 1000
_DECODER = json.JSONDecoder()
_BRACKET_OR_STRING = re.compile(r'[\[\]{}]|"(?:[^"\\]|\\.)*"', re.DOTALL)
# fields with the id of an entry
_ID_FIELDS = ("id", "sample_id", "question_id", "study_id")

_AN_ECG = r"(?:ECG|EKG|electrocardiogram)s?"
# the files refer to images of ECGs; "mirror image" (a finding of infarction) and "imaging" are not replaced
_WORDINGS = [
    (
        re.compile(
            rf"\b(?:an? |the |this )?(?:\w+ )?images? of (?=(?:an?|the|this|my)\b[\w -]{{0,200}}?\b{_AN_ECG}\b)", re.I
        ),
        "",
    ),
    (re.compile(rf"\b({_AN_ECG}) (?:\w+ )?(?:in|on|from) (?:the|this|that) (?:\w+ )?images?\b", re.I), r"\1"),
    (re.compile(r"\b(ECG|EKG|electrocardiogram)(?: tracing)?[ -]image(s?)\b", re.I), r"\1\2"),
    (re.compile(r"(?<!mirror[ -])\bimage(s?)\b", re.I), r"ECG\1"),
]

# file names of each source; folders, lead layouts and image numbers before and after them are ignored
_RECORDINGS = [
    ("mimic_iv_ecg", re.compile(r"(?:^|/)p\d{4}/p\d{8}/s(\d{8})/\1(?:-|$|\.)")),
    ("ptb_xl", re.compile(r"(?:^|/)0*(\d{1,5})_[hl]r(?:[-_.]|$)")),
    ("csn", re.compile(r"(?:^|/)(JS\d{5})(?:[-_.]|$)")),
    ("cpsc", re.compile(r"(?:^|/)([AQ]\d{4})(?:[-_.]|$)")),
    ("georgia", re.compile(r"(?:^|/)(E\d{5})(?:[-_.]|$)")),
    ("code15", re.compile(r"(?:^|/)code?15[^/]*/(?:.*/)?(\d+)(?:[-_.]|$)", re.I)),
]


class EntryError(ValueError):
    """
    An entry cannot be used as a conversation.

    Attributes:
        reason: a short category, used for counting.
    """

    def __init__(self, reason: str, message: str):
        super().__init__(reason, message)
        self.reason = reason

    def __str__(self) -> str:
        return self.args[1]


def read_entries(path: Path, leave_out: Callable[[str, str], None]) -> Iterator[tuple[int, dict]]:
    """
    Yield the entries of a JSON list, a JSON Lines, CSV or Parquet file, with their numbers starting at 0. The file is not
    read into memory as a whole.

    Args:
        path: path with the suffix `.json`, `.jsonl`, `.csv` or `.parquet`.
        leave_out: function that is called with a reason and a message for each entry that is damaged or not an object,
            and if the file cannot be read. The entries end where the file is not of its format any more.
    """
    number = -1
    try:
        for number, entry in enumerate(_entries(path)):
            if isinstance(entry, dict):
                yield number, entry
            elif isinstance(entry, EntryError):
                leave_out(entry.reason, f"{path}: entry {number + 1}{entry}")
            else:
                kind = type(entry).__name__
                leave_out("damaged entry", f"{path}: entry {number + 1} is a {kind}, expected an object with fields")
    except (ValueError, OSError, csv.Error, pa.ArrowException) as error:
        form = path.suffix[1:].upper()
        leave_out("unreadable file", f"{path}: cannot be read as {form} after {number + 1} entries ({short(error)})")


def entry_name(path: Path, number: int, entry: dict) -> str:
    """The file, the number from 1 on and the id of an entry, for messages."""
    return f"{path}: entry {number + 1}{_id_in(entry)}"


def _entries(path: Path) -> Iterator:
    """The entries of a file, and an `EntryError` in place of a damaged one."""
    if path.suffix == ".parquet":
        return _parquet_rows(path)
    if path.suffix == ".csv":
        return _csv_rows(path)
    return _json_lines(path) if path.suffix == ".jsonl" else _json_list(path)


def _json_list(path: Path) -> Iterator:
    """Decode the items of a JSON list one by one."""
    buffer, position, opened = "", 0, False
    with path.open(encoding="utf-8", errors="surrogateescape") as file:
        while True:
            position = _skip(buffer, position, " \t\r\n," if opened else " \t\r\n\ufeff")
            if position < len(buffer) and not opened:
                if buffer[position] != "[":
                    raise ValueError(f"expected a list of entries, found {buffer[position : position + 20]!r}")
                opened, position = True, position + 1
                continue
            if position < len(buffer) and buffer[position] == "]":
                return
            try:
                item, end = _DECODER.raw_decode(buffer, position)
            except json.JSONDecodeError as error:
                end, problem = None, f"the list is truncated or damaged: {error.msg}"
            except (ValueError, RecursionError) as error:
                item, end, problem = (
                    _damaged(error),
                    _end_of_item(buffer, position),
                    "an entry is truncated or too long",
                )
            if end is None:
                # As much again as there is: each attempt decodes the entry from its beginning.
                size = len(buffer) - position
                more = file.read(max(_READ_SIZE, min(size, _MAX_ENTRY_SIZE - size)))
                if not more or size > _MAX_ENTRY_SIZE:
                    raise ValueError(problem)
                buffer, position = buffer[position:] + more, 0
            else:
                yield item if isinstance(item, EntryError) else _checked(item, buffer[position:end])
                position = end


def _skip(text: str, position: int, characters: str) -> int:
    while position < len(text) and text[position] in characters:
        position += 1
    return position


def _end_of_item(text: str, position: int) -> int | None:
    """The end of an object or a list, found by its brackets; None if the text ends before it."""
    depth = 0
    for token in _BRACKET_OR_STRING.finditer(text, position):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token[0], 0)
        if depth <= 0:
            return token.end()
    return None


def _json_lines(path: Path) -> Iterator:
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(_MAX_ENTRY_SIZE), b""), 1):
            text = line.decode("utf-8-sig" if number == 1 else "utf-8", "surrogateescape")
            if not text.strip():
                continue
            try:
                yield _checked(_DECODER.decode(text.strip()), text)
            except json.JSONDecodeError as error:
                yield EntryError("damaged entry", f", line {number}, is not valid JSON ({short(error)})")
            except (ValueError, RecursionError) as error:
                yield _damaged(error)


def _checked(item: object, text: str) -> object:
    """An entry, or an `EntryError` if its text is not Unicode."""
    try:
        text.encode()  # bytes that are not UTF-8 were read as lone surrogates
        if "\\u" in text:
            json.dumps(item, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return EntryError("damaged entry", f"{_id_in(item)} has text that is not Unicode")
    except RecursionError as error:
        return _damaged(error)
    return item


def _damaged(error: Exception) -> EntryError:
    cause = "is nested too deeply" if isinstance(error, RecursionError) else f"cannot be read ({short(error, 80)})"
    return EntryError("damaged entry", f" {cause}")


def _id_in(item: object) -> str:
    """The id of an entry, to follow its number; nothing if it has none."""
    if not isinstance(item, dict):
        return ""
    found = [item[name] for name in _ID_FIELDS if isinstance(item.get(name), str | int | float)]
    return f", id {short(found[0])}," if found else ""


def _csv_rows(path: Path) -> Iterator:
    """The rows of a table whose first row has the names of the columns, all of them text."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        for row in csv.DictReader(file, strict=True):
            if None in row or None in row.values():
                yield EntryError("damaged entry", " has another number of fields than the table has columns")
            else:
                yield _checked(row, "".join(row.values()))


def _parquet_rows(path: Path) -> Iterator[dict]:
    """Read the rows of a Parquet file without its images, which are most of its content."""
    file = pq.ParquetFile(path)
    columns = [
        name for name in file.schema_arrow.names if name != "image" or "image_path" not in file.schema_arrow.names
    ]
    for batch in file.iter_batches(1000, columns=columns):
        yield from batch.to_pylist()


def read_turns(entry: dict) -> list[tuple[str, str]]:
    """
    Return the turns of an entry as (role, text): an optional system message, then alternating user and assistant
    turns.

    The field `conversations` (or `conversation`) is a list of objects with `from` and `value`. A value may be a list:
    `ecgqa-test` of ECGBench stores the characters of an answer, other files store several answers.

    Raises:
        EntryError: the fields are different, a turn is empty, or the turns are out of order.
    """
    turns = entry.get("conversations", entry.get("conversation"))
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise EntryError(
            "damaged entry",
            f"no list of turns in conversations or conversation; found the fields {short(sorted(entry))}",
        )
    read = []
    for turn in turns:
        name, value = turn.get("from"), turn.get("value")
        role = _ROLES.get(name) if isinstance(name, str) else None
        if role is None:
            raise EntryError("damaged entry", f"a turn from {short(name)!r}, expected human, user, gpt or assistant")
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            value = ("" if all(len(item) <= 1 for item in value) else ", ").join(value)
        if not isinstance(value, str):
            raise EntryError("damaged entry", f"a value of type {type(value).__name__}, expected text")
        if len(value) > _LONGEST_TEXT:
            raise EntryError("damaged entry", f"a turn of {len(value)} characters, expected up to {_LONGEST_TEXT}")
        read.append((role, value))
    check_order([role for role, _ in read])
    if not all(text.strip() for role, text in read if role == "assistant"):
        raise EntryError("no answer", "an answer is empty")
    return read


def check_order(roles: list[str]) -> None:
    """
    Check the order of turns.

    Raises:
        EntryError: the turns after an optional system message do not alternate between user and assistant.
    """
    start = 1 if roles[:1] == ["system"] else 0
    expected = ["user", "assistant"] * ((len(roles) - start) // 2)
    if not expected or roles[start:] != expected:
        raise EntryError(
            "turns out of order",
            f"turns {short(', '.join(roles)) or 'missing'}; expected alternating user and assistant turns",
        )


def to_messages(turns: list[tuple[str, str]], num_ecgs: int) -> list[dict]:
    """
    Convert turns to messages. Each placeholder `<image>` or `<ecg>` in a user turn becomes an ECG item. If there are
    no placeholders, the ECG items are at the start of the first user turn.

    Raises:
        EntryError: the number of placeholders differs from the number of ECGs, or a turn has no text.
    """
    messages = []
    for role, text in turns:
        pieces = _PLACEHOLDER.split(text)
        content = []
        for number, piece in enumerate(pieces):
            if number and role == "user":
                content.append({"type": "ecg", "text": None})
            if piece.strip():
                content.append({"type": "text", "text": piece.strip()})
        if not content:
            raise EntryError("damaged entry", f"a turn of the {role} has no text")
        messages.append({"role": role, "content": content})
    place_ecgs(messages, num_ecgs)
    return messages


def place_ecgs(messages: list[dict], num_ecgs: int) -> None:
    """
    Check the number of ECG items in the messages. If there are none, insert them at the start of the first user turn.

    Raises:
        EntryError: the number of ECG items differs from the number of ECGs, or a question has no text.
    """
    asked = [message["content"] for message in messages if message["role"] == "user"]
    if not all(any(item["type"] == "text" for item in content) for content in asked):
        raise EntryError("no question", "a turn of the user has no text")
    num_placed = sum(item["type"] == "ecg" for content in asked for item in content)
    if num_placed == 0:
        asked[0][:0] = [{"type": "ecg", "text": None}] * num_ecgs
    elif num_placed != num_ecgs:
        raise EntryError("placeholders do not match", f"{num_placed} placeholders for {num_ecgs} ECGs")


def ecg_wording(text: str) -> str:
    """Change text about an image of an ECG to text about the ECG: "this ECG image" becomes "this ECG"."""
    if "image" in text.lower():  # most texts do not contain the word, and the patterns are slow
        for pattern, replacement in _WORDINGS:
            text = pattern.sub(replacement, text)
    return text


def find_recording(path: str) -> tuple[str, str]:
    """
    Return the dataset and the recording id for the path of an image or a signal in a published file.

    MIMIC-IV-ECG is recognized by its patient and study folders, PTB-XL by `_hr` or `_lr` after the number, CSN, CPSC
    and Georgia by the letters of their record names, and CODE-15 by the name of a folder.

    Raises:
        EntryError: the path belongs to none of these datasets.
    """
    for source, pattern in _RECORDINGS if len(path) <= _LONGEST_PATH else []:
        found = pattern.search(path)
        if found:
            return source, found[1]
    raise EntryError("ECG of no known dataset", f"{short(path)!r} does not belong to a dataset that elm-hf supports")


def question_type(turns: list[tuple[str, str]]) -> str:
    """Classify an entry by its text: "dialogue", "verify", "choose", "report" or "query"."""
    words = [text for role, text in turns if role != "system"]
    if len(words) > 2:
        return "dialogue"
    question, answer = words
    if re.match(r"(?:yes|no)\b", answer.strip(), re.I):
        return "verify"
    if re.search(r"\boptions?\b|\(A\)|\bA[.)] ", question):
        return "choose"
    return (
        "report"
        if re.search(r"\b(?:report|interpret|describe|description|summar\w+|findings)\b", question, re.I)
        else "query"
    )


def _words(message: dict) -> str:
    return "\n".join(item["text"] for item in message["content"] if item["type"] == "text")


class InstructBuilder(ElmDatasetBuilder):
    """Base class for instruction files about ECGs of other datasets. A script sets `FILES` and `ECG_FIELD`."""

    CONVERSATION_FEATURES = {"source_id": Value("string")}
    # file names of the source, with the split of each
    FILES: dict[str, str | None]
    # field with the path of the ECG
    ECG_FIELD: str

    def source_files(self) -> list[tuple[str, Path, str | None]]:
        """List the existing files of the source: name for the conversation ids, path and split."""
        found = [
            (Path(name).stem, path, split)
            for name, split in self.FILES.items()
            for path in self.files_in_source(f"**/{name}")
        ]
        if not found:
            raise FileNotFoundError(
                f"{self.source_folder()}: contains none of {', '.join(self.FILES)}; source (--source) must be the folder of "
                f"{self.PRETTY_NAME}"
            )
        return found

    def list_conversations(self) -> Iterator[dict]:
        """List a conversation for each entry. Entries that repeat an earlier one are excluded."""
        seen = set()
        for name, path, split in self.source_files():
            for number, entry in read_entries(path, self.leave_out):
                try:
                    conversation = self.make_conversation(entry, name)
                except EntryError as error:
                    self.leave_out(error.reason, f"{entry_name(path, number, entry).rstrip(',')}: {error}")
                    continue
                content = json.dumps([conversation["recording_ids"], conversation["messages"]])
                digest = hashlib.blake2b(content.encode(), digest_size=16).digest()
                if digest in seen:
                    self.leave_out("repeated", f"{entry_name(path, number, entry)} is the same as an earlier one")
                    continue
                seen.add(digest)
                yield conversation | {"conversation_id": f"{self.name}-{name}-{number}", "split": split}

    def make_conversation(self, entry: dict, name: str) -> dict:
        """
        Return the conversation of an entry of the file `name`, without its id and split.

        Raises:
            EntryError: the entry cannot be used.
        """
        paths = entry.get(self.ECG_FIELD)
        paths = [paths] if isinstance(paths, str) else paths
        if not isinstance(paths, list) or not paths or not all(isinstance(path, str) for path in paths):
            raise EntryError("damaged entry", f"the field {self.ECG_FIELD} contains no path of an ECG")
        found = [find_recording(f"{name}/{path}") for path in paths]
        turns = [(role, ecg_wording(text)) for role, text in read_turns(entry)]
        messages = to_messages(turns, len(found))
        kind, (question, answer) = question_type(turns), (_words(message) for message in messages[-2:])
        stratum = f"{found[0][0]}: {kind}"
        return {
            "source_id": short(entry.get("id")),
            "recording_sources": [source for source, _ in found],
            "recording_ids": [recording_id for _, recording_id in found],
            "messages": messages,
            "question_type": kind,
            "question": question,
            "answer": [answer],
            "stratum": f"{stratum}: {answer[:3].rstrip(',. ').lower()}" if kind == "verify" else stratum,
        }
