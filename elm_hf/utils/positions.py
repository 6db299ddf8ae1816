"""The number of positions that an LLM can read."""

import torch
from transformers import AutoModel, PreTrainedConfig


def stated_positions(config: PreTrainedConfig) -> int | None:
    """The number of positions in the configuration of an LLM, None without one."""
    settings = config.get_text_config(decoder=True).to_dict()
    return settings.get("max_position_embeddings", settings.get("n_positions"))


def position_limit(config: PreTrainedConfig) -> int | None:
    """
    The number of positions of an LLM with a table of them (GPT-2, OPT, GPT-J), beyond which it fails.

    Args:
        config: configuration of the LLM.

    Returns:
        The number, or None for positions that are computed (rotary, ALiBi) or that are not used.
    """
    settings = config.get_text_config(decoder=True)
    number = stated_positions(settings)
    if number is None or settings.to_dict().get("rope_parameters") or settings.to_dict().get("alibi"):
        return None
    with torch.device("meta"):
        model = AutoModel.from_config(settings)
    words = model.get_input_embeddings().weight
    tables = [
        weight for weight in (*model.parameters(), *model.buffers()) if weight.dim() == 2 and weight is not words
    ]
    return number if any(0 <= len(table) - number <= 2 for table in tables) else None  # OPT's table begins at 2
