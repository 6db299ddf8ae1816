"""The counterfactual probe: each ECG differs in what it is said to differ in, and readers of ECGs are told apart."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from elm_hf.counterfactuals.learned_limits import learned_limit
from elm_hf.counterfactuals.probe import ask_probe, probe, questions_of
from elm_hf.counterfactuals.probe_markdown import probe_markdown
from elm_hf.counterfactuals.probe_plan import ALL_CHANGES, CHANGES, SWEEPS, plan
from elm_hf.counterfactuals.probe_questions import (
    AV_BLOCK,
    FAST,
    FINDINGS,
    LEFT_AXIS,
    RIGHT_AXIS,
    SLOW,
    questions_among,
    simulated_questions,
)
from elm_hf.counterfactuals.probe_records import RecordedEcg, ecgs_of_dataset
from elm_hf.counterfactuals.probe_results import probe_results
from elm_hf.ecg.changed_recordings import suits_changes, territory_level, with_st_level, with_voltage
from elm_hf.ecg.counterfactuals import draw_hearts, exchange_electrodes, leads_of_two, simulate_heart
from elm_hf.ecg.normal_ranges import describe_features
from elm_hf.ecg.simulated_findings import HYPERTROPHY, PROLONGED_QT, RIGHT_BLOCK
from elm_hf.modeling.ecg_leads import LEADS, limb_lead_error
from elm_hf.modeling.ecg_measurements import measure_ecg


RENDERS_CHARTS = True

SWEEP_OF = {sweep.finding: sweep for sweep in SWEEPS}
# How far the measurements of two ECGs may differ if the ECGs do not.
TOLERANCE = {"heart_rate": 1.0, "pr_ms": 8, "qrs_ms": 6, "qt_ms": 10, "sokolow_mv": 0.12, "axis_deg": 5, "st": 0.035}


@pytest.fixture(scope="module")
def heart():
    return draw_hearts(1, 4, ALL_CHANGES)[0]


def measured(ecg: np.ndarray, sampling_rate: int = 250) -> dict[str, float]:
    """Measurements whose name is that of a finding's field, and the ST levels of the twelve leads."""
    found = measure_ecg(ecg, sampling_rate)
    values = {name: found[name] for name in TOLERANCE if name != "st"}
    return values | {"st": np.array([found[f"st_mv_{lead}"] for lead in LEADS])}


def differences(one: dict, other: dict) -> set[str]:
    return {name for name, most in TOLERANCE.items() if np.max(np.abs(other[name] - one[name])) > most}


# the ECGs


@pytest.mark.parametrize("sweep", SWEEPS, ids=lambda sweep: sweep.finding)
def test_a_sweep_changes_its_measurement_and_no_other(heart, sweep):
    first, last = sweep.values[0], sweep.values[-1]
    before, after = (measured(simulate_heart(heart.with_findings(**sweep.change(v)))) for v in (first, last))
    changed = differences(before, after)
    if sweep.field == "st_mv":
        assert changed == {"st"}
        raised = {"anterior": ("V2", "V3"), "inferior": ("II", "III", "aVF"), "lateral": ("I", "aVL", "V5", "V6")}
        rise = dict(zip(LEADS, after["st"] - before["st"]))
        level = sorted(rise[lead] for lead in raised[dict(sweep.others)["territory"]])[-2]
        assert level == pytest.approx(last - first, abs=0.05)
        return
    # QTc is measured as QT. A broader QRS makes QT longer by as much, and a higher rate makes it shorter.
    field = "qt_ms" if sweep.field == "qtc_ms" else sweep.field
    also = {"qrs_ms": {"qt_ms", "st"}, "heart_rate": {"qt_ms"}}.get(field, set())
    assert changed - also == {field}
    assert after[field] - before[field] == pytest.approx(last - first, rel=0.15)


