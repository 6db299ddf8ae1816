"""Short chat completions from a model at an OpenAI-compatible endpoint or from a local model."""

import json
import os
from collections.abc import Callable

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


def endpoint_chat(url: str, model: str | None, max_tokens: int, role: str) -> Chat:
    """
    Return a chat function for a model at an OpenAI-compatible endpoint. Decoding is greedy.

    Args:
        url: URL of the endpoint, such as `http://localhost:8000/v1`.
        model: name of the model, if the endpoint serves several models.
        max_tokens: maximum number of generated tokens.
        role: task of the model, such as `"judge"`. It is used in error messages and in the name of the environment
            variable that contains the API key, such as `ELM_HF_JUDGE_API_KEY`.

    Returns:
        A function that raises [`TransientError`] on a transient error and ValueError if the endpoint rejects the
        request.
    """
    key = f"ELM_HF_{role.upper()}_API_KEY"
    client = InferenceClient(base_url=url, api_key=os.environ.get(key, "none"), timeout=120)

    def chat(messages: list[dict]) -> tuple[str, int, int]:
        try:
            output = client.chat_completion(messages, model=model, max_tokens=max_tokens, temperature=0.0)
        except InferenceTimeoutError as error:
            raise TransientError("timeout") from error
        except TransportError as error:
            raise TransientError(f"no connection to {url} ({type(error).__name__})") from error
        except HfHubHTTPError as error:
            status = error.response.status_code
            if status not in TRANSIENT_CODES:
                raise ValueError(
                    f"the {role} at {url} rejects the request (HTTP {status}: {error.response.text[:200]}); check its "
                    f"URL, its model (--{role}-model) and its API key ({key})"
                ) from error
            raise TransientError(f"HTTP {status}", _retry_after(error.response.headers)) from error
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise TransientError("not JSON") from error
        except ValueError as error:  # JSON other than an object
            raise TransientError("no chat completion") from error
        return _words(output), *_tokens(output.usage)

    return chat


def writable(text: str) -> str:
    """Replace lone surrogates by question marks. JSON may contain them, but they cannot be written to a file."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _words(output: ChatCompletionOutput) -> str:
    """The text of a response. The response may be JSON of any structure."""
    try:
        content = output.choices[0].message.content
    except (AttributeError, IndexError, TypeError) as error:
        raise TransientError("no chat completion") from error
    return writable(content) if isinstance(content, str) else ""


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
