"""Reasoning (`<think>`) before answers: all of it is learnt, none is scored or shown unasked, its length is limited."""

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from test_chat_templates import REASONING, assistant, processor_of, user  # noqa: F401 (a fixture)
from test_judge import endpoint  # noqa: F401 (a fixture)
from test_modeling_elm import compose
from test_report import question_row
from tiny_models import tiny_tokenizer

from elm_hf.cli.ask import _lines
from elm_hf.inference.ask import AskedEcg, ask, questions_about
from elm_hf.inference.chat import Chat
from elm_hf.inference.generation import generate_answers
from elm_hf.inference.reasoning import ReasoningLimit
from elm_hf.interpretations.judge import judge_predictions
from elm_hf.scoring.scores import Questions
from elm_hf.training.reasoning import prepare_reasoning
from elm_hf.utils.exact_match import answer_items, final_answer, is_exact_match, reasoning_of


# A template whose prompts open the reasoning, so that a model with random weights reasons.
OPEN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking %}<think>\n{% endif %}{% endif %}"
)


@pytest.fixture
def reasoner():
    """A model with random weights that is asked for reasoning, and its processor."""
    model, processor = compose("qwen2")
    processor.chat_template, processor.enable_thinking = OPEN, True
    model.generation_config.eos_token_id = None  # writes as much as it may
    return model, processor


def thought(reasoning: str, answer: str) -> str:
    return f"<think>\n{reasoning}\n</think>\n\n{answer}"


def test_reasoning_and_answer_are_told_apart():
    text = thought("RR is regular.", "sinus rhythm")
    assert (reasoning_of(text), final_answer(text)) == ("RR is regular.", "sinus rhythm")
    opened = text.removeprefix("<think>\n")  # the prompt opened the reasoning
    assert (reasoning_of(opened), final_answer(opened)) == ("RR is regular.", "sinus rhythm")
    assert (reasoning_of("<think> so"), final_answer("<think> so")) == ("so", "")
    assert (reasoning_of("yes"), final_answer("yes")) == ("", "yes")
    assert is_exact_match(text, [thought("So.", "Sinus rhythm")])
    assert answer_items("Sinus rhythm; LBBB.") == answer_items("lbbb, sinus rhythm")


def written(limit: ReasoningLimit, prompt: list[int], wanted: list[list[int]], steps: int) -> list[list[int]]:
    """What models write that want these tokens, one after the other, and then the token 5 on and on."""
    ids = torch.tensor([prompt] * len(wanted))
    for step in range(steps):
        scores = torch.zeros(len(wanted), 600)
        for row, tokens in enumerate(wanted):
            scores[row, tokens[step] if step < len(tokens) else 5] = 1
        ids = torch.cat([ids, limit(ids, scores).argmax(dim=1, keepdim=True)], dim=1)
    return ids[:, len(prompt) :].tolist()


def test_a_long_reasoning_is_ended_and_other_answers_stay_as_they_are():
    tokenizer = tiny_tokenizer("qwen2")
    encode = tokenizer.encode
    start, end = encode("<think>"), encode("\n</think>\n\n")
    short = encode("<think>a</think>b")
    wanted = [start, encode(" <th"), short, encode("sinus rhythm")]
    prompt = encode("Rhythm?")
    found = written(ReasoningLimit(tokenizer, torch.tensor([prompt] * 4), 6), prompt, wanted, 40)
    assert found[0] == start + [5] * 6 + end + [5] * (34 - len(start) - len(end))
    for row in (1, 2, 3):  # no reasoning; one that ends in time; an answer
        assert found[row] == wanted[row] + [5] * (40 - len(wanted[row]))
    prompt = encode("Rhythm?<think>\n")
    found = written(ReasoningLimit(tokenizer, torch.tensor([prompt]), 6), prompt, [[]], 30)[0]
    assert found == [5] * 6 + end + [5] * (24 - len(end))


def test_the_limit_holds_in_a_batch_with_a_shared_prefix(reasoner, ecgs):
    model, processor = reasoner
    item = {"type": "ecg", "ecg": ecgs[0], "sampling_rate": 250}
    conversations = [
        [{"role": "user", "content": [item, {"type": "text", "text": text}]}]
        for text in ("What is the rhythm?", "Is there a new finding in this ECG?")
    ]
    together = generate_answers(model, processor, conversations, 4, max_reasoning_tokens=7)
    apart = [generate_answers(model, processor, [one], 4, max_reasoning_tokens=7)[0] for one in conversations]
    assert [one.text for one in together] == [one.text for one in apart]
    for one in together:
        assert one.text.count("</think>") == 1 and final_answer(one.text)
        assert one.num_tokens == 7 + len(processor.tokenizer.encode("\n</think>\n\n")) + 4 and not one.finished


