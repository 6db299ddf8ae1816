"""Evaluation: every question of a split under the signal ablation, then the report."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset
from tqdm import tqdm
from transformers import PreTrainedModel, ProcessorMixin

from elm_hf.checkpoints.load import load_checkpoint
from elm_hf.data.loading import load_elm_dataset, load_records
from elm_hf.evaluation.ablation import CONDITIONS, SignalAblation
from elm_hf.evaluation.attention import ecg_attention
from elm_hf.evaluation.bert_score import BertScorer
from elm_hf.evaluation.judge import judge_predictions
from elm_hf.evaluation.markdown import report_table
from elm_hf.evaluation.metrics import is_exact_match
from elm_hf.evaluation.occlusion import OCCLUSION_FILE, occlude, save_occlusions
from elm_hf.evaluation.predictions import (
    Key,
    ReportFolder,
    fingerprint_of_processor,
    fingerprint_of_questions,
    fingerprint_of_weights,
)
from elm_hf.evaluation.questions import Asker, list_questions
from elm_hf.evaluation.report import write_report
from elm_hf.inference.generation import Answer
from elm_hf.modeling.processing_elm_symbol import ElmSymbolProcessor
from elm_hf.retrieval.options import RetrievalOptions
from elm_hf.retrieval.prompts import Retrieval, add_neighbours


__all__ = ["CONDITIONS", "evaluate", "is_exact_match", "report_table"]


def evaluate(
    checkpoint: str | PathLike,
    dataset: str | PathLike,
    fold: int | str = 1,
    split: str = "test",
    output: str | PathLike | None = None,
    limit: int | None = None,
    batch_size: int = 32,
    max_new_tokens: int | Mapping[str, int] = 32,
    conditions: Sequence[str] = CONDITIONS,
    num_occlusions: int = 8,
    records: str | PathLike | None = None,
    seed: int = 0,
    quiet: bool = False,
    retrieval: RetrievalOptions | None = None,
    judge: str | None = None,
    judge_model: str | None = None,
    bert_score: str | None = None,
    system_prompt: str | None = None,
) -> dict | None:
    """
    Asks every question of a split with its ECG, with other signals in the ECG's place and without, and reports.

    Answers are greedy. They are written to `output` as they come: an evaluation that was killed goes on when it is
    started again in the same words. Under `accelerate launch -m elm_hf` (on CPUs `torchrun -m elm_hf`) the
    processes share the questions.

    Args:
        checkpoint: folder or repository of an ELM or of an adapter.
        dataset: folder or Hub name of an elm-hf dataset.
        fold: 1 to 5 or `"official"`.
        split: usually `"test"`.
        output: folder for `predictions.parquet`, `report.json`, `report.md` and figures; nothing is kept by default.
        limit: ask about at most so many conversations, drawn evenly from the split.
        batch_size: prompts at once.
        max_new_tokens: longest answer: a number, or a number for each question type.
        conditions: what stands in the place of the ECGs, of `CONDITIONS` (see [`SignalAblation`]).
        num_occlusions: of so many answers, find the leads and the times on which they depend (see [`occlude`]).
        records: folder with the signals of a dataset that was published without them.
        seed: of noise, of shuffling, and of the report's resampling.
        quiet: no progress bar.
        retrieval: put what is known of similar ECGs of training patients into the prompts (docs/retrieval.md). They are the
            neighbours of the true ECG under every condition.
        judge: also let an LLM score the answers given with the ECG (see [`judge_predictions`]).
        judge_model: name of the judge at its endpoint.
        bert_score: also score free text by BERTScore with this encoder: folder or Hub name (see [`BertScorer`]).
        system_prompt: opens conversations that have no system message, instead of that which the checkpoint was trained
            with; `""` for none.

    Returns:
        The report (docs/evaluation.md has its schema); None in all but the first of several processes.

    Raises:
        ValueError: nothing to evaluate, conversations without a column that is needed or with one name, a checkpoint that
            is not a whole ELM or computes NaN, no encoder for BERTScore, or an `output` that holds another evaluation.
    """
    conditions = tuple(dict.fromkeys(conditions))
    started = time.monotonic()
    # Processes wait for the slowest one; without the flag those on CPUs would not know of each other.
    state = PartialState(cpu=not torch.accelerator.is_available(), timeout=timedelta(days=7))
    bert_scorer = None
    if bert_score is not None and state.is_main_process:
        bert_scorer = BertScorer(bert_score, state.device, batch_size, quiet)
    try:
        rows = load_elm_dataset(dataset, fold=fold, split=split, records=records)
    except ValueError as error:  # of an empty split, `datasets` does not say whose it is
        raise ValueError(f"fold {fold}, {split}, of {dataset} cannot be evaluated: {error}") from error
    if limit is not None and limit < len(rows):
        rows = rows.select(np.linspace(0, len(rows) - 1, limit).astype(int))
    with _errors_of(dataset):
        questions = list_questions(rows, _sources(rows, records or dataset))
        ablation = SignalAblation(rows, conditions, seed)
        found = None
        if retrieval is not None:
            found = Retrieval(retrieval, dataset, fold, rows["ecg_index"], records)
    model, processor = load_checkpoint(checkpoint, device=str(state.device))
    if system_prompt is not None:
        processor.system_prompt = system_prompt or None
    if found is not None:
        rows = _augmented(rows, questions, found, processor.system_prompt)
    with _errors_of(dataset):
        asker = Asker(rows, questions, ablation, conditions, max_new_tokens, batch_size)
    run = {
        "checkpoint": str(checkpoint),
        "weights": fingerprint_of_weights(model),
        "processor": fingerprint_of_processor(processor, model.generation_config),
        "dataset": str(dataset),
        "fold": str(fold),
        "split": split,
        "questions": fingerprint_of_questions(questions, rows),
        "conditions": list(conditions),
        "max_new_tokens": max_new_tokens if isinstance(max_new_tokens, int) else dict(max_new_tokens),
        "seed": seed,
        "retrieval": None if retrieval is None else asdict(retrieval),
        "system_prompt": processor.system_prompt,
    }
    with TemporaryDirectory() as nowhere:
        with state.main_process_first():
            folder = ReportFolder(Path(output or nowhere), run)
        answers = _answers(state, folder, asker, model, processor, quiet)
        if not state.is_main_process:
            return None
        predictions = _predictions(questions, answers, conditions)
        folder.finish(predictions)
        if "ecg" in conditions:
            said = [answers[name, "ecg"].text for name in questions["question_id"]]
            chosen = _choose_to_occlude(questions.assign(prediction=said), num_occlusions)
            _occlude(folder, rows, chosen, model, processor, batch_size)
        if judge is not None:
            run["judge"] = judge_predictions(predictions, judge, folder.path, judge_model, quiet=quiet)[1]
        run |= {"limit": limit, "batch_size": batch_size, "processes": state.num_processes}
        run |= {"seconds": round(time.monotonic() - started, 1)}
        run |= {"versions": {name: version(name) for name in ("elm-hf", "torch", "transformers", "datasets")}}
        training_rows = _training_rows(dataset, fold, records)
        row_of = dict(zip(questions["question_id"], questions["row"]))
        return write_report(
            folder.path,
            predictions,
            run,
            training_rows,
            seed,
            ecgs_of=lambda question: (list(rows[row_of[question]]["ecgs"]), rows[row_of[question]]["sampling_rate"]),
            bert_scorer=bert_scorer,
        )


@contextmanager
def _errors_of(dataset: str | PathLike) -> Iterator[None]:
    """Names the dataset in what is wrong with it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{dataset}: {error}") from error


