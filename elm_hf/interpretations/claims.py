"""The claims of answers, checked against the measured ECG: how many are true, and which abnormal findings are stated."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import numpy as np
import pandas as pd

from elm_hf.data.reasoning_steps import STEP_TYPES
from elm_hf.ecg.claim_checks import FALSE, NOT_CHECKABLE, TOLERANCES, TRUE, measure_for_claims
from elm_hf.ecg.claim_scores import FINDINGS, JudgedText, finding_of, judge_text
from elm_hf.ecg.claims import find_claims
from elm_hf.interpretations.claims_markdown import claims_sentence
from elm_hf.scoring.intervals import CONFIDENCE, LEAST_PATIENTS, Difference, PatientBootstrap, Support, p_value_of
from elm_hf.scoring.names import TRUE_ANSWERS, controls_of
from elm_hf.scoring.predictions import EcgsOf, PersonsOf
from elm_hf.scoring.scores import Questions, mean_entry, score_entry


# Types of questions that ask for all findings although their answers are short.
ASK_FOR_EVERYTHING = ("report", "findings")


def report_claims(
    questions: Questions,
    bootstrap: PatientBootstrap,
    ecgs_of: EcgsOf,
    persons_of: PersonsOf | None = None,
    measured: dict[str, Mapping[str, float]] | None = None,
) -> dict | None:
    """
    Check the claims of the answers under every condition, and of the true answers, against the true ECG.

    Questions about one ECG count, of the types that are free text or in which a true answer makes a claim. Abnormal
    findings can only be missed where all are asked for: in free text, and in the types `ASK_FOR_EVERYTHING`.

    Args:
        questions: questions with their answers.
        bootstrap: over the patients of these questions.
        ecgs_of, persons_of: give the ECGs of a question by its id, and the ages and sexes of their patients.
        measured: what was measured before, by `record_id`; what is measured is added.

    Returns:
        `claims` of `report.json` (docs/evaluation.md has its schema); None if no answer makes a claim.
    """
    table = questions.table
    answers = {**questions.answers, TRUE_ANSWERS: table["truth"].tolist()}
    rows = _rows_with_claims(table)
    if not len(rows) or not any(find_claims(said[row]) for said in answers.values() for row in rows):
        return None
    judge = text_judge(table, ecgs_of, persons_of, measured)
    judged = {name: [judge(row, said[row]) for row in rows] for name, said in answers.items()}
    asks_for_all = (table["kind"].iloc[rows] == "text") | table["question_type"].iloc[rows].isin(ASK_FOR_EVERYTHING)
    book = _ClaimBook(rows, bootstrap, asks_for_all.to_numpy())
    found = {
        "answers": len(rows),
        "patients": bootstrap.count_patients(rows),
        "of_several_ecgs": int((table["record_ids"].map(len) > 1).sum()),
        "asking_for_all_findings": int(asks_for_all.sum()),
        "tolerances": TOLERANCES,
        "conditions": {name: book.condition(those) for name, those in judged.items()},
        "reliance": book.reliance(judged),
    }
    return found | {"sentence": claims_sentence(found)}


def _rows_with_claims(table: pd.DataFrame) -> np.ndarray:
    """Rows of the questions about one ECG, of types that are free text or in which a true answer makes a claim."""
    has_claim = table["truth"].map(lambda truth: bool(find_claims(truth))).astype(bool) | (table["kind"] == "text")
    of_type = has_claim.groupby(table["question_type"]).transform("any")
    of_type &= ~table["question_type"].isin(STEP_TYPES)  # options to choose from, not claims
    return np.flatnonzero(of_type & (table["record_ids"].map(len) == 1))


def text_judge(
    table: pd.DataFrame,
    ecgs_of: EcgsOf,
    persons_of: PersonsOf | None,
    measured: dict[str, Mapping[str, float]] | None = None,
) -> Callable[[int, str], JudgedText]:
    """Judges a text about the ECG of a row of the table. Each ECG is measured once, and kept in `measured`."""
    measured = {} if measured is None else measured

    @cache
    def judge(row: int, text: str) -> JudgedText:
        record, question = table["record_ids"].iloc[row][0], table.index[row]
        if record not in measured:
            ecgs, sampling_rate = ecgs_of(question)
            measured[record] = measure_for_claims(ecgs[0], sampling_rate)
        age, sex = persons_of(question)[0] if persons_of is not None else (None, None)
        return judge_text(text, measured[record], sex, age)

    return judge


class _ClaimBook:
    """
    Figures about judged answers, with intervals over patients.

    Args:
        rows: numbers of the questions.
        bootstrap: over the patients of all questions.
        asks_for_all: for each of the rows whether the question asks for all findings.
    """

    def __init__(self, rows: np.ndarray, bootstrap: PatientBootstrap, asks_for_all: np.ndarray):
        self.rows, self.bootstrap, self.asks_for_all = rows, bootstrap, asks_for_all

    def condition(self, judged: Sequence[JudgedText]) -> dict:
        """What is reported of a condition."""
        verdicts = [Counter(check.verdict for check in one.checks) for one in judged]
        true, false = (np.array([one[name] for one in verdicts], float) for name in (TRUE, FALSE))
        hedged = sum(check.claim.hedged for one in judged for check in one.checks)
        open_ones = sum(one[NOT_CHECKABLE] for one in verdicts) - hedged
        present, stated = (
            np.array([len(names) for names in those], float) * self.asks_for_all
            for those in ([one.findings for one in judged], [one.stated for one in judged])
        )
        return {
            "claims": int(true.sum() + false.sum()) + open_ones + hedged,
            "true": int(true.sum()),
            "false": int(false.sum()),
            "not_checkable": open_ones,
            "hedged": hedged,
            "precision": self._share(true, true + false),
            "false_per_answer": self._mean(false),
            "answers_with_false": self._share((false > 0).astype(float), np.ones(len(judged))),
            "recall": self._share(stated, present),
            "score": _stretched(
                self._share(np.array([(1 + one.score) / 2 for one in judged]), np.ones(len(judged)), False)
            ),
            "findings": self._by_finding(judged),
        }

    def _by_finding(self, judged: Sequence[JudgedText]) -> dict[str, dict]:
        """The claims that state each abnormal finding, and how often it is present and stated."""
        found = {}
        for name in FINDINGS:
            verdicts = [
                Counter(check.verdict for check in one.checks if finding_of(check.claim) == name) for one in judged
            ]
            true, false = (np.array([one[verdict] for one in verdicts], float) for verdict in (TRUE, FALSE))
            present = np.array([name in one.findings for one in judged], float) * self.asks_for_all
            stated = np.array([name in one.stated for one in judged], float) * self.asks_for_all
            if not (true.sum() + false.sum() + present.sum()):
                continue
            found[name] = {
                "true": int(true.sum()),
                "false": int(false.sum()),
                "not_checkable": sum(one[NOT_CHECKABLE] for one in verdicts),
                "precision": self._share(true, true + false),
                "present": int(present.sum()),
                "stated": int(stated.sum()),
                "recall": self._share(stated, present),
            }
        return found

    def _share(self, part: np.ndarray, whole: np.ndarray, is_share: bool = True) -> dict:
        """The entry of the sum of `part (answers,)` over the sum of `whole`."""
        counted = np.flatnonzero(whole)
        if not len(counted):
            return {"score": None, "low": None, "high": None, "note": "there is none", "of": 0}
        rows = self.rows[counted]
        sums = self.bootstrap.samples(np.stack([part[counted], whole[counted]], axis=1), rows)
        with np.errstate(invalid="ignore", divide="ignore"):
            values = sums[:, 0] / sums[:, 1]
        number = int(whole.sum())
        support = Support(self.bootstrap.least(rows), number, is_share)
        return score_entry(values, support) | {"of": number}

    def _mean(self, values: np.ndarray) -> dict:
        """The entry of a mean without an upper limit."""
        means = self.bootstrap.means(values[:, None], self.rows)[:, 0]
        return mean_entry(means, Support(self.bootstrap.least(self.rows), len(values))) | {"of": len(values)}

    def reliance(self, judged: Mapping[str, Sequence[JudgedText]]) -> dict:
        """The mean score with the ECG minus the best one without it, as in `signal_reliance`."""
        empty = dict.fromkeys(("score", "low", "high", "p_value", "best_control"))
        controls = controls_of(judged)
        if "ecg" not in judged or not controls:
            return empty | {"note": "not measured: it needs answers with the ECG and without", "reads_ecg": None}
        scores = {name: np.array([one.score for one in judged[name]]) for name in ("ecg", *controls)}
        best = max(controls, key=lambda name: scores[name].mean())
        entry = empty | {"score": float((scores["ecg"] - scores[best]).mean()), "best_control": best}
        support = Support(self.bootstrap.least(self.rows), len(self.rows))
        if support.patients < LEAST_PATIENTS:
            return entry | {"note": f"less than {LEAST_PATIENTS} patients or answers", "reads_ecg": None}
        differences = [self._difference(scores["ecg"] - scores[name], support) for name in controls]
        upper = 1 - (1 - CONFIDENCE) / len(controls)
        entry["low"] = 2 * min(one.interval()[0] for one in differences)
        entry["high"] = 2 * min(one.interval(upper)[1] for one in differences)
        entry["p_value"] = p_value_of(lambda confidence: all(one.interval(confidence)[0] > 0 for one in differences))
        return entry | {"reads_ecg": entry["low"] > 0}

    def _difference(self, changes: np.ndarray, support: Support) -> Difference:
        """Half of the mean difference of scores from -1 to 1."""
        halves = changes / 2
        means = self.bootstrap.means(np.stack([halves.clip(0), (-halves).clip(0)], axis=1), self.rows)
        return Difference.of_samples(means[:, 0], means[:, 1], support)


def _stretched(entry: dict) -> dict:
    """The entry of a share as that of a score from -1 to 1."""
    ends = {name: 2 * entry[name] - 1 for name in ("score", "low", "high") if entry[name] is not None}
    return entry | ends
