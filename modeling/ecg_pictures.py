# Copyright 2026 The elm-hf authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Scans and photographs of ECGs, which models of drawn ECGs read in the place of signals."""

import os
from functools import cached_property
from os import PathLike

import numpy as np

from .ecg_download import is_url


PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif")
# Range of the grey values (0 to 255), without the darkest and lightest thousandth, below which a picture is blank.
LEAST_CONTRAST = 20
# The names of the leads cannot be read in pictures with a side of fewer pixels.
LEAST_SIDE = 100


class EcgPicture:
    r"""
    A picture of an ECG, such as a scan or a photograph, in the place of a signal.

    Args:
        image (`str`, `os.PathLike`, `PIL.Image.Image` or `np.ndarray`):
            File with the picture, a picture of Pillow, or an array of shape `(height, width, 3)`, uint8, RGB.

    Raises:
        `ValueError`: If `image` is none of these, or an address.
    """

    def __init__(self, image):
        is_array = isinstance(image, np.ndarray)
        if is_array and (image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0):
            raise ValueError(
                f"a picture as an array has the shape (height, width, 3) and is uint8; this one is {image.shape} and "
                f"{image.dtype}."
            )
        if not (is_array or isinstance(image, str | PathLike) or _is_pillow_image(image)):
            raise ValueError(
                f"a picture is a file, a picture of Pillow, or an array (height, width, 3); got {type(image).__name__}."
            )
        if isinstance(image, str | PathLike) and is_url(image):
            raise ValueError(f"{image}: pictures are read from files; download it first.")
        self.image = image

    @property
    def name(self) -> str:
        """The path of a file; `"the image that was given"` otherwise."""
        return str(self.image) if isinstance(self.image, str | PathLike) else "the image that was given"

    @cached_property
    def pixels(self) -> np.ndarray:
        r"""
        The picture of shape `(height, width, 3)`, uint8, RGB: turned as its camera noted (Exif), on white where it is
        transparent.

        Raises:
            `FileNotFoundError`: If there is no such file.
            `ValueError`: If the file is no picture, damaged, or has several pages.
            `ImportError`: If Pillow is not installed.
        """
        if isinstance(self.image, np.ndarray):
            return self.image
        try:
            from PIL import Image
        except ImportError as error:
            raise ImportError("reading a picture of an ECG needs Pillow: pip install Pillow") from error
        image = self.image
        if isinstance(image, str | PathLike):
            if not os.path.isfile(image):
                raise FileNotFoundError(f"{image}: no such file")
            try:
                image = Image.open(image)
                image.load()
            except Exception as error:  # whatever a damaged file makes Pillow raise
                said = (
                    "is not a picture" if isinstance(error, Image.UnidentifiedImageError) else f"is damaged ({error})"
                )
                raise ValueError(f"{self.name}: {said}; expected PNG, JPEG, TIFF, BMP, GIF or WebP.") from error
            pages = getattr(image, "n_frames", 1)
            if pages > 1 and image.format != "MPO":  # a photograph, and a smaller one for its preview
                raise ValueError(f"{self.name}: has {pages} pages; save the page with the ECG as a file of its own.")
        return _rgb(image, self.name)

    def problems(self) -> list[str]:
        """What makes answers about the picture doubtful: it is blank, or has few pixels. Empty if nothing does."""
        height, width = self.pixels.shape[:2]
        step = max(1, min(height, width) // 1000)
        grey = self.pixels[::step, ::step].mean(axis=2)
        low, high = np.quantile(grey, [0.001, 0.999])
        found = ["the picture is blank"] if high - low < LEAST_CONTRAST else []
        if min(height, width) < LEAST_SIDE:
            found.append(f"the picture has only {width} x {height} pixels")
        return found


def as_picture(ecg) -> EcgPicture | None:
    r"""
    The picture that is given as an ECG.

    Args:
        ecg:
            An [`EcgPicture`], a picture of Pillow, the path of a file whose name ends like that of a picture; or
            anything else.

    Returns:
        [`EcgPicture`], or `None` for anything else.
    """
    if isinstance(ecg, EcgPicture):
        return ecg
    is_file = isinstance(ecg, str | PathLike) and os.fspath(ecg).lower().endswith(PICTURE_SUFFIXES)
    return EcgPicture(ecg) if is_file or _is_pillow_image(ecg) else None


def given_ecg(item: dict):
    r"""
    The ECG of an `{"type": "ecg"}` item.

    Args:
        item (`dict`):
            The item, with `"ecg"` (an array, a path or an address), `"path"` or `"url"`; or with `"image"`, a picture of
            an ECG (its path, a picture of Pillow, or an array `(height, width, 3)`). `None` stands for no value, as in
            rows of a dataset.

    Returns:
        The array, path or address, or an [`EcgPicture`]; `None` if there is none.

    Raises:
        `ValueError`: If the item has several of them.
    """
    given = [name for name in ("ecg", "path", "url", "image") if item.get(name) is not None]
    if len(given) > 1:
        raise ValueError(f'An ECG item needs one of "ecg", "path", "url" and "image", got {", ".join(given)}.')
    if given == ["image"]:
        return item["image"] if isinstance(item["image"], EcgPicture) else EcgPicture(item["image"])
    return item[given[0]] if given else None


def fitted(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    r"""
    Extends a picture to the proportions of `height` and `width`, so that resizing to them keeps a millimetre as high as
    it is wide and cuts nothing off. What is added has the median colour of the picture's border.

    Args:
        pixels (`np.ndarray` of shape `(rows, columns, 3)`):
            The picture, uint8.
        height, width (`int`):
            The proportions.

    Returns:
        `np.ndarray`: The picture in the middle of the extended one, uint8.
    """
    rows, columns = pixels.shape[:2]
    new_rows = max(rows, round(columns * height / width))
    new_columns = max(columns, round(rows * width / height))
    if (new_rows, new_columns) == (rows, columns):
        return pixels
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    extended = np.empty((new_rows, new_columns, 3), np.uint8)
    extended[:] = np.median(border, axis=0).astype(np.uint8)
    top, left = (new_rows - rows) // 2, (new_columns - columns) // 2
    extended[top : top + rows, left : left + columns] = pixels
    return extended


def _is_pillow_image(image) -> bool:
    return any(f"{kind.__module__}.{kind.__name__}" == "PIL.Image.Image" for kind in type(image).__mro__)


def _rgb(image, name: str) -> np.ndarray:
    """A picture of Pillow as `(height, width, 3)`, uint8."""
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits per pixel
        image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
    if image.mode == "F":
        raise ValueError(f"{name}: has floating-point values; save it with 8 bits per channel.")
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))


__all__ = ["PICTURE_SUFFIXES", "EcgPicture", "as_picture", "fitted", "given_ecg"]
