"""Attention to ECG-Byte tokens, mapped back on the signal."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import TINY_LLM
from test_cli import always_answer

from elm_hf.checkpoints.create import create_elm
from elm_hf.checkpoints.load import load_checkpoint
from elm_hf.data.loading import load_elm_dataset
from elm_hf.evaluation.attention import ecg_attention
from elm_hf.evaluation.evaluate import evaluate


@pytest.fixture(scope="module")
def symbol_elm(simulated_dataset, ecg_tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("symbol")
    ecg_tokenizer.save_pretrained(folder / "tokenizer")
    (folder / "elm.json").write_text(
        json.dumps({"text_config": TINY_LLM | {"max_position_embeddings": 4096, "tie_word_embeddings": False}})
    )
    options = {
        "representation": "symbol",
        "ecg_tokenizer": str(folder / "tokenizer"),
        "max_ecg_tokens": 240,
        "seconds": 2,
    }
    data = {"tokenizer_dataset": str(simulated_dataset), "vocab_size": 400}
    create_elm(folder / "elm", config=folder / "elm.json", **data, **options)
    return folder / "elm"


@pytest.mark.parametrize("max_ecg_tokens", [None, 240])
def test_attention_of_tokens_is_shared_by_their_samples(symbol_elm, simulated_dataset, max_ecg_tokens):
    model, processor = load_checkpoint(symbol_elm)
    processor.max_ecg_tokens = max_ecg_tokens
    ecg = load_elm_dataset(simulated_dataset)[0]["ecgs"][0]
    question = {"role": "user", "content": [{"type": "ecg"}, {"type": "text", "text": "What is the rhythm?"}]}
    found = ecg_attention(model, processor, [question], ecg, 250, "sinus rhythm")
    before = model.config.get_text_config(decoder=True)._attn_implementation
    assert before == "sdpa"  # as it was

    # The same from the model itself, token by token.
    filled = {"role": "user", "content": [{"type": "ecg", "ecg": ecg, "sampling_rate": 250}, question["content"][1]]}
    messages = [filled, {"role": "assistant", "content": "sinus rhythm"}]
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "return_assistant_tokens_mask": True}
    inputs = processor.apply_chat_template([messages], **options)
    answer = np.flatnonzero(inputs.pop("assistant_masks")[0])
    model.set_attn_implementation("eager")
    with torch.no_grad():
        layers = torch.stack(model(**inputs, output_attentions=True).attentions)[:, 0].numpy()
    ids = inputs["input_ids"][0].numpy()
    places = np.flatnonzero(processor.is_ecg_token(ids))
    shares = layers[:, :, answer - 1][..., places].mean(axis=(0, 1, 2))
    assert found.sum() == pytest.approx(shares.sum(), rel=1e-5)

    # Without a limit, the tokens of the first lead cover its samples one after the other.
    widths = [len(processor.ecg_tokenizer.decode(int(ids[place] - processor.ecg_token_offset))) for place in places]
    if max_ecg_tokens is None:
        in_lead = np.flatnonzero(np.cumsum(widths) <= 500)
        expected = np.concatenate([[shares[k] / widths[k]] * widths[k] for k in in_lead])
        np.testing.assert_allclose(found[0, : len(expected)], expected, rtol=1e-4)
    else:
        assert (found[:, -1] == 0).all() and (found[:, 0] > 0).all()  # every lead has lost its end


def test_an_evaluation_draws_it(symbol_elm, simulated_dataset, tmp_path):
    pytest.importorskip("matplotlib", reason="needs the extra `eval`")
    shutil.copytree(symbol_elm, tmp_path / "elm")
    always_answer(tmp_path / "elm", "yes")
    conditions = ("ecg", "none")
    options = {"limit": 6, "max_new_tokens": 2, "conditions": conditions, "num_occlusions": 1, "quiet": True}
    report = evaluate(tmp_path / "elm", simulated_dataset, output=tmp_path / "report", **options)
    for name in ("occlusion_0", "attention_0"):
        assert (tmp_path / "report" / report["figures"][name]).exists()
