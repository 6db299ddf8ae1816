"""
`elm_hf.training.sft` on CPUs as if each process had a GPU: accelerate would leave FSDP, DeepSpeed and tensor parallelism out there, though
all are there on CPUs, too.

The tests start it with `accelerate launch` and a file of recipes/accelerate.
"""

import os

from accelerate.state import PartialState
from accelerate.utils import DistributedType

from elm_hf.training import sft


if __name__ == "__main__":
    arguments = sft.parse()
    assert arguments[1].device.type == "cpu"  # starts the processes' group
    kind = "DEEPSPEED" if "ACCELERATE_USE_DEEPSPEED" in os.environ else "MULTI_GPU"
    PartialState._shared_state["distributed_type"] = DistributedType[kind]
    trainer = sft.build_trainer(*arguments)
    assert trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled or trainer.get_tp_size() > 1
    sft.train(trainer)
    trainer.save_state()  # the losses, where there are no checkpoints
