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
"""How the answers of a conversation are asked for and learnt: as the chat template writes each of them when it is last."""

from collections.abc import Callable, Iterable, Sequence

from .chat_rendering import RenderedChat, has_reasoning


# A function that renders messages, and with `True` as second argument ends with the template's generation prompt.
Render = Callable[[Sequence[dict], bool], RenderedChat]


def render_prompt(messages: Sequence[dict], render: Render, *, reasons: bool) -> RenderedChat:
    r"""
    Renders a conversation up to the point at which the model begins to write.

    Without reasoning this is what the template writes before an answer. The generation prompt of some templates is
    another text, to which no training text would agree (DeepSeek's ends with `<think>`, gpt-oss' lacks the channel).

    Args:
        messages (`list[dict]`):
            The conversation.
        render (`Callable`):
            Renders messages.
        reasons (`bool`):
            Whether the model begins with reasoning, as the template's generation prompt lets it.

    Returns:
        [`RenderedChat`] without spaces at the end, which belong to the first word of the answer.
    """
    answers = []
    if not reasons and len(messages) > 0 and messages[-1].get("role") != "assistant":
        chat = render([*messages, {"role": "assistant", "content": ""}], False)
        answers = chat.answers[-1:]
    if answers in ([], [None]):
        chat = render(messages, True)
        return RenderedChat(chat.text.rstrip(" "), chat.ecgs, chat.answers)
    return RenderedChat(chat.text[: answers[0][0]].rstrip(" "), chat.ecgs, chat.answers[:-1])


def learnt_answers(
    messages: Sequence[dict],
    render: Render,
    end_of_turn: Callable[[str, int], int | None],
    *,
    reasons: bool,
    known: Sequence[bool] | None = None,
) -> tuple[RenderedChat, str | None]:
    r"""
    Renders a conversation and finds the answers that a model learns in it: those that stand there as they do when the
    model is asked for them, after the same prompt and with the same end of the turn. Templates that write an earlier
    answer in another way than the last one (Qwen 3: without `<think>`) leave only the last.

    Args:
        messages (`list[dict]`):
            The conversation.
        render (`Callable`):
            Renders messages.
        end_of_turn (`Callable`):
            The position after the token that ends a turn, from a text and the position at which its answer ends; `None`
            if there is no such token.
        reasons (`bool`):
            Whether the model begins with reasoning: see [`render_prompt`].
        known (`list[bool]`, *optional*):
            For each answer whether it is learnt, if another conversation of the same turns has shown it.

    Returns:
        `tuple[RenderedChat, str | None]`: The conversation with `learnt`; and why its last answer is not among them,
        `None` if it is.
    """
    chat, problem = render(messages, False), None
    if known is not None and known[-1:] != [False] and None not in chat.answers:
        for (start, end), is_learnt in zip(chat.answers, known):
            if is_learnt:
                chat.learnt.append((len(chat.text[:start].rstrip(" ")), end_of_turn(chat.text, end)))
        return chat, None
    for place, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        asked = chat if place == len(messages) - 1 else render(messages[: place + 1], False)
        if asked.answers[-1] is None:
            problem = "drops the answer"
            continue
        start, end = asked.answers[-1]
        prompt = asked.text[:start].rstrip(" ")
        if reasons or has_reasoning(message):
            prompt = render_prompt(messages[:place], render, reasons=reasons).text
        end = end_of_turn(asked.text, end)
        if end is None:
            problem = "writes no special token after the answer, and the tokenizer has no end-of-text token"
        elif len(prompt) > start or not asked.text.startswith(prompt):
            before = asked.text[:start]
            problem = f"asks for the answer with {prompt[-30:]!r}, but writes it after {before[-30:]!r}"
        elif not chat.text.startswith(asked.text[:end]):
            problem = "writes the answer in another way when a turn follows it"
        else:
            problem = None
            chat.learnt.append((len(prompt), end))
    return chat, problem


class EndsOfTurn:
    r"""
    Finds the special token that ends a turn.

    Args:
        tokens (`list[str]`):
            The special tokens of a tokenizer.
    """

    def __init__(self, tokens: Iterable[str]):
        self._tokens = {}
        for token in sorted(tokens, key=len, reverse=True):
            self._tokens.setdefault(token[:1], []).append(token)

    def __call__(self, text: str, position: int) -> int | None:
        """The position after the special token that follows `position`, after spaces at most; `None` without one."""
        position += len(text[position:]) - len(text[position:].lstrip())
        candidates = self._tokens.get(text[position : position + 1], [])
        return next((position + len(token) for token in candidates if text.startswith(token, position)), None)


__all__ = ["EndsOfTurn", "Render", "learnt_answers", "render_prompt"]
