"""Layouts of a batch: padded, in one row without padding, behind a shared prefix; with sdpa and flex_attention; for `gpu.py`."""

import time
from statistics import median

import numpy as np
import torch

from elm_hf.training.packing import IGNORE_INDEX, Tokenized, pack_behind_prefix, pack_without_padding, pad


# Batches have many lengths, as in training, so that attention that compiles again for each of them shows.
BATCHES, WARMUP = 8, 2
# What follows the prefix, in positions.
SUFFIXES = {"short questions": (20, 60), "reports": (30, 700)}
HEADER = (
    "| conversations | layout | attention | conversations/s | positions a batch | first pass, s | loss | peak memory |"
)


def layouts(
    number: int, lengths: tuple[int, int], prefix: np.ndarray, ecg_token_id: int, num_ecg_tokens: int
) -> dict[str, list[dict[str, torch.Tensor]]]:
    """
    The same conversations in each layout, without their ECGs.

    Args:
        number: conversations of a batch.
        lengths: shortest and longest part behind the prefix.
        prefix: token ids of the prefix, with the placeholders of an ECG.
        ecg_token_id, num_ecg_tokens: of the model.
    """
    rng = np.random.default_rng(0)
    drawn = [_conversation(prefix, length, ecg_token_id, rng) for length in rng.integers(*lengths, BATCHES * number)]
    sorted_ones = sorted(drawn, key=lambda one: len(one[0]))
    batches, by_length = (
        [ordered[start : start + number] for start in range(0, len(ordered), number)]
        for ordered in (drawn, sorted_ones)
    )
    return {
        "padded, in random order": [pad(batch, 0) for batch in batches],
        "padded, by length (the default)": [pad(batch, 0) for batch in by_length],
        "one row (--padding_free)": [pack_without_padding(batch) for batch in by_length],
        "packs (--pack_by_ecg)": [
            pack_behind_prefix([batch], 0, lambda ids: (ids == ecg_token_id).sum() / num_ecg_tokens)[0]
            for batch in batches
        ],
    }


def _conversation(prefix: np.ndarray, length: int, ecg_token_id: int, rng: np.random.Generator) -> Tokenized:
    """The last fifth of what follows the prefix is learnt."""
    ids = np.concatenate([prefix, rng.integers(ecg_token_id, size=length)])
    return ids, np.where(np.arange(len(ids)) >= len(ids) - length // 5, ids, IGNORE_INDEX)


def measure_layouts(
    model: torch.nn.Module,
    number: int,
    prefix: np.ndarray,
    ecg_token_id: int,
    num_ecg_tokens: int,
    device: str,
    rounds: int,
) -> list[str]:
    """
    Forward and backward passes over the same conversations in each layout.

    Args:
        model: with the fused LM head; its attention implementation is changed.
        number, prefix, ecg_token_id, num_ecg_tokens: as for [`layouts`].
        device: `"cuda"`, or `"cpu"`, where flex_attention has no backward pass and is left out.
        rounds: how often all batches are measured.

    Returns:
        Lines of a table.
    """
    rows = [HEADER, "|---" * (HEADER.count("|") - 1) + "|"]
    for words, lengths in SUFFIXES.items():
        for layout, batches in layouts(number, lengths, prefix, ecg_token_id, num_ecg_tokens).items():
            to_measure = [_with_ecgs(batch, ecg_token_id, num_ecg_tokens, device) for batch in batches]
            for attention in ("sdpa", "flex_attention") if device == "cuda" else ("sdpa",):
                model.model.language_model.set_attn_implementation(attention)
                try:
                    cells = _measured(model, to_measure, number * BATCHES, device, rounds)
                except Exception as error:  # the other layouts go on
                    cells = [f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"]
                    model.zero_grad()
                rows.append(f"| {' | '.join([words, layout, attention, *cells])} |")
    model.model.language_model.set_attn_implementation("sdpa")
    return rows


def _with_ecgs(batch: dict, ecg_token_id: int, num_ecg_tokens: int, device: str) -> dict:
    """The batch on the device. All conversations are about one ECG, so that the loss is the same in each layout."""
    num_ecgs = int((batch["input_ids"] == ecg_token_id).sum()) // num_ecg_tokens
    ecg = torch.randn(12, 2500, generator=torch.Generator().manual_seed(0))
    batch = batch | {"ecg_values": ecg.expand(num_ecgs, -1, -1)}
    return {name: one.to(device) if isinstance(one, torch.Tensor) else one for name, one in batch.items()}


def _measured(
    model: torch.nn.Module, batches: list[dict], num_conversations: int, device: str, rounds: int
) -> list[str]:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    first, loss = _pass_over(model, batches, device)
    for _ in range(min(WARMUP, rounds - 1)):
        _pass_over(model, batches, device)
    seconds = median(_pass_over(model, batches, device)[0] for _ in range(rounds))
    positions = sum(batch["input_ids"].numel() for batch in batches) / len(batches)
    peak = f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if device == "cuda" else "-"
    return [f"{num_conversations / seconds:,.0f}", f"{positions:,.0f}", f"{first:.1f}", f"{loss:.5f}", peak]


def _pass_over(model: torch.nn.Module, batches: list[dict], device: str) -> tuple[float, float]:
    """Seconds of the forward and backward passes over all batches, and the loss of a position."""
    learnt = sum(int((batch["labels"][:, 1:] != IGNORE_INDEX).sum()) for batch in batches)
    start, total = time.perf_counter(), 0.0
    for batch in batches:
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss = model(**batch, num_items_in_batch=learnt, use_cache=False, fused_lm_head=True).loss
        loss.backward()
        total += loss.detach()
    model.zero_grad()
    loss = float(total)  # waits for the GPU
    return time.perf_counter() - start, loss
