"""Runs that are bit-identical on the same machine."""

from transformers import TrainingArguments, enable_full_determinism
from transformers.utils import logging


logger = logging.get_logger(__name__)


def make_deterministic(training_args: TrainingArguments) -> None:
    """
    Sets all seeds, makes cuDNN and cuBLAS use deterministic algorithms, and warns that this is slower. It must run
    before any computation on a GPU, since cuBLAS reads its setting once.
    """
    training_args.full_determinism = True
    enable_full_determinism(training_args.seed)
    logger.warning(
        "--deterministic: GPU kernels run one after the other, and slower deterministic kernels replace those that "
        "sum in any order. An operation without a deterministic kernel raises an error that names it. Two runs are "
        "bit-identical on the same machine with the same libraries and number of processes."
    )
