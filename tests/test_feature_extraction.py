"""The feature extractor's settings that published encoders need: filter, crop, FFT resampling, epsilon."""

import numpy as np
import pytest
import scipy.signal

from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.modeling.feature_extraction_ecg import EcgFeatureExtractor


def prepared(ecg, sampling_rate=250, keep_flat=False, **settings) -> np.ndarray:
    settings = {"num_samples": 2250, "normalization": "none"} | settings
    return EcgFeatureExtractor(**settings)(ecg, sampling_rate, keep_flat=keep_flat)["ecg_values"][0]


def sine(frequency: float, time: np.ndarray) -> np.ndarray:
    return np.tile(np.sin(2 * np.pi * frequency * time), (12, 1)).astype(np.float32)


@pytest.mark.parametrize("frequency, gain", [(0.05, 0.0), (0.67, 0.5), (10, 1.0), (40, 0.5), (90, 0.0)])
def test_the_band_pass_keeps_what_lies_between(frequency, gain):
    # Forwards and backwards, a Butterworth filter halves the amplitude at its cut-off and shifts nothing.
    ecg = sine(frequency, np.arange(15000) / 250)
    filtered = prepared(ecg, num_samples=15000, band_pass=(0.67, 40.0))
    middle = slice(5000, 10000)
    assert np.abs(filtered[3, middle] - gain * ecg[3, middle]).max() < 0.002


def test_the_filter_sees_what_the_crop_leaves():
    ecg = np.random.default_rng(0).normal(0, 0.3, (12, 2500)).astype(np.float32)
    changed = ecg.copy()
    changed[:, 2250:] += 5  # beyond the crop
    assert np.array_equal(prepared(ecg, band_pass=(0.67, 40.0)), prepared(changed, band_pass=(0.67, 40.0)))


def test_the_crop_is_the_start_or_the_centre():
    ramp = np.tile(np.arange(2500, dtype=np.float32) / 1000, (12, 1))
    assert prepared(ramp)[0, [0, -1]].tolist() == pytest.approx([0, 2.249])
    assert prepared(ramp, crop="center")[0, [0, -1]].tolist() == pytest.approx([0.125, 2.374])


def test_fft_resampling_is_scipys_of_the_whole_ecg():
    ecg = np.random.default_rng(1).normal(0, 0.3, (12, 5000)).astype(np.float32)
    ecg[4] = np.nan
    extractor = EcgFeatureExtractor(num_samples=2250, normalization="none", resampling="fft")
    outputs = extractor(ecg, sampling_rate=500)
    expected = scipy.signal.resample(ecg.astype(np.float64), 2500, axis=1)[:, :2250]
    assert outputs["ecg_lead_mask"][0].tolist() == [lead != "aVL" for lead in LEADS]
    present = outputs["ecg_lead_mask"][0]
    assert np.allclose(outputs["ecg_values"][0, present], expected[present], atol=1e-6)
    assert not outputs["ecg_values"][0, 4].any()


def test_z_score_is_joint_over_the_leads_that_are_present():
    ecg = np.random.default_rng(2).normal(0.2, [[0.1 + row] for row in range(12)], (12, 2250)).astype(np.float32)
    outputs = EcgFeatureExtractor(num_samples=2250, normalization="z_score", band_pass=(0.67, 40.0))(
        ecg[:3], sampling_rate=250, lead_names=["V3", "II", "I"]
    )
    mask, values = outputs["ecg_lead_mask"][0], outputs["ecg_values"][0]
    assert [lead for lead, present in zip(LEADS, mask) if present] == ["I", "II", "V3"]
    assert abs(values[mask].mean()) < 1e-5 and abs((values[mask] ** 2).mean() - 1) < 1e-5
    assert values[0].std() > 1.5 * values[1].std() > 2 * values[8].std()  # one scale for all
    assert not values[~mask].any()


@pytest.mark.parametrize("band_pass", [None, (0.67, 40.0)])
def test_a_flat_ecg_that_is_kept_gives_zeros(band_pass):
    flat = np.full((12, 2250), 0.3, np.float32)
    values = prepared(flat, normalization="z_score", band_pass=band_pass, keep_flat=True)
    assert not values.any()


