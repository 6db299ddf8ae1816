"""Converts the published checkpoints of HuBERT-ECG (Coppola et al. 2024), which are folders as on the Hub."""

import json
import re
from dataclasses import fields
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import HubertConfig, PreTrainedConfig

from elm_hf.checkpoints.published_encoders import HUBERT_ECG
from elm_hf.checkpoints.published_weights import (
    build_config,
    listed,
    load_weights,
    renamer,
    with_new_weight_norm_names,
    without,
)
from elm_hf.modeling.configuration_hubert_ecg import HubertEcgConfig
from elm_hf.modeling.feature_extraction_hubert_ecg import HubertEcgFeatureExtractor
from elm_hf.modeling.modeling_hubert_ecg import HubertEcgForSequenceClassification, HubertEcgModel


CONFIG_NAME, WEIGHTS_NAME, INDEX_NAME = "config.json", "model.safetensors", "model.safetensors.index.json"
PUBLISHED_TYPES = ("hubert_ecg", "hubert_ecg_classification")
# Fields of the published configuration that describe the network and the dropout in training.
FIELDS = {field.name for field in fields(HubertConfig)} - {field.name for field in fields(PreTrainedConfig)}
NEEDED = {"hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "conv_dim", "conv_kernel"}
NEEDED |= {"conv_stride"}
# Tokens are not masked and layers not dropped when an encoder is fine-tuned here.
NOT_USED = {"mask_time_prob", "mask_feature_prob", "apply_spec_augment", "layerdrop", "vocab_size"}
PREFIX = "hubert_ecg."
# Parts of the pre-training task. `label_embedding.weight`, without a number, belongs to a classifier.
PRETRAINING = re.compile(r"(hubert_ecg\.)?(masked_spec_embed|final_proj\..*|label_embedding\.\d+\.weight)")
# The weight that tells the type of a classifier, and patterns that turn our names into the published ones.
CLASSIFIERS = {
    "linear": ("classifier.weight", [(r"^classifier\.out_proj\.", "classifier.")]),
    "mlp": (
        "classifier.2.weight",
        [(r"^classifier\.dense\.", "classifier.0."), (r"^classifier\.out_proj\.", "classifier.2.")],
    ),
    "label_embedding": (
        "label_embedding.weight",
        [(r"^classifier\.label_embedding\.", "label_embedding.")],
    ),
}


def convert_hubert_ecg(checkpoint: Path) -> list:
    """
    Converts HuBERT-ECG, pre-trained or fine-tuned.

    Args:
        checkpoint: folder with `config.json` and `model.safetensors`, as on the Hub.

    Returns:
        The model, a classifier if the folder contains one; and a feature extractor with the preprocessing of its
        training.

    Raises:
        ValueError: the folder is incomplete or of another model, or weights are unknown, missing or of another shape.
    """
    settings = _read_config(checkpoint)
    state_dict = with_new_weight_norm_names(_read_weights(checkpoint))
    state_dict = without(state_dict, PRETRAINING, checkpoint, "which only pre-training uses")

    found = {name: values for name, values in settings.items() if name in FIELDS - NOT_USED}
    found |= HUBERT_ECG.origin
    classifier = next((name for name, (key, _) in CLASSIFIERS.items() if key in state_dict), None)
    names = []
    if classifier is not None:
        key, names = CLASSIFIERS[classifier]
        number = len(state_dict[key])
        found |= {"classifier_type": classifier, "id2label": _labels(settings, number)}
        found |= {"problem_type": "multi_label_classification"}
        if classifier == "mlp" and "classifier.0.weight" in state_dict:
            found["classifier_hidden_size"] = len(state_dict["classifier.0.weight"])
    config = build_config(HubertEcgConfig, found, checkpoint / CONFIG_NAME)
    model_class = HubertEcgModel if classifier is None else HubertEcgForSequenceClassification
    if classifier is None and any(key.startswith(PREFIX) for key in state_dict):
        state_dict = {key.removeprefix(PREFIX): tensor for key, tensor in state_dict.items()}
    model = load_weights(lambda: model_class(config), state_dict, renamer(names), checkpoint)
    return [model, hubert_ecg_feature_extractor(config)]


def hubert_ecg_feature_extractor(config: HubertEcgConfig) -> HubertEcgFeatureExtractor:
    """HuBERT-ECG's preprocessing of the first 5 s of an ECG, which are a piece."""
    return HubertEcgFeatureExtractor(num_samples=config.piece_samples, piece_samples=config.piece_samples)


def _read_config(folder: Path) -> dict:
    """The published configuration, after checking that it is of HuBERT-ECG."""
    if not folder.is_dir() or not (folder / CONFIG_NAME).is_file():
        raise ValueError(
            f"{folder}: expected a folder of HuBERT-ECG with {CONFIG_NAME} and {WEIGHTS_NAME}, as on the Hub (such as "
            "Edoardo-BS/hubert-ecg-base). Its .pt files contain code of other packages and are not read; download the "
            "repository of the same size."
        )
    try:
        settings = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG_NAME}: cannot be read as JSON ({error}).") from error
    model_type = settings.get("model_type") if isinstance(settings, dict) else None
    if model_type not in PUBLISHED_TYPES:
        raise ValueError(
            f"{folder / CONFIG_NAME}: not a checkpoint of hubert_ecg: its `model_type` is {model_type!r}; expected "
            f"{' or '.join(PUBLISHED_TYPES)}."
        )
    if lacking := [name for name in NEEDED if settings.get(name) is None]:
        raise ValueError(f"{folder / CONFIG_NAME}: lacks {listed(lacking)}, which the weights do not show.")
    return settings


def _read_weights(folder: Path) -> dict[str, torch.Tensor]:
    names = [WEIGHTS_NAME]
    try:
        if (folder / INDEX_NAME).is_file():
            index = json.loads((folder / INDEX_NAME).read_text(encoding="utf-8"))
            names = sorted({Path(name).name for name in index["weight_map"].values()})
        if missing := [name for name in names if not (folder / name).is_file()]:
            raise ValueError(f"{folder}: {listed(missing)} is missing; weights are read from safetensors only.")
        return {key: tensor for name in names for key, tensor in load_file(folder / name).items()}
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{folder}: its weights cannot be read ({type(error).__name__}: {error}).") from error


def _labels(settings: dict, number: int) -> dict[int, str]:
    """The labels in the published configuration, if it has as many as the classifier."""
    labels = settings.get("id2label") or {}
    if len(labels) == number and all(str(index) in labels for index in range(number)):
        return {index: labels[str(index)] for index in range(number)}
    return {index: f"LABEL_{index}" for index in range(number)}
