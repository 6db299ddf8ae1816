"""Stretches of the beat and rhythms that are changed: nothing but that changes, in simulated ECGs and in those of patients."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.signal import find_peaks
from test_probe import answering, only

from elm_hf.counterfactuals.probe import ask_probe
from elm_hf.counterfactuals.probe_figure import draw_probe
from elm_hf.counterfactuals.probe_markdown import probe_markdown
from elm_hf.counterfactuals.probe_plan import ALL_CHANGES, another_shape
from elm_hf.counterfactuals.probe_questions import AV_BLOCK, ELEVATIONS, LEFT_AXIS, SLOW
from elm_hf.counterfactuals.probe_records import RecordedEcg
from elm_hf.counterfactuals.probe_results import probe_results
from elm_hf.counterfactuals.probe_stretches import clearest_value, stretch_plan, stretch_results
from elm_hf.ecg.beat_stretches import STRETCHES, exchange_stretch, stretch_weights
from elm_hf.ecg.changed_recordings import suits_changes, territory_level
from elm_hf.ecg.changed_rhythms import (
    Beats,
    find_beats,
    with_fibrillatory_waves,
    with_heart_rate,
    with_irregular_beats,
    without_p_waves,
)
from elm_hf.ecg.counterfactuals import draw_hearts, simulate_heart
from elm_hf.ecg.simulated_findings import HYPERTROPHY, LEFT_BLOCK, PROLONGED_QT
from elm_hf.ecg.verified_changes import (
    F_WAVES,
    NO_WAVES,
    P_WAVES,
    highest_p_mv,
    verified_heart_rate,
    verified_rhythm,
    verified_st_level,
    wrong_measurements,
)
from elm_hf.modeling.ecg_leads import LEADS, limb_lead_error
from elm_hf.modeling.ecg_measurements import measure_ecg


RENDERS_CHARTS = True


@pytest.fixture(scope="module")
def hearts():
    return draw_hearts(2, 0, ALL_CHANGES)


# stretches of simulated beats


def test_the_exchanges_of_all_stretches_add_up_to_the_other_heart(hearts):
    one, other = hearts[0].with_findings(pr_ms=260.0), hearts[0].with_findings(**another_shape(hearts[1]))
    own, others = simulate_heart(one), simulate_heart(other)
    exchanged = {name: exchange_stretch(one, other, name) for name in STRETCHES}
    np.testing.assert_allclose(sum(ecg - own for ecg in exchanged.values()), others - own, atol=1e-6)
    for name, ecg in exchanged.items():
        assert limb_lead_error(ecg) is None
        # The jumps from sample to sample are not larger than those of the two hearts.
        assert np.abs(np.diff(ecg)).max() <= 1.02 * max(np.abs(np.diff(signal)).max() for signal in (own, others)), (
            name
        )


def test_stretches_begin_and_end_where_waves_do():
    weights = stretch_weights(np.array([-1.0, 0.0, 1.0, 2.0]), 0.16, 0.1, 0.4, 250, 250)
    at = dict(zip(STRETCHES, weights))
    np.testing.assert_allclose(weights.sum(axis=0), 1, atol=1e-12)
    for time, name in ((0.03, "QRS"), (0.11, "ST-T"), (0.38, "ST-T"), (0.6, "TP"), (0.9, "P")):
        assert at[name][round(time * 250)] == 1, (time, name)
    no_tp = stretch_weights(np.array([-1.0, 0.0, 1.0, 2.0]), 0.3, 0.1, 0.69, 250, 250)
    assert not no_tp[3].any() and np.allclose(no_tp.sum(axis=0), 1)


def test_a_finding_goes_with_its_stretch_and_with_no_other(hearts):
    """Measured, with the clinical limits."""
    inferior = ELEVATIONS["inferior"]
    abnormal = {
        AV_BLOCK: lambda found: found["pr_ms"] > 200,
        PROLONGED_QT: lambda found: found["qtc_ms"] > 460,
        inferior: lambda found: territory_level(found, "inferior") > 0.1,
        LEFT_BLOCK: lambda found: found["qrs_ms"] >= 120,
        LEFT_AXIS: lambda found: found["axis_deg"] < -30,
    }
    trials = [trial for trial in stretch_plan(hearts[:1], 10.0) if trial.finding in abnormal]
    assert len(trials) == 20
    for trial in trials:
        found = measure_ecg(trial.ecg(), 250)
        assert abnormal[trial.finding](found) == trial.truth, (trial.finding, trial.name)


def test_hearts_that_beat_at_other_times_are_refused(hearts):
    for other in (hearts[1], hearts[0].with_findings(heart_rate=91.0)):
        with pytest.raises(ValueError, match="same seed and rate only"):
            exchange_stretch(hearts[0], other, "P")


def test_a_reader_of_the_voltage_hangs_on_qrs(tmp_path):
    questions = only(HYPERTROPHY)

    def says(ecg, rate, question):  # the rule of Sokolow and Lyon on the highest and deepest samples
        return ecg[10:].max() - ecg[6].min() > 3.6

    table = ask_probe(answering(says), questions, 3.0, 6, quiet=True)
    results = probe_results(table, questions, {"checkpoint": "reader", "dataset": None, "patients": 6})
    agreement, (case,) = results["stretches"]["agreement"], results["stretches"]["cases"]
    assert (agreement["answers"], agreement["share"]) == (6, 1.0) and 0.5 < agreement["low"] < 1
    assert case["where"] == "QRS" and case["falls"]["QRS"]["mean"] > 0.99 and case["falls"]["P"]["mean"] == 0
    assert (case["gone"]["QRS"]["share"], case["gone"]["TP"]["share"]) == (1.0, 0.0)
    assert results["summary"][1].startswith(
        "Of 6 answers that find what is there, 1.00 [0.54, 1.00] hang on the stretch"
    )
    names = draw_probe(tmp_path, results)
    assert (tmp_path / names["stretch_figure"]).stat().st_size > 10_000
    assert "Which stretch of the beat is read" in probe_markdown(results)


def test_falls_by_stretch_are_those_of_the_table():
    """Three patients, of whom two find the block: one hangs on P, the other on TP. By hand."""
    clear = {"part": "sweep", "name": AV_BLOCK, "value": clearest_value(AV_BLOCK)}
    rows = [
        clear | {"patient": patient, "says": patient < 2, "probability": p}
        for patient, p in enumerate((0.9, 0.8, 0.4))
    ]
    exchanged = {"P": (0.1, 0.7, 0.4), "QRS": (0.9, 0.8, 0.1), "ST-T": (0.9, 0.8, 0.4), "TP": (0.6, 0.2, 0.4)}
    for name, probabilities in exchanged.items():
        for patient, p in enumerate(probabilities):
            rows.append(
                {
                    "part": "stretch",
                    "name": name,
                    "value": np.nan,
                    "patient": patient,
                    "says": p > 0.5,
                    "probability": p,
                }
            )
    questions = only(AV_BLOCK)
    table = pd.DataFrame(rows).assign(finding=AV_BLOCK, question=questions[AV_BLOCK][0].text)
    found = stretch_results(table, questions, 0)
    (case,) = found["cases"]
    assert [round(case["falls"][name]["mean"], 3) for name in STRETCHES] == [0.3, 0.1, 0.0, 0.3]
    assert case["falls"]["P"]["low"] is None  # too few patients
    assert (found["agreement"]["share"], found["agreement"]["answers"], found["agreement"]["patients"]) == (0.5, 2, 2)
    assert [case["gone"][name]["share"] for name in STRETCHES] == [0.5, 0.0, 0.0, 0.5]


# other rhythms


def test_the_p_wave_that_is_removed_is_that_of_the_simulator(hearts):
    """The same heart without P waves is known; noise is the same."""
    heart = hearts[0].with_findings(pr_ms=180.0, heart_rate=64.0, territory="none", st_mv=0.0)
    with_p, without = simulate_heart(heart), simulate_heart(heart.with_findings(pr_ms=None))
    removed = without_p_waves(with_p, find_beats(with_p, 250))
    assert np.abs(with_p - without).max() > 0.1
    # An atrial wave of 0.1 mV is wholly gone; what is left is noise and the change of P from beat to beat.
    assert np.abs(removed - without).max() < 0.03 and np.sqrt(np.mean((removed - without) ** 2)) < 0.004
    assert limb_lead_error(removed) is None
    found, before = measure_ecg(removed, 250), measure_ecg(with_p, 250)
    assert highest_p_mv(found) <= 0.03 < 0.05 < highest_p_mv(before)
    assert wrong_measurements(before, found, {}, {"pr_ms"}) == []


def r_peaks(ecg: np.ndarray, rate: float) -> np.ndarray:
    """Times of the R waves by their height alone."""
    size = np.square(np.diff(ecg[6:], axis=1)).sum(axis=0)
    return find_peaks(size, height=0.3 * size.max(), distance=round(0.3 * rate))[0] / rate


def test_beats_are_moved_and_stay_as_they_are(hearts):
    heart = hearts[0].with_findings(heart_rate=72.0, pr_ms=150.0, qtc_ms=400.0)
    ecg = simulate_heart(heart)
    beats = find_beats(ecg, 250)
    for rate in (42.0, 58.0, 78.0):
        changed = with_heart_rate(ecg, beats, rate)
        assert changed.shape == ecg.shape and limb_lead_error(changed) is None
        intervals = np.diff(r_peaks(changed, 250))
        assert 60 / intervals.mean() == pytest.approx(rate, rel=0.01) and intervals.std() < 0.012
        # The highest QRS complexes are copies, sample for sample.
        place = int(r_peaks(changed, 250)[1] * 250)
        piece = changed[:, place - 10 : place + 10]
        windows = np.lib.stride_tricks.sliding_window_view(ecg, 20, axis=1).swapaxes(0, 1)
        assert (windows == piece).all(axis=(1, 2)).any()
    with pytest.raises(ValueError, match="T to P would last"):
        with_heart_rate(ecg, beats, 130.0)
    irregular = with_irregular_beats(ecg, beats, 3)
    intervals = np.diff(r_peaks(irregular, 250))
    assert 0.1 < intervals.std() / intervals.mean() < 0.4
    assert 60 / intervals.mean() == pytest.approx(60 / np.diff(r_peaks(ecg, 250)).mean(), rel=0.06)
    np.testing.assert_array_equal(irregular, with_irregular_beats(ecg, beats, 3))


def test_f_waves_are_added_in_their_band(hearts):
    ecg = simulate_heart(hearts[0])
    added = with_fibrillatory_waves(ecg, 250, 1) - ecg
    power = np.abs(np.fft.rfft(added[LEADS.index("V1")])) ** 2
    hz = np.fft.rfftfreq(added.shape[1], 1 / 250)
    assert power[(hz > 3.5) & (hz < 10)].sum() > 0.95 * power.sum()
    assert 0.03 < np.ptp(added[LEADS.index("V1")]) < 0.4 and limb_lead_error(added) is None


def test_ecgs_without_a_rhythm_that_can_be_changed_have_no_beats(hearts):
    heart = hearts[0]
    assert find_beats(simulate_heart(replace(heart, irregular=True)), 250) is None
    assert find_beats(simulate_heart(heart.with_findings(pr_ms=None)), 250) is None
    assert find_beats(np.zeros((12, 2500), np.float32), 250) is None


def test_a_change_that_did_more_or_less_than_it_should_is_refused(hearts):
    ecg = simulate_heart(hearts[0])
    before = measure_ecg(ecg, 250)
    assert wrong_measurements(before, before, {}) == []
    assert wrong_measurements(before, before, {"pr_ms": (np.nan, 0.0), "heart_rate": (40.0, 1.0)}) == [
        "heart_rate",
        "pr_ms",
    ]
    taller = measure_ecg(1.5 * ecg, 250)
    assert {name.rpartition("_")[0] for name in wrong_measurements(before, taller, {})} >= {"r_mv", "s_mv"}
    # A heart rate that would put P into T is refused, and so is an ECG whose wanted level is not reached.
    assert verified_heart_rate(ecg, 250, before, find_beats(ecg, 250), 130.0) is None
    assert verified_st_level(ecg, 250, before | {"st_mv_V2": 0.2, "st_mv_V3": 0.2}, "anterior", 0.3) is None


# ECGs of patients


@pytest.fixture(scope="module")
def of_patients(real_ecgs):
    """Up to three ECGs of patients whose rhythm can be changed."""
    found = []
    for ecg, sampling_rate in real_ecgs.values():
        features = suits_changes(ecg, sampling_rate)
        if features is not None and find_beats(ecg, sampling_rate) is not None:
            found.append(RecordedEcg(ecg, sampling_rate, features))
        if len(found) == 3:
            return found
    return found


def test_p_waves_of_patients_are_removed_and_nothing_else(of_patients):
    for record in of_patients:
        beats = find_beats(record.ecg, record.sampling_rate)
        changed = without_p_waves(record.ecg, beats)
        assert limb_lead_error(changed) is None
        outside = np.ones(changed.shape[1], bool)
        reach = round(0.06 * record.sampling_rate)
        for start, end in zip(beats.p_starts, beats.qrs_starts):
            outside[max(start - reach, 0) : end + reach] = False
        outside[beats.t_ends[-1] :] = False  # a P wave whose QRS complex is not in the record
        np.testing.assert_allclose(changed[:, outside], record.ecg[:, outside], atol=1e-6)
        before, after = (mean_p_mv(signal, beats) for signal in (record.ecg, changed))
        assert after < 0.02 < 0.04 < before


def mean_p_mv(ecg: np.ndarray, beats: Beats) -> float:
    """The height of the mean P wave in lead II above the line from its onset to QRS, without the package's delineation."""
    length = (beats.qrs_starts - beats.p_starts)[0]
    waves = np.stack([ecg[LEADS.index("II"), start : start + length] for start in beats.p_starts[beats.p_starts > 0]])
    mean = waves.mean(axis=0)
    return float(np.abs(mean - np.linspace(mean[0], mean[-1], length)).max())


