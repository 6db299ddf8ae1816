"""Subcommands that publish on the Hub."""

from pathlib import Path
from typing import Annotated

import typer

from elm_hf.cli.app import app


Private = Annotated[bool, typer.Option("--private", help="Make it a private repository.")]
Revision = Annotated[str | None, typer.Option(help="Branch to publish on, made if missing; main by default.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="List what would be published and send nothing.")]


@app.command()
def publish(
    folder: Annotated[Path, typer.Argument(help="Dataset that elm-hf prepare built.")],
    repo: Annotated[str, typer.Argument(help="user/NAME-RATE-SAMPLES, such as user/ecg-qa-ptbxl-250-2500.")],
    private: Private = False,
    revision: Revision = None,
    signals: Annotated[
        bool | None,
        typer.Option(
            "--with-signals/--without-signals",
            help="Without: ids and folds only. With: all of it, although a source's licence leaves it unclear. "
            "[default: with, where the licences allow it]",
            show_default=False,
        ),
    ] = None,
    dry_run: DryRun = False,
):
    """Publish a built dataset on the Hub: Parquet files, folds and card, in one commit."""
    from elm_hf.prepare.publish import publish_dataset

    _report(publish_dataset(folder, repo, private, revision, signals, dry_run))


@app.command("publish-model")
def publish_model(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of a trained model or adapter.")],
    repo: Annotated[str, typer.Argument(help="user/name")],
    evaluation: Annotated[
        list[Path] | None, typer.Option(help="report.json of elm-hf evaluate, or its folder; may be repeated.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="Of an adapter: repository of the checkpoint that it was trained on.")
    ] = None,
    private: Private = False,
    revision: Revision = None,
    dry_run: DryRun = False,
):
    """Publish a trained model on the Hub, with a card of its data, training and evaluation."""
    from elm_hf.checkpoints.publish import publish_model as run

    _report(run(checkpoint, repo, evaluation or [], private, revision, dry_run, base))


def _report(publication) -> None:
    total = sum(publication.sizes.values()) / 1e6
    summary = f"{len(publication.sizes)} files, {total:.1f} MB"
    if publication.url is None:
        for name, size in publication.sizes.items():
            typer.echo(f"{size:>12,}  {name}")
        typer.echo(f"{publication.repo_id}: {summary} would be published; nothing was sent")
    else:
        typer.echo(f"{publication.repo_id}: {summary}, {publication.url}")
