"""PTB-XL (Wagner et al. 2020): 21,799 ECGs of 18,869 patients, and their reports as conversations."""

import ast
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from datasets import Value

from elm_hf.ecg.recording import Recording, RecordingError
from elm_hf.prepare.builder import ElmDatasetBuilder
from elm_hf.prepare.report_questions import findings_conversation, report_conversation
from elm_hf.utils.files import read_table
from elm_hf.utils.languages import ENGLISH, language_of
from elm_hf.utils.translations import read_translations


COLUMNS = ["ecg_id", "patient_id", "age", "sex", "report", "scp_codes", "strat_fold"]
# column with the file of a recording, by sampling rate in Hz
FILE_COLUMNS = {500: "filename_hr", 100: "filename_lr"}
SEX = {"0": "male", "1": "female"}
# Names of statements whose description in scp_statements.csv is misspelt or is not the name of a finding.
NAMES = {
    "WPW": "Wolff-Parkinson-White syndrome",
    "IVCD": "non-specific intraventricular conduction disturbance",
    "EL": "electrolyte disturbance or drug effect",
    "ISC_": "non-specific ischemia",
    "ISCAN": "anterior ischemia",
    "ISCAS": "anteroseptal ischemia",
    "ISCAL": "anterolateral ischemia",
    "ISCLA": "lateral ischemia",
    "ISCIN": "inferior ischemia",
    "ISCIL": "inferolateral ischemia",
    "BIGU": "bigeminal pattern",
    "TRIGU": "trigeminal pattern",
}
# columns that annotate noise in some leads -> the kind of noise
NOISES = {
    "baseline_drift": "baseline drift",
    "static_noise": "static noise",
    "burst_noise": "burst noise",
    "electrodes_problems": "electrode problems",
}
# A likelihood in percent below this, other than 0, makes a statement uncertain.
CERTAIN = 50
SPLIT_OF_FOLD = {"9": "validation", "10": "test"} | {str(fold): "train" for fold in range(1, 9)}


