"""What `train_sft.py` needs beside TRL: its arguments, which parts learn, LoRA inside the LLM only, batches by length."""

from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset
from peft import LoraConfig
from torch import nn
from transformers.pytorch_utils import Conv1D
from trl import ModelConfig, get_peft_config

from elm_hf.modeling.modeling_elm import ElmForCausalLM


PARTS = ("encoder", "projector", "llm", "ecg_tokens")
LENGTH_STEP = 64


@dataclass
class ElmScriptArguments:
    """
    Arguments of `train_sft.py` beside those of TRL's `SFTConfig` and `ModelConfig`.

    Args:
        dataset: Folders or Hub names of datasets in the layout of elm-hf; several are mixed.
        dataset_probabilities: How often to draw from each dataset; one after the other by default.
        merge_questions: Join up to so many conversations about the same ECGs into one, so that the ECGs are read once.
        fold: Fold to train on: 1 to 5, or "official".
        trainable: Parts that learn: encoder, projector, llm. With LoRA, "llm" means its adapters, and ecg_tokens, the
            embeddings of the ECG tokens of a "symbol" model, which stay as they are otherwise (Han et al. 2024).
        system_prompt_file: Text file whose content opens conversations that have no system message.
    """

    dataset: list[str] = field(metadata={"help": "Folders or Hub names of elm-hf datasets; several are mixed."})
    dataset_probabilities: list[float] | None = field(
        default=None, metadata={"help": "How often to draw from each dataset; one after the other by default."}
    )
    merge_questions: int = field(
        default=1, metadata={"help": "Join up to so many conversations about the same ECGs into one."}
    )
    fold: str = field(default="1", metadata={"help": 'Fold to train on: 1 to 5, or "official".'})
    trainable: list[str] = field(
        default_factory=lambda: ["encoder", "projector", "llm"],
        metadata={
            "help": 'Parts that learn: encoder, projector, llm. With LoRA, "llm" means its adapters, and the embeddings '
            "of a symbol model's ECG tokens learn if ecg_tokens is named, too."
        },
    )
    system_prompt_file: str | None = field(
        default=None, metadata={"help": "Text file whose content opens conversations that have no system message."}
    )

    def __post_init__(self):
        unknown = sorted(set(self.trainable) - set(PARTS))
        if unknown or not self.trainable:
            raise ValueError(f"--trainable takes some of {', '.join(PARTS)}; got {', '.join(unknown) or 'nothing'}.")

    @property
    def system_prompt(self) -> str | None:
        """The content of `system_prompt_file`."""
        if self.system_prompt_file is None:
            return None
        return Path(self.system_prompt_file).read_text(encoding="utf-8").strip()


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
            module.requires_grad_(True)
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


def add_lengths(dataset: Dataset, num_ecg_tokens: int) -> Dataset:
    """
    Adds the column `length`, by which the trainer groups its batches: four characters of text count as a token.

    Lengths are rounded up to `LENGTH_STEP` tokens. Exact ones would fill a batch with one template's questions, since
    those are equally long, and the loss would jump from batch to batch.

    Args:
        dataset: conversations as `load_elm_dataset` gives them.
        num_ecg_tokens: positions that one ECG takes.
    """

    def length(messages: list[dict]) -> int:
        items = [item for message in messages for item in message["content"]]
        tokens = sum(num_ecg_tokens if item["type"] == "ecg" else len(item["text"]) // 4 for item in items)
        return -(-tokens // LENGTH_STEP) * LENGTH_STEP

    return dataset.add_column("length", [length(messages) for messages in dataset["messages"]])
