"""Read an ECG from a table with a column for each lead, as spreadsheet programs write it."""

import io
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from elm_hf.ecg.spreadsheet import TableError, TextTable, open_table, split_unit
from elm_hf.modeling.ecg_leads import canonical_lead, is_lead
from elm_hf.modeling.ecg_segments import LARGEST_RATE, SMALLEST_RATE


MILLIVOLTS = {"mV": 1.0, "uV": 1e-3, "µV": 1e-3, "V": 1e3}
_SPELLINGS = {"mv": "mV", "millivolt": "mV", "uv": "uV", "microvolt": "uV", "v": "V", "volt": "V"}
# Seconds of a unit of time, by its names.
_SECONDS = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds", "sekunden"), 1.0),
    **dict.fromkeys(("ms", "msec", "millisecond", "milliseconds", "millisekunden"), 1e-3),
    **dict.fromkeys(("us", "usec", "microsecond", "microseconds"), 1e-6),
}
_TIMES = ("time", "t", "timestamp", "elapsed time", "zeit", "temps", "tiempo", "tempo", "tijd")
_COUNTERS = ("", "index", "sample", "samples", "sample number", "n", "no", "nr", "#", "unnamed: 0", "row")
# A unit behind the name of a lead, without brackets: `I_mV`, `I in µV`, `I, mV`.
_BARE_UNIT = re.compile(r"(.+?)[\s_,/:;.-]+(?:in\s+)?([mu]?v|millivolts?|microvolts?|volts?|m?s)")
# What may precede the name of a lead in other languages.
_LEAD_WORD = re.compile(r"(?:ableitung|abl\.?|d[ée]rivation|derivaci[óo]n|derivazione|afleiding)[\s_]+", re.I)
# A number with a comma, by what is before and behind the comma.
_COMMA = re.compile(r"(?<![\w.,])[-+]?(\d+),(\d+)(?:[eE][-+]?\d+)?(?![\w.,])")
_POINT = re.compile(r"(?<![\w.,])[-+]?\d*\.\d+(?:[eE][-+]?\d+)?(?![\w.,])")
_THOUSANDS = re.compile(r"(?<![\w.,])[-+]?\d+(?:,\d+\.|\.\d+,)\d")
# Shortest recording of which the sampling rate can be told from the times of its samples.
_FEWEST_TIMES = 10


@dataclass
class SignalTable:
    """
    The signals of a table.

    Attributes:
        signals: `(columns, samples)` float64 in mV if `unit` is known, otherwise in the unit of the table. NaN where a
            cell is empty.
        names: names of the signals. Those of the leads are as in `LEADS`.
        unit: unit that the header gives for all leads, see `MILLIVOLTS`; None if it gives none.
        sampling_rate: what the column of times says, in Hz; None without such a column.
        times: the times of the samples in seconds from the first on; None without such a column.
        notes: what was read in another way than as a plain CSV file, in words.
    """

    signals: np.ndarray
    names: list[str]
    unit: str | None
    sampling_rate: float | None
    times: np.ndarray | None
    notes: list[str]

    def agrees(self, sampling_rate: float) -> bool:
        """Whether the column of times, if there is one, is consistent with a sampling rate."""
        return self.times is None or _fits(self.times, sampling_rate)


def known_unit(name: object) -> str | None:
    """
    A unit of voltage in the spelling of `MILLIVOLTS`, such as `"uV"` for `"UV"` or `"microvolt"`; None if it is none, as a
    number from a JSON file.
    """
    plain = str(name).strip().lower().replace("µ", "u").replace("μ", "u")
    return _SPELLINGS.get(plain) or _SPELLINGS.get(plain.removesuffix("s"))


