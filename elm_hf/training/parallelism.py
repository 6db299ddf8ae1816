"""How `accelerate launch` distributes the model over processes, for decisions before the trainer exists."""

import os
import time

from accelerate import ParallelismConfig
from accelerate.utils import parse_flag_from_env
from transformers import Trainer
from transformers.distributed import DistributedConfig
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from trl import ModelConfig, SFTConfig

from elm_hf.modeling.configuration_elm import ElmConfig
from elm_hf.modeling.modeling_elm import ElmForCausalLM


def shards_weights() -> bool:
    """Whether the weights are sharded (FSDP, ZeRO-3), so that the whole model may be too large for one GPU."""
    return parse_flag_from_env("ACCELERATE_USE_FSDP") or is_deepspeed_zero3_enabled()


def runs_before_sharding(model: ElmForCausalLM) -> bool:
    """
    Whether the model can run before the trainer prepares it. It cannot if ZeRO-3 partitions it, nor if it is still on
    the CPU (FSDP) and has flash attention.
    """
    has_flash = "flash" in model.config.text_config._attn_implementation
    return not (is_deepspeed_zero3_enabled() or (shards_weights() and has_flash))


def tensor_parallel_size() -> int:
    """Number of processes that share each layer and each batch; 1 without tensor parallelism."""
    return ParallelismConfig().tp_size if parse_flag_from_env("ACCELERATE_USE_PARALLELISM_CONFIG") else 1


def tensor_parallelism(model_args: ModelConfig, training_args: SFTConfig) -> DistributedConfig | None:
    """
    The configuration with which `from_pretrained` splits the LLM by transformers' plan for its family; None without
    tensor parallelism. Every process has the whole encoder and projector.

    Raises:
        ValueError: the LLM has no plan, its heads or the processes cannot be divided evenly, or an option excludes
            tensor parallelism.
    """
    size = tensor_parallel_size()
    if size == 1:
        return None
    chosen = {
        "--use_peft": model_args.use_peft,
        "--load_in_4bit": model_args.load_in_4bit,
        "--load_in_8bit": model_args.load_in_8bit,
    }
    if any(chosen.values()):
        option = next(name for name, is_chosen in chosen.items() if is_chosen)
        raise ValueError(
            f"{option} cannot be combined with tensor parallelism; leave it out, or use the recipe accelerate/fsdp2."
        )
    if training_args.save_strategy != "no":
        raise ValueError(
            "transformers cannot resume training with tensor parallelism; add --save_strategy no (the trained model "
            "is saved at the end)."
        )
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if processes != size:
        raise ValueError(
            f"--parallelism_config_tp_size (tp_size) is {size}, but there are {processes} processes; it must equal "
            "--num_processes."
        )
    llm = ElmConfig.from_pretrained(model_args.model_name_or_path, revision=model_args.model_revision).text_config
    if not llm.base_model_tp_plan:
        raise ValueError(
            f'transformers has no plan for tensor parallelism of the "{llm.model_type}" LLM; '
            "use the recipe accelerate/fsdp2 or accelerate/zero3."
        )
    if llm.num_key_value_heads % size:
        raise ValueError(
            f"{size} processes cannot share the LLM's {llm.num_key_value_heads} key and value heads evenly; "
            "tp_size must divide their number."
        )
    return DistributedConfig(tp_size=size)


def end_processes(trainer: Trainer) -> None:
    """Ends the trackers and the group of processes, at the very end of a program that trains."""
    trainer.end()
    if trainer.args.world_size > 1:
        # Gloo's threads need the interpreter to drop their last tensors. If it exits first, both wait for ever.
        time.sleep(0.5)
