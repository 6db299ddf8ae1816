"""A fingerprint of a model's weights, which tells them from others in the same place."""

import hashlib
from collections.abc import Mapping

import torch


SAMPLES_PER_WEIGHT = 1024


def fingerprint_of_weights(weights: Mapping[str, torch.Tensor], *, sampled: bool) -> str:
    """
    16 hexadecimal digits that differ where weights differ.

    Args:
        weights: of `model.state_dict()`.
        sampled: read about 1,024 evenly spaced values of each weight instead of all. Training moves every weight, so that
            this tells two checkpoints apart, in a moment even for an LLM. What is kept for exactly these weights, such as
            the features of an encoder, needs all of them.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        flat = weight.detach().reshape(-1)
        step = max(1, len(flat) // SAMPLES_PER_WEIGHT) if sampled else 1
        read = flat[::step].cpu().contiguous().view(torch.uint8).numpy().tobytes()
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode() + read)
    return digest.hexdigest()[:16]
