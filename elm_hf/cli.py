"""The `elm-hf` command. Every subcommand imports what it needs when it runs, so that `--help` answers at once."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer


app = typer.Typer(
    name="elm-hf",
    help="ECG-language models: build datasets, create models, evaluate them and ask them about ECGs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Quiet = Annotated[bool, typer.Option("--quiet", help="Plain lines instead of progress bars.")]
Fold = Annotated[str, typer.Option(help='1 to 5, or "official" for the split of the dataset\'s authors.')]
Split = Annotated[str, typer.Option(help="Split of the fold.")]


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


@app.command()
def create(
    output: Annotated[Path, typer.Argument(help="Folder of the new checkpoint.")],
    llm: Annotated[str | None, typer.Option(help="Pre-trained causal LLM: repository or folder.")] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="JSON file with fields of ElmConfig; `text_config` is an LLM with random weights."),
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Tokenizer: repository or folder; the LLM's by default.")
    ] = None,
    tokenizer_dataset: Annotated[
        str | None, typer.Option(help="elm-hf dataset to train a new tokenizer on (fold 1, train).")
    ] = None,
    vocab_size: Annotated[int, typer.Option(help="Of a new tokenizer.")] = 1000,
    representation: Annotated[
        str | None, typer.Option(help="What becomes of an ECG: signal (the default), stacked_signal, image or symbol.")
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(help='ECG or vision encoder: repository or folder; "ecg_resnet" and the like for a new one.'),
    ] = None,
    ecg_tokenizer: Annotated[
        str | None, typer.Option(help="Of symbols: repository or folder that train-tokenizer made.")
    ] = None,
    max_ecg_tokens: Annotated[int | None, typer.Option(min=1, help="Most symbols per ECG; all by default.")] = None,
    projector: Annotated[
        str | None, typer.Option(help="linear or mlp with an encoder; linear, patch or conv without.")
    ] = None,
    num_ecg_tokens: Annotated[int | None, typer.Option(min=1, help="Positions of the LLM's sequence per ECG.")] = None,
    seconds: Annotated[
        float | None, typer.Option(help="Length of the ECGs the model reads: a pre-trained encoder's, or 10.")
    ] = None,
    normalization: Annotated[
        str | None,
        typer.Option(help="Of the amplitude: min_max, z_score or none; a pre-trained encoder's, or min_max."),
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="Precision of the weights, such as bfloat16; auto is the LLM's.")
    ] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Of new weights.")] = 0,
):
    """Compose a new ECG-language model from an LLM, a projector and (if wanted) an ECG encoder."""
    from elm_hf.create import create_elm

    model = create_elm(
        output,
        llm=llm,
        config=config,
        tokenizer=tokenizer,
        tokenizer_dataset=tokenizer_dataset,
        vocab_size=vocab_size,
        representation=representation,
        encoder=encoder,
        ecg_tokenizer=ecg_tokenizer,
        max_ecg_tokens=max_ecg_tokens,
        projector=projector,
        num_ecg_tokens=num_ecg_tokens,
        seconds=seconds,
        normalization=normalization,
        dtype=dtype,
        seed=seed,
    )
    config = model.config
    if config.representation == "symbol":
        reads = f"{config.ecg_vocab_size:,} ECG symbols"
    else:
        reads = f"projector {config.projector_type}, {config.num_ecg_tokens} tokens per ECG"
    typer.echo(f"{output}: {model.num_parameters():,} parameters, LLM {config.text_config.model_type}, {reads}")


@app.command()
def convert(
    kind: Annotated[
        str, typer.Argument(help="Whose checkpoint: st_mem, mtae, mlae, ...; a wrong one lists them all.")
    ],
    checkpoint: Annotated[Path, typer.Argument(help="File as published. Nothing in it is executed.")],
    output: Annotated[Path, typer.Argument(help="Folder of the new checkpoint.")],
):
    """Turn another project's published checkpoint into one for from_pretrained and the Hub."""
    from elm_hf.convert import convert_checkpoint

    parts = convert_checkpoint(kind, checkpoint, output)
    typer.echo(f"{output}: {', '.join(type(part).__name__ for part in parts)}")


@app.command("train-tokenizer")
def train_tokenizer(
    dataset: Annotated[str, typer.Argument(help="elm-hf dataset whose records to train on: folder or repository.")],
    output: Annotated[Path, typer.Option(help="Folder to make.")],
    merges: Annotated[int, typer.Option(help="Tokens beside the 26 letters.")] = 5000,
    num_records: Annotated[
        int, typer.Option(help="Records drawn for training; each of 12 leads and 10 s takes 1.2 MB of memory.")
    ] = 500,
    encoding: Annotated[str, typer.Option(help="longest_match or merge_order.")] = "longest_match",
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
    quiet: Quiet = False,
):
    """Train an ECG-Byte tokenizer: ECGs as tokens of an LLM."""
    from elm_hf.ecg_byte import train_ecg_byte_tokenizer

    show_progress = sys.stderr.isatty() and not quiet
    report = train_ecg_byte_tokenizer(dataset, merges, output, num_records, encoding, seed, show_progress)
    typer.echo(
        f"{output}: {report['num_merges']:,} merges from {report['num_records']:,} records; "
        f"{report['compression']:.2f} samples per token, error {report['rmse_uv']:.1f} µV RMS and at most "
        f"{report['max_uv']:.0f} µV on {report['num_measured']:,} records"
        f"{' used in training' if report['measured_on_training'] else ' not used in training'}"
    )


