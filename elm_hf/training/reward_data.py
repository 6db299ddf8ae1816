"""The questions that training on rewards asks, with their true answers, and ECGs of other patients as controls."""

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
from datasets import Dataset
from transformers import ProcessorMixin

from elm_hf.data.messages import fill_ecgs, prompt_of
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.training.validation import true_items
from elm_hf.utils.exact_match import answer_items


# Tries to draw a row at random before all rows are searched.
FEW_TRIES = 4


def questions_of(conversations: Dataset, with_controls: bool, seed: int) -> Dataset:
    """
    The last question of each conversation, with the true turns before it.

    Args:
        conversations: conversations of `load_elm_dataset`.
        with_controls: whether to add ECGs of other patients.
        seed: random seed by which they are chosen.

    Returns:
        Rows with `prompt` (messages), `truth` (true items), `conversation_id`, `ecg_index`, and what `load_elm_dataset`
        adds; with controls also `control_index` and `control_ecgs`, as many as `ecgs`.

    Raises:
        ValueError: a conversation ends without an answer, or there are too few patients for controls.
    """
    plain = conversations.with_format(None)
    rows = plain.select_columns([name for name in ("messages", "answer") if name in plain.column_names])[:]
    columns = [dict(zip(rows, values)) for values in zip(*rows.values())]
    prompts = [prompt_of(row["messages"]) for row in columns]
    for name, prompt, row in zip(plain["conversation_id"], prompts, columns):
        if len(prompt) == len(row["messages"]):
            raise ValueError(f"conversation {name} ends without an answer; rewards need its true answer")
    truth = [true_items(row) for row in columns]
    kept = plain.select_columns(["conversation_id", "ecg_index"])
    asked = kept.add_column("prompt", prompts, feature=plain.features["messages"]).add_column("truth", truth)
    transform = conversations.format["format_kwargs"]["transform"]
    if not with_controls:
        return asked.with_transform(transform)
    donors = choose_controls([str(prompt) for prompt in prompts], truth, plain["patient_ids"], seed)
    indices = plain["ecg_index"]
    controls = [[] if donor is None else indices[donor] for donor in donors]
    asked = asked.add_column("control_index", controls, feature=plain.features["ecg_index"])
    return asked.with_transform(_AddControls(transform))


def with_ecgs(processor: ProcessorMixin, messages: list[dict], ecgs: Sequence[np.ndarray], rate: float) -> list[dict]:
    """
    Inserts the ECGs into a conversation. One without any signal in the part that the model reads is read as flat, as in
    fine-tuning: it must not end a run.

    Args:
        processor: the ELM's processor.
        messages: messages with places for ECGs.
        ecgs: each `(12, samples)` in mV.
        rate: their sampling rate in Hz.
    """
    reader = processor.ecg_reader
    is_flat = any(all(reader.read(ecg, rate, LEADS).causes) for ecg in ecgs)
    return fill_ecgs(messages, ecgs, rate, keep_flat=is_flat)


def choose_controls(
    questions: Sequence[str], truth: Sequence[list[str]], patients: Sequence[list[str]], seed: int
) -> list[int | None]:
    """
    For each row another one about as many ECGs of other patients: if possible one in which the same question has another
    true answer.

    Args:
        questions: what is asked, one text for each row.
        truth: true items of each row.
        patients: patients of the ECGs of each row.
        seed: random seed.

    Returns:
        The number of the other row; None for rows without ECGs, and where no other row has as many ECGs of other patients.

    Raises:
        ValueError: there is none for any row with ECGs.
    """
    rng = np.random.default_rng(seed)
    answers = [answer_items(", ".join(items)) for items in truth]
    same_question, same_number = defaultdict(list), defaultdict(list)
    for row, (question, those) in enumerate(zip(questions, patients)):
        same_question[question, len(those)].append(row)
        same_number[len(those)].append(row)
    chosen = []
    for row, (question, those) in enumerate(zip(questions, patients)):

        def is_other(other: int, row=row) -> bool:
            return set(patients[other]).isdisjoint(patients[row])

        def is_wanted(other: int, row=row) -> bool:
            return is_other(other) and answers[other] != answers[row]

        if not those:
            chosen.append(None)
            continue
        donor = _draw(same_question[question, len(those)], is_wanted, rng)
        if donor is None:
            donor = _draw(same_number[len(those)], is_other, rng)
        chosen.append(donor)
    if any(patients) and all(donor is None for donor in chosen):
        first = next(those for those in patients if those)
        raise ValueError(
            f"the reward perception needs ECGs of patients other than {', '.join(first)}, and there are none; train on more "
            "patients, or leave it out"
        )
    return chosen


def _draw(rows: list[int], fits: Callable[[int], bool], rng: np.random.Generator) -> int | None:
    """A random row that fits; None if there is none."""
    for drawn in rng.integers(len(rows), size=FEW_TRIES):
        if fits(rows[drawn]):
            return rows[drawn]
    fitting = [row for row in rows if fits(row)]
    return fitting[rng.integers(len(fitting))] if fitting else None


class _AddControls:
    """Adds the ECGs of a batch of questions and those of the controls. Unlike a closure, it can be sent to workers."""

    def __init__(self, transform: Callable[[dict], dict]):
        """`transform` adds the ECGs of `ecg_index`."""
        self.transform = transform

    def __call__(self, batch: dict) -> dict:
        batch = self.transform(batch)
        if "control_index" in batch:
            controls = self.transform({"ecg_index": batch["control_index"]})
            batch["control_ecgs"] = controls["ecgs"]
        return batch
