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
"""The processor of ECG-language models that read the signal of an ECG and its picture."""

import warnings

import numpy as np
from transformers import AutoProcessor

from .auto_classes import register
from .ecg_modalities import EcgModalities
from .ecg_pictures import as_picture
from .feature_extraction_ecg import EcgFeatureExtractor, MissingLeadsWarning
from .image_processing_ecg import EcgImageProcessor
from .processing_elm_base import ECG_TOKEN, BaseElmProcessor


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
class ElmSignalVisionProcessor(BaseElmProcessor):
    r"""
    Bundles an [`EcgFeatureExtractor`], an [`EcgImageProcessor`] and the LLM's tokenizer, for models that read the
    signal of an ECG and its picture (`["signal", "image"]`).

    The picture is drawn from the signal. A scan or photograph ([`EcgPicture`]) is a picture without a signal. If an item
    of a message has `"signal"` and `"picture"` in the place of `"ecg"`, they are read separately, and one of them may be
    left out.

    Args:
        feature_extractor ([`EcgFeatureExtractor`]):
            Prepares the signals.
        image_processor ([`EcgImageProcessor`]):
            Turns ECGs into the pictures that the vision encoder reads.
        tokenizer (`PreTrainedTokenizerBase`):
            The LLM's fast tokenizer, as for [`ElmProcessor`].
        num_ecg_tokens (`int`, *optional*, defaults to 2):
            Tokens of an ECG, those of its picture included: the model's `config.num_ecg_tokens`.
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

    reads_both = True

    def __init__(
        self,
        feature_extractor: EcgFeatureExtractor,
        image_processor: EcgImageProcessor,
        tokenizer,
        num_ecg_tokens: int = 2,
        ecg_token: str = ECG_TOKEN,
        chat_template: str | None = None,
        system_prompt: str | None = None,
        enable_thinking: bool = False,
        measurements: list[str] | None = None,
    ):
        self.num_ecg_tokens = num_ecg_tokens
        self.measurements = measurements
        super().__init__(
            tokenizer,
            ecg_token,
            chat_template,
            system_prompt,
            enable_thinking,
            feature_extractor=feature_extractor,
            image_processor=image_processor,
        )

    @property
    def model_input_names(self) -> list[str]:
        of_signals = self.feature_extractor.model_input_names
        read = [*of_signals, "ecg_pictures", "ecg_modality_mask", *self.measured_names]
        return ["input_ids", "attention_mask", *read]

    def prepare_ecgs(
        self,
        ecgs: list,
        sampling_rate,
        lead_names,
        keep_flat: bool | list[bool] = False,
        judge_signal: bool = False,
        measured_ecgs: list | None = None,
    ) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
        given = [_modalities(ecg) for ecg in ecgs]
        is_given = np.array([[one.signal is not None, one.picture is not None] for one in given])
        described = (sampling_rate, lead_names, keep_flat)
        signals = self._prepared(
            self.feature_extractor, [one.signal for one in given], *described, judge_signal=judge_signal
        )
        if signals is None:
            shape = (len(given), len(self.leads))
            signals = {
                "ecg_values": np.zeros((*shape, self.feature_extractor.num_samples), np.float32),
                "ecg_lead_mask": np.ones(shape, dtype=bool),
            }
        with warnings.catch_warnings():
            if is_given[:, 0].any():  # said of the signals
                warnings.filterwarnings("ignore", category=MissingLeadsWarning)
            pictures = self._prepared(
                self.image_processor,
                [one.picture for one in given],
                *described,
                judge_signal=judge_signal and not is_given[:, 0].any(),
            )
        if pictures is None:
            size = self.image_processor.size
            pictures = {"pixel_values": np.zeros((len(given), 3, size["height"], size["width"]), np.float32)}
        read = {"ecg_pictures": pictures["pixel_values"], "ecg_modality_mask": is_given}
        measured = self.measured(measured_ecgs or given, sampling_rate, lead_names)
        return signals | read | measured, self.placeholders(len(ecgs))

    @staticmethod
    def _prepared(
        prepare, ecgs: list, sampling_rate, lead_names, keep_flat, judge_signal: bool
    ) -> dict[str, np.ndarray] | None:
        """The inputs of the model for the ECGs, with zeros for absent ones (`None`); `None` if all are absent."""
        number, present = len(ecgs), [index for index, ecg in enumerate(ecgs) if ecg is not None]
        if not present:
            return None
        if len(present) < number:
            ecgs, sampling_rate, keep_flat = (_chosen(values, present) for values in (ecgs, sampling_rate, keep_flat))
            if lead_names is not None and any(not isinstance(name, str) for name in lead_names):
                lead_names = _chosen(lead_names, present)
        prepared = prepare(ecgs, sampling_rate, lead_names, keep_flat=keep_flat, judge_signal=judge_signal)
        if len(present) == number:
            return dict(prepared)
        filled = {}
        for name, values in prepared.items():
            # An absent signal has all leads: an encoder may divide by their number.
            filled[name] = np.full((number, *values.shape[1:]), values.dtype == bool, values.dtype)
            filled[name][present] = values
        return filled


def _modalities(ecg) -> EcgModalities:
    """Signal and picture of an ECG: a scan has no signal, other ECGs are drawn."""
    if isinstance(ecg, EcgModalities):
        return ecg
    return EcgModalities(None if as_picture(ecg) is not None else ecg, ecg)


def _chosen(values, indices: list[int]):
    """The values of some ECGs, if there is one for each ECG."""
    return [values[index] for index in indices] if isinstance(values, list | tuple) else values


ElmSignalVisionProcessor.register_for_auto_class("AutoProcessor")
register(AutoProcessor, ElmSignalVisionProcessor, ElmSignalVisionProcessor)

__all__ = ["ElmSignalVisionProcessor"]
