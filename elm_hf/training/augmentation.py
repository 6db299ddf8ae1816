"""Random changes of ECGs and of their pictures for training; never applied at evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

import numpy as np

from elm_hf.modeling.ecg_leads import LEADS, canonical_lead


if TYPE_CHECKING:
    import torch


# All twelve leads from the independent ones: III = II - I, aVR = -(I + II)/2, aVL = I - II/2, aVF = II - I/2.
INDEPENDENT_LEADS = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
LEADS_FROM_INDEPENDENT = np.zeros((12, 8), np.float32)
LEADS_FROM_INDEPENDENT[:6, :2] = [[1, 0], [0, 1], [-1, 1], [-0.5, -0.5], [1, -0.5], [-0.5, 1]]
LEADS_FROM_INDEPENDENT[6:, 2:] = np.eye(6)

# In Hz.
WANDER_FREQUENCIES = (0.05, 0.5)
WANDER_WAVES = 3


def sample_rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """
    The random numbers of one sample in one epoch: the same whichever worker prepares it, in whatever order.

    Args:
        seed: of the run; 0 or more, like the others.
        epoch: counted from 0.
        index: of the sample in its dataset.
    """
    return np.random.default_rng([seed, epoch, index])


def _strength(help: str) -> float:
    return field(default=0.0, metadata={"help": f"{help} 0 is off."})


@dataclass(frozen=True)
class EcgAugmentation:
    """
    Random changes of an ECG. Each field is a strength, 0 is off; the amount is drawn anew for each ECG, uniformly up to
    the strength.

    The limb leads keep their identities: noise and wander are drawn for the eight independent leads (I, II, V1 to V6),
    and what III, aVR, aVL and aVF get follows from what I and II got. The same scale and shift apply to all leads.
    Missing leads (NaN) stay missing.

    Args:
        noise: standard deviation of white Gaussian noise, in mV, of the independent leads (that of III is sqrt(2) times
            as large, of aVR 1/sqrt(2) times, of aVL and aVF 1.12 times).
        baseline_wander: amplitude in mV of the wander of the independent leads, the sum of three sine waves of 0.05 to
            0.5 Hz (breathing moves the baseline; so do slow drifts of the electrodes).
        amplitude_scale: relative change of the amplitude, below 1: 0.2 multiplies by 0.8 to 1.2.
        time_shift: in seconds, to either side. What comes free takes the nearest sample's value: no beat is invented.
        lead_dropout: probability of each lead to go missing; one always stays.

    Raises:
        ValueError: a strength that is negative, or an amplitude_scale or lead_dropout of 1 or more.
    """

    noise: float = _strength("Largest standard deviation, in mV, of Gaussian noise added to each ECG in training.")
    baseline_wander: float = _strength(
        "Largest amplitude, in mV, of the baseline wander added to each ECG in training."
    )
    amplitude_scale: float = _strength("Largest relative change of each ECG's amplitude in training.")
    time_shift: float = _strength("Largest shift, in seconds, of each ECG in training.")
    lead_dropout: float = _strength("Probability of each lead to be left out in training.")

    def __post_init__(self):
        _check_strengths(self, below_one=("amplitude_scale", "lead_dropout"))

    def __call__(
        self, ecg: np.ndarray, sampling_rate: float, rng: np.random.Generator, leads: Sequence[str] = LEADS
    ) -> np.ndarray:
        """
        Args:
            ecg: `(leads, samples)` in mV, NaN where missing; it is not changed.
            sampling_rate: in Hz.
            rng: see [`sample_rng`].
            leads: the names of the rows of `ecg`.

        Returns:
            The changed ECG, float32, of the same shape.
        """
        ecg = np.array(ecg, np.float32)
        samples = ecg.shape[1]
        rows = LEADS_FROM_INDEPENDENT[[LEADS.index(canonical_lead(lead)) for lead in leads]]
        if self.time_shift:
            shift = round(rng.uniform(-self.time_shift, self.time_shift) * sampling_rate)
            ecg = ecg[:, np.clip(np.arange(samples) - shift, 0, samples - 1)]
        if self.amplitude_scale:
            ecg *= np.float32(1 + rng.uniform(-self.amplitude_scale, self.amplitude_scale))
        if self.baseline_wander:
            ecg += rows @ self._draw_wander(samples / sampling_rate, samples, rng)
        if self.noise:
            deviation = np.float32(rng.uniform(0, self.noise))
            ecg += rows @ (deviation * rng.standard_normal((len(INDEPENDENT_LEADS), samples), np.float32))
        if self.lead_dropout:
            present = np.flatnonzero(~np.isnan(ecg).all(axis=1))
            dropped = rng.random(len(present)) < self.lead_dropout
            if dropped.all() and len(present):
                dropped[rng.integers(len(present))] = False
            ecg[present[dropped]] = np.nan
        return ecg

    def _draw_wander(self, seconds: float, samples: int, rng: np.random.Generator) -> np.ndarray:
        """`(8, samples)` in mV, at most the amplitude drawn: waves of the same frequencies, in each lead its own."""
        frequencies = rng.uniform(*WANDER_FREQUENCIES, (WANDER_WAVES, 1))
        phases, weights = rng.uniform(0, 1, (2, len(INDEPENDENT_LEADS), WANDER_WAVES, 1))
        waves = np.sin(2 * np.pi * (frequencies * np.linspace(0, seconds, samples, endpoint=False) + phases))
        amplitude = rng.uniform(0, self.baseline_wander)
        return (amplitude / WANDER_WAVES * (weights * waves).sum(axis=1)).astype(np.float32)


@dataclass(frozen=True)
class EcgImageAugmentation:
    """
    Random changes of the pictures of ECGs, as photographs and scans differ. Each field is a strength, 0 is off; the
    amount is drawn anew for each picture, uniformly up to the strength.

    Args:
        brightness: relative change, below 1: 0.2 multiplies all values by 0.8 to 1.2, clipped to white.
        hue: angle in turns (0.5 is half the circle of colours), to either side; grey and black stay as they are.
        rotation: in degrees, to either side, about the middle; the border is continued outwards.
        blur: standard deviation of a Gaussian blur, in pixels.

    Raises:
        ValueError: a strength that is negative, or a brightness of 1 or more.
    """

    brightness: float = _strength("Largest relative change of each picture's brightness in training.")
    hue: float = _strength("Largest change of each picture's hue in training, in turns of the colour circle.")
    rotation: float = _strength("Largest rotation, in degrees, of each picture in training.")
    blur: float = _strength("Largest standard deviation, in pixels, of each picture's blur in training.")

    def __post_init__(self):
        _check_strengths(self, below_one=("brightness",))

    def __call__(
        self,
        pixel_values: "torch.Tensor",
        rngs: Sequence[np.random.Generator],
        image_mean: Sequence[float],
        image_std: Sequence[float],
    ) -> "torch.Tensor":
        """
        Args:
            pixel_values: normalized pictures `(num_ecgs, 3, height, width)`, as `EcgImageProcessor` gives them; they
                are not changed.
            rngs: one for each picture; see [`sample_rng`].
            image_mean, image_std: of the processor.

        Returns:
            The changed pictures, normalized, of the same shape.
        """
        import torch  # here, so that the options of training can be listed without it

        mean, std = (torch.tensor(values).view(3, 1, 1).to(pixel_values) for values in (image_mean, image_std))
        changed = [self.change(picture * std + mean, rng) for picture, rng in zip(pixel_values, rngs, strict=True)]
        return (torch.stack(changed) - mean) / std

    def change(self, picture: "torch.Tensor", rng: np.random.Generator) -> "torch.Tensor":
        """The changed picture `(3, height, width)` of one of values from 0 to 1."""
        from elm_hf.training.picture_changes import blur, rotate, turn_hue

        if self.rotation:
            picture = rotate(picture, rng.uniform(-self.rotation, self.rotation))
        if self.blur:
            picture = blur(picture, rng.uniform(0, self.blur))
        if self.hue:
            picture = turn_hue(picture, rng.uniform(-self.hue, self.hue))
        if self.brightness:
            picture = picture * (1 + rng.uniform(-self.brightness, self.brightness))
        return picture.clamp(0, 1)


def _check_strengths(augmentation: EcgAugmentation | EcgImageAugmentation, below_one: Sequence[str]) -> None:
    for each in fields(augmentation):
        strength = getattr(augmentation, each.name)
        if not strength >= 0 or (each.name in below_one and strength >= 1):
            limit = "0 or more and below 1" if each.name in below_one else "0 (off) or more"
            raise ValueError(f"{each.name} is {strength}; expected {limit}")
