"""Short chat completions from a model at an OpenAI-compatible endpoint or from a local model."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from httpx2 import TransportError
from huggingface_hub import ChatCompletionOutput, ChatCompletionOutputUsage, InferenceClient
from huggingface_hub.errors import HfHubHTTPError, InferenceTimeoutError

from elm_hf.utils.hub import TRANSIENT_CODES


# A function that takes messages and returns the text of the answer, the number of prompt tokens and of generated
# tokens.
Chat = Callable[[list[dict]], tuple[str, int, int]]


class TransientError(Exception):
    """
    A transient error: the request may succeed if it is repeated.

    Args:
        reason: cause of the error.
        wait: number of seconds to wait before the next attempt, if the server specifies it.
    """

    def __init__(self, reason: str, wait: float | None = None):
        super().__init__(reason)
        self.wait = wait


def is_endpoint(name: str) -> bool:
    """Return whether a model name is a URL."""
    return name.startswith(("http://", "https://"))


def public_url(url: str) -> str:
    """Return a URL without what may be secret: user, password and parameters."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rsplit("@", 1)[-1], parts.path, "", ""))


@dataclass(frozen=True)
class Completion:
    """
    A reply of a model at an endpoint.

    Attributes:
        text: the reply; empty if the model wrote none.
        prompt_tokens, completion_tokens: as the endpoint reports them; 0 if it does not.
        finished: False if the reply was cut at its maximum length.
        refused: whether the endpoint declares the reply a refusal, or a filter withheld it.
        greedy: whether the endpoint accepted a temperature of 0.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    finished: bool
    refused: bool
    greedy: bool


class Endpoint:
    """
    A model at an OpenAI-compatible endpoint. Calling it with messages returns a [`Completion`].

    Decoding is greedy. If the endpoint rejects `max_tokens` in favour of `max_completion_tokens`, or a temperature of 0,
    as models that reason do, the request is repeated without, and later requests follow.

    Args:
        url: URL of the endpoint, such as `http://localhost:8000/v1`.
        model: name of the model, if the endpoint serves several models.
        max_tokens: maximum number of generated tokens.
        role: task of the model, such as `"judge"`. It is used in error messages and in the name of the environment
            variable that contains the API key, such as `ELM_HF_JUDGE_API_KEY`.
        timeout_s: longest wait for a reply, in seconds.

    A call raises [`TransientError`] on a transient error and ValueError if the endpoint rejects the request.
    """

    def __init__(self, url: str, model: str | None, max_tokens: int, role: str, timeout_s: float = 120):
        self._url, self._model, self._role = public_url(url), model, role
        self._key_name = f"ELM_HF_{role.upper()}_API_KEY"
        self._key = os.environ.get(self._key_name)
        self._client = InferenceClient(base_url=url, api_key=self._key or "none", timeout=timeout_s)
        self._settings: dict = {"max_tokens": max_tokens, "temperature": 0.0}

    def __call__(self, messages: list[dict]) -> Completion:
        while True:
            settings = self._settings
            try:
                output = self._client.chat_completion(messages, model=self._model, **settings)
                break
            except InferenceTimeoutError as error:
                raise TransientError("timeout") from error
            except TransportError as error:
                raise TransientError(f"no connection to {self._url} ({type(error).__name__})") from error
            except HfHubHTTPError as error:
                if not self._adapts(settings, error):
                    raise self._error(error) from error
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                raise TransientError("not JSON") from error
            except ValueError as error:  # JSON other than an object
                raise TransientError("no chat completion") from error
        text, reason, refused = _reply(output)
        tokens = _tokens(output.usage)
        return Completion(self._without_key(text), *tokens, reason != "length", refused, "temperature" in settings)

    def _adapts(self, settings: dict, error: HfHubHTTPError) -> bool:
        """Whether the request is repeated without a setting that the endpoint rejects."""
        if error.response.status_code != 400:
            return False
        said, without = error.response.text, dict(settings)
        if "max_completion_tokens" in said and "max_tokens" in settings:
            without["extra_body"] = {"max_completion_tokens": without.pop("max_tokens")}
        elif "temperature" in said and "temperature" in settings:
            del without["temperature"]
        else:
            return False
        self._settings = without
        return True

    def _error(self, error: HfHubHTTPError) -> Exception:
        status = error.response.status_code
        if status in TRANSIENT_CODES:
            return TransientError(f"HTTP {status}", _retry_after(error.response.headers))
        return ValueError(
            f"the {self._role} at {self._url} rejects the request (HTTP {status}: "
            f"{self._without_key(error.response.text[:200])}); check its URL, its model (--{self._role}-model) and its API "
            f"key ({self._key_name})"
        )

    def _without_key(self, text: str) -> str:
        """A text of the endpoint, which may repeat the API key."""
        return text.replace(self._key, "(API key)") if self._key else text


def endpoint_chat(url: str, model: str | None, max_tokens: int, role: str) -> Chat:
    """Return a chat function for a model at an [`Endpoint`]."""
    endpoint = Endpoint(url, model, max_tokens, role)

    def chat(messages: list[dict]) -> tuple[str, int, int]:
        reply = endpoint(messages)
        return reply.text, reply.prompt_tokens, reply.completion_tokens

    return chat


def writable(text: str) -> str:
    """Replace lone surrogates by question marks. JSON may contain them, but they cannot be written to a file."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _reply(output: ChatCompletionOutput) -> tuple[str, str | None, bool]:
    """Text of a response, the reason of its end, and whether it is a refusal. The response may be JSON of any structure."""
    try:
        choice = output.choices[0]
        content, reason, refusal = choice.message.content, choice.finish_reason, choice.message.get("refusal")
    except (AttributeError, IndexError, TypeError) as error:
        raise TransientError("no chat completion") from error
    refused = reason == "content_filter" or bool(refusal)
    return writable(content) if isinstance(content, str) else "", reason, refused


def _tokens(usage: ChatCompletionOutputUsage | None) -> list[int]:
    """Number of prompt tokens and of generated tokens; 0 if the endpoint does not report them."""
    if not isinstance(usage, ChatCompletionOutputUsage):
        return [0, 0]
    return [number if isinstance(number, int) else 0 for number in (usage.prompt_tokens, usage.completion_tokens)]


def _retry_after(headers) -> float | None:
    """Seconds to wait as requested by the server, at most 60. A date instead of a number is ignored."""
    value = headers.get("retry-after", "")
    return min(float(value), 60.0) if value.replace(".", "", 1).isdecimal() else None


def local_chat(name: str, max_tokens: int) -> Chat:
    """
    Return a chat function for a local model. Decoding is greedy.

    Args:
        name: folder or repository of the model.
        max_tokens: maximum number of generated tokens.

    Raises:
        ValueError: the tokenizer has no chat template.
        OSError: the model does not exist.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(name)
    if tokenizer.chat_template is None:
        raise ValueError(f"{name}: has no chat template; choose an instruction-tuned model")
    model = AutoModelForCausalLM.from_pretrained(name, dtype="auto", device_map="auto").eval()

    def chat(messages: list[dict]) -> tuple[str, int, int]:
        inputs = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"
        ).to(model.device)
        output = model.generate(**inputs, max_new_tokens=max_tokens, do_sample=False)
        read = inputs["input_ids"].shape[1]
        new = output[0, read:]
        return tokenizer.decode(new, skip_special_tokens=True), read, len(new)

    return chat
