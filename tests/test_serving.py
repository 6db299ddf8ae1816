"""The server: OpenAI's interface with its own client, ECGs in requests, load, and requests that are refused."""

import asyncio
import base64
import contextlib
import io
import socket
import threading
import time

import numpy as np
import pytest


openai = pytest.importorskip("openai")
uvicorn = pytest.importorskip("uvicorn")
httpx = pytest.importorskip("httpx")

from elm_hf.checkpoints.load import load_checkpoint  # noqa: E402
from elm_hf.data.messages import fill_ecgs  # noqa: E402
from elm_hf.ecg.simulated_findings import draw_findings  # noqa: E402
from elm_hf.ecg.simulation import simulate_ecg  # noqa: E402
from elm_hf.inference.generation import answer  # noqa: E402
from elm_hf.modeling.ecg_leads import LEADS  # noqa: E402
from elm_hf.serving.answering import AnsweringThread  # noqa: E402
from elm_hf.serving.chat_requests import RequestError, parse_request  # noqa: E402
from elm_hf.serving.server import LARGEST_REQUEST, ChatServer, build_app  # noqa: E402


QUESTION = "What is the rhythm?"


@pytest.fixture(scope="module")
def loaded(speaking_elm):
    return load_checkpoint(speaking_elm, device="cpu")


@pytest.fixture(scope="module")
def simulated() -> np.ndarray:
    """Four simulated ECGs of 2 s `(4, 12, 500)` in mV."""
    rng = np.random.default_rng(1)
    return np.stack([simulate_ecg(draw_findings(rng), rng, 2.0) for _ in range(4)]).astype(np.float32)


@contextlib.contextmanager
def served(loaded, **limits):
    """The address of a server with the model."""
    chat_server = ChatServer(*loaded, "tiny", **limits)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = uvicorn.Config(build_app(chat_server), host="127.0.0.1", port=port, log_level="error")
    server = uvicorn.Server(settings)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}", chat_server
    server.should_exit = True
    thread.join(30)


@pytest.fixture(scope="module")
def address(loaded):
    with served(loaded, batch_size=16, max_new_tokens=32) as (url, _):
        yield url


@pytest.fixture(scope="module")
def client(address):
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=120)


def npy(ecg: np.ndarray) -> str:
    content = io.BytesIO()
    np.save(content, ecg)
    return base64.b64encode(content.getvalue()).decode()


def signal_item(ecg: np.ndarray) -> dict:
    return {
        "type": "ecg",
        "ecg": {"signal": ecg.tolist(), "lead_names": list(LEADS), "sampling_rate": 250},
    }


def file_item(ecg: np.ndarray, name: str = "ecg.npy") -> dict:
    return {"type": "ecg", "ecg": {"name": name, "data": npy(ecg), "sampling_rate": 250}}


def asking(*items: dict, question: str = QUESTION) -> list[dict]:
    return [{"role": "user", "content": [*items, {"type": "text", "text": question}]}]


def local_answer(loaded, ecg: np.ndarray, question: str = QUESTION, tokens: int = 8) -> str:
    prompt = [{"role": "user", "content": [{"type": "ecg"}, {"type": "text", "text": question}]}]
    return answer(*loaded, [fill_ecgs(prompt, [ecg], 250)], tokens)[0]


def test_the_answer_is_that_of_ask_for_arrays_and_files_whole_and_streamed(client, loaded, simulated):
    expected = local_answer(loaded, simulated[0])
    for item in (signal_item(simulated[0]), file_item(simulated[0])):
        whole = client.chat.completions.create(model="tiny", messages=asking(item), max_tokens=8)
        assert whole.choices[0].message.content == expected
        pieces = list(
            client.chat.completions.create(
                model="tiny",
                messages=asking(item),
                max_completion_tokens=8,
                stream=True,
                stream_options={"include_usage": True},
            )
        )
        assert "".join(one.choices[0].delta.content or "" for one in pieces if one.choices) == expected
        assert pieces[-2].choices[0].finish_reason == whole.choices[0].finish_reason == "length"
        assert pieces[-1].usage == whole.usage and whole.usage.completion_tokens == 8
    assert [one.id for one in client.models.list()] == ["tiny"]


