"""Creates a new ELM from an LLM, a tokenizer and optionally an ECG encoder, and saves it as a checkpoint."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from os import PathLike
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from elm_hf.checkpoints.chat_template import check_template
from elm_hf.checkpoints.elm_settings import elm_settings, set_number_of_tokens
from elm_hf.checkpoints.encoder import load_encoder
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
from elm_hf.checkpoints.load import load_pretrained
from elm_hf.checkpoints.preprocessing import build_feature_extractor, build_image_processor
from elm_hf.checkpoints.tokenizer import text_tokenizer
from elm_hf.data.seen_patients import SeenPatients, Stage, read_stages, stages_before
from elm_hf.modeling.configuration_elm import ECG_ENCODER_TYPES, ElmConfig
from elm_hf.modeling.ecg_leads import LEADS, SAMPLING_RATE, canonical_lead
from elm_hf.modeling.feature_extraction_ecg import EcgFeatureExtractor
from elm_hf.modeling.image_processing_ecg import EcgImageProcessor
from elm_hf.modeling.modeling_elm import ElmForCausalLM
from elm_hf.modeling.processing_elm import ElmProcessor
from elm_hf.modeling.processing_elm_base import BaseElmProcessor, add_ecg_token
from elm_hf.modeling.processing_elm_signal_vision import ElmSignalVisionProcessor
from elm_hf.modeling.processing_elm_symbol import ElmSymbolProcessor, symbols_of_an_ecg
from elm_hf.modeling.processing_elm_vision import ElmVisionProcessor
from elm_hf.modeling.tokenization_ecg_byte import EcgByteTokenizer
from elm_hf.utils.encoder_origin import license_warning
from elm_hf.utils.files import check_free, save_atomically
from elm_hf.utils.hub import licence_of


logger = logging.getLogger(__name__)


# The encoder that `--encoder new` stands for: the one that is best on PTB-XL's labels of those trained from scratch.
NEW_ENCODER, DEFAULT_TYPE = "new", "ecg_se_resnet"


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
    sampling_rate: int | None = None,
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
        sampling_rate: sampling rate in Hz at which a model without an encoder reads ECGs, 250 by default. An ECG tokenizer
            compresses best at the rate of the records that it was trained on.

    Raises:
        FileExistsError: `output` exists and is not empty.
        ValueError: parts are missing or do not fit together, or the LLM or its chat template is not supported.
        OSError: a repository or folder does not contain the model.
    """
    given = {
        "representation": representation,
        "projector_type": projector,
        "num_ecg_tokens": num_ecg_tokens,
        "picture_projector_type": picture_projector,
        "num_picture_tokens": num_picture_tokens,
    }
    settings = elm_settings(config, given, measurements)
    text_config, encoder_config, picture_config = (
        settings.pop(name, None) for name in ("text_config", "encoder_config", "picture_encoder_config")
    )
    reading = _Reading(settings["representation"], seconds, normalization, leads, picture_size, paper, sampling_rate)
    has_picture_encoder = picture_encoder is not None or picture_config is not None
    _check_parts(reading, llm, text_config, has_picture_encoder, ecg_tokenizer, hub_encoder, encoder_config)
    _check_numbers(seconds, dtype)
    if sampling_rate is not None and (encoder or encoder_config or hub_encoder or reading.both):
        raise ValueError("--sampling-rate is for models without an encoder; an encoder reads ECGs at its own rate.")
    if encoder == NEW_ENCODER:
        encoder = (encoder_config or {}).get("model_type", DEFAULT_TYPE)
    has_encoder = encoder is not None or encoder_config is not None or hub_encoder is not None
    set_number_of_tokens(settings, is_single=not has_encoder and settings.get("projector_type") == "linear")
    output = Path(output)
    check_free(output)
    set_seed(seed)

    llm_tokenizer = text_tokenizer(tokenizer or llm, tokenizer_dataset, tokenizer_fold, vocab_size)
    llm_settings = new_llm_config(text_config, llm_tokenizer) if llm is None else llm_config(llm)
    ecg_token_id = add_ecg_token(llm_tokenizer)
    check_template(llm_tokenizer, tokenizer or llm or "the new tokenizer")
    check_answers_are_learnt(ElmProcessor(EcgFeatureExtractor(), llm_tokenizer))

    if hub_encoder is not None:
        encoder = hub_encoder.name
        encoder_model, reader = _load_hub_encoder(hub_encoder, dtype, reading)
    else:
        encoder_model, reader = _load_encoder(encoder, encoder_config, dtype, reading)
    if reading.both or reading.is_of_pictures(encoder_model):
        settings["picture_size"] = picture_size
    picture_model, picture_reader, ecg_byte = None, None, None
    if reading.both:
        picture_model = load_encoder(picture_encoder, picture_config, dtype)
        _check_towers(settings, encoder_model, picture_model, reader)
        length = seconds or reader.num_samples / reader.sampling_rate
        picture_reader = build_image_processor(picture_encoder, picture_model, "image", length, picture_size, paper)
    if reading.representation == "symbol":
        ecg_byte = load_pretrained(EcgByteTokenizer, ecg_tokenizer)
        settings["ecg_vocab_size"] = len(ecg_byte)
        of_an_ecg = max_ecg_tokens or symbols_of_an_ecg(len(reader.leads), reader.num_samples)
        check_room_for_ecgs(llm_settings, of_an_ecg, "--max-ecg-tokens")
    else:
        check_room_for_ecgs(llm_settings, settings["num_ecg_tokens"], "--num-ecg-tokens")

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
    processor = _new_processor(model.config, llm_tokenizer, reader, picture_reader, ecg_byte, max_ecg_tokens)
    set_generation(model, processor)
    seen = SeenPatients(_stages_of(encoder, encoder_model) + _stages_of_tokenizer(ecg_tokenizer) + _stages_of_llm(llm))
    save_atomically([model, processor, seen], output, check=lambda folder: check_saved(model, folder))
    return model


