"""The trainer of ECG encoders."""

from transformers import (
    PreTrainedTokenizerBase,
    Trainer,
)

from elm_hf.pretrain.reconstruction import ReconstructionPlots
from elm_hf.training.resume import WholeCheckpoints


class PretrainTrainer(WholeCheckpoints, Trainer):
    """
    Transformers' `Trainer` whose checkpoints appear whole or not at all.

    Args:
        run: settings of the run, by which its checkpoints are known.
        text_tokenizer: of the text tower, saved with the encoder that has one.
        plots: of masked autoencoders.
        args, kwargs: of `Trainer`.
    """

    def __init__(
        self,
        *args,
        run: dict,
        text_tokenizer: PreTrainedTokenizerBase | None,
        plots: ReconstructionPlots | None,
        **kwargs,
    ):
        self.run = run
        self.text_tokenizer = text_tokenizer
        self.plots = plots
        super().__init__(*args, **kwargs)
        if plots is not None:
            self.add_callback(plots)
