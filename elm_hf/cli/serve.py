"""Subcommands that let others use a model: a web demo, its Space on the Hub, and a server."""

from pathlib import Path
from typing import Annotated

import typer

from elm_hf.cli.app import Checkpoint, MaxNewTokens, SystemPromptFile, TrustRemoteCode, app, check_names
from elm_hf.cli.hub import DryRun, Private, Revision, report


Examples = Annotated[
    Path | None, typer.Option(help="Folder with ECGs to choose from. By default the examples are simulated.")
]
Questions = Annotated[list[str] | None, typer.Option("--question", help="Question to choose from; may be repeated.")]
Host = Annotated[str, typer.Option(help="Address to serve at; 0.0.0.0 lets other machines in.")]


@app.command()
def demo(
    checkpoint: Checkpoint,
    examples: Examples = None,
    question: Questions = None,
    max_new_tokens: MaxNewTokens = 64,
    host: Host = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="Port. By default the first free one from 7860 on.")] = None,
    trust_remote_code: TrustRemoteCode = False,
):
    """Show a model in the browser: ECG, measurements, questions with and without the ECG. Needs the extra demo."""
    check_names(checkpoint)
    from elm_hf.serving.demo import QUESTIONS, launch_demo

    launch_demo(checkpoint, examples, question or QUESTIONS, max_new_tokens, host, port, trust_remote_code)


@app.command("publish-demo")
def publish_demo(
    repo: Annotated[str, typer.Argument(help="Repository of the Space, user/NAME.")],
    checkpoint: Annotated[str, typer.Option(help="Repository of the model that the Space loads.")],
    examples: Annotated[
        Path | None,
        typer.Option(help="Folder with ECGs to choose from, which is published. By default they are simulated."),
    ] = None,
    question: Questions = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer, in tokens.")] = None,
    requirement: Annotated[
        str | None,
        typer.Option(help="Line of requirements.txt that installs elm-hf. By default this version from PyPI."),
    ] = None,
    private: Private = False,
    revision: Revision = None,
    dry_run: DryRun = False,
):
    """Publish the demo of a model as a Space on the Hub."""
    from elm_hf.serving.space import publish_demo as run

    report(run(checkpoint, repo, examples, question or (), max_new_tokens, requirement, private, revision, dry_run))


@app.command()
def serve(
    checkpoint: Checkpoint,
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port.")] = 8000,
    name: Annotated[
        str | None, typer.Option(help="Name of the model in requests. By default that of its folder or repository.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Number of questions to answer at once.")] = 16,
    max_requests: Annotated[
        int, typer.Option(min=1, help="Number of requests that may wait or run; others are refused with 429.")
    ] = 256,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer that a request may ask for.")] = 1024,
    system_prompt_file: SystemPromptFile = None,
    trust_remote_code: TrustRemoteCode = False,
):
    """Serve a model with OpenAI's interface for chat completions. Needs the extra serve."""
    check_names(checkpoint)
    from elm_hf.cli.ask import load_for_asking
    from elm_hf.serving.server import check_installed, run_server

    check_installed()
    model, processor = load_for_asking(checkpoint, system_prompt_file, trust_remote_code)
    limits = {"batch_size": batch_size, "max_requests": max_requests, "max_new_tokens": max_new_tokens}
    run_server(model, processor, name or Path(checkpoint).name, host, port, **limits)