@dataclass(frozen=True)
class _Reading:
    """How a model reads ECGs: arguments of [`create_elm`]."""

    representation: str | list[str]
    seconds: float | None
    normalization: str | None
    leads: Sequence[str] | None
    picture_size: int | None
    paper: Mapping | None
    sampling_rate: int | None

    @property
    def both(self) -> bool:
        """Whether the signal and its picture are read."""
        return not isinstance(self.representation, str)

    def is_of_pictures(self, encoder: PreTrainedModel | None) -> bool:
        """Whether the encoder, if there is one, reads pictures."""
        return self.representation in ("image", "stacked_signal") and encoder is not None


def _check_parts(
    reading: _Reading,
    llm: str | None,
    text_config: dict | None,
    has_picture_encoder: bool,
    ecg_tokenizer: str | None,
    hub_encoder: HubEncoder | None,
    encoder_config: dict | None,
) -> None:
    """Checks that the parts are given that belong together."""
    if (llm is None) == (text_config is None):
        raise ValueError(
            "Give either a pre-trained LLM (--llm) or a --config whose `text_config` describes a new one."
        )
    if reading.both != has_picture_encoder:
        raise ValueError("--picture-encoder and --representation signal,image must be used together.")
    if (ecg_tokenizer is None) != (reading.representation != "symbol"):
        raise ValueError("--ecg-tokenizer and --representation symbol must be used together.")
    if hub_encoder is not None and (reading.representation != "signal" or encoder_config is not None):
        raise ValueError("An encoder of the Hub reads signals, and --config does not describe it.")


def _load_hub_encoder(
    hub_encoder: HubEncoder, dtype: str, reading: _Reading
) -> tuple[PreTrainedModel, EcgFeatureExtractor]:
    """An encoder that was not made for elm-hf, and its feature extractor."""
    leads = None if reading.leads is None else [canonical_lead(lead) for lead in reading.leads]
    encoder, reader = hub_encoder.load(dtype, reading.seconds, reading.normalization, leads)
    _warn_of_license(hub_encoder.name, encoder)
    _check_picture_options(reading, encoder)
    return encoder, reader


