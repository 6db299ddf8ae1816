"""Which encoders can tell the territory of an ST elevation: `ecg_resnet` without and with an embedding for each lead, and
`ecg_se_resnet`, which reads all leads together. Small ones, trained from scratch on simulated ECGs.

The classes, none, anterior, inferior and lateral, are equally frequent. The elevation is 1 to 2.5 times its clinical limit;
QRS, axis, voltage, rhythm and noise are drawn as in all simulated ECGs.

python benchmarks/st_territory.py [--seeds 3] [--train 1200] [--test 1000] [--epochs 10]
"""

import argparse
import time

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForSequenceClassification

from elm_hf.ecg.simulated_findings import ST_LIMITS_MV, TERRITORIES, draw_findings
from elm_hf.ecg.simulation import simulate_ecg
from elm_hf.modeling.ecg_encoders import import_ecg_encoders


SECONDS, RATE, BATCH_SIZE = 3, 100, 32
RESNET = {"embedding_size": 12, "hidden_sizes": [12, 24, 48, 64]}
ENCODERS = {
    "ecg_resnet, anonymous leads": ("ecg_resnet", RESNET | {"num_leads": 0}),
    "ecg_resnet, an embedding for each lead": ("ecg_resnet", RESNET | {"num_leads": 12}),
    "ecg_se_resnet": ("ecg_se_resnet", {"hidden_sizes": [12, 24, 48, 64]}),
}


def simulate(number: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """ECGs `(number, 12, samples)` in mV and the number of the territory of each `(number,)`."""
    ecgs, territories = [], []
    while len(ecgs) < number:
        territory = TERRITORIES[len(ecgs) % len(TERRITORIES)]
        st_mv = 0.0 if territory == "none" else ST_LIMITS_MV[territory] * rng.uniform(1, 2.5)
        findings = draw_findings(rng)
        # The simulator draws no elevation for these: strain and left bundle branch block change ST themselves.
        values = vars(findings) | {"territory": territory, "st_mv": st_mv, "strain": False}
        if "left" in findings.qrs_shape or findings.rhythm == "atrial flutter":
            continue
        ecgs.append(simulate_ecg(type(findings)(**values), rng, SECONDS, RATE))
        territories.append(TERRITORIES.index(territory))
    return torch.from_numpy(np.stack(ecgs)), torch.tensor(territories)


def accuracy(kind: str, fields: dict, train: tuple, test: tuple, epochs: int, seed: int) -> float:
    """Accuracy on `test` of an encoder trained on `train`."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(kind, num_labels=len(TERRITORIES), **fields)
    model = AutoModelForSequenceClassification.from_config(config)
    steps = epochs * (len(train[0]) // BATCH_SIZE)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(train[0]))[: steps // epochs * BATCH_SIZE].split(BATCH_SIZE):
            cross_entropy(model(ecg_values=train[0][rows]).logits, train[1][rows]).backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    model.eval()
    with torch.inference_mode():
        answers = torch.cat([model(ecg_values=part).logits.argmax(1) for part in test[0].split(100)])
    return (answers == test[1]).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="Number of runs, each with its own ECGs.")
    parser.add_argument("--train", type=int, default=1200, help="Number of ECGs to train on.")
    parser.add_argument("--test", type=int, default=1000, help="Number of ECGs to test on.")
    parser.add_argument("--epochs", type=int, default=10, help="Number of passes over the training ECGs.")
    arguments = parser.parse_args()
    import_ecg_encoders()
    found = {name: [] for name in ENCODERS}
    start = time.perf_counter()
    for seed in range(arguments.seeds):
        rng = np.random.default_rng(seed)
        train, test = simulate(arguments.train, rng), simulate(arguments.test, rng)
        for name, (kind, fields) in ENCODERS.items():
            found[name].append(accuracy(kind, fields, train, test, arguments.epochs, seed))
            print(f"seed {seed}, {name}: {found[name][-1]:.3f} ({time.perf_counter() - start:.0f} s)", flush=True)
    print(f"\nST territory of {arguments.test} simulated ECGs, accuracy (four equally frequent classes)")
    for name, values in found.items():
        print(f"{name:40} {np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})")


if __name__ == "__main__":
    main()
