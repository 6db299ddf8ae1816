# Copyright 2026 The elm-hf authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Prepares ECGs for HuBERT-ECG: filters and scales the whole ECG, and decimates its leads as one signal."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from transformers import AutoFeatureExtractor

from .auto_classes import register
from .ecg_leads import LEADS
from .feature_extraction_ecg import EcgFeatureExtractor, scipy_signal


BAND_PASS = (0.05, 47.0)  # Hz
FILTER_SECONDS = 0.3
FULL_RATE = 500  # Hz, before decimation
SCALE_EPSILON = 1e-8


class HubertEcgFeatureExtractor(EcgFeatureExtractor):
    r"""
    Turns ECGs in millivolt into the input of a [`HubertEcgModel`], as in its training (Coppola et al. 2024).

    In this order, and in float64, the whole ECG is filtered with a FIR band-pass filter of 0.05 to 47 Hz at its own
    rate, forwards and backwards; resampled to 500 Hz; each lead is scaled to -1 ... 1; a longer ECG is cropped; samples
    of absent leads become the mean of the others; and pieces of 5 s are decimated to 100 Hz with their leads written
    one after the other, so that samples near the ends of a lead depend on the lead beside it. The filter is too short
    to remove the baseline, which the published models expect.

    Args:
        sampling_rate (`int`, *optional*, defaults to 100):
            Sampling rate of the model in Hz.
        num_samples (`int`, *optional*, defaults to 500):
            Samples per lead of the model: a piece of 5 s. A multiple is several pieces.
        leads (`list[str]`, *optional*, defaults to the twelve standard leads in standard order):
            Leads of the model, in its order.
        normalization (`str`, *optional*, defaults to `"min_max_per_lead"`):
            `"min_max_per_lead"`: -1 ... 1 over the whole ECG.
        resampling (`str`, *optional*, defaults to `"fft"`):
            As for [`EcgFeatureExtractor`].
        piece_samples (`int`, *optional*, defaults to 500):
            Samples per lead of a piece: the model's `config.piece_samples`.
        kwargs:
            Other arguments of [`EcgFeatureExtractor`].

    Raises:
        `ValueError`: If an argument is not one of these choices, or an ECG is longer than a piece and not a multiple.
    """

    normalizations = ("min_max_per_lead",)
    working_dtype = np.float64
    prepares_whole = True

    def __init__(
        self,
        sampling_rate: int = 100,
        num_samples: int = 500,
        leads: Sequence[str] = LEADS,
        normalization: str = "min_max_per_lead",
        resampling: str = "fft",
        piece_samples: int = 500,
        **kwargs,
    ):
        if sampling_rate < 1 or FULL_RATE % sampling_rate:
            raise ValueError(f"sampling_rate={sampling_rate} must divide {FULL_RATE} Hz.")
        if num_samples > piece_samples and num_samples % piece_samples:
            raise ValueError(
                f"num_samples={num_samples} is neither a multiple of piece_samples={piece_samples} nor less."
            )
        super().__init__(
            sampling_rate=sampling_rate,
            num_samples=num_samples,
            leads=leads,
            normalization=normalization,
            resampling=resampling,
            **kwargs,
        )
        self.piece_samples = piece_samples

    def _prepare(self, ecg: np.ndarray, sampling_rate: float, present: np.ndarray, out: np.ndarray):
        ecg = self._resample(self._filter(ecg[present], sampling_rate), sampling_rate, FULL_RATE)
        ecg = self._crop(self._normalize(ecg.astype(np.float64, copy=False)), FULL_RATE)
        size, factor = min(self.piece_samples, self.num_samples), FULL_RATE // self.sampling_rate
        for start in range(0, self.num_samples, size):
            piece = np.empty((len(present), size * factor))
            piece[present] = ecg[:, start * factor : (start + size) * factor]
            piece[~present] = piece[present].mean()
            out[:, start : start + size] = _decimate(piece.ravel(), factor).reshape(len(present), size)

    def _filter(self, ecg: np.ndarray, sampling_rate: float) -> np.ndarray:
        if sampling_rate <= 2 * BAND_PASS[1]:
            raise ValueError(
                f"a sampling rate of {sampling_rate:g} Hz is too low: the filter of this model passes frequencies up to "
                f"{BAND_PASS[1]:g} Hz, which need more than {2 * BAND_PASS[1]:g} Hz."
            )
        taps = _band_pass(sampling_rate)
        if ecg.shape[1] <= 3 * len(taps):
            raise ValueError(
                f"the ECG has {ecg.shape[1]} samples; the filter of this model needs more than {3 * len(taps)} at "
                f"{sampling_rate:g} Hz."
            )
        return _filter_both_ways(taps, ecg)

    def _normalize(self, ecg: np.ndarray) -> np.ndarray:
        low, high = ecg.min(axis=1, keepdims=True), ecg.max(axis=1, keepdims=True)
        return 2 * (ecg - low) / (high - low + SCALE_EPSILON) - 1


@lru_cache(maxsize=8)
def _band_pass(sampling_rate: float) -> np.ndarray:
    size = int(FILTER_SECONDS * sampling_rate)
    return scipy_signal().firwin(size + (size % 2 == 0), BAND_PASS, pass_zero=False, fs=sampling_rate)


def _filter_both_ways(taps: np.ndarray, ecg: np.ndarray) -> np.ndarray:
    """
    `scipy.signal.filtfilt(taps, 1, ecg)`, ten times faster: both passes are one convolution, and this is a product of
    spectra. As there, the signal goes on behind its ends as its own point reflection.
    """
    margin = len(taps) - 1
    before = 2 * ecg[:, :1] - ecg[:, margin:0:-1]
    after = 2 * ecg[:, -1:] - ecg[:, -2 : -margin - 2 : -1]
    both_ways = np.convolve(taps, taps[::-1])[None]
    return scipy_signal().fftconvolve(np.concatenate([before, ecg, after], axis=1), both_ways, mode="valid", axes=1)


def _decimate(signal: np.ndarray, factor: int) -> np.ndarray:
    """`scipy.signal.decimate(signal, factor)` of recent releases of scipy."""
    if factor == 1:
        return signal
    return scipy_signal().sosfiltfilt(_low_pass(factor), signal)[::factor]


@lru_cache(maxsize=8)
def _low_pass(factor: int) -> np.ndarray:
    return scipy_signal().cheby1(8, 0.05, 0.8 / factor, output="sos")


HubertEcgFeatureExtractor.register_for_auto_class("AutoFeatureExtractor")
register(AutoFeatureExtractor, HubertEcgFeatureExtractor, HubertEcgFeatureExtractor)

__all__ = ["HubertEcgFeatureExtractor"]
