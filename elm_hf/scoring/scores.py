"""Scores with intervals from the table of predictions: by question type, and averaged."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import special

from elm_hf.data.reasoning_steps import STEP_TYPES
from elm_hf.scoring.intervals import (
    CONFIDENCE,
    LEAST_PATIENTS,
    PatientBootstrap,
    Support,
    korn_graubard_interval,
    resampled_variance,
)
from elm_hf.scoring.metrics import statement_counts, token_f1
from elm_hf.scoring.predictions import CONFIDENCE_COLUMNS
from elm_hf.utils.exact_match import answer_items, final_answer, is_exact_match
from elm_hf.utils.reports import METRIC_OF_KIND


if TYPE_CHECKING:  # it needs torch
    from elm_hf.scoring.bert_score import BertScorer


UNTYPED = "(no type)"
FREE_TEXT_WORDS = 5
# Share of resamples in which a score must be defined. That of a type is if one of its patients was drawn, which fails in
# 0.14 of the resamples for two patients, in 0.002 for six.
LEAST_RESAMPLES = 0.8
SHARES = ("exact_match", "accuracy")  # metrics by which each answer is right or wrong
OF_LONG_ANSWERS = ("bleu_4", "meteor", "meteor_no_synonyms", "bert_score")
SINGLE_TYPES = ("single-verify", "single-choose", "single-query")

# Columns of the values that are summed over answers; after them BLEU's counts of all answers, BLEU's counts of answers of
# four words or more, and BERTScore, which is computed for all answers at once.
SUMMED = ("answers", "exact_match", "token_f1", "shared", "predicted", "true", "rouge_l", "long", "meteor")
BLEU_1, BLEU_4 = slice(9, 19), slice(19, 29)
BERT_SCORE = 29
NUM_SUMMED = 30


class Questions:
    """
    The questions of a table of predictions, each once, and the answers under each condition.

    Args:
        predictions: a row per question and condition, with the columns of docs/evaluation.md.

    Attributes:
        table: a row per question that has a true answer; `kind` is `"short"` or `"text"`.
        answers: condition to list of predictions, without their reasoning, in the order of `table`.
        confidences: condition to a table with `CONFIDENCE_COLUMNS`, in the order of `table`.
        without_truth: number of questions that were omitted because they have no true answer.

    Raises:
        ValueError: there is nothing to score, or the conditions have different questions.
    """

    def __init__(self, predictions: pd.DataFrame):
        by_condition = {
            name: rows.set_index("question_id") for name, rows in predictions.groupby("condition", sort=False)
        }
        if not by_condition:
            raise ValueError("the table of predictions is empty: there is nothing to score")
        first = next(iter(by_condition))
        table = by_condition[first]
        for name, rows in by_condition.items():
            missing = len(table.index.symmetric_difference(rows.index))
            if missing or not rows.index.is_unique:
                problem = f"{missing} questions are in one only" if missing else "some were answered twice"
                raise ValueError(f"conditions {first!r} and {name!r} need the same questions, once each: {problem}")
        self.table = scored_questions(table)
        self.without_truth = len(table) - len(self.table)
        if not len(self.table):
            raise ValueError(f"none of the {len(table)} questions has a true answer: there is nothing to score")
        self.answers = {
            name: [final_answer(text) for text in rows["prediction"].reindex(self.table.index)]
            for name, rows in by_condition.items()
        }
        self.unfinished = {
            name: int((~rows["finished"].reindex(self.table.index).astype(bool)).sum())
            for name, rows in by_condition.items()
        }
        self.confidences = {
            name: rows.reindex(index=self.table.index, columns=CONFIDENCE_COLUMNS)
            for name, rows in by_condition.items()
        }

    def values(self, condition: str) -> np.ndarray:
        """The values that are summed over answers, `(questions, 30)`; BERTScore is 0."""
        rows = zip(self.answers[condition], self.table["answer"], self.table["truth"], self.table["kind"])
        return np.stack(
            [answer_values(prediction, tuple(items), truth, kind) for prediction, items, truth, kind in rows]
        )


@lru_cache(maxsize=200_000)
def answer_values(prediction: str, items: tuple[str, ...], truth: str, kind: str) -> np.ndarray:
    """The values of one answer that are summed over answers, `(30,)`; those that are not defined for it are 0."""
    values = np.zeros(NUM_SUMMED)
    values[0] = 1
    values[2] = token_f1(prediction, truth)
    values[3:6] = statement_counts(prediction, truth)
    if kind == "short":
        values[1] = is_exact_match(prediction, list(items))
        return values
    from elm_hf.scoring.text_metrics import has_long_answer, text_scores

    rouge_l, meteor, *bleu = text_scores(prediction, truth)
    values[6], values[BLEU_1] = rouge_l, bleu
    if has_long_answer(truth):
        values[7], values[8], values[BLEU_4] = 1, meteor, bleu
    return values


def check_text_metrics(kinds: Sequence[str]) -> None:
    """
    Checks that free-text answers can be scored.

    Raises:
        ImportError: the libraries that score them are not installed.
    """
    missing = [name for name in ("sacrebleu", "rouge_score", "nltk") if find_spec(name) is None]
    if "text" in kinds and missing:
        raise ImportError(
            f"free-text answers are scored with {', '.join(missing)}; install elm-hf with its extra `eval`: "
            "pip install 'elm-hf[eval]'"
        )


def scored_questions(table: pd.DataFrame) -> pd.DataFrame:
    """
    The questions that have a true answer, with `kind` and `truth`, the text that predictions are compared with. Question
    types whose true items have more than five words on average are free text: reports, not names of findings.
    """
    table = table.assign(answer=[[final_answer(item) for item in items] for items in table["answer"]])
    table = table[table["answer"].map(lambda items: bool(answer_items(", ".join(items)))).astype(bool)]
    table = table.assign(question_type=table["question_type"].fillna(UNTYPED).astype(str))
    words = table["answer"].map(lambda items: np.mean([len(item.split()) for item in items]))
    is_text = words.groupby(table["question_type"]).transform("mean") > FREE_TEXT_WORDS
    is_text &= ~table["question_type"].isin(STEP_TYPES)  # a choice between options
    truths = [
        final_answer(whole) if text else ", ".join(items)
        for whole, items, text in zip(table["messages_answer"], table["answer"], is_text)
    ]
    return table.assign(kind=np.where(is_text, "text", "short"), truth=truths)


class ScoreBook:
    """
    Scores of groups of questions under all conditions, with intervals from the same resamples.

    Args:
        questions: questions with their answers.
        num_resamples, seed: number of resamples of the bootstrap over patients, and its random seed.
        bert_scorer: adds BERTScore to the scores of free text.
    """

    def __init__(self, questions: Questions, num_resamples: int, seed: int, bert_scorer: "BertScorer | None" = None):
        check_text_metrics(questions.table["kind"].tolist())
        self.questions = questions
        self.conditions = list(questions.answers)
        self.values = {name: questions.values(name) for name in self.conditions}
        self.has_bert_score = bert_scorer is not None
        if bert_scorer is not None:
            self._add_bert_scores(bert_scorer)
        self.bootstrap = PatientBootstrap(questions.table["patient_ids"].tolist(), num_resamples, seed)

    def _add_bert_scores(self, bert_scorer: "BertScorer") -> None:
        """Adds BERTScore of all answers, under all conditions, whose true answer has four words or more."""
        rows = np.flatnonzero(self.values[self.conditions[0]][:, SUMMED.index("long")])
        truths = self.questions.table["truth"].iloc[rows].tolist()
        pairs = {
            name: list(zip([self.questions.answers[name][row] for row in rows], truths)) for name in self.conditions
        }
        scores = bert_scorer.scores(pair for some in pairs.values() for pair in some)
        for name, some in pairs.items():
            self.values[name][rows, BERT_SCORE] = [scores[pair] for pair in some]

    def samples(self, rows: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
        """For each condition and metric an array `(1 + num_resamples,)`: the score itself, then the resampled scores."""
        kind = self.questions.table["kind"].iloc[rows[0]]
        stacked = np.concatenate([self.values[name][rows] for name in self.conditions], axis=1)
        parts = np.split(self.bootstrap.samples(stacked, rows), len(self.conditions), axis=1)
        metrics = (metrics_of_sums(part, kind, self.has_bert_score) for part in parts)
        return dict(zip(self.conditions, metrics))

    def group(self, rows: np.ndarray) -> dict:
        """The scores of the questions with these row numbers, as in `report.json`."""
        samples = self.samples(rows)
        num_patients = self.bootstrap.count_patients(rows)
        num_long = int(self.values[self.conditions[0]][rows, SUMMED.index("long")].sum())
        kind = self.questions.table["kind"].iloc[rows[0]]
        conditions = {}
        for name in self.conditions:
            conditions[name] = {}
            for metric, values in samples[name].items():
                num_answers = num_long if metric in OF_LONG_ANSWERS else len(rows)
                support = Support(min(num_patients, num_answers), num_answers, metric in SHARES)
                conditions[name][metric] = score_entry(values, support) | {"answers": num_answers}
        return {"kind": kind, "answers": len(rows), "patients": num_patients, "conditions": conditions}

    def average(self, groups: Mapping[str, np.ndarray]) -> dict:
        """The mean over groups of questions of one kind, each of two patients or more. All groups have the same weight."""
        kind = self.questions.table["kind"].iloc[next(iter(groups.values()))[0]]
        metric = METRIC_OF_KIND[kind]
        samples = [self.samples(rows) for rows in groups.values()]
        rows = np.concatenate(list(groups.values()))
        num_patients = self.bootstrap.count_patients(rows)
        support = average_support(list(map(self.bootstrap.least, groups.values())), num_patients, len(rows))
        conditions = {
            name: score_entry(np.mean([one[name][metric] for one in samples], axis=0), support)
            for name in self.conditions
        }
        conditions = {name: {metric: entry | {"answers": len(rows)}} for name, entry in conditions.items()}
        of_what = {"kind": kind, "averaged": list(groups), "answers": len(rows), "patients": num_patients}
        return of_what | {"conditions": conditions}


def average_support(patients_of_groups: Sequence[int], num_patients: int, num_answers: int) -> Support:
    """What an average over groups rests on: each group counts as if it had as few patients as the smallest."""
    return Support(min(num_patients, len(patients_of_groups) * min(patients_of_groups)), num_answers)


def metrics_of_sums(sums: np.ndarray, kind: str, has_bert_score: bool = False) -> dict[str, np.ndarray]:
    """Metrics `(n,)` from sums over answers `(n, 30)`; NaN where a metric is defined for no answer."""
    column = dict(zip(SUMMED, sums.T))
    with np.errstate(invalid="ignore", divide="ignore"):
        statements = {
            "statement_precision": column["shared"] / column["predicted"],
            "statement_recall": column["shared"] / column["true"],
            "statement_f1": 2 * column["shared"] / (column["predicted"] + column["true"]),
        }
        f1 = {"token_f1": column["token_f1"] / column["answers"]} | statements
        if kind == "short":
            return {"exact_match": column["exact_match"] / column["answers"]} | f1
        from elm_hf.scoring.text_metrics import bleu_of_sums, has_wordnet

        meteor = "meteor" if has_wordnet() else "meteor_no_synonyms"
        bert_score = {"bert_score": sums[:, BERT_SCORE] / column["long"]} if has_bert_score else {}
        bleu_4 = [bleu_of_sums(row[BLEU_4], 4) if row[7] else np.nan for row in sums]
        return {
            "rouge_l": column["rouge_l"] / column["answers"],
            "bleu_1": np.array([bleu_of_sums(row[BLEU_1], 1) for row in sums]),
            "bleu_4": np.array(bleu_4),
            meteor: column["meteor"] / column["long"],
            **bert_score,
            **f1,
        }


def score_entry(values: np.ndarray, support: Support) -> dict:
    """
    `score`, `low`, `high` and, where one of them is missing or is not to be relied on, a `note`; `undefined_resamples` is
    the number of resamples in which the score is not defined, if there are any.

    Args:
        values: `(1 + num_resamples,)`, the score itself first.
        support: what the score rests on.
    """
    score, samples = values[0], values[1:]
    if np.isnan(score):
        return {"score": None, "low": None, "high": None, "note": "not defined: no answer to rest on"}
    limits, has_interval = limits_of(samples, support)
    entry = {"score": float(score), "low": None, "high": None} | limits
    if has_interval:
        variance = resampled_variance(samples, support)
        entry["low"], entry["high"] = korn_graubard_interval(min(max(float(score), 0.0), 1.0), variance, support)
    return entry


def mean_entry(values: np.ndarray, support: Support) -> dict:
    """
    As [`score_entry`] for a mean from 0 on without an upper limit: Student's interval with the variance of the resamples.

    Args:
        values: `(1 + num_resamples,)`, the mean itself first.
        support: what the mean rests on.
    """
    mean, samples = float(values[0]), values[1:]
    limits, has_interval = limits_of(samples, support)
    entry = {"score": mean, "low": None, "high": None} | limits
    if has_interval:
        error = resampled_variance(samples, support) ** 0.5
        reach = float(special.stdtrit(support.patients - 1, (1 + CONFIDENCE) / 2)) * error
        entry |= {"low": max(0.0, mean - reach), "high": mean + reach}
    return entry


def limits_of(samples: np.ndarray, support: Support) -> tuple[dict, bool]:
    """
    What limits a score: `undefined_resamples` and `note` as in [`score_entry`], where there are any, and whether the score
    has an interval.

    Args:
        samples: `(num_resamples,)`, the score in each resample; NaN where it is not defined.
        support: what the score rests on.
    """
    if support.patients < 2:
        return {"note": "one patient or one answer: no interval"}, False
    undefined = int(np.isnan(samples).sum())
    limits = {"undefined_resamples": undefined} if undefined else {}
    if undefined > (1 - LEAST_RESAMPLES) * len(samples):
        return limits | {"note": "parts of it have too few patients: no interval"}, False
    if support.patients < LEAST_PATIENTS:
        limits["note"] = f"less than {LEAST_PATIENTS} patients or answers: the interval is not to be relied on"
    return limits, True
