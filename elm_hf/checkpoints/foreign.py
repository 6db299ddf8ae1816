"""Checks of checkpoints whose code is not trusted, so that a strange file ends in one line: no hang, no full memory."""

import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel, ProcessorMixin
from transformers.utils import cached_file

from elm_hf.modeling.ecg_leads import LEADS


WEIGHTS, INDEX, PICKLED = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"
ADAPTER_WEIGHTS, PICKLED_ADAPTER = "adapter_model.safetensors", "adapter_model.bin"
SETTINGS = (
    *("config.json", "generation_config.json", "processor_config.json", "preprocessor_config.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "adapter_config.json", INDEX),
)
MAX_JSON_BYTES = 64 * 2**20
# Number of values of a model that its file does not hold (quantized weights, tables that are computed).
FREE_VALUES = 2**26
VALUES_OF_A_STORED_ONE = 16
MAX_SIDE = 4096  # of a picture, in pixels
MIN_RATE, MAX_RATE = 10, 10_000  # Hz
GIVEN_RATE = 250  # Hz, of an ECG that tries a processor
# Settings whose number of parts is built one by one; each part has weights.
_COUNTS = re.compile(r"layers?|depths?|stages?|blocks?|experts?", re.IGNORECASE)
# Settings of generation that answers depend on, with their limits.
_NUMBERS = {
    **{"repetition_penalty": (1e-3, 1e3), "no_repeat_ngram_size": (0, 1000), "min_new_tokens": (0, 100_000)},
    **{"temperature": (0, 1e3), "top_p": (0, 1), "top_k": (0, 10**6), "min_p": (0, 1), "typical_p": (0, 1)},
}
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "suppress_tokens", "begin_suppress_tokens")


def check_files(name: str) -> None:
    """
    Checks the files of a checkpoint before they are loaded.

    Args:
        name: folder or repository.

    Raises:
        ValueError: a file cannot be read as the settings of a checkpoint, an index names a file elsewhere, the weights are
            pickled, or the model would be much larger than its weights.
    """
    settings = {file: _settings(name, file) for file in SETTINGS}
    index, adapter = settings[INDEX], settings["adapter_config.json"]
    if adapter is not None:
        _check_is_safe(name, ADAPTER_WEIGHTS, PICKLED_ADAPTER)
        return
    files = [WEIGHTS]
    if index is not None and _file(name, WEIGHTS) is None:
        files = index.get("weight_map")
        files = sorted(set(files.values())) if isinstance(files, dict) and files else [None]
    explicit = (settings["config.json"] or {}).get("transformers_weights")
    for file in files if explicit is None else [*files, explicit]:
        path = PurePosixPath(file) if isinstance(file, str) else None
        if path is None or path.is_absolute() or ".." in path.parts or "\\" in file or path.suffix != ".safetensors":
            raise ValueError(
                f"{name}: names {file!r:.100} as a file of weights; expected a .safetensors file inside it."
            )
    if files == [WEIGHTS]:
        _check_is_safe(name, WEIGHTS, PICKLED)
    paths = [path for path in (_file(name, file) for file in files) if path is not None]
    if paths and settings["config.json"] is not None:
        _check_size(name, settings["config.json"], paths)


def check_loaded(name: str, model: PreTrainedModel, processor: ProcessorMixin) -> None:
    """
    Checks that the settings of a loaded checkpoint have the right types and fit together.

    Raises:
        ValueError: a setting is not as it should be.
    """
    config = model.config
    if config.representation != "symbol" and processor.num_ecg_tokens != config.num_ecg_tokens:
        raise ValueError(
            f"{name}: its processor writes {processor.num_ecg_tokens!r:.50} tokens per ECG; the model reads "
            f"{config.num_ecg_tokens}."
        )
    if config.measurements != processor.measurements:
        raise ValueError(
            f"{name}: its processor measures {processor.measurements!r:.100}; the model reads "
            f"{config.measurements!r:.100}."
        )
    reader = processor.image_processor if config.reads_pictures else processor.feature_extractor
    readers = [reader, processor.image_processor] if config.reads_both else [reader]
    for rate in (one.sampling_rate for one in readers):
        if not (type(rate) in (int, float) and MIN_RATE <= rate <= MAX_RATE):
            raise ValueError(f"{name}: ECGs of {rate!r:.50} Hz; expected {MIN_RATE} to {MAX_RATE}.")
    if reader.num_samples != config.num_samples:
        raise ValueError(
            f"{name}: its processor gives ECGs of {reader.num_samples!r:.50} samples; the model reads {config.num_samples}."
        )
    if config.reads_pictures or config.reads_both:
        sides = processor.image_processor.size
        sides = list(sides.values()) if hasattr(sides, "values") else [sides]
        if not all(type(side) is int and 0 < side <= MAX_SIDE for side in sides):
            raise ValueError(f"{name}: pictures of the size {sides!r:.100}; expected 1 to {MAX_SIDE} pixels.")
    _check_generation(name, model)
    seconds = max(one.num_samples / one.sampling_rate for one in readers)
    time = np.arange(round(GIVEN_RATE * (seconds + 1))) / GIVEN_RATE
    ecg = np.sin(np.pi * (time + np.arange(len(LEADS))[:, None]))
    given = {"type": "ecg", "ecg": ecg, "sampling_rate": GIVEN_RATE, "lead_names": list(LEADS)}
    given["keep_flat"] = True  # it is no ECG, so nothing is said about its quality
    messages = [{"role": "user", "content": [given, {"type": "text", "text": "a"}]}]
    processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True)


