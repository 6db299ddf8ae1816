"""
Running a frozen encoder once: its features of each record, and what the model reads of its measured values, are kept next to
the records and read in training.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
import torch
from datasets import Dataset
from torch.nn import functional as F
from tqdm import tqdm

from elm_hf.data.ecg_table import EcgTable
from elm_hf.data.tables import has_records, load_records
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.modeling.modeling_elm import ElmForCausalLM
from elm_hf.modeling.processing_elm_base import BaseElmProcessor
from elm_hf.training.encoder_features import EncoderFeatures, measurements_file
from elm_hf.utils.source_digest import source_digest
from elm_hf.utils.weights import fingerprint_of_weights


BATCH_SIZE = 32
OF_TEXT = ("tokenizer", "system_prompt")  # parts of a processor that do not concern ECGs


def cache_encoders_of(
    paths: Sequence[str], model: ElmForCausalLM, processor: BaseElmProcessor, show_progress: bool = False
) -> EncoderFeatures:
    """The features of all datasets that have ECGs; see [`cache_encoder`]."""
    files = [cache_encoder(path, model, processor, show_progress) for path in paths if has_records(path)]
    return EncoderFeatures(files)


def cache_encoder(path: str, model: ElmForCausalLM, processor: BaseElmProcessor, show_progress: bool = False) -> Path:
    """
    Runs the model's encoder over all records of a dataset, unless their features are cached already.

    The features are pooled to the `num_ecg_tokens` that the projector reads and stored in the encoder's precision: in
    `DATASET.encoder_features` next to a folder, or in the cache of `datasets` for a repository. The name of the file
    is a hash of the encoder's weights and configuration, of the preprocessing, and of the records. The measured values of
    a model that reads some are in a second file (see [`measurements_file`]).

    Args:
        path: folder or repository of an elm-hf dataset.
        model: the ELM, whose encoder is set to evaluation mode.
        processor: the ELM's processor.
        show_progress: show a progress bar.

    Returns:
        Path of an array `(records, num_ecg_tokens, hidden_size)`; bfloat16 is stored as int16 with the same bits. The
        features of two encoders are joined ([`ElmTwoEncoders`]).

    Raises:
        ValueError: the model has no encoder, or reads signals without one.
    """
    if model.config.encoder_config is None:
        found = "this model reads the signal without an encoder" if model.config.reads_both else "this model has none"
        raise ValueError(f"--cache_encoder keeps the features of an encoder, and {found}.")
    records = load_records(path)
    file = _folder(path) / f"{_key(model, processor, records)}.npy"
    if file.is_file():
        return file
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f"{file.name}.{os.getpid()}.unfinished")
    ecgs, rate = EcgTable(records), records[0]["sampling_rate"]
    model.model.encoder.eval()
    written, measured = None, []
    for start in tqdm(range(0, len(ecgs), BATCH_SIZE), f"Encoder on {path}", disable=not show_progress):
        rows = range(start, min(start + BATCH_SIZE, len(ecgs)))
        batch = [ecgs[row] for row in rows]
        prepared, _ = processor.prepare_ecgs(batch, [rate] * len(batch), [list(LEADS)] * len(batch))
        features = _encode(prepared, model)
        measured.append(prepared.get("ecg_measurements"))
        if written is None:
            shape = (len(ecgs), *features.shape[1:])
            written = np.lib.format.open_memmap(unfinished, mode="w+", dtype=features.dtype, shape=shape)
        written[start : rows.stop] = features
    written.flush()
    if processor.measurements:
        _save_measured(np.concatenate(measured), measurements_file(file))
    unfinished.replace(file)
    return file


def _save_measured(values: np.ndarray, file: Path) -> None:
    unfinished = file.with_name(f"{file.name}.{os.getpid()}.unfinished")
    with unfinished.open("wb") as opened:
        np.save(opened, values)
    unfinished.replace(file)


@torch.no_grad()
def _encode(prepared: dict[str, np.ndarray], model: ElmForCausalLM) -> np.ndarray:
    """Features `(ecgs, num_ecg_tokens, hidden_size)` of prepared ECGs."""
    inputs = {name: torch.from_numpy(values).to(model.device) for name, values in prepared.items()}
    encoded = model.get_ecg_features(**inputs, return_dict=True).last_hidden_state
    # The projector pools first as well; pooling twice changes nothing. Those of two encoders are pooled when joined.
    number = model.config.without_measurements.num_ecg_tokens
    pooled = F.adaptive_avg_pool1d(encoded.transpose(1, 2), number).transpose(1, 2)
    return (pooled.view(torch.int16) if pooled.dtype == torch.bfloat16 else pooled).cpu().contiguous().numpy()


def _folder(path: str) -> Path:
    if Path(path).is_dir():
        folder = Path(path).resolve()
        return folder.with_name(f"{folder.name}.encoder_features")
    return Path(datasets.config.HF_DATASETS_CACHE) / "encoder_features" / path.replace("/", "___")


def _key(model: ElmForCausalLM, processor: BaseElmProcessor, records: Dataset) -> str:
    """16 hexadecimal digits of all that the features depend on."""
    config = model.config
    encoders = [
        one.to_diff_dict() for one in (config.encoder_config, config.picture_encoder_config) if one is not None
    ]
    settings = {
        "encoders": encoders,
        "prepared": {key: value for key, value in processor.to_dict().items() if key not in OF_TEXT},
        "representation": config.representation,
        "num_ecg_tokens": [config.without_measurements.num_ecg_tokens, config.num_picture_tokens],
        "records": records._fingerprint,
        "code": source_digest(__name__),
        "weights": fingerprint_of_weights(model.model.encoder.state_dict(), sampled=False),
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:16]
