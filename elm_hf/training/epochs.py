"""What changes from epoch to epoch: the order of the batches, and the random changes of the ECGs."""

import torch
from transformers import TrainerCallback
from transformers.trainer_pt_utils import LengthGroupedSampler


class EpochSampler(LengthGroupedSampler):
    """
    Batches of conversations of similar length, in an order that depends on the seed and the epoch alone, so that a resumed
    run and one of more processes go on with the same batches.

    Args:
        batch_size: conversations of one optimizer step, of all processes together.
        lengths: of each conversation.
        seed: of the order; `epoch`, an attribute, is added to it.
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
    Tells objects which epoch it is. Accelerate tells a sampler only where one process trains from the start of an epoch.

    Attributes:
        followers: objects whose attribute `epoch` is set at the start of each epoch, such as a collator or a sampler.
    """

    def __init__(self, *followers):
        self.followers = list(followers)

    def on_epoch_begin(self, args, state, control, **kwargs):
        for follower in self.followers:
            follower.epoch = int(state.epoch)
