"""Pairs of answers to questions about ECGs: the rows that training on preferences reads, and their batches."""

from collections.abc import Sequence

import numpy as np
import torch
from datasets import Dataset
from transformers import ProcessorMixin

from elm_hf.data.messages import answer_positions, text_message
from elm_hf.data.preferences import Preference, read_preferences
from elm_hf.data.tables import split_names
from elm_hf.inference.prompt_batch import last_run
from elm_hf.training.collator import ElmDataCollator
from elm_hf.training.packing import IGNORE_INDEX
from elm_hf.training.post_training import PostTraining
from elm_hf.training.shared_prompts import ECG_ORDER, PACKED, PLACES, PREFIX, ecg_order, rows_of_pairs
from elm_hf.training.tokenization import ConversationTokenizer


def load_pairs(run: PostTraining, path: str, validation: bool) -> tuple[Dataset, Dataset | None]:
    """
    Loads pairs of answers with the conversations before them and their ECGs.

    Args:
        run: the run, which names the datasets.
        path: file of `elm-hf prepare preferences`.
        validation: whether pairs about validation patients are wanted.

    Returns:
        The pairs about training patients and those about validation patients (None unless wanted), with the columns
        `messages` (up to the question), `chosen`, `rejected`, `conversation_id`, `ecg_index` and what
        `load_elm_dataset` adds.

    Raises:
        ValueError: a pair is about a conversation of neither split, there is none about training patients, or none about
            validation patients although they are wanted.
    """
    pairs = read_preferences(path)
    found = {}
    splits = ["train", "validation"]
    names = [split_names(path, run.script_args.fold) for path in run.script_args.dataset]
    if not validation and not all("validation" in of for of in names):  # such as ratings of the demo
        splits.remove("validation")
        found["validation"] = []
    for split in splits:
        conversations = run.load_conversations(split)
        rows = {name: row for row, name in enumerate(conversations["conversation_id"])}
        repeated = len(conversations) - len(rows)
        if repeated:
            raise ValueError(
                f"--dataset {' '.join(run.script_args.dataset)}: {repeated} conversations have the conversation_id of another "
                "one, so that pairs cannot name them; train on one dataset at a time."
            )
        found[split] = _pairs_of_split(conversations, rows, [pair for pair in pairs if pair.conversation_id in rows])
        pairs = [pair for pair in pairs if pair.conversation_id not in rows]
    if pairs:
        raise ValueError(
            f"--preferences {path}: {len(pairs)} pairs, such as that about {pairs[0].conversation_id}, are about no "
            f"conversation of the training or validation split of fold {run.script_args.fold} of "
            f"{', '.join(run.script_args.dataset)}; give the dataset and fold whose training split was answered"
        )
    for split, wanted in (("train", True), ("validation", validation)):
        if wanted and not len(found[split]):
            raise ValueError(
                f"--preferences {path}: no pair is about a {split} patient of fold {run.script_args.fold}."
            )
    return found["train"], found["validation"] if validation else None


def _pairs_of_split(conversations: Dataset, rows: dict[str, int], pairs: list[Preference]) -> Dataset:
    if not pairs:  # columns cannot be added to no rows
        return conversations.select([])
    plain = conversations.with_format(None).select([rows[pair.conversation_id] for pair in pairs])
    plain = plain.select_columns(["conversation_id", "ecg_index", "messages"])
    prompts = [_prompt(row, pair) for row, pair in zip(plain["messages"], pairs)]
    with_answers = plain.remove_columns("messages").add_column("messages", prompts, feature=plain.features["messages"])
    for side in ("chosen", "rejected"):
        with_answers = with_answers.add_column(side, [getattr(pair, side) for pair in pairs])
    return with_answers.with_format(conversations.format["type"], **conversations.format["format_kwargs"])


def _prompt(messages: list[dict], pair: Preference) -> list[dict]:
    answers = answer_positions(messages)
    if pair.turn >= len(answers):
        raise ValueError(f"{pair.conversation_id} has {len(answers)} answers; a pair is about number {pair.turn + 1}")
    return messages[: answers[pair.turn]]


