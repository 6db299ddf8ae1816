"""Subcommands that make checkpoints and tokenizers."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from elm_hf.cli.app import Json, Quiet, app, print_json
from elm_hf.utils.recipes import model_path


@app.command()
def create(
    output: Annotated[Path, typer.Argument(help="Folder of the new checkpoint.")],
    llm: Annotated[str | None, typer.Option(help="Pre-trained causal LLM: repository or folder.")] = None,
    config: Annotated[
        str | None,
        typer.Option(
            help="JSON file with fields of ElmConfig, whose `text_config` is an LLM with random weights; or one of "
            "elm-hf: quickstart_elm, with 2 million parameters."
        ),
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Tokenizer: repository or folder; the LLM's by default.")
    ] = None,
    tokenizer_dataset: Annotated[
        str | None, typer.Option(help="elm-hf dataset on whose training split a new tokenizer is trained.")
    ] = None,
    tokenizer_fold: Annotated[str, typer.Option(help='Fold of --tokenizer-dataset: 1 to 5, or "official".')] = "1",
    vocab_size: Annotated[int, typer.Option(help="Vocabulary size of a new tokenizer.")] = 1000,
    representation: Annotated[
        str | None,
        typer.Option(
            help="How the model reads ECGs: signal (the default), stacked_signal, image or symbol; or signal,image for "
            "both, with --picture-encoder."
        ),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="ECG or vision encoder: repository or folder; or new for a new ecg_se_resnet, or another type, such as "
            "ecg_resnet, for a new encoder of that type. None by default."
        ),
    ] = None,
    ecg_tokenizer: Annotated[
        str | None, typer.Option(help="ECG tokenizer for symbol: repository or folder, as train-tokenizer makes it.")
    ] = None,
    max_ecg_tokens: Annotated[
        int | None, typer.Option(min=1, help="Largest number of symbols per ECG; all by default.")
    ] = None,
    projector: Annotated[
        str | None, typer.Option(help="Projector: linear or mlp with an encoder; linear, patch or conv without.")
    ] = None,
    num_ecg_tokens: Annotated[
        int | None,
        typer.Option(
            min=1, help="Number of tokens per ECG in the LLM's sequence, with those of its picture and measurements."
        ),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            help="Length of the ECGs that the model reads, in seconds; by default that of a pre-trained encoder, or 10."
        ),
    ] = None,
    normalization: Annotated[
        str | None,
        typer.Option(
            help="Normalization of the amplitude: millivolt (clipped at ±10 mV), min_max, z_score or none; by default "
            "that of a pre-trained encoder, or millivolt. min_max and z_score erase the voltage."
        ),
    ] = None,
    leads: Annotated[
        str | None,
        typer.Option(
            help="Leads that the model reads, such as I or I,II,V2; by default those of a pre-trained encoder, or all."
        ),
    ] = None,
    picture_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Height and width of pictures in pixels, by default those of the vision encoder. Of 10 s, a millimetre "
            "has 0.9 pixels at 224 and 2 at 512.",
        ),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(help="Layout of drawn ECGs: 3x4, 3x4+1 (with a rhythm strip; the default), 3x4+3, 6x2 or 12x1."),
    ] = None,
    mm_per_s: Annotated[float | None, typer.Option(help="Paper speed of drawn ECGs in mm/s, 25 by default.")] = None,
    mm_per_mv: Annotated[
        float | None,
        typer.Option(
            help="Amplitude of drawn ECGs in mm/mV; 10 by default, or less where rows have no room for 3 mV."
        ),
    ] = None,
    grid_color: Annotated[
        str | None, typer.Option(help="Grid of drawn ECGs: red (the default), orange, green, blue or grey.")
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="Data type of the weights, such as bfloat16; auto takes that of the LLM.")
    ] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Random seed for new weights.")] = 0,
    license: Annotated[
        str | None, typer.Option(help="Licence of the model, such as apache-2.0; that of the LLM by default.")
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run the code of an --encoder that was not made for elm-hf.")
    ] = False,
    encoder_rate: Annotated[
        int | None,
        typer.Option(
            min=1, help="Sampling rate in Hz of such an encoder, by default that of its own feature extractor."
        ),
    ] = None,
    encoder_layout: Annotated[
        str | None,
        typer.Option(
            help="Shape of its signal: leads_first (the default: batch, leads, samples), samples_first (batch, samples, leads), "
            "flat (batch, leads x samples) or single_lead (batch x leads, samples)."
        ),
    ] = None,
    encoder_units: Annotated[str | None, typer.Option(help="Units of its signal: mV (the default), uV or V.")] = None,
    encoder_input: Annotated[
        str | None, typer.Option(help="Name of its argument for the signal, by default its main or first one.")
    ] = None,
    picture_encoder: Annotated[
        str | None, typer.Option(help="Vision encoder of --representation signal,image: repository or folder.")
    ] = None,
    picture_projector: Annotated[
        str | None, typer.Option(help="Projector of the picture of signal,image: linear or mlp (the default).")
    ] = None,
    num_picture_tokens: Annotated[
        int | None, typer.Option(min=1, help="Of signal,image, how many of the tokens per ECG are the picture's.")
    ] = None,
    measurements: Annotated[
        str | None,
        typer.Option(
            help="Measured values that the model reads beside the ECG, as one token each: general (rate, intervals, axis and "
            "voltages), noise, all, or names. qrs_ms is one value, st_mv one for each lead, st_mv_V2 that of V2."
        ),
    ] = None,
    sampling_rate: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Sampling rate in Hz at which a model without an encoder reads ECGs, 250 by default. That of an ECG "
            "tokenizer's training records fits it.",
        ),
    ] = None,
):
    """Compose a new ECG-language model from an LLM, a projector and, optionally, an ECG encoder."""
    from elm_hf.utils.files import check_free
    from elm_hf.utils.hub import check_name

    check_free(output)
    for name in (llm, tokenizer, ecg_tokenizer):
        if name is not None:
            check_name(name, needs_owner=False)
    from elm_hf.checkpoints.create import create_elm
    from elm_hf.checkpoints.hub_encoder import HubEncoder

    described = HubEncoder(
        encoder or "", trust_remote_code, encoder_rate, encoder_layout, encoder_units, encoder_input
    )
    if described.is_described and encoder is None:
        raise ValueError("--trust-remote-code and --encoder-... describe an encoder; add --encoder.")
    paper = {"layout": layout, "mm_per_s": mm_per_s, "mm_per_mv": mm_per_mv, "grid_color": grid_color}
    model = create_elm(
        output,
        llm=llm,
        config=None if config is None else model_path(config),
        tokenizer=tokenizer,
        tokenizer_dataset=tokenizer_dataset,
        tokenizer_fold=tokenizer_fold,
        vocab_size=vocab_size,
        representation=representation.split(",") if representation and "," in representation else representation,
        encoder=None if described.is_described else encoder,
        ecg_tokenizer=ecg_tokenizer,
        max_ecg_tokens=max_ecg_tokens,
        projector=projector,
        num_ecg_tokens=num_ecg_tokens,
        seconds=seconds,
        normalization=normalization,
        leads=None if leads is None else leads.split(","),
        picture_size=picture_size,
        paper={name: value for name, value in paper.items() if value is not None},
        dtype=dtype,
        seed=seed,
        license=license,
        hub_encoder=described if described.is_described else None,
        picture_encoder=picture_encoder,
        picture_projector=picture_projector,
        num_picture_tokens=num_picture_tokens,
        measurements=None if measurements is None else measurements.split(","),
        sampling_rate=sampling_rate,
    )
    llm_type, reads = model.config.text_config.model_type, _reads(model.config)
    typer.echo(f"{output}: {model.num_parameters():,} parameters, LLM {llm_type}, {reads}")


def _reads(config) -> str:
    """What a new model reads ECGs with, in words."""
    if config.representation == "symbol":
        reads = f"{config.ecg_vocab_size:,} ECG symbols"
    elif config.reads_both:
        reads = (
            f"projectors {config.projector_type} (signal) and {config.picture_projector_type} (picture), "
            f"{config.num_ecg_tokens} tokens per ECG, {config.num_picture_tokens} of them the picture's"
        )
    else:
        reads = f"projector {config.projector_type}, {config.num_ecg_tokens} tokens per ECG"
    if config.measurements is not None:
        reads += f", {len(config.measurements)} for measured values"
    return reads


@app.command()
def convert(
    kind: Annotated[
        str,
        typer.Argument(
            help="Format of the checkpoint: st_mem, mtae, mlae, merl, ecgfounder, clef, ecg_fm, hubert_ecg, "
            "ecg_jepa, ecg_cpc, ecg_coca or ecg_byte."
        ),
    ],
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="Checkpoint as published: a file, or a folder of hubert_ecg or ecg_coca. No code in it is executed."
        ),
    ],
    output: Annotated[Path, typer.Argument(help="Folder of the new checkpoint.")],
):
    """Turn another project's published checkpoint into one for from_pretrained and the Hub."""
    from elm_hf.checkpoints.convert import convert_checkpoint

    parts = convert_checkpoint(kind, checkpoint, output)
    typer.echo(f"{output}: {', '.join(type(part).__name__ for part in parts)}")


