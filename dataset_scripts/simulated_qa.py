"""Simulated ECGs with questions similar to ECG-QA. The answers follow from the simulated findings."""

from collections.abc import Iterator
from itertools import count, islice, pairwise

import numpy as np

from elm_hf.data.messages import ecg_messages
from elm_hf.ecg.recording import Recording, make_recording
from elm_hf.ecg.simulation import draw_findings, draw_follow_up, simulate_ecg
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.prepare.builder import ElmDatasetBuilder
from elm_hf.prepare.simulated_questions import comparison_questions, single_questions


NUM_RECORDINGS = 2000
MAX_ECGS_PER_PATIENT = 3
QUESTIONS_PER_ECG = 16
QUESTIONS_PER_PAIR = 1
# Recordings per question across patients. There are few, because folds exclude comparisons of train and test patients.
RECORDINGS_PER_CROSS_QUESTION = 8
# Minimum length of a recording, as for real recordings. Shorter records are cut from it.
SECONDS = 10
# The purpose of a random generator is the second part of its seed, so that results do not depend on the order of
# drawing.
PATIENT, SIGNAL, SINGLE, CONSECUTIVE, CROSS = range(5)


class SimulatedQa(ElmDatasetBuilder):
    """Patients with one to three ECGs; questions about single ECGs, consecutive ECGs, and pairs of patients."""

    PRETTY_NAME = "Simulated ECG questions and answers"
    DESCRIPTION = (
        "Simulated ECGs (a moving dipole of Gaussian waves, projected with Dower's matrix; no patient data) with "
        "known findings, and questions similar to ECG-QA whose answers follow from the findings. The questions "
        "verify, choose or query findings of an ECG, or compare two ECGs of one patient or of two patients. Strata "
        "are the question type and the first answer."
    )
    HOMEPAGE = ""
    LICENSE = "apache-2.0"
    CITATION = """@article{dower1980deriving,
  title = {On deriving the electrocardiogram from vectorcardiographic leads},
  author = {Dower, Gordon E. and Machado, H. Bastos and Osborne, J. A.},
  journal = {Clinical Cardiology},
  volume = {3},
  pages = {87--95},
  year = {1980}
}"""

    # Offset of the purposes. Another simulated dataset has another offset and therefore other patients.
    FIRST_PURPOSE = 0

    def list_recordings(self) -> Iterator[dict]:
        """List the findings of each ECG, without its signal; `num_recordings` ECGs, by default 2000."""
        wanted = self.config.num_recordings
        return islice(self._all_recordings(), NUM_RECORDINGS if wanted is None else wanted)

    def _all_recordings(self) -> Iterator[dict]:
        numbers = count()
        for patient in count():
            rng = self._rng(PATIENT, patient)
            age, sex = int(rng.integers(18, 90)), ("male", "female")[rng.integers(2)]
            findings = draw_findings(rng)
            for visit in range(rng.integers(MAX_ECGS_PER_PATIENT) + 1):
                findings = draw_follow_up(findings, rng) if visit else findings
                yield {
                    "recording_id": f"{next(numbers):06d}",
                    "patient_id": f"{patient:06d}",
                    "findings": findings,
                    "age": age,
                    "sex": sex,
                }

    def read_recording(self, reference: dict) -> tuple[Recording, dict]:
        """Simulate the signal. The labels are the findings, and the report is a sentence with the findings."""
        name, findings = reference["recording_id"], reference["findings"]
        rate, seconds = self.config.sampling_rate, max(SECONDS, self.config.seconds)
        ecg = simulate_ecg(findings, self._rng(SIGNAL, int(name)), seconds, rate)
        metadata = {
            "age": reference["age"],
            "sex": reference["sex"],
            "report": ", ".join(findings.labels).capitalize() + ".",
            "labels": findings.labels,
        }
        return make_recording(ecg, rate, LEADS, name), metadata

    def list_conversations(self) -> Iterator[dict]:
        """List questions about single ECGs, then about consecutive ECGs of a patient, then across patients."""
        recordings = list(self.list_recordings())
        for number, recording in enumerate(recordings):
            rng = self._rng(SINGLE, number)
            yield from _conversations([recording], single_questions(recording["findings"], rng, QUESTIONS_PER_ECG))
        for number, (first, second) in enumerate(pairwise(recordings)):
            if first["patient_id"] == second["patient_id"]:
                yield from self._comparisons(first, second, self._rng(CONSECUTIVE, number), QUESTIONS_PER_PAIR)
        for number in range(len(recordings) // RECORDINGS_PER_CROSS_QUESTION):
            rng = self._rng(CROSS, number)
            first, second = (recordings[row] for row in rng.choice(len(recordings), 2, replace=False))
            if first["patient_id"] != second["patient_id"]:
                yield from self._comparisons(first, second, rng, 1)

    def _comparisons(self, first: dict, second: dict, rng: np.random.Generator, number: int) -> Iterator[dict]:
        questions = comparison_questions(first["findings"], second["findings"], rng, number)
        return _conversations([first, second], questions)

    def _rng(self, purpose: int, number: int) -> np.random.Generator:
        return np.random.default_rng([self.config.seed, purpose + self.FIRST_PURPOSE, number])


def _conversations(recordings: list[dict], questions: list[dict]) -> Iterator[dict]:
    names = [recording["recording_id"] for recording in recordings]
    for number, question in enumerate(questions):
        yield {
            "conversation_id": "-".join(["simulated_qa", *names, str(number)]),
            "recording_ids": names,
            "messages": ecg_messages(len(names), question["question"], ", ".join(question["answer"])),
            "stratum": f"{question['question_type']}: {question['answer'][0]}",
            **question,
        }
