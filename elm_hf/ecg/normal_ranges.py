"""
Normal ranges of ECG features, each with its guideline, and sentences about features outside these ranges (the feature
sentences of Yang et al. 2024, ECG-LM).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from elm_hf.ecg.measurements import GENERAL_FEATURES
from elm_hf.modeling.ecg_leads import LEADS


# AHA/ACCF/HRS recommendations for the standardization and interpretation of the electrocardiogram, Circulation 119
# (2009)
CONDUCTION = "AHA/ACCF/HRS 2009, part III (Surawicz et al., e235)"
REPOLARIZATION = "AHA/ACCF/HRS 2009, part IV (Rautaharju et al., e241)"
HYPERTROPHY = "AHA/ACCF/HRS 2009, part V (Hancock et al., e251)"
# Other guidelines
BRADYCARDIA = "ACC/AHA/HRS 2018 on bradycardia and conduction delay (Kusumoto et al.)"
TACHYCARDIA = "ACC/AHA/HRS 2015 on supraventricular tachycardia (Page et al.)"
INFARCTION = "Fourth universal definition of myocardial infarction, 2018 (Thygesen et al.)"


@dataclass(frozen=True)
class Rule:
    """
    The limits of a feature. A value outside them is a finding.

    Args:
        finding: name of the finding.
        feature: one of `GENERAL_FEATURES`, or one of `LEAD_FEATURES` if `leads` is given.
        source: guideline that defines the limit.
        below, above: the finding is present if the value is less than `below` or greater than `above`.
        leads: leads that the rule applies to.
        sex: `"female"` or `"male"` if the limit applies to this sex only. If the sex of a patient is unknown, the
            limits of both sexes must be exceeded.
        ages: ages in years that the limit applies to; the upper bound is excluded.
    """

    finding: str
    feature: str
    source: str
    below: float = -np.inf
    above: float = np.inf
    leads: tuple[str, ...] = ()
    sex: str | None = None
    ages: tuple[float, float] = (0, np.inf)


_V2_V3 = ("V2", "V3")
_NOT_V2_V3 = ("I", "II", "III", "aVL", "aVF", "V1", "V4", "V5", "V6")
_Q_LEADS = ("I", "II", "aVL", "aVF", "V4", "V5", "V6")

# Limits for adults. Where a guideline includes the limit itself ("at least 120 ms"), it is shifted slightly, because
# the rules exclude it and measurements have steps of 2 ms.
RULES = (
    Rule("bradycardia", "heart_rate", BRADYCARDIA, below=60),
    Rule("tachycardia", "heart_rate", TACHYCARDIA, above=100),
    Rule("short PR interval", "pr_ms", CONDUCTION, below=120),
    Rule("prolonged PR interval", "pr_ms", BRADYCARDIA, above=200),
    Rule("wide QRS complex", "qrs_ms", CONDUCTION, above=119.9),
    Rule("prolonged QT interval", "qtc_ms", REPOLARIZATION, above=449.9, sex="male"),
    Rule("prolonged QT interval", "qtc_ms", REPOLARIZATION, above=459.9, sex="female"),
    Rule("short QT interval", "qtc_ms", REPOLARIZATION, below=390.1),
    Rule("left axis deviation", "axis_deg", CONDUCTION, below=-30),
    Rule("right axis deviation", "axis_deg", CONDUCTION, above=90),
    Rule("high left ventricular voltage (Sokolow-Lyon)", "sokolow_mv", HYPERTROPHY, above=3.5),
    Rule("high left ventricular voltage (Cornell)", "cornell_mv", HYPERTROPHY, above=2.8, sex="male"),
    Rule("high left ventricular voltage (Cornell)", "cornell_mv", HYPERTROPHY, above=2.0, sex="female"),
    Rule("ST elevation", "st_mv", INFARCTION, above=0.0999, leads=_NOT_V2_V3),
    Rule("ST elevation", "st_mv", INFARCTION, above=0.1499, leads=_V2_V3, sex="female"),
    Rule("ST elevation", "st_mv", INFARCTION, above=0.2499, leads=_V2_V3, sex="male", ages=(0, 40)),
    Rule("ST elevation", "st_mv", INFARCTION, above=0.1999, leads=_V2_V3, sex="male", ages=(40, np.inf)),
    Rule("ST depression", "st_mv", INFARCTION, below=-0.0499, leads=(*_NOT_V2_V3, *_V2_V3)),
    Rule("wide Q wave", "q_ms", INFARCTION, above=20, leads=_V2_V3),
    Rule("wide and deep Q wave", "q_ms", INFARCTION, above=29.9, leads=_Q_LEADS),
    Rule(
        "T wave inversion", "t_mv", REPOLARIZATION, below=-0.1, leads=("I", "II", "aVL", "V2", "V3", "V4", "V5", "V6")
    ),
)
# A Q wave in `_Q_LEADS` must also be deeper than this (Thygesen et al. 2018).
_Q_DEPTH_MV = 0.0999

_UNITS = {
    "heart_rate": ("heart rate", "beats per minute"),
    "p_ms": ("P wave", "ms"),
    "pr_ms": ("PR interval", "ms"),
    "qrs_ms": ("QRS duration", "ms"),
    "qt_ms": ("QT interval", "ms"),
    "qtc_ms": ("QTc (Bazett)", "ms"),
    "axis_deg": ("QRS axis", "degrees"),
    "sokolow_mv": ("Sokolow-Lyon voltage", "mV"),
    "cornell_mv": ("Cornell voltage", "mV"),
}


def describe_features(
    features: Mapping[str, float], sex: str | None = None, age: float | None = None
) -> dict[str, list[str]]:
    """
    List the features of an adult that are outside their normal range, with their values, such as
    `"prolonged PR interval (232 ms)"`.

    Args:
        features: features as returned by `measure_ecg`. A feature that is NaN or absent is skipped.
        sex: `"female"`, `"male"` or None. If the sex or the age is unknown, a value is abnormal only if it exceeds the
            limits for every sex or age.
        age: age in years, or None.

    Returns:
        A list of findings for `"general"` and for each of `LEADS`. A list is empty if there are no findings.

    Raises:
        ValueError: `sex` is not one of these values.
    """
    if sex not in ("female", "male", None):
        raise ValueError(f'sex is "{sex}"; expected "female", "male" or None')
    described = {"general": [], **{lead: [] for lead in LEADS}}
    for place in described:
        rules = [rule for rule in RULES if (place in rule.leads if place != "general" else not rule.leads)]
        for finding in dict.fromkeys(rule.finding for rule in rules):
            applicable = [rule for rule in rules if rule.finding == finding and _holds_for(rule, sex, age)]
            name = applicable[0].feature if place == "general" else f"{applicable[0].feature}_{place}"
            if all(_is_outside(rule, features, place) for rule in applicable):
                described[place].append(f"{finding} ({_number(name, features[name])})")
    return described


def feature_text(features: Mapping[str, float], sex: str | None = None, age: float | None = None) -> str:
    """
    Return the features as text for a prompt: the measurements with their units, then the abnormal findings, in general
    and for each lead.

    Args:
        features, sex, age: see [`describe_features`].
    """
    measured = [
        f"{words} {_number(name, features[name])}"
        for name, (words, _) in _UNITS.items()
        if np.isfinite(features.get(name, np.nan))
    ]
    described = describe_features(features, sex, age)
    if not measured:
        return "Measurements: none possible."
    described = describe_features(features, sex, age)
    places = [
        f"{'in general' if place == 'general' else f'lead {place}'}: {', '.join(found)}"
        for place, found in described.items()
        if found
    ]
    return f"Measurements: {', '.join(measured)}. Outside the normal range: {'; '.join(places) or 'nothing'}."


def _holds_for(rule: Rule, sex: str | None, age: float | None) -> bool:
    of_sex = rule.sex is None or sex is None or rule.sex == sex
    return of_sex and (age is None or rule.ages[0] <= age < rule.ages[1])


def _is_outside(rule: Rule, features: Mapping[str, float], place: str) -> bool:
    suffix = "" if place == "general" else f"_{place}"
    value = features.get(rule.feature + suffix, np.nan)
    is_outside = value < rule.below or value > rule.above
    if rule.finding == "wide and deep Q wave":
        return is_outside and features[f"q_mv{suffix}"] > _Q_DEPTH_MV
    return is_outside


def _number(name: str, value: float) -> str:
    """The value with its unit. The unit of a lead feature is the second part of its name."""
    general = name if name in GENERAL_FEATURES else None
    unit = _UNITS[general][1] if general else {"ms": "ms", "mv": "mV"}[name.split("_")[1]]
    return f"{value:.2f} {unit}" if unit == "mV" else f"{value:.0f} {unit}"
