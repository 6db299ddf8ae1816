"""The simulated ECG shows its findings, as measured on the signal, and nothing else reveals them."""

from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.signal import welch
from simple_detectors import Measured, measured_noise, r_peaks
from torch import nn

import elm_hf.ecg.simulation
from elm_hf.ecg.simulated_findings import (
    AXES,
    CONDUCTION_DELAY,
    CONDUCTIONS,
    HYPERTROPHY,
    LEFT_BLOCK,
    NOISES,
    NORMAL_ECG,
    PROLONGED_QT,
    RHYTHMS,
    RIGHT_BLOCK,
    TERRITORIES,
    Findings,
    draw_findings,
)
from elm_hf.ecg.simulated_noise import lead_noise
from elm_hf.ecg.simulated_waves import DOWER
from elm_hf.ecg.simulation import simulate_ecg
from elm_hf.modeling.ecg_leads import LEADS, limb_lead_error


NORMAL = Findings(
    patient=5,
    rhythm="sinus rhythm",
    heart_rate=70.0,
    pr_ms=160.0,
    qrs_ms=90.0,
    qtc_ms=410.0,
    territory="none",
    st_mv=0.0,
    sokolow_mv=2.2,
    axis_deg=45.0,
    noise="none",
)
ELEVATIONS = tuple(f"st elevation in {territory} leads" for territory in TERRITORIES[1:])
LABELS = (*RHYTHMS, *CONDUCTIONS, PROLONGED_QT, *ELEVATIONS, HYPERTROPHY, *AXES[1:], NORMAL_ECG)


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture
def clean(monkeypatch):
    """Signals without noise, also without the weak background of each recording."""
    monkeypatch.setattr(elm_hf.ecg.simulation, "lead_noise", lambda kind, rng, samples, rate: np.zeros((8, samples)))


def measured(findings, seed=0):
    return Measured(simulate_ecg(findings, rng(seed), 10, 1000))


def draw_each_label(labels, number, seed):
    """Drawn findings with each label in at least `number` of them."""
    generator, counts = rng(seed), Counter()
    while min(counts[label] for label in labels) < number:
        findings = draw_findings(generator)
        if any(counts[label] < number for label in findings.labels):
            counts.update(findings.labels)
            yield findings


def agreement(pairs, label):
    """Sensitivity and specificity of the found labels."""
    found = {True: [], False: []}
    for true, got in pairs:
        found[label in true].append(label in got)
    return float(np.mean(found[True])), 1 - float(np.mean(found[False]))


# the labels, measured


def test_each_label_is_measured_on_the_clean_signal(clean):
    """No label keeps a distance to its limit, so a few ECGs differ by less than the accuracy of the measurement."""
    drawn = [replace(findings, noise="none") for findings in draw_each_label(LABELS, 35, seed=1)]
    pairs = [(findings.labels, measured(findings, seed).labels) for seed, findings in enumerate(drawn)]
    agreements = {label: agreement(pairs, label) for label in LABELS}
    assert all(min(values) >= 0.97 for values in agreements.values()), agreements


def test_each_kind_of_noise_is_measured():
    drawn = list(draw_each_label(NOISES[1:], 60, seed=1))
    pairs = [({one.noise}, {measured_noise(simulate_ecg(one, rng(seed)))}) for seed, one in enumerate(drawn)]
    agreements = {noise: agreement(pairs, noise) for noise in NOISES}
    assert all(min(values) >= 0.97 for values in agreements.values()), agreements


@pytest.mark.parametrize(
    ("changes", "name", "accuracy"),
    [
        ({"heart_rate": 59.0}, "heart_rate", 0.5),
        ({"heart_rate": 101.0}, "heart_rate", 0.5),
        ({"pr_ms": 196.0}, "pr_ms", 2.5),
        ({"pr_ms": 205.0}, "pr_ms", 2.5),
        ({"pr_ms": 260.0, "heart_rate": 60.0}, "pr_ms", 2.5),
        ({"qrs_ms": 117.0}, "qrs_ms", 2.5),
        ({"qrs_ms": 125.0}, "qrs_ms", 2.5),
        ({"qrs_ms": 125.0, "qrs_shape": LEFT_BLOCK}, "qrs_ms", 2.5),
        ({"qrs_ms": 125.0, "qrs_shape": RIGHT_BLOCK}, "qrs_ms", 2.5),
        ({"qtc_ms": 455.0}, "qtc_ms", 4),
        ({"qtc_ms": 465.0, "heart_rate": 85.0}, "qtc_ms", 4),
        ({"sokolow_mv": 3.4}, "sokolow_mv", 0.08),
        ({"sokolow_mv": 3.6}, "sokolow_mv", 0.08),
        ({"axis_deg": -28.0}, "axis_deg", 1.5),
        ({"axis_deg": -32.0}, "axis_deg", 1.5),
        ({"axis_deg": 88.0}, "axis_deg", 1.5),
        ({"axis_deg": 92.0}, "axis_deg", 1.5),
    ],
)
def test_measurements_on_both_sides_of_a_limit(clean, changes, name, accuracy):
    for patient in range(4):
        findings = replace(NORMAL, patient=patient, **changes)
        assert getattr(measured(findings), name) == pytest.approx(changes[name], abs=accuracy)


