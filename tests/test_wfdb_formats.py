"""WFDB records in all storage formats, compared with the wfdb package; headers that lie; details of headers."""

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import wfdb

from elm_hf.ecg.recording import RecordingError, read_recording
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.modeling.ecg_reading import load_ecg, load_signals
from elm_hf.modeling.ecg_resampling import resample


# Bits of a sample in each format that the wfdb package writes.
BITS = {"80": 8, "212": 12, "16": 16, "24": 24, "32": 32, "508": 8, "516": 16, "524": 24}


def limb_ecg(samples: int, rate: float = 500) -> np.ndarray:
    """Leads I, II, III `(3, samples)` in mV with III = II - I."""
    time = np.arange(samples) / rate
    first, second = np.sin(9 * time), 1.2 * np.cos(7 * time)
    return np.stack([first, second, second - first])


def write(folder: Path, digital: np.ndarray, fmt: str, rate: float = 500, gain: float = 100, **options) -> Path:
    """Write whole numbers `(3, samples)` as the leads I, II and III."""
    header = {"units": ["mV"] * 3, "sig_name": ["I", "II", "III"], "adc_gain": [gain] * 3, "baseline": [0] * 3}
    wfdb.wrsamp("made", rate, d_signal=digital.T, fmt=[fmt] * 3, write_dir=str(folder), **header | options)
    return folder / "made"


@pytest.mark.parametrize("samples", [1000, 1001])
@pytest.mark.parametrize("fmt", BITS)
def test_every_format_is_read_as_by_wfdb(fmt, samples, tmp_path):
    limit = 2 ** (BITS[fmt] - 1) - 1
    digital = np.random.default_rng(0).integers(-limit, limit, (3, samples))
    path = write(tmp_path, digital, fmt)
    ecg, rate, names = load_ecg(path)
    np.testing.assert_allclose(ecg, wfdb.rdrecord(str(path)).p_signal.T, rtol=1e-6)
    np.testing.assert_allclose(ecg, digital / 100, rtol=1e-6)
    assert (rate, names) == (500, ["I", "II", "III"])


