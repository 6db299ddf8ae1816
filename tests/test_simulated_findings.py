"""Drawn findings: labels by the rules at the limits, measurements on both sides of them, and no shortcuts."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import rankdata
from test_simulate import NORMAL

from elm_hf.dataset_scripts.simulated_qa import SimulatedQa
from elm_hf.ecg.simulated_findings import (
    LEFT_BLOCK,
    NOISES,
    RHYTHMS,
    RIGHT_BLOCK,
    draw_findings,
    draw_patient,
)


PATIENTS = 6000


@pytest.fixture(scope="module")
def drawn():
    """The ECGs of many patients, three each."""
    generator = np.random.default_rng(0)
    return [draw_patient(generator, 3) for _ in range(PATIENTS)]


@pytest.mark.parametrize(
    ("changes", "label"),
    [
        ({"pr_ms": 200.0}, None),
        ({"pr_ms": 200.1}, "first degree av block"),
        ({"qrs_ms": 119.9}, None),
        ({"qrs_ms": 120.0}, "nonspecific intraventricular conduction delay"),
        ({"qrs_ms": 119.9, "qrs_shape": LEFT_BLOCK}, "incomplete left bundle branch block"),
        ({"qrs_ms": 120.0, "qrs_shape": LEFT_BLOCK}, "left bundle branch block"),
        ({"qrs_ms": 119.9, "qrs_shape": RIGHT_BLOCK}, "incomplete right bundle branch block"),
        ({"qrs_ms": 120.0, "qrs_shape": RIGHT_BLOCK}, "right bundle branch block"),
        ({"qtc_ms": 459.9}, None),
        ({"qtc_ms": 460.0}, "prolonged qt interval"),
        ({"territory": "anterior", "st_mv": 0.199}, None),
        ({"territory": "anterior", "st_mv": 0.2}, "st elevation in anterior leads"),
        ({"territory": "inferior", "st_mv": 0.099}, None),
        ({"territory": "inferior", "st_mv": 0.1}, "st elevation in inferior leads"),
        ({"territory": "lateral", "st_mv": 0.1}, "st elevation in lateral leads"),
        ({"sokolow_mv": 3.5}, None),
        ({"sokolow_mv": 3.51}, "left ventricular hypertrophy"),
        ({"axis_deg": -30.0}, None),
        ({"axis_deg": -30.1}, "left axis deviation"),
        ({"axis_deg": 90.0}, None),
        ({"axis_deg": 90.1}, "right axis deviation"),
    ],
)
def test_labels_follow_the_rule_at_the_limit(changes, label):
    assert replace(NORMAL, **changes).labels == ["sinus rhythm", label or "normal ecg"]


def test_rates_of_60_and_100_are_normal():
    expected = {59.9: "below", 60.0: "within", 100.0: "within", 100.1: "above"}
    assert {rate: replace(NORMAL, heart_rate=rate).rate_range.split()[0] for rate in expected} == expected


def test_labels_list_the_findings_in_a_fixed_order():
    ill = replace(
        NORMAL,
        pr_ms=250.0,
        qrs_ms=140.0,
        qtc_ms=480.0,
        territory="lateral",
        st_mv=0.3,
        sokolow_mv=4.5,
        axis_deg=-60.0,
        noise="tremor",
    )
    assert ill.labels == [
        "sinus rhythm",
        "first degree av block",
        "nonspecific intraventricular conduction delay",
        "prolonged qt interval",
        "st elevation in lateral leads",
        "left ventricular hypertrophy",
        "left axis deviation",
        "tremor",
    ]


def test_st_elevation_is_not_judged_in_left_bundle_branch_block_and_flutter():
    raised = replace(NORMAL, territory="inferior", st_mv=0.3)
    assert raised.elevated_territory == "inferior"
    assert replace(raised, qrs_shape=LEFT_BLOCK, qrs_ms=150.0).elevated_territory == "none"
    assert replace(raised, rhythm="atrial flutter", pr_ms=None).elevated_territory == "none"


def test_qt_follows_hodges():
    # Hodges 1983: QTc = QT + 1.75 (rate - 60). A QRS of 130 ms adds 40 ms.
    assert replace(NORMAL, heart_rate=80.0, qtc_ms=430.0).qt_ms == 430 - 35
    assert replace(NORMAL, heart_rate=60.0, qtc_ms=430.0, qrs_ms=130.0).qt_ms == 470


def test_a_third_of_the_ecgs_is_wholly_normal_and_each_finding_occurs(drawn):
    first = [visits[0] for visits in drawn]
    assert 0.3 < np.mean([findings.is_normal for findings in first]) < 0.45
    labels = [label for findings in first for label in findings.labels]
    shares = {label: labels.count(label) / len(first) for label in set(labels)}
    assert len(shares) == 5 + 6 + 1 + 3 + 1 + 2 + 1 + 5
    assert all(share > 0.008 for share in shares.values()), shares
    assert np.mean([len(findings.disorders) for findings in first]) < 1.2


@pytest.mark.parametrize(
    ("name", "limit", "width"),
    [
        ("heart_rate", 60, 3),
        ("heart_rate", 100, 4),
        ("pr_ms", 200, 10),
        ("qrs_ms", 120, 6),
        ("qtc_ms", 460, 8),
        ("sokolow_mv", 3.5, 0.2),
        ("axis_deg", -30, 6),
        ("axis_deg", 90, 6),
    ],
)
def test_measurements_are_drawn_continuously_across_their_limits(drawn, name, limit, width):
    """No class keeps a distance to the limit: each twentieth of a small range around it is drawn."""
    values = [getattr(findings, name) for visits in drawn for findings in visits]
    values = np.array([value for value in values if value is not None])
    counts, _ = np.histogram(values, np.linspace(limit - width, limit + width, 21))
    assert counts.min() > 0 and counts[:10].sum() > 60 and counts[10:].sum() > 60, counts


@pytest.mark.parametrize(("territory", "limit"), [("anterior", 0.2), ("inferior", 0.1), ("lateral", 0.1)])
def test_st_levels_are_drawn_continuously_across_their_limits(drawn, territory, limit):
    first = [visits[0] for visits in drawn]
    values = [findings.st_mv for findings in first if findings.territory == territory]
    counts, _ = np.histogram(values, np.linspace(0.6 * limit, 1.4 * limit, 9))
    assert counts.min() > 0, counts


def test_shape_voltage_and_axis_are_drawn_independently(drawn):
    first = [visits[0] for visits in drawn]
    values = {name: [getattr(one, name) for one in first] for name in ("patient", "sokolow_mv", "axis_deg", "qrs_ms")}
    correlation = np.corrcoef(rankdata(list(values.values()), axis=1))
    assert np.abs(correlation - np.eye(4)).max() < 0.04
    right = [one.sokolow_mv for one in first if one.axis == "right axis deviation"]
    assert 0.03 < np.mean(np.array(right) > 3.5) < 0.2  # also large


def test_follow_ups_change_one_group_of_findings(drawn):
    groups = {
        "rhythm": ("rhythm", "heart_rate", "pr_ms"),  # fibrillation and flutter have no PR interval
        "pr": ("pr_ms",),
        "qrs": ("qrs_ms", "qrs_shape"),
        "qt": ("qtc_ms",),
        "st": ("territory", "st_mv"),
        "voltage": ("sokolow_mv", "strain"),
        "axis": ("axis_deg",),
    }
    unchanged = 0
    for first, second, third in drawn[:2000]:
        changed = {name for name in vars(first) if getattr(first, name) != getattr(second, name)} - {"noise"}
        assert not changed or any(changed <= set(names) for names in groups.values()), changed
        assert replace(third, noise="none") == replace(first, noise="none")
        unchanged += not changed
    assert 0.05 < unchanged / 2000 < 0.16


def test_nothing_else_predicts_a_label(tmp_path):
    """AUROC of the order of the ECGs, their ids, age, sex and noise in a dataset, for labels of at least 400 ECGs."""
    builder = SimulatedQa(cache_dir=str(tmp_path), num_recordings=16000)
    ecgs = list(builder.list_recordings())
    present = [set(one["findings"].labels) for one in ecgs]
    patients = np.array([int(one["patient_id"]) for one in ecgs])
    is_first = np.diff(patients, prepend=-1) != 0
    starts = np.flatnonzero(is_first)
    clues = {
        "recording": np.array([int(one["recording_id"]) for one in ecgs]),
        "recording parity": np.array([int(one["recording_id"]) % 2 for one in ecgs]),
        "patient parity": patients % 2,
        "visit": np.arange(len(ecgs)) - starts[np.cumsum(is_first) - 1],
        "number of visits": np.bincount(patients)[patients],
        "shape": np.array([one["findings"].patient for one in ecgs]),
        "age": np.array([one["age"] for one in ecgs]),
        "sex": np.array([one["sex"] == "male" for one in ecgs]),
    } | {noise: np.array([one["findings"].noise == noise for one in ecgs]) for noise in NOISES}
    ranked = {name: rankdata(values) for name, values in clues.items()}
    tested = 0
    for label in set().union(*present) - set(NOISES):
        has = np.array([label in found for found in present])
        for name, ranks in ranked.items() if has.sum() >= 400 else ():
            wins = ranks[has].sum() - has.sum() * (has.sum() + 1) / 2
            assert 0.45 < wins / (has.sum() * (~has).sum()) < 0.55, (label, name)
            tested += 1
    assert tested >= 16 * len(clues)


def test_sinus_rhythms_have_their_rates_and_fibrillation_has_no_pr_interval(drawn):
    expected = {"sinus rhythm": "within", "sinus bradycardia": "below", "sinus tachycardia": "above"}
    for visits in drawn:
        for one in visits:
            assert one.rate_range.startswith(expected.get(one.rhythm, ""))
            assert (one.pr_ms is None) == (one.rhythm in RHYTHMS[3:])


def test_same_seed_draws_the_same_patients():
    first, again, other = (draw_patient(np.random.default_rng(seed), 3) for seed in (0, 0, 1))
    assert first == again != other
    assert draw_findings(np.random.default_rng(0)) == draw_patient(np.random.default_rng(0), 1)[0]


def test_patients_of_another_seed_have_other_ids(tmp_path):
    of_seed = [SimulatedQa(cache_dir=str(tmp_path), num_recordings=30, seed=seed) for seed in (0, 7)]
    first, other = ({one["patient_id"] for one in builder.list_recordings()} for builder in of_seed)
    assert first and other and not first & other
