"""PULSE's instructions (Liu et al. 2024): over a million entries about ECGs of PTB-XL, MIMIC-IV-ECG and CODE-15."""

from elm_hf.prepare.instruct import InstructBuilder


class EcgInstructPulse(InstructBuilder):
    """Entries of `ECGInstruct.json`, whose pictures stand for the recordings that they were drawn from."""

    PRETTY_NAME = "ECGInstruct"
    DESCRIPTION = (
        "PULSE's instruction data: feature recognition, rhythm, morphology and reports, as questions about pictures of ECGs "
        "of PTB-XL, MIMIC-IV-ECG, CODE-15 and CSN; here about the ECGs themselves, so that the words image and picture's "
        "placeholder became ECG. Strata are the dataset of the ECG, the kind of the question, and the answer where it is "
        "yes or no."
    )
    HOMEPAGE = "https://huggingface.co/datasets/PULSE-ECG/ECGInstruct"
    LICENSE = "unknown"
    CITATION = """@article{liu2024pulse,
  title = {Teach Multimodal {LLMs} to Comprehend Electrocardiographic Images},
  author = {Liu, Ruoqi and Bai, Yuelin and Yue, Xiang and Zhang, Ping},
  journal = {arXiv preprint arXiv:2410.19008},
  year = {2024}
}"""
    FILES = {"ECGInstruct.json": None}
    ECG_FIELD = "image"
