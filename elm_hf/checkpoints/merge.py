"""Merging a LoRA adapter into its base: a full checkpoint that needs no PEFT."""

import json
from os import PathLike
from pathlib import Path

from peft import PeftConfig, PeftModel
from peft.utils import CONFIG_NAME
from transformers import AutoConfig, AutoProcessor

from elm_hf.checkpoints.card import TRAINING_NAME, read_training
from elm_hf.modeling.modeling_elm import ElmForCausalLM
from elm_hf.utils.files import check_free, save_whole, write_whole
from elm_hf.utils.hub import check_name
from elm_hf.utils.registration import register_modeling_classes


def merge_adapter(
    adapter: str | PathLike, output: str | PathLike, base: str | PathLike | None = None
) -> ElmForCausalLM:
    """
    Writes a full checkpoint of an adapter that `train_sft.py --use_peft` trained.

    Args:
        adapter: folder or repository of the adapter.
        output: folder to make.
        base: folder or repository of the full checkpoint that the adapter was trained on; the one that it names by default.

    Returns:
        The merged model, in the precision of its base.

    Raises:
        FileNotFoundError: there is no such adapter, or its base is not where it says.
        FileExistsError: `output` is there and not empty.
        ValueError: `adapter` is none, was trained on another base, or its base is quantized.
    """
    output = Path(output)
    check_free(output)
    check_name(str(adapter))
    if Path(adapter).is_dir() and not (Path(adapter) / CONFIG_NAME).is_file():
        raise ValueError(
            f"{adapter}: no adapter ({CONFIG_NAME} is missing); a checkpoint trained without --use_peft needs no merging"
        )
    config = PeftConfig.from_pretrained(str(adapter))
    base = str(base or config.base_model_name_or_path)
    try:
        check_name(base)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{adapter}: its base is not there ({error}); name it with --base") from error
    register_modeling_classes()
    base_config = AutoConfig.from_pretrained(base)
    if "quantization_config" in base_config.to_dict():
        raise ValueError(
            f"{base}: quantized, and adapters cannot be merged into quantized weights without loss; name the checkpoint that "
            "it was quantized from with --base"
        )
    model = ElmForCausalLM.from_pretrained(base, config=base_config, dtype="auto")
    try:
        adapted = PeftModel.from_pretrained(model, str(adapter))
    except (KeyError, RuntimeError) as error:  # weights of other names, or of other shapes
        one = str(error).splitlines()[-1].strip()
        raise ValueError(
            f"{adapter}: does not fit {base} ({one}); name the checkpoint that it was trained on with --base"
        ) from error
    merged = adapted.merge_and_unload(safe_merge=True)
    save_whole([merged, AutoProcessor.from_pretrained(str(adapter))], output)
    training = read_training(Path(adapter))
    if training is not None:  # for the card
        training |= {"is_adapter": False, "num_parameters": merged.num_parameters()}
        write_whole(output / TRAINING_NAME, json.dumps(training, indent=2) + "\n")
    return merged
