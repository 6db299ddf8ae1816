"""Simulated 12-lead ECGs with known findings: a moving dipole of Gaussian waves, projected with Dower's matrix.

The heart vector uses the axes of Frank's vectorcardiogram: x to the left, y to the feet, z to the back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from elm_hf.modeling.ecg_leads import SAMPLING_RATE


RHYTHMS = ("sinus rhythm", "sinus bradycardia", "sinus tachycardia", "atrial fibrillation")
RATE_RANGES = ("below the normal range", "within the normal range", "above the normal range")
TERRITORIES = ("none", "anterior", "inferior", "lateral")
AXES = ("normal heart axis", "left axis deviation", "right axis deviation")
NOISES = ("none", "static noise", "baseline drift")

# Millivolt in I, II, V1 ... V6 per unit of (x, y, z): Dower, Machado and Osborne, "On deriving the electrocardiogram
# from vectorcardiographic leads", Clinical Cardiology 3 (1980) 87-95; also in Clifford, Azuaje and McSharry,
# "Advanced Methods and Tools for ECG Data Analysis" (2006), chapter 8.
DOWER = np.array(
    [
        [0.632, -0.235, 0.059],
        [0.235, 1.066, -0.132],
        [-0.515, 0.157, -0.917],
        [0.044, 0.164, -1.387],
        [0.882, 0.098, -1.277],
        [1.213, 0.127, -0.601],
        [1.125, 0.127, -0.086],
        [0.831, 0.076, 0.230],
    ]
)
# Projection of (x, y, z) to the frontal plane (I, 2 aVF / sqrt 3), in which the axis is an angle.
_AVL, _AVF = DOWER[0] - DOWER[1] / 2, DOWER[1] - DOWER[0] / 2
_FRONTAL = np.stack([DOWER[0], _AVF * 2 / np.sqrt(3)])
_FRONTAL_TO_XY = np.linalg.inv(_FRONTAL[:, :2])

# Ranges of the measurements for each class of a finding. They keep a distance to the clinical limits (60 and 100 beats
# per minute, 200 ms, 120 ms, 3.5 mV, -30 and 90 degrees), so that every label is unambiguous.
_HEART_RATE = dict(zip(RATE_RANGES, [(42, 52), (66, 88), (115, 145)]))
_HEART_RATE_FIBRILLATION = dict(zip(RATE_RANGES, [(42, 52), (66, 88), (115, 135)]))
_PR_MS = {False: (125, 160), True: (280, 340)}
_QRS_MS = {False: (80, 95), True: (150, 175)}
_SOKOLOW_MV = {False: (1.5, 2.7), True: (4.2, 5.0)}
_SOKOLOW_MV_RIGHT_AXIS = (0.9, 1.5)
_AXIS_DEG = dict(zip(AXES, [(0, 70), (-65, -42), (103, 123)]))
_QTC_MS = (380, 430)
_ST_MV = (0.3, 0.5)

# QRS loops as (Q, R, S) vectors: a normal loop, a loop that ends upward as in left anterior fascicular block, and a
# loop that ends to the right as in left posterior fascicular block. Each is rotated to the exact axis and scaled to
# the exact voltage.
_QRS_LOOPS = {
    "normal heart axis": [(-0.12, -0.08, -0.28), (1.0, 0.85, 0.35), (-0.15, -0.15, 0.55)],
    "left axis deviation": [(-0.05, 0.30, -0.28), (1.0, -0.35, 0.30), (0.0, -0.45, 0.45)],
    "right axis deviation": [(0.05, -0.15, -0.28), (0.45, 0.55, 0.55), (-0.90, 0.40, 0.45)],
}
# Centres and widths as fractions of the QRS duration. QRS starts 2.5 widths before Q and ends 2.5 widths after S.
_QRS_CENTRES = np.array([0.20, 0.46, 0.75])
_QRS_WIDTHS = np.array([0.08, 0.12, 0.10])
_QRS_SHAPES = np.exp(-0.5 * ((np.linspace(0, 1, 41) - _QRS_CENTRES[:, None]) / _QRS_WIDTHS[:, None]) ** 2)

# The P wave: right atrium (forward), then left atrium (backward). It starts 2.2 widths before the first centre.
_P_VECTORS = np.array([(0.09, 0.10, -0.07), (0.10, 0.09, 0.06)])
_P_CENTRES_S = np.array([0.035, 0.067])
_P_WIDTH_S = 0.016
# The T wave: centres and widths as fractions of the time from the J point to the end of T. It rises more slowly than
# it falls.
_T_VECTORS = np.array([(0.10, 0.085, -0.05), (0.23, 0.20, -0.12)])
_T_CENTRES = np.array([0.56, 0.71])
_T_WIDTHS = np.array([0.15, 0.13])
# The ST segment: two Gaussians after the J point whose sum is constant from J + 10 ms to J + 110 ms, 1.36 at J + 60
# ms. The vector of a territory gives its leads (V2 to V4; II, III, aVF; I, aVL, V5, V6) a mean of 1.
_ST_CENTRES_S = np.array([0.03, 0.10])
_ST_WIDTH_S = 0.04
_ST_PLATEAU = 1.36
_ST_VECTORS = {
    "anterior": (0.4, 0.0, -1.0) / (DOWER[3:6] @ (0.4, 0.0, -1.0)).mean(),
    "inferior": (0.0, 1.0, 0.15) / (np.stack([DOWER[1], DOWER[1] - DOWER[0], _AVF]) @ (0.0, 1.0, 0.15)).mean(),
    "lateral": (1.0, -0.35, 0.5) / (np.stack([DOWER[0], _AVL, DOWER[6], DOWER[7]]) @ (1.0, -0.35, 0.5)).mean(),
}
_FIBRILLATION_VECTOR = np.array([-0.3, 0.5, -0.85])


@dataclass(frozen=True)
class Findings:
    """The findings of a simulated ECG, from which its labels and answers follow.

    Args:
        patient: Seed of the wave shapes of the patient; the same in all ECGs of one patient.
        rhythm: One of `RHYTHMS`.
        heart_rate: Ventricular rate in beats per minute.
        pr_ms: PR interval in milliseconds; None in atrial fibrillation.
        qrs_ms: QRS duration in milliseconds.
        qtc_ms: QT interval in milliseconds corrected to 60 beats per minute (Bazett), at a QRS duration of 90 ms.
        territory: Territory with ST elevation, one of `TERRITORIES`.
        st_mv: Mean ST elevation over the leads of the territory, in millivolt.
        sokolow_mv: Sokolow-Lyon voltage in millivolt: S in V1 + the larger R of V5 and V6.
        axis_deg: Frontal QRS axis in degrees, from the net areas of I and aVF.
        noise: One of `NOISES`.
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

    @property
    def rate_range(self) -> str:
        """One of `RATE_RANGES`; normal is 60 to 100 beats per minute."""
        return RATE_RANGES[int(self.heart_rate >= 60) + int(self.heart_rate > 100)]

    @property
    def av_block(self) -> bool:
        """First degree AV block: a PR interval over 200 ms."""
        return self.pr_ms is not None and self.pr_ms > 200

    @property
    def wide_qrs(self) -> bool:
        """A QRS duration of 120 ms or more."""
        return self.qrs_ms >= 120

    @property
    def hypertrophy(self) -> bool:
        """Left ventricular hypertrophy by voltage: over 3.5 mV (Sokolow and Lyon 1949)."""
        return self.sokolow_mv > 3.5

    @property
    def axis(self) -> str:
        """One of `AXES`; normal is -30 to 90 degrees."""
        if self.axis_deg < -30:
            return "left axis deviation"
        return "right axis deviation" if self.axis_deg > 90 else "normal heart axis"

    @property
    def labels(self) -> list[str]:
        """The findings in a fixed order: the rhythm first, then each abnormality."""
        labels = [self.rhythm]
        labels += ["first degree av block"] * self.av_block
        labels += ["wide qrs"] * self.wide_qrs
        labels += [f"st elevation in {self.territory} leads"] * (self.territory != "none")
        labels += ["left ventricular hypertrophy"] * self.hypertrophy
        labels += [self.axis] * (self.axis != "normal heart axis")
        labels += [self.noise] * (self.noise != "none")
        return labels


