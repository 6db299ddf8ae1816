"""Waiting requests, answered in batches by one thread: those about the same ECG share its prefix."""

import copy
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from transformers import PreTrainedModel, ProcessorMixin
from transformers.utils import logging

from elm_hf.inference.generation import Answer, answers_to
from elm_hf.inference.prompt_batch import PromptBatch
from elm_hf.inference.reasoning import MAX_REASONING_TOKENS, longest_text
from elm_hf.serving.chat_requests import ChatRequest


logger = logging.get_logger(__name__)


@dataclass(eq=False)
class Asked:
    """
    A request that waits for its answer.

    Attributes:
        request: the request.
        grown: called with the text so far while the answer grows; None if nobody looks.
        answer: the answer and the number of tokens of its prompt, once they are known.
    """

    request: ChatRequest
    grown: Callable[[str], None] | None = None
    answer: Future = field(default_factory=Future)

    @property
    def settings(self) -> tuple:
        """What requests of a batch have in common."""
        return self.request.max_new_tokens, self.request.temperature


class AnsweringThread:
    """
    Answers requests one batch after the other.

    Args:
        model, processor: of a checkpoint.
        batch_size: number of requests that are answered at once.
    """

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, batch_size: int):
        self._model, self._processor, self._batch_size = model, processor, batch_size
        # Several threads cannot use a tokenizer at once.
        self._checking, self._processor_of_checks = threading.Lock(), copy.deepcopy(processor)
        self._arrived: queue.SimpleQueue[Asked | None] = queue.SimpleQueue()
        self._waiting: list[Asked] = []
        self._thread = threading.Thread(target=self._run, name="answering", daemon=True)
        self._thread.start()

    def check(self, request: ChatRequest) -> None:
        """
        Check that the model can read a request, so that it does not harm the others of its batch.

        Raises:
            ValueError: an ECG does not fit the model, or the conversation is too long for it.
        """
        with self._checking:
            longest = self._longest(request.max_new_tokens)
            PromptBatch(self._model, self._processor_of_checks, [request.conversation], longest)

    def _longest(self, max_new_tokens: int) -> int:
        """Number of tokens of the longest answer with its reasoning."""
        return longest_text(self._processor, max_new_tokens, MAX_REASONING_TOKENS)

    def submit(self, asked: Asked) -> None:
        """Add a request. Its future gets the answer, or the error."""
        self._arrived.put(asked)

    def close(self) -> None:
        """Stop when all requests are answered."""
        self._arrived.put(None)
        self._thread.join()

    def _run(self) -> None:
        is_open = True
        while is_open or self._waiting:
            is_open = self._collect(is_open)
            batch = self._next_batch()
            if batch:
                self._answer(batch)

    def _collect(self, is_open: bool) -> bool:
        """Take what has arrived; wait for it if there is nothing to do. Returns whether more may come."""
        while is_open and (not self._waiting or not self._arrived.empty()):
            asked = self._arrived.get()
            if asked is None:
                return False
            self._waiting.append(asked)
        return is_open

    def _next_batch(self) -> list[Asked]:
        """The requests with the settings of the oldest one, in their order. Cancelled ones are dropped."""
        self._waiting = [one for one in self._waiting if not one.answer.cancelled()]
        alike = [one for one in self._waiting if one.settings == self._waiting[0].settings][: self._batch_size]
        self._waiting = [one for one in self._waiting if one not in alike]
        return [one for one in alike if one.answer.set_running_or_notify_cancel()]

    def _answer(self, batch: list[Asked]) -> None:
        """Answer a batch; if that is impossible, each request on its own, so that a bad one does not harm the others."""
        try:
            found = self._generate(batch)
        except Exception as error:
            if len(batch) > 1:
                for one in batch:
                    self._answer([one])
                return
            if not isinstance(error, ValueError):
                logger.error("a request failed", exc_info=True)
            batch[0].answer.set_exception(error)
            return
        for one, answer in zip(batch, found):
            one.answer.set_result(answer)

    def _generate(self, batch: list[Asked]) -> list[tuple[Answer, int]]:
        max_new_tokens, temperature = batch[0].settings
        conversations = [one.request.conversation for one in batch]
        prompts = PromptBatch(self._model, self._processor, conversations, self._longest(max_new_tokens))
        lengths = prompts.attention_mask.sum(dim=1).tolist()

        def watch(texts: list[str]) -> None:
            for one, text in zip(batch, texts):
                if one.grown is not None:
                    one.grown(text)

        watched = watch if any(one.grown is not None for one in batch) else None
        answers = answers_to(prompts, self._model, self._processor, max_new_tokens, temperature, watch=watched)
        return list(zip(answers, lengths))
