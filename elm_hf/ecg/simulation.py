"""Simulated 12-lead ECGs with known findings: waves at each beat, atrial waves between the beats, and noise."""

from __future__ import annotations

import numpy as np

from elm_hf.ecg.simulated_findings import Findings
from elm_hf.ecg.simulated_noise import lead_noise
from elm_hf.ecg.simulated_waves import Waves, beat_waves, bump
from elm_hf.modeling.ecg_leads import LIMB_LEAD_IDENTITIES, SAMPLING_RATE


# Flutter waves per minute; the number of flutter waves per QRS is the one that comes closest to it.
_FLUTTER_PER_MINUTE = 270
# Amplitudes in I, II, V1 ... V6 relative to the lead with the largest: flutter waves are largest in the inferior
# leads and, upright, in V1.
_FLUTTER_LEADS = np.array([0.15, -1.0, 0.6, 0.35, 0.15, 0.1, 0.1, 0.1])
# Sawtooth: a slow descent and a fast rise, as amplitudes and phases of harmonics.
_SAWTOOTH = ((1.0, 0.0), (0.42, 0.3), (0.2, 0.6), (0.08, 0.9))


def simulate_ecg(
    findings: Findings, rng: np.random.Generator, seconds: float = 10.0, sampling_rate: int = SAMPLING_RATE
) -> np.ndarray:
    """
    Simulate one 12-lead ECG with the given findings.

    Each beat is a sum of bumps (`elm_hf.ecg.simulated_waves`), similar to the sum of Gaussians of McSharry et
    al. 2003 and Sameni et al. 2007. I, II and V1 ... V6 are simulated; III, aVR, aVL and aVF are computed from I and
    II, so that the limb-lead identities hold.

    Args:
        findings: findings of the ECG.
        rng: random generator for everything that the findings do not determine. The same state gives the same ECG, bit
            for bit.
        seconds: length in seconds.
        sampling_rate: samples per second.

    Returns:
        `(12, samples)` float32 millivolt, leads in the order of `LEADS`.
    """
    samples = round(seconds * sampling_rate)
    time = np.arange(samples, dtype=np.float32) / sampling_rate
    onsets, atrial_s = qrs_onsets(findings, rng, seconds)
    independent = beats(findings, onsets, rng, samples, sampling_rate)
    if findings.rhythm == "atrial fibrillation":
        independent += fibrillation_waves(rng, time)
    if findings.rhythm == "atrial flutter":
        independent += _flutter(rng, time - onsets[0], atrial_s)
    independent += lead_noise(findings.noise, rng, samples, sampling_rate)
    return twelve_leads(independent)


def beats(
    findings: Findings,
    onsets: np.ndarray,
    rng: np.random.Generator,
    samples: int,
    sampling_rate: int,
    start_s: float = 0.0,
) -> np.ndarray:
    """The beats in I, II, V1 ... V6 `(8, samples)` from `start_s` on, with QRS onsets at the times `onsets` in seconds."""
    # Breathing and filling change the size of a beat by a few percent.
    gains = 1 + 0.03 * np.sin(1.7 * onsets + rng.uniform(0, 2 * np.pi)) + 0.015 * rng.standard_normal(len(onsets))
    waves = beat_waves(findings)
    return (waves.leads @ wave_trains(onsets - start_s, gains, waves, samples, sampling_rate)).astype(np.float32)


def twelve_leads(independent: np.ndarray) -> np.ndarray:
    """The 12 leads `(12, samples)` from I, II, V1 ... V6 `(8, samples)`."""
    lead_i, lead_ii = independent[:2]
    others = [compute(lead_i, lead_ii) for _, _, compute in LIMB_LEAD_IDENTITIES]
    return np.concatenate([[lead_i, lead_ii, *others], independent[2:]])


def qrs_onsets(findings: Findings, rng: np.random.Generator, seconds: float) -> tuple[np.ndarray, float]:
    """
    Times of the QRS onsets in seconds, with one beat before the record and two or more after it, and the period of the
    flutter waves. The mean of the intervals inside the record is exactly the labelled one.
    """
    mean = 60 / findings.heart_rate
    number = int(seconds / mean) + 4
    intervals, waves_per_beat = _relative_intervals(findings, rng, number)
    first = rng.uniform(0, intervals[0]) * mean
    inside = intervals[1 : 1 + int((seconds - first) / mean)]
    if len(inside):
        intervals = intervals / inside.mean()
        waves_per_beat *= inside.mean()
    return first + mean * np.concatenate([[-intervals[0], 0.0], np.cumsum(intervals[1:])]), mean / waves_per_beat


