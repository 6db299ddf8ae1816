"""The figure of the stretches of the beat that the answers of a probe hang on (matplotlib)."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from elm_hf.ecg.beat_stretches import STRETCHES


STRETCHES_FILE = "probe_stretches.png"


def stretch_figure(cases: list[dict]) -> Figure:
    """
    A row for each question, a column for each stretch, coloured by the mean fall of the probability; a frame where the finding is.

    Args:
        cases: of [`~elm_hf.counterfactuals.probe_stretches.stretch_results`].
    """
    falls = np.array([[case["falls"][name]["mean"] for name in STRETCHES] for case in cases])
    figure = Figure(figsize=(9.5, 1.4 + 0.3 * len(cases)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(falls, vmin=-1, vmax=1, cmap="RdBu_r", aspect="auto")
    for (row, column), fall in np.ndenumerate(falls):
        color = "white" if abs(fall) > 0.6 else "black"
        axes.text(column, row, f"{np.round(fall, 2) + 0.0:.2f}", ha="center", va="center", fontsize=8, color=color)
    for row, case in enumerate(cases):
        place = STRETCHES.index(case["where"]) - 0.47, row - 0.44
        axes.add_patch(Rectangle(place, 0.94, 0.88, fill=False, edgecolor="black", linewidth=2))
    axes.set_xticks(range(len(STRETCHES)), STRETCHES)
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(cases)), [f"{case['finding']}: {case['question']}" for case in cases], fontsize=8)
    axes.tick_params(length=0)
    figure.colorbar(image, ax=axes, shrink=0.8, label="fall of the probability of the finding")
    figure.suptitle(
        "One stretch of each beat exchanged for that of a heart without the finding; frame: where it is", fontsize=9
    )
    return figure
