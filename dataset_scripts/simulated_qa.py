"""Simulated ECGs with questions in the manner of ECG-QA, whose answers follow from what was simulated."""

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
# One question across patients for so many recordings: each fold has to leave out those that its cut goes through.
RECORDINGS_PER_CROSS_QUESTION = 8
# Recordings are at least this long, like real ones; shorter records are cut from them.
SECONDS = 10
# What a generator is for, as the second part of its seed: nothing depends on the order in which things are drawn.
PATIENT, SIGNAL, SINGLE, CONSECUTIVE, CROSS = range(5)


class SimulatedQa(ElmDatasetBuilder):
    """Patients with one to three ECGs; questions about each, about its change since the one before, across patients."""

    PRETTY_NAME = "Simulated ECG questions and answers"
    DESCRIPTION = (
        "Simulated ECGs (a moving dipole of Gaussian waves, projected with Dower's matrix; nobody's data) with known "
        "findings, and questions in the manner of ECG-QA whose answers follow from them: verify, choose and query about "
        "one ECG, and comparisons of two of one patient or of two. Strata are the question type and the first answer."
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

    # The purposes of another simulated dataset begin elsewhere, so that it has other patients.
    FIRST_PURPOSE = 0

    def list_recordings(self) -> Iterator[dict]:
        """What each ECG shows, without its signal; `num_recordings` of them, 2000 unless said otherwise."""
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
        """The simulated signal; its labels are the findings, its report a sentence of them."""
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
        """Questions about single ECGs, then about consecutive ECGs of a patient, then across patients."""
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
