"""Turns published checkpoints of other projects into Hub checkpoints: configuration, safetensors, processor and code."""

import pickle
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig, PreTrainedModel

from elm_hf.modeling.configuration_maefe import MlaeConfig, MtaeConfig
from elm_hf.modeling.configuration_st_mem import StMemConfig
from elm_hf.modeling.ecg_utils import LEADS
from elm_hf.modeling.feature_extraction_elm import EcgFeatureExtractor
from elm_hf.modeling.modeling_maefe import MlaeForPreTraining, MlaeModel, MtaeForPreTraining, MtaeModel
from elm_hf.modeling.modeling_st_mem import StMemForPreTraining, StMemModel


HEAD_DIM = 64  # of every published ECG transformer


def convert_checkpoint(kind: str, checkpoint: str | PathLike, output: str | PathLike) -> list:
    """
    Converts one published file.

    Args:
        kind: which project's: a key of `CONVERTERS`.
        checkpoint: the file as published. It is read without running anything that it may contain.
        output: folder to make, ready for `from_pretrained(..., trust_remote_code=True)` and for the Hub.

    Returns:
        What was saved in `output`: a model and its feature extractor, say.

    Raises:
        FileExistsError: `output` is there and not empty.
        FileNotFoundError: there is no such checkpoint.
        ValueError: an unknown kind; a file that is damaged, wants to import code, or holds other weights than `kind`'s.
    """
    if kind not in CONVERTERS:
        raise ValueError(f'kind "{kind}" is not one of {", ".join(CONVERTERS)}.')
    checkpoint, output = Path(checkpoint), Path(output)
    if not checkpoint.is_file():
        raise FileNotFoundError(f"{checkpoint}: no such file.")
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise FileExistsError(f"{output} exists and is not an empty folder; choose another.")
    parts = CONVERTERS[kind](checkpoint)
    save_whole(parts, output)
    return parts


