"""ECG signal utilities: lead names, limb-lead check, resampling, gaps, reading WFDB records."""

import shutil
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import h5py
import numpy as np
import pytest
import wfdb
from scipy.io import loadmat
from scipy.signal import resample_poly

from elm_hf.modeling import ecg_utils
from elm_hf.modeling.ecg_utils import (
    LEADS,
    canonical_lead,
    fill_gaps,
    limb_lead_error,
    load_ecg,
    place_leads,
    resample,
)


LIMB_LEADS = LEADS[:6]


@pytest.fixture(scope="module")
def real_ecgs(shared_data) -> dict[str, tuple[np.ndarray, int]]:
    """Every 12-lead record of the collection: name -> ((12, samples) mV in the order of LEADS, sampling rate)."""
    ecgs = {}
    for header in sorted(shared_data.rglob("*.hea")):
        ecg, sampling_rate, lead_names = load_ecg(header)
        ecgs[header.stem] = place_leads(ecg, lead_names)[0], sampling_rate
    for part in sorted((shared_data / "code15").glob("*.hdf5")):
        with h5py.File(part) as file:
            for exam_id, tracing in zip(file["exam_id"][:], file["tracings"][:]):
                signal = np.flatnonzero(tracing.any(axis=1))
                if exam_id:
                    ecgs[f"code15/{exam_id}"] = tracing[signal[0] : signal[-1] + 1].T, 400
    assert len(ecgs) == 42  # PTB-XL 7 + 1, CSN 14, CPSC 7, stand-ins 6, CODE-15 7
    return ecgs


def einthoven(samples: int = 1000) -> np.ndarray:
    """Twelve smooth leads (12, samples) that keep the limb-lead identities, with aVR, aVL, aVF far from each other."""
    time = np.arange(samples) / 250
    right, left, foot = -0.3 * np.sin(7 * time), 0.5 * np.cos(11 * time), 0.9 * np.sin(5 * time + 1)
    center = (right + left + foot) / 3
    limbs = [left - right, foot - right, foot - left]
    augmented = [1.5 * (electrode - center) for electrode in (right, left, foot)]
    chest = [np.sin((3 + lead) * time) for lead in range(6)]
    return np.stack(limbs + augmented + chest).astype(np.float32)


# lead names


@pytest.mark.parametrize(
    "name, lead", [("AVR", "aVR"), ("avl", "aVL"), ("ii", "II"), ("v6", "V6"), ("DI", "I"), ("DIII", "III")]
)
def test_lead_names_of_every_source_have_one_spelling(name, lead):
    assert canonical_lead(name) == lead


def test_an_unknown_lead_is_refused_with_the_list_of_known_ones():
    with pytest.raises(ValueError, match='lead "V7" is not one of I, II, III, aVR, aVL, aVF, V1'):
        canonical_lead("V7")


