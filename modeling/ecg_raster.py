# Copyright 2026 The elm-hf authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Draws 12-lead ECGs as pictures of a given size, fast enough to draw them for every batch."""

import math
from dataclasses import KW_ONLY, dataclass
from functools import cached_property, lru_cache

import numpy as np

from .ecg_leads import LEADS, canonical_lead


# The leads of the rows of each layout, in the order of time. Rhythm strips are below them.
_THREE_ROWS = (("I", "aVR", "V1", "V4"), ("II", "aVL", "V2", "V5"), ("III", "aVF", "V3", "V6"))
_ROWS = {
    "3x4": _THREE_ROWS,
    "3x4+1": _THREE_ROWS,
    "3x4+3": _THREE_ROWS,
    "6x2": tuple(zip(LEADS[:6], LEADS[6:])),
    "12x1": tuple((lead,) for lead in LEADS),
}
LAYOUTS = tuple(_ROWS)
THREE_STRIPS = ("V1", "II", "V5")

MM_PER_SECOND = 25
MM_PER_MILLIVOLT = 10
# Without `mm_per_mv`, 10 mm/mV is halved until a row has room for this amplitude.
ROW_MILLIVOLTS = 3

# Lengths in mm.
SQUARE = 5
PEN_WIDTH = 0.36
THIN_LINE, BOLD_LINE = 0.15, 0.3
SEPARATOR = 10

# Colours of the paper, the thin lines and the bold lines.
GRID_COLORS = {
    "red": ((255, 249, 247), (250, 212, 208), (238, 150, 146)),
    "orange": ((255, 250, 243), (250, 221, 188), (236, 167, 100)),
    "green": ((248, 253, 247), (205, 232, 205), (130, 190, 135)),
    "blue": ((247, 250, 255), (207, 221, 245), (136, 167, 224)),
    "grey": ((255, 255, 255), (222, 222, 222), (172, 172, 172)),
}
INK_COLOR = (16, 16, 20)
GREY = (110, 110, 115)

# Grid lines closer than this many pixels are not drawn.
MIN_LINE_SPACING = 3
MIN_FONT_SIZE = 9
MIN_ROW_HEIGHT = 8

# Traces are exact in the vertical direction and computed for this many columns per pixel in the horizontal one.
COLUMNS_PER_PIXEL = 4


