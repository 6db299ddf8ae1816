"""
The waves of a simulated beat in I, II and V1 ... V6: P, QRS, ST and T as sums of bumps (cubic, of finite length).

Chest leads see the heart vector (x to the left, y to the feet, z to the back) through Dower's matrix. Limb leads see a
vector in the frontal plane. Both have the same waves at the same times, but their directions and sizes are drawn
separately: with a single dipole, the chest leads would determine the frontal axis and the voltage of the limb leads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from elm_hf.ecg.simulated_findings import LEFT_BLOCK, RIGHT_BLOCK, ST_LIMITS_MV, Findings


# Millivolt in V1 ... V6 per unit of (x, y, z): Dower, Machado and Osborne, "On deriving the electrocardiogram from
# vectorcardiographic leads", Clinical Cardiology 3 (1980) 87-95; also in Clifford, Azuaje and McSharry, "Advanced
# Methods and Tools for ECG Data Analysis" (2006), chapter 8.
DOWER = np.array(
    [
        [-0.515, 0.157, -0.917],
        [0.044, 0.164, -1.387],
        [0.882, 0.098, -1.277],
        [1.213, 0.127, -0.601],
        [1.125, 0.127, -0.086],
        [0.831, 0.076, 0.230],
    ]
)
# I and II of a vector (to the left, to the feet) in the frontal plane, at 0 and 60 degrees (Einthoven's triangle).
EINTHOVEN = np.array([[1.0, 0.0], [0.5, np.sqrt(0.75)]])
_TO_FRONTAL = np.linalg.inv(EINTHOVEN)

# P and T start and end at this share of their height (root mean square of the leads), QRS at this share of its largest
# spatial speed.
_EDGE = 0.05
_END = 0.5 + np.sin(np.arcsin(1 - 2 * _EDGE) / 3)  # time from the peak of a bump to its end, relative to its fall
_GRID = np.linspace(0, 1, 201)

# Centres, rises and falls of P (right, left atrium) in seconds, frontal angles in degrees and heart vectors in the
# chest. T has other vectors in right bundle branch block and in strain.
_P_TIMES_S = np.array([[0.038, 0.072], [0.038, 0.038], [0.038, 0.042]])
_P_ANGLES, _P_CHEST = np.array([62.0, 42.0]), np.array([(0.09, 0.10, -0.07), (0.10, 0.09, 0.06)])
_T_CHEST, _T_CHEST_RIGHT_BLOCK = np.array([0.36, 0.30, -0.20]), np.array([0.28, 0.22, 0.20])
_T_CHEST_STRAIN = np.array([-0.30, -0.10, -0.20])
# QRS: centres, rises and falls (any unit), and vectors. The four waves are Q, R, S and a late slur; a small start, two
# peaks of a notched R and their end; or Q, R, S and a broad late R'.
_NORMAL_TIMES = np.array([[0.17, 0.44, 0.74, 0.64], [0.17, 0.27, 0.30, 0.17], [0.27, 0.30, 0.26, 0.24]])
_NORMAL_CHEST = np.array([(-0.08, -0.08, -0.22), (1.0, 0.85, 0.25), (-0.15, -0.15, 0.6), (0.6, 0.4, 0.45)])
_LEFT_TIMES = np.array([[0.12, 0.35, 0.65, 0.84], [0.12, 0.25, 0.22, 0.18], [0.14, 0.22, 0.24, 0.16]])
_LEFT_CHEST = np.array([(0.18, 0.12, -0.25), (0.75, 0.35, 0.75), (0.85, 0.3, 0.8), (0.25, 0.1, 0.3)])
_LEFT_FRONTAL = np.array([(0.12, 0.0), (0.9, 0.1), (1.0, -0.1), (0.3, 0.0)])
_RIGHT_TIMES = np.array([[0.12, 0.31, 0.48, 0.75], [0.12, 0.19, 0.15, 0.24], [0.12, 0.19, 0.16, 0.25]])
_RIGHT_CHEST = np.array([(-0.12, -0.08, -0.28), (1.0, 0.8, 0.3), (0.0, -0.1, 0.35), (-0.55, -0.1, -0.75)])
_RIGHT_FRONTAL = np.array([(0.0, 0.0), (1.0, 0.0), (0.0, -0.15), (0.0, 0.0)])

# The ST segment is level from the J point to J + 65 ms. It rises during QRS and falls under the T wave.
_ST_TIMES_S, _ST_RISES_S, _ST_FALLS_S = np.array([0.0, 0.03, 0.065]), (0.03, 0.035), np.array([0.03, 0.035, 0.11])
# Levels in I, II, V1 ... V6 relative to the most elevated leads of a territory, with reciprocal depression elsewhere.
ST_PATTERNS = {
    "anterior": np.array([0.05, -0.05, 0.35, 1.0, 1.0, 0.45, 0.2, 0.05]),
    "inferior": np.array([0.0, 1.0, -0.15, -0.25, -0.2, 0.0, 0.1, 0.15]),
    "lateral": np.array([1.0, 0.0, -0.2, -0.25, -0.1, 0.35, 1.0, 1.0]),
}
# Chains of contiguous leads as combinations of I, II, V1 ... V6 with their limits in millivolt.
_I, _II, _V1, _V2, _V3, _V4, _V5, _V6 = np.eye(8)
_CONTIGUOUS = {
    "anterior": [((_V1, 0.1), (_V2, 0.2), (_V3, 0.2), (_V4, 0.1))],
    "inferior": [((_II, 0.1), (_II - _I / 2, 0.1), (_II - _I, 0.1))],  # II, aVF, III
    "lateral": [((_I, 0.1), (_I - _II / 2, 0.1)), ((_V5, 0.1), (_V6, 0.1))],  # I, aVL and V5, V6
}


def bump(distance: np.ndarray) -> np.ndarray:
    """
    The height of a wave at a distance from its peak (0 or more; 1 at its start and end): a cubic smoothstep. The fall of
    a wave and the equally long rise of the next one sum to 1.
    """
    distance = np.minimum(distance, 1)
    return 1 - distance * distance * (3 - 2 * distance)


@dataclass(frozen=True)
class Waves:
    """
    Waves with a rise and a fall of different lengths.

    Args:
        centres: time of the peak of each wave, `(waves,)`.
        rises, falls: time from the start to the peak, and from the peak to the end, `(waves,)`.
        leads: millivolt in I, II, V1 ... V6 at the peak, `(8, waves)`.
    """

    centres: np.ndarray
    rises: np.ndarray
    falls: np.ndarray
    leads: np.ndarray

    def curves(self, times: np.ndarray) -> np.ndarray:
        """Millivolt in I, II, V1 ... V6 at some times, `(8, times)`."""
        distance = times - self.centres[:, None]
        return self.leads @ bump(distance / np.where(distance < 0, -self.rises[:, None], self.falls[:, None]))

    def times(self) -> np.ndarray:
        """Times from the start of the first to the end of the last wave."""
        start = (self.centres - self.rises).min()
        return start + ((self.centres + self.falls).max() - start) * _GRID

    def moved(self, start: float, scale: float = 1.0) -> Waves:
        """The waves with time multiplied by `scale` and then shifted by `start`."""
        return Waves(start + scale * self.centres, scale * self.rises, scale * self.falls, self.leads)


def beat_waves(findings: Findings) -> Waves:
    """The waves of a beat, with times in seconds after the onset of QRS."""
    rng = np.random.default_rng(findings.patient)
    normal, uniform = rng.standard_normal((4, 16)), rng.random((3, 4))
    loop = _LOOPS[findings.qrs_shape](findings.qrs_ms, normal[0], uniform[0])
    t_leads = _t_leads(findings, loop, normal[1], uniform[1])
    st = _st_levels(findings, normal[2])
    if findings.strain or findings.qrs_shape == LEFT_BLOCK:
        st = st + 0.3 * t_leads  # a secondary change goes in the direction of T
    limb_mv = min(max(np.exp(-0.05 + 0.22 * normal[1, 8]), 0.6), 1.6)
    chest = loop.chest @ _yaw(0.2 * normal[1, 9])
    frontal = _with_axis(loop, np.deg2rad(findings.axis_deg))
    qrs = Waves(*loop.times, np.concatenate([EINTHOVEN @ frontal.T, DOWER @ chest.T]))
    qrs_s, jt_s = findings.qrs_ms / 1000, (findings.qt_ms - findings.qrs_ms) / 1000
    t_peak = 0.6 + 0.08 * uniform[1, 2]
    parts = [
        _with_voltages(qrs, st, limb_mv, findings.sokolow_mv).moved(0.0, qrs_s),
        Waves(qrs_s + _ST_TIMES_S, np.array([qrs_s, *_ST_RISES_S]), _ST_FALLS_S, np.repeat(st[:, None], 3, axis=1)),
        Waves(*np.array([[t_peak], [0.92 * t_peak], [(1 - t_peak) / _END]]), t_leads[:, None]).moved(qrs_s, jt_s),
    ]
    if findings.pr_ms is not None:
        parts.append(_p_wave(normal[3], uniform[2]).moved(-findings.pr_ms / 1000))
    times = np.concatenate([(part.centres, part.rises, part.falls) for part in parts], axis=1)
    return Waves(*times, np.concatenate([part.leads for part in parts], axis=1))


def _p_wave(normal: np.ndarray, uniform: np.ndarray) -> Waves:
    """The right atrium (forward), then the left atrium (backward). P starts at 0."""
    angles = np.deg2rad(_P_ANGLES + 10 * normal[:2])
    frontal = (0.09 + 0.06 * uniform[0]) * np.stack([np.cos(angles), np.sin(angles)])
    chest = (0.6 + 0.4 * uniform[1]) * (_P_CHEST + 0.012 * normal[2:8].reshape(2, 3))
    waves = Waves(*(0.92 + 0.18 * uniform[2]) * _P_TIMES_S, np.concatenate([EINTHOVEN @ frontal, DOWER @ chest.T]))
    times = waves.times()
    return waves.moved(-_edges(times, waves.curves(times))[0])


def _t_leads(findings: Findings, loop: _Loop, normal: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """T in I, II, V1 ... V6: opposite to QRS in left bundle branch block and strain."""
    chest, axis = _T_CHEST + 0.04 * normal[:3], np.deg2rad(45 + 14 * normal[3])
    opposite = np.deg2rad(findings.axis_deg + 180 + 8 * normal[4])
    if findings.qrs_shape == LEFT_BLOCK:
        net = loop.areas @ loop.chest
        chest, axis = -0.5 * net / np.sqrt(net @ net), opposite
    elif findings.qrs_shape == RIGHT_BLOCK:
        chest = _T_CHEST_RIGHT_BLOCK
    elif findings.strain:
        chest, axis = _T_CHEST_STRAIN, opposite
    limb = 0.28 * EINTHOVEN @ np.array([np.cos(axis), np.sin(axis)])
    return np.concatenate([(0.75 + 0.5 * uniform[0]) * limb, (0.75 + 0.5 * uniform[1]) * (DOWER @ chest)])


@dataclass(frozen=True)
class _Loop:
    """
    The waves of QRS in any unit of time.

    Args:
        times: centres, rises and falls, `(3, waves)`.
        chest: heart vectors, `(waves, 3)`.
        frontal: frontal vectors (to the left, to the feet), `(waves, 2)`; the R wave points to the left.
        fixed: number of waves at the end whose frontal direction does not follow the axis.
    """

    times: np.ndarray
    chest: np.ndarray
    frontal: np.ndarray
    fixed: int = 0

    @property
    def areas(self) -> np.ndarray:
        """The area of each wave of height 1."""
        return (self.times[1] + self.times[2]) / 2


def _normal_loop(qrs_ms: float, normal: np.ndarray, uniform: np.ndarray) -> _Loop:
    """Q, R, S and, from 105 ms on, a growing late slur: a delay without the shape of a bundle branch block."""
    slur = (0.4 + 0.3 * uniform[0]) * min(max((qrs_ms - 105) / 25, 0), 1)
    times = _NORMAL_TIMES.copy()
    times[0] += 0.015 * normal[:4]
    times[1:, 1] -= 0.12 * slur
    sizes = np.array([np.exp(0.25 * normal[4]), 1.0, np.exp(0.25 * normal[5]), slur])
    angles = np.pi + np.deg2rad((40, 50)) * normal[6:8]
    frontal = np.zeros((4, 2))
    frontal[[1, 3]] = (1.0, 0.0), (0.8 * slur, 0.2 * slur)
    frontal[[0, 2]] = _polar(np.array([0.08, 0.1]) + (0.14, 0.3) * uniform[1:3], angles)
    jitter = 0.06 * np.resize(normal[4:], (4, 3))
    return _Loop(times, sizes[:, None] * (_NORMAL_CHEST + jitter), frontal)


def _left_block(qrs_ms: float, normal: np.ndarray, uniform: np.ndarray) -> _Loop:
    """No septal Q; a broad, notched R to the left and the back; a deep S or QS in V1 to V3."""
    times, chest, frontal = _LEFT_TIMES.copy(), _LEFT_CHEST.copy(), _LEFT_FRONTAL.copy()
    times[1:, 1:3] *= 0.95 + 0.35 * uniform.reshape(2, 2)
    chest[0, 2] *= (normal[0] > -0.5) * uniform[0]  # a small R in V1, or QS
    frontal[:, 1] *= 2 * uniform[1] - 1
    return _Loop(times, chest + 0.05 * normal[4:16].reshape(4, 3), frontal)


def _right_block(qrs_ms: float, normal: np.ndarray, uniform: np.ndarray) -> _Loop:
    """A normal start, then a broad late wave to the right and the front: R' in V1 and V2, S in I, V5 and V6."""
    chest, frontal = _RIGHT_CHEST + 0.05 * normal[4:16].reshape(4, 3), _RIGHT_FRONTAL.copy()
    chest[3] *= 0.75 + 0.35 * uniform[0]
    sizes = np.array([0.15, 0.35 + 0.15 * uniform[1]])
    frontal[[0, 3]] = _polar(sizes, np.pi + np.deg2rad((40, 15)) * normal[:2])
    return _Loop(_RIGHT_TIMES, chest, frontal, fixed=1)


