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
"""What ECG-FM and HuBERT-ECG share: ECGs in pieces of 5 s, and predictions averaged over pieces."""

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized
from transformers import HubertConfig, HubertPreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPooling

from .encoder_parts import EcgForSequenceClassification


def cut_into_pieces(ecg_values: torch.Tensor, piece_samples: int | None) -> torch.Tensor:
    r"""
    Cuts ECGs into consecutive pieces.

    Args:
        ecg_values (`torch.Tensor` of shape `(batch_size, num_leads, num_samples)`):
            The ECGs.
        piece_samples (`int`, *optional*):
            Number of samples of a piece. A shorter ECG is one piece. `None`: each ECG is one piece.

    Returns:
        `torch.Tensor` of shape `(batch_size * num_pieces, num_leads, piece_samples)`.

    Raises:
        `ValueError`: If `ecg_values` has another number of dimensions, or its last piece would be shorter.
    """
    if ecg_values.dim() != 3:
        raise ValueError(f"`ecg_values` must have the shape (batch, leads, samples), got {tuple(ecg_values.shape)}.")
    num_samples = ecg_values.shape[2]
    if piece_samples is None or num_samples <= piece_samples:
        return ecg_values
    if num_samples % piece_samples:
        raise ValueError(
            f"An ECG of {num_samples} samples cannot be cut into pieces of {piece_samples} samples: give a multiple of "
            "it, or fewer samples."
        )
    return ecg_values.unflatten(2, (-1, piece_samples)).transpose(1, 2).flatten(0, 1)


def join_pieces(outputs: BaseModelOutput, batch_size: int) -> BaseModelOutputWithPooling:
    r"""
    Puts the tokens of the pieces of each ECG one after the other.

    Args:
        outputs ([`BaseModelOutput`]):
            Output for pieces.
        batch_size (`int`):
            Number of ECGs.

    Returns:
        [`BaseModelOutputWithPooling`] with `last_hidden_state` of shape `(batch_size, num_pieces * num_tokens,
        hidden_size)`, its mean as `pooler_output`, and `hidden_states` and `attentions` of the pieces.
    """
    tokens = outputs.last_hidden_state.unflatten(0, (batch_size, -1)).flatten(1, 2)
    return BaseModelOutputWithPooling(
        last_hidden_state=tokens,
        pooler_output=tokens.mean(dim=1),
        hidden_states=outputs.hidden_states,
        attentions=outputs.attentions,
    )


def average_predictions(logits: torch.Tensor, problem_type: str | None) -> torch.Tensor:
    r"""
    The predictions for ECGs from those for their pieces.

    Args:
        logits (`torch.Tensor` of shape `(batch_size, num_pieces, num_labels)`):
            Logits of the pieces.
        problem_type (`str`, *optional*):
            As in the configuration.

    Returns:
        `torch.Tensor` of shape `(batch_size, num_labels)`: logits whose sigmoid is the mean of the pieces' sigmoids;
        the mean of the logits if an ECG has a single label.
    """
    if problem_type == "single_label_classification" or logits.shape[1] == 1:
        return logits.mean(dim=1)
    log_present = nn.functional.logsigmoid(logits).logsumexp(dim=1)
    log_absent = nn.functional.logsigmoid(-logits).logsumexp(dim=1)
    return log_present - log_absent


class EcgPiecesForSequenceClassification(EcgForSequenceClassification):
    """The forward pass of a classifier on the mean token of each piece."""

    def classify(self, ecg_values: torch.FloatTensor, outputs: BaseModelOutputWithPooling) -> torch.FloatTensor:
        """The average of the predictions for all pieces, see [`average_predictions`]."""
        num_pieces = max(1, ecg_values.shape[2] // (self.config.piece_samples or ecg_values.shape[2]))
        pooled = outputs.last_hidden_state.unflatten(1, (num_pieces, -1)).mean(dim=2)
        return average_predictions(self.classifier(pooled), self.config.problem_type)


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
class EcgHubertPreTrainedModel(HubertPreTrainedModel):
    """Base class of models that are transformers' HuBERT behind other first layers."""

    config: HubertConfig
    main_input_name = "ecg_values"
    input_modalities = ("ecg",)
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if is_parametrized(module, "weight"):  # the convolution of positions
            weight = module.parametrizations.weight  # original0 is the length of original1 for each tap
            init.normal_(
                weight.original1, std=2 * (self.config.num_conv_pos_embeddings * self.config.hidden_size) ** -0.5
            )
            init.copy_(weight.original0, weight.original1.norm(dim=(0, 1), keepdim=True))


__all__ = [
    "EcgHubertPreTrainedModel",
    "EcgPiecesForSequenceClassification",
    "average_predictions",
    "cut_into_pieces",
    "join_pieces",
]
