"""Measured values of ECGs as features of linear probes."""

from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from elm_hf.checkpoints.measurements import scaled_measurements
from elm_hf.classification.encoder_records import LabelledRecords
from elm_hf.modeling.ecg_measurements import measure_ecg
from elm_hf.modeling.modeling_elm_projector import ElmMeasurementEmbedding


class MeasuredFeatures:
    """
    Measures ECGs for linear probes.

    Args:
        names: names of the values, as in [`scaled_measurements`].
        quiet: no progress bar.

    Raises:
        ValueError: there is no such value, or it is named twice.
    """

    def __init__(self, names: Sequence[str], quiet: bool):
        scaled = scaled_measurements(names)
        self.names, self.scales, self.quiet = scaled["measurements"], scaled["measurement_scales"], quiet

    def __call__(self, records: LabelledRecords, rows: np.ndarray, what: str) -> np.ndarray:
        """The features of some records, `(rows, size)` float32; see [`features_of_values`]."""
        ecgs = tqdm(records.ecgs(rows), desc=f"measuring, {what}", unit="ECG", disable=self.quiet or None)
        measured = [measure_ecg(ecg, records.sampling_rate) for ecg in ecgs]
        values = np.array([[one[name] for name in self.names] for one in measured], np.float32)
        return features_of_values(values, self.names, np.array(self.scales, np.float32))


def features_of_values(values: np.ndarray, names: Sequence[str], scales: np.ndarray) -> np.ndarray:
    """
    Features from which a linear model can tell low, high and unknown values apart: of each value by how much it is above
    the typical one and by how much below, in spreads; whether it is unknown (NaN); of an angle cosine and sine.

    Args:
        values: `(ecgs, values)`, NaN where unknown.
        names: name of each value.
        scales: typical value and spread of each value, `(values, 2)`.

    Returns:
        Array `(ecgs, 3 * values)`, float32.
    """
    is_unknown = ~np.isfinite(values)
    limit = ElmMeasurementEmbedding.largest_deviation
    deviation = ((values - scales[:, 0]) / scales[:, 1]).clip(-limit, limit)
    first, second = deviation.clip(min=0), deviation.clip(max=0)
    is_angle = [name.endswith("_deg") for name in names]
    angles = np.deg2rad(values[:, is_angle])  # 179 and -179 degrees are neighbours
    first[:, is_angle], second[:, is_angle] = np.cos(angles), np.sin(angles)
    known = [np.where(is_unknown, 0, part) for part in (first, second)]
    return np.concatenate([*known, is_unknown], axis=1).astype(np.float32)
