"""The report of an evaluation: `report.json`, `report.md` and figures, made from the table of predictions."""

import json
from collections import Counter
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from elm_hf.counterfactuals.probe_markdown import probe_sections
from elm_hf.evaluation.endpoint_markdown import endpoint_sections
from elm_hf.evaluation.pictures import draw_examples, draw_occlusions
from elm_hf.evaluation.report_markdown import report_markdown
from elm_hf.interpretations.claims import report_claims
from elm_hf.interpretations.claims_markdown import claim_sections
from elm_hf.interpretations.grounding_markdown import grounding_sections
from elm_hf.interpretations.reasoning_markdown import reasoning_sections
from elm_hf.leakage.blind_templates import template_report, template_sections
from elm_hf.leakage.demographics import add_age_and_sex, demographics_section, report_demographics
from elm_hf.leakage.leakage_markdown import leakage_section
from elm_hf.leakage.leakage_report import leakage_of_report
from elm_hf.scoring.calibration import report_calibration
from elm_hf.scoring.calibration_markdown import calibration_sections
from elm_hf.scoring.ecg_bench_metrics import ecg_bench_report, ecg_bench_sections
from elm_hf.scoring.intervals import CONFIDENCE, LEAST_PATIENTS, NUM_RESAMPLES
from elm_hf.scoring.metrics import statements
from elm_hf.scoring.names import (
    BASELINES,
    BLIND,
    DEGRADATION_STEPS_NAME,
    FIGURES_NAME,
    KIND_NAMES,
    OCCLUSION_NAME,
    PROBE_NAME,
    REPORT_TEXT_NAME,
)
from elm_hf.scoring.predictions import EcgsOf, PersonsOf
from elm_hf.scoring.reliance import modality_reliance, reliance_by_type, reliance_sentence, signal_reliance
from elm_hf.scoring.scores import SINGLE_TYPES, Questions, ScoreBook
from elm_hf.scoring.subgroup_markdown import subgroup_sections
from elm_hf.scoring.subgroups import FactsOf, report_subgroups
from elm_hf.scoring.training_answers import blind_answers
from elm_hf.utils.encoder_origin import known_sources_message
from elm_hf.utils.exact_match import answer_items
from elm_hf.utils.files import read_json
from elm_hf.utils.reports import METRIC_OF_KIND, REPORT_NAME, REPORT_SCHEMA, public_run


if TYPE_CHECKING:  # it needs torch
    from elm_hf.scoring.bert_score import BertScorer


LIBRARIES = ("sacrebleu", "rouge_score", "nltk", "scipy", "numpy", "pandas")
MOST_CLASSES = 12
MOST_STATEMENTS = 10
NO_STATEMENTS = {"yes", "no", "not sure"}
OTHER, EMPTY = "(other)", "(empty)"


