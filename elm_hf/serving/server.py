"""OpenAI's interface for chat completions, for questions about ECGs. Needs elm-hf[serve]. See docs/serving.md."""

import asyncio
import contextlib
import json
import os
import secrets
import threading
import time
import warnings
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor

from transformers import PreTrainedModel, ProcessorMixin

from elm_hf.inference.generation import Answer
from elm_hf.modeling.feature_extraction_ecg import SignalQualityWarning
from elm_hf.serving.answering import AnsweringThread, Asked
from elm_hf.serving.chat_requests import ChatRequest, RequestError, parse_request
from elm_hf.serving.uploads import quality_of
from elm_hf.utils.errors import one_line


LARGEST_REQUEST = 20_000_000  # bytes
READING_THREADS = 2  # files of electrocardiographs are read in processes of their own
RETRY_AFTER_S = 2
KEY_VARIABLE = "ELM_HF_SERVE_API_KEY"


def check_installed() -> None:
    """
    Check that the packages of the server are there.

    Raises:
        ImportError: they are not.
    """
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ImportError("the server needs FastAPI and uvicorn: pip install 'elm-hf[serve]'") from error


def run_server(
    model: PreTrainedModel, processor: ProcessorMixin, name: str, host: str, port: int, **limits: int
) -> None:
    """
    Serve a model until the program is stopped.

    Args:
        model, processor: of a checkpoint.
        name: name of the model in requests.
        host, port: address.
        **limits: see [`ChatServer`].
    """
    import uvicorn

    uvicorn.run(build_app(ChatServer(model, processor, name, **limits)), host=host, port=port)


