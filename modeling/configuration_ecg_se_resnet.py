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
"""Configuration of the lead-aware squeeze-and-excitation ResNet encoder."""

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from .auto_classes import register


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
@strict
class EcgSeResNetConfig(PreTrainedConfig):
    r"""
    Configuration of [`EcgSeResNetModel`]: a one-dimensional residual network (He et al. 2016) with squeeze and
    excitation (Hu et al. 2018) that reads all leads together. It is made for records at 100 Hz, where it has 3.6
    million parameters and reads 10 s as 63 tokens.

    Args:
        num_leads (`int`, *optional*, defaults to 12):
            Number of leads.
        hidden_sizes (`list[int]`, *optional*, defaults to `[64, 128, 256, 384]`):
            Number of channels of each stage. The stem has as many as the first.
        depths (`list[int]`, *optional*, defaults to `[2, 2, 2, 2]`):
            Number of residual blocks of each stage.
        kernel_sizes (`list[int]`, *optional*, defaults to `[7, 7, 5, 3]`):
            Kernel size of the convolutions of each stage. They must be odd.
        stem_kernel_size (`int`, *optional*, defaults to 15):
            Kernel size of the stem convolution. It must be odd.
        squeeze_ratio (`int`, *optional*, defaults to 8):
            Number of channels for each channel of the squeezed description.
        hidden_act (`str`, *optional*, defaults to `"silu"`):
            Activation function.
        classifier_dropout (`float`, *optional*, defaults to 0.3):
            Dropout of the classifier.

    Raises:
        `ValueError`: If `hidden_sizes`, `depths` and `kernel_sizes` differ in length, or a kernel size is even.
    """

    model_type = "ecg_se_resnet"

    num_leads: int = 12
    hidden_sizes: list[int] | tuple[int, ...] = (64, 128, 256, 384)
    depths: list[int] | tuple[int, ...] = (2, 2, 2, 2)
    kernel_sizes: list[int] | tuple[int, ...] = (7, 7, 5, 3)
    stem_kernel_size: int = 15
    squeeze_ratio: int = 8
    hidden_act: str = "silu"
    classifier_dropout: float = 0.3

    def __post_init__(self, **kwargs):
        self.hidden_sizes = list(self.hidden_sizes)
        self.depths = list(self.depths)
        self.kernel_sizes = list(self.kernel_sizes)
        super().__post_init__(**kwargs)
        # A checkpoint can be loaded with both Auto classes, whichever of the two models saved it.
        self.auto_map = {
            "AutoConfig": "configuration_ecg_se_resnet.EcgSeResNetConfig",
            "AutoModel": "modeling_ecg_se_resnet.EcgSeResNetModel",
            "AutoModelForSequenceClassification": "modeling_ecg_se_resnet.EcgSeResNetForSequenceClassification",
        }

    def validate_stages(self):
        """Each stage needs a width, a depth and a kernel size. Odd kernels keep the samples centred."""
        lengths = {name: len(getattr(self, name)) for name in ("hidden_sizes", "depths", "kernel_sizes")}
        if len(set(lengths.values())) > 1:
            found = ", ".join(f"`{name}` {length}" for name, length in lengths.items())
            raise ValueError(f"The number of stages differs: {found}.")
        even = [size for size in [self.stem_kernel_size, *self.kernel_sizes] if size % 2 == 0]
        if even:
            raise ValueError(f"`stem_kernel_size` and `kernel_sizes` must be odd, got {even[0]}.")

    @property
    def hidden_size(self) -> int:
        """Width of `last_hidden_state`."""
        return self.hidden_sizes[-1]


EcgSeResNetConfig.register_for_auto_class()
register(AutoConfig, EcgSeResNetConfig.model_type, EcgSeResNetConfig)

__all__ = ["EcgSeResNetConfig"]
