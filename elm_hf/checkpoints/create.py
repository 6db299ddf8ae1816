"""Creates a new ELM from an LLM, a tokenizer and optionally an ECG encoder, and saves it as a checkpoint."""

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import wraps
from inspect import signature
from os import PathLike
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    AutoConfig,
    AutoModel,
    PreTrainedConfig,
    PreTrainedModel,
    set_seed,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from elm_hf.checkpoints.chat_template import check_template
from elm_hf.checkpoints.convert_ecg_coca import ecg_coca_feature_extractor
from elm_hf.checkpoints.convert_ecg_cpc import ecg_cpc_feature_extractor
from elm_hf.checkpoints.convert_ecg_fm import ecg_fm_feature_extractor
from elm_hf.checkpoints.convert_ecg_jepa import ecg_jepa_feature_extractor
from elm_hf.checkpoints.convert_hubert_ecg import hubert_ecg_feature_extractor
from elm_hf.checkpoints.convert_net1d import net1d_feature_extractor
from elm_hf.checkpoints.hub_encoder import HubEncoder
from elm_hf.checkpoints.llm import (
    check_answers_are_learnt,
    check_room_for_ecgs,
    check_saved,
    llm_config,
    load_llm,
    new_llm_config,
    set_generation,
)
from elm_hf.checkpoints.load import load_feature_extractor, load_pretrained
from elm_hf.checkpoints.measurements import scaled_measurements
from elm_hf.checkpoints.tokenizer import text_tokenizer
from elm_hf.data.seen_patients import SeenPatients, Stage, stages_before
from elm_hf.modeling.configuration_elm import ECG_ENCODER_TYPES, SIGNAL_AND_IMAGE, ElmConfig
from elm_hf.modeling.configuration_hub_encoder import HubEncoderConfig
from elm_hf.modeling.ecg_encoders import import_ecg_encoders
from elm_hf.modeling.ecg_leads import LEADS, SAMPLING_RATE, canonical_lead
from elm_hf.modeling.feature_extraction_ecg import EcgFeatureExtractor
from elm_hf.modeling.image_processing_ecg import EcgImageProcessor
from elm_hf.modeling.modeling_elm import ElmForCausalLM
from elm_hf.modeling.processing_elm import ElmProcessor
from elm_hf.modeling.processing_elm_base import add_ecg_token
from elm_hf.modeling.processing_elm_signal_vision import ElmSignalVisionProcessor
from elm_hf.modeling.processing_elm_symbol import ElmSymbolProcessor, symbols_of_an_ecg
from elm_hf.modeling.processing_elm_vision import ElmVisionProcessor
from elm_hf.modeling.tokenization_ecg_byte import EcgByteTokenizer
from elm_hf.utils.encoder_origin import license_warning
from elm_hf.utils.files import check_free, save_atomically
from elm_hf.utils.hub import check_name, licence_of


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
# The encoder that `--encoder new` stands for: the one that is best on PTB-XL's labels of those trained from scratch.
NEW_ENCODER, DEFAULT_TYPE = "new", "ecg_se_resnet"
# Types of encoders of which there can be a new one.
NEW_TYPES = tuple(name for name in ECG_ENCODER_TYPES if name != HubEncoderConfig.model_type)
# Normalizations after which the voltage of an ECG is lost.
SCALED_BY_ITSELF = ("min_max", "z_score", "min_max_per_lead", "z_score_per_lead")
# Fields of ElmConfig that follow from the other arguments of `create_elm`.
_DERIVED = {"num_leads", "num_samples", "ecg_token_id", "ecg_token_offset", "ecg_vocab_size", "dtype"}


