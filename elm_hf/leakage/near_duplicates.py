"""Near-duplicate ECGs: the same recording twice, perhaps with another start, gain, sampling rate, or some noise."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import fft
from tqdm import tqdm

from elm_hf.modeling.ecg_leads import LEADS


# The other limb leads follow from I and II.
_INDEPENDENT = [LEADS.index(name) for name in ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")]
# Below is the wander of the baseline, above are noise and what some electrocardiographs filter out.
LOWEST_HZ, HIGHEST_HZ = 1.0, 20.0
# Two recordings may start this share of their length apart.
LONGEST_SHIFT = 0.2
# Pairs are looked at more closely if an upper limit of their correlation, and then their correlation over the whole length,
# is at least this. Starts that are a tenth of the length apart leave 0.9.
LEAST_CANDIDATE = 0.78
# Correlation over the common part of two near-duplicates of ten seconds. It is higher for shorter ECGs (see
# `least_correlation`): a few beats of two patients may agree by chance.
LEAST_CORRELATION, DISTANCE_PER_S = 0.9, 0.01
# Two different ECGs with paced or otherwise very regular beats of one form also agree so well, at every shift by a beat.
# What two near-duplicates differ by (1 minus their correlation) is at most half of what they differ by at other shifts.
ELSEWHERE_S, MOST_OF_ELSEWHERE = 0.3, 0.5
_LAG_S, _END_S = 0.005, 0.2
_AT_ONCE = 4096  # ECGs whose spectra are kept in memory, about 22 kB each
_BLOCK = 256
_READ = 32
_PAIRS = 256


@dataclass(frozen=True)
class Duplicate:
    """
    Two ECGs that are nearly the same.

    Attributes:
        first, second: numbers of the ECGs.
        correlation: over the part and the leads that both have, between 1 and 20 Hz.
        elsewhere: highest correlation of the common part at a shift that is 0.3 s or more away.
        shift_s: how much later the second one starts, in seconds.
        gain: amplitude of the second one divided by that of the first.
    """

    first: int
    second: int
    correlation: float
    elsewhere: float
    shift_s: float
    gain: float


def find_duplicates(
    first: Sequence[np.ndarray],
    second: Sequence[np.ndarray],
    sampling_rates: tuple[float, float],
    quiet: bool = False,
) -> list[Duplicate]:
    """
    Find the pairs of an ECG of `first` and one of `second` that are nearly the same.

    The correlation of two signals at any shift is at most that of the magnitudes of their spectra (Cauchy-Schwarz), which
    is one product of matrices for many pairs. Only the few pairs that this does not exclude are shifted against each other.

    Args:
        first, second: ECGs of the same length, each `(12, samples)` in mV, NaN in leads that are absent. They are read block
            by block.
        sampling_rates: of `first` and of `second`, in Hz.
        quiet: no progress bar.

    Returns:
        The pairs, those of the highest correlation first.

    Raises:
        ValueError: the ECGs of the two are not of the same length.
    """
    if not len(first) or not len(second):
        return []
    lengths = [ecgs[0].shape[1] / rate for ecgs, rate in zip((first, second), sampling_rates)]
    if abs(lengths[0] - lengths[1]) > 0.5 / min(sampling_rates):
        raise ValueError(f"ECGs of {lengths[0]:g} s and of {lengths[1]:g} s; only ECGs of one length are compared")
    grid, least = _Grid(lengths[0]), least_correlation(lengths[0])
    rounds = range(0, len(second), _AT_ONCE)
    found = []
    with tqdm(total=len(first) * len(rounds), desc="comparing", unit="ECG", disable=quiet or None) as progress:
        for start in rounds:
            kept = _Spectra(grid, second, range(start, min(start + _AT_ONCE, len(second))), sampling_rates[1])
            for place in range(0, len(first), _BLOCK):
                block = _Spectra(grid, first, range(place, min(place + _BLOCK, len(first))), sampling_rates[0])
                found += _pairs_of(block, kept, place, start, least)
                progress.update(len(block))
    return sorted(found, key=lambda pair: (-pair.correlation, pair.first, pair.second))


def least_correlation(seconds: float) -> float:
    """Correlation from which on two ECGs of this length are near-duplicates: 0.9 for ten seconds, 0.98 for two."""
    return max(LEAST_CORRELATION, 1 - DISTANCE_PER_S * seconds)


class _Grid:
    """The frequencies and the lags at which ECGs of this many seconds are compared."""

    def __init__(self, seconds: float):
        # Filled up with zeros, so that within the longest shift the end of one ECG does not meet the start of the other.
        self.padded = seconds * (1 + LONGEST_SHIFT)
        self.bins = slice(int(np.ceil(LOWEST_HZ * self.padded)), int(HIGHEST_HZ * self.padded) + 1)
        self.weights = np.sqrt(np.arange(self.bins.start, self.bins.stop) / self.padded).astype(np.float32)
        self.num_lags = round(self.padded / _LAG_S)
        # The ends are left out where pairs are compared exactly: they ring, since other signals follow them.
        self.middle = slice(round(_END_S / _LAG_S), round((seconds - _END_S) / _LAG_S))
        longest = int(seconds * LONGEST_SHIFT / _LAG_S)
        self.lags = np.r_[0 : longest + 1, -longest:0]

    def signal(self, spectra: np.ndarray) -> np.ndarray:
        """The signals `(..., num_lags)` with these spectra `(..., frequencies)`, at steps of `_LAG_S`."""
        whole = np.zeros((*spectra.shape[:-1], self.num_lags // 2 + 1), np.complex64)
        whole[..., self.bins] = spectra
        return fft.irfft(whole, self.num_lags, axis=-1) * np.float32(self.num_lags / 2)


class _Spectra:
    """
    Spectra of ECGs `(ECGs, 8, frequencies)`, of the independent leads between `LOWEST_HZ` and `HIGHEST_HZ`. They are multiplied
    by the root of the frequency, so that QRS complexes count more than T waves.

    Attributes:
        energy: of each lead, `(ECGs, 8)`; 0 for one that is absent or flat.
    """

    def __init__(self, grid: _Grid, ecgs: Sequence[np.ndarray], numbers: Sequence[int], sampling_rate: float):
        self.grid = grid
        self.values = np.zeros((len(numbers), len(_INDEPENDENT), len(grid.weights)), np.complex64)
        for start in range(0, len(numbers), _READ):
            leads = np.stack([ecgs[one][_INDEPENDENT] for one in numbers[start : start + _READ]]).astype(np.float32)
            leads[~np.isfinite(leads).all(axis=2)] = 0
            leads -= leads.mean(axis=2, keepdims=True)
            # The same frequencies whatever the sampling rate, so that nothing has to be resampled.
            spectra = fft.rfft(leads, round(grid.padded * sampling_rate), axis=2)[:, :, grid.bins]
            weights = grid.weights[: spectra.shape[2]] / np.float32(sampling_rate)
            self.values[start : start + _READ, :, : spectra.shape[2]] = spectra * weights
        self.energy = (self.magnitudes**2).sum(axis=2)

    def __len__(self) -> int:
        return len(self.values)

    @cached_property
    def magnitudes(self) -> np.ndarray:
        return np.abs(self.values)

    def norms(self, other: "_Spectra") -> np.ndarray:
        """For all pairs the root of the product of their energies in the leads that both have, `(ECGs, other ECGs)`."""
        of_own = self.energy @ (other.energy > 0).T.astype(np.float32)
        of_other = (self.energy > 0).astype(np.float32) @ other.energy.T
        return np.sqrt(of_own * of_other)


def _pairs_of(block: _Spectra, kept: _Spectra, place: int, start: int, least: float) -> Iterator[Duplicate]:
    """The near-duplicates among the pairs of two blocks, which start at `place` and `start`."""
    norms = block.norms(kept)
    limits = block.magnitudes.reshape(len(block), -1) @ kept.magnitudes.reshape(len(kept), -1).T
    candidates = np.argwhere((limits >= LEAST_CANDIDATE * norms) & (norms > 0))
    for chunk in np.split(candidates, range(_PAIRS, len(candidates), _PAIRS)):
        products = np.einsum("plf,plf->pf", block.values[chunk[:, 0]].conj(), kept.values[chunk[:, 1]])
        whole = block.grid.signal(products)[:, block.grid.lags].max(axis=1)
        for row, column in chunk[whole >= LEAST_CANDIDATE * norms[chunk[:, 0], chunk[:, 1]]]:
            pair = _compared(block.grid, block.values[row], kept.values[column], place + int(row), start + int(column))
            if pair is not None and _is_duplicate(pair, least):
                yield pair


def _is_duplicate(pair: Duplicate, least: float) -> bool:
    is_unique = 1 - pair.correlation <= MOST_OF_ELSEWHERE * (1 - pair.elsewhere)
    return pair.correlation >= least and is_unique


def _compared(grid: _Grid, first: np.ndarray, second: np.ndarray, *numbers: int) -> Duplicate | None:
    """Two ECGs, shifted so that their common part agrees best; None if they have nothing in common."""
    both = (np.abs(first).max(axis=1) > 0) & (np.abs(second).max(axis=1) > 0)
    signals = [grid.signal(one[both])[:, grid.middle].astype(float) for one in (first, second)]
    found = _correlations(*signals, grid.lags)
    lag = int(grid.lags[found.argmax()])
    if found.max() <= 0:
        return None
    length = signals[0].shape[1] - abs(lag)
    common = [one[:, start : start + length] for one, start in zip(signals, (max(-lag, 0), max(lag, 0)))]
    others = grid.lags[np.abs(grid.lags) * _LAG_S >= ELSEWHERE_S]
    elsewhere = float(_correlations(*common, others).max(initial=0.0))
    gain = float(np.linalg.norm(common[1]) / np.linalg.norm(common[0]))
    values = float(found.max()), elsewhere, -lag * _LAG_S, gain
    return Duplicate(*numbers, *(round(value, 4) for value in values))


def _correlations(first: np.ndarray, second: np.ndarray, lags: np.ndarray) -> np.ndarray:
    """Correlations `(lags,)` of the common part of two signals `(leads, samples)`, the second of which is this much behind."""
    size = fft.next_fast_len(2 * first.shape[1])
    spectra = [fft.rfft(one, size, axis=1) for one in (first, second)]
    products = fft.irfft((spectra[0].conj() * spectra[1]).sum(axis=0), size)[lags]
    energies = [np.pad((one**2).sum(axis=0).cumsum(), (1, 0)) for one in (first, second)]
    starts = (-lags).clip(0), lags.clip(0)
    length = first.shape[1] - np.abs(lags)
    own = [energy[start + length] - energy[start] for energy, start in zip(energies, starts)]
    norms = np.sqrt(own[0] * own[1])
    return np.divide(products, norms, out=np.zeros(len(lags)), where=norms > 0)
