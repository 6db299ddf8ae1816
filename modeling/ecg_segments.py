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
"""From a recording to the segment that a model reads: which leads and samples are valid. Every reader uses these rules."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .ecg_leads import LARGEST_SPAN, SMALLEST_SPAN, limb_lead_error, other_signals, place_leads, typical_span
from .ecg_resampling import interpolate, resample, runs


# The largest absolute value that int16 microvolt can represent on both sides of zero. Larger values are invalid.
LARGEST_MILLIVOLT = 32.767
# Seconds; longer runs of invalid samples are not interpolated.
LONGEST_GAP = 0.1
# Hz; a lower value is probably a sampling interval or in other units, and no electrocardiograph samples faster.
SMALLEST_RATE, LARGEST_RATE = 50, 20_000


class RecordingError(ValueError):
    r"""
    A recording cannot be used. `str(error)` gives the name of the recording and the cause.

    Args:
        reason (`str`):
            A short category, used for counting: "missing file", "path outside the source", "unreadable header" (the
            header cannot be read or does not match its signal file), "unreadable metadata", "unknown lead", "repeated
            lead", "limb leads disagree", "absurd sampling rate", "absurd amplitude", "too short", "no usable lead", or
            a reason defined by a dataset script.
        message (`str`):
            The message.
    """

    def __init__(self, reason: str, message: str):
        super().__init__(reason, message)
        self.reason = reason

    def __str__(self) -> str:
        return self.args[1]


@dataclass
class EcgSegment:
    """
    A segment of a recording as a model reads it.

    Attributes:
        ecg: array `(leads, samples)`, float32 in mV; a missing lead is a row of NaN.
        causes: for each lead why it is missing, such as `"flat"` or `"a gap of 0.4 s"`; `None` if it is present.
        num_filled: number of gaps that were interpolated.
        span: difference of the largest and the smallest sample of all leads without NaN, in mV.
    """

    ecg: np.ndarray
    causes: list[str | None]
    num_filled: int
    span: float


def place_recording(
    ecg: np.ndarray,
    sampling_rate: float,
    lead_names: Sequence[str],
    name: str = "recording",
    units: str | None = None,
    dtype: type = np.float32,
    *,
    check_limb_leads: bool = True,
) -> tuple[np.ndarray, list[str]]:
    r"""
    Places the leads of a recording by name, drops other signals, and checks that the recording can be an ECG.

    Args:
        ecg (`np.ndarray` of shape `(len(lead_names), num_samples)`):
            The recording in millivolt, NaN where invalid.
        sampling_rate (`float`):
            Sampling rate in Hz.
        lead_names (`list[str]`):
            Name of each row.
        name (`str`, *optional*, defaults to `"recording"`):
            Name of the recording in error messages, such as its path.
        units (`str`, *optional*):
            Units of the file in error messages. With them, the amplitude is checked.
        dtype (`type`, *optional*, defaults to `np.float32`):
            Precision of the result.
        check_limb_leads (`bool`, *optional*, defaults to `True`):
            Whether to refuse limb leads that disagree.

    Returns:
        `tuple[np.ndarray, list[str]]`: The leads, of shape `(12, num_samples)`, in the order of `LEADS`, NaN
        where absent; and the names of the other signals.

    Raises:
        [`RecordingError`]: If the recording cannot be used. The reason is "absurd sampling rate", "unknown lead",
            "repeated lead", "limb leads disagree" or "absurd amplitude".
    """
    if not SMALLEST_RATE <= sampling_rate <= LARGEST_RATE:  # also refuses NaN
        raise RecordingError(
            "absurd sampling rate",
            f"{name}: a sampling rate of {float(sampling_rate):g} Hz, expected {SMALLEST_RATE} to {LARGEST_RATE} Hz",
        )
    try:
        others = other_signals(lead_names)
    except ValueError as error:
        raise RecordingError("unknown lead", f"{name}: {error}") from error
    kept = [row for row, lead in enumerate(lead_names) if lead not in others]
    try:
        placed, _ = place_leads(ecg[kept] if others else ecg, [lead_names[row] for row in kept], dtype=dtype)
    except ValueError as error:
        raise RecordingError("repeated lead", f"{name}: {error}") from error
    disagreement = limb_lead_error(placed) if check_limb_leads else None
    if disagreement:
        raise RecordingError("limb leads disagree", f"{name}: the limb leads disagree: {disagreement}")
    span = None if units is None else typical_span(placed)
    if span is not None and not SMALLEST_SPAN <= span <= LARGEST_SPAN:
        raise RecordingError(
            "absurd amplitude",
            f"{name}: its leads span {span:.3g} mV with the units {units}; ECGs span 0.2 to 5 mV. Check the units (mV, "
            "uV or V) and whether the file contains an ECG",
        )
    return placed, others


def read_segments(
    ecg: np.ndarray,
    sampling_rate: float,
    starts: Sequence[int],
    num_samples: int,
    new_sampling_rate: float,
    resample: Callable[[np.ndarray, float, float], np.ndarray] = resample,
    *,
    keep_flat: bool = False,
) -> list[EcgSegment]:
    r"""
    Cuts segments out of a recording and resamples them. Each is judged by its own samples:

    - Samples that are not finite or beyond ±32.767 mV are invalid.
    - Runs of up to 0.1 s of invalid samples are interpolated. A lead with a longer run is missing.
    - A lead without a valid sample, or whose samples are equal (to a microvolt), is missing.

    Args:
        ecg (`np.ndarray` of shape `(num_leads, total_samples)`):
            The recording in millivolt, float32, NaN where invalid.
        sampling_rate (`float`):
            Its sampling rate in Hz.
        starts (`list[int]`):
            First sample of each segment, at the new rate.
        num_samples (`int`):
            Samples of a segment, at the new rate.
        new_sampling_rate (`float`):
            Sampling rate of the segments in Hz.
        resample (`Callable`, *optional*):
            Function that resamples an array from one rate to another.
        keep_flat (`bool`, *optional*, defaults to `False`):
            Keep flat leads, for experiments that replace an ECG by zeros.

    Returns:
        `list[EcgSegment]`: The segments. Without resampling they may share the memory of `ecg`.
    """
    if sampling_rate == new_sampling_rate:
        return [_judged(ecg[:, start : start + num_samples], sampling_rate, keep_flat) for start in starts]
    ratio = sampling_rate / new_sampling_rate
    edges = [[min(round(edge * ratio), ecg.shape[1]) for edge in (start, start + num_samples)] for start in starts]
    segments = [_judged(ecg[:, start:end], sampling_rate, keep_flat) for start, end in edges]
    resampled = resample(whole_recording(ecg, edges, segments), sampling_rate, new_sampling_rate)
    for start, segment in zip(starts, segments):
        segment.ecg = resampled[:, start : start + num_samples]
        # The filter overshoots at steps, and what varies too fast for the new rate becomes flat.
        low, high = segment.ecg.min(axis=1), segment.ecg.max(axis=1)
        for row, cause in enumerate(segment.causes):
            if cause is None and not (low[row] >= -LARGEST_MILLIVOLT and high[row] <= LARGEST_MILLIVOLT):
                segment.causes[row] = f"beyond ±{LARGEST_MILLIVOLT} mV"
            elif cause is None and not keep_flat and np.rint(1000 * low[row]) == np.rint(1000 * high[row]):
                segment.causes[row] = "flat"
        missing = [row for row, cause in enumerate(segment.causes) if cause is not None]
        segment.ecg[missing] = np.nan
    return segments


def _judged(ecg: np.ndarray, sampling_rate: float, keep_flat: bool) -> EcgSegment:
    """A segment `(leads, samples)` at its own rate with its short gaps filled and its missing leads NaN."""
    low, high = np.minimum.reduce(ecg, axis=1), np.maximum.reduce(ecg, axis=1)
    lows, highs = low.tolist(), high.tolist()
    if all(
        lowest >= -LARGEST_MILLIVOLT and highest <= LARGEST_MILLIVOLT and highest - lowest > 0.001
        for lowest, highest in zip(lows, highs)
    ):  # all samples of all leads are valid, and no lead is flat
        return EcgSegment(ecg, [None] * len(ecg), 0, max(highs) - min(lows))
    lowest, highest = float(np.fmin.reduce(low)), float(np.fmax.reduce(high))  # those of leads without NaN
    segment = EcgSegment(ecg, [None] * len(ecg), 0, highest - lowest)
    is_flat = np.rint(1000 * low) == np.rint(1000 * high)
    beyond = ~((low >= -LARGEST_MILLIVOLT) & (high <= LARGEST_MILLIVOLT))  # true if a sample is NaN
    for row in np.flatnonzero(beyond if keep_flat else beyond | is_flat).tolist():
        segment.causes[row], lead, num_filled = _judge_lead(ecg[row], sampling_rate, keep_flat)
        segment.num_filled += num_filled
        if segment.ecg is ecg:
            segment.ecg = ecg.copy()
        segment.ecg[row] = lead
    return segment


def _judge_lead(lead: np.ndarray, sampling_rate: float, keep_flat: bool) -> tuple[str | None, np.ndarray | float, int]:
    """Why a lead is missing; its samples with filled gaps, NaN if it is missing; and the number of gaps."""
    invalid = ~(np.abs(lead) <= LARGEST_MILLIVOLT)
    if invalid.all():
        return "no valid sample", np.nan, 0
    valid = lead[~invalid]
    if not keep_flat and np.rint(1000 * valid.min()) == np.rint(1000 * valid.max()):
        return "flat", np.nan, 0
    gaps = np.diff(runs(invalid))
    longest = gaps.max(initial=0) / sampling_rate
    if longest > LONGEST_GAP + 1e-6 / sampling_rate:
        return f"a gap of {longest:.3g} s", np.nan, 0
    return None, interpolate(np.where(invalid, lead.dtype.type(np.nan), lead)[None])[0], len(gaps)


def whole_recording(ecg: np.ndarray, edges: Sequence[Sequence[int]], segments: Sequence[EcgSegment]) -> np.ndarray:
    r"""
    The recording for resampling and filters: with the filled gaps of the segments, and all other invalid samples
    interpolated.

    Args:
        ecg (`np.ndarray` of shape `(num_leads, total_samples)`):
            The recording in millivolt, NaN where invalid.
        edges (`list[list[int]]`):
            First sample of each segment, and the first one behind it.
        segments (`list[EcgSegment]`):
            The segments at the rate of the recording.

    Returns:
        `np.ndarray` of shape `(num_leads, total_samples)`: The recording without NaN, which may be `ecg` itself.
    """
    low, high = ecg.min(), ecg.max()
    if low >= -LARGEST_MILLIVOLT and high <= LARGEST_MILLIVOLT:
        return ecg  # nothing was filled
    whole = np.where(np.abs(ecg) <= LARGEST_MILLIVOLT, ecg, ecg.dtype.type(np.nan))
    for (start, end), segment in zip(edges, segments):
        present = [row for row, cause in enumerate(segment.causes) if cause is None]
        whole[present, start:end] = segment.ecg[present]
    return interpolate(whole)


def described(leads: Sequence[str], causes: Sequence[str | None]) -> str:
    r"""
    The missing leads of a segment in words.

    Args:
        leads (`list[str]`):
            Name of each lead.
        causes (`list[str]`):
            Why each lead is missing; `None` for a present lead.

    Returns:
        `str`: For example `"V2, V3 (flat), V5 (a gap of 0.4 s)"`; empty if no lead is missing.
    """
    leads_of: dict[str, list[str]] = {}
    for lead, cause in zip(leads, causes):
        if cause is not None:
            leads_of.setdefault(cause, []).append(lead)
    return ", ".join(f"{', '.join(names)} ({cause})" for cause, names in leads_of.items())


__all__ = [
    "LARGEST_MILLIVOLT",
    "EcgSegment",
    "RecordingError",
    "described",
    "place_recording",
    "read_segments",
    "whole_recording",
]