def unpaired(pairs: Dataset, seed: int) -> Dataset:
    """
    Every answer as a row of its own, in random order, with the columns `completion`, `label` (whether it is the chosen
    one) and `other`: the answer of the nearest row before it that is about another question, with which KTO compares it.
    It does not depend on the batch, so that the loss does not depend on the number of processes.

    Args:
        pairs: rows of [`load_pairs`].
        seed: random seed of the order.

    Raises:
        ValueError: all pairs are about the same question.
    """
    plain = pairs.with_format(None)
    order = np.random.default_rng(seed).permutation(2 * len(plain))
    both = plain.select([row for row in range(len(plain)) for _ in range(2)]).select(order)
    completions = [text for row in zip(plain["chosen"], plain["rejected"]) for text in row]
    completions = [completions[place] for place in order]
    questions = list(zip(both["conversation_id"], map(len, both["messages"])))
    if len(set(questions)) < 2:
        raise ValueError(
            "KTO compares answers with those to other questions, and all pairs are about the same question."
        )
    others = []
    for row, question in enumerate(questions):
        other = row - 1
        while questions[other] == question:
            other -= 1
        others.append(completions[other])
    both = both.remove_columns(["chosen", "rejected"])
    both = both.add_column("completion", completions).add_column("other", others)
    both = both.add_column("label", [bool(place % 2 == 0) for place in order])
    return both.with_format(pairs.format["type"], **pairs.format["format_kwargs"])


class AnswerCollator:
    """
    Collates answers, each with its prompt and ECGs.

    Args:
        processor: the ELM's processor.
        max_length: maximum number of tokens of a prompt with its answer, see [`ConversationTokenizer`].
    """

    def __init__(self, processor: ProcessorMixin, max_length: int | None):
        self.collate = ElmDataCollator(processor, max_length)
        self.collate.tokenize = _LastAnswer(processor, max_length)


class PairCollator(AnswerCollator):
    """
    Collates pairs of answers for `DPOTrainer`: all chosen answers, then all rejected ones, each with its prompt. Of the
    ECGs, those of each prompt are there once: the model reads the batch with [`SharedPrompts`].

    Attributes:
        shares_prompts: whether the LLM reads each prompt once, too.
    """

    shares_prompts = True

    def __call__(self, rows: Sequence[dict]) -> dict[str, torch.Tensor]:
        """
        Args:
            rows: rows of [`load_pairs`].

        Returns:
            `input_ids`, `attention_mask` and `completion_mask` (1 on the answer), each `(2 * rows, length)`, what the
            model reads of the ECGs, and either `packed_input_ids`, `packed_position_ids` and `packed_sequence_ids`, each
            `(rows, length)`, with `packed_places`, or `ecg_order`.
        """
        packs = [{"conversations": [_answered(row, row[side]) for side in ("chosen", "rejected")]} for row in rows]
        packed = self.collate(packs)
        of_text = {name: packed.pop(name) for name in ("labels", "attention_mask", *PACKED)}
        batch = packed | rows_of_pairs(of_text, self.collate.processor.tokenizer.pad_token_id)
        if self.shares_prompts:
            return batch | {PREFIX + name: of_text[name] for name in PACKED}
        del batch[PLACES]
        return batch | ({ECG_ORDER: ecg_order(of_text, self.collate.count_ecgs)} if "ecg_values" in packed else {})


class UnpairedCollator(AnswerCollator):
    """
    Collates single answers for `KTOTrainer`, and each prompt with an answer to another question, from which the trainer
    estimates the divergence from the reference model.
    """

    def __call__(self, rows: Sequence[dict]) -> dict[str, torch.Tensor]:
        """
        Args:
            rows: rows of [`unpaired`].

        Returns:
            `input_ids`, `attention_mask`, `completion_mask`, each `(rows, length)`, the same with the prefix `KL_` for
            the answers to other questions, `label (rows,)`, and what the model reads of the ECGs, which are the same for
            both.
        """
        batch = self._answered_rows(rows, "completion")
        others = self._answered_rows(rows, "other")
        for name in ("input_ids", "attention_mask", "completion_mask"):
            batch[f"KL_{name}"] = others[name]
        return batch | {"label": torch.tensor([row["label"] for row in rows])}

    def _answered_rows(self, rows: Sequence[dict], column: str) -> dict[str, torch.Tensor]:
        batch = self.collate([_answered(row, row[column]) for row in rows])
        batch["completion_mask"] = (batch.pop("labels") != IGNORE_INDEX).long()
        return batch


def _answered(row: dict, text: str) -> dict:
    """A row with an answer to its question."""
    return row | {"messages": [*row["messages"], text_message("assistant", text)]}


class _LastAnswer(ConversationTokenizer):
    """Labels only the last answer of a conversation."""

    def __call__(self, *args) -> tuple[np.ndarray, np.ndarray]:
        ids, labels = super().__call__(*args)
        return ids, np.where(last_run(labels != IGNORE_INDEX), labels, IGNORE_INDEX)
