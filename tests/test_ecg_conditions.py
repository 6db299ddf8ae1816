"""Training without the true ECGs, and the matrix of scores of models that were trained and asked with and without them."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_report import RUN, predictions_of

from elm_hf.data.loading import load_elm_dataset
from elm_hf.evaluation.report import build_report
from elm_hf.modeling.chat_rendering import ecg_items
from elm_hf.modeling.ecg_leads import limb_lead_error
from elm_hf.scoring.scores import Questions
from elm_hf.training.arguments import ElmScriptArguments
from elm_hf.training.conditions import other_patients, with_condition
from elm_hf.training.packing import pack_by_ecg


ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def rows_under(simulated_dataset):
    def load(condition: str):
        arguments = ElmScriptArguments(dataset=[str(simulated_dataset)], ecg_condition=condition)
        return with_condition(load_elm_dataset(simulated_dataset), arguments, 0)

    return load


def test_the_signal_is_left_as_it_is(simulated_dataset):
    rows = load_elm_dataset(simulated_dataset)
    assert with_condition(rows, ElmScriptArguments(dataset=["d"]), 0) is rows


def test_zeros_and_noise_replace_the_ecgs_on_access_and_leave_the_text(rows_under):
    signal, zeros, noise = (rows_under(condition) for condition in ("signal", "zeros", "noise"))
    assert signal["messages"][:] == zeros["messages"][:] == noise["messages"][:]
    true, flat, noisy = (list(rows[3]["ecgs"]) for rows in (signal, zeros, noise))
    assert flat[0].shape == true[0].shape and not flat[0].any()
    powers = [np.square(ecg[0][[0, 1, *range(6, 12)]].astype(float)).sum(axis=1) for ecg in (true, noisy)]
    np.testing.assert_allclose(*powers, rtol=1e-3)
    assert limb_lead_error(noisy[0]) is None and np.abs(noisy[0] - true[0]).max() > 0.1
    np.testing.assert_array_equal(noise[3]["ecgs"][0], noisy[0])  # again the same
    pack = pack_by_ecg(zeros, 4)[0]["conversations"]
    assert all(not ecg.any() for row in pack for ecg in row["ecgs"])


def test_without_ecgs_only_the_text_remains(rows_under):
    signal, none = rows_under("signal"), rows_under("none")
    assert [row["ecg_index"] for row in none] == [[]] * len(signal) and len(none[0]["ecgs"]) == 0
    assert not any(ecg_items(messages) for messages in none["messages"])
    texts = [
        [[item["text"] for item in m["content"] if item["type"] == "text"] for row in rows["messages"] for m in row]
        for rows in (signal, none)
    ]
    assert texts[0] == texts[1]


def test_anothers_ecg_is_of_another_patient_and_the_same_for_all_questions(rows_under):
    signal, another = rows_under("signal"), rows_under("another")
    patient_of = {index: name for row in signal for index, name in zip(row["ecg_index"], row["patient_ids"])}
    donors: dict[int, set] = {}
    for before, after in zip(signal, another):
        for old, new in zip(before["ecg_index"], after["ecg_index"], strict=True):
            assert patient_of[old] != patient_of[new]
            donors.setdefault(old, set()).add(new)
    assert all(len(those) == 1 for those in donors.values())
    assert len(set().union(*donors.values())) == len(donors)  # each ECG once
    old, new = signal[0]["ecg_index"][0], another[0]["ecg_index"][0]
    of_new = next(row for row in signal if row["ecg_index"][0] == new)
    np.testing.assert_array_equal(another[0]["ecgs"][0], of_new["ecgs"][0])
    assert old != new


def test_donors_are_of_other_patients_or_refused():
    patients = ["a"] * 4 + ["b"] * 3 + ["c"]
    for seed in range(20):
        donors = other_patients(patients, range(10, 18), seed)
        assert sorted(donors) == list(range(10, 18))
        assert all(patients[donor - 10] != patient for donor, patient in zip(donors, patients))
    with pytest.raises(ValueError, match="4 of the 7 training ECGs are of patient a"):
        other_patients(patients[:7], range(7), 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ecg_condition": "ecg"}, 'takes one of signal, zeros, noise, another, none; got "ecg"'),
        ({"ecg_condition": "zeros", "descriptions": "d.parquet"}, "leave out --ecg_condition zeros"),
        (
            {"ecg_condition": "noise", "cache_encoder": True, "trainable": ["projector"]},
            "--cache_encoder stores features of the true ECGs, and --ecg_condition noise",
        ),
    ],
)
def test_wrong_conditions_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ElmScriptArguments(dataset=["d"], **options)


def test_the_matrix_has_the_score_of_each_pair_and_the_difference(tmp_path, capsys):
    shares = {"signal": (0.9, 0.5, 0.4), "zeros": (0.5, 0.6, 0.5), "none": (0.5, 0.5, 0.6)}
    right = {}
    for seed, (trained, those) in enumerate(shares.items()):
        folder = tmp_path / trained / "report"
        folder.mkdir(parents=True)
        predictions = predictions_of(dict(zip(("ecg", "zeros", "none"), those)), seed, num_patients=30)
        predictions.to_parquet(folder / "predictions.parquet")
        report = build_report(Questions(predictions), RUN | {"questions": "q"}, None, 0)
        (folder / "report.json").write_text(json.dumps(report))
        is_right = predictions["prediction"] == predictions["messages_answer"]
        right[trained] = is_right.groupby(predictions["condition"]).mean()
    runpy.run_path(str(ROOT / "recipes" / "ecg_conditions" / "print_matrix.py"))["main"](tmp_path)
    printed = capsys.readouterr().out
    table = [line.split(" | ") for line in printed.splitlines() if line.startswith("| trained with")]
    assert len(table) == 6  # all answers, and the average over types
    for line, scores in zip(table, right.values()):
        assert [float(cell.split()[0]) for cell in line[1:]] == pytest.approx(
            [scores[name] for name in ("ecg", "zeros", "none")], abs=5e-4
        )
        assert all("[" in cell for cell in line[1:])
    difference = right["signal"]["ecg"] - right["none"]["none"]
    assert f"| all, exact match, minus text only | {difference:+.3f} | [+0." in printed


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_recipe_prints_the_matrix(tmp_path):
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = ["sh", str(ROOT / "recipes" / "ecg_conditions" / "run.sh"), "--smoke"]
    environment = os.environ | {"PATH": path, "SMOKE_OUTPUT": str(tmp_path)}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert sum(line.startswith("| trained with") for line in ran.stdout.splitlines()) >= 3
    assert "zeros: the model has not seen the ECGs" in (tmp_path / "zeros" / "README.md").read_text()
    asked = pd.read_parquet(tmp_path / "none" / "report" / "predictions.parquet")["condition"].unique()
    assert asked.tolist() == ["ecg", "zeros", "none"]
