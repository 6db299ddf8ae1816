"""The simulated ECG shows its findings, as measured on the signal."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from scipy.signal import find_peaks, welch

from elm_hf.ecg.simulation import DOWER, Findings, draw_findings, draw_follow_up, simulate_ecg
from elm_hf.modeling.ecg_leads import LEADS, limb_lead_error


RATE = 1000
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


def rng(seed=0):
    return np.random.default_rng(seed)


def r_peaks(ecg, sampling_rate):
    """Sample numbers of the QRS complexes: peaks of the squared slope, summed over all leads and 100 ms."""
    lag, width = round(0.012 * sampling_rate), round(0.1 * sampling_rate)
    energy = np.convolve(np.square(ecg[:, lag:] - ecg[:, :-lag]).sum(0), np.ones(width), "same")
    return find_peaks(energy, height=0.3 * np.quantile(energy, 0.98), distance=round(0.25 * sampling_rate))[0]


class Beat:
    """The average beat of 15 s at 1000 Hz (one sample per millisecond), in millivolt above the level before P.

    The QRS complex is where the root sum of squares over the leads exceeds 3 % of its peak.
    """

    def __init__(self, findings, seed=0):
        ecg = simulate_ecg(findings, rng(seed), seconds=15, sampling_rate=RATE)
        size = np.sqrt(np.square(ecg).sum(0))
        peaks = [p - 60 + np.argmax(size[p - 60 : p + 60]) for p in r_peaks(ecg, RATE)[1:-1]]
        self.ecg = np.mean([ecg[:, p - 450 : p + 450] for p in peaks], axis=0)
        before_p = 450 - round(findings.qrs_ms + (findings.pr_ms or 160))
        self.ecg -= self.ecg[:, before_p - 40 : before_p - 20].mean(axis=1, keepdims=True)
        size = np.sqrt(np.square(self.ecg).sum(0))
        self.quiet = np.flatnonzero(size < 0.03 * size.max())
        self.onset = self.quiet[self.quiet < 450].max() + 1
        self.qrs = self.ecg[:, self.onset : self.onset + round(findings.qrs_ms)]

    @property
    def end(self):
        return self.quiet[self.quiet > 450].min()

    def lead(self, name):
        return self.ecg[LEADS.index(name)]


def similar_findings(number=24, **changes):
    """Drawn findings of different patients with the given changes, in regular rhythm and without noise by default."""
    generator = rng(11)
    changes = {"rhythm": "sinus rhythm", "pr_ms": 170.0, "noise": "none"} | changes
    return [replace(draw_findings(generator), **changes) for _ in range(number)]


@pytest.mark.parametrize("noise", ["none", "static noise", "baseline drift"])
def test_limb_leads_obey_the_identities_to_rounding(noise):
    ecg = simulate_ecg(replace(NORMAL, noise=noise), rng())
    lead = dict(zip(LEADS, ecg.astype(np.float64)))
    assert ecg.shape == (12, 2500) and ecg.dtype == np.float32
    assert limb_lead_error(ecg) is None
    for got, expected in [
        (lead["III"], lead["II"] - lead["I"]),
        (lead["aVR"], -(lead["I"] + lead["II"]) / 2),
        (lead["aVL"], lead["I"] - lead["II"] / 2),
        (lead["aVF"], lead["II"] - lead["I"] / 2),
    ]:
        np.testing.assert_allclose(got, expected, atol=1e-6)


def test_dower_matrix_has_the_published_inverse():
    # Edenbrandt and Pahlm 1988 published the inverse, columns V1 ... V6, I, II.
    published = [
        [-0.172, -0.074, 0.122, 0.231, 0.239, 0.194, 0.156, -0.010],
        [0.057, -0.019, -0.106, -0.022, 0.041, 0.048, -0.227, 0.887],
        [-0.229, -0.310, -0.246, -0.063, 0.055, 0.108, 0.022, 0.102],
    ]
    np.testing.assert_allclose(np.linalg.pinv(DOWER[[2, 3, 4, 5, 6, 7, 0, 1]]), published, atol=0.0015)


def test_leads_are_projections_of_one_vector():
    ecg = simulate_ecg(NORMAL, rng())
    independent = ecg[[0, 1, 6, 7, 8, 9, 10, 11]]
    vectors, *_ = np.linalg.lstsq(DOWER, independent, rcond=None)
    assert np.std(DOWER @ vectors - independent) < 0.02 < 0.1 < np.std(independent)


def test_length_follows_seconds_and_sampling_rate():
    assert simulate_ecg(NORMAL, rng(), seconds=2, sampling_rate=500).shape == (12, 1000)


def test_same_seed_gives_the_same_bits_and_another_seed_another_ecg():
    first, again, other = (simulate_ecg(NORMAL, rng(seed)) for seed in (3, 3, 4))
    assert first.tobytes() == again.tobytes()
    assert np.abs(first - other).max() > 0.5


def test_detected_rate_is_the_labelled_rate():
    generator = rng(2)
    for _ in range(60):
        findings = replace(draw_findings(generator), noise="none")
        peaks = r_peaks(simulate_ecg(findings, generator), 250)
        rate = 60 * 250 / np.diff(peaks).mean()
        assert rate == pytest.approx(findings.heart_rate, rel=0.05)
        assert ("below" if rate < 60 else "above" if rate > 100 else "within") == findings.rate_range.split()[0]


def test_atrial_fibrillation_is_irregular_and_sinus_rhythm_regular():
    variation = {"atrial fibrillation": [], "sinus rhythm": []}
    for rhythm, values in variation.items():
        pr_ms = None if rhythm == "atrial fibrillation" else 160.0
        for findings in similar_findings(20, rhythm=rhythm, pr_ms=pr_ms, heart_rate=80.0):
            intervals = np.diff(r_peaks(simulate_ecg(findings, rng(findings.patient)), 250))
            values.append(intervals.std() / intervals.mean())
    assert min(variation["atrial fibrillation"]) > 0.1 and max(variation["sinus rhythm"]) < 0.05


def test_p_wave_is_present_in_sinus_rhythm_and_absent_in_atrial_fibrillation():
    sinus = Beat(NORMAL)
    fibrillation = Beat(replace(NORMAL, rhythm="atrial fibrillation", pr_ms=None))
    before_qrs = slice(sinus.onset - 160, sinus.onset)
    assert 0.1 < sinus.lead("II")[before_qrs].max() < 0.3
    assert np.abs(fibrillation.lead("II")[before_qrs]).max() < 0.06


@pytest.mark.parametrize("pr_ms", [130.0, 160.0, 190.0, 230.0, 300.0])
def test_pr_interval_is_the_labelled_one(pr_ms):
    beat = Beat(replace(NORMAL, pr_ms=pr_ms, heart_rate=50.0))
    lead = beat.lead("II")
    peak = np.argmax(lead[: beat.onset - 30])
    p_onset = np.flatnonzero(lead[:peak] < 0.1 * lead[peak]).max()
    assert beat.onset - p_onset == pytest.approx(pr_ms, abs=12)


@pytest.mark.parametrize("axis_deg", [45.0, -55.0, 110.0])
@pytest.mark.parametrize("qrs_ms", [80.0, 100.0, 130.0, 160.0])
def test_qrs_duration_is_the_labelled_one(qrs_ms, axis_deg):
    beat = Beat(replace(NORMAL, qrs_ms=qrs_ms, axis_deg=axis_deg, heart_rate=60.0))
    assert beat.end - beat.onset == pytest.approx(qrs_ms, abs=12)


@pytest.mark.parametrize(
    ("territory", "elevated", "not_elevated"),
    [
        ("anterior", ["V2", "V3", "V4"], ["II", "III", "aVF", "aVR"]),
        ("inferior", ["II", "III", "aVF"], ["I", "aVL", "V1", "V2", "V3"]),
        ("lateral", ["I", "aVL", "V5", "V6"], ["III", "aVR", "V1", "V2"]),
        ("none", [], LEADS),
    ],
)
def test_st_segment_is_elevated_in_the_leads_of_the_territory_only(territory, elevated, not_elevated):
    st_mv = 0.0 if territory == "none" else 0.25
    for findings in similar_findings(6, territory=territory, st_mv=st_mv, heart_rate=75.0):
        beat = Beat(findings)
        level = dict(zip(LEADS, beat.ecg[:, beat.onset + round(findings.qrs_ms) + 60]))
        assert all(level[lead] > 0.12 for lead in elevated), level
        assert all(level[lead] < 0.1 for lead in not_elevated), level
        if elevated:
            assert np.mean([level[lead] for lead in elevated]) == pytest.approx(st_mv, abs=0.06)


def test_sokolow_lyon_voltage_is_the_labelled_one():
    for findings in similar_findings(territory="none", st_mv=0.0, heart_rate=70.0):
        beat = Beat(findings)
        qrs = dict(zip(LEADS, beat.qrs))
        voltage = -qrs["V1"].min() + max(qrs["V5"].max(), qrs["V6"].max())
        assert voltage == pytest.approx(findings.sokolow_mv, rel=0.08)
        assert (voltage > 3.5) == ("left ventricular hypertrophy" in findings.labels)


def test_axis_from_net_areas_is_the_labelled_one_and_polarities_agree():
    for findings in similar_findings(territory="none", st_mv=0.0, heart_rate=70.0):
        qrs = dict(zip(LEADS, Beat(findings).qrs))
        axis = np.rad2deg(np.arctan2(2 / np.sqrt(3) * qrs["aVF"].sum(), qrs["I"].sum()))
        assert axis == pytest.approx(findings.axis_deg, abs=10)
        # The quick rule: right axis if I is mainly negative, left axis if I is mainly positive and II mainly negative.
        net = {lead: qrs[lead].max() + qrs[lead].min() for lead in ("I", "II")}
        rule = (
            "right axis deviation" if net["I"] < 0 else "left axis deviation" if net["II"] < 0 else "normal heart axis"
        )
        assert rule == findings.axis


def test_normal_ecg_has_the_usual_polarities_and_r_progression():
    beat = Beat(NORMAL)
    qrs = dict(zip(LEADS, beat.qrs))
    t_wave = dict(zip(LEADS, beat.ecg[:, 450 + 150 : 450 + 350].mean(1)))
    assert qrs["II"].max() > -2 * qrs["II"].min() and t_wave["II"] > 0.05
    assert -qrs["aVR"].min() > 2 * qrs["aVR"].max() and t_wave["aVR"] < -0.05
    assert 0.05 < qrs["V1"].max() < -qrs["V1"].min() / 2
    ratio = [qrs[lead].max() / -qrs[lead].min() for lead in ("V1", "V2", "V3", "V4", "V5")]
    assert ratio == sorted(ratio)


def test_two_ecgs_of_a_patient_have_the_same_wave_shapes():
    def similarity(patient):
        return np.corrcoef(Beat(NORMAL, 1).ecg.ravel(), Beat(replace(NORMAL, patient=patient), 2).ecg.ravel())[0, 1]

    assert similarity(NORMAL.patient) > 0.997
    assert max(similarity(patient) for patient in range(10, 15)) < 0.997


def test_noise_has_its_expected_spectrum():
    power = {}
    for noise in ("none", "static noise", "baseline drift"):
        frequency, density = welch(simulate_ecg(replace(NORMAL, noise=noise), rng())[10], 250, nperseg=2500)
        power[noise] = [
            density[band].sum() for band in (frequency < 0.6, (frequency > 0.6) & (frequency < 40), frequency > 60)
        ]
    slow, heart, fast = power["none"]
    assert heart > 0.97 * sum(power["none"])
    assert power["static noise"][2] > 20 * fast and power["baseline drift"][0] > 20 * slow


def test_labels_list_the_findings_in_a_fixed_order():
    assert NORMAL.labels == ["sinus rhythm"]
    ill = replace(
        NORMAL,
        pr_ms=250.0,
        qrs_ms=140.0,
        territory="lateral",
        st_mv=0.3,
        sokolow_mv=4.5,
        axis_deg=-60.0,
        noise="static noise",
    )
    assert ill.labels == [
        "sinus rhythm",
        "first degree av block",
        "wide qrs",
        "st elevation in lateral leads",
        "left ventricular hypertrophy",
        "left axis deviation",
        "static noise",
    ]


def test_drawn_findings_keep_a_distance_to_the_limits_and_are_all_common():
    generator = rng(1)
    drawn = [draw_findings(generator) for _ in range(3000)]
    for name, limits in {
        "heart_rate": [(54, 64), (92, 110)],
        "pr_ms": [(170, 240)],
        "qrs_ms": [(100, 130)],
        "sokolow_mv": [(2.7, 4.2)],
        "axis_deg": [(-42, 0), (70, 100)],
    }.items():
        values = [getattr(findings, name) for findings in drawn if getattr(findings, name) is not None]
        assert not [value for value in values for low, high in limits if low < value < high], name
    labels = [label for findings in drawn for label in findings.labels]
    shares = {label: count / len(drawn) for label, count in Counter(labels).items()}
    assert len(shares) == 14 and all(0.17 < share < 0.43 for share in shares.values()), shares
    assert not [f for f in drawn if f.rhythm == "atrial fibrillation" and f.av_block]
    assert all(f.rate_range == "below the normal range" for f in drawn if f.rhythm == "sinus bradycardia")
    assert all(f.rate_range == "above the normal range" for f in drawn if f.rhythm == "sinus tachycardia")


def test_follow_up_keeps_the_anatomy_more_often_than_the_rhythm():
    generator = rng(1)
    pairs = [(first, draw_follow_up(first, generator)) for first in (draw_findings(generator) for _ in range(1000))]
    assert all(first.patient == second.patient for first, second in pairs)
    same = {
        name: np.mean([getattr(first, name) == getattr(second, name) for first, second in pairs])
        for name in ("axis", "hypertrophy", "rhythm", "territory")
    }
    assert same["axis"] > 0.7 and same["hypertrophy"] > 0.7
    assert 0.4 < same["rhythm"] < 0.65 and 0.4 < same["territory"] < 0.65
