"""Time per simulated 10 s record, compared with summing the same Gaussians beat by beat over the whole record.

python benchmarks/simulate.py
"""

import time
from collections.abc import Callable

import numpy as np

from elm_hf.ecg import simulation as simulate
from elm_hf.modeling.ecg_leads import SAMPLING_RATE


RECORDS = 300
REPEATS = 3


def naive_wave_trains(
    onsets: np.ndarray, gains: np.ndarray, centres: np.ndarray, widths: np.ndarray, samples: int, sampling_rate: int
) -> np.ndarray:
    """The result of `simulate._wave_trains`, with every Gaussian computed over the full time axis."""
    time_s = np.arange(samples) / sampling_rate
    trains = np.zeros((len(centres), samples))
    for onset, gain in zip(onsets, gains):
        for wave, (centre, width) in enumerate(zip(centres, widths)):
            trains[wave] += gain * np.exp(-0.5 * ((time_s - onset - centre) / width) ** 2)
    return trains


def milliseconds(records: list[simulate.Findings], wave_trains: Callable) -> float:
    """Milliseconds per record in the best of `REPEATS` rounds over all records."""
    windowed, simulate._wave_trains = simulate._wave_trains, wave_trains
    rounds = []
    for _ in range(REPEATS):
        rng = np.random.default_rng(1)
        start = time.perf_counter()
        for findings in records:
            simulate.simulate_ecg(findings, rng)
        rounds.append(time.perf_counter() - start)
    simulate._wave_trains = windowed
    return min(rounds) / len(records) * 1000


def main() -> None:
    rng = np.random.default_rng(0)
    records = [simulate.draw_findings(rng) for _ in range(RECORDS)]
    waves = simulate._waves(records[0])[:2]
    onsets, gains = np.arange(-0.5, 11, 0.77), np.ones(15)
    arguments = (onsets, gains, *waves, 10 * SAMPLING_RATE, SAMPLING_RATE)
    difference = np.abs(simulate._wave_trains(*arguments) - naive_wave_trains(*arguments)).max()
    ours, naive = (milliseconds(records, how) for how in (simulate._wave_trains, naive_wave_trains))
    print(f"{RECORDS} records of 10 s, 12 leads, {SAMPLING_RATE} Hz, one thread, best of {REPEATS} rounds")
    print(f"all Gaussians at once, in windows  {ours:6.2f} ms/record")
    print(f"beat by beat over the whole record {naive:6.2f} ms/record")
    print(f"ratio {naive / ours:.1f}; the waves differ by at most {difference:.1e} of their height")


if __name__ == "__main__":
    main()
