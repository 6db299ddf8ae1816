"""Pairs of answers behind one copy of the prompt that they share, for a trainer that knows one row per answer."""

import numpy as np
import torch
from torch import nn
from transformers.utils import logging

from elm_hf.modeling.modeling_elm import ElmForCausalLM
from elm_hf.training.checks import check_packing
from elm_hf.training.packing import IGNORE_INDEX, CountEcgs
from elm_hf.training.parallelism import runs_before_sharding


logger = logging.get_logger(__name__)

# Inputs of the model in the place of those of the trainer: a row for each pair.
PACKED = ("input_ids", "position_ids", "sequence_ids")
PREFIX = "packed_"
# For each position of the trainer's rows its position in the row of the pair, `(2 * pairs, length)`.
PLACES = "packed_places"
# For each ECG of the trainer's rows its number among those of the batch, if the model reads rows as they are.
ECG_ORDER = "ecg_order"


def can_share_prompts(model: ElmForCausalLM) -> bool:
    """
    Whether the LLM keeps two answers apart that stand behind one copy of their prompt, and can be asked before training.
    """
    if not runs_before_sharding(model):
        return False
    try:
        check_packing(model, behind_prefix=True)
    except ValueError as error:
        logger.warning(f"The prompt of each pair is computed for both answers, and only its ECGs once: {error}")
        return False
    return True


def rows_of_pairs(packed: dict[str, torch.Tensor], pad_token_id: int) -> dict[str, torch.Tensor]:
    """
    The rows that the trainer knows: all chosen answers, then all rejected ones, each behind its prompt.

    Args:
        packed: `input_ids`, `labels`, `sequence_ids`, each `(pairs, length)`, of [`pack_behind_prefix`].
        pad_token_id: token id that fills up shorter rows.

    Returns:
        `input_ids`, `attention_mask`, `completion_mask` (1 on the answer) and `packed_places`, each `(2 * pairs, length of
        the longest)`.
    """
    sequence_ids = packed["sequence_ids"].numpy()
    places = [
        np.flatnonzero((row == 0) | (row == number)) for number in (1, 2) for row in sequence_ids
    ]  # chosen, rejected
    shape = len(places), max(map(len, places))
    rows = {PLACES: np.zeros(shape, dtype=np.int64), "attention_mask": np.zeros(shape, dtype=np.int64)}
    for number, its_places in enumerate(places):
        rows[PLACES][number, : len(its_places)] = its_places
        rows["attention_mask"][number, : len(its_places)] = 1
    rows = {name: torch.from_numpy(values) for name, values in rows.items()}
    ids, labels = (packed[name].repeat(2, 1).gather(1, rows[PLACES]) for name in ("input_ids", "labels"))
    is_padding = rows["attention_mask"] == 0
    rows["input_ids"] = ids.masked_fill(is_padding, pad_token_id)
    rows["completion_mask"] = ((labels != IGNORE_INDEX) & ~is_padding).long()
    return rows


def ecg_order(packed: dict[str, torch.Tensor], count_ecgs: CountEcgs) -> torch.Tensor:
    """
    For each ECG of the trainer's rows its number among those of the packed rows, where an ECG that stands in a prefix is
    read once.

    Args:
        packed: `input_ids` and `sequence_ids`, each `(pairs, length)`.
        count_ecgs: see [`CountEcgs`].
    """
    sides, first = ([], []), 0
    for ids, numbers in zip(packed["input_ids"].numpy(), packed["sequence_ids"].numpy()):
        counts = [round(count_ecgs(ids[numbers == number])) for number in (0, 1, 2)]
        shared, chosen, rejected = np.split(np.arange(first, first + sum(counts)), np.cumsum(counts)[:-1])
        sides[0].append(np.concatenate([shared, chosen]))
        sides[1].append(np.concatenate([shared, rejected]))
        first += sum(counts)
    return torch.from_numpy(np.concatenate([*sides[0], *sides[1]]))


class SharedPrompts:
    """
    Lets an ELM read pairs as [`PairCollator`] makes them, and return the hidden states of the trainer's rows. The loss is
    that of separate rows, since no answer sees the other.

    Args:
        backbone: the [`ElmModel`], on whose calls this hooks.
    """

    def __init__(self, backbone: nn.Module):
        self._places: torch.Tensor | None = None
        backbone.register_forward_pre_hook(self._before, with_kwargs=True)
        backbone.register_forward_hook(self._after)

    def _before(self, backbone: nn.Module, args: tuple, inputs: dict) -> tuple[tuple, dict]:
        inputs = dict(inputs)
        self._places, order = inputs.pop(PLACES, None), inputs.pop(ECG_ORDER, None)
        if self._places is not None:
            del inputs["attention_mask"]
            inputs |= {name: inputs.pop(PREFIX + name) for name in PACKED}
        if order is not None:
            values, mask = inputs.pop("ecg_values"), inputs.pop("ecg_lead_mask", None)
            if backbone.encoder is None:
                inputs["ecg_values"] = values[order]
            else:
                encoded = backbone.get_ecg_features(values, mask, return_dict=True).last_hidden_state
                inputs["encoder_hidden_states"] = encoded[order]
        return args, inputs

    def _after(self, backbone: nn.Module, args: tuple, output):
        if self._places is not None:
            hidden, places = output.last_hidden_state, self._places
            pairs = torch.arange(len(places), device=places.device) % len(hidden)
            output.last_hidden_state = hidden[pairs[:, None], places]
            self._places = None
        return output
