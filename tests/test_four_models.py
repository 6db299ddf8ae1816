"""
The report tells four models apart: one that reads the truth from the labels, one that measures the chest leads only, one that
says everything, and one that repeats the most frequent training answer.
"""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from accelerate import PartialState
from datasets import Dataset
from typer.testing import CliRunner

from elm_hf.cli import app
from elm_hf.comparison.leaderboard import leaderboard
from elm_hf.counterfactuals.probe import ask_probe
from elm_hf.counterfactuals.probe_plan import ALL_CHANGES, plan
from elm_hf.counterfactuals.probe_questions import FINDINGS, LEFT_AXIS, simulated_questions
from elm_hf.counterfactuals.probe_results import probe_results
from elm_hf.data.messages import ecg_messages, last_text
from elm_hf.ecg.claim_checks import measure_for_claims
from elm_hf.ecg.counterfactuals import draw_hearts, simulate_heart
from elm_hf.ecg.simulated_findings import HYPERTROPHY, RHYTHMS, Findings, draw_patient
from elm_hf.ecg.simulation import simulate_ecg
from elm_hf.evaluation import occlusion
from elm_hf.evaluation.ablation import SignalAblation
from elm_hf.evaluation.asker import Asker
from elm_hf.evaluation.questions import list_questions
from elm_hf.evaluation.report import build_report
from elm_hf.evaluation.report_folder import ReportFolder
from elm_hf.inference.generation import Answer
from elm_hf.interpretations import claims
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.modeling.ecg_measurements import measure_ecg
from elm_hf.prepare.simulated_questions import select_questions, single_questions
from elm_hf.scoring.intervals import Support, korn_graubard_interval
from elm_hf.scoring.names import CONDITIONS
from elm_hf.scoring.predictions import prediction_table
from elm_hf.scoring.scores import Questions


SECONDS, RATE, NUM_PATIENTS, NUM_TRAINING = 5, 250, 24, 100
REPORT = "List the findings of this ECG."
SURE = 0.98
MODELS = ("oracle", "chest leads", "everything", "majority")


def all_answers(findings: Findings) -> dict[str, str]:
    """The true answer to each question about an ECG with these findings."""
    answers = {one.question: ", ".join(one.answer) for one in single_questions(findings)}
    return answers | {REPORT: ", ".join(findings.labels)}


@cache
def read_chest_leads(ecg: bytes, sampling_rate: float) -> Findings | None:
    """What `measure_ecg` finds in the chest leads alone; from them it knows nothing of the frontal axis."""
    signal = np.frombuffer(ecg, np.float32).reshape(6, -1)
    found = measure_ecg(signal, sampling_rate, LEADS[6:])
    if np.isnan([found[name] for name in ("heart_rate", "qrs_ms", "qt_ms")]).any():
        return None
    rate, fibrillates = found["heart_rate"], found["atrial_fibrillation"] == 1
    rhythm = RHYTHMS[3] if fibrillates else RHYTHMS[int(rate < 60) + 2 * int(rate > 100)]
    anterior, lateral = (min(found[f"st_mv_{lead}"] for lead in leads) for leads in (("V2", "V3"), ("V5", "V6")))
    territory = "anterior" if anterior >= 0.2 else "lateral" if lateral >= 0.1 else "none"
    pr_ms = None if fibrillates else float(np.nan_to_num(found["pr_ms"]))
    qtc_ms = found["qt_ms"] + 1.75 * (rate - 60) - (found["qrs_ms"] - 90)
    elevation = {"anterior": anterior, "lateral": lateral, "none": 0.0}[territory]
    measured = rhythm, rate, pr_ms, found["qrs_ms"], qtc_ms, territory, elevation, found["sokolow_mv"], 40.0, "none"
    return Findings(0, *measured)


