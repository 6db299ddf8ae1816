"""Converts the published checkpoints of MERL (Liu et al. 2024): ResNet and ViT, encoders alone and full models."""

import logging
import re
from pathlib import Path

import torch
from transformers import BertConfig

from elm_hf.checkpoints.published_weights import (
    LAYER_NAMES,
    build_config,
    count_layers,
    layer_sizes,
    listed,
    load_state_dict,
    load_weights,
    renamer,
    without,
)
from elm_hf.modeling.configuration_merl import MerlConfig
from elm_hf.modeling.feature_extraction_ecg import EcgFeatureExtractor
from elm_hf.modeling.modeling_merl import BOTTLENECK_REDUCTION, MerlForPreTraining, MerlModel


logger = logging.getLogger(__name__)

SAMPLING_RATE = 500
NUM_SAMPLES = 5000
# The lead order of MIMIC-IV-ECG, on which MERL was trained: aVF before aVL.
MERL_LEADS = ("I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6")
BERT_HEAD_DIM = 64  # dimensions of an attention head in every published BERT
ENCODER_PREFIX, TEXT_PREFIX = "ecg_encoder.", "lm_model."
# Weights in the published files that MERL does not use: an untrained classifier, and a buffer of old transformers.
UNUSED = r"(ecg_encoder\.)?linear\.(weight|bias)|lm_model\.embeddings\.position_ids"

CONVOLUTIONS = {"first": 1, "second": 2, "third": 3}
# Patterns that turn our names into the published ones. They are applied in this order, and several may apply to a
# name.
RESNET_NAMES = [
    (r"(^|\.)encoder\.stem\.convolution\.", r"\1conv1."),
    (r"(^|\.)encoder\.stem\.normalization\.", r"\1bn1."),
    (r"(^|\.)encoder\.stages\.(\d+)\.", lambda match: f"{match[1]}layer{int(match[2]) + 1}."),
    (r"\.(first|second|third)\.convolution\.", lambda match: f".conv{CONVOLUTIONS[match[1]]}."),
    (r"\.(first|second|third)\.normalization\.", lambda match: f".bn{CONVOLUTIONS[match[1]]}."),
    (r"\.shortcut\.convolution\.", ".shortcut.0."),
    (r"\.shortcut\.normalization\.", ".shortcut.1."),
]
VIT_NAMES = [
    *LAYER_NAMES,
    (r"(^|\.)encoder\.layers\.(?=\d)", r"\1block"),
    (r"(^|\.)encoder\.position_embeddings$", r"\1pos_embedding"),
]
HEAD_NAMES = [
    (r"^merl\.", ENCODER_PREFIX),
    (r"^text_model\.", "lm_model."),
    (r"^text_projection\.linear_1\.", "proj_t.0."),
    (r"^text_projection\.linear_2\.", "proj_t.2."),
    (r"^first_view\.", "linear1."),
    (r"^second_view\.", "linear2."),
    (r"^ecg_projection\.linear\.", "downconv."),
    (r"^ecg_projection\.attention_pool\.position_embeddings$", "att_pool_head.positional_embedding"),
    (r"^ecg_projection\.attention_pool\.projection\.", "att_pool_head.c_proj."),
    (r"^ecg_projection\.attention_pool\.(?=.*_proj\.)", "att_pool_head.mhsa."),
    (r"^ecg_projection\.attention_pool\.", "att_pool_head."),
    (r"^ecg_projection\.linear_1\.", "proj_e.0."),
    (r"^ecg_projection\.norm_1\.", "proj_e.1."),
    (r"^ecg_projection\.linear_2\.", "proj_e.3."),
    (r"^ecg_projection\.norm_2\.", "proj_e.4."),
]


