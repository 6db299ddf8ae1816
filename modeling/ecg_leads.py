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
"""The twelve leads: their names and order, the identities of the limb leads, and plausible amplitudes."""

import re
from functools import lru_cache
from statistics import median

import numpy as np


LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
SAMPLING_RATE = 250
# In mV from the 1st to the 99th percentile: the median lead of an ECG spans 0.2 to 5. Microvolt span hundreds and more.
SMALLEST_SPAN, LARGEST_SPAN = 0.02, 20

_CANONICAL_LEADS = {lead.lower(): lead for lead in LEADS} | {"di": "I", "dii": "II", "diii": "III"}
# What may precede the name: `ECG I`, `Lead I`, `ECG Lead I`, `MDC_ECG_LEAD_I` (ISO/IEEE 11073).
_PREFIX = re.compile(r"(mdc[ _-])?(e[ck]g[ _:-]+)?(lead[ _:-]+)?")
# First words of the names of other signals that are often recorded with an ECG: Frank and right-sided leads; breathing,
# pulse, pressures, gases, temperature; other biosignals; markers.
_OTHER_SIGNALS = re.compile(
    r"v?[xyz]|v[3-6]r|(resp\w*|breath\w*|air|flow|airflow|pleth|ppg|pulse|spo2|sao2|abp|art|nibp|bp|cvp|pap|icp|p[1-9]|"
    r"pressure|co2|etco2|temp\w*|e[emo]g|gsr|eda|scl|acc\w*|marker|event|trigger|hr)\d*"
)
# The other limb leads from I and II: lead, formula, function.
LIMB_LEAD_IDENTITIES = (
    ("III", "II - I", lambda i, ii: ii - i),
    ("aVR", "-(I + II)/2", lambda i, ii: -(i + ii) / 2),
    ("aVL", "I - II/2", lambda i, ii: i - ii / 2),
    ("aVF", "II - I/2", lambda i, ii: ii - i / 2),
)
# In mV, and the share of samples that may exceed it: see `limb_lead_error`.
_LIMB_LEAD_TOLERANCE = 0.03
_LIMB_LEAD_SHARE = 0.02


@lru_cache(maxsize=256)
def canonical_lead(name: str) -> str:
    r"""
    The standard spelling of a lead name, as in `LEADS`.

    Args:
        name (`str`):
            Name in any case. `DI`, `DII` and `DIII` are I, II and III. `ECG`, `Lead` and `MDC_ECG_LEAD_` may precede
            the name.

    Returns:
        `str`: The name in `LEADS`.

    Raises:
        `ValueError`: If the name is not one of the twelve standard leads.
    """
    lead = _known_lead(str(name))
    if lead is None:
        raise ValueError(f'lead "{name}" is not one of {", ".join(LEADS)}')
    return lead


def is_lead(name: str) -> bool:
    r"""
    Whether a name is that of one of the twelve leads.

    Args:
        name (`str`):
            Name of a signal, in any spelling of [`~ecg_leads.canonical_lead`].

    Returns:
        `bool`: `True` for one of the twelve leads.
    """
    return _known_lead(str(name)) is not None


@lru_cache(maxsize=256)
def _known_lead(name: str) -> str | None:
    name = name.strip().lower()
    return _CANONICAL_LEADS.get(name) or _CANONICAL_LEADS.get(_PREFIX.sub("", name, count=1))


def other_signals(names: list[str] | tuple[str, ...]) -> list[str]:
    r"""
    Finds the signals of a recording that are not among the twelve leads: the Frank leads, breathing, blood pressure.

    Any other name is such a signal if the recording has all twelve leads. If it lacks one, an unknown name could be
    that lead under another name, and the recording is refused.

    Args:
        names (`list[str]`):
            Names of all signals.

    Returns:
        `list[str]`: The names of the other signals, in their order.

    Raises:
        `ValueError`: If a name is unknown and a lead is absent.
    """
    others = [name for name in names if not is_lead(name)]
    if not others:
        return others
    absent = [lead for lead in LEADS if lead not in {_known_lead(name) for name in names}]
    for name in others:
        if absent and not _OTHER_SIGNALS.fullmatch(re.split(r"[\W_]", name.strip().lower())[0]):
            raise ValueError(
                f'lead "{name}" is not one of {", ".join(LEADS)}; it could be {absent[0]} under another name; rename the signal or remove it'
            )
    return others


def place_leads(
    ecg: np.ndarray,
    lead_names: list[str] | tuple[str, ...],
    leads: tuple[str, ...] = LEADS,
    dtype: type = np.float32,
) -> tuple[np.ndarray, list[str]]:
    r"""
    Puts the leads of an ECG into a given order, by name.

    Args:
        ecg (`np.ndarray` of shape `(num_rows, num_samples)`):
            The ECG, in any unit.
        lead_names (`list[str]`):
            Name of each row, in any case.
        leads (`tuple[str, ...]`, *optional*, defaults to the twelve standard leads in standard order):
            Names of the leads to return, in their order. Other standard leads of the ECG are dropped.
        dtype (`type`, *optional*, defaults to `np.float32`):
            Precision of the result.

    Returns:
        `tuple[np.ndarray, list[str]]`: The ECG of shape `(len(leads), num_samples)`, with rows of NaN for absent
        leads; and the names of the absent leads.

    Raises:
        `ValueError`: If a lead name is unknown or occurs twice, or the number of names is not the number of rows.
    """
    ecg = np.asarray(ecg)
    if ecg.ndim != 2 or len(ecg) != len(lead_names):
        raise ValueError(f"an ECG of shape {ecg.shape} needs one lead name per row, got {len(lead_names)} names")
    rows = {}
    for row, name in enumerate(lead_names):
        lead = canonical_lead(name)
        if lead in rows:
            raise ValueError(f'lead "{lead}" occurs twice in the ECG, in rows {rows[lead]} and {row}')
        rows[lead] = row
    wanted = [canonical_lead(lead) for lead in leads]
    placed = np.empty((len(wanted), ecg.shape[1]), dtype=dtype)
    for target, lead in enumerate(wanted):
        placed[target] = ecg[rows[lead]] if lead in rows else np.nan
    return placed, [lead for lead in wanted if lead not in rows]


