"""Leakage: near-duplicate ECGs, copied answers, patients on both sides, and what age and sex alone give."""

import json
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.optimize import minimize
from scipy.signal import resample
from test_report import question_row
from typer.testing import CliRunner

from elm_hf.cli import app
from elm_hf.data.tables import load_records
from elm_hf.ecg.simulated_findings import draw_patient
from elm_hf.ecg.simulation import simulate_ecg
from elm_hf.evaluation.evaluate import evaluate
from elm_hf.leakage.check import check_leakage, patients_on_both_sides
from elm_hf.leakage.copied_answers import copied_answers, questions_about_twins
from elm_hf.leakage.demographics import (
    demographic_answers,
    demographics_section,
    person_features,
    report_demographics,
)
from elm_hf.leakage.leakage_report import read_leakage
from elm_hf.leakage.near_duplicates import find_duplicates
from elm_hf.scoring.names import AGE_AND_SEX
from elm_hf.scoring.scores import Questions, ScoreBook


def heart(patient: int, ecg: int = 0, seconds: float = 12.0) -> np.ndarray:
    """A simulated ECG of a patient at 250 Hz; several of one patient have other beats and other findings."""
    rng = np.random.default_rng([patient, 1])
    findings = draw_patient(rng, 2)[ecg]
    return simulate_ecg(findings, np.random.default_rng([patient, ecg, 2]), seconds)


@pytest.fixture(scope="module")
def hearts() -> list[np.ndarray]:
    return [heart(patient) for patient in range(24)]


def piece(ecg: np.ndarray, start_s: float = 0.0, rate: int = 250) -> np.ndarray:
    """Ten seconds of an ECG at 250 Hz, sampled at another rate."""
    cut = ecg[:, round(start_s * 250) : round(start_s * 250) + 2500]
    return cut if rate == 250 else resample(cut, 10 * rate, axis=1).astype(np.float32)


@pytest.mark.parametrize(
    ("start_s", "gain", "rate", "noise_mv"),
    [(0, 1, 250, 0), (0.8, 1, 250, 0.02), (0.3, 1.5, 250, 0), (0, 0.7, 100, 0), (0.6, 1.2, 500, 0.04)],
)
def test_a_copy_is_found_whatever_its_start_gain_rate_and_noise(hearts, start_s, gain, rate, noise_mv):
    rng = np.random.default_rng(0)
    copies = [gain * piece(ecg, start_s, rate) for ecg in hearts[:6]]
    copies = [(copy + rng.normal(0, noise_mv, copy.shape)).astype(np.float32) for copy in copies]
    found = find_duplicates([piece(ecg) for ecg in hearts], copies, (250, rate), quiet=True)
    assert sorted((pair.first, pair.second) for pair in found) == [(number, number) for number in range(6)]
    for pair in found:
        assert pair.shift_s == pytest.approx(start_s, abs=0.01)
        assert pair.gain == pytest.approx(gain, rel=0.05)
        assert pair.correlation > 0.9


def test_a_lead_that_one_of_the_two_lacks_does_not_count(hearts):
    without = piece(hearts[3]).copy()
    without[[1, 8]] = np.nan  # II and V3
    found = find_duplicates([piece(ecg) for ecg in hearts], [without], (250, 250), quiet=True)
    assert [(pair.first, pair.correlation) for pair in found] == [(3, 1.0)]


def test_other_ecgs_of_the_same_patients_are_no_duplicates():
    first, second = ([piece(heart(patient, number)) for patient in range(24)] for number in (0, 1))
    assert find_duplicates(first, second, (250, 250), quiet=True) == []


def test_paced_beats_of_one_form_are_no_duplicates_but_their_copy_is():
    """Two recordings of beats that come like a clock agree at each shift by a beat; only noise tells them apart."""
    beat = piece(heart(1))[:, 300:500]
    recordings = []
    for seed in range(2):
        clock = np.tile(beat, (1, 15))[:, : 2500 + 100 * seed][:, 100 * seed :]
        noise = np.random.default_rng(seed).normal(0, 0.02, (12, 2500))
        recordings.append((clock + np.cumsum(noise, axis=1) * 0.03 + noise).astype(np.float32))
    assert find_duplicates(recordings[:1], recordings[1:], (250, 250), quiet=True) == []
    found = find_duplicates(recordings[:1], [recordings[0] * 2], (250, 250), quiet=True)
    assert len(found) == 1 and found[0].elsewhere > 0.9


