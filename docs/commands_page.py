"""Writes the help of every `elm-hf` command into commands.md when the site is built (a hook of MkDocs)."""

import typer
from typer.cli import get_docs_for_click

from elm_hf.cli import app


def on_page_markdown(markdown: str, page, **_) -> str:
    """The text of commands.md with the help of the commands behind it; every other page as it is."""
    if page.file.src_uri != "commands.md":
        return markdown
    command = typer.main.get_command(app)
    context = command.make_context("elm-hf", [], resilient_parsing=True)
    commands = get_docs_for_click(obj=command, ctx=context, name="elm-hf")
    return f"{markdown}\n{commands.removeprefix('# `elm-hf`')}"
