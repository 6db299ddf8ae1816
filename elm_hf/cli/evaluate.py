"""Subcommands that ask models and look at ECGs."""

import re
from pathlib import Path
from typing import Annotated

import typer

from elm_hf.cli.app import Fold, Quiet, Split, app


SystemPromptFile = Annotated[
    Path | None,
    typer.Option(help="Text file that opens conversations without a system message, instead of training's."),
]


@app.command()
def evaluate(
    checkpoint: Annotated[str, typer.Argument(help="ECG-language model: folder or repository.")],
    dataset: Annotated[str, typer.Option(help="elm-hf dataset: folder or repository.")],
    fold: Fold = "1",
    split: Split = "test",
    output: Annotated[
        Path | None, typer.Option(help="Folder for predictions.parquet, report.json, report.md and figures.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Ask about at most so many conversations, spread evenly over the split.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts per batch.")] = 32,
    max_new_tokens: Annotated[
        str, typer.Option(help='Longest answer, in tokens; also per question type: "single-verify=8,report=256".')
    ] = "32",
    condition: Annotated[
        list[str] | None,
        typer.Option(
            help="What stands in the ECG's place: ecg, zeros, noise, shuffled, none. Repeat; all by default."
        ),
    ] = None,
    occlusions: Annotated[int, typer.Option(min=0, help="Answers whose leads and times that matter are drawn.")] = 8,
    records: Annotated[Path | None, typer.Option(help="Signals of a dataset published without them.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of noise, shuffling and resampling.")] = 0,
    rag_index: Annotated[
        str | None,
        typer.Option(help="Put similar ECGs of training patients into the prompts: a folder of elm-hf index."),
    ] = None,
    rag_k: Annotated[int, typer.Option(min=1, help="Similar ECGs for each ECG.")] = 3,
    rag_content: Annotated[str, typer.Option(help="What of them: report or features.")] = "report",
    rag_location: Annotated[str, typer.Option(help="Where: user (behind the ECG) or system.")] = "user",
    judge: Annotated[
        str | None,
        typer.Option(help="LLM that scores the answers, too: chat model, or URL of an OpenAI-like endpoint."),
    ] = None,
    judge_model: Annotated[str | None, typer.Option(help="Name of the judge at its endpoint.")] = None,
    bert_score: Annotated[
        str | None,
        typer.Option(help="Add BERTScore of free text by this encoder: folder or repository, such as roberta-large."),
    ] = None,
    system_prompt_file: SystemPromptFile = None,
    update_card: Annotated[
        bool, typer.Option("--update-card", help="Write the results into the checkpoint's card (README.md).")
    ] = False,
    quiet: Quiet = False,
):
    """Score a model's answers with the true ECG, and with other signals or none in its place; write a report."""
    limits = _token_limits(max_new_tokens)
    from elm_hf.evaluation.evaluate import evaluate as run
    from elm_hf.evaluation.markdown import report_table
    from elm_hf.evaluation.names import CONDITIONS
    from elm_hf.retrieval.prompts import RetrievalOptions

    retrieval = None if rag_index is None else RetrievalOptions(rag_index, rag_k, rag_content, rag_location)
    conditions = condition or CONDITIONS
    if update_card:
        from elm_hf.evaluation.card import check_card_can_be_updated

        check_card_can_be_updated(checkpoint, list(conditions))
    report = run(
        checkpoint,
        dataset,
        fold,
        split,
        output=output,
        limit=limit,
        batch_size=batch_size,
        max_new_tokens=limits,
        conditions=conditions,
        num_occlusions=occlusions,
        records=records,
        seed=seed,
        quiet=quiet,
        retrieval=retrieval,
        judge=judge,
        judge_model=judge_model,
        bert_score=bert_score,
        system_prompt=_system_prompt(system_prompt_file),
    )
    if report is None:  # the first of the processes prints
        return
    typer.echo(f"Answers about {dataset}, fold {fold}, {split}:\n\n{report_table(report)}\n")
    for reliance in report["signal_reliance"].values():
        typer.echo(reliance["sentence"])
    if output is not None:
        typer.echo(f"Report in {output / 'report.md'}")
    if update_card:
        from elm_hf.evaluation.card import update_card as write_into_card

        write_into_card(checkpoint, report)
        typer.echo(f"Results in {Path(checkpoint) / 'README.md'}")


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="Folder of an evaluation.")],
    second: Annotated[Path, typer.Argument(help="Folder of another model's evaluation on the same questions.")],
    seed: Annotated[int, typer.Option(min=0, help="Of resampling and permuting patients.")] = 0,
):
    """Compare two evaluations question by question: difference, 95 % interval, p-value by paired permutation."""
    from elm_hf.evaluation.compare import compare as run
    from elm_hf.evaluation.compare import comparison_table

    typer.echo(comparison_table(run(first, second, seed)))


@app.command()
def aggregate(reports: Annotated[list[Path], typer.Argument(help="Folders of two evaluations or more.")]):
    """Mean and standard deviation of several seeds, or folds, of one experiment."""
    from elm_hf.evaluation.compare import aggregate as run
    from elm_hf.evaluation.compare import aggregate_table

    typer.echo(aggregate_table(run(reports)))


