"""Random access to conversations joined with their ECGs, compared with reading the same rows with plain `datasets`.

python benchmarks/load.py FOLDER   (built by elm-hf prepare)
"""

import sys
import time
from collections.abc import Callable

import numpy as np
from datasets import load_dataset

from elm_hf.data.loading import load_elm_dataset


NUM_ROWS, ROUNDS = 2000, 5


def rows_per_second(read: Callable[[int], object], rows: list[int]) -> float:
    start = time.perf_counter()
    for row in rows:
        read(row)
    return len(rows) / (time.perf_counter() - start)


def main(folder: str) -> None:
    joined = load_elm_dataset(folder)
    conversations = load_dataset(folder, "fold1", split="train")
    records = load_dataset(folder, "records", split="train").with_format("numpy")

    def with_datasets(row: int) -> None:
        for index in conversations[row]["ecg_index"]:
            records[index]["ecg"].astype(np.float32) / 1000

    def with_elm_hf(row: int) -> None:
        list(joined[row]["ecgs"])

    rng = np.random.default_rng(0)
    rates = {with_elm_hf: [], with_datasets: []}
    for _ in range(ROUNDS):  # both take turns, so that a busy machine slows both
        rows = rng.integers(len(joined), size=NUM_ROWS).tolist()
        for read, found in rates.items():
            found.append(rows_per_second(read, rows))
    streamed = load_elm_dataset(folder, streaming=True).take(NUM_ROWS)
    start = time.perf_counter()
    number = sum(len(row["ecgs"][0]) > 0 for row in streamed)
    in_order = number / (time.perf_counter() - start)
    print(f"{len(joined):,} conversations, {len(records):,} records, one core, median of {ROUNDS} rounds")
    print(f"load_elm_dataset, random order    {np.median(rates[with_elm_hf]):8.0f} rows/s")
    print(f"plain datasets, random order      {np.median(rates[with_datasets]):8.0f} rows/s")
    print(f"load_elm_dataset, streamed        {in_order:8.0f} rows/s")


if __name__ == "__main__":
    main(sys.argv[1])