def test_leads_are_placed_by_name_and_absent_ones_are_nan():
    placed, missing = place_leads(np.array([[1, 1], [2, 2], [3, 3]]), ["V6", "avr", "II"])
    assert missing == ["I", "III", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5"]
    assert placed.shape == (12, 2) and placed.dtype == np.float32
    assert [placed[1, 0], placed[3, 0], placed[11, 0]] == [2 + 1, 2, 1]
    assert np.isnan(np.delete(placed, [1, 3, 11], axis=0)).all()


def test_a_selection_of_leads_leaves_the_others_out():
    placed, missing = place_leads(np.array([[1.0], [2.0], [3.0]]), ["I", "II", "V1"], leads=("V1", "I"))
    assert placed.tolist() == [[3.0], [1.0]] and missing == []


def test_repeated_and_uncounted_lead_names_are_refused():
    with pytest.raises(ValueError, match='lead "aVR" stands in the ECG twice, in rows 0 and 1'):
        place_leads(np.zeros((2, 5)), ["aVR", "AVR"])
    with pytest.raises(ValueError, match=r"shape \(3, 5\) needs one lead name per row, got 2"):
        place_leads(np.zeros((3, 5)), ["I", "II"])


# limb leads


def test_limb_leads_made_from_electrodes_agree():
    assert limb_lead_error(einthoven()) is None


def test_limb_leads_of_every_real_ecg_agree(real_ecgs):
    """CODE-15 438277 and 358121 do so although their first samples deviate by up to 0.6 mV."""
    errors = {name: limb_lead_error(ecg) for name, (ecg, _) in real_ecgs.items()}
    assert {name: error for name, error in errors.items() if error} == {}
    start = real_ecgs["code15/438277"][0][:, :7]
    assert np.abs(start[3] + (start[0] + start[1]) / 2).max() > 0.5


def test_limb_leads_agree_in_every_resampled_two_second_piece(real_ecgs):
    for name, (ecg, sampling_rate) in real_ecgs.items():
        resampled = resample(ecg, sampling_rate, 250)
        for start in range(0, resampled.shape[1] - 499, 500):
            assert limb_lead_error(resampled[:, start : start + 500]) is None, (name, start)


@pytest.mark.parametrize("first, second", list(combinations(range(6), 2)))
def test_any_two_exchanged_limb_leads_are_seen_in_every_real_ecg(real_ecgs, first, second):
    for name, (ecg, _) in real_ecgs.items():
        exchanged = ecg.copy()
        exchanged[[first, second]] = ecg[[second, first]]
        assert limb_lead_error(exchanged), (name, LEADS[first], LEADS[second])


@pytest.mark.parametrize("lead", range(6))
def test_any_inverted_limb_lead_is_seen_in_every_real_ecg(real_ecgs, lead):
    for name, (ecg, _) in real_ecgs.items():
        inverted = ecg.copy()
        inverted[lead] *= -1
        assert limb_lead_error(inverted), (name, LEADS[lead])


def test_the_sentence_names_the_leads_that_fail_and_by_how_much():
    ecg = einthoven()
    exchanged = ecg[[0, 1, 2, 4, 3, 5, *range(6, 12)]]
    sentence = limb_lead_error(exchanged)
    by = f"{np.abs(ecg[3] - ecg[4]).max():.2f} mV"
    assert (
        f"aVR is not -(I + II)/2 (off by up to {by}" in sentence
        and f"aVL is not I - II/2 (off by up to {by}" in sentence
    )
    assert "III" not in sentence and "aVF" not in sentence


def test_nan_samples_and_flat_leads_do_not_count_as_disagreement():
    ecg = einthoven()
    ecg[1, 100:300] = np.nan
    ecg[5] = 0
    assert limb_lead_error(ecg) is None


@pytest.mark.parametrize("absent", LIMB_LEADS)
def test_exchanged_augmented_leads_are_seen_with_any_one_lead_absent(absent):
    """With I or II absent the other one and III still tell."""
    ecg = einthoven()
    first, second = [lead for lead in (3, 4, 5) if LEADS[lead] != absent][:2]
    ecg[LEADS.index(absent)] = np.nan
    assert limb_lead_error(ecg) is None
    ecg[[first, second]] = ecg[[second, first]]
    assert limb_lead_error(ecg)


def test_leads_that_imply_nothing_about_each_other_pass():
    assert limb_lead_error(np.random.default_rng(0).normal(size=(3, 100)), ["I", "II", "V1"]) is None


# resampling


def tone(frequency: float, sampling_rate: float, samples: int) -> np.ndarray:
    return np.sin(2 * np.pi * frequency * np.arange(samples) / sampling_rate)[None]


@pytest.mark.parametrize(
    "sampling_rate, samples", [(1000, 10000), (500, 5000), (400, 4096), (360, 3600), (257, 2570), (100, 1000)]
)
def test_a_10_hz_sine_keeps_amplitude_and_time(sampling_rate, samples):
    resampled = resample(tone(10, sampling_rate, samples), sampling_rate, 250)
    assert resampled.shape == (1, samples * 250 // sampling_rate) and resampled.dtype == np.float32
    analytic = tone(10, 250, resampled.shape[1])
    assert np.abs(resampled - analytic)[:, 25:-25].max() < 1e-4  # a shift by half a sample would be 0.12


def test_a_240_hz_tone_does_not_fold_down_to_10_hz():
    resampled = resample(tone(240, 500, 5000), 500, 250)
    assert np.abs(resampled[:, 50:-50]).max() < 1e-3  # -60 dB


def test_cubic_is_the_published_one_that_folds():
    """A spline through a 240 Hz tone, read at every second sample, is the 10 Hz tone -sin(2 pi 10 t) without any loss."""
    folded = resample(tone(240, 500, 5000), 500, 250, method="cubic")
    np.testing.assert_allclose(folded, -tone(10, 250, 2500), atol=1e-5)


def test_cubic_reads_the_spline_at_k_over_rate():
    time = np.arange(400) / 400
    cubic = lambda t: 3 * t**3 - 2 * t**2 + t  # noqa: E731
    resampled = resample(cubic(time)[None], 400, 250, method="cubic")
    np.testing.assert_allclose(resampled[0], cubic(np.arange(250) / 250), atol=1e-6)


def test_cubic_holds_the_last_sample_where_the_input_ends():
    resampled = resample(np.array([[0, 0, 0, 5.0]]), 100, 250, method="cubic")
    assert resampled.shape == (1, 10)
    assert resampled[0, 8:].tolist() == [5, 5]  # at 32 and 36 ms, the last input sample at 30 ms


@pytest.mark.parametrize("method", ["polyphase", "cubic"])
@pytest.mark.parametrize("sampling_rate", [100, 360, 400, 500, 500.5])
def test_a_constant_offset_stays_constant_to_the_ends(method, sampling_rate):
    resampled = resample(np.full((2, 4096), -9.0), sampling_rate, 250, method=method)
    assert resampled.shape[1] == int(np.ceil(4096 * 250 / sampling_rate))
    np.testing.assert_array_equal(resampled, np.float32(-9))


def test_a_large_offset_adds_no_ripple_to_the_signal():
    signal = tone(10, 400, 4000)
    np.testing.assert_allclose(resample(signal - 9, 400, 250), resample(signal, 400, 250) - 9, atol=2e-6)


def test_a_real_ecg_keeps_its_energy_below_100_hz(real_ecgs):
    ecg, sampling_rate = real_ecgs["06000_hr"]

    def spectrum(signal, rate):
        energy = np.abs(np.fft.rfft(signal - signal.mean(axis=1, keepdims=True))) ** 2 / signal.shape[1] / rate
        return energy[:, np.fft.rfftfreq(signal.shape[1], 1 / rate) <= 100].sum(axis=1)

    before, after = spectrum(ecg.astype(float), 500), spectrum(resample(ecg, 500, 250).astype(float), 250)
    np.testing.assert_allclose(after, before, rtol=1e-3)


def test_a_gap_does_not_spread_over_the_lead():
    signal = np.concatenate([tone(5, 500, 5000), tone(7, 500, 5000)])
    gap = signal.copy()
    gap[0, 1000:1500] = np.nan
    resampled = resample(gap, 500, 250)
    assert np.flatnonzero(np.isnan(resampled[0])).tolist() == list(range(500, 750))
    assert not np.isnan(resampled[1]).any()
    away = np.r_[0:480, 770:2500]  # the low-pass looks 20 input samples to either side
    np.testing.assert_allclose(resampled[0, away], resample(signal, 500, 250)[0, away], atol=1e-5)


def test_a_sample_beside_an_invalid_one_is_invalid_at_a_higher_rate():
    signal = np.zeros((1, 10))
    signal[0, 4] = np.nan
    resampled = resample(signal, 100, 200)  # samples 7, 8, 9 lie at 3.5, 4 and 4.5
    assert np.flatnonzero(np.isnan(resampled[0])).tolist() == [7, 8, 9]


def test_a_missing_lead_stays_missing():
    resampled = resample(np.stack([np.full(500, np.nan), np.ones(500)]), 500, 250)
    assert np.isnan(resampled[0]).all() and (resampled[1] == 1).all()


def test_the_same_rate_gives_an_equal_copy():
    signal = tone(5, 250, 100).astype(np.float32)
    same = resample(signal, 250, 250.0)
    np.testing.assert_array_equal(same, signal)
    assert not np.shares_memory(same, signal)


def test_resampling_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="sampling rate 0 Hz"):
        resample(np.zeros((1, 10)), 0, 250)
    with pytest.raises(ValueError, match=r"shape \(12, 1\) cannot be resampled"):
        resample(np.zeros((12, 1)), 500, 250)
    with pytest.raises(ValueError, match='method "linear" is not one of polyphase, cubic'):
        resample(np.zeros((1, 10)), 500, 250, method="linear")


# gaps


def test_short_gaps_are_interpolated_and_long_ones_stay():
    ramp = np.arange(1000, dtype=np.float32) / 100
    ecg = np.stack([ramp, ramp])
    ecg[0, 100:150] = np.nan  # 0.1 s at 500 Hz
    ecg[0, 300:351] = np.nan  # 0.102 s
    filled = fill_gaps(ecg, 500)
    assert np.flatnonzero(np.isnan(filled[0])).tolist() == list(range(300, 351))
    np.testing.assert_allclose(filled[0, 90:160], ramp[90:160], atol=1e-5)
    np.testing.assert_array_equal(filled[1], ramp)
    assert np.isnan(ecg[0, 100])  # the input is left alone


def test_a_short_gap_at_an_end_takes_the_nearest_sample_and_a_missing_lead_stays_missing():
    ecg = np.array([[np.nan, 2, 3, np.nan], [np.nan] * 4])
    filled = fill_gaps(ecg, 250)
    assert filled[0].tolist() == [2, 2, 3, 3] and np.isnan(filled[1]).all()


# WFDB


def test_ptb_xl_samples_equal_the_file_decoded_by_hand(shared_data):
    path = shared_data / "ptb_xl/records500/06000/06000_hr"
    ecg, sampling_rate, lead_names = load_ecg(path)
    by_hand = np.fromfile(path.with_suffix(".dat"), dtype="<i2").reshape(5000, 12).T / 1000
    np.testing.assert_allclose(ecg, by_hand, atol=1e-6)
    assert ecg.shape == (12, 5000) and ecg.dtype == np.float32
    assert sampling_rate == 500 and isinstance(sampling_rate, int)
    assert lead_names == ["I", "II", "III", "AVR", "AVL", "AVF", "V1", "V2", "V3", "V4", "V5", "V6"]


def test_csn_samples_equal_the_matlab_file(shared_data):
    path = shared_data / "csn/WFDBRecords/20/206/JS20011"
    ecg, _, _ = load_ecg(path)
    np.testing.assert_allclose(ecg, loadmat(path.with_suffix(".mat"))["val"] / 1000, atol=1e-6)
    assert round(float(ecg.min()), 1) == -11.4


def test_invalid_samples_of_a_mimic_layout_are_nan(shared_data):
    ecg, _, lead_names = load_ecg(shared_data / "mimic_iv_ecg/files/p1099/p10990001/s49990027/49990027")
    for row, lead in enumerate(lead_names):
        expected = [*range(1200, 1400), *(range(3000, 3500) if lead in ("V4", "V5", "V6") else ())]
        assert np.flatnonzero(np.isnan(ecg[row])).tolist() == expected


@pytest.mark.parametrize("ending", ["", ".hea", ".mat"])
def test_a_record_is_found_with_and_without_its_ending(shared_data, ending):
    assert load_ecg(str(shared_data / "cpsc/cpsc_2018/g1/A1983") + ending)[0].shape == (12, 7500)


@pytest.fixture
def record(tmp_path) -> Path:
    """Header of a small record with the leads I, II and vx at 100 Hz, gain 1000/mV."""
    signal = np.arange(300).reshape(100, 3) / 1000
    gains = {"adc_gain": [1000.0] * 3, "baseline": [0] * 3}
    wfdb.wrsamp("small", 100, ["mV"] * 3, ["I", "II", "vx"], signal, fmt=["16"] * 3, write_dir=str(tmp_path), **gains)
    return tmp_path / "small.hea"


def test_every_real_record_is_read_as_wfdb_reads_it(shared_data):
    paths = sorted(shared_data.rglob("*.hea"))
    assert len(paths) == 35
    for path in paths:
        expected = wfdb.rdrecord(str(path.with_suffix("")))
        ecg, sampling_rate, lead_names = load_ecg(path)
        np.testing.assert_array_equal(ecg, expected.p_signal.T.astype(np.float32))
        assert (sampling_rate, lead_names) == (expected.fs, expected.sig_name)


@pytest.mark.parametrize("offset", [0, 24])
@pytest.mark.parametrize(
    "fields",
    [
        "16{offset} 200/mV 16 0 0 {checksum} 0",
        "16{offset} 1000.0(-50)/uV 16 7 0 {checksum} 0",
        "16x1{offset} 1e3(12)/V 12 0 0 {checksum} 0",
        "16{offset} 40.5 12 100 0 {checksum} 0",  # the zero of the converter is the baseline, millivolt the unit
        "16{offset} 0 0 0 0 0 0",  # no gain: 200 per millivolt; no checksums
        "16:3{offset} 200/mV 16 0 0 {checksum} 0",
        "16x2{offset} 200/mV 16 0 0 {checksum} 0",
        "61{offset} 200/mV 16 0 0 {checksum} 0",
    ],
)
def test_every_field_of_a_header_is_read_as_wfdb_reads_it(tmp_path, fields, offset):
    """40 samples of a longer file, some of them invalid."""
    digital = np.random.default_rng(0).integers(-3000, 3000, (100, 3)).astype("<i2")
    digital[[20, 21, 30], [0, 0, 2]] = -32768
    (tmp_path / "made.dat").write_bytes(bytes(offset) + digital.tobytes())
    checksums = digital[:40].sum(axis=0, dtype=np.int16)
    lines = [
        f"made.dat {fields.format(offset=f'+{offset}' if offset else '', checksum=checksum)} {lead}"
        for checksum, lead in zip(checksums, ["I", "aVR", "V 1"])
    ]
    (tmp_path / "made.hea").write_text("\n".join(["# comment", "made 3 360 40 10:00:00 1/1/2000", *lines]))
    expected = wfdb.rdrecord(str(tmp_path / "made"))
    scale = [{"mV": 1, "uV": 1e-3, "V": 1e3}[unit] for unit in expected.units]
    ecg, sampling_rate, lead_names = load_ecg(tmp_path / "made")
    np.testing.assert_allclose(ecg, (expected.p_signal * scale).T, rtol=1e-6)
    assert (sampling_rate, lead_names) == (360, ["I", "aVR", "V 1"])


def test_a_header_of_the_2021_challenge_that_wfdb_refuses_is_read(shared_data, tmp_path):
    """There the record is named as its signal file, and a date in words stands before the time."""
    source = shared_data / "cpsc/cpsc_2018/g1/A1980"
    header = source.with_suffix(".hea").read_text()
    (tmp_path / "A1980.hea").write_text(
        header.replace("A1980 12 500 5000", "A1980.mat 12 500 5000 05-May-2020 09:49:17", 1)
    )
    shutil.copy(source.with_suffix(".mat"), tmp_path)
    with pytest.raises(wfdb.io.header.HeaderSyntaxError):
        wfdb.rdrecord(str(tmp_path / "A1980"))
    np.testing.assert_array_equal(load_ecg(tmp_path / "A1980")[0], load_ecg(source)[0])


def test_a_damaged_sample_is_noticed_and_checksums_may_be_signed_or_not(record):
    header = record.read_text()
    checksum = int(header.splitlines()[1].split()[6])
    for written in (checksum - 65536, checksum + 65536):
        record.write_text(header.replace(f" {checksum} 0 I\n", f" {written} 0 I\n"))
        assert load_ecg(record)[0][0, 1] == np.float32(0.003)
    data = bytearray(record.with_suffix(".dat").read_bytes())
    data[6] ^= 8  # second sample of lead I: 3 becomes 11
    record.with_suffix(".dat").write_bytes(data)
    with pytest.raises(ValueError, match=r'small\.hea: the samples of lead "I" do not add up to its checksum'):
        load_ecg(record)


def test_a_signal_file_cut_short_is_named_with_both_sizes(record):
    path = record.with_suffix(".dat")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        ValueError, match=r"small\.hea: small\.dat has 599 bytes, expected 600 for 3 leads of 100 samples"
    ):
        load_ecg(record)