class Model:
    """
    Answers a question about ECGs.

    Args:
        name: one of `MODELS`.
        training: `question` and `answer` of other patients.
        truth: true findings by the bytes of an ECG, for the oracle.
    """

    def __init__(self, name: str, training: pd.DataFrame, truth: dict[bytes, Findings]):
        self.name, self._truth = name, truth
        texts = training["answer"].map(lambda items: ", ".join(sorted(items)))
        self._majority = texts.groupby(training["question"]).agg(
            lambda those: those.value_counts().sort_index().idxmax()
        )
        items = training.explode("answer").groupby("question")["answer"].unique()
        self._everything = {
            question: ", ".join(sorted(set(those) - {"no", "none"})) for question, those in items.items()
        }

    def answer(self, question: str, ecg: np.ndarray | None, sampling_rate: float = RATE) -> tuple[str, float]:
        """Its answer, and its probability for the model itself."""
        if self.name == "everything":
            return self._everything.get(question, "yes"), SURE
        findings = None
        if ecg is not None and self.name == "oracle":
            findings = self._truth.get(ecg.tobytes())
        if ecg is not None and self.name == "chest leads" and ecg[6:].any():
            findings = read_chest_leads(np.ascontiguousarray(ecg[6:], np.float32).tobytes(), sampling_rate)
        if findings is not None and question in (answers := all_answers(findings)):
            return answers[question], SURE
        return self._majority.get(question, "no"), 0.5

    def log_likelihoods(self, conversations: list[list[dict]]) -> np.ndarray:
        """Of the last message of conversations, as `elm_hf.inference.generation.log_likelihoods`."""
        found = []
        for messages in conversations:
            said, sure = self.answer(*asked_in(messages))
            found.append(np.log(sure if said == last_text(messages, "assistant") else 1 - sure))
        return np.array(found)


def asked_in(messages: list[dict]) -> tuple[str, np.ndarray | None, float]:
    """The question of a conversation, its ECG and the sampling rate."""
    ecgs = [item for message in messages for item in message["content"] if item["type"] == "ecg"]
    ecg, rate = (ecgs[0]["ecg"], ecgs[0]["sampling_rate"]) if ecgs else (None, RATE)
    return last_text(messages, "user"), ecg, rate


class RuleAsker(Asker):
    """Asks a `Model` what the evaluation asks an ELM: the same prompts, with what stands in the place of the ECGs."""

    def __init__(self, *args):
        super().__init__(*args)
        self.confidences = {}

    def _prompts(self, model, processor, batch):
        read = {}
        return [self.conversation(prompt, read) for prompt in batch]

    def _answers(self, model, processor, batch, prompts):
        said = [model.answer(*asked_in(messages)) for messages in prompts]
        self.confidences |= {prompt.key: (sure, None, "template") for prompt, (_, sure) in zip(batch, said)}
        return [(prompt.key, Answer(text, len(text.split()), True)) for prompt, (text, _) in zip(batch, said)]


class AddEcgs:
    """Adds their ECGs to conversations."""

    def __init__(self, ecgs: list[np.ndarray]):
        self.ecgs = ecgs

    def __call__(self, batch: dict) -> dict:
        if "ecg_index" not in batch:
            return batch
        ecgs = [[self.ecgs[index] for index in those] for those in batch["ecg_index"]]
        return batch | {"ecgs": ecgs, "sampling_rate": [RATE] * len(ecgs)}


