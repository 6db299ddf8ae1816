"""Conversation datasets: entries are matched with their ECGs, texts are preserved, excluded entries are counted."""

import csv
import json
import re
from collections import Counter
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from elm_hf.data.loading import load_elm_dataset
from elm_hf.data.tables import load_records
from elm_hf.modeling.processing_elm import ElmProcessor
from elm_hf.prepare.dataset import prepare_dataset
from elm_hf.prepare.instruct import (
    EntryError,
    ecg_wording,
    find_recording,
    question_type,
    read_entries,
    read_turns,
    to_messages,
)
from elm_hf.training.collator import ElmDataCollator
from elm_hf.utils.exact_match import is_exact_match


# the ECG of each path in the test files, according to their README
MEANT = {
    "files/p1099/p10990001/s49990011/49990011": ("mimic_iv_ecg", "49990011"),
    "mimic_v4/p1099/p10990001/s49990011/49990011-0.png": ("mimic_iv_ecg", "49990011"),
    "mimic/p1299/p12990003/s49990058/49990058-0.png": ("mimic_iv_ecg", "49990058"),
    "mimic-iv/files/p1199/p11990002/s49990042/49990042": ("mimic_iv_ecg", "49990042"),
    "ptb-xl/06000_hr-0.png": ("ptb_xl", "6000"),
    "test_images/ptb_test_v4/07190_hr-0.png": ("ptb_xl", "7190"),
    "ecg_ptbxl_benchmarking/data/ptbxl/records500/06000/06004_hr": ("ptb_xl", "6004"),
    "ptb-xl/some/folders/00001_lr-0.png": ("ptb_xl", "1"),
    "code15_v4/438277-0.png": ("code15", "438277"),
    "code15/some/folders/795649": ("code15", "795649"),
    "code15-test/test_images/795649-0.png": ("code15", "795649"),
    "cpsc-test/test_images/A1980-0.png": ("cpsc", "A1980"),
    "csn-test-no-cot/test_images/JS20000-0.png": ("csn", "JS20000"),
    "g12-test-no-cot/test_images/E07500-0.png": ("georgia", "E07500"),
}


@pytest.fixture(scope="module")
def records(shared_data, tmp_path_factory) -> dict[str, Path]:
    """Records of 5 s of each base dataset. 438277 has 7.3 s; 49990027 has a gap in its first half."""
    folder = tmp_path_factory.mktemp("records")
    for name in ("ptb_xl", "mimic_iv_ecg", "code15"):
        prepare_dataset(name, folder / name, shared_data / name, seconds=5, max_skipped=0.5, num_folds=2)
    return {path.name: path for path in folder.iterdir()}


def build(name: str, source: Path, output: Path, *records: Path, **options) -> Path:
    prepare_dataset(name, output, source=source, records=records or None, **{"num_folds": 2} | options)
    return output


def report(path: Path) -> dict:
    return json.loads((path / "build_report.json").read_text())


def left_out(path: Path) -> list[tuple[str, str]]:
    with (path / "left_out.csv").open(newline="") as file:
        return [(row["reason"], row["message"]) for row in csv.DictReader(file)]


def rows(path: Path) -> list[dict]:
    """All conversations in the order of the source; only the first segment of those with two segments."""
    folds = (datasets.load_dataset(str(path), fold) for fold in ("fold1", "fold2"))
    found = [row for splits in folds for row in splits.get("test", ())]
    first = {row["conversation_id"].rsplit("-", 1)[0]: row for row in sorted(found, key=_place, reverse=True)}
    return sorted(first.values(), key=_place)


def _place(row: dict) -> list[str]:
    return [part.zfill(9) for part in row["conversation_id"].split("-")]


def asked(path: Path) -> list[list[tuple[str, str]]]:
    """The ECGs of each conversation, by dataset and recording."""
    table = load_records(path).select_columns(["source", "recording_id"])[:]
    return [
        [(table["source"][index], table["recording_id"][index]) for index in row["ecg_index"]] for row in rows(path)
    ]


