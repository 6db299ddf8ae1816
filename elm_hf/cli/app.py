"""The command itself and the options that several subcommands share."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperCommand


class _Command(TyperCommand):
    """A subcommand that refuses empty values: the empty name of an unset variable would be the current folder."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        given, _, _ = self.make_parser(ctx).parse_args(args=list(args))
        for parameter in self.params:
            value = given.get(parameter.name)
            if "" in (value if isinstance(value, list | tuple) else [value]):
                name = parameter.opts[0] if parameter.opts[0].startswith("-") else parameter.name.upper()
                raise ValueError(f"{name} is empty; expected a value")
        return super().parse_args(ctx, args)


class _App(typer.Typer):
    def command(self, *args, **options):
        return super().command(*args, cls=_Command, **options)


app = _App(
    name="elm-hf",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)

Quiet = Annotated[bool, typer.Option("--quiet", help="Print plain lines instead of progress bars.")]
Json = Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")]
Fold = Annotated[str, typer.Option(help='Fold: 1 to 5, or "official" for the split of the dataset\'s authors.')]
Split = Annotated[str, typer.Option(help="Split of the fold.")]
EcgFiles = Annotated[
    list[Path],
    typer.Argument(
        help="Files with an ECG, in the formats of docs/formats.md; folders of them; patterns in quotes; tables with a "
        "column file_name."
    ),
]
SamplingRate = Annotated[
    float | None,
    typer.Option(help="Sampling rate in Hz of .npy and .mat files and of tables that do not say it."),
]
Units = Annotated[
    str | None,
    typer.Option(help="Units of .npy and .mat files and of tables that do not say them: mV (default), uV or V."),
]
Checkpoint = Annotated[str, typer.Argument(help="ECG-language model: folder or repository.")]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")]
MaxReasoningTokens = Annotated[
    int,
    typer.Option(
        min=1,
        help="Longest reasoning (<think>) before an answer, in tokens; the answer then follows. For models that reason.",
    ),
]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict", help="Refuse an ECG that is flat, clipped, noise-like or contradicts itself, and a blank picture."
    ),
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run the checkpoint's own code instead of elm-hf's.")
]
Records = Annotated[
    Path | None, typer.Option(help="Folder with the signals of a dataset that was published without them.")
]
SystemPromptFile = Annotated[
    Path | None,
    typer.Option(
        help="Text file with the system prompt of conversations that have none, instead of the one used in training."
    ),
]
UpdateCard = Annotated[
    bool, typer.Option("--update-card", help="Write the results into the checkpoint's card (README.md).")
]


def check_names(checkpoint: str | None = None, dataset: str | None = None) -> None:
    """Refuses names that are neither a folder nor a repository, before torch is imported."""
    from elm_hf.utils.hub import check_name

    if checkpoint is not None:
        check_name(checkpoint)
    if dataset is not None:
        check_name(dataset, repo_type="dataset")


def print_json(figures: object) -> None:
    """Prints figures as JSON; paths as text."""
    typer.echo(json.dumps(figures, indent=2, ensure_ascii=False, default=str))


def say_notes(notes: Mapping[str, Sequence[str]]) -> None:
    """Says what tables were found to mean: one line for all files that were read in the same way."""
    files = defaultdict(list)
    for name, found in notes.items():
        if found:
            files["; ".join(found)].append(name)
    for found, names in files.items():
        typer.echo(f"note: {names[0] if len(names) == 1 else f'{len(names)} files'}: {found}", err=True)


def none_of(failures: Sequence[tuple[Path, str]], done: str) -> str:
    """The message if none of the files could be used: that of a single file, or which formats several have."""
    from elm_hf.ecg.find_files import formats_of

    if len(failures) == 1:
        return failures[0][1]
    return f"none of {len(failures)} files can be {done}; found {formats_of(failures)}"


def read_system_prompt(path: Path | None) -> str | None:
    """The text of a `--system-prompt-file`; None without a file."""
    return None if path is None else path.read_text(encoding="utf-8").strip()


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
