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
"""Text generation with an ECG-language model."""

import torch
from transformers import GenerationMixin


class ElmGenerationMixin(GenerationMixin):
    """Passes the ECGs of each conversation through `generate`."""

    def prepare_inputs_for_generation(
        self,
        input_ids,
        inputs_embeds=None,
        ecg_values=None,
        ecg_lead_mask=None,
        encoder_hidden_states=None,
        sequence_ids=None,
        ecg_pictures=None,
        ecg_modality_mask=None,
        ecg_measurements=None,
        is_first_iteration=False,
        **kwargs,
    ):
        """Adds the ECGs to the prompt. If there is a cache, later steps find them in it."""
        cache = kwargs.get("past_key_values")
        is_prompt = is_first_iteration or not kwargs.get("use_cache", True)
        # The prompt of an assistant, whose cache is empty, does not count as first iteration.
        if not is_prompt and cache is not None and kwargs.get("next_sequence_length") != 1:
            is_prompt = cache.get_seq_length() == 0
        if sequence_ids is not None:
            raise ValueError(
                "`sequence_ids` pack several conversations into a row, in training. `generate` continues one conversation "
                "per row: drop `sequence_ids` and give each conversation its own row."
            )
        model_inputs = super().prepare_inputs_for_generation(
            input_ids, inputs_embeds=inputs_embeds, is_first_iteration=is_first_iteration, **kwargs
        )
        if is_prompt:
            model_inputs["ecg_values"] = ecg_values
            model_inputs["ecg_lead_mask"] = ecg_lead_mask
            model_inputs["encoder_hidden_states"] = encoder_hidden_states
            model_inputs["ecg_pictures"] = ecg_pictures
            model_inputs["ecg_modality_mask"] = ecg_modality_mask
            model_inputs["ecg_measurements"] = ecg_measurements
        return model_inputs

    def _expand_inputs_for_generation(
        self,
        expand_size=1,
        is_encoder_decoder=False,
        input_ids=None,
        ecg_values=None,
        ecg_lead_mask=None,
        encoder_hidden_states=None,
        ecg_pictures=None,
        ecg_modality_mask=None,
        ecg_measurements=None,
        **kwargs,
    ):
        """Repeats each conversation with its ECGs `expand_size` times, for beams or samples."""
        ecgs = {
            "ecg_values": ecg_values,
            "ecg_lead_mask": ecg_lead_mask,
            "encoder_hidden_states": encoder_hidden_states,
            "ecg_pictures": ecg_pictures,
            "ecg_modality_mask": ecg_modality_mask,
            "ecg_measurements": ecg_measurements,
        }
        ecgs = {name: value for name, value in ecgs.items() if value is not None}
        if ecgs and expand_size > 1:
            order = self._expanded_ecg_order(input_ids, kwargs.get("inputs_embeds"), expand_size)
            ecgs = {name: value[order] for name, value in ecgs.items()}
        input_ids, kwargs = super()._expand_inputs_for_generation(
            expand_size=expand_size, is_encoder_decoder=is_encoder_decoder, input_ids=input_ids, **kwargs
        )
        return input_ids, kwargs | ecgs

    def _expanded_ecg_order(
        self, input_ids: torch.LongTensor, inputs_embeds: torch.FloatTensor | None, expand_size: int
    ) -> torch.LongTensor:
        """Indices of the ECGs if every conversation is repeated `expand_size` times in place."""
        # If the prompt is given as embeddings, `generate` does not use `input_ids`.
        is_ecg = self.model.find_placeholders(input_ids if inputs_embeds is None else None, inputs_embeds)
        num_ecgs = is_ecg.sum(dim=1) // self.config.num_ecg_tokens
        ecgs_of_each = torch.arange(int(num_ecgs.sum()), device=is_ecg.device).split(num_ecgs.tolist())
        return torch.cat([ecgs.repeat(expand_size) for ecgs in ecgs_of_each])


__all__ = ["ElmGenerationMixin"]
