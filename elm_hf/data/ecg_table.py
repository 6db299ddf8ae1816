"""Access to the ECGs of a dataset by row number, from a memory-mapped table or from remote files."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache
from itertools import accumulate

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset

from elm_hf.modeling.ecg_leads import LEADS


# Number of Parquet row groups kept in memory when streaming. A row group has tens of ECGs.
ROW_GROUPS_KEPT = 32
COLUMNS = ["ecg", "missing_leads"]


class EcgTable(Sequence):
    """
    The ECGs of a memory-mapped table of records. Each ECG is an array `(12, samples)`, float32 in millivolt, with
    leads in the order of `LEADS`. Missing leads are rows of NaN.

    Pickling stores the memory map and not its content, so that worker processes share the table.
    """

    def __init__(self, records: Dataset):
        self._records = records.select_columns(COLUMNS)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, row: int) -> np.ndarray:
        if not 0 <= row < self._num_rows:
            raise IndexError(f"row {row} is out of range: there are {len(self)} records")
        blocks, starts = self._blocks
        block = bisect_right(starts, row) - 1
        return _in_millivolt(blocks[block][row - starts[block]], self._missing_leads.get(row, ()))

    def __getstate__(self) -> dict:
        return {"_records": self._records}

    @cached_property
    def _num_rows(self) -> int:
        return len(self._records)

    @cached_property
    def _blocks(self) -> tuple[list[np.ndarray], list[int]]:
        """
        Views of the memory map, `(rows, 12, samples)`, and the row number at which each starts. Reading a row through
        the columns of the table takes several times as long.
        """
        blocks = [_signals(chunk.storage) for chunk in self._records.data.column("ecg").chunks if len(chunk)]
        return blocks, list(accumulate(map(len, blocks[:-1]), initial=0))

    @cached_property
    def _missing_leads(self) -> dict[int, list[str]]:
        """The missing leads of each record that has any, by row number."""
        column = self._records.data.column("missing_leads")
        rows = np.flatnonzero(pc.list_value_length(column).to_numpy())
        return dict(zip(rows.tolist(), column.take(pa.array(rows)).to_pylist()))


class StreamedEcgTable(Sequence):
    """
    The ECGs of Parquet files that are read on demand, from the Hub or from disk. Access to a row fetches its row
    group; the most recent row groups are cached, so that sequential access reads each row once. ECGs are as in
    [`EcgTable`].
    """

    def __init__(self):
        self._groups: list[tuple[str, int]] = []
        self._starts = np.zeros(1, dtype=np.int64)

    def add_files(self, urls: Sequence[str]) -> None:
        """Append the rows of Parquet files (paths or URLs for fsspec). Only the footers of the files are read."""
        with ThreadPoolExecutor(16) as pool:
            sizes = list(pool.map(_row_group_sizes, urls))
        self._groups += [(url, group) for url, of_file in zip(urls, sizes) for group in range(len(of_file))]
        counts = [size for of_file in sizes for size in of_file]
        self._starts = np.concatenate([self._starts, self._starts[-1] + np.cumsum(counts, dtype=np.int64)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, row: int) -> np.ndarray:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} is out of range: there are {len(self)} records")
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        signals, missing = _row_group(*self._groups[number])
        place = row - int(self._starts[number])
        return _in_millivolt(signals[place], missing[place].as_py())


class EcgSequence(Sequence):
    """The ECGs of a conversation. They are read from the table on access, which keeps other columns fast."""

    def __init__(self, table: EcgTable | StreamedEcgTable | None, rows: list[int]):
        self._table = table
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int | slice) -> np.ndarray | list[np.ndarray]:
        if isinstance(index, slice):
            return [self._table[row] for row in self._rows[index]]
        return self._table[self._rows[index]]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self._table[row] for row in self._rows)

    def __repr__(self) -> str:
        return f"EcgSequence(records={self._rows})"


def _in_millivolt(microvolt: np.ndarray, missing_leads: Sequence[str]) -> np.ndarray:
    ecg = microvolt.astype(np.float32)
    ecg /= 1000
    for lead in missing_leads:
        ecg[LEADS.index(lead)] = np.nan
    return ecg


def _signals(ecgs: pa.ListArray) -> np.ndarray:
    """A view `(rows, 12, samples)` of nested lists that all have the same shape."""
    return ecgs.flatten().flatten().to_numpy(zero_copy_only=True).reshape(len(ecgs), len(LEADS), -1)


def _row_group_sizes(url: str) -> list[int]:
    with fsspec.open(url) as file:
        metadata = pq.read_metadata(file)
    return [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]


@lru_cache(ROW_GROUPS_KEPT)
def _row_group(url: str, number: int) -> tuple[np.ndarray, pa.ChunkedArray]:
    """Signals `(rows, 12, samples)`, int16, and missing leads of a row group. Each process has its own cache."""
    with fsspec.open(url) as file:
        table = pq.ParquetFile(file).read_row_group(number, columns=COLUMNS)
    ecgs = table.column("ecg").combine_chunks()
    return _signals(ecgs.storage if isinstance(ecgs, pa.ExtensionArray) else ecgs), table.column("missing_leads")
