"""The `elm-hf` command. Every subcommand imports what it needs when it runs, so that `--help` answers at once."""

import os
import sys

import typer

from elm_hf.cli import data, evaluate, hub, models, recipes  # noqa: F401  (they add their subcommands)
from elm_hf.cli.app import app


def main():
    """Runs the command; what the user can mend is one line on standard error and exit code 1, never a traceback."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    try:
        app()
    except (ValueError, OSError, ImportError) as error:
        typer.echo(f"elm-hf: {_message(error)}", err=True)
        raise SystemExit(1) from None


def _message(error: Exception) -> str:
    """One line; of the operating system's errors, the file before what is wrong with it."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())
