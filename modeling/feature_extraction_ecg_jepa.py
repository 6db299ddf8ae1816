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
"""Prepares ECGs for ECG-JEPA: eight leads in millivolt, resampled in the frequency domain."""

from collections.abc import Sequence

import numpy as np
from transformers import AutoFeatureExtractor

from .auto_classes import register
from .feature_extraction_ecg import EcgFeatureExtractor, scipy_signal


JEPA_LEADS = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
FULL_RATE = 500  # Hz, at which an ECG is cropped


class EcgJepaFeatureExtractor(EcgFeatureExtractor):
    r"""
    Turns ECGs in millivolt into the input of an [`EcgJepaModel`], as in its pre-training (Kim 2024). Without a filter
    and without normalization, the whole ECG is resampled to 500 Hz, a longer ECG is cropped, and what is left is
    resampled to the model's rate, both with `scipy.signal.resample`, in float64.

    Args:
        sampling_rate (`int`, *optional*, defaults to 250):
            Sampling rate of the model in Hz.
        num_samples (`int`, *optional*, defaults to 2500):
            Samples per lead of the model.
        leads (`list[str]`, *optional*, defaults to `["I", "II", "V1", "V2", "V3", "V4", "V5", "V6"]`):
            Leads of the model, in its order.
        normalization (`str`, *optional*, defaults to `"none"`):
            `"none"`: the model reads millivolt.
        resampling (`str`, *optional*, defaults to `"fft"`):
            `"fft"`.
        kwargs:
            Other arguments of [`EcgFeatureExtractor`]. ECG-JEPA has no filter.
    """

    normalizations = ("none",)
    resamplings = ("fft",)
    working_dtype = np.float64
    prepares_whole = True

    def __init__(
        self,
        sampling_rate: int = 250,
        num_samples: int = 2500,
        leads: Sequence[str] = JEPA_LEADS,
        normalization: str = "none",
        resampling: str = "fft",
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
        ecg = self._crop(self._resample(ecg[present], sampling_rate, FULL_RATE), FULL_RATE)
        out[present] = scipy_signal().resample(ecg, self.num_samples, axis=1)


EcgJepaFeatureExtractor.register_for_auto_class("AutoFeatureExtractor")
register(AutoFeatureExtractor, EcgJepaFeatureExtractor, EcgJepaFeatureExtractor)

__all__ = ["JEPA_LEADS", "EcgJepaFeatureExtractor"]