def draw_findings(rng: np.random.Generator) -> Findings:
    """Draws the findings of a new patient: all rhythms with equal probability, other findings in 20 to 40 %."""
    return _measure(int(rng.integers(2**31)), _draw_classes(rng), rng)


def draw_follow_up(findings: Findings, rng: np.random.Generator) -> Findings:
    """Draws the findings of a later ECG of the same patient: some are unchanged, others are drawn again.

    Axis and voltage depend on the anatomy of the heart and change less often than the other findings.
    """
    before = {
        "rhythm": (findings.rhythm, findings.rate_range),
        "av_block": findings.av_block,
        "wide_qrs": findings.wide_qrs,
        "territory": findings.territory,
        "hypertrophy": findings.hypertrophy,
        "axis": findings.axis,
        "noise": findings.noise,
    }
    chance = {"axis": 0.3, "hypertrophy": 0.3}
    after = _draw_classes(rng)
    after = {name: after[name] if rng.random() < chance.get(name, 0.6) else old for name, old in before.items()}
    follow_up = _measure(findings.patient, after, rng)
    if follow_up.axis == findings.axis:
        follow_up = replace(follow_up, axis_deg=findings.axis_deg)
    return follow_up


def _draw_classes(rng: np.random.Generator) -> dict:
    rhythm = RHYTHMS[rng.integers(4)]
    rate_of = dict(zip(RHYTHMS, [RATE_RANGES[1], RATE_RANGES[0], RATE_RANGES[2], RATE_RANGES[rng.integers(3)]]))
    return {
        "rhythm": (rhythm, rate_of[rhythm]),
        "av_block": bool(rng.random() < 0.6),
        "wide_qrs": bool(rng.random() < 0.4),
        "territory": str(rng.choice(TERRITORIES, p=(0.4, 0.2, 0.2, 0.2))),
        "hypertrophy": bool(rng.random() < 0.55),
        "axis": str(rng.choice(AXES, p=(0.4, 0.3, 0.3))),
        "noise": str(rng.choice(NOISES, p=(0.4, 0.3, 0.3))),
    }


