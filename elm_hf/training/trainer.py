"""What all trainers of ELMs have in common, among it the model card, and the trainer of fine-tuning."""

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from pathlib import Path

import torch
from datasets import Dataset
from peft import PeftModel
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.utils.data import DataLoader, SequentialSampler
from transformers import SchedulerType
from transformers.trainer_utils import EvalLoopOutput
from trl import SFTTrainer
from trl.kernels import chunked_logprob
from trl.trainer import utils as trl_utils

from elm_hf.checkpoints.card import TRAINING_NAME, model_card
from elm_hf.data.seen_patients import Stage
from elm_hf.modeling.card_elm import parts_of
from elm_hf.training.arguments import DataArguments, ElmScriptArguments
from elm_hf.training.collator import ElmDataCollator
from elm_hf.training.epochs import EpochSampler, FollowEpoch
from elm_hf.training.muon import MuonAdamW
from elm_hf.training.pushing import PushedModel
from elm_hf.training.resume import CompleteCheckpoints
from elm_hf.training.sample_answers import show_samples
from elm_hf.training.validation import EXACT_MATCH, ValidationQuestions
from elm_hf.utils.hub import split_revision


class ElmTraining(PushedModel, CompleteCheckpoints):
    """
    Mix-in of TRL's trainers: resumable checkpoints ([`CompleteCheckpoints`]), pushing ([`PushedModel`]), answers to
    validation questions at each evaluation, and a model card about usage and training data.

    Args:
        script_args: arguments of the run in addition to those of TRL.
        base_model: repository or folder of the checkpoint that training starts from.
        learning: names of the trainable parts.
        run: settings of the run, saved with its checkpoints.
        stages: stages of training including this one, saved with the model.
        languages: languages of the training conversations, for the card.
        questions: validation questions that are answered at each evaluation, if any.
        compiled: whether the LLM's layers are compiled.
        args, kwargs: arguments of TRL's trainer.
    """

    def __init__(
        self,
        *args,
        script_args: DataArguments,
        base_model: str,
        learning: list[str],
        run: dict,
        stages: list[Stage],
        languages: Sequence[str] = (),
        questions: ValidationQuestions | None = None,
        compiled: bool = False,
        **kwargs,
    ):
        self.script_args = script_args
        self.base_model = base_model
        self.learning = learning
        self.run = run
        self.stages = stages
        self.languages = list(languages)
        self.questions = questions
        self.compiled = compiled
        score_learnt_positions_only()
        super().__init__(*args, **kwargs)

    def _compilation(self, wanted: bool) -> AbstractContextManager:
        """Runs the LLM's layers as they are if they are compiled and this is not wanted."""
        return torch.compiler.set_stance("force_eager") if self.compiled and not wanted else nullcontext()

    def trained_in_words(self) -> str:
        """How many parameters are trained, with LoRA those of the adapters, and of which parts."""
        number = sum(weight.numel() for weight in self.model.parameters() if weight.requires_grad)
        return f"{number:,} ({', '.join(self.learning)})"

    def evaluation_loop(self, *args, metric_key_prefix: str = "eval", **kwargs) -> EvalLoopOutput:
        """Answers validation questions: adds their exact match to the metrics, and shows some."""
        with self._compilation(False):
            output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
            if self.questions is not None:
                model = self.accelerator.unwrap_model(self.model)
                answers = self.questions.answers(model, self.processing_class, self.accelerator)
                if self.questions.is_scored:
                    output.metrics[f"{metric_key_prefix}_{EXACT_MATCH}"] = self.questions.exact_match(answers)
                if self.is_world_process_zero() and (samples := self.questions.samples(answers)):
                    folder = Path(self.args.output_dir)
                    callbacks = self.callback_handler.callbacks
                    show_samples(samples, self.state.global_step, folder, callbacks, self.args)
        return output

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False):
        """Saves a model that `from_pretrained` loads, gathered from all processes; checkpoints stay sharded."""
        if self.is_fsdp_enabled and not _internal_call:
            self.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
        super().save_model(
            output_dir, _internal_call=True
        )  # `push_to_hub` publishes, when the card is written as well

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None):
        sharded_class = type(self.model)
        if issubclass(sharded_class, FSDPModule):  # created by torch, whose files would be saved as the model's code
            self.model.__class__ = sharded_class.__bases__[1]
        super()._save(output_dir, state_dict)
        self.model.__class__ = sharded_class

    def create_model_card(self, model_name: str | None = None, **kwargs):
        """Writes `README.md` and the training record into the output folder; called at the end and with each push."""
        if self.is_world_process_zero():
            folder, facts = Path(self.args.output_dir), training_facts(self)
            (folder / TRAINING_NAME).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
            name = self.hub_model_id or model_name or folder.name
            model_card(folder, name, facts, []).save(folder / "README.md")


