"""
Errors of the wave boundaries against the cardiologists' ones of LUDB (Kalyakulina et al. 2020), beside NeuroKit2's
delineators, and the time per ECG.

python benchmarks/measurements.py FOLDER [--neurokit] [--half fitting|reporting]

FOLDER is that of LUDB 1.0.1 (physionet.org/content/ludb), with `data/1.hea` … `data/200.v6`.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import wfdb

from elm_hf.modeling.ecg_delineation import BEFORE, RATE, delineate


LEADS = ("i", "ii", "iii", "avr", "avl", "avf", "v1", "v2", "v3", "v4", "v5", "v6")
INDEPENDENT = [0, 1, 6, 7, 8, 9, 10, 11]
POINTS = ("P onset", "P end", "QRS onset", "QRS end", "T end")
INTERVALS = {"PR": (0, 2), "QRS": (2, 3), "QT": (2, 4), "P": (0, 1)}
# Two standard deviations of the referees of the CSE study (Willems et al. 1985), in ms
TOLERANCE = dict(zip(POINTS, (10.2, 12.7, 6.5, 11.6, 30.6)))
LEAST_LEADS = 6
# NeuroKit2's names of `POINTS`, and where the point of a beat is sought, in samples after its R peak
NEUROKIT = {
    "ECG_P_Onsets": (-200, 0),
    "ECG_P_Offsets": (-200, 0),
    "ECG_R_Onsets": (-100, 0),
    "ECG_R_Offsets": (0, 100),
    "ECG_T_Offsets": (30, 400),
}


def annotated_waves(record: Path, lead: str) -> dict[str, np.ndarray]:
    """Onset, peak and end of each wave of a lead, in samples, for P ("p"), QRS ("N") and T ("t")."""
    found = wfdb.rdann(str(record), lead)
    waves = {"p": [], "N": [], "t": []}
    for place, symbol in enumerate(found.symbol):
        if symbol in waves:
            onset = found.sample[place - 1] if place and found.symbol[place - 1] == "(" else np.nan
            is_closed = place + 1 < len(found.symbol) and found.symbol[place + 1] == ")"
            waves[symbol].append((onset, found.sample[place], found.sample[place + 1] if is_closed else np.nan))
    return {symbol: np.array(rows, float).reshape(-1, 3) for symbol, rows in waves.items()}


def reference(leads: list[dict[str, np.ndarray]], least: int) -> np.ndarray:
    """
    QRS peak and `POINTS` of each beat `(beats, 6)`: the medians over the leads, NaN where fewer than `least` leads have
    the wave.
    """
    peaks = np.sort(np.concatenate([waves["N"][:, 1] for waves in leads]))
    groups = [group for group in np.split(peaks, np.flatnonzero(np.diff(peaks) > 75) + 1) if len(group) >= least]
    beats = np.array([np.median(group) for group in groups])
    rows = []
    for place, beat in enumerate(beats):
        before = beats[place - 1] if place else beat - 500
        after = beats[place + 1] if place + 1 < len(beats) else beat + 600
        p = _median(leads, "p", max(before + 50, beat - 200), beat - 5, -1, least)
        qrs = _median(leads, "N", beat - 75, beat + 75, 0, least)
        t = _median(leads, "t", beat + 30, min(after - 20, beat + 400), 0, least)
        rows.append((beat, *p, *qrs, t[1]))
    return np.array(rows)


def _median(leads: list, symbol: str, first: float, last: float, which: int, least: int) -> tuple[float, float]:
    chosen = []
    for waves in leads:
        inside = waves[symbol][(waves[symbol][:, 1] >= first) & (waves[symbol][:, 1] <= last)]
        if len(inside):
            chosen.append(inside[which])
    bounds = np.array(chosen).reshape(-1, 3)[:, [0, 2]].T
    return tuple(
        float(np.median(row[np.isfinite(row)])) if np.isfinite(row).sum() >= least else np.nan for row in bounds
    )


def delineated(signal: np.ndarray) -> np.ndarray:
    """Peak and `POINTS` of the beats of the most frequent kind `(beats, 6)` by this package, in samples."""
    found = delineate(signal, INDEPENDENT)
    if found is None or found.qrs is None:
        return np.zeros((0, 6))
    points = [*(found.p or (np.nan, np.nan)), *found.qrs, found.t[1] if found.t else np.nan]
    centres = found.centres[found.kinds == 0].astype(float)[:, None]
    return np.hstack([centres, centres + np.array(points) - BEFORE])


def neurokit(method: str) -> Callable[[np.ndarray], np.ndarray]:
    """The same by one of NeuroKit2's delineators in lead II."""
    import neurokit2

    def delineated(signal: np.ndarray) -> np.ndarray:
        clean = neurokit2.ecg_clean(signal[1], sampling_rate=RATE)
        peaks = neurokit2.ecg_peaks(clean, sampling_rate=RATE)[1]["ECG_R_Peaks"]
        try:
            waves = neurokit2.ecg_delineate(clean, peaks, sampling_rate=RATE, method=method)[1]
        except (ValueError, IndexError, ZeroDivisionError):  # raised for some records
            return np.zeros((0, 6))
        return beside_peaks(np.asarray(peaks, float), waves)

    return delineated


