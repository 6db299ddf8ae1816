"""The command itself and the options that several subcommands share."""

from importlib.metadata import version
from typing import Annotated

import typer


app = typer.Typer(
    name="elm-hf",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Quiet = Annotated[bool, typer.Option("--quiet", help="Print plain lines instead of progress bars.")]
Fold = Annotated[str, typer.Option(help='Fold: 1 to 5, or "official" for the split of the dataset\'s authors.')]
Split = Annotated[str, typer.Option(help="Split of the fold.")]


def _print_version(wanted: bool):
    if wanted:
        typer.echo(f"elm-hf {version('elm-hf')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
):
    """ECG-language models: build datasets, create, train and evaluate models, and ask them about ECGs."""
