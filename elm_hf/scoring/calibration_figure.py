"""The figure of a report about how sure a model is (matplotlib)."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from elm_hf.scoring.figure_style import AS_IT_IS, COLORS, CONTROL_COLOR, DPI
from elm_hf.scoring.names import CONDITION_NAMES


def draw_calibration(folder: Path, calibration: dict) -> str:
    """
    Draws the reliability diagram, the share of right answers against coverage, and the confidence under each condition.

    Args:
        folder: for the PNG file.
        calibration: of `report.json`.

    Returns:
        Name of the file.
    """
    figure = Figure(figsize=(13, 4.4), layout="constrained")
    axes = figure.subplots(1, 3, width_ratios=[1, 1, 1.15])
    with_ecg = calibration["conditions"].get("ecg")
    if with_ecg and with_ecg["answers"]:
        _reliability(axes[0], with_ecg)
    if calibration["risk_coverage"] is not None:
        _coverage(axes[1], calibration["risk_coverage"])
    _conditions(axes[2], calibration["conditions"])
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
    name = "calibration.png"
    figure.savefig(folder / name, dpi=DPI)
    return name


def _reliability(axes: Axes, found: dict) -> None:
    """A point for each bin with the interval of the share of right answers; bars show the share of answers in the bin."""
    bins = found["reliability"]
    shares = [one["answers"] / found["answers"] for one in bins]
    starts = [one["from"] for one in bins]
    axes.bar(starts, shares, width=0.1, align="edge", color="#dddddd", edgecolor="white", label="share of the answers")
    axes.plot([0, 1], [0, 1], color=CONTROL_COLOR, linestyle="--", linewidth=1, label="calibrated")
    heights = np.array([one["accuracy"]["score"] for one in bins])
    ends = np.array(
        [
            [one["accuracy"]["score"] if one["accuracy"][end] is None else one["accuracy"][end] for one in bins]
            for end in ("low", "high")
        ]
    )
    style = {"color": COLORS["ecg"], "marker": "o", "markersize": 5, "capsize": 3, "linewidth": 1.2}
    axes.errorbar(
        [one["confidence"] for one in bins],
        heights,
        yerr=np.abs(ends - heights),
        label="right, 95 % interval",
        **style,
    )
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("confidence")
    axes.set_ylabel("share of right answers")
    axes.set_title(
        f"with ECG: ECE {found['ece']['score']:.3f} ({found['ece']['if_calibrated']:.3f} by chance)", fontsize=10
    )
    # Below, since points can be anywhere.
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3, frameon=False, fontsize=8)


def _coverage(axes: Axes, curve: dict) -> None:
    """Right answers among the surest ones."""
    coverage, accuracy, _ = np.array(curve["curve"]).T
    axes.plot(coverage, accuracy, color=COLORS["ecg"], linewidth=1.8, label="the surest answers first")
    everything = 1 - curve["area_of_random_order"]
    best = np.minimum(1, everything / np.maximum(coverage, 1e-9))
    axes.plot(coverage, best, color=CONTROL_COLOR, linestyle=":", linewidth=1.2, label="all right ones first")
    axes.axhline(everything, color=CONTROL_COLOR, linestyle="--", linewidth=1, label="in random order")
    at, entry = curve["coverage"], curve["accuracy"]
    low, high = (entry[end] if entry[end] is not None else entry["score"] for end in ("low", "high"))
    reach = [[max(entry["score"] - low, 0)], [max(high - entry["score"], 0)]]
    axes.errorbar(at, entry["score"], yerr=reach, color=COLORS["ecg"], marker="o", capsize=3)
    axes.set_xlim(0, 1.02)
    axes.set_ylim(min(0.5, 0.9 * everything), 1.02)
    axes.set_xlabel("share of the questions that are answered")
    axes.set_ylabel("right of these")
    axes.set_title(f"area under the risk-coverage curve {curve['area']['score']:.3f}", fontsize=10)
    axes.legend(loc="lower left", frameon=False, fontsize=8)


def _conditions(axes: Axes, conditions: dict[str, dict]) -> None:
    """Mean confidence and share of right answers under each condition."""
    found = {name: one for name, one in conditions.items() if one["answers"]}
    heights = np.arange(len(found))[::-1]
    for height, one in zip(heights, found.values()):
        ends = [one[name]["score"] for name in ("accuracy", "confidence")]
        axes.plot(ends, [height, height], color="#bbbbbb", linewidth=2, zorder=1)
    for name, marker, color, label in (
        ("confidence", "o", COLORS["ecg"], "mean confidence"),
        ("accuracy", "D", COLORS["blind"], "right"),
    ):
        axes.plot([one[name]["score"] for one in found.values()], heights, marker, color=color, label=label, zorder=2)
    axes.set_yticks(heights, [CONDITION_NAMES.get(name, name) for name in found], **AS_IT_IS)
    axes.set_ylim(-0.6, len(found) - 0.4)
    axes.set_xlim(0, 1.02)
    axes.grid(axis="x", color="#eeeeee")
    axes.set_title("as sure without the ECG?", fontsize=10)
    axes.legend(loc="best", frameon=False, fontsize=8)
