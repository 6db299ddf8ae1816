"""Subcommands that put ECGs and their reports into words, for alignment."""

from pathlib import Path
from typing import Annotated

import typer

from elm_hf.cli.app import Quiet, app


@app.command()
def translate(
    dataset: Annotated[str, typer.Argument(help="elm-hf dataset whose reports to translate: folder or repository.")],
    output: Annotated[Path, typer.Option(help="CSV file to write or to complete.")],
    translator: Annotated[
        str, typer.Option(help="Chat or translation model, or URL of an OpenAI-compatible endpoint.")
    ],
    translator_model: Annotated[str | None, typer.Option(help="Name of the model at its endpoint.")] = None,
    num_workers: Annotated[int, typer.Option(min=1, help="Number of simultaneous requests to an endpoint.")] = 8,
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
        Path | None,
        typer.Option(help="Folder of PTB-XL+, for its 12SL features; without it the ECGs are measured."),
    ] = None,
    translations: Annotated[
        Path | None, typer.Option(help="CSV file with translated reports, as elm-hf translate writes it.")
    ] = None,
    reports: Annotated[
        str | None,
        typer.Option(help="Reports that are not in English: english omits them, original keeps them as they are."),
    ] = None,
    num_proc: Annotated[int, typer.Option(min=1, help="Number of processes that measure ECGs.")] = 1,
):
    """Describe ECGs in words, for alignment: the patient, the report, and each lead's values outside the normal range."""
    from elm_hf.descriptions.describe import describe_records

    made = describe_records(dataset, output, ptb_xl, ptb_xl_plus, translations, reports, num_proc)
    omitted = "".join(f"; {number:,} omitted: {reason}" for reason, number in made["left_out"].items())
    features = ", ".join(f"{name} {number:,}" for name, number in made["features"].items())
    typer.echo(
        f"{output}: {made['records']:,} records, {made['translated']:,} reports translated, features: {features}{omitted}"
    )
