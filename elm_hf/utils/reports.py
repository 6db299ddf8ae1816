"""Reading the report of an evaluation, and the metrics that summarize it."""

from os import PathLike
from pathlib import Path

from elm_hf.utils.files import read_json


# Defined here and not in `elm_hf.evaluation`, because the cards of checkpoints and the recipes also read reports.
REPORT_NAME = "report.json"
# Raised when scores, intervals or controls are computed in another way, so that reports of both cannot be compared.
REPORT_SCHEMA = 2
# The metric of each kind of answers in tables and cards (docs/evaluation.md).
METRIC_OF_KIND = {"short": "exact_match", "text": "rouge_l"}
METRIC_NAMES = {
    "exact_match": "exact match",
    "token_f1": "token F1",
    "rouge_l": "ROUGE-L",
    "bleu_1": "BLEU-1",
    "bleu_4": "BLEU-4",
    "meteor": "METEOR",
    "meteor_no_synonyms": "METEOR without synonyms",
    "bert_score": "BERTScore",
    "statement_precision": "statement precision",
    "statement_recall": "statement recall",
    "statement_f1": "statement F1",
}


def read_report(path: str | PathLike) -> dict:
    """
    Read a report of `elm-hf evaluate`. Its schema is in docs/evaluation.md.

    Args:
        path: `report.json`, or the folder that contains it.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not a report, or is one of another version of elm-hf.
    """
    path = Path(path) / REPORT_NAME if Path(path).is_dir() else Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: not found; give the folder of a finished evaluation (elm-hf evaluate --output)"
        )
    report = read_json(path)
    missing = [key for key in ("run", "scores") if key not in report]
    if missing:
        raise ValueError(
            f"{path}: not a report of elm-hf evaluate (no {', '.join(missing)}); evaluate the model again"
        )
    if report.get("schema") != REPORT_SCHEMA:
        raise ValueError(
            f"{path}: a report of schema {report.get('schema')}, and this version of elm-hf reads schema {REPORT_SCHEMA}: "
            "intervals and controls have changed; evaluate the model again, into another folder"
        )
    return report