def words(message: dict) -> str:
    return "\n".join(item["text"] for item in message["content"] if item["type"] == "text")


def write(path: Path, *entries) -> Path:
    """Write entries to a JSON file and return its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entries), encoding="utf-8")
    return path.parent


def entry(image: str = "ptb-xl/06000_hr-0.png", question: str = "<image>\nNormal?", answer="Yes.", **fields) -> dict:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": "0", "image": image, "conversations": turns} | fields


# names, turns and wording


@pytest.mark.parametrize("path", MEANT)
def test_paths_of_published_files_give_recordings(path):
    assert find_recording(path) == MEANT[path]


@pytest.mark.parametrize(
    "path", ["mmmu/figure_12.png", "438277-0.png", "mimic_v4/p1099/p10990001/s49990011/49990012-0.png"]
)
def test_unknown_paths_are_refused(path):
    with pytest.raises(EntryError, match="does not belong to a dataset that elm-hf supports"):
        find_recording(path)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("Interpret the provided ECG image, please.", "Interpret the provided ECG, please."),
        ("What does this image show?", "What does this ECG show?"),
        ("Compare these ECG images.", "Compare these ECGs."),
        ("Name the rhythm of the ECG shown in the image.", "Name the rhythm of the ECG."),
        ("Look at the image of this ECG.", "Look at this ECG."),
        ("ST depression in V1 is the mirror image; imaging is advised.",) * 2,
        (
            "Please write a clinical report based on this ECG image.",
            "Please write a clinical report based on this ECG.",
        ),
    ],
)
def test_text_about_images_becomes_text_about_ecgs(text, expected):
    assert ecg_wording(text) == expected


def test_placeholders_become_ecg_items_at_their_positions():
    ecg, before = {"type": "ecg", "text": None}, {"type": "text", "text": "Is it normal?"}
    answer = {"role": "assistant", "content": [{"type": "text", "text": "Yes."}]}
    for text, content in {
        "<image>\nIs it normal?": [ecg, before],
        "Is it normal?\n<ecg>": [before, ecg],
        "Is it normal?": [ecg, before],
    }.items():
        assert to_messages([("user", text), ("assistant", "Yes.")], 1) == [
            {"role": "user", "content": content},
            answer,
        ]
    turns = [("user", "<ecg> One."), ("assistant", "Yes."), ("user", "And <ecg>?"), ("assistant", "No, <image>.")]
    contents = [[item["text"] for item in message["content"]] for message in to_messages(turns, 2)]
    assert contents == [[None, "One."], ["Yes."], ["And", None, "?"], ["No,", "."]]
    with pytest.raises(EntryError, match="a turn of the assistant has no text"):
        to_messages([("user", "<ecg> One."), ("assistant", "<ecg>")], 1)
    with pytest.raises(EntryError, match="2 placeholders for 1 ECGs"):
        to_messages(turns, 1)


def test_all_names_of_roles_and_fields_are_read():
    expected = [("user", "a?"), ("assistant", "b, c")]
    for names, key in ((("human", "gpt"), "conversations"), (("user", "assistant"), "conversation")):
        turns = [{"from": name, "value": value} for name, value in zip(names, (["a", "?"], ["b,", " ", "c"]))]
        turns[1]["value"] = list("b, c")
        assert read_turns({key: turns}) == expected
    assert read_turns(
        {"conversations": [{"from": "human", "value": "a?"}, {"from": "gpt", "value": ["SR", "LBBB"]}]}
    ) == [
        ("user", "a?"),
        ("assistant", "SR, LBBB"),
    ]


@pytest.mark.parametrize(
    "turns, reason, message",
    [
        (None, "damaged entry", "no list of turns in conversations"),
        ([], "turns out of order", "turns missing; expected alternating"),
        (["user"], "turns out of order", "turns user; expected"),
        (["assistant", "user"], "turns out of order", "turns assistant, user; expected"),
        (["user", "user", "assistant"], "turns out of order", "turns user, user, assistant;"),
        (["user", "bot"], "damaged entry", "a turn from 'bot'"),
    ],
)
def test_turns_out_of_order_are_refused(turns, reason, message):
    turns = turns and [{"from": name, "value": "x"} for name in turns]
    with pytest.raises(EntryError, match=message) as caught:
        read_turns({"conversations": turns})
    assert caught.value.reason == reason


def test_kinds_of_questions():
    asked = {
        "verify": ("Is it normal?", "No, it is not."),
        "choose": ("Is it (A) NORM or (B) ABNORMAL?", "(A) NORM"),
        "report": ("Write a report for this ECG.", "Sinus rhythm."),
        "query": ("What is the rhythm?", "Nodal rhythm."),
    }
    for kind, (question, answer) in asked.items():
        assert question_type([("user", question), ("assistant", answer)]) == kind
    assert question_type([("user", "?"), ("assistant", "!")] * 2) == "dialogue"


# files


def test_entries_are_read_in_blocks_of_any_size(tmp_path, monkeypatch):
    expected = [{"id": str(number), "text": 'a "quoted" ] , { é\n' * number} for number in range(30)]
    (tmp_path / "a.json").write_text(json.dumps(expected, indent=1, ensure_ascii=False), encoding="utf-8-sig")
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(entry) for entry in expected))
    pq.write_table(pa.Table.from_pylist(expected), tmp_path / "a.parquet")
    for size in (1, 7, 100, 2**20):
        monkeypatch.setattr("elm_hf.prepare.instruct._READ_SIZE", size)
        for name in ("a.json", "a.jsonl", "a.parquet"):
            assert list(read_entries(tmp_path / name, print)) == list(enumerate(expected))


@pytest.mark.parametrize(
    "text, entries, message",
    [
        ('[{"a": 1}, {"a": 2}, {"a": ', 2, "as JSON after 2 entries .the list is truncated"),
        ('{"a": 1}', 0, "expected a list of entries, found"),
        ("", 0, "the list is truncated"),
        ('[{"a": 1}, 7]', 1, "entry 2 is a int, expected an object with fields"),
        ('[{"a": 1} {"a": 2}, nonsense, {"a": 3}]', 2, "as JSON after 2 entries"),
    ],
)
def test_entries_before_the_damage_of_a_file_are_read(text, entries, message, tmp_path):
    (tmp_path / "a.json").write_text(text)
    told = []
    assert len(list(read_entries(tmp_path / "a.json", lambda *words: told.append(words)))) == entries
    assert len(told) == 1 and str(tmp_path / "a.json") in told[0][1]
    assert re.search(message, told[0][1])


# published datasets


def test_ecg_chat_dialogues_keep_all_their_turns(records, shared_data, tmp_path):
    path = build(
        "ecg_instruct_45k", shared_data / "instruct" / "ecg_chat", tmp_path / "built", records["mimic_iv_ecg"]
    )
    source = json.loads((shared_data / "instruct" / "ecg_chat" / "ecg_instruct_45k.json").read_text())
    assert asked(path) == [[("mimic_iv_ecg", entry["ecg"].split("/")[-1])] for entry in source]
    for row, original in zip(rows(path), source):
        said = [turn["value"].replace("<ecg>", "").strip() for turn in original["conversations"]]
        assert [words(message) for message in row["messages"]] == said
        assert [message["role"] for message in row["messages"]] == ["user", "assistant"] * (len(said) // 2)
        assert (row["question"], row["answer"], row["source_id"]) == (said[-2], [said[-1]], original["id"])
    kinds = [[item["type"] for item in row["messages"][0]["content"]] for row in rows(path)]
    assert kinds[0] == ["ecg", "text"] and kinds[2] == ["text", "ecg"]
    assert Counter(row["stratum"] for row in rows(path)) == {
        "mimic_iv_ecg: dialogue": 2,
        "mimic_iv_ecg: query": 5,
        "mimic_iv_ecg: report": 1,
    }


def test_repeated_ecg_chat_reports_are_excluded(records, shared_data, tmp_path):
    """Entry 6 repeats entry 2; entry 7 has the same id as entry 4, but another question."""
    path = build("pretrain_mimic", shared_data / "instruct" / "ecg_chat", tmp_path / "built", records["mimic_iv_ecg"])
    assert [row["source_id"][-2:] for row in rows(path)] == ["11", "27", "35", "42", "58", "63", "58"]
    assert left_out(path) == [("repeated", "pretrain_mimic.json: entry 7, id 49990035, is the same as an earlier one")]
    # the first half of 49990027 has a gap in all leads, so the conversation is about the second half
    assert rows(path)[1]["record_ids"] == ["mimic_iv_ecg-49990027-1"]


def test_pulse_refers_to_ecgs_of_three_datasets(records, shared_data, tmp_path):
    path = build("ecg_instruct_pulse", shared_data / "instruct" / "pulse", tmp_path / "built", *records.values())
    assert [found[0][0] for found in asked(path)] == ["mimic_iv_ecg"] * 3 + ["ptb_xl"] * 3 + ["code15"] * 2
    assert [found[0][1] for found in asked(path)] == [
        "49990011", "49990042", "49990058", "6000", "6002", "6003", "438277", "358121",
    ]  # fmt: skip
    texts = [words(message) for row in rows(path) for message in row["messages"]]
    assert texts[:2] == ["What is the heart rhythm in this ECG?", "The ECG shows sinus tachycardia."]
    assert not any("image" in text for text in texts)
    assert rows(path)[1]["stratum"] == "mimic_iv_ecg: verify: yes"
    # patients with the same id in two datasets are different
    assert report(path)["records"]["patients"] == len(
        {(row["source"], row["patient_id"]) for row in load_records(path).remove_columns("ecg")}
    )


def test_conversations_about_a_missing_dataset_are_excluded_and_counted(records, shared_data, tmp_path):
    source = shared_data / "instruct" / "pulse"
    path = build("ecg_instruct_pulse", source, tmp_path / "built", records["ptb_xl"], records["mimic_iv_ecg"])
    assert len(rows(path)) == 6
    assert report(path)["conversations"]["left_out"] == {"ECG not among the records": 2}


def test_grounding_has_the_ecg_in_another_field(records, shared_data, tmp_path):
    source = tmp_path / "source"
    (source / "ecg_jsons").mkdir(parents=True)
    text = (shared_data / "instruct" / "gem" / "ECG_Grounding_30k.json").read_text()
    (source / "ecg_jsons" / "ECG_Grounding_30k.json").write_text(text)
    # the smaller training file is part of the larger one
    (source / "ecg_jsons" / "grounding_train_30k.json").write_text(json.dumps(json.loads(text)[:4]))
    test = entry(
        "-", ecg="mimic-iv/files/p1999/p19990004/s49990063/49990063", machine_measurements={}, report="Long QT."
    )
    write(source / "ecg_bench" / "ecg-grounding-test.json", test)
    path = build("ecg_grounding", source, tmp_path / "built", *records.values())
    splits = {
        split: datasets.load_dataset(str(path), "official", split=split) for split in ("train", "validation", "test")
    }
    names = {
        split: list(dict.fromkeys(name[0].rsplit("-", 1)[0] for name in table["record_ids"]))
        for split, table in splits.items()
    }
    assert names["validation"] and not {*names["validation"]} & {*names["train"]}  # a part of the authors' train
    names["train"] = sorted([*names["train"], *names.pop("validation")])
    assert names == {
        "train": sorted([
            "mimic_iv_ecg-49990011", "mimic_iv_ecg-49990035", "mimic_iv_ecg-49990042", "mimic_iv_ecg-49990058",
            "ptb_xl-6001", "ptb_xl-6004", "code15-795649", "code15-1238362",
        ]),
        "test": ["mimic_iv_ecg-49990063"],
    }  # fmt: skip
    assert words(splits["train"][0]["messages"][0]).startswith("Interpret the provided ECG, identify key features")
    assert report(path)["conversations"]["left_out"] == {"repeated": 4}


def test_ecg_qa_cot_has_reasoning_before_its_answers(records, tmp_path):
    header = "template_id,question_type,question,answer,ecg_id,clinical_context,rationale\n"
    good = 'Normal?,no,[6001],"76-year-old man, ""pacemaker""","P waves precede each QRS, so it is slow. Answer: no"\n'
    lines = {
        "train": [
            f"1,single-verify,{good}",
            f"1,single-verify,{good}",
            "2,single-query,Rhythm?,sinus rhythm,[6004],man,RR is regular and the P waves are upright.\n",
            "1,single-verify,Normal?,no,[6004],man,It is fine. Answer: yes\n",
            "1,single-verify,Normal?,no,[6004],man,Answer: no\n",
            "1,single-verify,Normal?,no,[6001]\n",
            "one,single-verify,Normal?,no,[6001],man,Slow. Answer: no\n",
            "1,single-verify,Normal?,no,49990011,man,Slow. Answer: no\n",
        ],
        "test": ["3,single-query,Axis?,left axis,6000,man,I is positive. Answer: left axis.\n"],
    }
    for split, rows_of_split in lines.items():
        (tmp_path / f"ecg_qa_cot_{split}.csv").write_text(header + "".join(rows_of_split))
    path = build("ecg_qa_cot", tmp_path, tmp_path / "built", records["ptb_xl"])
    found = {row["conversation_id"]: row for row in rows(path)}
    assert len(found) == 3
    first = next(row for name, row in found.items() if name.startswith("ecg_qa_cot-train-0"))
    assert words(first["messages"][0]) == "Normal?" and first["clinical_context"] == '76-year-old man, "pacemaker"'
    assert words(first["messages"][1]) == "<think>\nP waves precede each QRS, so it is slow.\n</think>\n\nno"
    assert first["answer"] == ["no"] and first["template_id"] == 1 and first["question_type"] == "single-verify"
    assert sorted(ecg for each in asked(path) for ecg in each) == [
        ("ptb_xl", "6000"), ("ptb_xl", "6001"), ("ptb_xl", "6004"),
    ]  # fmt: skip
    left = report(path)["conversations"]["left_out"]
    assert left == {"repeated": 1, "other answer": 1, "no reasoning": 1, "damaged entry": 3}
    assert any("entry 4: the reasoning ends with 'yes', and the answer is 'no'" in text for _, text in left_out(path))
    test = datasets.load_dataset(str(path), "official", split="test")
    assert {name for each in test["record_ids"] for name in each} == {"ptb_xl-6000-0", "ptb_xl-6000-1"}
    with pytest.raises(FileNotFoundError, match="contains none of ecg_qa_cot_train.csv, "):
        build("ecg_qa_cot", tmp_path / "built", tmp_path / "again", records["ptb_xl"])


