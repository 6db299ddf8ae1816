"""Claims of texts: found as a person finds them, and judged against ECGs whose truth is known by construction."""

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_report import question_row

from elm_hf import cli
from elm_hf.ecg.claim_checks import FALSE, NOT_CHECKABLE, TRUE, check_text, measure_for_claims
from elm_hf.ecg.claim_scores import FINDINGS, certain_findings, judge_text
from elm_hf.ecg.claims import find_claims
from elm_hf.ecg.simulated_findings import AXES, Findings, draw_findings
from elm_hf.ecg.simulation import simulate_ecg
from elm_hf.evaluation.report import build_report, write_report
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.modeling.ecg_measurements import FEATURES
from elm_hf.scoring.names import MODALITY_CONDITIONS
from elm_hf.scoring.scores import Questions
from elm_hf.training.rewards import measured_claims


SENTENCES = Path(__file__).with_name("claims.tsv")
EVERYTHING = (
    "Bradycardia. Tachycardia. Regular rhythm. Atrial fibrillation. Prolonged PR interval. Short PR interval. Wide QRS. "
    "Narrow QRS. Prolonged QT. Short QT interval. Left axis deviation. Right axis deviation. Extreme axis. Normal axis. "
    "ST elevation in the inferior leads, ST elevation in the anterior leads, ST elevation in the lateral leads. ST "
    "depression in all leads. T wave inversion in V1-V6. Low voltage. Sokolow-Lyon criteria are met. A pause. Frequent PVCs."
)
NUMBERS = " ".join(
    f"Heart rate {40 + 20 * step} bpm. PR {120 + 30 * step} ms. QRS {70 + 20 * step} ms. QTc {340 + 40 * step} ms."
    for step in range(7)
)
NORMAL_REPORT = (
    "Heart rate 76 bpm. Regular rhythm. Normal PR, QRS and QT intervals. Normal axis. No ST elevation or depression. No T "
    "wave inversion."
)
# A normal ECG of an adult, in which two of three measurements are far from their limits.
MEASURED = dict.fromkeys(FEATURES, float("nan")) | {
    **{"heart_rate": 72.0, "rr_variation": 0.01, "longest_rr_s": 0.85, "premature_beats": 0.0},
    **{"premature_beats_of_other_shape": 0.0, "atrial_fibrillation": 0.0, "paced": 0.0, "p_ms": 100.0, "pr_ms": 160.0},
    **{"qrs_ms": 90.0, "qt_ms": 390.0, "qtc_ms": 411.0, "axis_deg": 40.0, "sokolow_mv": 2.0, "cornell_mv": 1.0},
    **{"limb_voltage_mv": 1.2, "chest_voltage_mv": 2.0},
    **{f"st_mv_{lead}": 0.0 for lead in LEADS},
    **{f"t_mv_{lead}": -0.2 if lead == "aVR" else 0.3 for lead in LEADS},
    **{f"{wave}_mv_{lead}": 0.5 for wave in "qrs" for lead in LEADS},
}


def labelled(is_held_out: bool) -> list[tuple[str, Counter]]:
    """Sentences with the claims that a person found; three of ten were not looked at while the terms were chosen."""
    lines = [line.split("\t") for line in SENTENCES.read_text(encoding="utf-8").splitlines()]
    return [
        (text, Counter(claims.split()))
        for row, (text, claims) in enumerate(lines)
        if (row % 10 in (2, 5, 8)) == is_held_out
    ]


@pytest.mark.parametrize("is_held_out", [False, True])
def test_the_claims_of_sentences_are_found(is_held_out):
    sentences = labelled(is_held_out)
    assert len(sentences) == (60 if is_held_out else 140)
    found = [Counter(map(str, find_claims(text))) for text, _ in sentences]
    right = sum((claims & true).total() for claims, (_, true) in zip(found, sentences))
    assert right / sum(claims.total() for claims in found) >= 0.95
    assert right / sum(true.total() for _, true in sentences) >= 0.9


