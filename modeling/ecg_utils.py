"""ECG signal utilities: lead names and order, the limb-lead check, resampling, gaps, reading WFDB records."""

import re
from fractions import Fraction
from functools import lru_cache
from os import PathLike
from pathlib import Path

import numpy as np


LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
SAMPLING_RATE = 250
LARGEST_SPAN = 20  # mV that half of the leads may span; ECGs span 0.2 to 5 mV, hundreds and more are microvolt

_CANONICAL_LEADS = {lead.lower(): lead for lead in LEADS} | {"di": "I", "dii": "II", "diii": "III"}
_MILLIVOLTS = {"mv": 1.0, "uv": 1e-3, "v": 1e3}

# a line of a WFDB header for one signal: https://physionet.org/physiotools/wag/header-5.htm
_SIGNAL_LINE = re.compile(
    rb"(?P<file>\S+)\s+(?P<format>\d+)(x(?P<frame>\d+))?(:(?P<skew>\d+))?(\+(?P<offset>\d+))?"
    rb"(\s+(?P<gain>[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?)(\((?P<baseline>[-+]?\d+)\))?(/(?P<unit>\S+))?"
    rb"(\s+(?P<resolution>\d+)(\s+(?P<zero>[-+]?\d+)(\s+(?P<first>[-+]?\d+)(\s+(?P<checksum>[-+]?\d+)"
    rb"(\s+(?P<block>\d+)(\s+(?P<lead>.+))?)?)?)?)?)?)?"
)
_DEFAULT_GAIN = 200.0
_INVALID_SAMPLE = -32768

# how the other limb leads follow from I and II
_LIMB_LEAD_IDENTITIES = (
    ("III", "II - I", lambda i, ii: ii - i),
    ("aVR", "-(I + II)/2", lambda i, ii: -(i + ii) / 2),
    ("aVL", "I - II/2", lambda i, ii: i - ii / 2),
    ("aVF", "II - I/2", lambda i, ii: ii - i / 2),
)
# resampling: output samples of a block, at least; and the factors above which no weights are kept
_BLOCK = 32
_LARGEST_FACTOR = 2048
# mV, and share of the samples allowed beyond it: see limb_lead_error
_LIMB_LEAD_TOLERANCE = 0.03
_LIMB_LEAD_SHARE = 0.02


@lru_cache(maxsize=256)
def canonical_lead(name: str) -> str:
    """
    The spelling in `LEADS` of a lead name, whatever its case; `DI`, `DII`, `DIII` are I, II, III.

    Raises:
        ValueError: the name is none of the twelve standard leads.
    """
    lead = _CANONICAL_LEADS.get(str(name).strip().lower())
    if lead is None:
        raise ValueError(f'lead "{name}" is not one of {", ".join(LEADS)}')
    return lead


def place_leads(
    ecg: np.ndarray, lead_names: list[str] | tuple[str, ...], leads: tuple[str, ...] = LEADS
) -> tuple[np.ndarray, list[str]]:
    """
    Bring the leads of an ECG into the order of `leads`, by name and never by position.

    Args:
        ecg: `(len(lead_names), samples)`, any unit.
        lead_names: the name of each row, in any case.
        leads: the leads wanted, in the order wanted. Other standard leads of `ecg` are left out.

    Returns:
        The ECG `(len(leads), samples)`, float32, with rows of NaN for leads it lacks; and the names of those leads.

    Raises:
        ValueError: an unknown or repeated lead name, or not as many names as rows.
    """
    ecg = np.asarray(ecg)
    if ecg.ndim != 2 or len(ecg) != len(lead_names):
        raise ValueError(f"an ECG of shape {ecg.shape} needs one lead name per row, got {len(lead_names)} names")
    rows = {}
    for row, name in enumerate(lead_names):
        lead = canonical_lead(name)
        if lead in rows:
            raise ValueError(f'lead "{lead}" stands in the ECG twice, in rows {rows[lead]} and {row}')
        rows[lead] = row
    wanted = [canonical_lead(lead) for lead in leads]
    placed = np.empty((len(wanted), ecg.shape[1]), dtype=np.float32)
    for target, lead in enumerate(wanted):
        placed[target] = ecg[rows[lead]] if lead in rows else np.nan
    return placed, [lead for lead in wanted if lead not in rows]


