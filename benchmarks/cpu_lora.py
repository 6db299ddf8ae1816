"""LoRA on a CPU: a training step of SmolLM2-135M as TRL does it, and with each setting that makes it faster.

python benchmarks/cpu_lora.py            # 4 packs of 8 questions, one thread, about 5 minutes
python benchmarks/cpu_lora.py --tiny     # a tiny model, only to check that everything runs

The weights are random. Each row adds one thing to the row before it; the rows take turns, so that a busy machine slows all.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from gpu import TINY, Measurement, batch_of, build, times, training_step, with_adapters
from trl.kernels import chunked_logprob
from trl.trainer import utils as trl_utils

from elm_hf.training.compilation import Compilation
from elm_hf.training.trainer import score_learnt_positions_only


# Sizes of SmolLM2-135M (Ben Allal et al. 2025), from the published configuration.
SMOLLM2 = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}
PACKS, QUESTIONS, ROUNDS = 4, 8, 3


@dataclass
class Settings:
    name: str
    learnt_positions_only: bool = True
    lora_dropout: float = 0.0
    bf16: bool = True
    compiled: bool = False
    attention: str = "sdpa"


SETTINGS = [
    Settings("TRL's defaults, float32", learnt_positions_only=False, lora_dropout=0.05, bf16=False),
    Settings("logits at learned positions (always, in elm-hf)", lora_dropout=0.05, bf16=False),
    Settings("--lora_dropout 0", bf16=False),
    Settings("--bf16"),
    Settings("--torch_compile", compiled=True),
    Settings("--attn_implementation eager", compiled=True, attention="eager"),
]


def step_with(settings: Settings, llm: dict, batch: dict[str, torch.Tensor]) -> Callable[[], None]:
    """A training step of a new model with these settings."""
    torch.manual_seed(0)
    measurement = Measurement(settings.name, llm, lora=True)
    model = build(measurement, "cpu")
    model.set_attn_implementation(settings.attention)
    if settings.compiled:
        Compilation("inductor", None).compile_layers(model)
    step = training_step(with_adapters(model, measurement, settings.lora_dropout), batch, "cpu", settings.bf16)

    def run() -> None:
        if settings.learnt_positions_only:
            score_learnt_positions_only()
        else:
            trl_utils._use_triton = chunked_logprob._use_triton
        step()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="check that everything runs, with a tiny model")
    tiny = parser.parse_args().tiny
    torch.set_num_threads(1)
    batch = batch_of(PACKS, "cpu", QUESTIONS)
    steps = [step_with(settings, TINY if tiny else SMOLLM2, batch) for settings in SETTINGS]
    for step in steps:  # compiles
        step()
    rounds = [[times(step, "cpu", rounds=1, warmup=0)[0] for step in steps] for _ in range(ROUNDS)]
    print(
        f"{PACKS} packs of {QUESTIONS} questions, batch {tuple(batch['input_ids'].shape)}; median of {ROUNDS} rounds, one thread\n"
    )
    print("| setting added | seconds a step | times as fast as the first |\n| --- | ---: | ---: |")
    for number, settings in enumerate(SETTINGS):
        ratio = median(one[0] / one[number] for one in rounds)
        print(f"| {settings.name} | {median(one[number] for one in rounds):.2f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
