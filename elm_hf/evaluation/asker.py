"""Asking a model the questions of a split: equal prompts once, prompts about the same ECGs together."""

import warnings
import zlib
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pandas as pd
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset
from tqdm import tqdm
from transformers import PreTrainedModel, ProcessorMixin

from elm_hf.data.messages import fill_ecgs
from elm_hf.evaluation.ablation import SignalAblation
from elm_hf.evaluation.report_folder import ReportFolder
from elm_hf.inference.generation import Answer, answers_to
from elm_hf.inference.prefetch import prepared_ahead
from elm_hf.inference.prompt_batch import PromptBatch
from elm_hf.inference.reasoning import MAX_REASONING_TOKENS, longest_text
from elm_hf.modeling.chat_rendering import ecg_items
from elm_hf.modeling.feature_extraction_ecg import SignalQualityWarning
from elm_hf.scoring.predictions import Key


@dataclass
class Prompt:
    """
    A prompt that is asked once; the other questions and conditions that have the same prompt get its answer.

    Attributes:
        key: question and condition that it is asked for.
        row, position: of the conversation, and of the answer among its messages.
        ecgs: names of the ECGs in it.
        max_new_tokens: longest answer, in tokens.
        length: number of characters, by which prompts are sorted.
    """

    key: Key
    row: int
    position: int
    ecgs: tuple[str, ...]
    max_new_tokens: int
    length: int


