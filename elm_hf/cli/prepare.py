"""The subcommand that builds a dataset."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from elm_hf.cli.app import Json, Quiet, app, print_json
from elm_hf.prepare.names import check_dataset_name, dataset_names


@app.command()
def prepare(
    name: Annotated[str, typer.Argument(help=f"Dataset: {', '.join(dataset_names())}; or preferences.")],
    output: Annotated[Path, typer.Option(help="Folder of the new dataset; file of the preferences.")],
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
    key: Annotated[
        Path | None,
        typer.Option(
            help="ecgfolder: file of the key of the pseudonyms, made if it does not exist. Default: "
            "~/.config/elm-hf/pseudonyms.key.",
            show_default=False,
        ),
    ] = None,
    keep_ids: Annotated[
        bool, typer.Option("--keep-ids", help="ecgfolder: keep patient ids and file names instead of pseudonyms.")
    ] = False,
    title: Annotated[str | None, typer.Option(help="ecgfolder: title of the dataset on its card.")] = None,
    license: Annotated[
        str | None, typer.Option(help="ecgfolder: licence of your data, such as cc-by-4.0. Required to publish them.")
    ] = None,
    citation: Annotated[
        Path | None, typer.Option(help="ecgfolder: BibTeX file with the citation for the dataset card.")
    ] = None,
    shard: Annotated[
        str | None, typer.Option(help="Part of the recordings to read, such as 3/64; --merge joins the parts.")
    ] = None,
    merge: Annotated[bool, typer.Option("--merge", help="Join the shards after all of them are built.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what another build left in the folder.")
    ] = False,
    predictions: Annotated[
        list[Path] | None,
        typer.Option(help="preferences: folder of an evaluation with answers to training questions; may be repeated."),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
):
    """
    Build a dataset: a table of ECGs, conversations about them and five patient-disjoint folds.

    The same command resumes a build that was interrupted. With the name preferences, pair a model's wrong answers with the
    true ones, for elm-hf train dpo.
    """
    if (name == "preferences") != bool(predictions):
        raise ValueError(
            "--predictions and the name preferences belong together: elm-hf prepare preferences --predictions"
        )
    if predictions:
        _prepare_preferences(predictions, output, as_json)
        return
    check_dataset_name(name)
    import datasets

    from elm_hf.prepare.dataset import build_summary, prepare_dataset, prepare_shard, reading_lines
    from elm_hf.prepare.own_data import privacy_lines

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
        "key": key and str(key),
        "keep_ids": keep_ids or None,
        "title": title,
        "license": license,
        "citation": citation and citation.read_text(encoding="utf-8").strip(),
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
    for line in reading_lines(report) + privacy_lines(report, output):
        typer.echo(f"note: {line}", err=True)
    print_json(report) if as_json else typer.echo(f"{output}: {build_summary(report)}")


def _prepare_preferences(reports: list[Path], output: Path, as_json: bool) -> None:
    from elm_hf.prepare.preferences import prepare_preferences
    from elm_hf.scoring.names import PREDICTIONS_NAME

    counts = prepare_preferences([report / PREDICTIONS_NAME for report in reports], output)
    if as_json:
        print_json(counts)
        return
    others = ", ".join(f"{counts[name]} {name}" for name in ("right", "repeated", "empty"))
    typer.echo(f"{output}: {counts['pairs']} pairs from {counts['answers']} answers ({others})")


def _parse_shard(text: str) -> tuple[int, int]:
    number, _, num_shards = text.partition("/")
    if not (number.isdecimal() and num_shards.isdecimal()):
        raise ValueError(f"--shard {text!r} is not of the form 3/64, the third of 64 shards")
    return int(number), int(num_shards)
