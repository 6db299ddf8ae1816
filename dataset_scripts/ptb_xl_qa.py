"""Questions from the statements and annotations of PTB-XL (Wagner et al. 2020), in the form of ECG-QA."""

from collections.abc import Iterator

from datasets import List, Value

from elm_hf.data.tables import load_records
from elm_hf.dataset_scripts.ptb_xl import (
    COLUMNS,
    NOISES,
    PtbXl,
    annotated_noise,
    is_uncertain,
    official_split,
    scp_codes,
)
from elm_hf.ecg.recording import RecordingError
from elm_hf.prepare.label_questions import label_conversations
from elm_hf.prepare.label_table import LabelledRecording, LabelTable, Topic
from elm_hf.utils.files import read_table


# The seven rhythms of which an ECG has one.
RHYTHMS = ("SR", "SBRAD", "STACH", "SARRH", "AFIB", "AFLT", "PACE")
SUPERCLASSES = {
    "MI": "myocardial infarction of any site",
    "STTC": "ST-T changes",
    "CD": "conduction disturbance",
    "HYP": "hypertrophy",
}
AXES = {
    "MID": "normal axis",
    "LAD": "left axis deviation",
    "ALAD": "extreme left axis deviation",
    "RAD": "right axis deviation",
    "ARAD": "extreme right axis deviation",
    "AXL": "horizontal axis",
    "AXR": "vertical axis",
}
STAGES = {
    "Stadium I": "stage I (acute)",
    "Stadium II": "stage II (subacute)",
    "Stadium II-III": "stage II to III (between subacute and old)",
    "Stadium III": "stage III (old)",
}
VENTRICULAR, SUPRAVENTRICULAR, ANY = "ventricular extrasystoles", "supraventricular extrasystoles", "extrasystoles"
EXTRA_SYSTOLES = {"PVC": VENTRICULAR, "PAC": SUPRAVENTRICULAR, "PRC(S)": ANY, "BIGU": ANY, "TRIGU": ANY}
PACEMAKER = "pacemaker"
# Topics that are unknown in ECGs without any diagnostic statement.
DIAGNOSTIC_TOPICS = frozenset({"normal", "superclass", "diagnostic"})
ANNOTATIONS = ("heart_axis", "infarction_stadium1", "infarction_stadium2", *NOISES, "extra_beats", "pacemaker")


