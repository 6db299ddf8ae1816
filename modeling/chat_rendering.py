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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from jinja2.exceptions import TemplateError


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


@dataclass
class RenderedChat:
    r"""
    A rendered conversation.

    Args:
        text (`str`, *optional*, defaults to `""`):
            The text, with a placeholder for each ECG.
        ecgs (`list[int]`, *optional*):
            Position of each placeholder, in characters.
        answers (`list[list[int]]`, *optional*):
            Start and end of each of the assistant's messages, in characters.
    """

    text: str = ""
    ecgs: list[int] = field(default_factory=list)
    answers: list[list[int]] = field(default_factory=list)


def render_chat(
    messages: Sequence[dict], write: Callable[[list[dict]], str], ecg_token: str, *, mark_answers: bool
) -> RenderedChat:
    r"""
    Renders a conversation. ECGs and answers are marked with strings that do not occur in the conversation, and located
    by these marks in the rendered text.

    Args:
        messages (`list[dict]`):
            Messages whose `content` is a string or a list of `"text"` and `"ecg"` items.
        write (`Callable`):
            The chat template: a function from messages whose `content` is a string to text.
        ecg_token (`str`):
            Placeholder of an ECG.
        mark_answers (`bool`):
            Whether to locate the assistant's messages.

    Returns:
        [`RenderedChat`].

    Raises:
        `ValueError`: If a message is malformed, the template drops an ECG, or the system message has no place in it.
    """
    _check_messages(messages)
    nonce = "ecgmark"
    while any(nonce in text for text in _texts(messages)):
        nonce += "x"
    marks = {kind: f"[{nonce}:{kind}]" for kind in ("ecg", "start", "end")}
    turns = [_flatten(message, marks, mark_answers=mark_answers) for message in messages]
    rendered = _write_with_system(turns, write)

    chat = RenderedChat()
    for piece in re.split(f"({'|'.join(re.escape(mark) for mark in marks.values())})", rendered):
        if piece == marks["ecg"]:
            chat.ecgs.append(len(chat.text))
            chat.text += ecg_token
        elif piece == marks["start"]:
            chat.answers.append([len(chat.text), len(chat.text)])
        elif piece == marks["end"]:
            chat.answers[-1][1] = len(chat.text)
        else:
            chat.text += piece
    num_ecgs = len(ecg_items(messages))
    if len(chat.ecgs) != num_ecgs:
        raise ValueError(f"The chat template wrote {len(chat.ecgs)} of the conversation's {num_ecgs} ECGs.")
    return chat


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


def _write_with_system(turns: list[dict], write: Callable[[list[dict]], str]) -> str:
    """The rendered text. If the template refuses or drops the system message, it goes into the first user turn."""
    if turns[0]["role"] != "system":
        return write(turns)
    system = turns[0]["content"]
    try:
        rendered = write(turns)
        if system.strip() in rendered:
            return rendered
    except TemplateError:
        pass
    if len(turns) < 2 or turns[1]["role"] != "user":
        raise ValueError("This chat template has no system role, and no user turn follows the system message.")
    return write([{"role": "user", "content": f"{system}\n\n{turns[1]['content']}"}, *turns[2:]])


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


def _check_messages(messages: Sequence[dict]):
    if not messages:
        raise ValueError("The conversation has no messages.")
    for message in messages:
        content = message.get("content")
        if "role" not in message or not isinstance(content, Sequence | np.ndarray):
            raise ValueError(
                f'A message needs a "role" and a "content" that is a string or a list of items, got {message!r:.200}.'
            )
        for item in [] if isinstance(content, str) else content:
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


def _flatten(message: dict, marks: dict[str, str], *, mark_answers: bool) -> dict:
    """A message whose content is one string, with marks for ECGs and, if `mark_answers`, around the answer."""
    content = message["content"]
    if not isinstance(content, str):
        content = "".join(marks["ecg"] if item["type"] == "ecg" else item["text"] for item in content)
    if mark_answers and message["role"] == "assistant":
        content = f"{marks['start']}{content.strip()}{marks['end']}"
    return {**message, "content": content}


__all__ = ["DEFAULT_CHAT_TEMPLATE", "RenderedChat", "ecg_items", "render_chat", "with_system_prompt"]