def beside_peaks(peaks: np.ndarray, waves: dict) -> np.ndarray:
    """NeuroKit2's points beside each R peak `(beats, 6)`; its lists may be shorter than the list of peaks."""
    table = np.full((len(peaks), 6), np.nan)
    table[:, 0] = peaks
    for column, (name, (first, last)) in enumerate(NEUROKIT.items(), start=1):
        points = np.asarray(waves.get(name, []), float)
        for beat, peak in enumerate(peaks):
            inside = points[(points >= peak + first) & (points <= peak + last)]
            if len(inside):
                table[beat, column] = inside[np.argmin(np.abs(inside - peak))]
    return table


def errors(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Errors of `POINTS` in ms for each beat `(beats, 5)`; NaN where a beat or wave is not found or not annotated."""
    if not len(found):
        return np.full((len(true), 5), np.nan)
    nearest = np.abs(true[:, :1] - found[:, 0]).argmin(axis=1)
    difference = found[nearest, 1:] - true[:, 1:]
    difference[np.abs(found[nearest, 0] - true[:, 0]) > 50] = np.nan
    return difference * 1000 / RATE


def print_table(title: str, error: np.ndarray, true: np.ndarray) -> None:
    print(f"\n{title}\n{'':10}{'bias':>7}{'SD':>7}{'median':>8}{'95 %':>7}{'found':>8}   CSE tolerance (2 SD)")
    columns = {name: (error[:, place], true[:, place + 1]) for place, name in enumerate(POINTS)}
    for name, (first, last) in INTERVALS.items():
        columns[name] = (error[:, last] - error[:, first], true[:, last + 1] - true[:, first + 1])
    for name, (values, annotated) in columns.items():
        kept = values[np.isfinite(values)]
        if not len(kept):
            print(f"{name:10}  not measured")
            continue
        size = np.abs(kept)
        share = len(kept) / np.isfinite(annotated).sum()
        print(
            f"{name:10}{np.median(kept):7.1f}{kept.std():7.1f}{np.median(size):8.1f}{np.quantile(size, 0.95):7.1f}"
            f"{share:8.1%}   {TOLERANCE.get(name, '')}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="Folder of LUDB.")
    parser.add_argument("--neurokit", action="store_true", help="Run NeuroKit2's delineators as well (slow).")
    parser.add_argument("--half", choices=("fitting", "reporting"), default="reporting", help="Half of the records.")
    options = parser.parse_args()
    numbers = range(1 if options.half == "fitting" else 2, 201, 2)
    records = [options.folder / "data" / str(number) for number in numbers]
    signals = [wfdb.rdrecord(str(record)).p_signal.T for record in records]
    leads = [[annotated_waves(record, lead) for lead in LEADS] for record in records]
    of_all = [reference(waves, LEAST_LEADS) for waves in leads]
    of_lead_ii = [reference([waves[1]], 1) for waves in leads]
    methods: dict[str, Callable] = {"this package": delineated}
    if options.neurokit:
        methods |= {f"NeuroKit2 {method}, lead II": neurokit(method) for method in ("dwt", "cwt", "peak")}
    warnings.simplefilter("ignore")
    for name, method in methods.items():
        start = time.perf_counter()
        found = [method(signal) for signal in signals]
        print(f"\n=== {name}: {1000 * (time.perf_counter() - start) / len(signals):.0f} ms per ECG of 10 s")
        for against, truth in (("median of the leads", of_all), ("lead II", of_lead_ii)):
            error = np.vstack([errors(one, true) for one, true in zip(found, truth)])
            print_table(f"{name}, against the annotations of {against} (ms)", error, np.vstack(truth))


if __name__ == "__main__":
    main()