_LOOPS = {"normal": _normal_loop, LEFT_BLOCK: _left_block, RIGHT_BLOCK: _right_block}


def _polar(sizes: np.ndarray, angles: np.ndarray) -> np.ndarray:
    return np.stack([sizes * np.cos(angles), sizes * np.sin(angles)], axis=1)


def _yaw(angle: float) -> np.ndarray:
    """Rotation of row vectors about the vertical axis. It moves the transition zone in the chest leads."""
    return np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])


def _with_axis(loop: _Loop, axis: float) -> np.ndarray:
    """The frontal vectors, turned so that the net area has the direction `axis` (radians)."""
    turned = loop.frontal.copy()
    last = len(turned) - loop.fixed
    net, fixed = loop.areas[:last] @ turned[:last], loop.areas[last:] @ turned[last:]
    # The component of the net area across the axis is zero.
    across = fixed[1] * np.cos(axis) - fixed[0] * np.sin(axis)
    angle = axis - np.arcsin(across / np.hypot(*net)) - np.arctan2(net[1], net[0])
    turned[:last] = turned[:last] @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return turned


def _edges(times: np.ndarray, curves: np.ndarray) -> tuple[float, float]:
    """First and last time at which the size of some curves `(leads, times)` reaches `_EDGE` of its maximum."""
    size = np.square(curves).sum(axis=0)
    above = np.flatnonzero(size >= _EDGE**2 * size.max())
    return float(times[above[0]]), float(times[above[-1]])


