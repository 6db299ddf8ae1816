"""The number of positions that an LLM can read."""

from transformers import PreTrainedConfig


def position_limit(config: PreTrainedConfig) -> int | None:
    """
    The number of positions of an LLM with a table of them (GPT-2, OPT), beyond which it fails.

    Args:
        config: configuration of the LLM.

    Returns:
        The number, or None for rotary positions (`rope_parameters`) and ALiBi (Bloom, MPT, some Falcon), which are not
        bounded.
    """
    settings = config.get_text_config(decoder=True).to_dict()
    if settings.get("rope_parameters") or settings.get("alibi"):
        return None
    return settings.get("max_position_embeddings", settings.get("n_positions"))
