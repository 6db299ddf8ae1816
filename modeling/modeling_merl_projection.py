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
"""The shared space of ECGs and reports in MERL: attention pool, projections and contrastive loss."""

from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_merl import MerlConfig
from .modeling_ecg_vit import eager_attention_forward


class MerlAttentionPool(nn.Module):
    """
    Attention pooling as in CLIP (Radford et al. 2021): a class token attends to itself and all tokens. As in the
    reference implementation, the position of the class token is added twice.
    """

    def __init__(self, config: MerlConfig):
        super().__init__()
        width = config.projection_dim
        self.config = config
        self.head_dim = width // config.num_pooling_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.cls_token = nn.Parameter(torch.zeros(width))
        self.position_embeddings = nn.Parameter(torch.zeros(1 + config.num_tokens(config.num_samples), width))
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        self.projection = nn.Linear(width, width)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(batch, tokens, projection_dim)` to `(batch, projection_dim)`."""
        cls_token = (self.cls_token + self.position_embeddings[0]).expand(len(hidden_states), 1, -1)
        hidden_states = torch.cat([cls_token, hidden_states], dim=1) + self.position_embeddings
        heads = (self.config.num_pooling_heads, self.head_dim)
        query = self.q_proj(hidden_states[:, :1]).unflatten(-1, heads).transpose(1, 2)
        key = self.k_proj(hidden_states).unflatten(-1, heads).transpose(1, 2)
        value = self.v_proj(hidden_states).unflatten(-1, heads).transpose(1, 2)
        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        output, _ = attention(self, query, key, value, None, scaling=self.scaling)
        return self.projection(self.out_proj(output.flatten(1)))


class MerlResNetProjection(nn.Module):
    """Projects the output of the ResNet into the shared space: a linear layer per token and an attention pool."""

    def __init__(self, config: MerlConfig):
        super().__init__()
        self.linear = nn.Linear(config.hidden_size, config.projection_dim)
        self.attention_pool = MerlAttentionPool(config)

    def forward(self, ecg_outputs: BaseModelOutputWithPooling) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings for the cross-modal loss and features for the uni-modal loss, each `(batch, width)`."""
        tokens = self.linear(ecg_outputs.last_hidden_state)
        return self.attention_pool(tokens), tokens.mean(dim=1)


class MerlVitProjection(nn.Module):
    """Projects the output of the ViT into the shared space: a two-layer perceptron on its pooled output."""

    def __init__(self, config: MerlConfig):
        super().__init__()
        self.linear_1 = nn.Linear(config.hidden_size, config.projection_hidden_dim)
        self.norm_1 = nn.BatchNorm1d(config.projection_hidden_dim)
        self.linear_2 = nn.Linear(config.projection_hidden_dim, config.projection_dim)
        self.norm_2 = nn.BatchNorm1d(config.projection_dim)

    def forward(self, ecg_outputs: BaseModelOutputWithPooling) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings for the cross-modal loss and features for the uni-modal loss, each `(batch, width)`."""
        hidden_states = F.relu(self.norm_1(self.linear_1(ecg_outputs.pooler_output)))
        return self.norm_2(self.linear_2(hidden_states)), ecg_outputs.pooler_output


class MerlTextProjection(nn.Module):
    """Projects the pooled output of the text tower into the shared space."""

    def __init__(self, config: MerlConfig):
        super().__init__()
        self.linear_1 = nn.Linear(config.text_config.hidden_size, config.projection_hidden_dim)
        self.linear_2 = nn.Linear(config.projection_hidden_dim, config.projection_dim)

    def forward(self, pooled_output: torch.Tensor) -> torch.Tensor:
        return self.linear_2(F.gelu(self.linear_1(pooled_output)))


def gather_embeds(embeds: torch.Tensor) -> torch.Tensor:
    r"""
    Gathers embeddings of all processes. Only those of this process have a gradient.

    Args:
        embeds (`torch.Tensor` of shape `(batch, width)`):
            Embeddings of this process. All processes must have the same number of them.

    Returns:
        `torch.Tensor` of shape `(num_processes * batch, width)`, in the order of the processes.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return embeds
    gathered = [torch.empty_like(embeds) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, embeds.detach().contiguous())
    gathered[dist.get_rank()] = embeds
    return torch.cat(gathered)


def contrastive_loss(first: torch.Tensor, second: torch.Tensor, temperature: float) -> torch.Tensor:
    r"""
    Contrastive loss: the cross-entropy of finding the partner of each row among all rows, **summed** over both
    directions (CLIP takes the mean).

    Args:
        first (`torch.Tensor` of shape `(batch, projection_dim)`):
            Embeddings. With several processes, those of all processes are compared.
        second (`torch.Tensor` of shape `(batch, projection_dim)`):
            Their partners, in the same order.
        temperature (`float`):
            Divisor of the cosines.

    Returns:
        `torch.Tensor`: The loss, a scalar.
    """
    first, second = gather_embeds(first), gather_embeds(second)
    logits = F.normalize(first, dim=-1) @ F.normalize(second, dim=-1).T / temperature
    target = torch.arange(len(logits), device=logits.device)
    return F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)


__all__ = ["MerlAttentionPool", "MerlResNetProjection", "MerlTextProjection", "MerlVitProjection", "contrastive_loss"]