def test_the_clinical_limits_are_those_of_the_normal_ranges():
    features = {
        AV_BLOCK: "pr_ms",
        PROLONGED_QT: "qtc_ms",
        SLOW: "heart_rate",
        FAST: "heart_rate",
        RIGHT_BLOCK: "qrs_ms",
    }
    features |= {HYPERTROPHY: "sokolow_mv", LEFT_AXIS: "axis_deg", RIGHT_AXIS: "axis_deg"}
    for finding, feature in features.items():
        limit, step = SWEEP_OF[finding].limit, 0.01 if SWEEP_OF[finding].is_above else -0.01
        assert describe_features({feature: limit + step}, "female", 50)["general"], finding
        assert not describe_features({feature: limit - step}, "female", 50)["general"] or finding == RIGHT_BLOCK


def test_p_waves_f_waves_and_irregularity_are_changed_one_by_one(heart):
    found = {trial.name: measure_ecg(trial.ecg(), 250) for trial in plan([heart], 10.0) if trial.part == "rhythm"}
    p_waves = {name: np.isfinite(features["pr_ms"]) for name, features in found.items()}
    assert {name for name, there in p_waves.items() if there} == {"P waves, regular", "P waves, irregular"}
    for name, features in found.items():
        assert (features["rr_variation"] > 0.12) == name.endswith(", irregular"), name
        assert features["heart_rate"] == pytest.approx(found["P waves, regular"]["heart_rate"], abs=1)
    called = {name for name, features in found.items() if features["atrial_fibrillation"]}
    assert called == {"no atrial waves, irregular", "f waves, irregular"}
    parts = {name: simulate_heart(changed) for name, changed in of_rhythms(heart).items()}
    tq = np.ptp(parts["f waves"] - parts["no atrial waves"], axis=1)
    assert 0.03 < tq[LEADS.index("V1")] < 0.4


def of_rhythms(heart):
    without_p = heart.with_findings(pr_ms=None)
    return {"no atrial waves": without_p, "f waves": replace(without_p, f_waves=True)}


def test_exchanged_limb_electrodes_mirror_the_axis(heart):
    """The arms at the vertical, the others at the axes of the leads aVR and aVL: by hand 140, 20 and -100 degrees."""
    ecg = simulate_heart(heart.with_findings(axis_deg=40.0))
    axes = {("RA", "LA"): 140, ("LA", "LL"): 20, ("RA", "LL"): -100}
    for electrodes, axis in axes.items():
        exchanged = exchange_electrodes(ecg, *electrodes)
        assert measure_ecg(exchanged, 250)["axis_deg"] == pytest.approx(axis, abs=4)
        assert limb_lead_error(exchanged) is None
        np.testing.assert_allclose(exchange_electrodes(exchanged, *electrodes), ecg, atol=1e-5)
        np.testing.assert_array_equal(exchanged[6:], ecg[6:])
    arms = dict(zip(LEADS, exchange_electrodes(ecg, "RA", "LA")))
    by_name = dict(zip(LEADS, ecg))
    np.testing.assert_allclose(arms["I"], -by_name["I"], atol=1e-6)
    np.testing.assert_allclose(arms["aVR"], by_name["aVL"], atol=1e-6)
    chest = exchange_electrodes(ecg, "V1", "V6")
    np.testing.assert_array_equal(chest[[6, 11]], ecg[[11, 6]])
    with pytest.raises(ValueError, match="RA and V1 cannot be exchanged"):
        exchange_electrodes(ecg, "RA", "V1")


def test_limb_and_chest_leads_of_two_patients_keep_their_findings(heart):
    limb = simulate_heart(heart.with_findings(axis_deg=-66.0, sokolow_mv=2.0))
    chest = simulate_heart(heart.with_findings(patient=99, axis_deg=40.0, sokolow_mv=4.7))
    found = measured(leads_of_two(limb, chest))
    assert found["axis_deg"] == pytest.approx(-66, abs=5) and found["sokolow_mv"] == pytest.approx(4.7, abs=0.2)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
