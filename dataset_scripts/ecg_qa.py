"""ECG-QA (Oh et al. 2023): questions about one or two ECGs of PTB-XL or MIMIC-IV-ECG."""

from collections.abc import Iterator

from datasets import List, Value

from elm_hf.data.messages import ecg_messages
from elm_hf.prepare.builder import ElmDatasetBuilder
from elm_hf.prepare.instruct import entry_name, read_entries
from elm_hf.utils.errors import short


FOLDER_OF_SPLIT = {"train": "train", "validation": "valid", "test": "test"}
NUMBERS = ["template_id", "question_id", "sample_id"]
# `ecg_id` is a study of MIMIC-IV-ECG (from this number on) or an ECG of PTB-XL (up to 21,837)
FIRST_MIMIC_STUDY = 40_000_000


class EcgQa(ElmDatasetBuilder):
    """
    The source is a folder of ECG-QA, such as `ecgqa/ptbxl`, of which the paraphrased questions are used. For the
    original templates, pass their folder as the source: `ecgqa/ptbxl/template`.
    """

    PRETTY_NAME = "ECG-QA"
    DESCRIPTION = (
        "ECG-QA: questions that verify, choose or query findings of an ECG, and that compare two ECGs (the k-th ECG "
        "of a conversation is the k-th ECG of the question). Multiple answers are joined with commas in the order of "
        "the source. Strata are the question type and the first answer in alphabetical order. The official split is "
        "that of ECG-QA."
    )
    HOMEPAGE = "https://github.com/Jwoo5/ecg-qa"
    LICENSE = "cc-by-4.0"
    CITATION = """@inproceedings{oh2023ecgqa,
  title = {{ECG-QA}: A Comprehensive Question Answering Dataset Combined With Electrocardiogram},
  author = {Oh, Jungwoo and Lee, Gyubok and Bae, Seongsu and Kwon, Joon-myoung and Choi, Edward},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {36},
  year = {2023}
}"""
    CONVERSATION_FEATURES = {
        "question_id": Value("int32"),
        "sample_id": Value("int32"),
        "attribute": List(Value("string")),
    }

    def list_conversations(self) -> Iterator[dict]:
        """List a conversation for each entry of the JSON files. Damaged entries are excluded."""
        folder = self.source_folder()
        within = "paraphrased/" if (folder / "paraphrased").is_dir() else ""
        folder = folder / within
        if not any((folder / name).is_dir() for name in FOLDER_OF_SPLIT.values()):
            raise FileNotFoundError(
                f"{folder}: no folder train, valid or test; source (--source) must be a folder of ECG-QA, such as "
                "ecgqa/ptbxl"
            )
        for split, name in FOLDER_OF_SPLIT.items():
            seen = set()
            for path in sorted(
                self.files_in_source(f"{within}{name}/*.json"), key=lambda path: (len(path.name), path.name)
            ):
                for number, entry in read_entries(path, self.leave_out):
                    try:
                        conversation = _conversation(entry, split)
                    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
                        where = entry_name(path, number, entry)
                        self.leave_out("damaged entry", f"{where} is not in the format of ECG-QA ({short(error)})")
                        continue
                    if conversation["sample_id"] in seen:
                        self.leave_out(
                            "repeated id", f"{entry_name(path, number, entry)} repeats an earlier sample_id"
                        )
                        continue
                    seen.add(conversation["sample_id"])
                    yield conversation


def _conversation(entry: dict, split: str) -> dict:
    question, answers, ecg_ids = entry["question"], entry["answer"], entry["ecg_id"]
    if not isinstance(question, str) or not isinstance(answers, list):
        raise TypeError("question must be text and answer must be a list")
    if not all(isinstance(item, str) for item in answers):
        raise TypeError("the items of answer must be text")
    if len(ecg_ids) not in (1, 2):
        raise ValueError(f"{len(ecg_ids)} ECGs, expected one or two")
    if not all(isinstance(ecg_id, int) for ecg_id in ecg_ids):
        raise TypeError("the items of ecg_id must be whole numbers")
    return {
        # sample_id counts from 0 in each split
        "conversation_id": f"ecg_qa-{split}-{int(entry['sample_id'])}",
        "recording_ids": [str(ecg_id) for ecg_id in ecg_ids],
        "recording_sources": ["mimic_iv_ecg" if ecg_id >= FIRST_MIMIC_STUDY else "ptb_xl" for ecg_id in ecg_ids],
        "messages": ecg_messages(len(ecg_ids), question, ", ".join(answers)),
        **{field: int(entry[field]) for field in NUMBERS},
        "question_type": str(entry["question_type"]),
        "attribute_type": str(entry["attribute_type"]),
        "question": question,
        "answer": answers,
        "attribute": None if entry["attribute"] is None else [str(item) for item in entry["attribute"]],
        "stratum": f"{entry['question_type']}: {min(answers, default='')}",
        "split": split,
    }
