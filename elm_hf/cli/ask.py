"""Subcommands that look at a single ECG."""

from pathlib import Path
from typing import Annotated

import typer

from elm_hf.cli.app import Fold, SamplingRate, Split, SystemPromptFile, Units, app, check_names, read_system_prompt


@app.command()
def ask(
    checkpoint: Annotated[str, typer.Argument(help="ECG-language model: folder or repository.")],
    ecg: Annotated[Path | None, typer.Option(help="File with an ECG, in a format of docs/formats.md.")] = None,
    question: Annotated[list[str] | None, typer.Option(help="Question about the record; may be repeated.")] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Instead of --ecg: an elm-hf dataset with questions and true answers.")
    ] = None,
    record_id: Annotated[
        str | None, typer.Option(help="Record of the dataset to ask about; the first one by default.")
    ] = None,
    num_questions: Annotated[int, typer.Option(min=1, help="Number of the dataset's questions to ask.")] = 3,
    fold: Fold = "1",
    split: Split = "test",
    system_prompt_file: SystemPromptFile = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 64,
    plot: Annotated[Path | None, typer.Option(help="PNG file to draw: the ECG with questions and answers.")] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse an ECG that is flat, clipped, noise-like or contradicts itself.")
    ] = False,
    sampling_rate: SamplingRate = None,
    units: Units = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run the checkpoint's own code instead of elm-hf's.")
    ] = False,
):
    """Ask a model about an ECG: a file, or a held-out ECG of a dataset."""
    if (ecg is None) == (dataset is None):
        raise ValueError("Give either a record (--ecg with --question) or a dataset (--dataset).")
    if (ecg is None) == bool(question):
        raise ValueError("A --question goes with --ecg, and --ecg needs one; a --dataset brings its own.")
    _check_png(plot)
    check_names(checkpoint, dataset)
    from elm_hf.checkpoints.load import load_checkpoint
    from elm_hf.ecg.plot import plot_ecg
    from elm_hf.inference.ask import ask as ask_about
    from elm_hf.inference.ask import ecg_from_dataset, ecg_from_file

    # The ECG comes first, so that errors in it are reported before the model is loaded, which may take long.
    if ecg is not None:
        to_ask = ecg_from_file(ecg, question, sampling_rate, units)
    else:
        to_ask = ecg_from_dataset(dataset, fold, split, record_id, num_questions)
    problems = "; ".join(to_ask.problems())
    if problems and strict:
        raise ValueError(f"{to_ask.name}: {problems}")
    system_prompt = read_system_prompt(system_prompt_file)
    model, processor = load_checkpoint(checkpoint, trust_remote_code=trust_remote_code)
    if system_prompt is not None:
        processor.system_prompt = system_prompt or None
    answered = ask_about(model, processor, to_ask, max_new_tokens)
    if problems:
        typer.echo(f"warning: {to_ask.name}: {problems}", err=True)

    typer.echo(f"ECG {to_ask.name}, answered by {type(model).__module__}.{type(model).__name__}")
    missing = to_ask.missing_leads(processor)
    lines = [f"missing leads: {missing}"] if missing else []
    for one in answered:
        truth = "" if one["truth"] is None else f"   (truth: {one['truth']})"
        lines.append(f"{one['question']}\n    {one['answer'] or '(empty)'}{truth}")
    typer.echo("\n".join(lines))
    if plot is not None:
        plot.parent.mkdir(parents=True, exist_ok=True)
        plot_ecg(to_ask.ecg, to_ask.sampling_rate, title=to_ask.name, caption="\n".join(lines)).save(plot)
        typer.echo(f"Drawn in {plot}")


@app.command()
def plot(
    ecg: Annotated[Path, typer.Argument(help="File with an ECG, in a format of docs/formats.md.")],
    output: Annotated[Path, typer.Option(help="PNG file to draw.")],
    title: Annotated[str | None, typer.Option(help="Title of the drawing; the file's name by default.")] = None,
    sampling_rate: SamplingRate = None,
    units: Units = None,
):
    """Draw an ECG on ECG paper: 25 mm/s, 10 mm/mV, 3x4 leads and a rhythm strip."""
    _check_png(output)
    from elm_hf.ecg.files import read_ecg_file
    from elm_hf.ecg.plot import plot_ecg
    from elm_hf.modeling.ecg_leads import LEADS

    recording = read_ecg_file(ecg, sampling_rate, units=units)
    if len(recording.missing_leads) == len(LEADS):
        raise ValueError(f"{ecg}: every lead is missing or flat, so there is no ECG to draw")
    output.parent.mkdir(parents=True, exist_ok=True)
    plot_ecg(recording.ecg, recording.sampling_rate, title=title or ecg.name).save(output)
    typer.echo(f"Drawn in {output}")


def _check_png(path: Path | None):
    if path is not None and path.suffix.lower() != ".png":
        raise ValueError(f"{path}: the drawing is a PNG; give it a name that ends in .png")
