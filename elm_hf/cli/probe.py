"""The subcommand that asks a model about ECGs that differ in one thing."""

from pathlib import Path
from typing import Annotated

import typer

from elm_hf.cli.app import Json, Quiet, SystemPromptFile, UpdateCard, app, check_names, print_json, read_system_prompt


@app.command()
def probe(
    checkpoint: Annotated[str, typer.Argument(help="ECG-language model: folder or repository.")],
    output: Annotated[
        Path | None, typer.Option(help="Folder for probe.json, probe.md, probe.parquet and a figure.")
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="Dataset that the model was trained with, whose questions are asked: folder or repository. Those of "
            "simulated datasets by default."
        ),
    ] = None,
    fold: Annotated[str, typer.Option(help="Fold of the datasets.")] = "1",
    ecgs: Annotated[
        str | None,
        typer.Option(help="Dataset of patients, whose test ECGs are changed as well: folder or repository."),
    ] = None,
    patients: Annotated[
        int,
        typer.Option(
            min=2,
            help="Number of simulated patients, and largest number of patients of --ecgs; intervals and limits need at least 6.",
        ),
    ] = 16,
    batch_size: Annotated[int, typer.Option(min=1, help="Number of answers in a batch.")] = 96,
    seed: Annotated[int, typer.Option(min=0, help="Random seed for the ECGs and the intervals.")] = 0,
    system_prompt_file: SystemPromptFile = None,
    update_card: UpdateCard = False,
    as_json: Json = False,
    quiet: Quiet = False,
):
    """Ask a model about ECGs that differ in one thing: which limits it has learned, and what its answers follow."""
    check_names(checkpoint, dataset)
    check_names(dataset=ecgs)
    from elm_hf.counterfactuals.probe import probe as run
    from elm_hf.scoring.names import PROBE_TEXT_NAME

    if update_card:
        from elm_hf.evaluation.card import check_is_folder

        check_is_folder(checkpoint)

    results = run(
        checkpoint,
        output=output,
        dataset=dataset,
        fold=fold,
        ecgs=ecgs,
        num_patients=patients,
        batch_size=batch_size,
        seed=seed,
        quiet=quiet,
        system_prompt=read_system_prompt(system_prompt_file),
    )
    if update_card:
        from elm_hf.evaluation.card import update_card_with_probe

        update_card_with_probe(checkpoint, results)
    if as_json:
        print_json(results)
        return
    of_records = [] if results["records"] is None else results["records"]["curves"]
    for curves, suffix in ((results["curves"], ""), (of_records, ", recorded ECGs")):
        for curve in curves:
            typer.echo(f"{curve['finding']} ({curve['question']}{suffix}): {curve['sentence']}")
    typer.echo("\n" + "\n".join(results["summary"]))
    if update_card:
        typer.echo(f"Results in {Path(checkpoint) / 'README.md'}")
    if output is not None:
        typer.echo(f"Report in {output / PROBE_TEXT_NAME}")
