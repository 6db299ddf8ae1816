"""Checkpoints of strangers: whatever their files hold, loading them and asking ends in an answer or in one line."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign_checkpoints import changed_copy

from elm_hf.checkpoints.chat_template import check_template
from elm_hf.checkpoints.load import load_checkpoint
from elm_hf.inference.ask import AskedEcg, Questions, ask
from elm_hf.utils.errors import USER_ERRORS


NUM_CHANGES = 12  # more by hand: each seed is another change


@pytest.fixture
def copy(tiny_elm, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_elm, tmp_path / "copy"))


def change(folder: Path, file: str, **settings):
    path = folder / file
    found = json.loads(path.read_text())
    for name, value in settings.items():
        is_part = isinstance(value, dict) and isinstance(found.get(name), dict)
        found[name] = found[name] | value if is_part else value
    path.write_text(json.dumps(found))


@pytest.mark.parametrize(
    "file, settings, message",
    [
        ("config.json", {"num_leads": "12"}, "num_leads"),
        ("config.json", {"text_config": []}, "cannot be loaded as an ELM"),
        (
            "config.json",
            {"text_config": {"model_type": "qwen2", "num_hidden_layers": 10**9}},
            "num_hidden_layers is 10",
        ),
        ("config.json", {"num_ecg_tokens": 10**9}, "num_ecg_tokens=1000000000|weights"),
        ("config.json", {"transformers_weights": "../../x.safetensors"}, "names '../../x.safetensors' as a file of"),
        ("processor_config.json", {"num_ecg_tokens": 10**9}, "writes 1000000000 tokens per ECG; the model reads 10"),
        ("processor_config.json", {"num_ecg_tokens": "10"}, "writes '10' tokens per ECG"),
        ("processor_config.json", {"feature_extractor": {"sampling_rate": 1e-9}}, "ECGs of 1e-09 Hz; expected 10 to"),
        ("processor_config.json", {"feature_extractor": {"num_samples": 10**10}}, "gives ECGs of 10000000000 samples"),
        ("processor_config.json", {"feature_extractor": [1]}, "cannot be loaded as an ELM"),
        ("generation_config.json", {"eos_token_id": "end"}, "eos_token_id is 'end'"),
        ("generation_config.json", {"eos_token_id": [10**9]}, r"eos_token_id is \[1000000000\] in its generation"),
        ("generation_config.json", {"repetition_penalty": "big"}, "repetition_penalty is 'big'"),
        ("tokenizer_config.json", {"eos_token": ["a"]}, "cannot be loaded as an ELM"),
        ("tokenizer_config.json", {"extra_special_tokens": 7}, "cannot be loaded as an ELM"),
    ],
)
def test_settings_of_other_types_are_one_line(file, settings, message, copy):
    change(copy, file, **settings)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(copy, device="cpu")


@pytest.mark.parametrize("content", ["[]", "7", "", "{", "[" * 100_000, '{"model_type": "elm"'])
@pytest.mark.parametrize("file", ["config.json", "generation_config.json", "processor_config.json"])
def test_files_that_are_no_objects_are_one_line(file, content, copy):
    (copy / file).write_text(content)
    with pytest.raises((ValueError, OSError), match="copy"):
        load_checkpoint(copy, device="cpu")


def test_settings_of_generation_that_answers_do_not_use_are_dropped(copy):
    change(copy, "generation_config.json", num_beams=10**9, num_return_sequences=10**6, repetition_penalty=1.1)
    model, _ = load_checkpoint(copy, device="cpu")
    assert (model.generation_config.num_beams, model.generation_config.num_return_sequences) == (None, None)
    assert model.generation_config.repetition_penalty == 1.1
    assert model.generation_config.eos_token_id and model.generation_config.suppress_tokens


@pytest.mark.parametrize("name", ["../../../../etc/passwd", "/etc/passwd", "a/../../x.safetensors", 7, None])
def test_an_index_names_no_file_outside(name, copy):
    (copy / "model.safetensors").unlink()
    (copy / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": {"weight": name}}))
    with pytest.raises(
        ValueError, match=r"copy: .*names .* as a file of weights; expected a \.safetensors file inside"
    ):
        load_checkpoint(copy, device="cpu")


def test_pickled_weights_are_not_read(copy):
    torch.save({"weight": torch.zeros(1)}, copy / "pytorch_model.bin")
    load_checkpoint(copy, device="cpu")  # beside others they are of no use
    (copy / "model.safetensors").unlink()
    with pytest.raises(
        ValueError, match="has pytorch_model.bin and no model.safetensors; pickled weights are not read"
    ):
        load_checkpoint(copy, device="cpu")


BOMBS = {
    "padding": "{{ ''|center(2000000000) }}",
    "much text": "{{ 'a' * 2000000 }}",
    "text of a method": "{{ 'a'.ljust(2000000000) }}",
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "a power": "{{ 10 ** 10 ** 9 }}",
    "doubling": "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "recursion": "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
    "a type": 7,
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_templates_have_limits(bomb, copy):
    (copy / "chat_template.jinja").unlink()
    change(copy, "tokenizer_config.json", chat_template=BOMBS[bomb])
    start = time.process_time()
    with pytest.raises(ValueError, match="copy: .*template"):
        load_checkpoint(copy, device="cpu")
    assert time.process_time() - start < 20


def test_templates_of_language_models_are_within_the_limits(tiny_elm):
    _, processor = load_checkpoint(tiny_elm, device="cpu")
    check_template(processor.tokenizer, "tiny")


def test_changed_settings_end_in_an_answer_or_in_one_line(tiny_elm, tmp_path):
    ecg = np.random.default_rng(0).normal(0, 0.3, (12, 500))
    prompt = [{"role": "user", "content": [{"type": "ecg"}, {"type": "text", "text": "What is the rhythm?"}]}]
    for seed in range(NUM_CHANGES):
        folder = tmp_path / str(seed)
        what = changed_copy(tiny_elm, folder, seed)
        try:
            ask(
                *load_checkpoint(folder, device="cpu"), [Questions([AskedEcg("ecg", ecg, 250.0)], [prompt], [None])], 4
            )
        except USER_ERRORS as error:
            assert (
                "\n" not in f"{error}".strip() and str(folder) in f"{error} {folder if 'ecg: ' in str(error) else ''}"
            ), what
