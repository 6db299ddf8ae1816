"""The `elm-hf` command. Every subcommand imports what it needs when it runs, so that `--help` answers at once."""

import os
import sys

# They add their subcommands.
from elm_hf.cli import (  # noqa: F401
    ask,
    chat,
    checkpoints,
    describe,
    evaluate,
    evaluate_endpoint,
    hub,
    leaderboard,
    leakage,
    lm_harness,
    measure,
    plot,
    prepare,
    probe,
    retrieval,
    serve,
    train,
)
from elm_hf.cli.app import app
from elm_hf.utils.errors import errors_in_one_line


def main():
    """Runs the command. An error that the user can fix is one line on standard error and exit code 1, never a traceback."""
    if not {"train", "pretrain"} & set(sys.argv[1:2]):  # training warns of what it does to long conversations
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    with errors_in_one_line("elm-hf"):
        app()
