"""Every chat template that comes with TRL, and reasoning: what is asked is what was learnt, with an end of the turn."""

import copy
import re
from importlib.resources import files

import numpy as np
import pytest
from tiny_models import tiny_tokenizer
from tokenizers import AddedToken

from elm_hf.modeling.chat_rendering import ecg_items
from elm_hf.modeling.feature_extraction_ecg import EcgFeatureExtractor
from elm_hf.modeling.processing_elm import ElmProcessor


TEMPLATES = {path.stem: path for path in sorted((files("trl") / "chat_templates").glob("*.jinja"))}
# Templates that write an earlier answer in another way than the last one: without `<think>`, or with another end.
ONLY_THE_LAST = {"gptoss", "gptoss_training", "qwen3", "qwen3_5_nothink", "qwen3_5_think", "qwen3_6"}
# Templates whose own generation prompt is not what they write before an answer.
OTHER_PROMPT = {
    *("deepseek_r1_distill", "deepseek_r1_distill_training", "deepseekv3", "deepseekv3_training"),
    *("glm4moe", "glm4moe_training", "gptoss", "gptoss_training", "muse_glimmer", "muse_glimmer_training"),
}
# Templates that read nothing but lists of content items.
READS_LISTS = {
    *("idefics3", "idefics3_training", "llava_next", "llava_next_training", "smolvlm", "smolvlm_training"),
}

SMOLLM3 = """\
{%- set mode = '/think' if enable_thinking is not defined or enable_thinking else '/no_think' -%}
<|im_start|>system
Reasoning Mode: {{ mode }}<|im_end|>
{% for message in messages -%}
{%- if message.role == 'assistant' and mode == '/no_think' -%}
<|im_start|>assistant
<think>

</think>
{{ message.content.lstrip('\\n') }}<|im_end|>
{% else -%}
<|im_start|>{{ message.role }}
{{ message.content.lstrip('\\n') }}<|im_end|>
{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{{ '' if mode == '/think' else '<think>\\n\\n</think>\\n' }}
{%- endif -%}"""
REASONING = {
    "qwen3": TEMPLATES["qwen3"].read_text(encoding="utf-8"),
    "smollm3": SMOLLM3,
    "deepseek": TEMPLATES["deepseek_r1_distill"].read_text(encoding="utf-8"),
}


@pytest.fixture(scope="module")
def processor_of():
    """A function from a chat template to a processor whose tokenizer knows the template's special tokens."""
    base = tiny_tokenizer("gpt2")

    def build(template: str, **options) -> ElmProcessor:
        tokenizer = copy.deepcopy(base)
        names = sorted(set(re.findall(r"<[|｜/]?[\w▁|｜:/]+>", template)))
        tokenizer.add_tokens([AddedToken(name, special="think" not in name, normalized=False) for name in names])
        tokenizer.chat_template = template
        return ElmProcessor(EcgFeatureExtractor(num_samples=500), tokenizer, num_ecg_tokens=3, **options)

    return build


@pytest.fixture(scope="module", params=TEMPLATES)
def of_trl(request, processor_of) -> tuple[str, ElmProcessor]:
    """The name of a template of TRL, and a processor with it."""
    return request.param, processor_of(TEMPLATES[request.param].read_text(encoding="utf-8"))


def user(words: str, ecgs: int = 0) -> dict:
    return {"role": "user", "content": [{"type": "ecg"}] * ecgs + [{"type": "text", "text": words}]}


def assistant(words: str) -> dict:
    return {"role": "assistant", "content": [{"type": "text", "text": words}]}


THOUGHTS = [
    user("Is it 'a normal ECG'?", ecgs=1),
    assistant("<think>P waves</think>yes"),
    user("Why is 'that so'?"),
    assistant("no thought </think> at all"),
    user("What is the rhythm?", ecgs=1),
    assistant("<think>\nRR is regular.\n</think>\n\nsinus rhythm"),
]
SYSTEM = {"role": "system", "content": [{"type": "text", "text": "You read ECGs."}]}
QUESTION = [user("What is the rhythm of this ECG?", ecgs=1)]
ANSWERED = [*QUESTION, assistant("sinus rhythm")]
TWO_ANSWERS = [*ANSWERED, user("Does the second show it, too?", ecgs=2), assistant("(none)")]


