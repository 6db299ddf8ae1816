"""Evaluation of a checkpoint: what is asked, the answers under the signal ablation, the report."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from functools import cached_property
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch
from accelerate import PartialState
from datasets import Dataset
from transformers.utils import logging

from elm_hf.checkpoints.load import load_checkpoint, read_representation
from elm_hf.counterfactuals.probe import probe_model, questions_of
from elm_hf.counterfactuals.probe_questions import ProbeQuestion
from elm_hf.counterfactuals.probe_records import recorded_ecgs
from elm_hf.data.loading import load_elm_dataset
from elm_hf.data.seen_patients import check_evaluated_patients
from elm_hf.data.tables import load_records
from elm_hf.evaluation.ablation import SignalAblation
from elm_hf.evaluation.asker import Asker
from elm_hf.evaluation.confidences import delete_unfinished, find_confidences, saved_confidences
from elm_hf.evaluation.degradation import ask_about_degraded, check_reads_drawn_ecgs, degradation_steps, draw_steps
from elm_hf.evaluation.fingerprints import fingerprint_of_processor, fingerprint_of_questions
from elm_hf.evaluation.occlusion import choose_answers, occlude_answers
from elm_hf.evaluation.own_history import ask_with_own_history
from elm_hf.evaluation.questions import list_questions
from elm_hf.evaluation.report import write_report
from elm_hf.evaluation.report_folder import ReportFolder
from elm_hf.inference.reasoning import MAX_REASONING_TOKENS
from elm_hf.interpretations.grounding import judge_grounding
from elm_hf.interpretations.judge import judge_predictions
from elm_hf.interpretations.reasoning_scores import list_samples, reasoning_report
from elm_hf.leakage.check import patients_on_both_sides
from elm_hf.leakage.leakage_report import read_leakage
from elm_hf.retrieval.options import RetrievalOptions
from elm_hf.retrieval.prompts import Retrieval, add_neighbours
from elm_hf.scoring.bert_score import BertScorer
from elm_hf.scoring.names import CONDITIONS, MODALITY_CONDITIONS, OCCLUSION_NAME
from elm_hf.scoring.predictions import PersonsOf, prediction_table
from elm_hf.scoring.subgroups import record_facts
from elm_hf.training.cost_file import COSTS_NAME, read_costs
from elm_hf.utils.encoder_origin import known_sources, known_sources_message
from elm_hf.utils.weights import fingerprint_of_weights


logger = logging.get_logger(__name__)

JUDGE_RUBRICS = ("correctness", "grounding")
# Raised when what stands in the place of an ECG changes, so that no evaluation mixes answers under both.
CONTROLS_VERSION = 2


def evaluate(
    checkpoint: str | PathLike,
    dataset: str | PathLike,
    fold: int | str = 1,
    split: str = "test",
    *,
    output: str | PathLike | None = None,
    limit: int | None = None,
    batch_size: int = 32,
    max_new_tokens: int | Mapping[str, int] = 32,
    max_reasoning_tokens: int = MAX_REASONING_TOKENS,
    conditions: Sequence[str] | None = None,
    num_occlusions: int = 8,
    num_counterfactuals: int = 0,
    records: str | PathLike | None = None,
    seed: int = 0,
    quiet: bool = False,
    retrieval: RetrievalOptions | None = None,
    judge: str | None = None,
    judge_model: str | None = None,
    judge_rubric: str = "correctness",
    bert_score: str | None = None,
    system_prompt: str | None = None,
    allow_seen_patients: bool = False,
    temperature: float | None = None,
    picture_degradation: bool = False,
    leakage: str | PathLike | None = None,
    calibration: bool = False,
) -> dict | None:
    """
    Asks every question of a split with its ECG, with other signals in its place and without any, and reports the scores.
    Conversations that consist of steps (ECG-Reasoning-Benchmark) are also asked behind the model's own answers.

    Answers are greedy unless a temperature is given. They are written to `output` as they come: the same command resumes an evaluation that was
    interrupted. Under `accelerate launch -m elm_hf` (on CPUs `torchrun -m elm_hf`) the processes share the questions.

    Args:
        checkpoint: folder or repository of an ELM or of an adapter.
        dataset: folder or Hub name of an elm-hf dataset.
        fold: 1 to 5 or `"official"`.
        split: split of the fold, usually `"test"`.
        output: folder for `predictions.parquet`, `report.json`, `report.md` and figures; nothing is kept by default.
        limit: largest number of conversations, drawn evenly from the split; all by default.
        batch_size: number of prompts in a batch.
        max_new_tokens: longest answer, in tokens: one number, or a number for each question type.
        max_reasoning_tokens: longest reasoning before an answer, in tokens, of models that are asked for it.
        conditions: what stands in the place of the ECGs, of `ALL_CONDITIONS` (see [`SignalAblation`]). Defaults to
            `CONDITIONS`, and for models that read the signal and its picture also to `MODALITY_CONDITIONS`.
        num_occlusions: number of answers of which the leads and times that they depend on are found (see [`occlude`]).
        num_counterfactuals: number of simulated patients whose ECGs are changed in one thing (see [`probe`]), with the
            questions of the dataset; 0 for no such ECGs.
        records: folder with the signals of a dataset that was published without them.
        seed: random seed for noise, for shuffling and for the resampling of the report.
        quiet: no progress bar.
        retrieval: how prompts are augmented with similar ECGs of training patients (docs/retrieval.md). They are the
            neighbours of the true ECG under every condition.
        judge: LLM that scores the answers given with the ECG, too (see [`judge_predictions`]).
        judge_model: name of the judge at its endpoint.
        judge_rubric: what the judge scores: `"correctness"`, or `"grounding"` for the aspects of GEM's evaluation (see
            [`judge_grounding`]), for free text.
        bert_score: encoder for BERTScore of free text: folder or Hub name (see [`BertScorer`]).
        system_prompt: opens conversations without a system message, instead of the one that the checkpoint was trained
            with; `""` for none.
        allow_seen_patients: continue if the checkpoint was trained on some of the patients; the report says so.
        temperature: of sampled answers, from which pairs of answers can be made.
        picture_degradation: also ask about pictures with the artefacts of scans, in four steps (docs/pictures.md). For
            models of drawn ECGs.
        leakage: folder or file of `elm-hf leakage` on the same fold, for the scores without near-duplicates of training ECGs.
        calibration: also find how sure the model is of each short answer (see [`find_confidences`]).

    Returns:
        The report (docs/evaluation.md has its schema); None in all but the first of several processes.

    Raises:
        ValueError: nothing to evaluate; conversations without a column that is needed, or two with the same
            `conversation_id`; a checkpoint that is not a whole ELM, computes NaN or was trained on some of the patients; no
            encoder for BERTScore; or an `output` that holds another evaluation.
    """
    started = time.monotonic()
    # Processes wait for the slowest one; without the flag those on CPUs would not know of each other.
    state = PartialState(cpu=not torch.accelerator.is_available(), timeout=timedelta(days=7))
    bert_scorer = None
    if bert_score is not None and state.is_main_process:
        bert_scorer = BertScorer(bert_score, state.device, batch_size, quiet)
    conditions = _conditions_of(checkpoint, conditions)
    if judge_rubric not in JUDGE_RUBRICS:
        raise ValueError(f"unknown rubric of the judge {judge_rubric!r}; there are {', '.join(JUDGE_RUBRICS)}")

    # What is asked. Errors in the data come before the model is loaded, which may take long.
    leaked = None if leakage is None else read_leakage(leakage, dataset, fold)
    asked = what_is_asked(dataset, fold, split, limit, records, conditions, seed, retrieval)
    training_rows = training_rows_of(dataset, fold, records, asked.persons)
    to_probe = _questions_to_probe(dataset, training_rows, asked.questions) if num_counterfactuals else {}
    seen = check_evaluated_patients(checkpoint, asked.patients, allow_seen_patients)
    model, processor = load_checkpoint(checkpoint, device=str(state.device))
    if picture_degradation:
        check_reads_drawn_ecgs(model, str(checkpoint))
    if system_prompt is not None:
        processor.system_prompt = system_prompt or None
    asked = _with_neighbours(asked, processor.system_prompt)
    if known := known_sources(model.config.encoder_config, asked.sources):
        logger.warning("%s: %s", checkpoint, known_sources_message(known))
    with errors_of(dataset):
        asker = Asker(
            asked.rows,
            asked.questions,
            asked.ablation,
            conditions,
            max_new_tokens,
            batch_size,
            temperature,
            seed,
            max_reasoning_tokens,
        )
    identity = {
        "checkpoint": str(checkpoint),
        "weights": fingerprint_of_weights(model.state_dict(), sampled=True),
        "processor": fingerprint_of_processor(processor, model.generation_config),
        **asked.identity(dataset, fold, split, conditions, max_new_tokens),
        "max_reasoning_tokens": max_reasoning_tokens if processor.enable_thinking else None,
        "seed": seed,
        "retrieval": None if retrieval is None else asdict(retrieval),
        "system_prompt": processor.system_prompt,
        "temperature": temperature,
    }

    with TemporaryDirectory() as nowhere:
        # Answers.
        with state.main_process_first():
            folder = ReportFolder(Path(output or nowhere), identity)
        confidences = saved_confidences(folder)
        answers = asker.ask_all(model, processor, folder, state, quiet)
        if calibration and confidences is None:
            to_score = asker, asked.questions, answers, training_rows
            confidences = find_confidences(*to_score, model, processor, folder, state, quiet)
        again = {
            "batch_size": batch_size,
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "seed": seed,
            "max_reasoning_tokens": max_reasoning_tokens,
        }
        to_ask = asked.rows, asked.questions, asked.ablation, conditions
        run = model, processor, folder.path, identity, state, quiet
        own_history, degraded = None, {}
        if asked.has_steps:
            own_history = ask_with_own_history(*to_ask, answers, *run, **again)
        if picture_degradation:
            degraded = ask_about_degraded(*to_ask, *run, **again)
        if not state.is_main_process:
            return None
        predictions = prediction_table(asked.questions, answers, conditions, confidences)
        folder.finish(predictions)
        delete_unfinished(folder)
        to_occlude = choose_answers(asked.questions, answers, num_occlusions)
        occlude_answers(folder.path / OCCLUSION_NAME, asked.rows, to_occlude, model, processor, batch_size)

        if num_counterfactuals:
            is_simulated = all(source.startswith("simulated") for source in asked.sources)
            recorded = [] if is_simulated else recorded_ecgs(asked.rows, num_counterfactuals)
            probed = {name: identity[name] for name in ("checkpoint", "dataset", "fold")}
            probed["ecgs"] = str(dataset) if recorded else None
            probe_model(
                model, processor, to_probe, probed, recorded, folder.path, num_counterfactuals, seed=seed, quiet=quiet
            )

        if degraded:
            first = next((row for row in asked.rows if len(row["ecgs"])), None)
            if first is not None:
                draw_steps(first["ecgs"][0], first["sampling_rate"], processor.image_processor, folder.path)

        # The report.
        judged = {}
        if judge is not None and judge_rubric == "grounding":
            options = {"ecgs_of": asked.ecgs_of, "persons_of": asked.known_persons_of, "seed": seed, "quiet": quiet}
            judged["grounding"] = judge_grounding(predictions, judge, folder.path, judge_model, **options)[1]
        elif judge is not None:
            judged["judge"] = judge_predictions(predictions, judge, folder.path, judge_model, quiet=quiet)[1]
        reasoning = None
        if own_history is not None:
            samples = list_samples(asked.rows, asked.questions)
            reasoning = reasoning_report(samples, {"ground_truth": predictions, "own": own_history}, seed)
        settings = {
            "calibration": confidences is not None,
            "seen_patients": seen,
            "limit": limit,
            "batch_size": batch_size,
            "processes": state.num_processes,
        }
        settings |= asked.donors()
        settings["parameters"] = sum(parameter.numel() for parameter in model.parameters())
        settings["training_costs"] = read_costs(checkpoint) if (Path(checkpoint) / COSTS_NAME).is_file() else None
        settings["seconds"] = round(time.monotonic() - started, 1)
        settings["encoder_trained_on"] = known
        settings["dataset_on_hub"] = not Path(dataset).is_dir()
        settings["versions"] = {name: version(name) for name in ("elm-hf", "torch", "transformers", "datasets")}
        return write_report(
            folder.path,
            predictions,
            identity | judged | settings,
            training_rows,
            seed,
            ecgs_of=asked.ecgs_of,
            bert_scorer=bert_scorer,
            persons_of=asked.known_persons_of,
            picture_degradation=degradation_steps(predictions, degraded, seed) if degraded else None,
            leakage={"patients_on_both_sides": patients_on_both_sides(dataset, fold), "found": leaked},
            facts_of=asked.facts_of,
            reasoning=reasoning,
        )


def _conditions_of(checkpoint: str | PathLike, conditions: Sequence[str] | None) -> tuple[str, ...]:
    """The conditions to ask under, each once, after checking that the model knows them."""
    of_two = [name for name in conditions or () if name in MODALITY_CONDITIONS]
    if conditions is not None and not of_two:
        return tuple(dict.fromkeys(conditions))
    representation = read_representation(checkpoint)
    if isinstance(representation, str) and of_two:
        raise ValueError(
            f'the condition "{of_two[0]}" is for models that read the signal of an ECG and its picture; {checkpoint} reads '
            f'one representation ("{representation}")'
        )
    if conditions is not None:
        return tuple(dict.fromkeys(conditions))
    return CONDITIONS if isinstance(representation, str) else (*CONDITIONS, *MODALITY_CONDITIONS)


@dataclass(frozen=True)
class Asked:
    """
    What is asked in an evaluation.

    Attributes:
        rows: the conversations, with their ECGs.
        questions: of [`list_questions`].
        ablation: what stands in the place of the ECGs.
        sources: names of the datasets of the ECGs.
        neighbours: what is put into the prompts, if anything.
        persons: age and sex of each record; None if the records do not have them.
        facts: what the records table says of each ECG that is asked about, by number.
    """

    rows: Dataset
    questions: pd.DataFrame
    ablation: SignalAblation
    sources: set[str]
    neighbours: Retrieval | None
    persons: list[tuple] | None
    facts: dict[int, dict]

    def ecgs_of(self, question_id: str) -> tuple[list[np.ndarray], float]:
        """The ECGs of a question, each `(12, samples)` in mV, and their sampling rate in Hz."""
        row = self.rows[self._row_of[question_id]]
        return list(row["ecgs"]), row["sampling_rate"]

    def persons_of(self, question_id: str) -> list[tuple]:
        """Age in years and sex of the patient of each ECG of a question, None where unknown."""
        return [self.persons[number] for number in self._ecg_index[self._row_of[question_id]]]

    @property
    def known_persons_of(self) -> PersonsOf | None:
        """[`persons_of`]; None if the records do not have age and sex."""
        return None if self.persons is None else self.persons_of

    def facts_of(self, question_id: str) -> list[dict]:
        """What the records table says of each ECG of a question, of [`record_facts`]."""
        return [self.facts[number] for number in self._ecg_index[self._row_of[question_id]]]

    @property
    def patients(self) -> set[str]:
        """Ids of the patients whom the questions are about."""
        return {name for names in self.questions["patient_ids"] for name in names}

    def identity(
        self,
        dataset: str | PathLike,
        fold: int | str,
        split: str,
        conditions: Sequence[str],
        max_new_tokens: int | Mapping[str, int],
    ) -> dict:
        """What makes an evaluation different from others, whoever answers; arguments as for [`evaluate`]."""
        return {
            "dataset": str(dataset),
            "fold": str(fold),
            "split": split,
            "questions": fingerprint_of_questions(self.questions, self.rows),
            "conditions": list(conditions),
            "controls": CONTROLS_VERSION,
            "max_new_tokens": max_new_tokens if isinstance(max_new_tokens, int) else dict(max_new_tokens),
        }

    def donors(self) -> dict:
        """`donors` of the report: numbers of questions under `shuffled`; empty without this condition."""
        if not self.ablation.has_donors:
            return {}
        with_ecg, same = self.questions["record_ids"].map(len).gt(0).sum(), len(self.ablation.same_answer)
        return {"donors": {"other_answer": int(with_ecg) - same, "no_other_answer": same}}

    @property
    def has_steps(self) -> bool:
        """Whether the conversations consist of steps with options (ECG-Reasoning-Benchmark)."""
        return "steps" in self.rows.column_names

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return dict(zip(self.questions["question_id"], self.questions["row"]))

    @cached_property
    def _ecg_index(self) -> list[list[int]]:
        return self.rows.with_format(None)["ecg_index"][:]


def what_is_asked(
    dataset: str | PathLike,
    fold: int | str,
    split: str,
    limit: int | None,
    records: str | PathLike | None,
    conditions: Sequence[str],
    seed: int,
    retrieval: RetrievalOptions | None,
) -> Asked:
    try:
        rows = load_elm_dataset(dataset, fold=fold, split=split, records=records)
    except ValueError as error:  # the error of `datasets` about an empty split does not name it
        raise ValueError(f"fold {fold}, {split}, of {dataset} cannot be evaluated: {error}") from error
    if limit is not None and limit < len(rows):
        rows = rows.select(np.linspace(0, len(rows) - 1, limit).astype(int))
    with errors_of(dataset):
        ecg_index = rows.select_columns("ecg_index")[:]["ecg_index"]
        asked_about = {number for numbers in ecg_index for number in numbers}
        source_of, persons = _facts_of_records(records or dataset) if asked_about else (None, None)
        questions = list_questions(rows, source_of)
        ablation = SignalAblation(rows, conditions, seed, questions, persons)
        if "steps" in rows.column_names:
            ablation.share_donors(questions)
        neighbours = None
        if retrieval is not None:
            neighbours = Retrieval(retrieval, dataset, fold, rows["ecg_index"], records)
    sources = {source_of[number] for number in asked_about}
    facts = record_facts(records or dataset, asked_about) if asked_about else {}
    return Asked(rows, questions, ablation, sources, neighbours, persons, facts)


def _facts_of_records(dataset: str | PathLike) -> tuple[list[str], list[tuple] | None]:
    """The source, and age and sex, of each record; None where these columns are not there."""
    table = load_records(dataset)
    names = [name for name in ("source", "age", "sex") if name in table.column_names]
    facts = table.select_columns(names)[:]
    persons = list(zip(facts["age"], facts["sex"])) if {"age", "sex"} <= set(names) else None
    return facts["source"], persons


def _with_neighbours(asked: Asked, system_prompt: str | None) -> Asked:
    """Puts the neighbours into the conversations; a new system message moves the positions of their answers by one."""
    if asked.neighbours is None:
        return asked
    rows = add_neighbours(asked.rows, asked.neighbours, system_prompt)
    added = [len(after) - len(before) for before, after in zip(asked.rows["messages"], rows["messages"])]
    positions = asked.questions["position"] + [added[row] for row in asked.questions["row"]]
    return replace(asked, rows=rows, questions=asked.questions.assign(position=positions))


def _questions_to_probe(
    dataset: str | PathLike, training_rows: pd.DataFrame | None, asked: pd.DataFrame
) -> dict[str, tuple[ProbeQuestion, ...]]:
    rows = asked if training_rows is None or "question" not in training_rows else training_rows
    return questions_of(dataset, rows["question"])


def training_rows_of(
    dataset: str | PathLike, fold: int | str, records: str | PathLike | None, persons: list[tuple] | None
) -> pd.DataFrame | None:
    """What the baselines learn from; None where the fold has no training split, as in some benchmarks."""
    try:
        rows = load_elm_dataset(dataset, fold=fold, split="train", records=records)
    except ValueError:
        return None
    names = [name for name in ("question_type", "template_id", "question", "answer") if name in rows.column_names]
    table = rows.select_columns(names).with_format(None).to_pandas()
    if persons is not None:
        firsts = [numbers[:1] for numbers in rows.with_format(None)["ecg_index"]]
        table["age"], table["sex"] = zip(*(persons[first[0]] if first else (None, None) for first in firsts))
    return table


@contextmanager
def errors_of(dataset: str | PathLike) -> Iterator[None]:
    """Names the dataset in what is wrong with it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{dataset}: {error}") from error
