"""The web demo: what its page does when a visitor acts, ratings that DPO learns from, its Space, and a real browser."""

import io
import json
import zipfile
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
from hub_server import HubServer

from elm_hf.checkpoints.load import load_checkpoint
from elm_hf.data.messages import fill_ecgs
from elm_hf.data.preferences import read_preferences
from elm_hf.inference.generation import answer
from elm_hf.prepare.dataset import prepare_dataset
from elm_hf.serving.demo import Events
from elm_hf.serving.feedback import Conversation, Turn, export_feedback
from elm_hf.serving.session import DemoModel, Session, simulated_examples
from elm_hf.training.dpo import main as train_dpo


# `importorskip` would import it in every process of the tests, for seconds.
pytestmark = pytest.mark.skipif(find_spec("gradio") is None, reason="needs pip install 'elm-hf[demo]'")

QUESTIONS = ("What is the rhythm?", "And the heart rate?")
PERSON = ("unknown", None)


@pytest.fixture(scope="module")
def events(speaking_elm) -> Events:
    model = DemoModel(*load_checkpoint(speaking_elm, device="cpu"), max_new_tokens=6)
    return Events(model, simulated_examples(model.seconds))


@pytest.fixture
def opened(events) -> Session:
    session = Session()
    events.open_example(session, next(iter(events.examples)), *PERSON)
    return session


def ask(events: Events, session: Session, question: str) -> tuple:
    *_, last = events.ask(session, question)
    return last


def test_answers_with_and_without_the_ecg_are_the_models_in_every_turn(events, opened):
    """Each side reads its own answers, so that nothing of the ECG reaches the side without it."""
    for question in QUESTIONS:
        said, blind, status, _ = ask(events, opened, question)
    assert status == ""
    for messages, ecgs in ((said, [opened.ecg.ecg]), (blind, [])):
        messages = [message | {"content": message["content"].split("\n\n*")[0]} for message in messages]
        prompt = [{"role": "user", "content": [{"type": "text", "text": QUESTIONS[0]}]}, *messages[1:3]]
        if ecgs:
            prompt[0]["content"].insert(0, {"type": "ecg"})
        for number, asked in ((1, prompt[:1]), (3, prompt)):
            expected = answer(events.model.model, events.model.processor, [fill_ecgs(asked, ecgs, 250)], 6)
            assert [messages[number]["content"]] == [expected[0] or "…"]
    assert said != blind
    for messages, chat in ((said, opened.chat), (blind, opened.blind)):
        assert messages[3]["content"].endswith(f"\n\n*{chat.confidence().words()}*")
        assert 0 < chat.confidence().probability <= 1
    grown = [turn[0][-1]["content"] for turn in events.ask(opened, "Is it normal?")]
    assert len(set(grown)) > 2 and grown[-1].startswith(grown[0].strip("…"))
    events.start_again(opened)
    assert opened.turns == [] and ask(events, opened, QUESTIONS[0])[0][:2] == said[:2]


def test_the_page_shows_paper_measurements_and_what_is_doubtful(events, tmp_path):
    ecg = events.examples["simulated: sinus tachycardia"].ecg.copy()
    ecg[6] = 0
    np.save(tmp_path / "mine.npy", np.concatenate([ecg, ecg], axis=1))
    session = Session()
    _, paper, measured, about, *_ = events.open_files(session, [tmp_path / "mine.npy"], 250, "mV", *PERSON)[:-1]
    assert paper.startswith('<div class="ecg-frame"><img alt="ECG mine.npy on') and "data:image/png;base64," in paper
    assert "| heart rate | 1" in measured and "tachycardia" in measured
    assert "doubtful signal: flat: V1" in about and "missing leads: V1" in about
    assert "the model reads 2 s of 4.0 s" in about
    assert not (tmp_path / "mine.npy").exists()  # nothing of an upload is kept


@pytest.mark.parametrize(
    ("names", "content", "words"),
    [
        (["hello.txt"], b"hello", "hello.txt: not an ECG file"),
        (["empty.npy"], b"", "empty.npy"),
        (["ecg.zip"], b"PK\x05\x06" + 18 * b"\0", "ecg.zip: not an ECG file"),
        (["a.npy", "b.npy"], b"x", "several files are one ECG only if"),
        (["r.hea"], b"r 1 250 1000\n/etc/passwd 16 1000 16 0 0 0 0 I\n", "r.hea"),
        (["<img src=x>.npy"], b"x", "and upload the file again"),
        ([], b"", "no file"),
    ],
)
def test_a_bad_upload_is_one_line_and_closes_the_ecg_before_it(events, opened, tmp_path, names, content, words):
    for name in names:
        (tmp_path / name).write_bytes(content)
    _, paper, _, about, *_ = events.open_files(opened, [tmp_path / name for name in names], None, "mV", *PERSON)
    assert paper == "" and words in about.replace("\\", "") and str(tmp_path) not in about and "\n" not in about
    assert "<img" not in about.replace("\\<", "")
    assert "no ECG is open" in ask(events, opened, QUESTIONS[0])[2]


def test_three_leads_are_read_and_the_others_are_missing(events, tmp_path):
    ecg = next(iter(events.examples.values())).ecg
    (tmp_path / "three.csv").write_text("\n".join(["I,II,V1", *(",".join(map(str, row)) for row in ecg[[0, 1, 6]].T)]))
    session = Session()
    _, paper, _, about, *_ = events.open_files(session, [tmp_path / "three.csv"], 250, "mV", *PERSON)
    assert paper and "missing leads: III" in about and "V6" in about
    assert ask(events, session, QUESTIONS[0])[2] == ""


