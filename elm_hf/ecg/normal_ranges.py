"""
Normal ranges of ECG measurements, each with its source, and sentences about measurements outside these ranges (the
feature sentences of Yang et al. 2024, ECG-LM).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from elm_hf.modeling.ecg_leads import LEADS


# AHA/ACCF/HRS recommendations for the standardization and interpretation of the electrocardiogram, Circulation 119
# (2009)
CONDUCTION = "AHA/ACCF/HRS 2009, part III (Surawicz et al., e235)"
REPOLARIZATION = "AHA/ACCF/HRS 2009, part IV (Rautaharju et al., e241)"
HYPERTROPHY = "AHA/ACCF/HRS 2009, part V (Hancock et al., e251)"
ISCHEMIA = "AHA/ACCF/HRS 2009, part VI (Wagner et al., e262)"
# Other guidelines and definitions
BRADYCARDIA = "ACC/AHA/HRS 2018 on bradycardia and conduction delay (Kusumoto et al.), table of definitions"
TACHYCARDIA = "ACC/AHA/HRS 2015 on supraventricular tachycardia (Page et al.), table of definitions"
FIBRILLATION = "ESC 2020 on atrial fibrillation (Hindricks et al.), definition of atrial fibrillation"
SHORT_QT = "ESC 2022 on ventricular arrhythmias (Zeppenfeld et al.), recommendations on short QT syndrome"
INFARCTION = "Fourth universal definition of myocardial infarction, 2018 (Thygesen et al.)"
WIDE_QRS_QT = "AHA/ACCF/HRS 2009, part IV (e241), adjusted for QRS by Rautaharju et al. 2004 (Am J Cardiol 93:1017)"
LOW_VOLTAGE = "Convention (Madias 2008, J Electrocardiol 41:498)"
EXTREME_AXIS = "Convention; the quadrant that AHA/ACCF/HRS 2009, part III, calls neither left nor right"
SLOW_RATE = f"Convention; below 50 in {BRADYCARDIA}"
IRREGULAR = "Convention; the mean of atrial fibrillation is 0.24 (Tateno and Glass 2001, Med Biol Eng Comput 39:664)"
PREMATURE = "Convention; the count of a 10 s ECG is uncertain"

# Age in years from which the limits apply. Children have limits of their own (Rijnbeek et al. 2001), which are not in
# the table.
ADULT_AGE = 18


@dataclass(frozen=True)
class Rule:
    """
    The abnormal values of a feature. The finding is present if a value fulfils all of `above`, `at_least`, `below` and
    `at_most` that are given.

    Args:
        finding: name of the finding.
        feature: one of `GENERAL_FEATURES`, one of `LEAD_FEATURES` if `leads` is given, or a name in `_DERIVED`.
        source: publication that defines the limit.
        above, at_least, below, at_most: limits of the abnormal values.
        leads: leads that the rule applies to.
        sex: `"female"` or `"male"` if the limit applies to this sex only. If the sex of a patient is unknown, the
            limits of both sexes must be exceeded.
        ages: ages in years that the limit applies to; the upper bound is excluded.
        unless: names in `_CONDITIONS` in which the rule is not applied.
        contiguous: whether a contiguous lead must have the finding as well.
    """

    finding: str
    feature: str
    source: str
    above: float | None = None
    at_least: float | None = None
    below: float | None = None
    at_most: float | None = None
    leads: tuple[str, ...] = ()
    sex: str | None = None
    ages: tuple[float, float] = (ADULT_AGE, np.inf)
    unless: tuple[str, ...] = ()
    contiguous: bool = False

    def includes(self, value: float) -> bool:
        """Whether a value is abnormal; a missing value (NaN) is not."""
        return not np.isnan(value) and (
            (self.above is None or value > self.above)
            and (self.at_least is None or value >= self.at_least)
            and (self.below is None or value < self.below)
            and (self.at_most is None or value <= self.at_most)
        )


_V2_V3 = ("V2", "V3")
_LIMB = ("I", "II", "III", "aVR", "aVL", "aVF")
_NOT_V2_V3 = (*_LIMB, "V1", "V4", "V5", "V6")
_Q_LEADS = ("I", "II", "aVL", "aVF", "V4", "V5", "V6")
_T_LEADS = ("I", "II", "aVL", "V2", "V3", "V4", "V5", "V6")
# ST and T changes of these are secondary (Thygesen et al. 2018, table of ischaemia: "in the absence of left ventricular
# hypertrophy and bundle branch block").
_ST_UNLESS = ("left bundle branch block", "left ventricular hypertrophy", "paced rhythm")
_DEPRESSION_UNLESS = ("wide QRS complex", "left ventricular hypertrophy", "paced rhythm")
_Q_UNLESS = ("left bundle branch block", "paced rhythm")
_AF = "atrial fibrillation"

# Limits for adults.
RULES = (
    Rule("bradycardia", "heart_rate", SLOW_RATE, below=60),
    Rule("tachycardia", "heart_rate", TACHYCARDIA, above=100),
    Rule("irregular RR intervals", "rr_variation", IRREGULAR, above=0.1),
    Rule(
        "irregular rhythm without P waves, as in atrial fibrillation", "atrial_fibrillation", FIBRILLATION, above=0.5
    ),
    Rule("pause", "longest_rr_s", BRADYCARDIA, above=3.0),
    Rule("premature beats", "premature_beats", PREMATURE, at_least=1, unless=(_AF,)),
    Rule("wide P wave", "p_ms", HYPERTROPHY, at_least=120),
    Rule("tall P wave", "p_mv", HYPERTROPHY, above=0.25, leads=("II", "III", "aVF")),
    Rule("tall P wave", "p_mv", HYPERTROPHY, at_least=0.15, leads=("V1", "V2")),
    Rule("short PR interval", "pr_ms", CONDUCTION, below=120, unless=(_AF,)),
    Rule("prolonged PR interval", "pr_ms", BRADYCARDIA, above=200, unless=(_AF,)),
    Rule("slightly prolonged QRS complex", "qrs_ms", CONDUCTION, above=110, below=120),
    Rule("wide QRS complex", "qrs_ms", CONDUCTION, at_least=120),
    Rule(
        "prolonged QT interval",
        "qtc_ms",
        REPOLARIZATION,
        at_least=450,
        sex="male",
        unless=(_AF, "wide QRS complex"),
    ),
    Rule(
        "prolonged QT interval",
        "qtc_ms",
        REPOLARIZATION,
        at_least=460,
        sex="female",
        unless=(_AF, "wide QRS complex"),
    ),
    Rule("prolonged QT interval for QRS", "qtc_wide_male_ms", WIDE_QRS_QT, at_least=450, sex="male", unless=(_AF,)),
    Rule(
        "prolonged QT interval for QRS", "qtc_wide_female_ms", WIDE_QRS_QT, at_least=460, sex="female", unless=(_AF,)
    ),
    Rule("short QT interval", "qtc_ms", SHORT_QT, at_most=360, unless=(_AF,)),
    Rule("left axis deviation", "axis_deg", CONDUCTION, at_least=-90, below=-30),
    Rule("right axis deviation", "axis_deg", CONDUCTION, above=90),
    Rule("extreme axis", "axis_deg", EXTREME_AXIS, below=-90),
    Rule("low voltage in the limb leads", "limb_voltage_mv", LOW_VOLTAGE, below=0.5),
    Rule("low voltage in the chest leads", "chest_voltage_mv", LOW_VOLTAGE, below=1.0),
    Rule("high left ventricular voltage (Sokolow-Lyon)", "sokolow_mv", HYPERTROPHY, above=3.5),
    Rule("high left ventricular voltage (Cornell)", "cornell_mv", HYPERTROPHY, above=2.8, sex="male"),
    Rule("high left ventricular voltage (Cornell)", "cornell_mv", HYPERTROPHY, above=2.0, sex="female"),
    Rule("tall R wave", "tall_r_mv", HYPERTROPHY, above=0.6, leads=("V1",)),
    Rule("broad R wave", "broad_r_ms", INFARCTION, above=40, leads=("V1", "V2"), unless=("wide QRS complex",)),
    Rule("ST elevation", "st_mv", INFARCTION, at_least=0.1, leads=_NOT_V2_V3, unless=_ST_UNLESS, contiguous=True),
    Rule(
        "ST elevation",
        "st_mv",
        INFARCTION,
        at_least=0.15,
        leads=_V2_V3,
        sex="female",
        unless=_ST_UNLESS,
        contiguous=True,
    ),
    Rule(
        "ST elevation",
        "st_mv",
        INFARCTION,
        at_least=0.25,
        leads=_V2_V3,
        sex="male",
        ages=(ADULT_AGE, 40),
        unless=_ST_UNLESS,
        contiguous=True,
    ),
    Rule(
        "ST elevation",
        "st_mv",
        INFARCTION,
        at_least=0.2,
        leads=_V2_V3,
        sex="male",
        ages=(40, np.inf),
        unless=_ST_UNLESS,
        contiguous=True,
    ),
    Rule(
        "ST depression", "st_mv", ISCHEMIA, at_most=-0.1, leads=_NOT_V2_V3, unless=_DEPRESSION_UNLESS, contiguous=True
    ),
    Rule("ST depression", "st_mv", ISCHEMIA, at_most=-0.05, leads=_V2_V3, unless=_DEPRESSION_UNLESS, contiguous=True),
    Rule("wide Q wave", "q_ms", INFARCTION, above=20, leads=_V2_V3, unless=_Q_UNLESS),
    Rule(
        "wide and deep Q wave",
        "deep_q_ms",
        INFARCTION,
        at_least=30,
        leads=_Q_LEADS,
        unless=_Q_UNLESS,
        contiguous=True,
    ),
    Rule("T wave inversion", "t_mv", REPOLARIZATION, below=-0.1, leads=_T_LEADS, unless=("wide QRS complex",)),
)

# Contiguous leads: the chest leads in their order, and the limb leads in the order of the frontal plane (aVL, I,
# inverted aVR, II, aVF, III; AHA/ACCF/HRS 2009, part VI).
_FRONTAL = ("aVL", "I", "aVR", "II", "aVF", "III")
_CHEST = ("V1", "V2", "V3", "V4", "V5", "V6")
_CONTIGUOUS = {
    lead: tuple(order[other] for other in (place - 1, place + 1) if 0 <= other < len(order))
    for order in (_FRONTAL, _CHEST)
    for place, lead in enumerate(order)
}

_UNITS = {
    "heart_rate": ("heart rate", "beats per minute"),
    "p_ms": ("P wave", "ms"),
    "pr_ms": ("PR interval", "ms"),
    "qrs_ms": ("QRS duration", "ms"),
    "qt_ms": ("QT interval", "ms"),
    "qtc_ms": ("QTc (Hodges)", "ms"),
    "axis_deg": ("QRS axis", "degrees"),
    "sokolow_mv": ("Sokolow-Lyon voltage", "mV"),
    "cornell_mv": ("Cornell voltage", "mV"),
}
_UNIT_OF_SUFFIX = {"ms": "ms", "mv": "mV", "s": "s"}


def _qtc_of_wide_qrs(constant_ms: float) -> Callable[[Mapping[str, float], str], float]:
    """QT of a wide QRS complex, adjusted for rate and QRS duration: formula of Rautaharju et al. (2004) in part IV."""

    def adjusted(features: Mapping[str, float], suffix: str) -> float:
        qt, rate, qrs = (features.get(name, np.nan) for name in ("qt_ms", "heart_rate", "qrs_ms"))
        return qt - 155 * (60 / rate - 1) - 0.93 * (qrs - 139) + constant_ms if qrs >= 120 else np.nan

    return adjusted


def _tall_r(features: Mapping[str, float], suffix: str) -> float:
    """R in mV if it is larger than S."""
    r, s = (features.get(f"{name}_mv{suffix}", np.nan) for name in "rs")
    return r if r > s else np.nan


def _broad_r(features: Mapping[str, float], suffix: str) -> float:
    """Duration of R in ms if R is larger than S and T is positive."""
    is_broad = not np.isnan(_tall_r(features, suffix)) and features.get(f"t_mv{suffix}", np.nan) > 0
    return features.get(f"r_ms{suffix}", np.nan) if is_broad else np.nan


def _deep_q(features: Mapping[str, float], suffix: str) -> float:
    """Duration of Q in ms if Q is at least 0.1 mV deep."""
    return features.get(f"q_ms{suffix}", np.nan) if features.get(f"q_mv{suffix}", np.nan) >= 0.1 else np.nan


# Values that a rule derives from several features, as functions of the features and the suffix of a lead ("_V1").
_DERIVED: dict[str, Callable[[Mapping[str, float], str], float]] = {
    "qtc_wide_male_ms": _qtc_of_wide_qrs(-22),
    "qtc_wide_female_ms": _qtc_of_wide_qrs(-34),
    "tall_r_mv": _tall_r,
    "broad_r_ms": _broad_r,
    "deep_q_ms": _deep_q,
}


def _is_left_bundle_branch_block(features: Mapping[str, float]) -> bool:
    """
    A wide QRS complex that is negative in V1, and positive without Q in V6 (AHA/ACCF/HRS 2009, part III; the notches
    and the R peak time are not examined). Most paced beats have this form as well.
    """
    r, s, q = ({lead: features.get(f"{name}_mv_{lead}", np.nan) for lead in ("V1", "V6")} for name in "rsq")
    wide = features.get("qrs_ms", np.nan) >= 120
    return bool(wide and s["V1"] > 2 * r["V1"] and r["V6"] > s["V6"] and q["V6"] < 0.05)


def _has_high_voltage(features: Mapping[str, float], sex: str | None) -> bool:
    # 2.0 mV if the sex is unknown: ST changes are not judged if hypertrophy is possible.
    cornell_limit = 2.8 if sex == "male" else 2.0
    return bool(features.get("sokolow_mv", np.nan) > 3.5 or features.get("cornell_mv", np.nan) > cornell_limit)


# Conditions in which some rules are not applied, as functions of the features and the sex.
_CONDITIONS: dict[str, Callable[[Mapping[str, float], str | None], bool]] = {
    _AF: lambda features, sex: features.get("atrial_fibrillation", np.nan) > 0.5,
    "wide QRS complex": lambda features, sex: features.get("qrs_ms", np.nan) >= 120,
    "left bundle branch block": lambda features, sex: _is_left_bundle_branch_block(features),
    "left ventricular hypertrophy": _has_high_voltage,
    "paced rhythm": lambda features, sex: features.get("paced", np.nan) > 0.5,
}


def conditions_of(features: Mapping[str, float], sex: str | None = None) -> set[str]:
    """The conditions of an ECG in which some rules are not applied (`Rule.unless`); arguments as of `describe_features`."""
    return {name for name, holds in _CONDITIONS.items() if holds(features, sex)}


def rules_of(finding: str, place: str, sex: str | None, age: float | None) -> list[Rule]:
    """
    The rules of a finding for a patient. Of an unknown sex or age all rules are returned.

    Args:
        finding: `Rule.finding`.
        place: `"general"` or a lead.
        sex, age: see [`describe_features`].
    """
    return [rule for rule in _rules_of(finding, RULES, place) if _holds_for(rule, sex, age)]


def describe_features(
    features: Mapping[str, float], sex: str | None = None, age: float | None = None
) -> dict[str, list[str]]:
    """
    List the features of an adult that are outside their normal range, with their values, such as
    `"prolonged PR interval (232 ms)"`. There are no findings for a patient under `ADULT_AGE`.

    Args:
        features: features as returned by `measure_ecg`. A feature that is NaN or absent is skipped.
        sex: `"female"`, `"male"` or None. If the sex or the age is unknown, a value is abnormal only if it exceeds the
            limits for every sex or age of an adult.
        age: age in years, or None.

    Returns:
        A list of findings for `"general"` and for each of `LEADS`. A list is empty if there are no findings.

    Raises:
        ValueError: `sex` is not one of these values.
    """
    if sex not in ("female", "male", None):
        raise ValueError(f'sex is "{sex}"; expected "female", "male" or None')
    present = conditions_of(features, sex)
    applicable = [rule for rule in RULES if _holds_for(rule, sex, age) and present.isdisjoint(rule.unless)]
    described = {}
    for place in ("general", *LEADS):
        rules = [rule for rule in applicable if _is_for(rule, place)]
        described[place] = [
            finding + _value(finding, rules, features, place)
            for finding in dict.fromkeys(rule.finding for rule in rules)
            if _is_found(finding, applicable, features, place)
        ]
    return described


def feature_text(features: Mapping[str, float], sex: str | None = None, age: float | None = None) -> str:
    """
    Return the features as text for a prompt: the measurements with their units, then the abnormal findings, in general
    and for each lead.

    Args:
        features, sex, age: see [`describe_features`].
    """
    measured = [f"{words} {value}" for words, value in measured_values(features).items()]
    described = describe_features(features, sex, age)
    if not measured:
        return "Measurements: none possible."
    text = f"Measurements: {', '.join(measured)}."
    if age is not None and age < ADULT_AGE:
        return f"{text} Normal ranges are for adults and not applied at the age of {age:.0f}."
    places = [
        f"{'in general' if place == 'general' else f'lead {place}'}: {', '.join(found)}"
        for place, found in described.items()
        if found
    ]
    return f"{text} Outside the normal range: {'; '.join(places) or 'nothing'}."


def measured_values(features: Mapping[str, float]) -> dict[str, str]:
    """Return the measurements of the ECG as a whole that are possible, with their units, by their names in words."""
    return {
        words: _number(name, features[name])
        for name, (words, _) in _UNITS.items()
        if np.isfinite(features.get(name, np.nan))
    }


def _holds_for(rule: Rule, sex: str | None, age: float | None) -> bool:
    of_sex = rule.sex is None or sex is None or rule.sex == sex
    return of_sex and (age is None or rule.ages[0] <= age < rule.ages[1])


def _is_found(finding: str, rules: list[Rule], features: Mapping[str, float], place: str) -> bool:
    """Whether a place has a finding by all of its applicable rules, and so has a contiguous lead if it must."""
    of_place = _rules_of(finding, rules, place)
    if not all(rule.includes(_feature(rule, features, place)) for rule in of_place):
        return False
    if not of_place[0].contiguous:
        return True
    return any(_agrees(finding, rules, features, place, other) for other in _CONTIGUOUS[place])


def _agrees(finding: str, rules: list[Rule], features: Mapping[str, float], lead: str, other: str) -> bool:
    """Whether the contiguous lead `other` has the finding; aVR counts inverted."""
    sign = -1 if "aVR" in (lead, other) else 1
    of_other = _rules_of(finding, rules, other)
    return bool(of_other) and all(rule.includes(sign * _feature(rule, features, other)) for rule in of_other)


def _rules_of(finding: str, rules: Sequence[Rule], place: str) -> list[Rule]:
    return [rule for rule in rules if rule.finding == finding and _is_for(rule, place)]


def _is_for(rule: Rule, place: str) -> bool:
    return place in rule.leads if place != "general" else not rule.leads


def _feature(rule: Rule, features: Mapping[str, float], place: str) -> float:
    suffix = "" if place == "general" else f"_{place}"
    derive = _DERIVED.get(rule.feature)
    return derive(features, suffix) if derive else features.get(rule.feature + suffix, np.nan)


def _value(finding: str, rules: list[Rule], features: Mapping[str, float], place: str) -> str:
    """The value of a finding with its unit, in brackets; nothing for a feature that is only present or absent."""
    values = [(_feature(rule, features, place), rule.feature) for rule in _rules_of(finding, rules, place)]
    value, name = min(values)
    return "" if name == "atrial_fibrillation" else f" ({_number(name, value)})"


def _number(name: str, value: float) -> str:
    if name in _UNITS:
        unit = _UNITS[name][1]
    else:
        unit = next((unit for part, unit in _UNIT_OF_SUFFIX.items() if part in name.split("_")), "")
    digits = 2 if unit == "mV" or name == "rr_variation" else 1 if unit == "s" else 0
    return f"{value:.{digits}f} {unit}".rstrip()
