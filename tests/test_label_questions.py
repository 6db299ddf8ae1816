"""Questions from labels: answers follow from the labels, and the text of a question does not give them away."""

import ast
import csv
import json
import lzma
import shutil
import tarfile
from collections import Counter, defaultdict
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest

from elm_hf.prepare.builder import find_builder
from elm_hf.prepare.dataset import prepare_dataset
from elm_hf.prepare.label_questions import MAX_SHARE, label_questions
from elm_hf.prepare.label_relations import doubtful_given
from elm_hf.prepare.label_table import LabelledRecording, LabelTable, Topic


RHYTHM = Topic("rhythm", "rhythm", 5, ("sinus rhythm", "sinus bradycardia", "atrial fibrillation"), exclusive=True)
FINDING = Topic("finding", "finding", 13, ("first degree AV block", "prolonged PR interval", "inverted T-waves"))
NAMES = ("first ECG", "second ECG")


def table(number: int = 400, topics: tuple = (RHYTHM, FINDING), split: str | None = None) -> LabelTable:
    """Patients with two ECGs each and labels drawn independently, with very different shares."""
    rng = np.random.default_rng(0)
    recordings = []
    for row in range(number):
        labels = {RHYTHM.labels[rng.choice(3, p=[0.8, 0.1, 0.1])]}
        labels |= {label for label, share in zip(FINDING.labels, (0.1, 0.3, 0.6)) if rng.random() < share}
        recordings.append(LabelledRecording(str(row), f"p{row // 2}", frozenset(labels), split=split))
    return LabelTable(recordings, topics)


def one(labels: str, **fields) -> LabelledRecording:
    return LabelledRecording("0", "0", frozenset(labels.split(", ")) - {""}, **fields)


def by_template(questions: list[dict]) -> dict[int, Counter]:
    counts = defaultdict(Counter)
    for question in questions:
        counts[question["template_id"]][", ".join(question["answer"])] += 1
    return counts


# what is present, absent and unknown


def test_a_finding_is_not_absent_beside_one_whose_name_overlaps():
    labels = LabelTable([one("first degree AV block"), one("inverted T-waves"), one("")], (FINDING,))
    assert labels.present("first degree AV block").tolist() == [True, False, False]
    assert labels.absent("first degree AV block").tolist() == [False, True, True]
    assert labels.absent("prolonged PR interval").tolist() == [False, True, True]


def test_an_uncertain_label_is_neither_present_nor_absent():
    uncertain = frozenset({"first degree AV block", "inverted T-waves"})
    labels = LabelTable([one("inverted T-waves", uncertain=uncertain)], (FINDING,))
    assert not labels.present("first degree AV block").any() and not labels.absent("first degree AV block").any()
    assert not labels.absent("prolonged PR interval").any()  # which overlaps with the uncertain one
    assert labels.present("inverted T-waves").all()  # certain by another statement


def test_an_exclusive_topic_is_known_if_one_label_is_listed():
    recordings = [one("sinus rhythm"), one("sinus rhythm, atrial fibrillation"), one("inverted T-waves")]
    recordings += [one("sinus rhythm", unknown=frozenset({"rhythm"}))]
    assert LabelTable(recordings, (RHYTHM,)).known(RHYTHM).tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    "finding, related, unrelated",
    [
        ("sinus rhythm", "sinus bradycardia", "atrial fibrillation"),
        ("left ventricular hypertrophy", "high QRS voltage", "right ventricular hypertrophy"),
        ("anterior myocardial infarction", "anteroseptal myocardial infarction", "inferior myocardial infarction"),
        ("non-specific ST depression", "lateral ischemia", "left anterior fascicular block"),
        ("ST-T changes", "complete left bundle branch block", "left anterior fascicular block"),
        ("complete left bundle branch block", "paced rhythm", "inferior myocardial infarction"),
        ("abnormal QRS", "complete left bundle branch block", "sinus tachycardia"),
        ("left axis deviation", "extreme left axis deviation", "right axis deviation"),
        ("complete right bundle branch block", "bundle branch block", "complete left bundle branch block"),
        ("conduction disturbance", "prolonged PR interval", "hypertrophy"),
    ],
)
def test_relations_of_findings(finding, related, unrelated):
    assert related in doubtful_given(finding) and unrelated not in doubtful_given(finding)
    assert finding not in doubtful_given(finding)