@pytest.mark.parametrize("fmt", ["310", "311", "61", "160", "8"])
def test_formats_that_wfdb_only_reads(fmt, tmp_path):
    data = np.random.default_rng(1).integers(0, 256, 3600, dtype="u1")
    if fmt == "311":
        data[3::4] &= 0x3F  # the two highest bits are unused
    (tmp_path / "made.dat").write_bytes(data.tobytes())
    lines = [f"made.dat {fmt} 100/mV 12 0 {first} 0 0 {lead}" for first, lead in zip((5, -7, 0), ("I", "II", "III"))]
    (tmp_path / "made.hea").write_text("\n".join(["made 3 500 400", *lines]))
    expected = wfdb.rdrecord(str(tmp_path / "made")).p_signal.T
    np.testing.assert_allclose(load_ecg(tmp_path / "made")[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fmt", BITS)
def test_a_damaged_sample_does_not_fit_the_checksum_in_any_format(fmt, tmp_path):
    digital = np.random.default_rng(2).integers(-100, 100, (3, 1000))
    path = write(tmp_path, digital, fmt)
    changed = digital.copy()
    changed[1, 500] += 1
    header = path.with_suffix(".hea").read_text()
    write(tmp_path, changed, fmt)
    path.with_suffix(".hea").write_text(header)
    with pytest.raises(ValueError, match=r'made\.hea: the samples of lead "II" do not add up to its checksum'):
        load_ecg(path)


@pytest.mark.parametrize("per_frame", [2, 4, 5])
@pytest.mark.parametrize("fmt", ["16", "212", "24", "32", "80", "516"])
def test_several_samples_per_frame_are_read_at_their_own_rate(fmt, per_frame, tmp_path):
    """500 Hz stored as 100 frames of 5 samples are not averaged to 100 Hz."""
    digital = np.random.default_rng(3).integers(-100, 100, (3, 1000))
    options = {"units": ["mV"] * 3, "sig_name": ["I", "II", "III"], "adc_gain": [100] * 3, "baseline": [0] * 3}
    wfdb.wrsamp("made", 500 / per_frame, e_d_signal=list(digital), fmt=[fmt] * 3, samps_per_frame=[per_frame] * 3,
                write_dir=str(tmp_path), **options)  # fmt: skip
    expected = wfdb.rdrecord(str(tmp_path / "made"), smooth_frames=False).e_p_signal
    ecg, rate, _ = load_ecg(tmp_path / "made")
    assert rate == 500
    np.testing.assert_allclose(ecg, np.stack(expected), rtol=1e-6)
    np.testing.assert_allclose(ecg, digital / 100, rtol=1e-6)


def test_leads_of_mixed_rates_are_resampled_to_the_highest_one(tmp_path):
    fast, slow = limb_ecg(2000), limb_ecg(500, 125)
    signals = [np.rint(1000 * lead).astype(int) for lead in (fast[0], slow[1], fast[2])]
    options = {"units": ["mV"] * 3, "sig_name": ["I", "II", "III"], "adc_gain": [1000] * 3, "baseline": [0] * 3}
    wfdb.wrsamp("made", 125, e_d_signal=signals, fmt=["16"] * 3, samps_per_frame=[4, 1, 4], write_dir=str(tmp_path),
                **options)  # fmt: skip
    ecg, rate, _ = load_ecg(tmp_path / "made")
    assert (rate, ecg.shape) == (500, (3, 2000))
    np.testing.assert_array_equal(ecg[1], resample(np.float32(signals[1]) / np.float32(1000), 125, 500))
    assert np.abs(ecg - fast)[:, 50:-50].max() < 0.005


def test_a_slow_signal_of_another_kind_does_not_change_the_rate_of_the_leads(tmp_path):
    header = {"units": ["mV", "mV", "mmHg"], "sig_name": ["I", "II", "ABP"], "adc_gain": [1000] * 3}
    signals = [np.rint(1000 * lead).astype(int) for lead in (*limb_ecg(1000)[:2], np.ones(4000) * 0.09)]
    wfdb.wrsamp("made", 125, e_d_signal=signals, fmt=["16"] * 3, samps_per_frame=[4, 4, 16], baseline=[0] * 3,
                write_dir=str(tmp_path), **header)  # fmt: skip
    ecg, rate, names, others = load_signals(tmp_path / "made")
    assert (rate, ecg.shape, names, others) == (500, (2, 1000), ["I", "II"], ["ABP"])


# Headers that would take gigabytes or minutes if their numbers were believed.
LIES = {
    "signals": ("made 100000000 500 1000", None, "gives 100000000 signals, found 3 signal lines"),
    "samples": ("made 3 500 100000000000", None, r"made\.dat has 6000 bytes, expected 600000000000"),
    "skew": (None, "16:100000000", "a signal is skewed by 100000000 frames, made.dat has 1000"),
    "offset": (None, "16+100000000000", r"made\.dat has 6000 bytes, expected"),
    "samples per frame": (None, "16x100000000", r"made\.dat has 6000 bytes, expected"),
    "no number of samples": ("made 3 500", "16x100000000", r"made\.dat contains no samples"),
    "sampling rate": ("made 3 1e300 1000", None, None),
    "tiny sampling rate": ("made 3 1e-300 1000", None, None),
    "format": (None, "99999", None),
    "digits": ("made 3 500 " + "9" * 10_000, None, None),
    "digits of signals": ("made " + "9" * 10_000, None, None),
    "long line": (None, "16" + "0" * 100_000, None),
}


@pytest.mark.parametrize("lie", LIES)
def test_the_numbers_of_a_header_are_compared_with_its_files_before_they_are_used(lie, tmp_path):
    record_line, fmt, message = LIES[lie]
    path = write(tmp_path, np.zeros((3, 1000), int) + [[1], [2], [1]], "16")
    lines = path.with_suffix(".hea").read_text().splitlines()
    lines[0] = record_line or lines[0]
    if fmt is not None:
        lines[1:] = [line.replace(" 16 ", f" {fmt} ", 1) for line in lines[1:]]
    path.with_suffix(".hea").write_text("\n".join(lines))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(RecordingError, match=message) as caught:
        read_recording(path)
    assert len(str(caught.value)) < 500 and "made" in str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kilobytes


def test_silence_that_is_compressed_a_million_times_is_refused(tmp_path):
    """A FLAC file of some kilobytes can claim gigabytes of zeros."""
    soundfile = pytest.importorskip("soundfile")
    with soundfile.SoundFile(tmp_path / "made.dat", "w", 48000, 1, "PCM_16", format="FLAC") as file:
        for _ in range(20):
            file.write(np.zeros(2**20, np.int16))
    (tmp_path / "made.hea").write_text(f"made 1 500 {20 * 2**20}\nmade.dat 516 1000/mV 16 0 0 0 0 I\n")
    with pytest.raises(ValueError, match="more than an ECG has"):
        load_ecg(tmp_path / "made")


# Details


NAMES = [
    "mdc_ecg_lead_{}", "MDC_ECG_LEAD_{}", "ECG {}", "Lead {}", "ECG Lead {}", "lead_{}", " {} ", "ecg_{}", "ECG-{}",
    "EKG {}", "EKG lead {}",
]  # fmt: skip


@pytest.mark.parametrize("pattern", NAMES)
def test_spellings_of_lead_names(pattern, tmp_path):
    ecg = limb_ecg(5000)
    names = [pattern.format(lead) for lead in ("I", "II", "III")]
    write(tmp_path, np.rint(1000 * ecg).astype(int), "16", gain=1000, sig_name=[name.strip() for name in names])
    assert set(LEADS) - set(read_recording(tmp_path / "made").missing_leads) == {"I", "II", "III"}


@pytest.mark.parametrize(
    "name", ["RESP", "PLETH", "ABP", "SpO2", "Pleth L", "CVP", "Resp. Imp.", "vx", "EtCO2", "ART"]
)
def test_other_signals_beside_the_leads_are_dropped_and_named(name, tmp_path):
    write(tmp_path, np.rint(1000 * limb_ecg(5000)).astype(int), "16", gain=1000, sig_name=["I", "II", name])
    recording = read_recording(tmp_path / "made")
    assert recording.other_signals == (name,)
    assert set(LEADS) - set(recording.missing_leads) == {"I", "II"}


@pytest.mark.parametrize(
    "line",
    [
        "made 3 500 1000 99:99:99 99/99/9999",
        "made 3 500 1000 05-May-2020 09:49:17",
        "made 3 500 1000 2020-05-05T09:49:17",
        "made 3 500 1000 unknown",
        "folder/made 3 500 1000",
        "records500/00000/made 3 500 1000",
        "other_name 3 500 1000",
        "made.dat 3 500 1000",
        "made 3 500/500(0) 1000",
        "päth 3 500 1000",
    ],
)
def test_what_is_not_needed_in_a_record_line_may_have_any_form(line, tmp_path):
    path = write(tmp_path, np.rint(1000 * limb_ecg(1000)).astype(int), "16", gain=1000)
    lines = path.with_suffix(".hea").read_text().splitlines()
    path.with_suffix(".hea").write_text("\n".join([line, *lines[1:]]), encoding="utf-8")
    recording = read_recording(path)
    assert (recording.ecg.shape, recording.sampling_rate) == ((12, 1000), 500)


@pytest.mark.parametrize(
    "edit, message",
    [
        (lambda lines: [], "the file is empty"),
        (lambda lines: ["# only", "# comments"], "the file contains comments only"),
        (lambda lines: ["made 3 500 0", *lines[1:]], "gives 0 samples"),
        (lambda lines: ["made 4 500 1000", *lines[1:]], "gives 4 signals, found 3 signal lines"),
        (lambda lines: ["made 0 500 1000"], "names no signals"),
        (lambda lines: ["made three 500 1000", *lines[1:]], 'number of signals is "three", expected a whole number'),
        (lambda lines: ["made 3 0 1000", *lines[1:]], 'sampling rate "0" is not a positive number'),
        (lambda lines: ["made/2 3 500 2000", "first 1000", "second 1000"], "a record of several segments"),
    ],
)
def test_the_cause_of_a_header_that_cannot_be_read(edit, message, tmp_path):
    path = write(tmp_path, np.rint(1000 * limb_ecg(1000)).astype(int), "16", gain=1000)
    path.with_suffix(".hea").write_text("\n".join(edit(path.with_suffix(".hea").read_text().splitlines())))
    with pytest.raises(RecordingError, match=message):
        read_recording(path)


def test_reading_needs_no_wfdb(tmp_path):
    write(tmp_path, np.rint(1000 * limb_ecg(1000)).astype(int), "212", gain=1000)
    code = (
        "import sys; sys.modules['wfdb'] = None\n"
        f"from elm_hf.modeling.ecg_reading import load_ecg; print(load_ecg({str(tmp_path / 'made')!r})[0].shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "(3, 1000)", done.stderr
