"""Converts the published checkpoints of ECG-JEPA (Kim 2024): the encoder, pre-trained with blocks or random masks."""

from pathlib import Path

import torch

from elm_hf.checkpoints.published_encoders import ECG_JEPA
from elm_hf.checkpoints.published_weights import (
    build_config,
    check_weights,
    count_layers,
    load_state_dict,
    load_weights,
    renamer,
)
from elm_hf.modeling.configuration_ecg_jepa import EcgJepaConfig
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.modeling.feature_extraction_ecg_jepa import JEPA_LEADS, EcgJepaFeatureExtractor
from elm_hf.modeling.modeling_ecg_jepa import EcgJepaModel


HEAD_DIM = 48  # dimensions of an attention head, which the weights do not show
# Patterns that turn our names into the published ones. They are applied in this order, and several may apply to a
# name.
NAMES = [
    (r"^position_embeddings$", "pos_embed"),
    (r"^patch_embeddings\.", "W_P."),
    (r"^layernorm\.", "norm."),
    (r"^layers\.", "encoder_blocks.blocks."),
    (r"\.attention_norm\.", ".norm1."),
    (r"\.mlp_norm\.", ".norm2."),
    (r"\.attention\.qkv_proj\.", ".attn.qkv."),
    (r"\.attention\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.up_proj\.", ".mlp.fc1."),
    (r"\.mlp\.down_proj\.", ".mlp.fc2."),
]
NEEDED = {"pos_embed": 2, "W_P.weight": 2, "encoder_blocks.blocks.0.mlp.fc1.weight": 2}


def convert_ecg_jepa(checkpoint: Path) -> list:
    """
    Converts ECG-JEPA.

    Returns:
        The model, and a feature extractor with the preprocessing of its pre-training.

    Raises:
        ValueError: the file cannot be read safely, or weights are unknown, missing or of another shape.
    """
    state_dict = load_state_dict(checkpoint)
    sizes = _sizes(state_dict, checkpoint)
    sizes |= ECG_JEPA.origin
    config = build_config(EcgJepaConfig, sizes, checkpoint)
    table = state_dict["pos_embed"]
    state_dict["pos_embed"] = table.unflatten(0, (config.num_leads, config.num_patches))
    model = load_weights(lambda: EcgJepaModel(config), state_dict, renamer(NAMES), checkpoint)
    return [model, ecg_jepa_feature_extractor(config)]


def ecg_jepa_feature_extractor(config: EcgJepaConfig) -> EcgJepaFeatureExtractor:
    """ECG-JEPA's preprocessing of ECGs of the model's length; the first standard leads if they are not eight."""
    leads = JEPA_LEADS if config.num_leads == len(JEPA_LEADS) else LEADS[: config.num_leads]
    return EcgJepaFeatureExtractor(num_samples=config.num_samples, leads=leads)


def _sizes(state_dict: dict[str, torch.Tensor], source: Path) -> dict[str, int]:
    """The fields of the configuration that follow from the names and shapes of the weights."""
    check_weights(state_dict, NEEDED, "ecg_jepa", source)
    hidden_size, patch_size = state_dict["W_P.weight"].shape
    num_leads = EcgJepaConfig.num_leads
    num_tokens = len(state_dict["pos_embed"])
    if num_tokens % num_leads or hidden_size % HEAD_DIM:
        raise ValueError(
            f"{source}: its position table has {num_tokens} rows and its tokens a width of {hidden_size}; expected "
            f"multiples of {num_leads} leads and of {HEAD_DIM}, the width of an attention head of ecg_jepa."
        )
    num_layers = count_layers(state_dict, r"encoder_blocks\.blocks\.(\d+)\.")
    return {
        "num_samples": num_tokens // num_leads * patch_size,
        "patch_size": patch_size,
        "hidden_size": hidden_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": hidden_size // HEAD_DIM,
        "intermediate_size": len(state_dict["encoder_blocks.blocks.0.mlp.fc1.weight"]),
    }
