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
"""Reads the files of electrocardiographs with ecgdatakit: ECG, device measurements and statements."""

import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from os import PathLike
from pathlib import Path

import numpy as np

from .ecg_leads import LEADS, LIMB_LEAD_IDENTITIES, canonical_lead, is_lead, other_signals
from .ecg_resampling import runs
from .ecg_segments import RecordingError
from .folder_paths import OutsideFolderError, path_inside
from .reading_process import ReadingProcess, serve


# Parsers of ecgdatakit whose values were compared with those of other programs (docs/formats.md), by module.
_VERIFIED = {
    "dicom_waveform": "DICOMWaveformParser",
    "edf": "EDFParser",
    "sierra_xml": "SierraXMLParser",
    "ge_muse_xml": "GEMuseXMLParser",
    "hl7_aecg": "HL7aECGParser",
}
# Parsers that only recognize a file by its first bytes, so that it is refused by the name of its format.
_UNVERIFIED = {
    "ishne_holter": "ISHNEHolterParser",
    "scp_ecg": "SCPECGParser",
    "mortara_el250": "MortaraEL250Parser",
    "alivecor_kardia": "AliveCorKardiaParser",
    "mfer": "MFERParser",
}
# The version that was verified. Another one may warn in other words, see `_DOUBTS`.
ECGDATAKIT = "2.0.3"
VERIFIED_FORMATS = "DICOM waveform, EDF, GE MUSE XML, HL7 aECG and Philips Sierra XML"
_OTHER_READERS = (".hea", ".dat", ".mat", ".npy", ".csv")
_NUM_FIRST_BYTES = 4096

# In bytes. A 12-lead ECG of 10 s has 0.1 to 3 MB in these formats.
LARGEST_FILE = 64 * 2**20
_LONGEST_READ_S = 60

MILLIVOLTS = {"mV": 1.0, "uV": 1e-3, "V": 1e3, "nV": 1e-6}
# Warnings of ecgdatakit after which the ECG may not be the one that the file contains, and why.
_DOUBTS = {
    r"rhythm series found": "it has several rhythm series, which is not verified yet",
    r"sequence sets in the rhythm series": "its rhythm series has several parts, which is not verified yet",
    r"Additional rhythm waveform ignored": "it has several rhythm waveforms, which is not verified yet",
    r"CRC32 mismatch in lead \S+ \(rhythm\)": "the checksum of a lead is wrong: it was damaged",
    r"(FirstSampleBaseline|LeadOffsetFirstSample) is non-zero for .*\(rhythm\)": (
        "a lead has a FirstSampleBaseline or LeadOffsetFirstSample other than 0, which is not verified yet"
    ),
    r"EDF file truncated": "it was cut short",
    r"EDF header size field": "the length of its header is wrong",
    r"EDF file has \d+ byte": "it is longer than its header says",
    r"EDF\+D file has gaps": "it is interrupted (EDF+D), which is not verified yet",
}
# Columns of the measurements, the fields of ecgdatakit, and the plausible values.
_MEASUREMENTS = {
    "device_heart_rate": ("heart_rate", 10, 400),
    "device_pr_ms": ("pr_interval", 1, 2000),
    "device_qrs_ms": ("qrs_duration", 1, 1000),
    "device_qt_ms": ("qt_interval", 1, 2000),
    "device_axis_deg": ("qrs_axis", -360, 360),
}
# The calibration pulse has about 1 mV in all leads. The leads differ in it by noise only.
_PULSE_MILLIVOLT, _PULSE_TOLERANCE = 1.0, 0.1
_PULSE_NOISE = 0.02
_SHORTEST_PULSE_S = 0.05


@dataclass
class DeviceEcg:
    """
    The ECG of a file of an electrocardiograph.

    Attributes:
        ecg: array `(leads, samples)`, float32 in mV, NaN where invalid.
        sampling_rate: sampling rate in Hz.
        lead_names: names of the rows, which are among the twelve leads.
        other_signals: names of the signals that are left out.
        report: what the device measured and stated, by name of column, see `DEVICE_COLUMNS`.
    """

    ecg: np.ndarray
    sampling_rate: float
    lead_names: list[str]
    other_signals: list[str]
    report: dict[str, float | list[str] | None]


