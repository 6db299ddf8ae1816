"""Which parts of an ELM learn, and how: whole, through LoRA adapters, or not at all."""

from peft import LoraConfig
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedConfig
from transformers.pytorch_utils import Conv1D
from trl import ModelConfig, get_peft_config, get_quantization_config

from elm_hf.modeling.modeling_elm import ElmForCausalLM


PARTS = ("encoder", "projector", "llm", "ecg_tokens")


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
