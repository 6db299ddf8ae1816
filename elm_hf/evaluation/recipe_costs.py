"""A table of what recipes cost and how they scored."""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path

from elm_hf.evaluation.markdown import markdown_table, score_cell
from elm_hf.training.cost_file import read_costs
from elm_hf.utils.reports import REPORT_NAME, read_report


def costs_table(recipes: Mapping[str, Sequence[str | PathLike]]) -> str:
    """
    Recipes as a Markdown table: their costs, summed over their runs, and their scores, where the folder of the last run has
    the `report/` of `elm-hf evaluate`. The others are compared with the first recipe.

    Args:
        recipes: for each recipe, the output folders of its runs in order.

    Raises:
        FileNotFoundError: a run has not ended.
    """
    costs = {name: [read_costs(folder) for folder in folders] for name, folders in recipes.items()}
    totals = {
        name: {what: sum(one[what] or 0 for one in runs) for what in ("seconds", "samples", "tokens")}
        for name, runs in costs.items()
    }
    first = next(iter(totals.values()))
    rows = []
    for name, total in totals.items():
        shares = [f"{total[what] / first[what]:.2f}" if first[what] else "—" for what in ("seconds", "samples")]
        numbers = [f"{total['seconds']:,.0f}", f"{total['samples']:,}", f"{total['tokens']:,}", *shares]
        rows.append([name, str(len(costs[name])), *numbers, *_scores(Path(recipes[name][-1]) / "report")])
    head = ["recipe", "runs", "seconds", "samples", "tokens", "time ratio", "data ratio", "exact match", "no ECG"]
    return markdown_table(head, rows)


def _scores(folder: Path) -> list[str]:
    """Exact match over all answers, with the ECG and without; dashes where there is no report."""
    if not (folder / REPORT_NAME).is_file():
        return ["—", "—"]
    groups = read_report(folder)["scores"]
    conditions = next((scores["conditions"] for scores in groups.values() if scores["kind"] == "short"), {})
    return [score_cell(conditions[name]["exact_match"]) if name in conditions else "—" for name in ("ecg", "none")]
