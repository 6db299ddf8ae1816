"""ECG drawings: the tests read distances, positions and amplitudes from the pixels of the image."""

import numpy as np
import pytest
import wfdb
from PIL import Image

from elm_hf.ecg.plot import plot_ecg
from elm_hf.modeling.ecg_leads import LEADS


PIXELS_PER_MM = 6
SECOND = 25 * PIXELS_PER_MM
MILLIVOLT = 10 * PIXELS_PER_MM
PLACES = {  # row and column of the standard layout
    "I": (0, 0), "aVR": (0, 1), "V1": (0, 2), "V4": (0, 3),
    "II": (1, 0), "aVL": (1, 1), "V2": (1, 2), "V5": (1, 3),
    "III": (2, 0), "aVF": (2, 1), "V3": (2, 2), "V6": (2, 3),
}  # fmt: skip


class Reader:
    """Finds the paper in an image and how black each of its pixels is (0 to 1; 0 for the grid)."""

    def __init__(self, picture: Image.Image):
        pixels = np.asarray(picture)
        colored = (pixels != 255).any(axis=2)
        rows = np.flatnonzero(colored.mean(axis=1) > 0.8)
        columns = np.flatnonzero(colored[rows].mean(axis=0) > 0.9)
        self.box = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        self.paper = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(float)
        # The grid is red and the separators and remarks are grey, so only black is dark in the red channel.
        self.black = np.clip((100 - self.paper[:, :, 0]) / 80, 0, 1)

    def height_at(self, x: float, baseline: float, reach: float = 9.5 * PIXELS_PER_MM) -> float:
        """Height of the middle of the line above `baseline` in pixel column `x`, in pixels."""
        y = np.arange(round(baseline - reach), round(baseline + reach))
        weights = self.black[y, round(x)]
        return baseline - (weights * y).sum() / weights.sum()


@pytest.fixture(scope="module")
def geometry() -> tuple[float, np.ndarray]:
    """Start of the traces (x) and baselines of the four rows (y), read from the drawing of an ECG of 0 mV."""
    black = Reader(plot_ecg(zeros(), calibration=False)).black
    baselines = np.array([rows.mean() for rows in runs(black.mean(axis=1) > 0.5)])
    start = np.flatnonzero(black[round(baselines[0])] > 0.5)[0]
    return float(start), baselines


def runs(mask: np.ndarray) -> list[np.ndarray]:
    """The indices of each unbroken run of True."""
    indices = np.flatnonzero(mask)
    return np.split(indices, np.flatnonzero(np.diff(indices) > 1) + 1)


def zeros(seconds: float = 10, sampling_rate: int = 250) -> np.ndarray:
    return np.zeros((12, round(seconds * sampling_rate)), np.float32)


def pulse(ecg: np.ndarray, lead: str, start: float, seconds: float, millivolt: float, sampling_rate: int = 250):
    ecg[LEADS.index(lead), round(start * sampling_rate) : round((start + seconds) * sampling_rate)] = millivolt


def waves(sampling_rate: int) -> np.ndarray:
    """A smooth 10 s ECG-like signal, different in each lead: a sharp and a broad positive wave every 0.8 s."""
    t = np.arange(10 * sampling_rate) / sampling_rate
    phase = (t[None, :] + np.arange(12)[:, None] * 0.03) % 0.8 - 0.4
    ecg = np.exp(-((phase / 0.02) ** 2)) + 0.2 * np.exp(-(((phase - 0.2) / 0.05) ** 2))
    return (ecg * np.linspace(0.3, 1, 12)[:, None]).astype(np.float32)


