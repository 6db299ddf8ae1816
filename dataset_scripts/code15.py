"""CODE-15% (Ribeiro et al. 2021): 345,779 exams of 233,770 patients in Brazil, labelled with six abnormalities."""

import os
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import h5py
import numpy as np

from elm_hf.ecg.recording import Recording, RecordingError, make_recording, path_within
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.prepare.builder import ElmDatasetBuilder
from elm_hf.prepare.report_questions import findings_conversation
from elm_hf.utils.files import read_table


SAMPLING_RATE = 400
ABNORMALITIES = {
    "1dAVb": "first degree AV block",
    "RBBB": "complete right bundle branch block",
    "LBBB": "complete left bundle branch block",
    "SB": "sinus bradycardia",
    "ST": "sinus tachycardia",
    "AF": "atrial fibrillation",
}
NORMAL = "normal ECG"
COLUMNS = ["exam_id", "age", "is_male", *ABNORMALITIES, "patient_id", "normal_ecg", "trace_file"]

# The tables of a part, and the largest shape of `tracings`. A damaged file can claim any size; the published parts
# have 20,001 exams of 4,096 samples.
TABLES = ("exam_id", "tracings")
LARGEST_SHAPE = (2**20, 2**20, len(LEADS))


class Code15(ElmDatasetBuilder):
    """
    The exams in exams.csv, with their tracings from the HDF5 files (parts). Zeros before and after a tracing are
    removed.

    The last row of a part (exam 0) is not an exam, and exams.csv does not refer to it.
    """

    PRETTY_NAME = "CODE-15%"
    DESCRIPTION = (
        "CODE-15%: ECGs of 7.3 or 10.24 s at 400 Hz from the Telehealth Network of Minas Gerais, recorded 2010-2016. "
        "The zero padding of the shorter ECGs is removed, so they are too short for records of 10 s. Column `labels`: "
        'the abnormalities that are present, out of six, or "normal ECG". Conversations ask for the labels. An ECG '
        "without any label is not in a conversation, because its findings are unknown. Strata are the labels."
    )
    HOMEPAGE = "https://zenodo.org/records/4916206"
    LICENSE = "cc-by-4.0"
    CITATION = """@article{ribeiro2020automatic,
  title = {Automatic diagnosis of the 12-lead {ECG} using a deep neural network},
  author = {Ribeiro, Ant{\\^o}nio H. and Ribeiro, Manoel Horta and Paix{\\~a}o, Gabriela M. M. and Oliveira, Derick M. and Gomes, Paulo R. and Canazart, J{\\'e}ssica A. and Ferreira, Milton P. S. and Andersson, Carl R. and Macfarlane, Peter W. and Meira Jr., Wagner and Sch{\\"o}n, Thomas B. and Ribeiro, Antonio Luiz P.},
  journal = {Nature Communications},
  volume = {11},
  number = {1760},
  year = {2020},
  doi = {10.1038/s41467-020-15432-4}
}"""

    def list_recordings(self) -> Iterator[dict]:
        """List the rows of exams.csv, sorted by part, so that a process reads one part after the other."""
        table = self.source_folder("exams.csv") / "exams.csv"
        rows = (tuple(row[name] for name in COLUMNS) for row in read_table(table, COLUMNS))
        for values in sorted(rows, key=lambda row: (_number(row[-1]), row[-1])):
            row = dict(zip(COLUMNS, values))
            yield row | {"recording_id": row["exam_id"], "labels": _labels(row)}

    def read_recording(self, reference: dict) -> tuple[Recording, dict]:
        """Read the tracing of an exam, with age, sex and labels."""
        path = path_within(self.source_folder(), reference["trace_file"])
        age, sex = reference["age"], {"true": "male", "false": "female"}.get(reference["is_male"].lower())
        if age and not re.fullmatch(r"\d{1,3}(\.\d+)?", age):
            raise RecordingError(
                "unreadable metadata", f"exams.csv, exam_id {reference['exam_id']}: age {age!r} is not in years"
            )
        metadata = {"age": int(float(age)) if age else None, "sex": sex, "labels": reference["labels"]}
        name = f"{path}: exam {reference['exam_id']}"
        tracing = _tracing(path, reference["exam_id"])
        present = np.flatnonzero(tracing.any(axis=1))
        if not present.size:
            raise RecordingError("no usable lead", f"{name}: all samples are zero")
        # shorter tracings are padded with zeros on both sides
        signal = tracing[present[0] : present[-1] + 1]
        return make_recording(signal.T, SAMPLING_RATE, LEADS, name), metadata

    def list_conversations(self) -> Iterator[dict]:
        """List a conversation for each exam, which asks for its findings."""
        for row in self.distinct_references():
            stratum = "+".join(row["labels"]) or "none"
            yield findings_conversation(self.name, row["recording_id"], row["labels"], stratum=stratum)


