"""Recorded ECGs with another rhythm: P waves removed, beats at other times, fibrillatory waves added."""

from dataclasses import dataclass

import numpy as np

from elm_hf.ecg.changed_recordings import INDEPENDENT
from elm_hf.ecg.simulated_waves import bump
from elm_hf.ecg.simulation import fibrillation_waves, twelve_leads
from elm_hf.modeling.ecg_delineation import BEFORE, IRREGULAR, RATE, delineate, irregularity
from elm_hf.modeling.ecg_resampling import resample


# A P wave is removed from this long before its onset on.
_P_MARGIN_S = 0.03
# The P wave of a beat may be this much larger or smaller than the mean one, and earlier or later.
_P_GAINS, _P_SHIFT_S = (0.5, 1.5), 0.02
# P, QRS and T are moved together, with this much of the signal around them.
_AROUND_S = 0.02
# The shortest and longest time from T to the next P wave, as a share of the recorded one.
_LEAST_TP, _MOST_TP = 0.1, 8.0
_HEAD_S = 0.1
# Spread of the logarithms of RR intervals in an irregular rhythm, as in simulated atrial fibrillation.
_SPREAD = 0.26


@dataclass(frozen=True)
class Beats:
    """
    The beats of a recorded ECG in a regular rhythm, all of one shape, with the times of their waves in samples.

    Attributes:
        p_starts, qrs_starts, qrs_ends, t_ends: `(beats,)`.
        sampling_rate: in Hz.
    """

    p_starts: np.ndarray
    qrs_starts: np.ndarray
    qrs_ends: np.ndarray
    t_ends: np.ndarray
    sampling_rate: float

    @property
    def mean_rr_s(self) -> float:
        """The mean RR interval in seconds."""
        return float(np.diff(self.qrs_starts).mean() / self.sampling_rate)


def find_beats(ecg: np.ndarray, sampling_rate: float) -> Beats | None:
    """
    The beats of an ECG whose rhythm can be changed: regular, all of one shape, with P and T waves that do not overlap.
    None for any other ECG.

    Args:
        ecg: `(12, samples)` in mV, all leads present.
        sampling_rate: in Hz.
    """
    found = delineate(resample(ecg.astype(np.float64), sampling_rate, RATE), INDEPENDENT)
    if found is None or found.qrs is None or found.p is None or found.t is None or len(found.centres) < 4:
        return None
    if found.kinds.any() or not irregularity(found.centres) <= IRREGULAR or len(found.spikes):
        return None
    starts = (found.centres - BEFORE)[:, None] + (found.p[0], *found.qrs, found.t[1])
    beats = Beats(*np.rint(starts * sampling_rate / RATE).astype(int).T, sampling_rate)
    around = round(_AROUND_S * sampling_rate)
    return beats if (beats.p_starts[1:] - beats.t_ends[:-1] > 2 * around + 4).all() else None


def without_p_waves(ecg: np.ndarray, beats: Beats) -> np.ndarray:
    """
    Subtract the P wave from each beat: the mean of all P waves, in the size and at the time at which it fits the beat best,
    then what is left of it in the mean. Signal outside the P waves and PR segments stays as it is.

    Args:
        ecg: `(12, samples)` in mV.
        beats: its beats.
    """
    rate, samples = beats.sampling_rate, ecg.shape[1]
    margin, reach = round(_P_MARGIN_S * rate), round(_P_SHIFT_S * rate)
    length = int(beats.qrs_starts[0] - beats.p_starts[0]) + margin
    pad = length + reach
    signal = np.pad(ecg[INDEPENDENT].astype(np.float64), ((0, 0), (pad, pad)), mode="edge")
    firsts = beats.qrs_starts - length
    # A last P wave may be there without its QRS complex.
    firsts = np.append(firsts, firsts[-1] + round(beats.mean_rr_s * rate))
    firsts = firsts[(firsts > -length) & (firsts < samples)] + pad
    whole = (firsts[:-1] >= pad) & (firsts[:-1] + length <= pad + samples)

    wave = _mean_wave(signal, firsts[:-1][whole], length, margin)
    fits = [_best_fit(signal, wave, first, margin, reach) for first in firsts]
    for first, gain in fits:
        signal[:, first : first + length] -= gain * wave
    left = _mean_wave(signal, firsts[:-1][whole], length, margin)
    for first, (_, gain) in zip(firsts, fits):
        signal[:, first : first + length] -= (gain > 0) * left
    removed = ecg[INDEPENDENT] - signal[:, pad : pad + samples]
    return (ecg - twelve_leads(removed)).astype(np.float32)


