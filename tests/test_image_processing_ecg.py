"""Pictures of ECGs: scale, traces and names are read back from the pixels, normalization against transformers' own."""

import json
import os
import textwrap

import numpy as np
import pytest
import wfdb
from PIL import Image
from transformers import CLIPImageProcessorPil, Siglip2ImageProcessorPil, SiglipImageProcessorPil, ViTImageProcessorPil
from warm_python import run_python

from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.modeling.ecg_raster import EcgPaper, draw_ecg
from elm_hf.modeling.image_processing_ecg import EcgImageProcessor


INK = 16  # red of the line
PLACES = {  # row and column of the standard layout
    "I": (0, 0), "aVR": (0, 1), "V1": (0, 2), "V4": (0, 3),
    "II": (1, 0), "aVL": (1, 1), "V2": (1, 2), "V5": (1, 3),
    "III": (2, 0), "aVF": (2, 1), "V3": (2, 2), "V6": (2, 3),
}  # fmt: skip


def places(layout: str) -> dict[str, list[tuple[int, float, float]]]:
    """For each lead its rows, with the start and end of its part of each row as a share of the time."""
    if layout == "12x1":
        return {lead: [(row, 0, 1)] for row, lead in enumerate(LEADS)}
    if layout == "6x2":
        return {lead: [(row % 6, row // 6 / 2, (row // 6 + 1) / 2)] for row, lead in enumerate(LEADS)}
    found = {lead: [(row, column / 4, (column + 1) / 4)] for lead, (row, column) in PLACES.items()}
    for row, lead in enumerate({"3x4+1": ["II"], "3x4+3": ["V1", "II", "V5"]}.get(layout, []), 3):
        found[lead].append((row, 0, 1))
    return found


class Reader:
    """Reads traces back: knows the empty paper of a layout, its scale from the grid and its baselines from flat leads."""

    def __init__(self, layout: str, expected_mm_per_mv: float, seconds: float = 10, mm_per_s: float = 25, **paper):
        self.layout, self.paper, self.seconds = layout, {"layout": layout, "mm_per_s": mm_per_s, **paper}, seconds
        self.empty = draw_ecg(np.full((12, 500), np.nan), 500 / seconds, **self.paper)
        bold = np.clip(195 - np.median(self.empty[:, :, 1], axis=0), 0, None)  # upright lines
        lines = [np.average(columns + 0.5, weights=bold[columns]) for columns in runs(bold > 0)]
        self.pixels_per_mm = (lines[-1] - lines[0]) / (5 * (len(lines) - 1))
        self.pixels_per_mv = expected_mm_per_mv * self.pixels_per_mm

        ink = self.ink(np.zeros((12, 500), np.float32), 500 / seconds)
        ink_of_row = np.where(ink > 0.05, ink, 0).sum(axis=1)
        rows = runs(ink_of_row > 0.02 * ink.shape[1])
        self.baselines = np.array([np.average(row + 0.5, weights=ink_of_row[row]) for row in rows])
        drawn = np.flatnonzero(ink.max(axis=0) > 0.5)
        self.left = min(lines, key=lambda x: abs(x - drawn[0]))  # a bold line stands where the traces begin
        self.right = drawn[-1]
        self.pixels_per_second = mm_per_s * self.pixels_per_mm

    def ink(self, ecg: np.ndarray, sampling_rate: float) -> np.ndarray:
        """How much of each pixel is covered with ink `(height, width)`, where there is no lead's name."""
        paper = self.empty[:, :, 0].astype(float)
        picture = draw_ecg(ecg, sampling_rate, **self.paper)[:, :, 0]
        return np.where(paper > 100, (paper - picture) / np.maximum(paper - INK, 1), 0)

    def place(self, lead: str) -> tuple[int, slice]:
        """The row of a lead (that of the rhythm strip for II), and its columns without the outermost pixels."""
        row, start, end = places(self.layout)[lead][-1]
        width = self.seconds * self.pixels_per_second
        return row, slice(round(self.left + start * width) + 3, round(self.left + end * width) - 3)

    def trace(self, lead: str, signal: np.ndarray, sampling_rate: float) -> tuple[np.ndarray, np.ndarray]:
        """Of a lead drawn alone, the ink `(height, columns)`; and at which column each sample lies (a fraction)."""
        ecg = np.full((12, len(signal)), np.nan, np.float32)
        ecg[LEADS.index(lead)] = signal
        row, columns = self.place(lead)
        ink = self.ink(ecg, sampling_rate)[:, columns]
        if lead == "II" and self.layout == "3x4+1":
            ink[: round(self.baselines[2:].mean())] = 0  # it is in the second row, too
        return ink, self.left + np.arange(len(signal)) / sampling_rate * self.pixels_per_second - columns.start

    def expected(self, lead: str, signal: np.ndarray) -> np.ndarray:
        """y of each sample; the trace stays on the paper."""
        y = self.baselines[self.place(lead)[0]] - (signal - np.median(signal)) * self.pixels_per_mv
        return y.clip(0, len(self.empty))


@pytest.fixture(scope="module", params=[("3x4+1", 10), ("12x1", 5)], ids=["3x4+1", "12x1"])
def reader(request) -> Reader:
    layout, mm_per_mv = request.param
    return Reader(layout, mm_per_mv)


def runs(mask: np.ndarray) -> list[np.ndarray]:
    """The indices of each unbroken run of True."""
    indices = np.flatnonzero(mask)
    return np.split(indices, np.flatnonzero(np.diff(indices) > 1) + 1)


def middle(ink: np.ndarray) -> np.ndarray:
    """Of each column, the mean height of its ink."""
    return ((np.arange(len(ink)) + 0.5)[:, None] * ink).sum(axis=0) / ink.sum(axis=0)


def present(lead: str, signal: np.ndarray) -> np.ndarray:
    """An ECG of zeros but for one lead."""
    ecg = np.zeros((12, len(signal)), np.float32)
    ecg[LEADS.index(lead)] = signal
    return ecg


def real_ecgs(shared_data) -> list[tuple[np.ndarray, float]]:
    records = sorted((shared_data / "ptb_xl/records500/06000").glob("*.hea"))[:2]
    read = [wfdb.rdrecord(str(path.with_suffix(""))) for path in records]
    return [
        (r.p_signal.T[[[n.upper() for n in r.sig_name].index(lead.upper()) for lead in LEADS]], r.fs) for r in read
    ]


def test_record_of_10_s_fills_the_width_at_25_mm_per_second(reader):
    assert reader.pixels_per_mm == pytest.approx(4, abs=0.15)
    assert reader.right - reader.left == pytest.approx(10 * reader.pixels_per_second, abs=3)
    assert reader.right > 1024 - 20


@pytest.mark.parametrize("lead", LEADS)
def test_smooth_signal_is_read_back_within_a_pixel(reader, lead):
    time = np.arange(2500) / 250
    signal = (0.1 + 0.05 * LEADS.index(lead)) * np.sin(2 * np.pi * 0.7 * time + LEADS.index(lead))
    ink, column = reader.trace(lead, signal, 250)
    expected = np.interp(np.arange(ink.shape[1]) + 0.5, column, reader.expected(lead, signal))
    np.testing.assert_allclose(middle(ink), expected, atol=1)
    assert abs(middle(ink) - expected).mean() < 0.3


def test_real_ecgs_are_read_back_within_a_pixel(reader, shared_data):
    """Every sample lies on the ink of its column; where the signal is not steep, the ink's middle is the samples' mean."""
    for ecg, sampling_rate in real_ecgs(shared_data):
        for lead in LEADS:
            signal = ecg[LEADS.index(lead)]
            ink, column = reader.trace(lead, signal, sampling_rate)
            y = reader.expected(lead, signal)
            inside = np.flatnonzero((column >= 0) & (column < ink.shape[1]))
            column, y = np.floor(column[inside]).astype(int), y[inside]
            rows = np.arange(len(ink))[:, None]
            top = np.where(ink > 0.02, rows, len(ink)).min(axis=0)
            bottom = np.where(ink > 0.02, rows + 1, 0).max(axis=0)
            assert (y > top[column] - 1).all() and (y < bottom[column] + 1).all(), lead

            starts = np.flatnonzero(np.diff(column, prepend=-1))
            highest, lowest = np.minimum.reduceat(y, starts), np.maximum.reduceat(y, starts)
            around = [slice(0, -2), slice(1, -1), slice(2, None)]  # the columns before, at and after each one
            change = np.max([lowest[k] for k in around], axis=0) - np.min([highest[k] for k in around], axis=0)
            mean = np.add.reduceat(y, starts)[1:-1] / np.diff(starts)[1:]
            flat = change < 2
            assert flat.mean() > 0.1, lead
            assert abs(middle(ink)[1:-1] - mean)[flat].max() < 1, lead


def test_ink_of_a_column_reaches_no_further_than_the_signal_there(reader, shared_data):
    ecg, sampling_rate = real_ecgs(shared_data)[0]
    for lead in ("I", "V3"):
        ink, column = reader.trace(lead, ecg[LEADS.index(lead)], sampling_rate)
        y = reader.expected(lead, ecg[LEADS.index(lead)])
        for pixel in range(1, ink.shape[1] - 1):
            rows = np.flatnonzero(ink[:, pixel] > 0.05)
            near = y[(column > pixel - 1.5) & (column < pixel + 2.5)]  # the pen is 1.4 pixels wide
            assert near.min() - 2 < rows[0] and rows[-1] + 1 < near.max() + 2


def test_line_is_as_dark_as_it_is_long_and_wide():
    """The ink of a straight line is its length times the pen's width, whatever its slope, to within 4 %: it is anti-aliased."""
    paper = {"height": 1200, "width": 1000, "layout": "12x1", "grid": False, "names": False, "mm_per_mv": 10}
    pixels_per_mm = (1000 - 17) / 250  # half the size of a letter is left free on either side
    time = np.arange(1000) / 100
    for slope in (0.0, 0.05, 0.3, 1.0):
        ecg = np.full((12, 1000), np.nan, np.float32)
        ecg[5] = slope * (time - 5) * 2.5  # pixels up for each pixel along: 10 mm/mV and 25 mm/s
        ink = (255 - draw_ecg(ecg, 100, **paper)[:, 100:900, 0].astype(float)) / (255 - INK)
        assert ink.sum() == pytest.approx(800 * np.hypot(1, slope) * 0.36 * pixels_per_mm, rel=0.04)


def test_grid_lines_are_1_mm_and_bold_ones_5_mm_apart():
    picture = draw_ecg(np.full((12, 250), np.nan), 250, height=1200, width=1600, names=False)  # about 63 pixels per mm
    line = picture[40, :, 1].astype(float)
    starts = np.flatnonzero((line[1:] < 230) & (line[:-1] >= 230))
    pixels_per_mm = np.diff(starts).mean()
    bold = np.flatnonzero((line[1:] < 180) & (line[:-1] >= 180))
    assert pixels_per_mm == pytest.approx(1600 / 25, rel=0.05)
    assert np.diff(starts) == pytest.approx(np.full(len(starts) - 1, pixels_per_mm), abs=4)
    assert np.diff(bold) == pytest.approx(np.full(len(bold) - 1, 5 * pixels_per_mm), abs=2)


def test_without_grid_and_names_there_is_only_the_trace():
    plain = draw_ecg(np.full((12, 2500), np.nan), 250, layout="12x1", grid=False, names=False)
    assert (plain == 255).all()


def test_every_lead_has_its_own_name_at_its_place():
    named, nameless = (draw_ecg(np.full((12, 500), np.nan), 50, names=names) for names in (True, False))
    dark = (named[:, :, 0] < 100) & (nameless[:, :, 0] > 100)
    names = {}
    for lead, (row, column) in PLACES.items():
        cell = dark[192 * row : 192 * row + 60, 256 * column : 256 * column + 60]
        rows, columns = (np.flatnonzero(cell.any(axis=axis)) for axis in (1, 0))
        names[lead] = cell[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert 8 < names[lead].shape[0] < 20
    assert len({name.tobytes() for name in names.values()}) == 12
    assert names["III"].shape[1] > names["II"].shape[1] > names["I"].shape[1]
    strip = dark[192 * 3 :]
    assert np.flatnonzero(strip.any(axis=0))[-1] < 60 and strip.sum() == names["II"].sum()


def test_missing_lead_is_blank_but_named(reader):
    time = np.arange(2500) / 250
    ecg = np.tile(np.sin(10 * time), (12, 1)) * 0.2
    ecg[LEADS.index("V1")] = np.nan
    row, columns = reader.place("V1")
    rows = slice(round(reader.baselines[row]) - 25, round(reader.baselines[row]) + 25)
    picture = draw_ecg(ecg, 250, layout=reader.layout)
    assert (picture[rows, columns] == reader.empty[rows, columns]).all()
    named = (reader.empty[:, :, 0] < 60).sum()
    assert (picture[reader.empty[:, :, 0] < 60] < 100).all() and named > 300


def test_gap_is_blank(reader):
    signal = np.zeros(2500)
    signal[1500:1550] = np.nan  # 6.0 to 6.2 s
    ecg = np.full((12, 2500), np.nan)
    ecg[LEADS.index("II")] = signal
    ink = reader.ink(ecg, 250)[round(reader.baselines[reader.place("II")[0]]) - 1]
    x = reader.left + np.array([5.9, 6.02, 6.18, 6.3]) * reader.pixels_per_second
    before, start, end, after = x.round().astype(int)
    assert ink[start:end].max() == 0 and ink[before] > 0.3 and ink[after] > 0.3


def test_deflection_beyond_the_paper_runs_along_its_edge(reader):
    signal = np.zeros(2500)
    signal[250:300], signal[350:400] = 1000, -1000
    ink, column = reader.trace("I", signal, 250)
    high, low = (slice(int(column[start]) + 3, int(column[end]) - 3) for start, end in ((250, 300), (350, 400)))
    assert ink[0, high].min() > 0.9 and ink[-1, low].min() > 0.9
    assert ink[5:-5, high].max() == 0 and ink[5:-5, low].max() == 0


def test_picture_does_not_depend_on_the_sampling_rate():
    def smooth(sampling_rate):
        time = np.arange(10 * sampling_rate) / sampling_rate
        return np.stack([np.sin(2 * np.pi * (lead / 3 + 0.5) * time + lead) for lead in range(12)]) * 0.5

    slow, fast = (draw_ecg(smooth(rate), rate).astype(int) for rate in (250, 500))
    assert (abs(slow - fast).max(axis=2) > 60).mean() < 1e-3


def test_amplitude_can_be_chosen():
    time = np.arange(2500) / 250
    for mm_per_mv in (5, 20):
        reader = Reader("3x4+1", mm_per_mv, mm_per_mv=mm_per_mv)
        ink, _ = reader.trace("V2", np.sin(2 * np.pi * time), 250)
        rows = np.flatnonzero(ink.sum(axis=1) > 0.5)
        assert rows[-1] - rows[0] == pytest.approx(2 * mm_per_mv * reader.pixels_per_mm, abs=3)


def test_rhythm_lead_can_be_chosen():
    ecg = present("V5", np.where(np.arange(2500) % 500 < 20, 1.0, 0.0))
    with_v5, with_ii = (draw_ecg(ecg, 250, rhythm_lead=lead, names=False) for lead in ("v5", "II"))
    empty = draw_ecg(np.full((12, 2500), np.nan), 250, names=False)
    strip, peaks = slice(600, 768), slice(600, 650)
    assert (with_v5[peaks] != empty[peaks]).sum() > 500
    assert (with_ii[peaks] == empty[peaks]).all() and (with_ii[strip] != empty[strip]).any()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"ecg": np.zeros((3, 2500))}, r"shape \(3, 2500\); expected \(12, samples\)"),
        ({"ecg": np.zeros((12, 2500), np.int16)}, "int16; expected floats in millivolt"),
        ({"sampling_rate": 0}, "sampling_rate is 0"),
        ({"layout": "2x6"}, r'layout "2x6" is not one of 3x4, 3x4\+1, 3x4\+3, 6x2, 12x1'),
        ({"mm_per_s": 0}, "mm_per_s is 0; expected a positive number"),
        ({"grid_color": "pink"}, 'grid_color "pink" is not one of red, orange, green, blue, grey'),
        ({"height": 20}, "20 x 1024 pixels is too small.*32 x 72"),
        ({"mm_per_mv": 0}, "mm_per_mv is 0"),
        ({"rhythm_lead": "V9"}, '"V9" is not one of I, II'),
    ],
)
def test_wrong_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        draw_ecg(**{"ecg": np.zeros((12, 2500)), "sampling_rate": 250, **arguments})


