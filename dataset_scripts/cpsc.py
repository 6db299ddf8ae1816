"""CPSC 2018 and its extra records (Liu et al. 2018) in the format of the PhysioNet/CinC Challenges 2020 and 2021."""

import re
from collections.abc import Iterator

from elm_hf.ecg.recording import Recording
from elm_hf.prepare.builder import ElmDatasetBuilder
from elm_hf.prepare.snomed import list_findings, list_headers, read_labelled_recording


# A0001 ... of cpsc_2018, Q0001 ... of cpsc_2018_extra; other sources of the Challenges may be in the same folder
RECORD_NAME = re.compile(r"[AQ]\d{4}")


class Cpsc(ElmDatasetBuilder):
    """
    All headers with the name of a CPSC record, in any folder (`cpsc_2018/g1` ... `g7`, `cpsc_2018_extra/g1` ...).

    The source has no patient ids. Each recording counts as a separate patient, which cannot be verified.
    """

    PRETTY_NAME = "CPSC 2018"
    DESCRIPTION = (
        "The China Physiological Signal Challenge 2018 and its unused records (CPSC-Extra) as published in the "
        "PhysioNet/CinC Challenges: ECGs of 6 to 144 s at 500 Hz from 11 hospitals, cut into records of equal length. "
        "Column `labels`: the names of the SNOMED CT codes of the whole recording. **The source has no patient ids**: "
        "each recording counts as a separate patient, so a patient with several recordings may be in train and in "
        "test of a fold. Conversations ask for the list of findings. Strata are the groups of findings."
    )
    HOMEPAGE = "https://physionet.org/content/challenge-2021/1.0.3/"
    LICENSE = "cc-by-4.0"
    CITATION = """@article{liu2018open,
  title = {An Open Access Database for Evaluating the Algorithms of Electrocardiogram Rhythm and Morphology Abnormality Detection},
  author = {Liu, Feifei and Liu, Chengyu and Zhao, Lina and Zhang, Xiangyu and Wu, Xiaoling and Xu, Xiaoyan and Liu, Yulin and Ma, Caiyun and Wei, Shoushui and He, Zhiqiang and Li, Jianqing and Ng, Eddie Yin Kwee},
  journal = {Journal of Medical Imaging and Health Informatics},
  volume = {8},
  number = {7},
  pages = {1368--1373},
  year = {2018},
  doi = {10.1166/jmihi.2018.2442}
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
