"""A chat model that is asked for short texts: at an OpenAI-compatible endpoint, or one that runs here."""

import json
import os
from collections.abc import Callable

from httpx2 import TransportError
from huggingface_hub import ChatCompletionOutput, ChatCompletionOutputUsage, InferenceClient
from huggingface_hub.errors import HfHubHTTPError, InferenceTimeoutError

from elm_hf.utils.hub import PASSING


# Takes messages and gives the model's words, tokens read and tokens written.
Chat = Callable[[list[dict]], tuple[str, int, int]]


class PassingError(Exception):
    """A request that may succeed when it is made again; `wait` seconds later if the server said so."""

    def __init__(self, reason: str, wait: float | None = None):
        super().__init__(reason)
        self.wait = wait


def is_endpoint(name: str) -> bool:
    """Whether a model is named by its address."""
    return name.startswith(("http://", "https://"))


def endpoint_chat(url: str, model: str | None, max_tokens: int, role: str) -> Chat:
    """
    A model at an OpenAI-compatible endpoint, which answers greedily.

    Args:
        url: such as `http://localhost:8000/v1`.
        model: its name there, where there are several.
        max_tokens: longest answer.
        role: what it is to do, `"judge"`; the key is taken from the environment, `ELM_HF_JUDGE_API_KEY`, and errors name it.

    Returns:
        A function that raises [`PassingError`] when a request fails in passing, and ValueError when the endpoint refuses.
    """
    key = f"ELM_HF_{role.upper()}_API_KEY"
    client = InferenceClient(base_url=url, api_key=os.environ.get(key, "none"), timeout=120)

    def chat(messages: list[dict]) -> tuple[str, int, int]:
        try:
            output = client.chat_completion(messages, model=model, max_tokens=max_tokens, temperature=0.0)
        except InferenceTimeoutError as error:
            raise PassingError("timeout") from error
        except TransportError as error:
            raise PassingError(f"no connection to {url} ({type(error).__name__})") from error
        except HfHubHTTPError as error:
            status = error.response.status_code
            if status not in PASSING:
                raise ValueError(
                    f"the {role} at {url} refuses (HTTP {status}: {error.response.text[:200]}); check its address, its model "
                    f"(--{role}-model) and its key ({key})"
                ) from error
            raise PassingError(f"HTTP {status}", _retry_after(error.response.headers)) from error
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise PassingError("not JSON") from error
        except ValueError as error:  # a list, a number, ...
            raise PassingError("no chat completion") from error
        return _words(output), *_tokens(output.usage)

    return chat


def writable(text: str) -> str:
    """The text with a question mark for each half of a surrogate pair, which JSON may hold and no file."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _words(output: ChatCompletionOutput) -> str:
    """Of a reply, which may be JSON of any shape."""
    try:
        content = output.choices[0].message.content
    except (AttributeError, IndexError, TypeError) as error:
        raise PassingError("no chat completion") from error
    return writable(content) if isinstance(content, str) else ""


def _tokens(usage: ChatCompletionOutputUsage | None) -> list[int]:
    """Read and written; 0 where the endpoint does not say."""
    if not isinstance(usage, ChatCompletionOutputUsage):
        return [0, 0]
    return [number if isinstance(number, int) else 0 for number in (usage.prompt_tokens, usage.completion_tokens)]


def _retry_after(headers) -> float | None:
    """Seconds that the server wants to be left alone, at most a minute; it may also give a date, which is not read."""
    value = headers.get("retry-after", "")
    return min(float(value), 60.0) if value.replace(".", "", 1).isdecimal() else None


def local_chat(name: str, max_tokens: int) -> Chat:
    """
    A chat model that runs here, which answers greedily.

    Args:
        name: folder or repository.
        max_tokens: longest answer.

    Raises:
        ValueError: it has no chat template.
        OSError: there is no such model.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(name)
    if tokenizer.chat_template is None:
        raise ValueError(f"{name}: has no chat template, so it cannot be asked; name an instruction-tuned model")
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
