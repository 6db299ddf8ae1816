"""The answers to the questions of training patients: by template and by type, and the most frequent one as a baseline."""

from collections import defaultdict

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
    training_rows = answered(training_rows)
    answers = train_answers(training_rows)
    levels = list(zip(*map(template_keys, (training_rows, questions))))
    majority = [answers.groupby(list(training)).agg(most_frequent).to_dict() for training, _ in levels]
    overall = most_frequent(answers)
    asked = zip(*(keys for _, keys in levels))
    return [next((m[key] for m, key in zip(majority, keys) if key in m), overall) for keys in asked]


def different_answers(
    training_rows: pd.DataFrame | None,
) -> tuple[dict[str, dict[tuple, None]], dict[str, dict[tuple, None]]]:
    """
    The different answers to training questions, each the tuple of its items, in the order in which they come first: by
    template and by type, with the keys of [`template_keys`].

    Args:
        training_rows: see [`blind_answers`]; None where there are none.
    """
    by_template, by_type = defaultdict(dict), defaultdict(dict)
    if training_rows is not None and "question" in training_rows:
        rows = answered(training_rows)
        for template, kind, items in zip(*template_keys(rows), map(tuple, rows["answer"])):
            by_template[template][items] = by_type[kind][items] = None
    return by_template, by_type


def answered(training_rows: pd.DataFrame) -> pd.DataFrame:
    """The training questions that have an answer."""
    return training_rows[training_rows["answer"].notna()].reset_index(drop=True)


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
