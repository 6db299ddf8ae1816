"""The answers to the questions of training patients, by template and by type, and the baseline that repeats the most frequent one."""

import pandas as pd

from elm_hf.scoring.scores import UNTYPED


def blind_answers(questions: pd.DataFrame, training_rows: pd.DataFrame) -> list[str]:
    """
    The answers of the majority baseline, which reads no ECG: the most frequent training answer to the question's template
    (to its wording where there are no templates), else to its type, else to all questions.

    Args:
        questions: with `question_type`, `template_id` and `question`.
        training_rows: the same columns for the training patients, and `answer`, a list of strings.
    """
    training_rows = training_rows[training_rows["answer"].notna()].reset_index(drop=True)
    answers = train_answers(training_rows)
    levels = list(zip(*map(template_keys, (training_rows, questions))))
    majority = [answers.groupby(list(training)).agg(most_frequent).to_dict() for training, _ in levels]
    overall = most_frequent(answers)
    asked = zip(*(keys for _, keys in levels))
    return [next((m[key] for m, key in zip(majority, keys) if key in m), overall) for keys in asked]


def train_answers(training_rows: pd.DataFrame) -> pd.Series:
    """The answers of training questions as text, their items in alphabetical order."""
    return pd.Series([", ".join(sorted(filter(None, items))) for items in training_rows["answer"]], dtype=object)


def template_keys(rows: pd.DataFrame) -> tuple[list[str], list[str]]:
    """
    Keys of each question's template and of its type: of the template its `template_id`, or its wording where there is none.
    They are strings, since columns differ in their null values.
    """
    types = rows["question_type"].fillna(UNTYPED).astype(str).tolist()
    ids = rows["template_id"] if "template_id" in rows else pd.Series([None] * len(rows))
    templates = [
        f"{kind}: {wording}" if pd.isna(number) else f"{kind}: #{number:g}"
        for kind, number, wording in zip(types, pd.to_numeric(ids), rows["question"])
    ]
    return templates, types


def most_frequent(answers: pd.Series) -> str:
    """The most frequent of some answers, of equally frequent ones the first in alphabetical order."""
    counts = answers.value_counts()
    return min(counts.index[counts == counts.max()])
