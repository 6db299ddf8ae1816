"""Pipelines of transformers: "any-to-any" answers about ECGs, one by one and in batches; a tokenizer alone refuses ECGs."""

import json
from pathlib import Path

import pytest
import torch
from jinja2.exceptions import TemplateError
from transformers import AutoModelForMultimodalLM, AutoProcessor, pipeline
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES

from elm_hf.checkpoints.load import load_checkpoint
from elm_hf.data.loading import load_elm_dataset
from elm_hf.data.messages import fill_ecgs, prompt_of
from elm_hf.inference.generation import answer


NUM_TOKENS = 6


@pytest.fixture(scope="module")
def chats(simulated_dataset) -> list[list[dict]]:
    """Questions of different lengths about one ECG each."""
    rows = [row for row in load_elm_dataset(simulated_dataset, 1, "test") if len(row["ecgs"]) == 1][:60:12]
    chats = [fill_ecgs(prompt_of(row["messages"]), row["ecgs"], row["sampling_rate"]) for row in rows]
    assert len({len(str(chat[-1]["content"][-1])) for chat in chats}) > 1
    return chats


@pytest.fixture(scope="module")
def elm(tiny_elm, tmp_path_factory) -> Path:
    """The model with large random weights, so that its answers depend on the ECG and the question."""
    model, processor = load_checkpoint(tiny_elm)
    torch.manual_seed(0)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    for part in (model, processor):
        part.save_pretrained(tmp_path_factory.getbasetemp() / "elm")
    return tmp_path_factory.getbasetemp() / "elm"


@pytest.fixture(scope="module")
def pipe(elm):
    return pipeline("any-to-any", model=str(elm), trust_remote_code=True)


def answers(pipe, chats, **options) -> list[str]:
    results = pipe(text=chats, max_new_tokens=NUM_TOKENS, return_full_text=False, **options)
    return [result[0]["generated_text"] for result in results]


def test_the_pipeline_answers_as_the_model_alone_and_in_batches(pipe, chats, elm):
    model = load_checkpoint(elm)
    expected = [answer(*model, [chat], NUM_TOKENS)[0] for chat in chats]
    assert len(set(expected)) > 1
    one_by_one = [answers(pipe, [chat])[0] for chat in chats]
    assert one_by_one == expected
    assert answers(pipe, chats, batch_size=3) == expected
    pipe.tokenizer.padding_side = "right"  # as a tokenizer is saved by default
    try:
        assert answers(pipe, chats, batch_size=3) != expected
    finally:
        pipe.tokenizer.padding_side = "left"


def test_the_class_is_one_of_the_pipelines_own(pipe, tiny_elm, caplog):
    assert type(AutoModelForMultimodalLM.from_pretrained(tiny_elm)) is type(pipe.model)
    names = json.loads((tiny_elm / "config.json").read_text())["auto_map"]
    assert names["AutoModelForMultimodalLM"] == "modeling_elm.ElmForCausalLM"
    pipe.check_model_type(MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES)
    assert "is not supported" not in caplog.text


def test_a_tokenizer_alone_refuses_ecgs_and_says_what_reads_them(tiny_elm, chats):
    alone = pipeline("text-generation", model=str(tiny_elm), trust_remote_code=True)
    with pytest.raises(TemplateError, match=r'use pipeline\("any-to-any", model=...\)'):
        alone(chats[0], max_new_tokens=1)
    said = alone([{"role": "user", "content": "What is the rhythm?"}], max_new_tokens=1)
    assert said[0]["generated_text"][-1]["role"] == "assistant"


def test_the_guard_of_the_template_is_written_once(tiny_elm, tmp_path):
    processor = AutoProcessor.from_pretrained(tiny_elm)
    processor.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert again.chat_template == processor.chat_template and again.chat_template.count("raise_exception") == 1
    assert again.tokenizer.padding_side == "left"
