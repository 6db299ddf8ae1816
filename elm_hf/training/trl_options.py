"""Options of TRL and transformers that have no effect on ELMs. They are refused, not ignored."""

import dataclasses
from pathlib import Path

from transformers import TrainingArguments
from trl import ModelConfig, SFTConfig


_TOKENIZED_HERE = "conversations are tokenized by their chat template"
_LABELS = "labels are always the assistant's words alone"
_LENGTHS = "batches are always grouped by length"
_CLASSES = "training loads elm-hf's own classes"
_LIGER = "Liger has no kernels for a model of several parts, and TRL 2 drops the option"
# Options about evaluation are checked in `validation.py`.
# Name of a field -> why another value than the default has no effect, and what has.
REFUSED = {
    "model_init_kwargs": f"{_CLASSES}; use --dtype, --attn_implementation and --model_revision, and --torch_compile in the "
    "place of use_kernels",
    "router_aux_loss_coef": "the loss of an ELM has no part for the router of a mixture of experts",
    "dataset_text_field": _TOKENIZED_HERE,
    "dataset_kwargs": _TOKENIZED_HERE,
    "eos_token": "the chat template sets the end of an answer; choose it with elm-hf create",
    "pad_token": "the tokenizer's padding token is used, which no label and no attention sees",
    "truncation_mode": "long conversations lose their oldest text first",
    "shuffle_dataset": "rows are shuffled in each epoch; --data_seed changes their order",
    "packing_strategy": "conversations are not cut into blocks; use --padding_free or --pack_by_ecg",
    "assistant_only_loss": _LABELS,
    "length_column_name": f"{_LENGTHS}, which are measured here",
    "auto_find_batch_size": "a resumed run needs a fixed batch size; set --per_device_train_batch_size",
    "use_liger_kernel": f"{_LIGER}; --torch_compile fuses the same operations",
    "liger_kernel_config": _LIGER,
    "lora_task_type": "ELMs are causal language models",
}
# Options that have the same effect with one other value.
_ALSO = {
    "completion_only_loss": ((None, True), _LABELS),
    "pad_to_multiple_of": ((None, "auto"), "batches are padded to their longest conversation"),
    "train_sampling_strategy": (("random", "group_by_length"), _LENGTHS),
    "include_num_input_tokens_seen": (("no", False, "non_padding"), "costs.json counts tokens without padding"),
}
# Options of adapters and of quantization, which do nothing without them.
_ONLY_WITH = {
    "use_peft": (
        *("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "lora_target_parameters"),
        *("lora_modules_to_save", "use_rslora", "use_dora"),
    ),
    "load_in_4bit": ("bnb_4bit_quant_type", "use_bnb_nested_quant", "bnb_4bit_quant_storage"),
}

# Options of the trainers of preferences and rewards.
_PADDED = "conversations are padded to the longest of a batch"
_GENERATED_HERE = "answers are sampled by transformers, with the ECGs in the model's cache"
OF_PREFERENCES = {
    "precompute_ref_log_probs": "the reference model reads the ECGs of each batch in training",
    "precompute_ref_batch_size": "the reference model reads the ECGs of each batch in training",
    "padding_free": _PADDED,
}
OF_REWARDS = {
    "use_vllm": _GENERATED_HERE,
    "use_transformers_continuous_batching": _GENERATED_HERE,
    "use_transformers_paged": _GENERATED_HERE,
    "cache_implementation": _GENERATED_HERE,
    "chat_template_kwargs": "the processor sets the variables of the chat template",
}


def check_trl_options(
    training_args: TrainingArguments, model_args: ModelConfig, refused: dict[str, str] | None = None
) -> None:
    """
    Checks that no option of TRL and transformers is set that an ELM's training would ignore.

    Args:
        training_args, model_args: arguments of the run.
        refused: names of options that this way of training ignores, and why.

    Raises:
        ValueError: one is set; the message names it and says why it has no effect.
    """
    reasons = REFUSED | (refused or {})
    for arguments in (training_args, model_args):
        for field in dataclasses.fields(arguments):
            value = getattr(arguments, field.name)
            if field.name in reasons and value != _default(field):
                raise ValueError(f"--{field.name} has no effect on ELMs: {reasons[field.name]}.")
            allowed, reason = _ALSO.get(field.name, ((value,), ""))
            if value not in allowed and value != _default(field):
                raise ValueError(f"--{field.name} {value} is not possible for ELMs: {reason}.")
    for needed, names in _ONLY_WITH.items():
        fields = [field for field in dataclasses.fields(model_args) if field.name in names]
        chosen = [field.name for field in fields if getattr(model_args, field.name) != _default(field)]
        if chosen and not getattr(model_args, needed):
            raise ValueError(f"--{chosen[0]} has no effect without --{needed}.")


def chat_template_of(training_args: SFTConfig) -> str | None:
    """
    The chat template of `--chat_template_path`, which replaces the model's and is saved with it; None without it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a file with a Jinja template.
    """
    if training_args.chat_template_path is None:
        return None
    path = Path(training_args.chat_template_path)
    if path.suffix not in (".jinja", ".j2"):
        raise ValueError(
            f"--chat_template_path {path}: expected a .jinja or .j2 file; the special tokens of another tokenizer are not "
            "taken over."
        )
    return path.read_text(encoding="utf-8")


def _default(field: dataclasses.Field):
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
