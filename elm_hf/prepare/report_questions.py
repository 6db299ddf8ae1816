"""Conversations that ask for all that the source says of an ECG: its report, or the list of its findings."""

import zlib

from elm_hf.data.messages import ecg_messages


REPORT_QUESTIONS = (
    "Write the report of this ECG.",
    "What does this ECG show? Answer as a cardiologist's report.",
    "Please read this 12-lead ECG and report it.",
    "Give the written interpretation of this ECG.",
)
FINDINGS_QUESTIONS = (
    "List the findings of this ECG.",
    "What are the findings of this 12-lead ECG?",
    "Which diagnoses does this ECG lead to? List them.",
    "Name everything of note in this ECG.",
)


def report_conversation(dataset: str, recording_id: str, report: str, **columns) -> dict:
    """
    A conversation of one question and the report of a recording.

    Args:
        dataset: name of the dataset; with the recording's, it makes that of the conversation.
        recording_id: which of several wordings the question has depends on it alone.
        report: the answer; empty if there is none, and then the conversation will be left out.
        columns: `stratum` and whatever else the dataset's conversations have.
    """
    answer = [report] if report else []
    return _conversation(dataset, recording_id, "report", REPORT_QUESTIONS, answer) | columns


def findings_conversation(dataset: str, recording_id: str, findings: list[str], **columns) -> dict:
    """The same for a source that has a list of findings instead of a report."""
    return _conversation(dataset, recording_id, "findings", FINDINGS_QUESTIONS, findings) | columns


def _conversation(dataset: str, recording_id: str, kind: str, questions: tuple[str, ...], answer: list[str]) -> dict:
    question = questions[zlib.crc32(recording_id.encode()) % len(questions)]
    return {
        "conversation_id": f"{dataset}-{kind}-{recording_id}",
        "recording_ids": [recording_id],
        "messages": ecg_messages(1, question, ", ".join(answer)),
        "question_type": kind,
        "question": question,
        "answer": answer,
    }
