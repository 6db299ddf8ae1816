"""Evaluation of a checkpoint: what is asked, the answers under the signal ablation, the report."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import torch
from accelerate import PartialState
from transformers import PreTrainedModel, ProcessorMixin
from transformers.utils import logging

from elm_hf.checkpoints.load import load_checkpoint, read_elm_config
from elm_hf.counterfactuals.probe import probe_model, questions_of
from elm_hf.counterfactuals.probe_questions import ProbeQuestion
from elm_hf.counterfactuals.probe_records import recorded_ecgs
from elm_hf.data.seen_patients import check_evaluated_patients
from elm_hf.evaluation.asker import Asker
from elm_hf.evaluation.confidences import delete_unfinished, find_confidences, saved_confidences
from elm_hf.evaluation.degradation import ask_about_degraded, check_reads_drawn_ecgs, degradation_steps, draw_steps
from elm_hf.evaluation.fingerprints import fingerprint_of_processor
from elm_hf.evaluation.occlusion import choose_answers, occlude_answers
from elm_hf.evaluation.own_history import ask_with_own_history
from elm_hf.evaluation.report import write_report
from elm_hf.evaluation.report_folder import ReportFolder
from elm_hf.evaluation.what_is_asked import Asked, errors_of, training_rows_of, what_is_asked, with_neighbours
from elm_hf.inference.generation import Answer
from elm_hf.inference.reasoning import MAX_REASONING_TOKENS
from elm_hf.interpretations.grounding import judge_grounding
from elm_hf.interpretations.judge import judge_predictions
from elm_hf.interpretations.reasoning_scores import list_samples, reasoning_report
from elm_hf.leakage.check import patients_on_both_sides
from elm_hf.leakage.leakage_report import read_leakage
from elm_hf.retrieval.index import stages_of_index
from elm_hf.retrieval.options import RetrievalOptions
from elm_hf.scoring.bert_score import BertScorer
from elm_hf.scoring.names import (
    CONDITIONS,
    MEASUREMENT_CONDITIONS,
    MODALITY_CONDITIONS,
    OCCLUSION_NAME,
    PART_CONDITIONS,
    read_by,
)
from elm_hf.scoring.predictions import Key, prediction_table
from elm_hf.training.cost_file import COSTS_NAME, read_costs
from elm_hf.utils.encoder_origin import known_sources, known_sources_message
from elm_hf.utils.weights import fingerprint_of_weights


logger = logging.get_logger(__name__)

JUDGE_RUBRICS = ("correctness", "grounding")


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
            `CONDITIONS`, for models that read the signal and its picture also to `MODALITY_CONDITIONS`, and for those that
            read measured values to `MEASUREMENT_CONDITIONS`.
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
        allow_seen_patients: continue if the checkpoint, or the encoder of the index, was trained on some of the patients;
            the report says so.
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
    of_index = [] if retrieval is None else stages_of_index(retrieval.index)
    seen = check_evaluated_patients(checkpoint, asked.patients, allow_seen_patients, of_index)
    model, processor = _load(checkpoint, state, system_prompt, picture_degradation)
    asked = with_neighbours(asked, processor.system_prompt)
    if known := known_sources(model.config.encoder_config, asked.sources):
        logger.warning("%s: %s", checkpoint, known_sources_message(known))
    asking = {
        "max_new_tokens": max_new_tokens,
        "batch_size": batch_size,
        "temperature": temperature,
        "seed": seed,
        "max_reasoning_tokens": max_reasoning_tokens,
    }
    with errors_of(dataset):
        asker = Asker(asked.rows, asked.questions, asked.ablation, conditions, **asking)
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
        with state.main_process_first():
            folder = ReportFolder(Path(output or nowhere), identity)
        run = _Run(model, processor, asked, conditions, asker, asking, folder, identity, state, quiet)
        answers, confidences = _ask(run, training_rows, calibration)
        own_history = run.ask_again(ask_with_own_history, answers) if asked.has_steps else None
        degraded = run.ask_again(ask_about_degraded) if picture_degradation else {}
        if not state.is_main_process:
            return None
        predictions = prediction_table(asked.questions, answers, conditions, confidences)
        folder.finish(predictions)
        delete_unfinished(folder)

        _occlude(run, answers, num_occlusions)
        if num_counterfactuals:
            _probe(run, to_probe, num_counterfactuals)
        if degraded:
            _draw_degraded(run)
        judged = {} if judge is None else _judge(run, predictions, judge, judge_model, judge_rubric)
        reasoning = None if own_history is None else _reasoning(run, predictions, own_history)
        settings = {
            "calibration": confidences is not None,
            "seen_patients": seen,
            "limit": limit,
            "batch_size": batch_size,
            "processes": state.num_processes,
            **asked.donors(),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "training_costs": read_costs(checkpoint) if (Path(checkpoint) / COSTS_NAME).is_file() else None,
            "seconds": round(time.monotonic() - started, 1),
            "encoder_trained_on": known,
            "dataset_on_hub": not Path(dataset).is_dir(),
            "versions": {name: version(name) for name in ("elm-hf", "torch", "transformers", "datasets")},
        }
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


@dataclass(frozen=True)
class _Run:
    """
    What the steps of an evaluation have in common.

    Attributes:
        model, processor: of the checkpoint.
        asked: what is asked.
        conditions: what stands in the place of the ECGs.
        asker: asks these questions under these conditions.
        asking: how; further arguments of [`Asker`].
        folder: of the answers and the report.
        identity: what makes this evaluation different from others.
        state: of the processes.
        quiet: no progress bar.
    """

    model: PreTrainedModel
    processor: ProcessorMixin
    asked: Asked
    conditions: tuple[str, ...]
    asker: Asker
    asking: dict
    folder: ReportFolder
    identity: dict
    state: PartialState
    quiet: bool

    def ask_again(self, ask: Callable, *given):
        """
        Asks the same questions in another way.

        Args:
            ask: [`ask_with_own_history`] or [`ask_about_degraded`].
            given: arguments of `ask` after the conditions.
        """
        asked, answered_by = self.asked, (self.model, self.processor)
        to_ask = asked.rows, asked.questions, asked.ablation, self.conditions, *given
        return ask(*to_ask, *answered_by, self.folder.path, self.identity, self.state, self.quiet, **self.asking)


def _ask(
    run: _Run, training_rows: pd.DataFrame | None, calibration: bool
) -> tuple[dict[Key, Answer], dict[Key, tuple] | None]:
    """The answers and, if they are wanted or the folder has them, the confidences in them."""
    confidences = saved_confidences(run.folder)
    answers = run.asker.ask_all(run.model, run.processor, run.folder, run.state, run.quiet)
    if calibration and confidences is None:
        to_score = run.asker, run.asked.questions, answers, training_rows
        confidences = find_confidences(*to_score, run.model, run.processor, run.folder, run.state, run.quiet)
    return answers, confidences


def _draw_degraded(run: _Run) -> None:
    """Draws one of the ECGs at each severity."""
    first = next((row for row in run.asked.rows if len(row["ecgs"])), None)
    if first is not None:
        draw_steps(first["ecgs"][0], first["sampling_rate"], run.processor.image_processor, run.folder.path)


def _occlude(run: _Run, answers: Mapping[Key, Answer], number: int) -> None:
    """Finds the leads and times on which some answers depend."""
    chosen = choose_answers(run.asked.questions, answers, number)
    file, batch_size = run.folder.path / OCCLUSION_NAME, run.asking["batch_size"]
    occlude_answers(file, run.asked.rows, chosen, run.model, run.processor, batch_size)


def _probe(run: _Run, questions: Mapping[str, Sequence[ProbeQuestion]], num_patients: int) -> None:
    """Asks about counterfactual ECGs: simulated ones and, if the dataset has ECGs of patients, recorded ones."""
    is_simulated = all(source.startswith("simulated") for source in run.asked.sources)
    recorded = [] if is_simulated else recorded_ecgs(run.asked.rows, num_patients)
    about = {name: run.identity[name] for name in ("checkpoint", "dataset", "fold")}
    about["ecgs"] = run.identity["dataset"] if recorded else None
    options = {"seed": run.asking["seed"], "quiet": run.quiet}
    probe_model(run.model, run.processor, questions, about, recorded, run.folder.path, num_patients, **options)


def _judge(run: _Run, predictions: pd.DataFrame, judge: str, judge_model: str | None, rubric: str) -> dict:
    """What a judge says of the answers, by its key in `run` of the report."""
    to_judge = predictions, judge, run.folder.path, judge_model
    if rubric == "correctness":
        return {"judge": judge_predictions(*to_judge, quiet=run.quiet)[1]}
    ecgs = {"ecgs_of": run.asked.ecgs_of, "persons_of": run.asked.known_persons_of}
    return {"grounding": judge_grounding(*to_judge, **ecgs, seed=run.asking["seed"], quiet=run.quiet)[1]}


def _reasoning(run: _Run, predictions: pd.DataFrame, own_history: pd.DataFrame) -> dict:
    """The figures of stepwise reasoning, behind the true answers to earlier steps and behind the model's own."""
    samples = list_samples(run.asked.rows, run.asked.questions)
    return reasoning_report(samples, {"ground_truth": predictions, "own": own_history}, run.asking["seed"])