def test_every_name_in_the_relations_is_a_label_of_a_source(shared_data):
    """A name that no source uses, such as a misspelt one, would have no effect."""
    from elm_hf.dataset_scripts import ptb_xl_qa
    from elm_hf.prepare import label_relations, snomed

    ptb_xl = find_builder("ptb_xl_qa")(config_name="conversations", source=str(shared_data / "ptb_xl"))
    names = {*ptb_xl.statement_names().values(), *(row["name"] for row in snomed._table().values())}
    names |= {label for topic in ptb_xl.topics() for label in topic.labels} | {*ptb_xl_qa.AXES.values()}
    related = {name for finding, others in label_relations._table().items() for name in (finding, *others)}
    assert related <= names


# answers


def test_answers_follow_from_the_labels():
    labels = table()
    phrases = {"inverted T waves": "inverted T-waves"}
    checked = Counter()
    for question in label_questions(labels, NAMES, seed=0, per_ecg=1000):
        rows = question["rows"]
        asked = [phrases.get(name.removeprefix("a "), name.removeprefix("a ")) for name in question["attribute"]]
        asked = ["prolonged PR interval" if "PR" in name else name for name in asked]
        has = [{label for label in asked if labels.present(label)[row]} for row in rows]
        kind = question["template_id"] % 100
        if kind == 1:
            assert question["answer"] == [("yes" if has[0] else "no")]
        elif kind == 2:
            assert {phrases.get(name, name) for name in question["answer"]} - {"none"} == has[0]
        elif kind in (5, 6, 7):
            expected = {5: has[1] and not has[0], 6: has[0] and not has[1], 7: has[0] and has[1]}[kind]
            assert question["answer"] == ["yes" if expected else "no"]
        checked[kind] += 1
    assert min(checked[kind] for kind in (1, 2, 5, 6, 7)) > 50


def test_pairs_are_consecutive_recordings_of_a_patient():
    labels = table(number=6)
    assert labels.pairs.tolist() == [[0, 1], [2, 3], [4, 5]]
    recordings = [
        LabelledRecording(str(row), "p", frozenset(), split=split)
        for row, split in enumerate(["train"] * 2 + ["test"])
    ]
    assert LabelTable(recordings, ()).pairs.tolist() == [[0, 1]]


# balance


def test_yes_and_no_are_equally_frequent_for_each_finding():
    counts = defaultdict(Counter)
    for question in label_questions(table(), NAMES, seed=0, per_ecg=1000):
        if question["question_type"].endswith("verify"):
            counts[question["template_id"], *question["attribute"]][question["answer"][0]] += 1
    assert len(counts) > 15
    assert all(count["yes"] == count["no"] for count in counts.values())


def test_choose_questions_have_each_option_equally_often_in_either_order():
    counts, first = defaultdict(Counter), Counter()
    for question in label_questions(table(2000), NAMES, seed=0, per_ecg=1000):
        if question["template_id"] == 502:
            counts[tuple(question["attribute"])][question["answer"][0]] += 1
            text = question["question"]
            places = [text.index(name) for name in question["attribute"]]
            first[places[0] < places[1]] += 1
    assert len(counts) == 3
    for pair, count in counts.items():
        assert count[pair[0]] == count[pair[1]] >= 2 * count["none"] > 0
    assert 0.4 < first[True] / first.total() < 0.6


def test_frequent_answers_to_a_query_are_left_out():
    """Of three rhythms with shares of 80, 10 and 10 percent, each is a third of the answers."""
    counts = by_template(list(label_questions(table(2000), NAMES, seed=0, per_ecg=1000)))
    shares = [count / counts[504].total() for count in counts[504].values()]
    assert len(shares) == 3 and max(shares) == pytest.approx(1 / 3, abs=0.02)
    findings = counts[1304]
    assert max(findings.values()) / findings.total() <= max(MAX_SHARE, 1 / len(findings)) + 0.01


def test_comparisons_are_answered_no_in_all_three_other_cases():
    """Otherwise one of the two ECGs would be enough."""
    labels, cases = table(2000), Counter()
    for question in label_questions(labels, NAMES, seed=0, per_ecg=1000):
        if question["template_id"] == 1305 and question["attribute"] == ["inverted T waves"]:
            first, second = (bool(labels.present("inverted T-waves")[row]) for row in question["rows"])
            assert (question["answer"] == ["yes"]) == (second and not first)
            cases[first, second] += 1
    wrong = [cases[case] for case in ((True, True), (True, False), (False, False))]
    assert sum(wrong) == cases[False, True] and max(wrong) - min(wrong) <= 1