class World:
    """Simulated patients with questions, and training questions of other patients."""

    def __init__(self):
        rng = np.random.default_rng(5)
        training = [draw_patient(rng, 1)[0] for _ in range(NUM_TRAINING)]
        self.findings = [draw_patient(rng, 1)[0] for _ in range(NUM_PATIENTS)]
        self.ecgs = [
            simulate_ecg(one, np.random.default_rng([7, place]), SECONDS) for place, one in enumerate(self.findings)
        ]
        self.persons = [(int(rng.integers(20, 90)), ("male", "female")[rng.integers(2)]) for _ in self.findings]
        self.truth = {ecg.tobytes(): one for ecg, one in zip(self.ecgs, self.findings)}
        self.training = pd.DataFrame([row for one in training for row in self._questions(one)])
        self.training["age"] = rng.integers(20, 90, len(self.training))
        self.training["sex"] = rng.choice(["male", "female"], len(self.training))
        chosen = select_questions([single_questions(one) for one in self.findings], rng, 10)
        rows = [
            self._conversation(place, number, row)
            for place, (one, questions) in enumerate(zip(self.findings, chosen))
            for number, row in enumerate([*(question.row() for question in questions), self._report(one)])
        ]
        self.rows = Dataset.from_list(rows).with_transform(AddEcgs(self.ecgs))
        self.questions = list_questions(self.rows, ["simulated"] * NUM_PATIENTS)
        self.record_of = dict(
            zip(self.questions["question_id"], self.questions["record_ids"].map(lambda n: int(n[0])))
        )

    def _questions(self, findings: Findings) -> list[dict]:
        return [*(one.row() for one in single_questions(findings)), self._report(findings)]

    @staticmethod
    def _report(findings: Findings) -> dict:
        row = {"question_type": "report", "attribute_type": "any", "template_id": 99, "question": REPORT}
        return row | {"answer": list(findings.labels)}

    @staticmethod
    def _conversation(place: int, number: int, row: dict) -> dict:
        names = {"conversation_id": f"{place}-{number}", "ecg_index": [place], "record_ids": [str(place)]}
        messages = ecg_messages(1, row["question"], ", ".join(row["answer"]))
        return names | {"patient_ids": [str(place)], "messages": messages} | row

    def ask(self, model: Model, folder: Path) -> pd.DataFrame:
        """The predictions of a model under all conditions."""
        ablation = SignalAblation(self.rows, CONDITIONS, 0, self.questions, self.persons)
        asker = RuleAsker(self.rows, self.questions, ablation, CONDITIONS, 32, 16)
        answers = asker.ask_all(
            model, None, ReportFolder(folder, {"questions": model.name}), PartialState(cpu=True), True
        )
        confidences = {key: asker.confidences[asked] for key, asked in asker.same_as.items()}
        return prediction_table(self.questions, answers, CONDITIONS, confidences)

    def report(self, model: Model, predictions: pd.DataFrame) -> dict:
        run = {"checkpoint": model.name, "dataset": "simulated", "fold": "1", "split": "test", "weights": model.name}
        found = build_report(
            Questions(predictions),
            run,
            # Age and sex alone are the same control for all four.
            self.training if model.name == "oracle" else self.training.drop(columns=["age", "sex"]),
            0,
            ecgs_of=lambda name: ([self.ecgs[self.record_of[name]]], RATE),
            persons_of=lambda name: [self.persons[self.record_of[name]]],
        )
        return found | {"probe": self.probe(model)}

    def probe(self, model: Model) -> dict:
        """The part of the probe about hypertrophy, which is in the chest leads, and about the axis, which is in the limb leads."""
        questions = {name: ones[:1] for name, ones in simulated_questions().items()}
        questions |= {name: () for name in FINDINGS if name not in (HYPERTROPHY, LEFT_AXIS)}
        truth = {}
        if model.name == "oracle":
            for trial in plan(draw_hearts(6, 0, ALL_CHANGES), SECONDS):
                if questions[trial.finding]:
                    truth[trial.ecg().tobytes(), questions[trial.finding][0].text] = trial.truth

        def ask(asked):
            found = []
            for ecg, sampling_rate, question in asked:
                said = model.answer(question.text, ecg, sampling_rate)[0]
                if (ecg.tobytes(), question.text) in truth:
                    said = "yes" if truth[ecg.tobytes(), question.text] else "no"
                found.append(np.log([SURE if one == said else 1 - SURE for one in question.answers]))
            return found

        return probe_results(ask_probe(ask, questions, SECONDS, 6, quiet=True), questions, {"checkpoint": model.name})


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module", autouse=True)
def measured_once():
    """Each ECG is measured once for the claims of all four."""
    measured = cache(lambda ecg, rate: measure_for_claims(np.frombuffer(ecg, np.float32).reshape(12, -1), rate))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(claims, "measure_for_claims", lambda ecg, rate: measured(ecg.tobytes(), rate))
        yield


