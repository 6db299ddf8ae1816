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
"""Prepares ECGs for ECG-FM: standardizes each lead of the whole ECG."""

from collections.abc import Sequence

import numpy as np
from transformers import AutoFeatureExtractor

from .auto_classes import register
from .ecg_leads import LEADS
from .feature_extraction_ecg import EcgFeatureExtractor


class EcgFmFeatureExtractor(EcgFeatureExtractor):
    r"""
    Turns ECGs in millivolt into the input of an [`EcgFmModel`], as in its pre-training (McKeen et al. 2025): the whole
    ECG is resampled, each lead is standardized over the whole ECG, and a longer ECG is cropped. Leads that are flat or
    absent are zeros.

    Args:
        sampling_rate (`int`, *optional*, defaults to 500):
            Sampling rate of the model in Hz.
        num_samples (`int`, *optional*, defaults to 5000):
            Samples per lead of the model: two pieces of 5 s.
        leads (`list[str]`, *optional*, defaults to the twelve standard leads in standard order):
            Leads of the model, in its order.
        normalization (`str`, *optional*, defaults to `"z_score_per_lead"`):
            `"z_score_per_lead"`, or `"none"` for millivolt.
        resampling (`str`, *optional*, defaults to `"linear"`):
            As for [`EcgFeatureExtractor`].
        kwargs:
            Other arguments of [`EcgFeatureExtractor`]. ECG-FM has no filter.
    """

    normalizations = ("z_score_per_lead", "none")
    working_dtype = np.float64
    prepares_whole = True

    def __init__(
        self,
        sampling_rate: int = 500,
        num_samples: int = 5000,
        leads: Sequence[str] = LEADS,
        normalization: str = "z_score_per_lead",
        resampling: str = "linear",
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
        ecg = self._resample(ecg, sampling_rate).astype(np.float64, copy=False)
        out[:] = self._crop(self._normalize(np.where(present[:, None], ecg, 0)))

    def _normalize(self, ecg: np.ndarray) -> np.ndarray:
        if self.normalization == "none":
            return ecg
        deviation = ecg.std(axis=1, keepdims=True)
        # The rounded mean of a flat lead may differ from its samples.
        is_flat = ecg.max(axis=1, keepdims=True) == ecg.min(axis=1, keepdims=True)
        return (ecg - ecg.mean(axis=1, keepdims=True)) / np.where(is_flat, np.inf, deviation)


EcgFmFeatureExtractor.register_for_auto_class("AutoFeatureExtractor")
register(AutoFeatureExtractor, EcgFmFeatureExtractor, EcgFmFeatureExtractor)

__all__ = ["EcgFmFeatureExtractor"]