def _measure(patient: int, classes: dict, rng: np.random.Generator) -> Findings:
    """Draws a measurement from the range of each class."""
    rhythm, rate_range = classes["rhythm"]
    fibrillation = rhythm == "atrial fibrillation"
    rates = _HEART_RATE_FIBRILLATION if fibrillation else _HEART_RATE
    # In tachycardia, such an early P wave would merge with the preceding T wave and the PR interval could not be read.
    av_block = classes["av_block"] and rhythm in ("sinus rhythm", "sinus bradycardia")
    elevated = classes["territory"] != "none"
    # Left ventricular hypertrophy turns the axis to the left; a QRS that ends to the right has a small R in V5.
    right_axis = classes["axis"] == "right axis deviation"
    sokolow_mv = _SOKOLOW_MV_RIGHT_AXIS if right_axis else _SOKOLOW_MV[classes["hypertrophy"]]
    return Findings(
        patient=patient,
        rhythm=rhythm,
        heart_rate=rng.uniform(*rates[rate_range]),
        pr_ms=None if fibrillation else rng.uniform(*_PR_MS[av_block]),
        qrs_ms=rng.uniform(*_QRS_MS[classes["wide_qrs"]]),
        qtc_ms=rng.uniform(*_QTC_MS),
        territory=classes["territory"],
        st_mv=rng.uniform(*_ST_MV) if elevated else 0.0,
        sokolow_mv=rng.uniform(*sokolow_mv),
        axis_deg=rng.uniform(*_AXIS_DEG[classes["axis"]]),
        noise=classes["noise"],
    )


