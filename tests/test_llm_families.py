"""Families of LLMs: those that compose an ELM, with the logits of the LLM, and those that are refused in one line."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from elm_hf.modeling.modeling_elm import ElmForCausalLM


# Sizes under the names of all families; each takes those that it has.
SIZES = {
    **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8},
    **{"intermediate_size": 64, "max_position_embeddings": 128, "vocab_size": 64, "moe_intermediate_size": 16},
    **{"num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "ffn_dim": 64},
    **{"d_model": 32, "n_layer": 2, "n_head": 4, "n_embd": 32, "n_positions": 128},
    **{"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0},
}
FEWER = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "max_position_embeddings")
COMPOSE = (
    *("afmoe", "apertus", "arcee", "aria_text", "beam", "biogpt", "bitnet", "bloom", "cohere", "cohere2"),
    *("cohere2_moe", "cwm", "diffllama", "doge", "ernie4_5", "ernie4_5_moe", "exaone4", "exaone_moe", "falcon"),
    *("flex_olmo", "flint", "fuyu", "gemma", "gemma2", "gemma3_text", "gemma4_unified_text", "glm", "glm4"),
    *("glm4_moe", "gpt-sw3", "gpt2", "gpt_bigcode", "gpt_neox", "gpt_neox_japanese", "gpt_oss", "granite"),
    *("granite_swa", "granitemoe", "granitemoe_swa", "granitemoeshared", "helium", "hrm_text"),
    *("hunyuan_v1_dense", "hunyuan_v1_moe", "hy_v3", "hyperclovax", "internlm3", "iquestcoder", "jais2"),
    *("jetmoe", "kolibri1", "laguna", "lfm2", "llama", "mellum", "mimo_v2_flash", "minimax", "minimax_m2"),
    *("ministral", "ministral3", "mistral", "mixtral", "moshi", "mpt", "nanochat", "nemotron", "olmo", "olmo2"),
    *("olmo3", "olmo_hybrid", "olmoe", "opt", "persimmon", "phi", "phi3", "phimoe", "qwen2", "qwen3"),
    *("qwen3_moe", "seed_oss", "smollm3", "solar_open", "stablelm", "starcoder2", "vaultgemma", "xglm"),
)
REFUSED = (
    *("bart", "bert", "ctrl", "falcon_mamba", "jamba", "llama4_text", "mamba", "marian", "mbart"),
    *("megatron-bert", "openai-gpt", "recurrent_gemma", "roberta", "rwkv", "trocr"),
)


def tiny_llm_of(family: str):
    torch.manual_seed(0)
    try:
        config = AutoConfig.for_model(family, **SIZES)
    except (AttributeError, TypeError, ValueError):
        config = AutoConfig.for_model(family, **{name: SIZES[name] for name in FEWER})
    return AutoModelForCausalLM.from_config(config).eval()


def compose(llm):
    return ElmForCausalLM.from_encoder_llm_pretrained(None, llm, ecg_token_id=63, num_ecg_tokens=10, num_samples=500)


@pytest.mark.parametrize("family", COMPOSE)
def test_families_compose_with_the_logits_of_the_llm(family):
    llm = tiny_llm_of(family)
    ids = torch.arange(1, 9)[None]
    with torch.no_grad():
        expected = llm(input_ids=ids).logits
        assert torch.allclose(compose(llm)(input_ids=ids).logits, expected, atol=1e-4)


@pytest.mark.parametrize("family", REFUSED)
def test_other_families_are_refused_by_name_in_one_line(family):
    with pytest.raises(
        ValueError, match=rf'\("{family}"\) is not supported as the LLM of an ECG-language model: [^\n]*\.$'
    ):
        compose(tiny_llm_of(family))
