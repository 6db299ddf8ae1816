"""Subcommands that score models, compare scores and costs."""

import re
from pathlib import Path
from typing import Annotated

import typer

from elm_hf.cli.app import (
    Fold,
    Json,
    MaxReasoningTokens,
    Quiet,
    Records,
    Split,
    SystemPromptFile,
    UpdateCard,
    app,
    check_names,
    print_json,
    read_system_prompt,
)


# Options of `evaluate` and `evaluate-endpoint`.
AskedDataset = Annotated[str, typer.Option(help="elm-hf dataset: folder or repository.")]
ReportOutput = Annotated[
    Path | None, typer.Option(help="Folder for predictions.parquet, report.json, report.md and figures.")
]
Limit = Annotated[
    int | None,
    typer.Option(min=1, help="Largest number of conversations, drawn evenly from the split; all by default."),
]
EvaluationSeed = Annotated[int, typer.Option(min=0, help="Random seed for noise, shuffling and resampling.")]
Judge = Annotated[
    str | None,
    typer.Option(help="LLM that also scores the answers: chat model, or URL of an OpenAI-compatible endpoint."),
]
JudgeModel = Annotated[str | None, typer.Option(help="Name of the judge at its endpoint.")]
BertScore = Annotated[
    str | None,
    typer.Option(help="Encoder for BERTScore of free text: folder or repository, such as roberta-large."),
]
AllowSeenPatients = Annotated[
    bool,
    typer.Option(
        "--allow-seen-patients",
        help="Continue although the checkpoint was trained on some of the patients; the report says so.",
    ),
]


