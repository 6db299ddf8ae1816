"""From WFDB records (real ones and ones written by the tests) to segments of int16 microvolt at 250 Hz."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import wfdb

from elm_hf.ecg.recording import RecordingError, make_recording, read_recording, segments
from elm_hf.modeling.ecg_leads import LEADS


def smooth_ecg(seconds: float = 10, sampling_rate: float = 500) -> np.ndarray:
    """Twelve different leads (12, samples) in mV below 5 Hz that obey the limb-lead identities."""
    time = np.arange(round(seconds * sampling_rate)) / sampling_rate
    first, second = np.sin(7 * time), 1.2 * np.cos(5 * time)
    limbs = [first, second, second - first, -(first + second) / 2, first - second / 2, second - first / 2]
    return np.stack(limbs + [0.2 * (lead + 1) * np.sin((8 + lead) * time) for lead in range(6)])


def write_record(folder: Path, ecg: np.ndarray, lead_names=LEADS, unit="mV", sampling_rate=500, gain=1000.0) -> Path:
    """Write `ecg` (leads, samples) as a WFDB record, NaN as invalid samples; returns its path without suffix."""
    count = len(lead_names)
    wfdb.wrsamp(
        "made",
        fs=sampling_rate,
        units=[unit] * count,
        sig_name=list(lead_names),
        p_signal=ecg.T.copy(),
        fmt=["16"] * count,
        adc_gain=[gain] * count,
        baseline=[0] * count,
        write_dir=str(folder),
    )
    return folder / "made"


def only_segment(path: Path, seconds: float = 10):
    (segment,) = segments(read_recording(path), seconds)
    return segment


def reason_of(path: Path, seconds: float = 10) -> tuple[str, str]:
    with pytest.raises(RecordingError) as caught:
        segments(read_recording(path), seconds)
    return caught.value.reason, str(caught.value)


# the signal


def test_a_segment_is_the_signal_at_250_hz_in_microvolt(tmp_path):
    segment = only_segment(write_record(tmp_path, smooth_ecg()))
    assert segment.ecg.shape == (12, 2500) and segment.ecg.dtype == np.int16
    assert (segment.index, segment.start_s, segment.missing_leads) == (0, 0, ())
    assert np.abs(segment.ecg - 1000 * smooth_ecg(10, 250)).max() <= 2


@pytest.mark.parametrize(
    "spelling",
    [str.upper, str.lower, lambda lead: {"I": "DI", "II": "DII", "III": "DIII"}.get(lead, lead)],
    ids=["upper", "lower", "DI"],
)
def test_shuffled_leads_of_any_spelling_are_put_in_order(tmp_path, spelling):
    order = np.random.default_rng(0).permutation(12)
    path = write_record(tmp_path, smooth_ecg()[order], [spelling(LEADS[lead]) for lead in order])
    assert np.abs(only_segment(path).ecg - 1000 * smooth_ecg(10, 250)).max() <= 2


def test_a_record_in_microvolt_gives_the_same_segment(tmp_path):
    segment = only_segment(write_record(tmp_path, 1000 * smooth_ecg(), unit="uV", gain=1.0))
    assert np.abs(segment.ecg - 1000 * smooth_ecg(10, 250)).max() <= 2


def test_the_frank_leads_are_dropped(tmp_path):
    path = write_record(tmp_path, np.vstack([smooth_ecg(), np.ones((3, 5000))]), [*LEADS, "vx", "vy", "vz"])
    segment = only_segment(path)
    assert segment.ecg.shape == (12, 2500) and segment.missing_leads == ()


def test_an_array_makes_the_same_recording_as_its_file(tmp_path):
    from_file = read_recording(write_record(tmp_path, smooth_ecg()))
    from_array = make_recording(smooth_ecg(), 500, LEADS)
    np.testing.assert_allclose(from_array.ecg, from_file.ecg, atol=5.1e-4)
    assert (from_array.sampling_rate, from_array.missing_leads) == (500, ())


# cutting


@pytest.mark.parametrize(
    "seconds, starts", [(2, [0, 2, 4, 6, 8, 10]), (5, [0, 5]), (10, [0]), (0.5, np.arange(26) / 2)]
)
def test_a_recording_is_cut_without_overlap_and_the_remainder_is_dropped(tmp_path, seconds, starts):
    recording = read_recording(write_record(tmp_path, smooth_ecg(13.3)))
    found = segments(recording, seconds)
    assert [segment.start_s for segment in found] == list(starts)
    assert [segment.index for segment in found] == list(range(len(starts)))
    whole = 1000 * smooth_ecg(13.3, 250)
    for segment in found:
        start = round(segment.start_s * 250)
        assert np.abs(segment.ecg - whole[:, start : start + round(seconds * 250)]).max() <= 2


def test_a_length_that_is_not_a_whole_number_of_samples_is_refused():
    recording = make_recording(smooth_ecg(), 500, LEADS)
    for seconds in (0, 0.001, -2, 1.0021):
        with pytest.raises(ValueError, match="not a positive whole number of samples"):
            segments(recording, seconds)


def test_the_error_for_a_short_recording_gives_both_lengths(tmp_path):
    reason, message = reason_of(write_record(tmp_path, smooth_ecg(6)))
    assert reason == "too short"
    assert "made: 6 s long, shorter than one segment of 10 s" in message


@pytest.mark.parametrize("samples, usable", [(0, False), (1, False), (4998, False), (4999, True), (5000, True)])
def test_a_recording_is_long_enough_when_its_last_sample_at_250_hz_exists(samples, usable):
    """Sample 2499 at 250 Hz is sample 4998 at 500 Hz, the 4999th."""
    recording = make_recording(smooth_ecg()[:, :samples], 500, LEADS)
    if usable:
        assert len(segments(recording, 10)) == 1
    else:
        with pytest.raises(RecordingError, match="shorter than one segment of 10 s"):
            segments(recording, 10)


# invalid samples


def test_a_gap_of_50_ms_is_interpolated(tmp_path):
    ecg = smooth_ecg()
    ecg[6] = np.linspace(0, 1, 5000)
    expected = np.rint(1000 * ecg[6, ::2])
    ecg[6, 2000:2025] = np.nan
    segment = only_segment(write_record(tmp_path, ecg))
    assert segment.missing_leads == ()
    assert np.abs(segment.ecg[6] - expected).max() <= 1


def test_a_gap_of_half_a_second_makes_the_lead_missing_in_its_segment_only(tmp_path):
    ecg = smooth_ecg()
    ecg[6, 2100:2350] = np.nan  # 4.2 s to 4.7 s
    found = segments(read_recording(write_record(tmp_path, ecg)), 2)
    assert [segment.missing_leads for segment in found] == [(), (), ("V1",), (), ()]
    assert (found[2].ecg[6] == 0).all()
    expected = 1000 * smooth_ecg(10, 250)
    assert np.abs(found[2].ecg[7:] - expected[7:, 1000:1500]).max() <= 2
    assert np.abs(found[1].ecg[6] - expected[6, 500:1000]).max() <= 2


def test_a_flat_lead_is_missing(tmp_path):
    ecg = smooth_ecg()
    ecg[7] = 0.25
    recording = read_recording(write_record(tmp_path, ecg))
    assert recording.missing_leads == ("V2",) and np.isnan(recording.ecg[7]).all()
    (segment,) = segments(recording, 10)
    assert segment.missing_leads == ("V2",) and (segment.ecg[7] == 0).all()


def test_a_lead_that_is_flat_in_one_segment_is_missing_there(tmp_path):
    ecg = smooth_ecg()
    ecg[7, 2000:3000] = 0.25  # 4 s to 6 s, with a step at both ends that the low-pass spreads
    recording = read_recording(write_record(tmp_path, ecg))
    assert recording.missing_leads == ()
    assert [segment.missing_leads for segment in segments(recording, 2)] == [(), (), ("V2",), (), ()]


def test_leads_that_are_not_in_the_file_are_missing(tmp_path):
    segment = only_segment(write_record(tmp_path, smooth_ecg()[[1, 8]], ["II", "V3"]))
    assert segment.missing_leads == tuple(lead for lead in LEADS if lead not in ("II", "V3"))
    assert not segment.ecg[[0, 2, 3]].any() and segment.ecg[[1, 8]].any(axis=1).all()


def test_values_that_int16_microvolt_cannot_represent_are_invalid():
    ecg = smooth_ecg()
    ecg[6, 1000:1010] = 40  # 20 ms: a short gap
    ecg[7, 1000:1100] = -40  # 0.2 s: a long one
    ecg[8] = 32.7 * np.sign(ecg[8])  # fits, but the low-pass overshoots at the steps
    (segment,) = segments(make_recording(ecg, 500, LEADS), 10)
    assert segment.missing_leads == ("V2", "V3")
    assert np.abs(segment.ecg[6] - 1000 * smooth_ecg(10, 250)[6]).max() <= 5


def test_a_segment_without_a_valid_lead_is_dropped_and_the_others_keep_their_index():
    ecg = smooth_ecg()
    ecg[:, 1200:1400] = np.nan
    found = segments(make_recording(ecg, 500, LEADS), 2)
    assert [(segment.index, segment.start_s) for segment in found] == [(0, 0), (2, 4), (3, 6), (4, 8)]


def test_a_recording_without_a_usable_lead_is_refused(tmp_path):
    reason, message = reason_of(write_record(tmp_path, np.full((12, 5000), 0.5)))
    assert reason == "no usable lead" and "made: every lead is missing" in message


# recordings that cannot be used


def test_exchanged_limb_leads_are_refused_by_name(tmp_path):
    names = ["I", "II", "III", "aVL", "aVR", *LEADS[5:]]
    reason, message = reason_of(write_record(tmp_path, smooth_ecg(), names))
    assert reason == "limb leads disagree"
    assert "made: the limb leads disagree: aVR is not -(I + II)/2" in message and "aVL is not I - II/2" in message


@pytest.mark.parametrize("rate", [1e-5, 2, 49, 20_001, 1e9, float("nan")])
def test_an_absurd_sampling_rate_is_refused(rate):
    """A sampling interval used as the rate would stretch the ECG; other values would exhaust the memory."""
    with pytest.raises(RecordingError, match="ecg7: a sampling rate of .* Hz, expected 50 to 20000 Hz") as caught:
        make_recording(np.zeros((12, 500)), rate, LEADS, name="ecg7")
    assert caught.value.reason == "absurd sampling rate"


def test_an_unknown_lead_is_refused_by_name(tmp_path):
    reason, message = reason_of(write_record(tmp_path, smooth_ecg(), [*LEADS[:11], "V7"]))
    assert reason == "unknown lead" and 'made: lead "V7" is not one of I, II, III' in message


def test_a_repeated_lead_is_refused_by_name(tmp_path):
    reason, message = reason_of(write_record(tmp_path, smooth_ecg(), [*LEADS[:11], "v1"]))
    assert reason == "repeated lead" and 'made: lead "V1" occurs twice in the ECG' in message


def test_the_error_for_a_missing_signal_file_gives_its_path(tmp_path):
    path = write_record(tmp_path, smooth_ecg())
    path.with_suffix(".dat").unlink()
    reason, message = reason_of(path)
    assert reason == "missing file" and "made.dat: no such file" in message


def test_the_error_for_an_invalid_header_gives_its_path(tmp_path):
    path = write_record(tmp_path, smooth_ecg())
    path.with_suffix(".hea").write_bytes(bytes(range(1, 256)))
    reason, message = reason_of(path)
    assert reason == "unreadable header" and "made.hea: " in message


def test_the_number_of_lead_names_must_match_the_rows():
    with pytest.raises(ValueError, match=r"exam 7: 12 lead names for an ECG of shape \(3, 100\)"):
        make_recording(np.zeros((3, 100)), 500, LEADS, name="exam 7")


def test_a_pickled_error_keeps_its_reason():
    error = pickle.loads(pickle.dumps(RecordingError("too short", "x: 2 s long")))
    assert (error.reason, str(error)) == ("too short", "x: 2 s long")


# real recordings


def test_every_real_record_is_read(shared_data):
    missing = {path.stem: read_recording(path).missing_leads for path in shared_data.rglob("*.hea")}
    assert len(missing) == 35
    flat = ("V2", "V4", "V6")
    assert {name: leads for name, leads in missing.items() if leads} == {
        "JS20004": flat,
        "JS20008": flat,
        "49990063": ("V6",),
    }


def test_a_ptb_xl_segment_holds_the_file_at_250_hz(shared_data):
    """The spectrum below 90 Hz equals that of the .dat file decoded by hand."""
    path = shared_data / "ptb_xl/records500/06000/06000_hr"
    by_hand = np.fromfile(path.with_suffix(".dat"), dtype="<i2").reshape(5000, 12).T
    after, before = np.fft.rfft(only_segment(path).ecg), np.fft.rfft(by_hand)
    assert np.abs(after[:, 1:900] / 2500 - before[:, 1:900] / 5000).max() < 0.3  # microvolt, leads reach 1000


def test_mimic_leads_are_in_the_standard_order(shared_data):
    """The files have aVF before aVL and 200 units per mV."""
    path = shared_data / "mimic_iv_ecg/files/p1099/p10990001/s49990011/49990011"
    raw = np.fromfile(path.with_suffix(".dat"), dtype="<i2").reshape(5000, 12).T / 200
    ecg = read_recording(path).ecg
    np.testing.assert_allclose(ecg[LEADS.index("aVL")], raw[5], atol=1e-6)
    np.testing.assert_allclose(ecg[LEADS.index("aVF")], raw[4], atol=1e-6)
    np.testing.assert_allclose(ecg[LEADS.index("aVL")], (raw[0] - raw[2]) / 2, atol=0.0051)
    np.testing.assert_allclose(ecg[LEADS.index("aVF")], (raw[1] + raw[2]) / 2, atol=0.0051)


def test_the_gaps_of_a_mimic_recording_affect_only_their_segments(shared_data):
    """The gaps are 0.4 s in all leads from 2.4 s and 1 s in V4 to V6 from 6 s."""
    recording = read_recording(shared_data / "mimic_iv_ecg/files/p1099/p10990001/s49990027/49990027")
    found = {segment.index: segment.missing_leads for segment in segments(recording, 2)}
    assert found == {0: (), 2: (), 3: ("V4", "V5", "V6"), 4: ()}
    with pytest.raises(RecordingError, match="every lead is missing"):
        segments(recording, 10)


@pytest.mark.parametrize("name, count", [("A1980", 1), ("A1985", 1), ("A1983", 1), ("A1986", 4)])
def test_cpsc_recordings_give_as_many_segments_as_fit(shared_data, name, count):
    """They last 10 s, 11.034 s, 15 s and 43 s."""
    assert len(segments(read_recording(shared_data / f"cpsc/cpsc_2018/g1/{name}"), 10)) == count


def test_a_100_hz_record_gives_a_full_segment(shared_data):
    segment = only_segment(shared_data / "ptb_xl/records100/00000/00001_lr.hea")
    raw = np.fromfile(shared_data / "ptb_xl/records100/00000/00001_lr.dat", dtype="<i2").reshape(1000, 12).T
    assert segment.ecg.shape == (12, 2500)
    # every fifth output sample coincides with every second input sample; the low-pass at 50 Hz hardly changes it
    assert np.sqrt(np.mean((segment.ecg[:, ::5] - raw[:, ::2]) ** 2.0)) < 0.05 * raw.std()
