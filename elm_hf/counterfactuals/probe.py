"""The counterfactual probe: which limits a model has learned, and what else its answers follow (docs/counterfactuals.md)."""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from os import PathLike
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm
from transformers import PreTrainedModel, ProcessorMixin

from elm_hf.checkpoints.load import load_checkpoint
from elm_hf.counterfactuals.probe_markdown import probe_markdown
from elm_hf.counterfactuals.probe_plan import ALL_CHANGES, Trial, plan
from elm_hf.counterfactuals.probe_questions import ProbeQuestion, questions_among, simulated_questions
from elm_hf.counterfactuals.probe_records import RecordedEcg, ecgs_of_dataset, record_plan
from elm_hf.counterfactuals.probe_results import probe_results
from elm_hf.counterfactuals.probe_stretches import stretch_plan
from elm_hf.data.loading import load_elm_dataset
from elm_hf.data.messages import ecg_messages, fill_ecgs
from elm_hf.ecg.counterfactuals import draw_hearts
from elm_hf.inference.generation import log_likelihoods
from elm_hf.scoring.names import FIGURES_NAME, PROBE_ANSWERS_NAME, PROBE_NAME, PROBE_TEXT_NAME
from elm_hf.utils.reports import public_run
from elm_hf.utils.weights import fingerprint_of_weights


NUM_PATIENTS = 16
BATCH_SIZE = 96

# An ECG `(12, samples)` in mV, its sampling rate in Hz, and a question about it.
Asked = tuple[np.ndarray, int, ProbeQuestion]
# Returns, for each of them, the natural logarithm of the probability of each answer, `(answers,)`.
Ask = Callable[[Sequence[Asked]], list[np.ndarray]]


def probe(
    checkpoint: str | PathLike,
    *,
    output: str | PathLike | None = None,
    dataset: str | PathLike | None = None,
    fold: int | str = 1,
    ecgs: str | PathLike | None = None,
    num_patients: int = NUM_PATIENTS,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
    quiet: bool = False,
    system_prompt: str | None = None,
) -> dict:
    """
    Asks a model about simulated ECGs that differ in one thing.

    Args:
        checkpoint: folder or repository of an ELM or of an adapter.
        output: folder for `probe.json`, `probe.md`, `probe.parquet` and a figure; nothing is kept by default.
        dataset: dataset that the model was trained with, whose questions are asked; by default those of simulated ECGs.
        fold: of the dataset, and of `ecgs`.
        ecgs: dataset of patients, whose test ECGs are changed as well as far as that is possible.
        num_patients: number of simulated patients, and largest number of others.
        batch_size: number of answers in a batch.
        seed: random seed of the ECGs and of the intervals.
        quiet: no progress bar.
        system_prompt: instead of the one that the checkpoint was trained with; `""` for none.

    Returns:
        The results, as in `probe.json`; docs/counterfactuals.md has its schema.

    Raises:
        ValueError: the checkpoint is not a whole ELM, no question of the dataset is about one of the findings, or `ecgs` has no
            ECGs that can be changed.
    """
    records = [] if ecgs is None else ecgs_of_dataset(ecgs, fold, num_patients)
    questions = simulated_questions()
    if dataset is not None:
        rows = load_elm_dataset(dataset, fold=fold, split="train")
        questions = questions_of(dataset, rows["question"] if "question" in rows.column_names else ())
    model, processor = load_checkpoint(checkpoint)
    if system_prompt is not None:
        processor.system_prompt = system_prompt or None
    names = {"dataset": dataset, "ecgs": ecgs}
    run = {"checkpoint": str(checkpoint), "fold": str(fold)}
    run |= {name: None if value is None else str(value) for name, value in names.items()}
    return probe_model(model, processor, questions, run, records, output, num_patients, batch_size, seed, quiet)


def probe_model(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    questions: Mapping[str, Sequence[ProbeQuestion]],
    run: dict,
    records: Sequence[RecordedEcg] = (),
    output: str | PathLike | None = None,
    num_patients: int = NUM_PATIENTS,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
    quiet: bool = False,
) -> dict:
    """[`probe`] of a loaded model with given questions and recorded ECGs; `run` says what they are, for the report."""
    started = time.monotonic()
    reader = processor.ecg_reader
    seconds = reader.num_samples / reader.sampling_rate
    table = ask_probe(model_ask(model, processor, batch_size), questions, seconds, num_patients, seed, quiet, records)
    run = public_run(run) | {
        "weights": fingerprint_of_weights(model.state_dict(), sampled=True),
        "system_prompt": processor.system_prompt,
        "patients": num_patients,
        "recorded_ecgs": len(records),
        "ecg_seconds": seconds,
        "seed": seed,
        "seconds": round(time.monotonic() - started, 1),
        "versions": {name: version(name) for name in ("elm-hf", "torch", "transformers")},
    }
    results = probe_results(table, questions, run, seed)
    if output is not None:
        write_probe(Path(output), table, results)
    return results


