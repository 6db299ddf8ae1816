"""Which parts of an ELM learn, and how: whole, through LoRA adapters, or not at all."""

from peft import LoraConfig
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedConfig
from transformers.pytorch_utils import Conv1D
from trl import ModelConfig, SFTConfig, get_peft_config, get_quantization_config

from elm_hf.modeling.modeling_elm import ElmForCausalLM
from elm_hf.training.arguments import PARTS, ElmScriptArguments
from elm_hf.training.checks import check_packing
from elm_hf.training.parallelism import runs_before_sharding, shards_weights, tensor_parallelism


def load_model(
    script_args: ElmScriptArguments, training_args: SFTConfig, model_args: ModelConfig
) -> tuple[ElmForCausalLM, dict[str, int], LoraConfig | None]:
    """
    The ELM to train, its parts frozen or not.

    Returns:
        The model; the number of learning parameters of each part; PEFT's configuration, None without `--use_peft`.

    Raises:
        OSError: there is no such checkpoint.
        ValueError: options do not fit the model, or its LLM does not keep packed conversations apart.
    """
    quantization = quantization_config(model_args)
    model = ElmForCausalLM.from_pretrained(
        model_args.model_name_or_path,
        revision=model_args.model_revision,
        dtype=model_args.dtype,
        attn_implementation=model_args.attn_implementation,
        quantization_config=quantization,
        distributed_config=tensor_parallelism(model_args, training_args),
    )
    learning = set_trainable(model, script_args.trainable)
    peft_config = lora_config(model, model_args, script_args.trainable)
    if script_args.pack_by_ecg > 1 or training_args.padding_free:
        if quantization is None and not shards_weights():  # quantized weights are where they run
            model.to(training_args.device)
        if runs_before_sharding(model):
            check_packing(model, behind_prefix=script_args.pack_by_ecg > 1)
    return model, learning, peft_config


def quantization_config(model_args: ModelConfig) -> BitsAndBytesConfig | None:
    """
    From TRL's flags `load_in_4bit` (Dettmers et al. 2023, QLoRA) and `load_in_8bit`: the LLM's layers are quantized; encoder,
    projector and LM head stay in half precision, which `model_args.dtype` is set to. None without the flags; a checkpoint that
    was saved quantized is loaded as it is.
    """
    if not (model_args.load_in_4bit or model_args.load_in_8bit):
        saved, _ = PreTrainedConfig.get_config_dict(model_args.model_name_or_path, revision=model_args.model_revision)
        if "quantization_config" in saved:
            model_args.dtype = "auto"  # what is not quantized must stay as it was saved
        return None
    if model_args.dtype != "float16":
        model_args.dtype = "bfloat16"
    config = get_quantization_config(model_args)
    config.llm_int8_skip_modules = ["model.encoder", "model.projector", "lm_head"]
    return config


def set_trainable(model: ElmForCausalLM, parts: list[str]) -> dict[str, int]:
    """
    Lets the named parts learn and freezes the others. What the model does not have, such as an encoder, is no error.

    Returns:
        Number of learning parameters of each part; a weight that the LLM uses twice counts once.
    """
    modules = {
        "encoder": [model.model.encoder] if model.model.encoder is not None else [],
        "projector": [model.model.projector] if model.model.projector is not None else [],
        "llm": [model.model.language_model, model.lm_head],
        "ecg_tokens": [],  # rows of the LLM's embeddings, which PEFT singles out
    }
    model.requires_grad_(False)
    for part in parts:
        for module in modules[part]:
            for parameter in module.parameters():
                parameter.requires_grad_(parameter.is_floating_point())  # quantized weights cannot learn
    return {
        part: sum(p.numel() for p in {p for module in modules[part] for p in module.parameters()} if p.requires_grad)
        for part in PARTS
    }


def lora_config(model: ElmForCausalLM, model_args: ModelConfig, parts: list[str]) -> LoraConfig | None:
    """
    PEFT's configuration from TRL's flags: adapters in the LLM only, the other trained parts whole and saved with them.

    Args:
        model: the ELM.
        model_args: TRL's; `lora_target_modules` names layers of the LLM, all of its linear layers by default.
        parts: the parts that learn.

    Returns:
        None without `--use_peft`.

    Raises:
        ValueError: "llm" is not among the parts, the LLM has no layer of a given name, or there are no ECG tokens.
    """
    config = get_peft_config(model_args)
    if "ecg_tokens" in parts and (config is None or model.config.representation != "symbol"):
        raise ValueError(
            'ecg_tokens names the embeddings that LoRA leaves out of an ELM with representation="symbol"; this is '
            f'{"an ELM" if config is not None else "full training of an ELM"} with "{model.config.representation}".'
        )
    if config is None:
        return None
    if "llm" not in parts:
        raise ValueError(f'--use_peft puts adapters into the LLM, but --trainable is {" ".join(parts)} without "llm".')
    linear = {
        name.rsplit(".", 1)[-1]
        for name, module in model.model.language_model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    }
    targets = model_args.lora_target_modules or "all-linear"
    if isinstance(targets, str):  # TRL makes a string of a single name
        targets = sorted(linear) if targets == "all-linear" else [targets]
    unknown = sorted(set(targets) - linear)
    if unknown:
        raise ValueError(
            f"The LLM has no linear layer named {', '.join(unknown)}; it has {', '.join(sorted(linear))}."
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
