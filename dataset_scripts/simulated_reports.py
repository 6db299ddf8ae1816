"""Simulated ECGs with reports, for aligning a model before it learns to answer questions."""

from collections.abc import Iterator

from elm_hf.data.messages import ecg_messages
from elm_hf.dataset_scripts.simulated_qa import SimulatedQa


QUESTION = "List the findings of this ECG."


class SimulatedReports(SimulatedQa):
    """ECGs simulated as in `simulated_qa`, but of other patients, with one conversation for each ECG."""

    PRETTY_NAME = "Simulated ECG reports"
    DESCRIPTION = (
        "Simulated ECGs (sums of waves; no patient data), each with a report that lists its findings. The patients "
        "differ from those of `simulated_qa`. Strata are the rhythms."
    )
    FIRST_PURPOSE = 100

    def list_conversations(self) -> Iterator[dict]:
        """List a conversation for each ECG, which asks for all findings."""
        for recording in self.list_recordings():
            present = recording["findings"].labels
            yield {
                "conversation_id": f"simulated_reports-{recording['recording_id']}",
                "recording_ids": [recording["recording_id"]],
                "messages": ecg_messages(1, QUESTION, ", ".join(present)),
                "question_type": "report",
                "question": QUESTION,
                "answer": present,
                "stratum": present[0],
            }
