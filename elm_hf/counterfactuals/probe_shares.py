"""Shares and mean changes of the counterfactual probe, with their intervals over patients."""

from collections.abc import Sequence

import numpy as np

from elm_hf.scoring.intervals import (
    LEAST_PATIENTS,
    NUM_RESAMPLES,
    Support,
    korn_graubard_interval,
    mean_interval,
    resampled_variance,
)


def share_entry(hits: Sequence[bool], patients: Sequence[int], seed: int) -> dict:
    """A share with its 95 % interval over patients, which is None with fewer than six."""
    hits, patients = np.asarray(hits, dtype=float), list(patients)
    found = {"share": None, "low": None, "high": None, "answers": len(hits), "patients": len(set(patients))}
    if not len(hits):
        return found
    found["share"] = float(hits.mean())
    if found["patients"] < LEAST_PATIENTS:
        return found
    _, place = np.unique(patients, return_inverse=True)
    sums = np.stack([np.bincount(place, hits), np.bincount(place)], axis=1)
    drawn = np.random.default_rng(seed).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), NUM_RESAMPLES) @ sums
    support = Support(found["patients"], len(hits), is_share=True)
    variance = resampled_variance(drawn[:, 0] / drawn[:, 1], support)
    found["low"], found["high"] = korn_graubard_interval(found["share"], variance, support)
    return found


def share_text(entry: dict) -> str:
    """A share with its interval; a dash where there is none."""
    if entry["share"] is None:
        return "—"
    if entry["low"] is None:
        return f"{entry['share']:.2f}"
    return f"{entry['share']:.2f} [{entry['low']:.2f}, {entry['high']:.2f}]"


def mean_entry(values: Sequence[float]) -> dict:
    """The mean of one value of each patient with Student's 95 % interval, which is None with fewer than six patients."""
    low, high = mean_interval(values) if len(values) >= LEAST_PATIENTS else (None, None)
    return {
        "mean": float(np.mean(values)),
        "low": None if low is None else float(low),
        "high": None if high is None else float(high),
    }