def test_several_turns_and_ecgs(client, loaded, simulated):
    first, second = simulated[:2]
    messages = asking(signal_item(first), signal_item(second))
    messages += [{"role": "assistant", "content": "none"}, {"role": "user", "content": "Which is faster?"}]
    items = [{"type": "ecg"}, {"type": "ecg"}, {"type": "text", "text": QUESTION}]
    prompt = [{"role": "user", "content": items}, *messages[1:]]
    found = client.chat.completions.create(model="tiny", messages=messages, max_tokens=8)
    assert found.choices[0].message.content == answer(*loaded, [fill_ecgs(prompt, [first, second], 250)], 8)[0]
    assert [one["name"] for one in found.ecg_quality] == ["signal", "signal"]


def test_a_doubtful_signal_is_told(client, simulated):
    flat = simulated[0].copy()
    flat[6] = 0
    flat[7] = np.nan
    for stream in (False, True):
        reply = client.chat.completions.create(
            model="tiny", messages=asking(file_item(flat)), max_tokens=2, stream=stream
        )
        (quality,) = next(iter(reply)).ecg_quality if stream else reply.ecg_quality
        assert quality["name"] == "ecg.npy" and "flat: V1" in quality["problems"]
        assert "V1" in quality["missing_leads"] and "V2" in quality["missing_leads"]


def refusals(simulated) -> dict[str, tuple]:
    """Requests that are refused, with the status and words of the message."""
    good = signal_item(simulated[0])
    three = {"signal": simulated[0][:3].tolist(), "lead_names": ["I", "II"], "sampling_rate": 250}
    return {
        "no ECG": ({"messages": asking()}, 400, "no ECG"),
        "a path": (
            {"messages": asking({"type": "ecg", "ecg": "/etc/passwd"})},
            400,
            "paths and addresses are not read",
        ),
        "an address": ({"messages": asking({"type": "ecg", "ecg": {"path": "https://x"}})}, 400, "expected"),
        "a name that leaves": ({"messages": asking(file_item(simulated[0], "../x.npy"))}, 400, "plain name"),
        "no base64": ({"messages": asking({"type": "ecg", "ecg": {"name": "x", "data": "%"}})}, 400, "not base64"),
        "a text": ({"messages": asking({"type": "ecg", "ecg": {"name": "a.txt", "data": "aGk="}})}, 400, "a.txt"),
        "too few names": (
            {"messages": asking({"type": "ecg", "ecg": three})},
            400,
            "2 lead names for an ECG of shape (3,",
        ),
        "too short": (
            {"messages": asking(signal_item(simulated[0][:, :200]))},
            400,
            "0.8 s long, the model reads 2 s",
        ),
        "flat": ({"messages": asking(signal_item(0 * simulated[0]))}, 400, "every lead is missing or flat"),
        "tools": ({"messages": asking(good), "tools": [{"type": "function"}]}, 400, "tools is not supported"),
        "too long": ({"messages": asking(good), "max_tokens": 33}, 400, "expected 1 to 32"),
        "an image": (
            {"messages": asking(good, {"type": "image_url", "image_url": {"url": "x"}})},
            400,
            "expected text",
        ),
        "another model": ({"messages": asking(good), "model": "gpt"}, 404, "not served here"),
        "the assistant's turn": (
            {"messages": [*asking(good), {"role": "assistant", "content": "a"}]},
            400,
            "not the user's",
        ),
        "no messages": ({}, 400, "messages"),
    }


def test_what_is_refused(address, simulated):
    for what, (body, status, words) in refusals(simulated).items():
        reply = httpx.post(f"{address}/v1/chat/completions", json=body, timeout=60)
        message = reply.json()["error"]["message"]
        assert (reply.status_code, words in message, "/tmp" in message) == (status, True, False), (what, message)
    for body in (b"{", b"[" * 100_000, b"\xff"):
        assert httpx.post(f"{address}/v1/chat/completions", content=body).status_code == 400
    assert httpx.post(f"{address}/v1/chat/completions", content=b" " * (LARGEST_REQUEST + 1)).status_code == 413


def test_a_wfdb_header_cannot_name_a_file_outside_the_request(simulated, tmp_path):
    np.zeros(1000, "<i2").tofile(tmp_path / "secret.dat")
    header = f"r 1 250 1000\n{tmp_path}/secret.dat 16 1000 16 0 0 0 0 I\n"
    files = [{"name": "r.hea", "data": base64.b64encode(header.encode()).decode()}]
    with pytest.raises(RequestError, match="is in another folder"):
        parse_request({"messages": asking({"type": "ecg", "ecg": {"files": files}})}, "tiny", 8)