def limb_lead_error(ecg: np.ndarray, leads: tuple[str, ...] | list[str] = LEADS) -> str | None:
    """
    Whether the limb leads agree with each other: III = II - I, aVR = -(I + II)/2, aVL = I - II/2, aVF = II - I/2
    (Einthoven 1912, Goldberger 1942).

    A lead fails when it is more than 0.03 mV away from what the others say in more than 2 % of the samples. Digital
    steps (up to 0.012 mV on real records) and a start-up transient of some samples stay below that, two exchanged
    leads or an inverted one do not, unless they are as good as equal or zero. Samples that are NaN, flat leads and
    identities whose leads are not present are left out (an absent I or II is worked out from III). Exchanged
    electrodes are not seen: the leads of such a recording still agree.

    Args:
        ecg: `(len(leads), samples)` in mV, NaN where invalid.
        leads: the name of each row.

    Returns:
        None when they agree, else a sentence that names the leads that fail and by how much.
    """
    rows = {
        canonical_lead(lead): row
        for lead, row in zip(leads, np.asarray(ecg, np.float32), strict=True)
        if not is_flat(row)
    }
    if "I" not in rows and {"II", "III"} <= rows.keys():
        rows["I"] = rows["II"] - rows["III"]
    if "II" not in rows and {"I", "III"} <= rows.keys():
        rows["II"] = rows["I"] + rows["III"]
    if not {"I", "II"} <= rows.keys():
        return None
    failures = []
    for lead, formula, expected in _LIMB_LEAD_IDENTITIES:
        if lead not in rows:
            continue
        deviation = np.abs(rows[lead] - expected(rows["I"], rows["II"]))
        deviation = deviation[np.isfinite(deviation)]
        share = np.mean(deviation > _LIMB_LEAD_TOLERANCE) if deviation.size else 0.0
        if share > _LIMB_LEAD_SHARE:
            failures.append(
                f"{lead} is not {formula} (off by up to {deviation.max():.2f} mV, by more than "
                f"{_LIMB_LEAD_TOLERANCE} mV in {share:.0%} of the samples)"
            )
    return ", ".join(failures) + ": two leads may be exchanged, or one inverted" if failures else None


def is_flat(lead: np.ndarray) -> bool:
    """Whether a lead `(samples,)` has no signal: no valid sample, or the same value in every valid one."""
    if not lead.size:
        return True
    low, high = lead.min(), lead.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        valid = lead[np.isfinite(lead)]
        return bool(valid.size == 0 or valid.min() == valid.max())
    return bool(low == high)


def resample(ecg: np.ndarray, sampling_rate: float, new_sampling_rate: float, method: str = "polyphase") -> np.ndarray:
    """
    Change the sampling rate. Sample k of the result lies at k / new_sampling_rate seconds, like sample k of the input
    at k / sampling_rate: nothing is stretched or shifted.

    The result has `ceil(samples * new_sampling_rate / sampling_rate)` samples, every one that lies before the end of
    the input (samples / sampling_rate). It is NaN where the time falls on or beside an invalid input sample, and
    nowhere else: gaps do not spread.

    Args:
        ecg: `(..., samples)`, NaN where invalid.
        sampling_rate: of `ecg`, in Hz.
        new_sampling_rate: wanted, in Hz.
        method: "polyphase" filters out what the new rate cannot carry (a polyphase FIR with a Kaiser window); "cubic" is a
            cubic spline without a low-pass, which folds high frequencies down: only to reproduce published
            preprocessing.

    Returns:
        `(..., new samples)`, float32.

    Raises:
        ValueError: a sampling rate that is not from 1 to 100,000 Hz, fewer than 2 samples or an unknown method.
    """
    if method not in ("polyphase", "cubic"):
        raise ValueError(f'method "{method}" is not one of polyphase, cubic')
    ecg = np.asarray(ecg, dtype=np.float32)
    ratio = _rate(new_sampling_rate) / _rate(sampling_rate)
    if ecg.shape[-1] < 2:
        raise ValueError(f"an ECG of shape {ecg.shape} cannot be resampled: it has fewer than 2 samples")
    if ratio == 1:
        return ecg.copy()
    signal = ecg.reshape(-1, ecg.shape[-1])
    invalid = ~np.isfinite(signal)
    if invalid.any():
        signal = np.stack([_interpolate(row, bad) for row, bad in zip(signal, invalid)])
    resampled = _polyphase(signal, ratio) if method == "polyphase" else _cubic(signal, ratio)
    if invalid.any():
        before, after = _neighbours(ratio, signal.shape[-1], resampled.shape[-1])
        resampled[invalid[:, before] | invalid[:, after]] = np.nan
    return resampled.reshape(*ecg.shape[:-1], -1).astype(np.float32, copy=False)


def _rate(sampling_rate: float) -> Fraction:
    if not 1 <= sampling_rate <= 100_000:  # nor is NaN
        raise ValueError(f"sampling rate {sampling_rate} Hz is not a number from 1 to 100,000")
    return Fraction(sampling_rate).limit_denominator(1000)


