"""Several models on the same questions: one table of scores, of what the models read, and of what they cost."""

import json
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from elm_hf.comparison.compare import check_same_questions, compared, groups_of_kind, read_predictions
from elm_hf.counterfactuals.learned_limits import LIMIT
from elm_hf.counterfactuals.probe_results import agrees_with_clinic
from elm_hf.scoring.intervals import CONFIDENCE, NUM_RESAMPLES, PatientBootstrap, Support, holm
from elm_hf.scoring.names import BASELINES, KIND_NAMES, PREDICTIONS_NAME
from elm_hf.scoring.reliance import signal_reliance
from elm_hf.scoring.scores import SHARES, SUMMED, Questions, ScoreBook, average_support, score_entry
from elm_hf.utils.files import write_atomically
from elm_hf.utils.reports import METRIC_OF_KIND, read_report


LEADERBOARD_SCHEMA = 1
LEADERBOARD_NAME = "leaderboard"  # .json, .md, .html


def leaderboard(folders: Sequence[Path], seed: int = 0) -> dict:
    """
    Compare the answers of several models, with the ECG, to the questions that all of them were asked.

    A model is `best` in a group of questions if the paired difference to each other model is above 0 with a p-value, corrected
    for all pairs of models and all groups (Holm 1979), below 0.05.

    Args:
        folders: of `elm-hf evaluate`, two or more.
        seed: random seed for the bootstrap over patients.

    Returns:
        The figures, as in `leaderboard.json` (docs/comparison.md).

    Raises:
        FileNotFoundError: a folder has no report.
        ValueError: a folder has no answers with the ECG, or the models were not asked the same questions.
    """
    folders = [Path(folder) for folder in folders]
    if len(folders) < 2:
        raise ValueError(f"{len(folders)} report; a leaderboard takes two or more")
    reports = [read_report(folder) for folder in folders]
    tables = [read_predictions(folder, "ecg") for folder in folders]
    shared = _shared_questions(folders, tables)
    names = _names(folders, reports)
    questions = Questions(
        pd.concat([table.loc[shared].assign(condition=str(n)).reset_index() for n, table in enumerate(tables)])
    )
    bootstrap = PatientBootstrap(questions.table["patient_ids"].tolist(), seed=seed)
    groups, notes = _groups(questions, len(names), bootstrap)
    _find_best(groups)
    is_same = [len(table) == len(shared) for table in tables]
    notes += [
        f"{name}: {len(table) - len(shared)} questions that others were not asked are left out of its scores and its signal "
        "reliance; its other figures are about all its questions"
        for name, table in zip(names, tables)
        if len(table) > len(shared)
    ]
    models = [
        _model(name, report, folder, shared, same, seed)
        for name, report, folder, same in zip(names, reports, folders, is_same)
    ]
    return {
        "schema": LEADERBOARD_SCHEMA,
        "dataset": reports[0]["run"].get("dataset"),
        "fold": reports[0]["run"].get("fold"),
        "split": reports[0]["run"].get("split"),
        "questions": len(questions.table),
        "patients": bootstrap.num_patients,
        "models": models,
        "groups": groups,
        "baselines": _baselines([report for report, same in zip(reports, is_same) if same], groups),
        "notes": notes,
    }


def write_leaderboard(folder: Path, found: dict) -> list[Path]:
    """Write `leaderboard.json`, `.md` and `.html`; returns their paths."""
    from elm_hf.comparison.leaderboard_page import leaderboard_html, leaderboard_markdown

    texts = {"json": json.dumps(found, indent=2, allow_nan=False) + "\n"}
    texts |= {"md": leaderboard_markdown(found), "html": leaderboard_html(found)}
    paths = [folder / f"{LEADERBOARD_NAME}.{ending}" for ending in texts]
    for path, text in zip(paths, texts.values()):
        write_atomically(path, text)
    return paths


