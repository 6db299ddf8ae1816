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
"""Registers the classes of this library with the Auto classes of transformers."""

from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME


def register(auto_class: type, *args, **kwargs):
    r"""
    Calls `auto_class.register` with the other arguments, unless this file is part of a checkpoint.

    transformers prefers a registered class to the code of a checkpoint if the `model_type` or the name of the class is
    the same. If checkpoints registered their classes, the code of the first checkpoint in a process would be used for
    all others, whose encoder it may lack. The `auto_map` of its JSON files leads to a checkpoint's own classes.

    Args:
        auto_class (`type`):
            `AutoConfig`, `AutoProcessor`, ...
        args, kwargs:
            Arguments of its `register`.
    """
    if not __name__.startswith(f"{TRANSFORMERS_DYNAMIC_MODULE_NAME}."):
        auto_class.register(*args, exist_ok=True, **kwargs)


__all__ = ["register"]
