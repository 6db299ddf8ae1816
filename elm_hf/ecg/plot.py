"""Draw a 12-lead ECG on ECG paper, at 25 mm/s and 10 mm/mV unless said otherwise, with Pillow and NumPy."""

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from elm_hf.modeling.ecg_leads import LEADS, SAMPLING_RATE, place_leads
from elm_hf.modeling.ecg_raster import (
    BOLD_LINE,
    GREY,
    GRID_COLORS,
    INK_COLOR,
    MM_PER_MILLIVOLT,
    MM_PER_SECOND,
    PEN_WIDTH,
    ROW_MILLIVOLTS,
    SEPARATOR,
    SQUARE,
    THIN_LINE,
    check_paper,
    rows_of_layout,
)


MAX_SECONDS = 10
CALIBRATION_SECONDS = 0.2

# Lengths in mm. They place the baselines and the calibration pulses on bold lines.
CALIBRATION_MARGIN = 10
MIN_PAPER_WIDTH = 125
PAGE_MARGIN = 6
# What is left free of a row above the baseline of a lead's name, and above and below the colour behind a trace.
ABOVE_LABEL, BESIDE_HEAT = 3.7, 2
TITLE_SIZE, LABEL_SIZE, TEXT_SIZE = 5.0, 4.2, 4.0

HEAT_COLOR = (90, 60, 200)
MAX_HEAT = 0.55  # opacity; the lines of the paper remain visible

# The coverage of a stroke is exact vertically; horizontally it is sampled in this many columns per pixel.
COLUMNS_PER_PIXEL = 4

# Pillow's built-in font contains ASCII characters only.
ASCII_SPELLING = str.maketrans(
    {"ß": "ss", "µ": "u", "μ": "u", "±": "+/-", "≥": ">=", "≤": "<=", "–": "-", "—": "-"}
    | {"‘": "'", "’": "'", "“": '"', "”": '"', "…": "...", "×": "x", "·": "-", "•": "-", "→": "->"}
)


