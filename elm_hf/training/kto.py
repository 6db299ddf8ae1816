"""
Trains an ELM on single answers, marked as good or bad, with TRL's `KTOTrainer` (Ethayarajh et al. 2024). `elm-hf train kto`
is the same program on one process. It takes the pairs of `elm-hf train dpo` apart.

    accelerate launch -m elm_hf.training.kto --model_name_or_path trained --dataset my-dataset --preferences pairs.jsonl \
        --output_dir preferred --trainable projector llm --use_peft
"""

from collections.abc import Sequence

from trl import KTOConfig, KTOTrainer, ModelConfig, TrlParser

from elm_hf.training.arguments import PreferenceArguments
from elm_hf.training.checks import set_max_length
from elm_hf.training.dpo import config_of, reference_model
from elm_hf.training.parts import load_model
from elm_hf.training.post_training import PostTraining
from elm_hf.training.preference_data import UnpairedCollator, load_pairs, unpaired
from elm_hf.training.sft import train
from elm_hf.training.trainer import ElmTraining
from elm_hf.training.trl_options import OF_PREFERENCES
from elm_hf.training.validation import evaluates
from elm_hf.utils.errors import errors_in_one_line
from elm_hf.utils.recipes import with_recipe


ARGUMENTS = (PreferenceArguments, KTOConfig, ModelConfig)


class ElmKTOTrainer(ElmTraining, KTOTrainer):
    """TRL's `KTOTrainer` for rows whose text and ECGs the collator prepares."""

    def _prepare_dataset(self, dataset, *args, **kwargs):
        return dataset


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Trains and saves a model, and pushes it to the Hub if requested.

    Args:
        arguments: command-line arguments. Defaults to those of this process.
    """
    with errors_in_one_line("elm-hf train kto"):
        trainer = build_trainer(*parse(arguments))
    train(trainer)


def parse(arguments: Sequence[str] | None = None) -> tuple:
    """Parses arguments into instances of `ARGUMENTS`; `--config` takes a YAML file or the name of a recipe."""
    return TrlParser(ARGUMENTS).parse_args_and_config(with_recipe(arguments))


def build_trainer(
    script_args: PreferenceArguments, training_args: KTOConfig, model_args: ModelConfig
) -> ElmKTOTrainer:
    """Builds the trainer of a run, ready to start or to resume from its last checkpoint."""
    run = PostTraining("preferences", script_args, training_args, model_args, OF_PREFERENCES, ("rewards/margins",))
    pairs, validation = load_pairs(run, script_args.preferences, evaluates(training_args))
    set_max_length(training_args, pairs, run.processor, config_of(model_args))
    rows = unpaired(pairs, training_args.seed)
    model, learning, peft_config = load_model(script_args.trainable, training_args, model_args)
    training_args.include_num_input_tokens_seen = "non_padding"  # for costs.json
    trainer = ElmKTOTrainer(
        model=model,
        ref_model=reference_model(model_args) if peft_config is None else None,
        args=training_args,
        data_collator=UnpairedCollator(run.processor, training_args.max_length),
        train_dataset=rows,
        eval_dataset=None if validation is None else unpaired(validation, training_args.seed),
        processing_class=run.processor,
        peft_config=peft_config,
        **run.trainer_arguments(learning, len(rows)),
    )
    trainer.accelerator.print(f"Trainable parameters: {trainer.trained_in_words()}, {len(rows)} answers")
    return trainer


if __name__ == "__main__":
    main()