def learnt(processor: ElmProcessor, messages: list[dict]) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """The token ids of a conversation in training, and where each learnt answer begins and ends."""
    ids, mask = processor.tokenize_conversation(messages, processor.placeholders(len(ecg_items(messages))))
    edges = np.flatnonzero(np.diff(mask, prepend=0, append=0))
    return ids, list(zip(edges[::2], edges[1::2]))


def asked(processor: ElmProcessor, messages: list[dict], **options) -> list[int]:
    """The token ids of a prompt, without reading the ECGs."""
    ecg = np.random.default_rng(0).normal(0, 0.3, (12, 500)).astype(np.float32)
    filled = [{"type": "ecg", "ecg": ecg, "sampling_rate": 250}]
    messages = [
        {**each, "content": [filled[0] if item["type"] == "ecg" else item for item in each["content"]]}
        for each in messages
    ]
    return processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, **options)[0].tolist()


def test_an_answer_is_learnt_after_its_prompt_and_with_an_end(of_trl):
    _, processor = of_trl
    ids, [(start, end)] = learnt(processor, ANSWERED)
    words = processor.tokenizer.decode(ids[start : end - 1]).strip()
    assert words == "sinus rhythm"
    assert int(ids[end - 1]) in processor.tokenizer.added_tokens_decoder
    assert int(ids[end - 1]) == processor.end_of_turn_token_id
    assert asked(processor, QUESTION) == ids[:start].tolist()


def test_each_learnt_answer_of_a_conversation_stands_after_the_prompt_that_asks_for_it(of_trl):
    name, processor = of_trl
    messages = [SYSTEM, *TWO_ANSWERS]
    ids, spans = learnt(processor, messages)
    decode = processor.tokenizer.decode
    places = [4] if name in ONLY_THE_LAST else [2, 4]
    assert [decode(ids[start : end - 1]).strip() for start, end in spans] == ["sinus rhythm", "(none)"][-len(places) :]
    assert {int(ids[end - 1]) for _, end in spans} == {processor.end_of_turn_token_id}
    for place, (start, _) in zip(places, spans):
        assert asked(processor, messages[:place]) == ids[:start].tolist()
    assert decode(ids).count("You read ECGs.") == 1


def test_prompts_are_those_of_the_tokenizer_where_these_are_what_stands_before_an_answer(of_trl):
    name, processor = of_trl
    messages = [{"role": "user", "content": "What is the rhythm?"}]
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
    assert prompt.count("What is the rhythm?") == 1
    if name in READS_LISTS:
        messages = [{"role": "user", "content": [{"type": "text", "text": "What is the rhythm?"}]}]
    own = processor.tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=False, enable_thinking=False
    )
    assert (prompt == own) == (name not in OTHER_PROMPT)


@pytest.mark.parametrize("name", REASONING)
@pytest.mark.parametrize("space", ["", "\n\n"])
def test_reasoning_is_learnt_where_the_template_writes_it(name, space, processor_of):
    processor = processor_of(REASONING[name])
    answered = [*QUESTION, assistant(f"<think>\nRR is regular.\n</think>{space}sinus rhythm")]
    ids, [(start, end)] = learnt(processor, answered)
    words, end_token = processor.tokenizer.decode(ids[start : end - 1]), processor.tokenizer.decode(ids[end - 1])
    assert processor.learns_reasoning(answered) == (name != "deepseek")
    assert asked(processor, QUESTION, enable_thinking=name != "deepseek") == ids[:start].tolist()
    if name == "deepseek":  # its template drops reasoning, and its prompt opens it
        assert (words, end_token) == ("sinus rhythm", "<｜end▁of▁sentence｜>")
        assert "regular" not in processor.tokenizer.decode(ids)
    else:
        assert re.fullmatch(r"<think>\nRR is regular.\n</think>\n*sinus rhythm", words)
        assert end_token == "<|im_end|>"


def test_labels_of_answers_with_reasoning_are_never_a_users_words(of_trl):
    check_labels_of_thoughts(of_trl[1])


def test_labels_of_smollm3_with_reasoning_are_never_a_users_words(processor_of):
    check_labels_of_thoughts(processor_of(SMOLLM3))


