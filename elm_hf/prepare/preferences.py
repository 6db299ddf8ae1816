"""Pairs of answers from what a model answered in an evaluation: the true answer is preferred to a wrong one."""

from collections import Counter
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import pandas as pd

from elm_hf.data.preferences import Preference, write_preferences
from elm_hf.utils.exact_match import is_exact_match
from elm_hf.utils.reports import read_report


COLUMNS = ["conversation_id", "turn", "condition", "answer", "messages_answer", "prediction"]


def prepare_preferences(predictions: Sequence[str | PathLike], output: str | PathLike) -> dict[str, int]:
    """
    Write a pair for each wrong answer with the true ECG: `chosen` is the true answer, `rejected` the model's.

    Answers that name the true items and no others ([`is_exact_match`]) are right; those to questions with free text
    therefore nearly always make a pair. Equal pairs are written once.

    Args:
        predictions: tables in the folders of evaluations (`elm-hf evaluate --output`) of the training and validation
            splits of a fold. Several with other seeds or checkpoints give more answers to each question.
        output: JSON Lines file to write.

    Returns:
        The number of `answers`, of those that are `right`, `repeated` or `empty`, and of `pairs`.

    Raises:
        FileNotFoundError: an evaluation is not finished.
        ValueError: a folder is no evaluation, the evaluations are of different datasets or folds, one is of the test
            split, or no answer is wrong.
    """
    _check_one_fold([Path(path).parent for path in predictions])
    counts, pairs = Counter(), {}
    for path in predictions:
        table = pd.read_parquet(path, columns=COLUMNS)
        for row in table[table["condition"] == "ecg"].itertuples():
            pair = Preference(row.conversation_id, int(row.turn), row.messages_answer.strip(), row.prediction.strip())
            counts["answers"] += 1
            if is_exact_match(pair.rejected, list(row.answer)) or pair.rejected == pair.chosen:
                counts["right"] += 1
            elif not pair.rejected or not pair.chosen:
                counts["empty"] += 1
            elif pair in pairs:
                counts["repeated"] += 1
            else:
                pairs[pair] = None
    if not pairs:
        raise ValueError(
            f"{', '.join(map(str, predictions))}: none of {counts['answers']} answers is wrong, so there are no pairs; sample "
            "answers at a higher temperature (elm-hf evaluate --temperature)"
        )
    write_preferences(pairs, output)
    return {name: counts[name] for name in ("answers", "right", "repeated", "empty")} | {"pairs": len(pairs)}


def _check_one_fold(reports: Sequence[Path]) -> None:
    """Refuses evaluations of different datasets or folds, and of those questions that models are compared on in the end."""
    asked = {}
    for report in reports:
        run = read_report(report)["run"]
        if run["split"] == "test":
            raise ValueError(
                f"{report}: answers to the test split of fold {run['fold']}, on which the trained model could not be "
                "evaluated; evaluate with --split train"
            )
        asked[str(report)] = tuple(str(run[name]) for name in ("dataset", "fold"))
    if len(set(asked.values())) > 1:
        found = "; ".join(f"{report}: {', '.join(those)}" for report, those in asked.items())
        raise ValueError(f"the evaluations are of different datasets or folds ({found}); make one file for each")
