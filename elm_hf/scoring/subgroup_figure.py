"""The figure of a report about subgroups (matplotlib)."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from elm_hf.scoring.figure_style import AS_IT_IS, COLORS, CONTROL_COLOR, DPI
from elm_hf.scoring.names import KIND_NAMES
from elm_hf.utils.reports import METRIC_NAMES


def draw_subgroups(folder: Path, subgroups: dict) -> dict[str, str]:
    """
    Draws the score and the signal reliance of each scored group; a filled point for groups that differ from the rest.

    Args:
        folder: for the PNG files.
        subgroups: of `report.json`.

    Returns:
        Name of each figure to the name of its file; a figure for each kind of answers with scored groups.
    """
    files = {}
    for kind, found in subgroups["kinds"].items():
        groups = [
            (f"{attribute}: {name}", entry)
            for attribute, one in found["attributes"].items()
            for name, entry in one["groups"].items()
            if "score" in entry
        ]
        if not groups:
            continue
        suffix = f"_{kind}" if len(subgroups["kinds"]) > 1 else ""
        title = METRIC_NAMES[found["metric"]] + (f" ({KIND_NAMES[kind]})" if suffix else "")
        files[f"subgroups{suffix}"] = f"subgroups{suffix}.png"
        _figure(groups, title).savefig(folder / f"subgroups{suffix}.png", dpi=DPI)
    return files


def _figure(groups: list[tuple[str, dict]], title: str) -> Figure:
    figure = Figure(figsize=(11, 1.2 + 0.3 * len(groups)), layout="constrained")
    scores, reliance = figure.subplots(1, 2, sharey=True)
    heights = range(len(groups) - 1, -1, -1)
    for height, (_, entry) in zip(heights, groups):
        differs = entry.get("difference", {}).get("p_value_holm", 1) < 0.05
        _point(scores, entry["score"], height, COLORS["ecg"], differs)
        if entry["reliance"]["score"] is not None:
            _point(reliance, entry["reliance"], height, COLORS["blind"], bool(entry["reliance"]["reads_ecg"]))
    labels = [f"{name}  (n = {entry['patients']})" for name, entry in groups]
    scores.set_yticks(list(heights), labels, **AS_IT_IS)
    scores.set_xlim(-0.02, 1.02)
    reliance.axvline(0, color=CONTROL_COLOR, linestyle="--", linewidth=1)
    scores.set_xlabel(title)
    reliance.set_xlabel("signal reliance")
    scores.set_title("filled: differs from the rest (Holm)", fontsize=9)
    reliance.set_title("filled: depends on the ECG (Holm)", fontsize=9)
    for axes in (scores, reliance):
        axes.grid(axis="x", color="#eeeeee")
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _point(axes: Axes, entry: dict, height: float, color: str, is_filled: bool) -> None:
    low, high = (entry[end] if entry[end] is not None else entry["score"] for end in ("low", "high"))
    reach = [[max(entry["score"] - low, 0)], [max(high - entry["score"], 0)]]
    style = {"fmt": "o", "color": color, "capsize": 3, "markersize": 6, "linewidth": 1.4}
    axes.errorbar(entry["score"], height, xerr=reach, markerfacecolor=color if is_filled else "white", **style)
