"""A table of what recipes cost and how they scored."""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path

from elm_hf.scoring.markdown import markdown_table, score_cell
from elm_hf.training.cost_file import read_costs
from elm_hf.utils.reports import REPORT_NAME, read_report


CONDITIONS_SHOWN = ("ecg", "none")


def recipe_costs(recipes: Mapping[str, Sequence[str | PathLike]]) -> dict[str, dict]:
    """
    What each recipe cost and scored.

    Args:
        recipes: for each recipe, the output folders of its runs in order.

    Returns:
        For each recipe the number of `runs`, their total `seconds`, `samples` and `tokens`, and its exact match with the ECG
        (`ecg`) and without (`none`): entries of the report in `report/` of its last run, None where there is none.

    Raises:
        FileNotFoundError: a run has not ended.
    """
    found = {}
    for name, folders in recipes.items():
        runs = [read_costs(folder) for folder in folders]
        totals = {what: sum(run[what] or 0 for run in runs) for what in ("seconds", "samples", "tokens")}
        found[name] = {"runs": len(runs)} | totals | _scores(Path(folders[-1]) / "report")
    return found


def costs_table(costs: Mapping[str, dict]) -> str:
    """The figures of [`recipe_costs`] as a Markdown table; the other recipes are compared with the first."""
    first = next(iter(costs.values()))
    rows = []
    for name, total in costs.items():
        shares = [f"{total[what] / first[what]:.2f}" if first[what] else "—" for what in ("seconds", "samples")]
        numbers = [f"{total['seconds']:,.0f}", f"{total['samples']:,}", f"{total['tokens']:,}", *shares]
        scores = [score_cell(total[condition]) if total[condition] else "—" for condition in CONDITIONS_SHOWN]
        rows.append([name, str(total["runs"]), *numbers, *scores])
    head = ["recipe", "runs", "seconds", "samples", "tokens", "time ratio", "data ratio", "exact match", "no ECG"]
    return markdown_table(head, rows)


def _scores(folder: Path) -> dict[str, dict | None]:
    """Exact match over all answers, with the ECG and without."""
    if not (folder / REPORT_NAME).is_file():
        return dict.fromkeys(CONDITIONS_SHOWN)
    groups = read_report(folder)["scores"]
    conditions = next((scores["conditions"] for scores in groups.values() if scores["kind"] == "short"), {})
    return {name: conditions[name]["exact_match"] if name in conditions else None for name in CONDITIONS_SHOWN}
