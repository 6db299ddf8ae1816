"""Conversations to model input: placeholders, labels' spans, system prompts, and ECGs that are not as they should be."""

import numpy as np
import pytest
import wfdb
from tiny_models import END_OF_TURN, LLM_FAMILIES, tiny_tokenizer

from elm_hf.ecg.simulated_findings import draw_findings
from elm_hf.ecg.simulation import simulate_ecg
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.modeling.feature_extraction_ecg import EcgFeatureExtractor, MissingLeadsWarning
from elm_hf.modeling.processing_elm import ElmProcessor


def tiny_processor(family: str = "llama", **feature_settings) -> ElmProcessor:
    return ElmProcessor(
        EcgFeatureExtractor(num_samples=500, **feature_settings), tiny_tokenizer(family), num_ecg_tokens=5
    )


def ecg_item(ecg: np.ndarray, **keys) -> dict:
    return {"type": "ecg", "ecg": ecg, "sampling_rate": 250, **keys}


def text_item(text: str) -> dict:
    return {"type": "text", "text": text}


def encode(processor: ElmProcessor, messages: list, **kwargs):
    return processor.apply_chat_template(messages, tokenize=True, return_dict=True, **kwargs)


@pytest.mark.parametrize("family", LLM_FAMILIES)
def test_answer_mask_covers_the_assistants_words_and_its_end_of_turn(family, ecgs):
    processor = tiny_processor(family)
    messages = [
        {"role": "user", "content": [ecg_item(ecgs[0]), text_item("What is the rhythm of this ECG?")]},
        {"role": "assistant", "content": "sinus rhythm"},
        {"role": "user", "content": [text_item("And of this? "), ecg_item(ecgs[1]), ecg_item(ecgs[2])]},
        {"role": "assistant", "content": [text_item("none")]},
    ]
    encoded = encode(processor, messages, return_assistant_tokens_mask=True)
    ids, mask = encoded["input_ids"][0], encoded["assistant_masks"][0]
    end = END_OF_TURN[family]
    assert processor.tokenizer.decode(ids[mask == 1]) == f"sinus rhythm{end}none{end}"
    assert (ids == processor.ecg_token_id).sum() == 15
    assert not mask[ids == processor.ecg_token_id].any()


@pytest.mark.parametrize("family", LLM_FAMILIES)
def test_training_text_starts_with_the_prompt_that_generation_uses(family, ecgs):
    processor = tiny_processor(family)
    question = [{"role": "user", "content": [ecg_item(ecgs[0]), text_item("What is the rhythm of this ECG?")]}]
    answered = [*question, {"role": "assistant", "content": "sinus rhythm"}]
    prompt = encode(processor, question, add_generation_prompt=True)["input_ids"][0]
    encoded = encode(processor, answered, return_assistant_tokens_mask=True)
    assert encoded["input_ids"][0][: len(prompt)].tolist() == prompt.tolist()
    assert encoded["assistant_masks"][0].tolist().index(1) == len(prompt)


@pytest.mark.parametrize("family", LLM_FAMILIES)
def test_text_is_what_the_tokenizers_own_template_writes(family):
    processor = tiny_processor(family)
    messages = [
        {"role": "user", "content": "What is the rhythm?"},
        {"role": "assistant", "content": "sinus rhythm"},
        {"role": "user", "content": "And the rate?"},
    ]
    expected = processor.tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=True, enable_thinking=False
    )["input_ids"]
    assert encode(processor, messages, add_generation_prompt=True)["input_ids"][0].tolist() == expected
    assert processor.apply_chat_template(messages) == processor.tokenizer.apply_chat_template(messages, tokenize=False)


@pytest.mark.parametrize("family", LLM_FAMILIES)
def test_a_users_words_that_look_like_the_placeholder_stay_words(family, ecgs):
    processor = tiny_processor(family)
    words = "is <|ecg|> a token? ecgmark [ecgmark:ecg] <|ecg|>"
    messages = [{"role": "user", "content": [text_item(words), ecg_item(ecgs[0])]}]
    ids = encode(processor, messages)["input_ids"][0]
    assert (ids == processor.ecg_token_id).sum() == 5
    assert words in processor.tokenizer.decode(ids[ids != processor.ecg_token_id])