def test_the_epsilon_of_min_max():
    ecg = np.zeros((12, 2250), np.float32)
    ecg[0, 0] = 1
    assert prepared(ecg, normalization="min_max", min_max_epsilon=0.25, keep_flat=True).max() == pytest.approx(0.8)
    assert prepared(ecg, normalization="min_max", keep_flat=True).max() == pytest.approx(1 / (1 + 1e-6), abs=1e-7)


def test_settings_are_saved(tmp_path):
    settings = {"resampling": "fft", "crop": "center", "band_pass": [0.5, 45.0], "min_max_epsilon": 1e-8}
    EcgFeatureExtractor(**settings).save_pretrained(tmp_path)
    loaded = EcgFeatureExtractor.from_pretrained(tmp_path)
    assert {name: getattr(loaded, name) for name in settings} == settings


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"crop": "end"}, 'crop "end" is not one of start, center'),
        ({"resampling": "nearest"}, 'resampling "nearest" is not one of polyphase, cubic, fft, linear'),
        ({"band_pass": [40, 0.67]}, r"band_pass=\[40, 0.67\] must be two frequencies in Hz"),
        ({"band_pass": [0.5]}, r"band_pass=\[0.5\] must be two"),
        ({"band_pass": [0.5, 125]}, r"half the sampling rate \(125\)"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        EcgFeatureExtractor(**settings)


def test_millivolt_keeps_the_voltage_and_a_spike_does_not_change_the_rest():
    """Left ventricular hypertrophy is a matter of millivolts: the same ECG times 0.4 is another input."""
    ecg = np.random.default_rng(0).normal(0, 0.3, (12, 500)).astype(np.float32)
    np.testing.assert_allclose(
        prepared(0.4 * ecg, num_samples=500, normalization="millivolt"),
        0.4 * prepared(ecg, num_samples=500, normalization="millivolt"),
        rtol=1e-6,
    )
    np.testing.assert_array_equal(prepared(ecg, num_samples=500, normalization="millivolt"), ecg)
    spiky = ecg.copy()
    spiky[3, 100] = 20
    expected = spiky.copy()
    expected[3, 100] = 10
    np.testing.assert_array_equal(prepared(spiky, num_samples=500, normalization="millivolt"), expected)


def test_min_max_loses_the_voltage():
    ecg = np.random.default_rng(0).normal(0, 0.3, (12, 500)).astype(np.float32)
    scaled = prepared(0.4 * ecg, num_samples=500, normalization="min_max")
    np.testing.assert_allclose(scaled, prepared(ecg, num_samples=500, normalization="min_max"), atol=1e-5)


@pytest.mark.filterwarnings("ignore:ECG")
def test_an_ecg_that_occurs_several_times_is_judged_once(monkeypatch):
    ecgs = np.random.default_rng(0).normal(0, 0.3, (2, 12, 500)).astype(np.float32)
    ecgs[1, 3] = np.nan
    several = [ecgs[0], ecgs[1], ecgs[0], ecgs[1], ecgs[1].copy(), ecgs[1][:, ::-1]]  # views of the same memory
    extractor = EcgFeatureExtractor(num_samples=250)
    alone = [extractor(one, 250, judge_signal=True) for one in several]
    read, original = [], extractor._read
    monkeypatch.setattr(extractor, "_read", lambda *given, **more: read.append(given) or original(*given, **more))
    together = extractor(several, 250, judge_signal=True)
    assert len(read) == 4
    for name in ("ecg_values", "ecg_lead_mask"):
        assert np.array_equal(together[name], np.concatenate([one[name] for one in alone]))
    read.clear()
    extractor([ecgs[0]] * 3, [250, 250, 500], judge_signal=True)
    extractor([ecgs[0]] * 3, 250, keep_flat=[True, False, True], judge_signal=True)
    assert len(read) == 4  # another rate or setting is another reading
    with pytest.raises(ValueError, match="^ECG 3 of 3: "):
        extractor([ecgs[0], ecgs[0], ecgs[0][:5]], 250, judge_signal=True)
