"""MIMIC-IV-ECG (Gow et al. 2023): 800,035 ECGs of 161,352 patients with the statements of the electrocardiograph."""

from collections.abc import Iterator

from datasets import Value

from elm_hf.ecg.recording import Recording, RecordingError
from elm_hf.prepare.builder import ElmDatasetBuilder
from elm_hf.prepare.report_questions import report_conversation
from elm_hf.utils.files import read_table


STATEMENTS = [f"report_{number}" for number in range(18)]
MEASUREMENTS = ["rr_interval", "p_onset", "p_end", "qrs_onset", "qrs_end", "t_end", "p_axis", "qrs_axis", "t_axis"]
NOT_MEASURED = 29999
# Strata: the first of these words in the statements, and the summary of the electrocardiograph.
RHYTHMS = ("pace", "atrial fibrillation", "atrial flutter", "sinus tachycardia", "sinus bradycardia", "sinus")
SUMMARIES = ("otherwise normal ecg", "abnormal ecg", "borderline ecg", "normal ecg")


class MimicIvEcg(ElmDatasetBuilder):
    """
    The studies in record_list.csv, each with its row of machine_measurements.csv. The id of a recording is its
    study_id.

    Both tables are read in parallel. If they are in the same order, the memory does not depend on their length.
    """

    PRETTY_NAME = "MIMIC-IV-ECG"
    DESCRIPTION = (
        "MIMIC-IV-ECG 1.0: ECGs of 10 s at 500 Hz from Beth Israel Deaconess Medical Center, recorded 2008-2019. "
        "Column `report`: the statements printed by the electrocardiograph, joined with semicolons and not confirmed "
        "by a physician. The source does not contain age and sex. Conversations ask for the report and have the "
        "measurements of the electrocardiograph as columns (times in ms, axes in degrees; null if not measured). "
        "Strata are the rhythm and the summary of the electrocardiograph (normal, borderline, abnormal)."
    )
    HOMEPAGE = "https://physionet.org/content/mimic-iv-ecg/1.0/"
    LICENSE = "odbl"
    CITATION = """@misc{gow2023mimic,
  title = {{MIMIC-IV-ECG}: Diagnostic Electrocardiogram Matched Subset (version 1.0)},
  author = {Gow, Brian and Pollard, Tom and Nathanson, Larry A. and Johnson, Alistair and Moody, Benjamin and Fernandes, Chrystinne and Greenbaum, Nathaniel and Waks, Jonathan W. and Eslami, Parastou and Carbonati, Tanner and Chaudhari, Ashish and Herbst, Elizabeth and Moukheiber, Dana and Berkowitz, Seth and Mark, Roger and Horng, Steven},
  publisher = {PhysioNet},
  year = {2023},
  doi = {10.13026/4nqg-sb35}
}"""
    CONVERSATION_FEATURES = {name: Value("float32") for name in MEASUREMENTS}

    def list_recordings(self) -> Iterator[dict]:
        """List the rows of record_list.csv with their statements and measurements."""
        folder = self.source_folder("record_list.csv", "machine_measurements.csv")
        records = read_table(folder / "record_list.csv", ["subject_id", "study_id", "path"])
        columns = ["study_id", *STATEMENTS, *MEASUREMENTS]
        measurements = read_table(folder / "machine_measurements.csv", columns)
        waiting = {}
        for record in records:
            study = record["study_id"]
            while study not in waiting:
                row = next(measurements, None)
                if row is None:
                    break
                waiting[row["study_id"]] = [row[name] for name in columns[1:]]
            values = waiting.pop(study, [""] * len(columns[1:]))
            yield {
                "recording_id": study,
                "patient_id": record["subject_id"],
                "path": record["path"],
                # there may be empty columns between the statements
                "statements": [value.strip() for value in values[: len(STATEMENTS)] if value.strip()],
                "measurements": values[len(STATEMENTS) :],
            }

    def read_recording(self, reference: dict) -> tuple[Recording, dict]:
        """Read the record of a row, with its report."""
        if f"p{reference['patient_id']}" not in reference["path"].split("/"):
            raise RecordingError(
                "unreadable metadata",
                f"record_list.csv, study_id {reference['recording_id']}: path {reference['path']} does not belong to "
                f"subject_id {reference['patient_id']}",
            )
        return self.read_wfdb(reference["path"]), {"report": "; ".join(reference["statements"]) or None}

    def list_conversations(self) -> Iterator[dict]:
        """List a conversation for each row, which asks for its report."""
        for reference in self.distinct_references():
            report = "; ".join(reference["statements"])
            measured = {name: _measured(value) for name, value in zip(MEASUREMENTS, reference["measurements"])}
            stratum = _stratum(report.lower())
            yield report_conversation(self.name, reference["recording_id"], report, stratum=stratum, **measured)


def _measured(value: str) -> float | None:
    """A measurement, or None. The electrocardiograph writes 29999 if it could not measure a value."""
    try:
        number = float(value)
    except ValueError:
        return None
    return None if number == NOT_MEASURED else number


def _stratum(report: str) -> str:
    rhythm = next((word for word in RHYTHMS if word in report), "other rhythm")
    summary = next((words for words in SUMMARIES if words in report), "no summary")
    return f"{rhythm}: {summary}"
