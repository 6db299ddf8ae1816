"""The charts of an evaluation's report (matplotlib): scores by type, the signal ablation, confusion matrices."""

from pathlib import Path
from textwrap import fill

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from elm_hf.interpretations.claims_figure import claims_figure
from elm_hf.scoring.figure_style import AS_IT_IS, COLORS, CONTROL_COLOR, DPI
from elm_hf.scoring.names import BLIND, CONDITION_NAMES, controls_of
from elm_hf.utils.reports import METRIC_NAMES, METRIC_OF_KIND


LONGEST_LABEL = 32
LONGEST_TYPE = 60
LONGEST_FILE = 80


def draw_charts(folder: Path, report: dict) -> dict[str, str]:
    """
    Args:
        folder: for the PNG files.
        report: as in report.json.

    Returns:
        Name of each figure to the name of its file.
    """
    figures = {"ablation": ablation_figure(report)}
    if "ecg" in report["conditions"]:
        for groups in ("scores", "attribute_types"):
            if report[groups]:
                figures[groups] = scores_figure(report, groups)
    if report.get("picture_degradation"):
        figures["picture_degradation"] = degradation_figure(report["picture_degradation"])
    if report.get("claims"):
        figures["claims"] = claims_figure(report["claims"])
    for name, confusion in report["confusion"].items():
        figures[f"confusion_{name}"] = confusion_figure(confusion, name)
    files = {}
    for name, figure in figures.items():
        stem = "".join(c if c.isalnum() or c in "-_" else "_" for c in name)[:LONGEST_FILE]
        files[name] = f"{stem}_{len(files)}.png" if f"{stem}.png" in files.values() else f"{stem}.png"
        figure.savefig(folder / files[name], dpi=DPI)
    return files


def scores_figure(report: dict, groups_name: str) -> Figure:
    """A point with its interval for each group of questions, next to the blind baseline and the best control."""
    groups = list(report[groups_name].items())
    figure = Figure(figsize=(8, 1.2 + 0.38 * len(groups)), layout="constrained")
    axes = figure.subplots()
    for height, (_, scores) in enumerate(reversed(groups)):
        metric = METRIC_OF_KIND[scores["kind"]]
        entries = {name: metrics[metric] for name, metrics in scores["conditions"].items()}
        controls = [entries[name]["score"] for name in controls_of(entries)]
        marks = [("best without the ECG", max(controls, default=None), "|", CONTROL_COLOR, 15)]
        if BLIND in entries:
            marks.append((CONDITION_NAMES[BLIND], entries[BLIND]["score"], "D", COLORS[BLIND], 5))
        for label, score, marker, color, size in marks:
            if score is not None:
                style = {"marker": marker, "color": color, "markersize": size, "linestyle": "none"}
                axes.plot(score, height, label=label, markeredgewidth=2 if marker == "|" else 0.5, **style)
        _point(axes, entries["ecg"], height)
    labels = [f"{_shortened(name, LONGEST_TYPE)}  (n = {scores['answers']:,})" for name, scores in reversed(groups)]
    axes.set_yticks(range(len(groups)), labels, **AS_IT_IS)
    axes.set_ylim(-0.6, len(groups) - 0.4)
    _score_axis(axes.xaxis, report)
    axes.set_xlim(-0.02, 1.02)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    handles = dict(zip(*reversed(axes.get_legend_handles_labels())))
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    return figure


def _point(axes: Axes, entry: dict, height: float) -> None:
    low, high = (entry[end] if entry[end] is not None else entry["score"] for end in ("low", "high"))
    # Rounding must not make a length negative.
    reach = [[max(entry["score"] - low, 0)], [max(high - entry["score"], 0)]]
    style = {"fmt": "o", "color": COLORS["ecg"], "markersize": 6, "capsize": 3, "linewidth": 1.5}
    axes.errorbar(entry["score"], height, xerr=reach, label="with ECG, 95 % interval", **style)


def _score_axis(axis, report: dict) -> None:
    metrics = {METRIC_NAMES[METRIC_OF_KIND[scores["kind"]]] for scores in report["scores"].values()}
    axis.set_label_text(" or ".join(sorted(metrics)))


