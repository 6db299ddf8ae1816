"""Alignment data of ECG-Chat (Zhao et al. 2024): requests in many wordings for the reports of MIMIC-IV-ECG."""

from elm_hf.prepare.instruct import InstructBuilder


class PretrainMimic(InstructBuilder):
    """Entries of `pretrain_mimic.json`."""

    PRETTY_NAME = "ECG-Chat pre-training"
    DESCRIPTION = (
        "The alignment data of ECG-Chat: a request for the report of an ECG of MIMIC-IV-ECG, and the report. Exact "
        "repetitions of an entry are excluded. Strata are the kind of the question, and the answer if it is yes or no."
    )
    HOMEPAGE = "https://github.com/YubaoZhao/ECG-Chat"
    LICENSE = "unknown"
    CITATION = """@article{zhao2024ecgchat,
  title = {{ECG-Chat}: A Large {ECG}-Language Model for Cardiac Disease Diagnosis},
  author = {Zhao, Yubao and Kang, Jiaju and Zhang, Tian and Han, Puyu and Chen, Tong},
  journal = {arXiv preprint arXiv:2408.08849},
  year = {2024}
}"""
    FILES = {"pretrain_mimic.json": None}
    ECG_FIELD = "ecg"
