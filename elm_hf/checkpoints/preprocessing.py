"""The feature extractor or image processor that fits an encoder."""

import logging
from collections.abc import Mapping, Sequence
from inspect import signature

from transformers import PreTrainedConfig, PreTrainedModel

from elm_hf.checkpoints.convert_ecg_coca import ecg_coca_feature_extractor
from elm_hf.checkpoints.convert_ecg_cpc import ecg_cpc_feature_extractor
from elm_hf.checkpoints.convert_ecg_fm import ecg_fm_feature_extractor
from elm_hf.checkpoints.convert_ecg_jepa import ecg_jepa_feature_extractor
from elm_hf.checkpoints.convert_hubert_ecg import hubert_ecg_feature_extractor
from elm_hf.checkpoints.convert_net1d import net1d_feature_extractor
from elm_hf.checkpoints.load import load_feature_extractor
from elm_hf.modeling.configuration_elm import ECG_ENCODER_TYPES
from elm_hf.modeling.ecg_leads import SAMPLING_RATE, canonical_lead
from elm_hf.modeling.feature_extraction_ecg import EcgFeatureExtractor
from elm_hf.modeling.image_processing_ecg import EcgImageProcessor


logger = logging.getLogger(__name__)


def ecg_se_resnet_feature_extractor(config: PreTrainedConfig, seconds: float = 10) -> EcgFeatureExtractor:
    """The preprocessing of an `ecg_se_resnet`: millivolt at 100 Hz."""
    return EcgFeatureExtractor(100, round(100 * seconds), normalization="millivolt")


# The preprocessing of a new encoder, from its configuration. Other encoders read millivolt at 250 Hz.
FEATURE_EXTRACTORS = {
    "net1d": net1d_feature_extractor,
    "ecg_fm": ecg_fm_feature_extractor,
    "hubert_ecg": hubert_ecg_feature_extractor,
    "ecg_jepa": ecg_jepa_feature_extractor,
    "ecg_cpc": ecg_cpc_feature_extractor,
    "ecg_coca": ecg_coca_feature_extractor,
    "ecg_se_resnet": ecg_se_resnet_feature_extractor,
}


# Normalizations after which the voltage of an ECG is lost.
SCALED_BY_ITSELF = ("min_max", "z_score", "min_max_per_lead", "z_score_per_lead")


def build_feature_extractor(
    name: str | None,
    encoder: PreTrainedModel | None,
    representation: str,
    seconds: float | None,
    normalization: str | None,
    leads: Sequence[str] | None,
    sampling_rate: int | None = None,
) -> EcgFeatureExtractor:
    """
    The feature extractor of a pre-trained ECG encoder, which keeps its preprocessing; otherwise a new one.

    Args:
        name: repository or folder of the encoder, or the type of a new one; None without a name.
        encoder: the encoder; None for a model without one.
        representation: `"signal"` or `"symbol"`.
        seconds, normalization, leads, sampling_rate: as for [`create_elm`].
    """
    is_pretrained = name is not None and name not in ECG_ENCODER_TYPES
    model_type = None if encoder is None else encoder.config.model_type
    if is_pretrained and model_type in ECG_ENCODER_TYPES:
        feature_extractor = load_feature_extractor(name)
    elif model_type in FEATURE_EXTRACTORS:
        feature_extractor = FEATURE_EXTRACTORS[model_type](encoder.config)
    else:
        # An encoder with learned positions limits the number of samples.
        length = getattr(encoder.config, "num_samples", None) if representation == "signal" and encoder else None
        feature_extractor = EcgFeatureExtractor(
            normalization="millivolt" if representation == "signal" else "none",
            **({} if length is None else {"num_samples": length}),
        )
    settings = feature_extractor.to_dict()
    if normalization is not None:
        settings["normalization"] = normalization
    if sampling_rate is not None:
        seconds = seconds or settings["num_samples"] / settings["sampling_rate"]
        settings["sampling_rate"] = sampling_rate
    if seconds is not None:
        settings["num_samples"] = round(seconds * settings["sampling_rate"])
    if settings["normalization"] in SCALED_BY_ITSELF:
        logger.warning(
            "normalization %s: each ECG is scaled by itself, so that the model cannot learn criteria of voltage "
            "(ventricular hypertrophy, low voltage).",
            settings["normalization"],
        )
    if leads is not None:
        settings["leads"] = [canonical_lead(lead) for lead in leads]
    return type(feature_extractor).from_dict(settings)


def build_image_processor(
    name: str | None,
    encoder: PreTrainedModel,
    representation: str,
    seconds: float | None,
    picture_size: int | None,
    paper: Mapping | None,
) -> EcgImageProcessor:
    """
    An image processor with the normalization and, without `picture_size`, the picture size of the vision encoder.

    Args:
        name: repository or folder of the encoder; None for a new one.
        encoder: the vision encoder.
        representation: `"image"` or `"stacked_signal"`.
        seconds, picture_size, paper: as for [`create_elm`].

    Raises:
        ValueError: the encoder takes no pictures of `picture_size`.
    """
    settings = {"representation": representation, "num_samples": round((seconds or 10) * SAMPLING_RATE)}
    settings |= paper or {}
    if picture_size is not None:
        _check_picture_size(encoder, picture_size)
        settings["size"] = {"height": picture_size, "width": picture_size}
    if name is not None:
        return EcgImageProcessor.from_vision_encoder(name, **settings)
    size = picture_size or encoder.config.image_size
    return EcgImageProcessor(**{"size": {"height": size, "width": size}} | settings)


def _check_picture_size(encoder: PreTrainedModel, size: int):
    config = encoder.config
    if size < config.patch_size or size % config.patch_size:
        raise ValueError(
            f"--picture-size {size}: expected a multiple of the encoder's patch size, {config.patch_size}."
        )
    is_flexible = config.model_type == "siglip2_vision_model"
    if not is_flexible and "interpolate_pos_encoding" not in signature(encoder.forward).parameters:
        raise ValueError(
            f"--picture-size {size}: a {config.model_type} encoder takes pictures of {config.image_size} pixels only."
        )
