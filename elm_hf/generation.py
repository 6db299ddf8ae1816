"""Loading a checkpoint and letting it answer conversations in batches."""

from collections.abc import Iterable, Iterator, Sequence
from os import PathLike
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from jinja2 import TemplateError
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoProcessor, PreTrainedConfig, PreTrainedModel, ProcessorMixin

from elm_hf.hub import check_name


def load_checkpoint(
    path_or_repo: str | PathLike, trust_remote_code: bool = False, dtype: str = "auto", device: str | None = None
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """
    Loads an ELM (a full checkpoint or a LoRA adapter) and its processor, ready to answer.

    Args:
        path_or_repo: folder or repository.
        trust_remote_code: run the code inside the checkpoint instead of elm-hf's own. Where elm-hf's classes have been
            imported before, transformers prefers them.
        dtype: precision of the weights; `"auto"` is the checkpoint's.
        device: where to put the model; a GPU if there is one.

    Raises:
        OSError: there is no such checkpoint.
        ValueError: it is not an ELM, or damaged: a file cannot be read, or weights are missing.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    name = str(path_or_repo)
    check_name(name)
    if not trust_remote_code:
        import elm_hf.modeling.modeling_elm  # they register themselves with the Auto classes
        import elm_hf.modeling.processing_elm  # noqa: F401

    options = {"dtype": dtype, "trust_remote_code": trust_remote_code}
    is_adapter = (Path(name) / "adapter_config.json").is_file()
    if not is_adapter:
        _check_is_elm(name)
    try:
        model = _load_adapter(name, options) if is_adapter else _load_model(name, options)
        processor = AutoProcessor.from_pretrained(name, trust_remote_code=trust_remote_code)
    except (ValueError, SafetensorError, StrictDataclassError) as error:
        raise ValueError(f"{name}: cannot be loaded as an ELM ({error})") from error
    return model.to(device).eval(), processor


def _check_is_elm(name: str):
    try:
        config, _ = PreTrainedConfig.get_config_dict(name)
    except OSError as error:
        raise OSError(f"{name}: {error}") from error
    model_type = config.get("model_type") if isinstance(config, dict) else None
    if model_type != "elm":
        found = "without a model_type" if model_type is None else f'of type "{model_type}"'
        raise ValueError(f'{name}: a checkpoint {found}, not an ELM ("elm").')


def _load_adapter(name: str, options: dict) -> PreTrainedModel:
    from peft import AutoPeftModelForCausalLM

    return AutoPeftModelForCausalLM.from_pretrained(name, **options)


def _load_model(name: str, options: dict) -> PreTrainedModel:
    """The model; transformers would put random weights in the place of those that the checkpoint lacks."""
    model, found = AutoModelForCausalLM.from_pretrained(
        name, output_loading_info=True, ignore_mismatched_sizes=True, **options
    )
    lacking = sorted({*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])})
    if lacking:
        raise ValueError(f"{len(lacking)} weights are missing or of another shape, such as {lacking[0]}")
    return model


@torch.inference_mode()
def answer(
    model: PreTrainedModel, processor: ProcessorMixin, conversations: Sequence[list[dict]], max_new_tokens: int = 64
) -> list[str]:
    """
    The model's greedy answers to a batch of conversations, each ending with a user's turn.

    Args:
        model: the ELM.
        processor: its processor.
        conversations: message lists whose ECG items hold their ECGs.
        max_new_tokens: longest answer.

    Raises:
        ValueError: an ECG does not fit the model, or the chat template refuses a conversation.
    """
    try:
        inputs = processor.apply_chat_template(
            conversations, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        ).to(model.device)
    except TemplateError as error:
        raise ValueError(f"{model.name_or_path}: its chat template refuses: {error}") from error
    output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    new_tokens = output[:, inputs["input_ids"].shape[1] :]
    return [text.strip() for text in processor.batch_decode(new_tokens, skip_special_tokens=True)]


def batches(rows: Sequence[int], size: int) -> Iterator[list[int]]:
    """Row numbers in chunks of `size`."""
    for start in range(0, len(rows), size):
        yield list(rows[start : start + size])


def prompt_of(messages: Iterable[dict]) -> list[dict]:
    """A conversation up to its last user's turn: what the model sees before it gives the last answer."""
    prompt = list(messages)
    while prompt and prompt[-1]["role"] == "assistant":
        prompt.pop()
    return prompt
