"""Normal ranges of ECG measurements: every rule at its limit, and real ECGs with known findings."""

import numpy as np
import pytest

from elm_hf.ecg.normal_ranges import _CONDITIONS, _DERIVED, RULES, describe_features, feature_text
from elm_hf.ecg.recording import read_recording
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.modeling.ecg_measurements import FEATURES, GENERAL_FEATURES, LEAD_FEATURES, measure_ecg


NORMAL = {"heart_rate": 72, "pr_ms": 150, "qrs_ms": 90, "qt_ms": 380, "qtc_ms": 401, "axis_deg": 45}


def general(*who, **features) -> list[str]:
    """Names of the general findings."""
    return [finding.split(" (")[0] for finding in describe_features(features, *who)["general"]]


def of_lead(lead: str, *who, **features) -> list[str]:
    return [finding.split(" (")[0] for finding in describe_features(features, *who)[lead]]


# One value on each side of every general limit.
@pytest.mark.parametrize(
    "name, normal, abnormal, finding",
    [
        ("heart_rate", 60, 59.9, "bradycardia"),
        ("heart_rate", 100, 100.1, "tachycardia"),
        ("rr_variation", 0.1, 0.11, "irregular RR intervals"),
        ("longest_rr_s", 3.0, 3.1, "pause"),
        ("premature_beats", 0, 1, "premature beats"),
        ("p_ms", 118, 120, "wide P wave"),
        ("pr_ms", 120, 118, "short PR interval"),
        ("pr_ms", 200, 202, "prolonged PR interval"),
        ("qrs_ms", 110, 112, "slightly prolonged QRS complex"),
        ("qrs_ms", 118, 120, "wide QRS complex"),
        ("qtc_ms", 458, 460, "prolonged QT interval"),
        ("qtc_ms", 362, 360, "short QT interval"),
        ("axis_deg", -30, -31, "left axis deviation"),
        ("axis_deg", 90, 91, "right axis deviation"),
        ("axis_deg", -90, -91, "extreme axis"),
        ("limb_voltage_mv", 0.5, 0.49, "low voltage in the limb leads"),
        ("chest_voltage_mv", 1.0, 0.99, "low voltage in the chest leads"),
        ("sokolow_mv", 3.5, 3.51, "high left ventricular voltage (Sokolow-Lyon)"),
        ("cornell_mv", 2.8, 2.81, "high left ventricular voltage (Cornell)"),
    ],
)
def test_general_limits(name, normal, abnormal, finding):
    def found(value: float) -> bool:
        return any(text.startswith(finding) for text in describe_features({name: value})["general"])

    assert not found(normal) and found(abnormal)


def test_left_axis_ends_where_extreme_axis_begins():
    assert general(axis_deg=-90) == ["left axis deviation"]
    assert general(axis_deg=-100) == general(axis_deg=-141) == ["extreme axis"]
    assert general(axis_deg=179) == ["right axis deviation"]


def test_qt_limits_depend_on_sex():
    assert general("male", qtc_ms=455) == ["prolonged QT interval"]
    assert general("female", qtc_ms=455) == general(qtc_ms=455) == []


def test_qt_of_a_wide_qrs_complex_is_adjusted_for_its_duration():
    # QT of 490 ms at 60 beats per minute: 490 - 0.93 * (QRS - 139) - 22 for men, by hand 477 at 130 ms, 411 at 200 ms.
    wide = {"heart_rate": 60, "qt_ms": 490, "qtc_ms": 490}
    assert general("male", **wide, qrs_ms=90) == ["prolonged QT interval"]
    assert describe_features(wide | {"qrs_ms": 130}, "male")["general"] == [
        "wide QRS complex (130 ms)",
        "prolonged QT interval for QRS (476 ms)",
    ]
    assert general("male", **wide, qrs_ms=200) == ["wide QRS complex"]


