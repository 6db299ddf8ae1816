"""A control that knows the question and the patient's age and sex, and nothing else: what these give away of the answers."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

from elm_hf.scoring.intervals import LEAST_PATIENTS, Support
from elm_hf.scoring.names import AGE_AND_SEX
from elm_hf.scoring.predictions import PersonsOf
from elm_hf.scoring.reliance import paired_differences
from elm_hf.scoring.scores import SHARES, SUMMED, Questions, ScoreBook
from elm_hf.scoring.training_answers import answered, most_frequent, template_keys, train_answers
from elm_hf.utils.reports import METRIC_OF_KIND


# A question with fewer training answers shares the regression of its template.
LEAST_ANSWERS = 100
# A regression learns from up to this number of answers, drawn evenly.
MOST_ANSWERS = 4000
# Answers that are given less often are not learned.
LEAST_OF_CLASS = 5
# How many answers the template's frequencies count as, where they are combined with those of a question.
PRIOR = 2.0
AGE_SCALE, MIDDLE_AGE = 20.0, 60.0
STRENGTH = 1.0  # inverse of the L2 penalty


def demographic_answers(
    questions: pd.DataFrame, persons: Sequence[tuple[float | None, str | None]], training_rows: pd.DataFrame
) -> list[str]:
    """
    Answer questions from their words and the age and sex of the patient.

    Each question with `LEAST_ANSWERS` training answers or more has a logistic regression of its answer on age, its square,
    and sex. The others share one of their template, whose probabilities are multiplied by how much more frequent each answer
    is to the question than to the template. A question of an unknown template has the most frequent answer of its type.

    Args:
        questions: with `question_type`, `template_id` and `question`.
        persons: age in years and sex of the patient of each question, None where unknown.
        training_rows: the same columns for the training patients, `answer` (a list of strings), `age` and `sex`.
    """
    training_rows = answered(training_rows)
    answers = train_answers(training_rows)
    levels = [dict(zip(("template", "type"), template_keys(rows))) for rows in (training_rows, questions)]
    for level, rows in zip(levels, (training_rows, questions)):
        level["question"] = [f"{template}\n{words}" for template, words in zip(level["template"], rows["question"])]
    known, asked = levels
    places = {name: pd.Series(range(len(answers))).groupby(keys).indices for name, keys in known.items()}
    features = person_features(training_rows["age"], training_rows["sex"])
    wanted = person_features(*zip(*persons)) if len(persons) else np.zeros((0, 5))
    said = np.full(len(questions), most_frequent(answers), dtype=object)
    asked = pd.DataFrame(asked)
    for template, those in asked.groupby("template", sort=False):
        rows = places["template"].get(template)
        if rows is None:
            for kind, of_type in those.groupby("type"):
                if kind in places["type"]:
                    said[of_type.index] = most_frequent(answers.iloc[places["type"][kind]])
            continue
        shared = None
        for question, few in those.groupby("question", sort=False):
            own = places["question"].get(question, np.zeros(0, int))
            if len(own) >= LEAST_ANSWERS:
                said[few.index] = _Regression(features[own], answers.iloc[own]).answers(wanted[few.index])
                continue
            if shared is None:
                shared = _Regression(features[rows], answers.iloc[rows])
            said[few.index] = shared.answers(wanted[few.index], answers.iloc[own])
    return said.tolist()


def person_features(ages: Sequence[float | None], sexes: Sequence[str | None]) -> np.ndarray:
    """
    Age and sex as numbers, `(patients, 5)`: age (0 at 60 years, 1 at 80) and its square, both 0 where it is unknown, whether it
    is unknown, male, female.
    """
    years = np.array([np.nan if age is None else age for age in ages], dtype=float)
    scaled = np.nan_to_num((years - MIDDLE_AGE) / AGE_SCALE)
    sex = np.array([[one == name for name in ("male", "female")] for one in sexes], dtype=float).reshape(-1, 2)
    return np.column_stack([scaled, scaled**2, np.isnan(years), sex])


class _Regression:
    """The answer to a question, or to those of a template, from age and sex; without two frequent answers the most frequent one."""

    def __init__(self, features: np.ndarray, answers: pd.Series):
        from sklearn.linear_model import LogisticRegression  # loading it takes half a second

        chosen = np.unique(np.linspace(0, len(answers) - 1, min(len(answers), MOST_ANSWERS)).astype(int))
        features, answers = features[chosen], answers.iloc[chosen].reset_index(drop=True)
        counts = answers.value_counts()
        learned = answers.isin(counts.index[counts >= LEAST_OF_CLASS])
        self._majority, self._model = most_frequent(answers), None
        if answers[learned].nunique() > 1:
            self._model = LogisticRegression(C=STRENGTH, max_iter=500)
            self._model.fit(features[learned], answers[learned])
            self._share = counts[self._model.classes_].to_numpy() / counts[self._model.classes_].sum()

    def answers(self, features: np.ndarray, own: pd.Series | None = None) -> list[str]:
        """
        The most probable answers to a question.

        Args:
            features: of the patients, `(patients, 5)`.
            own: training answers to this very question, if the regression is that of its template.
        """
        frequent = Counter(() if own is None else own)
        if self._model is None or not set(frequent) <= set(self._model.classes_):
            return [most_frequent(own) if frequent else self._majority] * len(features)
        probability = self._model.predict_proba(features)
        if frequent:
            counted = np.array([frequent[name] for name in self._model.classes_])
            probability *= (counted + PRIOR * self._share) / self._share
        return self._model.classes_[probability.argmax(axis=1)].tolist()


def add_age_and_sex(questions: Questions, training_rows: pd.DataFrame, persons_of: PersonsOf | None) -> None:
    """
    Add the answers of [`demographic_answers`] to those of the conditions, where age or sex is known. Of questions about several
    ECGs the first patient counts.
    """
    if persons_of is None or "age" not in training_rows or not training_rows[["age", "sex"]].notna().any(axis=None):
        return
    persons = [next(iter(persons_of(name)), (None, None)) for name in questions.table.index]
    questions.answers[AGE_AND_SEX] = demographic_answers(questions.table, persons, training_rows)


def report_demographics(book: ScoreBook, rows_of_kind: dict[str, np.ndarray]) -> dict[str, dict] | None:
    """
    What age and sex alone give, and by how much the answers with the ECG are better: for each kind of answers `metric`, both
    scores, and their difference with its 95 % interval and p-value, or a `note` if there are too few patients for these. None
    without this control.
    """
    if not {AGE_AND_SEX, "ecg"} <= set(book.conditions):
        return None
    found = {}
    for kind, rows in rows_of_kind.items():
        metric = METRIC_OF_KIND[kind]
        with_ecg, without = (book.values[name][rows, SUMMED.index(metric)] for name in ("ecg", AGE_AND_SEX))
        support = Support(book.bootstrap.least(rows), len(rows), metric in SHARES)
        entry = {"metric": metric, "answers": len(rows), "with_ecg": float(with_ecg.mean())}
        entry |= {"age_and_sex": float(without.mean()), "difference": float((with_ecg - without).mean())}
        entry |= dict.fromkeys(("low", "high", "p_value"))
        if support.patients < LEAST_PATIENTS:
            entry["note"] = f"less than {LEAST_PATIENTS} patients or answers: no interval"
        else:
            difference = paired_differences((with_ecg - without)[:, None], rows, book, support)[0]
            entry["low"], entry["high"] = difference.interval()
            entry["p_value"] = difference.p_value()
        found[kind] = entry
    return found


def demographics_section(found: dict | None) -> list[str]:
    """The section about age and sex alone, from the key `demographics` of a report."""
    if not found:
        return []
    sentences = []
    for kind, entry in found.items():
        interval = f" ({entry['note']})" if "note" in entry else ""
        if entry["low"] is not None:
            interval = f" [{entry['low']:.3f}, {entry['high']:.3f}]"
        sentences.append(
            f"{kind}: {entry['with_ecg']:.3f} with the ECG, {entry['age_and_sex']:.3f} from question, age and sex alone, "
            f"difference {entry['difference']:+.3f}{interval}."
        )
    text = "A logistic regression for each question or template, fitted to the training patients, answers from the words of the "
    text += "question and the age and sex of the patient. It sees no ECG."
    return ["## Age and sex alone\n\n" + "\n\n".join([text, *sentences])]