class PtbXlQa(PtbXl):
    """
    Questions about the records of PTB-XL. The ECGs are read from the source, or copied from a build of `ptb_xl`
    (`records`).
    """

    PRETTY_NAME = "Questions from the labels of PTB-XL"
    DESCRIPTION = (
        "Questions with answers from the labels of PTB-XL 1.0.3, in the form of ECG-QA (Oh et al. 2023) and in English: "
        "they verify, choose or query superclasses, diagnostic, form and rhythm statements, heart axis, stage of "
        "infarction, noise, extrasystoles and pacemaker, and compare consecutive ECGs of a patient. A statement with a "
        "likelihood above 0 and below 50 is uncertain: no answer depends on it. For each finding, `yes` and `no` are "
        "equally frequent, so that the question does not give away the answer. Multiple answers are joined with commas. "
        "Strata are the question type and the first answer. The official split is `strat_fold` 1-8, 9 and 10."
    )
    CONVERSATION_FEATURES = {"attribute": List(Value("string"))}
    OPTIONS = ("source_rate", "questions_per_ecg", "questions_per_template")

    @property
    def record_source(self) -> str:
        """The recordings are those of PTB-XL."""
        return "ptb_xl"

    def notes(self) -> list[str]:
        """Return nothing: the conversations do not depend on the options."""
        return []

    def list_conversations(self) -> Iterator[dict]:
        """List the questions, template by template."""
        table = LabelTable(list(self._labelled_recordings()), self.topics())
        return label_conversations(self, self.record_source, table, ("previous ECG", "recent ECG"))

    def topics(self) -> list[Topic]:
        """Return the topics of the questions."""
        name_of, of_class = self.statement_names(), self.statements("diagnostic_class")
        is_form, is_rhythm = self.statements("form"), self.statements("rhythm")
        diagnostic = [name_of[code] for code in of_class if code != "NORM"]
        form = [name_of[code] for code in is_form if code not in of_class]
        others = [name_of[code] for code in is_rhythm if code not in RHYTHMS]
        return [
            Topic("normal", "superclass", 1, (name_of["NORM"],)),
            Topic("superclass", "superclass", 2, tuple(SUPERCLASSES.values())),
            Topic("diagnostic", "diagnostic", 3, tuple(diagnostic)),
            Topic("form", "form", 4, tuple(form)),
            Topic("rhythm", "rhythm", 5, tuple(name_of[code] for code in RHYTHMS), exclusive=True),
            Topic("arrhythmia", "rhythm", 6, tuple(others)),
            Topic("heart_axis", "heart_axis", 7, tuple(AXES.values()), exclusive=True),
            Topic("stage_of_infarction", "stage_of_infarction", 8, tuple(STAGES.values()), exclusive=True),
            Topic("noise", "noise", 9, tuple(NOISES.values())),
            Topic("extra_systole", "extra_systole", 10, (ANY,)),
            Topic("kind_of_extra_systole", "extra_systole", 11, (VENTRICULAR, SUPRAVENTRICULAR)),
            Topic("pacemaker", "pacemaker", 12, (PACEMAKER,)),
        ]

    def _labelled_recordings(self) -> Iterator[LabelledRecording]:
        """The labels of each row, in the order of the recording dates of a patient."""
        path = self.source_folder("ptbxl_database.csv") / "ptbxl_database.csv"
        next(read_table(path, [*COLUMNS, "recording_date", *ANNOTATIONS]), None)  # the columns must exist
        name_of, class_of = self.statement_names(), self.statements("diagnostic_class")
        built = self._built_recordings()
        for row in sorted(self.distinct_references(), key=lambda row: row["recording_date"]):
            if built is not None and row["recording_id"] not in built:
                continue  # questions about it would be excluded, and answers no longer balanced
            try:
                codes = scp_codes(row)
            except RecordingError:
                continue  # the recording is skipped later
            present, uncertain = set(), set()
            for code, likelihood in codes.items():
                found = uncertain if is_uncertain(likelihood) else present
                found.add(name_of.get(code, code))
                found |= {SUPERCLASSES[name] for name in SUPERCLASSES.keys() & {class_of.get(code)}}
            for annotated in (
                _axis(row),
                _stage(row),
                annotated_noise(row),
                _extra_systoles(row, codes),
                _pacemaker(row, codes),
            ):
                present |= annotated[0]
                uncertain |= annotated[1]
            unknown = set() if class_of.keys() & codes.keys() else {*DIAGNOSTIC_TOPICS}
            unknown |= set() if SUPERCLASSES["MI"] in present else {"stage_of_infarction"}
            yield LabelledRecording(
                row["recording_id"],
                row["patient_id"],
                frozenset(present),
                frozenset(uncertain),
                unknown=frozenset(unknown),
                split=official_split(row),
            )

    def _built_recordings(self) -> set[str] | None:
        """The recordings in `records`; None if recordings are read from the source."""
        if not self.config.records:
            return None
        columns = [load_records(path).select_columns(["source", "recording_id"])[:] for path in self.config.records]
        return {
            recording_id
            for table in columns
            for source, recording_id in zip(table["source"], table["recording_id"])
            if source == self.record_source
        }


def _axis(row: dict) -> tuple[set[str], set[str]]:
    return ({AXES[row["heart_axis"]]} if row["heart_axis"] in AXES else set()), set()


def _stage(row: dict) -> tuple[set[str], set[str]]:
    """The stage or stages, if all of them are known."""
    stages = {row["infarction_stadium1"], row["infarction_stadium2"]} - {""}
    return {STAGES[stage] for stage in stages if stages <= {*STAGES}}, set()


def _extra_systoles(row: dict, codes: dict[str, float]) -> tuple[set[str], set[str]]:
    """The kinds of extrasystoles in `extra_beats` (such as 1ES, SVES or VES1,alles) and in the statements."""
    annotated = row["extra_beats"].upper().strip(" ,")
    kinds = {EXTRA_SYSTOLES[code] for code in codes if code in EXTRA_SYSTOLES}
    present = kinds | ({SUPRAVENTRICULAR} if "SVES" in annotated else set())
    present |= {VENTRICULAR} if "VES" in annotated.replace("SVES", "") else set()
    if not annotated and not present:
        return set(), set()
    # an extrasystole of unknown origin may be of either kind
    uncertain = {VENTRICULAR, SUPRAVENTRICULAR} - present if not present - {ANY} or "?" in annotated else set()
    return ({ANY} | present, uncertain) if "?" not in annotated else (set(), {ANY} | uncertain | present)


def _pacemaker(row: dict, codes: dict[str, float]) -> tuple[set[str], set[str]]:
    annotated = row["pacemaker"].strip(" ,")
    if "PACE" in codes or annotated.startswith("ja"):
        return {PACEMAKER}, set()
    return set(), ({PACEMAKER} if annotated else set())
