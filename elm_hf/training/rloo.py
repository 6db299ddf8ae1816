"""
Trains an ELM on rewards of its own sampled answers with TRL's `RLOOTrainer` (Ahmadian et al. 2024). `elm-hf train rloo` is
the same program on one process; its data and rewards are those of `elm-hf train grpo`.

    accelerate launch -m elm_hf.training.rloo --model_name_or_path trained --dataset my-dataset --output_dir rewarded \
        --trainable projector llm --max_completion_length 32
"""

from collections.abc import Sequence

from trl import ModelConfig, RLOOConfig, RLOOTrainer

from elm_hf.training.arguments import RewardArguments
from elm_hf.training.grpo import RewardTraining, build
from elm_hf.training.sft import run_program


ARGUMENTS = (RewardArguments, RLOOConfig, ModelConfig)


class ElmRLOOTrainer(RewardTraining, RLOOTrainer):
    """TRL's `RLOOTrainer`, which samples and learns with the ECGs."""

    def _generate_single_turn(self, *args, **kwargs) -> list[list[int]]:
        return self._sample()


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the program ([`run_program`])."""
    run_program("elm-hf train rloo", ARGUMENTS, build_trainer, arguments)


def build_trainer(script_args: RewardArguments, training_args: RLOOConfig, model_args: ModelConfig) -> ElmRLOOTrainer:
    """Builds the trainer of a run, ready to start or to resume from its last checkpoint."""
    return build(ElmRLOOTrainer, script_args, training_args, model_args)


if __name__ == "__main__":
    main()