def _load_encoder(
    name: str | None, config: dict | None, dtype: str, reading: _Reading
) -> tuple[PreTrainedModel | None, EcgFeatureExtractor | EcgImageProcessor]:
    """The encoder, None without one, and what prepares ECGs for it or for the projector."""
    encoder = load_encoder(name, config, dtype, len(reading.leads or LEADS))
    _warn_of_license(name, encoder)
    _check_picture_options(reading, encoder)
    if not reading.is_of_pictures(encoder):
        form = "signal" if reading.both else reading.representation
        options = reading.seconds, reading.normalization, reading.leads, reading.sampling_rate
        return encoder, build_feature_extractor(name, encoder, form, *options)
    if reading.leads is not None:
        raise ValueError("--leads chooses the leads of signals; pictures show all twelve. Leave it out.")
    options = reading.seconds, reading.picture_size, reading.paper
    return encoder, build_image_processor(name, encoder, reading.representation, *options)


def _warn_of_license(name: str | None, encoder: PreTrainedModel | None) -> None:
    if warning := license_warning(encoder and encoder.config):
        logger.warning("%s: %s", name, warning)


def _check_numbers(seconds: float | None, dtype: str) -> None:
    if seconds is not None and not 1 <= seconds * SAMPLING_RATE < math.inf:
        raise ValueError(
            f"--seconds is {seconds:g}; expected the length of at least one sample at {SAMPLING_RATE} Hz."
        )
    if dtype != "auto" and not getattr(getattr(torch, dtype, None), "is_floating_point", False):
        raise ValueError(f'--dtype is "{dtype}"; expected auto, float32, bfloat16 or float16.')


def _check_picture_options(reading: _Reading, encoder: PreTrainedModel | None) -> None:
    """Refuses options of pictures for models that do not read them."""
    reads_pictures = reading.is_of_pictures(encoder)
    if reading.picture_size is not None and not (reads_pictures or reading.both):
        raise ValueError("--picture-size is for models that read pictures: --representation image or stacked_signal.")
    if reading.paper and not (reading.both or (reads_pictures and reading.representation == "image")):
        options = ", ".join(f"--{name.replace('_', '-')}" for name in reading.paper)
        raise ValueError(f"{options}: for models that read drawn ECGs, --representation image.")


def _new_processor(
    config: ElmConfig,
    tokenizer: PreTrainedTokenizerBase,
    reader: EcgFeatureExtractor | EcgImageProcessor,
    picture_reader: EcgImageProcessor | None,
    ecg_byte: EcgByteTokenizer | None,
    max_ecg_tokens: int | None,
) -> BaseElmProcessor:
    """The processor of a model, from its parts."""
    if ecg_byte is not None:
        return ElmSymbolProcessor(reader, tokenizer, ecg_byte, config.ecg_token_offset, max_ecg_tokens)
    tokens = {"num_ecg_tokens": config.num_ecg_tokens, "measurements": config.measurements}
    if picture_reader is not None:
        return ElmSignalVisionProcessor(reader, picture_reader, tokenizer, **tokens)
    processor_class = ElmVisionProcessor if config.reads_pictures else ElmProcessor
    return processor_class(reader, tokenizer, **tokens)


def _set_origin(config: ElmConfig, license: str | None, llm: str | None) -> None:
    """Sets what the card says about the origin of the parts: their repositories, without local folders, and the licence."""
    stated = {"license": license} if license is not None else {} if llm is None else licence_of(llm)
    for field, value in stated.items():
        setattr(config, field, value)
    for part in (config.text_config, config.encoder_config, config.picture_encoder_config):
        if part is not None and Path(part.name_or_path).is_dir():
            part.name_or_path = ""


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
    """The stages of training of a pre-trained ECG encoder. New encoders and vision encoders have seen no patient."""
    if name is None or name in ECG_ENCODER_TYPES or encoder.config.model_type not in ECG_ENCODER_TYPES:
        return []
    return stages_before(name)


def _stages_of_tokenizer(name: str | None) -> list[Stage]:
    """The stage in which the ECG tokenizer of a model was trained."""
    return [] if name is None else stages_before(name)


def _stages_of_llm(name: str | None) -> list[Stage]:
    """The stages of training of the LLM of an ECG-language model. Other LLMs have seen no patient."""
    return [] if name is None else read_stages(name) or []
