"""Training batches: labels, conversations that are too long, tokenization in advance, and rows that are refused."""

import numpy as np
import pytest
from tiny_models import END_OF_TURN, LLM_FAMILIES, tiny_tokenizer

from elm_hf.data.loading import load_elm_dataset
from elm_hf.data.messages import fill_ecgs
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.modeling.feature_extraction_ecg import EcgFeatureExtractor
from elm_hf.modeling.processing_elm import ElmProcessor
from elm_hf.training import tokenization
from elm_hf.training.augmentation import EcgAugmentation
from elm_hf.training.collator import ElmDataCollator
from elm_hf.training.packing import IGNORE_INDEX
from elm_hf.training.tokenization import tokenize_conversations


def tiny_processor(family: str) -> ElmProcessor:
    return ElmProcessor(EcgFeatureExtractor(num_samples=500), tiny_tokenizer(family), num_ecg_tokens=5)


def row(ecgs: list[np.ndarray], *turns: str, **columns) -> dict:
    """A row of alternating user and assistant turns, with all ECGs in the first."""
    items = [[{"type": "text", "text": text}] for text in turns]
    items[0] = [{"type": "ecg", "text": None} for _ in ecgs] + items[0]
    roles = ["user", "assistant"] * len(turns)
    messages = [{"role": role, "content": content} for role, content in zip(roles, items)]
    return {"messages": messages, "ecgs": ecgs, "sampling_rate": 250, **columns}


def labelled_text(processor: ElmProcessor, batch: dict, index: int = 0) -> str:
    labels = batch["labels"][index]
    return processor.tokenizer.decode(labels[labels != IGNORE_INDEX])


@pytest.mark.parametrize("family", LLM_FAMILIES)
def test_labels_are_the_assistants_words_and_its_end_of_turn(family, ecgs):
    processor, end = tiny_processor(family), END_OF_TURN[family]
    rows = [
        row([ecgs[0]], "What is the rhythm?", "sinus rhythm", "And the rate?", "60"),
        row([], "Hello?", "none"),
        row([ecgs[1], ecgs[2]], "Compare the two ECGs.", "The rate of the first is higher."),
    ]
    batch = ElmDataCollator(processor)(rows)
    earlier = (
        "" if family == "qwen3" else f"sinus rhythm{end}"
    )  # Qwen 3 asks with <think> and writes it before the last
    assert [labelled_text(processor, batch, index) for index in range(3)] == [
        f"{earlier}60{end}",
        f"none{end}",
        f"The rate of the first is higher.{end}",
    ]
    kept = batch["labels"] != IGNORE_INDEX
    assert (batch["labels"][kept] == batch["input_ids"][kept]).all()
    assert batch["attention_mask"][kept].all()
    assert batch["ecg_values"].shape == (3, 12, 500)


def test_a_conversation_that_cannot_be_learnt_is_named():
    processor = tiny_processor("llama")
    processor.chat_template = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    with pytest.raises(
        ValueError, match="Conversation c7: The model cannot learn .* the chat template drops the answer"
    ):
        ElmDataCollator(processor)([row([], "Hello?", "none", conversation_id="c7")])


def test_a_batch_is_as_long_as_its_longest_conversation(ecgs):
    collator = ElmDataCollator(tiny_processor("llama"), max_length=512)
    alone = [collator([row([], text, "yes")])["input_ids"].shape[1] for text in ("a", "a b c d e f g h")]
    together = collator([row([], "a", "yes"), row([], "a b c d e f g h", "yes")])
    assert together["input_ids"].shape == (2, max(alone))
    assert together["attention_mask"].sum(dim=1).tolist() == alone


@pytest.mark.parametrize("padding_free", [False, True])
def test_rows_tokenized_in_advance_give_the_same_batch(padding_free, simulated_dataset):
    collator = ElmDataCollator(tiny_processor("llama"), padding_free=padding_free)
    dataset = load_elm_dataset(simulated_dataset)
    read, once = (
        collator(rows.__getitems__([0, 3, 1]))
        for rows in (dataset, tokenize_conversations(dataset, collator.tokenize))
    )
    assert read.keys() == once.keys()
    for name, values in read.items():
        assert np.array_equal(values, once[name]), name
        assert isinstance(values, int) or values.dtype == once[name].dtype, name


def test_changed_code_tokenizes_again(simulated_dataset, monkeypatch):
    collator = ElmDataCollator(tiny_processor("llama"))
    dataset = load_elm_dataset(simulated_dataset)
    before, again = (tokenize_conversations(dataset, collator.tokenize)._fingerprint for _ in range(2))
    assert before == again
    augmented = ElmDataCollator(tiny_processor("llama"), augmentation=EcgAugmentation(noise=0.1), seed=1)
    assert tokenize_conversations(dataset, augmented.tokenize)._fingerprint == before  # independent of augmentation
    monkeypatch.setattr(tokenization, "source_digest", lambda module: "of changed code")
    assert tokenize_conversations(dataset, collator.tokenize)._fingerprint != before


