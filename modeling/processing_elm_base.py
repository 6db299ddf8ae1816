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
"""Turns conversations about ECGs into the inputs of an ELM, with the chat template of its LLM."""

import re
from collections.abc import Sequence

import numpy as np
from transformers import BatchFeature, PreTrainedTokenizerBase, ProcessorMixin

from .card_elm import ElmCardMixin
from .chat_rendering import (
    DEFAULT_CHAT_TEMPLATE,
    RenderedChat,
    check_messages,
    ecg_items,
    has_reasoning,
    refusing_ecgs,
    with_system_prompt,
)
from .chat_turns import Render, learnt_answers, render_prompt
from .ecg_modalities import EcgModalities, given_modalities
from .ecg_pictures import given_ecg
from .feature_extraction_ecg import EcgFeatureExtractor
from .measured_values import MeasuringMixin
from .turn_format import renderer, tokenize_pieces, turn_format


ECG_TOKEN = "<|ecg|>"
# What transformers notes in a tokenizer about how it was loaded, and saves with it: from a folder, without a network.
LOADING_NOTES = ("is_local", "local_files_only")


# trf-ignore: TRF057 (auto_docstring describes the library's own models only)
class BaseElmProcessor(ElmCardMixin, MeasuringMixin, ProcessorMixin):
    r"""
    Base class of the processors of ECG-language models. It processes the text; its subclasses [`ElmProcessor`],
    [`ElmVisionProcessor`], [`ElmSignalVisionProcessor`] and [`ElmSymbolProcessor`] process the ECGs (`leads`,
    `prepare_ecgs`).

    Args:
        tokenizer (`PreTrainedTokenizerBase`):
            The LLM's fast tokenizer. The placeholder is added to it if it is missing. A tokenizer without a chat
            template gets a plain one, and a tokenizer without a padding token pads with the end-of-text token.
        ecg_token (`str`):
            Placeholder of an ECG.
        chat_template (`str`, *optional*):
            Chat template to use instead of the tokenizer's.
        system_prompt (`str`, *optional*):
            System message of conversations that have none: the one that the model was trained with.
        enable_thinking (`bool`):
            Whether prompts let the model begin with reasoning: `True` for models trained on answers with reasoning.
        sub_processors:
            The other parts of the processor: feature extractor, image processor, tokenizer of ECGs.
    """

    # Whether the model reads the signal and its picture.
    reads_both = False

    def __init__(
        self,
        tokenizer,
        ecg_token: str,
        chat_template: str | None,
        system_prompt: str | None,
        enable_thinking: bool,
        **sub_processors,
    ):
        self.system_prompt = system_prompt
        self.enable_thinking = enable_thinking
        self.tokenizer = tokenizer
        self.ecg_token = ecg_token
        self.ecg_token_id = add_ecg_token(tokenizer, ecg_token)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        self.chat_template = chat_template or tokenizer.chat_template or DEFAULT_CHAT_TEMPLATE
        super().__init__(tokenizer=tokenizer, chat_template=tokenizer.chat_template, **sub_processors)

    @property
    def chat_template(self) -> str | dict[str, str]:
        """The chat template of the tokenizer; the processor has no other."""
        return self.tokenizer.chat_template

    @chat_template.setter
    def chat_template(self, value: str | dict[str, str]):
        self.tokenizer.chat_template = refusing_ecgs(value)

    def card_facts(self) -> dict:
        return {"num_leads": len(self.leads)}

    @property
    def leads(self) -> list[str]:
        """The leads of the model, which are the rows of ECGs without lead names."""
        return self.ecg_reader.leads

    @property
    def ecg_reader(self) -> EcgFeatureExtractor:
        """Reads ECGs for the model."""
        return self.feature_extractor

    def prepare_ecgs(
        self,
        ecgs: list,
        sampling_rate,
        lead_names,
        keep_flat: bool | list[bool] = False,
        judge_signal: bool = False,
        measured_ecgs: list | None = None,
    ) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
        r"""
        Prepares ECGs for the model.

        Args:
            ecgs (`list`):
                The ECGs: arrays of shape `(num_leads, num_samples)` in millivolt, paths of files, or addresses of WFDB
                records.
            sampling_rate, lead_names, keep_flat, judge_signal:
                As for [`EcgFeatureExtractor`].
            measured_ecgs (`list`, *optional*):
                The ECGs whose measured values the model reads, `None` for one without values. By default `ecgs`.

        Returns:
            `tuple[dict[str, np.ndarray], list[np.ndarray]]`: The inputs of the model for these ECGs, by name; and the
            token ids that represent each ECG in the text, each of shape `(num_tokens,)`.

        Raises:
            `ValueError`: If an ECG is not as described.
        """
        raise NotImplementedError

    def is_ecg_token(self, input_ids: np.ndarray) -> np.ndarray:
        r"""
        Finds the tokens that represent ECGs.

        Args:
            input_ids (`np.ndarray`):
                Token ids, of any shape.

        Returns:
            `np.ndarray` of the same shape, bool.
        """
        return input_ids == self.ecg_token_id

    def placeholders(self, num_ecgs: int) -> list[np.ndarray]:
        r"""
        The token ids that represent ECGs in the text if the model reads their values.

        Args:
            num_ecgs (`int`):
                Number of ECGs.

        Returns:
            `list[np.ndarray]`: For each ECG `num_ecg_tokens` times the id of the placeholder.
        """
        return [np.full(self.num_ecg_tokens, self.ecg_token_id)] * num_ecgs

    # trf-ignore: TRF057 (auto_docstring describes the library's own models only)
    def __call__(
        self,
        text: str | list[str],
        ecg=None,
        sampling_rate: float | Sequence[float] | None = None,
        lead_names: Sequence | None = None,
        *,
        padding: bool | str = True,
        padding_side: str | None = None,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        r"""
        Tokenizes texts with a placeholder (`ecg_token`) for each ECG. No special tokens are added. For conversations
        use [`~ElmProcessor.apply_chat_template`], which also distinguishes placeholders from the same words in a
        message.

        Args:
            text (`str` or `list[str]`):
                The texts.
            ecg:
                The ECGs of all texts in order, as for [`EcgFeatureExtractor`].
            sampling_rate, lead_names:
                As for [`EcgFeatureExtractor`].
            padding (`bool` or `str`, *optional*, defaults to `True`):
                `True` or `"longest"`. Texts are always padded to the longest text and never truncated.
            padding_side (`str`, *optional*):
                `"left"` or `"right"`; the tokenizer's by default.
            return_tensors (`str`, *optional*):
                `"pt"` or `"np"`.

        Returns:
            [`BatchFeature`] with `input_ids` and `attention_mask` of shape `(num_texts, length)`, and the inputs of
            the model for the ECGs, if there are any.

        Raises:
            `ValueError`: If the number of placeholders is not the number of ECGs, an ECG is not as described, or
                `padding` has another value.
        """
        _check_lengths({"padding": padding})
        texts = [text] if isinstance(text, str) else text
        pattern = re.escape(self.ecg_token)
        chats = [RenderedChat(one, [match.start() for match in re.finditer(pattern, one)]) for one in texts]
        is_several = isinstance(ecg, list | tuple) or getattr(ecg, "ndim", 2) == 3
        ecgs = [] if ecg is None else list(ecg) if is_several else [ecg]
        num_placeholders = sum(len(chat.ecgs) for chat in chats)
        if num_placeholders != len(ecgs):
            raise ValueError(f"The text holds {num_placeholders} {self.ecg_token} placeholders for {len(ecgs)} ECGs.")
        return self._encode(chats, ecgs, sampling_rate, lead_names, False, padding_side, return_tensors)

    def apply_chat_template(
        self,
        conversation: list,
        *,
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
        Renders conversations with the tokenizer's chat template. There can be ECGs in any turn.

        The `content` of a message is a string or a list of items `{"type": "text", "text": ...}` and `{"type": "ecg",
        "ecg": ...}`. An ECG is an array of shape `(num_leads, num_samples)` in millivolt, or the path of a file as for
        [`EcgFeatureExtractor`]; as for pictures, `"path"` and `"url"` (`https://...`) can stand in the place of
        `"ecg"`. For models of drawn ECGs, it can be a scan or photograph: `{"type": "ecg", "image": ...}` with the path
        of a file or a picture of Pillow. Items with arrays also have `"sampling_rate"` in Hz and, unless the rows are the model's leads,
        `"lead_names"`; `"keep_flat": True` keeps flat leads. `"measured_ecg"` is an ECG whose measured values a model
        reads in the place of this one's, or `None` if it reads none. ECGs are judged (`judge_signal` of
        [`EcgFeatureExtractor`]): a [`SignalQualityWarning`] names leads that are flat, clipped or like noise, and limb
        leads that disagree.

        A placeholder in the text of a message is not taken for an ECG. If the chat template has no system role (Gemma
        2), the system message goes into the first user turn. Conversations without a system message get
        `system_prompt`.

        A prompt (`add_generation_prompt=True`) is what the template writes before an answer, so that the model is asked
        as it was trained. It differs from the template's own generation prompt for a few templates (DeepSeek, gpt-oss).

        Args:
            conversation (`list[dict]` or `list[list[dict]]`):
                One conversation or several: lists of messages.
            add_generation_prompt (`bool`, *optional*, defaults to `False`):
                Whether to end with the start of an assistant turn, and to pad on the left by default.
            tokenize (`bool`, *optional*, defaults to `False`):
                Whether to return token ids instead of text.
            return_dict (`bool`, *optional*, defaults to `False`):
                Whether to return a [`BatchFeature`] instead of token ids only.
            return_tensors (`str`, *optional*):
                `"pt"` or `"np"`.
            return_assistant_tokens_mask (`bool`, *optional*, defaults to `False`):
                Whether to return `assistant_masks`: 1 on the assistant's messages and the token that ends each of
                them. The template needs no `{% generation %}` blocks.
            padding (`bool` or `str`, *optional*, defaults to `True`):
                `True` or `"longest"`. Conversations are always padded to the longest conversation.
            truncation (`bool`, *optional*, defaults to `False`):
                `False`. Conversations are never truncated.
            padding_side (`str`, *optional*):
                `"left"` or `"right"`. Prompts are padded on the left by default, other conversations on the right.
            sampling_rate (`float`, *optional*):
                Sampling rate in Hz of arrays whose item has none.
            processor_kwargs (`dict`, *optional*):
                Another place for `padding`, `truncation`, `padding_side`, `sampling_rate` and `return_tensors`.
            template_kwargs:
                Variables of the chat template. `enable_thinking` (Qwen 3 and others) is the processor's by default, so
                that prompts begin an answer as in training.

        Returns:
            `str` or `list[str]` (`tokenize=False`), token ids, or a [`BatchFeature`] like that of `__call__`
            (`return_dict=True`). Tokenized output always has a batch dimension.

        Raises:
            `ValueError`: If a message is malformed, the template refuses the conversation or drops an ECG, an ECG is not
                as described, the model reads no measured values of `"measured_ecg"`, or `padding` or `truncation` have other values.
        """
        options = {"padding": padding, "truncation": truncation, "padding_side": padding_side}
        options |= {"sampling_rate": sampling_rate, "return_tensors": return_tensors} | (processor_kwargs or {})
        _check_lengths(options)
        is_batched = len(conversation) > 0 and isinstance(conversation[0], list | tuple)
        conversations = conversation if is_batched else [conversation]
        chats = []
        for messages in conversations:
            if return_assistant_tokens_mask:
                chats.append(self._with_all_answers(messages, template_kwargs))
                continue
            messages = with_system_prompt(messages, self.system_prompt)
            render, reasons = self._renderer(template_kwargs)
            chats.append(
                render_prompt(messages, render, reasons=reasons) if add_generation_prompt else render(messages, False)
            )
        if not tokenize:
            return [chat.text for chat in chats] if is_batched else chats[0].text
        items = [item for messages in conversations for item in ecg_items(messages)]
        ecgs = [given_modalities(item) or given_ecg(item) for item in items]
        missing = sum(ecg is None for ecg in ecgs)
        if missing:
            raise ValueError(
                f'{missing} of {len(items)} ECG items have no "ecg" (an array or a path), "path", "url" or "image".'
            )
        if not self.reads_both and any(isinstance(ecg, EcgModalities) for ecg in ecgs):
            raise ValueError(
                'An ECG item has "signal" or "picture", which are for models with representation=["signal", "image"]; '
                'this model reads "ecg".'
            )
        encoded = self._encode(
            chats,
            ecgs,
            [item.get("sampling_rate") or options["sampling_rate"] for item in items],
            [item.get("lead_names") or None for item in items],
            [item.get("keep_flat") or False for item in items],
            options["padding_side"] or ("left" if add_generation_prompt else "right"),
            options["return_tensors"],
            return_assistant_tokens_mask=return_assistant_tokens_mask,
            measured_ecgs=self.ecgs_to_measure(items, ecgs),
        )
        return encoded if return_dict else encoded["input_ids"]

    def _renderer(self, template_kwargs: dict) -> tuple[Render, bool]:
        """A function that renders messages, and whether prompts let the model begin with reasoning."""
        template_kwargs = {"enable_thinking": self.enable_thinking} | template_kwargs
        return renderer(self.tokenizer, self.ecg_token, template_kwargs), bool(template_kwargs["enable_thinking"])

    def _learnt(self, messages: list[dict], template_kwargs: dict) -> tuple[RenderedChat, bool, str | None]:
        """
        A conversation with what a model learns in it; whether its answers begin with reasoning; and why it does not
        learn the last answer.
        """
        check_messages(messages)
        messages = with_system_prompt(messages, self.system_prompt)
        format = turn_format(self.tokenizer, template_kwargs.get("chat_template"))
        modes, known = [{}], None
        if any(has_reasoning(message) for message in messages):
            if "enable_thinking" not in template_kwargs:
                modes = [{"enable_thinking": True}, {"enable_thinking": False}]  # the second if it drops reasoning
        elif not template_kwargs and not self.enable_thinking:
            known = format.learnt_turns(tuple(message["role"] for message in messages))
        results = []
        for mode in modes:
            render, reasons = self._renderer(template_kwargs | mode)
            chat, problem = learnt_answers(messages, render, format.ends, reasons=reasons, known=known)
            results.append((chat, reasons, problem))
            if problem is None:
                return results[-1]
        return results[0]

    def _with_all_answers(self, messages: list[dict], template_kwargs: dict) -> RenderedChat:
        """A conversation whose `learnt` also has the answers that the template writes in another way than the last."""
        chat, _, _ = self._learnt(messages, template_kwargs)
        ends = turn_format(self.tokenizer, template_kwargs.get("chat_template")).ends
        for answer, is_learnt in zip(chat.answers, chat.is_learnt()):
            if answer is not None and not is_learnt:
                chat.learnt.append((answer[0], ends(chat.text, answer[1]) or answer[1]))
        return chat

    def learns_reasoning(self, messages: list[dict]) -> bool:
        r"""
        Whether the answers of a conversation begin with reasoning that the chat template writes, so that a model that
        is trained on it is asked with `enable_thinking=True`.

        Args:
            messages (`list[dict]`):
                The conversation, as for [`~ElmProcessor.apply_chat_template`].
        """
        check_messages(messages)
        return any(has_reasoning(message) for message in messages) and self._learnt(messages, {})[1]

    def _encode(
        self,
        chats: list[RenderedChat],
        ecgs: list,
        sampling_rate,
        lead_names,
        keep_flat: bool | list[bool],
        padding_side: str | None,
        return_tensors: str | None,
        *,
        return_assistant_tokens_mask: bool = False,
        measured_ecgs: list | None = None,
    ) -> BatchFeature:
        ecg_data, ecg_ids = {}, []
        if ecgs:
            ecg_data, ecg_ids = self.prepare_ecgs(
                ecgs, sampling_rate, lead_names, keep_flat, judge_signal=True, measured_ecgs=measured_ecgs
            )
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
        r"""
        Tokenizes a conversation without reading its ECGs.

        Args:
            messages (`list[dict]`):
                The conversation, as for [`~ElmProcessor.apply_chat_template`].
            ecg_ids (`list[np.ndarray]`):
                The token ids that represent each ECG, as [`~ElmProcessor.prepare_ecgs`] returns them.

        Returns:
            `tuple[np.ndarray, np.ndarray]`: The token ids; and a mask, 1 on the assistant's messages and the token
            that ends each of them. Left out are answers that the template writes in another way than after a prompt,
            such as earlier answers in Qwen 3. Both of shape `(length,)`.

        Raises:
            `ValueError`: If a message is malformed, or the template refuses the conversation, drops an ECG or writes
                no answer as it asks for it.
        """
        chat, _, problem = self._learnt(messages, {})
        if problem is not None and not chat.learnt:
            raise ValueError(f"The model cannot learn the conversation's answers: the chat template {problem}.")
        return self._tokenize(chat, ecg_ids)

    def _tokenize(self, chat: RenderedChat, ecg_ids: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Token ids and answer mask of a conversation, both `(length,)`, with the tokens of its ECGs."""
        ids, starts, ends = self._tokenize_text(chat)
        in_answer = np.zeros(len(ids), dtype=np.int64)
        for start, end in chat.learnt:
            in_answer[(starts < end) & (ends > start)] = 1

        ecg_starts, remaining = set(chat.ecgs), iter(ecg_ids)
        pieces, lengths, start = [], np.ones(len(ids), dtype=np.int64), 0
        for index in np.flatnonzero(ids == self.ecg_token_id).tolist():
            if starts[index] in ecg_starts:
                piece = next(remaining)
            else:  # a placeholder in the text of a message becomes the tokens of its characters
                piece = np.array(
                    self.tokenizer.encode(self.ecg_token, add_special_tokens=False, split_special_tokens=True)
                )
            pieces += [ids[start:index], piece]
            lengths[index] = len(piece)
            start = index + 1
        pieces.append(ids[start:])
        return np.concatenate(pieces).astype(np.int64), np.repeat(in_answer, lengths)

    def _tokenize_text(self, chat: RenderedChat) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Token ids with start and end of each token in characters, each `(length,)`."""
        cuts = {start for start, _ in chat.learnt}
        cuts |= {len(chat.text[: answer[0]].rstrip(" ")) for answer in chat.answers if answer is not None}
        tokens = tokenize_pieces(self.tokenizer, chat.text, [])
        _, starts, ends = tokens
        is_cut_by_itself = all(((starts < cut) & (ends > cut)).sum() == 0 for cut in cuts)
        if cuts and not (is_cut_by_itself and turn_format(self.tokenizer).begins_with_a_token):
            return tokenize_pieces(self.tokenizer, chat.text, sorted(cuts))
        return tokens

    # trf-ignore: TRF057 (auto_docstring describes the library's own models only)
    def save_pretrained(self, save_directory, push_to_hub: bool = False, **kwargs):
        for name in self.get_attributes():
            if isinstance(getattr(self, name), PreTrainedTokenizerBase):
                remove_loading_notes(getattr(self, name))
        return super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    @property
    def end_of_turn_token_id(self) -> int | None:
        """Id of the special token that ends an assistant's turn in the chat template, or `None` if there is none."""
        chat, _, problem = self._learnt([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], {})
        ids, mask = self._tokenize(chat, [])
        return int(ids[np.flatnonzero(mask)[-1]]) if problem is None else None


def _check_lengths(options: dict):
    """Raises if the options ask for another length than that of the longest text."""
    lengths = {name: options.get(name) for name in ("padding", "truncation", "pad_to_multiple_of")}
    if lengths["padding"] not in (True, "longest") or lengths["truncation"] or lengths["pad_to_multiple_of"]:
        raise ValueError(
            "Texts are padded to the longest of a call and never truncated, which could remove tokens of an ECG; got "
            f"{', '.join(f'{name}={value!r}' for name, value in lengths.items())}."
        )


def add_ecg_token(tokenizer, ecg_token: str = ECG_TOKEN) -> int:
    r"""
    Adds the placeholder of ECGs to the tokenizer of an LLM, if it is missing.

    Args:
        tokenizer (`PreTrainedTokenizerBase`):
            The tokenizer.
        ecg_token (`str`, *optional*, defaults to `"<|ecg|>"`):
            The placeholder.

    Returns:
        `int`: The id of the placeholder.
    """
    tokenizer.add_special_tokens({"additional_special_tokens": [ecg_token]}, replace_extra_special_tokens=False)
    return tokenizer.convert_tokens_to_ids(ecg_token)


def remove_loading_notes(tokenizer: PreTrainedTokenizerBase):
    r"""
    Removes from a tokenizer how it was loaded, so that its saved files are the same wherever it was loaded.

    Args:
        tokenizer (`PreTrainedTokenizerBase`):
            The tokenizer.
    """
    for name in LOADING_NOTES:
        tokenizer.init_kwargs.pop(name, None)


__all__ = ["ECG_TOKEN", "LOADING_NOTES", "BaseElmProcessor", "add_ecg_token", "remove_loading_notes"]
