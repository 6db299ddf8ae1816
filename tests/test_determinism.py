"""The same command gives the same bits, and a killed run resumes with the weights of an uninterrupted one."""

import json
import multiprocessing
import os
import shutil
import signal
import warnings
from pathlib import Path

import pytest
import torch
from test_training import changed_weights, losses
from transformers import TrainerCallback

from elm_hf.prepare.dataset import prepare_dataset
from elm_hf.training import sft
from elm_hf.training.resume import last_checkpoint


@pytest.fixture(scope="module")
def small_dataset(tmp_path_factory) -> Path:
    """A dataset small enough for two epochs."""
    folder = tmp_path_factory.mktemp("small") / "data"
    prepare_dataset("simulated_qa", folder, seconds=2, num_recordings=10)
    return folder


@pytest.fixture(scope="module")
def command(tiny_elm, small_dataset):
    """Arguments of a run of 10 steps, which end in the second epoch, with a checkpoint every third step."""

    def of(output: Path, *more: str) -> tuple:
        arguments = [
            *("--model_name_or_path", str(tiny_elm), "--dataset", str(small_dataset), "--output_dir", str(output)),
            *("--max_steps", "10", "--per_device_train_batch_size", "24", "--gradient_accumulation_steps", "2"),
            *("--learning_rate", "1e-2", "--logging_steps", "1", "--save_steps", "3", "--save_total_limit", "1"),
            *("--noise", "0.05", "--use_cpu", "--report_to", "none", "--disable_tqdm", "true", *more),
        ]
        return sft.parse(arguments)

    return of


@pytest.fixture(scope="module")
def uninterrupted(command, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted") / "out"
    sft.train(sft.build_trainer(*command(folder)))
    return folder


@pytest.fixture
def restored_settings():
    """Restores the settings of `--deterministic`, which apply to the whole process."""
    environment = dict(os.environ)
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = False
    os.environ.clear()
    os.environ.update(environment)


def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)


class KillInStep(TrainerCallback):
    """Kills the process between the backward passes of a step."""

    def on_substep_end(self, args, state, control, **kwargs):
        if state.global_step == 6:
            kill()


def train_and_be_killed(arguments: tuple, where: str):
    """A run that is killed in its seventh step, or while it saves the checkpoint of step 9."""
    trainer = sft.build_trainer(*arguments)
    if where == "step":
        trainer.add_callback(KillInStep())
    else:
        save_rng_state = trainer._save_rng_state  # called after weights and optimizer are saved
        trainer._save_rng_state = lambda folder: kill() if folder.endswith("-9") else save_rng_state(folder)
    sft.train(trainer)


