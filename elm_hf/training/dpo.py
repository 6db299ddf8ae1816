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

from datasets import Dataset
from transformers import AutoConfig
from trl import DPOConfig, DPOTrainer, ModelConfig

from elm_hf.modeling.modeling_elm import ElmForCausalLM
from elm_hf.training.arguments import PreferenceArguments
from elm_hf.training.checks import set_max_length
from elm_hf.training.parts import load_model, load_reference
from elm_hf.training.post_training import PostTraining
from elm_hf.training.preference_data import AnswerCollator, PairCollator, load_pairs
from elm_hf.training.sft import run_program
from elm_hf.training.shared_prompts import SharedPrompts, can_share_prompts
from elm_hf.training.trainer import ElmTraining
from elm_hf.training.trl_options import OF_PREFERENCES
from elm_hf.training.validation import evaluates


ARGUMENTS = (PreferenceArguments, DPOConfig, ModelConfig)
METRICS = ("rewards/margins", "rewards/accuracies")


class PreferenceTraining(ElmTraining):
    """Mix-in of TRL's trainers on preferences, for rows whose text and ECGs the collator prepares."""

    def _prepare_dataset(self, dataset: Dataset, *args, **kwargs) -> Dataset:
        return dataset


class ElmDPOTrainer(PreferenceTraining, DPOTrainer):
    """
    TRL's `DPOTrainer`, which learns with the ECGs, and computes the prompt of each pair once ([`SharedPrompts`]).

    Args:
        model, ref_model: the ELM and the one that it is compared with.
        args: arguments of the run.
        data_collator: collator of pairs.
        kwargs: arguments of [`ElmTraining`] and of TRL's trainer.
    """

    def __init__(
        self,
        model: ElmForCausalLM,
        ref_model: ElmForCausalLM | None,
        args: DPOConfig,
        data_collator: PairCollator,
        **kwargs,
    ):
        data_collator.shares_prompts = can_share_prompts(model)
        for each in (model, ref_model):
            if each is not None:
                SharedPrompts(each.model)
        super().__init__(model=model, ref_model=ref_model, args=args, data_collator=data_collator, **kwargs)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the program ([`run_program`])."""
    run_program("elm-hf train dpo", ARGUMENTS, build_trainer, arguments)


def build_trainer(
    script_args: PreferenceArguments, training_args: DPOConfig, model_args: ModelConfig
) -> ElmDPOTrainer:
    """Builds the trainer of a run, ready to start or to resume from its last checkpoint."""
    run = PostTraining("preferences", script_args, training_args, model_args, OF_PREFERENCES, METRICS)
    pairs, validation = load_pairs(run, script_args.preferences, evaluates(training_args))
    trainer = build(ElmDPOTrainer, run, pairs, validation, PairCollator)
    trainer.accelerator.print(f"Trainable parameters: {trainer.trained_in_words()}, {len(pairs)} pairs")
    return trainer


def build(
    trainer_class: type[PreferenceTraining],
    run: PostTraining,
    rows: Dataset,
    validation: Dataset | None,
    collator_class: type[AnswerCollator],
) -> PreferenceTraining:
    """
    Builds a trainer on preferences.

    Args:
        trainer_class: class of the trainer.
        run: the run.
        rows, validation: rows of the training and the validation patients.
        collator_class: class of the collator of these rows.
    """
    args, model_args = run.training_args, run.model_args
    config = AutoConfig.from_pretrained(model_args.model_name_or_path, revision=model_args.model_revision)
    set_max_length(args, rows, run.processor, config)
    model, learning, peft_config = load_model(run.script_args.trainable, args, model_args)
    args.include_num_input_tokens_seen = "non_padding"  # for costs.json
    if args.ddp_find_unused_parameters is None:  # a process may have questions without ECGs
        args.ddp_find_unused_parameters = True
    return trainer_class(
        model=model,
        ref_model=load_reference(model_args) if peft_config is None else None,  # an adapter is switched off instead
        args=args,
        data_collator=collator_class(run.processor, args.max_length),
        train_dataset=rows,
        eval_dataset=validation,
        processing_class=run.processor,
        peft_config=peft_config,
        **run.trainer_arguments(learning, len(rows)),
    )


if __name__ == "__main__":
    main()
