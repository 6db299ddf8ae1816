"""Evaluation on the validation split during training: its options, early stopping and exact match."""

from collections.abc import Sequence

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset
from transformers import EarlyStoppingCallback, PreTrainedModel, ProcessorMixin, TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy
from trl import SFTConfig

from elm_hf.data.messages import fill_ecgs, message_text, prompt_of
from elm_hf.inference.generation import answer
from elm_hf.training.parallelism import shards_weights, tensor_parallel_size
from elm_hf.utils.exact_match import final_answer, is_exact_match


EXACT_MATCH = "exact_match"
# Maximum length of an answer in tokens, the default of `elm-hf evaluate`.
MAX_NEW_TOKENS = 32


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


def check_exact_match(num_questions: int | None, training_args: TrainingArguments) -> None:
    """
    Checks `--eval_exact_match`.

    Raises:
        ValueError: there is no evaluation, or the model cannot generate in this process.
    """
    if num_questions is None:
        return
    if num_questions < 1:
        raise ValueError(f"--eval_exact_match is {num_questions}; expected the number of questions, 1 or more.")
    if not evaluates(training_args):
        raise ValueError("--eval_exact_match needs an evaluation during training; add --eval_strategy steps or epoch.")
    if shards_weights() or tensor_parallel_size() > 1:
        raise ValueError(
            "--eval_exact_match generates answers, which needs the whole model in each process; leave it out with "
            "FSDP, ZeRO-3 and tensor parallelism (eval_loss is computed), or train with accelerate/ddp or accelerate/zero2."
        )


class ValidationQuestions:
    """
    Questions of the validation split that are asked during training.

    Args:
        conversations: conversations of the validation split. The last answer of each is asked for, with the true turns
            before it.
        number: number of conversations, drawn evenly.
        batch_size: number of conversations that are asked at once.
    """

    def __init__(self, conversations: Dataset, number: int, batch_size: int):
        if number < len(conversations):
            conversations = conversations.select(np.linspace(0, len(conversations) - 1, number).astype(int))
        self.conversations = conversations
        self.batch_size = batch_size

    def exact_match(self, model: PreTrainedModel, processor: ProcessorMixin, accelerator: Accelerator) -> float:
        """
        The share of greedy answers that name the true items and no others ([`is_exact_match`]).

        Args:
            model: the ELM in evaluation mode.
            processor: its processor.
            accelerator: of the trainer. The processes share the questions.
        """
        mine = range(accelerator.process_index, len(self.conversations), accelerator.num_processes)
        right = 0
        for start in range(0, len(mine), self.batch_size):
            rows = [self.conversations[row] for row in mine[start : start + self.batch_size]]
            prompts = [
                fill_ecgs(prompt_of(row["messages"]), row["ecgs"], row["sampling_rate"], keep_flat=True)
                for row in rows
            ]
            with accelerator.autocast():
                answers = answer(model, processor, prompts, MAX_NEW_TOKENS)
            right += sum(is_exact_match(text, true_items(row)) for text, row in zip(answers, rows))
        total = accelerator.reduce(torch.tensor(float(right), device=accelerator.device), reduction="sum")
        return total.item() / len(self.conversations)


def true_items(row: dict) -> list[str]:
    """The true items of the last answer of a conversation."""
    answers = [message for message in row["messages"] if message["role"] == "assistant"]
    if len(answers) == 1 and row.get("answer"):
        return list(row["answer"])
    return [final_answer(message_text(answers[-1]))]
