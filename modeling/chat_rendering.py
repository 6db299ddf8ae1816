# Copyright 2026 The elm-hf authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Renders conversations about ECGs with the LLM's chat template, and locates ECGs and answers in the text."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count

import numpy as np
from jinja2.exceptions import TemplateError


END_OF_REASONING = "</think>"
# For LLMs without a chat template (GPT-2, OPT): roles in words, and the end-of-text token after every answer.
DEFAULT_CHAT_TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
    {%- if message['role'] == 'system' %}
        {{- message['content'] + '\\n\\n' }}
    {%- elif message['role'] == 'user' %}
        {{- 'User:\\n' + message['content'] + '\\n\\n' }}
    {%- elif message['role'] == 'assistant' %}
        {{- 'Assistant:\\n' }}{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}{{ '\\n\\n' }}
    {%- else %}
        {{- raise_exception('Unknown role: ' + message['role']) }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- 'Assistant:\\n' }}
{%- endif %}"""
# Begins every template. The processor turns ECGs into placeholders before it renders a conversation; a tokenizer alone, as
# in the "text-generation" pipeline, would leave them out, or write them as text.
REFUSE_ECGS = """\
{% for message in messages %}{% if message['content'] is iterable and message['content'] is not string %}\
{% for item in message['content'] if item is mapping and item['type'] == 'ecg' %}{{ raise_exception(\
'A tokenizer alone cannot read ECGs: use pipeline("any-to-any", model=...), or apply_chat_template of the processor.'\
) }}{% endfor %}{% endif %}{% endfor %}
"""


def refusing_ecgs(template: str | dict[str, str]) -> str | dict[str, str]:
    r"""
    A chat template that raises an error about ECGs which the processor has not replaced.

    Args:
        template (`str` or `dict[str, str]`):
            A chat template, or several by name.

    Raises:
        ValueError: a template is no text.
    """
    if isinstance(template, dict):
        return {name: refusing_ecgs(one) for name, one in template.items()}
    if not isinstance(template, str):
        raise ValueError(f"The chat template is {template!r} instead of text.")
    return template if template.startswith(REFUSE_ECGS) else REFUSE_ECGS + template


@dataclass
class RenderedChat:
    r"""
    A rendered conversation. Positions are in characters.

    Args:
        text (`str`, *optional*, defaults to `""`):
            The text, with a placeholder for each ECG.
        ecgs (`list[int]`, *optional*):
            Position of each placeholder.
        answers (`list[tuple[int, int]]`, *optional*):
            Start and end of the words of each assistant message, without reasoning before them. `None` for a message
            that the template does not write.
        learnt (`list[tuple[int, int]]`, *optional*):
            Start and end of what a model learns to write, with the end of each turn.
    """

    text: str = ""
    ecgs: list[int] = field(default_factory=list)
    answers: list[tuple[int, int] | None] = field(default_factory=list)
    learnt: list[tuple[int, int]] = field(default_factory=list)

    def is_learnt(self) -> list[bool]:
        """For each answer whether its words are among `learnt`."""
        return [
            answer is not None and any(start <= answer[0] and answer[1] <= end for start, end in self.learnt)
            for answer in self.answers
        ]


def render_chat(
    messages: Sequence[dict],
    write: Callable[[list[dict]], str],
    ecg_token: str,
    end_token: str = "",
) -> RenderedChat:
    r"""
    Renders a conversation. ECGs and answers are marked with strings that do not occur in the conversation, and located
    by these marks in the rendered text.

    Args:
        messages (`list[dict]`):
            Messages whose `content` is a string or a list of `"text"` and `"ecg"` items.
        write (`Callable`):
            The chat template: a function from messages to text. The `content` of these messages is a string or, for
            templates that read nothing else, a list with one `"text"` item.
        ecg_token (`str`):
            Placeholder of an ECG.
        end_token (`str`, *optional*, defaults to `""`):
            Token to write after each answer, for templates that write none.

    Returns:
        [`RenderedChat`].

    Raises:
        `ValueError`: If a message is malformed, the template refuses the conversation or drops an ECG, or the system
            message has no place in it.
    """
    check_messages(messages)
    nonce = "ecgmark"
    while any(nonce in text for text in _texts(messages)):
        nonce += "x"
    numbers = count()
    turns = []
    for message in messages:
        turns.append({**message, "content": _flatten(message["content"], nonce)})
        if _is_answer(message):
            turns[-1]["content"] = _marked_answer(turns[-1]["content"].strip(), nonce, next(numbers))
    rendered = _write_in_full(turns, write, f"[{nonce}:ecg]")

    num_ecgs = len(ecg_items(messages))
    chat = RenderedChat(answers=[None] * next(numbers))
    starts, ends, after_reasoning = {}, {}, True
    for piece in re.split(rf"(\[{nonce}:(?:ecg|(?:space|start|end):\d+)\])", rendered):
        mark = re.fullmatch(rf"\[{nonce}:(\w+)(?::(\d+))?\]", piece)
        kind, number = (None, None) if mark is None else (mark[1], int(mark[2] or 0))
        if kind == "space":
            after_reasoning = chat.text.endswith(END_OF_REASONING)
        elif kind == "start":
            starts[number] = len(chat.text)
        elif kind == "end":
            ends[number] = len(chat.text)
            chat.text += end_token
        elif kind == "ecg":
            chat.ecgs.append(len(chat.text))
            chat.text += ecg_token
        else:  # the template may have moved or dropped the reasoning before this space
            chat.text += piece if after_reasoning else piece.lstrip()
            after_reasoning = True
    for number, start in starts.items():
        if start <= ends.get(number, -1):
            chat.answers[number] = start, ends[number]
    if len(chat.ecgs) != num_ecgs:
        raise ValueError(f"The chat template wrote {len(chat.ecgs)} of the conversation's {num_ecgs} ECGs.")
    return chat


def has_reasoning(message: dict) -> bool:
    r"""
    Whether an answer holds reasoning, which chat templates may write elsewhere or drop.

    Args:
        message (`dict`):
            A message.

    Returns:
        `bool`: `True` for an assistant's message with `</think>` in its text, or with fields other than `role` and
        `content`, which a template may read.
    """
    return _is_answer(message) and (len(message) > 2 or any(END_OF_REASONING in text for text in _texts([message])))


def with_system_prompt(messages: Sequence[dict], system_prompt: str | None) -> Sequence[dict]:
    r"""
    Adds a system message to a conversation.

    Args:
        messages (`list[dict]`):
            The messages.
        system_prompt (`str`, *optional*):
            The system message. `None` adds none.

    Returns:
        `list[dict]`: The messages, unchanged if they begin with a system message.
    """
    if system_prompt is None or not messages or messages[0].get("role") == "system":
        return messages
    return [{"role": "system", "content": [{"type": "text", "text": system_prompt}]}, *messages]


def _write_in_full(turns: list[dict], write: Callable[[list[dict]], str], ecg_mark: str) -> str:
    """The text of the first form of the messages in which the template writes ECGs, system message and last turn."""
    num_ecgs = sum(turn["content"].count(ecg_mark) for turn in turns)
    last = [turn["content"].strip() for turn in turns if turn["role"] == "user"][-1:]
    last += [turn["content"].rpartition("[")[2] for turn in turns[-1:] if _is_answer(turn)]  # the mark at its end
    system = [turns[0]["content"].strip()] if turns[0]["role"] == "system" else []
    refusal, in_part = None, None
    for form in _forms(turns):
        try:
            rendered = write(form)
        except TemplateError as error:
            refusal = refusal or error
            continue
        if (
            form[0]["content"] != turns[0]["content"] and "{'type': 'text'" in rendered
        ):  # a list written as Python has it
            continue
        if rendered.count(ecg_mark) == num_ecgs and all(words in rendered for words in system + last):
            return rendered
        if in_part is None and all(words in rendered for words in system):
            in_part = rendered
    if in_part is not None:
        return in_part
    if refusal is not None:
        raise ValueError(f"The chat template refuses the conversation: {refusal}") from refusal
    raise ValueError("This chat template has no system role, and no user turn follows the system message.")


def _forms(turns: list[dict]) -> Iterator[list[dict]]:
    """The messages, without a system role, and with contents that are lists."""
    forms = [turns]
    if turns[0]["role"] == "system" and len(turns) > 1 and turns[1]["role"] == "user":
        first = {**turns[1], "content": f"{turns[0]['content']}\n\n{turns[1]['content']}"}
        forms.append([first, *turns[2:]])
    yield from forms
    for form in forms:
        yield [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in form]


def ecg_items(messages: Sequence[dict]) -> list[dict]:
    r"""
    The ECGs of a conversation.

    Args:
        messages (`list[dict]`):
            The messages.

    Returns:
        `list[dict]`: The `{"type": "ecg"}` items, in order.
    """
    contents = [message["content"] for message in messages if not isinstance(message["content"], str)]
    return [item for content in contents for item in content if item["type"] == "ecg"]


def _is_answer(message: dict) -> bool:
    return message["role"] == "assistant"


def check_messages(messages: Sequence[dict]):
    r"""
    Checks the form of a conversation.

    Args:
        messages (`list[dict]`):
            The messages.

    Raises:
        `ValueError`: If a message is malformed.
    """
    if not messages:
        raise ValueError("The conversation has no messages.")
    for message in messages:
        content = message.get("content")
        if not isinstance(message.get("role"), str) or not isinstance(content, Sequence | np.ndarray):
            raise ValueError(
                f'A message needs a "role" and a "content" that is a string or a list of items, got {message!r:.200}.'
            )
        for item in [] if isinstance(content, str) else content:
            if not isinstance(item, dict):
                raise ValueError(f'A content item must be of type "text" or "ecg", got {item!r:.200}.')
            if item.get("type") not in ("text", "ecg"):
                raise ValueError(f'A content item must be of type "text" or "ecg", got {item.get("type")!r}.')
            if item["type"] == "text" and not isinstance(item.get("text"), str):
                raise ValueError(f'A "text" item needs "text", a string, got {item.get("text")!r}.')


def _texts(messages: Sequence[dict]) -> list[str]:
    texts = []
    for message in messages:
        content = message["content"]
        texts += [content] if isinstance(content, str) else [item.get("text") or "" for item in content]
    return texts


def _flatten(content: str | Sequence[dict], nonce: str) -> str:
    """The content of a message as one string, with marks for ECGs."""
    if isinstance(content, str):
        return content
    return "".join(f"[{nonce}:ecg]" if item["type"] == "ecg" else item["text"] for item in content)


def _marked_answer(answer: str, nonce: str, number: int) -> str:
    """An answer with marks around its words. Templates separate reasoning at `</think>`: the marks stand behind it."""
    reasoning, tag, words = answer.rpartition(END_OF_REASONING)
    space = words[: len(words) - len(words.lstrip())]
    return f"{reasoning}{tag}[{nonce}:space:{number}]{space}[{nonce}:start:{number}]{words.lstrip()}[{nonce}:end:{number}]"


__all__ = [
    "DEFAULT_CHAT_TEMPLATE",
    "END_OF_REASONING",
    "RenderedChat",
    "check_messages",
    "ecg_items",
    "has_reasoning",
    "refusing_ecgs",
    "render_chat",
    "with_system_prompt",
]