@pytest.mark.parametrize("name", ["../small.dat", "/etc/passwd", "..\\small.dat"])
def test_a_header_cannot_name_a_file_elsewhere(record, name):
    record.write_text(record.read_text().replace("small.dat", name))
    with pytest.raises(ValueError, match="is in another folder, expected beside it"):
        load_ecg(record)


@pytest.mark.parametrize("rates", [(500, 250), (400, 250), (360, 250), (250, 500), (257, 250), (100, 250)])
@pytest.mark.parametrize("samples", [7, 30, 4999])
def test_resampling_equals_scipys_polyphase_filter(rates, samples):
    signal = np.cumsum(np.random.default_rng(0).normal(0, 0.05, (2, samples)), axis=1).astype(np.float32)
    offset = signal.mean(axis=1, keepdims=True, dtype=np.float64)
    common = np.gcd(*rates)
    expected = resample_poly(
        signal - offset, rates[1] // common, rates[0] // common, axis=1, window=("kaiser", 8.0), padtype="antireflect"
    )
    np.testing.assert_allclose(resample(signal, *rates), expected + offset, atol=1e-6)


def test_leads_beyond_the_twelve_are_returned_as_they_are(record):
    ecg, sampling_rate, lead_names = load_ecg(record)
    assert lead_names == ["I", "II", "vx"] and sampling_rate == 100
    np.testing.assert_allclose(ecg[:, 1], [0.003, 0.004, 0.005])