def write_probe(folder: Path, table: pd.DataFrame, results: dict) -> None:
    """Writes the answers, the results, their text and, with matplotlib, their figure."""
    (folder / FIGURES_NAME).mkdir(parents=True, exist_ok=True)
    table.to_parquet(folder / PROBE_ANSWERS_NAME, index=False)
    if find_spec("matplotlib") is not None:
        from elm_hf.counterfactuals.probe_figure import draw_probe

        names = draw_probe(folder / FIGURES_NAME, results)
        results |= {name: f"{FIGURES_NAME}/{file}" for name, file in names.items()}
    (folder / PROBE_NAME).write_text(json.dumps(results, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    (folder / PROBE_TEXT_NAME).write_text(probe_markdown(results), encoding="utf-8")


def questions_of(dataset: str | PathLike, texts: Iterable[str]) -> dict[str, tuple[ProbeQuestion, ...]]:
    """
    The questions of the probe among those of a dataset, by finding.

    Raises:
        ValueError: there are none.
    """
    questions = questions_among(set(texts))
    if not any(questions.values()):
        raise ValueError(
            f"{dataset}: none of its questions asks for a finding that can be probed ({', '.join(questions)})"
        )
    return questions


def model_ask(model: PreTrainedModel, processor: ProcessorMixin, batch_size: int = BATCH_SIZE) -> Ask:
    """What gives the probabilities of a model's answers, `batch_size` answers at a time."""

    def ask(asked: Sequence[Asked]) -> list[np.ndarray]:
        # `keep_flat`: no lead is flat, and these signals need not be judged, which would take longer than all the rest.
        conversations = [
            fill_ecgs(ecg_messages(1, question.text, answer), [ecg], sampling_rate, keep_flat=True)
            for ecg, sampling_rate, question in asked
            for answer in question.answers
        ]
        scores = [
            log_likelihoods(model, processor, conversations[start : start + batch_size])
            for start in range(0, len(conversations), batch_size)
        ]
        ends = np.cumsum([len(question.answers) for _, _, question in asked])
        return np.split(np.concatenate(scores), ends[:-1])

    return ask


def ask_probe(
    ask: Ask,
    questions: Mapping[str, Sequence[ProbeQuestion]],
    seconds: float = 10.0,
    num_patients: int = NUM_PATIENTS,
    seed: int = 0,
    quiet: bool = False,
    records: Sequence[RecordedEcg] = (),
) -> pd.DataFrame:
    """
    Asks all questions of the probe.

    Args:
        ask: what answers.
        questions: of each finding.
        seconds: length of the ECGs.
        num_patients: number of simulated patients.
        seed: random seed.
        quiet: no progress bar.
        records: recorded ECGs that are changed as well.

    Returns:
        A row for each ECG and question: `part`, `name`, `finding`, `patient`, `value`, `truth` (see [`Trial`]), `question`,
        `answer` (the most probable one of the set), `says` (whether it says that the finding is there), `probability` (of
        saying so, among the answers of the set) and `known` (probability that the answer is one of the set).
    """
    hearts = draw_hearts(num_patients, seed, ALL_CHANGES)
    findings = {finding for finding, found in questions.items() if found}
    trials = [*plan(hearts, seconds), *stretch_plan(hearts, seconds), *record_plan(records, findings, seed)]
    trials = [trial for trial in trials if trial.finding in findings]
    rows = []
    with tqdm(total=len(trials), desc="probing", unit="ECG", disable=quiet or None) as progress:
        for chunk in _chunks(trials, questions):
            asked = [
                (ecg, trial.sampling_rate, question)
                for trial in chunk
                for ecg in [trial.ecg()]
                for question in questions[trial.finding]
            ]
            about = [(trial, question) for trial in chunk for question in questions[trial.finding]]
            rows += [_row(trial, question, scores) for (trial, question), scores in zip(about, ask(asked))]
            progress.update(len(chunk))
    return pd.DataFrame(rows)


def _chunks(trials: Sequence[Trial], questions: Mapping[str, Sequence[ProbeQuestion]]) -> list[list[Trial]]:
    """Trials with about as many answers as a batch has."""
    chunks, number = [[]], 0
    for trial in trials:
        answers = sum(len(question.answers) for question in questions[trial.finding])
        if chunks[-1] and number + answers > BATCH_SIZE:
            chunks.append([])
            number = 0
        chunks[-1].append(trial)
        number += answers
    return chunks


def _row(trial: Trial, question: ProbeQuestion, scores: np.ndarray) -> dict:
    known = np.logaddexp.reduce(scores)
    place, best = question.answers.index(question.positive), int(np.argmax(scores))
    return {
        "part": trial.part,
        "name": trial.name,
        "finding": trial.finding,
        "patient": trial.patient,
        "value": trial.value,
        "truth": trial.truth,
        "question": question.text,
        "answer": question.answers[best],
        "says": best == place,
        "probability": float(np.exp(scores[place] - known)),
        "known": float(np.exp(known)),
    }
