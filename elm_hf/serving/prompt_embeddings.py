"""An ECG-language model for servers that know only its LLM, such as vLLM: the LLM alone, and prompts as embeddings."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, ProcessorMixin

from elm_hf.data.seen_patients import SeenPatients, stages_before
from elm_hf.inference.prompt_batch import PromptBatch
from elm_hf.utils.files import check_free, save_atomically


def save_language_model(model: PreTrainedModel, processor: ProcessorMixin, folder: Path) -> PreTrainedModel:
    """
    Save the LLM inside an ECG-language model as a checkpoint of its own, with the tokenizer and the record of the patients
    that it was trained on.

    Args:
        model, processor: of a full checkpoint; merge an adapter first (`elm-hf merge`).
        folder: folder to create.

    Returns:
        The LLM, which shares its weights with the model.

    Raises:
        FileExistsError: the folder is not empty.
    """
    check_free(folder)
    with torch.device("meta"):
        llm = AutoModelForCausalLM.from_config(model.config.text_config, dtype=model.dtype)
    setattr(llm, llm.base_model_prefix, model.model.language_model)
    llm.set_output_embeddings(model.lm_head)
    llm.generation_config = model.generation_config
    save_atomically([llm.eval(), processor.tokenizer, SeenPatients(stages_before(model.name_or_path))], folder)
    return llm


@torch.inference_mode()
def prompt_embeddings(
    model: PreTrainedModel, processor: ProcessorMixin, conversation: list[dict], max_new_tokens: int = 0
) -> torch.Tensor:
    """
    A prompt as the LLM reads it: the embeddings of the text, and those of the ECGs at their places.

    Args:
        model, processor: of a full checkpoint.
        conversation: messages that end with a user's turn, whose ECG items hold their ECGs.
        max_new_tokens: number of tokens that will be generated.

    Returns:
        `(tokens, embedding_size)`.

    Raises:
        ValueError: an ECG does not fit the model, or the conversation is too long for it.
    """
    batch = PromptBatch(model, processor, [conversation], max_new_tokens).to_device()
    embeddings = model.get_input_embeddings()(batch.input_ids)
    ecgs = batch.ecgs_of(0)
    if ecgs:
        features = model.get_ecg_features(**ecgs, return_dict=True).pooler_output.to(embeddings.dtype)
        mask = model.model.get_placeholder_mask(batch.input_ids, embeddings, features)
        embeddings = embeddings.masked_scatter(mask, features)
    return embeddings[0]
