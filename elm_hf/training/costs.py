"""Costs of a training run: seconds, samples and tokens."""

import json
import time
from pathlib import Path

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from elm_hf.training.cost_file import COSTS_NAME
from elm_hf.training.parallelism import tensor_parallel_size
from elm_hf.utils.files import write_atomically


# `processor_seconds` are those of one process, all of its threads added up. Other programs on the machine change them little.
_CLOCKS = {"seconds": time.monotonic, "processor_seconds": time.process_time}


class RunCosts(TrainerCallback, ExportableState):
    """
    Writes `costs.json` into the output folder when training ends. An interrupted and resumed run counts as one; steps
    that were lost after its checkpoint do not count.

    Args:
        num_samples: number of rows of the training data.
    """

    def __init__(self, num_samples: int):
        self.num_samples = num_samples
        self.seconds_before = self.processor_seconds_before = 0.0
        self._started = None

    def state(self) -> dict:
        before = {f"{name}_before": seconds for name, seconds in self._spent().items()}
        return {"args": {"num_samples": self.num_samples}, "attributes": before}

    def _spent(self) -> dict[str, float]:
        """Seconds of each clock until now."""
        return {
            name: getattr(self, f"{name}_before") + (0 if self._started is None else clock() - self._started[name])
            for name, clock in _CLOCKS.items()
        }

    def on_train_begin(self, args, state, control, **kwargs):
        self._started = {name: clock() for name, clock in _CLOCKS.items()}

    def on_train_end(self, args, state, control, **kwargs):
        if not state.is_world_process_zero:
            return
        costs = {
            "steps": state.global_step,
            "samples": round(state.epoch * self.num_samples),
            # With tensor parallelism all processes have the same tokens, and transformers adds them up.
            "tokens": state.num_input_tokens_seen // tensor_parallel_size() or None,
            **{name: round(seconds, 1) for name, seconds in self._spent().items()},
            "processes": args.world_size,
            "device": torch.cuda.get_device_name() if args.device.type == "cuda" else args.device.type,
        }
        write_atomically(Path(args.output_dir) / COSTS_NAME, json.dumps(costs, indent=2) + "\n")
