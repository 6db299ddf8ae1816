"""The text tokenizer of a new LLM, trained on the conversations of a dataset."""

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from elm_hf.checkpoints.load import load_pretrained
from elm_hf.data.loading import load_elm_dataset
from elm_hf.modeling.processing_elm_base import ECG_TOKEN


# One token opens a turn and one ends it, so that short conversations have little overhead.
NEW_TOKENIZER_CHAT_TEMPLATE = """\
{%- for message in messages %}
    {{- '<|' + message['role'] + '|>' + message['content'] + eos_token }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>' }}
{%- endif %}"""


def train_tokenizer(texts: Iterable[str], vocab_size: int, whole: Iterable[str] = ()) -> PreTrainedTokenizerFast:
    """
    Trains a byte-level BPE tokenizer with a chat template.

    Its tokens may span several words (Liu et al. 2025, SuperBPE) but no punctuation, so that frequent phrases of a
    narrow domain take one token each.

    Args:
        texts: training texts.
        vocab_size: number of tokens without those of `whole`.
        whole: phrases that are always one token.

    Raises:
        ValueError: `vocab_size` is smaller than the number of bytes (256) and special tokens.
    """
    special = ["<|end|>", "<|pad|>", ECG_TOKEN, "<|system|>", "<|user|>", "<|assistant|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    smallest = len(special) + len(alphabet)
    if vocab_size < smallest:
        raise ValueError(f"A byte-level vocabulary needs at least {smallest} tokens, got {vocab_size} (--vocab-size).")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\s*[^\w\s]+\s*|\s*\n\s*"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(phrase, normalized=False, single_word=True) for phrase in sorted(whole)])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=special[0], pad_token=special[1])
    wrapped.chat_template = NEW_TOKENIZER_CHAT_TEMPLATE
    return wrapped


def text_tokenizer(name: str | None, dataset: str | None, fold: int | str, vocab_size: int) -> PreTrainedTokenizerBase:
    """
    The tokenizer of a new ELM.

    Args:
        name: repository or folder of a tokenizer.
        dataset: elm-hf dataset on whose training split a new tokenizer is trained instead.
        fold: fold of that dataset.
        vocab_size: size of a new tokenizer's vocabulary.

    Raises:
        ValueError: neither is given, or the tokenizer is not a fast one.
    """
    if dataset is not None:
        rows = load_elm_dataset(dataset, fold, "train")
        content = pc.struct_field(pc.list_flatten(_column(rows, "messages")), "content")
        texts = pc.struct_field(pc.list_flatten(content), "text")  # null for an ECG
        return train_tokenizer(texts.drop_null().to_pylist(), vocab_size, _frequent_answers(rows))
    if name is None:
        raise ValueError("A new LLM needs a tokenizer: --tokenizer NAME, or --tokenizer-dataset DATASET to train one.")
    tokenizer = load_pretrained(AutoTokenizer, name)
    if not tokenizer.is_fast:
        raise ValueError(
            f"{name}: has only a slow tokenizer ({type(tokenizer).__name__}), which does not say where its tokens stand in a "
            "text; give one with a tokenizer.json (--tokenizer)."
        )
    return tokenizer


def _frequent_answers(rows: Dataset) -> list[str]:
    """Answers and items of answers in at least 1 of 1,000 rows; the name of a label is best a single token."""
    if "answer" not in rows.column_names:
        return []
    counts = pc.value_counts(pc.list_flatten(_column(rows, "answer"))).to_pylist()
    return [item["values"] for item in counts if item["counts"] * 1000 >= len(rows)]


def _column(rows: Dataset, name: str) -> pa.ChunkedArray:
    """A column as an Arrow array, which creates no Python objects."""
    return rows.select_columns(name).with_format("arrow")[:][name]