def save_whole(parts: list, output: Path):
    """Saves everything in `output`, written beside it and renamed, so that a checkpoint is whole or not there."""
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    try:
        for part in parts:
            part.save_pretrained(unfinished)
        unfinished.chmod(0o755)
        unfinished.replace(output)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def load_state_dict(checkpoint: Path) -> dict[str, torch.Tensor]:
    """
    The tensors of a `.pth` file by name: bare or under "model", without the `module.` of data-parallel training.

    Raises:
        ValueError: the file is no such thing, or unpickling it would import more than tensors and plain containers.
    """
    try:
        loaded = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(_refusal(checkpoint, error)) from error
    except (RuntimeError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{checkpoint}: no readable PyTorch checkpoint ({type(error).__name__}: {error}).") from error
    if isinstance(loaded, Mapping) and isinstance(loaded.get("model"), Mapping):
        loaded = loaded["model"]
    if not isinstance(loaded, Mapping) or not loaded:
        raise ValueError(f"{checkpoint}: expected a dictionary of tensors, found {type(loaded).__name__}.")
    others = [str(key) for key, value in loaded.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise ValueError(
            f'{checkpoint}: expected tensors, or a dictionary of them under "model"; no tensors: {listed(others)}.'
        )
    if all(key.startswith("module.") for key in loaded):
        return {key.removeprefix("module."): value for key, value in loaded.items()}
    return dict(loaded)


def _refusal(checkpoint: Path, error: Exception) -> str:
    try:
        unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(str(checkpoint))
    except Exception:  # it scans today's files only; for others torch's own message names the first
        unsafe = re.findall(r"GLOBAL ([\w.]+)", str(error))[:1]
    reason = re.search(r"WeightsUnpickler error:\s*(\S.*)|$", str(error))[1]
    found = f"it wants to import {listed(unsafe)}" if unsafe else f"no file of tensors ({reason or 'unreadable'})"
    return (
        f"{checkpoint}: refused, nothing was executed: {found}; expected tensors and plain containers. If you trust its "
        "origin, load it yourself and save only its state dict with torch.save."
    )


def load_weights(
    build: Callable[[], PreTrainedModel],
    state_dict: Mapping[str, torch.Tensor],
    published_name: Callable[[str], str],
    source: Path,
) -> PreTrainedModel:
    """
    A model with the weights of a published checkpoint, each of which must have its place and the other way round.

    Args:
        build: makes the model.
        state_dict: the published weights.
        published_name: the published name of a weight of ours.
        source: the file, for messages.

    Raises:
        ValueError: weights are unknown, missing or of another shape; the message lists them.
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


def listed(names: list[str]) -> str:
    return ", ".join(sorted(names))


# Masked autoencoders of the ST-MEM project: ours -> published, tried in this order, several may apply.
LAYER_NAMES = [
    (r"\.attention_norm\.", ".attn.norm."),
    (r"\.attention\.qkv_proj\.", ".attn.fn.to_qkv."),
    (r"\.attention\.out_proj\.", ".attn.fn.to_out.0."),
    (r"\.mlp_norm\.", ".ff.norm."),
    (r"\.mlp\.up_proj\.", ".ff.fn.net.0."),
    (r"\.mlp\.down_proj\.", ".ff.fn.net.3."),
]
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


def renamer(rules: list[tuple[str, str]]) -> Callable[[str], str]:
    """A function that applies all `rules` (regular expression, replacement) to a name, one after the other."""

    def rename(name: str) -> str:
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        return name

    return rename


def convert_st_mem(checkpoint: Path) -> list:
    """ST-MEM (Na et al. 2024): the "encoder" file gives a `StMemModel`, the "full" file a `StMemForPreTraining`."""
    return _convert_autoencoder(checkpoint, StMemConfig, StMemModel, StMemForPreTraining)


def convert_mtae(checkpoint: Path) -> list:
    """MTAE (Zhang et al. 2022) as the ST-MEM project trains it, on twelve leads."""
    return _convert_autoencoder(checkpoint, MtaeConfig, MtaeModel, MtaeForPreTraining)


def convert_mlae(checkpoint: Path) -> list:
    """MLAE (Zhang et al. 2022) as the ST-MEM project trains it, one token per lead."""
    return _convert_autoencoder(checkpoint, MlaeConfig, MlaeModel, MlaeForPreTraining)


def convert_merl(checkpoint: Path) -> list:
    """MERL (Liu et al. 2024): "encoder" files give a `MerlModel`, "ckpt" files a `MerlForPreTraining`."""
    from elm_hf.convert_merl import convert_merl as convert  # which needs this module

    return convert(checkpoint)


def convert_ecg_byte(checkpoint: Path) -> list:
    """ECG-Byte (Han et al. 2024): a pickled vocabulary gives an `EcgByteTokenizer` with the published ids."""
    from elm_hf.ecg_byte import read_ecg_byte_pickle  # which needs this module

    return [read_ecg_byte_pickle(checkpoint)]


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
    try:
        config = config_class(**sizes)
    except StrictDataclassError as error:
        raise ValueError(f"{checkpoint}: {error.__cause__ or error}") from error
    architecture = pretraining_class if has_decoder else model_class
    model = load_weights(lambda: architecture(config), state_dict, renamer(AUTOENCODER_NAMES), checkpoint)
    return [model, st_mem_feature_extractor(config)]


def st_mem_feature_extractor(config: PreTrainedConfig) -> EcgFeatureExtractor:
    """What the ST-MEM project feeds all three models; its loader takes the first leads of the standard order."""
    return EcgFeatureExtractor(
        sampling_rate=250,
        num_samples=config.num_samples,
        leads=LEADS[: config.num_leads],
        normalization="z_score",
        resampling="fft",
        band_pass=(0.67, 40.0),
    )


def _with_stacked_leads(state_dict: dict[str, torch.Tensor], prefix: str, source: Path) -> dict[str, torch.Tensor]:
    """ST-MEM's vectors `lead_embeddings.0`, … as one tensor `lead_embeddings` of shape `(leads, hidden)`."""
    pattern = re.compile(rf"{re.escape(prefix)}lead_embeddings\.(\d+)")
    vectors = {int(match[1]): tensor for key, tensor in state_dict.items() if (match := pattern.fullmatch(key))}
    if not vectors:
        return state_dict
    if sorted(vectors) != list(range(len(vectors))) or len(vectors) > len(LEADS):
        raise ValueError(
            f"{source}: lead_embeddings {', '.join(map(str, sorted(vectors)))} are not numbered from 0 to 11 at most."
        )
    if len({tuple(tensor.shape) for tensor in vectors.values()}) > 1:
        raise ValueError(f"{source}: the lead_embeddings differ in shape.")
    rest = {key: tensor for key, tensor in state_dict.items() if not pattern.fullmatch(key)}
    return rest | {f"{prefix}lead_embeddings": torch.stack([vectors[lead] for lead in range(len(vectors))])}


def _without_aliases(state_dict: dict[str, torch.Tensor], source: Path) -> dict[str, torch.Tensor]:
    """Full files hold the encoder's patch embedding a second time, as the pre-training model's own."""
    aliases = {key for key in state_dict if f"encoder.{key}" in state_dict}
    different = [key for key in aliases if not torch.equal(state_dict[key], state_dict[f"encoder.{key}"])]
    if different:
        raise ValueError(f"{source}: {listed(different)} should equal the weights of the same name under encoder.")
    return {key: tensor for key, tensor in state_dict.items() if key not in aliases}


def _check_kind(state_dict: dict[str, torch.Tensor], prefix: str, kind: str, source: Path):
    """Raises unless the weights that give the sizes are there and have as many dimensions as they should."""
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
            f"{source}: no {kind} checkpoint: it lacks {listed(lacking)}. Its {len(state_dict)} weights begin with "
            f"{', '.join(first)}."
        )


def layer_sizes(state_dict: dict[str, torch.Tensor], layer: str, source: Path) -> dict[str, int]:
    """Layers whose names match `layer` (a number after it), and heads and MLP width of the first."""
    numbers = {int(match[1]) for key in state_dict if (match := re.match(rf"{re.escape(layer)}(\d+)\.", key))}
    inner = state_dict[f"{layer}0.attn.fn.to_qkv.weight"].shape[0]
    if inner % (3 * HEAD_DIM):
        raise ValueError(
            f"{source}: {layer}0.attn.fn.to_qkv.weight has {inner} rows, no multiple of 3 x {HEAD_DIM}: the heads of "
            f"these models have {HEAD_DIM} dimensions."
        )
    return {
        "num_hidden_layers": len(numbers),
        "num_attention_heads": inner // (3 * HEAD_DIM),
        "intermediate_size": state_dict[f"{layer}0.ff.fn.net.0.weight"].shape[0],
    }


def _sizes(state_dict: dict[str, torch.Tensor], prefix: str, source: Path) -> dict[str, int]:
    hidden_size = state_dict[f"{prefix}to_patch_embedding.2.weight"].shape[0]
    return {"hidden_size": hidden_size} | layer_sizes(state_dict, f"{prefix}block", source)


def _decoder_sizes(state_dict: dict[str, torch.Tensor], source: Path) -> dict[str, int]:
    needed = ["decoder_pos_embed", "decoder_blocks.0.attn.fn.to_qkv.weight", "decoder_blocks.0.ff.fn.net.0.weight"]
    if lacking := [name for name in needed if name not in state_dict]:
        raise ValueError(f"{source}: an encoder under encoder. but no whole decoder: it lacks {listed(lacking)}.")
    sizes = {"hidden_size": state_dict["decoder_pos_embed"].shape[-1]}
    sizes |= layer_sizes(state_dict, "decoder_blocks.", source)
    return {f"decoder_{name}": size for name, size in sizes.items()}


def _signal_sizes(kind: str, state_dict: dict[str, torch.Tensor], prefix: str, source: Path) -> dict[str, int]:
    """Leads, samples and patch size, from the position table and the patch embedding."""
    patch_dim = state_dict[f"{prefix}to_patch_embedding.2.weight"].shape[1]
    num_positions = state_dict[f"{prefix}pos_embedding"].shape[1]
    if kind == "st_mem":  # a separator at both ends
        num_leads = state_dict[f"{prefix}lead_embeddings"].shape[0]
        return {"num_leads": num_leads, "patch_size": patch_dim, "num_samples": (num_positions - 2) * patch_dim}
    if kind == "mlae":  # a class token, then one token per lead
        if num_positions - 1 > len(LEADS):
            raise ValueError(
                f"{source}: no mlae checkpoint: positions for {num_positions - 1} leads; an mtae one has as many."
            )
        return {"num_leads": num_positions - 1, "num_samples": patch_dim}
    if patch_dim % len(LEADS):
        raise ValueError(
            f"{source}: no mtae checkpoint: its patches have {patch_dim} values, no multiple of {len(LEADS)} leads; an "
            "mlae one has such."
        )
    patch_size = patch_dim // len(LEADS)
    return {"num_leads": len(LEADS), "patch_size": patch_size, "num_samples": (num_positions - 1) * patch_size}


# From a published file to what is saved; each part has `save_pretrained`.
CONVERTERS: dict[str, Callable[[Path], list]] = {
    "st_mem": convert_st_mem,
    "mtae": convert_mtae,
    "mlae": convert_mlae,
    "merl": convert_merl,
    "ecg_byte": convert_ecg_byte,
}
