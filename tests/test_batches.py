"""Batches of training that fill a number of positions: `--tokens_per_batch`."""

from itertools import islice

import numpy as np
import pytest
from datasets import Dataset
from test_training import arguments

from elm_hf.checkpoints.card import read_training
from elm_hf.training import sft
from elm_hf.training.batches import fill_batches
from elm_hf.training.packing import padded_length


def built(model, dataset, output, *more: str) -> sft.ElmTrainer:
    given = arguments(model, dataset, output)
    place = given.index("--per_device_train_batch_size")
    return sft.build_trainer(*sft.parse([*given[:place], *given[place + 2 :], *more]))


@pytest.mark.parametrize("few_lengths", [False, True])
def test_batches_hold_every_row_once_and_are_as_full_as_they_can_be(few_lengths):
    lengths = np.random.default_rng(0).integers(20, 897, 500)
    batches = fill_batches(Dataset.from_dict({"number": list(range(500))}), lengths, 4096, few_lengths=few_lengths)
    numbers = [[row["number"] for row in one["batch"]] for one in batches]
    assert sorted(number for batch in numbers for number in batch) == list(range(500))
    rows, longest = np.array([(len(batch), lengths[batch].max()) for batch in numbers]).T
    assert list(batches["length"]) == longest.tolist()
    if few_lengths:
        longest = np.array([padded_length(int(length)) for length in longest])
        assert len(set(zip(rows[:-1], longest[:-1]))) == 7  # one shape for each size
        assert ((rows + 1) * longest > 4096)[:-1].all()
    assert (rows * longest <= 4096).all() and (rows * longest)[:-1].mean() > 0.8 * 4096


def test_batches_in_one_row_hold_as_many_conversations_as_fit():
    lengths = np.random.default_rng(0).integers(20, 897, 500)
    batches = fill_batches(Dataset.from_dict({"number": list(range(500))}), lengths, 4096, in_one_row=True)
    numbers = [[row["number"] for row in one["batch"]] for one in batches]
    assert sorted(number for batch in numbers for number in batch) == list(range(500))
    total = [int(lengths[batch].sum()) for batch in numbers]
    assert max(total) <= 4096 and list(batches["length"]) == total
    assert all(total[i] + lengths[numbers[i + 1][0]] > 4096 for i in range(len(total) - 1))


@pytest.mark.parametrize("layout, most", [((), 1024), (("--pack_by_ecg", "6"), 1024), (("--padding_free",), 700)])
def test_a_run_never_has_more_positions_in_a_batch(layout, most, tiny_elm, simulated_dataset, tmp_path):
    layout = (*layout, "--tokens_per_batch", str(most), "--torch_compile", "false", "--max_steps", "2")
    trainer = built(tiny_elm, simulated_dataset, tmp_path / "out", *layout)
    positions = [batch["input_ids"].numel() for batch in islice(trainer.get_train_dataloader(), 12)]
    assert max(positions) <= most and np.mean(positions) > 0.7 * most
    if "--pack_by_ecg" in layout:
        sft.train(trainer)
        facts = read_training(tmp_path / "out")
        assert (facts["batch_size"], facts["tokens_per_batch"]) == (1, most)
        assert "2 steps of 1 batches of up to 1024 positions" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    "more, message",
    [
        (["--tokens_per_batch", "0"], "--tokens_per_batch is 0; expected 1 or more"),
        (
            ["--tokens_per_batch", "8", "--per_device_train_batch_size", "4"],
            "size is 4, and --tokens_per_batch chooses",
        ),
    ],
)
def test_batches_that_cannot_be_filled_are_refused(more, message, tiny_elm, simulated_dataset, tmp_path):
    with pytest.raises(ValueError, match=message):
        built(tiny_elm, simulated_dataset, tmp_path / "out", *more)


@pytest.mark.parametrize(
    "few_lengths, message",
    [
        (False, "is 90, and the longest row has 100 positions; allow for 100 or more"),
        (True, "the longest row has 100 positions, padded to 128; allow for 128 or more"),
    ],
)
def test_a_row_longer_than_a_batch_is_refused(few_lengths, message):
    with pytest.raises(ValueError, match=message):
        fill_batches(Dataset.from_dict({"number": [0, 1]}), np.array([10, 100]), 90, few_lengths=few_lengths)
