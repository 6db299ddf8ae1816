"""Tiny real models for the tests: five LLM families from their configurations, with tokenizers trained on the spot."""

from importlib.resources import files

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast


LLM_FAMILIES = ("llama", "qwen2", "qwen3", "gemma2", "gpt2", "opt")

# Per family: the chat template that comes with trl (None: GPT-2 and OPT have none), and its special tokens.
_CHAT = {
    "llama": (
        "llama3.jinja",
        "<|begin_of_text|>",
        "<|end_of_text|>",
        ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    ),
    "qwen2": ("qwen2_5.jinja", None, "<|endoftext|>", ["<|im_start|>", "<|im_end|>"]),
    "qwen3": ("qwen3.jinja", None, "<|endoftext|>", ["<|im_start|>", "<|im_end|>"]),
    "gemma2": ("gemma.jinja", "<bos>", "<eos>", ["<start_of_turn>", "<end_of_turn>"]),
    "gpt2": (None, "<|endoftext|>", "<|endoftext|>", []),
    "opt": (None, "</s>", "</s>", []),
}
END_OF_TURN = {
    "llama": "<|eot_id|>",
    "qwen2": "<|im_end|>",
    "qwen3": "<|im_end|>",
    "gemma2": "<end_of_turn>",
    "gpt2": "<|endoftext|>",
    "opt": "</s>",
}

_SIZES = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512},
    "opt": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "ffn_dim": 64,
        "word_embed_proj_dim": 16,
    },
}
_SIZE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 64,
    "max_position_embeddings": 512,
}

CORPUS = [
    "User Assistant system user assistant model You are a helpful assistant.",
    "What is the rhythm of this ECG? sinus rhythm, atrial fibrillation, sinus tachycardia.",
    "Does the second ECG show a new finding? yes no none left axis deviation <|ecg|>",
    "Compare the two ECGs: the rate of the first is higher, the PR interval is prolonged.",
] * 4


def tiny_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with the family's special tokens and chat template."""
    template, bos, eos, others = _CHAT[family]
    special = list(dict.fromkeys(token for token in (bos, eos, *others) if token))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=eos)
    if template is not None:
        wrapped.chat_template = (files("trl") / "chat_templates" / template).read_text()
    return wrapped


def tiny_llm(family: str, vocab_size: int = 512) -> torch.nn.Module:
    """A two-layer LLM of the family with random weights, in evaluation mode; `vocab_size` leaves room for new tokens."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, vocab_size=vocab_size, **_SIZES.get(family, _SIZE))
    config.pad_token_id = config.bos_token_id = config.eos_token_id = 0
    return AutoModelForCausalLM.from_config(config).eval()
