"""Asking a model at an OpenAI-compatible endpoint the questions of a split: parallel requests, repeated when they fail."""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Event

from tqdm import tqdm

from elm_hf.evaluation.asker import Asker, Prompt
from elm_hf.evaluation.report_folder import ReportFolder
from elm_hf.inference.generation import Answer
from elm_hf.other_models.endpoint_inputs import EcgContents
from elm_hf.scoring.names import REQUESTS_NAME
from elm_hf.scoring.predictions import Key
from elm_hf.utils.chat_models import Completion, TransientError
from elm_hf.utils.files import append_line, read_lines


MAX_ATTEMPTS = 5

# Gives the model at the endpoint that writes answers of up to a number of tokens.
EndpointOf = Callable[[int], Callable[[list[dict]], Completion]]


@dataclass
class Request:
    """
    A question that was sent to an endpoint, perhaps several times.

    Attributes:
        question_id, condition: of the prompt.
        answered: whether an attempt was answered.
        prompt_tokens, completion_tokens: as the endpoint reports them; 0 if it does not.
        failures: number of failed attempts by reason.
        refused, greedy: see [`Completion`].
    """

    question_id: str
    condition: str
    answered: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    refused: bool = False
    greedy: bool = True


class EndpointAsker:
    """
    Asks the prompts of an [`Asker`] at an endpoint.

    Answers and requests are written as they come, so that an interrupted evaluation continues and no request is paid for
    twice. Requests that fail for good are asked again by the same command.

    Args:
        asker: has the prompts.
        endpoint_of: gives the model at the endpoint.
        contents: what is sent in the place of an ECG.
        system_prompt: opens conversations without a system message.
        num_workers: number of simultaneous requests.
        first_wait_s: wait before a failed request is repeated, in seconds; it doubles with each repetition.
    """

    def __init__(
        self,
        asker: Asker,
        endpoint_of: EndpointOf,
        contents: EcgContents,
        system_prompt: str | None,
        num_workers: int,
        first_wait_s: float,
    ):
        self._asker, self._contents, self._system_prompt = asker, contents, system_prompt
        self._num_workers, self._first_wait_s = num_workers, first_wait_s
        self._stopped = Event()
        prompts = [prompt for batch in asker.batches for prompt in batch]
        self._prompts = prompts
        self._endpoints = {limit: endpoint_of(limit) for limit in {prompt.max_new_tokens for prompt in prompts}}

    def ask_all(self, folder: ReportFolder, url: str, quiet: bool = False) -> dict[Key, Answer]:
        """
        The answers to all questions under all conditions.

        Args:
            folder: keeps the answers; those that it has are not asked for again.
            url: name of the endpoint in errors.
            quiet: no progress bar.

        Raises:
            ValueError: the endpoint rejects a request, or does not answer all of them.
        """
        known = folder.read()
        folder.cut_unfinished_line(0)
        missing = [prompt for prompt in self._prompts if prompt.key not in known]
        outcome = _Outcome(self._num_workers)
        with (
            ThreadPoolExecutor(self._num_workers) as pool,
            tqdm(total=len(missing), desc="asking", unit="prompt", disable=quiet or None) as progress,
        ):
            try:
                for future in self._finished(pool, missing):
                    request, answer = outcome.add(future)
                    if request is not None and (answer is not None or request.failures):
                        append_line(folder.path / REQUESTS_NAME, asdict(request))
                    if answer is not None:
                        key = request.question_id, request.condition
                        folder.append(0, [(key, answer)])
                        known[key] = answer
                    progress.update(1)
                    if outcome.is_hopeless:
                        self._stopped.set()  # what was sent is still received
            finally:
                self._stopped.set()
        outcome.check(url, len(missing))
        return {key: known[asked] for key, asked in self._asker.same_as.items()}

    def _finished(self, pool: ThreadPoolExecutor, prompts: list[Prompt]) -> Iterator[Future]:
        """Sends the prompts, a few of them ahead, and returns the requests as they end."""
        pending: set[Future] = set()
        read: dict[tuple, list] = {}  # the last ECGs
        for prompt in prompts:
            if self._stopped.is_set():
                break
            if prompt.ecgs not in read:
                read.clear()
            messages = self._asker.conversation(prompt, read)
            messages = self._contents.messages(messages, prompt.ecgs, self._system_prompt)
            pending.add(pool.submit(self._ask, prompt, messages))
            if len(pending) >= 2 * self._num_workers:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from done
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            yield from done

    def _ask(self, prompt: Prompt, messages: list[dict]) -> tuple[Request, Answer | None]:
        """The answer; None if no attempt was answered."""
        request, failures, reply = Request(*prompt.key), Counter(), None
        for attempt in range(MAX_ATTEMPTS):
            if self._stopped.is_set():
                break
            try:
                reply = self._endpoints[prompt.max_new_tokens](messages)
                break
            except TransientError as error:
                failures[str(error)] += 1
                if attempt < MAX_ATTEMPTS - 1:
                    doubled = self._first_wait_s * 2**attempt
                    self._stopped.wait(doubled if error.wait is None else error.wait)
        request.failures = dict(failures)
        if reply is None:
            return request, None
        request.answered = True
        request.prompt_tokens, request.completion_tokens = reply.prompt_tokens, reply.completion_tokens
        request.refused, request.greedy = reply.refused, reply.greedy
        return request, Answer(reply.text, reply.completion_tokens, reply.finished)


class _Outcome:
    """What became of the requests: how many were answered, why others were not, and whether to send more."""

    def __init__(self, num_workers: int):
        self._most_in_a_row = num_workers
        self._failed: Counter[str] = Counter()
        self._failed_in_a_row, self._answered = 0, 0
        self._rejection: ValueError | None = None

    def add(self, future: Future) -> tuple[Request | None, Answer | None]:
        """The request and its answer; None where there is none."""
        try:
            request, answer = future.result()
        except ValueError as error:
            self._rejection = error
            return None, None
        if answer is not None:
            self._answered += 1
            self._failed_in_a_row = 0
        elif request.failures:
            self._failed[list(request.failures)[-1]] += 1
            self._failed_in_a_row += 1
        return request, answer

    @property
    def is_hopeless(self) -> bool:
        return self._rejection is not None or self._failed_in_a_row >= self._most_in_a_row

    def check(self, url: str, number: int) -> None:
        """Raises ValueError if not all requests were answered."""
        if self._rejection is not None:
            raise self._rejection
        if self._failed:
            reasons = ", ".join(f"{reason} ({times})" for reason, times in sorted(self._failed.items()))
            raise ValueError(
                f"{url}: {number - self._answered} of {number} requests were not answered in up to {MAX_ATTEMPTS} attempts: "
                f"{reasons}; check the URL (such as http://localhost:8000/v1) and --endpoint-model. The same command with the "
                "same --output asks for the rest"
            )


def read_requests(folder: Path) -> list[Request]:
    """The requests of an evaluation, also those of interrupted runs."""
    return [Request(**line) for line in read_lines(folder / REQUESTS_NAME)]
