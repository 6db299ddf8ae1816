"""Calibration: does a model's confidence say how often its answers are right, and what does it gain by not answering?"""

from collections.abc import Sequence

import numpy as np

from elm_hf.scoring.intervals import LEAST_PATIENTS, Difference, PatientBootstrap, Support
from elm_hf.scoring.names import BASELINES, controls_of
from elm_hf.scoring.scores import Questions, score_entry
from elm_hf.utils.exact_match import is_exact_match


NUM_BINS = 10
COVERAGE = 0.8
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
_CURVE_POINTS = 50


def report_calibration(questions: Questions, bootstrap: PatientBootstrap) -> dict | None:
    """
    Compare the confidence in answers with how often they are right, under every condition.

    Args:
        questions: questions with their answers and the confidence in these.
        bootstrap: over the patients of these questions.

    Returns:
        `calibration` of `report.json` (docs/evaluation.md has its schema); None if no answer has a confidence.
    """
    if all(table["answer_set"].isna().all() for table in questions.confidences.values()):
        return None
    book = _CalibrationBook(questions, bootstrap)
    conditions = {name: book.condition(name) for name in book.conditions}
    report = {
        "bins": NUM_BINS,
        "free_text": int((questions.table["kind"] != "short").sum()),
        "conditions": conditions,
        "answer_sets": book.by_answer_set(),
        "length_normalised": book.length_normalised(),
        "risk_coverage": book.risk_coverage(),
    }
    return report | {"sentences": sentences(report)}


