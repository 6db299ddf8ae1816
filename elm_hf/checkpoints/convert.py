"""Turns published checkpoints of other projects into Hub checkpoints: configuration, safetensors, processor and code."""

from collections.abc import Callable
from os import PathLike
from pathlib import Path

from elm_hf.checkpoints.convert_autoencoder import convert_mlae, convert_mtae, convert_st_mem
from elm_hf.checkpoints.convert_merl import convert_merl
from elm_hf.checkpoints.ecg_byte import read_ecg_byte_pickle
from elm_hf.utils.files import check_free, save_whole


# From a published file to what is saved; each part has `save_pretrained`.
CONVERTERS: dict[str, Callable[[Path], list]] = {
    "st_mem": convert_st_mem,
    "mtae": convert_mtae,
    "mlae": convert_mlae,
    "merl": convert_merl,
    "ecg_byte": lambda path: [read_ecg_byte_pickle(path)],
}


def convert_checkpoint(kind: str, checkpoint: str | PathLike, output: str | PathLike) -> list:
    """
    Converts one published file.

    Args:
        kind: which project's: a key of `CONVERTERS`.
        checkpoint: the file as published. It is read without running anything that it may contain.
        output: folder to make, ready for `from_pretrained(..., trust_remote_code=True)` and for the Hub.

    Returns:
        What was saved in `output`: a model and its feature extractor, say.

    Raises:
        FileExistsError: `output` is there and not empty.
        FileNotFoundError: there is no such checkpoint.
        ValueError: an unknown kind; a file that is damaged, wants to import code, or holds other weights than `kind`'s.
    """
    if kind not in CONVERTERS:
        raise ValueError(f'kind "{kind}" is not one of {", ".join(CONVERTERS)}.')
    checkpoint, output = Path(checkpoint), Path(output)
    if not checkpoint.is_file():
        raise FileNotFoundError(f"{checkpoint}: no such file.")
    check_free(output)
    parts = CONVERTERS[kind](checkpoint)
    save_whole(parts, output)
    return parts
