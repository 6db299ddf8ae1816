"""Converts ECG-CoCa from the checkpoints of ECG-Chat (Zhao et al. 2024) and GEM (Lan et al. 2025), for local use."""

import json
import logging
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from elm_hf.checkpoints.published_encoders import ECG_COCA
from elm_hf.checkpoints.published_weights import (
    HEAD_DIM,
    build_config,
    count_layers,
    listed,
    load_state_dict,
    load_weights,
    renamer,
)
from elm_hf.modeling.configuration_ecg_coca import EcgCocaConfig
from elm_hf.modeling.feature_extraction_ecg_coca import EcgCocaFeatureExtractor
from elm_hf.modeling.modeling_ecg_coca import EcgCocaModel


logger = logging.getLogger(__name__)

INDEX_NAME = "model.safetensors.index.json"
# In files of its pre-training, beside a text tower and a decoder; and in the language models that contain it.
PREFIXES = ("ecg.", "module.ecg.", "model.ecg_tower.ecg_tower.")
# Patterns that turn our names into the published ones. They are applied in this order, and several may apply to a
# name.
NAMES = [
    (r"^patch_embeddings\.", "conv1."),
    (r"^position_embeddings$", "positional_embedding"),
    (r"^pre_norm\.", "ln_pre."),
    (r"^post_norm\.", "ln_post."),
    (r"^projection$", "proj"),
    (r"^layers\.", "transformer.resblocks."),
    (r"\.attention_norm\.", ".ln_1."),
    (r"\.mlp_norm\.", ".ln_2."),
    (r"\.attention\.qkv_proj\.", ".attn.in_proj_"),
    (r"\.attention\.out_proj\.", ".attn.out_proj."),
    (r"\.mlp\.up_proj\.", ".mlp.c_fc."),
    (r"\.mlp\.down_proj\.", ".mlp.c_proj."),
]
NEEDED = {"conv1.weight": 3, "positional_embedding": 2, "proj": 2, "transformer.resblocks.0.mlp.c_fc.weight": 2}


def convert_ecg_coca(checkpoint: Path) -> list:
    """
    Converts ECG-CoCa.

    Args:
        checkpoint: file of its pre-training; or a language model that contains it: a safetensors file, or a folder with
            such files, of which only the encoder is read.

    Returns:
        The model, and a feature extractor with the preprocessing of its pre-training.

    Raises:
        ValueError: the file cannot be read safely, or weights are unknown, missing or of another shape.
    """
    weights, num_others = _encoder_weights(checkpoint)
    if num_others:
        logger.warning("%s: left out %d weights of other parts of the model.", checkpoint, num_others)
    sizes = _sizes(weights, checkpoint)
    sizes |= ECG_COCA.origin
    config = build_config(EcgCocaConfig, sizes, checkpoint)
    model = load_weights(lambda: EcgCocaModel(config), weights, renamer(NAMES), checkpoint)
    # Language models are saved in half precision.
    return [model.float(), ecg_coca_feature_extractor(config)]


def ecg_coca_feature_extractor(config: EcgCocaConfig) -> EcgCocaFeatureExtractor:
    """ECG-CoCa's preprocessing of ECGs of the model's length."""
    return EcgCocaFeatureExtractor(num_samples=config.num_samples)


def _encoder_weights(checkpoint: Path) -> tuple[dict[str, torch.Tensor], int]:
    """The weights of the encoder, without their prefix, and the number of other weights."""
    weights, names = {}, []
    for path in _files(checkpoint):
        if path.suffix == ".safetensors":
            try:
                with safe_open(path, "pt") as file:
                    keys = list(file.keys())
                    found = {key: file.get_tensor(key) for key in keys if key.startswith(PREFIXES)}
            except SafetensorError as error:
                raise ValueError(f"{path}: its weights cannot be read ({error}).") from error
        else:
            found = load_state_dict(path)
            keys = list(found)
        names += keys
        weights |= {key: tensor for key, tensor in found.items() if key.startswith(PREFIXES)}
    prefixes = {prefix for prefix in PREFIXES if any(key.startswith(prefix) for key in weights)}
    if len(prefixes) != 1:
        raise ValueError(
            f"{checkpoint}: not a checkpoint of ecg_coca: expected weights whose names begin with "
            f"{' or '.join(PREFIXES[1:])}; it has {len(names)} weights, such as {', '.join(sorted(names)[:5])}."
        )
    prefix = prefixes.pop()
    return {key.removeprefix(prefix): tensor for key, tensor in weights.items()}, len(names) - len(weights)


def _files(checkpoint: Path) -> list[Path]:
    """The files of a checkpoint that have weights of the encoder."""
    if checkpoint.is_file():
        return [checkpoint]
    index = checkpoint / INDEX_NAME
    if not index.is_file():
        if files := sorted(checkpoint.glob("*.safetensors")):
            return files
        raise ValueError(f"{checkpoint}: has no safetensors file; expected a language model with ECG-CoCa.")
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError) as error:
        raise ValueError(f"{index}: cannot be read ({type(error).__name__}: {error}).") from error
    files = sorted({checkpoint / Path(name).name for key, name in places.items() if key.startswith(PREFIXES)})
    if missing := [path.name for path in files if not path.is_file()]:
        raise ValueError(f"{checkpoint}: {listed(missing)} is missing, which {INDEX_NAME} names.")
    if not files:
        raise ValueError(f"{index}: not a checkpoint of ecg_coca: no weight begins with {PREFIXES[-1]}.")
    return files


def _sizes(state_dict: dict[str, torch.Tensor], source: Path) -> dict[str, int]:
    """The fields of the configuration that follow from the names and shapes of the weights."""
    if lacking := [name for name, dim in NEEDED.items() if name not in state_dict or state_dict[name].dim() != dim]:
        raise ValueError(
            f"{source}: not a checkpoint of ecg_coca: it lacks {listed(lacking)}. Its encoder has {len(state_dict)} "
            f"weights, such as {', '.join(sorted(state_dict)[:5])}."
        )
    hidden_size, num_leads, patch_size = state_dict["conv1.weight"].shape
    num_layers = count_layers(state_dict, r"transformer\.resblocks\.(\d+)\.")
    return {
        "num_leads": num_leads,
        "num_samples": (len(state_dict["positional_embedding"]) - 1) * patch_size,
        "patch_size": patch_size,
        "hidden_size": hidden_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": hidden_size // HEAD_DIM,
        "intermediate_size": len(state_dict["transformer.resblocks.0.mlp.c_fc.weight"]),
        "projection_dim": state_dict["proj"].shape[1],
    }