class ChatServer:
    """
    Answers requests for chat completions.

    Args:
        model, processor: of a checkpoint.
        name: name of the model in requests.
        batch_size: number of requests that are answered at once.
        max_requests: number of requests that may wait or run; others are refused with status 429.
        max_new_tokens: longest answer that a request may ask for.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        name: str,
        batch_size: int = 16,
        max_requests: int = 256,
        max_new_tokens: int = 1024,
    ):
        self.name, self.max_requests, self._max_new_tokens = name, max_requests, max_new_tokens
        self._processor = processor
        self._running, self._lock = 0, threading.Lock()
        self._answering = AnsweringThread(model, processor, batch_size)
        self._reading = ThreadPoolExecutor(READING_THREADS, "reading")
        self.created = int(time.time())
        # Problems of ECGs are part of the responses.
        warnings.filterwarnings("ignore", category=SignalQualityWarning)

    def close(self) -> None:
        """Stop when all requests are answered."""
        self._answering.close()
        self._reading.shutdown()

    def enter(self) -> None:
        """
        Count a request in. Each must be counted out again with [`leave`].

        Raises:
            RequestError: there are too many.
        """
        if self._running >= self.max_requests:
            message = (
                f"{self._running} requests are waiting or running, the limit is {self.max_requests}; try again later"
            )
            raise RequestError(message, status=429, code="rate_limit_exceeded")
        self._running += 1

    def leave(self) -> None:
        """Count a request out."""
        with self._lock:
            self._running -= 1

    def submit(self, request: ChatRequest, grown: Callable[[str], None] | None = None) -> Asked:
        """
        Let a request wait for its answer. It is counted out when it is answered, whether or not the client is still there.

        Args:
            request: the request.
            grown: called in another thread with the text so far while the answer grows.
        """
        asked = Asked(request, grown)
        asked.answer.add_done_callback(lambda _: self.leave())
        self._answering.submit(asked)
        return asked

    async def read(self, body: bytes) -> tuple[ChatRequest, list[dict]]:
        """
        Check a request and read its ECGs in a thread.

        Returns:
            The request, and for each ECG what makes answers about it doubtful, see
            [`~elm_hf.serving.uploads.quality_of`].

        Raises:
            RequestError: the request is refused.
        """
        return await asyncio.get_running_loop().run_in_executor(self._reading, self._read, body)

    def _read(self, body: bytes) -> tuple[ChatRequest, list[dict]]:
        try:
            content = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise RequestError(f"the request is not JSON ({one_line(error)})") from error
        request = parse_request(content, self.name, self._max_new_tokens)
        try:
            self._answering.check(request)
            return request, [quality_of(ecg, self._processor) for ecg in request.ecgs]
        except ValueError as error:
            raise RequestError(one_line(error), "messages", code="invalid_ecg") from error

    async def complete(self, request: ChatRequest, quality: list[dict]) -> dict:
        """
        Answer a request as a whole.

        Raises:
            RequestError: the model cannot answer.
        """
        asked = self.submit(request)
        answer, prompt_tokens = await self._answer_of(asked)
        message = {"role": "assistant", "content": answer.text}
        choice = {"index": 0, "message": message, "finish_reason": _finish(answer), "logprobs": None}
        return self._envelope("chat.completion") | {
            "choices": [choice],
            "usage": _usage(answer, prompt_tokens),
            "ecg_quality": quality,
        }

    def stream(self, request: ChatRequest, quality: list[dict]) -> AsyncIterator[dict]:
        """
        Answer a request in pieces. The first piece has the quality of the ECGs.

        Raises:
            RequestError: the model cannot answer.
        """
        loop, texts = asyncio.get_running_loop(), asyncio.Queue()

        def arrive(text: str | None) -> None:
            with contextlib.suppress(RuntimeError):  # the server has been stopped
                loop.call_soon_threadsafe(texts.put_nowait, text)

        asked = self.submit(request, arrive)
        asked.answer.add_done_callback(lambda _: arrive(None))
        return self._pieces(asked, texts, quality)

    async def _pieces(self, asked: Asked, texts: asyncio.Queue, quality: list[dict]) -> AsyncIterator[dict]:
        head, sent = self._envelope("chat.completion.chunk"), ""
        try:
            first = {"role": "assistant", "content": ""}
            yield head | {"choices": [_piece(first)], "ecg_quality": quality}
            while (text := await texts.get()) is not None:
                if len(text) > len(sent) and text.startswith(sent):
                    piece, sent = text[len(sent) :], text
                    yield head | {"choices": [_piece({"content": piece})]}
            answer, prompt_tokens = await self._answer_of(asked)
            if answer.text.startswith(sent) and answer.text != sent:
                yield head | {"choices": [_piece({"content": answer.text[len(sent) :]})]}
            yield head | {"choices": [_piece({}, _finish(answer))]}
            if asked.request.with_usage:
                yield head | {"choices": [], "usage": _usage(answer, prompt_tokens)}
        finally:
            asked.answer.cancel()  # if the client has gone before its turn

    async def _answer_of(self, asked: Asked) -> tuple[Answer, int]:
        try:
            return await asyncio.wrap_future(asked.answer)
        except ValueError as error:
            raise RequestError(one_line(error), "messages") from error
        except asyncio.CancelledError:
            raise
        except Exception as error:
            raise RequestError("the model failed; see the server's log", status=500) from error

    def _envelope(self, kind: str) -> dict:
        name = f"chatcmpl-{secrets.token_hex(12)}"
        return {"id": name, "object": kind, "created": int(time.time()), "model": self.name}


def build_app(server: ChatServer):
    """
    The web application (FastAPI): `/v1/chat/completions`, `/v1/models` and `/health`.

    Args:
        server: answers the requests. If the environment variable `ELM_HF_SERVE_API_KEY` is set, requests must have it
            as their API key.
    """
    from fastapi import FastAPI, Request
    from fastapi.responses import JSONResponse, StreamingResponse

    key = os.environ.get(KEY_VARIABLE)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI):
        yield
        server.close()

    app = FastAPI(title="elm-hf", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)

    @app.exception_handler(RequestError)
    async def refuse(_: Request, error: RequestError):
        headers = {"Retry-After": str(RETRY_AFTER_S)} if error.status == 429 else None
        return JSONResponse(error.body(), error.status, headers)

    def check_key(request: Request) -> None:
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if key and not secrets.compare_digest(given.encode(), key.encode()):
            raise RequestError("the API key is missing or wrong", status=401, code="invalid_api_key")

    @app.get("/health")
    async def health():
        return {"status": "ok"}

    @app.get("/v1/models")
    async def models(request: Request):
        check_key(request)
        one = {"id": server.name, "object": "model", "created": server.created, "owned_by": "elm-hf"}
        return {"object": "list", "data": [one]}

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request):
        check_key(request)
        server.enter()
        try:
            asked, quality = await server.read(await _body_of(request))
        except BaseException:
            server.leave()
            raise
        if asked.stream:
            return StreamingResponse(_events(server.stream(asked, quality)), media_type="text/event-stream")
        return JSONResponse(await server.complete(asked, quality))

    return app


async def _body_of(request) -> bytes:
    """The body of a request, which is not read further than the limit."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > LARGEST_REQUEST:
            message = f"the request is larger than {LARGEST_REQUEST / 1e6:.0f} MB"
            raise RequestError(message, status=413, code="request_too_large")
    return bytes(body)


async def _events(pieces: AsyncIterator[dict]) -> AsyncIterator[str]:
    """Server-sent events of a stream. An error after its start is an event as well."""
    try:
        async for piece in pieces:
            yield f"data: {json.dumps(piece)}\n\n"
        yield "data: [DONE]\n\n"
    except RequestError as error:
        yield f"data: {json.dumps(error.body())}\n\n"


def _piece(delta: dict, finish: str | None = None) -> dict:
    return {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}


def _finish(answer: Answer) -> str:
    return "stop" if answer.finished else "length"


def _usage(answer: Answer, prompt_tokens: int) -> dict:
    total = prompt_tokens + answer.num_tokens
    return {"prompt_tokens": prompt_tokens, "completion_tokens": answer.num_tokens, "total_tokens": total}
