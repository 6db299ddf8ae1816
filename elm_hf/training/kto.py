"""
Trains an ELM on single answers, marked as good or bad, with TRL's `KTOTrainer` (Ethayarajh et al. 2024). `elm-hf train kto`
is the same program on one process. It takes the pairs of `elm-hf train dpo` apart.

    accelerate launch -m elm_hf.training.kto --model_name_or_path trained --dataset my-dataset --preferences pairs.jsonl \
        --output_dir preferred --trainable projector llm --use_peft
"""

from collections.abc import Sequence

from trl import KTOConfig, KTOTrainer, ModelConfig

from elm_hf.training.arguments import PreferenceArguments
from elm_hf.training.dpo import PreferenceTraining, build
from elm_hf.training.post_training import PostTraining
from elm_hf.training.preference_data import UnpairedCollator, load_pairs, unpaired
from elm_hf.training.sft import run_program
from elm_hf.training.trl_options import OF_PREFERENCES
from elm_hf.training.validation import evaluates


ARGUMENTS = (PreferenceArguments, KTOConfig, ModelConfig)


class ElmKTOTrainer(PreferenceTraining, KTOTrainer):
    """TRL's `KTOTrainer`, which learns with the ECGs."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the program ([`run_program`])."""
    run_program("elm-hf train kto", ARGUMENTS, build_trainer, arguments)


def build_trainer(
    script_args: PreferenceArguments, training_args: KTOConfig, model_args: ModelConfig
) -> ElmKTOTrainer:
    """Builds the trainer of a run, ready to start or to resume from its last checkpoint."""
    run = PostTraining("preferences", script_args, training_args, model_args, OF_PREFERENCES, ("rewards/margins",))
    pairs, validation = load_pairs(run, script_args.preferences, evaluates(training_args))
    rows = unpaired(pairs, training_args.seed)
    validation = None if validation is None else unpaired(validation, training_args.seed)
    trainer = build(ElmKTOTrainer, run, rows, validation, UnpairedCollator)
    trainer.accelerator.print(f"Trainable parameters: {trainer.trained_in_words()}, {len(rows)} answers")
    return trainer


if __name__ == "__main__":
    main()
