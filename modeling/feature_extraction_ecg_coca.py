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
"""Prepares ECGs for ECG-CoCa: the leads of MIMIC-IV-ECG in millivolt, short ECGs filled with zeros."""

from collections.abc import Sequence

import numpy as np
from transformers import AutoFeatureExtractor

from .auto_classes import register
from .feature_extraction_ecg import EcgFeatureExtractor


COCA_LEADS = ("I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6")


class EcgCocaFeatureExtractor(EcgFeatureExtractor):
    r"""
    Turns ECGs in millivolt into the input of an [`EcgCocaModel`], as in its pre-training (Zhao et al. 2024): without a
    filter and without normalization, a longer ECG is cropped, and zeros follow a shorter one. Absent leads are zeros.
    All ECGs of its pre-training had 500 Hz; others are resampled.

    Args:
        sampling_rate (`int`, *optional*, defaults to 500):
            Sampling rate of the model in Hz.
        num_samples (`int`, *optional*, defaults to 5000):
            Samples per lead of the model.
        leads (`list[str]`, *optional*, defaults to the twelve standard leads with aVF before aVL):
            Leads of the model, in its order, which is that of MIMIC-IV-ECG.
        normalization (`str`, *optional*, defaults to `"none"`):
            `"none"`: the model reads millivolt.
        kwargs:
            Other arguments of [`EcgFeatureExtractor`]. ECG-CoCa has no filter.
    """

    normalizations = ("none",)
    prepares_whole = True

    def __init__(
        self,
        sampling_rate: int = 500,
        num_samples: int = 5000,
        leads: Sequence[str] = COCA_LEADS,
        normalization: str = "none",
        **kwargs,
    ):
        super().__init__(
            sampling_rate=sampling_rate, num_samples=num_samples, leads=leads, normalization=normalization, **kwargs
        )

    def _prepare(self, ecg: np.ndarray, sampling_rate: float, present: np.ndarray, out: np.ndarray):
        out[:] = 0
        ecg = self._resample(ecg[present], sampling_rate)
        out[present] = self._crop(np.pad(ecg, ((0, 0), (0, max(0, self.num_samples - ecg.shape[1])))))


EcgCocaFeatureExtractor.register_for_auto_class("AutoFeatureExtractor")
register(AutoFeatureExtractor, EcgCocaFeatureExtractor, EcgCocaFeatureExtractor)

__all__ = ["EcgCocaFeatureExtractor"]