def _with_voltages(qrs: Waves, st: np.ndarray, limb_mv: float, sokolow_mv: float) -> Waves:
    """QRS from 0 to 1 with the Sokolow-Lyon voltage in the chest leads and a given height in the limb leads."""
    times = qrs.times()
    curves = qrs.curves(times)
    height = np.sqrt(np.square(_TO_FRONTAL @ curves[:2]).sum(axis=0).max())
    gains = np.array([limb_mv / height] * 2 + [sokolow_mv / _sokolow(curves)] * 6)
    curves *= gains[:, None]
    start, end = _edges((times[1:] + times[:-1]) / 2, curves[:, 1:] - curves[:, :-1])
    rising = st[:, None] * bump(((end - times) / (end - start)).clip(0, 1))
    gain = 1.0
    for _ in range(3):  # the ST segment rises during QRS and changes the voltage a little
        gain *= sokolow_mv / _sokolow(gain * curves + rising)
    gains[2:] *= gain
    return replace(qrs.moved(-start / (end - start), 1 / (end - start)), leads=gains[:, None] * qrs.leads)


def _sokolow(curves: np.ndarray) -> float:
    """S in V1 + the larger R of V5 and V6, from I, II, V1 ... V6 `(8, times)`."""
    return float(max(curves[6].max(), curves[7].max()) - curves[2].min())


def _st_levels(findings: Findings, normal: np.ndarray) -> np.ndarray:
    """The ST levels of I, II, V1 ... V6: the second most elevated of the contiguous leads has `st_mv`."""
    if findings.territory == "none":
        return np.zeros(8)
    levels = ST_PATTERNS[findings.territory] + 0.08 * normal[:8]
    chains = _CONTIGUOUS[findings.territory]
    margin = max(_second(levels, pair) for chain in chains for pair in zip(chain, chain[1:]))
    return levels * (findings.st_mv / ST_LIMITS_MV[findings.territory] / margin)


def _second(levels: np.ndarray, leads: Sequence[tuple[np.ndarray, float]]) -> float:
    """The lower of two leads, each relative to its limit."""
    return min(float(levels @ lead) / limit for lead, limit in leads)
