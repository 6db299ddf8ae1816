"""The `elm-hf` command as its users meet it: what works from raw ECGs to answers, and one clear line when it does not."""

import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
import wfdb
from conftest import TINY_LLM
from PIL import Image, ImageChops
from safetensors.numpy import load_file, save_file
from transformers import AutoTokenizer
from transformers.utils import logging
from warm_python import run_python

import elm_hf
from elm_hf import cli
from elm_hf.checkpoints.convert import CONVERTERS
from elm_hf.data.loading import load_elm_dataset
from elm_hf.ecg.plot import plot_ecg
from elm_hf.ecg.simulated_findings import draw_findings
from elm_hf.ecg.simulation import simulate_ecg
from elm_hf.inference.generation import answer
from elm_hf.modeling.ecg_leads import LEADS


RENDERS_CHARTS = True

ELM_HF = Path(sys.executable).with_name("elm-hf")
HEAVY = ["torch", "transformers", "datasets", "scipy", "sklearn", "pandas", "PIL", "wfdb"]


@dataclass
class Finished:
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="module", autouse=True)
def as_without_terminal():
    """No progress bars, which are decided on when libraries are imported."""
    datasets.disable_progress_bars()
    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()
    datasets.enable_progress_bars()


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """The command in this process, in an empty folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(os, "environ", os.environ.copy())  # what `main` sets is taken back

    def run(*arguments) -> Finished:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["elm-hf", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return Finished(ended.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def message(run):
    """
    What the command says when it refuses: one line of error output, exit code 1, and nothing written but the working
    folder from which a build of `data` goes on.
    """

    def message(*arguments) -> str:
        before = sorted(Path.cwd().rglob("*"))
        finished = run(*arguments)
        assert (finished.code, finished.out) == (1, "")
        assert finished.err.startswith("elm-hf: ") and finished.err.count("\n") == 1
        working = Path.cwd() / "data.building"
        written = (path for path in Path.cwd().rglob("*") if path != working and working not in path.parents)
        assert sorted(written) == before
        return finished.err.removeprefix("elm-hf: ").strip()

    return message


def in_a_process(*arguments, home: Path) -> Finished:
    """The installed command, as a shell runs it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    environment |= {"HF_HOME": str(home), "OMP_NUM_THREADS": "1"}
    done = run_python([ELM_HF, *arguments], environment, home)
    return Finished(done.returncode, done.stdout, done.stderr)


# ECGs in files


@pytest.fixture(scope="module")
def ecg() -> np.ndarray:
    """10 s at 500 Hz, in mV."""
    rng = np.random.default_rng(0)
    return simulate_ecg(draw_findings(rng), rng, 10, 500)


def write_record(folder: Path, name: str, ecg: np.ndarray, leads=LEADS) -> Path:
    signals = {"p_signal": ecg.T.astype(float), "sig_name": list(leads), "units": ["mV"] * 12, "fmt": ["16"] * 12}
    wfdb.wrsamp(name, 500, write_dir=str(folder), **signals)
    return folder / name


@pytest.fixture
def records(ecg, tmp_path) -> Path:
    """A folder of records: one is fine, the others are named after what is wrong with them."""
    folder = tmp_path / "records"
    folder.mkdir()
    for name in ("fine", "lead", "truncated", "header", "signal"):
        write_record(folder, name, ecg)
    write_record(folder, "short", ecg[:, :500])
    write_record(folder, "swapped", ecg, ["II", "I", *LEADS[2:]])
    write_record(folder, "zero", ecg * 0)
    write_record(folder, "noise", np.random.default_rng(0).normal(0, 0.3, ecg.shape))
    (folder / "lead.hea").write_text((folder / "lead.hea").read_text().replace(" V6", " V7"))
    (folder / "truncated.dat").write_bytes((folder / "truncated.dat").read_bytes()[:5000])
    (folder / "header.hea").write_bytes(b"header xx yy\n\0\xff")
    (folder / "signal.dat").unlink()
    np.save(folder / "array.npy", ecg)
    return folder


