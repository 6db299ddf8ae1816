"""The subcommand that asks on and on about an ECG."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from elm_hf.cli.app import (
    Checkpoint,
    MaxNewTokens,
    MaxReasoningTokens,
    SamplingRate,
    Strict,
    SystemPromptFile,
    TrustRemoteCode,
    Units,
    app,
    check_names,
)


@app.command()
def chat(
    checkpoint: Checkpoint,
    ecg: Annotated[
        list[Path],
        typer.Option(
            help="File with an ECG, for models of drawn ECGs also a scan or photograph; repeat it to talk about several "
            "ECGs, in this order."
        ),
    ],
    system_prompt_file: SystemPromptFile = None,
    max_new_tokens: MaxNewTokens = 64,
    max_reasoning_tokens: MaxReasoningTokens = 512,
    strict: Strict = False,
    sampling_rate: SamplingRate = None,
    units: Units = None,
    trust_remote_code: TrustRemoteCode = False,
):
    """
    Ask a model on and on about an ECG. It reads a question from each line of the standard input.

    The line /clear forgets the conversation so far, and /quit or the end of the input ends it.
    """
    check_names(checkpoint)
    from elm_hf.cli.ask import check_pictures, check_strict, find_together, load_for_asking, read_ecgs, warn
    from elm_hf.inference.ask import Questions
    from elm_hf.inference.chat import Chat
    from elm_hf.utils.errors import one_line

    # The ECGs come first, so that errors in them are reported before the model is loaded, which may take long.
    asked = Questions(read_ecgs(find_together(ecg, sampling_rate, units)), [], [])
    check_strict(asked, strict)
    check_pictures(checkpoint, asked.ecgs)
    model, processor = load_for_asking(checkpoint, system_prompt_file, trust_remote_code)
    warn(asked)
    talk, failures = Chat(model, processor, asked.ecgs, max_new_tokens, max_reasoning_tokens), 0
    for question in _questions(asked.name):
        if question == "/clear":
            talk.clear()
            continue
        try:
            typer.echo(talk.ask(question) or "(empty)")
        except ValueError as error:
            failures += 1
            typer.echo(f"elm-hf: {one_line(error)}", err=True)
    if failures:
        raise typer.Exit(1)


def _questions(names: str) -> Iterator[str]:
    """The lines of the standard input that are not empty, up to /quit. A terminal shows a prompt."""
    if sys.stdin.isatty():
        typer.echo(f"Questions about {names}; /clear forgets the conversation, /quit ends it", err=True)
        with contextlib.suppress(ImportError):  # not on Windows
            import readline  # noqa: F401  lets input() edit lines and repeat earlier ones

    while True:
        try:
            line = input("> ") if sys.stdin.isatty() else sys.stdin.readline()
        except EOFError:
            return
        if not line and not sys.stdin.isatty() or line.strip() == "/quit":
            return
        if line.strip():
            yield line.strip()
