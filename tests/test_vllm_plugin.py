"""The plug-in of vLLM: prompts, embeddings and names of weights as vLLM's processes use them, and vLLM itself if there."""

import ast
import json
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import TINY_LLM
from safetensors.torch import load_file
from test_llm_families import compose, tiny_llm_of
from transformers import AutoModelForCausalLM

from elm_hf.checkpoints.create import create_elm
from elm_hf.checkpoints.load import load_checkpoint
from elm_hf.data.messages import fill_ecgs
from elm_hf.ecg.simulated_findings import draw_findings
from elm_hf.ecg.simulation import simulate_ecg
from elm_hf.inference.generation import answer
from elm_hf.serving.prompt_embeddings import prompt_embeddings
from elm_hf.serving.vllm_plugin import ARCHITECTURE, MODEL, register
from elm_hf.serving.vllm_prompts import MODALITY, check_ecgs_are_given, checked_ecgs, example_ecg, vllm_prompt
from elm_hf.serving.vllm_weights import BACKBONE_PREFIX, HEAD_PREFIX, TOWER_PREFIXES, EcgTower, llm_prefixes


ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def loaded(speaking_elm):
    return load_checkpoint(speaking_elm, device="cpu")


@pytest.fixture(scope="module")
def conversation() -> list[dict]:
    """Two ECGs of 2 s side by side, and a third one in a later turn, with the placeholder's text in a question."""
    rng = np.random.default_rng(1)
    ecgs = [simulate_ecg(draw_findings(rng), rng, 2.0).astype(np.float32) for _ in range(3)]
    first = [{"type": "ecg"}, {"type": "ecg"}, {"type": "text", "text": "What has changed? <|ecg|>"}]
    second = [{"type": "text", "text": "And here?"}, {"type": "ecg"}]
    turns = [{"role": "user", "content": first}, {"role": "assistant", "content": "The rate."}]
    return fill_ecgs([*turns, {"role": "user", "content": second}], ecgs, 250)


def expanded(prompt: dict, processor) -> list[int]:
    """The prompt's tokens after what vLLM does: a placeholder becomes `num_ecg_tokens` of them."""
    repeats = {processor.ecg_token_id: processor.num_ecg_tokens}
    return [token for token in prompt["prompt_token_ids"] for _ in range(repeats.get(token, 1))]


def test_a_prompt_has_one_placeholder_for_each_ecg_and_the_ecgs_of_the_model(loaded, conversation):
    processor = loaded[1]
    prompt = vllm_prompt(processor, conversation)
    assert prompt["prompt_token_ids"].count(processor.ecg_token_id) == 3
    whole = processor.apply_chat_template(
        [conversation], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    assert expanded(prompt, processor) == whole["input_ids"][0].tolist()
    ecgs = prompt["multi_modal_data"][MODALITY]
    assert [list(ecg) for ecg in ecgs] == [["ecg_values", "ecg_lead_mask"]] * 3
    for name in ecgs[0]:
        assert torch.equal(torch.stack([ecg[name] for ecg in ecgs]), whole[name])


def test_a_prompt_without_ecgs_is_tokens(loaded):
    prompt = vllm_prompt(loaded[1], [{"role": "user", "content": "Hello <|ecg|>"}])
    assert list(prompt) == ["prompt_token_ids"] and loaded[1].ecg_token_id not in prompt["prompt_token_ids"]


def test_tower_and_llm_give_the_embeddings_that_the_model_reads(loaded, speaking_elm, conversation):
    """As vLLM puts them together, from the weights of the checkpoint, compared with what the model itself computes."""
    model, processor = loaded
    tower = EcgTower(model.config).eval()
    weights = load_file(speaking_elm / "model.safetensors")
    tower.load_state_dict(
        {name.removeprefix("model."): weight for name, weight in weights.items() if name.startswith(TOWER_PREFIXES)}
    )
    prompt = vllm_prompt(processor, conversation)
    ecgs = prompt["multi_modal_data"][MODALITY]
    with torch.inference_mode():
        features = tower.get_ecg_features(
            **{name: torch.stack([ecg[name] for ecg in ecgs]) for name in ecgs[0]}, return_dict=True
        ).pooler_output
    ids = torch.tensor(expanded(prompt, processor))
    embeddings = weights["model.language_model.embed_tokens.weight"][ids]
    embeddings[ids == processor.ecg_token_id] = features.flatten(0, 1)
    assert torch.equal(embeddings, prompt_embeddings(model, processor, conversation))


@pytest.mark.parametrize("family", ["gemma2", "gpt2", "gpt_neox", "llama", "opt", "phi3", "qwen2", "qwen3"])
def test_every_weight_has_the_name_that_the_llm_alone_gives_it(family):
    model = compose(tiny_llm_of(family))
    tied = set(model.all_tied_weights_keys)
    prefixes, renamed = llm_prefixes(model.config), {}
    for name, weight in model.state_dict().items():
        if name not in tied and not name.startswith(TOWER_PREFIXES):
            (old,) = [prefix for prefix in (BACKBONE_PREFIX, HEAD_PREFIX) if name.startswith(prefix)]
            renamed[prefixes[old] + name.removeprefix(old)] = weight
    llm = AutoModelForCausalLM.from_config(model.config.text_config)
    expected = {
        name: weight.shape for name, weight in llm.state_dict().items() if name not in llm.all_tied_weights_keys
    }
    assert {name: weight.shape for name, weight in renamed.items()} == expected


def test_the_entry_point_registers_the_architecture_of_the_checkpoints(monkeypatch, tiny_elm):
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    module, name = points["vllm.general_plugins"]["elm-hf"].split(":")
    assert getattr(import_module(module), name) is register
    registered = {}
    registry = SimpleNamespace(
        get_supported_archs=lambda: registered.keys(),
        register_model=lambda name, where: registered.update({name: where}),
    )
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(ModelRegistry=registry))
    register()
    register()  # in every process, and more than once
    assert registered == {ARCHITECTURE: MODEL}
    assert json.loads((tiny_elm / "config.json").read_text())["architectures"] == [ARCHITECTURE]
    module, name = MODEL.split(":")
    source = ROOT / f"{module.replace('.', '/')}.py"
    assert name in {node.name for node in ast.parse(source.read_text()).body if isinstance(node, ast.ClassDef)}


