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
"""Configuration of the lead-agnostic 1-D ResNet encoder."""

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from .auto_classes import register


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
@strict
class EcgResNetConfig(PreTrainedConfig):
    r"""
    Configuration of [`EcgResNetModel`]: a ResNet-18 with one-dimensional convolutions that reads every lead with the
    same weights (He et al. 2016 for the network; Yang et al. 2024, ECG-LM, for its use on single leads). With
    `num_leads` it also knows which lead it reads.

    Args:
        embedding_size (`int`, *optional*, defaults to 64):
            Number of channels of the stem convolution.
        hidden_sizes (`list[int]`, *optional*, defaults to `[64, 128, 256, 512]`):
            Number of channels of each stage.
        depths (`list[int]`, *optional*, defaults to `[2, 2, 2, 2]`):
            Number of residual blocks of each stage.
        stem_kernel_size (`int`, *optional*, defaults to 7):
            Kernel size of the stem convolution. It must be odd.
        kernel_size (`int`, *optional*, defaults to 3):
            Kernel size of the convolutions of the blocks. It must be odd.
        hidden_act (`str`, *optional*, defaults to `"relu"`):
            Activation function.
        num_leads (`int`, *optional*, defaults to 0):
            Number of leads with an embedding of their own, which is added to the output of the stem. 0 is the encoder
            of ECG-LM: it takes any number of leads, and exchanging leads does not change its output.

    Raises:
        `ValueError`: If `hidden_sizes` and `depths` differ in length, or a kernel size is even.
    """

    model_type = "ecg_resnet"

    embedding_size: int = 64
    hidden_sizes: list[int] | tuple[int, ...] = (64, 128, 256, 512)
    depths: list[int] | tuple[int, ...] = (2, 2, 2, 2)
    stem_kernel_size: int = 7
    kernel_size: int = 3
    hidden_act: str = "relu"
    num_leads: int = 0

    def __post_init__(self, **kwargs):
        self.hidden_sizes = list(self.hidden_sizes)
        self.depths = list(self.depths)
        super().__post_init__(**kwargs)
        # A checkpoint can be loaded with both Auto classes, whichever of the two models saved it.
        self.auto_map = {
            "AutoConfig": "configuration_ecg_resnet.EcgResNetConfig",
            "AutoModel": "modeling_ecg_resnet.EcgResNetModel",
            "AutoModelForSequenceClassification": "modeling_ecg_resnet.EcgResNetForSequenceClassification",
        }

    def validate_stages(self):
        """Each stage needs a width and a depth. Odd kernels keep the samples centred."""
        if len(self.hidden_sizes) != len(self.depths):
            raise ValueError(
                f"`hidden_sizes` has {len(self.hidden_sizes)} stages and `depths` has {len(self.depths)}: expected equal "
                "numbers."
            )
        if self.stem_kernel_size % 2 == 0 or self.kernel_size % 2 == 0:
            raise ValueError(
                f"`stem_kernel_size` ({self.stem_kernel_size}) and `kernel_size` ({self.kernel_size}) must be odd."
            )

    @property
    def hidden_size(self) -> int:
        """Width of `last_hidden_state`."""
        return self.hidden_sizes[-1]


EcgResNetConfig.register_for_auto_class()
register(AutoConfig, EcgResNetConfig.model_type, EcgResNetConfig)

__all__ = ["EcgResNetConfig"]
