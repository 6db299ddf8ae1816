"""Measure the ECGs of files and folders."""

import os
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path

import numpy as np

from elm_hf.ecg.files import read_ecg_file
from elm_hf.ecg.measurements import GENERAL_FEATURES, measure_ecg
from elm_hf.ecg.normal_ranges import describe_features, feature_text
from elm_hf.ecg.recording import RecordingError
from elm_hf.modeling.ecg_leads import LEADS


# Files of a folder that are no ECG, or part of one: signals and annotations of WFDB records, descriptions.
_NOT_ALONE = (".dat", ".atr", ".jsonl", ".txt", ".md", ".parquet")
_NO_ECG = ("metadata.csv",)


def list_ecg_files(paths: Sequence[str | PathLike]) -> list[Path]:
    """
    List files, and the files in folders and their subfolders that may contain an ECG, each WFDB record once.

    Args:
        paths: files and folders.

    Raises:
        FileNotFoundError: a folder contains no such file.
    """
    found = []
    for path in map(Path, paths):
        files = sorted(_files_in(path)) if path.is_dir() else [path]
        if not files:
            raise FileNotFoundError(f"{path}: contains no files with an ECG")
        found += files
    return found


def _files_in(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        is_part = path.suffix.lower() in _NOT_ALONE or (path.suffix != ".hea" and path.with_suffix(".hea").is_file())
        if path.is_file() and not is_part and not path.name.startswith(".") and path.name not in _NO_ECG:
            yield path


def measure_file(
    path: str | PathLike,
    sampling_rate: float | None = None,
    units: str | None = None,
    sex: str | None = None,
    age: float | None = None,
) -> dict:
    """
    Measure the ECG of a file.

    Args:
        path, sampling_rate, units: see [`~elm_hf.ecg.files.read_ecg_file`].
        sex, age: of the patient, for normal ranges, see [`~elm_hf.ecg.normal_ranges.describe_features`].

    Returns:
        The name of the `file`, its `seconds` and `missing_leads`, its `measurements`, of which those that are not
        possible are None, the findings `outside_normal_range` by place, both as `text`, and what the `device` measured
        and stated.

    Raises:
        RecordingError: the file cannot be read, or has no lead with a signal.
    """
    recording = read_ecg_file(path, sampling_rate, units=units)
    if len(recording.missing_leads) == len(LEADS):
        raise RecordingError("no usable lead", f"{path}: every lead is missing or flat")
    features = measure_ecg(recording.ecg, recording.sampling_rate)
    outside = describe_features(features, sex, age)
    return {
        "file": os.fspath(path),
        "seconds": round(recording.ecg.shape[1] / recording.sampling_rate, 3),
        "missing_leads": list(recording.missing_leads),
        "measurements": {name: round(value, 4) if np.isfinite(value) else None for name, value in features.items()},
        "outside_normal_range": {place: found for place, found in outside.items() if found},
        "text": feature_text(features, sex, age),
        "device": recording.device_report,
    }


def measurement_text(measured: dict) -> str:
    """Return the result of `measure_file` as lines for reading."""
    lines = [f"{measured['file']} ({measured['seconds']:g} s)", *_sentences(measured["text"])]
    levels = [(lead, measured["measurements"][f"st_mv_{lead}"]) for lead in LEADS]
    levels = [f"{lead} {level:+.2f}" for lead, level in levels if level is not None]
    if levels:
        lines.insert(2, f"ST at the J point in mV: {', '.join(levels)}.")
    if measured["missing_leads"]:
        lines.append(f"Missing leads: {', '.join(measured['missing_leads'])}.")
    said = [f"{name} {value}" for name, value in measured["device"].items() if isinstance(value, int | float)]
    said += [statement for name, value in measured["device"].items() if isinstance(value, list) for statement in value]
    if said:
        lines.append(f"In the file: {'; '.join(said)}.")
    return "\n    ".join(lines)


def _sentences(text: str) -> list[str]:
    measurements, separator, findings = text.partition(" Outside the normal range: ")
    return [measurements, f"Outside the normal range: {findings}"] if separator else [text]


def measurement_row(measured: dict) -> dict:
    """Return the result of `measure_file` as a row of a table."""
    findings = [
        finding if place == "general" else f"{place}: {finding}"
        for place, found in measured["outside_normal_range"].items()
        for finding in found
    ]
    values = measured["measurements"]
    device = {
        name: " / ".join(value) if isinstance(value, list) else value for name, value in measured["device"].items()
    }
    return {
        "file": measured["file"],
        "seconds": measured["seconds"],
        "missing_leads": " ".join(measured["missing_leads"]),
        **{name: values[name] for name in GENERAL_FEATURES},
        **{f"st_mv_{lead}": values[f"st_mv_{lead}"] for lead in LEADS},
        "outside_normal_range": "; ".join(findings),
        **device,
    }
