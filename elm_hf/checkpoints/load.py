"""Loads a checkpoint: an ELM or a LoRA adapter, with its processor."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    AutoFeatureExtractor,
    AutoModelForCausalLM,
    AutoProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.utils import PROCESSOR_NAME, find_adapter_config_file

from elm_hf.checkpoints.chat_template import check_template
from elm_hf.checkpoints.foreign import check_files, check_loaded
from elm_hf.modeling.feature_extraction_ecg import EcgFeatureExtractor
from elm_hf.utils.hub import check_name
from elm_hf.utils.registration import register_modeling_classes


def load_checkpoint(
    path_or_repo: str | PathLike, trust_remote_code: bool = False, dtype: str = "auto", device: str | None = None
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """
    Loads an ELM (a full checkpoint or a LoRA adapter) and its processor for inference.

    Args:
        path_or_repo: folder or repository of the checkpoint.
        trust_remote_code: run the code inside the checkpoint instead of elm-hf's own. If elm-hf's classes have been
            imported before in this process, transformers prefers them.
        dtype: precision of the weights; `"auto"` keeps that of the checkpoint.
        device: device of the model. Defaults to a GPU if there is one.

    Raises:
        OSError: the checkpoint does not exist.
        ValueError: it is not an ELM, has no processor, or is damaged: a file cannot be read, or weights are missing.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    name = str(path_or_repo)
    check_name(name)
    if not trust_remote_code:
        register_modeling_classes()
    options = {"dtype": dtype, "trust_remote_code": trust_remote_code, "use_safetensors": True}
    is_adapter = find_adapter_config_file(name) is not None
    if not is_adapter:
        _check_is_elm(name)
    if Path(name).is_dir() and not (Path(name) / PROCESSOR_NAME).is_file():
        raise ValueError(
            f"{name}: {PROCESSOR_NAME} is missing; save the processor of the original checkpoint in this folder "
            "(processor.save_pretrained)"
        )
    try:
        if not trust_remote_code:
            check_files(name)
        model = _load_adapter(name, options) if is_adapter else _load_model(name, options)
        processor = AutoProcessor.from_pretrained(name, trust_remote_code=trust_remote_code)
        if not trust_remote_code:
            check_template(processor.tokenizer, name)
            check_loaded(name, model, processor)
    except (OSError, ImportError):
        raise
    except Exception as error:  # whatever a file of a stranger makes transformers and tokenizers raise
        raise ValueError(f"{name}: cannot be loaded as an ELM ({_short(error, name)})") from error
    if model.device.type != torch.device(device).type:  # quantized weights are on their device and cannot be moved
        model = model.to(device)
    return model.eval(), processor


def check_reads_pictures(path_or_repo: str | PathLike, pictures: Sequence[str]) -> None:
    """
    Checks, before its weights are loaded, that a model reads pictures of ECGs.

    Args:
        path_or_repo: folder or repository of an ELM or of an adapter.
        pictures: names of the pictures; nothing is checked if there are none.

    Raises:
        ValueError: it reads something else; the message names both.
    """
    if not pictures:
        return
    representation = read_representation(path_or_repo)
    if representation != "image" and isinstance(representation, str):
        raise ValueError(
            f'{pictures[0]}: a picture, and {path_or_repo} reads ECGs as "{representation}"; give it the recording, or '
            "the picture to a model of drawn ECGs (elm-hf create --representation image)"
        )


def read_representation(path_or_repo: str | PathLike) -> str | list[str]:
    """
    Reads how an ELM, or the base of an adapter, reads ECGs, without loading it.

    Args:
        path_or_repo: folder or repository of the checkpoint.

    Raises:
        OSError: the checkpoint does not exist.
        ValueError: it is not an ELM.
    """
    return read_elm_config(path_or_repo).get("representation", "signal")


def read_elm_config(path_or_repo: str | PathLike) -> dict:
    """Reads the configuration of an ELM, or of the base of an adapter, as stored; see [`read_representation`]."""
    name = str(path_or_repo)
    check_name(name)
    if find_adapter_config_file(name) is not None:
        name = _base_of(name)
    _check_is_elm(name)
    config, _ = PreTrainedConfig.get_config_dict(name)
    return config


def published_with(path_or_repo: str | PathLike) -> set[str]:
    """
    Reads the names of the datasets that a published encoder was trained on; empty if it does not say.

    Args:
        path_or_repo: folder or repository of an ELM, of an adapter or of an encoder.

    Raises:
        OSError: the checkpoint does not exist.
    """
    name = str(path_or_repo)
    check_name(name)
    if find_adapter_config_file(name) is not None:
        name = _base_of(name)
    config, _ = PreTrainedConfig.get_config_dict(name)
    encoder = config.get("encoder_config") if config.get("model_type") == "elm" else config
    return set((encoder or {}).get("pretraining_data") or ())


def _base_of(adapter: str) -> str:
    """The base of an adapter, after checking that it exists."""
    from peft import PeftConfig

    base = PeftConfig.from_pretrained(adapter).base_model_name_or_path
    try:
        check_name(base)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{adapter}: the base model of this adapter was not found ({error}); if it has moved, "
            f"`elm-hf merge {adapter} OUTPUT --base FOLDER` merges both into a full checkpoint"
        ) from error
    return base


def _short(error: Exception, name: str) -> str:
    text = " ".join(str(error).split()).removeprefix(f"{name}: ")[:500]
    is_plain = isinstance(error, ValueError | SafetensorError | StrictDataclassError)
    return text if is_plain else f"{type(error).__name__}: {text}"


def _check_is_elm(name: str):
    try:
        config, _ = PreTrainedConfig.get_config_dict(name)
    except OSError as error:
        raise OSError(f"{name}: {error}") from error
    except (AttributeError, TypeError, RecursionError) as error:
        raise ValueError(f"{name}: config.json is not the configuration of a model ({error})") from error
    model_type = config.get("model_type") if isinstance(config, dict) else None
    if model_type != "elm":
        found = "without a model_type" if model_type is None else f'of type "{model_type}"'
        raise ValueError(f'{name}: a checkpoint {found}; expected an ELM (type "elm").')


def _load_adapter(name: str, options: dict) -> PreTrainedModel:
    from peft import AutoPeftModelForCausalLM

    base = _base_of(name)
    if not options["trust_remote_code"]:
        check_files(base)
    return AutoPeftModelForCausalLM.from_pretrained(name, **options)


def _load_model(name: str, options: dict) -> PreTrainedModel:
    """Loads a full checkpoint and refuses missing weights, which transformers would initialize at random."""
    model, found = AutoModelForCausalLM.from_pretrained(
        name, output_loading_info=True, ignore_mismatched_sizes=True, **options
    )
    lacking = sorted({*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])})
    if lacking:
        raise ValueError(f"{len(lacking)} weights are missing or have another shape, such as {lacking[0]}")
    return model


def load_pretrained(auto_class: type, name: str | PathLike, **options):
    """Calls `from_pretrained` with errors that name the repository or folder."""
    check_name(str(name), needs_owner=False)
    try:
        return auto_class.from_pretrained(name, **options)
    except (ValueError, SafetensorError, StrictDataclassError) as error:
        raise ValueError(f"{name}: {error}") from error


def load_feature_extractor(name: str | PathLike) -> EcgFeatureExtractor:
    """
    Loads the feature extractor of a checkpoint of an ECG encoder, of the class that its file names.

    Args:
        name: folder or repository of the checkpoint.

    Raises:
        OSError: the checkpoint does not exist.
        ValueError: its feature extractor cannot be read.
    """
    register_modeling_classes()
    return load_pretrained(AutoFeatureExtractor, name)
