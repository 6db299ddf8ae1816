"""Evaluation on the validation split during training: its options, early stopping, and answers to questions."""

from collections.abc import Sequence

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import EarlyStoppingCallback, PreTrainedModel, ProcessorMixin, TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy
from trl import SFTConfig

from elm_hf.data.messages import fill_ecgs, last_text, message_text, prompt_of
from elm_hf.inference.generation import answer
from elm_hf.training.parallelism import shards_weights, tensor_parallel_size
from elm_hf.utils.exact_match import final_answer, is_exact_match


EXACT_MATCH = "exact_match"
# Maximum length of an answer in tokens, the default of `elm-hf evaluate`.
MAX_NEW_TOKENS = 32
# Number of sample answers at each evaluation.
NUM_SAMPLES = 5


def evaluates(training_args: TrainingArguments) -> bool:
    """Whether the model is evaluated during training."""
    return training_args.eval_strategy != IntervalStrategy.NO


def check_evaluation(
    training_args: TrainingArguments, early_stopping_patience: int | None, metrics: Sequence[str] = ("loss",)
) -> None:
    """
    Checks the options about evaluation during training before anything is loaded.

    Args:
        training_args: training arguments of the run.
        early_stopping_patience: `--early_stopping_patience`.
        metrics: names that `--metric_for_best_model` may have.

    Raises:
        ValueError: an option has no effect, or a metric is not computed; the message names it.
    """
    without_effect = {
        "--do_predict": training_args.do_predict,
        "--batch_eval_metrics": training_args.batch_eval_metrics,
        "--include_for_metrics": bool(training_args.include_for_metrics),
        "--eval_packing": isinstance(training_args, SFTConfig) and bool(training_args.eval_packing),
    }
    for option, chosen in without_effect.items():
        if chosen:
            raise ValueError(f"{option} has no effect here; leave it out. {_METRICS}")
    needs_evaluation = {
        "--do_eval": training_args.do_eval,
        "--eval_on_start": training_args.eval_on_start,
        "--load_best_model_at_end": training_args.load_best_model_at_end,
        "--save_strategy best": training_args.save_strategy == SaveStrategy.BEST,
        "--early_stopping_patience": early_stopping_patience is not None,
    }
    for option, chosen in needs_evaluation.items():
        if chosen and not evaluates(training_args):
            raise ValueError(f"{option} needs an evaluation during training; add --eval_strategy steps or epoch.")
    if early_stopping_patience is not None and early_stopping_patience < 1:
        raise ValueError(f"--early_stopping_patience is {early_stopping_patience}; expected 1 or more.")
    if early_stopping_patience is not None and not training_args.load_best_model_at_end:
        raise ValueError(
            "--early_stopping_patience stops after the best model; add --load_best_model_at_end to keep that model."
        )
    metric = training_args.metric_for_best_model
    if metric is not None and metric.removeprefix("eval_") not in metrics:
        raise ValueError(f'--metric_for_best_model is "{metric}"; expected {" or ".join(metrics)}. {_METRICS}')


_METRICS = (
    "Metrics are the loss on the validation split; exact_match with --eval_exact_match of elm-hf train; and the macro "
    "AUROC of each task with --target labels of elm-hf pretrain."
)


def evaluation_callbacks(early_stopping_patience: int | None) -> list[EarlyStoppingCallback]:
    """The callback that ends training when the metric has not improved in this number of evaluations, if there is one."""
    return [] if early_stopping_patience is None else [EarlyStoppingCallback(early_stopping_patience)]


