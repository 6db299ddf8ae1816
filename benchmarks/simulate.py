"""Time per simulated 10 s record, compared with summing the same waves beat by beat over the whole record.

python benchmarks/simulate.py
"""

import time
from collections.abc import Callable

import numpy as np

from elm_hf.ecg import simulation
from elm_hf.ecg.simulated_findings import Findings, draw_findings
from elm_hf.ecg.simulated_waves import Waves, beat_waves
from elm_hf.modeling.ecg_leads import SAMPLING_RATE


RECORDS = 300
REPEATS = 3


def naive_wave_trains(
    onsets: np.ndarray, gains: np.ndarray, waves: Waves, samples: int, sampling_rate: int
) -> np.ndarray:
    """The result of `simulation.wave_trains`, with every wave computed over the full time axis."""
    time_s = np.arange(samples) / sampling_rate
    trains = np.zeros((len(waves.centres), samples))
    for onset, gain in zip(onsets, gains):
        for wave, (centre, rise, fall) in enumerate(zip(waves.centres, waves.rises, waves.falls)):
            distance = time_s - onset - centre
            distance = np.minimum(np.where(distance < 0, -distance / rise, distance / fall), 1)
            trains[wave] += gain * (1 - distance**2 * (3 - 2 * distance))
    return trains


def milliseconds(records: list[Findings], wave_trains: Callable) -> float:
    """Milliseconds per record in the best of `REPEATS` rounds over all records."""
    windowed, simulation.wave_trains = simulation.wave_trains, wave_trains
    rounds = []
    for _ in range(REPEATS):
        rng = np.random.default_rng(1)
        start = time.perf_counter()
        for findings in records:
            simulation.simulate_ecg(findings, rng)
        rounds.append(time.perf_counter() - start)
    simulation.wave_trains = windowed
    return min(rounds) / len(records) * 1000


def main() -> None:
    rng = np.random.default_rng(0)
    records = [draw_findings(rng) for _ in range(RECORDS)]
    waves = beat_waves(records[0])
    onsets, gains = np.arange(-0.5, 11, 0.77), np.ones(15)
    arguments = (onsets, gains, waves, 10 * SAMPLING_RATE, SAMPLING_RATE)
    difference = np.abs(simulation.wave_trains(*arguments) - naive_wave_trains(*arguments)).max()
    ours, naive = (milliseconds(records, how) for how in (simulation.wave_trains, naive_wave_trains))
    print(f"{RECORDS} records of 10 s, 12 leads, {SAMPLING_RATE} Hz, one thread, best of {REPEATS} rounds")
    print(f"all waves at once, in windows      {ours:6.2f} ms/record")
    print(f"beat by beat over the whole record {naive:6.2f} ms/record")
    print(f"ratio {naive / ours:.1f}; the waves differ by at most {difference:.1e} of their height")


if __name__ == "__main__":
    main()