def test_flat_ecgs_are_compared_with_nothing(hearts):
    flat = [np.zeros((12, 2500), np.float32), np.full((12, 2500), np.nan, np.float32)]
    assert find_duplicates(flat, [*flat, piece(hearts[0])], (250, 250), quiet=True) == []


def test_ecgs_of_other_lengths_are_refused(hearts):
    with pytest.raises(ValueError, match="10 s and of 8 s"):
        find_duplicates([piece(hearts[0])], [piece(hearts[0])[:, :2000]], (250, 250), quiet=True)


def asked(*rows: tuple) -> pd.DataFrame:
    names = ("question", "answer", "record_ids")
    return pd.DataFrame([dict(zip(names, (words, [answer], records))) for words, answer, records in rows])


def test_the_answer_to_the_same_or_the_nearest_question_is_copied():
    training = asked(
        ("Is this ECG normal?", "no", ["a"]),
        ("is this  ECG normal?", "no", ["b"]),
        ("Is this ECG normal?", "yes", ["c"]),
        ("What is the heart rate of this ECG?", "60 to 70", ["a"]),
    )
    said, known = copied_answers(["Is this ECG normal?", "What heart rate does it have?"], training)
    assert said == ["no", "60 to 70"] and known.tolist() == [True, False]


def test_questions_about_near_duplicates_with_the_same_answer_are_counted():
    training = asked(("Is it normal?", "no", ["a"]), ("Rhythm?", "sinus", ["a"]), ("Is it normal?", "no", ["b"]))
    test = asked(
        ("Is it normal?", "no", ["x"]),  # copied: x is a twin of a
        ("Rhythm?", "fibrillation", ["x"]),  # asked there, with another answer
        ("Axis?", "left", ["x"]),  # not asked there
        ("Is it normal?", "no", ["y"]),  # y has no twin
    )
    about, counted = questions_about_twins(test, training, {"x": ["a"]})
    assert about.tolist() == [True, True, True, False]
    assert (counted["about_duplicates"], counted["asked_in_training"], counted["copied"]) == (3, 2, 1)
    assert counted["examples"][0]["training_records"] == ["a"]


@pytest.fixture(scope="module")
def leaking(simulated_dataset, tmp_path_factory):
    """The simulated dataset, in which a test ECG is a copy of a training ECG with another gain, and a patient is on both sides."""
    folder = tmp_path_factory.mktemp("leaking") / "leaking"
    shutil.copytree(simulated_dataset, folder)
    splits = {
        name: pq.read_table(next((folder / "fold1").glob(f"{name}-*.parquet"))).to_pandas()
        for name in ("train", "test")
    }
    first, second = (rows["ecg_index"].map(list).explode().iloc[0] for rows in splits.values())
    file = next((folder / "records").glob("*.parquet"))
    table = pq.read_table(file)
    ecgs = load_records(simulated_dataset).with_format("numpy")["ecg"][:]
    ecgs = np.array(ecgs)
    ecgs[second] = np.round(1.25 * ecgs[first])
    field = table.schema.field("ecg")
    column = pa.array(ecgs.tolist(), field.type.storage_type if hasattr(field.type, "storage_type") else field.type)
    if hasattr(field.type, "storage_type"):
        column = pa.ExtensionArray.from_storage(field.type, column)
    pq.write_table(table.set_column(table.schema.get_field_index("ecg"), field, column), file)
    names = table["record_id"].to_pylist()
    return folder, names[first], names[second]


