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
"""
The ECG encoders of an ECG-language model, and how the code of one travels with a checkpoint.

transformers copies the files of a model's code into a checkpoint, and fetches them from there, by reading the code:
it follows imports of the form `from .name import ...` and no others. Here encoders are imported by name, so that a
checkpoint does not carry all of them, and `save_encoder_code` adds the files of the encoder that the model has. In the
checkpoint, `own_encoder.py` imports that encoder in the form that transformers follows. Loading then needs no
code of ours: revisions, tokens, caches and local folders work as for any model with code of its own.
"""

from importlib import import_module
from importlib.util import find_spec
from os import PathLike
from pathlib import Path

from transformers import MODEL_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.dynamic_module_utils import custom_object_save

from .own_encoder import ENCODER_CLASS


# Module and class of each encoder, by `model_type`.
ECG_ENCODERS = {
    "ecg_resnet": ("modeling_ecg_resnet", "EcgResNetModel"),
    "ecg_se_resnet": ("modeling_ecg_se_resnet", "EcgSeResNetModel"),
    "merl": ("modeling_merl", "MerlModel"),
    "mlae": ("modeling_maefe", "MlaeModel"),
    "mtae": ("modeling_maefe", "MtaeModel"),
    "st_mem": ("modeling_st_mem", "StMemModel"),
    "net1d": ("modeling_net1d", "Net1DModel"),
    "ecg_fm": ("modeling_ecg_fm", "EcgFmModel"),
    "hubert_ecg": ("modeling_hubert_ecg", "HubertEcgModel"),
    "ecg_jepa": ("modeling_ecg_jepa", "EcgJepaModel"),
    "ecg_cpc": ("modeling_ecg_cpc", "EcgCpcModel"),
    "ecg_coca": ("modeling_ecg_coca", "EcgCocaModel"),
    "hub_encoder": ("modeling_hub_encoder", "HubEncoderModel"),
}


def find_ecg_encoder(model_type: str) -> type[PreTrainedModel] | None:
    r"""
    The class of an ECG encoder, which is imported if need be.

    Args:
        model_type (`str`):
            The `model_type` of its configuration.

    Returns:
        The class, or `None` if there is no such ECG encoder in this folder.
    """
    if ENCODER_CLASS is not None and ENCODER_CLASS.config_class.model_type == model_type:
        return ENCODER_CLASS
    module, name = ECG_ENCODERS.get(model_type, (None, None))
    if module is None or find_spec(f".{module}", __package__) is None:
        return None
    return getattr(import_module(f".{module}", __package__), name)


def import_ecg_encoders():
    """Imports all ECG encoders, which registers them with the Auto classes."""
    for model_type in ECG_ENCODERS:
        find_ecg_encoder(model_type)


def encoder_class_of(config: PreTrainedConfig) -> type[PreTrainedModel] | None:
    r"""
    The class of the encoder with this configuration.

    Args:
        config (`PreTrainedConfig`):
            Configuration of an encoder.

    Returns:
        The class, or `None` if `AutoModel` knows it: an encoder of transformers.
    """
    if type(config).__module__.startswith("transformers."):
        return None
    own_class = find_ecg_encoder(config.model_type)
    # An encoder from another checkpoint is of a class of that checkpoint, which loading it registered.
    return MODEL_MAPPING.get(type(config), own_class)


def save_encoder_code(config: PreTrainedConfig | None, folder: str | PathLike):
    r"""
    Adds the code of a model's encoder to the code of the model.

    Args:
        config (`PreTrainedConfig`, *optional*):
            Configuration of the encoder. An encoder of transformers has no code to add.
        folder (`str` or `os.PathLike`):
            Folder of the checkpoint, with the code of the model.
    """
    encoder_class = None if config is None else encoder_class_of(config)
    line = "ENCODER_CLASS = None"
    if encoder_class is not None:
        custom_object_save(encoder_class, folder)
        line = _import_line(encoder_class, "ENCODER_CLASS")
    _write_last_line(Path(folder) / "own_encoder.py", line)
    if encoder_class is not None and config.model_type == "hub_encoder":
        _save_hub_encoder_code(config.encoder_config, Path(folder))


def _save_hub_encoder_code(config: PreTrainedConfig, folder: Path):
    """Adds the code of an encoder of the Hub, if it has code of its own."""
    hub_encoder_class = import_module(".modeling_hub_encoder", __package__).hub_encoder_class_of(config)
    line = "HUB_ENCODER_CLASS = None"
    if hub_encoder_class is not None:
        custom_object_save(hub_encoder_class, folder)
        line = _import_line(hub_encoder_class, "HUB_ENCODER_CLASS")
    _write_last_line(folder / "hub_encoder_class.py", line)


def _import_line(encoder_class: type[PreTrainedModel], name: str) -> str:
    return f"from .{encoder_class.__module__.split('.')[-1]} import {encoder_class.__name__} as {name}"


def _write_last_line(path: Path, line: str):
    """Writes a file of this folder into a checkpoint, with another last line."""
    source = Path(__file__).with_name(path.name).read_text(encoding="utf-8")
    path.write_text("\n".join([*source.splitlines()[:-1], line, ""]), encoding="utf-8")


__all__ = ["ECG_ENCODERS", "encoder_class_of", "find_ecg_encoder", "import_ecg_encoders", "save_encoder_code"]