@pytest.mark.parametrize("share", [0.85, 1.15])
@pytest.mark.parametrize(("territory", "limit"), [("anterior", 0.2), ("inferior", 0.1), ("lateral", 0.1)])
def test_st_elevation_on_both_sides_of_its_limit(clean, territory, limit, share):
    for patient in range(4):
        findings = replace(NORMAL, patient=patient, territory=territory, st_mv=share * limit)
        expected = territory if share > 1 else "none"
        assert findings.elevated_territory == measured(findings).elevated == expected


# shapes


def lead_waves(findings, **changes):
    """QRS and the T wave (its largest deflection) of each lead."""
    beat = measured(replace(findings, **changes))
    t_wave = beat.beat[:, beat.end + 80 : beat.end + 260]
    largest = t_wave[np.arange(12), np.abs(t_wave).argmax(axis=1)]
    return dict(zip(LEADS, beat.qrs)), dict(zip(LEADS, largest.tolist()))


@pytest.mark.parametrize("patient", range(6))
def test_normal_ecg_has_the_usual_polarities_and_r_progression(clean, patient):
    qrs, t_wave = lead_waves(NORMAL, patient=patient)
    assert qrs["II"].max() > -2 * qrs["II"].min() and t_wave["II"] > 0.05
    assert -qrs["aVR"].min() > 2 * qrs["aVR"].max() and t_wave["aVR"] < -0.05
    assert 0.05 < qrs["V1"].max() < -qrs["V1"].min()
    assert qrs["V6"].max() > -3 * qrs["V6"].min() and t_wave["V4"] > 0.1
    ratio = {lead: qrs[lead].max() / -qrs[lead].min() for lead in ("V1", "V2", "V3", "V4", "V5", "V6")}
    assert max(ratio["V1"], ratio["V2"]) < 1 < min(ratio["V4"], ratio["V5"], ratio["V6"])
    assert max(ratio["V1"], ratio["V2"], ratio["V3"]) < ratio["V4"]


@pytest.mark.parametrize("patient", range(6))
def test_left_bundle_branch_block_has_its_shape_and_a_discordant_t_wave(clean, patient):
    qrs, t_wave = lead_waves(NORMAL, patient=patient, qrs_shape=LEFT_BLOCK, qrs_ms=145.0, axis_deg=10.0)
    assert qrs["V1"].max() < 0.3 * -qrs["V1"].min() and t_wave["V1"] > 0.05  # rS or QS
    for lead in ("I", "V6"):
        assert qrs[lead][:100].min() > -0.1 * qrs[lead].max() and t_wave[lead] < -0.05  # no Q, no S
        assert (qrs[lead] > 0.5 * qrs[lead].max()).sum() > 50  # broad


@pytest.mark.parametrize("patient", range(6))
def test_right_bundle_branch_block_has_its_shape_and_a_discordant_t_wave(clean, patient):
    qrs, t_wave = lead_waves(NORMAL, patient=patient, qrs_shape=RIGHT_BLOCK, qrs_ms=140.0)
    late = {lead: wave[85:] for lead, wave in qrs.items()}
    assert late["V1"].max() > 0.3 and t_wave["V1"] < -0.05  # R'
    assert min(late["I"].min(), late["V6"].min()) < -0.15 and late["V6"].min() < -0.1  # broad S
    assert t_wave["V6"] > 0.05


def test_strain_lowers_st_and_inverts_t_in_the_leads_with_a_tall_r(clean):
    tall = {"sokolow_mv": 4.5, "axis_deg": 0.0}
    _, without = lead_waves(NORMAL, **tall)
    _, strained = lead_waves(NORMAL, **tall, strain=True)
    assert without["V5"] > 0.1 and without["I"] > 0.1
    assert strained["V5"] < -0.1 and strained["I"] < -0.1
    st = measured(replace(NORMAL, **tall, strain=True)).st_mv
    assert st["V5"] < -0.03 and st["V6"] < -0.03