def test_a_claim_names_its_words_in_the_text():
    text = "Rate 72 bpm. The QRS complex is **wide**; no ST elevation in V2-V4."
    words = {str(claim): text[claim.start : claim.end] for claim in find_claims(text)}
    assert words == {
        "rate=72": "Rate 72 bpm",
        "qrs:wide": "QRS complex is **wide",
        "-st:elevated@V2,V3,V4": "ST elevation",
    }


def verdicts(text: str, features: dict | None = None, **of_patient) -> list[str]:
    return [check.verdict for check in check_text(text, MEASURED | (features or {}), **of_patient)]


@pytest.mark.parametrize(
    ("text", "features", "expected"),
    [
        # The measured value agrees; it disagrees by less than the tolerance of 20 ms; by more.
        ("Prolonged PR interval.", {"pr_ms": 202.0}, [TRUE]),
        ("Prolonged PR interval.", {"pr_ms": 190.0}, [NOT_CHECKABLE]),
        ("Prolonged PR interval.", {"pr_ms": 175.0}, [FALSE]),
        ("PR interval normal.", {"pr_ms": 202.0}, [NOT_CHECKABLE]),
        ("PR interval normal.", {"pr_ms": 225.0}, [FALSE]),
        ("The PR interval is not prolonged.", {"pr_ms": 225.0}, [FALSE]),
        ("PR 160 ms, PR 179 ms, PR 185 ms.", {}, [TRUE, TRUE, FALSE]),
        ("PR > 200 ms.", {"pr_ms": 210.0}, [TRUE]),
        ("PR between 50 and 400 ms.", {}, [NOT_CHECKABLE]),  # says nothing
        # What cannot be measured is not guessed.
        ("PR 160 ms.", {"pr_ms": float("nan")}, [NOT_CHECKABLE]),
        ("PR 160 ms.", {"atrial_fibrillation": 1.0, "rr_variation": 0.25}, [NOT_CHECKABLE]),
        ("PR 160 ms.", {"heart_rate": 130.0}, [NOT_CHECKABLE]),
        ("QT prolonged.", {"qrs_ms": 150.0}, [NOT_CHECKABLE]),
        ("Possible atrial fibrillation.", {}, [NOT_CHECKABLE]),
        # QTc at 100 per minute: 436 ms by Hodges, 471 by Bazett. Both formulas may be meant.
        (
            "QTc 436 ms. QTc 471 ms. QTc 520 ms.",
            {"heart_rate": 100.0, "qt_ms": 365.0, "qtc_ms": 435.0},
            [TRUE, TRUE, FALSE],
        ),
        # Women from 460 ms on, men from 450 ms on; in doubt either.
        ("Prolonged QT.", {"qt_ms": 455.0, "qtc_ms": 455.0, "heart_rate": 60.0}, [TRUE]),
        ("Rate 74 bpm, rate 80 bpm.", {}, [TRUE, FALSE]),
        ("Rate 80 bpm.", {"rr_variation": 0.2}, [TRUE]),
        ("Regular rhythm. Irregular rhythm.", {}, [TRUE, FALSE]),
        ("Regular rhythm. Irregular rhythm.", {"rr_variation": 0.07}, [TRUE, TRUE]),
        ("Atrial fibrillation.", {"atrial_fibrillation": 1.0, "rr_variation": 0.2}, [TRUE]),
        ("Atrial fibrillation.", {"rr_variation": 0.2}, [NOT_CHECKABLE]),  # a fifth is not recognised
        ("Atrial fibrillation.", {}, [FALSE]),
        ("Axis 175 degrees.", {"axis_deg": -178.0}, [TRUE]),
        ("Right axis deviation.", {"axis_deg": -178.0}, [NOT_CHECKABLE]),
        ("Left axis deviation. Normal axis.", {"axis_deg": -20.0}, [NOT_CHECKABLE, TRUE]),
        # One lead each, two of a territory, any lead.
        ("ST elevation in V2 and V3.", {"st_mv_V2": 0.2}, [TRUE, FALSE]),
        ("Anterior ST elevation.", {"st_mv_V2": 0.2}, [FALSE]),
        ("Anterior ST elevation.", {"st_mv_V2": 0.2, "st_mv_V3": 0.15}, [TRUE]),
        ("ST elevation.", {"st_mv_II": 0.15}, [TRUE]),
        ("No ST elevation.", {"st_mv_II": 0.2, "st_mv_aVF": 0.18}, [FALSE]),
        ("No ST elevation.", {"st_mv_V2": 0.2, "st_mv_V3": 0.18}, [TRUE]),  # normal in young men
        ("No ST elevation.", {"st_mv_V5": float("nan")}, [NOT_CHECKABLE]),
        ("No ST depression.", {"qrs_ms": 150.0, "st_mv_V5": -0.3, "st_mv_V6": -0.3}, [NOT_CHECKABLE]),
        ("2 mm of ST elevation in II. ST elevation of 4 mm in II.", {"st_mv_II": 0.25}, [TRUE, FALSE]),
        ("T wave inversion in V4.", {"t_mv_V4": -0.2}, [TRUE]),
        ("T wave inversion.", {}, [FALSE]),  # aVR, where it is normal, does not count
        ("Low voltage in the limb leads. Low voltage.", {"limb_voltage_mv": 0.4}, [TRUE, TRUE]),
        ("Low voltage in the chest leads.", {"limb_voltage_mv": 0.4}, [FALSE]),
        ("Sokolow-Lyon index 2.1 mV. Sokolow-Lyon criteria are met.", {}, [TRUE, FALSE]),
        ("Voltage criteria for LVH are not met.", {"sokolow_mv": 4.2}, [FALSE]),
        ("A pause of 3.4 s.", {"longest_rr_s": 3.4}, [TRUE]),
        ("No pauses.", {}, [TRUE]),
        ("Frequent PVCs.", {}, [FALSE]),
        ("Frequent PVCs.", {"rr_variation": 0.09}, [NOT_CHECKABLE]),
        ("Two PVCs. Five PVCs.", {"premature_beats": 2.0, "premature_beats_of_other_shape": 2.0}, [TRUE, FALSE]),
        ("No ectopic beats.", {"premature_beats": 1.0, "rr_variation": 0.12}, [NOT_CHECKABLE]),  # or sinus arrhythmia
    ],
)
def test_a_claim_is_true_false_or_not_checkable(text, features, expected):
    assert verdicts(text, features) == expected