def test_what_must_not_matter_changes_the_signal_and_no_measurement(heart, change):
    before, after = simulate_heart(heart), change.apply(heart, 10.0)
    assert limb_lead_error(after) is None
    if change.findings is not None:  # electrodes: the intervals and the leads of the other electrodes stay
        stays = slice(6, 12) if "arm" in change.name else slice(0, 6)
        np.testing.assert_allclose(after[stays], before[stays], atol=1e-6)
    elif change.sampling_rate == 500:
        np.testing.assert_allclose(after[:, ::2], before, atol=0.01)
    elif change.name.startswith("starts"):
        np.testing.assert_allclose(after[:, :-100], before[:, 100:], atol=1e-5)
    else:
        assert 0.01 < np.abs(after - before).max() < 2
        # Noise hides amplitudes from measurements, but not the beats.
        is_noise = "gain" not in change.name
        compared = {"heart_rate", "qrs_ms", "qt_ms"} if is_noise else set(TOLERANCE)
        assert not differences(measured(before), measured(after)) & compared


# readers


def answering(says):
    """An asker that gives the answer to each question for sure: the positive one if `says(ecg, rate, question)`."""

    def ask(asked):
        scores = []
        for ecg, rate, question in asked:
            other = next(answer for answer in question.answers if answer != question.positive)
            given = question.positive if says(ecg, rate, question) else other
            scores.append(np.log([1.0 if answer == given else 1e-9 for answer in question.answers]))
        return scores

    return ask


def only(*findings):
    """The first question about some findings."""
    questions = simulated_questions()
    return {finding: questions[finding][:1] if finding in findings else () for finding in FINDINGS}


def probed(says, findings, patients, seconds=2.0):
    questions = only(*findings)
    table = ask_probe(answering(says), questions, seconds, patients, quiet=True)
    return probe_results(table, questions, {"checkpoint": "oracle", "dataset": None, "patients": patients})


@pytest.fixture
def no_signal(monkeypatch):
    """Saves the time of the simulation where nobody looks at the ECG."""
    for name in ("probe_plan.simulate_heart", "probe_stretches.exchange_stretch"):
        monkeypatch.setattr(f"elm_hf.counterfactuals.{name}", lambda *_, **__: np.zeros((12, 500), np.float32))


def curve_of(results, finding):
    return next(curve for curve in results["curves"] if curve["finding"] == finding)


def test_a_reader_that_measures_shows_the_clinical_limits():
    # Measured PR and axis have no systematic error on simulated ECGs (docs/measurements.md).
    rules = {AV_BLOCK: ("pr_ms", 200), RIGHT_AXIS: ("axis_deg", 90)}

    def says(ecg, rate, question):
        feature, limit = rules[question.finding]
        return measure_ecg(ecg, rate)[feature] > limit

    questions = only(*rules)
    table = ask_probe(answering(says), questions, 10.0, 2, quiet=True)
    table = table[table["part"] != "stretch"]
    table = pd.concat([table.assign(patient=table["patient"] + 2 * copy) for copy in range(3)])
    results = probe_results(table, questions, {"checkpoint": "oracle", "dataset": None, "patients": 6})
    for finding in rules:
        curve = curve_of(results, finding)
        sweep = SWEEP_OF[finding]
        assert curve["verdict"] == "limit" and curve["limit"] == pytest.approx(sweep.limit, abs=sweep.step / 2)
        assert curve["low"] <= sweep.limit <= curve["high"] and "agrees with the clinical limit" in curve["sentence"]
        assert curve["width"] < 2 * sweep.step
    both_right = {(pair["finding"], pair["pair"]): pair["both_right"]["share"] for pair in results["changed"]}
    assert set(both_right.values()) == {1.0} and len(both_right) == 4
    assert results["exchange"][0]["follows_its_leads"]["share"] == 1.0
    assert results["unchanged"][-1]["stays_right"]["share"] > 0.8