@pytest.mark.parametrize("unit, millivolt", [("uV", 1e-3), ("V", 1e3), ("µV", 1e-3), ("μV", 1e-3)])
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_every_voltage_unit_becomes_millivolt(record, unit, millivolt, encoding):
    """wfdb itself reads µV as V: the two spellings of the micro sign are U+00B5 and U+03BC."""
    header = record.read_text().replace("/mV", f"/{unit}")
    record.write_bytes(header.encode(encoding if unit != "μV" else "utf-8"))
    np.testing.assert_allclose(load_ecg(record)[0][2, 10], 0.032 * millivolt, rtol=1e-6)


def test_a_unit_that_is_no_voltage_is_refused_by_name(record):
    record.write_text(record.read_text().replace("/mV 16 0 2", "/mmHg 16 0 2"))
    with pytest.raises(ValueError, match=r'small\.hea: lead "vx" is in "mmHg", expected mV, uV, µV or V'):
        load_ecg(record)


def test_a_fractional_sampling_rate_stays_a_float(record):
    record.write_text(record.read_text().replace("small 3 100", "small 3 128.5"))
    assert load_ecg(record)[1] == 128.5


@pytest.mark.parametrize("rate", ["0", "-5", "fast", "1OO"])
def test_a_damaged_sampling_rate_is_refused(record, rate):
    record.write_text(record.read_text().replace("small 3 100", f"small 3 {rate}"))
    with pytest.raises(ValueError, match=r"small\.hea: "):
        load_ecg(record)


