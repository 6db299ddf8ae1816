"""The figure of the counterfactual probe (matplotlib): what is answered against each measurement."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from elm_hf.counterfactuals.stretch_figure import STRETCHES_FILE, stretch_figure
from elm_hf.scoring.figure_style import DPI


FILE_NAME = "probe_curves.png"
COLUMNS = 5
# Okabe & Ito (2008).
YES_OR_NO_COLOR, OPEN_COLORS = "#0072B2", ("#D55E00", "#009E73")
LIMIT_COLOR = "#666666"


def draw_probe(folder: Path, results: dict) -> dict[str, str]:
    """
    Args:
        folder: for the PNG files.
        results: as in `probe.json`.

    Returns:
        Name of each file, by its key in `probe.json`.
    """
    save_curves(folder / FILE_NAME, results)
    files = {"figure": FILE_NAME}
    if results["stretches"] is not None:
        stretch_figure(results["stretches"]["cases"]).savefig(folder / STRETCHES_FILE, dpi=DPI)
        files["stretch_figure"] = STRETCHES_FILE
    return files


def save_curves(file: Path, results: dict) -> None:
    """Draws the curves of `probe.json` as a PNG file."""
    probe_figure(results["curves"]).savefig(file, dpi=DPI)


def probe_figure(curves: list[dict]) -> Figure:
    """A panel for each finding, with a curve for each question about it."""
    by_finding: dict[str, list[dict]] = {}
    for curve in curves:
        by_finding.setdefault(curve["finding"], []).append(curve)
    rows = -(-len(by_finding) // COLUMNS)
    figure = Figure(figsize=(14, 0.6 + 2.3 * rows), layout="constrained")
    panels = np.atleast_2d(figure.subplots(rows, COLUMNS, squeeze=False)).ravel()
    for axes, (finding, those) in zip(panels, by_finding.items()):
        _panel(axes, finding, those)
    for axes in panels[len(by_finding) :]:
        axes.set_visible(False)
    for axes in panels[::COLUMNS]:
        axes.set_ylabel("share that says so", fontsize=8)
    handles = [
        Line2D([], [], color=LIMIT_COLOR, linestyle="--", label="clinical limit"),
        Line2D([], [], color=YES_OR_NO_COLOR, marker="o", markersize=4, label="yes/no question, fitted curve"),
        Line2D([], [], color=OPEN_COLORS[0], marker="o", markersize=4, label="open question"),
        Line2D([], [], color=OPEN_COLORS[1], marker="o", markersize=4, label="another open question"),
        Line2D([], [], color="black", linestyle=":", linewidth=1, label="mean probability"),
        Line2D([], [], color="black", linewidth=6, alpha=0.3, label="learned limit, 95 % interval"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=6, frameon=False, fontsize=9)
    return figure


def _panel(axes: Axes, finding: str, curves: list[dict]) -> None:
    first = curves[0]
    values = np.array(first["values"])
    axes.axvline(first["clinical_limit"], color=LIMIT_COLOR, linestyle="--", linewidth=1.2)
    axes.axhline(0.5, color="#dddddd", linewidth=0.8, zorder=0)
    fine = np.linspace(values[0], values[-1], 200)
    open_colors = iter(OPEN_COLORS)
    for curve in curves:
        color = YES_OR_NO_COLOR if "yes" in curve["answers"] else next(open_colors)
        axes.plot(values, curve["share"], "o", color=color, markersize=4, clip_on=False)
        axes.plot(values, curve["probability"], ":", color=color, linewidth=1)
        if curve["curve"] is not None:
            logits = curve["curve"]["slope"] * (fine - curve["curve"]["limit"])
            axes.plot(fine, 1 / (1 + np.exp(-np.clip(logits, -50, 50))), color=color, linewidth=1.4)
        if curve["low"] is not None:
            axes.plot(
                [curve["low"], curve["high"]], [0.5, 0.5], color=color, linewidth=6, alpha=0.3, solid_capstyle="butt"
            )
    axes.set_title(finding, fontsize=7.5, fontweight="bold", loc="left")
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlim(values[0], values[-1])
    axes.set_xlabel(f"{first['quantity']} ({first['unit']})", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
