"""A fingerprint of the weights of a model, which detects that a checkpoint has changed."""

import hashlib
from collections.abc import Mapping

import torch


SAMPLES_PER_WEIGHT = 1024


def fingerprint_of_weights(weights: Mapping[str, torch.Tensor], *, sampled: bool) -> str:
    """
    Return a fingerprint of weights (16 hexadecimal digits).

    Args:
        weights: the weights, as returned by `model.state_dict()`.
        sampled: read about 1,024 evenly spaced values of each weight instead of all values. This is fast even for an
            LLM, and it is sufficient to distinguish checkpoints, because training changes all weights. A cache that
            depends on the exact weights, such as encoder features, requires all values.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        flat = weight.detach().reshape(-1)
        step = max(1, len(flat) // SAMPLES_PER_WEIGHT) if sampled else 1
        read = flat[::step].cpu().contiguous().view(torch.uint8).numpy().tobytes()
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode() + read)
    return digest.hexdigest()[:16]