def test_ecg_r1_has_a_place_for_each_signal_and_diagnoses_as_answers(records, tmp_path):
    ecg = "mimic-iv/files/p1099/p10990001/s49990011/49990011"
    text = "<think>\n**Step 1: Rate**\nAt 48 bpm.\n</think>\n\nThe rhythm is slow.\n\n<answer>{}</answer>"

    def line(answer: str, question: str = "<ecg>\n<image>\nInterpret this ECG image.", **fields) -> str:
        messages = [{"role": "system", "content": "You read ECGs."}, {"role": "user", "content": question}]
        messages.append({"role": "assistant", "content": answer})
        entry = {"id": "49990011", "messages": messages, "objects": {"ecg": [ecg]}, "images": ["gen/49990011-0.png"]}
        return json.dumps(entry | fields) + "\n"

    (tmp_path / "train_set").mkdir()
    (tmp_path / "train_set" / "ECG-Protocol-Guided-Grounding-CoT-30k.jsonl").write_text(
        line(text.format("Sinus bradycardia; Possible LVH"))
        + line(text.format(" "))
        + line(text.format("AF"), objects={"ecg": []})
        + line(text.format("AF"), question="<ecg><ecg> Compare.")
        + "not JSON\n"
    )
    test = line(
        text.format("Normal ECG"),
        objects={"ecg": [ecg.replace("49990011", "49990042").replace("p1099/p10990001", "p1199/p11990002")]},
    )
    (tmp_path / "ecg-grounding-test-mimiciv_full.jsonl").write_text(test)
    path = build("ecg_r1", tmp_path, tmp_path / "built", records["mimic_iv_ecg"])
    first, second = rows(path)
    if first["answer"] == ["Normal ECG"]:
        first, second = second, first
    assert first["answer"] == ["Sinus bradycardia", "Possible LVH"] and second["answer"] == ["Normal ECG"]
    assert [message["role"] for message in first["messages"]] == ["system", "user", "assistant"]
    content = first["messages"][1]["content"]
    assert [item["type"] for item in content] == ["ecg", "text"] and content[1]["text"] == "Interpret this ECG."
    said = words(first["messages"][2])
    assert said == text.format("Sinus bradycardia; Possible LVH")
    assert is_exact_match(said, first["answer"]) and not is_exact_match(said, second["answer"])
    left = report(path)["conversations"]["left_out"]
    assert left == {"no answer": 1, "damaged entry": 2, "placeholders do not match": 1}
    official = datasets.load_dataset(str(path), "official", split="test")
    assert official["answer"][0] == ["Normal ECG"]
    for fold in ("fold1", "fold2"):  # no test patient is trained on
        splits = datasets.load_dataset(str(path), fold)
        trained = {name for each in splits["train"]["record_ids"] for name in each} if "train" in splits else set()
        assert trained.isdisjoint({name for each in splits["test"]["record_ids"] for name in each})


