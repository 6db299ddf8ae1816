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
"""Signal quality: what in an ECG is no ECG, or not the whole one."""

from collections.abc import Sequence

import numpy as np

from .ecg_leads import LEADS, SMALLEST_SPAN, canonical_lead, limb_lead_error, typical_span
from .ecg_resampling import interpolate, runs


# Clipping. A lead rests at its largest or smallest value (rounded to a microvolt) for at least 3 samples and 8 ms in a
# piece, with steps of 2 % of the lead's range on both sides, away from the middle of the lead; 20 ms in all. A rounded wave
# has small steps beside its top, and the top of a QRS complex is shorter.
_CLIPPED_SAMPLES, _CLIPPED_PIECE_S, _CLIPPED_S = 3, 0.008, 0.02
_STEP_SHARE, _MIDDLE_SHARE = 0.02, 0.1
# Seconds in which the samples of a lead do not change.
_FLAT_S = 1.5
# White noise, see `_noise_like`: pieces in seconds, band in Hz, the smallest flatness, and the largest kurtosis.
_PIECE_S, _BAND, _SMALLEST_FLATNESS, _LARGEST_KURTOSIS = 0.5, (2, 40), 0.8, 5


def signal_quality(ecg: np.ndarray, sampling_rate: float, leads: Sequence[str] = LEADS) -> list[str]:
    r"""
    Finds what in an ECG makes an answer about it doubtful: leads that are flat, clipped or like white noise, limb leads
    that contradict each other (see [`~ecg_leads.limb_lead_error`]), and an amplitude that no ECG has.

    - Flat: all samples of a lead are equal to a microvolt, or those of 1.5 s.
    - Clipped: a lead rests at its largest or smallest value, with steps before and after, for 20 ms or more in all.
    - Noise-like: between 2 and 40 Hz the spectrum of a lead has a flatness above 0.8 (the geometric mean of the power
      over its arithmetic mean: 1 for white noise), and the differences of successive samples have a kurtosis below 5
      (3 for normally distributed noise; QRS complexes, which are few and steep, raise it). White noise of 2 s and more
      has a flatness from 0.84 on and a kurtosis up to 4.3. Of the leads of real ECGs (1,000 of PTB-XL at 100 Hz, 200 of
      LUDB at 500 Hz), 0.5 % have a flatness above 0.84, and 0.1 % a kurtosis below 5.

    Leads are named once: the contradiction of limb leads is not checked in leads that are clipped or noise-like.

    Args:
        ecg (`np.ndarray` of shape `(len(leads), num_samples)`):
            The ECG in millivolt, NaN where invalid. Leads without a valid sample are absent and not judged.
        sampling_rate (`float`):
            Sampling rate in Hz.
        leads (`list[str]`, *optional*, defaults to the twelve standard leads in standard order):
            Name of each row.

    Returns:
        `list[str]`: One sentence for each problem, such as `"flat: V1, V2"`; empty for an ECG without problems.
    """
    ecg = np.asarray(ecg, np.float32)
    present = np.flatnonzero(np.isfinite(ecg).any(axis=1)) if ecg.size else np.array([], int)
    span = typical_span(ecg[present])
    if span is not None and span < SMALLEST_SPAN:
        return [f"the leads span {span:.2g} mV, ECGs 0.2 to 5 (is it in millivolt?)"]
    rows = {row: np.rint(1000 * interpolate(ecg[row][None])[0].astype(np.float64)) for row in present}  # in microvolt
    flat = [row for row, lead in rows.items() if lead.min() == lead.max()]
    still = {row: _longest_constant(lead) / sampling_rate for row, lead in rows.items() if row not in flat}
    still = {row: seconds for row, seconds in still.items() if seconds >= _FLAT_S}
    judged = [row for row in rows if row not in flat and row not in still]
    clipped = [row for row in judged if _is_clipped(rows[row], sampling_rate)]
    noise = [row for row in judged if row not in clipped and _is_noise_like(rows[row], sampling_rate)]
    limbs = [row for row in rows if canonical_lead(leads[row]) in ("I", "II", "III")]
    if len(set(limbs) & set(noise)) < min(2, len(limbs)):  # two that are equal leave noise in their difference
        noise = [row for row in noise if canonical_lead(leads[row]).startswith("V")]

    def named(found: Sequence[int]) -> str:
        return "all leads" if len(found) == len(rows) > 1 else ", ".join(leads[row] for row in found)

    problems = [f"{kind}: {named(found)}" for kind, found in (("flat", flat), ("clipped", clipped)) if found]
    if still:
        problems.append(f"flat for {max(still.values()):.3g} s: {named(list(still))}")
    if noise:
        problems.append(f"like white noise: {named(noise)}")
    rest = [row for row in judged if row not in clipped and row not in noise]
    contradiction = limb_lead_error(ecg[rest], [leads[row] for row in rest]) if rest else None
    if contradiction is not None:
        problems.append(f"the limb leads disagree: {contradiction}")
    return problems


def _longest_constant(lead: np.ndarray) -> int:
    """The largest number of successive samples of a lead `(samples,)` that are equal."""
    edges = np.flatnonzero(np.diff(lead))
    return int(np.diff(np.concatenate([[-1], edges, [len(lead) - 1]])).max())


def _is_clipped(lead: np.ndarray, sampling_rate: float) -> bool:
    """Whether a lead `(samples,)` in microvolt rests at its largest or smallest value."""
    low, high = lead.min(), lead.max()
    span, middle = high - low, np.median(lead)
    shortest = max(_CLIPPED_SAMPLES, _CLIPPED_PIECE_S * sampling_rate)
    clipped = 0
    for limit in (low, high):
        if abs(limit - middle) < _MIDDLE_SHARE * span:
            continue
        for start, end in runs(lead == limit):
            if end - start >= shortest:
                steps = [abs(lead[place] - limit) for place in (start - 1, end) if 0 <= place < len(lead)]
                clipped += (end - start) * (min(steps) >= _STEP_SHARE * span)
    return clipped >= _CLIPPED_S * sampling_rate


def _is_noise_like(lead: np.ndarray, sampling_rate: float) -> bool:
    """Whether a lead `(samples,)` is like white noise, see [`~ecg_quality.signal_quality`]."""
    length = round(_PIECE_S * sampling_rate)
    if len(lead) < 2 * length:
        return False
    differences = np.diff(lead)
    if np.mean(differences**4) >= _LARGEST_KURTOSIS * np.mean(differences**2) ** 2:
        return False
    pieces = np.lib.stride_tricks.sliding_window_view(lead, length)[:: length // 2]
    pieces = (pieces - pieces.mean(axis=1, keepdims=True)) * np.hanning(length + 2)[1:-1]
    power = (np.abs(np.fft.rfft(pieces, axis=1)) ** 2).mean(axis=0)
    frequencies = np.fft.rfftfreq(length, 1 / sampling_rate)
    power = power[(frequencies >= _BAND[0]) & (frequencies <= min(_BAND[1], 0.45 * sampling_rate))]
    return float(np.exp(np.mean(np.log(power + 1e-12))) / (power.mean() + 1e-12)) > _SMALLEST_FLATNESS


__all__ = ["signal_quality"]