def test_rhythms_of_patients_measure_as_they_should(of_patients):
    verified = 0
    for record in of_patients:
        measured = (record.ecg, record.sampling_rate, record.features, find_beats(record.ecg, record.sampling_rate))
        for atria, irregular in ((P_WAVES, True), (NO_WAVES, True), (F_WAVES, True), (NO_WAVES, False)):
            changed = verified_rhythm(*measured, atria, irregular, 0)
            if changed is None:
                continue
            verified += 1
            found = measure_ecg(changed, record.sampling_rate)
            assert found["atrial_fibrillation"] == (irregular and atria != P_WAVES)
            assert found["qrs_ms"] == pytest.approx(record.features["qrs_ms"], abs=8)
            intervals = np.diff(r_peaks(changed, record.sampling_rate))
            assert (intervals.std() / intervals.mean() > 0.09) == irregular
    assert verified >= 2 * len(of_patients)


def test_ecgs_that_cannot_be_changed_are_counted(of_patients):
    good = next(record for record in of_patients if record.features["heart_rate"] < 80)
    wrong = replace(good, features=good.features | {"qrs_ms": 50.0})  # its QRS complex seems to change
    questions = only(SLOW)

    def says(ecg, rate, question):
        return 60 / np.diff(r_peaks(ecg, rate)).mean() < 60

    table = ask_probe(answering(says), questions, 2.0, 2, quiet=True, records=[good, wrong])
    of_records = table[table["part"] == "record sweep"]
    assert of_records["patient"].tolist() == [0] * 10
    found = probe_results(
        table, questions, {"checkpoint": "x", "dataset": None, "ecgs": "y", "recorded_ecgs": 2, "patients": 2}
    )
    assert found["records"]["left_out"] == {"heart rate (sinus bradycardia)": 1}
    assert found["records"]["curves"][0]["limit"] == pytest.approx(60, abs=2)
    assert (
        "ECGs left out, because more or less changed than should: heart rate (sinus bradycardia): 1"
        in probe_markdown(found)
    )
