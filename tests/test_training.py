"""Training on simulated ECGs: trainable parts, LoRA, resuming, packing, wrong arguments, the model card."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from trl.kernels import ChunkedLogProbFunction
from trl.trainer import utils as trl_utils
from warm_python import run_python

from elm_hf.checkpoints.card import model_card, read_training
from elm_hf.checkpoints.load import load_checkpoint
from elm_hf.checkpoints.merge import merge_adapter
from elm_hf.data.loading import load_elm_dataset
from elm_hf.data.messages import fill_ecgs
from elm_hf.modeling.configuration_elm import ElmConfig
from elm_hf.modeling.modeling_elm import ElmForCausalLM
from elm_hf.prepare.dataset import prepare_dataset
from elm_hf.training import checks, sft
from elm_hf.training.arguments import ElmScriptArguments
from elm_hf.training.packing import IGNORE_INDEX
from elm_hf.utils.files import save_atomically


ROOT = Path(__file__).resolve().parents[1]


def arguments(model: Path, dataset: Path, output: Path, *more: str) -> list[str]:
    return [
        *("--model_name_or_path", str(model), "--dataset", str(dataset), "--output_dir", str(output)),
        *("--max_steps", "4", "--per_device_train_batch_size", "4", "--learning_rate", "1e-2", "--logging_steps", "1"),
        *("--report_to", "none", "--use_cpu", "--save_strategy", "no", "--disable_tqdm", "true", *more),
    ]


def parsed(*args) -> tuple:
    return sft.parse(arguments(*args))


def train(*args) -> Path:
    """Trains in this process and returns the output folder."""
    sft.train(sft.build_trainer(*parsed(*args)))
    return Path(args[2])


def losses(checkpoint: Path) -> list[float]:
    history = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


def changed_weights(before: Path, after: Path) -> set[str]:
    first, second = (load_file(folder / "model.safetensors") for folder in (before, after))
    assert first.keys() == second.keys()
    return {name for name in first if not torch.equal(first[name], second[name])}


def some_logits(model, processor, dataset: Path) -> torch.Tensor:
    row = load_elm_dataset(dataset, 1, "test")[0]
    messages = fill_ecgs(row["messages"], row["ecgs"], row["sampling_rate"])
    inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt")
    with torch.no_grad():
        return model(**inputs).logits


def test_all_parts_are_trained_by_default(tiny_elm, simulated_dataset, tmp_path):
    trained = train(tiny_elm, simulated_dataset, tmp_path / "out")
    names = changed_weights(tiny_elm, trained)
    assert names == set(load_file(tiny_elm / "model.safetensors"))
    model, processor = load_checkpoint(trained)
    assert some_logits(model, processor, simulated_dataset).isfinite().all()


def test_alignment_changes_only_the_projector(tiny_elm, simulated_dataset, tmp_path):
    trained = train(tiny_elm, simulated_dataset, tmp_path / "out", "--trainable", "projector")
    assert changed_weights(tiny_elm, trained) == {"model.projector.linear.weight", "model.projector.linear.bias"}


def test_the_loss_falls(tiny_elm, simulated_dataset, tmp_path):
    steps = ("--max_steps", "60", "--save_strategy", "steps", "--save_steps", "60", "--lr_scheduler_type", "constant")
    history = losses(train(tiny_elm, simulated_dataset, tmp_path / "out", *steps) / "checkpoint-60")
    assert sum(history[-10:]) < 0.75 * sum(history[:10])


def test_a_resumed_run_has_the_losses_of_an_uninterrupted_one(tiny_elm, simulated_dataset, tmp_path):
    settings = ("--save_strategy", "steps", "--save_steps", "2", "--max_steps", "6")
    whole = train(tiny_elm, simulated_dataset, tmp_path / "whole", *settings)
    resumed = train(
        tiny_elm,
        simulated_dataset,
        tmp_path / "resumed",
        *settings,
        "--resume_from_checkpoint",
        str(whole / "checkpoint-2"),
    )
    assert losses(resumed / "checkpoint-6") == losses(whole / "checkpoint-6")
    assert not changed_weights(whole, resumed)


def test_lora_adapts_the_llm_and_saves_the_projector(tiny_elm, simulated_dataset, tmp_path, recwarn):
    adapter = train(
        tiny_elm,
        simulated_dataset,
        tmp_path / "adapter",
        "--use_peft",
        "--lora_r",
        "4",
        "--trainable",
        "projector",
        "llm",
    )
    assert not [warning for warning in recwarn if "gradient_checkpointing" in str(warning.message)]
    weights = load_file(adapter / "adapter_model.safetensors")
    assert not (adapter / "model.safetensors").exists()
    lora = [name for name in weights if "lora_" in name]
    assert len(lora) == 2 * 7 * 2  # A and B, seven linear layers, two LLM layers
    assert all(".language_model." in name for name in lora)
    projector = next(weights[name] for name in weights if name.endswith("projector.linear.weight"))
    before = load_file(tiny_elm / "model.safetensors")["model.projector.linear.weight"]
    assert not torch.equal(projector, before)

    model = AutoPeftModelForCausalLM.from_pretrained(adapter).eval()
    _, processor = load_checkpoint(adapter)
    expected = some_logits(model, processor, simulated_dataset)
    merged = model.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    processor.save_pretrained(tmp_path / "merged")
    loaded, loaded_processor = load_checkpoint(tmp_path / "merged")
    assert torch.allclose(some_logits(loaded, loaded_processor, simulated_dataset), expected, atol=1e-4)
    base, _ = load_checkpoint(tiny_elm)
    assert not torch.allclose(some_logits(base, processor, simulated_dataset), expected, atol=1e-2)


@pytest.mark.parametrize("flag", ["--use_dora", "--use_rslora"])
def test_variants_of_lora_merge_into_a_full_checkpoint(flag, tiny_elm, simulated_dataset, tmp_path):
    options = ("--use_peft", "--lora_r", "4", flag, "--trainable", "projector", "llm")
    adapter = train(tiny_elm, simulated_dataset, tmp_path / "adapter", *options)
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config[flag.removeprefix("--")] and config["base_model_name_or_path"] == str(tiny_elm)
    _, processor = load_checkpoint(adapter)
    expected = some_logits(AutoPeftModelForCausalLM.from_pretrained(adapter).eval(), processor, simulated_dataset)
    # A fresh process, in which no classes are registered yet.
    result = run_python([Path(sys.executable).with_name("elm-hf"), "merge", adapter, tmp_path / "merged"])
    assert result.returncode == 0 and "parameters, float32" in result.stdout, result.stderr
    merged, processor = load_checkpoint(tmp_path / "merged")
    assert type(merged) is ElmForCausalLM
    assert torch.allclose(some_logits(merged, processor, simulated_dataset), expected, atol=1e-4)
    card = str(model_card(tmp_path / "merged", "user/merged", read_training(tmp_path / "merged"), []))
    assert "projector, llm (the LLM with LoRA adapters)" in card and "AutoModelForCausalLM" in card
    assert "needs peft" not in card and f"{merged.num_parameters():,}" in card


def test_errors_about_adapters_and_their_bases(tiny_elm, simulated_dataset, tmp_path):
    shutil.copytree(tiny_elm, tmp_path / "base")
    adapter = train(tmp_path / "base", simulated_dataset, tmp_path / "adapter", "--use_peft", "--max_steps", "1")
    with pytest.raises(ValueError, match="--model_name_or_path .*adapter is an adapter; .*elm-hf merge"):
        sft.build_trainer(*parsed(adapter, simulated_dataset, tmp_path / "more"))
    shutil.rmtree(tmp_path / "base")
    with pytest.raises(
        FileNotFoundError, match="adapter: its base model was not found .*base: no such folder.*--base"
    ):
        merge_adapter(adapter, tmp_path / "merged")
    with pytest.raises(
        FileNotFoundError, match="adapter: the base model of this adapter was not found .*base: no such folder.*--base"
    ):
        load_checkpoint(adapter)
    merge_adapter(adapter, tmp_path / "merged", base=tiny_elm)
    assert load_checkpoint(tmp_path / "merged")[0].num_parameters() == load_checkpoint(tiny_elm)[0].num_parameters()
    with pytest.raises(FileExistsError, match="merged is not empty"):
        merge_adapter(adapter, tmp_path / "merged", base=tiny_elm)
    model, processor = load_checkpoint(tiny_elm)
    sizes = {"text_config": model.config.text_config.to_dict() | {"hidden_size": 64}}
    other = ElmForCausalLM(ElmConfig(**model.config.to_dict() | sizes))
    save_atomically([other, processor], tmp_path / "other")
    with pytest.raises(ValueError, match="adapter: does not fit .*other .*trained on with --base"):
        merge_adapter(adapter, tmp_path / "again", base=tmp_path / "other")
    assert not (tmp_path / "again").exists()


def test_a_full_checkpoint_is_not_merged(tiny_elm, tmp_path):
    with pytest.raises(ValueError, match="elm: not an adapter .adapter_config.json is missing.*need no merging"):
        merge_adapter(tiny_elm, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_ecgs_too_short_for_the_model_are_refused_before_its_weights_are_loaded(tiny_elm, tmp_path):
    prepare_dataset("simulated_qa", tmp_path / "short", seconds=1, num_recordings=10)
    shutil.copytree(tiny_elm, tmp_path / "elm")
    (tmp_path / "elm" / "model.safetensors").write_text("broken")
    with pytest.raises(ValueError, match="--dataset does not fit the model: .* is 1 s long, the model reads 2 s"):
        sft.build_trainer(*parsed(tmp_path / "elm", tmp_path / "short", tmp_path / "out"))


def test_padding_free_batches_have_the_losses_of_padded_ones(tiny_elm, simulated_dataset, tmp_path):
    settings = ("--save_strategy", "steps", "--save_steps", "4")
    padded = train(tiny_elm, simulated_dataset, tmp_path / "padded", *settings)
    flat = train(tiny_elm, simulated_dataset, tmp_path / "flat", *settings, "--padding_free")
    first, *later = zip(losses(flat / "checkpoint-4"), losses(padded / "checkpoint-4"))
    assert first[0] == pytest.approx(first[1], rel=1e-6)
    assert all(one == pytest.approx(other, rel=1e-3) for one, other in later)  # rounding grows with the updates


def test_flex_attention_trains_without_padding(
    tiny_elm, simulated_dataset, tmp_path, flex_without_kernel, monkeypatch
):
    settings = ("--save_strategy", "steps", "--save_steps", "2", "--max_steps", "2", "--bf16", "false")
    padded = train(tiny_elm, simulated_dataset, tmp_path / "padded", *settings)
    monkeypatch.setattr(checks, "check_hardware", lambda *args: None)  # which wants a GPU
    flex = ("--padding_free", "--attn_implementation", "flex_attention")
    flat = train(tiny_elm, simulated_dataset, tmp_path / "flat", *settings, *flex)
    first, second = zip(losses(flat / "checkpoint-2"), losses(padded / "checkpoint-2"))
    assert first[0] == pytest.approx(first[1], rel=1e-6)
    assert second[0] == pytest.approx(second[1], rel=1e-3)  # rounding grows with the updates


def test_training_on_packed_questions_reduces_the_loss(tiny_elm, simulated_dataset, tmp_path):
    settings = ("--save_strategy", "steps", "--save_steps", "4", "--pack_by_ecg", "8", "--use_peft")
    packed = train(tiny_elm, simulated_dataset, tmp_path / "out", *settings)
    history = losses(packed / "checkpoint-4")
    assert history[-1] < history[0]


def test_logits_are_computed_where_a_token_is_learnt(tiny_elm, simulated_dataset, tmp_path, monkeypatch):
    trainer = sft.build_trainer(*parsed(tiny_elm, simulated_dataset, tmp_path / "out", "--pack_by_ecg", "8"))
    batch = next(iter(trainer.get_train_dataloader()))
    positions = []

    def log_probs(hidden, *more):
        positions.append(len(hidden))
        return ChunkedLogProbFunction.apply(hidden, *more)

    def loss_and_gradient() -> tuple[float, torch.Tensor]:
        loss = trainer.compute_loss(trainer.model, dict(batch))
        return float(loss), torch.autograd.grad(loss, trainer.model.get_input_embeddings().weight)[0]

    monkeypatch.setattr(trl_utils, "_ChunkedLogProbFunction", SimpleNamespace(apply=log_probs))
    loss, gradient = loss_and_gradient()
    monkeypatch.setattr(trl_utils, "_use_triton", lambda device: False)  # as TRL does it on a CPU
    of_trl, its_gradient = loss_and_gradient()
    rows, length = batch["labels"].shape
    assert positions == [int((batch["labels"][:, 1:] != IGNORE_INDEX).sum()), rows * (length - 1)]
    assert loss == pytest.approx(of_trl, rel=1e-5)
    assert torch.allclose(gradient, its_gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "more, message",
    [
        (
            ["--trainable", "decoder"],
            "--trainable takes one or more of encoder, projector, llm, ecg_tokens; got decoder",
        ),
        (["--use_peft", "--trainable", "projector"], 'without "llm"'),
        (["--use_peft", "--lora_target_modules", "query"], "no linear layer named query; it has down_proj"),
        (["--fold", "9"], "no 'fold9'; available: fold1"),
        (["--pack_by_ecg", "0"], "--pack_by_ecg is 0; expected 1"),
        (["--pack_by_ecg", "4", "--padding_free"], "choose --pack_by_ecg for many questions"),
        (["--packing"], "use --padding_free or --pack_by_ecg"),
        (["--gradient_accumulation_steps", "0"], "--gradient_accumulation_steps is 0; expected 1 or more"),
        (["--encoder_learning_rate", "2"], "--encoder_learning_rate is 2.0; expected a number between 0 and 1"),
        (
            ["--encoder_learning_rate", "1e-4", "--trainable", "projector", "llm"],
            "needs the encoder and another part in --trainable; got projector llm",
        ),
        (["--load_in_4bit"], "freeze the LLM's weights; add --use_peft"),
        (["--muon", "--optim", "sgd"], "--muon and --optim sgd name two optimizers"),
    ],
)
def test_wrong_arguments_are_named(more, message, tiny_elm, simulated_dataset, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(tiny_elm, simulated_dataset, tmp_path / "out", *more)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    "option", ["--attn_implementation flash_attention_2", "--attn_implementation flex_attention", "--fp16"]
)
def test_options_that_need_a_gpu_are_refused_without_one(option, tiny_elm, simulated_dataset, tmp_path):
    with pytest.raises(ValueError, match=f"{option} needs a GPU, and torch finds none"):
        train(tiny_elm, simulated_dataset, tmp_path / "out", *option.split())


def test_a_wrong_recipe_ends_the_program_with_one_line(tmp_path):
    recipe = "model_name_or_path: m\ndataset: [d]\noutput_dir: o\nuse_cpu: true\nlearning_rat: 1.0\n"
    (tmp_path / "recipe.yaml").write_text(recipe)
    result = run_python([ROOT / "train_sft.py", "--config", tmp_path / "recipe.yaml"])
    assert result.returncode == 1
    (line,) = [line for line in result.stderr.splitlines() if "learning_rat" in line]
    assert line.startswith("elm-hf train: Unknown arguments from config file: ['--learning_rat'")
    assert "Traceback" not in result.stderr


def test_the_system_prompt_of_training_is_saved_with_the_checkpoint(tiny_elm, simulated_dataset, tmp_path):
    (tmp_path / "prompt.txt").write_text("You read ECGs.\n")
    flag = ("--system_prompt_file", str(tmp_path / "prompt.txt"))
    _, processor = load_checkpoint(train(tiny_elm, simulated_dataset, tmp_path / "out", *flag))
    asked = [{"role": "user", "content": "What is the rhythm?"}]
    system, other = ({"role": "system", "content": words} for words in ("You read ECGs.", "Be short."))
    opened = processor.apply_chat_template(asked)
    assert opened.count("You read ECGs.") == 1
    assert processor.apply_chat_template([system, *asked]) == opened
    assert "You read ECGs." not in processor.apply_chat_template([other, *asked])
    with pytest.raises(FileNotFoundError):
        ElmScriptArguments(dataset=["d"], system_prompt_file=str(tmp_path / "none.txt"))


def test_the_card_has_a_usage_example_and_the_training_data(tiny_elm, simulated_dataset, tmp_path, monkeypatch):
    trained = train(tiny_elm, simulated_dataset, tmp_path / "my-elm", "--trainable", "projector")
    card = ModelCard.load(trained / "README.md")
    assert card.data.library_name == "transformers" and "ecg" in card.data.tags
    number = sum(
        weight.numel() for name, weight in load_file(trained / "model.safetensors").items() if "projector" in name
    )
    assert f"of which {number:,} were trained: projector |" in card.text
    assert "| data | simulated, fold 1, training split |" in card.text
    assert "| training | 4 steps of 4 conversations, learning rate 0.01 (linear), seed 42 |" in card.text
    snippet = card.text.split("```python\n")[1].split("```")[0]
    ecg = load_elm_dataset(simulated_dataset)[0]["ecgs"][0]
    monkeypatch.chdir(tmp_path)  # the card contains only the last part of the path
    exec(snippet, {"ecg": np.repeat(ecg, 2, axis=1)})  # 500 Hz, as in the example


def test_parts_that_the_model_lacks_are_refused_if_nothing_else_learns(tiny_elm, simulated_dataset, tmp_path):
    with pytest.raises(ValueError, match="--trainable encoder trains nothing: this model has no encoder"):
        train(tiny_elm, simulated_dataset, tmp_path / "out", "--trainable", "encoder")


@pytest.mark.parametrize(
    "length, message",
    [
        (("--max_steps", "0"), "--max_steps 0 trains nothing"),
        (("--max_steps", "-1", "--num_train_epochs", "0"), "--num_train_epochs 0 trains nothing"),
    ],
)
def test_a_run_without_steps_is_refused(length, message, tiny_elm, simulated_dataset, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(tiny_elm, simulated_dataset, tmp_path / "out", *length)
    assert not (tmp_path / "out").exists()


def test_no_other_model_in_the_output_folder_is_overwritten_or_mixed_with(tiny_elm, simulated_dataset, tmp_path):
    elm = shutil.copytree(tiny_elm, tmp_path / "elm")
    with pytest.raises(ValueError, match="--output_dir .*elm is the checkpoint that training starts from"):
        train(elm, simulated_dataset, elm)
    adapter = train(elm, simulated_dataset, tmp_path / "adapter", "--max_steps", "1", "--use_peft")
    with pytest.raises(ValueError, match=r"adapter holds an adapter \(adapter_config.json\)"):
        train(elm, simulated_dataset, adapter)
    other = shutil.copytree(elm, tmp_path / "other")
    with pytest.raises(ValueError, match=r"other holds a full checkpoint \(config.json\)"):
        train(elm, simulated_dataset, other, "--use_peft")