def test_the_check_finds_the_copy_and_counts_its_questions(leaking, tmp_path):
    folder, first, second = leaking
    found = check_leakage(folder, 1, quiet=True)
    pairs = found["duplicates"]["pairs"]
    assert [(pair["training_record"], pair["record"]) for pair in pairs["test"]] == [(first, second)]
    assert pairs["validation"] == [] and pairs["test"][0]["gain"] == pytest.approx(1.25, rel=0.01)
    assert all(entry["patients"] == 0 for entry in found["patients_on_both_sides"].values())
    questions = pq.read_table(next((folder / "fold1").glob("test-*.parquet"))).to_pandas()
    about = questions["record_ids"].map(lambda names: second in names).sum()
    assert found["questions"]["test"]["about_duplicates"] == about > 0
    run = CliRunner().invoke(app, ["leakage", str(folder), "--output", str(tmp_path), "--quiet"])
    assert run.exit_code == 0, run.output
    assert "Near-duplicates of training ECGs in test: 1 of " in run.output
    assert json.loads((tmp_path / "leakage.json").read_text()) == found  # bit-identical twice
    assert second in (tmp_path / "leakage.md").read_text()
    with pytest.raises(ValueError, match="leaking, fold 1; expected leaking, fold 2"):
        read_leakage(tmp_path, folder, 2)


def test_an_evaluation_reports_leakage_and_the_score_without_near_duplicates(leaking, tiny_elm, tmp_path):
    folder, first, _ = leaking
    asked = pq.read_table(next((folder / "fold1").glob("test-*.parquet")), columns=["record_ids"])
    second = asked["record_ids"].to_pylist()[0][0]
    pair = {"training_record": first, "record": second}
    found = {"schema": 1, "dataset": "leaking", "fold": "1", "duplicates": {"pairs": {"test": [pair]}}}
    found["questions"] = {"test": {"asked_in_training": 3, "copied": 2}}
    (tmp_path / "leakage.json").write_text(json.dumps(found))
    report = evaluate(
        tiny_elm, folder, 1, output=tmp_path / "report", limit=24, conditions=("ecg", "none"), max_new_tokens=2,
        num_occlusions=0, leakage=tmp_path, quiet=True,
    )  # fmt: skip
    rows = pd.read_parquet(tmp_path / "report" / "predictions.parquet").query("condition == 'ecg'")
    about = rows["record_ids"].map(lambda names: second in names)
    twins = report["leakage"]["duplicates"]
    assert twins["about_duplicates"] == about.sum() > 0 and twins["ecgs"] == 1 and twins["copied"] == 2
    assert twins["without"]["short"]["without_them"]["answers"] == (~about).sum()
    assert report["leakage"]["patients_on_both_sides"]["train and test"]["patients"] == 0
    assert report["leakage"]["copying"]["questions"] == len(rows)
    assert report["run"]["parameters"] > 1000 and report["run"]["training_costs"] is None
    assert {"blind", "age_and_sex"} <= set(report["conditions"])
    text = (tmp_path / "report" / "report.md").read_text()
    assert "## Leakage" in text and "## Age and sex alone" in text and "Near-duplicates of training ECGs: 1;" in text


def test_a_patient_in_two_splits_is_named(simulated_dataset, tmp_path):
    folder = tmp_path / "both"
    shutil.copytree(simulated_dataset, folder)
    train, test = (next((folder / "fold1").glob(f"{name}-*.parquet")) for name in ("train", "test"))
    row = pq.read_table(test).slice(0, 1)
    pq.write_table(pa.concat_tables([pq.read_table(train), row]), train)
    found = patients_on_both_sides(folder, 1)
    assert found["train and test"]["patients"] >= 1
    assert found["train and test"]["examples"][0].endswith("/" + row["patient_ids"].to_pylist()[0][0])
    assert found["validation and test"]["patients"] == 0


def people(number: int, seed: int = 0) -> pd.DataFrame:
    """Training questions: to the first, men say yes in 80 %; to the second, the chance of yes rises with age."""
    rng = np.random.default_rng(seed)
    rows = []
    for place in range(number):
        age, sex = int(rng.integers(20, 90)), ("male", "female")[place % 2]
        says = {"By sex?": rng.random() < (0.8 if sex == "male" else 0.2), "By age?": rng.random() < (age - 10) / 90}
        for question, yes in says.items():
            row = {"question_type": "verify", "template_id": 1, "question": question, "age": age, "sex": sex}
            rows.append(row | {"answer": ["yes" if yes else "no"]})
    return pd.DataFrame(rows)


