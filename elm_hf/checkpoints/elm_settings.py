"""The fields of ElmConfig that a new ELM is given."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from os import PathLike
from pathlib import Path

from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from elm_hf.checkpoints.measurements import scaled_measurements
from elm_hf.modeling.configuration_elm import SIGNAL_AND_IMAGE, ElmConfig


# Fields of ElmConfig that follow from the other arguments of `create_elm`.
_DERIVED = {"num_leads", "num_samples", "ecg_token_id", "ecg_token_offset", "ecg_vocab_size", "dtype"}


def elm_settings(
    config: str | PathLike | None, given: Mapping[str, object], measurements: Sequence[str] | None
) -> dict:
    """
    The fields of [`ElmConfig`] of a new ELM.

    Args:
        config: as for [`create_elm`].
        given: other fields, which take precedence over the file if they are not None.
        measurements: as for [`create_elm`].

    Returns:
        The fields. `representation` is a name, or a list for a model that reads the signal and its picture.

    Raises:
        ValueError: the file is not a JSON object of fields that may be set, or the representation takes no measurements.
    """
    settings = _read_config(config) | {name: value for name, value in given.items() if value is not None}
    if measurements is not None:
        settings |= scaled_measurements(measurements)
    representation = settings.setdefault("representation", "signal")
    if representation == "symbol" and settings.get("measurements"):
        raise ValueError("--measurements are tokens of an ECG, and --representation symbol has text tokens for it.")
    if not isinstance(representation, str):
        settings["representation"] = list(representation)
    return settings


def set_number_of_tokens(settings: dict, is_single: bool) -> None:
    """
    Sets the number of tokens of an ECG, where the configuration's default does not fit.

    Args:
        settings: fields of [`ElmConfig`].
        is_single: whether the projector turns the whole signal into one token.
    """
    default, measured = 1 if is_single else ElmConfig.num_ecg_tokens, len(settings.get("measurements") or ())
    if tuple(settings["representation"]) != SIGNAL_AND_IMAGE:
        settings.setdefault("num_ecg_tokens", default + measured)
        return
    if is_single and "num_ecg_tokens" in settings:
        settings.setdefault("num_picture_tokens", settings["num_ecg_tokens"] - 1 - measured)
    if "num_ecg_tokens" not in settings:
        of_picture = settings.setdefault("num_picture_tokens", ElmConfig.num_ecg_tokens)
        settings["num_ecg_tokens"] = default + of_picture + measured


def _read_config(path: str | PathLike | None) -> dict:
    if path is None:
        return {}
    try:
        settings = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: cannot be read as JSON ({error}).") from error
    is_object = isinstance(settings, dict)
    if not is_object or not all(
        isinstance(settings.get(name, {}), dict)
        for name in ("text_config", "encoder_config", "picture_encoder_config")
    ):
        raise ValueError(
            f"{path}: expected a JSON object whose `text_config`, `encoder_config` and `picture_encoder_config` are objects "
            "as well."
        )
    unknown = sorted(set(settings) - {field.name for field in fields(ElmConfig)})
    if unknown:
        raise ValueError(f"{path}: not a field of ElmConfig: {', '.join(unknown)}.")
    derived = sorted(set(settings) & _DERIVED)
    if derived:
        raise ValueError(f"{path}: remove {', '.join(derived)}; other arguments set this (--seconds, --dtype, ...).")
    if (
        "text_config" in settings
        and settings["text_config"].get("model_type") not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    ):
        found = settings["text_config"].get("model_type")
        raise ValueError(f'{path}: `model_type` of `text_config` is {found!r}; expected a causal LLM such as "qwen2".')
    return settings