@dataclass(frozen=True)
class EcgPaper:
    r"""
    The paper that an ECG is drawn on. Its pictures have `height` x `width` pixels, whatever the record.

    The record fills the width at 25 mm/s (`mm_per_s`), which determines the size of a millimetre. The rows share the
    height, each with a whole number of millimetres, so that baselines lie on grid lines (rows of less than 5 mm are not
    rounded). The amplitude is 10 mm/mV if a row then has room for 3 mV, otherwise 5, 2.5, 1.25, ... mm/mV. It does not
    depend on the signal, so that amplitudes can be compared between pictures. At 1024 x 768 pixels a record of 10 s has
    4.0 pixels per mm and 10 mm/mV in the layout "3x4+1", and 3.9 pixels per mm and 5 mm/mV in "12x1".

    Positions are in pixels from the upper left corner; pixel k of a row or column covers k to k + 1.

    Args:
        seconds (`float`):
            Length of the record in seconds.
        height (`int`, *optional*, defaults to 768):
            Height of the picture in pixels.
        width (`int`, *optional*, defaults to 1024):
            Width of the picture in pixels.
        layout (`str`, *optional*, defaults to `"3x4+1"`):
            `"3x4"`: three rows of four leads that follow each other in time; `"3x4+1"`: a rhythm strip below them;
            `"3x4+3"`: three rhythm strips, V1, II and V5; `"6x2"`: six rows of a limb lead and a chest lead; `"12x1"`:
            one row per lead.
        rhythm_lead (`str`, *optional*, defaults to `"II"`):
            The lead of the rhythm strip of `"3x4+1"`.
        grid (`bool`, *optional*, defaults to `True`):
            Whether to draw millimetre lines, every fifth one bold. Lines closer than 3 pixels are not drawn. Without a
            grid the paper is white.
        names (`bool`, *optional*, defaults to `True`):
            Whether to write the names of the leads.
        mm_per_mv (`float`, *optional*):
            Amplitude in mm/mV, instead of the rule above.
        mm_per_s (`float`, *optional*, defaults to 25):
            Speed of the paper in mm/s.
        grid_color (`str`, *optional*, defaults to `"red"`):
            Colour of the paper and its lines: `"red"`, `"orange"`, `"green"`, `"blue"` or `"grey"`.

    Raises:
        `ValueError`: If the layout, colour or lead is unknown, a length is not positive, or the picture is too small for its
            rows.
    """

    seconds: float
    height: int = 768
    width: int = 1024
    layout: str = "3x4+1"
    rhythm_lead: str = "II"
    _: KW_ONLY
    grid: bool = True
    names: bool = True
    mm_per_mv: float | None = None
    mm_per_s: float = MM_PER_SECOND
    grid_color: str = "red"

    def __post_init__(self):
        check_paper(self.layout, self.mm_per_s, self.grid_color)
        if not self.seconds > 0:
            raise ValueError(f"an ECG of {self.seconds} s cannot be drawn")
        if self.mm_per_mv is not None and not self.mm_per_mv > 0:
            raise ValueError(
                f"mm_per_mv is {self.mm_per_mv}; expected a positive number, or None for the default scale"
            )
        lowest = MIN_ROW_HEIGHT * len(self.rows)
        if self.height < lowest or self.width < 8 * MIN_FONT_SIZE:
            raise ValueError(
                f'a picture of {self.height} x {self.width} pixels is too small for the layout "{self.layout}"; '
                f"it takes {lowest} x {8 * MIN_FONT_SIZE} or more"
            )

    @cached_property
    def rows(self) -> tuple[tuple[str, ...], ...]:
        """The leads of each row, from top to bottom."""
        return rows_of_layout(self.layout, self.rhythm_lead)

    @cached_property
    def font_size(self) -> int:
        """Size of the lead names in pixels."""
        return max(MIN_FONT_SIZE, round(min(self.height / 45, self.width / 60)))

    @cached_property
    def left(self) -> float:
        """x of the start of the traces. In "12x1" the names are to the left of it."""
        return (2.5 if self.layout == "12x1" and self.names else 0.5) * self.font_size

    @cached_property
    def pixels_per_mm(self) -> float:
        """Pixels of a millimetre of the paper."""
        return (self.width - self.left - 0.5 * self.font_size) / (self.seconds * self.mm_per_s)

    @cached_property
    def row_height(self) -> float:
        """Height of a row in pixels."""
        height = self.height / len(self.rows) / self.pixels_per_mm
        return (math.floor(height) if height >= SQUARE else height) * self.pixels_per_mm

    @cached_property
    def baselines(self) -> np.ndarray:
        """y of 0 mV in each row, `(rows,)`."""
        return self.height / 2 + (np.arange(len(self.rows)) - (len(self.rows) - 1) / 2) * self.row_height

    @cached_property
    def pixels_per_mv(self) -> float:
        """Pixels of a millivolt."""
        mm_per_mv = self.mm_per_mv
        if mm_per_mv is None:
            fitting = self.row_height / self.pixels_per_mm / ROW_MILLIVOLTS
            mm_per_mv = MM_PER_MILLIVOLT / 2 ** max(0, math.ceil(math.log2(MM_PER_MILLIVOLT / fitting) - 1e-9))
        return mm_per_mv * self.pixels_per_mm

    @cached_property
    def pen_radius(self) -> float:
        """Half the width of the traces in pixels."""
        return max(self.line_width(PEN_WIDTH), 1) / 2

    def line_width(self, mm: float) -> float:
        """Width in pixels of a line of `mm` millimetres. It is limited if a short record fills a large picture."""
        return min(max(mm * self.pixels_per_mm, 0.5), mm / PEN_WIDTH * self.font_size / 6)

    def sample_positions(self, samples: int) -> np.ndarray:
        """x of each sample of a lead, `(samples,)`."""
        return self.left + np.arange(samples) * (self.seconds * self.mm_per_s * self.pixels_per_mm / samples)


