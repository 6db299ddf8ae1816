"""Simulated ECGs with their reports: what a model is aligned on before it learns to answer questions."""

from collections.abc import Iterator

from elm_hf.data.messages import ecg_messages
from elm_hf.dataset_scripts.simulated_qa import SimulatedQa


QUESTION = "List the findings of this ECG."


class SimulatedReports(SimulatedQa):
    """The ECGs of `simulated_qa`'s simulator, of other patients than its own; one conversation for each."""

    PRETTY_NAME = "Simulated ECG reports"
    DESCRIPTION = (
        "Simulated ECGs (a moving dipole of Gaussian waves, projected with Dower's matrix; nobody's data), each with a "
        "report that lists its findings. No patient of `simulated_qa` is among them. Strata are the rhythms."
    )
    FIRST_PURPOSE = 100

    def list_conversations(self) -> Iterator[dict]:
        """One conversation for each ECG, which asks for everything that it shows."""
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