def write_report(
    folder: Path,
    predictions: pd.DataFrame,
    run: dict,
    training_rows: pd.DataFrame | None = None,
    seed: int = 0,
    ecgs_of: EcgsOf | None = None,
    bert_scorer: "BertScorer | None" = None,
    persons_of: PersonsOf | None = None,
    picture_degradation: list[dict] | None = None,
    leakage: dict | None = None,
    facts_of: FactsOf | None = None,
    reasoning: dict | None = None,
) -> dict:
    """
    Scores predictions and writes `report.json`, `report.md` and `figures/`.

    Args:
        folder: where to write. If it has an `occlusion.npz`, that is drawn, and the results of a `probe.json` are included.
        predictions: a row per question and condition, with the columns of docs/evaluation.md.
        run: what was evaluated, for the report: `checkpoint`, `dataset`, `fold`, `split`, ...
        training_rows: `question_type`, `template_id`, `question` and `answer` of the training patients' questions, for
            the blind majority baseline, which is omitted without them; with `age` and `sex` also for [`demographic_answers`].
        seed: random seed for the bootstrap and the choice of examples.
        ecgs_of: gives the ECGs of a question by its id, and their sampling rate; without it no examples are drawn, and no
            claims are checked.
        bert_scorer: adds BERTScore to the scores of free text.
        persons_of: gives age and sex of the patient of each ECG of a question, for the limits of what is abnormal.
        picture_degradation: scores on pictures with the artefacts of scans, of [`degradation_steps`].
        leakage: what is known of the fold, see [`leakage_of_report`].
        facts_of: gives what the records table says of each ECG of a question, for scores by subgroups.
        reasoning: figures of stepwise reasoning, of [`reasoning_report`].

    Returns:
        The report, as in `report.json`; docs/evaluation.md has its schema.

    Raises:
        ValueError: no question with a true answer, or conditions that do not have the same questions.
        ImportError: free-text answers without the extra `eval`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    questions = Questions(predictions)
    to_check = ecgs_of, persons_of, leakage, facts_of
    report = build_report(questions, public_run(run), training_rows, seed, bert_scorer, *to_check)
    report["picture_degradation"], report["reasoning"] = picture_degradation, reasoning
    _draw(folder, report, questions, ecgs_of, seed)
    report["probe"] = read_json(folder / PROBE_NAME) if (folder / PROBE_NAME).exists() else None
    (folder / REPORT_NAME).write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    probed = [*demographics_section(report["demographics"]), *leakage_section(report["leakage"])]
    probed += [*endpoint_sections(report), *template_sections(report["blind_templates"])]
    probed += [*reasoning_sections(reasoning), *grounding_sections(report["run"].get("grounding"))]
    probed += [*calibration_sections(report), *subgroup_sections(report), *ecg_bench_sections(report["ecg_bench"])]
    probed += claim_sections(report["claims"], report["figures"].get("claims"))
    probed += [] if report["probe"] is None else ["## Counterfactual ECGs", *probe_sections(report["probe"])]
    (folder / REPORT_TEXT_NAME).write_text(report_markdown(report, probed), encoding="utf-8")
    return report


def _draw(folder: Path, report: dict, questions: Questions, ecgs_of: EcgsOf | None, seed: int) -> None:
    """Draws the figures and lists them in the report."""
    figures = folder / FIGURES_NAME
    figures.mkdir(exist_ok=True)
    report |= {"figures": {}, "examples": []}
    if find_spec("matplotlib") is None:
        report["notes"].append("no charts: matplotlib is not installed (pip install 'elm-hf[eval]')")
    else:
        from elm_hf.evaluation.figures import draw_charts

        report["figures"] = {name: f"{FIGURES_NAME}/{file}" for name, file in draw_charts(figures, report).items()}
        if report["calibration"] is not None:
            from elm_hf.scoring.calibration_figure import draw_calibration

            report["figures"]["calibration"] = f"{FIGURES_NAME}/{draw_calibration(figures, report['calibration'])}"
        if report["subgroups"] is not None:
            from elm_hf.scoring.subgroup_figure import draw_subgroups

            drawn = draw_subgroups(figures, report["subgroups"])
            report["figures"] |= {name: f"{FIGURES_NAME}/{file}" for name, file in drawn.items()}
    if (folder / OCCLUSION_NAME).exists():
        names = draw_occlusions(folder / OCCLUSION_NAME, figures)
        report["figures"] |= {Path(name).stem: f"{FIGURES_NAME}/{name}" for name in names}
    if report["picture_degradation"] and (figures / DEGRADATION_STEPS_NAME).exists():
        report["figures"][Path(DEGRADATION_STEPS_NAME).stem] = f"{FIGURES_NAME}/{DEGRADATION_STEPS_NAME}"
    if ecgs_of is not None and "ecg" in questions.answers:
        report["examples"] = draw_examples(figures, questions, ecgs_of, seed)
        for example in report["examples"]:
            example["pictures"] = [f"{FIGURES_NAME}/{name}" for name in example["pictures"]]


def build_report(
    questions: Questions,
    run: dict,
    training_rows: pd.DataFrame | None,
    seed: int,
    bert_scorer: "BertScorer | None" = None,
    ecgs_of: EcgsOf | None = None,
    persons_of: PersonsOf | None = None,
    leakage: dict | None = None,
    facts_of: FactsOf | None = None,
) -> dict:
    """The report without its figures."""
    notes = []
    measured: dict[str, dict] = {}  # each ECG once
    if run.get("seen_patients", {}).get("sentence"):
        notes.append(run["seen_patients"]["sentence"])
    if run.get("temperature") is not None:
        notes.append(f"answers were sampled at temperature {run['temperature']:g}; greedy answers score differently")
    if questions.without_truth:
        notes.append(f"{questions.without_truth} questions without a true answer were left out")
    if run.get("encoder_trained_on"):
        notes.append(known_sources_message(run["encoder_trained_on"]))
    if run.get("calibration") and (questions.table["kind"] == "text").all():
        notes.append("no calibration: the answers are free text, of which no set is known")
    if training_rows is None or not training_rows["answer"].notna().any():
        notes.append("no blind baseline: there are no training questions to take majorities from")
    else:
        questions.answers[BLIND] = blind_answers(questions.table, training_rows)
        add_age_and_sex(questions, training_rows, persons_of)
    book = ScoreBook(questions, NUM_RESAMPLES, seed, bert_scorer)
    if bert_scorer is not None and not bert_scorer.summary["pairs"]:
        notes.append("no BERTScore: no true answer is free text of four words or more")
    table = questions.table
    rows_of_kind = {kind: np.flatnonzero(table["kind"] == kind) for kind in METRIC_OF_KIND}
    rows_of_kind = {kind: rows for kind, rows in rows_of_kind.items() if len(rows)}
    return {
        "schema": REPORT_SCHEMA,
        "run": run,
        "libraries": {name: version(name) for name in LIBRARIES if find_spec(name) is not None},
        "bert_score": None if bert_scorer is None else bert_scorer.summary,
        "bootstrap": {"over": "patients", "resamples": NUM_RESAMPLES, "confidence": CONFIDENCE, "seed": seed},
        "questions": len(table),
        "patients": book.bootstrap.num_patients,
        "conditions": _counts(questions),
        "scores": _scores(book, rows_of_kind, notes),
        "attribute_types": _by_column(book, rows_of_kind, "attribute_type"),
        "signal_reliance": {kind: _reliance(book, rows) for kind, rows in rows_of_kind.items()},
        "modality_reliance": {kind: modality_reliance(book, rows) for kind, rows in rows_of_kind.items()},
        "signal_reliance_by_type": _reliance_by_type(book, rows_of_kind),
        "demographics": report_demographics(book, rows_of_kind),
        "leakage": leakage_of_report(questions, book, training_rows, leakage, run.get("split"), seed),
        "confusion": _confusions(questions, rows_of_kind.get("short", np.array([], int))),
        "statements": _statements(questions),
        "blind_templates": template_report(book, training_rows) if BLIND in questions.answers else None,
        "ecg_bench": ecg_bench_report(questions),
        "claims": None if ecgs_of is None else report_claims(questions, book.bootstrap, ecgs_of, persons_of, measured),
        "subgroups": None if facts_of is None else report_subgroups(book, facts_of, ecgs_of, measured),
        "calibration": report_calibration(questions, book.bootstrap),
        "notes": notes,
    }


def _counts(questions: Questions) -> dict[str, dict]:
    """For each condition: the number of answers, of empty ones, and of those that were cut at the longest length."""
    return {
        name: {"answers": len(answers), "empty": sum(not answer.strip() for answer in answers)}
        | ({"unfinished": questions.unfinished[name]} if name not in BASELINES else {})
        for name, answers in questions.answers.items()
    }


def _scores(book: ScoreBook, rows_of_kind: dict[str, np.ndarray], notes: list[str]) -> dict[str, dict]:
    """All answers of a kind, then averages over its question types, then the types. Adds to `notes` what was left out."""
    scores = {}
    for kind, rows in rows_of_kind.items():
        suffix = f", {KIND_NAMES[kind]}" if len(rows_of_kind) > 1 else ""
        scores[f"all{suffix}"] = book.group(rows)
        types = _rows_by(book.questions.table["question_type"], rows)
        small = [name for name, those in types.items() if book.bootstrap.least(those) < LEAST_PATIENTS]
        averaged = {name: those for name, those in types.items() if name not in small}
        if len(types) > 1 and small:
            notes.append(
                f"macro-average{suffix}: {', '.join(small)} left out, with less than {LEAST_PATIENTS} patients or answers"
                + ("" if len(averaged) > 1 else "; less than two types are left, so there is none")
            )
        if len(averaged) > 1:
            scores[f"macro-average{suffix}"] = book.average(averaged)
        if all(name in averaged for name in SINGLE_TYPES):
            scores["average of single types (ECG-LM)"] = book.average({name: types[name] for name in SINGLE_TYPES})
        elif all(name in types for name in SINGLE_TYPES):
            notes.append("no average of single types (ECG-LM): one of them has too few patients or answers")
        scores |= {name: book.group(those) for name, those in types.items()}
    return scores


def _reliance_by_type(book: ScoreBook, rows_of_kind: dict[str, np.ndarray]) -> dict[str, dict]:
    """Of all kinds together, so that p-values are corrected for all types of the report."""
    types = {}
    for kind, rows in rows_of_kind.items():
        for name, those in _rows_by(book.questions.table["question_type"], rows).items():
            types[name if name not in types else f"{name}, {KIND_NAMES[kind]}"] = those
    return reliance_by_type(book, types)


def _by_column(book: ScoreBook, rows_of_kind: dict[str, np.ndarray], column: str) -> dict[str, dict]:
    groups = {}
    for kind, rows in rows_of_kind.items():
        for name, those in _rows_by(book.questions.table[column], rows).items():
            groups[name if name not in groups else f"{name}, {KIND_NAMES[kind]}"] = book.group(those)
    return groups


def _rows_by(column: pd.Series, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Value of the column to the numbers of its rows, in alphabetical order; rows without a value are in no group."""
    values = column.iloc[rows].reset_index(drop=True)
    return {str(name): rows[those] for name, those in sorted(values.groupby(values).indices.items())}


