"""Training on one GPU: a bare step with and without compilation, the loop of `elm-hf train`, and layouts of a batch.

python benchmarks/gpu.py --output gpu.md      # Qwen 2.5-1.5B in full, 7B with LoRA, 7B in 4 bits with LoRA
python benchmarks/gpu.py --only "4 bits"      # the measurements whose name contains this
python benchmarks/gpu.py --only layouts       # padding, --padding_free and packs, with sdpa and flex_attention
python benchmarks/gpu.py --tiny               # tiny models on the CPU, only to check that everything runs

Models are built from their configurations: random weights are as fast as trained ones, so nothing is downloaded. The 4-bit
model is written to disk once (15 GB). The number of packs in a batch is the largest that fits in the GPU's memory.
"""

import argparse
import gc
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from accelerate.utils import find_executable_batch_size
from batch_layouts import measure_layouts
from peft import LoraConfig, get_peft_model
from training_loop import loop_folder, measure_loop
from transformers import AutoConfig, AutoModelForCausalLM
from trl import ModelConfig
from trl.trainer.utils import add_fused_lm_head

from elm_hf.modeling.modeling_elm import ElmForCausalLM
from elm_hf.training.compilation import Compilation
from elm_hf.training.packing import IGNORE_INDEX, pack_behind_prefix
from elm_hf.training.parts import lora_config, quantization_config, set_trainable


# Sizes of Qwen 2.5 (Qwen Team 2024), from the published configurations.
QWEN_1_5B = {
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
}
QWEN_7B = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "tie_word_embeddings": False,
}
TINY = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 1024,
    "tie_word_embeddings": False,
}
QUESTIONS, PREFIX, SUFFIX, ANSWER, ECG_TOKENS = 24, 251, 31, 5, 50
ECG_TOKEN_ID = 511
MOST_PACKS = 32
LAYOUTS = "layouts of a batch, Qwen 2.5-1.5B, all weights"


@dataclass
class Measurement:
    name: str
    llm: dict
    lora: bool = False
    four_bit: bool = False
    checkpointing: bool = False
    goal: str = ""


MEASUREMENTS = [
    Measurement("Qwen 2.5-1.5B, all weights", QWEN_1_5B, goal="MFU >= 45 %"),
    Measurement("Qwen 2.5-7B, LoRA", QWEN_7B, lora=True, goal="MFU >= 40 %"),
    Measurement("Qwen 2.5-7B, LoRA, checkpointing", QWEN_7B, lora=True, checkpointing=True),
    Measurement("Qwen 2.5-7B in 4 bits, LoRA", QWEN_7B, lora=True, four_bit=True, goal="MFU >= 18.6 %"),
    Measurement("Qwen 2.5-7B in 4 bits, LoRA, checkpointing", QWEN_7B, True, True, True, "2 packs: < 16 GiB"),
]


