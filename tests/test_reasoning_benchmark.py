"""ECG-Reasoning-Benchmark: files of the documented layout are built and scored, with the true and with the own history."""

import copy
import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from accelerate import PartialState
from conftest import TINY_LLM
from datasets import load_dataset
from typer.testing import CliRunner

from elm_hf.checkpoints.create import create_elm
from elm_hf.checkpoints.load import load_checkpoint
from elm_hf.cli import app
from elm_hf.data.loading import load_elm_dataset
from elm_hf.data.messages import message_text
from elm_hf.data.reasoning_steps import STEP_TYPES
from elm_hf.data.tables import load_patients, load_records
from elm_hf.evaluation.ablation import SignalAblation
from elm_hf.evaluation.asker import Asker
from elm_hf.evaluation.own_history import ask_with_own_history
from elm_hf.evaluation.questions import list_questions
from elm_hf.evaluation.report_folder import ReportFolder
from elm_hf.inference.generation import Answer
from elm_hf.interpretations.reasoning_options import chosen_options
from elm_hf.interpretations.reasoning_scores import Sample, list_samples, loop_depth, reasoning_report
from elm_hf.prepare.dataset import prepare_dataset
from elm_hf.prepare.instruct import EntryError
from elm_hf.prepare.reasoning_samples import sample_conversation
from elm_hf.scoring.predictions import prediction_table


YES_NO = ["Yes", "No"]
DECISIONS = ["Yes", "No", "Further findings are required to confirm the diagnosis"]
LEADS = ["Lead II", "Lead V2", "Lead V3", "Lead V4", "Lead V6"]
WAVES = ["[0.46s - 0.71s]", "[2.97s - 3.21s]", "[3.76s - 4.03s]", "[5.85s - 5.96s]", "[6.05s - 6.23s]"]
RANGES = ["[230ms - 240ms]", "[250ms - 260ms]", "[270ms - 280ms]", "[290ms - 300ms]", "[310ms - 320ms]"]
CRITERIA = ["Long PR interval", "Presence of ST depression", "Broad QRS", "Absent P waves", "Delta wave"]


def question(kind: str, options: list[str], *right: int, words: str = "") -> dict:
    """A question as in the files."""
    is_grounding = kind.endswith("_grounding")
    answer = [options[number] for number in right]
    return {
        "question": f"Which is right, {words or kind}?",
        "options": options,
        "answer": answer if is_grounding else answer[0],
        "answer_idx": list(right) if is_grounding else right[0],
        "question_type": kind,
    }


def loop(criterion: int, finding: int, groundings: list[dict], decision: int) -> dict:
    return {
        "criterion_selection": question("criterion_selection", CRITERIA, criterion),
        "finding_identification": question("finding_identification", YES_NO, finding),
        "ecg_grounding": groundings,
        "diagnostic_decision": question("diagnostic_decision", DECISIONS, decision),
    }


def sample(number: int, ecg_id: str, diagnosis: str, is_present: bool, loops: list[dict], source="ptbxl") -> dict:
    initial = question("initial_diagnostic_question", YES_NO, 0 if is_present else 1, words=diagnosis)
    del initial["answer_idx"]
    metadata = {"id": number, "data_source": source, "ecg_id": ecg_id, "target_dx": diagnosis, "dx_label": is_present}
    metadata |= {"path_idx": 0} | ({"subject_id": "10990001"} if source == "mimic_iv_ecg" else {})
    return {"metadata": metadata, "data": {"initial_diagnostic_question": initial, "reasoning": loops}}


def present(number: int, ecg_id: str, **names) -> dict:
    """Nine questions: the second criterion has leads and a wave."""
    groundings = [question("lead_grounding", LEADS, 1, 2, 3), question("wave_grounding", WAVES, 3)]
    loops = [loop(1, 0, [], 2), loop(0, 0, groundings, 0)]
    return sample(number, ecg_id, "anterior_ischemia", True, loops, **names)


def absent(number: int, ecg_id: str, **names) -> dict:
    """Five questions, with a measurement."""
    loops = [loop(0, 0, [question("measurement_grounding", RANGES, 0)], 1)]
    return sample(number, ecg_id, "third_degree_av_block", False, loops, **names)