# Names of `DeviceEcg.report`: measurements, statements of the device, and those that a clinician edited or confirmed.
DEVICE_COLUMNS = (*_MEASUREMENTS, "device_statements", "confirmed_statements")


def is_device_file(path: str | PathLike) -> bool:
    r"""
    Whether a path is a file that only this module can read: it is neither part of a WFDB record nor an array.

    Args:
        path (`str` or `os.PathLike`):
            The path, which need not exist.

    Returns:
        `bool`: `True` for a file with another suffix, or without one, and without a WFDB header of the same name.
    """
    path = os.fspath(path)
    is_other = os.path.splitext(path)[1].lower() in _OTHER_READERS
    return not is_other and os.path.isfile(path) and not os.path.isfile(f"{path}.hea")


def load_device_file(path: str | PathLike, folder: str | PathLike | None = None) -> DeviceEcg:
    r"""
    Reads a file of an electrocardiograph: DICOM waveform, EDF, GE MUSE XML, HL7 aECG or Philips Sierra XML. Its format
    is recognized by its content. Only the rhythm recording is read, without median beats and calibration pulses.

    Args:
        path (`str` or `os.PathLike`):
            The file.
        folder (`str` or `os.PathLike`, *optional*):
            Folder that the file must be in, links included. By default the folder of the path.

    Returns:
        [`~device_files.DeviceEcg`]: The ECG.

    Raises:
        [`RecordingError`]: If the file cannot be read. The reason is "missing file", "path outside the source",
            "formats not installed", "unknown format", "unverified format", "unknown lead" or "unreadable file".
    """
    path = Path(path)
    try:
        path_inside(os.path.abspath(path), os.path.abspath(path.parent if folder is None else folder))
    except OutsideFolderError as error:
        raise RecordingError("path outside the source", str(error)) from error
    if not os.path.isfile(path):
        raise RecordingError("missing file", f"{path}: no such file")
    if os.path.getsize(path) > LARGEST_FILE:
        raise RecordingError(
            "unreadable file",
            f"{path}: {os.path.getsize(path) >> 20} MiB, expected up to {LARGEST_FILE >> 20}; cut the recording, or "
            "convert it to WFDB",
        )
    if _installed("ecgdatakit") != ECGDATAKIT or _installed("pydicom") is None:
        raise RecordingError(
            "formats not installed",
            f"{path}: not a WFDB record, .npy, .csv or .mat file; other formats ({VERIFIED_FORMATS}) require "
            f'ecgdatakit {ECGDATAKIT} and pydicom: pip install "elm-hf[formats]"',
        )
    found = _reader(os.getpid()).read({"path": os.path.abspath(path)}, _LONGEST_READ_S)
    if "error" in found:
        raise RecordingError(found.get("reason", "unreadable file"), f"{path}: {found['error']}")
    return DeviceEcg(
        found["array"], found["sampling_rate"], found["lead_names"], found["other_signals"], found["report"]
    )


