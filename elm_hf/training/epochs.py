"""The order of batches in each epoch, and passing the number of the epoch on to samplers and collators."""

import torch
from transformers import TrainerCallback
from transformers.trainer_pt_utils import LengthGroupedSampler


class EpochSampler(LengthGroupedSampler):
    """
    Samples batches of conversations of similar length. Their order depends only on the seed and the epoch, so that a
    resumed run, or a run with more processes, has the same batches.

    Args:
        batch_size: number of conversations of one optimizer step, over all processes.
        lengths: length of each conversation.
        seed: random seed of the order, to which the attribute `epoch` is added.
    """

    def __init__(self, batch_size: int, lengths: list[int], seed: int):
        super().__init__(batch_size, lengths=lengths)
        self.seed = seed
        self.epoch = 0

    def __iter__(self):
        self.generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return super().__iter__()


class FollowEpoch(TrainerCallback):
    """
    Sets the attribute `epoch` of samplers and collators. Accelerate does this only for a sampler, and only if a single
    process starts at the beginning of an epoch.

    Attributes:
        followers: objects whose attribute `epoch` is set at the start of each epoch.
    """

    def __init__(self, *followers):
        self.followers = list(followers)

    def on_epoch_begin(self, args, state, control, **kwargs):
        for follower in self.followers:
            follower.epoch = int(state.epoch)
