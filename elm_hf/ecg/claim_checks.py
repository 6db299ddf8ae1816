"""Claims of a text about an ECG, checked against what is measured in it: each is true, false or not checkable."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from elm_hf.ecg.claims import Claim, find_claims
from elm_hf.ecg.normal_ranges import ADULT_AGE, conditions_of, rules_of
from elm_hf.modeling.ecg_leads import LEADS, limb_lead_error, place_leads
from elm_hf.modeling.ecg_measurements import measure_ecg
from elm_hf.modeling.ecg_quality import signal_quality


TRUE, FALSE, NOT_CHECKABLE = "true", "false", "not checkable"
# Tolerances: 95 % of the errors of `measure_ecg` are smaller. PR, QRS and QT against the cardiologists' boundaries in
# LUDB (docs/measurements.md); the others with all kinds of noise in the simulator (benchmarks/claims.py). The rate's is
# that of a reader who counts the beats of ten seconds, since its own is below 1.
TOLERANCES = {
    "rate": 5.0,
    "rhythm": 0.02,
    "pr": 20.0,
    "qrs": 18.0,
    "qt": 31.0,
    "qtc": 31.0,
    "axis": 22.0,
    "st": 0.06,
    "t": 0.1,
    "voltage": 0.15,
    "sokolow": 0.15,
    "cornell": 0.15,
    "pause": 100.0,
    "premature": 1.0,
}
UNITS = {
    "rate": "bpm",
    "rhythm": "(variation of RR)",
    **dict.fromkeys(("pr", "qrs", "qt", "qtc", "pause"), "ms"),
    "axis": "degrees",
    **dict.fromkeys(("st", "t", "voltage", "sokolow", "cornell"), "mV"),
    "premature": "beats",
}
FEATURES_OF = {
    "rate": "heart_rate",
    "pr": "pr_ms",
    "qrs": "qrs_ms",
    "qt": "qt_ms",
    "axis": "axis_deg",
    "sokolow": "sokolow_mv",
    "cornell": "cornell_mv",
}
# In `normal_ranges.RULES`: the finding that a state of a quantity means.
FINDINGS_OF = {
    ("rate", "slow"): "bradycardia",
    ("rate", "fast"): "tachycardia",
    ("pr", "prolonged"): "prolonged PR interval",
    ("pr", "short"): "short PR interval",
    ("qt", "prolonged"): "prolonged QT interval",
    ("qt", "short"): "short QT interval",
    ("axis", "left"): "left axis deviation",
    ("axis", "right"): "right axis deviation",
    ("axis", "extreme"): "extreme axis",
    ("sokolow", "high"): "high left ventricular voltage (Sokolow-Lyon)",
    ("cornell", "high"): "high left ventricular voltage (Cornell)",
    ("st", "elevated"): "ST elevation",
    ("st", "depressed"): "ST depression",
    ("t", "inverted"): "T wave inversion",
}
# A range that is wider than this number of tolerances says nothing.
_WIDEST_RANGE = 8
# From these levels on (mV), a reader may speak of ST elevation, of ST depression and of an inverted T wave.
_SAID_FROM = {"elevated": 0.1, "depressed": -0.05, "inverted": -0.05}
_UPRIGHT_FROM = -0.1
# Variation of RR intervals: "regular" is right up to the first, "irregular" from the second on.
_REGULAR_UP_TO, _IRREGULAR_FROM = 0.1, 0.05
_PAUSE_FROM_MS, _NO_PAUSE_UP_TO_MS = 2000.0, 3000.0
_NOTHING_SAID = {"st": ("aVR",), "t": ("aVR", "V1")}  # leads that count only where they are named
# P lies on T at higher rates (docs/measurements.md).
_FASTEST_WITH_PR = 100.0

Holds = Callable[[float], bool]


@dataclass(frozen=True)
class Check:
    """
    A claim and what the ECG says of it.

    Attributes:
        claim: the claim; one about a list of leads is divided into one for each lead.
        verdict: `TRUE`, `FALSE` or `NOT_CHECKABLE`.
        measured: what was measured, in the claim's unit; of several leads the one that decides. None if nothing was.
        tolerance: of the comparison, in the same unit.
        reason: why it is not checkable; empty otherwise.
    """

    claim: Claim
    verdict: str
    measured: float | None = None
    tolerance: float | None = None
    reason: str = ""


def measure_for_claims(ecg: np.ndarray, sampling_rate: float, lead_names: Sequence[str] = LEADS) -> dict[str, float]:
    """
    The features of [`measure_ecg`] without leads that are flat, clipped or like white noise, and without limb leads that
    contradict each other.

    Args:
        ecg, sampling_rate, lead_names: see [`measure_ecg`].
    """
    placed = place_leads(ecg, tuple(lead_names))[0].astype(np.float32)
    for row, lead in zip(placed, LEADS):
        problems = signal_quality(row[None], sampling_rate, [lead])
        if any(problem.startswith(("flat", "clipped", "like white noise")) for problem in problems):
            row[:] = np.nan
    if limb_lead_error(placed, LEADS) is not None:
        placed[:6] = np.nan
    return measure_ecg(placed, sampling_rate)


def check_text(
    text: str, features: Mapping[str, float], sex: str | None = None, age: float | None = None
) -> list[Check]:
    """
    Find the claims of a text and check each against an ECG.

    Args:
        text: English text, see [`find_claims`].
        features: of the ECG, from [`measure_for_claims`].
        sex, age: of the patient. If unknown, a claim is true if it is by the limits of any sex or age.
    """
    return [check for claim in find_claims(text) for check in check_claim(claim, features, sex, age)]


def check_claim(
    claim: Claim, features: Mapping[str, float], sex: str | None = None, age: float | None = None
) -> list[Check]:
    """
    Check a claim against the features of an ECG.

    A claim is true if the measured value agrees with it, false if the value disagrees by more than the tolerance, and
    not checkable in between, or if the value cannot be measured. A number is true within the tolerance and half of its
    last digit, and false outside. Hedged claims are not checked.

    Args:
        claim: the claim.
        features, sex, age: see [`check_text`].

    Returns:
        A check; for a claim about a list of leads one for each lead.
    """
    if claim.hedged:
        return [Check(claim, NOT_CHECKABLE, reason="hedged")]
    if age is not None and age < ADULT_AGE and claim.state is not None and not claim.has_value:
        return [Check(claim, NOT_CHECKABLE, reason=f"the limits are for adults, the age is {age:.0f}")]
    patient = _Patient(features, sex, age, conditions_of(features, sex))
    if claim.quantity in ("st", "t"):
        if claim.leads and claim.territory is None:
            return [_of_leads(replace(claim, leads=(lead,)), patient) for lead in claim.leads]
        return [_of_leads(claim, patient)]
    checks = {"premature": _of_premature, "pause": _of_pause, "rhythm": _of_rhythm, "voltage": _of_voltage}
    return [checks.get(claim.quantity, _of_interval)(claim, patient)]


@dataclass(frozen=True)
class _Patient:
    features: Mapping[str, float]
    sex: str | None
    age: float | None
    conditions: set[str]

    def value(self, name: str) -> float:
        return self.features.get(name, np.nan)

    def finding(self, finding: str, place: str = "general") -> list[Holds]:
        """Whether a value is abnormal, for each sex and age that the patient may have."""
        sexes = [self.sex] if self.sex else ["female", "male"]
        ages = [self.age] if self.age is not None else [30.0, 60.0]
        rules = [rules_of(finding, place, sex, age) for sex, age in itertools.product(sexes, ages)]
        return [
            lambda value, those=those: bool(those) and all(rule.includes(value) for rule in those) for those in rules
        ]


def _of_interval(claim: Claim, patient: _Patient) -> Check:
    """Rate, PR, QRS, QT, axis, and voltages of a named criterion."""
    quantity, tolerance = claim.quantity, TOLERANCES[claim.quantity]
    values = _values(claim, patient)
    if quantity == "rate" and patient.value("rr_variation") > _REGULAR_UP_TO:
        tolerance *= 2  # the mean depends on which beats are counted
    if quantity == "pr" and patient.value("heart_rate") > _FASTEST_WITH_PR:
        return Check(claim, NOT_CHECKABLE, reason="P lies on T at this rate")
    if quantity == "pr" and "atrial fibrillation" in patient.conditions:
        return Check(claim, NOT_CHECKABLE, reason="atrial fibrillation has no PR interval")
    if claim.state is None:
        return _number(claim, values, tolerance)
    if quantity in ("qt", "qtc") and patient.conditions & {"atrial fibrillation", "wide QRS complex"}:
        return Check(
            claim, NOT_CHECKABLE, reason="QT is not judged in atrial fibrillation and with a wide QRS complex"
        )
    return _state(claim, values, tolerance, _states(claim, patient))


def _values(claim: Claim, patient: _Patient) -> list[float]:
    """What was measured. QTc has a value for each formula, and a text does not say which it means."""
    if claim.quantity == "qtc" or (claim.quantity == "qt" and claim.state is not None):
        qt, rate = patient.value("qt_ms"), patient.value("heart_rate")
        interval = 60 / rate  # Bazett (1920), Fridericia (1920); Hodges et al. (1983) is measured
        return [patient.value("qtc_ms"), qt / interval**0.5, qt / interval ** (1 / 3)]
    return [patient.value(FEATURES_OF[claim.quantity])]


def _states(claim: Claim, patient: _Patient) -> list[Holds]:
    """The conditions of which one must hold for the claim to be right, without its negation."""
    quantity = "qt" if claim.quantity == "qtc" else claim.quantity
    if quantity == "qrs":  # 110 to 120 ms may be called either
        slight, wide = (patient.finding(f"{name} QRS complex")[0] for name in ("slightly prolonged", "wide"))
        return [(lambda v: slight(v) or wide(v)) if claim.state == "wide" else lambda v: not wide(v)]
    if claim.state != "normal":
        return patient.finding(FINDINGS_OF[quantity, claim.state])
    findings = [patient.finding(name) for (one, _), name in FINDINGS_OF.items() if one == quantity]
    return [lambda v, those=those: not any(holds(v) for holds in those) for those in zip(*findings)]


def _state(claim: Claim, values: Iterable[float], tolerance: float, conditions: Sequence[Holds]) -> Check:
    """The verdict on a state that holds if one of the conditions does, for one of the values."""
    finite = [float(value) for value in values if np.isfinite(value)]
    if not finite:
        return Check(claim, NOT_CHECKABLE, tolerance=tolerance, reason="cannot be measured")
    is_angle = claim.quantity == "axis"

    def agrees(shift: float) -> bool:
        shifted = [_angle(value + shift) if is_angle else value + shift for value in finite]
        return any(holds(value) != claim.negated for holds in conditions for value in shifted)

    if agrees(0):
        return Check(claim, TRUE, finite[0], tolerance)
    if any(agrees(share * tolerance) for share in (-1, -0.5, 0.5, 1)):
        return Check(claim, NOT_CHECKABLE, finite[0], tolerance, "within the tolerance of the limit")
    return Check(claim, FALSE, finite[0], tolerance)


def _number(claim: Claim, values: Iterable[float], tolerance: float) -> Check:
    """The verdict on a number, a range or a bound."""
    finite = [float(value) for value in values if np.isfinite(value)]
    if not finite:
        return Check(claim, NOT_CHECKABLE, tolerance=tolerance, reason="cannot be measured")
    tolerance += claim.step / 2
    if claim.low is None or claim.high is None:
        plain = replace(claim, negated=False)
        holds = (lambda v: v > claim.low) if claim.high is None else lambda v: v < claim.high
        check = _state(plain, finite, tolerance, [(lambda v: not holds(v)) if claim.negated else holds])
        return replace(check, claim=claim)
    if claim.high - claim.low > _WIDEST_RANGE * tolerance:
        return Check(claim, NOT_CHECKABLE, finite[0], tolerance, "the range is too wide to say anything")
    distances = [_distance(claim, value) for value in finite]
    if max(finite) > claim.high and min(finite) < claim.low:
        distances.append(0.0)  # between two formulas
    verdict = TRUE if (min(distances) <= tolerance) != claim.negated else FALSE
    return Check(claim, verdict, finite[int(np.argmin(distances[: len(finite)]))], tolerance)


def _distance(claim: Claim, value: float) -> float:
    """How far a value is from the range of a claim."""
    below, above = claim.low - value, value - claim.high
    if claim.quantity == "axis":
        below, above = _angle(below), _angle(above)
        return 0.0 if max(below, above) <= 0 else min(abs(below), abs(above))
    return max(below, above, 0.0)


def _angle(degrees: float) -> float:
    """The same angle between -180 and 180 degrees."""
    return (degrees + 180) % 360 - 180


def _of_rhythm(claim: Claim, patient: _Patient) -> Check:
    variation, tolerance = patient.value("rr_variation"), TOLERANCES["rhythm"]
    if claim.state == "fibrillation":
        return _of_fibrillation(claim, patient)
    if claim.state == "regular" and not claim.negated and patient.value("premature_beats") > 0:
        return Check(claim, NOT_CHECKABLE, variation, tolerance, "premature beats interrupt the rhythm")
    regular, irregular = (lambda v: v <= _REGULAR_UP_TO), (lambda v: v > _IRREGULAR_FROM)
    is_regular = (claim.state == "regular") != claim.negated
    check = _state(replace(claim, negated=False), [variation], tolerance, [regular if is_regular else irregular])
    return replace(check, claim=claim)


def _of_fibrillation(claim: Claim, patient: _Patient) -> Check:
    """What is measured as fibrillation in an irregular rhythm hardly ever is none, but a fifth is missed."""
    measured, variation = patient.value("atrial_fibrillation"), patient.value("rr_variation")
    if measured > 0.5 and variation > _REGULAR_UP_TO:
        return Check(claim, FALSE if claim.negated else TRUE, variation, TOLERANCES["rhythm"])
    if variation <= _IRREGULAR_FROM and not measured > 0.5 and not patient.value("paced") > 0.5:
        return Check(claim, TRUE if claim.negated else FALSE, variation, TOLERANCES["rhythm"])
    return Check(claim, NOT_CHECKABLE, reason="an irregular rhythm may be fibrillation that is not recognised")


def _of_pause(claim: Claim, patient: _Patient) -> Check:
    longest, tolerance = patient.value("longest_rr_s") * 1000, TOLERANCES["pause"]
    if claim.has_value:
        return _number(claim, [longest], tolerance)
    limit = _NO_PAUSE_UP_TO_MS if claim.negated else _PAUSE_FROM_MS
    return _state(claim, [longest], tolerance, [lambda v: v > limit])


def _of_premature(claim: Claim, patient: _Patient) -> Check:
    """
    Beats that are counted as premature may be a sinus arrhythmia, and some are missed: none are excluded by a steady
    rhythm only, and some are certain if their shape is another one.
    """
    number = patient.value("premature_beats")
    is_steady = patient.value("rr_variation") <= _IRREGULAR_FROM
    is_certain = patient.value("premature_beats_of_other_shape") > 0
    if not np.isfinite(number) or "atrial fibrillation" in patient.conditions:
        return Check(claim, NOT_CHECKABLE, reason="cannot be counted")
    if claim.has_value and (is_certain or (is_steady and number == 0)):
        return _number(claim, [number], TOLERANCES["premature"])
    if number and (is_certain or not claim.negated):
        return Check(claim, FALSE if claim.negated else TRUE, number, TOLERANCES["premature"])
    if number == 0 and is_steady:
        return Check(claim, TRUE if claim.negated else FALSE, number, TOLERANCES["premature"])
    return Check(claim, NOT_CHECKABLE, number, reason="the count is uncertain in a rhythm that varies")


def _of_voltage(claim: Claim, patient: _Patient) -> Check:
    """Low voltage of the limb or chest leads, or high voltage by either criterion."""
    if claim.state is None or claim.has_value:
        return Check(claim, NOT_CHECKABLE, reason="the text does not say which voltage")
    if claim.state == "high" and claim.territory == "limb":
        return Check(claim, NOT_CHECKABLE, reason="there is no limit for high voltage of the limb leads")
    groups = (claim.territory,) if claim.territory else ("limb", "chest")
    low = [
        _single(claim, "low", f"{group}_voltage_mv", f"low voltage in the {group} leads", patient) for group in groups
    ]
    high = [
        _single(claim, "high", FEATURES_OF[name], FINDINGS_OF[name, "high"], patient)
        for name in ("sokolow", "cornell")
    ]
    checks = low * (claim.state != "high") + high * (
        claim.state == "high" or (claim.state == "normal" and not claim.territory)
    )
    is_any = claim.state != "normal" and not claim.negated  # one of them is enough
    order = (TRUE, NOT_CHECKABLE, FALSE) if is_any else (FALSE, NOT_CHECKABLE, TRUE)
    deciding = min(checks, key=lambda check: order.index(check.verdict))
    return replace(deciding, claim=claim)


def _single(claim: Claim, state: str, feature: str, finding: str, patient: _Patient) -> Check:
    """The check of one voltage: of its absence if the claim is that voltages are normal."""
    negated = claim.negated or claim.state == "normal"
    one = replace(claim, state=state, negated=negated)
    return _state(one, [patient.value(feature)], TOLERANCES["voltage"], patient.finding(finding))


def _of_leads(claim: Claim, patient: _Patient) -> Check:
    """ST and T: of one lead, of two leads of a territory, or of any lead."""
    quantity = claim.quantity
    leads = claim.leads or tuple(lead for lead in LEADS if lead not in _NOTHING_SAID[quantity])
    levels = {lead: patient.value(f"{quantity}_mv_{lead}") for lead in leads}
    levels = {lead: level for lead, level in levels.items() if np.isfinite(level)}
    if not levels:
        return Check(claim, NOT_CHECKABLE, tolerance=TOLERANCES[quantity], reason="cannot be measured")
    if claim.negated or claim.state == "normal":
        return _absent(claim, levels, len(levels) == len(leads), patient)
    sign = 1 if claim.state == "elevated" else -1
    needed = min(2, len(levels)) if claim.territory else 1
    deciding = sorted(levels.values(), key=lambda level: -sign * level)[needed - 1]
    limit = _SAID_FROM[claim.state]
    if claim.has_value:
        return _number(claim, [sign * deciding], TOLERANCES[quantity])
    return _state(claim, [deciding], TOLERANCES[quantity], [lambda v: sign * v >= sign * limit])


def _absent(claim: Claim, levels: Mapping[str, float], is_whole: bool, patient: _Patient) -> Check:
    """The verdict on "no ST elevation", "ST normal": false if a lead that is named, or two leads, clearly have it."""
    quantity, tolerance = claim.quantity, TOLERANCES[claim.quantity]
    states = (
        {"st": ("elevated", "depressed"), "t": ("inverted",)}[quantity] if claim.state == "normal" else (claim.state,)
    )
    if claim.has_value:
        return Check(claim, NOT_CHECKABLE, tolerance=tolerance, reason="the text does not say what there is instead")
    unless = {
        one
        for state in states
        for rule in rules_of(FINDINGS_OF[quantity, state], "V5", None, None)
        for one in rule.unless
    }
    if patient.conditions & unless:
        return Check(
            claim,
            NOT_CHECKABLE,
            tolerance=tolerance,
            reason=f"not judged with {sorted(patient.conditions & unless)[0]}",
        )
    at_limit, clearly = [], []
    for (lead, level), state in itertools.product(levels.items(), states):
        conditions = patient.finding(FINDINGS_OF[quantity, state], lead)
        if quantity == "t" and not rules_of(FINDINGS_OF[quantity, state], lead, None, None):
            conditions = [lambda v: v < _UPRIGHT_FROM]  # leads in which it can be normal, if they are named
        shift = -tolerance if state == "elevated" else tolerance
        at_limit += [level] * all(holds(level) for holds in conditions)
        clearly += [level] * all(holds(level + shift) for holds in conditions)
    needed = 1 if len(levels) == 1 else 2
    if len(clearly) >= needed:
        return Check(claim, FALSE, max(clearly, key=abs), tolerance)
    most = max(levels.values(), key=abs)
    if len(at_limit) >= needed or not is_whole:
        reason = "a lead cannot be measured" if len(at_limit) < needed else "within the tolerance of the limit"
        return Check(claim, NOT_CHECKABLE, most, tolerance, reason)
    return Check(claim, TRUE, most, tolerance)