@pytest.mark.parametrize("seconds, mm_per_mv", [(10, 10), (5, 5), (2, 2.5)])
def test_scale_of_shorter_records_leaves_3_mv_to_a_row(seconds, mm_per_mv):
    """At 1024 x 768 the height is 191, 95 or 38 mm, so that 3 mV in a quarter of it take 10, 5 or 2.5 mm/mV."""
    reader = Reader("3x4+1", mm_per_mv, seconds)
    time = np.arange(seconds * 250) / 250
    ink, column = reader.trace("V2", 0.5 * np.sin(2 * np.pi * time), 250)
    expected = np.interp(np.arange(ink.shape[1]) + 0.5, column, reader.expected("V2", 0.5 * np.sin(2 * np.pi * time)))
    np.testing.assert_allclose(middle(ink), expected, atol=1)


@pytest.mark.parametrize(
    "layout, mm_per_s, mm_per_mv",
    [("3x4", 25, 10), ("3x4+1", 50, 20), ("3x4+3", 25, 5), ("6x2", 50, 10), ("6x2", 25, 10), ("12x1", 50, 10)],
)
def test_pulse_of_1_mv_and_200_ms_is_at_its_place_in_each_layout(layout, mm_per_s, mm_per_mv):
    """Of each lead, in the middle of each of its parts; height and width follow from the distance of the grid's lines."""
    size = {"width": 1024 * mm_per_s // 25, "height": 1024}
    reader = Reader(layout, mm_per_mv, mm_per_s=mm_per_s, mm_per_mv=mm_per_mv, **size)
    assert reader.pixels_per_mm == pytest.approx(4, abs=0.15)
    assert len(reader.baselines) == {"3x4": 3, "3x4+1": 4, "3x4+3": 6, "6x2": 6, "12x1": 12}[layout]
    for lead, parts in places(layout).items():
        signal = np.zeros(2500, np.float32)
        for _, start, end in parts:
            signal[round(1250 * (start + end)) - 25 : round(1250 * (start + end)) + 25] = 1
        ink = reader.ink(present(lead, signal), 250)
        for row, start, end in parts:
            x = reader.left + 5 * (start + end) * reader.pixels_per_second
            y = reader.baselines[row]
            highest = round(y - 1.3 * mm_per_mv * reader.pixels_per_mm)
            column = ink[highest : round(y) - 3, round(x)]
            top = highest + (np.arange(len(column)) + 0.5) @ column / column.sum()
            assert y - top == pytest.approx(mm_per_mv * reader.pixels_per_mm, abs=1), lead
            window = slice(round(x - 0.2 * reader.pixels_per_second), round(x + 0.2 * reader.pixels_per_second))
            edges = [edge.mean() + window.start + 0.5 for edge in runs(ink[round((y + top) / 2), window] > 0.3)]
            reach = 0.1 * reader.pixels_per_second
            assert edges == pytest.approx([x - reach, x + reach], abs=1.5), lead


def test_grid_has_the_chosen_color():
    def bold(color: str) -> np.ndarray:
        """The colour of the most frequent dark pixels: the bold lines."""
        pixels = draw_ecg(np.full((12, 500), np.nan), 50, names=False, grid_color=color).reshape(-1, 3)
        lines = pixels[pixels.min(axis=1) < 200].astype(int)
        return np.median(lines, axis=0)

    red, orange, green, blue, grey = map(bold, ("red", "orange", "green", "blue", "grey"))
    assert red[0] > red[1] + 30 and abs(red[1] - red[2]) < 10
    assert orange[0] > orange[1] + 30 > orange[2] + 60
    assert green[1] > max(green[0], green[2]) + 30 and blue[2] > max(blue[0], blue[1]) + 30
    assert np.ptp(grey) == 0


# The processor


@pytest.fixture(scope="module")
def signals() -> np.ndarray:
    """Two different smooth 12-lead ECGs of 10 s at 250 Hz, in mV."""
    time = np.arange(2500) / 250
    phases = np.random.default_rng(0).uniform(0, 6, (2, 12, 1))
    return (0.6 * np.sin(2 * np.pi * 0.9 * time + phases) + 0.1).astype(np.float32)


@pytest.mark.parametrize("representation", ["image", "stacked_signal"])
@pytest.mark.parametrize("own", [ViTImageProcessorPil, CLIPImageProcessorPil, SiglipImageProcessorPil])
def test_pictures_are_normalized_as_by_the_encoders_own_processor(signals, own, representation):
    processor = EcgImageProcessor.from_vision_encoder(own(), representation=representation)
    pictures = processor.draw(signals, 250)
    assert pictures.dtype == np.uint8 and pictures.shape == (2, 224, 224, 3)
    theirs = own()(images=list(pictures), return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(processor(signals, 250, return_tensors="np")["pixel_values"], theirs, atol=1e-5)


@pytest.mark.parametrize("own", [ViTImageProcessorPil, SiglipImageProcessorPil])
def test_stacked_signal_is_the_signal_as_a_picture_resized_by_the_encoders_own_processor(signals, own):
    ecg = signals[0].copy()
    stacked = np.floor((ecg - ecg.min()) / (ecg.max() - ecg.min()) * 255).astype(np.uint8)
    stacked = np.stack([stacked] * 3, axis=-1)  # leads x samples x 3
    theirs = own()(images=[stacked], input_data_format="channels_last", return_tensors="np")["pixel_values"]
    processor = EcgImageProcessor.from_vision_encoder(own(), representation="stacked_signal")
    ours = processor(ecg, 250, return_tensors="np")["pixel_values"]
    assert abs(ours - theirs).max() < 2.1 / 255 and (abs(ours - theirs) < 1e-5).mean() > 0.999


def test_missing_lead_of_a_stacked_signal_is_black(signals):
    ecg = signals[0].copy()
    ecg[3] = np.nan
    picture = EcgImageProcessor("stacked_signal", size={"height": 12, "width": 2500}).draw(ecg, 250)[0]
    assert (picture[3] == 0).all() and picture[[2, 4]].max(axis=1).min() > 200


@pytest.mark.parametrize(
    "own, size",
    [
        (ViTImageProcessorPil(size={"height": 384, "width": 320}), (384, 320)),
        (CLIPImageProcessorPil(size={"shortest_edge": 256}, crop_size={"height": 240, "width": 240}), (240, 240)),
        (CLIPImageProcessorPil(size={"shortest_edge": 256}, do_center_crop=False), (256, 256)),
        (Siglip2ImageProcessorPil(patch_size=16, max_num_patches=400), (320, 320)),
    ],
    ids=["vit", "clip", "clip_uncropped", "siglip2"],
)
def test_processor_takes_size_mean_std_and_filter_of_the_vision_encoder(own, size, tmp_path):
    own.save_pretrained(tmp_path)
    processor = EcgImageProcessor.from_vision_encoder(tmp_path, layout="12x1")
    assert (processor.size["height"], processor.size["width"]) == size
    assert tuple(processor.image_mean) == tuple(own.image_mean) and tuple(processor.image_std) == tuple(own.image_std)
    assert (processor.resample, processor.layout) == (own.resample, "12x1")


def test_encoder_without_a_height_and_width_is_refused():
    with pytest.raises(ValueError, match="longest_edge.*no height and width follow"):
        EcgImageProcessor.from_vision_encoder(ViTImageProcessorPil(size={"longest_edge": 500}))


def test_encoder_that_normalizes_in_another_way_is_refused():
    with pytest.raises(ValueError, match="do_normalize=False.*give EcgImageProcessor size"):
        EcgImageProcessor.from_vision_encoder(ViTImageProcessorPil(do_normalize=False))


def test_picture_is_drawn_at_the_encoders_size(signals):
    processor = EcgImageProcessor(size={"height": 384, "width": 512})
    assert (processor.draw(signals[1], 250)[0] == draw_ecg(signals[1], 250, height=384, width=512)).all()


def test_picture_too_small_for_names_is_drawn_larger_and_averaged(signals):
    small = EcgImageProcessor(size={"height": 32, "width": 32}).draw(signals[0], 250)[0]
    large = Image.fromarray(draw_ecg(signals[0], 250, height=160, width=160))
    assert (small == np.asarray(large.resize((32, 32), Image.Resampling.BILINEAR))).all()


def test_leads_are_placed_by_name_and_resampled(signals):
    processor = EcgImageProcessor()
    order = np.random.default_rng(1).permutation(12)
    shuffled = processor.draw(signals[0][order], 250, [LEADS[i] for i in order])
    assert (shuffled == processor.draw(signals[0], 250)).all()


def test_lead_that_is_left_out_is_blank(signals):
    seven = [lead for lead in LEADS if lead not in ("III", "aVR", "aVL", "aVF", "V6")]
    ecg = signals[0].copy()
    ecg[[LEADS.index(lead) for lead in LEADS if lead not in seven]] = np.nan
    rows = [LEADS.index(lead) for lead in seven]
    assert (EcgImageProcessor(leads=seven).draw(ecg[rows], 250) == EcgImageProcessor().draw(ecg, 250)).all()


def test_wfdb_record_is_drawn_like_its_signal(shared_data):
    path = shared_data / "ptb_xl/records500/06000/06000_hr"
    record = wfdb.rdrecord(str(path))
    processor = EcgImageProcessor()
    from_array = processor.draw(record.p_signal.T.astype(np.float32), record.fs, record.sig_name)
    assert (processor.draw(path) == from_array).all()


def test_unfit_ecg_is_named_by_its_position(signals):
    with pytest.raises(ValueError, match="ECG 2 of 2.*4 s long, the model reads 10 s"):
        EcgImageProcessor()([signals[0], signals[1][:, :1000]], 250)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"representation": "signal"}, '"signal" is not one of image, stacked_signal'),
        ({"size": {"shortest_edge": 224}}, 'size must be {"height"'),
        ({"layout": "2x6"}, 'layout "2x6"'),
        ({"rhythm_lead": "X"}, 'lead "X" is not one of'),
    ],
)
def test_wrong_configuration_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        EcgImageProcessor(**arguments)