def convert_merl(checkpoint: Path) -> list:
    """
    Converts a published MERL file: an "encoder" file, or one without a text tower, to a [`MerlModel`], a "ckpt" file to a
    [`MerlForPreTraining`].

    The type of the encoder and all sizes follow from the names and shapes of the weights. Weights that MERL does not
    use are left out, and a warning names them.

    Returns:
        The model, and a feature extractor with the preprocessing that MERL was trained with: 500 Hz, 5,000 samples,
        one scale of 0 … 1 for all leads, aVF before aVL.

    Raises:
        ValueError: the file cannot be read safely, or weights are unknown, missing or of another shape.
    """
    state_dict = load_state_dict(checkpoint)
    state_dict = without(state_dict, UNUSED, checkpoint, "which MERL does not use")
    is_full = any(key.startswith(ENCODER_PREFIX) for key in state_dict)
    if is_full and not any(key.startswith(TEXT_PREFIX) for key in state_dict):
        state_dict, is_full = _encoder_alone(state_dict, checkpoint), False
    prefix = ENCODER_PREFIX if is_full else ""
    state_dict = _reshaped(state_dict, prefix)

    names = [*HEAD_NAMES]
    blocks = _resnet_blocks(state_dict, prefix)
    if f"{prefix}conv1.weight" in state_dict and blocks:
        sizes = _resnet_sizes(state_dict, prefix, blocks)
        names += RESNET_NAMES
    else:
        patch_embedding = _patch_embedding(state_dict, prefix, checkpoint)
        sizes = _vit_sizes(state_dict, prefix, patch_embedding, checkpoint)
        names += [*VIT_NAMES, (r"^(ecg_encoder\.)?encoder\.patch_embeddings\.weight$", patch_embedding)]
    if is_full:
        sizes |= _head_sizes(state_dict, sizes["encoder_type"], checkpoint)
    if sizes["num_leads"] != len(MERL_LEADS):
        raise ValueError(f"{checkpoint}: its encoder reads {sizes['num_leads']} leads; expected {len(MERL_LEADS)}.")
    config = build_config(MerlConfig, sizes, checkpoint)
    model = load_weights(lambda: _build(config, is_full), state_dict, renamer(names), checkpoint)
    return [model, merl_feature_extractor(config)]


def merl_feature_extractor(config: MerlConfig) -> EcgFeatureExtractor:
    """MERL's preprocessing: 500 Hz, one scale of 0 … 1 for all leads, leads in the order of `MERL_LEADS`."""
    return EcgFeatureExtractor(
        sampling_rate=SAMPLING_RATE,
        num_samples=config.num_samples,
        leads=MERL_LEADS,
        normalization="min_max",
        min_max_epsilon=1e-8,
    )


def _encoder_alone(state_dict: dict[str, torch.Tensor], source: Path) -> dict[str, torch.Tensor]:
    """The encoder of a file without a text tower, whose projections are of no use without it."""
    others = [key for key in state_dict if not key.startswith(ENCODER_PREFIX)]
    if others:
        logger.warning("%s: has no text tower (%s*); left out %s.", source, TEXT_PREFIX, listed(others))
    return {key.removeprefix(ENCODER_PREFIX): value for key, value in state_dict.items() if key not in others}


def _build(config: MerlConfig, is_full: bool) -> MerlModel | MerlForPreTraining:
    with torch.device("cpu"):  # BERT's position ids are not in the checkpoint; on "meta" they would stay empty
        return MerlForPreTraining(config) if is_full else MerlModel(config)


