"""Comparing two evaluations of the same questions, and averaging several seeds or folds."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from elm_hf.scoring.intervals import (
    LEAST_PATIENTS,
    Difference,
    PatientBootstrap,
    Support,
    holm,
    mean_interval,
)
from elm_hf.scoring.markdown import markdown_table, p_cell
from elm_hf.scoring.names import PREDICTIONS_NAME
from elm_hf.scoring.scores import SHARES, SUMMED, Questions, average_support, limits_of
from elm_hf.utils.reports import METRIC_NAMES, METRIC_OF_KIND, read_report


# Settings without which runs are not of one experiment.
SAME_OF_RUNS = ("dataset", "split", "limit", "system_prompt", "retrieval", "temperature")
SAME_OF_RUNS += ("max_new_tokens", "max_reasoning_tokens")
# Columns that two evaluations of the same questions share, and how errors call them.
SAME_OF_QUESTIONS = {"messages_answer": "the true answers to", "question": "the words of", "record_ids": "the ECGs of"}


def compare(first: Path, second: Path, seed: int = 0, conditions: tuple[str, str] = ("ecg", "ecg")) -> dict:
    """
    Compares the answers that two models gave, question by question.

    Args:
        first, second: folders of `elm-hf evaluate`.
        seed: random seed for the bootstrap.
        conditions: under which each of them gave the answers.

    Returns:
        `reports`, `shared` questions and those `only_in_first` and `only_in_second`, `notes` about types that the
        macro-average leaves out, and `scores`: for all answers, their macro-average and each question type the `metric`,
        number of `answers` and `patients`, both scores, the `difference` (second minus first) with `low` and `high` (95 %)
        and `p_value`, which is below 0.05 exactly where the interval leaves out 0 (see [`Difference`]). Question types also
        have `p_value_holm`, corrected for their number.

    Raises:
        ValueError: a folder has no finished evaluation, or the two have different questions.
    """
    runs = [read_predictions(folder, condition) for folder, condition in zip((first, second), conditions)]
    shared = runs[0].index.intersection(runs[1].index)
    if len(shared) == 0:
        raise ValueError(f"{first} and {second} have no question in common; compare evaluations of the same split")
    tables = [rows.loc[shared] for rows in runs]
    check_same_questions((first, second), tables)
    questions = Questions(
        pd.concat([rows.assign(condition=name).reset_index() for rows, name in zip(tables, ("first", "second"))])
    )
    scores, notes = _compared_groups(questions, seed)
    return {
        "reports": [str(first), str(second)],
        "shared": len(shared),
        "only_in_first": len(runs[0]) - len(shared),
        "only_in_second": len(runs[1]) - len(shared),
        "notes": notes,
        "scores": scores,
    }


def check_same_questions(folders: tuple[Path, Path], tables: Sequence[pd.DataFrame]) -> None:
    """
    Check that two evaluations asked the same questions, with the same true answers, about the same ECGs.

    Args:
        folders: of the evaluations, for the message.
        tables: predictions of each, by `question_id` in the same order.

    Raises:
        ValueError: they differ.
    """
    for column, what in SAME_OF_QUESTIONS.items():
        differ = [not np.array_equal(a, b) for a, b in zip(*(rows[column] for rows in tables))]
        if any(differ):
            example = tables[0].index[differ.index(True)]
            raise ValueError(
                f"{folders[0]} and {folders[1]}: {what} {sum(differ)} questions are not the same, such as {example}; the two "
                "were evaluated on different datasets or versions of one"
            )


def read_predictions(folder: Path, condition: str) -> pd.DataFrame:
    """The answers given under a condition, by question."""
    file = Path(folder) / PREDICTIONS_NAME
    if not file.exists():
        raise ValueError(
            f"{folder}: no {PREDICTIONS_NAME}; give folders of finished evaluations (elm-hf evaluate --output)"
        )
    predictions = pd.read_parquet(file)
    found = predictions[predictions["condition"] == condition]
    if found.empty:
        raise ValueError(f"{file}: no answers under the condition `{condition}`; evaluate with it")
    return found.set_index("question_id")


def _compared_groups(questions: Questions, seed: int) -> tuple[dict[str, dict], list[str]]:
    table = questions.table
    values = {name: questions.values(name) for name in ("first", "second")}
    bootstrap = PatientBootstrap(table["patient_ids"].tolist(), seed=seed)
    groups, of_types, notes = {}, [], []
    for kind, metric in METRIC_OF_KIND.items():
        rows = np.flatnonzero(table["kind"] == kind)
        if not len(rows):
            continue
        scores = np.stack([values[name][rows, SUMMED.index(metric)] for name in values], axis=1)
        columns, types, left_out = groups_of_kind(table, rows, metric, bootstrap)
        notes += left_out
        for name, counted in columns.items():
            groups[name] = {"metric": metric} | compared(scores, counted, rows, bootstrap, metric in SHARES)
        of_types += list(types)
    tested = {name: groups[name]["p_value"] for name in of_types if groups[name]["p_value"] is not None}
    for name, p_value in holm(tested).items():
        groups[name]["p_value_holm"] = p_value
    return groups, notes


def groups_of_kind(
    table: pd.DataFrame, rows: np.ndarray, metric: str, bootstrap: PatientBootstrap
) -> tuple[dict[str, np.ndarray], list[str], list[str]]:
    """
    The groups of questions of one kind that are compared: all, their macro-average, and each question type.

    Args:
        table: of [`Questions`].
        rows: numbers of the questions of this kind.
        metric: of this kind.
        bootstrap: over the patients of all questions.

    Returns:
        For each group an array `(questions, types)` that is 1 where a question is of a type; the types; and a note about types
        that the macro-average leaves out.
    """
    types = pd.get_dummies(table["question_type"].iloc[rows], dtype=float)
    columns, notes = {f"all, {METRIC_NAMES[metric]}": np.ones((len(rows), 1))}, []
    if types.shape[1] > 1:
        name = f"macro-average, {METRIC_NAMES[metric]}"
        least = {one: bootstrap.least(rows[types[one].to_numpy(bool)]) for one in types}
        small = [one for one, number in least.items() if number < LEAST_PATIENTS]
        if small:
            notes.append(f"{name}: {', '.join(small)} left out, with less than {LEAST_PATIENTS} patients or answers")
        if len(small) < types.shape[1] - 1:
            columns[name] = types.drop(columns=small).to_numpy()
    return columns | {name: types[[name]].to_numpy() for name in types}, list(types), notes


def compared(
    scores: np.ndarray, counted: np.ndarray, rows: np.ndarray, bootstrap: PatientBootstrap, is_share: bool
) -> dict:
    """
    Both scores and their difference, as in [`compare`].

    Args:
        scores: of both models, `(questions, 2)`.
        counted: of [`groups_of_kind`].
        rows: numbers of the questions.
        bootstrap: over the patients of all questions.
        is_share: whether each answer is right or wrong.
    """
    inside = counted.any(axis=1)
    scores, counted, rows = scores[inside], counted[inside], rows[inside]
    change = scores[:, 1:] - scores[:, :1]
    parts = (scores[:, :1], scores[:, 1:], change.clip(0), (-change).clip(0))
    columns = np.concatenate([counted * part for part in parts] + [counted], axis=1)
    *means, number = np.split(bootstrap.samples(columns, rows), 5, axis=1)
    with np.errstate(invalid="ignore"):
        first, second, gains, losses = ((part / number).mean(axis=1) for part in means)
    found = {"answers": len(rows), "patients": bootstrap.count_patients(rows)}
    found |= {"first": float(first[0]), "second": float(second[0]), "difference": float(second[0] - first[0])}
    found |= dict.fromkeys(("low", "high", "p_value"))
    least = [bootstrap.least(rows[type_ > 0]) for type_ in counted.T]
    support = Support(least[0], len(rows), is_share)
    if len(least) > 1:
        support = average_support(least, found["patients"], len(rows))
    limits, has_interval = limits_of(gains[1:], support)
    if not has_interval:
        return found | limits
    difference = Difference.of_samples(gains, losses, support)
    low, high = difference.interval()
    return found | limits | {"low": low, "high": high, "p_value": difference.p_value()}


def comparison_table(comparison: dict) -> str:
    """The comparison as Markdown."""
    rows = []
    for name, group in comparison["scores"].items():
        interval = "—" if group["low"] is None else f"[{group['low']:+.3f}, {group['high']:+.3f}]"
        p_values = [group["p_value"], group.get("p_value_holm")]
        p_values = ["—" if value is None else p_cell(value) for value in p_values]
        scores = [f"{group['first']:.3f}", f"{group['second']:.3f}", f"{group['difference']:+.3f}"]
        rows.append([name, str(group["answers"]), str(group["patients"]), *scores, interval, *p_values])
    head = ["question type", "answers", "patients", "first", "second", "difference", "95 % interval", "p", "p (Holm)"]
    text = f"first: {comparison['reports'][0]}\nsecond: {comparison['reports'][1]}\n"
    text += f"{comparison['shared']} questions of both"
    left_out = comparison["only_in_first"], comparison["only_in_second"]
    if any(left_out):
        text += f"; left out: {left_out[0]} of the first alone, {left_out[1]} of the second alone"
    notes = [f"\n{note}" for note in comparison["notes"]]
    for name, group in comparison["scores"].items():
        if "note" in group:
            notes.append(f"\n{name}: {group['note']}")
        if "undefined_resamples" in group:
            notes.append(f"\n{name}: not defined in {group['undefined_resamples']} resamples, which are left out")
    return f"{text}\n\n{markdown_table(head, rows)}{''.join(notes)}"


def aggregate(folders: Sequence[Path]) -> dict:
    """
    The mean of several seeds, or folds, of one experiment.

    With several folds, the seeds of each fold are averaged first and the folds are the runs; otherwise the seeds are.
    Training sets of folds overlap, so that an interval over folds tends to be too narrow (Bengio & Grandvalet 2004).

    Args:
        folders: of `elm-hf evaluate`, with the same dataset, split and settings.

    Returns:
        `reports`, `runs` (`"folds"` or `"seeds"`), `num_runs`, and `scores`: for each group of questions and condition the
        `metric`, `mean`, `sd` between runs, `low` and `high` (95 %, Student) and `runs` with the score of each; `notes` about
        groups and conditions that are left out.

    Raises:
        FileNotFoundError: a folder has no report.
        ValueError: fewer than two runs, the same run twice, or runs with different datasets or settings.
    """
    reports = [read_report(folder) for folder in folders]
    _check_one_experiment(folders, reports)
    by_fold = defaultdict(list)
    for report in reports:
        by_fold[report["run"]["fold"]].append(report)
    groups = list(by_fold.values()) if len(by_fold) > 1 else [[report] for report in reports]
    names = [
        name
        for name, scores in reports[0]["scores"].items()
        if all(_same_group(scores, report["scores"].get(name)) for report in reports)
    ]
    asked = {
        name: sum(name in report["conditions"] for report in reports)
        for report in reports
        for name in report["conditions"]
    }
    conditions = [name for name, number in asked.items() if number == len(reports)]
    scores = {}
    for name in names:
        metric = METRIC_OF_KIND[reports[0]["scores"][name]["kind"]]
        scores[name] = {
            condition: {"metric": metric}
            | _mean([[r["scores"][name]["conditions"][condition][metric]["score"] for r in group] for group in groups])
            for condition in conditions
        }
    left_out = {name for report in reports for name in report["scores"]} - set(names)
    return {
        "reports": [str(folder) for folder in folders],
        "runs": "folds" if len(by_fold) > 1 else "seeds",
        "num_runs": len(groups),
        "scores": scores,
        "notes": [
            f"condition {name}: left out, in {number} of {len(reports)} reports"
            for name, number in asked.items()
            if number < len(reports)
        ]
        + [
            f"{name}: left out, not in every report, not of one kind, or not an average over the same types"
            for name in sorted(left_out)
        ],
    }


def _same_group(scores: dict, others: dict | None) -> bool:
    return others is not None and all(scores.get(key) == others.get(key) for key in ("kind", "averaged"))


def _mean(scores: list[list[float]]) -> dict:
    runs = [float(np.mean(group)) for group in scores]
    low, high = mean_interval(runs)
    return {"mean": float(np.mean(runs)), "sd": float(np.std(runs, ddof=1)), "low": low, "high": high, "runs": runs}


def _check_one_experiment(folders: Sequence[Path], reports: list[dict]) -> None:
    if len(reports) < 2:
        raise ValueError(f"{len(reports)} report; two or more are needed to say how much they vary")
    runs = [report["run"] for report in reports]
    for name in SAME_OF_RUNS:
        values = {str(run.get(name)) for run in runs}
        if len(values) > 1:
            raise ValueError(f"the reports are not of one experiment: {name} is {' and '.join(sorted(values))}")
    if len({run.get("controls") for run in runs}) > 1:
        raise ValueError(
            "the reports are of versions of elm-hf that differ in what they put in the place of the ECGs; evaluate all runs "
            "with one version"
        )
    questions: dict[str, set] = defaultdict(set)
    for run in runs:
        questions[run["fold"]].add(run.get("questions"))
    changed = [fold for fold, found in questions.items() if len(found) > 1]
    if changed:
        raise ValueError(
            f"the reports of fold {changed[0]} are of different questions: the dataset has changed between them"
        )
    identities = [(run.get("weights"), run["fold"]) for run in runs]
    for number, identity in enumerate(identities):
        if identity in identities[:number]:
            earlier = folders[identities.index(identity)]
            raise ValueError(
                f"{folders[number]} and {earlier} are the same model on the same fold; give each run once"
            )


def aggregate_table(aggregated: dict) -> str:
    """The means as Markdown."""
    conditions = list(next(iter(aggregated["scores"].values())))
    rows = []
    for name, entries in aggregated["scores"].items():
        with_sd = [f"{entry['mean']:.3f} ± {entry['sd']:.3f}" for entry in entries.values()]
        interval = entries.get("ecg")
        rows.append([name, *with_sd, f"[{interval['low']:.3f}, {interval['high']:.3f}]" if interval else "—"])
    head = ["question type", *conditions, "95 % interval of the mean, ecg"]
    text = f"mean ± standard deviation of {aggregated['num_runs']} {aggregated['runs']}"
    notes = "".join(f"\n{note}" for note in aggregated["notes"])
    return f"{text}\n\n{markdown_table(head, rows)}{notes}"