@pytest.mark.parametrize(
    "damage",
    {
        "empty": lambda text: "",
        "comments only": lambda text: "# nothing\n",
        "garbage": lambda text: "hello world\n\x00\x01",
        "lost line break": lambda text: text.replace("\nsmall.dat", " small.dat", 1),
        "a signal line is gone": lambda text: "\n".join(text.splitlines()[:-1]),
        "no signals": lambda text: "small 0 100 100\n",
        "lead without a name": lambda text: text.replace(" vx", ""),
        "several segments": lambda text: "small/2 3 100 200\nfirst 100\nsecond 100\n",
        "longer than the data": lambda text: text.replace("100 100", "100 5000", 1),
    }.items(),
    ids=lambda item: item[0],
)
def test_a_damaged_header_is_named(record, damage):
    record.write_text(damage[1](record.read_text()))
    with pytest.raises(ValueError, match=r"small\.hea: "):
        load_ecg(record)


def test_a_missing_header_or_signal_file_is_named(record):
    with pytest.raises(FileNotFoundError, match=r"other\.hea: no such file"):
        load_ecg(record.with_name("other"))
    record.with_suffix(".dat").unlink()
    with pytest.raises(FileNotFoundError, match=r"small\.dat: no such file, but .*small\.hea names it"):
        load_ecg(record)


