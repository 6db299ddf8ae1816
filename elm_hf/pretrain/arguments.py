"""Arguments of `elm-hf pretrain` beside those of transformers. Nothing here imports torch, so that `--help` answers at once."""

from dataclasses import dataclass, field


def _argument(help: str, default=None):
    return field(default=default, metadata={"help": help})


@dataclass
class PretrainArguments:
    """Arguments of `elm-hf pretrain` beside those of `TrainingArguments`. The help of each field says what it does."""

    dataset: list[str] = field(metadata={"help": "Datasets whose records to train on: folders or Hub names."})
    encoder: str = field(
        metadata={
            "help": "Type of a new encoder (ecg_resnet, merl, mlae, mtae, st_mem), or a checkpoint to continue from."
        }
    )
    encoder_config: str | None = _argument("JSON file with fields of a new encoder's configuration.")
    text_model: str = _argument("Text tower of a new merl. It stays frozen.", "ncbi/MedCPT-Query-Encoder")
    fold: str | None = _argument(
        "Fold whose test patients are held out, for evaluation. Classes need it: they are the strata of the fold's "
        "conversations. By default all records are trained on."
    )
    held_out_dataset: str | None = _argument(
        "Another dataset about the same ECGs: hold out the patients that this fold of it tests on, too."
    )
    num_plots: int = _argument("Number of reconstructions to draw beside each checkpoint of a masked autoencoder.", 4)
