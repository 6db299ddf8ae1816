"""The folder of an evaluation: whose it is, the answers as they come, and at last the table of predictions."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import Dataset
from transformers import GenerationConfig, PreTrainedModel, ProcessorMixin

from elm_hf.inference.generation import Answer
from elm_hf.utils.files import write_whole


RUN_FILE = "run.json"
TABLE_FILE = "predictions.parquet"
SAMPLES_PER_WEIGHT = 1024
SAMPLED_CONVERSATIONS = 8

# One row per question and condition.
SCHEMA = pa.schema(
    [
        ("question_id", pa.string()),  # conversation_id#turn
        ("conversation_id", pa.string()),
        ("turn", pa.int32()),  # 0 is the first answer of the conversation
        ("condition", pa.string()),
        ("question_type", pa.string()),
        ("attribute_type", pa.string()),
        ("template_id", pa.int32()),
        ("question", pa.string()),
        ("answer", pa.list_(pa.string())),  # the true items
        ("messages_answer", pa.string()),  # the true answer as the conversation has it
        ("prediction", pa.string()),
        ("num_tokens", pa.int32()),  # that the model wrote, without the end of its turn
        ("finished", pa.bool_()),  # ended by the model, not cut
        ("record_ids", pa.list_(pa.string())),
        ("patient_ids", pa.list_(pa.string())),  # source/patient
    ]
)
Key = tuple[str, str]  # question_id and condition


class ReportFolder:
    """
    A folder of one evaluation. Answers are appended to `answers-*.jsonl`, a file for each process, as they come, so that
    an evaluation that was killed goes on where it stopped; at the end they become `predictions.parquet`.

    Args:
        path: of the folder; made if it is not there.
        identity: what makes this evaluation different from others, as JSON has it. Written to `run.json`.

    Raises:
        ValueError: the folder holds another evaluation, or results without `run.json`.
    """

    def __init__(self, path: Path, identity: dict):
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        run_file = path / RUN_FILE
        if run_file.exists():
            check_same_run(path, json.loads(run_file.read_text(encoding="utf-8")), identity)
            return
        foreign = [name for name in (TABLE_FILE, "report.json") if (path / name).exists()]
        if foreign:
            raise ValueError(f"{path}: holds results ({foreign[0]}) of an unknown evaluation; choose another folder")
        write_whole(run_file, json.dumps(identity, indent=2) + "\n")

    def read(self) -> dict[Key, Answer]:
        """The answers so far."""
        if (self.path / TABLE_FILE).exists():
            columns = ["question_id", "condition", "prediction", "num_tokens", "finished"]
            rows = pd.read_parquet(self.path / TABLE_FILE, columns=columns).itertuples(index=False)
            return {(row[0], row[1]): Answer(*row[2:]) for row in rows}
        answers = {}
        for file in sorted(self.path.glob("answers-*.jsonl")):
            # What follows the last line break was being written when the process was killed, perhaps half a letter.
            for line in map(json.loads, file.read_bytes().split(b"\n")[:-1]):
                answers[line["question_id"], line["condition"]] = Answer(
                    line["prediction"], line["num_tokens"], line["finished"]
                )
        return answers

    def append(self, process: int, answers: Iterable[tuple[Key, Answer]]):
        """Adds answers to the file of this process; they are on the disk when this returns."""
        file = self.path / f"answers-{process:05d}.jsonl"
        lines = [
            json.dumps(
                {
                    "question_id": question_id,
                    "condition": condition,
                    "prediction": answer.text,
                    "num_tokens": answer.num_tokens,
                    "finished": answer.finished,
                },
                ensure_ascii=False,
            )
            for (question_id, condition), answer in answers
        ]
        with open(file, "ab") as out:
            out.write("".join(line + "\n" for line in lines).encode())

    def cut_unfinished_line(self, process: int):
        """Removes what a killed process wrote of its last line."""
        file = self.path / f"answers-{process:05d}.jsonl"
        if file.exists():
            written = file.read_bytes()
            if not written.endswith(b"\n"):
                file.write_bytes(written[: written.rfind(b"\n") + 1])

    def finish(self, predictions: pd.DataFrame):
        """Writes the table, with the columns of `SCHEMA`, in the place of the answers."""
        table = pa.Table.from_pandas(predictions, schema=SCHEMA, preserve_index=False)
        unfinished = self.path / (TABLE_FILE + ".unfinished")
        pq.write_table(table, unfinished)
        unfinished.replace(self.path / TABLE_FILE)
        for file in self.path.glob("answers-*.jsonl"):
            file.unlink()


def check_same_run(folder: Path, found: dict, identity: dict) -> None:
    """
    Args:
        folder: whose results are about to be written or gone on with.
        found: whose results it holds.
        identity: whose they shall be.

    Raises:
        ValueError: the two differ; names in what.
    """
    different = [name for name in identity if found.get(name) != identity[name]]
    if different:
        differences = "; ".join(f"{name} is {found.get(name)!r} there, {identity[name]!r} here" for name in different)
        raise ValueError(
            f"{folder}: holds another evaluation ({differences}); choose another folder or delete this one"
        )


def check_columns(questions: pd.DataFrame) -> None:
    """
    Before the questions are asked, lest their answers cannot be written.

    Raises:
        ValueError: a column is not of the type that `SCHEMA` has.
    """
    schema = pa.schema([field for field in SCHEMA if field.name in questions.columns])
    try:
        pa.Table.from_pandas(questions, schema=schema, preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(
            f"a column of the conversations is not of the type that predictions.parquet has: {'; '.join(error.args)}"
        ) from error


def fingerprint_of_weights(model: PreTrainedModel) -> str:
    """Tells a model from another one in the same place: a hash of samples of every weight, since training moves them all."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        flat = weight.detach().reshape(-1)
        step = max(1, len(flat) // SAMPLES_PER_WEIGHT)
        sample = flat[::step].cpu().contiguous().view(torch.uint8).numpy().tobytes()
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode() + sample)
    return digest.hexdigest()[:16]


def fingerprint_of_processor(processor: ProcessorMixin, generation_config: GenerationConfig) -> str:
    """Tells how a model is asked: chat template, tokenizer, what is done to an ECG, when an answer ends. Without code."""
    digest = hashlib.sha256()
    with TemporaryDirectory() as folder:
        processor.save_pretrained(folder)
        generation_config.save_pretrained(folder)
        for file in sorted(path for path in Path(folder).rglob("*") if path.is_file() and path.suffix != ".py"):
            digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def fingerprint_of_questions(questions: pd.DataFrame, rows: Dataset) -> str:
    """
    Tells these questions, all that is said before them, their true answers and their ECGs from others.

    Args:
        questions: of `list_questions`.
        rows: the conversations, with what retrieval has put into them. ECGs of eight are looked at: who builds a dataset
            again in another way changes all.
    """
    digest = hashlib.sha256()
    messages = rows["messages"]
    for one in questions.itertuples():
        said = [messages[one.row][: one.position], one.messages_answer, list(one.answer), list(one.record_ids)]
        digest.update(json.dumps([one.question_id, *said]).encode())
    for row in np.linspace(0, len(rows) - 1, SAMPLED_CONVERSATIONS).astype(int):
        for ecg in rows[int(row)]["ecgs"]:
            digest.update(np.ascontiguousarray(ecg).tobytes())
    return digest.hexdigest()[:16]