class ElmTrainer(ElmTraining, SFTTrainer):
    """
    TRL's `SFTTrainer` with [`ElmTraining`], batches of conversations of similar length, and a learning rate of the encoder.

    Args:
        validation_collator: collator of the validation split.
        args, kwargs: arguments of `ElmTraining` and `SFTTrainer`.
    """

    def __init__(self, *args, validation_collator: ElmDataCollator, **kwargs):
        self.validation_collator = validation_collator
        super().__init__(*args, **kwargs)
        self.follow_epoch = FollowEpoch(self.data_collator)
        self.add_callback(self.follow_epoch)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> EpochSampler:
        dataset = train_dataset or self.train_dataset
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        sampler = EpochSampler(self.run["samples_per_step"], list(dataset["length"]), seed)
        self.follow_epoch.followers.append(sampler)
        return sampler

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The optimizer of transformers, or Muon, with the encoder's own learning rate if it has one."""
        rate, is_new = self.script_args.encoder_learning_rate, self.optimizer is None
        if self.script_args.muon and is_new:
            self.optimizer = MuonAdamW(self.model if model is None else model, self.args)
        optimizer = super().create_optimizer(model)
        if rate is not None and is_new:
            elm = self.accelerator.unwrap_model(self.model if model is None else model)
            elm = elm.get_base_model() if isinstance(elm, PeftModel) else elm
            set_learning_rate(optimizer, elm.model.encoder, rate)
        return optimizer

    def training_step(self, model: nn.Module, inputs: dict[str, torch.Tensor], *args, **kwargs) -> torch.Tensor:
        """A batch with fewer rows than others, which ends an epoch, runs without compilation."""
        with self._compilation(len(inputs["input_ids"]) >= self.args.train_batch_size):
            return super().training_step(model, inputs, *args, **kwargs)

    def get_eval_dataloader(self, eval_dataset: Dataset | None = None) -> DataLoader:
        """The validation batches, whose ECGs are not augmented."""
        of_training, self.data_collator = self.data_collator, self.validation_collator
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.data_collator = of_training

    def _get_eval_sampler(self, eval_dataset: Dataset) -> SequentialSampler:
        """The order of the rows, which are sorted by length: a random order would change the batches and the loss."""
        return SequentialSampler(eval_dataset)


def score_learnt_positions_only() -> None:
    """
    Lets TRL compute the logits on a CPU at those positions only whose token is learnt, as it does where Triton runs.
    Elsewhere it computes them at all positions, since some devices compile again for each number of them; a CPU does not.
    """
    trl_utils._use_triton = lambda device: device.type == "cpu" or chunked_logprob._use_triton(device)


def training_facts(trainer: ElmTraining) -> dict:
    """The training record for the card: settings and results of the training so far, as JSON values."""
    args, script_args = trainer.args, trainer.script_args
    model = trainer.accelerator.unwrap_model(trainer.model)
    is_adapter = isinstance(model, PeftModel)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    repos = [path for path in script_args.dataset if not Path(path).is_dir()]
    is_local = Path(trainer.base_model).is_dir()
    return parts_of(model.config) | {
        "method": trainer._tag_names[-1],  # as TRL names it: sft, dpo, ...
        "is_adapter": is_adapter,
        "num_parameters": model.num_parameters(),
        "num_trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "trained": ", ".join(trainer.learning) + (" (the LLM with LoRA adapters)" if is_adapter else ""),
        "base_model": Path(trainer.base_model).name if is_local else trainer.base_model,
        "base_model_on_hub": not is_local,
        "datasets": [path if path in repos else Path(path).name for path in script_args.dataset],
        "languages": trainer.languages,
        "datasets_on_hub": [split_revision(path)[0] for path in repos],
        "fold": script_args.fold,
        "ecg_condition": script_args.ecg_condition if isinstance(script_args, ElmScriptArguments) else "signal",
        "steps": trainer.state.global_step,
        "batch_size": trainer.run["samples_per_step"],
        "tokens_per_batch": getattr(script_args, "tokens_per_batch", None),
        "muon": getattr(script_args, "muon", False),
        "learning_rate": f"{args.learning_rate:g}",
        "encoder_learning_rate": getattr(script_args, "encoder_learning_rate", None),
        "schedule": SchedulerType(args.lr_scheduler_type).value,
        "seed": args.seed,
        "loss": f"{losses[-1]:.4g}" if losses else "not logged",
        "transformers_version": version("transformers"),
        "trl_version": version("trl"),
    }


def set_learning_rate(optimizer: torch.optim.Optimizer, module: nn.Module, learning_rate: float) -> None:
    """Moves the parameters of a module into groups of the optimizer with this learning rate, behind the other groups."""
    own = {id(parameter) for parameter in module.parameters()}
    for group in list(optimizer.param_groups):
        moved = [parameter for parameter in group["params"] if id(parameter) in own]
        if moved:
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in own]
            optimizer.add_param_group(group | {"params": moved, "lr": learning_rate})
