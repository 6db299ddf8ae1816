"""The causal LLM of a new ELM: what is checked before its weights are read, loading, and its generation settings."""

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

from elm_hf.checkpoints.load import load_pretrained
from elm_hf.modeling.llm_parts import UNUSUAL_PARTS, text_token_ids
from elm_hf.utils.positions import position_limit


logger = logging.get_logger(__name__)

# Settings of transformers' generation that hold tokens, which stay when others are not valid.
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "suppress_tokens")


def llm_config(name: str) -> PreTrainedConfig:
    """
    The configuration of a pre-trained LLM, without its weights.

    Raises:
        ValueError: the checkpoint is not a causal LLM.
    """
    config = load_pretrained(AutoConfig, name)
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ValueError(f'{name}: a checkpoint of type "{config.model_type}"; expected a causal LLM.')
    return config


def new_llm_config(settings: dict, tokenizer: PreTrainedTokenizerBase) -> PreTrainedConfig:
    """The configuration of a new LLM with the vocabulary and special tokens of a tokenizer."""
    config = AutoConfig.for_model(**settings | {"vocab_size": len(tokenizer)})
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config, name, getattr(tokenizer, name))
    return config


def load_llm(name: str | None, config: PreTrainedConfig, dtype: str) -> PreTrainedModel:
    """Loads the LLM `name`, or creates one with random weights if it is None."""
    if name is not None:
        return load_pretrained(AutoModelForCausalLM, name, dtype=dtype)
    try:
        return AutoModelForCausalLM.from_config(config)
    except UNUSUAL_PARTS as error:
        raise ValueError(f'`text_config`: transformers cannot build a "{config.model_type}" LLM: {error}') from error


def check_room_for_ecgs(config: PreTrainedConfig, num_ecg_tokens: int, option: str) -> None:
    """
    Checks that an ECG leaves room for text in an LLM with a fixed number of positions.

    Args:
        config: configuration of the LLM.
        num_ecg_tokens: largest number of tokens of an ECG.
        option: command-line option that sets this number.

    Raises:
        ValueError: an ECG fills all positions.
    """
    limit = position_limit(config)
    if limit is not None and num_ecg_tokens >= limit:
        raise ValueError(
            f'An ECG takes up to {num_ecg_tokens} tokens, and the "{config.model_type}" LLM reads at most {limit}; '
            f"choose fewer than {limit} ({option})."
        )


def check_answers_are_learnt(processor: ProcessorMixin) -> None:
    """
    Checks with a short conversation about an ECG that a model can learn answers as it will be asked for them.

    Raises:
        ValueError: the chat template refuses or drops a turn or the ECG, writes an answer in another way than after its
            prompt, or ends it with no special token.
    """
    question = {"role": "user", "content": [{"type": "ecg"}, {"type": "text", "text": "a"}]}
    processor.tokenize_conversation([question, {"role": "assistant", "content": "b"}], processor.placeholders(1))


def set_generation(model: PreTrainedModel, processor: ProcessorMixin) -> None:
    """
    Adds the end of the assistant's turn to the tokens that end generation, and sets the padding token and side. Settings
    that transformers does not save, such as a temperature without sampling (Vicuna 1.5), are dropped with a warning.
    """
    generation = model.generation_config
    known = generation.eos_token_id
    ends = set(known if isinstance(known, list) else [known]) | {processor.end_of_turn_token_id}
    generation.eos_token_id = sorted(end for end in ends if end is not None)
    generation.pad_token_id = processor.tokenizer.pad_token_id
    processor.tokenizer.padding_side = "left"  # which pipelines take from it
    processor.tokenizer.init_kwargs["padding_side"] = "left"  # which are saved
    text_config: PreTrainedConfig = model.config.text_config
    text_config.pad_token_id = processor.tokenizer.pad_token_id
    try:
        generation.validate(strict=True)
    except (ValueError, TypeError) as error:
        model.generation_config = GenerationConfig(**{name: getattr(generation, name) for name in _TOKENS})
        dropped = sorted(generation.to_diff_dict().keys() - model.generation_config.to_diff_dict().keys())
        logger.warning(
            f"The LLM's generation settings are not valid ({' '.join(str(error).split())[:200]}): dropped "
            f"{', '.join(dropped)}."
        )


@torch.no_grad()
def check_saved(model: PreTrainedModel, folder: str) -> None:
    """
    Checks that a saved ELM is loaded as the model that was saved.

    Args:
        model: the model.
        folder: the checkpoint.

    Raises:
        ValueError: a weight or buffer, or the logits of a text, differ.
    """
    loaded = type(model).from_pretrained(folder, dtype=model.dtype)
    found = dict(loaded.named_parameters()) | dict(loaded.named_buffers())
    expected = dict(model.named_parameters()) | dict(model.named_buffers())
    differing = [
        name
        for name, value in expected.items()
        if name not in found or not torch.equal(value.cpu().nan_to_num(), found[name].cpu().nan_to_num())
    ]
    input_ids = torch.tensor([text_token_ids(model.config, 4)], device=model.device)
    logits = loaded.to(model.device).eval()(input_ids=input_ids).logits
    if not differing and not torch.allclose(model.eval()(input_ids=input_ids).logits, logits, atol=1e-4, rtol=1e-4):
        differing = ["the logits"]
    if differing:
        raise ValueError(
            f'The "{model.config.text_config.model_type}" LLM is not loaded as it was saved: {differing[0]} '
            f"{'differs' if len(differing) == 1 else f'and {len(differing) - 1} others differ'}. It is not supported as the "
            "LLM of an ECG-language model."
        )
