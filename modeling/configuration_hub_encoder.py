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
"""Configuration of an encoder of the Hub that was not made for this library."""

from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .auto_classes import register
from .hub_encoder_class import HUB_ENCODER_CLASS


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
@strict
class HubEncoderConfig(PreTrainedConfig):
    r"""
    Configuration of [`HubEncoderModel`]: any model of `AutoModel` that returns a `last_hidden_state` of a signal, and how
    it reads one.

    Args:
        encoder_config (`PreTrainedConfig` or `dict`, *optional*):
            Configuration of the encoder. A model needs one.
        input_name (`str`, *optional*, defaults to `"input_values"`):
            Name of the argument of the encoder's `forward` that takes the signal.
        layout (`str`, *optional*, defaults to `"leads_first"`):
            Shape of the signal. `"leads_first"`: `(batch_size, num_leads, num_samples)`. `"samples_first"`:
            `(batch_size, num_samples, num_leads)`. `"flat"`: `(batch_size, num_leads * num_samples)`, one lead after the
            other. `"single_lead"`: `(batch_size * num_leads, num_samples)`, each lead by itself.
        units_per_millivolt (`float`, *optional*, defaults to 1.0):
            Value of a millivolt in the encoder's units: 1000 for microvolt.
        num_leads (`int`, *optional*, defaults to 12):
            Number of leads of an ECG.
        num_samples (`int`, *optional*, defaults to 2500):
            Number of samples of an ECG.
        hidden_size (`int`, *optional*, defaults to 768):
            Width of the encoder's tokens.
        pretraining_data (`list[str]`, *optional*):
            Names of the datasets on which the weights were trained.
        license (`str`, *optional*):
            Licence of the weights.

    Raises:
        `ValueError`: If there is no code for the encoder.
    """

    model_type = "hub_encoder"
    sub_configs_defaults = {"encoder_config": SubConfigSpec(config_class=PreTrainedConfig, optional=True)}

    encoder_config: dict | PreTrainedConfig | None = None
    input_name: str = "input_values"
    layout: Literal["leads_first", "samples_first", "flat", "single_lead"] = "leads_first"
    units_per_millivolt: float = 1.0
    num_leads: int = 12
    num_samples: int = 2500
    hidden_size: int = 768
    pretraining_data: list[str] | tuple[str, ...] = ()
    license: str | None = None

    def __post_init__(self, **kwargs):
        self.pretraining_data = list(self.pretraining_data)
        if isinstance(self.encoder_config, dict):
            self.encoder_config = _build_config(self.encoder_config)
        super().__post_init__(**kwargs)
        self.auto_map = {
            "AutoConfig": "configuration_hub_encoder.HubEncoderConfig",
            "AutoModel": "modeling_hub_encoder.HubEncoderModel",
        }


def _build_config(settings: dict) -> PreTrainedConfig:
    """The configuration of the encoder: of the code in this folder, or of transformers."""
    model_type = settings.get("model_type")
    if HUB_ENCODER_CLASS is not None and HUB_ENCODER_CLASS.config_class.model_type == model_type:
        return HUB_ENCODER_CLASS.config_class(**settings)
    if model_type not in CONFIG_MAPPING:
        raise ValueError(
            f'the encoder (model_type="{model_type}") has code of its own, which is in the checkpoint: load it with '
            "trust_remote_code=True (--trust-remote-code)."
        )
    return CONFIG_MAPPING[model_type](**settings)


HubEncoderConfig.register_for_auto_class()
register(AutoConfig, HubEncoderConfig.model_type, HubEncoderConfig)

__all__ = ["HubEncoderConfig"]
