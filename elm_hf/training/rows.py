"""Training rows: the conversations of the datasets, tokenized and packed, and the collator that batches them."""

from collections.abc import Sequence
from os import PathLike

import numpy as np
from datasets import Dataset
from transformers import ProcessorMixin
from trl import SFTConfig

from elm_hf.data.loading import load_elm_dataset, records_of
from elm_hf.modeling.modeling_elm import ElmForCausalLM
from elm_hf.retrieval.prompts import Retrieval, add_neighbours
from elm_hf.training.alignment import AlignmentCollator, alignment_conversations
from elm_hf.training.arguments import ElmScriptArguments
from elm_hf.training.augmentation import EcgAugmentation, EcgImageAugmentation
from elm_hf.training.batches import fill_batches, pack_lengths, token_counts
from elm_hf.training.checks import check_ecgs
from elm_hf.training.collator import ElmDataCollator
from elm_hf.training.encoder_cache import cache_encoders_of
from elm_hf.training.encoder_features import EncoderFeatures
from elm_hf.training.packing import pack_by_ecg
from elm_hf.training.reasoning import prepare_reasoning
from elm_hf.training.tokenization import add_lengths, tokenize_conversations


def load_training_data(
    script_args: ElmScriptArguments, training_args: SFTConfig, processor: ProcessorMixin, split: str = "train"
) -> Dataset:
    """
    Loads the conversations, or the descriptions used instead of them, and adds similar ECGs to the prompts if
    requested ([`prepare_reasoning`] for answers with reasoning). Conversations of the validation split are neither drawn
    nor merged, and ECGs are not expanded.

    Raises:
        FileNotFoundError: a dataset, table of descriptions or index does not exist.
        ValueError: the fold or split does not exist, a training patient of one dataset is held out by another, the ECGs
            do not fit the model, or no conversation is left.
    """
    is_training = split == "train"
    dataset = load_elm_dataset(
        script_args.dataset,
        fold=script_args.fold,
        split=split,
        probabilities=script_args.dataset_probabilities if is_training else None,
        merge_questions=script_args.merge_questions if is_training else 1,
        seed=training_args.seed,
        question_types=script_args.question_types,
    )
    check_ecgs(dataset, processor)
    if script_args.descriptions is not None:
        return alignment_conversations(
            dataset,
            script_args.descriptions,
            script_args.feature_sentences,
            script_args.data_expansion if is_training else 0,
        )
    if script_args.retrieval is not None:
        with training_args.main_process_first(desc="finding similar ECGs"):
            ecgs = dataset.with_format(None).select_columns("ecg_index")[:]["ecg_index"]
            found = Retrieval(script_args.retrieval, script_args.dataset, script_args.fold, ecgs)
            dataset = add_neighbours(dataset, found, processor.system_prompt, training_args.dataset_num_proc)
    return prepare_reasoning(dataset, processor, script_args.max_reasoning_tokens)


def load_sources(paths: Sequence[str | PathLike]) -> set[str]:
    """
    Loads the names of the datasets from which the ECGs of datasets are.

    Args:
        paths: folders or Hub names of elm-hf datasets.
    """
    tables = [records_of(path, None) for path in paths]
    return {source for table in tables if table is not None for source in table.unique("source")}


def prepare_rows(
    dataset: Dataset,
    script_args: ElmScriptArguments,
    training_args: SFTConfig,
    model: ElmForCausalLM,
    processor: ProcessorMixin,
    augmentation: EcgAugmentation,
    image_augmentation: EcgImageAugmentation,
    validation: Dataset | None = None,
    few_lengths: bool = False,
) -> tuple[Dataset, ElmDataCollator, Dataset | None, ElmDataCollator]:
    """
    Tokenizes the rows if their text does not depend on the ECG, packs them if requested, and creates their collators.

    Args:
        dataset: rows of [`load_training_data`].
        validation: rows of the validation split, if there is an evaluation during training.
        script_args, training_args, augmentation, image_augmentation: arguments of the run.
        model: the ELM, whose encoder runs here with `--cache_encoder`.
        processor: the ELM's processor.
        few_lengths: whether training batches are padded to one of few lengths ([`padded_length`]).

    Returns:
        The training rows, or batches of them with `--tokens_per_batch`, and their collator; the validation rows, sorted by
        length, and their collator, which changes no ECG.

    Raises:
        ValueError: see [`tokenize_conversations`] and [`fill_batches`].
    """
    collator_class = ElmDataCollator if script_args.descriptions is None else AlignmentCollator
    features = _encoder_features(script_args, training_args, model, processor) if script_args.cache_encoder else None
    changes = (
        augmentation if augmentation != EcgAugmentation() else None,
        image_augmentation if image_augmentation != EcgImageAugmentation() else None,
    )
    collator, validation_collator = (
        collator_class(
            processor,
            training_args.max_length,
            *changes_of_split,
            training_args.seed,
            training_args.padding_free,
            features,
            ecg_in_every_batch=model.config.representation != "symbol",
            keep_flat=script_args.ecg_condition == "zeros",
            few_lengths=its_lengths,
            modality_dropout=dropout,
        )
        for changes_of_split, its_lengths, dropout in (
            (changes, few_lengths, script_args.modality_dropout),
            ((None, None), False, 0.0),
        )
    )
    dataset, validation = (
        part and _with_lengths(part, script_args, training_args, model, collator) for part in (dataset, validation)
    )
    dataset = _grouped(dataset, script_args, training_args, collator)
    if validation is not None:
        validation = validation.select(
            np.argsort(validation.with_format(None).select_columns("length")[:]["length"], kind="stable")
        )
    return dataset, collator, validation, validation_collator


def _with_lengths(
    dataset: Dataset,
    script_args: ElmScriptArguments,
    training_args: SFTConfig,
    model: ElmForCausalLM,
    collator: ElmDataCollator,
) -> Dataset:
    if model.config.representation == "symbol" or script_args.descriptions is not None:  # text depends on the ECG
        return add_lengths(dataset, collator.processor.num_ecg_tokens)
    with training_args.main_process_first(desc="tokenizing"):
        return tokenize_conversations(dataset, collator.tokenize, training_args.dataset_num_proc)


def _grouped(
    tokenized: Dataset, script_args: ElmScriptArguments, training_args: SFTConfig, collator: ElmDataCollator
) -> Dataset:
    """The rows, packed and in batches if requested."""
    rows = tokenized
    if script_args.pack_by_ecg > 1:
        rows = pack_by_ecg(tokenized, script_args.pack_by_ecg, training_args.seed)
    if script_args.tokens_per_batch is None:
        return rows
    lengths = token_counts(tokenized) if rows is tokenized else pack_lengths(rows, tokenized, collator.count_ecgs)
    return fill_batches(
        rows,
        lengths,
        script_args.tokens_per_batch,
        training_args.seed,
        collator.few_lengths,
        in_one_row=training_args.padding_free,
    )


def _encoder_features(
    script_args: ElmScriptArguments, training_args: SFTConfig, model: ElmForCausalLM, processor: ProcessorMixin
) -> EncoderFeatures:
    for part in (model.model.encoder, model.model.projector):  # not the LLM, which may be too large for one GPU
        if part is not None:
            part.to(training_args.device)
    with training_args.main_process_first(desc="running the encoder"):
        return cache_encoders_of(script_args.dataset, model, processor, not training_args.disable_tqdm)
