"""The grounded reasoning of ECG-R1 (Jin et al. 2026): interpretations of ECGs of MIMIC-IV-ECG, step by step."""

import re

from elm_hf.prepare.instruct import EntryError, InstructBuilder
from elm_hf.utils.exact_match import final_answer


_PICTURE = re.compile(r"\s*<image>\s*", re.IGNORECASE)


class EcgR1(InstructBuilder):
    """
    Entries of the training file with reasoning and of the test file in which signal and picture are there. Of the other
    published files, ECGInstruct is the dataset `ecg_instruct_pulse`, and those for reinforcement learning and of tests with
    missing modalities hold the same questions again.
    """

    PRETTY_NAME = "ECG-Protocol-Guided-Grounding-CoT"
    DESCRIPTION = (
        "The instruction data of ECG-R1: interpretations in which six steps of a clinical protocol (<think>) lead to a "
        "summary and to diagnoses (<answer>, separated by semicolons), written by a language model from the reports and "
        "measurements of MIMIC-IV-ECG. `answer` has the diagnoses. Each ECG is asked about once as a signal; the published "
        "picture of the same ECG is not used. Strata are the dataset of the ECG and the kind of the question. The official "
        "split is that of the published files."
    )
    HOMEPAGE = "https://huggingface.co/datasets/PKUDigitalHealth/ECG-Protocol-Guided-Grounding-CoT"
    LICENSE = "apache-2.0"
    CITATION = """@misc{jin2026ecgr1,
  title = {{ECG-R1}: Protocol-Guided and Modality-Agnostic {MLLM} for Reliable {ECG} Interpretation},
  author = {Jin, Jiarui and Wang, Haoyu and Wu, Xingliang and Fang, Xiaocheng and Lan, Xiang and others},
  year = {2026},
  eprint = {2602.04279},
  archivePrefix = {arXiv}
}"""
    FILES = {
        "ECG-Protocol-Guided-Grounding-CoT-30k.jsonl": "train",
        "ECG-Protocol-Guided-Grounding-CoT.jsonl": "train",
        "ecg-grounding-test-mimiciv_full.jsonl": "test",
    }
    ECG_FIELD = "ecg"

    def make_conversation(self, entry: dict, name: str) -> dict:
        """Make a conversation as in the base class. Here the ECGs are in `objects`, the turns in `messages`."""
        objects, messages = entry.get("objects"), entry.get("messages")
        if not isinstance(objects, dict) or not objects.get("ecg"):
            raise EntryError("damaged entry", "objects.ecg has no path of an ECG")
        if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
            raise EntryError("damaged entry", "messages is no list of turns")
        turns = [{"from": message.get("role"), "value": message.get("content")} for message in messages]
        for turn in turns:  # the picture of an ECG whose signal has a place, too
            if isinstance(turn["value"], str) and "<ecg>" in turn["value"]:
                turn["value"] = _PICTURE.sub("\n", turn["value"])
        conversation = super().make_conversation(
            {"id": entry.get("id"), "ecg": objects["ecg"], "conversations": turns}, name
        )
        (text,) = conversation["answer"]
        diagnoses = [part.strip() for part in final_answer(text).split(";") if part.strip()]
        if not diagnoses:
            raise EntryError("no answer", "there is no text behind the reasoning")
        return conversation | {"answer": diagnoses}
