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

import warnings
from collections.abc import Sequence
from numbers import Real
from os import PathLike

import numpy as np
from transformers import AutoFeatureExtractor, BatchFeature, FeatureExtractionMixin

from .auto_classes import register
from .device_files import is_device_file, load_device_file
from .ecg_download import downloaded_record, is_url
from .ecg_leads import LARGEST_SPAN, LEADS, SAMPLING_RATE, canonical_lead, other_signals, place_leads, typical_span
from .ecg_pictures import as_picture
from .ecg_quality import signal_quality
from .ecg_reading import load_signals
from .ecg_resampling import resample, resampled_length
from .ecg_segments import (
    LARGEST_RATE,
    SMALLEST_RATE,
    EcgSegment,
    described,
    place_recording,
    read_segments,
    whole_recording,
)


NORMALIZATIONS = ("millivolt", "min_max", "z_score", "none")
# Range of `normalization="millivolt"` in mV. The largest QRS complexes have about 6 mV.
LARGEST_MILLIVOLT = 10
RESAMPLINGS = ("polyphase", "cubic", "fft", "linear")
CROPS = ("start", "center")


class SignalQualityWarning(UserWarning):
    """An answer about an ECG is doubtful: its signal has problems that [`~ecg_quality.signal_quality`] finds."""


