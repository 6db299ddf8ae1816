"""Conversations that ask for the report or for the list of findings of an ECG."""

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
    Return a conversation with a question and the report of a recording.

    Args:
        dataset: name of the dataset. The conversation id consists of this name and the recording id.
        recording_id: id of the recording. It determines the wording of the question.
        report: the answer. A conversation with an empty report is excluded later.
        columns: `stratum` and other columns of the conversation.
    """
    answer = [report] if report else []
    return _conversation(dataset, recording_id, "report", REPORT_QUESTIONS, answer) | columns


def findings_conversation(dataset: str, recording_id: str, findings: list[str], **columns) -> dict:
    """Return a conversation with a question and the list of findings; see `report_conversation`."""
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