class PtbXl(ElmDatasetBuilder):
    """
    The records in `records500` (500 Hz) or, with `source_rate` 100, in `records100`. Each has one conversation, whose
    answer is the report, or the findings if there is no report in English.
    """

    PRETTY_NAME = "PTB-XL"
    DESCRIPTION = (
        "PTB-XL 1.0.3: ECGs of 10 s from the Physikalisch-Technische Bundesanstalt, recorded 1989-1996, with reports "
        "in German, English or Swedish (column `report`) and SCP-ECG statements (column `labels`: the names of all listed "
        "statements, regardless of their likelihood). An `age` of 90 means that the source has 300, which stands for "
        "patients over 89 and, since release 1.0.2, also for 89 ECGs of unknown age, which cannot be told apart. "
        "Strata are the diagnostic superclasses of its statements. The official split is `strat_fold` 1-8, 9 and "
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

    OPTIONS = ("source_rate", "reports", "translations")
    # `noise` lists the annotated kinds. Scores are reported by these columns.
    RECORD_FEATURES = {name: Value("string") for name in ("device", "site", "noise")}

    def notes(self) -> list[str]:
        """Return the language of the reports in the conversations."""
        if self.config.reports == "original":
            return ["Conversations ask for the report of an ECG, in the language of the report: mostly German."]
        translated = " or translated into English" if self.config.translations else ""
        return [
            f"Conversations ask for the report of an ECG if it is in English{translated}, and else for the list of "
            "findings, which are the names of its statements with a likelihood of 50 or more, or of 0 (not given)."
        ]

    def record_notes(self) -> list[str]:
        """Return the limit of the files with 100 Hz."""
        if self.file_column() == FILE_COLUMNS[500]:
            return []
        return [
            "The signals are from the files of PTB-XL with 100 Hz. **They contain nothing above 50 Hz**, whatever the "
            "sampling rate of the records, so that pacemaker spikes, notches and fast deflections are blunted."
        ]

    def file_column(self) -> str:
        """
        Return the column with the files to read.

        Raises:
            ValueError: there are no files of this sampling rate.
        """
        rate = self.config.source_rate or 500
        if rate not in FILE_COLUMNS:
            raise ValueError(
                f"source_rate (--source-rate) is {rate}, but {self.PRETTY_NAME} has files of 500 or 100 Hz"
            )
        return FILE_COLUMNS[rate]

    def list_recordings(self) -> Iterator[dict]:
        """List the rows of ptbxl_database.csv."""
        columns = [*COLUMNS, self.file_column()]
        for row in read_table(self.source_folder("ptbxl_database.csv") / "ptbxl_database.csv", columns):
            # the table contains integers as floats: patient 5028.0 is patient 5028
            yield row | {"recording_id": row["ecg_id"], "patient_id": row["patient_id"].removesuffix(".0")}

    def read_recording(self, reference: dict) -> tuple[Recording, dict]:
        """Read the signal of a row, with age, sex, report, SCP-ECG statements, electrocardiograph, site and noise."""
        name_of = self.statement_names()
        metadata = {
            "age": _age(reference),
            "sex": SEX.get(reference["sex"].removesuffix(".0")),
            "report": reference["report"].strip() or None,
            "labels": [name_of.get(code, code) for code in scp_codes(reference)],
            "device": " ".join(reference.get("device", "").split()) or None,
            "site": reference.get("site", "").removesuffix(".0") or None,
            "noise": ", ".join(sorted(annotated_noise(reference)[0])) or None,
        }
        return self.read_wfdb(reference[self.file_column()]), metadata

    def list_conversations(self) -> Iterator[dict]:
        """List a conversation for each row, which asks for its report or its findings."""
        superclass_of, name_of = self.statements("diagnostic_class"), self.statement_names()
        english = self._english_reports()
        for row in self.distinct_references():
            try:
                codes = scp_codes(row)
            except RecordingError:
                codes = {}  # the recording is skipped later, and this conversation is excluded
            columns = {
                "stratum": "+".join(sorted({superclass_of[code] for code in codes if code in superclass_of}))
                or "none",
                "split": official_split(row),
            }
            report = english(row["report"].strip())
            if report is not None:
                yield report_conversation(self.name, row["recording_id"], report, **columns)
            else:
                findings = [name_of.get(code, code) for code in codes if not is_uncertain(codes[code])]
                yield findings_conversation(self.name, row["recording_id"], findings, **columns)

    def statement_names(self) -> dict[str, str]:
        """Return the names of the SCP-ECG statements."""
        return self.statements("description") | NAMES

    def statements(self, column: str) -> dict[str, str]:
        """Return the non-empty values of a column of scp_statements.csv, by SCP-ECG statement."""
        return _statements(self.source_folder("scp_statements.csv") / "scp_statements.csv", column)

    def _english_reports(self) -> Callable[[str], str | None]:
        """A function that returns a report as conversations use it; None if there is none in English."""
        reports, path = self.config.reports, self.config.translations
        if reports not in (None, "english", "original"):
            raise ValueError(f"reports (--reports) is {reports!r}; expected english or original")
        if reports == "original":
            if path:
                raise ValueError(
                    "reports in their own language (--reports original) need no translations (--translations)"
                )
            return lambda report: report
        translated = {} if path is None else read_translations(path)

        def english(report: str) -> str | None:
            if report in translated:
                return translated[report]["translation"]
            return report if language_of(report) == ENGLISH else None

        return english


def official_split(row: dict) -> str | None:
    """Return the split of a row according to its `strat_fold`."""
    return SPLIT_OF_FOLD.get(row["strat_fold"].removesuffix(".0"))


def is_uncertain(likelihood: float) -> bool:
    """Return whether a statement of this likelihood is uncertain. A likelihood of 0 means that none is given."""
    return 0 < likelihood < CERTAIN


def annotated_noise(row: dict) -> tuple[set[str], set[str]]:
    """
    Return the kinds of noise that are annotated in any lead of a row, and those whose annotation has a question mark, which
    are uncertain.
    """
    annotated = {name: row.get(column, "").strip(" ,") for column, name in NOISES.items()}
    uncertain = {name for name, text in annotated.items() if "?" in text}
    return {name for name, text in annotated.items() if text} - uncertain, uncertain


def _age(row: dict) -> int | None:
    """
    Age in whole years. The age 300 in the table is replaced by 90: it stands for patients over 89 and, since release
    1.0.2, for some patients whose age is missing in earlier releases. An age that is missing in the table is None.
    """
    if not row["age"]:
        return None
    try:
        return min(int(float(row["age"])), 90)
    except ValueError as error:
        raise _unreadable(row, "age") from error


def scp_codes(row: dict) -> dict[str, float]:
    """Return the statements of a row with their likelihoods in percent. A likelihood of 0 means that none is given."""
    try:
        codes = ast.literal_eval(row["scp_codes"])
    except (ValueError, SyntaxError) as error:
        raise _unreadable(row, "scp_codes") from error
    if not isinstance(codes, dict):
        raise _unreadable(row, "scp_codes")
    return codes


def _unreadable(row: dict, column: str) -> RecordingError:
    message = f"ptbxl_database.csv, ecg_id {row['ecg_id']}: cannot read {column} {row[column]!r}"
    return RecordingError("unreadable metadata", message)


@cache
def _statements(path: Path, column: str) -> dict[str, str]:
    """The non-empty values of a column of scp_statements.csv, by SCP-ECG statement."""
    return {row[""]: row[column].strip() for row in read_table(path, ["", column]) if row[column].strip()}
