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
"""MaeFE: masked autoencoders whose tokens are patches of time over all leads (MTAE) or whole leads (MLAE)."""

import torch
from torch import nn
from transformers import AutoModel, AutoModelForPreTraining
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import torch_compilable_check
from transformers.utils.output_capturing import capture_outputs

from .configuration_maefe import MlaeConfig, MtaeConfig
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


class MaefeEmbeddings(nn.Module):
    """Embeddings of patches and of their positions, and the class token."""

    def __init__(self, config: MtaeConfig | MlaeConfig):
        super().__init__()
        self.patch_embeddings = EcgVitPatchEmbeddings(config.patch_dim, config.hidden_size)
        # Not trained, but saved in checkpoints: a buffer.
        self.position_embeddings = nn.Buffer(torch.zeros(1, config.num_patches + 1, config.hidden_size))
        self.cls_token = nn.Parameter(torch.zeros(config.hidden_size))

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Patches `(batch, patches, patch_dim)` to tokens `(batch, patches, hidden_size)`."""
        return self.patch_embeddings(patches) + self.position_embeddings[:, 1 : 1 + patches.shape[1]]

    def add_cls_token(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens `(batch, tokens, hidden_size)` to `(batch, 1 + tokens, hidden_size)`."""
        cls_token = (self.cls_token + self.position_embeddings[:, :1]).expand(tokens.shape[0], -1, -1)
        return torch.cat([cls_token, tokens], dim=1)


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
class MaefePreTrainedModel(EcgVitPreTrainedModel):
    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, MaefeEmbeddings):
            init.normal_(module.cls_token, std=self.config.initializer_range)
            _, num_positions, hidden_size = module.position_embeddings.shape
            init.copy_(module.position_embeddings, position_table(self.config.num_patches, num_positions, hidden_size))


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
class MaefeModel(MaefePreTrainedModel):
    """Base class of the two encoders, which define how an ECG is cut into patches (`patchify`)."""

    _keys_to_ignore_on_load_unexpected = [r"^decoder\."]  # in a pre-training checkpoint

    def __init__(self, config: MtaeConfig | MlaeConfig):
        super().__init__(config)
        self.embeddings = MaefeEmbeddings(config)
        self.layers = nn.ModuleList(EcgVitLayer(config) for _ in range(config.num_hidden_layers))
        self.layernorm = nn.LayerNorm(config.hidden_size)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.patch_embeddings

    def patchify(self, ecg_values: torch.FloatTensor) -> torch.FloatTensor:
        r"""
        Cuts ECGs into patches.

        Args:
            ecg_values (`torch.FloatTensor` of shape `(batch_size, num_leads, num_samples)`):
                The ECGs, as [`EcgFeatureExtractor`] returns them.

        Returns:
            `torch.FloatTensor` of shape `(batch_size, num_patches, patch_dim)`.

        Raises:
            `ValueError`: If the model does not take `num_samples`.
        """
        raise NotImplementedError

    def check_leads(self, ecg_values: torch.FloatTensor, ecg_lead_mask: torch.BoolTensor | None):
        r"""
        Checks that all leads of the model are present.

        Args:
            ecg_values (`torch.FloatTensor` of shape `(batch_size, num_leads, num_samples)`):
                The ECGs.
            ecg_lead_mask (`torch.BoolTensor` of shape `(batch_size, num_leads)`, *optional*):
                `True` for present leads.

        Raises:
            `ValueError`: If the shape is not as described, or a lead is absent.
        """
        config = self.config
        if ecg_values.dim() != 3 or ecg_values.shape[1] != config.num_leads:
            raise ValueError(
                f"`ecg_values` must have the shape (batch, {config.num_leads} leads, samples), got "
                f"{tuple(ecg_values.shape)}. An {config.model_type} model needs all of its leads; st_mem and ecg_resnet "
                "do not."
            )
        if ecg_lead_mask is not None:
            torch_compilable_check(
                ecg_lead_mask.all(),
                lambda: (
                    f"The ECGs have {ecg_lead_mask.bool().sum(dim=1).tolist()} of {config.num_leads} leads "
                    f"(`ecg_lead_mask`), but an {config.model_type} model needs all of its leads; st_mem and ecg_resnet "
                    "do not."
                ),
            )

    def encode(self, tokens: torch.FloatTensor, **kwargs) -> torch.FloatTensor:
        r"""
        Passes tokens through all layers and the norm.

        Args:
            tokens (`torch.FloatTensor` of shape `(batch_size, num_tokens, hidden_size)`):
                Tokens, the class token first.

        Returns:
            `torch.FloatTensor` of the shape of `tokens`.
        """
        hidden_states = tokens
        for layer in self.layers:
            hidden_states = layer(hidden_states, **kwargs)
        return self.layernorm(hidden_states)

    # trf-ignore: TRF057 (auto_docstring describes the library's own models only)
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self, ecg_values: torch.FloatTensor, ecg_lead_mask: torch.BoolTensor | None = None, **kwargs
    ) -> BaseModelOutputWithPooling:
        r"""
        Args:
            ecg_values (`torch.FloatTensor` of shape `(batch_size, num_leads, num_samples)`):
                The ECGs, as [`EcgFeatureExtractor`] returns them.
            ecg_lead_mask (`torch.BoolTensor` of shape `(batch_size, num_leads)`, *optional*):
                `True` for present leads. All must be present.

        Returns:
            [`BaseModelOutputWithPooling`] with `last_hidden_state` of shape `(batch_size, 1 + num_patches,
            hidden_size)`, the class token and the patches after the norm; and `pooler_output` of shape `(batch_size,
            hidden_size)`, the class token after the norm, which Na et al. 2024 use downstream.

        Raises:
            `ValueError`: If the shape is not as described, or a lead is absent.
        """
        self.check_leads(ecg_values, ecg_lead_mask)
        encoded = self.encode(self.embeddings.add_cls_token(self.embeddings(self.patchify(ecg_values))), **kwargs)
        return BaseModelOutputWithPooling(last_hidden_state=encoded, pooler_output=encoded[:, 0])


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
class MtaeModel(MaefeModel):
    """The encoder of the masked time autoencoder (Zhang et al. 2022). A token is a patch of time of all leads."""

    config: MtaeConfig
    base_model_prefix = "mtae"

    def patchify(self, ecg_values: torch.FloatTensor) -> torch.FloatTensor:
        r"""
        Cuts ECGs into patches. The values of a patch are in the order of time.

        Args:
            ecg_values (`torch.FloatTensor` of shape `(batch_size, num_leads, num_samples)`):
                The ECGs, as [`EcgFeatureExtractor`] returns them.

        Returns:
            `torch.FloatTensor` of shape `(batch_size, num_samples / patch_size, patch_size * num_leads)`.

        Raises:
            `ValueError`: If `num_samples` is not a multiple of `patch_size`, or larger than `config.num_samples`.
        """
        num_samples, patch_size = ecg_values.shape[2], self.config.patch_size
        if num_samples == 0 or num_samples % patch_size or num_samples > self.config.num_samples:
            raise ValueError(
                f"An ECG of {num_samples} samples does not fit: this model takes multiples of patch_size={patch_size} "
                f"up to num_samples={self.config.num_samples}, for which it has positions."
            )
        return ecg_values.transpose(1, 2).unflatten(1, (-1, patch_size)).flatten(2)


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
class MlaeModel(MaefeModel):
    """The encoder of the masked lead autoencoder (Zhang et al. 2022). A token is a whole lead."""

    config: MlaeConfig
    base_model_prefix = "mlae"

    def patchify(self, ecg_values: torch.FloatTensor) -> torch.FloatTensor:
        r"""
        Returns the ECGs unchanged: a patch is a lead.

        Args:
            ecg_values (`torch.FloatTensor` of shape `(batch_size, num_leads, num_samples)`):
                The ECGs, as [`EcgFeatureExtractor`] returns them.

        Raises:
            `ValueError`: If `num_samples` is not `config.num_samples`.
        """
        if ecg_values.shape[2] != self.config.num_samples:
            raise ValueError(
                f"An ECG of {ecg_values.shape[2]} samples does not fit: the first layer of this model takes whole leads "
                f"of num_samples={self.config.num_samples}."
            )
        return ecg_values


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
class MaefeForPreTraining(MaefePreTrainedModel):
    """Base class of the two encoders with a decoder, which reconstructs the masked patches."""

    encoder_class: type[MaefeModel]

    def __init__(self, config: MtaeConfig | MlaeConfig):
        super().__init__(config)
        self.add_module(self.base_model_prefix, self.encoder_class(config))
        self.decoder = EcgVitDecoder(config, num_positions=config.num_patches + 1)
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
                The ECGs, as [`EcgFeatureExtractor`] returns them.
            ecg_lead_mask (`torch.BoolTensor` of shape `(batch_size, num_leads)`, *optional*):
                `True` for present leads. All must be present.
            noise (`torch.FloatTensor` of shape `(batch_size, num_patches)`, *optional*):
                The patches with the smallest noise are kept. Random by default.

        Returns:
            [`EcgMaskedAutoencoderOutput`] with `prediction` of shape `(batch_size, num_patches, patch_dim)` and
            `last_hidden_state` of shape `(batch_size, 1 + num_kept, hidden_size)`.

        Raises:
            `ValueError`: If a shape is not as described, a lead is absent, or `config.mask_ratio` masks no patch or
                all of them.
        """
        encoder = self.base_model
        encoder.check_leads(ecg_values, ecg_lead_mask)
        patches = encoder.patchify(ecg_values)
        kept, mask, ids_restore = mask_tokens(encoder.embeddings(patches), self.config.mask_ratio, noise)
        encoded = encoder.encode(encoder.embeddings.add_cls_token(kept), **kwargs)
        prediction = self.decoder(encoded, ids_restore, **kwargs)
        return EcgMaskedAutoencoderOutput(
            loss=reconstruction_loss(prediction, patches, mask, norm_pix_loss=self.config.norm_pix_loss),
            prediction=prediction,
            mask=mask,
            ids_restore=ids_restore,
            last_hidden_state=encoded,
        )


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
class MtaeForPreTraining(MaefeForPreTraining):
    """The masked time autoencoder (Zhang et al. 2022)."""

    config: MtaeConfig
    base_model_prefix = "mtae"
    encoder_class = MtaeModel


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
class MlaeForPreTraining(MaefeForPreTraining):
    """The masked lead autoencoder (Zhang et al. 2022)."""

    config: MlaeConfig
    base_model_prefix = "mlae"
    encoder_class = MlaeModel


MtaeModel.register_for_auto_class("AutoModel")
MtaeForPreTraining.register_for_auto_class("AutoModelForPreTraining")
MlaeModel.register_for_auto_class("AutoModel")
MlaeForPreTraining.register_for_auto_class("AutoModelForPreTraining")
AutoModel.register(MtaeConfig, MtaeModel, exist_ok=True)
AutoModelForPreTraining.register(MtaeConfig, MtaeForPreTraining, exist_ok=True)
AutoModel.register(MlaeConfig, MlaeModel, exist_ok=True)
AutoModelForPreTraining.register(MlaeConfig, MlaeForPreTraining, exist_ok=True)

__all__ = ["MlaeForPreTraining", "MlaeModel", "MtaeForPreTraining", "MtaeModel"]
