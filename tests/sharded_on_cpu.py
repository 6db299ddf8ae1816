"""
`train_sft.py` on CPUs as if each process had a GPU: accelerate would leave FSDP and tensor parallelism out there, though torch
has both on CPUs, too.

The tests start it with `accelerate launch` and `fsdp2.yaml` or `tensor_parallel.yaml` of recipes/accelerate.
"""

import sys
from pathlib import Path

from accelerate.state import PartialState
from accelerate.utils import DistributedType
from trl import TrlParser


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import train_sft  # noqa: E402 (it is no package)


if __name__ == "__main__":
    arguments = TrlParser(train_sft.ARGUMENTS).parse_args_and_config()
    assert arguments[1].device.type == "cpu"  # starts the processes' group
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    trainer = train_sft.build_trainer(*arguments)
    assert trainer.is_fsdp_enabled or trainer.get_tp_size() > 1
    train_sft.train(trainer)
    trainer.save_state()  # the losses, where there are no checkpoints