def test_words_in_an_answer_that_look_like_the_placeholder_are_learnt_as_words(ecgs):
    processor = tiny_processor()
    messages = [
        {"role": "user", "content": [ecg_item(ecgs[0]), text_item("What?")]},
        {"role": "assistant", "content": "the <|ecg|> token"},
    ]
    encoded = encode(processor, messages, return_assistant_tokens_mask=True)
    answer = encoded["input_ids"][0][encoded["assistant_masks"][0] == 1]
    assert processor.tokenizer.decode(answer) == "the <|ecg|> token<|eot_id|>"
    assert processor.ecg_token_id not in answer


@pytest.mark.parametrize("family", LLM_FAMILIES)
def test_system_words_are_kept_also_where_a_template_has_no_system_role(family, ecgs):
    processor = tiny_processor(family)
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": [ecg_item(ecgs[0]), text_item("What is the rhythm?")]},
    ]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    assert text.count("You are a helpful assistant.") == 1
    if family == "gemma2":
        assert "<start_of_turn>user\nYou are a helpful assistant.\n\n<|ecg|>What is the rhythm?" in text


def test_generation_pads_on_the_left_and_training_on_the_right(ecgs):
    processor = tiny_processor()
    processor.tokenizer.padding_side = "right"
    chats = [
        [{"role": "user", "content": "What is the rhythm?"}],
        [{"role": "user", "content": [ecg_item(ecgs[0]), text_item("What is the rhythm?")]}],
    ]
    left = encode(processor, chats, add_generation_prompt=True)["attention_mask"]
    right = encode(processor, chats)["attention_mask"]
    assert left[0].tolist() == sorted(left[0].tolist()) and left[0, 0] == 0 and left[1].all()
    assert right[0].tolist() == sorted(right[0].tolist(), reverse=True) and right[0, -1] == 0


def test_a_plain_call_takes_text_with_placeholders(ecgs):
    processor = tiny_processor()
    encoded = processor("What is <|ecg|> and <|ecg|>?", ecg=[ecgs[0], ecgs[1]], sampling_rate=250)
    assert (encoded["input_ids"] == processor.ecg_token_id).sum() == 10
    assert encoded["ecg_values"].shape == (2, 12, 500)
    with pytest.raises(ValueError, match="holds 1 .* placeholders for 2 ECGs"):
        processor("What is <|ecg|>?", ecg=[ecgs[0], ecgs[1]], sampling_rate=250)


def test_a_saved_processor_loads_with_the_same_output(ecgs, tmp_path):
    processor = tiny_processor("gpt2", normalization="z_score")
    processor.save_pretrained(tmp_path)
    loaded = ElmProcessor.from_pretrained(tmp_path)
    messages = [{"role": "user", "content": [ecg_item(ecgs[0]), text_item("What is the rhythm?")]}]
    before, after = (encode(one, messages) for one in (processor, loaded))
    assert before.keys() == after.keys()
    for key in before:
        assert np.array_equal(before[key], after[key]), key


def test_leads_are_placed_by_name(ecgs):
    processor = tiny_processor(normalization="none")
    order = [3, 1, 0, 2, 5, 4, 11, 6, 7, 8, 9, 10]
    names = [LEADS[row].upper() for row in order]
    messages = [{"role": "user", "content": [ecg_item(ecgs[0][order], lead_names=names)]}]
    assert np.array_equal(encode(processor, messages)["ecg_values"][0], ecgs[0])


def test_an_absent_lead_is_zero_and_masked(ecgs):
    extractor = EcgFeatureExtractor(num_samples=500)
    two = extractor(ecgs[0][:2], sampling_rate=250, lead_names=["II", "I"])
    assert two["ecg_lead_mask"][0].tolist() == [True, True] + [False] * 10
    assert two["ecg_values"][0, 2:].any() == np.False_
    ecg = ecgs[0].copy()
    ecg[4] = np.nan
    assert not extractor(ecg, sampling_rate=250)["ecg_lead_mask"][0, 4]


@pytest.mark.parametrize(
    "normalization, expected",
    [
        ("none", lambda x: x),
        ("min_max", lambda x: (x - x.min()) / np.ptp(x)),
        ("z_score", lambda x: (x - x.mean()) / x.std()),
    ],
)
def test_normalization(normalization, expected, ecgs):
    values = EcgFeatureExtractor(num_samples=500, normalization=normalization)(ecgs[0], sampling_rate=250)[
        "ecg_values"
    ]
    assert np.allclose(values[0], expected(ecgs[0]), atol=1e-4)