def plot_ecg(
    ecg: np.ndarray,
    sampling_rate: float = SAMPLING_RATE,
    leads: Sequence[str] = LEADS,
    title: str | None = None,
    caption: str | None = None,
    rhythm_lead: str = "II",
    calibration: bool = True,
    pixels_per_mm: int = 6,
    heat: np.ndarray | None = None,
    rhythm_heat: np.ndarray | None = None,
    *,
    layout: str = "3x4+1",
    mm_per_s: float = MM_PER_SECOND,
    mm_per_mv: float = MM_PER_MILLIVOLT,
    grid_color: str = "red",
) -> Image.Image:
    """Draw an ECG as on a printout: three rows of four leads above a rhythm strip, on millimetre paper.

    The four columns are consecutive in time. Each shows a quarter of the record (2.5 s of a 10 s record, 1.25 s of a 5
    s record, 0.5 s of a 2 s record), each of the two columns of the layout "6x2" a half; a rhythm strip shows the whole
    record. If a record is longer than 10 s, the first 10 s are drawn and the line below the paper says so.

    The median of each lead is subtracted, so that a lead with a constant offset stays in its row. A deflection higher
    than its row overlaps the neighbouring rows and is clipped to the edge of the paper. Gaps (NaN) are left blank. A
    lead without valid samples in its column is labelled "no signal".

    Args:
        ecg: float array `(leads, samples)` in millivolt. A missing lead is a row of NaN; a row of zeros is drawn as a
            flat line.
        sampling_rate: sampling rate in Hz.
        leads: names of the rows of `ecg`, in any order. The remaining leads of the twelve have no signal.
        title: text above the paper.
        caption: text below the paper, wrapped to its width; line breaks are kept. Title and caption are drawn in
            Pillow's built-in font, which contains ASCII characters only: "ü" becomes "u", and a character without an
            ASCII spelling becomes "?".
        rhythm_lead: lead of the rhythm strip of the layout "3x4+1".
        calibration: whether to start each row with a calibration pulse of 1 mV and 0.2 s.
        pixels_per_mm: resolution. With 6, a 10 s record is 1723 pixels wide; 12 is about 300 dpi.
        heat: float array `(leads, samples)` from 0 to 1: intensity of the colour behind each sample.
        rhythm_heat: float array `(samples,)` for rows of a single lead. Defaults to the `heat` of their leads.
        layout: "3x4": three rows of four leads; "3x4+1": with a rhythm strip; "3x4+3": with three, V1, II and V5; "6x2":
            six rows of two leads; "12x1": one row per lead.
        mm_per_s: speed of the paper in mm/s.
        mm_per_mv: amplitude in mm/mV. A row is three millivolt high, rounded up to whole centimetres.
        grid_color: colour of the paper and its lines, see [`EcgPaper`].

    Returns:
        The RGB image. Saved with `dpi=(25.4 * pixels_per_mm,) * 2`, it prints at true scale.

    Raises:
        ValueError: `ecg` is not a float array `(leads, samples)`, a lead is unknown or repeated, `heat` does not have
            the shape of `ecg`, `layout` or `grid_color` is unknown, or `sampling_rate`, `pixels_per_mm`, `mm_per_s` or
            `mm_per_mv` is out of range.
    """
    ecg = np.asarray(ecg)
    _check(ecg, sampling_rate, pixels_per_mm, mm_per_mv)
    check_paper(layout, mm_per_s, grid_color)
    heat = np.zeros(ecg.shape, np.float32) if heat is None else np.asarray(heat, np.float32)
    if heat.shape != ecg.shape:
        raise ValueError(f"heat has shape {heat.shape}; expected the shape of the ECG, {ecg.shape}")
    ecg, _ = place_leads(ecg, leads)
    heat = np.nan_to_num(place_leads(heat, leads)[0])
    shown = ecg[:, : round(MAX_SECONDS * sampling_rate)]
    rows = rows_of_layout(layout, rhythm_lead)

    pulse = CALIBRATION_SECONDS * mm_per_s
    start = SQUARE + (CALIBRATION_MARGIN + SQUARE * math.ceil(pulse / SQUARE) if calibration else 0)
    width = max(start + shown.shape[1] / sampling_rate * mm_per_s + SQUARE, MIN_PAPER_WIDTH)
    row_height = 2 * SQUARE * math.ceil(ROW_MILLIVOLTS * mm_per_mv / (2 * SQUARE))
    paper = _Paper(
        SQUARE * math.ceil(width / SQUARE), len(rows) * row_height + 2 * SQUARE, pixels_per_mm, GRID_COLORS[grid_color]
    )
    for row, names in enumerate(rows):
        place = _Row(start, SQUARE + (row + 0.5) * row_height, row_height, mm_per_s / sampling_rate, mm_per_mv)
        if calibration:
            _draw_calibration(paper, place.baseline, pulse, mm_per_mv)
        numbers = [LEADS.index(name) for name in names]
        heats = heat[numbers, : shown.shape[1]]
        if len(names) == 1 and rhythm_heat is not None:
            heats = np.asarray(rhythm_heat)[None, : shown.shape[1]]
        _draw_heat(paper, heats, place)
        _draw_row(paper, names, shown[numbers], place)

    scale = f"{mm_per_s:g} mm/s   {mm_per_mv:g} mm/mV"
    if shown.shape[1] < ecg.shape[1]:
        scale += f"   first {MAX_SECONDS} s of {ecg.shape[1] / sampling_rate:.1f} s"
    return _page(paper.image(), pixels_per_mm, title, scale, caption)


def plot_picture(pixels: np.ndarray, title: str | None = None, caption: str | None = None) -> Image.Image:
    """
    Place a picture of an ECG on a white page with a title and a caption.

    Args:
        pixels: uint8 array `(height, width, 3)`. A picture that is wider than `plot_ecg` draws 10 s is reduced.
        title, caption: see `plot_ecg`.
    """
    picture, pixels_per_mm = Image.fromarray(pixels), 6
    widest = MAX_SECONDS * MM_PER_SECOND * pixels_per_mm
    if picture.width > widest:
        picture = picture.resize((widest, max(1, round(picture.height * widest / picture.width))))
    return _page(picture, pixels_per_mm, title, None, caption)


