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
"""Parts that the transformer encoders of ECGs share: layer, patch embedding, masking and reconstruction."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import ModelOutput
from transformers.utils.output_capturing import OutputRecorder

from .configuration_ecg_vit import EcgVitConfig


HEAD_DIM = 64  # in all published ECG transformers, whatever the width


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
@dataclass
class EcgMaskedAutoencoderOutput(ModelOutput):
    r"""
    loss (`torch.FloatTensor` of shape `(1,)`):
        Mean squared error of the masked patches.
    prediction (`torch.FloatTensor`):
        The reconstructed patches, in the shape of the model's `patchify`.
    mask (`torch.FloatTensor`):
        1 for masked patches, 0 for patches that the encoder read, in the order of time (ST-MEM, MTAE) or leads (MLAE).
    ids_restore (`torch.LongTensor`):
        Position of each patch in the shuffled sequence, whose first part was kept.
    last_hidden_state (`torch.FloatTensor` of shape `(batch_size, num_tokens, hidden_size)`):
        Output of the encoder after its norm: the kept patches in shuffled order, with the special tokens.
    hidden_states, attentions:
        Of the layers of the encoder, with `output_hidden_states=True` or `output_attentions=True`.
    """

    loss: torch.FloatTensor | None = None
    prediction: torch.FloatTensor | None = None
    mask: torch.FloatTensor | None = None
    ids_restore: torch.LongTensor | None = None
    last_hidden_state: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The attention implementation `"eager"`: the output and the attention weights."""
    weights = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = nn.functional.dropout(weights.softmax(dim=-1), p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class EcgVitAttention(nn.Module):
    """Self-attention over all tokens, with heads of 64 dimensions, whatever `hidden_size` is."""

    def __init__(
        self, config: PreTrainedConfig, hidden_size: int | None = None, num_attention_heads: int | None = None
    ):
        super().__init__()
        hidden_size = hidden_size or config.hidden_size
        num_heads = num_attention_heads or config.num_attention_heads
        self.config = config
        self.num_heads = num_heads
        self.scaling = HEAD_DIM**-0.5
        self.is_causal = False
        self.qkv_proj = nn.Linear(hidden_size, 3 * num_heads * HEAD_DIM)
        # CODEPATH: a single head of the width of the model is not projected (Dosovitskiy et al. 2021).
        is_projected = num_heads > 1 or hidden_size != HEAD_DIM
        self.out_proj = nn.Linear(num_heads * HEAD_DIM, hidden_size) if is_projected else nn.Identity()

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        # (batch, tokens, 3 * heads * 64) -> three of (batch, heads, tokens, 64)
        qkv = self.qkv_proj(hidden_states).unflatten(-1, (3, self.num_heads, HEAD_DIM))
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        output, weights = attention(self, query, key, value, attention_mask, scaling=self.scaling, **kwargs)
        return self.out_proj(output.flatten(2)), weights


class EcgVitMLP(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, hidden_size: int, intermediate_size: int):
        super().__init__()
        self.up_proj = nn.Linear(hidden_size, intermediate_size)
        self.down_proj = nn.Linear(intermediate_size, hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.down_proj(nn.functional.gelu(self.up_proj(hidden_states)))


class EcgVitLayer(GradientCheckpointingLayer):
    r"""
    Pre-norm transformer layer (Dosovitskiy et al. 2021).

    Args:
        config (`PreTrainedConfig`):
            Configuration of the model, with the attention implementation and the default sizes.
        hidden_size (`int`, *optional*):
            Width of the tokens; `config.hidden_size` by default.
        num_attention_heads (`int`, *optional*):
            Number of heads, of 64 dimensions each; `config.num_attention_heads` by default. Their total width may
            differ from `hidden_size`.
        intermediate_size (`int`, *optional*):
            Width of the hidden layer of the MLP; `config.intermediate_size` by default.
    """

    def __init__(
        self,
        config: PreTrainedConfig,
        hidden_size: int | None = None,
        num_attention_heads: int | None = None,
        intermediate_size: int | None = None,
    ):
        super().__init__()
        hidden_size = hidden_size or config.hidden_size
        self.attention_norm = nn.LayerNorm(hidden_size)
        self.attention = EcgVitAttention(config, hidden_size, num_attention_heads)
        self.mlp_norm = nn.LayerNorm(hidden_size)
        self.mlp = EcgVitMLP(hidden_size, intermediate_size or config.intermediate_size)

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs
    ) -> torch.Tensor:
        attended, _ = self.attention(self.attention_norm(hidden_states), attention_mask, **kwargs)
        hidden_states = hidden_states + attended
        return hidden_states + self.mlp(self.mlp_norm(hidden_states))


class EcgVitPatchEmbeddings(nn.Module):
    """Embeds patches `(..., patch_dim)` as tokens `(..., hidden_size)`: layer norm, linear layer, layer norm."""

    def __init__(self, patch_dim: int, hidden_size: int):
        super().__init__()
        self.patch_norm = nn.LayerNorm(patch_dim)
        self.projection = nn.Linear(patch_dim, hidden_size)
        self.norm = nn.LayerNorm(hidden_size)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        return self.norm(self.projection(self.patch_norm(patches.to(self.patch_norm.weight.dtype))))


class EcgVitDecoder(nn.Module):
    r"""
    Reconstructs the masked patches of sequences of tokens (He et al. 2022, MAE).

    Args:
        config ([`EcgVitConfig`]):
            Configuration of the model.
        num_positions (`int`):
            Number of patches and special tokens of a sequence: one special token at the start, the others at the end.
    """

    def __init__(self, config: EcgVitConfig, num_positions: int):
        super().__init__()
        hidden_size = config.decoder_hidden_size
        self.num_patches = config.num_patches
        self.num_behind = num_positions - 1 - config.num_patches
        self.embed = nn.Linear(config.hidden_size, hidden_size)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, hidden_size))
        # Not trained, but saved in checkpoints: a buffer.
        self.position_embeddings = nn.Buffer(torch.zeros(1, num_positions, hidden_size))
        self.decoder_layers = nn.ModuleList(
            EcgVitLayer(config, hidden_size, config.decoder_num_attention_heads, config.decoder_intermediate_size)
            for _ in range(config.decoder_num_hidden_layers)
        )
        self.norm = nn.LayerNorm(hidden_size, eps=1e-6)  # the other norms have the default 1e-5
        self.head = nn.Linear(hidden_size, config.patch_dim)

    def forward(self, encoded: torch.Tensor, ids_restore: torch.Tensor, **kwargs) -> torch.Tensor:
        """Encoded tokens `(..., 1 + num_kept + num_behind, width)` to patches `(..., num_patches, patch_dim)`."""
        num_patches = ids_restore.shape[-1]
        num_kept = encoded.shape[-2] - 1 - self.num_behind
        front, kept, behind = self.embed(encoded).split([1, num_kept, self.num_behind], dim=-2)
        tokens = torch.cat([front, unmask_tokens(kept, self.mask_token[0], ids_restore), behind], dim=-2)
        # A shorter ECG uses the rows of the first patches; the special tokens at the end use the last rows.
        rows = [self.position_embeddings[:, : 1 + num_patches], self.position_embeddings[:, 1 + self.num_patches :]]
        hidden_states = (tokens + torch.cat(rows, dim=1)).flatten(0, -3)
        for layer in self.decoder_layers:
            hidden_states = layer(hidden_states, **kwargs)
        prediction = self.head(self.norm(hidden_states))[:, 1 : 1 + num_patches]
        return prediction.unflatten(0, ids_restore.shape[:-1])


