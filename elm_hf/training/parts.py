"""The trainable parts of an ELM: trained in full, with LoRA adapters, or frozen."""

import warnings

from peft import LoraConfig
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedConfig, TrainingArguments
from transformers.pytorch_utils import Conv1D
from trl import ModelConfig, get_peft_config, get_quantization_config

from elm_hf.modeling.modeling_elm import ElmForCausalLM
from elm_hf.training.arguments import PARTS
from elm_hf.training.checks import check_packing
from elm_hf.training.parallelism import runs_before_sharding, shards_weights, tensor_parallelism


def load_model(
    trainable: list[str], training_args: TrainingArguments, model_args: ModelConfig, packing: str | None = None
) -> tuple[ElmForCausalLM, dict[str, int], LoraConfig | None]:
    """
    Loads the ELM to train and freezes its other parts.

    Args:
        trainable: the parts to train.
        training_args, model_args: arguments of the run.
        packing: how conversations are packed, `"prefix"` or `"padding_free"`, if they are.

    Returns:
        The model; the number of trainable parameters of each part; the configuration of PEFT, None without
        `--use_peft`.

    Raises:
        OSError: the checkpoint does not exist.
        ValueError: options do not fit the model, or its LLM does not keep packed conversations apart.
    """
    # PEFT and TRL read a property that transformers renames, at the start and in every step.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
    quantization = quantization_config(model_args)
    model = _load(
        model_args,
        quantization_config=quantization,
        distributed_config=tensor_parallelism(model_args, training_args),
    )
    learning = set_trainable(model, trainable)
    peft_config = lora_config(model, model_args, trainable)
    if not any(learning.values()):
        raise ValueError(
            f"--trainable {' '.join(trainable)} trains nothing: this model has no {' and no '.join(trainable)}."
        )
    if packing is not None:
        if quantization is None and not shards_weights():  # quantized weights are on their device already
            model.to(training_args.device)
        if runs_before_sharding(model):
            check_packing(model, behind_prefix=packing == "prefix")
    return model, learning, peft_config


def load_reference(model_args: ModelConfig) -> ElmForCausalLM:
    """Loads the model before the training, with which the trained one is compared."""
    return _load(model_args).requires_grad_(False).eval()


def _load(model_args: ModelConfig, **options) -> ElmForCausalLM:
    return ElmForCausalLM.from_pretrained(
        model_args.model_name_or_path,
        revision=model_args.model_revision,
        dtype=model_args.dtype,
        use_safetensors=True,
        attn_implementation=model_args.attn_implementation,
        **options,
    )


def quantization_config(model_args: ModelConfig) -> BitsAndBytesConfig | None:
    """
    The quantization for TRL's flags `load_in_4bit` (Dettmers et al. 2023, QLoRA) and `load_in_8bit`; None without
    them.

    The layers of the LLM are quantized. Encoder, projector and LM head stay in half precision, and `model_args.dtype`
    is set to it. A checkpoint that was saved quantized keeps its precision.
    """
    if not (model_args.load_in_4bit or model_args.load_in_8bit):
        saved, _ = PreTrainedConfig.get_config_dict(model_args.model_name_or_path, revision=model_args.model_revision)
        if "quantization_config" in saved:
            model_args.dtype = "auto"  # weights that are not quantized keep their saved precision
        return None
    if model_args.dtype != "float16":
        model_args.dtype = "bfloat16"
    config = get_quantization_config(model_args)
    config.llm_int8_skip_modules = ["model.encoder", "model.projector", "lm_head"]
    return config


def set_trainable(model: ElmForCausalLM, parts: list[str]) -> dict[str, int]:
    """
    Makes the named parts trainable and freezes the others. Parts that the model lacks, such as an encoder, are
    ignored.

    Returns:
        Number of trainable parameters of each part. Tied weights count once.
    """
    modules = {
        "encoder": [model.model.encoder] if model.model.encoder is not None else [],
        "projector": [model.model.projector] if model.model.projector is not None else [],
        "llm": [model.model.language_model, model.lm_head],
        "ecg_tokens": [],  # rows of the LLM's embeddings, which PEFT selects
    }
    model.requires_grad_(False)
    for part in parts:
        for module in modules[part]:
            for parameter in module.parameters():
                parameter.requires_grad_(parameter.is_floating_point())  # quantized weights cannot be trained
    return {
        part: sum(p.numel() for p in {p for module in modules[part] for p in module.parameters()} if p.requires_grad)
        for part in PARTS
    }


def lora_config(model: ElmForCausalLM, model_args: ModelConfig, parts: list[str]) -> LoraConfig | None:
    """
    The configuration of PEFT for TRL's flags: adapters in the LLM only; other parts are trained in full and saved with
    the adapters.

    Args:
        model: the ELM.
        model_args: TRL's arguments. `lora_target_modules` names layers of the LLM; default: all of its linear layers.
        parts: the trainable parts.

    Returns:
        The configuration, or None without `--use_peft`.

    Raises:
        ValueError: "llm" is not among the parts, the LLM has no layer of the given name, or there are no ECG tokens.
    """
    config = get_peft_config(model_args)
    if "ecg_tokens" in parts and (config is None or model.config.representation != "symbol"):
        raise ValueError(
            'ecg_tokens in --trainable needs --use_peft and an ELM with representation "symbol"; found representation '
            f'"{model.config.representation}" {"without" if config is None else "with"} --use_peft.'
        )
    if config is None:
        return None
    if "llm" not in parts:
        raise ValueError(f'--use_peft adds adapters to the LLM, but --trainable is {" ".join(parts)} without "llm".')
    linear = {
        name.rsplit(".", 1)[-1]
        for name, module in model.model.language_model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    }
    targets = model_args.lora_target_modules or "all-linear"
    if isinstance(targets, str):  # TRL turns a single name into a string
        targets = sorted(linear) if targets == "all-linear" else [targets]
    unknown = sorted(set(targets) - linear)
    if unknown:
        raise ValueError(
            f"--lora_target_modules: the LLM has no linear layer named {', '.join(unknown)}; it has "
            f"{', '.join(sorted(linear))}."
        )
    config.target_modules = rf"model\.language_model\..*\.({'|'.join(targets)})"
    if "ecg_tokens" in parts:
        first = model.config.ecg_token_offset
        embeddings = next(
            name for name, module in model.named_modules() if module is model.get_input_embeddings()
        ).rsplit(".", 1)[-1]
        config.trainable_token_indices = {embeddings: list(range(first, first + model.config.ecg_vocab_size))}
    saved = [part for part in ("encoder", "projector") if part in parts and getattr(model.model, part) is not None]
    config.modules_to_save = [*(config.modules_to_save or []), *saved]
    return config
