"""What the question alone gives away: for each template the most frequent training answer, and how often it is right."""

from collections import Counter, defaultdict

import numpy as np
import pandas as pd

from elm_hf.scoring.intervals import LEAST_PATIENTS, Support
from elm_hf.scoring.markdown import markdown_table, score_cell
from elm_hf.scoring.names import BLIND
from elm_hf.scoring.scores import SHARES, SUMMED, ScoreBook, score_entry
from elm_hf.scoring.training_answers import answered, template_keys, train_answers
from elm_hf.utils.reports import METRIC_NAMES, METRIC_OF_KIND


MOST_TEMPLATES = 100  # in report.json, those with most questions
MOST_SHOWN = 10
# Above it, the question alone is called enough.
GIVEN_AWAY = 0.9


def template_report(book: ScoreBook, training_rows: pd.DataFrame) -> dict:
    """
    Scores the blind majority by template: `blind_templates` of `report.json` (docs/evaluation.md has its schema).

    Args:
        book: with the condition `blind`.
        training_rows: see [`blind_answers`].
    """
    table = book.questions.table
    keys = template_keys(table)[0]
    rows_of = defaultdict(list)
    for row, key in enumerate(keys):
        rows_of[key].append(row)
    answers = _training_answers(training_rows, set(keys))
    largest = sorted(rows_of, key=lambda key: (-len(rows_of[key]), key))[:MOST_TEMPLATES]
    rows = [_row(book, np.array(rows_of[key]), answers[key]) for key in largest]
    rows.sort(key=lambda row: (-row["blind"]["score"], -row["answers"], row["question"]))
    found = {"templates": len(rows_of), "left_out": len(rows_of) - len(rows), "rows": rows}
    return found | {"sentence": _sentence(found, len(table))}


def _training_answers(training_rows: pd.DataFrame, wanted: set[str]) -> dict[str, Counter]:
    """How often training questions of a template have each answer."""
    known = answered(training_rows)
    found = defaultdict(Counter)
    for key, answer in zip(template_keys(known)[0], train_answers(known)):
        if key in wanted:
            found[key][answer] += 1
    return found


def _row(book: ScoreBook, rows: np.ndarray, training: Counter) -> dict:
    """One template: its majority answer, and the scores of that answer and of the model with the ECG."""
    table = book.questions.table.iloc[rows]
    metric = METRIC_OF_KIND[table["kind"].iloc[0]]
    column = SUMMED.index(metric)
    blind = book.values[BLIND][rows, column]
    scores = book.bootstrap.means(blind[:, None], rows)[:, 0]
    patients = book.bootstrap.count_patients(rows)
    entry = score_entry(scores, Support(book.bootstrap.least(rows), len(rows), metric in SHARES))
    majority = book.questions.answers[BLIND][rows[0]]
    template = table["template_id"].iloc[0] if "template_id" in table else None
    return {
        "question": table["question"].iloc[0],
        "question_type": table["question_type"].iloc[0],
        "template_id": None if pd.isna(template) else int(template),
        "answers": len(rows),
        "patients": patients,
        "majority": majority,
        "training_answers": training.total(),
        "training_share": training[majority] / training.total() if training else None,
        "different_training_answers": len(training),
        "metric": metric,
        "blind": entry,
        "ecg": float(book.values["ecg"][rows, column].mean()) if "ecg" in book.values else None,
    }


def _sentence(found: dict, number: int) -> str:
    rows = found["rows"]
    right = sum(row["blind"]["score"] * row["answers"] for row in rows) / sum(row["answers"] for row in rows)
    given = [row for row in rows if row["blind"]["score"] >= GIVEN_AWAY and row["patients"] >= LEAST_PATIENTS]
    text = f"Without ECG and model, the most frequent training answer to each template scores {right:.3f}"
    if not given:
        return f"{text}; {GIVEN_AWAY:g} or more in no template with {LEAST_PATIENTS} patients or more."
    share = sum(row["answers"] for row in given) / number
    named = "; ".join(f'"{row["question"]}" ({row["majority"]}: {row["blind"]["score"]:.2f})' for row in given[:3])
    return (
        f"{text}. In {len(given)} of {found['templates']} templates ({100 * share:.0f} % of the questions) it scores "
        f"{GIVEN_AWAY:g} or more, so that these say little about reading ECGs: {named}{'; ...' if len(given) > 3 else '.'}"
    )


def template_sections(found: dict | None) -> list[str]:
    """The section of `report.md`, as a list of paragraphs; empty without a blind majority."""
    if found is None:
        return []
    rows = [
        [
            row["question"],
            row["majority"],
            str(row["answers"]),
            str(row["patients"]),
            "—" if row["training_share"] is None else f"{row['training_share']:.2f}",
            score_cell(row["blind"]),
            "—" if row["ecg"] is None else f"{row['ecg']:.3f}",
        ]
        for row in found["rows"][:MOST_SHOWN]
    ]
    head = [
        "template, for example",
        "majority",
        "answers",
        "patients",
        "share in training",
        "blind majority",
        "with ECG",
    ]
    metrics = sorted({METRIC_NAMES[row["metric"]] for row in found["rows"]})
    text = f"{found['sentence']} The table has the templates that give away most ({', '.join(metrics)}); `report.json` has "
    text += "more." if len(found["rows"]) > MOST_SHOWN else "the same."
    return [f"## What the question alone gives away\n\n{text}\n\n{markdown_table(head, rows, 2)}"]