def test_a_reader_that_always_says_the_same_has_no_limit(no_signal):
    for says, share in ((lambda *_: True, "100%"), (lambda *_: False, "0%")):
        results = probed(says, FINDINGS, 6)
        assert {curve["verdict"] for curve in results["curves"]} == {"constant"}
        assert all(curve["limit"] is None and curve["sentence"].startswith("no limit") for curve in results["curves"])
        assert share in results["curves"][0]["sentence"]
        assert {pair["both_right"]["share"] for pair in results["changed"]} == {0.0}
        assert {one["same_answer"]["share"] for one in results["unchanged"]} == {1.0}
        assert "No limit: none of" in probe_markdown(results)


def test_a_reader_that_tosses_a_coin_has_no_limit(no_signal):
    rng = np.random.default_rng(0)
    results = probed(lambda *_: rng.random() < 0.5, FINDINGS, 12)
    verdicts = [curve["verdict"] for curve in results["curves"]]
    assert verdicts.count("limit") <= 2  # of 13, one in 40 by chance
    assert np.mean([pair["both_right"]["share"] for pair in results["changed"]]) == pytest.approx(0.25, abs=0.08)


def test_exchanged_leads_are_counted_by_patient():
    rows = [
        # own leads, other leads: follows its leads, the other leads, neither (yes, yes), neither (no, no)
        *[("in its leads", patient, says) for patient, says in enumerate((True, False, True, False))],
        *[("in the other leads", patient, says) for patient, says in enumerate((False, True, True, False))],
    ]
    table = pd.DataFrame(rows, columns=["name", "patient", "says"])
    table = table.assign(
        part="exchange",
        finding=HYPERTROPHY,
        question="q",
        truth=table["name"].eq("in its leads"),
        known=1.0,
        value=np.nan,
        answer="",
        probability=0.5,
    )
    found = probe_results(table, dict.fromkeys(FINDINGS, ()), {})["exchange"]
    assert found[0]["follows_its_leads"]["share"] == found[0]["follows_other_leads"]["share"] == 0.25


def test_questions_that_a_model_answers_with_something_else_have_no_limit(no_signal):
    def ask(asked):
        return [np.log(np.full(len(question.answers), 0.01)) for _, _, question in asked]

    questions = only(AV_BLOCK)
    table = ask_probe(ask, questions, 2.0, 2, quiet=True)
    results = probe_results(table, questions, {"checkpoint": "x", "dataset": None, "patients": 2})
    assert results["curves"][0]["verdict"] == "not answered"
    assert "gives other answers (probability of the expected ones 0.02)" in results["curves"][0]["sentence"]
    assert results["not_asked"] == [finding for finding in FINDINGS if finding != AV_BLOCK]


# limits


def test_a_limit_lies_where_half_of_the_answers_are_yes():
    values = np.arange(10.0)
    rng = np.random.default_rng(3)
    own = rng.normal(6, 0.5, 400)
    says = rng.random((400, 10)) < 1 / (1 + np.exp(-2.0 * (values - own[:, None])))
    found = learned_limit(values, says, True)
    assert found["limit"] == pytest.approx(6, abs=0.1) and found["low"] < 6 < found["high"]
    # The mean of curves whose places differ is flatter than each: between 2 ln 3 / 2 = 1.1 and 1.4 from 25 % to 75 %.
    assert 1.1 < found["width"] < 1.4
    assert learned_limit(values, ~says, True)["verdict"] == "reversed"
    assert learned_limit(values, ~says, False)["limit"] == pytest.approx(found["limit"])
    rarely = says & (rng.random((400, 10)) < 0.4)
    assert learned_limit(values, rarely, True)["verdict"] == "beyond"


def test_a_limit_between_two_values_is_not_known_better_than_these():
    values = np.array([1.0, 2.0, 3.0, 4.0])
    found = learned_limit(values, np.tile(values > 2.4, (8, 1)), True)
    assert found["limit"] == pytest.approx(2.5) and (found["low"], found["high"]) == (2.0, 3.0)


