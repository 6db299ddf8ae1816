"""Forward and backward pass of an ELM with the `patch` connector, compared with its LLM on as many positions.

python benchmarks/elm.py
"""

import time
from collections.abc import Callable
from statistics import median

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from elm_hf.modeling.modeling_elm import ElmForCausalLM


BATCH, TEXT, ECG_TOKENS = 4, 206, 50
ROUNDS = 15


def milliseconds(step: Callable[[], torch.Tensor]) -> float:
    start = time.perf_counter()
    step().backward()
    return (time.perf_counter() - start) * 1000


def main() -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "qwen2",
        vocab_size=32000,
        hidden_size=512,
        intermediate_size=2048,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=8,
    )
    llm = AutoModelForCausalLM.from_config(config)
    elm = ElmForCausalLM.from_encoder_llm_pretrained(
        None, AutoModelForCausalLM.from_config(config), ecg_token_id=31999, num_ecg_tokens=ECG_TOKENS
    )
    input_ids = torch.randint(31999, (BATCH, ECG_TOKENS + TEXT))
    with_ecg = input_ids.clone()
    with_ecg[:, :ECG_TOKENS] = elm.config.ecg_token_id
    ecg_values = torch.randn(BATCH, 12, 2500)
    steps = {
        "ELM, patch connector": lambda: elm(with_ecg, ecg_values=ecg_values, labels=input_ids).loss,
        "its LLM": lambda: llm(input_ids, labels=input_ids).loss,
    }
    for step in steps.values():
        milliseconds(step)
    # Both take turns, so that a busy machine slows both.
    rounds = [[milliseconds(step) for step in steps.values()] for _ in range(ROUNDS)]
    print(
        f"{llm.num_parameters() / 1e6:.0f} million parameters, {BATCH} x {ECG_TOKENS + TEXT} positions, "
        f"{torch.get_num_threads()} threads, median of {ROUNDS} rounds"
    )
    for name, times in zip(steps, zip(*rounds)):
        print(f"{name:22} {median(times):8.1f} ms")
    print(f"ratio {median(elm_time / llm_time for elm_time, llm_time in rounds):.3f}")


if __name__ == "__main__":
    main()