def test_measure_checks_a_text(tmp_path, monkeypatch, capsys):
    true = Findings(7, "sinus rhythm", 72.0, 150.0, 90.0, 400.0, "none", 0.0, 2.0, 45.0, "none")
    np.save(tmp_path / "ecg.npy", simulate_ecg(true, np.random.default_rng(3)))

    def run(*more: str) -> str:
        command = ["elm-hf", "measure", str(tmp_path / "ecg.npy"), "--sampling-rate", "250", "--claims", *more]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code
        return capsys.readouterr().out

    text = run("A rate of 72 bpm, possible LVH by voltage, left axis deviation.")
    assert (
        'true: "rate of 72 bpm" (rate=72): measured 7' in text and 'false: "left axis deviation" (axis:left)' in text
    )
    assert 'not checkable: "LVH by voltage" (?voltage:high): hedged' in text
    assert "makes no claim" in run("Normal ECG.")
    claims = json.loads(run("PR 300 ms.", "--json"))[0]["claims"]
    assert [(one["claim"], one["verdict"], one["unit"]) for one in claims] == [("pr=300", FALSE, "ms")]


def test_limits_are_those_of_the_patient():
    long = {"qt_ms": 415.0, "qtc_ms": 415.0, "heart_rate": 60.0}
    assert verdicts("QT normal.", long | {"qt_ms": 485.0, "qtc_ms": 485.0}, sex="male") == [FALSE]
    assert verdicts("QT normal.", long | {"qt_ms": 485.0, "qtc_ms": 485.0}, sex="female") == [NOT_CHECKABLE]
    assert verdicts("Prolonged QT.", long, sex="male") == [FALSE]
    assert verdicts("Bradycardia. Rate 60 bpm.", long, age=9) == [NOT_CHECKABLE, TRUE]


