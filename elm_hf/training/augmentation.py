"""Random augmentation of ECGs and of their pictures in training; never applied in evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

import numpy as np

from elm_hf.modeling.ecg_leads import LEADS, canonical_lead


if TYPE_CHECKING:
    import torch


# All twelve leads follow from eight: III = II - I, aVR = -(I + II)/2, aVL = I - II/2, aVF = II - I/2.
INDEPENDENT_LEADS = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
LEADS_FROM_INDEPENDENT = np.zeros((12, 8), np.float32)
LEADS_FROM_INDEPENDENT[:6, :2] = [[1, 0], [0, 1], [-1, 1], [-0.5, -0.5], [1, -0.5], [-0.5, 1]]
LEADS_FROM_INDEPENDENT[6:, 2:] = np.eye(6)

WANDER_FREQUENCIES = (0.05, 0.5)  # Hz
WANDER_WAVES = 3


def sample_rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """
    The random generator of one sample in one epoch. It does not depend on workers or on the order of samples.

    Args:
        seed: random seed of the run, 0 or more.
        epoch: number of the epoch, from 0.
        index: number of the sample, 0 or more.
    """
    return np.random.default_rng([seed, epoch, index])


def _strength(help: str) -> float:
    return field(default=0.0, metadata={"help": f"{help} 0 is off."})


@dataclass(frozen=True)
class EcgAugmentation:
    """
    Random changes of an ECG. Each field is a strength, and 0 is off. The amount is drawn for each ECG, uniformly up to
    the strength.

    The limb leads keep their identities: noise and wander are drawn for the eight independent leads (I, II, V1 to V6),
    and those of III, aVR, aVL and aVF follow from I and II. All leads have the same scale and shift. Missing leads
    (NaN) stay missing.

    Args:
        noise: standard deviation in mV of white Gaussian noise in the independent leads (sqrt(2) times as large in
            III, 1/sqrt(2) times in aVR, 1.12 times in aVL and aVF).
        baseline_wander: amplitude in mV of the baseline wander in the independent leads: the sum of three sine waves
            of 0.05 to 0.5 Hz, like the effect of breathing and of slow drifts of the electrodes.
        amplitude_scale: relative change of the amplitude, below 1: 0.2 multiplies by 0.8 to 1.2.
        time_shift: shift in seconds, in either direction. The gap repeats the sample at the edge; no beat is invented.
        lead_dropout: probability of dropping each lead. At least one lead is kept.

    Raises:
        ValueError: a strength is negative, or amplitude_scale or lead_dropout is 1 or more.
    """

    noise: float = _strength("Maximum standard deviation, in mV, of Gaussian noise added to each ECG in training.")
    baseline_wander: float = _strength(
        "Maximum amplitude, in mV, of the baseline wander added to each ECG in training."
    )
    amplitude_scale: float = _strength("Maximum relative change of each ECG's amplitude in training.")
    time_shift: float = _strength("Maximum shift, in seconds, of each ECG in training.")
    lead_dropout: float = _strength("Probability of dropping each lead in training.")

    def __post_init__(self):
        _check_strengths(self, below_one=("amplitude_scale", "lead_dropout"))

    def __call__(
        self, ecg: np.ndarray, sampling_rate: float, rng: np.random.Generator, leads: Sequence[str] = LEADS
    ) -> np.ndarray:
        """
        Args:
            ecg: array `(leads, samples)` in mV, NaN where missing; it is not modified.
            sampling_rate: sampling rate in Hz.
            rng: random generator, see [`sample_rng`].
            leads: names of the rows of `ecg`.

        Returns:
            The augmented ECG, float32, of the same shape.
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
        """Wander `(8, samples)` in mV, up to the drawn amplitude; leads share frequencies, not phases and weights."""
        frequencies = rng.uniform(*WANDER_FREQUENCIES, (WANDER_WAVES, 1))
        phases, weights = rng.uniform(0, 1, (2, len(INDEPENDENT_LEADS), WANDER_WAVES, 1))
        waves = np.sin(2 * np.pi * (frequencies * np.linspace(0, seconds, samples, endpoint=False) + phases))
        amplitude = rng.uniform(0, self.baseline_wander)
        return (amplitude / WANDER_WAVES * (weights * waves).sum(axis=1)).astype(np.float32)


@dataclass(frozen=True)
class EcgImageAugmentation:
    """
    Random changes of pictures of ECGs, like those between photographs and scans. Each field is a strength, and 0 is
    off. The amount is drawn for each picture, uniformly up to the strength.

    Args:
        brightness: relative change, below 1: 0.2 multiplies all values by 0.8 to 1.2, clipped to white.
        hue: rotation of the hue in turns (0.5 is half the colour circle), in either direction; grey and black do not
            change.
        rotation: rotation about the centre in degrees, in either direction; the border is extended outwards.
        blur: standard deviation of a Gaussian blur, in pixels.
        scan: severity of the artefacts of scans and photographs together, up to 1: paper, handwriting, folds, perspective,
            lighting, noise and JPEG (see [`scan_like`]).

    Raises:
        ValueError: a strength is negative, brightness is 1 or more, or scan more than 1.
    """

    brightness: float = _strength("Maximum relative change of each picture's brightness in training.")
    hue: float = _strength("Maximum change of each picture's hue in training, in turns of the colour circle.")
    rotation: float = _strength("Maximum rotation, in degrees, of each picture in training.")
    blur: float = _strength("Maximum standard deviation, in pixels, of each picture's blur in training.")
    scan: float = _strength(
        "Maximum severity (up to 1) of the artefacts of scans and photographs in training: paper, handwriting, folds, "
        "perspective, lighting, noise, JPEG."
    )

    def __post_init__(self):
        _check_strengths(self, below_one=("brightness",))
        if self.scan > 1:
            raise ValueError(f"scan is {self.scan}; expected 0 (off) to 1")

    def __call__(
        self,
        pixel_values: "torch.Tensor",
        rngs: Sequence[np.random.Generator],
        image_mean: Sequence[float],
        image_std: Sequence[float],
    ) -> "torch.Tensor":
        """
        Args:
            pixel_values: normalized pictures `(num_ecgs, 3, height, width)` of `EcgImageProcessor`; they are not
                modified.
            rngs: random generator of each picture, see [`sample_rng`].
            image_mean, image_std: mean and standard deviation of the image processor's normalization.

        Returns:
            The augmented pictures, normalized, of the same shape.
        """
        import torch  # here, so that the training options can be listed without torch

        mean, std = (torch.tensor(values).view(3, 1, 1).to(pixel_values) for values in (image_mean, image_std))
        changed = [self.change(picture * std + mean, rng) for picture, rng in zip(pixel_values, rngs, strict=True)]
        return (torch.stack(changed) - mean) / std

    def change(self, picture: "torch.Tensor", rng: np.random.Generator) -> "torch.Tensor":
        """Augments a picture `(3, height, width)` with values from 0 to 1."""
        from elm_hf.training.picture_changes import blur, rotate, scan, turn_hue

        if self.scan:
            picture = scan(picture, rng.uniform(0, self.scan), rng)
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
