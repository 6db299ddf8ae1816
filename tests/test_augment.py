"""Augmentation: amounts, limb-lead identities, and comparisons with scipy, Pillow and colorsys."""

import colorsys

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage, signal

from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.training.augmentation import EcgAugmentation, EcgImageAugmentation, sample_rng


EVERYTHING = {
    "noise": 0.05,
    "baseline_wander": 0.2,
    "amplitude_scale": 0.2,
    "time_shift": 0.3,
    "lead_dropout": 0.3,
}
DERIVED = {
    "III": lambda i, ii: ii - i,
    "aVR": lambda i, ii: -(i + ii) / 2,
    "aVL": lambda i, ii: i - ii / 2,
    "aVF": lambda i, ii: ii - i / 2,
}


@pytest.fixture
def ecg() -> np.ndarray:
    """A smooth ECG of 10 s at 250 Hz in mV whose limb leads obey the identities."""
    time = np.arange(2500) / 250
    ecg = np.stack([np.sin(2 * np.pi * (0.8 + 0.1 * lead) * time + lead) for lead in range(12)])
    for lead, of in DERIVED.items():
        ecg[LEADS.index(lead)] = of(ecg[0], ecg[1])
    return ecg.astype(np.float32)


def rng(index: int = 0) -> np.random.Generator:
    return sample_rng(seed=1, epoch=2, index=index)


def test_off_by_default(ecg):
    assert (EcgAugmentation()(ecg, 250, rng()) == ecg).all()
    picture = torch.rand(1, 3, 20, 30)
    unchanged = EcgImageAugmentation()(picture, [rng()], (0.5, 0.4, 0.3), (0.5, 0.6, 0.7))
    assert torch.allclose(unchanged, picture, atol=1e-6)


def test_the_given_ecg_is_not_modified(ecg):
    before = ecg.copy()
    EcgAugmentation(**EVERYTHING)(ecg, 250, rng())
    assert (ecg == before).all()


def test_limb_leads_keep_their_identities(ecg):
    changed = EcgAugmentation(**{**EVERYTHING, "lead_dropout": 0})(ecg, 250, rng())
    assert abs(changed - ecg).max() > 0.1
    for lead, of in DERIVED.items():
        np.testing.assert_allclose(changed[LEADS.index(lead)], of(changed[0], changed[1]), atol=1e-5)