def simulate_ecg(
    findings: Findings, rng: np.random.Generator, seconds: float = 10.0, sampling_rate: int = SAMPLING_RATE
) -> np.ndarray:
    """Simulates one 12-lead ECG with the given findings.

    Gaussian P, Q, R, S and T waves of a heart vector (see McSharry et al. 2003 and Sameni et al. 2007) are projected
    to I, II, V1 ... V6 with Dower's matrix. Noise is added to these eight leads; III, aVR, aVL and aVF are computed
    from I and II, so that the limb-lead identities also hold with noise.

    Args:
        findings: Findings of the ECG.
        rng: Random generator for everything that the findings do not determine. The same state gives the same ECG, bit
            for bit.
        seconds: Length in seconds.
        sampling_rate: Samples per second.

    Returns:
        `(12, samples)` float32 millivolt, leads in the order of `LEADS`.
    """
    samples = round(seconds * sampling_rate)
    onsets = _qrs_onsets(findings, rng, seconds)
    # Breathing and filling change the amplitude of a beat by a few percent.
    gains = 1 + 0.03 * np.sin(1.7 * onsets + rng.uniform(0, 2 * np.pi)) + 0.015 * rng.standard_normal(len(onsets))
    centres, widths, vectors = _waves(findings)
    waves = _wave_trains(onsets, gains, centres, widths, samples, sampling_rate)
    independent = ((DOWER @ vectors.T) @ waves).astype(np.float32)
    if findings.rhythm == "atrial fibrillation":
        independent += np.outer(DOWER @ _FIBRILLATION_VECTOR, _fibrillation(rng, samples, sampling_rate))
    independent += _noise(findings.noise, rng, samples, sampling_rate)
    return _twelve_leads(independent)


def _twelve_leads(independent: np.ndarray) -> np.ndarray:
    """The 12 leads `(12, samples)` from I, II, V1 ... V6 `(8, samples)`."""
    lead_i, lead_ii = independent[:2]
    limb = [lead_i, lead_ii, lead_ii - lead_i, -(lead_i + lead_ii) / 2, lead_i - lead_ii / 2, lead_ii - lead_i / 2]
    return np.concatenate([limb, independent[2:]])


def _qrs_onsets(findings: Findings, rng: np.random.Generator, seconds: float) -> np.ndarray:
    """Times of the QRS onsets in seconds, with one beat before the record and two or more after it."""
    mean = 60 / findings.heart_rate
    whole = int(seconds / mean)
    if findings.rhythm == "atrial fibrillation":
        # An irregular ventricular response: a coefficient of variation of about 0.25, within physiological limits.
        intervals = np.exp(0.28 * rng.standard_normal(whole + 4)).clip(0.6, 1.7)
    else:
        breathing = np.sin(1.6 * mean * np.arange(whole + 4) + rng.uniform(0, 2 * np.pi))
        intervals = 1 + 0.02 * breathing + 0.012 * rng.standard_normal(whole + 4)
    first = rng.uniform(0, intervals[0]) * mean
    # The mean of the intervals inside the record is exactly the labelled one, even if they are few or irregular.
    inside = intervals[1 : 1 + int((seconds - first) / mean)]
    if len(inside):
        inside /= inside.mean()
    return first + mean * np.concatenate([[-intervals[0], 0.0], np.cumsum(intervals[1:])])