def _reshaped(state_dict: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Weights in our shapes: tables without a batch dimension, pointwise convolution as linear layer, q, k, v split."""
    shaped = {}
    for key, tensor in state_dict.items():
        if key in (f"{prefix}pos_embedding", "att_pool_head.positional_embedding") and tensor.dim() == 3:
            shaped[key] = tensor[0]
        elif key == "att_pool_head.cls_token":
            shaped[key] = tensor.flatten()
        elif key == "downconv.weight" and tensor.dim() == 3:
            shaped[key] = tensor.squeeze(2)
        elif key in ("att_pool_head.mhsa.in_proj_weight", "att_pool_head.mhsa.in_proj_bias") and len(tensor) % 3 == 0:
            for name, third in zip("qkv", tensor.chunk(3)):
                shaped[f"att_pool_head.mhsa.{name}_proj.{key.rpartition('_')[2]}"] = third
        else:
            shaped[key] = tensor
    return shaped


def _resnet_blocks(state_dict: dict[str, torch.Tensor], prefix: str) -> dict[int, list[int]]:
    """The numbers of the blocks of each stage; empty if the encoder is not a ResNet."""
    blocks = {}
    for key in state_dict:
        if match := re.match(rf"{re.escape(prefix)}layer(\d+)\.(\d+)\.conv1\.weight$", key):
            blocks.setdefault(int(match[1]), []).append(int(match[2]))
    return blocks


def _resnet_sizes(state_dict: dict[str, torch.Tensor], prefix: str, blocks: dict[int, list[int]]) -> dict:
    """The width and number of blocks of each stage, and the type of the blocks."""
    is_bottleneck = f"{prefix}layer1.0.conv3.weight" in state_dict
    expansion = BOTTLENECK_REDUCTION if is_bottleneck else 1
    stages = sorted(blocks)
    return {
        "encoder_type": "resnet",
        "num_leads": state_dict[f"{prefix}conv1.weight"].shape[1],
        "num_samples": NUM_SAMPLES,
        "embedding_size": state_dict[f"{prefix}conv1.weight"].shape[0],
        "hidden_sizes": [
            expansion * len(state_dict[f"{prefix}layer{stage}.{min(blocks[stage])}.conv1.weight"]) for stage in stages
        ],
        "depths": [len(blocks[stage]) for stage in stages],
        "layer_type": "bottleneck" if is_bottleneck else "basic",
    }


def _patch_embedding(state_dict: dict[str, torch.Tensor], prefix: str, source: Path) -> str:
    """The name of the ViT's only convolution, of shape `(hidden_size, leads, patch_size)`."""
    needed = [
        f"{prefix}{name}" for name in ("pos_embedding", "block0.attn.fn.to_qkv.weight", "block0.ff.fn.net.0.weight")
    ]
    convolutions = [key for key, tensor in state_dict.items() if key.startswith(prefix) and tensor.dim() == 3]
    if len(convolutions) != 1 or any(name not in state_dict for name in needed):
        raise ValueError(
            f"{source}: not a checkpoint of merl: it has neither the ResNet's {prefix}conv1.weight nor the ViT's "
            f"{', '.join(needed)} and one convolution. It has {len(state_dict)} weights, such as "
            f"{', '.join(sorted(state_dict)[:5])}."
        )
    return convolutions[0]


def _vit_sizes(state_dict: dict[str, torch.Tensor], prefix: str, patch_embedding: str, source: Path) -> dict:
    hidden_size, num_leads, patch_size = state_dict[patch_embedding].shape
    return {
        "encoder_type": "vit",
        "num_leads": num_leads,
        "num_samples": patch_size * len(state_dict[f"{prefix}pos_embedding"]),
        "hidden_size": hidden_size,
        "patch_size": patch_size,
    } | layer_sizes(state_dict, f"{prefix}block", source)


def _head_sizes(state_dict: dict[str, torch.Tensor], encoder_type: str, source: Path) -> dict:
    """Sizes of the text tower, the width of the shared space and, for the ResNet, the length of the training ECGs."""
    embeddings = "lm_model.embeddings"
    needed = ["linear1.weight", "proj_t.0.weight", "lm_model.encoder.layer.0.intermediate.dense.weight"]
    needed += [f"{embeddings}.{name}_embeddings.weight" for name in ("word", "position", "token_type")]
    if encoder_type == "resnet":
        needed.append("att_pool_head.positional_embedding")
    if lacking := [name for name in needed if name not in state_dict]:
        raise ValueError(
            f"{source}: has an encoder ({ENCODER_PREFIX}*) but an incomplete head: it lacks {listed(lacking)}."
        )
    vocab_size, hidden_size = state_dict[f"{embeddings}.word_embeddings.weight"].shape
    num_layers = count_layers(state_dict, r"lm_model\.encoder\.layer\.(\d+)\.")
    text_config = BertConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=max(1, hidden_size // BERT_HEAD_DIM),
        intermediate_size=len(state_dict["lm_model.encoder.layer.0.intermediate.dense.weight"]),
        max_position_embeddings=len(state_dict[f"{embeddings}.position_embeddings.weight"]),
        type_vocab_size=len(state_dict[f"{embeddings}.token_type_embeddings.weight"]),
    )
    sizes = {
        "text_config": text_config,
        "projection_dim": len(state_dict["linear1.weight"]),
        "projection_hidden_dim": len(state_dict["proj_t.0.weight"]),
    }
    if encoder_type == "resnet":
        num_tokens = len(state_dict["att_pool_head.positional_embedding"]) - 1
        if num_tokens != MerlConfig().num_tokens(NUM_SAMPLES):
            sizes["num_samples"] = 16 * num_tokens  # the longest ECG that gives this number of tokens
    return sizes