def test_leads_that_are_noise_or_flat_are_not_judged():
    ecg = simulate_ecg(
        Findings(7, "sinus rhythm", 72.0, 150.0, 90.0, 400.0, "none", 0.0, 2.0, 45.0, "none"), np.random.default_rng(3)
    )
    ecg[LEADS.index("V2")] = 0.2 * np.random.default_rng(0).standard_normal(ecg.shape[1])
    ecg[LEADS.index("V3")] = 0.0
    features = measure_for_claims(ecg, 250)
    checks = check_text("ST elevation in V2, V3 and V4. PR 150 ms.", features)
    assert [check.verdict for check in checks] == [NOT_CHECKABLE, NOT_CHECKABLE, FALSE, TRUE]
    assert {check.verdict for check in check_text(NORMAL_REPORT, measure_for_claims(np.zeros((12, 2500)), 250))} == {
        NOT_CHECKABLE
    }


def report_of(true: Findings) -> str:
    """A report whose statements follow from the findings of a simulated ECG."""
    said = [f"Heart rate {true.heart_rate:.0f} bpm ({'tachy' if true.heart_rate > 100 else 'brady'}cardia)."]
    if 60 <= true.heart_rate <= 100:
        said = [f"Heart rate {true.heart_rate:.0f} bpm, which is within normal limits."]
    if true.rhythm == "atrial fibrillation":
        said.append("Atrial fibrillation.")
    if true.pr_ms is not None:
        said.append(f"The PR interval is {'prolonged' if true.av_block else 'normal'} at {true.pr_ms:.0f} ms.")
        said.append("Prolonged QTc." if true.prolonged_qt else "No QT prolongation.")
    said.append("Wide QRS complex." if true.qrs_ms >= 120 else "Narrow QRS.")
    said.append(
        {AXES[0]: "Normal axis.", AXES[1]: "Left axis deviation.", AXES[2]: "Right axis deviation."}[true.axis]
    )
    raised = true.elevated_territory
    said.append("No ST elevation." if raised == "none" else f"ST elevation in the {raised} leads.")
    said.append(f"Sokolow-Lyon criteria are {'' if true.hypertrophy else 'not '}met.")
    return " ".join(said)


@pytest.fixture(scope="module")
def simulated() -> list[tuple[Findings, np.ndarray, dict[str, float]]]:
    """Twenty-four ECGs of which each has a finding, with their true findings and their measurements."""
    rng = np.random.default_rng(21)
    found = []
    while len(found) < 24:
        true = draw_findings(rng)
        if true.is_normal:
            continue
        ecg = simulate_ecg(true, rng)
        found.append((true, ecg, measure_for_claims(ecg, 250)))
    return found


def figures(texts: list[str], simulated) -> tuple[float, float, float]:
    """Precision of all claims, recall of all findings, mean score."""
    judged = [judge_text(text, features) for text, (_, _, features) in zip(texts, simulated)]
    counts = Counter(check.verdict for one in judged for check in one.checks)
    present = sum(len(one.findings) for one in judged)
    precision = counts[TRUE] / max(counts[TRUE] + counts[FALSE], 1)
    return precision, sum(len(one.stated) for one in judged) / present, float(np.mean([one.score for one in judged]))


def test_texts_are_told_apart_on_ecgs_of_known_truth(simulated):
    """The right report, that of another ECG, one that says everything, numbers, a normal report, and silence."""
    right = [report_of(true) for true, _, _ in simulated]
    precision, recall, score = figures(right, simulated)
    assert precision > 0.97 and recall == 1 and score > 0.5
    precision, recall, score = figures(right[1:] + right[:1], simulated)
    assert precision < 0.75 and recall < 0.2 and score < -0.2
    precision, recall, score = figures([EVERYTHING] * 24, simulated)
    assert precision < 0.3 and recall == 1 and score < -0.8
    precision, recall, score = figures([NUMBERS] * 24, simulated)
    assert precision < 0.3 and score < -0.5
    assert figures([""] * 24, simulated) == (0, 0, 0)
    _, recall, score = figures([NORMAL_REPORT] * 24, simulated)
    assert recall == 0 and score < 0.3
    abnormal = [one for one in simulated if certain_findings(one[2])]
    assert len(abnormal) > 10 and figures([NORMAL_REPORT] * len(abnormal), abnormal)[2] < -0.1