def test_intervals_are_not_judged_in_atrial_fibrillation():
    found = general(atrial_fibrillation=1.0, rr_variation=0.25, qtc_ms=500, pr_ms=230, heart_rate=80)
    assert found == ["irregular RR intervals", "irregular rhythm without P waves, as in atrial fibrillation"]
    text = feature_text(NORMAL | {"atrial_fibrillation": 1.0, "rr_variation": 0.25, "heart_rate": 80})
    assert "irregular RR intervals (0.25), irregular rhythm without P waves, as in atrial fibrillation." in text


def test_st_elevation_needs_two_contiguous_leads():
    assert of_lead("II", st_mv_II=0.1) == of_lead("II", st_mv_II=0.1, st_mv_III=0.1) == []
    assert of_lead("II", st_mv_II=0.1, st_mv_aVF=0.1) == ["ST elevation"]
    assert of_lead("V4", st_mv_V4=0.1, st_mv_V5=0.1) == ["ST elevation"]
    # V3 has a higher limit than V4.
    assert of_lead("V4", "male", 50, st_mv_V4=0.1, st_mv_V3=0.15) == []
    # Inverted aVR lies between I and II.
    assert of_lead("aVR", st_mv_aVR=0.1, st_mv_II=-0.1) == ["ST elevation"]
    assert of_lead("aVR", st_mv_aVR=0.1, st_mv_II=0.1) == []


def test_st_limits_in_v2_and_v3_depend_on_sex_and_age():
    st = {"st_mv_V2": 0.22, "st_mv_V3": 0.22}
    people = {("male", 39): False, ("male", 40): True, ("female", 30): True, (None, None): False}
    for who, expected in people.items():
        assert bool(of_lead("V3", *who, **st)) == expected, who
    assert of_lead("V3", st_mv_V2=0.25, st_mv_V3=0.25) == ["ST elevation"]


def test_st_depression_has_a_lower_limit_in_v2_and_v3():
    assert of_lead("V2", st_mv_V2=-0.05, st_mv_V3=-0.05) == ["ST depression"]
    assert of_lead("V2", st_mv_V2=-0.04, st_mv_V3=-0.05) == of_lead("V2", st_mv_V2=-0.05) == []
    assert of_lead("V5", st_mv_V5=-0.09, st_mv_V6=-0.1) == []
    assert of_lead("V5", st_mv_V5=-0.1, st_mv_V6=-0.1) == ["ST depression"]


def test_st_is_not_judged_in_left_bundle_branch_block_and_hypertrophy():
    raised = {"st_mv_V2": 0.4, "st_mv_V3": 0.4}
    block = {"qrs_ms": 150, "s_mv_V1": 1.5, "r_mv_V1": 0.2, "r_mv_V6": 1.2, "s_mv_V6": 0.1, "q_mv_V6": 0.0}
    assert of_lead("V2", "male", 60, **raised) == ["ST elevation"]
    assert of_lead("V2", "male", 60, **raised, **block) == []
    assert of_lead("V2", "male", 60, **raised, **(block | {"r_mv_V1": 2.0})) == ["ST elevation"]
    assert of_lead("V2", "male", 60, **raised, sokolow_mv=3.6) == []
    assert of_lead("V2", "male", 60, **raised, paced=1.0) == []


def test_p_waves_and_r_waves_can_be_tall():
    assert of_lead("II", p_mv_II=0.25) == [] and of_lead("II", p_mv_II=0.26) == ["tall P wave"]
    assert of_lead("V1", p_mv_V1=0.15) == ["tall P wave"]
    assert of_lead("V1", r_mv_V1=0.7, s_mv_V1=0.6) == ["tall R wave"]
    assert of_lead("V1", r_mv_V1=0.7, s_mv_V1=0.8) == of_lead("V1", r_mv_V1=0.5, s_mv_V1=0.1) == []
    broad = {"r_mv_V2": 0.9, "s_mv_V2": 0.5, "r_ms_V2": 44, "t_mv_V2": 0.3}
    assert of_lead("V2", **broad) == ["broad R wave"]
    assert of_lead("V2", **(broad | {"t_mv_V2": -0.05})) == of_lead("V2", **(broad | {"qrs_ms": 130})) == []