def read_signal_table(path: Path) -> SignalTable:
    """
    Read a table with the names of the leads in its header and a row for each sample.

    A column of times gives the sampling rate, a column that counts the samples is dropped, and the header may give the
    units: `I (µV)`.

    Args:
        path: path with the suffix `.csv`, `.tsv` or `.xlsx`.

    Raises:
        TableError: the table cannot be read, or what it means is not certain. The message does not contain the path.
        OSError: the file cannot be read.
        ImportError: it is an .xlsx file, and python-calamine is not installed.
    """
    table = open_table(path)
    names, columns, decimal_note = _numbers(table)
    notes = [*table.notes, *decimal_note]
    times = rate = None
    signals, kept, units = [], [], {}
    for name, column in zip(names, columns):
        plain, unit = _name_and_unit(name)
        if is_lead(plain):
            kept.append(canonical_lead(plain))
            units[name] = unit
            signals.append(column)
        elif _is_time(plain, name):
            if times is not None:
                raise TableError(f'two columns of times, the second one is "{name}"; remove one')
            times, rate, note = _times(name, unit, column)
            notes.append(note)
        elif plain.lower() in _COUNTERS and _counts(column):
            notes.append(f'the column "{name}" counts the samples')
        else:
            kept.append(name)
            signals.append(column)
    if not signals:
        raise TableError("contains no signals; expected a column for each lead, with its name in the first line")
    unit = _common_unit(units)
    signals = np.stack(signals)
    if unit is not None:
        notes.append(f"in {unit}")
        signals *= MILLIVOLTS[unit]
    return SignalTable(signals, kept, unit, rate, times, notes)


def _numbers(table: TextTable) -> tuple[list[str], list[np.ndarray], list[str]]:
    """The names of the columns, their numbers, and a note if these have decimal commas."""
    with table.open() as file:
        text = file.read()
    header, _, cells = text.partition("\n")
    if not cells or cells.isspace():
        raise TableError("contains no samples" if header.strip() else "is empty")
    has_commas = _has_decimal_commas(cells, table.separator)
    try:
        read = pyarrow.csv.read_csv(
            io.BytesIO(text.encode()),
            parse_options=pyarrow.csv.ParseOptions(delimiter=table.separator),
            convert_options=pyarrow.csv.ConvertOptions(decimal_point="," if has_commas else "."),
        )
    except pa.ArrowException as error:
        raise TableError(f"cannot be read ({error})") from error
    names, columns = [], []
    for name, column in zip(read.column_names, read.columns):
        if not name.strip() and column.null_count == len(column):
            continue  # a separator at the end of each line
        if not (
            pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_null(column.type)
        ):
            raise TableError(f'column "{name}" holds {column.type}, expected numbers')
        names.append(name.strip())
        columns.append(column.cast(pa.float64(), safe=False).to_numpy())
    if not read.num_rows:
        raise TableError("contains no samples")
    if names and all(_is_number(name) for name in names):
        raise TableError("the first line contains numbers, expected the names of the leads")
    valid = np.flatnonzero(~np.all(np.isnan(columns), axis=0))
    if not len(valid):
        raise TableError("all cells are empty")
    end = valid[-1] + 1  # spreadsheet programs write empty rows below a table
    return names, [column[:end] for column in columns], ["decimal commas"] if has_commas else []


def _is_number(text: str) -> bool:
    return bool(re.fullmatch(r"[-+]?[\d.,]+(?:[eE][-+]?\d+)?", text))


def _has_decimal_commas(cells: str, separator: str) -> bool:
    """
    Whether the numbers have decimal commas.

    Raises:
        TableError: commas may also separate thousands.
    """
    if separator == "," and '"' not in cells:
        return False
    if separator == ",":  # only commas in quotes are in numbers
        cells = "\n".join(re.findall(r'"([^"\n]*)"', cells))
    if "," not in cells:
        return False
    mixed = _THOUSANDS.search(cells)
    found = [] if mixed else _COMMA.findall(cells)
    if mixed or (found and _POINT.search(cells)):
        raise TableError("numbers with points and with commas; save it without separators of thousands")
    if found and not any(whole.startswith("0") or len(decimals) != 3 for whole, decimals in found):
        example = ",".join(found[0])
        raise TableError(
            f"a number such as {example} may be {example.replace(',', '.')} or {example.replace(',', '')}; save it with "
            "decimal points, or without separators of thousands"
        )
    return bool(found)