def _with_plain_errors(function: Callable) -> Callable:
    """Turns transformers' errors about a configuration into a ValueError with their message."""

    @wraps(function)
    def run(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except StrictDataclassError as error:
            raise ValueError(str(error.__cause__ or error)) from error

    return run


@_with_plain_errors
def create_elm(
    output: str | PathLike,
    llm: str | None = None,
    config: str | PathLike | None = None,
    tokenizer: str | None = None,
    tokenizer_dataset: str | None = None,
    tokenizer_fold: int | str = 1,
    vocab_size: int = 1000,
    representation: str | Sequence[str] | None = None,
    encoder: str | None = None,
    ecg_tokenizer: str | None = None,
    max_ecg_tokens: int | None = None,
    projector: str | None = None,
    num_ecg_tokens: int | None = None,
    seconds: float | None = None,
    normalization: str | None = None,
    leads: Sequence[str] | None = None,
    picture_size: int | None = None,
    paper: Mapping | None = None,
    dtype: str = "auto",
    seed: int = 0,
    license: str | None = None,
    hub_encoder: HubEncoder | None = None,
    picture_encoder: str | None = None,
    picture_projector: str | None = None,
    num_picture_tokens: int | None = None,
    measurements: Sequence[str] | None = None,
) -> ElmForCausalLM:
    """
    Creates a checkpoint that is ready for training: `config.json`, weights, processor and the code to load them.

    Args:
        output: folder to create.
        llm: repository or folder of a pre-trained causal LLM.
        config: JSON file with fields of [`ElmConfig`]. `text_config` describes an LLM with random weights, used
            instead of `llm`; `encoder_config` describes a new encoder. The arguments below take precedence over the
            file.
        tokenizer: repository or folder of the LLM's tokenizer. Defaults to that of `llm`.
        tokenizer_dataset: elm-hf dataset on whose training conversations a new tokenizer is trained.
        tokenizer_fold: fold of that dataset.
        vocab_size: size of a new tokenizer's vocabulary.
        representation: `"signal"` (default), `"stacked_signal"`, `"image"` or `"symbol"`; or `["signal", "image"]` for
            a model that reads the signal and a picture of it.
        encoder: repository or folder of an ECG encoder or, for pictures, of a vision encoder (for CLIP and SigLIP the
            vision tower is used); `"new"` for a new ECG encoder of the default type, `ecg_se_resnet`, or another type such
            as `"ecg_resnet"`; None for no encoder.
        ecg_tokenizer: repository or folder of the [`EcgByteTokenizer`] for `"symbol"`.
        max_ecg_tokens: maximum number of tokens per ECG for `"symbol"`; None for no limit.
        projector: `"linear"` or `"mlp"` (default) with an encoder; `"linear"`, `"patch"` (default) or `"conv"`
            without.
        num_ecg_tokens: positions per ECG. Defaults to 1 for the encoder-free linear projector and to 50 otherwise, and
            for `["signal", "image"]` to as many for the signal and 50 for its picture. With `measurements`, theirs are
            among them.
        seconds: length of the ECGs that the model reads. Defaults to that of the pre-trained encoder, or 10.
        normalization: normalization of the ECG's amplitude, see [`EcgFeatureExtractor`]. Defaults to that of the
            pre-trained encoder, or to `"millivolt"` for signals and `"none"` for tokens. `"min_max"` and `"z_score"`
            scale each ECG by itself, and the model cannot learn criteria of voltage: a warning says so.
        leads: names of the leads that the model reads, in its order. Defaults to those of the pre-trained encoder, or
            to all twelve. Encoders that read their leads together take no others. Pictures show all twelve.
        picture_size: height and width of pictures in pixels. Defaults to that of the vision encoder; for another size
            its position embeddings are interpolated. A millimetre of ECG paper has 0.9 pixels at 224 and 2 at 512, for
            10 s.
        paper: the paper that ECGs are drawn on: `layout`, `mm_per_s`, `mm_per_mv` and `grid_color` of
            [`EcgImageProcessor`].
        dtype: precision of the weights; `"auto"` keeps that of the LLM.
        seed: random seed for new weights.
        license: licence of the model, such as `"apache-2.0"`. Defaults to the one that the card of `llm` states.
        hub_encoder: instead of `encoder`, an encoder of the Hub that was not made for elm-hf, and how it reads a signal.
        picture_encoder: for `["signal", "image"]`, repository or folder of the vision encoder; `encoder` and `projector`
            are then those of the signal.
        picture_projector: projector of the picture, `"linear"` or `"mlp"` (default).
        num_picture_tokens: how many of `num_ecg_tokens` are the picture's.
        measurements: measured values that the model reads as well, a token each behind those of the ECG: see
            [`scaled_measurements`]. They are added to the default of `num_ecg_tokens`.

    Raises:
        FileExistsError: `output` exists and is not empty.
        ValueError: parts are missing or do not fit together, or the LLM or its chat template is not supported.
        OSError: a repository or folder does not contain the model.
    """
    settings = _read_config(config)
    text_config, encoder_config = settings.pop("text_config", None), settings.pop("encoder_config", None)
    picture_config = settings.pop("picture_encoder_config", None)
    if (llm is None) == (text_config is None):
        raise ValueError(
            "Give either a pre-trained LLM (--llm) or a --config whose `text_config` describes a new one."
        )
    if seconds is not None and not 1 <= seconds * SAMPLING_RATE < math.inf:
        raise ValueError(
            f"--seconds is {seconds:g}; expected the length of at least one sample at {SAMPLING_RATE} Hz."
        )
    if dtype != "auto" and not getattr(getattr(torch, dtype, None), "is_floating_point", False):
        raise ValueError(f'--dtype is "{dtype}"; expected auto, float32, bfloat16 or float16.')
    if encoder == NEW_ENCODER:
        encoder = (encoder_config or {}).get("model_type", DEFAULT_TYPE)
    output = Path(output)
    check_free(output)
    set_seed(seed)
    given = {
        "representation": representation,
        "projector_type": projector,
        "num_ecg_tokens": num_ecg_tokens,
        "picture_projector_type": picture_projector,
        "num_picture_tokens": num_picture_tokens,
    }
    settings |= {name: value for name, value in given.items() if value is not None}
    if measurements is not None:
        settings |= scaled_measurements(measurements)
    representation = settings.setdefault("representation", "signal")
    if representation == "symbol" and settings.get("measurements"):
        raise ValueError("--measurements are tokens of an ECG, and --representation symbol has text tokens for it.")
    reads_both = not isinstance(representation, str)
    if reads_both:
        settings["representation"] = list(representation)
    if reads_both != (picture_encoder is not None or picture_config is not None):
        raise ValueError("--picture-encoder and --representation signal,image must be used together.")
    has_encoder = encoder is not None or encoder_config is not None or hub_encoder is not None
    _set_number_of_tokens(settings, is_single=not has_encoder and settings.get("projector_type") == "linear")
    if (ecg_tokenizer is None) != (representation != "symbol"):
        raise ValueError("--ecg-tokenizer and --representation symbol must be used together.")

    llm_tokenizer = text_tokenizer(tokenizer or llm, tokenizer_dataset, tokenizer_fold, vocab_size)
    llm_settings = new_llm_config(text_config, llm_tokenizer) if llm is None else llm_config(llm)
    ecg_token_id = add_ecg_token(llm_tokenizer)
    check_template(llm_tokenizer, tokenizer or llm or "the new tokenizer")
    check_answers_are_learnt(ElmProcessor(EcgFeatureExtractor(), llm_tokenizer))
    reader = None
    if hub_encoder is not None:
        if representation != "signal" or encoder_config is not None:
            raise ValueError("An encoder of the Hub reads signals, and --config does not describe it.")
        encoder = hub_encoder.name
        leads = None if leads is None else [canonical_lead(lead) for lead in leads]
        encoder_model, reader = hub_encoder.load(dtype, seconds, normalization, leads)
    else:
        encoder_model = load_encoder(encoder, encoder_config, dtype, len(leads or LEADS))
    if warning := license_warning(encoder_model and encoder_model.config):
        logger.warning("%s: %s", encoder, warning)
    if representation == "symbol":
        ecg_byte = load_pretrained(EcgByteTokenizer, ecg_tokenizer)
        settings["ecg_vocab_size"] = len(ecg_byte)
    reads_pictures = representation in ("image", "stacked_signal") and encoder_model is not None
    if picture_size is not None and not (reads_pictures or reads_both):
        raise ValueError("--picture-size is for models that read pictures: --representation image or stacked_signal.")
    if paper and not (reads_both or (reads_pictures and representation == "image")):
        options = ", ".join(f"--{name.replace('_', '-')}" for name in paper)
        raise ValueError(f"{options}: for models that read drawn ECGs, --representation image.")
    if reads_pictures:
        if leads is not None:
            raise ValueError("--leads chooses the leads of signals; pictures show all twelve. Leave it out.")
        reader = _image_processor(encoder, encoder_model, representation, seconds, picture_size, paper)
        settings["picture_size"] = picture_size
    elif reader is None:
        form = "signal" if reads_both else representation
        reader = _feature_extractor(encoder, encoder_model, form, seconds, normalization, leads)
    picture_model, picture_reader = None, None
    if reads_both:
        picture_model = load_encoder(picture_encoder, picture_config, dtype)
        _check_towers(settings, encoder_model, picture_model, reader)
        length = seconds or reader.num_samples / reader.sampling_rate
        picture_reader = _image_processor(picture_encoder, picture_model, "image", length, picture_size, paper)
        settings["picture_size"] = picture_size
    if representation == "symbol":
        of_an_ecg = max_ecg_tokens or symbols_of_an_ecg(len(reader.leads), reader.num_samples)
        check_room_for_ecgs(llm_settings, of_an_ecg, "--max-ecg-tokens")
    else:
        check_room_for_ecgs(llm_settings, settings.get("num_ecg_tokens", ElmConfig.num_ecg_tokens), "--num-ecg-tokens")
    model = ElmForCausalLM.from_encoder_llm_pretrained(
        encoder_model,
        load_llm(llm, llm_settings, dtype),
        ecg_token_id=ecg_token_id,
        dtype=dtype,
        num_leads=len(reader.leads),
        num_samples=reader.num_samples,
        picture_encoder=picture_model,
        **settings,
    )
    if dtype != "auto":
        model = model.to(getattr(torch, dtype))
    _set_origin(model.config, license, llm)
    if representation == "symbol":
        offset = model.config.ecg_token_offset
        processor = ElmSymbolProcessor(reader, llm_tokenizer, ecg_byte, offset, max_ecg_tokens)
    elif reads_both:
        parts = reader, picture_reader, llm_tokenizer
        processor = ElmSignalVisionProcessor(
            *parts, model.config.num_ecg_tokens, measurements=model.config.measurements
        )
    else:
        processor_class = ElmVisionProcessor if model.config.reads_pictures else ElmProcessor
        processor = processor_class(
            reader, llm_tokenizer, model.config.num_ecg_tokens, measurements=model.config.measurements
        )
    set_generation(model, processor)
    seen = SeenPatients(_stages_of(encoder, encoder_model))
    save_atomically([model, processor, seen], output, check=lambda folder: check_saved(model, folder))
    return model


def _set_origin(config: ElmConfig, license: str | None, llm: str | None) -> None:
    """Sets what the card says about the origin of the parts: their repositories, without local folders, and the licence."""
    stated = {"license": license} if license is not None else {} if llm is None else licence_of(llm)
    for field, value in stated.items():
        setattr(config, field, value)
    for part in (config.text_config, config.encoder_config, config.picture_encoder_config):
        if part is not None and Path(part.name_or_path).is_dir():
            part.name_or_path = ""


def _set_number_of_tokens(settings: dict, is_single: bool) -> None:
    """Sets the number of tokens of an ECG, where the configuration's default does not fit."""
    default, measured = 1 if is_single else ElmConfig.num_ecg_tokens, len(settings.get("measurements") or ())
    if tuple(settings["representation"]) != SIGNAL_AND_IMAGE:
        settings.setdefault("num_ecg_tokens", default + measured)
        return
    if is_single and "num_ecg_tokens" in settings:
        settings.setdefault("num_picture_tokens", settings["num_ecg_tokens"] - 1 - measured)
    if "num_ecg_tokens" not in settings:
        of_picture = settings.setdefault("num_picture_tokens", ElmConfig.num_ecg_tokens)
        settings["num_ecg_tokens"] = default + of_picture + measured


def _check_towers(
    settings: dict, encoder: PreTrainedModel | None, picture_encoder: PreTrainedModel, reader: EcgFeatureExtractor
) -> None:
    """Checks that the parts of a model that reads the signal and its picture fit together, before an LLM is loaded."""
    ElmConfig(
        encoder_config=encoder and encoder.config,
        picture_encoder_config=picture_encoder.config,
        num_leads=len(reader.leads),
        num_samples=reader.num_samples,
        **settings,
    )


def _stages_of(name: str | None, encoder: PreTrainedModel | None) -> list[Stage]:
    """The stages of training of a pre-trained ECG encoder. New encoders, LLMs and vision encoders have seen no patient."""
    if name is None or name in ECG_ENCODER_TYPES or encoder.config.model_type not in ECG_ENCODER_TYPES:
        return []
    return stages_before(name)


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


def _feature_extractor(
    name: str | None,
    encoder: PreTrainedModel | None,
    representation: str,
    seconds: float | None,
    normalization: str | None,
    leads: Sequence[str] | None,
) -> EcgFeatureExtractor:
    """The feature extractor of a pre-trained ECG encoder, which keeps its preprocessing; otherwise a new one."""
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


def _image_processor(
    name: str | None,
    encoder: PreTrainedModel,
    representation: str,
    seconds: float | None,
    picture_size: int | None,
    paper: Mapping | None,
) -> EcgImageProcessor:
    """An image processor with the normalization and, without `picture_size`, the picture size of the vision encoder."""
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
