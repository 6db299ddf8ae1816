"""The subcommand that builds a dataset."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from elm_hf.cli.app import Json, Quiet, app, print_json
from elm_hf.prepare.names import check_dataset_name, dataset_names


@app.command()
def prepare(
    name: Annotated[str, typer.Argument(help=f"Dataset: {', '.join(dataset_names())}.")],
    output: Annotated[Path, typer.Option(help="Folder of the new dataset.")],
    source: Annotated[Path | None, typer.Option(help="Folder of the source, as downloaded.")] = None,
    records: Annotated[
        list[str] | None,
        typer.Option(help="elm-hf dataset with the ECGs that the conversations are about; may be repeated."),
    ] = None,
    seconds: Annotated[float, typer.Option(help="Length of a record in seconds, usually 2, 5 or 10.")] = 10,
    sampling_rate: Annotated[int, typer.Option(min=1, help="Sampling rate of a record in Hz.")] = 250,
    num_recordings: Annotated[
        int | None,
        typer.Option(min=1, help="Number of recordings to read, from the first on; number of ECGs to simulate."),
    ] = None,
    num_proc: Annotated[int, typer.Option(min=1, help="Number of processes that read recordings.")] = 1,
    max_skipped: Annotated[
        float, typer.Option(min=0, max=1, help="Largest share of unusable recordings; more stop the build.")
    ] = 0.05,
    seed: Annotated[int, typer.Option(min=0, help="Random seed for folds and simulated ECGs.")] = 0,
    num_folds: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Number of folds, or 0 for the official split only. Default: 5, or that of the --records datasets.",
            show_default=False,
        ),
    ] = None,
    one_patient_per_file: Annotated[
        bool,
        typer.Option(
            "--one-patient-per-file",
            help="Take each file of ecgfolder as a patient of its own where there are no patient ids.",
        ),
    ] = False,
    source_rate: Annotated[
        int | None, typer.Option(help="ptb_xl: sampling rate of the files to read, 500 (default) or 100 Hz.")
    ] = None,
    reports: Annotated[
        str | None,
        typer.Option(help="ptb_xl: english (default) asks for reports in English only, original for all of them."),
    ] = None,
    translations: Annotated[
        Path | None, typer.Option(help="ptb_xl: CSV file with translated reports, as elm-hf translate writes it.")
    ] = None,
    questions_per_ecg: Annotated[
        int | None,
        typer.Option(min=1, help="Questions from labels: largest mean number of questions per ECG. Default: 16."),
    ] = None,
    questions_per_template: Annotated[
        int | None, typer.Option(min=1, help="Questions from labels: largest number of questions of a template.")
    ] = None,
    shard: Annotated[
        str | None, typer.Option(help="Part of the recordings to read, such as 3/64; --merge joins the parts.")
    ] = None,
    merge: Annotated[bool, typer.Option("--merge", help="Join the shards after all of them are built.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what another build left in the folder.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
):
    """
    Build a dataset: a table of ECGs, conversations about them and five patient-disjoint folds.

    The same command resumes a build that was interrupted.
    """
    check_dataset_name(name)
    import datasets

    from elm_hf.prepare.dataset import build_summary, prepare_dataset, prepare_shard, reading_lines

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
        "source_rate": source_rate,
        "reports": reports,
        "translations": translations and str(translations),
        "questions_per_ecg": questions_per_ecg,
        "questions_per_template": questions_per_template,
    }
    if shard is not None:
        if merge or records or overwrite:
            raise ValueError("--shard only reads recordings; omit --merge, --records and --overwrite")
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
    for line in reading_lines(report):
        typer.echo(f"note: {line}", err=True)
    print_json(report) if as_json else typer.echo(f"{output}: {build_summary(report)}")


def _parse_shard(text: str) -> tuple[int, int]:
    number, _, num_shards = text.partition("/")
    if not (number.isdecimal() and num_shards.isdecimal()):
        raise ValueError(f"--shard {text!r} is not of the form 3/64, the third of 64 shards")
    return int(number), int(num_shards)
