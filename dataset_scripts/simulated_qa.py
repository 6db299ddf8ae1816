"""Simulated ECGs with questions similar to ECG-QA. The answers follow from the simulated findings."""

from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice, pairwise

import numpy as np

from elm_hf.data.messages import ecg_messages
from elm_hf.ecg.recording import Recording, make_recording
from elm_hf.ecg.simulated_findings import draw_patient
from elm_hf.ecg.simulation import simulate_ecg
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.prepare.builder import ElmDatasetBuilder
from elm_hf.prepare.simulated_questions import Question, comparison_questions, select_questions, single_questions


NUM_RECORDINGS = 2000
MAX_ECGS_PER_PATIENT = 3
# Upper limits of the mean numbers of questions. There are fewer if the answers cannot be balanced otherwise.
QUESTIONS_PER_ECG = 12
QUESTIONS_PER_PAIR = 2
# Recordings per pair of patients. There are few, because folds exclude comparisons of train and test patients.
RECORDINGS_PER_CROSS_PAIR = 8
# Minimum length of a recording, as for real recordings. Shorter records are cut from it.
SECONDS = 10
# The purpose of a random generator is the second part of its seed, so that results do not depend on the order of
# drawing.
PATIENT, SIGNAL, SINGLE, CONSECUTIVE, CROSS = range(5)


class SimulatedQa(ElmDatasetBuilder):
    """Patients with one to three ECGs; questions about single ECGs, consecutive ECGs, and pairs of patients."""

    PRETTY_NAME = "Simulated ECG questions and answers"
    DESCRIPTION = (
        "Simulated ECGs (sums of waves; no patient data) with known findings, and questions similar to ECG-QA whose "
        "answers follow from the findings. The questions verify, choose or query findings of an ECG, or compare two "
        "ECGs of one patient or of two patients. The answers to each question are about equally frequent. Strata are "
        "the question type and the first answer."
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
            for findings in draw_patient(rng, int(rng.integers(MAX_ECGS_PER_PATIENT)) + 1):
                yield {
                    "recording_id": f"{next(numbers):06d}",
                    "patient_id": f"{patient:06d}{self._suffix()}",
                    "findings": findings,
                    "age": age,
                    "sex": sex,
                }

    def _suffix(self) -> str:
        """Patients of another seed are other people, so that datasets of different seeds can be combined."""
        return f"-seed{self.config.seed}" if self.config.seed else ""

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
        singles = [(recording,) for recording in recordings]
        yield from _conversations(singles, single_questions, self._rng(SINGLE, 0), QUESTIONS_PER_ECG)
        consecutive = [pair for pair in pairwise(recordings) if pair[0]["patient_id"] == pair[1]["patient_id"]]
        yield from _conversations(consecutive, comparison_questions, self._rng(CONSECUTIVE, 0), QUESTIONS_PER_PAIR)
        if len(recordings) < 2:
            return
        rng = self._rng(CROSS, 0)
        drawn = [rng.choice(len(recordings), 2, replace=False) for _ in recordings[::RECORDINGS_PER_CROSS_PAIR]]
        cross = [(recordings[first], recordings[second]) for first, second in drawn]
        cross = [pair for pair in cross if pair[0]["patient_id"] != pair[1]["patient_id"]]
        yield from _conversations(cross, comparison_questions, rng, QUESTIONS_PER_PAIR)

    def _rng(self, purpose: int, number: int) -> np.random.Generator:
        return np.random.default_rng([self.config.seed, purpose + self.FIRST_PURPOSE, number])


def _conversations(
    groups: Sequence[tuple[dict, ...]],
    ask: Callable[..., list[Question]],
    rng: np.random.Generator,
    number: int,
) -> Iterator[dict]:
    """Conversations about ECGs or pairs of ECGs, with balanced answers."""
    candidates = [ask(*(recording["findings"] for recording in group)) for group in groups]
    for group, questions in zip(groups, select_questions(candidates, rng, number)):
        names = [recording["recording_id"] for recording in group]
        for place, question in enumerate(questions):
            yield {
                "conversation_id": "-".join(["simulated_qa", *names, str(place)]),
                "recording_ids": names,
                "messages": ecg_messages(len(names), question.question, ", ".join(question.answer)),
                "stratum": f"{question.question_type}: {question.answer[0]}",
                **question.row(),
            }
