"""The subcommand that asks about ECGs."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from elm_hf.cli.app import (
    Checkpoint,
    Fold,
    MaxNewTokens,
    MaxReasoningTokens,
    Quiet,
    SamplingRate,
    Split,
    Strict,
    SystemPromptFile,
    TrustRemoteCode,
    Units,
    app,
    check_names,
    none_of,
    read_system_prompt,
    say_notes,
)
from elm_hf.cli.plot import check_png


@app.command()
def ask(
    checkpoint: Checkpoint,
    more_files: Annotated[
        list[Path] | None,
        typer.Argument(
            help="More files after a single --ecg, as a shell expands *.xml. Each is asked about on its own."
        ),
    ] = None,
    ecg: Annotated[
        list[Path] | None,
        typer.Option(
            help="File with an ECG, for models of drawn ECGs also a scan or photograph; repeat it to ask about several "
            "ECGs together, in this order. A folder, a pattern in quotes or a table with a column file_name stands for "
            "files that are asked about one by one."
        ),
    ] = None,
    question: Annotated[list[str] | None, typer.Option(help="Question about the ECG; may be repeated.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="CSV or Parquet table of answers to write. After an interruption, the same command goes on with it."
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="Instead of --ecg: an elm-hf dataset. Without --question, its own questions are asked."),
    ] = None,
    record_id: Annotated[
        str | None, typer.Option(help="Record of the dataset to ask about; the first one by default.")
    ] = None,
    num_questions: Annotated[int, typer.Option(min=1, help="Number of the dataset's questions to ask.")] = 3,
    fold: Fold = "1",
    split: Split = "test",
    system_prompt_file: SystemPromptFile = None,
    max_new_tokens: MaxNewTokens = 64,
    max_reasoning_tokens: MaxReasoningTokens = 512,
    show_reasoning: Annotated[
        bool,
        typer.Option("--show-reasoning", help="Also show the reasoning before each answer, if the model writes any."),
    ] = False,
    confidence: Annotated[
        bool, typer.Option("--confidence", help="Also say how sure the model is of each answer.")
    ] = False,
    answers: Annotated[
        str | None,
        typer.Option(
            help='Answers among which the confidence is the probability: "sinus rhythm,atrial fibrillation". By default yes and '
            "no for questions of that form, and otherwise the probability of the answer's wording."
        ),
    ] = None,
    abstain_below: Annotated[
        float | None, typer.Option(help='Confidence, from 0 to 1, below which the answer is "not sure".')
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Number of questions about files to answer at once.")] = 8,
    plot: Annotated[Path | None, typer.Option(help="PNG file to draw: the ECG with questions and answers.")] = None,
    strict: Strict = False,
    sampling_rate: SamplingRate = None,
    units: Units = None,
    trust_remote_code: TrustRemoteCode = False,
    quiet: Quiet = False,
):
    """Ask a model about ECGs: of files, or a held-out ECG of a dataset."""
    if bool(ecg) == (dataset is not None):
        raise ValueError("Give either a record (--ecg with --question) or a dataset (--dataset).")
    if ecg and not question:
        raise ValueError("--ecg needs a --question.")
    check_png(plot)
    check_names(checkpoint, dataset)
    sure = _confidence_options(confidence, answers, abstain_below)
    from elm_hf.inference.ask import ecg_of_dataset, questions_about, questions_of_dataset

    # The ECGs come first, so that errors in them are reported before the model is loaded, which may take long.
    if dataset is not None:
        if output is not None:
            raise ValueError("--output is a table of answers about files; it goes with --ecg, not with --dataset")
        if question:
            asked = questions_about([ecg_of_dataset(dataset, fold, split, record_id)], question)
        else:
            asked = questions_of_dataset(dataset, fold, split, record_id, num_questions)
    else:
        groups, is_one = _find(ecg, more_files or [], sampling_rate, units)
        if output is not None or not is_one:
            if plot is not None:
                raise ValueError("--plot draws the ECGs of one question; draw other files with elm-hf plot")
            loading = checkpoint, system_prompt_file, trust_remote_code
            options = {"max_new_tokens": max_new_tokens, "max_reasoning_tokens": max_reasoning_tokens}
            options |= {"batch_size": batch_size, "strict": strict, "sure": sure}
            reading = {"sampling_rate": sampling_rate, "units": units}
            _ask_each(groups, question, output, loading, options, reading, show_reasoning, quiet)
            return
        asked = questions_about(read_ecgs(groups[0]), question)
    check_strict(asked, strict)
    check_pictures(checkpoint, asked.ecgs)
    model, processor = load_for_asking(checkpoint, system_prompt_file, trust_remote_code)
    lines = _ask_once(model, processor, asked, (max_new_tokens, max_reasoning_tokens, sure), show_reasoning)
    typer.echo(f"ECG {asked.name}, answered by {type(model).__module__}.{type(model).__name__}")
    typer.echo("\n".join(lines))
    if plot is not None:
        _draw(asked, lines, plot)


def _confidence_options(confidence: bool, answers: str | None, abstain_below: float | None):
    """How sure the model is to be asked to be; None if nobody wants to know."""
    from elm_hf.inference.confidence import ConfidenceOptions

    if abstain_below is not None and not 0 < abstain_below <= 1:
        raise ValueError(f"--abstain-below is {abstain_below:g}; expected a number above 0, up to 1")
    if not confidence and answers is None and abstain_below is None:
        return None
    candidates = None
    if answers is not None:
        candidates = tuple(dict.fromkeys(filter(None, map(str.strip, answers.split(",")))))
        if len(candidates) < 2:
            raise ValueError(f'--answers takes two answers or more, separated by commas; got "{answers}"')
    return ConfidenceOptions(candidates, abstain_below)


def _find(ecg: list[Path], more_files: list[Path], sampling_rate: float | None, units: str | None):
    """The groups of files to ask about, and whether the paths stand for a single group."""
    from elm_hf.ecg.find_files import find_ecg_files, stands_for_several

    if len(ecg) == 1:
        is_one = not more_files and not stands_for_several(ecg[0])
        return find_ecg_files([*ecg, *more_files], sampling_rate, units), is_one
    if more_files:
        raise ValueError(
            f"{more_files[0]}: a file without --ecg; repeat --ecg before each file to ask about all of them together, "
            "or give --ecg once before all of them to ask about each one"
        )
    return [find_together(ecg, sampling_rate, units)], True


def find_together(ecg: list[Path], sampling_rate: float | None, units: str | None) -> list:
    """The files of several `--ecg`, each of which must be a single file."""
    from elm_hf.ecg.find_files import find_ecg_files, stands_for_several

    several = [path for path in ecg if stands_for_several(path)]
    if several:
        raise ValueError(
            f"{several[0]}: stands for files that are asked about one by one; ECGs of one conversation are files, each "
            "with an --ecg of its own"
        )
    return [file for group in find_ecg_files(ecg, sampling_rate, units) for file in group]


def read_ecgs(files: list) -> list:
    """The ECGs of files."""
    from elm_hf.inference.ask import ecg_from_file

    return [ecg_from_file(file) for file in files]


def check_strict(asked, strict: bool) -> None:
    """Refuse doubtful ECGs if that is wanted."""
    if strict and asked.problems():
        raise ValueError(" | ".join(asked.problems()))


def check_pictures(checkpoint: str, ecgs: list) -> None:
    """Refuse pictures for a model that reads none."""
    pictures = [str(ecg.path) for ecg in ecgs if ecg.picture is not None]
    if pictures:
        from elm_hf.checkpoints.load import check_reads_pictures

        check_reads_pictures(checkpoint, pictures)


def load_for_asking(checkpoint: str, system_prompt_file: Path | None, trust_remote_code: bool) -> tuple:
    """The model and the processor, with the system prompt of a file."""
    from elm_hf.checkpoints.load import load_checkpoint

    system_prompt = read_system_prompt(system_prompt_file)
    model, processor = load_checkpoint(checkpoint, trust_remote_code=trust_remote_code)
    if system_prompt is not None:
        processor.system_prompt = system_prompt or None
    return model, processor


def warn(asked) -> None:
    """Say what tables were found to mean, and which ECGs are doubtful."""
    say_notes({ecg.name: ecg.notes for ecg in asked.ecgs})
    for problem in asked.problems():
        typer.echo(f"warning: {problem}", err=True)


def _ask_once(model, processor, asked, limits: tuple, show_reasoning: bool) -> list[str]:
    """Lines with what of the ECGs is not read, the missing leads, the questions and the answers."""
    from elm_hf.inference.ask import ask as ask_about

    (answers,) = ask_about(model, processor, [asked], *limits)
    warn(asked)
    return _lines(processor, asked, answers, show_reasoning)


def _lines(processor, asked, answers: list[dict], show_reasoning: bool) -> list[str]:
    missing = asked.missing_leads(processor)
    lines = asked.unread(processor) + ([f"missing leads: {missing}"] if missing else [])
    for one in answers:
        truth = "" if one["truth"] is None else f"   (truth: {one['truth']})"
        lines.append(one["question"])
        if show_reasoning and one["reasoning"]:
            lines += [f"    | {line}" for line in one["reasoning"].splitlines()]
        lines.append(f"    {one['answer'] or '(empty)'}{_sure(one)}{truth}")
    return lines


def _sure(answered: dict) -> str:
    """How sure the model is, in brackets; empty if that was not asked."""
    from elm_hf.inference.confidence import NOT_SURE
    from elm_hf.utils.exact_match import final_answer

    found = answered.get("confidence")
    if found is None:
        return ""
    given = final_answer(answered["text"])
    is_abstention = answered["answer"] == NOT_SURE != given
    return f"   ({found.words_of_abstention(given) if is_abstention else found.words()})"


def _draw(asked, lines: list[str], path: Path) -> None:
    """Draw the ECGs, one below the other, with the questions and answers below the last one."""
    from elm_hf.ecg.plot import plot_ecg, plot_picture, stack_pictures

    captions = [None] * (len(asked.ecgs) - 1) + ["\n".join(lines)]
    pictures = [
        plot_ecg(one.ecg, one.sampling_rate, title=one.name, caption=caption)
        if one.picture is None
        else plot_picture(one.picture.pixels, title=one.name, caption=caption)
        for one, caption in zip(asked.ecgs, captions)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    stack_pictures(pictures).save(path)
    typer.echo(f"Drawn in {path}")


def _ask_each(
    groups: list,
    questions: list[str],
    output: Path | None,
    loading: tuple,
    options: dict,
    reading: dict,
    show_reasoning: bool,
    quiet: bool,
):
    """Ask about many files. Files that cannot be asked about are reported and left out."""
    from tqdm import tqdm

    from elm_hf.checkpoints.load import check_reads_pictures
    from elm_hf.inference.ask_files import ask_files, check_output
    from elm_hf.modeling.ecg_pictures import as_picture

    if output is not None:
        check_output(output)
    paths = [file.path for files in groups for file in files]
    if all(map(as_picture, paths)):
        check_reads_pictures(loading[0], [str(path) for path in paths])
    model, processor = load_for_asking(*loading)
    table, remaining, failures, notes = None, groups, [], {}
    if output is not None:
        table = _answer_table(output, model, processor, questions, options, reading, show_reasoning)
        remaining = [files for files in groups if files not in table]
        if len(remaining) < len(groups):
            typer.echo(f"{len(groups) - len(remaining)} of {len(groups)} files were answered before", err=True)
    answered = ask_files(model, processor, remaining, questions, **options)
    hidden = quiet or not sys.stderr.isatty()
    for one in tqdm(answered, "asking", len(remaining), unit=" files", disable=hidden or table is None):
        if one.error is not None:
            failures.append((one.files[0].path, one.error))
            tqdm.write(f"left out: {one.error}", file=sys.stderr)
        elif table is not None:
            table.add(one, processor)
            notes |= {file.name: ecg.notes for file, ecg in zip(one.files, one.asked.ecgs)}
        else:
            warn(one.asked)
            name = ", ".join(file.name for file in one.files)
            typer.echo("\n".join([f"ECG {name}", *_lines(processor, one.asked, one.answers, show_reasoning), ""]))
    num_answered = len(groups) - len(failures)
    if not num_answered:
        raise ValueError(none_of(failures, "asked about"))
    if table is not None:
        table.finish(groups)
    say_notes(notes)
    where = f" in {output}" if output is not None else ""
    typer.echo(f"{num_answered} of {len(groups)} files answered{where}", err=output is None)


def _answer_table(
    output: Path, model, processor, questions: list[str], options: dict, reading: dict, show_reasoning: bool
):
    """The table of answers, which goes on where the same command stopped."""
    from elm_hf.inference.ask_files import AnswerTable
    from elm_hf.utils.weights import fingerprint_of_weights

    settings = {
        "questions": questions,
        "max_new_tokens": options["max_new_tokens"],
        "max_reasoning_tokens": options["max_reasoning_tokens"],
        "strict": options["strict"],
        **reading,
        "system_prompt": processor.system_prompt,
        "weights": fingerprint_of_weights(model.state_dict(), sampled=True),
    }
    sure = options["sure"]
    if sure is not None:
        settings |= {"answers": sure.candidates and list(sure.candidates), "abstain_below": sure.abstain_below}
    return AnswerTable(output, settings, show_reasoning, sure is not None)
