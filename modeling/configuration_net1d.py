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
"""Configuration of Net1D, the network of ECGFounder and CLEF."""

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from .auto_classes import register


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
@strict
class Net1DConfig(PreTrainedConfig):
    r"""
    Configuration of [`Net1DModel`] and [`Net1DForSequenceClassification`]: the convolutional network of ECGFounder (Li
    et al. 2025, An Electrocardiogram Foundation Model Built on over 10 Million Recordings) and CLEF (Shu et al. 2025,
    Clinically-Guided Contrastive Learning for Electrocardiogram Foundation Models). The defaults are ECGFounder's with
    twelve leads.

    Args:
        num_leads (`int`, *optional*, defaults to 12):
            Number of leads that the network reads together, all of an ECG. With 1 it encodes each lead of an ECG by
            itself, with the same weights.
        num_samples (`int`, *optional*, defaults to 5000):
            Number of samples of an ECG in training: 10 s at 500 Hz. The network takes other lengths, too.
        embedding_size (`int`, *optional*, defaults to 64):
            Number of channels of the first convolution; 32 in CLEF small, 128 in CLEF large.
        hidden_sizes (`list[int]`, *optional*, defaults to `[64, 160, 160, 400, 400, 1024, 1024]`):
            Number of channels of each stage. They must not decrease.
        depths (`list[int]`, *optional*, defaults to `[2, 2, 2, 3, 3, 4, 4]`):
            Number of blocks of each stage.
        bottleneck_ratio (`float`, *optional*, defaults to 1.0):
            Channels inside a block, relative to those of its output; 0.5 in CLEF small, 1.5 in CLEF large.
        group_size (`int`, *optional*, defaults to 16):
            Divisor of the output channels of a block that gives the number of groups of its middle convolution; 8 in
            CLEF small, 32 in CLEF large.
        kernel_size (`int`, *optional*, defaults to 16):
            Kernel size of the first convolution and of the middle convolution of each block.
        pretraining_data (`list[str]`, *optional*):
            Names of the datasets on which the weights were trained.
        license (`str`, *optional*):
            Licence of the weights.

    Raises:
        `ValueError`: If the stages do not agree, or their channels cannot be grouped.
    """

    model_type = "net1d"

    num_leads: int = 12
    num_samples: int = 5000
    embedding_size: int = 64
    hidden_sizes: list[int] | tuple[int, ...] = (64, 160, 160, 400, 400, 1024, 1024)
    depths: list[int] | tuple[int, ...] = (2, 2, 2, 3, 3, 4, 4)
    bottleneck_ratio: float | int = 1.0
    group_size: int = 16
    kernel_size: int = 16
    pretraining_data: list[str] | tuple[str, ...] = ()
    license: str | None = None

    def __post_init__(self, **kwargs):
        self.hidden_sizes = list(self.hidden_sizes)
        self.depths = list(self.depths)
        self.pretraining_data = list(self.pretraining_data)
        super().__post_init__(**kwargs)
        # A checkpoint can be loaded with both Auto classes, whichever of the two models saved it.
        self.auto_map = {
            "AutoConfig": "configuration_net1d.Net1DConfig",
            "AutoModel": "modeling_net1d.Net1DModel",
            "AutoModelForSequenceClassification": "modeling_net1d.Net1DForSequenceClassification",
        }

    def validate_stages(self):
        """Widths and depths must agree, shortcuts pad channels with zeros, and groups divide the channels."""
        if len(self.hidden_sizes) != len(self.depths):
            raise ValueError(
                f"`hidden_sizes` has {len(self.hidden_sizes)} stages and `depths` has {len(self.depths)}: expected equal "
                "numbers."
            )
        widths = [self.embedding_size, *self.hidden_sizes]
        if widths != sorted(widths):
            raise ValueError(
                f"`hidden_sizes` {self.hidden_sizes} must not decrease, nor begin below embedding_size="
                f"{self.embedding_size}: shortcuts can only add channels."
            )
        for width in self.hidden_sizes:
            groups, channels = width // self.group_size, self.inner_channels(width)
            if groups < 1 or channels % groups:
                raise ValueError(
                    f"The {channels} inner channels of a block of width {width} cannot be divided into {groups} groups "
                    f"(bottleneck_ratio={self.bottleneck_ratio}, group_size={self.group_size})."
                )

    def inner_channels(self, width: int) -> int:
        r"""
        Number of channels inside a block.

        Args:
            width (`int`):
                Number of channels of its output.
        """
        return int(width * self.bottleneck_ratio)

    @property
    def hidden_size(self) -> int:
        """Width of `last_hidden_state`."""
        return self.hidden_sizes[-1]


Net1DConfig.register_for_auto_class()
register(AutoConfig, Net1DConfig.model_type, Net1DConfig)

__all__ = ["Net1DConfig"]
