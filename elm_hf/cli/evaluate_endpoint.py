"""The subcommand that scores a model at an OpenAI-compatible endpoint, as a baseline."""

import re
from typing import Annotated

import typer

from elm_hf.cli.app import (
    Fold,
    Json,
    Quiet,
    Records,
    Split,
    SystemPromptFile,
    app,
    check_names,
    print_json,
    read_system_prompt,
)
from elm_hf.cli.evaluate import (
    AskedDataset,
    BertScore,
    EvaluationSeed,
    Judge,
    JudgeModel,
    Limit,
    ReportOutput,
    token_limits,
)


@app.command("evaluate-endpoint")
def evaluate_endpoint(
    url: Annotated[str, typer.Argument(help="OpenAI-compatible endpoint, such as https://api.openai.com/v1.")],
    dataset: AskedDataset,
    endpoint_model: Annotated[str | None, typer.Option(help="Name of the model at the endpoint.")] = None,
    endpoint_input: Annotated[
        str,
        typer.Option(
            help="What is sent in the place of an ECG: picture (PNG, for models that see) or measurements (text)."
        ),
    ] = "picture",
    answer_options: Annotated[
        bool,
        typer.Option(
            "--answer-options",
            help="Name the answers that training questions of the same template have after each question with short answers.",
        ),
    ] = False,
    price: Annotated[
        str | None,
        typer.Option(help='Price of a million prompt tokens and of a million generated tokens, such as "2.5,10".'),
    ] = None,
    fold: Fold = "1",
    split: Split = "test",
    output: ReportOutput = None,
    limit: Limit = None,
    max_new_tokens: Annotated[
        str,
        typer.Option(
            help='Longest answer, in tokens, with the reasoning; also per question type: "single-verify=8,report=256".'
        ),
    ] = "64",
    condition: Annotated[
        list[str] | None,
        typer.Option(
            help="What stands in the place of the ECG: ecg, zeros, noise, shuffled, none, or demographics (age and sex "
            "in words); may be repeated. All but demographics by default."
        ),
    ] = None,
    records: Records = None,
    seed: EvaluationSeed = 0,
    judge: Judge = None,
    judge_model: JudgeModel = None,
    bert_score: BertScore = None,
    system_prompt_file: SystemPromptFile = None,
    workers: Annotated[int, typer.Option(min=1, help="Number of simultaneous requests.")] = 8,
    timeout: Annotated[float, typer.Option(min=0.1, help="Longest wait for a reply, in seconds.")] = 120,
    as_json: Json = False,
    quiet: Quiet = False,
):
    """Score a model at an OpenAI-compatible endpoint on the same questions: as elm-hf evaluate, with costs and refusals."""
    from elm_hf.utils.chat_models import is_endpoint

    if not is_endpoint(url):
        raise ValueError(f"{url}: not the URL of an endpoint (https://...); checkpoints are scored by elm-hf evaluate")
    limits, prices = token_limits(max_new_tokens), _prices(price)
    check_names(dataset=dataset)
    from elm_hf.evaluation.endpoint_markdown import cost_sentence
    from elm_hf.evaluation.report_markdown import report_table
    from elm_hf.other_models.endpoint_evaluation import evaluate_endpoint as run
    from elm_hf.scoring.names import REPORT_TEXT_NAME

    report = run(
        url,
        dataset,
        fold,
        split,
        model=endpoint_model,
        ecg_input=endpoint_input,
        answer_options=answer_options,
        price=prices,
        output=output,
        limit=limit,
        max_new_tokens=limits,
        conditions=condition or None,
        records=records,
        seed=seed,
        quiet=quiet,
        judge=judge,
        judge_model=judge_model,
        bert_score=bert_score,
        system_prompt=read_system_prompt(system_prompt_file),
        num_workers=workers,
        timeout_s=timeout,
    )
    if as_json:
        print_json(report)
        return
    typer.echo(f"Answers about {dataset}, fold {fold}, {split}:\n\n{report_table(report)}\n")
    for reliance in report["signal_reliance"].values():
        typer.echo(reliance["sentence"])
    typer.echo(cost_sentence(report["run"]["endpoint"]))
    if output is not None:
        typer.echo(f"Report in {output / REPORT_TEXT_NAME}")


def _prices(text: str | None) -> tuple[float, float] | None:
    """`"2.5,10"`."""
    if text is None:
        return None
    if not re.fullmatch(r"\d+(\.\d+)?,\d+(\.\d+)?", text):
        raise ValueError(f'--price takes two numbers, such as 2.5,10; got "{text}"')
    prompt, completion = map(float, text.split(","))
    return prompt, completion