def test_noise_is_uncorrelated_between_independent_leads(ecg):
    noise = EcgAugmentation(noise=0.1)(ecg, 250, rng(3)) - ecg
    independent = [LEADS.index(lead) for lead in ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")]
    correlation = np.corrcoef(noise[independent]) - np.eye(8)
    assert abs(correlation).max() < 0.1
    std = noise.std(axis=1)
    np.testing.assert_allclose(std[independent], std[0], rtol=0.1)
    assert std[2] / std[0] == pytest.approx(2**0.5, rel=0.1)  # III = II - I
    assert std[3] / std[0] == pytest.approx(0.5**0.5, rel=0.1)  # aVR = -(I + II)/2


def test_noise_is_white_and_up_to_its_strength(ecg):
    noises = np.stack([EcgAugmentation(noise=0.1)(ecg, 250, rng(index)) - ecg for index in range(40)])
    std = noises[:, 0].std(axis=1)
    assert std.max() < 0.105 and std.min() < 0.02 and std.mean() == pytest.approx(0.05, abs=0.015)
    _, power = signal.welch(noises[:, 0], 250, nperseg=250)
    power = power.mean(axis=0)[1:-1]
    assert power.max() / power.min() < 2


def test_wander_is_slow_and_up_to_its_strength(ecg):
    for index in range(20):
        wander = EcgAugmentation(baseline_wander=0.3)(ecg, 250, rng(index))[0] - ecg[0]
        assert 0 < abs(wander).max() <= 0.3
        spectrum = abs(np.fft.rfft(wander * np.hanning(2500))) ** 2
        assert spectrum[np.fft.rfftfreq(2500, 1 / 250) > 1].sum() < 1e-3 * spectrum.sum()


def test_all_leads_are_scaled_by_the_same_factor(ecg):
    factors = []
    for index in range(40):
        ratio = EcgAugmentation(amplitude_scale=0.2)(ecg, 250, rng(index))[abs(ecg) > 0.1] / ecg[abs(ecg) > 0.1]
        np.testing.assert_allclose(ratio, ratio[0], rtol=1e-4)
        factors.append(ratio[0])
    assert 0.8 <= min(factors) < 0.85 and 1.15 < max(factors) <= 1.2


def test_all_leads_are_shifted_by_the_same_time_and_repeat_the_sample_at_the_edge(ecg):
    shifts = []
    for index in range(40):
        shifted = EcgAugmentation(time_shift=0.2)(ecg, 250, rng(index))
        shift = next(k for k in range(-50, 51) if np.array_equal(np.roll(ecg, k, 1)[:, 60:-60], shifted[:, 60:-60]))
        if shift > 0:
            assert (shifted[:, :shift] == ecg[:, :1]).all() and (shifted[:, shift:] == ecg[:, :-shift]).all()
        elif shift < 0:
            assert (shifted[:, shift:] == ecg[:, -1:]).all() and (shifted[:, :shift] == ecg[:, -shift:]).all()
        shifts.append(shift)
    assert min(shifts) < -35 and max(shifts) > 35


def test_leads_are_dropped_with_the_given_probability_but_never_all(ecg):
    dropped = [np.isnan(EcgAugmentation(lead_dropout=0.3)(ecg, 250, rng(index))) for index in range(300)]
    assert all((lead.all(axis=1) == lead.any(axis=1)).all() for lead in dropped)
    assert np.mean(dropped) == pytest.approx(0.3, abs=0.03)
    often = [np.isnan(EcgAugmentation(lead_dropout=0.99)(ecg, 250, rng(index))[:, 0]).sum() for index in range(50)]
    assert max(often) == 11


def test_missing_leads_stay_missing_and_the_rest_is_finite(ecg):
    ecg[[0, 7]] = np.nan
    for index in range(20):
        changed = EcgAugmentation(**EVERYTHING)(ecg, 250, rng(index))
        assert np.isnan(changed[[0, 7]]).all() and np.isfinite(changed).any()
    assert np.isnan(EcgAugmentation(**EVERYTHING)(np.full((12, 500), np.nan), 250, rng())).all()


def test_leads_are_identified_by_name(ecg):
    order = np.random.default_rng(0).permutation(12)
    augmentation = EcgAugmentation(**{**EVERYTHING, "lead_dropout": 0})
    shuffled = augmentation(ecg[order], 250, rng(), [LEADS[i].lower() for i in order])
    np.testing.assert_allclose(shuffled, augmentation(ecg, 250, rng())[order], atol=1e-6)


class Augmented(torch.utils.data.Dataset):
    def __init__(self, ecg):
        self.ecg = ecg

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return EcgAugmentation(**EVERYTHING)(self.ecg, 250, sample_rng(7, 0, index))


def test_samples_are_the_same_for_any_number_of_workers(ecg):
    runs = [
        torch.cat(list(torch.utils.data.DataLoader(Augmented(ecg), 2, num_workers=workers))) for workers in (0, 1, 2)
    ]
    assert torch.equal(runs[0].nan_to_num(9), runs[1].nan_to_num(9))
    assert torch.equal(runs[0].nan_to_num(9), runs[2].nan_to_num(9))


def test_seed_epoch_and_sample_each_change_the_random_numbers():
    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, 0, 0)]
    draws = [sample_rng(*key).random() for key in keys]
    assert len(set(draws)) == 5 and draws[0] == draws[-1]


# Pictures


@pytest.fixture
def picture() -> torch.Tensor:
    """A smooth picture of 60 x 90 pixels in colour, away from black and white."""
    smooth = ndimage.gaussian_filter(np.random.default_rng(0).normal(0, 1, (3, 60, 90)), (0, 4, 4))
    return torch.from_numpy(0.5 + 0.2 * smooth / abs(smooth).max()).float()


