"""Results of evaluations as the Hub's current format, `.eval_results/*.yaml` (huggingface.co/docs/hub/eval-results)."""

import re
from collections.abc import Sequence

import yaml
from huggingface_hub import EvalResultEntry, constants, eval_result_entries_to_yaml

from elm_hf.checkpoints.card import is_public
from elm_hf.data.layout import fold_config
from elm_hf.utils.hub import split_revision
from elm_hf.utils.reports import METRIC_OF_KIND


# The group of a report's scores over all questions.
ALL = "all"


def eval_results_files(reports: Sequence[dict]) -> dict[str, bytes]:
    """
    The files with the results of evaluations: one for each dataset, fold and split, with the score of all answers with
    the true ECG. What the model answers without the ECG is in the notes.

    Args:
        reports: reports of `elm-hf evaluate`. Those on local datasets are left out: a result refers to a dataset on the
            Hub.

    Returns:
        Contents by their path in the repository.
    """
    files = {}
    for report in reports:
        run, scores = report["run"], report["scores"].get(ALL)
        if scores is None or not is_public(run):
            continue
        metric = METRIC_OF_KIND[scores["kind"]]
        with_ecg = scores["conditions"].get("ecg", {}).get(metric, {})
        if with_ecg.get("score") is None:
            continue
        repo, revision = split_revision(run["dataset"])
        entry = EvalResultEntry(
            dataset_id=repo,
            task_id=fold_config(run["fold"]),
            dataset_revision=revision if re.fullmatch("[0-9a-f]{40}", revision or "") else None,
            value=round(with_ecg["score"], 4),
            notes=_notes(run["split"], metric, scores),
        )
        name = f"{repo.replace('/', '--')}-{entry.task_id}-{run['split']}.yaml"
        text = yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False, allow_unicode=True)
        files[f"{constants.EVAL_RESULTS_FOLDER}/{name}"] = text.encode()
    return files


def _notes(split: str, metric: str, scores: dict) -> str:
    """The metric, the number of answers, the interval, and the scores without the ECG."""
    with_ecg = scores["conditions"]["ecg"][metric]
    interval = ""
    if with_ecg.get("low") is not None:
        interval = f", 95 % interval over patients {with_ecg['low']:.3f} to {with_ecg['high']:.3f}"
    controls = {
        name: condition[metric]["score"]
        for name, condition in scores["conditions"].items()
        if name != "ecg" and condition.get(metric, {}).get("score") is not None
    }
    without = "".join(f", {score:.3f} ({name})" for name, score in controls.items())
    return f"{metric} of {scores['answers']} answers, {split} split{interval}" + (
        f"; in place of the ECG:{without[1:]}" if without else ""
    )
