"""Asking about many files: in batches, one bad file among many left out, with a table of answers that is resumed."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from transformers import PreTrainedModel, ProcessorMixin

from elm_hf.ecg.find_files import EcgFile
from elm_hf.inference.ask import Questions, ask, ecg_from_file, questions_about
from elm_hf.inference.confidence import ConfidenceOptions
from elm_hf.inference.reasoning import MAX_REASONING_TOKENS
from elm_hf.utils.errors import one_line
from elm_hf.utils.exact_match import final_answer
from elm_hf.utils.files import write_atomically


OUTPUT_SUFFIXES = (".csv", ".parquet")


@dataclass
class Answered:
    """
    What came of asking about the files of a group.

    Attributes:
        files: the files.
        asked: the questions; None if a file could not be read.
        answers: `question`, `answer`, `reasoning`, `text`, `truth` and, if asked for, `confidence` for each, see [`~elm_hf.inference.ask.ask`]. Empty after an error.
        error: why there are no answers; None if there are.
    """

    files: list[EcgFile]
    asked: Questions | None = None
    answers: list[dict] = field(default_factory=list)
    error: str | None = None


def ask_files(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    groups: Iterable[list[EcgFile]],
    questions: Sequence[str],
    max_new_tokens: int = 64,
    batch_size: int = 8,
    strict: bool = False,
    max_reasoning_tokens: int = MAX_REASONING_TOKENS,
    sure: ConfidenceOptions | None = None,
) -> Iterator[Answered]:
    """
    Ask the same questions about each group of files. A group that cannot be asked about does not stop the others.

    Args:
        model, processor: of a checkpoint.
        groups: files, see [`~elm_hf.ecg.find_files.find_ecg_files`]. A question is about all files of a group.
        questions: the questions, each asked on its own.
        max_new_tokens, max_reasoning_tokens: longest answer and longest reasoning before it, in tokens.
        batch_size: number of questions that are answered at once.
        strict: refuse ECGs that are doubtful, see [`~elm_hf.inference.ask.Questions.problems`].
        sure: also find how sure the model is, see [`~elm_hf.inference.ask.ask`].
    """
    waiting: list[Answered] = []
    limits = max_new_tokens, max_reasoning_tokens, sure
    for files in groups:
        try:
            asked = questions_about([ecg_from_file(file) for file in files], questions)
            if strict and asked.problems():
                raise ValueError(" | ".join(asked.problems()))
        except (ValueError, OSError, ImportError) as error:
            yield Answered(files, error=one_line(error))
            continue
        waiting.append(Answered(files, asked))
        if len(waiting) * len(questions) >= batch_size:
            yield from _answer(model, processor, waiting, limits)
            waiting = []
    yield from _answer(model, processor, waiting, limits)


def _answer(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    waiting: list[Answered],
    limits: tuple[int, int, ConfidenceOptions | None],
) -> Iterator[Answered]:
    """Answer in one batch; if an ECG does not fit the model, each group on its own, to find out which."""
    if not waiting:
        return
    try:
        answers = ask(model, processor, [one.asked for one in waiting], *limits)
    except ValueError as error:
        if len(waiting) > 1:
            for one in waiting:
                yield from _answer(model, processor, [one], limits)
        else:
            waiting[0].error = one_line(error)
            yield waiting[0]
        return
    for one, found in zip(waiting, answers):
        one.answers = found
        yield one


class AnswerTable:
    """
    The table of answers, written when it is complete. Until then, the answers are in a file beside it, from which the
    same command goes on after an interruption.

    Args:
        output: path of the table, `.csv` or `.parquet`.
        settings: what the answers depend on. Answers under other settings are not used.
        with_reasoning: whether the table has a column with the reasoning before each answer.
        with_confidence: whether it has the columns `confidence` and `among`, the answers that this is a probability among;
            empty for that of the wording.

    Raises:
        FileExistsError: the table exists.
        ValueError: the unfinished answers were given under other settings.
    """

    def __init__(self, output: Path, settings: dict, with_reasoning: bool = False, with_confidence: bool = False):
        self.output, self._with_confidence = output, with_confidence
        self._columns = ("question", "answer", *(("reasoning",) if with_reasoning else ()))
        settings = settings | {"with_reasoning": with_reasoning}
        self._unfinished = output.with_name(f"{output.name}.unfinished")
        self._rows: dict[str, list[dict]] = {}
        check_output(output)
        output.parent.mkdir(parents=True, exist_ok=True)
        lines = self._unfinished.read_bytes().splitlines(keepends=True) if self._unfinished.is_file() else []
        lines = [line for line in lines if line.endswith(b"\n")]  # the last one may have been interrupted
        if lines and json.loads(lines[0]) != settings:
            raise ValueError(
                f"{self._unfinished}: unfinished answers to other questions, of another checkpoint or with other "
                "options; repeat that command, delete the file, or choose another --output"
            )
        for line in lines[1:]:
            row = json.loads(line)
            self._rows[row["key"]] = row["rows"]
        self._settings = settings
        if self._unfinished.is_file():
            self._unfinished.write_bytes(b"".join(lines))

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, files: list[EcgFile]) -> bool:
        return _key(files) in self._rows

    def add(self, answered: Answered, processor: ProcessorMixin) -> None:
        """Add the answers about a group of files, with a row for each question."""
        asked = answered.asked
        key = _key(answered.files)
        doubts = [*asked.problems(), *asked.unread(processor)]
        about = {"missing_leads": asked.missing_leads(processor), "problems": " | ".join(doubts)}
        rows = [
            {"file": key, **{name: one[name] for name in self._columns}}
            | (_sure(one) if self._with_confidence else {})
            | about
            for one in answered.answers
        ]
        self._rows[key] = rows
        with self._unfinished.open("ab") as file:
            if not file.tell():
                file.write(_line(self._settings))
            file.write(_line({"key": key, "rows": rows}))

    def finish(self, groups: Iterable[list[EcgFile]]) -> None:
        """Write the table, with the answers in the order of the files."""
        rows = [row for files in groups for row in self._rows.get(_key(files), [])]
        if self.output.suffix.lower() == ".csv":
            text = io.StringIO(newline="")
            writer = csv.DictWriter(text, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
            write_atomically(self.output, text.getvalue())
        else:
            incomplete = self.output.with_name(f".{self.output.name}")
            pq.write_table(pa.Table.from_pylist(rows), incomplete)
            incomplete.replace(self.output)
        self._unfinished.unlink()


def check_output(output: Path) -> None:
    """
    Check the path of a table of answers.

    Raises:
        FileExistsError: the table exists.
        ValueError: it is neither CSV nor Parquet.
    """
    if output.suffix.lower() not in OUTPUT_SUFFIXES:
        raise ValueError(f"{output}: the table is CSV or Parquet; give it a name that ends in .csv or .parquet")
    if output.exists():
        raise FileExistsError(f"{output} exists; delete it, or choose another --output")


def _sure(answered: dict) -> dict:
    """The columns of the confidence."""
    found = answered["confidence"]
    if found is None:
        return {"confidence": None, "among": ""}
    given = final_answer(answered["text"])
    return {"confidence": found.probability, "among": "; ".join([given, *found.others]) if found.others else ""}


def _key(files: list[EcgFile]) -> str:
    """What the column `file` contains: the name of the file, or a JSON list of several."""
    names = [file.name for file in files]
    return names[0] if len(names) == 1 else json.dumps(names, ensure_ascii=False)


def _line(content: dict) -> bytes:
    return json.dumps(content, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
