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
"""The causal LLM of an ECG-language model: its text part, and the checks that it can be one."""

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel


# What transformers raises about a model that does not have the usual parts.
UNUSUAL_PARTS = (AttributeError, KeyError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError)
# Names of the LLM's input embeddings that the head can share: most families, GPT-2, Bloom, GPT-NeoX, OPT.
TIED_EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "embed_in", "decoder.embed_tokens")


class _Unusual(TypeError):
    """An LLM is built in a way that an ECG-language model does not take."""


def text_part(llm: PreTrainedModel) -> PreTrainedModel:
    r"""
    The causal LLM inside a model of text and pictures, such as Gemma 3 from 4B on.

    Args:
        llm (`PreTrainedModel`):
            A causal LLM or a model that contains one.

    Returns:
        `PreTrainedModel`: The LLM with the same weights, `llm` itself if it has no other parts.

    Raises:
        `ValueError`: If the text part is not one that transformers has as a causal LLM.
    """
    text_config = llm.config.get_text_config(decoder=True)
    if text_config is llm.config:
        return llm
    try:
        with torch.device("meta"):
            text_llm = AutoModelForCausalLM.from_config(text_config, dtype=llm.dtype)
        decoder = llm.get_decoder()
        if type(decoder) is not type(text_llm.base_model):
            raise _Unusual(f"its text part is a {type(decoder).__name__}")
        setattr(text_llm, text_llm.base_model_prefix, decoder)
        text_llm.set_output_embeddings(llm.get_output_embeddings())
    except UNUSUAL_PARTS as error:
        raise unsupported(llm, error) from error
    text_llm.generation_config = llm.generation_config
    text_llm.name_or_path = llm.name_or_path
    return text_llm.train(llm.training)


def check_llm(llm: PreTrainedModel):
    r"""
    Checks that an LLM has the parts that an ECG-language model takes.

    Args:
        llm (`PreTrainedModel`):
            The LLM.

    Raises:
        `ValueError`: If it has no head, or its head shares input embeddings of another name.
    """
    try:
        head, embeddings = llm.get_output_embeddings(), llm.get_input_embeddings()
        names = [name for name, module in llm.base_model.named_modules() if module is embeddings]
        if not isinstance(head, nn.Linear):
            raise _Unusual(f"its head is a {type(head).__name__}, not a linear layer")
        if llm.config.tie_word_embeddings and not any(name in TIED_EMBEDDINGS for name in names):
            raise _Unusual(
                f"its head shares the input embeddings `{', '.join(names)}`; supported names are "
                f"{', '.join(TIED_EMBEDDINGS)}"
            )
    except UNUSUAL_PARTS as error:
        raise unsupported(llm, error) from error


@torch.no_grad()
def check_logits(model: PreTrainedModel, llm: PreTrainedModel):
    r"""
    Checks that a text without ECGs gets the logits that the LLM gives it, which families with a special head do not,
    and that no token reads later ones.

    Args:
        model ([`ElmForCausalLM`]):
            The ECG-language model that contains the LLM.
        llm (`PreTrainedModel`):
            The LLM.

    Raises:
        `ValueError`: If the logits differ.
    """
    ids = text_token_ids(model.config, 4)
    input_ids = torch.tensor([ids, [*ids[:3], ids[0]]], device=llm.device)
    was_training = llm.training  # dropout would change the logits
    llm.eval()
    model.eval()
    try:
        expected = llm(input_ids=input_ids).logits
        found = model(input_ids=input_ids).logits
        if not torch.allclose(found, expected, atol=1e-4, rtol=1e-4):
            raise _Unusual("it computes its logits in a way that ElmForCausalLM does not reproduce")
        if not torch.allclose(expected[0, :3], expected[1, :3], atol=1e-3, rtol=1e-3):
            raise _Unusual("its tokens read later ones, so that it is not a causal LLM")
    except UNUSUAL_PARTS as error:
        raise unsupported(llm, error) from error
    finally:
        llm.train(was_training)
        model.eval()


def scale_logits(logits: torch.Tensor, text_config: PreTrainedConfig) -> torch.Tensor:
    r"""
    Scales logits as some LLM families do. Only their configurations have these fields.

    Args:
        logits (`torch.Tensor`):
            Logits of the head.
        text_config (`PreTrainedConfig`):
            Configuration of the LLM.
    """
    if (logit_scale := getattr(text_config, "logit_scale", None)) is not None:  # Cohere
        logits = logits * logit_scale
    if (logits_scaling := getattr(text_config, "logits_scaling", None)) is not None:  # Granite
        logits = logits / logits_scaling
    if (softcapping := getattr(text_config, "final_logit_softcapping", None)) is not None:  # Gemma 2
        logits = torch.tanh(logits / softcapping) * softcapping
    return logits


def text_token_ids(config: PreTrainedConfig, number: int) -> list[int]:
    r"""
    Ids of a text to try a model with: the first ones of the vocabulary, without the placeholder of ECGs.

    Args:
        config ([`ElmConfig`]):
            Configuration of the model.
        number (`int`):
            Number of ids.
    """
    return [token_id for token_id in range(number + 1) if token_id != config.ecg_token_id][:number]


def unsupported(llm: PreTrainedModel, error: Exception) -> ValueError:
    r"""
    The error for an LLM that cannot be part of an ECG-language model.

    Args:
        llm (`PreTrainedModel`):
            The LLM.
        error (`Exception`):
            The cause.
    """
    cause = " ".join(str(error).split())[:300]
    if not isinstance(error, _Unusual):
        cause = f"it has other parts or inputs than a causal LLM of text ({type(error).__name__}: {cause})"
    return ValueError(
        f'{type(llm).__name__} ("{llm.config.model_type}") is not supported as the LLM of an ECG-language model: {cause}.'
    )


__all__ = [
    "TIED_EMBEDDINGS",
    "UNUSUAL_PARTS",
    "check_llm",
    "check_logits",
    "scale_logits",
    "text_part",
    "text_token_ids",
    "unsupported",
]
