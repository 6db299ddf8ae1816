"""Linear probes: logistic regressions on the output of a frozen encoder."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from elm_hf.data.label_tasks import LabelTasks
from elm_hf.utils.auroc import macro_aurocs


# Weights of the penalty (half the squared length of a class's weights) relative to the mean loss. A strength s is
# scikit-learn's C = 1 / (s * number of ECGs).
STRENGTHS = (1.0, 0.1, 1e-2, 1e-3, 1e-4, 1e-5)
MOST_ITERATIONS = 200
# The largest gradient at which a fit has converged.
TOLERANCE = 3e-5
# Relative to the largest; a feature that deviates less is constant but for rounding.
LEAST_DEVIATION = 1e-6


def rows_of_share(patients: Sequence[str], share: float, seed: int) -> np.ndarray:
    """
    Numbers of the records of a share of the patients, drawn at random. A smaller share is a part of a larger one.

    Args:
        patients: of each record.
        share: above 0, up to 1.
        seed: random seed.
    """
    names = np.unique(np.asarray(patients, dtype=str))
    drawn = np.random.default_rng(seed).permutation(names)[: max(1, round(share * len(names)))]
    return np.flatnonzero(np.isin(np.asarray(patients, dtype=str), drawn))


def fit_probes(
    features: np.ndarray, targets: np.ndarray, strengths: Sequence[float], device: str = "cpu"
) -> Iterator[tuple[float, "LinearProbe"]]:
    """
    Fits a logistic regression with an L2 penalty for each class and strength of the penalty. The regressions of all
    classes are fitted together, which is the same as one after the other.

    Args:
        features: `(ecgs, size)`, float32. They are standardised.
        targets: `(ecgs, classes)` of 0 and 1.
        strengths: of the penalty, in the order in which they are fitted; each fit starts from the last.
        device: where to compute.

    Yields:
        The strength and the probe.
    """
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    deviation = np.where(deviation > LEAST_DEVIATION * deviation.max(), deviation, 1).astype(np.float32)
    inputs = torch.from_numpy((features - mean) / deviation).to(device)
    answers = torch.from_numpy(targets.astype(np.float32)).to(device)
    share = answers.mean(dim=0).clamp(0.5 / len(answers), 1 - 0.5 / len(answers))
    weight = torch.zeros(inputs.shape[1], answers.shape[1], device=device, requires_grad=True)
    bias = torch.logit(share).requires_grad_()
    is_learned = (targets.any(axis=0) & ~targets.all(axis=0)).astype(np.float32)
    for strength in strengths:
        _minimise(inputs, answers, weight, bias, strength)
        fitted = (part.detach().cpu().numpy().copy() for part in (weight, bias))
        yield strength, LinearProbe(mean, deviation, *fitted, is_learned)


def _minimise(inputs: torch.Tensor, answers: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, strength: float):
    """Changes weight and bias until the penalised loss is smallest."""
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=MOST_ITERATIONS,
        history_size=20,
        tolerance_grad=TOLERANCE,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        each = binary_cross_entropy_with_logits(inputs @ weight + bias, answers, reduction="none")
        total = each.mean(dim=0).sum() + strength / 2 * weight.square().sum()
        total.backward()
        return total

    with torch.enable_grad():
        optimizer.step(loss)


class LinearProbe:
    """
    A logistic regression of each class.

    Args:
        mean, deviation: of the features, `(size,)`.
        weight, bias: for standardised features, `(size, classes)` and `(classes,)`.
        is_learned: 1 for the classes of which some but not all training ECGs are, `(classes,)`. All ECGs have the same
            score for the others, whose AUROC is then 0.5.
    """

    def __init__(
        self, mean: np.ndarray, deviation: np.ndarray, weight: np.ndarray, bias: np.ndarray, is_learned: np.ndarray
    ):
        self.mean, self.deviation, self.weight, self.bias = mean, deviation, weight, bias
        self.is_learned = is_learned

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """The logits `(ecgs, classes)` of features `(ecgs, size)`."""
        return ((features - self.mean) / self.deviation @ self.weight) * self.is_learned + self.bias


@dataclass(frozen=True)
class ChosenProbe:
    """
    The probe of a task.

    Attributes:
        probe: the probe. It has scores for the classes of all tasks.
        strength: of its penalty.
        auroc: macro AUROC of the task on the validation records; None if it is not defined there.
    """

    probe: LinearProbe
    strength: float
    auroc: float | None


def best_probes(
    features: np.ndarray,
    targets: np.ndarray,
    validation_features: np.ndarray,
    validation_targets: np.ndarray,
    tasks: LabelTasks,
    device: str = "cpu",
) -> dict[str, ChosenProbe]:
    """
    Fits probes of all strengths and chooses for each task the one with the highest macro AUROC on the validation records.

    Args:
        features, validation_features: `(ecgs, size)`, float32.
        targets, validation_targets: `(ecgs, classes)` of 0 and 1.
        tasks: the tasks.
        device: where to compute.
    """
    best: dict[str, ChosenProbe] = {}
    for strength, probe in fit_probes(features, targets, STRENGTHS, device):
        found = macro_aurocs(probe(validation_features), validation_targets, tasks.tasks)
        for task, (auroc,) in found.items():
            one = ChosenProbe(probe, strength, None if np.isnan(auroc) else float(auroc))
            if task not in best or (one.auroc is not None and one.auroc > best[task].auroc):
                best[task] = one
    return best
