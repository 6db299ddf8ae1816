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
"""Prepares ECGs for Net1D encoders (ECGFounder, CLEF): filters and standardizes the whole ECG."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from transformers import AutoFeatureExtractor

from .auto_classes import register
from .ecg_leads import LEADS
from .feature_extraction_ecg import EcgFeatureExtractor, scipy_signal


STANDARDIZATION_EPSILON = 1e-8
NOTCH_QUALITY = 30


class Net1DFeatureExtractor(EcgFeatureExtractor):
    r"""
    Turns ECGs in millivolt into the input of a [`Net1DModel`]. The defaults are the preprocessing of ECGFounder with
    twelve leads (Li et al. 2025).

    In this order, and in float64, the whole ECG is resampled; each lead is filtered with a notch filter, a band-pass
    filter and a median filter, all without phase shift; the ECG is standardized; and a longer ECG is cropped. A lead
    that is absent is a lead of zeros before it is filtered.

    Args:
        sampling_rate (`int`, *optional*, defaults to 500):
            Sampling rate of the model in Hz.
        num_samples (`int`, *optional*, defaults to 5000):
            Samples per lead of the model.
        leads (`list[str]`, *optional*, defaults to the twelve standard leads in standard order):
            Leads of the model, in its order. A model of single leads can read any.
        normalization (`str`, *optional*, defaults to `"z_score"`):
            `"z_score"`: one mean and standard deviation for all leads. `"z_score_per_lead"`: those of each lead, for
            models of single leads. `"none"`: millivolt.
        resampling (`str`, *optional*, defaults to `"linear"`):
            As for [`EcgFeatureExtractor`]. CLEF uses `"fft"`.
        notch_frequency (`float`, *optional*, defaults to 50):
            Frequency of the mains in Hz that the notch filter removes: 60 in America. `None` for no notch filter.
        band_pass (`list[float]`, *optional*, defaults to `[0.67, 40]`):
            Lowest and highest frequency in Hz. `None` for no band-pass filter.
        filter_order (`int`, *optional*, defaults to 4):
            Order of the Butterworth design of the band-pass filter. CLEF uses 5.
        baseline_window (`float`, *optional*, defaults to 0.4):
            Window in seconds of the median filter whose output is subtracted. `None` for no median filter.
        kwargs:
            Other arguments of [`EcgFeatureExtractor`].

    Raises:
        `ValueError`: If an argument is not one of these choices, or a frequency is not between 0 and half the sampling
            rate.
    """

    normalizations = ("z_score", "z_score_per_lead", "none")
    working_dtype = np.float64
    prepares_whole = True

    def __init__(
        self,
        sampling_rate: int = 500,
        num_samples: int = 5000,
        leads: Sequence[str] = LEADS,
        normalization: str = "z_score",
        resampling: str = "linear",
        notch_frequency: float | None = 50.0,
        band_pass: Sequence[float] | None = (0.67, 40.0),
        filter_order: int = 4,
        baseline_window: float | None = 0.4,
        **kwargs,
    ):
        if notch_frequency is not None and not 0 < notch_frequency < sampling_rate / 2:
            raise ValueError(
                f"notch_frequency={notch_frequency} must be between 0 and half the sampling rate "
                f"({sampling_rate / 2:g} Hz), or None."
            )
        super().__init__(
            sampling_rate=sampling_rate,
            num_samples=num_samples,
            leads=leads,
            normalization=normalization,
            resampling=resampling,
            band_pass=band_pass,
            **kwargs,
        )
        self.notch_frequency = notch_frequency
        self.filter_order = filter_order
        self.baseline_window = baseline_window

    def _prepare(self, ecg: np.ndarray, sampling_rate: float, present: np.ndarray, out: np.ndarray):
        ecg = self._resample(ecg, sampling_rate).astype(np.float64, copy=False)
        self._crop(ecg)  # refuses a short ECG before it is filtered
        if not present.all():
            ecg = np.where(present[:, None], ecg, 0)
        out[:] = self._crop(self._normalize(self._filter(ecg)))

    def _filter(self, ecg: np.ndarray) -> np.ndarray:
        signal = scipy_signal()
        if self.notch_frequency is not None:
            ecg = signal.filtfilt(*signal.iirnotch(self.notch_frequency, NOTCH_QUALITY, self.sampling_rate), ecg)
        if self.band_pass is not None:
            ecg = signal.filtfilt(*_band_pass(self.filter_order, *self.band_pass, self.sampling_rate), ecg)
        if self.baseline_window is not None:
            from scipy.ndimage import median_filter

            size = int(self.baseline_window * self.sampling_rate) + 1
            size += size % 2 == 0
            # Lead by lead: in two dimensions scipy's filter is fifty times slower.
            ecg = ecg - np.stack([median_filter(lead, size, mode="constant") for lead in ecg])
        return ecg

    def _normalize(self, ecg: np.ndarray) -> np.ndarray:
        if self.normalization == "none":
            return ecg
        axis, keepdims = (None, False) if self.normalization == "z_score" else (1, True)
        mean, deviation = ecg.mean(axis, keepdims=keepdims), ecg.std(axis, keepdims=keepdims)
        return (ecg - mean) / (deviation + STANDARDIZATION_EPSILON)


@lru_cache(maxsize=8)
def _band_pass(order: int, low: float, high: float, sampling_rate: float) -> tuple[np.ndarray, np.ndarray]:
    """A Butterworth filter in the published form (b, a); second-order sections would round differently."""
    return scipy_signal().butter(order, [low, high], "bandpass", fs=sampling_rate)


Net1DFeatureExtractor.register_for_auto_class("AutoFeatureExtractor")
register(AutoFeatureExtractor, Net1DFeatureExtractor, Net1DFeatureExtractor)

__all__ = ["Net1DFeatureExtractor"]