@pytest.fixture(scope="module")
def reports(world, tmp_path_factory) -> dict[str, tuple[Path, Model, dict]]:
    """Folder, model and report of each of the four."""
    found = {}
    for name in MODELS:
        model, folder = Model(name, world.training, world.truth), tmp_path_factory.mktemp(name.replace(" ", "_"))
        predictions = world.ask(model, folder)
        predictions.to_parquet(folder / "predictions.parquet")
        report = world.report(model, predictions)
        (folder / "report.json").write_text(json.dumps(report, allow_nan=False))
        found[name] = folder, model, report
    return found


def accuracy(report: dict, condition: str = "ecg", group: str = "all") -> float:
    return report["scores"][group]["conditions"][condition]["exact_match"]["score"]


def test_scores_and_signal_reliance_tell_the_four_apart(reports):
    of = {name: report for name, (_, _, report) in reports.items()}
    assert accuracy(of["oracle"]) == 1
    assert accuracy(of["majority"]) == accuracy(of["majority"], "blind")
    assert 1 > accuracy(of["chest leads"]) > accuracy(of["majority"]) > accuracy(of["everything"])
    reliance = {name: report["signal_reliance"]["short"] for name, report in of.items()}
    assert {name: one["reads_ecg"] for name, one in reliance.items()} == {
        "oracle": True,
        "chest leads": True,
        "everything": False,
        "majority": False,
    }
    assert reliance["everything"]["score"] == reliance["majority"]["score"] == 0
    assert reliance["oracle"]["low"] > reliance["chest leads"]["high"]
    # Age and sex are drawn at random, so that they tell nothing beyond the question.
    control = of["oracle"]["demographics"]["short"]
    assert control["age_and_sex"] < control["with_ecg"] == 1 and control["low"] > 0.3


def test_the_leads_that_show_a_finding_tell_the_four_apart(reports, monkeypatch):
    follows = {}
    for name, (_, _, report) in reports.items():
        found = {entry["finding"]: entry for entry in report["probe"]["exchange"]}
        follows[name] = [found[one]["follows_its_leads"]["share"] for one in (HYPERTROPHY, LEFT_AXIS)]
    assert follows == {"oracle": [1, 1], "chest leads": [1, 0], "everything": [0, 0], "majority": [0, 0]}
    limits = {
        name: {curve["finding"] for curve in report["probe"]["curves"] if curve["verdict"] == "limit"}
        for name, (_, _, report) in reports.items()
    }
    assert limits["oracle"] == {HYPERTROPHY, LEFT_AXIS} and limits["chest leads"] == {HYPERTROPHY}
    assert limits["everything"] == limits["majority"] == set()
    # Occlusion: no answer changes if a limb lead is hidden, some do if a chest lead is.
    _, model, _ = reports["chest leads"]
    monkeypatch.setattr(occlusion, "log_likelihoods", lambda model, processor, asked: model.log_likelihoods(asked))
    heart = draw_hearts(1, 0, ALL_CHANGES)[0].with_findings(sokolow_mv=4.7)
    question = next(one.text for one in simulated_questions()[HYPERTROPHY])
    messages = ecg_messages(1, question, "")[:1]
    effects = occlusion.occlude(model, None, messages, simulate_heart(heart, SECONDS), RATE, "yes", window_s=2.5)
    assert (effects["lead_effect"][:6] == 0).all() and effects["lead_effect"][6:].max() > 1


def test_claims_tell_the_four_apart(reports):
    of = {name: report["claims"]["conditions"]["ecg"] for name, (_, _, report) in reports.items()}
    precision = {name: found["precision"]["score"] for name, found in of.items()}
    assert precision["oracle"] > 0.85 > 0.5 > precision["everything"]
    assert precision["oracle"] >= precision["chest leads"] > precision["everything"]
    recall = {name: found["recall"]["score"] for name, found in of.items()}
    assert recall["everything"] >= max(recall.values()) and recall["chest leads"] > recall["majority"]
    assert of["everything"]["false_per_answer"]["low"] > of["oracle"]["false_per_answer"]["high"]


