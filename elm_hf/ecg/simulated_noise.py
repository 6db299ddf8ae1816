"""
Noise of simulated ECGs. It arises at the electrodes, so a limb electrode disturbs all leads that use it, and the
limb-lead identities also hold with noise.
"""

import numpy as np


# I, II, V1 ... V6 from the electrodes RA, LA, LL, V1 ... V6. Chest leads are measured against the mean of the limbs.
ELECTRODES = np.zeros((8, 9), dtype=np.float32)
ELECTRODES[0, :2] = ELECTRODES[1, [0, 2]] = (-1, 1)
ELECTRODES[2:, :3] = -1 / 3
ELECTRODES[2:, 3:] = np.eye(6)


def lead_noise(kind: str, rng: np.random.Generator, samples: int, sampling_rate: int) -> np.ndarray:
    """
    Noise in I, II, V1 ... V6: the given kind, and a weak background that every recording has.

    Args:
        kind: one of `NOISES`.
        rng: random generator.
        samples: number of samples.
        sampling_rate: samples per second.

    Returns:
        `(8, samples)` float32 millivolt.
    """
    time = np.arange(samples, dtype=np.float32) / sampling_rate
    electrodes = np.float32(rng.uniform(0.003, 0.009)) * rng.standard_normal((9, samples), dtype=np.float32)
    if kind != "none":
        electrodes += _KINDS[kind](rng, time)
    return ELECTRODES @ electrodes


def _baseline_drift(rng: np.random.Generator, time: np.ndarray) -> np.ndarray:
    """Two slow waves, of breathing and of sweating, with another size at each electrode."""
    rates, phases = rng.uniform((0.12, 0.25), (0.2, 0.4)), rng.uniform(0, 2 * np.pi, 2)
    waves = np.sin(np.multiply.outer(2 * np.pi * rates, time) + phases[:, None])
    gains = rng.uniform(0.2, 0.45) * rng.uniform(0.4, 1.0, (9, 2)) * rng.choice((-1.0, 1.0), (9, 2))
    return (gains @ waves).astype(np.float32)


def _static_noise(rng: np.random.Generator, time: np.ndarray) -> np.ndarray:
    """Muscle noise: white noise, differenced, of another size at each electrode."""
    white = rng.standard_normal((9, len(time) + 1), dtype=np.float32)
    sizes = rng.uniform(0.05, 0.1) * rng.uniform(0.6, 1.4, (9, 1))
    return sizes.astype(np.float32) * (0.8 * white[:, 1:] - 0.6 * white[:, :-1])


def _line_noise(rng: np.random.Generator, time: np.ndarray) -> np.ndarray:
    """The hum of the mains, 50 or 60 Hz, of another size and phase at each electrode."""
    phases = rng.choice((50, 60)) * 2 * np.pi * time + rng.uniform(0, 2 * np.pi, (9, 1)).astype(np.float32)
    sizes = rng.uniform(0.05, 0.12) * rng.uniform(0.5, 1.5, (9, 1))
    return sizes.astype(np.float32) * np.sin(phases)


def _tremor(rng: np.random.Generator, time: np.ndarray) -> np.ndarray:
    """Tremor of 5 to 8 Hz at the limb electrodes, with a varying rate and size. The chest is still."""
    noise = np.zeros((9, len(time)), dtype=np.float32)
    rate, size = rng.uniform(5, 8), rng.uniform(0.08, 0.25)
    for electrode in range(3):
        slow, swell, phase = rng.uniform(0, 2 * np.pi, 3)
        phases = 2 * np.pi * rate * time + 0.8 * np.sin(2.3 * time + slow) + phase
        swelling = size * rng.uniform(0.3, 1.0) * (1 + 0.3 * np.sin(1.9 * time + swell))
        noise[electrode] = swelling * (np.sin(phases) + 0.25 * np.sin(2 * phases + slow))
    return noise


def _electrode_motion(rng: np.random.Generator, time: np.ndarray) -> np.ndarray:
    """Sudden jumps at one or two electrodes, which fade within a second."""
    noise = np.zeros((9, len(time)), dtype=np.float32)
    seconds = len(time) * (time[1] - time[0])
    for electrode in rng.choice(9, rng.integers(1, 3), replace=False):
        for _ in range(rng.integers(1, 3) + int(seconds / 5)):
            since = time - rng.uniform(0.05, 0.85) * seconds
            size, fade = rng.choice((-1, 1)) * rng.uniform(0.5, 1.5), rng.uniform(0.15, 0.6)
            noise[electrode] += np.where(since >= 0, size * np.exp(-since.clip(0) / fade), 0)
    return noise


_KINDS = {
    "static noise": _static_noise,
    "baseline drift": _baseline_drift,
    "line noise": _line_noise,
    "tremor": _tremor,
    "electrode motion": _electrode_motion,
}