def test_certain_findings_are_the_true_ones(simulated):
    """A finding within the tolerance of its limit is not certain; what is certain is there."""
    truth = {
        "bradycardia": lambda true: true.heart_rate < 60,
        "tachycardia": lambda true: true.heart_rate > 100,
        "prolonged PR": lambda true: true.av_block,
        "left axis deviation": lambda true: true.axis == AXES[1],
        "right axis deviation": lambda true: true.axis == AXES[2],
        "wide QRS": lambda true: true.qrs_ms >= 120,
        "ST elevation": lambda true: true.elevated_territory != "none",
        "high voltage": lambda true: true.sokolow_mv > 3.3,
        "atrial fibrillation": lambda true: true.rhythm == "atrial fibrillation",
    }
    named = [(name, true) for true, _, features in simulated for name in certain_findings(features) if name in truth]
    assert len(named) > 10 and all(truth[name](true) for name, true in named)
    assert certain_findings(MEASURED) == []
    assert certain_findings(MEASURED | {"pr_ms": 215.0}) == [] and certain_findings(MEASURED | {"pr_ms": 225.0}) == [
        "prolonged PR"
    ]
    assert set(FINDINGS) >= {name for _, _, features in simulated for name in certain_findings(features)}


def rewards(text: str, simulated) -> np.ndarray:
    answers = [[{"role": "assistant", "content": text}]] * len(simulated)
    return np.array(measured_claims(answers, [[ecg] for _, ecg, _ in simulated], [250] * len(simulated)))


def test_the_reward_for_measured_claims_cannot_be_had_without_reading(simulated):
    """Each attack once: everything, a list of numbers, one true claim over and over, hedging, silence."""
    few = simulated[:5]
    right = [
        [{"role": "assistant", "content": f"<think>{report_of(true)}</think><answer>done</answer>"}]
        for true, _, _ in few
    ]
    honest = np.array(measured_claims(right, [[ecg] for _, ecg, _ in few], [250] * 5))
    assert honest.min() > 0.2 and honest.mean() > 0.5
    assert (rewards(EVERYTHING, few) < -0.3).all() and (rewards(NUMBERS, few) < -0.3).all()
    assert (rewards("", few) == 0).all() and (
        rewards("Possible tachycardia, possible bradycardia, possible ST elevation.", few) == 0
    ).all()
    once = rewards("Narrow QRS.", few)
    assert (rewards("Narrow QRS. " * 20, few) == once).all() and once.max() < 0.12
    # Contradictions do not pay although one side is true, nor does a range that is never wrong.
    assert (rewards("Narrow QRS. Wide QRS.", few) < 0).all()
    assert (rewards("Heart rate between 20 and 300 bpm. PR between 50 and 500 ms.", few) == 0).all()
    two = measured_claims([[{"role": "assistant", "content": NORMAL_REPORT}]], [[few[0][1], few[1][1]]], [250])
    assert two == [0.0]


def table_of(simulated, texts_of: dict[str, list[str]]) -> pd.DataFrame:
    rows = []
    for condition, texts in texts_of.items():
        for number, ((true, _, _), text) in enumerate(zip(simulated, texts)):
            row = question_row(f"c{number}", condition, "report", [report_of(true)], text, [f"s/{number // 2}"])
            rows.append(row | {"record_ids": [f"r{number}"]})
    return pd.DataFrame(rows)