def _shared_questions(folders: Sequence[Path], tables: Sequence[pd.DataFrame]) -> pd.Index:
    """The questions that all models were asked, in the order of the first one."""
    shared = tables[0].index
    for folder, table in zip(folders[1:], tables[1:]):
        shared = shared[shared.isin(table.index)]
        if len(shared) == 0:
            raise ValueError(
                f"{folder} has no question in common with {', '.join(map(str, folders[: folders.index(folder)]))}; a "
                "leaderboard is about evaluations of the same split"
            )
    for folder, table in zip(folders[1:], tables[1:]):
        check_same_questions((folders[0], folder), [tables[0].loc[shared], table.loc[shared]])
    return shared


def _names(folders: Sequence[Path], reports: Sequence[dict]) -> list[str]:
    """The checkpoint of each report; with its folder where several have the same one."""
    names = [str(report["run"].get("checkpoint", folder.name)) for folder, report in zip(folders, reports)]
    counts = Counter(names)
    names = [
        name if counts[name] == 1 else f"{name} ({folder.resolve().name})" for name, folder in zip(names, folders)
    ]
    repeated = [name for name, number in Counter(names).items() if number > 1]
    if repeated:
        raise ValueError(f"two reports are named {repeated[0]}; give each report once, or rename a folder")
    return names


def _groups(questions: Questions, number: int, bootstrap: PatientBootstrap) -> tuple[dict[str, dict], list[str]]:
    """Scores of each model, and the paired differences, in each group of questions."""
    table, groups, notes = questions.table, {}, []
    values = [questions.values(str(model)) for model in range(number)]
    for kind, metric in METRIC_OF_KIND.items():
        rows = np.flatnonzero(table["kind"] == kind)
        if not len(rows):
            continue
        scores = np.stack([one[rows, SUMMED.index(metric)] for one in values], axis=1)
        columns, types, left_out = groups_of_kind(table, rows, metric, bootstrap)
        notes += left_out
        for name, counted in columns.items():
            if len(types) == 1 and name in types:  # the same as all
                continue
            inside = counted.any(axis=1)
            groups[name] = {
                "kind": kind,
                "metric": metric,
                "answers": int(inside.sum()),
                "patients": bootstrap.count_patients(rows[inside]),
                "scores": [_entry(one, counted, rows, bootstrap, metric in SHARES) for one in scores.T],
                "pairs": _pairs(scores, counted, rows, bootstrap, metric in SHARES),
            }
    return groups, notes


def _entry(
    scores: np.ndarray, counted: np.ndarray, rows: np.ndarray, bootstrap: PatientBootstrap, is_share: bool
) -> dict:
    """The score of a model in a group, with its interval; arguments as in [`compared`], of one model."""
    inside = counted.any(axis=1)
    scores, counted, rows = scores[inside], counted[inside], rows[inside]
    sums = bootstrap.samples(np.concatenate([counted * scores[:, None], counted], axis=1), rows)
    with np.errstate(invalid="ignore"):
        samples = (sums[:, : counted.shape[1]] / sums[:, counted.shape[1] :]).mean(axis=1)
    least = [bootstrap.least(rows[of_type > 0]) for of_type in counted.T]
    support = Support(least[0], len(rows), is_share)
    if len(least) > 1:
        support = average_support(least, bootstrap.count_patients(rows), len(rows))
    return score_entry(samples, support)


def _pairs(scores: np.ndarray, counted: np.ndarray, rows: np.ndarray, *how) -> list[dict]:
    found = []
    for first, second in combinations(range(scores.shape[1]), 2):
        pair = compared(scores[:, [first, second]], counted, rows, *how)
        kept = {name: pair[name] for name in ("difference", "low", "high", "p_value")}
        found.append({"first": first, "second": second} | kept)
    return found


