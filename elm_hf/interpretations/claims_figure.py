"""The figure of the claims of answers (matplotlib): how many are true under each condition, and by finding."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from elm_hf.scoring.names import CONDITION_NAMES


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
    bars = [bar for bar in _BARS if any(found[bar[0]]["score"] is not None for found in conditions.values())]
    heights = [len(conditions), max(len(findings), 1)]
    figure = Figure(figsize=(8, 1.6 + 0.42 * sum(heights)), layout="constrained")
    upper, lower = figure.subplots(2, height_ratios=heights, sharex=True)
    _panel(upper, conditions, bars)
    upper.set_title(
        f"Claims of {claims['answers']:,} answers about the ECGs of {claims['patients']:,} patients", fontsize=10
    )
    _panel(lower, findings, bars)
    lower.set_title("With the ECG, by abnormal finding", fontsize=10)
    lower.set_xlabel("share, 95 % interval")
    lower.set_xlim(0, 1.0)
    handles = [Patch(color=color, label=label) for _, label, color in bars]
    figure.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    return figure


def _panel(axes: Axes, rows: dict[str, dict], bars: Sequence[tuple[str, str, str]]) -> None:
    places = np.arange(len(rows))[::-1]
    height = 0.76 / max(len(bars), 1)
    for number, (key, _, color) in enumerate(bars):
        offset = height * ((len(bars) - 1) / 2 - number)
        for place, entry in zip(places + offset, (found[key] for found in rows.values())):
            if entry["score"] is None:
                continue
            ends = [entry["score"] if entry[end] is None else entry[end] for end in ("low", "high")]
            reach = np.abs(np.array(ends) - entry["score"])[:, None]
            style = {"color": color, "capsize": 2, "error_kw": {"linewidth": 1}}
            axes.barh(place, entry["score"], 0.9 * height, xerr=reach, **style)
            axes.annotate(f"n = {entry['of']}", (1.01, place), va="center", fontsize=7, annotation_clip=False)
    axes.set_yticks(places, list(rows), fontsize=8, parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
