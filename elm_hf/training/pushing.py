"""Pushing to the Hub in training: the files of the model and its card, and nothing about the publisher's machine."""

import shutil
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi
from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy, SaveStrategy
from transformers.utils import PushInProgress
from trl import ModelConfig

from elm_hf.checkpoints.publish import check_license, checkpoint_files, public_files


class PushedModel:
    """
    Mix-in of a `Trainer` that pushes the same files as `elm-hf publish-model`. Transformers would push everything in the
    output folder, among it `training_args.bin` with the paths and the token of the publisher, and logs with the name of
    the machine.
    """

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs,
    ) -> CommitInfo | None:
        """As [`Trainer.push_to_hub`]."""
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self.create_model_card(**kwargs)
        self._finish_current_push()
        return self._upload(commit_message, token, revision, run_as_future=not blocking)

    def _push_from_checkpoint(self, checkpoint_folder: str):
        """Pushes the model of a checkpoint in the background, from the output folder, as the checkpoint may be deleted."""
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        is_pushing = self.push_in_progress is not None and not self.push_in_progress.is_done()
        checkpoint, output = Path(checkpoint_folder), Path(self.args.output_dir)
        is_sharded = not any(checkpoint.glob("*.safetensors"))
        if is_sharded or (is_pushing and not self.args.hub_always_push):
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        for path in checkpoint_files(checkpoint):
            target = output / path.relative_to(checkpoint)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        self.create_model_card()
        is_step = self.args.save_strategy == SaveStrategy.STEPS
        place = f"step {self.state.global_step}" if is_step else f"epoch {int(self.state.epoch)}"
        job = self._upload(f"Training in progress, {place}", run_as_future=True)
        if is_pushing:
            self.push_in_progress.jobs.append(job)
        else:
            self.push_in_progress = PushInProgress([job])

    def _upload(
        self, message: str, token: str | None = None, revision: str | None = None, run_as_future: bool = False
    ):
        files = public_files(Path(self.args.output_dir))
        return HfApi().create_commit(
            repo_id=self.hub_model_id,
            operations=[CommitOperationAdd(path_in_repo=name, path_or_fileobj=file) for name, file in files.items()],
            commit_message=message,
            token=token or self.args.hub_token,
            revision=revision or self.args.hub_revision,
            run_as_future=run_as_future,
        )


def check_push(training_args: TrainingArguments, model_args: ModelConfig | None = None) -> None:
    """
    Checks before anything is loaded that what is to be pushed can be loaded by others.

    Raises:
        ValueError: checkpoints are to be pushed with the state of training, an adapter of a local folder, or weights of an
            encoder for which no licence is stated.
    """
    if not training_args.push_to_hub:
        return
    strategy = HubStrategy(training_args.hub_strategy)
    if strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
        raise ValueError(
            f"--hub_strategy {strategy.value}: the state of training holds paths of this machine and is not pushed; use "
            "every_save or end, which push the model."
        )
    if model_args is not None and Path(model_args.model_name_or_path).is_dir():
        check_license(Path(model_args.model_name_or_path))
    if model_args is not None and model_args.use_peft and Path(model_args.model_name_or_path).is_dir():
        raise ValueError(
            f"--push_to_hub: an adapter of {model_args.model_name_or_path}, a local folder that others cannot load; train "
            "without it, and publish the adapter with elm-hf publish-model --base."
        )
