"""ECG-Chat's first stage (Zhao et al. 2024): reports of MIMIC-IV-ECG, asked for in many words."""

from elm_hf.prepare.instruct import InstructBuilder


class PretrainMimic(InstructBuilder):
    """Entries of `pretrain_mimic.json`."""

    PRETTY_NAME = "ECG-Chat pre-training"
    DESCRIPTION = (
        "ECG-Chat's alignment data: a request for the report of an ECG of MIMIC-IV-ECG, and the report. Entries that repeat "
        "another one word by word are left out. Strata are what is asked for."
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
