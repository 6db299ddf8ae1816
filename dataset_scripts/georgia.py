"""Georgia (Perez Alday et al. 2020): 10,344 ECGs from the southeastern United States, labelled with SNOMED CT codes."""

import re
from collections.abc import Iterator

from elm_hf.ecg.recording import Recording
from elm_hf.prepare.builder import ElmDatasetBuilder
from elm_hf.prepare.snomed import list_findings, list_headers, read_labelled_recording


# E00001 ... ; other sources of the Challenges may be in the same folder
RECORD_NAME = re.compile(r"E\d{5}")


class Georgia(ElmDatasetBuilder):
    """
    All headers with the name of a Georgia record, in any folder (`georgia/g1` ... `g11`).

    The source has no patient ids. Each recording counts as a separate patient, which cannot be verified.
    """

    PRETTY_NAME = "Georgia 12-lead ECG Challenge Database"
    DESCRIPTION = (
        "The Georgia 12-lead ECG Challenge Database of Emory University as published in the PhysioNet/CinC Challenges "
        "2020 and 2021: ECGs of 5 or 10 s at 500 Hz. Column `labels`: the names of the SNOMED CT codes. **The source "
        "has no patient ids**: each recording counts as a separate patient, so a patient with several recordings may "
        "be in train and in test of a fold. Conversations ask for the list of findings. Strata are the groups of "
        "findings."
    )
    HOMEPAGE = "https://physionet.org/content/challenge-2021/1.0.3/"
    LICENSE = "cc-by-4.0"
    CITATION = """@article{perezalday2020classification,
  title = {Classification of 12-lead {ECGs}: the {PhysioNet}/{Computing} in {Cardiology} {Challenge} 2020},
  author = {Perez Alday, Erick A. and Gu, Annie and Shah, Amit J. and Robichaux, Chad and Wong, An-Kwok Ian and Liu, Chengyu and Liu, Feifei and Rad, Ali Bahrami and Elola, Andoni and Seyedi, Salman and Li, Qiao and Sharma, Ashish and Clifford, Gari D. and Reyna, Matthew A.},
  journal = {Physiological Measurement},
  volume = {41},
  number = {12},
  pages = {124003},
  year = {2020},
  doi = {10.1088/1361-6579/abc960}
}"""

    def list_recordings(self) -> Iterator[dict]:
        """List the headers, sorted by name."""
        return list_headers(self.source_folder(), RECORD_NAME)

    def read_recording(self, reference: dict) -> tuple[Recording, dict]:
        """Read a record, with age, sex and labels from its header."""
        return read_labelled_recording(self.source_folder(), reference["path"])

    def list_conversations(self) -> Iterator[dict]:
        """List a conversation for each record, which asks for its findings."""
        return list_findings(self)
