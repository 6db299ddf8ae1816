"""Converts published checkpoints of other projects to Hub checkpoints: configuration, safetensors, processor, code."""

from collections.abc import Callable
from os import PathLike
from pathlib import Path

from elm_hf.checkpoints.convert_autoencoder import convert_mlae, convert_mtae, convert_st_mem
from elm_hf.checkpoints.convert_ecg_coca import convert_ecg_coca
from elm_hf.checkpoints.convert_ecg_cpc import convert_ecg_cpc
from elm_hf.checkpoints.convert_ecg_fm import convert_ecg_fm
from elm_hf.checkpoints.convert_ecg_jepa import convert_ecg_jepa
from elm_hf.checkpoints.convert_hubert_ecg import convert_hubert_ecg
from elm_hf.checkpoints.convert_merl import convert_merl
from elm_hf.checkpoints.convert_net1d import convert_clef, convert_ecgfounder
from elm_hf.checkpoints.ecg_byte import read_ecg_byte_pickle
from elm_hf.checkpoints.published_encoders import (
    CLEF,
    ECG_COCA,
    ECG_CPC,
    ECG_FM,
    ECG_JEPA,
    ECGFOUNDER,
    HUBERT_ECG,
    PublishedEncoder,
    encoder_card,
)
from elm_hf.modeling.folder_paths import path_inside
from elm_hf.utils.files import check_free, check_links, save_atomically


# Functions that read a published file (of `FOLDERS` a folder) and return the parts to save; each part has
# `save_pretrained`.
CONVERTERS: dict[str, Callable[[Path], list]] = {
    "st_mem": convert_st_mem,
    "mtae": convert_mtae,
    "mlae": convert_mlae,
    "merl": convert_merl,
    "ecgfounder": convert_ecgfounder,
    "clef": convert_clef,
    "ecg_fm": convert_ecg_fm,
    "hubert_ecg": convert_hubert_ecg,
    "ecg_jepa": convert_ecg_jepa,
    "ecg_cpc": convert_ecg_cpc,
    "ecg_coca": convert_ecg_coca,
    "ecg_byte": lambda path: [read_ecg_byte_pickle(path)],
}
# The encoders whose checkpoints get a card, a model and a feature extractor each.
PUBLISHED_ENCODERS: dict[str, PublishedEncoder] = {
    "ecgfounder": ECGFOUNDER,
    "clef": CLEF,
    "ecg_fm": ECG_FM,
    "hubert_ecg": HUBERT_ECG,
    "ecg_jepa": ECG_JEPA,
    "ecg_cpc": ECG_CPC,
    "ecg_coca": ECG_COCA,
}


# What was published if it is not a file.
FOLDERS = {"hubert_ecg": "folder", "ecg_coca": "file or folder"}


def convert_checkpoint(kind: str, checkpoint: str | PathLike, output: str | PathLike) -> list:
    """
    Converts a published file to a Hub checkpoint.

    Args:
        kind: format of the file, a key of `CONVERTERS`.
        checkpoint: the file or folder as published. No code in it is executed.
        output: folder to create, ready for `from_pretrained(..., trust_remote_code=True)` and for the Hub.

    Returns:
        The parts saved in `output`, such as a model and its feature extractor.

    Raises:
        FileExistsError: `output` exists and is not empty.
        FileNotFoundError: `checkpoint` does not exist.
        ValueError: `kind` is unknown, or the file is a link that leads out of its folder, is damaged, would import code, or has the weights of another model.
    """
    if kind not in CONVERTERS:
        raise ValueError(f'kind "{kind}" is not one of {", ".join(CONVERTERS)}.')
    checkpoint, output = Path(checkpoint), Path(output)
    if not checkpoint.exists():
        raise FileNotFoundError(f"{checkpoint}: no such {FOLDERS.get(kind, 'file')}.")
    if checkpoint.is_dir() and kind not in FOLDERS:
        raise ValueError(f"{checkpoint}: a folder; expected a file, as {kind} was published.")
    path_inside(checkpoint, checkpoint.parent)
    if checkpoint.is_dir():
        check_links(checkpoint)
    check_free(output)
    parts = CONVERTERS[kind](checkpoint)
    card = [encoder_card(output.name, PUBLISHED_ENCODERS[kind], *parts)] if kind in PUBLISHED_ENCODERS else []
    save_atomically([*parts, *card], output)
    return parts