def sin_cos_positions(num_positions: int, hidden_size: int) -> torch.Tensor:
    r"""
    Fixed position embeddings: sines and then cosines of geometric frequencies (Vaswani et al. 2017; in this order He
    et al. 2022, MAE).

    Args:
        num_positions (`int`):
            Number of positions.
        hidden_size (`int`):
            Width of the embeddings. It must be even.

    Returns:
        `torch.Tensor` of shape `(num_positions, hidden_size)`.
    """
    half = hidden_size // 2
    frequencies = 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = torch.arange(num_positions, dtype=torch.float64)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


def position_table(num_patches: int, num_positions: int, hidden_size: int) -> torch.Tensor:
    r"""
    Position embeddings of the patches (`sin_cos_positions`) and zeros for the special tokens.

    Args:
        num_patches (`int`):
            Number of patches.
        num_positions (`int`):
            Number of patches and special tokens: one special token before the patches, the others after them.
        hidden_size (`int`):
            Width of the embeddings. It must be even.

    Returns:
        `torch.Tensor` of shape `(1, num_positions, hidden_size)`.
    """
    num_behind = num_positions - 1 - num_patches
    return nn.functional.pad(sin_cos_positions(num_patches, hidden_size), (0, 0, 1, num_behind))[None]


def mask_tokens(
    tokens: torch.Tensor, mask_ratio: float, noise: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    r"""
    Masks random tokens of each sequence (He et al. 2022, MAE).

    Args:
        tokens (`torch.Tensor` of shape `(..., num_tokens, hidden_size)`):
            Sequences of tokens, each of which is masked independently.
        mask_ratio (`float`):
            Share of the tokens to mask; `int(num_tokens * (1 - mask_ratio))` tokens are kept.
        noise (`torch.Tensor` of shape `(..., num_tokens)`, *optional*):
            The tokens with the smallest noise are kept. Uniform random numbers by default.

    Returns:
        `tuple[torch.Tensor, torch.Tensor, torch.Tensor]`: The kept tokens of shape `(..., num_kept, hidden_size)`, in
        the order of their noise; the mask of shape `(..., num_tokens)`, 1 for masked tokens; and the rank of each
        token's noise, of shape `(..., num_tokens)`.

    Raises:
        `ValueError`: If the ratio keeps no token or all of them, or the noise has another shape.
    """
    num_tokens, hidden_size = tokens.shape[-2:]
    num_kept = int(num_tokens * (1 - mask_ratio))
    if not 0 < num_kept < num_tokens:
        raise ValueError(
            f"mask_ratio={mask_ratio} keeps {num_kept} of {num_tokens} tokens: pre-training needs at least one kept and "
            "one masked token. Change `mask_ratio`, or use the model without a decoder to encode ECGs."
        )
    if noise is None:
        noise = torch.rand(tokens.shape[:-1], device=tokens.device)
    if noise.shape != tokens.shape[:-1]:
        raise ValueError(f"`noise` must have the shape {tuple(tokens.shape[:-1])}, got {tuple(noise.shape)}.")
    ids_shuffle = noise.to(tokens.device).argsort(dim=-1)
    ids_restore = ids_shuffle.argsort(dim=-1)
    ids_kept = ids_shuffle[..., :num_kept, None].expand(*tokens.shape[:-2], num_kept, hidden_size)
    mask = (ids_restore >= num_kept).float()
    return tokens.gather(-2, ids_kept), mask, ids_restore


def unmask_tokens(kept: torch.Tensor, mask_token: torch.Tensor, ids_restore: torch.Tensor) -> torch.Tensor:
    r"""
    Restores the order of tokens before `mask_tokens`.

    Args:
        kept (`torch.Tensor` of shape `(..., num_kept, hidden_size)`):
            The kept tokens.
        mask_token (`torch.Tensor` of shape `(hidden_size,)` or `(1, hidden_size)`):
            Replaces the masked tokens.
        ids_restore (`torch.Tensor` of shape `(..., num_tokens)`):
            The third result of `mask_tokens`.

    Returns:
        `torch.Tensor` of shape `(..., num_tokens, hidden_size)`.
    """
    num_masked = ids_restore.shape[-1] - kept.shape[-2]
    filling = mask_token.expand(*kept.shape[:-2], num_masked, -1)
    ids = ids_restore[..., None].expand(*ids_restore.shape, kept.shape[-1])
    return torch.cat([kept, filling], dim=-2).gather(-2, ids)


def reconstruction_loss(
    prediction: torch.Tensor, patches: torch.Tensor, mask: torch.Tensor, *, norm_pix_loss: bool
) -> torch.Tensor:
    r"""
    Mean squared error over all masked patches of a batch (He et al. 2022, MAE).

    Args:
        prediction (`torch.Tensor` of shape `(..., num_patches, patch_dim)`):
            Output of the decoder.
        patches (`torch.Tensor` of shape `(..., num_patches, patch_dim)`):
            Patches of the ECG that the model read.
        mask (`torch.Tensor` of shape `(..., num_patches)`):
            1 for patches that count.
        norm_pix_loss (`bool`):
            Whether to standardize each patch first, with its unbiased variance.

    Returns:
        `torch.Tensor`: The error, a scalar.
    """
    if norm_pix_loss:
        variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
        patches = (patches - mean) / (variance + 1e-6) ** 0.5
    error = (prediction - patches).square().mean(dim=-1)
    return (error * mask).sum() / mask.sum()


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
class EcgVitPreTrainedModel(PreTrainedModel):
    """Base class of the transformer encoders of ECGs."""

    main_input_name = "ecg_values"
    input_modalities = ("ecg",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["EcgVitLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    # Only of the encoder: decoders use another name for their layers.
    _can_record_outputs = {
        "hidden_states": OutputRecorder(EcgVitLayer, layer_name="layers"),
        "attentions": OutputRecorder(EcgVitAttention, index=1, layer_name="layers"),
    }

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, EcgVitDecoder):
            init.normal_(module.mask_token, std=self.config.initializer_range)
            _, num_positions, hidden_size = module.position_embeddings.shape
            init.copy_(module.position_embeddings, position_table(module.num_patches, num_positions, hidden_size))


__all__ = ["EcgVitLayer", "EcgVitPreTrainedModel"]
