"""The table of predictions: a row for each question and condition."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from elm_hf.scoring.names import PREDICTIONS_NAME


if TYPE_CHECKING:  # needs torch
    from elm_hf.inference.generation import Answer

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
        ("confidence", pa.float64()),  # in the prediction, see `elm_hf.evaluation.confidences`
        ("length_normalised", pa.float64()),
        ("answer_set", pa.string()),  # how the answers of the question are known
        ("record_ids", pa.list_(pa.string())),
        ("patient_ids", pa.list_(pa.string())),  # source/patient
    ]
)
CONFIDENCE_COLUMNS = ("confidence", "length_normalised", "answer_set")
Key = tuple[str, str]  # question_id and condition
# The ECGs of a question, each `(12, samples)` in mV, with their sampling rate in Hz.
EcgsOf = Callable[[str], tuple[list[np.ndarray], float]]
# Age in years and sex of the patient of each ECG of a question, None where unknown.
PersonsOf = Callable[[str], Sequence[tuple[int | None, str | None]]]


def check_columns(questions: pd.DataFrame) -> None:
    """
    Refuses questions whose answers could not be written, before they are asked.

    Raises:
        ValueError: a column is not of the type that `SCHEMA` has.
    """
    schema = pa.schema([field for field in SCHEMA if field.name in questions.columns])
    try:
        pa.Table.from_pandas(questions, schema=schema, preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(
            f"a column of the conversations is not of the type that {PREDICTIONS_NAME} has: {'; '.join(error.args)}"
        ) from error


def prediction_table(
    questions: pd.DataFrame,
    answers: Mapping[Key, "Answer"],
    conditions: Sequence[str],
    confidences: Mapping[Key, tuple] | None = None,
) -> pd.DataFrame:
    """
    A row per question and condition, condition after condition, in the order of the questions.

    Args:
        questions: of [`list_questions`].
        answers: of each question under each condition.
        conditions: of the evaluation.
        confidences: `CONFIDENCE_COLUMNS` of answers, of [`~elm_hf.evaluation.confidences.find_confidences`].
    """
    tables, unknown = [], (None,) * len(CONFIDENCE_COLUMNS)
    for condition in conditions:
        given = [answers[name, condition] for name in questions["question_id"]]
        sure = [(confidences or {}).get((name, condition), unknown) for name in questions["question_id"]]
        tables.append(
            questions.assign(
                condition=condition,
                prediction=[one.text for one in given],
                num_tokens=[one.num_tokens for one in given],
                finished=[one.finished for one in given],
                **dict(zip(CONFIDENCE_COLUMNS, zip(*sure))),
            )
        )
    return pd.concat(tables, ignore_index=True).drop(columns=["row", "position"])


def write_predictions(predictions: pd.DataFrame, folder: Path) -> None:
    """Writes `predictions.parquet` with the columns of `SCHEMA`; the file is whole or not there."""
    unfinished = folder / f"{PREDICTIONS_NAME}.unfinished"
    pq.write_table(pa.Table.from_pandas(predictions, schema=SCHEMA, preserve_index=False), unfinished)
    unfinished.replace(folder / PREDICTIONS_NAME)