def _waves(findings: Findings) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The waves of a beat: centres and widths in seconds after the QRS onset `(waves,)`, vectors `(waves, 3)`."""
    patient = np.random.default_rng(findings.patient)
    p_gain, t_gain = patient.uniform(1.25, 1.55), patient.uniform(0.8, 1.3)
    turn = patient.normal(0, 0.04, (5, 3))
    qrs_s = findings.qrs_ms / 1000
    # A wide QRS lengthens QT by the same amount: repolarisation has its usual duration and starts at a later J point.
    repolarisation_s = (findings.qtc_ms * np.sqrt(60 / findings.heart_rate) - 90) / 1000
    parts = [
        (_QRS_CENTRES * qrs_s, _QRS_WIDTHS * qrs_s, _qrs_vectors(findings, turn[:3])),
        (
            qrs_s + _T_CENTRES * repolarisation_s,
            _T_WIDTHS * repolarisation_s,
            t_gain * (_T_VECTORS + turn[3] * np.array([[0.35], [0.75]])),
        ),
    ]
    if findings.pr_ms is not None:
        parts.append(
            (_P_CENTRES_S - findings.pr_ms / 1000, np.full(2, _P_WIDTH_S), p_gain * (_P_VECTORS + turn[4] / 4))
        )
    if findings.territory != "none":
        vector = findings.st_mv / _ST_PLATEAU * _ST_VECTORS[findings.territory]
        parts.append((qrs_s + _ST_CENTRES_S, np.full(2, _ST_WIDTH_S), np.stack([vector, vector])))
    centres, widths, vectors = zip(*parts)
    return np.concatenate(centres), np.concatenate(widths), np.concatenate(vectors)


def _qrs_vectors(findings: Findings, turn: np.ndarray) -> np.ndarray:
    """Heart vectors of Q, R and S `(3, 3)` with the frontal axis and the Sokolow-Lyon voltage of the findings."""
    vectors = np.array(_QRS_LOOPS[findings.axis]) + turn
    frontal = vectors @ _FRONTAL.T
    net = _QRS_WIDTHS @ frontal
    angle = np.deg2rad(findings.axis_deg) - np.arctan2(net[1], net[0])
    frontal = frontal @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    vectors[:, :2] = (frontal - vectors[:, 2:] * _FRONTAL[:, 2]) @ _FRONTAL_TO_XY.T
    v1, v5, v6 = DOWER[[2, 6, 7]] @ vectors.T @ _QRS_SHAPES
    return vectors * (findings.sokolow_mv / (max(v5.max(), v6.max()) - v1.min()))


def _wave_trains(
    onsets: np.ndarray, gains: np.ndarray, centres: np.ndarray, widths: np.ndarray, samples: int, sampling_rate: int
) -> np.ndarray:
    """Repeats each wave at each beat, with the gain of the beat as amplitude: `(waves, samples)`.

    Each Gaussian is computed in a window of 4 widths on either side only, all windows at once.
    """
    half = int(np.ceil(4 * widths.max() * sampling_rate))
    centre = (onsets[:, None] + centres) * sampling_rate
    nearest = np.rint(centre).astype(np.int64)
    offsets = np.arange(-half, half + 1)
    distance = (offsets + (nearest - centre)[..., None]) / (widths * sampling_rate)[:, None]
    bumps = gains[:, None, None] * np.exp(-0.5 * distance**2)
    # Samples outside the record are added to a margin of one sample on either side, which is cut off.
    index = (nearest[..., None] + offsets + 1).clip(0, samples + 1)
    index += np.arange(len(centres))[:, None] * (samples + 2)
    trains = np.bincount(index.ravel(), bumps.ravel(), minlength=len(centres) * (samples + 2))
    return trains.reshape(len(centres), samples + 2)[:, 1:-1]


def _fibrillation(rng: np.random.Generator, samples: int, sampling_rate: int) -> np.ndarray:
    """Coarse fibrillatory waves of 5 to 8 Hz with varying frequency and amplitude: `(samples,)` millivolt."""
    time = np.arange(samples, dtype=np.float32) / sampling_rate
    rate, (phase, slow, swell) = rng.uniform(5, 8), rng.uniform(0, 2 * np.pi, 3).tolist()
    size = rng.uniform(0.08, 0.16) * (1 + 0.4 * np.sin(2.1 * time + swell))
    return size * np.sin(2 * np.pi * rate * time + 1.5 * np.sin(2.7 * time + slow) + phase)


def _noise(kind: str, rng: np.random.Generator, samples: int, sampling_rate: int) -> np.ndarray:
    """White noise or muscle noise (differenced), and baseline wander in I, II, V1 ... V6: `(8, samples)` millivolt."""
    white = rng.standard_normal((8, samples + 1), dtype=np.float32)
    if kind == "static noise":
        noise = rng.uniform(0.09, 0.12) * (0.8 * white[:, 1:] - 0.6 * white[:, :-1])
    else:
        noise = rng.uniform(0.005, 0.015) * white[:, 1:]
    time = np.arange(samples, dtype=np.float32) / sampling_rate
    size = rng.uniform(0.35, 0.5) if kind == "baseline drift" else rng.uniform(0, 0.02)
    for slowest, fastest in ((0.12, 0.2), (0.25, 0.4)):
        rate, phase = rng.uniform(slowest, fastest), rng.uniform(0, 2 * np.pi)
        gains = size * rng.uniform(0.5, 1.0, (8, 1)) * rng.choice((-1.0, 1.0), (8, 1))
        noise += gains.astype(np.float32) * np.sin(2 * np.pi * rate * time + phase)
    return noise