BAD_RECORDS = {
    "nowhere": "nowhere.hea: no such file",
    "array.npy": "array.npy: no sampling_rate; a .npy file requires one, in Hz",
    "lead": 'lead: lead "V7" is not one of I, II',
    "truncated": "truncated.dat has 5000 bytes, expected 120000 for 12 leads of 5000 samples",
    "header": 'header.hea: not a WFDB header, its number of signals is "xx"',
    "signal": "signal.dat: no such file, but ",
    "swapped": "swapped: the limb leads disagree: III is not II - I",
}


@pytest.mark.parametrize("name", BAD_RECORDS)
def test_a_record_that_cannot_be_used_is_named(name, message, records, tiny_elm):
    for arguments in (["plot", records / name, "--output", "ecg.png"], ["ask", tiny_elm, "--ecg", records / name]):
        question = ["--question", "What is the rhythm?", "--strict"] if arguments[0] == "ask" else []
        assert BAD_RECORDS[name] in message(*arguments, *question)


def test_a_doubtful_ecg_is_answered_with_a_warning_and_refused_if_strict(run, message, records, tiny_elm):
    asked = ["ask", tiny_elm, "--question", "?", "--max-new-tokens", 2, "--ecg"]
    for name, problem in {
        "swapped": "the limb leads disagree: III is not II - I",
        "zero": "flat: all leads",
        "noise": "like white noise: all leads",
    }.items():
        finished = run(*asked, records / name)
        assert finished.code == 0 and finished.err.startswith(f"warning: {name}: {problem}"), finished.err
        assert finished.err.count("\n") == 1 and finished.out.startswith(f"ECG {name}, answered by")
        assert message(*asked, records / name, "--strict").startswith(f"{name}: {problem}")


def test_an_ecg_shorter_than_the_model_reads(message, records, tiny_elm):
    found = message("ask", tiny_elm, "--ecg", records / "short", "--question", "?")
    assert found == "short: ECG 1 of 1: the ECG is 1 s long, the model reads 2 s."


def test_a_picture_in_another_format_is_refused_before_work_is_done(message, records, tiny_elm):
    assert "ecg.webp: the drawing is a PNG" in message("plot", records / "fine", "--output", "ecg.webp")
    asked = ["ask", tiny_elm, "--ecg", records / "fine", "--question", "?"]
    assert "ecg: the drawing is a PNG" in message(*asked, "--plot", "ecg")


def test_plot_draws_the_record(run, records):
    finished = run("plot", records / "fine.hea", "--output", "drawn/ecg.png", "--title", "Somebody")
    assert (finished.code, finished.out, finished.err) == (0, "Drawn in drawn/ecg.png\n", "")
    signals = wfdb.rdrecord(records / "fine").p_signal.T.astype(np.float32)
    with Image.open("drawn/ecg.png") as drawn:
        assert (drawn.format, drawn.width) == ("PNG", 1723)  # 10 s at 25 mm/s and 6 pixels/mm, calibration, margins
        difference = np.asarray(ImageChops.difference(drawn, plot_ecg(signals, 500, title="Somebody")))
        assert np.count_nonzero(difference.any(axis=2)) < 20  # samples between two pixels, by rounding


# the command itself


def test_the_installed_command_refuses_in_one_line(tmp_path):
    finished = in_a_process("plot", "nowhere", "--output", "ecg.png", home=tmp_path)
    expected = "elm-hf: nowhere.hea: no such file; a WFDB record needs its .hea header\n"
    assert finished == Finished(1, "", expected)
    assert list(tmp_path.iterdir()) == []


def test_the_version_is_the_packages(run):
    assert run("--version").out == f"elm-hf {metadata.version('elm-hf')}\n"


