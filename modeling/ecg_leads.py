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

from functools import lru_cache

import numpy as np


LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
SAMPLING_RATE = 250
# In mV: at most half of the leads may span more. ECGs span 0.2 to 5 mV; microvolt span hundreds and more.
LARGEST_SPAN = 20

_CANONICAL_LEADS = {lead.lower(): lead for lead in LEADS} | {"di": "I", "dii": "II", "diii": "III"}
# The other limb leads from I and II: lead, formula, function.
_LIMB_LEAD_IDENTITIES = (
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
            Name in any case. `DI`, `DII` and `DIII` are I, II and III.

    Returns:
        `str`: The name in `LEADS`.

    Raises:
        `ValueError`: If the name is not one of the twelve standard leads.
    """
    lead = _CANONICAL_LEADS.get(str(name).strip().lower())
    if lead is None:
        raise ValueError(f'lead "{name}" is not one of {", ".join(LEADS)}')
    return lead


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
    rows = {
        canonical_lead(lead): row
        for lead, row in zip(leads, np.asarray(ecg, np.float32), strict=True)
        if not is_flat(row)
    }
    if "I" not in rows and {"II", "III"} <= rows.keys():
        rows["I"] = rows["II"] - rows["III"]
    if "II" not in rows and {"I", "III"} <= rows.keys():
        rows["II"] = rows["I"] + rows["III"]
    if not {"I", "II"} <= rows.keys():
        return None
    failures = []
    for lead, formula, expected in _LIMB_LEAD_IDENTITIES:
        if lead not in rows:
            continue
        deviation = np.abs(rows[lead] - expected(rows["I"], rows["II"]))
        deviation = deviation[np.isfinite(deviation)]
        share = np.mean(deviation > _LIMB_LEAD_TOLERANCE) if deviation.size else 0.0
        if share > _LIMB_LEAD_SHARE:
            failures.append(
                f"{lead} is not {formula} (off by up to {deviation.max():.2f} mV, by more than "
                f"{_LIMB_LEAD_TOLERANCE} mV in {share:.0%} of the samples)"
            )
    return ", ".join(failures) + ": two leads may be exchanged, or one inverted" if failures else None


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
    "SAMPLING_RATE",
    "canonical_lead",
    "is_flat",
    "limb_lead_error",
    "place_leads",
]
