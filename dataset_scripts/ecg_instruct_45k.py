"""ECG-Instruct-45k, the instruction data of ECG-Chat (Zhao et al. 2024): dialogues about ECGs of MIMIC-IV-ECG."""

from elm_hf.dataset_scripts import pretrain_mimic
from elm_hf.prepare.instruct import InstructBuilder


class EcgInstruct_45k(InstructBuilder):
    """Entries of `ecg_instruct_45k.json`; all turns are kept."""

    PRETTY_NAME = "ECG-Instruct-45k"
    DESCRIPTION = (
        "The instruction data of ECG-Chat: questions and dialogues of several turns about ECGs of MIMIC-IV-ECG. "
        "`question` and `answer` are those of the last turn. Strata are the kind of the question, and the answer if "
        "it is yes or no."
    )
    HOMEPAGE = pretrain_mimic.PretrainMimic.HOMEPAGE
    LICENSE = pretrain_mimic.PretrainMimic.LICENSE
    CITATION = pretrain_mimic.PretrainMimic.CITATION
    FILES = {"ecg_instruct_45k.json": None}
    ECG_FIELD = "ecg"
