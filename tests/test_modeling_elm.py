"""The ELM against its LLM, alone and in batches, saved and loaded, and fed wrong input."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from tiny_models import LLM_FAMILIES, tiny_llm, tiny_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM
from warm_python import run_python

from elm_hf.modeling.configuration_ecg_resnet import EcgResNetConfig
from elm_hf.modeling.configuration_elm import ElmConfig
from elm_hf.modeling.feature_extraction_ecg import EcgFeatureExtractor
from elm_hf.modeling.modeling_ecg_resnet import EcgResNetModel
from elm_hf.modeling.modeling_elm import ElmForCausalLM
from elm_hf.modeling.processing_elm import ElmProcessor


NUM_ECG_TOKENS = 5
CONNECTORS = {
    "patch": {"projector_type": "patch", "num_ecg_tokens": NUM_ECG_TOKENS},
    "conv": {"projector_type": "conv", "num_ecg_tokens": NUM_ECG_TOKENS},
    "conv_norm": {
        "projector_type": "conv",
        "num_ecg_tokens": NUM_ECG_TOKENS,
        "projector_conv_channels": [8, 8, 16],
        "projector_conv_kernel_sizes": [5, 5, 3],
        "projector_conv_strides": [2, 2, 1],
        "projector_conv_batch_norm": True,
        "projector_conv_pooling": "max",
    },
    "linear": {"projector_type": "linear", "num_ecg_tokens": 1},
    "resnet_linear": {"projector_type": "linear", "num_ecg_tokens": NUM_ECG_TOKENS},
    "resnet_mlp": {"projector_type": "mlp", "num_ecg_tokens": NUM_ECG_TOKENS},
}


def tiny_encoder() -> EcgResNetModel:
    torch.manual_seed(1)
    return EcgResNetModel(EcgResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])).eval()


def compose(family: str = "llama", connector: str = "patch") -> tuple[ElmForCausalLM, ElmProcessor]:
    settings = CONNECTORS[connector]
    processor = ElmProcessor(
        EcgFeatureExtractor(num_samples=500), tiny_tokenizer(family), num_ecg_tokens=settings["num_ecg_tokens"]
    )
    encoder = tiny_encoder() if connector.startswith("resnet") else None
    torch.manual_seed(2)
    model = ElmForCausalLM.from_encoder_llm_pretrained(
        encoder, tiny_llm(family), ecg_token_id=processor.ecg_token_id, num_samples=500, **settings
    )
    return model, processor


def user(text: str, *ecgs: np.ndarray) -> dict:
    items = [{"type": "ecg", "ecg": ecg, "sampling_rate": 250} for ecg in ecgs]
    return {"role": "user", "content": [*items, {"type": "text", "text": text}]}


def conversations(ecgs: np.ndarray) -> list[list[dict]]:
    """Zero, one, two ECGs, and one in a later turn."""
    answer = {"role": "assistant", "content": "none"}
    return [
        [user("What is sinus rhythm?")],
        [user("What is the rhythm of this ECG?", ecgs[0])],
        [user("Compare the two ECGs.", ecgs[0], ecgs[1])],
        [user("You are a helpful assistant."), answer, user("What is the rate?", ecgs[2])],
    ]


def encode(processor: ElmProcessor, messages: list, **kwargs):
    return processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt", **kwargs
    )


@pytest.mark.parametrize("family", LLM_FAMILIES)
def test_without_an_ecg_logits_are_the_llms(family):
    llm = tiny_llm(family)
    input_ids = torch.randint(0, 400, (2, 17), generator=torch.Generator().manual_seed(0))
    attention_mask = torch.ones_like(input_ids)
    attention_mask[0, :6] = 0
    expected = llm(input_ids=input_ids, attention_mask=attention_mask).logits
    elm = ElmForCausalLM.from_encoder_llm_pretrained(None, llm, ecg_token_id=400)
    logits = elm(input_ids=input_ids, attention_mask=attention_mask).logits
    assert torch.allclose(logits[attention_mask == 1], expected[attention_mask == 1], atol=1e-5)


def test_soft_capping_bounds_gemmas_logits():
    model, _ = compose("gemma2")
    model.lm_head.weight.data.mul_(1e4)
    logits = model(input_ids=torch.arange(4)[None]).logits
    cap = model.config.text_config.final_logit_softcapping
    assert cap * 0.99 < logits.abs().max() <= cap


@pytest.mark.parametrize("connector", CONNECTORS)
def test_the_ecg_changes_the_answer_and_gets_gradients(connector, ecgs):
    model, processor = compose(connector=connector)
    inputs = encode(processor, [user("What is the rhythm?", ecgs[0])])
    other = dict(inputs, ecg_values=inputs["ecg_values"].flip(-1))
    assert not torch.allclose(model(**inputs).logits, model(**other).logits, atol=1e-6)
    model.train()
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    parts = {"projector": model.model.projector, "llm": model.model.language_model}
    if connector.startswith("resnet"):
        parts["encoder"] = model.model.encoder
    for name, part in parts.items():
        assert sum(p.grad.abs().sum() for p in part.parameters() if p.grad is not None) > 0, name


@pytest.mark.parametrize("connector", ["patch", "conv", "conv_norm"])
def test_a_patch_sees_its_own_stretch_of_time_only(connector, ecgs):
    model, _ = compose(connector=connector)
    ecg = torch.tensor(ecgs[:1])
    changed = ecg.clone()
    changed[:, 3, 200:300] += 1.0  # the third of five patches
    before, after = (model.get_ecg_features(one).pooler_output[0] for one in (ecg, changed))
    differs = (before != after).any(dim=1)
    assert differs.tolist() == [False, False, True, False, False]


@pytest.mark.parametrize("family", LLM_FAMILIES)
def test_batched_logits_are_those_of_each_conversation_alone(family, ecgs):
    model, processor = compose(family)
    chats = conversations(ecgs)
    batch = encode(processor, chats)
    # as `generate` does: GPT-2 counts positions from the padding's first token otherwise
    position_ids = (batch["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
    logits = model(**batch, position_ids=position_ids).logits[:, -1]
    for row, chat in enumerate(chats):
        assert torch.allclose(model(**encode(processor, [chat])).logits[0, -1], logits[row], atol=1e-4)


@pytest.mark.parametrize("family", LLM_FAMILIES)
@pytest.mark.parametrize("mode", ["greedy", "beam", "sampling", "no cache"])
def test_batched_generation_gives_what_each_conversation_gives_alone(family, mode, ecgs):
    model, processor = compose(family)
    chats = conversations(ecgs)
    settings = {
        "greedy": {"do_sample": False},
        "beam": {"do_sample": False, "num_beams": 3, "num_return_sequences": 2},
        # one token to choose from: sampling runs its own path and must still agree
        "sampling": {"do_sample": True, "top_k": 1, "num_return_sequences": 2},
        "no cache": {"do_sample": False, "use_cache": False},
    }[mode]
    settings |= {"max_new_tokens": 4, "min_new_tokens": 4, "pad_token_id": 0}
    number = settings.get("num_return_sequences", 1)
    batch = encode(processor, chats)
    together = model.generate(**batch, **settings)[:, batch["input_ids"].shape[1] :]
    for row, chat in enumerate(chats):
        alone = encode(processor, [chat])
        expected = model.generate(**alone, **settings)[:, alone["input_ids"].shape[1] :]
        assert together[row * number : (row + 1) * number].tolist() == expected.tolist()


@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}])
def test_generation_from_embeddings_is_that_from_ids(settings, ecgs):
    model, processor = compose("qwen2")
    settings = settings | {"do_sample": False, "max_new_tokens": 4, "min_new_tokens": 4, "pad_token_id": 0}
    inputs = encode(processor, conversations(ecgs))
    expected = model.generate(**inputs, **settings)[:, inputs["input_ids"].shape[1] :]
    embeddings = model.get_input_embeddings()(inputs.pop("input_ids"))
    assert model.generate(inputs_embeds=embeddings, **inputs, **settings).tolist() == expected.tolist()


@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}])
def test_generation_takes_what_the_encoder_has_made_before(settings, ecgs):
    model, processor = compose(connector="resnet_mlp")
    prompt = encode(processor, conversations(ecgs))
    settings = {"max_new_tokens": 6, "do_sample": False} | settings
    expected = model.generate(**prompt, **settings)
    encoded = model.get_ecg_features(prompt.pop("ecg_values"), prompt.pop("ecg_lead_mask")).last_hidden_state
    assert torch.equal(model.generate(**prompt, encoder_hidden_states=encoded, **settings), expected)
    other = model.generate(**prompt, encoder_hidden_states=encoded.flip(0) + 9, **settings)
    assert not torch.equal(other, expected)


def test_generation_refuses_packed_rows():
    model, _ = compose()
    with pytest.raises(ValueError, match="`generate` continues one conversation per row"):
        model.generate(torch.arange(4)[None], sequence_ids=torch.tensor([[0, 0, 1, 2]]), max_new_tokens=1)


def test_the_forward_pass_is_one_graph(ecgs):
    model, processor = compose("qwen2", "resnet_mlp")
    inputs = encode(processor, conversations(ecgs))
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for given in (inputs, encode(processor, [user("What is sinus rhythm?")])):
        assert torch.allclose(compiled(**given).logits, model(**given).logits, atol=1e-5)


def test_generation_never_writes_the_placeholder(ecgs):
    model, processor = compose()
    model.lm_head.weight.data[processor.ecg_token_id] = 100 * model.lm_head.weight.data.abs().max()
    inputs = encode(processor, conversations(ecgs))
    new = model.generate(**inputs, max_new_tokens=4, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    assert not (new == processor.ecg_token_id).any()


LOAD_IN_FRESH_PROCESS = """
import json, sys
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoProcessor

