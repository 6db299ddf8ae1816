"""Translation of reports: language detection, an endpoint on loopback that also fails, and local models."""

import csv
import json
from pathlib import Path

import pytest
import torch
from local_server import Handler, serving
from tiny_models import tiny_llm, tiny_tokenizer
from transformers import T5Config, T5ForConditionalGeneration
from typer.testing import CliRunner

from elm_hf.cli import app
from elm_hf.descriptions.translate import MAX_ATTEMPTS, translate_reports
from elm_hf.prepare.dataset import prepare_dataset
from elm_hf.utils.languages import language_of
from elm_hf.utils.translations import COLUMNS, read_translations


GERMAN = "sinustachykardie lagetyp normal sonst normales ekg"
ENGLISH_OF = {GERMAN: "Sinus tachycardia, normal axis, otherwise normal ECG."}


class Endpoint(Handler):
    """A chat-completions endpoint. Its answers are the steps of the report's script, then the report in capitals."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        report = body["messages"][1]["content"]
        with self.server.lock:
            self.server.requests.append(body)
            script = self.server.scripts.get(report, [])
            step = script.pop(0) if script else report.upper()
        status = step if isinstance(step, int) else 200
        message = {"role": "assistant", "content": step if status == 200 else ""}
        answer = {"id": "1", "object": "chat.completion", "created": 0, "model": "capitals"}
        answer |= {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
        answer |= {"usage": {"prompt_tokens": 90, "completion_tokens": 9, "total_tokens": 99}}
        payload = json.dumps(answer if status == 200 else {"error": {"message": "the server says no"}}).encode()
        self.reply(status, payload)


@pytest.fixture
def endpoint():
    with serving(Endpoint) as server:
        server.scripts = {}
        yield server


@pytest.fixture(scope="module")
def ptb_xl(shared_data, tmp_path_factory) -> Path:
    """Seven real records; two of them have German reports."""
    folder = tmp_path_factory.mktemp("ptb_xl") / "built"
    prepare_dataset("ptb_xl", folder, source=shared_data / "ptb_xl", num_folds=0, max_skipped=0.5)
    return folder


def translate(ptb_xl: Path, output: Path, endpoint, **options) -> dict:
    return translate_reports(ptb_xl, output, endpoint.url, first_wait_s=0.01, quiet=True, **options)


@pytest.mark.parametrize(
    "language, report",
    [
        ("de", "sinusrhythmus lagetyp normal normales ekg"),
        ("de", GERMAN),
        ("de", "vorhofflimmern überdrehter linkstyp linksschenkelblock"),
        ("sv", "sinusrytm. ospecifik st-t förändring"),
        ("sv", "förmaksflimmer, vänstergrenblock"),
        ("en", "sinus rhythm. normal ecg."),
        ("en", "Sinus bradycardia. Otherwise normal ECG. The bradycardia may be physiological. Edit: NORM 80"),
        ("en", "premature atrial contraction(s). left axis deviation."),
        (None, "4.46"),
    ],
)
def test_the_language_of_a_report_is_detected(language, report):
    assert language_of(report) == language


def test_reports_that_are_not_english_are_translated_once(ptb_xl, endpoint, tmp_path):
    output = tmp_path / "translations.csv"
    report = translate(ptb_xl, output, endpoint, translator_model="capitals")
    assert report["translated"] == 2 and report["kept"] == 0 and report["languages"]["de"] == 2
    with output.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == COLUMNS
    assert {(row["report"], row["translation"]) for row in rows} == {
        (row["report"], row["report"].upper()) for row in rows
    }
    assert {(row["language"], row["translator"]) for row in rows} == {("de", f"{endpoint.url} capitals")}
    system = endpoint.requests[0]["messages"][0]["content"]
    assert "The report is in German." in system and endpoint.requests[0]["temperature"] == 0
    assert translate(ptb_xl, output, endpoint)["kept"] == 2
    assert len(endpoint.requests) == 2


def test_translations_by_hand_are_kept(ptb_xl, endpoint, tmp_path):
    output = tmp_path / "translations.csv"
    with output.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, (GERMAN, "de", ENGLISH_OF[GERMAN], "a cardiologist")])
    assert translate(ptb_xl, output, endpoint)["translated"] == 1
    found = read_translations(output)
    assert found[GERMAN]["translation"] == ENGLISH_OF[GERMAN] and found[GERMAN]["translator"] == "a cardiologist"
    assert len(found) == 2


def test_failures_are_counted_and_retried_by_the_next_run(ptb_xl, endpoint, tmp_path):
    output = tmp_path / "translations.csv"
    endpoint.scripts = {GERMAN: [500] * MAX_ATTEMPTS}
    report = translate(ptb_xl, output, endpoint)
    assert report["failures"] == {"HTTP 500": 1} and report["translated"] == 1
    assert GERMAN not in read_translations(output)
    endpoint.scripts = {GERMAN: [429, 503]}
    assert translate(ptb_xl, output, endpoint)["translated"] == 1
    assert read_translations(output)[GERMAN]["translation"] == GERMAN.upper()


def test_an_empty_translation_is_a_failure(ptb_xl, endpoint, tmp_path):
    endpoint.scripts = {GERMAN: [" \n "]}
    assert translate(ptb_xl, tmp_path / "out.csv", endpoint)["failures"] == {"empty translation": 1}


def test_the_translations_of_a_killed_run_are_kept(ptb_xl, endpoint, tmp_path):
    output = tmp_path / "translations.csv"
    row = dict(zip(COLUMNS, (GERMAN, "de", "as before", "x")))
    Path(f"{output}.unfinished").write_text(json.dumps(row) + '\n{"report": "half')
    report = translate(ptb_xl, output, endpoint)
    assert (report["translated"], report["kept"]) == (1, 1)
    assert read_translations(output)[GERMAN]["translation"] == "as before"
    assert not Path(f"{output}.unfinished").exists()


def test_an_endpoint_that_rejects_requests_ends_the_run_and_nothing_is_lost(ptb_xl, endpoint, tmp_path):
    output = tmp_path / "translations.csv"
    endpoint.scripts = {GERMAN: [401]}
    with pytest.raises(
        ValueError, match=r"the translator at .* rejects the request \(HTTP 401.*ELM_HF_TRANSLATOR_API_KEY"
    ):
        translate(ptb_xl, output, endpoint, num_workers=1)
    assert translate(ptb_xl, output, endpoint)["failures"] == {}
    assert len(read_translations(output)) == 2


def test_a_local_chat_model(ptb_xl, tmp_path, monkeypatch):
    monkeypatch.setattr("elm_hf.descriptions.translate.MAX_TOKENS", 8)
    model = tiny_llm("qwen2")
    model.config.max_position_embeddings = 4096
    model.save_pretrained(tmp_path / "chat")
    tiny_tokenizer("qwen2").save_pretrained(tmp_path / "chat")
    report = translate_reports(ptb_xl, tmp_path / "out.csv", str(tmp_path / "chat"), quiet=True)
    # a model with random weights does not end its answer
    assert report["failures"] == {"translation of more than 8 tokens": 2}


def test_a_local_translation_model(ptb_xl, tmp_path):
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer("opt")
    tokenizer.pad_token = tokenizer.eos_token
    size = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
    model = T5ForConditionalGeneration(T5Config(vocab_size=512, pad_token_id=0, eos_token_id=1, **size))
    model.save_pretrained(tmp_path / "seq2seq")
    tokenizer.save_pretrained(tmp_path / "seq2seq")
    output = tmp_path / "out.csv"
    report = translate_reports(ptb_xl, output, str(tmp_path / "seq2seq"), quiet=True)
    inputs = tokenizer([GERMAN], return_tensors="pt")
    said = tokenizer.decode(model.eval().generate(**inputs, max_new_tokens=256)[0], skip_special_tokens=True).strip()
    assert report["translated"] + sum(report["failures"].values()) == 2
    assert read_translations(output).get(GERMAN, {"translation": ""})["translation"] == said


def test_the_command(ptb_xl, endpoint, tmp_path):
    output = tmp_path / "out.csv"
    command = ["translate", str(ptb_xl), "--output", str(output), "--translator", endpoint.url, "--quiet"]
    ran = CliRunner().invoke(app, command)
    assert ran.exit_code == 0 and "2 translated now" in ran.stdout
    wrong = CliRunner().invoke(app, [*command[:3], str(tmp_path / "out.txt"), *command[4:]])
    assert "choose a name that ends in .csv" in str(wrong.exception)
    wrong = CliRunner().invoke(app, ["describe", str(ptb_xl), "--output", str(tmp_path / "x"), "--reports", "english"])
    assert "choose a name that ends in .parquet" in str(wrong.exception)
