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
"""Turns conversations about ECGs into what an ELM reads: the LLM's own chat template, with ECGs in any turn."""

import re
from collections.abc import Sequence

import numpy as np
from transformers import BatchFeature, ProcessorMixin

from .chat_rendering import (
    DEFAULT_CHAT_TEMPLATE,
    RenderedChat,
    ecg_items,
    render_chat,
    with_system_prompt,
)


ECG_TOKEN = "<|ecg|>"


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
class BaseElmProcessor(ProcessorMixin):
    r"""
    What the processors of ECG-language models share: the text. [`ElmProcessor`], [`ElmVisionProcessor`] and
    [`ElmSymbolProcessor`] say how the model reads an ECG (`leads` and `prepare_ecgs`).

    Args:
        tokenizer (`PreTrainedTokenizerBase`):
            The LLM's fast tokenizer. The placeholder is added to it if it is not there; a tokenizer without a chat
            template gets a plain one, a tokenizer without a padding token pads with the end-of-text token.
        ecg_token (`str`):
            The placeholder token.
        chat_template (`str`, *optional*):
            A chat template to use instead of the tokenizer's own.
        system_prompt (`str`, *optional*):
            Opens conversations that have no system message: what the model was trained with.
        sub_processors:
            The other arguments of [`ProcessorMixin`]: feature extractor, image processor or second tokenizer.
    """

    def __init__(
        self, tokenizer, ecg_token: str, chat_template: str | None, system_prompt: str | None, **sub_processors
    ):
        self.system_prompt = system_prompt
        self.tokenizer = tokenizer
        self.ecg_token = ecg_token
        self.ecg_token_id = add_ecg_token(tokenizer, ecg_token)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        if chat_template is not None:
            tokenizer.chat_template = chat_template
        elif tokenizer.chat_template is None:
            tokenizer.chat_template = DEFAULT_CHAT_TEMPLATE
        super().__init__(tokenizer=tokenizer, chat_template=tokenizer.chat_template, **sub_processors)

    @property
    def chat_template(self) -> str | dict[str, str]:
        """The chat template of the tokenizer; the processor has no other."""
        return self.tokenizer.chat_template

    @chat_template.setter
    def chat_template(self, value: str | dict[str, str]):
        self.tokenizer.chat_template = value

    @property
    def leads(self) -> list[str]:
        """The model's leads: the rows of ECGs that come without names."""
        raise NotImplementedError

    def prepare_ecgs(self, ecgs: list, sampling_rate, lead_names) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
        r"""
        Prepares ECGs for the model.

        Args:
            ecgs (`list`):
                The ECGs, as [`EcgFeatureExtractor`] takes them.
            sampling_rate, lead_names:
                Of the ECGs, as for [`EcgFeatureExtractor`].

        Returns:
            The model's inputs beside the text, by name; and for each ECG the token ids that stand for it in the text,
            each of shape `(tokens,)`.

        Raises:
            `ValueError`: If an ECG is unfit.
        """
        raise NotImplementedError

    def is_ecg_token(self, input_ids: np.ndarray) -> np.ndarray:
        """Where token ids stand for ECGs: a boolean array of their shape."""
        return input_ids == self.ecg_token_id

    def placeholders(self, num_ecgs: int) -> list[np.ndarray]:
        """For each of `num_ecgs` ECGs the placeholders that stand for it in the text, of shape `(num_ecg_tokens,)`."""
        return [np.full(self.num_ecg_tokens, self.ecg_token_id)] * num_ecgs

    # trf-ignore: TRF057 (auto_docstring describes the library's own models only)
    def __call__(
        self,
        text: str | list[str],
        ecg=None,
        sampling_rate: float | Sequence[float] | None = None,
        lead_names: Sequence | None = None,
        padding: bool | str = True,
        padding_side: str | None = None,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        r"""
        Tokenizes texts in which `ecg_token` stands for an ECG; special tokens are taken as written, none are added.
        For conversations use [`~ElmProcessor.apply_chat_template`], which also tells placeholders from a user's words.

        Args:
            text (`str` or `list[str]`):
                The texts.
            ecg:
                The ECGs of all texts in order, as [`EcgFeatureExtractor`] takes them.
            sampling_rate, lead_names:
                Of the ECGs, as for [`EcgFeatureExtractor`].
            padding (`bool` or `str`, *optional*, defaults to `True`):
                `True` or `"longest"`: a call's texts are always padded to the longest, and never cut.
            padding_side (`str`, *optional*):
                `"left"` or `"right"`; the tokenizer's by default.
            return_tensors (`str`, *optional*):
                `"pt"` or `"np"`.

        Returns:
            `input_ids` and `attention_mask` of shape `(texts, length)`; `ecg_values` and `ecg_lead_mask` if there
            are ECGs.

        Raises:
            `ValueError`: If the number of placeholders is not the number of ECGs, an ECG is unfit, or the padding is
                another.
        """
        _check_lengths({"padding": padding})
        texts = [text] if isinstance(text, str) else text
        pattern = re.escape(self.ecg_token)
        chats = [RenderedChat(one, [match.start() for match in re.finditer(pattern, one)]) for one in texts]
        ecgs = [] if ecg is None else list(ecg) if isinstance(ecg, list | tuple) or np.ndim(ecg) == 3 else [ecg]
        num_placeholders = sum(len(chat.ecgs) for chat in chats)
        if num_placeholders != len(ecgs):
            raise ValueError(f"The text holds {num_placeholders} {self.ecg_token} placeholders for {len(ecgs)} ECGs.")
        return self._encode(chats, ecgs, sampling_rate, lead_names, padding_side, return_tensors)

    def apply_chat_template(
        self,
        conversation: list,
        add_generation_prompt: bool = False,
        tokenize: bool = False,
        return_dict: bool = False,
        return_tensors: str | None = None,
        return_assistant_tokens_mask: bool = False,
        padding: bool | str = True,
        truncation: bool = False,
        padding_side: str | None = None,
        sampling_rate: float | None = None,
        processor_kwargs: dict | None = None,
        **template_kwargs,
    ):
        r"""
        Renders conversations with the tokenizer's chat template, with ECGs in any turn.

        A message's `content` is a string or a list of `{"type": "text", "text": …}` and `{"type": "ecg", "ecg": …}`
        items; `"ecg"` is an array `(leads, samples)` in millivolt or the path of a WFDB record, and arrays come with
        `"sampling_rate"` and, unless their rows are the model's leads, `"lead_names"`. Placeholders come from items
        only: words of a user that look like one stay words. A system message goes into the first user turn where the
        template has no system role (Gemma 2); conversations without one are opened by `system_prompt`.

        Args:
            conversation (`list[dict]` or `list[list[dict]]`):
                One conversation or several, as lists of messages.
            add_generation_prompt (`bool`, *optional*, defaults to `False`):
                Ends with the opening of an assistant turn, and pads on the left.
            tokenize, return_dict, return_tensors:
                As for any processor: without `tokenize` the text is returned, without `return_dict` the ids.
            return_assistant_tokens_mask (`bool`, *optional*, defaults to `False`):
                Adds `assistant_masks`: 1 on the assistant's words and the end of its turn. Needs no
                `{% generation %}` marks in the template.
            padding, truncation (`bool`, *optional*, default to `True` and `False`):
                No other: conversations are padded to the longest, and never cut.
            padding_side (`str`, *optional*):
                `"left"` or `"right"`.
            sampling_rate (`float`, *optional*):
                In Hz, of arrays that do not come with their own.
            processor_kwargs (`dict`, *optional*):
                `padding`, `truncation`, `padding_side`, `sampling_rate` and `return_tensors` may also come here.
            template_kwargs:
                Variables for the template. `enable_thinking` (of Qwen 3 and others) is False unless given: prompts then
                open an answer as training texts do.

        Returns:
            Text (`tokenize=False`), ids, or a `BatchFeature` like that of `__call__`. Tokenized output always has a
            batch dimension.

        Raises:
            `ValueError`: If a message is malformed, the template loses an ECG, or an ECG is unfit.
        """
        options = {"padding": padding, "truncation": truncation, "padding_side": padding_side}
        options |= {"sampling_rate": sampling_rate, "return_tensors": return_tensors} | (processor_kwargs or {})
        _check_lengths(options)
        is_batched = len(conversation) > 0 and isinstance(conversation[0], list | tuple)
        conversations = conversation if is_batched else [conversation]
        chats = [
            self._render(messages, add_generation_prompt, return_assistant_tokens_mask, template_kwargs)
            for messages in conversations
        ]
        if not tokenize:
            return [chat.text for chat in chats] if is_batched else chats[0].text
        items = [item for messages in conversations for item in ecg_items(messages)]
        missing = sum("ecg" not in item for item in items)
        if missing:
            raise ValueError(f'{missing} of {len(items)} ECG items have no "ecg": give an array or a path.')
        encoded = self._encode(
            chats,
            [item["ecg"] for item in items],
            [item.get("sampling_rate", options["sampling_rate"]) for item in items],
            [item.get("lead_names") or list(self.leads) for item in items],
            options["padding_side"] or ("left" if add_generation_prompt else None),
            options["return_tensors"],
            return_assistant_tokens_mask,
        )
        return encoded if return_dict else encoded["input_ids"]

    def _render(
        self, messages, add_generation_prompt: bool, mark_answers: bool, template_kwargs: dict
    ) -> RenderedChat:
        """A conversation in the tokenizer's chat template."""

        def write(turns: list[dict]) -> str:
            return self.tokenizer.apply_chat_template(
                turns,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                **{"enable_thinking": False} | template_kwargs,
            )

        return render_chat(with_system_prompt(messages, self.system_prompt), write, self.ecg_token, mark_answers)

    def _encode(
        self,
        chats: list[RenderedChat],
        ecgs: list,
        sampling_rate,
        lead_names,
        padding_side: str | None,
        return_tensors: str | None,
        return_assistant_tokens_mask: bool = False,
    ) -> BatchFeature:
        ecg_data, ecg_ids = self.prepare_ecgs(ecgs, sampling_rate, lead_names) if ecgs else ({}, [])
        remaining = iter(ecg_ids)
        rows = [self._tokenize(chat, [next(remaining) for _ in chat.ecgs]) for chat in chats]
        length = max(len(ids) for ids, _ in rows)
        left = (padding_side or self.tokenizer.padding_side) == "left"
        data = {
            "input_ids": np.full((len(rows), length), self.tokenizer.pad_token_id, dtype=np.int64),
            "attention_mask": np.zeros((len(rows), length), dtype=np.int64),
        }
        if return_assistant_tokens_mask:
            data["assistant_masks"] = np.zeros((len(rows), length), dtype=np.int64)
        for index, (ids, answer_mask) in enumerate(rows):
            place = slice(length - len(ids), length) if left else slice(len(ids))
            data["input_ids"][index, place] = ids
            data["attention_mask"][index, place] = 1
            if return_assistant_tokens_mask:
                data["assistant_masks"][index, place] = answer_mask
        return BatchFeature(data | ecg_data, tensor_type=return_tensors)

    def tokenize_conversation(self, messages: list[dict], ecg_ids: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """
        Token ids of a conversation, with `ecg_ids` in its ECGs' places, and 1 where they are the assistant's words or end
        its turn; both `(length,)`. The ECGs themselves are not looked at.
        """
        return self._tokenize(self._render(messages, False, True, {}), ecg_ids)

    def _tokenize(self, chat: RenderedChat, ecg_ids: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Token ids and answer mask of one conversation, both `(length,)`, with its ECGs' tokens in their places."""
        encoded = self.tokenizer(chat.text, add_special_tokens=False, return_offsets_mapping=True)
        ids = np.array(encoded["input_ids"], dtype=np.int64)
        starts, ends = np.array(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2).T
        in_answer = self._answer_mask(chat, ids, starts, ends)

        looks_like_ecg = ids == self.ecg_token_id
        is_ecg = looks_like_ecg & np.isin(starts, chat.ecgs)
        # Someone may have written the placeholder as words: those become the plain tokens of these characters.
        words = self.tokenizer.encode(self.ecg_token, add_special_tokens=False, split_special_tokens=True)
        remaining = iter(ecg_ids)
        pieces, lengths, start = [], np.ones(len(ids), dtype=np.int64), 0
        for index in np.flatnonzero(looks_like_ecg):
            piece = next(remaining) if is_ecg[index] else np.array(words)
            pieces += [ids[start:index], piece]
            lengths[index] = len(piece)
            start = index + 1
        pieces.append(ids[start:])
        return np.concatenate(pieces).astype(np.int64), np.repeat(in_answer, lengths)

    def _answer_mask(self, chat: RenderedChat, ids: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """1 on the tokens of the assistant's words and on the special token that ends each of its turns."""
        mask = np.zeros(len(ids), dtype=np.int64)
        added_tokens = self.tokenizer.added_tokens_decoder  # built anew each time it is looked at
        for start, end in chat.answers:
            mask[(starts < end) & (ends > start)] = 1
            for index in np.flatnonzero(starts >= end):
                if int(ids[index]) in added_tokens:
                    mask[(starts >= end) & (np.arange(len(ids)) <= index)] = 1
                    break
                if chat.text[starts[index] : ends[index]].strip():
                    break
        return mask

    @property
    def end_of_turn_token_id(self) -> int | None:
        """Id of the token that ends an assistant's turn in this chat template, `None` if it ends with plain text."""
        chat = self._render([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], False, True, {})
        ids, mask = self._tokenize(chat, [])
        last = int(ids[np.flatnonzero(mask)[-1]])
        return last if last in self.tokenizer.added_tokens_decoder else None


def _check_lengths(options: dict):
    """Raises where a call's texts are to have other lengths than the longest one's."""
    lengths = {name: options.get(name) for name in ("padding", "truncation", "pad_to_multiple_of")}
    if lengths["padding"] not in (True, "longest") or lengths["truncation"] or lengths["pad_to_multiple_of"]:
        raise ValueError(
            "Texts are padded to the longest of a call and never cut, as an ECG's tokens would go with the words; got "
            f"{', '.join(f'{name}={value!r}' for name, value in lengths.items())}."
        )


def add_ecg_token(tokenizer, ecg_token: str = ECG_TOKEN) -> int:
    """The id of the placeholder in an LLM's tokenizer, to which it is added if it is not there."""
    tokenizer.add_special_tokens({"additional_special_tokens": [ecg_token]}, replace_extra_special_tokens=False)
    return tokenizer.convert_tokens_to_ids(ecg_token)


__all__ = ["ECG_TOKEN", "BaseElmProcessor", "add_ecg_token"]
