"""The results of the counterfactual probe, from the table of its answers: curves with limits, and shares with intervals."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from elm_hf.evaluation.intervals import (
    LEAST_PATIENTS,
    NUM_RESAMPLES,
    Support,
    korn_graubard_interval,
    resampled_variance,
)
from elm_hf.evaluation.learned_limits import BEYOND, CONSTANT, LIMIT, REVERSED, UNRELATED, learned_limit
from elm_hf.evaluation.probe_plan import (
    CHANGES,
    EXCHANGE,
    EXCHANGED,
    REVERSAL,
    RHYTHM,
    RHYTHM_CASES,
    SWEEP,
    SWEEPS,
    TERRITORY,
    UNCHANGED,
    Sweep,
)
from elm_hf.evaluation.probe_questions import ELEVATIONS, FIBRILLATION, RIGHT_AXIS, ProbeQuestion
from elm_hf.evaluation.probe_records import RECORD_REVERSAL, RECORD_SWEEP, RECORD_SWEEPS


PROBE_SCHEMA = 1
# A question counts as answered if the probability of its answers together is at least this on average.
LEAST_KNOWN = 0.1
NOT_ANSWERED = "not answered"


def probe_results(
    table: pd.DataFrame, questions: Mapping[str, Sequence[ProbeQuestion]], run: dict, seed: int = 0
) -> dict:
    """
    The results of a probe.

    Args:
        table: of [`~elm_hf.evaluation.probe.ask_probe`].
        questions: of each finding.
        run: what was probed, for the report.
        seed: random seed of the intervals.

    Returns:
        Results as in `probe.json` (docs/evaluation.md).
    """
    known = table.groupby("question")["known"].mean()
    answered = table[table["question"].map(known) >= LEAST_KNOWN]
    curves = [
        _curve(sweep, question, table[(table["part"] == SWEEP) & (table["name"] == sweep.finding)], seed)
        for sweep in SWEEPS
        for question in questions[sweep.finding]
    ]
    return {
        "schema": PROBE_SCHEMA,
        "run": run,
        "curves": curves,
        "unchanged": _unchanged(answered, seed),
        "changed": _changed(answered, seed),
        "rhythm": _rhythm(answered, seed),
        "exchange": _exchange(answered, seed),
        "territory": _territory(answered, seed),
        "records": _records(table, answered, questions, seed),
        "not_asked": [finding for finding, found in questions.items() if not found],
    }


def _records(table: pd.DataFrame, answered: pd.DataFrame, questions: Mapping, seed: int) -> dict | None:
    """Curves and pairs of recorded ECGs; None without such ECGs."""
    swept = table[table["part"] == RECORD_SWEEP]
    if swept.empty:
        return None
    curves = [
        _curve(sweep, question, swept[swept["name"] == sweep.finding], seed)
        for sweep in RECORD_SWEEPS
        for question in questions[sweep.finding]
    ]
    changed = _sweep_pairs(answered, RECORD_SWEEP, RECORD_SWEEPS, seed)
    reversed_ = answered[answered["part"] == RECORD_REVERSAL]
    changed += _pairs("arm electrodes exchanged or not", RIGHT_AXIS, reversed_, seed)
    return {"patients": int(swept["patient"].nunique()), "curves": curves, "changed": changed}


def share_entry(hits: Sequence[bool], patients: Sequence[int], seed: int) -> dict:
    """A share with its 95 % interval over patients, which is None with fewer than six."""
    hits, patients = np.asarray(hits, dtype=float), list(patients)
    found = {"share": None, "low": None, "high": None, "answers": len(hits), "patients": len(set(patients))}
    if not len(hits):
        return found
    found["share"] = float(hits.mean())
    if found["patients"] < LEAST_PATIENTS:
        return found
    _, place = np.unique(patients, return_inverse=True)
    sums = np.stack([np.bincount(place, hits), np.bincount(place)], axis=1)
    drawn = np.random.default_rng(seed).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), NUM_RESAMPLES) @ sums
    support = Support(found["patients"], len(hits), is_share=True)
    variance = resampled_variance(drawn[:, 0] / drawn[:, 1], support)
    found["low"], found["high"] = korn_graubard_interval(found["share"], variance, support)
    return found


def _curve(sweep: Sweep, question: ProbeQuestion, table: pd.DataFrame, seed: int) -> dict:
    of_question = table[table["question"] == question.text].sort_values(["patient", "value"])
    values = np.array(sweep.values)
    says, probability = (of_question[name].to_numpy().reshape(-1, len(values)) for name in ("says", "probability"))
    known = float(of_question["known"].mean())
    found = learned_limit(values, says, sweep.is_above, seed)
    if known < LEAST_KNOWN:
        found |= {"verdict": NOT_ANSWERED} | dict.fromkeys(("limit", "low", "high", "width", "curve"))
    curve = {
        "finding": sweep.finding,
        "quantity": sweep.quantity,
        "unit": sweep.unit,
        "question": question.text,
        "answers": list(question.answers),
        "positive": question.positive,
        "clinical_limit": sweep.limit,
        "is_above": sweep.is_above,
        "values": values.tolist(),
        "share": says.mean(axis=0).tolist(),
        "probability": probability.mean(axis=0).tolist(),
        "known": known,
        "patients": len(says),
    }
    return curve | found | {"sentence": _sentence(curve | found)}


def _sentence(curve: dict) -> str:
    unit, shares, positive = curve["unit"], curve["share"], f'"{curve["positive"]}"'
    verdict = curve["verdict"]
    if verdict == NOT_ANSWERED:
        return f"no limit: the model gives other answers (probability of the expected ones {curve['known']:.2f})"
    if verdict == LIMIT:
        side = "above" if curve["is_above"] else "below"
        agrees = "agrees with" if agrees_with_clinic(curve) else "differs from"
        return (
            f"{positive} {side} {limit_text(curve)}, which {agrees} the clinical limit of "
            f"{number(curve['clinical_limit'], unit)}"
        )
    low, high = sorted((shares[0], shares[-1]))
    reasons = {
        CONSTANT: f"{positive} in {np.mean(shares):.0%} of the answers",
        UNRELATED: f"the answers do not follow the {curve['quantity']}",
        REVERSED: f"the answers follow the {curve['quantity']} in the wrong direction",
        BEYOND: f"{positive} in {low:.0%} to {high:.0%} of the answers",
    }
    first, last = curve["probability"][0], curve["probability"][-1]
    return f"no limit: {reasons[verdict]}; the mean probability goes from {first:.2f} to {last:.2f}"


def agrees_with_clinic(curve: dict) -> bool:
    """Whether the interval of the learned limit includes the clinical one."""
    return curve["low"] <= curve["clinical_limit"] <= curve["high"]


def limit_text(curve: dict) -> str:
    """The learned limit with its interval and unit."""
    limit, low, high = (number(curve[name], curve["unit"]) for name in ("limit", "low", "high"))
    return f"{limit} [{low}, {high}] {curve['unit']}"


def limit_summary(curves: Sequence[dict]) -> str:
    """How many limits the model has learned, in a sentence."""
    learned = [curve for curve in curves if curve["verdict"] == LIMIT]
    agree = [curve for curve in learned if agrees_with_clinic(curve)]
    if not learned:
        return f"No limit: none of {len(curves)} questions is answered according to the measurement that it asks for."
    findings = ", ".join(dict.fromkeys(curve["finding"] for curve in learned))
    return (
        f"{len(learned)} of {len(curves)} questions are answered with a limit ({findings}); {len(agree)} of these limits "
        "agree with the clinical one."
    )


def number(value: float, unit: str) -> str:
    """A value with the digits that matter."""
    return f"{value:.2f}" if unit == "mV" else f"{value:.0f}"


def _unchanged(table: pd.DataFrame, seed: int) -> list[dict]:
    """For each change that must not matter, the share of the right answers that stay right, and of all that stay the same."""
    keys = ["finding", "patient", "value", "question"]
    before = table[table["part"] == SWEEP][[*keys, "answer", "says", "truth"]]
    after = table[table["part"] == UNCHANGED][[*keys, "name", "answer", "says"]]
    pairs = after.merge(before, on=keys, suffixes=("", "_before"))
    pairs["right"] = pairs["says_before"] == pairs["truth"].astype(bool)
    found = []
    for name in (*(change.name for change in CHANGES), "all"):
        those = pairs if name == "all" else pairs[pairs["name"] == name]
        right = those[those["right"]]
        stays_right = share_entry(right["says"] == right["says_before"], right["patient"], seed)
        same = share_entry(those["answer"] == those["answer_before"], those["patient"], seed)
        found.append({"change": name, "stays_right": stays_right, "same_answer": same})
    return found


def _changed(table: pd.DataFrame, seed: int) -> list[dict]:
    """For each finding the share of pairs of ECGs, one with it and one without, about which both answers are right."""
    found = _sweep_pairs(table, SWEEP, SWEEPS, seed)
    rhythms = table[(table["part"] == RHYTHM) & table["name"].isin(("P waves, regular", "f waves, irregular"))]
    found += _pairs("sinus rhythm or atrial fibrillation", FIBRILLATION, rhythms, seed)
    found += _pairs("arm electrodes exchanged or not", RIGHT_AXIS, table[table["part"] == REVERSAL], seed)
    for finding, leads in EXCHANGED.items():
        exchanged = table[(table["part"] == EXCHANGE) & (table["finding"] == finding)]
        found += _pairs(f"it is in the {leads}, or in the others", finding, exchanged, seed)
    return found


def _sweep_pairs(table: pd.DataFrame, part: str, sweeps: Sequence[Sweep], seed: int) -> list[dict]:
    """The pairs of the first and the last value of each sweep."""
    found = []
    for sweep in sweeps:
        ends = table[(table["part"] == part) & (table["name"] == sweep.finding)]
        ends = ends[ends["value"].isin((sweep.values[0], sweep.values[-1]))]
        first, last = (number(sweep.values[end], sweep.unit) for end in (0, -1))
        found += _pairs(f"{sweep.quantity} {first} or {last} {sweep.unit}", sweep.finding, ends, seed)
    return found


def _pairs(name: str, finding: str, table: pd.DataFrame, seed: int) -> list[dict]:
    found = []
    for question, rows in table.groupby("question", sort=False):
        right = (rows["says"] == rows["truth"].astype(bool)).groupby(rows["patient"]).all()
        entry = share_entry(right.to_numpy(), right.index.to_list(), seed)
        found.append({"pair": name, "finding": finding, "question": question, "both_right": entry})
    return found


def _rhythm(table: pd.DataFrame, seed: int) -> list[dict]:
    """How often each combination of atrial waves and regularity is called atrial fibrillation."""
    found = []
    for (atria, irregular), truth in RHYTHM_CASES.items():
        name = f"{atria}, {'irregular' if irregular else 'regular'}"
        cases = table[(table["part"] == RHYTHM) & (table["name"] == name)]
        for question, rows in cases.groupby("question", sort=False):
            share = share_entry(rows["says"], rows["patient"], seed)
            case = {"atrial_waves": atria, "irregular": irregular, "truth": truth}
            found.append(case | {"question": question, "fibrillation": share})
    return found


def _exchange(table: pd.DataFrame, seed: int) -> list[dict]:
    """
    How often the answer follows the leads that show the finding, and how often the other leads, if these are of two patients
    of whom one has the finding.
    """
    found = []
    for finding, leads in EXCHANGED.items():
        cases = table[(table["part"] == EXCHANGE) & (table["finding"] == finding)]
        for question, rows in cases.groupby("question", sort=False):
            says = rows.pivot(index="patient", columns="name", values="says").astype(bool)
            own, other = says["in its leads"], says["in the other leads"]
            patients = says.index.to_list()
            entry = {"finding": finding, "leads": leads, "question": question}
            entry |= {
                "follows_its_leads": share_entry(own & ~other, patients, seed),
                "follows_other_leads": share_entry(other & ~own, patients, seed),
            }
            found.append(entry)
    return found


def _territory(table: pd.DataFrame, seed: int) -> list[dict]:
    """How often elevation in each territory is seen in each territory that is asked about."""
    found = []
    for finding in ELEVATIONS.values():
        for shown in ELEVATIONS:
            cases = table[(table["part"] == TERRITORY) & (table["finding"] == finding) & (table["name"] == shown)]
            for question, rows in cases.groupby("question", sort=False):
                share = share_entry(rows["says"], rows["patient"], seed)
                found.append({"shown": shown, "asked": finding, "question": question, "says_so": share})
    return found
