"""ECGs whose WFDB header says age, sex and diagnoses, as in the PhysioNet/CinC Challenges 2020 and 2021, in words."""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from os import PathLike
from pathlib import Path

from elm_hf.ecg.recording import Recording, RecordingError, read_recording
from elm_hf.prepare.builder import ElmDatasetBuilder
from elm_hf.prepare.report_questions import findings_conversation


_SEX = {"male": "male", "m": "male", "female": "female", "f": "female"}
_UNKNOWN = ("", "nan", "unknown", "-1")


@dataclass
class HeaderComments:
    """
    What the comments of a header say of a recording.

    Attributes:
        age: in years; None where it is not known (`NaN`, `Unknown`, -1).
        sex: "male", "female" or None.
        codes: the SNOMED CT codes of `Dx`, in their order.
    """

    age: int | None
    sex: str | None
    codes: list[str]

    @property
    def labels(self) -> list[str]:
        """The codes in words, each once."""
        return list(dict.fromkeys(snomed_name(code) for code in self.codes))

    @property
    def stratum(self) -> str:
        """The groups of findings that the codes belong to, of which there are a dozen; "none" without codes."""
        return "+".join(sorted({snomed_group(code) for code in self.codes})) or "none"


def read_header_comments(path: str | PathLike) -> HeaderComments:
    """
    Read `# Age: 56`, `# Sex: Female` and `# Dx: 426783006,59118001`, with or without the space after `#`.

    Args:
        path: of the header, with `.hea`.

    Raises:
        RecordingError: no such file, or an age that is no number.
    """
    path = Path(path)
    if not path.is_file():
        raise RecordingError("missing file", f"{path}: no such file")
    text = path.read_text(encoding="utf-8", errors="replace")
    found = dict(re.findall(r"^#\s*(Age|Sex|Dx)\s*:[ \t]*(.*?)\s*$", text, re.MULTILINE))
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


def read_labelled_recording(path: str | PathLike) -> tuple[Recording, dict]:
    """
    A record, and the `age`, `sex` and `labels` of its header.

    Raises:
        RecordingError: it cannot be used.
    """
    comments = read_header_comments(path)
    return read_recording(path), {"age": comments.age, "sex": comments.sex, "labels": comments.labels}


def list_findings(builder: ElmDatasetBuilder) -> Iterator[dict]:
    """A conversation for each recording of a builder whose references have the `path` of such a header."""
    folder = builder.source_folder()
    for reference in builder.distinct_references():
        try:
            comments = read_header_comments(folder / reference["path"])
        except RecordingError:
            continue  # it will be among the recordings that are skipped
        yield findings_conversation(builder.name, reference["recording_id"], comments.labels, stratum=comments.stratum)


def snomed_name(code: str) -> str:
    """
    A SNOMED CT code in words; a code that the table lacks keeps its number.

    The table holds the codes of the PhysioNet/CinC Challenge 2021 (Reyna et al. 2021) and of the CSN database, one name
    for a code whatever a source calls it: 164931005 is ST elevation, which CSN's own table calls "ST tilt up", and three
    codes are premature ventricular beats.
    """
    return _table()[code]["name"] if code in _table() else f"SNOMED CT {code}"


def snomed_group(code: str) -> str:
    """The group of findings that a SNOMED CT code belongs to, such as "conduction disturbance"; "other" if unknown."""
    return _table()[code]["group"] if code in _table() else "other"


@cache
def _table() -> dict[str, dict]:
    with files("elm_hf.prepare").joinpath("snomed_ct.csv").open(encoding="utf-8", newline="") as file:
        return {row["code"]: row for row in csv.DictReader(file)}
