"""The encoder of a new ELM, and the types of encoders."""

from transformers import (
    AutoConfig,
    AutoModel,
    PreTrainedConfig,
    PreTrainedModel,
)

from elm_hf.checkpoints.load import load_pretrained
from elm_hf.modeling.configuration_elm import ECG_ENCODER_TYPES
from elm_hf.modeling.configuration_hub_encoder import HubEncoderConfig
from elm_hf.modeling.ecg_encoders import import_ecg_encoders
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.utils.hub import check_name, licence_of


# Types of encoders of which there can be a new one.
NEW_TYPES = tuple(name for name in ECG_ENCODER_TYPES if name != HubEncoderConfig.model_type)


def load_encoder(
    name: str | None, config: dict | None = None, dtype: str = "auto", num_leads: int = len(LEADS)
) -> PreTrainedModel | None:
    """
    Loads a pre-trained encoder (for CLIP and SigLIP its vision tower), or creates an ECG encoder with random weights.

    Args:
        name: repository or folder of a pre-trained encoder, or the `model_type` of a new ECG encoder.
        config: fields of a new encoder's configuration, including `model_type`.
        dtype: precision of pre-trained weights.
        num_leads: number of leads that a new encoder reads.

    Raises:
        ValueError: both a pre-trained encoder and a configuration are given.
        OSError: the checkpoint does not exist.
    """
    import_ecg_encoders()
    if name in ECG_ENCODER_TYPES:
        config, name = {"model_type": name} | (config or {}), None
    if name is None:
        return None if config is None else AutoModel.from_config(new_encoder_config(**config, default_leads=num_leads))
    if config is not None:
        raise ValueError(f"--encoder is {name}; remove `encoder_config` from --config, which describes a new encoder.")
    check_encoder_name(name)
    loaded = load_pretrained(AutoConfig, name)
    encoder = load_pretrained(AutoModel, name, config=getattr(loaded, "vision_config", loaded), dtype=dtype)
    if "license" not in encoder.config.to_dict() and (stated := licence_of(name).get("license")) is not None:
        encoder.config.license = stated  # as the configurations of converted encoders have it
    return encoder


def new_encoder_config(model_type: str, default_leads: int = len(LEADS), **fields) -> PreTrainedConfig:
    """
    The configuration of a new encoder. A new `ecg_resnet` knows its leads by name, unless `num_leads` is given.

    Args:
        model_type: type of the encoder.
        default_leads: number of leads that an `ecg_resnet` knows by default.
        fields: fields of its configuration.
    """
    defaults = {"num_leads": default_leads} if model_type == "ecg_resnet" else {}
    return AutoConfig.for_model(model_type, **defaults | fields)


def check_encoder_name(name: str) -> None:
    """
    Checks that the name of a pre-trained encoder is that of a folder or repository.

    Raises:
        FileNotFoundError: it is neither. The message lists the types of new encoders.
    """
    try:
        check_name(name)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}. Types of new encoders: {', '.join(NEW_TYPES)}.") from error


def encoder_type(encoder: str) -> str:
    """
    The `model_type` of an ECG encoder.

    Args:
        encoder: a type of encoder, or a folder or repository of a checkpoint.

    Raises:
        FileNotFoundError: it is none of these.
        ValueError: the checkpoint is not that of an ECG encoder.
    """
    if encoder in ECG_ENCODER_TYPES:
        return encoder
    check_encoder_name(encoder)
    import_ecg_encoders()
    model_type = AutoConfig.from_pretrained(encoder).model_type
    if model_type not in ECG_ENCODER_TYPES:
        raise ValueError(f'{encoder}: "{model_type}" is not an ECG encoder; expected {", ".join(ECG_ENCODER_TYPES)}.')
    return model_type
