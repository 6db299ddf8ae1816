"""Evaluation of a model at an endpoint: against a server on loopback that looks at what it is sent, and at servers that fail."""

import base64
import hashlib
import io
import json
import re
import sys
import time

import numpy as np
import pandas as pd
import pytest
from local_server import Handler, serving
from PIL import Image

from elm_hf.cli import main
from elm_hf.comparison.compare import compare
from elm_hf.data.loading import load_elm_dataset
from elm_hf.ecg.plot import plot_ecg
from elm_hf.ecg.simulated_findings import draw_findings
from elm_hf.ecg.simulation import simulate_ecg
from elm_hf.modeling.ecg_measurements import measure_ecg
from elm_hf.other_models.candidates import names_a_candidate
from elm_hf.other_models.endpoint_asker import MAX_ATTEMPTS
from elm_hf.other_models.endpoint_evaluation import SYSTEM_PROMPT, evaluate_endpoint
from elm_hf.other_models.endpoint_inputs import EcgContents, measurements_text
from elm_hf.utils.chat_models import public_url
from elm_hf.utils.reports import read_report


KEY = "sk-very-secret"
NUMBER = 12  # of conversations
REFUSAL = f"I am sorry, but I cannot see an ECG with the key {KEY}."


class Server(Handler):
    """Replies with what `server.answer` says of the messages: words, a whole response, or a status with headers."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests.append((self.path, body, self.headers.get("Authorization")))
            said = self.server.answer(body["messages"])
        if said == "hang":
            return time.sleep(1)
        if isinstance(said, tuple):
            return self.reply(said[0], said[1].encode(), said[2], "text/html")
        if isinstance(said, str):
            message = {"role": "assistant", "content": said}
            said = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
            said |= {"usage": {"prompt_tokens": 1000, "completion_tokens": 3, "total_tokens": 1003}}
        return self.reply(200, json.dumps(said).encode())


@pytest.fixture(scope="module")
def server():
    with serving(Server) as started:
        yield started


@pytest.fixture(autouse=True)
def quiet_server(server, monkeypatch):
    server.requests, server.answer = [], lambda messages: "no"
    monkeypatch.setenv("ELM_HF_ENDPOINT_API_KEY", KEY)


def parts(messages: list[dict]) -> tuple[list[bytes], str]:
    """The pictures of the last message, and its question."""
    content = messages[-1]["content"]
    if isinstance(content, str):
        return [], content
    pictures = [item["image_url"]["url"] for item in content if item["type"] == "image_url"]
    assert all(url.startswith("data:image/png;base64,") for url in pictures)
    return [base64.b64decode(url.partition(",")[2]) for url in pictures], content[-1]["text"]


def pixels(picture) -> str:
    return hashlib.sha256(np.asarray(picture).tobytes()).hexdigest()


@pytest.fixture(scope="module")
def oracle(simulated_dataset):
    """A reader that knows the true answers to questions about the pictures of the test patients, and no other picture."""
    truth, drawn = {}, {}
    for row in load_elm_dataset(simulated_dataset, fold=1, split="test"):
        for name, ecg in zip(row["record_ids"], row["ecgs"]):
            if name not in drawn:
                drawn[name] = pixels(plot_ecg(ecg, row["sampling_rate"]))
        truth[tuple(drawn[name] for name in row["record_ids"]), row["question"]] = ", ".join(row["answer"])

    def answer(messages):
        pictures, question = parts(messages)
        if not pictures:
            return REFUSAL
        seen = tuple(pixels(Image.open(io.BytesIO(picture)).convert("RGB")) for picture in pictures)
        return truth.get((seen, question), "no").upper()

    return answer


@pytest.fixture
def no_report(monkeypatch):
    """The settings only, in the place of the report, which takes seconds."""
    write = "elm_hf.other_models.endpoint_evaluation.write_report"
    monkeypatch.setattr(
        write, lambda folder, predictions, run, *args, **kwargs: {"run": run, "predictions": predictions}
    )


def ask(server, dataset, output=None, **options):
    """Evaluates `reader`; parameters of the URL are as secret as the key."""
    settings = {"limit": 8, "conditions": ("ecg",), "quiet": True, "first_wait_s": 0.01, "model": "reader"}
    return evaluate_endpoint(f"{server.url}?secret=1", dataset, output=output, **settings | options)


@pytest.fixture(scope="module")
def evaluated(server, oracle, simulated_dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports") / "oracle"
    server.requests, server.answer = [], oracle
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ELM_HF_ENDPOINT_API_KEY", KEY)
        report = ask(server, simulated_dataset, folder, limit=NUMBER, conditions=None, price=(2.0, 10.0))
    return folder, report, list(server.requests)


def test_the_same_questions_are_asked_with_the_ecg_and_without(evaluated):
    """The oracle is right where it sees the true picture, and only by chance where it does not."""
    folder, report, _ = evaluated
    predictions = pd.read_parquet(folder / "predictions.parquet")
    scores = {name: metrics["exact_match"]["score"] for name, metrics in report["scores"]["all"]["conditions"].items()}
    truth = predictions[predictions["condition"] == "ecg"]["answer"].map(lambda items: list(items))
    assert len(truth) == NUMBER and scores["ecg"] == 1
    always_no = sum(items == ["no"] for items in truth) / NUMBER
    assert scores["zeros"] == scores["noise"] == pytest.approx(always_no)
    # Another patient's picture never has the same answer, where there is one with another.
    donors = report["run"]["donors"]
    assert scores["shuffled"] <= (NUMBER - donors["other_answer"]) / NUMBER
    assert scores["none"] == 0
    best = max(score for name, score in scores.items() if name not in ("ecg", "blind"))
    assert report["signal_reliance"]["short"]["score"] == pytest.approx(1 - best)


def test_what_is_sent(evaluated):
    _, report, requests = evaluated
    path, body, authorization = requests[0]
    assert path.startswith("/v1/chat/completions") and authorization == f"Bearer {KEY}"
    assert body["model"] == "reader" and body["temperature"] == 0 and body["max_tokens"] == 32
    assert {body["messages"][0]["role"] for _, body, _ in requests} == {"system"}
    assert {body["messages"][0]["content"] for _, body, _ in requests} == {SYSTEM_PROMPT}
    # Equal questions without the ECG, or about a flat one, are sent once.
    words = [json.dumps(body["messages"]) for _, body, _ in requests]
    assert len(set(words)) == len(words)
    numbers = [len(parts(body["messages"])[0]) for _, body, _ in requests]
    assert set(numbers) == {0, 1, 2}  # comparisons are about two


def test_costs_and_refusals(evaluated):
    folder, report, requests = evaluated
    used = report["run"]["endpoint"]
    assert used["requests"] == len(requests) and used["failed_requests"] == {} and used["without_usage"] == 0
    assert used["prompt_tokens"] == 1000 * len(requests) and used["completion_tokens"] == 3 * len(requests)
    assert used["cost"] == pytest.approx((2000 + 30) * len(requests) / 1e6)
    assert used["refusals"]["none"] == {"answers": NUMBER, "declared": 0, "no_candidate": NUMBER}
    assert used["refusals"]["ecg"]["no_candidate"] == 0
    text = (folder / "report.md").read_text()
    assert f"{len(requests)} requests" in text and f"| no ECG | {NUMBER} | 0 | {NUMBER} |" in text
    assert report["run"]["checkpoint"] == "reader, picture"
    assert "it is unknown" in text or "are unknown" in text  # the patients that it was trained on


def test_nothing_is_asked_twice_and_the_report_is_the_same(evaluated, server, simulated_dataset, monkeypatch, capsys):
    folder, report, requests = evaluated
    command = f"elm-hf evaluate-endpoint {server.url}?secret=1 --endpoint-model reader --dataset {simulated_dataset} --quiet "
    command += f"--output {folder} --limit {NUMBER} --max-new-tokens 32 --price 2,10"
    monkeypatch.setattr(sys, "argv", command.split())
    drawn = {name: report[name] for name in ("figures", "examples")}  # not drawn again, which takes seconds
    monkeypatch.setattr("elm_hf.evaluation.report._draw", lambda folder, report, *_: report.update(drawn))
    with pytest.raises(SystemExit) as exit:
        main()
    again = read_report(folder)
    assert exit.value.code == 0
    assert server.requests == []
    assert again | {"run": again["run"] | {"seconds": report["run"]["seconds"]}} == report
    assert f"{len(requests)} requests, {1000 * len(requests)} tokens read" in capsys.readouterr().out
    with pytest.raises(ValueError, match="holds another evaluation.*endpoint"):
        ask(server, simulated_dataset, folder, limit=NUMBER, conditions=None, ecg_input="measurements")


def test_measurements_are_sent_as_text(server, simulated_dataset, tmp_path, evaluated, no_report):
    server.answer = lambda messages: "yes" if "s, measured: " in messages[-1]["content"] else "no"
    ask(
        server,
        simulated_dataset,
        tmp_path / "text",
        limit=NUMBER,
        conditions=("ecg", "none"),
        ecg_input="measurements",
    )
    predictions = pd.read_parquet(tmp_path / "text" / "predictions.parquet").set_index("condition")["prediction"]
    assert set(predictions["none"]) == {"no"} and (predictions["ecg"] == "yes").all()
    comparison = compare(evaluated[0], tmp_path / "text")
    assert comparison["shared"] == NUMBER and comparison["scores"]["all, exact match"]["first"] == 1


def test_measurements_in_words():
    rng = np.random.default_rng(3)
    ecg = simulate_ecg(draw_findings(rng), rng)
    values = measure_ecg(ecg, 250)
    text = measurements_text(ecg, 250)
    assert f"heart rate {values['heart_rate']:.0f} beats per minute" in text
    assert f"PR interval {values['pr_ms']:.0f} ms" in text
    (v2,) = re.findall(r"^V2: (.*)$", text, re.MULTILINE)
    assert f"R {values['r_mv_V2']:.2f}" in v2 and f"ST {values['st_mv_V2']:.2f}" in v2
    assert "-0.00" not in text
    assert "nothing can be measured" in measurements_text(np.zeros((12, 2500), np.float32), 250)


def test_flat_leads_are_absent_unless_the_ecg_is_zeroed(ecgs):
    ecg = ecgs[0].copy()
    ecg[7] = 0
    item = {"type": "ecg", "ecg": ecg, "sampling_rate": 250, "lead_names": None, "keep_flat": False}
    sent = [
        EcgContents("picture").messages([{"role": "user", "content": [item | {"keep_flat": keep}]}], ("x",), None)
        for keep in (False, True)
    ]
    without = np.where(np.arange(12)[:, None] == 7, np.nan, ecg)
    for messages, expected in zip(sent, (without, ecg)):
        (picture,) = [base64.b64decode(item["image_url"]["url"].partition(",")[2]) for item in messages[0]["content"]]
        assert pixels(Image.open(io.BytesIO(picture))) == pixels(plot_ecg(expected.astype(np.float32), 250))


def test_failures_are_repeated_and_what_was_answered_is_kept(server, simulated_dataset, tmp_path, no_report):
    """The server is busy, then down; the same command asks for the rest."""
    script = [(429, "busy", {"Retry-After": "0.01"}), (503, "", {}), {"choices": []}, "YES", "YES"]
    down = [(500, "", {})] * 100
    server.answer = lambda messages: (script or down).pop(0)
    with pytest.raises(
        ValueError, match=r"6 of 8 requests were not answered in up to 5 attempts: HTTP 500 \(\d\); check"
    ):
        ask(server, simulated_dataset, tmp_path, num_workers=1, conditions=("ecg",))
    with (tmp_path / "requests.jsonl").open("a") as file:
        file.write('\n{"question_id": "half')  # as a killed run leaves it
    server.requests, server.answer = [], lambda messages: "no"
    report = ask(server, simulated_dataset, tmp_path, num_workers=3, conditions=("ecg",))
    assert len(server.requests) == 6 and sorted(report["predictions"]["prediction"]) == ["YES"] * 2 + ["no"] * 6
    used = report["run"]["endpoint"]
    assert used["failed_requests"]["HTTP 429"] == used["failed_requests"]["HTTP 503"] == 1
    assert used["failed_requests"]["no chat completion"] == 1 and used["failed_requests"]["HTTP 500"] >= MAX_ATTEMPTS
    assert used["prompt_tokens"] == 8000
    assert used["requests"] == 8 + sum(used["failed_requests"].values())


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ((200, "<html>Log in</html>", {}), r"not JSON \(8\)"),
        ({"choices": []}, r"no chat completion \(8\)"),
        ((500, "oh", {}), r"HTTP 500 \(8\)"),
        ("hang", r"timeout \(\d\)"),
    ],
)
def test_a_bad_server_is_one_line(server, simulated_dataset, reply, said):
    server.answer = lambda messages: reply
    with pytest.raises(ValueError, match=rf"{server.url}: \d+ of 8 requests were not answered.*{said}; check the URL"):
        ask(server, simulated_dataset, timeout_s=0.1)


def test_a_rejection_ends_it_at_once(server, simulated_dataset, tmp_path, monkeypatch, capsys):
    server.answer = lambda messages: (401, f"Incorrect API key: {KEY}", {})
    command = f"elm-hf evaluate-endpoint {server.url} --dataset {simulated_dataset} --limit 8 --workers 1 --quiet"
    monkeypatch.setattr(sys, "argv", command.split())
    with pytest.raises(SystemExit) as exit:
        main()
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert exit.value.code == 1 and KEY not in line
    assert (
        "the endpoint at" in line
        and "HTTP 401: Incorrect API key: (API key)" in line
        and "ELM_HF_ENDPOINT_API_KEY" in line
    )
    assert len(server.requests) <= 2


def test_the_key_is_written_nowhere(evaluated):
    folder, _, requests = evaluated
    assert {authorization for _, _, authorization in requests} == {f"Bearer {KEY}"}
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 4
    for secret in (KEY, "secret=1"):
        assert not [path for path in files if secret.encode() in path.read_bytes()]
    predictions = pd.read_parquet(folder / "predictions.parquet")
    assert set(predictions[predictions["condition"] == "none"]["prediction"]) == {REFUSAL.replace(KEY, "(API key)")}


def test_endpoints_of_models_that_reason(server, simulated_dataset, no_report):
    """They want `max_completion_tokens` and no temperature, declare refusals, and may be cut before they answer."""
    message = {"role": "assistant", "content": None, "refusal": "I cannot interpret ECGs."}
    cut = {"role": "assistant", "content": ""}
    replies = [
        {"choices": [{"message": message, "finish_reason": "stop"}]},
        {"choices": [{"message": cut, "finish_reason": "length"}]},
    ]

    def answer(messages):
        body = server.requests[-1][1]
        if "max_tokens" in body:
            return 400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.", {}
        if "temperature" in body:
            return 400, "Unsupported value: 'temperature' does not support 0.", {}
        return replies.pop() if replies else "yes"

    server.answer = answer
    report = ask(server, simulated_dataset, max_new_tokens=500, num_workers=1)
    assert {body.get("max_completion_tokens") for _, body, _ in server.requests[2:]} == {500}
    used = report["run"]["endpoint"]
    assert used["refusals"]["ecg"]["declared"] == 1 and used["greedy"] is False and used["without_usage"] == 2
    assert sorted(report["predictions"]["prediction"]) == ["", ""] + ["yes"] * 6
    assert report["predictions"]["finished"].tolist().count(False) == 1


def test_possible_answers_are_those_of_training_questions(server, simulated_dataset, no_report):
    ask(server, simulated_dataset, answer_options=True, ecg_input="measurements", limit=30)
    sent = [body["messages"][-1]["content"].split("\n")[-2:] for _, body, _ in server.requests]
    known = load_elm_dataset(simulated_dataset, fold=1, split="train").with_format(None).to_pandas()
    asked = load_elm_dataset(simulated_dataset, fold=1, split="test").with_format(None).to_pandas()
    of_question = asked.drop_duplicates("question").set_index("question")
    for question, options in sent:
        row = of_question.loc[question]
        items = known[(known["template_id"] == row["template_id"]) & (known["question_type"] == row["question_type"])]
        items = items if len(items) else known[known["question_type"] == row["question_type"]]
        assert options == f"Possible answers: {'; '.join(sorted(set(items['answer'].explode())))}"


def test_a_url_without_its_secrets():
    assert public_url("https://user:password@host:8000/v1?api-key=1#x") == "https://host:8000/v1"


@pytest.mark.parametrize(
    ("reply", "is_one"),
    [
        ("Yes.", True),
        ("The answer is yes", True),
        ("No, it does not.", True),
        ("I see sinus  rhythm and more", True),
        ("There is no picture, so I cannot tell", False),
        ("None of this is visible", True),
        ("Consult a cardiologist", False),
        ("supersinus rhythmic", False),
        ("<think>sinus rhythm?</think>I cannot say", False),
    ],
)
def test_what_is_a_candidate(reply, is_one):
    assert names_a_candidate(reply, {"yes", "no", "none", "sinus rhythm"}) is is_one
