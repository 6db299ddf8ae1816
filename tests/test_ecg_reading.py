"""Reading WFDB records."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import wfdb
from scipy.io import loadmat

from elm_hf.modeling import ecg_leads, ecg_reading, ecg_resampling, ecg_segments
from elm_hf.modeling.ecg_reading import load_ecg
from elm_hf.modeling.ecg_resampling import resample


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


@pytest.mark.parametrize("suffix", ["", ".hea", ".mat"])
def test_a_record_is_found_with_and_without_its_suffix(shared_data, suffix):
    assert load_ecg(str(shared_data / "cpsc/cpsc_2018/g1/A1983") + suffix)[0].shape == (12, 7500)


@pytest.fixture
def record(tmp_path) -> Path:
    """Header of a small record with the leads I, II and vx at 100 Hz, gain 1000/mV."""
    signal = np.arange(300).reshape(100, 3) / 1000
    gains = {"adc_gain": [1000.0] * 3, "baseline": [0] * 3}
    wfdb.wrsamp("small", 100, ["mV"] * 3, ["I", "II", "vx"], signal, fmt=["16"] * 3, write_dir=str(tmp_path), **gains)
    return tmp_path / "small.hea"


def test_every_real_record_is_read_as_by_wfdb(shared_data):
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
        "16{offset} 40.5 12 100 0 {checksum} 0",  # by default, the baseline is the ADC zero and the unit is millivolt
        "16{offset} 0 0 0 0 0 0",  # without gain, the default is 200 per millivolt; without checksums
        "16:3{offset} 200/mV 16 0 0 {checksum} 0",
        "16x2{offset} 200/mV 16 0 0 {checksum} 0",
        "61{offset} 200/mV 16 0 0 {checksum} 0",
    ],
)
def test_every_field_of_a_header_is_read_as_by_wfdb(tmp_path, fields, offset):
    """The header covers 40 samples of a longer file, some of them invalid."""
    digital = np.random.default_rng(0).integers(-3000, 3000, (100, 3)).astype("<i2")
    digital[[20, 21, 30], [0, 0, 2]] = -32768
    (tmp_path / "made.dat").write_bytes(bytes(offset) + digital.tobytes())
    if fields.startswith("61"):
        digital = digital.byteswap()
    per_frame = 2 if fields.startswith("16x2") else 1
    frames = digital.reshape(-1)[: 3 * 40 * per_frame].reshape(40, 3, per_frame)
    checksums = frames.sum(axis=(0, 2), dtype=np.int16)
    lines = [
        f"made.dat {fields.format(offset=f'+{offset}' if offset else '', checksum=checksum)} {lead}"
        for checksum, lead in zip(checksums, ["I", "aVR", "V 1"])
    ]
    (tmp_path / "made.hea").write_text("\n".join(["# comment", "made 3 360 40 10:00:00 1/1/2000", *lines]))
    expected = wfdb.rdrecord(str(tmp_path / "made"), smooth_frames=False)
    signals = np.stack(expected.e_p_signal, axis=1)
    scale = [{"mV": 1, "uV": 1e-3, "V": 1e3}[unit] for unit in expected.units]
    ecg, sampling_rate, lead_names = load_ecg(tmp_path / "made")
    np.testing.assert_allclose(ecg, (signals * scale).T, rtol=1e-6)
    assert (sampling_rate, lead_names) == (360 * per_frame, ["I", "aVR", "V 1"])


def test_a_header_of_the_2021_challenge_that_wfdb_refuses_is_read(shared_data, tmp_path):
    """The record has the name of its signal file, and the date before the time has the month as a word."""
    source = shared_data / "cpsc/cpsc_2018/g1/A1980"
    header = source.with_suffix(".hea").read_text()
    (tmp_path / "A1980.hea").write_text(
        header.replace("A1980 12 500 5000", "A1980.mat 12 500 5000 05-May-2020 09:49:17", 1)
    )
    shutil.copy(source.with_suffix(".mat"), tmp_path)
    with pytest.raises(wfdb.io.header.HeaderSyntaxError):
        wfdb.rdrecord(str(tmp_path / "A1980"))
    np.testing.assert_array_equal(load_ecg(tmp_path / "A1980")[0], load_ecg(source)[0])


def test_a_damaged_sample_is_detected_and_checksums_may_be_signed_or_unsigned(record):
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


def test_the_error_for_a_truncated_signal_file_gives_both_sizes(record):
    path = record.with_suffix(".dat")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        ValueError, match=r"small\.hea: small\.dat has 599 bytes, expected 600 for 3 leads of 100 samples"
    ):
        load_ecg(record)


@pytest.mark.parametrize("name", ["../small.dat", "/etc/passwd", "..\\small.dat"])
def test_a_header_cannot_refer_to_a_file_in_another_folder(record, name):
    record.write_text(record.read_text().replace("small.dat", name))
    with pytest.raises(ValueError, match="is in another folder, expected beside it"):
        load_ecg(record)


def test_leads_other_than_the_twelve_are_returned_unchanged(record):
    ecg, sampling_rate, lead_names = load_ecg(record)
    assert lead_names == ["I", "II", "vx"] and sampling_rate == 100
    np.testing.assert_allclose(ecg[:, 1], [0.003, 0.004, 0.005])


@pytest.mark.parametrize("unit, millivolt", [("uV", 1e-3), ("V", 1e3), ("µV", 1e-3), ("μV", 1e-3)])
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_every_voltage_unit_becomes_millivolt(record, unit, millivolt, encoding):
    """wfdb reads µV as V. The two characters for the micro sign are U+00B5 and U+03BC."""
    header = record.read_text().replace("/mV", f"/{unit}")
    record.write_bytes(header.encode(encoding if unit != "μV" else "utf-8"))
    np.testing.assert_allclose(load_ecg(record)[0][2, 10], 0.032 * millivolt, rtol=1e-6)


def test_a_lead_in_a_unit_that_is_not_a_voltage_is_refused_and_another_signal_is_left_out(record):
    record.write_text(record.read_text().replace("/mV 16 0 2", "/mmHg 16 0 2"))
    assert load_ecg(record)[2] == ["I", "II"]
    record.write_text(record.read_text().replace(" vx", " III"))
    with pytest.raises(ValueError, match=r'small\.hea: lead "III" is in "mmHg", expected mV, uV, µV or V'):
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
def test_the_error_for_a_damaged_header_gives_its_path(record, damage):
    record.write_text(damage[1](record.read_text()))
    with pytest.raises(ValueError, match=r"small\.hea: "):
        load_ecg(record)


def test_the_error_for_a_missing_header_or_signal_file_gives_its_path(record):
    with pytest.raises(FileNotFoundError, match=r"other\.hea: no such file"):
        load_ecg(record.with_name("other"))
    record.with_suffix(".dat").unlink()
    with pytest.raises(FileNotFoundError, match=r"small\.dat: no such file, but .*small\.hea names it"):
        load_ecg(record)


# as part of a checkpoint


@pytest.mark.parametrize("module", [ecg_leads, ecg_reading, ecg_resampling, ecg_segments])
def test_the_module_can_be_imported_with_numpy_only(module):
    """It is part of checkpoints and must also be importable without scipy and soundfile."""
    code = (
        "import sys, types; sys.modules.update(dict.fromkeys(['scipy', 'soundfile', 'wfdb', 'torch', 'elm_hf']))\n"
        f"package = types.ModuleType('alone'); package.__path__ = [{str(Path(module.__file__).parent)!r}]\n"
        "sys.modules['alone'] = package\n"
        f"from alone import {module.__name__.rpartition('.')[2]} as module; print(module.__doc__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == module.__doc__.strip(), done.stderr


def test_the_error_without_scipy_or_soundfile_says_what_to_install(monkeypatch, tmp_path):
    names = {"sig_name": ["I"], "units": ["mV"], "adc_gain": [200.0], "baseline": [0]}
    wfdb.wrsamp("made", 100, p_signal=np.zeros((100, 1)), fmt=["516"], write_dir=str(tmp_path), **names)
    monkeypatch.setitem(sys.modules, "scipy.interpolate", None)
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(ImportError, match="pip install scipy"):
        resample(np.zeros((1, 100)), 500, 250, method="cubic")
    with pytest.raises(ImportError, match="in FLAC format needs soundfile: pip install soundfile"):
        load_ecg(tmp_path / "made")