def _relative_intervals(findings: Findings, rng: np.random.Generator, number: int) -> tuple[np.ndarray, float]:
    """RR intervals relative to their mean, and the number of flutter waves in an interval of 1."""
    if findings.rhythm == "atrial fibrillation":
        # Irregular, but never so early that QRS falls into the T wave.
        shortest = (findings.qt_ms + 20) / 60_000 * findings.heart_rate
        return np.exp(rng.uniform(0.18, 0.3) * rng.standard_normal(number)).clip(min(shortest, 0.9), 1.8), 1.0
    if findings.rhythm == "atrial flutter":
        ratio = max(2, round(_FLUTTER_PER_MINUTE / findings.heart_rate))
        waves = np.full(number, ratio)
        shortest_s = (ratio - 1) / ratio * 60 / findings.heart_rate
        if rng.random() < 0.5 and shortest_s > findings.qt_ms / 1000 + 0.1:  # a block that varies from beat to beat
            waves = ratio + rng.integers(-1, 2, number)
        return waves / ratio, float(ratio)
    # Breathing changes the rate, in a third of the patients visibly (sinus arrhythmia).
    size = rng.uniform(0.03, 0.09) if rng.random() < 0.33 else rng.uniform(0.005, 0.03)
    phase = 60 / findings.heart_rate * np.arange(number) * rng.uniform(1.2, 1.9) + rng.uniform(0, 2 * np.pi)
    return 1 + size * np.sqrt(2) * np.sin(phase) + 0.01 * rng.standard_normal(number), 1.0


def wave_trains(onsets: np.ndarray, gains: np.ndarray, waves: Waves, samples: int, sampling_rate: int) -> np.ndarray:
    """
    Repeat each wave at each beat, with the gain of the beat as its height: `(waves, samples)`.

    Each wave is computed between its start and its end only, all of them at once.
    """
    rises, falls = waves.rises * sampling_rate, waves.falls * sampling_rate
    reach = int(np.ceil(max(rises.max(), falls.max()))) + 1
    centre = (onsets[:, None] + waves.centres) * sampling_rate
    nearest = np.rint(centre).astype(np.int64)
    offsets = np.arange(-reach, reach + 1)
    distance = offsets + (nearest - centre)[..., None]
    distance /= np.where(distance < 0, -rises[:, None], falls[:, None])
    bumps = gains[:, None, None] * bump(distance)
    # Samples outside the record are added to a margin of one sample on either side, which is cut off.
    index = (nearest[..., None] + offsets + 1).clip(0, samples + 1)
    index += np.arange(len(rises))[:, None] * (samples + 2)
    trains = np.bincount(index.ravel(), bumps.ravel(), minlength=len(rises) * (samples + 2))
    return trains.reshape(len(rises), samples + 2)[:, 1:-1]


def fibrillation_waves(rng: np.random.Generator, time: np.ndarray) -> np.ndarray:
    """
    Fibrillatory waves in I, II, V1 ... V6: several waves of 4 to 9 Hz without a common period, whose rates and sizes
    vary. Each has its own size in each lead. Their usual height from peak to peak in V1 is 0.05 to 0.2 mV.
    """
    number = rng.integers(3, 6)
    size = rng.uniform(0.05, 0.2) / 1.85 / np.sqrt(number)  # 1.85: height of such a sum relative to its waves
    rates = (rng.uniform(5, 8) + rng.normal(0, 0.8, (number, 1))).clip(4, 9)
    phase, slow, swell = rng.uniform(0, 2 * np.pi, (3, number, 1))
    phases = 2 * np.pi * rates * time + 1.2 * np.sin(rng.uniform(1, 3, (number, 1)) * time + slow) + phase
    waves = (1 + 0.5 * np.sin(rng.uniform(0.8, 2.5, (number, 1)) * time + swell)) * np.sin(phases)
    typical = np.array([0.35, 0.6, 1.0, 0.7, 0.45, 0.35, 0.3, 0.3])
    leads = size * typical[:, None] * rng.uniform(0.5, 1.2, (8, number)) * rng.choice((-1.0, 1.0), (8, number))
    return (leads @ waves).astype(np.float32)


def _flutter(rng: np.random.Generator, since_qrs: np.ndarray, period_s: float) -> np.ndarray:
    """Flutter waves in I, II, V1 ... V6: a sawtooth with a fixed delay to QRS, of 0.1 to 0.3 mV."""
    phase = 2 * np.pi * (since_qrs / period_s + rng.random())
    sawtooth = sum(size * np.sin(k * phase + shift) for k, (size, shift) in enumerate(_SAWTOOTH, start=1))
    leads = rng.uniform(0.07, 0.16) * _FLUTTER_LEADS * rng.uniform(0.75, 1.25, 8) * rng.choice((-1, 1))
    return np.outer(leads, sawtooth).astype(np.float32)
