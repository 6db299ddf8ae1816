"""Resampling of ECGs and filling of gaps."""

import numpy as np
import pytest
from scipy.signal import resample_poly

from elm_hf.modeling.ecg_resampling import fill_gaps, resample


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


def test_a_240_hz_tone_is_not_aliased_to_10_hz():
    resampled = resample(tone(240, 500, 5000), 500, 250)
    assert np.abs(resampled[:, 50:-50]).max() < 1e-3  # -60 dB


def test_cubic_is_the_published_method_with_aliasing():
    """A spline through a 240 Hz tone, at every second sample, is the tone -sin(2 pi 10 t) at full amplitude."""
    aliased = resample(tone(240, 500, 5000), 500, 250, method="cubic")
    np.testing.assert_allclose(aliased, -tone(10, 250, 2500), atol=1e-5)


def test_cubic_evaluates_the_spline_at_k_over_rate():
    time = np.arange(400) / 400
    cubic = lambda t: 3 * t**3 - 2 * t**2 + t  # noqa: E731
    resampled = resample(cubic(time)[None], 400, 250, method="cubic")
    np.testing.assert_allclose(resampled[0], cubic(np.arange(250) / 250), atol=1e-6)


def test_cubic_repeats_the_last_sample_after_the_end_of_the_input():
    resampled = resample(np.array([[0, 0, 0, 5.0]]), 100, 250, method="cubic")
    assert resampled.shape == (1, 10)
    assert resampled[0, 8:].tolist() == [5, 5]  # at 32 and 36 ms; the last input sample is at 30 ms


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
    away = np.r_[0:480, 770:2500]  # the low-pass uses 20 input samples on either side
    np.testing.assert_allclose(resampled[0, away], resample(signal, 500, 250)[0, away], atol=1e-5)


def test_a_sample_next_to_an_invalid_one_is_invalid_at_a_higher_rate():
    signal = np.zeros((1, 10))
    signal[0, 4] = np.nan
    resampled = resample(signal, 100, 200)  # samples 7, 8, 9 are at 3.5, 4 and 4.5
    assert np.flatnonzero(np.isnan(resampled[0])).tolist() == [7, 8, 9]


def test_a_missing_lead_stays_missing():
    resampled = resample(np.stack([np.full(500, np.nan), np.ones(500)]), 500, 250)
    assert np.isnan(resampled[0]).all() and (resampled[1] == 1).all()


def test_the_same_rate_gives_an_equal_copy():
    signal = tone(5, 250, 100).astype(np.float32)
    same = resample(signal, 250, 250.0)
    np.testing.assert_array_equal(same, signal)
    assert not np.shares_memory(same, signal)


def test_invalid_arguments_of_resampling_are_refused():
    with pytest.raises(ValueError, match="sampling rate 0 Hz"):
        resample(np.zeros((1, 10)), 0, 250)
    with pytest.raises(ValueError, match=r"shape \(12, 1\) cannot be resampled"):
        resample(np.zeros((12, 1)), 500, 250)
    with pytest.raises(ValueError, match='method "linear" is not one of polyphase, cubic'):
        resample(np.zeros((1, 10)), 500, 250, method="linear")


# gaps


def test_short_gaps_are_interpolated_and_long_gaps_are_kept():
    ramp = np.arange(1000, dtype=np.float32) / 100
    ecg = np.stack([ramp, ramp])
    ecg[0, 100:150] = np.nan  # 0.1 s at 500 Hz
    ecg[0, 300:351] = np.nan  # 0.102 s
    filled = fill_gaps(ecg, 500)
    assert np.flatnonzero(np.isnan(filled[0])).tolist() == list(range(300, 351))
    np.testing.assert_allclose(filled[0, 90:160], ramp[90:160], atol=1e-5)
    np.testing.assert_array_equal(filled[1], ramp)
    assert np.isnan(ecg[0, 100])  # the input is not changed


def test_a_short_gap_at_an_end_takes_the_nearest_sample_and_a_missing_lead_stays_missing():
    ecg = np.array([[np.nan, 2, 3, np.nan], [np.nan] * 4])
    filled = fill_gaps(ecg, 250)
    assert filled[0].tolist() == [2, 2, 3, 3] and np.isnan(filled[1]).all()


@pytest.mark.parametrize("rates", [(500, 250), (400, 250), (360, 250), (250, 500), (257, 250), (100, 250)])
@pytest.mark.parametrize("samples", [7, 30, 4999])
def test_resampling_equals_the_polyphase_filter_of_scipy(rates, samples):
    signal = np.cumsum(np.random.default_rng(0).normal(0, 0.05, (2, samples)), axis=1).astype(np.float32)
    offset = signal.mean(axis=1, keepdims=True, dtype=np.float64)
    common = np.gcd(*rates)
    expected = resample_poly(
        signal - offset, rates[1] // common, rates[0] // common, axis=1, window=("kaiser", 8.0), padtype="antireflect"
    )
    np.testing.assert_allclose(resample(signal, *rates), expected + offset, atol=1e-6)


@pytest.mark.parametrize("rate", [0, -250, 1e-5, 1e9, np.nan, np.inf])
def test_an_absurd_sampling_rate_is_refused(rate):
    with pytest.raises(ValueError, match="not a number from 1 to 100,000"):
        resample(np.zeros((2, 100), np.float32), rate, 250)
