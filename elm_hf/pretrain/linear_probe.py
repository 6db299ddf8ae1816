"""A linear probe: a linear classifier on the pooled output of a frozen encoder."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel


WEIGHT_DECAYS = (1e-4, 1e-3, 1e-2, 1e-1)
MAX_ITERATIONS = 100


@torch.no_grad()
def pooled_features(encoder: PreTrainedModel, batches: Iterable[dict]) -> np.ndarray:
    """
    The pooled output of an encoder in evaluation mode; for encoders without one, the mean of their tokens.

    Args:
        encoder: an ECG encoder.
        batches: batches of its inputs, `ecg_values` and `ecg_lead_mask`.

    Returns:
        Array `(records, features)`, float32.
    """
    encoder.eval()
    features = []
    for batch in batches:
        inputs = {name: values.to(encoder.device) for name, values in batch.items() if name != "labels"}
        outputs = encoder(**inputs)
        pooled = getattr(outputs, "pooler_output", None)
        pooled = outputs.last_hidden_state.mean(dim=1) if pooled is None else pooled
        features.append(pooled.float().cpu().numpy())
    return np.concatenate(features)


def draw_labelled(targets: np.ndarray, patients: Sequence[str], share: float, seed: int = 0) -> np.ndarray:
    """
    Draw a share of the patients at random, with all of their records.

    Args:
        targets: array `(records, classes)`.
        patients: patient of each record.
        share: share of the patients, above 0 and up to 1.
        seed: random seed.

    Returns:
        Numbers of the records.

    Raises:
        ValueError: the share is not in the range, or no class has a record among them.
    """
    if not 0 < share <= 1:
        raise ValueError(f"the share of labelled patients must be above 0 and at most 1, got {share}")
    names, patient_of = np.unique(np.asarray(patients), return_inverse=True)
    number = max(round(share * len(names)), 1)
    drawn = np.random.default_rng(seed).permutation(len(names))[:number]
    rows = np.flatnonzero(np.isin(patient_of, drawn))
    if not targets[rows].any():
        raise ValueError(f"none of the {number} patients in a share of {share} has a class")
    return rows


def fit_probe(
    features: np.ndarray,
    targets: np.ndarray,
    validation_features: np.ndarray,
    score: Callable[[np.ndarray], float],
) -> tuple[Callable[[np.ndarray], np.ndarray], float]:
    """
    Fit a logistic regression for each class (L-BFGS, all classes at once) on standardized features. The weight decay
    is chosen on the validation records.

    Args:
        features: array `(records, features)` of the training records.
        targets: array `(records, classes)` of 0 and 1.
        validation_features: array `(validation records, features)`.
        score: the score of logits `(validation records, classes)`; higher is better.

    Returns:
        A function from features to logits, and the weight decay that was chosen.
    """
    mean, deviation = features.mean(axis=0), features.std(axis=0) + 1e-6

    def standardize(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy((values - mean) / deviation)

    inputs, labels, validation = standardize(features), torch.from_numpy(targets), standardize(validation_features)
    probes = {decay: _logistic_regression(inputs, labels, decay) for decay in WEIGHT_DECAYS}
    with torch.no_grad():
        scores = {decay: score(probe(validation).numpy()) for decay, probe in probes.items()}
    best = max(scores, key=scores.get)

    @torch.no_grad()
    def logits(values: np.ndarray) -> np.ndarray:
        return probes[best](standardize(values)).numpy()

    return logits, best


def _logistic_regression(inputs: torch.Tensor, labels: torch.Tensor, weight_decay: float) -> nn.Linear:
    """Minimizes the mean cross-entropy over records, summed over classes, plus `weight_decay / 2 * |weights|^2`."""
    probe = nn.Linear(inputs.shape[1], labels.shape[1])
    nn.init.zeros_(probe.weight)
    nn.init.zeros_(probe.bias)
    optimizer = torch.optim.LBFGS(
        probe.parameters(), max_iter=MAX_ITERATIONS, history_size=10, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        entropy = nn.functional.binary_cross_entropy_with_logits(probe(inputs), labels) * labels.shape[1]
        total = entropy + weight_decay / 2 * probe.weight.square().sum()
        total.backward()
        return total

    optimizer.step(loss)
    return probe