def test_fewer_than_six_patients_have_a_limit_without_an_interval(no_signal):
    values = np.array([1.0, 2.0, 3.0, 4.0])
    found = learned_limit(values, np.tile(values > 2.4, (5, 1)), True)
    assert found["verdict"] == "few patients" and found["limit"] == pytest.approx(2.5) and found["low"] is None
    assert learned_limit(values, np.tile(values < 2.4, (5, 1)), True)["limit"] is None
    count = iter(range(10**6))
    results = probed(lambda *_: next(count) % 10 > 4, [AV_BLOCK], 2)
    assert results["summary"][0] == "No limit is stated: 2 patients are too few for intervals (expected 6 or more)."
    assert curve_of(results, AV_BLOCK)["sentence"] == (
        'no interval: 2 patients are too few to state a limit (expected 6 or more); "yes" above 200 ms in these'
    )
    assert "| 200 ms | 200 ms | — |" in probe_markdown(results)


# questions


def test_questions_are_those_of_the_dataset():
    texts = {"Does this ECG show first degree av block?", "What is the frontal axis?", "Is this ECG normal?"}
    found = {
        finding: [one.text for one in questions] for finding, questions in questions_among(texts).items() if questions
    }
    assert found == {
        AV_BLOCK: ["Does this ECG show first degree av block?"],
        LEFT_AXIS: ["What is the frontal axis?"],
        RIGHT_AXIS: ["What is the frontal axis?"],
    }
    labelled = questions_among(
        {"Do you find a long QT interval in this ECG?", "Can sinus tachycardia be seen in this ECG?"}
    )
    assert {finding for finding, questions in labelled.items() if questions} == {PROLONGED_QT, FAST}
    assert labelled[PROLONGED_QT][0].answers == ("yes", "no")


def test_the_questions_of_simulated_datasets_have_the_answers_of_the_probe(simulated_dataset):
    asked = pd.read_parquet(next((simulated_dataset / "fold1").glob("train-*.parquet")))
    given = {(question, ", ".join(answer)) for question, answer in zip(asked["question"], asked["answer"])}
    texts = {text for text, _ in given}
    found = [one for those in questions_among(texts).values() for one in those]
    assert len(found) > 15
    for one in found:
        answers = {answer for text, answer in given if text == one.text and "," not in answer}
        assert answers <= set(one.answers), one.text


# a model


def test_probe_writes_a_report(tiny_elm, simulated_dataset, tmp_path, monkeypatch):
    import elm_hf.counterfactuals.probe as module

    few = only(AV_BLOCK, LEFT_AXIS)
    monkeypatch.setattr(module, "questions_among", lambda texts: few)
    # A model without training gives other answers, of which the report would say nothing.
    monkeypatch.setattr("elm_hf.counterfactuals.probe_results.LEAST_KNOWN", 0.0)
    options = {"dataset": simulated_dataset, "num_patients": 2, "quiet": True}
    report = probe(tiny_elm, output=tmp_path, **options)
    written = json.loads((tmp_path / "probe.json").read_text())
    assert written == report and [curve["finding"] for curve in written["curves"]] == [AV_BLOCK, LEFT_AXIS]
    assert all((tmp_path / written[name]).stat().st_size > 10_000 for name in ("figure", "stretch_figure"))
    # Two patients say nothing about an interval.
    assert {curve["verdict"] for curve in written["curves"]} <= {"few patients", "constant"}
    assert all(curve["low"] is None for curve in written["curves"])
    assert "Learned limits" in (tmp_path / "probe.md").read_text()
    answers = pd.read_parquet(tmp_path / "probe.parquet")
    assert (
        set(answers["part"]) == {"sweep", "unchanged", "exchange", "stretch"} and answers["known"].between(0, 1).all()
    )
    again = probe(tiny_elm, **options)
    assert all(again[name] == report[name] for name in report.keys() - {"run", "figure", "stretch_figure"})


# recorded ECGs


