"""Muon for the matrices of hidden layers, and AdamW for all other weights."""

import torch
from torch import nn
from torch.optim import AdamW, Muon, Optimizer
from transformers import TrainingArguments

from elm_hf.modeling.modeling_elm_projector import ElmMeasurementEmbedding


class MuonAdamW(Optimizer):
    """
    Muon (Jordan et al. 2024) for the matrices of hidden layers: the step of a matrix is its momentum made orthogonal, so
    that directions with small gradients are learned as well. Steps are as large as AdamW's (Liu et al. 2025), so that
    both have the same learning rate. Embeddings, the head, biases and norms are trained with AdamW, without weight decay.

    Args:
        model: the model, of which the weights that require a gradient are trained.
        args: learning rate, weight decay, and AdamW's betas and epsilon.
    """

    def __init__(self, model: nn.Module, args: TrainingArguments):
        matrices = hidden_matrices(model)
        chosen = {id(weight) for weight in matrices}
        others = [weight for weight in model.parameters() if weight.requires_grad and id(weight) not in chosen]
        rate = args.learning_rate
        self._parts = []
        if matrices:
            self._parts.append(Muon(matrices, rate, args.weight_decay, adjust_lr_fn="match_rms_adamw"))
        if others:
            self._parts.append(AdamW(others, rate, (args.adam_beta1, args.adam_beta2), args.adam_epsilon, 0.0))
        super().__init__([group for part in self._parts for group in part.param_groups], {})

    @torch.no_grad()
    def step(self, closure=None):
        """See `torch.optim.Optimizer`."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        # Groups and states are replaced when a checkpoint is loaded. Those of a part have its settings.
        for part in self._parts:
            part.state = self.state
            part.param_groups = [group for group in self.param_groups if part.defaults.keys() <= group.keys()]
            part.step()
        return loss


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """
    The trained matrices of hidden layers: all but embeddings, the head, and layers that read measured values.

    Args:
        model: an ELM, also with LoRA adapters, whose matrices are hidden layers as well.
    """
    left_out = [module.weight for module in model.modules() if isinstance(module, nn.Embedding)]
    left_out += [module.number.weight for module in model.modules() if isinstance(module, ElmMeasurementEmbedding)]
    left_out = {id(weight) for weight in (*left_out, model.get_output_embeddings().weight)}
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    return [weight for weight in trained if weight.ndim == 2 and id(weight) not in left_out]