def stack_pictures(pictures: Sequence[Image.Image]) -> Image.Image:
    """Place pictures below each other on a white page."""
    page = Image.new("RGB", (max(one.width for one in pictures), sum(one.height for one in pictures)), "white")
    y = 0
    for picture in pictures:
        page.paste(picture, (0, y))
        y += picture.height
    return page


def _check(ecg: np.ndarray, sampling_rate: float, pixels_per_mm: int, mm_per_mv: float) -> None:
    """Check for arguments that would give a wrong or empty image."""
    if ecg.ndim != 2 or ecg.shape[1] < 2:
        raise ValueError(f"ecg has shape {ecg.shape}; expected (leads, samples) with at least 2 samples")
    if not np.issubdtype(ecg.dtype, np.floating):
        raise ValueError(f"ecg is {ecg.dtype}; expected floats in millivolt: divide integer microvolt by 1000.0")
    if not sampling_rate > 0:
        raise ValueError(f"sampling_rate is {sampling_rate}; expected a positive number of Hz")
    if not isinstance(pixels_per_mm, int) or pixels_per_mm < 2:
        raise ValueError(f"pixels_per_mm is {pixels_per_mm}; expected a whole number, 2 or more")
    if not mm_per_mv > 0:
        raise ValueError(f"mm_per_mv is {mm_per_mv}; expected a positive number, such as 5, 10 or 20")


@dataclass(frozen=True)
class _Row:
    """Where a row of leads is on the paper, in mm: its first sample, 0 mV, its height, and its scales."""

    start: float
    baseline: float
    height: float
    mm_per_sample: float
    mm_per_mv: float


def _draw_calibration(paper: "_Paper", baseline: float, width: float, mm_per_mv: float) -> None:
    """Draw a pulse of 1 mV and 0.2 s at the start of a row; `width` is that of the pulse in mm."""
    left, right = 2 * SQUARE, 2 * SQUARE + width
    x = np.array([left - SQUARE / 2, left - 0.01, left, right, right + 0.01, right + SQUARE / 2])
    paper.stroke(x, baseline - np.array([0, 0, 1, 1, 0, 0]) * mm_per_mv)


def _draw_heat(paper: "_Paper", heats: np.ndarray, row: _Row) -> None:
    """Colour the paper behind a row of leads; `heats` is `(leads, samples)`."""
    column_of_sample = np.arange(heats.shape[1]) * len(heats) // heats.shape[1]
    shown = heats[column_of_sample, np.arange(heats.shape[1])]
    if shown.any():
        reach = row.height / 2 - BESIDE_HEAT
        paper.tint(row.start, row.baseline - reach, row.baseline + reach, row.mm_per_sample, shown)


def _draw_row(paper: "_Paper", names: Sequence[str], signals: np.ndarray, row: _Row) -> None:
    """Label and draw the leads of a row side by side. Lead k of `signals` `(leads, samples)` shows its k-th equal part."""
    samples = np.arange(signals.shape[1])
    x = row.start + samples * row.mm_per_sample
    column_of_sample = samples * len(names) // len(samples)
    for column, (name, signal) in enumerate(zip(names, signals)):
        left = row.start + len(samples) * column / len(names) * row.mm_per_sample
        if column:
            paper.mark(left, row.baseline - SEPARATOR / 2, row.baseline + SEPARATOR / 2)
        paper.write(name, left + 1, row.baseline - row.height / 2 + ABOVE_LABEL, LABEL_SIZE, INK_COLOR)
        valid = np.isfinite(signal)
        drawn = np.flatnonzero(valid & (column_of_sample == column))
        if not drawn.size:
            # On one line, the text is wider than the columns of a 2 s record.
            words = "no signal" if x[-1] - row.start > 20 * len(names) else "no\nsignal"
            paper.write(words, left + 1, row.baseline, TEXT_SIZE, GREY)
            continue
        y = row.baseline - (signal - np.median(signal[valid])) * row.mm_per_mv
        for run in np.split(drawn, np.flatnonzero(np.diff(drawn) > 1) + 1):
            paper.stroke(x[run], y[run])


