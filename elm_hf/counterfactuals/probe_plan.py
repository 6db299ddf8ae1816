"""What the counterfactual probe asks about: simulated ECGs that differ in one thing, with what is true of each."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from elm_hf.counterfactuals.probe_questions import (
    AV_BLOCK,
    ELEVATIONS,
    FAST,
    FIBRILLATION,
    LEFT_AXIS,
    RIGHT_AXIS,
    SLOW,
)
from elm_hf.ecg.counterfactuals import Heart, exchange_electrodes, leads_of_two, simulate_heart
from elm_hf.ecg.simulated_findings import (
    CONDUCTION_DELAY,
    FAST_PER_MINUTE,
    HYPERTROPHY,
    LEFT_AXIS_DEG,
    LEFT_BLOCK,
    LONG_PR_MS,
    LONG_QTC_MS,
    PROLONGED_QT,
    RIGHT_AXIS_DEG,
    RIGHT_BLOCK,
    SLOW_PER_MINUTE,
    ST_LIMITS_MV,
    TALL_MV,
    WIDE_QRS_MS,
)
from elm_hf.ecg.verified_changes import F_WAVES, NO_WAVES, P_WAVES
from elm_hf.modeling.ecg_leads import SAMPLING_RATE


# Parts of the probe.
SWEEP, UNCHANGED, RHYTHM, EXCHANGE, REVERSAL, TERRITORY = (
    *("sweep", "unchanged", "rhythm", "exchange", "reversal", "territory"),
)


@dataclass(frozen=True)
class Sweep:
    """
    A measurement that is changed across its clinical limit while all else stays.

    Attributes:
        finding: the finding that the limit defines.
        quantity, unit: name of the measurement, and its unit.
        limit: the clinical limit.
        step: distance of two values; the limit lies in the middle between two.
        below, above: number of values on each side of the limit.
        field: name of the measurement in `Findings`.
        others: further changes that the finding needs.
        is_above: whether values above the limit are abnormal, or those below it.
    """

    finding: str
    quantity: str
    unit: str
    limit: float
    step: float
    below: int
    above: int
    field: str
    others: tuple[tuple[str, object], ...] = ()
    is_above: bool = True

    @property
    def values(self) -> list[float]:
        """The values, in rising order."""
        return [round(self.limit + self.step * (place + 0.5), 6) for place in range(-self.below, self.above)]

    def change(self, value: float) -> dict:
        """The findings with this value that differ from those of a normal heart."""
        return {self.field: value} | dict(self.others)

    def is_abnormal(self, value: float) -> bool:
        """Whether the ECG with this value has the finding."""
        return (value > self.limit) == self.is_above


def _block(shape: str) -> tuple:
    return ("qrs_shape", shape), ("territory", "none"), ("st_mv", 0.0)


def _elevation(territory: str, step: float, below: int, above: int) -> Sweep:
    limit, others = ST_LIMITS_MV[territory], (("territory", territory),)
    return Sweep(ELEVATIONS[territory], "ST level", "mV", limit, step, below, above, "st_mv", others)


SWEEPS = (
    Sweep(AV_BLOCK, "PR interval", "ms", LONG_PR_MS, 14, 5, 5, "pr_ms"),
    Sweep(CONDUCTION_DELAY, "QRS duration", "ms", WIDE_QRS_MS, 8, 5, 5, "qrs_ms"),
    # Block shapes of shorter duration do not occur.
    Sweep(LEFT_BLOCK, "QRS duration", "ms", WIDE_QRS_MS, 6, 3, 7, "qrs_ms", _block(LEFT_BLOCK)),
    Sweep(RIGHT_BLOCK, "QRS duration", "ms", WIDE_QRS_MS, 6, 3, 7, "qrs_ms", _block(RIGHT_BLOCK)),
    Sweep(PROLONGED_QT, "QTc", "ms", LONG_QTC_MS, 12, 5, 5, "qtc_ms"),
    Sweep(SLOW, "heart rate", "/min", SLOW_PER_MINUTE, 4, 5, 5, "heart_rate", is_above=False),
    Sweep(FAST, "heart rate", "/min", FAST_PER_MINUTE, 5, 5, 5, "heart_rate"),
    _elevation("anterior", 0.04, 5, 5),
    _elevation("inferior", 0.03, 3, 7),
    _elevation("lateral", 0.03, 3, 7),
    Sweep(HYPERTROPHY, "Sokolow-Lyon voltage", "mV", TALL_MV, 0.3, 5, 5, "sokolow_mv"),
    Sweep(LEFT_AXIS, "QRS axis", "degrees", LEFT_AXIS_DEG, 12, 5, 5, "axis_deg", is_above=False),
    Sweep(RIGHT_AXIS, "QRS axis", "degrees", RIGHT_AXIS_DEG, 12, 5, 5, "axis_deg"),
)
# Hearts are drawn so that all of these changes can be made.
ALL_CHANGES = [sweep.change(value) for sweep in SWEEPS for value in sweep.values] + [{"pr_ms": None}]

_TIMES = {AV_BLOCK, CONDUCTION_DELAY, PROLONGED_QT, SLOW, FAST}
_IN_LIMB_LEADS = {LEFT_AXIS, RIGHT_AXIS, ELEVATIONS["inferior"]}
_IN_CHEST_LEADS = {HYPERTROPHY, ELEVATIONS["anterior"]}
EXCHANGED = dict.fromkeys((LEFT_AXIS, RIGHT_AXIS, ELEVATIONS["inferior"]), "limb leads") | dict.fromkeys(
    (HYPERTROPHY, ELEVATIONS["anterior"]), "chest leads"
)
_CLEAR = {
    LEFT_AXIS: {"axis_deg": -66.0},
    RIGHT_AXIS: {"axis_deg": 126.0},
    ELEVATIONS["inferior"]: {"territory": "inferior", "st_mv": 0.3},
    ELEVATIONS["anterior"]: {"territory": "anterior", "st_mv": 0.4},
    ELEVATIONS["lateral"]: {"territory": "lateral", "st_mv": 0.3},
    HYPERTROPHY: {"sokolow_mv": 4.7},
}
_FLAT_ST = {"territory": "none", "st_mv": 0.0}
AS_RECORDED, ARMS_EXCHANGED = "as recorded", "arm electrodes exchanged"
# An axis of 40 degrees becomes 140 when the arm electrodes are exchanged, which mirrors it at the vertical.
_AXIS_BEFORE_REVERSAL = 40.0
# Atrial waves and whether the rhythm is irregular, with whether that is atrial fibrillation: an irregular rhythm without P
# waves. f waves with a regular rhythm can be fibrillation with complete AV block, and are not judged.
RHYTHM_CASES = {
    (P_WAVES, False): False,
    (P_WAVES, True): False,
    (NO_WAVES, False): False,
    (NO_WAVES, True): True,
    (F_WAVES, False): None,
    (F_WAVES, True): True,
}


@dataclass(frozen=True)
class Trial:
    """
    An ECG that is asked about.

    Attributes:
        part: `SWEEP`, ...
        name: what was done to the ECG, within the part.
        finding: the finding that is asked for.
        patient: number of the heart.
        truth: whether the ECG has the finding; None if that is not certain.
        ecg: returns the ECG `(12, samples)` in mV.
        sampling_rate: in Hz.
        value: of the measurement, in a sweep.
    """

    part: str
    name: str
    finding: str
    patient: int
    truth: bool | None
    ecg: Callable[[], np.ndarray]
    sampling_rate: int = SAMPLING_RATE
    value: float | None = None


@dataclass(frozen=True)
class Change:
    """
    A change of an ECG that must not change the answer.

    Attributes:
        name: of the change.
        apply: makes the changed ECG of a heart of this many seconds.
        findings: the findings that it leaves as they are; None for all.
        sampling_rate: of the changed ECG in Hz.
    """

    name: str
    apply: Callable[[Heart, float], np.ndarray]
    findings: frozenset[str] | None = None
    sampling_rate: int = SAMPLING_RATE


def _noisy(kind: str, heart: Heart, seconds: float) -> np.ndarray:
    return simulate_heart(heart.with_findings(noise=kind), seconds)


def _scaled(factor: float, heart: Heart, seconds: float) -> np.ndarray:
    return np.float32(factor) * simulate_heart(heart, seconds)


def _faster(heart: Heart, seconds: float) -> np.ndarray:
    return simulate_heart(heart, seconds, 500)


def _later(heart: Heart, seconds: float) -> np.ndarray:
    return simulate_heart(heart, seconds, start_s=0.4)


def _reversed(first: str, second: str, heart: Heart, seconds: float) -> np.ndarray:
    return exchange_electrodes(simulate_heart(heart, seconds), first, second)


CHANGES = (
    Change("muscle noise", partial(_noisy, "static noise")),
    Change("baseline drift", partial(_noisy, "baseline drift")),
    Change("line noise", partial(_noisy, "line noise")),
    # The gain of an electrocardiograph may be wrong by 5 % (IEC 60601-2-25).
    Change("gain 5 % lower", partial(_scaled, 0.95)),
    Change("gain 5 % higher", partial(_scaled, 1.05)),
    Change("sampled at 500 Hz", _faster, sampling_rate=500),
    Change("starts 0.4 s later", _later),
    Change(ARMS_EXCHANGED, partial(_reversed, "RA", "LA"), frozenset(_TIMES | _IN_CHEST_LEADS)),
    Change("V1 and V6 exchanged", partial(_reversed, "V1", "V6"), frozenset(_TIMES | _IN_LIMB_LEADS)),
)


def plan(hearts: Sequence[Heart], seconds: float) -> Iterator[Trial]:
    """
    All ECGs of the probe.

    Args:
        hearts: of [`~elm_hf.ecg.counterfactuals.draw_hearts`] with `ALL_CHANGES`.
        seconds: length of the ECGs.
    """
    for patient, heart in enumerate(hearts):
        for number, sweep in enumerate(SWEEPS):
            yield from _sweep(sweep, number, patient, heart, seconds)
        yield from _rhythms(patient, heart, seconds)
        yield from _exchanges(patient, heart, hearts[patient - 1], seconds)
        yield from _reversal(patient, heart, seconds)
        yield from _territories(patient, heart, seconds)


def _sweep(sweep: Sweep, number: int, patient: int, heart: Heart, seconds: float) -> Iterator[Trial]:
    """The values of a sweep; and its first and last value again with a change that must not matter, another in each."""
    values = sweep.values
    for value in values:
        ecg = partial(simulate_heart, heart.with_findings(**sweep.change(value)), seconds)
        truth = sweep.is_abnormal(value)
        yield Trial(SWEEP, sweep.finding, sweep.finding, patient, truth, ecg, value=value)
    changes = [one for one in CHANGES if one.findings is None or sweep.finding in one.findings]
    for end, value in enumerate((values[0], values[-1])):
        change = changes[(patient + 2 * number + end) % len(changes)]
        ecg = partial(change.apply, heart.with_findings(**sweep.change(value)), seconds)
        truth = sweep.is_abnormal(value)
        yield Trial(UNCHANGED, change.name, sweep.finding, patient, truth, ecg, change.sampling_rate, value)


def rhythm_name(atria: str, irregular: bool) -> str:
    """Name of a trial of `RHYTHM_CASES`."""
    return f"{atria}, {'irregular' if irregular else 'regular'}"


def _rhythms(patient: int, heart: Heart, seconds: float) -> Iterator[Trial]:
    for (atria, irregular), truth in RHYTHM_CASES.items():
        has_p = atria == P_WAVES
        changed = heart if has_p else heart.with_findings(pr_ms=None)
        changed = replace(changed, irregular=irregular, f_waves=atria == F_WAVES)
        name = rhythm_name(atria, irregular)
        yield Trial(RHYTHM, name, FIBRILLATION, patient, truth, partial(simulate_heart, changed, seconds))


def _exchanges(patient: int, heart: Heart, other: Heart, seconds: float) -> Iterator[Trial]:
    """The limb leads of one patient with the chest leads of another whose heart beats at the same times."""
    normal = heart.with_findings(**_FLAT_ST)
    for finding, leads in EXCHANGED.items():
        with_it = normal.with_findings(**_CLEAR[finding])
        without = heart.with_findings(**another_shape(other))
        for is_in_its_leads in (True, False):
            pair = (with_it, without) if (leads == "limb leads") == is_in_its_leads else (without, with_it)
            ecg = partial(_leads_of_hearts, *pair, seconds)
            name = "in its leads" if is_in_its_leads else "in the other leads"
            yield Trial(EXCHANGE, name, finding, patient, is_in_its_leads, ecg)


def another_shape(other: Heart) -> dict:
    """The findings that give a heart the shape of another one: its voltages, axis and waves, without ST elevation."""
    return {name: getattr(other.findings, name) for name in ("patient", "sokolow_mv", "axis_deg")} | _FLAT_ST


def _leads_of_hearts(limb: Heart, chest: Heart, seconds: float) -> np.ndarray:
    return leads_of_two(simulate_heart(limb, seconds), simulate_heart(chest, seconds))


def _reversal(patient: int, heart: Heart, seconds: float) -> Iterator[Trial]:
    heart = heart.with_findings(axis_deg=_AXIS_BEFORE_REVERSAL)
    yield Trial(REVERSAL, AS_RECORDED, RIGHT_AXIS, patient, False, partial(simulate_heart, heart, seconds))
    ecg = partial(_reversed, "RA", "LA", heart, seconds)
    yield Trial(REVERSAL, ARMS_EXCHANGED, RIGHT_AXIS, patient, True, ecg)


def _territories(patient: int, heart: Heart, seconds: float) -> Iterator[Trial]:
    for shown, elevation in ELEVATIONS.items():
        ecg = partial(simulate_heart, heart.with_findings(**_CLEAR[elevation]), seconds)
        for finding in ELEVATIONS.values():
            yield Trial(TERRITORY, shown, finding, patient, finding == elevation, ecg)
