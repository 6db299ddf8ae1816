"""
Compares an ECG-language model with its encoder's classifier on the same balanced yes/no questions.

    elm-hf evaluate-encoder ENCODER --dataset DATA --fold official --split validation --output validation
    elm-hf evaluate-encoder ENCODER --dataset DATA --fold official --output tested
    python recipes/ptb_xl/compare_with_classifier.py REPORT --dataset DATA --validation validation --tested tested

REPORT is the folder of elm-hf evaluate on fold 10. For each finding that is asked about, the classifier answers with the
class that has the largest AUROC on the questions about fold 9, and with the threshold of its probability that has most of
them right; without such questions of both answers it answers "no", which has half of balanced questions right.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from elm_hf.comparison.compare import compared, read_predictions
from elm_hf.data.tables import read_columns
from elm_hf.scoring.intervals import PatientBootstrap, Support
from elm_hf.scoring.markdown import markdown_table, score_cell
from elm_hf.scoring.names import PROBABILITIES_NAME
from elm_hf.scoring.scores import score_entry
from elm_hf.utils.auroc import class_aurocs
from elm_hf.utils.exact_match import is_exact_match


QUESTION_TYPE = "single-verify"
MARGIN = 0.02


def main(report: Path, dataset: Path, validation: Path, tested: Path) -> None:
    asked = questions_of(dataset, "test").set_index("conversation_id")
    predictions = read_predictions(report, "ecg")
    rows = predictions[predictions["question_type"] == QUESTION_TYPE].reset_index(drop=True)
    rows = rows.join(asked[["record_id", "finding", "is_yes"]], on="conversation_id")
    rules = classifier_rules(questions_of(dataset, "validation"), probabilities_of(validation))
    classified = classifier_answers(rows, probabilities_of(tested), rules)
    by_model = [is_exact_match(said, truth) for said, truth in zip(rows["prediction"], rows["answer"])]
    right = np.column_stack([by_model, classified == rows["is_yes"]]).astype(float)
    bootstrap = PatientBootstrap(rows["patient_ids"].tolist())
    groups = {"all": np.arange(len(rows))} | dict(rows.groupby("attribute_type").indices)
    print(
        f"{len(rows):,} balanced yes/no questions about {bootstrap.num_patients:,} test patients; in brackets 95 % "
        "intervals over patients.\n"
    )
    head = ["findings", "questions", "model", "classifier", "model minus classifier", f"at most {MARGIN} below"]
    print(markdown_table(head, [compared_row(name, those, right, bootstrap) for name, those in groups.items()]))


def questions_of(dataset: Path, split: str) -> pd.DataFrame:
    """The yes/no questions about a split's ECGs: `conversation_id`, `record_id`, `finding`, `is_yes`."""
    columns = ["conversation_id", "record_ids", "question_type", "attribute", "answer"]
    table = read_columns(dataset, "official", split, columns).to_pandas()
    table = table[table["question_type"] == QUESTION_TYPE].reset_index(drop=True)
    table["record_id"] = table["record_ids"].str[0]
    table["finding"] = table["attribute"].map(", ".join)
    table["is_yes"] = table["answer"].str[0] == "yes"
    return table


def probabilities_of(folder: Path) -> pd.DataFrame:
    """The probabilities of `elm-hf evaluate-encoder`: a row for each record, a column for each class."""
    return pd.read_parquet(folder / PROBABILITIES_NAME).set_index("record_id").drop(columns="patient")


def classifier_rules(questions: pd.DataFrame, probabilities: pd.DataFrame) -> dict[str, tuple[str, float]]:
    """For each finding the class with the largest AUROC, and its threshold that has most of these questions right."""
    rules = {}
    for finding, those in questions.groupby("finding"):
        is_yes = those["is_yes"].to_numpy()
        if is_yes.all() or not is_yes.any():
            continue
        scores = probabilities.loc[those["record_id"]].to_numpy()
        targets = np.repeat(is_yes[:, None], scores.shape[1], axis=1)
        areas = class_aurocs(scores, targets, np.ones((1, len(scores))))[:, 0]
        chosen = int(areas.argmax())
        thresholds = np.unique(scores[:, chosen])
        right = [((scores[:, chosen] >= threshold) == is_yes).mean() for threshold in thresholds]
        rules[finding] = (probabilities.columns[chosen], float(thresholds[int(np.argmax(right))]))
    return rules


def classifier_answers(
    questions: pd.DataFrame, probabilities: pd.DataFrame, rules: dict[str, tuple[str, float]]
) -> np.ndarray:
    """Whether the classifier answers each question with yes."""
    answers = np.zeros(len(questions), bool)
    for row, (record, finding) in enumerate(zip(questions["record_id"], questions["finding"])):
        if finding in rules:
            name, threshold = rules[finding]
            answers[row] = probabilities.at[record, name] >= threshold
    return answers


def compared_row(name: str, rows: np.ndarray, right: np.ndarray, bootstrap: PatientBootstrap) -> list[str]:
    """A row of the table: the share of right answers of both, and their difference."""
    support = Support(bootstrap.least(rows), len(rows), is_share=True)
    means = bootstrap.means(right[rows], rows)
    cells = [score_cell(score_entry(means[:, one], support)) for one in range(2)]
    found = compared(right[rows, ::-1], np.ones((len(rows), 1)), rows, bootstrap, is_share=True)
    low, high = found["low"], found["high"]
    if low is None:
        return [name, f"{len(rows):,}", *cells, f"{found['difference']:+.3f}", "not settled"]
    verdict = "yes" if low >= -MARGIN else "no" if high < -MARGIN else "not settled"
    return [name, f"{len(rows):,}", *cells, f"{found['difference']:+.3f} [{low:+.3f}, {high:+.3f}]", verdict]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    for name in ("dataset", "validation", "tested"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    arguments = parser.parse_args()
    main(arguments.report, arguments.dataset, arguments.validation, arguments.tested)