def test_fibrillatory_waves_have_several_rates_and_differ_by_lead():
    """II and V1 are not one wave of another size, and neither is periodic."""
    heights, similarities, peaks = [], [], []
    for patient in range(30):
        waves = elm_hf.ecg.simulation.fibrillation_waves(rng(patient), np.arange(5000) / 250)
        heights.append(np.median(np.ptp(waves[2].reshape(-1, 50), axis=1)))
        similarities.append(abs(np.corrcoef(waves[1], waves[2])[0, 1]))
        power = np.abs(np.fft.rfft(waves[2] * np.hanning(5000))) ** 2
        frequency = np.fft.rfftfreq(5000, 1 / 250)
        peaks.append(((power > 0.1 * power.max()) & (frequency > 3) & (frequency < 11)).sum())
        assert power[(frequency > 3) & (frequency < 11)].sum() > 0.9 * power.sum()
    assert min(heights) > 0.03 and max(heights) < 0.23
    assert np.median(similarities) < 0.8
    assert np.median(peaks) > 10  # a single sine wave of 20 s has 3


def test_flutter_waves_are_regular_sawteeth_largest_in_the_inferior_leads(clean):
    for patient in range(8):
        findings = replace(NORMAL, rhythm="atrial flutter", pr_ms=None, patient=patient, heart_rate=68.0)
        with_waves = simulate_ecg(findings, rng(patient), 20)
        beat = measured(findings, patient)
        height = dict(zip(LEADS, np.ptp(beat.beat[:, beat.onset - 200 : beat.onset], axis=1).tolist()))
        assert height["III"] > 2 * height["I"] and height["III"] > 2 * height["V6"]
        frequency, density = welch(with_waves[LEADS.index("III")], 250, nperseg=2500)
        band = (frequency > 3) & (frequency < 7)
        assert 230 < 60 * frequency[band][density[band].argmax()] < 320


def test_two_ecgs_of_a_patient_have_the_same_wave_shapes(clean):
    def similarity(patient):
        first, second = measured(NORMAL, 1), measured(replace(NORMAL, patient=patient), 2)
        return np.corrcoef(first.beat[:, 250:900].ravel(), second.beat[:, 250:900].ravel())[0, 1]

    assert similarity(NORMAL.patient) > 0.995
    assert max(similarity(patient) for patient in range(10, 15)) < 0.98


# noise and identities


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("rhythm", ["sinus rhythm", "atrial fibrillation", "atrial flutter"])
def test_limb_leads_obey_the_identities_to_rounding(noise, rhythm):
    pr_ms = 160.0 if rhythm == "sinus rhythm" else None
    ecg = simulate_ecg(replace(NORMAL, noise=noise, rhythm=rhythm, pr_ms=pr_ms), rng())
    lead = dict(zip(LEADS, ecg.astype(np.float64)))
    assert ecg.shape == (12, 2500) and ecg.dtype == np.float32
    assert limb_lead_error(ecg) is None
    for got, expected in [
        (lead["III"], lead["II"] - lead["I"]),
        (lead["aVR"], -(lead["I"] + lead["II"]) / 2),
        (lead["aVL"], lead["I"] - lead["II"] / 2),
        (lead["aVF"], lead["II"] - lead["I"] / 2),
    ]:
        np.testing.assert_allclose(got, expected, atol=2e-6)


def test_noise_has_its_expected_spectrum():
    spectra = {noise: [] for noise in NOISES}
    for noise, found in spectra.items():
        for seed in range(10):
            frequency, density = welch(lead_noise(noise, rng(seed), 2500, 250), 250, nperseg=1250)
            found.append(density.max(axis=0) * frequency[1])
    power = {noise: np.mean(found, axis=0) for noise, found in spectra.items()}

    def share(noise, low, high):
        return power[noise][(frequency >= low) & (frequency <= high)].sum() / power[noise].sum()

    assert share("baseline drift", 0, 0.6) > 0.9
    assert share("tremor", 4, 17) > 0.9 and share("tremor", 4, 9) > 0.6
    assert share("line noise", 49, 61) > 0.9
    assert share("static noise", 40, 125) > 0.7
    assert share("electrode motion", 0, 10) > 0.8
    assert power["none"].sum() < 0.05 * min(total.sum() for noise, total in power.items() if noise != "none")


