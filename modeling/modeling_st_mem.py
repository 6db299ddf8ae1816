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
"""ST-MEM: a masked autoencoder whose tokens are patches of single leads, with separators around each lead."""

import torch
from torch import nn
from transformers import AutoModel, AutoModelForPreTraining
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.output_capturing import capture_outputs

from .configuration_st_mem import StMemConfig
from .encoder_parts import check_lead_mask
from .modeling_ecg_vit import (
    EcgMaskedAutoencoderOutput,
    EcgVitDecoder,
    EcgVitLayer,
    EcgVitPatchEmbeddings,
    EcgVitPreTrainedModel,
    mask_tokens,
    position_table,
    reconstruction_loss,
)


class StMemEmbeddings(nn.Module):
    """Embeddings of patches, of their positions in time and of their leads."""

    def __init__(self, config: StMemConfig):
        super().__init__()
        self.patch_embeddings = EcgVitPatchEmbeddings(config.patch_dim, config.hidden_size)
        # Shared by all leads; the first and last row are for the separators. Not trained, but saved in checkpoints: a
        # buffer.
        self.position_embeddings = nn.Buffer(torch.zeros(1, config.num_patches + 2, config.hidden_size))
        self.separator_token = nn.Parameter(torch.zeros(config.hidden_size))
        self.lead_embeddings = nn.Parameter(torch.zeros(config.num_leads, config.hidden_size))

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Patches `(batch, leads, patches, samples)` to tokens `(batch, leads, patches, hidden_size)`."""
        return self.patch_embeddings(patches) + self.position_embeddings[:, 1 : 1 + patches.shape[2]]

    def add_separators_and_leads(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens `(batch, leads, tokens, hidden_size)` to `(batch, leads, tokens + 2, hidden_size)`."""
        shape = (*tokens.shape[:2], 1, tokens.shape[3])
        left = (self.separator_token + self.position_embeddings[:, :1]).expand(shape)
        right = (self.separator_token + self.position_embeddings[:, -1:]).expand(shape)
        return torch.cat([left, tokens, right], dim=2) + self.lead_embeddings[:, None]


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
class StMemPreTrainedModel(EcgVitPreTrainedModel):
    config: StMemConfig
    base_model_prefix = "st_mem"

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, StMemEmbeddings):
            init.normal_(module.separator_token, std=self.config.initializer_range)
            init.normal_(module.lead_embeddings, std=self.config.initializer_range)
            _, num_positions, hidden_size = module.position_embeddings.shape
            init.copy_(module.position_embeddings, position_table(self.config.num_patches, num_positions, hidden_size))


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
class StMemModel(StMemPreTrainedModel):
    """
    The encoder (Na et al. 2024). All patches of all present leads attend to each other, so that the same weights
    encode any subset of the leads.
    """

    _keys_to_ignore_on_load_unexpected = [r"^decoder\."]  # in a pre-training checkpoint

    def __init__(self, config: StMemConfig):
        super().__init__(config)
        self.embeddings = StMemEmbeddings(config)
        self.layers = nn.ModuleList(EcgVitLayer(config) for _ in range(config.num_hidden_layers))
        self.layernorm = nn.LayerNorm(config.hidden_size)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.patch_embeddings

    def patchify(
        self, ecg_values: torch.FloatTensor, ecg_lead_mask: torch.BoolTensor | None = None
    ) -> torch.FloatTensor:
        r"""
        Cuts ECGs into patches.

        Args:
            ecg_values (`torch.FloatTensor` of shape `(batch_size, num_leads, num_samples)`):
                The ECGs, as [`EcgFeatureExtractor`] returns them; `num_samples` must be a multiple of `patch_size`.
            ecg_lead_mask (`torch.BoolTensor` of shape `(batch_size, num_leads)`, *optional*):
                `True` for present leads; all by default.

        Returns:
            `torch.FloatTensor` of shape `(batch_size, num_leads, num_patches, patch_size)`, 0 for absent leads.

        Raises:
            `ValueError`: If the shapes are not as described, or an ECG has no lead.
        """
        config = self.config
        if ecg_values.dim() != 3 or ecg_values.shape[1] != config.num_leads:
            raise ValueError(
                f"`ecg_values` must have the shape (batch, {config.num_leads} leads, samples), got "
                f"{tuple(ecg_values.shape)}. An ECG with fewer leads keeps a row for each lead of the model, and "
                "`ecg_lead_mask` tells which are present; the feature extractor returns both."
            )
        num_samples = ecg_values.shape[2]
        if num_samples == 0 or num_samples % config.patch_size or num_samples > config.num_samples:
            raise ValueError(
                f"An ECG of {num_samples} samples does not fit: this model takes multiples of "
                f"patch_size={config.patch_size} up to num_samples={config.num_samples}, for which it has positions."
            )
        if ecg_lead_mask is not None:
            check_lead_mask(ecg_values, ecg_lead_mask)
            ecg_values = ecg_values.masked_fill(~ecg_lead_mask.bool()[..., None], 0)
        return ecg_values.unflatten(2, (-1, config.patch_size))

    def encode(
        self, tokens: torch.FloatTensor, ecg_lead_mask: torch.BoolTensor | None = None, **kwargs
    ) -> torch.FloatTensor:
        r"""
        Passes tokens through all layers. The tokens of all present leads attend to each other.

        Args:
            tokens (`torch.FloatTensor` of shape `(batch_size, num_leads, num_tokens, hidden_size)`):
                Tokens with separators.
            ecg_lead_mask (`torch.BoolTensor` of shape `(batch_size, num_leads)`, *optional*):
                `True` for present leads; all by default.

        Returns:
            `torch.FloatTensor` of the shape of `tokens`.
        """
        lead_shape = tokens.shape[1:3]
        hidden_states = tokens.flatten(1, 2)
        if ecg_lead_mask is not None:
            ecg_lead_mask = ecg_lead_mask.bool().repeat_interleave(lead_shape[1], dim=1)
        attention_mask = create_bidirectional_mask(
            config=self.config, inputs_embeds=hidden_states, attention_mask=ecg_lead_mask
        )
        for layer in self.layers:
            hidden_states = layer(hidden_states, attention_mask, **kwargs)
        return hidden_states.unflatten(1, lead_shape)

    # trf-ignore: TRF057 (auto_docstring describes the library's own models only)
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self, ecg_values: torch.FloatTensor, ecg_lead_mask: torch.BoolTensor | None = None, **kwargs
    ) -> BaseModelOutputWithPooling:
        r"""
        Args:
            ecg_values (`torch.FloatTensor` of shape `(batch_size, num_leads, num_samples)`):
                The ECGs, as [`EcgFeatureExtractor`] returns them; `num_samples` must be a multiple of `patch_size`.
            ecg_lead_mask (`torch.BoolTensor` of shape `(batch_size, num_leads)`, *optional*):
                `True` for present leads; all by default. The result does not depend on absent leads.

        Returns:
            [`BaseModelOutputWithPooling`] with `last_hidden_state` of shape `(batch_size, num_leads * num_samples /
            patch_size, hidden_size)`, the patches lead after lead, each after the norm (as in pre-training without a
            mask), 0 for absent leads; and `pooler_output` of shape `(batch_size, hidden_size)`, the norm of the mean
            over the patches of present leads, which Na et al. 2024 use downstream. The mean is taken before the norm,
            so it is not the mean of `last_hidden_state`. `hidden_states` include the separators.

        Raises:
            `ValueError`: If the shapes are not as described, or an ECG has no lead.
        """
        patches = self.patchify(ecg_values, ecg_lead_mask)
        tokens = self.embeddings.add_separators_and_leads(self.embeddings(patches))
        encoded = self.encode(tokens, ecg_lead_mask, **kwargs)[:, :, 1:-1]
        last_hidden_state, per_lead = self.layernorm(encoded), encoded.mean(dim=2)
        if ecg_lead_mask is None:
            mean = per_lead.mean(dim=1)
        else:
            present = ecg_lead_mask.to(per_lead.dtype)
            mean = (per_lead * present[..., None]).sum(dim=1) / present.sum(dim=1, keepdim=True)
            last_hidden_state = last_hidden_state * present[..., None, None]
        return BaseModelOutputWithPooling(
            last_hidden_state=last_hidden_state.flatten(1, 2), pooler_output=self.layernorm(mean)
        )


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
class StMemForPreTraining(StMemPreTrainedModel):
    """The encoder with a decoder, which reconstructs each lead from the encoded tokens of its kept patches."""

    def __init__(self, config: StMemConfig):
        super().__init__(config)
        self.st_mem = StMemModel(config)
        self.decoder = EcgVitDecoder(config, num_positions=config.num_patches + 2)
        self.post_init()

    # trf-ignore: TRF057 (auto_docstring describes the library's own models only)
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        ecg_values: torch.FloatTensor,
        ecg_lead_mask: torch.BoolTensor | None = None,
        noise: torch.FloatTensor | None = None,
        **kwargs,
    ) -> EcgMaskedAutoencoderOutput:
        r"""
        Args:
            ecg_values (`torch.FloatTensor` of shape `(batch_size, num_leads, num_samples)`):
                The ECGs, as [`EcgFeatureExtractor`] returns them; `num_samples` must be a multiple of `patch_size`.
            ecg_lead_mask (`torch.BoolTensor` of shape `(batch_size, num_leads)`, *optional*):
                `True` for present leads; all by default. Absent leads are not attended to and do not count in the
                loss.
            noise (`torch.FloatTensor` of shape `(batch_size, num_leads, num_patches)`, *optional*):
                The patches with the smallest noise are kept. Random by default.

        Returns:
            [`EcgMaskedAutoencoderOutput`] with `prediction` of shape `(batch_size, num_leads, num_patches,
            patch_size)` and `last_hidden_state` of shape `(batch_size, num_leads * (num_kept + 2), hidden_size)`.

        Raises:
            `ValueError`: If a shape is not as described, an ECG has no lead, or `config.mask_ratio` masks no patch or
                all of them.
        """
        patches = self.st_mem.patchify(ecg_values, ecg_lead_mask)
        tokens = self.st_mem.embeddings(patches)
        kept, mask, ids_restore = mask_tokens(tokens, self.config.mask_ratio, noise)
        tokens = self.st_mem.embeddings.add_separators_and_leads(kept)
        encoded = self.st_mem.layernorm(self.st_mem.encode(tokens, ecg_lead_mask, **kwargs))
        prediction = self.decoder(encoded, ids_restore, **kwargs)

        counted = mask if ecg_lead_mask is None else mask * ecg_lead_mask[..., None]
        return EcgMaskedAutoencoderOutput(
            loss=reconstruction_loss(prediction, patches, counted, norm_pix_loss=self.config.norm_pix_loss),
            prediction=prediction,
            mask=mask,
            ids_restore=ids_restore,
            last_hidden_state=encoded.flatten(1, 2),
        )


StMemModel.register_for_auto_class("AutoModel")
StMemForPreTraining.register_for_auto_class("AutoModelForPreTraining")
AutoModel.register(StMemConfig, StMemModel, exist_ok=True)
AutoModelForPreTraining.register(StMemConfig, StMemForPreTraining, exist_ok=True)

__all__ = ["StMemForPreTraining", "StMemModel", "StMemPreTrainedModel"]
