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
"""What ECG encoders share: the check of the mask of leads, and the forward pass of classifiers."""

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling, SequenceClassifierOutput
from transformers.utils import can_return_tuple, torch_compilable_check


def check_lead_mask(ecg_values: torch.Tensor, ecg_lead_mask: torch.Tensor | None):
    r"""
    Checks a mask of leads.

    Args:
        ecg_values (`torch.Tensor` of shape `(batch_size, num_leads, num_samples)`):
            The ECGs.
        ecg_lead_mask (`torch.Tensor`, *optional*):
            The mask.

    Raises:
        `ValueError`: If the mask has another shape than `(batch_size, num_leads)`, or an ECG has no lead.
    """
    if ecg_lead_mask is None:
        return
    if ecg_lead_mask.shape != ecg_values.shape[:2]:
        raise ValueError(
            f"`ecg_lead_mask` must have the shape {tuple(ecg_values.shape[:2])}, got {tuple(ecg_lead_mask.shape)}."
        )
    torch_compilable_check(ecg_lead_mask.any(dim=1).all(), "`ecg_lead_mask` has an ECG without any lead.")


class EcgForSequenceClassification:
    """
    The forward pass of an encoder with a classifier. A subclass builds both: the encoder under its
    `base_model_prefix`, and `classifier`.
    """

    # The loss is the mean over the batch: `Trainer` must divide it when it accumulates gradients.
    accepts_loss_kwargs = False

    def classify(self, ecg_values: torch.FloatTensor, outputs: BaseModelOutputWithPooling) -> torch.FloatTensor:
        r"""
        The logits of ECGs: by default those of `pooler_output`.

        Args:
            ecg_values (`torch.FloatTensor` of shape `(batch_size, num_leads, num_samples)`):
                The ECGs.
            outputs ([`BaseModelOutputWithPooling`]):
                Outputs of the encoder.

        Returns:
            `torch.FloatTensor` of shape `(batch_size, num_labels)`.
        """
        return self.classifier(outputs.pooler_output)

    @can_return_tuple
    def forward(
        self,
        ecg_values: torch.FloatTensor,
        ecg_lead_mask: torch.BoolTensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs,
    ) -> SequenceClassifierOutput:
        r"""
        Args:
            ecg_values (`torch.FloatTensor` of shape `(batch_size, num_leads, num_samples)`):
                The ECGs, as the encoder takes them.
            ecg_lead_mask (`torch.BoolTensor` of shape `(batch_size, num_leads)`, *optional*):
                `True` for present leads; all by default.
            labels (`torch.LongTensor` of shape `(batch_size,)` or `torch.FloatTensor` of shape
                `(batch_size, num_labels)`, *optional*):
                Classes for the cross-entropy, or 0/1 per class for the multi-label loss (`config.problem_type`).

        Returns:
            [`SequenceClassifierOutput`] with `logits` of shape `(batch_size, num_labels)`.

        Raises:
            `ValueError`: As for the encoder.
        """
        outputs = self.base_model(ecg_values, ecg_lead_mask=ecg_lead_mask, return_dict=True, **kwargs)
        logits = self.classify(ecg_values, outputs)
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


__all__ = ["EcgForSequenceClassification", "check_lead_mask"]