def limb_lead_error(ecg: np.ndarray, leads: tuple[str, ...] | list[str] = LEADS) -> str | None:
    r"""
    Checks that the limb leads agree with each other: III = II - I, aVR = -(I + II)/2, aVL = I - II/2, aVF = II - I/2
    (Einthoven 1912, Goldberger 1942).

    A lead fails if it differs from its identity by more than 0.03 mV in more than 2 % of the samples. Quantization
    steps (up to 0.012 mV in real records) and a short transient at the start stay below this limit. Two exchanged
    leads or an inverted lead exceed it, unless the leads are almost equal or almost zero. NaN samples, flat leads and
    identities with an absent lead are not checked; an absent I or II is computed from III. Exchanged electrodes cannot
    be detected, because the leads of such a recording still agree.

    Args:
        ecg (`np.ndarray` of shape `(len(leads), num_samples)`):
            The ECG in millivolt, NaN where invalid.
        leads (`tuple[str, ...]`, *optional*, defaults to the twelve standard leads in standard order):
            Name of each row.

    Returns:
        `str` or `None`: `None` if the leads agree; otherwise a sentence with the leads that fail and their deviation.

    Raises:
        `ValueError`: If a lead name is unknown, or the number of names is not the number of rows.
    """
    ecg = np.asarray(ecg, np.float32)
    rows = {canonical_lead(lead): row for lead, row, flat in zip(leads, ecg, flat_leads(ecg), strict=True) if not flat}
    if "I" not in rows and {"II", "III"} <= rows.keys():
        rows["I"] = rows["II"] - rows["III"]
    if "II" not in rows and {"I", "III"} <= rows.keys():
        rows["II"] = rows["I"] + rows["III"]
    if not {"I", "II"} <= rows.keys():
        return None
    failures = []
    for lead, formula, expected in LIMB_LEAD_IDENTITIES:
        if lead not in rows:
            continue
        deviation = np.abs(rows[lead] - expected(rows["I"], rows["II"]))
        if deviation.max() <= _LIMB_LEAD_TOLERANCE:  # false if a sample is NaN
            continue
        deviation = deviation[np.isfinite(deviation)]
        share = np.mean(deviation > _LIMB_LEAD_TOLERANCE) if deviation.size else 0.0
        if share > _LIMB_LEAD_SHARE:
            failures.append(
                f"{lead} is not {formula} (off by up to {deviation.max():.2f} mV, by more than "
                f"{_LIMB_LEAD_TOLERANCE} mV in {share:.0%} of the samples)"
            )
    return ", ".join(failures) + ": two leads may be exchanged, or one inverted" if failures else None


def typical_span(ecg: np.ndarray) -> float | None:
    r"""
    The span of the median lead from the 1st to the 99th percentile, which tells whether the unit can be right.

    Args:
        ecg (`np.ndarray` of shape `(num_leads, num_samples)`):
            The ECG, NaN where invalid.

    Returns:
        `float` or `None`: The span in the unit of the ECG; `None` if no lead varies.
    """
    drawn = np.sort(ecg[:, :: max(1, ecg.shape[1] // 500)], axis=1)  # NaN are last
    counts = np.full(len(drawn), drawn.shape[1])
    if drawn.size and np.isnan(drawn[:, -1]).any():
        counts = np.count_nonzero(~np.isnan(drawn), axis=1)
    rows = np.flatnonzero(counts)
    last = counts[rows] - 1
    spans = drawn[rows, np.rint(0.99 * last).astype(int)] - drawn[rows, np.rint(0.01 * last).astype(int)]
    spans = spans[spans > 0]
    return median(spans.tolist()) if spans.size else None


def flat_leads(ecg: np.ndarray) -> np.ndarray:
    r"""
    Which leads have no signal, see [`~ecg_leads.is_flat`].

    Args:
        ecg (`np.ndarray` of shape `(num_leads, num_samples)`):
            The ECG in any unit, NaN where invalid.

    Returns:
        `np.ndarray` of shape `(num_leads,)`, bool.
    """
    if not ecg.shape[1]:
        return np.ones(len(ecg), dtype=bool)
    low, high = ecg.min(axis=1), ecg.max(axis=1)
    flat = low == high
    for row in np.flatnonzero(~(np.isfinite(low) & np.isfinite(high))):
        flat[row] = is_flat(ecg[row])
    return flat


def is_flat(lead: np.ndarray) -> bool:
    r"""
    Whether a lead has no signal.

    Args:
        lead (`np.ndarray` of shape `(num_samples,)`):
            The lead, in any unit, NaN where invalid.

    Returns:
        `bool`: `True` if no sample is valid, or all valid samples are equal.
    """
    if not lead.size:
        return True
    low, high = lead.min(), lead.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        valid = lead[np.isfinite(lead)]
        return bool(valid.size == 0 or valid.min() == valid.max())
    return bool(low == high)


__all__ = [
    "LARGEST_SPAN",
    "LEADS",
    "LIMB_LEAD_IDENTITIES",
    "SAMPLING_RATE",
    "SMALLEST_SPAN",
    "canonical_lead",
    "flat_leads",
    "is_flat",
    "is_lead",
    "limb_lead_error",
    "other_signals",
    "place_leads",
    "typical_span",
]
