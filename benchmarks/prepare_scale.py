"""Building large datasets: time and peak memory with a table of 800,000 recordings, throughput, and two processes.

python benchmarks/prepare_scale.py             # sharding, throughput by size of the table, two processes and one
python benchmarks/prepare_scale.py --whole     # sharding and a complete build of 800,000 tiny records, 10 minutes
"""

import argparse
import csv
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import datasets
import numpy as np
import wfdb

import elm_hf.prepare.dataset
from elm_hf.dataset_scripts.ptb_xl import COLUMNS, PtbXl
from elm_hf.ecg.recording import Recording
from elm_hf.ecg.simulated_findings import draw_findings
from elm_hf.ecg.simulation import simulate_ecg
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.prepare.dataset import prepare_dataset, prepare_shard
from elm_hf.prepare.record_files import RECORDINGS_PER_FILE, RecordFiles, build_records


SIZES = (2_048, 21_800, 161_000, 800_000)
SIGNAL_FILES = 64
FILES = 4  # record files of 512 recordings each that are written in each run
REPEATS, ROUNDS = 3, 7
REPORT = "Sinus rhythm. Left axis deviation. Nonspecific ST-T abnormality. "


def make_source(folder: Path, num_recordings: int) -> Path:
    """Writes PTB-XL's tables with `num_recordings` rows, of which every 64th names the same signal file."""
    signals = folder.parent / "signals"
    if not signals.exists():
        signals.mkdir(parents=True)
        rng = np.random.default_rng(0)
        for number in range(SIGNAL_FILES):
            ecg = simulate_ecg(draw_findings(rng), rng, seconds=10, sampling_rate=500)
            wfdb.wrsamp(
                f"{number:05d}_hr", 500, ["mV"] * 12, list(LEADS), ecg.T.astype(float), fmt=["16"] * 12,
                adc_gain=[1000.0] * 12, baseline=[0] * 12, write_dir=str(signals),
            )  # fmt: skip
    folder.mkdir()
    (folder / "records500").symlink_to(signals)
    (folder / "scp_statements.csv").write_text(
        ",description,diagnostic_class\nNORM,normal ECG,NORM\nSR,sinus rhythm,\nIMI,inferior myocardial infarction,MI\nAFIB,atrial fibrillation,\n"
    )
    with (folder / "ptbxl_database.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for number in range(num_recordings):
            codes = ("{'NORM': 100.0, 'SR': 0.0}", "{'IMI': 80.0}", "{'AFIB': 0.0}")[number % 3]
            path = f"records500/{number % SIGNAL_FILES:05d}_hr"
            writer.writerow(
                [number, f"{number // 5}.0", 60.0, number % 2, f"{REPORT}{number}", codes, number % 10 + 1, path]
            )
    return folder


class TinyRecords(PtbXl):
    """PTB-XL's tables with signals of five samples, so that everything except the signals has its real size."""

    def read_recording(self, reference: dict) -> tuple[Recording, dict]:
        rng = np.random.default_rng(int(reference["recording_id"]))
        metadata = {"age": 60, "sex": "male", "report": reference["report"], "labels": ["NORM"]}
        return Recording(rng.normal(0, 0.3, (12, 5)).astype(np.float32), 250, (), reference["recording_id"]), metadata


def read_first_files(folder: Path, source: Path, num_proc: int) -> float:
    """Recordings per second of the first `FILES` record files."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        cache, work = Path(name, "cache"), Path(name, "work")
        builder = PtbXl(cache_dir=str(cache), source=str(source))
        with (source / "ptbxl_database.csv").open() as table:
            files = RecordFiles(work, sum(1 for _ in table) - 1, "benchmark")
        start = time.perf_counter()
        build_records(builder, files, range(FILES), num_proc)
        return FILES * RECORDINGS_PER_FILE / (time.perf_counter() - start)


def measure(function: Callable, **options) -> tuple[float, float, float]:
    """Seconds, and peak memory in MiB of the process and its largest child, of a function run in a new process."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.Process(target=_report, args=(sender, function, options))
    process.start()
    sender.close()
    result = receiver.recv()
    process.join()
    return result


def _report(sender, function: Callable, options: dict) -> None:
    start = time.perf_counter()
    function(**options)
    seconds = time.perf_counter() - start
    peaks = [resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    sender.send((seconds, *peaks))


def compare_sizes(folder: Path, sources: dict[int, Path]) -> None:
    for size, source in sources.items():
        rates = [read_first_files(folder, source, num_proc=1) for _ in range(REPEATS)]
        print(f"{size:>7,} rows in the table: {max(rates):5.0f} recordings/s, one process", flush=True)


def sort_numbers(times: int) -> None:
    numbers = np.random.default_rng(0).normal(size=(12, 5000))
    for _ in range(times):
        np.sort(numbers, axis=1)


def sorts_per_second(num_proc: int, times: int = 4000) -> float:
    """The speed of the machine itself, for processes that share nothing."""
    processes = [multiprocessing.Process(target=sort_numbers, args=(times // num_proc,)) for _ in range(num_proc)]
    start = time.perf_counter()
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return times / (time.perf_counter() - start)


def compare_processes(folder: Path, source: Path) -> None:
    """Compares two processes with one. The runs take turns, since the load of the machine varies."""
    works = {
        "recordings": lambda num_proc: read_first_files(folder, source, num_proc),
        "processes that share nothing": sorts_per_second,
    }
    rounds = [{name: work(2) / work(1) for name, work in works.items()} for _ in range(ROUNDS)]
    for name in works:
        ratios = sorted(ratio[name] for ratio in rounds)
        print(f"two processes and one, {name}: ratio {median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")


def build_one_shard(folder: Path, source: Path, size: int) -> None:
    options = {"name": "ptb_xl", "output": folder / "shard", "source": source, "num_proc": 2}
    num_shards = -(-size // RECORDINGS_PER_FILE)
    seconds, main, child = measure(prepare_shard, shard=2, num_shards=num_shards, **options)
    print(f"a shard of 512 of {size:,}: {seconds:.0f} s; peak {main:.0f} MiB, of a reading process {child:.0f} MiB")


def build_everything(folder: Path, source: Path, size: int) -> None:
    elm_hf.prepare.dataset.find_builder = lambda name: TinyRecords
    options = {"name": "ptb_xl", "output": folder / "whole", "source": source, "seconds": 0.02, "num_proc": 2}
    seconds, main, child = measure(prepare_dataset, **options)
    print(
        f"{size:,} records of 0.02 s, conversations and folds: {seconds:.0f} s; peak {main:.0f} MiB, child {child:.0f} MiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--whole", action="store_true", help="Build a complete dataset from the largest table.")
    arguments = parser.parse_args()
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources = {size: make_source(folder / str(size), size) for size in SIZES}
        build_one_shard(folder, sources[SIZES[-1]], SIZES[-1])
        if arguments.whole:
            build_everything(folder, sources[SIZES[-1]], SIZES[-1])
            return
        compare_sizes(folder, sources)
        compare_processes(folder, sources[SIZES[1]])


if __name__ == "__main__":
    main()
