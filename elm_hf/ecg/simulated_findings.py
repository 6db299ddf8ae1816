"""The findings of simulated ECGs: measurements, the labels that follow from them, and patients drawn at random.

Every measurement is drawn continuously across its clinical limit, and a label follows from the rule at the limit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


RHYTHMS = ("sinus rhythm", "sinus bradycardia", "sinus tachycardia", "atrial fibrillation", "atrial flutter")
RATE_RANGES = ("below the normal range", "within the normal range", "above the normal range")
LEFT_BLOCK, RIGHT_BLOCK = "left bundle branch block", "right bundle branch block"
CONDUCTION_DELAY = "nonspecific intraventricular conduction delay"
CONDUCTIONS = (
    "first degree av block",
    LEFT_BLOCK,
    RIGHT_BLOCK,
    CONDUCTION_DELAY,
    f"incomplete {LEFT_BLOCK}",
    f"incomplete {RIGHT_BLOCK}",
)
PROLONGED_QT = "prolonged qt interval"
TERRITORIES = ("none", "anterior", "inferior", "lateral")
HYPERTROPHY = "left ventricular hypertrophy"
AXES = ("normal heart axis", "left axis deviation", "right axis deviation")
NORMAL_ECG = "normal ecg"
NOISES = ("none", "static noise", "baseline drift", "line noise", "tremor", "electrode motion")

# The clinical limits. They are the same for all ages and both sexes, so that age and sex say nothing about a label.
SLOW_PER_MINUTE, FAST_PER_MINUTE = 60.0, 100.0  # the usual convention
LONG_PR_MS = 200.0  # AHA/ACCF/HRS 2009, part III
WIDE_QRS_MS = 120.0  # AHA/ACCF/HRS 2009, part III
LONG_QTC_MS = 460.0  # AHA/ACCF/HRS 2009, part IV: the higher of the limits for men and women
TALL_MV = 3.5  # Sokolow and Lyon 1949
LEFT_AXIS_DEG, RIGHT_AXIS_DEG = -30.0, 90.0  # AHA/ACCF/HRS 2009, part III
# ST elevation at the J point (fourth universal definition of myocardial infarction 2018; men of 40 years and over).
ST_LIMITS_MV = {"anterior": 0.2, "inferior": 0.1, "lateral": 0.1}  # 0.2 in V2 and V3, 0.1 in all other leads


@dataclass(frozen=True)
class Findings:
    """
    The findings of a simulated ECG, from which its labels and answers follow.

    Args:
        patient: seed of the wave shapes of the patient; the same in all ECGs of a patient.
        rhythm: one of `RHYTHMS`.
        heart_rate: mean ventricular rate in beats per minute.
        pr_ms: PR interval in milliseconds; None in atrial fibrillation and flutter.
        qrs_ms: QRS duration in milliseconds.
        qtc_ms: QT interval in milliseconds, corrected to 60 beats per minute (Hodges 1983) and a QRS duration of 90 ms.
        territory: territory in which the ST segment is raised, one of `TERRITORIES`. It is a finding only from its
            limit on.
        st_mv: ST level at the J point in millivolt, in the second most elevated of the contiguous leads of the
            territory (in V2 and V3 if it is anterior).
        sokolow_mv: Sokolow-Lyon voltage in millivolt: S in V1 + the larger R of V5 and V6.
        axis_deg: frontal QRS axis in degrees, from the net areas of I and aVF.
        noise: one of `NOISES`.
        qrs_shape: `"normal"`, or the bundle branch block whose shape QRS has (`LEFT_BLOCK`, `RIGHT_BLOCK`).
        strain: the secondary ST depression and T inversion of left ventricular hypertrophy.
    """

    patient: int
    rhythm: str
    heart_rate: float
    pr_ms: float | None
    qrs_ms: float
    qtc_ms: float
    territory: str
    st_mv: float
    sokolow_mv: float
    axis_deg: float
    noise: str
    qrs_shape: str = "normal"
    strain: bool = False

    @property
    def rate_range(self) -> str:
        """One of `RATE_RANGES`; 60 to 100 beats per minute are normal."""
        return RATE_RANGES[int(self.heart_rate >= SLOW_PER_MINUTE) + int(self.heart_rate > FAST_PER_MINUTE)]

    @property
    def qt_ms(self) -> float:
        """The QT interval in milliseconds."""
        return self.qtc_ms - 1.75 * (self.heart_rate - 60) + (self.qrs_ms - 90)

    @property
    def av_block(self) -> bool:
        """First degree AV block: a PR interval over 200 ms."""
        return self.pr_ms is not None and self.pr_ms > LONG_PR_MS

    @property
    def conduction(self) -> str | None:
        """The intraventricular conduction disorder. A bundle branch block is incomplete below 120 ms."""
        is_wide = self.qrs_ms >= WIDE_QRS_MS
        if self.qrs_shape == "normal":
            return CONDUCTION_DELAY if is_wide else None
        return self.qrs_shape if is_wide else f"incomplete {self.qrs_shape}"

    @property
    def prolonged_qt(self) -> bool:
        """A corrected QT interval of 460 ms or more."""
        return self.qtc_ms >= LONG_QTC_MS

    @property
    def elevated_territory(self) -> str:
        """
        The territory with ST elevation, one of `TERRITORIES`. It is not judged in left bundle branch block, which
        changes the ST segment itself, and in flutter, whose waves lie upon it.
        """
        is_judged = self.qrs_shape != LEFT_BLOCK and self.rhythm != RHYTHMS[4] and self.territory != "none"
        return self.territory if is_judged and self.st_mv >= ST_LIMITS_MV[self.territory] else "none"

    @property
    def hypertrophy(self) -> bool:
        """Left ventricular hypertrophy by voltage: over 3.5 mV."""
        return self.sokolow_mv > TALL_MV

    @property
    def axis(self) -> str:
        """One of `AXES`; -30 to 90 degrees are normal."""
        if self.axis_deg < LEFT_AXIS_DEG:
            return AXES[1]
        return AXES[2] if self.axis_deg > RIGHT_AXIS_DEG else AXES[0]

    @property
    def disorders(self) -> list[str]:
        """All abnormal findings of the heart besides its rhythm, in a fixed order."""
        found = ["first degree av block"] * self.av_block
        found += [self.conduction] if self.conduction else []
        found += [PROLONGED_QT] * self.prolonged_qt
        found += [f"st elevation in {self.elevated_territory} leads"] * (self.elevated_territory != "none")
        found += [HYPERTROPHY] * self.hypertrophy
        return found + [self.axis] * (self.axis != AXES[0])

    @property
    def is_normal(self) -> bool:
        """Sinus rhythm without any disorder. Noise does not count."""
        return self.rhythm == RHYTHMS[0] and not self.disorders

    @property
    def labels(self) -> list[str]:
        """The rhythm, then "normal ecg" or each disorder, then the noise."""
        noise = [self.noise] * (self.noise != "none")
        return [self.rhythm, *(self.disorders or [NORMAL_ECG] * self.is_normal), *noise]


# For each group of findings: its abnormal classes with their shares, the probability that the findings of a patient
# include one of them in all ECGs, and the probability that this group is the one that changes between ECGs.
_GROUPS = {
    "rhythm": (dict(zip(RHYTHMS[1:], (0.21, 0.21, 0.31, 0.27))), 0.10, 0.26),
    "pr": ({"long": 1.0}, 0.05, 0.10),
    "qrs": ({LEFT_BLOCK: 0.36, RIGHT_BLOCK: 0.36, CONDUCTION_DELAY: 0.28}, 0.06, 0.17),
    "qt": ({"long": 1.0}, 0.04, 0.08),
    "st": (dict.fromkeys(TERRITORIES[1:], 1 / 3), 0.06, 0.15),
    "voltage": ({"tall": 1.0}, 0.06, 0.11),
    "axis": (dict.fromkeys(AXES[1:], 0.5), 0.07, 0.13),
}
_UNCHANGED = 0.1  # share of the patients whose ECGs all have the same findings
_NOISY = 0.5
_STRAIN = 0.4
# Least time from the end of T to the onset of P: an earlier P wave is hidden in T, and PR cannot be read.
_TP_MS = 20.0


def draw_findings(rng: np.random.Generator) -> Findings:
    """Draw the findings of a new patient. About a third of the ECGs is wholly normal."""
    return draw_patient(rng, 1)[0]


def draw_patient(rng: np.random.Generator, number: int) -> list[Findings]:
    """
    Draw the findings of several ECGs of one patient. One group of findings (for example the rhythm) changes from each
    ECG to the next between its normal and one abnormal class; in a tenth of the patients nothing changes. All other
    measurements are equal in all ECGs. Noise belongs to a recording and is drawn for each ECG.

    All ECGs have the same distribution, so the order of the ECGs says nothing about their findings.

    Args:
        rng: random generator.
        number: number of ECGs.
    """
    patient = int(rng.integers(2**31))
    changing = _draw(rng, {name: chance for name, (_, _, chance) in _GROUPS.items()})
    classes = {name: _draw(rng, shares) for name, (shares, _, _) in _GROUPS.items()}
    present = {name for name, (_, chance, _) in _GROUPS.items() if rng.random() < chance}
    present = _without_conflicts(classes, present, changing)
    first, is_constant = int(rng.integers(2)), rng.random() < _UNCHANGED
    versions = _draw_versions(patient, classes, present, changing, rng)
    order = [(first + (0 if is_constant else visit)) % 2 for visit in range(number)]
    return [replace(versions[version], noise=_draw_noise(rng)) for version in order]


def draw_normal(rng: np.random.Generator) -> Findings:
    """Draw the findings of a patient with a normal ECG without noise."""
    return _findings(int(rng.integers(2**31)), {name: draw(rng, None) for name, draw in _DRAW.items()})


def _without_conflicts(classes: dict[str, str], present: set[str], changing: str) -> set[str]:
    """Drop findings that cannot be read beside others: the later one of the two, or the one that does not change."""
    is_fast = classes["rhythm"] in RHYTHMS[2:]
    is_left_block = classes["qrs"] == LEFT_BLOCK
    conflicts = [("rhythm", "pr"), ("rhythm", "qt")] * is_fast + [("qrs", "st")] * is_left_block
    is_flutter = classes["rhythm"] == RHYTHMS[4]
    conflicts += [("rhythm", "st")] * is_flutter + [("rhythm", "qrs")] * (is_flutter and is_left_block)
    conflicts += [("qrs", "axis")] * (is_left_block and classes["axis"] == AXES[2])
    for one, other in conflicts:
        if {one, other} <= present | {changing}:
            present = present - ({one} if other == changing else {other})
    return present


def _draw_versions(
    patient: int, classes: dict[str, str], present: set[str], changing: str, rng: np.random.Generator
) -> list[Findings]:
    """Draw the measurements of a patient, without and with the abnormal class of the changing group."""
    ever = present | {changing}
    shape = classes["qrs"] if "qrs" in ever else None
    is_strained = "voltage" in ever and not {"st", "qrs"} & ever and rng.random() < _STRAIN
    while True:
        normal = {name: draw(rng, None) for name, draw in _DRAW.items()}
        abnormal = {name: draw(rng, classes[name]) for name, draw in _DRAW.items()}
        if is_strained or shape == LEFT_BLOCK:
            normal["st"] = {"territory": "none", "st_mv": 0.0}
        abnormal["voltage"]["strain"] = is_strained
        versions = [
            _findings(patient, normal | {name: abnormal[name] for name in state})
            for state in (present - {changing}, ever)
        ]
        if all(is_readable(findings) for findings in versions):
            return versions


def _findings(patient: int, values: dict[str, dict]) -> Findings:
    merged = {key: value for group in values.values() for key, value in group.items()}
    if merged["rhythm"] in RHYTHMS[3:]:
        merged["pr_ms"] = None
    return Findings(patient=patient, noise="none", **merged)


def is_readable(findings: Findings) -> bool:
    """Whether T ends before the next P wave, and in fibrillation and flutter before the next QRS even if it is early."""
    interval = 60_000 / findings.heart_rate
    if findings.pr_ms is None:
        return findings.qt_ms + _TP_MS <= 0.75 * interval
    return findings.qt_ms + _TP_MS + findings.pr_ms <= interval


def _draw_noise(rng: np.random.Generator) -> str:
    return NOISES[rng.integers(1, len(NOISES))] if rng.random() < _NOISY else NOISES[0]


def _draw_rhythm(rng: np.random.Generator, name: str | None) -> dict:
    rates = {
        RHYTHMS[1]: lambda: _beyond(rng, SLOW_PER_MINUTE, 38),
        RHYTHMS[2]: lambda: _beyond(rng, FAST_PER_MINUTE, 140),
        RHYTHMS[3]: lambda: _around(rng, 92, 28, 45, 150),
        RHYTHMS[4]: lambda: _around(rng, 92, 28, 50, 155),
    }
    if name is None:
        return {"rhythm": RHYTHMS[0], "heart_rate": _around(rng, 77, 9, SLOW_PER_MINUTE, FAST_PER_MINUTE)}
    return {"rhythm": name, "heart_rate": rates[name]()}


def _draw_pr(rng: np.random.Generator, name: str | None) -> dict:
    return {"pr_ms": _around(rng, 158, 18, 122, LONG_PR_MS) if name is None else _beyond(rng, LONG_PR_MS, 320)}


def _draw_qrs(rng: np.random.Generator, name: str | None) -> dict:
    if name is None:
        return {"qrs_shape": "normal", "qrs_ms": _around(rng, 92, 11, 70, WIDE_QRS_MS)}
    if name == CONDUCTION_DELAY:
        return {"qrs_shape": "normal", "qrs_ms": _beyond(rng, WIDE_QRS_MS, 160)}
    return {"qrs_shape": name, "qrs_ms": rng.uniform(104, 170)}


def _draw_qt(rng: np.random.Generator, name: str | None) -> dict:
    return {"qtc_ms": _around(rng, 412, 20, 365, LONG_QTC_MS) if name is None else _beyond(rng, LONG_QTC_MS, 530)}


def _draw_st(rng: np.random.Generator, name: str | None) -> dict:
    territory = TERRITORIES[rng.integers(1, 4)] if name is None else name
    limit = ST_LIMITS_MV[territory]
    level = _around(rng, 0, 0.4 * limit, 0, limit) if name is None else _beyond(rng, limit, limit + 0.3)
    return {"territory": territory, "st_mv": level}


def _draw_voltage(rng: np.random.Generator, name: str | None) -> dict:
    return {"sokolow_mv": _around(rng, 2.3, 0.5, 1.2, TALL_MV) if name is None else _beyond(rng, TALL_MV, 5.2)}


def _draw_axis(rng: np.random.Generator, name: str | None) -> dict:
    if name is None:
        return {"axis_deg": _around(rng, 35, 27, LEFT_AXIS_DEG, RIGHT_AXIS_DEG)}
    left = name == AXES[1]
    return {"axis_deg": _beyond(rng, LEFT_AXIS_DEG, -90) if left else _beyond(rng, RIGHT_AXIS_DEG, 150)}


# How to draw the measurements of each group, for an abnormal class or, with None, for a normal ECG.
_DRAW = {
    "rhythm": _draw_rhythm,
    "pr": _draw_pr,
    "qrs": _draw_qrs,
    "qt": _draw_qt,
    "st": _draw_st,
    "voltage": _draw_voltage,
    "axis": _draw_axis,
}


def _around(rng: np.random.Generator, mean: float, deviation: float, low: float, high: float) -> float:
    """A normal value between the limits `low` and `high`."""
    while True:
        value = rng.normal(mean, deviation)
        if low <= value < high:
            return float(value)


def _beyond(rng: np.random.Generator, limit: float, far: float) -> float:
    """A value from `far` up to, but not including, `limit`."""
    return float(far + (limit - far) * rng.random())


def _draw(rng: np.random.Generator, shares: dict[str, float]) -> str:
    """One of the names, each with its share; the shares sum to 1."""
    value = rng.random()
    for name, share in shares.items():
        value -= share
        if value < 0:
            return name
    return name