def rows_of_layout(layout: str, rhythm_lead: str = "II") -> tuple[tuple[str, ...], ...]:
    r"""
    The leads of each row of a layout, from top to bottom; the leads of a row follow each other in time.

    Args:
        layout (`str`):
            One of `LAYOUTS`.
        rhythm_lead (`str`, *optional*, defaults to `"II"`):
            The lead of the rhythm strip of `"3x4+1"`.

    Raises:
        `ValueError`: If the lead is unknown.
    """
    rhythm_lead = canonical_lead(rhythm_lead)
    strips = {"3x4+1": (rhythm_lead,), "3x4+3": THREE_STRIPS}.get(layout, ())
    return (*_ROWS[layout], *((lead,) for lead in strips))


def check_paper(layout: str, mm_per_s: float, grid_color: str):
    r"""
    Checks settings of [`EcgPaper`].

    Args:
        layout, mm_per_s, grid_color:
            As for [`EcgPaper`].

    Raises:
        `ValueError`: If the layout or the colour is unknown, or the speed is not positive.
    """
    if layout not in LAYOUTS:
        raise ValueError(f'layout "{layout}" is not one of {", ".join(LAYOUTS)}')
    if not mm_per_s > 0:
        raise ValueError(f"mm_per_s is {mm_per_s}; expected a positive number, such as 25 or 50")
    if grid_color not in GRID_COLORS:
        raise ValueError(f'grid_color "{grid_color}" is not one of {", ".join(GRID_COLORS)}')


def draw_ecg(ecg: np.ndarray, sampling_rate: float, **paper) -> np.ndarray:
    r"""
    Draws a 12-lead ECG: black traces on paper, a quarter of the record per lead in the layout "3x4+1".

    The median of each lead is subtracted, so that a lead with a constant offset stays in its row. A deflection higher
    than its row extends into the neighbouring rows; at the edge of the paper it is clipped. Gaps (NaN) stay blank. An
    absent lead keeps its name.

    A trace is the polyline through all samples, drawn with a round pen of 0.36 mm (at least one pixel). In each
    quarter of a pixel column it covers the interval between its extremes. The darkness of a pixel is the share that is
    covered.

    Args:
        ecg (`np.ndarray` of shape `(12, num_samples)`):
            The ECG in millivolt, floating-point, in the order of `LEADS`, NaN where there is no signal.
        sampling_rate (`float`):
            Sampling rate in Hz.
        paper:
            Arguments of [`EcgPaper`] except `seconds`.

    Returns:
        `np.ndarray` of shape `(height, width, 3)`, uint8: the picture, RGB.

    Raises:
        `ValueError`: If the shape or type of `ecg`, the sampling rate or an argument of the paper is not as described.
        `ImportError`: If Pillow is not installed.
    """
    ecg = np.asarray(ecg)
    if ecg.ndim != 2 or len(ecg) != len(LEADS) or ecg.shape[1] < 2:
        raise ValueError(f"ecg has shape {ecg.shape}; expected (12, samples) with at least 2 samples")
    if not np.issubdtype(ecg.dtype, np.floating):
        raise ValueError(f"ecg is {ecg.dtype}; expected floats in millivolt: divide integer microvolt by 1000.0")
    if not sampling_rate > 0:
        raise ValueError(f"sampling_rate is {sampling_rate}; expected a positive number of Hz")
    sheet = EcgPaper(seconds=ecg.shape[1] / sampling_rate, **paper)
    picture = _background(sheet).flatten()
    for top, bottom in zip(*_line_extents(sheet, _row_signals(sheet, ecg))):
        _paint_line(picture, top, bottom)
    return picture.reshape(sheet.height, sheet.width, 3)