def test_the_report_has_the_claims_of_each_condition(simulated, tmp_path):
    """A reader, a model that says the same whatever it sees, and one that is silent."""
    right = [report_of(true) for true, _, _ in simulated]
    ecgs = {f"c{number}#0": ecg for number, (_, ecg, _) in enumerate(simulated)}
    texts = {"ecg": right, "shuffled": right[1:] + right[:1], "none": [""] * 24}
    report = write_report(
        tmp_path,
        table_of(simulated, texts),
        {},
        ecgs_of=lambda name: ([ecgs[name]], 250),
        persons_of=lambda name: [(50, None)],
    )
    claims = report["claims"]
    found = claims["conditions"]
    assert (claims["answers"], claims["patients"], claims["asking_for_all_findings"]) == (24, 12, 24)
    judged = [judge_text(text, features, None, 50) for text, (_, _, features) in zip(right, simulated)]
    counts = Counter(check.verdict for one in judged for check in one.checks)
    assert found["ecg"]["true"] == counts[TRUE] and found["ecg"]["false"] == counts[FALSE]
    assert found["ecg"]["precision"]["score"] == pytest.approx(counts[TRUE] / (counts[TRUE] + counts[FALSE]))
    assert found["ecg"]["false_per_answer"]["score"] == pytest.approx(counts[FALSE] / 24)
    assert found["ecg"]["score"]["score"] == pytest.approx(np.mean([one.score for one in judged]))
    assert found["ecg"] == found["true_answers"]
    for entry in (
        found["ecg"]["precision"],
        found["shuffled"]["false_per_answer"],
        found["ecg"]["score"],
    ):
        assert entry["low"] < entry["score"] < entry["high"]
    assert found["ecg"]["recall"]["score"] == 1 > found["ecg"]["recall"]["low"] > found["shuffled"]["recall"]["high"]
    assert found["shuffled"]["precision"]["high"] < found["ecg"]["precision"]["low"]
    assert (
        found["none"]["claims"] == 0
        and found["none"]["precision"]["score"] is None
        and found["none"]["recall"]["score"] == 0
    )
    high = found["ecg"]["findings"]["high voltage"]
    assert high["present"] == sum("high voltage" in one.findings for one in judged) and high["recall"]["score"] == 1
    assert claims["reliance"]["reads_ecg"] and claims["reliance"]["low"] > 0
    text = (tmp_path / "report.md").read_text()
    assert (
        "## Claims against the signal" in text
        and "The claims of this model depend on the ECG" in text
        and "| true answers |" in text
    )


def test_a_model_that_does_not_look_has_no_reliance_in_its_claims(simulated):
    ecgs = {f"c{number}#0": ecg for number, (_, ecg, _) in enumerate(simulated)}
    same = table_of(simulated, dict.fromkeys(("ecg", "shuffled", "none"), [NORMAL_REPORT] * 24))
    report = build_report(Questions(same), {}, None, 0, ecgs_of=lambda name: ([ecgs[name]], 250))
    reliance = report["claims"]["reliance"]
    assert reliance["score"] == 0 and not reliance["reads_ecg"] and reliance["low"] < 0 < reliance["high"]
    silent = [
        report_row | {"answer": ["yes"], "messages_answer": "yes", "prediction": "no"}
        for report_row in same.to_dict("records")
    ]
    unanswered = build_report(Questions(pd.DataFrame(silent)), {}, None, 0, ecgs_of=lambda name: ([ecgs[name]], 250))
    assert unanswered["claims"] is None


def test_conditions_with_a_true_ecg_are_no_controls_of_claims(simulated):
    """A model of signal and picture that needs one of them only says the same with the other one taken away."""
    right = [report_of(true) for true, _, _ in simulated]
    ecgs = {f"c{number}#0": ecg for number, (_, ecg, _) in enumerate(simulated)}
    texts = {"ecg": right, "zeros": [NORMAL_REPORT] * 24, **dict.fromkeys(MODALITY_CONDITIONS, right)}
    table = table_of(simulated, texts)
    report = build_report(Questions(table), {}, None, 0, ecgs_of=lambda name: ([ecgs[name]], 250))
    reliance = report["claims"]["reliance"]
    assert reliance["best_control"] == "zeros" and reliance["reads_ecg"]
