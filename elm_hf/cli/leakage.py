"""The subcommand that looks for what the training patients of a fold give away."""

from pathlib import Path
from typing import Annotated

import typer

from elm_hf.cli.app import Fold, Json, Quiet, Records, app, check_names, print_json


@app.command()
def leakage(
    dataset: Annotated[str, typer.Argument(help="elm-hf dataset: folder or repository.")],
    fold: Fold = "1",
    checkpoint: Annotated[
        str | None,
        typer.Option(
            help="ECG-language model or encoder whose training is compared with the validation and test patients."
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for leakage.json and leakage.md.")] = None,
    records: Records = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed for resampling patients.")] = 0,
    as_json: Json = False,
    quiet: Quiet = False,
):
    """Look for ECGs, questions and patients that the training split of a fold shares with validation and test."""
    check_names(checkpoint, dataset)
    from elm_hf.data.layout import check_dataset
    from elm_hf.leakage.check import check_leakage, write_leakage
    from elm_hf.leakage.leakage_markdown import leakage_sentences
    from elm_hf.scoring.names import LEAKAGE_TEXT_NAME

    check_dataset(dataset, fold)
    found = check_leakage(dataset, fold, checkpoint=checkpoint, records=records, seed=seed, quiet=quiet)
    if output is not None:
        write_leakage(output, found)
    if as_json:
        print_json(found)
        return
    typer.echo("\n".join(leakage_sentences(found)))
    if output is not None:
        typer.echo(f"Report in {output / LEAKAGE_TEXT_NAME}")