def test_dower_matrix_has_the_published_inverse():
    # Edenbrandt and Pahlm 1988 published the inverse, columns V1 ... V6, I, II. The rows of I and II are Dower's.
    published = [
        [-0.172, -0.074, 0.122, 0.231, 0.239, 0.194, 0.156, -0.010],
        [0.057, -0.019, -0.106, -0.022, 0.041, 0.048, -0.227, 0.887],
        [-0.229, -0.310, -0.246, -0.063, 0.055, 0.108, 0.022, 0.102],
    ]
    limbs = [[0.632, -0.235, 0.059], [0.235, 1.066, -0.132]]
    np.testing.assert_allclose(np.linalg.pinv(np.concatenate([DOWER, limbs])), published, atol=0.0015)


def test_length_follows_seconds_and_sampling_rate():
    assert simulate_ecg(NORMAL, rng(), seconds=2, sampling_rate=500).shape == (12, 1000)


def test_same_seed_gives_the_same_bits_and_another_seed_another_ecg():
    first, again, other = (simulate_ecg(NORMAL, rng(seed)) for seed in (3, 3, 4))
    assert first.tobytes() == again.tobytes()
    assert np.abs(first - other).max() > 0.5


# no shortcuts


def axis_ecgs(number, seed):
    """ECGs with the three axes in turn; everything else is drawn without regard to the axis."""
    generator, ecgs = rng(seed), []
    ranges = [(-30, 90), (-90, -30), (90, 150)]
    for place in range(number):
        findings = draw_findings(generator)
        while findings.qrs_shape == LEFT_BLOCK:  # which has no right axis
            findings = draw_findings(generator)
        findings = replace(findings, axis_deg=generator.uniform(*ranges[place % 3]))
        ecgs.append(simulate_ecg(replace(findings, noise="none"), generator, 1.6, 100))
    return torch.tensor(np.stack(ecgs)), torch.arange(number) % 3


def cnn_accuracy(train, test, leads):
    """Accuracy of a small CNN, trained on some leads in millivolt, on other ECGs."""
    torch.manual_seed(0)
    widths, layers = (len(leads), 24, 24, 48), []
    for inputs, outputs in zip(widths, widths[1:]):
        layers += [nn.Conv1d(inputs, outputs, 7, 2, 3), nn.BatchNorm1d(outputs), nn.ReLU()]
    net = nn.Sequential(*layers, nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Linear(48, 3))
    steps = 12 * (len(train[0]) // 64)
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=steps)
    for _ in range(12):
        for batch in torch.randperm(len(train[0]))[: len(train[0]) // 64 * 64].reshape(-1, 64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(train[0][batch][:, leads]), train[1][batch]).backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        return (net.eval()(test[0][:, leads]).argmax(dim=1) == test[1]).float().mean().item()


def test_the_axis_is_learned_from_the_limb_leads_and_not_from_the_chest_leads():
    train, test = axis_ecgs(2000, 1), axis_ecgs(600, 2)
    assert cnn_accuracy(train, test, leads=range(6)) > 0.95
    assert cnn_accuracy(train, test, leads=range(6, 12)) < 1 / 3 + 0.1


def test_chest_leads_do_not_follow_the_axis(clean):
    """Turning the axis leaves V1 ... V6 as they are, and raising the voltage leaves I ... aVF as they are."""
    ecg = simulate_ecg(NORMAL, rng())
    turned = simulate_ecg(replace(NORMAL, axis_deg=120.0), rng())
    raised = simulate_ecg(replace(NORMAL, sokolow_mv=4.4), rng())
    np.testing.assert_array_equal(turned[6:], ecg[6:])
    np.testing.assert_array_equal(raised[:6], ecg[:6])
    assert np.abs(turned[:6] - ecg[:6]).max() > 0.3 and np.abs(raised[6:] - ecg[6:]).max() > 0.5


def test_tremor_is_not_mistaken_for_fibrillation_by_irregularity():
    """Regular sinus rhythm with tremor stays regular, and fibrillation without noise is irregular."""
    variation = defaultdict(list)
    for patient in range(15):
        for rhythm, pr_ms, noise in (("sinus rhythm", 160.0, "tremor"), ("atrial fibrillation", None, "none")):
            findings = replace(NORMAL, patient=patient, rhythm=rhythm, pr_ms=pr_ms, noise=noise, heart_rate=80.0)
            intervals = np.diff(r_peaks(simulate_ecg(findings, rng(patient)), 250))
            variation[rhythm].append(intervals.std() / intervals.mean())
    assert max(variation["sinus rhythm"]) < 0.1 < min(variation["atrial fibrillation"])


def test_conduction_delay_has_no_shape_of_a_bundle_branch_block(clean):
    for patient in range(6):
        assert measured(replace(NORMAL, patient=patient, qrs_ms=135.0)).conduction == CONDUCTION_DELAY
