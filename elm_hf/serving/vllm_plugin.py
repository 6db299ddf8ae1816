"""The plug-in of vLLM: its entry point `vllm.general_plugins` calls `register` in each of vLLM's processes."""

ARCHITECTURE = "ElmForCausalLM"
# By name, so that vLLM imports the model only in the processes that need it.
MODEL = "elm_hf.serving.vllm_model:ElmForCausalLM"


def register() -> None:
    """Makes vLLM serve ECG-language models, and transformers find their configurations and processors."""
    from vllm import ModelRegistry

    from elm_hf.utils.registration import register_modeling_classes

    register_modeling_classes()
    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(ARCHITECTURE, MODEL)