def check_labels_of_thoughts(processor: ElmProcessor):
    ids, spans = learnt(processor, THOUGHTS)
    labels = [processor.tokenizer.decode(ids[start:end]) for start, end in spans]
    assert "sinus rhythm" in labels[-1]
    assert not any(words in label for label in labels for words in ("normal ECG", "that so", "What is"))


def test_reasoning_in_another_form_than_the_prompt_opens_it_is_refused_by_name(processor_of):
    processor = processor_of(TEMPLATES["nemotron_3_nano"].read_text(encoding="utf-8"))
    with pytest.raises(ValueError, match=r"asks for the answer with '.*<think>\\n', but writes it after '.*<think>P "):
        learnt(processor, THOUGHTS[:2])


def test_earlier_answers_whose_reasoning_is_kept_are_learnt_and_others_are_not(processor_of):
    thought, again = "<think>\nRR is regular.\n</think>\n\nsinus rhythm", "<think>\nno\n</think>\n\nnone"
    messages = [*QUESTION, assistant(thought), user("And?"), assistant(again)]
    labels = {}
    for name in ("smollm3", "qwen3"):
        processor = processor_of(REASONING[name])
        ids, spans = learnt(processor, messages)
        labels[name] = [processor.tokenizer.decode(ids[start:end]) for start, end in spans]
    assert labels["smollm3"] == [f"{thought}<|im_end|>", f"{again}<|im_end|>"]
    assert labels["qwen3"] == [f"{again}<|im_end|>"]


def test_an_end_is_added_where_the_template_writes_none(processor_of):
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    processor = processor_of(template)
    text = processor.apply_chat_template(TWO_ANSWERS[2:], tokenize=False)
    assert text.count("<|endoftext|>") == 1 and text.endswith("(none)<|endoftext|>\n")
    ids, [(start, end)] = learnt(processor, ANSWERED)
    assert processor.tokenizer.decode(ids[start:end]) == " sinus rhythm<|endoftext|>"
    assert asked(processor, QUESTION) == ids[:start].tolist()


def test_tokens_do_not_join_a_prompt_with_its_answer(processor_of):
    # "user: (" would be one token, if the tokenizer saw them together.
    template = "{% for m in messages %}{{ m.role }}({{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}assistant({% endif %}"
    processor = processor_of(template)
    processor.tokenizer.add_tokens([AddedToken("((", special=False, normalized=False)])
    for answered in (ANSWERED, [*QUESTION, assistant("(none)")]):
        ids, [(start, _)] = learnt(processor, answered)
        assert asked(processor, QUESTION) == ids[:start].tolist()


def test_a_template_without_any_end_is_refused_by_name(processor_of):
    processor = processor_of("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    processor.tokenizer.eos_token = None
    with pytest.raises(ValueError, match="writes no special token after the answer, and the tokenizer has no end-of-"):
        learnt(processor, ANSWERED)
    processor = processor_of("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}")
    with pytest.raises(
        ValueError, match="cannot learn the conversation's answers: the chat template drops the answer"
    ):
        learnt(processor, ANSWERED)


@pytest.mark.parametrize(
    "code", ["{{ 'a' + 1 }}", "{{ messages[9].role.x }}", "{{ 1 / 0 }}", "{{ raise_exception('no') }}"]
)
def test_errors_of_a_templates_code_are_one_line(code, processor_of):
    with pytest.raises(ValueError, match="The chat template refuses the conversation: "):
        processor_of(code).apply_chat_template(QUESTION)


def test_a_template_that_writes_too_much_is_refused(processor_of):
    processor = processor_of("{{ 'ecg' * 1000000 }}")
    with pytest.raises(ValueError, match="refuses the conversation: it writes 3000000 characters for messages of "):
        processor.apply_chat_template(QUESTION)


def test_the_mode_of_training_is_saved_with_the_processor(processor_of, tmp_path):
    processor = processor_of(REASONING["qwen3"])
    default = processor.apply_chat_template(QUESTION, add_generation_prompt=True)
    processor.enable_thinking = True
    processor.save_pretrained(tmp_path)
    loaded = ElmProcessor.from_pretrained(tmp_path)
    prompt = loaded.apply_chat_template(QUESTION, add_generation_prompt=True)
    assert default == prompt + "<think>\n\n</think>\n\n"
    assert loaded.apply_chat_template(QUESTION, add_generation_prompt=True, enable_thinking=False) == default