def test_grid_lines_are_1_mm_and_bold_ones_5_mm_apart():
    paper = Reader(plot_ecg(np.full((12, 2500), np.nan), calibration=False)).paper
    for line in (paper[PIXELS_PER_MM // 2, :, 1], paper[:, PIXELS_PER_MM // 2, 1]):
        lines = np.flatnonzero((line[1:-1] < line[:-2] - 5) & (line[1:-1] < line[2:] - 5)) + 1
        assert (lines == np.arange(PIXELS_PER_MM, len(line) - 1, PIXELS_PER_MM)).all()
        bold = lines[line[lines] < 180]
        assert (bold == np.arange(5 * PIXELS_PER_MM, len(line) - 1, 5 * PIXELS_PER_MM)).all()


def test_calibration_pulse_is_1_mv_high_and_200_ms_wide():
    black = Reader(plot_ecg(np.full((12, 2500), np.nan))).black[: 33 * PIXELS_PER_MM, : 20 * PIXELS_PER_MM]
    flat = np.flatnonzero(black.sum(axis=1) > 0.9 * 0.2 * SECOND)
    assert flat[-1] - flat[0] == pytest.approx(MILLIVOLT, abs=2)
    upright = np.flatnonzero(black.sum(axis=0) > 0.9 * MILLIVOLT)
    assert upright[-1] - upright[0] == pytest.approx(0.2 * SECOND, abs=2)


def test_pulse_of_1_mv_and_400_ms_is_10_mm_high_and_10_mm_wide_at_its_time(geometry):
    start, baselines = geometry
    ecg = zeros()
    pulse(ecg, "V1", 6.0, 0.4, 1.0)
    reader = Reader(plot_ecg(ecg, calibration=False))
    top = reader.height_at(start + 6.2 * SECOND, baselines[0], reach=11 * PIXELS_PER_MM)
    assert top == pytest.approx(MILLIVOLT, abs=1)
    half = reader.black[round(baselines[0] - MILLIVOLT / 2)]
    edges = [columns.mean() for columns in runs(half > 0.5)]
    assert edges == pytest.approx([start + 6.0 * SECOND, start + 6.4 * SECOND], abs=1)


def test_rhythm_strip_shows_a_sine(geometry):
    start, baselines = geometry
    t = np.arange(2500) / 250
    ecg = zeros()
    ecg[LEADS.index("V6")] = 0.8 * np.sin(2 * np.pi * 0.5 * t)
    reader = Reader(plot_ecg(ecg, calibration=False, rhythm_lead="v6"))
    times = np.arange(0.1, 9.9, 0.05)
    heights = [reader.height_at(start + time * SECOND, baselines[3]) for time in times]
    expected = 0.8 * np.sin(2 * np.pi * 0.5 * (np.round(start + times * SECOND) - start) / SECOND) * MILLIVOLT
    np.testing.assert_allclose(heights, expected, atol=1)


def test_every_lead_has_its_position_in_the_layout(geometry):
    start, baselines = geometry
    ecg = zeros()
    for index, lead in enumerate(LEADS):
        for column in range(4):
            pulse(ecg, lead, 2.5 * column + 1, 0.4, 0.07 * (index + 1))
    reader = Reader(plot_ecg(ecg, calibration=False))
    for index, lead in enumerate(LEADS):
        row, column = PLACES[lead]
        height = reader.height_at(start + (2.5 * column + 1.2) * SECOND, baselines[row])
        assert height == pytest.approx(0.07 * (index + 1) * MILLIVOLT, abs=1), lead


@pytest.mark.parametrize(
    "layout, mm_per_s, mm_per_mv", [("3x4", 25, 20), ("3x4+3", 25, 10), ("6x2", 50, 5), ("12x1", 25, 5)]
)
def test_pulses_have_the_size_and_place_of_the_layout(layout, mm_per_s, mm_per_mv):
    """Each lead has a pulse of its own height, 0.2 s wide, in the middle of its part of the time."""
    scale = {"layout": layout, "mm_per_s": mm_per_s, "mm_per_mv": mm_per_mv, "calibration": False}
    black = Reader(plot_ecg(zeros(), **scale)).black
    baselines = np.array([rows.mean() for rows in runs(black.mean(axis=1) > 0.5)])
    start, second = np.flatnonzero(black[round(baselines[0])] > 0.5)[0], mm_per_s * PIXELS_PER_MM
    assert len(baselines) == {"3x4": 3, "3x4+3": 6, "6x2": 6, "12x1": 12}[layout]
    columns = {"6x2": 2, "12x1": 1}.get(layout, 4)
    places = {lead: (i % (12 // columns), i // (12 // columns)) for i, lead in enumerate(LEADS)}
    if columns == 4:
        places = PLACES
    ecg, pulses = zeros(), {}
    for index, (lead, (_, column)) in enumerate(places.items()):
        pulses[lead] = 10 * (column + 0.5) / columns, 0.5 + 0.05 * index
        pulse(ecg, lead, pulses[lead][0] - 0.1, 0.2, pulses[lead][1])
    reader = Reader(plot_ecg(ecg, **scale))
    for lead, (row, _) in places.items():
        time, height = pulses[lead][0], pulses[lead][1] * mm_per_mv * PIXELS_PER_MM
        at = reader.height_at(start + time * second, baselines[row], reach=1.2 * height)
        assert at == pytest.approx(height, abs=1), lead
        x = slice(round(start + (time - 0.3) * second), round(start + (time + 0.3) * second))
        edges = [edge.mean() + x.start for edge in runs(reader.black[round(baselines[row] - height / 2), x] > 0.5)]
        assert edges == pytest.approx(start + (time + np.array([-0.1, 0.1])) * second, abs=1.5), lead


def test_strips_of_three_are_v1_ii_and_v5():
    black = Reader(plot_ecg(zeros(), layout="3x4+3", calibration=False)).black
    baselines = np.array([rows.mean() for rows in runs(black.mean(axis=1) > 0.5)])
    start = np.flatnonzero(black[round(baselines[0])] > 0.5)[0]
    ecg = zeros()
    for height, lead in enumerate(("V1", "II", "V5"), 2):
        pulse(ecg, lead, 9, 0.4, 0.2 * height)
    reader = Reader(plot_ecg(ecg, layout="3x4+3", calibration=False))
    heights = [reader.height_at(start + 9.2 * SECOND, baseline) for baseline in baselines[3:]]
    assert heights == pytest.approx([0.4 * MILLIVOLT, 0.6 * MILLIVOLT, 0.8 * MILLIVOLT], abs=1)


def test_calibration_pulse_has_the_scale_of_the_paper():
    paper = {"layout": "12x1", "mm_per_s": 50, "mm_per_mv": 5}
    black = Reader(plot_ecg(np.full((12, 2500), np.nan), **paper)).black[: 22 * PIXELS_PER_MM, : 24 * PIXELS_PER_MM]
    flat = np.flatnonzero(black.sum(axis=1) > 0.9 * 5 * PIXELS_PER_MM)  # the line beside the pulse is 5 mm long
    upright = np.flatnonzero(black.sum(axis=0) > 0.9 * 5 * PIXELS_PER_MM)
    assert flat[-1] - flat[0] == pytest.approx(5 * PIXELS_PER_MM, abs=2)
    assert upright[-1] - upright[0] == pytest.approx(0.2 * 50 * PIXELS_PER_MM, abs=2)


def test_leads_are_placed_by_name():
    ecg = waves(250)
    order = np.random.default_rng(0).permutation(12)
    shuffled = plot_ecg(ecg[order], leads=[LEADS[i].upper() for i in order])
    assert shuffled.tobytes() == plot_ecg(ecg).tobytes()


def test_each_column_shows_a_quarter_of_a_short_record(geometry):
    start, baselines = geometry
    ecg = zeros(5)
    for lead in LEADS:
        pulse(ecg, lead, 3.0, 0.4, 0.5)
    reader = Reader(plot_ecg(ecg, calibration=False))
    high = reader.black[:, round(start) : round(start + 5 * SECOND)]
    for row, lead in enumerate(("V1", "V2", "V3", "II")):
        y = round(baselines[row] - 0.5 * MILLIVOLT)
        x = np.flatnonzero(high[y - 1 : y + 2].max(axis=0) > 0.5)
        assert (x.min(), x.max()) == pytest.approx((3.0 * SECOND, 3.4 * SECOND), abs=3), lead


def test_missing_lead_has_its_name_and_a_remark_but_no_trace(geometry):
    start, baselines = geometry
    ecg = waves(250)
    whole = Reader(plot_ecg(ecg, calibration=False))
    without = [i for i, lead in enumerate(LEADS) if lead != "V1"]
    missing = Reader(plot_ecg(ecg[without], leads=[LEADS[i] for i in without], calibration=False))
    blank = Reader(plot_ecg(np.full((12, 2500), np.nan), calibration=False))

    x = slice(round(start + 5 * SECOND) + 3, round(start + 7.5 * SECOND) - 3)
    trace = slice(round(baselines[0] - 10.5 * PIXELS_PER_MM), round(baselines[0] + 14 * PIXELS_PER_MM))
    name = slice(round(baselines[0] - 15 * PIXELS_PER_MM), trace.start)
    assert whole.black[trace, x].sum() > 100
    assert missing.black[trace, x].sum() == 0
    assert missing.black[name, x].sum() > 20
    assert (missing.paper[trace, x] == blank.paper[trace, x]).all()
    grey = (missing.paper[trace, x].max(axis=2) < 150).sum()
    assert grey > 50


def test_rows_of_nan_are_missing_leads():
    ecg = waves(250)
    ecg[6] = np.nan
    rest = [i for i in range(12) if i != 6]
    assert plot_ecg(ecg).tobytes() == plot_ecg(ecg[rest], leads=[LEADS[i] for i in rest]).tobytes()


def test_gap_stays_blank(geometry):
    start, baselines = geometry
    ecg = zeros()
    ecg[LEADS.index("II"), 1000:1250] = np.nan
    strip = Reader(plot_ecg(ecg, calibration=False)).black[round(baselines[3])]
    drawn = np.flatnonzero(strip > 0.5) - start
    assert not ((drawn > 4 * SECOND + 2) & (drawn < 5 * SECOND - 3)).any()
    assert ((drawn > 3.9 * SECOND) & (drawn < 4 * SECOND)).any() and (drawn > 5 * SECOND).any()


def test_constant_offset_of_a_lead_does_not_move_it():
    ecg = waves(250)
    offset = np.linspace(-9, 9, 12, dtype=np.float32)[:, None]
    moved, still = (np.asarray(plot_ecg(signal)).astype(int) for signal in (ecg + offset, ecg))
    assert abs(moved - still).max() <= 2


def test_huge_deflections_stay_on_the_paper():
    ecg = zeros()
    ecg[:, 100::500] = 1000
    ecg[:, 300::500] = -1000
    flat, huge = plot_ecg(zeros(), title="ECG"), plot_ecg(ecg, title="ECG")
    left, top, right, bottom = Reader(flat).box
    changed = np.argwhere((np.asarray(flat) != np.asarray(huge)).any(axis=2))
    assert changed.min(axis=0)[0] == top and changed.max(axis=0)[0] == bottom - 1
    assert changed.min(axis=0)[1] >= left and changed.max(axis=0)[1] < right


def test_deflection_beyond_the_paper_is_clipped_to_its_edge(geometry):
    start, _ = geometry
    ecg = zeros()
    pulse(ecg, "I", 1.0, 0.4, 100)
    edge = Reader(plot_ecg(ecg, calibration=False)).black[0] > 0.5
    assert (runs(edge)[0][[0, -1]] - start) / SECOND == pytest.approx([1.0, 1.4], abs=0.02)


def test_long_record_shows_its_first_10_s_and_says_so():
    long = np.concatenate([waves(250), 5 * waves(250)[:, :1000]], axis=1)
    part, whole = plot_ecg(long), plot_ecg(waves(250))
    left, top, right, bottom = Reader(whole).box
    assert part.crop((left, top, right, bottom)).tobytes() == whole.crop((left, top, right, bottom)).tobytes()
    below = (left, bottom, right, part.height)
    assert np.asarray(part.crop(below)).sum() < np.asarray(whole.crop(below)).sum()


def test_picture_does_not_depend_on_the_sampling_rate():
    slow, fast = (np.asarray(plot_ecg(waves(rate), rate)).astype(int) for rate in (250, 500))
    difference = abs(slow - fast).max(axis=2)
    assert slow.shape == fast.shape
    assert (difference > 60).mean() < 1e-3


def test_caption_is_wrapped_to_the_width_of_the_paper():
    plain, caption = plot_ecg(waves(250)), plot_ecg(waves(250), caption="Is there atrial fibrillation? " * 20)
    assert caption.width == plain.width
    left, _, right, bottom = Reader(caption).box
    below = np.asarray(caption)[bottom:]
    assert (below[:, :left] == 255).all() and (below[:, right:] == 255).all()
    lines = (below[:, left:right].min(axis=(1, 2)) < 100).astype(int)
    assert (np.diff(lines) == 1).sum() >= 3


def test_text_beyond_ascii_is_spelled_in_ascii():
    ecg = zeros(2)
    fancy = plot_ecg(ecg, title="überdreht ≥ 5 µV – “weiß”", caption="心電図")
    assert fancy.tobytes() == plot_ecg(ecg, title='uberdreht >= 5 uV - "weiss"', caption="???").tobytes()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"ecg": np.zeros(2500)}, r"shape \(2500,\); expected \(leads, samples\)"),
        ({"ecg": np.zeros((12, 0))}, r"shape \(12, 0\).*at least 2 samples"),
        ({"ecg": np.zeros((12, 2500), np.int16)}, "int16; expected floats in millivolt"),
        ({"ecg": np.zeros((3, 2500))}, r"\(3, 2500\).*12 names"),
        ({"leads": ("V7", *LEADS[1:])}, '"V7" is not one of I, II'),
        ({"leads": ("II", *LEADS[1:])}, 'lead "II" occurs twice in the ECG'),
        ({"rhythm_lead": "vx"}, '"vx" is not one of I, II'),
        ({"sampling_rate": 0}, "sampling_rate is 0"),
        ({"pixels_per_mm": 0.5}, "pixels_per_mm is 0.5"),
        ({"layout": "4x3"}, 'layout "4x3" is not one of 3x4'),
        ({"mm_per_mv": -5}, "mm_per_mv is -5"),
        ({"grid_color": "black"}, 'grid_color "black" is not one of red'),
    ],
)
def test_the_error_for_wrong_input_names_it(arguments, message):
    with pytest.raises(ValueError, match=message):
        plot_ecg(**{"ecg": zeros(), **arguments})


def test_highest_peak_of_a_real_record_has_the_position_of_the_file(shared_data, geometry):
    start, baselines = geometry
    record = wfdb.rdrecord(str(shared_data / "ptb_xl/records500/06000/06000_hr"))
    reader = Reader(plot_ecg(record.p_signal.T, record.fs, record.sig_name, calibration=False))
    signal = record.p_signal[:, record.sig_name.index("II")]
    peak = 500 + signal[500:].argmax()  # after the label of the lead
    strip = reader.black[round(baselines[3] - 14.5 * PIXELS_PER_MM) :, round(start + SECOND) :]
    y, x = (axis[0] for axis in np.nonzero(strip > 0.5))
    pen = 0.18 * PIXELS_PER_MM
    assert 14.5 * PIXELS_PER_MM - y == pytest.approx((signal[peak] - np.median(signal)) * MILLIVOLT + pen, abs=1.5)
    assert x + SECOND == pytest.approx(peak / 500 * SECOND, abs=2)
