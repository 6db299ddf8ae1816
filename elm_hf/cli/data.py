"""Subcommands that make datasets."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from elm_hf.cli.app import Quiet, app


@app.command()
def prepare(
    name: Annotated[str, typer.Argument(help="Dataset: ecg_qa, ptb_xl, simulated_qa or simulated_reports.")],
    output: Annotated[Path, typer.Option(help="Folder to make.")],
    source: Annotated[Path | None, typer.Option(help="Folder of the source as downloaded.")] = None,
    records: Annotated[
        str | None, typer.Option(help="elm-hf dataset whose ECGs the conversations are about (ecg_qa).")
    ] = None,
    seconds: Annotated[float, typer.Option(help="Length of a record: usually 2, 5 or 10.")] = 10,
    sampling_rate: Annotated[int, typer.Option(min=1, help="Samples per second of a record.")] = 250,
    num_recordings: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many recordings; of simulated_qa, how many to make.")
    ] = None,
    num_proc: Annotated[int, typer.Option(min=1, help="Processes that read recordings.")] = 1,
    max_skipped: Annotated[
        float, typer.Option(min=0, max=1, help="Share of unusable recordings; more stop the build.")
    ] = 0.05,
    seed: Annotated[int, typer.Option(min=0, help="Of the folds and of simulated ECGs.")] = 0,
    num_folds: Annotated[int, typer.Option(min=0, help="5, or 0 for the official split only.")] = 5,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier build.")] = False,
    quiet: Quiet = False,
):
    """Build a dataset: a table of ECGs, conversations about them and five patient-disjoint folds."""
    import datasets

    from elm_hf.prepare import build_summary, prepare_dataset

    if quiet or not sys.stderr.isatty():
        datasets.disable_progress_bars()
    report = prepare_dataset(
        name,
        output,
        source=source,
        records=records,
        seconds=seconds,
        sampling_rate=sampling_rate,
        num_recordings=num_recordings,
        num_proc=num_proc,
        max_skipped=max_skipped,
        seed=seed,
        num_folds=num_folds,
        overwrite=overwrite,
    )
    typer.echo(f"{output}: {build_summary(report)}")