def test_two_hundred_at_once_with_bad_ones_among_them_and_none_is_lost(loaded, simulated):
    """Every request gets its own answer; bad ones are refused alone. Beyond the limit there is 429."""
    expected = [local_answer(loaded, ecg, tokens=4) for ecg in simulated]
    assert len(set(expected)) == 4

    async def ask_all(url: str, number: int) -> list:
        client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=240)

        async def ask(place: int):
            ecg = simulated[place % 4] if place % 10 else simulated[0][:, :200]  # too short
            try:
                messages = asking(file_item(ecg))
                options = {"model": "tiny", "messages": messages, "max_tokens": 4}
                return (await client.chat.completions.create(**options)).choices[0].message.content
            except openai.APIStatusError as error:
                return error.status_code

        return await asyncio.gather(*(ask(place) for place in range(number)))

    with served(loaded, batch_size=32, max_requests=200) as (url, _):
        answers = asyncio.run(ask_all(url, 200))
    assert answers == [expected[place % 4] if place % 10 else 400 for place in range(200)]
    with served(loaded, batch_size=1, max_requests=5) as (url, server):
        answers = asyncio.run(ask_all(url, 40))
        assert 0 < answers.count(429) < 40
        assert {found for place, found in enumerate(answers) if place % 10} <= {429, *expected}
        assert httpx.get(f"{url}/health").json() == {"status": "ok"} and server._running == 0


def test_requests_about_one_ecg_are_one_batch(loaded, simulated, monkeypatch):
    """While the first request is answered, the others wait; then they are answered together."""
    sizes, released, generate = [], threading.Event(), AnsweringThread._generate

    def slow(self, batch):
        sizes.append(len(batch))
        released.wait(60)
        return generate(self, batch)

    monkeypatch.setattr(AnsweringThread, "_generate", slow)
    questions = [f"Is lead {lead} inverted?" for lead in LEADS[:5]]
    server = ChatServer(*loaded, "tiny", batch_size=8)
    requests = [
        parse_request({"messages": asking(signal_item(simulated[0]), question=one), "max_tokens": 4}, "tiny", 8)
        for one in questions
    ]
    first = server.submit(requests[0])
    while not sizes:
        time.sleep(0.01)
    others = [server.submit(one) for one in requests[1:]]
    released.set()
    answers = [one.answer.result(60)[0].text for one in (first, *others)]
    server.close()
    assert sizes == [1, 4]
    assert answers == [local_answer(loaded, simulated[0], one, 4) for one in questions]


def test_a_key_is_asked_for(loaded, monkeypatch):
    monkeypatch.setenv("ELM_HF_SERVE_API_KEY", "secret")
    with served(loaded) as (url, _):
        assert httpx.get(f"{url}/v1/models").status_code == 401
        assert httpx.get(f"{url}/v1/models", headers={"Authorization": "Bearer secret"}).status_code == 200
        assert httpx.post(f"{url}/v1/chat/completions", json={}).status_code == 401


def test_the_llm_alone_answers_alike_from_prompt_embeddings(loaded, simulated, tmp_path):
    """What a server that knows only the LLM has to do: continue a prompt of embeddings."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from elm_hf.serving.prompt_embeddings import prompt_embeddings, save_language_model

    save_language_model(*loaded, tmp_path / "llm")
    llm, tokenizer = (one.from_pretrained(tmp_path / "llm") for one in (AutoModelForCausalLM, AutoTokenizer))
    assert type(llm).__module__.startswith("transformers.models.")
    for ecg in simulated[:2]:
        prompt = [{"role": "user", "content": [{"type": "ecg"}, {"type": "text", "text": QUESTION}]}]
        embeddings = prompt_embeddings(*loaded, fill_ecgs(prompt, [ecg], 250), 8)
        tokens = llm.generate(inputs_embeds=embeddings[None], max_new_tokens=8, do_sample=False)[0]
        assert tokenizer.decode(tokens, skip_special_tokens=True).strip() == local_answer(loaded, ecg)
