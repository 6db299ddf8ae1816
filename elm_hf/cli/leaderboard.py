"""The subcommand that compares several models."""

from pathlib import Path
from typing import Annotated

import typer

from elm_hf.cli.app import Json, app, print_json


@app.command()
def leaderboard(
    reports: Annotated[
        list[Path], typer.Argument(help="Folders of two or more models' evaluations on the same questions.")
    ],
    output: Annotated[
        Path | None, typer.Option(help="Folder for leaderboard.html, leaderboard.md and leaderboard.json.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed for resampling patients.")] = 0,
    as_json: Json = False,
):
    """Compare several models on one page: scores by task, what the models read, and costs."""
    from elm_hf.comparison.leaderboard import leaderboard as run
    from elm_hf.comparison.leaderboard import write_leaderboard
    from elm_hf.comparison.leaderboard_page import leaderboard_markdown

    found = run(reports, seed)
    if output is not None:
        written = write_leaderboard(output, found)
    if as_json:
        print_json(found)
        return
    typer.echo(leaderboard_markdown(found), nl=False)
    if output is not None:
        typer.echo(f"\nPage in {written[-1]}")
