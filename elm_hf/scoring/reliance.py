"""Signal reliance: by how much the score with the ECG exceeds the best score without it, for all answers and by type."""

from collections.abc import Mapping, Sequence

import numpy as np

from elm_hf.scoring.intervals import CONFIDENCE, LEAST_PATIENTS, Difference, Support, holm, p_value_of
from elm_hf.scoring.names import PART_CONDITIONS, controls_of
from elm_hf.scoring.scores import SHARES, SUMMED, ScoreBook
from elm_hf.utils.reports import METRIC_OF_KIND


NO_EVIDENCE = "No evidence that this model's answers depend on the ECG"


def signal_reliance(book: ScoreBook, rows: np.ndarray, controls: Sequence[str] | None = None) -> dict:
    """
    The score with the ECG minus the best score without it, a 95 % interval and a p-value.

    The largest of several noisy scores is too large on average, and a bootstrap of it adds the same error again. So the
    lower end is the least of the lower ends of the differences to each control, and the upper end the least of their
    upper ends with the error divided among them (an intersection-union test, Berger 1982). The ECG counts as read only if
    the score with it beats every control; the p-value is below 0.05 exactly where the lower end is above 0.

    Args:
        book: scores with the ECG and of controls.
        rows: numbers of the questions, all of one kind.
        controls: the conditions to compare with. By default all that have no true ECG.
    """
    metric = METRIC_OF_KIND[book.questions.table["kind"].iloc[rows[0]]]
    if controls is None:
        controls = controls_of(book.conditions)
    empty = dict.fromkeys(("score", "low", "high", "p_value"))
    entry = {"metric": metric, "answers": len(rows), "patients": book.bootstrap.count_patients(rows)} | empty
    if "ecg" not in book.conditions or not controls:
        return entry | {"note": "not measured: it needs answers with the ECG and without", "reads_ecg": None}
    if not book.questions.table["record_ids"].iloc[rows].map(len).any():
        return entry | {"note": "no question is about an ECG", "reads_ecg": None}
    column = SUMMED.index(metric)
    scores = {name: book.values[name][rows, column] for name in ("ecg", *controls)}
    entry["scores"] = {name: float(values.mean()) for name, values in scores.items()}
    best = max(controls, key=entry["scores"].get)
    entry |= {"score": entry["scores"]["ecg"] - entry["scores"][best], "best_control": best}
    support = Support(book.bootstrap.least(rows), len(rows), metric in SHARES)
    if support.patients < LEAST_PATIENTS:
        found = f"{len(rows)} answers about {entry['patients']} patients"
        note = f"{found} are too few to tell; it takes {LEAST_PATIENTS} patients, and as many answers, or more"
        return entry | {"note": note, "reads_ecg": None}
    changes = np.stack([scores["ecg"] - scores[name] for name in controls], axis=1)
    differences = paired_differences(changes, rows, book, support)
    upper_confidence = 1 - (1 - CONFIDENCE) / len(controls)
    entry["low"] = min(one.interval()[0] for one in differences)
    entry["high"] = min(one.interval(upper_confidence)[1] for one in differences)
    entry["p_value"] = p_value_of(lambda confidence: all(one.interval(confidence)[0] > 0 for one in differences))
    return entry | {"reads_ecg": entry["low"] > 0}


def paired_differences(changes: np.ndarray, rows: np.ndarray, book: ScoreBook, support: Support) -> list[Difference]:
    """The mean of each column of `changes (questions, columns)`, differences of two scores of each question."""
    number = changes.shape[1]
    means = book.bootstrap.means(np.concatenate([changes.clip(0), (-changes).clip(0)], axis=1), rows)
    return [Difference.of_samples(means[:, one], means[:, number + one], support) for one in range(number)]


def modality_reliance(book: ScoreBook, rows: np.ndarray) -> dict[str, dict]:
    """
    Of a model that reads the signal and its picture, or measured values as well, the score with all of them minus that under
    each of `PART_CONDITIONS`.

    A model reads what changes its answers if it is another patient's, and needs what it answers worse without. `reads_ecg`
    says whether the score falls; it follows from `p_value_holm`, which is corrected for the number of conditions.

    Args:
        book: scores with the whole ECG and under these conditions.
        rows: numbers of the questions, all of one kind.
    """
    conditions = [name for name in PART_CONDITIONS if name in book.conditions]
    return _corrected({name: signal_reliance(book, rows, [name]) for name in conditions})


def reliance_by_type(book: ScoreBook, types: Mapping[str, np.ndarray]) -> dict[str, dict]:
    """
    Signal reliance of each question type. Among many types some would seem to read the ECG by chance, so `reads_ecg`
    follows from `p_value_holm`, which is corrected for the number of types that can be tested.

    Args:
        book: scores with the ECG and of controls.
        types: rows of each question type.
    """
    return _corrected({name: signal_reliance(book, rows) for name, rows in types.items()})


def _corrected(found: dict[str, dict]) -> dict[str, dict]:
    """Adds `p_value_holm` to entries of [`signal_reliance`], and lets `reads_ecg` follow from it."""
    corrected = holm({name: entry["p_value"] for name, entry in found.items() if entry["p_value"] is not None})
    for name, p_value in corrected.items():
        found[name] |= {"p_value_holm": p_value, "reads_ecg": p_value < 1 - CONFIDENCE}
    return found


def reliance_sentence(reliance: dict) -> str:
    """The result of the signal ablation in a sentence."""
    if reliance["reads_ecg"] is None:
        return f"Whether this model's answers depend on the ECG was not settled: {reliance['note']}."
    figures = (
        f"{reliance['metric']} {reliance['scores']['ecg']:.3f} with the ECG, "
        f"{reliance['scores'][reliance['best_control']]:.3f} without ({reliance['best_control']}), "
        f"difference {reliance['score']:.3f} [{reliance['low']:.3f}, {reliance['high']:.3f}]"
    )
    claim = "This model's answers depend on the ECG" if reliance["reads_ecg"] else NO_EVIDENCE
    return f"{claim}: {figures}."
