"""Subcommands that make datasets."""

import sys
from pathlib import Path
from pkgutil import iter_modules
from typing import Annotated

import typer

import elm_hf.dataset_scripts
from elm_hf.cli.app import Quiet, app


DATASETS = ", ".join(sorted(module.name for module in iter_modules(elm_hf.dataset_scripts.__path__)))


@app.command()
def prepare(
    name: Annotated[str, typer.Argument(help=f"Dataset: {DATASETS}.")],
    output: Annotated[Path, typer.Option(help="Folder to make.")],
    source: Annotated[Path | None, typer.Option(help="Folder of the source as downloaded.")] = None,
    records: Annotated[
        list[str] | None,
        typer.Option(help="elm-hf dataset whose ECGs the conversations are about; may be repeated."),
    ] = None,
    seconds: Annotated[float, typer.Option(help="Length of a record: usually 2, 5 or 10.")] = 10,
    sampling_rate: Annotated[int, typer.Option(min=1, help="Samples per second of a record.")] = 250,
    num_recordings: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many recordings; of simulated ECGs, how many to make.")
    ] = None,
    num_proc: Annotated[int, typer.Option(min=1, help="Processes that read recordings.")] = 1,
    max_skipped: Annotated[
        float, typer.Option(min=0, max=1, help="Share of unusable recordings; more stop the build.")
    ] = 0.05,
    seed: Annotated[int, typer.Option(min=0, help="Of the folds and of simulated ECGs.")] = 0,
    num_folds: Annotated[int, typer.Option(min=0, help="Number of folds, or 0 for the official split only.")] = 5,
    one_patient_per_file: Annotated[
        bool, typer.Option("--one-patient-per-file", help="Of ecgfolder without patient ids: no two files share one.")
    ] = False,
    shard: Annotated[
        str | None, typer.Option(help="Read the recordings of one part only, such as 3/64; --merge joins the parts.")
    ] = None,
    merge: Annotated[bool, typer.Option("--merge", help="Join the shards, which are all built.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier or other build.")] = False,
    quiet: Quiet = False,
):
    """
    Build a dataset: a table of ECGs, conversations about them and five patient-disjoint folds.

    Interrupted, the same command goes on with what is there.
    """
    import datasets

    from elm_hf.prepare.dataset import build_summary, prepare_dataset, prepare_shard

    if quiet or not sys.stderr.isatty():
        datasets.disable_progress_bars()
    options = {
        "source": source,
        "seconds": seconds,
        "sampling_rate": sampling_rate,
        "num_recordings": num_recordings,
        "num_proc": num_proc,
        "seed": seed,
        "one_patient_per_file": one_patient_per_file,
    }
    if shard is not None:
        if merge or records or overwrite:
            raise ValueError(
                "--shard reads recordings and does nothing else: leave --merge, --records and --overwrite away"
            )
        number, num_shards = _parse_shard(shard)
        built = prepare_shard(name, output, number, num_shards, **options)
        typer.echo(f"{output}: shard {shard} has {built['files']} record files, {built['built']} of them built now")
        return
    report = prepare_dataset(
        name,
        output,
        records=records or None,
        max_skipped=max_skipped,
        num_folds=num_folds,
        overwrite=overwrite,
        merge=merge,
        **options,
    )
    typer.echo(f"{output}: {build_summary(report)}")


def _parse_shard(text: str) -> tuple[int, int]:
    number, _, num_shards = text.partition("/")
    if not (number.isdecimal() and num_shards.isdecimal()):
        raise ValueError(f"--shard {text!r} is not of the form 3/64, the third of 64 shards")
    return int(number), int(num_shards)
