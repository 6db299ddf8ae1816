"""Resuming runs: a checkpoint is complete when it has a `run.json` with the settings of its run, written last."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from os import PathLike
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers import EarlyStoppingCallback, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints
from transformers.utils import logging

from elm_hf.data.seen_patients import Stage, read_stages, write_stages
from elm_hf.training.parallelism import tensor_parallel_size
from elm_hf.utils.files import write_atomically


logger = logging.get_logger(__name__)

# Not the file of the same name in the folder of an evaluation.
RUN_SETTINGS_NAME = "run.json"
# Key of the sizes of a checkpoint's files in it.
FILES = "files"

# Settings that the steps depend on. The total batch size is among them, the number of processes is not.
_TRAINING_SETTINGS = (
    *("seed", "data_seed", "max_steps", "num_train_epochs", "max_length", "loss_type"),
    *("optim", "learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "weight_decay"),
    *("adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "label_smoothing_factor", "neftune_noise_alpha"),
    *("bf16", "fp16"),
    # Preferences and rewards.
    *("beta", "loss_weights", "label_smoothing", "f_divergence_type", "desirable_weight", "undesirable_weight"),
    *("num_generations", "max_completion_length", "temperature", "top_p", "top_k", "reward_weights", "scale_rewards"),
    *("num_iterations", "steps_per_generation", "epsilon", "epsilon_high", "importance_sampling_level"),
)
# Settings that may change if the checkpoint is named, so that a run can be extended.
_LENGTHS = ("max_steps", "num_train_epochs")


def run_settings(training_args: TrainingArguments, *others) -> dict:
    """
    The settings that the weights after each step depend on: model, data, trainable parts, optimizer, seed. JSON
    values.

    Args:
        training_args: training arguments of the run.
        others: dataclasses with the other arguments of the run.

    Raises:
        ValueError: a step has no samples.
    """
    for name in ("per_device_train_batch_size", "gradient_accumulation_steps"):
        if (number := getattr(training_args, name)) < 1:
            raise ValueError(f"--{name} is {number}; expected 1 or more.")
    settings = {}
    for arguments in others:
        settings |= asdict(arguments)
    all_training = training_args.to_dict()
    settings |= {name: all_training[name] for name in _TRAINING_SETTINGS if name in all_training}
    batches_per_step = training_args.gradient_accumulation_steps * training_args.world_size // tensor_parallel_size()
    settings["samples_per_step"] = training_args.train_batch_size * batches_per_step
    return json.loads(json.dumps(settings, default=str))


class CompleteCheckpoints:
    """
    Mix-in of a `Trainer` whose checkpoints are either complete or ignored, and which takes no step after the last one.

    Attributes:
        run: settings of the run ([`run_settings`]), saved with its checkpoints and the sizes of their files; set before
            training.
        stages: stages of training including this one, saved with the model and its checkpoints; set before training.
    """

    run: dict
    stages: list[Stage]

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None):
        super()._save(output_dir, state_dict)
        if self.args.should_save:  # every process comes here
            write_stages(output_dir or self.args.output_dir, self.stages)

    def add_to_checkpoint(self, folder: Path) -> None:
        """Writes further files into a checkpoint, in the main process, before it is complete."""

    def _load_callback_state(self):
        """Early stopping goes on counting and costs go on adding up, which transformers makes an option."""
        self.args.restore_callback_states_from_checkpoint = True
        super()._load_callback_state()

    def _run_epoch(self, *args, **kwargs):
        """Ends a run that is resumed after its last step; transformers would take one more within an epoch."""
        if self.state.global_step >= self.state.max_steps or self._has_stopped_early():
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def _has_stopped_early(self) -> bool:
        callbacks = [each for each in self.callback_handler.callbacks if isinstance(each, EarlyStoppingCallback)]
        return any(each.early_stopping_patience_counter >= each.early_stopping_patience for each in callbacks)

    def _save_checkpoint(self, model, trial):
        """Marks the checkpoint as complete when every process has written its part, and then deletes older ones."""
        folder = Path(self.args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if self.args.should_save:
            shutil.rmtree(folder, ignore_errors=True)  # left by an interrupted run
        self.accelerator.wait_for_everyone()
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        super()._save_checkpoint(model, trial)
        self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            self.add_to_checkpoint(folder)
            sizes = {
                str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()
            }
            write_atomically(folder / RUN_SETTINGS_NAME, json.dumps(self.run | {FILES: sizes}, indent=2) + "\n")
            if limit is not None:  # rotation would keep it as the newest one
                self._remove_damaged_ones_after(self.state.global_step)
            rotate_checkpoints(self.args.output_dir, limit, self.state.best_model_checkpoint)

    def _remove_damaged_ones_after(self, step: int) -> None:
        for folder in Path(self.args.output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
            if _step(folder) > step and damage(folder) is not None:
                shutil.rmtree(folder, ignore_errors=True)


def last_checkpoint(output_dir: str | PathLike) -> Path | None:
    """The complete checkpoint with the most steps, or None."""
    return next(iter(_complete_checkpoints(output_dir)), None)


def _complete_checkpoints(output_dir: str | PathLike) -> list[Path]:
    """The checkpoints that were written to the end, the one with the most steps first."""
    found = [path.parent for path in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*/{RUN_SETTINGS_NAME}")]
    return sorted(found, key=_step, reverse=True)


def _step(checkpoint: Path) -> int:
    number = checkpoint.name.rsplit("-", 1)[-1]
    return int(number) if number.isdecimal() else -1


def damage(checkpoint: Path) -> str | None:
    """
    What is wrong with the files of a checkpoint: one of them is missing, or is not as long as it was written. None if they
    are as they were written.
    """
    try:
        run = json.loads((checkpoint / RUN_SETTINGS_NAME).read_text(encoding="utf-8"))
        sizes = run.get(FILES, {})
        for name, size in sizes.items():
            found = (checkpoint / name).stat().st_size
            if found != size:
                return f"{name} has {found:,} bytes of {size:,}"
        for path in checkpoint.glob("*.safetensors"):  # checkpoints of earlier versions have no sizes
            if path.name not in sizes:
                with safe_open(path, "pt"):
                    pass
    except FileNotFoundError as error:
        return f"{Path(error.filename).relative_to(checkpoint)} is missing"
    except SafetensorError as error:
        return f"{path.name} is damaged ({error})"
    except (ValueError, AttributeError, TypeError):
        return f"{RUN_SETTINGS_NAME} is damaged"
    return None


def checkpoint_to_continue(chosen: str | None, output_dir: str | PathLike, settings: dict) -> str | None:
    """
    The checkpoint that a run resumes from.

    Args:
        chosen: folder of a checkpoint; "true" or None for the last complete checkpoint in `output_dir`, if there is
            one; "false" to start over.
        output_dir: folder in which the run saves its checkpoints.
        settings: settings of the run ([`run_settings`]), which must equal those of the checkpoint. If `chosen` is a
            folder, the run may be longer.

    Raises:
        ValueError: the checkpoint is incomplete or damaged, holds only the model, or belongs to another run; the message names
            the file or the settings.
    """
    word = str(chosen).lower()
    if word == "false":
        return None
    is_named = word not in ("none", "true")
    checkpoint = Path(chosen) if is_named else _last_whole_checkpoint(output_dir)
    if checkpoint is None:
        return None
    if not (checkpoint / RUN_SETTINGS_NAME).is_file():
        raise ValueError(
            f"--resume_from_checkpoint {checkpoint}: incomplete checkpoint (it has no {RUN_SETTINGS_NAME}, which is written "
            f"last). Last complete checkpoint in {checkpoint.parent}: {last_checkpoint(checkpoint.parent) or 'none'}."
        )
    if is_named and (problem := damage(checkpoint)) is not None:
        raise ValueError(f"--resume_from_checkpoint {checkpoint}: {problem}; name another checkpoint.")
    if not any(checkpoint.glob("rng_state*.pth")):  # optimizer states have other names with FSDP and DeepSpeed
        raise ValueError(
            f"{checkpoint} holds only the model (--save_only_model), without the state of the optimizer, so that its run cannot "
            "continue. Choose another --output_dir, or start over with --resume_from_checkpoint false."
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
            f"{checkpoint} belongs to another run: {'; '.join(differing)}. Repeat the original command to continue "
            "it, or choose another --output_dir, or start over with --resume_from_checkpoint false."
        )
    return str(checkpoint)


def check_same_patients(checkpoint: str | None, stages: Sequence[Stage]) -> None:
    """
    Checks that a checkpoint to continue was trained on the patients of this run. Settings name datasets and models by their
    paths, where there may be others now.

    Args:
        checkpoint: of [`checkpoint_to_continue`].
        stages: stages of training of the run.

    Raises:
        ValueError: it was trained on others.
    """
    found = None if checkpoint is None else read_stages(checkpoint)
    if found is not None and _patients_of(found) != _patients_of(stages):
        raise ValueError(
            f"{checkpoint}: was trained on other patients than this run, because the dataset, or the model that the run starts "
            "from, has changed since. Choose another --output_dir, or start over with --resume_from_checkpoint false."
        )


def _patients_of(stages: Sequence[Stage]) -> list[list[int] | None]:
    return [None if stage.patients is None else stage.patients.tolist() for stage in stages]


def _last_whole_checkpoint(output_dir: str | PathLike) -> Path | None:
    """The last checkpoint whose files are whole; a warning names those after it. None if there are no checkpoints."""
    problems = []
    for checkpoint in _complete_checkpoints(output_dir):
        problem = damage(checkpoint)
        if problem is None:
            if problems:
                logger.warning(f"{'; '.join(problems)}: continuing from {checkpoint.name}.")
            return checkpoint
        problems.append(f"{checkpoint}: {problem}")
    if problems:
        raise ValueError(
            f"{'; '.join(problems)}; no whole checkpoint is left. Start over with --resume_from_checkpoint false."
        )
    return None