def test_the_balance_holds_in_each_official_split():
    recordings = []
    for split, share, number in (("train", 0.5, 300), ("test", 0.1, 300)):
        for row in range(number):
            label = "inverted T-waves" if row < share * number else "prolonged PR interval"
            recordings.append(LabelledRecording(f"{split}{row}", f"{split}{row}", frozenset({label}), split=split))
    labels = LabelTable(recordings, (FINDING,))
    counts = Counter(
        (recordings[question["rows"][0]].split, question["answer"][0])
        for question in label_questions(labels, NAMES, seed=0, per_ecg=1000)
        if question["template_id"] == 1301 and question["attribute"] == ["inverted T waves"]
    )
    assert counts == {("train", "yes"): 150, ("train", "no"): 150, ("test", "yes"): 30, ("test", "no"): 30}


# number


def test_the_number_of_questions_is_limited_per_template_and_per_ecg():
    labels = table(1000)
    everything = by_template(list(label_questions(labels, NAMES, seed=0, per_ecg=1000)))
    limited = by_template(list(label_questions(labels, NAMES, seed=0, per_ecg=1000, per_template=60)))
    assert limited.keys() == everything.keys()
    for template_id, counts in limited.items():
        assert 30 < counts.total() <= 60
        if template_id % 100 in (1, 5, 6, 7):
            assert counts["yes"] == counts["no"]
    few = list(label_questions(labels, NAMES, seed=0, per_ecg=2))
    assert 1700 < len(few) <= 2000


def test_questions_depend_on_the_seed_only():
    first, again, other = (list(label_questions(table(), NAMES, seed)) for seed in (0, 0, 1))
    assert first == again and first != other


def test_wordings_vary_and_none_has_an_answer_of_its_own():
    answers = defaultdict(Counter)
    for question in label_questions(table(4000), NAMES, seed=0, per_ecg=1000):
        if question["template_id"] == 1301 and question["attribute"] == ["inverted T waves"]:
            answers[question["question"]][question["answer"][0]] += 1
    assert len(answers) == 5
    assert all(0.35 < count["yes"] / count.total() < 0.65 for count in answers.values())
    assert not any("{" in text or "  " in text for text in answers)


# PTB-XL


@pytest.fixture(scope="module")
def ptb_xl_source(shared_data, tmp_path_factory) -> Path:
    """The first 2,500 rows of the whole table of PTB-XL, without signals."""
    folder = tmp_path_factory.mktemp("ptb_xl")
    with lzma.open(shared_data / "ptb_xl_metadata/ptbxl_database.csv.xz", "rt", encoding="utf-8") as file:
        (folder / "ptbxl_database.csv").write_text("".join(file.readlines()[:2501]), encoding="utf-8")
    shutil.copy(shared_data / "ptb_xl/scp_statements.csv", folder)
    return folder


@pytest.fixture(scope="module")
def ptb_xl_questions(ptb_xl_source) -> list[dict]:
    made = find_builder("ptb_xl_qa")(config_name="conversations", source=str(ptb_xl_source), questions_per_ecg=40)
    return list(made.list_conversations())


@pytest.fixture(scope="module")
def ptb_xl_rows(ptb_xl_source) -> dict[str, dict]:
    with (ptb_xl_source / "ptbxl_database.csv").open(encoding="utf-8", newline="") as file:
        return {row["ecg_id"]: row for row in csv.DictReader(file)}


def test_verify_questions_about_ptb_xl_agree_with_its_table(ptb_xl_questions, ptb_xl_rows):
    """The name in the question is looked up in the table by another route: a handful of statements by hand."""
    code_of = {
        "left ventricular hypertrophy": "LVH",
        "inferior myocardial infarction": "IMI",
        "atrial fibrillation": "AFIB",
        "sinus tachycardia": "STACH",
        "first degree AV block": "1AVB",
        "ventricular premature complexes": "PVC",
        "normal ECG": "NORM",
        "complete left bundle branch block": "CLBBB",
    }
    seen = Counter()
    for row in ptb_xl_questions:
        (code,) = [code_of.get(name) for name in row["attribute"]] if len(row["attribute"]) == 1 else [None]
        if row["question_type"] != "single-verify" or code is None:
            continue
        likelihoods = ast.literal_eval(ptb_xl_rows[row["recording_ids"][0]]["scp_codes"])
        if row["answer"] == ["yes"]:
            assert likelihoods[code] == 0 or likelihoods[code] >= 50
        else:
            assert code not in likelihoods  # an uncertain statement is no "no" either
        seen[code, row["answer"][0]] += 1
    assert seen.keys() == {(code, answer) for code in code_of.values() for answer in ("yes", "no")}
    assert all(seen[code, "yes"] == seen[code, "no"] for code in code_of.values())