def _mean_wave(signal: np.ndarray, firsts: np.ndarray, length: int, margin: int) -> np.ndarray:
    """The mean of stretches of a signal `(leads, samples)`, each without its line, which fades to 0 at its ends."""
    wave = np.mean([_levelled(signal[:, first : first + length], margin) for first in firsts], axis=0)
    place, fades = np.arange(length), (margin, max(margin // 4, 1))
    rising, falling = (bump(np.clip(1 - from_end / fade, 0, 1)) for from_end, fade in zip((place, place[::-1]), fades))
    return wave * rising * falling


def _levelled(window: np.ndarray, margin: int) -> np.ndarray:
    """A stretch `(leads, samples)` from before P to QRS, minus the line between the levels of its ends."""
    ends = window[:, : margin // 2].mean(axis=1), window[:, -max(margin // 4, 1) :].mean(axis=1)
    return window - np.linspace(*ends, window.shape[1], axis=1)


def _best_fit(signal: np.ndarray, wave: np.ndarray, first: int, margin: int, reach: int) -> tuple[int, float]:
    """Where near `first` a wave fits best, and in which size; of size 0 where it does not fit at all."""
    starts, length = np.arange(first - reach, first + reach + 1), wave.shape[1]
    fits = [float((_levelled(signal[:, start : start + length], margin) * wave).sum()) for start in starts]
    best = int(np.argmax(fits))
    gain = fits[best] / float((wave**2).sum())
    return int(starts[best]), float(np.clip(gain, *_P_GAINS)) if gain > _P_GAINS[0] / 2 else 0.0


def with_beats_at(ecg: np.ndarray, beats: Beats, rr_s: np.ndarray) -> np.ndarray:
    """
    Move the beats to other RR intervals. P, QRS and T are copied sample for sample; only the signal from the end of T to
    the next P wave is stretched or shortened. After the last whole beat follows the first one again.

    Args:
        ecg: `(12, samples)` in mV.
        beats: its beats.
        rr_s: RR intervals in seconds, at least as many as the ECG has room for.

    Raises:
        ValueError: an interval leaves less than a tenth of the recorded time from T to P, or more than eight times as much.
    """
    rate, samples = beats.sampling_rate, ecg.shape[1]
    around = round(_AROUND_S * rate)
    starts, ends = beats.p_starts - around, beats.t_ends + around
    inside = (starts >= 0) & (ends < samples)
    starts, ends = starts[inside], ends[inside]
    first = min(int(starts[0]), round(_HEAD_S * rate))
    places = first + np.rint(np.cumsum([0.0, *rr_s]) * rate).astype(int)
    changed = np.zeros_like(ecg, shape=(len(ecg), places[-1]))
    changed[:, :first] = ecg[:, starts[0] - first : starts[0]]
    for number, (place, following) in enumerate(zip(places, places[1:])):
        beat = number % len(starts)
        after, next_beat = min(beat, len(starts) - 2), (number + 1) % len(starts)
        gap = place + ends[beat] - starts[beat]
        recorded = starts[after + 1] - ends[after]
        if not _LEAST_TP * recorded <= following - gap <= _MOST_TP * recorded:
            raise ValueError(
                f"an RR interval of {(following - place) / rate:.2f} s: T to P would last {(following - gap) / rate:.2f} s instead "
                f"of {recorded / rate:.2f} s; expected {_LEAST_TP:g} to {_MOST_TP:g} times as long"
            )
        changed[:, place:gap] = ecg[:, starts[beat] : ends[beat]]
        changed[:, gap:following] = _stretched(
            ecg[:, ends[after] - 1 : starts[after + 1] + 1],
            ecg[:, ends[beat] - 1],
            ecg[:, starts[next_beat]],
            following - gap,
        )
        if following >= samples:
            return changed[:, :samples]
    raise ValueError(f"{len(rr_s)} RR intervals last {sum(rr_s):.1f} s; the ECG is longer, {samples / rate:.1f} s")


def _stretched(signal: np.ndarray, before: np.ndarray, after: np.ndarray, length: int) -> np.ndarray:
    """The inner samples of a stretch `(leads, samples)` at another length, on a line from one level to another."""
    time = np.linspace(0, 1, length + 2)[1:-1]
    recorded = np.linspace(0, 1, signal.shape[1])
    inner = np.stack([np.interp(time, recorded, row) for row in signal])
    return inner + np.outer(before - signal[:, 0], 1 - time) + np.outer(after - signal[:, -1], time)


def with_heart_rate(ecg: np.ndarray, beats: Beats, heart_rate: float) -> np.ndarray:
    """
    [`with_beats_at`] equal intervals.

    Args:
        ecg: `(12, samples)` in mV.
        beats: its beats.
        heart_rate: in beats per minute.
    """
    interval = 60 / heart_rate
    number = int(ecg.shape[1] / beats.sampling_rate / interval) + 2
    return with_beats_at(ecg, beats, np.full(number, interval))


def with_irregular_beats(ecg: np.ndarray, beats: Beats, seed: int) -> np.ndarray:
    """
    [`with_beats_at`] intervals that are as irregular as in atrial fibrillation, with the recorded mean.

    Args:
        ecg: `(12, samples)` in mV.
        beats: its beats.
        seed: random seed of the intervals.
    """
    mean, rate = beats.mean_rr_s, beats.sampling_rate
    complexes = (beats.t_ends - beats.p_starts + 2 * round(_AROUND_S * rate)) / rate
    gaps = (beats.p_starts[1:] - beats.t_ends[:-1] - 2 * round(_AROUND_S * rate)) / rate
    shortest = complexes.max() + 1.1 * _LEAST_TP * gaps.max()
    number = int(ecg.shape[1] / rate / mean)
    drawn = np.exp(_SPREAD * np.random.default_rng(seed).standard_normal(number)) * mean
    over = np.maximum(drawn - shortest, 0)
    if not over.any() or mean <= shortest:
        raise ValueError("the rhythm cannot be irregular: there is no time between T and P")
    # The first intervals, of which the ECG consists, have the recorded mean.
    intervals = shortest + over * (mean - shortest) / over.mean()
    return with_beats_at(ecg, beats, np.resize(intervals, number + 3))


def with_fibrillatory_waves(ecg: np.ndarray, sampling_rate: float, seed: int) -> np.ndarray:
    """
    Add simulated fibrillatory waves of 0.05 to 0.2 mV.

    Args:
        ecg: `(12, samples)` in mV.
        sampling_rate: in Hz.
        seed: random seed of the waves.
    """
    time = np.arange(ecg.shape[1], dtype=np.float32) / np.float32(sampling_rate)
    return (ecg + twelve_leads(fibrillation_waves(np.random.default_rng(seed), time))).astype(np.float32)