def _load(
    checkpoint: str | PathLike, state: PartialState, system_prompt: str | None, picture_degradation: bool
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """The model and its processor, with another system prompt unless that is None."""
    model, processor = load_checkpoint(checkpoint, device=str(state.device))
    if picture_degradation:
        check_reads_drawn_ecgs(model, str(checkpoint))
    if system_prompt is not None:
        processor.system_prompt = system_prompt or None
    return model, processor


def _conditions_of(checkpoint: str | PathLike, conditions: Sequence[str] | None) -> tuple[str, ...]:
    """The conditions to ask under, each once, after checking that the model knows them."""
    if conditions is not None and not PART_CONDITIONS.keys() & set(conditions):
        return tuple(dict.fromkeys(conditions))
    config = read_elm_config(checkpoint)
    parts = MODALITY_CONDITIONS if isinstance(config.get("representation"), list) else {}
    if config.get("measurements"):
        parts = parts | MEASUREMENT_CONDITIONS
    if conditions is None:
        return (*CONDITIONS, *parts)
    refused = [name for name in conditions if name in PART_CONDITIONS.keys() - parts.keys()]
    if refused:
        raise ValueError(
            f'the condition "{refused[0]}" is for models that {read_by(refused[0])}; {checkpoint} does not'
        )
    return tuple(dict.fromkeys(conditions))


def _questions_to_probe(
    dataset: str | PathLike, training_rows: pd.DataFrame | None, asked: pd.DataFrame
) -> dict[str, tuple[ProbeQuestion, ...]]:
    rows = asked if training_rows is None or "question" not in training_rows else training_rows
    return questions_of(dataset, rows["question"])
