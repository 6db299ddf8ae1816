"""Reading the report of an evaluation, and the metrics that summarize it."""

from os import PathLike
from pathlib import Path

from elm_hf.utils.files import read_json


# Defined here and not in `elm_hf.scoring`, because the cards of checkpoints and the recipes also read reports.
REPORT_NAME = "report.json"
# Raised when scores, intervals or controls are computed in another way, so that reports of both cannot be compared.
REPORT_SCHEMA = 2
# The metric of each kind of answers in tables and cards (docs/evaluation.md).
METRIC_OF_KIND = {"short": "exact_match", "text": "rouge_l"}
# Settings of an evaluation that may be folders or files.
_WITH_PATHS = ("checkpoint", "dataset", "ecgs", "descriptions")
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
    return report | {"run": public_run(report["run"])}  # reports of earlier versions hold paths


def public_name(name: str) -> str:
    """The name of a dataset or checkpoint in what is passed on. Only the last part of a local path is in it."""
    path = Path(name)
    is_path = path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1 or path.exists()
    return path.resolve().name if is_path else name


def public_run(run: dict) -> dict:
    """The settings of an evaluation for its report: names in the place of the folders and files of this machine."""
    public = {name: public_name(run[name]) for name in _WITH_PATHS if run.get(name) is not None}
    if run.get("retrieval") is not None:
        public["retrieval"] = run["retrieval"] | {"index": public_name(run["retrieval"]["index"])}
    return run | public


def trust_sentences(report: dict) -> list[str]:
    """
    Whether the model's confidence can be trusted, and its worst subgroup, in sentences. Reports of earlier versions have
    neither.

    Args:
        report: as in report.json.
    """
    calibration, subgroups = report.get("calibration"), report.get("subgroups")
    found = [] if calibration is None else list(calibration["sentences"])
    return found + ([] if subgroups is None else [kind["sentence"] for kind in subgroups["kinds"].values()])