def test_help_needs_none_of_the_libraries():
    """Of no command, nor does importing the library."""
    code = f"""
import json, sys
import elm_hf, elm_hf.cli
commands = sorted(command.name or command.callback.__name__ for command in elm_hf.cli.app.registered_commands)
for words in [[], *([command] for command in commands)]:
    sys.argv = ["elm-hf", *words, "--help"]
    try:
        elm_hf.cli.main()
    except SystemExit as ended:
        assert ended.code == 0
print(json.dumps([commands, [name for name in {HEAVY} if name in sys.modules]]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    commands, imported = json.loads(done.stdout.splitlines()[-1])
    assert {"ask", "create", "evaluate", "plot", "prepare"} <= set(commands)
    assert imported == []
    assert all(f"Usage: elm-hf {command} [OPTIONS]" in done.stdout for command in commands)


def test_help_lists_every_format_that_can_be_converted(run):
    shown = run("convert", "--help").out
    assert all(kind in shown for kind in CONVERTERS)


def test_public_names_are_there_when_asked_for():
    for name in elm_hf.__all__:
        assert getattr(elm_hf, name) is not None
    assert set(elm_hf.__all__) <= set(dir(elm_hf))
    # `from elm_hf import name` would give the module of that name.
    assert not set(elm_hf.__all__) & {path.stem for path in Path(elm_hf.__file__).parent.iterdir()}
    with pytest.raises(AttributeError, match="'elm_hf' has no attribute 'ElmForCausalLLM'"):
        elm_hf.ElmForCausalLLM  # noqa: B018


@pytest.mark.parametrize(
    "arguments",
    [
        ["ask", "elm", "--dataset", "data", "--num-questions", "many"],
        ["ask", "elm", "--dataset", "data", "--num-questions", "0"],
        ["evaluate", "elm", "--dataset", "data", "--batch-size", "0"],
        ["prepare", "simulated_qa", "--output", "data", "--max-skipped", "half"],
        ["prepare", "simulated_qa", "--output", "data", "--num-recordings", "-1"],
        ["plot", "record", "--colour", "blue"],
    ],
)
def test_a_wrong_option_is_named(run, arguments):
    finished = run(*arguments)
    assert (finished.code, finished.out) == (2, "")
    assert arguments[-2] in finished.err and "Traceback" not in finished.err
    assert list(Path.cwd().iterdir()) == []


# preparing datasets


def test_an_unknown_dataset_lists_what_there_is(message):
    assert message("prepare", "ptbxl", "--output", "data").startswith("unknown dataset 'ptbxl'; available: code15, ")


def test_a_source_that_is_not_there(message):
    assert "ptb_xl is built from its source: pass the source folder as source (--source)" in message(
        "prepare", "ptb_xl", "--output", "data"
    )
    assert message("prepare", "ptb_xl", "--output", "data", "--source", "nowhere").startswith(
        "nowhere: not found; source (--source) must be the folder of PTB-XL"
    )


def test_a_table_that_is_no_text(message, tmp_path):
    (tmp_path / "ptbxl_database.csv").write_bytes(b"\x1f\x8b\x08")
    (tmp_path / "scp_statements.csv").write_bytes(b"\x1f\x8b\x08")
    found = message("prepare", "ptb_xl", "--output", "data", "--source", tmp_path)
    assert "ptbxl_database.csv: cannot be read as a CSV file in UTF-8" in found


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--seconds", "0.001"], "0.001 s at 250 Hz is not a whole number of samples"),
        (["--seconds", "inf"], "inf s at 250 Hz is not a whole number of samples"),
        (["--num-recordings", "3"], "5 folds require at least 5 patients, but there are 2; "),
        (["--num-recordings", "1"], "simulated_qa: no conversations"),  # one ECG has one answer to each question
        (["--num-folds", "0"], "num_folds (--num-folds) is 0, but the source has no official split"),
    ],
)
def test_a_dataset_that_cannot_be_built(message, options, expected):
    assert expected in message("prepare", "simulated_qa", "--output", "data", "--num-recordings", "5", *options)


def test_what_is_too_much_for_max_skipped_names_the_option(message, shared_data):
    """The eight rows of the collection's table name one file that is not there."""
    found = message("prepare", "ptb_xl", "--source", shared_data / "ptb_xl", "--output", "data")
    assert "1 of 8 recordings cannot be used" in found
    assert "allow it with max_skipped (--max-skipped) 0.13" in found and found.endswith("data.building")


