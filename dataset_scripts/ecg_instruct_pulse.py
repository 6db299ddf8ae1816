"""ECGInstruct of PULSE (Liu et al. 2024): over a million entries about ECGs of PTB-XL, MIMIC-IV-ECG and CODE-15."""

from elm_hf.prepare.instruct import InstructBuilder


class EcgInstructPulse(InstructBuilder):
    """Entries of `ECGInstruct.json`. Their image paths refer to the recordings."""

    PRETTY_NAME = "ECGInstruct"
    DESCRIPTION = (
        "The instruction data of PULSE: questions about feature recognition, rhythm, morphology and reports, for ECGs "
        "of PTB-XL, MIMIC-IV-ECG, CODE-15 and CSN. The original questions are about images of ECGs; here, the word "
        "image and the image placeholders are replaced by ECG. Strata are the dataset of the ECG, the kind of the "
        "question, and the answer if it is yes or no."
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
