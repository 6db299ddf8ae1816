"""
`train_sft.py` on CPUs as if each process had a GPU: accelerate would leave FSDP, DeepSpeed and tensor parallelism out there, though
all are there on CPUs, too.

The tests start it with `accelerate launch` and a file of recipes/accelerate.
"""

import os
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
    kind = "DEEPSPEED" if "ACCELERATE_USE_DEEPSPEED" in os.environ else "MULTI_GPU"
    PartialState._shared_state["distributed_type"] = DistributedType[kind]
    trainer = train_sft.build_trainer(*arguments)
    assert trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled or trainer.get_tp_size() > 1
    train_sft.train(trainer)
    trainer.save_state()  # the losses, where there are no checkpoints
