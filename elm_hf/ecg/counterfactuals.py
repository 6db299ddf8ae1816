"""ECGs that differ in one thing: simulated hearts with a changed part, and changes of leads and electrodes of any ECG."""

from dataclasses import dataclass, replace

import numpy as np

from elm_hf.ecg.simulated_findings import RHYTHMS, Findings, draw_normal, is_readable
from elm_hf.ecg.simulated_noise import lead_noise
from elm_hf.ecg.simulation import beats, fibrillation_waves, qrs_onsets, twelve_leads
from elm_hf.modeling.ecg_leads import LEADS, SAMPLING_RATE
from elm_hf.modeling.ecg_resampling import resample


LIMB_LEADS, CHEST_LEADS = LEADS[:6], LEADS[6:]
# Noise is simulated for this much longer than the ECG, so that an ECG that starts later has the same noise.
_LATEST_START_S = 1.0


@dataclass(frozen=True)
class Heart:
    """
    A simulated heart. Beats, atrial waves and noise have random generators of their own, so that two hearts with the same
    seed differ only in what their descriptions differ in.

    Args:
        findings: measurements of the waves, and the noise. Its rhythm is not used: `irregular` and `f_waves` take its place.
        seed: random seed of the beats, the f waves and the noise.
        irregular: whether QRS complexes come as irregularly as in atrial fibrillation.
        f_waves: whether there are fibrillatory waves.
    """

    findings: Findings
    seed: int
    irregular: bool = False
    f_waves: bool = False

    def with_findings(self, **changes) -> "Heart":
        """The heart with some other findings."""
        return replace(self, findings=replace(self.findings, **changes))


def simulate_heart(
    heart: Heart, seconds: float = 10.0, sampling_rate: int = SAMPLING_RATE, start_s: float = 0.0
) -> np.ndarray:
    """
    Simulate the ECG of a heart.

    Args:
        heart: the heart.
        seconds: length in seconds.
        sampling_rate: samples per second. Another rate gives the same waves and noise, sampled in other places.
        start_s: how much later the recording of the same beats starts, 0 to 1 s.

    Returns:
        `(12, samples)` float32 millivolt, leads in the order of `LEADS`.
    """
    of_beats, of_atria, of_noise = (np.random.default_rng([heart.seed, part]) for part in range(3))
    findings = _with_rhythm(heart)
    samples = round(seconds * sampling_rate)
    onsets, _ = qrs_onsets(findings, of_beats, seconds)
    independent = beats(findings, onsets, of_beats, samples, sampling_rate, start_s)
    if heart.f_waves:
        time = np.arange(samples, dtype=np.float32) / sampling_rate
        independent += fibrillation_waves(of_atria, time + np.float32(start_s))
    noise = lead_noise(findings.noise, of_noise, round((seconds + _LATEST_START_S) * SAMPLING_RATE), SAMPLING_RATE)
    if sampling_rate != SAMPLING_RATE:
        noise = resample(noise, SAMPLING_RATE, sampling_rate)
    first = round(start_s * sampling_rate)
    return twelve_leads(independent + noise[:, first : first + samples]).astype(np.float32)


def beat_onsets(heart: Heart, seconds: float) -> np.ndarray:
    """Times of the QRS onsets of [`simulate_heart`] in seconds, with one beat before the ECG and two or more after it."""
    return qrs_onsets(_with_rhythm(heart), np.random.default_rng([heart.seed, 0]), seconds)[0]


def _with_rhythm(heart: Heart) -> Findings:
    return replace(heart.findings, rhythm=RHYTHMS[3] if heart.irregular else RHYTHMS[0])


def draw_hearts(number: int, seed: int, changes: list[dict]) -> list[Heart]:
    """
    Draw hearts of different patients with normal findings, in which some changes can be made.

    Args:
        number: number of hearts.
        seed: random seed.
        changes: findings to be changed. Of the hearts with any of them, each wave can be read: T ends before the next P.
    """
    rng, hearts = np.random.default_rng(seed), []
    while len(hearts) < number:
        findings = draw_normal(rng)
        if all(is_readable(replace(findings, **change)) for change in ({}, *changes)):
            hearts.append(Heart(findings, int(rng.integers(2**31))))
    return hearts


def leads_of_two(limb: np.ndarray, chest: np.ndarray) -> np.ndarray:
    """The limb leads of one ECG `(12, samples)` and the chest leads of another, in the order of `LEADS`."""
    return np.concatenate([limb[: len(LIMB_LEADS)], chest[len(LIMB_LEADS) :]])


def exchange_electrodes(ecg: np.ndarray, first: str, second: str) -> np.ndarray:
    """
    The ECG that is recorded if two electrodes are exchanged.

    Args:
        ecg: `(12, samples)` in the order of `LEADS`.
        first, second: two of the limb electrodes `"RA"`, `"LA"` and `"LL"`, or two chest electrodes such as `"V1"`.

    Raises:
        ValueError: the electrodes are not two limb electrodes or two chest electrodes.
    """
    lead_i, lead_ii, chest = ecg[0], ecg[1], dict(zip(CHEST_LEADS, ecg[len(LIMB_LEADS) :]))
    # Potentials against the mean of the limb electrodes, which an exchange among them does not change.
    right_arm = -(lead_i + lead_ii) / 3
    limbs = {"RA": right_arm, "LA": right_arm + lead_i, "LL": right_arm + lead_ii}
    electrodes = next((group for group in (limbs, chest) if {first, second} <= group.keys()), None)
    if electrodes is None:
        raise ValueError(f"{first} and {second} cannot be exchanged: expected two of RA, LA, LL or two of V1 to V6")
    electrodes[first], electrodes[second] = electrodes[second], electrodes[first]
    independent = np.stack([limbs["LA"] - limbs["RA"], limbs["LL"] - limbs["RA"], *chest.values()])
    return twelve_leads(independent).astype(ecg.dtype)