def _reliance(book: ScoreBook, rows: np.ndarray) -> dict:
    reliance = signal_reliance(book, rows)
    return reliance | {"sentence": reliance_sentence(reliance)}


def _confusions(questions: Questions, rows: np.ndarray) -> dict[str, dict]:
    """For each type of short answers: how often each true answer (rows) got each prediction (columns), with the ECG."""
    if "ecg" not in questions.answers:
        return {}
    answers = questions.answers["ecg"]
    confusions = {}
    for name, those in _rows_by(questions.table["question_type"], rows).items():
        pairs = [(_class(questions.table["truth"].iloc[row]), _class(answers[row]) or EMPTY) for row in those]
        frequent = [label for label, _ in Counter(truth for truth, _ in pairs).most_common(MOST_CLASSES)]
        others = {label for pair in pairs for label in pair} - {*frequent, EMPTY}
        labels = frequent + [OTHER] * bool(others) + [EMPTY] * any(predicted == EMPTY for _, predicted in pairs)
        matrix = np.zeros((len(labels), len(labels)), int)
        for pair in pairs:
            truth, predicted = (labels.index(OTHER if label in others else label) for label in pair)
            matrix[truth, predicted] += 1
        confusions[name] = {"labels": labels, "matrix": matrix.tolist(), "answers": len(pairs)}
    return confusions