def check_asking(num_scored: int | None, num_samples: int | None, training_args: TrainingArguments) -> None:
    """
    Checks `--eval_exact_match` and `--eval_samples`.

    Raises:
        ValueError: a number is out of range, there is no evaluation, or the model cannot generate in this process.
    """
    given = {"--eval_exact_match": (num_scored, 1), "--eval_samples": (num_samples, 0)}
    for option, (number, smallest) in given.items():
        if number is None:
            continue
        if number < smallest:
            raise ValueError(f"{option} is {number}; expected the number of questions, {smallest} or more.")
        if not evaluates(training_args):
            raise ValueError(f"{option} needs an evaluation during training; add --eval_strategy steps or epoch.")
        if number and not can_generate():
            raise ValueError(
                f"{option} generates answers, which needs the whole model in each process; leave it out with "
                "FSDP, ZeRO-3 and tensor parallelism (eval_loss is computed), or train with accelerate/ddp or accelerate/zero2."
            )


def can_generate() -> bool:
    """Whether each process has the whole model."""
    return not shards_weights() and tensor_parallel_size() == 1


def num_sampled(num_samples: int | None, training_args: TrainingArguments) -> int:
    """The number of sample answers at each evaluation: `--eval_samples`, by default a few where the model can generate."""
    if num_samples is not None:
        return num_samples
    return NUM_SAMPLES if evaluates(training_args) and can_generate() else 0


class ValidationQuestions:
    """
    Questions of the validation split that are asked during training.

    Args:
        conversations: conversations of the validation split. The last answer of each is asked for, with the true turns
            before it.
        num_scored: number of conversations whose answers are scored, drawn evenly; None for no score.
        num_samples: number of conversations whose answers are shown, drawn evenly from those that are scored, if any.
        batch_size: number of conversations that are asked at once.
    """

    def __init__(self, conversations: Dataset, num_scored: int | None, num_samples: int, batch_size: int):
        number = num_samples if num_scored is None else num_scored
        self.conversations = conversations.select(_evenly(len(conversations), number))
        self.is_scored = num_scored is not None
        self.shown = _evenly(len(self.conversations), num_samples)
        self.batch_size = batch_size

    def answers(self, model: PreTrainedModel, processor: ProcessorMixin, accelerator: Accelerator) -> list[str]:
        """
        The greedy answers to all questions.

        Args:
            model: the ELM in evaluation mode.
            processor: its processor.
            accelerator: of the trainer. The processes share the questions, and each of them gets all answers.
        """
        mine = range(accelerator.process_index, len(self.conversations), accelerator.num_processes)
        found = []
        for start in range(0, len(mine), self.batch_size):
            numbers = mine[start : start + self.batch_size]
            rows = [self.conversations[number] for number in numbers]
            prompts = [
                fill_ecgs(prompt_of(row["messages"]), row["ecgs"], row["sampling_rate"], keep_flat=True)
                for row in rows
            ]
            with accelerator.autocast():
                found += zip(numbers, answer(model, processor, prompts, MAX_NEW_TOKENS))
        return [text for _, text in sorted(gather_object(found))]

    def exact_match(self, answers: Sequence[str]) -> float:
        """The share of answers that name the true items and no others ([`is_exact_match`])."""
        rows = self.conversations.with_format(None)  # without reading ECGs
        return sum(is_exact_match(text, true_items(row)) for text, row in zip(answers, rows)) / len(answers)

    def samples(self, answers: Sequence[str]) -> list[dict]:
        """The answers to show, each with its `conversation_id`, `question` and `truth`."""
        found = []
        rows = self.conversations.with_format(None)
        for number in self.shown:
            row = rows[number]
            texts = {"question": last_text(row["messages"], "user"), "truth": last_text(row["messages"], "assistant")}
            found.append({"conversation_id": row["conversation_id"]} | texts | {"answer": answers[number]})
        return found


def _evenly(length: int, number: int) -> list[int]:
    """Numbers from 0 to `length - 1`, at most `number` of them, at equal distances."""
    return np.linspace(0, length - 1, min(length, number)).astype(int).tolist()


def true_items(row: dict) -> list[str]:
    """The true items of the last answer of a conversation."""
    answers = [message for message in row["messages"] if message["role"] == "assistant"]
    if len(answers) == 1 and row.get("answer"):
        return list(row["answer"])
    return [final_answer(message_text(answers[-1]))]
