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
"""Prepares ECGs for ECG-CPC: twelve leads in millivolt, resampled with a windowed sinc."""

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

import numpy as np
from transformers import AutoFeatureExtractor

from .auto_classes import register
from .ecg_leads import LEADS
from .feature_extraction_ecg import EcgFeatureExtractor


# The default filter of resampy 0.3 and 0.4: zero crossings on each side, edge of the pass band relative to the Nyquist
# frequency, shape of the Kaiser window, and entries of the table per zero crossing.
NUM_ZEROS = 50
ROLL_OFF = 0.9173473712608761
KAISER_BETA = 12.984585183
TABLE_RATE = 8192


class EcgCpcFeatureExtractor(EcgFeatureExtractor):
    r"""
    Turns ECGs in millivolt into the input of an [`EcgCpcModel`], as in its pre-training (Al-Masud et al. 2026):
    without a filter and without normalization, the whole ECG is resampled to 240 Hz, and a longer ECG is cropped.
    Absent leads are zeros.

    Args:
        sampling_rate (`int`, *optional*, defaults to 240):
            Sampling rate of the model in Hz.
        num_samples (`int`, *optional*, defaults to 2400):
            Samples per lead of the model: 10 s as in pre-training; the authors' benchmark uses 2.5 s.
        leads (`list[str]`, *optional*, defaults to the twelve standard leads in standard order):
            Leads of the model, in its order.
        normalization (`str`, *optional*, defaults to `"none"`):
            `"none"`: the model reads millivolt.
        resampling (`str`, *optional*, defaults to `"sinc"`):
            `"sinc"`: interpolation with a windowed sinc (Smith 1984), as `resampy.resample` does by default.
        kwargs:
            Other arguments of [`EcgFeatureExtractor`]. ECG-CPC has no filter.
    """

    normalizations = ("none",)
    resamplings = ("sinc",)
    working_dtype = np.float64
    prepares_whole = True

    def __init__(
        self,
        sampling_rate: int = 240,
        num_samples: int = 2400,
        leads: Sequence[str] = LEADS,
        normalization: str = "none",
        resampling: str = "sinc",
        **kwargs,
    ):
        super().__init__(
            sampling_rate=sampling_rate,
            num_samples=num_samples,
            leads=leads,
            normalization=normalization,
            resampling=resampling,
            **kwargs,
        )

    def _prepare(self, ecg: np.ndarray, sampling_rate: float, present: np.ndarray, out: np.ndarray):
        out[:] = 0
        out[present] = self._crop(self._resample(ecg[present], sampling_rate))

    def _resample(self, ecg: np.ndarray, sampling_rate: float) -> np.ndarray:
        if sampling_rate == self.sampling_rate:
            return ecg
        ratio = Fraction(self.sampling_rate) / Fraction(sampling_rate).limit_denominator(1000)
        weights, margin = _sinc_weights(ratio.numerator, ratio.denominator)
        num_samples = ecg.shape[1] * ratio.numerator // ratio.denominator
        num_periods = -(-num_samples // ratio.numerator)
        padded = np.zeros((len(ecg), (num_periods - 1) * ratio.denominator + weights.shape[1]))
        end = min(ecg.shape[1], padded.shape[1] - margin)
        padded[:, margin : margin + end] = ecg[:, :end]
        periods = np.lib.stride_tricks.sliding_window_view(padded, weights.shape[1], axis=1)[:, :: ratio.denominator]
        # One matrix product; `periods` itself is a view on overlapping samples, for which NumPy has only a slow one.
        resampled = np.ascontiguousarray(periods).reshape(-1, weights.shape[1]) @ weights.T
        return resampled.reshape(len(ecg), -1)[:, :num_samples]


@lru_cache(maxsize=8)
def _sinc_weights(up: int, down: int) -> tuple[np.ndarray, int]:
    """
    The weights of the samples around one period of the ratio `up / down`, in which `up` new samples follow `down` old
    ones: `(up, margin + down + margin)`; and the margin before the period.

    The weights are read from a table by linear interpolation with a step of whole entries, as resampy does.
    """
    scale = min(1.0, up / down)
    places = np.arange(NUM_ZEROS * TABLE_RATE + 1) / TABLE_RATE
    window = np.i0(KAISER_BETA * np.sqrt(1 - (places / NUM_ZEROS) ** 2)) / np.i0(KAISER_BETA)
    table = scale * ROLL_OFF * np.sinc(ROLL_OFF * places) * window
    slopes = np.append(np.diff(table), 0)
    step = int(scale * TABLE_RATE)
    margin = len(table) // step + 1
    weights = np.zeros((up, margin + down + margin))
    for row in range(up):
        before, remainder = divmod(row * down, up)  # the old sample before the new one, and what is left in `1 / up`
        for distance, first, direction in ((remainder / up, before, -1), (1 - remainder / up, before + 1, 1)):
            place = scale * distance * TABLE_RATE
            entries = np.arange(int(place), len(table), step)
            samples = margin + first + direction * np.arange(len(entries))
            weights[row, samples] += table[entries] + (place - int(place)) * slopes[entries]
    return weights, margin


EcgCpcFeatureExtractor.register_for_auto_class("AutoFeatureExtractor")
register(AutoFeatureExtractor, EcgCpcFeatureExtractor, EcgCpcFeatureExtractor)

__all__ = ["EcgCpcFeatureExtractor"]
