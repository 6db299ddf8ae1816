"""Chapman-Shaoxing-Ningbo (Zheng et al. 2022): 45,152 ECGs of 45,152 patients, labelled with SNOMED CT codes."""

from collections.abc import Iterator

from elm_hf.ecg.recording import Recording
from elm_hf.prepare.builder import ElmDatasetBuilder
from elm_hf.prepare.snomed import list_findings, read_labelled_recording


class Csn(ElmDatasetBuilder):
    """
    All headers in the nested folders of `WFDBRecords`, which contain age, sex and codes.

    The authors describe one ECG per patient and give no patient ids. Each recording counts as a separate patient.
    """

    PRETTY_NAME = "CSN"
    DESCRIPTION = (
        "Chapman-Shaoxing-Ningbo, release 1.0.0: ECGs of 10 s recorded at 500 Hz in Shaoxing People's Hospital and "
        "Ningbo First Hospital. Column `labels`: the names of the SNOMED CT codes, which do not depend on the "
        "acronyms of the source. The source describes one ECG per patient, so each recording counts as a separate "
        "patient. Conversations ask for the list of findings. Strata are the groups of findings."
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
        """List the headers, sorted by name. A name in two folders is reported as a repeated recording."""
        folder = self.source_folder("WFDBRecords")
        for path in sorted((folder / "WFDBRecords").rglob("*.hea"), key=lambda path: (path.stem, path)):
            yield {"recording_id": path.stem, "patient_id": path.stem, "path": str(path.relative_to(folder))}

    def read_recording(self, reference: dict) -> tuple[Recording, dict]:
        """Read a record, with age, sex and labels from its header."""
        return read_labelled_recording(self.source_folder(), reference["path"])

    def list_conversations(self) -> Iterator[dict]:
        """List a conversation for each record, which asks for its findings."""
        return list_findings(self)