@app.command()
def evaluate(
    checkpoint: Annotated[str, typer.Argument(help="ECG-language model: folder or repository.")],
    dataset: AskedDataset,
    fold: Fold = "1",
    split: Split = "test",
    output: ReportOutput = None,
    limit: Limit = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Number of prompts in a batch.")] = 32,
    max_new_tokens: Annotated[
        str, typer.Option(help='Longest answer, in tokens; also per question type: "single-verify=8,report=256".')
    ] = "32",
    max_reasoning_tokens: MaxReasoningTokens = 512,
    condition: Annotated[
        list[str] | None,
        typer.Option(
            help="What stands in the place of the ECG: ecg, zeros, noise, shuffled, none, or demographics (age and sex "
            "in words); may be repeated. All but demographics by default. For models that read the signal and its picture "
            "also signal_only, picture_only, other_signal and other_picture, for those that read measured values also "
            "no_measurements, other_measurements and measurements_only."
        ),
    ] = None,
    occlusions: Annotated[
        int, typer.Option(min=0, help="Number of answers whose decisive leads and times are drawn.")
    ] = 8,
    counterfactuals: Annotated[
        bool,
        typer.Option(
            "--counterfactuals", help="Also ask about simulated ECGs that differ in one thing (elm-hf probe)."
        ),
    ] = False,
    calibration: Annotated[
        bool,
        typer.Option(
            "--calibration",
            help="Also measure how sure the model is of each short answer, and whether it is right to be.",
        ),
    ] = False,
    picture_degradation: Annotated[
        bool,
        typer.Option(
            "--picture-degradation",
            help="Also ask about pictures with the artefacts of scans, in four steps; for models of drawn ECGs.",
        ),
    ] = False,
    leakage: Annotated[
        Path | None,
        typer.Option(help="Folder of elm-hf leakage, for the scores without near-duplicates of training ECGs."),
    ] = None,
    records: Records = None,
    seed: EvaluationSeed = 0,
    rag_index: Annotated[
        str | None,
        typer.Option(help="Folder of elm-hf index, to add similar ECGs of training patients to the prompts."),
    ] = None,
    rag_k: Annotated[int, typer.Option(min=1, help="Number of similar ECGs for each ECG.")] = 3,
    rag_content: Annotated[str, typer.Option(help="What to add of similar ECGs: report or features.")] = "report",
    rag_location: Annotated[
        str, typer.Option(help="Where to add it: user (after the ECG) or system (in the system message).")
    ] = "user",
    judge: Judge = None,
    judge_model: JudgeModel = None,
    judge_rubric: Annotated[
        str,
        typer.Option(
            help="What the judge scores: correctness, or grounding (GEM's aspects of free-text interpretations)."
        ),
    ] = "correctness",
    bert_score: BertScore = None,
    system_prompt_file: SystemPromptFile = None,
    temperature: Annotated[
        float | None,
        typer.Option(help="Temperature of sampled answers, for elm-hf prepare preferences. Default: greedy answers."),
    ] = None,
    allow_seen_patients: AllowSeenPatients = False,
    update_card: UpdateCard = False,
    as_json: Json = False,
    quiet: Quiet = False,
):
    """Score a model's answers with the true ECG, and with other signals or none in its place; write a report."""
    limits = token_limits(max_new_tokens)
    if temperature is not None and not temperature > 0:
        raise ValueError(f"--temperature is {temperature:g}; expected a number above 0")
    check_names(checkpoint, dataset)
    from elm_hf.counterfactuals.probe import NUM_PATIENTS
    from elm_hf.evaluation.evaluate import evaluate as run
    from elm_hf.evaluation.report_markdown import degradation_table, report_table
    from elm_hf.interpretations.reasoning_markdown import reasoning_sentences
    from elm_hf.retrieval.options import RetrievalOptions
    from elm_hf.scoring.names import CONDITIONS, REPORT_TEXT_NAME
    from elm_hf.utils.reports import trust_sentences

    retrieval = None if rag_index is None else RetrievalOptions(rag_index, rag_k, rag_content, rag_location)
    if update_card:
        from elm_hf.evaluation.card import check_card_can_be_updated

        check_card_can_be_updated(checkpoint, list(condition or CONDITIONS))
    report = run(
        checkpoint,
        dataset,
        fold,
        split,
        output=output,
        limit=limit,
        batch_size=batch_size,
        max_new_tokens=limits,
        max_reasoning_tokens=max_reasoning_tokens,
        conditions=condition or None,
        num_occlusions=occlusions,
        num_counterfactuals=NUM_PATIENTS if counterfactuals else 0,
        records=records,
        seed=seed,
        quiet=quiet,
        retrieval=retrieval,
        judge=judge,
        judge_model=judge_model,
        judge_rubric=judge_rubric,
        bert_score=bert_score,
        system_prompt=read_system_prompt(system_prompt_file),
        allow_seen_patients=allow_seen_patients,
        temperature=temperature,
        picture_degradation=picture_degradation,
        leakage=leakage,
        calibration=calibration,
    )
    if report is None:  # the first of the processes prints
        return
    if as_json:
        print_json(report)
    else:
        typer.echo(f"Answers about {dataset}, fold {fold}, {split}:\n\n{report_table(report)}\n")
        for reliance in report["signal_reliance"].values():
            typer.echo(reliance["sentence"])
        for sentence in reasoning_sentences(report["reasoning"]) if report["reasoning"] else ():
            typer.echo(sentence)
        for sentence in trust_sentences(report):
            typer.echo(sentence)
        for kind in report["picture_degradation"][0]["kinds"] if picture_degradation else ():
            typer.echo(
                f"\nPictures with artefacts of scans:\n\n{degradation_table(report['picture_degradation'], kind)}\n"
            )
        if output is not None:
            typer.echo(f"Report in {output / REPORT_TEXT_NAME}")
    if update_card:
        from elm_hf.evaluation.card import update_card as write_into_card

        write_into_card(checkpoint, report)
        typer.echo(f"Results in {Path(checkpoint) / 'README.md'}", err=as_json)