def _augmented(rows: Dataset, questions: pd.DataFrame, retrieval: Retrieval, system_prompt: str | None) -> Dataset:
    """The conversations with neighbours and system prompt; a new system message moves the answers' `position` by one."""
    augmented = add_neighbours(rows, retrieval, system_prompt)
    added = [len(after) - len(before) for before, after in zip(rows["messages"], augmented["messages"])]
    questions["position"] += [added[row] for row in questions["row"]]
    return augmented


def _sources(rows: Dataset, dataset: str | PathLike) -> list[str] | None:
    """The source of each record; None where no conversation has one."""
    if not any(rows.select_columns("ecg_index")[:]["ecg_index"]):
        return None
    return load_records(dataset).select_columns("source")[:]["source"]


def _answers(
    state: PartialState,
    folder: ReportFolder,
    asker: Asker,
    model: PreTrainedModel,
    processor: ProcessorMixin,
    quiet: bool,
) -> dict[Key, Answer]:
    """The answers to all prompts; those that are in the folder are not asked again."""
    known = folder.read()
    state.wait_for_everyone()  # all have read before one writes
    to_ask = [batch for batch in asker.batches if not all(prompt.key in known for prompt in batch)]
    folder.cut_unfinished_line(state.process_index)
    mine = to_ask[state.process_index :: state.num_processes]
    found = []
    disable = quiet or None if state.is_main_process else True
    with tqdm(total=sum(map(len, mine)), desc="asking", unit="prompt", disable=disable) as progress:
        for batch in mine:
            answers = asker.ask(model, processor, batch)
            folder.append(state.process_index, answers)
            found += answers
            progress.update(len(batch))
    known |= dict(gather_object(found))
    return {key: known[asked] for key, asked in asker.same_as.items()}