folder = sys.argv[1]
sys.modules["elm_hf"] = None
inputs = torch.load(f"{folder}/inputs.pt", weights_only=True)
ecgs = inputs.pop("ecgs").numpy()
config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
backbone = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
message = {"role": "user", "content": [{"type": "ecg", "ecg": ecgs, "sampling_rate": 250}, {"type": "text", "text": "What is the rhythm of this ECG?"}]}
again = processor.apply_chat_template([message], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt")
with torch.no_grad():
    torch.save({"logits": model(**inputs).logits, "hidden": backbone(**inputs).last_hidden_state, "again": model(**again).logits}, f"{folder}/outputs.pt")
print(json.dumps([type(one).__name__ for one in (config, backbone, model, processor, processor.feature_extractor)]))
"""


@pytest.mark.parametrize(
    "family, connector",
    [("llama", "patch"), ("gpt2", "resnet_mlp"), ("opt", "linear"), ("gemma2", "conv"), ("qwen2", "conv_norm")],
)
def test_a_checkpoint_loads_in_a_fresh_process_without_elm_hf(family, connector, ecgs, tmp_path):
    model, processor = compose(family, connector)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    inputs = encode(processor, [user("What is the rhythm of this ECG?", ecgs[0])])
    torch.save({**inputs, "ecgs": torch.tensor(ecgs[0])}, tmp_path / "inputs.pt")
    result = run_python(["-c", LOAD_IN_FRESH_PROCESS, tmp_path], cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    names = json.loads(result.stdout.splitlines()[-1])
    assert names == ["ElmConfig", "ElmModel", "ElmForCausalLM", "ElmProcessor", "EcgFeatureExtractor"]
    outputs = torch.load(tmp_path / "outputs.pt", weights_only=True)
    close = partial(torch.testing.assert_close, rtol=1e-6, atol=1e-6)  # the last bits depend on threads and alignment
    with torch.no_grad():
        close(outputs["logits"], model(**inputs).logits)
        close(outputs["again"], model(**inputs).logits)
        close(outputs["hidden"], model.model(**inputs).last_hidden_state)


def test_a_loaded_checkpoint_can_be_saved_and_loaded_again(ecgs, tmp_path):
    model, processor = compose("gpt2")
    model.save_pretrained(tmp_path / "first")
    again = ElmForCausalLM.from_pretrained(tmp_path / "first")
    again.save_pretrained(tmp_path / "second")
    processor.save_pretrained(tmp_path / "second")
    loaded_processor = ElmProcessor.from_pretrained(tmp_path / "second")
    inputs = encode(loaded_processor, [user("What is the rhythm?", ecgs[0])])
    loaded = ElmForCausalLM.from_pretrained(tmp_path / "second")
    assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)
    assert loaded.lm_head.weight is loaded.get_input_embeddings().weight


@pytest.mark.parametrize("family", ["phi", "gptj", "bloom"])
def test_heads_with_a_bias_and_embeddings_of_any_name_are_saved(family, ecgs, tmp_path):
    """Phi's and GPT-J's heads have a bias, Bloom ties its head to `word_embeddings`."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = AutoConfig.for_model(family, vocab_size=400, rotary_dim=4, **sizes)
    llm = AutoModelForCausalLM.from_config(config).eval()
    for name, parameter in llm.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_()
    model = ElmForCausalLM.from_encoder_llm_pretrained(
        None, llm, ecg_token_id=400, num_samples=500, **CONNECTORS["patch"]
    )
    model.save_pretrained(tmp_path)
    loaded, info = ElmForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    inputs = {"input_ids": torch.tensor([[1] + [400] * 5 + [2]]), "ecg_values": torch.tensor(ecgs[:1])}
    assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)
    assert (loaded.lm_head.weight is loaded.get_input_embeddings().weight) == config.tie_word_embeddings


