"""Every option of TRL and transformers has an effect on an ELM's training, or is refused by name."""

import dataclasses
import re

import pytest
from test_training import parsed
from trl import DPOConfig, GRPOConfig, KTOConfig, ModelConfig, SFTConfig

from elm_hf.checkpoints.load import load_checkpoint
from elm_hf.training import sft
from elm_hf.training.trl_options import OF_PREFERENCES, OF_REWARDS, REFUSED, check_trl_options


# Options that work, checked one by one with TRL 1.16 and transformers 5.23. A new version may add others: decide for
# each whether an ELM's training follows it, or refuse it in `trl_options.py`.
WORK = {
    # model and adapters
    *(
        "model_name_or_path",
        "model_revision",
        "dtype",
        "attn_implementation",
        "trust_remote_code",
        "use_peft",
        "lora_r",
        "lora_alpha",
    ),
    *(
        "lora_dropout",
        "lora_target_modules",
        "lora_target_parameters",
        "lora_modules_to_save",
        "use_rslora",
        "use_dora",
    ),
    *("load_in_8bit", "load_in_4bit", "bnb_4bit_quant_type", "use_bnb_nested_quant", "bnb_4bit_quant_storage"),
    # text
    *("chat_template_path", "dataset_num_proc", "max_length", "padding_free", "loss_type", "completion_only_loss"),
    "pad_to_multiple_of",
    "packing",  # refused by `check_arguments`
    *("eval_packing", "include_for_metrics", "batch_eval_metrics", "do_predict"),  # refused by `check_evaluation`
    # steps
    *("per_device_train_batch_size", "num_train_epochs", "max_steps", "learning_rate", "lr_scheduler_type"),
    *("lr_scheduler_kwargs", "warmup_steps", "optim", "optim_args", "weight_decay", "adam_beta1", "adam_beta2"),
    *("adam_epsilon", "optim_target_modules", "gradient_accumulation_steps", "average_tokens_across_devices"),
    *("max_grad_norm", "label_smoothing_factor", "neftune_noise_alpha", "seed", "data_seed", "full_determinism"),
    *("train_sampling_strategy", "ignore_data_skip", "restore_callback_states_from_checkpoint"),
    # precision, memory, speed
    *("bf16", "fp16", "bf16_full_eval", "fp16_full_eval", "tf32", "activation_checkpointing"),
    *("activation_checkpointing_kwargs", "gradient_checkpointing", "gradient_checkpointing_kwargs"),
    *("activation_offloading", "torch_compile", "torch_compile_backend", "torch_compile_mode", "use_cache"),
    *("torch_empty_cache_steps", "use_cpu", "dataloader_drop_last", "dataloader_num_workers"),
    *("dataloader_pin_memory", "dataloader_persistent_workers", "dataloader_prefetch_factor"),
    *("dataloader_multiprocessing_context", "dataloader_in_order"),
    # several processes
    *("accelerator_config", "parallelism_config", "ddp_find_unused_parameters", "ddp_bucket_cap_mb"),
    *("ddp_broadcast_buffers", "ddp_static_graph", "ddp_backend", "ddp_timeout", "fsdp", "fsdp_config", "deepspeed"),
    "local_rank",
    # output
    *("output_dir", "logging_strategy", "logging_steps", "logging_first_step", "log_on_each_node"),
    *("logging_nan_inf_filter", "include_num_input_tokens_seen", "log_level", "log_level_replica", "disable_tqdm"),
    *("report_to", "run_name", "project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"),
    *("save_only_model", "save_strategy", "save_steps", "save_on_each_node", "save_total_limit"),
    *("enable_jit_checkpoint", "resume_from_checkpoint", "push_to_hub", "hub_token", "hub_private_repo"),
    *("hub_model_id", "hub_strategy", "hub_always_push", "hub_revision", "debug", "skip_memory_metrics"),
    # evaluation
    *("eval_strategy", "eval_steps", "eval_delay", "per_device_eval_batch_size", "prediction_loss_only"),
    *("eval_on_start", "eval_do_concat_batches", "eval_use_gather_object", "eval_accumulation_steps"),
    *("load_best_model_at_end", "metric_for_best_model", "greater_is_better", "label_names"),
    # set to what ELMs need, whatever they are: training always does this, and reads all columns
    *("do_train", "do_eval", "remove_unused_columns"),
}


def test_every_option_works_or_is_refused():
    fields = {field.name for each in (SFTConfig, ModelConfig) for field in dataclasses.fields(each)}
    assert WORK & REFUSED.keys() == set()
    assert fields == WORK | REFUSED.keys()


