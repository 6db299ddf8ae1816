"""The twelve leads: names and order, how the limb leads follow from each other, and what an ECG may span."""

from functools import lru_cache

import numpy as np


LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
SAMPLING_RATE = 250
LARGEST_SPAN = 20  # mV that half of the leads may span; ECGs span 0.2 to 5 mV, hundreds and more are microvolt

_CANONICAL_LEADS = {lead.lower(): lead for lead in LEADS} | {"di": "I", "dii": "II", "diii": "III"}
# how the other limb leads follow from I and II
_LIMB_LEAD_IDENTITIES = (
    ("III", "II - I", lambda i, ii: ii - i),
    ("aVR", "-(I + II)/2", lambda i, ii: -(i + ii) / 2),
    ("aVL", "I - II/2", lambda i, ii: i - ii / 2),
    ("aVF", "II - I/2", lambda i, ii: ii - i / 2),
)
# mV, and share of the samples allowed beyond it: see limb_lead_error
_LIMB_LEAD_TOLERANCE = 0.03
_LIMB_LEAD_SHARE = 0.02


@lru_cache(maxsize=256)
def canonical_lead(name: str) -> str:
    """
    The spelling in `LEADS` of a lead name, whatever its case; `DI`, `DII`, `DIII` are I, II, III.

    Raises:
        ValueError: the name is none of the twelve standard leads.
    """
    lead = _CANONICAL_LEADS.get(str(name).strip().lower())
    if lead is None:
        raise ValueError(f'lead "{name}" is not one of {", ".join(LEADS)}')
    return lead


def place_leads(
    ecg: np.ndarray, lead_names: list[str] | tuple[str, ...], leads: tuple[str, ...] = LEADS
) -> tuple[np.ndarray, list[str]]:
    """
    Bring the leads of an ECG into the order of `leads`, by name and never by position.

    Args:
        ecg: `(len(lead_names), samples)`, any unit.
        lead_names: the name of each row, in any case.
        leads: the leads wanted, in the order wanted. Other standard leads of `ecg` are left out.

    Returns:
        The ECG `(len(leads), samples)`, float32, with rows of NaN for leads it lacks; and the names of those leads.

    Raises:
        ValueError: an unknown or repeated lead name, or not as many names as rows.
    """
    ecg = np.asarray(ecg)
    if ecg.ndim != 2 or len(ecg) != len(lead_names):
        raise ValueError(f"an ECG of shape {ecg.shape} needs one lead name per row, got {len(lead_names)} names")
    rows = {}
    for row, name in enumerate(lead_names):
        lead = canonical_lead(name)
        if lead in rows:
            raise ValueError(f'lead "{lead}" stands in the ECG twice, in rows {rows[lead]} and {row}')
        rows[lead] = row
    wanted = [canonical_lead(lead) for lead in leads]
    placed = np.empty((len(wanted), ecg.shape[1]), dtype=np.float32)
    for target, lead in enumerate(wanted):
        placed[target] = ecg[rows[lead]] if lead in rows else np.nan
    return placed, [lead for lead in wanted if lead not in rows]


def limb_lead_error(ecg: np.ndarray, leads: tuple[str, ...] | list[str] = LEADS) -> str | None:
    """
    Whether the limb leads agree with each other: III = II - I, aVR = -(I + II)/2, aVL = I - II/2, aVF = II - I/2
    (Einthoven 1912, Goldberger 1942).

    A lead fails when it is more than 0.03 mV away from what the others say in more than 2 % of the samples. Digital
    steps (up to 0.012 mV on real records) and a start-up transient of some samples stay below that, two exchanged
    leads or an inverted one do not, unless they are as good as equal or zero. Samples that are NaN, flat leads and
    identities whose leads are not present are left out (an absent I or II is worked out from III). Exchanged
    electrodes are not seen: the leads of such a recording still agree.

    Args:
        ecg: `(len(leads), samples)` in mV, NaN where invalid.
        leads: the name of each row.

    Returns:
        None when they agree, else a sentence that names the leads that fail and by how much.
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
    """Whether a lead `(samples,)` has no signal: no valid sample, or the same value in every valid one."""
    if not lead.size:
        return True
    low, high = lead.min(), lead.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        valid = lead[np.isfinite(lead)]
        return bool(valid.size == 0 or valid.min() == valid.max())
    return bool(low == high)