@pytest.mark.parametrize("command", ["prepare", "create"])
def test_an_output_folder_that_is_in_use_is_left_alone(command, message, tmp_path, simulated_dataset):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    (tmp_path / "elm.json").write_text(json.dumps({"text_config": TINY_LLM}))
    options = {
        "prepare": ["simulated_qa", "--output", mine, "--num-recordings", 20],
        "create": [mine, "--config", tmp_path / "elm.json", "--tokenizer-dataset", simulated_dataset],
    }
    found = message(command, *options[command])
    assert str(mine) in found and ("--overwrite" in found if command == "prepare" else "another folder" in found)
    assert [path.read_text() for path in mine.iterdir()] == ["years of work"]


# naming and reading datasets


@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate", ".", "--dataset", "misspelt"],
        ["zero-shot", "misspelt", "--dataset", "."],
        ["ask", "misspelt", "--dataset", "."],
        ["index", "misspelt", "--output", "index"],
    ],
)
def test_a_misspelt_name_is_refused_without_the_libraries_that_load_it(arguments):
    code = f"import sys; from elm_hf.cli import main; sys.argv = ['elm-hf', *{arguments}]\n"
    code += f"try: main()\nfinally: print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "[]\n")
    assert done.stderr.startswith("elm-hf: misspelt: no such folder, and not the name of a repository on the Hub")


@pytest.mark.parametrize("name", ["no/such/folder", "./folder", "../folder", "/no/such", "folder"])
def test_a_path_that_is_not_there_is_not_looked_for_on_the_hub(name, message, tiny_elm, records, monkeypatch):
    looked_for = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **_: looked_for.append(arguments))
    asked = {tiny_elm: ["--dataset", name], name: ["--ecg", records / "fine", "--question", "?"]}
    for checkpoint, about in asked.items():
        assert message("ask", checkpoint, *about).startswith(
            f"{name}: no such folder, and not the name of a repository"
        )
    assert looked_for == []


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["measure", ""], "ECGS is empty; expected a value"),
        (["measure", "a.npy", ""], "ECGS is empty; expected a value"),
        (["plot", "", "--output", "ecg.png"], "ECGS is empty; expected a value"),
        (["ask", "elm", "--ecg", "", "--question", "?"], "--ecg is empty; expected a value"),
        (["evaluate", "", "--dataset", "data"], "CHECKPOINT is empty; expected a value"),
        (["prepare", "ecgfolder", "--source=", "--output", "data"], "--source is empty; expected a value"),
        (["train", "--model_name_or_path", "", "--output_dir", "o"], "the name of a folder or repository is empty"),
        (["pretrain", "--dataset", "", "--output_dir", "o"], "the name of a folder or repository is empty"),
    ],
)
def test_an_empty_name_is_not_the_current_folder(arguments, expected, message, ecg):
    np.save("here.npy", ecg)
    assert message(*arguments) == expected


def test_a_folder_that_is_no_dataset(message, tiny_elm):
    for command in ("ask", "evaluate"):
        found = message(command, tiny_elm, "--dataset", tiny_elm)
        assert str(tiny_elm) in found and "not an elm-hf dataset" in found


def test_an_unknown_fold_split_or_record_is_named(message, tiny_elm, simulated_dataset):
    asked = ["ask", tiny_elm, "--dataset", simulated_dataset]
    assert "no 'fold6'; available: fold1, fold2, fold3, fold4, fold5" in message(*asked, "--fold", 6)
    assert "fold1 has no split 'dev'; available: train, validation, test" in message(*asked, "--split", "dev")
    found = message(*asked, "--record-id", "simulated_qa-x")
    assert str(simulated_dataset) in found and 'no questions about an ECG "simulated_qa-x"' in found


def test_ask_needs_an_ecg_and_a_question(message, records, tiny_elm, simulated_dataset):
    either = "Give either a record (--ecg with --question) or a dataset (--dataset)."
    assert message("ask", tiny_elm) == either
    assert message("ask", tiny_elm, "--ecg", records / "fine", "--dataset", simulated_dataset) == either
    assert "--ecg needs a --question" in message("ask", tiny_elm, "--ecg", records / "fine")
    table = ["--output", "answers.csv"]
    assert "it goes with --ecg" in message("ask", tiny_elm, "--dataset", simulated_dataset, "--question", "?", *table)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def drop_answers(path: Path) -> None:
    pd.read_parquet(path).drop(columns="answer").to_parquet(path)


