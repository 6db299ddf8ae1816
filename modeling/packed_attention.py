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
"""Attention masks for conversations that are packed behind one copy of their shared prefix."""

import torch
from transformers import PreTrainedConfig
from transformers.masking_utils import create_causal_mask


IMPLEMENTATIONS = ("sdpa", "eager", "flex_attention")


def packed_attention_mask(
    config: PreTrainedConfig,
    inputs_embeds: torch.FloatTensor,
    position_ids: torch.LongTensor,
    sequence_ids: torch.LongTensor,
):
    r"""
    The mask with which each token sees the shared prefix and its own conversation, up to itself.

    Args:
        config (`PreTrainedConfig`):
            Configuration of the LLM.
        inputs_embeds (`torch.FloatTensor` of shape `(batch_size, sequence_length, embedding_size)`):
            Input of the LLM.
        position_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`):
            Positions. Those of each conversation continue the positions of the prefix.
        sequence_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`):
            0 for the prefix, 1, 2, ... for the conversations, -1 for padding, which they do not see.

    Returns:
        The 4-D mask in the form of the attention implementation; a dictionary of masks, by layer type, if the LLM has
        several types of layers.

    Raises:
        `ValueError`: If the attention implementation takes no such mask, the LLM has layers without attention, or
            `position_ids` is missing.
    """
    if config._attn_implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f'Packing conversations behind a shared prefix needs a mask, which "{config._attn_implementation}" does not '
            f"take; set attn_implementation to {' or '.join(IMPLEMENTATIONS)}."
        )
    if position_ids is None:
        raise ValueError("`sequence_ids` needs `position_ids` that continue those of the prefix in each conversation.")
    windows = _windows(config)

    def mask(window: int | None):
        def sees(batch, head, query, key):
            allowed = (sequence_ids[batch, key] == 0) | (sequence_ids[batch, query] == sequence_ids[batch, key])
            if window is not None:
                allowed = allowed & (position_ids[batch, query] - position_ids[batch, key] < window)
            return allowed

        return create_causal_mask(config, inputs_embeds, None, None, and_mask_function=sees)

    masks = {layer_type: mask(window) for layer_type, window in windows.items()}
    return masks if len(masks) > 1 else next(iter(masks.values()))


def _windows(config: PreTrainedConfig) -> dict[str, int | None]:
    """The attention window of each type of layers. Only some families have these fields in their configuration."""
    sliding_window = getattr(config, "sliding_window", None)
    layer_types = getattr(config, "layer_types", None)
    if layer_types is None:
        return {"all": sliding_window}
    known = {"full_attention": None, "sliding_attention": sliding_window}
    unknown = sorted(set(layer_types) - known.keys())
    if unknown:
        raise ValueError(
            f'Conversations cannot be packed behind a shared prefix for a "{config.model_type}" LLM: it has layers of '
            f"{', '.join(unknown)}, and only full_attention and sliding_attention can be masked."
        )
    return {layer_type: known[layer_type] for layer_type in set(layer_types)}


__all__ = ["packed_attention_mask"]