def test_what_speaks_for_an_answer_is_drawn(events, opened):
    assert "there is no answer yet" in events.explain(opened)[1]
    opened.turns.append(Turn(QUESTIONS[0], "sinus rhythm"))
    opened.chat._remember(opened.chat._asked(QUESTIONS[0]), "sinus rhythm")
    picture, status = events.explain(opened)
    assert status == "" and picture.startswith('<div class="ecg-frame"><img')


def liked(place: int, how) -> SimpleNamespace:
    return SimpleNamespace(index=place, liked=how)


def test_ratings_become_pairs_that_dpo_learns_from(events, opened, tiny_elm, tmp_path):
    """The exported folder goes through `prepare ecgfolder` and `train dpo` as its README says."""
    for question in QUESTIONS:
        ask(events, opened, question)
    assert "nothing is rated" in events.export(opened)[1]
    events.rate(opened, liked(1, False))
    events.rate_blind(opened, liked(3, "Dislike"))
    events.rate(opened, liked(3, "Like"))
    opened.turns[0].better = "atrial fibrillation"
    opened.turns[1].answer, opened.turns[1].blind = "80 per minute", "60 per minute"
    path, _ = events.export(opened)
    zipfile.ZipFile(path).extractall(tmp_path / "ratings")
    pairs = read_preferences(tmp_path / "ratings" / "preferences.jsonl")
    assert [(pair.turn, pair.chosen) for pair in pairs] == [(0, "atrial fibrillation"), (1, "80 per minute")]
    assert [pair.rejected for pair in pairs] == [opened.turns[0].answer or "(empty)", "60 per minute"]
    assert "--seconds 2 " in (tmp_path / "ratings" / "README.txt").read_text()

    prepare_dataset("ecgfolder", tmp_path / "feedback", source=tmp_path / "ratings", seconds=2, num_folds=0)
    train_dpo(
        ["--model_name_or_path", str(tiny_elm), "--dataset", str(tmp_path / "feedback"), "--fold", "official"]
        + ["--preferences", str(tmp_path / "ratings" / "preferences.jsonl"), "--output_dir", str(tmp_path / "out")]
        + ["--max_steps", "1", "--use_cpu", "--report_to", "none", "--per_device_train_batch_size", "2"]
    )
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_only_ratings_that_say_which_answer_is_better_make_a_pair(opened):
    assert Turn("q", "a", "b", good=True).pair() is None
    assert Turn("q", "a", "b", good=True, blind_good=True).pair() is None
    assert Turn("q", "a", "b", good=False, blind_good=True).pair() == ("b", "a")
    assert Turn("q", "a", "a", good=True, blind_good=False).pair() is None
    assert Turn("q", "", "b", better="c").pair() == ("c", "(empty)")
    short = Conversation(opened.window, [Turn("q", "a", "b", good=False, better="c")])
    with zipfile.ZipFile(io.BytesIO(export_feedback([short], 10))) as archive:  # too short for a record of 10 s
        assert archive.read("preferences.jsonl") == b""
        assert json.loads(archive.read("ratings.jsonl"))["better"] == "c"


def test_the_space_is_published_and_its_program_starts_the_demo(tiny_elm, tmp_path, monkeypatch):
    example = tmp_path / "examples" / "ecg.npy"
    example.parent.mkdir()
    np.save(example, np.zeros((12, 500), np.float32))
    options = ["--checkpoint", "user/elm", "--examples", str(example.parent), "--question", "Is it 'normal'?"]
    program = (
        "import sys\nfrom elm_hf.cli import main\nsys.argv = ['elm-hf', 'publish-demo', 'user/ask', *{!r}]\nmain()\n"
    )
    with HubServer() as hub:
        listed = hub.run_client(program.format([*options, "--dry-run"]))
        assert (
            "nothing was sent" in listed and "examples/ecg.npy" in listed and ("spaces", "user/ask") not in hub.repos
        )
        assert "spaces/user/ask" in hub.run_client(program.format(options))
        code = hub.run_client(
            "from huggingface_hub import snapshot_download as get\n"
            "import pathlib, json\n"
            "folder = pathlib.Path(get('user/ask', repo_type='space'))\n"
            "print(json.dumps({p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob('*') "
            "if p.suffix in ('.md', '.py', '.txt')}))"
        )
    files = json.loads(code.splitlines()[-1])
    assert "sdk: gradio" in files["README.md"] and "- user/elm" in files["README.md"]
    assert files["requirements.txt"].startswith("elm-hf[demo,formats]==")
    called = {}
    monkeypatch.setattr(
        "elm_hf.serving.demo.launch_demo", lambda *args, **options: called.update(args=args, **options)
    )
    exec(compile(files["app.py"], "app.py", "exec"), {})
    assert called == {"args": ("user/elm",), "questions": ["Is it 'normal'?"], "examples": "examples"}


def test_a_space_needs_a_model_on_the_hub(tiny_elm, tmp_path):
    from elm_hf.serving.space import publish_demo

    with pytest.raises(ValueError, match="a folder, which a Space cannot load"):
        publish_demo(str(tiny_elm), "user/ask", dry_run=True)
    with pytest.raises(FileNotFoundError, match="contains no files"):
        publish_demo("user/elm", "user/ask", examples=tmp_path, dry_run=True)
