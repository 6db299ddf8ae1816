"""Noise in the place of an ECG: surrogates with its amplitude spectra and random phases."""

import numpy as np


# The limb leads as sums of I and II (Einthoven 1912, Goldberger 1942).
LIMB_LEADS = np.array([[1, 0], [0, 1], [-1, 1], [-0.5, -0.5], [1, -0.5], [-0.5, 1]])


def surrogate_noise(ecg: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """
    Noise that has the amplitude spectrum of an ECG, lead by lead, and no waves (Theiler et al. 1992, Physica D 58:77).

    Eight leads of an ECG are independent: I, II and V1 to V6. Each gets its own random phases, and III, aVR, aVL and aVF are
    computed from I and II, so that the limb leads agree with each other as in an ECG. Where I or II is absent, the first two
    limb leads that are there take their place. The spectrum keeps amplitudes and, as far as beats are regular, their rate.

    Args:
        ecg: array `(12, samples)` in the standard order; absent leads are NaN and stay so.
        rng: random generator.

    Returns:
        float32 array of the same shape.
    """
    noise = np.full(ecg.shape, np.nan)
    present = np.isfinite(ecg).all(axis=1)
    limbs = np.flatnonzero(present[: len(LIMB_LEADS)])
    independent = [*limbs[:2], *(len(LIMB_LEADS) + np.flatnonzero(present[len(LIMB_LEADS) :]))]
    for lead in independent:
        noise[lead] = _with_random_phases(ecg[lead], rng)
    if len(limbs) > 2:
        i_and_ii = np.linalg.solve(LIMB_LEADS[limbs[:2]], noise[limbs[:2]])
        noise[limbs[2:]] = LIMB_LEADS[limbs[2:]] @ i_and_ii
    return noise.astype(np.float32)


def _with_random_phases(lead: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    spectrum = np.abs(np.fft.rfft(lead.astype(float)))
    phases = rng.uniform(0, 2 * np.pi, len(spectrum))
    phases[0] = np.pi * rng.integers(2)  # the mean, and with an even number of samples the last component, are real
    if len(lead) % 2 == 0:
        phases[-1] = np.pi * rng.integers(2)
    return np.fft.irfft(spectrum * np.exp(1j * phases), len(lead))
