"""The loop of `elm-hf train` (data loader, TRL, optimizer), compared with bare steps on the same batches; for `gpu.py`."""

import json
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import torch
from transformers import TrainerCallback
from trl import ModelConfig

from elm_hf.checkpoints.create import create_elm
from elm_hf.checkpoints.load import load_checkpoint
from elm_hf.modeling.modeling_elm import ElmForCausalLM
from elm_hf.prepare.dataset import prepare_dataset
from elm_hf.training import sft
from elm_hf.training.packing import IGNORE_INDEX
from elm_hf.training.parts import lora_config, set_trainable


LLM = {"model_type": "qwen2", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 4096}
# About 200 positions, so that the prefix is as long as that of ECG-QA.
SYSTEM = "You are a cardiologist. You are shown a 12-lead ECG of ten seconds and answer questions about it. " * 9
PARTS = ["projector", "llm"]


def loop_folder(folder: Path, num_ecg_tokens: int, num_recordings: int) -> None:
    """Writes a dataset, and a checkpoint of which training takes everything but the weights."""
    prepare_dataset("simulated_qa", folder / "data", seconds=10, num_recordings=num_recordings)
    (folder / "elm.json").write_text(json.dumps({"text_config": LLM | HEADS}))
    create_elm(
        folder / "elm",
        config=folder / "elm.json",
        tokenizer_dataset=str(folder / "data"),
        vocab_size=500,
        num_ecg_tokens=num_ecg_tokens,
    )
    (folder / "system.txt").write_text(SYSTEM)


class Clock(TrainerCallback):
    """Notes the time after the steps before and after those that are measured."""

    def __init__(self, warmup: int):
        self.warmup, self.times = warmup, []

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step in (self.warmup, state.max_steps):
            if args.device.type == "cuda":
                torch.cuda.synchronize()
            self.times.append(time.perf_counter())


def measure_loop(
    build: Callable[..., ElmForCausalLM], folder: Path, positions: int, questions: int, measurement, tiny: bool
) -> str:
    """
    Trains with the program's own loop, and takes bare steps on the same batches with the same model and optimizer.

    Args:
        build: builds the model for the id of the ECG token.
        folder: of [`loop_folder`].
        positions: `--tokens_per_batch`.
        questions: `--pack_by_ecg`.
        measurement: of `gpu.py`.
        tiny: whether this is a check on the CPU.

    Returns:
        What was chosen and measured, in words.
    """
    warmup, measured = (2, 4) if tiny else (30, 30)  # the first steps compile
    arguments = [
        *("--model_name_or_path", str(folder / "elm"), "--dataset", str(folder / "data")),
        *("--output_dir", str(folder / "out"), "--system_prompt_file", str(folder / "system.txt")),
        *("--pack_by_ecg", str(questions), "--tokens_per_batch", str(positions), "--trainable", *PARTS),
        *("--activation_checkpointing", str(measurement.checkpointing), "--learning_rate", "1e-5"),
        *("--max_steps", str(warmup + measured), "--report_to", "none", "--save_strategy", "no"),
        *("--disable_tqdm", "true"),
        *(["--use_peft", "--lora_dropout", "0.0"] if measurement.lora else []),
        *(["--load_in_4bit"] if measurement.four_bit and not tiny else []),
        *(["--use_cpu", "--bf16", "false"] if tiny else ["--dataloader_num_workers", "4"]),
        *(["--torch_compile_backend", "eager"] if tiny else ["--torch_compile", "true"]),
    ]
    trainer = sft_trainer(arguments, build)
    clock = Clock(warmup)
    trainer.add_callback(clock)
    trainer.train()
    loop = clock.times[1] - clock.times[0]
    batches = list(islice(trainer.get_train_dataloader(), warmup, warmup + measured))
    for _ in range(2):  # the first time compiles what the loop's dtype or gradient mode has not
        bare = bare_seconds(trainer, batches)
    conversations = sum(int(one["sequence_ids"].max(dim=1).values.sum()) for one in batches)
    real = sum(int(one["attention_mask"].sum()) for one in batches)
    laid_out = sum(one["attention_mask"].numel() for one in batches)
    lengths = sorted({one["input_ids"].shape[1] for one in batches})
    return (
        f"--tokens_per_batch {positions:,}, lengths {', '.join(map(str, lengths))}: {loop / measured:.3f} s a step, "
        f"{conversations / loop:,.0f} conversations/s, {real / loop:,.0f} positions/s ({real / laid_out:.0%} of a batch); "
        f"bare steps on the same batches {bare / measured:.3f} s: the loop has {bare / loop:.1%} of their rate"
    )


def sft_trainer(arguments: list[str], build: Callable[..., ElmForCausalLM]) -> sft.ElmTrainer:
    """The trainer of `elm-hf train` with a model that is built instead of loaded."""
    parsed = sft.parse(arguments)
    _, processor = load_checkpoint(parsed[2].model_name_or_path)

    def load_model(trainable, training_args, model_args: ModelConfig, packing):
        model = build(ecg_token_id=processor.ecg_token_id)
        return model, set_trainable(model, PARTS), lora_config(model, model_args, PARTS)

    original, sft.load_model = sft.load_model, load_model
    try:
        return sft.build_trainer(*parsed)
    finally:
        sft.load_model = original


def bare_seconds(trainer: sft.ElmTrainer, batches: list[dict]) -> float:
    """Forward and backward passes and optimizer steps over the batches, without anything else."""
    model, optimizer = trainer.model, trainer.optimizer
    device = trainer.args.device.type
    model.train()
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for batch in batches:
        with trainer.accelerator.autocast():
            loss = model(**batch, use_cache=False, fused_lm_head=True).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    if device == "cuda":
        torch.cuda.synchronize()
    assert all((batch["labels"] != IGNORE_INDEX).any() for batch in batches)
    return time.perf_counter() - start
