"""PULSE's benchmark (Liu et al. 2024): nine tests about ECGs of PTB-XL, CODE-15, CPSC, CSN and Georgia."""

from pathlib import Path

from elm_hf.dataset_scripts.ecg_instruct_pulse import EcgInstructPulse
from elm_hf.prepare.instruct import InstructBuilder


TESTS = (
    "arena", "code15-test", "cpsc-test", "csn-test-no-cot", "ecgqa-test", "g12-test-no-cot", "mmmu-ecg", "ptb-test",
    "ptb-test-report", "ptb_report_generation_test",
)  # fmt: skip


class EcgBenchPulse(InstructBuilder):
    """
    The source holds the tests as JSON (`cpsc-test.json`) or as on the Hub (`cpsc-test/*.parquet`); those that are there
    are built. Entries of `mmmu-ecg`, whose pictures come from text books, have no ECG and are left out.
    """

    PRETTY_NAME = "ECGBench"
    DESCRIPTION = (
        "PULSE's benchmark: abnormality detection and reports on PTB-XL, CODE-15, CPSC 2018, CSN and Georgia, and questions "
        "of ECG-QA. `question_type` is the test, which is the stratum with the answer. All of it is a test set (`official`, "
        "`test`); the folds serve those who train on it."
    )
    HOMEPAGE = "https://huggingface.co/datasets/PULSE-ECG/ECGBench"
    LICENSE = EcgInstructPulse.LICENSE
    CITATION = EcgInstructPulse.CITATION

    def source_files(self) -> list[tuple[str, Path, str]]:
        """The files of each test that is there."""
        folder = self.source_folder()
        found = [
            (test, path, "test")
            for test in TESTS
            for path in sorted([*folder.glob(f"{test}.json"), *folder.glob(f"{test}/*.parquet")])
        ]
        if not found:
            raise FileNotFoundError(
                f"{folder}: no {TESTS[0]}.json or {TESTS[0]}/*.parquet, nor another test ({', '.join(TESTS[1:])}); source "
                f"(--source) is to be the folder of {self.PRETTY_NAME}"
            )
        return found

    def make_conversation(self, entry: dict, name: str) -> dict:
        """As of any other instruction file; the files from the Hub call the picture's path `image_path`."""
        entry = entry | {"image": entry.get("image_path", entry.get("image"))}
        conversation = super().make_conversation(entry, name)
        (answer,) = conversation["answer"]
        return conversation | {"question_type": name, "stratum": f"{name}: {answer if len(answer) < 40 else 'text'}"}

    ECG_FIELD = "image"
