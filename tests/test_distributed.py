"""Two processes on CPUs (gloo), started with `recipes/accelerate`, give the losses and weights of a single process."""

import json
import os
import subprocess
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils.dataclasses import get_module_class_from_name
from test_compositions import ECG_ENCODERS, VISION_ENCODERS
from test_training import losses, some_logits
from tiny_models import LLM_FAMILIES, tiny_llm
from transformers import AutoConfig
from trl import ModelConfig, SFTConfig, TrlParser
from warm_python import run_python

from elm_hf.checkpoints.load import load_checkpoint
from elm_hf.data.loading import load_elm_dataset
from elm_hf.data.preferences import Preference, write_preferences
from elm_hf.modeling.configuration_elm import ElmConfig
from elm_hf.modeling.modeling_elm import ElmForCausalLM
from elm_hf.prepare.dataset import prepare_dataset
from elm_hf.training import dpo, kto, sft
from elm_hf.training.collator import ElmDataCollator
from elm_hf.training.parallelism import tensor_parallelism
from elm_hf.training.tokenization import tokenize_conversations


ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / "recipes" / "accelerate"
STEPS = 6
# Settings of torchrun, which accelerate calls: the processes do not import the libraries again.
FORKS = {"PET_START_METHOD": "fork", "PET_RUN_PATH": "1", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def dialogues(tmp_path_factory) -> Path:
    """Conversations without ECGs, so that in some steps one of two processes has no ECG."""
    folder = tmp_path_factory.mktemp("dialogues")
    entries = [{"instruction": "", "input": f"What helps against {n}?", "output": f"Tea {n}."} for n in range(40)]
    (folder / "HealthCareMagic-100k.json").write_text(json.dumps(entries))
    prepare_dataset("health_care_magic", folder / "data", source=folder)
    return folder / "data"


@pytest.fixture(scope="module")
def arguments(tiny_elm, simulated_dataset, dialogues):
    """Arguments of a run of `STEPS` steps of 4 conversations with a number of processes."""

    def of(output: Path, processes: int, *more: str) -> list[str]:
        return [
            *("--model_name_or_path", str(tiny_elm), "--dataset", str(simulated_dataset), str(dialogues)),
            *("--dataset_probabilities", "0.4", "0.6", "--output_dir", str(output), "--max_steps", str(STEPS)),
            *("--per_device_train_batch_size", str(4 // processes), "--learning_rate", "1e-2", "--logging_steps", "1"),
            *("--save_strategy", "steps", "--save_steps", str(STEPS // 2), "--report_to", "none"),
            *("--bf16", "false", "--use_cpu", "--disable_tqdm", "true", *more),
        ]

    return of


@pytest.fixture(scope="module")
def alone(arguments, tmp_path_factory) -> Path:
    """The output folder of a single process."""
    folder = tmp_path_factory.mktemp("alone") / "out"
    sft.train(sft.build_trainer(*sft.parse(arguments(folder, 1))))
    return folder


def launch(recipe: str, processes: int, script: Path, arguments: list[str], *options: str) -> str:
    command = ["-m", "accelerate.commands.launch", "--config_file", RECIPES / recipe, *options]
    command += ["--num_processes", processes, "--mixed_precision", "no", "--main_process_port", "0"]
    result = run_python([*command, script, *arguments], os.environ | FORKS)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def check_same(folder: Path, expected: Path):
    """Compares the loss curves and the trained weights."""
    history = losses(folder / f"checkpoint-{STEPS}")
    assert len(history) == STEPS and np.ptp(history) > 0.1
    assert history == pytest.approx(losses(expected / f"checkpoint-{STEPS}"), abs=1e-4)
    check_same_weights(folder, expected)


def check_same_weights(folder: Path, expected: Path):
    (weights, _), (expected_weights, _) = load_checkpoint(folder), load_checkpoint(expected)
    for (name, weight), other in zip(weights.named_parameters(), expected_weights.parameters(), strict=True):
        assert torch.allclose(weight, other, rtol=0, atol=1e-3), name


def test_ddp_gives_the_losses_and_weights_of_one_process(arguments, alone, tmp_path):
    output = launch("ddp.yaml", 2, ROOT / "train_sft.py", arguments(tmp_path / "out", 2))
    assert output.count("Saved to") == 1
    assert json.loads((tmp_path / "out" / "costs.json").read_text())["processes"] == 2
    check_same(tmp_path / "out", alone)

    # One process resumes from the checkpoint of two.
    checkpoint = tmp_path / "out" / f"checkpoint-{STEPS // 2}"
    more = ("--resume_from_checkpoint", str(checkpoint))
    sft.train(sft.build_trainer(*sft.parse(arguments(tmp_path / "resumed", 1, *more))))
    check_same(tmp_path / "resumed", alone)


def test_fsdp2_gives_the_losses_and_weights_of_one_process(arguments, alone, simulated_dataset, tmp_path):
    script = ROOT / "tests" / "sharded_on_cpu.py"
    launch("fsdp2.yaml", 2, script, arguments(tmp_path / "out", 2))
    check_same(tmp_path / "out", alone)
    model, processor = load_checkpoint(tmp_path / "out")
    assert type(model) is ElmForCausalLM
    assert some_logits(model, processor, simulated_dataset).isfinite().all()
    code = {path.name for path in (tmp_path / "out").glob("*.py")}
    assert code == {path.name for path in alone.glob("*.py")}

    # One process resumes from the shards of two.
    checkpoint = tmp_path / "out" / f"checkpoint-{STEPS // 2}"
    assert not list(checkpoint.glob("*.safetensors")) and list(checkpoint.glob("*/*.distcp"))
    more = ("--resume_from_checkpoint", str(checkpoint))
    output = launch("fsdp2.yaml", 1, script, arguments(tmp_path / "resumed", 1, *more))
    assert f"Continuing from {checkpoint}" in output
    check_same(tmp_path / "resumed", alone)


@pytest.fixture(scope="module")
def mixed_pairs(simulated_dataset, dialogues, tmp_path_factory) -> Path:
    """Pairs of answers, every other one without ECGs, so that in some steps one of two processes has no ECG."""
    sources = [
        load_elm_dataset(path, 1, "train").with_format(None).select(range(8))
        for path in (simulated_dataset, dialogues)
    ]
    rows = [row for both in zip(*sources) for row in both]
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    write_preferences(
        [Preference(row["conversation_id"], 0, ", ".join(row["answer"]), "a wrong answer") for row in rows], path
    )
    return path


def test_preferences_and_rewards_in_two_processes(
    arguments, mixed_pairs, tiny_elm, simulated_dataset, dialogues, tmp_path
):
    """DPO and KTO give the losses and weights of one process; the processes of GRPO and RLOO have the same weights."""

    def of(method: str, folder: str, processes: int, *more: str) -> list[str]:
        shared = ("--preferences", str(mixed_pairs)) if method in ("dpo", "kto") else ("--num_generations", "2")
        datasets = (str(simulated_dataset), str(dialogues)) if method != "rloo" else (str(simulated_dataset),)
        return [
            *("--model_name_or_path", str(tiny_elm), "--dataset", *datasets, "--output_dir", str(tmp_path / folder)),
            *("--per_device_train_batch_size", str(4 // processes), "--learning_rate", "1e-2", "--logging_steps", "1"),
            *("--max_steps", "2", "--save_strategy", "steps", "--save_steps", "1", "--report_to", "none", *shared),
            *(("--max_completion_length", "4") if method in ("grpo", "rloo") else ()),
            *("--bf16", "false", "--use_cpu", "--disable_tqdm", "true", *more),
        ]

    runs = [(method, of(method, method, 2)) for method in ("dpo", "kto", "grpo", "rloo")]
    runs.append(
        ("grpo", of("grpo", "resumed", 2, "--resume_from_checkpoint", str(tmp_path / "grpo" / "checkpoint-1")))
    )
    launch("ddp.yaml", 2, ROOT / "tests" / "post_training_in_processes.py", [json.dumps(runs)])
    before = load_checkpoint(tiny_elm)[0].state_dict()
    for folder in ("dpo", "kto", "grpo", "rloo", "resumed"):
        first, second = (torch.load(tmp_path / folder / f"rank-{rank}.pt") for rank in range(2))
        assert all(weight.equal(second[name]) for name, weight in first.items()), folder
        assert folder in ("grpo", "rloo", "resumed") or not all(
            weight.equal(before[name]) for name, weight in first.items()
        )
    check_same_weights(tmp_path / "resumed", tmp_path / "grpo")

    for method, program in (("dpo", dpo), ("kto", kto)):
        resumed = ("--resume_from_checkpoint", str(tmp_path / method / "checkpoint-1"))
        for folder, more in ((f"{method}-alone", ()), (f"{method}-resumed", resumed)):
            given = sft.parse(of(method, folder, 1, *more), program.ARGUMENTS)
            sft.train(program.build_trainer(*given))
            assert losses(tmp_path / folder / "checkpoint-2") == pytest.approx(
                losses(tmp_path / method / "checkpoint-2"), abs=1e-5
            )
            check_same_weights(tmp_path / method, tmp_path / folder)


needs_deepspeed = pytest.mark.skipif(
    find_spec("deepspeed") is None, reason="needs deepspeed (pip install elm-hf[deepspeed])"
)


@needs_deepspeed
@pytest.mark.parametrize("stage", [2, 3])
def test_zero_gives_the_losses_and_weights_of_one_process(
    stage, arguments, alone, simulated_dataset, tmp_path, monkeypatch
):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    script = ROOT / "tests" / "sharded_on_cpu.py"
    launch(f"zero{stage}.yaml", 2, script, arguments(tmp_path / "out", 2))
    check_same(tmp_path / "out", alone)
    model, processor = load_checkpoint(tmp_path / "out")
    assert some_logits(model, processor, simulated_dataset).isfinite().all()

    checkpoint = tmp_path / "out" / f"checkpoint-{STEPS // 2}"
    more = ("--resume_from_checkpoint", str(checkpoint))
    output = launch(f"zero{stage}.yaml", 2, script, arguments(tmp_path / "resumed", 2, *more))
    assert f"Continuing from {checkpoint}" in output
    check_same(tmp_path / "resumed", alone)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["fsdp2.yaml", pytest.param("zero3.yaml", marks=needs_deepspeed)])
@pytest.mark.parametrize(
    "options",
    [
        ("--use_peft", "--lora_r", "4", "--lora_dropout", "0", "--trainable", "projector", "llm"),
        ("--pack_by_ecg", "4"),
        ("--padding_free",),
        ("--gradient_checkpointing", "true"),
    ],
    ids=lambda options: options[0],
)
def test_options_give_the_losses_and_weights_of_one_process(recipe, options, arguments, tmp_path, monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    sft.train(sft.build_trainer(*sft.parse(arguments(tmp_path / "alone", 1, *options))))
    launch(recipe, 2, ROOT / "tests" / "sharded_on_cpu.py", arguments(tmp_path / "out", 2, *options))
    check_same(tmp_path / "out", tmp_path / "alone")


@pytest.mark.slow
def test_tensor_parallelism_gives_the_losses_and_weights_of_one_process(arguments, alone, tmp_path):
    script, size = ROOT / "tests" / "sharded_on_cpu.py", ("--parallelism_config_tp_size", "2")
    launch("tensor_parallel.yaml", 2, script, arguments(tmp_path / "out", 1, "--save_strategy", "no"), *size)
    assert losses(tmp_path / "out") == pytest.approx(losses(alone / f"checkpoint-{STEPS}"), abs=1e-4)
    check_same_weights(tmp_path / "out", alone)
    costs, expected = [json.loads((folder / "costs.json").read_text()) for folder in (tmp_path / "out", alone)]
    assert costs["processes"] == 2 and costs["tokens"] == expected["tokens"]


@pytest.mark.parametrize("family", ["llama", pytest.param("qwen2", marks=pytest.mark.slow)])
def test_tensor_parallelism_answers_as_the_whole_model(family, tmp_path):
    model = ElmForCausalLM.from_encoder_llm_pretrained(None, tiny_llm(family), ecg_token_id=1)
    model.save_pretrained(tmp_path / "whole")
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [ROOT / "tests" / "tensor_parallel_answers.py", tmp_path / "whole", tmp_path / "saved"]
    result = run_python(command, os.environ | FORKS)
    assert result.returncode == 0, result.stderr[-3000:]
    saved = ElmForCausalLM.from_pretrained(tmp_path / "saved")
    for (name, weight), other in zip(saved.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(weight, other), name


@pytest.mark.parametrize(
    "family, options, message",
    [
        ("gpt2", ["--save_strategy", "no"], 'no plan for tensor parallelism of the "gpt2" LLM'),
        ("opt", ["--save_strategy", "no"], 'no plan for tensor parallelism of the "opt" LLM'),
        ("llama", [], "cannot resume training with tensor parallelism; add --save_strategy no"),
        ("llama", ["--save_strategy", "no", "--use_peft"], "--use_peft cannot be combined with tensor parallelism"),
        ("llama", ["--save_strategy", "no"], "4 processes cannot share the LLM's 2 key and value heads"),
    ],
)
def test_what_tensor_parallelism_cannot_do_is_refused(family, options, message, tmp_path, monkeypatch):
    ElmConfig(text_config=tiny_llm(family).config, ecg_token_id=1).save_pretrained(tmp_path)
    parser = TrlParser((SFTConfig, ModelConfig))
    training_args, model_args = parser.parse_args_and_config(
        [
            "--model_name_or_path",
            str(tmp_path),
            "--output_dir",
            str(tmp_path),
            "--use_cpu",
            "--bf16",
            "false",
            *options,
        ]
    )
    monkeypatch.setenv("ACCELERATE_USE_PARALLELISM_CONFIG", "true")
    monkeypatch.setenv("PARALLELISM_CONFIG_TP_SIZE", "4")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ValueError, match=message):
        tensor_parallelism(model_args, training_args)


def test_a_batch_without_ecgs_runs_the_projector_with_zero_gradients(tiny_elm, dialogues):
    model, processor = load_checkpoint(tiny_elm)
    dataset = load_elm_dataset(dialogues)
    gradients = {}
    for padding_free in (False, True):
        for ecg_in_every_batch in (False, True):
            collator = ElmDataCollator(processor, padding_free=padding_free, ecg_in_every_batch=ecg_in_every_batch)
            batch = collator([tokenize_conversations(dataset, collator.tokenize)[index] for index in range(3)])
            assert ("ecg_values" in batch) == ecg_in_every_batch
            model.zero_grad()
            loss = model(**batch, num_items_in_batch=(batch["labels"][:, 1:] != -100).sum()).loss
            loss.backward()
            gradients[ecg_in_every_batch] = [loss, *(p.grad for p in model.model.language_model.parameters())]
            of_projector = [p.grad for p in model.model.projector.parameters()]
            assert all((gradient is not None) == ecg_in_every_batch for gradient in of_projector)
            assert not any(gradient.any() for gradient in of_projector if ecg_in_every_batch)
        for gradient, other in zip(*gradients.values(), strict=True):
            assert torch.allclose(gradient, other, atol=1e-6)


ENCODERS = {"none": None} | ECG_ENCODERS | VISION_ENCODERS


@pytest.mark.parametrize(
    "family, encoder", [*((family, "none") for family in LLM_FAMILIES), *(("qwen2", name) for name in ENCODERS)]
)
def test_fsdp_finds_the_layers_of(family, encoder):
    encoder_config = None if encoder == "none" else AutoConfig.for_model(**ENCODERS[encoder])
    config = ElmConfig(
        text_config=tiny_llm(family).config,
        encoder_config=encoder_config,
        representation="image" if encoder in VISION_ENCODERS else "signal",
        ecg_token_id=1,
    )
    with torch.device("meta"):
        model = ElmForCausalLM(config)
    wrapped = [get_module_class_from_name(model, name) for name in model._no_split_modules]
    assert None not in wrapped  # accelerate would raise an error
    layers = [module for module in model.model.language_model.modules() if type(module) in wrapped]
    assert len(layers) == config.text_config.num_hidden_layers


@pytest.mark.parametrize("recipe", sorted(path.name for path in RECIPES.glob("*.yaml")))
def test_accelerate_knows_every_key_of(recipe):
    config = load_config_from_file(str(RECIPES / recipe))
    assert config.mixed_precision == "bf16"
    assert config.num_processes == {"single_gpu.yaml": 1}.get(recipe, 8 * config.num_machines)


def test_the_slurm_script_starts_every_node_with_its_rank(tmp_path):
    (tmp_path / "scontrol").write_text("#!/bin/sh\nprintf 'node7\\nnode8\\n'\n")
    (tmp_path / "srun").write_text('#!/bin/sh\nshift\nfor rank in 0 1; do SLURM_NODEID=$rank "$@"; done\n')
    (tmp_path / "accelerate").write_text('#!/bin/sh\nfor word in "$@"; do printf "<%s> " "$word"; done\necho\n')
    for program in tmp_path.iterdir():
        program.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    environment |= {"SLURM_JOB_NODELIST": "node[7-8]", "SLURM_NNODES": "2"}
    command = ["bash", str(RECIPES / "slurm.sh"), "my recipe.yaml", "--seed", "1"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    expected = "<--num_machines> <2> <--num_processes> <16> <--machine_rank> <{}> <--main_process_ip> <node7> "
    lines = result.stdout.splitlines()
    assert len(lines) == 2
    for rank, line in enumerate(lines):
        assert expected.format(rank) in line
        assert line.endswith("<-m> <elm_hf.training.sft> <--config> <my recipe.yaml> <--seed> <1> ")
