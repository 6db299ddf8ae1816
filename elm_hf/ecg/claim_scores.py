"""What a text says of an ECG as numbers: its true and false claims, the abnormal findings that it states, and a score."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from elm_hf.ecg.claim_checks import FALSE, FINDINGS_OF, TOLERANCES, TRUE, Check, check_text
from elm_hf.ecg.claims import Claim
from elm_hf.ecg.normal_ranges import RULES, describe_features
from elm_hf.modeling.ecg_leads import LEADS


# Weight of a normal measurement in the score; an abnormal one has 1, so that a normal report of an ECG with one finding loses
# more than it gains by the other measurements.
NORMAL_WEIGHT = 0.1
# Abnormal findings by name: the claims that state them, and what `describe_features` calls them.
FINDINGS: dict[str, tuple[tuple[tuple[str, str], ...], tuple[str, ...]]] = {
    "bradycardia": ((("rate", "slow"),), ("bradycardia",)),
    "tachycardia": ((("rate", "fast"),), ("tachycardia",)),
    "irregular rhythm": ((("rhythm", "irregular"), ("rhythm", "fibrillation")), ("irregular RR intervals",)),
    "atrial fibrillation": (
        (("rhythm", "fibrillation"),),
        ("irregular rhythm without P waves, as in atrial fibrillation",),
    ),
    "prolonged PR": ((("pr", "prolonged"),), ("prolonged PR interval",)),
    "short PR": ((("pr", "short"),), ("short PR interval",)),
    "wide QRS": ((("qrs", "wide"),), ("wide QRS complex",)),
    "prolonged QT": ((("qt", "prolonged"), ("qtc", "prolonged")), ("prolonged QT interval",)),
    "short QT": ((("qt", "short"), ("qtc", "short")), ("short QT interval",)),
    "left axis deviation": ((("axis", "left"),), ("left axis deviation",)),
    "right axis deviation": ((("axis", "right"),), ("right axis deviation",)),
    "extreme axis": ((("axis", "extreme"),), ("extreme axis",)),
    "ST elevation": ((("st", "elevated"),), ("ST elevation",)),
    "ST depression": ((("st", "depressed"),), ("ST depression",)),
    "T inversion": ((("t", "inverted"),), ("T wave inversion",)),
    "low voltage": ((("voltage", "low"),), ("low voltage in the limb leads", "low voltage in the chest leads")),
    "high voltage": (
        (("voltage", "high"), ("sokolow", "high"), ("cornell", "high")),
        (FINDINGS_OF["sokolow", "high"], FINDINGS_OF["cornell", "high"]),
    ),
    "pause": ((("pause", "present"),), ("pause",)),
    "premature beats": ((("premature", "present"),), ("premature beats",)),
}
# What the score is about in every ECG in which it can be measured, by the feature that is needed.
_TOPICS = {
    "rate": "heart_rate",
    "rhythm": "rr_variation",
    "pr": "pr_ms",
    "qrs": "qrs_ms",
    "qt": "qt_ms",
    "axis": "axis_deg",
    "st elevated": "st_mv_V2",
    "st depressed": "st_mv_V2",
    "t": "t_mv_V2",
}
_SAME_TOPIC = {"qtc": "qt", "sokolow": "voltage", "cornell": "voltage"}
_RHYTHMS = {"irregular", "fibrillation"}  # may be said of one rhythm
# Tolerance of each feature, by the end of its name.
_OF_FEATURE = {
    "heart_rate": "rate",
    "rr_variation": "rhythm",
    "longest_rr_s": None,
    "pr_ms": "pr",
    "qrs_ms": "qrs",
    "qt_ms": "qt",
    "qtc_ms": "qtc",
    "axis_deg": "axis",
    "sokolow_mv": "sokolow",
    "cornell_mv": "cornell",
    "limb_voltage_mv": "voltage",
    "chest_voltage_mv": "voltage",
    **{f"{wave}_mv_{lead}": wave for wave in ("st", "t") for lead in LEADS},
}


@dataclass(frozen=True)
class JudgedText:
    """
    The claims of a text, checked against an ECG.

    Attributes:
        checks: each claim once, however often the text repeats it.
        findings: the abnormal findings of the ECG that are beyond doubt, names in `FINDINGS`.
        stated: those of them that the text states.
        score: from -1 to 1, see [`score_of`].
    """

    checks: list[Check]
    findings: list[str]
    stated: list[str]
    score: float


def judge_text(
    text: str, features: Mapping[str, float], sex: str | None = None, age: float | None = None
) -> JudgedText:
    """
    Check the claims of a text, and find which abnormal findings of the ECG it states.

    Args:
        text, features, sex, age: see [`~elm_hf.ecg.claim_checks.check_text`].
    """
    checks = distinct(check_text(text, features, sex, age))
    findings = certain_findings(features, sex, age)
    stated = [finding for finding in findings if any(states(check, finding, sex, age) for check in checks)]
    return JudgedText(checks, findings, stated, score_of(checks, features, findings, stated))


def distinct(checks: Sequence[Check]) -> list[Check]:
    """Each claim once: the same quantity, state, number and leads."""
    return list({str(check.claim): check for check in checks}.values())


def certain_findings(features: Mapping[str, float], sex: str | None = None, age: float | None = None) -> list[str]:
    """
    The abnormal findings of an ECG that remain if every feature is moved by its tolerance, down or up, names in `FINDINGS`.
    Premature beats are certain if one has another shape, atrial fibrillation if the rhythm is irregular beyond doubt.

    Args:
        features, sex, age: see [`~elm_hf.ecg.claim_checks.check_text`].
    """
    described = []
    for sign in (0, -1, 1):
        moved = {name: value + sign * _tolerance(name) for name, value in features.items()}
        described.append({_name(text) for found in describe_features(moved, sex, age).values() for text in found})
    common = set.intersection(*described)
    if not features.get("premature_beats_of_other_shape", 0) > 0:
        common.discard("premature beats")
    if "irregular RR intervals" not in common:
        common.discard("irregular rhythm without P waves, as in atrial fibrillation")
    if features.get("heart_rate", np.nan) > 100:  # P lies on T
        common -= {"prolonged PR interval", "short PR interval"}
    found = [finding for finding, (_, names) in FINDINGS.items() if common & set(names)]
    if "atrial fibrillation" in found or "premature beats" in found:
        found = [finding for finding in found if finding != "irregular rhythm"]
    return found


def _tolerance(feature: str) -> float:
    if feature == "longest_rr_s":
        return TOLERANCES["pause"] / 1000
    quantity = _OF_FEATURE.get(feature)
    return TOLERANCES[quantity] if quantity else 0.0


def _name(described: str) -> str:
    """The name of a finding in the words of `describe_features`, which end with the value."""
    return max((rule.finding for rule in RULES if described.startswith(rule.finding)), key=len)


def finding_of(claim: Claim) -> str | None:
    """The abnormal finding whose presence a claim states, a name in `FINDINGS`; None for a number or a normal state."""
    if claim.negated or claim.hedged or claim.state is None:
        return None
    return next((name for name, (claims, _) in FINDINGS.items() if (claim.quantity, claim.state) in claims), None)


def states(check: Check, finding: str, sex: str | None = None, age: float | None = None) -> bool:
    """Whether a true claim states an abnormal finding, in words or by a number beyond its limit."""
    claim = check.claim
    if check.verdict != TRUE or claim.negated or claim.hedged:
        return False
    claims, names = FINDINGS[finding]
    if claim.state is not None:
        return (claim.quantity, claim.state) in claims
    quantities = {quantity for quantity, _ in claims}
    if claim.quantity not in quantities or claim.low is None or claim.high is None:
        return False
    return any(all(_is_abnormal(name, value, sex, age) for value in (claim.low, claim.high)) for name in names)


def _is_abnormal(finding: str, value: float, sex: str | None, age: float | None) -> bool:
    rules = [rule for rule in RULES if rule.finding == finding and not rule.leads]
    return any(rule.includes(value) for rule in rules if rule.sex is None or sex is None or rule.sex == sex)


def score_of(
    checks: Sequence[Check], features: Mapping[str, float], findings: Sequence[str], stated: Sequence[str]
) -> float:
    """
    How much of an ECG a text says rightly, from -1 to 1; 0 for a text without claims.

    Each measurement counts once, however much is said of it: rate, rhythm, PR, QRS, QT, axis, ST elevation, ST depression
    and T, as far as they can be measured, and what else is abnormal or falsely claimed. It counts 1 if what is said of it
    is true, and states the finding if there is one; -1 if any of it is false or contradicts itself; and 0 if nothing is
    said. The score is the mean, in which abnormal measurements and false claims weigh 1 and the others `NORMAL_WEIGHT`.

    So saying everything contradicts itself, repeating a true claim gains nothing, a list of numbers holds false ones, and
    a normal report of an abnormal ECG loses.

    Args:
        checks: the claims of the text.
        features: of the ECG.
        findings, stated: of [`judge_text`].
    """
    said: dict[str, list[Check]] = {}
    for check in checks:
        for topic in _topics_of(check.claim):
            said.setdefault(topic, []).append(check)
    abnormal: dict[str, list[str]] = {}
    for finding in findings:
        for quantity, state in FINDINGS[finding][0][:1]:
            abnormal.setdefault(_topic(quantity, state), []).append(finding)
    topics = [topic for topic, feature in _TOPICS.items() if np.isfinite(features.get(feature, np.nan))]
    total = weights = 0.0
    for topic in dict.fromkeys([*topics, *abnormal, *said]):
        verdicts = {check.verdict for check in said.get(topic, [])}
        value = 0.0
        if FALSE in verdicts or contradicts([check.claim for check in said.get(topic, [])]):
            value = -1.0
        elif topic in abnormal:
            value = sum(finding in stated for finding in abnormal[topic]) / len(abnormal[topic])
        elif TRUE in verdicts:
            value = 1.0
        if topic not in topics and topic not in abnormal and value >= 0:
            continue  # nothing is expected of it
        weight = 1.0 if topic in abnormal or value < 0 else NORMAL_WEIGHT
        total, weights = total + weight * value, weights + weight
    return total / weights if weights else 0.0


def _topics_of(claim: Claim) -> list[str]:
    if claim.hedged:
        return []
    if claim.quantity == "st" and claim.state == "normal":
        return ["st elevated", "st depressed"]
    return [_topic(claim.quantity, claim.state)]


def _topic(quantity: str, state: str | None) -> str:
    return f"st {state}" if quantity == "st" else _SAME_TOPIC.get(quantity, quantity)


def contradicts(claims: Sequence[Claim]) -> bool:
    """Whether two claims about one measurement exclude each other, whatever the ECG."""
    return any(_exclude(*pair) for pair in itertools.combinations(claims, 2))


def _exclude(one: Claim, other: Claim) -> bool:
    if one.leads and other.leads and not set(one.leads) & set(other.leads):
        return False
    if one.quantity != other.quantity and {one.quantity, other.quantity} != {"qt", "qtc"}:
        return False
    if one.state is None and other.state is None:
        values = (one.low, one.high, other.low, other.high)
        apart = None not in values and max(one.low - other.high, other.low - one.high)
        return one.quantity == other.quantity and apart is not False and apart > 2 * TOLERANCES[one.quantity]
    if None in (one.state, other.state):
        return False
    if one.state == other.state:
        return one.negated != other.negated and one.leads == other.leads
    are_both = not one.negated and not other.negated
    if one.quantity == "st" and "normal" in (one.state, other.state) and one.leads != other.leads:
        return False  # "ST normal, but elevated in V2"
    if one.quantity == "voltage" and one.leads != other.leads:
        return False
    return are_both and not {one.state, other.state} <= _RHYTHMS
