# Copyright 2026 The elm-hf authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""
Measured values of ECGs (rate, intervals, axis, ...), which a model can read beside the ECG.

As with the encoder (see `ecg_encoders.py`), the code that measures is in the checkpoints of models that read measured
values and in no others: `save_measuring_code` adds it and writes its import into `own_measurements.py`.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from os import PathLike
from pathlib import Path

import numpy as np
from transformers.dynamic_module_utils import custom_object_save

from .ecg_modalities import EcgModalities
from .ecg_pictures import as_picture
from .feature_extraction_ecg import EcgFeatureExtractor
from .own_measurements import MEASURE


class MeasuringMixin:
    """Measures ECGs for processors of models that read measured values, whose names are in `measurements`."""

    measurements: list[str] | None = None

    @property
    def measured_names(self) -> list[str]:
        """The model's input for measured values, if it reads any."""
        return ["ecg_measurements"] if self.measurements else []

    def ecgs_to_measure(self, items: list[dict], ecgs: list) -> list | None:
        r"""
        The ECGs whose measured values the model reads.

        Args:
            items (`list[dict]`):
                The `{"type": "ecg"}` items, of which some may have `"measured_ecg"`.
            ecgs (`list`):
                Their ECGs.

        Returns:
            `list`: One for each item, `None` for no values; or `None` if they are the ECGs themselves.

        Raises:
            `ValueError`: If an item has `"measured_ecg"` and the model reads no measured values.
        """
        if not any("measured_ecg" in item for item in items):
            return None
        if not self.measurements:
            raise ValueError('An ECG item has "measured_ecg", and this model reads no measured values.')
        return [item.get("measured_ecg", ecg) for item, ecg in zip(items, ecgs)]

    def measured(self, ecgs: list, sampling_rate, lead_names) -> dict[str, np.ndarray]:
        r"""
        Measures ECGs, if the model reads measured values.

        Args:
            ecgs, sampling_rate, lead_names:
                As for `prepare_ecgs`; `None` for an absent ECG. Of signal and picture the signal is measured.

        Returns:
            `dict[str, np.ndarray]`: `ecg_measurements` of shape `(num_ecgs, num_measurements)`, or nothing.
        """
        if not self.measurements:
            return {}
        ecgs = [ecg.signal if isinstance(ecg, EcgModalities) else ecg for ecg in ecgs]
        values = measured_values(self.ecg_reader, ecgs, sampling_rate, lead_names, self.measurements)
        return {"ecg_measurements": values}

    # trf-ignore: TRF057 (auto_docstring describes the library's own models only)
    def save_pretrained(self, save_directory, push_to_hub: bool = False, **kwargs):
        if not self.measurements:
            return super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)
        saved = super().save_pretrained(save_directory)
        save_measuring_code(save_directory)
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", Path(save_directory).name), **kwargs)
        return saved


def measuring_function() -> Callable[[np.ndarray, float], dict[str, float]]:
    """The function `measure_ecg`, which is imported if need be."""
    return MEASURE or import_module(".ecg_measurements", __package__).measure_ecg


def measured_values(
    reader: EcgFeatureExtractor, ecgs: Sequence, sampling_rate, lead_names, names: Sequence[str]
) -> np.ndarray:
    r"""
    Measures ECGs: the part that the model reads, all leads that there are, at the ECG's own sampling rate.

    Args:
        reader ([`EcgFeatureExtractor`]):
            Reads ECGs for the model.
        ecgs (`list`):
            ECGs as for [`EcgFeatureExtractor`]; `None` for one of which nothing is known, as of a scan ([`EcgPicture`]).
        sampling_rate, lead_names:
            As for [`EcgFeatureExtractor`].
        names (`list[str]`):
            The values to measure.

    Returns:
        `np.ndarray` of shape `(len(ecgs), len(names))`, float32, NaN for values that cannot be measured.

    Raises:
        `ValueError`: If an ECG is not as described, or there is no such value.
    """
    rates = sampling_rate if isinstance(sampling_rate, list | tuple) else [sampling_rate] * len(ecgs)
    is_one_list = lead_names is None or all(isinstance(name, str) for name in lead_names)
    leads = [lead_names] * len(ecgs) if is_one_list else lead_names
    measure, values = measuring_function(), np.full((len(ecgs), len(names)), np.nan, dtype=np.float32)
    known: dict[tuple, np.ndarray] = {}  # many questions are about one ECG
    for row, ecg, rate, names_of_leads in zip(values, ecgs, rates, leads):
        if ecg is None or as_picture(ecg) is not None:
            continue
        key = (ecg if isinstance(ecg, str | PathLike) else id(ecg), rate, str(names_of_leads))
        if key not in known:
            measured = measure(*reader.read_unchanged(ecg, rate, names_of_leads))
            unknown = sorted(set(names) - set(measured))
            if unknown:
                raise ValueError(f"measurements: there is no {', '.join(unknown)}; there are {', '.join(measured)}.")
            known[key] = np.array([measured[name] for name in names])
        row[:] = known[key]
    return values


def save_measuring_code(folder: str | PathLike):
    r"""
    Adds the code that measures ECGs to that of a processor.

    Args:
        folder (`str` or `os.PathLike`):
            Folder of the checkpoint, with the code of the processor.
    """
    measure = measuring_function()
    custom_object_save(measure, folder)
    path = Path(folder) / "own_measurements.py"
    lines = Path(__file__).with_name(path.name).read_text(encoding="utf-8").splitlines()[:-1]
    module = measure.__module__.split(".")[-1]
    path.write_text("\n".join([*lines, f"from .{module} import {measure.__name__} as MEASURE", ""]), encoding="utf-8")


__all__ = ["MeasuringMixin", "measured_values", "measuring_function", "save_measuring_code"]