@pytest.mark.parametrize("encoder_dtype, llm_dtype", [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_a_checkpoint_keeps_the_llms_precision_whatever_the_encoders(encoder_dtype, llm_dtype, tmp_path):
    model = ElmForCausalLM.from_encoder_llm_pretrained(
        tiny_encoder().to(getattr(torch, encoder_dtype)),
        tiny_llm("qwen2").to(getattr(torch, llm_dtype)),
        ecg_token_id=400,
        num_samples=500,
        **CONNECTORS["resnet_mlp"],
    )
    model.save_pretrained(tmp_path)
    loaded = ElmForCausalLM.from_pretrained(tmp_path)
    for one in (model, loaded):
        assert {parameter.dtype for parameter in one.parameters()} == {getattr(torch, llm_dtype)}


@pytest.mark.parametrize("family", LLM_FAMILIES)
def test_resizing_embeddings_keeps_the_old_logits(family):
    model, _ = compose(family)
    input_ids = torch.arange(10, 20)[None]
    before = model(input_ids=input_ids).logits
    model.resize_token_embeddings(520)
    after = model(input_ids=input_ids).logits
    assert after.shape[-1] == 520 == model.config.text_config.vocab_size == model.get_output_embeddings().out_features
    assert torch.allclose(after[..., :512], before, atol=1e-5)


def test_embeddings_grow_when_the_llm_has_no_row_for_the_placeholder():
    llm = tiny_llm("qwen2", vocab_size=400)
    model = ElmForCausalLM.from_encoder_llm_pretrained(None, llm, ecg_token_id=400)
    assert model.get_input_embeddings().num_embeddings == 401
    assert model.lm_head.out_features == 401


@pytest.mark.parametrize("family", LLM_FAMILIES)
def test_gradient_checkpointing_gives_the_same_gradients(family, ecgs):
    model, processor = compose(family)
    inputs = encode(processor, conversations(ecgs))
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    gradients = []
    for checkpointing in (False, True):
        model.train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        torch.manual_seed(0)
        model(**inputs, labels=labels, use_cache=False).loss.backward()
        gradients.append(next(model.model.projector.parameters()).grad.clone())
    assert gradients[0].abs().sum() > 0
    assert torch.allclose(*gradients, atol=1e-6)


def test_attention_implementations_agree(ecgs, tmp_path):
    model, processor = compose()
    model.save_pretrained(tmp_path)
    inputs = encode(processor, conversations(ecgs))
    logits = {}
    for name in ("eager", "sdpa"):
        loaded = ElmForCausalLM.from_pretrained(tmp_path, attn_implementation=name)
        assert loaded.model.language_model.config._attn_implementation == name
        logits[name] = loaded(**inputs).logits[:, -1]
    assert torch.allclose(logits["eager"], logits["sdpa"], atol=1e-4)


def test_flash_attention_is_passed_to_the_llm(tmp_path):
    model, _ = compose(connector="resnet_linear")
    model.save_pretrained(tmp_path)
    with pytest.raises((ImportError, ValueError), match="(?i)flash"):
        ElmForCausalLM.from_pretrained(tmp_path, attn_implementation="flash_attention_2")


@pytest.mark.parametrize("connector", ["patch", "resnet_mlp"])
def test_bfloat16_and_device_map(connector, ecgs, tmp_path):
    model, processor = compose(connector=connector)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16, device_map="cpu")
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    inputs = encode(processor, conversations(ecgs))
    close = torch.nn.functional.cosine_similarity(
        loaded(**inputs).logits[:, -1].float(), model(**inputs).logits[:, -1], dim=-1
    )
    assert close.min() > 0.99


def test_a_frozen_encoder_does_not_learn_in_training_mode(ecgs):
    model, processor = compose(connector="resnet_mlp")
    model.model.encoder.requires_grad_(False)
    model.train()
    before = {key: value.clone() for key, value in model.model.encoder.state_dict().items()}
    model(**encode(processor, [user("What?", ecgs[0])]))
    for key, value in model.model.encoder.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_an_absent_lead_does_not_count_for_the_encoder(ecgs):
    encoder = tiny_encoder()
    values = torch.tensor(ecgs[:1])
    mask = torch.ones(1, 12, dtype=torch.bool)
    mask[0, 5:] = False
    expected = encoder(values[:, :5]).last_hidden_state
    assert torch.allclose(encoder(values, ecg_lead_mask=mask).last_hidden_state, expected, atol=1e-6)


def test_placeholders_and_ecgs_must_match(ecgs):
    model, processor = compose()
    inputs = encode(processor, [user("Compare.", ecgs[0], ecgs[1])])
    inputs["ecg_values"] = inputs["ecg_values"][:1]
    with pytest.raises(ValueError, match="10 ECG placeholders, but 1 ECGs of 5 tokens each give 5"):
        model(**inputs)


@pytest.mark.parametrize(
    "shape, message",
    [
        ((1, 11, 500), "12 leads and 500 samples, got 11 leads"),
        ((1, 12, 400), "got 12 leads and 400 samples"),
        ((12, 500), "num_ecgs, num_leads, num_samples"),
    ],
)
def test_a_wrong_shape_is_named(shape, message):
    model, _ = compose()
    with pytest.raises(ValueError, match=message):
        model(input_ids=torch.full((1, 5), model.config.ecg_token_id), ecg_values=torch.zeros(shape))


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"projector_type": "mlp"}, "needs an encoder; without one, choose one of linear, patch, conv"),
        (
            {"projector_type": "patch", "encoder_config": {"model_type": "ecg_resnet"}},
            "does not fit a ecg_resnet encoder; choose one of linear, mlp",
        ),
        ({"num_ecg_tokens": 7}, "num_samples=2500 cannot be cut into num_ecg_tokens=7"),
        ({"projector_type": "linear", "num_ecg_tokens": 2}, "num_ecg_tokens=1"),
        ({"projector_type": "conv", "projector_conv_strides": [2]}, "must have the same length"),
    ],
)
def test_parts_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(Exception, match=message):
        ElmConfig(**settings)


