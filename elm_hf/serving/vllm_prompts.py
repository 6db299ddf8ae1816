"""Prompts for vLLM: token ids with one placeholder for each ECG, and the ECGs as the model reads them."""

import numpy as np
import torch
from transformers import ProcessorMixin

from elm_hf.inference.prompt_batch import OF_TEXT


# The name of ECGs among vLLM's modalities, beside "image", "video" and "audio".
MODALITY = "ecg"


def vllm_prompt(processor: ProcessorMixin, conversation: list[dict]) -> dict:
    """
    A prompt for `vllm.LLM.generate`, whose model is served by the plug-in.

    The ECGs are prepared here, by the same processor as everywhere else, and vLLM gets what the encoder reads. The
    processor's warnings about their quality appear in this process.

    Args:
        processor: of the checkpoint that vLLM serves.
        conversation: messages that end with a user's turn, whose ECG items hold their ECGs.

    Returns:
        `prompt_token_ids`, in which one placeholder stands for each ECG, and `multi_modal_data`: under `"ecg"` a
        dictionary for each ECG, with the model's inputs by name. vLLM's plug-in repeats the placeholders.

    Raises:
        ValueError: an ECG does not fit the model, or is missing.
    """
    encoded = processor.apply_chat_template(
        [conversation], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="np"
    )
    ids = encoded["input_ids"][0]
    inputs = {name: values for name, values in encoded.items() if name not in OF_TEXT}
    if not inputs:  # a conversation without ECGs, or a model whose ECGs are tokens
        return {"prompt_token_ids": ids.tolist()}
    is_placeholder = ids == processor.ecg_token_id
    is_first = np.cumsum(is_placeholder) % processor.num_ecg_tokens == 1 % processor.num_ecg_tokens
    return {
        "prompt_token_ids": ids[~is_placeholder | is_first].tolist(),
        "multi_modal_data": {MODALITY: _by_ecg(inputs)},
    }


def example_ecg(processor: ProcessorMixin) -> dict[str, torch.Tensor]:
    """
    An ECG as the model reads it, by the names of the model's inputs: with it, vLLM measures the memory that the model
    needs, and other ECGs are compared with its shapes.

    Args:
        processor: of the checkpoint.
    """
    leads, rate = processor.leads, 500
    waves = np.sin(2 * np.pi * np.arange(10 * rate) / rate) * np.linspace(0.5, 1.0, len(leads))[:, None]
    inputs, _ = processor.prepare_ecgs([waves.astype(np.float32)], rate, None)
    return _by_ecg(inputs)[0]


def checked_ecgs(data: dict | list[dict], example: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """
    The ECGs of a prompt, after checking that the model can read them: a wrong shape would end vLLM's engine.

    Args:
        data: the value of `"ecg"` in `multi_modal_data`, one ECG or several.
        example: of [`example_ecg`].

    Raises:
        ValueError: an ECG is not as [`vllm_prompt`] returns it.
    """
    ecgs = [data] if isinstance(data, dict) else data
    expected = {name: tuple(values.shape) for name, values in example.items()}
    for number, ecg in enumerate(ecgs):
        found = type(ecg).__name__
        if isinstance(ecg, dict):
            found = {name: tuple(getattr(values, "shape", ())) for name, values in ecg.items()}
        if found != expected:
            raise ValueError(
                f"multi_modal_data: ECG {number} has {found}, and this model reads {expected}; make the prompt with "
                "elm_hf.serving.vllm_prompts.vllm_prompt."
            )
    return [{name: torch.as_tensor(values) for name, values in ecg.items()} for ecg in ecgs]


def check_ecgs_are_given(prompt_token_ids: list[int], num_ecgs: int, ecg_token_id: int) -> None:
    """
    Refuses a prompt whose placeholders are not those of its ECGs: the model would answer without having seen one.

    Args:
        prompt_token_ids: the prompt, with one placeholder for each ECG.
        num_ecgs: number of ECGs that come with it.
        ecg_token_id: id of the placeholder.

    Raises:
        ValueError: the numbers differ.
    """
    found = prompt_token_ids.count(ecg_token_id)
    if found != num_ecgs:
        raise ValueError(
            f"The prompt has {found} ECG placeholders (token id {ecg_token_id}) for {num_ecgs} ECGs in multi_modal_data; "
            "make the prompt with elm_hf.serving.vllm_prompts.vllm_prompt."
        )


def _by_ecg(inputs: dict[str, np.ndarray]) -> list[dict[str, torch.Tensor]]:
    number = len(next(iter(inputs.values())))
    return [
        {name: torch.from_numpy(np.ascontiguousarray(values[row])) for name, values in inputs.items()}
        for row in range(number)
    ]