def _name_and_unit(name: str) -> tuple[str, str | None]:
    """The name of a column without its unit, and the unit."""
    name = _LEAD_WORD.sub("", name)
    plain, unit = split_unit(name)
    if unit is None:
        found = _BARE_UNIT.fullmatch(name.strip().lower().replace("µ", "u").replace("μ", "u"))
        if found and (is_lead(found[1]) or found[1] in _TIMES):
            return found[1], found[2]
    return plain, unit


def _is_time(plain: str, name: str) -> bool:
    return plain.lower() in _TIMES or (name.strip().lower() in _SECONDS and len(name.strip()) > 1)


def _counts(column: np.ndarray) -> bool:
    return bool(column[0] in (0, 1) and (np.diff(column) == 1).all())


def _times(name: str, unit: str | None, column: np.ndarray) -> tuple[np.ndarray, float, str]:
    """The times in seconds, the sampling rate and a note about it."""
    steps = np.diff(column)
    if len(column) < _FEWEST_TIMES or not np.isfinite(steps).all():
        raise TableError(
            f'column "{name}" has empty cells or under {_FEWEST_TIMES} rows, expected the time of each sample'
        )
    step = (column[-1] - column[0]) / len(steps)
    uneven = np.flatnonzero((steps < 0.5 * step) | (steps > 1.5 * step))
    if step <= 0 or len(uneven):
        row = int(uneven[0]) + 2 if len(uneven) else 2
        raise TableError(
            f'column "{name}" does not increase evenly: {column[row - 2]:g} is followed by {column[row - 1]:g} in row {row}; '
            "complete the recording, or remove the column"
        )
    seconds = _seconds(name, unit or (name.strip().lower() if name.strip().lower() in _SECONDS else None), step)
    times = (column - column[0]) * seconds
    rate = len(steps) / times[-1]
    if _fits(times, round(rate)):
        rate = float(round(rate))
    return times, rate, f'{rate:g} Hz, by the column "{name}"'


def _seconds(name: str, unit: str | None, step: float) -> float:
    """
    The seconds of a unit of time. If the header gives no unit, it is the one with which the sampling rate is possible:
    no rate is in two of them.
    """
    if unit is not None:
        known = _SECONDS.get(unit.strip().lower().replace("µ", "u").replace("μ", "u"))
        if known is None:
            raise TableError(f'column "{name}": unit "{unit}", expected s, ms or µs')
        return known
    possible = [seconds for seconds in (1.0, 1e-3, 1e-6) if SMALLEST_RATE <= 1 / (step * seconds) <= LARGEST_RATE]
    if step == 1:
        raise TableError(
            f'column "{name}" counts 1, 2, 3, which may be milliseconds or samples; name it "Time (ms)" or "Sample"'
        )
    if not possible:
        raise TableError(
            f'column "{name}" increases by {step:g}, which is the sampling interval of no ECG; give its unit in the '
            'header, such as "Time (ms)", or remove it'
        )
    return max(possible)


def _fits(times: np.ndarray, rate: float) -> bool:
    """Whether each time, which may be rounded, is nearest to that of its sample at a sampling rate."""
    return bool(rate > 0 and np.abs(times * rate - np.arange(len(times))).max() < 0.5)


def _common_unit(units: dict[str, str | None]) -> str | None:
    """The unit that the header gives for all leads."""
    found = {}
    for name, unit in units.items():
        if unit is not None and known_unit(unit) is None:
            raise TableError(f'column "{name}": unit "{unit}", expected mV, µV or V')
        found.setdefault(None if unit is None else known_unit(unit), name)
    if len(found) > 1:
        (first, one), (second, other) = list(found.items())[:2]
        raise TableError(
            f'column "{one}" is in {first or "no unit"} and "{other}" in {second or "no unit"}; use one unit for all leads'
        )
    return next(iter(found), None)