def test_ecg_qa_of_mimic(records, shared_data, tmp_path):
    source = shared_data / "ecg_qa" / "mimic-iv-ecg_mini"
    path = build("ecg_qa", source, tmp_path / "built", records["mimic_iv_ecg"], num_folds=0)
    original = json.loads((source / "paraphrased" / "test" / "270000.json").read_text())
    table = load_records(path)["recording_id"][:]
    test = datasets.load_dataset(str(path), "official", split="test")
    pairs = {(row["sample_id"], *(int(table[index]) for index in row["ecg_index"])) for row in test}
    assert pairs == {(entry["sample_id"], *entry["ecg_id"]) for entry in original}
    assert set(test["question_type"]) == {"comparison_irrelevant-query"}


def test_all_question_types_of_ecg_qa(records, shared_data, tmp_path):
    source = shared_data / "ecg_qa" / "ptbxl_mini"
    path = build("ecg_qa", source, tmp_path / "built", records["ptb_xl"], num_folds=0)
    for row in datasets.load_dataset(str(path), "official", split="test"):
        assert row["stratum"] == f"{row['question_type']}: {min(row['answer'])}"
        assert row["question_type"].startswith("single") == (len(row["ecg_index"]) == 1)


def test_damaged_entries_of_ecg_qa_are_listed_and_the_rest_is_built(records, shared_data, tmp_path):
    original = json.loads(
        next((shared_data / "ecg_qa" / "ptbxl_mini" / "paraphrased" / "train").glob("*.json")).read_text()
    )
    good, *others = original[:6]
    bad = [
        good,  # a repeated id
        others[0] | {"ecg_id": [6000, 6001, 6002]},
        others[1] | {"answer": "no"},
        {key: value for key, value in others[2].items() if key != "question"},
        others[3] | {"template_id": "seven"},
    ]
    source = write(tmp_path / "source" / "train" / "0.json", good, *bad).parent
    (source / "train" / "1.json").write_text(json.dumps([others[4]])[:-20])
    path = build("ecg_qa", source, tmp_path / "built", records["ptb_xl"], num_folds=0)
    assert [reason for reason, _ in left_out(path)] == ["repeated id"] + ["damaged entry"] * 4 + ["unreadable file"]
    assert {message.split(":")[0] for _, message in left_out(path)} == {"train/0.json", "train/1.json"}
    assert report(path)["conversations"] == {
        "built": 2,
        "left_out": {"repeated id": 1, "damaged entry": 4, "unreadable file": 1},
    }