RELOAD = """
import sys
import numpy as np

class Refuse:
    def find_spec(self, name, *rest):
        if name.split(".")[0] == "elm_hf":
            raise ImportError("elm_hf must not be needed")

sys.meta_path.insert(0, Refuse())
from transformers import AutoImageProcessor
processor = AutoImageProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
ecg = np.load(sys.argv[1] + "/ecg.npy")
np.save(sys.argv[1] + "/pixel_values.npy", processor(ecg, 250, return_tensors="pt")["pixel_values"].numpy())
"""


def test_saved_processor_loads_in_a_process_without_elm_hf(signals, tmp_path):
    processor = EcgImageProcessor.from_vision_encoder(
        CLIPImageProcessorPil(), layout="6x2", grid_color="blue", mm_per_mv=20, mm_per_s=50, draw_lead_names=False
    )
    processor.save_pretrained(tmp_path)
    np.save(tmp_path / "ecg.npy", signals[0])
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    done = run_python(["-c", textwrap.dedent(RELOAD), tmp_path], environment, tmp_path)
    assert done.returncode == 0, done.stderr
    expected = processor(signals[0], 250, return_tensors="np")["pixel_values"]
    assert (np.load(tmp_path / "pixel_values.npy") == expected).all()
    assert json.loads((tmp_path / "preprocessor_config.json").read_text())["mm_per_mv"] == 20


def test_processor_saved_before_there_were_layouts_without_a_strip_draws_as_before(signals):
    settings = EcgImageProcessor().to_dict()
    del settings["mm_per_s"], settings["grid_color"]
    earlier = EcgImageProcessor.from_dict(settings | {"layout": "3x4"})
    assert (
        earlier.layout == "3x4+1"
        and EcgImageProcessor.from_dict(EcgImageProcessor(layout="3x4").to_dict()).layout == "3x4"
    )
    assert (earlier.draw(signals, 250) == EcgImageProcessor().draw(signals, 250)).all()


def test_paper_is_the_same_object_for_the_same_arguments():
    """Papers key the caches of the grid and the names."""
    assert len({EcgPaper(10.0), EcgPaper(10.0), EcgPaper(10.0, grid=False)}) == 2