def test_q_waves_are_abnormal_if_they_are_wide_and_deep_in_two_contiguous_leads():
    both = {"q_ms_II": 40, "q_mv_II": 0.2, "q_ms_aVF": 30, "q_mv_aVF": 0.1}
    assert describe_features(both)["II"] == ["wide and deep Q wave (40 ms)"]
    assert of_lead("II", q_ms_II=40, q_mv_II=0.2) == []
    assert of_lead("II", **(both | {"q_mv_II": 0.05})) == []
    assert of_lead("V2", q_ms_V2=24, q_mv_V2=0.05) == ["wide Q wave"]


def test_adult_limits_are_not_applied_to_children():
    features = NORMAL | {"heart_rate": 130, "axis_deg": 110, "t_mv_V2": -0.3}
    assert any(describe_features(features).values())
    assert not any(describe_features(features, "male", 17).values())
    assert any(describe_features(features, "male", 18).values())
    assert feature_text(features, "male", 5).endswith("Normal ranges are for adults and not applied at the age of 5.")


def test_the_text_lists_measurements_and_findings():
    assert not any(describe_features(NORMAL).values())
    assert feature_text(NORMAL).endswith("Outside the normal range: nothing.")
    block = NORMAL | {"pr_ms": 232, "qrs_ms": 120, "axis_deg": -31, "st_mv_II": 0.1, "st_mv_aVF": 0.12}
    text = feature_text(block)
    assert text.startswith("Measurements: heart rate 72 beats per minute, PR interval 232 ms, QRS duration 120 ms")
    assert "in general: prolonged PR interval (232 ms), wide QRS complex (120 ms), left axis deviation" in text
    assert text.endswith("lead II: ST elevation (0.10 mV); lead aVF: ST elevation (0.12 mV).")
    assert feature_text(dict.fromkeys(FEATURES, np.nan)) == "Measurements: none possible."


def test_an_unknown_sex_must_be_none():
    with pytest.raises(ValueError, match='sex is "F"; expected "female", "male" or None'):
        describe_features(NORMAL, "F")


def test_every_rule_names_a_feature_a_limit_and_its_source():
    for rule in RULES:
        assert rule.feature in (*_DERIVED, *(LEAD_FEATURES if rule.leads else GENERAL_FEATURES))
        assert set(rule.leads) <= set(LEADS) and set(rule.unless) <= set(_CONDITIONS)
        assert {rule.above, rule.at_least, rule.below, rule.at_most} != {None}
        assert "20" in rule.source or rule.source.startswith("Convention")
        assert rule.ages[0] >= 18


# Real ECGs with their age, sex and findings in the source.
RECORDS = {
    "JS20004": ("csn/**/JS20004.hea", "male", 89),
    "JS20005": ("csn/**/JS20005.hea", "male", 83),
    "JS20008": ("csn/**/JS20008.hea", "male", 5),
    "A1983": ("cpsc/**/A1983.hea", None, None),
    "6002": ("ptb_xl/**/06002_hr.hea", "male", 29),
    "6004": ("ptb_xl/**/06004_hr.hea", "male", 28),
}


@pytest.fixture(scope="module")
def described(shared_data) -> dict[str, list[str]]:
    """The general findings of each record."""
    found = {}
    for name, (pattern, sex, age) in RECORDS.items():
        recording = read_recording(next(shared_data.glob(pattern)))
        features = measure_ecg(recording.ecg, recording.sampling_rate)
        found[name] = [text.split(" (")[0] for text in describe_features(features, sex, age)["general"]]
    return found


@pytest.mark.parametrize("name", ["JS20004", "JS20005"])
def test_an_axis_beyond_minus_90_is_extreme(described, name):
    assert "extreme axis" in described[name] and "left axis deviation" not in described[name]


@pytest.mark.parametrize("name", ["A1983", "6002", "6004"])
def test_normal_ecgs_have_a_normal_qt_interval(described, name):
    assert not any("QT interval" in finding for finding in described[name])


def test_a_child_has_no_adult_findings(described):
    assert described["JS20008"] == []