class MissingLeadsWarning(SignalQualityWarning):
    """Leads of an ECG are missing for the model, although the ECG has them or should have them."""


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
        normalization (`str`, *optional*, defaults to `"millivolt"`):
            `"millivolt"`: millivolt, clipped at -10 and 10, so that a spike does not change the rest of the ECG.
            `"min_max"`: scales the ECG to 0 ... 1, with one range for all leads (Han et al. 2024, ECG-Byte).
            `"z_score"`: zero mean and unit variance over all present leads; an ECG with a standard deviation below one
            nanovolt becomes zeros. `"none"`: millivolt, as it is. After `"min_max"` and `"z_score"` a model cannot
            tell an ECG of high voltage from one of low voltage; they are for encoders that were trained with them.
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
    # A subclass may have other values of `normalization` and `resampling`, may compute in float64 from the start, since
    # some published filters amplify rounding errors, and may prepare the whole recording: see `_prepare`.
    normalizations = NORMALIZATIONS
    resamplings = RESAMPLINGS
    working_dtype = np.float32
    prepares_whole = False

    def __init__(
        self,
        sampling_rate: int = SAMPLING_RATE,
        num_samples: int = 2500,
        leads: Sequence[str] = LEADS,
        normalization: str = "millivolt",
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
        *,
        keep_flat: bool | Sequence[bool] = False,
        judge_signal: bool = False,
    ) -> BatchFeature:
        r"""
        Prepares one ECG or several. The leads of an ECG are judged by the samples that the model reads: gaps of up to
        0.1 s are interpolated; leads that are flat or have longer gaps are missing, with a [`MissingLeadsWarning`].

        Args:
            ecg:
                An array of shape `(num_leads, num_samples)` in millivolt, the path of a WFDB record or of a file of an
                electrocardiograph (see [`~device_files.load_device_file`]), the `https://` address of a WFDB record, or
                a list of these; or an array of shape `(num_ecgs, num_leads, num_samples)`. Samples that are not finite
                or beyond 32.767 mV are invalid. A lead that is entirely NaN is absent.
            sampling_rate (`float` or `list[float]`, *optional*):
                Sampling rate of the arrays in Hz: one for all or one per ECG. Not needed for files.
            lead_names (`list[str]` or `list[list[str]]`, *optional*):
                Names of the rows of the arrays: one list for all or one per ECG. By default the rows are `leads`.
                Signals that are not among the twelve leads are dropped.
            return_tensors (`str`, *optional*):
                `"pt"` or `"np"`.
            keep_flat (`bool` or `list[bool]`, *optional*, defaults to `False`):
                Keep flat leads, for experiments that replace an ECG by zeros: for all ECGs or one per ECG.
            judge_signal (`bool`, *optional*, defaults to `False`):
                Warn of the problems that [`~ecg_quality.signal_quality`] finds, once per ECG, with a
                [`SignalQualityWarning`]. An ECG whose leads are all flat and a record whose limb leads disagree are
                then prepared; otherwise they are refused. ECGs with `keep_flat` are not judged.

        Returns:
            [`BatchFeature`] with `ecg_values` of shape `(num_ecgs, len(leads), num_samples)`, float32, 0 for missing
            leads; and `ecg_lead_mask` of shape `(num_ecgs, len(leads))`, `True` for present leads.

        Raises:
            `ValueError`: If the sampling rate is missing or not a number, the unit cannot be millivolt, the limb leads
                of a record disagree, no lead is present, or leads, length or samples are not as described. The message
                gives the position of the ECG.
            `ImportError`: If scipy is needed and not installed.
        """
        ecgs = list(ecg) if isinstance(ecg, list | tuple) or getattr(ecg, "ndim", 2) == 3 else [ecg]
        rates = [sampling_rate] * len(ecgs)
        if isinstance(sampling_rate, list | tuple):
            rates = _one_per_ecg(sampling_rate, len(ecgs), "sampling rates")
        names = [lead_names] * len(ecgs)
        if lead_names is not None and any(not isinstance(name, str) for name in lead_names):
            names = _one_per_ecg(lead_names, len(ecgs), "lists of lead names")
        flat = [keep_flat] * len(ecgs) if isinstance(keep_flat, bool) else keep_flat
        flat = _one_per_ecg(flat, len(ecgs), "values of keep_flat")

        values = np.empty((len(ecgs), len(self.leads), self.num_samples), dtype=np.float32)
        lead_mask = np.ones((len(ecgs), len(self.leads)), dtype=bool)
        said, first_of = set(), {}
        for index, (one, *arguments) in enumerate(zip(ecgs, rates, names, flat)):
            # Many questions are about one ECG. Judging its signal takes long, and is done once.
            first = first_of.setdefault((_identity(one), str(arguments)), index) if judge_signal else index
            if first != index:
                values[index], lead_mask[index] = values[first], lead_mask[first]
                continue
            position = f"ECG {index + 1} of {len(ecgs)}"
            try:
                segment, rate, warning = self._read(one, *arguments, position=position, judge_signal=judge_signal)
                which = one if isinstance(one, str | PathLike) else id(one)
                if warning is not None and which not in said:
                    warnings.warn(warning, stacklevel=2)
                    said.add(which)
                if any(segment.causes):
                    lead_mask[index] = [cause is None for cause in segment.causes]
                self._prepare(segment.ecg, rate, lead_mask[index], out=values[index])
            except ValueError as error:
                raise ValueError(f"{position}: {error}") from error
        return BatchFeature({"ecg_values": values, "ecg_lead_mask": lead_mask}, tensor_type=return_tensors)

    def read(
        self,
        ecg,
        sampling_rate: float | None = None,
        lead_names: Sequence[str] | None = None,
        leads: Sequence[str] | None = None,
    ) -> EcgSegment:
        r"""
        The part of an ECG that the model reads, before filters and normalization, and why leads are missing in it.

        Args:
            ecg, sampling_rate, lead_names:
                One ECG, as for calling the extractor.
            leads (`list[str]`, *optional*):
                Leads to return. By default those of the model.

        Returns:
            [`EcgSegment`]: The leads in millivolt at the model's sampling rate, of shape `(num_leads, num_samples)`. If
            the extractor prepares the whole recording, that one, at its own rate.

        Raises:
            `ValueError`: As for calling the extractor, but not if no lead is present or limb leads disagree.
        """
        leads = tuple(leads or self.leads)
        return self._segment(*self._placed(ecg, sampling_rate, lead_names, leads, check_limb_leads=False)[:2])

    def read_unchanged(
        self, ecg, sampling_rate: float | None = None, lead_names: Sequence[str] | None = None
    ) -> tuple[np.ndarray, float]:
        r"""
        The part of an ECG that the model reads, with all twelve leads and at the ECG's own sampling rate.

        Args:
            ecg, sampling_rate, lead_names:
                One ECG, as for calling the extractor.

        Returns:
            `tuple[np.ndarray, float]`: The leads in millivolt in the order of `LEADS`, of shape `(12, samples)`, NaN
            where absent; and the sampling rate in Hz.
        """
        placed, rate, _ = self._placed(ecg, sampling_rate, lead_names, LEADS, check_limb_leads=False)
        first, end = self._edges(placed, rate)
        return placed[:, first:end], rate

    def _prepare(self, ecg: np.ndarray, sampling_rate: float, present: np.ndarray, out: np.ndarray):
        """
        Writes the input of the model to `out`, `(leads, num_samples)`.

        Args:
            ecg: what the model reads, `(leads, samples)` in mV: the segment at the model's rate, or with
                `prepares_whole` the whole recording at its own rate. A missing lead is NaN, the others have no NaN.
            sampling_rate: sampling rate of `ecg` in Hz.
            present: which leads are not missing, `(leads,)`.
            out: the array to write.
        """
        if present.all():
            self._normalize(self._filter(ecg), out=out)
        else:
            out[:] = 0
            out[present] = self._normalize(self._filter(ecg[present]))

    def _crop(self, ecg: np.ndarray, sampling_rate: float | None = None) -> np.ndarray:
        """The part of an ECG `(leads, samples)` that the model reads, at the model's rate or at another one."""
        rate = self.sampling_rate if sampling_rate is None else sampling_rate
        num_samples = round(self.num_samples * rate / self.sampling_rate)
        start = self._start(ecg.shape[1], num_samples, rate)
        return ecg[:, start : start + num_samples]

    def _start(self, samples: int, num_samples: int, rate: float) -> int:
        """The first of the `num_samples` that the model reads of an ECG of `samples`, both at `rate` Hz."""
        if samples < num_samples:
            raise ValueError(f"the ECG is {samples / rate:g} s long, the model reads {num_samples / rate:g} s.")
        return (samples - num_samples) // 2 if self.crop == "center" else 0

    def _read(
        self, ecg, sampling_rate, lead_names, keep_flat: bool, position: str, judge_signal: bool
    ) -> tuple[EcgSegment, float, Warning | None]:
        """The segment of the model, the sampling rate of the recording, and a warning of missing leads and problems."""
        leads = tuple(self.leads)
        judge_signal = judge_signal and not keep_flat
        placed, rate, others = self._placed(ecg, sampling_rate, lead_names, leads, check_limb_leads=not judge_signal)
        segment = self._segment(placed, rate, keep_flat)
        is_file = isinstance(ecg, str | PathLike)
        if not is_file and not segment.span <= LARGEST_SPAN:
            span = typical_span(placed)
            if span is not None and span > LARGEST_SPAN:
                raise ValueError(f"its leads span {span:.3g} mV, ECGs 0.2 to 5. Divide microvolt by 1000.")
        problems = []
        if judge_signal and all(segment.causes) and "flat" in segment.causes:
            problems = [f"all leads are flat: {described(self.leads, segment.causes)}"]
            segment = self._segment(placed, rate, keep_flat=True)
        elif judge_signal:
            first, end = self._edges(placed, rate)
            missing = np.array([cause is not None for cause in segment.causes])
            problems = signal_quality(np.where(missing[:, None], np.nan, placed[:, first:end]), rate, self.leads)
        if all(segment.causes):
            found = f"{ecg}: " if is_file else ""
            raise ValueError(f"{found}none of the leads can be used: {described(self.leads, segment.causes)}.")
        parts = []
        if any(segment.causes):
            # A lead that is absent from an array, or NaN in it, was left out on purpose.
            said = [
                cause if cause is not None and (is_file or not np.isnan(lead).all()) else None
                for lead, cause in zip(placed, segment.causes)
            ]
            parts += ["missing leads: " + described(self.leads, said)] if any(said) else []
        if is_file and others:
            parts.append("signals that are not among the twelve leads are not read: " + ", ".join(others))
        if not parts and not problems:
            return segment, rate, None
        name = f"{position} ({ecg})" if is_file else position
        kind = SignalQualityWarning if problems else MissingLeadsWarning
        return segment, rate, kind(f"{name}: {'; '.join(problems + parts)}")

    def _placed(
        self,
        ecg,
        sampling_rate: float | None,
        lead_names: Sequence[str] | None,
        leads: tuple[str, ...],
        *,
        check_limb_leads: bool,
    ) -> tuple[np.ndarray, float, list[str]]:
        """The leads of an ECG `(leads, samples)`, float32 in mV, NaN if absent; the sampling rate; other signals."""
        if (picture := as_picture(ecg)) is not None:
            raise ValueError(
                f"{picture.name} is a picture, and this model reads signals. Give it the recording, or the picture to a "
                'model of drawn ECGs (representation "image").'
            )
        if isinstance(ecg, str | PathLike):
            if is_url(ecg):
                with downloaded_record(ecg) as path:
                    signals, sampling_rate, lead_names, others = self._load(path)
            else:
                signals, sampling_rate, lead_names, others = self._load(ecg)
            placed, more = place_recording(
                signals,
                sampling_rate,
                lead_names,
                str(ecg),
                "of its header",
                self.working_dtype,
                check_limb_leads=check_limb_leads,
            )
            rows = [LEADS.index(canonical_lead(lead)) for lead in leads]
            return placed if leads == LEADS else placed[rows], sampling_rate, more + others
        ecg = np.asarray(ecg)
        self._check_array(ecg, sampling_rate, lead_names)
        if ecg.dtype != self.working_dtype:
            with np.errstate(over="ignore"):  # what becomes infinite is invalid
                ecg = ecg.astype(self.working_dtype)
        names = self.leads if lead_names is None else list(lead_names)
        if names == list(leads):
            return ecg, sampling_rate, []
        others = other_signals(names)
        kept = [row for row, name in enumerate(names) if name not in others]
        placed, _ = place_leads(ecg[kept] if others else ecg, [names[row] for row in kept], leads, self.working_dtype)
        return placed, sampling_rate, others

    def _edges(self, ecg: np.ndarray, sampling_rate: float) -> tuple[int, int]:
        """The first sample of the part that the model reads, and the first one behind it, at the ECG's own rate."""
        ratio = sampling_rate / self.sampling_rate
        start = self._start(
            max(self._length(ecg, sampling_rate), self.num_samples), self.num_samples, self.sampling_rate
        )
        first, end = (min(round(edge * ratio), ecg.shape[1]) for edge in (start, start + self.num_samples))
        return first, end

    def _length(self, ecg: np.ndarray, sampling_rate: float) -> int:
        """Samples of a lead of the whole ECG at the model's rate."""
        if self.resampling in ("fft", "linear"):
            return int(ecg.shape[1] * self.sampling_rate / sampling_rate)
        return resampled_length(ecg.shape[1], sampling_rate, self.sampling_rate)

    def _load(self, path: str | PathLike) -> tuple[np.ndarray, float, list[str], list[str]]:
        """The signals of a file, its sampling rate, their names, and the names of the signals that are left out."""
        if not is_device_file(path):
            return load_signals(path, dtype=self.working_dtype)
        device = load_device_file(path)
        signals = device.ecg.astype(self.working_dtype, copy=False)
        return signals, device.sampling_rate, device.lead_names, device.other_signals

    def _segment(self, ecg: np.ndarray, sampling_rate: float, keep_flat: bool = False) -> EcgSegment:
        """The part that the model reads."""
        if self.prepares_whole:  # `_prepare` refuses an ECG that is too short
            first, end = self._edges(ecg, sampling_rate)
            (segment,) = read_segments(ecg, sampling_rate, [first], end - first, sampling_rate, keep_flat=keep_flat)
            segment.ecg = whole_recording(ecg, [[first, end]], [segment])
            missing = [row for row, cause in enumerate(segment.causes) if cause is not None]
            if missing:
                segment.ecg = segment.ecg.copy()
                segment.ecg[missing] = np.nan
            return segment
        start = self._start(self._length(ecg, sampling_rate), self.num_samples, self.sampling_rate)
        window = [start], self.num_samples, self.sampling_rate
        (segment,) = read_segments(ecg, sampling_rate, *window, self._resample, keep_flat=keep_flat)
        segment.ecg = segment.ecg.astype(np.float32, copy=False)
        return segment

    def _resample(self, ecg: np.ndarray, sampling_rate: float, new_sampling_rate: float | None = None) -> np.ndarray:
        """The ECG at the model's rate, or at another one."""
        new_sampling_rate = self.sampling_rate if new_sampling_rate is None else new_sampling_rate
        if sampling_rate == new_sampling_rate:
            return ecg
        if self.resampling in ("polyphase", "cubic"):
            return resample(ecg, sampling_rate, new_sampling_rate, self.resampling)
        num_samples = int(ecg.shape[1] * new_sampling_rate / sampling_rate)
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
        if not isinstance(sampling_rate, Real) or not SMALLEST_RATE <= sampling_rate <= LARGEST_RATE:
            raise ValueError(
                f"`sampling_rate` must be a number of Hz from {SMALLEST_RATE} to {LARGEST_RATE}, got {sampling_rate!r}."
            )
        number = len(self.leads) if lead_names is None else len(lead_names)
        if len(ecg) == number:
            return
        if len(ecg) > ecg.shape[1]:
            raise ValueError(
                f"the array of shape {ecg.shape} seems to be (samples, leads), expected (leads, samples). Transpose it."
            )
        if lead_names is None:
            raise ValueError(
                f"{len(ecg)} leads without names, but the model has {number} ({', '.join(self.leads)}). Name the leads "
                "with `lead_names`, in their order."
            )
        raise ValueError(f"{number} `lead_names` for an array of {len(ecg)} leads, expected one per row.")

    def _normalize(self, ecg: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """The normalized ECG, written to `out` if given, which saves a pass over the samples."""
        if self.normalization == "millivolt":
            return ecg.clip(-LARGEST_MILLIVOLT, LARGEST_MILLIVOLT, out=out, casting="same_kind")
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


def _identity(ecg):
    """Equal for ECGs of one call that have the same samples in memory, or the same path."""
    if isinstance(ecg, np.ndarray):
        return ecg.__array_interface__["data"][0], ecg.shape, ecg.strides, ecg.dtype.str
    return str(ecg) if isinstance(ecg, str | PathLike) else id(ecg)


def _one_per_ecg(values: Sequence, num_ecgs: int, name: str) -> list:
    """The values as a list, after checking that there is one for each ECG."""
    if len(values) != num_ecgs:
        raise ValueError(f"{len(values)} {name} for {num_ecgs} ECGs.")
    return list(values)


EcgFeatureExtractor.register_for_auto_class("AutoFeatureExtractor")
# `AutoFeatureExtractor` finds the class by the name in its JSON file.
register(AutoFeatureExtractor, EcgFeatureExtractor, EcgFeatureExtractor)

__all__ = ["EcgFeatureExtractor", "MissingLeadsWarning", "SignalQualityWarning", "scipy_signal"]
