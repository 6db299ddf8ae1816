"""Which checkpoint of a run is whole and may be continued: each carries, written last, what its run was started with."""

import json
import shutil
from dataclasses import asdict
from os import PathLike
from pathlib import Path

from transformers import TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from elm_hf.training.parallelism import tensor_parallel_size
from elm_hf.utils.files import write_whole


# Not the file of the same name in the folder of an evaluation.
RUN_SETTINGS_NAME = "run.json"

# What one step after another depends on. The number of processes is not in it, the size of their common batch is.
_TRAINING_SETTINGS = (
    *("seed", "data_seed", "max_steps", "num_train_epochs", "max_length", "loss_type"),
    *("optim", "learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "weight_decay"),
    *("adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "label_smoothing_factor", "neftune_noise_alpha"),
    *("bf16", "fp16"),
)
# A run may be prolonged, if its checkpoint is named.
_LENGTHS = ("max_steps", "num_train_epochs")


def run_settings(training_args: TrainingArguments, *others) -> dict:
    """
    What the weights after each step depend on: model, data, parts that learn, optimizer, seed. Values for JSON.

    Args:
        training_args: as the run is started with.
        others: dataclasses with the run's other arguments.
    """
    settings = {}
    for arguments in others:
        settings |= asdict(arguments)
    all_training = training_args.to_dict()
    settings |= {name: all_training[name] for name in _TRAINING_SETTINGS if name in all_training}
    batches_per_step = training_args.gradient_accumulation_steps * training_args.world_size // tensor_parallel_size()
    settings["samples_per_step"] = training_args.train_batch_size * batches_per_step
    return json.loads(json.dumps(settings, default=str))


class WholeCheckpoints:
    """
    Mix-in of a `Trainer` whose checkpoints appear whole or not at all, and which trains no further than it was told to.

    Attributes:
        run: of [`run_settings`], by which the run's checkpoints are known; set before training.
    """

    run: dict

    def _run_epoch(self, *args, **kwargs):
        """Ends a run that its last checkpoint had finished; transformers would take one more step within an epoch."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def _save_checkpoint(self, model, trial):
        """Marks the checkpoint as whole when every process has written its part; only then may older ones go."""
        folder = Path(self.args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if self.args.should_save:
            shutil.rmtree(folder, ignore_errors=True)  # of an interrupted run
        self.accelerator.wait_for_everyone()
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        super()._save_checkpoint(model, trial)
        self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            write_whole(folder / RUN_SETTINGS_NAME, json.dumps(self.run, indent=2) + "\n")
            rotate_checkpoints(self.args.output_dir, limit, self.state.best_model_checkpoint)


def last_checkpoint(output_dir: str | PathLike) -> Path | None:
    """The whole checkpoint of most steps, or None; what was interrupted while it was written is passed over."""
    whole = [path.parent for path in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*/{RUN_SETTINGS_NAME}")]
    return max(whole, key=lambda path: int(path.name.rsplit("-", 1)[-1]), default=None)


def checkpoint_to_continue(chosen: str | None, output_dir: str | PathLike, settings: dict) -> str | None:
    """
    The checkpoint that a run goes on from.

    Args:
        chosen: a checkpoint's folder; "true" or None for the last whole one of `output_dir`, if there is one; "false" to
            begin anew.
        output_dir: where the run writes its checkpoints.
        settings: of [`run_settings`]; the checkpoint's must be the same. The run may be longer where `chosen` is a folder.

    Raises:
        ValueError: the checkpoint is not whole, or of another run; names the settings.
    """
    word = str(chosen).lower()
    if word == "false":
        return None
    is_named = word not in ("none", "true")
    checkpoint = Path(chosen) if is_named else last_checkpoint(output_dir)
    if checkpoint is None:
        return None
    if not (checkpoint / RUN_SETTINGS_NAME).is_file():
        raise ValueError(
            f"--resume_from_checkpoint {checkpoint}: no whole checkpoint (it has no {RUN_SETTINGS_NAME}, which is written last)"
            f"; the last whole one in {checkpoint.parent} is {last_checkpoint(checkpoint.parent) or 'not there, either'}."
        )
    found = json.loads((checkpoint / RUN_SETTINGS_NAME).read_text(encoding="utf-8"))
    compared = [name for name in settings if not (is_named and name in _LENGTHS)]
    differing = [
        f"{name} {found.get(name)!r} there, {settings[name]!r} here"
        for name in compared
        if found.get(name) != settings[name]
    ]
    if differing:
        raise ValueError(
            f"{checkpoint} is of another run: {'; '.join(differing)}. Repeat the command that began it to go on with it, "
            "or give another --output_dir, or begin anew there with --resume_from_checkpoint false."
        )
    return str(checkpoint)
