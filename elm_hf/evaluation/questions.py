"""The questions of a split: what is asked in its conversations, and the true answers."""

from collections import Counter
from collections.abc import Iterator, Sequence

import pandas as pd
from datasets import Dataset

from elm_hf.data.messages import last_text, message_text
from elm_hf.scoring.predictions import check_columns


COLUMNS = ("conversation_id", "record_ids", "patient_ids", "messages", "question_type", "question", "answer")
OPTIONAL_COLUMNS = ("attribute_type", "template_id")


def list_questions(rows: Dataset, sources: Sequence[str] | None) -> pd.DataFrame:
    """
    The questions of conversations: each turn of the assistant is one, asked with the true turns before it. In
    conversations that consist of steps, the type of a question is that of its step.

    Args:
        rows: conversations of [`load_elm_dataset`].
        sources: column `source` of the records table; None where there are no records.

    Returns:
        A row per question, with the columns of the predictions that do not depend on the model, and `row` (of the
        conversation) and `position` (of the answer among its messages).

    Raises:
        ValueError: columns are missing or have gaps, a conversation has no answer, two have the same `conversation_id`, or
            a column has another type than in the predictions.
    """
    _check_conversations(rows)
    optional = [name for name in OPTIONAL_COLUMNS if name in rows.column_names]
    of_steps = ["steps"] if "steps" in rows.column_names else []
    conversations = rows.select_columns([*COLUMNS, *optional, *of_steps, "ecg_index"]).with_format(None).to_list()
    questions = [one for number, row in enumerate(conversations) for one in _questions_of(row, number, sources)]
    absent = [name for name in OPTIONAL_COLUMNS if name not in optional]
    table = pd.DataFrame(questions).reindex(columns=[*questions[0], *absent])
    check_columns(table)
    return table


def _check_conversations(rows: Dataset) -> None:
    missing = [name for name in COLUMNS if name not in rows.column_names or None in rows[name]]
    if missing:
        raise ValueError(
            f"an evaluation needs {', '.join(COLUMNS)} of every conversation; not all have {', '.join(missing)}"
        )
    counts = Counter(rows["conversation_id"])
    repeated = [name for name, number in counts.items() if number > 1]
    if repeated:
        raise ValueError(
            f"{len(repeated)} conversation_id stand for several conversations, such as {repeated[0]} for "
            f"{counts[repeated[0]]}; give each its own"
        )


def _questions_of(row: dict, number: int, sources: Sequence[str] | None) -> Iterator[dict]:
    """The questions of the conversation with this number."""
    positions = [index for index, message in enumerate(row["messages"]) if message["role"] == "assistant"]
    if not positions:
        raise ValueError(f"conversation {row['conversation_id']} has no answer")
    patients = [f"{sources[index]}/{name}" for index, name in zip(row["ecg_index"], row["patient_ids"])]
    steps = row.get("steps")
    if steps is not None and len(steps) != len(positions):
        raise ValueError(f"conversation {row['conversation_id']} has {len(positions)} answers and {len(steps)} steps")
    is_single = len(positions) == 1  # its columns are about this answer; those of other conversations are about all
    for turn, position in enumerate(positions):
        truth = message_text(row["messages"][position]).strip()
        of_step = {} if steps is None else {"question_type": steps[turn]["type"], "answer": steps[turn]["answer"]}
        yield (
            {name: value for name, value in row.items() if name not in ("messages", "ecg_index", "steps")}
            | {
                "question_id": f"{row['conversation_id']}#{turn}",
                "turn": turn,
                "question": row["question"] if is_single else last_text(row["messages"][:position], "user"),
                "answer": [item for item in row["answer"] if item] if is_single else [truth],
                "messages_answer": truth,
                "patient_ids": patients,
                "row": number,
                "position": position,
            }
            | of_step
        )
