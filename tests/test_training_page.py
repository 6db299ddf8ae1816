"""docs/training.md: its code trains, on loaded and streamed rows; sample answers, trackers, the Hub, and several processes."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from test_validation import train as train_in_this_process
from transformers import TrainerCallback
from trl import SFTConfig

from elm_hf.checkpoints.load import load_checkpoint
from elm_hf.cli.launch import is_launch, launch, split_options
from elm_hf.data.loading import load_elm_dataset
from elm_hf.training import sample_answers
from elm_hf.training.sample_answers import SAMPLES_NAME, check_trackers, show_samples, text_table, write_samples
from elm_hf.training.validation import check_asking


ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "training.md").read_text()
TRAIN, STREAM = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
SAMPLE = {"conversation_id": "a", "question": "Rhythm | rate?", "truth": "sinus rhythm", "answer": "no\nidea"}


@pytest.mark.parametrize("is_streamed", [False, True])
def test_the_code_of_the_page_trains_with_the_ecgs(is_streamed, tiny_elm, simulated_dataset, tmp_path, monkeypatch):
    code = TRAIN.replace(
        "max_steps=100", "max_steps=2, use_cpu=True, bf16=False, learning_rate=1e-2, disable_tqdm=True"
    )
    if is_streamed:
        (line,) = [line for line in code.splitlines() if line.startswith("rows = ")]
        code = code.replace(line, STREAM)
    code = code.replace('"my-elm"', repr(str(tiny_elm))).replace('"my-dataset"', repr(str(simulated_dataset)))
    seen = []
    monkeypatch.setattr(
        "elm_hf.training.collator.ElmDataCollator.__call__",
        _spied(seen),
    )
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert seen and all("ecg_values" in batch and (batch["labels"] >= 0).any() for batch in seen)
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny_elm, tmp_path / "trained"))
    assert not torch.equal(before["model.projector.linear.weight"], after["model.projector.linear.weight"])
    load_checkpoint(tmp_path / "trained")


def _spied(seen: list):
    from elm_hf.training.collator import ElmDataCollator

    original = ElmDataCollator.__call__

    def call(self, rows):
        batch = original(self, rows)
        seen.append(batch)
        return batch

    return call


def test_sample_answers_are_printed_and_written_at_each_evaluation(tiny_elm, simulated_dataset, tmp_path, capsys):
    options = ("--max_steps", "2", "--eval_strategy", "steps", "--eval_steps", "1", "--eval_samples", "3")
    train_in_this_process(tiny_elm, simulated_dataset, tmp_path / "out", *options, "--save_strategy", "no")
    written = [json.loads(line) for line in (tmp_path / "out" / SAMPLES_NAME).read_text().splitlines()]
    assert [sample["step"] for sample in written] == [1, 1, 1, 2, 2, 2]
    rows = load_elm_dataset(simulated_dataset, 1, "validation", question_types=["single-verify"])
    rows = {row["conversation_id"]: row for row in rows}
    for sample in written:
        messages = rows[sample["conversation_id"]]["messages"]
        assert sample["question"] in str(messages[0]["content"]) and sample["truth"] in str(messages[-1]["content"])
    said = capsys.readouterr().out
    assert "Sample answers at step 1:" in said and written[0]["question"][:20] in said


def test_samples_of_an_interrupted_run_are_replaced(tmp_path):
    for step, answer in ((1, "a"), (2, "b"), (3, "c"), (2, "again")):
        write_samples(tmp_path / SAMPLES_NAME, [SAMPLE | {"answer": answer}], step)
    written = [json.loads(line) for line in (tmp_path / SAMPLES_NAME).read_text().splitlines()]
    assert [(one["step"], one["answer"]) for one in written] == [(1, "a"), (2, "again")]
    assert text_table([SAMPLE]).splitlines()[1].split("  ") == ["Rhythm | rate?", "sinus rhythm", "no idea"]


def test_trackers_get_the_samples_as_a_table(tmp_path, monkeypatch):
    sent = {}

    class Table:
        def __init__(self, dataframe):
            self.rows = dataframe.to_dict("records")

    def tracker(name, **more):
        return SimpleNamespace(log=lambda values: sent.update({name: values}), Table=Table, **more)

    monkeypatch.setitem(__import__("sys").modules, "wandb", tracker("wandb", run=object()))
    monkeypatch.setitem(__import__("sys").modules, "trackio", tracker("trackio"))
    callbacks = [
        type(name, (TrainerCallback,), {})() for name in ("WandbCallback", "TrackioCallback", "OtherCallback")
    ]
    board = type("TensorBoardCallback", (TrainerCallback,), {})()
    board.tb_writer = SimpleNamespace(add_text=lambda *values: sent.update(board=values))
    args = SimpleNamespace(
        push_to_hub=False, trackio_space_id=None, trackio_static_space_id=None, hub_private_repo=None
    )
    show_samples([SAMPLE], 7, tmp_path, [*callbacks, board], args)
    for name in ("wandb", "trackio"):
        assert sent[name][sample_answers.TABLE_NAME].rows == [{"step": 7} | SAMPLE]
    name, table, step = sent["board"]
    assert (name, step) == (sample_answers.TABLE_NAME, 7)
    assert table.splitlines()[-1] == "| 7 | a | Rhythm \\| rate? | sinus rhythm | no idea |"
    sent.clear()
    args.push_to_hub = True  # with which Trackio publishes a Space
    show_samples([SAMPLE], 8, tmp_path, [*callbacks, board], args)
    assert list(sent) == ["wandb", "board"]
    args.hub_private_repo = True
    show_samples([SAMPLE], 8, tmp_path, [*callbacks, board], args)
    assert "trackio" in sent


def test_trackers_are_checked_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(sample_answers, "get_available_reporting_integrations", lambda: ["tensorboard"])
    check_trackers(SimpleNamespace(report_to=["tensorboard"]))
    with pytest.raises(ImportError, match=r"--report_to wandb: its package is not installed \(pip install wandb\)"):
        check_trackers(SimpleNamespace(report_to=["wandb"]))
    with pytest.raises(
        ValueError, match="--report_to wandbb: unknown tracker; expected none, all or one of .*trackio"
    ):
        check_trackers(SimpleNamespace(report_to=["wandbb"]))


def test_samples_need_an_evaluation(tmp_path):
    args = SFTConfig(tmp_path, bf16=False, use_cpu=True, report_to="none")
    with pytest.raises(ValueError, match="--eval_samples needs an evaluation during training"):
        check_asking(None, 3, args)
    with pytest.raises(ValueError, match="--eval_samples is -1; expected the number of questions, 0 or more"):
        check_asking(None, -1, args)


# Several processes


@pytest.fixture
def started(monkeypatch) -> list:
    """What `accelerate launch` would start, in the place of starting it."""
    started = []
    monkeypatch.setattr("accelerate.commands.launch.launch_command", started.append)
    return started


def test_options_of_the_launch_and_of_the_program_are_told_apart(started):
    own = {"mixed", "debug", "output_dir"}
    words = ["--num_processes", "2", "--output_dir", "out", "--num-machines=1", "--debug", "x", "--use_fsdp", "--y"]
    launch("elm_hf.training.sft", words, own)
    (chosen,) = started
    assert (chosen.num_processes, chosen.num_machines, chosen.use_fsdp) == (2, 1, True)
    assert (chosen.module, chosen.training_script) == (True, "elm_hf.training.sft")
    assert chosen.training_script_args == ["--output_dir", "out", "--debug", "x", "--y"]
    assert is_launch(words) and is_launch(["--num_processes=2"]) and not is_launch(["--output_dir", "num_processes"])


def test_nothing_is_left_for_accelerate_to_warn_of_and_cpus_start_several_processes(started, caplog):
    from accelerate.commands.launch import _validate_launch_command

    launch("elm_hf.training.sft", ["--num_processes", "2"], set())
    _validate_launch_command(started[0])
    assert started[0].multi_gpu and "had defaults used instead" not in caplog.text


def test_the_configuration_of_a_launch_can_be_a_recipe(started):
    launch("elm_hf.training.sft", ["--config_file", "accelerate/fsdp2"], set())
    assert Path(started[0].config_file).samefile(ROOT / "recipes" / "accelerate" / "fsdp2.yaml")
    with pytest.raises(FileNotFoundError, match="--config_file nowhere: neither a file nor a recipe"):
        launch("elm_hf.training.sft", ["--config_file", "nowhere"], set())


def test_a_process_that_fails_ends_the_launch_with_its_exit_code_and_no_traceback(monkeypatch):
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

    failure = ProcessFailure(local_rank=1, pid=1, exitcode=3, error_file="none")

    def fail(chosen):
        raise ChildFailedError("elm_hf.training.sft", {1: failure})

    monkeypatch.setattr("accelerate.commands.launch.launch_command", fail)
    with pytest.raises(SystemExit) as ended:
        launch("elm_hf.training.sft", ["--num_processes", "2"], set())
    assert ended.value.code == 3 and ended.value.__suppress_context__


def test_values_of_unknown_options_are_not_taken():
    from accelerate.commands.launch import launch_command_parser

    words = ["--fold", "1", "--gpu_ids", "0,1", "--dataset", "a", "b"]
    assert split_options(launch_command_parser(), words, set()) == (["--gpu_ids", "0,1"], ["--fold", "1", *words[4:]])