@app.command("evaluate-encoder")
def evaluate_encoder(
    checkpoint: Annotated[str, typer.Argument(help="ECG encoder: folder or repository.")],
    dataset: Annotated[str, typer.Option(help="elm-hf dataset whose records have labels: folder or repository.")],
    fold: Fold = "1",
    split: Split = "test",
    output: Annotated[
        Path | None, typer.Option(help="Folder for report.json, report.md and a classifier's probabilities.parquet.")
    ] = None,
    linear_probe: Annotated[
        bool,
        typer.Option(
            "--linear-probe",
            help="Fit logistic regressions on the frozen encoder's output, instead of using its own classifier.",
        ),
    ] = False,
    label_shares: Annotated[
        str, typer.Option(help="Shares of the training patients that linear probes are fitted on.")
    ] = "0.01,0.1,1",
    measurements: Annotated[
        str | None,
        typer.Option(
            help="Measured values that linear probes read beside the encoder's output: all, general (rate, intervals, axis, "
            "voltages), noise, or names such as st_mv (of all leads) or st_mv_V2."
        ),
    ] = None,
    window_seconds: Annotated[
        float | None,
        typer.Option(help="Average a classifier's probabilities over half-overlapping windows of this length."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Number of ECGs in a batch.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Random seed for drawing and resampling patients.")] = 0,
    allow_seen_patients: AllowSeenPatients = False,
    update_card: UpdateCard = False,
    as_json: Json = False,
    quiet: Quiet = False,
):
    """Measure how well an ECG encoder tells the labels of records apart: macro AUROC, with intervals over patients."""
    shares = _shares(label_shares)
    check_names(checkpoint, dataset)
    from elm_hf.classification.encoder_card import check_encoder_card, update_encoder_card
    from elm_hf.classification.encoder_evaluation import evaluate_encoder as run
    from elm_hf.classification.encoder_report import encoder_table, warnings_of
    from elm_hf.scoring.names import REPORT_TEXT_NAME

    if update_card:
        check_encoder_card(checkpoint)
    report = run(
        checkpoint,
        dataset,
        fold,
        split,
        output=output,
        linear_probe=linear_probe,
        label_shares=shares,
        measurements=None if measurements is None else measurements.split(","),
        window_seconds=window_seconds,
        batch_size=batch_size,
        seed=seed,
        quiet=quiet,
        allow_seen_patients=allow_seen_patients,
    )
    if as_json:
        print_json(report)
    else:
        typer.echo(f"Macro AUROC on {dataset}, fold {fold}, {split}:\n\n{encoder_table(report)}\n")
        for sentence in warnings_of(report):
            typer.echo(sentence)
        if output is not None:
            typer.echo(f"Report in {output / REPORT_TEXT_NAME}")
    if update_card:
        update_encoder_card(checkpoint, report)
        typer.echo(f"Results in {Path(checkpoint) / 'README.md'}", err=as_json)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="Folder of an evaluation.")],
    second: Annotated[Path, typer.Argument(help="Folder of another model's evaluation on the same questions.")],
    seed: Annotated[int, typer.Option(min=0, help="Random seed for resampling patients.")] = 0,
    as_json: Json = False,
):
    """Compare two evaluations question by question: difference, 95 % interval, and the p-value that agrees with it."""
    from elm_hf.comparison.compare import compare as run
    from elm_hf.comparison.compare import comparison_table

    comparison = run(first, second, seed)
    print_json(comparison) if as_json else typer.echo(comparison_table(comparison))


@app.command()
def aggregate(
    reports: Annotated[list[Path], typer.Argument(help="Folders of two or more evaluations of one experiment.")],
    as_json: Json = False,
):
    """Print mean and standard deviation of several seeds, or folds, of one experiment."""
    from elm_hf.comparison.compare import aggregate as run
    from elm_hf.comparison.compare import aggregate_table

    aggregated = run(reports)
    print_json(aggregated) if as_json else typer.echo(aggregate_table(aggregated))


