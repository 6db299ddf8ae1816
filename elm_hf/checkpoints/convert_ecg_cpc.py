"""Converts the published checkpoint of ECG-CPC (Al-Masud et al. 2026)."""

import re
from pathlib import Path

import torch

from elm_hf.checkpoints.published_encoders import ECG_CPC
from elm_hf.checkpoints.published_weights import (
    build_config,
    check_weights,
    count_layers,
    load_file,
    load_weights,
    renamer,
    state_dict_of,
    without,
)
from elm_hf.modeling.configuration_ecg_cpc import EcgCpcConfig
from elm_hf.modeling.feature_extraction_ecg_cpc import EcgCpcFeatureExtractor
from elm_hf.modeling.modeling_ecg_cpc import EcgCpcModel


PREFIX = "ts_encoder."
# The file also contains its project's settings as objects of these classes, which are not needed.
SETTINGS = (
    r"clinical_ts\.[\w.]*Config|omegaconf\.(base|dictconfig|listconfig|nodes)\.\w+|typing\.\w+"
    r"|collections\.defaultdict|(builtins|__builtin__)\.(dict|list|tuple|int|long|float|str|bool)"
)
PRETRAINING = re.compile(r"head_ssl\..*")
S4 = "predictor.predictor.s4_layers."
KERNEL = re.compile(re.escape(S4) + r"\d+\.kernel\.kernel\.(\w+)")
# Nodes at which the reference evaluates the response; they follow from their number.
NODES = {"omega", "z"}
# Patterns that turn our names into the published ones. They are applied in this order, and several may apply to a
# name.
NAMES = [
    (r"^conv_layers\.(\d+)\.conv\.", r"encoder.layers.\1.0."),
    (r"^conv_layers\.(\d+)\.norm\.", r"encoder.layers.\1.1."),
    (r"^layers\.(\d+)\.norm\.", r"predictor.predictor.norms.\1."),
    (r"^layers\.", S4),
    (r"\.state_space\.diagonal$", ".kernel.kernel.w"),
    (r"\.state_space\.left_vector$", ".kernel.kernel.P"),
    (r"\.state_space\.right_vector$", ".kernel.kernel.Q"),
    (r"\.state_space\.input_vector$", ".kernel.kernel.B"),
    (r"\.state_space\.output_vector$", ".kernel.kernel.C"),
    (r"\.state_space\.log_step$", ".kernel.kernel.log_dt"),
    (r"\.skip$", ".D"),
    (r"\.out_proj\.", ".output_linear.0."),
]
NEEDED = {
    "encoder.layers.0.0.weight": 3,
    f"{S4}0.kernel.kernel.C": 4,
    f"{S4}0.kernel.kernel.omega": 2,
}


def convert_ecg_cpc(checkpoint: Path) -> list:
    """
    Converts ECG-CPC.

    Returns:
        The model, and a feature extractor with the preprocessing of its pre-training.

    Raises:
        ValueError: the file cannot be read safely, or weights are unknown, missing or of another shape.
    """
    state_dict = state_dict_of(load_file(checkpoint, unread=SETTINGS), checkpoint)
    state_dict = {key.removeprefix(PREFIX): tensor for key, tensor in state_dict.items()}
    state_dict = without(state_dict, PRETRAINING, checkpoint, "which only pre-training uses")
    sizes = _sizes(state_dict, checkpoint)
    sizes |= ECG_CPC.origin
    config = build_config(EcgCpcConfig, sizes, checkpoint)
    model = load_weights(lambda: EcgCpcModel(config), _in_our_shapes(state_dict), renamer(NAMES), checkpoint)
    return [model, ecg_cpc_feature_extractor(config)]


def ecg_cpc_feature_extractor(config: EcgCpcConfig) -> EcgCpcFeatureExtractor:
    """ECG-CPC's preprocessing of ECGs of the model's length."""
    return EcgCpcFeatureExtractor(num_samples=config.num_samples)


def _sizes(state_dict: dict[str, torch.Tensor], source: Path) -> dict[str, int]:
    """The fields of the configuration that follow from the names and shapes of the weights."""
    check_weights(state_dict, NEEDED, "ecg_cpc", source)
    nodes = {len(tensor) for key, tensor in state_dict.items() if key.endswith(".kernel.kernel.omega")}
    if len(nodes) > 1:
        raise ValueError(f"{source}: its S4 layers have {sorted(nodes)} nodes (omega); expected a single number.")
    hidden_size, num_leads, _ = state_dict["encoder.layers.0.0.weight"].shape
    return {
        "num_leads": num_leads,
        "hidden_size": hidden_size,
        "num_conv_layers": count_layers(state_dict, r"encoder\.layers\.(\d+)\."),
        "num_hidden_layers": count_layers(state_dict, re.escape(S4) + r"(\d+)\."),
        "state_size": 2 * state_dict[f"{S4}0.kernel.kernel.C"].shape[2],
        "kernel_length": 2 * (nodes.pop() - 1),
    }


def _in_our_shapes(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights without axes of length 1, and without the nodes."""
    shaped = {}
    for key, tensor in state_dict.items():
        match = KERNEL.fullmatch(key)
        if match and match[1] in NODES:
            continue
        if (match and match[1] in ("C", "B", "P", "Q")) or key.endswith(".D"):
            tensor = tensor.squeeze(0)
        elif key.endswith(".output_linear.0.bias"):
            tensor = tensor.squeeze(-1)
        shaped[key] = tensor
    return shaped
