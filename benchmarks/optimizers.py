"""AdamW and Muon: the training loss after the same steps on the same batches, and the seconds of a step.

    python benchmarks/optimizers.py --config recipes/ptb_xl/small.yaml --dataset data/ptb_xl_qa \\
        --model_name_or_path outputs/ptb_xl/medium/elm --max_steps 300 --use_cpu true --bf16 false

The arguments are those of elm-hf train. Each optimizer starts from the same checkpoint; nothing is saved.
"""

import sys
from statistics import mean
from tempfile import TemporaryDirectory

import torch

from elm_hf.training import sft


ROWS = 10


def history_of(arguments: list[str]) -> tuple[list[float], float]:
    """The losses of all steps of a training, and its seconds a step."""
    with TemporaryDirectory() as folder:
        options = ["--output_dir", folder, "--save_strategy", "no", "--logging_steps", "1", "--disable_tqdm", "true"]
        trainer = sft.build_trainer(*sft.parse([*arguments, *options]))
        seconds = trainer.train().metrics["train_runtime"]
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return losses, seconds / len(losses)


def main() -> None:
    torch.set_num_threads(1)
    arguments = sys.argv[1:]
    (adamw, adamw_seconds), (muon, muon_seconds) = history_of(arguments), history_of([*arguments, "--muon"])
    width = max(1, len(adamw) // ROWS)
    print("\n| steps | AdamW | Muon | ratio |\n| --- | ---: | ---: | ---: |")
    for start in range(0, len(adamw) - width + 1, width):
        one, other = (mean(losses[start : start + width]) for losses in (adamw, muon))
        print(f"| {start + 1} to {start + width} | {one:.3f} | {other:.3f} | {other / one:.2f} |")
    print(
        f"\nA step takes {adamw_seconds:.2f} s with AdamW and {muon_seconds / adamw_seconds:.2f} times that with Muon."
    )


if __name__ == "__main__":
    if len(sys.argv) < 2 or {"-h", "--help"} & set(sys.argv):
        print(__doc__)
    else:
        main()