DAMAGED_DATA = {
    "fold1/test-00000-of-00001.parquet": (truncate, "the data of fold1 or the card are damaged"),
    "records/train-00000-of-00001.parquet": (truncate, "the data of records or the card are damaged"),
    "records": (shutil.rmtree, "the data of records or the card are damaged"),
    "README.md": (lambda path: path.write_text("---\nconfigs: [: :\n---\n"), "or the card are damaged"),
    "fold1/": (lambda path: drop_answers(next(path.glob("test*"))), "not all have answer"),
}


@pytest.mark.parametrize("damaged", DAMAGED_DATA)
def test_a_damaged_dataset_is_named(damaged, message, tiny_elm, simulated_dataset, tmp_path):
    # `datasets` would take its earlier copy of a folder with this name and card
    copy = Path(shutil.copytree(simulated_dataset, tmp_path / tmp_path.name))
    damage, expected = DAMAGED_DATA[damaged]
    damage(copy / damaged)
    found = message("evaluate", tiny_elm, "--dataset", copy, "--output", "report")
    assert str(copy) in found and expected in found


# checkpoints


def edit_config(**values):
    def edit(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | values))

    return edit


def without_embeddings(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.language_model.embed_tokens.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


DAMAGED_CHECKPOINTS = {
    "a plain LLM": (
        lambda folder: (folder / "config.json").write_text(json.dumps(TINY_LLM)),
        'a checkpoint of type "qwen2"; expected an ELM',
    ),
    "no config": (lambda folder: (folder / "config.json").unlink(), "without a model_type; expected an ELM"),
    "a list": (lambda folder: (folder / "config.json").write_text("[]"), "without a model_type; expected an ELM"),
    "half a config": (lambda folder: truncate(folder / "config.json"), "config.json' is not a valid JSON file"),
    "a number in words": (edit_config(num_ecg_tokens="ten"), "'num_ecg_tokens' expected int, got str"),
    "unequal patches": (edit_config(num_ecg_tokens=7), "cannot be cut into num_ecg_tokens=7 equal patches"),
    "half the weights": (lambda folder: truncate(folder / "model.safetensors"), "file not fully covered"),
    "a missing weight": (without_embeddings, "weights are missing or have another shape, such as "),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").write_text("{"), "cannot be loaded as an ELM"),
    "half a template": (
        lambda folder: truncate(folder / "chat_template.jinja"),
        "The chat template refuses the conversation: ",
    ),
}


@pytest.mark.parametrize("damaged", DAMAGED_CHECKPOINTS)
def test_a_checkpoint_that_is_none_is_refused(damaged, message, tiny_elm, records, tmp_path):
    copy = Path(shutil.copytree(tiny_elm, tmp_path / "copy"))
    damage, expected = DAMAGED_CHECKPOINTS[damaged]
    damage(copy)
    found = message("ask", copy, "--ecg", records / "fine", "--question", "?")
    assert str(copy) in found and expected in found


# creating models


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "elm.json: cannot be read as JSON"),
        ("[]", "elm.json: expected a JSON object"),
        ('{"text_config": "qwen2"}', "elm.json: expected a JSON object"),
        (
            '{"text_config": {"model_type": "vit"}}',
            "elm.json: `model_type` of `text_config` is 'vit'; expected a causal LLM",
        ),
        ('{"num_samples": 500}', "elm.json: remove num_samples"),
        ('{"text_config": {"model_type": "qwen2", "hidden_size": "wide"}}', "'hidden_size' expected int, got str"),
    ],
)
def test_a_configuration_that_makes_no_model(content, expected, message, simulated_dataset, tmp_path):
    (tmp_path / "elm.json").write_text(content)
    config = ["--config", tmp_path / "elm.json"]
    assert expected in message("create", "elm", *config, "--tokenizer-dataset", simulated_dataset)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            ["--projector", "mlp"],
            'projector_type="mlp" needs an encoder; without one, choose one of linear, patch, conv',
        ),
        (["--num-ecg-tokens", "7"], "num_samples=2500 cannot be cut into num_ecg_tokens=7 equal patches"),
        (["--seconds", "0"], "--seconds is 0; expected the length of at least one sample"),
        (["--dtype", "int8"], '--dtype is "int8"; expected auto, float32'),
        (["--normalization", "max"], 'normalization "max" is not one of millivolt, min_max'),
        (["--representation", "picture"], "'representation' expected one of"),
        (["--layout", "6x2"], "--layout: for models that read drawn ECGs, --representation image"),
        (["--encoder", "no/such/encoder"], "no/such/encoder: no such folder"),
        (
            ["--config", "nowhere.json"],
            "--config nowhere.json: neither a file nor settings of a new model; available are",
        ),
    ],
)
def test_options_that_make_no_model(options, expected, message, tiny_elm, tmp_path):
    (tmp_path / "elm.json").write_text(json.dumps({"text_config": TINY_LLM}))
    given = {"--config": str(tmp_path / "elm.json"), "--tokenizer": str(tiny_elm)} | dict([options])
    assert expected in message("create", "elm", *(word for pair in given.items() for word in pair))


