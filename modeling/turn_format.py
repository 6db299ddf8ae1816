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
"""The chat template of a tokenizer: how it is called, how it ends an answer, and where the tokens of an answer begin."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from jinja2.exceptions import TemplateError

from .chat_rendering import RenderedChat, render_chat
from .chat_turns import EndsOfTurn, Render, learnt_answers, render_prompt


# First characters of answers that tokenizers could join with the end of a prompt.
FIRST_WORDS = ("b", "B", "7", "(b", "-b", '"b', "é", "\u4e00", "<b")
# A template that writes more than this many characters, and ten times those of the messages, does not write a chat.
MAX_CHARACTERS = 1_000_000


class TurnFormat:
    r"""
    How a chat template and a tokenizer write the turns of a conversation, found with short conversations.

    Args:
        tokenizer (`PreTrainedTokenizerBase`):
            The LLM's tokenizer.
        chat_template (`str`):
            The chat template.

    Attributes:
        ends ([`EndsOfTurn`]):
            Finds the special token that ends a turn.
        end_token (`str`):
            Token that has to be added after each answer, because the template writes none; `""` if it does.
        begins_with_a_token (`bool`):
            Whether a prompt has the same tokens alone and before an answer.
    """

    def __init__(self, tokenizer, chat_template: str):
        added = [token.content for token in tokenizer.added_tokens_decoder.values()]
        self.ends = EndsOfTurn([*added, *([tokenizer.eos_token] if tokenizer.eos_token else [])])
        self.end_token, self.begins_with_a_token = "", True
        self._render = _renderer(tokenizer, "<ecg>", {"chat_template": chat_template, "enable_thinking": False}, self)
        self._learnt = {}
        question = [_message("user")]
        try:
            answered = [self._render([*question, _message("assistant", words)], False) for words in FIRST_WORDS]
            prompt = render_prompt(question, self._render, reasons=False).text
        except ValueError:  # the template refuses a question with an answer
            return
        answer = answered[0].answers[-1]
        if answer is not None and self.ends(answered[0].text, answer[1]) is None:
            self.end_token = tokenizer.eos_token or ""
        alone = tokenize_pieces(tokenizer, prompt, [])[0]
        self.begins_with_a_token = all(
            np.array_equal(tokenize_pieces(tokenizer, chat.text, [])[0][: len(alone)], alone) for chat in answered
        )

    def learnt_turns(self, roles: tuple[str, ...]) -> list[bool]:
        r"""
        Which answers of a conversation without reasoning are learnt: see [`learnt_answers`].

        Args:
            roles (`tuple[str]`):
                Roles of the messages.
        """
        if roles not in self._learnt:
            chat, _ = learnt_answers([_message(role) for role in roles], self._render, self.ends, reasons=False)
            self._learnt[roles] = chat.is_learnt()
        return self._learnt[roles]


def _message(role: str, content: str = "a") -> dict:
    return {"role": role, "content": content}


def turn_format(tokenizer, chat_template: str | None = None) -> TurnFormat:
    r"""
    The format of the turns of a tokenizer.

    Args:
        tokenizer (`PreTrainedTokenizerBase`):
            The LLM's tokenizer.
        chat_template (`str`, *optional*):
            Chat template, or the name of one, to use instead of the tokenizer's.
    """
    template = tokenizer.get_chat_template(chat_template)
    return _turn_format(tokenizer, template, tokenizer.eos_token, len(tokenizer))


@lru_cache(maxsize=16)
def _turn_format(tokenizer, template: str, eos_token: str | None, num_tokens: int) -> TurnFormat:
    return TurnFormat(tokenizer, template)


def renderer(tokenizer, ecg_token: str, template_kwargs: dict) -> Render:
    r"""
    A function that renders messages, and with `True` as second argument ends with the template's generation prompt.

    Args:
        tokenizer (`PreTrainedTokenizerBase`):
            The LLM's tokenizer.
        ecg_token (`str`):
            Placeholder of an ECG.
        template_kwargs (`dict`):
            Variables of the chat template.
    """
    format = turn_format(tokenizer, template_kwargs.get("chat_template"))
    return _renderer(tokenizer, ecg_token, template_kwargs, format)


def _renderer(tokenizer, ecg_token: str, template_kwargs: dict, format: TurnFormat) -> Render:
    def render(messages: Sequence[dict], generation_prompt: bool) -> RenderedChat:
        def write(turns: list[dict]) -> str:
            return _write(tokenizer, turns, generation_prompt, template_kwargs)

        return render_chat(messages, write, ecg_token, format.end_token)

    return render


def _write(tokenizer, turns: list[dict], generation_prompt: bool, template_kwargs: dict) -> str:
    try:
        text = tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=generation_prompt, **template_kwargs
        )
    except TemplateError:
        raise
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RuntimeError, MemoryError) as error:
        raise TemplateError(f"{type(error).__name__}: {error}") from error  # of the template's own code
    num_characters = sum(len(str(turn)) for turn in turns)
    if len(text) > MAX_CHARACTERS + 10 * num_characters:
        raise TemplateError(f"it writes {len(text)} characters for messages of {num_characters}")
    return text


def tokenize_pieces(tokenizer, text: str, cuts: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    r"""
    Tokenizes a text so that no token crosses a cut.

    Args:
        tokenizer (`PreTrainedTokenizerBase`):
            The tokenizer.
        text (`str`):
            The text.
        cuts (`list[int]`):
            Positions in the text, in order.

    Returns:
        `tuple[np.ndarray, np.ndarray, np.ndarray]`: Token ids with start and end of each token in characters, each of
        shape `(length,)`.
    """
    edges = [0, *cuts, len(text)]
    ids, spans = [], [np.zeros((0, 2), dtype=np.int64)]
    for start, end in zip(edges, edges[1:]):
        encoded = tokenizer(text[start:end], add_special_tokens=False, return_offsets_mapping=True)
        ids += encoded["input_ids"]
        spans.append(np.array(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2) + start)
    starts, ends = np.concatenate(spans).T
    return np.array(ids, dtype=np.int64), starts, ends


__all__ = ["TurnFormat", "renderer", "tokenize_pieces", "turn_format"]