class _Paper:
    """
    Millimetre paper of `width` x `height` mm. All positions are in mm from its top left corner. `colors` are those of the
    paper, its thin lines and its bold lines.
    """

    def __init__(self, width: int, height: int, pixels_per_mm: int, colors: tuple):
        paper_color, thin_color, bold_color = colors
        self.pixels_per_mm = pixels_per_mm
        # One extra pixel, so that the last line is on the paper too.
        rows, columns = height * pixels_per_mm + 1, width * pixels_per_mm + 1
        pixels = np.full((rows, columns, 3), paper_color, np.float32)
        for spacing, line_width, color in ((1, THIN_LINE, thin_color), (SQUARE, BOLD_LINE, bold_color)):
            down, across = (self._line_coverage(size, spacing, line_width) for size in (rows, columns))
            cover = np.maximum(down[:, None], across)[:, :, None]
            pixels += cover * (np.float32(color) - pixels)
        self._grid = Image.fromarray(pixels.round().astype(np.uint8))
        self._ink = np.zeros((rows, columns * COLUMNS_PER_PIXEL), np.float32)

    def _line_coverage(self, size: int, spacing: int, line_width: float) -> np.ndarray:
        """Share of each of `size` pixels that is covered by lines `spacing` mm apart, centred on whole pixels."""
        distance = np.arange(size) % (spacing * self.pixels_per_mm)
        distance = np.minimum(distance, spacing * self.pixels_per_mm - distance)
        half_width = max(line_width * self.pixels_per_mm, 1) / 2
        return np.clip(half_width + 0.5 - distance, 0, 1).astype(np.float32)

    def write(self, text: str, left: float, base: float, size: float, color: tuple[int, int, int]) -> None:
        """Write `text` on the baseline `base`. Strokes are drawn over it."""
        at = (round(left * self.pixels_per_mm), round(base * self.pixels_per_mm))
        ImageDraw.Draw(self._grid).text(at, text, color, _font(size, self.pixels_per_mm), anchor="ls")

    def tint(self, left: float, top: float, bottom: float, width: float, heat: np.ndarray) -> None:
        """Colour adjacent strips of paper, each `width` wide, by their `heat` `(strips,)` from 0 to 1."""
        box = [round(length * self.pixels_per_mm) for length in (left, top, left + len(heat) * width, bottom)]
        strip = ((np.arange(box[2] - box[0]) + 0.5) / (width * self.pixels_per_mm)).astype(int)
        cover = MAX_HEAT * np.clip(heat[np.minimum(strip, len(heat) - 1)], 0, 1)[None, :, None]
        pixels = np.asarray(self._grid.crop(box), np.float32)
        tinted = pixels + cover * (np.float32(HEAT_COLOR) - pixels)
        self._grid.paste(Image.fromarray(tinted.round().astype(np.uint8)), box[:2])

    def mark(self, x: float, top: float, bottom: float) -> None:
        """Draw a grey vertical line. Strokes are drawn over it."""
        ends = [(round(x * self.pixels_per_mm), round(y * self.pixels_per_mm)) for y in (top, bottom)]
        ImageDraw.Draw(self._grid).line(ends, GREY, max(round(BOLD_LINE * self.pixels_per_mm), 1))

    def stroke(self, x: np.ndarray, y: np.ndarray) -> None:
        """Draw a line through points with a round pen; `x` must be increasing, `y` is clipped to the paper."""
        radius = max(PEN_WIDTH * self.pixels_per_mm, 1) / 2
        x = (x * self.pixels_per_mm + 0.5) * COLUMNS_PER_PIXEL
        y = np.clip(y * self.pixels_per_mm + 0.5, radius, len(self._ink) - radius)

        # In each column, the line covers the interval between the smallest and the largest y of its points and edges.
        edges = np.arange(math.floor(x[0]), math.floor(x[-1]) + 2)
        outline_x = np.union1d(x, edges)
        outline_y = np.interp(outline_x, x, y)
        at = np.searchsorted(outline_x, edges)
        top = np.minimum(np.minimum.reduceat(outline_y, at[:-1]), outline_y[at[1:]])
        bottom = np.maximum(np.maximum.reduceat(outline_y, at[:-1]), outline_y[at[1:]])

        # The round pen extends the interval by its half-height at each horizontal distance from its centre.
        reach = int(radius * COLUMNS_PER_PIXEL)
        half_height = np.sqrt(radius**2 - (np.arange(-reach, reach + 1) / COLUMNS_PER_PIXEL) ** 2)
        top = (_windows(top, reach, np.inf) - half_height).min(axis=1)
        bottom = (_windows(bottom, reach, -np.inf) + half_height).max(axis=1)

        rows = np.arange(max(math.floor(top.min()), 0), min(math.ceil(bottom.max()), len(self._ink)))[:, None]
        cover = np.clip(np.minimum(bottom, rows + 1) - np.maximum(top, rows), 0, 1)
        area = self._ink[rows[0, 0] : rows[-1, 0] + 1, edges[0] - reach : edges[-1] + reach]
        np.maximum(area, cover, out=area)

    def image(self) -> Image.Image:
        """Return the paper with everything that is drawn on it."""
        ink = self._ink.reshape(self._grid.height, self._grid.width, COLUMNS_PER_PIXEL).mean(axis=2)
        picture = self._grid.copy()
        picture.paste(INK_COLOR, mask=Image.fromarray((255 * ink).round().astype(np.uint8)))
        return picture


