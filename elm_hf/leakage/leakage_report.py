"""What a report says about leakage: the result of `elm-hf leakage`, and what can be copied. It is loaded without torch."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path

import numpy as np
import pandas as pd

from elm_hf.leakage.copied_answers import copying_report
from elm_hf.scoring.names import LEAKAGE_NAME
from elm_hf.scoring.scores import Questions, ScoreBook
from elm_hf.utils.files import read_json
from elm_hf.utils.reports import METRIC_OF_KIND, public_name


LEAKAGE_SCHEMA = 1


def read_leakage(path: str | PathLike, dataset: str | PathLike, fold: int | str) -> dict:
    """
    Read the figures of a check.

    Args:
        path: `leakage.json`, or the folder that contains it.
        dataset, fold: that it must be about.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is of another dataset, fold or version of elm-hf.
    """
    path = Path(path) / LEAKAGE_NAME if Path(path).is_dir() else Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: not found; make it with elm-hf leakage {dataset} --fold {fold} --output FOLDER"
        )
    found = read_json(path)
    if found.get("schema") != LEAKAGE_SCHEMA:
        raise ValueError(
            f"{path}: not written by this version of elm-hf leakage (schema {found.get('schema')}); run it again"
        )
    wanted = public_name(str(dataset)), str(fold)
    if (found["dataset"], found["fold"]) != wanted:
        raise ValueError(
            f"{path}: is about {found['dataset']}, fold {found['fold']}; expected {wanted[0]}, fold {wanted[1]}"
        )
    return found


def leakage_of_report(
    questions: Questions,
    book: ScoreBook,
    training_rows: pd.DataFrame | None,
    known: Mapping | None,
    split: str | None,
    seed: int,
) -> dict | None:
    """
    The key `leakage` of an evaluation's report; None if nothing is known of the fold.

    Args:
        questions, book: of the report.
        training_rows: `question` and `answer` of the training patients' questions.
        known: `patients_on_both_sides` (see [`patients_on_both_sides`]), and `found`, what [`read_leakage`] returns, or None if
            near-duplicates were not looked for.
        split: that was evaluated.
        seed: random seed of the intervals.
    """
    if known is None:
        return None
    found = known["found"]
    report = {"patients_on_both_sides": known["patients_on_both_sides"], "copying": None, "duplicates": None}
    table = questions.table
    if training_rows is not None and training_rows["answer"].notna().any() and "question" in training_rows:
        report["copying"] = copying_report(table, training_rows, table["patient_ids"].tolist(), seed)
    if found is None or split not in found["duplicates"]["pairs"]:
        return report
    twins = twins_of(found["duplicates"]["pairs"][split])
    about = np.array([any(name in twins for name in names) for names in table["record_ids"]], dtype=bool)
    numbers = {name: found["questions"][split].get(name) for name in ("asked_in_training", "copied")}
    report["duplicates"] = {"ecgs": len(twins), "about_duplicates": int(about.sum())} | numbers | {"without": {}}
    for kind, metric in METRIC_OF_KIND.items():
        rows = np.flatnonzero(table["kind"] == kind)
        if len(rows) and "ecg" in book.conditions and not about[rows].all():
            entries = [book.group(those)["conditions"]["ecg"][metric] for those in (rows, rows[~about[rows]])]
            report["duplicates"]["without"][kind] = dict(zip(("with_all", "without_them"), entries))
    return report


def twins_of(pairs: Sequence[dict]) -> dict[str, list[str]]:
    """For each record its near-duplicates in training, of `leakage.json`."""
    twins = defaultdict(list)
    for pair in pairs:
        twins[pair["record"]].append(pair["training_record"])
    return dict(twins)
