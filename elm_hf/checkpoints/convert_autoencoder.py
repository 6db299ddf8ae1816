"""Converts the published checkpoints of the ST-MEM project: ST-MEM, MTAE and MLAE, with and without the decoder."""

import re
from pathlib import Path

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from elm_hf.checkpoints.published_weights import (
    LAYER_NAMES,
    build_config,
    layer_sizes,
    listed,
    load_state_dict,
    load_weights,
    renamer,
)
from elm_hf.modeling.configuration_maefe import MlaeConfig, MtaeConfig
from elm_hf.modeling.configuration_st_mem import StMemConfig
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.modeling.feature_extraction_ecg import EcgFeatureExtractor
from elm_hf.modeling.modeling_maefe import MlaeForPreTraining, MlaeModel, MtaeForPreTraining, MtaeModel
from elm_hf.modeling.modeling_st_mem import StMemForPreTraining, StMemModel


# Patterns that turn our names into the published ones. They are applied in this order, and several may apply to a
# name.
AUTOENCODER_NAMES = [
    *LAYER_NAMES,
    (r"^decoder\.embed\.", "to_decoder_embedding."),
    (r"^decoder\.mask_token$", "mask_embedding"),
    (r"^decoder\.position_embeddings$", "decoder_pos_embed"),
    (r"^decoder\.decoder_layers\.", "decoder_blocks."),
    (r"^decoder\.(norm|head)\.", r"decoder_\1."),
    (r"^(st_mem|mtae|mlae)\.", "encoder."),
    (r"(^|\.)layers\.(?=\d)", r"\1block"),
    (r"(^|\.)layernorm\.", r"\1norm."),
    (r"(^|\.)embeddings\.patch_embeddings\.patch_norm\.", r"\1to_patch_embedding.1."),
    (r"(^|\.)embeddings\.patch_embeddings\.projection\.", r"\1to_patch_embedding.2."),
    (r"(^|\.)embeddings\.patch_embeddings\.norm\.", r"\1to_patch_embedding.3."),
    (r"(^|\.)embeddings\.position_embeddings$", r"\1pos_embedding"),
    (r"(^|\.)embeddings\.separator_token$", r"\1sep_embedding"),
    (r"(^|\.)embeddings\.cls_token$", r"\1cls_embedding"),
    (r"(^|\.)embeddings\.lead_embeddings$", r"\1lead_embeddings"),
]


def convert_st_mem(checkpoint: Path) -> list:
    """Converts ST-MEM (Na et al. 2024): "encoder" files to `StMemModel`, "full" files to `StMemForPreTraining`."""
    return _convert_autoencoder(checkpoint, StMemConfig, StMemModel, StMemForPreTraining)


def convert_mtae(checkpoint: Path) -> list:
    """Converts MTAE (Zhang et al. 2022) as trained by the ST-MEM project, on twelve leads."""
    return _convert_autoencoder(checkpoint, MtaeConfig, MtaeModel, MtaeForPreTraining)


def convert_mlae(checkpoint: Path) -> list:
    """Converts MLAE (Zhang et al. 2022) as trained by the ST-MEM project, with one token per lead."""
    return _convert_autoencoder(checkpoint, MlaeConfig, MlaeModel, MlaeForPreTraining)


def _convert_autoencoder(
    checkpoint: Path,
    config_class: type[PreTrainedConfig],
    model_class: type[PreTrainedModel],
    pretraining_class: type[PreTrainedModel],
) -> list:
    state_dict = load_state_dict(checkpoint)
    has_decoder = any(key.startswith("encoder.") for key in state_dict)
    prefix = "encoder." if has_decoder else ""
    state_dict = _without_aliases(_with_stacked_leads(state_dict, prefix, checkpoint), checkpoint)
    _check_kind(state_dict, prefix, config_class.model_type, checkpoint)
    sizes = _sizes(state_dict, prefix, checkpoint)
    sizes |= _signal_sizes(config_class.model_type, state_dict, prefix, checkpoint)
    if has_decoder:
        sizes |= _decoder_sizes(state_dict, checkpoint)
    config = build_config(config_class, sizes, checkpoint)
    architecture = pretraining_class if has_decoder else model_class
    model = load_weights(lambda: architecture(config), state_dict, renamer(AUTOENCODER_NAMES), checkpoint)
    return [model, st_mem_feature_extractor(config)]


def st_mem_feature_extractor(config: PreTrainedConfig) -> EcgFeatureExtractor:
    """The ST-MEM project's preprocessing for all three models, with the first leads of the standard order."""
    return EcgFeatureExtractor(
        sampling_rate=250,
        num_samples=config.num_samples,
        leads=LEADS[: config.num_leads],
        normalization="z_score",
        resampling="fft",
        band_pass=(0.67, 40.0),
    )


