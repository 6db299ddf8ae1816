"""ECG-Grounding, the grounded interpretations of GEM (Lan et al. 2025) of ECGs of MIMIC-IV-ECG, PTB-XL and CODE-15."""

from elm_hf.prepare.instruct import InstructBuilder


class EcgGrounding(InstructBuilder):
    """Entries of all training and test files that exist. One of the training files is part of the other."""

    PRETTY_NAME = "ECG-Grounding"
    DESCRIPTION = (
        "The instruction data of GEM: interpretations of ECGs with the measurements that support them, and questions "
        "of PULSE. Strata are the dataset of the ECG, the kind of the question, and the answer if it is yes or no. "
        "The official split is that of the published files."
    )
    HOMEPAGE = "https://huggingface.co/datasets/LANSG/ECG-Grounding"
    LICENSE = "unknown"
    CITATION = """@misc{lan2025gem,
  title = {{GEM}: Empowering {MLLM} for Grounded {ECG} Understanding with Time Series and Images},
  author = {Lan, Xiang and Wu, Feng and He, Kai and Zhao, Qinghao and Hong, Shenda and Feng, Mengling},
  year = {2025},
  eprint = {2503.06073},
  archivePrefix = {arXiv}
}"""
    FILES = {
        "ECG_Grounding_30k.json": "train",
        "grounding_train_30k.json": "train",
        "ecg-grounding-test.json": "test",
        "ecg-grounding-test-mimiciv.json": "test",
        "ecg-grounding-test-ptbxl.json": "test",
    }
    ECG_FIELD = "ecg"
