"""The folder of an evaluation: which one it is, and the answers as they come."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd

from elm_hf.inference.generation import Answer
from elm_hf.scoring.names import IDENTITY_NAME, PREDICTIONS_NAME
from elm_hf.scoring.predictions import Key, write_predictions
from elm_hf.utils.files import read_json, write_atomically
from elm_hf.utils.reports import REPORT_NAME


class ReportFolder:
    """
    A folder of one evaluation. Answers are appended to `answers-*.jsonl`, a file for each process, as they come, so that
    an evaluation that was killed resumes where it stopped; at the end they become `predictions.parquet`.

    Args:
        path: of the folder; made if it is not there.
        identity: what makes this evaluation different from others, as JSON has it. Written to `run.json`.

    Raises:
        ValueError: the folder holds another evaluation, results without `run.json`, or a training checkpoint.
    """

    def __init__(self, path: Path, identity: dict):
        self.path, self._lines = path, LineFiles(path, "answers")
        path.mkdir(parents=True, exist_ok=True)
        identity_file = path / IDENTITY_NAME
        if identity_file.exists():
            found = json.loads(identity_file.read_text(encoding="utf-8"))
            if "questions" not in found:  # a training checkpoint has a file of this name, too
                raise ValueError(f"{path}: holds the {IDENTITY_NAME} of something else; choose another folder")
            check_same_run(path, found, identity)
            return
        foreign = [name for name in (PREDICTIONS_NAME, REPORT_NAME) if (path / name).exists()]
        if foreign:
            raise ValueError(f"{path}: holds results ({foreign[0]}) of an unknown evaluation; choose another folder")
        write_atomically(identity_file, json.dumps(identity, indent=2) + "\n")

    def read(self) -> dict[Key, Answer]:
        """The answers so far."""
        if (self.path / PREDICTIONS_NAME).exists():
            columns = ["question_id", "condition", "prediction", "num_tokens", "finished"]
            rows = pd.read_parquet(self.path / PREDICTIONS_NAME, columns=columns).itertuples(index=False)
            return {(row[0], row[1]): Answer(*row[2:]) for row in rows}
        return {
            (line["question_id"], line["condition"]): Answer(line["prediction"], line["num_tokens"], line["finished"])
            for line in self._lines.read()
        }

    def append(self, process: int, answers: Iterable[tuple[Key, Answer]]) -> None:
        """Adds answers to the file of this process; they are on the disk when this returns."""
        lines = [
            {
                "question_id": question_id,
                "condition": condition,
                "prediction": answer.text,
                "num_tokens": answer.num_tokens,
                "finished": answer.finished,
            }
            for (question_id, condition), answer in answers
        ]
        self._lines.append(process, lines)

    def cut_unfinished_line(self, process: int) -> None:
        """Removes what a killed process wrote of its last line."""
        self._lines.cut_unfinished_line(process)

    def finish(self, predictions: pd.DataFrame) -> None:
        """Writes `predictions.parquet` in the place of the answers."""
        write_predictions(predictions, self.path)
        self._lines.delete()


class LineFiles:
    """
    Lines of JSON that several processes write as they come, each into `NAME-*.jsonl` of its own.

    Args:
        folder: of the files.
        name: first part of their names.
    """

    def __init__(self, folder: Path, name: str):
        self._folder, self._name = folder, name

    def read(self) -> Iterator[dict]:
        """All lines of all processes."""
        for file in self._files():
            # What follows the last line break was being written when the process was killed, perhaps half a letter.
            yield from map(json.loads, file.read_bytes().split(b"\n")[:-1])

    def append(self, process: int, lines: Iterable[dict]) -> None:
        """Adds lines to the file of this process; they are on the disk when this returns."""
        with open(self._file_of(process), "ab") as out:
            out.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode())

    def cut_unfinished_line(self, process: int) -> None:
        """Removes what a killed process wrote of its last line."""
        file = self._file_of(process)
        if file.exists():
            written = file.read_bytes()
            if not written.endswith(b"\n"):
                file.write_bytes(written[: written.rfind(b"\n") + 1])

    def delete(self) -> None:
        """Deletes the files of all processes."""
        for file in self._files():
            file.unlink()

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob(f"{self._name}-*.jsonl"))

    def _file_of(self, process: int) -> Path:
        return self._folder / f"{self._name}-{process:05d}.jsonl"


def check_same_run(folder: Path, found: dict, identity: dict) -> None:
    """
    Refuses to write the results of one evaluation among those of another.

    Args:
        folder: where results are to be written.
        found: the identity of the results that the folder holds.
        identity: of those that are to be written.

    Raises:
        ValueError: the two differ; the message names the settings.
    """
    different = [name for name in identity if found.get(name) != identity[name]]
    if different:
        differences = "; ".join(f"{name} is {found.get(name)!r} there, {identity[name]!r} here" for name in different)
        raise ValueError(
            f"{folder}: holds another evaluation ({differences}); choose another folder or delete this one"
        )


def check_results(folder: Path, name: str, identity: dict) -> None:
    """
    Refuses to write the results of an evaluation into a folder with those of another one.

    Args:
        folder: where results are to be written.
        name: file of the results.
        identity: of the evaluation.

    Raises:
        ValueError: the folder has the results of another evaluation.
    """
    if not (folder / name).exists():
        return
    with_paths = _identity_file(folder, name)
    found = read_json(with_paths) if with_paths.exists() else read_json(folder / name).get("run", {})
    check_same_run(folder, found, identity)


def write_identity(folder: Path, name: str, identity: dict) -> None:
    """Writes the identity of results beside them. It holds paths of this machine and is not passed on."""
    write_atomically(_identity_file(folder, name), json.dumps(identity, indent=2) + "\n")


def _identity_file(folder: Path, name: str) -> Path:
    return folder / f"{Path(name).stem}.run.json"
