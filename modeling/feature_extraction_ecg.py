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
"""Prepares ECGs for a model: leads, sampling rate, length, frequencies and amplitude."""

from collections.abc import Sequence
from os import PathLike

import numpy as np
from transformers import AutoFeatureExtractor, BatchFeature, FeatureExtractionMixin

from .auto_classes import register
from .ecg_leads import LARGEST_SPAN, LEADS, SAMPLING_RATE, limb_lead_error, place_leads
from .ecg_reading import load_ecg
from .ecg_resampling import fill_gaps, resample


NORMALIZATIONS = ("min_max", "z_score", "none")
RESAMPLINGS = ("polyphase", "cubic", "fft", "linear")
CROPS = ("start", "center")


class EcgFeatureExtractor(FeatureExtractionMixin):
    r"""
    Turns ECGs in millivolt into the tensor a model reads.

    Args:
        sampling_rate (`int`, *optional*, defaults to 250):
            Sampling rate of the model in Hz. ECGs at another rate are resampled.
        num_samples (`int`, *optional*, defaults to 2500):
            Samples per lead of the model. A longer ECG is cropped, a shorter one is refused.
        leads (`list[str]`, *optional*, defaults to the twelve standard leads in standard order):
            Leads of the model, in its order.
        normalization (`str`, *optional*, defaults to `"min_max"`):
            `"min_max"`: scales the ECG to 0 ... 1, with one range for all leads (Han et al. 2024, ECG-Byte).
            `"z_score"`: zero mean and unit variance over all present leads; an ECG with a standard deviation below one
            nanovolt becomes zeros. `"none"`: millivolt.
        min_max_epsilon (`float`, *optional*, defaults to 1e-6):
            Value that `"min_max"` adds to the range before dividing by it.
        resampling (`str`, *optional*, defaults to `"polyphase"`):
            `"polyphase"` or `"cubic"`: see [`~ecg_resampling.resample`]. For published encoders that were trained with
            them, `"fft"` (`scipy.signal.resample` of the whole ECG) and `"linear"` (linear interpolation of the whole
            ECG without a low-pass filter; the first and last sample stay the first and last).
        crop (`str`, *optional*, defaults to `"start"`):
            The part of a longer ECG to keep: `"start"` or `"center"`.
        band_pass (`list[float]`, *optional*):
            Lowest and highest frequency in Hz. After cropping, a high-pass and a low-pass filter are applied:
            zero-phase Butterworth filters of order 5 (Na et al. 2024, ST-MEM, use 0.67 and 40). No filter by default.

    Raises:
        `ValueError`: If an argument is not one of these choices, or the frequencies are not in order or not between 0
            and half the sampling rate.
    """

    model_input_names = ["ecg_values", "ecg_lead_mask"]
    # A subclass may have other values of `normalization` and `resampling`, and may compute in float64 from the start,
    # since some published filters amplify rounding errors.
    normalizations = NORMALIZATIONS
    resamplings = RESAMPLINGS
    working_dtype = np.float32

    def __init__(
        self,
        sampling_rate: int = SAMPLING_RATE,
        num_samples: int = 2500,
        leads: Sequence[str] = LEADS,
        normalization: str = "min_max",
        min_max_epsilon: float = 1e-6,
        resampling: str = "polyphase",
        crop: str = "start",
        band_pass: Sequence[float] | None = None,
        **kwargs,
    ):
        _check_choice("normalization", normalization, self.normalizations)
        _check_choice("resampling", resampling, self.resamplings)
        _check_choice("crop", crop, CROPS)
        if band_pass is not None:
            band_pass = list(band_pass)
            if len(band_pass) != 2 or not 0 < band_pass[0] < band_pass[1] < sampling_rate / 2:
                raise ValueError(
                    f"band_pass={band_pass} must be two frequencies in Hz, the lower one first, between 0 and half the "
                    f"sampling rate ({sampling_rate / 2:g})."
                )
        self.sampling_rate = sampling_rate
        self.num_samples = num_samples
        self.leads = list(leads)
        self.normalization = normalization
        self.min_max_epsilon = min_max_epsilon
        self.resampling = resampling
        self.crop = crop
        self.band_pass = band_pass
        super().__init__(**kwargs)

    def __call__(
        self,
        ecg,
        sampling_rate: float | Sequence[float | None] | None = None,
        lead_names: Sequence | None = None,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        r"""
        Prepares one ECG or several.

        Args:
            ecg:
                An array of shape `(num_leads, num_samples)` in millivolt, the path of a WFDB record, or a list of
                these; or an array of shape `(num_ecgs, num_leads, num_samples)`. A lead that is entirely NaN is
                absent.
            sampling_rate (`float` or `list[float]`, *optional*):
                Sampling rate of the arrays in Hz: one for all or one per ECG. Not needed for records.
            lead_names (`list[str]` or `list[list[str]]`, *optional*):
                Names of the rows of the arrays: one list for all or one per ECG. By default the rows are `leads`.
            return_tensors (`str`, *optional*):
                `"pt"` or `"np"`.

        Returns:
            [`BatchFeature`] with `ecg_values` of shape `(num_ecgs, len(leads), num_samples)`, float32, 0 for absent
            leads; and `ecg_lead_mask` of shape `(num_ecgs, len(leads))`, `True` for present leads.

        Raises:
            `ValueError`: If the sampling rate is missing or not a number, the unit cannot be millivolt, the limb leads
                of a record disagree, or leads, length or samples are not as described. The message gives the position
                of the ECG.
            `ImportError`: If scipy is needed and not installed.
        """
        ecgs = list(ecg) if isinstance(ecg, list | tuple) or getattr(ecg, "ndim", 2) == 3 else [ecg]
        rates = [sampling_rate] * len(ecgs)
        if isinstance(sampling_rate, list | tuple):
            rates = _one_per_ecg(sampling_rate, len(ecgs), "sampling rates")
        names = [lead_names] * len(ecgs)
        if lead_names is not None and any(not isinstance(name, str) for name in lead_names):
            names = _one_per_ecg(lead_names, len(ecgs), "lists of lead names")

        values = np.empty((len(ecgs), len(self.leads), self.num_samples), dtype=np.float32)
        lead_mask = np.zeros((len(ecgs), len(self.leads)), dtype=bool)
        for index, (one, rate, its_names) in enumerate(zip(ecgs, rates, names)):
            try:
                read, rate, lead_mask[index] = self._read(one, rate, its_names)
                self._prepare(read, rate, lead_mask[index], out=values[index])
            except ValueError as error:
                raise ValueError(f"ECG {index + 1} of {len(ecgs)}: {error}") from error
        return BatchFeature({"ecg_values": values, "ecg_lead_mask": lead_mask}, tensor_type=return_tensors)

    def _read(
        self, ecg, sampling_rate: float | None, lead_names: Sequence[str] | None
    ) -> tuple[np.ndarray, float, np.ndarray]:
        """
        An ECG `(leads, samples)` in mV with the leads of the model, NaN where absent; its sampling rate; and which
        leads are present, `(leads,)`.
        """
        if isinstance(ecg, str | PathLike):
            ecg, sampling_rate, lead_names = load_ecg(ecg, self.working_dtype)
            disagreement = limb_lead_error(place_leads(ecg, lead_names)[0])
            if disagreement:
                raise ValueError(f"the limb leads disagree: {disagreement}.")
            if not np.isfinite(ecg).all():
                ecg = fill_gaps(ecg, sampling_rate)
                ecg[np.isnan(ecg).any(axis=1)] = np.nan
        else:
            ecg = np.asarray(ecg)
            self._check_array(ecg, sampling_rate, lead_names)
        if lead_names is None or list(lead_names) == self.leads:
            ecg = np.asarray(ecg, dtype=self.working_dtype)
        else:
            ecg, _ = place_leads(ecg, lead_names, tuple(self.leads), self.working_dtype)
        present = ~np.isnan(ecg[:, 0])
        if not present.any():
            raise ValueError(f"none of the leads {', '.join(self.leads)} is present.")
        return ecg, sampling_rate, present

    def _prepare(self, ecg: np.ndarray, sampling_rate: float, present: np.ndarray, out: np.ndarray):
        """
        Writes the input of the model to `out`, `(leads, num_samples)`.

        Each lead of `ecg` is entirely NaN, if it is not `present`, or has no NaN.
        """
        ecg = self._crop(self._resample(ecg, sampling_rate).astype(np.float32, copy=False))
        if present.all():
            self._normalize(self._filter(ecg), out=out)
        else:
            out[:] = 0
            out[present] = self._normalize(self._filter(ecg[present]))

    def _crop(self, ecg: np.ndarray) -> np.ndarray:
        """The part of an ECG `(leads, samples)` at the model's rate that the model reads."""
        if ecg.shape[1] < self.num_samples:
            raise ValueError(
                f"the ECG is {ecg.shape[1] / self.sampling_rate:g} s long, the model reads "
                f"{self.num_samples / self.sampling_rate:g} s."
            )
        start = (ecg.shape[1] - self.num_samples) // 2 if self.crop == "center" else 0
        return ecg[:, start : start + self.num_samples]

    def _resample(self, ecg: np.ndarray, sampling_rate: float) -> np.ndarray:
        """The ECG at the model's rate."""
        if sampling_rate == self.sampling_rate:
            return ecg
        if self.resampling in ("polyphase", "cubic"):
            return resample(ecg, sampling_rate, self.sampling_rate, self.resampling)
        num_samples = int(ecg.shape[1] * self.sampling_rate / sampling_rate)
        if self.resampling == "fft":
            return scipy_signal().resample(ecg.astype(np.float64), num_samples, axis=1)
        positions = np.linspace(0, num_samples - 1, ecg.shape[1])
        return np.stack([np.interp(np.arange(num_samples), positions, lead) for lead in ecg])

    def _filter(self, ecg: np.ndarray) -> np.ndarray:
        if self.band_pass is None:
            return ecg
        signal = scipy_signal()
        ecg = ecg.astype(np.float64)
        for frequency, kind in zip(self.band_pass, ("highpass", "lowpass")):
            sections = signal.butter(5, frequency, kind, fs=self.sampling_rate, output="sos")
            ecg = signal.sosfiltfilt(sections, ecg, axis=1)
        return ecg

    def _check_array(self, ecg: np.ndarray, sampling_rate: float | None, lead_names: Sequence[str] | None):
        if ecg.ndim != 2 or ecg.size == 0:
            raise ValueError(f"expected the shape (leads, samples), got {ecg.shape}.")
        if ecg.dtype.kind != "f":
            raise ValueError(
                f"expected millivolt as floating-point numbers, got {ecg.dtype}. Divide integer microvolt by 1000."
            )
        if sampling_rate is None:
            raise ValueError(f"its `sampling_rate` in Hz is missing (the model's is {self.sampling_rate}).")
        if isinstance(sampling_rate, str):
            raise ValueError(f"`sampling_rate` must be a number of Hz, got {sampling_rate!r}.")
        if lead_names is None and len(ecg) != len(self.leads):
            raise ValueError(
                f"{len(ecg)} leads, but the model has {len(self.leads)} ({', '.join(self.leads)}). "
                "Name the leads with `lead_names`, or check that the array is (leads, samples)."
            )
        spans = ecg.max(axis=1) - ecg.min(axis=1)
        if spans.max() <= LARGEST_SPAN:  # false if a sample is NaN or infinite
            return
        self._check_samples(ecg, lead_names)
        spans = spans[~np.isnan(spans)]
        if np.count_nonzero(spans > LARGEST_SPAN) > len(spans) / 2:
            raise ValueError(f"its leads span up to {spans.max():.3g} mV, ECGs 0.2 to 5. Divide microvolt by 1000.")

    def _check_samples(self, ecg: np.ndarray, lead_names: Sequence[str] | None):
        invalid = ~np.isfinite(ecg)
        partly = invalid.any(axis=1) & ~np.isnan(ecg).all(axis=1)
        if partly.any():
            lead = int(np.flatnonzero(partly)[0])
            raise ValueError(
                f"lead {(lead_names or self.leads)[lead]} has {invalid[lead].sum()} NaN or infinite samples, the first "
                f"at sample {np.flatnonzero(invalid[lead])[0]}. Repair them, or make the whole lead NaN to leave it out."
            )

    def _normalize(self, ecg: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """The normalized ECG, written to `out` if given, which saves a pass over the samples."""
        offset, scale = 0, 1
        if self.normalization == "min_max":
            offset = ecg.min()
            scale = ecg.max() - offset + self.min_max_epsilon
        elif self.normalization == "z_score":
            offset, scale = ecg.mean(), ecg.std()
            scale = scale if scale > 1e-6 else np.inf
        normalized = np.subtract(ecg, offset, out=out, casting="same_kind")
        return np.divide(normalized, scale, out=normalized)


def _check_choice(name: str, value: str, choices: tuple[str, ...]):
    if value not in choices:
        raise ValueError(f'{name} "{value}" is not one of {", ".join(choices)}.')


def scipy_signal():
    """
    The module `scipy.signal`, which checkpoints need only if their preprocessing does.

    Raises:
        `ImportError`: If scipy is not installed.
    """
    try:
        import scipy.signal
    except ImportError as error:
        raise ImportError("preparing ECGs for this model needs scipy: pip install scipy") from error
    return scipy.signal


def _one_per_ecg(values: Sequence, num_ecgs: int, name: str) -> list:
    """The values as a list, after checking that there is one for each ECG."""
    if len(values) != num_ecgs:
        raise ValueError(f"{len(values)} {name} for {num_ecgs} ECGs.")
    return list(values)


EcgFeatureExtractor.register_for_auto_class("AutoFeatureExtractor")
# `AutoFeatureExtractor` finds the class by the name in its JSON file.
register(AutoFeatureExtractor, EcgFeatureExtractor, EcgFeatureExtractor)

__all__ = ["EcgFeatureExtractor", "scipy_signal"]
