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
"""An encoder of the Hub that was not made for this library: how it reads an ECG, and its tokens."""

import torch
from transformers import MODEL_MAPPING, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import can_return_tuple

from .auto_classes import register
from .configuration_hub_encoder import HubEncoderConfig
from .hub_encoder_class import HUB_ENCODER_CLASS


def hub_encoder_class_of(config: PreTrainedConfig) -> type[PreTrainedModel] | None:
    r"""
    The class of an encoder with code of its own.

    Args:
        config (`PreTrainedConfig`):
            Configuration of the encoder.

    Returns:
        The class, or `None` for an encoder of transformers.
    """
    if type(config).__module__.startswith("transformers."):
        return None
    # CODEPATH: in checkpoints the code of the encoder is beside this file. Its class is not compared, since transformers may
    # have loaded the code once for the configuration, and again for the model.
    if HUB_ENCODER_CLASS is not None and HUB_ENCODER_CLASS.config_class.model_type == config.model_type:
        return HUB_ENCODER_CLASS
    return MODEL_MAPPING[type(config)]  # loading its repository has registered it


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
class HubEncoderModel(PreTrainedModel):
    """Gives an encoder of the Hub the input and output of this library's encoders."""

    config: HubEncoderConfig
    main_input_name = "ecg_values"
    input_modalities = ("ecg",)
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: HubEncoderConfig):
        super().__init__(config)
        if config.encoder_config is None:
            raise ValueError(
                "`hub_encoder` stands for an encoder of the Hub: give the name of its repository, and it is built from that."
            )
        encoder_class = hub_encoder_class_of(config.encoder_config)
        # CODEPATH: encoders with code of their own are built from their class, those of transformers by `AutoModel`.
        if encoder_class is None:
            self.encoder = AutoModel.from_config(config.encoder_config)
        else:
            self.encoder = encoder_class._from_config(config.encoder_config)
        self.post_init()

    # trf-ignore: TRF018 (the encoder is a model of its own, and initializes its weights)
    @torch.no_grad()
    def _init_weights(self, module):
        """Nothing is left to initialize."""

    # trf-ignore: TRF057 (auto_docstring describes the library's own models only)
    @can_return_tuple
    def forward(
        self, ecg_values: torch.FloatTensor, ecg_lead_mask: torch.BoolTensor | None = None, **kwargs
    ) -> BaseModelOutputWithPooling:
        r"""
        Args:
            ecg_values (`torch.FloatTensor` of shape `(batch_size, num_leads, num_samples)`):
                The ECGs, as the feature extractor of the checkpoint prepares them.
            ecg_lead_mask (`torch.BoolTensor` of shape `(batch_size, num_leads)`, *optional*):
                Not used: absent leads are zeros.

        Returns:
            [`BaseModelOutputWithPooling`] with `last_hidden_state` of shape `(batch_size, num_tokens, hidden_size)`, and
            `pooler_output`, its mean over the tokens.

        Raises:
            `ValueError`: If the ECGs have another shape.
        """
        expected = (self.config.num_leads, self.config.num_samples)
        if ecg_values.ndim != 3 or tuple(ecg_values.shape[1:]) != expected:
            raise ValueError(
                f"`ecg_values` must have the shape (batch_size, {expected[0]}, {expected[1]}), got "
                f"{tuple(ecg_values.shape)}."
            )
        values = ecg_values.to(self.encoder.dtype) * self.config.units_per_millivolt
        # CODEPATH: encoders that read time series take the samples first (PatchTST).
        if self.config.layout == "samples_first":
            values = values.transpose(1, 2)
        # CODEPATH: HuBERT-ECG reads the leads one after the other, as one signal.
        elif self.config.layout == "flat":
            values = values.flatten(1)
        # CODEPATH: encoders of sound read each lead as a recording of its own (wav2vec 2.0).
        elif self.config.layout == "single_lead":
            values = values.flatten(0, 1)
        hidden = self.encoder(**{self.config.input_name: values}).last_hidden_state
        # Tokens of several leads or channels come one after the other.
        hidden = hidden.reshape(len(ecg_values), -1, hidden.shape[-1])
        return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=hidden.mean(dim=1))


HubEncoderModel.register_for_auto_class("AutoModel")
register(AutoModel, HubEncoderConfig, HubEncoderModel)

__all__ = ["HubEncoderModel", "hub_encoder_class_of"]
