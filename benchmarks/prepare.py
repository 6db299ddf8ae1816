"""Time per 10 s record from WFDB files to the `records` table, compared with a typical script, on one core.

The reference reads with `wfdb.rdsamp`, resamples each lead with `scipy.interpolate.interp1d(kind="cubic")` and saves a
`.npy` file with a dictionary for each segment. elm-hf checks and orders the leads, resamples with an anti-aliasing
filter and writes Parquet. Both read the same copies of real records.

python benchmarks/prepare.py [folder with WFDB records of 500 Hz, default: ../shared/data/csn]
"""

import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import wfdb
from scipy.interpolate import interp1d

from elm_hf.ecg.recording import read_recording, segments
from elm_hf.modeling.ecg_reading import load_ecg
from elm_hf.modeling.ecg_resampling import resample
from elm_hf.prepare.builder import find_builder
from elm_hf.prepare.record_files import RecordFiles


RECORDS = 128
ROUNDS = 3


def copy_records(source: Path, folder: Path) -> list[Path]:
    """Copies records of the source under new names, `RECORDS` in all. Returns their paths without endings."""
    headers = sorted(source.rglob("*.hea"))
    if not headers:
        raise SystemExit(f"{source}: no WFDB records; name a folder that contains some")
    paths = []
    for number in range(RECORDS):
        header = headers[number % len(headers)]
        path = folder / f"JS{number:05d}"
        path.with_suffix(".hea").write_text(header.read_text().replace(header.stem, path.name))
        for signal in header.parent.glob(f"{header.stem}.[dm]at"):
            shutil.copy(signal, path.with_suffix(signal.suffix))
        paths.append(path)
    return paths


def typical(paths: list[Path], output: Path) -> None:
    """What typical scripts do for each record."""
    for path in paths:
        signal, fields = wfdb.rdsamp(str(path))
        before, after = np.arange(len(signal)) / fields["fs"], np.arange(len(signal) // 2) / 250
        leads = [interp1d(before, lead, kind="cubic")(after) for lead in signal.T]
        np.save(output / f"{path.name}_0.npy", {"ecg": np.stack(leads), "sig_name": fields["sig_name"]})


def milliseconds(job: Callable, paths: list) -> float:
    """CPU time per record."""
    start = time.process_time()
    job(paths)
    return (time.process_time() - start) / len(paths) * 1000


def main() -> None:
    shared = Path(__file__).resolve().parents[2] / "shared" / "data" / "csn"
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else shared
    with TemporaryDirectory() as folder:
        records, output = Path(folder, "source", "WFDBRecords"), Path(folder, "npy")
        records.mkdir(parents=True)
        output.mkdir()
        paths = copy_records(source, records)
        builder = find_builder("csn")(cache_dir=folder, config_name="conversations", source=str(records.parent))
        references = list(builder.list_recordings())
        files = RecordFiles(Path(folder, "work"), len(references), "benchmark")
        (files.work / "skipped").mkdir(parents=True)
        jobs = {
            "typical script": lambda paths: typical(paths, output),
            "only wfdb.rdsamp": lambda paths: [wfdb.rdsamp(str(path)) for path in paths],
            "elm-hf: read, check, resample, write": lambda paths: files.write(0, builder, references),
            "  only load_ecg": lambda paths: [load_ecg(path) for path in paths],
            "  only load_ecg and resample": lambda paths: [resample(load_ecg(path)[0], 500, 250) for path in paths],
            "  only read_recording and segments": lambda paths: [segments(read_recording(path), 10) for path in paths],
        }
        times = {name: [] for name in jobs}
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(ROUNDS):
            for name, job in jobs.items():
                times[name].append(milliseconds(job, paths))
        growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        size = files.path(0).stat().st_size / len(references) / 1024
    print(f"{RECORDS} records of 12 leads, 10 s at 500 Hz, to 250 Hz; CPU time of one core, median of {ROUNDS} rounds")
    reference = np.array(times["typical script"])
    for name, found in times.items():
        ratio = np.median(reference / np.array(found))
        print(f"{name:40} {np.median(found):6.2f} ms, {1000 / np.median(found):5.0f} records/s, ratio {ratio:5.1f}")
    print(f"Parquet {size:.1f} KiB per record; memory grew by {growth:.0f} MiB over {ROUNDS} rounds")


if __name__ == "__main__":
    main()
