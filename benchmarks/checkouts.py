"""Two checkouts of this repository compared in one run: building datasets, the data path of training, and memory.

Each checkout runs in a process of its own with the same installed libraries and the same source files. The processes
take turns within each round, and the ratio of a round is that of two neighbouring measurements.

python benchmarks/checkouts.py OTHER_CHECKOUT [--records 512] [--rounds 5]
"""

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median


ROOT = Path(__file__).resolve().parents[1]
SUFFIXES = {"WFDB": "", "NumPy": ".npy", "MATLAB": ".mat", "CSV": ".csv"}
BATCH_SIZE, NUM_BATCHES, NUM_PATHS = 16, 32, 128
# By default glibc adapts to earlier allocations whether it keeps freed memory. Then page faults, up to half of the time
# of a training sample, depend on what a process did before and not on the code that is measured.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**28), "MALLOC_TRIM_THRESHOLD_": str(2**30)}
TEXT_CONFIG = {
    "model_type": "qwen2",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}


def write_sources(folder: Path, num_records: int) -> None:
    """Writes an `ecgfolder` source of simulated ECGs, 10 s at 500 Hz, in each file format. No two ECGs are equal."""
    import numpy as np
    import scipy.io
    import wfdb

    from elm_hf.ecg.simulated_findings import draw_findings
    from elm_hf.ecg.simulation import simulate_ecg
    from elm_hf.modeling.ecg_leads import LEADS

    rng = np.random.default_rng(0)
    rows = []
    for number in range(num_records):
        name = f"{number:05d}"
        rows.append([name, f"P{number // 2}", "What is the rhythm?", f"rhythm {number % 7}"])
        ecg = simulate_ecg(draw_findings(rng), rng, seconds=10, sampling_rate=500).round(3)
        for kind in SUFFIXES:
            (folder / kind).mkdir(exist_ok=True)
        leads = {"fmt": ["16"] * 12, "adc_gain": [1000.0] * 12, "baseline": [0] * 12}
        wfdb.wrsamp(name, 500, ["mV"] * 12, list(LEADS), ecg.T.astype(float), write_dir=str(folder / "WFDB"), **leads)
        np.save(folder / "NumPy" / name, ecg)
        scipy.io.savemat(folder / "MATLAB" / f"{name}.mat", {"val": ecg})
        with (folder / "CSV" / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([LEADS, *ecg.T.round(3).tolist()])
    for kind, suffix in SUFFIXES.items():
        with (folder / kind / "metadata.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["file_name", "patient_id", "question", "answer", "sampling_rate"])
            writer.writerows([name + suffix, *row, 500 if suffix else ""] for name, *row in rows)


def processor_seconds() -> float:
    """Processor time of this process and of those that it started and that have ended."""
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


class Measurements:
    """What is measured in the process of one checkout. Imports are inside, so that they are those of the checkout."""

    def __init__(self, sources: Path, folder: Path, num_records: int):
        from elm_hf.checkpoints.create import create_elm
        from elm_hf.checkpoints.load import load_checkpoint
        from elm_hf.data.loading import load_elm_dataset
        from elm_hf.training.collator import ElmDataCollator
        from elm_hf.training.tokenization import tokenize_conversations

        self.sources, self.folder, self.num_records = sources, folder, num_records
        for kind in SUFFIXES:
            self.build(kind)
        self.peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        (folder / "elm.json").write_text(json.dumps({"text_config": TEXT_CONFIG}))
        checkpoint, data = folder / "elm", str(folder / "WFDB")
        create_elm(checkpoint, config=folder / "elm.json", tokenizer_dataset=data, vocab_size=400)
        self.processor = load_checkpoint(checkpoint)[1]
        self.collator = ElmDataCollator(self.processor)
        self.dataset = load_elm_dataset(data)
        self.tokenized = tokenize_conversations(self.dataset, self.collator.tokenize)

    def works(self) -> dict[str, tuple[Callable[[], object], int]]:
        """Name -> (work, number of ECGs in it)."""
        extractor, rows = self.processor.feature_extractor, BATCH_SIZE * NUM_BATCHES
        paths = [str(self.sources / "WFDB" / f"{number:05d}") for number in range(min(NUM_PATHS, self.num_records))]
        building = {
            f"prepare, {kind} files": (lambda kind=kind: self.build(kind), self.num_records) for kind in SUFFIXES
        }
        return building | {
            "training sample, tokenized once": (lambda: self.read(self.tokenized), rows),
            "training sample, tokenized when read": (lambda: self.read(self.dataset), rows),
            "feature extractor, a WFDB file": (lambda: [extractor(path) for path in paths], len(paths)),
        }

    def build(self, kind: str) -> None:
        from elm_hf.prepare.dataset import prepare_dataset

        prepare_dataset("ecgfolder", self.folder / kind, source=self.sources / kind, overwrite=True)

    def read(self, dataset) -> None:
        """Reads rows in random order, as training does: table, feature extractor, collator."""
        import numpy as np

        order = np.random.default_rng(0).integers(len(dataset), size=(NUM_BATCHES, BATCH_SIZE)).tolist()
        for rows in order:
            self.collator(dataset.__getitems__(rows))


def serve(sources: Path, folder: Path, num_records: int) -> None:
    """Runs in the process of a checkout: measures the works that standard input names, one a line."""
    import datasets
    import torch

    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the package prints
    measurements = Measurements(sources, folder, num_records)
    works = measurements.works()
    print(json.dumps({"peak_mib": measurements.peak_mib, "works": list(works)}), file=answers, flush=True)
    for name in map(str.strip, sys.stdin):
        work, number = works[name]
        before, start = processor_seconds(), time.perf_counter()
        work()
        spent = {"processor": processor_seconds() - before, "clock": time.perf_counter() - start}
        print(json.dumps({kind: seconds / number * 1000 for kind, seconds in spent.items()}), file=answers, flush=True)


@contextmanager
def checkout_process(checkout: Path, sources: Path, folder: Path, num_records: int) -> Iterator[Callable]:
    """Starts the process of a checkout. Yields a function that sends a line, if any, and returns the answer."""
    packages = tomllib.loads((checkout / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"]
    package = folder / "package" / "elm_hf"
    package.mkdir(parents=True)
    for path in (checkout / packages.pop("elm_hf")).iterdir():
        (package / path.name).symlink_to(path)
    for name, place in packages.items():  # modules in folders outside `elm_hf`
        (package / name.removeprefix("elm_hf.")).symlink_to(checkout / place)
    environment = (
        os.environ | KEEP_MEMORY | {"PYTHONPATH": str(package.parent), "HF_DATASETS_CACHE": str(folder / "cache")}
    )
    command = [sys.executable, __file__, "--serve", str(sources), str(folder), "--records", str(num_records)]
    with (folder / "stderr").open("w") as stderr:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": stderr, "text": True}
        process = subprocess.Popen(command, env=environment, **pipes)

    def ask(line: str = "") -> dict:
        if line:
            print(line, file=process.stdin, flush=True)
        answer = process.stdout.readline()
        if not answer:
            raise SystemExit(f"{checkout}: the measurement failed\n{(folder / 'stderr').read_text()[-3000:]}")
        return json.loads(answer)

    try:
        yield ask
    finally:
        process.stdin.close()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, nargs="?", help="Root of the other checkout.")
    parser.add_argument("--records", type=int, default=512, help="Number of records to build.")
    parser.add_argument("--rounds", type=int, default=5, help="Number of rounds.")
    parser.add_argument("--serve", type=Path, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(*arguments.serve, arguments.records)
        return
    if arguments.other is None or not (arguments.other / "pyproject.toml").is_file():
        raise SystemExit("name the root of the other checkout, a folder with pyproject.toml")
    with tempfile.TemporaryDirectory() as name:
        sources, folders = Path(name, "sources"), [Path(name, which) for which in ("this", "other")]
        for folder in (sources, *folders):
            folder.mkdir()
        write_sources(sources, arguments.records)
        processes = [
            checkout_process(checkout, sources, folder, arguments.records)
            for checkout, folder in zip((ROOT, arguments.other.resolve()), folders)
        ]
        with processes[0] as this, processes[1] as other:
            ready = [this(), other()]
            rounds = [{work: (this(work), other(work)) for work in ready[0]["works"]} for _ in range(arguments.rounds)]
    print(f"{arguments.records} records of 12 leads, 10 s at 500 Hz, to 250 Hz; median of {arguments.rounds} rounds")
    print(f"{'milliseconds of one core for each ECG':40} {'this':>8} {'other':>8}  ratio")
    for work in ready[0]["works"]:
        pairs = [one[work] for one in rounds]
        this_ms, other_ms = ([pair[place]["processor"] for pair in pairs] for place in (0, 1))
        ratios = sorted(this_ms[place] / other_ms[place] for place in range(len(pairs)))
        spread = f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        print(f"{work:40} {median(this_ms):8.2f} {median(other_ms):8.2f}  {spread}")
    print(f"{'peak memory of the builds, MiB':40} {ready[0]['peak_mib']:8.0f} {ready[1]['peak_mib']:8.0f}")


if __name__ == "__main__":
    main()