@pytest.mark.parametrize("leads", [["I", "II", "III", "aVR", "aVF", "aVL", *LEADS[6:]], ["V5", "II"]])
def test_ecgs_of_datasets_are_placed_in_the_models_order_of_leads(leads, ecgs):
    extractor = EcgFeatureExtractor(num_samples=500, leads=leads, normalization="none")
    processor = ElmProcessor(extractor, tiny_tokenizer("llama"), num_ecg_tokens=5)
    example = row([ecgs[0]], "What is the rhythm?", "sinus rhythm")
    rows_of_leads = [LEADS.index(lead) for lead in leads]
    expected = EcgFeatureExtractor(num_samples=500, normalization="none")([ecgs[0]], sampling_rate=250)["ecg_values"]
    asked = fill_ecgs(example["messages"], example["ecgs"], 250)
    inputs = processor.apply_chat_template([asked], tokenize=True, return_dict=True, return_tensors="np")
    for values in (ElmDataCollator(processor)([example])["ecg_values"], inputs["ecg_values"]):
        np.testing.assert_array_equal(np.asarray(values)[0], np.asarray(expected)[0, rows_of_leads])


def test_a_text_only_batch_has_no_ecg_values():
    assert "ecg_values" not in ElmDataCollator(tiny_processor("llama"))([row([], "Hello?", "none")])


@pytest.mark.parametrize("max_length", [16, 24, 32, 40])
def test_a_long_conversation_keeps_its_ecg_and_its_answer(max_length, ecgs):
    processor = tiny_processor("llama")
    collator = ElmDataCollator(processor, max_length=max_length)
    batch = collator([row([ecgs[0]], "What is the rhythm of this ECG? " * 20, "sinus rhythm")])
    assert batch["input_ids"].shape == (1, max_length)
    assert (batch["input_ids"] == processor.ecg_token_id).sum() == 5
    assert labelled_text(processor, batch) == "sinus rhythm<|eot_id|>"


def test_the_oldest_text_is_cut_first(ecgs):
    processor = tiny_processor("llama")
    long = row([ecgs[0]], "first " * 30, "one", "second", "two")
    full = ElmDataCollator(processor)([long])["input_ids"][0]
    cut = ElmDataCollator(processor, max_length=len(full) - 10)([long])["input_ids"][0]
    is_text = full != processor.ecg_token_id
    assert cut[0] == full[0] == processor.tokenizer.bos_token_id
    assert cut[cut != processor.ecg_token_id][1:].tolist() == full[is_text][11:].tolist()


def test_an_answer_that_is_too_long_keeps_its_beginning(ecgs):
    processor = tiny_processor("llama")
    batch = ElmDataCollator(processor, max_length=12)([row([ecgs[0]], "What?", "a b c d e f g h i j k l m n o p")])
    assert batch["input_ids"].shape == (1, 12)
    assert (batch["labels"] != IGNORE_INDEX).sum() == 7
    assert "a b c d e f g h i j k l m n o p".startswith(labelled_text(processor, batch))


def test_ecgs_that_leave_no_room_are_refused_by_name(ecgs):
    collator = ElmDataCollator(tiny_processor("llama"), max_length=10)
    with pytest.raises(ValueError, match="Conversation c7: its ECGs take 10 tokens, and max_length=10 leaves no room"):
        collator([row([ecgs[0], ecgs[1]], "Compare.", "none", conversation_id="c7")])


def test_a_conversation_without_an_answer_is_refused_by_name():
    with pytest.raises(ValueError, match="Conversation c8: it has no assistant turn"):
        ElmDataCollator(tiny_processor("llama"))([row([], "Hello?", conversation_id="c8")])


def test_the_label_of_an_empty_answer_is_the_end_of_the_turn(ecgs):
    processor = tiny_processor("qwen2")
    assert labelled_text(processor, ElmDataCollator(processor)([row([ecgs[0]], "What?", "")])) == "<|im_end|>"


def test_the_number_of_ecgs_must_match_the_number_of_items(ecgs):
    wrong = row([ecgs[0]], "What?", "none")
    wrong["ecgs"] = [ecgs[0], ecgs[1]]
    with pytest.raises(ValueError, match="1 ECG items and 2 ECGs"):
        ElmDataCollator(tiny_processor("llama"))([wrong])


@pytest.mark.parametrize("family", LLM_FAMILIES)
def test_the_system_prompt_is_added_to_conversations_without_one(family, ecgs):
    processor = tiny_processor(family)
    own = row([], "Hello?", "none")
    own["messages"] = [{"role": "system", "content": [{"type": "text", "text": "Be short."}]}, *own["messages"]]
    processor.system_prompt = "You are a helpful assistant."
    batch = ElmDataCollator(processor)([own, row([], "Hello?", "none")])
    first, second = (processor.tokenizer.decode(ids) for ids in batch["input_ids"])
    assert "Be short." in first and "helpful" not in first
    assert second.count("You are a helpful assistant.") == 1
