"""
Trains an ELM on rewards of its own sampled answers with TRL's `GRPOTrainer` (Shao et al. 2024). `elm-hf train grpo` is the
same program on one process.

    accelerate launch -m elm_hf.training.grpo --model_name_or_path trained --dataset my-dataset --output_dir rewarded \
        --rewards exact_match perception --reward_weights 1 0.5 --trainable projector llm --max_completion_length 32
"""

from collections.abc import Callable, Sequence

from transformers import PreTrainedModel, ProcessorMixin
from trl import GRPOConfig, GRPOTrainer, ModelConfig

from elm_hf.training.arguments import REWARD_NAMES, RewardArguments
from elm_hf.training.parallelism import shards_weights, tensor_parallel_size
from elm_hf.training.parts import load_model
from elm_hf.training.post_training import PostTraining
from elm_hf.training.reward_data import questions_of
from elm_hf.training.rewards import Perception, answer_format, exact_match, measured_claims
from elm_hf.training.rollouts import EcgRollouts
from elm_hf.training.sft import run_program
from elm_hf.training.trainer import ElmTraining
from elm_hf.training.trl_options import OF_REWARDS
from elm_hf.training.validation import evaluates


ARGUMENTS = (RewardArguments, GRPOConfig, ModelConfig)


class RewardTraining(ElmTraining, EcgRollouts):
    """
    Mix-in of TRL's trainers on rewards: samples with the ECG, and saves the processor with the model.

    Args:
        model: the ELM.
        processor: its processor. TRL gets the tokenizer, since it takes a processor for one of pictures.
        training_args: arguments of the run.
        kwargs: arguments of [`ElmTraining`] and of TRL's trainer.
    """

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, args, **kwargs):
        self._processor = processor
        placeholders = {"suppress_tokens": model.generation_config.suppress_tokens}  # never sampled
        args.generation_kwargs = placeholders | (args.generation_kwargs or {})
        if args.ddp_find_unused_parameters is None:  # a process may have questions without ECGs
            args.ddp_find_unused_parameters = True
        super().__init__(model=model, args=args, processing_class=processor.tokenizer, **kwargs)
        self.processing_class = processor
        for reward in self.reward_funcs:
            if isinstance(reward, Perception):
                reward.model = self.accelerator.unwrap_model(self.model)


class ElmGRPOTrainer(RewardTraining, GRPOTrainer):
    """TRL's `GRPOTrainer`, which samples and learns with the ECGs."""

    def _generate_single_turn(self, *args, **kwargs) -> tuple[list[list[int]], None]:
        return self._sample(), None


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the program ([`run_program`])."""
    run_program("elm-hf train grpo", ARGUMENTS, build_trainer, arguments)


def build_trainer(script_args: RewardArguments, training_args: GRPOConfig, model_args: ModelConfig) -> ElmGRPOTrainer:
    """Builds the trainer of a run, ready to start or to resume from its last checkpoint."""
    return build(ElmGRPOTrainer, script_args, training_args, model_args)


def build(
    trainer_class: type[RewardTraining], script_args: RewardArguments, training_args, model_args: ModelConfig
) -> RewardTraining:
    """
    Builds a trainer on rewards.

    Args:
        trainer_class: class of the trainer.
        script_args, training_args, model_args: arguments of the run.

    Raises:
        ValueError: the numbers of rewards and weights differ, or the weights of the model are sharded.
    """
    weights = training_args.reward_weights
    if weights is not None and len(weights) != len(script_args.rewards):
        raise ValueError(
            f"--reward_weights has {len(weights)} numbers for {len(script_args.rewards)} --rewards "
            f"({', '.join(script_args.rewards)}); give one for each."
        )
    if shards_weights() or tensor_parallel_size() > 1:
        raise ValueError(
            "Training on rewards generates answers, which needs the whole model in each process; use the recipe "
            "accelerate/ddp or accelerate/zero2, not FSDP, ZeRO-3 or tensor parallelism."
        )
    run = PostTraining("rewards", script_args, training_args, model_args, OF_REWARDS, ("reward",))
    with_controls = "perception" in script_args.rewards
    questions = questions_of(run.load_conversations("train"), with_controls, training_args.seed)
    validation = None
    if evaluates(training_args):
        validation = questions_of(run.load_conversations("validation"), with_controls, training_args.seed)
    model, learning, peft_config = load_model(script_args.trainable, training_args, model_args)
    trainer = trainer_class(
        model=model,
        processor=run.processor,
        args=training_args,
        reward_funcs=rewards_of(script_args.rewards, run.processor, training_args.per_device_train_batch_size),
        train_dataset=questions,
        eval_dataset=validation,
        peft_config=peft_config,
        **run.trainer_arguments(learning, len(questions)),
    )
    trainer.accelerator.print(f"Trainable parameters: {trainer.trained_in_words()}, {len(questions)} questions")
    return trainer


def rewards_of(names: Sequence[str], processor: ProcessorMixin, batch_size: int) -> list[Callable]:
    """The rewards of these names (`REWARD_NAMES`)."""
    rewards = (exact_match, answer_format, Perception(processor, batch_size), measured_claims)
    return [dict(zip(REWARD_NAMES, rewards))[name] for name in names]


if __name__ == "__main__":
    main()
