"""ECG signal utilities: lead names and order, the limb-lead check, resampling, gaps, reading WFDB records."""

import re
from fractions import Fraction
from os import PathLike
from pathlib import Path

import numpy as np


LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
SAMPLING_RATE = 250

_CANONICAL_LEADS = {lead.lower(): lead for lead in LEADS} | {"di": "I", "dii": "II", "diii": "III"}
_MILLIVOLTS = {"mv": 1.0, "uv": 1e-3, "v": 1e3}

# how the other limb leads follow from I and II
_LIMB_LEAD_IDENTITIES = (
    ("III", "II - I", lambda i, ii: ii - i),
    ("aVR", "-(I + II)/2", lambda i, ii: -(i + ii) / 2),
    ("aVL", "I - II/2", lambda i, ii: i - ii / 2),
    ("aVF", "II - I/2", lambda i, ii: ii - i / 2),
)
# mV, and share of the samples allowed beyond it: see limb_lead_error
_LIMB_LEAD_TOLERANCE = 0.03
_LIMB_LEAD_SHARE = 0.02


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
    placed = np.full((len(wanted), ecg.shape[1]), np.nan, dtype=np.float32)
    for target, lead in enumerate(wanted):
        if lead in rows:
            placed[target] = ecg[rows[lead]]
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
    valid = lead[np.isfinite(lead)]
    return bool(valid.size == 0 or valid.min() == valid.max())


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
        method: "polyphase" filters out what the new rate cannot carry (`scipy.signal.resample_poly`); "cubic" is a
            cubic spline without a low-pass, which folds high frequencies down: only to reproduce published
            preprocessing.

    Returns:
        `(..., new samples)`, float32.

    Raises:
        ValueError: a sampling rate that is not positive, fewer than 2 samples or an unknown method.
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
    return resampled.reshape(*ecg.shape[:-1], -1).astype(np.float32)


def _rate(sampling_rate: float) -> Fraction:
    if not (np.isfinite(sampling_rate) and sampling_rate > 0):
        raise ValueError(f"sampling rate {sampling_rate} Hz is not a positive number")
    return Fraction(sampling_rate).limit_denominator(1000)


def _polyphase(signal: np.ndarray, ratio: Fraction) -> np.ndarray:
    try:
        from scipy.signal import resample_poly
    except ImportError as error:
        raise ImportError("resampling an ECG needs scipy: pip install scipy") from error
    # The filter's gain differs by up to 1e-4 between output samples (1e-3 with scipy's own window), so a baseline offset
    # would come out as a ripple: it is taken out first. The point reflection keeps value and slope at both ends.
    offset = np.median(signal, axis=-1, keepdims=True).astype(np.float64)
    up, down = ratio.numerator, ratio.denominator
    return resample_poly(signal - offset, up, down, axis=-1, window=("kaiser", 8.0), padtype="antireflect") + offset


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

    Args:
        path: the record, with or without `.hea`, `.dat` or `.mat`.

    Returns:
        The ECG `(leads, samples)`, float32 in mV with NaN where the record marks a sample as invalid; the sampling
        rate in Hz; the lead names.

    Raises:
        FileNotFoundError: the header, or a signal file it names, is missing.
        ValueError: the header cannot be read, does not fit its signal file, has several segments, a signal without a
            name, or a unit other than mV, uV, µV and V.
        ImportError: `wfdb` is not installed.
    """
    try:
        import wfdb
    except ImportError as error:
        raise ImportError("reading a WFDB record needs wfdb: pip install wfdb") from error

    record_path = Path(path)
    if record_path.suffix.lower() in (".hea", ".dat", ".mat"):
        record_path = record_path.with_suffix("")
    header_path = record_path.with_name(record_path.name + ".hea")
    record_line, signal_lines = _header_lines(header_path)
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
    scale = [
        _unit_in_millivolt(unit, line, f'{header_path}: lead "{lead}"')
        for unit, line, lead in zip(record.units, signal_lines, record.sig_name, strict=True)
    ]
    ecg = np.ascontiguousarray((record.p_signal * scale).T, dtype=np.float32)
    return ecg, _header_sampling_rate(record_line, header_path), list(record.sig_name)


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
