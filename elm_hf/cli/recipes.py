"""Subcommands that recipes need between their training runs."""

from pathlib import Path
from typing import Annotated

import typer

from elm_hf.cli.app import Quiet, app


@app.command()
def translate(
    dataset: Annotated[str, typer.Argument(help="elm-hf dataset whose reports to translate: folder or repository.")],
    output: Annotated[Path, typer.Option(help="CSV to write or to complete.")],
    translator: Annotated[str, typer.Option(help="Chat or translation model, or URL of an OpenAI-like endpoint.")],
    translator_model: Annotated[str | None, typer.Option(help="Name of the model at its endpoint.")] = None,
    num_workers: Annotated[int, typer.Option(min=1, help="Requests at once to an endpoint.")] = 8,
    quiet: Quiet = False,
):
    """Translate the reports of a dataset that are not in English, each wording once."""
    from elm_hf.descriptions.translate import translate_reports, translation_summary

    report = translate_reports(dataset, output, translator, translator_model, num_workers, quiet=quiet)
    typer.echo(f"{output}: {translation_summary(report)}")
    if report["failures"]:
        raise ValueError("some reports have no translation; the same command tries them again")


@app.command()
def describe(
    dataset: Annotated[str, typer.Argument(help="elm-hf dataset whose ECGs to describe: folder or repository.")],
    output: Annotated[Path, typer.Option(help="Parquet file to write.")],
    ptb_xl: Annotated[Path | None, typer.Option(help="Folder of PTB-XL, for heights and weights.")] = None,
    ptb_xl_plus: Annotated[
        Path | None, typer.Option(help="Folder of PTB-XL+, for its 12SL features; ECGs are measured otherwise.")
    ] = None,
    translations: Annotated[Path | None, typer.Option(help="CSV of elm-hf translate, or your own.")] = None,
    reports: Annotated[
        str | None,
        typer.Option(help="Of reports not in English: english leaves them out, original takes them as they are."),
    ] = None,
    num_proc: Annotated[int, typer.Option(min=1, help="Processes that measure.")] = 1,
):
    """Describe ECGs in words, for alignment: the person, the report, what lies outside its normal range in each lead."""
    from elm_hf.descriptions.describe import describe_records

    made = describe_records(dataset, output, ptb_xl, ptb_xl_plus, translations, reports, num_proc)
    left_out = "".join(f"; {number:,} left out: {reason}" for reason, number in made["left_out"].items())
    features = ", ".join(f"{name} {number:,}" for name, number in made["features"].items())
    typer.echo(
        f"{output}: {made['records']:,} records, {made['translated']:,} reports translated, features: {features}{left_out}"
    )


@app.command()
def costs(
    recipe: Annotated[
        list[str],
        typer.Argument(help="Recipes to compare, each NAME=RUN or NAME=RUN,RUN,... ; a run is its output folder."),
    ],
):
    """Put what recipes cost side by side: wall time, samples, tokens, and scores where a run's folder has a report."""
    from elm_hf.evaluation.recipe_costs import costs_table

    typer.echo(costs_table(dict(_runs(text) for text in recipe)))


def _runs(text: str) -> tuple[str, list[str]]:
    name, _, runs = text.partition("=")
    if not (name and runs):
        raise ValueError(f"{text!r} is not of the form NAME=RUN or NAME=RUN,RUN")
    return name, runs.split(",")