def _with_stacked_leads(state_dict: dict[str, torch.Tensor], prefix: str, source: Path) -> dict[str, torch.Tensor]:
    """Stacks ST-MEM's vectors `lead_embeddings.0`, … into one tensor `lead_embeddings` of shape `(leads, hidden)`."""
    pattern = re.compile(rf"{re.escape(prefix)}lead_embeddings\.(\d+)")
    vectors = {int(match[1]): tensor for key, tensor in state_dict.items() if (match := pattern.fullmatch(key))}
    if not vectors:
        return state_dict
    if sorted(vectors) != list(range(len(vectors))) or len(vectors) > len(LEADS):
        raise ValueError(
            f"{source}: found lead_embeddings {', '.join(map(str, sorted(vectors)))}; expected consecutive numbers from "
            f"0, at most {len(LEADS)} of them."
        )
    if len({tuple(tensor.shape) for tensor in vectors.values()}) > 1:
        raise ValueError(f"{source}: the lead_embeddings have different shapes; expected a single one.")
    rest = {key: tensor for key, tensor in state_dict.items() if not pattern.fullmatch(key)}
    return rest | {f"{prefix}lead_embeddings": torch.stack([vectors[lead] for lead in range(len(vectors))])}


def _without_aliases(state_dict: dict[str, torch.Tensor], source: Path) -> dict[str, torch.Tensor]:
    """Removes the copy of the encoder's patch embedding that full files contain."""
    aliases = {key for key in state_dict if f"encoder.{key}" in state_dict}
    different = [key for key in aliases if not torch.equal(state_dict[key], state_dict[f"encoder.{key}"])]
    if different:
        raise ValueError(f"{source}: {listed(different)} should equal the weights of the same name under encoder.")
    return {key: tensor for key, tensor in state_dict.items() if key not in aliases}


def _check_kind(state_dict: dict[str, torch.Tensor], prefix: str, kind: str, source: Path):
    """Checks that the weights that determine the sizes exist and have the expected number of dimensions."""
    special = {"sep_embedding": 1, "lead_embeddings": 2} if kind == "st_mem" else {"cls_embedding": 1}
    dimensions = special | {
        "pos_embedding": 3,
        "to_patch_embedding.2.weight": 2,
        "block0.attn.fn.to_qkv.weight": 2,
        "block0.ff.fn.net.0.weight": 2,
    }
    lacking = [
        name
        for name, number in dimensions.items()
        if prefix + name not in state_dict or state_dict[prefix + name].dim() != number
    ]
    if lacking:
        first = sorted(state_dict)[:5]
        raise ValueError(
            f"{source}: not a checkpoint of {kind}: it lacks {listed(lacking)}. It has {len(state_dict)} weights, such "
            f"as {', '.join(first)}."
        )


def _sizes(state_dict: dict[str, torch.Tensor], prefix: str, source: Path) -> dict[str, int]:
    hidden_size = state_dict[f"{prefix}to_patch_embedding.2.weight"].shape[0]
    return {"hidden_size": hidden_size} | layer_sizes(state_dict, f"{prefix}block", source)


def _decoder_sizes(state_dict: dict[str, torch.Tensor], source: Path) -> dict[str, int]:
    needed = ["decoder_pos_embed", "decoder_blocks.0.attn.fn.to_qkv.weight", "decoder_blocks.0.ff.fn.net.0.weight"]
    if lacking := [name for name in needed if name not in state_dict]:
        raise ValueError(
            f"{source}: has an encoder (encoder.*) but an incomplete decoder: it lacks {listed(lacking)}."
        )
    sizes = {"hidden_size": state_dict["decoder_pos_embed"].shape[-1]}
    sizes |= layer_sizes(state_dict, "decoder_blocks.", source)
    return {f"decoder_{name}": size for name, size in sizes.items()}


def _signal_sizes(kind: str, state_dict: dict[str, torch.Tensor], prefix: str, source: Path) -> dict[str, int]:
    """Number of leads, number of samples and patch size, from the shapes of the position and patch embeddings."""
    patch_dim = state_dict[f"{prefix}to_patch_embedding.2.weight"].shape[1]
    num_positions = state_dict[f"{prefix}pos_embedding"].shape[1]
    if kind == "st_mem":  # a separator at both ends
        num_leads = state_dict[f"{prefix}lead_embeddings"].shape[0]
        return {"num_leads": num_leads, "patch_size": patch_dim, "num_samples": (num_positions - 2) * patch_dim}
    if kind == "mlae":  # a class token, then one token per lead
        if num_positions - 1 > len(LEADS):
            raise ValueError(
                f"{source}: not a checkpoint of mlae: it has positions for {num_positions - 1} leads; expected at "
                f"most {len(LEADS)}. It may be a checkpoint of mtae."
            )
        return {"num_leads": num_positions - 1, "num_samples": patch_dim}
    if patch_dim % len(LEADS):
        raise ValueError(
            f"{source}: not a checkpoint of mtae: its patches have {patch_dim} values; expected a multiple of "
            f"{len(LEADS)}, the number of leads. It may be a checkpoint of mlae."
        )
    patch_size = patch_dim // len(LEADS)
    return {"num_leads": len(LEADS), "patch_size": patch_size, "num_samples": (num_positions - 1) * patch_size}