def _class(answer: str) -> str:
    return ", ".join(sorted(answer_items(answer)))


def _statements(questions: Questions) -> dict:
    """
    The statements of true answers that were missed most often, and those that were made most often without being true.
    Questions that are answered with yes or no do not count.
    """
    pairs = zip(questions.answers.get("ecg", []), questions.table["truth"])
    pairs = [(statements(prediction), statements(truth)) for prediction, truth in pairs]
    pairs = [(predicted, true) for predicted, true in pairs if not true <= NO_STATEMENTS]
    if not pairs:
        return {}
    stated, missed, extra = Counter(), Counter(), Counter()
    for predicted, true in pairs:
        # Sorted, since the order of a set is another one in every process, and `most_common` keeps it among equals.
        stated.update(true)
        missed.update(sorted(true - predicted))
        extra.update(sorted(predicted - true))
    num = len(pairs)
    return {
        "answers": num,
        "missed_per_answer": missed.total() / num,
        "extra_per_answer": extra.total() / num,
        "most_missed": [_count(name, n, stated[name]) for name, n in missed.most_common(MOST_STATEMENTS)],
        "most_extra": [_count(name, n, stated[name]) for name, n in extra.most_common(MOST_STATEMENTS)],
    }


def _count(name: str, number: int, true: int) -> dict:
    return {"statement": name, "number": number, "true": true}
