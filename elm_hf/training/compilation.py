"""Compiles the layers of the LLM, once for each of a few lengths of a batch."""

from dataclasses import dataclass

import torch
from accelerate.utils import TorchDynamoPlugin
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import logging
from trl import ModelConfig

from elm_hf.modeling.modeling_elm import ElmForCausalLM
from elm_hf.training.arguments import ElmScriptArguments
from elm_hf.training.parallelism import shards_weights, tensor_parallel_size
from elm_hf.training.sft_config import ElmSFTConfig


logger = logging.get_logger(__name__)

# Layers of different kinds, such as those with and without a sliding window, are compiled separately for each length.
MAX_COMPILED = 64


@dataclass
class Compilation:
    """
    How the LLM's layers are compiled.

    Attributes:
        backend, mode: those of `torch.compile`.
    """

    backend: str
    mode: str | None

    def compile_layers(self, model: ElmForCausalLM) -> None:
        """
        Compiles the forward pass of each layer of the LLM, when it is first called with each shape. Names of weights stay
        as they are. Layers of one kind share what is compiled.

        Raises:
            ValueError: the LLM has no layers that are known to be alike.
        """
        layers = [
            layer for layer in model.model.language_model.modules() if isinstance(layer, GradientCheckpointingLayer)
        ]
        if not layers:
            raise ValueError(
                f'--torch_compile compiles the layers of the LLM, and the "{model.config.text_config.model_type}" LLM has '
                "none that are marked as such; leave it out."
            )
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MAX_COMPILED)
        for layer in layers:
            layer.compile(backend=self.backend, mode=self.mode, dynamic=False)


def compilation_of(
    script_args: ElmScriptArguments, training_args: ElmSFTConfig, model_args: ModelConfig, model: ElmForCausalLM
) -> Compilation | None:
    """
    How the LLM's layers are compiled; None if they are not. The trainer's own compilation, of the whole model, is turned
    off.

    By default they are compiled where this was measured: packed conversations on a GPU that has all weights, not
    quantized, with `sdpa`.
    """
    chosen, backend, mode = (
        training_args.torch_compile,
        training_args.torch_compile_backend,
        training_args.torch_compile_mode,
    )
    training_args.torch_compile, training_args.torch_compile_backend, training_args.torch_compile_mode = (
        False,
        None,
        None,
    )
    if chosen is None:
        chosen = (
            script_args.pack_by_ecg > 1
            and training_args.device.type == "cuda"
            and model.config.text_config._attn_implementation == "sdpa"
            and not (model_args.load_in_4bit or model_args.load_in_8bit or script_args.deterministic)
            and not shards_weights()
            and tensor_parallel_size() == 1
        )
        backend = "inductor"
        if chosen:
            logger.warning(
                "The LLM's layers are compiled, for each length of a batch when it first occurs; --torch_compile false "
                "turns this off."
            )
    return Compilation(backend, mode) if chosen else None


def check_compilation(training_args: ElmSFTConfig) -> None:
    """
    Checks the options about compilation.

    Raises:
        ValueError: they would compile again for every batch.
    """
    if training_args.torch_compile and training_args.padding_free:
        raise ValueError(
            "--torch_compile compiles for each length of a batch, and with --padding_free almost every batch has another; "
            "leave one of them out."
        )
    if training_args.torch_compile_backend is None and TorchDynamoPlugin().backend.value != "NO":
        raise ValueError(
            "accelerate's dynamo_backend compiles the whole model again for each length; set it to no, and use "
            "--torch_compile, which compiles the LLM's layers for a few lengths."
        )
