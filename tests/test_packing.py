"""Packed batches: the loss and the gradients of conversations on their own, whatever the LLM; what cannot be packed."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_models import LLM_FAMILIES, tiny_llm, tiny_tokenizer
from transformers import AutoModelForCausalLM
from transformers import modeling_flash_attention_utils as flash

from elm_hf.data.loading import load_elm_dataset
from elm_hf.modeling.feature_extraction_ecg import EcgFeatureExtractor
from elm_hf.modeling.modeling_elm import ElmForCausalLM
from elm_hf.modeling.processing_elm import ElmProcessor
from elm_hf.training.checks import check_packing
from elm_hf.training.collator import ElmDataCollator
from elm_hf.training.packing import IGNORE_INDEX, pack_by_ecg, prefix_length


QUESTIONS = [
    ("What is the rhythm?", "sinus rhythm"),
    ("What is the rate?", "60"),
    ("Is there atrial fibrillation?", "no"),
    ("What is the rhythm?", "atrial fibrillation"),
]


def elm_and_processor(family: str, **config) -> tuple[ElmForCausalLM, ElmProcessor]:
    llm = tiny_llm(family)
    if config:
        torch.manual_seed(0)
        llm = AutoModelForCausalLM.from_config(type(llm.config)(**llm.config.to_dict() | config)).eval()
    for parameter in llm.parameters():
        parameter.data *= 4  # so that attention to the wrong token shows
    processor = ElmProcessor(EcgFeatureExtractor(num_samples=500), tiny_tokenizer(family), num_ecg_tokens=5)
    model = ElmForCausalLM.from_encoder_llm_pretrained(
        None, llm, ecg_token_id=processor.ecg_token_id, num_ecg_tokens=5, num_samples=500
    )
    return model, processor


def row(question: str, answer: str, ecgs: np.ndarray, ecg_last: bool = False) -> dict:
    items = [{"type": "ecg", "text": None} for _ in ecgs]
    text = [{"type": "text", "text": question}]
    return {
        "messages": [
            {"role": "user", "content": text + items if ecg_last else items + text},
            {"role": "assistant", "content": [{"type": "text", "text": answer}]},
        ],
        "ecgs": list(ecgs),
        "sampling_rate": 250,
    }


def loss_and_gradients(model: ElmForCausalLM, batches: list[dict]) -> tuple[float, dict[str, torch.Tensor]]:
    """Averaged over the tokens of all batches, as the trainer does."""
    model.zero_grad()
    total = 0.0
    num_items = sum(int((batch["labels"][:, 1:] != IGNORE_INDEX).sum()) for batch in batches)
    for batch in batches:
        loss = model(**batch, num_items_in_batch=num_items, use_cache=False).loss
        loss.backward()
        total += loss.item()
    return total, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(model: ElmForCausalLM, batches: list[dict], expected: list[dict]):
    loss, gradients = loss_and_gradients(model, batches)
    expected_loss, expected_gradients = loss_and_gradients(model, expected)
    assert loss == pytest.approx(expected_loss, abs=1e-5)
    assert gradients.keys() == expected_gradients.keys()
    largest = max(gradient.abs().max() for gradient in expected_gradients.values())
    for name, gradient in expected_gradients.items():
        assert torch.allclose(gradients[name], gradient, atol=1e-5 * max(1, largest)), name


@pytest.mark.parametrize(  # sdpa cannot cap logits as Gemma 2 does
    "family, attention", [*((family, "eager") for family in LLM_FAMILIES), ("qwen2", "sdpa"), ("llama", "sdpa")]
)
def test_questions_behind_one_ecg_learn_as_each_alone(family, attention, ecgs):
    model, processor = elm_and_processor(family)
    model.model.language_model.set_attn_implementation(attention)
    processor.system_prompt = "You are a helpful assistant."
    collator = ElmDataCollator(processor)
    packs = [
        [row(*question, ecgs[:1]) for question in QUESTIONS],
        [row(*question, ecgs[1:]) for question in QUESTIONS[:2]],
        [row("Hello?", "yes", ecgs[:0])],
    ]
    packed = collator([{"conversations": pack} for pack in packs])
    alone = [collator([one]) for pack in packs for one in pack]
    assert packed["input_ids"].shape[0] == 3 and packed["ecg_values"].shape[0] == 3
    assert packed["attention_mask"].sum() < 0.8 * sum(one["input_ids"].shape[1] for one in alone)
    assert_same(model, [packed], alone)


@pytest.mark.parametrize("family", [family for family in LLM_FAMILIES if family != "opt"])
def test_conversations_without_padding_learn_as_each_alone(family, ecgs):
    model, processor = elm_and_processor(family)
    rows = [row(*QUESTIONS[0], ecgs[:1]), row("Hello?", "yes", ecgs[:0]), row(*QUESTIONS[1], ecgs[1:])]
    flat = ElmDataCollator(processor, padding_free=True)(rows)
    padded = ElmDataCollator(processor)(rows)
    lengths = padded["attention_mask"].sum(dim=1)
    assert flat["input_ids"].shape == (1, lengths.sum())
    assert flat["cu_seq_lens_q"].tolist() == [0, *lengths.cumsum(0).tolist()]
    assert_same(model, [flat], [padded])


@pytest.mark.parametrize("family", ["qwen2", "gemma2"])
@pytest.mark.parametrize("packing", ["behind_prefix", "padding_free"])
def test_a_sliding_window_counts_positions_of_each_conversation(family, packing, ecgs):
    model, processor = elm_and_processor(
        family, sliding_window=12, layer_types=["sliding_attention", "full_attention"], use_sliding_window=True
    )
    rows = [row(*question, ecgs[:1]) for question in QUESTIONS]
    alone = [ElmDataCollator(processor)([one]) for one in rows]
    assert alone[0]["input_ids"].shape[1] > 24
    if packing == "padding_free":
        assert_same(model, [ElmDataCollator(processor, padding_free=True)(rows)], alone)
    else:
        assert_same(model, [ElmDataCollator(processor)([{"conversations": rows}])], alone)


def test_ecgs_that_come_after_the_words_are_read_with_each_conversation(ecgs):
    model, processor = elm_and_processor("llama")
    rows = [row(*question, ecgs[:1], ecg_last=index > 1) for index, question in enumerate(QUESTIONS)]
    collator = ElmDataCollator(processor)
    packed = collator([{"conversations": rows}])
    assert packed["ecg_values"].shape[0] == 4
    assert_same(model, [packed], [collator([one]) for one in rows])


def test_no_prefix_is_shared_where_an_answer_would_follow_it_at_once():
    labels = np.array([-100, -100, 7, 8])
    same = np.array([5, 6, 7, 8])
    assert prefix_length([(same, labels), (same, labels)], lambda ids: 0) == 1
    other = np.array([5, 9, 7, 8])
    assert prefix_length([(same, labels), (other, labels)], lambda ids: 0) == 1
    assert prefix_length([(same, labels), (np.array([4, 6, 7, 8]), labels)], lambda ids: 0) == 0


def test_an_ecg_is_not_cut_in_two():
    ids, labels = np.array([1, 9, 9, 9, 9, 4]), np.array([-100] * 5 + [4])
    halves = lambda ids: (ids == 9).sum() / 2  # noqa: E731
    assert prefix_length([(ids, labels), (ids, labels)], halves) == 3


def test_packs_hold_the_questions_of_one_ecg(simulated_dataset):
    dataset = load_elm_dataset(simulated_dataset)
    packs = pack_by_ecg(dataset, number=4, seed=1)
    sizes, names = [], []
    for pack in packs:
        assert len({tuple(row["ecg_index"]) for row in pack["conversations"]}) == 1
        assert np.array_equal(
            pack["conversations"][0]["ecgs"][0], pack["conversations"][-1]["ecgs"][0], equal_nan=True
        )
        sizes.append(len(pack["conversations"]))
        names += [row["conversation_id"] for row in pack["conversations"]]
    assert sorted(names) == sorted(dataset.with_format(None)["conversation_id"]) and 1 < max(sizes) <= 4


@pytest.mark.parametrize("behind_prefix", [True, False])
def test_llms_that_keep_conversations_apart_pass_the_check(behind_prefix):
    for family in ("llama", "gemma2"):
        check_packing(elm_and_processor(family)[0], behind_prefix)


def test_llms_that_mix_packed_conversations_are_refused():
    with pytest.raises(ValueError, match='"opt" LLM does not keep conversations apart.*without --padding_free'):
        check_packing(elm_and_processor("opt")[0], behind_prefix=False)


def test_layers_that_take_no_mask_are_named():
    model, _ = elm_and_processor("qwen2")
    model.model.language_model.config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(ValueError, match="layers of linear_attention"):
        check_packing(model, behind_prefix=True)


def test_packed_conversations_without_positions_are_refused():
    elm, _ = elm_and_processor("llama")
    with pytest.raises(ValueError, match="`sequence_ids` needs `position_ids`"):
        elm(input_ids=torch.arange(4)[None], sequence_ids=torch.tensor([[0, 0, 1, 2]]))


def test_flash_attention_is_refused_behind_a_prefix():
    model, _ = elm_and_processor("qwen2")
    model.model.language_model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match='"flash_attention_2" does not take; set attn_implementation to sdpa'):
        check_packing(model, behind_prefix=True)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma2"])
def test_flex_attention_keeps_conversations_apart(family, ecgs, flex_without_kernel):
    windows = {"sliding_window": 12, "layer_types": ["sliding_attention", "full_attention"]}
    model, processor = elm_and_processor(family, **windows if family == "gemma2" else {})
    rows = [row(*question, ecgs[:1]) for question in QUESTIONS[:3]]
    padded = ElmDataCollator(processor)(rows)
    assert padded["attention_mask"].sum(dim=1).min() > 24 and not padded["attention_mask"].all()
    flat = ElmDataCollator(processor, padding_free=True)(rows)
    packed = ElmDataCollator(processor)([{"conversations": rows}])
    expected = loss_and_gradients(model, [padded])
    model.model.language_model.set_attn_implementation("flex_attention")
    for batch in (flat, packed, padded):
        loss, gradients = loss_and_gradients(model, [batch])
        assert loss == pytest.approx(expected[0], abs=1e-5)
        largest = max(gradient.abs().max() for gradient in expected[1].values())
        for name, gradient in expected[1].items():
            assert torch.allclose(gradients[name], gradient, atol=1e-5 * max(1, largest)), name


def varlen_attention(
    q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, causal=False, softmax_scale=None
):
    """What `flash_attn_varlen_func` computes, `(positions, heads, size of a head)`, sequence after sequence."""
    results = []
    for (start, end), (key_start, key_end) in zip(pairwise(cu_seqlens_q.tolist()), pairwise(cu_seqlens_k.tolist())):
        assert end - start <= max_seqlen_q and key_end - key_start <= max_seqlen_k
        one = (q[start:end], k[key_start:key_end], v[key_start:key_end])
        heads_first = (values.transpose(0, 1)[None] for values in one)
        result = F.scaled_dot_product_attention(*heads_first, is_causal=causal, scale=softmax_scale, enable_gqa=True)
        results.append(result[0].transpose(0, 1))
    return torch.cat(results)


def dense_attention(q, k, v, causal=False, softmax_scale=None):
    """What `flash_attn_func` computes, `(batch, positions, heads, size of a head)`."""
    heads_first = (values.transpose(1, 2) for values in (q, k, v))
    result = F.scaled_dot_product_attention(*heads_first, is_causal=causal, scale=softmax_scale, enable_gqa=True)
    return result.transpose(1, 2)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_flash_attention_is_told_where_conversations_begin(family, ecgs, monkeypatch):
    """All but its kernel, which needs a GPU: in its place stands what it computes."""
    rows = [row(*QUESTIONS[0], ecgs[:1]), row("Hello?", "yes", ecgs[:0]), row(*QUESTIONS[1], ecgs[1:])]
    model, processor = elm_and_processor(family)
    padded = ElmDataCollator(processor)(rows)
    expected = loss_and_gradients(model, [padded])
    kernels = (dense_attention, varlen_attention, None, flash._pad_input, flash._unpad_input)
    monkeypatch.setattr(flash, "_lazy_imports", lambda *args, **kwargs: kernels)
    monkeypatch.setattr(flash, "_loaded_implementation", None)
    model.model.language_model.config._attn_implementation = "flash_attention_2"
    for padding_free in (True, False):
        batch = ElmDataCollator(processor, padding_free=padding_free)(rows)
        loss, gradients = loss_and_gradients(model, [batch])
        assert loss == pytest.approx(expected[0], abs=1e-5)
        for name, gradient in expected[1].items():
            assert torch.allclose(gradients[name], gradient, atol=1e-5), name
