"""Creating checkpoints: the tokenizer trained on a dataset, and settings that are refused."""

import json

import pytest
from transformers import AutoTokenizer

from elm_hf.checkpoints.create import create_elm, load_encoder
from elm_hf.checkpoints.tokenizer import train_tokenizer
from elm_hf.data.loading import load_elm_dataset


TEXTS = ["Does this ECG show wide qrs?", "Is there noise?", "wide qrs, static noise", "yes", "no"] * 20


def test_a_tokenizer_decodes_every_text_that_it_encodes():
    tokenizer = train_tokenizer(TEXTS, 300, ["wide qrs"])
    for text in (*TEXTS[:5], "Ärger mit  Lücken,\nZeilen und 😀", " vorn und hinten "):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_whole_phrases_are_always_one_token():
    tokenizer = train_tokenizer(TEXTS, 262, ["wide qrs", "yes"])
    phrase = tokenizer.convert_tokens_to_ids("wide qrs")
    for text in ("Does this ECG show wide qrs?", "wide qrs, static noise", "wide qrs"):
        assert tokenizer(text)["input_ids"].count(phrase) == 1
    assert tokenizer.convert_tokens_to_ids("yes") not in tokenizer("yesterday")["input_ids"]


def test_tokens_span_words_but_no_punctuation():
    tokens = train_tokenizer(TEXTS, 350).get_vocab()
    assert "Does\u0120this\u0120ECG\u0120show\u0120wide\u0120qrs" in tokens
    assert not any("qrs," in token or "noise?" in token for token in tokens)


def test_a_vocabulary_smaller_than_the_bytes_is_refused():
    with pytest.raises(ValueError, match="at least 262 tokens, got 100"):
        train_tokenizer(TEXTS, 100)


def test_the_answers_of_the_dataset_are_single_tokens(tiny_elm, simulated_dataset):
    tokenizer = AutoTokenizer.from_pretrained(tiny_elm)
    answers = {item for answer in load_elm_dataset(simulated_dataset)["answer"] for item in answer}
    assert {"yes", "no", "sinus rhythm"} <= answers
    assert all(len(tokenizer(item)["input_ids"]) == 1 for item in answers)


def test_unknown_settings_are_named_and_create_nothing(tmp_path, simulated_dataset):
    config = tmp_path / "elm.json"
    config.write_text(json.dumps({"projektor": 1, "text_config": {"model_type": "qwen2"}}))
    with pytest.raises(ValueError, match="elm.json: not a field of ElmConfig: projektor"):
        create_elm(tmp_path / "elm", config=config, tokenizer_dataset=str(simulated_dataset))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elm.json"]


def test_the_error_for_a_misspelt_encoder_lists_the_types_of_new_encoders():
    with pytest.raises(FileNotFoundError, match="ecg_resnett: no such folder.* Types of new encoders: ecg_resnet, "):
        load_encoder("ecg_resnett")