def test_rhythm_and_axis_of_ptb_xl(ptb_xl_questions, ptb_xl_rows):
    axes = {"MID": "normal axis", "LAD": "left axis deviation", "ALAD": "extreme left axis deviation"}
    names = {"SR": "sinus rhythm", "AFIB": "atrial fibrillation", "PACE": "paced rhythm", "SBRAD": "sinus bradycardia"}
    queries = Counter()
    for row in ptb_xl_questions:
        table_row = ptb_xl_rows[row["recording_ids"][0]]
        if row["template_id"] == 704:
            assert row["answer"] == [axes.get(table_row["heart_axis"], row["answer"][0])]
            assert (row["answer"][0] in axes.values()) == (table_row["heart_axis"] in axes)
        elif row["template_id"] in (503, 504):
            codes = ast.literal_eval(table_row["scp_codes"])
            expected = [name for code, name in names.items() if code in codes]
            assert not expected or row["answer"] == expected
        queries[row["template_id"]] += 1
    assert min(queries[504], queries[704]) > 100


def test_comparisons_of_ptb_xl_are_in_the_order_of_the_recording_dates(ptb_xl_questions, ptb_xl_rows):
    pairs = {tuple(row["recording_ids"]) for row in ptb_xl_questions if len(row["recording_ids"]) == 2}
    assert len(pairs) > 50
    for first, second in pairs:
        rows = ptb_xl_rows[first], ptb_xl_rows[second]
        assert rows[0]["patient_id"] == rows[1]["patient_id"]
        assert rows[0]["recording_date"] <= rows[1]["recording_date"]


def test_noise_and_extrasystoles_with_a_question_mark_or_without_a_kind_are_not_asked_about(ptb_xl_source):
    from elm_hf.dataset_scripts.ptb_xl import annotated_noise
    from elm_hf.dataset_scripts.ptb_xl_qa import _extra_systoles, _pacemaker

    row = {"baseline_drift": " , V6", "static_noise": "", "burst_noise": " ,  ", "electrodes_problems": "V1???"}
    assert annotated_noise(row) == ({"baseline drift"}, {"electrode problems"})
    kinds = {"ventricular extrasystoles", "supraventricular extrasystoles"}
    for text, codes, expected in [
        ("", {}, (set(), set())),
        ("2ES", {}, ({"extrasystoles"}, kinds)),
        ("2ES", {"PVC": 100.0}, ({"extrasystoles", "ventricular extrasystoles"}, set())),
        ("VES,SVES1,alles", {}, ({"extrasystoles"} | kinds, set())),
        ("SVES", {}, ({"extrasystoles", "supraventricular extrasystoles"}, set())),
        ("VES?", {}, (set(), {"extrasystoles"} | kinds)),
    ]:
        assert _extra_systoles({"extra_beats": text}, codes) == expected
    assert _pacemaker({"pacemaker": "ja, nan"}, {}) == ({"pacemaker"}, set())
    assert _pacemaker({"pacemaker": "PACE????, nan"}, {}) == (set(), {"pacemaker"})


def test_the_questions_of_ptb_xl_are_in_english(ptb_xl_questions):
    text = " ".join(row["question"] + ", ".join(row["answer"]) for row in ptb_xl_questions).lower()
    assert text.isascii() and not any(word in text for word in ("rhythmus", "lagetyp", "stadium", "/"))


def test_no_template_of_ptb_xl_can_be_guessed(ptb_xl_questions):
    counts = defaultdict(Counter)
    for row in ptb_xl_questions:
        counts[row["template_id"], *row["attribute"]][", ".join(row["answer"])] += 1
    blind, total = Counter(), Counter()
    for (template_id, *_), answers in counts.items():
        blind[template_id] += max(answers.values())
        total[template_id] += answers.total()
    limits = {1: 0.5, 2: 0.51, 3: 0.4, 4: 0.4, 5: 0.5, 6: 0.5, 7: 0.5, 8: 0.4, 9: 0.4}
    shares = {template_id: blind[template_id] / total[template_id] for template_id in total}
    assert not {key: share for key, share in shares.items() if share > limits[key % 100]}


