"""Age, sex and SNOMED CT codes in WFDB headers, as in the PhysioNet/CinC Challenges 2020 and 2021."""

import csv
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from os import PathLike
from pathlib import Path

from elm_hf.ecg.recording import Recording, RecordingError, path_within, read_recording
from elm_hf.modeling.wfdb_header import LARGEST_HEADER
from elm_hf.prepare.builder import ElmDatasetBuilder
from elm_hf.prepare.report_questions import findings_conversation


_SEX = {"male": "male", "m": "male", "female": "female", "f": "female"}
_UNKNOWN = ("", "nan", "unknown", "-1")


@dataclass
class HeaderComments:
    """
    The metadata of a recording in the comments of its header.

    Attributes:
        age: age in years; None if it is unknown (`NaN`, `Unknown`, -1).
        sex: "male", "female" or None.
        codes: SNOMED CT codes of `Dx`, in their order.
    """

    age: int | None
    sex: str | None
    codes: list[str]

    @property
    def labels(self) -> list[str]:
        """The distinct names of the codes."""
        return list(dict.fromkeys(snomed_name(code) for code in self.codes))

    @property
    def stratum(self) -> str:
        """The groups of findings of the codes, about a dozen in total; "none" if there are no codes."""
        return "+".join(sorted({snomed_group(code) for code in self.codes})) or "none"


def read_header_comments(path: str | PathLike, folder: str | PathLike) -> HeaderComments:
    """
    Read `# Age: 56`, `# Sex: Female` and `# Dx: 426783006,59118001`, with or without the space after `#`.

    Args:
        path: path of the header in the folder, with the suffix `.hea`.
        folder: folder of the source, which the header must be in.

    Raises:
        RecordingError: the file does not exist or is outside the folder, or the age is not a number.
    """
    path = path_within(Path(folder), str(path))
    if not os.path.isfile(path):
        raise RecordingError("missing file", f"{path}: no such file")
    with path.open("rb") as file:
        text = file.read(LARGEST_HEADER).decode("utf-8", "replace")
    found = dict(re.findall(r"^#[ \t]*(Age|Sex|Dx)[ \t]*:(.*)$", text, re.MULTILINE))
    found = {name: value.strip() for name, value in found.items()}
    age = found.get("Age", "")
    if age.lower() in _UNKNOWN:
        years = None
    elif re.fullmatch(r"\d{1,3}(\.\d+)?", age):
        years = int(float(age))
    else:
        raise RecordingError("unreadable metadata", f"{path}: cannot read Age {age!r}, expected years")
    codes = [code.strip() for code in found.get("Dx", "").split(",")]
    known = [code for code in codes if code.lower() not in _UNKNOWN]
    return HeaderComments(years, _SEX.get(found.get("Sex", "").lower()), known)


def read_labelled_recording(folder: str | PathLike, name: str) -> tuple[Recording, dict]:
    """
    Read a record and the `age`, `sex` and `labels` from its header.

    Args:
        folder: folder of the source.
        name: path of the header in the folder.

    Raises:
        RecordingError: the record cannot be used.
    """
    comments = read_header_comments(name, folder)
    return read_recording(Path(folder) / name, folder), {
        "age": comments.age,
        "sex": comments.sex,
        "labels": comments.labels,
    }


def list_headers(folder: Path, record_name: re.Pattern) -> Iterator[dict]:
    """List references to the records of a name in any sub-folder, sorted by name. Each counts as a separate patient."""
    paths = (path for path in folder.rglob("*.hea") if record_name.fullmatch(path.stem))
    for path in sorted(paths, key=lambda path: (path.stem, path)):
        yield {"recording_id": path.stem, "patient_id": path.stem, "path": str(path.relative_to(folder))}


def list_findings(builder: ElmDatasetBuilder) -> Iterator[dict]:
    """List a conversation for each recording of a builder. Its references must have the `path` of the header."""
    folder = builder.source_folder()
    for reference in builder.distinct_references():
        try:
            comments = read_header_comments(reference["path"], folder)
        except RecordingError:
            continue  # reported as a skipped recording
        yield findings_conversation(builder.name, reference["recording_id"], comments.labels, stratum=comments.stratum)


def snomed_name(code: str) -> str:
    """
    Return the name of a SNOMED CT code. The name of an unknown code is its number.

    The table contains the codes of the PhysioNet/CinC Challenge 2021 (Reyna et al. 2021) and of the CSN database.
    Names do not depend on the source: 164931005 is ST elevation, although the table of CSN calls it "ST tilt up", and
    three codes are ventricular premature complexes. Codes that the Challenge scores as equivalent have one name, and
    findings of PTB-XL have the names of its SCP-ECG statements.
    """
    return _table()[code]["name"] if code in _table() else f"SNOMED CT {code}"


def snomed_group(code: str) -> str:
    """Return the group of findings of a SNOMED CT code, such as "conduction disturbance"; "other" if it is unknown."""
    return _table()[code]["group"] if code in _table() else "other"


@cache
def _table() -> dict[str, dict]:
    with files("elm_hf.prepare").joinpath("snomed_ct.csv").open(encoding="utf-8", newline="") as file:
        return {row["code"]: row for row in csv.DictReader(file)}