# ECGBench


def test_the_original_report_test_refers_to_ecgs_of_ptb_xl(records, shared_data, tmp_path):
    """Its 40 entries have no placeholder and other field names; they are built unchanged and with available ECGs."""
    source = shared_data / "instruct" / "pulse"
    with pytest.raises(ValueError, match=r"none of the 40 .*such as ptb_xl \d+"):
        build("ecg_bench_pulse", source, tmp_path / "built", records["ptb_xl"])
    original = json.loads((source / "ptb_report_generation_test.json").read_text())
    here = [
        entry | {"image": f"test_images/ptb_test_v4/0{6000 + number % 7}_hr-0.png"}
        for number, entry in enumerate(original)
    ]
    write(tmp_path / "source" / "ptb_report_generation_test.json", *here)
    path = build("ecg_bench_pulse", tmp_path / "source", tmp_path / "built", records["ptb_xl"])
    found = rows(path)
    # one ECG now has the same report twice
    expected = dict.fromkeys(
        (str(6000 + number % 7), entry["conversation"][1]["value"]) for number, entry in enumerate(original)
    )
    assert [(name, row["answer"][0]) for ((_, name),), row in zip(asked(path), found)] == list(expected)
    assert len(expected) == 39 and report(path)["conversations"]["left_out"] == {"repeated": 1}
    assert {words(row["messages"][0]) for row in found} == {"Please write a clinical report based on this ECG."}
    assert {row["messages"][0]["content"][0]["type"] for row in found} == {"ecg"}
    assert len(datasets.load_dataset(str(path), "official", split="test")) == 78  # two segments each


