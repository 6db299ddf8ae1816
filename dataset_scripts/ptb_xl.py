"""PTB-XL (Wagner et al. 2020): 21,799 ECGs of 18,869 patients, and their reports as conversations."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from elm_hf.ecg.recording import Recording, RecordingError
from elm_hf.prepare.builder import ElmDatasetBuilder
from elm_hf.prepare.report_questions import report_conversation
from elm_hf.utils.files import read_table


COLUMNS = ["ecg_id", "patient_id", "age", "sex", "report", "scp_codes", "strat_fold", "filename_hr"]
SEX = {"0": "male", "1": "female"}
SPLIT_OF_FOLD = {"9": "validation", "10": "test"} | {str(fold): "train" for fold in range(1, 9)}


class PtbXl(ElmDatasetBuilder):
    """The records in `records500` (500 Hz). Each has one conversation, whose answer is the report."""

    PRETTY_NAME = "PTB-XL"
    DESCRIPTION = (
        "PTB-XL 1.0.3: ECGs of 10 s from the Physikalisch-Technische Bundesanstalt, recorded 1989-1996, with reports "
        "in German or English and SCP-ECG statements (column `labels`: the descriptions of all listed statements, "
        "regardless of their likelihood). An `age` of 90 means 90 or older. Conversations ask for the report of an "
        "ECG. Strata are the diagnostic superclasses of its statements. The official split is `strat_fold` 1-8, 9 and "
        "10."
    )
    HOMEPAGE = "https://physionet.org/content/ptb-xl/1.0.3/"
    LICENSE = "cc-by-4.0"
    CITATION = """@article{wagner2020ptbxl,
  title = {{PTB-XL}, a large publicly available electrocardiography dataset},
  author = {Wagner, Patrick and Strodthoff, Nils and Bousseljot, Ralf-Dieter and Kreiseler, Dieter and Lunze, Fatima I. and Samek, Wojciech and Schaeffter, Tobias},
  journal = {Scientific Data},
  volume = {7},
  number = {154},
  year = {2020},
  doi = {10.1038/s41597-020-0495-6}
}"""

    def list_recordings(self) -> Iterator[dict]:
        """List the rows of ptbxl_database.csv."""
        for row in read_table(self.source_folder("ptbxl_database.csv") / "ptbxl_database.csv", COLUMNS):
            # the table contains integers as floats: patient 5028.0 is patient 5028
            yield row | {"recording_id": row["ecg_id"], "patient_id": row["patient_id"].removesuffix(".0")}

    def read_recording(self, reference: dict) -> tuple[Recording, dict]:
        """Read the 500 Hz signal of a row, with age, sex, report and SCP-ECG statements."""
        description_of = _statements(self.source_folder("scp_statements.csv") / "scp_statements.csv", "description")
        metadata = {
            "age": _age(reference),
            "sex": SEX.get(reference["sex"].removesuffix(".0")),
            "report": reference["report"].strip() or None,
            "labels": [description_of.get(code, code) for code in _scp_codes(reference)],
        }
        return self.read_wfdb(reference["filename_hr"]), metadata

    def list_conversations(self) -> Iterator[dict]:
        """List a conversation for each row, which asks for its report."""
        superclass_of = _statements(
            self.source_folder("scp_statements.csv") / "scp_statements.csv", "diagnostic_class"
        )
        for row in self.distinct_references():
            try:
                superclasses = {superclass_of[code] for code in _scp_codes(row) if code in superclass_of}
            except RecordingError:
                superclasses = set()  # the recording is skipped later, and this conversation is excluded
            yield report_conversation(
                self.name,
                row["recording_id"],
                row["report"].strip(),
                stratum="+".join(sorted(superclasses)) or "none",
                split=SPLIT_OF_FOLD.get(row["strat_fold"].removesuffix(".0")),
            )


def _age(row: dict) -> int | None:
    """Age in whole years. Patients over 89 have age 300 in the table, for privacy; it is replaced by 90."""
    if not row["age"]:
        return None
    try:
        return min(int(float(row["age"])), 90)
    except ValueError as error:
        raise _unreadable(row, "age") from error


def _scp_codes(row: dict) -> list[str]:
    """The statements of a row. A likelihood of 0.0 means that it is unknown, so all statements are used."""
    try:
        codes = ast.literal_eval(row["scp_codes"])
    except (ValueError, SyntaxError) as error:
        raise _unreadable(row, "scp_codes") from error
    if not isinstance(codes, dict):
        raise _unreadable(row, "scp_codes")
    return list(codes)


def _unreadable(row: dict, column: str) -> RecordingError:
    message = f"ptbxl_database.csv, ecg_id {row['ecg_id']}: cannot read {column} {row[column]!r}"
    return RecordingError("unreadable metadata", message)


@cache
def _statements(path: Path, column: str) -> dict[str, str]:
    """The non-empty values of a column of scp_statements.csv, by SCP-ECG statement."""
    return {row[""]: row[column].strip() for row in read_table(path, ["", column]) if row[column].strip()}