def _check_generation(name: str, model: PreTrainedModel) -> None:
    """Keeps the settings of greedy generation, after checking their values, and drops others."""
    given = model.generation_config.to_diff_dict()
    rows = model.get_input_embeddings().num_embeddings
    for key in _TOKENS:
        value = given.get(key)
        ids = value if isinstance(value, list) else [] if value is None else [value]
        if not all(type(one) is int and 0 <= one < rows for one in ids):
            raise ValueError(f"{name}: {key} is {value!r:.100} in its generation settings; expected ids below {rows}.")
    for key, (low, high) in _NUMBERS.items():
        value = given.get(key)
        if value is not None and not (type(value) in (int, float) and low <= value <= high):
            raise ValueError(f"{name}: {key} is {value!r:.100} in its generation settings; expected {low} to {high}.")
    kept = {key: given[key] for key in (*_TOKENS, *_NUMBERS) if given.get(key) is not None}
    model.generation_config = GenerationConfig(**kept, do_sample=given.get("do_sample") is True)


def _file(name: str, file: str) -> Path | None:
    found = cached_file(
        name,
        file,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )
    return None if found is None else Path(found)


def _settings(name: str, file: str) -> dict | None:
    """The content of a JSON file, None if it is missing."""
    path = _file(name, file)
    if path is None:
        return None
    if path.stat().st_size > MAX_JSON_BYTES:
        raise ValueError(f"{name}: {file} has {path.stat().st_size:,} bytes; expected at most {MAX_JSON_BYTES:,}.")
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name}: {file} cannot be read as JSON ({error}).") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{name}: {file} holds {type(settings).__name__}; expected an object with settings.")
    return settings


def _check_is_safe(name: str, weights: str, pickled: str) -> None:
    if _file(name, weights) is None and any(_file(name, each) for each in (pickled, f"{pickled}.index.json")):
        raise ValueError(
            f"{name}: has {pickled} and no {weights}; pickled weights are not read. Load it yourself if you trust it, and "
            "save it with save_pretrained."
        )


def _check_size(name: str, settings: dict, files: list[Path]) -> None:
    """Refuses models with more layers or values than the file of weights can fill, before anything is allocated."""
    try:
        shapes = []
        for file in files:
            with safe_open(file, "pt") as weights:
                shapes += [weights.get_slice(key).get_shape() for key in weights.keys()]  # noqa: SIM118 (no dictionary)
    except SafetensorError as error:
        raise ValueError(f"{name}: {file.name} is damaged ({error}).") from error
    for key, value in _numbers(settings):
        limit = max(len(shapes), 1024) if _COUNTS.search(key.rpartition(".")[2]) else 2**40
        if abs(value) > limit:
            raise ValueError(f"{name}: {key} is {value} in config.json; its weights are for at most {limit}.")
    stored = sum(torch.Size(shape).numel() for shape in shapes)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(name))
    values = sum(value.numel() for value in (*model.parameters(), *model.buffers()))
    if values > VALUES_OF_A_STORED_ONE * stored + FREE_VALUES:
        raise ValueError(f"{name}: config.json describes {values:,} weights, and the files hold {stored:,}.")


def _numbers(settings, name: str = "") -> Iterator[tuple[str, int | float]]:
    """All numbers of settings, with their names; numbers in lists have the name of the list."""
    if isinstance(settings, dict):
        for key, value in settings.items():
            yield from _numbers(value, f"{name}.{key}".lstrip("."))
    elif isinstance(settings, list):
        for value in settings:
            yield from _numbers(value, name)
    elif isinstance(settings, int | float):
        yield name, settings
