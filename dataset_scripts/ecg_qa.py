"""ECG-QA (Oh et al. 2023): questions about one ECG or two of PTB-XL or MIMIC-IV-ECG, mapped on records built before."""

import json
from collections.abc import Iterator
from pathlib import Path

from datasets import List, Value

from elm_hf.dataset_builder import ElmDatasetBuilder, ecg_messages


FOLDER_OF_SPLIT = {"train": "train", "validation": "valid", "test": "test"}
FIELDS = ["template_id", "question_id", "sample_id", "question_type", "attribute_type"]


class EcgQa(ElmDatasetBuilder):
    """
    The source is one of ECG-QA's folders, such as `ecgqa/ptbxl`; the paraphrased questions are taken. For the templates
    they come from, name the folder of one wording as the source: `ecgqa/ptbxl/template`.
    """

    PRETTY_NAME = "ECG-QA"
    DESCRIPTION = (
        "ECG-QA: questions to verify, choose or query findings of an ECG, and to compare two ECGs (the k-th ECG of a "
        "conversation is the k-th of the question). Several answers are joined with commas in the order of the source. "
        "Strata are the question type and the first answer in alphabetical order. The official split is ECG-QA's own."
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
        """One conversation for each entry of the source's JSON files."""
        folder = self.source_folder()
        if (folder / "paraphrased").is_dir():
            folder = folder / "paraphrased"
        if not any((folder / name).is_dir() for name in FOLDER_OF_SPLIT.values()):
            raise FileNotFoundError(
                f"{folder}: no folder train, valid or test; source (--source) is to be a folder of ECG-QA"
            )
        for split, name in FOLDER_OF_SPLIT.items():
            for path in sorted((folder / name).glob("*.json"), key=lambda path: (len(path.name), path.name)):
                for number, entry in enumerate(_read_json_list(path)):
                    try:
                        yield _conversation(entry, split)
                    except (KeyError, TypeError) as error:
                        raise ValueError(f"{path}: entry {number} is not as in ECG-QA ({error!r})") from error


def _read_json_list(path: Path) -> list:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(entries, list):
        raise ValueError(f"{path}: expected a list of entries, found {type(entries).__name__}")
    return entries


def _conversation(entry: dict, split: str) -> dict:
    answer = ", ".join(entry["answer"])
    return {
        # sample_id counts from 0 in each split
        "conversation_id": f"ecg_qa-{split}-{entry['sample_id']}",
        "recording_ids": [str(ecg_id) for ecg_id in entry["ecg_id"]],
        "messages": ecg_messages(len(entry["ecg_id"]), entry["question"], answer),
        **{field: entry[field] for field in FIELDS},
        "question": entry["question"],
        "answer": entry["answer"],
        "attribute": entry["attribute"],
        "stratum": f"{entry['question_type']}: {min(entry['answer'], default='')}",
        "split": split,
    }
