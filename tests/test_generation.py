"""Answering in batches that share what they have in common, against one conversation at a time."""

from threading import Event

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from test_compositions import COMPOSITIONS
from test_compositions import compose as compose_parts
from test_modeling_elm import compose, user
from tiny_models import LLM_FAMILIES

from elm_hf.inference.generation import answers_to, generate_answers, log_likelihoods
from elm_hf.inference.prefetch import prepared_ahead
from elm_hf.inference.prompt_batch import PromptBatch


NEW = 6
QUESTIONS = ["What is the rhythm of this ECG?", "Is the rate higher?"]
SAID = {"role": "assistant", "content": "sinus rhythm, none"}


def lively(model):
    """Weights large enough for answers to depend on every word and every ECG."""
    torch.manual_seed(3)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())  # no echo of the last word
    for weight in model.parameters():
        if weight.ndim == 2:
            weight.data.normal_(0, 0.4)
    return model


def chats_about(ecgs: np.ndarray) -> list[list[dict]]:
    """Two questions about each of two ECGs and about both; about none; about a third one; and in later turns."""
    groups = [[ecgs[0]], [ecgs[1]], [ecgs[0], ecgs[1]], []]
    chats = [[user(text, *group)] for group in groups for text in QUESTIONS]
    chats += [[user(QUESTIONS[0], ecgs[2])], [user(QUESTIONS[1]), SAID, user(QUESTIONS[0], ecgs[1])]]
    chats += [[user(QUESTIONS[0], ecgs[0]), SAID, user(text)] for text in QUESTIONS]
    return [chats[index] for index in np.random.default_rng(0).permutation(len(chats))]


def encode(processor, chat: list[dict], **kwargs) -> dict:
    return processor.apply_chat_template([chat], tokenize=True, return_dict=True, return_tensors="pt", **kwargs)


def alone(model, processor, chat: list[dict]) -> list[int]:
    """New tokens of one conversation through plain `generate`."""
    inputs = encode(processor, chat, add_generation_prompt=True)
    return model.generate(**inputs, max_new_tokens=NEW, do_sample=False)[0, inputs["input_ids"].shape[1] :].tolist()


def check_same(model, processor, chats: list[list[dict]]):
    """Answers, lengths and ends are those of each conversation alone."""
    together = generate_answers(model, processor, chats, NEW)
    every = []
    for one, chat in zip(together, chats, strict=True):
        tokens = alone(model, processor, chat)
        end = model.generation_config.eos_token_id
        expected = tokens[: tokens.index(end)] if end in tokens else tokens
        assert one.text == processor.decode(expected, skip_special_tokens=True).strip()
        assert (one.num_tokens, one.finished) == (len(expected), end in tokens)
        every.append(tuple(expected))
    assert len(set(every)) > len(chats) // 2  # or neither ECGs nor questions mattered


@pytest.mark.parametrize("family", LLM_FAMILIES)
def test_answers_are_those_of_each_conversation_alone(family, ecgs):
    model, processor = compose(family)
    chats = chats_about(ecgs)
    assert PromptBatch(model, processor, chats, NEW).prefix_length > 10
    check_same(lively(model), processor, chats)


def test_a_conversation_without_positions_is_refused(ecgs):
    model, processor = compose("gpt2")
    model = lively(model)
    chats = [[user(QUESTIONS[0] * number, ecgs[0])] for number in (1, 80)]
    length = encode(processor, chats[1], add_generation_prompt=True)["input_ids"].shape[1]
    assert length > 512
    with pytest.raises(
        ValueError, match=f" reads 512 tokens, and a conversation has {length}, its answer up to {NEW}; "
    ):
        generate_answers(model, processor, chats, NEW)
    assert generate_answers(model, processor, chats[:1], NEW)[0].num_tokens > 0


@pytest.mark.parametrize("window, shares", [(1000, True), (30, False)])
def test_a_short_sliding_window_forbids_sharing(window, shares, ecgs):
    model, processor = compose("gemma2")
    text_config = model.config.text_config
    assert "sliding_attention" in text_config.layer_types
    text_config.sliding_window = window
    for layer in model.model.language_model.layers:
        if layer.self_attn.sliding_window is not None:
            layer.self_attn.sliding_window = window
    chats = chats_about(ecgs)
    assert (PromptBatch(model, processor, chats, NEW).prefix_length > 0) == shares
    check_same(lively(model), processor, chats)