def _windows(values: np.ndarray, reach: int, padding: float) -> np.ndarray:
    """Sliding windows `(n + 2 * reach, 2 * reach + 1)` over `values` `(n,)`, padded on both sides."""
    return np.lib.stride_tricks.sliding_window_view(np.pad(values, 2 * reach, constant_values=padding), 2 * reach + 1)


def _page(
    picture: Image.Image, pixels_per_mm: int, title: str | None, scale: str | None, caption: str | None
) -> Image.Image:
    """Place a picture on a white page, with the title above it and the scale and the caption below it."""
    margin = PAGE_MARGIN * pixels_per_mm
    title, scale, caption = (
        _text_block(text, size, color, picture.width, pixels_per_mm)
        for text, size, color in (
            (title, TITLE_SIZE, INK_COLOR),
            (scale, TEXT_SIZE, GREY),
            (caption, TEXT_SIZE, INK_COLOR),
        )
    )
    blocks = [block for block in (title, picture, scale, caption) if block.height]
    gap = margin // 3
    height = sum(block.height + gap for block in blocks) - gap
    page = Image.new("RGB", (picture.width + 2 * margin, height + 2 * margin), "white")
    y = margin
    for block in blocks:
        page.paste(block, (margin, y))
        y += block.height + gap
    return page


def _text_block(
    text: str | None, size: float, color: tuple[int, int, int], width: int, pixels_per_mm: int
) -> Image.Image:
    """Draw `text` on a white image `width` pixels wide. Its height is 0 if there is no text."""
    font = _font(size, pixels_per_mm)
    lines = _wrap(text or "", font, width)
    line_height = round(1.35 * size * pixels_per_mm)
    block = Image.new("RGB", (width, len(lines) * line_height), "white")
    draw = ImageDraw.Draw(block)
    for number, line in enumerate(lines):
        draw.text((0, number * line_height + size * pixels_per_mm), line, color, font, anchor="ls")
    return block


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Wrap `text` into lines of at most `width` pixels. A longer word has a line of its own."""
    lines = []
    for paragraph in _ascii(text).expandtabs().splitlines():
        line = ""
        for word in paragraph.split(" "):
            longer = f"{line} {word}" if line else word
            if line and font.getlength(longer) > width:
                lines.append(line)
                longer = word
            line = longer
        lines.append(line)
    return lines


def _ascii(text: str) -> str:
    """Convert `text` to ASCII, the characters of Pillow's built-in font."""
    letters = unicodedata.normalize("NFKD", text.translate(ASCII_SPELLING))
    return "".join(c for c in letters if not unicodedata.combining(c)).encode("ascii", "replace").decode()


def _font(size: float, pixels_per_mm: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size * pixels_per_mm)
