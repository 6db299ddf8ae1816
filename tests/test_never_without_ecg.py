"""No path trains or answers without the ECG in silence: what reaches `forward`, and what is refused."""

import pytest
import torch
from datasets import Dataset
from test_modeling_elm import compose, conversations, encode, user
from transformers import pipeline
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, SFTConfig, SFTTrainer

from elm_hf.inference.ask import AskedEcg, Questions, ask
from elm_hf.inference.generation import generate_answers, log_likelihoods
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.training.collator import ElmDataCollator


REFUSED = "ECG placeholders .* neither `ecg_values` nor `encoder_hidden_states` was given"
QUESTION = "What is the rhythm of this ECG?"
ANSWERS = [{"role": "assistant", "content": [{"type": "text", "text": text}]} for text in ("yes", "no")]


def spied(model) -> list[tuple[int, int]]:
    """For each later call of `forward` the number of placeholders and of ECGs."""
    seen, forward = [], model.model.forward

    def spy(*args, **kwargs):
        ids, ecgs = kwargs["input_ids"], kwargs.get("ecg_values")
        placeholders = 0 if ids is None else int((ids == model.config.ecg_token_id).sum())
        seen.append((placeholders, 0 if ecgs is None else len(ecgs)))
        return forward(*args, **kwargs)

    model.model.forward = spy
    return seen


def without_ecgs(inputs) -> dict[str, torch.Tensor]:
    return {name: inputs[name] for name in ("input_ids", "attention_mask")}


@pytest.mark.parametrize("connector", ["patch", "resnet_mlp"])
def test_placeholders_without_an_ecg_are_refused(connector, ecgs):
    model, processor = compose("qwen2", connector)
    inputs = without_ecgs(encode(processor, conversations(ecgs)))
    with pytest.raises(ValueError, match=f"The text holds 20 {REFUSED}"):
        model(**inputs)
    with pytest.raises(ValueError, match=REFUSED):
        model.generate(**inputs, max_new_tokens=1)
    with pytest.raises(ValueError, match=REFUSED):
        model(inputs_embeds=model.get_input_embeddings()(inputs["input_ids"]))
    text = encode(processor, [user("What is sinus rhythm?")])
    assert model(**text).logits.isfinite().all()


def test_the_placeholder_of_a_symbol_model_is_refused(ecgs):
    model, _ = compose()
    model.config.representation = "symbol"
    with pytest.raises(ValueError, match=r'3 ECG placeholders .*\(representation="symbol"\): pass the `input_ids`'):
        model(input_ids=torch.tensor([[1, *[model.config.ecg_token_id] * 3]]))


@pytest.mark.slow
def test_a_compiled_model_refuses_and_answers_texts(ecgs):
    model, processor = compose("qwen2")
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    text = encode(processor, [user("What is sinus rhythm?")])
    assert torch.allclose(compiled(**text).logits, model(**text).logits, atol=1e-5)
    with pytest.raises(RuntimeError):
        compiled(**without_ecgs(encode(processor, [user(QUESTION, ecgs[0])])))


@pytest.mark.slow
def test_an_exported_model_refuses_and_answers_texts(ecgs):
    model, processor = compose("qwen2")
    text = encode(processor, [user("What is sinus rhythm?")])
    exported = torch.export.export(model, (), dict(text) | {"use_cache": False}, strict=False).module()
    assert torch.allclose(exported(**text, use_cache=False).logits, model(**text).logits, atol=1e-5)
    text["input_ids"][0, 3] = model.config.ecg_token_id
    with pytest.raises(RuntimeError):
        exported(**text, use_cache=False)


@pytest.mark.parametrize("how", ["assisted", "prompt lookup", "static cache"])
def test_every_way_of_decoding_sees_the_ecg_once(how, ecgs):
    model, processor = compose("qwen2")
    assistant, _ = compose("qwen2")
    inputs = encode(processor, [user(QUESTION, ecgs[0])])
    settings = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    expected = model.generate(**inputs, **settings)
    ways = {"assisted": {"assistant_model": assistant}, "prompt lookup": {"prompt_lookup_num_tokens": 3}}
    calls = [spied(model), spied(assistant)][: 1 + (how == "assisted")]
    found = model.generate(**inputs, **settings, **ways.get(how, {"cache_implementation": "static"}))
    assert torch.equal(found, expected)
    assert all(seen[0] == (5, 1) and set(seen[1:]) == {(0, 0)} for seen in calls)


