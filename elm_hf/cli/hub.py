"""Subcommands that publish datasets and models on the Hub."""

from pathlib import Path
from typing import Annotated

import typer

from elm_hf.cli.app import app


Private = Annotated[bool, typer.Option("--private", help="Create a private repository.")]
Revision = Annotated[str | None, typer.Option(help="Branch to publish to, created if missing. Default: main.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="List the files and send nothing.")]


@app.command()
def publish(
    folder: Annotated[Path, typer.Argument(help="Folder of a dataset built by elm-hf prepare.")],
    repo: Annotated[
        str,
        typer.Argument(help="Repository, user/NAME-RATE-SAMPLES, such as user/ecg-qa-ptbxl-250-2500."),
    ],
    private: Private = False,
    revision: Revision = None,
    signals: Annotated[
        bool | None,
        typer.Option(
            "--with-signals/--without-signals",
            help="Publish everything, because you have the permission, or only ids and folds. "
            "By default everything is published if all licences allow it.",
            show_default=False,
        ),
    ] = None,
    license: Annotated[
        str | None, typer.Option(help="Licence of data of your own, such as cc-by-4.0, if the build has none.")
    ] = None,
    benchmark: Annotated[
        bool,
        typer.Option(
            "--benchmark",
            help="Include eval.yaml, by which the Hub shows the dataset as a benchmark with a leaderboard.",
        ),
    ] = False,
    dry_run: DryRun = False,
):
    """Publish a dataset on the Hub: Parquet files, folds and card in one commit."""
    from elm_hf.prepare.publish import publish_dataset

    report(publish_dataset(folder, repo, private, revision, signals, dry_run, license, benchmark))


@app.command("publish-model")
def publish_model(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of a model, an adapter or an encoder.")],
    repo: Annotated[str, typer.Argument(help="Repository, user/NAME.")],
    evaluation: Annotated[
        list[Path] | None,
        typer.Option(
            help="Report of elm-hf evaluate for the card of a model: report.json or its folder. May be repeated."
        ),
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="Repository of the checkpoint that the adapter was trained on.")
    ] = None,
    license: Annotated[
        str | None, typer.Option(help="Licence of the weights, such as apache-2.0; that of the LLM by default.")
    ] = None,
    private: Private = False,
    revision: Revision = None,
    dry_run: DryRun = False,
):
    """Publish a model, an adapter or an encoder on the Hub, with a card of its data, training and evaluation."""
    from elm_hf.checkpoints.publish import publish_model as run

    report(run(checkpoint, repo, evaluation or [], private, revision, dry_run, base, license))


def report(publication) -> None:
    """Prints what was published, or what would be."""
    total = sum(publication.sizes.values()) / 1e6
    summary = f"{len(publication.sizes)} files, {total:.1f} MB"
    if publication.url is None:
        for name, size in publication.sizes.items():
            typer.echo(f"{size:>12,}  {name}")
        typer.echo(f"{publication.repo_id}: {summary} would be published; nothing was sent")
    else:
        typer.echo(f"{publication.repo_id}: {summary}, {publication.url}")