def test_the_benchmark_in_the_format_of_the_hub(records, tmp_path):
    """Parquet files with images and an answer as characters. Georgia and textbook tests are excluded."""
    tests = {
        "ecgqa-test": entry(answer=list("sinus rhythm"), image="test_images/06002_hr-0.png"),
        "code15-test": entry(answer=["NORM"], image="test_images/358121-0.png"),
        "g12-test-no-cot": entry(answer=["A. AF"], image="test_images/E07500-0.png"),
        "mmmu-ecg": entry(answer=["B"], image="figure_3.png"),
    }
    for name, row in tests.items():
        row |= {"image_path": row["image"], "image": {"bytes": b"\x89PNG", "path": row["image"]}}
        row["conversations"][0]["value"] = [row["conversations"][0]["value"]]
        (tmp_path / "source" / name).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist([row]), tmp_path / "source" / name / "test-00000-of-00001.parquet")
    path = build("ecg_bench_pulse", tmp_path / "source", tmp_path / "built", records["ptb_xl"], records["code15"])
    assert [(row["question_type"], row["answer"], row["question"]) for row in rows(path)] == [
        ("ecgqa-test", ["sinus rhythm"], "Normal?"),
        ("code15-test", ["NORM"], "Normal?"),
    ]
    assert report(path)["conversations"]["left_out"] == {"ECG not among the records": 1, "ECG of no known dataset": 1}


