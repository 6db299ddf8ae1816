"""The figure of the claims of answers (matplotlib): how many are true under each condition, and by finding."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from elm_hf.evaluation.names import CONDITION_NAMES


# Okabe & Ito (2008).
PRECISION_COLOR, RECALL_COLOR = "#0072B2", "#D55E00"
_BARS = (("precision", "claims that are true", PRECISION_COLOR), ("recall", "abnormal findings stated", RECALL_COLOR))


def claims_figure(claims: dict) -> Figure:
    """
    Precision and recall of the claims under each condition, and of each abnormal finding with the ECG.

    Args:
        claims: of `report.json`.
    """
    conditions = {CONDITION_NAMES.get(name, name): found for name, found in claims["conditions"].items()}
    findings = claims["conditions"].get("ecg", {}).get("findings", {})
    heights = [len(conditions), max(len(findings), 1)]
    figure = Figure(figsize=(8, 1.6 + 0.42 * sum(heights)), layout="constrained")
    upper, lower = figure.subplots(2, height_ratios=heights, sharex=True)
    _panel(upper, conditions)
    upper.set_title(
        f"Claims of {claims['answers']:,} answers about the ECGs of {claims['patients']:,} patients", fontsize=10
    )
    _panel(lower, findings)
    lower.set_title("With the ECG, by abnormal finding", fontsize=10)
    lower.set_xlabel("share, 95 % interval")
    lower.set_xlim(0, 1.0)
    figure.legend(*upper.get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    return figure


def _panel(axes: Axes, rows: dict[str, dict]) -> None:
    places = np.arange(len(rows))[::-1]
    for (key, label, color), offset in zip(_BARS, (0.2, -0.2)):
        for place, entry in zip(places + offset, (found[key] for found in rows.values())):
            if entry["score"] is None:
                continue
            ends = [entry["score"] if entry[end] is None else entry[end] for end in ("low", "high")]
            reach = np.abs(np.array(ends) - entry["score"])[:, None]
            axes.barh(place, entry["score"], 0.36, color=color, xerr=reach, capsize=2, error_kw={"linewidth": 1})
            axes.annotate(f"n = {entry['of']}", (0.005, place), va="center", fontsize=7, color="white")
        axes.barh([], [], color=color, label=label)
    axes.set_yticks(places, list(rows), fontsize=8, parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