@pytest.mark.parametrize("where, continued", [("step", "checkpoint-6"), ("checkpoint", "checkpoint-6")])
def test_a_killed_run_resumes_like_an_uninterrupted_one(where, continued, command, uninterrupted, tmp_path, capfd):
    child = multiprocessing.get_context("fork").Process(
        target=train_and_be_killed, args=(command(tmp_path / "out"), where)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about forks of processes with several threads
        child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    incomplete = tmp_path / "out" / "checkpoint-9"
    assert incomplete.is_dir() == (where == "checkpoint")
    assert last_checkpoint(tmp_path / "out") == tmp_path / "out" / continued
    if where == "checkpoint":
        assert (incomplete / "model.safetensors").is_file()
        message = r"checkpoint-9: incomplete checkpoint .*no run.json.*Last complete checkpoint in .*checkpoint-6"
        with pytest.raises(ValueError, match=message):
            sft.train(sft.build_trainer(*command(tmp_path / "out", "--resume_from_checkpoint", str(incomplete))))

    sft.train(sft.build_trainer(*command(tmp_path / "out")))
    assert f"Continuing from {tmp_path / 'out' / continued}\n" in capfd.readouterr().out
    checkpoints = [path.name for path in (tmp_path / "out").glob("checkpoint-*")]
    assert checkpoints == [path.name for path in uninterrupted.glob("checkpoint-*")]
    assert losses(tmp_path / "out" / "checkpoint-10") == losses(uninterrupted / "checkpoint-10")
    assert not changed_weights(tmp_path / "out", uninterrupted)


def test_two_deterministic_runs_have_the_same_bits(command, tmp_path, restored_settings, caplog):
    adapters = []
    for name in ("first", "second"):
        options = ("--deterministic", "--use_peft", "--lora_r", "4", "--lora_dropout", "0.1", "--max_steps", "2")
        sft.train(sft.build_trainer(*command(tmp_path / name, *options)))
        adapters.append((tmp_path / name / "adapter_model.safetensors").read_bytes())
    assert adapters[0] == adapters[1]
    assert torch.are_deterministic_algorithms_enabled() and torch.backends.cudnn.deterministic
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"]
    assert "GPU kernels run one after the other" in caplog.text


@pytest.mark.parametrize(
    "more, message",
    [
        (("--learning_rate", "2e-2"), "learning_rate 0.01 there, 0.02 here"),
        (("--seed", "7"), "seed 42 there, 7 here"),
        (("--gradient_accumulation_steps", "1"), "samples_per_step 48 there, 24 here"),
        (("--trainable", "projector"), "trainable .* here"),
        (("--max_steps", "20"), "max_steps 10 there, 20 here"),
    ],
)
def test_a_folder_of_another_run_is_refused(more, message, command, uninterrupted):
    before = sorted(uninterrupted.rglob("*"))
    with pytest.raises(ValueError, match=f"checkpoint-10 belongs to another run: {message}.* another --output_dir"):
        sft.build_trainer(*command(uninterrupted, *more))
    assert sorted(uninterrupted.rglob("*")) == before


def test_a_run_with_another_system_prompt_is_another_run(command, tmp_path):
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("You read ECGs.")
    one = command(tmp_path / "out", "--system_prompt_file", str(prompt), "--max_steps", "1")
    sft.train(sft.build_trainer(*one))
    prompt.write_text("Be short.")
    other = command(tmp_path / "out", "--system_prompt_file", str(prompt), "--max_steps", "1")
    with pytest.raises(ValueError, match="system_prompt 'You read ECGs.' there, 'Be short.' here"):
        sft.build_trainer(*other)


def test_a_run_resumed_after_its_last_step_takes_no_more_steps(command, uninterrupted, tmp_path):
    """The run was killed after its last checkpoint, before the model was saved."""
    shutil.copytree(uninterrupted / "checkpoint-10", tmp_path / "out" / "checkpoint-10")
    sft.train(sft.build_trainer(*command(tmp_path / "out")))
    assert [path.name for path in (tmp_path / "out").glob("checkpoint-*")] == ["checkpoint-10"]
    assert not changed_weights(tmp_path / "out", uninterrupted)


def test_a_named_checkpoint_of_another_run_is_refused_but_may_be_extended(command, uninterrupted, tmp_path):
    checkpoint = str(uninterrupted / "checkpoint-10")
    with pytest.raises(ValueError, match="seed 42 there, 7 here"):
        sft.build_trainer(*command(tmp_path, "--resume_from_checkpoint", checkpoint, "--seed", "7"))
    trainer = sft.build_trainer(
        *command(tmp_path / "longer", "--resume_from_checkpoint", checkpoint, "--max_steps", "11")
    )
    sft.train(trainer)
    assert trainer.state.global_step == 11


def test_a_run_starts_over_if_requested(command, uninterrupted, tmp_path):
    (tmp_path / "checkpoint-5").mkdir()
    (tmp_path / "checkpoint-5" / "run.json").write_text(json.dumps({"seed": 7}))
    trainer = sft.build_trainer(*command(tmp_path, "--resume_from_checkpoint", "false"))
    assert trainer.args.resume_from_checkpoint is None