def write(folder: Path, name: str, *samples: dict) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("".join(json.dumps(one) + "\n" for one in samples))
    return folder


@pytest.fixture(scope="module")
def records(shared_data, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("records")
    for name in ("ptb_xl", "mimic_iv_ecg"):
        prepare_dataset(name, folder / name, shared_data / name, max_skipped=0.5, num_folds=2)
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture(scope="module")
def built(records, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("benchmark")
    ids = sorted(set(load_records(records["ptb_xl"])["recording_id"]))
    samples = [make(number, ecg_id) for number, (ecg_id, make) in enumerate(zip(ids, [present, absent] * 4))]
    samples.append(absent(len(ids), ids[0]))
    write(folder / "source" / "data", "ptbxl.jsonl", *samples)
    mimic = load_records(records["mimic_iv_ecg"])["recording_id"][0]
    write(folder / "source" / "data", "mimic_iv_ecg.jsonl", present(0, mimic, source="mimic_iv_ecg"))
    prepare_dataset(
        "ecg_reasoning_benchmark", folder / "built", folder / "source", [records["ptb_xl"], records["mimic_iv_ecg"]]
    )
    return folder / "built"


# the dataset


def test_a_sample_becomes_a_conversation_with_a_turn_for_each_step(built):
    row = load_dataset(str(built), "official", split="test")[0]
    assert row["conversation_id"].startswith("ecg_reasoning_benchmark-ptbxl-0")
    texts = [message_text(message) for message in row["messages"]]
    assert [one["type"] for one in row["messages"][0]["content"]] == ["ecg", "text"]
    assert texts[0] == (
        "Which is right, anterior_ischemia?\n\nOptions:\n- Yes\n- No\n\nAnswer with one of these options, word for word."
    )
    assert texts[1::2] == [
        "Yes", "Presence of ST depression", "Yes", DECISIONS[2], "Long PR interval", "Yes",
        "Lead V2, Lead V3, Lead V4", "[5.85s - 5.96s]", "Yes",
    ]  # fmt: skip
    assert "Answer with all of these options that are true, separated by commas." in texts[12]
    loops = [(step["type"], step["loop"]) for step in row["steps"]]
    assert loops[0] == ("initial_diagnostic_question", -1) and loops[3] == ("diagnostic_decision", 0)
    assert loops[6:8] == [("lead_grounding", 1), ("wave_grounding", 1)]
    assert row["steps"][6]["options"] == LEADS and row["steps"][6]["answer"] == LEADS[1:4]
    assert (row["target_dx"], row["dx_label"]) == ("anterior_ischemia", True)


def test_the_benchmark_is_for_testing_in_the_folds_of_the_records(built, records):
    assert len(load_dataset(str(built), "official", split="test")) == 7 + 1 + 1
    fold_of = {
        (row["source"], row["patient_id"]): row["test_fold"]
        for name in records
        for row in load_patients(records[name]).to_pylist()
    }
    tested = 0
    for fold in (1, 2):
        splits = load_dataset(str(built), f"fold{fold}")
        assert list(splits) == ["test"]
        for row in splits["test"]:
            source = "ptb_xl" if "-ptbxl-" in row["conversation_id"] else "mimic_iv_ecg"
            assert {fold_of[source, name] for name in row["patient_ids"]} == {fold}
            tested += 1
    assert tested == len(load_dataset(str(built), "official", split="test"))
    report = json.loads((built / "build_report.json").read_text())
    assert report["splits"]["fold1"]["train"] == report["splits"]["fold1"]["validation"] == 0


def test_the_card_names_licences_files_and_void_results(built):
    card = (built / "README.md").read_text()
    for words in ("LAFB, LPFB, LVH, 3AVB, PAC, PVC from files before release 0.0.2 are void", "Open Database License"):
        assert words in card
    assert "For testing only" in card and 'split="test"' in card and 'split="train")[0]' not in card
    assert "`mimic_iv_ecg.jsonl`: 1 samples, SHA-256 `" in card
    assert "odbl" in card.split("---")[1] and "cc-by-4.0" in card.split("---")[1]


def damaged(change) -> dict:
    one = copy.deepcopy(present(7, "6000"))
    change(one)
    return one


def earlier_keys(one: dict) -> None:
    names = {"finding_identification": "finding", "ecg_grounding": "grounding", "diagnostic_decision": "decision"}
    one["data"]["reasoning"] = [{names.get(key, key): step for key, step in one["data"]["reasoning"][0].items()}]


def loop_of(one: dict, number: int = 1) -> dict:
    return one["data"]["reasoning"][number]


@pytest.mark.parametrize(
    "change, message",
    [
        (earlier_keys, "has the keys decision, finding, grounding of an earlier layout; download the files of release 0.0.2"),
        (lambda one: one.pop("metadata"), "metadata is None, expected an object"),
        (lambda one: one["metadata"].update(id="7"), "metadata.id is '7', expected a whole number"),
        (lambda one: one["metadata"].update(data_source="mimic_iv_ecg"), "data_source is 'mimic_iv_ecg', expected 'ptbxl'"),
        (lambda one: one["metadata"].update(ecg_id="a6000"), "metadata.ecg_id is 'a6000', expected the number"),
        (lambda one: one["metadata"].update(dx_label=False), "is 'Yes', expected 'No', as dx_label says"),
        (lambda one: one["data"].update(reasoning=[]), "data.reasoning is [], expected a list of steps"),
        (lambda one: loop_of(one).pop("ecg_grounding"), "data.reasoning[1] is ["),
        (lambda one: loop_of(one)["ecg_grounding"][1].update(answer=WAVES[3]), "[1].answer is '[5.85s - 5.96s]', expected a list"),
        (lambda one: loop_of(one)["ecg_grounding"][1].update(answer=WAVES[:2], answer_idx=[0, 1]), "expected one option"),
        (lambda one: loop_of(one)["ecg_grounding"][0].update(question_type="beat_grounding"), "'beat_grounding', expected lead_"),
        (lambda one: loop_of(one)["criterion_selection"].update(answer="None"), "criterion_selection.answer is ['None'], expected"),
        (lambda one: loop_of(one)["criterion_selection"].update(answer_idx=3), "answer_idx is [3], expected [0], the place of"),
        (lambda one: loop_of(one)["diagnostic_decision"].update(options=["Yes", "yes"]), "options is ['Yes', 'yes'], expected"),
        (lambda one: loop_of(one)["finding_identification"].update(question=" "), "finding_identification.question is ' '"),
    ],
)  # fmt: skip
def test_another_layout_is_named(change, message):
    with pytest.raises(EntryError) as error:
        sample_conversation(damaged(change), "ptbxl")
    assert message in str(error.value)


def test_the_file_and_the_entry_are_named(records, tmp_path):
    source = write(tmp_path / "source", "ptbxl.jsonl", damaged(earlier_keys))
    with pytest.raises(ValueError, match=r"no conversations in .*ptbxl\.jsonl: entry 1: .*of an earlier layout"):
        prepare_dataset("ecg_reasoning_benchmark", tmp_path / "built", source, records["ptb_xl"])


def test_a_damaged_sample_and_a_repeated_id_are_left_out(records, tmp_path):
    samples = present(0, "6000"), damaged(lambda one: one["data"].clear()), absent(0, "6001"), absent(1, "21472")
    samples = [*samples, absent(2, "6002")]
    source = write(tmp_path / "source", "ptbxl.jsonl", *samples)
    report = prepare_dataset("ecg_reasoning_benchmark", tmp_path / "built", source, records["ptb_xl"])
    assert report["conversations"] == {
        "built": 2,
        "left_out": {"ECG not among the records": 1, "damaged entry": 1, "repeated": 1},
    }


def test_what_cannot_be_built_is_named(simulated_dataset, records, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="contains none of ptbxl.jsonl, mimic_iv_ecg.jsonl"):
        prepare_dataset("ecg_reasoning_benchmark", tmp_path / "built", tmp_path / "empty", records["ptb_xl"])
    source = write(tmp_path / "source", "ptbxl.jsonl", present(0, "6000"))
    with pytest.raises(ValueError, match=r"records of 2 s; .* within 10 s\. Build the records with seconds 10"):
        prepare_dataset("ecg_reasoning_benchmark", tmp_path / "built", source, simulated_dataset)


# options


@pytest.mark.parametrize(
    "answer, options, chosen",
    [
        ("Yes", YES_NO, "Yes"),
        ("**No.**", YES_NO, "No"),
        ("Yes, there is ST depression", YES_NO, "Yes"),
        ("The answer is no", YES_NO, "No"),
        ("Normal ECG", YES_NO, None),  # begins with the letters of "no"
        ("", YES_NO, None),
        ("further findings are required to confirm the diagnosis.", DECISIONS, DECISIONS[2]),
        ("ST depression", CRITERIA, CRITERIA[1]),
        ("- presence of ST depression", CRITERIA, CRITERIA[1]),
        ("The correct criterion is the presence of ST depression.", CRITERIA, CRITERIA[1]),
        ("The correct answer is: Broad QRS", CRITERIA, CRITERIA[2]),
        ("progressively long PR interval", CRITERIA, None),  # another finding
        ("The criterion is progressively long PR interval", CRITERIA, None),
        ("5.85s-5.96s", WAVES, WAVES[3]),
        ("[5.85s - 5.96s]", WAVES, WAVES[3]),
        ("5.8s - 5.96s", WAVES, None),
        ("The PR interval is [250 ms - 260 ms]", RANGES, RANGES[1]),
    ],
)
def test_the_option_that_an_answer_chooses(answer, options, chosen):
    assert chosen_options(answer, tuple(options)) == (None if chosen is None else {chosen})


@pytest.mark.parametrize(
    "answer, chosen",
    [
        ("Lead V2, Lead V3, Lead V4", {"Lead V2", "Lead V3", "Lead V4"}),
        ("V4, v2 and V3", {"Lead V2", "Lead V3", "Lead V4"}),
        ("- Lead II\n- Lead V6", {"Lead II", "Lead V6"}),
        ("There is ST depression in leads V2, V3, and V4.", {"Lead V2", "Lead V3", "Lead V4"}),
        ("V2, V5", {"Lead V2", "v5"}),  # V5 is not among the options
        ("I see nothing", None),
    ],
)
def test_the_leads_that_an_answer_names(answer, chosen):
    assert chosen_options(answer, tuple(LEADS), several=True) == chosen


# figures, worked out by hand


def steps_of(one: dict) -> tuple[dict, ...]:
    """The steps as in the column of the dataset."""
    steps = [one["data"]["initial_diagnostic_question"] | {"loop": -1}]
    for number, each in enumerate(one["data"]["reasoning"]):
        order = [each["criterion_selection"], each["finding_identification"], *each["ecg_grounding"]]
        steps += [step | {"loop": number} for step in (*order, each["diagnostic_decision"])]
    return tuple(
        {"type": step["question_type"], "loop": step["loop"], "options": step["options"]}
        | {"answer": step["answer"] if isinstance(step["answer"], list) else [step["answer"]]}
        for step in steps
    )


def as_sample(one: dict, name: str, patient: str) -> Sample:
    return Sample(name, one["metadata"]["target_dx"], one["metadata"]["dx_label"], (patient,), steps_of(one))


TWO = [as_sample(present(0, "1"), "a", "p1"), as_sample(absent(1, "2"), "b", "p2")]


def perfect(turn: int, step: dict) -> str:
    return ", ".join(step["answer"])


def first_option(turn: int, step: dict) -> str:
    return step["options"][0]


def half_right(turn: int, step: dict) -> str:
    return perfect(turn, step) if turn % 2 else "I cannot tell"


def predictions(samples: list[Sample], **answerers) -> pd.DataFrame:
    """The table of predictions of an answerer for each condition."""
    rows = [
        {"question_id": f"{one.name}#{turn}", "condition": condition, "prediction": answerer(turn, step)}
        for condition, answerer in answerers.items()
        for one in samples
        for turn, step in enumerate(one.steps)
    ]
    return pd.DataFrame(rows)


def figures(samples: list[Sample], answerer) -> dict[str, float]:
    table = predictions(samples, ecg=answerer)
    found = reasoning_report(samples, {"ground_truth": table, "own": table})["histories"]["ground_truth"]["ecg"]
    return {name: entry["score"] for name, entry in found.items()}


def test_a_perfect_answerer():
    assert figures(TWO, perfect) == {
        "initial_accuracy": 1, "completion": 1, "depth": 4, "diagnosis_accuracy": 1, "no_option": 0
    } | dict.fromkeys(STEP_TYPES[1:], 1)  # fmt: skip


def test_an_answerer_of_the_first_option():
    """Present: yes | wrong yes wrong | right yes wrong wrong yes. Absent: wrong | right yes right wrong."""
    assert figures(TWO, first_option) == pytest.approx(
        {
            "initial_accuracy": 1 / 2,
            "completion": 0,
            "depth": (2 + 3) / 2,  # of the loops with grounding: criterion and finding; these and the measurement
            "diagnosis_accuracy": 1 / 2,
            "criterion_selection": 2 / 3,
            "finding_identification": 1,
            "lead_grounding": 0,
            "wave_grounding": 0,
            "measurement_grounding": 1,
            "diagnostic_decision": 1 / 3,
            "no_option": 0,
        }
    )


def test_an_answerer_that_is_right_every_other_time():
    assert figures(TWO, half_right) == pytest.approx(
        {
            "initial_accuracy": 0,
            "completion": 0,
            "depth": (0 + 1) / 2,
            "diagnosis_accuracy": 0,
            "criterion_selection": 2 / 3,
            "finding_identification": 1 / 3,
            "lead_grounding": 0,
            "wave_grounding": 1,
            "measurement_grounding": 1,
            "diagnostic_decision": 1 / 3,
            "no_option": 8 / 14,
        }
    )


def test_a_wrong_initial_diagnosis_does_not_end_the_reasoning():
    def wrong_at_first(turn: int, step: dict) -> str:
        return perfect(turn, step) if turn else {"Yes": "No", "No": "Yes"}[step["answer"][0]]

    found = figures(TWO, wrong_at_first)
    assert (found["initial_accuracy"], found["completion"], found["depth"]) == (0, 1, 4)


def test_grounding_questions_of_a_loop_share_one_level_of_depth():
    kinds = [
        "criterion_selection",
        "finding_identification",
        "lead_grounding",
        "wave_grounding",
        "diagnostic_decision",
    ]
    assert loop_depth(kinds, [True, True, True, False, True]) == 2.5
    assert loop_depth(kinds, [True, True, False, True, True]) == 2
    assert loop_depth(kinds, [False, True, True, True, True]) == 0


def test_what_options_at_random_get():
    table = predictions(TWO, ecg=perfect)
    chance = reasoning_report(TWO, {"ground_truth": table, "own": table})["chance"]
    # one of 31 sets of five leads
    both = 1 / 5 / 2 / 3 * (1 / 5 / 2 / 31 / 5 / 3) + 1 / 5 / 2 / 5 / 3
    assert chance["completion"] == pytest.approx(both / 2)
    depths = 1 / 5 + 1 / 10 + 1 / 310 / 2 + 1 / 1550 / 2 + 1 / 4650, 1 / 5 + 1 / 10 + 1 / 50 + 1 / 150
    assert chance["depth"] == pytest.approx(sum(depths) / 2)
    assert chance["lead_grounding"] == pytest.approx(1 / 31) and chance["diagnosis_accuracy"] == pytest.approx(1 / 3)


def test_groups_intervals_and_reliance_are_over_patients():
    samples = [as_sample(make(0, "1"), f"{number}", f"p{number // 2}") for number in range(8) for make in [present]]
    samples += [as_sample(absent(0, "1"), f"{number}", f"p{number}") for number in range(8, 12)]
    true = predictions(samples, ecg=perfect, zeros=first_option, none=half_right)
    own = predictions(samples, ecg=first_option, zeros=first_option, none=half_right)
    found = reasoning_report(samples, {"ground_truth": true, "own": own})
    assert (found["samples"], found["patients"], found["present"], found["steps"]) == (12, 8, 8, 8 * 9 + 4 * 5)
    assert found["diagnoses"]["third_degree_av_block"]["void_before"] == "0.0.2"
    assert found["diagnoses"]["anterior_ischemia"]["void_before"] is None
    group = found["labels"]["present"]
    assert (group["samples"], group["patients"]) == (8, 4)
    assert group["histories"]["own"]["ecg"]["initial_accuracy"]["score"] == 1
    assert found["labels"]["absent"]["histories"]["own"]["ecg"]["initial_accuracy"]["score"] == 0
    completion = found["histories"]["ground_truth"]["ecg"]["completion"]
    # all right: the exact interval of as many answers as there are patients, 0.025 ** (1 / 8)
    assert completion["low"] == pytest.approx(0.025 ** (1 / 8)) and completion["high"] == 1
    reliance = found["reliance"]["ground_truth"]["completion"]
    assert reliance["score"] == 1 and reliance["reads_ecg"] and reliance["p_value"] < 0.05
    assert found["reliance"]["own"]["completion"]["reads_ecg"] is False
    depth = found["reliance"]["ground_truth"]["depth"]
    assert depth["score"] == pytest.approx(4 - (8 * 2 + 4 * 3) / 12) and depth["best_control"] == "zeros"


# asking


@pytest.fixture
def asked(built):
    """Rows, questions, ablation and conditions of the benchmark."""
    rows = load_elm_dataset(built, fold="official", split="test")
    sources = load_records(built)["source"]
    questions = list_questions(rows, sources)
    ablation = SignalAblation(rows, ("ecg", "shuffled", "none"), 0, questions)
    ablation.share_donors(questions)
    return rows, questions, ablation, ("ecg", "shuffled", "none")


class Scripted:
    """Answers in the place of a model, and what it was asked."""

    def __init__(self, monkeypatch, rows, answerer):
        self.steps = {
            f"{row['conversation_id']}#{turn}": (turn, step)
            for row in rows.with_format(None).select_columns(["conversation_id", "steps"])
            for turn, step in enumerate(row["steps"])
        }
        self.asked, self.answerer, self.most = [], answerer, None
        monkeypatch.setattr(Asker, "_prompts", lambda asker, m, p, batch: [asker.conversation(o, {}) for o in batch])
        monkeypatch.setattr(Asker, "_answers", self._answers)

    def _answers(self, model, processor, batch, conversations):
        if self.most is not None and len(self.asked) >= self.most:
            raise KeyboardInterrupt
        self.asked += zip((one.key for one in batch), conversations)
        return [(one.key, Answer(self.answerer(*self.steps[one.key[0]]), 1, True)) for one in batch]


def ask(asked, folder: Path, script: Scripted) -> tuple[pd.DataFrame, pd.DataFrame, int]:
    """The tables of both histories, and how many prompts the first one took."""
    rows, questions, ablation, conditions = asked
    settings = {"max_new_tokens": 8, "batch_size": 4}
    state = PartialState(cpu=True)
    asker = Asker(rows, questions, ablation, conditions, **settings)
    answers = asker.ask_all(None, None, ReportFolder(folder, {"questions": ""}), state, quiet=True)
    true = prediction_table(questions, answers, conditions)
    number = len(script.asked)
    own = ask_with_own_history(
        rows, questions, ablation, conditions, answers, None, None, folder, {"questions": ""}, state, True, **settings
    )
    return true, own, number


def test_one_who_is_never_wrong_is_asked_once(asked, monkeypatch, tmp_path):
    script = Scripted(monkeypatch, asked[0], perfect)
    # under `none` prompts of several samples are equal, and the answer that is true of one is not of the others
    conditions = ("ecg", "shuffled")
    true, own, number = ask((*asked[:3], conditions), tmp_path, script)
    assert len(script.asked) == number
    pd.testing.assert_frame_equal(true, own)
    report = reasoning_report(list_samples(asked[0], asked[1]), {"ground_truth": true, "own": own})
    for history in report["histories"].values():
        assert history["ecg"]["completion"]["score"] == 1 and history["ecg"]["depth"]["score"] == 4


def test_the_own_answers_are_the_history(asked, monkeypatch, tmp_path):
    rows, questions, _, _ = asked
    script = Scripted(monkeypatch, rows, first_option)
    asked = (*asked[:3], ("ecg", "none"))
    true, own, number = ask(asked, tmp_path, script)
    first = rows["conversation_id"][0]
    for key, conversation in script.asked[number:]:
        said = [message_text(message) for message in conversation if message["role"] == "assistant"]
        turn = int(key[0].rsplit("#", 1)[1])
        of_it = [script.steps[f"{key[0].rsplit('#', 1)[0]}#{earlier}"][1] for earlier in range(turn)]
        assert said == [step["options"][0] for step in of_it]
        assert (conversation[0]["content"][0]["type"] == "ecg") == (key[1] != "none")
    behind_truth = dict(script.asked[:number])[f"{first}#5", "ecg"]
    assert message_text(behind_truth[3]) == "Presence of ST depression"  # wrong, and the true answer is in the history
    # the second question behind a right first answer is not asked again
    again = [key for key, _ in script.asked[number:]]
    assert (f"{first}#1", "ecg") not in again and (f"{first}#2", "ecg") in again
    report = reasoning_report(list_samples(rows, questions), {"ground_truth": true, "own": own})
    assert report["histories"]["own"]["ecg"]["depth"]["score"] == report["histories"]["own"]["none"]["depth"]["score"]


def test_an_interrupted_own_history_goes_on_where_it_stopped(asked, monkeypatch, tmp_path):
    asked = (*asked[:3], ("ecg", "none"))
    script = Scripted(monkeypatch, asked[0], first_option)
    _, own, number = ask(asked, tmp_path / "whole", script)
    total, script.asked = len(script.asked), []
    script.most = number + (total - number) // 2
    with pytest.raises(KeyboardInterrupt):
        ask(asked, tmp_path / "killed", script)
    before, script.most = len(script.asked), None
    _, same, _ = ask(asked, tmp_path / "killed", script)
    assert number < before < len(script.asked) == total
    pd.testing.assert_frame_equal(own, same)
    # and once more, when all is there
    _, again, _ = ask(asked, tmp_path / "killed", script)
    assert len(script.asked) == total
    pd.testing.assert_frame_equal(own, again)


def test_another_patients_ecg_stays_the_same_through_a_conversation(asked):
    _, questions, ablation, _ = asked
    donors = questions.apply(lambda one: ablation.names(one["row"], "shuffled", 1, one["question_id"]), axis=1)
    assert donors.groupby(questions["row"]).nunique().eq(1).all()
    own = questions.apply(lambda one: f"ecg {one['record_ids'][0]}", axis=1)
    assert (donors.map(lambda names: names[0]) != own).all()


@pytest.fixture(scope="module")
def model(records, tmp_path_factory) -> Path:
    """A tiny ELM that reads ECGs of 10 s and says words."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "elm.json").write_text(json.dumps({"text_config": TINY_LLM | {"max_position_embeddings": 8192}}))
    create_elm(
        folder / "elm",
        config=folder / "elm.json",
        tokenizer_dataset=str(records["ptb_xl"]),
        vocab_size=400,
        num_ecg_tokens=10,
    )
    elm, processor = load_checkpoint(folder / "elm", device="cpu")
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in elm.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.5)
    elm.generation_config.suppress_tokens = processor.tokenizer.all_special_ids
    elm.save_pretrained(folder / "elm")
    return folder / "elm"


def test_evaluate_reports_both_histories(model, built, tmp_path):
    folder, settings = tmp_path / "report", ["--limit", "1", "--max-new-tokens", "3", "--occlusions", "0", "--quiet"]
    arguments = ["evaluate", str(model), "--dataset", str(built), "--fold", "official", "--output", str(folder)]
    conditions = ["--condition", "ecg", "--condition", "none"]
    result = CliRunner().invoke(app, [*arguments, *conditions, *settings], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "Behind the own answers to earlier steps, this model completes 0.000 of the reasoning" in result.output
    report = json.loads((folder / "report.json").read_text())
    reasoning = report["reasoning"]
    assert reasoning["samples"] == 1 and reasoning["steps"] == report["questions"] == 9
    assert list(reasoning["histories"]) == ["ground_truth", "own"]
    assert list(reasoning["histories"]["own"]) == ["ecg", "none"]
    # types of questions are those of the steps, and a choice between options is neither free text nor a claim
    assert set(STEP_TYPES) - {"measurement_grounding"} <= set(report["scores"]) and report["claims"] is None
    assert {one["kind"] for one in report["scores"].values()} == {"short"}
    text = (folder / "report.md").read_text()
    assert "## Reasoning step by step" in text and "| true answers | with ECG |" in text
    own = pd.read_parquet(folder / "own_history" / "predictions.parquet")
    assert set(own["condition"]) == {"ecg", "none"} and len(own) == 2 * 9
