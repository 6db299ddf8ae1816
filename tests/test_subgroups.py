"""Subgroups: which group an ECG is in, and whether a planted difference is found."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from test_report import RUN, question_row

from elm_hf.checkpoints.card import model_card
from elm_hf.ecg.simulated_findings import draw_findings
from elm_hf.ecg.simulation import simulate_ecg
from elm_hf.evaluation.report import build_report, write_report
from elm_hf.scoring.scores import Questions, ScoreBook
from elm_hf.scoring.subgroups import (
    LEAST_GROUP,
    age_band,
    noise_uv,
    rate_band,
    record_facts,
    report_subgroups,
    worst_sentence,
)


RENDERS_CHARTS = True

NUM_PATIENTS = 240


def table_of(share_of, conditions=("ecg", "none")) -> pd.DataFrame:
    """One question about each patient; of the patients of each group `share_of` them are answered right with the ECG."""
    rows = []
    for condition in conditions:
        for patient in range(NUM_PATIENTS):
            place = patient // 2 % 20 / 20  # the same in both sexes
            right = place < (share_of(patient) if condition == "ecg" else 0.2)
            row = question_row(
                f"q{patient}", condition, "single-verify", ["yes"], "yes" if right else "no", [f"s/{patient}"]
            )
            rows.append(row | {"record_ids": [f"r{patient}"]})
    return pd.DataFrame(rows)


def facts_of(question: str) -> list[dict]:
    patient = int(question[1:].split("#")[0])
    age = (25, 45, 65, 80, 300, None)[patient // 40]
    labels = ["sinus rhythm", "Baseline drift"] if patient % 3 else ["sinus rhythm", "a", "b", "c"]
    return [
        {
            "sex": ("female", "male")[patient % 2],
            "age": age,
            "labels": labels,
            "source": "one",
            "site": str(patient // 15),
        }
    ]


@pytest.fixture(scope="module")
def biased():
    """Answers about women are right in 0.9, about men in 0.5 of the cases."""
    book = ScoreBook(Questions(table_of(lambda patient: (0.9, 0.5)[patient % 2])), 1000, 0)
    return report_subgroups(book, facts_of)


def test_a_planted_difference_is_found_and_named(biased):
    found = biased["kinds"]["short"]["attributes"]["sex"]["groups"]
    assert found["female"]["score"]["score"] == pytest.approx(0.9) and found["male"]["score"][
        "score"
    ] == pytest.approx(0.5)
    difference = found["male"]["difference"]
    assert difference["score"] == pytest.approx(-0.4) and difference["p_value_holm"] < 0.001
    # Newcombe (1998): the distances of the ends from exact intervals of both shares, squared and added.
    (low, high), (rest_low, rest_high) = (
        stats.binomtest(number, 120).proportion_ci(method="exact") for number in (60, 108)
    )
    expected = (-0.4 - np.hypot(0.5 - low, rest_high - 0.9), -0.4 + np.hypot(high - 0.5, 0.9 - rest_low))
    assert (difference["low"], difference["high"]) == pytest.approx(expected, abs=0.015)
    sentence = biased["kinds"]["short"]["sentence"]
    assert sentence.startswith("The worst subgroup is sex male (exact_match 0.500, -0.400 [")
    assert f"corrected for {biased['comparisons']} comparisons, 120 patients)" in sentence
    assert found["female"]["reliance"]["reads_ecg"] and found["female"]["reliance"]["score"] == pytest.approx(0.7)


def test_all_differences_are_corrected_together(biased):
    """Holm (1979) by hand."""
    groups = [one for each in biased["kinds"]["short"]["attributes"].values() for one in each["groups"].values()]
    differences = sorted((one["difference"] for one in groups if "difference" in one), key=lambda one: one["p_value"])
    assert len(differences) == biased["comparisons"] > 8
    largest = 0.0
    for place, one in enumerate(differences):
        largest = max(largest, min(1, one["p_value"] * (len(differences) - place)))
        assert one["p_value_holm"] == pytest.approx(largest)


def test_groups_are_those_of_the_records(biased):
    attributes = biased["kinds"]["short"]["attributes"]
    ages = attributes["age"]
    assert list(ages["groups"]) == ["18 to 39", "40 to 59", "60 to 74", "75 to 89", "90 and over"]
    assert ages["left_out"] == {"unknown": 40}
    assert {name: one["answers"] for name, one in attributes["findings"]["groups"].items()} == {
        "1": 160,
        "4 or more": 80,
    }
    assert attributes["noise stated"]["groups"]["noise"]["answers"] == 160
    assert "source" not in attributes  # all ECGs are of one
    small = attributes["site"]["groups"]["0"]
    assert small["patients"] == 15 < LEAST_GROUP and "score" not in small and "not scored" in small["note"]
    assert [age_band(age) for age in (None, float("nan"), 0, 17, 18, 89, 90, 300)] == [
        None, None, "under 18", "under 18", "18 to 39", "75 to 89", "90 and over", "90 and over",
    ]  # fmt: skip
    bands = [rate_band(rate) for rate in (float("nan"), 59.9, 60, 100, 100.1)]
    assert bands == [None, "below 60 per minute", *["60 to 100 per minute"] * 2, "above 100 per minute"]


def test_without_a_difference_no_group_is_called_worse():
    book = ScoreBook(Questions(table_of(lambda patient: 0.7)), 300, 0)
    found = report_subgroups(book, facts_of)["kinds"]["short"]
    assert found["sentence"].startswith(
        "No subgroup is below the rest beyond chance; the lowest difference is that of "
    )
    assert worst_sentence({"attributes": {}, "metric": "exact_match"}, 0).startswith(
        "No subgroups were compared: it takes"
    )


def test_a_comparison_of_two_groups_is_in_none(tiny_elm, tmp_path):
    predictions = table_of(lambda patient: 0.7)
    mixed = predictions["question_id"] == "q0#0"
    predictions.loc[mixed, "record_ids"] = pd.Series([["r0", "r1"]] * 2, index=predictions.index[mixed])

    def facts(question: str) -> list[dict]:
        return facts_of("q0#0") + facts_of("q1#0") if question == "q0#0" else facts_of(question)

    report = write_report(tmp_path, predictions, RUN, facts_of=facts)
    sex = report["subgroups"]["kinds"]["short"]["attributes"]["sex"]
    assert sex["left_out"] == {"several": 1} and sex["groups"]["female"]["answers"] == NUM_PATIENTS // 2 - 1
    written = (tmp_path / "report.md").read_text()
    assert (tmp_path / report["figures"]["subgroups"]).stat().st_size > 10_000
    assert "## Subgroups" in written and "![Score and signal reliance of each group](figures/subgroups.png)" in written
    assert "In no group: sex several (1 answers)" in written
    assert "Too small to be scored: site 0 (" in written
    assert report["subgroups"]["kinds"]["short"]["sentence"] in str(model_card(tiny_elm, "my-elm", None, [report]))
    assert build_report(Questions(predictions), RUN, None, 0)["subgroups"] is None


def test_rate_noise_and_problems_are_measured():
    """A third of the ECGs has noise of a known size, another third a flat lead."""
    rng = np.random.default_rng(0)
    clean = simulate_ecg(draw_findings(rng), rng, 10).astype(np.float32)
    noisy, flat = clean + rng.normal(0, 0.02, clean.shape).astype(np.float32), clean.copy()
    one, two = noisy[:2]
    noisy[2:6] = two - one, -(one + two) / 2, one - two / 2, two - one / 2
    flat[7] = 0.0
    assert noise_uv(noisy) == pytest.approx(np.hypot(20, noise_uv(clean)), rel=0.1)
    assert np.isnan(noise_uv(np.full((12, 500), np.nan)))

    def ecgs_of(question: str) -> tuple[list[np.ndarray], float]:
        return [(clean, noisy, flat)[int(question[1:].split("#")[0]) % 3]], 250

    predictions = table_of(lambda patient: (0.9, 0.3, 0.9)[patient % 3])
    predictions["record_ids"] = [[f"r{int(name[1:-2]) % 3}"] for name in predictions["question_id"]]  # three ECGs
    book = ScoreBook(Questions(predictions), 300, 0)
    measured = {f"r{number}": {"heart_rate": 110.0 if number == 0 else 50.0} for number in range(3)}
    found = report_subgroups(book, lambda question: [{}], ecgs_of, measured)["kinds"]["short"]
    assert found["attributes"]["signal"]["groups"]["doubtful signal"]["answers"] == 80
    noise = found["attributes"]["noise measured"]["groups"]
    assert next(one["answers"] for name, one in noise.items() if name.startswith("most noise")) == 80
    assert found["sentence"].startswith("The worst subgroup is noise measured most noise (from ")
    rates = {name: one["answers"] for name, one in found["attributes"]["heart rate"]["groups"].items()}
    assert rates == {"below 60 per minute": 160, "above 100 per minute": 80}


def test_facts_are_the_columns_that_a_dataset_has(simulated_dataset):
    found = record_facts(simulated_dataset, {3, 1})
    assert list(found) == [1, 3] and set(found[1]) == {"age", "sex", "labels", "source"}
    assert found[1]["sex"] in ("female", "male") and found[1]["labels"]
    assert record_facts(simulated_dataset, set()) == {}
