"""Evaluation of a model at an OpenAI-compatible endpoint: the same questions, conditions and report as for an ELM."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import pandas as pd
import torch
from datasets import Dataset

from elm_hf.data.seen_patients import overlap
from elm_hf.evaluation.asker import Asker
from elm_hf.evaluation.report import write_report
from elm_hf.evaluation.report_folder import ReportFolder
from elm_hf.evaluation.what_is_asked import Asked, errors_of, training_rows_of, what_is_asked
from elm_hf.interpretations.judge import judge_predictions
from elm_hf.leakage.check import patients_on_both_sides
from elm_hf.other_models.candidates import candidate_answers, names_a_candidate
from elm_hf.other_models.endpoint_asker import EndpointAsker, Request, read_requests
from elm_hf.other_models.endpoint_inputs import PIXELS_PER_MM, EcgContents
from elm_hf.scoring.bert_score import BertScorer
from elm_hf.scoring.names import CONDITIONS, PART_CONDITIONS, read_by
from elm_hf.scoring.predictions import prediction_table
from elm_hf.scoring.scores import Questions
from elm_hf.utils.chat_models import Endpoint, public_url
from elm_hf.utils.reports import public_name


ROLE = "endpoint"  # ELM_HF_ENDPOINT_API_KEY, --endpoint-model
SYSTEM_PROMPT = (
    "You are asked about an electrocardiogram (ECG). Reply with the answer alone, without explanation: yes or no, or the "
    "findings that are asked for, separated by commas. Write sentences only if you are asked for a report or an explanation."
)
MOST_OPTIONS = 200


def evaluate_endpoint(
    url: str,
    dataset: str | PathLike,
    fold: int | str = 1,
    split: str = "test",
    *,
    model: str | None = None,
    ecg_input: str = "picture",
    answer_options: bool = False,
    price: tuple[float, float] | None = None,
    output: str | PathLike | None = None,
    limit: int | None = None,
    max_new_tokens: int | Mapping[str, int] = 32,
    conditions: Sequence[str] | None = None,
    records: str | PathLike | None = None,
    seed: int = 0,
    quiet: bool = False,
    judge: str | None = None,
    judge_model: str | None = None,
    bert_score: str | None = None,
    system_prompt: str | None = None,
    num_workers: int = 8,
    timeout_s: float = 120,
    first_wait_s: float = 1.0,
) -> dict:
    """
    Asks a model at an OpenAI-compatible endpoint every question of a split, as [`evaluate`] asks an ELM: with its ECG,
    with other signals in its place and without any.

    The environment variable `ELM_HF_ENDPOINT_API_KEY` holds the key of the endpoint; it is not written to any file.

    Args:
        url: of the endpoint, such as `http://localhost:8000/v1`. Names, passwords and parameters in it are left out of the
            report.
        dataset, fold, split, output, limit, max_new_tokens, conditions, records, seed, quiet: see [`evaluate`]. A model that
            reasons counts its reasoning in `max_new_tokens`.
        model: name of the model at the endpoint.
        ecg_input: what is sent in the place of an ECG: `"picture"` (a PNG file) or `"measurements"` (text).
        answer_options: name the answers that training questions of the same template have, after questions with short
            answers.
        price: of a million prompt tokens and of a million generated tokens, in any currency.
        judge, judge_model, bert_score: see [`evaluate`].
        system_prompt: opens conversations without a system message; `""` for none. Defaults to `SYSTEM_PROMPT`.
        num_workers: number of simultaneous requests.
        timeout_s: longest wait for a reply, in seconds.
        first_wait_s: wait before a failed request is repeated, in seconds; it doubles with each repetition.

    Returns:
        The report; `run.endpoint` has requests, tokens, costs and refusals (docs/evaluation.md).

    Raises:
        ValueError: nothing to evaluate; the endpoint rejects a request, or does not answer all of them; or an `output` that
            holds another evaluation.
    """
    started = time.monotonic()
    conditions = _conditions(conditions)
    contents = EcgContents(ecg_input)
    system_prompt = SYSTEM_PROMPT if system_prompt is None else system_prompt or None
    bert_scorer = None
    if bert_score is not None:
        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
        bert_scorer = BertScorer(bert_score, device, 32, quiet)

    asked = what_is_asked(dataset, fold, split, limit, records, conditions, seed, None)
    training_rows = training_rows_of(dataset, fold, records, asked.persons)
    if answer_options:
        asked = replace(asked, rows=_with_options(asked, candidate_answers(asked.questions, training_rows)))
    with errors_of(dataset):
        asker = Asker(asked.rows, asked.questions, asked.ablation, conditions, max_new_tokens, batch_size=1)
    name = None if model is None else public_name(model)  # some servers call models by their paths
    identity = {
        "checkpoint": f"{name or urlsplit(url).hostname}, {ecg_input}",
        "endpoint": {
            "url": public_url(url),
            "model": name,
            "input": ecg_input,
            "answer_options": answer_options,
            "pixels_per_mm": PIXELS_PER_MM if ecg_input == "picture" else None,
        },
        **asked.identity(dataset, fold, split, conditions, max_new_tokens),
        "seed": seed,
        "retrieval": None,
        "system_prompt": system_prompt,
        "temperature": None,
    }

    with TemporaryDirectory() as nowhere:
        folder = ReportFolder(Path(output or nowhere), identity)
        sender = EndpointAsker(
            asker,
            lambda longest: Endpoint(url, model, longest, ROLE, timeout_s),
            contents,
            system_prompt,
            num_workers,
            first_wait_s,
        )
        answers = sender.ask_all(folder, public_url(url), quiet)
        predictions = prediction_table(asked.questions, answers, conditions)
        folder.finish(predictions)
        requests = read_requests(folder.path)
        refused = {(one.question_id, one.condition) for one in requests if one.refused}
        refused = {key for key, asked_as in asker.same_as.items() if asked_as in refused}

        settings = {
            "endpoint": identity["endpoint"]
            | _costs(requests, price)
            | {"refusals": _refusals(Questions(predictions), refused, training_rows)},
            "seen_patients": overlap(None, asked.patients).to_dict(),
            "limit": limit,
        }
        if judge is not None:
            settings["judge"] = judge_predictions(predictions, judge, folder.path, judge_model, quiet=quiet)[1]
        settings |= asked.donors()
        settings["seconds"] = round(time.monotonic() - started, 1)
        settings["dataset_on_hub"] = not Path(dataset).is_dir()
        settings["versions"] = {name: version(name) for name in ("elm-hf", "huggingface_hub", "datasets")}
        return write_report(
            folder.path,
            predictions,
            identity | settings,
            training_rows,
            seed,
            ecgs_of=asked.ecgs_of,
            bert_scorer=bert_scorer,
            persons_of=asked.known_persons_of,
            leakage={"patients_on_both_sides": patients_on_both_sides(dataset, fold), "found": None},
            facts_of=asked.facts_of,
        )


def _conditions(conditions: Sequence[str] | None) -> tuple[str, ...]:
    of_parts = [name for name in conditions or () if name in PART_CONDITIONS]
    if of_parts:
        raise ValueError(
            f'the condition "{of_parts[0]}" is for models that {read_by(of_parts[0])}; an endpoint gets one of --endpoint-input'
        )
    return tuple(dict.fromkeys(conditions or CONDITIONS))


def _with_options(asked: Asked, candidates: Sequence[frozenset[str]]) -> Dataset:
    """The conversations with the possible answers after each question with short answers."""
    kinds = _kinds(asked.questions)
    words: dict[tuple[int, int], str] = {}
    for one, options in zip(asked.questions.itertuples(), candidates):
        if kinds[one.question_id] == "short" and 0 < len(options) <= MOST_OPTIONS:
            words[one.row, one.position] = f"Possible answers: {'; '.join(sorted(options))}"

    def add(messages: list[dict], number: int) -> dict:
        messages = [message | {"content": list(message["content"])} for message in messages]
        for position in range(len(messages)):
            if (number, position) in words:
                messages[position - 1]["content"].append({"type": "text", "text": words[number, position]})
        return {"messages": messages}

    rows = asked.rows.with_format(None).map(add, input_columns=["messages"], with_indices=True, keep_in_memory=True)
    return rows.with_format(asked.rows.format["type"], **asked.rows.format["format_kwargs"])


def _kinds(questions: pd.DataFrame) -> dict[str, str]:
    """Whether the answers to each question are `"short"` or `"text"`; those without a true answer are text."""
    table = Questions(questions.assign(condition="", prediction="", finished=True)).table
    return dict.fromkeys(questions["question_id"], "text") | table["kind"].to_dict()


def _refusals(
    questions: Questions, refused: set[tuple[str, str]], training_rows: pd.DataFrame | None
) -> dict[str, dict[str, int]]:
    """For each condition the number of answers, of refusals that the endpoint declares, and of others without a candidate."""
    table = questions.table
    columns = ["question_type", "template_id", "question", "answer"]
    known = pd.concat([table.reindex(columns=columns), *([] if training_rows is None else [training_rows])])
    candidates, found = candidate_answers(table, known), {}
    for condition, answers in questions.answers.items():
        counts = {"answers": len(table), "declared": 0, "no_candidate": 0}
        for question, kind, items, answer in zip(table.index, table["kind"], candidates, answers):
            if (question, condition) in refused:
                counts["declared"] += 1
            elif kind == "short" and answer.strip():
                counts["no_candidate"] += not names_a_candidate(answer, items)
        found[condition] = counts
    return found


def _costs(requests: Sequence[Request], price: tuple[float, float] | None) -> dict:
    """Requests, tokens and their price, failed attempts by reason."""
    failures = Counter()
    for one in requests:
        failures.update(one.failures)
    answered = [one for one in requests if one.answered]
    prompt, completion = (
        sum(getattr(one, name) for one in requests) for name in ("prompt_tokens", "completion_tokens")
    )
    cost = None if price is None else (prompt * price[0] + completion * price[1]) / 1e6
    return {
        "requests": len(answered) + failures.total(),
        "failed_requests": dict(sorted(failures.items())),
        "without_usage": sum(not one.prompt_tokens for one in answered),
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "price_per_million": None if price is None else list(price),
        "cost": None if cost is None else round(cost, 6),
        "greedy": all(one.greedy for one in answered),
    }
