"""ECG features: measured on simulated ECGs with known values and on real ECGs, and described by guideline."""

import warnings
from dataclasses import replace

import numpy as np
import pytest

from elm_hf.ecg.measurements import FEATURES, GENERAL_FEATURES, LEAD_FEATURES, feature_matrix, measure_ecg
from elm_hf.ecg.normal_ranges import RULES, describe_features, feature_text
from elm_hf.ecg.recording import read_recording
from elm_hf.ecg.simulated_findings import Findings, draw_findings
from elm_hf.ecg.simulation import simulate_ecg
from elm_hf.modeling.ecg_leads import LEADS


pytest.importorskip("neurokit2", reason='measuring ECGs requires the extra "features"')

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
    assert (error_quantiles(qrs, 0.5, 0.9) < (12, 25)).all()
    assert (error_quantiles(qt, 0.5, 0.9) < (16, 32)).all()
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
    level = [np.mean([found[f"st_mv_{lead}"] for lead in TERRITORIES[true.territory]]) for true, found in elevated]
    assert (error_quantiles([a - true.st_mv for a, (true, _) in zip(level, elevated)], 0.5, 0.9) < (0.04, 0.09)).all()


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
    ],
)
def test_measurements_of_real_ecgs_agree_with_their_diagnoses(shared_data, pattern, name, low, high):
    recording = read_recording(next(shared_data.glob(pattern)))
    assert low <= measure_ecg(recording.ecg, recording.sampling_rate)[name] <= high


def test_descriptions_follow_the_guidelines():
    normal = {"heart_rate": 72, "pr_ms": 150, "qrs_ms": 90, "qt_ms": 380, "qtc_ms": 416, "axis_deg": 45}
    assert not any(describe_features(normal).values())
    assert "Outside the normal range: nothing." in feature_text(normal)
    block = normal | {"pr_ms": 232, "qrs_ms": 120, "axis_deg": -31, "st_mv_II": 0.1, "st_mv_V2": 0.1, "t_mv_V5": -0.3}
    found = describe_features(block)
    assert found["general"] == [
        "prolonged PR interval (232 ms)",
        "wide QRS complex (120 ms)",
        "left axis deviation (-31 degrees)",
    ]
    assert found["II"] == ["ST elevation (0.10 mV)"]
    assert found["V5"] == ["T wave inversion (-0.30 mV)"]
    assert found["V2"] == [] and found["I"] == []
    text = feature_text(block)
    assert text.startswith("Measurements: heart rate 72 beats per minute, PR interval 232 ms, QRS duration 120 ms")
    assert text.endswith("lead II: ST elevation (0.10 mV); lead V5: T wave inversion (-0.30 mV).")


def test_limits_depend_on_sex_and_age():
    qtc = {"qtc_ms": 455.0}
    assert describe_features(qtc, "male")["general"] == ["prolonged QT interval (455 ms)"]
    assert describe_features(qtc, "female")["general"] == describe_features(qtc)["general"] == []
    st = {"st_mv_V3": 0.22}
    found = {who: bool(describe_features(st, *who)["V3"]) for who in [("male", 39), ("male", 40), ("female", 30)]}
    assert found == {("male", 39): False, ("male", 40): True, ("female", 30): True}
    assert not describe_features(st)["V3"] and describe_features({"st_mv_V3": 0.25})["V3"]
    with pytest.raises(ValueError, match='sex is "F"; expected "female", "male" or None'):
        describe_features(st, "F")


def test_q_waves_are_abnormal_if_they_are_wide_and_deep():
    assert describe_features({"q_ms_II": 40, "q_mv_II": 0.2})["II"] == ["wide and deep Q wave (40 ms)"]
    assert describe_features({"q_ms_II": 40, "q_mv_II": 0.05})["II"] == []
    assert describe_features({"q_ms_V2": 24, "q_mv_V2": 0.05})["V2"] == ["wide Q wave (24 ms)"]


def test_every_rule_names_a_feature_and_its_source():
    for rule in RULES:
        assert rule.feature in (LEAD_FEATURES if rule.leads else GENERAL_FEATURES)
        assert set(rule.leads) <= set(LEADS)
        assert rule.below == -np.inf or rule.above == np.inf
        assert any(year in rule.source for year in ("2009", "2015", "2018"))


def test_the_text_says_that_nothing_could_be_measured():
    assert feature_text(dict.fromkeys(FEATURES, np.nan)) == "Measurements: none possible."


def test_the_matrix_has_the_cosine_and_sine_of_the_axis():
    rows = feature_matrix([{"axis_deg": 179.0, "heart_rate": 60.0}, {"axis_deg": -179.0, "heart_rate": 70.0}])
    assert rows.shape[0] == 2 and np.isnan(rows).any()
    difference = rows[0] - rows[1]
    assert np.nansum(difference**2) == pytest.approx(10**2 + (2 * np.sin(np.deg2rad(1))) ** 2, rel=1e-3)