class _CalibrationBook:
    """Confidences and right answers under each condition, with figures about them."""

    def __init__(self, questions: Questions, bootstrap: PatientBootstrap):
        self.bootstrap = bootstrap
        self.conditions = [name for name in questions.answers if name not in BASELINES]
        self._short = int((questions.table["kind"] == "short").sum())
        self._columns, self._right = questions.confidences, {}
        for name in self.conditions:
            pairs = zip(questions.answers[name], questions.table["answer"])
            self._right[name] = np.array([is_exact_match(said, list(items)) for said, items in pairs], float)

    def of(self, condition: str, column: str = "confidence") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Numbers of the questions with a confidence, the confidences, and whether the answers are right."""
        values = self._columns[condition][column].to_numpy(float)
        rows = np.flatnonzero(np.isfinite(values))
        return rows, values[rows].clip(0, 1), self._right[condition][rows]

    def condition(self, name: str) -> dict:
        """What is reported of a condition."""
        rows, sure, right = self.of(name)
        if not len(rows):
            return {"answers": 0, "without_confidence": self._short}
        found = self._figures(rows, sure, right) | {"without_confidence": self._short - len(rows)}
        found["overconfidence"] = self._difference(sure - right, rows)
        found["reliability"] = self._reliability(rows, sure, right)
        if name != "ecg" and "ecg" in self.conditions:
            both, with_ecg, without = self._paired(name)
            found["change"] = self._difference(with_ecg - without, both) if len(both) else None
        return found

    def _paired(self, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Questions with a confidence with the ECG and under a condition, and both confidences."""
        (rows, sure, _), (others, without, _) = self.of("ecg"), self.of(name)
        both, places, other_places = np.intersect1d(rows, others, return_indices=True)
        return both, sure[places], without[other_places]

    def _figures(self, rows: np.ndarray, sure: np.ndarray, right: np.ndarray) -> dict:
        """Mean confidence, share of right answers, ECE and Brier score."""
        bins = bins_of(sure)
        in_bin = np.eye(NUM_BINS)[bins]
        values = np.column_stack([sure, right, (sure - right) ** 2, in_bin * (sure - right)[:, None]])
        means = self.bootstrap.means(values, rows)
        error = np.abs(means[:, 3:]).sum(axis=1)
        support = Support(self.bootstrap.least(rows), len(rows))
        return {
            "answers": len(rows),
            "patients": self.bootstrap.count_patients(rows),
            "confidence": score_entry(means[:, 0], support),
            "accuracy": score_entry(means[:, 1], Support(support.patients, len(rows), True)),
            "ece": score_entry(error, support) | {"if_calibrated": expected_error(sure, bins)},
            "brier": score_entry(means[:, 2], support),
        }

    def _difference(self, changes: np.ndarray, rows: np.ndarray) -> dict:
        """The mean of differences of two numbers between 0 and 1 with its interval."""
        means = self.bootstrap.means(np.stack([changes.clip(0), (-changes).clip(0)], axis=1), rows)
        entry = {"score": float(changes.mean()), "low": None, "high": None}
        support = Support(self.bootstrap.least(rows), len(rows))
        if support.patients < LEAST_PATIENTS:
            return entry | {"note": f"less than {LEAST_PATIENTS} patients or answers: no interval"}
        low, high = Difference.of_samples(means[:, 0], means[:, 1], support).interval()
        return entry | {"low": low, "high": high}

    def _reliability(self, rows: np.ndarray, sure: np.ndarray, right: np.ndarray) -> list[dict]:
        """The bins that have answers."""
        bins, found = bins_of(sure), []
        for number in np.unique(bins):
            those = np.flatnonzero(bins == number)
            found.append(
                {
                    "from": float(number / NUM_BINS),
                    "to": float((number + 1) / NUM_BINS),
                    "answers": len(those),
                    "confidence": float(sure[those].mean()),
                    "accuracy": self._share(right[those], rows[those]),
                }
            )
        return found

    def _share(self, right: np.ndarray, rows: np.ndarray) -> dict:
        shares = self.bootstrap.means(right[:, None], rows)[:, 0]
        return score_entry(shares, Support(self.bootstrap.least(rows), len(rows), True))

    def by_answer_set(self) -> dict[str, dict]:
        """The figures with the ECG, by how the answers of the questions are known."""
        if "ecg" not in self.conditions:
            return {}
        rows, sure, right = self.of("ecg")
        kinds = self._columns["ecg"]["answer_set"].to_numpy()[rows]
        return {
            kind: self._figures(rows[kinds == kind], sure[kinds == kind], right[kinds == kind])
            for kind in sorted(set(kinds))
        }

    def length_normalised(self) -> dict | None:
        """The figures with the ECG of answers whose set is known, with both kinds of probabilities."""
        if "ecg" not in self.conditions:
            return None
        rows, normalised, right = self.of("ecg", "length_normalised")
        if not len(rows):
            return None
        sure = self._columns["ecg"]["confidence"].to_numpy(float)[rows].clip(0, 1)
        names = {"probability": sure, "length_normalised": normalised}
        return {name: self._figures(rows, values, right) for name, values in names.items()}

    def risk_coverage(self) -> dict | None:
        """What is right among the answers that the model is surest of, with the ECG."""
        if "ecg" not in self.conditions:
            return None
        rows, sure, right = self.of("ecg")
        if not len(rows):
            return None
        support = Support(self.bootstrap.least(rows), len(rows))
        ones = np.ones((1, len(rows)))
        areas, accuracies = risk_coverage(sure, 1 - right, ones, COVERAGE)
        for weights in self.bootstrap.question_weights_in_chunks(rows):
            more = risk_coverage(sure, 1 - right, weights, COVERAGE)
            areas, accuracies = np.append(areas, more[0]), np.append(accuracies, more[1])
        num_wrong, number = int((1 - right).sum()), len(rows)
        last = np.arange(1, number + 1)
        return {
            "area": score_entry(areas, support),
            "area_of_random_order": num_wrong / number,
            "area_of_best_order": float(((last - (number - num_wrong)).clip(0) / last).mean()),
            "coverage": COVERAGE,
            "accuracy": score_entry(accuracies, Support(support.patients, round(COVERAGE * number), True)),
            "curve": _curve(sure, right),
            "thresholds": [self._threshold(rows, sure, right, threshold) for threshold in THRESHOLDS],
        }

    def _threshold(self, rows: np.ndarray, sure: np.ndarray, right: np.ndarray, threshold: float) -> dict:
        """What is left if the model does not answer below a confidence."""
        kept = np.flatnonzero(sure >= threshold)
        found = {"threshold": threshold, "answers": len(kept), "coverage": len(kept) / len(rows)}
        return found | {"accuracy": self._share(right[kept], rows[kept]) if len(kept) else None}


def bins_of(confidence: np.ndarray) -> np.ndarray:
    """The number of the bin of each confidence, of `NUM_BINS` that are equally wide; limits belong to the lower bin."""
    return np.searchsorted(np.linspace(0, 1, NUM_BINS + 1)[1:-1], confidence)


def expected_error(confidence: np.ndarray, bins: np.ndarray) -> float:
    """
    The ECE to expect of as many independent answers that are right exactly as often as their confidences say: it is above
    0 by chance. The error of each bin is taken for normally distributed.
    """
    variance = np.bincount(bins, confidence * (1 - confidence), NUM_BINS)
    return float(np.sqrt(2 / np.pi * variance).sum() / len(confidence))