def test_age_and_sex_alone_answer_as_a_regression_solved_by_hand():
    training = people(400)
    patients = [(age, sex) for age in (25, 40, 52, 55, 58, 70, 85) for sex in ("male", "female")]
    questions = pd.DataFrame(
        [
            {"question_type": "verify", "template_id": 1, "question": name}
            for name in ("By sex?", "By age?")
            for _ in patients
        ]
    )
    said = demographic_answers(questions, patients * 2, training)
    assert said[: len(patients)] == ["yes" if sex == "male" else "no" for _, sex in patients]
    rows = training[training["question"] == "By age?"]
    x = np.array(
        [
            [(age - 60) / 20, ((age - 60) / 20) ** 2, sex == "male", sex == "female"]
            for age, sex in zip(rows["age"], rows["sex"])
        ],
        float,
    )
    y = np.array([items == ["yes"] for items in rows["answer"]], float)

    def loss(w):  # of a logistic regression with an L2 penalty on all but the intercept
        z = x @ w[1:] + w[0]
        return np.sum(np.logaddexp(0, z) - y * z) + 0.5 * w[1:] @ w[1:]

    w = minimize(loss, np.zeros(5)).x
    for (age, sex), answer in zip(patients, said[len(patients) :]):
        z = w[0] + w[1:] @ [(age - 60) / 20, ((age - 60) / 20) ** 2, sex == "male", sex == "female"]
        assert answer == ("yes" if z > 0 else "no"), (age, sex, z)


def test_a_rare_question_shares_the_regression_of_its_template():
    """Of "A or B?" each answer of the template is possible; the words of the question decide which two, age which of them."""
    rng = np.random.default_rng(1)
    rows = []
    for place in range(300):
        age = int(rng.integers(20, 90))
        old, young = ("b", "a") if place % 2 else ("d", "c")
        answer = old if age > 55 else young
        words = f"{young} or {old}?" + (" Please." * (place % 20))
        rows.append(
            {
                "question_type": "choose",
                "template_id": 2,
                "question": words,
                "answer": [answer],
                "age": age,
                "sex": None,
            }
        )
    questions = pd.DataFrame(
        [
            {"question_type": "choose", "template_id": 2, "question": words}
            for words in ("a or b?" + " Please." * 3, "c or d?" + " Please." * 4)
            for _ in range(2)
        ]
    )
    said = demographic_answers(questions, [(25, None), (85, None)] * 2, pd.DataFrame(rows))
    assert said == ["a", "b", "c", "d"]


@pytest.mark.parametrize("patients", [5, 6])
def test_the_difference_to_age_and_sex_has_an_interval_from_six_patients_on(patients):
    """As signal reliance, which is a paired difference as well."""
    rows = [question_row(f"{name}", "ecg", "verify", ["yes"], "yes", [f"s/{name}"]) for name in range(patients)]
    questions = Questions(pd.DataFrame(rows))
    questions.answers[AGE_AND_SEX] = ["yes"] + ["no"] * (patients - 1)
    found = report_demographics(ScoreBook(questions, 100, 0), {"short": np.arange(patients)})
    entry, (section,) = found["short"], demographics_section(found)
    said = f"from question, age and sex alone, difference +{(patients - 1) / patients:.3f}"
    assert entry["difference"] == pytest.approx((patients - 1) / patients)
    if patients == 6:
        assert entry["low"] < entry["difference"] < entry["high"] and entry["p_value"] < 1 and "note" not in entry
        assert f"{said} [" in section
    else:
        assert (entry["low"], entry["high"], entry["p_value"]) == (None, None, None)
        assert f"{said} (less than 6 patients or answers: no interval)." in section


def test_unknown_age_and_sex_are_numbers_of_their_own():
    assert person_features([None, 80], ["female", None]).tolist() == [[0, 0, 1, 0, 1], [1, 1, 0, 0, 0]]