def test_an_elm_is_no_llm_for_another(message, tiny_elm):
    expected = f'{tiny_elm}: a checkpoint of type "elm"; expected a causal LLM.'
    assert expected in message("create", "elm", "--llm", tiny_elm)


# from nothing to answers


def always_answer(checkpoint: Path, text: str) -> None:
    """
    Edit the weights so that the LLM answers every question with one token: every layer adds nothing to its input, the
    token that opens the answer points at `text`, and `text` at the end of the turn.
    """
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    (said,) = tokenizer(text)["input_ids"]
    opening, end = tokenizer.convert_tokens_to_ids(["<|assistant|>", "<|end|>"])
    weights = load_file(checkpoint / "model.safetensors")
    for name, weight in weights.items():
        if name.endswith(("o_proj.weight", "down_proj.weight", "embed_tokens.weight", "lm_head.weight")):
            weight[:] = 0
    embeddings, head = weights["model.language_model.embed_tokens.weight"], weights["lm_head.weight"]
    embeddings[opening, 0] = head[said, 0] = 1
    embeddings[said, 1] = head[end, 1] = 1
    save_file(weights, checkpoint / "model.safetensors", {"format": "pt"})


@pytest.fixture
def yes_sayer(run, tmp_path) -> Path:
    """A folder with a dataset that `prepare` built and a checkpoint that `create` made, which says yes to everything."""
    built = run("prepare", "simulated_qa", "--output", tmp_path / "data", "--num-recordings", 40, "--seconds", 2)
    assert (built.code, built.err) == (0, "")
    assert built.out.startswith(f"{tmp_path / 'data'}: 200 ECGs of ")  # five segments of 2 s each
    (tmp_path / "elm.json").write_text(json.dumps({"text_config": TINY_LLM | {"tie_word_embeddings": False}}))
    options = ["--config", tmp_path / "elm.json", "--tokenizer-dataset", tmp_path / "data", "--vocab-size", 400]
    created = run("create", tmp_path / "elm", *options, "--num-ecg-tokens", 10, "--seconds", 2)
    assert created.code == 0
    assert created.out.endswith("LLM qwen2, projector patch, 10 tokens per ECG\n")
    always_answer(tmp_path / "elm", "yes")
    return tmp_path


def test_evaluate_reports_what_the_answers_are_worth(run, yes_sayer):
    """Whoever always says yes is right where the answer is yes, with and without the ECG."""
    options = ["--dataset", yes_sayer / "data", "--limit", 100, "--output", "report", "--quiet"]
    finished = run("evaluate", yes_sayer / "elm", *options)
    assert finished.code == 0

    fold = pd.read_parquet(next((yes_sayer / "data" / "fold1").glob("test-*"))).set_index("conversation_id")
    predictions = pd.read_parquet("report/predictions.parquet")
    assert predictions["condition"].value_counts().to_dict() == dict.fromkeys(
        ("ecg", "zeros", "noise", "shuffled", "none"), 100
    )
    assert (predictions["prediction"] == "yes").all() and (predictions["num_tokens"] == 1).all()
    asked = fold.loc[predictions.loc[predictions["condition"] == "ecg", "conversation_id"]]
    is_yes = asked["answer"].map(lambda answer: list(answer) == ["yes"])
    assert 0 < is_yes.mean() < 1
    line = next(line for line in finished.out.splitlines() if line.startswith("| all | 100 |"))
    assert line.count(f"{is_yes.mean():.3f}") == 5  # once for each condition
    found = "was not settled: 100 answers about 5 patients are too few to tell; it takes 6 patients"
    assert found in finished.out
    assert "Report in report/report.md" in finished.out and Path("report/report.md").is_file()


