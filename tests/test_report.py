"""The report of an evaluation from its table of predictions: scores, signal reliance, comparison, card."""

import json
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from huggingface_hub import ModelCard
from PIL import Image
from scipy import stats
from typer.testing import CliRunner

from elm_hf.cli import app
from elm_hf.comparison.compare import aggregate, compare
from elm_hf.ecg.plot import plot_ecg
from elm_hf.evaluation.occlusion import save_occlusions
from elm_hf.evaluation.pictures import occlusion_picture
from elm_hf.evaluation.report import build_report, write_report
from elm_hf.evaluation.report_markdown import report_markdown
from elm_hf.scoring.reliance import signal_reliance
from elm_hf.scoring.scores import Questions, ScoreBook
from elm_hf.scoring.training_answers import blind_answers
from elm_hf.training.cost_file import COSTS_NAME
from elm_hf.utils.reports import read_report


RENDERS_CHARTS = True


pytest.importorskip("sacrebleu", reason="needs the extra `eval`")
pytest.importorskip("matplotlib", reason="needs the extra `eval`")

RUN = {
    "checkpoint": "my-elm",
    "weights": "a",
    "dataset": "data/simulated",
    "fold": "1",
    "split": "test",
    "limit": None,
}
CONTROLS = ("zeros", "noise", "shuffled", "none")
TYPES = ("single-choose", "single-query", "single-verify")
ANSWERS = {
    "single-choose": (["left axis deviation"], ["none"]),
    "single-query": (["sinus rhythm", "st elevation"], ["none"]),
    "single-verify": (["yes"], ["no"]),
}


def predictions_of(accuracy: dict[str, float], seed: int = 0, num_patients: int = 40) -> pd.DataFrame:
    """Three questions about each patient; under each condition answers that are right so often."""
    rng = np.random.default_rng(seed)
    rows = []
    for condition, share in accuracy.items():
        for patient in range(num_patients):
            for turn, kind in enumerate(TYPES):
                truth, other = ANSWERS[kind][:: 1 if (patient + turn) % 2 else -1]
                said = truth if rng.random() < share else other
                rows.append(
                    question_row(f"c{patient}-{turn}", condition, kind, truth, ", ".join(said), [f"s/{patient}"])
                )
    return pd.DataFrame(rows)


def question_row(
    name: str, condition: str, kind: str | None, truth: list[str], said: str, patients: list[str]
) -> dict:
    return {
        "question_id": f"{name}#0",
        "conversation_id": name,
        "turn": 0,
        "condition": condition,
        "question_type": kind,
        "attribute_type": None,
        "template_id": None,
        "question": f"Question {kind}?",
        "answer": truth,
        "messages_answer": ", ".join(truth),
        "prediction": said,
        "num_tokens": len(said.split()),
        "finished": True,
        "record_ids": [f"record {name}"],
        "patient_ids": patients,
    }


def all_numbers(value) -> list:
    if isinstance(value, dict):
        return [number for one in value.values() for number in all_numbers(one)]
    if isinstance(value, list):
        return [number for one in value for number in all_numbers(one)]
    return [value] if isinstance(value, float) else []


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """Predictions of a model that reads the ECG, and their report."""
    folder = tmp_path_factory.mktemp("reader")
    predictions = predictions_of({"ecg": 0.9} | dict.fromkeys(CONTROLS, 0.5))
    predictions.to_parquet(folder / "predictions.parquet")
    return predictions, write_report(folder, predictions, RUN), folder


def test_a_p_value_is_never_written_as_0(reader):
    found = reader[1]["signal_reliance_by_type"]
    entry = found["single-verify"] | {"p_value": 1e-6, "p_value_holm": 4e-6, "reads_ecg": True}
    text = report_markdown(reader[1] | {"signal_reliance_by_type": found | {"single-verify": entry}})
    assert "| <0.0001 | <0.0001 | yes |" in text


