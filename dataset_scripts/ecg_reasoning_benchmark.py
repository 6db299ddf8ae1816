"""ECG-Reasoning-Benchmark (Oh et al. 2026): stepwise questions about ECGs of PTB-XL and MIMIC-IV-ECG, a test set."""

import hashlib
from collections.abc import Iterator

from elm_hf.data.reasoning_steps import RELEASE, REPLACED_DIAGNOSES, STEP_FEATURES
from elm_hf.data.tables import load_records
from elm_hf.prepare.builder import ElmDatasetBuilder
from elm_hf.prepare.instruct import EntryError, entry_name, read_entries
from elm_hf.prepare.reasoning_samples import sample_conversation


# Files of the source, each with the dataset of its ECGs.
RECORDS_OF_FILE = {"ptbxl.jsonl": "ptb_xl", "mimic_iv_ecg.jsonl": "mimic_iv_ecg"}
# Length of the recordings in seconds; the answers of some steps are times in them.
SECONDS = 10


class EcgReasoningBenchmark(ElmDatasetBuilder):
    """The source is the folder with `ptbxl.jsonl` and `mimic_iv_ecg.jsonl`, or one of them."""

    PRETTY_NAME = "ECG-Reasoning-Benchmark"
    DESCRIPTION = (
        "ECG-Reasoning-Benchmark: is a diagnosis present, and step by step why? Each conversation asks for the diagnosis, "
        "and then for each criterion of it: which criterion to look at, whether the finding is there, in which leads, in which "
        "wave, how large it is, and what follows. Each question has options; `steps` has the kind, the options and the true "
        "options of each question. **For testing only**: there are no training splits, and the questions are no training data. "
        "Strata are the diagnosis and whether it is present. "
        f"Results for {', '.join(REPLACED_DIAGNOSES.values())} from files before release {RELEASE} are void, because that release "
        "replaced their samples; the files do not say of which release they are. The questions have the Open Database License "
        "(dataset repository of the authors on the Hub; their code has the MIT licence)."
    )
    HOMEPAGE = "https://github.com/Jwoo5/ecg-reasoning-benchmark"
    LICENSE = "odbl"
    CITATION = """@article{oh2026ecg,
  title = {{ECG-Reasoning-Benchmark}: A Benchmark for Evaluating Clinical Reasoning Capabilities in {ECG} Interpretation},
  author = {Oh, Jungwoo and Chung, Hyunseung and Lee, Junhee and Kim, Min-Gyu and Yoon, Hangyul and others},
  journal = {arXiv preprint arXiv:2603.14326},
  year = {2026}
}"""
    CONVERSATION_FEATURES = STEP_FEATURES
    TEST_ONLY = True

    def list_conversations(self) -> Iterator[dict]:
        """List a conversation for each sample."""
        self._check_length()
        self._read = []
        found = [
            (name, path, source)
            for name, source in RECORDS_OF_FILE.items()
            for path in self.files_in_source(f"**/{name}")
        ]
        if not found:
            raise FileNotFoundError(
                f"{self.source_folder()}: contains none of {', '.join(RECORDS_OF_FILE)}; source (--source) must be the folder of "
                f"{self.PRETTY_NAME}"
            )
        for name, path, source in found:
            stem, seen = name.removesuffix(".jsonl"), set()
            for number, entry in read_entries(path, self.leave_out):
                try:
                    sample = sample_conversation(entry, stem)
                except EntryError as error:
                    self.leave_out(error.reason, f"{entry_name(path, number, entry).rstrip(',')}: {error}")
                    continue
                sample_id = sample.pop("sample_id")
                if sample_id in seen:
                    self.leave_out("repeated", f"{path}: entry {number + 1} has the id {sample_id} of an earlier one")
                    continue
                seen.add(sample_id)
                yield sample | {
                    "conversation_id": f"{self.name}-{stem}-{sample_id}",
                    "recording_sources": [source],
                    "recording_ids": [sample.pop("ecg_id")],
                    "split": "test",
                }
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            self._read.append(f"`{name}`: {len(seen)} samples, SHA-256 `{digest}`.")

    def notes(self) -> list[str]:
        """Return what was read, by which results can be told to be of the same release."""
        return self._read

    def _check_length(self) -> None:
        """
        Raises:
            ValueError: the records are shorter than the recordings to which the questions refer.
        """
        for path in self.config.records:
            record = load_records(path).with_format("numpy")[0]
            seconds = record["ecg"].shape[1] / int(record["sampling_rate"])
            if seconds < SECONDS:
                raise ValueError(
                    f"{path}: records of {seconds:g} s; the questions of {self.PRETTY_NAME} are about times within {SECONDS} s. "
                    f"Build the records with seconds {SECONDS} (--seconds {SECONDS})"
                )