def test_an_ecg_that_the_model_does_not_read_is_refused(loaded, conversation):
    processor = loaded[1]
    example = example_ecg(processor)
    (ecg, *_) = vllm_prompt(processor, conversation)["multi_modal_data"][MODALITY]
    assert torch.equal(checked_ecgs(ecg, example)[0]["ecg_values"], ecg["ecg_values"])
    for wrong in (ecg | {"ecg_values": ecg["ecg_values"][:, :-1]}, {"ecg_values": ecg["ecg_values"]}, "ecg.xml"):
        with pytest.raises(ValueError, match=r"ECG 1 has .*, and this model reads \{'ecg_values': \(12, 500\)"):
            checked_ecgs([ecg, wrong], example)


def test_placeholders_and_ecgs_are_counted(loaded, conversation):
    processor = loaded[1]
    prompt = vllm_prompt(processor, conversation)
    check_ecgs_are_given(prompt["prompt_token_ids"], 3, processor.ecg_token_id)
    with pytest.raises(ValueError, match=r"The prompt has 3 ECG placeholders \(token id \d+\) for 0 ECGs"):
        check_ecgs_are_given(prompt["prompt_token_ids"], 0, processor.ecg_token_id)


def test_vllm_answers_as_the_model_itself(simulated_dataset, conversation, tmp_path, monkeypatch):
    vllm = pytest.importorskip("vllm", reason="needs vLLM")
    # vLLM's kernels have no heads as narrow as those of the other models of the tests.
    sizes = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32}
    (tmp_path / "elm.json").write_text(json.dumps({"text_config": TINY_LLM | sizes}))
    options = {"tokenizer_dataset": str(simulated_dataset), "vocab_size": 400, "num_ecg_tokens": 10, "seconds": 2}
    create_elm(tmp_path / "elm", config=tmp_path / "elm.json", **options)
    model, processor = load_checkpoint(tmp_path / "elm", device="cpu")
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
    model.generation_config.suppress_tokens = processor.tokenizer.all_special_ids
    model.save_pretrained(tmp_path / "speaking")
    processor.save_pretrained(tmp_path / "speaking")

    llm = vllm.LLM(str(tmp_path / "speaking"), dtype="float32", max_model_len=256, enforce_eager=True, max_num_seqs=4)
    sampling = vllm.SamplingParams(temperature=0, max_tokens=8)
    questions = [conversation[:1], conversation, [{"role": "user", "content": "Hello"}]]

    def texts(prompts: list[dict]) -> list[str]:
        outputs = llm.generate(prompts, sampling)
        return [processor.decode(one.outputs[0].token_ids, skip_special_tokens=True).strip() for one in outputs]

    expected = answer(model, processor, questions, 8)
    assert len(set(expected)) == 3
    assert texts([vllm_prompt(processor, one) for one in questions]) == expected
    unseen = {"prompt_token_ids": vllm_prompt(processor, conversation)["prompt_token_ids"]}
    with pytest.raises(ValueError, match="The prompt has 3 ECG placeholders"):
        texts([unseen])
    monkeypatch.setattr("elm_hf.serving.vllm_model.check_ecgs_are_given", lambda *_: None)
    assert texts([unseen, vllm_prompt(processor, conversation)]) == ["", expected[1]]