def ablation_figure(report: dict) -> Figure:
    """A bar with its interval for each condition, all answers of a kind together."""
    groups = [(name, scores) for name, scores in report["scores"].items() if name.startswith("all")]
    width = max(7, 0.85 * len(report["conditions"]))
    figure = Figure(figsize=(width, 3.9 * len(groups)), layout="constrained")
    for axes, (name, scores) in zip(np.ravel(figure.subplots(len(groups))), groups):
        metric = METRIC_OF_KIND[scores["kind"]]
        entries = [scores["conditions"][condition][metric] for condition in report["conditions"]]
        heights = np.array([entry["score"] for entry in entries])
        ends = np.array(
            [[heights[i] if e[k] is None else e[k] for i, e in enumerate(entries)] for k in ("low", "high")]
        )
        reach = np.abs(ends - heights).clip(0)
        colors = [COLORS.get(condition, CONTROL_COLOR) for condition in report["conditions"]]
        places = range(len(entries))
        axes.bar(places, heights, color=colors, width=0.65, yerr=reach, capsize=4, error_kw={"linewidth": 1.2})
        for place, height, high in zip(places, heights, ends[1]):
            axes.annotate(f"{height:.3f}", (place, high), (0, 5), textcoords="offset points", ha="center", fontsize=9)
        axes.set_xticks(places, [fill(CONDITION_NAMES.get(c, c), 9) for c in report["conditions"]])
        axes.set_ylim(0, min(1.12, max(0.1, ends.max() * 1.18)))
        axes.set_ylabel(METRIC_NAMES[metric])
        axes.set_title(_ablation_title(report["signal_reliance"][scores["kind"]], name, scores), fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _ablation_title(reliance: dict, name: str, scores: dict) -> str:
    head = f"{name}: {scores['answers']:,} answers, {scores['patients']:,} patients"
    if reliance["score"] is None:
        return head
    interval = "" if reliance["low"] is None else f" [{reliance['low']:.3f}, {reliance['high']:.3f}]"
    return f"{head}\nsignal reliance {reliance['score']:.3f}{interval}"


def degradation_figure(steps: list[dict]) -> Figure:
    """The score with the ECG, and the best score without it, against the severity of the artefacts of scans."""
    kinds = list(steps[0]["kinds"])
    figure = Figure(figsize=(6, 3.6 * len(kinds)), layout="constrained")
    for axes, kind in zip(np.ravel(figure.subplots(len(kinds))), kinds):
        entries = [step["kinds"][kind] for step in steps]
        severities = [step["severity"] for step in steps]
        scores = [entry["score"] for entry in entries]
        ends = np.array([[s["score"] if s[end] is None else s[end] for s in scores] for end in ("low", "high")])
        heights = np.array([score["score"] for score in scores])
        style = {"color": COLORS["ecg"], "marker": "o", "capsize": 4}
        axes.errorbar(severities, heights, yerr=np.abs(ends - heights), label="with ECG, 95 % interval", **style)
        controls = [
            entry["reliance"].get("scores", {}).get(entry["reliance"].get("best_control")) for entry in entries
        ]
        if None not in controls:
            axes.plot(severities, controls, color=CONTROL_COLOR, marker="s", label="best without the ECG")
        axes.set_xticks(severities)
        axes.set_xlabel("severity of the artefacts of scans")
        axes.set_ylabel(METRIC_NAMES[METRIC_OF_KIND[kind]])
        axes.set_ylim(-0.02, 1.02)
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9)
    return figure


def confusion_figure(confusion: dict, title: str) -> Figure:
    """Counts of true (rows) and predicted answers (columns), coloured by the share of their row."""
    matrix, labels = np.array(confusion["matrix"]), [_shortened(label) for label in confusion["labels"]]
    longest = max(map(len, labels))
    size = max(3.2, 1.2 + 0.48 * len(labels) + 0.085 * longest)
    title = f"{_shortened(title, LONGEST_TYPE)} (n = {confusion['answers']:,})"
    figure = Figure(figsize=(max(size + 0.6, 0.1 * len(title)), size), layout="constrained")
    axes = figure.subplots()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, vmin=0, vmax=1, cmap=matplotlib.colormaps["Blues"])
    for (row, column), count in np.ndenumerate(matrix):
        if count:
            color = "white" if shares[row, column] > 0.55 else "black"
            axes.text(column, row, f"{count:,}", ha="center", va="center", color=color, fontsize=8)
    places = range(len(labels))
    axes.set_xticks(places, labels, rotation=0 if longest < 5 else 90, fontsize=8, **AS_IT_IS)
    axes.set_yticks(places, labels, fontsize=8, **AS_IT_IS)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    figure.suptitle(title, fontsize=10, **AS_IT_IS)
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true answer")
    return figure


def _shortened(label: str, longest: int = LONGEST_LABEL) -> str:
    return label if len(label) <= longest else label[: longest - 1] + "…"
