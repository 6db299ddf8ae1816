"""Time per picture of a 12-lead ECG, compared with matplotlib figures of the same size, on one core.

The plain figure has matplotlib's grid at ticks of 1 and 5 mm. The lean figure has two collections of lines and no
ticks.

python benchmarks/image.py
"""

import time
from collections.abc import Callable

import numpy as np

from elm_hf.ecg.simulated_findings import draw_findings
from elm_hf.ecg.simulation import simulate_ecg
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.modeling.ecg_raster import EcgPaper, draw_ecg
from elm_hf.modeling.image_processing_ecg import EcgImageProcessor


try:
    import matplotlib
except ImportError as error:
    raise SystemExit(
        "matplotlib is not installed, which this benchmark compares with: pip install matplotlib"
    ) from error

matplotlib.use("agg")
from matplotlib import pyplot  # noqa: E402


SAMPLING_RATE = 250
RECORDS = 20
ROUNDS = 5
DPI = 100


def with_matplotlib(ecg: np.ndarray, height: int, width: int, layout: str, lean: bool) -> np.ndarray:
    """A typical matplotlib figure: one axis with a grid, and a line and a name for each lead."""
    paper = EcgPaper(ecg.shape[1] / SAMPLING_RATE, height, width, layout)
    seconds = np.arange(ecg.shape[1]) / SAMPLING_RATE
    figure = pyplot.figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    axis = figure.add_axes((0, 0, 1, 1))
    spacing = paper.row_height / paper.pixels_per_mv
    for row, leads in enumerate(paper.rows):
        for column, lead in enumerate(leads):
            part = slice(*(len(seconds) * k // len(leads) for k in (column, column + 1)))
            axis.plot(seconds[part], ecg[LEADS.index(lead), part] - row * spacing, color="black", linewidth=0.8)
            axis.text(seconds[part][0], (0.4 - row) * spacing, lead)
    bottom, top = (0.5 - len(paper.rows)) * spacing, 0.5 * spacing
    axis.set_xlim(0, seconds[-1])
    axis.set_ylim(bottom, top)
    for second, millivolt, color, line in ((0.04, 0.1, "mistyrose", 0.4), (0.2, 0.5, "salmon", 0.8)):
        x, y = np.arange(0, seconds[-1], second), np.arange(bottom, top, millivolt)
        if lean:
            axis.axis("off")
            axis.vlines(x, bottom, top, color=color, linewidth=line, zorder=0)
            axis.hlines(y, 0, seconds[-1], color=color, linewidth=line, zorder=0)
        else:
            is_minor = second == 0.04
            axis.set_xticks(x, minor=is_minor)
            axis.set_yticks(y, minor=is_minor)
            axis.grid(which="minor" if is_minor else "major", color=color, linewidth=line)
    figure.canvas.draw()
    picture = np.asarray(figure.canvas.buffer_rgba())[:, :, :3].copy()
    pyplot.close(figure)
    return picture


def milliseconds(draw: Callable, ecgs: np.ndarray) -> float:
    """CPU time per ECG in the best of `ROUNDS` rounds."""
    draw(ecgs[0])
    rounds = []
    for _ in range(ROUNDS):
        start = time.process_time()
        for ecg in ecgs:
            draw(ecg)
        rounds.append(time.process_time() - start)
    return min(rounds) / len(ecgs) * 1000


def main() -> None:
    rng = np.random.default_rng(0)
    ecgs = np.stack([simulate_ecg(draw_findings(rng), rng) for _ in range(RECORDS)])
    print(f"{RECORDS} simulated records of 10 s at {SAMPLING_RATE} Hz, CPU time of one core, best of {ROUNDS} rounds")
    for height, width in ((1000, 1650), (768, 1024), (224, 224)):
        for layout in ("3x4+1", "12x1"):
            size = {"height": height, "width": width, "layout": layout}
            ours = milliseconds(lambda ecg, size=size: draw_ecg(ecg, SAMPLING_RATE, **size), ecgs)
            plain, lean = (
                milliseconds(lambda ecg, size=size, lean=lean: with_matplotlib(ecg, **size, lean=lean), ecgs[:2])
                for lean in (False, True)
            )
            print(
                f"{width:4} x {height:4} {layout:>5}: {ours:5.1f} ms, {1000 / ours:4.0f} pictures/s; matplotlib plain "
                f"{plain:5.0f} ms, ratio {plain / ours:4.0f}; lean {lean:4.0f} ms, ratio {lean / ours:3.0f}"
            )
    processor = EcgImageProcessor(size={"height": 768, "width": 1024})
    whole = milliseconds(lambda ecg: processor(ecg, SAMPLING_RATE), ecgs)
    print(f"EcgImageProcessor to normalized pixel_values at 1024 x 768: {whole:.1f} ms, {1000 / whole:.0f} pictures/s")


if __name__ == "__main__":
    main()