def matrix_rate(device: str, size: int) -> float:
    """Floating-point operations per second of a bfloat16 matrix product."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / median(times(lambda: a @ b, device, rounds=20))


def times(work: Callable[[], object], device: str, rounds: int, warmup: int = 2) -> list[float]:
    """Seconds of each round after the warm-up."""
    found = []
    for _ in range(rounds + warmup):
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        found.append(time.perf_counter() - start)
    return found[warmup:]


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def build(measurement: Measurement, device: str, ecg_token_id: int = ECG_TOKEN_ID) -> ElmForCausalLM:
    """The ELM with the patch connector, whose projector and LLM learn."""
    config = AutoConfig.for_model("qwen2", max_position_embeddings=4096, **measurement.llm)
    with torch.device(device):
        llm = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16 if device == "cuda" else torch.float32)
    model = ElmForCausalLM.from_encoder_llm_pretrained(
        None, llm, ecg_token_id=ecg_token_id, num_ecg_tokens=ECG_TOKENS, num_samples=2500
    )
    if measurement.four_bit and device == "cuda":
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            del model, llm
            quantization = quantization_config(ModelConfig(use_peft=True, load_in_4bit=True))
            model = ElmForCausalLM.from_pretrained(
                folder, quantization_config=quantization, dtype=torch.bfloat16, device_map={"": device}
            )
    set_trainable(model, ["projector", "llm"])
    return model


def with_adapters(model: ElmForCausalLM, measurement: Measurement, lora_dropout: float = 0.0) -> torch.nn.Module:
    """The model set up for a bare step as in training: checkpointing, the fused LM head, adapters."""
    if measurement.checkpointing:
        model.activation_checkpointing_enable()
    add_fused_lm_head(model)
    model_args = ModelConfig(use_peft=measurement.lora, lora_dropout=lora_dropout)
    peft_config: LoraConfig | None = lora_config(model, model_args, ["projector", "llm"])
    if peft_config is None:
        return model.train()
    model = get_peft_model(model, peft_config)
    model.enable_input_require_grads()
    return model.train()


def shared_prefix(rng: np.random.Generator) -> np.ndarray:
    """Token ids of a system prompt and an ECG."""
    prefix = rng.integers(ECG_TOKEN_ID, size=PREFIX)
    prefix[100 : 100 + ECG_TOKENS] = ECG_TOKEN_ID
    return prefix


def batch_of(packs: int, device: str, questions: int = QUESTIONS) -> dict[str, torch.Tensor]:
    """Packs of questions as long as those of ECG-QA, behind a system prompt and an ECG."""
    rng = np.random.default_rng(0)
    prefix = shared_prefix(rng)
    pack = []
    for _ in range(questions):
        ids = np.concatenate([prefix, rng.integers(ECG_TOKEN_ID, size=SUFFIX)])
        labels = np.where(np.arange(len(ids)) >= len(ids) - ANSWER, ids, IGNORE_INDEX)
        pack.append((ids, labels))
    batch, _ = pack_behind_prefix(
        [pack] * packs, 0, lambda ids: (ids == ECG_TOKEN_ID).sum() / ECG_TOKENS, few_lengths=True
    )
    batch["ecg_values"] = torch.randn(packs, 12, 2500)
    return {name: values.to(device) for name, values in batch.items()}


def operations(measurement: Measurement, batch: dict[str, torch.Tensor]) -> float:
    """
    Floating-point operations of one step by the usual count. For each weight and position: 2 for the forward pass, 2
    for the gradient of the input, and 2 for the gradient of the weight, which frozen weights (LoRA) do not have. In
    addition, the attention of each position to those that it sees, and the head at positions with labels.
    """
    llm = measurement.llm
    hidden, size_of_head = llm["hidden_size"], llm["hidden_size"] // llm["num_attention_heads"]
    attention = hidden * (2 * hidden + 2 * llm["num_key_value_heads"] * size_of_head)
    weights = llm["num_hidden_layers"] * (attention + 3 * hidden * llm["intermediate_size"])
    positions = int(batch["attention_mask"].sum())
    seen = PREFIX * (PREFIX + 1) / 2 + QUESTIONS * SUFFIX * (PREFIX + (SUFFIX + 1) / 2)
    labelled = int((batch["labels"] != IGNORE_INDEX).sum())
    of_weights = (4 if measurement.lora else 6) * (weights * positions + labelled * hidden * llm["vocab_size"])
    return of_weights + 12 * llm["num_hidden_layers"] * hidden * seen * len(batch["labels"])


@dataclass
class Steps:
    """Bare steps: forward and backward pass and the optimizer, on one batch again and again."""

    packs: int
    seconds: float
    first: float
    peak: float | None
    mfu: float


def training_step(
    model: torch.nn.Module, batch: dict[str, torch.Tensor], device: str, bf16: bool | None = None
) -> Callable[[], None]:
    """Forward and backward pass and the optimizer, on one batch again and again; on a GPU in bfloat16 by default."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-5, fused=device == "cuda")

    def step():
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda" if bf16 is None else bf16):
            loss = model(**batch, use_cache=False, fused_lm_head=True).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def bare_steps(measurement: Measurement, model, packs: int, device: str, rounds: int, rate: float) -> Steps:
    batch = batch_of(packs, device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    step = training_step(model, batch, device)
    try:
        first = times(step, device, rounds=1, warmup=0)[0]
        seconds = median(times(step, device, rounds))
    finally:
        model.zero_grad()
    peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None
    return Steps(packs, seconds, first, peak, operations(measurement, batch) / seconds / rate)


def largest(measure: Callable[[int], Steps], most: int) -> Steps:
    """Measures with the largest number of packs that fits in memory."""
    return find_executable_batch_size(lambda packs: measure(packs), starting_batch_size=most)()


def measure_steps(measurement: Measurement, device: str, tiny: bool, rate: float) -> tuple[list[str], int]:
    """Rows of the table for bare steps, and their number of packs."""
    base = build(measurement, device)
    model = with_adapters(base, measurement)
    rounds = 2 if tiny else 10
    plain = largest(
        lambda packs: bare_steps(measurement, model, packs, device, rounds, rate), 1 if tiny else MOST_PACKS
    )
    rows = [_row(measurement.name, plain, measurement.goal)]
    Compilation("eager" if tiny else "inductor", None).compile_layers(base)
    try:
        compiled = bare_steps(measurement, model, plain.packs, device, rounds, rate)
        rows.append(_row("the same, layers compiled", compiled, measurement.goal))
    except Exception as error:  # the other measurements go on
        rows.append(f"| the same, layers compiled | {type(error).__name__}: {' '.join(str(error).split())[:200]} |")
    return rows, plain.packs


def measure(measurement: Measurement, device: str, tiny: bool, rate: float, folder: Path) -> list[str]:
    """Rows of the table."""
    rows, packs = measure_steps(measurement, device, tiny, rate)
    release_memory(device)
    positions = max(1, int(packs * 0.9)) * 1024  # room for what the loop keeps besides
    loop = measure_loop(partial(build, measurement, device), folder, positions, QUESTIONS, measurement, tiny)
    release_memory(device)
    return [*rows, f"| the loop of elm-hf train | {loop} |"]


def _row(name: str, steps: Steps, goal: str) -> str:
    conversations, positions = steps.packs * QUESTIONS, steps.packs * (PREFIX + QUESTIONS * SUFFIX)
    peak = "-" if steps.peak is None else f"{steps.peak:.1f} GiB"
    cells = [
        *(name, str(steps.packs), f"{steps.seconds:.3f}", f"{steps.first:.1f}"),
        *(
            f"{conversations / steps.seconds:,.0f}",
            f"{positions / steps.seconds:,.0f}",
            f"{steps.mfu:.1%}",
            peak,
            goal,
        ),
    ]
    return f"| {' | '.join(cells)} |"


def release_memory(device: str) -> None:
    """Forgets what was compiled and frees the memory of models that are gone."""
    torch._dynamo.reset()
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def compare_layouts(device: str, tiny: bool) -> list[str]:
    """Lines of the table of layouts."""
    measurement = Measurement(LAYOUTS, TINY if tiny else QWEN_1_5B)
    model = with_adapters(build(measurement, device), measurement)
    prefix = shared_prefix(np.random.default_rng(0))
    number, rounds = (2, 1) if tiny else (16, 3)
    lines = measure_layouts(model, number, prefix, ECG_TOKEN_ID, ECG_TOKENS, device, rounds)
    del model
    release_memory(device)
    return ["", f"{LAYOUTS}:", "", *lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="Run tiny models on the CPU, only as a check.")
    parser.add_argument("--only", default="", help="Run the measurements whose name contains this text.")
    parser.add_argument("--output", type=Path, help="File to write the table to.")
    arguments = parser.parse_args()
    if not arguments.tiny and not torch.cuda.is_available():
        parser.error("this benchmark needs a GPU, and torch finds none; --tiny runs on the CPU")
    device = "cpu" if arguments.tiny else "cuda"
    torch.manual_seed(0)
    rate = matrix_rate(device, 256 if arguments.tiny else 8192)
    where = "CPU, tiny models" if arguments.tiny else torch.cuda.get_device_name()
    lines = [
        f"{where}, torch {torch.__version__}; bfloat16 matrix product {rate / 1e12:.2f} TFLOP/s",
        "",
        "| training | packs | s a step | first step, s | conversations/s | positions/s | MFU | peak memory | goal |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    chosen = [measurement for measurement in MEASUREMENTS if arguments.only in measurement.name]
    with tempfile.TemporaryDirectory() as folder:
        if chosen:
            loop_folder(Path(folder), ECG_TOKENS, 20 if arguments.tiny else 200)
        for measurement in chosen:
            if arguments.tiny:
                measurement.llm = TINY
            lines += measure(measurement, device, arguments.tiny, rate, Path(folder))
            print("\n".join(lines[-3:]), flush=True)
            if arguments.output:  # after each, since a later one may not fit
                arguments.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if arguments.only in LAYOUTS:
        compared = compare_layouts(device, arguments.tiny)
        print("\n".join(compared), flush=True)
        if arguments.output:
            arguments.output.write_text("\n".join([*lines, *compared]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
