"""The trainer of ECG encoders, and what it measures on validation patients."""

from pathlib import Path

from transformers import EvalPrediction, PreTrainedTokenizerBase, SchedulerType, Trainer

from elm_hf.checkpoints.encoder_card import write_trained_encoder_card
from elm_hf.data.label_tasks import LabelTasks
from elm_hf.data.seen_patients import Stage
from elm_hf.pretrain.reconstruction import ReconstructionPlots
from elm_hf.training.pushing import PushedModel
from elm_hf.training.resume import CompleteCheckpoints
from elm_hf.utils.auroc import macro_aurocs


class PretrainTrainer(PushedModel, CompleteCheckpoints, Trainer):
    """
    Transformers' `Trainer` with resumable checkpoints ([`CompleteCheckpoints`]) and pushing ([`PushedModel`]).

    Args:
        run: settings of the run, saved with its checkpoints.
        target: what the encoder learns, for its card.
        stages: stages of training including this one, saved with the encoder.
        text_tokenizer: tokenizer of the text tower, saved with the encoder; None without a text tower.
        plots: reconstructions of a masked autoencoder; None for other encoders.
        args, kwargs: arguments of `Trainer`.
    """

    def __init__(
        self,
        *args,
        run: dict,
        target: str,
        stages: list[Stage],
        text_tokenizer: PreTrainedTokenizerBase | None,
        plots: ReconstructionPlots | None,
        **kwargs,
    ):
        self.run = run
        self.target = target
        self.stages = stages
        self.text_tokenizer = text_tokenizer
        self.plots = plots
        super().__init__(*args, **kwargs)

    def create_model_card(self, model_name: str | None = None, **kwargs):
        """Writes `README.md` and the training record into the output folder; called at the end and with each push."""
        if self.is_world_process_zero():
            folder = Path(self.args.output_dir)
            name = self.hub_model_id or model_name or folder.resolve().name
            write_trained_encoder_card(folder, name, self.training_facts())

    def training_facts(self) -> dict:
        """The training record for the card: settings of the training so far, as JSON values."""
        args = self.args
        return {
            "target": self.target,
            "steps": self.state.global_step,
            "batch_size": self.run["samples_per_step"],
            "crop_seconds": self.run["crop_seconds"],
            "learning_rate": f"{args.learning_rate:g}",
            "schedule": SchedulerType(args.lr_scheduler_type).value,
            "weight_decay": f"{args.weight_decay:g}",
            "seed": args.seed,
            "selected_by": args.metric_for_best_model if args.load_best_model_at_end else None,
        }

    def add_to_checkpoint(self, folder: Path) -> None:
        if self.plots is not None:
            self.plots.draw(self.accelerator.unwrap_model(self.model), folder)


class TaskAurocs:
    """
    Macro AUROC of each task (`eval_auroc_all`, ...), for `compute_metrics` of `Trainer` and `metric_for_best_model`.

    Args:
        tasks: the tasks of the classifier.
    """

    def __init__(self, tasks: LabelTasks):
        self.tasks = tasks

    def __call__(self, prediction: EvalPrediction) -> dict[str, float]:
        aurocs = macro_aurocs(prediction.predictions, prediction.label_ids, self.tasks.tasks)
        return {f"auroc_{task}": float(values[0]) for task, values in aurocs.items()}