def test_no_file_of_the_source(records, tmp_path):
    (tmp_path / "source").mkdir()
    for name, message in (
        ("ecg_bench_pulse", "contains no test; expected arena.json"),
        ("ecg_grounding", "contains none of ECG_Grounding_30k.json, "),
    ):
        with pytest.raises(FileNotFoundError, match=message):
            build(name, tmp_path / "source", tmp_path / "built", records["ptb_xl"])


def test_the_error_without_usable_entries_gives_the_first_reason(records, tmp_path):
    source = write(tmp_path / "source" / "ECGInstruct.json", entry(answer=" "))
    with pytest.raises(ValueError, match=r"no conversations in .*ECGInstruct.json: entry 1, id 0: an answer is empty"):
        build("ecg_instruct_pulse", source, tmp_path / "built", records["ptb_xl"])


def test_records_of_two_lengths_are_refused(records, shared_data, tmp_path):
    prepare_dataset("code15", tmp_path / "code15", shared_data / "code15", seconds=2, max_skipped=0.5, num_folds=2)
    with pytest.raises(ValueError, match="must have the same ECG shape and sampling rate"):
        build(
            "ecg_instruct_pulse",
            shared_data / "instruct" / "pulse",
            tmp_path / "built",
            records["ptb_xl"],
            tmp_path / "code15",
        )


