"""Chapman-Shaoxing-Ningbo (Zheng et al. 2022): 45,152 ECGs of as many patients, labelled with SNOMED CT codes."""

from collections.abc import Iterator

from elm_hf.ecg.recording import Recording
from elm_hf.prepare.builder import ElmDatasetBuilder
from elm_hf.prepare.snomed import list_findings, read_labelled_recording


class Csn(ElmDatasetBuilder):
    """
    Every header in the nested folders of `WFDBRecords`; age, sex and codes stand in it.

    The authors describe one ECG per patient and give no patient ids: each recording is its own patient.
    """

    PRETTY_NAME = "CSN"
    DESCRIPTION = (
        "Chapman-Shaoxing-Ningbo, release 1.0.0: ECGs of 10 s recorded at 500 Hz in Shaoxing People's Hospital and Ningbo "
        "First Hospital. Column `labels`: the SNOMED CT codes in words, one name for a code whatever acronym the source "
        "has for it. The source describes one ECG per patient, so each recording counts as a patient of its own. "
        "Conversations ask for the list of findings; strata are the groups of findings."
    )
    HOMEPAGE = "https://physionet.org/content/ecg-arrhythmia/1.0.0/"
    LICENSE = "cc-by-4.0"
    CITATION = """@misc{zheng2022large,
  title = {A large scale 12-lead electrocardiogram database for arrhythmia study (version 1.0.0)},
  author = {Zheng, Jianwei and Guo, Hangyuan and Chu, Huimin},
  publisher = {PhysioNet},
  year = {2022},
  doi = {10.13026/wgex-er52}
}"""

    def list_recordings(self) -> Iterator[dict]:
        """The headers, by name; two of one name in different folders are an error later on."""
        folder = self.source_folder("WFDBRecords")
        for path in sorted((folder / "WFDBRecords").rglob("*.hea"), key=lambda path: (path.stem, path)):
            yield {"recording_id": path.stem, "patient_id": path.stem, "path": str(path.relative_to(folder))}

    def read_recording(self, reference: dict) -> tuple[Recording, dict]:
        """A record, and the age, sex and labels of its header."""
        return read_labelled_recording(self.source_folder() / reference["path"])

    def list_conversations(self) -> Iterator[dict]:
        """One conversation for each record, which asks for its findings."""
        return list_findings(self)
