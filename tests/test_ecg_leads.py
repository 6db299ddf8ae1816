"""Lead names, lead order, and the consistency check of the limb leads."""

from itertools import combinations

import numpy as np
import pytest

from elm_hf.modeling.ecg_leads import LEADS, canonical_lead, limb_lead_error, place_leads
from elm_hf.modeling.ecg_resampling import resample


LIMB_LEADS = LEADS[:6]


def einthoven(samples: int = 1000) -> np.ndarray:
    """Twelve smooth leads (12, samples) that obey the limb-lead identities, with very different aVR, aVL and aVF."""
    time = np.arange(samples) / 250
    right, left, foot = -0.3 * np.sin(7 * time), 0.5 * np.cos(11 * time), 0.9 * np.sin(5 * time + 1)
    center = (right + left + foot) / 3
    limbs = [left - right, foot - right, foot - left]
    augmented = [1.5 * (electrode - center) for electrode in (right, left, foot)]
    chest = [np.sin((3 + lead) * time) for lead in range(6)]
    return np.stack(limbs + augmented + chest).astype(np.float32)


@pytest.mark.parametrize(
    "name, lead", [("AVR", "aVR"), ("avl", "aVL"), ("ii", "II"), ("v6", "V6"), ("DI", "I"), ("DIII", "III")]
)
def test_lead_names_of_every_source_map_to_one_spelling(name, lead):
    assert canonical_lead(name) == lead


def test_an_unknown_lead_is_refused_with_the_list_of_known_ones():
    with pytest.raises(ValueError, match='lead "V7" is not one of I, II, III, aVR, aVL, aVF, V1'):
        canonical_lead("V7")


def test_leads_are_placed_by_name_and_absent_ones_are_nan():
    placed, missing = place_leads(np.array([[1, 1], [2, 2], [3, 3]]), ["V6", "avr", "II"])
    assert missing == ["I", "III", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5"]
    assert placed.shape == (12, 2) and placed.dtype == np.float32
    assert [placed[1, 0], placed[3, 0], placed[11, 0]] == [2 + 1, 2, 1]
    assert np.isnan(np.delete(placed, [1, 3, 11], axis=0)).all()


def test_leads_that_are_not_selected_are_dropped():
    placed, missing = place_leads(np.array([[1.0], [2.0], [3.0]]), ["I", "II", "V1"], leads=("V1", "I"))
    assert placed.tolist() == [[3.0], [1.0]] and missing == []


def test_repeated_and_too_few_lead_names_are_refused():
    with pytest.raises(ValueError, match='lead "aVR" occurs twice in the ECG, in rows 0 and 1'):
        place_leads(np.zeros((2, 5)), ["aVR", "AVR"])
    with pytest.raises(ValueError, match=r"shape \(3, 5\) needs one lead name per row, got 2"):
        place_leads(np.zeros((3, 5)), ["I", "II"])


# limb leads


def test_limb_leads_made_from_electrodes_agree():
    assert limb_lead_error(einthoven()) is None


def test_limb_leads_of_every_real_ecg_agree(real_ecgs):
    """The first samples of CODE-15 438277 and 358121 deviate by up to 0.6 mV, which is tolerated."""
    errors = {name: limb_lead_error(ecg) for name, (ecg, _) in real_ecgs.items()}
    assert {name: error for name, error in errors.items() if error} == {}
    start = real_ecgs["code15/438277"][0][:, :7]
    assert np.abs(start[3] + (start[0] + start[1]) / 2).max() > 0.5


def test_limb_leads_agree_in_every_resampled_two_second_piece(real_ecgs):
    for name, (ecg, sampling_rate) in real_ecgs.items():
        resampled = resample(ecg, sampling_rate, 250)
        for start in range(0, resampled.shape[1] - 499, 500):
            assert limb_lead_error(resampled[:, start : start + 500]) is None, (name, start)


@pytest.mark.parametrize("first, second", list(combinations(range(6), 2)))
def test_any_two_exchanged_limb_leads_are_detected_in_every_real_ecg(real_ecgs, first, second):
    for name, (ecg, _) in real_ecgs.items():
        exchanged = ecg.copy()
        exchanged[[first, second]] = ecg[[second, first]]
        assert limb_lead_error(exchanged), (name, LEADS[first], LEADS[second])


@pytest.mark.parametrize("lead", range(6))
def test_any_inverted_limb_lead_is_detected_in_every_real_ecg(real_ecgs, lead):
    for name, (ecg, _) in real_ecgs.items():
        inverted = ecg.copy()
        inverted[lead] *= -1
        assert limb_lead_error(inverted), (name, LEADS[lead])


def test_the_message_names_the_inconsistent_leads_and_their_errors():
    ecg = einthoven()
    exchanged = ecg[[0, 1, 2, 4, 3, 5, *range(6, 12)]]
    sentence = limb_lead_error(exchanged)
    by = f"{np.abs(ecg[3] - ecg[4]).max():.2f} mV"
    assert (
        f"aVR is not -(I + II)/2 (off by up to {by}" in sentence
        and f"aVL is not I - II/2 (off by up to {by}" in sentence
    )
    assert "III" not in sentence and "aVF" not in sentence


def test_nan_samples_and_flat_leads_are_consistent():
    ecg = einthoven()
    ecg[1, 100:300] = np.nan
    ecg[5] = 0
    assert limb_lead_error(ecg) is None


@pytest.mark.parametrize("absent", LIMB_LEADS)
def test_exchanged_augmented_leads_are_detected_with_any_one_lead_absent(absent):
    """If I or II is absent, the other one and III are sufficient."""
    ecg = einthoven()
    first, second = [lead for lead in (3, 4, 5) if LEADS[lead] != absent][:2]
    ecg[LEADS.index(absent)] = np.nan
    assert limb_lead_error(ecg) is None
    ecg[[first, second]] = ecg[[second, first]]
    assert limb_lead_error(ecg)


def test_unrelated_leads_are_consistent():
    assert limb_lead_error(np.random.default_rng(0).normal(size=(3, 100)), ["I", "II", "V1"]) is None