def _find_best(groups: dict[str, dict]) -> None:
    """Adds the corrected p-values and, for each group, the number of the model that is better than all others, or None."""
    tested = {
        (name, place): pair["p_value"]
        for name, group in groups.items()
        for place, pair in enumerate(group["pairs"])
        if pair["p_value"] is not None
    }
    corrected = holm(tested)
    for name, group in groups.items():
        wins = Counter()
        for place, pair in enumerate(group["pairs"]):
            pair["p_value_holm"] = corrected.get((name, place))
            if pair["p_value_holm"] is not None and pair["p_value_holm"] < 1 - CONFIDENCE and pair["difference"]:
                wins[pair["second"] if pair["difference"] > 0 else pair["first"]] += 1
        best = [model for model, number in wins.items() if number == len(group["scores"]) - 1]
        group["best"] = best[0] if best else None


def _model(name: str, report: dict, folder: Path, shared: pd.Index, is_same: bool, seed: int) -> dict:
    """What a report says about a model beside its scores; None for what an earlier report, or its evaluation, does not have."""
    run = report["run"]
    reliance = report["signal_reliance"] if is_same else _reliance(folder, shared, seed)
    kept = ("metric", "score", "low", "high", "reads_ecg", "best_control", "note")
    costs = run.get("training_costs") or {}
    return {
        "name": name,
        "weights": run.get("weights"),
        "questions": report["questions"],
        "asked_the_same": is_same,
        "reliance": {kind: {key: one.get(key) for key in kept} for kind, one in reliance.items()},
        "claims": _claims(report.get("claims")),
        "limits": _limits(report.get("probe")),
        "calibration": _calibration(report.get("calibration")),
        "seen_patients": (run.get("seen_patients") or {}).get("seen"),
        "parameters": run.get("parameters"),
        "evaluation_seconds": run.get("seconds"),
        "training_seconds": costs.get("seconds"),
        "training_samples": costs.get("samples"),
        "training_tokens": costs.get("tokens"),
    }


def _reliance(folder: Path, shared: pd.Index, seed: int) -> dict[str, dict]:
    """The signal reliance in the questions that all models were asked."""
    predictions = pd.read_parquet(folder / PREDICTIONS_NAME)
    questions = Questions(predictions[predictions["question_id"].isin(shared)])
    book = ScoreBook(questions, NUM_RESAMPLES, seed)
    rows = {kind: np.flatnonzero(questions.table["kind"] == kind) for kind in METRIC_OF_KIND}
    return {kind: signal_reliance(book, those) for kind, those in rows.items() if len(those)}


def _claims(claims: dict | None) -> dict | None:
    if claims is None or "ecg" not in claims["conditions"]:
        return None
    found = claims["conditions"]["ecg"]
    return {name: found[name] for name in ("precision", "recall", "false_per_answer")}


def _limits(probe: dict | None) -> dict | None:
    """How many questions of the probe are answered with a limit, and how many of these limits agree with the clinical one."""
    if probe is None:
        return None
    learned = [curve for curve in probe["curves"] if curve["verdict"] == LIMIT]
    agree = sum(agrees_with_clinic(curve) for curve in learned)
    return {"asked": len(probe["curves"]), "learned": len(learned), "as_in_the_clinic": agree}


def _calibration(calibration: dict | None) -> dict | None:
    found = (calibration or {}).get("conditions", {}).get("ecg")
    return {name: found[name] for name in ("ece", "brier")} if found and found.get("answers") else None


def _baselines(reports: Sequence[dict], groups: dict[str, dict]) -> dict[str, dict]:
    """The scores of what is no model, in each group that a report about these very questions has."""
    found: dict[str, dict] = {}
    for report in reports:
        of_report = report["scores"]
        for name, group in groups.items():
            suffixes = (name, name.split(",")[0], f"{name.split(',')[0]}, {KIND_NAMES[group['kind']]}")
            entry = next((of_report[one] for one in suffixes if one in of_report), None)
            if entry is None or entry["answers"] != group["answers"]:
                continue
            for baseline in BASELINES:
                if baseline in entry["conditions"]:
                    score = entry["conditions"][baseline][group["metric"]]
                    found.setdefault(baseline, {}).setdefault(name, score)
    return found