def test_scores_are_the_shares_of_right_answers(reader):
    predictions, report, _ = reader
    right = predictions["prediction"] == predictions["messages_answer"]
    by_type = right[predictions["condition"] == "ecg"].groupby(predictions["question_type"]).mean()
    scores = {name: group["conditions"]["ecg"]["exact_match"] for name, group in report["scores"].items()}
    for name, expected in by_type.items():
        assert scores[name]["score"] == pytest.approx(expected)
        assert report["scores"][name]["answers"] == scores[name]["answers"] == 40
    assert scores["all"]["score"] == pytest.approx(right[predictions["condition"] == "ecg"].mean())
    for name in ("macro-average", "average of single types (ECG-LM)"):
        assert scores[name]["score"] == pytest.approx(by_type.mean())
    assert all(scores[name]["low"] < scores[name]["score"] < scores[name]["high"] for name in scores)
    assert report["patients"] == 40 and report["questions"] == 120


def test_a_report_names_no_folder_of_this_machine(tmp_path):
    """Reports are passed on. A repository keeps its name."""
    run = RUN | {
        "checkpoint": str(tmp_path / "elms" / "my-elm"),
        "dataset": "user/data",
        "retrieval": {"index": "/a/b", "k": 3, "content": "report", "location": "user"},
    }
    write_report(tmp_path / "report", predictions_of({"ecg": 0.7, "zeros": 0.5}, num_patients=6), run)
    for name in ("report.json", "report.md"):
        assert str(tmp_path) not in (tmp_path / "report" / name).read_text()
    written = json.loads((tmp_path / "report" / "report.json").read_text())
    assert [written["run"][name] for name in ("checkpoint", "dataset")] == ["my-elm", "user/data"]
    assert written["run"]["retrieval"]["index"] == "b"
    written["run"]["dataset"] = str(tmp_path / "data")  # as earlier versions wrote it
    (tmp_path / "report" / "report.json").write_text(json.dumps(written))
    assert read_report(tmp_path / "report")["run"]["dataset"] == "data"


def test_reading_the_ecg_is_told_from_not_reading_it(reader, tmp_path):
    reliance = reader[1]["signal_reliance"]["short"]
    assert reliance["low"] > 0 and reliance["reads_ecg"] is True
    best = max(reliance["scores"][name] for name in CONTROLS)
    assert reliance["score"] == pytest.approx(reliance["scores"]["ecg"] - best)

    blind = write_report(tmp_path, predictions_of(dict.fromkeys(("ecg", *CONTROLS), 0.7), seed=1), RUN)
    reliance = blind["signal_reliance"]["short"]
    assert reliance["low"] <= 0 and reliance["reads_ecg"] is False
    sentence = "No evidence that this model's answers depend on the ECG"
    assert reliance["sentence"].startswith(sentence) and f"{reliance['high']:.3f}" in reliance["sentence"]
    assert sentence in (tmp_path / "report.md").read_text()


def test_reliance_is_seldom_seen_where_there_is_none_and_its_interval_holds():
    """Four equally good controls: their maximum is too high by chance, which must not count for or against the model."""
    claimed, held = [], []
    for seed in range(60):
        book = ScoreBook(Questions(predictions_of(dict.fromkeys(("ecg", *CONTROLS), 0.5), seed, 20)), 200, seed)
        found = signal_reliance(book, np.arange(60))
        claimed.append(found["reads_ecg"])
        held.append(found["low"] <= 0 <= found["high"])
    assert np.mean(claimed) <= 0.05
    assert np.mean(held) >= 0.9


def test_a_difference_of_all_to_none_is_not_beyond_doubt(tmp_path):
    """Six patients, all right with the ECG and all wrong without: a share of 6 of 6 on the scale from -1 to 1."""
    accuracy = {"ecg": 1.0} | dict.fromkeys(CONTROLS, 0.0)
    report = write_report(tmp_path, predictions_of(accuracy, num_patients=6), RUN)
    found = report["signal_reliance"]["short"]
    low = stats.binomtest(6, 6).proportion_ci(method="exact").low
    assert (found["low"], found["high"]) == pytest.approx((2 * low - 1, 1)) and found["reads_ecg"] is True