def _predictions(questions: pd.DataFrame, answers: Mapping[Key, Answer], conditions: Sequence[str]) -> pd.DataFrame:
    """A row per question and condition, condition after condition, in the order of the split."""
    tables = []
    for condition in conditions:
        said = [answers[name, condition] for name in questions["question_id"]]
        tables.append(
            questions.assign(
                condition=condition,
                prediction=[one.text for one in said],
                num_tokens=[one.num_tokens for one in said],
                finished=[one.finished for one in said],
            )
        )
    return pd.concat(tables, ignore_index=True).drop(columns=["row", "position"])


def _choose_to_occlude(questions: pd.DataFrame, number: int) -> pd.DataFrame:
    """Up to `number` questions about one ECG each, all of them others, that the model has answered with some word."""
    fit = questions[questions["record_ids"].map(len).eq(1) & questions["prediction"].ne("")]
    fit = fit[~fit["record_ids"].map(tuple).duplicated()]
    return fit.iloc[np.unique(np.linspace(0, len(fit) - 1, min(number, len(fit))).astype(int))]


def _occlude(
    folder: ReportFolder,
    rows: Dataset,
    questions: pd.DataFrame,
    model: PreTrainedModel,
    processor: ProcessorMixin,
    batch_size: int,
):
    """Writes `occlusion.npz`: on which leads and times the model's own answers to these questions depend."""
    found = []
    for question in questions.itertuples():
        row = rows[question.row]
        ecg, sampling_rate = row["ecgs"][0], row["sampling_rate"]
        messages = row["messages"][: question.position]
        effects = occlude(model, processor, messages, ecg, sampling_rate, question.prediction, batch_size=batch_size)
        names = {"question_id": question.question_id, "record_id": question.record_ids[0]}
        words = {"question": question.question, "prediction": question.prediction}
        if isinstance(processor, ElmSymbolProcessor):
            said = (messages, ecg, sampling_rate, question.prediction)
            effects["attention"] = ecg_attention(model, processor, *said)
        found.append(effects | names | words | {"ecg": ecg})
    if found:
        save_occlusions(folder.path / OCCLUSION_FILE, found, sampling_rate)


def _training_rows(dataset: str | PathLike, fold: int | str, records: str | PathLike | None) -> pd.DataFrame | None:
    """What the blind baseline learns from; None where the fold has no training split, as some benchmarks have not."""
    try:
        rows = load_elm_dataset(dataset, fold=fold, split="train", records=records)
    except ValueError:
        return None
    names = [name for name in ("question_type", "template_id", "question", "answer") if name in rows.column_names]
    return rows.select_columns(names).with_format(None).to_pandas()