def test_pictures_stay_normalized(picture):
    mean, std = (0.48, 0.45, 0.4), (0.26, 0.27, 0.28)
    augmentation = EcgImageAugmentation(brightness=0.2, hue=0.1, rotation=3, blur=1)
    normalized = (torch.stack([picture, picture]) - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    changed = augmentation(normalized, [rng(0), rng(1)], mean, std)
    for index in range(2):
        expected = (augmentation.change(picture, rng(index)) - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(
            std
        ).view(3, 1, 1)
        assert torch.allclose(changed[index], expected, atol=1e-5)
    assert not torch.allclose(changed[0], changed[1], atol=0.01)


def test_brightness_multiplies_and_clips(picture):
    for index in range(10):
        factor = 1 + rng(index).uniform(-0.5, 0.5)
        changed = EcgImageAugmentation(brightness=0.5).change(picture, rng(index))
        assert torch.allclose(changed, (picture * factor).clamp(max=1), atol=1e-6)
    white = EcgImageAugmentation(brightness=0.5).change(torch.ones(3, 4, 4), np.random.default_rng(0))
    assert white.max() <= 1


def test_hue_rotates_colours_and_keeps_grey_and_luminance(picture):
    turns = rng(4).uniform(-0.3, 0.3)
    changed = EcgImageAugmentation(hue=0.3).change(picture, rng(4))
    for y, x in [(5, 5), (30, 40), (50, 80)]:
        before, after = (colorsys.rgb_to_yiq(*image[:, y, x].tolist()) for image in (picture, changed))
        assert after[0] == pytest.approx(before[0], abs=0.005)
        ratio = complex(*after[1:]) / complex(*before[1:])
        assert abs(ratio) == pytest.approx(1, abs=0.05)
        assert np.angle(ratio * np.exp(-2j * np.pi * turns)) == pytest.approx(0, abs=0.05)
    grey = torch.full((3, 4, 4), 0.3)
    assert torch.allclose(EcgImageAugmentation(hue=0.5).change(grey, rng()), grey, atol=1e-3)


def test_rotation_equals_that_of_pillow(picture):
    for index in range(3):
        degrees = rng(index).uniform(-20, 20)
        changed = EcgImageAugmentation(rotation=20).change(picture, rng(index))
        expected = Image.fromarray(picture[0].numpy()).rotate(degrees, Image.Resampling.BILINEAR)
        np.testing.assert_allclose(changed[0, 20:40, 30:60], np.asarray(expected)[20:40, 30:60], atol=0.002)


def test_rotation_extends_the_border():
    paper = torch.full((3, 40, 60), 0.8)
    assert torch.allclose(EcgImageAugmentation(rotation=20).change(paper, rng()), paper, atol=1e-5)


def test_blur_equals_that_of_scipy(picture):
    for index in range(3):
        deviation = rng(index).uniform(0, 2)
        changed = EcgImageAugmentation(blur=2).change(picture, rng(index))
        radius = int(np.ceil(3 * deviation))
        expected = [
            ndimage.gaussian_filter(channel, deviation, mode="nearest", radius=radius) for channel in picture.numpy()
        ]
        np.testing.assert_allclose(changed, expected, atol=1e-5)


@pytest.mark.parametrize(
    "augmentation, strengths, message",
    [
        (EcgAugmentation, {"noise": -0.1}, "noise is -0.1; expected 0 .off. or more"),
        (EcgAugmentation, {"lead_dropout": 1}, "lead_dropout is 1; expected 0 or more and below 1"),
        (EcgAugmentation, {"amplitude_scale": 1.5}, "amplitude_scale is 1.5"),
        (EcgImageAugmentation, {"brightness": 2}, "brightness is 2"),
        (EcgImageAugmentation, {"rotation": float("nan")}, "rotation is nan"),
    ],
)
def test_wrong_strength_is_named(augmentation, strengths, message):
    with pytest.raises(ValueError, match=message):
        augmentation(**strengths)