@pytest.fixture(scope="module")
def recorded(real_ecgs):
    """Three ECGs of patients that are normal in what is changed."""
    found = []
    for ecg, sampling_rate in real_ecgs.values():
        features = suits_changes(ecg, sampling_rate)
        if features is not None:
            found.append(RecordedEcg(ecg, sampling_rate, features))
        if len(found) == 3:
            return found


def test_st_levels_of_recorded_ecgs_are_changed_and_no_interval(recorded):
    for record, (territory, level) in zip(recorded, (("anterior", 0.38), ("inferior", 0.29), ("lateral", 0.29))):
        changed = with_st_level(record.ecg, record.sampling_rate, record.features, territory, level)
        found = measure_ecg(changed, record.sampling_rate)
        assert territory_level(found, territory) == pytest.approx(level, abs=0.02)
        assert limb_lead_error(changed) is None
        for name, most in (("heart_rate", 0.5), ("qrs_ms", 6), ("qt_ms", 6)):
            assert found[name] == pytest.approx(record.features[name], abs=most)
        # Before QRS, in the PQ segment of the first beat in the middle, nothing is changed.
        assert (np.abs(changed - record.ecg).max(axis=0) < 1e-6).mean() > 0.3


def test_voltage_and_arm_electrodes_of_recorded_ecgs_are_changed(recorded):
    record = recorded[0]
    found = measure_ecg(with_voltage(record.ecg, record.features, 4.7), record.sampling_rate)
    assert found["sokolow_mv"] == pytest.approx(4.7, abs=0.05)
    assert found["axis_deg"] == pytest.approx(record.features["axis_deg"], abs=1)
    swapped = measure_ecg(exchange_electrodes(record.ecg, "RA", "LA"), record.sampling_rate)
    assert swapped["axis_deg"] == pytest.approx(180 - record.features["axis_deg"], abs=4)


def test_recorded_ecgs_have_curves_of_their_own(recorded):
    questions = only(HYPERTROPHY)

    def says(ecg, rate, question):  # the rule of Sokolow and Lyon on the highest and deepest samples
        return ecg[10:].max() - ecg[6].min() > 3.5

    table = ask_probe(answering(says), questions, 2.0, 2, quiet=True, records=recorded[:2])
    run = {"checkpoint": "x", "dataset": None, "ecgs": "y", "patients": 2, "recorded_ecgs": 2}
    results = probe_results(table, questions, run)
    curve = results["records"]["curves"][0]
    assert curve["patients"] == 2 and curve["limit"] == pytest.approx(3.5, abs=0.6)
    assert results["records"]["changed"][0]["both_right"]["share"] == 1.0
    assert "Normal ECGs of 2 patients (y)" in probe_markdown(results)


def test_an_evaluation_has_the_probe_as_a_section(tiny_elm, simulated_dataset, tmp_path, monkeypatch):
    import elm_hf.evaluation.evaluate as module

    monkeypatch.setattr(module, "questions_of", lambda dataset, texts: only(AV_BLOCK))
    options = {"conditions": ("ecg",), "limit": 4, "num_occlusions": 0, "quiet": True, "num_counterfactuals": 2}
    report = module.evaluate(tiny_elm, simulated_dataset, output=tmp_path, **options)
    assert report["probe"]["curves"][0]["finding"] == AV_BLOCK and report["probe"]["records"] is None
    text = (tmp_path / "report.md").read_text()
    assert "## Counterfactual ECGs" in text and "(figures/probe_curves.png)" in text
    assert (tmp_path / "figures" / "probe_curves.png").exists()


def test_a_dataset_without_such_questions_is_refused(simulated_dataset):
    with pytest.raises(ValueError, match="my_data: none of its questions asks for a finding that can be probed"):
        questions_of("my_data", ["How old is the patient?"])
    with pytest.raises(ValueError, match="its ECGs are simulated; give a dataset of ECGs of patients"):
        ecgs_of_dataset(simulated_dataset, 1, 2)