@app.command()
def evaluate(
    checkpoint: Annotated[str, typer.Argument(help="ECG-language model: folder or repository.")],
    dataset: Annotated[str, typer.Option(help="elm-hf dataset: folder or repository.")],
    fold: Fold = "1",
    split: Split = "test",
    output: Annotated[Path | None, typer.Option(help="Folder for report.json and predictions.parquet.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Ask at most so many questions.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions per batch.")] = 32,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 32,
    quiet: Quiet = False,
):
    """Score a model's answers with the true ECG and with the ECG zeroed (exact match)."""
    from elm_hf.evaluation import evaluate as run
    from elm_hf.evaluation import report_table

    report = run(checkpoint, dataset, fold, split, output, limit, batch_size, max_new_tokens, quiet)
    typer.echo(f"Exact match on {dataset}, fold {fold}, {split}:\n\n{report_table(report)}")


@app.command()
def ask(
    checkpoint: Annotated[str, typer.Argument(help="ECG-language model: folder or repository.")],
    ecg: Annotated[Path | None, typer.Option(help="WFDB record, with or without .hea.")] = None,
    question: Annotated[list[str] | None, typer.Option(help="Question about the record; may be repeated.")] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Instead of --ecg: an elm-hf dataset with questions and true answers.")
    ] = None,
    record_id: Annotated[str | None, typer.Option(help="Which ECG of the dataset; the first by default.")] = None,
    num_questions: Annotated[int, typer.Option(min=1, help="How many of the dataset's questions.")] = 3,
    fold: Fold = "1",
    split: Split = "test",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 64,
    plot: Annotated[Path | None, typer.Option(help="PNG to draw: the ECG with questions and answers.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run the checkpoint's own code instead of elm-hf's.")
    ] = False,
):
    """Ask a model about an ECG: a WFDB record, or a held-out ECG of a dataset."""
    if (ecg is None) == (dataset is None):
        raise ValueError("Give either a record (--ecg with --question) or a dataset (--dataset).")
    if (ecg is None) == bool(question):
        raise ValueError("A --question goes with --ecg, and --ecg needs one; a --dataset brings its own.")
    _check_png(plot)
    from elm_hf.ask import ask as ask_about
    from elm_hf.ask import ecg_from_dataset, ecg_from_file
    from elm_hf.generation import load_checkpoint
    from elm_hf.plot import plot_ecg

    # First the ECG: what is wrong with it comes out before the model is loaded, which may take long.
    if ecg is not None:
        to_ask = ecg_from_file(ecg, question)
    else:
        to_ask = ecg_from_dataset(dataset, fold, split, record_id, num_questions)
    model, processor = load_checkpoint(checkpoint, trust_remote_code=trust_remote_code)
    answered = ask_about(model, processor, to_ask, max_new_tokens)

    typer.echo(f"ECG {to_ask.name}, answered by {type(model).__module__}.{type(model).__name__}")
    lines = []
    for one in answered:
        truth = "" if one["truth"] is None else f"   (truth: {one['truth']})"
        lines.append(f"{one['question']}\n    {one['answer']}{truth}")
    typer.echo("\n".join(lines))
    if plot is not None:
        plot.parent.mkdir(parents=True, exist_ok=True)
        plot_ecg(to_ask.ecg, to_ask.sampling_rate, title=to_ask.name, caption="\n".join(lines)).save(plot)
        typer.echo(f"Drawn in {plot}")


@app.command()
def plot(
    ecg: Annotated[Path, typer.Argument(help="WFDB record, with or without .hea.")],
    output: Annotated[Path, typer.Option(help="PNG to draw.")],
    title: Annotated[str | None, typer.Option(help="Title; the record's name by default.")] = None,
):
    """Draw a record on ECG paper: 25 mm/s, 10 mm/mV, 3x4 leads and a rhythm strip."""
    _check_png(output)
    from elm_hf.plot import plot_ecg
    from elm_hf.recordings import read_recording

    recording = read_recording(ecg)
    output.parent.mkdir(parents=True, exist_ok=True)
    plot_ecg(recording.ecg, recording.sampling_rate, title=title or ecg.name).save(output)
    typer.echo(f"Drawn in {output}")


def _check_png(path: Path | None):
    if path is not None and path.suffix.lower() != ".png":
        raise ValueError(f"{path}: the drawing is a PNG; give it a name that ends in .png")


def main():
    """Runs the command; what the user can mend is one line on standard error and exit code 1, never a traceback."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    try:
        app()
    except (ValueError, OSError, ImportError) as error:
        typer.echo(f"elm-hf: {_message(error)}", err=True)
        raise SystemExit(1) from None


def _message(error: Exception) -> str:
    """One line; of the operating system's errors, the file before what is wrong with it."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())
