"""Converts the published checkpoints of ECGFounder (Li et al. 2025) and CLEF (Shu et al. 2025), both Net1D networks."""

import logging
import re
from pathlib import Path

import torch

from elm_hf.checkpoints.published_encoders import CLEF, ECGFOUNDER, PublishedEncoder
from elm_hf.checkpoints.published_weights import (
    build_config,
    check_weights,
    load_state_dict,
    load_weights,
    published_labels,
    renamer,
    without,
)
from elm_hf.modeling.configuration_net1d import Net1DConfig
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.modeling.feature_extraction_net1d import Net1DFeatureExtractor
from elm_hf.modeling.modeling_net1d import Net1DForSequenceClassification, Net1DModel


logger = logging.getLogger(__name__)

CLEF_PREFIX = "backbone."
# Batch norms are in the published files, but were switched off in training and are not applied.
BATCH_NORM = re.compile(
    r"(backbone\.)?(first_bn|stage_list\.\d+\.block_list\.\d+\.bn[123])"
    r"\.(weight|bias|running_mean|running_var|num_batches_tracked)"
)
# Parts of other training methods of CLEF's project: the second network and queue of MoCo, the predictor of BYOL.
CLEF_TRAINING = re.compile(r"(backbone_k|backbone_target|predictor)\..*|queue|queue_ptr")
# Patterns that turn our names into the published ones. They are applied in this order, and several may apply to a
# name.
NAMES = [
    (r"^net1d\.", ""),
    (r"^classifier\.", "dense."),
    (r"^stem\.", "first_conv.conv."),
    (r"\.first\.", ".conv1.conv."),
    (r"\.middle\.", ".conv2.conv."),
    (r"\.last\.", ".conv3.conv."),
    (r"\.gate\.down_proj\.", ".se_fc1."),
    (r"\.gate\.up_proj\.", ".se_fc2."),
]


def convert_ecgfounder(checkpoint: Path) -> list:
    """
    Converts ECGFounder with twelve leads or one lead.

    Returns:
        The model, a classifier of 150 statements if the file contains it; and a feature extractor with the
        preprocessing of the authors' data loader.

    Raises:
        ValueError: the file cannot be read safely, or weights are unknown, missing or of another shape.
    """
    state_dict = load_state_dict(checkpoint)
    if any(key.startswith(CLEF_PREFIX) for key in state_dict):
        raise ValueError(f"{checkpoint}: a checkpoint of clef (its weights begin with {CLEF_PREFIX}), not ecgfounder.")
    model = _convert(state_dict, "", ECGFOUNDER, checkpoint)
    if model.config.num_leads not in (1, len(LEADS)):
        raise ValueError(
            f"{checkpoint}: its network reads {model.config.num_leads} leads; expected 1 or {len(LEADS)}."
        )
    return [model, net1d_feature_extractor(model.config)]


def convert_clef(checkpoint: Path) -> list:
    """
    Converts CLEF small, medium or large. Its feature extractor gives all twelve leads, which the network encodes one
    by one.

    Raises:
        ValueError: the file cannot be read safely, or weights are unknown, missing or of another shape.
    """
    state_dict = load_state_dict(checkpoint)
    if not any(key.startswith(CLEF_PREFIX) for key in state_dict):
        raise ValueError(
            f"{checkpoint}: not a checkpoint of clef: no weight begins with {CLEF_PREFIX}. It has {len(state_dict)} "
            f"weights, such as {', '.join(sorted(state_dict)[:5])}."
        )
    used = without(state_dict, CLEF_TRAINING, checkpoint, "which only training uses")
    model = _convert(used, CLEF_PREFIX, CLEF, checkpoint)
    if model.config.num_leads != 1:
        raise ValueError(f"{checkpoint}: its network reads {model.config.num_leads} leads; expected 1 in clef.")
    return [model, clef_feature_extractor(model.config)]


