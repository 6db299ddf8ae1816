"""HealthCareMagic-100k (Li et al. 2023, ChatDoctor): questions of patients and answers of doctors, without ECGs."""

from collections.abc import Iterator

from elm_hf.prepare.builder import ElmDatasetBuilder
from elm_hf.prepare.instruct import read_entries


FIELDS = ("instruction", "input", "output")


class HealthCareMagic(ElmDatasetBuilder):
    """The source is the folder with `HealthCareMagic-100k.json`, or with the Parquet files of a copy on the Hub."""

    PRETTY_NAME = "HealthCareMagic-100k"
    DESCRIPTION = (
        "Questions of patients and answers of doctors from an online service, without ECGs. Mixed into the training "
        "data, they preserve the medical dialogue skills of an ELM. The instruction is the system message. The "
        "patients are unknown, so every dialogue counts as a separate patient."
    )
    HOMEPAGE = "https://github.com/Kent0n-Li/ChatDoctor"
    LICENSE = "unknown"
    CITATION = """@article{li2023chatdoctor,
  title = {{ChatDoctor}: A Medical Chat Model Fine-Tuned on a Large Language Model Meta-{AI} ({LLaMA}) Using Medical Domain Knowledge},
  author = {Li, Yunxiang and Li, Zihan and Zhang, Kai and Dan, Ruilong and Jiang, Steve and Zhang, You},
  journal = {Cureus},
  volume = {15},
  number = {6},
  year = {2023}
}"""
    HAS_ECGS = False

    def list_conversations(self) -> Iterator[dict]:
        """List a conversation for each entry. Only surrounding spaces of the texts are removed."""
        paths = self.files_in_source("**/HealthCareMagic-100k.json") or self.files_in_source("**/*.parquet")
        if not paths:
            raise FileNotFoundError(
                f"{self.source_folder()}: contains neither HealthCareMagic-100k.json nor a Parquet file; source (--source) must be "
                f"the folder of {self.PRETTY_NAME}"
            )
        for file_number, path in enumerate(paths):
            for number, entry in read_entries(path, self.leave_out):
                instruction, question, answer = (entry.get(field) or "" for field in FIELDS)
                if not all(isinstance(text, str) for text in (instruction, question, answer)):
                    self.leave_out("damaged entry", f"{path}: entry {number + 1} contains a value that is not text")
                    continue
                if not question.strip() or not answer.strip():
                    self.leave_out("no answer", f"{path}: entry {number + 1} has no text in input or in output")
                    continue
                turns = [("system", instruction), ("user", question), ("assistant", answer)]
                yield {
                    "conversation_id": f"health_care_magic-{file_number}-{number}",
                    "recording_ids": [],
                    "messages": [
                        {"role": role, "content": [{"type": "text", "text": text.strip()}]}
                        for role, text in turns
                        if text
                    ],
                    "question_type": "dialogue",
                    "question": question.strip(),
                    "answer": [answer.strip()],
                    "stratum": "dialogue",
                    "split": "train",  # the published file is a training set
                }
