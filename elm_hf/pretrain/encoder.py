"""The encoder to pre-train: a new one, or a checkpoint to continue from."""

import json
from pathlib import Path

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from elm_hf.checkpoints.convert_autoencoder import st_mem_feature_extractor
from elm_hf.checkpoints.convert_merl import merl_feature_extractor
from elm_hf.checkpoints.encoder import encoder_type, new_encoder_config
from elm_hf.checkpoints.load import load_feature_extractor
from elm_hf.checkpoints.preprocessing import FEATURE_EXTRACTORS, ecg_se_resnet_feature_extractor
from elm_hf.modeling.ecg_encoders import import_ecg_encoders
from elm_hf.modeling.feature_extraction_ecg import EcgFeatureExtractor
from elm_hf.modeling.modeling_merl import MerlForPreTraining
from elm_hf.pretrain.arguments import PretrainArguments


# Targets of the encoders that are not trained to reconstruct the signal.
TARGETS = {"merl": "report"} | dict.fromkeys(("ecg_resnet", *FEATURE_EXTRACTORS), "class")
TARGETS |= {"ecg_se_resnet": "labels"}


def load_encoder_to_train(
    arguments: PretrainArguments, classes: list[str] | None, record: dict
) -> tuple[PreTrainedModel, EcgFeatureExtractor, PreTrainedTokenizerBase | None]:
    """
    Loads or creates the encoder with its pre-training head, its feature extractor and the tokenizer of its text tower.

    Args:
        arguments: arguments that name the encoder.
        classes: names of the classes, for encoders that are trained to classify.
        record: a training record; all have its sampling rate and length.

    Returns:
        The model, the feature extractor, and the tokenizer (None without a text tower).
    """
    name, model_type = arguments.encoder, encoder_type(arguments.encoder)
    if name == model_type:
        model = new_encoder(model_type, arguments.encoder_config, arguments.text_model, classes)
        feature_extractor = new_feature_extractor(model, record["sampling_rate"], record["ecg"].shape[1])
        text_model = arguments.text_model
    else:
        model = AutoModelForPreTraining.from_pretrained(name) if classes is None else load_classifier(name, classes)
        feature_extractor = load_feature_extractor(name)
        text_model = name
    return model, feature_extractor, AutoTokenizer.from_pretrained(text_model) if model_type == "merl" else None


def load_classifier(name: str, classes: list[str]) -> PreTrainedModel:
    """
    Loads a pre-trained encoder with its classifier, or with a new one if it has none of these classes.

    Args:
        name: folder or repository of the encoder.
        classes: names of the classes.
    """
    config = AutoConfig.from_pretrained(name)
    fields = _class_fields(classes)
    if config.id2label == fields["id2label"]:
        return AutoModelForSequenceClassification.from_pretrained(name)
    for field, value in fields.items():
        setattr(config, field, value)
    encoder = AutoModel.from_pretrained(name)
    model = AutoModelForSequenceClassification.from_config(config).to(encoder.dtype)
    setattr(model, model.base_model_prefix, encoder)
    return model


def new_encoder(
    model_type: str, config_file: str | None, text_model: str, classes: list[str] | None
) -> PreTrainedModel:
    """
    Creates an encoder with random weights and its pre-training head.

    Args:
        model_type: type of the encoder.
        config_file: fields of its configuration: a JSON file, or a JSON object as text.
        text_model: text tower of `"merl"`.
        classes: names of the classes, for encoders that are trained to classify.
    """
    import_ecg_encoders()
    fields = {} if config_file is None else _fields(config_file)
    if model_type == "merl":
        return MerlForPreTraining.from_text_pretrained(text_model, **fields)
    if classes is not None:
        fields |= _class_fields(classes)
        return AutoModelForSequenceClassification.from_config(new_encoder_config(model_type, **fields))
    return AutoModelForPreTraining.from_config(new_encoder_config(model_type, **fields))


def new_feature_extractor(model: PreTrainedModel, sampling_rate: int, num_samples: int) -> EcgFeatureExtractor:
    """
    A feature extractor with the preprocessing of the encoder's paper. `ecg_resnet` and `ecg_se_resnet` read records in
    millivolt, without normalization, the latter at 100 Hz.

    Args:
        model: the encoder.
        sampling_rate, num_samples: sampling rate in Hz and length of the records.
    """
    if model.config.model_type == "ecg_se_resnet":
        return ecg_se_resnet_feature_extractor(model.config, num_samples / sampling_rate)
    if model.config.model_type in FEATURE_EXTRACTORS:
        return FEATURE_EXTRACTORS[model.config.model_type](model.config)
    if model.config.model_type == "merl":
        return merl_feature_extractor(model.config)
    if model.config.model_type == "ecg_resnet":
        return EcgFeatureExtractor(sampling_rate, num_samples, normalization="none")
    return st_mem_feature_extractor(model.config)


def _fields(config: str) -> dict:
    return json.loads(config if config.lstrip().startswith("{") else Path(config).read_text(encoding="utf-8"))


def _class_fields(classes: list[str]) -> dict:
    """The fields of a configuration for classes of which a record has one; for labels the program changes the type."""
    return {
        "id2label": dict(enumerate(classes)),
        "label2id": {name: number for number, name in enumerate(classes)},
        "problem_type": "single_label_classification",
    }