def test_the_answer_is_shown_without_its_reasoning_and_on_request_with_it(reasoner, ecgs):
    model, processor = reasoner
    asked = questions_about([AskedEcg("a", ecgs[0], 250)], ["What is the rhythm?"])
    ((answer,),) = ask(model, processor, [asked], 4, 7)
    assert answer["text"].startswith(answer["reasoning"]) and answer["text"].endswith(answer["answer"])
    assert answer["reasoning"] and answer["answer"] and "think" not in answer["answer"]
    plain, full = ("\n".join(_lines(processor, asked, [answer], shown)) for shown in (False, True))
    assert answer["reasoning"].splitlines()[0] in full and "    | " not in plain
    talk = Chat(model, processor, asked.ecgs, 4, 7)
    assert talk.ask("What is the rhythm?") == answer["answer"]
    assert talk.messages[-1]["content"][0]["text"] == answer["text"]  # its template decides what stays


def test_scores_and_the_judge_read_the_answer_alone(endpoint):  # noqa: F811
    said = [thought("Three beats. Sinus?", "sinus rhythm"), "<think> sinus rhythm"]
    rows = [
        question_row(f"c{number}", "ecg", "single-query", ["sinus rhythm"], text, [f"s/{number}"])
        for number, text in enumerate(said)
    ]
    table = pd.DataFrame(rows)
    table["messages_answer"] = thought("Regular.", "sinus rhythm")
    questions = Questions(table)
    assert questions.answers["ecg"] == ["sinus rhythm", ""]
    assert questions.values("ecg")[:, :4].tolist() == [
        [1, 1, 1, 1],
        [1, 0, 0, 0],
    ]  # exact match, F1, shared statements
    long = table.assign(answer=[["a regular rhythm of the sinus node"]] * 2)
    long["messages_answer"] = thought("Regular.", "A regular rhythm of the sinus node.")
    assert Questions(long).table["truth"].tolist() == ["A regular rhythm of the sinus node."] * 2
    judged, _ = judge_predictions(table, endpoint.url, quiet=True)
    assert judged["judge_score"].tolist() == [2, 0] and len(endpoint.requests) == 1


def test_reasoning_of_earlier_answers_is_learnt_and_long_reasoning_is_left_out(processor_of, caplog):  # noqa: F811
    first, second = thought("RR is regular.", "sinus rhythm"), thought("no ST change", "none")
    two = [user("Rhythm?", ecgs=1), assistant(first), user("Ischemia?"), assistant(second)]
    long = [user("Rhythm?", ecgs=1), assistant(thought("so " * 100, "AF"))]
    plain = [user("Rhythm?", ecgs=1), assistant("AF"), user("And?"), assistant("none")]
    dataset = Dataset.from_dict({"messages": [two, long, plain], "ecg_index": [[0], [1], [2]]})
    processor = processor_of(REASONING["qwen3"])
    rows = prepare_reasoning(dataset, processor, 50)
    assert rows["ecg_index"] == [[0], [0], [2]]
    assert "1 of 3 conversations are left out" in caplog.text and "1 conversations have a row for each" in caplog.text
    labels = []
    for messages in rows["messages"]:
        ids, mask = processor.tokenize_conversation(messages, processor.placeholders(1))
        labels.append(processor.tokenizer.decode(ids[mask == 1]))
    assert [label.removesuffix("<|im_end|>") for label in labels[:2]] == [first, second]
    keeps = processor_of(REASONING["smollm3"])  # which writes the reasoning of earlier answers
    assert len(prepare_reasoning(dataset, keeps, None)) == 3
    with pytest.raises(
        ValueError, match="the reasoning of all 1 conversations is longer than --max_reasoning_tokens 5"
    ):
        prepare_reasoning(dataset.select([1]), processor, 5)


def test_no_reasoning_leaves_the_rows_alone(processor_of):  # noqa: F811
    dataset = Dataset.from_dict({"messages": [[user("Rhythm?"), assistant("AF")]]})
    assert prepare_reasoning(dataset, processor_of(REASONING["qwen3"]), 5) is dataset
    assert np.array_equal(dataset["messages"], [[user("Rhythm?"), assistant("AF")]])
