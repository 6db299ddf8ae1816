"""
Errors of the measurements that claims are compared with, in simulated ECGs: the tolerances of docs/interpretations.md that are
not from LUDB.

python benchmarks/claims.py [--number 200]

Rate, axis and Sokolow-Lyon voltage are compared with the simulated values; ST, T, the other voltages and the variation of RR
intervals with those of the same ECG without noise.
"""

import argparse
from dataclasses import replace

import numpy as np

from elm_hf.ecg.claim_checks import TOLERANCES
from elm_hf.ecg.simulated_findings import NOISES, draw_findings
from elm_hf.ecg.simulation import simulate_ecg
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.modeling.ecg_measurements import measure_ecg


# Quantity of a tolerance -> features whose noise error it covers
OF_NOISE = {
    "rhythm": ("rr_variation",),
    "st": tuple(f"st_mv_{lead}" for lead in LEADS),
    "t": tuple(f"t_mv_{lead}" for lead in LEADS),
    "voltage": ("limb_voltage_mv", "chest_voltage_mv"),
    "cornell": ("cornell_mv",),
}


def measured(findings, seed: int) -> dict[str, float]:
    """The measurements of the ECG with these findings; the same seed gives the same beats."""
    return measure_ecg(simulate_ecg(findings, np.random.default_rng(seed)), 250)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().split("\n\n")[0])
    parser.add_argument("--number", type=int, default=200, help="Number of ECGs to simulate.")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    errors: dict[str, list[float]] = {name: [] for name in ("rate", "axis", "sokolow", *OF_NOISE)}
    for number in range(arguments.number):
        true = replace(draw_findings(rng), noise=NOISES[1 + number % (len(NOISES) - 1)])
        seed = int(rng.integers(2**31))
        noisy, clean = measured(true, seed), measured(replace(true, noise="none"), seed)
        errors["rate"].append(noisy["heart_rate"] - true.heart_rate)
        errors["axis"].append((noisy["axis_deg"] - true.axis_deg + 180) % 360 - 180)
        errors["sokolow"].append(noisy["sokolow_mv"] - true.sokolow_mv)
        for quantity, features in OF_NOISE.items():
            errors[quantity] += [noisy[name] - clean[name] for name in features]
    print(f"{'':10}{'bias':>8}{'SD':>8}{'median':>8}{'95 %':>8}{'tolerance':>11}")
    for quantity, values in errors.items():
        kept = np.array(values)[np.isfinite(values)]
        size = np.abs(kept)
        print(
            f"{quantity:10}{np.median(kept):8.3f}{kept.std():8.3f}{np.median(size):8.3f}{np.quantile(size, 0.95):8.3f}"
            f"{TOLERANCES[quantity]:11g}"
        )


if __name__ == "__main__":
    main()