def test_few_patients_settle_nothing(tmp_path):
    accuracy = {"ecg": 1.0} | dict.fromkeys(CONTROLS, 0.0)
    report = write_report(tmp_path, predictions_of(accuracy, num_patients=5), RUN)
    assert report["signal_reliance"]["short"]["reads_ecg"] is None
    assert "15 answers about 5 patients are too few" in report["signal_reliance"]["short"]["sentence"]
    one = write_report(tmp_path / "one", predictions_of({"ecg": 1.0}, num_patients=1), RUN)
    assert one["scores"]["all"]["conditions"]["ecg"]["exact_match"]["note"] == (
        "one patient or one answer: no interval"
    )


def test_questions_about_two_patients_are_no_more_than_they_are(tmp_path):
    """Five answers about ten patients are five trials, not ten; one answer about two is one."""
    rows = [
        question_row(f"c{number}", condition, kind, ["yes"], said, [f"s/{number}", f"s/{number + 50}"])
        for condition, said in (("ecg", "yes"), ("none", "no"))
        for number, kind in enumerate(["comparison"] * 5 + ["one"])
    ]
    report = write_report(tmp_path, pd.DataFrame(rows), RUN)
    five, one = (report["scores"][name]["conditions"]["ecg"]["exact_match"] for name in ("comparison", "one"))
    assert five["low"] == pytest.approx(stats.binomtest(5, 5).proportion_ci(method="exact").low)
    assert (one["low"], one["note"]) == (None, "one patient or one answer: no interval")
    few = write_report(tmp_path, pd.DataFrame([row for row in rows if row["question_type"] != "one"]), RUN)
    assert few["signal_reliance"]["short"]["reads_ecg"] is None


def test_types_of_few_patients_are_left_out_of_averages_and_named(tmp_path):
    """One answer of a rare type would be half of a macro-average."""
    rows = [
        question_row(f"{kind}{patient}", condition, kind, ["yes"], said, [f"s/{patient}"])
        for condition in ("ecg", "none")
        for kind, number in (("often", 40), ("again", 12), ("rare", 1), ("seldom", 3))
        for patient in range(number)
        for said in ["yes" if patient % 4 else "no"]
    ]
    report = write_report(tmp_path, pd.DataFrame(rows), RUN)
    average = report["scores"]["macro-average"]
    assert (average["answers"], average["conditions"]["ecg"]["exact_match"]["score"]) == (52, 0.75)
    note = "macro-average: rare, seldom left out, with less than 6 patients or answers"
    assert note in report["notes"] and "Macro-average: rare, seldom left out" in (tmp_path / "report.md").read_text()
    seldom = report["scores"]["seldom"]["conditions"]["ecg"]["exact_match"]
    assert 0 < seldom["undefined_resamples"] < 200  # about 1000 (1 - 3/40)^40
    assert f"not defined in up to {seldom['undefined_resamples']} resamples" in (tmp_path / "report.md").read_text()
    few = build_report(Questions(pd.DataFrame([row for row in rows if row["question_type"] != "again"])), RUN, None, 0)
    assert "macro-average" not in few["scores"]
    assert any(note.endswith("less than two types are left, so there is none") for note in few["notes"])


def test_many_types_do_not_make_one_that_reads_the_ecg():
    """Of 20 types one is right 8 times more often with the ECG than without: by itself not by chance, among 20 it may be."""
    rows = [
        question_row(f"{kind}-{number}", condition, f"type {kind:02}", ["yes"], said, [f"s/{number}"])
        for condition in ("ecg", "none")
        for kind in range(20)
        for number in range(40)
        for said in ["yes" if number < 20 or (kind == 7 and condition == "ecg" and number < 27) else "no"]
    ]
    report = build_report(Questions(pd.DataFrame(rows)), RUN, None, 0)
    one = report["signal_reliance_by_type"]["type 07"]
    assert one["low"] > 0 and 0.0025 < one["p_value"] < 0.05
    assert one["p_value_holm"] == pytest.approx(20 * one["p_value"]) and one["reads_ecg"] is False
    assert report["signal_reliance_by_type"]["type 06"]["p_value_holm"] == 1
    text = report_markdown(report | {"figures": {}, "examples": []})
    line = next(line for line in text.splitlines() if f"{one['p_value_holm']:.4f}" in line)
    assert line.startswith("| type 07 | 40 | 40 | 0.175 [") and line.endswith("| no evidence |")