def risk_coverage(
    confidence: np.ndarray, wrong: np.ndarray, weights: np.ndarray, coverage: float
) -> tuple[np.ndarray, np.ndarray]:
    """
    The area under the risk-coverage curve, and the share of right answers at a coverage.

    The risk at a coverage is the share of wrong answers among the surest ones; the area is its mean over all numbers of
    answers (El-Yaniv & Wiener 2010; Geifman et al. 2019). Answers of equal confidence count as if their order were random.

    Args:
        confidence: `(answers,)`.
        wrong: `(answers,)`, 1 for a wrong answer, else 0.
        weights: `(samples, answers)`, how often each answer was drawn.
        coverage: share of the answers that are given.

    Returns:
        Area and share of right answers, `(samples,)` each; NaN in a sample without answers.
    """
    order = np.argsort(-confidence, kind="stable")
    starts = np.flatnonzero(np.diff(confidence[order], prepend=np.inf))
    group = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(order))))
    weights = weights[:, order]
    with np.errstate(invalid="ignore", divide="ignore"):
        risk_of_group = np.add.reduceat(weights * wrong[order], starts, axis=1) / np.add.reduceat(
            weights, starts, axis=1
        )
        answered = weights.cumsum(axis=1)
        failed = (weights * np.nan_to_num(risk_of_group)[:, group]).cumsum(axis=1)
        risks = np.where(weights > 0, failed / answered, 0)
        areas = (weights * risks).sum(axis=1) / answered[:, -1]
        accuracies = np.full(len(weights), np.nan)
        for row, (number, errors) in enumerate(zip(answered, failed)):
            if number[-1]:
                given = coverage * number[-1]
                accuracies[row] = 1 - np.interp(given, np.append(0, number), np.append(0, errors)) / given
    return areas, accuracies


def _curve(sure: np.ndarray, right: np.ndarray) -> list[list[float]]:
    """Points of the curve: coverage, share of right answers, and the lowest confidence among these answers."""
    places = np.unique(np.linspace(1, len(sure), _CURVE_POINTS).round().astype(int))
    ordered = np.sort(sure)[::-1]
    ones = np.ones((1, len(sure)))
    accuracies = [risk_coverage(sure, 1 - right, ones, place / len(sure))[1][0] for place in places]
    return [
        [float(place / len(sure)), float(accuracy), float(ordered[place - 1])]
        for place, accuracy in zip(places, accuracies)
    ]


def sentences(calibration: dict) -> list[str]:
    """The results in sentences: is the model too sure, what is gained by not answering, is it as sure without the ECG."""
    found = calibration["conditions"].get("ecg")
    if not found or not found["answers"]:
        return ["Nothing is known of the confidence in answers about the ECG: no such answer has one."]
    difference = found["overconfidence"]
    verdict = "is as sure as it is right, as far as these answers show"
    if difference["low"] is None:
        verdict = "has too few answers to tell whether it is too sure"
    elif difference["low"] > 0:
        verdict = "is too sure"
    elif difference["high"] < 0:
        verdict = "is not sure enough"
    interval = "" if difference["low"] is None else f" [{difference['low']:.3f}, {difference['high']:.3f}]"
    curve = calibration["risk_coverage"]
    told = [
        f"This model {verdict}: mean confidence {found['confidence']['score']:.3f}, right {found['accuracy']['score']:.3f}, "
        f"difference {difference['score']:.3f}{interval}; expected calibration error {found['ece']['score']:.3f} "
        f"({found['ece']['if_calibrated']:.3f} by chance if it were calibrated).",
        f"Of the {100 * curve['coverage']:.0f} % of the answers that it is surest of, {curve['accuracy']['score']:.3f} are "
        f"right; of all, {found['accuracy']['score']:.3f}.",
    ]
    return told + _without_ecg(calibration["conditions"])


def _without_ecg(conditions: dict[str, dict]) -> Sequence[str]:
    others = {name: conditions[name] for name in controls_of(conditions) if conditions[name].get("change") is not None}
    if not others:
        return []
    surest = max(others, key=lambda name: others[name]["confidence"]["score"])
    one = others[surest]
    change = one["change"]
    head = "No evidence that it is less sure without the ECG"
    if change["low"] is not None and change["low"] > 0:
        head = "It is less sure without the ECG"
    elif change["low"] is not None and change["high"] < 0:
        head = "It is no less sure without the ECG"
    interval = "" if change["low"] is None else f" [{change['low']:.3f}, {change['high']:.3f}]"
    return [
        f"{head}: mean confidence {conditions['ecg']['confidence']['score']:.3f} with it, "
        f"{one['confidence']['score']:.3f} without where it is surest ({surest}; right {one['accuracy']['score']:.3f}), "
        f"difference {change['score']:.3f}{interval}."
    ]
