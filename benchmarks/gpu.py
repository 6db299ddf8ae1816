"""Training on one GPU: share of its matrix rate (MFU) and memory, with models built from their configurations.

python benchmarks/gpu.py --output gpu.md      # Qwen 2.5-1.5B in full, 7B with LoRA, 7B in 4 bits with LoRA; 60 GB of
memory python benchmarks/gpu.py --tiny               # tiny models on the CPU, only to check that everything runs

Random weights are as fast as trained ones, so nothing is downloaded. The 4-bit model is written to disk once (15 GB).
"""

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM
from trl import ModelConfig
from trl.trainer.utils import add_fused_lm_head

from elm_hf.modeling.modeling_elm import ElmForCausalLM
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
    "vocab_size": 512,
    "tie_word_embeddings": False,
}
QUESTIONS, PREFIX, SUFFIX, ANSWER, ECG_TOKENS = 24, 251, 31, 5, 50
ECG_TOKEN_ID = 511


@dataclass
class Measurement:
    name: str
    llm: dict
    packs: int
    lora: bool = False
    four_bit: bool = False
    checkpointing: bool = False
    goal: str = ""


MEASUREMENTS = [
    Measurement("Qwen 2.5-1.5B, all weights", QWEN_1_5B, packs=16, goal="MFU >= 45 %"),
    Measurement("Qwen 2.5-7B, LoRA", QWEN_7B, packs=16, lora=True, checkpointing=False, goal="MFU >= 40 %"),
    Measurement(
        "Qwen 2.5-7B in 4 bits, LoRA", QWEN_7B, 2, lora=True, four_bit=True, checkpointing=True, goal="< 16 GiB"
    ),
]


def matrix_rate(device: str, size: int) -> float:
    """Floating-point operations per second of a bfloat16 matrix product."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / median(_times(lambda: a @ b, device, rounds=20))


def _times(work, device: str, rounds: int) -> list[float]:
    times = []
    for _ in range(rounds + 2):
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        times.append(time.perf_counter() - start)
    return times[2:]


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def build(measurement: Measurement, device: str) -> torch.nn.Module:
    """The ELM with the patch connector, set up as in training with these flags."""
    config = AutoConfig.for_model("qwen2", max_position_embeddings=4096, **measurement.llm)
    with torch.device(device):
        llm = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model = ElmForCausalLM.from_encoder_llm_pretrained(
        None, llm, ecg_token_id=ECG_TOKEN_ID, num_ecg_tokens=ECG_TOKENS, num_samples=2500
    )
    model_args = ModelConfig(use_peft=measurement.lora, load_in_4bit=measurement.four_bit, lora_dropout=0.0)
    if measurement.four_bit:
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            del model, llm
            quantization = quantization_config(model_args)
            model = ElmForCausalLM.from_pretrained(
                folder, quantization_config=quantization, dtype=torch.bfloat16, device_map={"": device}
            )
    set_trainable(model, ["projector", "llm"])
    if measurement.checkpointing:
        model.activation_checkpointing_enable()
    add_fused_lm_head(model)
    peft_config: LoraConfig | None = lora_config(model, model_args, ["projector", "llm"])
    return (model if peft_config is None else get_peft_model(model, peft_config)).train()


def batch_of(measurement: Measurement, device: str) -> dict[str, torch.Tensor]:
    """Packs of questions as long as those of ECG-QA, behind a system prompt and an ECG."""
    rng = np.random.default_rng(0)
    prefix = rng.integers(ECG_TOKEN_ID, size=PREFIX)
    prefix[100 : 100 + ECG_TOKENS] = ECG_TOKEN_ID
    pack = []
    for _ in range(QUESTIONS):
        ids = np.concatenate([prefix, rng.integers(ECG_TOKEN_ID, size=SUFFIX)])
        labels = np.where(np.arange(len(ids)) >= len(ids) - ANSWER, ids, IGNORE_INDEX)
        pack.append((ids, labels))
    packs = [pack] * measurement.packs
    batch, _ = pack_behind_prefix(packs, 0, lambda ids: (ids == ECG_TOKEN_ID).sum() / ECG_TOKENS)
    batch["ecg_values"] = torch.randn(measurement.packs, 12, 2500)
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
    return of_weights + 12 * llm["num_hidden_layers"] * hidden * seen * measurement.packs


def measure(measurement: Measurement, device: str, rounds: int, rate: float) -> list[str]:
    """A row of the table."""
    if device == "cuda":
        torch.cuda.empty_cache()
    model, batch = build(measurement, device), batch_of(measurement, device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-5, fused=device == "cuda")

    def step():
        with torch.autocast(device, torch.bfloat16):
            loss = model(**batch, use_cache=False, fused_lm_head=True).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    seconds = median(_times(step, device, rounds))
    peak = f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if device == "cuda" else "-"
    mfu = operations(measurement, batch) / seconds / rate
    conversations = measurement.packs * QUESTIONS / seconds
    positions = int(batch["attention_mask"].sum()) / seconds
    return [measurement.name, f"{conversations:,.0f}", f"{positions:,.0f}", f"{mfu:.1%}", peak, measurement.goal]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="Run tiny models on the CPU, only as a check.")
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
        "| training | conversations/s | positions/s | MFU | peak memory | goal |",
        "|---|---|---|---|---|---|",
    ]
    for measurement in MEASUREMENTS:
        if arguments.tiny:
            measurement.llm, measurement.packs = TINY, 1
        lines.append(f"| {' | '.join(measure(measurement, device, 2 if arguments.tiny else 10, rate))} |")
        print("\n".join(lines) if len(lines) == 5 else lines[-1], flush=True)
    if arguments.output:
        arguments.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
