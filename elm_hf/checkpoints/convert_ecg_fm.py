"""Converts the published checkpoints of ECG-FM (McKeen et al. 2025): pre-trained, and fine-tuned to classify."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path

import torch

from elm_hf.checkpoints.published_encoders import ECG_FM
from elm_hf.checkpoints.published_weights import (
    HEAD_DIM,
    build_config,
    check_weights,
    count_layers,
    load_file,
    load_weights,
    published_labels,
    renamer,
    state_dict_of,
    with_new_weight_norm_names,
    without,
)
from elm_hf.modeling.configuration_ecg_fm import EcgFmConfig
from elm_hf.modeling.feature_extraction_ecg_fm import EcgFmFeatureExtractor
from elm_hf.modeling.modeling_ecg_fm import EcgFmForSequenceClassification, EcgFmModel


logger = logging.getLogger(__name__)

CLASSIFIER_PREFIX = "encoder."
# Settings of the network that the weights do not show: name in `cfg["model"]`, and the value of the published models.
SETTINGS = {"layer_norm_first": False, "extractor_mode": "default", "conv_bias": False}
# Parts of the pre-training task.
PRETRAINING = re.compile(r"mask_emb|quantizer\..*|project_q\..*|final_proj\..*")
# Patterns that turn our names into the published ones. They are applied in this order, and several may apply to a
# name.
NAMES = [
    (r"^classifier\.", "proj."),
    (r"^ecg_fm\.", CLASSIFIER_PREFIX),
    (r"(^|\.)conv_layers\.(\d+)\.conv\.", r"\1conv_layers.\2.0."),
    (r"(^|\.)conv_layers\.0\.layer_norm\.", r"\1conv_layers.0.2."),
    (r"(^|\.)feature_projection\.layer_norm\.", r"\1layer_norm."),
    (r"(^|\.)feature_projection\.projection\.", r"\1post_extract_proj."),
    (r"(^|\.)encoder\.pos_conv_embed\.conv\.", r"\1conv_pos.pos_conv.0."),
    (r"\.attention\.", ".self_attn."),
    (r"(\.layers\.\d+)\.layer_norm\.", r"\1.self_attn_layer_norm."),
    (r"\.feed_forward\.intermediate_dense\.", ".fc1."),
    (r"\.feed_forward\.output_dense\.", ".fc2."),
]


def convert_ecg_fm(checkpoint: Path) -> list:
    """
    Converts ECG-FM, pre-trained or fine-tuned.

    Returns:
        The model, a classifier if the file contains one; and a feature extractor with the preprocessing of its
        pre-training.

    Raises:
        ValueError: the file cannot be read safely, its settings are those of another network, or weights are unknown,
            missing or of another shape.
    """
    loaded = load_file(checkpoint)
    state_dict = with_new_weight_norm_names(state_dict_of(loaded, checkpoint))
    is_classifier = "proj.weight" in state_dict
    prefix = CLASSIFIER_PREFIX if is_classifier else ""
    state_dict = without(state_dict, PRETRAINING, checkpoint, "which only pre-training uses")

    sizes = _sizes(state_dict, prefix, checkpoint)
    sizes |= _settings(loaded, sizes["hidden_size"], checkpoint)
    sizes |= ECG_FM.origin
    if is_classifier:
        sizes |= {
            "id2label": published_labels("ecg_fm_labels.txt", len(state_dict["proj.weight"])),
            "problem_type": "multi_label_classification",
        }
    config = build_config(EcgFmConfig, sizes, checkpoint)
    model_class = EcgFmForSequenceClassification if is_classifier else EcgFmModel
    model = load_weights(lambda: model_class(config), state_dict, renamer(NAMES), checkpoint)
    return [model, ecg_fm_feature_extractor(config)]


def ecg_fm_feature_extractor(config: EcgFmConfig) -> EcgFmFeatureExtractor:
    """ECG-FM's preprocessing of ECGs of 10 s, which are two pieces."""
    return EcgFmFeatureExtractor(num_samples=2 * config.piece_samples)


def _settings(loaded: object, hidden_size: int, source: Path) -> dict:
    """Checks the settings in the file, and returns the number of attention heads."""
    settings = loaded.get("cfg") if isinstance(loaded, Mapping) else None
    settings = settings.get("model") if isinstance(settings, Mapping) else None
    if not isinstance(settings, Mapping):
        logger.warning(
            '%s: has no settings (cfg["model"]); its network is taken for that of the published models: post-norm, '
            "attention heads of %d dimensions.",
            source,
            HEAD_DIM,
        )
        settings = {}
    for name, expected in SETTINGS.items():
        if settings.get(name, expected) != expected:
            raise ValueError(
                f"{source}: its settings have {name}={settings[name]!r}; expected {expected!r}, as in the published "
                "models of ecg_fm. It is another network, whose weights have the same names."
            )
    return {"num_attention_heads": settings.get("encoder_attention_heads") or hidden_size // HEAD_DIM}


def _sizes(state_dict: dict[str, torch.Tensor], prefix: str, source: Path) -> dict:
    """The fields of the configuration that follow from the names and shapes of the weights."""
    convolutions = [
        f"{prefix}feature_extractor.conv_layers.{index}.0.weight"
        for index in range(sum(bool(re.search(r"conv_layers\.\d+\.0\.weight$", key)) for key in state_dict))
    ]
    positions = f"{prefix}conv_pos.pos_conv.0.parametrizations.weight.original1"
    projection, inner = f"{prefix}post_extract_proj.weight", f"{prefix}encoder.layers.0.fc1.weight"
    needed = [*(convolutions or [f"{prefix}feature_extractor.conv_layers.0.0.weight"]), positions, projection, inner]
    check_weights(state_dict, dict.fromkeys(needed), "ecg_fm", source)
    num_layers = count_layers(state_dict, rf"{prefix}encoder\.layers\.(\d+)\.")
    shapes = [state_dict[name].shape for name in convolutions]
    hidden_size = len(state_dict[projection])
    return {
        "num_leads": shapes[0][1],
        "conv_dim": [shape[0] for shape in shapes],
        "conv_kernel": [shape[2] for shape in shapes],
        "conv_stride": [shape[2] for shape in shapes],  # as wide as the kernels
        "hidden_size": hidden_size,
        "num_hidden_layers": num_layers,
        "intermediate_size": len(state_dict[inner]),
        "num_conv_pos_embeddings": state_dict[positions].shape[2],
        "num_conv_pos_embedding_groups": hidden_size // state_dict[positions].shape[1],
    }