@lru_cache
def _installed(package: str) -> str | None:
    """The installed version of a package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


# Runs `main` of the code in a folder, which is not a package that can be imported if it belongs to a checkpoint.
_PROGRAM = """
import sys, types
package = sys.modules["ecg_code"] = types.ModuleType("ecg_code")
package.__path__ = [sys.argv[1]]
from ecg_code.device_files import main
main()
"""


@lru_cache(maxsize=1)
def _reader(process: int) -> ReadingProcess:
    """The reader of a process. A forked process starts its own."""
    return ReadingProcess(["-P", "-c", _PROGRAM, os.path.dirname(os.path.abspath(__file__))], "reader")


def main() -> None:
    """Serves the reading process."""
    parsers = {
        name: getattr(import_module(f"ecgdatakit.parsing.parsers.{name}"), parser)
        for name, parser in (_VERIFIED | _UNVERIFIED).items()
    }
    serve(lambda path: _read(path, parsers))


def _read(path: str, parsers: dict[str, type]) -> tuple[dict, np.ndarray | None]:
    """What `DeviceEcg` contains, or the reason and the error; and the array."""
    try:
        with open(path, "rb") as file:
            first = file.read(_NUM_FIRST_BYTES)
        parser = _recognized(Path(path), first, parsers)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            record = parser().parse(Path(path))
        _check_doubts([str(warning.message) for warning in caught])
        leads, others = _split(record.leads)
        rate, ecg = _sampling_rate(record, leads), _millivolt(leads)
        _check_groups(record, leads)
    except RecordingError as error:
        return {"reason": error.reason, "error": str(error)}, None
    except MemoryError:
        raise  # said by `serve`
    except Exception as error:
        words = " ".join(str(error).replace(f" in {path}", "").replace(f" of {path}", "").split())
        return {"error": f"cannot be read ({words[:300] or type(error).__name__})"}, None
    names, ecg = _completed([_name(lead) for lead in leads], ecg)
    ecg = without_calibration_pulse(ecg, rate)
    found = {"sampling_rate": rate, "lead_names": names, "other_signals": others, "report": _report(record)}
    return found, np.ascontiguousarray(ecg, np.float32)


def _recognized(path: Path, first: bytes, parsers: dict[str, type]) -> type:
    """The parser of the file's format. Only its first bytes are looked at, and no other file."""
    for name, parser in parsers.items():
        if parser.can_parse(path, first):
            if name in _VERIFIED:
                return parser
            raise RecordingError(
                "unverified format",
                f"a file in the format {parser.FORMAT_NAME}, which is not verified yet, so it is not read; expected "
                f"{VERIFIED_FORMATS}, or export it to one of these",
            )
    raise RecordingError(
        "unknown format",
        f"not an ECG file; expected .npy, .csv, .mat, a WFDB record (.hea and .dat), {VERIFIED_FORMATS}",
    )


def _check_doubts(messages: list[str]) -> None:
    # A recorder that was switched off leaves the number of records open, and the last one may be incomplete.
    is_open = any("number of data records is -1" in message for message in messages)
    for message in messages:
        for doubt, reason in _DOUBTS.items():
            if re.search(doubt, message) and not (is_open and "byte" in message):
                raise ValueError(reason)


def _split(signals: list) -> tuple[list, list[str]]:
    """The signals that are among the twelve leads, and the names of the others."""
    names = [_name(signal) for signal in signals]
    try:
        others = other_signals(names)
    except ValueError as error:
        raise RecordingError("unknown lead", str(error)) from error
    leads = [signal for signal, name in zip(signals, names) if is_lead(name)]
    if not names:
        raise ValueError("it has no rhythm recording")
    if not leads:
        raise RecordingError("unknown lead", f"none of the twelve leads, only {', '.join(names)[:200]}")
    return leads, others


def _name(signal) -> str:
    """The name of a signal. The inverted aVR of the Cabrera sequence is called aVR, see `_millivolt`."""
    return "aVR" if signal.label == "-aVR" else signal.label


def _millivolt(leads: list) -> np.ndarray:
    """The leads `(leads, samples)` in mV."""
    lengths = {len(lead.samples) for lead in leads}
    if len(lengths) > 1 or not min(lengths):
        raise ValueError(f"leads of {', '.join(map(str, sorted(lengths)))} samples, expected equal lengths")
    rows = []
    for lead in leads:
        unit = lead.resolution_unit if lead.is_raw else lead.units
        if unit not in MILLIVOLTS:
            raise ValueError(f"lead {lead.label} is in {unit or 'an unknown unit'}, expected mV, uV or V")
        values = np.asarray(lead.samples, np.float64)
        if lead.is_raw:
            values = values * lead.resolution + lead.offset
        sign = -1 if lead.label == "-aVR" else 1
        rows.append(values * (sign * MILLIVOLTS[unit]))
    with np.errstate(over="ignore"):  # what becomes infinite is invalid
        return np.stack(rows).astype(np.float32)


def _sampling_rate(record, leads: list) -> float:
    """The sampling rate in Hz. ecgdatakit rounds it to whole numbers, and keeps it as it is in other places."""
    metadata = record.raw_metadata
    edf = metadata.get("exact_sampling_rates", {})
    rates = {float(edf.get(lead.label, lead.sampling_rate)) for lead in leads}
    if len(rates) > 1:
        raise ValueError(f"leads of {', '.join(f'{rate:g}' for rate in sorted(rates))} Hz, expected one sampling rate")
    (rate,) = rates
    rate = metadata.get("rhythm_time", {}).get("sampling_rate_exact", rate)
    for group in _rhythm_groups(record):
        rate = group["sampling_frequency"]
        break
    return round(rate, 6)


