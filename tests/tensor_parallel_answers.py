"""
Loads an ELM whole and with tensor parallelism, gives both the same conversations with ECGs, and saves the latter.

The tests start it with `torchrun`.
"""

import sys

import torch
from transformers.distributed import DistributedConfig

from elm_hf.modeling.modeling_elm import ElmForCausalLM


if __name__ == "__main__":
    folder, output = sys.argv[1:]
    whole = ElmForCausalLM.from_pretrained(folder)
    spread = ElmForCausalLM.from_pretrained(folder, distributed_config=DistributedConfig(tp_plan="auto"))
    config = whole.config
    torch.manual_seed(0)
    input_ids = torch.randint(3, 100, (2, config.num_ecg_tokens + 20))
    input_ids[:, 5 : 5 + config.num_ecg_tokens] = config.ecg_token_id
    inputs = {"input_ids": input_ids, "ecg_values": torch.randn(2, config.num_leads, config.num_samples)}
    inputs["attention_mask"] = torch.ones_like(input_ids)
    with torch.no_grad():
        assert torch.allclose(spread(**inputs).logits, whole(**inputs).logits, rtol=0, atol=1e-5)
    answers = [model.generate(**inputs, max_new_tokens=5, do_sample=False) for model in (spread, whole)]
    assert torch.equal(*answers)
    query = spread.model.language_model.layers[0].self_attn.q_proj.weight
    assert query.to_local().shape[0] * 2 == query.shape[0]
    spread.save_pretrained(output)
