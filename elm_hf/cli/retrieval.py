"""The subcommand that makes an index of similar ECGs."""

from pathlib import Path
from typing import Annotated

import typer

from elm_hf.cli.app import Fold, app, check_names


@app.command()
def index(
    dataset: Annotated[str, typer.Argument(help="elm-hf dataset whose records to index: folder or repository.")],
    output: Annotated[Path, typer.Option(help="Folder of the index.")],
    by: Annotated[str, typer.Option(help="What ECGs are compared by: features or encoder.")] = "features",
    encoder: Annotated[str | None, typer.Option(help="ECG encoder or ELM, for --by encoder.")] = None,
    fold: Fold = "1",
    feature_texts: Annotated[
        bool | None, typer.Option(help="Also keep the features in words; on by default with --by features.")
    ] = None,
    num_proc: Annotated[int, typer.Option(min=1, help="Number of processes that measure features.")] = 1,
):
    """Index the ECGs of a fold's training patients by similarity, for retrieval-augmented prompts."""
    check_names(dataset=dataset)
    from elm_hf.retrieval.index import build_index

    made = build_index(
        dataset, output, by=by, encoder=encoder, fold=fold, feature_texts=feature_texts, num_proc=num_proc
    )
    omitted = ", ".join(f"{number} omitted: {reason}" for reason, number in made.left_out.items() if number)
    typer.echo(f"{output}: {made.records} records of {made.patients} patients{omitted and f' ({omitted})'}")
