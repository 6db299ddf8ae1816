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
"""The processor of ECG-language models that read pictures."""

import numpy as np
from transformers import AutoProcessor

from .auto_classes import register
from .feature_extraction_ecg import EcgFeatureExtractor
from .image_processing_ecg import EcgImageProcessor
from .processing_elm_base import ECG_TOKEN, BaseElmProcessor


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
class ElmVisionProcessor(BaseElmProcessor):
    r"""
    Bundles an [`EcgImageProcessor`] and the LLM's tokenizer, for models that read pictures (`"image"`,
    `"stacked_signal"`).

    Args:
        image_processor ([`EcgImageProcessor`]):
            Turns ECGs into the pictures that the vision encoder reads.
        tokenizer (`PreTrainedTokenizerBase`):
            The LLM's fast tokenizer, as for [`ElmProcessor`].
        num_ecg_tokens (`int`, *optional*, defaults to 1):
            Tokens of an ECG: the model's `config.num_ecg_tokens`.
        ecg_token (`str`, *optional*, defaults to `"<|ecg|>"`):
            Placeholder of an ECG.
        chat_template (`str`, *optional*):
            Chat template to use instead of the tokenizer's.
        system_prompt (`str`, *optional*):
            System message of conversations that have none: the one that the model was trained with.
        enable_thinking (`bool`, *optional*, defaults to `False`):
            Whether prompts let the model begin with reasoning: `True` for models trained on answers with reasoning.
        measurements (`list[str]`, *optional*):
            Names of the measured values that the model reads: those of the model's `config.measurements`.
    """

    def __init__(
        self,
        image_processor: EcgImageProcessor,
        tokenizer,
        num_ecg_tokens: int = 1,
        ecg_token: str = ECG_TOKEN,
        chat_template: str | None = None,
        system_prompt: str | None = None,
        enable_thinking: bool = False,
        measurements: list[str] | None = None,
    ):
        self.num_ecg_tokens = num_ecg_tokens
        self.measurements = measurements
        super().__init__(
            tokenizer, ecg_token, chat_template, system_prompt, enable_thinking, image_processor=image_processor
        )

    @property
    def ecg_reader(self) -> EcgFeatureExtractor:
        return self.image_processor.feature_extractor

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "ecg_values", *self.measured_names]

    def prepare_ecgs(
        self,
        ecgs: list,
        sampling_rate,
        lead_names,
        keep_flat: bool | list[bool] = False,
        judge_signal: bool = False,
        measured_ecgs: list | None = None,
    ) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
        pictures = self.image_processor(
            ecgs, sampling_rate, lead_names, keep_flat=keep_flat, judge_signal=judge_signal
        )
        measured = self.measured(measured_ecgs or ecgs, sampling_rate, lead_names)
        return {"ecg_values": pictures["pixel_values"]} | measured, self.placeholders(len(ecgs))


ElmVisionProcessor.register_for_auto_class("AutoProcessor")
# `AutoProcessor` finds the class by the name in `processor_config.json`.
register(AutoProcessor, ElmVisionProcessor, ElmVisionProcessor)

__all__ = ["ElmVisionProcessor"]
