"""The trainer of ECG encoders, and what it measures on validation patients."""

from pathlib import Path

from transformers import EvalPrediction, PreTrainedTokenizerBase, Trainer

from elm_hf.data.label_tasks import LabelTasks
from elm_hf.data.seen_patients import Stage
from elm_hf.pretrain.reconstruction import ReconstructionPlots
from elm_hf.training.resume import CompleteCheckpoints
from elm_hf.utils.auroc import macro_aurocs


class PretrainTrainer(CompleteCheckpoints, Trainer):
    """
    Transformers' `Trainer` with resumable checkpoints ([`CompleteCheckpoints`]).

    Args:
        run: settings of the run, saved with its checkpoints.
        stages: stages of training including this one, saved with the encoder.
        text_tokenizer: tokenizer of the text tower, saved with the encoder; None without a text tower.
        plots: reconstructions of a masked autoencoder; None for other encoders.
        args, kwargs: arguments of `Trainer`.
    """

    def __init__(
        self,
        *args,
        run: dict,
        stages: list[Stage],
        text_tokenizer: PreTrainedTokenizerBase | None,
        plots: ReconstructionPlots | None,
        **kwargs,
    ):
        self.run = run
        self.stages = stages
        self.text_tokenizer = text_tokenizer
        self.plots = plots
        super().__init__(*args, **kwargs)

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