# as part of a checkpoint


def test_the_file_alone_needs_only_numpy():
    """It travels inside checkpoints: a machine without scipy and wfdb can still import it."""
    code = (
        "import sys, importlib.util as u; sys.modules.update(dict.fromkeys(['scipy', 'wfdb', 'torch', 'elm_hf']))\n"
        f"spec = u.spec_from_file_location('ecg_utils', {ecg_utils.__file__!r})\n"
        "module = u.module_from_spec(spec); spec.loader.exec_module(module); print(module.LEADS[3])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "aVR", done.stderr


def test_without_scipy_or_wfdb_the_error_says_what_to_install(monkeypatch, tmp_path):
    names = {"sig_name": ["I"], "units": ["mV"], "adc_gain": [200.0], "baseline": [0]}
    wfdb.wrsamp("made", 100, p_signal=np.zeros((100, 1)), fmt=["212"], write_dir=str(tmp_path), **names)
    monkeypatch.setitem(sys.modules, "scipy.signal", None)
    monkeypatch.setitem(sys.modules, "scipy.interpolate", None)
    monkeypatch.setitem(sys.modules, "wfdb", None)
    with pytest.raises(ImportError, match="pip install scipy"):
        resample(np.zeros((1, 100)), 500, 250, method="cubic")
    with pytest.raises(ImportError, match="not in format 16 needs wfdb: pip install wfdb"):
        load_ecg(tmp_path / "made")


@pytest.mark.parametrize("rate", [0, -250, 1e-5, 1e9, np.nan, np.inf])
def test_a_rate_that_no_ecg_has_is_refused(rate):
    with pytest.raises(ValueError, match="not a number from 1 to 100,000"):
        resample(np.zeros((2, 100), np.float32), rate, 250)
