"""
Runs of training on preferences and rewards, one after the other in the same processes, which the tests start with `accelerate
launch`.

The only argument is a JSON list of pairs of a module of `elm_hf.training` and its arguments.
"""

import importlib
import json
import sys
from pathlib import Path

import torch

from elm_hf.training.parallelism import end_processes
from elm_hf.training.sft import parse


if __name__ == "__main__":
    for method, arguments in json.loads(sys.argv[1]):
        program = importlib.import_module(f"elm_hf.training.{method}")
        trainer = program.build_trainer(*parse(arguments, program.ARGUMENTS))
        trainer.train(resume_from_checkpoint=trainer.args.resume_from_checkpoint)
        trainer.save_model(trainer.args.output_dir)
        trainer.accelerator.wait_for_everyone()
        weights = trainer.accelerator.unwrap_model(trainer.model).state_dict()
        torch.save(weights, Path(trainer.args.output_dir) / f"rank-{trainer.accelerator.process_index}.pt")
    end_processes(trainer)
