"""Figures of ECG-Reasoning-Benchmark: completion, depth and accuracy of each step, with and without the true history."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import pandas as pd
from datasets import Dataset

from elm_hf.data.reasoning_steps import (
    GROUNDING_TYPES,
    INITIAL,
    LEAD_GROUNDING,
    RELEASE,
    REPLACED_DIAGNOSES,
    STEP_TYPES,
)
from elm_hf.interpretations.reasoning_options import chosen_options
from elm_hf.scoring.intervals import (
    CONFIDENCE,
    LEAST_PATIENTS,
    NUM_RESAMPLES,
    Difference,
    PatientBootstrap,
    Support,
    p_value_of,
)
from elm_hf.scoring.names import controls_of
from elm_hf.scoring.scores import score_entry
from elm_hf.utils.exact_match import final_answer


# Largest depth of a loop: criterion, finding, grounding and decision count 1 each.
MAX_DEPTH = 4
# Figures of each sample; each is a sum over samples divided by another one.
FIGURES = ("initial_accuracy", "completion", "depth", "diagnosis_accuracy", *STEP_TYPES[1:], "no_option")
HISTORIES = ("ground_truth", "own")
_NOT_SHARES = ("depth",)


@dataclass(frozen=True)
class Sample:
    """
    A conversation of the benchmark.

    Attributes:
        name: its `conversation_id`.
        diagnosis, is_present: what is asked for, and whether it is there.
        patients: whose ECG it is about.
        steps: with `type`, `loop`, `options` and `answer`, in the order in which they are asked.
    """

    name: str
    diagnosis: str
    is_present: bool
    patients: tuple[str, ...]
    steps: tuple[dict, ...]


def list_samples(rows: Dataset, questions: pd.DataFrame) -> list[Sample]:
    """
    The samples of a split.

    Args:
        rows: conversations with the columns of `STEP_FEATURES`.
        questions: of [`list_questions`], which name the patients.
    """
    first = questions[questions["turn"] == 0]
    patients = dict(zip(first["conversation_id"], first["patient_ids"]))
    columns = rows.select_columns(["conversation_id", "target_dx", "dx_label", "steps"]).with_format(None)
    return [
        Sample(
            row["conversation_id"],
            row["target_dx"],
            row["dx_label"],
            tuple(patients[row["conversation_id"]]),
            tuple(row["steps"]),
        )
        for row in columns
    ]


def reasoning_report(samples: Sequence[Sample], tables: Mapping[str, pd.DataFrame], seed: int = 0) -> dict:
    """
    The figures under every condition, with intervals over patients, for all samples, each diagnosis and each label.

    Args:
        samples: of [`list_samples`].
        tables: predictions behind the true answers (`"ground_truth"`) and behind the model's own (`"own"`).
        seed: random seed of the bootstrap.

    Returns:
        `reasoning` of `report.json` (docs/evaluation.md has its schema).
    """
    bootstrap = PatientBootstrap([one.patients for one in samples], NUM_RESAMPLES, seed)
    values = {
        history: {condition: _values(samples, said) for condition, said in _answers(tables[history]).items()}
        for history in HISTORIES
    }
    everything = np.arange(len(samples))
    diagnoses = sorted({one.diagnosis for one in samples})
    of_diagnosis = np.array([one.diagnosis for one in samples])
    is_present = np.array([one.is_present for one in samples])

    def group(rows: np.ndarray) -> dict:
        figures = {
            history: {name: _figures(those, rows, bootstrap) for name, those in by_condition.items()}
            for history, by_condition in values.items()
        }
        counts = {"samples": len(rows), "patients": bootstrap.count_patients(rows)}
        return counts | {"present": int(is_present[rows].sum()), "histories": figures}

    return group(everything) | {
        "steps": sum(len(one.steps) for one in samples),
        "reliance": {history: _reliance(those, bootstrap) for history, those in values.items()},
        "chance": _chance(samples),
        "diagnoses": {
            name: group(np.flatnonzero(of_diagnosis == name))
            | {"void_before": RELEASE if name in REPLACED_DIAGNOSES else None}
            for name in diagnoses
        },
        "labels": {
            name: group(np.flatnonzero(is_present == label))
            for name, label in (("present", True), ("absent", False))
            if (is_present == label).any()
        },
    }


def _answers(table: pd.DataFrame) -> dict[str, dict[str, str]]:
    """Condition to question to answer, without its reasoning."""
    return {
        name: dict(zip(rows["question_id"], map(final_answer, rows["prediction"])))
        for name, rows in table.groupby("condition", sort=False)
    }


def _values(samples: Sequence[Sample], said: Mapping[str, str]) -> np.ndarray:
    """What each sample adds to the numerator and the denominator of each figure: `(samples, figures, 2)`."""
    return np.array([_sample_values(one, said) for one in samples])


def _sample_values(sample: Sample, said: Mapping[str, str]) -> list[tuple[float, float]]:
    chosen = [
        chosen_options(said[f"{sample.name}#{turn}"], tuple(step["options"]), step["type"] == LEAD_GROUNDING)
        for turn, step in enumerate(sample.steps)
    ]
    right = [found == frozenset(step["answer"]) for found, step in zip(chosen, sample.steps)]
    depths = [
        loop_depth([step["type"] for step in loop], those)
        for loop, those in _loops(sample.steps, right)
        if any(step["type"] in GROUNDING_TYPES for step in loop)
    ]
    found = {
        "initial_accuracy": (right[0], 1),
        "completion": (all(right[1:]), 1),
        "depth": (sum(depths) / MAX_DEPTH, len(depths)),
        "diagnosis_accuracy": (right[-1], 1),
        "no_option": (chosen.count(None), len(chosen)),
    }
    for kind in STEP_TYPES[1:]:
        of_kind = [is_right for is_right, step in zip(right, sample.steps) if step["type"] == kind]
        found[kind] = (sum(of_kind), len(of_kind))
    return [found[name] for name in FIGURES]


def _loops(steps: Sequence[dict], right: Sequence[bool]) -> list[tuple[list[dict], list[bool]]]:
    """The steps of each criterion, and which were answered rightly."""
    pairs = [(step, is_right) for step, is_right in zip(steps, right) if step["type"] != INITIAL]
    grouped = [list(those) for _, those in groupby(pairs, key=lambda pair: pair[0]["loop"])]
    return [([step for step, _ in those], [is_right for _, is_right in those]) for those in grouped]


def loop_depth(kinds: Sequence[str], right: Sequence[bool]) -> float:
    """
    How far a loop is right, from 0 to 4: criterion, finding, grounding and decision count 1 each up to the first error, and
    several grounding questions share theirs.

    Args:
        kinds, right: of each step of the loop, in order: its type, and whether it was answered rightly.
    """
    groundings = sum(kind in GROUNDING_TYPES for kind in kinds)
    reached = 0.0
    for kind, is_right in zip(kinds, right):
        if not is_right:
            break
        reached += 1 / groundings if kind in GROUNDING_TYPES else 1
    return reached


def _figures(values: np.ndarray, rows: np.ndarray, bootstrap: PatientBootstrap) -> dict[str, dict]:
    """The entry of each figure of the samples `rows`."""
    sums = bootstrap.samples(values[rows].reshape(len(rows), -1), rows).reshape(-1, len(FIGURES), 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = sums[..., 0] / sums[..., 1]
    return {
        name: _entry(ratios[:, number], values[rows, number, 1], rows, bootstrap, name)
        for number, name in enumerate(FIGURES)
    }


def _entry(ratios: np.ndarray, of: np.ndarray, rows: np.ndarray, bootstrap: PatientBootstrap, figure: str) -> dict:
    """The entry of a figure from its values in the resamples; `of (samples,)` is what each sample adds to the denominator."""
    if not of.any():
        return {"score": None, "low": None, "high": None, "note": "no step of this kind", "of": 0}
    support = Support(bootstrap.least(rows[of > 0]), int(of.sum()), figure not in _NOT_SHARES)
    entry, scale = score_entry(ratios, support), MAX_DEPTH if figure == "depth" else 1
    entry |= {name: entry[name] * scale for name in ("score", "low", "high") if entry[name] is not None}
    return entry | {"of": int(of.sum())}


def _reliance(values: Mapping[str, np.ndarray], bootstrap: PatientBootstrap) -> dict[str, dict]:
    """For completion and depth, the figure with the ECG minus the best one without it, as in `signal_reliance`."""
    controls = controls_of(values)
    return {name: _reliance_of(name, values, controls, bootstrap) for name in ("completion", "depth")}


def _reliance_of(
    figure: str, values: Mapping[str, np.ndarray], controls: Sequence[str], bootstrap: PatientBootstrap
) -> dict:
    entry = dict.fromkeys(("score", "low", "high", "p_value", "best_control", "reads_ecg"))
    number, scale = FIGURES.index(figure), MAX_DEPTH if figure == "depth" else 1
    if not controls or not values["ecg"][:, number, 1].any():
        return entry | {"note": "not measured: it needs answers with the ECG and without"}
    rows = np.flatnonzero(values["ecg"][:, number, 1])
    of = values["ecg"][rows, number, 1]
    parts = {name: values[name][rows, number, 0] for name in ("ecg", *controls)}
    best = max(controls, key=lambda name: parts[name].sum())
    entry |= {"score": scale * float((parts["ecg"] - parts[best]).sum() / of.sum()), "best_control": best}
    support = Support(bootstrap.least(rows), int(of.sum()), figure not in _NOT_SHARES)
    if support.patients < LEAST_PATIENTS:
        return entry | {"note": f"less than {LEAST_PATIENTS} patients"}
    differences = [_difference(parts["ecg"] - parts[name], of, rows, bootstrap, support) for name in controls]
    upper = 1 - (1 - CONFIDENCE) / len(controls)
    entry["low"] = scale * min(one.interval()[0] for one in differences)
    entry["high"] = scale * min(one.interval(upper)[1] for one in differences)
    entry["p_value"] = p_value_of(lambda confidence: all(one.interval(confidence)[0] > 0 for one in differences))
    return entry | {"reads_ecg": entry["low"] > 0}


def _difference(
    changes: np.ndarray, of: np.ndarray, rows: np.ndarray, bootstrap: PatientBootstrap, support: Support
) -> Difference:
    sums = bootstrap.samples(np.stack([changes.clip(0), (-changes).clip(0), of], axis=1), rows)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = sums[:, :2] / sums[:, 2:]
    return Difference.of_samples(means[:, 0], means[:, 1], support)


def _chance(samples: Sequence[Sample]) -> dict[str, float | None]:
    """The expected figures of one who draws an option, or for leads any set of options but the empty one, at random."""
    values = np.array([_chance_of(one) for one in samples])
    sums = values.sum(axis=0)
    return {
        name: None if not sums[number, 1] else float(sums[number, 0] / sums[number, 1])
        for number, name in enumerate(FIGURES)
    } | {"no_option": 0.0}


def _chance_of(sample: Sample) -> list[tuple[float, float]]:
    chances = [
        1 / (2 ** len(step["options"]) - 1 if step["type"] == LEAD_GROUNDING else len(step["options"]))
        for step in sample.steps
    ]
    depths = []
    for loop, those in _loops(sample.steps, chances):
        groundings = sum(step["type"] in GROUNDING_TYPES for step in loop)
        if groundings:
            worth = [1 / groundings if step["type"] in GROUNDING_TYPES else 1 for step in loop]
            depths.append(float(np.dot(np.cumprod(those), worth)))
    found = {
        "initial_accuracy": (chances[0], 1),
        "completion": (float(np.prod(chances[1:])), 1),
        "depth": (sum(depths), len(depths)),
        "diagnosis_accuracy": (chances[-1], 1),
        "no_option": (0.0, 1),
    }
    for kind in STEP_TYPES[1:]:
        of_kind = [chance for chance, step in zip(chances, sample.steps) if step["type"] == kind]
        found[kind] = (sum(of_kind), len(of_kind))
    return [found[name] for name in FIGURES]
