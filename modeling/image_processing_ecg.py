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
"""Turns ECGs into pictures for a vision encoder: drawn on paper, or the signal itself as a picture."""

import warnings
from collections.abc import Sequence
from os import PathLike

import numpy as np
from transformers import AutoImageProcessor, BaseImageProcessor, BatchFeature
from transformers.image_transforms import resize

from .auto_classes import register
from .ecg_leads import LEADS, SAMPLING_RATE, place_leads
from .ecg_pictures import EcgPicture, as_picture, fitted
from .ecg_raster import MM_PER_SECOND, EcgPaper, draw_ecg
from .feature_extraction_ecg import EcgFeatureExtractor, SignalQualityWarning


REPRESENTATIONS = ("image", "stacked_signal")
# Smaller pictures have no room for names and lines: they are drawn at this size or more and then resized.
MIN_DRAWN_SIZE = 160


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
class EcgImageProcessor(BaseImageProcessor):
    r"""
    Turns ECGs in millivolt into the `pixel_values` of a vision encoder (ViT, CLIP, SigLIP, ...), with the encoder's
    own size and normalization: see [`~EcgImageProcessor.from_vision_encoder`].

    `representation="image"` draws the ECG on paper (see [`EcgPaper`] for the scale), at the encoder's size if it has
    room for the names of the leads. `representation="stacked_signal"` takes the signal as a picture of leads x samples
    with three equal channels, from 0 at its smallest value to 255 at its largest, and resizes it (Han et al. 2025,
    ECG-Bench); absent leads are 0.

    With `"image"`, a scan or photograph of an ECG ([`EcgPicture`]) can stand in the place of a signal. It is resized as
    a whole: where its proportions are not those of `size`, it is extended with the colour of its border, so that
    nothing is cut off and a millimetre is as high as it is wide.

    Args:
        representation (`str`, *optional*, defaults to `"image"`):
            `"image"` or `"stacked_signal"`.
        size (`dict[str, int]`, *optional*, defaults to `{"height": 224, "width": 224}`):
            Height and width of the pictures.
        image_mean (`list[float]`, *optional*, defaults to `[0.5, 0.5, 0.5]`):
            Mean of each channel, for values from 0 to 1.
        image_std (`list[float]`, *optional*, defaults to `[0.5, 0.5, 0.5]`):
            Standard deviation of each channel.
        resample (`int`, *optional*, defaults to 2):
            Pillow's resizing filter (2 is bilinear). It averages when it reduces the size.
        sampling_rate (`int`, *optional*, defaults to 250):
            Sampling rate of the model in Hz. ECGs at another rate are resampled.
        num_samples (`int`, *optional*, defaults to 2500):
            Samples per lead of the model. A longer ECG is cropped at the end, a shorter one is refused.
        leads (`list[str]`, *optional*, defaults to the twelve standard leads in standard order):
            Leads of the model: for `"image"` the leads to draw, each in its usual place; for `"stacked_signal"` the
            rows.
        layout (`str`, *optional*, defaults to `"3x4+1"`):
            `"3x4"`: three rows of four leads; `"3x4+1"`: and a rhythm strip below them; `"3x4+3"`: and three rhythm
            strips, V1, II and V5; `"6x2"`: six rows of a limb lead and a chest lead; `"12x1"`: one row per lead.
        rhythm_lead (`str`, *optional*, defaults to `"II"`):
            The lead of the rhythm strip of `"3x4+1"`.
        draw_grid (`bool`, *optional*, defaults to `True`):
            Whether to draw millimetre lines.
        draw_lead_names (`bool`, *optional*, defaults to `True`):
            Whether to write the names of the leads.
        mm_per_mv (`float`, *optional*):
            Amplitude in mm/mV. By default 10 if a row then has room for 3 mV, otherwise 5, 2.5, ...
        mm_per_s (`float`, *optional*, defaults to 25):
            Speed of the paper in mm/s.
        grid_color (`str`, *optional*, defaults to `"red"`):
            Colour of the paper and its lines: `"red"`, `"orange"`, `"green"`, `"blue"` or `"grey"`.

    Raises:
        `ValueError`: If an argument is not one of these choices, or the ECG cannot be drawn at this size.
    """

    model_input_names = ["pixel_values"]

    def __init__(
        self,
        representation: str = "image",
        size: dict[str, int] | None = None,
        image_mean: Sequence[float] = (0.5, 0.5, 0.5),
        image_std: Sequence[float] = (0.5, 0.5, 0.5),
        resample: int = 2,
        sampling_rate: int = SAMPLING_RATE,
        num_samples: int = 2500,
        leads: Sequence[str] = LEADS,
        layout: str = "3x4+1",
        rhythm_lead: str = "II",
        *,
        draw_grid: bool = True,
        draw_lead_names: bool = True,
        mm_per_mv: float | None = None,
        mm_per_s: float = MM_PER_SECOND,
        grid_color: str = "red",
        **kwargs,
    ):
        if representation not in REPRESENTATIONS:
            raise ValueError(f'representation "{representation}" is not one of {", ".join(REPRESENTATIONS)}.')
        super().__init__(**kwargs)
        self.representation = representation
        self.size = {"height": 224, "width": 224} if size is None else dict(size)
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)
        self.resample = int(resample)
        self.sampling_rate = sampling_rate
        self.num_samples = num_samples
        self.leads = list(leads)
        self.layout = layout
        self.rhythm_lead = rhythm_lead
        self.draw_grid = draw_grid
        self.draw_lead_names = draw_lead_names
        self.mm_per_mv = mm_per_mv
        self.mm_per_s = mm_per_s
        self.grid_color = grid_color
        if set(self.size) != {"height", "width"}:
            raise ValueError(f'size must be {{"height": ..., "width": ...}}, got {size}.')
        EcgPaper(seconds=num_samples / sampling_rate, **self._paper)  # raises if it cannot be drawn

    # trf-ignore: TRF057 (auto_docstring describes the library's own models only)
    @classmethod
    def from_dict(cls, image_processor_dict: dict, **kwargs):
        # Processors that were saved before `mm_per_s` existed call the layout with a rhythm strip "3x4".
        if "mm_per_s" not in image_processor_dict and image_processor_dict.get("layout") == "3x4":
            image_processor_dict = image_processor_dict | {"layout": "3x4+1"}
        return super().from_dict(image_processor_dict, **kwargs)

    @classmethod
    def from_vision_encoder(cls, vision_encoder: str | PathLike | BaseImageProcessor, **kwargs) -> "EcgImageProcessor":
        r"""
        The processor for a vision encoder, with the size, mean, standard deviation and resizing filter of the
        encoder's own image processor. For an encoder of flexible size (SigLIP 2) the size is the largest square.

        Args:
            vision_encoder (`str`, `os.PathLike` or `BaseImageProcessor`):
                Name or folder of the encoder's checkpoint, or its image processor.
            kwargs:
                Other arguments of [`EcgImageProcessor`].

        Raises:
            `ValueError`: If the encoder's image processor does not rescale to 0 ... 1 and normalize, or has no height
                and width.
        """
        if isinstance(vision_encoder, str | PathLike):
            vision_encoder = AutoImageProcessor.from_pretrained(vision_encoder)
        settings = vision_encoder.to_dict()
        if not (settings.get("do_normalize") and settings.get("do_rescale")) or settings["rescale_factor"] != 1 / 255:
            raise ValueError(
                f"{settings['image_processor_type']} does not normalize pictures of values from 0 to 1 (do_rescale="
                f"{settings.get('do_rescale')}, rescale_factor={settings.get('rescale_factor')}, do_normalize="
                f"{settings.get('do_normalize')}): give EcgImageProcessor size, image_mean and image_std yourself."
            )
        return cls(
            **{
                "size": _input_size(settings),
                "image_mean": settings["image_mean"],
                "image_std": settings["image_std"],
                "resample": settings["resample"],
            }
            | kwargs
        )

    # trf-ignore: TRF057 (auto_docstring describes the library's own models only)
    def preprocess(
        self,
        ecg,
        sampling_rate: float | Sequence[float | None] | None = None,
        lead_names: Sequence | None = None,
        return_tensors: str | None = None,
        *,
        keep_flat: bool | Sequence[bool] = False,
        judge_signal: bool = False,
    ) -> BatchFeature:
        r"""
        Prepares one ECG or several. Calling the processor does the same. ECGs are read as by [`EcgFeatureExtractor`].

        Args:
            ecg, sampling_rate, lead_names, keep_flat, judge_signal:
                As for [`EcgFeatureExtractor`]. An [`EcgPicture`], a picture of Pillow or the path of a picture can
                stand in the place of a signal; a blank one is warned of.
            return_tensors (`str`, *optional*):
                `"pt"` or `"np"`.

        Returns:
            [`BatchFeature`] with `pixel_values` of shape `(num_ecgs, 3, height, width)`, float32.

        Raises:
            `ValueError`: If an ECG is not as described. The message gives its position.
        """
        pictures = self.draw(ecg, sampling_rate, lead_names, keep_flat=keep_flat, judge_signal=judge_signal)
        return BatchFeature({"pixel_values": self.normalize(pictures)}, tensor_type=return_tensors)

    def __call__(
        self, ecg, sampling_rate=None, lead_names=None, return_tensors: str | None = None, **settings
    ) -> BatchFeature:
        return self.preprocess(ecg, sampling_rate, lead_names, return_tensors, **settings)

    @property
    def feature_extractor(self) -> EcgFeatureExtractor:
        """Reads the ECGs to draw, in millivolt."""
        return EcgFeatureExtractor(self.sampling_rate, self.num_samples, self.leads, normalization="none")

    def draw(
        self, ecg, sampling_rate=None, lead_names=None, *, keep_flat=False, judge_signal: bool = False
    ) -> np.ndarray:
        r"""
        Draws ECGs without normalizing the pictures. Given pictures are resized.

        Args:
            ecg, sampling_rate, lead_names, keep_flat, judge_signal:
                As for [`~EcgImageProcessor.preprocess`].

        Returns:
            `np.ndarray` of shape `(num_ecgs, height, width, 3)`, uint8, RGB.

        Raises:
            `ValueError`: If an ECG is not as described. The message gives its position.
        """
        ecgs = list(ecg) if isinstance(ecg, list | tuple) or getattr(ecg, "ndim", 2) == 3 else [ecg]
        given = {index: picture for index, one in enumerate(ecgs) if (picture := as_picture(one)) is not None}
        signals = [index for index in range(len(ecgs)) if index not in given]
        pictures = np.empty((len(ecgs), self.size["height"], self.size["width"], 3), np.uint8)
        resized = {}
        for index, picture in given.items():
            key = id(picture.image) if isinstance(picture.image, np.ndarray) else str(picture.image)
            if key not in resized:  # many questions are about one ECG
                resized[key] = self._take(picture, f"ECG {index + 1} of {len(ecgs)}", judge_signal)
            pictures[index] = resized[key]
        if signals:
            if given:
                sampling_rate, keep_flat = (_selected(values, signals) for values in (sampling_rate, keep_flat))
                if lead_names is not None and any(not isinstance(name, str) for name in lead_names):
                    lead_names = _selected(lead_names, signals)
                ecg = [ecgs[index] for index in signals]
            prepared = self.feature_extractor(
                ecg, sampling_rate, lead_names, keep_flat=keep_flat, judge_signal=judge_signal
            )
            draw_one = self._draw_on_paper if self.representation == "image" else self._stack
            for index, values, is_present in zip(signals, prepared["ecg_values"], prepared["ecg_lead_mask"]):
                pictures[index] = draw_one(values, is_present)
        return pictures

    def _take(self, picture: EcgPicture, position: str, judge: bool) -> np.ndarray:
        """A given picture at the size of the encoder, `(height, width, 3)`."""
        if self.representation != "image":
            raise ValueError(
                f"{position}: {picture.name} is a picture, and this model reads signals as pictures "
                f'("{self.representation}"). Give it the recording, or the picture to a model of drawn ECGs ("image").'
            )
        try:
            problems = picture.problems() if judge else []
        except ValueError as error:
            raise ValueError(f"{position}: {error}") from error
        if problems:
            warnings.warn(SignalQualityWarning(f"{position} ({picture.name}): {'; '.join(problems)}"), stacklevel=4)
        return self._resize(fitted(picture.pixels, self.size["height"], self.size["width"]))

    def normalize(self, pictures: np.ndarray) -> np.ndarray:
        r"""
        Normalizes pictures with the mean and standard deviation of the encoder.

        Args:
            pictures (`np.ndarray` of shape `(num_ecgs, height, width, 3)`):
                Pictures, uint8, RGB.

        Returns:
            `np.ndarray` of shape `(num_ecgs, 3, height, width)`, float32.
        """
        values = np.empty((len(pictures), 3, *pictures.shape[1:3]), np.float32)
        for channel, (mean, std) in enumerate(zip(self.image_mean, self.image_std)):
            np.multiply(pictures[..., channel], np.float32(1 / 255 / std), out=values[:, channel])
            values[:, channel] -= np.float32(mean / std)
        return values

    @property
    def _paper(self) -> dict:
        """Arguments of [`EcgPaper`]: its size is `size`, or a multiple of it if that has no room for the names."""
        times = -(-MIN_DRAWN_SIZE // min(self.size["height"], self.size["width"]))
        return {
            "height": times * self.size["height"],
            "width": times * self.size["width"],
            "layout": self.layout,
            "rhythm_lead": self.rhythm_lead,
            "grid": self.draw_grid,
            "names": self.draw_lead_names,
            "mm_per_mv": self.mm_per_mv,
            "mm_per_s": self.mm_per_s,
            "grid_color": self.grid_color,
        }

    def _draw_on_paper(self, ecg: np.ndarray, is_present: np.ndarray) -> np.ndarray:
        ecg, _ = place_leads(np.where(is_present[:, None], ecg, np.float32(np.nan)), self.leads)
        return self._resize(draw_ecg(ecg, self.sampling_rate, **self._paper))

    def _stack(self, ecg: np.ndarray, is_present: np.ndarray) -> np.ndarray:
        least, greatest = ecg[is_present].min(), ecg[is_present].max()
        levels = 255 * (ecg - least) / max(greatest - least, np.float32(1e-6))
        levels[~is_present] = 0
        return self._resize(np.repeat(levels.astype(np.uint8)[:, :, None], 3, axis=2))

    def _resize(self, picture: np.ndarray) -> np.ndarray:
        size = (self.size["height"], self.size["width"])
        if picture.shape[:2] == size:
            return picture
        return resize(picture, size, self.resample, input_data_format="channels_last")


def _selected(values, indices: Sequence[int]):
    """The values of some ECGs, where there is a value for each one."""
    return [values[index] for index in indices] if isinstance(values, list | tuple) else values


def _input_size(settings: dict) -> dict[str, int]:
    """Height and width of the pictures that an image processor with these settings returns."""
    if settings.get("max_num_patches"):
        side = int(settings["max_num_patches"] ** 0.5) * settings["patch_size"]
        return {"height": side, "width": side}
    size = dict(settings["crop_size"] if settings.get("do_center_crop") else settings["size"])
    if "shortest_edge" in size:
        return {"height": size["shortest_edge"], "width": size["shortest_edge"]}
    if not {"height", "width"} <= size.keys():
        raise ValueError(
            f"{settings['image_processor_type']} has size={size}, from which no height and width follow: give "
            "EcgImageProcessor size, image_mean and image_std yourself."
        )
    return {"height": size["height"], "width": size["width"]}


EcgImageProcessor.register_for_auto_class("AutoImageProcessor")
# `AutoImageProcessor` finds the class by the name in its JSON file.
register(AutoImageProcessor, EcgImageProcessor, slow_image_processor_class=EcgImageProcessor)

__all__ = ["EcgImageProcessor"]
