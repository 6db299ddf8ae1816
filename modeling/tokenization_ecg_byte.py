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
"""ECG-Byte (Han et al. 2024): encodes ECGs as byte pairs of a text of 26 letters, and decodes them."""

import re
from collections.abc import Sequence

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import AutoTokenizer, TokenizersBackend
from transformers.utils import logging

from .auto_classes import register


logger = logging.get_logger(__name__)

SYMBOLS = "abcdefghijklmnopqrstuvwxyz"
# The first 256 tokens of published vocabularies, which were trained on bytes.
BYTE_TOKENS = tuple(chr(byte) if byte < 128 else f"<{byte}>" for byte in range(256))
ENCODINGS = ("longest_match", "merge_order")

_EPSILON = 1e-6


class EcgByteTokenizer(TokenizersBackend):
    r"""
    Tokenizes ECGs as in Han et al. (2024, "ECG-Byte: A Tokenizer for End-to-End Generative Electrocardiogram Language
    Modeling"): amplitudes are scaled to 0 ... 1 and rounded down to 26 levels, which are written as the letters a ...
    z, lead after lead. Tokens are strings of these letters, found by byte-pair encoding.

    `tokenizer.json` holds everything except the scaling. `tokenizers.Tokenizer.from_file` can load it, too, and turns
    the text of [`~EcgByteTokenizer.ecg_to_symbols`] into the same ids.

    Args:
        vocab (`dict[str, int]`):
            Id of each token: the letters (in published vocabularies 256 bytes) and the strings of letters that result
            from `merges`.
        merges (`list[tuple[str, str]]`):
            Pairs of tokens to merge, in the order in which training found them.
        value_range (`tuple[float, float]`, *optional*):
            Amplitudes in millivolt that are scaled to 0 and 1, for all ECGs. Values outside are clipped. By default
            the minimum and maximum of each ECG, as in ECG-Bench. The absolute amplitude is then lost, and
            [`~EcgByteTokenizer.decode_ecg`] needs the range as an argument.
        companding (`float`, *optional*):
            Amplitude c in millivolt: the levels are equally wide in `asinh(x / c)` instead of x. Below c they are
            about equally wide in millivolt, above they widen with the amplitude, so that a wide `value_range` still
            has fine levels near 0 mV. By default all levels have one width, as in ECG-Byte. It needs a `value_range`.
        encoding (`str`, *optional*, defaults to `"longest_match"`):
            `"longest_match"` takes the longest matching token from the left, as in ECG-Byte. `"merge_order"` applies
            the merges in their order, as in other byte-pair encodings. The former is faster and needs fewer tokens.
        lead_words (`bool`, *optional*, defaults to `True`):
            Whether leads are separate words, so that no token extends from one lead into the next. `False` is needed
            to get the ids of the reference implementation with published vocabularies.

    Raises:
        `ValueError`: If vocabulary or merges are missing, the vocabulary has tokens that are not strings of the
            letters a ... z, or an option is not one of these choices.
    """

    vocab_files_names = {"tokenizer_file": "tokenizer.json"}
    model_input_names = ["input_ids", "attention_mask"]
    model = BPE

    def __init__(
        self,
        vocab: dict[str, int] | None = None,
        merges: Sequence[tuple[str, str]] | None = None,
        value_range: Sequence[float] | None = None,
        companding: float | None = None,
        encoding: str = "longest_match",
        *,
        lead_words: bool = True,
        **kwargs,
    ):
        if vocab is None or merges is None:
            raise ValueError("An ECG-Byte tokenizer needs the vocabulary and merges of a `tokenizer.json`.")
        if encoding not in ENCODINGS:
            raise ValueError(f'`encoding` is "{encoding}"; expected {" or ".join(ENCODINGS)}.')
        _check_vocabulary(vocab)
        self.value_range = None if value_range is None else _checked_range(value_range)
        self.companding = _checked_companding(companding, self.value_range)
        self.encoding = encoding
        self.lead_words = lead_words
        self.num_clipped_samples = 0
        self._tokenizer = _backend(vocab, list(map(tuple, merges)), encoding)
        # Tokens of the vocabulary are not added here: `_backend` has added them, or does not need them (merge order).
        added = kwargs.pop("added_tokens_decoder", None) or {}
        kwargs["added_tokens_decoder"] = {index: token for index, token in added.items() if str(token) not in vocab}
        super().__init__(
            value_range=self.value_range,
            companding=self.companding,
            encoding=encoding,
            lead_words=lead_words,
            **kwargs,
        )
        letters = [""] * (max(vocab.values()) + 1)
        for token in filter(_is_letters, vocab):
            letters[vocab[token]] = token
        self._token_lengths = np.array([len(token) for token in letters])
        self._token_starts = np.cumsum(self._token_lengths) - self._token_lengths
        self._token_levels = np.frombuffer("".join(letters).encode(), dtype=np.uint8) - ord(SYMBOLS[0])

    def ecg_to_symbols(self, ecg: np.ndarray) -> str:
        r"""
        The text of an ECG: letters a ... z, lead after lead, with a space between leads if `lead_words`.

        The index of the letter for x mV is `min(floor(26 * clip((x - low) / (high - low + 1e-6), 0, 1)), 25)`,
        computed in the precision of `ecg` (float32 or float64). With `companding`, x, low and high are replaced by
        their `asinh(x / companding)`.

        Args:
            ecg (`np.ndarray` of shape `(num_leads, num_samples)`):
                The ECG in millivolt.

        Returns:
            `str`: The text.

        Raises:
            `ValueError`: If the ECG has another shape, or is not floating-point or not finite.
        """
        ecg = _checked_ecg(ecg)
        least, most = ecg.min(), ecg.max()
        if not (np.isfinite(least) and np.isfinite(most)):
            raise ValueError(_not_finite(ecg))
        low, high = self.value_range or (least, most)
        if least < low or most > high:
            self._count_clipped(ecg)
        low, high = self._compressed(low), self._compressed(high)
        levels = self._compressed(ecg) - low
        levels /= high - low + _EPSILON
        levels *= len(SYMBOLS)
        np.clip(levels, 0, len(SYMBOLS) - 0.5, out=levels)
        letters = np.full((len(ecg), ecg.shape[1] + self.lead_words), ord(" "), dtype=np.uint8)
        letters[:, : ecg.shape[1]] = levels.astype(np.uint8) + np.uint8(ord(SYMBOLS[0]))
        return letters.tobytes().decode("ascii").rstrip()

    def encode_ecg(self, ecg: np.ndarray | Sequence[np.ndarray]) -> list[int] | list[list[int]]:
        r"""
        Token ids of one ECG or several. Several at once are faster.

        Args:
            ecg (`np.ndarray` of shape `(num_leads, num_samples)` or `(num_ecgs, num_leads, num_samples)`, or a list):
                The ECGs in millivolt, floating-point. Absent leads must be filled, for example with 0 mV.

        Returns:
            `list[int]` or `list[list[int]]`: The ids of the ECG, or of each ECG.

        Raises:
            `ValueError`: If an ECG is not as described. The message gives its position.
        """
        if not isinstance(ecg, list | tuple) and np.ndim(ecg) != 3:
            return self.encode_ecg([ecg])[0]
        texts = []
        for index, one in enumerate(ecg):
            try:
                texts.append(self.ecg_to_symbols(one))
            except ValueError as error:
                raise ValueError(f"ECG {index + 1} of {len(ecg)}: {error}") from error
        # A call with text may have left these set.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        return [encoded.ids for encoded in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def decode_ecg(
        self, token_ids: Sequence[int], num_leads: int = 12, value_range: Sequence[float] | None = None
    ) -> np.ndarray:
        r"""
        The ECG that tokens represent. Each sample is the middle of its level.

        Args:
            token_ids (`list[int]`):
                Ids of one ECG.
            num_leads (`int`, *optional*, defaults to 12):
                Number of leads of the ECG.
            value_range (`tuple[float, float]`, *optional*):
                Amplitudes in millivolt that were scaled to 0 and 1: minimum and maximum of the ECG if the tokenizer
                has no `value_range`, which is the default.

        Returns:
            `np.ndarray` of shape `(num_leads, num_samples)`, float32, in millivolt.

        Raises:
            `ValueError`: If an id represents no letters, the number of samples is not a multiple of `num_leads`, or
                the range is missing.
        """
        value_range = self.value_range if value_range is None else value_range
        if value_range is None:
            raise ValueError("Every ECG was scaled by its own range: give its minimum and maximum as `value_range`.")
        token_ids, ends = self._ids_and_ends(token_ids)
        _samples_per_lead(ends, num_leads)
        lengths = np.diff(ends, prepend=0)
        # The position of each sample's level in the concatenated levels of all tokens.
        places = np.arange(ends[-1]) + np.repeat(self._token_starts[token_ids] - (ends - lengths), lengths)
        centres = self._amplitudes(np.arange(len(SYMBOLS)) + 0.5, value_range)
        return centres.astype(np.float32)[self._token_levels[places]].reshape(num_leads, -1)

    def level_widths(self) -> np.ndarray:
        r"""
        The width of each of the 26 levels.

        Returns:
            `np.ndarray` of shape `(26,)`, float64, in millivolt, from the lowest level to the highest.

        Raises:
            `ValueError`: If the tokenizer has no `value_range`.
        """
        if self.value_range is None:
            raise ValueError("Every ECG was scaled by its own range, and its levels have widths of their own.")
        return np.diff(self._amplitudes(np.arange(len(SYMBOLS) + 1), self.value_range))

    def token_spans(self, token_ids: Sequence[int], num_leads: int = 12) -> np.ndarray:
        r"""
        The part of the ECG that each token represents.

        Args:
            token_ids (`list[int]`):
                All ids of one ECG.
            num_leads (`int`, *optional*, defaults to 12):
                Number of leads of the ECG.

        Returns:
            `np.ndarray` of shape `(num_spans, 4)`, int64: position in `token_ids`, lead, first sample, and the sample
            after the last one. A token has one row for each lead that it extends over.

        Raises:
            `ValueError`: If an id represents no letters, or the number of samples is not a multiple of `num_leads`.
        """
        _, ends = self._ids_and_ends(token_ids)
        samples = _samples_per_lead(ends, num_leads)
        span_ends = np.union1d(ends, np.arange(1, num_leads + 1) * samples)
        span_starts = np.concatenate([[0], span_ends[:-1]])
        leads = span_starts // samples
        tokens = np.searchsorted(ends, span_starts, side="right")
        return np.stack([tokens, leads, span_starts - leads * samples, span_ends - leads * samples], axis=1)

    def _compressed(self, millivolt):
        return millivolt if self.companding is None else np.arcsinh(millivolt / self.companding)

    def _amplitudes(self, levels: np.ndarray, value_range: Sequence[float]) -> np.ndarray:
        """The amplitudes in millivolt at these levels; level 3.5 is the middle of the letter d."""
        low, high = (self._compressed(float(value)) for value in value_range)  # equal for a flat ECG
        values = low + levels / len(SYMBOLS) * (high - low + _EPSILON)
        return values if self.companding is None else np.sinh(values) * self.companding

    def _ids_and_ends(self, token_ids: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """The ids as an array, and the number of samples up to and including each token."""
        token_ids = np.asarray(token_ids, dtype=np.int64)
        num_tokens = len(self._token_lengths)
        is_ecg = (token_ids >= 0) & (token_ids < num_tokens)
        is_ecg[is_ecg] = self._token_lengths[token_ids[is_ecg]] > 0
        if not is_ecg.all():
            position = int(np.argmin(is_ecg))
            raise ValueError(
                f"Token {token_ids[position]} at position {position} represents no samples of an ECG; expected ids "
                f"between 0 and {num_tokens - 1}, of strings of the letters a ... z."
            )
        return token_ids, np.cumsum(self._token_lengths[token_ids])

    def _count_clipped(self, ecg: np.ndarray):
        low, high = self.value_range
        num_outside = int(((ecg < low) | (ecg > high)).sum())
        if not self.num_clipped_samples:
            logger.warning(
                f"{num_outside} of an ECG's {ecg.size} samples lie outside the tokenizer's range of {low:g} to {high:g} mV "
                "and are clipped. `num_clipped_samples` counts them. This warning is shown once."
            )
        self.num_clipped_samples += num_outside


def _backend(vocab: dict[str, int], merges: list[tuple[str, str]], encoding: str) -> Tokenizer:
    """
    The backend of the tokenizer. For the longest match its tokens are also "added tokens". `tokenizers` finds these
    with one automaton, leftmost and longest first, before it applies byte-pair encoding.
    """
    backend = Tokenizer(BPE(vocab=vocab, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.decoder = decoders.Fuse()
    if encoding == "longest_match":
        tokens = sorted(filter(_is_letters, vocab), key=vocab.__getitem__)
        backend.add_tokens([AddedToken(token, normalized=False) for token in tokens])
    return backend


def _is_letters(token: str) -> bool:
    return re.fullmatch("[a-z]+", token) is not None


def _check_vocabulary(vocab: dict[str, int]):
    strange = [
        token
        for token, index in vocab.items()
        if not _is_letters(token) and BYTE_TOKENS[index : index + 1] != (token,)
    ]
    missing = [letter for letter in SYMBOLS if letter not in vocab]
    if strange or missing:
        found = f"tokens such as {strange[0]!r}" if strange else f"no token for {', '.join(missing)}"
        raise ValueError(
            f"This vocabulary of {len(vocab)} tokens has {found}; expected a vocabulary of ECG-Byte, with the letters "
            "a ... z and strings of them. Is it the tokenizer of a text model?"
        )


def _checked_range(value_range: Sequence[float]) -> tuple[float, float]:
    low, high = (float(value) for value in value_range)
    if not (np.isfinite([low, high]).all() and low < high):
        raise ValueError(f"`value_range` is {low:g} to {high:g} mV; expected two finite values, the lower one first.")
    return low, high


def _checked_companding(companding: float | None, value_range: tuple[float, float] | None) -> float | None:
    if companding is None:
        return None
    if value_range is None:
        raise ValueError(
            "`companding` needs a `value_range`: levels that widen with the amplitude are the same for all."
        )
    if not (np.isfinite(companding) and companding > 0):
        raise ValueError(f"`companding` is {companding:g} mV; expected a positive amplitude.")
    return float(companding)


def _checked_ecg(ecg) -> np.ndarray:
    """The ECG as a contiguous array `(leads, samples)` of float32 or float64."""
    ecg = np.ascontiguousarray(ecg)
    if ecg.ndim != 2 or ecg.size == 0:
        raise ValueError(f"expected the shape (leads, samples), got {ecg.shape}.")
    if not np.issubdtype(ecg.dtype, np.floating):
        raise ValueError(
            f"expected millivolt as floating-point numbers, got {ecg.dtype}. Divide integer microvolt by 1000."
        )
    return ecg.astype(np.float32) if ecg.dtype == np.float16 else ecg


def _not_finite(ecg: np.ndarray) -> str:
    invalid = ~np.isfinite(ecg)
    lead, sample = np.argwhere(invalid)[0]
    return (
        f"{invalid.sum()} samples are NaN or infinite, the first is sample {sample} of lead {lead + 1}. Repair them, and "
        "fill an absent lead, with 0 mV for example."
    )


def _samples_per_lead(ends: np.ndarray, num_leads: int) -> int:
    num_samples = int(ends[-1]) if len(ends) else 0
    if num_samples == 0 or num_samples % num_leads:
        raise ValueError(
            f"The tokens represent {num_samples} samples, which are not {num_leads} leads of one length. Are these all "
            "tokens of an ECG, and is `num_leads` right?"
        )
    return num_samples // num_leads


EcgByteTokenizer.register_for_auto_class("AutoTokenizer")
# `AutoTokenizer` finds the class by the name in its JSON file.
register(AutoTokenizer, EcgByteTokenizer, EcgByteTokenizer)

__all__ = ["EcgByteTokenizer"]
