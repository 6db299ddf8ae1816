"""ECGBench, the benchmark of PULSE (Liu et al. 2024): tests about ECGs of PTB-XL, CODE-15, CPSC, CSN and Georgia."""

from pathlib import Path

from elm_hf.dataset_scripts.ecg_instruct_pulse import EcgInstructPulse
from elm_hf.prepare.instruct import InstructBuilder


TESTS = (
    "arena", "code15-test", "cpsc-test", "csn-test-no-cot", "ecgqa-test", "g12-test-no-cot", "mmmu-ecg", "ptb-test",
    "ptb-test-report", "ptb_report_generation_test",
)  # fmt: skip


class EcgBenchPulse(InstructBuilder):
    """
    The source contains the tests as JSON (`cpsc-test.json`) or as on the Hub (`cpsc-test/*.parquet`). All tests that
    exist are built. Entries of `mmmu-ecg` are excluded: their images are from textbooks, so there is no ECG.
    """

    PRETTY_NAME = "ECGBench"
    DESCRIPTION = (
        "The benchmark of PULSE: abnormality detection and reports on PTB-XL, CODE-15, CPSC 2018, CSN and Georgia, "
        "and questions of ECG-QA. `question_type` is the name of the test. Strata are the test and the answer. The "
        "whole dataset is a test set (configuration `official`, split `test`); the folds are for training on it."
    )
    HOMEPAGE = "https://huggingface.co/datasets/PULSE-ECG/ECGBench"
    LICENSE = EcgInstructPulse.LICENSE
    CITATION = EcgInstructPulse.CITATION

    def source_files(self) -> list[tuple[str, Path, str]]:
        """List the existing files of each test."""
        found = [
            (test, path, "test")
            for test in TESTS
            for path in self.files_in_source(f"{test}.json", f"{test}/*.parquet")
        ]
        if not found:
            raise FileNotFoundError(
                f"{self.source_folder()}: contains no test; expected {TESTS[0]}.json, {TESTS[0]}/*.parquet, or files of another "
                f"test ({', '.join(TESTS[1:])}); source (--source) must be the folder of {self.PRETTY_NAME}"
            )
        return found

    def make_conversation(self, entry: dict, name: str) -> dict:
        """Make a conversation as in the base class. In files from the Hub, the image path is `image_path`."""
        entry = entry | {"image": entry.get("image_path", entry.get("image"))}
        conversation = super().make_conversation(entry, name)
        (answer,) = conversation["answer"]
        return conversation | {"question_type": name, "stratum": f"{name}: {answer if len(answer) < 40 else 'text'}"}

    ECG_FIELD = "image"