class Asker:
    """
    Asks the questions of a split under each condition.

    Prompts that are equal, word for word and ECG for ECG, are asked once: under `zeros` and `none` most are. The others
    are sorted so that those about the same ECGs come together and share what the model computes for them.

    Args:
        rows: conversations of [`load_elm_dataset`].
        questions: of [`list_questions`].
        ablation: of the same conversations.
        conditions: some of `ALL_CONDITIONS`.
        max_new_tokens: longest answer, in tokens: one number, or a number for each `question_type`.
        batch_size: number of prompts in a batch.
        temperature: of sampled answers; None for greedy ones.
        seed: random seed of sampling.
        max_reasoning_tokens: longest reasoning before an answer, in tokens.
        left_out: questions under conditions that are not asked.

    Raises:
        ValueError: `max_new_tokens` lacks a question type.

    Attributes:
        batches: lists of `Prompt`. They depend on the arguments alone, so that a resumed run computes what an uninterrupted
            one would have computed.
        same_as: question and condition to those whose prompt is asked for it.
    """

    def __init__(
        self,
        rows: Dataset,
        questions: pd.DataFrame,
        ablation: SignalAblation,
        conditions: Sequence[str],
        max_new_tokens: int | Mapping[str, int],
        batch_size: int,
        temperature: float | None = None,
        seed: int = 0,
        max_reasoning_tokens: int = MAX_REASONING_TOKENS,
        left_out: Container[Key] = (),
    ):
        self._max_reasoning_tokens, self.batch_size = max_reasoning_tokens, batch_size
        self._temperature, self._seed = temperature, seed
        if not isinstance(max_new_tokens, int):
            lacking = sorted(set(questions["question_type"]) - max_new_tokens.keys())
            if lacking:
                raise ValueError(f"max_new_tokens has no number for questions of type {', '.join(lacking)}")
        self._rows, self._ablation = rows, ablation
        self.same_as: dict[Key, Key] = {}
        prompts: dict[tuple, Prompt] = {}
        messages = rows["messages"]
        for question in questions.itertuples():
            before = messages[question.row][: question.position]
            limit = max_new_tokens if isinstance(max_new_tokens, int) else max_new_tokens[question.question_type]
            for condition in conditions:
                key = (question.question_id, condition)
                if key in left_out:
                    continue
                names = ablation.names(question.row, condition, len(ecg_items(before)), question.question_id)
                words = str(ablation.messages(question.row, condition, before))
                prompt = Prompt(key, question.row, question.position, names, limit, len(words))
                self.same_as[key] = prompts.setdefault((names, limit, words), prompt).key
        ordered = sorted(prompts.values(), key=lambda one: (one.max_new_tokens, len(one.ecgs), one.ecgs, one.length))
        self.batches = list(_batches(ordered, batch_size))

    def ask_all(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        folder: ReportFolder,
        state: PartialState,
        quiet: bool = False,
    ) -> dict[Key, Answer]:
        """
        The answers to all questions under all conditions. The processes share the batches.

        Args:
            model, processor: of a checkpoint.
            folder: keeps the answers; those that it has are not asked for again.
            state: of the processes.
            quiet: no progress bar.

        Raises:
            ValueError: the model cannot read one of the conversations.
        """
        known = folder.read()
        state.wait_for_everyone()  # all have read before one writes
        to_ask = [batch for batch in self.batches if not all(prompt.key in known for prompt in batch)]
        folder.cut_unfinished_line(state.process_index)
        mine = to_ask[state.process_index :: state.num_processes]
        found = []
        disable = quiet or None if state.is_main_process else True
        with (
            tqdm(total=sum(map(len, mine)), desc="asking", unit="prompt", disable=disable) as progress,
            warnings.catch_warnings(),
        ):
            # Hundreds of ECGs are asked about; the filter also holds in the thread that prepares them.
            warnings.filterwarnings("ignore", category=SignalQualityWarning)
            for batch, prompts in prepared_ahead(lambda batch: self._prompts(model, processor, batch), mine):
                answers = self._answers(model, processor, batch, prompts)
                folder.append(state.process_index, answers)
                found += answers
                progress.update(len(batch))
        known |= dict(gather_object(found))
        return {key: known[asked] for key, asked in self.same_as.items()}

    def ask(self, model: PreTrainedModel, processor: ProcessorMixin, batch: list[Prompt]) -> list[tuple[Key, Answer]]:
        """
        The model's answers to a batch.

        Raises:
            ValueError: the model cannot read one of the conversations.
        """
        return self._answers(model, processor, batch, self._prompts(model, processor, batch))

    def _prompts(self, model: PreTrainedModel, processor: ProcessorMixin, batch: list[Prompt]) -> PromptBatch:
        """Reads the ECGs, and renders and tokenizes the conversations, on the CPU."""
        read: dict[tuple, list] = {}  # each ECG once
        conversations = [self.conversation(prompt, read) for prompt in batch]
        longest = longest_text(processor, batch[0].max_new_tokens, self._max_reasoning_tokens)
        with naming_questions(batch):
            return PromptBatch(model, processor, conversations, longest)

    def _answers(
        self, model: PreTrainedModel, processor: ProcessorMixin, batch: list[Prompt], prompts: PromptBatch
    ) -> list[tuple[Key, Answer]]:
        if self._temperature is not None:  # whichever batches a process asks, and after an interruption
            torch.manual_seed(zlib.crc32(f"{self._seed} {batch[0].key}".encode()))
        with naming_questions(batch):
            limits = batch[0].max_new_tokens, self._temperature, self._max_reasoning_tokens
            answers = answers_to(prompts, model, processor, *limits)
        return [(prompt.key, answer) for prompt, answer in zip(batch, answers)]

    def conversation(self, prompt: Prompt, read: dict[tuple, list]) -> list[dict]:
        """The messages of a prompt with their ECGs. `read` has the ECGs that were read before, by their names."""
        row, (question_id, condition) = self._rows[prompt.row], prompt.key
        messages = self._ablation.messages(prompt.row, condition, row["messages"][: prompt.position])
        if prompt.ecgs not in read:
            read[prompt.ecgs] = self._ablation.ecgs(prompt.row, condition, len(prompt.ecgs), question_id)
        return fill_ecgs(messages, read[prompt.ecgs], row["sampling_rate"], keep_flat=condition == "zeros")


@contextmanager
def naming_questions(batch: list[Prompt]) -> Iterator[None]:
    """Adds questions of the batch to errors."""
    try:
        yield
    except ValueError as error:
        asked = ", ".join(sorted({prompt.key[0] for prompt in batch})[:3])
        raise ValueError(f"questions {asked}, ...: {error}") from error


def _batches(prompts: list[Prompt], size: int) -> Iterator[list[Prompt]]:
    """Chunks of up to `size` prompts with the same longest answer."""
    batch = []
    for prompt in prompts:
        if batch and (len(batch) == size or prompt.max_new_tokens != batch[0].max_new_tokens):
            yield batch
            batch = []
        batch.append(prompt)
    if batch:
        yield batch