def test_without_questions_about_an_ecg_nothing_is_said_of_reading_it(tmp_path):
    predictions = predictions_of({"ecg": 0.7, "none": 0.7})
    predictions["record_ids"] = predictions["patient_ids"] = [[] for _ in range(len(predictions))]
    reliance = write_report(tmp_path, predictions, RUN)["signal_reliance"]["short"]
    assert reliance["reads_ecg"] is None and "no question is about an ECG" in reliance["sentence"]


def test_any_words_can_be_types_and_answers(tmp_path):
    """A dollar sign is no formula, a long name no file name, an answer without words no answer."""
    kinds, truths = ["a $\\frac{ $", "t" * 300, "t" * 299], [["$\\frac{ 5 $"], ["синусовый ритм"], ["..."]]
    rows = [
        question_row(f"c{number}", "ecg", kinds[number % 3], truths[number // 3 % 3], "x", [f"s/{number}"])
        for number in range(27)
    ]
    training = pd.DataFrame({"question_type": ["q"] * 2, "question": ["q"] * 2, "answer": [None, ["yes", None]]})
    report = write_report(tmp_path, pd.DataFrame(rows), RUN, training)
    assert report["questions"] == 18 and "9 questions without a true answer were left out" in report["notes"]
    assert len(set(report["figures"].values())) == len(report["figures"]) == 2 + 3
    assert report["scores"]["all"]["conditions"]["blind"]["exact_match"]["score"] == 0


def test_empty_answers_are_wrong_and_counted(tmp_path):
    predictions = predictions_of({"ecg": 1.0})
    predictions.loc[:29, "prediction"] = ""
    report = write_report(tmp_path, predictions, RUN)
    assert report["conditions"]["ecg"] == {"answers": 120, "empty": 30, "unfinished": 0}
    assert report["scores"]["all"]["conditions"]["ecg"]["exact_match"]["score"] == pytest.approx(0.75)
    labels = report["confusion"]["single-verify"]["labels"]
    assert sorted(labels) == ["(empty)", "no", "yes"] and labels[-1] == "(empty)"
    assert np.array(report["confusion"]["single-verify"]["matrix"]).sum() == 40


def test_the_blind_baseline_takes_the_majority_of_each_template():
    training = pd.DataFrame(
        {
            "question_type": ["verify"] * 5 + ["query"] * 3,
            "template_id": [1, 1, 1, 2, 2, None, None, None],
            "question": ["q"] * 5 + ["Which rhythm?", "Which rhythm?", "Which axis?"],
            "answer": [["yes"], ["no"], ["yes"], ["no"], ["no"], ["sinus"], ["sinus"], ["right", "left"]],
        }
    )
    asked = pd.DataFrame(
        {
            "question_type": ["verify", "verify", "verify", "query", "query", "other"],
            "template_id": [1.0, 2.0, 9.0, np.nan, np.nan, np.nan],
            "question": ["q", "q", "q", "Which axis?", "Which noise?", "?"],
        }
    )
    # of verify questions altogether "no" is the most frequent; of all answers "no", too
    assert blind_answers(asked, training) == ["yes", "no", "no", "left, right", "sinus", "no"]


def test_free_text_has_text_metrics_where_they_are_defined(tmp_path):
    reports = [
        "sinus rhythm with left axis deviation and lvh",
        "normal ecg",
        "atrial fibrillation, rapid, no st changes",
    ]
    rows = [
        question_row(
            f"c{number}", condition, "report", [reports[number % 3]], said or reports[number % 3], [f"s/{number}"]
        )
        for condition, said in (("ecg", None), ("none", "normal ecg"))
        for number in range(12)
    ]
    report = write_report(tmp_path, pd.DataFrame(rows), RUN)
    with_ecg, without = (report["scores"]["all"]["conditions"][name] for name in ("ecg", "none"))
    assert "exact_match" not in with_ecg
    assert (with_ecg["bleu_4"]["answers"], with_ecg["rouge_l"]["answers"]) == (8, 12)  # "normal ecg" has two words
    for metric in ("rouge_l", "bleu_1", "bleu_4", "token_f1", "statement_f1"):
        assert with_ecg[metric]["score"] == pytest.approx(1)
        assert 0 <= without[metric]["score"] < 1
    assert without["statement_recall"]["score"] == pytest.approx(4 / 20)  # 1, 1 and 3 statements in each three
    assert report["statements"]["missed_per_answer"] == report["statements"]["extra_per_answer"] == 0
    assert report["signal_reliance"]["text"]["metric"] == "rouge_l"


def test_equally_frequent_statements_come_in_alphabetical_order(tmp_path):
    """In every process: a set of texts has another order in each."""
    truth, said = ["lvh", "afib", "lad", "rbbb", "pvc"], "vt, sr, svt, pac, wpw"
    report = write_report(tmp_path, pd.DataFrame([question_row("c", "ecg", "query", truth, said, ["s/1"])]), RUN)
    found = {key: [row["statement"] for row in report["statements"][key]] for key in ("most_missed", "most_extra")}
    assert found == {"most_missed": sorted(truth), "most_extra": sorted(said.split(", "))}


def test_files_hold_no_nan_and_all_figures_are_there(reader):
    _, report, folder = reader
    text = (folder / "report.json").read_text()
    assert json.loads(text) == report and np.isfinite(all_numbers(report)).all()
    markdown = (folder / "report.md").read_text()
    figures = re.findall(r"\]\((figures/[^)]+)\)", markdown)
    assert {"figures/scores.png", "figures/ablation.png", "figures/confusion_single-query.png"} <= set(figures)
    for name in figures:
        assert np.asarray(Image.open(folder / name).convert("L")).std() > 5  # something is drawn
    assert "nan" not in re.findall(r"\w+", markdown.lower())


def test_examples_and_occlusions_are_drawn(tmp_path, ecgs):
    predictions = predictions_of({"ecg": 0.5}, num_patients=8)
    one = {"question_id": "c0-0#0", "record_id": "r", "question": "What?", "prediction": "yes", "ecg": ecgs[0]}
    effects = {"log_likelihood": -1.0, "lead_effect": np.eye(12)[7], "window_effect": np.array([0.0, 2, 0, 0])}
    windows = np.array([[0, 0.5], [0.5, 1], [1, 1.5], [1.5, 2]])
    save_occlusions(tmp_path / "occlusion.npz", [one | effects | {"windows_s": windows}], 250)
    report = write_report(tmp_path, predictions, RUN, ecgs_of=lambda question: ([ecgs[0]], 250))
    assert (
        report["figures"]["occlusion_0"] == "figures/occlusion_0.png"
        and (tmp_path / "figures/occlusion_0.png").exists()
    )
    kinds = [example["kind"] for example in report["examples"]]
    assert kinds == ["best", "best", "worst", "worst", "random", "random"]
    assert [example["score"] for example in report["examples"]][:4] == [1, 1, 0, 0]
    assert len({example["question_id"] for example in report["examples"]}) == 6


def test_what_does_not_matter_stays_pale(ecgs):
    one = {"ecg": ecgs[0], "record_id": "r", "question": "What?", "prediction": "yes"}
    windows = np.array([[0, 0.5], [0.5, 1], [1, 1.5], [1.5, 2]])
    height = plot_ecg(ecgs[0]).height
    drawn = []
    for effect in (0, 0.002, 2.0):
        effects = {"lead_effect": effect * np.eye(12)[7], "window_effect": effect * np.eye(4)[1]}
        drawn.append(np.asarray(occlusion_picture(one | effects, windows, 250)).astype(int)[: height - 100])
    paler, darker = (np.abs(picture - drawn[0]).max() for picture in drawn[1:])
    assert paler < 0.1 * darker


def test_heat_colours_the_paper_of_its_lead_and_time(ecgs):
    plain = np.asarray(plot_ecg(ecgs[0])).astype(int)
    heat = np.zeros_like(ecgs[0])
    heat[7] = 1  # V2: third column, second row
    changed = np.abs(np.asarray(plot_ecg(ecgs[0], heat=heat)).astype(int) - plain).sum(axis=2) > 0
    rows, columns = np.nonzero(changed)
    second = np.zeros(ecgs.shape[2])
    second[250:] = 1
    strip = np.abs(np.asarray(plot_ecg(ecgs[0], rhythm_heat=second)).astype(int) - plain).sum(axis=2) > 0
    assert np.nonzero(strip)[0].min() > rows.max()  # the rhythm strip is below
    assert np.nonzero(strip)[1].min() == pytest.approx(
        columns.min(), abs=2
    )  # 1 s of 2 s is where the third column begins
    with pytest.raises(ValueError, match="heat has shape"):
        plot_ecg(ecgs[0], heat=heat[:3])


def test_bad_tables_are_refused(tmp_path):
    predictions = predictions_of({"ecg": 1.0, "zeros": 0.5}, num_patients=6)
    with pytest.raises(ValueError, match="same questions, once each: 1 questions"):
        write_report(tmp_path, predictions.iloc[:-1], RUN)
    with pytest.raises(ValueError, match="empty"):
        write_report(tmp_path, predictions.iloc[:0], RUN)
    predictions["answer"] = [[""]] * len(predictions)
    with pytest.raises(ValueError, match="none of the 18 questions has a true answer"):
        write_report(tmp_path, predictions, RUN)


def test_compare_pairs_the_questions_of_two_models(reader, tmp_path):
    better, _, folder = reader
    worse = predictions_of({"ecg": 0.5}, seed=5)
    worse.iloc[6:].to_parquet(tmp_path / "predictions.parquet")
    found = compare(tmp_path, folder)
    assert (found["shared"], found["only_in_first"], found["only_in_second"]) == (114, 0, 6)
    group = found["scores"]["all, exact match"]
    pairs = better[better["condition"] == "ecg"].merge(worse.iloc[6:], on="question_id", suffixes=("", "_worse"))
    right = [(pairs[f"prediction{end}"] == pairs["messages_answer"]).mean() for end in ("", "_worse")]
    assert group["difference"] == pytest.approx(right[0] - right[1])
    assert 0 < group["low"] < group["difference"] < group["high"] and group["p_value"] < 0.001
    finished = CliRunner().invoke(app, ["compare", str(tmp_path), str(folder)])
    assert f"{group['difference']:+.3f}" in finished.output and "6 of the second alone" in finished.output

    of_others = worse.assign(record_ids=[["another"]] * len(worse))
    of_others.to_parquet(tmp_path / "predictions.parquet")
    with pytest.raises(ValueError, match="the ECGs of 120 questions are not the same"):
        compare(tmp_path, folder)
    few = worse[worse["patient_ids"].map(lambda names: int(names[0][2:]) < 4)]
    few.to_parquet(tmp_path / "predictions.parquet")
    assert "less than 6 patients" in compare(tmp_path, folder)["scores"]["all, exact match"]["note"]
    worse["messages_answer"] = "else"
    worse.to_parquet(tmp_path / "predictions.parquet")
    with pytest.raises(ValueError, match="true answers to 120 questions are not the same"):
        compare(tmp_path, folder)
    with pytest.raises(ValueError, match=r"no predictions\.parquet"):
        compare(tmp_path / "nothing", folder)


@pytest.mark.parametrize(("patients", "half_width"), [(1, None), (8, 0.369), (400, 0.0092)])
def test_models_that_answer_alike_may_differ_on_other_patients(tmp_path, patients, half_width):
    rows = [question_row(f"c{number}", "ecg", "verify", ["yes"], "yes", [f"s/{number}"]) for number in range(patients)]
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        pd.DataFrame(rows).to_parquet(tmp_path / name / "predictions.parquet")
    found = compare(tmp_path / "one", tmp_path / "two")["scores"]["verify"]
    if half_width is None:
        assert (found["low"], found["p_value"]) == (None, None) and "no interval" in found["note"]
    else:
        assert (found["low"], found["high"]) == pytest.approx((-half_width, half_width), abs=5e-4)
        assert found["p_value"] == 1


def test_compare_leaves_small_types_out_and_corrects_for_the_number_of_types(tmp_path):
    for name, right in (("one", 5), ("two", 17)):
        rows = [
            question_row(
                f"{kind}{patient}", "ecg", kind, ["yes"], "yes" if patient < right else "no", [f"s/{patient}"]
            )
            for kind, number in (("a", 20), ("b", 30), ("rare", 2))
            for patient in range(number)
        ]
        (tmp_path / name).mkdir()
        pd.DataFrame(rows).to_parquet(tmp_path / name / "predictions.parquet")
    comparison = compare(tmp_path / "one", tmp_path / "two")
    scores = comparison["scores"]
    average = scores["macro-average, exact match"]
    assert (average["answers"], average["difference"]) == (50, pytest.approx((12 / 20 + 12 / 30) / 2))
    assert comparison["notes"] == ["macro-average, exact match: rare left out, with less than 6 patients or answers"]
    p_values = {name: scores[name]["p_value"] for name in ("a", "b", "rare")}
    first, second, third = sorted(p_values.values())
    assert min(scores[name]["p_value_holm"] for name in p_values) == pytest.approx(3 * first)
    assert "p_value_holm" not in average and average["low"] > 0 and average["p_value"] < 0.05 and third == 1
    text = CliRunner().invoke(app, ["compare", str(tmp_path / "one"), str(tmp_path / "two")]).output
    assert "p (Holm)" in text and "rare left out" in text


def test_reports_of_earlier_versions_are_refused(reader, tmp_path):
    for schema in (1, None):
        (tmp_path / "report.json").write_text(json.dumps(reader[1] | {"schema": schema}))
        with pytest.raises(ValueError, match=f"report.json: a report of schema {schema}, and this .* reads schema 2"):
            aggregate([tmp_path, tmp_path])


def test_aggregate_averages_seeds_then_folds(tmp_path):
    accuracies = {("1", "a"): 0.9, ("1", "b"): 0.8, ("2", "c"): 0.6, ("2", "d"): 0.7}
    folders, scores = [], []
    for (fold, weights), accuracy in accuracies.items():
        folders.append(tmp_path / weights)
        run = RUN | {"fold": fold, "weights": weights}
        report = write_report(folders[-1], predictions_of({"ecg": accuracy}), run)
        scores.append(report["scores"]["all"]["conditions"]["ecg"]["exact_match"]["score"])
    found = aggregate(folders)
    entry = found["scores"]["all"]["ecg"]
    folds = [np.mean(scores[:2]), np.mean(scores[2:])]
    assert (found["runs"], found["num_runs"]) == ("folds", 2)
    assert (entry["mean"], entry["sd"]) == pytest.approx((np.mean(folds), np.std(folds, ddof=1)))
    assert aggregate(folders[:2])["runs"] == "seeds"
    finished = CliRunner().invoke(app, ["aggregate", *map(str, folders)])
    assert f"{entry['mean']:.3f} ± {entry['sd']:.3f}" in finished.output
    other = report | {
        "scores": report["scores"] | {"macro-average": report["scores"]["macro-average"] | {"averaged": []}}
    }
    (folders[-1] / "report.json").write_text(json.dumps(other))
    assert "macro-average" in found["scores"]
    assert [note.split(":")[0] for note in aggregate(folders)["notes"]] == ["macro-average"]
    with pytest.raises(ValueError, match="give each run once"):
        aggregate([folders[0], folders[0]])
    for change, message in (
        ({"max_new_tokens": 8}, "max_new_tokens is 8 and None"),
        (
            {"retrieval": {"index": "i", "k": 3, "content": "report", "location": "user"}},
            "retrieval is None and {'index",
        ),
        ({"questions": "others"}, "reports of fold 1 are of different questions"),
        ({"system_prompt": "Answer briefly."}, "system_prompt is Answer briefly. and None"),
        ({"max_reasoning_tokens": 512}, "max_reasoning_tokens is 512 and None"),
        ({"controls": 1}, "differ in what they put in the place of the ECGs"),
    ):
        report["run"] = RUN | {"weights": "e"} | change
        (tmp_path / "d" / "report.json").write_text(json.dumps(report))
        with pytest.raises(ValueError, match=message):
            aggregate([folders[0], tmp_path / "d"])


def test_aggregate_names_the_conditions_that_not_all_runs_have(tmp_path):
    for name, conditions in (("one", ("noise", "none")), ("two", ("none", "zeros"))):
        predictions = predictions_of({"ecg": 0.9} | dict.fromkeys(conditions, 0.5))
        write_report(tmp_path / name, predictions, RUN | {"weights": name})
    found = aggregate([tmp_path / "one", tmp_path / "two"])
    assert list(found["scores"]["all"]) == ["ecg", "none"]
    assert found["notes"] == [
        "condition noise: left out, in 1 of 2 reports",
        "condition zeros: left out, in 1 of 2 reports",
    ]
    printed = CliRunner().invoke(app, ["aggregate", str(tmp_path / "one"), str(tmp_path / "two")]).output
    assert "condition noise: left out, in 1 of 2 reports" in printed


def test_reports_are_read_and_tables_printed_without_torch(tmp_path):
    for name, accuracy in (("one", 0.9), ("two", 0.6)):
        predictions = predictions_of({"ecg": accuracy, "none": 0.5}, num_patients=8)
        write_report(tmp_path / name / "report", predictions, RUN | {"weights": name})
        predictions.to_parquet(tmp_path / name / "report" / "predictions.parquet")
        (tmp_path / name / COSTS_NAME).write_text(json.dumps({"seconds": 10.0, "samples": 8, "tokens": 99}))
    code = """
import sys
from elm_hf.evaluation import card, figures, pictures, report
from elm_hf.comparison.compare import aggregate, aggregate_table, compare, comparison_table
from elm_hf.evaluation.report_markdown import report_markdown, report_table
from elm_hf.comparison.recipe_costs import costs_table, recipe_costs
from elm_hf.utils.reports import read_report
read = read_report("one/report")
folders = ["one/report", "two/report"]
print(report_table(read), report_markdown(read), comparison_table(compare(*folders)), aggregate_table(aggregate(folders)))
print(costs_table(recipe_costs({"first": ["one"], "second": ["two"]})))
print(*({"torch", "trl", "peft", "accelerate", "transformers"} & set(sys.modules)) or ["nothing large"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout.count("| single-verify |") == 5 and "| second | 1 | 10 | 8 | 99 | 1.00 | 1.00 | 0." in done.stdout
    )
    assert done.stdout.splitlines()[-1] == "nothing large"


def test_the_card_takes_the_results(reader, tiny_elm, tmp_path):
    import shutil

    from elm_hf.evaluation.card import update_card

    shutil.copytree(tiny_elm, tmp_path / "elm")
    report = reader[1]
    update_card(tmp_path / "elm", report)
    update_card(tmp_path / "elm", report | {"run": RUN | {"fold": "2"}})
    update_card(tmp_path / "elm", report | {"run": RUN | {"fold": "2"}})
    card = ModelCard.load(tmp_path / "elm" / "README.md")
    found = {(r.dataset_config, r.metric_name): r.metric_value for r in card.data.eval_results}
    assert len(found) == len(card.data.eval_results)
    for config in ("fold1", "fold2"):
        score = report["scores"]["all"]["conditions"]["ecg"]["exact_match"]["score"]
        assert found[config, "Exact match, all"] == pytest.approx(score, abs=1e-4)
        reliance = report["signal_reliance"]["short"]["score"]
        assert found[config, "Signal reliance (Exact match)"] == pytest.approx(reliance, abs=1e-4)
    assert report["signal_reliance"]["short"]["sentence"] in card.text
    with pytest.raises(ValueError, match="written into the card of a folder"):
        update_card("owner/name", report)
