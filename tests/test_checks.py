"""Checks before training: lengths that the model can use, and chat templates."""

from types import SimpleNamespace

import pytest
from datasets import Dataset
from test_chat_templates import REASONING, assistant, processor_of, user  # noqa: F401 (a fixture)
from tiny_models import tiny_llm
from trl import SFTConfig

from elm_hf.modeling.configuration_elm import ElmConfig
from elm_hf.training.arguments import ElmScriptArguments
from elm_hf.training.checks import check_chat_template, set_max_length, set_thinking


SYMBOL = {"representation": "symbol", "ecg_token_offset": 512, "ecg_vocab_size": 100}
SIGNAL = {"representation": "signal", "num_ecg_tokens": 50}


def length_of(family: str, of_an_ecg: int, most: int, given: int | None = 1024, representation=SYMBOL, **limits):
    """The `max_length` of a run on conversations with up to `most` ECGs."""
    training_args = SFTConfig(output_dir="out", use_cpu=True, max_length=given)
    processor = SimpleNamespace(num_ecg_tokens=of_an_ecg, **limits)
    config = ElmConfig(text_config=tiny_llm(family).config.to_dict(), **representation)
    set_max_length(training_args, Dataset.from_dict({"ecg_index": [[0], [0] * most]}), processor, config)
    return training_args.max_length


def test_the_default_length_follows_the_model():
    assert length_of("llama", 50, 2, representation=SIGNAL) == 1024
    assert length_of("llama", 1024, 1, max_ecg_tokens=1024) == 2048
    assert length_of("llama", 3000, 2, max_ecg_tokens=None) == 7024
    assert length_of("gpt2", 50, 2, representation=SIGNAL) == 512  # its positions
    assert length_of("gpt2", 50, 2, None, representation=SIGNAL) == 512
    assert length_of("llama", 50, 2, None, representation=SIGNAL) is None
    assert length_of("llama", 1024, 1, 1500, max_ecg_tokens=1024) == 1500


@pytest.mark.parametrize(
    "family, of_an_ecg, given, message",
    [
        ("gpt2", 50, 600, '--max_length is 600, and the "gpt2" LLM reads at most 512 tokens'),
        ("opt", 50, 3000, 'the "opt" LLM reads at most 2048 tokens'),
        ("llama", 300, 500, r"--max_length is 500, and the ECGs .* up to 600 tokens \(2 ECGs of 300\).* a larger one"),
        ("gpt2", 300, 1024, "which leaves no room for an answer; the LLM reads no more"),
    ],
)
def test_lengths_that_cannot_be_used_are_refused(family, of_an_ecg, given, message):
    with pytest.raises(ValueError, match=message):
        length_of(family, of_an_ecg, 2, given, max_ecg_tokens=of_an_ecg)


def test_joined_questions_are_refused_where_only_the_last_would_be_learnt(processor_of):  # noqa: F811
    joined = ElmScriptArguments(dataset=["d"], merge_questions=12)
    check_chat_template(processor_of(REASONING["smollm3"]), joined)
    with pytest.raises(ValueError, match="--merge_questions joins answers, .* so that only the last would be learnt"):
        check_chat_template(processor_of(REASONING["qwen3"]), joined)
    check_chat_template(processor_of(REASONING["qwen3"]), ElmScriptArguments(dataset=["d"]))


@pytest.mark.parametrize("share, thinks", [(0.2, False), (0.8, True)])
def test_a_model_that_learns_reasoning_is_asked_for_it(share, thinks, processor_of):  # noqa: F811
    plain = [user("Rhythm?"), assistant("sinus rhythm")]
    thought = [user("Rhythm?"), assistant("<think>\nRR is regular.\n</think>\n\nsinus rhythm")]
    number = round(10 * share)
    dataset = Dataset.from_dict({"messages": [thought] * number + [plain] * (10 - number)})
    processor = processor_of(REASONING["qwen3"])
    set_thinking(processor, dataset)
    assert processor.enable_thinking == thinks
