"""Asking about files: what paths stand for, many files with a table of answers, several ECGs together, and chats."""

import csv
import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from test_ecgfolder import ecg, write_csv, write_wfdb
from transformers.utils import logging

from elm_hf import cli
from elm_hf.checkpoints.load import load_checkpoint
from elm_hf.data.ecg_table import EcgTable
from elm_hf.data.loading import load_elm_dataset
from elm_hf.data.messages import message_text
from elm_hf.data.tables import load_records
from elm_hf.ecg.find_files import EcgFile, find_ecg_files, stands_for_several
from elm_hf.inference import ask as asking
from elm_hf.inference.ask import AskedEcg, ask, ecg_from_file, questions_about
from elm_hf.inference.ask_files import ask_files
from elm_hf.inference.chat import Chat


RATE = 250


@pytest.fixture
def folder(tmp_path) -> Path:
    """A WFDB record, an array in a sub-folder, a table, and files that are no ECG."""
    root = tmp_path / "ecgs"
    (root / "sub").mkdir(parents=True)
    write_wfdb(root, "a", ecg(0))
    np.save(root / "sub" / "b.npy", ecg(1))
    write_csv(root / "c.csv", ecg(2))
    (root / "notes.txt").write_text("Dear colleague")
    (root / ".hidden.npy").write_bytes(b"")
    return root


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """The command in this process, in the folder of the ECGs: exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", os.environ.copy())

    def run(*arguments) -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["elm-hf", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, *capsys.readouterr()

    return run


@pytest.fixture(scope="module", autouse=True)
def as_without_terminal():
    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()


@pytest.fixture(scope="module")
def loaded(tiny_elm):
    return load_checkpoint(tiny_elm, device="cpu")


def rows_of(path: Path) -> list[dict]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# what a path stands for


def test_folders_patterns_and_files(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)

    def places(*paths) -> list[str]:
        return [file.place for group in find_ecg_files(paths) for file in group]

    assert places("ecgs") == ["a.hea", "c.csv", "sub/b.npy"]
    assert places("ecgs/*") == ["a.hea", "c.csv"]  # of a record's files, one
    assert places("ecgs/*.dat") == ["a.hea"]
    assert places("ecgs/**/*.npy") == ["b.npy"]
    assert places("ecgs/a", "ecgs/sub") == ["a", "b.npy"]
    assert [stands_for_several(path) for path in ("ecgs", "ecgs/*", "ecgs/a", "ecgs/c.csv", "none.xml")] == [
        True,
        True,
        False,
        False,
        False,
    ]
    for nothing in ("ecgs/*.xml", "empty"):
        Path("empty").mkdir(exist_ok=True)
        with pytest.raises(FileNotFoundError, match="contains no files with an ECG"):
            find_ecg_files([nothing])
    Path("ecgs/[1].npy").write_bytes(b"")  # the name of a file, not a pattern
    assert places("ecgs/[1].npy") == ["[1].npy"] and not stands_for_several("ecgs/[1].npy")


TABLES = {
    "list.csv": 'File Name,Sampling Rate,units,answer\na.dat,,,yes\nsub/b.npy,250,uV,no\n"[""c.csv"", ""a""]",250,,\n',
    "list.tsv": 'filename\tfs\tunit\na.hea\t\t\nsub/b.npy\t250\tuV\n"[""c.csv"", ""a""]"\t250\t\n',
    "list.jsonl": '{"file_name": "a"}\n{"file_name": "sub/b.npy", "sampling_rate": 250, "units": "uV"}\n'
    '{"file_name": ["c.csv", "a"], "sampling_rate": 250}\n',
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_of_paths(name, folder):
    (folder / name).write_text(TABLES[name])
    assert stands_for_several(folder / name)
    groups = find_ecg_files([folder / name], sampling_rate=500)
    assert [[file.path.relative_to(folder).as_posix() for file in group] for group in groups] == [
        ["a.hea"],
        ["sub/b.npy"],
        ["c.csv", "a.hea"],
    ]
    assert [[(file.sampling_rate, file.units) for file in group] for group in groups] == [
        [(500, None)],
        [(250, "uV")],
        [(250, None), (250, None)],
    ]


def test_the_metadata_of_a_folder_say_how_to_read_its_files(folder):
    (folder / "metadata.csv").write_text("file_name,patient_id,sampling_rate,leads\nsub/b.npy,P1,125,\nc.csv,P2,,\n")
    found = {file.place: file.sampling_rate for group in find_ecg_files([folder], 250) for file in group}
    assert found == {"a.hea": 250, "c.csv": 250, "sub/b.npy": 125}


@pytest.mark.parametrize(
    "row, message",
    [
        ('{"file_name": 3}', "line 1: file_name 3, expected the name of a file"),
        ('{"file_name": "a", "sampling_rate": "fast"}', "line 1: sampling_rate 'fast', expected a number"),
        ("{", "line 1: cannot be read as JSON"),
    ],
)
def test_a_bad_row_of_a_table_is_named(row, message, folder):
    (folder / "list.jsonl").write_text(row)
    with pytest.raises(ValueError, match=f"list.jsonl: {message}"):
        find_ecg_files([folder / "list.jsonl"])


# many files


def test_many_files_give_a_table_which_is_resumed(folder, tiny_elm, run, loaded, monkeypatch):
    (folder / "broken.hea").write_text("header xx")
    questions = ["What is the rhythm?", "Is it fast?"]
    arguments = ["ask", tiny_elm, "--ecg", folder, "--sampling-rate", RATE, "--max-new-tokens", 3, "--batch-size", 4]
    arguments += [word for question in questions for word in ("--question", question)]
    asked, answer = [], asking.answer

    def interrupted(model, processor, conversations, *limits):
        if asked:
            raise KeyboardInterrupt
        asked.append(len(conversations))
        return answer(model, processor, conversations, *limits)

    monkeypatch.setattr(asking, "answer", interrupted)
    assert run(*arguments, "--output", "answers.csv")[0] != 0
    assert asked == [4] and not Path("answers.csv").exists()
    unfinished = Path("answers.csv.unfinished")
    unfinished.write_bytes(unfinished.read_bytes() + b'{"key": "cut sho')

    monkeypatch.setattr(asking, "answer", lambda *given: asked.append(len(given[2])) or answer(*given))
    other = [word if word != "Is it fast?" else "Is it slow?" for word in arguments]
    code, _, said = run(*other, "--output", "answers.csv")
    assert code == 1 and "answers.csv.unfinished: unfinished answers to other questions" in said
    asked.clear()
    code, out, said = run(*arguments, "--output", "answers.csv")
    assert code == 0 and asked == [2]  # the third file alone
    assert out == "3 of 4 files answered in answers.csv\n" and not unfinished.exists()
    assert said.startswith("2 of 4 files were answered before\nleft out: ") and "broken.hea" in said

    rows = rows_of(Path("answers.csv"))
    files = [folder / "a.hea", folder / "c.csv", folder / "sub" / "b.npy"]
    assert [row["file"] for row in rows] == [str(file) for file in files for _ in questions]
    model, processor = loaded
    for number, file in enumerate(files):  # each asked about alone gives the same answers
        alone = questions_about([ecg_from_file(EcgFile(file, "", "", RATE))], questions)
        expected = [(one["question"], one["answer"]) for one in ask(model, processor, [alone], 3)[0]]
        assert [(row["question"], row["answer"]) for row in rows[2 * number : 2 * number + 2]] == expected
    code, _, said = run(*arguments, "--output", "answers.csv")
    assert code == 1 and "answers.csv exists; delete it, or choose another --output" in said


def test_an_ecg_that_does_not_fit_the_model_is_found_in_its_batch(folder, loaded):
    np.save(folder / "short.npy", ecg(3)[:, :100])
    groups = find_ecg_files([folder], RATE)
    found = {one.files[0].place: one for one in ask_files(*loaded, groups, ["?"], max_new_tokens=1)}
    assert {place: one.error is None for place, one in found.items()} == {
        "a.hea": True,
        "c.csv": True,
        "sub/b.npy": True,
        "short.npy": False,
    }
    assert found["short.npy"].error == "short.npy: ECG 1 of 1: the ECG is 0.4 s long, the model reads 2 s."


# several ECGs in one question


def test_several_ecgs_are_asked_about_together(folder, tiny_elm, run, monkeypatch):
    asked = []
    monkeypatch.setattr(asking, "answer", lambda *given: asked.extend(given[2]) or ["ST elevation"])
    both = ["ask", tiny_elm, "--ecg", folder / "a", "--ecg", folder / "c.csv", "--sampling-rate", RATE]
    code, out, _ = run(*both, "--question", "What has changed?", "--plot", "both.png")
    assert code == 0 and out.startswith("ECG a, c.csv, answered by ")
    ((message,),) = asked
    first, second, text = message["content"]
    assert first["ecg"] == str(folder / "a") and text["text"] == "What has changed?"
    np.testing.assert_allclose(second["ecg"], ecg(2), atol=1e-5)
    assert (first["sampling_rate"], second["sampling_rate"]) == (RATE, RATE)
    with Image.open("both.png") as drawn:
        assert drawn.height > 1.5 * drawn.width  # two sheets of paper, one below the other
    assert run(*both, "--question", "?", "--output", "both.parquet")[0] == 0
    (row,) = pq.read_table("both.parquet").to_pylist()
    assert json.loads(row["file"]) == [str(folder / "a"), str(folder / "c.csv")] and row["answer"] == "ST elevation"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--ecg", "ecgs", "--ecg", "ecgs/a"], "ecgs: stands for files that are asked about one by one"),
        (["--ecg", "ecgs/a", "--ecg", "ecgs/c.csv", "ecgs/sub"], "ecgs/sub: a file without --ecg; repeat --ecg"),
        (["--ecg", "ecgs", "--plot", "a.png"], "--plot draws the ECGs of one question"),
        (["--ecg", "ecgs", "--output", "answers.xlsx"], "answers.xlsx: the table is CSV or Parquet"),
        (["--ecg", "ecgs/*.xml"], "ecgs/*.xml: contains no files with an ECG"),
        (["--ecg", "ecgs/sub", "--strict", "ecgs/c.csv"], "none of 2 files can be asked about"),
    ],
)
def test_paths_that_cannot_be_asked_about(arguments, message, folder, tiny_elm, run):
    code, out, said = run("ask", tiny_elm, *arguments, "--question", "?")
    assert (code, out) == (1, "") and message in said.splitlines()[-1]


def test_a_question_of_ones_own_about_a_dataset(tiny_elm, simulated_dataset, run, loaded):
    code, out, _ = run(
        "ask", tiny_elm, "--dataset", simulated_dataset, "--question", "Is it fast?", "--max-new-tokens", 3
    )
    records = load_records(simulated_dataset)
    row = records["record_id"][:].index(out.split()[1].rstrip(","))
    tested = {patient for ids in load_elm_dataset(simulated_dataset, 1, "test")["patient_ids"] for patient in ids}
    assert code == 0 and records["patient_id"][row] in tested
    ecg = EcgTable(records)[row]
    expected = ask(*loaded, [questions_about([AskedEcg("", ecg, 250)], ["Is it fast?"])], 3)[0][0]["answer"]
    assert out.splitlines()[1:] == ["Is it fast?", f"    {expected or '(empty)'}"]


def test_how_much_of_a_longer_ecg_is_read_is_said(folder, tiny_elm, run):
    long = np.tile(ecg(1), 3)
    np.save(folder / "long.npy", long)
    given = ["ask", tiny_elm, "--ecg", folder / "long.npy", "--sampling-rate", RATE, "--question", "?"]
    code, out, _ = run(*given, "--max-new-tokens", 2)
    said = f"long.npy: the model reads 2 s of {long.shape[1] / RATE:.1f} s"
    assert code == 0 and said in out.splitlines()
    assert run(*given, "--max-new-tokens", 2, "--output", "long.csv")[0] == 0
    (row,) = rows_of(Path("long.csv"))
    assert said in row["problems"].split(" | ")


def test_an_empty_question_is_refused(folder, tiny_elm, run):
    code, out, said = run("ask", tiny_elm, "--ecg", folder / "a", "--question", " ")
    assert (code, out) == (1, "") and said.splitlines()[-1].endswith("a question is empty")


# chats


def test_a_chat_keeps_the_conversation(folder, loaded, monkeypatch):
    seen = []
    monkeypatch.setattr(asking, "answer", lambda *given: seen.extend(given[2]) or [f"answer {len(seen)}"])
    chat = Chat(*loaded, [ecg_from_file(EcgFile(folder / "a", "", ""))])
    assert [chat.ask("first"), chat.ask("second")] == ["answer 1", "answer 2"]
    assert [message_text(message) for message in seen[1]] == ["first", "answer 1", "second"]
    assert [[item["type"] for item in message["content"]] for message in seen[1]] == [
        ["ecg", "text"],
        ["text"],
        ["text"],
    ]
    chat.clear()
    chat.ask("third")
    assert [message_text(message) for message in seen[2]] == ["third"] and seen[2][0]["content"][0]["type"] == "ecg"


def test_chat_reads_questions_from_the_standard_input(folder, tiny_elm, run, loaded, monkeypatch):
    """The model is loaded once. A question that it cannot answer is refused, and the conversation goes on."""
    answer = asking.answer

    def answer_most(model, processor, conversations, *limits):
        if message_text(conversations[0][-1]) == "too long":
            raise ValueError("a conversation is too long")
        return answer(model, processor, conversations, *limits)

    monkeypatch.setattr(asking, "answer", answer_most)
    lines = ["What is the rhythm?", "", "too long", "Is it fast?", "/clear", "Is it fast?", "/quit", "no"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines)))
    code, out, said = run("chat", tiny_elm, "--ecg", folder / "a", "--max-new-tokens", 3)
    chat = Chat(*loaded, [ecg_from_file(EcgFile(folder / "a", "", ""))], 3)
    expected = [chat.ask("What is the rhythm?"), chat.ask("Is it fast?")]
    chat.clear()
    expected.append(chat.ask("Is it fast?"))
    assert out.splitlines() == [answer or "(empty)" for answer in expected]
    assert (code, said) == (1, "elm-hf: a: a conversation is too long\n")


# drawing


def test_plot_draws_a_folder(folder, run):
    (folder / "broken.hea").write_text("header xx")
    code, out, said = run("plot", folder, "--output", "drawn", "--sampling-rate", RATE)
    assert (code, out) == (0, "3 of 4 files drawn in drawn\n") and said.startswith("left out: ")
    drawn = sorted(path.relative_to("drawn").as_posix() for path in Path("drawn").rglob("*.png"))
    assert drawn == ["a.png", "c.csv.png", "sub/b.npy.png"]
    code, _, said = run("plot", folder, "--output", "drawn.png")
    assert code == 1 and "the drawings of several files need a folder" in said
    code, _, said = run("plot", folder / "c.csv", folder.parent / "ecgs" / "c.csv", "--output", "drawn")
    assert code == 1 and "several of the files would be drawn in drawn/c.csv.png" in said
