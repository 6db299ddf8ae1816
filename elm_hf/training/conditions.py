"""Training without the true ECGs: zeros, noise, another patient's or none in their place, to measure what a model can
learn from the text alone."""

import zlib
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from datasets import Dataset

from elm_hf.data.messages import replace_ecgs
from elm_hf.data.patients import record_patients
from elm_hf.data.tables import has_records, load_records
from elm_hf.ecg.surrogates import surrogate_noise
from elm_hf.training.arguments import ElmScriptArguments


def with_condition(dataset: Dataset, script_args: ElmScriptArguments, seed: int) -> Dataset:
    """
    Replaces the ECGs of conversations as `--ecg_condition` says: `zeros` by 0 mV in every lead, `noise` by noise with the
    spectrum of each lead (the same in every epoch), `another` by the ECG of a patient drawn at random, the same for all
    conversations about an ECG, and `none` by nothing. Unlike in an evaluation, `another` does not look for ECGs with
    another true answer, which would tell the answer.

    Args:
        dataset: conversations of [`load_elm_dataset`].
        script_args: arguments of the run.
        seed: random seed.

    Raises:
        ValueError: one patient has more than half of the ECGs, so that no other patient's can be found for all.
    """
    condition = script_args.ecg_condition
    if condition == "signal":
        return dataset
    if condition in ("zeros", "noise"):
        transform = dataset.format["format_kwargs"]["transform"]
        return dataset.with_transform(_ReplaceEcgs(transform, condition, seed))
    plain = dataset.with_format(None)
    if condition == "none":
        changed = plain.map(_without_ecgs, desc="Removing ECGs")
    else:
        indices = sorted({index for those in plain["ecg_index"] for index in those})
        patients = _patients(script_args.dataset)
        donor_of = dict(zip(indices, other_patients([patients[index] for index in indices], indices, seed)))
        columns = [[donor_of[index] for index in those] for those in plain["ecg_index"]]
        feature = plain.features["ecg_index"]
        changed = plain.remove_columns("ecg_index").add_column("ecg_index", columns, feature=feature)
    return changed.with_format(dataset.format["type"], **dataset.format["format_kwargs"])


def other_patients(patients: Sequence[str], ecgs: Sequence[int], seed: int) -> list[int]:
    """
    For each ECG one of another patient. Each ECG is taken once.

    Args:
        patients: patient of each ECG.
        ecgs: numbers of the ECGs.
        seed: random seed.

    Raises:
        ValueError: one patient has more than half of the ECGs.
    """
    patient, most = Counter(patients).most_common(1)[0]
    if 2 * most > len(patients):
        raise ValueError(
            f"--ecg_condition another needs ECGs of other patients, and {most} of the {len(patients)} training ECGs are of "
            f"patient {patient}; use more ECGs or another condition"
        )
    rng = np.random.default_rng(seed)
    names = sorted(set(patients))
    rank = dict(zip(names, rng.permutation(len(names))))
    # ECGs of a patient stand together, so that those as many places further on are of others.
    order = sorted(rng.permutation(len(patients)), key=lambda place: rank[patients[place]])
    donors = [0] * len(patients)
    for place, donor in zip(order, np.roll(order, -most)):
        donors[place] = ecgs[donor]
    return donors


def _patients(paths: Sequence[str]) -> list[str]:
    """The patient of each record of the joined datasets."""
    patients = []
    for path in paths:
        if has_records(path):
            patients += record_patients(load_records(path)).to_pylist()
    return patients


def _without_ecgs(row: dict) -> dict:
    return {"messages": replace_ecgs(row["messages"]), "ecg_index": []}


class _ReplaceEcgs:
    """Replaces the ECGs of a batch when they are read. Unlike a closure, it can be sent to worker processes."""

    def __init__(self, transform: Callable[[dict], dict], condition: str, seed: int):
        """`transform` is the previous transform of the dataset, which adds the ECGs."""
        self.transform, self.condition, self.seed = transform, condition, seed

    def __call__(self, batch: dict) -> dict:
        batch = self.transform(batch)
        if "ecgs" in batch:
            rows = zip(batch["ecgs"], batch["ecg_index"])
            batch["ecgs"] = [_ReplacedEcgs(ecgs, indices, self.condition, self.seed) for ecgs, indices in rows]
        return batch


class _ReplacedEcgs(Sequence):
    """What stands in the place of a conversation's ECGs, computed on access."""

    def __init__(self, ecgs: Sequence[np.ndarray], indices: Sequence[int], condition: str, seed: int):
        self.ecgs, self.indices, self.condition, self.seed = ecgs, indices, condition, seed

    def __len__(self) -> int:
        return len(self.ecgs)

    def __getitem__(self, place: int | slice) -> np.ndarray | list[np.ndarray]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        if self.condition == "zeros":
            return np.zeros_like(self.ecgs[place])
        rng = np.random.default_rng([self.seed, zlib.crc32(str(self.indices[place]).encode())])
        return surrogate_noise(self.ecgs[place], rng)