@app.command()
def merge(
    adapter: Annotated[str, typer.Argument(help="LoRA adapter from training: folder or repository.")],
    output: Annotated[Path, typer.Argument(help="Folder of the new checkpoint.")],
    base: Annotated[
        str | None, typer.Option(help="Checkpoint that the adapter was trained on; the one that it names by default.")
    ] = None,
):
    """Merge a LoRA adapter into its base, which makes a full checkpoint that needs no PEFT."""
    from elm_hf.checkpoints.merge import merge_adapter

    merged = merge_adapter(adapter, output, base)
    typer.echo(f"{output}: {merged.num_parameters():,} parameters, {merged.dtype}".replace("torch.", ""))


@app.command("train-tokenizer")
def train_tokenizer(
    dataset: Annotated[str, typer.Argument(help="elm-hf dataset whose records to train on: folder or repository.")],
    output: Annotated[Path, typer.Option(help="Folder of the new tokenizer.")],
    merges: Annotated[int, typer.Option(help="Number of merges: tokens in addition to the 26 letters.")] = 5000,
    num_records: Annotated[
        int, typer.Option(help="Number of records to train on; one of 12 leads and 10 s takes 1.2 MB of memory.")
    ] = 500,
    scale: Annotated[
        str,
        typer.Option(
            help="Amplitudes of the letters: companded (-5 to 5 mV, finer near 0) or published (percentiles of the "
            "training records, as in ECG-Byte)."
        ),
    ] = "companded",
    encoding: Annotated[
        str, typer.Option(help="How ECGs are encoded: longest_match or merge_order.")
    ] = "longest_match",
    seed: Annotated[int, typer.Option(help="Random seed for drawing records.")] = 0,
    fold: Annotated[
        str | None,
        typer.Option(
            help='Fold, 1 to 5 or "official", on whose training patients to train. By default all records are used.'
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
):
    """Train an ECG-Byte tokenizer: ECGs as tokens of an LLM."""
    from elm_hf.checkpoints.ecg_byte import train_ecg_byte_tokenizer

    show_progress = sys.stderr.isatty() and not quiet
    report = train_ecg_byte_tokenizer(dataset, merges, output, num_records, scale, encoding, seed, show_progress, fold)
    if as_json:
        print_json(report)
        return
    typer.echo(
        f"{output}: {report['num_merges']:,} merges from {report['num_records']:,} records; "
        f"{report['compression']:.2f} samples per token, error {report['rmse_uv']:.1f} µV RMS and at most "
        f"{report['max_uv']:.0f} µV on {report['num_measured']:,} records"
        f"{' used in training' if report['measured_on_training'] else ' not used in training'}"
    )
