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
from .ecg_resampling import fill_gaps, interpolate, resample


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
        spans: array `(leads,)`, difference of the largest and smallest sample before gaps were filled, in mV.
    """

    ecg: np.ndarray
    causes: list[str | None]
    num_filled: int
    spans: np.ndarray


def place_recording(
    ecg: np.ndarray,
    sampling_rate: float,
    lead_names: Sequence[str],
    name: str = "recording",
    units: str | None = None,
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

    Returns:
        `tuple[np.ndarray, list[str]]`: The leads, of shape `(12, num_samples)`, float32, in the order of `LEADS`, NaN
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
        placed, _ = place_leads(ecg[kept] if others else ecg, [lead_names[row] for row in kept])
    except ValueError as error:
        raise RecordingError("repeated lead", f"{name}: {error}") from error
    disagreement = limb_lead_error(placed)
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
    ratio = sampling_rate / new_sampling_rate
    edges = [[min(round(edge * ratio), ecg.shape[1]) for edge in (start, start + num_samples)] for start in starts]
    segments = [_judged(ecg[:, start:end], sampling_rate, keep_flat) for start, end in edges]
    if sampling_rate == new_sampling_rate:
        return segments
    resampled = resample(_whole(ecg, edges, segments), sampling_rate, new_sampling_rate)
    for start, segment in zip(starts, segments):
        segment.ecg = resampled[:, start : start + num_samples]
        # The filter overshoots at steps, and what varies too fast for the new rate becomes flat.
        beyond, is_flat, _ = _range(segment.ecg)
        for row, cause in enumerate(segment.causes):
            if cause is None and beyond[row]:
                segment.causes[row] = f"beyond ±{LARGEST_MILLIVOLT} mV"
            elif cause is None and is_flat[row] and not keep_flat:
                segment.causes[row] = "flat"
        missing = [row for row, cause in enumerate(segment.causes) if cause is not None]
        segment.ecg[missing] = np.nan
    return segments


def _judged(ecg: np.ndarray, sampling_rate: float, keep_flat: bool) -> EcgSegment:
    """A segment `(leads, samples)` at its own rate with its short gaps filled and its missing leads NaN."""
    beyond, is_flat, spans = _range(ecg)
    doubtful = beyond if keep_flat else beyond | is_flat
    causes: list[str | None] = [None] * len(ecg)
    if not doubtful.any():
        return EcgSegment(ecg, causes, 0, spans)
    ecg, num_filled = ecg.copy(), 0
    for row in np.flatnonzero(doubtful):
        causes[row], filled = _judge_lead(ecg[row], sampling_rate, keep_flat)
        num_filled += filled
    return EcgSegment(ecg, causes, num_filled, spans)


def _range(ecg: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each lead whether a sample is invalid, whether all samples are equal to a microvolt, and what they span."""
    low, high = ecg.min(axis=1), ecg.max(axis=1)
    is_valid = (low >= -LARGEST_MILLIVOLT) & (high <= LARGEST_MILLIVOLT)  # false if a sample is NaN
    with np.errstate(invalid="ignore"):  # infinite samples
        return ~is_valid, np.rint(1000 * low) == np.rint(1000 * high), high - low


def _judge_lead(lead: np.ndarray, sampling_rate: float, keep_flat: bool) -> tuple[str | None, int]:
    """Fills the short gaps of a lead in place, or makes it NaN. Returns why it is missing, and the number of gaps."""
    invalid = ~(np.abs(lead) <= LARGEST_MILLIVOLT)
    cause, num_gaps = None, 0
    if invalid.all():
        cause = "no valid sample"
    elif not keep_flat and np.rint(1000 * lead[~invalid].min()) == np.rint(1000 * lead[~invalid].max()):
        cause = "flat"
    elif invalid.any():
        edges = np.flatnonzero(np.diff(np.concatenate([[False], invalid, [False]])))
        gaps = edges[1::2] - edges[::2]
        num_gaps, longest = len(gaps), gaps.max() / sampling_rate
        if longest > LONGEST_GAP + 1e-6 / sampling_rate:
            cause, num_gaps = f"a gap of {longest:.3g} s", 0
    if cause is None:
        lead[invalid] = np.nan
        lead[:] = fill_gaps(lead[None], sampling_rate, LONGEST_GAP)[0]
    else:
        lead[:] = np.nan
    return cause, num_gaps


def _whole(ecg: np.ndarray, edges: list[list[int]], segments: list[EcgSegment]) -> np.ndarray:
    """The recording for resampling: with the filled gaps, and all other invalid samples interpolated."""
    low, high = ecg.min(), ecg.max()
    if low >= -LARGEST_MILLIVOLT and high <= LARGEST_MILLIVOLT:
        return ecg  # nothing was filled
    whole = np.where(np.abs(ecg) <= LARGEST_MILLIVOLT, ecg, np.float32(np.nan))
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


__all__ = ["EcgSegment", "RecordingError", "described", "place_recording", "read_segments"]