@pytest.fixture(scope="module")
def ptb_xl_100_hz(shared_data, tmp_path_factory) -> Path:
    """1,000 records of PTB-XL at 100 Hz with their rows of the table."""
    folder = tmp_path_factory.mktemp("ptb_xl_100_hz")
    with tarfile.open(shared_data / "ptb_xl_1000/records100.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    names = {str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.hea")}
    with lzma.open(shared_data / "ptb_xl_metadata/ptbxl_database.csv.xz", "rt", encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        kept = [row for row in rows if row["filename_lr"] in names]
    with (folder / "ptbxl_database.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows.fieldnames)
        writer.writeheader()
        writer.writerows(kept)
    shutil.copy(shared_data / "ptb_xl/scp_statements.csv", folder)
    return folder


def test_questions_are_the_same_whether_ecgs_are_read_or_copied(ptb_xl_100_hz, tmp_path):
    options = {"source_rate": 100, "sampling_rate": 100, "num_recordings": 150}
    prepare_dataset("ptb_xl", tmp_path / "ptb_xl", ptb_xl_100_hz, **options)
    prepare_dataset("ptb_xl_qa", tmp_path / "read", ptb_xl_100_hz, **options)
    report = prepare_dataset("ptb_xl_qa", tmp_path / "copied", ptb_xl_100_hz, records=tmp_path / "ptb_xl")
    assert report["conversations"] == {"built": report["conversations"]["built"], "left_out": {}}
    columns = ["conversation_id", "record_ids", "question", "answer", "attribute"]  # only ECGs in questions are copied
    read, copied = (
        [
            row
            for split in ("train", "validation", "test")
            for row in _official(tmp_path / name, split).select_columns(columns)
        ]
        for name in ("read", "copied")
    )
    assert len(read) > 500 and read == copied
    patients = [(tmp_path / name / "patients/train-00000-of-00001.parquet") for name in ("ptb_xl", "read")]
    assert pq.read_table(patients[0]) == pq.read_table(patients[1])  # the same folds
    assert all(record_id.startswith("ptb_xl-") for row in read for record_id in row["record_ids"])


def _official(path: Path, split: str) -> datasets.Dataset:
    return datasets.load_dataset(str(path), "official", split=split)


def test_too_few_ecgs_give_no_questions(shared_data, tmp_path):
    with pytest.raises(ValueError, match="ptb_xl_qa: no conversations"):
        prepare_dataset("ptb_xl_qa", tmp_path / "qa", shared_data / "ptb_xl", max_skipped=0.125, num_folds=2)


# other datasets


def test_questions_about_the_labels_of_any_records(tmp_path):
    records, built = tmp_path / "records", tmp_path / "qa"
    prepare_dataset("simulated_qa", records, num_recordings=60)
    report = prepare_dataset("label_qa", built, records=records, questions_per_template=40)
    labels = {
        row["recording_id"]: row["labels"]
        for row in datasets.load_dataset(str(records), "records", split="train").select_columns(
            ["recording_id", "labels"]
        )
    }
    rows = [
        row
        for split in ("train", "validation", "test")
        for row in datasets.load_dataset(str(built), "fold1", split=split)
    ]
    verified = [row for row in rows if row["question_type"] == "single-verify"]
    assert len(verified) > 20
    for row in verified:
        has = row["attribute"][0] in labels[row["record_ids"][0].split("-")[1]]
        assert row["answer"] == ["yes" if has else "no"]
    templates = {entry["template_id"]: entry for entry in report["templates"]}
    assert sum(entry["questions"] for entry in templates.values()) == report["conversations"]["built"]
    assert all(entry["questions"] <= 40 for entry in templates.values())
    assert templates[1301]["answers"] == {"yes": 0.5, "no": 0.5} and templates[1301]["blind_majority"] == 0.5
    assert "| `single-verify` | " in (built / "README.md").read_text()
    assert json.loads((built / "build_report.json").read_text())["templates"] == report["templates"]


def test_label_qa_without_records_or_labels_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"pass it as records \(--records\)"):
        prepare_dataset("label_qa", tmp_path / "qa")
