"""The card (`README.md`) of an encoder that was trained with elm-hf, from the files of its checkpoint."""

import json
import re
from importlib.resources import files
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData
from transformers import PreTrainedConfig

from elm_hf.checkpoints.card import CardFile, count_parameters
from elm_hf.checkpoints.load import load_feature_extractor
from elm_hf.data.seen_patients import read_stages
from elm_hf.utils.encoder_origin import UNKNOWN_LICENSE
from elm_hf.utils.files import read_json


# Written by `elm-hf pretrain` beside the weights, for the card.
ENCODER_TRAINING_NAME = "encoder_training.json"
ENCODER_TAGS = ["ecg", "electrocardiogram", "elm-hf"]


def trained_encoder_card(folder: Path, name: str) -> CardFile:
    """
    Creates the card of a trained encoder: its model and training, and the patients that it has seen.

    Args:
        folder: folder of the checkpoint, which `elm-hf pretrain` has written.
        name: repository or folder that the usage example loads.
    """
    config, _ = PreTrainedConfig.get_config_dict(folder)
    training = folder / ENCODER_TRAINING_NAME
    license = config.get("license")
    architecture = (config.get("architectures") or [config["model_type"]])[0]
    labels = config.get("id2label") if architecture.endswith("ForSequenceClassification") else None
    feature_extractor = load_feature_extractor(folder)
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="feature-extraction",
        license=None if license == UNKNOWN_LICENSE else license,
        tags=[*ENCODER_TAGS, config["model_type"]],
        model_name=name.split("/")[-1],
    )
    return CardFile.from_template(
        data,
        template_str=files("elm_hf.cards").joinpath("trained_encoder_card.md").read_text(encoding="utf-8"),
        name=name.split("/")[-1],
        repo=name,
        model_type=config["model_type"],
        architecture=architecture,
        num_parameters=count_parameters(folder),
        labels=list((labels or {}).values()),
        multi_label=config.get("problem_type") == "multi_label_classification",
        pretraining_data=config.get("pretraining_data") or [],
        leads=feature_extractor.leads,
        num_samples=feature_extractor.num_samples,
        sampling_rate=feature_extractor.sampling_rate,
        training=read_json(training) if training.is_file() else None,
        stages=read_stages(folder) or [],
    )


def card_of_encoder(folder: Path, name: str, license: str | None = None) -> str:
    """
    The card of an encoder under another name: that in its folder, with the evaluations that have been written into it. An
    encoder without a card gets one, and a card that elm-hf has not written stays as it is.

    Args:
        folder: folder of the checkpoint.
        name: repository that the usage example loads.
        license: licence of the weights; that of the card by default.

    Raises:
        ValueError: there is no card, and the checkpoint is not one of an ECG encoder.
    """
    readme = folder / "README.md"
    if not readme.is_file():
        try:
            card = trained_encoder_card(folder, name)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{folder}: neither an ELM nor an ECG encoder with its feature extractor, and without a card (README.md); "
                "write a card, and publish it again"
            ) from error
    else:
        card = ModelCard.load(readme)
        is_ours = "elm-hf" in (card.data.tags or [])
        if not is_ours and license is None:
            return readme.read_text(encoding="utf-8")
        if is_ours:
            short = name.split("/")[-1]
            card.data.model_name = short
            card.text = re.sub(r'^repo = ".*?"', lambda _: f'repo = "{name}"', card.text, count=1, flags=re.MULTILINE)
            card.text = re.sub(r"^# .*$", lambda _: f"# {short}", card.text, count=1, flags=re.MULTILINE)
    if license is not None:
        card.data.license = license
    return str(card)


def write_trained_encoder_card(folder: Path, name: str, training: dict) -> None:
    """
    Writes the card and what it says about the training into the folder of a checkpoint.

    Args:
        folder, name: as in [`trained_encoder_card`].
        training: settings of the training, as JSON values.
    """
    (folder / ENCODER_TRAINING_NAME).write_text(json.dumps(training, indent=2) + "\n", encoding="utf-8")
    trained_encoder_card(folder, name).save_pretrained(folder)