def _row_signals(sheet: EcgPaper, ecg: np.ndarray) -> np.ndarray:
    """The signal of each row, `(rows, samples)` in mV: its leads one after the other, without their medians."""
    ordered = np.sort(ecg, axis=1)  # NaN comes last
    valid = np.isfinite(ecg).sum(axis=1)[:, None]
    middle = np.concatenate([(valid - 1) // 2, valid // 2], axis=1).clip(0, ecg.shape[1] - 1)
    ecg = ecg - np.take_along_axis(ordered, middle, axis=1).mean(axis=1, keepdims=True)

    rows = np.empty((len(sheet.rows), ecg.shape[1]), np.float32)
    for row, leads in enumerate(sheet.rows):
        bounds = _column_bounds(ecg.shape[1], len(leads))
        for lead, start, end in zip(leads, bounds, bounds[1:]):
            rows[row, start:end] = ecg[LEADS.index(lead), start:end]
    return rows


def _column_bounds(samples: int, columns: int) -> list[int]:
    """The sample at which each column of a row begins, and the end of the last column."""
    return [-(-samples * column // columns) for column in range(columns + 1)]


def _line_extents(sheet: EcgPaper, signals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    The smallest and largest y of each trace in every fine column, both `(rows, COLUMNS_PER_PIXEL, width)`, for
    `signals` `(rows, samples)` in mV. Where there is no trace, they are infinite and minus infinite.
    """
    radius = sheet.pen_radius
    y = np.float32(sheet.baselines)[:, None] - signals * np.float32(sheet.pixels_per_mv)
    y = np.clip(y, radius, sheet.height - radius)
    columns = _fine_columns(sheet, signals.shape[1])
    before = y.take(columns.before, axis=1)
    at_edges = before + (y.take(columns.before + 1, axis=1) - before) * columns.fraction
    for row, leads in enumerate(sheet.rows):
        at_edges[row, columns.between_leads[len(leads)]] = np.nan

    extents = []
    for sign in (1, -1):
        edges, samples = (np.where(np.isnan(points), np.inf, sign * points) for points in (at_edges, y))
        least = np.minimum(edges[:, :-1], edges[:, 1:])
        for places, inside in columns.samples_inside:
            least[:, places] = np.minimum(least.take(places, axis=1), samples.take(inside, axis=1))
        extents.append(sign * _widened_by_pen(sheet, least, columns.first))
    return extents[0], extents[1]


def _widened_by_pen(sheet: EcgPaper, least: np.ndarray, first: int) -> np.ndarray:
    """
    The smallest y of traces drawn with the pen, `(rows, COLUMNS_PER_PIXEL, width)`, from that of the polylines in the
    fine columns from `first` on, `(rows, fine columns)`.
    """
    drawn = np.full((len(least), sheet.width * COLUMNS_PER_PIXEL), np.inf, np.float32)
    # The half-height of the pen at the far edge of a column, so that nothing outside the pen is drawn.
    reach = int(sheet.pen_radius * COLUMNS_PER_PIXEL - 0.5)
    for distance in range(-reach, reach + 1):
        half_height = math.sqrt(sheet.pen_radius**2 - ((abs(distance) + 0.5) / COLUMNS_PER_PIXEL) ** 2)
        # The trace is connected, so the union of these intervals is an interval.
        place = drawn[:, first + distance : first + distance + least.shape[1]]
        np.minimum(place, least - np.float32(half_height), out=place)
    return drawn.reshape(len(least), sheet.width, COLUMNS_PER_PIXEL).transpose(0, 2, 1).copy()


@dataclass(frozen=True)
class _FineColumns:
    """Positions of the samples of a row relative to the fine columns, the same for all rows."""

    first: int
    # For each edge of a fine column: the sample at or before it, and its place between that sample (0) and the next (1).
    before: np.ndarray
    fraction: np.ndarray
    # The edges between the last sample of a lead and the first sample of the next, by the number of leads in the row.
    between_leads: dict[int, np.ndarray]
    # Columns and the first sample in each of them; columns and the second sample in each of them; ...
    samples_inside: list[tuple[np.ndarray, np.ndarray]]


@lru_cache(maxsize=16)
def _fine_columns(sheet: EcgPaper, samples: int) -> _FineColumns:
    x = sheet.sample_positions(samples) * COLUMNS_PER_PIXEL
    first = math.floor(x[0])
    edges = np.arange(first, math.floor(x[-1]) + 2)
    position = np.interp(edges, x, np.arange(samples))
    before = np.minimum(position.astype(int), samples - 2)
    between_leads = {}
    for number in {len(leads) for leads in sheet.rows}:
        last_of_lead = np.array(_column_bounds(samples, number)[1:-1], dtype=int) - 1
        between_leads[number] = np.flatnonzero(np.isin(before, last_of_lead) & (position > before))
    column = np.floor(x).astype(int) - first
    rank = np.arange(samples) - np.searchsorted(column, column)
    return _FineColumns(
        first=first,
        before=before,
        fraction=np.float32(position - before),
        between_leads=between_leads,
        samples_inside=[(column[rank == k], np.flatnonzero(rank == k)) for k in range(rank.max() + 1)],
    )


def _paint_line(picture: np.ndarray, top: np.ndarray, bottom: np.ndarray) -> None:
    """Draws a trace between `top` and `bottom`, both `(COLUMNS_PER_PIXEL, width)`, into the flat `picture`."""
    first, last = np.floor(top.min(axis=0)), np.ceil(bottom.max(axis=0))
    drawn = np.flatnonzero(first < last)
    first = first[drawn].astype(np.int64)
    heights = last[drawn].astype(np.int64) - first
    column = np.repeat(drawn, heights)
    y = np.arange(len(column)) + np.repeat(first - np.cumsum(heights) + heights, heights)

    upper = y.astype(np.float32)
    cover = np.minimum(bottom.take(column, axis=1), upper + 1) - np.maximum(top.take(column, axis=1), upper)
    cover = np.maximum(cover, 0).sum(axis=0) * np.float32(1 / COLUMNS_PER_PIXEL)
    left_over = 1 - cover
    place = 3 * (y * top.shape[1] + column)
    for channel, ink in enumerate(INK_COLOR):
        color = picture.take(place + channel) * left_over
        picture[place + channel] = color + (np.float32(ink) * cover + np.float32(0.5))


@lru_cache(maxsize=16)
def _background(sheet: EcgPaper) -> np.ndarray:
    """The paper with grid, names and separators but without traces, `(height, width, 3)`, uint8."""
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise ImportError("drawing an ECG needs Pillow: pip install Pillow") from error
    picture = Image.fromarray(_grid(sheet))
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(sheet.font_size)
    time_axis = sheet.seconds * sheet.mm_per_s * sheet.pixels_per_mm
    for leads, baseline in zip(sheet.rows, sheet.baselines):
        for column, lead in enumerate(leads):
            x = sheet.left + time_axis * column / len(leads)
            if column:
                half = min(SEPARATOR * sheet.pixels_per_mm, 0.5 * sheet.row_height) / 2
                draw.line([(int(x), int(baseline - half)), (int(x), int(baseline + half))], GREY)
            if sheet.names and sheet.layout == "12x1":
                draw.text((sheet.left - 0.4 * sheet.font_size, int(baseline)), lead, INK_COLOR, font, anchor="rm")
            elif sheet.names:
                top = int(baseline - sheet.row_height / 2 + 0.25 * sheet.font_size)
                draw.text((int(x + 0.4 * sheet.font_size), top), lead, INK_COLOR, font, anchor="lt")
    background = np.asarray(picture)
    background.flags.writeable = False
    return background


def _grid(sheet: EcgPaper) -> np.ndarray:
    """Paper with millimetre lines through the start of the traces and the baselines, `(height, width, 3)`, uint8."""
    if not sheet.grid:
        return np.full((sheet.height, sheet.width, 3), 255, np.uint8)
    paper, thin, bold = GRID_COLORS[sheet.grid_color]
    pixels = np.full((sheet.height, sheet.width, 3), paper, np.float32)
    for spacing, width, color in ((1, THIN_LINE, thin), (SQUARE, BOLD_LINE, bold)):
        spacing, width = spacing * sheet.pixels_per_mm, sheet.line_width(width)
        if spacing < MIN_LINE_SPACING:
            continue
        down = _lines(sheet.height, sheet.baselines[-1], spacing, width)
        across = _lines(sheet.width, sheet.left, spacing, width)
        cover = np.maximum(down[:, None], across)[:, :, None]
        pixels += cover * (np.float32(color) - pixels)
    return pixels.round().astype(np.uint8)


def _lines(size: int, origin: float, spacing: float, width: float) -> np.ndarray:
    """The covered share of each of `size` pixels, for lines of `width` at `origin` and every `spacing` from there."""
    middle = origin % spacing + spacing * np.arange(-1, size / spacing + 1)[:, None]
    pixel = np.arange(size)
    cover = np.minimum(middle + width / 2, pixel + 1) - np.maximum(middle - width / 2, pixel)
    return cover.max(axis=0).clip(0, 1).astype(np.float32)


__all__ = ["GRID_COLORS", "LAYOUTS", "EcgPaper", "check_paper", "draw_ecg", "rows_of_layout"]