def test_the_conv_projector_by_hand(ecgs):
    model, _ = compose(connector="conv_norm")
    projector = model.model.projector.eval()
    patch = torch.from_numpy(ecgs[1:2, :, 100:200])  # the second of five
    hidden = patch
    for convolution, norm in zip(projector.convolutions, projector.norms):
        hidden = norm(convolution(hidden)).clamp(min=0)
    expected = projector.linear(hidden.max(dim=2).values)
    torch.testing.assert_close(projector(torch.from_numpy(ecgs))[1, 1:2], expected)


def test_a_frozen_projector_learns_no_statistics(ecgs):
    model, _ = compose(connector="conv_norm")
    model.model.projector.requires_grad_(False)
    before = {name: value.clone() for name, value in model.model.projector.state_dict().items()}
    model.train()
    model.model.projector(torch.from_numpy(ecgs))
    for name, value in model.model.projector.state_dict().items():
        torch.testing.assert_close(value, before[name])


def test_an_llm_with_an_unknown_head_is_refused():
    llm = tiny_llm("llama")
    forward = llm.forward
    llm.forward = lambda **kwargs: _plus_one(forward(**kwargs))
    match = r'LlamaForCausalLM \("llama"\) is not supported as the LLM of an ECG-language model: it computes its logits in a way'
    with pytest.raises(ValueError, match=match):
        ElmForCausalLM.from_encoder_llm_pretrained(None, llm, ecg_token_id=400)


def _plus_one(outputs):
    outputs.logits = outputs.logits + 1
    return outputs