@pytest.mark.parametrize("trainer", ["SFT", "DPO", "KTO"])
def test_trls_trainers_are_refused_with_the_documented_format(trainer, ecgs, tmp_path):
    """They tokenize conversations without the processor's other outputs."""
    prompt = [user(QUESTION, ecgs[0].tolist())]
    (good, bad), options = ANSWERS, {}
    if trainer == "SFT":
        classes, rows = (SFTTrainer, SFTConfig), [{"messages": [*prompt, good]}]
    elif trainer == "DPO":
        classes, rows = (DPOTrainer, DPOConfig), [{"prompt": prompt, "chosen": [good], "rejected": [bad]}]
    else:
        classes = KTOTrainer, KTOConfig
        rows = [{"prompt": prompt, "completion": [one], "label": one is good} for one in ANSWERS]
    model, processor = compose("qwen2")
    if trainer != "SFT":
        options["ref_model"] = compose("qwen2")[0]
    arguments = classes[1](tmp_path, max_steps=1, per_device_train_batch_size=2, use_cpu=True, bf16=False)
    data = Dataset.from_list(rows)
    with pytest.raises(ValueError, match=REFUSED):
        classes[0](model, args=arguments, processing_class=processor, train_dataset=data, **options).train()


def test_training_with_the_collator_sees_every_ecg(ecgs, tmp_path):
    model, processor = compose("qwen2")
    messages = [{"role": "user", "content": [{"type": "ecg"}, {"type": "text", "text": QUESTION}]}, ANSWERS[0]]
    rows = [{"messages": messages, "ecgs": [ecg.tolist()], "sampling_rate": 250} for ecg in ecgs[:2]]
    arguments = SFTConfig(
        tmp_path,
        max_steps=1,
        per_device_train_batch_size=2,
        use_cpu=True,
        bf16=False,
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    seen = spied(model)
    collator = ElmDataCollator(processor)
    data = Dataset.from_list(rows).with_format("numpy", columns=["ecgs"], output_all_columns=True)
    SFTTrainer(model, arguments, collator, data, processing_class=processor).train()
    assert seen == [(10, 2)]


def test_evaluation_and_ask_see_the_ecg(ecgs):
    model, processor = compose("qwen2")
    question = user(QUESTION, ecgs[0])
    seen = spied(model)
    generate_answers(model, processor, [[question], [user("What is the rate?", ecgs[0])]], max_new_tokens=2)
    log_likelihoods(model, processor, [[question, ANSWERS[0]]])
    prompt = {"role": "user", "content": [{"type": "ecg"}, {"type": "text", "text": QUESTION}]}
    ask(model, processor, [Questions([AskedEcg("made", ecgs[0], 250)], [[prompt]], [None])], 2)
    with_ecg = [call for call in seen if call != (0, 0)]
    assert with_ecg == [(5, 1)] * 3  # a prefix for two questions, an answer that is scored, a question


def test_the_pipelines_pass_the_ecg_or_are_refused(ecgs):
    model, processor = compose("qwen2")
    seen = spied(model)
    ask_any = pipeline("any-to-any", model=model, processor=processor)
    ask_any(text=[user(QUESTION, ecgs[0])], max_new_tokens=2, return_full_text=False)
    assert seen[0] == (5, 1)
    text_only = pipeline("text-generation", model=model, tokenizer=processor.tokenizer)
    with pytest.raises(ValueError, match=REFUSED):
        text_only([{"role": "user", "content": f"{processor.ecg_token} {QUESTION}"}], max_new_tokens=2)


def test_a_lead_that_is_absent_is_no_missing_ecg(ecgs):
    model, processor = compose("qwen2")
    ecg = {"type": "ecg", "ecg": ecgs[0][:8], "sampling_rate": 250, "lead_names": list(LEADS[:8])}
    inputs = encode(processor, [{"role": "user", "content": [ecg, {"type": "text", "text": QUESTION}]}])
    assert inputs["ecg_lead_mask"].sum() == 8 and model(**inputs).logits.isfinite().all()