def _polyphase(signal: np.ndarray, ratio: Fraction) -> np.ndarray:
    """
    The result of `scipy.signal.resample_poly` with a Kaiser window, several times faster: each block of output samples is
    one matrix product. In double precision, as in single the rounding to microvolt would depend on the processor.
    """
    up, down = ratio.numerator, ratio.denominator
    # The filter's gain differs by up to 1e-4 between output samples, so a baseline offset would come out as a ripple.
    offset = signal.mean(axis=-1, keepdims=True, dtype=np.float64)
    if max(up, down) > _LARGEST_FACTOR:
        return _long_polyphase(signal - offset, up, down) + offset
    weights, margin = _filter_weights(up, down)
    inputs, outputs = weights.shape
    samples = signal.shape[1]
    new_samples = -(-samples * up // down)
    count, step = -(-new_samples // outputs), outputs * down // up
    # the point reflection keeps value and slope at both ends
    edge = min(samples, margin + 1)
    first, last = signal[:, :edge].astype(np.float64), signal[:, -edge:].astype(np.float64)
    before = np.pad(first, ((0, 0), (margin, 0)), mode="reflect", reflect_type="odd")[:, :margin]
    after = np.pad(last, ((0, 0), (0, margin)), mode="reflect", reflect_type="odd")[:, edge:]
    # lead by lead: what is worked on stays in the processor's cache
    padded = np.zeros(max((count - 1) * step + inputs, samples + 2 * margin))
    blocks = np.lib.stride_tricks.sliding_window_view(padded, inputs)[::step][:count]
    missing_gain = 1 - weights.sum(axis=0)
    resampled = np.empty((len(signal), new_samples), np.float32)
    for row, lead in enumerate(signal):
        padded[: samples + 2 * margin] = np.concatenate([before[row], lead, after[row]])
        product = np.ascontiguousarray(blocks) @ weights + offset[row] * missing_gain
        resampled[row] = product.reshape(-1)[:new_samples]
    return resampled


@lru_cache(maxsize=8)
def _filter_weights(up: int, down: int) -> tuple[np.ndarray, int]:
    """
    The low-pass's weights `(input samples, output samples)` of a block of output samples, and how many input samples
    before its first output sample the block begins.
    """
    half = 10 * max(up, down)
    taps = np.arange(-half, half + 1)
    kernel = np.sinc(taps / max(up, down)) * np.kaiser(taps.size, 8.0)
    margin = -(-half // up)
    outputs = up * max(1, _BLOCK // up)
    inputs = -(-(outputs - 1) * down // up) + 1 + 2 * margin
    # in steps of the common multiple of both rates: from each input sample to each output sample
    distance = np.arange(outputs) * down - (np.arange(inputs)[:, None] - margin) * up
    weights = kernel[np.clip(distance + half, 0, 2 * half)] * (np.abs(distance) <= half)
    return weights * (up / kernel.sum()), margin


def _long_polyphase(signal: np.ndarray, up: int, down: int) -> np.ndarray:
    """For rates without a small common multiple, whose weights would fill the memory."""
    try:
        from scipy.signal import resample_poly
    except ImportError as error:
        raise ImportError("resampling an ECG between such rates needs scipy: pip install scipy") from error
    return resample_poly(signal, up, down, axis=-1, window=("kaiser", 8.0), padtype="antireflect")


def _cubic(signal: np.ndarray, ratio: Fraction) -> np.ndarray:
    try:
        from scipy.interpolate import CubicSpline
    except ImportError as error:
        raise ImportError("resampling an ECG needs scipy: pip install scipy") from error
    samples = signal.shape[-1]
    positions = np.arange(-(-samples * ratio.numerator // ratio.denominator)) * ratio.denominator / ratio.numerator
    # at a higher rate the last samples lie beyond the last input sample; a spline would run away there, so it is held
    return CubicSpline(np.arange(samples), signal, axis=-1)(np.minimum(positions, samples - 1))


def _neighbours(ratio: Fraction, samples: int, new_samples: int) -> tuple[np.ndarray, np.ndarray]:
    """The input samples at or before and at or after each output sample."""
    positions = np.arange(new_samples) * ratio.denominator
    before = positions // ratio.numerator
    after = -(-positions // ratio.numerator)
    return before, np.minimum(after, samples - 1)


def _interpolate(row: np.ndarray, bad: np.ndarray) -> np.ndarray:
    """Linear interpolation over the samples marked bad; zeros where none is good."""
    if bad.all():
        return np.zeros_like(row)
    time = np.arange(row.size)
    filled = row.copy()
    filled[bad] = np.interp(time[bad], time[~bad], row[~bad])
    return filled


def fill_gaps(ecg: np.ndarray, sampling_rate: float, max_gap_s: float = 0.1) -> np.ndarray:
    """
    Interpolate short gaps linearly; longer ones stay NaN. A short gap at the start or end takes the nearest sample.

    Args:
        ecg: `(leads, samples)`, NaN where invalid.
        sampling_rate: in Hz.
        max_gap_s: longest run of invalid samples that is filled, in seconds.

    Returns:
        A copy `(leads, samples)`, float32.
    """
    filled = np.array(ecg, dtype=np.float32)
    longest = max_gap_s * sampling_rate + 1e-6
    for row in filled:
        bad = ~np.isfinite(row)
        if not bad.any() or bad.all():
            continue
        edges = np.flatnonzero(np.diff(np.concatenate([[False], bad, [False]])))
        starts, ends = edges[::2], edges[1::2]
        interpolated = _interpolate(row, bad)
        for start, end in zip(starts, ends):
            row[start:end] = interpolated[start:end] if end - start <= longest else np.nan
    return filled


def load_ecg(path: str | PathLike) -> tuple[np.ndarray, int | float, list[str]]:
    """
    Read a WFDB record with all its leads, in the order and under the names of its header.

    Format 16 (the records of PTB-XL, MIMIC-IV-ECG and the PhysioNet/CinC Challenges) is read here, with the result of
    `wfdb.rdrecord`, some ten times faster, and checked against the header's checksums; other formats are read by `wfdb`.

    Args:
        path: the record, with or without `.hea`, `.dat` or `.mat`.

    Returns:
        The ECG `(leads, samples)`, float32 in mV with NaN where the record marks a sample as invalid; the sampling
        rate in Hz; the lead names.

    Raises:
        FileNotFoundError: the header, or a signal file it names, is missing.
        ValueError: the header cannot be read, does not fit its signal file, has several segments, names a file in
            another folder, a signal without a name, or a unit other than mV, uV, µV and V.
        ImportError: the record is not in format 16 and `wfdb` is not installed.
    """
    record_path = Path(path)
    if record_path.suffix.lower() in (".hea", ".dat", ".mat"):
        record_path = record_path.with_suffix("")
    header_path = record_path.with_name(record_path.name + ".hea")
    record_line, signal_lines = _header_lines(header_path)
    signals = [_SIGNAL_LINE.fullmatch(line) for line in signal_lines]
    if _is_plain_format_16(record_line, signals):
        ecg, lead_names, units = _read_format_16(header_path, int(record_line.split()[3]), signals)
    else:
        ecg, lead_names, units = _read_with_wfdb(record_path, header_path)
    scale = [
        _unit_in_millivolt(unit, line, f'{header_path}: lead "{lead}"')
        for unit, line, lead in zip(units, signal_lines, lead_names, strict=True)
    ]
    if any(factor != 1 for factor in scale):
        ecg = ecg * np.array(scale)[:, None]
    return ecg.astype(np.float32, copy=False), _header_sampling_rate(record_line, header_path), lead_names


def _is_plain_format_16(record_line: bytes, signals: list[re.Match | None]) -> bool:
    """Whether the header is as expected, and its signals lie sample by sample in one file of 16-bit numbers."""
    fields = record_line.split()
    return (
        len(fields) > 3
        and fields[1] == str(len(signals)).encode()
        and fields[3].isdigit()
        and int(fields[3]) > 0
        and all(signals)
        and all(signal["format"] == b"16" and signal["lead"] for signal in signals)
        and all(signal["frame"] in (None, b"1") and signal["skew"] in (None, b"0") for signal in signals)
        and len({(signal["file"], signal["offset"]) for signal in signals}) == 1
    )


def _read_format_16(
    header_path: Path, samples: int, signals: list[re.Match]
) -> tuple[np.ndarray, list[str], list[str]]:
    """The signals `(leads, samples)`, float32 in their units, lead names and units."""
    file_name, offset = signals[0]["file"].decode("latin-1"), int(signals[0]["offset"] or 0)
    signal_path = header_path.with_name(file_name)
    if not signal_path.is_file():
        raise FileNotFoundError(f"{signal_path}: no such file, but {header_path} names it")
    found, expected = signal_path.stat().st_size, offset + 2 * samples * len(signals)
    if found < expected:
        raise ValueError(
            f"{header_path}: {file_name} has {found} bytes, expected {expected} for {len(signals)} leads of {samples} "
            "samples: it was cut short, or the header belongs to another file"
        )
    digital = np.fromfile(signal_path, "<i2", samples * len(signals), offset=offset).reshape(samples, -1)
    _compare_checksums(digital, signals, header_path)
    ecg = np.empty((len(signals), samples), np.float32)
    any_invalid = digital.min() == _INVALID_SAMPLE
    for row, (signal, lead) in enumerate(zip(signals, np.ascontiguousarray(digital.T))):
        zero = float(signal["baseline"] or signal["zero"] or 0)
        ecg[row] = (lead - zero) / (float(signal["gain"] or 0) or _DEFAULT_GAIN)
        if any_invalid:
            ecg[row, lead == _INVALID_SAMPLE] = np.nan
    lead_names = [signal["lead"].decode("utf-8", "replace") for signal in signals]
    return ecg, lead_names, [(signal["unit"] or b"mV").decode("latin-1") for signal in signals]


def _compare_checksums(digital: np.ndarray, signals: list[re.Match], header_path: Path) -> None:
    """A checksum is the sum of a lead's samples in 16 bits, which some writers take as signed and others do not."""
    written = [int(signal["checksum"] or 0) for signal in signals]
    if not any(written):  # some writers leave them out, or write zeros
        return
    for signal, checksum, found in zip(signals, written, digital.sum(axis=0, dtype=np.int64)):
        if signal["checksum"] and (checksum - found) % 65536:
            raise ValueError(
                f'{header_path}: the samples of lead "{signal["lead"].decode("latin-1")}" do not add up to its checksum '
                f"({found % 65536}, expected {checksum % 65536}): the signal file was damaged or replaced"
            )


def _read_with_wfdb(record_path: Path, header_path: Path) -> tuple[np.ndarray, list[str], list[str]]:
    """The signals `(leads, samples)`, float64 in their units, lead names and units."""
    try:
        import wfdb
    except ImportError as error:
        raise ImportError("reading a WFDB record that is not in format 16 needs wfdb: pip install wfdb") from error
    try:
        record = wfdb.rdrecord(str(record_path))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error.filename}: no such file, but {header_path} names it") from error
    except Exception as error:  # wfdb answers damage with whatever it runs into: IndexError, KeyError, ValueError, ...
        raise ValueError(
            f"{header_path}: no readable WFDB header, or its signal file is not as it says ({error})"
        ) from error
    if record.p_signal is None:
        raise ValueError(f"{header_path}: names no signals")
    if None in record.sig_name:
        raise ValueError(f"{header_path}: signal {record.sig_name.index(None)} has no lead name")
    return np.ascontiguousarray(record.p_signal.T), list(record.sig_name), record.units


def _header_lines(header_path: Path) -> tuple[bytes, list[bytes]]:
    """The record line and the signal lines of a single-segment WFDB header, as bytes."""
    if not header_path.is_file():
        raise FileNotFoundError(f"{header_path}: no such file; a WFDB record needs its .hea header")
    lines = [line.strip() for line in header_path.read_bytes().splitlines()]
    lines = [line for line in lines if line and not line.startswith(b"#")]
    if not lines:
        raise ValueError(f"{header_path}: no WFDB header, the file is empty")
    if b"/" in lines[0].split()[0]:
        raise ValueError(f"{header_path}: a record of several segments; give the path of one of them")
    for line in lines[1:]:
        file_name = line.split()[0].decode("latin-1")
        if "/" in file_name or "\\" in file_name:
            raise ValueError(f'{header_path}: its signal file "{file_name}" is in another folder, expected beside it')
    return lines[0], lines[1:]


def _header_sampling_rate(record_line: bytes, header_path: Path) -> int | float:
    """The sampling rate in Hz, as the record line has it: wfdb takes 250 Hz where it cannot read the number."""
    fields = record_line.split()
    if len(fields) < 3:
        return 250  # the WFDB header format's own default
    try:
        rate = float(re.split(rb"[/(]", fields[2])[0])
    except ValueError:
        rate = 0.0
    if not (np.isfinite(rate) and rate > 0):
        raise ValueError(f'{header_path}: sampling rate "{fields[2].decode("latin-1")}" is not a positive number')
    return int(rate) if rate.is_integer() else rate


def _unit_in_millivolt(unit: str, signal_line: bytes, name: str) -> float:
    # wfdb drops every non-ASCII character of a header, so that it takes µV (in UTF-8 or Latin-1) for V
    if re.search(rb"[\xb5\xbc][vV]", signal_line):
        unit = "uV"
    if unit.lower() not in _MILLIVOLTS:
        raise ValueError(f'{name} is in "{unit}", expected mV, uV, µV or V')
    return _MILLIVOLTS[unit.lower()]
