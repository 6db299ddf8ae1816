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
"""An ECG of which the signal and the picture are given separately, for models that read both."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, eq=False)
class EcgModalities:
    r"""
    Signal and picture of an ECG, of which one can be absent.

    Args:
        signal (`Any`, *optional*):
            The ECG whose signal is read: an array or a path, as for [`EcgFeatureExtractor`].
        picture (`Any`, *optional*):
            The ECG that is drawn, as for [`EcgImageProcessor`].

    Raises:
        `ValueError`: If both are absent.
    """

    signal: Any = None
    picture: Any = None

    def __post_init__(self):
        if self.signal is None and self.picture is None:
            raise ValueError("An ECG has neither signal nor picture: the model would answer without having seen it.")


def given_modalities(item: dict) -> EcgModalities | None:
    r"""
    The signal and the picture that an `{"type": "ecg"}` item gives separately.

    Args:
        item (`dict`):
            The item, with `"signal"`, `"picture"` or both, in the place of `"ecg"`.

    Returns:
        [`EcgModalities`], or `None` if the item has neither.

    Raises:
        `ValueError`: If the item has `"ecg"`, `"path"` or `"url"` as well.
    """
    separate = [name for name in ("signal", "picture") if item.get(name) is not None]
    if not separate:
        return None
    whole = [name for name in ("ecg", "path", "url") if item.get(name) is not None]
    if whole:
        raise ValueError(f'An ECG item has {", ".join(separate)} or "{whole[0]}", got both.')
    return EcgModalities(item.get("signal"), item.get("picture"))


__all__ = ["EcgModalities", "given_modalities"]