def test_another_sampling_rate_is_resampled_and_a_longer_ecg_cut():
    time = np.arange(5000) / 1000
    sine = np.tile(np.sin(2 * np.pi * 5 * time), (12, 1)).astype(np.float32)
    values = EcgFeatureExtractor(num_samples=500, normalization="none")(sine, sampling_rate=1000)["ecg_values"][0]
    expected = np.sin(2 * np.pi * 5 * np.arange(500) / 250)
    assert values.shape == (12, 500)
    assert np.abs(values[0, 50:450] - expected[50:450]).max() < 2e-3


BAD_ECGS = {
    "no sampling rate": (lambda e: (e, {}), "ECG 1 of 1: its `sampling_rate` in Hz is missing"),
    "eleven leads": (lambda e: (e[:11], {"sampling_rate": 250}), "11 leads without names, but the model has 12"),
    "transposed": (lambda e: (e.T, {"sampling_rate": 250}), r"\(500, 12\) seems to be \(samples, leads\)"),
    "too short": (lambda e: (e[:, :400], {"sampling_rate": 250}), "1.6 s long, the model reads 2 s"),
    "microvolt": (lambda e: ((e * 1000).astype(np.int16), {"sampling_rate": 250}), "Divide integer microvolt by 1000"),
    "microvolt as float": (
        lambda e: (e * 1000, {"sampling_rate": 250}),
        r"its leads span [\d.e+]+ mV, .* Divide microvolt by 1000",
    ),
    "a rate in words": (
        lambda e: (e, {"sampling_rate": "250 Hz"}),
        "must be a number of Hz from 50 to 20000, got '250 Hz'",
    ),
    "one dimension": (lambda e: (e[0], {"sampling_rate": 250}), r"expected the shape \(leads, samples\)"),
    "unknown lead": (lambda e: (e, {"sampling_rate": 250, "lead_names": [*LEADS[:11], "V7"]}), '"V7" is not one of I'),
    "repeated lead": (
        lambda e: (e, {"sampling_rate": 250, "lead_names": [*LEADS[:11], "I"]}),
        '"I" occurs twice in the ECG',
    ),
    "two rates": (lambda e: ([e], {"sampling_rate": [250, 250]}), "2 sampling rates for 1 ECGs"),
    "all absent": (
        lambda e: (e * np.nan, {"sampling_rate": 250}),
        r"none of the leads .*I, II, .*V6 \(no valid sample",
    ),
    "all zero": (lambda e: (e * 0, {"sampling_rate": 250}), r"none of the leads can be used: I, II, .*V6 \(flat\)"),
    "an absurd rate": (lambda e: (e, {"sampling_rate": 0.002}), "a number of Hz from 50 to 20000, got 0.002"),
}


@pytest.mark.parametrize("case", BAD_ECGS)
def test_bad_ecgs_are_named(case, ecgs):
    make, message = BAD_ECGS[case]
    ecg, keys = make(ecgs[0])
    with pytest.raises(ValueError, match=message):
        EcgFeatureExtractor(num_samples=500)(ecg, **keys)


def test_short_gaps_are_filled_and_leads_with_long_ones_are_missing_with_a_warning(ecgs):
    ecg, extract = ecgs[0].copy(), EcgFeatureExtractor(num_samples=500, normalization="none")
    ecg[7, 33:36], ecg[8, 100:126], ecg[9] = [np.nan, np.inf, 40.0], np.nan, np.nan
    with pytest.warns(MissingLeadsWarning, match=r"ECG 2 of 2: missing leads: V3 \(a gap of 0.104 s\)$"):
        outputs = extract([ecgs[1], ecg], sampling_rate=250)
    assert outputs["ecg_lead_mask"][1].tolist() == [lead not in ("V3", "V4") for lead in LEADS]  # V4 was left out
    found = outputs["ecg_values"][1]
    np.testing.assert_allclose(found[7, 32:37], np.linspace(ecg[7, 32], ecg[7, 36], 5), rtol=1e-5)
    assert not found[8:10].any() and np.array_equal(found[10], ecg[10])


def test_a_record_with_exchanged_leads_is_refused(tmp_path):
    rng = np.random.default_rng(0)
    ecg = simulate_ecg(draw_findings(rng), rng)
    for name, order in (("right", [0, 1]), ("wrong", [1, 0])):
        rows = ecg[[*order, *range(2, 12)]].T.astype(np.float64)
        wfdb.wrsamp(name, 250, ["mV"] * 12, list(LEADS), rows, fmt=["16"] * 12, write_dir=str(tmp_path))
    extract = EcgFeatureExtractor(num_samples=500)
    assert extract(tmp_path / "right")["ecg_lead_mask"].all()
    with pytest.raises(
        ValueError, match="ECG 1 of 1: .*wrong: the limb leads disagree: III is not II - I .*exchanged"
    ):
        extract(tmp_path / "wrong")


