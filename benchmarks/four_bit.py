"""QLoRA on one GPU: where the time of a step in 4 bits goes, and what shortens it.

python benchmarks/four_bit.py --output four_bit.md      # Qwen 2.5-7B in 4 bits with LoRA, packs of 24 questions
python benchmarks/four_bit.py --tiny                    # a tiny model on the CPU, only to check that everything runs

The model is built from its configuration and written to disk once (15 GB). Each row changes one thing of the first row, which is
what `elm-hf train --use_peft --load_in_4bit --activation_checkpointing true` does with 2 packs in a batch.
"""

import argparse
import tempfile
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from statistics import median

import torch
from gpu import (
    QWEN_7B,
    TINY,
    Measurement,
    batch_of,
    build,
    matrix_rate,
    operations,
    release_memory,
    times,
    training_step,
    with_adapters,
)
from step_profile import KINDS, Profile, profile_step
from trl import ModelConfig

from elm_hf.modeling.modeling_elm import ElmForCausalLM
from elm_hf.training.compilation import Compilation
from elm_hf.training.parts import quantization_config, set_trainable


PACKS, MORE_PACKS = 2, 8


@dataclass
class Variant:
    """
    A way to train.

    Attributes:
        name: what it is called.
        packs: packs in a batch.
        checkpointing, compiled: whether layers are checkpointed, and compiled.
        quantization: changed fields of the `BitsAndBytesConfig`; None for weights in bfloat16.
    """

    name: str
    packs: int = PACKS
    checkpointing: bool = True
    compiled: bool = False
    quantization: dict | None = field(default_factory=dict)


# Those with the same quantization follow each other, since they share a model; compiled ones come last among them.
VARIANTS = [
    Variant(f"4 bits, {PACKS} packs, checkpointing"),
    Variant(f"{MORE_PACKS} packs", MORE_PACKS),
    Variant("no checkpointing", checkpointing=False),
    Variant(f"{MORE_PACKS} packs, no checkpointing", MORE_PACKS, checkpointing=False),
    Variant("layers compiled", compiled=True),
    Variant("layers compiled, no checkpointing", compiled=True, checkpointing=False),
    Variant(f"layers compiled, {MORE_PACKS} packs", MORE_PACKS, compiled=True),
    Variant("bnb_4bit_compute_dtype float32", quantization={"bnb_4bit_compute_dtype": torch.float32}),
    Variant("bnb_4bit_quant_storage bfloat16", quantization={"bnb_4bit_quant_storage": torch.bfloat16}),
    Variant("not quantized", quantization=None),
]


def load(folder: Path, quantization: dict | None, device: str) -> ElmForCausalLM:
    """The model as `elm-hf train` loads it, with changed fields of its quantization."""
    options = {"dtype": torch.bfloat16}
    if quantization is not None:
        config = quantization_config(ModelConfig(use_peft=True, load_in_4bit=True))
        for name, value in quantization.items():
            setattr(config, name, value)
        options["quantization_config"] = config
    model = ElmForCausalLM.from_pretrained(folder, device_map={"": device}, **options)
    set_trainable(model, ["projector", "llm"])
    return model


def compare(folder: Path, llm: dict, device: str, rounds: int, rate: float):
    """Measures all variants. Yields a row of the table, and the profile, of each."""
    for quantization, variants in groupby(VARIANTS, key=lambda one: one.quantization):
        base = load(folder, quantization, device)
        measurement = Measurement("", llm, lora=True)
        model = with_adapters(base, measurement)
        is_compiled = False
        for variant in variants:
            switch = (
                base.activation_checkpointing_enable
                if variant.checkpointing
                else base.activation_checkpointing_disable
            )
            switch()
            if variant.compiled and not is_compiled:
                Compilation("inductor" if device == "cuda" else "eager", None).compile_layers(base)
                is_compiled = True
            try:
                yield measured(variant, measurement, model, device, rounds, rate)
            except Exception as error:  # the others go on
                model.zero_grad()
                yield f"| {variant.name} | {type(error).__name__}: {' '.join(str(error).split())[:200]} |", None
        del base, model
        release_memory(device)


def measured(
    variant: Variant, measurement: Measurement, model: torch.nn.Module, device: str, rounds: int, rate: float
) -> tuple[str, Profile]:
    """A row of the table, and the profile. On a CPU a batch has one pack."""
    batch = batch_of(variant.packs if device == "cuda" else 1, device)
    step = training_step(model, batch, device)
    first = times(step, device, rounds=1, warmup=0)[0]
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = median(times(step, device, rounds, warmup=min(2, rounds - 1)))
    peak = f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if device == "cuda" else "-"
    profile = profile_step(step, model, device, variant.compiled, rounds=min(3, rounds))
    busy = sum(profile.of_kind.values())
    waits = f"{max(0.0, seconds * 1000 - busy):.0f}" if device == "cuda" else "-"
    cells = [
        variant.name,
        f"{seconds:.3f}",
        f"{first:.1f}",
        f"{operations(measurement, batch) / seconds / rate:.1%}",
        peak,
        *(f"{milliseconds:.0f}" for milliseconds in profile.of_kind.values()),
        "-" if variant.compiled else f"{profile.recomputed:.0f}",
        waits,
    ]
    return f"| {' | '.join(cells)} |", profile


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="Run a tiny model on the CPU, only as a check.")
    parser.add_argument("--output", type=Path, help="File to write the tables to.")
    arguments = parser.parse_args()
    if not arguments.tiny and not torch.cuda.is_available():
        parser.error("this benchmark needs a GPU, and torch finds none; --tiny runs on the CPU")
    device, llm, rounds = ("cpu", TINY, 1) if arguments.tiny else ("cuda", QWEN_7B, 10)
    torch.manual_seed(0)
    rate = matrix_rate(device, 256 if arguments.tiny else 8192)
    where = "CPU, a tiny model" if arguments.tiny else torch.cuda.get_device_name()
    columns = ["training", "s a step", "first step, s", "MFU", "peak memory", *(f"{kind}, ms" for kind in KINDS)]
    columns += ["of these computed again, ms", "GPU waits, ms"]
    lines = [
        f"{where}, torch {torch.__version__}; bfloat16 matrix product {rate / 1e12:.2f} TFLOP/s",
        "",
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
    ]
    print("\n".join(lines), flush=True)
    longest: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        build(Measurement("", llm), device).save_pretrained(folder)
        release_memory(device)
        for row, profile in compare(Path(folder), llm, device, rounds, rate):
            print(row, flush=True)
            lines.append(row)
            if profile is not None and not longest:
                longest = [f"- {each:.1f} ms: {name[:100]}" for name, each in profile.longest]
                print("\n".join(longest), flush=True)
            if arguments.output:  # after each, since a later one may not fit
                text = "\n".join([*lines, "", "What takes longest in the first row:", "", *longest])
                arguments.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
