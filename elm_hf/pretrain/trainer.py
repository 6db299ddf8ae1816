"""The trainer of ECG encoders."""

from pathlib import Path

from transformers import (
    PreTrainedTokenizerBase,
    Trainer,
)

from elm_hf.data.seen_patients import Stage
from elm_hf.pretrain.reconstruction import ReconstructionPlots
from elm_hf.training.resume import CompleteCheckpoints


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
