"""The parts of an ECG-language model for vLLM, which has classes of its own for LLMs: what is not the LLM, and names."""

import torch
from transformers import AutoModelForCausalLM

from elm_hf.modeling.configuration_elm import ElmConfig
from elm_hf.modeling.modeling_elm import ElmModel, ElmPreTrainedModel
from elm_hf.modeling.modeling_elm_encoder import build_encoders
from elm_hf.modeling.modeling_elm_projector import build_projector


# Names of the weights of encoder and projector in a checkpoint, and of the LLM's backbone and head.
TOWER_PREFIXES = ("model.encoder.", "model.projector.")
BACKBONE_PREFIX, HEAD_PREFIX = "model.language_model.", "lm_head."


class EcgTower(ElmModel):
    """
    [`ElmModel`] without its LLM: encoder and projector, whose `get_ecg_features` turns ECGs into embeddings.

    Args:
        config: configuration of the ECG-language model.
    """

    def __init__(self, config: ElmConfig):
        ElmPreTrainedModel.__init__(self, config)
        self.encoder = build_encoders(config)
        self.projector = build_projector(config)


def llm_prefixes(config: ElmConfig) -> dict[str, str]:
    """
    How the weights of the LLM are named in a checkpoint of the LLM alone, as vLLM's class of it expects them.

    Args:
        config: configuration of the ECG-language model.

    Returns:
        The beginning of a name in the ECG-language model, and that in the LLM.
    """
    with torch.device("meta"):
        llm = AutoModelForCausalLM.from_config(config.text_config)
    head = llm.get_output_embeddings()
    (head_name,) = [name for name, module in llm.named_modules() if module is head]
    return {BACKBONE_PREFIX: f"{llm.base_model_prefix}.", HEAD_PREFIX: f"{head_name}."}
