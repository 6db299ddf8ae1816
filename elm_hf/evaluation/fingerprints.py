"""Fingerprints by which an evaluation is recognised: of the processor, and of the questions."""

import hashlib
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from datasets import Dataset
from transformers import GenerationConfig, ProcessorMixin


SAMPLED_CONVERSATIONS = 8


def fingerprint_of_processor(processor: ProcessorMixin, generation_config: GenerationConfig) -> str:
    """
    Tells how a model is asked: chat template, tokenizer, how ECGs are prepared, and when an answer ends. The code of the
    processor and its card, which contains the name of the folder, do not count.
    """
    digest = hashlib.sha256()
    with TemporaryDirectory() as folder:
        processor.save_pretrained(folder)
        generation_config.save_pretrained(folder)
        for file in sorted(
            path for path in Path(folder).rglob("*") if path.is_file() and path.suffix not in (".py", ".md")
        ):
            digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def fingerprint_of_questions(questions: pd.DataFrame, rows: Dataset) -> str:
    """
    Tells these questions, the messages before them, their true answers and their ECGs from others.

    Args:
        questions: of [`list_questions`].
        rows: the conversations, with the neighbours that retrieval has put into them. The ECGs of eight of them are read: a
            dataset that is built again in another way has other ECGs everywhere.
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