def test_a_fresh_process_asks_with_the_code_of_the_checkpoint(yes_sayer):
    rows = load_elm_dataset(yes_sayer / "data", fold=1, split="test")
    row = next(row for row in rows if len(row["record_ids"]) == 1)
    (name,) = row["record_ids"]
    (yes_sayer / "home").mkdir()
    options = ["--dataset", yes_sayer / "data", "--record-id", name, "--plot", "ecg.png", "--trust-remote-code"]
    finished = in_a_process("ask", yes_sayer / "elm", *options, home=yes_sayer / "home")
    assert (finished.code, finished.err) == (0, "")

    first, *lines, last = finished.out.splitlines()
    assert first.startswith(f"ECG {name}, answered by transformers_modules.") and first.endswith(".ElmForCausalLM")
    assert last == "Drawn in ecg.png"
    truths = {row["question"]: ", ".join(row["answer"]) for row in rows if row["record_ids"] == [name]}
    types = {row["question"]: row["question_type"] for row in rows if row["record_ids"] == [name]}
    assert len(lines) == 6 and len({types[question] for question in lines[::2]}) == len(set(types.values()))
    assert lines[1::2] == [f"    yes   (truth: {truths[question]})" for question in lines[::2]]
    with Image.open(yes_sayer / "home" / "ecg.png") as drawn:
        expected = plot_ecg(row["ecgs"][0], row["sampling_rate"], title=name, caption="\n".join(lines))
        assert (drawn.format, drawn.size) == ("PNG", expected.size)
        assert ImageChops.difference(drawn, expected).getbbox() is None


def test_a_record_is_asked_about_with_the_librarys_code(run, yes_sayer, records):
    questions = ["--question", "Is this an ECG?", "--question", "And this?"]
    finished = run("ask", yes_sayer / "elm", "--ecg", records / "fine", *questions)
    assert finished.out.splitlines() == [
        "ECG fine, answered by elm_hf.modeling.modeling_elm.ElmForCausalLM",
        "fine: the model reads 2 s of 10.0 s",
        *("Is this an ECG?", "    yes", "And this?", "    yes"),
    ]


def test_a_system_prompt_opens_what_is_asked(run, tiny_elm, records, monkeypatch):
    asked = []
    monkeypatch.setattr("elm_hf.inference.ask.answer", lambda *given: asked.append(given[1]) or answer(*given))
    Path("prompt.txt").write_text("You read ECGs.\n")
    options = ["--ecg", records / "fine", "--question", "What is the rhythm?", "--system-prompt-file", "prompt.txt"]
    assert run("ask", tiny_elm, *options).code == 0
    (processor,) = asked
    assert processor.system_prompt == "You read ECGs."


def test_where_ecgs_have_one_question_each_one_is_asked(run, yes_sayer):
    run("prepare", "simulated_reports", "--output", "reports", "--num-recordings", 20, "--seconds", 2)
    finished = run("ask", yes_sayer / "elm", "--dataset", "reports")
    rows = load_elm_dataset("reports", fold=1, split="test")
    assert finished.out.splitlines()[1:] == [
        "List the findings of this ECG.",
        f"    yes   (truth: {', '.join(rows[0]['answer'])})",
    ]


def test_figures_are_printed_as_json(run, simulated_dataset, tmp_path):
    finished = run(
        "prepare", "simulated_qa", "--output", tmp_path / "made", "--num-recordings", 6, "--num-folds", 2, "--json"
    )
    assert json.loads(finished.out) == json.loads((tmp_path / "made" / "build_report.json").read_text())


def test_h_is_help(run):
    assert run("compare", "-h").out == run("compare", "--help").out