@pytest.mark.parametrize("name", REFUSED)
def test_options_without_effect_are_refused_by_name(name):
    other = {
        "model_init_kwargs": {"a": 1},
        "router_aux_loss_coef": 0.5,
        "dataset_text_field": "t",
        "dataset_kwargs": {"a": 1},
        "truncation_mode": "keep_end",
        "packing_strategy": "wrapped",
        "liger_kernel_config": {"rope": True},
        "lora_task_type": "SEQ_CLS",
        "length_column_name": "n",
        "eos_token": "<|end|>",
        "pad_token": "<|end|>",
    }.get(name, True)
    training_args, model_args = SFTConfig(output_dir="out", use_cpu=True), ModelConfig()
    setattr(model_args if hasattr(model_args, name) else training_args, name, other)
    with pytest.raises(ValueError, match=f"--{name} has no effect on ELMs: "):
        check_trl_options(training_args, model_args)


@pytest.mark.parametrize(
    "more, message",
    [
        (["--pad_to_multiple_of", "8"], "--pad_to_multiple_of 8 is not possible for ELMs: batches are padded to"),
        (["--completion_only_loss", "false"], "--completion_only_loss False is not possible for ELMs: labels are"),
        (["--train_sampling_strategy", "sequential"], "--train_sampling_strategy sequential is not possible"),
        (["--include_num_input_tokens_seen", "true"], "--include_num_input_tokens_seen all is not possible"),
        (["--lora_r", "8"], "--lora_r has no effect without --use_peft"),
        (["--use_bnb_nested_quant"], "--use_bnb_nested_quant has no effect without --load_in_4bit"),
        (["--chat_template_path", "someone/model"], "--chat_template_path someone/model: expected a .jinja or .j2"),
    ],
)
def test_options_that_would_be_overruled_are_refused_before_anything_is_loaded(more, message, tmp_path):
    arguments = [
        "--model_name_or_path",
        "none",
        "--dataset",
        "none",
        "--output_dir",
        str(tmp_path),
        "--use_cpu",
        *more,
    ]
    with pytest.raises(ValueError, match=message):
        sft.build_trainer(*sft.parse(arguments))


def test_a_chat_template_is_trained_and_saved(tiny_elm, simulated_dataset, tmp_path):
    path = tmp_path / "other.jinja"
    path.write_text("{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|system|>{% endfor %}")
    output = tmp_path / "out"
    trainer = sft.build_trainer(*parsed(tiny_elm, simulated_dataset, output, "--chat_template_path", str(path)))
    end = trainer.processing_class.tokenizer.convert_tokens_to_ids("<|system|>")
    labels = trainer.train_dataset[0]["labels"]
    assert labels[labels >= 0][-1] == end
    trainer.save_model(str(output))
    model, processor = load_checkpoint(output)
    assert processor.chat_template.endswith(path.read_text())
    assert end in model.generation_config.eos_token_id


@pytest.mark.parametrize(
    ("config", "refused"), [(DPOConfig, OF_PREFERENCES), (KTOConfig, OF_PREFERENCES), (GRPOConfig, OF_REWARDS)]
)
def test_options_without_effect_on_preferences_and_rewards_are_refused(config, refused):
    check_trl_options(config(output_dir="out", use_cpu=True, bf16=False), ModelConfig(), refused)
    fields = {field.name: field for field in dataclasses.fields(config)}
    names = [name for name in refused if name in fields]
    assert len(names) >= 2
    for name in names:
        arguments = config(output_dir="out", use_cpu=True, bf16=False)
        setattr(
            arguments, name, not fields[name].default if isinstance(fields[name].default, bool) else {"changed": 1}
        )
        with pytest.raises(ValueError, match=f"--{name} has no effect on ELMs: {re.escape(refused[name])}"):
            check_trl_options(arguments, ModelConfig(), refused)


@pytest.mark.parametrize(
    "more, expected",
    [((), True), (("--activation_checkpointing", "false"), False), (("--gradient_checkpointing", "false"), False)],
)
def test_activations_are_computed_again_unless_turned_off(more, expected, tmp_path):
    _, training_args, *_ = parsed(tmp_path, tmp_path, tmp_path / "out", *more)
    assert training_args.activation_checkpointing is training_args.gradient_checkpointing is expected


def test_default_options_are_not_deprecated_ones(tmp_path, recwarn):
    parsed(tmp_path, tmp_path, tmp_path / "out")
    assert [str(one.message) for one in recwarn if issubclass(one.category, FutureWarning)] == []
