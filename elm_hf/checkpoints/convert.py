"""Converts published checkpoints of other projects to Hub checkpoints: configuration, safetensors, processor, code."""

from collections.abc import Callable
from os import PathLike
from pathlib import Path

from elm_hf.checkpoints.convert_autoencoder import convert_mlae, convert_mtae, convert_st_mem
from elm_hf.checkpoints.convert_merl import convert_merl
from elm_hf.checkpoints.ecg_byte import read_ecg_byte_pickle
from elm_hf.utils.files import check_free, save_atomically


# Functions that read a published file and return the parts to save; each part has `save_pretrained`.
CONVERTERS: dict[str, Callable[[Path], list]] = {
    "st_mem": convert_st_mem,
    "mtae": convert_mtae,
    "mlae": convert_mlae,
    "merl": convert_merl,
    "ecg_byte": lambda path: [read_ecg_byte_pickle(path)],
}


def convert_checkpoint(kind: str, checkpoint: str | PathLike, output: str | PathLike) -> list:
    """
    Converts a published file to a Hub checkpoint.

    Args:
        kind: format of the file, a key of `CONVERTERS`.
        checkpoint: the file as published. No code in it is executed.
        output: folder to create, ready for `from_pretrained(..., trust_remote_code=True)` and for the Hub.

    Returns:
        The parts saved in `output`, such as a model and its feature extractor.

    Raises:
        FileExistsError: `output` exists and is not empty.
        FileNotFoundError: `checkpoint` does not exist.
        ValueError: `kind` is unknown, or the file is damaged, would import code, or has the weights of another model.
    """
    if kind not in CONVERTERS:
        raise ValueError(f'kind "{kind}" is not one of {", ".join(CONVERTERS)}.')
    checkpoint, output = Path(checkpoint), Path(output)
    if not checkpoint.is_file():
        raise FileNotFoundError(f"{checkpoint}: no such file.")
    check_free(output)
    parts = CONVERTERS[kind](checkpoint)
    save_atomically(parts, output)
    return parts