@app.command("zero-shot")
def zero_shot(
    checkpoint: Annotated[str, typer.Argument(help="ECG-language model, or MERL with its text tower.")],
    dataset: Annotated[str, typer.Option(help="elm-hf dataset whose records have labels: folder or repository.")],
    task: Annotated[
        list[str] | None,
        typer.Option(help="diagnostic, rhythm, form, or a JSON file with a task. Repeat; by default these three."),
    ] = None,
    fold: Fold = "1",
    split: Split = "test",
    output: Annotated[Path | None, typer.Option(help="Folder for zero_shot.json, zero_shot.md and figures.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="MERL: tokenizer of the text tower.")] = None,
    records: Annotated[Path | None, typer.Option(help="Signals of a dataset published without them.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many ECGs.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of resampling.")] = 0,
    quiet: Quiet = False,
):
    """Classify ECGs without training: options A, B, C, ... for an ECG-language model, AUROC of prompts for MERL."""
    from elm_hf.evaluation.zero_shot import zero_shot as run
    from elm_hf.evaluation.zero_shot import zero_shot_table
    from elm_hf.evaluation.zero_shot_tasks import TASKS

    report = run(checkpoint, dataset, task or list(TASKS), fold, split, output, tokenizer, records, limit, seed, quiet)
    typer.echo(zero_shot_table(report))


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
    system_prompt_file: SystemPromptFile = None,
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
    from elm_hf.checkpoints.load import load_checkpoint
    from elm_hf.ecg.plot import plot_ecg
    from elm_hf.inference.ask import ask as ask_about
    from elm_hf.inference.ask import ecg_from_dataset, ecg_from_file

    # First the ECG: what is wrong with it comes out before the model is loaded, which may take long.
    if ecg is not None:
        to_ask = ecg_from_file(ecg, question)
    else:
        to_ask = ecg_from_dataset(dataset, fold, split, record_id, num_questions)
    system_prompt = _system_prompt(system_prompt_file)
    model, processor = load_checkpoint(checkpoint, trust_remote_code=trust_remote_code)
    if system_prompt is not None:
        processor.system_prompt = system_prompt or None
    answered = ask_about(model, processor, to_ask, max_new_tokens)

    typer.echo(f"ECG {to_ask.name}, answered by {type(model).__module__}.{type(model).__name__}")
    lines = []
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
    ecg: Annotated[Path, typer.Argument(help="WFDB record, with or without .hea.")],
    output: Annotated[Path, typer.Option(help="PNG to draw.")],
    title: Annotated[str | None, typer.Option(help="Title; the record's name by default.")] = None,
):
    """Draw a record on ECG paper: 25 mm/s, 10 mm/mV, 3x4 leads and a rhythm strip."""
    _check_png(output)
    from elm_hf.ecg.plot import plot_ecg
    from elm_hf.ecg.recording import read_recording

    recording = read_recording(ecg)
    output.parent.mkdir(parents=True, exist_ok=True)
    plot_ecg(recording.ecg, recording.sampling_rate, title=title or ecg.name).save(output)
    typer.echo(f"Drawn in {output}")


@app.command()
def index(
    dataset: Annotated[str, typer.Argument(help="elm-hf dataset whose records to index: folder or repository.")],
    output: Annotated[Path, typer.Option(help="Folder to make.")],
    by: Annotated[str, typer.Option(help="What ECGs are compared by: features or encoder.")] = "features",
    encoder: Annotated[str | None, typer.Option(help="ECG encoder or ELM, for --by encoder.")] = None,
    fold: Fold = "1",
    feature_texts: Annotated[
        bool | None, typer.Option(help="Keep features in words, too; by default with --by features.")
    ] = None,
    num_proc: Annotated[int, typer.Option(min=1, help="Processes that measure features.")] = 1,
):
    """Index the ECGs of a fold's training patients by likeness, for retrieval-augmented prompts."""
    from elm_hf.retrieval.index import build_index

    made = build_index(dataset, output, by, encoder, fold, feature_texts, num_proc)
    left_out = ", ".join(f"{number} left out: {reason}" for reason, number in made.left_out.items() if number)
    typer.echo(f"{output}: {made.records} records of {made.patients} patients{left_out and f' ({left_out})'}")


def _token_limits(text: str) -> int | dict[str, int]:
    """`"32"`, or `"single-verify=8,report=256"`."""
    if re.fullmatch(r"[1-9]\d*", text):
        return int(text)
    if not re.fullmatch(r"[^=,]+=[1-9]\d*(,[^=,]+=[1-9]\d*)*", text):
        raise ValueError(f'--max-new-tokens takes a number above 0, or TYPE=NUMBER,TYPE=NUMBER,...; got "{text}"')
    return {kind.strip(): int(number) for kind, number in (part.split("=") for part in text.split(","))}


def _system_prompt(path: Path | None) -> str | None:
    return None if path is None else path.read_text(encoding="utf-8").strip()


def _check_png(path: Path | None):
    if path is not None and path.suffix.lower() != ".png":
        raise ValueError(f"{path}: the drawing is a PNG; give it a name that ends in .png")
