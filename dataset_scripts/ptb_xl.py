"""PTB-XL (Wagner et al. 2020): 21,799 ECGs of 18,869 patients, and their reports as conversations."""

import ast
import zlib
from collections.abc import Iterator
from pathlib import Path

from elm_hf.dataset_builder import ElmDatasetBuilder, ecg_messages, read_table
from elm_hf.recordings import Recording, RecordingError, read_recording


COLUMNS = ["ecg_id", "patient_id", "age", "sex", "report", "scp_codes", "strat_fold", "filename_hr"]
SEX = {"0": "male", "1": "female"}
SPLIT_OF_FOLD = {"9": "validation", "10": "test"} | {str(fold): "train" for fold in range(1, 9)}
QUESTIONS = (
    "Write the report of this ECG.",
    "What does this ECG show? Answer as a cardiologist's report.",
    "Please read this 12-lead ECG and report it.",
    "Give the written interpretation of this ECG.",
)


class PtbXl(ElmDatasetBuilder):
    """Records from `records500` (500 Hz); one conversation for each, whose answer is the record's own report."""

    PRETTY_NAME = "PTB-XL"
    DESCRIPTION = (
        "PTB-XL 1.0.3: ECGs of 10 s from the Physikalisch-Technische Bundesanstalt, recorded 1989-1996, with reports in "
        "German or English and SCP-ECG statements (column `labels`: every statement listed, whatever its likelihood). "
        "An `age` of 90 means 90 or older. Conversations ask for the report of an ECG; strata are the diagnostic "
        "superclasses of its statements. The official split is `strat_fold` 1-8, 9 and 10."
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
        """The rows of ptbxl_database.csv."""
        for row in read_table(self.source_folder("ptbxl_database.csv") / "ptbxl_database.csv", COLUMNS):
            # the table writes whole numbers as floats; patient 5028.0 is patient 5028
            yield row | {"recording_id": row["ecg_id"], "patient_id": row["patient_id"].removesuffix(".0")}

    def read_recording(self, reference: dict) -> tuple[Recording, dict]:
        """The 500 Hz signal of a row, its age, sex, report and SCP codes."""
        metadata = {
            "age": _age(reference),
            "sex": SEX.get(reference["sex"].removesuffix(".0")),
            "report": reference["report"].strip() or None,
            "labels": _scp_codes(reference),
        }
        return read_recording(self.source_folder() / reference["filename_hr"]), metadata

    def list_conversations(self) -> Iterator[dict]:
        """One conversation for each row, which asks for its report."""
        superclass_of = _superclasses(self.source_folder("scp_statements.csv") / "scp_statements.csv")
        for row in self.list_recordings():
            try:
                superclasses = {superclass_of[code] for code in _scp_codes(row) if code in superclass_of}
            except RecordingError:
                superclasses = set()  # the recording will be skipped and this conversation left out with it
            question = QUESTIONS[zlib.crc32(row["recording_id"].encode()) % len(QUESTIONS)]
            report = row["report"].strip()
            yield {
                "conversation_id": f"ptb_xl-report-{row['recording_id']}",
                "recording_ids": [row["recording_id"]],
                "messages": ecg_messages(1, question, report),
                "question_type": "report",
                "question": question,
                "answer": [report] if report else [],
                "stratum": "+".join(sorted(superclasses)) or "none",
                "split": SPLIT_OF_FOLD.get(row["strat_fold"].removesuffix(".0")),
            }


def _age(row: dict) -> int | None:
    """Whole years. The table has 300 for patients over 89, to protect them; 90 stands for that here."""
    if not row["age"]:
        return None
    try:
        return min(int(float(row["age"])), 90)
    except ValueError as error:
        raise _unreadable(row, "age") from error


def _scp_codes(row: dict) -> list[str]:
    """The statements of a row; a likelihood of 0.0 means that none was given, so the statement counts."""
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


def _superclasses(path: Path) -> dict[str, str]:
    """The diagnostic superclass (NORM, MI, STTC, CD, HYP) of each diagnostic SCP statement."""
    rows = read_table(path, ["", "diagnostic_class"])
    return {row[""]: row["diagnostic_class"] for row in rows if row["diagnostic_class"]}
