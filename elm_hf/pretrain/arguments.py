"""Arguments of `elm-hf pretrain` in addition to those of transformers. Nothing here imports torch."""

from dataclasses import dataclass, field


def _argument(help: str, default=None):
    return field(default=default, metadata={"help": help})


@dataclass
class PretrainArguments:
    """
    Arguments of `elm-hf pretrain` in addition to those of `TrainingArguments`. The fields are documented by their help
    texts.
    """

    dataset: list[str] = field(
        metadata={"help": "Datasets whose records are used for training: folders or Hub names."}
    )
    encoder: str = field(
        metadata={
            "help": "Type of a new encoder (ecg_coca, ecg_cpc, ecg_fm, ecg_jepa, ecg_resnet, ecg_se_resnet, hubert_ecg, "
            "merl, mlae, mtae, net1d, st_mem), or a checkpoint to continue from."
        }
    )
    target: str | None = _argument(
        "What the encoder learns: labels (all labels of a record, multi-label), class (the superclass of a record) or "
        "report. Default: labels for ecg_se_resnet, class for ecg_resnet and the published encoders, report for merl; "
        "the masked autoencoders reconstruct the signal."
    )
    crop_seconds: float | None = _argument(
        "Length of the random crops of training records, for encoders that read ECGs of any length. Default: the "
        "length that the encoder reads."
    )
    encoder_config: str | None = _argument("Fields of a new encoder's configuration: a JSON file, or a JSON object.")
    text_model: str = _argument("Text tower of a new merl encoder. It stays frozen.", "ncbi/MedCPT-Query-Encoder")
    fold: str | None = _argument(
        "Fold to train on: its validation patients are used for evaluation, and its test patients are omitted. Required "
        "by encoders that learn classes (ecg_resnet and published encoders), which are the strata of the fold's "
        "conversations. By default all records are used."
    )
    held_out_dataset: str | None = _argument(
        "Another dataset about the same ECGs, whose test and validation patients of the same fold are omitted as well."
    )
    early_stopping_patience: int | None = _argument(
        "Number of evaluations without improvement after which training ends. Needs --eval_strategy and "
        "--load_best_model_at_end."
    )
    num_plots: int = _argument("Number of reconstructions to draw with each checkpoint of a masked autoencoder.", 4)
