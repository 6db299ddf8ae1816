"""Measurements of simulated ECGs with known values and of real ECGs."""

import warnings
from dataclasses import replace

import numpy as np
import pytest

from elm_hf.ecg.recording import read_recording
from elm_hf.ecg.simulated_findings import Findings, draw_findings
from elm_hf.ecg.simulation import simulate_ecg
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.modeling.ecg_measurements import FEATURES, LEAD_FEATURES, measure_ecg, noise_levels
from elm_hf.retrieval.index import feature_matrix


NORMAL = Findings(7, "sinus rhythm", 72.0, 150.0, 90.0, 400.0, "none", 0.0, 2.0, 45.0, "none")
TERRITORIES = {"anterior": ("V2", "V3", "V4"), "inferior": ("II", "III", "aVF"), "lateral": ("I", "aVL", "V5", "V6")}


def simulated(findings: Findings, seconds: float = 10, sampling_rate: int = 250) -> np.ndarray:
    return simulate_ecg(findings, np.random.default_rng(3), seconds, sampling_rate)


@pytest.fixture(scope="module")
def measured() -> list[tuple[Findings, dict[str, float]]]:
    """Sixty ECGs with all rhythms and kinds of noise, measured without a warning."""
    rng = np.random.default_rng(11)
    drawn = [draw_findings(rng) for _ in range(60)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return [(findings, measure_ecg(simulate_ecg(findings, rng), 250)) for findings in drawn]


def error_quantiles(errors, *quantiles: float) -> np.ndarray:
    return np.quantile([abs(error) for error in errors], quantiles)


def test_measurements_of_simulated_ecgs_are_close_to_the_true_values(measured):
    rate = [found["heart_rate"] - true.heart_rate for true, found in measured]
    qrs = [found["qrs_ms"] - true.qrs_ms for true, found in measured]
    qt = [found["qt_ms"] - true.qt_ms for true, found in measured]
    axis = [(found["axis_deg"] - true.axis_deg + 180) % 360 - 180 for true, found in measured]
    voltage = [found["sokolow_mv"] - true.sokolow_mv for true, found in measured]
    assert (error_quantiles(rate, 0.5, 0.9) < (0.1, 2)).all()
    # Simulated waves end where a Gaussian is small; cardiologists, whom the measurements follow, see them end later.
    assert 8 < np.median(qrs) < 16 and 12 < np.median(qt) < 22
    assert (error_quantiles(qrs - np.median(qrs), 0.5, 0.9) < (3, 8)).all()
    assert (error_quantiles(qt - np.median(qt), 0.5, 0.9) < (5, 12)).all()
    assert (error_quantiles(axis, 0.5, 0.9) < (5, 16)).all()
    assert (error_quantiles(voltage, 0.5, 0.9) < (0.06, 0.2)).all()


def test_pr_is_measured_in_sinus_rhythm_and_missing_in_atrial_fibrillation(measured):
    sinus = [found["pr_ms"] - true.pr_ms for true, found in measured if true.pr_ms is not None]
    rng, fibrillation, variation = np.random.default_rng(12), [], {"fibrillation": [], "sinus": []}
    while len(fibrillation) < 12:
        true = draw_findings(rng)
        if true.rhythm == "atrial fibrillation":
            found = measure_ecg(simulate_ecg(true, rng), 250)
            fibrillation.append(found["pr_ms"])
            variation["fibrillation"].append(found["rr_variation"])
    assert np.isfinite(sinus).mean() > 0.85
    assert (error_quantiles(np.array(sinus)[np.isfinite(sinus)], 0.5, 0.9) < (8, 16)).all()
    assert np.isnan(fibrillation).mean() > 0.7
    variation["sinus"] = [found["rr_variation"] for true, found in measured if true.pr_ms]
    assert np.quantile(variation["fibrillation"], 0.1) > np.quantile(variation["sinus"], 0.9)


def test_st_elevation_is_measured_in_the_leads_of_its_territory(measured):
    elevated = [(true, found) for true, found in measured if true.territory != "none"]
    # Anterior elevation is defined in V2 and V3, that of the others in the second most elevated lead.
    leads = TERRITORIES | {"anterior": ("V2", "V3")}
    level = [sorted(found[f"st_mv_{lead}"] for lead in leads[true.territory])[-2] for true, found in elevated]
    assert (error_quantiles([a - true.st_mv for a, (true, _) in zip(level, elevated)], 0.5, 0.9) < (0.02, 0.06)).all()


def test_limb_lead_identities_hold_for_st_levels():
    found = measure_ecg(simulated(replace(NORMAL, territory="inferior", st_mv=0.4)), 250)
    st = {lead: found[f"st_mv_{lead}"] for lead in LEADS}
    assert st["III"] == pytest.approx(st["II"] - st["I"], abs=0.005)
    assert st["aVR"] == pytest.approx(-(st["I"] + st["II"]) / 2, abs=0.005)


def test_sampling_rate_and_offset_do_not_matter():
    at_250 = measure_ecg(simulated(NORMAL), 250)
    at_500 = measure_ecg(simulated(NORMAL, sampling_rate=500) + np.arange(12)[:, None], 500)
    for name, tolerance in (("heart_rate", 0.5), ("pr_ms", 8), ("qrs_ms", 8), ("qt_ms", 8), ("axis_deg", 3)):
        assert at_500[name] == pytest.approx(at_250[name], abs=tolerance), name


@pytest.mark.parametrize("sampling_rate", [100, 500])
def test_noise_and_drift_are_those_of_the_worst_lead(sampling_rate):
    """White noise of 100 µV below 50 Hz, and waves of 0.2 Hz and 1 mV, which the filter lowers to 0.88."""
    ecg = simulated(NORMAL, sampling_rate=sampling_rate)
    clean = measure_ecg(ecg, sampling_rate)
    assert clean["noise_mv"] < 0.02
    assert clean["baseline_drift_mv"] < 0.15
    seconds = np.arange(ecg.shape[1]) / sampling_rate
    noise = np.random.default_rng(0).normal(0, 0.1, ecg.shape[1])  # above 50 Hz it is filtered away
    noisy, drifting = ecg.copy(), ecg.copy()
    noisy[LEADS.index("V4")] += noise * np.sqrt(sampling_rate / 100)
    drifting[LEADS.index("V2")] += 0.5 * np.sin(2 * np.pi * 0.2 * seconds)
    assert measure_ecg(noisy, sampling_rate)["noise_mv"] == pytest.approx(0.1, rel=0.25)
    found = measure_ecg(drifting, sampling_rate)
    assert found["baseline_drift_mv"] == pytest.approx(0.88, abs=0.15)
    assert found["noise_mv"] == pytest.approx(clean["noise_mv"], rel=0.1)


def test_noise_is_measured_without_beats_but_not_without_signal():
    noise = np.random.default_rng(0).normal(0, 0.02, (12, 1000))
    found = measure_ecg(noise, 100)
    assert found["noise_mv"] == pytest.approx(0.02, rel=0.25)
    assert np.isnan(measure_ecg(np.zeros((12, 1000)), 100)["noise_mv"])
    assert np.isnan(noise_levels(np.full((12, 500), np.nan))).all()


def test_leads_are_found_by_name():
    ecg = simulated(NORMAL)
    order = np.random.default_rng(0).permutation(12)
    assert measure_ecg(ecg[order], 250, [LEADS[row].upper() for row in order]) == measure_ecg(ecg, 250)


def test_features_that_cannot_be_measured_are_nan():
    ecg = simulated(NORMAL)
    whole = measure_ecg(ecg, 250)
    assert tuple(whole) == FEATURES
    without = ecg.copy()
    without[LEADS.index("V1")] = np.nan
    without[LEADS.index("aVF")] = 0.3
    found = measure_ecg(without, 250)
    missing = {name for name in FEATURES if np.isnan(found[name])}
    expected = {f"{name}_{lead}" for name in LEAD_FEATURES for lead in ("V1", "aVF")} | {"axis_deg", "sokolow_mv"}
    expected |= {"limb_voltage_mv", "chest_voltage_mv"}
    assert missing == expected
    assert found["pr_ms"] == pytest.approx(whole["pr_ms"], abs=8)


@pytest.mark.parametrize(
    "ecg",
    [
        np.zeros((12, 2500)),
        np.full((12, 2500), np.nan),
        np.full((12, 2500), 1e-9) * np.arange(2500),
        np.zeros((12, 10)),
        np.eye(12, 2500),
        np.random.default_rng(0).normal(0, 1e-3, (12, 300)),
    ],
    ids=["flat", "missing", "ramp", "ten samples", "single steps", "a second of noise"],
)
def test_features_of_a_signal_without_beats_are_nan(ecg):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = measure_ecg(ecg.astype(np.float32), 250)
    assert tuple(found) == FEATURES
    assert np.isnan(found["qrs_ms"])


def test_short_records_can_be_measured():
    found = measure_ecg(simulated(NORMAL, seconds=2.5), 250)
    assert found["heart_rate"] == pytest.approx(72, abs=2)
    assert found["qrs_ms"] == pytest.approx(90, abs=20)


def test_an_extrasystole_does_not_change_the_intervals():
    ecg = simulated(NORMAL)
    wide = simulated(replace(NORMAL, qrs_ms=170, axis_deg=-60, sokolow_mv=4.5))
    mixed = ecg.copy()
    mixed[:, 1000:1210] = -1.5 * wide[:, 1000:1210]
    before, after = measure_ecg(ecg, 250), measure_ecg(mixed, 250)
    assert after["qrs_ms"] == pytest.approx(before["qrs_ms"], abs=8)
    assert after["st_mv_V5"] == pytest.approx(before["st_mv_V5"], abs=0.03)


def test_premature_beats_of_another_shape_are_counted():
    # A quiet stretch of 0.2 s on either side and a wide, inverted QRS complex 0.5 s after a normal beat.
    ecg = simulated(NORMAL)
    peak = int(np.argmax(np.abs(ecg[1, 1000:1200]))) + 1000
    wide = simulated(replace(NORMAL, qrs_ms=170.0, axis_deg=-60.0, sokolow_mv=4.5))
    start = int(np.argmax(np.abs(wide[1, 1000:1200]))) + 1000 - 30
    ecg[:, peak + 90 : peak + 160] = -1.5 * wide[:, start : start + 70]
    before, after = measure_ecg(simulated(NORMAL), 250), measure_ecg(ecg, 250)
    assert before["premature_beats"] == before["premature_beats_of_other_shape"] == 0
    assert after["premature_beats"] >= after["premature_beats_of_other_shape"] == 1


def test_pacing_spikes_are_found_and_removed():
    ecg = simulated(NORMAL, sampling_rate=500).astype(np.float64)
    clean = measure_ecg(ecg, 500)
    slope = np.abs(np.diff(ecg[1]))
    for peak in np.flatnonzero((slope > 0.6 * slope.max()) & (np.r_[True, np.diff(slope) > 0])):
        ecg[:, max(peak - 60, 0)] += 2.0
    paced = measure_ecg(ecg, 500)
    assert clean["paced"] == 0 and paced["paced"] == 1
    assert paced["qrs_ms"] == pytest.approx(clean["qrs_ms"], abs=10)


# Diagnoses from the sources: headers of CPSC 2018 (SNOMED CT), reports of PTB-XL.
@pytest.mark.parametrize(
    "pattern, name, low, high",
    [
        ("cpsc/**/A1982.hea", "pr_ms", 201, 260),  # first degree AV block
        ("cpsc/**/A1986.hea", "qrs_ms", 120, 160),  # complete right bundle branch block
        ("cpsc/**/A1983.hea", "heart_rate", 60, 100),  # normal
        ("ptb_xl/**/06002_hr.hea", "heart_rate", 35, 59),  # sinus bradycardia
        ("ptb_xl/**/06003_hr.hea", "heart_rate", 101, 140),  # sinus tachycardia
        ("ptb_xl/**/06000_hr.hea", "pr_ms", 120, 200),  # normal
        ("ptb_xl/**/06000_hr.hea", "qrs_ms", 70, 109),
        ("ptb_xl/**/06000_hr.hea", "qtc_ms", 380, 450),
        ("ptb_xl/**/06004_hr.hea", "axis_deg", -30, 90),
        ("ptb_xl/**/06004_hr.hea", "atrial_fibrillation", 0, 0),
        ("csn/**/JS20004.hea", "axis_deg", -115, -91),
        ("csn/**/JS20005.hea", "axis_deg", -160, -120),
    ],
)
def test_measurements_of_real_ecgs_agree_with_their_diagnoses(shared_data, pattern, name, low, high):
    recording = read_recording(next(shared_data.glob(pattern)))
    assert low <= measure_ecg(recording.ecg, recording.sampling_rate)[name] <= high


def test_the_matrix_has_the_cosine_and_sine_of_the_axis():
    rows = feature_matrix([{"axis_deg": 179.0, "heart_rate": 60.0}, {"axis_deg": -179.0, "heart_rate": 70.0}])
    assert rows.shape[0] == 2 and np.isnan(rows).any()
    difference = rows[0] - rows[1]
    assert np.nansum(difference**2) == pytest.approx(10**2 + (2 * np.sin(np.deg2rad(1))) ** 2, rel=1e-3)