def test_malformed_messages_are_named(ecgs):
    processor = tiny_processor()
    with pytest.raises(ValueError, match='must be of type "text" or "ecg", got \'image\''):
        encode(processor, [{"role": "user", "content": [{"type": "image"}]}])
    with pytest.raises(ValueError, match='1 of 1 ECG items have no "ecg"'):
        encode(processor, [{"role": "user", "content": [{"type": "ecg"}]}])
    with pytest.raises(ValueError, match='"text" item needs "text", a string, got None'):
        encode(processor, [{"role": "user", "content": [{"type": "text"}]}])
    with pytest.raises(ValueError, match='"content" that is a string or a list of items, got .*None'):
        encode(processor, [{"role": "assistant", "content": None}])
    with pytest.raises(ValueError, match="The conversation has no messages"):
        encode(processor, [])


def test_the_processors_chat_template_is_the_one_that_writes(tmp_path):
    processor = tiny_processor()
    processor.chat_template = "{{ messages[0]['content'] }}!"
    message = {"role": "user", "content": "What?"}
    assert processor.apply_chat_template([message]) == "What?!"
    assert processor.apply_chat_template([message], chat_template="{{ messages[0]['role'] }}") == "user"
    processor.save_pretrained(tmp_path)
    loaded = ElmProcessor.from_pretrained(tmp_path)
    assert loaded.apply_chat_template([message]) == "What?!"
    loaded.tokenizer.chat_template = "none"
    assert loaded.chat_template == loaded.apply_chat_template([message]) == "none"


def test_the_options_of_other_processors_are_followed_or_refused(ecgs):
    processor = tiny_processor()
    chats = [
        [{"role": "user", "content": [{"type": "ecg", "ecg": ecgs[0]}, text_item(text)]}] for text in ("a", "b c")
    ]
    expected = encode(processor, chats, padding_side="left", sampling_rate=250, return_tensors="pt")
    options = {"padding": True, "padding_side": "left", "sampling_rate": 250, "return_tensors": "pt"}
    for given in (options, {"processor_kwargs": options | {"truncation": False, "max_length": None}}):
        encoded = encode(processor, chats, **given)
        assert encoded["input_ids"].tolist() == expected["input_ids"].tolist()
        assert encoded["ecg_values"].shape == (2, 12, 500)
    assert processor(["a", "b c d"], padding="longest")["input_ids"].shape == (2, 5)
    for given in ({"truncation": True, "max_length": 4}, {"padding": "max_length"}, {"pad_to_multiple_of": 8}):
        with pytest.raises(ValueError, match="padded to the longest of a call and never truncated"):
            encode(processor, chats, processor_kwargs=options | given)
    with pytest.raises(ValueError, match="truncation=True"):
        encode(processor, chats, truncation=True, max_length=4)


def test_a_template_that_drops_an_ecg_is_refused(ecgs):
    processor = tiny_processor()
    processor.tokenizer.chat_template = "{{ messages[-1]['content'] }}"
    messages = [
        {"role": "user", "content": [ecg_item(ecgs[0])]},
        {"role": "assistant", "content": "none"},
        {"role": "user", "content": [ecg_item(ecgs[1])]},
    ]
    with pytest.raises(ValueError, match="wrote 1 of the conversation's 2 ECGs"):
        encode(processor, messages)


def test_a_wfdb_path_is_read(shared_data):
    processor = tiny_processor(normalization="none")
    path = str(shared_data / "ptb_xl" / "records500" / "06000" / "06000_hr")
    messages = [{"role": "user", "content": [{"type": "ecg", "ecg": path}, text_item("What is the rhythm?")]}]
    values = encode(processor, messages)["ecg_values"][0]
    raw = np.fromfile(f"{path}.dat", dtype=np.int16).reshape(-1, 12).T / 1000
    # every second sample of the 500 Hz record, but for what the anti-aliasing filter takes away
    assert values.shape == (12, 500)
    assert np.corrcoef(values[1, 10:-10], raw[1, 20:980:2])[0, 1] > 0.995