def test_calibration_tells_the_four_apart(reports):
    of = {name: report["calibration"]["conditions"] for name, (_, _, report) in reports.items()}
    error = {name: found["ecg"]["ece"]["score"] for name, found in of.items()}
    assert error["oracle"] < 0.03 < error["chest leads"] < error["everything"] and error["everything"] > 0.7
    # The oracle and the model of the chest leads are less sure without the ECG; the others are as sure as with it.
    change = {name: found["none"]["change"]["score"] for name, found in of.items()}
    assert change["oracle"] == pytest.approx(0.48) and change["everything"] == change["majority"] == 0
    assert of["chest leads"]["none"]["change"]["low"] > 0.2


def test_a_second_run_is_bit_identical(reports, world, tmp_path):
    model = Model("chest leads", world.training, world.truth)
    second = world.report(model, world.ask(model, tmp_path))
    assert json.dumps(second) == json.dumps(reports["chest leads"][2])


def test_the_leaderboard_puts_the_four_in_order(reports, tmp_path):
    folders = [str(folder) for folder, _, _ in reports.values()]
    run = CliRunner().invoke(app, ["leaderboard", *folders, "--output", str(tmp_path)])
    assert run.exit_code == 0, run.output
    found = json.loads((tmp_path / "leaderboard.json").read_text())
    group = found["groups"]["all, exact match"]
    scores = [entry["score"] for entry in group["scores"]]
    assert scores == pytest.approx([accuracy(report) for _, _, report in reports.values()])
    assert group["best"] == 0 and all(entry["p_value_holm"] < 0.05 for entry in group["pairs"][:3])
    assert [model["limits"]["learned"] for model in found["models"]] == [2, 1, 0, 0]
    text = (tmp_path / "leaderboard.md").read_text()
    assert "| oracle | **1.000 [" in text and "blind majority" in text
    assert text == run.output.split("\nPage in ")[0]
    page = (tmp_path / "leaderboard.html").read_text()
    assert '<td class="best">1.000<small>' in page and "http" not in page and "<script" not in page


def test_a_score_that_all_answers_share_has_an_interval():
    """The variance of equal scores is not exactly 0 but what rounding leaves of it; each patient then counts as one answer."""
    support = Support(24, 200)
    low, high = korn_graubard_interval(0.0004, 1e-38, support)
    assert (low, high) == korn_graubard_interval(0.0004, 0.0, support) and 0 <= low < 0.0004 < high < 0.2


def test_two_models_that_answer_alike_have_no_best_one(reports, tmp_path):
    folder, _, report = reports["oracle"]
    (tmp_path / "report.json").write_text(json.dumps(report | {"run": report["run"] | {"checkpoint": "the same"}}))
    predictions = pd.read_parquet(folder / "predictions.parquet")
    # The other one was asked fewer questions: those that both were asked count.
    predictions[predictions["turn"].eq(0) & ~predictions["question_id"].str.startswith("3-")].to_parquet(
        tmp_path / "predictions.parquet"
    )
    found = leaderboard([folder, tmp_path])
    assert {group["best"] for group in found["groups"].values()} == {None}
    own = sum(predictions["condition"].eq("ecg"))
    left_out = sum(predictions["condition"].eq("ecg") & predictions["question_id"].str.startswith("3-"))
    assert found["questions"] == own - left_out and f"oracle: {left_out} questions" in found["notes"][-1]
    assert found["models"][0]["reliance"]["short"]["reads_ecg"] is True


def test_evaluations_of_other_questions_are_refused(reports, tmp_path):
    folder, _, report = reports["oracle"]
    (tmp_path / "report.json").write_text(json.dumps(report))
    predictions = pd.read_parquet(folder / "predictions.parquet")
    predictions.assign(question_id="other " + predictions["question_id"]).to_parquet(tmp_path / "predictions.parquet")
    with pytest.raises(ValueError, match="no question in common"):
        leaderboard([folder, tmp_path])
    predictions.assign(question="What else?").to_parquet(tmp_path / "predictions.parquet")
    with pytest.raises(ValueError, match="the words of"):
        leaderboard([folder, tmp_path])