@app.command()
def costs(
    recipe: Annotated[
        list[str],
        typer.Argument(help="Recipes to compare, each NAME=RUN or NAME=RUN,RUN,...; a run is its output folder."),
    ],
    as_json: Json = False,
):
    """Compare what recipes cost: wall time, samples, tokens, and scores where a run's folder has a report."""
    from elm_hf.comparison.recipe_costs import costs_table, recipe_costs

    totals = recipe_costs(dict(_runs(text) for text in recipe))
    print_json(totals) if as_json else typer.echo(costs_table(totals))


@app.command("zero-shot")
def zero_shot(
    checkpoint: Annotated[str, typer.Argument(help="ECG-language model, or MERL with its text tower.")],
    dataset: Annotated[str, typer.Option(help="elm-hf dataset whose records have labels: folder or repository.")],
    task: Annotated[
        list[str] | None,
        typer.Option(
            help="diagnostic, rhythm, form, or a JSON file with a task; may be repeated. The three by default."
        ),
    ] = None,
    fold: Fold = "1",
    split: Split = "test",
    output: Annotated[Path | None, typer.Option(help="Folder for zero_shot.json, zero_shot.md and figures.")] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Tokenizer of MERL's text tower; the checkpoint's own by default.")
    ] = None,
    records: Records = None,
    prompt: Annotated[
        str,
        typer.Option(
            help="Prompt for an ECG-language model: question, or ecg_lm (that of the paper, which needs --descriptions)."
        ),
    ] = "question",
    descriptions: Annotated[
        Path | None, typer.Option(help="Table written by elm-hf describe, for --prompt ecg_lm.")
    ] = None,
    controls: Annotated[
        bool,
        typer.Option(
            "--controls/--no-controls", help="Ask with a zeroed ECG, another patient's, and permuted letters, too."
        ),
    ] = True,
    multi_label: Annotated[
        bool, typer.Option("--multi-label", help="Ask about all ECGs, also those of none or several of the classes.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Largest number of ECGs, drawn evenly from the split; all by default.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed for resampling.")] = 0,
    allow_seen_patients: AllowSeenPatients = False,
    as_json: Json = False,
    quiet: Quiet = False,
):
    """Classify ECGs without training: options A, B, C, ... for an ECG-language model, AUROC of prompts for MERL."""
    check_names(checkpoint, dataset)
    from elm_hf.classification.zero_shot import ChoiceOptions
    from elm_hf.classification.zero_shot import zero_shot as run
    from elm_hf.classification.zero_shot_report import zero_shot_table
    from elm_hf.classification.zero_shot_tasks import TASKS

    options = ChoiceOptions(prompt, descriptions, controls, multi_label)
    report = run(
        checkpoint,
        dataset,
        task or list(TASKS),
        fold,
        split,
        output=output,
        tokenizer=tokenizer,
        records=records,
        limit=limit,
        seed=seed,
        quiet=quiet,
        options=options,
        allow_seen_patients=allow_seen_patients,
    )
    print_json(report) if as_json else typer.echo(zero_shot_table(report))


def token_limits(text: str) -> int | dict[str, int]:
    """`"32"`, or `"single-verify=8,report=256"`."""
    if re.fullmatch(r"[1-9]\d*", text):
        return int(text)
    if not re.fullmatch(r"[^=,]+=[1-9]\d*(,[^=,]+=[1-9]\d*)*", text):
        raise ValueError(f'--max-new-tokens takes a number above 0, or TYPE=NUMBER,TYPE=NUMBER,...; got "{text}"')
    return {kind.strip(): int(number) for kind, number in (part.split("=") for part in text.split(","))}


def _shares(text: str) -> list[float]:
    """`"0.01,0.1,1"`."""
    try:
        return [float(share) for share in text.split(",")]
    except ValueError as error:
        raise ValueError(f'--label-shares takes numbers, such as 0.01,0.1,1; got "{text}"') from error


def _runs(text: str) -> tuple[str, list[str]]:
    name, _, runs = text.partition("=")
    if not (name and runs):
        raise ValueError(f"{text!r} is not of the form NAME=RUN or NAME=RUN,RUN")
    return name, runs.split(",")