@pytest.mark.parametrize("parts", ["symbol", "image-vit-linear", "signal-ecg_resnet-mlp"])
def test_every_representation_shares(parts, ecgs, ecg_tokenizer):
    model, processor = compose_parts(COMPOSITIONS[parts], "llama", ecg_tokenizer)
    chats = chats_about(ecgs)
    assert PromptBatch(model.eval(), processor, chats, NEW).prefix_length > 10
    check_same(lively(model), processor, chats)


def test_adapters_and_repetition_penalties_change_answers_as_ever(ecgs):
    model, processor = compose("qwen2")
    plain = generate_answers(lively(model), processor, chats_about(ecgs), NEW)
    model.generation_config.repetition_penalty = 1.5
    penalised = generate_answers(model, processor, chats_about(ecgs), NEW)
    check_same(model, processor, chats_about(ecgs))
    config = LoraConfig(target_modules=r".*language_model.*(q_proj|v_proj)", init_lora_weights=False)
    adapted = get_peft_model(model, config, adapter_name="lively").eval()
    assert plain != penalised != generate_answers(adapted, processor, chats_about(ecgs), NEW)
    check_same(adapted, processor, chats_about(ecgs))


def test_an_ecg_passes_the_encoder_once_for_all_its_questions(ecgs):
    model, processor = compose("llama", "resnet_mlp")
    encoded, positions = [], []
    model.model.encoder.register_forward_hook(lambda module, args, output: encoded.append(len(args[0])))
    model.model.language_model.register_forward_hook(
        lambda module, args, kwargs, output: positions.append(kwargs["inputs_embeds"].shape[:2]), with_kwargs=True
    )
    chats = [[user(f"{text} {number}", ecg)] for ecg in ecgs[:2] for text in QUESTIONS for number in range(4)]
    generate_answers(model, processor, chats, 1)
    assert encoded == [2]
    prefixes, rests = positions
    assert prefixes[0] == 2 and rests[0] == 16
    longest = max(encode(processor, chat, add_generation_prompt=True)["input_ids"].shape[1] for chat in chats)
    assert prefixes[1] + rests[1] == longest


@pytest.mark.parametrize("family", LLM_FAMILIES)
def test_log_likelihoods_are_those_of_each_answer_alone(family, ecgs):
    model, processor = compose(family)
    lively(model)
    answers = ["none", "sinus tachycardia, left axis deviation"]
    chats = [
        [*chat, {"role": "assistant", "content": answers[number % 2]}] for number, chat in enumerate(chats_about(ecgs))
    ]
    expected = []
    for chat in chats:
        inputs = encode(processor, chat, return_assistant_tokens_mask=True)
        mask = inputs.pop("assistant_masks")[0].bool()
        # the last answer's tokens: from the end, until its prompt ends
        start = encode(processor, chat[:-1], add_generation_prompt=True)["input_ids"].shape[1]
        mask[:start] = False
        scores = model(**inputs).logits[0].log_softmax(dim=-1)[:-1]
        tokens = inputs["input_ids"][0, 1:]
        expected.append(float(scores[torch.arange(len(tokens)), tokens][mask[1:]].sum()))
    found = log_likelihoods(model, processor, chats)
    assert found == pytest.approx(expected, abs=1e-3)
    assert found.dtype == np.float64 and len(np.unique(found.round(3))) == len(chats)


def test_the_next_is_prepared_while_this_one_is_used():
    is_prepared = {number: Event() for number in range(3)}

    def prepare(number: int) -> int:
        is_prepared[number].set()
        return 10 * number

    seen = []
    for number, prepared in prepared_ahead(prepare, range(3)):
        assert all(is_prepared[up_to].wait(timeout=30) for up_to in range(min(number + 2, 3)))
        seen.append((number, prepared))
    assert seen == [(0, 0), (1, 10), (2, 20)]


def test_an_error_of_what_comes_next_is_raised_after_what_comes_before():
    def prepare(number: int) -> int:
        if number == 1:
            raise ValueError("the second")
        return number

    seen = []
    with pytest.raises(ValueError, match="the second"):
        for number, _ in prepared_ahead(prepare, range(3)):
            seen.append(number)
    assert seen == [0]


def test_answers_to_prompts_made_in_another_thread_are_the_same(ecgs):
    model, processor = compose("llama")
    chats = chats_about(ecgs)
    batches = [chats[:5], chats[5:]]
    expected = [generate_answers(lively(model), processor, batch, NEW) for batch in batches]
    ahead = prepared_ahead(lambda batch: PromptBatch(model, processor, batch, NEW), batches)
    assert [answers_to(prompts, model, processor, NEW) for _, prompts in ahead] == expected
