"""Requests for chat completions: from the JSON of OpenAI's interface, with ECGs, to a conversation for the model."""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from elm_hf.ecg.recording import make_recording
from elm_hf.inference.ask import AskedEcg
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.serving.uploads import check_usable, read_upload
from elm_hf.utils.errors import short


DEFAULT_NEW_TOKENS = 64
MAX_ECGS = 8  # of a conversation
LONGEST_S = 3600  # of an array
ROLES = ("system", "user", "assistant")
# Fields of OpenAI's interface that this server does not follow, with the values that change nothing.
WITHOUT_EFFECT = {
    "n": (None, 1),
    "top_p": (None, 1),
    "stop": (None, []),
    "logprobs": (None, False),
    "tools": (None, []),
    "functions": (None, []),
    "response_format": (None, {"type": "text"}),
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "logit_bias": (None, {}),
}
ECG_FORM = (
    '{"type": "ecg", "ecg": {"name": "ecg.xml", "data": BASE64}}, {"type": "ecg", "ecg": {"files": [{"name": ..., "data": ...}, '
    '...]}} or {"type": "ecg", "ecg": {"signal": [[millivolt, ...], ...], "lead_names": [...], "sampling_rate": Hz}}'
)


class RequestError(ValueError):
    """
    A request that is refused.

    Args:
        message: the reason.
        param: field of the request, None for the request as a whole.
        status: HTTP status.
        code: short name of the reason, for programs.
    """

    def __init__(self, message: str, param: str | None = None, status: int = 400, code: str | None = None):
        super().__init__(message)
        self.param, self.status, self.code = param, status, code

    def body(self) -> dict:
        """The error as OpenAI's interface writes it."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


@dataclass
class ChatRequest:
    """
    A request for an answer.

    Attributes:
        conversation: messages that end with the user's turn, whose ECG items hold their ECGs.
        ecgs: the ECGs in their order.
        max_new_tokens: longest answer, in tokens.
        temperature: of sampling; None for the most probable answer.
        stream: whether the answer is sent while it grows.
        with_usage: whether the numbers of tokens are sent at the end of a stream.
    """

    conversation: list[dict]
    ecgs: list[AskedEcg]
    max_new_tokens: int
    temperature: float | None
    stream: bool
    with_usage: bool


def parse_request(body: object, model_name: str, max_new_tokens: int) -> ChatRequest:
    """
    Check a request and read its ECGs. Nothing but the request itself is read: paths and addresses are refused.

    Args:
        body: the request, from JSON.
        model_name: name of the model that is served.
        max_new_tokens: longest answer that a request may ask for.

    Raises:
        RequestError: the request is refused.
    """
    if not isinstance(body, dict):
        raise RequestError("the request is not a JSON object")
    if body.get("model") not in (None, model_name):
        message = f'model {short(body["model"])!r} is not served here; the only one is "{model_name}"'
        raise RequestError(message, "model", 404, "model_not_found")
    for field, harmless in WITHOUT_EFFECT.items():
        if body.get(field) not in harmless:
            raise RequestError(f"{field} is not supported", field, code="unsupported_parameter")
    length, temperature = _length(body, max_new_tokens), _temperature(body)
    conversation, ecgs = _conversation(body.get("messages"))
    options = body.get("stream_options")
    with_usage = isinstance(options, dict) and bool(options.get("include_usage"))
    return ChatRequest(conversation, ecgs, length, temperature, body.get("stream") is True, with_usage)


def _length(body: Mapping, largest: int) -> int:
    field = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
    length = body.get(field)
    if length is None:
        return min(DEFAULT_NEW_TOKENS, largest)
    if type(length) is not int or not 1 <= length <= largest:
        raise RequestError(f"{field} is {short(length)}; expected 1 to {largest}", field)
    return length


def _temperature(body: Mapping) -> float | None:
    value = body.get("temperature")
    if value is None or value == 0:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 2:
        raise RequestError(f"temperature is {short(value)}; expected 0 to 2", "temperature")
    return float(value)


def _conversation(messages: object) -> tuple[list[dict], list[AskedEcg]]:
    if not isinstance(messages, list) or not messages:
        raise RequestError("messages is not a list of messages", "messages")
    conversation, ecgs = [], []
    for place, message in enumerate(messages):
        where = f"messages[{place}]"
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            raise RequestError(f"{where}: expected a message with role {', '.join(ROLES)}", where)
        content = _content(message, where, len(ecgs))
        ecgs += [item.pop("asked") for item in content if item["type"] == "ecg"]
        conversation.append({"role": message["role"], "content": content})
    if conversation[-1]["role"] != "user":
        raise RequestError("the last message is not the user's", "messages")
    if not ecgs:
        raise RequestError(
            f"no ECG; this model answers questions about ECGs. A user's message needs an item {ECG_FORM}",
            "messages",
            code="missing_ecg",
        )
    return conversation, ecgs


def _content(message: Mapping, where: str, num_before: int) -> list[dict]:
    """The items of a message: text, and ECGs with what [`AskedEcg`] holds as `asked`."""
    content, items = message.get("content"), []
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    for place, item in enumerate(content if isinstance(content, list) else [None]):
        inside = f"{where}.content[{place}]"
        kind = item.get("type") if isinstance(item, dict) else None
        if kind == "text" and isinstance(item.get("text"), str):
            items.append({"type": "text", "text": item["text"]})
        elif kind == "ecg" and message["role"] == "user":
            if num_before + sum(one["type"] == "ecg" for one in items) == MAX_ECGS:
                raise RequestError(f"{inside}: a conversation has at most {MAX_ECGS} ECGs", inside)
            asked = _ecg(item.get("ecg"), inside)
            settings = {"sampling_rate": asked.sampling_rate, "lead_names": list(LEADS)}
            items.append({"type": "ecg", "ecg": asked.ecg, **settings, "asked": asked})
        else:
            raise RequestError(
                f"{inside}: expected text, or in a user's message an item {ECG_FORM}",
                inside,
                code="unsupported_content",
            )
    return items


def _ecg(given: object, where: str) -> AskedEcg:
    if not isinstance(given, dict):
        raise RequestError(f"{where}: paths and addresses are not read; expected {ECG_FORM}", where)
    try:
        asked = _from_signal(given) if "signal" in given else _from_files(given, where)
        check_usable(asked)
    except RequestError:
        raise
    except (ValueError, TypeError, OverflowError) as error:
        raise RequestError(f"{where}: {short(error, 1000)}", where, code="invalid_ecg") from error
    return asked


def _from_files(given: Mapping, where: str) -> AskedEcg:
    files = given.get("files", [given])
    if not isinstance(files, list) or not all(isinstance(file, dict) for file in files):
        raise RequestError(f"{where}: files is not a list of objects with name and data", where)
    contents = {}
    for file in files:
        name, data = file.get("name"), file.get("data")
        if not isinstance(name, str) or not isinstance(data, str):
            raise RequestError(f"{where}: expected {ECG_FORM}", where)
        try:
            contents[name] = base64.b64decode(data, validate=True)
        except binascii.Error as error:
            raise RequestError(f"{where}: data of {short(name)} is not base64 ({error})", where) from error
    rate = given.get("sampling_rate")
    return read_upload(contents, None if rate is None else _rate(rate), given.get("units"))


def _from_signal(given: Mapping) -> AskedEcg:
    """An array in mV, `(leads, samples)`."""
    rate = _rate(given.get("sampling_rate"))
    names = given.get("lead_names", list(LEADS))
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("lead_names is not a list of names")
    rows = given["signal"]
    signal = np.array(rows, dtype=np.float32)  # null is NaN: missing
    if signal.ndim != 2 or signal.shape[1] > LONGEST_S * rate:
        raise ValueError(
            f"signal of shape {signal.shape}; expected a list of equal length for each lead, of up to {LONGEST_S} s"
        )
    recording = make_recording(signal, rate, names, "signal", "mV", as_recorded=True)
    return AskedEcg("signal", recording.ecg, recording.sampling_rate)


def _rate(rate: object) -> float:
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < 1e6:
        raise ValueError(f"sampling_rate is {short(rate)}; expected a number of Hz")
    return rate
