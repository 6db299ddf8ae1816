"""ECGs that arrive over the network as files: they are read in a temporary folder, and nothing of them is kept."""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from elm_hf.ecg.files import read_ecg_file
from elm_hf.ecg.recording import RecordingError
from elm_hf.inference.ask import AskedEcg
from elm_hf.modeling.ecg_leads import flat_leads
from elm_hf.utils.errors import one_line, short


MAX_FILES = 8  # of one ECG: a WFDB record may have a header and several signal files
LONGEST_NAME = 120  # characters


def read_upload(files: Mapping[str, bytes], sampling_rate: float | None = None, units: str | None = None) -> AskedEcg:
    """
    Read the ECG of uploaded files. Only these files are opened, whatever is written in them.

    Args:
        files: contents by name. A WFDB record has a header (`.hea`) and its signal files; other ECGs are one file.
        sampling_rate, units: see [`~elm_hf.ecg.files.read_ecg_file`].

    Raises:
        ValueError: the files are no ECG that can be read; the message names the file and no folder.
    """
    if not files:
        raise ValueError("no file; send a file with an ECG")
    if len(files) > MAX_FILES:
        raise ValueError(f"{len(files)} files; an ECG has at most {MAX_FILES}")
    with tempfile.TemporaryDirectory(prefix="ecg-") as temporary:
        folder = Path(temporary).resolve()
        for name, content in files.items():
            _check_file_name(name)
            (folder / name).write_bytes(content)
        try:
            recording = read_ecg_file(folder / _first(list(files)), sampling_rate, units=units, as_recorded=True)
        except (ValueError, OSError, ImportError) as error:
            message = one_line(error).replace(f"{folder}/", "").replace(str(folder), "the upload")
            raise ValueError(message) from error
    name = PurePosixPath(_first(list(files))).name
    return AskedEcg(name, recording.ecg, recording.sampling_rate, None, recording.notes)


def check_usable(ecg: AskedEcg) -> None:
    """
    Check that an ECG has a lead with a signal.

    Raises:
        RecordingError: every lead is missing or flat.
    """
    if flat_leads(ecg.ecg).all():
        raise RecordingError("no usable lead", f"{ecg.name}: every lead is missing or flat")


def window_of(ecg: AskedEcg, processor) -> AskedEcg:
    """The part of an ECG that a model reads."""
    reader = processor.ecg_reader
    length = round(reader.num_samples / reader.sampling_rate * ecg.sampling_rate)
    start = max(ecg.ecg.shape[1] - length, 0) // 2 if reader.crop == "center" else 0
    return replace(ecg, ecg=ecg.ecg[:, start : start + length], path=None)


def quality_of(ecg: AskedEcg, processor) -> dict:
    """What makes answers about an ECG doubtful: its `name`, its `problems`, and its `missing_leads` with the causes."""
    problems = ecg.problems().removeprefix(f"{ecg.name}: ")
    return {"name": ecg.name, "problems": problems, "missing_leads": ecg.missing_leads(processor)}


def _check_file_name(name: str) -> None:
    """Refuse names that would leave the temporary folder."""
    is_plain = name and name not in (".", "..") and not set(name) & set("/\\\0") and len(name) <= LONGEST_NAME
    if not is_plain:
        raise ValueError(f"file name {short(name)!r}; expected a plain name of up to {LONGEST_NAME} characters")


def _first(names: list[str]) -> str:
    """The file to open: the header of a WFDB record, or the only file."""
    headers = [name for name in names if name.lower().endswith(".hea")]
    if len(headers) == 1:
        return headers[0]
    if len(names) > 1:
        raise ValueError(
            f"{', '.join(names)}: several files are one ECG only if one is the header (.hea) of a WFDB record; send one "
            "ECG at a time"
        )
    return names[0]