def _number(file_name: str) -> int:
    """The number of a part: exams_part2.hdf5 is before exams_part10.hdf5."""
    return int((re.findall(r"\d+", file_name) or ["0"])[0][:9])


def _labels(row: dict) -> list[str]:
    found = [name for column, name in ABNORMALITIES.items() if row[column].lower() == "true"]
    return found or [NORMAL] * (row["normal_ecg"].lower() == "true")


def _tracing(path: Path, exam_id: str) -> np.ndarray:
    """Read the tracing `(samples, 12)` of an exam, float32 in mV. Only one row of the file is read."""
    tracings, rows = _open_part(path, os.getpid())
    row = rows.get(exam_id)
    if row is None:
        raise RecordingError(
            "missing exam", f"{path}: exam {exam_id} is missing or repeated, but exams.csv refers to it"
        )
    try:
        return tracings[row]
    except (OSError, RuntimeError) as error:
        raise RecordingError("unreadable file", f"{path}: cannot read row {row}, exam {exam_id} ({error})") from error


def _is_part(exams: object, tracings: object) -> bool:
    """Whether the tables of a part fit each other, and reading them takes little memory."""
    return (
        isinstance(exams, h5py.Dataset)
        and isinstance(tracings, h5py.Dataset)
        and tracings.ndim == 3
        and tracings.dtype.kind in "fiu"
        and all(size <= largest for size, largest in zip(tracings.shape, LARGEST_SHAPE))
        and tracings.shape[2] == len(LEADS)
        and exams.shape == tracings.shape[:1]
    )


@lru_cache(maxsize=1)
def _open_part(path: Path, process: int) -> tuple[h5py.Dataset, dict[str, int]]:
    """The tracings of a part and the row of each exam. Each process opens a part once."""
    if not path.is_file():
        raise RecordingError("missing file", f"{path}: no such file, but exams.csv refers to it")
    try:
        file = h5py.File(path, "r")
        _check_links(file, path)
        exams, tracings = file["exam_id"], file["tracings"]
        found = ", ".join(f"{name} {getattr(file[name], 'shape', 'that is no table')}" for name in TABLES)
        names = exams[:] if _is_part(exams, tracings) else None
    except (OSError, KeyError, RuntimeError) as error:
        raise RecordingError(
            "unreadable file", f"{path}: truncated, or not in the format of CODE-15% ({error})"
        ) from error
    if names is None:
        raise RecordingError(
            "unreadable file",
            f"{path}: {found}, expected numbers of the shapes (exams,) and (exams, samples, 12), with up to "
            f"{LARGEST_SHAPE[0]:,} exams and {LARGEST_SHAPE[1]:,} samples",
        )
    rows = {}
    for row, name in enumerate(names.tolist()):
        rows[str(name)] = None if str(name) in rows else row
    return tracings, rows


def _check_links(file: h5py.File, path: Path) -> None:
    """Raise an error if a table of the part is in another file, which would be read from wherever it is."""
    for name in TABLES:
        link = file.get(name, getlink=True)
        table = None if isinstance(link, h5py.ExternalLink) else file[name]
        if table is None or (isinstance(table, h5py.Dataset) and (table.external or table.is_virtual)):
            raise RecordingError(
                "path outside the source", f"{path}: its {name} refers to another file, which is not read"
            )