def net1d_feature_extractor(config: Net1DConfig) -> Net1DFeatureExtractor:
    """The preprocessing of ECGFounder, for twelve leads or for lead I."""
    if config.num_leads == 1:
        return Net1DFeatureExtractor(num_samples=config.num_samples, leads=LEADS[:1], normalization="z_score_per_lead")
    return Net1DFeatureExtractor(num_samples=config.num_samples)


def clef_feature_extractor(config: Net1DConfig) -> Net1DFeatureExtractor:
    """The preprocessing of CLEF's pre-training, for all leads."""
    return Net1DFeatureExtractor(
        num_samples=config.num_samples,
        normalization="z_score_per_lead",
        resampling="fft",
        notch_frequency=None,
        filter_order=5,
        baseline_window=None,
    )


def _convert(
    state_dict: dict[str, torch.Tensor], prefix: str, published: PublishedEncoder, source: Path
) -> Net1DModel | Net1DForSequenceClassification:
    norms = [key for key in state_dict if BATCH_NORM.fullmatch(key)]
    if norms:
        logger.warning(
            "%s: left out %d values of batch norms, which the published network does not apply.", source, len(norms)
        )
    state_dict = {key: tensor for key, tensor in state_dict.items() if key not in norms}
    sizes = _sizes(state_dict, prefix, source)
    sizes |= published.origin
    has_classifier = "dense.weight" in state_dict and not prefix
    if has_classifier:
        sizes |= {
            "id2label": published_labels("ecgfounder_labels.txt", len(state_dict["dense.weight"])),
            "problem_type": "multi_label_classification",
        }
    config = build_config(Net1DConfig, sizes, source)
    model_class = Net1DForSequenceClassification if has_classifier else Net1DModel
    names = renamer([*_block_names(config), *NAMES])
    return load_weights(lambda: model_class(config), state_dict, lambda name: prefix + names(name), source)


def _sizes(state_dict: dict[str, torch.Tensor], prefix: str, source: Path) -> dict:
    """The fields of the configuration that follow from the names and shapes of the weights."""
    pattern = re.compile(rf"{re.escape(prefix)}stage_list\.(\d+)\.block_list\.(\d+)\.conv3\.conv\.weight")
    blocks: dict[int, int] = {}  # number of blocks of each stage
    for key in state_dict:
        if match := pattern.fullmatch(key):
            blocks[int(match[1])] = max(blocks.get(int(match[1]), 0), int(match[2]) + 1)
    last = f"{prefix}stage_list.{max(blocks, default=0)}.block_list.0."
    needed = [f"{prefix}first_conv.conv.weight"] + [
        f"{prefix}stage_list.{stage}.block_list.0.conv3.conv.weight" for stage in range(max(blocks, default=0) + 1)
    ]
    needed.append(f"{last}conv2.conv.weight")
    check_weights(state_dict, dict.fromkeys(needed, 3), "clef" if prefix else "ecgfounder", source)
    embedding_size, num_leads, kernel_size = state_dict[needed[0]].shape
    widths = [len(state_dict[name]) for name in needed[1:-1]]
    inner, group_channels, _ = state_dict[needed[-1]].shape
    return {
        "num_leads": num_leads,
        "embedding_size": embedding_size,
        "hidden_sizes": widths,
        "depths": [blocks[stage] for stage in sorted(blocks)],
        "bottleneck_ratio": inner / widths[-1],
        "group_size": widths[-1] * group_channels // inner,
        "kernel_size": kernel_size,
    }


def _block_names(config: Net1DConfig) -> list[tuple[str, str]]:
    """Patterns for the blocks, which are numbered within their stages in the published files."""
    places = [(stage, index) for stage, depth in enumerate(config.depths) for index in range(depth)]
    return [
        (rf"(^|\.)blocks\.{number}\.", rf"\1stage_list.{stage}.block_list.{index}.")
        for number, (stage, index) in enumerate(places)
    ]
