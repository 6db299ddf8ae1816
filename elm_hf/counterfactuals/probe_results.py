"""The results of the counterfactual probe, from the table of its answers: curves with limits, and shares with intervals."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from elm_hf.counterfactuals.learned_limits import BEYOND, CONSTANT, FEW, LIMIT, REVERSED, UNRELATED, learned_limit
from elm_hf.counterfactuals.probe_plan import (
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
    rhythm_name,
)
from elm_hf.counterfactuals.probe_questions import ELEVATIONS, FIBRILLATION, RIGHT_AXIS, ProbeQuestion
from elm_hf.counterfactuals.probe_records import RECORD_REVERSAL, RECORD_RHYTHM, RECORD_SWEEP, RECORD_SWEEPS
from elm_hf.counterfactuals.probe_shares import share_entry, share_text
from elm_hf.counterfactuals.probe_stretches import stretch_results, stretch_sentence
from elm_hf.ecg.verified_changes import F_WAVES, P_WAVES
from elm_hf.scoring.intervals import LEAST_PATIENTS


PROBE_SCHEMA = 2
# A question counts as answered if the probability of its answers together is at least this on average.
LEAST_KNOWN = 0.1
NOT_ANSWERED = "not answered"


def probe_results(
    table: pd.DataFrame, questions: Mapping[str, Sequence[ProbeQuestion]], run: dict, seed: int = 0
) -> dict:
    """
    The results of a probe.

    Args:
        table: of [`~elm_hf.counterfactuals.probe.ask_probe`].
        questions: of each finding.
        run: what was probed, for the report.
        seed: random seed of the intervals.

    Returns:
        Results as in `probe.json` (docs/counterfactuals.md).
    """
    known = table.groupby("question")["known"].mean()
    answered = table[table["question"].map(known) >= LEAST_KNOWN]
    curves = [
        _curve(sweep, question, table[(table["part"] == SWEEP) & (table["name"] == sweep.finding)], seed)
        for sweep in SWEEPS
        for question in questions[sweep.finding]
    ]
    unchanged, stretches = _unchanged(answered, seed), stretch_results(answered, questions, seed)
    return {
        "schema": PROBE_SCHEMA,
        "run": run,
        "summary": [
            limit_summary(curves),
            *stretch_sentence(stretches),
            *_unchanged_sentence(unchanged[-1]["stays_right"]),
        ],
        "curves": curves,
        "unchanged": unchanged,
        "changed": _changed(answered, seed),
        "rhythm": _rhythm(answered, RHYTHM, seed),
        "exchange": _exchange(answered, seed),
        "stretches": stretches,
        "territory": _territory(answered, seed),
        "records": _records(table, answered, questions, run.get("recorded_ecgs", 0), seed),
        "not_asked": [finding for finding, found in questions.items() if not found],
    }


def _records(table: pd.DataFrame, answered: pd.DataFrame, questions: Mapping, number: int, seed: int) -> dict | None:
    """Curves, pairs and rhythms of `number` recorded ECGs, and how many could not be changed; None without such ECGs."""
    if not number:
        return None
    swept = table[table["part"] == RECORD_SWEEP]
    curves = [
        _curve(sweep, question, rows, seed)
        for sweep in RECORD_SWEEPS
        for rows in [swept[swept["name"] == sweep.finding]]
        if len(rows)
        for question in questions[sweep.finding]
    ]
    changed = _sweep_pairs(answered, RECORD_SWEEP, RECORD_SWEEPS, seed)
    changed += _rhythm_pairs(answered, RECORD_RHYTHM, seed)
    reversed_ = answered[answered["part"] == RECORD_REVERSAL]
    changed += _pairs("arm electrodes exchanged or not", RIGHT_AXIS, reversed_, seed)
    changes = {f"{sweep.quantity} ({sweep.finding})": (RECORD_SWEEP, sweep.finding) for sweep in RECORD_SWEEPS}
    changes |= {"atrial waves and regularity": (RECORD_RHYTHM, FIBRILLATION)}
    changes |= {"arm electrodes": (RECORD_REVERSAL, RIGHT_AXIS)}
    left_out = {}
    for name, (part, finding) in changes.items():
        those = table[(table["part"] == part) & (table["finding"] == finding)]
        if questions[finding]:
            left_out[name] = number - int(those["patient"].nunique())
    rhythm = _rhythm(answered, RECORD_RHYTHM, seed)
    return {"patients": number, "left_out": left_out, "curves": curves, "changed": changed, "rhythm": rhythm}


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
    if verdict == FEW:
        found = "" if curve["limit"] is None else f"; {positive} {_side(curve)} {limit_text(curve)} in these"
        return f"no interval: {curve['patients']} patients are too few to state a limit (expected {LEAST_PATIENTS} or more){found}"
    if verdict == LIMIT:
        agrees = "agrees with" if agrees_with_clinic(curve) else "differs from"
        return (
            f"{positive} {_side(curve)} {limit_text(curve)}, which {agrees} the clinical limit of "
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


def _side(curve: dict) -> str:
    return "above" if curve["is_above"] else "below"


def agrees_with_clinic(curve: dict) -> bool:
    """Whether the interval of the learned limit includes the clinical one."""
    return curve["low"] <= curve["clinical_limit"] <= curve["high"]


def limit_text(curve: dict) -> str:
    """The learned limit with its interval, if there is one, and unit."""
    unit = curve["unit"]
    if curve["low"] is None:
        return f"{number(curve['limit'], unit)} {unit}"
    limit, low, high = (number(curve[name], unit) for name in ("limit", "low", "high"))
    return f"{limit} [{low}, {high}] {unit}"


def limit_summary(curves: Sequence[dict]) -> str:
    """How many limits the model has learned, in a sentence."""
    if any(curve["verdict"] == FEW for curve in curves):
        patients = min(curve["patients"] for curve in curves)
        return (
            f"No limit is stated: {patients} patients are too few for intervals (expected {LEAST_PATIENTS} or more)."
        )
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
    found += _rhythm_pairs(table, RHYTHM, seed)
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


def _rhythm_pairs(table: pd.DataFrame, part: str, seed: int) -> list[dict]:
    rhythms = table[
        (table["part"] == part) & table["name"].isin((rhythm_name(P_WAVES, False), rhythm_name(F_WAVES, True)))
    ]
    return _pairs("sinus rhythm or atrial fibrillation", FIBRILLATION, rhythms, seed)


def _pairs(name: str, finding: str, table: pd.DataFrame, seed: int) -> list[dict]:
    found = []
    for question, rows in table.groupby("question", sort=False):
        right = (rows["says"] == rows["truth"].astype(bool)).groupby(rows["patient"]).all()
        entry = share_entry(right.to_numpy(), right.index.to_list(), seed)
        found.append({"pair": name, "finding": finding, "question": question, "both_right": entry})
    return found


def _unchanged_sentence(stays: dict) -> list[str]:
    if stays["share"] is None:
        return []
    return [
        f"When only noise, gain, sampling rate, start or electrodes without a part in the finding change, {share_text(stays)} of "
        "the right answers stay right."
    ]


def _rhythm(table: pd.DataFrame, part: str, seed: int) -> list[dict]:
    """How often each combination of atrial waves and regularity is called atrial fibrillation."""
    found = []
    for (atria, irregular), truth in RHYTHM_CASES.items():
        name = rhythm_name(atria, irregular)
        cases = table[(table["part"] == part) & (table["name"] == name)]
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