def _rhythm_groups(record) -> Iterator[dict]:
    """The groups of channels of a DICOM file that are not median beats, in the order of the file."""
    for group in record.raw_metadata.get("multiplex_groups", []):
        if not re.search("MEDIAN|REPRESENTATIVE|AVERAGE", group["label"].upper()):
            yield group


def _check_groups(record, leads: list) -> None:
    """Raise an error if a DICOM file has several groups of channels, and the first one, which is read, is a part."""
    groups = list(_rhythm_groups(record))
    seconds = [group["samples"] / group["sampling_frequency"] for group in groups]
    if len(groups) > 1 and (len(leads) < 8 or max(seconds) > seconds[0]):
        sizes = [f"{group['channels']} channels of {length:g} s" for group, length in zip(groups, seconds)]
        raise ValueError(
            f"it has {len(groups)} groups of channels ({', '.join(sizes)}), and the first is not the whole ECG, which "
            "is not verified yet"
        )


def _completed(names: list[str], ecg: np.ndarray) -> tuple[list[str], np.ndarray]:
    """The leads with III, aVR, aVL and aVF. Devices that store eight leads compute these from I and II."""
    known = {canonical_lead(name): row for name, row in zip(names, ecg)}
    if known.keys() != {"I", "II", *LEADS[6:]} or len(known) != len(names):
        return names, ecg
    computed = {lead: compute(known["I"], known["II"]) for lead, _, compute in LIMB_LEAD_IDENTITIES}
    return [*names, *computed], np.stack([*ecg, *computed.values()])


def without_calibration_pulse(ecg: np.ndarray, sampling_rate: float) -> np.ndarray:
    r"""
    Cuts the calibration pulse off the start or the end of an ECG, as Philips devices append it: a stretch in which all
    leads are equal and contain a pulse of 1 mV. Leads of a heart cannot be equal and differ from zero, because III is
    II - I.

    Args:
        ecg (`np.ndarray` of shape `(num_leads, num_samples)`):
            The ECG in millivolt.
        sampling_rate (`float`):
            Sampling rate in Hz.

    Returns:
        `np.ndarray` of shape `(num_leads, num_remaining_samples)`: The part before or after the pulse, the longer one.
    """
    if len(ecg) < 3:
        return ecg
    are_equal = np.ptp(ecg, axis=0) <= _PULSE_NOISE
    is_pulse = are_equal & (np.abs(ecg.mean(axis=0) - _PULSE_MILLIVOLT) <= _PULSE_TOLERANCE)
    for start, end in runs(is_pulse):
        if end - start >= _SHORTEST_PULSE_S * sampling_rate:
            before, after = np.flatnonzero(~are_equal[:start]), np.flatnonzero(~are_equal[end:])
            first = before[-1] + 1 if before.size else 0
            last = end + after[0] if after.size else ecg.shape[1]
            parts = without_calibration_pulse(ecg[:, :first], sampling_rate), ecg[:, last:]
            return max(parts, key=lambda part: part.shape[1])
    return ecg


def _report(record) -> dict[str, float | list[str] | None]:
    """The columns `DEVICE_COLUMNS`. What a clinician edited or confirmed is not a statement of the device."""
    report: dict = {}
    for column, (field, smallest, largest) in _MEASUREMENTS.items():
        value = getattr(record.measurements, field)
        report[column] = value if value is not None and smallest <= value <= largest else None
    interpretation = record.interpretation
    statements = [" | ".join(filter(None, parts)) for parts in interpretation.statements]
    if interpretation.source in ("confirmed", "overread"):
        of_device = record.annotations.get("machine_interpretation", "").split("\n")
        report |= {"device_statements": of_device, "confirmed_statements": statements}
    else:
        report |= {"device_statements": statements, "confirmed_statements": []}
    for column in ("device_statements", "confirmed_statements"):
        report[column] = [" ".join(text.split())[:500] for text in report[column][:100] if text.strip()]
    return report


__all__ = [
    "DEVICE_COLUMNS",
    "LARGEST_FILE",
    "VERIFIED_FORMATS",
    "DeviceEcg",
    "is_device_file",
    "load_device_file",
    "main",
    "without_calibration_pulse",
]
