"""
Trains an ELM on pairs of answers with TRL's `DPOTrainer` (Rafailov et al. 2023). `elm-hf train dpo` is the same program on
one process.

    elm-hf evaluate trained --dataset my-dataset --split train --condition ecg --temperature 1 --allow-seen-patients \
        --output sampled
    elm-hf prepare preferences --predictions sampled --output pairs.jsonl
    accelerate launch -m elm_hf.training.dpo --model_name_or_path trained --dataset my-dataset --preferences pairs.jsonl \
        --output_dir preferred --trainable projector llm --use_peft
"""

from collections.abc import Sequence

from transformers import AutoConfig, PreTrainedConfig
from trl import DPOConfig, DPOTrainer, ModelConfig, TrlParser

from elm_hf.modeling.modeling_elm import ElmForCausalLM
from elm_hf.training.arguments import PreferenceArguments
from elm_hf.training.checks import set_max_length
from elm_hf.training.parts import load_model
from elm_hf.training.post_training import PostTraining
from elm_hf.training.preference_data import PairCollator, load_pairs
from elm_hf.training.sft import train
from elm_hf.training.trainer import ElmTraining
from elm_hf.training.trl_options import OF_PREFERENCES
from elm_hf.training.validation import evaluates
from elm_hf.utils.errors import errors_in_one_line
from elm_hf.utils.recipes import with_recipe


ARGUMENTS = (PreferenceArguments, DPOConfig, ModelConfig)


class ElmDPOTrainer(ElmTraining, DPOTrainer):
    """TRL's `DPOTrainer` for rows whose text and ECGs the collator prepares."""

    def _prepare_dataset(self, dataset, *args, **kwargs):
        return dataset


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Trains and saves a model, and pushes it to the Hub if requested.

    Args:
        arguments: command-line arguments. Defaults to those of this process.
    """
    with errors_in_one_line("elm-hf train dpo"):
        trainer = build_trainer(*parse(arguments))
    train(trainer)


def parse(arguments: Sequence[str] | None = None) -> tuple:
    """Parses arguments into instances of `ARGUMENTS`; `--config` takes a YAML file or the name of a recipe."""
    return TrlParser(ARGUMENTS).parse_args_and_config(with_recipe(arguments))


def build_trainer(
    script_args: PreferenceArguments, training_args: DPOConfig, model_args: ModelConfig
) -> ElmDPOTrainer:
    """Builds the trainer of a run, ready to start or to resume from its last checkpoint."""
    metrics = ("rewards/margins", "rewards/accuracies")
    run = PostTraining("preferences", script_args, training_args, model_args, OF_PREFERENCES, metrics)
    pairs, validation = load_pairs(run, script_args.preferences, evaluates(training_args))
    set_max_length(training_args, pairs, run.processor, config_of(model_args))
    model, learning, peft_config = load_model(script_args.trainable, training_args, model_args)
    training_args.include_num_input_tokens_seen = "non_padding"  # for costs.json
    trainer = ElmDPOTrainer(
        model=model,
        ref_model=reference_model(model_args) if peft_config is None else None,
        args=training_args,
        data_collator=PairCollator(run.processor, training_args.max_length),
        train_dataset=pairs,
        eval_dataset=validation,
        processing_class=run.processor,
        peft_config=peft_config,
        **run.trainer_arguments(learning, len(pairs)),
    )
    trainer.accelerator.print(f"Trainable parameters: {trainer.trained_in_words()}, {len(pairs)} pairs")
    return trainer


def config_of(model_args: ModelConfig) -> PreTrainedConfig:
    """The configuration of the checkpoint that training starts from."""
    return AutoConfig.from_pretrained(model_args.model_name_or_path, revision=model_args.model_revision)


def reference_model(model_args: ModelConfig) -> ElmForCausalLM:
    """The model before this training, with which the trained one is compared. An adapter is switched off instead."""
    model = ElmForCausalLM.from_pretrained(
        model_args.model_name_or_path,
        revision=model_args.model_revision,
        dtype=model_args.dtype,
        use_safetensors=True,
        attn_implementation=model_args.attn_implementation,
    )
    return model.requires_grad_(False).eval()


if __name__ == "__main__":
    main()
