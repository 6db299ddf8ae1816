"""Merged adapters are the models that were trained: learnt ECG tokens and copies of layers with a shared head."""

import numpy as np
import pytest
import torch
from peft import PeftModel, get_peft_model
from test_compositions import COMPOSITIONS, compose
from trl import ModelConfig

from elm_hf.checkpoints.load import load_checkpoint
from elm_hf.checkpoints.merge import merge_adapter
from elm_hf.modeling.modeling_elm import ElmForCausalLM
from elm_hf.training.parts import lora_config


@pytest.mark.parametrize(
    "settings, parts", [({}, ["llm", "ecg_tokens"]), ({"lora_modules_to_save": ["lm_head"]}, ["llm"])]
)
def test_a_merged_adapter_is_the_same_model_where_the_head_shares_the_embeddings(
    settings, parts, ecg_tokenizer, tmp_path
):
    composed, processor = compose(COMPOSITIONS["symbol"], "gemma2", ecg_tokenizer)
    assert composed.config.tie_word_embeddings
    composed.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    base = ElmForCausalLM.from_pretrained(tmp_path / "base")
    adapted = get_peft_model(base, lora_config(base, ModelConfig(use_peft=True, lora_r=4, **settings), parts)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    adapted.save_pretrained(tmp_path / "adapter")
    processor.save_pretrained(tmp_path / "adapter")

    first = base.config.ecg_token_offset
    ids = torch.from_numpy(np.r_[3:10, first : first + 20])[None]
    with torch.no_grad():
        expected = adapted(input_ids=ids, labels=ids)
        merge_adapter(tmp_path / "adapter", tmp_path / "merged")
        merged, _ = load_checkpoint(tmp_path / "merged", device="cpu")
        found = merged(input_ids=ids, labels=ids)
    assert torch.allclose(found.logits, expected.logits, atol=1e-4)
    assert found.loss.item() == pytest.approx(expected.loss.item(), abs=1e-5)
    again = PeftModel.from_pretrained(ElmForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "adapter").eval()
    with torch.no_grad():
        assert torch.allclose(again(input_ids=ids).logits, expected.logits, atol=1e-5)