# text-only datasets


@pytest.fixture(scope="module")
def dialogues(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("words")
    entries = [
        {
            "instruction": "Answer as a doctor.",
            "input": f"My image number {number}: <image>?",
            "output": f"Rest {number}.",
        }
        for number in range(10)
    ]
    write(
        folder / "source" / "HealthCareMagic-100k.json",
        *entries,
        {"instruction": "", "input": "?", "output": None},
        {"input": 7},
    )
    return build("health_care_magic", folder / "source", folder / "built")


def test_a_text_only_dataset_is_built(dialogues):
    splits = [load_elm_dataset(dialogues, fold=1, split=split) for split in ("train", "validation", "test")]
    assert [len(rows) for rows in splits] == [4, 1, 5]
    assert len({name for rows in splits for name in rows["conversation_id"]}) == 10
    row = min((row for rows in splits for row in rows), key=lambda row: row["question"])
    assert row["messages"] == [
        {"role": "system", "content": [{"type": "text", "text": "Answer as a doctor."}]},
        {"role": "user", "content": [{"type": "text", "text": "My image number 0: <image>?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Rest 0."}]},
    ]
    assert list(row["ecgs"]) == row["ecg_index"] == []
    assert left_out(dialogues) == [
        ("no answer", "HealthCareMagic-100k.json: entry 11 has no text in input or in output"),
        ("damaged entry", "HealthCareMagic-100k.json: entry 12 contains a value that is not text"),
    ]
    with pytest.raises(ValueError, match="is a text-only dataset"):
        load_records(dialogues)


def test_dialogues_are_mixed_with_conversations_about_ecgs(dialogues, simulated_dataset):
    paths = [dialogues, simulated_dataset]
    alone = load_elm_dataset(simulated_dataset)[0]
    mixed = load_elm_dataset(paths)
    assert [len(mixed[row]["ecgs"]) for row in range(4)] == [0] * 4
    assert mixed[4]["ecgs"][0].tolist() == alone["ecgs"][0].tolist()
    drawn = load_elm_dataset(paths, probabilities=[0.5, 0.5], seed=1)
    assert {len(row["ecgs"]) > 0 for row in drawn} == {True, False}
    # dialogues of different people are not merged
    assert len(load_elm_dataset(dialogues, merge_questions=4)) == 4


def test_a_batch_can_contain_dialogues_and_ecgs(dialogues, simulated_dataset, tiny_elm):
    """The dialogue is tokenized without an ECG, and its answer has labels."""
    processor = ElmProcessor.from_pretrained(tiny_elm)
    mixed = load_elm_dataset([dialogues, simulated_dataset])
    batch = ElmDataCollator(processor)([mixed[0], mixed[5]])
    assert batch["ecg_values"].shape[0] == 1
    assert [int((ids == processor.ecg_token_id).sum()) for ids in batch["input_ids"]] == [0, 10]
    assert all((labels != -100).any() for labels in batch["labels"])


def test_a_text_only_dataset_refuses_records(records, tmp_path):
    source = write(tmp_path / "source" / "HealthCareMagic-100k.json", {"instruction": "", "input": "?", "output": "!"})
    with pytest.raises(ValueError, match=r"health_care_magic is a text-only dataset: omit records \(--records\)"):
        build("health_care_magic", source, tmp_path / "built", records["ptb_xl"])
