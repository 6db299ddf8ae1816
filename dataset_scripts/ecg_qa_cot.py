"""ECG-QA-CoT (Langer et al. 2025, OpenTSLM): questions of ECG-QA about ECGs of PTB-XL, with reasoning before each answer."""

import re
from collections.abc import Iterator

from datasets import Value

from elm_hf.data.messages import ecg_messages
from elm_hf.prepare.builder import ElmDatasetBuilder
from elm_hf.prepare.instruct import EntryError, entry_name, read_entries
from elm_hf.utils.exact_match import answer_items, with_reasoning


FILE_OF_SPLIT = {
    "train": "ecg_qa_cot_train.csv",
    "validation": "ecg_qa_cot_val.csv",
    "test": "ecg_qa_cot_test.csv",
}
# the answer is repeated at the end of the reasoning
_LAST_ANSWER = re.compile(r"\s*\bAnswer:\s*(.*?)\s*$", re.DOTALL)
_ECG_ID = re.compile(r"\s*\[?\s*(\d{1,5})\s*\]?\s*")


class EcgQaCot(ElmDatasetBuilder):
    """The source is the unpacked folder with the three CSV files."""

    PRETTY_NAME = "ECG-QA-CoT"
    DESCRIPTION = (
        "ECG-QA-CoT, the data of OpenTSLM: questions of ECG-QA about one ECG of PTB-XL, with reasoning that a language "
        "model wrote before the answer. Answers are <think>, the reasoning, </think>, and the answer. The published prompts also hold "
        "a clinical context from the metadata of PTB-XL, which says whether there are extra beats or a pacemaker: here it is a "
        "column, not part of the question. Strata are the question type and the answer. The official split is that of "
        "the published files. These state no licence; the code of OpenTSLM has the MIT licence, and ECG-QA has CC BY 4.0."
    )
    HOMEPAGE = "https://github.com/StanfordBDHG/OpenTSLM"
    LICENSE = "unknown"
    CITATION = """@article{langer2025opentslm,
  title = {{OpenTSLM}: Time-Series Language Models for Reasoning over Multivariate Medical Text- and Time-Series Data},
  author = {Langer, Patrick and Kaar, Thomas and Rosenblattl, Max and Xu, Maxwell A. and Chow, Winnie and others},
  journal = {arXiv preprint arXiv:2510.02410},
  year = {2025}
}"""
    CONVERSATION_FEATURES = {"clinical_context": Value("string")}

    def list_conversations(self) -> Iterator[dict]:
        """List a conversation for each row. A row whose reasoning ends with another answer is excluded."""
        paths = {split: self.files_in_source(f"**/{name}") for split, name in FILE_OF_SPLIT.items()}
        if not any(paths.values()):
            raise FileNotFoundError(
                f"{self.source_folder()}: contains none of {', '.join(FILE_OF_SPLIT.values())}; source (--source) must be the "
                f"folder of {self.PRETTY_NAME}"
            )
        seen = set()
        for split, path in ((split, path) for split, found in paths.items() for path in found):
            for number, entry in read_entries(path, self.leave_out):
                try:
                    conversation = _conversation(entry)
                except EntryError as error:
                    self.leave_out(error.reason, f"{entry_name(path, number, entry).rstrip(',')}: {error}")
                    continue
                content = conversation["recording_ids"][0], str(conversation["messages"])
                if content in seen:
                    self.leave_out("repeated", f"{entry_name(path, number, entry)} is the same as an earlier one")
                    continue
                seen.add(content)
                yield conversation | {"conversation_id": f"ecg_qa_cot-{split}-{number}", "split": split}


def _conversation(entry: dict) -> dict:
    """The conversation of a row, without its id and split."""
    question, answer, kind, rationale = (
        _text(entry, name) for name in ("question", "answer", "question_type", "rationale")
    )
    ecg_id, template_id = _ECG_ID.fullmatch(_text(entry, "ecg_id")), _text(entry, "template_id")
    if ecg_id is None:
        raise EntryError(
            "damaged entry", f"ecg_id is {entry['ecg_id'][:50]!r}, expected the number of an ECG of PTB-XL"
        )
    if not template_id.removesuffix(".0").isdecimal() or len(template_id) > 9:
        raise EntryError("damaged entry", f"template_id is {template_id[:50]!r}, expected a whole number")
    last = _LAST_ANSWER.search(rationale)
    if last is not None and answer_items(last[1]) != answer_items(answer):
        raise EntryError(
            "other answer", f"the reasoning ends with {last[1][:100]!r}, and the answer is {answer[:100]!r}"
        )
    reasoning = rationale if last is None else rationale[: last.start()].strip()
    if not reasoning:
        raise EntryError("no reasoning", "there is no text before the answer")
    return {
        "recording_sources": ["ptb_xl"],
        "recording_ids": [ecg_id[1].lstrip("0") or "0"],
        "messages": ecg_messages(1, question, with_reasoning(reasoning, answer)),
        "template_id": int(template_id.removesuffix(".0")),
        "question_type": kind,
        "question": question,
        "answer": [answer],
        "clinical_context": entry.get("clinical_context"),
        "stratum": f"{kind}: {answer}",
    }


def _text(entry: dict, name: str) -> str:
    """The text of a column."""
    if not (entry.get(name) or "").strip():
        raise EntryError("damaged entry", f"the column {name} is missing or empty")
    return entry[name].strip()
