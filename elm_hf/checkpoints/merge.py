"""Merges a LoRA adapter into its base model: a full checkpoint that does not need PEFT."""

import json
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from peft import PeftConfig, PeftModel
from peft.utils import CONFIG_NAME
from torch import nn
from transformers import AutoConfig, AutoProcessor

from elm_hf.checkpoints.card import TRAINING_NAME, model_card, read_training
from elm_hf.data.seen_patients import SeenPatients, Stage, stages_before
from elm_hf.modeling.modeling_elm import ElmForCausalLM
from elm_hf.utils.files import check_free, save_atomically, write_atomically
from elm_hf.utils.hub import check_name
from elm_hf.utils.registration import register_modeling_classes


def merge_adapter(
    adapter: str | PathLike, output: str | PathLike, base: str | PathLike | None = None
) -> ElmForCausalLM:
    """
    Merges an adapter that was trained with `--use_peft` into its base model, and saves a full checkpoint.

    Args:
        adapter: folder or repository of the adapter.
        output: folder to create.
        base: folder or repository of the checkpoint that the adapter was trained on. Defaults to the base that the
            adapter names.

    Returns:
        The merged model, in the precision of its base.

    Raises:
        FileNotFoundError: the adapter or its base does not exist.
        FileExistsError: `output` exists and is not empty.
        ValueError: `adapter` is not an adapter, was trained on another base, or its base is quantized.
    """
    output = Path(output)
    check_free(output)
    check_name(str(adapter))
    if Path(adapter).is_dir() and not (Path(adapter) / CONFIG_NAME).is_file():
        raise ValueError(
            f"{adapter}: not an adapter ({CONFIG_NAME} is missing); models trained without --use_peft need no merging"
        )
    config = PeftConfig.from_pretrained(str(adapter))
    base = str(base or config.base_model_name_or_path)
    try:
        check_name(base)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{adapter}: its base model was not found ({error}); name it with --base") from error
    register_modeling_classes()
    base_config = AutoConfig.from_pretrained(base)
    if "quantization_config" in base_config.to_dict():
        raise ValueError(
            f"{base}: is quantized, and merging into quantized weights loses precision; name the checkpoint before "
            "quantization with --base"
        )
    model = ElmForCausalLM.from_pretrained(base, config=base_config, dtype="auto", use_safetensors=True)
    is_tied = _untie_head(model, config)
    try:
        adapted = PeftModel.from_pretrained(model, str(adapter))
    except (KeyError, RuntimeError) as error:  # weights have other names or shapes
        one = str(error).splitlines()[-1].strip()
        raise ValueError(
            f"{adapter}: does not fit {base} ({one}); name the checkpoint that it was trained on with --base"
        ) from error
    merged = adapted.merge_and_unload(safe_merge=True)
    if is_tied and torch.equal(merged.lm_head.weight, merged.get_input_embeddings().weight):
        merged.lm_head.weight = merged.get_input_embeddings().weight
        merged.config.tie_word_embeddings = merged.config.text_config.tie_word_embeddings = True
    seen = SeenPatients(_stages_of(str(adapter), base))
    save_atomically([merged, AutoProcessor.from_pretrained(str(adapter)), seen], output)
    training = read_training(Path(adapter))
    if training is not None:  # for the card
        training |= {"is_adapter": False, "num_parameters": merged.num_parameters()}
        training["merged_adapter"] = None if Path(adapter).is_dir() else str(adapter)
        write_atomically(output / TRAINING_NAME, json.dumps(training, indent=2) + "\n")
        model_card(output, output.name, training, []).save(output / "README.md")
    return merged


def _stages_of(adapter: str, base: str) -> list[Stage]:
    """The stages of an adapter, with those of the base that it was trained on, and those of the base if it is another one."""
    stages = stages_before(adapter)

    def is_known(stage: Stage) -> bool:
        return any(str(stage) == str(one) and np.array_equal(stage.patients, one.patients) for one in stages)

    return [stage for stage in stages_before(base) if not is_known(stage)] + stages


def _untie_head(model: ElmForCausalLM, config: PeftConfig) -> bool:
    """
    Gives the head weights of its own if it shares the input embeddings and the adapter changes one of them: learnt ECG
    tokens are inputs only. Returns whether it has done so.
    """
    changed = set(config.modules_to_save or []) - {"encoder", "projector"}
    if not (model.config.tie_word_embeddings and (config.trainable_token_indices or changed)):
        return False
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = False
    model.all_tied_weights_keys = {}  # what transformers found when the model was built
    return True
