"""The questions of a split, and asking them: equal prompts once, prompts about the same ECGs together."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from datasets import Dataset
from transformers import PreTrainedModel, ProcessorMixin

from elm_hf.data.messages import fill_ecgs, last_text, message_text
from elm_hf.evaluation.ablation import SignalAblation
from elm_hf.evaluation.predictions import Key, check_columns
from elm_hf.inference.generation import Answer, generate_answers
from elm_hf.modeling.chat_rendering import ecg_items


COLUMNS = ("conversation_id", "record_ids", "patient_ids", "messages", "question_type", "question", "answer")
OPTIONAL_COLUMNS = ("attribute_type", "template_id")


def list_questions(rows: Dataset, sources: Sequence[str] | None) -> pd.DataFrame:
    """
    The questions of conversations: each turn of the assistant is one, asked with the true turns before it.

    Args:
        rows: of [`load_elm_dataset`].
        sources: of each record, `source` of the records table; None where there are no records.

    Returns:
        A row per question, with the columns of the predictions that do not depend on the model, and `row` (of the
        conversation) and `position` (of the answer among its messages).

    Raises:
        ValueError: columns are missing or have gaps, a conversation has no answer, two have one name, or a column is of
            another type than predictions have it.
    """
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
    names = [*COLUMNS, "ecg_index", *(name for name in OPTIONAL_COLUMNS if name in rows.column_names)]
    questions = []
    for number, row in enumerate(rows.select_columns(names).with_format(None).to_list()):
        turns = [index for index, message in enumerate(row["messages"]) if message["role"] == "assistant"]
        if not turns:
            raise ValueError(f"conversation {row['conversation_id']} has no answer")
        patients = [f"{sources[index]}/{name}" for index, name in zip(row["ecg_index"], row["patient_ids"])]
        for turn, position in enumerate(turns):
            truth = message_text(row["messages"][position]).strip()
            questions.append(
                {name: row[name] for name in names if name not in ("messages", "ecg_index")}
                | {
                    "question_id": f"{row['conversation_id']}#{turn}",
                    "turn": turn,
                    "question": row["question"] if len(turns) == 1 else last_text(row["messages"][:position], "user"),
                    "answer": [item for item in row["answer"] if item] if len(turns) == 1 else [truth],
                    "messages_answer": truth,
                    "patient_ids": patients,
                    "row": number,
                    "position": position,
                }
            )
    table = pd.DataFrame(questions).reindex(columns=[*questions[0], *set(OPTIONAL_COLUMNS) - set(names)])
    check_columns(table)
    return table


@dataclass
class Prompt:
    """
    What is asked once, and of which question and condition it is the prompt; others that look the same have its answer.

    Attributes:
        key: question and condition.
        row, position: of the conversation, and of the answer among its messages.
        ecgs: names of the ECGs that stand in it.
        max_new_tokens: longest answer.
        length: of its words.
    """

    key: Key
    row: int
    position: int
    ecgs: tuple[str, ...]
    max_new_tokens: int
    length: int


class Asker:
    """
    Asks the questions of a split under each condition.

    Prompts that are equal, word for word and ECG for ECG, are asked once: under `zeros` and `none` most are. The others
    are sorted so that those about the same ECGs come together and share what the model computes for them.

    Args:
        rows: of [`load_elm_dataset`].
        questions: of [`list_questions`].
        ablation: of the same rows.
        conditions: some of `CONDITIONS`.
        max_new_tokens: longest answer, of each `question_type` or one for all.
        batch_size: prompts at once.

    Raises:
        ValueError: a question type has no longest answer.

    Attributes:
        batches: lists of `Prompt`. They depend on the arguments alone, so that a run that goes on computes what it would
            have computed.
        same_as: question and condition to those whose prompt is asked for it.
    """

    def __init__(
        self,
        rows: Dataset,
        questions: pd.DataFrame,
        ablation: SignalAblation,
        conditions: Sequence[str],
        max_new_tokens: int | Mapping[str, int],
        batch_size: int,
    ):
        if not isinstance(max_new_tokens, int):
            lacking = sorted(set(questions["question_type"]) - max_new_tokens.keys())
            if lacking:
                raise ValueError(f"max_new_tokens has no number for questions of type {', '.join(lacking)}")
        self._rows, self._ablation = rows, ablation
        self.same_as: dict[Key, Key] = {}
        prompts: dict[tuple, Prompt] = {}
        messages = rows["messages"]
        for question in questions.itertuples():
            before = messages[question.row][: question.position]
            limit = max_new_tokens if isinstance(max_new_tokens, int) else max_new_tokens[question.question_type]
            for condition in conditions:
                key = (question.question_id, condition)
                names = ablation.names(question.row, condition, len(ecg_items(before)))
                words = str(_without_ecgs(before) if condition == "none" else before)
                prompt = Prompt(key, question.row, question.position, names, limit, len(words))
                self.same_as[key] = prompts.setdefault((names, limit, words), prompt).key
        ordered = sorted(prompts.values(), key=lambda one: (one.max_new_tokens, len(one.ecgs), one.ecgs, one.length))
        self.batches = list(_batches(ordered, batch_size))

    def ask(self, model: PreTrainedModel, processor: ProcessorMixin, batch: list[Prompt]) -> list[tuple[Key, Answer]]:
        """
        The model's answers to a batch.

        Raises:
            ValueError: the model cannot read one of the conversations.
        """
        read: dict[tuple, list] = {}  # each ECG once
        conversations = [self._conversation(prompt, read) for prompt in batch]
        try:
            answers = generate_answers(model, processor, conversations, batch[0].max_new_tokens)
        except ValueError as error:
            asked = ", ".join(sorted({prompt.key[0] for prompt in batch})[:3])
            raise ValueError(f"questions {asked}, ...: {error}") from error
        return [(prompt.key, answer) for prompt, answer in zip(batch, answers)]

    def _conversation(self, prompt: Prompt, read: dict[tuple, list]) -> list[dict]:
        row, condition = self._rows[prompt.row], prompt.key[1]
        messages = row["messages"][: prompt.position]
        if prompt.ecgs not in read:
            read[prompt.ecgs] = self._ablation.ecgs(prompt.row, condition, len(prompt.ecgs))
        return fill_ecgs(
            _without_ecgs(messages) if condition == "none" else messages, read[prompt.ecgs], row["sampling_rate"]
        )


def _batches(prompts: list[Prompt], size: int) -> Iterator[list[Prompt]]:
    """Chunks of up to `size` prompts with the same longest answer."""
    batch = []
    for prompt in prompts:
        if batch and (len(batch) == size or prompt.max_new_tokens != batch[0].max_new_tokens):
            yield batch
            batch = []
        batch.append(prompt)
    if batch:
        yield batch


def _without_ecgs(messages: Sequence[dict]) -> list[dict]:
    return [
        message | {"content": [item for item in message["content"] if item["type"] != "ecg"]} for message in messages
    ]
