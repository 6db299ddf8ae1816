"""Reads weights published by other projects, without executing code in the file, and loads them into our models."""

import logging
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig, PreTrainedModel


logger = logging.getLogger(__name__)

# Where training programs put the weights in their files.
WEIGHT_KEYS = ("model", "state_dict", "encoder")
# What a pickled NumPy number refers to: a constructor, under its names in NumPy 1 and 2, and types of numbers.
_NUMPY_SCALAR = np.float64(0).__reduce__()[0]
_NUMPY_NUMBERS = [
    *((_NUMPY_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    np.dtype,
    *(type(np.dtype(name)) for name in ("float64", "float32", "int64", "bool")),
]
HEAD_DIM = 64  # dimensions of an attention head in published ECG transformers, but for ECG-JEPA's
# Patterns that turn our names of a transformer's layers into the published ones. They are applied in this order, and
# several may apply to a name.
LAYER_NAMES = [
    (r"\.attention_norm\.", ".attn.norm."),
    (r"\.attention\.qkv_proj\.", ".attn.fn.to_qkv."),
    (r"\.attention\.out_proj\.", ".attn.fn.to_out.0."),
    (r"\.mlp_norm\.", ".ff.norm."),
    (r"\.mlp\.up_proj\.", ".ff.fn.net.0."),
    (r"\.mlp\.down_proj\.", ".ff.fn.net.3."),
]


def load_state_dict(checkpoint: Path) -> dict[str, torch.Tensor]:
    """
    Reads the tensors of a `.pth` file: see [`load_file`] and [`state_dict_of`].

    Raises:
        ValueError: the file holds no dictionary of tensors, or unpickling it would import more than tensors,
            containers and NumPy numbers.
    """
    return state_dict_of(load_file(checkpoint), checkpoint)


class _Unread:
    """Stands for an object of a file that is not read."""

    def __init__(self, *args):
        pass

    def __setstate__(self, state):
        pass


def load_file(checkpoint: Path, unread: str | None = None) -> object:
    """
    Reads a `.pth` file of tensors, containers and NumPy numbers (such as metrics) without executing code in it.

    Args:
        checkpoint: the file.
        unread: regular expression of full names of classes, such as those of training settings. Nothing is imported:
            an object of such a class is replaced by an empty one.

    Raises:
        ValueError: the file is damaged, or unpickling it would import anything else.
    """
    try:
        with torch.serialization.safe_globals([*_NUMPY_NUMBERS, *_stand_ins(checkpoint, unread)]):
            return torch.load(checkpoint, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(_refusal(checkpoint, error)) from error
    except (RuntimeError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{checkpoint}: not a readable PyTorch file ({type(error).__name__}: {error}).") from error


def _stand_ins(checkpoint: Path, unread: str | None) -> list[tuple[type, str]]:
    """An empty class for each class in a file whose name matches `unread`, with the name."""
    if unread is None or not zipfile.is_zipfile(checkpoint):
        return []
    names = torch.serialization.get_unsafe_globals_in_checkpoint(str(checkpoint))
    return [(type("Unread", (_Unread,), {}), name) for name in names if re.fullmatch(unread, name)]


def state_dict_of(loaded: object, checkpoint: Path) -> dict[str, torch.Tensor]:
    """
    The tensors in the content of a file: a dictionary by name, or one under a key of `WEIGHT_KEYS`. The prefix
    `module.` of data-parallel training is removed.

    Args:
        loaded: content of the file.
        checkpoint: the file, for error messages.

    Raises:
        ValueError: the content is not such a dictionary.
    """
    if isinstance(loaded, Mapping):
        loaded = next((loaded[key] for key in WEIGHT_KEYS if isinstance(loaded.get(key), Mapping)), loaded)
    if not isinstance(loaded, Mapping) or not loaded:
        raise ValueError(f"{checkpoint}: expected a dictionary of tensors, found {type(loaded).__name__}.")
    others = [str(key) for key, value in loaded.items() if not isinstance(value, torch.Tensor)]
    if others:
        keys = ", ".join(f'"{key}"' for key in WEIGHT_KEYS)
        raise ValueError(
            f"{checkpoint}: expected tensors, or a dictionary of them under one of {keys}; not tensors: "
            f"{listed(others)}."
        )
    if all(key.startswith("module.") for key in loaded):
        return {key.removeprefix("module."): value for key, value in loaded.items()}
    return dict(loaded)


def with_new_weight_norm_names(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """
    The weights under the names that PyTorch gives to normalized weights since version 2.0.

    Args:
        state_dict: weights, whose lengths and directions may have the older names `weight_g` and `weight_v`.
    """
    rules = [(r"(^|\.)weight_g$", r"\1parametrizations.weight.original0")]
    rules += [(r"(^|\.)weight_v$", r"\1parametrizations.weight.original1")]
    rename = renamer(rules)
    return {rename(key): tensor for key, tensor in state_dict.items()}


def _refusal(checkpoint: Path, error: Exception) -> str:
    try:
        with torch.serialization.safe_globals(_NUMPY_NUMBERS):
            unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(str(checkpoint))
    except Exception:  # it reads only current formats; for older ones torch's message names the first import
        unsafe = re.findall(r"GLOBAL ([\w.]+)", str(error))[:1]
    reason = re.search(r"WeightsUnpickler error:\s*(\S.*)|$", str(error))[1]
    found = f"it wants to import {listed(unsafe)}" if unsafe else f"not a file of tensors ({reason or 'unreadable'})"
    return (
        f"{checkpoint}: refused, nothing was executed: {found}; expected tensors and plain containers. If you trust "
        "the file, load it yourself and save only its state dict with torch.save."
    )


def load_weights(
    build: Callable[[], PreTrainedModel],
    state_dict: Mapping[str, torch.Tensor],
    published_name: Callable[[str], str],
    source: Path,
) -> PreTrainedModel:
    """
    Builds a model with the weights of a published checkpoint. The weights of both must match one to one.

    Args:
        build: function that creates the model.
        state_dict: the published weights.
        published_name: function that turns our name of a weight into the published one.
        source: the file, for error messages.

    Raises:
        ValueError: weights are unknown, missing or have another shape; the message lists them.
    """
    with torch.device("meta"):
        model = build()
    ours = {published_name(name): name for name in model.state_dict()}
    shapes = {published_name(name): tensor.shape for name, tensor in model.state_dict().items()}
    problems = []
    if unknown := [key for key in state_dict if key not in ours]:
        problems.append(f"{len(unknown)} unknown: {listed(unknown)}")
    if missing := [key for key in ours if key not in state_dict]:
        problems.append(f"{len(missing)} missing: {listed(missing)}")
    common = [key for key in ours if key in state_dict]
    if misshapen := [
        f"{key} {list(state_dict[key].shape)}, not {list(shapes[key])}"
        for key in common
        if state_dict[key].shape != shapes[key]
    ]:
        problems.append(f"{len(misshapen)} of another shape: {listed(misshapen)}")
    if problems:
        raise ValueError(f"{source}: weights do not fit a {model.config.model_type} model; {'; '.join(problems)}.")
    model.load_state_dict({ours[key]: state_dict[key].clone() for key in common}, assign=True)
    return model.eval()


def build_config(config_class: type[PreTrainedConfig], fields: dict, source: Path) -> PreTrainedConfig:
    """
    A configuration from the fields that a published checkpoint shows.

    Raises:
        ValueError: the fields do not fit together.
    """
    try:
        return config_class(**fields)
    except StrictDataclassError as error:
        raise ValueError(f"{source}: {error.__cause__ or error}") from error


def check_weights(
    state_dict: Mapping[str, torch.Tensor], needed: Mapping[str, int | None], kind: str, source: Path
) -> None:
    """
    Checks that the weights that determine the sizes of a model exist.

    Args:
        state_dict: the published weights.
        needed: the number of dimensions of each of these weights; None for any.
        kind: name of the encoder, for the error message.
        source: the file, for the error message.

    Raises:
        ValueError: one is missing or has another number of dimensions.
    """
    lacking = [
        name
        for name, number in needed.items()
        if name not in state_dict or number not in (None, state_dict[name].dim())
    ]
    if lacking:
        raise ValueError(
            f"{source}: not a checkpoint of {kind}: it lacks {listed(lacking)}. It has {len(state_dict)} weights, such as "
            f"{', '.join(sorted(state_dict)[:5])}."
        )


def without(
    state_dict: dict[str, torch.Tensor], unused: str | re.Pattern, source: Path, reason: str
) -> dict[str, torch.Tensor]:
    """
    The weights but for those that a model does not use, which a warning names.

    Args:
        state_dict: the published weights.
        unused: regular expression of their names.
        source: the file, for the warning.
        reason: why they are left out, such as "which only pre-training uses".
    """
    names = [key for key in state_dict if re.fullmatch(unused, key)]
    if names:
        logger.warning("%s: left out %s, %s.", source, listed(names), reason)
    return {key: tensor for key, tensor in state_dict.items() if key not in names}


def count_layers(state_dict: Mapping[str, torch.Tensor], pattern: str) -> int:
    """The number of layers: of different values of the first group of `pattern` at the beginning of the names."""
    return len({match[1] for key in state_dict if (match := re.match(pattern, key))})


def published_labels(file: str, number: int) -> dict[int, str]:
    """The labels in a file beside this one, in the order of the logits; classifiers of others have none of their own."""
    labels = files("elm_hf.checkpoints").joinpath(file).read_text(encoding="utf-8").splitlines()
    return dict(enumerate(labels if len(labels) == number else [f"LABEL_{index}" for index in range(number)]))


def listed(names: list[str]) -> str:
    return ", ".join(sorted(names))


def renamer(rules: list[tuple[str, str]]) -> Callable[[str], str]:
    """A function that applies all `rules` (regular expression, replacement) to a name, in order."""

    def rename(name: str) -> str:
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        return name

    return rename


def layer_sizes(state_dict: dict[str, torch.Tensor], layer: str, source: Path) -> dict[str, int]:
    """The number of layers, whose names are `layer` and a number, and the heads and MLP width of the first layer."""
    numbers = {int(match[1]) for key in state_dict if (match := re.match(rf"{re.escape(layer)}(\d+)\.", key))}
    inner = state_dict[f"{layer}0.attn.fn.to_qkv.weight"].shape[0]
    if inner % (3 * HEAD_DIM):
        raise ValueError(
            f"{source}: {layer}0.attn.fn.to_qkv.weight has {inner} rows; expected a multiple of 3 x {HEAD_DIM}, since "
            f"the attention heads of these models have {HEAD_DIM} dimensions."
        )
    return {
        "num_hidden_layers": len(numbers),
        "num_attention_heads": inner // (3 * HEAD_DIM),
        "intermediate_size": state_dict[f"{layer}0.ff.fn.net.0.weight"].shape[0],
    }
